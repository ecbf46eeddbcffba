//! Backs a log on Kafka up: its records become segments of an embedded log, so that a
//! restored backup needs no brokers.

use crate::delivery;
use crate::engine;
use std::collections::BTreeMap;
use std::path::Path;

use super::{BackedUpPartition, Copy, ReportProgress, unreachable};
use crate::replay::Error;
use crate::supervisor::snapshots::Role;
use askwhen_log::embedded::files::PartitionImporter;
use askwhen_log::{NewRecord, Record, TopicPartition};
use askwhen_partition::Signer;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_process::clock::Clock;
use askwhen_store::snapshot::{Manifest as Snapshot, SnapshotRepository, Subject};
use askwhen_store::{Batch, Rocks, Store};
use askwhen_wire::record::Internal;
use askwhen_wire::topic::Topic;

impl Copy<'_> {
    /// Copies snapshots first, then the ends of topics in the order of effects before
    /// causes: an effect in the backup whose cause is missing would never be redone.
    pub(super) fn brokers(&self, progress: ReportProgress<'_>) -> Result<(Vec<BackedUpPartition>, Vec<String>), Error> {
        let mut snapshots = Vec::new();
        for role in Role::ALL {
            for partition in 0..self.source.partitions {
                snapshots.extend(self.newest(role, partition)?);
            }
        }
        let ends = |topics: &[Topic]| -> Result<BTreeMap<TopicPartition, u64>, Error> {
            let mut ends = BTreeMap::new();
            for topic in topics {
                for partition in 0..topic.partitions(self.source.partitions) {
                    let at = TopicPartition { topic: *topic, partition };
                    ends.insert(at, self.source.bounds(at)?.end);
                }
            }
            Ok(ends)
        };
        let of_delivery = [Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d, Topic::Dead];
        let others = Topic::ALL
            .iter()
            .copied()
            .filter(|topic| !of_delivery.contains(topic) && !matches!(topic, Topic::Events | Topic::Replies));
        let mut all = ends(&of_delivery)?;
        all.extend(ends(&others.collect::<Vec<_>>())?);
        // The journals end twice: forwards below the first ends have their causes below the
        // second ones.
        let forwards_end = ends(&[Topic::Events])?;
        all.extend(ends(&[Topic::Events])?);
        let metas: BTreeMap<u32, CheckpointMeta> = snapshots
            .iter()
            .filter(|snapshot| snapshot.role == Role::Engine)
            .map(|snapshot| Ok((snapshot.partition, snapshot.meta()?)))
            .collect::<Result<_, Error>>()?;
        let count = all.len() as u64;
        let mut parts = Vec::new();
        let mut crcs = BTreeMap::new();
        for (n, (at, end)) in all.into_iter().enumerate() {
            let next = metas.get(&at.partition).filter(|_| at.topic == Topic::Events).map(|meta| meta.next);
            let cut = PartitionCut { end, forwards_end: forwards_end.get(&at).copied(), next };
            let (part, crc) = self.partition(at, &cut)?;
            if let Some(crc) = crc {
                crcs.insert(at.partition, crc);
            }
            parts.push(part);
            progress("copying the log", n as u64 + 1, count);
        }
        let ours = self.ours();
        let mut names = Vec::new();
        for snapshot in &snapshots {
            names.push(snapshot.write(&ours, crcs.get(&snapshot.partition).copied(), self.folder)?);
            progress("copying the state", names.len() as u64, snapshots.len() as u64);
        }
        Ok((parts, names))
    }

    /// Restores the newest snapshot of a partition.
    fn newest(&self, role: Role, partition: u32) -> Result<Option<RestoredSnapshot>, Error> {
        let Some((theirs, manifest)) = self.source.newest(role.name(), partition)? else { return Ok(None) };
        let dir = self.folder.join(format!("{}-{partition}", role.name()));
        theirs.restore(&manifest, &dir, |_, _| true).map_err(unreachable)?;
        let families = if role == Role::Engine { engine::families::ALL } else { delivery::families::ALL };
        let store = Store::Rocks(Rocks::open(&dir, families, &self.source.shared)?);
        Ok(Some(RestoredSnapshot { role, partition, manifest, store }))
    }

    /// Copies the records of a partition to segments; returns the checksum that the last record
    /// of the state has there.
    fn partition(&self, at: TopicPartition, cut: &PartitionCut) -> Result<(BackedUpPartition, Option<u32>), Error> {
        let bounds = self.source.bounds(at)?;
        let start = bounds.start.min(cut.end);
        let dir = self.folder.join("log");
        let mut maker = PartitionImporter::begin(&dir, at, start)?;
        let mut journal_reader = self.source.journal_reader(at, start);
        let mut crc = None;
        'all: loop {
            let records = journal_reader.read()?;
            if records.is_empty() {
                break;
            }
            for record in records {
                if record.offset >= cut.end {
                    break 'all;
                }
                // Only the compacted topic has gaps, and nothing refers to its offsets.
                if record.offset != maker.next() && at.topic != Topic::Definitions {
                    return Err(Error::refused(format!("{at} goes on at {} behind {}", record.offset, maker.next())));
                }
                let new = self.as_new(at, &record, cut);
                let made = maker.push(&new, record.appended_at)?;
                if cut.next == Some(record.offset + 1) {
                    crc = Some(made);
                }
            }
        }
        let end = maker.next();
        if end != cut.end && at.topic != Topic::Definitions {
            return Err(Error::refused(format!("{at} ended at {end}, and {} was expected", cut.end)));
        }
        let mut segments = Vec::new();
        for piece in maker.finish() {
            segments.extend(self.segment(&piece)?);
            std::fs::remove_file(&piece.path)?;
        }
        Ok((BackedUpPartition { topic: at.topic.name().into(), partition: at.partition, end, segments }, crc))
    }

    /// The record for the backup. A forward behind the cut becomes a tick, which has no
    /// effect: its sender forwards it again after the restoration.
    fn as_new(&self, at: TopicPartition, record: &Record, cut: &PartitionCut) -> NewRecord {
        let late = cut.forwards_end.is_some_and(|end| record.offset >= end);
        // The form of the MAC does not matter: a forward that was a reject has no effect
        // either way.
        if late && at.topic == Topic::Events {
            let rules = self.source.rules(at.partition);
            if let Some(Internal::Forward(_)) = rules.trusted_internal(None, record) {
                let signer = Signer::of_log(self.source.incarnation, &self.source.key);
                return signer.internal(at.partition, "", &Internal::Tick {});
            }
        }
        NewRecord { key: record.key.clone(), headers: record.headers.clone(), value: record.value.clone() }
    }
}

