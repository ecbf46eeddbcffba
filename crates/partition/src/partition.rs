//! One partition: opened at its checkpoint, stepped by a thread of the pool.

use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::admission::{Admission, Admitted, MAX_RECORD_BYTES, Signer, decode_forwarded};
use super::attempts::Attempts;
use super::checkpoint::{CheckpointDone, CheckpointMeta, Frozen, PROGRAM};
use super::ledger::AckTracker;
use super::loss::pass_accepted_loss;
use super::machine::{Effects, Failure, Machine, Outgoing, Output, RecordContext};
use super::reply::EngineReply;
use super::restart::{
    Scanned, answer_from, behind, check_meta, look_ahead, open_attempts, poisoned, restore_definitions, scan_outputs,
};
use super::setup::Setup;
use super::status::{Phase, Status, is_behind};
use super::stop::Stop;
use askwhen_domain::id::{Kind, Origin};
use askwhen_domain::json::Json;
use askwhen_domain::time::{Millis, SECOND};
use askwhen_log::{Ack, AppendedRange, DiskClaim, NewRecord, Reader, TopicPartition};
use askwhen_process::fault;
use askwhen_process::thread::Notify;
use askwhen_store::Store;
use askwhen_wire::record::{self, DecodeError, Decoded, Forward, Internal, REPLY_HEADER};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, ID_HEADER, RejectRecord, SOURCE_HEADER, Source};

/// How the engine calls itself, to the log and to a start.
const ENGINE: &str = "engine";
/// Bytes put out in one step.
const STEP_OUTPUT_BYTES: usize = 256 << 10;
/// Bytes that may be unacknowledged before reading waits.
const MAX_OUTSTANDING_BYTES: usize = 4 << 20;
/// How often a journal without a word on it is asked whether older processes write to it.
const BIND_MACS_EVERY: Duration = Duration::from_secs(30);
/// Bytes on disk for each of changed state: in the store's write-ahead log first,
/// then in a table.
const WRITTEN_PER_DIRTY: u64 = 2;
/// How often time is told to whoever waits while nothing else comes.
const TICK_EVERY: Duration = Duration::from_millis(500);

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Worked,
    Idle,
}

/// What a batch of records puts out, and what it forwards.
type ByTopic = BTreeMap<Topic, Vec<NewRecord>>;
type ByPartition = BTreeMap<u32, Vec<NewRecord>>;
type Acks = (
    mpsc::Sender<(u64, Result<AppendedRange, askwhen_log::Error>)>,
    mpsc::Receiver<(u64, Result<AppendedRange, askwhen_log::Error>)>,
);
type Written = (mpsc::Sender<Result<(), askwhen_store::Error>>, mpsc::Receiver<Result<(), askwhen_store::Error>>);

/// What others hold of a partition that runs: what wakes it up, and its status.
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
    /// What the next checkpoint is going to write.
    claim: DiskClaim,
    store: Arc<Store>,
    machine: M,
    meta: CheckpointMeta,
    ledger: AckTracker,
    /// Ids that the log has already, from records that are being done again.
    redone: HashSet<String>,
    redo_until: u64,
    /// Topic `definitions` has lost records: it is whole again when the journal has
    /// been applied up to here and all that came of it is durable.
    definitions_until: Option<u64>,
    /// Outputs of records below were written once and have been trimmed since.
    floors: BTreeMap<Topic, u64>,
    acks: Acks,
    written: Written,
    notify: Arc<Notify>,
    reader: Reader,
    /// Read, and not yet applied.
    unread: VecDeque<askwhen_log::Record>,
    /// Below this offset, records from before `answer_from` are done again or
    /// late: nobody waits for their answers any more.
    taken_up_at: u64,
    answer_from: Millis,
    gauges: Gauges,
    ticked: Duration,
    /// When it was last asked whether older processes write to the journal.
    asked_for_macs: Option<Duration>,
    checkpointed: Duration,
    /// Where the last checkpoint was frozen.
    frozen_next: u64,
    freezing: Option<(CheckpointMeta, Option<Frozen>)>,
    /// Bytes of each append that is not yet acknowledged.
    outstanding: BTreeMap<u64, usize>,
    outstanding_bytes: usize,
    status: Arc<Status>,
}

