//! The embedded log: plain segment files per partition. One thread writes the
//! journal and one everything else, each in a loop: take what is queued, write
//! it, sync it, publish the frontier, acknowledge. Readers and acknowledgements
//! stay below the frontier. Any error of a write or a sync leaves the outcome
//! unknown, and the writer stops for good: the process has to end.

pub mod files;
pub mod follow;

use bytes::BytesMut;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, mpsc};
use std::time::Duration;

use super::segment::{self, SEGMENT_BYTES, Segment};
use super::{Ack, At, Bounds, Error, New, Placed, Record, frame};
use crate::clock::Clock;
use crate::domain::time::Millis;
use crate::thread::{Bell, Thread};
use crate::wire::topic::Topic;

/// Most bytes that may wait for one writer.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Files synced side by side, by each writer.
const SYNC_THREADS: usize = 4;
/// Most bytes written before a sync.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Below so many free bytes the log takes nothing more.
pub const FREE_MARK_BYTES: u64 = 24 << 20;

#[derive(Debug)]
pub struct Embedded {
    incarnation: u128,
    partitions: u32,
    dir: PathBuf,
    parts: BTreeMap<At, Arc<Part>>,
    writers: [Arc<Queue>; 2],
    threads: Mutex<Vec<Thread>>,
    read_only: Arc<AtomicBool>,
    _lock: File,
}

/// One partition: its files, its frontier, who listens.
#[derive(Debug)]
struct Part {
    at: At,
    dir: PathBuf,
    segments: RwLock<Vec<Segment>>,
    /// One past the last durable record.
    end: AtomicU64,
    bells: Mutex<Vec<Arc<Bell>>>,
}

struct Job {
    part: Arc<Part>,
    records: Vec<New>,
    len_bytes: usize,
    ack: Ack,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    filled: Condvar,
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    queued_bytes: usize,
    closed: bool,
    /// Why nothing more is taken, once a write has failed.
    failed: Option<Error>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

/// What a log is, written once beside its segments.
#[derive(serde::Serialize, serde::Deserialize)]
struct Identity {
    format: u32,
    incarnation: String,
    partitions: u32,
}

const FORMAT: u32 = 1;

impl Embedded {
    /// Opens the log in `dir`, or makes one with `partitions`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the log is of another format or partition count,
    /// or in use; [`Error::Damaged`] when acknowledged records are not there.
    pub fn open(dir: &Path, partitions: u32, clock: Clock) -> Result<Embedded, Error> {
        let io = |e: std::io::Error| Error::io(dir.display().to_string(), &e);
        fs::create_dir_all(dir).map_err(io)?;
        let lock = lock(dir)?;
        let identity = identity(dir, partitions)?;
        let incarnation = u128::from_str_radix(&identity.incarnation, 16).map_err(|_| {
            Error::Refused(format!("{}: the incarnation is unreadable", dir.join("log.json").display()))
        })?;
        let ends = read_ends(dir);
        let mut parts = BTreeMap::new();
        for topic in Topic::ALL.iter().filter(|t| **t != Topic::Replies) {
            for partition in 0..topic.partitions(partitions) {
                let at = At { topic: *topic, partition };
                let dir = dir.join(topic.name()).join(partition.to_string());
                let segments = segment::open_all(at, &dir, ends.get(&at.to_string()).copied())?;
                let last = segments.last().expect("there is always one");
                let end = last_offset(last);
                parts.insert(
                    at,
                    Arc::new(Part {
                        at,
                        dir,
                        segments: RwLock::new(segments),
                        end: AtomicU64::new(end),
                        bells: Mutex::default(),
                    }),
                );
            }
        }
        let log = Embedded {
            incarnation,
            partitions,
            dir: dir.to_owned(),
            parts,
            writers: [Arc::default(), Arc::default()],
            threads: Mutex::default(),
            read_only: Arc::default(),
            _lock: lock,
        };
        forget_ends(dir)?;
        log.check_space();
        let mut threads = log.threads.lock().expect("just made");
        for (name, queue) in ["log-journal", "log-outputs"].into_iter().zip(&log.writers) {
            let syncers = Syncers::start().map_err(io)?;
            let (queue, clock, read_only) = (queue.clone(), clock.clone(), log.read_only.clone());
            let writer = Writer { queue, clock, read_only, syncers };
            threads.push(Thread::spawn(name, move || writer.run()).map_err(io)?);
        }
        drop(threads);
        Ok(log)
    }

