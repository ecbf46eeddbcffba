//! Events, decisions and deliveries per second and per CPU-second of the whole
//! program on the embedded log, beside what its parts reach alone in the same
//! run: the log, the record parser, RocksDB, the rules beside 1, 20 and 500 surveys, a bare axum server, a bare HTTP
//! client. With `ASKWHEN_BENCH_BROKERS` on Kafka, a process for each role, beside
//! a bare producer and consumer. `ASKWHEN_BENCH_SECONDS` sets how long each
//! takes (3).

use askwhen::engine::families;
use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::{self, ApplyContext};
use askwhen_domain::id::Origin;
use askwhen_domain::record::Record;
use askwhen_domain::user::User;
use askwhen_log::{Embedded, Log, NewRecord, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_store::{Batch, Rocks, Shared, Store};
use askwhen_wire::definition;
use askwhen_wire::record::{self, Decoded};
use askwhen_wire::topic::Topic;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 64;
const USERS: u64 = 100_000;
/// Between two requests of an open loop.
const PACE: Duration = Duration::from_millis(5);

fn seconds() -> f64 {
    std::env::var("ASKWHEN_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3.0)
}

/// CPU time that a process has used, in microseconds (clock ticks are 10 ms).
fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10_000.0
}

fn report(name: &str, count: u64, took: Duration, cpu_us: f64) {
    let rate = count as f64 / took.as_secs_f64();
    println!("{name:<52} {rate:>10.0} /s {:>8.2} CPU-µs each", cpu_us / count.max(1) as f64);
}

/// Sends prepared requests on many connections for a while; counts answers.
async fn load(address: &str, request: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static) -> (u64, Duration) {
    let request = Arc::new(request);
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(seconds());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (address, request, next) = (address.to_owned(), request.clone(), next.clone());
        workers.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let mut buffer = vec![0; 64 << 10];
            let mut done = 0u64;
            while Instant::now() < until {
                let bytes = request(next.fetch_add(1, Ordering::Relaxed));
                stream.write_all(&bytes).await.expect("written");
                let status = read_answer(&mut stream, &mut buffer).await;
                assert!((200..300).contains(&status), "status {status}");
                done += 1;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = workers.join_next().await {
        total += done.expect("no panic");
    }
    (total, started.elapsed())
}

/// Reads one whole answer; gives its status.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> u16 {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("read");
        assert!(read > 0, "the server closed");
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).expect("a head is ASCII");
        let length = text.lines().find_map(|l| {
            l.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|v| v.parse::<usize>().ok())
        });
        if filled >= head + 4 + length.unwrap_or(0) {
            return text[9..12].parse().expect("a status");
        }
    }
}

fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A seed-like event of about 300 bytes.
fn event(n: u64, name: &str) -> String {
    let user = n.wrapping_mul(0x9e37_79b9) % USERS;
    format!(
        "{{\"user_id\":\"user_{user}\",\"event_name\":\"{name}\",\"event_id\":\"event-{n}\",\"properties\":{{\"id\":{n},\"name\":\"War and Peace\",\"author\":\"Leo Tolstoy\",\"type\":\"hardcover\",\"category\":\"novel\",\"note\":\"{}\"}}}}",
        "x".repeat(100)
    )
}

/// The whole program: one process on the embedded log, one for each role on
/// Kafka, so that each role's cost is seen.
struct Program {
    processes: Vec<Process>,
    address: String,
    admin: String,
    dir: tempfile::TempDir,
}

struct Process {
    roles: &'static str,
    child: Child,
    address: String,
}

