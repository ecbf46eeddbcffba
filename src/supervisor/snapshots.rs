//! Takes snapshots of the open stores of this process, restores stores from snapshots,
//! and trims topics below what snapshots cover.

mod open;

use crate::delivery;
use crate::engine;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::private;
use super::settings::{STORE_MEMORY_BYTES, repository};
use super::source::cluster_key;
use crate::bridge::{SnapshotFailure, SnapshotReply};
use crate::config::{Config, Retention};
use crate::delivery::{Fold, Positions};
use crate::replay::Error;
use crate::replay::starts::StateCopy;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::{Phase, Status};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service, StopToken, watch};
use askwhen_store::bucket;
use askwhen_store::snapshot::{Listed, Manifest, SnapshotRepository, Subject};
use askwhen_store::{Family, Rocks, Shared, Store};
use askwhen_wire::error::Class;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// A snapshot that takes longer counts as stuck.
const MAX_SNAPSHOT: Duration = Duration::from_secs(900);
/// How long snapshots wait for what partitions have in memory, and how often they look. An
/// engine's checkpoint waits for its outputs, and the log may be busy.
const MAX_CHECKPOINT: Duration = Duration::from_secs(10);
const CHECKPOINT_PAUSE: Duration = Duration::from_millis(10);
/// A copy of a state that is not further behind its journal than this needs no checkpoint: to
/// read the rest is as fast.
const NEAR_END_RECORDS: u64 = 500;
/// How long whoever copies a state waits for a checkpoint.
const MAX_COPY_WAIT: Duration = Duration::from_millis(500);
/// When a store is further behind the journal than this, a newer snapshot is restored.
const FAR_BEHIND_RECORDS: u64 = 1_000_000;

/// The role whose state a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Engine,
    Delivery,
}

impl Role {
    pub const ALL: [Role; 2] = [Role::Engine, Role::Delivery];

    pub fn name(self) -> &'static str {
        match self {
            Role::Engine => "engine",
            Role::Delivery => "delivery",
        }
    }

    /// Where the store of a partition is.
    pub(super) fn store_path(self, data_dir: &Path, partition: u32) -> PathBuf {
        data_dir.join("state").join(self.name()).join(partition.to_string())
    }

    pub(super) fn families(self) -> &'static [Family] {
        match self {
            Role::Engine => engine::families::ALL,
            Role::Delivery => delivery::families::ALL,
        }
    }

    /// The topics that the state is made of: records below a snapshot's positions are not
    /// needed any more.
    pub fn trimmed(self) -> &'static [Topic] {
        match self {
            Role::Engine => &[Topic::Events],
            Role::Delivery => {
                &[Topic::Deliveries, Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d, Topic::Dead]
            }
        }
    }

    fn keep(self, retention: &Retention) -> Millis {
        match self {
            Role::Engine => retention.events,
            Role::Delivery => retention.deliveries,
        }
    }
}

/// The log that a store belongs to, and how far it has been applied.
struct StorePosition {
    incarnation: String,
    generation: u64,
    position: u64,
    /// Whose it is, where the store says that.
    partition: Option<u32>,
    positions: BTreeMap<String, u64>,
}

/// The position of a store; `None` before its first checkpoint.
fn position_of(role: Role, store: &Store) -> Result<Option<StorePosition>, StopReason> {
    match role {
        Role::Engine => Ok(CheckpointMeta::load(store)?.map(|meta| StorePosition {
            incarnation: meta.incarnation,
            generation: meta.generation,
            position: meta.next,
            partition: None,
            positions: BTreeMap::from([(Topic::Events.name().to_owned(), meta.next)]),
        })),
        Role::Delivery => {
            let stored = Fold::stored_positions(store).map_err(|error| match error.class() {
                Class::Fatal => StopReason::damaged(error),
                Class::Retry => StopReason::restart(error),
                Class::Refuse | Class::Reject => StopReason::refused(error),
            })?;
            Ok(stored.map(|Positions { incarnation, next, partition, .. }| StorePosition {
                incarnation,
                generation: 0,
                position: next.values().sum(),
                partition,
                positions: next,
            }))
        }
    }
}

/// The snapshots of all roles and partitions, those that cannot be used included.
///
/// # Errors
/// When the repository cannot be read.
pub fn list_all(repository: &SnapshotRepository, partitions: u32) -> Result<Vec<Listed>, bucket::Error> {
    let mut all = Vec::new();
    for role in Role::ALL {
        for partition in 0..partitions {
            all.extend(repository.list_all(role.name(), partition)?);
        }
    }
    Ok(all)
}

