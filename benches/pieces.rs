//! What each piece of the survey file costs, beside the same survey without it: CPU-µs
//! of a record, and bytes of a user and of counters as they are stored. Users come in
//! rounds a day apart; each is told of an event, asks, displays and completes. The last
//! row has every piece on another survey, which nobody meets: that is free.
//! `ASKWHEN_BENCH_USERS` says how many users there are (4000).

mod common;

use common::machine::EngineAlone;
use common::{cpu_us, load, median, setting};
use serde_json::{Value, json};

use askwhen_domain::time::{DAY, format_time};
use askwhen_wire::definition::{self, Kind, SETTINGS_ID, Target};

const ROUNDS: u64 = 3;
const REPEATS: usize = 3;
const USERS_OF_A_COMPANY: u64 = 10;

/// What is laid over the definitions that everybody has.
#[derive(Default)]
struct Piece {
    name: &'static str,
    settings: Value,
    survey: Value,
    endpoint: Value,
    /// Of another survey, which nobody meets.
    other: Value,
}

fn over(base: Value, more: &Value) -> Value {
    let mut all = base;
    for (name, value) in more.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all
}

fn settings(more: &Value) -> Value {
    let base = json!({"global_cooldown": "0s", "max_per_session": 1_000});
    let read = definition::settings(&over(base, more)).unwrap_or_else(|faults| panic!("{faults:?}"));
    serde_json::to_value(&read).expect("settings serialise")
}

fn survey(id: &str, trigger: &str, more: &Value) -> Value {
    let base = json!({"survey_id": id, "name": "S", "status": "active", "activate": {"event": "closed"},
        "expires_after": "12h", "show_on": [{"trigger": trigger}], "frequency": {"repeat": "every_activation"},
        "questions": [{"question_id": "q1", "type": "nps", "text": "Would you recommend us?"}]});
    let read = definition::survey(&over(base, more), None).unwrap_or_else(|faults| panic!("{faults:?}"));
    serde_json::to_value(&read).expect("a survey serialises")
}

fn endpoint(more: &Value) -> Value {
    let base = json!({"endpoint_id": "crm", "url": "https://crm.example/hook", "events": ["response.completed"]});
    let body = over(base, more);
    let read = definition::endpoint(&body, Some("crm"), Target::Trusted).unwrap_or_else(|faults| panic!("{faults:?}"));
    definition::endpoint_json(&read.endpoint)
}

fn pieces() -> Vec<Piece> {
    let of = |name, survey| Piece { name, survey, ..Piece::default() };
    let cap = json!({"count": "displayed", "max": 1_000, "within": "7d", "per": {"attribute": "company_id"}});
    let every = json!({"tags": ["nps"], "targeting": {"all": [{"event": "closed", "within": "14d"}, {"not": {"tag": "*", "did": "displayed", "at_least": 30}}]},
        "sampling": {"percent": 90, "by": {"attribute": "company_id"}}, "spread": "1d", "experiment": {"name": "e", "arm": "a"},
        "schedule": {"start_at": "2026-01-01T00:00:00Z", "month_days": [1, 2]}, "limits": {"caps": [cap.clone()]},
        "activate": {"event": "other", "match": "ticket_id"}, "anonymous": true, "retention": "30d"});
    vec![
        of("none", json!({})),
        of(
            "A history of surveys",
            json!({"targeting": {"not": {"tag": "*", "did": "displayed", "within": "30d", "at_least": 30}}}),
        ),
        of(
            "A history of events",
            json!({"targeting": {"event": "closed", "within": "14d", "at_least": 1, "distinct": "day",
                "where": [{"property": "ticket_id", "op": "exists"}]}}),
        ),
        of("B sample by company", json!({"sampling": {"percent": 100, "by": {"attribute": "company_id"}}})),
        of("B spread", json!({"schedule": {"start_at": "2026-01-01T00:00:00Z"}, "spread": "1d"})),
        of("B experiment", json!({"experiment": {"name": "e", "arm": "a"}})),
        Piece {
            name: "C targeting, blackout, sessions",
            settings: json!({"targeting": {"not": {"attribute": "email", "op": "ends_with_ci", "value": "@corp.example"}},
                "schedule": {"except": [{"start_at": "2026-12-23T00:00:00Z", "end_at": "2027-01-04T00:00:00Z"}]}, "session_lifetime": "30m"}),
            ..Piece::default()
        },
        of(
            "D cycle, after_dismissal",
            json!({"frequency": {"repeat": "every_activation", "per": "year", "max_displays": 30, "after_dismissal": "30d", "snooze": "7d"}}),
        ),
        of("E match", json!({"activate": {"event": "closed", "match": "ticket_id"}})),
        of("F one cap", json!({"limits": {"caps": [cap.clone()]}})),
        Piece {
            name: "F three caps, one of all",
            settings: json!({"caps": [{"count": "displayed", "max": 100_000_000}]}),
            survey: json!({"limits": {"caps": [cap, {"count": "completed", "max": 100_000_000, "per": {"attribute": "country"}}]}}),
            ..Piece::default()
        },
        Piece { name: "an endpoint", endpoint: json!({}), ..Piece::default() },
        Piece {
            name: "G an endpoint with where",
            endpoint: json!({"where": [{"survey": "s", "question_id": "q1", "op": "lte", "value": 10}]}),
            ..Piece::default()
        },
        of(
            "H windows, month_days",
            json!({"schedule": {"month_days": (1..=31).collect::<Vec<u32>>(), "timezone": "Europe/Berlin",
            "windows": [{"start_at": "2026-01-01T00:00:00Z", "end_at": "2036-01-01T00:00:00Z"}]}}),
        ),
        of(
            "H values in texts",
            json!({"expose": ["product"], "questions": [{"question_id": "q1", "type": "nps", "text": "{{activation.product|it}}?"}]}),
        ),
        of("H anonymous, retention", json!({"anonymous": true, "retention": "30d"})),
        Piece { name: "all of it, on another", other: every, ..Piece::default() },
    ]
}

