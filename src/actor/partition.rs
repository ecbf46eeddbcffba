//! One partition: opened at its checkpoint, stepped by a thread of the pool.

use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::checkpoint::{Checkpointer, Meta};
use super::ledger::Ledger;
use super::reply::Replies;
use super::restart::{Scanned, check_meta, scan_outputs};
use super::status::{Phase, Status};
use super::{Answer, Effects, Failure, Frozen, Machine, Moment, Outgoing, Output};
use crate::clock::Clock;
use crate::domain::id::{self, Kind, Origin};
use crate::domain::json::Json;
use crate::domain::time::{Millis, SECOND};
use crate::fault;
use crate::log::{self, Ack, At, Log, New, Placed, Reader, Standing};
use crate::store::{self, Store};
use crate::thread::Bell;
use crate::wire::output::{self, ID_HEADER, SOURCE_HEADER, Source};
use crate::wire::record::{self, Decoded, Forward, Internal, MAC_HEADER, REPLY_HEADER, Unreadable};
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;

/// Journal bytes taken in one step.
const STEP_BYTES: usize = 256 << 10;
/// The largest record taken. What it causes is then small enough for any log:
/// a forward of it, a reject with its first bytes.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// What a forward may have beyond the record that it carries.
const FORWARD_BYTES: usize = 64 << 10;
/// How long before the journal's end requests may still wait for an answer,
/// when a partition is taken up.
const ANSWERS_KEPT: Millis = 30 * SECOND;
/// Bytes put out in one step.
const STEP_OUTPUT_BYTES: usize = 256 << 10;
/// Bytes that may be unacknowledged before reading waits.
const MAX_OUTSTANDING_BYTES: usize = 4 << 20;
/// Dirty state that brings the next checkpoint forward, unless told otherwise.
const CHECKPOINT_BYTES: usize = 32 << 20;
/// How often time is told to whoever waits while nothing else comes.
const TICK_EVERY: Duration = Duration::from_millis(500);
/// An owner whose clock is further behind the log decides nothing.
const MAX_CLOCK_LAG: Millis = 300 * SECOND;

/// What a partition needs from its process.
#[derive(Clone)]
pub struct Setup {
    pub log: Log,
    pub clock: Clock,
    pub key: ClusterKey,
    pub replies: Replies,
    pub checkpointer: Checkpointer,
    /// The group's, told how far a partition is.
    pub standing: Standing,
    /// Whether records of a test clock may move time.
    pub test_clock: bool,
    pub checkpoint_every: Duration,
    /// At most so many journal bytes a step; tests vary it.
    pub step_bytes: usize,
    /// Dirty state that brings the next checkpoint forward.
    pub checkpoint_bytes: usize,
}

impl Setup {
    pub fn new(log: Log, clock: Clock, key: ClusterKey, replies: Replies, checkpointer: Checkpointer) -> Setup {
        let checkpoint_every = Duration::from_secs(4);
        let standing = Standing::Alone;
        let test_clock = false;
        let (step_bytes, checkpoint_bytes) = (STEP_BYTES, CHECKPOINT_BYTES);
        Setup {
            log,
            clock,
            key,
            replies,
            checkpointer,
            standing,
            test_clock,
            checkpoint_every,
            step_bytes,
            checkpoint_bytes,
        }
    }
}

/// Why a partition does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stop {
    /// Going on could lose or forge data; a person has to look.
    #[error("{0}")]
    Refused(String),
    /// Everything since the checkpoint is dropped and done again.
    #[error("{0}")]
    Restart(String),
    /// The store fails its checksums: it is set aside and made again.
    #[error("{0}")]
    Damaged(String),
}

impl From<store::Error> for Stop {
    fn from(error: store::Error) -> Stop {
        match error {
            store::Error::Damaged { .. } => Stop::Damaged(error.to_string()),
            store::Error::Io { .. } => Stop::Restart(error.to_string()),
        }
    }
}

