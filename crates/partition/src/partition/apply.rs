//! Applies records: gives them to the machine, and appends the outputs, forwards and
//! replies that it returns. It knows nothing of checkpoints.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Partition, take_clock};
use crate::admission::{Admitted, MAX_RECORD_BYTES, decode_forwarded};
use crate::attempts::Attempts;
use crate::machine::{Effects, Failure, Machine, Outgoing, Output, RecordContext};
use crate::reply::EngineReply;
use crate::stop::StopReason;
use askwhen_domain::id::{Kind, Origin};
use askwhen_domain::json::Json;
use askwhen_domain::time::SECOND;
use askwhen_log::{Append, NewRecord, TopicPartition, Urgency};
use askwhen_process::fault;
use askwhen_wire::record::{self, DecodeError, Decoded, Forward, Internal, REPLY_HEADER};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, ID_HEADER, RejectRecord, SOURCE_HEADER, Source};

/// Bytes of outputs after which a step ends.
const STEP_OUTPUT_BYTES: usize = 256 << 10;

/// The appends of one step: outputs by topic, forwards by receiving partition.
#[derive(Default)]
struct Appends {
    outputs: BTreeMap<Topic, Vec<NewRecord>>,
    forwards: BTreeMap<u32, Vec<NewRecord>>,
    len_bytes: usize,
}

