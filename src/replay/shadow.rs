//! The state made once more in a place of its own, record by record, and the
//! decisions on the way compared with those on record. It can be stopped at any
//! moment and goes on where it was; in the end it can take the place of the state
//! that serves.

mod notes;

use crate::engine::families;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::recorded::Recorded;
use super::{Error, ErrorKind, Progress, Source, StartingState};
use crate::engine::Engine;
use askwhen_domain::rate::{Pace, Rate};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::{LOGIC_VERSION, goes_on_from};
use askwhen_log::TopicPartition;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::replayer::{self, Replayer};
use askwhen_process::clock::Clock;
use askwhen_store::{Batch, Store};
use askwhen_wire::topic::Topic;
use notes::{COUNTS, Counts, DifferenceFile, Notes, OPEN, UnrecordedDecision, load};

const PLAN: &str = "plan.json";
/// Version of a replay's folder. Plans of version 0.1.0 do not say it: theirs is 1.
const FORMAT: u32 = 1;
const CACHED_BYTES: usize = 512 << 20;
const CHECKPOINT_BYTES: usize = 32 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// How long a plan tries how fast it goes.
const TRIAL: Duration = Duration::from_secs(1);

/// What a shadow is of. Members may be added within a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    #[serde(default = "first_format")]
    format: u32,
    /// The version that began it.
    #[serde(default)]
    program: String,
    id: String,
    incarnation: String,
    partitions: u32,
    logic_version: u32,
    begun_at: String,
    /// By partition: the first offset that is replayed, and the snapshot that it
    /// began with.
    begins: Vec<ReplayStart>,
}

/// What can be told of a plan of any version.
#[derive(Deserialize)]
struct AnyPlan {
    #[serde(default = "first_format")]
    format: u32,
    #[serde(default)]
    program: String,
}

fn first_format() -> u32 {
    1
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ReplayStart {
    offset: u64,
    snapshot: Option<String>,
}

/// How a run goes about it.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    pub threads: usize,
    pub rate: Option<Rate>,
}

/// What a run has done.
#[derive(Debug, Clone)]
pub struct RunReport {
    pub records: u64,
    pub took: Duration,
    /// Of all threads, reading the journal alone.
    pub read_in: Duration,
    pub threads: usize,
    pub report: Value,
}

/// Where a shadow is; locked for as long as this lives.
pub struct Shadow {
    dir: PathBuf,
    plan: Plan,
    _lock: File,
}

/// What a replay would do: records, gaps and how long it takes.
///
/// # Errors
/// When the log cannot be read.
pub fn plan(source: &Source, from: Option<Millis>, threads: usize) -> Result<Value, Error> {
    let folder = tempfile::tempdir()?;
    let mut rows = Vec::new();
    let mut all = 0;
    let mut rate = 0.0;
    for partition in 0..source.partitions {
        let journal = TopicPartition { topic: Topic::Events, partition };
        let decisions = TopicPartition { topic: Topic::Decisions, partition };
        let (bounds, on_record) = (source.bounds(journal)?, source.bounds(decisions)?);
        let into = folder.path().join(partition.to_string());
        let begun = begin(source, partition, from, &into);
        let mut row = json!({
            "partition": partition,
            "journal": {"start": bounds.start, "end": bounds.end},
            "decisions": {"start": on_record.start, "end": on_record.end},
        });
        match begun {
            Ok(begin) => {
                let records = bounds.end.saturating_sub(begin.meta.next);
                row["from"] = begin.meta.next.into();
                row["records"] = records.into();
                row["snapshot"] = begin.snapshot.as_ref().map(|m| m.name()).into();
                row["gaps"] = gaps(bounds.start, begin.meta.next, on_record.start).into();
                all += records;
                if rate == 0.0 && records > 0 {
                    rate = trial(source, partition, begin)?;
                }
            }
            Err(why) if why.kind() == ErrorKind::Refused => row["refused"] = why.to_string().into(),
            Err(error) => return Err(error),
        }
        rows.push(row);
    }
    let threads = threads.clamp(1, source.partitions as usize);
    let seconds = if rate > 0.0 { all as f64 / rate / threads as f64 } else { 0.0 };
    Ok(json!({
        "logic_version": LOGIC_VERSION,
        "partitions": rows,
        "records": all,
        "records_per_second": (rate * threads as f64).round(),
        "threads": threads,
        "eta": time::format_duration((seconds.ceil() as i64).max(1) * time::SECOND),
        "eta_seconds": seconds.ceil(),
    }))
}

