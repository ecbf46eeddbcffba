//! Ends under load, at random moments and at every step of a record's way: what
//! was acknowledged is there and has its one effect, what was refused is not,
//! every message arrives, and no id is written twice.

use futures::stream::{FuturesUnordered, StreamExt as _};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{BINARY, ON_KAFKA, Receiver, Server, open_survey, tail};

/// Attempts that may be in flight at one endpoint, and so repeat after an end.
const IN_FLIGHT: usize = 10;
/// Ends after which a folder is looked at and a fresh one is taken: an error is
/// seen early, and looking stays cheap.
const ENDS_PER_FOLDER: usize = 25;

/// Numbers from a seed that is printed.
struct Chance(u64);

impl Chance {
    /// `ASKWHEN_TEST_SEED`, or another one each time.
    fn printed(what: &str) -> Chance {
        let given = std::env::var("ASKWHEN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
        println!("{what}: ASKWHEN_TEST_SEED={seed}");
        Chance(seed)
    }

    /// Below a bound, by SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What clients know of a folder: kept apart from the server.
#[derive(Default)]
pub struct Known {
    /// Ids of events that were acknowledged.
    pub events: BTreeSet<String>,
    /// Users whose events were refused for good.
    pub refused: BTreeSet<String>,
    /// Offers that were completed with a 2xx, by their users.
    pub completed: BTreeMap<String, String>,
    /// How often the process has ended.
    pub ends: usize,
}

impl Known {
    fn take(&mut self, other: Known) {
        self.events.extend(other.events);
        self.refused.extend(other.refused);
        self.completed.extend(other.completed);
    }
}

/// One worker's mixed load until the server goes: single events, batches with a
/// bad item, triggers, displays, answers in two parts, attributes, definitions.
async fn load(base: &str, (server, admin): (&str, &str), name: &str, stop: &AtomicBool) -> Known {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
    let call = async |method: Method, path: &str, key: &str, body: Value| -> Option<(u16, Value)> {
        let request = http.request(method, format!("{base}{path}")).bearer_auth(key);
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await.ok()?;
        let status = answer.status().as_u16();
        // An answer that is cut off tells nothing.
        Some((status, serde_json::from_slice(&answer.bytes().await.ok()?).ok()?))
    };
    let mut known = Known::default();
    for n in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let user = format!("{name}n{n}");
        let id = |k: usize| format!("e{k}-{user}");
        let event = |k: usize| json!({"user_id": user, "event_name": "woke", "event_id": id(k)});
        let bad = json!({"user_id": format!("bad-{user}"), "properties": {}});
        let Some((status, _)) = call(Method::POST, "/v1/events", server, event(0)).await else { break };
        if status == 202 {
            known.events.insert(id(0));
        }
        if n % 4 == 1 {
            let batch = json!({"events": [event(1), bad, event(2), event(0)]});
            let Some((_, body)) = call(Method::POST, "/v1/events", server, batch).await else { break };
            for row in body["results"].as_array().into_iter().flatten() {
                match row["status"].as_u64() {
                    Some(202) => drop(known.events.insert(row["event_id"].as_str().expect("an id").to_owned())),
                    Some(422) => drop(known.refused.insert(format!("bad-{user}"))),
                    _ => {}
                }
            }
        }
        if n % 7 == 2 {
            let path = format!("/v1/users/{user}");
            if call(Method::PUT, &path, server, json!({"attributes": {"plan": "pro"}})).await.is_none() {
                break;
            }
        }
        if n % 40 == 20 && name.ends_with("w0") {
            let mut survey = open_survey();
            survey["name"] = json!(format!("Open, of {user}"));
            if call(Method::PUT, "/v1/surveys/open", admin, survey).await.is_none() {
                break;
            }
        }
        let path = format!("/v1/users/{user}/triggers/Main");
        let Some((_, decision)) = call(Method::POST, &path, server, json!({})).await else { break };
        let Some(offer) = decision["survey"]["offer_id"].as_str() else { continue };
        let path = format!("/v1/users/{user}/offers/{offer}");
        if n % 3 == 0 && call(Method::POST, &format!("{path}/displayed"), server, json!({})).await.is_none() {
            break;
        }
        let answers = |completed: bool| json!({"answers": [{"question_id": "q1", "value": 3}], "completed": completed});
        if n % 5 == 0 && call(Method::POST, &format!("{path}/answers"), server, answers(false)).await.is_none() {
            break;
        }
        let path = format!("{path}/answers");
        let Some((status, _)) = call(Method::POST, &path, server, answers(true)).await else { break };
        if status == 200 {
            known.completed.insert(user.clone(), offer.to_owned());
        }
    }
    known
}

/// Loads a server from several workers while `end` sees to its end.
pub async fn load_until(
    base: &str,
    keys: (&str, &str),
    (round, workers): (&str, usize),
    end: impl Future<Output = ()>,
) -> Known {
    let stop = AtomicBool::new(false);
    let names: Vec<String> = (0..workers).map(|w| format!("{round}w{w}")).collect();
    let mut working: FuturesUnordered<_> = names.iter().map(|name| load(base, keys, name, &stop)).collect();
    let mut known = Known::default();
    let ending = async {
        end.await;
        stop.store(true, Ordering::Release);
    };
    let collect = async {
        while let Some(more) = working.next().await {
            known.take(more);
        }
    };
    tokio::join!(ending, collect);
    known
}

pub async fn define(server: &Server, receiver: &Receiver) {
    let retry = json!({"kind": "fixed", "interval": "1s", "jitter": 0.5, "max_attempts": 100, "breaker": false});
    let body = json!({"url": receiver.url, "events": ["response.completed"], "retry": retry, "concurrency": IN_FLIGHT});
    server.put("/v1/endpoints/crm", body).await;
    server.put("/v1/surveys/open", open_survey()).await;
}

/// Kills the server under load once more, at some moment of its work or of its start.
async fn one_kill(
    dir: Arc<tempfile::TempDir>,
    round: usize,
    chance: &mut Chance,
    known: &mut Known,
) -> Arc<tempfile::TempDir> {
    known.ends += 1;
    if chance.below(8) == 0 {
        let mut child = spawn(&dir, &[]);
        tokio::time::sleep(Duration::from_millis(chance.below(700))).await;
        child.kill().expect("it dies");
        child.wait().expect("it is gone");
        return dir;
    }
    let server = Server::on(dir, &["--dev"], &[]).await;
    let pid = server.pid().to_string();
    let moment = Duration::from_millis(50 + chance.below(2_000));
    let kill = async {
        tokio::time::sleep(moment).await;
        let status = Command::new("kill").args(["-9", &pid]).status();
        assert!(status.is_ok_and(|s| s.success()));
    };
    let keys = (&*server.server, &*server.admin);
    known.take(load_until(&server.base, keys, (&format!("r{round}"), 8), kill).await);
    server.kill()
}

/// Starts a server of a folder that may end at any moment.
fn spawn(dir: &tempfile::TempDir, environment: &[(&str, &str)]) -> Child {
    spawn_under(&[], dir, environment)
}

/// As [`spawn`], under another program that runs it.
pub fn spawn_under(under: &[&str], dir: &tempfile::TempDir, environment: &[(&str, &str)]) -> Child {
    let mut words = under.iter().copied().chain([BINARY]);
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words).arg("--data-dir").arg(dir.path().join("data")).args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--dev",
    ]);
    command.envs(environment.iter().copied()).current_dir(dir.path());
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts")
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

