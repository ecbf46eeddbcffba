//! The decision on a frontend trigger, with the reason for every survey that was
//! considered. It serialises to the body that the API answers.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;

use crate::json::{Json, Members};
use crate::survey::localized::Localized;
use crate::survey::placeholder::TextValues;
use crate::survey::translation::Direction;
use crate::survey::{Ending, Question, Survey};
use crate::time::{self, Millis};
use crate::user::{Activated, Offer};

/// Why a survey is not offered, in the order in which the gates are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    NotActive,
    OutOfSchedule,
    PlatformMismatch,
    LocaleMismatch,
    VersionMismatch,
    ShowOnMismatch,
    NotActivated,
    DelayPending,
    Cancelled,
    Expired,
    Excluded,
    TargetingFailed,
    Holdout,
    NotSampled,
    OtherArm,
    AlreadyCompleted,
    MaxDisplays,
    Cooldown,
    GlobalCooldown,
    SessionCap,
    QuotaFull,
    CapReached,
    OfferOutstanding,
    Preempted,
}

impl Gate {
    pub const ALL: [(&'static str, Gate); 24] = [
        ("not_active", Gate::NotActive),
        ("out_of_schedule", Gate::OutOfSchedule),
        ("platform_mismatch", Gate::PlatformMismatch),
        ("locale_mismatch", Gate::LocaleMismatch),
        ("version_mismatch", Gate::VersionMismatch),
        ("show_on_mismatch", Gate::ShowOnMismatch),
        ("not_activated", Gate::NotActivated),
        ("delay_pending", Gate::DelayPending),
        ("cancelled", Gate::Cancelled),
        ("expired", Gate::Expired),
        ("excluded", Gate::Excluded),
        ("targeting_failed", Gate::TargetingFailed),
        ("holdout", Gate::Holdout),
        ("not_sampled", Gate::NotSampled),
        ("other_arm", Gate::OtherArm),
        ("already_completed", Gate::AlreadyCompleted),
        ("max_displays", Gate::MaxDisplays),
        ("cooldown", Gate::Cooldown),
        ("global_cooldown", Gate::GlobalCooldown),
        ("session_cap", Gate::SessionCap),
        ("quota_full", Gate::QuotaFull),
        ("cap_reached", Gate::CapReached),
        ("offer_outstanding", Gate::OfferOutstanding),
        ("preempted", Gate::Preempted),
    ];

    pub fn name(self) -> &'static str {
        Gate::ALL[self as usize].0
    }
}

/// The reason of the decision as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionReason {
    Offered,
    NoSurvey,
    /// The trigger is too old for an offer.
    Stale,
    Gate(Gate),
}

impl DecisionReason {
    /// Every name that [`DecisionReason`] can have.
    pub fn names() -> impl Iterator<Item = &'static str> {
        [DecisionReason::Offered, DecisionReason::NoSurvey, DecisionReason::Stale]
            .into_iter()
            .chain(Gate::ALL.map(|(_, gate)| DecisionReason::Gate(gate)))
            .map(DecisionReason::name)
    }

    pub fn name(self) -> &'static str {
        match self {
            DecisionReason::Offered => "offered",
            DecisionReason::NoSurvey => "no_survey",
            DecisionReason::Stale => "stale",
            DecisionReason::Gate(gate) => gate.name(),
        }
    }
}

impl Serialize for DecisionReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A gate that is shut: the value that it looked at, and when it may open.
#[derive(Debug, Clone, PartialEq)]
pub struct GateFailure {
    pub gate: Gate,
    pub actual: Value,
    pub until: Option<Millis>,
    /// What the app can do about it.
    pub hint: Option<&'static str>,
}

impl GateFailure {
    /// A gate that is shut, without a hint.
    pub(crate) fn new(gate: Gate, actual: Value, until: Option<Millis>) -> GateFailure {
        GateFailure { gate, actual, until, hint: None }
    }
}

/// The outcome for one survey.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    pub survey_id: String,
    /// The gate that is shut; `None` when all are open.
    pub failure: Option<GateFailure>,
    /// Whether the survey is in status `shadow`: it is evaluated and never offered.
    pub shadow: bool,
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("survey_id", &self.survey_id)?;
        map.serialize_entry("pass", &self.failure.is_none())?;
        if let Some(failure) = &self.failure {
            map.serialize_entry("gate", &failure.gate)?;
            map.serialize_entry("actual", &failure.actual)?;
            map.serialize_entry("until", &failure.until.map(time::format_time))?;
            if let Some(hint) = failure.hint {
                map.serialize_entry("hint", hint)?;
            }
        }
        if self.shadow {
            map.serialize_entry("shadow", &true)?;
        }
        map.end()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    pub decision_id: String,
    pub event_id: String,
    pub user_id: String,
    pub trigger: String,
    #[serde(serialize_with = "time::as_time")]
    pub decided_at: Millis,
    pub reason: DecisionReason,
    pub survey: Option<Offered>,
    pub evaluations: Vec<Evaluation>,
}

