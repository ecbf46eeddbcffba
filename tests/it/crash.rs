//! Kills under load: what was acknowledged is there and has its one effect.

use futures::stream::{FuturesUnordered, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Receiver, Server, open_survey, tail};

/// One worker: an event, a trigger and an answer per user, until the server
/// goes; notes what was acknowledged.
async fn load(
    server: &Server,
    round: usize,
    worker: usize,
    stop: &AtomicBool,
) -> (Vec<String>, BTreeMap<String, String>) {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let call = async |path: String, body: Value| -> Option<Value> {
        let request = http.request(Method::POST, format!("{}{path}", server.base)).bearer_auth(&server.server);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await.ok()?;
        let fine = answer.status().is_success();
        let bytes = answer.bytes().await.ok()?;
        fine.then(|| serde_json::from_slice(&bytes).ok())?
    };
    let (mut events, mut answered) = (Vec::new(), BTreeMap::new());
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let user = format!("r{round}w{worker}n{n}");
        let event_id = format!("e-{user}");
        let event = json!({"user_id": user, "event_name": "woke", "event_id": event_id});
        let Some(_) = call("/v1/events".into(), event).await else { break };
        events.push(event_id);
        let Some(decision) = call(format!("/v1/users/{user}/triggers/Main"), json!({})).await else { break };
        let Some(offer) = decision["survey"]["offer_id"].as_str() else { continue };
        let answers = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
        let Some(_) = call(format!("/v1/users/{user}/offers/{offer}/answers"), answers).await else { break };
        answered.insert(user, offer.to_owned());
    }
    (events, answered)
}

