//! Topic `events`: records that any producer may write to the journal.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::error::Class;
use crate::json;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, SingleUseLink, Target};
use askwhen_domain::time::{self, ClientTimes, Millis};

/// The most bytes of an event's properties.
pub const MAX_EVENT_BYTES: usize = 32 << 10;
pub const MAX_PROPERTIES: usize = 256;
/// The most answers in one record or request.
pub const MAX_ANSWERS: usize = 200;
pub const DEFAULT_PROJECT: &str = "default";

/// Why a record of the journal is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DecodeError {
    /// A stable name; the `reason` of the reject.
    pub reason: &'static str,
    pub detail: String,
}

impl DecodeError {
    /// The reason, a stable name.
    pub fn kind(&self) -> &'static str {
        self.reason
    }

    /// The class: only the record is refused.
    pub fn class(&self) -> Class {
        Class::Reject
    }
}

pub(crate) fn unreadable(reason: &'static str, detail: impl Into<String>) -> DecodeError {
    DecodeError { reason, detail: detail.into() }
}

/// A string that is borrowed if it has no escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Every member of a journal record; others are ignored, because any producer may write
/// here.
#[derive(Debug, Deserialize)]
pub(crate) struct Members<'a> {
    #[serde(rename = "type", borrow, default)]
    pub(crate) kind: Option<Text<'a>>,
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
    #[serde(default)]
    single_use: Option<SingleUseMembers>,
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
    ask_again_in: Option<Text<'a>>,
    #[serde(borrow, default)]
    context: Option<&'a RawValue>,
    #[serde(borrow, default)]
    occurred_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sent_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    received_at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) internal: Option<&'a RawValue>,
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

/// The single-use link by which answers were given.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SingleUseMembers {
    link_id: String,
    #[serde(with = "time::rfc3339")]
    expires_at: Millis,
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

/// Builds a record from its members.
///
/// # Errors
/// Why it becomes a reject.
pub(crate) fn user_record(members: Members<'_>) -> Result<Record<'_>, DecodeError> {
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
    let times = ClientTimes {
        occurred_at: moment(members.occurred_at, "occurred_at")?,
        sent_at: moment(members.sent_at, "sent_at")?,
        received_at: moment(members.received_at, "received_at")?,
    };
    let session_id = members.context.filter(|_| kind == "event").and_then(|raw| event_session(raw.get()));
    // Events use only the session of their context.
    let context = members.context.filter(|_| kind == "trigger" || kind == "answers");
    let context: Option<ContextMembers> = context
        .map(|raw| serde_json::from_str(raw.get()))
        .transpose()
        .map_err(|e| unreadable("wrong_type", e.to_string()))?;
    let context = context.unwrap_or_default();
    // Apps send an empty text or nothing for a value that they do not know.
    let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    let context = Context {
        platform: non_empty(context.platform),
        locale: non_empty(context.locale),
        app_version: non_empty(context.app_version),
        session_id: non_empty(context.session_id),
        timezone: non_empty(context.timezone),
    };
    let body = match kind.as_str() {
        "event" => Body::Event {
            name: borrowed(members.event_name, "event_name")?
                .ok_or_else(|| unreadable("missing_field", "event_name is required"))?,
            properties: properties(members.properties)?,
            session_id,
        },
        "trigger" => Body::Trigger {
            trigger: borrowed(members.trigger, "trigger")?
                .ok_or_else(|| unreadable("missing_field", "trigger is required"))?,
            properties: properties(members.properties)?,
            context,
        },
        "displayed" => Body::Displayed { offer_id: needed(members.offer_id, "offer_id")?.into() },
        "dismissed" => Body::Dismissed {
            offer_id: needed(members.offer_id, "offer_id")?.into(),
            ask_again_in: span(members.ask_again_in, "ask_again_in")?,
        },
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
                    single_use: members.single_use.map(single_use).transpose()?,
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
    Ok(Record { project, user_id, event_id, times, body })
}

fn single_use(members: SingleUseMembers) -> Result<SingleUseLink, DecodeError> {
    let SingleUseMembers { link_id, expires_at } = members;
    Ok(SingleUseLink { link_id: checked(link_id, "link_id")?, expires_at })
}

fn checked(text: String, name: &str) -> Result<String, DecodeError> {
    match id::check(&text) {
        Ok(()) => Ok(text),
        Err(why) => Err(unreadable("bad_id", format!("{name} {why}"))),
    }
}

fn borrowed<'a>(text: Option<Text<'a>>, name: &str) -> Result<Option<Cow<'a, str>>, DecodeError> {
    match text {
        None => Ok(None),
        Some(text) => match id::check(&text.0) {
            Ok(()) => Ok(Some(text.0)),
            Err(why) => Err(unreadable("bad_id", format!("{name} {why}"))),
        },
    }
}