/// What will not be looked at, and why.
fn gaps(start: u64, from: u64, decisions_start: u64) -> Vec<String> {
    let mut gaps = Vec::new();
    if start > 0 {
        gaps.push(format!("the journal below {start} has been trimmed"));
    }
    if from > start {
        gaps.push(format!("the {} records before the snapshot are not replayed", from - start));
    }
    if decisions_start > 0 {
        gaps.push("the oldest decisions are no longer on record: they are made again, and not compared".to_owned());
    }
    gaps
}

/// Records a second of one thread, as tried just now.
fn trial(source: &Source, partition: u32, begin: StartingState) -> Result<f64, Error> {
    let StartingState { store, meta, .. } = begin;
    let next = meta.next;
    let engine = Engine::open(store, partition, source.partitions, CACHED_BYTES)?;
    let mut replayer = Replayer::new(source.rules(partition), meta, engine);
    let mut journal_reader = source.journal_reader(TopicPartition { topic: Topic::Events, partition }, next);
    let (started, mut records) = (Instant::now(), 0);
    while started.elapsed() < TRIAL {
        let read = journal_reader.read()?;
        if read.is_empty() {
            break;
        }
        for record in &read {
            replayer.play(record, replayer::ALL)?;
            records += 1;
            if records % 256 == 0 && started.elapsed() >= TRIAL {
                break;
            }
        }
    }
    Ok(f64::from(records) / started.elapsed().as_secs_f64())
}

/// The state to begin with: that before a time, else as early as can be.
fn begin(source: &Source, partition: u32, from: Option<Millis>, into: &Path) -> Result<StartingState, Error> {
    match from {
        Some(time) => source.begin(partition, time, into),
        None => source.begin_early(partition, into),
    }
}

impl Shadow {
    /// Makes a shadow, or takes up the one that is there. Made anew it begins with
    /// the state before `from`, or as early as can be.
    ///
    /// # Errors
    /// When it is in use, when it is of another log or another logic, or when there
    /// is nothing to begin with.
    pub fn open_or_begin(source: &Source, dir: &Path, from: Option<Millis>) -> Result<Shadow, Error> {
        let made = fs::create_dir_all(dir);
        made.map_err(|e| Error::usage(format!("{} cannot hold a replay: {e}", dir.display())))?;
        refuse_foreign(dir)?;
        let lock = lock(dir)?;
        if dir.join(PLAN).exists() {
            if from.is_some() {
                return Err(Error::usage(format!(
                    "{} holds a replay that has begun: run it without --from, or end it with `askwhen replay abort`",
                    dir.display()
                )));
            }
            return Shadow::read(source, dir, lock);
        }
        let mut begins = Vec::new();
        for partition in 0..source.partitions {
            let path = store_path(dir, partition);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            let StartingState { store, meta, snapshot } = begin(source, partition, from, &path)?;
            let mut batch = Batch::default();
            meta.save(&mut batch);
            store.write(batch)?;
            let snapshot = snapshot.map(|manifest| manifest.name());
            begins.push(ReplayStart { offset: meta.next, snapshot });
        }
        let plan = Plan {
            id: uuid::Uuid::now_v7().simple().to_string(),
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: format!("{:032x}", source.incarnation),
            partitions: source.partitions,
            logic_version: LOGIC_VERSION,
            begun_at: time::format_time(Clock::new().wall()),
            begins,
        };
        fs::create_dir_all(dir.join("differences"))?;
        write_durably(&dir.join(PLAN), &serde_json::to_vec_pretty(&plan).expect("a plan serialises"))?;
        Ok(Shadow { dir: dir.to_owned(), plan, _lock: lock })
    }

