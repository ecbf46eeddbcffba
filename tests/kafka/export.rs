//! From the embedded log to Kafka: everything goes on where it was.

use rdkafka::producer::Producer as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Receiver, askwhen, brokers, differences, history, tail};
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
        "limits": {"caps": [{"count": "completed", "max": 9}]},
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
    for verb in [&["tail", "responses"][..], &["explain", "u1"]] {
        let (code, out, error) = askwhen(dir.path(), &[&["--data-dir", "data"], verb].concat());
        assert!(code == Some(0) && !out.is_empty() && error.contains("held until then"), "{verb:?}: {out}{error}");
    }
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
    // Of nine places six are used now, and three are held by offers from before.
    let told = trigger(&new, "u13").await["evaluations"][0].clone();
    assert_eq!((&told["gate"], &told["actual"]["count"]), (&json!("cap_reached"), &json!(9)), "{told}");
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

/// A history of every kind: two surveys, users who answer whole, in part or not at all,
/// one who is erased; messages that are delivered, given up and waiting.
async fn live_through(process: &Process, receiver: &Receiver, refuses: &Receiver) {
    for (id, events, receiver, delays) in [
        ("crm", json!(["response.*", "survey.dismissed"]), receiver, json!(["6s"])),
        ("gone", json!(["response.completed"]), refuses, json!(["1s"])),
        ("slow", json!(["response.completed"]), refuses, json!(["12h"])),
    ] {
        let body = json!({"url": receiver.url, "events": events, "retry": {"kind": "schedule", "delays": delays, "breaker": false}});
        call(process, Method::PUT, &format!("/v1/endpoints/{id}"), body).await;
    }
    let survey = |name: &str, trigger: &str| {
        json!({"name": name, "status": "active", "show_on": [{"trigger": trigger}],
            "frequency": {"repeat": "until_completed", "global_cooldown": "ignore"},
            "questions": [{"question_id": "q1", "type": "text", "text": "How?", "required": false},
                {"question_id": "q2", "type": "nps", "text": "And?", "required": false}]})
    };
    call(process, Method::PUT, "/v1/surveys/one", survey("One", "Main")).await;
    call(process, Method::PUT, "/v1/surveys/one", survey("One, edited", "Main")).await;
    call(process, Method::PUT, "/v1/surveys/two", survey("Two", "Other")).await;
    for n in 0..24 {
        let user = format!("u{n}");
        let offer = trigger(process, &user).await;
        let of_offer = format!("/v1/users/{user}/offers/{}", offer["survey"]["offer_id"].as_str().expect("an offer"));
        call(process, Method::POST, &format!("{of_offer}/displayed"), json!({})).await;
        match n % 4 {
            0 => answer(process, &user, &offer).await,
            1 => {
                let part = json!({"answers": [{"question_id": "q2", "value": n % 11}]});
                call(process, Method::POST, &format!("{of_offer}/answers"), part).await;
                answer(process, &user, &offer).await;
            }
            2 => drop(call(process, Method::POST, &format!("{of_offer}/dismissed"), json!({})).await),
            _ => {}
        }
        let path = format!("/v1/users/{user}/triggers/Elsewhere");
        call(process, Method::POST, &path, json!({})).await;
        if n == 5 {
            call(process, Method::DELETE, &format!("/v1/users/{user}"), Value::Null).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_and_counter_goes_over() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("askwhen.toml"), "[log]\npartitions = 3\n").expect("written");
    let (receiver, refuses) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    refuses.always(500);
    let all_roles = "bridge,engine,delivery,console";
    let old = Process::start(&dir, "data", all_roles, &["--dev"]).await;
    live_through(&old, &receiver, &refuses).await;
    let deliveries = async |process: &Process, status: &str| {
        let path = format!("/v1/deliveries?limit=200&status={status}");
        let rows = call(process, Method::GET, &path, Value::Null).await["deliveries"].clone();
        rows.as_array().expect("a list").len()
    };
    // u5 is erased: what waits of them is cancelled.
    wait_until("eleven are given up, eleven wait", async || {
        (deliveries(&old, "dead").await, deliveries(&old, "waiting").await) == (11, 11)
    })
    .await;
    wait_until("nothing is under way", async || deliveries(&old, "pending").await == 0).await;
    let of = async |process: &Process| history(async |path| call(process, Method::GET, &path, Value::Null).await).await;
    let before = of(&old).await;
    assert_eq!(before["/v1/surveys/one/stats"]["completed"], 12, "{before:#?}");
    old.terminate();

    let prefix = format!("h-{}.", uuid::Uuid::new_v4().simple());
    configure(dir.path(), &brokers(), &prefix);
    let export = |more: &[&str]| {
        let arguments =
            ["--data-dir", "data", "--output", "json", "export", "--brokers", &brokers(), "--prefix", &prefix];
        let (code, out, error) = askwhen(dir.path(), &[&arguments[..], more].concat());
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    let (told, told_again) = (export(&["--dry-run"]), export(&["--dry-run"]));
    assert_eq!(told, told_again, "it changes nothing");
    let report = export(&[]);
    for member in ["journal_records", "history", "users", "definitions", "waiting_deliveries"] {
        assert_eq!(told[member], report[member], "{member} is what was said before");
    }
    let topics = |name: &str| report["history"]["brought"][name].as_u64().unwrap_or(0);
    assert_eq!((topics("decisions"), topics("displays"), topics("dead")), (48, 30, 11), "{report}");
    assert_eq!(report["history"]["left"], json!({}), "{report}");

    let text = std::fs::read_to_string(dir.path().join("askwhen.toml")).expect("written");
    std::fs::write(dir.path().join("askwhen.toml"), text.replace("[log]\n", "[log]\nkind = \"kafka\"\n"))
        .expect("written");
    let sent = (receiver.got().len(), refuses.got().len());
    let new = Process::start(&dir, "n0", all_roles, &["--dev"]).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let differ = differences(&before, &of(&new).await);
        if differ.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{differ:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!((receiver.got().len(), refuses.got().len()), sent, "nothing was sent again");
    // What was brought over can be worked with: a message that was given up is sent again.
    receiver.always(200);
    refuses.always(200);
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let recovered = call(&new, Method::POST, "/v1/endpoints/gone/recover", since).await;
    assert_eq!(recovered["count"], 11, "all but the erased user's: {recovered}");
    wait_until("they are delivered", async || refuses.got().len() == sent.1 + 11).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn decisions_on_requests_that_waited_for_a_quota_go_over_with_their_users_erasure() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("askwhen.toml"), "[log]\npartitions = 3\n").expect("written");
    let all_roles = "bridge,engine,delivery,console";
    let old = Process::start(&dir, "data", all_roles, &["--dev"]).await;
    let survey = json!({"name": "Few", "status": "active", "show_on": [{"trigger": "Main"}],
        "limits": {"max_completed": 3}, "questions": [{"question_id": "q1", "type": "text", "text": "How?"}]});
    call(&old, Method::PUT, "/v1/surveys/few", survey).await;
    let mut erased = vec!["u20".to_owned()];
    for n in 0..24 {
        let user = format!("u{n}");
        let offer = trigger(&old, &user).await;
        if offer["survey"]["offer_id"].is_string() {
            answer(&old, &user, &offer).await;
            erased.push(user);
        }
    }
    for user in &erased {
        call(&old, Method::DELETE, &format!("/v1/users/{user}"), Value::Null).await;
    }
    let stats = async |process: &Process| call(process, Method::GET, "/v1/surveys/few/stats", Value::Null).await;
    // Decisions and responses come to the lists each for themselves.
    let has_all = |stats: &Value| (&stats["considered"], &stats["completed"]) == (&json!(24), &json!(3));
    wait_until("the lists have it", async || has_all(&stats(&old).await)).await;
    let before = stats(&old).await;
    assert_eq!(before["offered"], json!(3), "{before}");
    old.terminate();

    let prefix = format!("q-{}.", uuid::Uuid::new_v4().simple());
    configure(dir.path(), &brokers(), &prefix);
    let export = |more: &[&str]| {
        let arguments =
            ["--data-dir", "data", "--output", "json", "export", "--brokers", &brokers(), "--prefix", &prefix];
        let (code, out, error) = askwhen(dir.path(), &[&arguments[..], more].concat());
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    let (told, report) = (export(&["--dry-run"]), export(&[]));
    assert_eq!(told["history"], report["history"], "what was said before");
    assert_eq!(report["history"]["left"], json!({}), "{report}");
    let text = std::fs::read_to_string(dir.path().join("askwhen.toml")).expect("written");
    std::fs::write(dir.path().join("askwhen.toml"), text.replace("[log]\n", "[log]\nkind = \"kafka\"\n"))
        .expect("written");
    let new = Process::start(&dir, "n0", all_roles, &["--dev"]).await;
    wait_until("the lists are made again", async || stats(&new).await == before).await;
    for user in &erased {
        let path = format!("/v1/decisions?user_id={user}");
        let rows = call(&new, Method::GET, &path, Value::Null).await["decisions"].clone();
        assert_eq!(rows, json!([]), "nothing of {user} is listed");
    }
}
