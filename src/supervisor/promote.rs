//! Puts a replayed state into the place of the one that serves, while no process serves.
//! Users and tables are the replay's; the checkpoint metadata (positions, sequence
//! numbers) stay those of the state that serves.

use crate::engine::families;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::settings::kafka_settings;
use super::snapshots::Role;
use super::{data, export, source};
use crate::config::Config;
use crate::replay::recorded::Recorded;
use crate::replay::shadow::{self, RunOptions, Shadow};
use crate::replay::{Error, ErrorKind};
use crate::replay::{LogSource, Progress, Source};
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::time;
use askwhen_log::{Kafka, Lease, LeaseChange, Log};
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_process::clock::Clock;
use askwhen_store::snapshot::Subject;
use askwhen_store::{Batch, Rocks, Store};
use askwhen_wire::topic::Topic;

/// Key of the replay's id in a state that was promoted.
const PROMOTED: &[u8] = b"promoted";
/// What to do when the checkpoints of the state that serves are not at the journal's end.
const ADVICE: &str = "start the server once more and stop it in order, then promote. On Kafka, let nothing be written \
                     to the journal, wait some seconds, run `askwhen snapshot create`, and stop the engines";
/// How long the group may take to assign all partitions to this process.
const MAX_ASSIGNMENT_WAIT: Duration = Duration::from_secs(45);

/// The result of a promotion.
#[derive(Debug, Clone)]
pub struct Promoted {
    pub partitions: u32,
    /// The folder in which the state before is kept, on the embedded log.
    pub before: Option<PathBuf>,
    pub differences: u64,
}

/// Replays up to the very record where the state that serves is, and puts the replayed
/// state into its place. Blocks.
///
/// # Errors
/// When a process serves, or when the two states are not at the same record.
pub fn promote(config: &Config, dir: &Path, options: RunOptions, progress: &Progress) -> Result<Promoted, Error> {
    export::refuse_exported(config)?;
    std::fs::create_dir_all(&config.data_dir)?;
    let _lock = data::lock(&config.data_dir).map_err(|error| match error.kind() {
        ErrorKind::Refused => Error::refused(format!("{error}: stop the server, then promote")),
        _ => error,
    })?;
    let source = source(config)?;
    let shadow = Shadow::open(&source, dir)?;
    let promotion = Promotion { config, source: &source, shadow: &shadow, options, progress };
    match &source.place {
        LogSource::Files(_) | LogSource::Own(_) => promotion.on_this_machine(),
        LogSource::Brokers(log) => promotion.in_snapshots(log.partitions()),
    }
}

struct Promotion<'a> {
    config: &'a Config,
    source: &'a Source,
    shadow: &'a Shadow,
    options: RunOptions,
    progress: &'a Progress,
}

