//! Several processes on one log: killed, stopped past their session, wiped,
//! joining and leaving, and without brokers.

use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Receiver, Said, askwhen, brokers, on_brokers, open_survey, tail};
use crate::process::{Broker, Process};

fn signal(process: &Process, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.pid().to_string()]).status();
    assert!(status.is_ok_and(|s| s.success()));
}

pub fn folder(brokers: &str) -> Arc<tempfile::TempDir> {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    on_brokers(dir.path(), brokers);
    dir
}

/// Completions of the survey that everybody is asked, while owners come and go.
const QUOTA: usize = 150;

pub async fn set_up(bridge: &Process, receiver: &Receiver) {
    let body = json!({"url": receiver.url, "events": ["response.completed"]});
    let put = async |path: &str, body: Value| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let said = bridge.call(Method::PUT, path, Some(&body)).await.expect("an answer");
            if said.status < 202 {
                return;
            }
            assert!(Instant::now() < deadline, "{said:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    put("/v1/endpoints/crm", body).await;
    put("/v1/surveys/open", open_survey()).await;
}

/// An event, a trigger and an answer of a user, each sent again under its own id
/// until it is answered; gives the offer that was answered, if one was made.
async fn complete(bridge: &Process, user: &str) -> Option<String> {
    let until_done = async |path: String, body: Value| -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(said) = bridge.call(Method::POST, &path, Some(&body)).await
                && said.status < 300
                && said.body["status"] != "pending"
            {
                return said.body;
            }
            assert!(Instant::now() < deadline, "{path} is not answered for a minute");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let event = json!({"user_id": user, "event_name": "woke", "event_id": format!("e-{user}")});
    until_done("/v1/events".into(), event).await;
    let trigger = json!({"event_id": format!("t-{user}"), "context": {"session_id": "s"}});
    let decision = until_done(format!("/v1/users/{user}/triggers/Main"), trigger).await;
    let Some(offer) = decision["survey"]["offer_id"].as_str().map(str::to_owned) else {
        assert!(decision["reason"] == "quota_full" || decision["reason"] == "cap_reached", "{decision}");
        return None;
    };
    let answers = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
    until_done(format!("/v1/users/{user}/offers/{offer}/answers"), answers).await;
    Some(offer)
}

/// One user after the other; gives the offers that were answered.
async fn load(bridge: &Process, worker: usize, stop: &AtomicBool) -> BTreeMap<String, String> {
    let mut answered = BTreeMap::new();
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let user = format!("w{worker}n{n}");
        if let Some(offer) = complete(bridge, &user).await {
            answered.insert(user, offer);
        }
    }
    answered
}

/// What may be repeated is repeated under its own id, with its own bytes; and
/// every trigger has one decision.
pub fn check_decisions(dir: &Path, answered: &BTreeMap<String, String>) {
    let mut by_id: BTreeMap<String, Value> = BTreeMap::new();
    for record in tail(dir, "decisions") {
        let id = record["headers"]["id"].as_str().expect("an id").to_owned();
        let known = by_id.entry(id).or_insert_with(|| record["value"].clone());
        assert_eq!(*known, record["value"], "the same id, the same bytes");
    }
    let mut offers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for decision in by_id.values() {
        if let Some(offer) = decision["survey"]["offer_id"].as_str() {
            offers.entry(decision["user_id"].as_str().expect("a user")).or_default().insert(offer);
        }
    }
    for (user, offer) in answered {
        assert_eq!(offers[user.as_str()], BTreeSet::from([offer.as_str()]), "one offer for {user}");
    }
    assert!(tail(dir, "rejects").is_empty(), "nothing was refused");
}

