//! Whatever the disk does within what is legal: what was acknowledged is there,
//! what was refused is not, and nothing is there that nobody appended.

use super::*;
use std::collections::BTreeMap;

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Waiting,
    Acknowledged(u64),
    Refused,
    /// Nobody said, or it was said that nobody knows.
    Unknown,
}

struct Run {
    disk: Arc<SimulatedDisk>,
    clock: Clock,
    log: Option<Embedded>,
    random: u64,
    appended: BTreeMap<String, (TopicPartition, Outcome)>,
    waiting: Vec<(String, Answer)>,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            disk: SimulatedDisk::new(seed),
            clock: Clock::simulated(NOON),
            log: None,
            random: seed,
            appended: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        // The numbers of a linear congruential generator; the high bits are good.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn settle(&mut self, is_over: bool) {
        let (disk_gone, mut left) = (is_over, Vec::new());
        for (key, mut answer) in std::mem::take(&mut self.waiting) {
            let outcome = match answer.try_recv() {
                Ok(Ok(placed)) => Outcome::Acknowledged(placed.first),
                Ok(Err(Error::ReadOnly { .. } | Error::Closed)) => Outcome::Refused,
                Ok(Err(_)) => Outcome::Unknown,
                Err(_) if disk_gone => Outcome::Unknown,
                Err(_) => {
                    left.push((key, answer));
                    continue;
                }
            };
            self.appended.get_mut(&key).unwrap().1 = outcome;
        }
        self.waiting = left;
    }

    fn append(&mut self) {
        let at = [EVENTS, DECISIONS, DEFINITIONS][self.below(3) as usize];
        let Some(log) = &self.log else { return };
        let key = format!("{}", self.appended.len());
        let size = [10, 100, 600, 1_500, 5_000][self.random as usize % 5];
        self.waiting.push((key.clone(), append(log, at, vec![record(&key, size)])));
        self.appended.insert(key, (at, Outcome::Waiting));
    }

    fn crash(&mut self) {
        let how = [Crash::Kill, Crash::Synced, Crash::Torn, Crash::Torn][self.below(4) as usize];
        self.disk.crash(how);
        self.settle(false);
        drop(self.log.take());
        self.settle(true);
        self.disk.forget_faults();
        self.disk.set_capacity(None);
    }

    fn open(&mut self, seed: u64) {
        let opened = opened_at(&self.disk, &self.clock, small());
        self.log = Some(opened.unwrap_or_else(|e| panic!("seed {seed}: {e}")));
        self.check(seed);
    }

    fn check(&mut self, seed: u64) {
        self.settle(false);
        let Some(log) = &self.log else { return };
        let mut there: BTreeMap<String, (TopicPartition, u64)> = BTreeMap::new();
        for at in [EVENTS, DECISIONS, DEFINITIONS] {
            let records = all(log, at, 3_000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            for record in &records {
                let key = keys(std::slice::from_ref(record)).remove(0);
                assert!(there.insert(key, (at, record.offset)).is_none(), "seed {seed}: twice");
            }
        }
        for (key, (at, outcome)) in &self.appended {
            let found = there.remove(key);
            match outcome {
                Outcome::Acknowledged(offset) => assert_eq!(found, Some((*at, *offset)), "seed {seed}: {key}"),
                Outcome::Refused => assert_eq!(found, None, "seed {seed}: {key} was refused and is there"),
                Outcome::Waiting => assert_eq!(found, None, "seed {seed}: {key} can be read before it is durable"),
                Outcome::Unknown => assert!(found.is_none_or(|(found, _)| found == *at)),
            }
        }
        assert!(there.is_empty(), "seed {seed}: nobody appended {there:?}");
    }

    fn inject(&mut self) {
        let fault = [Fault::Io, Fault::NoSpace, Fault::Short, Fault::Interrupted, Fault::Death][self.below(5) as usize];
        let all = [
            None,
            Some(Operation::Append),
            Some(Operation::SyncData),
            Some(Operation::SyncDir),
            Some(Operation::Create),
            Some(Operation::Rename),
            Some(Operation::SetLen),
            Some(Operation::Rewrite),
        ];
        let (at, after) = (all[self.below(8) as usize], self.below(12));
        self.disk.inject(at, after, fault);
    }

    fn run(&mut self, seed: u64, steps: u64) {
        self.open(seed);
        for _ in 0..steps {
            match self.below(20) {
                0..10 => self.append(),
                10..16 => {
                    let by = self.below(400);
                    self.clock.pass(Duration::from_millis(by));
                    if let Some(log) = &self.log {
                        log.step();
                    }
                    self.settle(false);
                }
                16 => self.inject(),
                17 => self.check_capacity(),
                18 if self.below(4) == 0 => {
                    self.crash();
                    // A crash while it is being opened, too.
                    if self.below(3) == 0 {
                        let after = self.below(60);
                        self.disk.inject(None, after, Fault::Death);
                        drop(opened_at(&self.disk, &self.clock, small()));
                        self.crash();
                    }
                    self.open(seed);
                }
                _ => {}
            }
        }
        self.crash();
        self.open(seed);
    }

    /// Little room for a while, then enough.
    fn check_capacity(&mut self) {
        let bytes = [None, Some(1), Some(100), Some(100_000_000)][self.below(4) as usize];
        let used: usize = self.disk.paths().iter().filter_map(|path| self.disk.bytes(path)).map(|b| b.len()).sum();
        self.disk.set_capacity(bytes.map(|bytes| used as u64 + (24 << 20) + bytes));
    }
}

#[test]
fn what_was_acknowledged_is_there_and_what_was_refused_is_not_whatever_the_disk_does() {
    for seed in 0..150 {
        let mut run = Run::new(seed);
        run.run(seed, 300);
        let acknowledged = run.appended.values().filter(|(_, o)| matches!(o, Outcome::Acknowledged(_))).count();
        assert!(acknowledged > 0, "seed {seed}: nothing was ever acknowledged");
    }
}

#[test]
fn after_a_failed_write_or_sync_the_outcome_is_unknown_from_the_first_answer_on() {
    for operation in [Operation::Append, Operation::SyncData] {
        let disk = SimulatedDisk::new(1);
        let log = opened(&disk, Options::default()).unwrap();
        written(&log, EVENTS, vec![record("a", 10)]).unwrap();
        disk.inject(Some(operation), 0, Fault::Io);
        let first = written(&log, EVENTS, vec![record("b", 10)]);
        assert!(matches!(first, Err(Error::Unknown(_))), "{first:?}");
        let later = append(&log, EVENTS, vec![record("c", 10)]).try_recv().unwrap();
        assert!(matches!(later, Err(Error::Failed(_))), "of this one nothing was written: {later:?}");
        assert!(matches!(log.is_writable(), Err(Error::Unknown(_))));
        assert_eq!(keys(&all(&log, EVENTS, 1_000).unwrap()), ["a"], "what was durable is still read");
        drop(log);
        disk.crash(Crash::Torn);
        let log = opened(&disk, Options::default()).unwrap();
        assert_eq!(keys(&all(&log, EVENTS, 1_000).unwrap())[0], "a");
    }
}

#[test]
fn the_same_seed_does_the_same() {
    let run = |seed: u64| {
        let mut run = Run::new(seed);
        run.run(seed, 200);
        let files: Vec<_> = run.disk.paths().into_iter().map(|path| (run.disk.bytes(&path), path)).collect();
        (run.disk.operations(), files)
    };
    assert_eq!(run(7), run(7));
}