    /// Incarnation and partitions of the log in `dir`, if there is one.
    ///
    /// # Errors
    /// When what is there is unreadable.
    pub fn identity_of(dir: &Path) -> Result<Option<(u128, u32)>, Error> {
        let read = |identity: Identity| {
            let incarnation = u128::from_str_radix(&identity.incarnation, 16);
            let unreadable = |_| Error::Refused(format!("{}: the incarnation is unreadable", dir.display()));
            incarnation.map(|incarnation| (incarnation, identity.partitions)).map_err(unreadable)
        };
        read_identity(dir)?.map(read).transpose()
    }

    /// The partitions of the log in `dir`, if there is one.
    ///
    /// # Errors
    /// When what is there is unreadable.
    pub fn partitions_of(dir: &Path) -> Result<Option<u32>, Error> {
        Ok(read_identity(dir)?.map(|identity| identity.partitions))
    }

    /// The ends of all partitions at one moment: no record is below them whose
    /// cause is not.
    pub fn cut(&self) -> BTreeMap<String, u64> {
        let ends = || -> Vec<u64> { self.parts.values().map(|part| part.end.load(Ordering::Acquire)).collect() };
        let mut before = ends();
        loop {
            let now = ends();
            // They only grow: what is the same twice was so in between.
            if now == before {
                return self.parts.keys().map(ToString::to_string).zip(now).collect();
            }
            before = now;
        }
    }

    pub fn incarnation(&self) -> u128 {
        self.incarnation
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn part(&self, at: At) -> &Arc<Part> {
        self.parts.get(&at).expect("partitions are those of the declared topics")
    }

    pub fn append(&self, at: At, records: Vec<New>, ack: Ack) {
        let queue = &self.writers[usize::from(at.topic != Topic::Events)];
        let len_bytes: usize = records.iter().map(frame::encoded_len).sum();
        if let Some(largest) = records.iter().map(frame::encoded_len).max()
            && largest > frame::MAX_FRAME_BYTES
        {
            return ack.send(Err(Error::Refused(format!("a record of {largest} bytes is larger than the log takes"))));
        }
        let mut jobs = queue.jobs.lock().expect("no panic holds this lock");
        let refusal = if let Some(failed) = &jobs.failed {
            Some(failed.clone())
        } else if jobs.closed {
            Some(Error::Closed)
        } else if matches!(ack, Ack::Once(_)) && jobs.queued_bytes + len_bytes > MAX_QUEUED_BYTES {
            // Actors bound what they have outstanding themselves.
            Some(Error::Overloaded)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            drop(jobs);
            return ack.send(Err(refusal));
        }
        jobs.queued_bytes += len_bytes;
        jobs.queue.push_back(Job { part: self.part(at).clone(), records, len_bytes, ack });
        drop(jobs);
        queue.filled.notify_one();
    }

    pub fn read(&self, at: At, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let part = self.part(at);
        let end = part.end.load(Ordering::Acquire);
        let mut from = from;
        let mut records = Vec::new();
        while from < end && records.is_empty() {
            part.index_for(from)?;
            let segments = part.segments.read().expect("no panic holds this lock");
            let start = segments[0].base;
            if from < start {
                return Err(Error::Trimmed { at, offset: from, start });
            }
            let which = segments.partition_point(|s| s.base <= from) - 1;
            let segment = &segments[which];
            let (file, path) = (segment.file.clone(), segment.path.clone());
            let (position, len_bytes) = (segment.seek(from), segment.len_bytes);
            let next_base = segments.get(which + 1).map(|s| s.base);
            drop(segments);
            records = segment::read_from(at, (&file, &path), (position, from, end), (len_bytes, max_bytes))?;
            match (records.is_empty(), next_base) {
                (true, Some(base)) => from = base,
                (true, None) => {
                    let detail = "records below the durable end are missing".to_owned();
                    return Err(Error::Damaged { at, offset: from, file: path.display().to_string(), detail });
                }
                _ => {}
            }
        }
        Ok(records)
    }

    pub fn bounds(&self, at: At) -> Bounds {
        let part = self.part(at);
        let start = part.segments.read().expect("no panic holds this lock")[0].base;
        Bounds { start, end: part.end.load(Ordering::Acquire) }
    }

    pub fn subscribe(&self, at: At, bell: Arc<Bell>) {
        let mut bells = self.part(at).bells.lock().expect("no panic holds this lock");
        if !bells.iter().any(|known| Arc::ptr_eq(known, &bell)) {
            bells.push(bell);
        }
    }

    /// Unlinks whole segments below an offset, never the one being written.
    pub fn trim(&self, at: At, below: u64) -> Result<(), Error> {
        let part = self.part(at);
        loop {
            let mut segments = part.segments.write().expect("no panic holds this lock");
            if segments.get(1).is_none_or(|second| second.base > below) {
                return Ok(());
            }
            let old = segments.remove(0);
            drop(segments);
            fs::remove_file(&old.path).map_err(|e| Error::io(old.path.display().to_string(), &e))?;
        }
    }

    pub fn is_writable(&self) -> Result<(), Error> {
        for writer in &self.writers {
            if let Some(failed) = &writer.jobs.lock().expect("no panic holds this lock").failed {
                return Err(failed.clone());
            }
        }
        if self.read_only.load(Ordering::Acquire) {
            return Err(Error::ReadOnly { free_mark_bytes: FREE_MARK_BYTES });
        }
        Ok(())
    }

    /// Looks at the disk; to be called now and then. Gives the free bytes.
    pub fn check_space(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.dir).ok()?;
        let free = found.f_bavail * found.f_frsize;
        self.read_only.store(free < FREE_MARK_BYTES, Ordering::Release);
        Some(free)
    }

