//! Rules over the past: a user's history with surveys, and their events.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::json;

use super::context::{TargetingContext, UnmetRule};
use crate::json::Json;
use crate::survey::activation::Pattern;
use crate::survey::filter;
use crate::time::{self, Millis};
use crate::user::distinct::{self, Distinct, Occurrence};
use crate::user::{PerSurvey, RememberedEvent, SurveyExtension};

/// How a rule names every survey.
pub const EVERY_SURVEY: &str = "*";

/// A rule about a user's history with a survey or with the surveys of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub of: Subject,
    pub did: Interaction,
    /// The oldest that counts, in milliseconds before now, the far end included; `None` for
    /// ever.
    pub within: Option<Millis>,
    pub times: Counted,
}

/// Whose history it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Survey(String),
    /// The surveys that have the tag now; [`EVERY_SURVEY`] names all.
    Tag(String),
}

/// A rule about events that the user has sent. Events are remembered from when a rule names
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRule {
    pub event: Pattern,
    pub within: Option<Millis>,
    pub times: Counted,
}

/// How often something has to have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub at_least: u32,
    pub at_most: Option<u32>,
    pub distinct: Option<Distinct>,
}

impl Counted {
    /// At least once: the default.
    pub const ONCE: Counted = Counted { at_least: 1, at_most: None, distinct: None };

    fn holds(self, count: usize) -> bool {
        count >= self.at_least as usize && self.at_most.is_none_or(|most| count <= most as usize)
    }

