//! Replay and backtest of a journal of mixed records (surveys edited in between,
//! erasures, quotas, misplaced records, late events), beside reading the same log
//! to nowhere, in one run; and whether the replay decides what was decided, on one
//! thread and on two, from the beginning and from snapshots.
//! `ASKWHEN_BENCH_RECORDS` says how many records (200000).

use askwhen_domain::id::{Origin, partition_of};
use askwhen_domain::json::Json;
use askwhen_domain::time::{DAY, format_time};
use askwhen_log::{Embedded, Log, NewRecord, TopicPartition};
use askwhen_partition::Signer;
use askwhen_process::clock::Clock;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Define, Erase, Internal};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use serde_json::{Value, json};
use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_askwhen");
const PARTITIONS: u32 = 8;
const USERS: u64 = 50_000;

fn records() -> u64 {
    std::env::var("ASKWHEN_BENCH_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000)
}

/// The same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn askwhen(dir: &Path, arguments: &[&str]) -> Value {
    let out = Command::new(BINARY)
        .args(["--data-dir", "data", "--output", "json"])
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("it runs");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

/// Serves until everything is decided and a snapshot of it is taken; gives how
/// long deciding took.
async fn decide(dir: &Path) -> Duration {
    let mut child = Command::new(BINARY)
        .args(["--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0"])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let started = Instant::now();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let base = line.trim().strip_prefix("askwhen listens on ").expect("an address").to_owned();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let took = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let text = client.get(format!("{base}/metrics")).send().await.expect("an answer").text().await.expect("text");
        let lags: Vec<&str> = text.lines().filter(|l| l.starts_with("askwhen_engine_lag_records{")).collect();
        let ready = client.get(format!("{base}/readyz")).send().await.expect("an answer").status().is_success();
        if ready && lags.len() == PARTITIONS as usize && lags.iter().all(|line| line.ends_with(" 0")) {
            break started.elapsed();
        }
    };
    // A checkpoint is written every few seconds; the snapshot is of that.
    tokio::time::sleep(Duration::from_secs(9)).await;
    askwhen(dir, &["snapshot", "create", "--server", &base]);
    Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    child.wait().expect("it ends");
    took
}

/// What is written, and where each partition's journal stands.
struct Journal {
    log: Arc<Embedded>,
    key: ClusterKey,
    waiting: Vec<Vec<NewRecord>>,
    next: Vec<u64>,
    dice: Dice,
    written: u64,
}

impl Journal {
    fn open(dir: &Path) -> Journal {
        let log = Arc::new(Embedded::open(&dir.join("data/log"), PARTITIONS, Clock::new()).expect("it opens"));
        let key = std::fs::read_to_string(dir.join("data/secrets.key")).expect("a key");
        let end = |partition| log.bounds(TopicPartition { topic: Topic::Events, partition }).end;
        Journal {
            next: (0..PARTITIONS).map(end).collect(),
            waiting: vec![Vec::new(); PARTITIONS as usize],
            key: ClusterKey::parse(&key).expect("64 digits"),
            dice: Dice(7),
            written: 0,
            log,
        }
    }

    async fn push(&mut self, partition: u32, new: NewRecord) -> u64 {
        let part = partition as usize;
        self.waiting[part].push(new);
        self.written += 1;
        self.next[part] += 1;
        let offset = self.next[part] - 1;
        if self.waiting[part].len() >= 1_000 {
            self.flush(partition).await;
        }
        offset
    }

    async fn flush(&mut self, partition: u32) {
        let new = std::mem::take(&mut self.waiting[partition as usize]);
        if !new.is_empty() {
            let placed = Log::Embedded(self.log.clone())
                .append_durably(TopicPartition { topic: Topic::Events, partition }, new)
                .await;
            assert_eq!(placed.expect("written").end, self.next[partition as usize]);
        }
    }

    async fn value(&mut self, partition: u32, user: &str, value: Value) -> u64 {
        let new =
            NewRecord { key: Some(user.to_owned().into()), headers: Vec::new(), value: Some(value.to_string().into()) };
        self.push(partition, new).await
    }

    fn signer(&self) -> Signer {
        Signer::new(&Log::Embedded(self.log.clone()), &self.key)
    }

