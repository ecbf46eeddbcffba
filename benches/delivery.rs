//! The delivery alone, on a log that holds what is to be sent: messages per
//! CPU-second beside a bare client that posts the same bytes to the same
//! receiver in the same run; and how long the others wait when one endpoint in a
//! hundred hangs. The receiver is a process of its own.
//! `ASKWHEN_BENCH_SECONDS` sets how long each takes (3).

use askwhen::delivery::families;
use askwhen::delivery::{self, Delivery, Egress, Fold, Status};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id::partition_of;
use askwhen_domain::json::Json;
use askwhen_domain::message::{Data, Delivery as Message, Message as Body};
use askwhen_domain::time::Millis;
use askwhen_log::{Embedded, GroupFence, Log, NewRecord, TopicPartition};
use askwhen_partition::Replies;
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Rocks, Shared, Store};
use askwhen_wire::definition::{self, Target};
use askwhen_wire::profile;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, AttemptRecord, DeliveryRecord, RetryRecord};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 8;
const ENDPOINTS: u64 = 100;
const RECEIVER: &str = "ASKWHEN_BENCH_RECEIVER";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn seconds() -> f64 {
    std::env::var("ASKWHEN_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3.0)
}

/// CPU time of this process, in microseconds.
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10_000.0
}

/// Answers 200 after `delay`; what is posted to `/hang` is never answered.
async fn receive(delay: Duration) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("an option");
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| async move {
                let hangs = request.uri().path() == "/hang";
                drop(request.into_body().collect().await);
                if hangs {
                    std::future::pending::<()>().await;
                }
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"ok"))))
            });
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// The receiver in a process of its own; dropping it ends it.
struct Receiver(Child, String);

impl Receiver {
    fn start(delay_ms: u64) -> Receiver {
        let own = std::env::current_exe().expect("this program");
        let mut child =
            Command::new(own).env(RECEIVER, delay_ms.to_string()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Receiver(child, line.trim().to_owned())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().expect("it ends");
        self.0.wait().expect("it is gone");
    }
}

/// A log with endpoints, and the delivery over it.
struct World {
    log: Log,
    clock: Clock,
    status: Arc<Status>,
    _delivery: Delivery,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(receiver: &str, hanging: u64) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::new();
        let log =
            Log::Embedded(Arc::new(Embedded::open(&dir.path().join("log"), PARTITIONS, clock.clone()).expect("a log")));
        let key = ClusterKey::new([7; 32]);
        for n in 0..ENDPOINTS {
            let id = format!("e{n}");
            let path = if n < hanging { "hang" } else { "hook" };
            let body =
                serde_json::json!({"endpoint_id": id, "url": format!("http://{receiver}/{path}"), "concurrency": 10});
            let allowed = ["127.0.0.0/8".parse().expect("a network")];
            let mut read = definition::endpoint(&body, None, Target::Check(&allowed)).expect("an endpoint");
            read.endpoint.secret = Some(key.seal("default", &id, SECRET, [n as u8; 24]));
            let body = Json::of(&definition::endpoint_json(&read.endpoint));
            let command =
                DeliveryRecord::Endpoint { project: "default".into(), endpoint_id: id, version: 1, body: Some(body) };
            for partition in 0..PARTITIONS {
                append(&log, partition, &command, "e");
            }
        }
        let (folder, opened, shared) = (dir.path().to_owned(), log.clone(), Shared::new(128 << 20));
        let open: delivery::OpenFold =
            Arc::new(move |partition: u32, notify: Arc<Notify>, _: Arc<askwhen_partition::Status>| {
                let path = folder.join(format!("state/{partition}"));
                std::fs::create_dir_all(&path).expect("a folder");
                let store = Rocks::open(&path, families::ALL, &shared).expect("a store");
                let mut fold = Fold::open(partition, &opened, Arc::new(Store::Rocks(store)), notify)?;
                fold.catch_up(&opened, |_| Ok(()))?;
                Ok(fold)
            });
        let status = Arc::new(Status::new(PARTITIONS, false));
        let egress = Egress { allow_targets: vec!["127.0.0.0/8".parse().expect("a network")], ..Egress::default() };
        let setup = delivery::Setup {
            log: log.clone(),
            clock: clock.clone(),
            key,
            open,
            standing: GroupFence::Alone,
            replies: Replies::default(),
            max_in_flight: 500,
            status: status.clone(),
        };
        let runtime = tokio::runtime::Handle::current();
        let delivery = Delivery::start(setup, delivery::Transport::Http { egress, runtime }).expect("it starts");
        World { log, clock, status, _delivery: delivery, _dir: dir }
    }

