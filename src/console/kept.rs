//! Decisions and responses: a JSON body under its id, with what lists and
//! erasures ask of it.

use crate::console::families;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Error, ReadOutcome};
use super::order::{self, PlaceFilter, WriteBatch, term};
use super::stats::{self, OfferFact};
use super::{deliveries, tallies};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::question::QuestionType;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::time::Millis;
use askwhen_log::Record;
use askwhen_store::{Batch, Store};
use askwhen_wire::listing::{Filter, List};
use askwhen_wire::topics::decision::EvaluationRecord;
use askwhen_wire::topics::response::ResponseBody;
use askwhen_wire::topics::{DecisionRecord, ResponseRecord, SOURCE_HEADER, Source};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredDocument {
    project: String,
    user_id: String,
    at: Millis,
    /// The journal record behind it: what came before an erasure goes with it.
    source: RecordPosition,
    body: String,
}

/// Where in the journal an output comes from.
pub fn source(record: &Record) -> Option<RecordPosition> {
    Source::parse(record.header(SOURCE_HEADER)?).map(|source| source.position())
}

/// Takes a decision, once.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_decision(value: &[u8], source: RecordPosition, batch: &mut WriteBatch<'_>) -> Result<ReadOutcome, Error> {
    let Ok(mut decision) = serde_json::from_slice::<DecisionRecord>(value) else { return Ok(ReadOutcome::Unreadable) };
    let project = std::mem::take(&mut decision.project);
    if project.is_empty() {
        return Ok(ReadOutcome::Unreadable);
    }
    let (id, user_id, at) = (decision.decision_id.clone(), decision.user_id.clone(), decision.decided_at);
    if batch.get(&order::row(List::Decisions, &id))?.is_some() {
        return Ok(ReadOutcome::Read);
    }
    let verdicts = verdicts(&decision);
    // The row of an erased user is gone, so no row shows that this is a copy; the facts
    // of a decision are remembered together, so one of its surveys shows it.
    if let Some((survey_id, _)) = verdicts.first()
        && stats::is_counted(batch, SurveyRef::new(&project, survey_id), stats::CONSIDERED, &id)?
    {
        return Ok(ReadOutcome::Read);
    }
    for (survey_id, ending) in &verdicts {
        stats::count(batch, SurveyRef::new(&project, survey_id), at, &[stats::CONSIDERED, ending])?;
    }
    if is_erased_in(batch, UserRef::new(&project, &user_id), source)? {
        remember(&project, &id, at, &verdicts, batch);
    }
    let (body, terms) = (body(&decision), decision_terms(&decision));
    put(List::Decisions, &id, StoredDocument { project, user_id, at, source, body }, &terms, batch)?;
    Ok(ReadOutcome::Read)
}

fn body<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("a record serialises")
}

/// The surveys that a decision considered, and the counter of how that ended.
pub fn verdicts(decision: &DecisionRecord) -> Vec<(String, String)> {
    let offered = decision.survey.as_ref().map(|survey| survey.survey_id.as_str());
    let verdict = |evaluation: &EvaluationRecord| {
        let ending = match &evaluation.gate {
            Some(gate) => format!("{}{gate}", stats::NOT_OFFERED),
            None if offered == Some(&evaluation.survey_id) => stats::OFFERED.to_owned(),
            // It would have been, but for its status.
            None => format!("{}shadow", stats::NOT_OFFERED),
        };
        (evaluation.survey_id.clone(), ending)
    };
    decision.evaluations.iter().map(verdict).collect()
}

/// Keeps what the counters know of a decision whose row goes with its user: the
/// surveys, without the user.
fn remember(project: &str, id: &str, at: Millis, verdicts: &[(String, String)], batch: &mut WriteBatch<'_>) {
    for (survey_id, ending) in verdicts {
        for name in [stats::CONSIDERED, ending] {
            stats::remember(batch, SurveyRef::new(project, survey_id), OfferFact { at, name, id });
        }
    }
}

