//! One survey with every piece that a survey file has for programmes, and settings with
//! theirs: whoever is asked about it says the same.

use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::harness::{ON_KAFKA, Server, askwhen, tail};
use crate::replay::replayed;

const USERS: usize = 24;
const COMPANIES: usize = 5;
/// So many may complete it.
const COMPLETIONS: u64 = 2;

fn settings() -> Value {
    json!({"global_cooldown": "0s", "max_per_session": 2, "session_lifetime": "30m", "max_expires_after": "5d",
        "targeting": {"not": {"attribute": "email", "op": "ends_with_ci", "value": "@corp.example"}},
        "schedule": {"except": [{"start_at": "2020-12-23T00:00:00Z", "end_at": "2021-01-04T00:00:00Z"}]},
        "caps": [{"count": "displayed", "max": 60, "within": "10d"}]})
}

fn everything() -> Value {
    json!({"kind": "survey", "survey_id": "everything", "name": "Everything", "status": "active", "priority": 5,
        "tags": ["relational"],
        "activate": {"event": "ticket_closed", "match": "ticket_id"}, "expires_after": "4d",
        "cancel_on": [{"event": "ticket_reopened"}],
        "show_on": [{"trigger": "Main"}],
        "targeting": {"all": [
            {"not": {"tag": "*", "did": "displayed", "within": "30d", "at_least": 5}},
            {"event": "ticket_closed", "within": "14d", "distinct": "day"}]},
        "sampling": {"percent": 90, "by": {"attribute": "company_id"}, "salt": "x"},
        "schedule": {"start_at": "2020-01-01T00:00:00Z", "timezone": "Europe/Berlin"}, "spread": "1d",
        "experiment": {"name": "wording", "arm": "a"},
        "frequency": {"repeat": "until_completed", "max_displays": 2, "per": "90d", "cooldown": "1d",
            "after_dismissal": "2d", "snooze": "1d"},
        "limits": {"caps": [
            {"count": "displayed", "max": 2, "within": "2d", "per": {"attribute": "company_id"}},
            {"count": "completed", "max": COMPLETIONS}]},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How was {{activation.ticket_id|it}}?"}],
        "expose": ["ticket_id"]})
}

