//! The log of a simulation: brokers that several machines share, or files of
//! one machine on a disk that loses, tears, refuses and fills.

use std::path::Path;
use std::sync::Arc;

use askwhen_log::disk::{Crash, Fault, Operation, SimulatedDisk};
use askwhen_log::embedded::Options;
use askwhen_log::{AppendQueue, Class, Embedded, Log, Record, Simulated, TopicPartition, Watermarks};
use askwhen_process::clock::Clock;

use crate::machine::every_topic;

/// The bridges' own client on brokers; its machines are not simulated.
const BRIDGE: u32 = 1_000;
pub const INCARNATION: u128 = 77;
const DIR: &str = "/log";
/// Small, so that there are many.
const SEGMENT_BYTES: u64 = 40_000;
/// So that the files of the commit logs take turns often.
const COMMIT_FILE_BYTES: u64 = 20_000;
/// Readers are partly behind it.
const TAIL_BYTES: usize = 3_000;

pub enum Medium {
    Brokers(Arc<Simulated>),
    Disk { disk: Arc<SimulatedDisk>, partitions: u32, open: Option<Arc<Embedded>> },
}

impl Medium {
    pub fn brokers(partitions: u32, now: i64) -> Medium {
        let log = Simulated::new(INCARNATION, partitions);
        log.set_now(now);
        log.hold();
        Medium::Brokers(Arc::new(log))
    }

