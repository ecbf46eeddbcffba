//! The log port: topics of partitions of records, appended and read in order.
//! A closed set of implementations. Nothing in here knows what a record means.

mod ack;
pub mod disk;
pub mod embedded;
mod error;
mod fetch;
pub mod frame;
pub mod kafka;
mod reader;
mod record;
pub mod simulated;

use std::sync::Arc;
use std::time::Duration;

use askwhen_domain::time::Millis;
use askwhen_process::thread::Notify;
use askwhen_wire::topic::Topic;

pub use ack::Ack;
pub use embedded::{DiskClaim, Embedded};
pub use error::{Class, Error};
pub use fetch::{Fetch, FetchBatch};
pub use kafka::{GroupFence, Kafka, Lease, LeaseChange, Membership};
pub use reader::{LocalLog, LocalReader, Reader};
pub use record::{AppendedRange, Headers, NewRecord, Record, TopicPartition, Watermarks};
pub use simulated::{AppendQueue, Simulated};

#[derive(Debug, Clone)]
pub enum Log {
    Embedded(Arc<Embedded>),
    Kafka(Arc<Kafka>),
    Simulated(Arc<Simulated>),
}

/// What reading all of a partition gives at a time.
const SCAN_BYTES: usize = 1 << 20;

/// So many offsets at the end of a partition hold a record, if it holds any.
const LAST_RECORDS: u64 = 16;

