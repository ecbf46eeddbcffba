//! Moves an embedded log to Kafka: the journal, the state made from it, definitions,
//! history, and deliveries that have not ended. No process may serve meanwhile, and none
//! serves the data directory afterwards.

mod history;
mod places;
mod transfer;

use crate::engine::families;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::settings::{STORE_MEMORY_BYTES, kafka_settings, repository};
use super::snapshots::{Role, Stores};
use super::{data, owners, private};
use crate::config::Config;
use crate::delivery::{self, Fold};
use crate::engine::{CacheLimit, export as engine};
use crate::replay::Error;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::time::{Millis, format_time};
use askwhen_log::kafka::Founding;
use askwhen_log::{Embedded, Lease, Log, NewRecord, Record, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::admission::{Admission, Signer};
use askwhen_partition::checkpoint::{CheckpointMeta, Checkpointer};
use askwhen_partition::relocate::Relocation;
use askwhen_partition::{Phase, Replies};
use askwhen_process::clock::Clock;
use askwhen_store::snapshot::{SnapshotRepository, Subject};
use askwhen_store::{Batch, Shared, Store};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{SOURCE_HEADER, Source};
use history::History;
pub use history::HistoryReport;
use places::JournalPlaces;
use transfer::{Batches, JournalMerge};

/// A file that marks a data directory as exported.
const MARKER: &str = "exported.json";
/// Prefix of the folder in which the state is made.
const FOLDER: &str = "export-";
/// Decoded users of all partitions together.
const CACHED_BYTES: usize = 256 << 20;
/// How long the engine may take to decide the rest of the journal.
const MAX_REST: Duration = Duration::from_secs(3_600);

/// What was exported, and to where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub brokers: String,
    pub prefix: String,
    pub partitions: u32,
    pub journal_records: u64,
    pub users: u64,
    pub definitions: u64,
    pub waiting_deliveries: u64,
    /// Empty for exports of version 0.1.0.
    #[serde(default)]
    pub history: HistoryReport,
    pub exported_at: String,
}

/// Removes the state that a killed export had made. The caller holds the lock on the data
/// directory, so no export is running.
pub fn sweep(data_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(data_dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(FOLDER)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, path = %entry.path().display(), "what an export left could not be removed");
        }
    }
}

/// What a verb that reads an exported data directory says beforehand, if it was exported.
pub fn exported_note(config: &Config) -> Option<String> {
    let path = config.data_dir.join(MARKER);
    let bytes = if config.kafka { None } else { std::fs::read(path).ok() }?;
    let Report { brokers, prefix, .. } = serde_json::from_slice(&bytes).unwrap_or_default();
    Some(format!(
        "askwhen: {} was exported to the topics {prefix}* on {brokers}: this is what it held until then; \
         with --brokers {brokers} and [log] prefix = \"{prefix}\" it is what there is now",
        config.data_dir.display()
    ))
}

/// A data directory that was exported is not served again: two logs would go on
/// from one state, and send everything twice.
pub fn refuse_exported(config: &Config) -> Result<(), Error> {
    let path = config.data_dir.join(MARKER);
    if config.kafka || !path.exists() {
        return Ok(());
    }
    let report = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
    let Report { brokers, prefix, .. } = report.unwrap_or_default();
    Err(Error::refused(format!(
        "{} was exported to the topics {prefix}* on {brokers}: serve with --brokers. To go on from here instead, delete \
         those topics, then {}",
        config.data_dir.display(),
        path.display()
    )))
}

/// Refuses a key that does not open the secrets of this log, which stay sealed as they are.
fn refuse_another_key(source: &Config, data: &data::Data) -> Result<(), Error> {
    let own = source.data_dir.join("secrets.key");
    match std::fs::read_to_string(&own).ok().and_then(|text| ClusterKey::parse(&text)) {
        Some(key) if key.check() != data.key.check() => Err(Error::refused(format!(
            "the secrets in this log are sealed with {}, and [secrets] key_file is another key: set it to a copy of \
             that file, for every process",
            own.display()
        ))),
        _ => Ok(()),
    }
}