/// An offered survey, as the app gets it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Offered {
    pub survey_id: String,
    pub version: u64,
    pub name: String,
    pub offer_id: String,
    #[serde(serialize_with = "time::as_time")]
    pub expires_at: Millis,
    /// The language of the texts; `None` when the definition does not name one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<Direction>,
    pub ui: Json,
    pub activation: Option<ActivationView>,
    pub questions: Vec<Question>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endings: Vec<Ending>,
    /// Whether messages about the response leave the user out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// Names of the activation properties that a client key may see.
    #[serde(skip)]
    pub expose: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActivationView {
    pub event_id: String,
    pub event_name: String,
    #[serde(serialize_with = "time::as_time")]
    pub occurred_at: Millis,
    pub properties: Json,
}

impl ActivationView {
    pub fn of(activated: &Activated) -> ActivationView {
        ActivationView {
            event_id: activated.event_id.clone(),
            event_name: activated.event_name.to_string(),
            occurred_at: activated.at,
            properties: activated.properties.clone().unwrap_or_else(Json::empty_object),
        }
    }
}

impl Offered {
    /// The offered survey in the language of the offer's context, its placeholders filled
    /// in.
    pub fn of(offer: &Offer, survey: &Survey, attributes: &BTreeMap<String, Json>) -> Offered {
        let activation = offer.activation.as_ref().and_then(|activation| activation.properties.as_ref());
        let values = TextValues { expose: &survey.expose, activation, attributes };
        let Localized { name, ui, questions, endings, locale, dir } =
            survey.localized(offer.context.locale.as_deref()).filled(values);
        Offered {
            survey_id: offer.survey_id.clone(),
            version: offer.version,
            name,
            offer_id: offer.offer_id.clone(),
            expires_at: offer.expires_at,
            locale,
            dir,
            ui,
            activation: offer.activation.as_deref().map(ActivationView::of),
            questions,
            endings,
            anonymous: survey.anonymous,
            expose: survey.expose.clone(),
        }
    }

    /// Removes the activation properties that the survey does not expose.
    pub fn for_client(mut self) -> Offered {
        if let Some(activation) = &mut self.activation {
            activation.properties = exposed(&activation.properties, &self.expose);
        }
        self
    }
}

fn exposed(properties: &Json, expose: &[String]) -> Json {
    if expose.is_empty() {
        return Json::empty_object();
    }
    let mut value = properties.value();
    if let Some(members) = value.as_object_mut() {
        let is_named = |named: &String, name: &str| {
            named == name || named.strip_prefix("activation.").is_some_and(|named| named == name)
        };
        members.retain(|name, _| expose.iter().any(|named| is_named(named, name)));
    }
    Json::of(&value)
}

/// About how many bytes a body takes without its evaluations.
const BODY_BYTES: usize = 1_024;
/// About how many bytes an evaluation takes.
const EVALUATION_BYTES: usize = 128;

impl Decision {
    pub fn server_body(&self) -> Json {
        Json::of_about(self, BODY_BYTES + EVALUATION_BYTES * self.evaluations.len())
    }

    /// Of the properties of the offered survey's activation, those that a client key may see;
    /// `None` without an activation.
    pub fn exposed(&self) -> Option<Json> {
        let offered = self.survey.as_ref()?;
        offered.activation.as_ref().map(|activation| exposed(&activation.properties, &offered.expose))
    }
}

/// The decision as a client key sees it, made of [`Decision::server_body`] and
/// [`Decision::exposed`]: without evaluations and gates. What is left is copied as it stands,
/// because the survey is most of it. Whatever cannot be read is shown as `null`.
pub fn client_body(server_body: &Json, exposed: Option<&Json>) -> Json {
    let body = with_values(server_body.as_str(), |decision| {
        decision.0.retain(|(name, _)| name != "evaluations");
        let reason = client_reason(decision.get("reason").unwrap_or_default().trim_matches('"'));
        let reason = to_raw_value(reason).expect("a text serialises");
        let survey = offered_to_client(decision.get("survey").unwrap_or_default(), exposed);
        vec![("reason", reason), ("survey", survey)]
    });
    Json::raw(&body)
}