/// A disk that hangs keeps no request waiting for longer. Brokers that hang are
/// given up a little earlier, by the client library.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Log {
    /// Made once with the log.
    pub fn incarnation(&self) -> u128 {
        match self {
            Log::Embedded(log) => log.incarnation(),
            Log::Kafka(log) => log.incarnation(),
            Log::Simulated(log) => log.incarnation(),
        }
    }

    /// Whether every MAC of this log's records names log and partition: it was
    /// founded by a version that makes no others.
    pub fn binds_macs(&self) -> bool {
        match self {
            Log::Embedded(log) => log.binds_macs(),
            Log::Kafka(log) => log.binds_macs(),
            Log::Simulated(log) => log.binds_macs(),
        }
    }

    /// Whether a process of a version before this one may still write to this
    /// log's journal. May block for a round trip to a broker.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub fn has_older_writers(&self) -> Result<bool, Error> {
        match self {
            Log::Kafka(log) => log.has_older_members(),
            _ => Ok(false),
        }
    }

    /// Below this offset a partition of the journal was brought from another
    /// log and has had its effect there: state is never begun before it.
    pub fn begins(&self, partition: u32) -> u64 {
        match self {
            Log::Kafka(log) => log.begins(partition),
            _ => 0,
        }
    }

    pub fn partitions(&self) -> u32 {
        match self {
            Log::Embedded(log) => log.partitions(),
            Log::Kafka(log) => log.partitions(),
            Log::Simulated(log) => log.partitions(),
        }
    }

    /// Appends records to one partition, in order. For the runtimes of partitions: it goes on
    /// trying until the log has them, so that nothing is ever left out before
    /// something that came later.
    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        match self {
            Log::Embedded(log) => log.append(at, records, ack),
            Log::Kafka(log) => log.append(at, records, ack),
            Log::Simulated(log) => log.append(at, records, ack),
        }
    }

    /// Appends and waits until all is durable. For requests: it gives up after
    /// [`REQUEST_TIMEOUT`], in time for an answer. What was appended by then may
    /// become durable later.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub async fn append_durably(&self, at: TopicPartition, records: Vec<NewRecord>) -> Result<AppendedRange, Error> {
        askwhen_process::fault::point("parsed");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        match self {
            Log::Kafka(log) => log.append_in_time(at, records, Ack::Once(sender)),
            _ => self.append(at, records, Ack::Once(sender)),
        }
        let appended = match tokio::time::timeout(REQUEST_TIMEOUT, receiver).await {
            Ok(Ok(appended)) => appended,
            // Whoever had it has gone without a word.
            Ok(Err(_)) => Err(Error::Unknown("nobody answered for the record".into())),
            Err(_) => Err(Error::Unknown("the log has not answered in time".into())),
        };
        askwhen_process::fault::point("acked");
        appended
    }

    /// Appends a record that nobody misses should it be lost: an answer.
    pub fn tell(&self, at: TopicPartition, record: NewRecord) {
        match self {
            Log::Kafka(log) => log.tell(at, record),
            _ => {
                let (sender, _) = tokio::sync::oneshot::channel();
                self.append(at, vec![record], Ack::Once(sender));
            }
        }
    }

    /// Durable records from an offset on: at least one if there is one, and no
    /// more than about `max_bytes`. Whoever reads on and on takes a [`Reader`].
    /// May block for a round trip to a broker.
    ///
    /// # Errors
    /// When the offset was trimmed away, or what is there is damaged.
    pub fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        match self {
            Log::Embedded(log) => log.read(at, from, max_bytes),
            Log::Kafka(log) => log.read(at, from, max_bytes),
            Log::Simulated(log) => log.read(at, from, max_bytes),
        }
    }

    /// Follows partitions for one purpose; what it gives comes when it comes,
    /// and a notification comes then.
    pub fn reader(&self, purpose: &'static str, notify: Arc<Notify>) -> Reader {
        match self {
            Log::Embedded(log) => Reader::Local(LocalReader::new(LocalLog::Embedded(log.clone()), notify)),
            Log::Kafka(log) => Reader::Kafka(log.reader(purpose, notify)),
            Log::Simulated(log) => Reader::Local(LocalReader::new(LocalLog::Simulated(log.clone()), notify)),
        }
    }

    /// Hands all records from an offset up to an end that was seen to `each`.
    /// Blocks until it is through.
    ///
    /// # Errors
    /// As [`Log::read`], and what `each` says.
    pub fn scan<E: From<Error>>(
        &self,
        at: TopicPartition,
        from: u64,
        end: u64,
        each: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        self.reader("scan", Arc::default()).scan(at, from, end, each)
    }

    /// The bounds as they are now. May block for a round trip to a broker.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub fn bounds(&self, at: TopicPartition) -> Result<Watermarks, Error> {
        match self {
            Log::Embedded(log) => Ok(log.bounds(at)),
            Log::Kafka(log) => Ok(log.all_bounds(&[at])?[0]),
            Log::Simulated(log) => Ok(log.bounds(at)),
        }
    }

    /// The bounds of several partitions, in as few round trips as can be.
    ///
    /// # Errors
    /// As [`Log::bounds`].
    pub fn all_bounds(&self, all: &[TopicPartition]) -> Result<Vec<Watermarks>, Error> {
        match self {
            Log::Kafka(log) => log.all_bounds(all),
            _ => all.iter().map(|at| self.bounds(*at)).collect(),
        }
    }

    /// Forgets records below an offset, as far as the log can do so cheaply.
    ///
    /// # Errors
    /// When files cannot be removed, or a broker refuses.
    pub fn trim(&self, at: TopicPartition, below: u64) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.trim(at, below),
            Log::Kafka(log) => log.trim(at, below),
            Log::Simulated(log) => {
                log.trim(at, below);
                Ok(())
            }
        }
    }

    /// The first offset whose record was appended at `time` or later.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn offset_at(&self, at: TopicPartition, time: Millis) -> Result<u64, Error> {
        if let Log::Kafka(log) = self {
            return log.offset_at(at, time);
        }
        let bounds = self.bounds(at)?;
        let (mut low, mut high) = (bounds.start, bounds.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.read(at, middle, 1)?.first() {
                Some(record) if record.appended_at < time => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// When the newest record of the journal was appended, by the log's word; `None` when
    /// it holds none.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn newest_append(&self) -> Result<Option<Millis>, Error> {
        let all: Vec<TopicPartition> =
            (0..self.partitions()).map(|partition| TopicPartition { topic: Topic::Events, partition }).collect();
        let mut newest = None;
        for (at, bounds) in all.iter().zip(self.all_bounds(&all)?) {
            if bounds.start < bounds.end {
                // The last offset may be no record, but a transaction's end.
                let from = bounds.end.saturating_sub(LAST_RECORDS).max(bounds.start);
                let read = self.read(*at, from, SCAN_BYTES)?;
                newest = newest.max(read.iter().map(|record| record.appended_at).max());
            }
        }
        Ok(newest)
    }

    /// Whether an append has a chance right now.
    ///
    /// # Errors
    /// Why not; [`Class::Unknown`] means never again in this process.
    pub fn is_writable(&self) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.is_writable(),
            Log::Kafka(log) => log.is_writable(),
            Log::Simulated(_) => Ok(()),
        }
    }

    /// Bytes that wait in this process to be written, and those of its newest records; on Kafka its client does
    /// not say.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Log::Embedded(log) => log.memory_bytes(),
            Log::Kafka(_) | Log::Simulated(_) => 0,
        }
    }

    /// Refuses to go on with a partition that has lost records while the log was
    /// used: a topic was deleted and made again.
    ///
    /// # Errors
    /// [`Error::Lost`], with what is lost.
    pub fn is_complete(&self, partition: u32) -> Result<(), Error> {
        match self {
            Log::Kafka(log) => log.is_complete(partition),
            _ => Ok(()),
        }
    }

    /// Whether topic `definitions` has lost records while the log was used: whoever
    /// has their state writes them again.
    pub fn has_lost_definitions(&self) -> bool {
        match self {
            Log::Kafka(log) => log.has_lost_definitions(),
            _ => false,
        }
    }

    /// They have been written again.
    ///
    /// # Errors
    /// When the log does not take its own identity again.
    pub fn definitions_are_back(&self) -> Result<(), Error> {
        match self {
            Log::Kafka(log) => log.definitions_are_back(),
            _ => Ok(()),
        }
    }

    /// The key of a log's identity was read from topic `definitions`.
    pub fn identity_seen(&self, key: &str) {
        if let Log::Kafka(log) = self {
            log.identity_seen(key);
        }
    }

    /// What is wrong with the topics, and with what the brokers let this process
    /// do: reasons against readiness.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Log::Kafka(log) => log.faults(),
            _ => Vec::new(),
        }
    }

    /// Partitions of the journal beyond those that the log was made with, which are this
    /// process's to empty. Only brokers have any.
    pub fn surplus(&self) -> Vec<u32> {
        match self {
            Log::Kafka(log) => log.surplus(),
            _ => Vec::new(),
        }
    }

    /// Room on the log's disk for a store beside it. On Kafka the brokers have
    /// disks of their own, and every claim holds.
    pub fn claim(&self) -> DiskClaim {
        match self {
            Log::Embedded(log) => log.claim(),
            Log::Kafka(_) | Log::Simulated(_) => DiskClaim::default(),
        }
    }

    /// Partitions that this process owns, as they come and go. The embedded
    /// log gives all of them, once.
    ///
    /// # Errors
    /// When the group cannot be joined.
    pub fn lease(&self, purpose: &'static str, topic: Topic) -> Result<Lease, Error> {
        match self {
            Log::Kafka(log) => log.lease(purpose, topic),
            _ => Ok(Lease::of_all(self.partitions())),
        }
    }
}
