//! What the engine knew of a user at some moment: it applies the journal of the
//! user's partition up to then, under the rules that decide.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::starts::{Start, Starts};
use super::{Error, Source, erasure};
use crate::engine::Engine;
use askwhen_domain::id;
use askwhen_domain::quota::cap::{CapAsk, CapMessage, CapSignal};
use askwhen_domain::quota::{self, QuotaMessage, QuotaSignal};
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::refs::{SurveyKey, UserRef};
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_domain::user::MAX_ALIASES;
use askwhen_log::TopicPartition;
use askwhen_partition::replayer::Replayer;
use askwhen_partition::{EngineReply, Failure};
use askwhen_process::clock::Clock;
use askwhen_store::snapshot::Manifest;
use askwhen_wire::record::{DecodeError, Decoded, Internal, Query};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DecisionRecord;

/// Who reads, for logs that tell readers apart.
const PURPOSE: &str = "explain";
/// Only the newest decisions are shown.
const SHOWN_DECISIONS: usize = 20;
/// How far before the moment decisions are looked for.
const DECISIONS_SINCE: Millis = DAY;
/// Users kept decoded while a partition is read.
const CACHED_BYTES: usize = 512 << 20;

/// The user and the moment that are to be explained.
pub struct Question {
    pub project: String,
    pub user_id: String,
    /// `None` is now, with all that the journal holds.
    pub at: Option<Millis>,
    /// A trigger that is assumed to come at that moment.
    pub trigger: Option<AssumedTrigger>,
}

/// A trigger that nobody has sent.
pub struct AssumedTrigger {
    pub trigger: String,
    /// A JSON object.
    pub properties: String,
    pub context: Context,
}

/// The journal up to a moment.
struct JournalPrefix<'a> {
    source: &'a Source,
    starts: &'a Starts,
    until: Millis,
    project: &'a str,
}

/// A partition as it was at the moment.
struct ReplayedPartition {
    replayer: Replayer<Engine>,
    /// The state that it began with, which holds the store.
    begun_with: Arc<Start>,
    records: u64,
    /// When its end was looked up, by this machine's clock.
    read_at: Millis,
}

/// Gives what `askwhen explain` prints: the user, the decision on the assumed trigger,
/// and the decisions on record of the day before. States are taken from `starts`, and kept
/// there for further explanations. `progress` is called with the number
/// of records read so far.
///
/// # Errors
/// When the log is out of reach, or what was before the journal's beginning is
/// known from no snapshot.
pub fn explain(source: &Source, starts: &Starts, question: &Question, progress: impl Fn(u64)) -> Result<Value, Error> {
    // At that moment the name may have been an alias, also of another one.
    let mut name = question.user_id.clone();
    for _ in 0..MAX_ALIASES {
        match explain_name(source, starts, question, &name, &progress)? {
            Explained::User(explained) => return Ok(*explained),
            Explained::AliasOf(owner) => name = owner,
        }
    }
    Err(Error::failed(DecodeError { reason: "invalid", detail: "an alias leads to no user".into() }))
}

enum Explained {
    User(Box<Value>),
    AliasOf(String),
}

