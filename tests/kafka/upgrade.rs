//! A rolling upgrade: two processes of one group, each replaced by a newer one
//! while clients go on. `ASKWHEN_TEST_OLD_BINARY` names the older program, as
//! `script/soak` builds it; without it both are of this version, and it is a
//! rolling restart.

use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cluster::{check_decisions, folder, set_up, wait_for_webhooks};
use crate::harness::{BINARY, Receiver, brokers, tail};
use crate::process::Process;

const ALL: &str = "bridge,engine,delivery";

/// Where clients find somebody who answers.
type Bases = Mutex<Vec<String>>;

/// An event, a trigger and an answer per user, each sent again under its own id
/// to whoever is there, until it is answered.
async fn load(bases: &Bases, worker: usize, stop: &AtomicBool) -> (Vec<String>, BTreeMap<String, String>) {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
    let turn = AtomicUsize::new(worker);
    let until_done = async |path: String, body: Value| -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let base = {
                let bases = bases.lock().expect("unpoisoned");
                bases[turn.fetch_add(1, Ordering::Relaxed) % bases.len()].clone()
            };
            let request = http.post(format!("{base}{path}")).bearer_auth("ak_admin_of_the_cluster");
            let sent = request.header("content-type", "application/json").body(body.to_string()).send().await;
            if let Ok(answer) = sent
                && answer.status().is_success()
                && let Ok(bytes) = answer.bytes().await
                && let Ok(said) = serde_json::from_slice::<Value>(&bytes)
                && said["status"] != "pending"
            {
                return said;
            }
            assert!(Instant::now() < deadline, "{path} is not answered for a minute");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (mut events, mut answered) = (Vec::new(), BTreeMap::new());
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let user = format!("w{worker}n{n}");
        let event = json!({"user_id": user, "event_name": "woke", "event_id": format!("e-{user}")});
        until_done("/v1/events".into(), event).await;
        events.push(format!("e-{user}"));
        let trigger = json!({"event_id": format!("t-{user}"), "context": {"session_id": "s"}});
        let decision = until_done(format!("/v1/users/{user}/triggers/Main"), trigger).await;
        let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned();
        let answers = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
        until_done(format!("/v1/users/{user}/offers/{offer}/answers"), answers).await;
        answered.insert(user, offer);
    }
    (events, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_loses_nothing_and_decides_nothing_twice() {
    let old = std::env::var("ASKWHEN_TEST_OLD_BINARY").unwrap_or_else(|_| BINARY.into());
    println!("from {old} to {BINARY}");
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let mut first = Process::start_as(&old, &dir, "n0", ALL, &["--dev"]).await;
    let mut second = Process::start_as(&old, &dir, "n1", ALL, &["--dev"]).await;
    set_up(&first, &receiver).await;
    let bases = Mutex::new(vec![first.base.clone(), second.base.clone()]);
    let stop = AtomicBool::new(false);
    let workers = join_all((0..6).map(|worker| load(&bases, worker, &stop)));
    let upgrade = async {
        let pause = async || tokio::time::sleep(Duration::from_secs(3)).await;
        pause().await;
        // Clients are sent elsewhere first, as a balancer does that asks /readyz.
        *bases.lock().expect("unpoisoned") = vec![second.base.clone()];
        first.terminate();
        first = Process::start(&dir, "n0", ALL, &["--dev"]).await;
        *bases.lock().expect("unpoisoned") = vec![first.base.clone(), second.base.clone()];
        pause().await;
        *bases.lock().expect("unpoisoned") = vec![first.base.clone()];
        second.terminate();
        second = Process::start(&dir, "n1", ALL, &["--dev"]).await;
        bases.lock().expect("unpoisoned").push(second.base.clone());
        pause().await;
        stop.store(true, Ordering::Release);
        (first, second)
    };
    let (done, (first, second)) = tokio::join!(workers, upgrade);
    let (mut events, mut answered) = (Vec::new(), BTreeMap::new());
    for (more, offers) in done {
        events.extend(more);
        answered.extend(offers);
    }
    assert!(answered.len() > 20, "{} users came through", answered.len());
    let journal = tail(dir.path(), "events");
    let there: std::collections::BTreeSet<&str> =
        journal.iter().filter_map(|record| record["value"]["event_id"].as_str()).collect();
    let lost: Vec<&String> = events.iter().filter(|id| !there.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and not in the journal: {lost:?}");
    wait_for_webhooks(&receiver, &answered).await;
    check_decisions(dir.path(), &answered);
    first.terminate();
    second.terminate();
}