impl Process {
    fn start(dir: &Path, roles: &'static str) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_askwhen"))
            .args(["--data-dir", roles, "serve", "--dev", "--listen", "127.0.0.1:0", "--roles", roles])
            .current_dir(dir)
            .envs([("ASKWHEN__LIMITS__PER_KEY", "10000000/s"), ("ASKWHEN_LOG", "error")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit("http://").next().expect("an address").to_owned();
        let process = Process { roles, child, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !process.get("/readyz").starts_with("HTTP/1.1 200") {
            assert!(Instant::now() < deadline, "{roles} is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        process
    }

    fn get(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    }
}

impl Program {
    fn start(brokers: Option<&str>) -> Program {
        let dir = tempfile::tempdir().expect("a folder");
        let admin = "ak_admin_of_the_bench".to_owned();
        let keys = format!("[[keys]]\nkind = \"admin\"\nkey = \"{admin}\"\n");
        let config = brokers.map_or(keys.clone(), |brokers| {
            std::fs::write(dir.path().join("cluster.key"), "5a".repeat(32)).expect("written");
            format!(
                "[log]\nkind = \"kafka\"\npartitions = 8\nprefix = \"bench-{}.\"\n[kafka]\nbrokers = \"{brokers}\"\n\
                 replication = 1\n[snapshots]\nurl = \"file://{}\"\n[secrets]\nkey_file = \"cluster.key\"\n{keys}",
                std::process::id(),
                dir.path().join("snapshots").display(),
            )
        });
        std::fs::write(dir.path().join("askwhen.toml"), config).expect("written");
        let roles: &[&'static str] = match brokers {
            None => &["bridge,engine,delivery,console"],
            Some(_) => &["bridge", "engine", "delivery"],
        };
        let processes: Vec<Process> = roles.iter().map(|roles| Process::start(dir.path(), roles)).collect();
        Program { address: processes[0].address.clone(), processes, admin, dir }
    }

    /// CPU time of each process, in microseconds.
    fn cpu(&self) -> Vec<f64> {
        self.processes.iter().map(|process| cpu_us(process.child.id())).collect()
    }

    fn report(&self, name: &str, count: u64, took: Duration, before: &[f64]) {
        let used: Vec<f64> = self.cpu().iter().zip(before).map(|(now, before)| now - before).collect();
        report(name, count, took, used.iter().sum());
        if self.processes.len() > 1 {
            let each =
                |(process, used): (&Process, &f64)| format!("{} {:.1}", process.roles, used / count.max(1) as f64);
            let roles: Vec<String> = self.processes.iter().zip(&used).map(each).collect();
            println!("{:>52} {}", "of it", roles.join(", "));
        }
    }

    async fn put(&self, path: &str, body: &str) {
        let request = post(path, &self.admin, body).into_iter().collect::<Vec<u8>>();
        let request = [b"PUT", &request[4..]].concat();
        let mut stream = TcpStream::connect(&self.address).await.expect("a connection");
        stream.write_all(&request).await.expect("written");
        let status = read_answer(&mut stream, &mut vec![0; 64 << 10]).await;
        assert!((200..300).contains(&status), "PUT {path}: {status}");
    }

    fn metric(&self, name: &str) -> f64 {
        let texts: Vec<String> = self.processes.iter().map(|process| process.get("/metrics")).collect();
        let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.child.kill().ok();
            process.child.wait().ok();
        }
    }
}

async fn whole_program(brokers: Option<&str>) {
    let program = Program::start(brokers);
    let key = program.admin.clone();
    let survey = r#"{"name":"S","status":"active","activate":{"event":"mentioned"},"expires_after":"2h","show_on":[{"trigger":"Main"}],"frequency":{"repeat":"every_activation","global_cooldown":"ignore"},"questions":[{"question_id":"q1","type":"rating_star","text":"?"}]}"#;
    program.put("/v1/surveys/s", survey).await;
    for (name, label) in [
        ("unmentioned", "events, one by one, no survey listens"),
        ("mentioned", "events, one by one, a survey listens"),
    ] {
        let (before, key) = (program.cpu(), key.clone());
        let (count, took) = load(&program.address, move |n| post("/v1/events", &key, &event(n, name))).await;
        settle(&program).await;
        program.report(label, count, took, &before);
    }
    let (before, batch_key) = (program.cpu(), key.clone());
    let (count, took) = load(&program.address, move |n| {
        let events: Vec<String> = (0..100).map(|m| event(n * 100 + m + (1 << 40), "mentioned")).collect();
        post("/v1/events", &batch_key, &format!("{{\"events\":[{}]}}", events.join(",")))
    })
    .await;
    settle(&program).await;
    program.report("events, in batches of 100, a survey listens", count * 100, took, &before);
    let (before, ask_key) = (program.cpu(), key.clone());
    let (count, took) = load(&program.address, move |n| {
        post(&format!("/v1/users/user_{}/triggers/Main", n % USERS), &ask_key, "{\"context\":{\"platform\":\"ios\"}}")
    })
    .await;
    program.report("decisions, durable trigger to answer", count, took, &before);
    deliveries(&program).await;
    println!("{:<52} {:>10.1} MiB", "data written", directory_bytes(program.dir.path()) as f64 / f64::from(1 << 20));
}

/// Waits until the engine has applied what was acknowledged.
async fn settle(program: &Program) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while program.metric("askwhen_engine_lag_records") > 0.0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn deliveries(program: &Program) {
    let receiver = sink().await;
    let link = r#"{"name":"L","status":"active","link":true,"frequency":{"repeat":"every_activation"},"questions":[{"question_id":"q1","type":"text","text":"?"}]}"#;
    program.put("/v1/surveys/link", link).await;
    let endpoint =
        format!("{{\"url\":\"http://{receiver}/hook\",\"concurrency\":64,\"events\":[\"response.completed\"]}}");
    program.put("/v1/endpoints/sink", &endpoint).await;
    let delivered = || program.metric("askwhen_delivery_attempts_total{outcome=\"delivered\"}") as u64;
    let (before, key, started) = (program.cpu(), program.admin.clone(), Instant::now());
    let body =
        format!("{{\"answers\":[{{\"question_id\":\"q1\",\"value\":\"{}\"}}],\"completed\":true}}", "x".repeat(300));
    let answer = move |n: u64| post(&format!("/v1/users/d{n}/surveys/link/responses"), &key, &body);
    let (count, _) = load(&program.address, answer.clone()).await;
    let until_delivered = async |count: u64| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while delivered() < count && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until_delivered(count).await;
    let loaded = delivered();
    program.report("answers taken and delivered, signed, to loopback", loaded, started.elapsed(), &before);
    let (before, started) = (program.cpu(), Instant::now());
    let paced = paced(&program.address, |n| answer(n | 1 << 40)).await;
    until_delivered(loaded + paced).await;
    program.report("the same at 200/s, whatever their answers take", delivered() - loaded, started.elapsed(), &before);
}

/// Sends requests at [`PACE`] for a while, one after the other on each of some
/// connections; gives how many.
async fn paced(address: &str, request: impl Fn(u64) -> Vec<u8>) -> u64 {
    let mut connections = Vec::new();
    for _ in 0..16 {
        let (requests, mut taken) = tokio::sync::mpsc::channel::<Vec<u8>>(1_024);
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let answered = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            while let Some(bytes) = taken.recv().await {
                stream.write_all(&bytes).await.expect("written");
                let status = read_answer(&mut stream, &mut buffer).await;
                assert!((200..300).contains(&status), "status {status}");
            }
        });
        connections.push((requests, answered));
    }
    let mut turns = tokio::time::interval(PACE);
    let until = Instant::now() + Duration::from_secs_f64(seconds());
    let mut sent = 0;
    while Instant::now() < until {
        turns.tick().await;
        connections[sent as usize % connections.len()].0.send(request(sent)).await.expect("it is taken");
        sent += 1;
    }
    for (requests, answered) in connections {
        drop(requests);
        answered.await.expect("no panic");
    }
    sent
}

fn directory_bytes(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir).into_iter().flatten().flatten().fold(0, |sum, entry| {
        let path = entry.path();
        sum + if path.is_dir() { directory_bytes(&path) } else { entry.metadata().map_or(0, |m| m.len()) }
    })
}

/// A bare axum server that answers 200 to everything, in this process.
async fn sink() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let app = axum::Router::new().fallback(|_body: axum::body::Bytes| async { "ok" });
    tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
    address
}

