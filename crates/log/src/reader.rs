//! Follows partitions: one reader per purpose, with an offset for each partition. On the
//! embedded log it reads files; on Kafka it polls what was fetched ahead, so that reading
//! never waits.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::embedded::Embedded;
use super::kafka::KafkaReader;
use super::simulated::Simulated;
use crate::error::Error;
use crate::fetch::{Fetch, FetchBatch};
use crate::record::{Record, TopicPartition};
use askwhen_process::thread::Notify;

/// A log within this process, which notifies readers of new records.
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

    fn end(&self, at: TopicPartition) -> u64 {
        match self {
            LocalLog::Embedded(log) => log.end(at),
            LocalLog::Simulated(log) => log.bounds(at).end,
        }
    }

    /// Notifies when a partition has a new readable record.
    fn subscribe(&self, at: TopicPartition, notify: Arc<Notify>) {
        match self {
            LocalLog::Embedded(log) => log.subscribe(at, notify),
            LocalLog::Simulated(log) => log.subscribe(at, notify),
        }
    }
}

pub enum Reader {
    Local(LocalReader),
    Kafka(KafkaReader),
}

/// A reader of a log within this process.
pub struct LocalReader {
    log: LocalLog,
    notify: Arc<Notify>,
    /// Partitions whose end was reached once: new records there notify.
    subscribed: BTreeSet<TopicPartition>,
}

impl LocalReader {
    pub fn new(log: LocalLog, notify: Arc<Notify>) -> LocalReader {
        LocalReader { log, notify, subscribed: BTreeSet::new() }
    }

    fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        let is_subscribed = self.subscribed.contains(&at);
        let end = self.log.end(at);
        if is_subscribed && from == end {
            // Most partitions have nothing new.
            return Ok(FetchBatch { records: Vec::new(), end, at_end: true });
        }
        let mut records = self.log.read(at, from, max_bytes)?;
        if records.is_empty() && !is_subscribed {
            // Records that came before the subscription are read now.
            self.log.subscribe(at, self.notify.clone());
            self.subscribed.insert(at);
            records = self.log.read(at, from, max_bytes)?;
        }
        let end = self.log.end(at);
        let at_end = records.last().map_or(from, |last| last.offset + 1) >= end;
        Ok(FetchBatch { records, end, at_end })
    }
}

impl Fetch for Reader {
    fn read(&mut self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<FetchBatch, Error> {
        match self {
            Reader::Kafka(reader) => reader.read(at, from, max_bytes),
            Reader::Local(reader) => reader.read(at, from, max_bytes),
        }
    }

    fn notify(&self) -> &Notify {
        match self {
            Reader::Local(reader) => &reader.notify,
            Reader::Kafka(reader) => reader.notify(),
        }
    }
}

impl Reader {
    /// Stops following a partition.
    pub fn leave(&mut self, at: TopicPartition) {
        if let Reader::Kafka(reader) = self {
            reader.leave(at);
        }
    }
}