/// Exports the data directory to `target`, which is on Kafka, or only counts what would be
/// exported. Blocks. `progress` is called with the name of a step, how much of it is done,
/// and how much there is.
///
/// # Errors
/// When there is nothing to export, when the target is in use, or out of reach.
pub fn run(target: &Config, is_dry: bool, mut progress: impl FnMut(&'static str, u64, u64)) -> Result<Report, Error> {
    let log_dir = target.data_dir.join("log");
    let Some(partitions) = Embedded::partitions_of(&log_dir)? else {
        return Err(Error::unreachable(format!(
            "{} holds no embedded log; name the data directory with --data-dir",
            target.data_dir.display()
        )));
    };
    let source = Config { kafka: false, partitions, snapshots_url: None, ..target.clone() };
    refuse_exported(&source)?;
    let data = data::prepare(&source, false)?;
    refuse_another_key(&source, &data)?;
    sweep(&source.data_dir);
    // The snapshots must be in reach before anything is made on the brokers.
    let repository = repository(target)?;
    repository.list(Role::Engine.name(), 0).map_err(Error::unreachable)?;
    let clock = Clock::new();
    let log = Arc::new(Embedded::open(&log_dir, partitions, clock.clone())?);
    let export = Export { source: &source, target, data: &data, repository, clock, log: &log };
    let exported = if is_dry { export.count(&mut progress) } else { export.run(&mut progress) };
    log.close();
    let report = exported?;
    if is_dry {
        return Ok(report);
    }
    let text = serde_json::to_vec_pretty(&report).expect("a report serialises");
    private::replace(&source.data_dir.join(MARKER), &text)?;
    Ok(report)
}

struct Export<'a> {
    source: &'a Config,
    target: &'a Config,
    data: &'a data::Data,
    repository: SnapshotRepository,
    clock: Clock,
    log: &'a Arc<Embedded>,
}

/// The old log after everything in it has been decided.
struct QuiescedLog {
    stores: Vec<Arc<Store>>,
    metas: Vec<CheckpointMeta>,
    waiting: Vec<delivery::PendingDelivery>,
}