fn explain_name(
    source: &Source,
    starts: &Starts,
    question: &Question,
    user_id: &str,
    progress: impl Fn(u64),
) -> Result<Explained, Error> {
    let partition = id::partition_of(user_id, source.partitions);
    let until = question.at.unwrap_or(Millis::MAX);
    let past = JournalPrefix { source, starts, until, project: &question.project };
    // The store's folder goes after whoever reads the store.
    let ReplayedPartition { begun_with, mut replayer, records, read_at } =
        past.read(partition, Some(user_id), progress)?;
    let explained = UserRef::new(&question.project, user_id);
    if question.at.is_some() {
        let at = TopicPartition { topic: Topic::Events, partition };
        if let Some(erased_at) = erasure::newest_from(source, PURPOSE, at, replayer.meta.next, explained)? {
            let when = time::format_time(erased_at);
            return Err(Error::refused(format!("{user_id} was erased at {when}: what was known before is not shown")));
        }
    }
    if let Some(owner) = replayer.machine_mut().alias_of(&question.project, user_id).map_err(Error::failed)? {
        return Ok(Explained::AliasOf(owner));
    }
    // What has been appended since then is not known.
    let now = question.at.unwrap_or_else(|| (read_at + replayer.meta.ahead).max(replayer.meta.now));
    let offset = replayer.meta.next;
    let mut coordinator = OtherPartitions { past: &past, asking: partition, read: BTreeMap::new(), now };
    let query = Query {
        project: question.project.clone(),
        user_id: user_id.to_owned(),
        offer_id: None,
        survey_id: None,
        link_id: None,
    };
    let query = Decoded::Internal(Box::new(Internal::Query(query)));
    let (user, _) = body(&mut replayer, &mut coordinator, query)?;
    let (decision, needs_grant) = match &question.trigger {
        None => (Value::Null, Vec::new()),
        Some(AssumedTrigger { trigger, properties, context }) => {
            let record = Record {
                project: (&*question.project).into(),
                user_id: user_id.into(),
                event_id: None,
                times: Default::default(),
                body: Body::Trigger { trigger: trigger.into(), properties, context: context.clone() },
            };
            body(&mut replayer, &mut coordinator, Decoded::User(Box::new(record)))?
        }
    };
    let decisions = decisions(source, explained, partition, now, replayer.meta.ahead)?;
    Ok(Explained::User(Box::new(json!({
        "user_id": user_id,
        "project": question.project,
        "at": time::format_time(now),
        "partition": partition,
        "offset": offset,
        "records": begun_with.records + records,
        "snapshot": begun_with.state.snapshot.as_ref().map(Manifest::name),
        "user": user,
        "decision": decision,
        "needs_grant": needs_grant,
        "decisions": decisions,
        "decisions_since": time::format_time(now - DECISIONS_SINCE),
    }))))
}

/// The newest decisions about the user that are on record, the newest first.
fn decisions(
    source: &Source,
    user: UserRef<'_>,
    partition: u32,
    now: Millis,
    ahead: Millis,
) -> Result<Vec<Value>, Error> {
    let at = TopicPartition { topic: Topic::Decisions, partition };
    // The log's own times count here: a test clock does not move them.
    let from = source.offset_at(at, now - DECISIONS_SINCE - ahead)?;
    let mut journal_reader = source.reader_to_end(PURPOSE, at, from)?;
    // An output that a crash has repeated stands there again under its id.
    let mut found: BTreeMap<(Millis, u64), DecisionRecord> = BTreeMap::new();
    loop {
        let records = journal_reader.read()?;
        if records.is_empty() {
            let shown = |decision| serde_json::to_value(decision).expect("a record serialises");
            return Ok(found.into_values().rev().map(shown).collect());
        }
        for record in records.iter().filter(|record| record.key.as_deref() == Some(user.user_id.as_bytes())) {
            let value = record.value.as_deref().unwrap_or_default();
            let Ok(decision) = serde_json::from_slice::<DecisionRecord>(value) else { continue };
            let known = found.values().any(|known| known.decision_id == decision.decision_id);
            let recent = (now - DECISIONS_SINCE..=now).contains(&decision.decided_at);
            if decision.project == user.project && recent && !known {
                found.insert((decision.decided_at, record.offset), decision);
                if found.len() > SHOWN_DECISIONS {
                    found.pop_first();
                }
            }
        }
    }
}

impl JournalPrefix<'_> {
    /// Reads a partition: for one user, or for all. `progress` is called with the number
    /// of records read so far.
    fn read(&self, partition: u32, user_id: Option<&str>, progress: impl Fn(u64)) -> Result<ReplayedPartition, Error> {
        let at = TopicPartition { topic: Topic::Events, partition };
        let start = self.starts.begin(self.source, partition, self.until)?;
        let (admission, is_limited) = start.look_ahead(self.source, self.project)?;
        let meta = start.state.meta.clone();
        let mut engine =
            Engine::open_for_replay(start.state.store.clone(), partition, self.source.partitions, CACHED_BYTES)?;
        engine.discard_outputs();
        let everyone = user_id.is_none() || engine.has_quotas(self.project) || is_limited;
        let concerned = |project: &str, user: &str| everyone || (project == self.project && Some(user) == user_id);
        let wanted = |decoded: &Decoded<'_>, _: Option<&_>| match decoded {
            Decoded::User(record) => concerned(&record.project, &record.user_id),
            Decoded::Internal(internal) => match &**internal {
                Internal::Query(_) => everyone,
                Internal::Erase(erase) => concerned(&erase.project, &erase.user_id),
                Internal::Alias(alias) => concerned(&alias.project, &alias.user_id),
                Internal::AliasStep(step) => concerned(&step.project, &step.at),
                _ => true,
            },
        };
        let read_at = Clock::new().wall();
        let mut journal_reader = self.source.reader_to_end(PURPOSE, at, meta.next)?;
        let mut replayer = Replayer::new(admission, meta, engine);
        // Records of others are not even decoded.
        let only = user_id.filter(|_| !everyone);
        let mut read = 0;
        'journal: loop {
            let records = journal_reader.read()?;
            for record in &records {
                if record.appended_at + replayer.meta.ahead > self.until {
                    break 'journal;
                }
                read += 1;
                if only.is_none_or(|user_id| replayer.may_concern(record, user_id)) {
                    replayer.play(record, &wanted)?;
                } else {
                    replayer.pass_over(record);
                }
            }
            progress(read);
            if records.is_empty() {
                break;
            }
        }
        replayer.machine_mut().encode_outputs();
        Ok(ReplayedPartition { replayer, begun_with: start, records: read, read_at })
    }
}

