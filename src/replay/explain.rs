//! What the engine knew of a user at some moment: the journal of their partition
//! read again up to then, by the very rules that decide.

use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::{Error, JournalReader, Source, StartingState};
use crate::engine::Engine;
use askwhen_domain::id;
use askwhen_domain::quota::{self, QuotaMessage, QuotaSignal};
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_log::TopicPartition;
use askwhen_partition::admission::{Admission, decode_forwarded};
use askwhen_partition::replayer::Replayer;
use askwhen_partition::{EngineReply, Failure};
use askwhen_process::clock::Clock;
use askwhen_store::snapshot::Manifest;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Decoded, Define, Defined, Internal, Query};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DecisionRecord;

/// Decisions shown, the newest ones.
const SHOWN_DECISIONS: usize = 20;
/// How far back they are looked for.
const DECISIONS_SINCE: Millis = DAY;
const CACHED_BYTES: usize = 512 << 20;

/// Whom and what is asked about.
pub struct Question {
    pub project: String,
    pub user_id: String,
    /// `None`: now, with all that the journal holds.
    pub at: Option<Millis>,
    /// A trigger that is imagined to come then, its properties as JSON.
    pub trigger: Option<(String, String, Context)>,
}

/// The journal up to a moment.
struct JournalPrefix<'a> {
    source: &'a Source,
    until: Millis,
    project: &'a str,
    /// For stores that are made.
    folder: tempfile::TempDir,
}

/// A partition as it was then.
struct ReplayedPartition {
    replayer: Replayer<Engine>,
    begun_with: Option<Manifest>,
    records: u64,
}

/// Reads, and answers with the user, the imagined decision, and the decisions
/// that were made on the day before. `progress` hears how many records have been read.
///
/// # Errors
/// When the log is out of reach, or what was before the journal's beginning is
/// known from no snapshot.
pub fn explain(source: &Source, question: &Question, progress: impl Fn(u64)) -> Result<Value, Error> {
    let partition = id::partition_of(&question.user_id, source.partitions);
    let until = question.at.unwrap_or(Millis::MAX);
    let past = JournalPrefix { source, until, project: &question.project, folder: tempfile::tempdir()? };
    let ReplayedPartition { mut replayer, begun_with, records } =
        past.read(partition, Some(&question.user_id), progress)?;
    let now = question.at.unwrap_or_else(|| Clock::new().wall() + replayer.meta.ahead);
    let offset = replayer.meta.next;
    let mut coordinator = QuotaCoordinator { past: &past, asking: partition, then: None, now };
    let query =
        Query { project: question.project.clone(), user_id: question.user_id.clone(), offer_id: None, survey_id: None };
    let query = Decoded::Internal(Box::new(Internal::Query(query)));
    let (user, _) = body(&mut replayer, &mut coordinator, query)?;
    let (decision, needs_grant) = match &question.trigger {
        None => (Value::Null, Vec::new()),
        Some((trigger, properties, context)) => {
            let record = Record {
                project: (&*question.project).into(),
                user_id: (&*question.user_id).into(),
                event_id: None,
                times: Default::default(),
                body: Body::Trigger { trigger: trigger.into(), properties, context: context.clone() },
            };
            body(&mut replayer, &mut coordinator, Decoded::User(Box::new(record)))?
        }
    };
    let decisions = decisions(source, question, partition, now, replayer.meta.ahead)?;
    Ok(json!({
        "user_id": question.user_id,
        "project": question.project,
        "at": time::format_time(now),
        "partition": partition,
        "offset": offset,
        "records": records,
        "snapshot": begun_with.as_ref().map(Manifest::name),
        "user": user,
        "decision": decision,
        "needs_grant": needs_grant,
        "decisions": decisions,
        "decisions_since": time::format_time(now - DECISIONS_SINCE),
    }))
}

/// The newest decisions about the user that are on record, the newest first.
fn decisions(
    source: &Source,
    question: &Question,
    partition: u32,
    now: Millis,
    ahead: Millis,
) -> Result<Vec<Value>, Error> {
    let at = TopicPartition { topic: Topic::Decisions, partition };
    // By the log's own times, which a test clock does not move.
    let from = source.offset_at(at, now - DECISIONS_SINCE - ahead)?;
    let mut journal_reader = source.journal_reader(at, from);
    // A copy stands under the same id.
    let mut found: BTreeMap<(Millis, u64), DecisionRecord> = BTreeMap::new();
    loop {
        let records = journal_reader.read()?;
        if records.is_empty() {
            let shown = |decision| serde_json::to_value(decision).expect("a record serialises");
            return Ok(found.into_values().rev().map(shown).collect());
        }
        for record in records.iter().filter(|record| record.key.as_deref() == Some(question.user_id.as_bytes())) {
            let value = record.value.as_deref().unwrap_or_default();
            let Ok(decision) = serde_json::from_slice::<DecisionRecord>(value) else { continue };
            let known = found.values().any(|known| known.decision_id == decision.decision_id);
            let recent = (now - DECISIONS_SINCE..=now).contains(&decision.decided_at);
            if decision.project == *question.project && recent && !known {
                found.insert((decision.decided_at, record.offset), decision);
                if found.len() > SHOWN_DECISIONS {
                    found.pop_first();
                }
            }
        }
    }
}

