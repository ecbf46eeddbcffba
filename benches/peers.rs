//! The engine beside Kafka Streams (`benches/peers`), on one broker: both read the
//! same records of one topic, keep what they know of each user, and write a
//! decision for every trigger. `script/bench --peers` builds the peer, starts a
//! broker and runs this.
//!
//! A round makes a topic of its own, written before anybody reads it; then each
//! side reads it from its beginning to its end and is stopped in order. Sides take
//! turns in going first. What is printed is CPU time of the side's process and of
//! the broker's while it ran, starts and stops included, and the same between the
//! half and the end of the records; and bytes written to disk by both. Behind each
//! round the decisions of all sides are compared, record by record.
//!
//! `ASKWHEN_BENCH_RECORDS` (50000), `ASKWHEN_BENCH_USERS` (1000000),
//! `ASKWHEN_BENCH_ROUNDS` (3), `ASKWHEN_BENCH_SURVEYS` (20); `ASKWHEN_BENCH_BROKERS`
//! and `ASKWHEN_BENCH_BROKER_PID` say where the broker is, `ASKWHEN_BENCH_PEER` the
//! folder of the peer's jars; `ASKWHEN_BENCH_BINARY` takes another askwhen than this
//! build's own.

mod common;

use askwhen_domain::id::partition_of;
use askwhen_domain::time::format_time;
use askwhen_process::thread::Thread;
use common::{Dice, Distribution, cpu_us_of, load, median, setting, written_by};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 8;
const ADMIN: &str = "ak_admin_of_the_bench";
/// So often a side's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Longer than any side takes for a record on a machine that is busy.
const PATIENCE_PER_RECORD: Duration = Duration::from_micros(2_000);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Askwhen,
    ExactlyOnce,
    AtLeastOnce,
}

const SIDES: [Side; 3] = [Side::Askwhen, Side::ExactlyOnce, Side::AtLeastOnce];

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Askwhen => "askwhen",
            Side::ExactlyOnce => "Streams, exactly once",
            Side::AtLeastOnce => "Streams, at least once",
        }
    }

    fn decisions(self, prefix: &str) -> String {
        match self {
            Side::Askwhen => format!("{prefix}decisions"),
            Side::ExactlyOnce => format!("{prefix}peer-exactly-once"),
            Side::AtLeastOnce => format!("{prefix}peer-at-least-once"),
        }
    }
}

struct Bench {
    brokers: String,
    broker: u32,
    peer: String,
    binary: String,
    records: u64,
    users: u64,
    surveys: u64,
}

/// What a side has cost, for each record.
#[derive(Clone, Copy, Default)]
struct Cost {
    own_us: f64,
    broker_us: f64,
    /// Of both, between the half and the end of the records.
    warm_us: f64,
    own_bytes: f64,
    broker_bytes: f64,
    seconds: f64,
}

/// What is counted at a moment.
#[derive(Clone, Copy)]
struct Sample {
    own_us: f64,
    broker_us: f64,
    broker_bytes: u64,
    done: u64,
}

fn kill(child: &Child) {
    Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
}

/// Stops a process in order; gives the CPU time and the bytes written that it ended with.
fn stop(child: &mut Child) -> (f64, u64) {
    let pid = child.id();
    let mut written = written_by(pid).unwrap_or(0);
    kill(child);
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Whoever has ended is there, with all that it used, until it is waited for.
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
            break;
        }
        written = written_by(pid).unwrap_or(0).max(written);
        if Instant::now() > deadline {
            child.kill().expect("it is ours");
            panic!("it does not stop");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let used = cpu_us_of(pid);
    child.wait().expect("it has ended");
    (used, written)
}

/// A process that is killed when a check fails.
struct Running {
    child: Child,
    address: String,
    /// Ends with what the child writes.
    _reading: Option<Thread>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    fn http(&self, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(&self.address).expect("a connection");
        stream.write_all(request.as_bytes()).expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    }