/// The partitions of quota coordinators and of counters of caps, which are read when a
/// decision first asks them.
struct OtherPartitions<'a> {
    past: &'a JournalPrefix<'a>,
    /// The partition that asks.
    asking: u32,
    read: BTreeMap<u32, ReplayedPartition>,
    now: Millis,
}

impl OtherPartitions<'_> {
    /// What a partition says.
    fn ask<T>(&mut self, own: &Replayer<Engine>, of: u32, ask: impl FnOnce(&Engine) -> T) -> Result<T, Error> {
        if of == self.asking {
            return Ok(ask(own.machine()));
        }
        if !self.read.contains_key(&of) {
            self.read.insert(of, self.past.read(of, None, |_| {})?);
        }
        Ok(ask(self.read[&of].replayer.machine()))
    }

    /// Whether the coordinator would give a grant; `None` when that depends on grants
    /// that other partitions have not used.
    fn would_grant(&mut self, own: &Replayer<Engine>, key: &SurveyKey) -> Result<Option<bool>, Error> {
        let asking = self.asking;
        self.ask(own, quota::COORDINATOR_PARTITION, |engine| engine.coordinator_would_grant(key, asking))
    }

    /// The answer of a counter, as a message to the request at an offset.
    fn counter(&mut self, own: &Replayer<Engine>, request: u64, ask: CapAsk) -> Result<CapMessage, Error> {
        let from = ask.key.home(self.past.source.partitions);
        let now = self.now;
        let answer = self.ask(own, from, |engine| engine.counter_answers(ask, now))?.map_err(Error::failed)?;
        Ok(CapMessage { key: ask.key, from, to: self.asking, signal: CapSignal::Answer { request, answer } })
    }
}

/// The body of the reply, and the surveys for which a grant was assumed because
/// nobody knows whether one was left.
fn body(
    replayer: &mut Replayer<Engine>,
    coordinator: &mut OtherPartitions<'_>,
    decoded: Decoded<'_>,
) -> Result<(Value, Vec<String>), Error> {
    let failed = |e: Failure| Error::failed(e);
    replayer.machine_mut().forget_waiting();
    let effects = replayer.ask(coordinator.now, decoded).map_err(failed)?;
    let mut supposed = Vec::new();
    let (mut reply, mut late) = (effects.reply, effects.late_replies);
    loop {
        let answer = reply.take().or_else(|| late.pop().map(|(_, answer)| answer));
        if let Some(EngineReply::Body { server, .. }) = answer {
            return Ok((server.value(), supposed));
        }
        let grants = replayer.machine().awaited_grants();
        let places = replayer.machine().awaited_places();
        if grants.is_empty() && places.is_empty() {
            return Ok((Value::Null, supposed));
        }
        for (request, ask) in places {
            let answer = Decoded::Internal(Box::new(Internal::Cap(coordinator.counter(replayer, request, ask)?)));
            late.extend(replayer.ask(coordinator.now, answer).map_err(failed)?.late_replies);
        }
        for grant in grants {
            let key = SurveyKey::new(grant.project.clone(), grant.survey_id.clone());
            let granted = coordinator.would_grant(replayer, &key)?;
            supposed.extend(granted.is_none().then(|| grant.survey_id.clone()));
            let signal = if granted == Some(false) { QuotaSignal::Refuse } else { grant.signal.clone() };
            let answer = Decoded::Internal(Box::new(Internal::Quota(QuotaMessage { signal, ..grant })));
            late.extend(replayer.ask(coordinator.now, answer).map_err(failed)?.late_replies);
        }
    }
}