/// One user of one round: four records.
fn visit(engine: &mut EngineAlone, user: u64, round: u64) {
    let at = format_time(engine.now);
    let head = |what: &str| {
        format!(
            "\"project\":\"default\",\"user_id\":\"user-{user}\",\"event_id\":\"{what}-{round}\",\"received_at\":\"{at}\""
        )
    };
    engine.record(&format!(
        "{{{},\"event_name\":\"closed\",\"properties\":{{\"ticket_id\":\"t{round}\",\"product\":\"shoes\"}}}}",
        head("closed")
    ));
    let asked = format!(
        "{{\"type\":\"trigger\",{},\"trigger\":\"Main\",\"context\":{{\"session_id\":\"s{round}\"}}}}",
        head("asked")
    );
    let decision = engine.record(&asked).expect("a decision");
    let decision = decision.as_str();
    let offer = decision.split_once("\"offer_id\":\"").and_then(|(_, rest)| rest.split_once('"'));
    let offer = offer.unwrap_or_else(|| panic!("nothing was offered: {decision}")).0;
    let said = format!(
        "\"project\":\"default\",\"user_id\":\"user-{user}\",\"received_at\":\"{at}\",\"offer_id\":\"{offer}\""
    );
    engine.record(&format!("{{\"type\":\"displayed\",{said}}}"));
    engine.record(&format!(
        "{{\"type\":\"answers\",{said},\"answers\":[{{\"question_id\":\"q1\",\"value\":9}}],\"completed\":true}}"
    ));
}

/// CPU-µs of a record; bytes of a user, and of counters for each of them.
fn run(piece: &Piece, users: u64) -> [f64; 3] {
    let mut engine = EngineAlone::open();
    engine.define_as(Kind::Settings, SETTINGS_ID, &settings(&piece.settings));
    engine.define("s", &survey("s", "Main", &piece.survey));
    if !piece.endpoint.is_null() {
        engine.define_as(Kind::Endpoint, "crm", &endpoint(&piece.endpoint));
    }
    if !piece.other.is_null() {
        engine.define("other", &survey("other", "Elsewhere", &piece.other));
    }
    for user in 0..users {
        let company = user / USERS_OF_A_COMPANY;
        let value = format!(
            "{{\"type\":\"attributes\",\"user_id\":\"user-{user}\",\"attributes\":{{\"company_id\":\"c{company}\",\"country\":\"k{}\",\"email\":\"u{user}@example.com\"}}}}",
            user % 50
        );
        engine.record(&value);
    }
    engine.checkpoint();
    let before = cpu_us();
    for round in 0..ROUNDS {
        (0..users).for_each(|user| visit(&mut engine, user, round));
        engine.now += DAY;
    }
    engine.checkpoint();
    let each = (cpu_us() - before) / (users * ROUNDS * 4) as f64;
    let bytes: usize = engine.user_sizes().iter().sum();
    [each, bytes as f64 / users as f64, engine.quota_bytes() as f64 / users as f64]
}

fn main() {
    let users = setting("ASKWHEN_BENCH_USERS", 4_000);
    println!("CPU-µs of a record, bytes of a user and of counters for each user; {users} users; load {:.1}", load());
    let pieces = pieces();
    // In turn, so that whatever else the machine does meets all of them.
    let mut found = vec![Vec::new(); pieces.len()];
    for _ in 0..REPEATS {
        for (piece, found) in pieces.iter().zip(&mut found) {
            found.push(run(piece, users));
        }
    }
    let column = |found: &[[f64; 3]], n: usize| median(&found.iter().map(|figures| figures[n]).collect::<Vec<_>>());
    let base = [0, 1, 2].map(|n| column(&found[0], n));
    for (piece, found) in pieces.iter().zip(&found) {
        let [each, user, counters] = [0, 1, 2].map(|n| column(found, n));
        println!(
            "{:<32} {each:>7.2} ({:>+6.2}) CPU-µs {user:>7.0} ({:>+5.0}) bytes {counters:>6.1} of counters",
            piece.name,
            each - base[0],
            user - base[1]
        );
    }
    println!("load {:.1}", load());
}