impl From<log::Error> for Stop {
    fn from(error: log::Error) -> Stop {
        match error {
            log::Error::Damaged { .. } => Stop::Refused(error.to_string()),
            // A newer snapshot stands behind what was trimmed.
            _ => Stop::Restart(error.to_string()),
        }
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Worked,
    Idle,
}

/// What a batch of records puts out, and what it forwards.
type ByTopic = BTreeMap<Topic, Vec<New>>;
type ByPartition = BTreeMap<u32, Vec<New>>;
type Acks = (mpsc::Sender<(u64, Result<Placed, log::Error>)>, mpsc::Receiver<(u64, Result<Placed, log::Error>)>);
type Written = (mpsc::Sender<Result<(), store::Error>>, mpsc::Receiver<Result<(), store::Error>>);

pub struct Partition<M> {
    partition: u32,
    setup: Setup,
    store: Arc<Store>,
    machine: M,
    meta: Meta,
    ledger: Ledger,
    /// Ids that the log has already, from records that are being done again.
    redone: HashSet<String>,
    redo_until: u64,
    /// Outputs of records below were written once and have been trimmed since.
    floors: BTreeMap<Topic, u64>,
    acks: Acks,
    written: Written,
    bell: Arc<Bell>,
    reader: Reader,
    /// Read, and not yet applied.
    unread: VecDeque<log::Record>,
    /// Below this offset, records from before `answer_from` are done again or
    /// late: nobody waits for their answers any more.
    taken_up_at: u64,
    answer_from: Millis,
    gauges: Gauges,
    ticked: Duration,
    checkpointed: Duration,
    /// Where the last checkpoint was frozen.
    frozen_next: u64,
    freezing: Option<(Meta, Option<Frozen>)>,
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
        (bell, status): (Arc<Bell>, Arc<Status>),
    ) -> Result<Partition<M>, Stop> {
        let journal = At { topic: Topic::Events, partition };
        let fresh = Meta::new(setup.log.incarnation(), setup.log.partitions(), logic_version);
        let mut meta = Meta::load(&store)?.unwrap_or_else(|| fresh.clone());
        check_meta(&meta, &fresh, &setup.log, journal)?;
        meta.logic_version = logic_version;
        take_clock(&setup, meta.ahead)?;
        let now = setup.clock.now();
        if now + MAX_CLOCK_LAG < meta.now {
            let behind = (meta.now - now) / SECOND;
            return Err(Stop::Refused(format!(
                "this machine's clock is {behind} s behind the log's time; set the clock, then start again"
            )));
        }
        status.set(Phase::Opening("looking for what the log already has".into()));
        let Scanned { ids: redone, redo_until, floors, journal_end } =
            scan_outputs(&setup.log, partition, &meta, &machine.output_topics(partition), &status)?;
        let redone = if fault::mutant("forget_what_is_redone") { HashSet::new() } else { redone };
        meta.next += u64::from(fault::mutant("skip_a_record_at_restart") && meta.next < journal_end);
        let answer_from = answer_from(&setup.log, journal, (meta.next, journal_end))?;
        let reader = setup.log.reader("engine", bell.clone());
        status.next.store(meta.next, Ordering::Release);
        status.goal.store(journal_end, Ordering::Release);
        setup.standing.commit(partition, meta.next);
        let meta_next = meta.next;
        Ok(Partition {
            partition,
            store,
            machine,
            ledger: Ledger::new(meta.next),
            meta,
            redone,
            redo_until,
            floors,
            acks: mpsc::channel(),
            written: mpsc::channel(),
            bell,
            reader,
            unread: VecDeque::new(),
            taken_up_at: journal_end,
            answer_from,
            gauges: Gauges::of(partition),
            ticked: setup.clock.monotonic(),
            checkpointed: setup.clock.monotonic(),
            frozen_next: meta_next,
            freezing: None,
            outstanding: BTreeMap::new(),
            outstanding_bytes: 0,
            status,
            setup,
        })
    }

    fn journal(&self) -> At {
        At { topic: Topic::Events, partition: self.partition }
    }

