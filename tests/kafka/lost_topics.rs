//! Topics that are deleted and made again: while they are used, and while nobody
//! serves.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::Producer as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{Receiver, Said, askwhen, brokers, open_survey, tail};
use crate::process::Process;
use crate::producers::{prefix, producer, send};

pub fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("an admin client")
}

/// Deletes a topic and makes it again as it is declared.
async fn make_again(dir: &tempfile::TempDir, topic: &str) {
    let name = format!("{}{topic}", prefix(dir.path()));
    let deleted = admin().delete_topics(&[&name], &AdminOptions::new()).await.expect("the brokers are asked");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let (code, out, error) = askwhen(dir.path(), &["topics", "apply"]);
    assert!(code == Some(0) && out.contains(&format!("made {name}")), "{out}{error}");
}

fn reasons(said: &Said) -> String {
    said.body["reasons"].to_string()
}

/// Waits until readiness says why not, with all of these words.
pub async fn until_unready(process: &Process, words: &[&str]) -> Said {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let said = process.call(Method::GET, "/readyz", None).await.expect("an answer");
        if said.status == 503 && words.iter().all(|word| reasons(&said).contains(word)) {
            return said;
        }
        assert!(Instant::now() < deadline, "{words:?}: {said:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_ready(process: &Process) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let said = process.call(Method::GET, "/readyz", None).await.expect("an answer");
        if said.status == 200 {
            return;
        }
        assert!(Instant::now() < deadline, "{said:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A trigger and an answer for each user; gives the last answer that was no success.
pub async fn answer(process: &Process, users: std::ops::Range<usize>) -> Option<Said> {
    let mut failed = None;
    for n in users {
        let path = format!("/v1/users/u{n}/triggers/Main");
        let said = process.call(Method::POST, &path, Some(&json!({}))).await.expect("an answer");
        let Some(offer) = said.body["survey"]["offer_id"].as_str().map(str::to_owned) else {
            failed = Some(said);
            continue;
        };
        let body = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
        let path = format!("/v1/users/u{n}/offers/{offer}/answers");
        let said = process.call(Method::POST, &path, Some(&body)).await.expect("an answer");
        if said.status != 200 {
            failed = Some(said);
        }
    }
    failed
}

fn assert_refused(said: &Said) {
    assert_eq!((said.status, said.body["code"].as_str()), (503, Some("log_unavailable")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_are_deleted_while_they_are_used_are_written_again_from_the_state() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let owner = Process::start(&dir, "n0", "engine,delivery,console", &["--dev"]).await;
    let bridge = Process::start(&dir, "n1", "bridge", &["--dev"]).await;
    set_up(&bridge, &receiver).await;
    assert!(answer(&bridge, 0..8).await.is_none());
    let identity: Vec<Value> = tail(dir.path(), "definitions").into_iter().take(1).collect();
    // Whoever sees it says so, and takes nothing meanwhile; that can be over before the verb
    // that makes the topic has ended.
    let (address, topic) = (format!("{}/readyz", bridge.base), format!("topic {}definitions", prefix(dir.path())));
    let unready = tokio::spawn(async move {
        loop {
            let answer = reqwest::get(&address).await.expect("an answer");
            if answer.status() == 503 && answer.text().await.is_ok_and(|text| text.contains(&topic)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    make_again(&dir, "definitions").await;
    tokio::time::timeout(Duration::from_secs(40), unready).await.expect("it says so").expect("no panic");
    until_ready(&bridge).await;
    until_ready(&owner).await;
    let again = tail(dir.path(), "definitions");
    assert_eq!(again.last().map(|last| &last["key"]), identity.first().map(|first| &first["key"]), "{again:?}");
    let get = async |path: &str| bridge.call(Method::GET, path, None).await.expect("an answer").status;
    let deadline = Instant::now() + Duration::from_secs(10);
    while get("/v1/surveys/open").await != 200 || get("/v1/endpoints/crm").await != 200 {
        assert!(Instant::now() < deadline, "definitions are not shown again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let put = bridge.call(Method::PUT, "/v1/surveys/second", Some(&open_survey())).await.expect("an answer");
    assert_eq!(put.status, 201, "{put:?}");
    assert!(answer(&bridge, 8..16).await.is_none());
    // All of it is still there for whoever starts next.
    owner.kill();
    bridge.kill();
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    for survey in ["open", "second"] {
        let path = format!("/v1/surveys/{survey}");
        assert_eq!(server.call(Method::GET, &path, None).await.expect("an answer").status, 200, "{survey}");
    }
    assert!(answer(&server, 16..20).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_topic_that_is_made_again_while_it_is_used_stops_what_depends_on_it() {
    for topic in ["decisions", "attempts", "events"] {
        let dir = folder(&brokers());
        let receiver = Receiver::start(&[]).await;
        let owner = Process::start(&dir, "n0", "engine,delivery", &["--dev"]).await;
        let bridge = Process::start(&dir, "n1", "bridge", &["--dev"]).await;
        set_up(&bridge, &receiver).await;
        assert!(answer(&bridge, 0..24).await.is_none());
        let deadline = Instant::now() + Duration::from_secs(20);
        while receiver.got().len() < 24 {
            assert!(Instant::now() < deadline, "{} webhooks", receiver.got().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The ends were looked at since.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        make_again(&dir, topic).await;
        let name = format!("topic {}{topic}", prefix(dir.path()));
        for process in [&owner, &bridge] {
            until_unready(process, &[&name, "deleted and made again"]).await;
        }
        // It does not pass by itself, and nothing is written beside what is lost.
        let there = tail(dir.path(), topic).len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let refused = answer(&bridge, 0..8).await.expect("a refusal");
        assert_refused(&refused);
        for process in [&owner, &bridge] {
            until_unready(process, &[&name]).await;
        }
        assert_eq!(tail(dir.path(), topic).len(), there, "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_refused_takes_nothing() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let all = "bridge,engine,delivery";
    let server = Process::start(&dir, "n0", all, &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..24).await.is_none());
    server.terminate();
    make_again(&dir, "decisions").await;
    let server = Process::unready(&dir, "n0", all, &["--dev"]);
    until_unready(&server, &["records of topic decisions are lost", "state/engine/"]).await;
    let journal = tail(dir.path(), "events").len();
    let mut refused = 0;
    for n in 0..24 {
        let event = json!({"user_id": format!("u{n}"), "event_name": "woke"});
        let said = server.call(Method::POST, "/v1/events", Some(&event)).await.expect("an answer");
        if said.status == 503 {
            assert_refused(&said);
            assert!(said.body["detail"].as_str().is_some_and(|why| why.contains("decisions")), "{said:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "a refused partition takes events");
    assert_eq!(tail(dir.path(), "events").len(), journal + 24 - refused);
}

#[test]
fn records_without_the_identity_of_their_log_are_not_given_a_new_one() {
    let dir = folder(&brokers());
    let (code, out, error) = askwhen(dir.path(), &["topics", "apply"]);
    assert_eq!(code, Some(0), "{out}{error}");
    let sender = producer("murmur2_random");
    let event = json!({"user_id": "u", "event_name": "woke"}).to_string();
    send(&sender, &format!("{}events", prefix(dir.path())), Some("u"), Some(&event));
    sender.flush(Duration::from_secs(10)).expect("taken");
    let mut command = Command::new(crate::harness::BINARY);
    command.args(["--data-dir", "n0", "serve", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
    let out = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(3) && error.contains("has lost the identity of their log"), "{error}");
    assert!(tail(dir.path(), "definitions").is_empty(), "nothing was written to them");
}
