//! Decodes records of the journal: those that any producer may write (`topics::event`), and
//! internal ones (`internal`).

use super::json;
use super::topics::event::{Members, unreadable, user_record};
use askwhen_domain::record::Record;
use askwhen_domain::time::{self, Millis};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

pub use super::internal::{
    AcceptLoss, AcceptTime, AliasAction, AliasRequest, AliasStep, ClosingMessage, ClosingStep, Define, Defined,
    EndpointAction, EndpointCommand, EndpointHealthReport, Erase, Forward, Internal, KeyUse, MergedState, PassedOn,
    Query, Skip, encode_internal,
};
pub use super::topics::event::{
    DEFAULT_PROJECT, DecodeError, MAX_ANSWERS, MAX_EVENT_BYTES, MAX_PROPERTIES, encode, event_session, parse_moment,
};

/// Header of internal records of version 0.1.0: hex HMAC over key and value.
pub const MAC_HEADER: &str = "mac";
/// Header of internal records: hex HMAC over log, partition, reply address, key and value.
pub const BOUND_MAC_HEADER: &str = "bound-mac";
/// Header with the reply address of the request that waits.
pub const REPLY_HEADER: &str = "reply-to";
/// Levels of objects that a forward adds around its record.
const FORWARD_DEPTH: usize = 4;

#[derive(Debug, PartialEq)]
pub enum Decoded<'a> {
    User(Box<Record<'a>>),
    Internal(Box<Internal>),
}

/// The JSON in a value, without the five bytes that clients of a schema registry put before
/// it: a zero, and the schema's id.
pub fn plain(value: &[u8]) -> &[u8] {
    match value {
        [0, _, _, _, _, json @ ..] => json,
        _ => value,
    }
}

/// A user's record with the time when it was received added. `None` when the value is not a
/// JSON object.
pub fn dated(value: &[u8], received_at: Millis) -> Option<String> {
    let text = std::str::from_utf8(plain(value)).ok()?;
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let received_at = serde_json::value::to_raw_value(&time::format_time(received_at)).ok()?;
    members.insert("received_at".to_owned(), &received_at);
    serde_json::to_string(&members).ok()
}