async fn log_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::Embedded(Arc::new(Embedded::open(dir.path(), 8, Clock::new()).expect("it opens")));
    for (batch, label) in [
        (1usize, "the log alone, 64 writers, single records, synced"),
        (100, "the log alone, 64 writers, batches of 100, synced"),
    ] {
        let (before, started) = (cpu_us(std::process::id()), Instant::now());
        let until = started + Duration::from_secs_f64(seconds());
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..CONNECTIONS as u32 {
            let log = log.clone();
            workers.spawn(async move {
                let value = bytes::Bytes::from(event(7, "x"));
                let mut done = 0u64;
                while Instant::now() < until {
                    let records =
                        vec![
                            NewRecord { key: Some("user".into()), headers: Vec::new(), value: Some(value.clone()) };
                            batch
                        ];
                    log.append_durably(TopicPartition { topic: Topic::Events, partition: worker % 8 }, records)
                        .await
                        .expect("taken");
                    done += batch as u64;
                }
                done
            });
        }
        let mut total = 0;
        while let Some(done) = workers.join_next().await {
            total += done.expect("no panic");
        }
        report(label, total, started.elapsed(), cpu_us(std::process::id()) - before);
    }
}

fn repeat(name: &str, mut work: impl FnMut(u64)) {
    let (before, started) = (cpu_us(std::process::id()), Instant::now());
    let mut count = 0;
    while started.elapsed().as_secs_f64() < seconds() {
        for _ in 0..1_000 {
            work(count);
            count += 1;
        }
    }
    report(name, count, started.elapsed(), cpu_us(std::process::id()) - before);
}

