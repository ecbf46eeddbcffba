//! Appends batches; a batch is acknowledged when all of its records are.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::{self, Context, Health};
use super::faults::DEFINITIONS;
use super::settings::{REQUEST_BYTES, REQUEST_TIMEOUT_MS, Settings};
use crate::ack::Ack;
use crate::error::Error;
use crate::record::{AppendedRange, NewRecord, TopicPartition};
use askwhen_domain::time::Millis;

/// When acknowledgements take this long while records wait, the brokers hang.
const STALLED: Duration = Duration::from_millis(1_500);
/// The largest record that brokers accept; the topics are created with it.
pub const MAX_RECORD_BYTES: u32 = 4 << 20;

pub struct Producer {
    native: ThreadedProducer<Sent>,
    load: Arc<Load>,
    /// The bound of bytes under way, beyond which appends are refused; `None` for
    /// partitions, which bound themselves.
    max_bytes: Option<usize>,
}

/// Records and bytes under way.
struct Load {
    since: Instant,
    bytes: AtomicUsize,
    /// When it last changed, in milliseconds since `since`.
    moved_ms: AtomicU64,
}

impl Load {
    fn moves(&self) {
        self.moved_ms.store(self.since.elapsed().as_millis() as u64, Ordering::Release);
    }

    fn stalled(&self) -> bool {
        let still = (self.since.elapsed().as_millis() as u64).saturating_sub(self.moved_ms.load(Ordering::Acquire));
        self.bytes.load(Ordering::Acquire) > 0 && u128::from(still) > STALLED.as_millis()
    }
}

/// An append of several records, some of which may not be acknowledged yet.
pub struct Batch {
    at: TopicPartition,
    waiting: AtomicUsize,
    first: AtomicU64,
    end: AtomicU64,
    failed: Mutex<Option<Error>>,
    ack: Mutex<Option<Ack>>,
    since: Instant,
    bytes: usize,
    load: Arc<Load>,
}

impl Batch {
    fn one_done(&self, outcome: Result<u64, Error>) {
        match outcome {
            Ok(offset) => {
                self.first.fetch_min(offset, Ordering::AcqRel);
                self.end.fetch_max(offset + 1, Ordering::AcqRel);
                self.load.moves();
            }
            Err(error) => {
                self.failed.lock().expect("no panic holds this lock").get_or_insert(error);
            }
        }
        self.count_down();
    }

    /// The last acknowledgement completes the batch.
    fn count_down(&self) {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        self.load.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        askwhen_process::metrics::get().log_append_seconds.observe(self.since.elapsed().as_secs_f64());
        let outcome = match self.failed.lock().expect("no panic holds this lock").take() {
            Some(error) => Err(error),
            None => {
                Ok(AppendedRange { first: self.first.load(Ordering::Acquire), end: self.end.load(Ordering::Acquire) })
            }
        };
        if let Some(ack) = self.ack.lock().expect("no panic holds this lock").take() {
            ack.send(outcome);
        }
    }
}

/// Passes delivery reports on to their batches.
pub struct Sent {
    context: Context,
    /// By partition, the offset of its last acknowledged record: a later record must have a
    /// higher one, or the partition was made anew.
    last: Mutex<BTreeMap<TopicPartition, u64>>,
}

impl Sent {
    fn acknowledged(&self, at: TopicPartition, name: &str, offset: i64) -> Result<u64, Error> {
        // A duplicate that the broker already had is reported without an offset.
        let Ok(offset) = u64::try_from(offset) else { return Ok(0) };
        let faults = &self.context.health().faults;
        let before = self.last.lock().expect("no panic holds this lock").insert(at, offset);
        faults.allowed("topic", name, "WRITE");
        match before {
            Some(before) if offset <= before => {
                faults.lost(at, name, before + 1, offset + 1);
                faults.must_be_complete(|lost| lost == at && at != DEFINITIONS).map(|()| offset)
            }
            _ => Ok(offset),
        }
    }

    /// The error of a record that was not acknowledged.
    fn refused(&self, name: &str, error: &KafkaError) -> Error {
        let denied = Some(RDKafkaErrorCode::TopicAuthorizationFailed);
        let code = error.rdkafka_error_code();
        if code == denied {
            self.context.health().faults.denied("topic", name, "WRITE");
        }
        let refused = [
            denied,
            Some(RDKafkaErrorCode::MessageSizeTooLarge),
            Some(RDKafkaErrorCode::ClusterAuthorizationFailed),
            Some(RDKafkaErrorCode::InvalidRecord),
        ];
        if refused.contains(&code) {
            return Error::Refused(format!("the brokers refuse a record: {error}"));
        }
        self.context.health().went_away(&error.to_string());
        Error::Unknown(error.to_string())
    }
}

