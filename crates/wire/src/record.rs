//! Records of the journal: what any producer may write, and what only askwhen
//! can (the internal kinds, which carry a MAC made with the cluster key).

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::definition::{Kind, Trigger};
use super::error::Class;
use super::json;
use askwhen_domain::endpoint::{DisabledReason, SealedSecret};
use askwhen_domain::health::Health;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::message::Delivery;
use askwhen_domain::quota::Mail;
use askwhen_domain::record::{Answers, Body, Context, Given, Record, Target};
use askwhen_domain::time::{self, Millis, Told};

/// Header of internal records of version 0.1.0: hex HMAC over key and value.
pub const MAC_HEADER: &str = "mac";
/// Header of internal records: hex HMAC over the log, the partition, who waits,
/// key and value.
pub const BOUND_MAC_HEADER: &str = "bound-mac";
/// Header of records that somebody waits for: the correlation.
pub const REPLY_HEADER: &str = "reply-to";
/// Largest event, in bytes of its properties.
pub const MAX_EVENT_BYTES: usize = 32 << 10;
pub const MAX_PROPERTIES: usize = 256;
/// Most answers in one record or request.
pub const MAX_ANSWERS: usize = 200;
/// Levels of objects around a record that is forwarded.
const FORWARD_DEPTH: usize = 4;
pub const DEFAULT_PROJECT: &str = "default";

/// Why a record of the journal cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Unreadable {
    /// Stable; the `reason` of the reject.
    pub reason: &'static str,
    pub detail: String,
}

impl Unreadable {
    /// The reason, which is stable.
    pub fn kind(&self) -> &'static str {
        self.reason
    }

    /// The record alone is turned away.
    pub fn class(&self) -> Class {
        Class::Reject
    }
}

fn unreadable(reason: &'static str, detail: impl Into<String>) -> Unreadable {
    Unreadable { reason, detail: detail.into() }
}

/// A string that is borrowed wherever it has no escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Every member that a journal record may have; others are ignored, because
/// any producer may write here.
#[derive(Debug, Deserialize)]
struct Members<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Text<'a>>,
    #[serde(borrow, default)]
    project: Option<Text<'a>>,
    #[serde(borrow, default)]
    user_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    event_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    trigger: Option<Text<'a>>,
    #[serde(borrow, default)]
    offer_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    survey_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    response_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    event_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    properties: Option<&'a RawValue>,
    #[serde(borrow, default)]
    attributes: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(default)]
    answers: Option<Vec<AnswerMembers>>,
    #[serde(default)]
    completed: Option<bool>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    occurred_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sent_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    received_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    internal: Option<&'a RawValue>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct ContextMembers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locale: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AnswerMembers {
    question_id: String,
    value: Json,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answered_at: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

