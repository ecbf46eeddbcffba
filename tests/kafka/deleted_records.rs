//! Records of the journal that are deleted before state was made of them.

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::json;
use std::time::Duration;

use crate::cluster::{folder, set_up};
use crate::harness::{KAFKA_PARTITIONS, Receiver, askwhen, brokers, open_survey, tail};
use crate::lost_topics::{admin, answer, until_ready, until_unready};
use crate::process::Process;
use crate::producers::{prefix, producer, send};

/// Deletes all records that a topic holds now.
async fn delete_all(topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("group.id", "looking");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..KAFKA_PARTITIONS as i32 {
        let (_, end) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("watermarks");
        list.add_partition_offset(topic, partition, Offset::Offset(end)).expect("a place");
    }
    let deleted = admin().delete_records(&list, &AdminOptions::new()).await.expect("the brokers are asked");
    assert!(deleted.elements().iter().all(|place| place.error().is_ok()), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_named_and_passed_over_once_an_operator_accepts_it() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let all = "bridge,engine,delivery";
    let server = Process::start(&dir, "n0", all, &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..12).await.is_none());
    server.terminate();
    let events = format!("{}events", prefix(dir.path()));
    let sender = producer("murmur2_random");
    for n in 0..40 {
        let user = format!("lost{n}");
        let event = json!({"user_id": user, "event_name": "woke"}).to_string();
        send(&sender, &events, Some(&user), Some(&event));
    }
    sender.flush(Duration::from_secs(10)).expect("taken");
    delete_all(&events).await;
    let server = Process::unready(&dir, "n0", all, &["--dev"]);
    let said = until_unready(&server, &["events/0: the records from", "askwhen doctor --accept-loss"]).await;
    let reasons = said.body["reasons"].to_string();
    let (code, out, error) = askwhen(dir.path(), &["--data-dir", "n0", "doctor", "--accept-loss"]);
    assert_eq!(code, Some(0), "{out}{error}");
    for partition in 0..KAFKA_PARTITIONS {
        assert!(out.contains(&format!("events/{partition}: ")), "{out}");
    }
    let from = reasons.split("events/0: the records from ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!(out.contains(&format!("from {} up to", from.expect("a place"))), "{out} {reasons}");
    until_ready(&server).await;
    // What partitions tell each other goes on behind the loss.
    let put = server.call(Method::PUT, "/v1/surveys/second", Some(&open_survey())).await.expect("an answer");
    assert_eq!(put.status, 201, "{put:?}");
    assert!(answer(&server, 12..24).await.is_none());
    let again = server.call(Method::POST, "/v1/users/u3/triggers/Main", Some(&json!({}))).await.expect("an answer");
    assert_eq!(
        again.body["evaluations"][0]["gate"], "already_completed",
        "what was applied before is known: {again:?}"
    );
    // It holds for whoever starts next.
    server.terminate();
    let server = Process::start(&dir, "n0", all, &["--dev"]).await;
    assert!(answer(&server, 24..30).await.is_none());
    server.terminate();
    let (code, out, error) = askwhen(dir.path(), &["--data-dir", "n0", "doctor", "--accept-loss"]);
    assert!(code == Some(0) && out.contains("nothing was written"), "{out}{error}");
    assert!(tail(dir.path(), "rejects").is_empty());
}
