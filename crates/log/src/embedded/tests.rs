//! The embedded log in one thread on a simulated disk.

mod commits;
mod crashes;
mod damage;
mod room;
mod sizes;
mod upkeep;

use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::follow::Follower;
use super::*;
use crate::disk::{Crash, Fault, Operation, SimulatedDisk};
use crate::{AppendedRange, Log};

const DIR: &str = "/data/log";
/// Some time to begin at.
const NOON: Millis = 1_800_000_000_000;
const EVENTS: TopicPartition = TopicPartition { topic: Topic::Events, partition: 1 };
const DECISIONS: TopicPartition = TopicPartition { topic: Topic::Decisions, partition: 0 };
const DEFINITIONS: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

type Answer = oneshot::Receiver<Result<AppendedRange, Error>>;

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn small() -> Options {
    Options { segment_bytes: 2_000, commit_file_bytes: 5_000, tail_bytes: 0 }
}

fn opened(disk: &Arc<SimulatedDisk>, options: Options) -> Result<Embedded, Error> {
    opened_at(disk, &Clock::simulated(NOON), options)
}

fn opened_at(disk: &Arc<SimulatedDisk>, clock: &Clock, options: Options) -> Result<Embedded, Error> {
    Embedded::open_stepped(disk.mount(), dir(), 2, clock.clone(), options)
}

fn record(key: &str, value_bytes: usize) -> NewRecord {
    let value: Vec<u8> = (0..value_bytes).map(|n| (n % 251) as u8).collect();
    NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(value.into()) }
        .header("id", key.to_owned())
}

fn append(log: &Embedded, at: TopicPartition, records: Vec<NewRecord>) -> Answer {
    let (sender, receiver) = oneshot::channel();
    log.append(at, records, Ack::Once(sender));
    receiver
}

/// Appends and writes; what was answered.
fn written(log: &Embedded, at: TopicPartition, records: Vec<NewRecord>) -> Result<AppendedRange, Error> {
    let mut answer = append(log, at, records);
    log.step();
    answer.try_recv().expect("a step answers")
}

/// All records, read in reads of so many bytes.
fn all(log: &Embedded, at: TopicPartition, max_bytes: usize) -> Result<Vec<Record>, Error> {
    let Watermarks { start, end } = log.bounds(at);
    let (mut next, mut records) = (start, Vec::new());
    while next < end {
        let read = log.read(at, next, max_bytes)?;
        next = read.last().map(|last| last.offset + 1).expect("there is more below the end");
        records.extend(read);
    }
    Ok(records)
}

fn followed(disk: &Arc<SimulatedDisk>, at: TopicPartition, from: u64) -> Result<Vec<Record>, Error> {
    let mut follower = Follower::on(disk.mount(), dir(), at, from);
    let mut records = Vec::new();
    loop {
        let read = follower.read()?;
        if read.is_empty() {
            return Ok(records);
        }
        records.extend(read);
    }
}

/// Takes the commit logs away, as if the segments were all that there is.
fn forget_commit_logs(disk: &SimulatedDisk) {
    let is_one = |path: &Path| path.extension().is_some_and(|extension| extension == "commit");
    for path in disk.paths().into_iter().filter(|path| is_one(path)) {
        disk.overwrite(&path, None);
    }
}

fn keys(records: &[Record]) -> Vec<String> {
    let key = |record: &Record| String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
    records.iter().map(key).collect()
}