pub async fn wait_for_webhooks(receiver: &Receiver, answered: &BTreeMap<String, String>) {
    let offers: BTreeSet<&str> = answered.values().map(String::as_str).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let got = receiver.got();
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for webhook in &got {
            let response = webhook.json()["data"]["response_id"].as_str().expect("a response").to_owned();
            ids.entry(response).or_default().insert(webhook.header("webhook-id").to_owned());
        }
        if offers.iter().all(|offer| ids.contains_key(*offer)) {
            assert!(ids.values().all(|ids| ids.len() == 1), "one webhook-id per response");
            return;
        }
        let missing = offers.iter().filter(|offer| !ids.contains_key(**offer)).count();
        assert!(Instant::now() < deadline, "{missing} of {} answers were not delivered", offers.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_die_sleep_join_and_leave_and_nothing_is_lost_or_decided_twice() {
    owners_come_and_go(json!({"max_completed": QUOTA})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_while_processes_die_sleep_join_and_leave() {
    let caps = json!([{"count": "completed", "max": QUOTA}, {"count": "displayed", "max": 2 * QUOTA, "within": "1d"}]);
    owners_come_and_go(json!({"caps": caps})).await;
}

/// Everybody is asked of a survey with these limits, while owners of partitions come and go.
async fn owners_come_and_go(limits: Value) {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let bridges = [
        Process::start(&dir, "b0", "bridge", &["--dev"]).await,
        Process::start(&dir, "b1", "bridge", &["--dev"]).await,
    ];
    let owner = async |name: &str| Process::start(&dir, name, "engine,delivery", &["--dev"]).await;
    let (first, second, third) = (owner("e0").await, owner("e1").await, owner("e2").await);
    set_up(&bridges[0], &receiver).await;
    // Grants travel between the partitions all the while, and run out.
    let mut survey = open_survey();
    survey["limits"] = limits;
    let said = bridges[0].call(Method::PUT, "/v1/surveys/open", Some(&survey)).await.expect("an answer");
    assert!(said.status < 300, "{said:?}");
    let stop = AtomicBool::new(false);
    let workers = futures::future::join_all((0..6).map(|w| load(&bridges[w % 2], w, &stop)));
    let trouble = async {
        let pause = async |ms| tokio::time::sleep(Duration::from_millis(ms)).await;
        pause(1_000).await;
        first.kill();
        pause(1_500).await;
        // Past its session: others own its partitions when it wakes up.
        signal(&second, "STOP");
        let back = owner("e0").await;
        pause(7_500).await;
        signal(&second, "CONT");
        pause(1_000).await;
        let joined = owner("e3").await;
        pause(1_500).await;
        third.terminate();
        pause(1_500).await;
        stop.store(true, Ordering::Release);
        (back, joined)
    };
    let (answered, (back, joined)) = tokio::join!(workers, trouble);
    let mut answered: BTreeMap<String, String> = answered.into_iter().flatten().collect();
    assert!(answered.len() > 20 && answered.len() <= QUOTA, "{} users came through", answered.len());
    // Whatever became of the owners, no place is lost: strangers use up what is left.
    let mut refused = 0;
    for n in 0..2 * QUOTA {
        let user = format!("late{n}");
        match complete(&bridges[n % 2], &user).await {
            Some(offer) => drop(answered.insert(user, offer)),
            // A partition that is being taken up may answer too late once or twice.
            None => refused += 1,
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(answered.len(), QUOTA, "as many as may complete it do, and not one more");
    wait_for_webhooks(&receiver, &answered).await;
    check_decisions(dir.path(), &answered);
    // Nothing comes any more; the last to leave has all partitions.
    bridges.into_iter().for_each(Process::terminate);
    [second, back, joined].into_iter().for_each(Process::terminate);
    let compared = move || crate::alone::compare(dir.path(), &["e0", "e1", "e2", "e3"]);
    tokio::task::spawn_blocking(compared).await.expect("they agree");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_disk_is_restored_from_a_snapshot_and_repeats_nothing() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let all = "bridge,engine,delivery";
    let server = Process::start(&dir, "n0", all, &["--dev"]).await;
    set_up(&server, &receiver).await;
    let some = |from: usize, to: usize| (from..to).map(|n| format!("u{n}")).collect::<Vec<_>>();
    let answer = async |server: &Process, users: Vec<String>| {
        let mut answered = BTreeMap::new();
        for user in users {
            let path = format!("/v1/users/{user}/triggers/Main");
            let said = server.call(Method::POST, &path, Some(&json!({}))).await.expect("an answer");
            let offer = said.body["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{said:?}")).to_owned();
            let body = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
            let path = format!("/v1/users/{user}/offers/{offer}/answers");
            assert_eq!(server.call(Method::POST, &path, Some(&body)).await.expect("an answer").status, 200);
            answered.insert(user, offer);
        }
        answered
    };
    let mut answered = answer(&server, some(0, 20)).await;
    wait_for_webhooks(&receiver, &answered).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    // Two, the second further: what is trimmed is covered twice.
    for _ in 0..2 {
        let said: Said = server.call(Method::POST, "/v1/snapshots", None).await.expect("an answer");
        assert!(said.status == 200 && Instant::now() < deadline, "{said:?}");
        for role in ["engine", "delivery"] {
            assert!(said.body.to_string().contains(&format!("\"{role}\"")), "{said:?}");
        }
    }
    answered.extend(answer(&server, some(20, 30)).await);
    wait_for_webhooks(&receiver, &answered).await;
    server.terminate();
    let (code, out, error) = askwhen(dir.path(), &["snapshot", "verify"]);
    assert_eq!(code, Some(0), "{out}{error}");
    std::fs::remove_dir_all(dir.path().join("n0")).expect("it was there");
    let (decisions, webhooks) = (tail(dir.path(), "decisions").len(), receiver.got().len());
    let server = Process::start(&dir, "n0", all, &["--dev"]).await;
    // A user from before the snapshot is known: completed, so not asked again.
    let said = server.call(Method::POST, "/v1/users/u3/triggers/Main", Some(&json!({}))).await.expect("an answer");
    assert_eq!(said.body["reason"], "already_completed", "{said:?}");
    answered.extend(answer(&server, some(30, 32)).await);
    wait_for_webhooks(&receiver, &answered).await;
    assert_eq!(tail(dir.path(), "decisions").len(), decisions + 3, "nothing was decided again");
    assert_eq!(receiver.got().len(), webhooks + 2, "nothing was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_brokers_requests_are_refused_quickly_and_all_goes_on_afterwards() {
    let broker = Broker::start();
    let dir = folder(&broker.address);
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    let event = |n: usize| json!({"user_id": format!("u{n}"), "event_name": "woke", "event_id": format!("e{n}")});
    let mut acknowledged = BTreeSet::new();
    for n in 0..20 {
        assert_eq!(server.call(Method::POST, "/v1/events", Some(&event(n))).await.expect("an answer").status, 202);
        acknowledged.insert(format!("e{n}"));
    }
    broker.signal("STOP");
    // The first are on their way when the brokers fall silent.
    let first = server.call(Method::POST, "/v1/events", Some(&event(100))).await.expect("an answer");
    assert_eq!((first.status, first.body["code"].as_str()), (503, Some("outcome_unknown")), "{first:?}");
    let outage = std::env::var("ASKWHEN_TEST_OUTAGE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let back_at = Instant::now() + Duration::from_secs(outage);
    let mut refused = BTreeSet::new();
    for n in 101.. {
        if Instant::now() >= back_at {
            break;
        }
        refused.insert(format!("e{n}"));
        let asked = Instant::now();
        let said = server.call(Method::POST, "/v1/events", Some(&event(n))).await.expect("an answer");
        assert_eq!((said.status, said.body["code"].as_str()), (503, Some("log_unavailable")), "{said:?}");
        assert!(said.headers.contains_key("retry-after") && asked.elapsed() < Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.signal("CONT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.call(Method::POST, "/v1/events", Some(&event(1_000_000))).await.expect("an answer").status != 202 {
        assert!(Instant::now() < deadline, "it does not go on by itself");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    acknowledged.insert("e1000000".to_owned());
    // Whoever reads may come back a little later than whoever writes.
    let trigger = json!({"event_id": "t1"});
    loop {
        let said = server.call(Method::POST, "/v1/users/u1/triggers/Main", Some(&trigger)).await.expect("an answer");
        if said.body["reason"] == "no_survey" {
            break;
        }
        // Brokers that come back may go and come once more.
        let waits = said.body["status"] == "pending" || said.body["code"] == "log_unavailable";
        assert!(waits && Instant::now() < deadline, "{said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let journal = tail(dir.path(), "events");
    let there: BTreeSet<&str> = journal.iter().filter_map(|record| record["value"]["event_id"].as_str()).collect();
    assert!(acknowledged.iter().all(|id| there.contains(id.as_str())), "what was acknowledged is there");
    assert!(refused.iter().all(|id| !there.contains(id.as_str())), "what was refused is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_and_sasl_and_what_does_not_fit_is_refused() {
    let broker = Broker::start();
    let dir = folder(&broker.secure_address());
    let config = dir.path().join("askwhen.toml");
    let text = std::fs::read_to_string(&config).expect("made");
    let client = format!(
        "\n[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
         \"sasl.username\" = \"askwhen\"\n\"sasl.password\" = \"askwhen-secret\"\n\"ssl.ca.location\" = \"{}\"\n",
        broker.ca().display()
    );
    std::fs::write(&config, format!("{text}{client}")).expect("written");
    let (code, out, error) = askwhen(dir.path(), &["topics", "apply"]);
    assert!(code == Some(0) && out.contains("made t-"), "{out}{error}");
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &[]).await;
    let said = server.call(Method::POST, "/v1/users/u/triggers/Main", Some(&json!({}))).await.expect("an answer");
    assert_eq!(said.body["reason"], "no_survey", "{said:?}");
    server.terminate();
    assert_eq!(askwhen(dir.path(), &["topics", "check"]).0, Some(0));
    let serve = |environment: (&str, &str)| {
        let mut command = Command::new(crate::harness::BINARY);
        command.args(["--data-dir", "n0", "serve", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
        let out = command.env(environment.0, environment.1).output().expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, error) = serve(("ASKWHEN__LOG__PARTITIONS", "5"));
    assert!(code == Some(3) && error.contains("partitions"), "{error}");
    std::fs::write(dir.path().join("other.key"), "cd".repeat(32)).expect("written");
    let (code, error) = serve(("ASKWHEN__SECRETS__KEY_FILE", "other.key"));
    assert!(code == Some(3) && error.contains("put the key back that the data was made with"), "{error}");
    let (code, error) = serve(("ASKWHEN__KAFKA__CLIENT__NO.SUCH.SETTING", "1"));
    assert!(code == Some(2) && error.contains("no.such.setting"), "{error}");
}