fn moment(raw: Option<&RawValue>, name: &str) -> Result<Option<Millis>, DecodeError> {
    raw.map(|raw| parse_moment(raw.get()))
        .transpose()
        .map_err(|wanted| unreadable("bad_time", format!("{name} must be {wanted}")))
}

fn span(text: Option<Text<'_>>, name: &str) -> Result<Option<Millis>, DecodeError> {
    let span = text.map(|text| time::parse_duration(&text.0)).transpose();
    let span = span.map_err(|wanted| unreadable("bad_time", format!("{name} must be {wanted}")))?;
    if span == Some(0) {
        return Err(unreadable("invalid", format!("{name} must be longer than 0s")));
    }
    Ok(span)
}

/// The `session_id` of an event's context. Clients put anything into a context, so values
/// of other types are ignored.
pub fn event_session(context: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct SessionMember<'a> {
        #[serde(borrow, default)]
        session_id: Option<&'a RawValue>,
    }
    let read: SessionMember<'_> = serde_json::from_str(context).ok()?;
    let text: Text<'_> = serde_json::from_str(read.session_id?.get()).ok()?;
    id::check(&text.0).is_ok().then_some(text.0)
}

/// A time in JSON: a string in RFC 3339, or a number of seconds or milliseconds since 1970,
/// as serialisers of many languages write it.
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

fn properties(raw: Option<&RawValue>) -> Result<&str, DecodeError> {
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
            serde_json::from_str(text).map_or(0, |all: askwhen_domain::json::Members<'_>| all.0.len())
        }
    })?;
    Ok(text)
}

fn check_count(name: &str, most: usize, count: impl FnOnce() -> usize) -> Result<(), DecodeError> {
    if count() > most { Err(unreadable("invalid", format!("{name} may have at most {most} members"))) } else { Ok(()) }
}

fn given(members: AnswerMembers) -> Result<GivenAnswer, DecodeError> {
    Ok(GivenAnswer {
        answered_at: moment(members.answered_at.as_deref(), "answered_at")?,
        question_id: members.question_id,
        value: members.value,
        duration_ms: members.duration_ms,
    })
}

/// The same members for writing; missing ones are omitted.
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
    single_use: Option<SingleUseMembers>,
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
    ask_again_in: Option<String>,
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
/// [`Internal`](crate::internal::Internal).
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
        single_use: None,
        event_id: record.event_id.as_deref(),
        properties: None,
        attributes: None,
        answers: None,
        completed: None,
        ask_again_in: None,
        context: None,
        occurred_at: record.times.occurred_at.map(time::format_time),
        sent_at: record.times.sent_at.map(time::format_time),
        received_at: record.times.received_at.map(time::format_time),
    };
    match &record.body {
        Body::Event { name, properties, session_id } => {
            let session_id = session_id.as_ref().map(|id| id.to_string());
            out.context = written_context(&Context { session_id, ..Context::default() });
            out.event_name = Some(name);
            out.properties = written_properties(properties);
        }
        Body::Trigger { trigger, properties, context } => {
            out.trigger = Some(trigger);
            out.context = written_context(context);
            out.properties = written_properties(properties);
        }
        Body::Displayed { offer_id } | Body::ShowOffer { offer_id } => out.offer_id = Some(offer_id),
        Body::Dismissed { offer_id, ask_again_in } => {
            out.offer_id = Some(offer_id);
            out.ask_again_in = ask_again_in.map(time::format_duration);
        }
        Body::ShowLink { survey_id, .. } => out.survey_id = Some(survey_id),
        Body::ShowUser | Body::Erase => {}
        Body::Attributes(merge) => out.attributes = Some(merge.iter().map(|(k, v)| (k.as_str(), v)).collect()),
        Body::Answers(given) => {
            match &given.target {
                Target::Offer(offer_id) => out.offer_id = Some(offer_id),
                Target::Link { survey_id, response_id, single_use } => {
                    out.survey_id = Some(survey_id);
                    out.response_id = response_id.as_deref();
                    out.single_use = single_use
                        .clone()
                        .map(|link| SingleUseMembers { link_id: link.link_id, expires_at: link.expires_at });
                }
            }
            out.completed = Some(given.completed);
            out.context = written_context(&given.context);
            out.answers = Some(given.answers.iter().map(written_answer).collect());
        }
    }
    json::encode(&out)
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

fn written_answer(given: &GivenAnswer) -> AnswerMembers {
    AnswerMembers {
        question_id: given.question_id.clone(),
        value: given.value.clone(),
        answered_at: given.answered_at.map(|at| to_raw_value(&time::format_time(at)).expect("a string serialises")),
        duration_ms: given.duration_ms,
    }
}