/// Starts a folder's server once more and holds what there is against what the
/// clients know.
pub async fn verify(dir: Arc<tempfile::TempDir>, known: &Known, receiver: &Receiver) {
    let server = Server::on(dir, &["--dev"], &[]).await;
    let dir = server.dir.path();
    let journal = tail(dir, "events");
    let ids: BTreeSet<&str> = journal.iter().filter_map(|r| r["value"]["event_id"].as_str()).collect();
    let lost: Vec<&String> = known.events.iter().filter(|id| !ids.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and not in the journal: {lost:?}");
    let users: BTreeSet<&str> = journal.iter().filter_map(|r| r["value"]["user_id"].as_str()).collect();
    let there: Vec<&String> = known.refused.iter().filter(|user| users.contains(user.as_str())).collect();
    assert!(there.is_empty(), "refused and yet in the journal: {there:?}");
    // The start does the journal's tail again; wait until its outputs are out.
    server
        .until("every completion is in responses", async || {
            let done: BTreeSet<String> = tail(dir, "responses")
                .iter()
                .filter(|r| r["value"]["type"] == "response.completed")
                .filter_map(|r| r["value"]["data"]["response_id"].as_str().map(str::to_owned))
                .collect();
            known.completed.values().all(|offer| done.contains(offer))
        })
        .await;
    for topic in ["decisions", "responses", "displays", "deliveries"] {
        let mut ids = BTreeSet::new();
        for record in tail(dir, topic) {
            let id = record["headers"]["id"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{topic} holds {id} twice");
        }
    }
    let mut offers_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in tail(dir, "decisions") {
        if let Some(offer) = record["value"]["survey"]["offer_id"].as_str() {
            offers_of.entry(record["value"]["user_id"].to_string()).or_default().insert(offer.to_owned());
        }
    }
    let twice: Vec<_> = offers_of.iter().filter(|(_, offers)| offers.len() > 1).collect();
    assert!(twice.is_empty(), "each user is asked once: {twice:?}");
    verify_webhooks(&server, known, receiver).await;
}

async fn verify_webhooks(server: &Server, known: &Known, receiver: &Receiver) {
    let delivered = |chain: &[Value]| chain.last().is_some_and(|last| last["ended"] == "delivered");
    server
        .until("every delivery has ended", async || {
            let chains = chains(server);
            let deliveries = tail(server.dir.path(), "deliveries");
            let all = deliveries.iter().filter(|record| record["value"].get("deliver").is_some()).count();
            all >= known.completed.len() && chains.len() == all && chains.values().all(|chain| delivered(chain))
        })
        .await;
    let mut attempts_of: BTreeMap<String, u64> = BTreeMap::new();
    for (id, chain) in chains(server) {
        let numbers: Vec<u64> = chain.iter().map(|a| a["attempt"].as_u64().expect("a number")).collect();
        let expected: Vec<u64> = (1..=chain.len() as u64).collect();
        assert_eq!(numbers, expected, "{id}: one chain, no attempt recorded twice");
        assert_eq!(chain.iter().filter(|a| !a["ended"].is_null()).count(), 1, "{id}: one end");
        attempts_of.insert(chain[0]["message_id"].as_str().expect("an id").to_owned(), chain.len() as u64);
    }
    let (mut came, mut said) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, String>::new());
    for webhook in receiver.got() {
        let id = webhook.header("webhook-id").to_owned();
        let response = webhook.json()["data"]["response_id"].as_str().expect("an id").to_owned();
        let before = said.insert(id.clone(), response.clone());
        assert!(before.is_none_or(|before| before == response), "{id} is the id of two messages");
        *came.entry(id).or_default() += 1;
    }
    let responses: BTreeSet<&String> = said.values().collect();
    let missing: Vec<&String> = known.completed.values().filter(|offer| !responses.contains(offer)).collect();
    assert!(missing.is_empty(), "acknowledged completions that were never sent: {missing:?}");
    assert_eq!(responses.len(), said.len(), "one response, one webhook-id");
    assert!(attempts_of.iter().all(|(id, attempts)| came.get(id).is_some_and(|n| n >= attempts)), "all were sent");
    let repeats: u64 = came.iter().map(|(id, n)| n - attempts_of.get(id).copied().unwrap_or(0)).sum();
    let most = (known.ends * IN_FLIGHT) as u64;
    assert!(repeats <= most, "at most what was in flight at an end is repeated: {repeats} of {most}");
}

/// How often the server is killed: `ASKWHEN_TEST_KILLS`, else a few times.
fn kills() -> usize {
    std::env::var("ASKWHEN_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_in_a_loop_loses_nothing_acknowledged() {
    let mut chance = Chance::printed("kills");
    let (kills, mut done) = (kills(), 0);
    while done < kills {
        let receiver = Receiver::start(&[]).await;
        let mut dir = Arc::new(tempfile::tempdir().expect("a folder"));
        let server = Server::on(dir, &["--dev"], &[]).await;
        define(&server, &receiver).await;
        dir = server.kill();
        let mut known = Known::default();
        for _ in 0..ENDS_PER_FOLDER.min(kills - done) {
            dir = one_kill(dir, done, &mut chance, &mut known).await;
            done += 1;
        }
        verify(dir, &known, &receiver).await;
        let (events, completed) = (known.events.len(), known.completed.len());
        println!("{done} of {kills} kills; in this folder {events} events and {completed} answers were acknowledged");
        assert!(events > known.ends && completed > known.ends / 2, "there was load: {events} {completed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_among_retries_forks_no_chain_and_loses_no_message() {
    let mut chance = Chance::printed("kills among retries");
    let receiver = Receiver::start(&[]).await;
    // Two of three fail.
    receiver.will(&(0..600).map(|n| (if n % 3 == 0 { 200 } else { 500 }, Vec::new())).collect::<Vec<_>>());
    let mut dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &[]).await;
    define(&server, &receiver).await;
    dir = server.kill();
    let mut known = Known::default();
    for round in 0..kills().min(ENDS_PER_FOLDER) {
        dir = one_kill(dir, round, &mut chance, &mut known).await;
    }
    verify(dir, &known, &receiver).await;
}

/// The process ends by itself, at a step of a record's way.
async fn end_at(point: &str, nth: u64) {
    let receiver = Receiver::start(&[]).await;
    receiver.will(&(0..200).map(|n| (if n % 2 == 0 { 200 } else { 500 }, Vec::new())).collect::<Vec<_>>());
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &[]).await;
    define(&server, &receiver).await;
    let (server_key, admin_key) = (server.server.clone(), server.admin.clone());
    let dir = server.kill();
    let mut known = Known { ends: 1, ..Known::default() };
    let mut child = spawn(&dir, &[("ASKWHEN_FAULT", &format!("{point}:abort:{nth}"))]);
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut ended = async || {
        while child.try_wait().expect("asked").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("it dies");
                child.wait().expect("it is gone");
                panic!("the step {point} was not passed {nth} times");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Some steps are passed while it starts: what was there is done again.
    match line.trim().strip_prefix("askwhen listens on ") {
        Some(base) => {
            let more = load_until(base, (&server_key, &admin_key), (point, 4), ended()).await;
            known.take(more);
        }
        None => ended().await,
    }
    verify(dir, &known, &receiver).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_at_any_step_loses_nothing_acknowledged() {
    let mut chance = Chance::printed("steps");
    let rounds: u64 = std::env::var("ASKWHEN_TEST_FAULT_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    const {
        assert!(
            askwhen_process::fault::ENABLED,
            "this build has no fault points: they are in builds with debug assertions"
        )
    };
    for _ in 0..rounds {
        for point in askwhen_process::fault::POINTS {
            if ON_KAFKA && ["written", "appended"].contains(&point) {
                // Steps of the embedded log; a broker has its own.
                continue;
            }
            let most = if point == "checkpointed" { 4 } else { 40 };
            end_at(point, 1 + chance.below(most)).await;
        }
    }
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
