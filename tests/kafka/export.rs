//! From the embedded log to Kafka: everything goes on where it was.

use rdkafka::producer::Producer as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Receiver, askwhen, brokers, tail};
use crate::process::Process;
use crate::producers::{producer, send};

const ALL: &str = "bridge,engine,delivery";

async fn call(process: &Process, method: Method, path: &str, body: Value) -> Value {
    let said = process.call(method, path, Some(&body)).await.expect("an answer");
    assert!(said.status < 300, "{path}: {said:?}");
    said.body
}

async fn trigger(process: &Process, user: &str) -> Value {
    let path = format!("/v1/users/{user}/triggers/Main");
    call(process, Method::POST, &path, json!({"event_id": format!("t-{user}")})).await
}

async fn answer(process: &Process, user: &str, offer: &Value) {
    let body = json!({"answers": [{"question_id": "q1", "value": "fine"}], "completed": true});
    let path = format!("/v1/users/{user}/offers/{}/answers", offer["survey"]["offer_id"].as_str().expect("an offer"));
    call(process, Method::POST, &path, body).await;
}

async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn configure(dir: &Path, brokers: &str, prefix: &str) {
    std::fs::copy(dir.join("data/secrets.key"), dir.join("cluster.key")).expect("copied");
    let text = format!(
        "[log]\npartitions = 5\nprefix = \"{prefix}\"\n[kafka]\nbrokers = \"{brokers}\"\nreplication = 1\n\
         [snapshots]\nurl = \"file://{}\"\n[secrets]\nkey_file = \"cluster.key\"\n",
        dir.join("snapshots").display()
    );
    std::fs::write(dir.join("askwhen.toml"), text).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_log_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("askwhen.toml"), "[log]\npartitions = 3\n").expect("written");
    let receiver = Receiver::start(&[200, 200, 500, 500]).await;
    let old = Process::start(&dir, "data", ALL, &["--dev"]).await;
    let endpoint = json!({"url": receiver.url, "events": ["response.completed"],
        "retry": {"kind": "schedule", "delays": ["6s", "1h"]}});
    call(&old, Method::PUT, "/v1/endpoints/crm", endpoint).await;
    let survey = json!({"name": "Sleep", "status": "active", "activate": {"event": "ended_sleep"},
        "expires_after": "2h", "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "until_completed"},
        "questions": [{"question_id": "q1", "type": "text", "text": "How?"}]});
    call(&old, Method::PUT, "/v1/surveys/sleep", survey).await;
    for n in 0..20 {
        let event = json!({"user_id": format!("u{n}"), "event_name": "ended_sleep", "event_id": format!("e{n}")});
        call(&old, Method::POST, "/v1/events", event).await;
    }
    let mut offers = BTreeMap::new();
    for n in 0..8 {
        let user = format!("u{n}");
        offers.insert(user.clone(), trigger(&old, &user).await);
        assert_eq!(offers[&user]["reason"], "offered", "{offers:?}");
    }
    for n in 0..4 {
        answer(&old, &format!("u{n}"), &offers[&format!("u{n}")]).await;
        receiver.wait(n + 1).await;
    }
    old.terminate();
    let before = tail(dir.path(), "events");

    let prefix = format!("x-{}.", uuid::Uuid::new_v4().simple());
    configure(dir.path(), &brokers(), &prefix);
    let arguments = ["--data-dir", "data", "--output", "json", "export", "--brokers", &brokers(), "--prefix", &prefix];
    let (code, out, error) = askwhen(dir.path(), &arguments);
    assert_eq!(code, Some(0), "{error}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    let counted = (&report["users"], &report["waiting_deliveries"], &report["partitions"]);
    assert_eq!(counted, (&json!(20), &json!(2), &json!(5)), "{report}");
    let (code, _, error) = askwhen(dir.path(), &arguments);
    assert!(code == Some(3) && error.contains("was exported"), "{error}");
    let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "serve", "--listen", "127.0.0.1:0"]);
    assert!(code == Some(3) && error.contains("was exported"), "{error}");
    let (code, out, error) = askwhen(dir.path(), &["topics", "--brokers", &brokers(), "check"]);
    assert_eq!(code, Some(0), "{out}{error}");

    let text = std::fs::read_to_string(dir.path().join("askwhen.toml")).expect("written");
    std::fs::write(dir.path().join("askwhen.toml"), text.replace("[log]\n", "[log]\nkind = \"kafka\"\n"))
        .expect("written");
    // The records with an effect of their own, at the times that they had.
    let times = |records: &[Value]| -> BTreeSet<String> {
        let of_users = records.iter().filter(|record| record["value"]["type"] != "internal");
        of_users.map(|record| format!("{} {}", record["appended_at"], record["value"])).collect()
    };
    assert_eq!(times(&before), times(&tail(dir.path(), "events")));
    assert!(times(&before).len() >= 32, "{before:?}");

    let new = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    let webhooks = receiver.wait(6).await;
    let ids: Vec<&str> = webhooks.iter().map(|webhook| webhook.header("webhook-id")).collect();
    let ids: BTreeSet<&str> = ids.into_iter().collect();
    assert_eq!(ids.len(), 4, "what waited was sent under the id that it had");
    // The same trigger again, an offer made before, a window opened before,
    // and what is spent.
    assert_eq!(trigger(&new, "u5").await, offers["u5"]);
    answer(&new, "u6", &offers["u6"]).await;
    let offer = trigger(&new, "u12").await;
    assert_eq!(offer["reason"], "offered", "{offer}");
    answer(&new, "u12", &offer).await;
    let path = "/v1/users/u2/triggers/Main";
    assert_eq!(call(&new, Method::POST, path, json!({})).await["reason"], "already_completed");
    assert_eq!(trigger(&new, "u40").await["reason"], "not_activated");
    wait_until("two more webhooks", async || receiver.got().len() >= 8).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let responses: BTreeSet<String> =
        receiver.got().iter().map(|w| w.json()["data"]["response_id"].to_string()).collect();
    assert_eq!((receiver.got().len(), responses.len()), (8, 6), "each answer once, but for the two that failed first");
    let version = call(&new, Method::GET, "/v1/surveys/sleep", Value::Null).await["version"].clone();
    assert_eq!(version, 1, "definitions have kept their versions");
    // A node that knows nothing of the deliveries reads what they came to.
    let joined = Process::start(&dir, "n1", "engine,delivery", &["--dev"]).await;
    new.terminate();
    wait_until("it has all partitions", async || {
        let ready = joined.call(Method::GET, "/readyz?verbose", None).await.expect("an answer");
        ready.status == 200 && ready.body["owned"]["delivery"].as_array().is_some_and(|owned| owned.len() == 5)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.got().len(), 8, "nothing was sent again");
    joined.terminate();

    // Without the state that came with it, the journal is not decided again.
    std::fs::remove_dir_all(dir.path().join("n0")).expect("it was there");
    std::fs::remove_dir_all(dir.path().join("snapshots")).expect("it was there");
    let refused = std::process::Command::new(crate::harness::BINARY)
        .args(["--data-dir", "n0", "serve", "--listen", "127.0.0.1:0"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::inherit())
        .spawn();
    let wiped = Process::adopt(refused.expect("it starts"));
    wait_until("it says what is missing", async || {
        let said = wiped.call(Method::GET, "/readyz", None).await;
        said.is_some_and(|said| said.status == 503 && said.body.to_string().contains("no snapshot"))
    })
    .await;
    assert_eq!(receiver.got().len(), 8, "nothing was sent again");
}

#[tokio::test]
async fn an_export_that_has_not_ended_is_not_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let prefix = format!("x-{}.", uuid::Uuid::new_v4().simple());
    std::fs::create_dir(dir.path().join("data")).expect("made");
    std::fs::write(dir.path().join("data/secrets.key"), "ab".repeat(32)).expect("written");
    configure(dir.path(), &brokers(), &prefix);
    let (code, out, error) = askwhen(dir.path(), &["topics", "--brokers", &brokers(), "apply"]);
    assert_eq!(code, Some(0), "{out}{error}");
    let identity = json!({"incarnation": "0a", "partitions": 5, "key_check": "", "unfinished": true}).to_string();
    let writer = producer("random");
    send(&writer, &format!("{prefix}definitions"), Some("log/0a"), Some(&identity));
    writer.flush(Duration::from_secs(10)).expect("taken");
    let serve = ["--data-dir", "n0", "serve", "--brokers", &brokers(), "--listen", "127.0.0.1:0"];
    for arguments in [&serve[..], &["topics", "--brokers", &brokers(), "apply"]] {
        let (code, _, error) = askwhen(dir.path(), arguments);
        assert!(code == Some(3) && error.contains("has not come to its end"), "{error}");
    }
    // Nor is anything exported into topics that are there.
    let (code, _, error) = askwhen(dir.path(), &["--data-dir", "none", "export", "--brokers", &brokers()]);
    assert!(code == Some(4) && error.contains("no embedded log"), "{error}");
}