fn parts_alone() {
    let bytes = event(7, "x").into_bytes();
    repeat("the record parser alone", |_| {
        std::hint::black_box(record::decode(Some(&bytes), false).expect("a record"));
    });
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::Rocks(Rocks::open(dir.path(), families::ALL, &Shared::new(256 << 20)).expect("it opens"));
    repeat("RocksDB alone, one get and one put of 220 bytes", |n| {
        let key = (n.wrapping_mul(0x9e37_79b9) % USERS).to_be_bytes();
        std::hint::black_box(store.get(families::USERS, &key).expect("readable"));
        let mut batch = Batch::default();
        batch.put(families::USERS, key, vec![7; 220]);
        store.write(batch).expect("written");
    });
}

/// What a record costs that no survey is about, and one that one survey is
/// about, beside ever more surveys.
fn surveys_alone() {
    let event_of = |name: &str| event(7, name).into_bytes();
    let trigger_of = |name: &str| {
        format!("{{\"type\":\"trigger\",\"user_id\":\"user_7\",\"trigger\":\"{name}\",\"context\":{{}}}}").into_bytes()
    };
    for count in [1, 20, 500] {
        let mut project = Project::default();
        for n in 0..count {
            let body = serde_json::json!({
                "survey_id": format!("s{n}"), "name": "S", "status": "active", "activate": {"event": format!("e{n}")},
                "expires_after": "2h", "show_on": [{"trigger": format!("T{n}")}],
                "questions": [{"question_id": "q1", "type": "text", "text": "?"}],
            });
            project.put_survey(n + 1, definition::survey(&body, None).expect("a survey"), 0, 0);
        }
        for (what, bytes) in [
            ("an event that none mentions", event_of("other")),
            ("a trigger that none shows on", trigger_of("Other")),
            ("an event that one mentions", event_of("e0")),
            ("a trigger that one shows on", trigger_of("T0")),
        ] {
            let mut user = User::default();
            repeat(&format!("{what}, of {count} surveys"), |n| {
                let Ok(Decoded::User(record)) = record::decode(Some(&bytes), false) else { panic!("a user's record") };
                let record = Record { event_id: None, ..*record };
                let origin = Origin { incarnation: 1, partition: 0, offset: n };
                let (project_id, user_id) = ("default", "user_7");
                let (now, project, quota_statuses) = (n as i64, &project, &apply::NO_QUOTAS);
                let (caps, may_wait) = (&apply::NO_CAPS, false);
                let ctx = ApplyContext { origin, now, project_id, user_id, project, quota_statuses, caps, may_wait };
                user = std::hint::black_box(apply::apply(ctx, &user, &record, false)).user;
            });
        }
    }
}

