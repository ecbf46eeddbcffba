//! The journal decided once more is what was decided; in the end the replayed
//! state serves as if it had always been there.

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::backtest::{App, beside, days, tried};
use crate::harness::{BINARY, ON_KAFKA, Server, askwhen, tail};

fn replay(dir: &Path, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let all = [&["--data-dir", "data", "--output", "json", "replay"], arguments].concat();
    let (code, out, error) = askwhen(dir, &all);
    (code, serde_json::from_str(&out).unwrap_or(Value::Null), error)
}

pub fn replayed(dir: &Path, arguments: &[&str]) -> Value {
    let (code, said, error) = replay(dir, arguments);
    assert_eq!(code, Some(0), "{error}");
    said
}

/// Edits, erasures, quotas, late events, records that another partitioner placed.
async fn mixed(server: &Server) {
    server.put("/v1/settings", json!({"global_cooldown": "12h"})).await;
    server.put("/v1/surveys/beside", beside()).await;
    let mut limited = tried();
    limited.as_object_mut().unwrap().remove("kind");
    limited["limits"] = json!({"max_completed": 9});
    server.put("/v1/surveys/tried", limited.clone()).await;
    days(server, App::Answers).await;
    limited["expires_after"] = json!("3h");
    limited["limits"] = json!({"max_completed": 20});
    server.put("/v1/surveys/tried", limited.clone()).await;
    for n in 0..4 {
        server.call(&server.admin, reqwest::Method::DELETE, &format!("/v1/users/user{n}"), None).await;
    }
    let late = json!({"user_id": "user5", "event_name": "woke", "properties": {"minutes": 90},
        "occurred_at": "2026-01-01T00:00:00Z"});
    assert_eq!(server.post("/v1/events", late).await.status, 202);
    limited["activate"]["where"] = json!([]);
    server.put("/v1/surveys/tried", limited).await;
    days(server, App::Displays).await;
}

/// Writes records to partitions that are not their users'.
async fn misplace(dir: &Path) {
    let clock = askwhen_process::clock::Clock::new();
    let log = Arc::new(askwhen_log::Embedded::open(&dir.join("data/log"), 8, clock).expect("it opens"));
    for n in 0..16_u32 {
        let value = match n % 2 {
            0 => json!({"user_id": format!("user{n}"), "event_name": "woke", "properties": {"minutes": 70}}),
            _ => json!({"type": "trigger", "user_id": format!("user{}", n - 1), "trigger": "Main"}),
        };
        append(&log, askwhen_wire::topic::Topic::Events, n / 2, &value, &[]).await;
    }
    log.close();
}