/// Decodes a record. `trusted` says that its MAC was verified.
///
/// # Errors
/// Why it becomes a reject.
pub fn decode(value: Option<&[u8]>, trusted: bool) -> Result<Decoded<'_>, DecodeError> {
    let bytes = plain(value.ok_or_else(|| unreadable("null_value", "the record has no value"))?);
    // A forward is nested deeper than the record within.
    let depth = json::MAX_DEPTH + if trusted { FORWARD_DEPTH } else { 0 };
    let text = json::check_within(bytes, depth).map_err(|e| unreadable(e.kind.code(), e.to_string()))?;
    // serde would accept a list of members, too.
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

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::json::Json;
    use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, SingleUseLink, Target};
    use askwhen_domain::time::ClientTimes;

    fn record(body: Body<'static>) -> Record<'static> {
        Record {
            project: "default".into(),
            user_id: "user/\"1\"".into(),
            event_id: Some("e1".into()),
            times: ClientTimes { occurred_at: Some(1_000), sent_at: None, received_at: Some(2_000) },
            body,
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let timezone = Some("Europe/Berlin".into());
        let context = Context { platform: Some("ios".into()), timezone, ..Context::default() };
        let given = GivenAnswer {
            question_id: "q".into(),
            value: Json::from_valid("[\"a\"]"),
            answered_at: Some(5),
            duration_ms: Some(9),
        };
        for body in [
            Body::Event { name: "ended_sleep".into(), properties: "{\"n\":12345678901234567890}", session_id: None },
            Body::Event { name: "x".into(), properties: "{}", session_id: Some("a".into()) },
            Body::Trigger { trigger: "Main".into(), properties: "{}", context: context.clone() },
            Body::Displayed { offer_id: "o".into() },
            Body::Dismissed { offer_id: "o".into(), ask_again_in: Some(3_600_000) },
            Body::Attributes(vec![("a".into(), Json::null())]),
            Body::Answers(Answers {
                target: Target::Offer("o".into()),
                answers: vec![given.clone()],
                completed: true,
                context,
            }),
            Body::Answers(Answers {
                target: Target::Link {
                    survey_id: "s".into(),
                    response_id: None,
                    single_use: Some(SingleUseLink { link_id: "l".into(), expires_at: 7 }),
                },
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
    fn the_examples_of_the_journal_are_read_and_written_again() {
        for line in include_str!("../../../topics/examples/events.ndjson").lines() {
            let read = decode(Some(line.as_bytes()), true).unwrap_or_else(|e| panic!("{e}: {line}"));
            let written = match &read {
                Decoded::User(record) => encode(record),
                Decoded::Internal(internal) => encode_internal(internal),
            };
            assert_eq!(decode(Some(&written), true).as_ref(), Ok(&read), "{line}");
        }
    }

    /// As earlier versions have written them, they are in journals.
    #[test]
    fn messages_between_names_are_read_and_written_as_before() {
        let step = |action: &str| {
            format!("{{\"alias_step\":{{\"project\":\"p\",\"at\":\"u\",\"alias\":\"a\",\"do\":{action}}}}}")
        };
        for internal in [
            r#"{"forward":{"from":1,"seq":2,"key":"u","value":{"user_id":"u"},"trusted":false,"reply_to":null}}"#
                .to_owned(),
            step(r#"{"confirm":{"user_id":"u"}}"#),
            step(r#"{"merge":{"state":"","from":1,"epochs":{"s":3}}}"#),
        ] {
            let text = format!("{{\"type\":\"internal\",\"internal\":{internal}}}");
            let Ok(Decoded::Internal(read)) = decode(Some(text.as_bytes()), true) else { panic!("{text}") };
            assert_eq!(String::from_utf8(encode_internal(&read)).as_deref(), Ok(&*text));
        }
    }

    #[test]
    fn the_seeds_three_members_are_enough() {
        let value = br#"{"user_id":"user_123","event_name":"item_added_to_cart","properties":{"id":1},"more":[1]}"#;
        let Ok(Decoded::User(record)) = decode(Some(value), false) else { panic!("a valid record") };
        assert_eq!((&*record.project, record.body.kind()), ("default", "event"));
    }

    #[test]
    fn of_an_events_context_only_the_session_is_looked_at() {
        let odd = br#"{"user_id":"u","event_name":"x","context":{"locale":7,"app":{"version":1}}}"#;
        assert!(decode(Some(odd), false).is_ok());
        for (context, expected) in
            [(r#"{"session_id":"s\"1"}"#, Some("s\"1")), (r#"{"session_id":7}"#, None), ("[]", None)]
        {
            let text = format!(r#"{{"user_id":"u","event_name":"x","context":{context}}}"#);
            let Ok(Decoded::User(record)) = decode(Some(text.as_bytes()), false) else { panic!("{text}") };
            let Body::Event { session_id, .. } = &record.body else { panic!("{text}") };
            assert_eq!(session_id.as_deref(), expected, "{text}");
        }
        let odd = br#"{"user_id":"u","type":"trigger","trigger":"x","context":{"locale":7}}"#;
        assert_eq!(decode(Some(odd), false).unwrap_err().reason, "wrong_type");
    }

    #[test]
    fn what_other_producers_write_for_times_and_before_the_json() {
        let read = |text: &[u8]| match decode(Some(text), false) {
            Ok(Decoded::User(record)) => record.times.occurred_at,
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
    fn a_record_is_dated_and_says_the_same_otherwise() {
        let at = 1_794_009_600_123;
        for (text, occurred_at) in [
            (r#"{"user_id":"u","event_name":"x"}"#, None),
            (r#"{ "user_id" : "u", "event_name":"x", "received_at": null, "more": [1, {"a": 1e2}] }"#, None),
            (r#"{"user_id":"u","event_name":"x","occurred_at":1000000000}"#, Some(1_000_000_000_000)),
        ] {
            let dated = dated(text.as_bytes(), at).expect("an object");
            let Ok(Decoded::User(record)) = decode(Some(dated.as_bytes()), false) else { panic!("{dated}") };
            assert_eq!((record.times.received_at, record.times.occurred_at), (Some(at), occurred_at), "{dated}");
            let Ok(Decoded::User(before)) = decode(Some(text.as_bytes()), false) else { panic!("{text}") };
            assert_eq!((&record.user_id, &record.body), (&before.user_id, &before.body), "{dated}");
        }
        assert_eq!(dated(b"[]", at), None);
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
            link_id: None,
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