/// The kinds that change or read what is not one user's, or that speak for
/// askwhen itself. Without the MAC they are rejects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Internal {
    /// To the registrar: please make this the definition.
    Define(Define),
    /// From the registrar to every partition: this is the definition now.
    Defined(Defined),
    /// To the registrar: this name was met.
    NameSeen { project: String, trigger: Trigger },
    /// From one partition to another.
    Forward(Forward),
    /// A read of one user: an offer, or a link survey.
    Query(Query),
    /// The user is to be forgotten.
    Erase(Erase),
    /// To the registrar: do this with an endpoint.
    Operate(Operate),
    /// From the delivery to the registrar, and from there to every partition: so
    /// an endpoint fares.
    Fares(Fares),
    /// A message is to be delivered again, under its own id; its delivery is named
    /// by whoever asks.
    Redeliver {
        delivery: Box<Delivery>,
        /// When its fact was told first: an erasure since then forbids it.
        told_at: Millis,
        asked_at: Millis,
    },
    /// An endpoint is to be tried.
    Ping { project: String, endpoint_id: String, delivery_id: String, asked_at: Millis },
    /// Between the bank of a quota and its customers.
    Quota(Mail),
    /// Nothing but the time at which it is appended: somebody waits.
    Tick {},
    /// A test clock is now so many milliseconds ahead of append times.
    Clock { ahead: Millis },
    /// From here on a MAC counts only if it names log and partition: no process
    /// of version 0.1.0 writes to this journal any more.
    BindMacs {},
    /// An operator says that the journal's time was wrong: it goes on from this
    /// record's own.
    AcceptTime(AcceptTime),
    /// An operator takes an earlier record of this partition out of the way.
    Skip(Skip),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Erase {
    pub project: String,
    pub user_id: String,
    pub asked_at: Millis,
    /// Of which request it is the record: done once. Empty before 0.2.0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptTime {
    /// By the wall clock, as append times are.
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skip {
    pub offset: u64,
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Define {
    pub project: String,
    pub kind: Kind,
    pub id: String,
    /// The canonical form; absent: the definition goes.
    pub body: Option<Json>,
    /// Taken for an endpoint that has no secret yet.
    pub new_secret: Option<SealedSecret>,
    /// Only if the current version is this one.
    pub if_match: Option<u64>,
    /// Only if there is none yet.
    pub create: bool,
    /// Against a copy of an old record: when it was asked, and an id of its own.
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operate {
    pub project: String,
    pub endpoint_id: String,
    pub act: Act,
    /// Only if the current version is this one.
    pub if_match: Option<u64>,
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Enable,
    Disable {
        reason: DisabledReason,
    },
    /// The secret before it signs as well for so long.
    Rotate {
        secret: SealedSecret,
        overlap: Millis,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fares {
    pub project: String,
    pub endpoint_id: String,
    pub health: Health,
    /// Which process says so.
    pub by: String,
    pub told_at: Millis,
    /// Given by the registrar: the larger, the newer.
    pub seq: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defined {
    pub project: String,
    pub kind: Kind,
    pub id: String,
    pub version: u64,
    pub changed: bool,
    pub created: bool,
    pub used_new_secret: bool,
    pub body: Option<Json>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    pub from: u32,
    pub seq: u64,
    pub key: Option<String>,
    /// The record itself, and whether it carried a valid MAC.
    pub value: Json,
    pub trusted: bool,
    pub reply_to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    pub project: String,
    pub user_id: String,
    pub offer_id: Option<String>,
    pub survey_id: Option<String>,
}

#[derive(Debug, PartialEq)]
pub enum Decoded<'a> {
    User(Box<Record<'a>>),
    Internal(Box<Internal>),
}

/// The JSON of a value, without the frame that clients of a schema registry put
/// before it: a zero, and four bytes for the schema's id.
pub fn plain(value: &[u8]) -> &[u8] {
    match value {
        [0, _, _, _, _, json @ ..] => json,
        _ => value,
    }
}

/// Reads one record. `trusted` says that its MAC was verified.
///
/// # Errors
/// What makes it a reject.
pub fn decode(value: Option<&[u8]>, trusted: bool) -> Result<Decoded<'_>, Unreadable> {
    let bytes = plain(value.ok_or_else(|| unreadable("null_value", "the record has no value"))?);
    // A forward is deeper than the record that it carries.
    let depth = json::MAX_DEPTH + if trusted { FORWARD_DEPTH } else { 0 };
    let text = json::check_within(bytes, depth).map_err(|e| unreadable(e.flaw.code(), e.to_string()))?;
    // serde would take a list for the members in their order.
    if !text.trim_start().starts_with('{') {
        return Err(unreadable("wrong_type", "a record is a JSON object"));
    }
    let members: Members<'_> = serde_json::from_str(text).map_err(|e| unreadable("wrong_type", e.to_string()))?;
    let kind = members.kind.as_ref().map_or("event", |text| &text.0);
    if kind == "internal" {
        if !trusted {
            return Err(unreadable("forged", "an internal record without a valid MAC"));
        }
        let raw = members.internal.ok_or_else(|| unreadable("missing_field", "internal is required"))?;
        let internal = serde_json::from_str(raw.get()).map_err(|e| unreadable("wrong_type", e.to_string()))?;
        return Ok(Decoded::Internal(Box::new(internal)));
    }
    user_record(members).map(|record| Decoded::User(Box::new(record)))
}

fn user_record(members: Members<'_>) -> Result<Record<'_>, Unreadable> {
    let kind = members.kind.as_ref().map_or("event", |text| &text.0).to_owned();
    let needed = |text: Option<Text<'_>>, name: &'static str| match text {
        Some(text) => checked(text.0.into_owned(), name),
        None => Err(unreadable("missing_field", format!("{name} is required"))),
    };
    let user_id =
        borrowed(members.user_id, "user_id")?.ok_or_else(|| unreadable("missing_field", "user_id is required"))?;
    id::check_given(&user_id).map_err(|why| unreadable("bad_id", format!("user_id {why}")))?;
    let project = borrowed(members.project, "project")?.unwrap_or(Cow::Borrowed(DEFAULT_PROJECT));
    let event_id = borrowed(members.event_id, "event_id")?;
    let told = Told {
        occurred_at: moment(members.occurred_at, "occurred_at")?,
        sent_at: moment(members.sent_at, "sent_at")?,
        received_at: moment(members.received_at, "received_at")?,
    };
    // Nobody looks at an event's.
    let context = members.context.filter(|_| kind == "trigger" || kind == "answers");
    let context: Option<ContextMembers> = context
        .map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|e| unreadable("wrong_type", e.to_string()))?;
    let context = context.unwrap_or_default();
    let context = Context {
        platform: context.platform,
        locale: context.locale,
        app_version: context.app_version,
        session_id: context.session_id,
        timezone: context.timezone,
    };
    let body = match kind.as_str() {
        "event" => Body::Event {
            name: borrowed(members.event_name, "event_name")?
                .ok_or_else(|| unreadable("missing_field", "event_name is required"))?,
            properties: properties(members.properties)?,
        },
        "trigger" => Body::Trigger {
            trigger: borrowed(members.trigger, "trigger")?
                .ok_or_else(|| unreadable("missing_field", "trigger is required"))?,
            properties: properties(members.properties)?,
            context,
        },
        "displayed" => Body::Displayed { offer_id: needed(members.offer_id, "offer_id")?.into() },
        "dismissed" => Body::Dismissed { offer_id: needed(members.offer_id, "offer_id")?.into() },
        "attributes" => {
            let given = members.attributes.ok_or_else(|| unreadable("missing_field", "attributes is required"))?;
            check_count("attributes", MAX_PROPERTIES, || given.len())?;
            Body::Attributes(given.into_iter().map(|(k, v)| (k, Json::from_valid(v.get()))).collect())
        }
        "answers" => {
            let target = match (members.offer_id, members.survey_id) {
                (Some(offer_id), _) => Target::Offer(checked(offer_id.0.into_owned(), "offer_id")?),
                (None, Some(survey_id)) => Target::Link {
                    survey_id: checked(survey_id.0.into_owned(), "survey_id")?,
                    response_id: borrowed(members.response_id, "response_id")?.map(Cow::into_owned),
                },
                (None, None) => return Err(unreadable("missing_field", "offer_id or survey_id is required")),
            };
            let answers = members.answers.unwrap_or_default();
            check_count("answers", MAX_ANSWERS, || answers.len())?;
            let answers = answers.into_iter().map(given).collect::<Result<_, _>>()?;
            Body::Answers(Answers { target, answers, completed: members.completed.unwrap_or(false), context })
        }
        _ => {
            return Err(unreadable(
                "unknown_type",
                "type must be event, trigger, displayed, dismissed, answers or attributes",
            ));
        }
    };
    Ok(Record { project, user_id, event_id, told, body })
}

fn checked(text: String, name: &str) -> Result<String, Unreadable> {
    match id::check(&text) {
        Ok(()) => Ok(text),
        Err(why) => Err(unreadable("bad_id", format!("{name} {why}"))),
    }
}

fn borrowed<'a>(text: Option<Text<'a>>, name: &str) -> Result<Option<Cow<'a, str>>, Unreadable> {
    match text {
        None => Ok(None),
        Some(text) => match id::check(&text.0) {
            Ok(()) => Ok(Some(text.0)),
            Err(why) => Err(unreadable("bad_id", format!("{name} {why}"))),
        },
    }
}

fn moment(raw: Option<&RawValue>, name: &str) -> Result<Option<Millis>, Unreadable> {
    raw.map(|raw| parse_moment(raw.get()))
        .transpose()
        .map_err(|wanted| unreadable("bad_time", format!("{name} must be {wanted}")))
}

/// A time as JSON has it: a string in RFC 3339, or a number of seconds or
/// milliseconds since 1970, as serialisers of many languages write it.
///
/// # Errors
/// A sentence that says what a time looks like.
pub fn parse_moment(json: &str) -> Result<Millis, &'static str> {
    const WANTED: &str = "a time in RFC 3339 with a zone, or seconds or milliseconds since 1970";
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: Text<'_> = serde_json::from_str(json).map_err(|_| WANTED)?;
            time::parse_time(&text.0)
        }
        Some(b'-' | b'0'..=b'9') => json.parse().ok().and_then(time::of_epoch).ok_or(WANTED),
        _ => Err(WANTED),
    }
}

