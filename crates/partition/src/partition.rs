//! One partition: it is opened at its checkpoint and then stepped by a thread of the pool.

mod apply;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::ack_tracker::AckTracker;
use super::admission::{Admission, Signer};
use super::attempts::Attempts;
use super::checkpoint::{CheckpointDone, CheckpointMeta, Frozen, PROGRAM};
use super::definitions::LostDefinitions;
use super::loss::pass_accepted_loss;
use super::machine::Machine;
use super::restart::{Scanned, answer_from, behind, check_meta, look_ahead, open_attempts, poisoned, scan_outputs};
use super::setup::Setup;
use super::status::{Phase, Status, is_behind};
use super::stop::StopReason;
use askwhen_domain::time::{Millis, SECOND};
use askwhen_log::{Ack, AckQueue, DiskClaim, Fetch as _, Reader, TopicPartition};
use askwhen_process::fault;
use askwhen_process::thread::Notify;
use askwhen_store::Store;
use askwhen_wire::record::Internal;
use askwhen_wire::topic::Topic;

/// The name of this reader in the log, and at the start barrier.
const ENGINE: &str = "engine";
/// Bytes of unacknowledged appends above which no more records are applied.
const MAX_OUTSTANDING_BYTES: usize = 4 << 20;
/// How often the log is asked whether processes of version 0.1.0 may still write to it.
const BIND_MACS_EVERY: Duration = Duration::from_secs(30);
/// Bytes on disk for each byte of changed state: first in the store's write-ahead log, then
/// in a table.
const WRITTEN_PER_DIRTY: u64 = 2;
/// How often a tick is appended while a request waits and no other record comes.
const TICK_EVERY: Duration = Duration::from_millis(500);

/// Whether a step did anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Worked,
    Idle,
}

type Written = (mpsc::Sender<Result<(), askwhen_store::Error>>, mpsc::Receiver<Result<(), askwhen_store::Error>>);

/// What the pool keeps of a running partition: its notifier and its status.
pub struct Handles {
    pub notify: Arc<Notify>,
    pub status: Arc<Status>,
}

pub struct Partition<M> {
    partition: u32,
    setup: Setup,
    admission: Admission,
    signer: Signer,
    attempts: Attempts,
    /// Disk space for what the next checkpoint writes.
    claim: DiskClaim,
    store: Arc<Store>,
    machine: M,
    meta: CheckpointMeta,
    tracker: AckTracker,
    /// Ids of outputs that the log already has, of records that are reprocessed.
    already_written: HashSet<String>,
    reprocessed_until: u64,
    definitions: LostDefinitions,
    /// By output topic, the journal offset below which all outputs were written and have
    /// been trimmed since.
    floors: BTreeMap<Topic, u64>,
    acks: AckQueue,
    written: Written,
    notify: Arc<Notify>,
    reader: Reader,
    /// Records that were read and not applied yet.
    unread: VecDeque<askwhen_log::Record>,
    /// The end of the journal when the partition was opened. Requests below it that were
    /// appended before `answer_from` are not waiting any more.
    taken_up_at: u64,
    answer_from: Millis,
    gauges: Gauges,
    ticked: Duration,
    /// When the log was last asked whether older processes write to it.
    asked_for_macs: Option<Duration>,
    checkpointed: Duration,
    /// The journal offset of the last frozen checkpoint.
    frozen_next: u64,
    /// The last request for a checkpoint when it was frozen.
    frozen_for: u64,
    freezing: Option<(CheckpointMeta, Option<Frozen>)>,
    /// By tag, the bytes of an append that is not acknowledged yet.
    outstanding: BTreeMap<u64, usize>,
    outstanding_bytes: usize,
    status: Arc<Status>,
}