/// Server and client of these two share this process: CPU is of both ends.
async fn http_alone() {
    let address = sink().await;
    let before = cpu_us(std::process::id());
    let (count, took) = load(&address, |n| post("/v1/events", "key", &event(n, "x"))).await;
    report("a bare axum server and the load itself", count, took, cpu_us(std::process::id()) - before);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{address}/hook");
    let (before, started) = (cpu_us(std::process::id()), Instant::now());
    let until = started + Duration::from_secs_f64(seconds());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, url) = (client.clone(), url.clone());
        workers.spawn(async move {
            let mut done = 0u64;
            while Instant::now() < until {
                let answer = client.post(&url).body("x".repeat(1_024)).send().await.expect("an answer");
                answer.bytes().await.expect("a body");
                done += 1;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = workers.join_next().await {
        total += done.expect("no panic");
    }
    report(
        "a bare reqwest client and a bare axum server",
        total,
        started.elapsed(),
        cpu_us(std::process::id()) - before,
    );
}

/// Counts what the brokers have acknowledged.
struct Acknowledged(Arc<AtomicU64>);

impl rdkafka::ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "a record was not taken");
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A bare producer and a bare consumer, set as askwhen's are.
fn kafka_alone(runtime: &tokio::runtime::Runtime, brokers: &str) {
    let topic = format!("bench-{}", std::process::id());
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("a client");
    let new = [NewTopic::new(&topic, 8, TopicReplication::Fixed(1))];
    runtime.block_on(admin.create_topics(&new, &AdminOptions::new())).expect("a topic");
    let mut own = config.clone();
    own.set("enable.idempotence", "true").set("compression.type", "lz4").set("linger.ms", "0.5");
    let value = event(7, "x");
    let mut written = 0;
    for (in_flight, name) in [
        (64, "a bare producer, 64 records in flight, acks=all"),
        (10_000, "a bare producer, 10000 records in flight, acks=all"),
    ] {
        let done = Arc::new(AtomicU64::new(0));
        let producer: ThreadedProducer<Acknowledged> =
            own.create_with_context(Acknowledged(done.clone())).expect("a producer");
        let (before, started) = (cpu_us(std::process::id()), Instant::now());
        let mut sent = 0;
        while started.elapsed().as_secs_f64() < seconds() {
            if sent - done.load(Ordering::Acquire) >= in_flight {
                std::thread::sleep(Duration::from_micros(50));
                continue;
            }
            let record = BaseRecord::to(&topic).partition((sent % 8) as i32).key("user").payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("queued");
            sent += 1;
        }
        producer.flush(Duration::from_secs(30)).expect("taken");
        written += sent;
        report(name, sent, started.elapsed(), cpu_us(std::process::id()) - before);
    }
    config.set("group.id", "bench").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..8 {
        list.add_partition_offset(&topic, partition, Offset::Beginning).expect("a place");
    }
    consumer.assign(&list).expect("assigned");
    let (before, started) = (cpu_us(std::process::id()), Instant::now());
    let mut read = 0;
    while read < written {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            message.expect("a record");
            read += 1;
        }
    }
    report("a bare consumer of what they wrote", read, started.elapsed(), cpu_us(std::process::id()) - before);
}

fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{:<52} {:>13} {:>17}", "", "rate", "cost");
    if let Ok(brokers) = std::env::var("ASKWHEN_BENCH_BROKERS") {
        runtime.block_on(whole_program(Some(&brokers)));
        return kafka_alone(&runtime, &brokers);
    }
    runtime.block_on(whole_program(None));
    runtime.block_on(log_alone());
    parts_alone();
    surveys_alone();
    runtime.block_on(http_alone());
}
