//! A validated definition of a webhook receiver.

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
    /// A message for a Slack channel.
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

/// The type of event that a webhook reports.
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
    /// A test by an operator; endpoints cannot subscribe to it.
    #[serde(rename = "endpoint.test")]
    Test,
    /// A survey takes no more responses. Stored rows contain the index of a type, so new
    /// ones are added at the end.
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

/// A secret in records: encrypted with the cluster key, with a keyed digest by which equal
/// secrets are recognised.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// Base64 of nonce and ciphertext.
    pub sealed: String,
    /// Hex HMAC over project, endpoint and secret.
    pub digest: String,
    /// The public key of a secret that signs with ed25519, for receivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedSecret(…)")
    }
}

/// The value of a header that is sent with each webhook. It may be a token, so it is sealed
/// in records; definitions made by version 0.1.0 have it in clear until they are changed.
#[derive(Clone, PartialEq, Eq)]
pub enum HeaderText {
    Clear(String),
    Sealed(SealedSecret),
}

/// What replaces a sealed value in answers. In a definition that is sent back it keeps the
/// stored value.
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
    /// If there are any, only completed responses that meet them are sent.
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ResponseCondition>,
    pub test: bool,
    pub include_properties: bool,
    pub retry: Policy,
    pub rate_limit: Option<Rate>,
    pub concurrency: u32,
    /// By name, in lower case.
    pub headers: BTreeMap<String, HeaderText>,
    pub tls: Option<Tls>,
    /// The bridge leaves it out of its answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SealedSecret>,
    /// Earlier secrets, newest first, and until when they still sign.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous_secrets: Vec<PreviousSecret>,
    /// Set when askwhen gave the endpoint up, whatever `enabled` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousSecret {
    pub secret: SealedSecret,
    pub until_ms: Millis,
}

/// TLS settings of a receiver, as PEM, besides the machine's trusted certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Certificates that are trusted in addition.
    pub ca: Option<String>,
    /// askwhen's certificate chain, its own certificate first.
    pub client_cert: Option<String>,
    /// The private key of `client_cert`; never shown.
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
    /// All attempts failed for five days.
    Auto,
    /// The receiver asked for it, by 410 or `webhook-delivery: disable`.
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
    /// Whether webhooks are sent to it.
    pub fn is_enabled(&self) -> bool {
        self.enabled && self.disabled.is_none()
    }

    /// Whether it subscribes to a type of message about a survey.
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
    /// A condition whose `property` is the question's id.
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
    /// Whether answers to its survey meet the condition. A question without an answer does
    /// not, whatever the comparison.
    pub fn holds(&self, answers: &Value, now: Millis) -> bool {
        filter::lookup(answers, &self.answer.property).is_some() && self.answer.holds(answers, now)
    }
}

impl Endpoint {
    /// Whether a completed response is sent to the endpoint: there are conditions on its
    /// survey, and its answers (by question id) meet all of these.
    pub fn takes(&self, survey_id: &str, answers: &Value, now: Millis) -> bool {
        let mut own = self.conditions.iter().filter(|condition| condition.survey == survey_id).peekable();
        self.conditions.is_empty() || (own.peek().is_some() && own.all(|one| one.holds(answers, now)))
    }
}

/// Whether `text` matches a pattern in which `*` stands for any characters.
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
