//! The counters of a survey by the minute, and its single facts, which are counted where a
//! time span begins or ends within a minute.

use crate::console::families;
use serde_json::{Map, Value, json};
use std::ops::Range;

use super::document;
use super::error::Error;
use super::order::{self, Counters, WriteBatch};
use super::verdict::{self, CONSIDERED, NOT_OFFERED, OFFERED};
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::time::{DAY, MINUTE, Millis, TimeSpan};
use askwhen_store::{Batch, Store, keys};
use askwhen_wire::listing::List;

/// How long minutes are kept at least, in milliseconds: more than a year, for comparisons.
pub const KEPT: Millis = 400 * DAY;

/// Something that happened to an offer, at most once.
pub struct OfferFact<'a> {
    pub at: Millis,
    pub name: &'a str,
    pub id: &'a str,
}

fn of_survey(first: u8, survey: SurveyRef<'_>) -> Vec<u8> {
    [&[first][..], &keys::named(survey.project, survey.survey_id), &[0]].concat()
}

/// Adds one to each of these counters.
///
/// # Errors
/// When the store cannot be read.
pub fn count(batch: &mut WriteBatch<'_>, survey: SurveyRef<'_>, at: Millis, names: &[&str]) -> Result<(), Error> {
    let key = [of_survey(order::MINUTES, survey), keys::timed(at.div_euclid(MINUTE), &[])].concat();
    let counters = batch.counters_mut(key)?;
    for name in names {
        match counters.get_mut(*name) {
            Some(count) => *count += 1,
            None => drop(counters.insert((*name).to_owned(), 1)),
        }
    }
    Ok(())
}

/// Counts a fact, unless it was counted before.
///
/// # Errors
/// When the store cannot be read.
pub fn count_fact(batch: &mut WriteBatch<'_>, survey: SurveyRef<'_>, fact: OfferFact<'_>) -> Result<(), Error> {
    if is_counted(batch, survey, &fact)? {
        return Ok(());
    }
    remember(batch, survey, &fact);
    count(batch, survey, fact.at, &[fact.name])
}

/// Whether a fact was counted. A copy of the record that says it has the same time.
///
/// # Errors
/// When the store cannot be read.
pub fn is_counted(batch: &WriteBatch<'_>, survey: SurveyRef<'_>, fact: &OfferFact<'_>) -> Result<bool, Error> {
    Ok(batch.get(&fact.key(survey))?.is_some())
}

/// Notes that a fact was counted.
pub fn remember(batch: &mut WriteBatch<'_>, survey: SurveyRef<'_>, fact: &OfferFact<'_>) {
    batch.put(fact.key(survey), fact.name.into());
}

impl OfferFact<'_> {
    fn key(&self, survey: SurveyRef<'_>) -> Vec<u8> {
        let named = [self.name.as_bytes(), &[0], self.id.as_bytes()].concat();
        [of_survey(order::FACTS, survey), keys::timed(self.at, &named)].concat()
    }
}

/// Removes minutes from before a time, and single facts from before another.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune(store: &Store, minutes_before: Millis, facts_before: Millis, limit: usize) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (first, before) in [(order::FACTS, facts_before), (order::MINUTES, minutes_before.div_euclid(MINUTE))] {
        for (key, _) in order::expired(store, families::INDEX, &[first], 2, before, limit)? {
            batch.delete(families::INDEX, key);
        }
    }
    Ok(store.write(batch)?)
}

/// The counters of a survey in a time span.
///
/// # Errors
/// When the store cannot be read.
pub fn of(store: &Store, survey: SurveyRef<'_>, since: Option<Millis>, until: Option<Millis>) -> Result<Value, Error> {
    let (since, until) = (since.unwrap_or(0), until.unwrap_or(Millis::MAX));
    let minutes = since.saturating_add(MINUTE - 1).div_euclid(MINUTE)..until.div_euclid(MINUTE);
    let mut counters = Counters::new();
    if minutes.is_empty() {
        add_pieces(store, survey, TimeSpan::new(since, until), &mut counters)?;
    } else {
        add_pieces(store, survey, TimeSpan::new(since, minutes.start * MINUTE), &mut counters)?;
        if until < Millis::MAX {
            add_pieces(store, survey, TimeSpan::new(minutes.end * MINUTE, until), &mut counters)?;
        }
        add_minutes(store, survey, minutes, &mut counters)?;
    }
    let mut gates = Map::new();
    for (name, count) in &counters {
        if let Some(gate) = name.strip_prefix(NOT_OFFERED) {
            gates.insert(gate.to_owned(), (*count).into());
        }
    }
    let counted = |name: &str| counters.get(name).copied().unwrap_or(0);
    Ok(json!({
        "considered": counted(CONSIDERED),
        "offered": counted(OFFERED),
        "displayed": counted("displayed"),
        "dismissed": counted("dismissed"),
        "answered": counted("answered"),
        "completed": counted("completed"),
        "not_offered": gates,
    }))
}

fn add_minutes(
    store: &Store,
    survey: SurveyRef<'_>,
    minutes: Range<i64>,
    counters: &mut Counters,
) -> Result<(), Error> {
    each(store, &of_survey(order::MINUTES, survey), minutes, |bytes| {
        for (name, count) in order::counters(bytes)? {
            *counters.entry(name).or_default() += count;
        }
        Ok(())
    })
}

/// Adds the facts of a time span within a minute, one by one.
fn add_pieces(store: &Store, survey: SurveyRef<'_>, span: TimeSpan, counters: &mut Counters) -> Result<(), Error> {
    if span.since >= span.until {
        return Ok(());
    }
    each(store, &of_survey(order::FACTS, survey), span.since..span.until, |name| {
        *counters.entry(String::from_utf8_lossy(name).into_owned()).or_default() += 1;
        Ok(())
    })?;
    order::between(store, List::Decisions, survey.project, span, |bytes| {
        let verdicts = verdict::verdicts(&document::read(&bytes)?.decision()?);
        for (_, ending) in verdicts.into_iter().filter(|(survey_id, _)| survey_id == survey.survey_id) {
            for name in [CONSIDERED.to_owned(), ending] {
                *counters.entry(name).or_default() += 1;
            }
        }
        Ok(())
    })
}

/// Passes the values under a prefix and in a range of times to `each`; counters are stored
/// by minute, facts by millisecond.
fn each(
    store: &Store,
    prefix: &[u8],
    times: Range<i64>,
    mut each: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next = [prefix, &keys::timed(times.start, &[])].concat();
    loop {
        let entries = store.ascending(families::INDEX, &next, 512)?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        for (key, value) in &entries {
            let at = key.strip_prefix(prefix).and_then(keys::time_of);
            if at.is_none_or(|at| at >= times.end) {
                return Ok(());
            }
            each(value)?;
        }
    }
}
