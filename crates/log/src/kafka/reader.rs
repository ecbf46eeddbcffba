//! Follows partitions: each is fetched ahead into a queue of its own, from the offset that
//! the reader gives.

use bytes::Bytes;
use rdkafka::consumer::{Consumer as _, base_consumer::PartitionQueue};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{self, Context};
use super::cluster::Cluster;
use super::faults::BrokerFault;
use super::source::Source;
use crate::error::Error;
use crate::fetch::{Fetch, FetchBatch};
use crate::record::{Headers, Record, TopicPartition};
use askwhen_process::thread::Notify;

/// A transaction that holds records back for longer than this is not just ending.
const HELD_TOO_LONG: Duration = Duration::from_secs(10);
/// How long, and how often, records that could not be fetched are fetched once more: a batch
/// may have been harmed on its way, and a broker that has just started refuse its own offsets.
const FETCH_AGAIN_PAUSE: Duration = Duration::from_millis(20);
const FETCH_AGAIN_TURNS: usize = 100;
/// Readers that build state: they must not continue after lost records.
const OWNERS: [&str; 2] = ["engine", "delivery"];

/// Why records of a partition cannot be read.
enum ReadFault {
    Certain(Error),
    /// A fault of the way, or of a broker that has just started: another fetch shows which.
    MayPass(Error),
}

impl From<ReadFault> for Error {
    fn from(fault: ReadFault) -> Error {
        let (ReadFault::Certain(error) | ReadFault::MayPass(error)) = fault;
        error
    }
}

/// A partition that is being followed.
struct Follow {
    queue: PartitionQueue<Context>,
    next: u64,
    /// Whether there may be something in the queue.
    filled: Arc<AtomicBool>,
    at_end: bool,
    /// The error that follows the records that were returned last.
    failed: Option<KafkaError>,
    /// Since when an open transaction holds records back.
    held_since: Option<Instant>,
}

pub struct KafkaReader {
    cluster: Arc<Cluster>,
    purpose: &'static str,
    notify: Arc<Notify>,
    /// Opened with the first partition.
    source: Option<Arc<Source>>,
    following: BTreeMap<TopicPartition, Follow>,
}

impl KafkaReader {
    pub fn new(cluster: Arc<Cluster>, purpose: &'static str, notify: Arc<Notify>) -> KafkaReader {
        KafkaReader { cluster, purpose, notify, source: None, following: BTreeMap::new() }
    }

    fn poll(&mut self, at: TopicPartition, max_bytes: usize) -> Result<FetchBatch, ReadFault> {
        let follow = self.following.get_mut(&at).expect("just taken up");
        let mut records = Vec::new();
        let mut bytes = 0;
        if follow.failed.is_none() && follow.filled.swap(false, Ordering::AcqRel) {
            loop {
                if bytes >= max_bytes {
                    follow.filled.store(true, Ordering::Release);
                    break;
                }
                match follow.queue.poll(Duration::ZERO) {
                    None => break,
                    Some(Ok(message)) => {
                        let record = record(&message);
                        if record.offset < follow.next {
                            continue;
                        }
                        follow.next = record.offset + 1;
                        follow.at_end = false;
                        bytes += record.len_bytes().max(1);
                        records.push(record);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => follow.at_end = true,
                    Some(Err(error)) => {
                        follow.failed = Some(error);
                        break;
                    }
                }
            }
        }
        // The records before it are returned first.
        if records.is_empty()
            && let Some(error) = follow.failed.take()
        {
            let from = follow.next;
            return Err(self.fault(at, from, &error));
        }
        if follow.failed.is_some() {
            self.notify.notify();
        }
        let (next, at_end) = (follow.next, follow.at_end);
        if at_end || !records.is_empty() {
            self.cluster.health.faults.allowed("topic", self.cluster.name(at.topic), "READ");
        }
        let end = self.end(at, next, at_end);
        Ok(FetchBatch { records, end, at_end })
    }

    /// The end of a partition. Records that an open transaction holds back are behind the
    /// readable end, and count all the same.
    fn end(&mut self, at: TopicPartition, next: u64, at_end: bool) -> u64 {
        let name = self.cluster.name(at.topic);
        let known = self.source.as_ref().and_then(|source| source.consumer().context().end(name, at.partition as i32));
        let held = known.filter(|known| at_end && known.stable < known.end && known.end > next);
        let Some(follow) = self.following.get_mut(&at) else { return next };
        let fault = BrokerFault::OpenTransaction { purpose: self.purpose, at };
        let Some(known) = held else {
            if follow.held_since.take().is_some() {
                self.cluster.health.faults.over(&fault);
            }
            return if at_end { next } else { known.map_or(0, |known| known.end).max(next) };
        };
        let since = *follow.held_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= HELD_TOO_LONG {
            let text = format!(
                "a transaction of another producer stays open in topic {name}: {at} cannot be read from {} on, and has \
                 records up to {}. End it (kafka-transactions find-hanging, abort), or its producer",
                known.stable, known.end
            );
            self.cluster.health.faults.report(fault, text);
        }
        known.end
    }

    fn take_up(&mut self, at: TopicPartition, from: u64) -> Result<(), Error> {
        let source = match &self.source {
            Some(source) => source.clone(),
            None => self.source.insert(self.cluster.source(self.purpose)?).clone(),
        };
        source.claim(at)?;
        let assigned = self.assign(&source, at, from);
        if assigned.is_err() {
            source.free(at);
        }
        assigned
    }

    fn assign(&mut self, source: &Source, at: TopicPartition, from: u64) -> Result<(), Error> {
        let (name, partition) = (self.cluster.name(at.topic), at.partition as i32);
        // Before the first fetch, so that nothing goes to the shared queue.
        let queue = source.consumer().split_partition_queue(name, partition);
        let mut queue = queue.ok_or_else(|| Error::Unavailable(format!("{at} cannot be followed")))?;
        let filled = Arc::new(AtomicBool::new(true));
        let (mark, notify) = (filled.clone(), self.notify.clone());
        queue.set_nonempty_callback(move || {
            mark.store(true, Ordering::Release);
            notify.notify();
        });
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, partition, Offset::Offset(from as i64)).map_err(client::unavailable)?;
        source.consumer().incremental_assign(&list).map_err(client::unavailable)?;
        self.following.insert(at, Follow { queue, next: from, filled, at_end: false, failed: None, held_since: None });
        Ok(())
    }