pub async fn append(
    log: &Arc<askwhen_log::Embedded>,
    topic: askwhen_wire::topic::Topic,
    partition: u32,
    value: &Value,
    headers: &[(&'static str, String)],
) {
    let value = Some(value.to_string().into());
    let mut new = askwhen_log::NewRecord { key: Some("user".into()), headers: Vec::new(), value };
    for (name, text) in headers {
        new = new.header(name, text.clone());
    }
    let log = askwhen_log::Log::Embedded(log.clone());
    log.append_durably(askwhen_log::TopicPartition { topic, partition }, vec![new]).await.expect("appended");
}

fn decided(dir: &Path) -> u64 {
    tail(dir, "decisions").len() as u64
}

#[tokio::test]
async fn a_replay_decides_what_was_decided() {
    let server = Server::start().await;
    mixed(&server).await;
    let mut dir = server.dir.clone();
    let flags = ["--dev", "--test-clock"];
    let mut server = server;
    if !ON_KAFKA {
        let before = decided(dir.path());
        dir = server.terminate().0;
        misplace(dir.path()).await;
        server = Server::on(dir.clone(), &flags, &[]).await;
        server.until("the misplaced triggers are decided", async || decided(dir.path()) == before + 8).await;
    }
    let at = dir.path();
    let plan = replayed(at, &["plan"]);
    assert!(plan["records"].as_u64() > Some(1_000) && plan["eta"].as_str().is_some(), "{plan:#}");
    let in_all = decided(at);
    for threads in ["1", "2"] {
        let ran = replayed(at, &["run", "--threads", threads]);
        assert_eq!((&ran["differences"], &ran["decisions"]["same"]), (&json!(0), &json!(in_all)), "{ran:#}");
        assert_eq!(ran["replayed_now"]["records"], plan["records"]);
        let diff = replayed(at, &["diff", "--exit-code"]);
        assert_eq!((&diff["differences"], &diff["kept"]), (&json!(0), &json!([])));
        assert_eq!(replayed(at, &["run"])["replayed_now"]["records"], 0, "it goes on where it was");
        let (code, _, error) = replay(at, &["run", "--from", "1d"]);
        assert!(code == Some(2) && error.contains("abort"), "{error}");
        assert_eq!(replayed(at, &["abort"])["removed"], true);
        assert_eq!(replay(at, &["diff"]).0, Some(2), "there is none any more");
    }
    killed_it_goes_on(at, in_all);
    std::fs::create_dir_all(at.join("mine/engine")).unwrap();
    for foreign in ["mine", "data", "data/state", "/dev/null"] {
        let (code, _, error) = replay(at, &["run", "--shadow", foreign]);
        assert!(code == Some(2) && error.contains("replay"), "{foreign}: {error}");
        assert_eq!(replay(at, &["abort", "--shadow", foreign]).0, Some(2), "{foreign}");
    }
    // Begun with snapshots, and the rest is the same.
    server
        .until("snapshots", async || {
            server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
            replayed(at, &["plan", "--from", "2099-01-01T00:00:00Z"])["records"].as_u64() < Some(8)
        })
        .await;
    days(&server, App::Displays).await;
    let before = decided(at);
    assert!(before > in_all + 100);
    let ran = replayed(at, &["run", "--from", "2099-01-01T00:00:00Z", "--shadow", "elsewhere"]);
    assert!(ran["partitions"][0]["snapshot"].as_str().is_some(), "{ran:#}");
    let same = ran["decisions"]["same"].as_u64().unwrap();
    assert!(ran["differences"] == 0 && same >= before - in_all - 30 && same < before, "{ran:#}");
}

/// Killed again and again, it ends with what one run would have come to.
fn killed_it_goes_on(dir: &Path, in_all: u64) {
    for n in 0..4 {
        let mut run = Command::new(BINARY)
            .args(["--data-dir", "data", "replay", "run", "--rate", "900/s", "--threads", "2"])
            .current_dir(dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(std::time::Duration::from_millis(150 + 200 * n));
        run.kill().expect("it dies");
        run.wait().expect("it is gone");
    }
    let ran = replayed(dir, &["run"]);
    assert_eq!((&ran["differences"], &ran["decisions"]["same"]), (&json!(0), &json!(in_all)), "{ran:#}");
    replayed(dir, &["abort"]);
}

/// While nobody serves, and to the very record; then everything goes on.
#[tokio::test]
async fn a_replayed_state_takes_the_place_of_the_one_that_serves() {
    let server = Server::start().await;
    mixed(&server).await;
    let dir = server.dir.clone();
    let at = dir.path();
    replayed(at, &["run"]);
    let (code, _, error) = replay(at, &["promote"]);
    assert!(code == Some(3) && error.contains("stop the server"), "{error}");
    days(&server, App::Displays).await;
    let known = |server: &Server| {
        let users: Vec<String> = (0..18).map(|n| format!("/v1/users/user{n}")).collect();
        let get = users.into_iter().map(|path| server.request(reqwest::Method::GET, &path).bearer_auth(&server.admin));
        futures::future::join_all(get.map(Server::said))
    };
    let before: Vec<Value> = known(&server).await.into_iter().map(|said| said.body).collect();
    if ON_KAFKA {
        // The newest snapshot is where the replay is put in place.
        let newest = |said: &Value| -> u64 {
            said["snapshots"].as_array().into_iter().flatten().filter_map(|s| s["positions"]["events"].as_u64()).sum()
        };
        let end: u64 = replayed(at, &["plan"])["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["journal"]["end"].as_u64().unwrap())
            .sum();
        server
            .until("snapshots", async || {
                let said = server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
                newest(&said.body) >= end
            })
            .await;
    }
    let decisions = decided(at);
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));
    let promoted = replayed(at, &["promote"]);
    assert_eq!(promoted["differences"], 0, "{promoted:#}");
    assert_eq!(replay(at, &["promote"]).0, Some(2), "there is none any more");
    let server = Server::on(dir.clone(), &["--dev", "--test-clock"], &[]).await;
    if let Some(kept) = promoted["before"].as_str() {
        assert!(at.join(kept).join("0").exists(), "the state before is kept");
    }
    let after: Vec<Value> = known(&server).await.into_iter().map(|said| said.body).collect();
    assert_eq!(after, before);
    assert_eq!(decided(at), decisions, "nothing is decided twice");
    days(&server, App::Answers).await;
    let ran = replayed(at, &["run"]);
    assert_eq!((&ran["differences"], &ran["decisions"]["same"]), (&json!(0), &json!(decided(at))), "{ran:#}");
}