/// Takes answers or a completion: one row for a response, with its newest
/// answers.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_response(value: &[u8], source: RecordPosition, batch: &mut WriteBatch<'_>) -> Result<ReadOutcome, Error> {
    let Ok(ResponseRecord { kind, data, .. }) = serde_json::from_slice(value) else {
        return Ok(ReadOutcome::Unreadable);
    };
    let (id, at, happened_at) = (data.response_id.clone(), data.created_at, data.updated_at);
    let before = batch.get(&order::row(List::Responses, &id))?.map(|bytes| read(&bytes)).transpose()?;
    // A copy of what is known, or of something older.
    if before.as_ref().is_some_and(|kept| kept.source > source) {
        return Ok(ReadOutcome::Read);
    }
    let before = before.map(|kept| kept.response()).transpose()?;
    let survey = SurveyRef::new(&data.project, &data.survey_id);
    if !data.answers.is_empty() {
        stats::count_fact(batch, survey, OfferFact { at: happened_at, name: "answered", id: &id })?;
    }
    if kind == EventType::Completed {
        stats::count_fact(batch, survey, OfferFact { at: happened_at, name: "completed", id: &id })?;
    }
    let data = match &before {
        Some(before) => data.merged_over(before.clone()),
        None => data,
    };
    let (project, user_id, body) = (data.project.clone(), data.user_id.clone(), body(&data));
    let mut terms = response_terms(&data);
    terms.sort_unstable();
    if put(List::Responses, &id, StoredDocument { project, user_id, at, source, body }, &terms, batch)? {
        batch.place(order::place_in_survey(SurveyRef::new(&data.project, &data.survey_id), at, &id), &terms);
        if let Some(before) = &before {
            tallies::count(batch, before, -1)?;
        }
        tallies::count(batch, &data, 1)?;
    }
    Ok(ReadOutcome::Read)
}

/// What filters compare of a response.
fn response_terms(response: &ResponseBody) -> Vec<u32> {
    let status = if response.completed { "completed" } else { "partial" };
    let texts = response.answers.iter().filter(|answer| answer.kind == QuestionType::Text);
    let texts = texts.map(|answer| tallies::text_term(&answer.question_id));
    [term("status", status), term("survey_id", &response.survey_id)].into_iter().chain(texts).collect()
}

/// What filters compare of a decision: its reason, and every survey that was considered.
fn decision_terms(decision: &DecisionRecord) -> Vec<u32> {
    let surveys = decision.evaluations.iter().map(|evaluation| term("survey_id", &evaluation.survey_id));
    std::iter::once(term("status", &decision.reason)).chain(surveys).collect()
}

/// Gives the places of a row beside that of its project, for a row that goes.
///
/// # Errors
/// When the store cannot be read.
pub fn forget(list: List, bytes: &[u8], batch: &mut WriteBatch<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let kept = read(bytes)?;
    let user = UserRef::new(&kept.project, &kept.user_id);
    if list != List::Responses {
        let id = kept.decision()?.decision_id;
        return Ok(order::places(list, user, kept.at, &id).into());
    }
    let response = kept.response()?;
    tallies::count(batch, &response, -1)?;
    let survey = SurveyRef::new(&response.project, &response.survey_id);
    let mut places = Vec::from(order::places(list, user, kept.at, &response.response_id));
    places.push(order::place_in_survey(survey, kept.at, &response.response_id));
    Ok(places)
}

/// Forgets what came of a user's records up to the erasure, which is the record of
/// the journal at `at`. Rows of them that are read later are not listed either.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_erasure(
    user: UserRef<'_>,
    at: RecordPosition,
    store: &Store,
    batch: &mut WriteBatch<'_>,
) -> Result<(), Error> {
    let key = erased_key(user, at.partition);
    let known = batch.get(&key)?.map(|bytes| offset(&bytes)).transpose()?.unwrap_or(0);
    batch.put(key, at.offset.max(known).to_be_bytes().to_vec());
    for list in [List::Deliveries, List::Decisions, List::Responses] {
        let prefix = order::of_user(list, user);
        let mut ids = Vec::new();
        order::descend(store, &prefix, &[0xff; 9], |place, _| {
            ids.push(String::from_utf8_lossy(place.get(prefix.len() + 8..).unwrap_or_default()).into_owned());
            Ok(None::<()>)
        })?;
        for id in ids {
            if list == List::Deliveries {
                deliveries::apply_erasure(&id, at, batch)?;
                continue;
            }
            let Some(bytes) = batch.get(&order::row(list, &id))? else { continue };
            let kept = read(&bytes)?;
            if kept.source < at {
                if list == List::Decisions {
                    remember(user.project, &id, kept.at, &verdicts(&kept.decision()?), batch);
                }
                let places = forget(list, &bytes, batch)?;
                places.into_iter().for_each(|place| batch.remove_from_index(place));
                batch.delete(order::row(list, &id));
            }
        }
    }
    Ok(())
}

/// The user's hash stands in the key: the name itself is to be forgotten.
fn erased_key(user: UserRef<'_>, partition: u32) -> Vec<u8> {
    let hash = id::event_hash(user.project, user.user_id, "");
    [&[order::ERASED][..], &partition.to_be_bytes(), &hash.to_be_bytes()].concat()
}