    /// Stops following a partition.
    pub fn leave(&mut self, at: TopicPartition) {
        let (Some(source), Some(follow)) = (&self.source, self.following.remove(&at)) else { return };
        let mut list = TopicPartitionList::new();
        list.add_partition(self.cluster.name(at.topic), at.partition as i32);
        if let Err(error) = source.consumer().incremental_unassign(&list) {
            tracing::warn!(%at, %error, "a partition could not be left");
        }
        if follow.held_since.is_some() {
            self.cluster.health.faults.over(&BrokerFault::OpenTransaction { purpose: self.purpose, at });
        }
        drop(follow);
        source.free(at);
    }

    /// Fetches with a consumer of its own. Behind a damaged batch librdkafka asks for an offset
    /// that nobody gave it, and the broker's refusal may come after the partition has been
    /// taken up again, which it then stops.
    fn fetch_again(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        let mut own = KafkaReader::new(self.cluster.clone(), self.purpose, Arc::default());
        own.source = Some(Arc::new(self.cluster.own_source(self.purpose)?));
        own.take_up(at, from)?;
        for _ in 0..FETCH_AGAIN_TURNS {
            std::thread::sleep(FETCH_AGAIN_PAUSE);
            let batch = own.poll(at, max_bytes)?;
            if batch.at_end || !batch.records.is_empty() {
                return Ok(batch);
            }
        }
        Err(Error::Unavailable(format!("{at} cannot be read again from {from} on")))
    }

    fn fault(&self, at: TopicPartition, from: u64, error: &KafkaError) -> ReadFault {
        let lost = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
        );
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
            self.cluster.health.faults.denied("topic", self.cluster.name(at.topic), "READ");
        }
        if let Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) = error.rdkafka_error_code() {
            return ReadFault::MayPass(Error::Damaged {
                at,
                offset: from,
                file: format!("topic {}", self.cluster.name(at.topic)),
                detail: format!("the broker that leads it gives bytes that are not those that were written ({error})"),
            });
        }
        let unavailable = Error::Unavailable(format!("{at} cannot be read from {from} on: {error}"));
        if !lost {
            return ReadFault::Certain(unavailable);
        }
        match self.cluster.offsets.all_bounds(&[at]) {
            Ok(bounds) if from < bounds[0].start => {
                ReadFault::Certain(Error::Trimmed { at, offset: from, start: bounds[0].start })
            }
            Ok(bounds) if from > bounds[0].end => ReadFault::Certain(Error::Refused(format!(
                "{at} ends at {} and {from} was asked for: the log has lost its end",
                bounds[0].end
            ))),
            // The broker has this offset.
            _ => ReadFault::MayPass(unavailable),
        }
    }
}

impl Fetch for KafkaReader {
    fn notify(&self) -> &Notify {
        &self.notify
    }

    fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        if OWNERS.contains(&self.purpose) {
            self.cluster.must_be_complete(|lost| lost == at)?;
        }
        if self.following.get(&at).is_none_or(|follow| follow.next != from) {
            self.leave(at);
            self.take_up(at, from)?;
        }
        let polled = match self.poll(at, max_bytes) {
            Err(ReadFault::MayPass(_)) => {
                self.leave(at);
                self.fetch_again(at, from, max_bytes)
            }
            polled => polled.map_err(Error::from),
        };
        if polled.is_err() {
            // Whatever the error was, the next read begins anew.
            self.leave(at);
        }
        polled
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        for at in self.following.keys().copied().collect::<Vec<_>>() {
            self.leave(at);
        }
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let mut headers = Headers::new();
    if let Some(given) = message.headers() {
        for header in given.iter() {
            headers.push((
                Bytes::copy_from_slice(header.key.as_bytes()),
                Bytes::copy_from_slice(header.value.unwrap_or_default()),
            ));
        }
    }
    let key = message.key().map(Bytes::copy_from_slice);
    let value = message.payload().map(Bytes::copy_from_slice);
    Record {
        offset: message.offset().unsigned_abs(),
        appended_at: message.timestamp().to_millis().unwrap_or(0),
        crc: checksum(key.as_deref(), &headers, value.as_deref()),
        key,
        headers,
        value,
    }
}

/// A checksum that identifies a record; Kafka's own are those of batches.
pub(super) fn checksum(key: Option<&[u8]>, headers: &Headers, value: Option<&[u8]>) -> u32 {
    let part = |crc: u32, bytes: Option<&[u8]>| {
        let length = bytes.map_or(u64::MAX, |b| b.len() as u64);
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &length.to_be_bytes()), bytes.unwrap_or_default())
    };
    let crc = headers.iter().fold(part(0, key), |crc, (name, given)| part(part(crc, Some(name)), Some(given)));
    part(crc, value)
}
