//! Records of producers that know nothing of askwhen but the topic.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use crate::harness::{Server, brokers, tail};

pub fn prefix(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("askwhen.toml")).expect("made by the harness");
    let config: toml::Table = toml::from_str(&text).expect("TOML");
    config["log"]["prefix"].as_str().expect("a prefix").to_owned()
}

/// librdkafka's own default partitioner is CRC32, Java's is murmur2.
pub fn producer(partitioner: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("partitioner", partitioner).set("acks", "all");
    config.create().expect("a producer")
}

/// Handed over; it is there when the producer has been flushed.
pub fn send(producer: &BaseProducer, topic: &str, key: Option<&str>, value: Option<&str>) {
    let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic);
    if let Some(key) = key {
        record = record.key(key);
    }
    if let Some(value) = value {
        record = record.payload(value);
    }
    producer.send(record).map_err(|(error, _)| error).expect("queued");
}

fn rejects(dir: &Path) -> Vec<Value> {
    tail(dir, "rejects").into_iter().map(|record| record["value"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_partitioner_reaches_the_right_actor_and_what_is_wrong_becomes_a_reject() {
    let server = Server::start().await;
    let survey = json!({"name": "Sleep", "status": "active", "activate": {"event": "ended_sleep"},
        "expires_after": "2h", "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q1", "type": "text", "text": "How?"}]});
    server.put("/v1/surveys/sleep", survey).await;
    let topic = format!("{}events", prefix(server.dir.path()));
    let mut users = Vec::new();
    for (name, partitioner) in [("crc", "consistent_random"), ("java", "murmur2_random"), ("none", "random")] {
        let producer = producer(partitioner);
        for n in 0..20 {
            let user = format!("{name}{n}");
            let value = json!({"user_id": user, "event_name": "ended_sleep", "properties": {"n": n}}).to_string();
            send(&producer, &topic, (name != "none").then_some(&user), Some(&value));
            users.push(user);
        }
        producer.flush(Duration::from_secs(10)).expect("taken");
    }
    for user in &users {
        let offered = async || server.trigger(user, "Main").await["reason"] == "offered";
        server.until(&format!("{user} is armed"), offered).await;
    }
    let metrics = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let moved = text.lines().find_map(|line| line.strip_prefix("askwhen_engine_misplaced_records_total "));
    assert!(moved.expect("a metric").parse::<u64>().expect("a number") > 0, "some were on other partitions");
    assert!(rejects(server.dir.path()).is_empty());

    let wrong = producer("consistent_random");
    let query = json!({"type": "internal", "internal": {"clock": {"ahead": 1_000_000_000}}}).to_string();
    let answers = json!({"type": "answers", "user_id": "u", "offer_id": "off_none", "answers": []}).to_string();
    for value in [Some("{"), Some("[]"), None, Some(&query), Some(&answers)] {
        send(&wrong, &topic, Some("u"), value);
    }
    wrong.flush(Duration::from_secs(10)).expect("taken");
    let all = ["forged", "null_value", "truncated", "unknown_offer", "wrong_type"];
    let reasons = || -> BTreeSet<String> {
        let rejects = rejects(server.dir.path());
        rejects.iter().map(|reject| reject["reason"].as_str().expect("a reason").to_owned()).collect()
    };
    server.until("every wrong record is a reject", async || reasons().len() >= all.len()).await;
    assert_eq!(reasons(), all.map(str::to_owned).into());
    assert_eq!(server.trigger("crc0", "Main").await["survey"]["survey_id"], Value::Null, "time has not been moved");
}

/// Sends a request of Kafka's protocol, without its length, to a broker; returns the
/// response without its length.
pub fn exchange(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the broker listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    stream.write_all(&(request.len() as u32).to_be_bytes()).expect("sent");
    stream.write_all(request).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    answer
}
