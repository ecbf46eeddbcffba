//! The whole loop over a log and a store in memory, with a receiver on the
//! loopback: what holds an endpoint, what the clock does, what erasure leaves.

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use super::super::{Egress, HoldReason};
use super::*;
use askwhen_domain::json::Json;
use askwhen_domain::time::{HOUR, MINUTE, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{Data, Delivery as Waiting, Message};
use askwhen_log::{Ack, NewRecord, Simulated};
use askwhen_store::{Memory, Store};
use askwhen_wire::profile;
use askwhen_wire::topics::{self, DeliveryRecord};

const NOW: Millis = 1_800_000_000_000;

/// What outlives a restart.
struct World {
    log: Arc<Simulated>,
    store: Arc<Store>,
    clock: Clock,
    runtime: tokio::runtime::Runtime,
}

/// A running delivery, and what others see of it.
struct Serving {
    status: Arc<Status>,
    _delivery: Delivery,
}

impl World {
    fn new() -> World {
        drop(rustls::crypto::ring::default_provider().install_default());
        World {
            log: Arc::new(Simulated::new(1, 1)),
            store: Arc::new(Store::Memory(Memory::default())),
            clock: Clock::simulated(NOW),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    fn serve(&self, key: u8, more: impl FnOnce(&mut Egress)) -> Serving {
        let log = Log::Simulated(self.log.clone());
        let (own, store) = (log.clone(), self.store.clone());
        let open: OpenFold = Arc::new(move |partition, notify, _| {
            let mut fold = Fold::open(partition, &own, store.clone(), notify)?;
            fold.catch_up(&own, |_| Ok(()))?;
            Ok(fold)
        });
        let status = Arc::new(Status::new(1, false));
        let setup = Setup {
            log,
            clock: self.clock.clone(),
            key: ClusterKey::new([key; 32]),
            open,
            fence: GroupFence::Alone,
            max_in_flight: 500,
            replies: Replies::default(),
            status: status.clone(),
        };
        let mut egress = Egress { allow_targets: vec!["127.0.0.0/8".parse().expect("a network")], ..Egress::default() };
        more(&mut egress);
        let transport = Transport::Http { egress, runtime: self.runtime.handle().clone() };
        let delivery = Delivery::start(setup, transport).expect("it starts");
        delivery.take(0);
        Serving { status, _delivery: delivery }
    }

    fn write(&self, record: &DeliveryRecord) {
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: None, headers: Vec::new(), value: Some(topics::encode(record).into()) };
        self.log.append(TopicPartition { topic: Topic::Deliveries, partition: 0 }, vec![new], Ack::Once(sender));
    }

    /// An endpoint whose secret is sealed with this key.
    fn endpoint(&self, version: u64, key: u8, at: SocketAddr, more: Value) {
        let secret = profile::new_secret(askwhen_domain::webhook::endpoint::Profile::Standard, &[9; 32]);
        let sealed = ClusterKey::new([key; 32]).seal("default", "crm", &secret, [1; 24]);
        let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 2, "timeout": "10s"});
        let mut body =
            json!({"kind": "endpoint", "endpoint_id": "crm", "url": format!("http://{at}/"), "retry": retry});
        body["secret"] = serde_json::to_value(sealed).expect("it serialises");
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let (project, endpoint_id) = ("default".into(), "crm".into());
        self.write(&DeliveryRecord::Endpoint { project, endpoint_id, version, body: Some(Json::of(&body)) });
    }

    fn deliver(&self, id: &str, text_bytes: usize) {
        let mut data = Data::sample("default", self.clock.now());
        data.user_id = "ann".into();
        data.answers[0].text = "x".repeat(text_bytes);
        self.write(&DeliveryRecord::Deliver(Box::new(Waiting {
            delivery_id: id.into(),
            message_id: format!("m-{id}"),
            endpoint_id: "crm".into(),
            project: "default".into(),
            user_id: "ann".into(),
            survey_id: None,
            created_at: self.clock.now(),
            message: Message { kind: EventType::Completed, at: self.clock.now(), data: Some(data) },
            test_for: None,
            not_before: None,
        })));
    }

    fn records(&self, topic: Topic) -> Vec<Value> {
        let at = TopicPartition { topic, partition: 0 };
        let records = self.log.read(at, 0, usize::MAX).expect("readable");
        records.iter().map(|r| serde_json::from_slice(r.value.as_deref().unwrap_or_default()).expect("JSON")).collect()
    }

    /// The ends on record, by the delivery.
    fn ends(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let end = |record: &Value| Some((text(&record["delivery_id"])?, text(&record["ended"])?));
        self.records(Topic::Attempts).iter().filter_map(end).collect()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// That nothing happens can only be seen by waiting for a while.
fn for_a_while(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_millis(400);
    while Instant::now() < deadline {
        assert!(holds(), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Answers every request with a status, when it is let.
#[derive(Clone)]
struct Receiver {
    at: SocketAddr,
    shared: Arc<(Mutex<Script>, std::sync::Condvar)>,
}

#[derive(Default)]
struct Script {
    status: u16,
    /// Requests are read, and answered only when this is off.
    holds: bool,
    /// Requests that have come.
    came: usize,
    /// Requests under way, and the most that there were.
    open: usize,
    most: usize,
}

impl Receiver {
    fn start(status: u16) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let shared: Arc<(Mutex<Script>, std::sync::Condvar)> = Arc::default();
        let receiver = Receiver { at, shared };
        receiver.set(|script| script.status = status);
        let own = receiver.clone();
        #[expect(clippy::disallowed_methods, reason = "a receiver for as long as the test")]
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let own = own.clone();
                std::thread::spawn(move || stream.map(|stream| own.answer(stream)));
            }
        });
        receiver
    }

    fn set<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let changed = change(&mut self.shared.0.lock().expect("unpoisoned"));
        self.shared.1.notify_all();
        changed
    }

    fn came(&self) -> usize {
        self.set(|script| script.came)
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut read = Vec::new();
        let mut chunk = vec![0; 65_536];
        while let Ok(n) = stream.read(&mut chunk)
            && n > 0
        {
            read.extend_from_slice(&chunk[..n]);
            // Bodies are objects, and end the request.
            let Some(head) = read.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if read.len() < head + 4 + length.unwrap_or(0) {
                continue;
            }
            read.clear();
            let mut script = self.shared.0.lock().expect("unpoisoned");
            script.came += 1;
            script.open += 1;
            script.most = script.most.max(script.open);
            let mut script = self.shared.1.wait_while(script, |script| script.holds).expect("unpoisoned");
            script.open -= 1;
            let answer = format!("HTTP/1.1 {} X\r\ncontent-length: 6\r\n\r\nthanks", script.status);
            drop(script);
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn reasons(serving: &Serving) -> Vec<HoldReason> {
    serving.status.held().iter().map(|held| held.reason).collect()
}

#[test]
fn a_secret_of_another_key_holds_what_waits_and_the_right_key_lets_it_go() {
    let world = World::new();
    let receiver = Receiver::start(200);
    world.endpoint(1, 7, receiver.at, json!({}));
    for n in 0..40 {
        world.deliver(&format!("d{n}"), 10);
    }
    let serving = world.serve(8, |_| {});
    until("it is held", || reasons(&serving) == [HoldReason::SecretUnreadable]);
    assert_eq!(serving.status.hold_of("default", "crm").map(|(reason, _)| reason), Some("secret_unreadable"));
    for_a_while("nothing is sent or ended", || receiver.came() == 0 && world.records(Topic::Attempts).is_empty());
    // A new secret, sealed with the key that serves, ends the hold of itself.
    drop(serving);
    let serving = world.serve(7, |_| {});
    until("all have come", || world.ends().len() == 40);
    assert!(reasons(&serving).is_empty());
    assert!(world.ends().iter().all(|(_, ended)| ended == "delivered"));
    assert_eq!(receiver.came(), 40);
}

#[test]
fn every_fault_of_this_side_that_a_definition_brings_is_a_hold_and_a_new_definition_ends_it() {
    let sealed = |key: u8, text: &str| {
        serde_json::to_value(ClusterKey::new([key; 32]).seal("default", "crm", text, [2; 24])).expect("it serialises")
    };
    let chain = include_str!("../../../tests/it/client.pem");
    let faults = [
        (HoldReason::SecretUnreadable, json!({"secret": sealed(8, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")})),
        (HoldReason::SecretMissing, json!({"secret": null})),
        (HoldReason::SecretUnusable, json!({"secret": sealed(7, "no key of this profile")})),
        (HoldReason::ClientKeyUnreadable, json!({"tls": {"client_cert": chain, "client_key": sealed(8, "key")}})),
        (HoldReason::DefinitionUnreadable, json!({"retry": {"kind": "of a later version"}})),
    ];
    for (reason, fault) in faults {
        let world = World::new();
        let receiver = Receiver::start(200);
        world.endpoint(1, 7, receiver.at, fault);
        world.deliver("d", 10);
        let serving = world.serve(7, |_| {});
        until("it is held", || reasons(&serving) == [reason]);
        for_a_while("nothing ends", || receiver.came() == 0 && world.records(Topic::Attempts).is_empty());
        world.endpoint(2, 7, receiver.at, json!({}));
        until("it has come", || world.ends() == [("d".to_owned(), "delivered".to_owned())]);
        until("the hold is over", || reasons(&serving).is_empty());
    }
}

#[test]
fn what_fails_on_this_side_is_on_record_and_costs_no_attempt() {
    let world = World::new();
    let receiver = Receiver::start(500);
    let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 2, "breaker": false});
    world.endpoint(1, 7, receiver.at, json!({"retry": retry}));
    // Nothing listens there any more, and no other test does: they all bind 127.0.0.1.
    let nobody = TcpListener::bind("127.0.0.9:0").expect("a port").local_addr().expect("an address");
    let proxy = url::Url::parse(&format!("http://{nobody}")).expect("a URL");
    let serving = world.serve(7, |egress| egress.proxy = Some(proxy));
    until("it runs", || serving.status.partitions[0].phase() == askwhen_partition::Phase::Running);
    for n in 0..30 {
        world.deliver(&format!("d{n}"), 10);
    }
    until("it is held", || reasons(&serving) == [HoldReason::ProxyFailed]);
    for _ in 0..8 {
        let before = world.records(Topic::Attempts).len();
        world.clock.pass(Duration::from_secs(300));
        serving.status.notify.notify();
        until("one finds out that it still fails", || world.records(Topic::Attempts).len() > before);
    }
    let attempts = world.records(Topic::Attempts);
    assert!(attempts.iter().all(|a| a["outcome"] == "proxy_failed" && a["ended"].is_null()), "{attempts:?}");
    assert!(attempts.iter().all(|a| a["uncounted"] == a["attempt"]), "{attempts:?}");
    assert!(attempts.len() <= 30 + 8 * 2, "now and then one finds out, not all: {}", attempts.len());
    drop(serving);
    // Without the proxy both attempts that the policy gives are still there.
    let serving = world.serve(7, |_| {});
    world.clock.pass(Duration::from_secs(600));
    until("each has had its first", || receiver.came() == 30);
    assert!(world.ends().is_empty(), "{:?}", world.ends());
    world.clock.pass(Duration::from_secs(3_700));
    serving.status.notify.notify();
    until("and its second", || world.ends().len() == 30);
    assert!(world.ends().iter().all(|(_, ended)| ended == "dead"));
    assert_eq!(receiver.came(), 60);
}

/// An owner that has been replaced may write an attempt and die before what
/// follows from it: the one that serves writes that, and does not wait for its
/// own end.
#[test]
fn an_attempt_of_another_owner_that_leaves_its_retry_record_out_is_followed_up() {
    let world = World::new();
    let receiver = Receiver::start(500);
    world.endpoint(1, 7, receiver.at, json!({}));
    world.deliver("d", 10);
    let _serving = world.serve(7, |_| {});
    until("the first attempt", || world.records(Topic::Retry1h).len() == 1);
    let mut attempt = world.records(Topic::Attempts).remove(0);
    attempt["attempt"] = 2.into();
    let next_due_at = attempt["next_due_at"].as_i64().expect("a time") + HOUR;
    attempt["next_due_at"] = next_due_at.into();
    let (sender, _) = tokio::sync::oneshot::channel();
    let new = NewRecord { key: None, headers: Vec::new(), value: Some(attempt.to_string().into()) };
    world.log.append(TopicPartition { topic: Topic::Attempts, partition: 0 }, vec![new], Ack::Once(sender));
    until("its retry record", || {
        world
            .records(Topic::Retry1h)
            .last()
            .is_some_and(|retry| retry["attempt"] == 2 && retry["due_at"] == next_due_at)
    });
}

#[test]
fn a_clock_that_steps_back_stops_no_retry_and_sends_none_early() {
    let world = World::new();
    let receiver = Receiver::start(500);
    world.endpoint(1, 7, receiver.at, json!({}));
    world.deliver("d", 10);
    let serving = world.serve(7, |_| {});
    until("the first attempt", || world.records(Topic::Retry1h).len() == 1);
    world.clock.set_wall(NOW - 5 * HOUR);
    world.clock.pass(Duration::from_secs(3_500));
    serving.status.notify.notify();
    for_a_while("not before its time", || receiver.came() == 1);
    world.clock.pass(Duration::from_secs(101));
    serving.status.notify.notify();
    until("at its pace", || receiver.came() == 2);
    until("dead", || world.ends() == [("d".to_owned(), "dead".to_owned())]);
    // What comes meanwhile goes at once.
    receiver.set(|script| script.status = 200);
    world.deliver("e", 10);
    until("it has come", || receiver.came() == 3);
}

#[test]
fn a_clock_that_jumped_ahead_and_back_holds_nothing_for_longer_than_a_day() {
    let world = World::new();
    let receiver = Receiver::start(500);
    world.endpoint(1, 7, receiver.at, json!({"retry": {"kind": "fixed", "interval": "1h", "max_attempts": 50}}));
    let serving = world.serve(7, |_| {});
    until("it runs", || serving.status.partitions[0].phase() == askwhen_partition::Phase::Running);
    world.clock.set_wall(NOW + 3_650 * 24 * HOUR);
    world.deliver("d", 10);
    until("the first attempt", || world.records(Topic::Retry1h).len() == 1);
    world.clock.set_wall(NOW);
    // While it serves it goes on at its pace.
    world.clock.pass(Duration::from_secs(3_601));
    serving.status.notify.notify();
    until("the second", || receiver.came() == 2);
    until("it is on record", || world.records(Topic::Retry1h).len() == 2);
    drop(serving);
    // And after a restart it is not ten years late.
    let serving = world.serve(7, |_| {});
    world.clock.pass(Duration::from_secs(1));
    serving.status.notify.notify();
    until("the third", || receiver.came() == 3);
}

#[test]
fn a_pause_that_a_wrong_clock_wrote_ends_in_a_day() {
    let world = World::new();
    let receiver = Receiver::start(200);
    world.endpoint(1, 7, receiver.at, json!({}));
    let mut health = askwhen_domain::webhook::health::Health::default();
    let hold =
        askwhen_domain::webhook::health::HealthSignal::Failure { hold_until: Some(NOW + 3_650 * 24 * HOUR + MINUTE) };
    health.record(NOW + 3_650 * 24 * HOUR, hold, 10, true);
    let (project, endpoint_id) = ("default".into(), "crm".into());
    world.write(&DeliveryRecord::Health { project, endpoint_id, seq: 1, by: "another".into(), health });
    world.deliver("d", 10);
    let _serving = world.serve(7, |_| {});
    until("it has come", || world.ends() == [("d".to_owned(), "delivered".to_owned())]);
}

#[test]
fn an_erasure_leaves_one_end_for_each_delivery_also_for_what_is_under_way() {
    for status in [200, 500] {
        let world = World::new();
        let receiver = Receiver::start(status);
        receiver.set(|script| script.holds = true);
        world.endpoint(1, 7, receiver.at, json!({"concurrency": 1}));
        let serving = world.serve(7, |_| {});
        world.deliver("under way", 10);
        world.deliver("waiting", 10);
        until("one is under way", || receiver.came() == 1);
        world.write(&DeliveryRecord::CancelUser { project: "default".into(), user_id: "ann".into() });
        until("the other is cancelled", || world.ends() == [("waiting".to_owned(), "cancelled".to_owned())]);
        receiver.set(|script| script.holds = false);
        until("both have ended", || world.ends().len() == 2);
        let ended = if status == 200 { "delivered" } else { "cancelled" };
        for_a_while("and neither once more", || world.ends().len() == 2);
        assert_eq!(world.ends()[1], ("under way".to_owned(), ended.to_owned()));
        assert!(world.records(Topic::Dead).is_empty() && receiver.came() == 1);
        if status == 500 {
            let last = world.records(Topic::Attempts)[1].clone();
            assert_eq!((&last["response"], &last["reason"]), (&Value::Null, &json!("user_erased")), "{last}");
        }
        drop(serving);
        // Nothing is left that a restart would take up.
        let _serving = world.serve(7, |_| {});
        for_a_while("nothing comes of it", || receiver.came() == 1 && world.ends().len() == 2);
    }
}

#[test]
fn large_messages_under_way_keep_within_their_memory() {
    let world = World::new();
    let receiver = Receiver::start(200);
    receiver.set(|script| script.holds = true);
    world.endpoint(1, 7, receiver.at, json!({"concurrency": 500}));
    let serving = world.serve(7, |_| {});
    serving.status.limit_memory(4 << 20);
    for n in 0..60 {
        // Each user's first attempts go one after the other: these are of one ordering queue each.
        let mut data = Data::sample("default", NOW);
        data.answers[0].text = "x".repeat(200 << 10);
        data.user_id = format!("u{n}");
        world.write(&DeliveryRecord::Deliver(Box::new(Waiting {
            delivery_id: format!("d{n}"),
            message_id: format!("m{n}"),
            endpoint_id: "crm".into(),
            project: "default".into(),
            user_id: format!("u{n}"),
            survey_id: None,
            created_at: NOW,
            message: Message { kind: EventType::Completed, at: NOW, data: Some(data) },
            test_for: None,
            not_before: None,
        })));
    }
    until("some are under way", || receiver.came() >= 4);
    for_a_while("no more than fit", || receiver.came() <= 6);
    assert!(serving.status.memory_bytes() <= 5 << 20, "{}", serving.status.memory_bytes());
    receiver.set(|script| script.holds = false);
    until("all have come", || world.ends().len() == 60);
    assert!(receiver.set(|script| script.most) <= 6);
    until("nothing is held", || serving.status.memory_bytes() < 64 << 10);
}