/// How far a partition is copied.
struct PartitionCut {
    end: u64,
    /// Forwards at this offset and behind are left out.
    forwards_end: Option<u64>,
    /// The next offset of the snapshot's state.
    next: Option<u64>,
}

/// A snapshot, restored to a store.
struct RestoredSnapshot {
    role: Role,
    partition: u32,
    manifest: Snapshot,
    store: Store,
}

impl RestoredSnapshot {
    fn meta(&self) -> Result<CheckpointMeta, Error> {
        CheckpointMeta::load(&self.store)?
            .ok_or_else(|| Error::refused(format!("{} holds no checkpoint", self.manifest.name())))
    }

    /// Writes it to the backup's snapshots, with the checksum and offsets of the copied log.
    fn write(&self, ours: &SnapshotRepository, crc: Option<u32>, folder: &Path) -> Result<String, Error> {
        if self.role == Role::Engine {
            let mut meta = self.meta()?;
            meta.crc = crc.unwrap_or(0);
            // The copied topic `definitions` has other offsets.
            meta.out_start.remove(Topic::Definitions.name());
            let mut batch = Batch::default();
            meta.save(&mut batch);
            self.store.write(batch)?;
        }
        let copy = folder.join(format!("{}-{}-copy", self.role.name(), self.partition));
        self.store.checkpoint(&copy)?;
        let writer = uuid::Uuid::new_v4().simple().to_string();
        let subject = Subject { writer, created_at: Clock::new().wall(), ..self.manifest.subject.clone() };
        let left = ours.write(subject, &copy, None).map_err(unreachable)?;
        std::fs::remove_dir_all(&copy)?;
        Ok(left.name())
    }
}