fn properties(raw: Option<&RawValue>) -> Result<&str, Unreadable> {
    let text = raw.map_or("{}", RawValue::get);
    if !text.starts_with('{') {
        return Err(unreadable("wrong_type", "properties must be an object"));
    }
    if text.len() > MAX_EVENT_BYTES {
        return Err(unreadable("event_too_large", "properties have more than 32 KiB"));
    }
    check_count("properties", MAX_PROPERTIES, || {
        // Members are counted only where there may be too many.
        let may_be = text.bytes().filter(|byte| *byte == b':').take(MAX_PROPERTIES + 1).count();
        if may_be <= MAX_PROPERTIES {
            may_be
        } else {
            serde_json::from_str(text).map_or(0, |all: json::Members<'_>| all.0.len())
        }
    })?;
    Ok(text)
}

fn check_count(name: &str, most: usize, count: impl FnOnce() -> usize) -> Result<(), Unreadable> {
    if count() > most { Err(unreadable("invalid", format!("{name} may have at most {most} members"))) } else { Ok(()) }
}

fn given(members: AnswerMembers) -> Result<Given, Unreadable> {
    Ok(Given {
        answered_at: moment(members.answered_at.as_deref(), "answered_at")?,
        question_id: members.question_id,
        value: members.value,
        duration_ms: members.duration_ms,
    })
}

/// The same shape the other way round; what is absent is left out.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    project: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offer_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    survey_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<BTreeMap<&'a str, &'a Json>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Vec<AnswerMembers>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<ContextMembers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received_at: Option<String>,
}

