//! Following partitions: one reader per purpose, each partition at a place of
//! its own. On the embedded log it reads files; on Kafka it polls what was
//! fetched ahead, so that reading never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Log;
use super::kafka;
use crate::error::Error;
use crate::record::{At, Record};
use askwhen_process::thread::Bell;

/// How long [`Reader::read_or_wait`] waits for a record that should be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What one read gave.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    pub records: Vec<Record>,
    /// One past the last record that is known to be in the log.
    pub end: u64,
    /// Whether the records reach that end, as last heard.
    pub at_end: bool,
}

pub enum Reader {
    Direct(Log, Arc<Bell>),
    Kafka(kafka::Reader),
}

impl Reader {
    pub(super) fn new(log: &Log, purpose: &'static str, bell: Arc<Bell>) -> Reader {
        match log {
            Log::Kafka(kafka) => Reader::Kafka(kafka::Reader::new(kafka.clone(), purpose, bell)),
            _ => Reader::Direct(log.clone(), bell),
        }
    }

    /// What has come from an offset on, without waiting for it. The bell rings
    /// when there is more.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read(&mut self, at: At, from: u64, max_bytes: usize) -> Result<Chunk, Error> {
        match self {
            Reader::Kafka(reader) => reader.read(at, from, max_bytes),
            Reader::Direct(log, bell) => {
                let mut records = log.read(at, from, max_bytes)?;
                if records.is_empty() {
                    // Whoever has read all wants to hear of more; what came in
                    // between is read at once.
                    log.subscribe(at, bell.clone());
                    records = log.read(at, from, max_bytes)?;
                }
                let end = log.bounds(at)?.end;
                let at_end = records.last().map_or(from, |last| last.offset + 1) >= end;
                Ok(Chunk { records, end, at_end })
            }
        }
    }

    fn bell(&self) -> &Bell {
        match self {
            Reader::Direct(_, bell) => bell,
            Reader::Kafka(reader) => reader.bell(),
        }
    }

    /// Follows a partition no longer.
    pub fn leave(&mut self, at: At) {
        if let Reader::Kafka(reader) = self {
            reader.leave(at);
        }
    }

    /// As [`Reader::read`], but empty only at the end.
    ///
    /// # Errors
    /// As [`Log::read`]; [`Error::Unavailable`] when nothing comes for half a minute.
    pub fn read_or_wait(&mut self, at: At, from: u64, max_bytes: usize) -> Result<Chunk, Error> {
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
            self.bell().wait(Duration::from_millis(100));
        }
    }
}
