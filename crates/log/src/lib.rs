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

pub use ack::{Ack, AckQueue, AckSender, Append, PendingAppend, Urgency};
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

/// Bytes that a scan reads at a time.
const SCAN_BYTES: usize = 1 << 20;

/// At least one of so many offsets at the end of a partition is a record, if it has any.
const LAST_RECORDS: u64 = 16;

/// How long a request waits for a disk that hangs. The client library gives up a little
/// earlier for brokers that hang.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

impl Log {
    /// A random number that identifies the log, made with it.
    pub fn incarnation(&self) -> u128 {
        match self {
            Log::Embedded(log) => log.incarnation(),
            Log::Kafka(log) => log.incarnation(),
            Log::Simulated(log) => log.incarnation(),
        }
    }

    /// Whether every MAC in this log names log and partition: it was founded by a version
    /// that makes no others.
    pub fn binds_macs(&self) -> bool {
        match self {
            Log::Embedded(log) => log.binds_macs(),
            Log::Kafka(log) => log.binds_macs(),
            Log::Simulated(log) => log.binds_macs(),
        }
    }

    /// Whether a process of version 0.1.0 may still write to this log's journal. May block
    /// for a round trip to a broker.
    ///
    /// # Errors
    /// When a broker cannot be asked.
    pub fn has_older_writers(&self) -> Result<bool, Error> {
        match self {
            Log::Kafka(log) => log.has_older_members(),
            _ => Ok(false),
        }
    }

    /// The offset at which the journal's own records begin in a partition: those before
    /// were imported from another log and have had their effect, so state never begins
    /// before it.
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