/// Kills the server under load, again and again, a little later each time; gives
/// what was acknowledged.
async fn under_kills(
    rounds: usize,
    workers: usize,
    define: impl AsyncFn(&Server),
) -> (Arc<tempfile::TempDir>, BTreeSet<String>, BTreeMap<String, String>) {
    let mut dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let (mut events, mut answered) = (BTreeSet::new(), BTreeMap::new());
    for round in 0..rounds {
        let server = Server::on(dir, &["--dev"], &[]).await;
        if round == 0 {
            define(&server).await;
        }
        let stop = AtomicBool::new(false);
        let mut workers: FuturesUnordered<_> = (0..workers).map(|w| load(&server, round, w, &stop)).collect();
        let pid = server.pid().to_string();
        let killer = async {
            tokio::time::sleep(Duration::from_millis(500 + 160 * round as u64)).await;
            let status = std::process::Command::new("kill").args(["-9", &pid]).status();
            assert!(status.is_ok_and(|s| s.success()));
            stop.store(true, Ordering::Release);
        };
        let collect = async {
            while let Some((more, offers)) = workers.next().await {
                events.extend(more);
                answered.extend(offers);
            }
        };
        tokio::join!(killer, collect);
        drop(workers);
        dir = server.kill();
    }
    (dir, events, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_in_a_loop_loses_nothing_acknowledged() {
    let receiver = Receiver::start(&[]).await;
    let rounds: usize = std::env::var("ASKWHEN_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let define = async |server: &Server| {
        let body = json!({"url": receiver.url, "events": ["response.completed"]});
        server.put("/v1/endpoints/crm", body).await;
        server.put("/v1/surveys/open", open_survey()).await;
    };
    let (dir, events, answered) = under_kills(rounds, 8, define).await;
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert!(events.len() > 20 && answered.len() > 10, "there was load: {} {}", events.len(), answered.len());
    let journal: BTreeSet<String> = tail(server.dir.path(), "events")
        .iter()
        .filter_map(|r| r["value"]["event_id"].as_str().map(str::to_owned))
        .collect();
    let lost: Vec<&String> = events.iter().filter(|id| !journal.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and not in the journal: {lost:?}");
    // The next round's start redoes the tail; wait until its outputs are out.
    server
        .until("every completion is in responses", async || {
            let done: BTreeSet<String> = tail(server.dir.path(), "responses")
                .iter()
                .filter(|r| r["value"]["type"] == "response.completed")
                .filter_map(|r| r["value"]["data"]["response_id"].as_str().map(str::to_owned))
                .collect();
            answered.values().all(|offer| done.contains(offer))
        })
        .await;
    for topic in ["decisions", "responses", "deliveries"] {
        let mut ids = BTreeSet::new();
        for record in tail(server.dir.path(), topic) {
            let id = record["headers"]["id"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{topic} holds {id} twice");
        }
    }
    let mut offers_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in tail(server.dir.path(), "decisions") {
        if let Some(offer) = record["value"]["survey"]["offer_id"].as_str() {
            offers_of.entry(record["value"]["user_id"].to_string()).or_default().insert(offer.to_owned());
        }
    }
    assert!(offers_of.values().all(|offers| offers.len() == 1), "each user was asked once");
    let missing = |webhooks: &[crate::harness::Webhook]| -> usize {
        let came: BTreeSet<String> =
            webhooks.iter().map(|w| w.json()["data"]["response_id"].as_str().unwrap_or_default().to_owned()).collect();
        answered.values().filter(|offer| !came.contains(*offer)).count()
    };
    server.until("every webhook", async || missing(&receiver.got()) == 0).await;
    let mut per_id: BTreeMap<String, usize> = BTreeMap::new();
    for webhook in receiver.got() {
        *per_id.entry(webhook.header("webhook-id").to_owned()).or_default() += 1;
    }
    let repeats = per_id.values().filter(|n| **n > 1).count();
    assert!(repeats <= rounds * 10, "at most what was in flight at a kill is repeated: {repeats}");
}

/// What the attempts on record say of each delivery, in their order.
fn chains(server: &Server) -> BTreeMap<String, Vec<Value>> {
    let mut chains: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in tail(server.dir.path(), "attempts") {
        // A record may be repeated under its id.
        if seen.insert(record["headers"]["id"].as_str().expect("an id").to_owned()) {
            let id = record["value"]["delivery_id"].as_str().expect("an id").to_owned();
            chains.entry(id).or_default().push(record["value"].clone());
        }
    }
    chains
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_among_retries_forks_no_chain_and_loses_no_message() {
    let receiver = Receiver::start(&[]).await;
    // Two of three fail, now and then slowly.
    receiver.will(&(0..600).map(|n| (if n % 3 == 0 { 200 } else { 500 }, Vec::new())).collect::<Vec<_>>());
    let rounds: usize = std::env::var("ASKWHEN_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let define = async |server: &Server| {
        let retry = json!({"kind": "fixed", "interval": "1s", "jitter": 0.5, "max_attempts": 100, "breaker": false});
        let body = json!({"url": receiver.url, "events": ["response.completed"], "retry": retry});
        server.put("/v1/endpoints/crm", body).await;
        server.put("/v1/surveys/open", open_survey()).await;
    };
    let (dir, _, answered) = under_kills(rounds, 4, define).await;
    let server = Server::on(dir, &["--dev"], &[]).await;
    let delivered = |chain: &[Value]| chain.last().is_some_and(|last| last["ended"] == "delivered");
    server
        .until("every delivery has ended", async || {
            let chains = chains(&server);
            let deliveries = tail(server.dir.path(), "deliveries");
            let all = deliveries.iter().filter(|record| record["value"].get("deliver").is_some()).count();
            all >= answered.len() && chains.len() == all && chains.values().all(|chain| delivered(chain))
        })
        .await;
    let mut attempts_of: BTreeMap<String, u64> = BTreeMap::new();
    for (id, chain) in chains(&server) {
        let numbers: Vec<u64> = chain.iter().map(|a| a["attempt"].as_u64().expect("a number")).collect();
        let expected: Vec<u64> = (1..=chain.len() as u64).collect();
        assert_eq!(numbers, expected, "{id}: one chain, no attempt recorded twice");
        assert_eq!(chain.iter().filter(|a| !a["ended"].is_null()).count(), 1, "{id}: one end");
        attempts_of.insert(chain[0]["message_id"].as_str().expect("an id").to_owned(), chain.len() as u64);
    }
    let mut came: BTreeMap<String, u64> = BTreeMap::new();
    for webhook in receiver.got() {
        *came.entry(webhook.header("webhook-id").to_owned()).or_default() += 1;
    }
    assert!(attempts_of.iter().all(|(id, attempts)| came.get(id).is_some_and(|n| n >= attempts)), "all were sent");
    let repeats: u64 = came.iter().map(|(id, n)| n - attempts_of.get(id).copied().unwrap_or(0)).sum();
    assert!(repeats <= rounds as u64 * 10, "what was under way at a kill, at most: {repeats}");
}

#[tokio::test]
async fn a_stop_keeps_everything_and_a_start_takes_it_up() {
    let server = Server::start().await;
    server.put("/v1/surveys/open", open_survey()).await;
    let body = json!({"event_id": "t1"});
    let first = server.post("/v1/users/ann/triggers/Main", body.clone()).await;
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0), "an orderly end");
    let server = Server::on(dir, &["--test-clock"], &[]).await;
    let again = server.post("/v1/users/ann/triggers/Main", body).await;
    assert_eq!(again.bytes, first.bytes, "the same trigger gets the stored bytes");
    assert_eq!(server.get("/v1/surveys/open").await.body["version"], 1);
}
