//! Following partitions: one reader per purpose, each partition at a place of
//! its own. On the embedded log it reads files; on Kafka it polls what was
//! fetched ahead, so that reading never waits.

use std::sync::Arc;

use super::embedded::Embedded;
use super::kafka::KafkaReader;
use super::simulated::Simulated;
use crate::error::Error;
use crate::fetch::{Fetch, FetchBatch};
use crate::record::{Record, TopicPartition, Watermarks};
use askwhen_process::thread::Notify;

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

impl Fetch for Reader {
    fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
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
}

impl Reader {
    /// Follows a partition no longer.
    pub fn leave(&mut self, at: TopicPartition) {
        if let Reader::Kafka(reader) = self {
            reader.leave(at);
        }
    }
}
