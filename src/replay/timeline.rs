//! What a user's journal records say, newest first: read backwards in stretches, so
//! that a page costs what lies above it and not the whole journal.

use serde_json::{Value, json};
use std::collections::BTreeSet;

use super::said::{self, ForwardId, Said};
use super::{Error, Source, erasure};
use askwhen_domain::id;
use askwhen_domain::record::{Body, Record as UserRecord, Target};
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::{self, Millis};
use askwhen_log::{Record, TopicPartition};
use askwhen_partition::admission::Admission;
use askwhen_wire::record::{AliasAction, AliasStep, Internal};
use askwhen_wire::topic::Topic;

/// Records that are read at a time.
const STRETCH: u64 = 50_000;

/// Whose records are wanted, up to which time, and how many.
pub struct TimelineQuery<'a> {
    pub project: &'a str,
    pub user_id: &'a str,
    pub since: Millis,
    /// Inclusive.
    pub until: Millis,
    pub limit: usize,
}

/// Something that a user's record says.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineItem {
    pub at: Millis,
    /// Orders what has the same time, and names it.
    pub id: String,
    pub shown: Value,
    /// The forward that brought it.
    forward: Option<ForwardId>,
}

/// The newest records of a user that fit, newest first, back to an erasure. `has_test_clock`
/// says that the journal may be ahead of the times at which it was appended to.
///
/// # Errors
/// When the journal cannot be read.
pub fn timeline(source: &Source, query: &TimelineQuery<'_>, has_test_clock: bool) -> Result<Vec<TimelineItem>, Error> {
    let partition = id::partition_of(query.user_id, source.partitions);
    let at = TopicPartition { topic: Topic::Events, partition };
    let bounds = source.bounds(at)?;
    let rules = source.rules(partition);
    let mut reading = TimelineReading { rules, query, ahead: 0, found: Vec::new(), is_erased_later: false };
    if has_test_clock {
        // Only from its beginning on does the journal say how far ahead it is.
        reading.stretch(source, at, bounds.start, bounds.end)?;
        reading.settle();
        return Ok(reading.found);
    }
    let least = if query.since > 0 { source.offset_at(at, query.since)?.max(bounds.start) } else { bounds.start };
    let mut end = match query.until.checked_add(1) {
        Some(after) => source.offset_at(at, after)?.min(bounds.end),
        None => bounds.end,
    };
    let user = UserRef::new(query.project, query.user_id);
    if end < bounds.end && erasure::newest_from(source, "replay", at, end, user)?.is_some() {
        return Ok(Vec::new());
    }
    while end > least && !reading.is_full() {
        let start = end.saturating_sub(STRETCH).max(least);
        let newer = std::mem::take(&mut reading.found);
        reading.stretch(source, at, start, end)?;
        reading.found.extend(newer);
        reading.settle();
        end = start;
    }
    Ok(reading.found)
}

struct TimelineReading<'a> {
    rules: Admission,
    query: &'a TimelineQuery<'a>,
    /// How far the test clock is ahead of append times.
    ahead: Millis,
    found: Vec<TimelineItem>,
    /// Whether the user was erased after the span, so that nothing in it is shown.
    is_erased_later: bool,
}