/// The reason as a client key sees it, without details about the user.
fn client_reason(name: &str) -> &str {
    let is_shown = [DecisionReason::Offered, DecisionReason::Stale].map(DecisionReason::name).contains(&name);
    if is_shown { name } else { "not_offered" }
}

fn offered_to_client(survey: &str, exposed: Option<&Json>) -> Box<RawValue> {
    with_values(survey, |survey| {
        let exposed = exposed.and_then(|exposed| RawValue::from_string(exposed.as_str().to_owned()).ok());
        let properties = exposed.unwrap_or_else(null);
        let activation = survey.get("activation").unwrap_or_default();
        vec![("activation", with_values(activation, |_| vec![("properties", properties)]))]
    })
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// New values for members of an object.
type NewValues = Vec<(&'static str, Box<RawValue>)>;

/// An object with some other values; `null` when the text is not an object.
fn with_values(object: &str, values: impl FnOnce(&mut Members<'_>) -> NewValues) -> Box<RawValue> {
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(object) else { return null() };
    let values = values(&mut members);
    values.iter().for_each(|(name, value)| members.replace(name, value));
    to_raw_value(&members).expect("members serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(reason: DecisionReason, survey: Option<Offered>) -> Decision {
        let failure = GateFailure::new(Gate::Cooldown, Value::from(3), None);
        Decision {
            decision_id: "dec_1".into(),
            event_id: "e\"1".into(),
            user_id: "zoë".into(),
            trigger: "Main".into(),
            decided_at: 0,
            reason,
            survey,
            evaluations: vec![Evaluation { survey_id: "s".into(), failure: Some(failure), shadow: false }],
        }
    }

    fn offered(properties: Option<&str>, expose: &[&str]) -> Offered {
        let activation = properties.map(|properties| ActivationView {
            event_id: "e".into(),
            event_name: "woke".into(),
            occurred_at: 0,
            properties: Json::from_valid(properties),
        });
        Offered {
            survey_id: "s".into(),
            version: 1,
            name: "S".into(),
            offer_id: "off_1".into(),
            expires_at: 0,
            locale: Some("de".into()),
            dir: None,
            ui: Json::from_valid(r#"{"reason":"x","evaluations":[1e2, 2]}"#),
            activation,
            questions: Vec::new(),
            endings: Vec::new(),
            anonymous: true,
            expose: expose.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_client_gets_the_same_text_without_what_is_not_for_it() {
        let head = r#"{"decision_id":"dec_1","event_id":"e\"1","user_id":"zoë","trigger":"Main","decided_at":"1970-01-01T00:00:00.000Z""#;
        let survey = |activation: &str| {
            format!(
                "{{\"survey_id\":\"s\",\"version\":1,\"name\":\"S\",\"offer_id\":\"off_1\",\"expires_at\":\"1970-01-01T00:00:00.000Z\",\
                 \"locale\":\"de\",\"ui\":{{\"reason\":\"x\",\"evaluations\":[1e2, 2]}},\"activation\":{activation},\"questions\":[],\
                 \"anonymous\":true}}"
            )
        };
        let activation = |properties: &str| {
            format!(
                "{{\"event_id\":\"e\",\"event_name\":\"woke\",\"occurred_at\":\"1970-01-01T00:00:00.000Z\",\"properties\":{properties}}}"
            )
        };
        let of_event = r#"{"a":1.50,"b":"secret","c":12345678901234567890123}"#;
        for (reason, offered, expected) in [
            (DecisionReason::NoSurvey, None, "\"not_offered\",\"survey\":null".to_owned()),
            (DecisionReason::Gate(Gate::Cooldown), None, "\"not_offered\",\"survey\":null".to_owned()),
            (DecisionReason::Stale, None, "\"stale\",\"survey\":null".to_owned()),
            (
                DecisionReason::Offered,
                Some(offered(None, &["a"])),
                format!("\"offered\",\"survey\":{}", survey("null")),
            ),
            (
                DecisionReason::Offered,
                Some(offered(Some(of_event), &["a", "activation.c"])),
                format!("\"offered\",\"survey\":{}", survey(&activation(r#"{"a":1.50,"c":12345678901234567890123}"#))),
            ),
            (
                DecisionReason::Offered,
                Some(offered(Some(of_event), &[])),
                format!("\"offered\",\"survey\":{}", survey(&activation("{}"))),
            ),
        ] {
            let decision = decision(reason, offered);
            let client = client_body(&decision.server_body(), decision.exposed().as_ref());
            assert_eq!(client.as_str(), format!("{head},\"reason\":{expected}}}"));
        }
    }
}
