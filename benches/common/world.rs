//! The delivery over a log of its own, and the receiver that it sends to.

use askwhen::delivery::families;
use askwhen::delivery::{self, Delivery, Egress, Fold, Status};
use askwhen_domain::id::partition_of;
use askwhen_domain::json::Json;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{Data, Delivery as Message, Message as Body};
use askwhen_log::{Embedded, GroupFence, Log, NewRecord, TopicPartition};
use askwhen_partition::Replies;
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Rocks, Shared, Store};
use askwhen_wire::definition::{self, Target};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, AttemptRecord, DeliveryRecord, RetryRecord};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTITIONS: u32 = 8;
/// In the environment of the process that receives.
const RECEIVER: &str = "ASKWHEN_BENCH_RECEIVER";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How long this process is to wait before it answers, where it is the receiver.
pub fn receives() -> Option<Duration> {
    std::env::var(RECEIVER).ok().and_then(|ms| ms.parse().ok()).map(Duration::from_millis)
}

/// Answers 200 after `delay`; what is posted to `/hang` is never answered.
pub async fn receive(delay: Duration) {
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
pub struct Receiver(Child, pub String);

impl Receiver {
    pub fn start(delay_ms: u64) -> Receiver {
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
pub struct World {
    log: Log,
    pub clock: Clock,
    status: Arc<Status>,
    endpoints: u64,
    delivery: Delivery,
    _dir: tempfile::TempDir,
}

impl World {
    /// Endpoints, of which the first so many never answer.
    pub fn new(receiver: &str, endpoints: u64, hanging: u64) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = Clock::new();
        let log =
            Log::Embedded(Arc::new(Embedded::open(&dir.path().join("log"), PARTITIONS, clock.clone()).expect("a log")));
        let key = ClusterKey::new([7; 32]);
        for n in 0..endpoints {
            let id = format!("e{n}");
            let path = if n < hanging { "hang" } else { "hook" };
            let body =
                serde_json::json!({"endpoint_id": id, "url": format!("http://{receiver}/{path}"), "concurrency": 10});
            let allowed = ["127.0.0.0/8".parse().expect("a network")];
            let mut read = definition::endpoint(&body, None, Target::Check(&allowed)).expect("an endpoint");
            read.endpoint.secret = Some(key.seal("default", &id, SECRET, [(n % 251) as u8; 24]));
            let body = Json::of(&definition::endpoint_json(&read.endpoint));
            let command =
                DeliveryRecord::Endpoint { project: "default".into(), endpoint_id: id, version: 1, body: Some(body) };
            for partition in 0..PARTITIONS {
                append(&log, partition, &command, "e");
            }
            // The log takes so much at a time.
            if n % 200 == 199 {
                until(|| written(&log) + 800 > n * u64::from(PARTITIONS));
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
            fence: GroupFence::Alone,
            replies: Replies::default(),
            max_in_flight: 500,
            status: status.clone(),
        };
        let runtime = tokio::runtime::Handle::current();
        let delivery = Delivery::start(setup, delivery::Transport::Http { egress, runtime }).expect("it starts");
        World { log, clock, status, endpoints, delivery, _dir: dir }
    }

    pub fn take_up(&self) {
        (0..PARTITIONS).for_each(|partition| self.delivery.take(partition));
    }

    /// Attempts on record.
    pub fn attempts(&self) -> u64 {
        count(&self.log, Topic::Attempts)
    }

    pub fn deliver(&self, n: u64) {
        let delivery = message(n, self.endpoints, self.clock.now());
        let partition = partition_of(&delivery.user_id, PARTITIONS);
        let key = delivery.user_id.clone();
        append(&self.log, partition, &DeliveryRecord::Deliver(Box::new(delivery)), &key);
    }

    /// Messages on record.
    pub fn written(&self) -> u64 {
        written(&self.log).saturating_sub(self.endpoints * u64::from(PARTITIONS))
    }

    /// Messages on record, as many as that, before anybody takes them up.
    pub fn fill(&self, count: u64) {
        for n in 0..count {
            self.deliver(n);
            // The log takes so much at a time.
            if n % 1_000 == 999 {
                until(|| self.written() + 500 > n);
            }
        }
        until(|| self.written() >= count);
    }

    /// A message whose next attempt is due at a time.
    pub fn wait_until(&self, n: u64, due_at: Millis) {
        let delivery = message(n, self.endpoints, self.clock.now());
        let partition = partition_of(&delivery.user_id, PARTITIONS);
        let key = Some(Bytes::from(delivery.user_id.clone()));
        let first_started_at = delivery.created_at;
        let retry = RetryRecord {
            delivery: Box::new(delivery),
            attempt: 1,
            due_at,
            first_started_at,
            source: String::new(),
            uncounted: 0,
        };
        let new = NewRecord { key, headers: Vec::new(), value: Some(topics::encode(&retry).into()) };
        self.log.append_unacknowledged(TopicPartition { topic: Topic::Retry1h, partition }, new);
    }

    /// Messages that wait on record.
    pub fn waiting(&self) -> u64 {
        count(&self.log, Topic::Retry1h)
    }

    pub fn until_running(&self) {
        until(|| self.status.partitions.iter().all(|p| p.phase() == askwhen_partition::Phase::Running));
    }

    /// Of each attempt on record: its message, when it began, when it was written.
    pub fn attempts_made(&self) -> Vec<(u64, Millis, Millis)> {
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

    pub async fn until_sent(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while self.attempts() < count && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(self.attempts() >= count, "{} of {count} in time", self.attempts());
    }
}

/// Records of a topic, over all partitions.
fn count(log: &Log, topic: Topic) -> u64 {
    let all: Vec<TopicPartition> = (0..PARTITIONS).map(|partition| TopicPartition { topic, partition }).collect();
    log.all_bounds(&all).expect("bounds").iter().map(|bounds| bounds.end).sum()
}

/// Endpoints and messages on record.
fn written(log: &Log) -> u64 {
    count(log, Topic::Deliveries)
}

fn until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !done() {
        assert!(Instant::now() < deadline, "it takes too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn append(log: &Log, partition: u32, record: &DeliveryRecord, key: &str) {
    let new =
        NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(topics::encode(record).into()) };
    log.append_unacknowledged(TopicPartition { topic: Topic::Deliveries, partition }, new);
}

/// A response of about 1 KiB.
pub fn message(n: u64, endpoints: u64, now: Millis) -> Message {
    let user_id = format!("user_{}", n.wrapping_mul(0x9e37_79b9) % 100_000);
    let sample = Data::sample("default", now);
    let data = Data { user_id: user_id.clone(), survey_name: "x".repeat(400), ..sample };
    Message {
        delivery_id: format!("dlv_{n:032x}"),
        message_id: format!("msg_{n:032x}"),
        endpoint_id: format!("e{}", n % endpoints),
        project: "default".into(),
        user_id,
        survey_id: Some("s".into()),
        created_at: now,
        message: Body { kind: EventType::Completed, at: now, data: Some(data) },
        test_for: None,
        not_before: None,
    }
}
