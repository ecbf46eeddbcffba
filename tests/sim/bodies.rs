//! Definitions and requests of the simulated clients.

use askwhen_domain::json::Json;
use askwhen_wire::definition::{self, Kind, Target};
use askwhen_wire::record::{Define, Internal};
use serde_json::{Value, json};

use crate::machine::key;

pub const PROJECT: &str = "default";
/// Once in a window of 100 hours that event `woke` opens.
pub const ONCE: &str = "once";
/// Once when there were three `tick` events.
pub const THIRD: &str = "third";
/// Again and again until it is completed.
pub const OPEN: &str = "open";
/// As `open`, for at most so many completions: fewer than the users that are asked
/// of it before others come.
pub const SCARCE: &str = "scarce";
pub const MAX_COMPLETED: u64 = 4;
/// A survey of many forms that nobody holds to anything but that it is decided the same
/// again, and answered along its paths.
pub const NOISE: &str = "noise";
/// The question of the survey of many forms that comes after any answer to the first but
/// [`LAST_ANSWER`].
pub const MORE: &str = "more";
pub const LAST_ANSWER: &str = "a0";
/// Shown where the survey of many forms is not: its caps hold, and whoever crashes it is
/// decided the same again.
pub const CAPPED: &str = "capped";
pub const CAPPED_COMPLETIONS: usize = 3;
pub const CAPPED_DISPLAYS: usize = 5;
pub const CAPPED_WITHIN_MS: i64 = 3_600_000;
pub const SURVEYS: [&str; 4] = [ONCE, THIRD, OPEN, SCARCE];
pub const EVENTS: [&str; 3] = ["woke", "tick", "noise"];
pub const OFFER_TTL_MS: i64 = 600_000;

/// The trigger that a survey shows on.
pub fn trigger_of(survey: &str) -> String {
    format!("T-{survey}")
}

fn survey(id: &str) -> Value {
    let mut body = json!({"survey_id": id, "name": id, "status": "active", "show_on": [{"trigger": trigger_of(id)}],
        "frequency": {"repeat": "until_completed", "global_cooldown": "ignore"},
        "questions": [{"question_id": "q", "type": "text", "text": "?"}]});
    match id {
        ONCE => {
            body["activate"] = json!({"event": "woke"});
            body["expires_after"] = json!("100h");
            body["frequency"]["repeat"] = json!("once");
        }
        THIRD => {
            body["activate"] = json!({"event": "tick", "count": {"at_least": 3, "within": "100h"}});
            body["expires_after"] = json!("100h");
            body["frequency"]["repeat"] = json!("once");
        }
        SCARCE => body["limits"] = json!({"max_completed": MAX_COMPLETED}),
        _ => {}
    }
    body
}

fn noise(variant: u8) -> Value {
    let activate = match variant % 5 {
        0 => json!({"event": "noise"}),
        1 => json!({"event": "noise", "count": {"at_least": 2, "within": "20m"}}),
        2 => json!({"sequence": {"steps": [{"event": "tick"}, {"event": "noise"}], "within": "30m"}}),
        3 => json!({"all": [{"event": "woke"}, {"event": "noise"}], "within": "30m"}),
        _ => json!({"absence": {"after": {"event": "noise"}, "without": {"event": "woke"}, "for": "2m"}}),
    };
    let limit = if variant % 3 == 1 { json!(u32::from(variant) + 1) } else { json!(null) };
    json!({"survey_id": NOISE, "name": format!("N{variant}"), "status": "active", "priority": variant, "activate": activate,
        "expires_after": "2h", "sampling": {"percent": 70}, "limits": {"max_completed": limit},
        "cancel_on": if variant.is_multiple_of(2) { json!([{"event": "tick"}]) } else { json!([]) },
        "show_on": [{"trigger": "T-noise"}], "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"},
        "questions": [
            {"question_id": "q", "type": "text", "text": "?", "next": [{"when": {"op": "eq", "value": LAST_ANSWER}, "goto": "end"}]},
            {"question_id": MORE, "type": "text", "text": "More?"}]})
}

fn capped() -> Value {
    json!({"survey_id": CAPPED, "name": CAPPED, "status": "active", "priority": -1, "show_on": [{"trigger": "T-noise"}],
        "limits": {"caps": [{"count": "completed", "max": CAPPED_COMPLETIONS},
            {"count": "displayed", "max": CAPPED_DISPLAYS, "within": "1h"}]},
        "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"},
        "questions": [{"question_id": "q", "type": "text", "text": "?"}]})
}

fn endpoint(id: &str, variant: u8) -> Value {
    let retry = match id {
        "plain" => json!({"kind": "fixed", "interval": "30s", "jitter": 0.2, "max_attempts": 6, "breaker": false}),
        _ => json!({"preset": "standard"}),
    };
    json!({"endpoint_id": id, "url": format!("http://127.0.0.1:{}/hook", 9_000 + u16::from(variant % 3)),
        "events": ["*"], "retry": retry, "concurrency": 1 + variant % 4, "enabled": variant % 5 != 4})
}

fn define(kind: Kind, id: &str, body: &Value, (asked_at, n): (i64, u64)) -> Internal {
    let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let new_secret = (kind == Kind::Endpoint).then(|| key().seal(PROJECT, id, secret, [7; 24]));
    Internal::Define(Define {
        project: PROJECT.into(),
        kind,
        id: id.into(),
        body: Some(Json::of(body)),
        new_secret,
        if_match: None,
        create: false,
        asked_at,
        request_id: format!("r{n}"),
        actor: None,
    })
}

fn checked_survey(body: Value) -> Value {
    assert!(definition::survey(&body, None).is_ok(), "{body}: {:?}", definition::survey(&body, None));
    body
}

/// What there is from the beginning.
pub fn first(now: i64) -> Vec<Internal> {
    let settings = json!({"global_cooldown": "0s", "max_per_session": 1_000_000, "offer_ttl": "10m"});
    assert!(definition::settings(&settings).is_ok(), "{settings}");
    let mut all = vec![define(Kind::Settings, definition::SETTINGS_ID, &settings, (now, 0))];
    for (n, id) in (1..).zip(SURVEYS) {
        all.push(define(Kind::Survey, id, &checked_survey(survey(id)), (now, n)));
    }
    all.push(define(Kind::Survey, CAPPED, &checked_survey(capped()), (now, 8)));
    all.push(define_noise(0, (now, 9)));
    for (n, id) in (10..).zip(["plain", "careful"]) {
        let body = endpoint(id, 0);
        let read = definition::endpoint(&body, None, Target::Trusted);
        assert!(read.is_ok(), "{body}: {:?}", read.err());
        all.push(define(Kind::Endpoint, id, &body, (now, n)));
    }
    all
}

pub fn define_noise(variant: u8, asked: (i64, u64)) -> Internal {
    define(Kind::Survey, NOISE, &checked_survey(noise(variant)), asked)
}

/// The endpoint whose definition keeps changing.
pub fn define_endpoint(variant: u8, asked: (i64, u64)) -> Internal {
    define(Kind::Endpoint, "careful", &endpoint("careful", variant), asked)
}
