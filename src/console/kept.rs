//! Decisions and responses: a JSON body by id, with what lists and erasures need of it.

use super::document::{self, StoredDocument, StoredResponse, read};
use super::error::{Error, ReadOutcome};
use super::order::{self, WriteBatch, term};
use super::round::Round;
use super::stats::{self, OfferFact};
use super::verdict::{CONSIDERED, verdicts};
use super::{deliveries, erased, tallies};
use askwhen_domain::id::RecordPosition;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_log::Record;
use askwhen_store::Store;
use askwhen_wire::listing::List;
use askwhen_wire::topics::{DecisionRecord, ResponseRecord, SOURCE_HEADER, Source};

/// The position of the journal record behind an output.
pub fn source(record: &Record) -> Option<RecordPosition> {
    Source::parse(record.header(SOURCE_HEADER)?).map(|source| source.position())
}

/// Adds a decision, once.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_decision(value: &[u8], source: RecordPosition, round: &mut Round<'_>) -> Result<ReadOutcome, Error> {
    let Ok(mut decision) = serde_json::from_slice::<DecisionRecord>(value) else { return Ok(ReadOutcome::Unreadable) };
    let project = std::mem::take(&mut decision.project);
    if project.is_empty() {
        return Ok(ReadOutcome::Unreadable);
    }
    let (id, user_id, at) = (decision.decision_id.clone(), decision.user_id.clone(), decision.decided_at);
    let batch = &mut round.batch;
    if batch.get(&order::row(List::Decisions, &id))?.is_some() {
        return Ok(ReadOutcome::Read);
    }
    let verdicts = verdicts(&decision);
    // The row of an erased user is gone and cannot show that this is a copy; but the facts
    // of a decision are remembered together, so one of its surveys shows it.
    if let Some((survey_id, _)) = verdicts.first()
        && stats::is_counted(batch, SurveyRef::new(&project, survey_id), &OfferFact { at, name: CONSIDERED, id: &id })?
    {
        return Ok(ReadOutcome::Read);
    }
    for (survey_id, ending) in &verdicts {
        stats::count(batch, SurveyRef::new(&project, survey_id), at, &[CONSIDERED, ending])?;
    }
    // Nothing of an erased user is stored.
    if erased::is_erased_in(batch, UserRef::new(&project, &user_id), source)? {
        remember(&project, &id, at, &verdicts, batch);
    } else {
        let (body, terms) = (document::body(&decision), decision_terms(&decision));
        round.put_decision(&id, &StoredDocument { project, user_id, at, source, body }, &terms);
    }
    Ok(ReadOutcome::Read)
}

/// Remembers the surveys that were counted for a decision whose row is removed with its
/// user.
fn remember(project: &str, id: &str, at: Millis, verdicts: &[(String, String)], batch: &mut WriteBatch<'_>) {
    for (survey_id, ending) in verdicts {
        for name in [CONSIDERED, ending] {
            stats::remember(batch, SurveyRef::new(project, survey_id), &OfferFact { at, name, id });
        }
    }
}

/// Adds answers or a completion: there is one row for a response, with its newest answers.
///
/// # Errors
/// When the store cannot be read.
pub fn apply_response(value: &[u8], source: RecordPosition, round: &mut Round<'_>) -> Result<ReadOutcome, Error> {
    let Ok(ResponseRecord { kind, data, .. }) = serde_json::from_slice(value) else {
        return Ok(ReadOutcome::Unreadable);
    };
    let (id, at, happened_at) = (data.response_id.clone(), data.created_at, data.updated_at);
    let before = round.response(&id)?;
    // It is a copy, or older than the row.
    if before.is_some_and(|kept| kept.source.partition == source.partition && kept.source > source) {
        return Ok(ReadOutcome::Read);
    }
    let before = before.cloned();
    let (batch, survey) = (&mut round.batch, SurveyRef::new(&data.project, &data.survey_id));
    let was_answered = before.as_ref().is_some_and(|row| !row.response.answers.is_empty());
    if !data.answers.is_empty() && !was_answered {
        // The first answer's time, whichever record is read first.
        stats::count_fact(batch, survey, OfferFact { at, name: "answered", id: &id })?;
    }
    if kind == EventType::Completed {
        stats::count_fact(batch, survey, OfferFact { at: happened_at, name: "completed", id: &id })?;
    }
    // Nothing of an erased user is stored.
    if erased::is_erased_in(batch, UserRef::new(&data.project, &data.user_id), source)? {
        return Ok(ReadOutcome::Read);
    }
    let row = StoredResponse { at, source, response: data };
    let Some(before) = before else {
        tallies::count(batch, &row.response, 1)?;
        round.put_response(row);
        return Ok(ReadOutcome::Read);
    };
    tallies::count(batch, &before.response, -1)?;
    let (newer, older) = if is_newer(&before, &row) { (before, row) } else { (row, before) };
    // It is listed under one name, as an erasure of that name takes it.
    if newer.response.user_id != older.response.user_id {
        let user = UserRef::new(&older.response.project, &older.response.user_id);
        let [_, of_user] = order::places(List::Responses, user, older.at, &id);
        batch.remove_from_index(of_user);
    }
    let row = StoredResponse { response: newer.response.merged_over(older.response), ..newer };
    tallies::count(batch, &row.response, 1)?;
    round.put_response(row);
    Ok(ReadOutcome::Read)
}

/// Whether a record of a response is newer than another. A response that was begun under an
/// alias goes on in the partition of its user, and partitions are read in any order.
fn is_newer(one: &StoredResponse, other: &StoredResponse) -> bool {
    if one.source.partition == other.source.partition {
        return one.source > other.source;
    }
    let order = |row: &StoredResponse| (row.response.completed, row.response.updated_at, row.source);
    order(one) > order(other)
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
pub fn apply_erasure(user: UserRef<'_>, at: RecordPosition, store: &Store, round: &mut Round<'_>) -> Result<(), Error> {
    erased::remember(&mut round.batch, user, at)?;
    round.settle();
    for list in [List::Deliveries, List::Decisions, List::Responses] {
        let mut ids = Vec::new();
        order::each_of_user(store, list, user, |entry| {
            ids.push(entry.id());
            Ok(())
        })?;
        for id in ids {
            if list == List::Deliveries {
                deliveries::apply_erasure(&id, at, round)?;
                continue;
            }
            let batch = &mut round.batch;
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
