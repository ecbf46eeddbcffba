//! A webhook receiver's definition, already validated.

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;

use crate::survey::filter::{self, Condition};
use crate::time::Millis;
use crate::webhook::rate::Rate;
use crate::webhook::retry::Policy;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    Standard,
    Blitzllama,
    #[serde(rename = "1flow")]
    OneFlow,
    /// A message in a chat.
    Slack,
}

impl Profile {
    pub const ALL: [(&'static str, Profile); 4] = [
        ("standard", Profile::Standard),
        ("blitzllama", Profile::Blitzllama),
        ("1flow", Profile::OneFlow),
        ("slack", Profile::Slack),
    ];

    /// The event types that the profile's bodies can carry.
    pub fn writes(self) -> &'static [EventType] {
        match self {
            Profile::Standard => &EventType::EVERY,
            Profile::Blitzllama | Profile::Slack => &[EventType::Answered, EventType::Completed],
            Profile::OneFlow => &[EventType::Completed],
        }
    }
}

/// What a webhook tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    #[serde(rename = "response.answered")]
    Answered,
    #[serde(rename = "response.completed")]
    Completed,
    #[serde(rename = "survey.displayed")]
    Displayed,
    #[serde(rename = "survey.dismissed")]
    Dismissed,
    #[serde(rename = "user.erased")]
    Erased,
    /// An operator's test of an endpoint; no endpoint subscribes to it.
    #[serde(rename = "endpoint.test")]
    Test,
    /// A survey takes no more responses. Stored rows name a type by its place here, so
    /// new ones come last.
    #[serde(rename = "survey.closed")]
    Closed,
}

impl EventType {
    pub const EVERY: [EventType; 6] = [
        EventType::Answered,
        EventType::Completed,
        EventType::Displayed,
        EventType::Dismissed,
        EventType::Closed,
        EventType::Erased,
    ];

    pub fn name(self) -> &'static str {
        match self {
            EventType::Answered => "response.answered",
            EventType::Completed => "response.completed",
            EventType::Displayed => "survey.displayed",
            EventType::Dismissed => "survey.dismissed",
            EventType::Closed => "survey.closed",
            EventType::Erased => "user.erased",
            EventType::Test => "endpoint.test",
        }
    }
}

/// A secret as it travels in records: sealed with the cluster key, and beside
/// it a keyed digest by which two secrets are told to be the same.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Base64 of nonce and ciphertext.
    pub sealed: String,
    /// Hex HMAC over project, endpoint and secret.
    pub digest: String,
    /// Of a secret that signs with ed25519: what receivers verify with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}

/// The value of a header that goes with each webhook. It may be a token, so it
/// travels sealed; definitions made by version 0.1.0 hold it in clear until they
/// are changed.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderText {
    Clear(String),
    Sealed(SealedSecret),
}

/// What a sealed value is shown as; in a definition that is sent back it keeps the
/// value that is there.
pub const SEALED: &str = "(sealed)";

impl std::fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeaderText(…)")
    }
}

impl Serialize for HeaderText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HeaderText::Clear(text) => serializer.serialize_str(text),
            HeaderText::Sealed(sealed) => sealed.serialize(serializer),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Endpoint {
    pub endpoint_id: String,
    pub url: String,
    pub profile: Profile,
    pub enabled: bool,
    pub events: Vec<String>,
    pub surveys: Vec<String>,
    /// Of completed responses it gets those alone to which these apply.
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ResponseCondition>,
    pub test: bool,
    pub include_properties: bool,
    pub retry: Policy,
    pub rate_limit: Option<Rate>,
    pub concurrency: u32,
    /// By name, in small letters.
    pub headers: BTreeMap<String, HeaderText>,
    pub tls: Option<Tls>,
    /// Never shown; the bridge leaves it out of what it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SealedSecret>,
    /// The secrets before rotations, newest first, and until when they still sign.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous_secrets: Vec<PreviousSecret>,
    /// Given up by askwhen itself, whatever `enabled` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    pub secret: SealedSecret,
    pub until_ms: Millis,
}

