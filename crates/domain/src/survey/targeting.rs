//! Which users a survey is for: rules over attributes, answers, and the history with
//! surveys and events.

mod context;
mod history;

use serde::Serialize;
use serde_json::{Value, json};

use crate::survey::activation::Pattern;
use crate::survey::filter::Condition;
use crate::time::{self, Millis};
use crate::user::completed::CompletedAnswers;

pub use context::{SurveysByTag, TargetingContext, UnmetRule};
pub use history::{Counted, EVERY_SURVEY, EventRule, History, Interaction, Subject};

/// A rule about a user. An empty `all` holds, an empty `any` does not.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Rule {
    All { all: Vec<Rule> },
    Any { any: Vec<Rule> },
    Not { not: Box<Rule> },
    Attribute(Attribute),
    History(History),
    Answer(AnswerRule),
    Event(EventRule),
}

/// A condition on an attribute.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute(pub Condition);

impl Serialize for Attribute {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let Condition { property, op, value } = &self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("attribute", property)?;
        map.serialize_entry("op", op)?;
        if !value.is_null() {
            map.serialize_entry("value", value)?;
        }
        map.end()
    }
}

/// A condition on an answer in the user's latest completed response to a survey. Without
/// such a response only `not_exists` holds.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerRule {
    pub survey: String,
    /// A condition whose `property` is the question's id.
    pub answer: Condition,
    /// The oldest response that counts, in milliseconds before now, the far end included.
    pub within: Option<Millis>,
}

impl Serialize for AnswerRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let Condition { property, op, value } = &self.answer;
        let mut answer = json!({"question_id": property, "op": op});
        if !value.is_null() {
            answer["value"] = value.clone();
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("survey", &self.survey)?;
        map.serialize_entry("answer", &answer)?;
        if let Some(within) = self.within {
            map.serialize_entry("within", &time::format_duration(within))?;
        }
        map.end()
    }
}

impl Rule {
    /// Checks the rule.
    ///
    /// # Errors
    /// The first part that does not hold.
    pub fn check(&self, known: TargetingContext<'_>) -> Result<(), UnmetRule> {
        match self {
            Rule::All { all } => all.iter().try_for_each(|rule| rule.check(known)),
            Rule::Any { any } => {
                let mut first = UnmetRule { actual: json!({"any": []}), until: None };
                for (i, rule) in any.iter().enumerate() {
                    match rule.check(known) {
                        Ok(()) => return Ok(()),
                        Err(missed) if i == 0 => first = missed,
                        // The soonest time at which the rule will hold by itself.
                        Err(missed) => first.until = first.until.into_iter().chain(missed.until).min(),
                    }
                }
                Err(first)
            }
            Rule::Not { not } => match not.check(known) {
                Err(_) => Ok(()),
                Ok(()) => Err(not.held(known)),
            },
            Rule::Attribute(Attribute(condition)) => {
                if condition.holds(known.attributes, known.now) {
                    return Ok(());
                }
                Err(UnmetRule {
                    actual: seen(condition, known),
                    until: condition.turns_at(known.attributes, known.now),
                })
            }
            Rule::History(history) => {
                if history.holds(known) {
                    return Ok(());
                }
                Err(history.state(known))
            }
            Rule::Event(rule) => {
                if rule.holds(known) {
                    return Ok(());
                }
                Err(rule.state(known))
            }
            Rule::Answer(rule) => {
                if rule.answer.holds(&rule.given(known), known.now) {
                    return Ok(());
                }
                Err(rule.state(known))
            }
        }
    }

    /// The rule and all rules within it.
    pub fn parts(&self) -> Vec<&Rule> {
        let inner: Vec<&Rule> = match self {
            Rule::All { all: rules } | Rule::Any { any: rules } => rules.iter().collect(),
            Rule::Not { not } => vec![not],
            Rule::Attribute(_) | Rule::History(_) | Rule::Answer(_) | Rule::Event(_) => Vec::new(),
        };
        std::iter::once(self).chain(inner.into_iter().flat_map(Rule::parts)).collect()
    }

    /// The events that it counts.
    pub fn events(&self) -> impl Iterator<Item = &Pattern> {
        self.parts().into_iter().filter_map(|rule| match rule {
            Rule::Event(rule) => Some(&rule.event),
            _ => None,
        })
    }

