//! Whoever may read and write topic `events`, and has no key, writes every record
//! of askwhen's own once more, to every partition.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

use crate::harness::{KAFKA_PARTITIONS, Receiver, Server, brokers, open_survey, tail};
use crate::producers::{prefix, producer};

/// All records of a topic as any consumer sees them.
fn read_all(topic: &str) -> Vec<OwnedMessage> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("group.id", "a-reader").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..KAFKA_PARTITIONS as i32 {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("watermarks");
        left += high - low;
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a place");
    }
    consumer.assign(&list).expect("assigned");
    let mut all = Vec::new();
    while left > 0 {
        let record = consumer.poll(Duration::from_secs(10)).expect("a record in time").expect("readable");
        all.push(record.detach());
        left -= 1;
    }
    all
}

/// Every record with a MAC, as it is, into every partition.
fn replay_all(topic: &str) -> usize {
    let producer = producer("consistent_random");
    let mut count = 0;
    for record in read_all(topic) {
        let Some(headers) = record.headers().filter(|headers| headers.iter().any(|h| h.key.ends_with("mac"))) else {
            continue;
        };
        for partition in 0..KAFKA_PARTITIONS as i32 {
            let copy = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).headers(headers.clone());
            let copy = copy.key(record.key().unwrap_or_default()).payload(record.payload().unwrap_or_default());
            producer.send(copy).map_err(|(error, _)| error).expect("queued");
            count += 1;
        }
    }
    producer.flush(Duration::from_secs(10)).expect("taken");
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_records_have_no_effect_in_any_partition() {
    let server = Server::on(std::sync::Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let receiver = Receiver::start(&[]).await;
    server.put("/v1/surveys/open", open_survey()).await;
    let mut paused = open_survey();
    paused["status"] = "paused".into();
    server.put("/v1/surveys/open", paused.clone()).await;
    server.put("/v1/endpoints/crm", json!({"url": receiver.url, "events": ["user.erased"]})).await;
    let users: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
    for user in &users {
        let body = json!({"attributes": {"before": true}});
        let path = format!("/v1/users/{user}");
        assert_eq!(server.call(&server.server, Method::PUT, &path, Some(&body)).await.status, 202);
        assert_eq!(server.call(&server.server, Method::DELETE, &path, None).await.status, 202);
        // They come back.
        let body = json!({"attributes": {"after": true}});
        assert_eq!(server.call(&server.server, Method::PUT, &path, Some(&body)).await.status, 202);
    }
    receiver.wait(users.len()).await;
    let topic = format!("{}events", prefix(server.dir.path()));
    let count = replay_all(&topic);
    assert!(count >= (12 + 2 * 3) * KAFKA_PARTITIONS as usize, "{count} records");

    // A definition still reaches every partition, and what it says holds.
    let mut active = open_survey();
    active["name"] = "Open again".into();
    let said = server.put("/v1/surveys/open", active).await;
    assert_eq!((said.status, said.body["changed"].as_bool()), (200, Some(true)), "{said:?}");
    for user in &users {
        let known = server.get(&format!("/v1/users/{user}")).await.body;
        assert_eq!(known["attributes"], json!({"after": true}), "{known}");
        assert_eq!(server.trigger(user, "Main").await["reason"], "offered");
    }
    server.put("/v1/surveys/open", paused).await;
    for user in &users {
        assert_eq!(server.trigger(&format!("{user}-other"), "Main").await["reason"], "not_active");
    }
    // Records of any producer still find the partition of their user.
    let random = producer("random");
    for user in &users {
        let value = json!({"type": "attributes", "user_id": user, "attributes": {"moved": true}}).to_string();
        crate::producers::send(&random, &topic, None, Some(&value));
    }
    random.flush(Duration::from_secs(10)).expect("taken");
    for user in &users {
        let moved = async || server.get(&format!("/v1/users/{user}")).await.body["attributes"]["moved"] == true;
        server.until(&format!("{user} is reached"), moved).await;
    }
    assert_eq!(receiver.got().len(), users.len(), "nobody is told of an erasure twice");
    let rejects: Vec<Value> = tail(server.dir.path(), "rejects");
    let forged = rejects.iter().filter(|reject| reject["value"]["reason"] == "forged").count();
    assert!(forged >= count * (KAFKA_PARTITIONS as usize - 1) / KAFKA_PARTITIONS as usize, "{forged} of {count}");
}