impl<M: Machine> Partition<M> {
    /// Takes up a partition at its checkpoint.
    ///
    /// # Errors
    /// [`Stop::Refused`] when the store and the log do not belong together.
    pub fn open(
        partition: u32,
        setup: Setup,
        store: Arc<Store>,
        machine: M,
        logic_version: u32,
        handles: Handles,
    ) -> Result<Partition<M>, Stop> {
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
            return Err(poisoned(TopicPartition { topic: Topic::Events, partition }, offset));
        }
        status.set(Phase::Opening("looking for what the log already has".into()));
        let Scanned { ids: redone, redo_until, floors, journal_end } =
            scan_outputs(&setup.log, partition, &meta, &machine.output_topics(partition), &status)?;
        if let Some(barrier) = &setup.barrier {
            barrier.arrive(ENGINE, partition);
            if !barrier.wait(&status) {
                return Err(Stop::restart("given up"));
            }
        }
        let writes_definitions = machine.output_topics(partition).contains(&Topic::Definitions);
        let writes_lost_definitions = writes_definitions && setup.log.has_lost_definitions();
        restore_definitions(&setup, partition, &mut meta, &machine)?;
        let redone = if fault::mutant("forget_what_is_redone") { HashSet::new() } else { redone };
        meta.next += u64::from(fault::mutant("skip_a_record_at_restart") && meta.next < journal_end);
        let answer_from = answer_from(&setup.log, journal, meta.next, journal_end)?;
        let reader = setup.log.reader(ENGINE, notify.clone());
        status.next.store(meta.next, Ordering::Release);
        status.time.store(meta.time(), Ordering::Release);
        status.goal.store(journal_end, Ordering::Release);
        setup.standing.commit(partition, meta.next);
        let meta_next = meta.next;
        Ok(Partition {
            partition,
            admission,
            signer: Signer::new(&setup.log, &setup.key),
            attempts,
            claim: setup.log.claim(),
            store,
            machine,
            ledger: AckTracker::new(meta.next),
            meta,
            redone,
            redo_until,
            definitions_until: writes_lost_definitions.then_some(journal_end),
            floors,
            acks: mpsc::channel(),
            written: mpsc::channel(),
            notify,
            reader,
            unread: VecDeque::new(),
            taken_up_at: journal_end,
            answer_from,
            gauges: Gauges::of(partition),
            ticked: setup.clock.monotonic(),
            // At the first rest.
            asked_for_macs: None,
            checkpointed: setup.clock.monotonic(),
            frozen_next: meta_next,
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

    /// Reads what is there, applies it, writes what it causes.
    ///
    /// # Errors
    /// Why the partition cannot go on.
    pub fn step(&mut self) -> Result<Progress, Stop> {
        let mut progress = self.take_acknowledgements()?;
        self.look_at_definitions()?;
        let waits = self.waits_for_the_clock() || !self.has_room();
        if !waits && self.outstanding_bytes < MAX_OUTSTANDING_BYTES && !self.is_full() {
            if self.unread.is_empty() {
                let chunk = self.reader.read(self.journal(), self.meta.next, self.setup.step_bytes)?;
                if chunk.records.is_empty() && chunk.at_end {
                    // Of the goal nothing but gaps may be left.
                    self.status.goal.fetch_min(self.meta.next, Ordering::AcqRel);
                    self.tick();
                    self.bind_macs();
                }
                self.gauges.lag_records.set((chunk.end.saturating_sub(self.meta.next)) as i64);
                let late = chunk.end > self.meta.next;
                let behind = if late { (self.setup.clock.now() - self.meta.now).max(0) } else { 0 };
                self.gauges.lag_seconds.set(behind as f64 / SECOND as f64);
                self.unread = chunk.records.into();
            }
            if !self.unread.is_empty() {
                self.apply_batch()?;
                progress = Progress::Worked;
            }
        }
        self.checkpoint_if_due();
        // In this order: who sees the new place sees what it has outstanding.
        self.status.settled.store(self.ledger.outstanding() == 0, Ordering::Release);
        self.status.next.store(self.meta.next, Ordering::Release);
        self.status.time.store(self.meta.time(), Ordering::Release);
        if !self.redone.is_empty() && self.meta.next >= self.redo_until {
            self.redone = HashSet::new();
        }
        Ok(progress)
    }

    /// Definitions that their topic has lost are written again when the partition
    /// is taken up: those of the state then, the others as the journal is applied
    /// again. Only behind all of them others are told that the topic is whole.
    fn look_at_definitions(&mut self) -> Result<(), Stop> {
        if !self.setup.log.has_lost_definitions()
            || !self.machine.output_topics(self.partition).contains(&Topic::Definitions)
        {
            return Ok(());
        }
        let Some(until) = self.definitions_until else {
            return Err(Stop::restart("topic definitions has lost records: they are written again"));
        };
        if self.meta.next >= until && self.ledger.outstanding() == 0 {
            self.setup.log.definitions_are_back()?;
            self.definitions_until = None;
        }
        Ok(())
    }

    /// Whether the disk has room for what is in memory alone. Without it nothing more
    /// is applied: what has been is written down, and the rest waits in the journal.
    fn has_room(&mut self) -> bool {
        let dirty = self.machine.dirty_bytes() as u64;
        let has_room = self.claim.set(WRITTEN_PER_DIRTY * dirty);
        if !has_room && dirty > 0 && self.meta.next > self.frozen_next {
            self.checkpoint_now();
        }
        has_room
    }

    /// What has changed while a checkpoint is being written is bounded too.
    fn is_full(&self) -> bool {
        self.freezing.is_some() && self.machine.dirty_bytes() >= 2 * self.setup.checkpoint_bytes
    }

    /// Time goes on for whoever waits, although no record comes. Not tracked:
    /// should it be lost, the next one serves.
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

    /// Whether this machine's clock is behind the journal's time. What was in the
    /// journal before is decided all the same: it was taken when clocks were right.
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

    /// A log that version 0.1.0 has founded learns that no such process is left:
    /// from then on only MACs that name their place count. Not tracked: should it
    /// be lost, it is written again.
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

    /// Lets go of the journal; what is under way goes on.
    pub fn stop_reading(&mut self) {
        let journal = self.journal();
        self.reader.leave(journal);
        self.unread.clear();
    }

    /// Whether everything read is applied, acknowledged and checkpointed.
    pub fn is_settled(&self) -> bool {
        self.ledger.outstanding() == 0 && self.freezing.is_none()
    }

    /// Takes what has been acknowledged or written, without reading on.
    pub fn settle(&mut self) -> bool {
        if let Err(stop) = self.take_acknowledgements() {
            tracing::error!(partition = self.partition, reason = %stop, "the partition could not settle");
            return true;
        }
        self.is_settled()
    }

    /// Freezes now if there is anything new, whatever the time.
    pub fn checkpoint_now(&mut self) {
        if self.freezing.is_none() {
            self.freezing = Some((self.meta.clone(), Some(self.machine.freeze(self.meta.now))));
            self.checkpointed = self.setup.clock.monotonic();
            self.frozen_next = self.meta.next;
        }
        self.hand_over();
    }

    fn take_acknowledgements(&mut self) -> Result<Progress, Stop> {
        let mut progress = Progress::Idle;
        while let Ok((tag, outcome)) = self.acks.1.try_recv() {
            self.outstanding_bytes -= self.outstanding.remove(&tag).unwrap_or(0);
            self.ledger.acknowledge(tag, outcome?.end);
            fault::point("outputs_acked");
            progress = Progress::Worked;
        }
        while let Ok(written) = self.written.1.try_recv() {
            // Also when it has failed: whoever waits until nothing is being written
            // opens the store again after that.
            self.freezing = None;
            written?;
            self.machine.persisted();
            self.setup.standing.commit(self.partition, self.frozen_next);
            progress = Progress::Worked;
        }
        self.hand_over();
        Ok(progress)
    }

    fn checkpoint_if_due(&mut self) {
        if self.freezing.is_some() {
            return self.hand_over();
        }
        let dirty = self.machine.dirty_bytes();
        let waited = self.setup.clock.monotonic().saturating_sub(self.checkpointed);
        let due = waited >= self.setup.checkpoint_every && self.meta.next > self.frozen_next;
        if due || dirty >= self.setup.checkpoint_bytes {
            self.checkpoint_now();
        }
    }

    /// Gives a frozen state to the checkpointer once all its outputs are
    /// acknowledged: the store never passes what is not.
    fn hand_over(&mut self) {
        let Some((meta, frozen)) = &mut self.freezing else { return };
        if self.ledger.acked() < meta.next && !fault::mutant("checkpoint_before_outputs") {
            return;
        }
        let Some(frozen) = frozen.take() else { return };
        for (topic, end) in self.ledger.ends_up_to(meta.next) {
            meta.out_start.insert(topic.name().to_owned(), end);
            self.meta.out_start.insert(topic.name().to_owned(), end);
        }
        let done = CheckpointDone { written: self.written.0.clone(), notify: self.notify.clone() };
        self.setup.checkpointer.write(self.store.clone(), frozen, meta.clone(), done);
    }

    /// Applies what has been read, with a note of it for the case that it ends
    /// the process.
    fn apply_batch(&mut self) -> Result<(), Stop> {
        let (Some(first), Some(last)) = (self.unread.front(), self.unread.back()) else { return Ok(()) };
        let (from, to) = (first.offset, (last.offset + 1).min(self.attempts.limit(first.offset)));
        self.note(|attempts| attempts.begin(from, to));
        let applied = self.apply_up_to(to);
        let next = self.meta.next;
        self.note(|attempts| attempts.end(next));
        applied
    }

    fn note(&mut self, write: impl FnOnce(&mut Attempts) -> std::io::Result<()>) {
        if let Err(error) = write(&mut self.attempts) {
            tracing::warn!(
                partition = self.partition,
                %error,
                "what is being applied cannot be noted: a record that ends the process would not be found"
            );
            self.attempts = Attempts::default();
        }
    }

    fn apply_up_to(&mut self, to: u64) -> Result<(), Stop> {
        let mut outputs = ByTopic::new();
        let mut forwards = ByPartition::new();
        let mut bytes = 0;
        while let Some(record) = self.unread.pop_front_if(|record| record.offset < to) {
            let moment = RecordContext {
                origin: Origin {
                    incarnation: self.setup.log.incarnation(),
                    partition: self.partition,
                    offset: record.offset,
                },
                now: self.meta.now,
                partitions: self.setup.log.partitions(),
                reply_to: None,
            };
            let (mut effects, reply_to) = self.apply_one(moment, &record)?;
            fault::point("applied");
            if reply_to.is_none() {
                self.reject_unheard(moment, &record, &mut effects);
            }
            bytes += self.collect(&record, effects, reply_to, &mut outputs, &mut forwards);
            self.meta.next = record.offset + 1;
            self.meta.crc = record.crc;
            if bytes >= STEP_OUTPUT_BYTES {
                break;
            }
        }
        self.ledger.begin(self.meta.next);
        for (topic, batch) in outputs {
            let at = TopicPartition { topic, partition: if topic.partitions(2) == 1 { 0 } else { self.partition } };
            let tag = self.ledger.expect(Some(topic));
            self.expect_bytes(tag, &batch);
            self.setup.log.append(at, batch, self.tagged(tag));
            fault::point("output");
        }
        for (to, batch) in forwards {
            let tag = self.ledger.expect(None);
            self.expect_bytes(tag, &batch);
            self.setup.log.append(TopicPartition { topic: Topic::Events, partition: to }, batch, self.tagged(tag));
        }
        self.ledger.settle();
        Ok(())
    }

    fn expect_bytes(&mut self, tag: u64, batch: &[NewRecord]) {
        let bytes = batch.iter().map(NewRecord::len_bytes).sum();
        self.outstanding.insert(tag, bytes);
        self.outstanding_bytes += bytes;
    }

    /// Whether a checkpoint of this instance is still being written.
    pub fn is_writing(&mut self) -> bool {
        // What it says does not matter any more, only that it is over.
        if self.written.1.try_recv().is_ok() {
            self.freezing = None;
        }
        matches!(self.freezing, Some((_, None)))
    }

    fn tagged(&self, tag: u64) -> Ack {
        Ack::Tagged { tag, queue: self.acks.0.clone(), notify: self.notify.clone() }
    }

    /// Lets one record have its effect. Whatever cannot be taken becomes a
    /// reject; nothing is skipped in silence.
    fn apply_one(
        &mut self,
        moment: RecordContext<'_>,
        record: &askwhen_log::Record,
    ) -> Result<(Effects, Option<Bytes>), Stop> {
        let own_reply = record.header(REPLY_HEADER).cloned();
        let admitted = self.admission.admit(&mut self.meta, record);
        let moment = RecordContext { now: self.meta.now, ..moment };
        let effects = match admitted {
            Admitted::Reject(unreadable) => self.reject(moment, record, &unreadable),
            Admitted::Ignore => Effects::default(),
            Admitted::Skipped { detail } => {
                tracing::warn!(partition = self.partition, offset = record.offset, detail, "a record is skipped");
                self.reject(moment, record, &DecodeError { reason: "skipped", detail })
            }
            Admitted::SetClock { ahead } => {
                take_clock(&self.setup, ahead)?;
                Effects::default()
            }
            Admitted::Forwarded(forward) => return self.apply_forward(moment, record, &forward),
            Admitted::Route { to, trusted } => {
                askwhen_process::metrics::get().engine_misplaced.inc();
                let value = record::plain(record.value.as_deref().unwrap_or_default());
                let outgoing = Outgoing {
                    to,
                    key: record.key.as_ref().map(|k| String::from_utf8_lossy(k).into_owned()),
                    value: Json::from_valid(String::from_utf8_lossy(value)),
                    trusted,
                    answers: true,
                };
                Effects { forwards: vec![outgoing], ..Effects::default() }
            }
            Admitted::Apply(decoded) => {
                let moment = RecordContext { reply_to: own_reply.as_ref(), ..moment };
                self.guarded(moment, record, decoded)?
            }
        };
        Ok((effects, own_reply))
    }

    /// The next record of another partition.
    fn apply_forward(
        &mut self,
        moment: RecordContext<'_>,
        record: &askwhen_log::Record,
        forward: &Forward,
    ) -> Result<(Effects, Option<Bytes>), Stop> {
        let reply_to = forward.reply_to.clone().map(Bytes::from);
        let effects = match decode_forwarded(forward) {
            Err(unreadable) => self.reject(moment, record, &unreadable),
            Ok(decoded) => self.guarded(RecordContext { reply_to: reply_to.as_ref(), ..moment }, record, decoded)?,
        };
        Ok((effects, reply_to))
    }

    fn guarded(
        &mut self,
        moment: RecordContext<'_>,
        record: &askwhen_log::Record,
        decoded: Decoded<'_>,
    ) -> Result<Effects, Stop> {
        let journal = self.journal();
        let machine = &mut self.machine;
        let apply = || {
            fault::point_of("applying", || format!("{journal}@{}", record.offset));
            machine.apply(moment, decoded)
        };
        match catch_unwind(AssertUnwindSafe(apply)) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(Failure::Reject(unreadable))) => Ok(self.reject(moment, record, &unreadable)),
            Ok(Err(Failure::Store(error))) => Err(error.into()),
            Ok(Err(Failure::Refused(why))) => Err(Stop::Refused(why)),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                let detail = format!("applying the record panicked: {said}");
                tracing::error!(partition = self.partition, offset = record.offset, detail, "a record became a reject");
                Ok(self.reject(moment, record, &DecodeError { reason: "panic", detail }))
            }
        }
    }

    fn reject(&self, moment: RecordContext<'_>, record: &askwhen_log::Record, why: &DecodeError) -> Effects {
        let output = self.reject_output(moment, record, why.reason, &why.detail);
        let reply = EngineReply::Refused { code: "invalid".into(), pointer: None, detail: why.detail.clone() };
        Effects { outputs: vec![output], reply: Some(reply), ..Effects::default() }
    }

    fn reject_output(
        &self,
        moment: RecordContext<'_>,
        record: &askwhen_log::Record,
        reason: &str,
        detail: &str,
    ) -> Output {
        askwhen_process::metrics::get().engine_rejects.with_label_values(&[reason]).inc();
        let raw = record.value.as_deref().unwrap_or_default();
        let raw = &raw[..raw.len().min(MAX_RECORD_BYTES)];
        let value =
            topics::encode(&RejectRecord::of(Topic::Events, self.partition, record.offset, reason, detail, raw));
        Output { topic: Topic::Rejects, key: None, id: moment.origin.id(Kind::Reject, &[]), value: Some(value.into()) }
    }

    /// A refusal that nobody waits for would be lost: it becomes a reject.
    fn reject_unheard(&self, moment: RecordContext<'_>, record: &askwhen_log::Record, effects: &mut Effects) {
        let Some(EngineReply::Refused { code, detail, .. }) = &effects.reply else { return };
        let own = moment.origin.id(Kind::Reject, &[]);
        if effects.outputs.iter().all(|output| output.id != own) {
            let output = self.reject_output(moment, record, code, detail);
            effects.outputs.push(output);
        }
    }

    /// Sends the reply, keeps outputs that the log has not, numbers forwards;
    /// gives the bytes to be written.
    fn collect(
        &mut self,
        record: &askwhen_log::Record,
        effects: Effects,
        reply_to: Option<Bytes>,
        outputs: &mut ByTopic,
        forwards: &mut ByPartition,
    ) -> usize {
        let mut bytes = 0;
        let waited_for = record.offset >= self.taken_up_at || record.appended_at >= self.answer_from;
        if let (Some(reply_to), Some(answer), true) = (&reply_to, effects.reply, waited_for) {
            self.setup.replies.answer(reply_to, answer);
        }
        for (reply_to, answer) in effects.late_replies.into_iter().filter(|_| waited_for) {
            self.setup.replies.answer(&reply_to, answer);
        }
        let source = Source { partition: self.partition, offset: record.offset, crc: record.crc };
        if record.offset >= self.taken_up_at && effects.outputs.iter().any(|output| output.topic == Topic::Decisions) {
            let taken = (self.setup.clock.wall() - record.appended_at).max(0) as f64 / SECOND as f64;
            askwhen_process::metrics::get().engine_decision_latency_seconds.observe(taken);
        }
        for output in effects.outputs {
            let trimmed = self.floors.get(&output.topic).is_some_and(|floor| record.offset < *floor);
            if trimmed || self.redone.contains(&output.id) {
                continue;
            }
            let new = NewRecord { key: output.key, headers: Vec::new(), value: output.value };
            let new = new.header(ID_HEADER, output.id).header(SOURCE_HEADER, source.encode());
            bytes += new.len_bytes();
            outputs.entry(output.topic).or_default().push(new);
        }
        for outgoing in effects.forwards {
            let seq = &mut self.meta.forward[outgoing.to as usize];
            *seq += 1;
            let value = record::encode_internal(&Internal::Forward(Forward {
                from: self.partition,
                seq: *seq,
                key: outgoing.key.clone(),
                value: outgoing.value,
                trusted: outgoing.trusted,
                reply_to: reply_to
                    .as_ref()
                    .filter(|_| outgoing.answers)
                    .map(|r| String::from_utf8_lossy(r).into_owned()),
            }));
            let key = outgoing.key.unwrap_or_default();
            let new = NewRecord { key: Some(key.into()), headers: Vec::new(), value: Some(value.into()) };
            let new = self.signer.sign(outgoing.to, new);
            bytes += new.len_bytes();
            forwards.entry(outgoing.to).or_default().push(new);
        }
        bytes
    }
}

/// Time that a test clock has moved is taken with the flag alone.
fn take_clock(setup: &Setup, ahead: Millis) -> Result<(), Stop> {
    if ahead > 0 && !setup.test_clock {
        return Err(Stop::refused(
            "a test clock has moved the time of this journal: start with --test-clock, and never use it for real data",
        ));
    }
    if setup.test_clock {
        setup.clock.set_ahead(ahead);
    }
    Ok(())
}

/// The partition's own metrics.
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
