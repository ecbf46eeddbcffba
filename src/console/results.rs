//! Results of a survey: from the tallies of whole days, and from rows where a time span
//! begins or ends within a day.

use crate::console::families;
use serde_json::Value;
use std::collections::BTreeMap;

use super::document;
use super::document::text_term;
use super::error::Error;
use super::order;
use super::tallies::{Circumstance, of_survey};
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::survey::question::QuestionType;
use askwhen_domain::time::{self, DAY, Millis, TimeSpan};
use askwhen_store::{Store, keys};
use askwhen_wire::listing::{ResultsQuery, SurveyResults};
use askwhen_wire::tally::{AskedQuestion, ResponseTally, ResultsTally};
use askwhen_wire::topics::response::{AnswerRecord, ResponseBody};

/// The most text answers that are shown of a question.
const SHOWN_TEXTS: usize = 50;

/// The results of a survey.
///
/// # Errors
/// When the store cannot be read.
pub fn of(store: &Store, survey: SurveyRef<'_>, query: &ResultsQuery) -> Result<SurveyResults, Error> {
    let (since, until) = (query.since.unwrap_or(0).max(0), query.until.unwrap_or(Millis::MAX));
    let mut series: BTreeMap<String, ResultsTally> = BTreeMap::new();
    let mut results = SurveyResults::default();
    let mut add = |day: i64, circumstance: &Circumstance, tally: &ResponseTally| {
        if query.version.is_none_or(|version| version == circumstance.version) {
            results.total.add(circumstance.version, tally);
            if let Some(by) = query.by {
                series.entry(circumstance.group(day, by)).or_default().add(circumstance.version, tally);
            }
        }
    };
    if since < until {
        // Whole days come from the tallies; a day that the span cuts comes from its rows,
        // if there is anything outside of the span.
        let (mut first, mut end) = (since.div_euclid(DAY), until.saturating_add(DAY - 1).div_euclid(DAY));
        let cut = |from: Millis, to: Millis| is_there(store, survey, from, to);
        let mut pieces = Vec::new();
        if first * DAY < since && cut(first * DAY, since)? {
            pieces.push((since, until.min((first + 1) * DAY)));
            first += 1;
        }
        if until < Millis::MAX && first < end && cut(until, end * DAY)? {
            pieces.push((since.max((end - 1) * DAY), until));
            end -= 1;
        }
        for (from, to) in pieces {
            order::ascend_survey(store, survey, from, to, |_, row| {
                let response = document::read(&row)?.response()?;
                let mut tally = ResponseTally::default();
                tally.count(&response, 1);
                if !tally.is_empty() {
                    add(response.created_at.div_euclid(DAY), &Circumstance::of(&response), &tally);
                }
                Ok(true)
            })?;
        }
        each_day(store, survey, first, end, add)?;
    }
    results.series = series.into_iter().collect();
    results.texts = texts(store, survey, query, &results.total)?;
    Ok(results)
}

/// Whether a survey has a response in a time span.
fn is_there(store: &Store, survey: SurveyRef<'_>, from: Millis, to: Millis) -> Result<bool, Error> {
    let mut found = false;
    order::ascend_survey(store, survey, from, to, |_, _| {
        found = true;
        Ok(false)
    })?;
    Ok(found)
}

fn each_day(
    store: &Store,
    survey: SurveyRef<'_>,
    first: i64,
    end: i64,
    mut each: impl FnMut(i64, &Circumstance, &ResponseTally),
) -> Result<(), Error> {
    let prefix = of_survey(survey);
    let mut next = [&prefix[..], &keys::timed(first, &[])].concat();
    loop {
        let entries = store.ascending(families::INDEX, &next, order::SCANNED_AT_A_TIME)?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in &entries {
            let Some(rest) = key.strip_prefix(&prefix[..]) else { return Ok(()) };
            let Some(day) = keys::time_of(rest).filter(|day| *day < end) else { return Ok(()) };
            let damaged = |e| Error::Damaged(format!("the key of a tally is unreadable: {e}"));
            let circumstance: Circumstance = postcard::from_bytes(&rest[8..]).map_err(damaged)?;
            each(day, &circumstance, &order::tally(value)?);
        }
    }
}

/// The newest text answers of each question, with their users.
fn texts(
    store: &Store,
    survey: SurveyRef<'_>,
    query: &ResultsQuery,
    total: &ResultsTally,
) -> Result<BTreeMap<String, Vec<Value>>, Error> {
    let mut all = BTreeMap::new();
    let span = TimeSpan::new(query.since.unwrap_or(0), query.until.unwrap_or(Millis::MAX));
    let of_texts = total.questions.iter().filter(|(asked, _)| asked.kind == QuestionType::Text);
    for (AskedQuestion { question_id, .. }, question) in of_texts {
        let wanted = SHOWN_TEXTS.min(question.tally.answered.max(0) as usize);
        let mut found: Vec<Value> = Vec::new();
        order::descend_survey(store, survey, span, &[text_term(question_id)], |row| {
            if found.len() >= wanted {
                return Ok(false);
            }
            let response = document::read(&row)?.response()?;
            let is_wanted =
                |answer: &&AnswerRecord| answer.question_id == *question_id && answer.kind == QuestionType::Text;
            let answer = response.answers.iter().find(is_wanted);
            let counts = !response.test && query.version.is_none_or(|version| version == response.survey_version);
            if let Some(answer) = answer.filter(|_| counts) {
                found.push(serde_json::json!({
                    "text": answer.value.value(),
                    "response_id": response.response_id,
                    "user_id": response.user_id,
                    "answered_at": time::format_time(answer.answered_at),
                }));
            }
            Ok(true)
        })?;
        all.insert(question_id.clone(), found);
    }
    Ok(all)
}

/// Up to `limit` responses of a survey after a position, oldest first, as JSON, and the
/// position of the last.
///
/// # Errors
/// When the store cannot be read.
pub fn responses(
    store: &Store,
    survey: SurveyRef<'_>,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<ResponseBody>, Option<Vec<u8>>), Error> {
    let (mut found, mut last) = (Vec::new(), None);
    let each = |place: &[u8], row: Vec<u8>| {
        let response = document::read(&row)?.response()?;
        last = Some(place.to_vec());
        if !response.test {
            found.push(response);
        }
        Ok(found.len() < limit)
    };
    match after {
        Some(place) => order::ascend_survey_from(store, survey, &[place, &[0]].concat(), Millis::MAX, each)?,
        None => order::ascend_survey(store, survey, 0, Millis::MAX, each)?,
    }
    Ok((found, last))
}
