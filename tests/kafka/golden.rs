//! Topics that a released version has written, with its snapshots: this program
//! takes them up with everything in them, and serves on. They were made once, by
//! that version; the journal's times are those of that day.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Receiver, Server, brokers};
use crate::producers::producer;

const PARTITIONS: i32 = 2;

/// Makes the topics of a prefix and fills them with what was in them.
async fn fill(dir: &Path, prefix: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers()).create().expect("an admin client");
    let mut names: Vec<String> = std::fs::read_dir(dir.join("topics"))
        .expect("topics")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    for name in &names {
        let full = format!("{prefix}{name}");
        let compacted = name == "definitions";
        let topic = NewTopic::new(&full, if compacted { 1 } else { PARTITIONS }, TopicReplication::Fixed(1))
            .set("cleanup.policy", if compacted { "compact" } else { "delete" })
            // The records are older than what would be kept of them.
            .set("retention.ms", "-1");
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("the brokers are asked");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }
    // One after the other: their order is that of the offsets.
    let producer = producer("consistent");
    for name in &names {
        let path = dir.join("topics").join(format!("{name}.ndjson"));
        for line in std::fs::read_to_string(&path).expect("records").lines() {
            let record: Value = serde_json::from_str(line).expect("JSON");
            let (topic, text) = (format!("{prefix}{name}"), |member: &str| record[member].as_str());
            let mut headers = OwnedHeaders::new();
            let listed: Vec<&str> =
                record["headers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for pair in listed.chunks(2) {
                headers = headers.insert(Header { key: pair[0], value: Some(pair[1]) });
            }
            let partition = i32::try_from(record["partition"].as_i64().expect("a partition")).expect("small");
            let mut new = BaseRecord::<str, str>::to(&topic).partition(partition).headers(headers);
            new = new.timestamp(record["ts"].as_i64().expect("a time"));
            new.key = text("key");
            new.payload = text("payload");
            producer.send(new).map_err(|(error, _)| error).expect("queued");
        }
        producer.flush(Duration::from_secs(20)).expect("taken");
    }
    let events = format!("{prefix}events");
    let stamped = AlterConfig::new(ResourceSpecifier::Topic(&events))
        .set("message.timestamp.type", "LogAppendTime")
        .set("retention.ms", "-1");
    let altered = admin.alter_configs([&stamped], &AdminOptions::new()).await.expect("the brokers are asked");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    // The leaders of partitions hear of it a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Whether everything of what was is there; more may be.
fn holds(was: &Value, is: &Value) -> bool {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            was.iter().all(|(name, value)| holds(value, is.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(was), Value::Array(is)) => was.len() == is.len() && was.iter().zip(is).all(|(a, b)| holds(a, b)),
        _ => was == is,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_of_every_version_are_taken_up_with_everything_in_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v0.1.0");
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let unpacked = Command::new("tar").arg("-xf").arg(golden.join("kafka.tar.gz")).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success());
    let prefix = format!("golden-{}.", uuid::Uuid::new_v4().simple());
    fill(dir.path(), &prefix).await;
    let here = dir.path().display();
    let config = format!(
        "[log]\nkind = \"kafka\"\npartitions = {PARTITIONS}\nprefix = \"{prefix}\"\n\
         [kafka]\nbrokers = \"{}\"\nreplication = 1\n[snapshots]\nurl = \"file://{here}/snapshots\"\n\
         [secrets]\nkey_file = \"{here}/cluster.key\"\n\
         [retention]\ndecisions = \"30000d\"\nresponses = \"30000d\"\ndeliveries = \"30000d\"\n",
        brokers()
    );
    std::fs::write(dir.path().join("askwhen.toml"), config).expect("written");
    let server = Server::on(dir, &["--dev"], &[]).await;
    let text = std::fs::read_to_string(golden.join("kafka.expected.json")).expect("what was there");
    let mut was: Value = serde_json::from_str(&text).expect("JSON");
    for endpoint in was["endpoints"].as_array_mut().expect("a list") {
        // Shown in clear until 0.1.0.
        for (_, value) in endpoint["headers"].as_object_mut().expect("an object") {
            *value = "(sealed)".into();
        }
    }
    let ids = [
        ("surveys", "survey_id"),
        ("endpoints", "endpoint_id"),
        ("triggers", "trigger_id"),
        ("deliveries", "delivery_id"),
        ("decisions", "decision_id"),
        ("responses", "response_id"),
    ];
    for (list, id) in ids {
        let was = was[list].as_array().expect("a list").clone();
        server.until(list, async || server.all(list).await.len() >= was.len()).await;
        let is = server.all(list).await;
        for row in &was {
            let found = is.iter().find(|other| other[id] == row[id]);
            assert!(found.is_some_and(|found| holds(row, found)), "{list}: was {row}, is {found:?}");
        }
    }
    assert!(holds(&was["settings"], &server.get("/v1/settings").await.body));
    for (survey, stats) in was["stats"].as_object().expect("an object") {
        let is = server.get(&format!("/v1/surveys/{survey}/stats")).await.body;
        assert!(holds(stats, &is), "{survey}: was {stats}, is {is}");
    }
    for (user, state) in was["users"].as_object().expect("an object") {
        let is = server.get(&format!("/v1/users/{user}")).await.body;
        assert!(holds(state, &is), "{user}: was {state}, is {is}");
    }
    serves_on(&server).await;
    assert_eq!(server.terminate().1, Some(0));
}

async fn serves_on(server: &Server) {
    let receiver = Receiver::start(&[]).await;
    let endpoint = json!({"url": receiver.url, "events": ["response.completed"]});
    server.put("/v1/endpoints/crm", endpoint).await;
    server.event("a-new-one", "ended_sleep", json!({"duration_min": 300})).await;
    let offer = server.trigger("a-new-one", "MainActivity").await["survey"]["offer_id"].as_str().map(str::to_owned);
    let path = format!("/v1/users/a-new-one/offers/{}/answers", offer.expect("an offer"));
    let answers = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    assert_eq!(server.post(&path, answers).await.status, 200);
    let webhook = receiver.wait(1).await.remove(0);
    assert_eq!(webhook.json()["data"]["user_id"], "a-new-one");
}