impl<M: Machine> Partition<M> {
    /// Opens a partition at its checkpoint.
    ///
    /// # Errors
    /// [`StopReason::Refused`] when the store and the log do not belong together.
    pub fn open(
        partition: u32,
        setup: Setup,
        store: Arc<Store>,
        machine: M,
        logic_version: u32,
        handles: Handles,
    ) -> Result<Partition<M>, StopReason> {
        let Handles { notify, status } = handles;
        let journal = TopicPartition { topic: Topic::Events, partition };
        let fresh = CheckpointMeta::new(setup.log.incarnation(), setup.log.partitions(), logic_version);
        let mut meta = CheckpointMeta::load(&store)?.unwrap_or_else(|| fresh.clone());
        setup.log.is_complete(partition)?;
        pass_accepted_loss(&setup, journal, &mut meta)?;
        check_meta(&meta, &fresh, &setup.log, journal)?;
        (meta.logic_version, meta.program) = (logic_version, PROGRAM.into());
        take_clock(&setup, meta.ahead)?;
        let end = setup.log.bounds(journal)?.end;
        let mut admission = Admission::new(&setup.log, &setup.key, partition);
        let time = look_ahead(&setup.log, journal, end, &meta, &setup.clock, &mut admission)?;
        if is_behind(&setup.clock, time) {
            return Err(behind(time));
        }
        let attempts = open_attempts(&setup, partition)?;
        if let Some(offset) = attempts.poison().filter(|offset| *offset >= meta.next && !admission.skips(*offset)) {
            return Err(poisoned(TopicPartition { topic: Topic::Events, partition }, offset, "decided"));
        }
        status.set(Phase::Opening("looking for what the log already has".into()));
        let Scanned { ids: already_written, reprocessed_until, floors, journal_end } =
            scan_outputs(&setup.log, partition, &meta, &machine.output_topics(partition), &status)?;
        if let Some(barrier) = &setup.barrier {
            barrier.arrive(ENGINE, partition);
            if !barrier.wait(&status) {
                return Err(StopReason::restart("given up"));
            }
        }
        let definitions = LostDefinitions::restore(&setup, partition, &mut meta, &machine, journal_end)?;
        let already_written = if fault::mutant("forget_what_is_redone") { HashSet::new() } else { already_written };
        meta.next += u64::from(fault::mutant("skip_a_record_at_restart") && meta.next < journal_end);
        let answer_from = answer_from(&setup.log, journal, meta.next, journal_end)?;
        let reader = setup.log.reader(ENGINE, notify.clone());
        status.next.store(meta.next, Ordering::Release);
        status.time.store(meta.time(), Ordering::Release);
        status.goal.store(journal_end, Ordering::Release);
        setup.fence.commit(partition, meta.next);
        let meta_next = meta.next;
        Ok(Partition {
            partition,
            admission,
            signer: Signer::new(&setup.log, &setup.key),
            attempts,
            claim: setup.log.claim(),
            store,
            machine,
            tracker: AckTracker::new(meta.next),
            meta,
            already_written,
            reprocessed_until,
            definitions,
            floors,
            acks: AckQueue::new(notify.clone()),
            written: mpsc::channel(),
            notify,
            reader,
            unread: VecDeque::new(),
            taken_up_at: journal_end,
            answer_from,
            gauges: Gauges::of(partition),
            ticked: setup.clock.monotonic(),
            // When nothing is left to read for the first time.
            asked_for_macs: None,
            checkpointed: setup.clock.monotonic(),
            frozen_next: meta_next,
            frozen_for: 0,
            freezing: None,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            status,
            setup,
        })
    }

    fn journal(&self) -> TopicPartition {
        TopicPartition { topic: Topic::Events, partition: self.partition }
    }

    /// Reads records, applies them, and appends what follows from them.
    ///
    /// # Errors
    /// Why the partition has to stop.
    pub fn step(&mut self) -> Result<Progress, StopReason> {
        let mut progress = self.take_acknowledgements()?;
        self.definitions.step(&self.setup.log, self.meta.next, self.tracker.outstanding() == 0)?;
        let waits = self.waits_for_the_clock() || !self.has_room();
        if !waits && self.outstanding_bytes < MAX_OUTSTANDING_BYTES && !self.is_full() {
            if self.unread.is_empty() {
                let batch = self.reader.read(self.journal(), self.meta.next, self.setup.step_bytes)?;
                if batch.records.is_empty() && batch.at_end {
                    // The rest up to the goal may be offsets without records.
                    self.status.goal.fetch_min(self.meta.next, Ordering::AcqRel);
                    self.tick();
                    self.bind_macs();
                }
                self.gauges.lag_records.set((batch.end.saturating_sub(self.meta.next)) as i64);
                let late = batch.end > self.meta.next;
                let behind = if late { (self.setup.clock.now() - self.meta.now).max(0) } else { 0 };
                self.gauges.lag_seconds.set(behind as f64 / SECOND as f64);
                self.unread = batch.records.into();
            }
            if !self.unread.is_empty() {
                self.apply_batch()?;
                progress = Progress::Worked;
            }
        }
        self.checkpoint_if_due();
        // In this order, so that whoever sees the new offset also sees what is
        // unacknowledged.
        self.status.settled.store(self.tracker.outstanding() == 0, Ordering::Release);
        self.status.next.store(self.meta.next, Ordering::Release);
        self.status.time.store(self.meta.time(), Ordering::Release);
        if !self.already_written.is_empty() && self.meta.next >= self.reprocessed_until {
            self.already_written = HashSet::new();
        }
        // Otherwise acknowledgements are counted when something else is to be done, or when
        // the thread looks by itself.
        let waits_for_acks = self.outstanding_bytes >= MAX_OUTSTANDING_BYTES || self.setup.test_clock;
        if self.acks.set_waiting(waits_for_acks) {
            progress = Progress::Worked;
        }
        Ok(progress)
    }

