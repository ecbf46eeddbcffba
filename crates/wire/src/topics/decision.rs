//! Topic `decisions`: the decision on a frontend trigger, with the reason for every survey
//! that was considered.

use serde::{Deserialize, Serialize};

use askwhen_domain::eligibility::decision::{ActivationView, Decision, Evaluation, Offered};
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

impl DecisionRecord {
    pub fn of(project: &str, decision: &Decision) -> DecisionRecord {
        DecisionRecord {
            project: project.to_owned(),
            decision_id: decision.decision_id.clone(),
            event_id: decision.event_id.clone(),
            user_id: decision.user_id.clone(),
            trigger: decision.trigger.clone(),
            decided_at: decision.decided_at,
            reason: decision.reason.name().to_owned(),
            survey: decision.survey.as_ref().map(OfferedRecord::of),
            evaluations: decision.evaluations.iter().map(EvaluationRecord::of).collect(),
        }
    }
}

impl OfferedRecord {
    fn of(offered: &Offered) -> OfferedRecord {
        OfferedRecord {
            survey_id: offered.survey_id.clone(),
            version: offered.version,
            name: offered.name.clone(),
            offer_id: offered.offer_id.clone(),
            expires_at: offered.expires_at,
            locale: offered.locale.clone(),
            dir: offered.dir.map(|dir| dir.name().to_owned()),
            ui: offered.ui.clone(),
            activation: offered.activation.as_ref().map(ActivationRecord::of),
            questions: Json::of(&offered.questions),
            endings: (!offered.endings.is_empty()).then(|| Json::of(&offered.endings)),
            anonymous: offered.anonymous,
        }
    }
}

impl ActivationRecord {
    fn of(view: &ActivationView) -> ActivationRecord {
        ActivationRecord {
            event_id: view.event_id.clone(),
            event_name: view.event_name.clone(),
            occurred_at: view.occurred_at,
            properties: view.properties.clone(),
        }
    }
}

impl EvaluationRecord {
    fn of(evaluation: &Evaluation) -> EvaluationRecord {
        let failure = evaluation.failure.as_ref();
        EvaluationRecord {
            survey_id: evaluation.survey_id.clone(),
            pass: failure.is_none(),
            gate: failure.map(|failure| failure.gate.name().to_owned()),
            actual: failure.map(|failure| Json::of(&failure.actual)),
            until: failure.map(|failure| Json::of(&failure.until.map(time::format_time))),
            hint: failure.and_then(|failure| failure.hint).map(str::to_owned),
            shadow: evaluation.shadow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::eligibility::decision::{DecisionReason, Gate, GateFailure};
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
        let record = DecisionRecord::of("default", &decision);
        let written = crate::topics::encode(&record);
        let body = decision.server_body();
        assert_eq!(String::from_utf8_lossy(&written), format!("{{\"project\":\"default\",{}", &body.as_str()[1..]));
        let read: DecisionRecord = serde_json::from_slice(&written).expect("it is one");
        assert_eq!(read, record);
        assert_eq!(Json::of(&DecisionRecord { project: String::new(), ..read }), body, "as lists show it");
    }
}