    /// Appends records to one partition, in order. For the runtimes of partitions: it tries
    /// until the log has them, so that no record is missing before a later one.
    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        self.append_all(vec![Append { at, records, ack, urgency: Urgency::Now }]);
    }

    /// Several appends, as [`Log::append`] each, which the embedded log writes together.
    pub fn append_all(&self, appends: Vec<Append>) {
        match self {
            Log::Embedded(log) => log.append_all(appends),
            Log::Kafka(log) => appends.into_iter().for_each(|one| log.append(one.at, one.records, one.ack)),
            Log::Simulated(log) => appends.into_iter().for_each(|one| log.append(one.at, one.records, one.ack)),
        }
    }

    /// Appends records and waits until all are durable. For requests: it gives up after
    /// [`REQUEST_TIMEOUT`], in time for an answer. The records may become durable later.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub async fn append_durably(&self, at: TopicPartition, records: Vec<NewRecord>) -> Result<AppendedRange, Error> {
        self.begin_append(at, records).durable().await
    }

    /// The same for whoever has something else to wait for meanwhile.
    pub fn begin_append(&self, at: TopicPartition, records: Vec<NewRecord>) -> PendingAppend {
        askwhen_process::fault::point("parsed");
        let (sender, outcome) = tokio::sync::oneshot::channel();
        let ack = Ack::Request { sender, began: std::time::Instant::now() };
        match self {
            Log::Kafka(log) => log.append_in_time(at, records, ack),
            _ => self.append(at, records, ack),
        }
        PendingAppend { outcome, deadline: tokio::time::Instant::now() + REQUEST_TIMEOUT }
    }

    /// Appends records and blocks until all are durable. A log without threads is stepped
    /// meanwhile, because nobody else would.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub fn append_and_wait(&self, at: TopicPartition, records: Vec<NewRecord>) -> Result<AppendedRange, Error> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.append(at, records, Ack::Once(sender));
        match self {
            Log::Embedded(log) => while receiver.is_empty() && log.step() {},
            Log::Simulated(log) => log.land_own(at),
            Log::Kafka(_) => {}
        }
        // The sender was dropped without an outcome.
        receiver.blocking_recv().unwrap_or(Err(Error::Closed))
    }

    /// Appends a record that may be lost: a reply.
    pub fn append_unacknowledged(&self, at: TopicPartition, record: NewRecord) {
        match self {
            Log::Kafka(log) => log.append_unacknowledged(at, record),
            _ => {
                let (sender, _) = tokio::sync::oneshot::channel();
                self.append(at, vec![record], Ack::Once(sender));
            }
        }
    }

    /// Durable records from an offset on: at least one if there is one, and no more than
    /// about `max_bytes`. For continued reading take a [`Reader`]. May block for a round
    /// trip to a broker.
    ///
    /// # Errors
    /// When the offset was trimmed, or the record is damaged.
    pub fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        match self {
            Log::Embedded(log) => log.read(at, from, max_bytes),
            Log::Kafka(log) => log.read(at, from, max_bytes),
            Log::Simulated(log) => log.read(at, from, max_bytes),
        }
    }

    /// A reader for one purpose, which does not block; `notify` is called when records have
    /// come.
    pub fn reader(&self, purpose: &'static str, notify: Arc<Notify>) -> Reader {
        match self {
            Log::Embedded(log) => Reader::Local(LocalReader::new(LocalLog::Embedded(log.clone()), notify)),
            Log::Kafka(log) => Reader::Kafka(log.reader(purpose, notify)),
            Log::Simulated(log) => Reader::Local(LocalReader::new(LocalLog::Simulated(log.clone()), notify)),
        }
    }

    /// Passes all records from an offset up to a known end to `each`. Blocks until it is
    /// done.
    ///
    /// # Errors
    /// As [`Log::read`], and errors of `each`.
    pub fn scan<E: From<Error>>(
        &self,
        at: TopicPartition,
        from: u64,
        end: u64,
        each: impl FnMut(Record) -> Result<(), E>,
    ) -> Result<(), E> {
        self.reader("scan", Arc::default()).scan(at, from, end, each)
    }

    /// The current watermarks of a partition. May block for a round trip to a broker.
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

    /// The watermarks of several partitions, with as few round trips as possible.
    ///
    /// # Errors
    /// As [`Log::bounds`].
    pub fn all_bounds(&self, all: &[TopicPartition]) -> Result<Vec<Watermarks>, Error> {
        match self {
            Log::Kafka(log) => log.all_bounds(all),
            _ => all.iter().map(|at| self.bounds(*at)).collect(),
        }
    }

    /// Removes records below an offset, as far as the log can do so cheaply.
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

    /// The append time of the newest record in the journal; `None` when it is empty.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn newest_append(&self) -> Result<Option<Millis>, Error> {
        let all: Vec<TopicPartition> =
            (0..self.partitions()).map(|partition| TopicPartition { topic: Topic::Events, partition }).collect();
        let mut newest = None;
        for (at, bounds) in all.iter().zip(self.all_bounds(&all)?) {
            if bounds.start < bounds.end {
                // The last offset may be the end of a transaction instead of a record.
                let from = bounds.end.saturating_sub(LAST_RECORDS).max(bounds.start);
                let read = self.read(*at, from, SCAN_BYTES)?;
                newest = newest.max(read.iter().map(|record| record.appended_at).max());
            }
        }
        Ok(newest)
    }

    /// Whether an append has a chance at the moment.
    ///
    /// # Errors
    /// Why it has none; [`Class::Unknown`] means never again in this process.
    pub fn is_writable(&self) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.is_writable(),
            Log::Kafka(log) => log.is_writable(),
            Log::Simulated(_) => Ok(()),
        }
    }

    /// Whether records that follow from others have a chance right now: they have room on the
    /// disk for longer than the journal takes new ones.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_outputs(&self) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.takes_outputs(),
            Log::Kafka(_) | Log::Simulated(_) => self.is_writable(),
        }
    }

    /// Bytes that are queued in this process, and those of the newest records in memory; 0
    /// on Kafka, whose client does not report them.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Log::Embedded(log) => log.memory_bytes(),
            Log::Kafka(_) | Log::Simulated(_) => 0,
        }
    }

    /// Refuses a partition that has lost records while the log was used, because a topic
    /// was deleted and created again.
    ///
    /// # Errors
    /// [`Error::Lost`], with what is lost.
    pub fn is_complete(&self, partition: u32) -> Result<(), Error> {
        match self {
            Log::Kafka(log) => log.is_complete(partition),
            _ => Ok(()),
        }
    }

    /// Whether topic `definitions` has lost records while the log was used. The owner of
    /// their state writes them again.
    pub fn has_lost_definitions(&self) -> bool {
        match self {
            Log::Kafka(log) => log.has_lost_definitions(),
            _ => false,
        }
    }

    /// Notes that the lost definitions were written again.
    ///
    /// # Errors
    /// When the log's identity cannot be written again.
    pub fn definitions_are_back(&self) -> Result<(), Error> {
        match self {
            Log::Kafka(log) => log.definitions_are_back(),
            _ => Ok(()),
        }
    }

    /// Notes that topic `definitions` has a record with the key of a log's identity.
    pub fn identity_seen(&self, key: &str) {
        if let Log::Kafka(log) = self {
            log.identity_seen(key);
        }
    }

    /// Faults of the topics, and missing permissions at the brokers: reasons why the
    /// process is not ready.
    pub fn faults(&self) -> Vec<String> {
        match self {
            Log::Kafka(log) => log.faults(),
            _ => Vec::new(),
        }
    }

    /// Added partitions of the journal that this process has to empty; only Kafka has any.
    pub fn surplus(&self) -> Vec<u32> {
        match self {
            Log::Kafka(log) => log.surplus(),
            _ => Vec::new(),
        }
    }

    /// A claim on disk space for a store beside the log. On Kafka every claim is granted,
    /// because the brokers have disks of their own.
    pub fn claim(&self) -> DiskClaim {
        match self {
            Log::Embedded(log) => log.claim(),
            Log::Kafka(_) | Log::Simulated(_) => DiskClaim::default(),
        }
    }

    /// The partitions that this process owns, as they come and go. The embedded log assigns
    /// all of them, once.
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
