//! Applies the journal to the state of a replay, on a thread for one partition after the
//! other, and compares the decisions on the way.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::recorded::Recorded;
use super::super::{Error, Progress, Source, look_ahead};
use super::Shadow;
use super::notes::{COUNTS, Counts, DifferenceFile, Notes, OPEN, UnrecordedDecision, load};
use super::options::{CACHED_BYTES, RunOptions, RunReport};
use crate::engine::Engine;
use askwhen_domain::webhook::rate::{Pace, Rate};
use askwhen_log::TopicPartition;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::replayer::{self, Replayer};
use askwhen_process::clock::Clock;
use askwhen_wire::topic::Topic;

/// Changed state that is written with the next checkpoint, of one partition.
const CHECKPOINT_BYTES: usize = 32 << 20;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

impl Shadow {
    /// Replays up to these ends, by partition; without them, to where the journal
    /// ends now.
    ///
    /// # Errors
    /// When the log or the replay cannot be read. Its last checkpoint stays.
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
        let failed = AtomicBool::new(false);
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

    /// Replays a partition up to an end; returns how long reading took.
    fn partition(
        &self,
        source: &Source,
        goal: PartitionGoal,
        brake: &mut RateLimiter,
        progress: &Progress,
        failed: &AtomicBool,
    ) -> Result<Duration, Error> {
        let PartitionGoal { partition, end } = goal;
        let (store, meta) = self.store(source, partition)?;
        let open: Vec<UnrecordedDecision> = load(&store, OPEN)?;
        if meta.next >= end && open.is_empty() {
            return Ok(Duration::ZERO);
        }
        check_same_journal(source, partition, &meta)?;
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
        let engine = Engine::open_for_replay(
            store.clone(),
            partition,
            source.partitions,
            CACHED_BYTES / source.partitions as usize,
        )?;
        let mut replayer = Replayer::new(look_ahead::admission(source, partition, &meta)?, meta, engine);
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
}

/// Refuses a state whose last record is not the one in the journal.
fn check_same_journal(source: &Source, partition: u32, meta: &CheckpointMeta) -> Result<(), Error> {
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

/// A partition, and the offset up to which it is replayed.
#[derive(Clone, Copy)]
struct PartitionGoal {
    partition: u32,
    end: u64,
}

/// Lets a thread apply its share of a rate and no more.
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