/// What TLS to a receiver needs beyond what the machine trusts; PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Certificates trusted besides the machine's.
    pub ca: Option<String>,
    /// The chain that askwhen shows, its own certificate first.
    pub client_cert: Option<String>,
    /// Its private key; never shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<SealedSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disabled {
    pub reason: DisabledReason,
    pub since_ms: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Nothing but failures for five days.
    Auto,
    /// The receiver said so: 410, or `webhook-delivery: disable`.
    Gone,
}

impl DisabledReason {
    pub fn name(self) -> &'static str {
        match self {
            DisabledReason::Auto => "auto",
            DisabledReason::Gone => "gone",
        }
    }
}

impl Endpoint {
    /// Whether anything is sent there.
    pub fn is_enabled(&self) -> bool {
        self.enabled && self.disabled.is_none()
    }

    /// Whether a message of this type about this survey goes here.
    pub fn wants(&self, kind: EventType, survey_id: Option<&str>, test: bool) -> bool {
        self.test == test
            && self.profile.writes().contains(&kind)
            && self.events.iter().any(|glob| matches_glob(glob, kind.name()))
            && survey_id.is_none_or(|id| self.surveys.iter().any(|glob| matches_glob(glob, id)))
    }
}

/// A condition on an answer of a completed response to a survey.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseCondition {
    pub survey: String,
    /// Its `property` is the question's id.
    pub answer: Condition,
}

impl Serialize for ResponseCondition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Condition { property, op, value } = &self.answer;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("survey", &self.survey)?;
        map.serialize_entry("question_id", property)?;
        map.serialize_entry("op", op)?;
        if !value.is_null() {
            map.serialize_entry("value", value)?;
        }
        map.end()
    }
}

impl ResponseCondition {
    /// Whether it applies to the answers to its survey. Nothing holds of a question that
    /// was not answered.
    pub fn holds(&self, answers: &Value, now: Millis) -> bool {
        filter::lookup(answers, &self.answer.property).is_some() && self.answer.holds(answers, now)
    }
}

impl Endpoint {
    /// Whether a completed response to a survey, its answers by question, is one of those
    /// that it gets: some of its conditions are on that survey, and all of these hold.
    pub fn takes(&self, survey_id: &str, answers: &Value, now: Millis) -> bool {
        let mut own = self.conditions.iter().filter(|condition| condition.survey == survey_id).peekable();
        self.conditions.is_empty() || (own.peek().is_some() && own.all(|one| one.holds(answers, now)))
    }
}

/// `*` stands for any run of characters; everything else for itself.
pub fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last_part = None;
    for part in parts {
        if let Some(previous) = last_part.replace(part) {
            match rest.find(previous) {
                Some(at) => rest = &rest[at + previous.len()..],
                None => return false,
            }
        }
    }
    match last_part {
        None => rest.is_empty(),
        Some(tail) => rest.ends_with(tail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::filter::Op;
    use serde_json::json;

    #[test]
    fn nothing_holds_of_a_question_that_was_not_answered() {
        let answers = json!({"q1": 3});
        for (op, value, of_answered) in [
            (Op::Exists, Value::Null, true),
            (Op::NotExists, Value::Null, false),
            (Op::Eq, json!(3), true),
            (Op::Neq, json!(4), true),
            (Op::NotIn, json!([4]), true),
        ] {
            let holds = |question: &str| {
                let answer = Condition { property: question.to_owned(), op, value: value.clone() };
                ResponseCondition { survey: "s".into(), answer }.holds(&answers, 0)
            };
            assert_eq!((holds("q1"), holds("q2")), (of_answered, false), "{op:?}");
        }
    }

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("*", "anything", true),
            ("response.*", "response.completed", true),
            ("response.*", "survey.displayed", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("a*a", "a", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches_glob(glob, text), expected, "{glob} on {text}");
        }
    }
}