impl JournalPrefix<'_> {
    /// Reads a partition: for one user, or for all. `progress` hears how many records
    /// have been read.
    fn read(&self, partition: u32, user_id: Option<&str>, progress: impl Fn(u64)) -> Result<ReplayedPartition, Error> {
        let at = TopicPartition { topic: Topic::Events, partition };
        let StartingState { store, meta, snapshot } =
            self.source.begin(partition, self.until, &self.folder.path().join(partition.to_string()))?;
        let next = meta.next;
        let engine = Engine::open(store, partition, self.source.partitions, CACHED_BYTES)?;
        let everyone = user_id.is_none()
            || engine.has_quotas(self.project)
            || has_limits(self.source.journal_reader(at, next), &self.source.rules(partition), self.project)?;
        let concerned = |project: &str, user: &str| everyone || (project == self.project && Some(user) == user_id);
        let wanted = |decoded: &Decoded<'_>, _: Option<&_>| match decoded {
            Decoded::User(record) => concerned(&record.project, &record.user_id),
            Decoded::Internal(internal) => match &**internal {
                Internal::Query(_) => everyone,
                Internal::Erase(erase) => concerned(&erase.project, &erase.user_id),
                _ => true,
            },
        };
        let mut replayer = Replayer::new(self.source.admission(partition, &meta)?, meta, engine);
        let mut journal_reader = self.source.journal_reader(at, next);
        let mut read = 0;
        loop {
            let records = journal_reader.read()?;
            for record in &records {
                if record.appended_at + replayer.meta.ahead > self.until {
                    return Ok(ReplayedPartition { replayer, begun_with: snapshot, records: read });
                }
                read += 1;
                replayer.play(record, &wanted)?;
            }
            progress(read);
            if records.is_empty() {
                return Ok(ReplayedPartition { replayer, begun_with: snapshot, records: read });
            }
        }
    }
}

/// The coordinator of the quotas, read when somebody asks for a grant.
struct QuotaCoordinator<'a> {
    past: &'a JournalPrefix<'a>,
    asking: u32,
    then: Option<Replayer<Engine>>,
    now: Millis,
}

impl QuotaCoordinator<'_> {
    /// Whether it would give one; `None` when that depends on what other
    /// partitions have not used.
    fn gives(&mut self, own: &Replayer<Engine>, key: &SurveyKey) -> Result<Option<bool>, Error> {
        if self.asking == quota::COORDINATOR_PARTITION {
            return Ok(own.machine().coordinator_gives(key, self.asking));
        }
        if self.then.is_none() {
            self.then = Some(self.past.read(quota::COORDINATOR_PARTITION, None, |_| {})?.replayer);
        }
        Ok(self.then.as_ref().and_then(|then| then.machine().coordinator_gives(key, self.asking)))
    }
}

/// The body of the answer, and the surveys of which it supposes that there is a
/// grant left.
fn body(
    replayer: &mut Replayer<Engine>,
    coordinator: &mut QuotaCoordinator<'_>,
    decoded: Decoded<'_>,
) -> Result<(Value, Vec<String>), Error> {
    let failed = |e: Failure| Error::failed(e);
    replayer.machine_mut().forget_waiting();
    let effects = replayer.ask(coordinator.now, decoded).map_err(failed)?;
    let mut supposed = Vec::new();
    let (mut reply, mut late) = (effects.reply, effects.late_replies);
    loop {
        let said = reply.take().or_else(|| late.pop().map(|(_, answer)| answer));
        if let Some(EngineReply::Body { server, .. }) = said {
            return Ok((server.value(), supposed));
        }
        let grants = replayer.machine().awaited_grants();
        if grants.is_empty() {
            return Ok((Value::Null, supposed));
        }
        for grant in grants {
            let key = SurveyKey::new(grant.project.clone(), grant.survey_id.clone());
            let gives = coordinator.gives(replayer, &key)?;
            supposed.extend(gives.is_none().then(|| grant.survey_id.clone()));
            let message = if gives == Some(false) { QuotaSignal::Refuse } else { grant.message.clone() };
            let answer = Decoded::Internal(Box::new(Internal::Quota(QuotaMessage { message, ..grant })));
            late.extend(replayer.ask(coordinator.now, answer).map_err(failed)?.late_replies);
        }
    }
}

/// Whether any survey of a project has a quota, by what a journal reader says from where
/// it is.
///
/// # Errors
/// When it cannot be read.
pub(super) fn has_limits(mut journal_reader: JournalReader, rules: &Admission, project: &str) -> Result<bool, Error> {
    loop {
        let records = journal_reader.read()?;
        if records.is_empty() {
            return Ok(false);
        }
        for record in records {
            if rules.trusted_internal(None, &record).is_some_and(|internal| limits(&internal, project)) {
                return Ok(true);
            }
        }
    }
}

/// Whether one of askwhen's own records gives a survey a quota.
fn limits(internal: &Internal, project: &str) -> bool {
    match internal {
        Internal::Forward(forward) if forward.trusted => match decode_forwarded(forward) {
            Ok(Decoded::Internal(inner)) => limits(&inner, project),
            Ok(Decoded::User(_)) | Err(_) => false,
        },
        Internal::Define(Define { project: of, kind: Kind::Survey, body: Some(body), .. })
        | Internal::Defined(Defined { project: of, kind: Kind::Survey, body: Some(body), .. }) => {
            of == project && !body.value()["limits"]["max_completed"].is_null()
        }
        _ => false,
    }
}