    async fn define(&mut self, kind: Kind, id: &str, body: Value) {
        let body = match kind {
            Kind::Survey => Json::of(&askwhen_wire::definition::survey(&body, Some(id)).expect("a survey")),
            _ => Json::of(&askwhen_wire::definition::settings(&body).expect("settings")),
        };
        let define = Internal::Define(Define {
            project: "default".into(),
            kind,
            id: id.into(),
            body: Some(body),
            new_secret: None,
            if_match: None,
            create: false,
            asked_at: Clock::new().wall(),
            request_id: format!("{:x}", self.written),
            actor: None,
        });
        let new = self.signer().internal(0, id, &define);
        self.push(0, new).await;
    }

    async fn write(&mut self, count: u64) {
        let until = self.written + count;
        while self.written < until {
            if self.written.is_multiple_of(40_000) {
                self.edit().await;
            }
            let user = format!("user_{}", self.dice.roll(USERS));
            let home = partition_of(&user, PARTITIONS);
            match self.dice.roll(1_000) {
                0..=2 => {
                    let (project, user_id) = ("default".to_owned(), user.clone());
                    let request_id = format!("{:x}", self.written);
                    let erase = Internal::Erase(Erase { project, user_id, asked_at: Clock::new().wall(), request_id });
                    let new = self.signer().internal(home, &user, &erase);
                    self.push(home, new).await;
                }
                3..=30 => {
                    let at = format_time(Clock::new().wall() - (self.dice.roll(9) as i64) * DAY);
                    let value = json!({"user_id": user, "event_name": "woke", "properties": {"minutes": 100},
                        "occurred_at": at});
                    self.value(home, &user, value).await;
                }
                31..=60 => {
                    let value = json!({"type": "attributes", "user_id": user, "attributes": {"plan": "pro"}});
                    self.value(home, &user, value).await;
                }
                61..=75 => {
                    let elsewhere = (home + 1) % PARTITIONS;
                    let value = json!({"user_id": user, "event_name": "woke", "properties": {"minutes": 80}});
                    self.value(elsewhere, &user, value).await;
                }
                76..=650 => {
                    let name = ["woke", "woke", "slept", "opened", "clicked"][self.dice.roll(5) as usize];
                    let minutes = self.dice.roll(200);
                    let value = json!({"user_id": user, "event_name": name, "properties": {"minutes": minutes},
                        "event_id": format!("e{}", self.written)});
                    self.value(home, &user, value).await;
                }
                _ => self.visit(&user, home).await,
            }
        }
        for partition in 0..PARTITIONS {
            self.flush(partition).await;
        }
    }

    /// A trigger, and what the app does with the offer that it may get.
    async fn visit(&mut self, user: &str, home: u32) {
        let trigger = ["Main", "Main", "Side", "Nowhere"][self.dice.roll(4) as usize];
        let platform = ["ios", "web"][self.dice.roll(2) as usize];
        let value = json!({"type": "trigger", "user_id": user, "trigger": trigger, "event_id": format!("t{}", self.written),
            "context": {"platform": platform, "session_id": format!("s{}", self.dice.roll(100_000))}});
        let offset = self.value(home, user, value).await;
        let offer_id =
            Origin { incarnation: self.log.incarnation(), partition: home, offset }.offer_id("default", user);
        if self.dice.roll(3) > 0 {
            self.value(home, user, json!({"type": "displayed", "user_id": user, "offer_id": offer_id})).await;
        }
        if self.dice.roll(4) == 0 {
            let answers = json!([{"question_id": "q1", "value": 4}]);
            let value = json!({"type": "answers", "user_id": user, "offer_id": offer_id, "answers": answers,
                "completed": true});
            self.value(home, user, value).await;
        }
    }