    fn take_up(&self) {
        (0..PARTITIONS).for_each(|partition| self._delivery.take(partition));
    }

    /// Attempts on record.
    fn attempts(&self) -> u64 {
        let all: Vec<TopicPartition> =
            (0..PARTITIONS).map(|partition| TopicPartition { topic: Topic::Attempts, partition }).collect();
        self.log.all_bounds(&all).expect("bounds").iter().map(|bounds| bounds.end).sum()
    }

    fn deliver(&self, n: u64) {
        let delivery = message(n, self.clock.now());
        let partition = partition_of(&delivery.user_id, PARTITIONS);
        let key = delivery.user_id.clone();
        append(&self.log, partition, &DeliveryRecord::Deliver(Box::new(delivery)), &key);
    }

    /// Messages on record.
    fn written(&self) -> u64 {
        let all: Vec<TopicPartition> =
            (0..PARTITIONS).map(|partition| TopicPartition { topic: Topic::Deliveries, partition }).collect();
        let ends: u64 = self.log.all_bounds(&all).expect("bounds").iter().map(|bounds| bounds.end).sum();
        ends.saturating_sub(ENDPOINTS * u64::from(PARTITIONS))
    }

    /// Of each attempt on record: its message, when it began, when it was written.
    fn attempts_made(&self) -> Vec<(u64, Millis, Millis)> {
        let mut made = Vec::new();
        for partition in 0..PARTITIONS {
            let at = TopicPartition { topic: Topic::Attempts, partition };
            let end = self.log.bounds(at).expect("bounds").end;
            let scanned = self.log.scan::<askwhen_log::Error>(at, 0, end, |record| {
                let value = record.value.as_deref().unwrap_or_default();
                let attempt: AttemptRecord = serde_json::from_slice(value).expect("an attempt");
                let n = u64::from_str_radix(&attempt.delivery_id[4..], 16).expect("a number");
                made.push((n, attempt.started_at, record.appended_at));
                Ok(())
            });
            scanned.expect("readable");
        }
        made
    }

    async fn until_sent(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.attempts() < count && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(self.attempts() >= count, "{} of {count} in time", self.attempts());
    }
}

fn append(log: &Log, partition: u32, record: &DeliveryRecord, key: &str) {
    let new =
        NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(topics::encode(record).into()) };
    log.tell(TopicPartition { topic: Topic::Deliveries, partition }, new);
}

/// A response of about 1 KiB.
fn message(n: u64, now: Millis) -> Message {
    let user_id = format!("user_{}", n.wrapping_mul(0x9e37_79b9) % 100_000);
    let sample = Data::sample("default", now);
    let data = Data { user_id: user_id.clone(), survey_name: "x".repeat(400), ..sample };
    Message {
        delivery_id: format!("dlv_{n:032x}"),
        message_id: format!("msg_{n:032x}"),
        endpoint_id: format!("e{}", n % ENDPOINTS),
        project: "default".into(),
        user_id,
        survey_id: Some("s".into()),
        created_at: now,
        message: Body { kind: EventType::Completed, at: now, data: Some(data) },
        test_for: None,
        not_before: None,
    }
}

fn report(name: &str, count: u64, took: Duration, cpu_us: f64) -> f64 {
    let each = cpu_us / count.max(1) as f64;
    println!("{name:<58} {:>8.0} /s {each:>8.2} CPU-µs each", count as f64 / took.as_secs_f64());
    each
}

async fn bare(receiver: &str, count: u64) -> f64 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let delivery = message(1, 0);
    let data = delivery.message.data.as_ref().expect("a sample");
    let body = Bytes::from(profile::standard::body(EventType::Completed, 0, data));
    let (started, before) = (Instant::now(), cpu_us());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, body, url) = (client.clone(), body.clone(), format!("http://{receiver}/hook"));
        workers.spawn(async move {
            for _ in 0..count / 64 {
                let request = hyper::Request::post(&url).header("content-type", "application/json");
                let request = request.body(Full::new(body.clone())).expect("a request");
                let answer = client.request(request).await.expect("an answer");
                drop(answer.into_body().collect().await);
            }
        });
    }
    while workers.join_next().await.is_some() {}
    report("a bare client, 64 at a time, unsigned", count / 64 * 64, started.elapsed(), cpu_us() - before)
}