    /// The newest append time of any partition: a clock behind it is wrong.
    pub fn newest_at(&self) -> Option<Millis> {
        let newest = |part: &Arc<Part>| {
            part.segments.read().expect("no panic holds this lock").iter().filter_map(|s| s.newest_at).max()
        };
        self.parts.values().filter_map(newest).max()
    }

    /// Writes out what is queued and ends the writers.
    pub fn close(&self) {
        for writer in &self.writers {
            writer.jobs.lock().expect("no panic holds this lock").closed = true;
            writer.filled.notify_all();
        }
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panic holds this lock"));
        let was_open = !threads.is_empty();
        // Waits for them.
        drop(threads);
        if was_open && self.is_writable().is_ok() {
            let ends: BTreeMap<String, u64> =
                self.parts.values().map(|p| (p.at.to_string(), p.end.load(Ordering::Acquire))).collect();
            let text = serde_json::to_vec(&ends).expect("a map serialises");
            if let Err(error) = write_file(&self.dir, "ends.json", &text) {
                tracing::warn!(%error, "could not note the log's end; the next start will find it by itself");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl Part {
    /// Builds the index of the segment that holds `offset`, once.
    fn index_for(&self, offset: u64) -> Result<(), Error> {
        let missing = |segments: &[Segment]| {
            let which = segments.partition_point(|s| s.base <= offset).checked_sub(1)?;
            segments[which].index.is_none().then_some(which)
        };
        if missing(&self.segments.read().expect("no panic holds this lock")).is_none() {
            return Ok(());
        }
        let mut segments = self.segments.write().expect("no panic holds this lock");
        if let Some(which) = missing(&segments) {
            let next = segments.get(which + 1).map(|s| s.base);
            let segment = &mut segments[which];
            let found = segment::scan(segment)?;
            if let Some(next) = next
                && found.next_offset != next
            {
                segment.index = None;
                return Err(Error::Damaged {
                    at: self.at,
                    offset: found.next_offset,
                    file: segment.path.display().to_string(),
                    detail: format!("the file ends before the next one begins, at offset {next}"),
                });
            }
        }
        Ok(())
    }
}

struct Writer {
    queue: Arc<Queue>,
    clock: Clock,
    read_only: Arc<AtomicBool>,
    syncers: Syncers,
}

impl Writer {
    fn run(self) {
        loop {
            let Some(group) = self.next_group() else { return };
            if self.read_only.load(Ordering::Acquire) {
                for job in group {
                    job.ack.send(Err(Error::ReadOnly { free_mark_bytes: FREE_MARK_BYTES }));
                }
                continue;
            }
            let started = std::time::Instant::now();
            match self.write(&group) {
                Ok(firsts) => {
                    crate::metrics::get().log_append_seconds.observe(started.elapsed().as_secs_f64());
                    for (job, first) in group.into_iter().zip(firsts) {
                        job.ack.send(Ok(Placed { first, end: first + job.records.len() as u64 }));
                    }
                }
                Err(error) => {
                    let failed = Error::Unknown(error.to_string());
                    tracing::error!(%error, "the log failed to write; it takes nothing more until a restart");
                    self.queue.jobs.lock().expect("no panic holds this lock").failed = Some(failed.clone());
                    for job in group {
                        job.ack.send(Err(failed.clone()));
                    }
                }
            }
        }
    }

    /// What is queued, up to a bound; `None` when the log closes.
    fn next_group(&self) -> Option<Vec<Job>> {
        let mut jobs = self.queue.jobs.lock().expect("no panic holds this lock");
        loop {
            if let Some(failed) = jobs.failed.clone() {
                for job in std::mem::take(&mut jobs.queue) {
                    job.ack.send(Err(failed.clone()));
                }
                jobs.queued_bytes = 0;
            }
            if !jobs.queue.is_empty() {
                break;
            }
            if jobs.closed {
                return None;
            }
            let waited = self.queue.filled.wait_timeout(jobs, Duration::from_secs(1));
            jobs = waited.expect("no panic holds this lock").0;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(job) = jobs.queue.front() {
            if bytes > 0 && bytes + job.len_bytes > MAX_GROUP_BYTES {
                break;
            }
            bytes += job.len_bytes;
            group.push(jobs.queue.pop_front().expect("just seen"));
        }
        jobs.queued_bytes -= bytes;
        Some(group)
    }

    /// Writes and syncs a group; gives the first offset of each job.
    fn write(&self, group: &[Job]) -> Result<Vec<u64>, Error> {
        let now = self.clock.wall();
        let mut by_part: BTreeMap<At, Vec<usize>> = BTreeMap::new();
        for (i, job) in group.iter().enumerate() {
            by_part.entry(job.part.at).or_default().push(i);
        }
        let mut firsts = vec![0; group.len()];
        let mut dirty: Vec<(Arc<Part>, Arc<File>, u64)> = Vec::new();
        for jobs in by_part.values() {
            let part = &group[jobs[0]].part;
            let durable = part.end.load(Ordering::Acquire);
            let mut next = durable;
            let mut out = BytesMut::new();
            let mut begins = Vec::new();
            for i in jobs {
                firsts[*i] = next;
                for record in &group[*i].records {
                    begins.push((next, out.len() as u64));
                    frame::encode(&mut out, record, next, now, durable);
                    next += 1;
                }
            }
            let file = part.write(&out, &begins, now)?;
            dirty.push((part.clone(), file, next));
        }
        crate::fault::point("written");
        self.syncers.sync_all(&dirty)?;
        for (part, _, end) in &dirty {
            part.end.store(*end, Ordering::Release);
            for bell in part.bells.lock().expect("no panic holds this lock").iter() {
                bell.ring();
            }
        }
        crate::fault::point("appended");
        Ok(firsts)
    }
}

impl Part {
    fn write(&self, bytes: &[u8], begins: &[(u64, u64)], now: Millis) -> Result<Arc<File>, Error> {
        let mut segments = self.segments.write().expect("no panic holds this lock");
        let last = segments.last().expect("there is always one");
        if last.len_bytes > 0 && last.len_bytes + bytes.len() as u64 > SEGMENT_BYTES {
            let base = begins.first().map_or(last.base, |(offset, _)| *offset);
            segments.push(Segment::create(&self.dir, base)?);
        }
        let last = segments.last_mut().expect("there is always one");
        (&*last.file).write_all(bytes).map_err(|e| Error::io(last.path.display().to_string(), &e))?;
        let position = last.len_bytes;
        for (offset, begin) in begins {
            last.note(*offset, position + begin, now);
        }
        last.len_bytes += bytes.len() as u64;
        Ok(last.file.clone())
    }
}

/// Threads that sync files side by side, because a disk merges what waits
/// together. They end with the writer that owns them.
struct Syncers {
    // Dropped before the threads that it keeps alive.
    jobs: mpsc::Sender<Sync>,
    _threads: Vec<Thread>,
}

type Sync = (Arc<File>, mpsc::Sender<std::io::Result<()>>);

impl Syncers {
    fn start() -> std::io::Result<Syncers> {
        let (jobs, queue) = mpsc::channel::<Sync>();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for n in 0..SYNC_THREADS {
            let queue = queue.clone();
            threads.push(Thread::spawn(format!("log-sync-{n}"), move || {
                loop {
                    let job = queue.lock().expect("no panic holds this lock").recv();
                    let Ok((file, done)) = job else { return };
                    // The writer waits for every answer; it is there.
                    done.send(file.sync_data()).ok();
                }
            })?);
        }
        Ok(Syncers { jobs, _threads: threads })
    }

    fn sync_all(&self, dirty: &[(Arc<Part>, Arc<File>, u64)]) -> Result<(), Error> {
        let context = |e: std::io::Error| Error::io("syncing the log", &e);
        let Some(((_, first, _), others)) = dirty.split_first() else { return Ok(()) };
        let (done, answers) = mpsc::channel();
        for (_, file, _) in others {
            self.jobs.send((file.clone(), done.clone())).map_err(|_| Error::Closed)?;
        }
        drop(done);
        let own = first.sync_data().map_err(context);
        let mut answered = 0;
        let all = answers.iter().fold(own, |all, answer| {
            answered += 1;
            all.and(answer.map_err(context))
        });
        // A thread that died without an answer has synced nothing.
        all.and(if answered == others.len() { Ok(()) } else { Err(Error::Unknown("a sync was not answered".into())) })
    }
}

fn last_offset(last: &Segment) -> u64 {
    // The last segment was scanned when it was opened; count what is behind the last index entry.
    let (mut offset, mut position) = last.index.as_ref().and_then(|i| i.last().copied()).unwrap_or((last.base, 0));
    while position < last.len_bytes {
        let Ok(prefix) = segment::read_at(&last.file, position, frame::PREFIX_BYTES) else { break };
        let Some(len) = frame::peek_len(&prefix) else { break };
        position += len as u64;
        offset += 1;
    }
    offset
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| Error::io(path.display().to_string(), &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::Refused(format!("{} is in use by another askwhen", dir.display()))),
    }
}

fn identity(dir: &Path, partitions: u32) -> Result<Identity, Error> {
    let identity = match read_identity(dir)? {
        Some(identity) => identity,
        None => {
            let incarnation = format!("{:032x}", uuid::Uuid::new_v4().as_u128());
            let identity = Identity { format: FORMAT, incarnation, partitions };
            let text = serde_json::to_vec(&identity).expect("an identity serialises");
            write_file(dir, "log.json", &text)?;
            identity
        }
    };
    if identity.format != FORMAT {
        let found = identity.format;
        return Err(Error::Refused(format!("{} is of format {found}; this version reads {FORMAT}", dir.display())));
    }
    if identity.partitions != partitions {
        let found = identity.partitions;
        return Err(Error::Refused(format!(
            "{} was made with {found} partitions and the configuration says {partitions}; set [log] partitions = {found}",
            dir.display()
        )));
    }
    Ok(identity)
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, Error> {
    let path = dir.join("log.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Refused(format!("{} is unreadable: {e}", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display().to_string(), &error)),
    }
}

/// The ends noted at the last orderly close; without them damage at the very
/// end looks like a torn write.
fn read_ends(dir: &Path) -> BTreeMap<String, u64> {
    let bytes = fs::read(dir.join("ends.json")).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// They hold for one start: what is appended from here on goes beyond them.
fn forget_ends(dir: &Path) -> Result<(), Error> {
    let path = dir.join("ends.json");
    match fs::remove_file(&path) {
        Ok(()) => segment::sync_dir(dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(path.display().to_string(), &error)),
    }
}

fn write_file(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let (path, draft) = (dir.join(name), dir.join(format!("{name}.draft")));
    let written = (|| {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    })();
    written.map_err(|e| Error::io(path.display().to_string(), &e))?;
    segment::sync_dir(dir)
}