    /// Takes up the shadow that is there.
    ///
    /// # Errors
    /// When there is none, and as [`Shadow::open_or_begin`].
    pub fn open(source: &Source, dir: &Path) -> Result<Shadow, Error> {
        if !dir.join(PLAN).exists() {
            return Err(none(dir));
        }
        Shadow::read(source, dir, lock(dir)?)
    }

    fn read(source: &Source, dir: &Path, lock: File) -> Result<Shadow, Error> {
        let path = dir.join(PLAN);
        let (bytes, unreadable) =
            (fs::read(&path)?, |e: serde_json::Error| Error::refused(format!("{}: {e}", path.display())));
        let AnyPlan { format, program } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::refused(format!(
                "the replay in {} was begun by askwhen {program} (format {format}), and this is askwhen {}, which \
                 reads formats up to {FORMAT}: go on with that version, or end it with `askwhen replay abort`",
                dir.display(),
                env!("CARGO_PKG_VERSION")
            )));
        }
        let plan: Plan = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let own = (format!("{:032x}", source.incarnation), source.partitions);
        if (&plan.incarnation, plan.partitions) != (&own.0, own.1) {
            return Err(Error::refused(format!("the replay in {} is of another log", dir.display())));
        }
        if !goes_on_from(plan.logic_version) {
            return Err(Error::refused(format!(
                "the replay in {} was begun by a program with logic version {}, this one has {LOGIC_VERSION}: end it \
                 with `askwhen replay abort` and begin anew",
                dir.display(),
                plan.logic_version
            )));
        }
        Ok(Shadow { dir: dir.to_owned(), plan, _lock: lock })
    }

    /// Names this replay among all.
    pub fn id(&self) -> &str {
        &self.plan.id
    }

    /// The state of a partition, and where it is.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self, source: &Source, partition: u32) -> Result<(Arc<Store>, CheckpointMeta), Error> {
        let store = source.store(&store_path(&self.dir, partition))?;
        let meta = CheckpointMeta::load(&store)?.ok_or_else(|| {
            Error::refused(format!("{} holds no checkpoint", store_path(&self.dir, partition).display()))
        })?;
        Ok((store, meta))
    }

    /// The folder with a store for each partition.
    pub fn stores_dir(&self) -> PathBuf {
        self.dir.join("engine")
    }

    /// Replays up to these ends, by partition; without them, to where the journal
    /// ends now.
    ///
    /// # Errors
    /// When the log or the shadow cannot be read. What has been written down stays.
    pub fn run(
        &self,
        source: &Source,
        ends: Option<&[u64]>,
        options: RunOptions,
        progress: &Progress,
    ) -> Result<RunReport, Error> {
        let started = Instant::now();
        let mut work = Vec::new();
        for partition in 0..source.partitions {
            let journal = TopicPartition { topic: Topic::Events, partition };
            let end = match ends {
                Some(ends) => ends[partition as usize],
                None => source.bounds(journal)?.end,
            };
            let (_, meta) = self.store(source, partition)?;
            progress.all.fetch_add(end.saturating_sub(meta.next), Ordering::Relaxed);
            work.push(PartitionGoal { partition, end });
        }
        let threads = options.threads.clamp(1, work.len());
        let (next, read_us) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failed = std::sync::atomic::AtomicBool::new(false);
        let share = 1.0 / threads as f64;
        std::thread::scope(|scope| {
            let worker = || -> Result<(), Error> {
                let mut brake = RateLimiter { rate: options.rate, share, pace: Pace::default(), clock: Clock::new() };
                while let Some(goal) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = self.partition(source, *goal, &mut brake, progress, &failed);
                    let read_in = done.inspect_err(|_| failed.store(true, Ordering::Release))?;
                    read_us.fetch_add(read_in.as_micros() as u64, Ordering::Relaxed);
                }
                Ok(())
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            let panicked = |_| Err(Error::failed("a thread of the replay panicked"));
            let ended: Vec<Result<(), Error>> =
                workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect();
            ended.into_iter().collect::<Result<(), Error>>()
        })?;
        Ok(RunReport {
            records: progress.records.load(Ordering::Relaxed),
            took: started.elapsed(),
            read_in: Duration::from_micros(read_us.load(Ordering::Relaxed)),
            threads,
            report: self.report(source)?,
        })
    }

    /// Replays a partition up to an end; gives how long reading took.
    fn partition(
        &self,
        source: &Source,
        goal: PartitionGoal,
        brake: &mut RateLimiter,
        progress: &Progress,
        failed: &std::sync::atomic::AtomicBool,
    ) -> Result<Duration, Error> {
        let PartitionGoal { partition, end } = goal;
        let (store, meta) = self.store(source, partition)?;
        let open: Vec<UnrecordedDecision> = load(&store, OPEN)?;
        if meta.next >= end && open.is_empty() {
            return Ok(Duration::ZERO);
        }
        same_journal(source, partition, &meta)?;
        let counts: Counts = load(&store, COUNTS)?;
        let kept = DifferenceFile::open(&self.differences_path(partition), counts.kept_bytes)?;
        let next = meta.next;
        let from = open.iter().map(|open| open.offset).min().unwrap_or(next);
        let recorded = Recorded::open(source, partition, from, meta.now - meta.ahead)?;
        let mut notes = Notes { partition, counts, open: Vec::new(), kept, recorded };
        for one in open {
            notes.counts.compared.not_yet_recorded -= 1;
            notes.compare(one.offset, &one.id, &bytes::Bytes::from(one.value))?;
        }
        notes.recorded.forget(next);
        let engine =
            Engine::open(store.clone(), partition, source.partitions, CACHED_BYTES / source.partitions as usize)?;
        let mut replayer = Replayer::new(source.admission(partition, &meta)?, meta, engine);
        let mut journal_reader = source.journal_reader(TopicPartition { topic: Topic::Events, partition }, next);
        let mut written = Instant::now();
        while replayer.meta.next < end && !failed.load(Ordering::Acquire) {
            let records = journal_reader.read()?;
            if records.is_empty() {
                break;
            }
            for record in records.iter().take_while(|record| record.offset < end) {
                brake.wait();
                let effects = replayer.play(record, replayer::ALL)?.unwrap_or_default();
                for output in effects.outputs.iter().filter(|output| output.topic == Topic::Decisions) {
                    let Some(value) = &output.value else { continue };
                    notes.compare(record.offset, &output.id, value)?;
                }
                notes.counts.records += 1;
                progress.records.fetch_add(1, Ordering::Relaxed);
                if replayer.dirty_bytes() >= CHECKPOINT_BYTES || written.elapsed() >= CHECKPOINT_EVERY {
                    notes.checkpoint(&mut replayer, &store)?;
                    written = Instant::now();
                }
            }
        }
        notes.checkpoint(&mut replayer, &store)?;
        Ok(journal_reader.spent)
    }

    fn differences_path(&self, partition: u32) -> PathBuf {
        self.dir.join("differences").join(format!("{partition}.ndjson"))
    }

    /// How far each partition is, and how its decisions compare.
    ///
    /// # Errors
    /// When the shadow cannot be read.
    pub fn report(&self, source: &Source) -> Result<Value, Error> {
        let mut total = Counts::default();
        let mut rows = Vec::new();
        for (partition, beginning) in (0..).zip(&self.plan.begins) {
            let (store, meta) = self.store(source, partition)?;
            let counts: Counts = load(&store, COUNTS)?;
            let end = source.bounds(TopicPartition { topic: Topic::Events, partition })?.end;
            total.records += counts.records;
            total.compared.add(&counts.compared);
            rows.push(json!({
                "partition": partition,
                "from": beginning.offset,
                "snapshot": beginning.snapshot,
                "next": meta.next,
                "end": end,
                "decisions": counts.compared,
            }));
        }
        Ok(json!({
            "begun_at": self.plan.begun_at,
            "logic_version": self.plan.logic_version,
            "records": total.records,
            "decisions": total.compared,
            "differences": total.compared.differences(),
            "partitions": rows,
        }))
    }

    /// The differences that are kept with both sides, by partition and place.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn differences(&self, mut each: impl FnMut(Value)) -> Result<(), Error> {
        for partition in 0..self.plan.partitions {
            let Ok(file) = File::open(self.differences_path(partition)) else { continue };
            for line in BufReader::new(file).lines() {
                each(serde_json::from_str(&line?).map_err(Error::failed)?);
            }
        }
        Ok(())
    }

    /// Removes all of it; of another log than `own` nothing.
    ///
    /// # Errors
    /// When there is none, when it is another's or in use, or cannot be removed.
    pub fn abort(dir: &Path, own: Option<u128>) -> Result<(), Error> {
        if !dir.join(LOCK).exists() {
            return Err(none(dir));
        }
        let _lock = lock(dir)?;
        let plan = fs::read(dir.join(PLAN)).ok().and_then(|bytes| serde_json::from_slice::<Plan>(&bytes).ok());
        let own = own.map(|incarnation| format!("{incarnation:032x}"));
        if let (Some(plan), Some(own)) = (plan, own)
            && plan.incarnation != own
        {
            return Err(Error::refused(format!("the replay in {} is of another log", dir.display())));
        }
        remove(dir)
    }

    /// Removes what is left of it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.dir)
    }
}

