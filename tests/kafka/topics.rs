//! What administrators do to the topics while they are used, and what others see there.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{KAFKA_PARTITIONS, Receiver, askwhen, brokers, tail};
use crate::lost_topics::{admin, answer, until_ready, until_unready};
use crate::process::Process;
use crate::producers::{prefix, producer};
use askwhen_domain::time::{self, Millis};
use askwhen_wire::topic::Topic;

const ALL: &str = "bridge,engine,delivery,console";

/// Every record is as its topic's schema says.
pub fn assert_schemas(dir: &std::path::Path) {
    for topic in Topic::ALL.iter().filter(|topic| **topic != Topic::Replies) {
        let schema: Value = serde_json::from_str(topic.schema()).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        for record in tail(dir, topic.name()).iter().filter(|record| !record["value"].is_null()) {
            let faults: Vec<String> = validator.iter_errors(&record["value"]).map(|e| e.to_string()).collect();
            assert!(faults.is_empty(), "{}: {record} {faults:#?}", topic.name());
        }
    }
}

async fn get(server: &Process, path: &str) -> Value {
    server.call(Method::GET, path, None).await.expect("an answer").body
}

/// Writes an event to a partition, whoever owns the user.
fn write(topic: &str, partition: i32, user: &str) {
    let writer = producer("random");
    let value = json!({"user_id": user, "event_name": "ended"}).to_string();
    let record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition).payload(&value);
    writer.send(record).map_err(|(error, _)| error).expect("queued");
    writer.flush(Duration::from_secs(20)).expect("taken");
}

async fn arm(server: &Process) {
    let survey = json!({"name": "Ended", "status": "active", "activate": {"event": "ended"}, "expires_after": "2h",
        "show_on": [{"trigger": "Main"}], "questions": [{"question_id": "q1", "type": "text", "text": "How?"}]});
    let said = server.call(Method::PUT, "/v1/surveys/ended", Some(&survey)).await.expect("an answer");
    assert!(said.status < 300, "{said:?}");
}

/// When a user's window began, once it has.
async fn armed_at(server: &Process, user: &str) -> Millis {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let body = get(server, &format!("/v1/users/{user}")).await;
        if let Some(at) = body["windows"][0]["activation"]["occurred_at"].as_str() {
            return time::parse_time(at).expect("a time");
        }
        assert!(Instant::now() < deadline, "{user}: {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_on_any_partition_happened_when_the_brokers_took_them() {
    let dir = folder(&brokers());
    let topic = format!("{}events", prefix(dir.path()));
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    arm(&server).await;
    server.terminate();
    let before = askwhen_process::clock::Clock::new().wall();
    for n in 0..8 {
        write(&topic, n % KAFKA_PARTITIONS as i32, &format!("w{n}"));
    }
    let after = askwhen_process::clock::Clock::new().wall();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    for n in 0..8 {
        let at = armed_at(&server, &format!("w{n}")).await;
        assert!((before - 1_000..=after + 1_000).contains(&at), "w{n}: {before} {at} {after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_in_partitions_that_were_added_are_moved_to_their_owners() {
    let dir = folder(&brokers());
    let topic = format!("{}events", prefix(dir.path()));
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    arm(&server).await;
    let more = [NewPartitions::new(&topic, KAFKA_PARTITIONS as usize + 2)];
    let added = admin().create_partitions(&more, &AdminOptions::new()).await.expect("the brokers are asked");
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    let at = askwhen_process::clock::Clock::new().wall();
    write(&topic, KAFKA_PARTITIONS as i32 + 1, "added");
    let armed = armed_at(&server, "added").await;
    assert!((armed - at).abs() < 10_000, "{armed} {at}");
    until_ready(&server).await;
    server.terminate();
    write(&topic, KAFKA_PARTITIONS as i32, "later");
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    armed_at(&server, "later").await;
    // Whatever is configured, and however many there are by now.
    for partitions in ["1", "4", "6"] {
        let mut command = std::process::Command::new(crate::harness::BINARY);
        command.args(["--data-dir", "n0", "tail", "events"]).current_dir(dir.path());
        let out = command.env("ASKWHEN__LOG__PARTITIONS", partitions).output().expect("it runs");
        let records = String::from_utf8_lossy(&out.stdout).lines().count();
        assert_eq!(records, tail(dir.path(), "events").len(), "{partitions}: {out:?}");
    }
    let moved = tail(dir.path(), "events").iter().filter(|record| record["value"]["user_id"] == "added").count();
    assert_eq!(moved, 1, "it is moved once");
    let (code, out, error) = askwhen(dir.path(), &["topics", "check"]);
    assert_eq!(code, Some(0), "{out}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_would_lose_records_is_refused_and_named() {
    let dir = folder(&brokers());
    let topic = format!("{}events", prefix(dir.path()));
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    for (setting, value) in [("cleanup.policy", "compact"), ("retention.bytes", "1000000"), ("retention.ms", "60000")] {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set(setting, value);
        let changed = admin().alter_configs(&[change], &AdminOptions::new()).await.expect("the brokers are asked");
        assert!(changed.iter().all(Result::is_ok), "{changed:?}");
        until_unready(&server, &[&format!("{topic} has {setting}={value}"), "topics apply"]).await;
        let (code, _, error) =
            askwhen(dir.path(), &["--data-dir", "n1", "serve", "--listen", "127.0.0.1:0", "--roles", "bridge"]);
        assert!(code == Some(3) && error.contains(&format!("{setting}={value}")), "{code:?} {error}");
        let (code, out, error) = askwhen(dir.path(), &["topics", "apply"]);
        assert!(code == Some(0) && out.contains("changed"), "{out}{error}");
        until_ready(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_of_the_delivery_knows_how_far_it_is_and_records_fit_their_schemas() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let server = Process::start(&dir, "n0", ALL, &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..24).await.is_none());
    server.call(Method::DELETE, "/v1/users/u3", None).await.expect("an answer");
    let prefix = prefix(dir.path());
    let topic = format!("{prefix}deliveries");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("group.id", format!("{prefix}delivery"));
    let asks: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&topic, 0, KAFKA_PARTITIONS as i32 - 1);
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let told = asks.committed_offsets(list.clone(), Duration::from_secs(10)).expect("known");
        let lag = |partition: i32| {
            let (_, end) = asks.fetch_watermarks(&topic, partition, Duration::from_secs(10)).expect("known");
            let told = told.find_partition(&topic, partition).map(|place| place.offset());
            end - if let Some(Offset::Offset(told)) = told { told } else { 0 }
        };
        let lags: Vec<i64> = (0..KAFKA_PARTITIONS as i32).map(lag).collect();
        if lags.iter().all(|lag| *lag == 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{lags:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_schemas(dir.path());
}
