//! The log port: topics of partitions of records, appended and read in order.
//! A closed set of implementations. Nothing in here knows what a record means.

pub mod embedded;
pub mod frame;
mod segment;
pub mod simulated;

use bytes::Bytes;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::domain::time::Millis;
use crate::wire::topic::Topic;

pub use embedded::Embedded;
pub use simulated::Simulated;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    pub topic: Topic,
    pub partition: u32,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic.name(), self.partition)
    }
}

pub type Headers = Vec<(Bytes, Bytes)>;

/// A record to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct New {
    pub key: Option<Bytes>,
    pub headers: Headers,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl New {
    pub fn len_bytes(&self) -> usize {
        frame::encoded_len(self)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<Bytes>) -> New {
        self.headers.push((Bytes::from_static(name.as_bytes()), value.into()));
        self
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    /// When the log took it.
    pub appended_at: Millis,
    /// Checksum of the frame; stands for the record in `source` headers.
    pub crc: u32,
    pub key: Option<Bytes>,
    pub headers: Headers,
    pub value: Option<Bytes>,
}

impl Record {
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v)
    }

    pub fn len_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        headers + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len)
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("{at} begins at {start}, after the offset {offset} that was asked for")]
    Trimmed { at: At, offset: u64, start: u64 },
    #[error(
        "{at} is damaged at offset {offset} ({file}): {detail}. Restore it from a backup; nothing behind it is served"
    )]
    Damaged { at: At, offset: u64, file: String, detail: String },
    #[error("the log cannot write: {0}. Whether the record is stored is unknown")]
    Unknown(String),
    #[error("the log is read-only: less than {free_mark_bytes} bytes are free on its disk")]
    ReadOnly { free_mark_bytes: u64 },
    #[error("the log's queue is full")]
    Overloaded,
    #[error("the log is closed")]
    Closed,
    #[error("{context}: {detail}")]
    Io { context: String, detail: String },
    #[error("{0}")]
    Refused(String),
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Retry,
    /// Whether it happened is not known: ask again under the same id.
    Unknown,
    Fatal,
}

impl Error {
    pub fn io(context: impl Into<String>, error: &std::io::Error) -> Error {
        Error::Io { context: context.into(), detail: error.to_string() }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::ReadOnly { .. } | Error::Overloaded => Class::Retry,
            Error::Unknown(_) => Class::Unknown,
            _ => Class::Fatal,
        }
    }
}

/// Where an append's outcome goes: the offset of its first record, once all of
/// it is durable.
pub enum Ack {
    Once(tokio::sync::oneshot::Sender<Result<u64, Error>>),
    /// To an actor's own queue, with its tag.
    Tagged {
        tag: u64,
        queue: std::sync::mpsc::Sender<(u64, Result<u64, Error>)>,
        bell: Arc<Bell>,
    },
}

impl Ack {
    pub fn send(self, outcome: Result<u64, Error>) {
        match self {
            // A receiver that has gone away does not care any more.
            Ack::Once(sender) => drop(sender.send(outcome)),
            Ack::Tagged { tag, queue, bell } => {
                drop(queue.send((tag, outcome)));
                bell.ring();
            }
        }
    }
}

/// Wakes a thread that waits for one of several things.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<bool>,
    waiting: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        let mut rung = self.rung.lock().expect("no panic holds this lock");
        if !*rung {
            *rung = true;
            self.waiting.notify_one();
        }
    }

    /// Waits until rung since the last wait, at most `longest`.
    pub fn wait(&self, longest: Duration) {
        let rung = self.rung.lock().expect("no panic holds this lock");
        let (mut rung, _) =
            self.waiting.wait_timeout_while(rung, longest, |rung| !*rung).expect("no panic holds this lock");
        *rung = false;
    }
}

/// First offset kept, and one past the last durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub start: u64,
    pub end: u64,
}

#[derive(Debug, Clone)]
pub enum Log {
    Embedded(Arc<Embedded>),
    Simulated(Arc<Simulated>),
}

impl Log {
    /// Made once with the log.
    pub fn incarnation(&self) -> u128 {
        match self {
            Log::Embedded(log) => log.incarnation(),
            Log::Simulated(log) => log.incarnation(),
        }
    }

    pub fn partitions(&self) -> u32 {
        match self {
            Log::Embedded(log) => log.partitions(),
            Log::Simulated(log) => log.partitions(),
        }
    }

    /// Appends records to one partition, in order and together.
    pub fn append(&self, at: At, records: Vec<New>, ack: Ack) {
        match self {
            Log::Embedded(log) => log.append(at, records, ack),
            Log::Simulated(log) => log.append(at, records, ack),
        }
    }

    /// Appends and waits until all is durable; the offset of the first record.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub async fn append_durably(&self, at: At, records: Vec<New>) -> Result<u64, Error> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.append(at, records, Ack::Once(sender));
        receiver.await.unwrap_or(Err(Error::Closed))
    }

    /// Durable records from an offset on: at least one if there is one, and no
    /// more than about `max_bytes`.
    ///
    /// # Errors
    /// When the offset was trimmed away, or what is there is damaged.
    pub fn read(&self, at: At, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        match self {
            Log::Embedded(log) => log.read(at, from, max_bytes),
            Log::Simulated(log) => log.read(at, from, max_bytes),
        }
    }

    pub fn bounds(&self, at: At) -> Bounds {
        match self {
            Log::Embedded(log) => log.bounds(at),
            Log::Simulated(log) => log.bounds(at),
        }
    }

    /// Rings when something becomes readable there.
    pub fn subscribe(&self, at: At, bell: Arc<Bell>) {
        match self {
            Log::Embedded(log) => log.subscribe(at, bell),
            Log::Simulated(log) => log.subscribe(at, bell),
        }
    }

    /// Forgets whole stretches of records older than `before`.
    ///
    /// # Errors
    /// When files cannot be removed.
    pub fn trim(&self, at: At, before: Millis) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.trim(at, before),
            Log::Simulated(log) => log.trim(at, before),
        }
    }

    /// The first offset whose record was appended at `time` or later.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn offset_at(&self, at: At, time: Millis) -> Result<u64, Error> {
        let bounds = self.bounds(at);
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

    pub fn is_writable(&self) -> Result<(), Error> {
        match self {
            Log::Embedded(log) => log.is_writable(),
            Log::Simulated(_) => Ok(()),
        }
    }
}
