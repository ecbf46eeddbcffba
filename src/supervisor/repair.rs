//! Writes an operator's decisions into the log while no process serves: to skip a
//! record, to accept the time, or to accept that records are lost.

use crate::engine::families;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::settings::kafka_settings;
use super::snapshots::Role;
use super::source::cluster_key;
use super::{data, export, source};
use crate::config::Config;
use crate::delivery::Fold;
use crate::replay::Error;
use askwhen_domain::time::Millis;
use askwhen_log::{Embedded, Kafka, Log, NewRecord, TopicPartition};
use askwhen_partition::Signer;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_process::clock::Clock;
use askwhen_store::{Rocks, Store};
use askwhen_wire::record::{AcceptLoss, AcceptTime, Internal};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// A log that no process serves meanwhile.
struct Repair {
    log: Log,
    key: ClusterKey,
    clock: Clock,
    /// The lock on the data directory; on Kafka there is none.
    _lock: Option<std::fs::File>,
}

/// Whether a server runs on the data directory. Then a verb has to ask the server.
pub fn is_served(config: &Config) -> bool {
    !config.kafka && config.data_dir.join("log").exists() && data::lock(&config.data_dir).is_err()
}

impl Repair {
    fn open(config: &Config) -> Result<Repair, Error> {
        export::refuse_exported(config)?;
        let (key, clock) = (cluster_key(config)?, Clock::new());
        if config.kafka {
            let log = Log::Kafka(Kafka::connect(kafka_settings(config, key.check()))?);
            return Ok(Repair { log, key, clock, _lock: None });
        }
        let dir = config.data_dir.join("log");
        let Some(partitions) = Embedded::partitions_of(&dir)? else {
            return Err(Error::unreachable(format!(
                "{} holds no log: name the data directory of one with --data-dir",
                dir.display()
            )));
        };
        let lock = data::lock(&config.data_dir)?;
        let log = Log::Embedded(Arc::new(Embedded::open(&dir, partitions, clock.clone())?));
        Ok(Repair { log, key, clock, _lock: Some(lock) })
    }

    fn append(&self, partition: u32, new: NewRecord) -> Result<(), Error> {
        self.append_to(TopicPartition { topic: Topic::Events, partition }, new)
    }

    fn append_to(&self, at: TopicPartition, new: NewRecord) -> Result<(), Error> {
        self.log.append_and_wait(at, vec![new])?;
        Ok(())
    }

    fn signer(&self) -> Signer {
        Signer::new(&self.log, &self.key)
    }

    fn close(self) {
        match &self.log {
            Log::Embedded(log) => log.close(),
            Log::Kafka(log) => log.close(),
            Log::Simulated(_) => {}
        }
    }
}

fn request_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Skips a record at which a partition stands still: it becomes a reject. On Kafka other
/// processes may serve meanwhile; on the embedded log none may. Blocks.
///
/// # Errors
/// When the record is not there, or has been applied.
pub fn skip(config: &Config, at: TopicPartition, offset: u64) -> Result<(), Error> {
    let repair = Repair::open(config)?;
    if at.partition >= repair.log.partitions() {
        let (topic, partitions) = (at.topic.name(), repair.log.partitions());
        return Err(Error::usage(format!("topic {topic} has {partitions} partitions, from 0 on")));
    }
    let bounds = repair.log.bounds(at)?;
    if offset < bounds.start || offset >= bounds.end {
        return Err(Error::usage(format!(
            "{at} holds the records from {} up to, and without, {}: there is none at {offset}",
            bounds.start, bounds.end
        )));
    }
    let applied = applied(config, &repair, at)?;
    if offset < applied {
        return Err(Error::refused(format!(
            "{at}@{offset} has been applied: the state is at {applied}, and what was decided is not taken back"
        )));
    }
    let (to, new) = repair.signer().skip(at, offset, repair.clock.wall(), &request_id());
    repair.append_to(to, new)?;
    repair.close();
    Ok(())
}

/// The first offset of a topic that the stored state of a partition has not applied.
fn applied(config: &Config, repair: &Repair, at: TopicPartition) -> Result<u64, Error> {
    let role = if at.topic == Topic::Events { Role::Engine } else { Role::Delivery };
    let applied = if let Log::Kafka(_) = repair.log {
        let source = source(config)?;
        let newest = source.newest(role.name(), at.partition)?.map(|(_, manifest)| manifest.subject.positions);
        newest.unwrap_or_default()
    } else {
        let path = role.store_path(&config.data_dir, at.partition);
        if path.exists() { positions(role, &path)? } else { BTreeMap::new() }
    };
    Ok(applied.get(at.topic.name()).copied().unwrap_or(0))
}