/// Whether the user was erased after this record of the journal.
///
/// # Errors
/// When the store cannot be read.
pub fn is_erased(store: &Store, user: UserRef<'_>, source: RecordPosition) -> Result<bool, Error> {
    let erased_at = store.get(families::INDEX, &erased_key(user, source.partition))?;
    Ok(erased_at.map(|bytes| offset(&bytes)).transpose()?.is_some_and(|at| source.offset < at))
}

/// As [`is_erased`], with the changes of the batch.
///
/// # Errors
/// When the store cannot be read.
pub fn is_erased_in(batch: &WriteBatch<'_>, user: UserRef<'_>, source: RecordPosition) -> Result<bool, Error> {
    let erased_at = batch.get(&erased_key(user, source.partition))?;
    Ok(erased_at.map(|bytes| offset(&bytes)).transpose()?.is_some_and(|at| source.offset < at))
}

fn offset(bytes: &[u8]) -> Result<u64, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::Damaged("the mark of an erasure is unreadable".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Forgets marks of erasures that no record is left to compare with: `oldest`
/// gives the offset of the oldest journal record that a partition's outputs come
/// from. Gives how many are left.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune_erased(store: &Store, oldest: impl Fn(u32) -> u64) -> Result<usize, Error> {
    let first = [order::ERASED];
    let (mut from, mut left) = (first.to_vec(), 0);
    loop {
        let entries = store.ascending(families::INDEX, &from, order::SCANNED_AT_A_TIME)?;
        let mut batch = Batch::default();
        let Some((last, _)) = entries.last() else { return Ok(left) };
        from = [last.as_slice(), &[0]].concat();
        let mut is_through = false;
        for (key, value) in entries {
            let Some(partition) = key.strip_prefix(&first).and_then(|rest| rest.get(..4)?.try_into().ok()) else {
                is_through = true;
                break;
            };
            match offset(&value)? <= oldest(u32::from_be_bytes(partition)) {
                true => batch.delete(families::INDEX, key),
                false => left += 1,
            }
        }
        store.write(batch)?;
        if is_through {
            return Ok(left);
        }
    }
}

/// Gives whether it was kept: nothing is, of a user who was erased since.
fn put(list: List, id: &str, kept: StoredDocument, terms: &[u32], batch: &mut WriteBatch<'_>) -> Result<bool, Error> {
    let user = UserRef::new(&kept.project, &kept.user_id);
    if is_erased_in(batch, user, kept.source)? {
        return Ok(false);
    }
    batch.moves(&kept.project, list);
    order::places(list, user, kept.at, id).into_iter().for_each(|place| batch.place(place, terms));
    batch.put(order::row(list, id), postcard::to_stdvec(&kept).expect("a row serialises"));
    Ok(true)
}

/// # Errors
/// When it is none: the store is damaged.
pub fn read(bytes: &[u8]) -> Result<StoredDocument, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a row of the lists is unreadable: {e}")))
}

impl StoredDocument {
    /// # Errors
    /// When the store is damaged.
    pub fn decision(&self) -> Result<DecisionRecord, Error> {
        self.parsed()
    }

    /// # Errors
    /// When the store is damaged.
    pub fn response(&self) -> Result<ResponseBody, Error> {
        self.parsed()
    }

    fn parsed<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let damaged = |e| Error::Damaged(format!("the body of a row of the lists is unreadable: {e}"));
        serde_json::from_str(&self.body).map_err(damaged)
    }
}

/// As lists show it.
pub fn shown<T: Serialize>(record: &T) -> Value {
    serde_json::to_value(record).expect("a record serialises")
}

/// What of a filter the places of decisions and responses can tell.
pub fn looked_for(filter: &Filter) -> PlaceFilter {
    let of = |member: &str, value: &Option<String>| value.as_ref().map(|value| term(member, value));
    let terms = [of("status", &filter.status), of("survey_id", &filter.survey_id)].into_iter().flatten().collect();
    PlaceFilter { terms, failures_only: false }
}

/// Whether a filter takes a decision: its status is the reason, its survey any
/// that was considered.
pub fn fits_decision(decision: &DecisionRecord, filter: &Filter) -> bool {
    let considered = |id: &String| decision.evaluations.iter().any(|evaluation| evaluation.survey_id == *id);
    filter.status.as_deref().is_none_or(|wanted| decision.reason == wanted)
        && filter.survey_id.as_ref().is_none_or(considered)
}

pub fn fits_response(response: &ResponseBody, filter: &Filter) -> bool {
    let status = if response.completed { "completed" } else { "partial" };
    filter.status.as_deref().is_none_or(|wanted| wanted == status)
        && filter.survey_id.as_deref().is_none_or(|wanted| response.survey_id == wanted)
}
