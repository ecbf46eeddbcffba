//! Records, and their positions.

use bytes::Bytes;

use askwhen_domain::time::Millis;
use askwhen_wire::topic::Topic;

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: u32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic.name(), self.partition)
    }
}

/// Parses what its `Display` writes.
impl std::str::FromStr for TopicPartition {
    type Err = ();

    fn from_str(text: &str) -> Result<TopicPartition, ()> {
        let (topic, partition) = text.rsplit_once('/').ok_or(())?;
        Ok(TopicPartition { topic: Topic::by_name(topic).ok_or(())?, partition: partition.parse().map_err(|_| ())? })
    }
}

pub type Headers = Vec<(Bytes, Bytes)>;

/// A record to be appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    pub headers: Headers,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

impl NewRecord {
    pub fn header(mut self, name: &'static str, value: impl Into<Bytes>) -> NewRecord {
        self.headers.push((Bytes::from_static(name.as_bytes()), value.into()));
        self
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: u64,
    /// The append time, in milliseconds since the epoch.
    pub appended_at: Millis,
    /// Checksum of the frame; identifies the record in `source` headers.
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

/// The offsets of an append: the first, and one past the last. Where several processes
/// write, records of others may be in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRange {
    pub first: u64,
    pub end: u64,
}

/// The first offset that is kept, and one past the last durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub start: u64,
    pub end: u64,
}