impl Promotion<'_> {
    /// Exchanges the state of the data directory.
    fn on_this_machine(&self) -> Result<Promoted, Error> {
        let serving = self.config.data_dir.join("state").join(Role::Engine.name());
        let open = |partition: u32| -> Result<Store, Error> {
            let path = serving.join(partition.to_string());
            if !path.exists() {
                return Err(Error::refused(format!(
                    "{} is not there: the server has not run on this data directory, so there is nothing to replace",
                    path.display()
                )));
            }
            Ok(Store::Rocks(Rocks::open_read_only(&path, families::ALL)?))
        };
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
        if device(&self.shadow.stores_dir()).ok() != device(&serving).ok() && self.shadow.stores_dir().exists() {
            return Err(Error::refused(format!(
                "{} is on another file system than {}: replay into a folder on the same one",
                self.shadow.stores_dir().display(),
                serving.display()
            )));
        }
        let before = self.config.data_dir.join(format!("replaced-{}", self.shadow.id()));
        let mut differences = 0;
        // A promotion that was killed may have exchanged the folders already.
        if open(0)?.get(families::META, PROMOTED)?.as_deref() != Some(self.shadow.id().as_bytes()) {
            let live = |partition| meta_of(&open(partition)?, partition);
            let metas = (0..self.source.partitions).map(live).collect::<Result<Vec<CheckpointMeta>, _>>()?;
            differences = self.catch_up(&metas)?;
            for (partition, live) in (0..).zip(metas) {
                self.install(partition, next_generation(live))?;
            }
            let cwd = rustix::fs::CWD;
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(cwd, self.shadow.stores_dir(), cwd, &serving, flags)
                .map_err(|e| Error::file(&serving, e.into()))?;
        }
        if self.shadow.stores_dir().exists() {
            std::fs::rename(self.shadow.stores_dir(), &before)?;
        }
        self.shadow.remove()?;
        Ok(Promoted { partitions: self.source.partitions, before: Some(before), differences })
    }

    /// Writes the replayed state to the snapshots, from where processes on Kafka restore it.
    fn in_snapshots(&self, partitions: u32) -> Result<Promoted, Error> {
        let alone = ExclusiveLease::wait(self.config, self.source, partitions)?;
        let folder = tempfile::tempdir()?;
        let mut metas = Vec::new();
        for partition in 0..self.source.partitions {
            let newest = self.source.newest(Role::Engine.name(), partition)?;
            let (repository, manifest) = newest.ok_or_else(|| {
                Error::refused(format!(
                    "there is no snapshot of partition {partition} to go on from: start the engines, run `askwhen \
                     snapshot create`, stop them, then promote"
                ))
            })?;
            let into = folder.path().join(partition.to_string());
            repository.restore(&manifest, &into, |_, _| true).map_err(Error::unreachable)?;
            metas.push(meta_of(&Store::Rocks(Rocks::open_read_only(&into, families::ALL)?), partition)?);
        }
        let differences = self.catch_up(&metas)?;
        for (partition, live) in (0..).zip(metas) {
            let meta = next_generation(live);
            let store = self.install(partition, meta.clone())?;
            let copy = folder.path().join(format!("{partition}-copy"));
            store.checkpoint(&copy)?;
            let subject = Subject {
                role: Role::Engine.name().to_owned(),
                partition,
                position: meta.next,
                positions: [(Topic::Events.name().to_owned(), meta.next)].into(),
                incarnation: meta.incarnation,
                partitions: meta.partitions,
                logic_version: meta.logic_version,
                generation: meta.generation,
                created_at: Clock::new().wall(),
                writer: uuid::Uuid::new_v4().simple().to_string(),
            };
            alone.check()?;
            self.source.repository()?.write(subject, &copy, None).map_err(Error::unreachable)?;
        }
        self.shadow.remove()?;
        Ok(Promoted { partitions: self.source.partitions, before: None, differences })
    }

    /// Replays up to where the state that serves is; returns the number of all differences.
    fn catch_up(&self, live: &[CheckpointMeta]) -> Result<u64, Error> {
        let own = format!("{:032x}", self.source.incarnation);
        for (partition, live) in (0..).zip(live) {
            let (_, meta) = self.shadow.store(self.source, partition)?;
            if live.incarnation != own || live.partitions != self.source.partitions {
                return Err(Error::refused(format!("the state of partition {partition} is of another log")));
            }
            if meta.next > live.next {
                return Err(Error::refused(format!(
                    "partition {partition} is replayed up to {}, and the state that serves was written down at {}: \
                     {ADVICE}",
                    meta.next, live.next
                )));
            }
            // Later decisions are on record and would be missing in the state.
            if Recorded::open(self.source, partition, live.next, live.now - live.ahead)?.goes_on()? {
                return Err(Error::refused(format!(
                    "partition {partition} has decided more than the state that was written down at {}: {ADVICE}",
                    live.next
                )));
            }
        }
        let ends: Vec<u64> = live.iter().map(|meta| meta.next).collect();
        let ran = self.shadow.run(self.source, Some(&ends), self.options, self.progress)?;
        for (partition, live) in (0..).zip(live) {
            let (_, meta) = self.shadow.store(self.source, partition)?;
            let met = (meta.next, meta.crc, meta.now, &meta.inbox) == (live.next, live.crc, live.now, &live.inbox);
            if !met {
                return Err(Error::refused(format!(
                    "the replay of partition {partition} does not meet the state that serves: it is at {} ({:08x}), \
                     that at {} ({:08x})",
                    meta.next, meta.crc, live.next, live.crc
                )));
            }
        }
        Ok(ran.report["differences"].as_u64().unwrap_or(0))
    }

    /// Writes the checkpoint metadata of the state that serves into a replayed store.
    fn install(&self, partition: u32, meta: CheckpointMeta) -> Result<Arc<Store>, Error> {
        let (store, _) = self.shadow.store(self.source, partition)?;
        let mut batch = Batch::default();
        meta.save(&mut batch);
        shadow::forget_counts(&mut batch);
        batch.put(families::META, PROMOTED, self.shadow.id());
        store.write(batch)?;
        Ok(store)
    }
}

fn meta_of(store: &Store, partition: u32) -> Result<CheckpointMeta, Error> {
    CheckpointMeta::load(store)?.ok_or_else(|| {
        Error::refused(format!(
            "the state of partition {partition} holds no checkpoint: start the server, then stop it"
        ))
    })
}

/// The checkpoint metadata of a state, for the one that takes its place.
fn next_generation(live: CheckpointMeta) -> CheckpointMeta {
    CheckpointMeta { logic_version: LOGIC_VERSION, generation: live.generation + 1, ..live }
}

/// Every partition of the engine's group, so that nobody decides meanwhile.
struct ExclusiveLease {
    lease: Lease,
}

impl ExclusiveLease {
    fn wait(config: &Config, source: &Source, partitions: u32) -> Result<ExclusiveLease, Error> {
        let log = Log::Kafka(Kafka::connect(kafka_settings(config, source.key.check()))?);
        let lease = log.lease("engine", Topic::Events)?;
        let deadline = Instant::now() + MAX_ASSIGNMENT_WAIT;
        let mut owned = std::collections::BTreeSet::new();
        while owned.len() < partitions as usize {
            match lease.changes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(LeaseChange::Assigned(given)) => owned.extend(given),
                Ok(LeaseChange::Revoked { partitions, done, .. }) => {
                    owned.retain(|partition| !partitions.contains(partition));
                    // The group may not be waiting any more.
                    done.send(()).ok();
                }
                Err(_) => {
                    let since = time::format_duration(MAX_ASSIGNMENT_WAIT.as_millis() as i64);
                    return Err(Error::refused(format!(
                        "other processes run the engine: of {partitions} partitions the group gave {} in {since}. \
                         StopReason them all, then promote",
                        owned.len()
                    )));
                }
            }
        }
        Ok(ExclusiveLease { lease })
    }

    /// Whoever joins takes partitions away.
    fn check(&self) -> Result<(), Error> {
        loop {
            match self.lease.changes.try_recv() {
                Ok(LeaseChange::Assigned(_)) => {}
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(()),
                _ => {
                    let text = "another process has begun to run the engine: stop it, then promote again";
                    return Err(Error::refused(text));
                }
            }
        }
    }
}