impl TimelineReading<'_> {
    fn is_full(&self) -> bool {
        let is_erased = self.found.last().is_some_and(|item| item.shown["kind"] == "erased");
        is_erased || self.found.len() >= self.query.limit
    }

    /// Puts what was found in order, newest first, and leaves out what an erasure has
    /// taken away, what is beyond the limit, and what a restart has sent once more: the
    /// first of two forwards of one number is the one that counted.
    fn settle(&mut self) {
        if self.is_erased_later {
            self.found.clear();
        }
        self.found.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
        let mut forwards = BTreeSet::new();
        let oldest_first = self.found.drain(..).rev();
        let mut once: Vec<TimelineItem> =
            oldest_first.filter(|item| item.forward.is_none_or(|forward| forwards.insert(forward))).collect();
        once.reverse();
        self.found = once;
        if let Some(erased) = self.found.iter().position(|item| item.shown["kind"] == "erased") {
            self.found.truncate(erased + 1);
        }
        self.found.truncate(self.query.limit);
    }

    fn stretch(&mut self, source: &Source, at: TopicPartition, start: u64, end: u64) -> Result<(), Error> {
        let mut journal = source.journal_reader(at, start);
        loop {
            let records = journal.read()?;
            if records.is_empty() {
                return Ok(());
            }
            for record in &records {
                if record.offset >= end {
                    return Ok(());
                }
                self.take(at.partition, record);
            }
        }
    }

    fn take(&mut self, partition: u32, record: &Record) {
        let internal = self.rules.trusted_internal(None, record);
        if let Some(Internal::Clock { ahead }) = internal {
            self.ahead = ahead;
            return;
        }
        let user = UserRef::new(self.query.project, self.query.user_id);
        let item = said::of(record, internal.as_ref(), user, |said, brought_by| {
            let shown = match said {
                Said::Erased => Some(json!({"kind": "erased"})),
                Said::Record(record) => shown(record),
                Said::Alias(step) => shown_step(step),
            };
            shown.map(|shown| (shown, brought_by))
        });
        let Some((mut shown, brought_by)) = item.flatten() else { return };
        let at = record.appended_at + self.ahead;
        self.is_erased_later |= at > self.query.until && shown["kind"] == "erased";
        if (self.query.since..=self.query.until).contains(&at) {
            let id = format!("{partition}/{:020}", record.offset);
            shown["at"] = time::format_time(at).into();
            self.found.push(TimelineItem { at, id, shown, forward: brought_by });
        }
    }
}

/// What was done about an alias, where that has changed the user.
fn shown_step(step: &AliasStep) -> Option<Value> {
    let is_merged = matches!(step.action, AliasAction::Merge(_)) && step.alias != step.at;
    is_merged.then(|| json!({"kind": "alias", "alias": step.alias}))
}

/// What a record says; a trigger is shown as its decision, which the lists have.
fn shown(record: &UserRecord<'_>) -> Option<Value> {
    let mut shown = match &record.body {
        Body::Event { name, properties, .. } => {
            let properties: Value = serde_json::from_str(properties).unwrap_or_default();
            json!({"kind": "event", "event_id": record.event_id, "event_name": name, "properties": properties})
        }
        Body::Displayed { offer_id } => json!({"kind": "displayed", "offer_id": offer_id}),
        Body::Dismissed { offer_id, .. } => json!({"kind": "dismissed", "offer_id": offer_id}),
        Body::Answers(given) => {
            let mut shown = json!({"kind": "answers", "completed": given.completed});
            match &given.target {
                Target::Offer(offer_id) => shown["offer_id"] = offer_id.as_str().into(),
                Target::Link { survey_id, response_id, .. } => {
                    shown["survey_id"] = survey_id.as_str().into();
                    shown["response_id"] = response_id.clone().into();
                }
            }
            let answer = |a: &askwhen_domain::record::GivenAnswer| json!({"question_id": a.question_id, "value": a.value.value()});
            shown["answers"] = given.answers.iter().map(answer).collect();
            shown
        }
        Body::Attributes(changes) => {
            let changes = changes.iter().map(|(name, value)| (name.clone(), value.value()));
            json!({"kind": "attributes", "attributes": changes.collect::<serde_json::Map<_, _>>()})
        }
        Body::Trigger { .. } | Body::ShowOffer { .. } | Body::ShowLink { .. } | Body::ShowUser | Body::Erase => {
            return None;
        }
    };
    if let Some(at) = record.times.occurred_at {
        shown["occurred_at"] = time::format_time(at).into();
    }
    Some(shown)
}