async fn backlog(receiver: &str, name: &str, count: u64) -> f64 {
    let world = World::new(receiver, 0);
    for n in 0..count {
        world.deliver(n);
        // The log takes so much at a time.
        while n % 1_000 == 999 && world.written() + 500 < n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while world.written() < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (started, before) = (Instant::now(), cpu_us());
    world.take_up();
    world.until_sent(count).await;
    report(name, count, started.elapsed(), cpu_us() - before)
}

/// Messages at an even rate; how long those of endpoints that answer take from
/// their creation to their answer, in milliseconds, at p50 and p99.
async fn latencies(receiver: &str, hanging: u64, rate: u64) -> (f64, f64) {
    let world = World::new(receiver, hanging);
    world.take_up();
    while !world.status.partitions.iter().all(|p| p.phase() == askwhen_partition::Phase::Running) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (started, count) = (Instant::now(), (seconds() * rate as f64) as u64);
    let mut created = Vec::new();
    for n in 0..count {
        let due = Duration::from_secs_f64(n as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        created.push(world.clock.now());
        world.deliver(n);
    }
    world.until_sent(count - count * hanging / ENDPOINTS).await;
    let made = world.attempts_made();
    let others = made.into_iter().filter(|(n, ..)| n % ENDPOINTS >= hanging);
    let mut waited: Vec<Millis> = others.map(|(n, _, written_at)| written_at - created[n as usize]).collect();
    waited.sort_unstable();
    let at = |share: f64| waited[((waited.len() - 1) as f64 * share) as usize] as f64;
    (at(0.5), at(0.99))
}

/// Deliveries that wait for their retries, due one after the other from a moment
/// on; how late their attempts begin, in milliseconds: the least, p50, p99, the most.
async fn waiting(receiver: &str, count: u64, rate: u64) -> [Millis; 4] {
    let world = World::new(receiver, 0);
    // Time enough to write them and to take them up.
    let from = world.clock.now() + 1_000 + count as Millis / 8;
    let due = |n: u64| from + (n * 1_000 / rate) as Millis;
    for n in 0..count {
        let delivery = message(n, world.clock.now());
        let partition = partition_of(&delivery.user_id, PARTITIONS);
        let key = Some(Bytes::from(delivery.user_id.clone()));
        let first_started_at = delivery.created_at;
        let retry = RetryRecord {
            delivery: Box::new(delivery),
            attempt: 1,
            due_at: due(n),
            first_started_at,
            source: String::new(),
            uncounted: 0,
        };
        let new = NewRecord { key, headers: Vec::new(), value: Some(topics::encode(&retry).into()) };
        world.log.tell(TopicPartition { topic: Topic::Retry1h, partition }, new);
        if n % 1_000 == 999 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.take_up();
    while !world.status.partitions.iter().all(|p| p.phase() == askwhen_partition::Phase::Running) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(world.clock.now() < from, "taken up before the first is due");
    tokio::time::sleep(Duration::from_millis((due(count) - world.clock.now()).unsigned_abs())).await;
    world.until_sent(count).await;
    let mut late: Vec<Millis> =
        world.attempts_made().into_iter().map(|(n, started_at, _)| started_at - due(n)).collect();
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    [late[0], at(0.5), at(0.99), late[late.len() - 1]]
}

fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Some(delay) = std::env::var(RECEIVER).ok().and_then(|ms| ms.parse().ok()) {
        return runtime.block_on(receive(Duration::from_millis(delay)));
    }
    runtime.block_on(async {
        let count = (seconds() * 4_000.0) as u64;
        let receiver = Receiver::start(0);
        let each = bare(&receiver.1, count).await;
        let own = backlog(&receiver.1, "the delivery, a backlog, 100 endpoints at 0 ms", count).await;
        println!("{:<58} {:>8.2}", "messages per CPU-second, of the bare client's", each / own);
        let slow = Receiver::start(50);
        backlog(&slow.1, "the delivery, a backlog, 100 endpoints at 50 ms", count).await;
        for hanging in [0, 1] {
            let (half, most) = latencies(&receiver.1, hanging, 1_000).await;
            println!("1000 /s, {hanging} of 100 endpoints hang: the others' p50 {half} ms, p99 {most} ms");
        }
        let waits = (seconds() * 10_000.0) as u64;
        let [least, half, most, last] = waiting(&receiver.1, waits, 2_000).await;
        println!("{waits} that wait, due at 2000 /s: late by {least} to {last} ms, p50 {half}, p99 {most}");
    });
}