impl ClientContext for Sent {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext for Sent {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        use rdkafka::Message as _;
        batch.one_done(match result {
            Ok(message) => self.acknowledged(batch.at, message.topic(), message.offset()),
            Err((error, message)) => Err(self.refused(message.topic(), error)),
        });
    }
}

impl Producer {
    /// Never gives up: a record that timed out would leave a gap that later successes hide.
    pub fn patient(settings: &Settings, health: &Arc<Health>) -> Result<Producer, Error> {
        let ours = [("message.timeout.ms", "0"), ("linger.ms", "2")];
        Producer::open(settings, health, "actors", &ours, None)
    }

    /// Gives up in time for an answer, and bounds the bytes under way.
    pub fn hasty(settings: &Settings, health: &Arc<Health>) -> Result<Producer, Error> {
        let timeout = REQUEST_TIMEOUT_MS.to_string();
        let ours = [("message.timeout.ms", timeout.as_str()), ("request.timeout.ms", "2000"), ("linger.ms", "0.5")];
        Producer::open(settings, health, "requests", &ours, Some(REQUEST_BYTES))
    }

    fn open(
        settings: &Settings,
        health: &Arc<Health>,
        name: &'static str,
        ours: &[(&str, &str)],
        max_bytes: Option<usize>,
    ) -> Result<Producer, Error> {
        let largest = MAX_RECORD_BYTES.to_string();
        let standard = [
            ("compression.type", settings.compression.as_str()),
            ("queue.buffering.max.messages", "10000000"),
            ("queue.buffering.max.kbytes", "2097151"),
        ];
        let always = [("acks", "all"), ("enable.idempotence", "true"), ("message.max.bytes", largest.as_str())];
        let ours: Vec<(&str, &str)> = ours.iter().chain(&always).copied().collect();
        let config = client::config(settings, &standard, &ours);
        let sent = Sent { context: Context::new(name, health), last: Mutex::default() };
        let native = config.create_with_context(sent).map_err(client::unusable)?;
        let load = Arc::new(Load { since: Instant::now(), bytes: AtomicUsize::new(0), moved_ms: AtomicU64::new(0) });
        Ok(Producer { native, load, max_bytes })
    }

    pub fn is_writable(&self) -> Result<(), Error> {
        if self.load.stalled() {
            return Err(Error::Unavailable("the brokers do not acknowledge what they were sent".into()));
        }
        Ok(())
    }

    pub fn append(&self, topic: &str, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        self.append_stamped(topic, at, records.into_iter().map(|new| (new, None)).collect(), ack);
    }

    /// As [`Producer::append`], with given append times, for a topic that accepts them.
    pub fn append_stamped(&self, topic: &str, at: TopicPartition, records: Vec<(NewRecord, Option<Millis>)>, ack: Ack) {
        let bytes: usize = records.iter().map(|(new, _)| new.len_bytes()).sum();
        if self.max_bytes.is_some_and(|most| self.load.bytes.load(Ordering::Acquire) + bytes > most) {
            return ack.send(Err(Error::Overloaded));
        }
        if self.load.bytes.fetch_add(bytes, Ordering::AcqRel) == 0 {
            self.load.moves();
        }
        let batch = Arc::new(Batch {
            at,
            // One more, so that it is not complete before all records are handed over.
            waiting: AtomicUsize::new(records.len() + 1),
            first: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(0),
            failed: Mutex::default(),
            ack: Mutex::new(Some(ack)),
            since: Instant::now(),
            bytes,
            load: self.load.clone(),
        });
        for (new, stamp) in &records {
            let mut record: BaseRecord<'_, [u8], [u8], Arc<Batch>> =
                BaseRecord::with_opaque_to(topic, batch.clone()).partition(at.partition as i32);
            if let Some(stamp) = stamp {
                record = record.timestamp(*stamp);
            }
            if let Some(key) = &new.key {
                record = record.key(key);
            }
            if let Some(value) = &new.value {
                record = record.payload(value);
            }
            if !new.headers.is_empty() {
                let headers = OwnedHeaders::new_with_capacity(new.headers.len());
                record = record.headers(new.headers.iter().fold(headers, |headers, (name, value)| {
                    headers.insert(Header { key: std::str::from_utf8(name).unwrap_or("?"), value: Some(&value[..]) })
                }));
            }
            if let Err((error, record)) = self.native.send(record) {
                let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                    self.native.context().context.health().faults.denied("topic", topic, "WRITE");
                }
                let error = if full { Error::Overloaded } else { Error::Refused(error.to_string()) };
                record.delivery_opaque.one_done(Err(error));
            }
        }
        batch.count_down();
    }

    pub fn flush(&self) {
        if let Err(error) = self.native.flush(Duration::from_secs(5)) {
            tracing::warn!(%error, "records were still on their way to the brokers");
        }
    }
}
