//! Topic `decisions`: the decision on a frontend trigger, with the reason for every survey
//! that was considered.

use serde::{Deserialize, Serialize};

use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis};

/// A decision, with its project. Reasons and gates are texts, so that names of later
/// versions can be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Omitted in the body that lists show.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    pub decision_id: String,
    pub event_id: String,
    pub user_id: String,
    pub trigger: String,
    #[serde(with = "time::rfc3339")]
    pub decided_at: Millis,
    pub reason: String,
    pub survey: Option<OfferedRecord>,
    pub evaluations: Vec<EvaluationRecord>,
}

/// The survey that is offered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfferedRecord {
    pub survey_id: String,
    pub version: u64,
    pub name: String,
    pub offer_id: String,
    #[serde(with = "time::rfc3339")]
    pub expires_at: Millis,
    /// The language of the texts; `None` when the definition does not name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// `ltr` or `rtl`, for a survey with a language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    pub ui: Json,
    pub activation: Option<ActivationRecord>,
    /// From the survey's definition, in the language of the texts.
    pub questions: Json,
    /// The same; `None` when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endings: Option<Json>,
    /// Whether reports of the response leave the user out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

/// The event that armed the survey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActivationRecord {
    pub event_id: String,
    pub event_name: String,
    #[serde(with = "time::rfc3339")]
    pub occurred_at: Millis,
    pub properties: Json,
}

/// The outcome for one survey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    pub survey_id: String,
    pub pass: bool,
    /// The gate that was shut; missing, as the next two members, when all were open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// The value that the gate looked at; `null` when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub actual: Option<Json>,
    /// When it may open; `null` when time alone changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub until: Option<Json>,
    /// What the app can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the survey is in status `shadow`: it is evaluated and never offered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// A member that is there, even if it is `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

/// The value of a decision's record: its body for server keys, with the project before its
/// members.
pub fn encode(project: &str, server_body: &Json) -> Vec<u8> {
    let project = Json::of(&project);
    let members = server_body.as_str().strip_prefix('{').unwrap_or_default();
    ["{\"project\":", project.as_str(), ",", members].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::eligibility::decision::{
        ActivationView, Decision, DecisionReason, Evaluation, Gate, GateFailure, Offered,
    };
    use askwhen_domain::survey::Ending;
    use askwhen_domain::survey::translation::Direction;
    use serde_json::json;

    /// Whoever asked for a decision and whoever reads the topic read the same.
    #[test]
    fn a_record_is_the_decision_that_was_answered_with_its_project_before_it() {
        let failure = |gate, actual, until, hint| Some(GateFailure { gate, actual, until, hint });
        let evaluation = |survey_id: &str, failure, shadow| Evaluation { survey_id: survey_id.into(), failure, shadow };
        let decision = Decision {
            decision_id: "dec_1".into(),
            event_id: "e".into(),
            user_id: "ann \"1\"".into(),
            trigger: "Main".into(),
            decided_at: 1_795_258_022_187,
            reason: DecisionReason::Offered,
            survey: Some(Offered {
                survey_id: "s".into(),
                version: 3,
                name: "S".into(),
                offer_id: "off_1".into(),
                expires_at: 1_795_258_032_187,
                locale: Some("he".into()),
                dir: Some(Direction::Rtl),
                ui: Json::from_valid("{\"b\":1.50,\"a\":12345678901234567890}"),
                activation: Some(ActivationView {
                    event_id: "e0".into(),
                    event_name: "woke".into(),
                    occurred_at: 5,
                    properties: Json::from_valid("{\"x\":[1,null]}"),
                }),
                questions: Vec::new(),
                anonymous: true,
                endings: vec![Ending { ending_id: "bye".into(), text: "Bye".into(), link: None }],
                expose: vec!["x".into()],
            }),
            evaluations: vec![
                evaluation("s", None, false),
                evaluation("t", failure(Gate::Cooldown, json!({"n": 1.5}), Some(9), None), false),
                evaluation("u", failure(Gate::NotActivated, json!(null), None, Some("wait")), true),
                evaluation("v", None, true),
            ],
        };
        let body = decision.server_body();
        let written = encode("a \"b\"", &body);
        let read: DecisionRecord = serde_json::from_slice(&written).expect("it is one");
        assert_eq!((&*read.project, &*read.reason, read.evaluations.len()), ("a \"b\"", "offered", 4));
        assert_eq!(crate::topics::encode(&read), written, "a reader knows all of its members");
        assert_eq!(Json::of(&DecisionRecord { project: String::new(), ..read }), body, "as lists show it");
    }
}