    /// Whether the disk has room for the changed state. Without it a checkpoint is written
    /// and no more records are applied; they wait in the journal.
    fn has_room(&mut self) -> bool {
        let dirty = self.machine.dirty_bytes() as u64;
        let has_room = self.claim.set(WRITTEN_PER_DIRTY * dirty);
        if !has_room && dirty > 0 && self.meta.next > self.frozen_next {
            self.checkpoint_now();
        }
        has_room
    }

    /// Bounds the state that changes while a checkpoint is being written.
    fn is_full(&self) -> bool {
        self.freezing.is_some() && self.machine.dirty_bytes() >= 2 * self.setup.checkpoint_bytes
    }

    /// Appends a tick, so that time passes for requests that wait. The append is not
    /// tracked: if it is lost, another follows.
    fn tick(&mut self) {
        let now = self.setup.clock.monotonic();
        if !self.machine.wants_ticks() || now < self.ticked + TICK_EVERY {
            return;
        }
        self.ticked = now;
        let new = self.signer.internal(self.partition, "", &Internal::Tick {});
        let (nobody, _) = tokio::sync::oneshot::channel();
        self.setup.log.append(self.journal(), vec![new], Ack::Once(nobody));
    }

    /// Whether to wait because this machine's clock is behind the journal's time. Records
    /// that were in the journal when the partition was opened are applied all the same:
    /// they were accepted when clocks were right.
    fn waits_for_the_clock(&mut self) -> bool {
        let waits = self.meta.next >= self.taken_up_at && is_behind(&self.setup.clock, self.meta.time());
        if waits == self.status.clock_behind.swap(waits, Ordering::AcqRel) {
            return waits;
        }
        if waits {
            let why = behind(self.meta.time()).to_string();
            tracing::error!(partition = self.partition, reason = why, "the partition has stopped");
            self.status.set(Phase::Stopped { why, refused: false });
        } else {
            tracing::info!(partition = self.partition, "the clock is right again: the partition goes on");
            self.status.set(Phase::Running);
        }
        waits
    }

    /// Tells a log that version 0.1.0 founded that no process of that version is left: from
    /// then on only MACs that name log and partition are valid. The append is not tracked:
    /// if it is lost, another follows.
    fn bind_macs(&mut self) {
        if self.setup.log.binds_macs() || self.meta.bound_macs_from.is_some() {
            return;
        }
        let now = self.setup.clock.monotonic();
        if self.asked_for_macs.is_some_and(|asked| now < asked + BIND_MACS_EVERY) {
            return;
        }
        self.asked_for_macs = Some(now);
        match self.setup.log.has_older_writers() {
            Ok(false) => {
                let new = self.signer.internal(self.partition, "", &Internal::BindMacs {});
                let (nobody, _) = tokio::sync::oneshot::channel();
                self.setup.log.append(self.journal(), vec![new], Ack::Once(nobody));
            }
            Ok(true) => {}
            Err(error) => tracing::info!(%error, "the group cannot be asked which versions its members have"),
        }
    }

    /// Stops reading the journal; appends and checkpoints in progress continue.
    pub fn stop_reading(&mut self) {
        let journal = self.journal();
        self.reader.leave(journal);
        self.unread.clear();
    }

    /// Whether all applied records are acknowledged and checkpointed.
    pub fn is_settled(&self) -> bool {
        self.tracker.outstanding() == 0 && self.freezing.is_none()
    }