/// In every folder that holds a replay, and in no other.
const LOCK: &str = "replay.lock";
/// What a replay's folder holds.
const NAMES: [&str; 5] = [PLAN, "plan.new", "engine", "differences", LOCK];

fn remove(dir: &Path) -> Result<(), Error> {
    // Without its plan it is none, whatever is left of it.
    for name in NAMES {
        let path = dir.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    // Others may have put something there.
    fs::remove_dir(dir).ok();
    Ok(())
}

/// What comes next must stand behind what the state was made from.
fn same_journal(source: &Source, partition: u32, meta: &CheckpointMeta) -> Result<(), Error> {
    let journal = TopicPartition { topic: Topic::Events, partition };
    if meta.next <= source.bounds(journal)?.start {
        return Ok(());
    }
    let last = source.journal_reader(journal, meta.next - 1).read()?;
    if last.first().is_none_or(|record| record.crc != meta.crc) {
        return Err(Error::refused(format!(
            "{journal} holds another record at {} than the replay was made from: end it with `askwhen replay abort` and \
             begin anew",
            meta.next - 1
        )));
    }
    Ok(())
}

fn none(dir: &Path) -> Error {
    Error::usage(format!("there is no replay in {}: `askwhen replay run` begins one", dir.display()))
}

/// A folder with anything else in it is somebody else's.
fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::usage(format!("{}: {e}", dir.display())))?;
    let names: Vec<String> =
        entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let ours = names.iter().any(|name| name == LOCK) && names.iter().all(|name| NAMES.contains(&name.as_str()));
    if names.is_empty() || ours {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} holds something that is no replay: name a folder that is empty or not there with --shadow",
        dir.display()
    )))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::refused(format!("the replay in {} is in use by another process", dir.display())))?;
    Ok(file)
}

fn store_path(dir: &Path, partition: u32) -> PathBuf {
    dir.join("engine").join(partition.to_string())
}

/// Forgets what the replay noted in a store; for whoever takes it up.
pub fn forget_counts(batch: &mut Batch) {
    batch.delete(families::META, COUNTS);
    batch.delete(families::META, OPEN);
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(fresh, path)?)
}

/// A partition, and the offset up to which it is replayed.
#[derive(Clone, Copy)]
struct PartitionGoal {
    partition: u32,
    end: u64,
}

/// Keeps a thread to its share of a rate.
struct RateLimiter {
    rate: Option<Rate>,
    share: f64,
    pace: Pace,
    clock: Clock,
}

impl RateLimiter {
    fn wait(&mut self) {
        let Some(rate) = self.rate else { return };
        let now = self.clock.wall();
        let due = self.pace.next(rate, self.share, now);
        if due > now {
            std::thread::sleep(Duration::from_millis((due - now) as u64));
        }
        self.pace.take(rate, self.share, due);
    }
}