    /// Reads what is there, applies it, writes what it causes.
    ///
    /// # Errors
    /// Why the partition cannot go on.
    pub fn step(&mut self) -> Result<Progress, Stop> {
        let mut progress = self.take_acknowledgements()?;
        if self.outstanding_bytes < MAX_OUTSTANDING_BYTES && !self.is_full() {
            if self.unread.is_empty() {
                let chunk = self.reader.read(self.journal(), self.meta.next, self.setup.step_bytes)?;
                if chunk.records.is_empty() && chunk.at_end {
                    // Of the goal nothing but gaps may be left.
                    self.status.goal.fetch_min(self.meta.next, Ordering::AcqRel);
                    self.tick();
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
        if !self.redone.is_empty() && self.meta.next >= self.redo_until {
            self.redone = HashSet::new();
        }
        Ok(progress)
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
        let new = super::signed("", &Internal::Tick {}, &self.setup.key);
        let (nobody, _) = tokio::sync::oneshot::channel();
        self.setup.log.append(self.journal(), vec![new], Ack::Once(nobody));
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
            written?;
            self.freezing = None;
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
        let done = (self.written.0.clone(), self.bell.clone());
        self.setup.checkpointer.write(self.store.clone(), frozen, meta.clone(), done);
    }

    fn apply_batch(&mut self) -> Result<(), Stop> {
        let mut outputs = ByTopic::new();
        let mut forwards = ByPartition::new();
        let mut bytes = 0;
        while let Some(record) = self.unread.pop_front() {
            let before = if fault::mutant("now_follows_the_wall") { 0 } else { self.meta.now };
            self.meta.now = before.max(record.appended_at + self.meta.ahead);
            let moment = Moment {
                origin: Origin {
                    incarnation: self.setup.log.incarnation(),
                    partition: self.partition,
                    offset: record.offset,
                },
                now: self.meta.now,
                partitions: self.setup.log.partitions(),
                reply_to: None,
            };
            fault::point_of("applying", || format!("{}@{}", self.journal(), record.offset));
            let (mut effects, reply_to) = self.apply_one(moment, &record)?;
            fault::point("applied");
            if reply_to.is_none() {
                self.reject_unheard(moment, &record, &mut effects);
            }
            bytes += self.collect(&record, effects, reply_to, (&mut outputs, &mut forwards));
            self.meta.next = record.offset + 1;
            self.meta.crc = record.crc;
            if bytes >= STEP_OUTPUT_BYTES {
                break;
            }
        }
        self.ledger.begin(self.meta.next);
        for (topic, batch) in outputs {
            let at = At { topic, partition: if topic.partitions(2) == 1 { 0 } else { self.partition } };
            let tag = self.ledger.expect(Some(topic));
            self.expect_bytes(tag, &batch);
            self.setup.log.append(at, batch, self.tagged(tag));
            fault::point("output");
        }
        for (to, batch) in forwards {
            let tag = self.ledger.expect(None);
            self.expect_bytes(tag, &batch);
            self.setup.log.append(At { topic: Topic::Events, partition: to }, batch, self.tagged(tag));
        }
        self.ledger.settle();
        Ok(())
    }

    fn expect_bytes(&mut self, tag: u64, batch: &[New]) {
        let bytes = batch.iter().map(New::len_bytes).sum();
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
        Ack::Tagged { tag, queue: self.acks.0.clone(), bell: self.bell.clone() }
    }

    /// Reads one record and lets the machine apply it. Whatever cannot be taken
    /// becomes a reject; nothing is skipped.
    fn apply_one(&mut self, moment: Moment<'_>, record: &log::Record) -> Result<(Effects, Option<Bytes>), Stop> {
        let own_reply = record.header(REPLY_HEADER).cloned();
        let value = record.value.as_deref();
        let trusted = is_trusted(&self.setup.key, record);
        if is_too_large(record, trusted) {
            let detail = format!(
                "the record has {} bytes and at most {MAX_RECORD_BYTES} are taken; raw holds the first of them",
                record.len_bytes()
            );
            return Ok((self.reject(moment, record, &Unreadable { reason: "too_large", detail }), own_reply));
        }
        match record::decode(value, trusted) {
            Err(unreadable) => Ok((self.reject(moment, record, &unreadable), own_reply)),
            Ok(Decoded::Internal(internal)) if matches!(*internal, Internal::Forward(_)) => {
                let Internal::Forward(forward) = *internal else { unreachable!("just matched") };
                self.apply_forward(moment, record, &forward)
            }
            Ok(Decoded::Internal(internal)) if matches!(*internal, Internal::Clock { .. }) => {
                let Internal::Clock { ahead } = *internal else { unreachable!("just matched") };
                take_clock(&self.setup, ahead)?;
                self.meta.ahead = self.meta.ahead.max(ahead);
                self.meta.now = self.meta.now.max(record.appended_at + self.meta.ahead);
                Ok((Effects::default(), own_reply))
            }
            Ok(Decoded::Internal(internal)) if is_forwarded_only(&internal) => {
                let detail = "it does not come from a partition of this log".into();
                Ok((self.reject(moment, record, &Unreadable { reason: "forged", detail }), own_reply))
            }
            Ok(decoded) => {
                let owner = owner(&decoded, moment.partitions);
                if let Some(to) = owner.filter(|owner| *owner != self.partition) {
                    crate::metrics::get().engine_misplaced.inc();
                    let outgoing = Outgoing {
                        to,
                        key: record.key.as_ref().map(|k| String::from_utf8_lossy(k).into_owned()),
                        value: Json::from_valid(String::from_utf8_lossy(value.unwrap_or_default())),
                        trusted,
                        answers: true,
                    };
                    return Ok((Effects { forwards: vec![outgoing], ..Effects::default() }, own_reply));
                }
                let moment = Moment { reply_to: own_reply.as_ref(), ..moment };
                Ok((self.guarded(moment, record, decoded)?, own_reply))
            }
        }
    }

    /// A record from another partition counts once, in its sequence; whatever
    /// is not the next was sent again by a redo or by a zombie.
    fn apply_forward(
        &mut self,
        moment: Moment<'_>,
        record: &log::Record,
        forward: &Forward,
    ) -> Result<(Effects, Option<Bytes>), Stop> {
        let Some(is_next) = self.meta.take_forward(forward) else {
            let unreadable = Unreadable { reason: "forged", detail: "it comes from no partition of this log".into() };
            return Ok((self.reject(moment, record, &unreadable), None));
        };
        if !is_next && !fault::mutant("take_every_forward") {
            return Ok((Effects::default(), None));
        }
        let reply_to = forward.reply_to.clone().map(Bytes::from);
        match record::decode(Some(forward.value.as_str().as_bytes()), forward.trusted) {
            Err(unreadable) => Ok((self.reject(moment, record, &unreadable), reply_to)),
            Ok(decoded) => {
                let moment = Moment { reply_to: reply_to.as_ref(), ..moment };
                Ok((self.guarded(moment, record, decoded)?, reply_to))
            }
        }
    }

    fn guarded(&mut self, moment: Moment<'_>, record: &log::Record, decoded: Decoded<'_>) -> Result<Effects, Stop> {
        let machine = &mut self.machine;
        match catch_unwind(AssertUnwindSafe(|| machine.apply(moment, decoded))) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(Failure::Reject(unreadable))) => Ok(self.reject(moment, record, &unreadable)),
            Ok(Err(Failure::Store(error))) => Err(error.into()),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                let detail = format!("applying the record panicked: {said}");
                tracing::error!(partition = self.partition, offset = record.offset, detail, "a record became a reject");
                Ok(self.reject(moment, record, &Unreadable { reason: "panic", detail }))
            }
        }
    }