/// A store that is open, and the status of the partition that has it open.
#[derive(Clone)]
struct OpenStore {
    store: Weak<Store>,
    status: Arc<Status>,
}

impl OpenStore {
    /// Waits until the partition has written what it had in memory at a request; returns
    /// `false` when it has not by the deadline, or `pause` says to stop.
    fn wait_written(&self, request: u64, deadline: Instant, mut pause: impl FnMut() -> bool) -> bool {
        // One that is closed has written everything, and one that has stopped writes nothing
        // more.
        let is_over = || {
            let OpenStore { store, status } = self;
            status.checkpoints.is_met(request) || store.strong_count() == 0 || status.phase() != Phase::Running
        };
        while !is_over() {
            if Instant::now() >= deadline || !pause() {
                return false;
            }
        }
        true
    }
}

type OpenStores = BTreeMap<(Role, u32), OpenStore>;

/// The stores of this process, each opened from its folder or restored to it.
#[derive(Clone)]
pub struct Stores {
    data_dir: PathBuf,
    shared: Shared,
    repository: SnapshotRepository,
    log: Log,
    key: ClusterKey,
    open: Arc<Mutex<OpenStores>>,
}

impl Stores {
    pub fn new(data_dir: PathBuf, shared: Shared, repository: SnapshotRepository, log: Log, key: ClusterKey) -> Stores {
        let stores = Stores { data_dir, shared, repository, log, key, open: Arc::default() };
        stores.sweep();
        stores
    }