    /// Takes acknowledgements and finished checkpoints, without reading on; returns whether
    /// everything is settled.
    pub fn settle(&mut self) -> bool {
        if let Err(stop) = self.take_acknowledgements() {
            tracing::error!(partition = self.partition, reason = %stop, "the partition could not settle");
            return true;
        }
        self.is_settled()
    }

    /// Begins a checkpoint now, unless one is in progress.
    pub fn checkpoint_now(&mut self) {
        if self.freezing.is_none() {
            self.freezing = Some((self.meta.clone(), Some(self.machine.freeze(self.meta.now))));
            self.checkpointed = self.setup.clock.monotonic();
            self.frozen_next = self.meta.next;
            self.frozen_for = self.status.checkpoints.last();
        }
        self.hand_over();
    }

    fn take_acknowledgements(&mut self) -> Result<Progress, StopReason> {
        let mut progress = Progress::Idle;
        while let Some((tag, outcome)) = self.acks.try_next() {
            self.outstanding_bytes -= self.outstanding.remove(&tag).unwrap_or(0);
            self.tracker.acknowledge(tag, outcome?.end);
            fault::point("outputs_acked");
            progress = Progress::Worked;
        }
        while let Ok(written) = self.written.1.try_recv() {
            // Also after a failure: the store is opened again once nothing is being written
            // to it.
            self.freezing = None;
            written?;
            self.machine.persisted();
            self.setup.fence.commit(self.partition, self.frozen_next);
            self.status.checkpoints.meet(self.frozen_for);
            progress = Progress::Worked;
        }
        self.hand_over();
        Ok(progress)
    }

    fn checkpoint_if_due(&mut self) {
        if self.freezing.is_some() {
            return self.hand_over();
        }
        let requests = &self.status.checkpoints;
        if requests.any() {
            if self.meta.next > self.frozen_next {
                return self.checkpoint_now();
            }
            // The store has everything.
            requests.meet(requests.last());
        }
        let dirty = self.machine.dirty_bytes();
        let waited = self.setup.clock.monotonic().saturating_sub(self.checkpointed);
        let due = waited >= self.setup.checkpoint_every && self.meta.next > self.frozen_next;
        if due || dirty >= self.setup.checkpoint_bytes {
            self.checkpoint_now();
        }
    }

    /// Gives a frozen state to the checkpointer once all its outputs are acknowledged: the
    /// store must never be ahead of them.
    fn hand_over(&mut self) {
        let Some((meta, frozen)) = &mut self.freezing else { return };
        if self.tracker.acked() < meta.next && !fault::mutant("checkpoint_before_outputs") {
            return;
        }
        let Some(frozen) = frozen.take() else { return };
        for (topic, end) in self.tracker.ends_up_to(meta.next) {
            meta.out_start.insert(topic.name().to_owned(), end);
            self.meta.out_start.insert(topic.name().to_owned(), end);
        }
        let done = CheckpointDone { written: self.written.0.clone(), notify: self.notify.clone() };
        self.setup.checkpointer.write(self.store.clone(), frozen, meta.clone(), done);
    }

    /// Whether a checkpoint of this partition is still being written.
    pub fn is_writing(&mut self) -> bool {
        // Its result does not matter any more, only that it has ended.
        if self.written.1.try_recv().is_ok() {
            self.freezing = None;
        }
        matches!(self.freezing, Some((_, None)))
    }
}

/// Accepts the offset of a test clock, but only in a process that has one.
fn take_clock(setup: &Setup, ahead: Millis) -> Result<(), StopReason> {
    if ahead > 0 && !setup.test_clock {
        return Err(StopReason::refused(
            "a test clock has moved the time of this journal: start with --test-clock, and never use it for real data",
        ));
    }
    if setup.test_clock {
        setup.clock.set_ahead(ahead);
    }
    Ok(())
}

/// The metrics of one partition.
struct Gauges {
    lag_records: prometheus::IntGauge,
    lag_seconds: prometheus::Gauge,
}

impl Gauges {
    fn of(partition: u32) -> Gauges {
        let (metrics, label) = (askwhen_process::metrics::get(), partition.to_string());
        Gauges {
            lag_records: metrics.engine_lag_records.with_label_values(&[&label]),
            lag_seconds: metrics.engine_lag_seconds.with_label_values(&[&label]),
        }
    }
}