    fn reject(&self, moment: Moment<'_>, record: &log::Record, why: &Unreadable) -> Effects {
        let output = self.reject_output(moment, record, why.reason, &why.detail);
        let reply = Answer::Refused { code: "invalid".into(), pointer: None, detail: why.detail.clone() };
        Effects { outputs: vec![output], reply: Some(reply), ..Effects::default() }
    }

    fn reject_output(&self, moment: Moment<'_>, record: &log::Record, reason: &str, detail: &str) -> Output {
        crate::metrics::get().engine_rejects.with_label_values(&[reason]).inc();
        let raw = record.value.as_deref().unwrap_or_default();
        let raw = &raw[..raw.len().min(MAX_RECORD_BYTES)];
        let value = output::reject(Topic::Events.name(), self.partition, record.offset, reason, detail, raw);
        Output { topic: Topic::Rejects, key: None, id: moment.origin.id(Kind::Reject, &[]), value: Some(value.into()) }
    }

    /// A refusal that nobody waits for would be lost: it becomes a reject.
    fn reject_unheard(&self, moment: Moment<'_>, record: &log::Record, effects: &mut Effects) {
        let Some(Answer::Refused { code, detail, .. }) = &effects.reply else { return };
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
        record: &log::Record,
        effects: Effects,
        reply_to: Option<Bytes>,
        (outputs, forwards): (&mut ByTopic, &mut ByPartition),
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
            crate::metrics::get().engine_decision_latency_seconds.observe(taken);
        }
        for output in effects.outputs {
            let trimmed = self.floors.get(&output.topic).is_some_and(|floor| record.offset < *floor);
            if trimmed || self.redone.contains(&output.id) {
                continue;
            }
            let new = New { key: output.key, headers: Vec::new(), value: output.value };
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
            let mac = self.setup.key.sign_record(key.as_bytes(), &value);
            let new = New { key: Some(key.into()), headers: Vec::new(), value: Some(value.into()) };
            bytes += new.len_bytes();
            forwards.entry(outgoing.to).or_default().push(new.header(MAC_HEADER, mac));
        }
        bytes
    }
}