    async fn edit(&mut self) {
        let round = self.written / 40_000;
        let questions = json!([{"question_id": "q1", "type": "rating_star", "text": "How?"}]);
        self.define(Kind::Settings, "settings", json!({"global_cooldown": "1s", "max_per_session": 2})).await;
        let body = json!({"name": format!("Woke {round}"), "status": "active", "priority": 2, "activate": {"event": "woke",
            "where": [{"property": "minutes", "op": "gte", "value": 40 + round % 3}]}, "expires_after": "2h",
            "cancel_on": [{"event": "slept"}], "show_on": [{"trigger": "Main"}],
            "frequency": {"repeat": "every_activation"}, "questions": questions});
        self.define(Kind::Survey, "woke", body).await;
        let body = json!({"name": "Limited", "status": "active", "show_on": [{"trigger": "Side"}, {"trigger": "Main"}],
            "limits": {"max_completed": 500 * (round + 1)}, "frequency": {"repeat": "until_completed"},
            "targeting": {"all": [{"attribute": "plan", "op": "eq", "value": "pro"}]}, "questions": questions});
        self.define(Kind::Survey, "limited", body).await;
        let body = json!({"name": "Chain", "status": "active", "activate": {"sequence": {"steps": [{"event": "opened"},
            {"event": "clicked"}], "within": "1h"}}, "expires_after": "1h", "show_on": [{"trigger": "Side"}],
            "platforms": ["web"], "questions": questions});
        self.define(Kind::Survey, "chain", body).await;
    }
}

/// Reads every partition of the journal and looks at nothing.
fn read_to_nowhere(dir: &Path, threads: usize) -> f64 {
    let started = Instant::now();
    let next = std::sync::atomic::AtomicU32::new(0);
    let count: u64 = std::thread::scope(|scope| {
        let work = || {
            let mut count = 0;
            loop {
                let partition = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if partition >= PARTITIONS {
                    return count;
                }
                let at = TopicPartition { topic: Topic::Events, partition };
                let mut follower = askwhen_log::embedded::follow::Follower::new(&dir.join("data/log"), at);
                loop {
                    let records = follower.read().expect("readable");
                    if records.is_empty() {
                        break;
                    }
                    count += records.len() as u64;
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    count as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    // For the client that asks how far the engine is.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    decide(dir).await;
    let half = records() / 2;
    let mut journal = Journal::open(dir);
    journal.write(half).await;
    journal.log.close();
    drop(journal);
    decide(dir).await;
    let between = format_time(Clock::new().wall());
    let mut journal = Journal::open(dir);
    (journal.written, journal.dice) = (half, Dice(11));
    journal.write(half).await;
    journal.log.close();
    drop(journal);
    let took = decide(dir).await;
    println!("{} records; the engine decided half of them in {took:.1?}", 2 * half);
    let draft = json!({"kind": "survey", "survey_id": "draft", "name": "Draft", "status": "draft", "priority": 1,
        "activate": {"event": "clicked"}, "expires_after": "1h", "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]});
    std::fs::write(dir.join("draft.json"), draft.to_string()).expect("written");
    let lone = ["backtest", "-f", "draft.json", "--from", "2020-01-01T00:00:00Z", "--alone"];
    for threads in [1, 2] {
        let number = threads.to_string();
        let nowhere = read_to_nowhere(dir, threads);
        println!("{threads} thread(s): reading to nowhere {nowhere:.0} records/s");
        for (name, from) in [("replay", None), ("replay from snapshots", Some(between.as_str()))] {
            let mut arguments = vec!["replay", "run", "--threads", &number];
            arguments.extend(from.iter().flat_map(|from| ["--from", from]));
            let ran = askwhen(dir, &arguments);
            assert_eq!(ran["differences"], 0, "{ran:#}");
            assert_eq!(ran["decisions"]["not_yet_recorded"], 0, "{ran:#}");
            let rate = ran["replayed_now"]["records_per_second"].as_f64().unwrap_or(0.0);
            let (same, ratio) = (&ran["decisions"]["same"], rate / nowhere);
            println!("  {name:22} {rate:>9.0} records/s, {ratio:.3} of it; {same} decisions the same, byte for byte");
            askwhen(dir, &["replay", "abort"]);
        }
        for (name, arguments) in [("backtest", &lone[..5]), ("backtest, alone", &lone)] {
            let ran = askwhen(dir, &[arguments, &["--threads", &number]].concat());
            let rate = ran["records_per_second"].as_f64().unwrap_or(0.0);
            let offers = &ran["versions"][0]["surveys"][0]["offers"];
            println!("  {name:22} {rate:>9.0} records/s, {:.3} of it; {offers} offers", rate / nowhere);
        }
    }
}