impl<M: Machine> Partition<M> {
    /// Applies the records that were read, and notes that, in case one of them kills the
    /// process.
    pub(super) fn apply_batch(&mut self) -> Result<(), StopReason> {
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

    fn apply_up_to(&mut self, to: u64) -> Result<(), StopReason> {
        let mut appends = Appends::default();
        while let Some(record) = self.unread.pop_front_if(|record| record.offset < to) {
            let context = RecordContext {
                origin: Origin {
                    incarnation: self.setup.log.incarnation(),
                    partition: self.partition,
                    offset: record.offset,
                },
                now: self.meta.now,
                partitions: self.setup.log.partitions(),
                reply_to: None,
                passed_on: None,
            };
            let (mut effects, reply_to) = self.apply_one(context, &record)?;
            fault::point("applied");
            if reply_to.is_none() {
                self.reject_unheard(context, &record, &mut effects);
            }
            self.collect(&record, effects, reply_to, &mut appends);
            self.meta.next = record.offset + 1;
            self.meta.crc = record.crc;
            if appends.len_bytes >= STEP_OUTPUT_BYTES {
                break;
            }
        }
        self.tracker.begin(self.meta.next);
        let mut all = Vec::new();
        for (topic, batch) in appends.outputs {
            let at = TopicPartition { topic, partition: if topic.partitions(2) == 1 { 0 } else { self.partition } };
            all.push(self.tracked(Some(topic), at, batch));
        }
        for (to, batch) in appends.forwards {
            all.push(self.tracked(None, TopicPartition { topic: Topic::Events, partition: to }, batch));
        }
        self.setup.log.append_all(all);
        fault::point("output");
        self.tracker.settle();
        Ok(())
    }

    /// An append whose acknowledgement is expected: of outputs of a topic, or of forwards.
    fn tracked(&mut self, topic: Option<Topic>, at: TopicPartition, records: Vec<NewRecord>) -> Append {
        let tag = self.tracker.expect(topic);
        let bytes = records.iter().map(NewRecord::len_bytes).sum();
        self.outstanding.insert(tag, bytes);
        self.outstanding_bytes += bytes;
        Append { at, records, ack: self.acks.tagged(tag), urgency: Urgency::Now }
    }

    /// Applies one record. A record that is not accepted becomes a reject; none is skipped
    /// silently.
    fn apply_one(
        &mut self,
        context: RecordContext<'_>,
        record: &askwhen_log::Record,
    ) -> Result<(Effects, Option<Bytes>), StopReason> {
        let own_reply = record.header(REPLY_HEADER).cloned();
        let admitted = self.admission.admit(&mut self.meta, record);
        let context = RecordContext { now: self.meta.now, ..context };
        let effects = match admitted {
            Admitted::Reject(error) => self.reject(context, record, &error),
            Admitted::Ignore => Effects::default(),
            Admitted::Skipped { detail } => {
                tracing::warn!(partition = self.partition, offset = record.offset, detail, "a record is skipped");
                self.reject(context, record, &DecodeError { reason: "skipped", detail })
            }
            Admitted::SetClock { ahead } => {
                take_clock(&self.setup, ahead)?;
                Effects::default()
            }
            Admitted::Forwarded(forward) => return self.apply_forward(context, record, &forward),
            Admitted::Route { to, trusted, is_dated } => {
                askwhen_process::metrics::get().engine_misplaced.inc();
                let value = record::plain(record.value.as_deref().unwrap_or_default());
                let dated = (!is_dated).then(|| record::dated(value, context.now)).flatten();
                let outgoing = Outgoing {
                    to,
                    key: record.key.as_ref().map(|k| String::from_utf8_lossy(k).into_owned()),
                    value: Json::from_valid(dated.map_or_else(|| String::from_utf8_lossy(value), Into::into)),
                    trusted,
                    answers: true,
                    passed_on: None,
                };
                Effects { forwards: vec![outgoing], ..Effects::default() }
            }
            Admitted::Apply(decoded) => {
                let context = RecordContext { reply_to: own_reply.as_ref(), ..context };
                self.apply_or_reject(context, record, decoded)?
            }
        };
        Ok((effects, own_reply))
    }

    /// Applies the record within a forward.
    fn apply_forward(
        &mut self,
        context: RecordContext<'_>,
        record: &askwhen_log::Record,
        forward: &Forward,
    ) -> Result<(Effects, Option<Bytes>), StopReason> {
        let reply_to = forward.reply_to.clone().map(Bytes::from);
        let effects = match decode_forwarded(forward) {
            Err(error) => self.reject(context, record, &error),
            Ok(decoded) => {
                let (reply_to, passed_on) = (reply_to.as_ref(), forward.passed_on.as_ref());
                self.apply_or_reject(RecordContext { reply_to, passed_on, ..context }, record, decoded)?
            }
        };
        Ok((effects, reply_to))
    }

    /// Lets the machine apply a record; when it rejects the record or panics, the record
    /// becomes a reject.
    fn apply_or_reject(
        &mut self,
        context: RecordContext<'_>,
        record: &askwhen_log::Record,
        decoded: Decoded<'_>,
    ) -> Result<Effects, StopReason> {
        let journal = self.journal();
        let machine = &mut self.machine;
        let apply = || {
            fault::point_of("applying", || format!("{journal}@{}", record.offset));
            machine.apply(context, decoded)
        };
        match catch_unwind(AssertUnwindSafe(apply)) {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(Failure::Reject(error))) => Ok(self.reject(context, record, &error)),
            Ok(Err(Failure::Store(error))) => Err(error.into()),
            Ok(Err(Failure::Refused(why))) => Err(StopReason::Refused(why)),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().map(String::as_str);
                let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                let detail = format!("applying the record panicked: {message}");
                tracing::error!(partition = self.partition, offset = record.offset, detail, "a record became a reject");
                Ok(self.reject(context, record, &DecodeError { reason: "panic", detail }))
            }
        }
    }

    fn reject(&self, context: RecordContext<'_>, record: &askwhen_log::Record, why: &DecodeError) -> Effects {
        let output = self.reject_output(context, record, why.reason, &why.detail);
        let reply = EngineReply::Refused { code: "invalid".into(), pointer: None, detail: why.detail.clone() };
        Effects { outputs: vec![output], reply: Some(reply), ..Effects::default() }
    }

    fn reject_output(
        &self,
        context: RecordContext<'_>,
        record: &askwhen_log::Record,
        reason: &str,
        detail: &str,
    ) -> Output {
        askwhen_process::metrics::get().engine_rejects.with_label_values(&[reason]).inc();
        let raw = record.value.as_deref().unwrap_or_default();
        let raw = &raw[..raw.len().min(MAX_RECORD_BYTES)];
        let value =
            topics::encode(&RejectRecord::of(Topic::Events, self.partition, record.offset, reason, detail, raw));
        Output { topic: Topic::Rejects, key: None, id: context.origin.id(Kind::Reject, &[]), value: Some(value.into()) }
    }

    /// Turns the refusal of a record without a reply address into a reject, because nobody
    /// would learn of it otherwise.
    fn reject_unheard(&self, context: RecordContext<'_>, record: &askwhen_log::Record, effects: &mut Effects) {
        let Some(EngineReply::Refused { code, detail, .. }) = &effects.reply else { return };
        let own = context.origin.id(Kind::Reject, &[]);
        if effects.outputs.iter().all(|output| output.id != own) {
            let output = self.reject_output(context, record, code, detail);
            effects.outputs.push(output);
        }
    }

    /// Sends the reply, adds outputs that the log does not have yet, and numbers forwards.
    fn collect(
        &mut self,
        record: &askwhen_log::Record,
        effects: Effects,
        reply_to: Option<Bytes>,
        appends: &mut Appends,
    ) {
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
            if trimmed || self.already_written.contains(&output.id) {
                continue;
            }
            let new = NewRecord { key: output.key, headers: Vec::new(), value: output.value };
            let new = new.header(ID_HEADER, output.id).header(SOURCE_HEADER, source.encode());
            appends.len_bytes += new.len_bytes();
            appends.outputs.entry(output.topic).or_default().push(new);
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
                passed_on: outgoing.passed_on,
            }));
            let key = outgoing.key.unwrap_or_default();
            let new = NewRecord { key: Some(key.into()), headers: Vec::new(), value: Some(value.into()) };
            let new = self.signer.sign(outgoing.to, new);
            appends.len_bytes += new.len_bytes();
            appends.forwards.entry(outgoing.to).or_default().push(new);
        }
    }
}