    pub fn disk(seed: u64, partitions: u32) -> Medium {
        let disk = SimulatedDisk::new(seed);
        // Otherwise it would be made by chance.
        let identity =
            format!(r#"{{"format":1,"incarnation":"{INCARNATION:032x}","partitions":{partitions},"bound_macs":true}}"#);
        disk.overwrite(&Path::new(DIR).join("log.json"), Some(identity.into_bytes()));
        Medium::Disk { disk, partitions, open: None }
    }

    pub fn is_disk(&self) -> bool {
        matches!(self, Medium::Disk { .. })
    }

    /// A process takes it up.
    ///
    /// # Errors
    /// When the log refuses to start.
    pub fn open(&mut self, clock: &Clock, client: u32) -> Result<Log, askwhen_log::Error> {
        match self {
            Medium::Brokers(log) => Ok(Log::Simulated(Arc::new(log.client(client)))),
            Medium::Disk { disk, partitions, open } => {
                let options = Options {
                    segment_bytes: SEGMENT_BYTES,
                    commit_file_bytes: COMMIT_FILE_BYTES,
                    tail_bytes: TAIL_BYTES,
                };
                let log = Embedded::open_stepped(disk.mount(), Path::new(DIR), *partitions, clock.clone(), options)?;
                let log = Arc::new(log);
                *open = Some(log.clone());
                Ok(Log::Embedded(log))
            }
        }
    }

    /// Where requests go; `None` when nobody listens.
    pub fn bridge(&self) -> Option<Log> {
        match self {
            Medium::Brokers(log) => Some(Log::Simulated(Arc::new(log.client(BRIDGE)))),
            Medium::Disk { open, .. } => open.clone().map(Log::Embedded),
        }
    }

    /// Everything that waits becomes durable; gives whether anything did.
    pub fn land_all(&self) -> bool {
        match self {
            Medium::Brokers(log) => {
                let some = !log.append_queues().is_empty();
                log.sync();
                some
            }
            Medium::Disk { open, .. } => {
                let mut some = false;
                while open.as_ref().is_some_and(|log| log.step()) {
                    some = true;
                }
                some
            }
        }
    }

    pub fn land(&self, queue: u8, count: u8) {
        match self {
            Medium::Brokers(log) => {
                let queues = log.append_queues();
                if let Some(queue) = queues.get(usize::from(queue) % queues.len().max(1)) {
                    (0..count).for_each(|_| log.land(*queue));
                }
            }
            Medium::Disk { open, .. } => {
                if let Some(log) = open {
                    log.step();
                }
            }
        }
    }

    fn bridge_queue(&self, queue: u8) -> Option<(&Simulated, AppendQueue)> {
        let Medium::Brokers(log) = self else { return None };
        let queues: Vec<_> = log.append_queues().into_iter().filter(|queue| queue.client == BRIDGE).collect();
        queues.get(usize::from(queue) % queues.len().max(1)).map(|queue| (&**log, *queue))
    }

    pub fn time_out(&self, queue: u8) {
        if let Some((log, queue)) = self.bridge_queue(queue) {
            log.time_out(queue);
        }
    }

    pub fn refuse(&self, queue: u8) {
        if let Some((log, queue)) = self.bridge_queue(queue) {
            log.refuse(queue);
        }
    }

    /// The process that is `client` dies. Of what is on its way `kept` says how
    /// much arrives; with `late` it arrives after others have gone on. Gives
    /// whether anything is late.
    pub fn die(&mut self, client: u32, (kept, late, power_cut): (u8, bool, bool)) -> bool {
        match self {
            Medium::Brokers(log) => {
                log.die(client, |_, length| match kept {
                    0 => 0,
                    1 => length,
                    2 => length / 2,
                    _ => 1,
                });
                let is_late = late && log.append_queues().iter().any(|queue| queue.client == client);
                let first = || log.append_queues().into_iter().find(|queue| queue.client == client && !late);
                while let Some(queue) = first() {
                    log.land(queue);
                }
                is_late
            }
            Medium::Disk { disk, open, .. } => {
                // First the disk: who has died writes nothing more.
                disk.crash(match (power_cut, kept) {
                    (false, _) => Crash::Kill,
                    (true, 0) => Crash::Synced,
                    (true, _) => Crash::Torn,
                });
                *open = None;
                false
            }
        }
    }

    /// Whether the log has failed, so that its process has to end.
    pub fn has_failed(&self) -> bool {
        match self {
            Medium::Brokers(_) => false,
            Medium::Disk { open, .. } => {
                open.as_ref().is_some_and(|log| log.is_writable().is_err_and(|error| error.class() == Class::Unknown))
            }
        }
    }

    /// Aims a fault at the disk.
    pub fn trouble(&self, after: u64, which: u8) {
        let Medium::Disk { disk, .. } = self else { return };
        let (at, fault) = match which % 10 {
            0 => (Operation::Append, Fault::Io),
            1 | 2 => (Operation::Append, Fault::NoSpace),
            3 => (Operation::Append, Fault::Short),
            4 => (Operation::Append, Fault::Interrupted),
            5 => (Operation::SyncData, Fault::Io),
            6 => (Operation::SyncDir, Fault::Io),
            7 => (Operation::Create, Fault::NoSpace),
            8 => (Operation::Read, Fault::Interrupted),
            _ => (Operation::Rename, Fault::Io),
        };
        disk.inject(Some(at), after, fault);
    }

    /// A disk with room for so many bytes more; `None` is room enough.
    pub fn room(&self, bytes: Option<u64>) {
        if let Medium::Disk { disk, open, .. } = self {
            let used: u64 = disk.paths().iter().filter_map(|path| disk.bytes(path)).map(|b| b.len() as u64).sum();
            disk.set_capacity(bytes.map(|bytes| used + bytes));
            if let Some(log) = open {
                log.check_space();
            }
        }
    }

    /// Whether append times are those of a machine's clock.
    pub fn is_on_disk(&self) -> bool {
        matches!(self, Medium::Disk { .. })
    }

    pub fn heal(&self) {
        if let Medium::Disk { disk, .. } = self {
            disk.forget_faults();
            self.room(None);
        }
    }

    /// A bit flips at rest while nobody runs: what is read afterwards is what was,
    /// or an error; then the file is brought back.
    ///
    /// # Errors
    /// When something else is served.
    pub fn flip(&mut self, clock: &Clock, (file, byte, bit): (u8, u32, u8)) -> Result<(), String> {
        let before = self.contents(clock).map_err(|e| format!("the log cannot be read before a bit flips: {e}"))?;
        let Medium::Disk { disk, .. } = self else { return Ok(()) };
        let disk = disk.clone();
        let files: Vec<_> =
            disk.paths().into_iter().filter(|path| path.extension().is_some_and(|x| x == "seg")).collect();
        let Some(path) = files.get(usize::from(file) % files.len().max(1)).cloned() else { return Ok(()) };
        let all: Vec<_> = disk.paths().into_iter().map(|path| (disk.bytes(&path), path)).collect();
        let len = disk.bytes(&path).map_or(0, |bytes| bytes.len());
        if len == 0 {
            return Ok(());
        }
        disk.flip(&path, byte as usize % len, u32::from(bit));
        let after = self.contents(clock);
        disk.crash(Crash::Kill);
        if let Medium::Disk { open, .. } = self {
            *open = None;
        }
        // As from a backup: whatever an attempt to start has changed.
        for path in disk.paths() {
            disk.overwrite(&path, None);
        }
        for (bytes, path) in all {
            disk.overwrite(&path, bytes);
        }
        let Ok(after) = after else { return Ok(()) };
        for ((at, was), (_, is)) in before.iter().zip(&after) {
            // The very last group looks as if the power had gone while it was written.
            let torn = is.len() < was.len() && *is == was[..is.len()];
            if was != is && !torn {
                let file = path.display();
                return Err(format!(
                    "P10: a flipped bit in {file} is served: {at} had {} records and has {}",
                    was.len(),
                    is.len()
                ));
            }
        }
        Ok(())
    }

    /// Every record of every partition, as a process that starts reads it.
    fn contents(&mut self, clock: &Clock) -> Result<Vec<(TopicPartition, Vec<Record>)>, askwhen_log::Error> {
        let log = self.open(clock, 0)?;
        let mut all = Vec::new();
        for at in every_topic(log.partitions()) {
            let bounds = log.bounds(at)?;
            let mut records = Vec::new();
            let mut next = bounds.start;
            while next < bounds.end {
                let some = log.read(at, next, 1 << 20)?;
                next = some.last().map_or(bounds.end, |last| last.offset + 1);
                records.extend(some);
            }
            all.push((at, records));
        }
        drop(log);
        if let Medium::Disk { disk, open, .. } = self {
            disk.crash(Crash::Kill);
            *open = None;
        }
        Ok(all)
    }

    pub fn read(&self, at: TopicPartition, from: u64) -> Vec<Record> {
        let Some(log) = self.bridge() else { return Vec::new() };
        let mut all = Vec::new();
        let mut next = from;
        loop {
            let some = log.read(at, next, 16 << 20).unwrap_or_else(|error| panic!("{at} cannot be read: {error}"));
            let Some(last) = some.last() else { return all };
            next = last.offset + 1;
            all.extend(some);
        }
    }

    pub fn bounds(&self, at: TopicPartition) -> Option<Watermarks> {
        self.bridge()?.bounds(at).ok()
    }

    pub fn set_now(&self, now: i64) {
        if let Medium::Brokers(log) = self {
            log.set_now(now);
        }
    }
}
