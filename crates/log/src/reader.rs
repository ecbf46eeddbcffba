//! Following partitions: one reader per purpose, each partition at a place of
//! its own. On the embedded log it reads files; on Kafka it polls what was
//! fetched ahead, so that reading never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::embedded::Embedded;
use super::kafka::KafkaReader;
use super::simulated::Simulated;
use crate::error::Error;
use crate::record::{Record, TopicPartition, Watermarks};
use askwhen_process::thread::Notify;

/// How long [`Reader::read_or_wait`] waits for a record that should be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one read gave.
#[derive(Debug, Clone, Default)]
pub struct FetchBatch {
    pub records: Vec<Record>,
    /// One past the last record that is known to be in the log.
    pub end: u64,
    /// Whether the records reach that end, as last heard.
    pub at_end: bool,
}

/// A log of this process, which says when something becomes readable.
pub enum LocalLog {
    Embedded(Arc<Embedded>),
    Simulated(Arc<Simulated>),
}

impl LocalLog {
    fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        match self {
            LocalLog::Embedded(log) => log.read(at, from, max_bytes),
            LocalLog::Simulated(log) => log.read(at, from, max_bytes),
        }
    }

    fn bounds(&self, at: TopicPartition) -> Watermarks {
        match self {
            LocalLog::Embedded(log) => log.bounds(at),
            LocalLog::Simulated(log) => log.bounds(at),
        }
    }

    /// Rings when something becomes readable there.
    fn subscribe(&self, at: TopicPartition, notify: Arc<Notify>) {
        match self {
            LocalLog::Embedded(log) => log.subscribe(at, notify),
            LocalLog::Simulated(log) => log.subscribe(at, notify),
        }
    }
}

pub enum Reader {
    Local(LocalLog, Arc<Notify>),
    Kafka(KafkaReader),
}

impl Reader {
    /// The records from an offset on that are there now. A notification comes when
    /// there are more.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        match self {
            Reader::Kafka(reader) => reader.read(at, from, max_bytes),
            Reader::Local(log, notify) => {
                let mut records = log.read(at, from, max_bytes)?;
                if records.is_empty() {
                    // The reader is at the end and wants to be notified; records that
                    // came before the subscription are read at once.
                    log.subscribe(at, notify.clone());
                    records = log.read(at, from, max_bytes)?;
                }
                let end = log.bounds(at).end;
                let at_end = records.last().map_or(from, |last| last.offset + 1) >= end;
                Ok(FetchBatch { records, end, at_end })
            }
        }
    }

    fn notify(&self) -> &Notify {
        match self {
            Reader::Local(_, notify) => notify,
            Reader::Kafka(reader) => reader.notify(),
        }
    }

    /// Follows a partition no longer.
    pub fn leave(&mut self, at: TopicPartition) {
        if let Reader::Kafka(reader) = self {
            reader.leave(at);
        }
    }

    /// As [`Reader::read`], but empty only at the end.
    ///
    /// # Errors
    /// As [`Log::read`]; [`Error::Unavailable`] when nothing comes for half a minute.
    pub fn read_or_wait(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let chunk = self.read(at, from, max_bytes)?;
            if !chunk.records.is_empty() || chunk.at_end {
                return Ok(chunk);
            }
            if Instant::now() >= deadline {
                return Err(Error::Unavailable(format!(
                    "{at} gives nothing from {from} on for {} s",
                    PATIENCE.as_secs()
                )));
            }
            self.notify().wait(Duration::from_millis(100));
        }
    }
}