fn other_arm() -> Value {
    json!({"name": "Other", "status": "active", "show_on": [{"trigger": "Main"}], "tags": ["relational"],
        "experiment": {"name": "wording", "arm": "b"},
        "frequency": {"repeat": "every_activation", "cooldown": "3d"},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
}

fn plain(mut survey: Value) -> Value {
    survey.as_object_mut().expect("an object").remove("kind");
    survey
}

async fn told(server: &Server, path: &str, body: Value) {
    let said = server.post(path, body).await;
    assert_eq!(said.status, 200, "{path}: {said:?}");
}

/// Some days of some users.
async fn days(server: &Server) {
    for n in 0..USERS {
        let domain = if n % 11 == 0 { "Corp.Example" } else { "example.com" };
        let attributes = json!({"company_id": n % COMPANIES, "email": format!("u{n}@{domain}")});
        server.put(&format!("/v1/users/u{n}"), json!({"attributes": attributes})).await;
    }
    for step in 0..12 {
        for n in 0..USERS {
            let user = format!("u{n}");
            if (step + n) % 3 == 0 {
                server.event(&user, "ticket_closed", json!({"ticket_id": format!("t{n}-{}", step % 5)})).await;
            }
            if (step * 7 + n) % 13 == 0 {
                server.event(&user, "ticket_reopened", json!({"ticket_id": format!("t{n}-{}", step % 5)})).await;
            }
            if (step + n) % 2 == 0 {
                visit(server, &user, step + n).await;
            }
        }
        server.advance("9h").await;
    }
}

async fn visit(server: &Server, user: &str, habit: usize) {
    let context = json!({"context": {"session_id": format!("s{}", habit % 4), "timezone": "Europe/Berlin"}});
    let said = server.post(&format!("/v1/users/{user}/triggers/Main"), context).await;
    assert_eq!(said.status, 200, "{said:?}");
    let Some(offer) = said.body["survey"]["offer_id"].as_str() else { return };
    let offer = format!("/v1/users/{user}/offers/{offer}");
    match habit % 5 {
        0 => {}
        1 => told(server, &format!("{offer}/dismissed"), json!({})).await,
        2 => told(server, &format!("{offer}/displayed"), json!({})).await,
        _ => {
            let answers = json!({"answers": [{"question_id": "q1", "value": 4}], "completed": true});
            told(server, &format!("{offer}/answers"), answers).await;
        }
    }
}

fn run(dir: &Path, arguments: &[&str]) -> Value {
    let all = [&["--data-dir", "data", "--output", "json"], arguments].concat();
    let (code, out, error) = askwhen(dir, &all);
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&out).expect("JSON")
}

/// By its gate, how often a survey was not offered.
fn refused(decisions: &[Value], survey_id: &str) -> BTreeMap<String, u64> {
    let mut gates = BTreeMap::new();
    let all = decisions.iter().flat_map(|record| record["value"]["evaluations"].as_array().into_iter().flatten());
    for gate in all.filter(|one| one["survey_id"] == survey_id).filter_map(|one| one["gate"].as_str()) {
        *gates.entry(gate.to_owned()).or_default() += 1;
    }
    gates
}

async fn users(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for n in 0..USERS {
        let path = format!("/v1/users/u{n}");
        // Who is asked for the first time after a start may have to wait.
        server.until("the user", async || server.get(&path).await.status == 200).await;
        all.push(server.get(&path).await.body);
    }
    all
}

fn of_survey<'v>(list: &'v Value, survey_id: &str) -> &'v Value {
    let found = list.as_array().into_iter().flatten().find(|one| one["survey_id"] == survey_id);
    found.unwrap_or_else(|| panic!("{survey_id}: {list}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_piece_is_told_of_alike_wherever_it_is_told() {
    let server = Server::start().await;
    server.put("/v1/settings", settings()).await;
    let rehearsed = server.put("/v1/surveys/everything?dry_run=true", plain(everything())).await.body;
    let warnings = rehearsed["warnings"].to_string();
    for warning in
        ["ticket_closed has not been seen", "ticket_closed is remembered from now on", "2 of limits.caps count"]
    {
        assert!(warnings.contains(warning), "{warning}: {warnings}");
    }
    server.put("/v1/surveys/everything", plain(everything())).await;
    server.put("/v1/surveys/other", other_arm()).await;
    let shown = server.get("/v1/surveys/everything").await.body;
    for member in ["tags", "targeting", "sampling", "spread", "experiment", "frequency", "limits", "activate"] {
        let (shown, written) = (&shown[member], &everything()[member]);
        assert!(contains(shown, written), "{member}: {shown} is not {written}");
    }
    days(&server).await;

    let dir = server.dir.clone();
    let decisions = tail(dir.path(), "decisions");
    let gates = refused(&decisions, "everything");
    for gate in
        ["excluded", "not_sampled", "other_arm", "not_activated", "cap_reached", "cooldown", "already_completed"]
    {
        assert!(gates.contains_key(gate), "{gate} shut nothing: {gates:?}");
    }
    counters_and_lists(&server, &decisions, &gates).await;
    explained(&server, &decisions).await;
    let ran = replayed(dir.path(), &["run"]);
    assert_eq!((&ran["differences"], &ran["decisions"]["same"]), (&json!(0), &json!(decisions.len())), "{ran:#}");
    replayed(dir.path(), &["abort"]);
    backtested(&server, &gates).await;
    restored(server).await;
}

/// Whether all that is written is shown: members that were left out are shown, too.
fn contains(shown: &Value, written: &Value) -> bool {
    match (shown, written) {
        (Value::Object(shown), Value::Object(written)) => {
            written.iter().all(|(name, value)| shown.get(name).is_some_and(|shown| contains(shown, value)))
        }
        (Value::Array(shown), Value::Array(written)) => {
            shown.len() == written.len() && shown.iter().zip(written).all(|(one, other)| contains(one, other))
        }
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => shown == written,
    }
}

/// The statistics count what was decided; what was counted never passes a cap.
async fn counters_and_lists(server: &Server, decisions: &[Value], gates: &BTreeMap<String, u64>) {
    let path = "/v1/surveys/everything/stats";
    let counted = async || server.get(path).await.body["considered"] == decisions.len();
    server.until("all is counted", counted).await;
    let stats = server.get(path).await.body;
    let mut wanted = gates.clone();
    wanted.retain(|_, count| *count > 0);
    assert_eq!(stats["not_offered"], json!(wanted), "{stats}");
    let completed = stats["completed"].as_u64().expect("a count");
    assert_eq!(completed, COMPLETIONS, "{stats}");
    let reached = server.get("/v1/decisions?survey_id=everything&status=cap_reached&limit=200").await.body;
    let reached = reached["decisions"].as_array().expect("a list");
    let of_caps = reached.iter().map(|decision| of_survey(&decision["evaluations"], "everything"));
    let of_caps: Vec<&Value> = of_caps.filter(|told| told["gate"] == "cap_reached").collect();
    for told in &of_caps {
        let actual = &told["actual"];
        assert!(actual["count"].as_u64() >= actual["cap"]["max"].as_u64(), "{told}");
        // What counts for a while is free again by time alone.
        assert!(told["until"].is_string() || actual["cap"]["within"].is_null(), "{told}");
    }
    assert!(!of_caps.is_empty());
}

/// Reading a user, the command line and the route say what a trigger would be answered.
async fn explained(server: &Server, decisions: &[Value]) {
    let arms: BTreeSet<String> = decisions
        .iter()
        .flat_map(|record| record["value"]["evaluations"].as_array().into_iter().flatten())
        .filter(|told| told["gate"] == "other_arm")
        .map(|told| told["actual"]["arm"].to_string())
        .collect();
    assert_eq!(arms, BTreeSet::from(["\"a\"".to_owned(), "\"b\"".to_owned()]));
    let mut seen = BTreeSet::new();
    for n in 0..USERS {
        let user = format!("u{n}");
        let known = server.get(&format!("/v1/users/{user}")).await.body;
        let read = of_survey(&known["surveys"], "everything");
        let explained = run(server.dir.path(), &["explain", &user, "--trigger", "Main"]);
        let told = of_survey(&explained["decision"]["evaluations"], "everything");
        let routed = server.get(&format!("/v1/users/{user}/explain?trigger=Main")).await.body;
        let said = of_survey(&routed["decision"]["evaluations"], "everything");
        assert_eq!((&told["gate"], &told["until"]), (&said["gate"], &said["until"]), "{user}: {told} {said}");
        // Another survey that is offered, or was offered elsewhere, is the trigger's matter.
        if told["gate"] != "preempted" && told["gate"] != "offer_outstanding" {
            assert_eq!((&read["gate"], &read["until"]), (&told["gate"], &told["until"]), "{user}: {read} {told}");
        }
        seen.extend(told["gate"].as_str().map(str::to_owned));
        assert!(known["arms"]["wording"].is_string(), "{known}");
    }
    for gate in ["excluded", "not_sampled", "other_arm"] {
        assert!(seen.contains(gate), "{gate} is not among {seen:?}");
    }
}

/// Tried in its own log it does what it did.
async fn backtested(server: &Server, gates: &BTreeMap<String, u64>) {
    let dir = server.dir.path();
    std::fs::write(dir.join("everything.json"), everything().to_string()).expect("written");
    let would = run(dir, &["backtest", "--from", "2020-01-01T00:00:00Z", "-f", "everything.json"]);
    let tried = &would["versions"][0]["surveys"][0];
    assert_eq!(tried["not_offered"], json!(gates), "{would:#}");
    let stats = server.get("/v1/surveys/everything/stats").await.body;
    for count in ["considered", "offered", "displayed", "dismissed", "completed"] {
        assert_eq!(tried[count], stats[count], "{count}: {would:#}");
    }
}

/// From a snapshot, and behind an erasure, all is as it was.
async fn restored(server: Server) {
    let before = users(&server).await;
    let snapshots = async || {
        let said = server.call(&server.admin, Method::POST, "/v1/snapshots", None).await;
        said.body["snapshots"].as_array().is_some_and(|all| !all.is_empty())
    };
    server.until("snapshots", snapshots).await;
    let (dir, _) = server.terminate();
    std::fs::remove_dir_all(dir.path().join("data/state/engine")).expect("it was there");
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    if !ON_KAFKA {
        // Time did not stand still for what ends within a while.
        let now = users(&server).await;
        let gates = |all: &[Value]| {
            all.iter().map(|user| of_survey(&user["surveys"], "everything")["gate"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(gates(&now), gates(&before));
        let windows = |all: &[Value]| all.iter().map(|user| user["windows"].clone()).collect::<Vec<_>>();
        assert_eq!(windows(&now), windows(&before));
    }
    // Whoever is erased is not known any more, and what was counted stays.
    for n in 0..USERS {
        let erased = server.call(&server.server, Method::DELETE, &format!("/v1/users/u{n}"), None).await;
        assert_eq!(erased.status, 202, "{erased:?}");
    }
    let known = server.get("/v1/users/u4").await.body;
    assert_eq!((&known["known"], &known["attributes"], &known["windows"]), (&json!(false), &json!({}), &json!([])));
    let mut gates = BTreeSet::new();
    for n in 0..USERS {
        let user = format!("stranger{n}");
        let attributes = json!({"company_id": format!("new{n}"), "email": format!("{user}@example.com")});
        server.put(&format!("/v1/users/{user}"), json!({"attributes": attributes})).await;
        server.event(&user, "ticket_closed", json!({"ticket_id": "t"})).await;
        let decision = server.trigger(&user, "Main").await;
        let told = of_survey(&decision["evaluations"], "everything");
        assert_eq!(told["pass"], false, "{decision}");
        gates.insert(told["gate"].to_string());
    }
    assert!(gates.contains("\"cap_reached\""), "{gates:?}");
}