/// Whether a record carries askwhen's own MAC.
pub fn is_trusted(key: &ClusterKey, record: &log::Record) -> bool {
    let (of, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
    record.header(MAC_HEADER).is_some_and(|mac| key.verify_record(of, value, mac))
}

/// What partitions tell each other: it counts in its sequence alone.
pub fn is_forwarded_only(internal: &Internal) -> bool {
    match internal {
        Internal::Quota(_) | Internal::Defined(_) => true,
        Internal::Fares(fares) => fares.seq.is_some(),
        _ => false,
    }
}

/// A forward is its record and a little more.
pub fn is_too_large(record: &log::Record, trusted: bool) -> bool {
    record.len_bytes() > MAX_RECORD_BYTES + if trusted { FORWARD_BYTES } else { 0 }
}

/// The partition that owns what the record is about; `None` for what is about
/// the partition it is in.
pub fn owner(decoded: &Decoded<'_>, partitions: u32) -> Option<u32> {
    let user_id = match decoded {
        Decoded::User(record) => &*record.user_id,
        Decoded::Internal(internal) => match &**internal {
            Internal::Query(query) => &query.user_id,
            Internal::Erase { user_id, .. } => user_id,
            Internal::Redeliver { delivery, .. } => &delivery.user_id,
            Internal::Define(_) | Internal::NameSeen { .. } | Internal::Operate(_) => return Some(0),
            Internal::Fares(fares) => return fares.seq.is_none().then_some(0),
            Internal::Quota(mail) => return Some(mail.to),
            Internal::Defined(_)
            | Internal::Forward(_)
            | Internal::Clock { .. }
            | Internal::Tick {}
            | Internal::Ping { .. } => {
                return None;
            }
        },
    };
    Some(id::partition_of(user_id, partitions))
}

/// From when on requests may still be waiting, by the log's own times.
fn answer_from(log: &Log, journal: At, (next, end): (u64, u64)) -> Result<Millis, Stop> {
    if next >= end {
        return Ok(0);
    }
    let newest = log.read(journal, end - 1, 1)?;
    Ok(newest.first().map_or(0, |record| record.appended_at - ANSWERS_KEPT))
}

/// Time that a test clock has moved is taken with the flag alone.
fn take_clock(setup: &Setup, ahead: Millis) -> Result<(), Stop> {
    if ahead > 0 && !setup.test_clock {
        return Err(Stop::Refused(
            "a test clock has moved the time of this journal: start with --test-clock, and never use it for real data"
                .into(),
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
        let (metrics, label) = (crate::metrics::get(), partition.to_string());
        Gauges {
            lag_records: metrics.engine_lag_records.with_label_values(&[&label]),
            lag_seconds: metrics.engine_lag_seconds.with_label_values(&[&label]),
        }
    }
}
