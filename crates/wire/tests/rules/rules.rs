//! Rules over users by hand, as the survey file spells them.

use askwhen_domain::time::{Millis, parse_duration, parse_time};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::clocks::Clocks;
use crate::past::{Made, Past};
use crate::reference::World;

/// What a rule looks at, at a time.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub world: &'a World,
    pub past: &'a Past,
    pub clocks: Clocks,
}

impl Known<'_> {
    /// Nothing where a rule holds; else when time alone changes that for the part that
    /// decided.
    pub fn unmet(self, rule: &Value) -> Result<(), Option<Millis>> {
        let parts = |name: &str| rule[name].as_array();
        if let Some(all) = parts("all") {
            return all.iter().try_for_each(|part| self.unmet(part));
        }
        if let Some(any) = parts("any") {
            let all: Vec<Result<(), Option<Millis>>> = any.iter().map(|part| self.unmet(part)).collect();
            let soonest = all.iter().filter_map(|part| part.err().flatten()).min();
            return if all.iter().any(Result::is_ok) { Ok(()) } else { Err(soonest) };
        }
        let (leaf, wanted) = if rule["not"].is_object() { (&rule["not"], false) } else { (rule, true) };
        let now = self.world.now;
        if self.holds(leaf, now) == wanted {
            return Ok(());
        }
        let mut moments: Vec<Millis> = self.moments(leaf).into_iter().filter(|at| *at > now).collect();
        moments.sort_unstable();
        Err(moments.into_iter().find(|at| self.holds(leaf, *at) == wanted))
    }

    fn holds(self, leaf: &Value, at: Millis) -> bool {
        let within = span(&leaf["within"]);
        if leaf["attribute"].is_string() {
            let value = leaf["attribute"].as_str().and_then(|name| self.past.attributes.get(name));
            let ahead = || span(&leaf["value"]).expect("a span");
            return match leaf["op"].as_str() {
                Some("eq") => value == Some(&leaf["value"]),
                Some("exists") => value.is_some(),
                Some("in_next") => value.is_some_and(|value| (at..=at + ahead()).contains(&moment(value))),
                Some("within") => value.is_some_and(|value| (at - ahead()..=at).contains(&moment(value))),
                other => panic!("no condition {other:?}"),
            };
        }
        if leaf["answer"].is_object() {
            let survey_id = leaf["survey"].as_str().expect("a survey");
            let completed = self.past.real().filter(|made| made.survey.survey_id == survey_id);
            let mut completed: Vec<&Made> = completed.filter(|made| !made.survey.anonymous).collect();
            completed.sort_by_key(|made| made.completed_at);
            let latest = completed.into_iter().rfind(|made| made.completed_at.is_some());
            let Some(latest) = latest else { return false };
            let completed_at = latest.completed_at.expect("just seen");
            let retention = self.world.project.surveys.get(survey_id).and_then(|entry| entry.current.retention);
            let is_known = retention.is_none_or(|retention| at < completed_at + retention);
            let is_recent = within.is_none_or(|within| completed_at >= at - within);
            let answer = latest.answer(leaf["answer"]["question_id"].as_str().expect("a question"));
            let (Some(answer), true) = (answer, is_known && is_recent) else { return false };
            return match (leaf["answer"]["op"].as_str(), answer.as_i64(), leaf["answer"]["value"].as_i64()) {
                (Some("lte"), Some(given), Some(bound)) => given <= bound,
                (Some("eq"), ..) => *answer == leaf["answer"]["value"],
                other => panic!("no condition {other:?}"),
            };
        }
        let lately = |time: &Millis| within.is_none_or(|within| *time >= at - within);
        let day = |time: Millis| self.clocks.date(time).number;
        let is_event = leaf["event"].is_string();
        let count = match leaf["distinct"].as_str() {
            None => self.times(leaf).iter().filter(|time| lately(time)).count(),
            Some("day") => self.times(leaf).into_iter().filter(lately).map(day).collect::<BTreeSet<i64>>().len(),
            Some(_) => {
                let all = self.past.counted.iter().filter(|event| is_event && fits(leaf, event) && lately(&event.at));
                let sessions: Vec<Option<&String>> = all.map(|event| event.session.as_ref()).collect();
                let known: BTreeSet<&&String> = sessions.iter().flatten().collect();
                known.len() + sessions.iter().filter(|session| session.is_none()).count()
            }
        };
        let bound = |name: &str| leaf[name].as_u64().map(|bound| bound as usize);
        count >= bound("at_least").unwrap_or(1) && bound("at_most").is_none_or(|most| count <= most)
    }

    /// When it happened.
    fn times(self, leaf: &Value) -> Vec<Millis> {
        if leaf["event"].is_string() {
            return self.past.counted.iter().filter(|event| fits(leaf, event)).map(|event| event.at).collect();
        }
        let concerns = |made: &&Made| match (leaf["survey"].as_str(), leaf["tag"].as_str()) {
            (Some(survey_id), _) => made.survey.survey_id == survey_id,
            (_, Some("*")) => true,
            (_, tag) => self.world.survey(&made.survey.survey_id).tags.iter().any(|one| Some(&**one) == tag),
        };
        let made = self.past.real().filter(concerns);
        match leaf["did"].as_str() {
            Some("displayed") => made.filter_map(|made| made.displayed_at).collect(),
            Some("answered") => made.filter_map(|made| made.answered_at).collect(),
            Some("completed") => made.filter_map(|made| made.completed_at).collect(),
            Some("dismissed") => made.filter_map(|made| made.dismissed_at).collect(),
            // Of offers the latest of each survey is known.
            Some("offered") => {
                let offers: Vec<&Made> = made.filter(|made| !made.is_link).collect();
                let surveys: BTreeSet<&String> = offers.iter().map(|made| &made.survey.survey_id).collect();
                let of = |id: &&String| {
                    let its = offers.iter().filter(|made| made.survey.survey_id == **id);
                    its.map(|made| made.offered_at).max()
                };
                surveys.iter().filter_map(of).collect()
            }
            other => panic!("nobody does {other:?}"),
        }
    }

    /// When time could change whether it holds.
    fn moments(self, leaf: &Value) -> Vec<Millis> {
        let within = span(&leaf["within"]);
        if leaf["attribute"].is_string() {
            let value = leaf["attribute"].as_str().and_then(|name| self.past.attributes.get(name));
            let Some(span) = span(&leaf["value"]).filter(|_| leaf["op"] != "eq") else { return Vec::new() };
            return value.map_or_else(Vec::new, |value| {
                let at = moment(value);
                if leaf["op"] == "in_next" { vec![at - span, at + 1] } else { vec![at, at + span + 1] }
            });
        }
        if leaf["answer"].is_object() {
            let survey_id = leaf["survey"].as_str().expect("a survey");
            let retention = self.world.project.surveys.get(survey_id).and_then(|entry| entry.current.retention);
            let completed = self.past.real().filter(|made| made.survey.survey_id == survey_id);
            let times = completed.filter_map(|made| made.completed_at);
            return times
                .flat_map(|at| [within.map(|within| at + within + 1), retention.map(|span| at + span)])
                .flatten()
                .collect();
        }
        let Some(within) = within else { return Vec::new() };
        self.times(leaf).into_iter().map(|at| at + within + 1).collect()
    }
}

fn fits(leaf: &Value, event: &crate::past::Counted) -> bool {
    let kind = &leaf["where"][0]["value"];
    leaf["event"] == *event.name && (kind.is_null() || event.kind.is_some() && kind.as_i64() == event.kind)
}

fn span(value: &Value) -> Option<Millis> {
    value.as_str().and_then(|text| parse_duration(text).ok())
}

fn moment(value: &Value) -> Millis {
    value.as_str().and_then(|text| parse_time(text).ok()).expect("a time")
}