    fn get(&self, path: &str) -> String {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < deadline, "it does not become ready");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Records of users that its engine has applied.
    fn applied(&self) -> u64 {
        let text = self.get("/metrics");
        let of_users = |line: &&str| {
            line.starts_with("askwhen_engine_records_total{type=\"event\"}")
                || line.starts_with("askwhen_engine_records_total{type=\"trigger\"}")
        };
        text.lines().filter(of_users).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Bench {
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("a client")
    }

    fn start_askwhen(&self, dir: &Path, roles: &str) -> Running {
        let mut child = Command::new(&self.binary)
            .args(["--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0", "--roles", roles])
            .current_dir(dir)
            .env("ASKWHEN_LOG", "error,rdkafka=off")
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        Running { child, address, _reading: None }
    }

    /// Makes askwhen's topics and its surveys; nothing of users is in them.
    fn prepare(&self, dir: &Path, prefix: &str) {
        std::fs::write(dir.join("cluster.key"), "5a".repeat(32)).expect("written");
        let config = format!(
            "[log]\nkind = \"kafka\"\npartitions = {PARTITIONS}\nprefix = \"{prefix}\"\n[kafka]\nbrokers = \"{}\"\n\
             replication = 1\n[engine]\nmemory = \"1GiB\"\n[snapshots]\nurl = \"file://{}\"\n[secrets]\n\
             key_file = \"cluster.key\"\n[[keys]]\nkind = \"admin\"\nkey = \"{ADMIN}\"\n",
            self.brokers,
            dir.join("snapshots").display(),
        );
        std::fs::write(dir.join("askwhen.toml"), config).expect("written");
        let mut running = self.start_askwhen(dir, "bridge,engine");
        running.until_ready();
        for n in 0..self.surveys {
            let body = json!({"name": "S", "status": "active", "activate": {"event": format!("event-{n:03}")},
                "expires_after": "24h", "show_on": [{"trigger": "Main"}],
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
            .to_string();
            let answer = running.http(&format!(
                "PUT /v1/surveys/survey-{n:03} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {ADMIN}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        }
        stop(&mut running.child);
    }

    /// Writes the records, in the partitions of their users.
    fn produce(&self, prefix: &str, distribution: Distribution) {
        let producer: BaseProducer =
            self.client().set("enable.idempotence", "true").set("linger.ms", "20").create().expect("a producer");
        let topic = format!("{prefix}events");
        let (mut dice, mut earlier) = (Dice(7), None::<(String, String)>);
        for n in 0..self.records {
            let user = format!("user-{}", distribution.user(&mut dice, self.users));
            let at = format_time(askwhen_process::clock::Clock::new().now());
            let head = format!(
                "\"project\":\"default\",\"user_id\":\"{user}\",\"event_id\":\"id-{n}\",\"received_at\":\"{at}\""
            );
            let value = match dice.roll() % 50 {
                0 => format!("{{\"type\":\"trigger\",{head},\"trigger\":\"Main\",\"properties\":{{}}}}"),
                which => format!(
                    "{{{head},\"event_name\":\"event-{:03}\",\"properties\":{{\"title\":\"War and Peace\",\"n\":{n}}}}}",
                    which % self.surveys
                ),
            };
            // Some come twice, and have no second effect.
            let (user, value) = match earlier.take().filter(|_| n % 1_000 == 999) {
                Some(earlier) => earlier,
                None => (user, value),
            };
            let partition = partition_of(&user, PARTITIONS) as i32;
            let mut record = BaseRecord::to(&topic).partition(partition).key(&user).payload(&value);
            while let Err((error, back)) = producer.send(record) {
                assert!(error.to_string().contains("QueueFull"), "{error}");
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            producer.poll(Duration::ZERO);
            earlier = Some((user, value));
        }
        producer.flush(Duration::from_secs(120)).expect("taken");
    }

    fn sample(&self, own: u32, done: u64) -> Sample {
        Sample {
            own_us: cpu_us_of(own),
            broker_us: cpu_us_of(self.broker),
            broker_bytes: written_by(self.broker).unwrap_or(0),
            done,
        }
    }

    /// Lets a side read everything.
    fn run(&self, side: Side, dir: &Path, prefix: &str) -> Cost {
        let before = self.sample(self.broker, 0);
        let started = Instant::now();
        let processed = Arc::new(AtomicU64::new(0));
        let mut running = match side {
            Side::Askwhen => self.start_askwhen(dir, "engine"),
            _ => self.start_streams(side, dir, prefix, &processed),
        };
        let pid = running.child.id();
        let deadline =
            started + Duration::from_secs(60) + PATIENCE_PER_RECORD * u32::try_from(self.records).expect("some");
        let (mut half, mut last) = (None, self.sample(pid, 0));
        while last.done < self.records {
            std::thread::sleep(LOOK_EVERY);
            assert!(Instant::now() < deadline, "{}: {} of {} in time", side.name(), last.done, self.records);
            let ended = running.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{} has ended: {ended:?}", side.name());
            let done = match side {
                Side::Askwhen => running.applied(),
                _ => processed.load(Ordering::Acquire),
            };
            last = self.sample(pid, done);
            half = half.or(Some(last).filter(|now| now.done * 2 >= self.records && now.done < self.records));
        }
        let (own_us, own_bytes) = stop(&mut running.child);
        let after = self.sample(self.broker, 0);
        let each = |total: f64| total / self.records as f64;
        let warm = half.map_or(f64::NAN, |half| {
            (last.own_us - half.own_us + last.broker_us - half.broker_us) / (last.done - half.done).max(1) as f64
        });
        Cost {
            own_us: each(own_us),
            broker_us: each(after.broker_us - before.broker_us),
            warm_us: warm,
            own_bytes: each(own_bytes as f64),
            broker_bytes: each((after.broker_bytes - before.broker_bytes) as f64),
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    fn start_streams(&self, side: Side, dir: &Path, prefix: &str, processed: &Arc<AtomicU64>) -> Running {
        // Exactly once a decision is seen when it is committed; at least once a commit is what
        // a checkpoint is to askwhen, which writes one every five seconds.
        let (guarantee, commit_ms) = match side {
            Side::ExactlyOnce => ("exactly_once_v2", "1000"),
            _ => ("at_least_once", "5000"),
        };
        let decisions = side.decisions(prefix);
        let state = dir.join(guarantee);
        let mut child = Command::new("java")
            .args(["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
            .args(["-cp", &format!("{}/*", self.peer), "askwhen.peer.Main", &self.brokers])
            .args([&format!("{prefix}events"), &decisions, guarantee, &state.display().to_string()])
            .args([&self.records.to_string(), &self.surveys.to_string(), commit_ms])
            .stdout(Stdio::piped())
            .spawn()
            .expect("java runs");
        let (out, processed) = (child.stdout.take().expect("piped"), processed.clone());
        let reading = Thread::spawn("peer", move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let count = line.strip_prefix("processed ").and_then(|text| text.parse().ok());
                processed.fetch_max(count.unwrap_or(0), Ordering::AcqRel);
            }
        })
        .expect("a thread");
        Running { child, address: String::new(), _reading: Some(reading) }
    }

    /// The decisions of a side, in their order in each partition, without what each side
    /// makes up for itself: an offer is called by the trigger that it was made to.
    fn decisions(&self, side: Side, prefix: &str) -> Vec<Vec<Value>> {
        let mut config = self.client();
        config.set("group.id", "bench-check").set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let topic = side.decisions(prefix);
        for partition in 0..PARTITIONS as i32 {
            list.add_partition_offset(&topic, partition, Offset::Beginning).expect("a place");
        }
        consumer.assign(&list).expect("assigned");
        let mut all: Vec<Vec<Value>> = vec![Vec::new(); PARTITIONS as usize];
        let mut open: Vec<i32> = (0..PARTITIONS as i32).collect();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "{topic} cannot be read");
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(message)) => {
                    let value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
                    all[message.partition() as usize].push(value);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|one| *one != partition),
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => {}
            }
        }
        all.iter_mut().for_each(|partition| unify(partition));
        all
    }

    /// Whether all sides have decided alike; gives how many decisions there are.
    fn compare(&self, prefix: &str) -> (usize, usize) {
        let own = self.decisions(Side::Askwhen, prefix);
        for side in [Side::ExactlyOnce, Side::AtLeastOnce] {
            let theirs = self.decisions(side, prefix);
            for (partition, (own, theirs)) in own.iter().zip(&theirs).enumerate() {
                for (n, (one, other)) in own.iter().zip(theirs).enumerate() {
                    assert_eq!(one, other, "decision {n} of partition {partition}: askwhen's, and {}", side.name());
                }
                assert_eq!(own.len(), theirs.len(), "decisions of partition {partition}, {}", side.name());
            }
        }
        let offered = own.iter().flatten().filter(|decision| decision["reason"] == "offered").count();
        (own.iter().map(Vec::len).sum(), offered)
    }

    async fn make_topics(&self, prefix: &str) {
        let names = [Side::ExactlyOnce, Side::AtLeastOnce].map(|side| side.decisions(prefix));
        let new = names.iter().map(|name| NewTopic::new(name, PARTITIONS as i32, TopicReplication::Fixed(1)));
        let made = self.admin().create_topics(new.collect::<Vec<_>>().iter(), &AdminOptions::new()).await;
        made.expect("an answer").into_iter().for_each(|one| drop(one.expect("a topic")));
    }

    async fn remove_topics(&self, prefix: &str) {
        let admin = self.admin();
        let all = admin.inner().fetch_metadata(None, Duration::from_secs(30)).expect("metadata");
        let names = all.topics().iter().map(rdkafka::metadata::MetadataTopic::name);
        let own: Vec<&str> = names.filter(|name| name.starts_with(prefix)).collect();
        admin.delete_topics(&own, &AdminOptions::new()).await.expect("an answer");
    }

    async fn round(&self, round: u64, distribution: Distribution) -> [Cost; 3] {
        let dir = tempfile::tempdir().expect("a folder");
        let kind = if distribution == Distribution::Zipf { "zipf" } else { "uniform" };
        let prefix = format!("bench-{}-{kind}-{round}.", std::process::id());
        self.prepare(dir.path(), &prefix);
        self.make_topics(&prefix).await;
        self.produce(&prefix, distribution);
        let mut costs = [Cost::default(); 3];
        for turn in 0..SIDES.len() {
            let at = (turn + round as usize) % SIDES.len();
            costs[at] = self.run(SIDES[at], dir.path(), &prefix);
        }
        let (decisions, offered) = self.compare(&prefix);
        println!("  round {}: {decisions} decisions, {offered} of them offers: all sides alike", round + 1);
        self.remove_topics(&prefix).await;
        costs
    }
}

/// Takes out of decisions what each side makes up for itself.
fn unify(decisions: &mut [Value]) {
    let mut offers = HashMap::new();
    for decision in decisions.iter_mut() {
        let event_id = decision["event_id"].clone();
        decision.as_object_mut().expect("an object").remove("decision_id");
        if let Some(survey) = decision["survey"].as_object_mut() {
            let offer_id = survey.insert("offer_id".into(), event_id.clone()).expect("an offer has an id");
            offers.insert(offer_id.as_str().expect("a text").to_owned(), event_id);
        }
        for evaluation in decision["evaluations"].as_array_mut().expect("a list") {
            if evaluation["gate"] == "offer_outstanding" {
                let offer_id = evaluation["actual"].as_str().expect("a text");
                evaluation["actual"] = offers.get(offer_id).expect("an offer that was made").clone();
            }
        }
    }
}

fn report(costs: &[[Cost; 3]]) {
    println!(
        "  {:<24} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11} {:>9}",
        "", "process", "broker", "both", "warm", "written", "by broker", "records/s"
    );
    let of =
        |side: usize, part: fn(&Cost) -> f64| median(&costs.iter().map(|round| part(&round[side])).collect::<Vec<_>>());
    let both = |side: usize| of(side, |cost| cost.own_us + cost.broker_us);
    for (at, side) in SIDES.iter().enumerate() {
        let speed = 1.0 / of(at, |cost| cost.seconds);
        println!(
            "  {:<24} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.0} B {:>9.0} B {:>9.0}",
            side.name(),
            of(at, |cost| cost.own_us),
            of(at, |cost| cost.broker_us),
            both(at),
            of(at, |cost| cost.warm_us),
            of(at, |cost| cost.own_bytes),
            of(at, |cost| cost.broker_bytes),
            speed * setting("ASKWHEN_BENCH_RECORDS", 50_000) as f64,
        );
    }
    for (at, side) in SIDES.iter().enumerate().skip(1) {
        let warm = |side: usize| of(side, |cost| cost.warm_us);
        println!(
            "  {:<24} {:.1} times askwhen's, once warm {:.1}",
            side.name(),
            both(at) / both(0),
            warm(at) / warm(0)
        );
    }
}

fn main() {
    let text =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use script/bench --peers"));
    let bench = Bench {
        brokers: text("ASKWHEN_BENCH_BROKERS"),
        broker: text("ASKWHEN_BENCH_BROKER_PID").trim().parse().expect("a process id"),
        peer: text("ASKWHEN_BENCH_PEER"),
        binary: std::env::var("ASKWHEN_BENCH_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_askwhen").into()),
        records: setting("ASKWHEN_BENCH_RECORDS", 50_000),
        users: setting("ASKWHEN_BENCH_USERS", 1_000_000),
        surveys: setting("ASKWHEN_BENCH_SURVEYS", 20),
    };
    let rounds = setting("ASKWHEN_BENCH_ROUNDS", 3);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for distribution in [Distribution::Uniform, Distribution::Zipf] {
        println!(
            "{}: {} records of {} users, {} surveys, {PARTITIONS} partitions, {rounds} rounds; load {:.1}",
            distribution.name(),
            bench.records,
            bench.users,
            bench.surveys,
            load()
        );
        let costs: Vec<_> = (0..rounds).map(|round| runtime.block_on(bench.round(round, distribution))).collect();
        println!("  CPU-µs and bytes per record, medians; load {:.1}", load());
        report(&costs);
    }
}