    /// The part that made a rule hold which should not.
    fn held(&self, known: TargetingContext<'_>) -> UnmetRule {
        match self {
            Rule::History(history) => history.state(known),
            Rule::Event(rule) => rule.state(known),
            Rule::Attribute(Attribute(condition)) => {
                UnmetRule { actual: seen(condition, known), until: condition.turns_at(known.attributes, known.now) }
            }
            Rule::Answer(rule) => rule.state(known),
            // It is enough that one of its parts stops holding.
            Rule::All { all } => {
                let parts: Vec<UnmetRule> = all.iter().map(|rule| rule.held(known)).collect();
                let until = parts.iter().filter_map(|part| part.until).min();
                let actual = parts.into_iter().next().map_or(json!({"all": []}), |part| part.actual);
                UnmetRule { actual, until }
            }
            Rule::Any { any } => {
                let holding = any.iter().find(|rule| rule.check(known).is_ok());
                let held = holding.map(|rule| rule.held(known));
                // Other parts may hold as well, so the time at which all stop is not known.
                held.map_or(UnmetRule { actual: Value::Null, until: None }, |held| UnmetRule { until: None, ..held })
            }
            Rule::Not { not } => not.check(known).err().unwrap_or(UnmetRule { actual: Value::Null, until: None }),
        }
    }
}

impl AnswerRule {
    /// The response that the rule looks at.
    fn response<'a>(&self, known: TargetingContext<'a>) -> Option<&'a CompletedAnswers> {
        let kept = known.user.completed.get(&*self.survey)?;
        let is_recent = self.within.is_none_or(|within| kept.at >= known.now.saturating_sub(within));
        let retention = known.retentions.get(&self.survey);
        let is_known = retention.is_none_or(|span| known.now < kept.at.saturating_add(*span));
        (is_recent && is_known).then_some(kept)
    }

    /// The answer as an object for the condition.
    fn given(&self, known: TargetingContext<'_>) -> Value {
        self.response(known).map_or_else(|| json!({}), |response| response.answer_to(&self.answer.property))
    }

    /// The value that the rule looked at, and when time alone will change the result.
    fn state(&self, known: TargetingContext<'_>) -> UnmetRule {
        let (response, given) = (self.response(known), self.given(known));
        let actual = json!({
            "survey": self.survey,
            "question_id": self.answer.property,
            "answer": self.answer.seen(&given, known.now),
            "at": response.map(|response| time::format_time(response.at)),
        });
        let ages = self.within.and_then(|within| Some(response?.at.saturating_add(within).saturating_add(1)));
        let retention = known.retentions.get(&self.survey);
        let ends = retention.and_then(|span| Some(response?.at.saturating_add(*span)));
        let is_changed = |at: &Millis| {
            let then = TargetingContext { now: *at, ..known };
            self.answer.holds(&self.given(then), *at) != self.answer.holds(&given, known.now)
        };
        let turns = self.answer.turns_at(&given, known.now);
        UnmetRule { actual, until: ages.into_iter().chain(ends).chain(turns).filter(is_changed).min() }
    }
}