    fn serialize<M: serde::ser::SerializeMap>(self, map: &mut M) -> Result<(), M::Error> {
        if self.at_least != 1 {
            map.serialize_entry("at_least", &self.at_least)?;
        }
        if let Some(most) = self.at_most {
            map.serialize_entry("at_most", &most)?;
        }
        if let Some(distinct) = self.distinct {
            map.serialize_entry("distinct", &distinct)?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Interaction {
    Offered,
    Displayed,
    Answered,
    Completed,
    Dismissed,
}

impl Interaction {
    pub const ALL: [(&'static str, Interaction); 5] = [
        ("offered", Interaction::Offered),
        ("displayed", Interaction::Displayed),
        ("answered", Interaction::Answered),
        ("completed", Interaction::Completed),
        ("dismissed", Interaction::Dismissed),
    ];

    /// When it happened last.
    pub fn last(self, state: &PerSurvey) -> Option<Millis> {
        match self {
            Interaction::Offered => state.offered_at,
            Interaction::Displayed => state.last_display_at,
            Interaction::Answered => state.answered_at,
            Interaction::Completed => state.completed_at,
            Interaction::Dismissed => state.dismissed_at,
        }
    }

    /// The earlier times, as far as they are remembered.
    fn earlier(self, extension: &SurveyExtension) -> &[Millis] {
        match self {
            Interaction::Offered => &[],
            Interaction::Displayed => &extension.displays,
            Interaction::Answered => &extension.answers,
            Interaction::Completed => &extension.completions,
            Interaction::Dismissed => &extension.dismissals,
        }
    }
}

/// A rule that counts what has happened.
trait Happened {
    fn within(&self) -> Option<Millis>;
    fn times(&self) -> Counted;
    fn occurrences(&self, known: TargetingContext<'_>) -> Vec<Occurrence>;

    fn count(&self, known: TargetingContext<'_>) -> usize {
        let since = self.within().map_or(Millis::MIN, |within| known.now.saturating_sub(within));
        let lately = self.occurrences(known).into_iter().filter(|one| one.at >= since);
        distinct::count(lately, self.times().distinct, known.zone)
    }

    fn is_met(&self, known: TargetingContext<'_>) -> bool {
        self.times().holds(self.count(known))
    }

    /// When time alone will change the result, because one of the times becomes too old.
    fn turns_at(&self, known: TargetingContext<'_>) -> Option<Millis> {
        let within = self.within()?;
        let holds = self.is_met(known);
        let ages = self.occurrences(known).into_iter().map(|one| one.at.saturating_add(within).saturating_add(1));
        let mut later: Vec<Millis> = ages.filter(|at| *at > known.now).collect();
        later.sort_unstable();
        later.into_iter().find(|at| self.is_met(TargetingContext { now: *at, ..known }) != holds)
    }

    fn newest(&self, known: TargetingContext<'_>) -> Option<Millis> {
        self.occurrences(known).into_iter().map(|one| one.at).max()
    }
}

impl Happened for History {
    fn within(&self) -> Option<Millis> {
        self.within
    }

    fn times(&self) -> Counted {
        self.times
    }

    fn occurrences(&self, known: TargetingContext<'_>) -> Vec<Occurrence> {
        let mut all = Vec::new();
        let mut of_survey = |survey_id: &str, state: &PerSurvey| {
            let earlier = known.user.survey_extension(survey_id).map_or(&[][..], |kept| self.did.earlier(kept));
            let times = earlier.iter().copied().chain(self.did.last(state));
            all.extend(times.map(|at| Occurrence { at, session: None }));
        };
        let surveys = &known.user.surveys;
        match &self.of {
            Subject::Tag(tag) if tag == EVERY_SURVEY => {
                surveys.iter().for_each(|(id, state)| of_survey(id, state));
            }
            Subject::Tag(tag) => {
                let tagged = known.tags.get(tag).into_iter().flatten();
                tagged.filter_map(|id| Some((id, surveys.get(id)?))).for_each(|(id, state)| of_survey(id, state));
            }
            Subject::Survey(id) => {
                surveys.get(id).into_iter().for_each(|state| of_survey(id, state));
            }
        }
        all
    }
}

impl Happened for EventRule {
    fn within(&self) -> Option<Millis> {
        self.within
    }

    fn times(&self) -> Counted {
        self.times
    }

    fn occurrences(&self, known: TargetingContext<'_>) -> Vec<Occurrence> {
        let kept = known.user.extension.as_ref().and_then(|extension| extension.events.get(&*self.event.event));
        let conditions = &self.event.conditions;
        let fits = |event: &&RememberedEvent| {
            if conditions.is_empty() {
                return true;
            }
            let properties = event.properties.as_ref().map_or_else(|| json!({}), Json::value);
            filter::first_mismatch(conditions, &properties, event.at).is_none()
        };
        let kept = kept.map_or(&[][..], |kept| kept.as_slice());
        kept.iter().filter(fits).map(RememberedEvent::occurrence).collect()
    }
}

impl History {
    pub(super) fn holds(&self, known: TargetingContext<'_>) -> bool {
        self.is_met(known)
    }

    /// The value that the rule looked at, and when time alone will change the result.
    pub(super) fn state(&self, known: TargetingContext<'_>) -> UnmetRule {
        let (of, id) = match &self.of {
            Subject::Survey(id) => ("survey", id),
            Subject::Tag(tag) => ("tag", tag),
        };
        let mut actual = json!({of: id, "did": self.did, "at": self.newest(known).map(time::format_time)});
        if self.times != Counted::ONCE {
            actual["count"] = self.count(known).into();
        }
        UnmetRule { actual, until: self.turns_at(known) }
    }
}

impl EventRule {
    pub(super) fn holds(&self, known: TargetingContext<'_>) -> bool {
        self.is_met(known)
    }

    /// The value that the rule looked at, and when time alone will change the result.
    pub(super) fn state(&self, known: TargetingContext<'_>) -> UnmetRule {
        let at = self.newest(known).map(time::format_time);
        let actual = json!({"event": self.event.event, "count": self.count(known), "at": at});
        UnmetRule { actual, until: self.turns_at(known) }
    }
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.of {
            Subject::Survey(id) => map.serialize_entry("survey", id)?,
            Subject::Tag(tag) => map.serialize_entry("tag", tag)?,
        }
        map.serialize_entry("did", &self.did)?;
        if let Some(within) = self.within {
            map.serialize_entry("within", &time::format_duration(within))?;
        }
        self.times.serialize(&mut map)?;
        map.end()
    }
}

impl Serialize for EventRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("event", &self.event.event)?;
        if !self.event.conditions.is_empty() {
            map.serialize_entry("where", &self.event.conditions)?;
        }
        if let Some(within) = self.within {
            map.serialize_entry("within", &time::format_duration(within))?;
        }
        self.times.serialize(&mut map)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::schedule::Zone;
    use crate::time::DAY;
    use crate::user::User;

    use std::collections::BTreeMap;

    #[test]
    fn counts_hold_between_their_ends_and_say_when_time_changes_them() {
        let mut user = User::default();
        let now = 100 * DAY;
        for (offset, days_ago) in [(1, 14), (2, 3), (3, 3), (4, 1)] {
            let event = RememberedEvent { at: now - days_ago * DAY, offset, session: None, properties: None };
            user.extension_mut().remember("export", event);
        }
        let (attributes, tags, zone) = (json!({}), BTreeMap::new(), Zone::default());
        let known = TargetingContext {
            user: &user,
            attributes: &attributes,
            tags: &tags,
            retentions: &BTreeMap::new(),
            zone: &zone,
            now,
        };
        let rule = |at_least, at_most, distinct| EventRule {
            event: Pattern { event: "export".into(), conditions: Vec::new() },
            within: Some(14 * DAY),
            times: Counted { at_least, at_most, distinct },
        };
        assert!(rule(4, None, None).holds(known), "the far end belongs to it");
        assert_eq!(rule(4, None, None).state(known).until, Some(now + 1));
        assert!(!rule(5, None, None).holds(known));
        assert_eq!(rule(5, None, None).state(known).until, None, "time alone brings no more of them");
        assert!(rule(3, Some(3), Some(Distinct::Day)).holds(known));
        let too_often = rule(1, Some(1), None);
        assert!(!too_often.holds(known));
        assert_eq!(too_often.state(known).until, Some(now + 11 * DAY + 1));
        assert_eq!(too_often.state(known).actual["count"], json!(4));
    }

    #[test]
    fn tags_count_all_their_surveys_and_the_star_all_there_are() {
        let mut user = User::default();
        let now = 100 * DAY;
        for (id, days_ago) in [("a", 1), ("b", 2), ("c", 3)] {
            user.survey_mut(id).last_display_at = Some(now - days_ago * DAY);
        }
        user.extension_mut().survey_mut("a").displays = vec![now - 9 * DAY];
        let (attributes, zone) = (json!({}), Zone::default());
        let tags = BTreeMap::from([("nps".to_owned(), vec!["a".to_owned(), "b".to_owned(), "unseen".to_owned()])]);
        let known = TargetingContext {
            user: &user,
            attributes: &attributes,
            tags: &tags,
            retentions: &BTreeMap::new(),
            zone: &zone,
            now,
        };
        let count = |tag: &str, within: Option<Millis>| {
            let of = Subject::Tag(tag.into());
            History { of, did: Interaction::Displayed, within, times: Counted::ONCE }.count(known)
        };
        assert_eq!((count("nps", None), count("nps", Some(7 * DAY)), count("*", None)), (3, 2, 4));
        assert_eq!(count("other", None), 0);
    }
}