fn meta(path: &Path) -> Result<Option<CheckpointMeta>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(CheckpointMeta::load(&Store::Rocks(Rocks::open_read_only(path, families::ALL)?))?)
}

/// The times that an acceptance has found.
#[derive(Debug, Clone, Copy)]
pub struct Accepted {
    /// The time of this machine's clock.
    pub now: Millis,
    /// The largest append time in the log; `None` on Kafka.
    pub newest: Option<Millis>,
    pub partitions: u32,
}

/// Lets the journal's time go on from this machine's clock. Records that were appended by
/// a wrong clock stay where they are, and their times do not count any more. Blocks.
///
/// # Errors
/// When the log cannot be written.
pub fn accept_time(config: &Config) -> Result<Accepted, Error> {
    let repair = Repair::open(config)?;
    let newest = match &repair.log {
        Log::Embedded(log) => log.newest_at(),
        _ => None,
    };
    let (now, partitions) = (repair.clock.wall(), repair.log.partitions());
    let accept = Internal::AcceptTime(AcceptTime { asked_at: now, request_id: request_id() });
    for partition in 0..partitions {
        repair.append(partition, repair.signer().internal(partition, "time", &accept))?;
    }
    repair.close();
    Ok(Accepted { now, newest, partitions })
}

/// Lets state go on where its topics begin, although records before that were lost before
/// they were applied; returns the losses. Blocks.
///
/// # Errors
/// When the log cannot be written, or state cannot be read.
pub fn accept_loss(config: &Config) -> Result<Vec<AcceptLoss>, Error> {
    let repair = Repair::open(config)?;
    let mut losses = Vec::new();
    for role in Role::ALL {
        for partition in 0..repair.log.partitions() {
            losses.extend(lost(config, &repair, role, partition)?);
        }
    }
    for loss in &losses {
        let accept = Internal::AcceptLoss(loss.clone());
        // The partition itself comes last: by then the others expect a gap in its forwards.
        let others = (0..repair.log.partitions()).filter(|partition| *partition != loss.partition);
        for partition in others.chain([loss.partition]) {
            repair.append(partition, repair.signer().internal(partition, "loss", &accept))?;
        }
    }
    repair.close();
    Ok(losses)
}

/// The records that topics have lost and that neither the local state nor the newest
/// snapshot has applied.
fn lost(config: &Config, repair: &Repair, role: Role, partition: u32) -> Result<Vec<AcceptLoss>, Error> {
    let path = role.store_path(&config.data_dir, partition);
    let here = if path.exists() { positions(role, &path)? } else { BTreeMap::new() };
    let newest = source(config)?.newest(role.name(), partition)?.map(|(_, manifest)| manifest.subject.positions);
    let newest = newest.unwrap_or_default();
    let further = if here.values().sum::<u64>() >= newest.values().sum() { here } else { newest };
    let mut losses = Vec::new();
    for topic in role.trimmed() {
        let start = repair.log.bounds(TopicPartition { topic: *topic, partition })?.start;
        let to = if *topic == Topic::Events { start.max(repair.log.begins(partition)) } else { start };
        let from = further.get(topic.name()).copied().unwrap_or(0);
        if from < to {
            let (topic, asked_at) = (topic.name().to_owned(), repair.clock.wall());
            losses.push(AcceptLoss { topic, partition, from, to, asked_at, request_id: request_id() });
        }
    }
    Ok(losses)
}

/// The positions of a local state in its topics.
fn positions(role: Role, path: &Path) -> Result<BTreeMap<String, u64>, Error> {
    if role == Role::Engine {
        let next = meta(path)?.map(|meta| meta.next);
        return Ok(next.map(|next| (Topic::Events.name().to_owned(), next)).into_iter().collect());
    }
    let store = Store::Rocks(Rocks::open_read_only(path, crate::delivery::families::ALL)?);
    let stored = Fold::stored_positions(&store).map_err(Error::failed)?;
    Ok(stored.map(|positions| positions.next).unwrap_or_default())
}
