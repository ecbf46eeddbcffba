//! Attempts, retries and ends, by the test clock.

use futures::stream::{FuturesUnordered, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

use crate::harness::{Receiver, Server, open_survey};

pub async fn answer_one(server: &Server, user: &str) {
    let decision = server.trigger(user, "Main").await;
    let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned();
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
    assert_eq!(said.status, 200, "{said:?}");
}

pub async fn endpoint(server: &Server, receiver: &Receiver, more: Value) {
    let mut body = json!({"url": receiver.url, "events": ["response.completed"]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    server.put("/v1/endpoints/crm", body).await;
    server.put("/v1/surveys/open", open_survey()).await;
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_at_its_time_and_not_before() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[500, 503]).await;
    let retry = json!({"kind": "schedule", "delays": ["5m", "1h"]});
    endpoint(&server, &receiver, json!({"retry": retry})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("4m50s").await;
    assert_eq!(receiver.got().len(), 1, "not before its time");
    server.advance("10s").await;
    assert_eq!(receiver.got().len(), 2);
    server.advance("59m50s").await;
    assert_eq!(receiver.got().len(), 2, "not before its time");
    server.advance("10s").await;
    let webhooks = receiver.got();
    assert_eq!(webhooks.len(), 3);
    let ids: Vec<&str> = webhooks.iter().map(|w| w.header("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one id for all attempts: {ids:?}");
    let attempts: Vec<&str> = webhooks.iter().map(|w| w.header("webhook-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    server.until("the list has it", async || server.only_delivery().await["status"] == "delivered").await;
    let delivery = server.only_delivery().await;
    let statuses: Vec<i64> =
        delivery["attempts"].as_array().unwrap().iter().map(|a| a["http_status"].as_i64().unwrap()).collect();
    assert_eq!((statuses, &delivery["message_id"]), (vec![500, 503, 200], &json!(ids[0])));
}

#[tokio::test]
async fn one_flow_calls_73_times_and_gives_up() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[201; 100]).await;
    endpoint(&server, &receiver, json!({"profile": "1flow"})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("71h59m").await;
    assert_eq!(receiver.got().len(), 72, "201 is a failure here");
    server.advance("2m").await;
    server.advance("10h").await;
    assert_eq!(receiver.got().len(), 73, "up to and including 72 h");
    server.until("dead", async || server.only_delivery().await["status"] == "dead").await;
    assert_eq!(server.only_delivery().await["reason"], "max_age");
}

/// Whatever a survey may hold is sent with its answers: nothing is accepted that cannot be.
#[tokio::test]
async fn the_largest_messages_are_sent_in_every_profile() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    for profile in ["standard", "1flow", "blitzllama"] {
        let body = json!({"url": receiver.url, "events": ["response.completed"], "profile": profile});
        server.put(&format!("/v1/endpoints/{profile}"), body).await;
    }
    let text = |n: usize| json!({"question_id": format!("q{n}"), "type": "text", "text": "T".repeat(16_000), "required": false});
    let options: Vec<Value> =
        (0..50).map(|n| json!({"value": format!("o{n}"), "text": format!("{n}{}", "o".repeat(300))})).collect();
    let choice = |n: usize| json!({"question_id": format!("q{n}"), "type": "multi_choice", "text": "T", "required": false, "options": options});
    let texts: Vec<Value> = (0..60).map(text).collect();
    let choices: Vec<Value> = (0..50).map(choice).collect();
    let all: Vec<String> = (0..50).map(|n| format!("o{n}")).collect();
    let surveys = [("texts", texts, json!("w".repeat(1_500))), ("choices", choices, json!(all))];
    for (n, (name, questions, value)) in surveys.into_iter().enumerate() {
        let survey = json!({"name": name, "status": "active", "show_on": [{"trigger": name}], "questions": questions});
        assert!((800_000..1 << 20).contains(&survey.to_string().len()), "{}", survey.to_string().len());
        let said = server.put(&format!("/v1/surveys/{name}"), survey).await;
        assert_eq!(said.status, 201, "{said:?}");
        let attributes = json!({"attributes": {"about": "v".repeat(31_000)}});
        assert_eq!(server.put("/v1/users/ann", attributes).await.status, 202);
        let trigger = json!({"properties": {"about": "x".repeat(20_000)}});
        let decision = server.post(&format!("/v1/users/ann/triggers/{name}"), trigger).await;
        let offer = decision.body["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision:?}")).to_owned();
        let answers: Vec<Value> = (0..if n == 0 { 60 } else { 50 })
            .map(|question| json!({"question_id": format!("q{question}"), "value": value}))
            .collect();
        let body = json!({"answers": answers, "completed": true});
        let said = server.post(&format!("/v1/users/ann/offers/{offer}/answers"), body).await;
        assert_eq!(said.status, 200, "{said:?}");
        let webhooks = receiver.wait(3 * (n + 1)).await;
        assert!(webhooks.iter().rev().take(3).any(|webhook| webhook.body.len() > 256 << 10), "{name}: they are large");
    }
}

#[tokio::test]
async fn redirects_are_not_followed_and_410_ends() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[302, 410]).await;
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("10s").await;
    assert_eq!(receiver.got().len(), 2);
    assert!(receiver.got().iter().all(|w| w.path == "/"), "nobody went /elsewhere");
    server.until("dead", async || server.only_delivery().await["status"] == "dead").await;
    assert_eq!(server.only_delivery().await["reason"], "terminal_status");
}

#[tokio::test]
async fn a_disabled_endpoint_cancels_and_a_forbidden_name_is_blocked() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"enabled": false})).await;
    answer_one(&server, "ann").await;
    server.until("cancelled", async || server.only_delivery().await["status"] == "cancelled").await;
    assert_eq!(server.only_delivery().await["reason"], "endpoint_disabled");
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn lists_filter_and_page() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({})).await;
    for n in 0..7 {
        answer_one(&server, &format!("u{n}")).await;
    }
    receiver.wait(7).await;
    let delivered = "/v1/deliveries?status=delivered";
    server
        .until("all are listed", async || {
            server.get(delivered).await.body["deliveries"].as_array().is_some_and(|rows| rows.len() == 7)
        })
        .await;
    let mut seen = Vec::new();
    let mut path = "/v1/deliveries?limit=3".to_owned();
    loop {
        let page = server.get(&path).await.body;
        seen.extend(
            page["deliveries"].as_array().unwrap().iter().map(|row| row["user_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/deliveries?limit=3&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["u6", "u5", "u4", "u3", "u2", "u1", "u0"], "newest first, each once");
    let one = server.get("/v1/deliveries?user_id=u3&endpoint_id=crm&survey_id=open").await.body;
    assert_eq!(one["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v1/deliveries?status=lost").await.status, 422);
    assert_eq!(server.get("/v1/deliveries?limit=0").await.status, 422);
    assert_eq!(server.get("/v1/deliveries?wat=1").await.status, 422);
    assert_eq!(server.get("/v1/deliveries/dlv_none").await.status, 404);
}

/// A count that a long run raises.
fn count(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// Triggers and answers until the server goes; gives what was acknowledged: the
/// offers, by their users.
async fn load(server: &Server, round: usize, worker: usize, stop: &AtomicBool) -> BTreeMap<String, String> {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let call = async |path: String, body: Value| -> Option<Value> {
        let request = http.request(Method::POST, format!("{}{path}", server.base)).bearer_auth(&server.server);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await.ok()?;
        let fine = answer.status().is_success();
        let bytes = answer.bytes().await.ok()?;
        fine.then(|| serde_json::from_slice(&bytes).ok())?
    };
    let mut answered = BTreeMap::new();
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let user = format!("r{round}w{worker}n{n}");
        let Some(decision) = call(format!("/v1/users/{user}/triggers/Main"), json!({})).await else { break };
        let Some(offer) = decision["survey"]["offer_id"].as_str() else { continue };
        let answers = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
        let Some(_) = call(format!("/v1/users/{user}/offers/{offer}/answers"), answers).await else { break };
        answered.insert(user, offer.to_owned());
    }
    answered
}

/// Takes requests and never answers; gives how many have come.
async fn hanging() -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let came = Arc::new(AtomicUsize::new(0));
    let counted = came.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::AcqRel);
            tokio::spawn(async move {
                let mut read = [0; 4_096];
                while stream.read(&mut read).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    (url, came)
}

/// The time below which 99 of 100 lie, in milliseconds.
fn p99(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[(all.len() * 99).div_ceil(100) - 1]
}

/// Answers at a steady pace, each told to every healthy endpoint; gives how long
/// after the answer's 200 each webhook came, in milliseconds.
async fn told_after(server: &Server, receiver: &Receiver, (prefix, rounds): (&str, usize), each: usize) -> Vec<f64> {
    let mut answered = BTreeMap::new();
    let before = receiver.got().len();
    for n in 0..rounds {
        let user = format!("{prefix}{n}");
        answer_one(server, &user).await;
        answered.insert(user, Instant::now());
        // A pace that a busy machine keeps: it is not throughput that is measured.
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let webhooks = receiver.wait(before + rounds * each).await;
    let took = |webhook: &crate::harness::Webhook| {
        let user = webhook.json()["data"]["user_id"].as_str().expect("a user").to_owned();
        webhook.at.saturating_duration_since(answered[&user]).as_secs_f64() * 1_000.0
    };
    webhooks[before..].iter().map(took).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_hanging_endpoint_nor_a_flooding_key_delays_the_others() {
    const HEALTHY: usize = 99;
    let rounds = count("ASKWHEN_TEST_AB_ROUNDS", 20);
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &[("ASKWHEN__LIMITS__PER_KEY", "400/s")]).await;
    let receiver = Receiver::start(&[]).await;
    for n in 0..HEALTHY {
        let body = json!({"url": format!("{}/{n}", receiver.url), "events": ["response.completed"]});
        server.put(&format!("/v1/endpoints/healthy-{n}"), body).await;
    }
    server.put("/v1/surveys/open", open_survey()).await;
    told_after(&server, &receiver, ("warm", 3), HEALTHY).await;
    let alone = p99(told_after(&server, &receiver, ("alone", rounds), HEALTHY).await);
    let (url, came) = hanging().await;
    server.put("/v1/endpoints/hangs", json!({"url": url, "events": ["response.completed"], "concurrency": 100})).await;
    let beside_hanging = p99(told_after(&server, &receiver, ("hang", rounds), HEALTHY).await);
    assert!(came.load(Ordering::Acquire) > 0, "it hangs");
    // Another key asks for much more than its quota gives.
    let stop = AtomicBool::new(false);
    let flood = async {
        let mut refused = 0;
        while !stop.load(Ordering::Acquire) {
            let path = "/v1/users/flood/triggers/Nowhere";
            let said = server.call(&server.client, Method::POST, path, Some(&json!({}))).await;
            refused += usize::from(said.status == 429);
        }
        refused
    };
    let measured = async {
        let took = told_after(&server, &receiver, ("flood", rounds), HEALTHY).await;
        stop.store(true, Ordering::Release);
        p99(took)
    };
    let (refused, beside_flood) = tokio::join!(flood, measured);
    println!(
        "p99 of {HEALTHY} endpoints over {rounds} answers: alone {alone:.1} ms, beside one that hangs \
         {beside_hanging:.1} ms ({:+.1} %), beside a key over its quota {beside_flood:.1} ms ({:+.1} %, {refused} refused)",
        (beside_hanging / alone - 1.0) * 100.0,
        (beside_flood / alone - 1.0) * 100.0,
    );
    // Without isolation they would wait for a deadline of 15 s; the rest is what this machine's noise takes.
    let bound = alone * 1.5 + 150.0;
    assert!(beside_hanging <= bound && beside_flood <= bound, "{alone} {beside_hanging} {beside_flood}");
}

fn resident_mib(server: &Server) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).expect("a number") / 1_024.0
}

/// A gauge or counter without labels but these.
async fn metric(server: &Server, name: &str) -> f64 {
    let text = String::from_utf8_lossy(&server.get("/metrics").await.bytes).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is in {text}"))
}

/// A receiver that answers nothing before as many requests as it waits for are there, and
/// counts its connections.
async fn gathering(wanted: usize) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let (accepted, gathered) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Barrier::new(wanted)));
    let connections = accepted.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::AcqRel);
            let gathered = gathered.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let gathered = gathered.clone();
                    async move {
                        request.into_body().collect().await.expect("a body");
                        gathered.wait().await;
                        Ok::<_, Infallible>(hyper::Response::new(String::new()))
                    }
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (url, accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_as_are_used_at_once_are_used_again() {
    const AT_ONCE: usize = 64;
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let (url, connections) = gathering(AT_ONCE).await;
    // Longer than it takes until all are there, on a machine that is busy.
    let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 3, "timeout": "60s"});
    let body = json!({"url": url, "events": ["response.completed"], "concurrency": AT_ONCE, "retry": retry});
    server.put("/v1/endpoints/busy", body).await;
    server.put("/v1/surveys/open", open_survey()).await;
    for wave in 1..=3 {
        let users: Vec<String> = (0..AT_ONCE).map(|n| format!("w{wave}-{n}")).collect();
        futures::stream::iter(&users).for_each_concurrent(16, |user| answer_one(&server, user)).await;
        let delivered = (wave * AT_ONCE) as f64;
        server
            .until("all have arrived", async || {
                metric(&server, "askwhen_delivery_attempts_total{outcome=\"delivered\"}").await >= delivered
            })
            .await;
    }
    let opened = connections.load(Ordering::Acquire);
    // A connection may have been begun for a request that another, just free, has taken.
    assert!((AT_ONCE..AT_ONCE + 16).contains(&opened), "{opened} connections for {AT_ONCE} requests at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_at_many_hanging_endpoints_is_held_in_bounded_memory() {
    let (endpoints, waiting) = (count("ASKWHEN_TEST_ENDPOINTS", 60), count("ASKWHEN_TEST_WAITING", 3_000));
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let (url, _) = hanging().await;
    for n in 0..endpoints {
        let body = json!({"url": url, "events": ["response.completed"], "retry": {"kind": "fixed", "interval": "1h",
            "max_attempts": 3, "timeout": "60s"}});
        server.put(&format!("/v1/endpoints/hangs-{n}"), body).await;
    }
    let mut survey = open_survey();
    survey["questions"] = json!([{"question_id": "q1", "type": "text", "text": "What?"}]);
    server.put("/v1/surveys/open", survey).await;
    let before = resident_mib(&server);
    let text = "x".repeat(4 << 10);
    let users = waiting.div_ceil(endpoints);
    let (asked, answered) = (&server, &text);
    let answer = |n: usize| async move {
        let user = format!("u{n}");
        let decision = asked.trigger(&user, "Main").await;
        let offer = decision["survey"]["offer_id"].as_str().expect("an offer").to_owned();
        let body = json!({"answers": [{"question_id": "q1", "value": answered}], "completed": true});
        let said = asked.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
        assert_eq!(said.status, 200, "{said:?}");
    };
    futures::stream::iter(0..users).for_each_concurrent(8, answer).await;
    let (first, retry) = ("askwhen_delivery_waiting{class=\"first\"}", "askwhen_delivery_waiting{class=\"retry\"}");
    let all = (users * endpoints) as f64;
    let begun = Instant::now();
    while metric(&server, first).await + metric(&server, retry).await < all {
        assert!(begun.elapsed() < Duration::from_secs(600), "they are not all taken up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held_mib = metric(&server, "askwhen_memory_bytes{part=\"delivery\"}").await / f64::from(1 << 20);
    let grown = resident_mib(&server) - before;
    println!(
        "{all} deliveries wait at {endpoints} endpoints that hang: {held_mib:.1} MiB held by the delivery, \
         {grown:.0} MiB more resident"
    );
    assert!(held_mib < 84.0, "attempts under way and ids that wait keep to their bounds: {held_mib} MiB");
    assert!(grown < 320.0, "stores and caches have theirs: {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_lose_nothing_and_repeat_no_more_than_was_under_way() {
    let rounds = count("ASKWHEN_TEST_STOPS", 3);
    let receiver = Receiver::start(&[]).await;
    let (hangs, _) = hanging().await;
    let mut dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut answered = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let server = Server::on(dir.clone(), &["--dev"], &[]).await;
        if round == 0 {
            let body = |url: &str| json!({"url": url, "events": ["response.completed"], "concurrency": 4});
            server.put("/v1/endpoints/crm", body(&receiver.url)).await;
            server.put("/v1/endpoints/hangs", body(&hangs)).await;
            server.put("/v1/surveys/open", open_survey()).await;
        }
        let stop = AtomicBool::new(false);
        let mut workers: FuturesUnordered<_> = (0..8).map(|w| load(&server, round, w, &stop)).collect();
        let pid = server.pid().to_string();
        let stopper = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let status = std::process::Command::new("kill").arg(&pid).status();
            assert!(status.is_ok_and(|s| s.success()));
            stop.store(true, Ordering::Release);
            Instant::now()
        };
        let collect = async {
            let mut all = BTreeMap::new();
            while let Some(offers) = workers.next().await {
                all.extend(offers);
            }
            all
        };
        let (told, offers) = tokio::join!(stopper, collect);
        answered.extend(offers);
        drop(workers);
        let ended = tokio::task::spawn_blocking(move || server.ended()).await.expect("it ends");
        assert_eq!(ended.1, Some(0), "an orderly end");
        longest = longest.max(told.elapsed());
        dir = ended.0;
    }
    println!("{rounds} stops under load: the longest took {longest:?}");
    assert!(longest < Duration::from_secs(30), "{longest:?}");
    assert!(answered.len() > 10, "there was load: {}", answered.len());
    let server = Server::on(dir, &["--dev"], &[]).await;
    let missing = || {
        let webhooks = receiver.got();
        let came: std::collections::BTreeSet<String> =
            webhooks.iter().map(|w| w.json()["data"]["response_id"].as_str().unwrap_or_default().to_owned()).collect();
        answered.values().filter(|offer| !came.contains(*offer)).count()
    };
    server.until("every webhook", async || missing() == 0).await;
    let mut came: BTreeMap<String, usize> = BTreeMap::new();
    for webhook in receiver.got() {
        *came.entry(webhook.header("webhook-id").to_owned()).or_default() += 1;
    }
    let repeated = came.values().filter(|n| **n > 1).count();
    assert!(came.values().all(|n| *n <= 2), "each at most once more: {came:?}");
    assert!(repeated <= rounds * 4, "no more than were under way: {repeated}");
}