/// The value of a user's record. Reads and erasures have no public form: see
/// [`Internal`].
pub fn encode(record: &Record<'_>) -> Vec<u8> {
    let mut out = Written {
        kind: record.body.kind(),
        project: &record.project,
        user_id: &record.user_id,
        event_name: None,
        trigger: None,
        offer_id: None,
        survey_id: None,
        response_id: None,
        event_id: record.event_id.as_deref(),
        properties: None,
        attributes: None,
        answers: None,
        completed: None,
        context: None,
        occurred_at: record.told.occurred_at.map(time::format_time),
        sent_at: record.told.sent_at.map(time::format_time),
        received_at: record.told.received_at.map(time::format_time),
    };
    match &record.body {
        Body::Event { name, properties } => {
            out.event_name = Some(name);
            out.properties = written_properties(properties);
        }
        Body::Trigger { trigger, properties, context } => {
            out.trigger = Some(trigger);
            out.context = written_context(context);
            out.properties = written_properties(properties);
        }
        Body::Displayed { offer_id } | Body::Dismissed { offer_id } | Body::ShowOffer { offer_id } => {
            out.offer_id = Some(offer_id);
        }
        Body::ShowLink { survey_id, .. } => out.survey_id = Some(survey_id),
        Body::ShowUser | Body::Erase => {}
        Body::Attributes(merge) => out.attributes = Some(merge.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Body::Answers(said) => {
            match &said.target {
                Target::Offer(offer_id) => out.offer_id = Some(offer_id),
                Target::Link { survey_id, response_id } => {
                    out.survey_id = Some(survey_id);
                    out.response_id = response_id.as_deref();
                }
            }
            out.completed = Some(said.completed);
            out.context = written_context(&said.context);
            out.answers = Some(said.answers.iter().map(written_answer).collect());
        }
    }
    serde_json::to_vec(&out).expect("a record serialises")
}

fn written_properties(text: &str) -> Option<&RawValue> {
    (text != "{}").then(|| serde_json::from_str(text).expect("properties were checked to be JSON"))
}

fn written_context(context: &Context) -> Option<ContextMembers> {
    (*context != Context::default()).then(|| ContextMembers {
        platform: context.platform.clone(),
        locale: context.locale.clone(),
        app_version: context.app_version.clone(),
        session_id: context.session_id.clone(),
        timezone: context.timezone.clone(),
    })
}

fn written_answer(given: &Given) -> AnswerMembers {
    AnswerMembers {
        question_id: given.question_id.clone(),
        value: given.value.clone(),
        answered_at: given.answered_at.map(|at| to_raw_value(&time::format_time(at)).expect("a string serialises")),
        duration_ms: given.duration_ms,
    }
}

/// The value of an internal record; it needs its MAC beside it.
pub fn encode_internal(internal: &Internal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Wrapped<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        internal: &'a Internal,
    }
    serde_json::to_vec(&Wrapped { kind: "internal", internal }).expect("a record serialises")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: Body<'static>) -> Record<'static> {
        Record {
            project: "default".into(),
            user_id: "user/\"1\"".into(),
            event_id: Some("e1".into()),
            told: Told { occurred_at: Some(1_000), sent_at: None, received_at: Some(2_000) },
            body,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let timezone = Some("Europe/Berlin".into());
        let context = Context { platform: Some("ios".into()), timezone, ..Context::default() };
        let given = Given {
            question_id: "q".into(),
            value: Json::from_valid("[\"a\"]"),
            answered_at: Some(5),
            duration_ms: Some(9),
        };
        for body in [
            Body::Event { name: "ended_sleep".into(), properties: "{\"n\":12345678901234567890}" },
            Body::Event { name: "x".into(), properties: "{}" },
            Body::Trigger { trigger: "Main".into(), properties: "{}", context: context.clone() },
            Body::Displayed { offer_id: "o".into() },
            Body::Dismissed { offer_id: "o".into() },
            Body::Attributes(vec![("a".into(), Json::null())]),
            Body::Answers(Answers {
                target: Target::Offer("o".into()),
                answers: vec![given.clone()],
                completed: true,
                context,
            }),
            Body::Answers(Answers {
                target: Target::Link { survey_id: "s".into(), response_id: None },
                answers: vec![given],
                completed: false,
                context: Context::default(),
            }),
        ] {
            let record = record(body);
            let bytes = encode(&record);
            assert_eq!(decode(Some(&bytes), false), Ok(Decoded::User(Box::new(record))));
        }
    }

    #[test]
    fn the_seeds_three_members_are_enough() {
        let value = br#"{"user_id":"user_123","event_name":"item_added_to_cart","properties":{"id":1},"more":[1]}"#;
        let Ok(Decoded::User(record)) = decode(Some(value), false) else { panic!("a valid record") };
        assert_eq!((&*record.project, record.body.kind()), ("default", "event"));
    }

    #[test]
    fn the_context_of_an_event_is_not_looked_at() {
        let odd = br#"{"user_id":"u","event_name":"x","context":{"locale":7,"app":{"version":1}}}"#;
        assert!(decode(Some(odd), false).is_ok());
        let odd = br#"{"user_id":"u","type":"trigger","trigger":"x","context":{"locale":7}}"#;
        assert_eq!(decode(Some(odd), false).unwrap_err().reason, "wrong_type");
    }

    #[test]
    fn what_other_producers_write_for_times_and_before_the_json() {
        let read = |text: &[u8]| match decode(Some(text), false) {
            Ok(Decoded::User(record)) => record.told.occurred_at,
            other => panic!("{}: {other:?}", String::from_utf8_lossy(text)),
        };
        for (spelled, at) in [
            ("1794009600", 1_794_009_600_000),
            ("1794009600123", 1_794_009_600_123),
            ("1794009600.5", 1_794_009_600_500),
            ("1.794009600E9", 1_794_009_600_000),
            ("\"2026-11-07T00:00:00Z\"", 1_794_009_600_000),
        ] {
            let text = format!("{{\"user_id\":\"u\",\"event_name\":\"x\",\"occurred_at\":{spelled}}}");
            assert_eq!(read(text.as_bytes()), Some(at), "{spelled}");
            let framed = [&[0, 0, 0, 1, 7], text.as_bytes()].concat();
            assert_eq!(read(&framed), Some(at), "{spelled} behind a registry's frame");
        }
        let nothing = b"{\"user_id\":\"u\",\"event_name\":\"x\",\"occurred_at\":null}";
        assert_eq!(read(nothing), None);
    }

    #[test]
    fn the_bounds_are_those_of_requests() {
        let list = |n: usize, one: fn(usize) -> String| (0..n).map(one).collect::<Vec<_>>().join(",");
        let member = |n: usize| format!("\"p{n}\":\"a:b\"");
        let answer = |n: usize| format!("{{\"question_id\":\"q{n}\",\"value\":1}}");
        for (most, record) in [
            (
                256,
                &(|n| format!("{{\"user_id\":\"u\",\"event_name\":\"x\",\"properties\":{{{}}}}}", list(n, member)))
                    as &dyn Fn(usize) -> String,
            ),
            (256, &|n| format!("{{\"user_id\":\"u\",\"type\":\"attributes\",\"attributes\":{{{}}}}}", list(n, member))),
            (200, &|n| {
                format!(
                    "{{\"user_id\":\"u\",\"type\":\"answers\",\"offer_id\":\"o\",\"answers\":[{}]}}",
                    list(n, answer)
                )
            }),
        ] {
            assert!(decode(Some(record(most).as_bytes()), false).is_ok(), "{most}");
            assert_eq!(decode(Some(record(most + 1).as_bytes()), false).unwrap_err().reason, "invalid");
        }
    }

    #[test]
    fn rejects_have_reasons() {
        let internal = encode_internal(&Internal::Query(Query {
            project: "default".into(),
            user_id: "u".into(),
            offer_id: None,
            survey_id: None,
        }));
        assert!(decode(Some(&internal), true).is_ok());
        for (value, reason) in [
            (None, "null_value"),
            (Some(&b"{"[..]), "truncated"),
            (Some(b"[]"), "wrong_type"),
            (Some(b"{\"event_name\":\"x\"}"), "missing_field"),
            (Some(b"{\"user_id\":\"u\",\"event_name\":\"\"}"), "bad_id"),
            (Some(b"{\"user_id\":\"undefined\",\"event_name\":\"x\"}"), "bad_id"),
            (Some(b"\x00\x00\x00\x00\x01"), "empty_body"),
            (Some(b"\x00\x00{\"user_id\":\"u\",\"event_name\":\"x\"}"), "invalid_json"),
            (Some(b"{\"user_id\":\"u\",\"event_name\":\"x\",\"occurred_at\":true}"), "bad_time"),
            (Some(b"{\"user_id\":\"u\",\"event_name\":\"x\",\"occurred_at\":1e300}"), "bad_time"),
            (Some(b"{\"user_id\":\"u\",\"type\":\"grant\"}"), "unknown_type"),
            (Some(b"{\"user_id\":\"u\",\"event_name\":\"x\",\"occurred_at\":\"now\"}"), "bad_time"),
            (Some(b"{\"user_id\":\"u\",\"event_name\":\"x\",\"properties\":[]}"), "wrong_type"),
            (Some(&internal[..]), "forged"),
        ] {
            assert_eq!(decode(value, false).unwrap_err().reason, reason);
        }
    }
}
