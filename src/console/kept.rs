//! Decisions and responses: a JSON body by id, with what lists and erasures need of it.

use serde::Serialize;

use super::document::{StoredDocument, read};
use super::error::{Error, ReadOutcome};
use super::order::{self, WriteBatch, term};
use super::stats::{self, OfferFact};
use super::verdict::{CONSIDERED, verdicts};
use super::{deliveries, erased, tallies};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::survey::question::QuestionType;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_log::Record;
use askwhen_store::Store;
use askwhen_wire::listing::List;
use askwhen_wire::topics::response::ResponseBody;
use askwhen_wire::topics::{DecisionRecord, ResponseRecord, SOURCE_HEADER, Source};

/// The position of the journal record behind an output.
pub fn source(record: &Record) -> Option<RecordPosition> {
    Source::parse(record.header(SOURCE_HEADER)?).map(|source| source.position())
}

/// Adds a decision, once.
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
    // The row of an erased user is gone and cannot show that this is a copy; but the facts
    // of a decision are remembered together, so one of its surveys shows it.
    if let Some((survey_id, _)) = verdicts.first()
        && stats::is_counted(batch, SurveyRef::new(&project, survey_id), CONSIDERED, &id)?
    {
        return Ok(ReadOutcome::Read);
    }
    for (survey_id, ending) in &verdicts {
        stats::count(batch, SurveyRef::new(&project, survey_id), at, &[CONSIDERED, ending])?;
    }
    if erased::is_erased_in(batch, UserRef::new(&project, &user_id), source)? {
        remember(&project, &id, at, &verdicts, batch);
    }
    let (body, terms) = (body(&decision), decision_terms(&decision));
    put(List::Decisions, &id, StoredDocument { project, user_id, at, source, body }, &terms, batch)?;
    Ok(ReadOutcome::Read)
}

fn body<T: Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("a record serialises")
}

/// Remembers the surveys that were counted for a decision whose row is removed with its
/// user.
fn remember(project: &str, id: &str, at: Millis, verdicts: &[(String, String)], batch: &mut WriteBatch<'_>) {
    for (survey_id, ending) in verdicts {
        for name in [CONSIDERED, ending] {
            stats::remember(batch, SurveyRef::new(project, survey_id), OfferFact { at, name, id });
        }
    }
}

/// Adds answers or a completion: there is one row for a response, with its newest answers.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_response(value: &[u8], source: RecordPosition, batch: &mut WriteBatch<'_>) -> Result<ReadOutcome, Error> {
    let Ok(ResponseRecord { kind, data, .. }) = serde_json::from_slice(value) else {
        return Ok(ReadOutcome::Unreadable);
    };
    let (id, at, happened_at) = (data.response_id.clone(), data.created_at, data.updated_at);
    let before = batch.get(&order::row(List::Responses, &id))?.map(|bytes| read(&bytes)).transpose()?;
    // It is a copy, or older than the row.
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

/// The values of a response that filters compare.
fn response_terms(response: &ResponseBody) -> Vec<u32> {
    let status = if response.completed { "completed" } else { "partial" };
    let texts = response.answers.iter().filter(|answer| answer.kind == QuestionType::Text);
    let texts = texts.map(|answer| tallies::text_term(&answer.question_id));
    [term("status", status), term("survey_id", &response.survey_id)].into_iter().chain(texts).collect()
}

/// The values of a decision that filters compare: its reason, and every survey that was
/// considered.
fn decision_terms(decision: &DecisionRecord) -> Vec<u32> {
    let surveys = decision.evaluations.iter().map(|evaluation| term("survey_id", &evaluation.survey_id));
    std::iter::once(term("status", &decision.reason)).chain(surveys).collect()
}

/// The other index entries of a row that is being removed.
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

/// Removes responses to a survey that began before `before`, at most `limit`.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune_survey(store: &Store, survey: SurveyRef<'_>, before: Millis, limit: usize) -> Result<(), Error> {
    let mut batch = WriteBatch::new(store);
    let mut count = 0;
    order::ascend_survey(store, survey, 0, before, |_, row| {
        let id = read(&row)?.response()?.response_id;
        let places = forget(List::Responses, &row, &mut batch)?;
        places.into_iter().for_each(|place| batch.remove_from_index(place));
        batch.delete(order::row(List::Responses, &id));
        count += 1;
        Ok(count < limit)
    })?;
    Ok(store.write(batch.into_batch())?)
}

/// Removes the rows of a user up to the erasure, which is the journal record at `at`. Such
/// rows that are read later are not listed either.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_erasure(
    user: UserRef<'_>,
    at: RecordPosition,
    store: &Store,
    batch: &mut WriteBatch<'_>,
) -> Result<(), Error> {
    erased::remember(batch, user, at)?;
    for list in [List::Deliveries, List::Decisions, List::Responses] {
        let mut ids = Vec::new();
        order::each_of_user(store, list, user, |entry| {
            ids.push(entry.id());
            Ok(())
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

/// Stores a document; returns whether it did, because nothing of an erased user is stored.
fn put(list: List, id: &str, kept: StoredDocument, terms: &[u32], batch: &mut WriteBatch<'_>) -> Result<bool, Error> {
    let user = UserRef::new(&kept.project, &kept.user_id);
    if erased::is_erased_in(batch, user, kept.source)? {
        return Ok(false);
    }
    batch.moves(&kept.project, list);
    order::places(list, user, kept.at, id).into_iter().for_each(|place| batch.place(place, terms));
    batch.put(order::row(list, id), postcard::to_stdvec(&kept).expect("a row serialises"));
    Ok(true)
}
