//! Records that are being copied from one log to another.

use askwhen_domain::time::Millis;
use askwhen_log::kafka::Founding;
use askwhen_log::{Embedded, NewRecord, Record, TopicPartition};
use askwhen_wire::topic::Topic;

use crate::replay::Error;

const READ_BYTES: usize = 1 << 20;
const APPEND_BYTES: usize = 256 << 10;

/// A record, with its append time in the old log.
pub type TimedRecord = (NewRecord, Option<Millis>);

/// Records to be appended, by partition.
pub struct Batches {
    topic: Topic,
    /// By partition, the bytes and the records.
    parts: Vec<(usize, Vec<TimedRecord>)>,
}

impl Batches {
    pub fn new(topic: Topic, partitions: u32) -> Batches {
        Batches { topic, parts: vec![(0, Vec::new()); partitions as usize] }
    }

    pub fn push(&mut self, founding: &mut Founding, to: u32, record: TimedRecord) -> Result<(), Error> {
        let (bytes, part) = &mut self.parts[to as usize];
        *bytes += record.0.len_bytes();
        part.push(record);
        if *bytes >= APPEND_BYTES {
            *bytes = 0;
            founding.append(TopicPartition { topic: self.topic, partition: to }, std::mem::take(part))?;
        }
        Ok(())
    }

    pub fn flush(self, founding: &mut Founding) -> Result<(), Error> {
        for (partition, (_, part)) in (0..).zip(self.parts) {
            if !part.is_empty() {
                founding.append(TopicPartition { topic: self.topic, partition }, part)?;
            }
        }
        Ok(())
    }
}

/// Reads the partitions of the journal side by side, the earliest record first.
pub struct JournalMerge<'a> {
    log: &'a Embedded,
    parts: Vec<Cursor>,
    /// Records in total.
    pub all: u64,
}

struct Cursor {
    at: TopicPartition,
    next: u64,
    read: std::iter::Peekable<std::vec::IntoIter<Record>>,
}

impl JournalMerge<'_> {
    pub fn new(log: &Embedded, partitions: u32) -> Result<JournalMerge<'_>, Error> {
        let mut parts = Vec::new();
        let mut all = 0;
        for partition in 0..partitions {
            let at = TopicPartition { topic: Topic::Events, partition };
            let bounds = log.bounds(at);
            all += bounds.end - bounds.start;
            parts.push(Cursor { at, next: bounds.start, read: Vec::new().into_iter().peekable() });
        }
        Ok(JournalMerge { log, parts, all })
    }

    pub fn next(&mut self) -> Result<Option<(u32, Record)>, Error> {
        let mut earliest: Option<(Millis, usize)> = None;
        for (i, cursor) in self.parts.iter_mut().enumerate() {
            if cursor.read.peek().is_none() {
                let records = self.log.read(cursor.at, cursor.next, READ_BYTES)?;
                cursor.next = records.last().map_or(cursor.next, |last| last.offset + 1);
                cursor.read = records.into_iter().peekable();
            }
            if let Some(record) = cursor.read.peek()
                && earliest.is_none_or(|(at, _)| record.appended_at < at)
            {
                earliest = Some((record.appended_at, i));
            }
        }
        let Some((_, i)) = earliest else { return Ok(None) };
        Ok(self.parts[i].read.next().map(|record| (i as u32, record)))
    }
}