fn seen(condition: &Condition, known: TargetingContext<'_>) -> Value {
    json!({"attribute": condition.property, "actual": condition.seen(known.attributes, known.now)})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::filter::Op;
    use crate::survey::schedule::Zone;
    use crate::time::DAY;
    use crate::user::User;
    use std::collections::BTreeMap;

    fn is_pro() -> Rule {
        let condition = Condition { property: "plan".into(), op: Op::In, value: json!(["pro", "trial"]) };
        Rule::Attribute(Attribute(condition))
    }

    fn completed_nps(within: Option<Millis>) -> Rule {
        let of = Subject::Survey("nps".into());
        Rule::History(History { of, did: Interaction::Completed, within, times: Counted::ONCE })
    }

    #[test]
    fn attributes_and_history_at_their_edges() {
        let mut user = User::default();
        let now = 100 * DAY;
        let (tags, zone) = (BTreeMap::new(), Zone::default());
        let mut retentions = BTreeMap::new();
        user.survey_mut("nps").completed_at = Some(now - 30 * DAY);
        let check = |rule: &Rule, attributes: Value, now: Millis| {
            rule.check(TargetingContext {
                user: &user,
                attributes: &attributes,
                tags: &tags,
                retentions: &retentions,
                zone: &zone,
                now,
            })
        };
        assert!(check(&is_pro(), json!({"plan": "pro"}), now).is_ok());
        let missed = check(&is_pro(), json!({"plan": "free"}), now).unwrap_err();
        assert_eq!(missed.actual, json!({"attribute": "plan", "actual": "free"}));
        assert!(check(&is_pro(), json!({}), now).is_err());

        let lately = completed_nps(Some(30 * DAY));
        assert!(check(&lately, json!({}), now).is_ok(), "both ends belong to it");
        assert!(check(&lately, json!({}), now + 1).is_err());
        assert!(check(&completed_nps(None), json!({}), now + 1_000 * DAY).is_ok());
        let not_lately = Rule::Not { not: Box::new(lately) };
        let missed = check(&not_lately, json!({}), now).unwrap_err();
        assert_eq!(missed.until, Some(now + 1), "time alone will change it");
        assert!(check(&not_lately, json!({}), now + 1).is_ok());

        let answers = [("q1".to_owned(), crate::json::Json::from_valid("9"))].into();
        user.keep_answers("nps", CompletedAnswers { at: now - 30 * DAY, answers });
        user.keep_answers("nps", CompletedAnswers { at: now - 31 * DAY, answers: BTreeMap::new() });
        let check = |rule: &Rule, attributes: Value, now: Millis| {
            rule.check(TargetingContext {
                user: &user,
                attributes: &attributes,
                tags: &tags,
                retentions: &retentions,
                zone: &zone,
                now,
            })
        };
        let said = |question: &str, op: Op, value: Value, within: Option<Millis>| {
            let answer = Condition { property: question.into(), op, value };
            Rule::Answer(AnswerRule { survey: "nps".into(), answer, within })
        };
        let promoter = said("q1", Op::Gte, json!(9), Some(30 * DAY));
        assert!(check(&promoter, json!({}), now).is_ok(), "both ends belong to it, and the latest counts");
        let missed = check(&promoter, json!({}), now + 1).unwrap_err();
        assert_eq!(missed.actual, json!({"survey": "nps", "question_id": "q1", "answer": null, "at": null}));
        let missed = check(&Rule::Not { not: Box::new(promoter) }, json!({}), now).unwrap_err();
        assert_eq!(missed.until, Some(now + 1), "time alone will change it");
        let missed = check(&said("q1", Op::Lt, json!(9), None), json!({}), now).unwrap_err();
        assert_eq!((missed.actual["answer"].clone(), missed.until), (json!(9), None));
        assert!(check(&said("q2", Op::Neq, json!(9), None), json!({}), now).is_err(), "unanswered is false");
        assert!(check(&said("q2", Op::NotExists, Value::Null, None), json!({}), now).is_ok());
        let missed = check(&said("q1", Op::NotExists, Value::Null, Some(30 * DAY)), json!({}), now).unwrap_err();
        assert_eq!(missed.until, Some(now + 1));

        retentions.insert("nps".to_owned(), 40 * DAY);
        let check = |rule: &Rule, now: Millis| {
            let attributes = json!({});
            let (tags, zone) = (&tags, &zone);
            let retentions = &retentions;
            rule.check(TargetingContext { user: &user, attributes: &attributes, tags, retentions, zone, now })
        };
        let known = said("q1", Op::Exists, Value::Null, None);
        let forgotten_at = now + 10 * DAY;
        assert!(check(&known, forgotten_at - 1).is_ok());
        assert!(check(&known, forgotten_at).is_err(), "half-open: answers are known up to their retention");
        let missed = check(&Rule::Not { not: Box::new(known) }, now).unwrap_err();
        assert_eq!(missed.until, Some(forgotten_at));

        let retentions = BTreeMap::new();
        let check = |rule: &Rule, attributes: Value, now: Millis| {
            let (tags, zone, retentions) = (&tags, &zone, &retentions);
            rule.check(TargetingContext { user: &user, attributes: &attributes, tags, retentions, zone, now })
        };
        let both = Rule::All { all: vec![is_pro(), not_lately.clone()] };
        assert_eq!(check(&both, json!({"plan": "free"}), now).unwrap_err().until, None, "the first part decides");
        let either = Rule::Any { any: vec![is_pro(), not_lately] };
        assert!(check(&either, json!({"plan": "pro"}), now).is_ok());
        assert_eq!(check(&either, json!({"plan": "free"}), now).unwrap_err().until, Some(now + 1));
        assert!(check(&Rule::All { all: vec![] }, json!({}), now).is_ok());
        assert!(check(&Rule::Any { any: vec![] }, json!({}), now).is_err());
    }
}