impl Export<'_> {
    fn run(&self, progress: &mut impl FnMut(&'static str, u64, u64)) -> Result<Report, Error> {
        let QuiescedLog { stores, metas, mut waiting } = self.bring_to_rest(progress)?;
        let mut founding = Founding::begin(kafka_settings(self.target, self.data.key.check()))?;
        let mut places = self.places()?;
        let lasts = self.journal(&mut founding, &metas, &mut places, progress)?;
        places.finish()?;
        for row in &mut waiting {
            let to = id::partition_of(&row.delivery.user_id, self.target.partitions);
            let source = Source::parse(row.source.as_bytes());
            let source = source.and_then(|source| places.get_at_or_before(source.position(), to));
            row.source = source.map_or_else(String::new, |source| source.encode());
        }
        let definitions = self.current_definitions()?;
        let count = definitions.len() as u64;
        self.definitions(&mut founding, definitions)?;
        self.endpoints(&mut founding, &stores[0])?;
        let history = self.history(&mut founding, &places, &waiting, progress)?;
        let waiting_deliveries = self.deliveries(&mut founding, &waiting, progress)?;
        founding.settle(0)?;
        let users = self.state(&founding, &stores, &metas, &lasts, progress)?;
        founding.finish(lasts.iter().map(|last| last.next).collect())?;
        Ok(Report {
            brokers: self.target.brokers.clone(),
            prefix: self.target.prefix.clone(),
            partitions: self.target.partitions,
            journal_records: lasts.iter().map(|last| last.next).sum(),
            users,
            definitions: count,
            waiting_deliveries,
            history,
            exported_at: format_time(self.clock.wall()),
        })
    }

    /// Counts what would be exported. It writes nothing to the brokers.
    fn count(&self, progress: &mut impl FnMut(&'static str, u64, u64)) -> Result<Report, Error> {
        let found = askwhen_log::kafka::check_topics(&kafka_settings(self.target, self.data.key.check()))?;
        if let Some(there) = Topic::ALL.iter().find(|topic| !found.missing.contains(topic)) {
            let (prefix, name) = (&self.target.prefix, there.name());
            return Err(Error::refused(format!("there is a topic {prefix}{name} already: take another --prefix")));
        }
        let rest = self.bring_to_rest(progress)?;
        let log = Log::Embedded(self.log.clone());
        let mut users = 0;
        for store in &rest.stores {
            store.each(families::USERS, |_, _| {
                users += 1;
                Ok::<_, Error>(())
            })?;
        }
        let history = self.history_of(&log, None, &rest.waiting).bring(|_, _, _| Ok(()), progress)?;
        Ok(Report {
            brokers: self.target.brokers.clone(),
            prefix: self.target.prefix.clone(),
            partitions: self.target.partitions,
            journal_records: self.count_journal(&rest.metas, progress)?,
            users,
            definitions: self.current_definitions()?.len() as u64,
            waiting_deliveries: rest.waiting.len() as u64,
            history,
            exported_at: String::new(),
        })
    }

    /// Records that the new journal would have.
    fn count_journal(
        &self,
        metas: &[CheckpointMeta],
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<u64, Error> {
        let signer = Signer::new(&Log::Embedded(self.log.clone()), &self.data.key);
        let mut relocation = Relocation::new(self.rules(metas)?, self.target.partitions, signer);
        let mut merge = JournalMerge::new(self.log, self.source.partitions)?;
        let (mut read, mut placed) = (0, 0);
        while let Some((from, record)) = merge.next()? {
            read += 1;
            placed += u64::from(relocation.place(from, &record).is_some());
            if read % 1_024 == 0 {
                progress("counting the journal", read, merge.all);
            }
        }
        Ok(placed)
    }

    fn places(&self) -> Result<JournalPlaces, Error> {
        let firsts: Vec<u64> = (0..self.source.partitions)
            .map(|partition| self.log.bounds(TopicPartition { topic: Topic::Events, partition }).start)
            .collect();
        Ok(JournalPlaces::new(&self.source.data_dir, &firsts)?)
    }

    fn history_of<'h>(
        &'h self,
        log: &'h Log,
        places: Option<&'h JournalPlaces>,
        waiting: &[delivery::PendingDelivery],
    ) -> History<'h> {
        let waiting = waiting.iter().map(|row| history::hash(&row.delivery.delivery_id)).collect();
        History { log, old: self.source.partitions, new: self.target.partitions, places, waiting }
    }

    /// Appends the records that lists and counters are made of.
    fn history(
        &self,
        founding: &mut Founding,
        places: &JournalPlaces,
        waiting: &[delivery::PendingDelivery],
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<HistoryReport, Error> {
        let log = Log::Embedded(self.log.clone());
        let mut batches: BTreeMap<Topic, Batches> = BTreeMap::new();
        let report = self.history_of(&log, Some(places), waiting).bring(
            |at, new, appended_at| {
                let of_topic =
                    batches.entry(at.topic).or_insert_with(|| Batches::new(at.topic, self.target.partitions));
                of_topic.push(founding, at.partition, (new, Some(appended_at)))
            },
            progress,
        )?;
        batches.into_values().try_for_each(|batch| batch.flush(founding))?;
        Ok(report)
    }

    /// Lets the engine decide everything that the journal holds, and reads the waiting
    /// deliveries. Nothing is sent.
    fn bring_to_rest(&self, progress: &mut impl FnMut(&'static str, u64, u64)) -> Result<QuiescedLog, Error> {
        let (config, log) = (self.source, Log::Embedded(self.log.clone()));
        let shared = Shared::new(STORE_MEMORY_BYTES);
        let stores = Stores::new(
            config.data_dir.clone(),
            shared.clone(),
            repository(config)?,
            log.clone(),
            self.data.key.clone(),
        );
        let statuses: Vec<Arc<askwhen_partition::Status>> = (0..config.partitions).map(|_| Arc::default()).collect();
        let replies = Replies::default();
        let setup = askwhen_partition::Setup::new(
            log.clone(),
            self.clock.clone(),
            self.data.key.clone(),
            replies,
            Checkpointer::start()?,
        );
        let cached = CacheLimit::from(CACHED_BYTES / config.partitions as usize);
        let lease = Lease::of_all(config.partitions);
        let mut owner = owners::engine(config, &setup, &stores, lease, &statuses, &cached)?;
        let rested = self.wait_for_rest(&statuses, progress);
        // Leaving waits for acknowledgements and writes the last checkpoints.
        drop(owner.leave());
        rested?;
        let mut rest = QuiescedLog { stores: Vec::new(), metas: Vec::new(), waiting: Vec::new() };
        for partition in 0..config.partitions {
            let status = &statuses[partition as usize];
            let failed = |stop: StopReason| Error::failed(stop);
            let store = stores.open(Role::Engine, partition, status).map_err(failed)?;
            let end = log.bounds(TopicPartition { topic: Topic::Events, partition })?.end;
            let meta = CheckpointMeta::load(&store).map_err(failed)?;
            let meta = meta.unwrap_or_else(|| CheckpointMeta::new(log.incarnation(), config.partitions, LOGIC_VERSION));
            if meta.next != end {
                return Err(Error::failed(format!(
                    "partition {partition} of the engine is at {} of {end}: its state could not be written down; see \
                     the log lines above and try again",
                    meta.next
                )));
            }
            rest.stores.push(store);
            rest.metas.push(meta);
            let store = stores.open(Role::Delivery, partition, status).map_err(failed)?;
            let folded = Fold::open(partition, &log, store, Arc::default()).and_then(|mut fold| {
                fold.catch_up(&log, |_| Ok(()))?;
                delivery::export::waiting(&fold)
            });
            rest.waiting.extend(folded.map_err(Error::failed)?);
        }
        Ok(rest)
    }

    fn wait_for_rest(
        &self,
        statuses: &[Arc<askwhen_partition::Status>],
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<(), Error> {
        let ends = || -> Vec<u64> {
            (0..self.source.partitions)
                .map(|p| self.log.bounds(TopicPartition { topic: Topic::Events, partition: p }).end)
                .collect()
        };
        let deadline = Instant::now() + MAX_REST;
        loop {
            let before = ends();
            let mut rested = true;
            let mut done = 0;
            for (status, end) in statuses.iter().zip(&before) {
                match status.phase() {
                    Phase::Stopped { why, refused } if refused || status.waits() => return Err(Error::refused(why)),
                    Phase::Running => {
                        let next = status.next.load(Ordering::Acquire);
                        rested &= next >= *end && status.settled.load(Ordering::Acquire);
                        done += next;
                    }
                    _ => rested = false,
                }
            }
            progress("deciding what is undecided", done, before.iter().sum());
            // A forward of one partition makes the journal of another longer.
            if rested && ends() == before {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::failed("the engine does not come to rest; see the log lines above"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The admission rules of the old partitions, with the records that operators have
    /// skipped, and empty checkpoint metadata to read the journal with.
    fn rules(&self, metas: &[CheckpointMeta]) -> Result<Vec<(Admission, CheckpointMeta)>, Error> {
        let log = Log::Embedded(self.log.clone());
        let mut rules = Vec::new();
        for (partition, known) in (0..).zip(metas) {
            let mut admission = Admission::new(&log, &self.data.key, partition);
            let at = TopicPartition { topic: Topic::Events, partition };
            let bounds = log.bounds(at)?;
            log.scan::<askwhen_log::Error>(at, bounds.start, bounds.end, |record| {
                admission.look_ahead(known.bound_macs_from, &record);
                Ok(())
            })?;
            let mut meta = CheckpointMeta::new(log.incarnation(), log.partitions(), LOGIC_VERSION);
            meta.bound_macs_from = known.bound_macs_from;
            rules.push((admission, meta));
        }
        Ok(rules)
    }

    /// Appends the journal to the new partitions, in the order of append times.
    fn journal(
        &self,
        founding: &mut Founding,
        metas: &[CheckpointMeta],
        places: &mut JournalPlaces,
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<Vec<NewJournalEnd>, Error> {
        let (old, new) = (self.source.partitions, self.target.partitions);
        let signer = Signer::new(&Log::Kafka(founding.log().clone()), &self.data.key);
        let mut relocation = Relocation::new(self.rules(metas)?, new, signer);
        let mut merge = JournalMerge::new(self.log, old)?;
        let mut out = Batches::new(Topic::Events, new);
        let mut lasts = vec![NewJournalEnd::default(); new as usize];
        let mut done = 0;
        while let Some((from, record)) = merge.next()? {
            done += 1;
            if done % 1_024 == 0 {
                progress("bringing the journal over", done, merge.all);
            }
            let Some((to, new)) = relocation.place(from, &record) else { continue };
            let last = &mut lasts[to as usize];
            last.crc = Founding::checksum(&new);
            let place = RecordPosition { partition: from, offset: record.offset };
            places.note(place, Source { partition: to, offset: last.next, crc: last.crc })?;
            last.next += 1;
            out.push(founding, to, (new, Some(record.appended_at)))?;
        }
        out.flush(founding)?;
        founding.settle(0)?;
        progress("bringing the journal over", merge.all, merge.all);
        let log = Log::Kafka(founding.log().clone());
        for (partition, last) in (0..).zip(&lasts) {
            let at = TopicPartition { topic: Topic::Events, partition };
            let end = log.bounds(at)?.end;
            let read = if end > 0 { log.read(at, end - 1, 1)?.first().map(|record| record.crc) } else { Some(0) };
            if end != last.next || read != Some(last.crc) {
                return Err(Error::failed(format!(
                    "{at} on the brokers is not what was written: does anyone else write?"
                )));
            }
        }
        Ok(lasts)
    }

    /// The newest version of each definition, in the order in which they were created.
    fn current_definitions(&self) -> Result<Vec<Record>, Error> {
        let at = TopicPartition { topic: Topic::Definitions, partition: 0 };
        let mut newest: BTreeMap<bytes::Bytes, (u64, Record)> = BTreeMap::new();
        let log = Log::Embedded(self.log.clone());
        let bounds = log.bounds(at)?;
        log.scan::<askwhen_log::Error>(at, bounds.start, bounds.end, |record| {
            let Some(key) = record.key.clone() else { return Ok(()) };
            if record.value.is_none() {
                newest.remove(&key);
            } else {
                // Definitions are appended in the order in which they were created.
                let first = newest.get(&key).map_or(record.offset, |(first, _)| *first);
                newest.insert(key, (first, record));
            }
            Ok(())
        })?;
        let mut current: Vec<(u64, Record)> = newest.into_values().collect();
        current.sort_by_key(|(first, _)| *first);
        Ok(current.into_iter().map(|(_, record)| record).collect())
    }

    fn definitions(&self, founding: &mut Founding, current: Vec<Record>) -> Result<(), Error> {
        let at = TopicPartition { topic: Topic::Definitions, partition: 0 };
        for record in current {
            // The header names a position of the old journal.
            let headers = record.headers.into_iter().filter(|(name, _)| name != SOURCE_HEADER.as_bytes());
            let new = NewRecord { key: record.key, headers: headers.collect(), value: record.value };
            founding.append(at, vec![(new, None)])?;
        }
        Ok(())
    }

    /// Appends the waiting deliveries under their ids.
    fn deliveries(
        &self,
        founding: &mut Founding,
        waiting: &[delivery::PendingDelivery],
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<u64, Error> {
        let now = self.clock.now();
        for (done, row) in (1..).zip(waiting) {
            for (at, new) in delivery::export::records(row, self.target.partitions, now) {
                founding.append(at, vec![(new, None)])?;
            }
            progress("bringing deliveries over", done, waiting.len() as u64);
        }
        Ok(waiting.len() as u64)
    }

    /// Appends endpoints to every partition, before the deliveries that are for them.
    fn endpoints(&self, founding: &mut Founding, registrar: &Store) -> Result<(), Error> {
        for command in engine::endpoint_commands(registrar).map_err(Error::failed)? {
            for partition in 0..self.target.partitions {
                let (at, new) = delivery::export::command(&command, partition);
                founding.append(at, vec![(new, None)])?;
            }
        }
        Ok(())
    }

    /// Makes the engine's state of the new partitions, and writes it to the snapshots, from
    /// where their owners restore it.
    fn state(
        &self,
        founding: &Founding,
        stores: &[Arc<Store>],
        metas: &[CheckpointMeta],
        lasts: &[NewJournalEnd],
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<u64, Error> {
        let now = metas.iter().map(|meta| meta.now).max().unwrap_or(0);
        let folder = self.source.data_dir.join(format!("{FOLDER}{}", uuid::Uuid::now_v7().simple()));
        let made = self.write_state(&Log::Kafka(founding.log().clone()), stores, now, lasts, &folder, progress);
        // The state is in the snapshots now.
        std::fs::remove_dir_all(&folder)?;
        made
    }

    fn write_state(
        &self,
        log: &Log,
        stores: &[Arc<Store>],
        now: Millis,
        lasts: &[NewJournalEnd],
        folder: &Path,
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<u64, Error> {
        let shared = Shared::new(STORE_MEMORY_BYTES);
        let partitions = self.target.partitions;
        let path = |partition: u32| -> PathBuf { folder.join(partition.to_string()) };
        let open = |partition| data::open_store(&path(partition), families::ALL, &shared);
        let fresh: Vec<Arc<Store>> = (0..partitions).map(open).collect::<Result<_, _>>()?;
        progress("bringing state over", 0, u64::from(partitions));
        let users = engine::repartition(stores, &fresh).map_err(Error::failed)?;
        let outputs = [
            Topic::Decisions,
            Topic::Responses,
            Topic::Displays,
            Topic::Deliveries,
            Topic::Rejects,
            Topic::Definitions,
        ];
        for (partition, store) in (0..).zip(&fresh) {
            let last = &lasts[partition as usize];
            let mut meta = CheckpointMeta::new(log.incarnation(), partitions, LOGIC_VERSION);
            (meta.next, meta.crc, meta.now) = (last.next, last.crc, now);
            let at = |topic: Topic| TopicPartition { topic, partition: partition % topic.partitions(partitions) };
            for (topic, bounds) in outputs.iter().zip(log.all_bounds(&outputs.map(at))?) {
                meta.out_start.insert(topic.name().to_owned(), bounds.end);
            }
            let mut batch = Batch::default();
            meta.save(&mut batch);
            store.write(batch).map_err(Error::failed)?;
            self.write_snapshot(store, &meta, partition, &path(partition).with_extension("copy"))?;
            progress("bringing state over", u64::from(partition) + 1, u64::from(partitions));
        }
        Ok(users)
    }

    fn write_snapshot(&self, store: &Store, meta: &CheckpointMeta, partition: u32, copy: &Path) -> Result<(), Error> {
        store.checkpoint(copy).map_err(Error::failed)?;
        let subject = Subject {
            role: Role::Engine.name().to_owned(),
            partition,
            position: meta.next,
            positions: BTreeMap::from([(Topic::Events.name().to_owned(), meta.next)]),
            incarnation: meta.incarnation.clone(),
            partitions: meta.partitions,
            logic_version: meta.logic_version,
            generation: meta.generation,
            created_at: self.clock.wall(),
            writer: uuid::Uuid::new_v4().simple().to_string(),
        };
        self.repository.write(subject, copy, None).map_err(Error::unreachable)?;
        Ok(())
    }
}

/// The end of a partition of the new journal.
#[derive(Debug, Clone, Default)]
struct NewJournalEnd {
    next: u64,
    /// Checksum of the last record.
    crc: u32,
}