    /// Removes copies that a killed process was making. The lock on the data directory says
    /// that no other process is making them now.
    fn sweep(&self) {
        for role in Role::ALL {
            let Ok(entries) = std::fs::read_dir(self.data_dir.join("state").join(role.name())) else { continue };
            for entry in entries.filter_map(Result::ok) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let extension = name.split_once('.').map_or("", |(_, extension)| extension);
                if (extension.starts_with("snapshot-") || extension.starts_with("restoring-"))
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(%error, path = %entry.path().display(), "a copy that is of no use could not be removed");
                }
            }
        }
    }

    fn path(&self, role: Role, partition: u32) -> PathBuf {
        role.store_path(&self.data_dir, partition)
    }

    fn opened(&self) -> Vec<(Role, u32, OpenStore)> {
        let mut all = self.open.lock().expect("no panic holds this lock");
        all.retain(|_, open| open.store.strong_count() > 0);
        all.iter().map(|((role, partition), open)| (*role, *partition, open.clone())).collect()
    }

    /// A store of this process, unless it is closed.
    fn find(&self, role: Role, partition: u32) -> Option<OpenStore> {
        self.open.lock().expect("no panic holds this lock").get(&(role, partition)).cloned()
    }

    /// Lets every partition write what it has in memory to its store, and waits for that: a
    /// snapshot is of a store.
    fn checkpoint(&self, turns: &StopToken) {
        let requested: Vec<_> = self
            .opened()
            .into_iter()
            .map(|(role, partition, open)| (role, partition, open.status.checkpoints.request(), open))
            .collect();
        let deadline = Instant::now() + MAX_CHECKPOINT;
        for (role, partition, request, open) in requested {
            let pause = || {
                turns.wait(CHECKPOINT_PAUSE);
                turns.go_on()
            };
            if !open.wait_written(request, deadline, pause) && turns.go_on() {
                let role = role.name();
                tracing::warn!(
                    role,
                    partition,
                    "the snapshot is of the last checkpoint: the next one is not written yet"
                );
            }
        }
    }

    /// The newest state of a partition of the engine, with about everything that its journal
    /// has up to `end`; `None` where it is not open here. Where the folder is on the same file
    /// system, tables are shared.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self, partition: u32, end: u64, folder: TempDir) -> Result<Option<StateCopy>, Error> {
        let role = Role::Engine;
        let found = self.find(role, partition).filter(|open| open.status.phase() == Phase::Running);
        let Some(open) = found else { return Ok(None) };
        let Some(store) = open.store.upgrade() else { return Ok(None) };
        let position = CheckpointMeta::load(&store)?.map_or(0, |meta| meta.next);
        // Released while others write, so that the partition can be given up.
        drop(store);
        if position + NEAR_END_RECORDS < end {
            let deadline = Instant::now() + MAX_COPY_WAIT;
            let pause = || {
                std::thread::sleep(CHECKPOINT_PAUSE);
                true
            };
            // What is not written by then is read from the journal.
            open.wait_written(open.status.checkpoints.request(), deadline, pause);
        }
        let path = folder.path().join("store");
        let Some(store) = open.store.upgrade() else { return Ok(None) };
        store.checkpoint(&path)?;
        drop(store);
        let mut len_bytes = 0;
        for entry in std::fs::read_dir(&path)? {
            len_bytes += entry?.metadata()?.len();
        }
        let store = Store::Rocks(Rocks::open_read_only(&path, role.families())?);
        let Some(meta) = CheckpointMeta::load(&store)? else { return Ok(None) };
        Ok(Some(StateCopy { store: Arc::new(store), meta, folder, len_bytes }))
    }

    /// The stores of a role that are open here.
    pub fn opened_of(&self, role: Role) -> impl Iterator<Item = Arc<Store>> {
        self.opened().into_iter().filter(move |(of, _, _)| *of == role).filter_map(|(_, _, open)| open.store.upgrade())
    }

    fn measure(&self) {
        for (role, partition, open) in self.opened() {
            if role == Role::Engine
                && let Some(store) = open.store.upgrade()
            {
                let bytes = i64::try_from(store.size_bytes()).unwrap_or(i64::MAX);
                askwhen_process::metrics::get().store_bytes.with_label_values(&[&partition.to_string()]).set(bytes);
            }
        }
    }

    /// Takes one snapshot of an open store; `None` when it has been closed.
    fn take(&self, role: Role, partition: u32, now: Millis) -> Result<Option<Manifest>, Error> {
        let Some(store) = self.find(role, partition).and_then(|open| open.store.upgrade()) else { return Ok(None) };
        let path = self.path(role, partition);
        let copy = path.with_extension(format!("snapshot-{}", uuid::Uuid::now_v7().simple()));
        let made = store.checkpoint(&copy).map_err(Error::from);
        // The store is released while files are copied, so that the partition can be given up.
        drop(store);
        let taken = made.and_then(|()| self.upload(role, partition, &copy, now));
        std::fs::remove_dir_all(&copy).ok();
        taken
    }

    /// Brings a copy of a store to the repository, unless it holds that state already.
    fn upload(&self, role: Role, partition: u32, copy: &Path, now: Millis) -> Result<Option<Manifest>, Error> {
        let looked = Rocks::open_read_only(copy, role.families())?;
        let Some(state) = position_of(role, &Store::Rocks(looked))? else { return Ok(None) };
        let earlier = self.repository.list(role.name(), partition).map_err(Error::unreachable)?;
        if let Some(same) = earlier.iter().find(|m| {
            let Subject { position, generation, incarnation, .. } = &m.subject;
            (position, generation, incarnation) == (&state.position, &state.generation, &state.incarnation)
        }) {
            return Ok(Some(same.clone()));
        }
        let writer = writer(&self.path(role, partition))?;
        let before = earlier.into_iter().find(|m| m.subject.writer == writer);
        let subject = Subject {
            role: role.name().to_owned(),
            partition,
            position: state.position,
            positions: state.positions,
            incarnation: state.incarnation,
            partitions: self.log.partitions(),
            logic_version: LOGIC_VERSION,
            generation: state.generation,
            created_at: now,
            writer,
        };
        let written = match self.repository.write(subject.clone(), copy, before.as_ref()) {
            // Tables of the snapshot before have been removed: all are brought again.
            Err(bucket::Error::Damaged { .. }) if before.is_some() => self.repository.write(subject, copy, None),
            written => written,
        };
        written.map(Some).map_err(Error::unreachable)
    }

    /// Trims records that are older than `before` and that two snapshots cover.
    fn trim(&self, role: Role, partition: u32, before: Millis) -> Result<(), Error> {
        let incarnation = format!("{:032x}", self.log.incarnation());
        let mut all = self.repository.list(role.name(), partition).map_err(Error::unreachable)?;
        all.retain(|m| m.subject.incarnation == incarnation);
        let mut whole = all.iter().filter(|m| self.repository.is_whole(m).is_ok());
        let (Some(_), Some(second)) = (whole.next(), whole.next()) else { return Ok(()) };
        for topic in role.trimmed() {
            let at = TopicPartition { topic: *topic, partition };
            let covered = second.subject.positions.get(topic.name()).copied().unwrap_or(0);
            let old = self.log.offset_at(at, before)?;
            self.log.trim(at, covered.min(old))?;
        }
        Ok(())
    }
}

/// Takes a snapshot of every store while no process serves the embedded log; returns their
/// names.
///
/// # Errors
/// When a store cannot be opened or copied.
pub fn take_at_rest(config: &Config, log: &Log) -> Result<Vec<String>, Error> {
    let shared = Shared::new(STORE_MEMORY_BYTES);
    let key = cluster_key(config)?;
    let stores = Stores::new(config.data_dir.clone(), shared, repository(config)?, log.clone(), key);
    let mut names = Vec::new();
    for role in Role::ALL {
        for partition in 0..log.partitions() {
            if !stores.path(role, partition).exists() {
                continue;
            }
            let store = stores.open(role, partition, &Arc::default())?;
            let taken = stores.take(role, partition, Clock::new().wall())?;
            names.extend(taken.map(|manifest| manifest.name()));
            drop(store);
        }
    }
    Ok(names)
}

fn writer_path(store: &Path) -> PathBuf {
    store.with_extension("writer")
}

/// The id of a store's folder. Snapshots share tables only within one folder, because
/// RocksDB numbers files by folder.
fn writer(store: &Path) -> std::io::Result<String> {
    let path = writer_path(store);
    if let Ok(known) = std::fs::read_to_string(&path) {
        return Ok(known);
    }
    let made = uuid::Uuid::new_v4().simple().to_string();
    private::write_new(&path, &made)?;
    Ok(made)
}

/// The thread that takes snapshots regularly, and when it is asked to.
pub struct Snapshots {
    notify: Arc<Notify>,
    asked: Arc<Mutex<Vec<SnapshotReply>>>,
    repository: SnapshotRepository,
    stores: Stores,
    _taking: Service,
}

impl Snapshots {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(stores: Stores, every: Duration, retention: Retention, clock: Clock) -> std::io::Result<Snapshots> {
        let notify = Arc::new(Notify::default());
        let asked: Arc<Mutex<Vec<SnapshotReply>>> = Arc::default();
        let asking = asked.clone();
        let (repository, kept) = (stores.repository.clone(), stores.clone());
        let taking = Service::spawn("snapshots", notify.clone(), move |turns| {
            watch(MAX_SNAPSHOT);
            let mut due = Instant::now() + every;
            let mut all_covered = Instant::now();
            while turns.go_on() {
                turns.wait(due.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)));
                stores.measure();
                askwhen_process::metrics::get().snapshot_age_seconds.set(all_covered.elapsed().as_secs_f64());
                let waiting = std::mem::take(&mut *asking.lock().expect("no panic holds this lock"));
                if waiting.is_empty() && Instant::now() < due {
                    continue;
                }
                let outcome = round(&stores, &retention, &clock, turns);
                if outcome.is_ok() {
                    all_covered = Instant::now();
                }
                for one in waiting {
                    // The request may have been given up.
                    one.send(outcome.clone().map(|all| all.iter().map(Manifest::summary).collect())).ok();
                }
                due = Instant::now() + every;
            }
        })?;
        Ok(Snapshots { notify, asked, repository, stores: kept, _taking: taking })
    }

    /// The stores that snapshots are taken of.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// A function that asks for a snapshot of every store, now.
    pub fn asker(&self) -> impl Fn(SnapshotReply) + Send + Sync + use<> {
        let (asked, notify) = (self.asked.clone(), self.notify.clone());
        move |one| {
            asked.lock().expect("no panic holds this lock").push(one);
            notify.notify();
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.repository.give_up();
    }
}

/// Takes a snapshot of every store that is open.
///
/// # Errors
/// The last that failed; the others are taken all the same.
fn round(
    stores: &Stores,
    retention: &Retention,
    clock: &Clock,
    turns: &StopToken,
) -> Result<Vec<Manifest>, SnapshotFailure> {
    let mut taken = Vec::new();
    let mut failed = None;
    stores.checkpoint(turns);
    for (role, partition, _) in stores.opened() {
        if !turns.go_on() {
            break;
        }
        let started = Instant::now();
        let one = stores.take(role, partition, clock.wall());
        let trimmed = || {
            stores.repository.collect(role.name(), partition, clock.cautious()).map_err(Error::unreachable)?;
            stores.trim(role, partition, clock.cautious() - role.keep(retention))
        };
        match one.and_then(|one| trimmed().map(|()| one)) {
            Ok(Some(manifest)) => {
                askwhen_process::metrics::get().snapshot_seconds.observe(started.elapsed().as_secs_f64());
                taken.push(manifest);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(role = role.name(), partition, detail = %error, "a snapshot failed");
                askwhen_process::metrics::get().snapshot_failures.inc();
                failed = Some(SnapshotFailure { role: role.name(), partition, source: Arc::new(error) });
            }
        }
    }
    failed.map_or(Ok(taken), Err)
}

#[cfg(test)]
mod tests;
