//! `askwhen doctor` where the log is on brokers: what it says of rights, topics, lag and
//! whose log it is, while all is well and while it is not.

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{Receiver, askwhen, brokers};
use crate::lost_topics::{admin, answer};
use crate::process::{Broker, Process};
use crate::producers::{prefix, producer, send};
use crate::rights::{
    ALL, ALLOW, CREATE_ACLS, DELETE_ACLS, DENY, DESCRIBE_CONFIGS, GROUP, READ, REMOVE, Rule, TOPIC, WRITE, change,
    secured,
};
use rdkafka::producer::Producer as _;

const ROLES: &str = "bridge,engine,delivery,console";

/// What it says, with its exit code.
fn doctor(dir: &Path) -> (Option<i32>, Value) {
    let (code, told, error) = askwhen(dir, &["--data-dir", "n0", "doctor", "--output", "json"]);
    (code, serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}{error}")))
}

fn found(told: &Value, name: &str) -> (bool, String) {
    let rows = told["checks"].as_array().expect("checks");
    let row = rows.iter().find(|row| row["check"] == name).unwrap_or_else(|| panic!("no {name} in {told}"));
    (row["ok"] == true, row["detail"].as_str().expect("a text").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_looks_at_the_log_on_the_brokers() {
    let dir = folder(&brokers());
    let (code, told) = doctor(dir.path());
    let (well, why) = found(&told, "log");
    assert!(code == Some(1) && !well && why.contains("topics apply"), "before there are any topics: {told}");
    let receiver = Receiver::start(&[]).await;
    let server = Process::start(&dir, "n0", ROLES, &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..12).await.is_none());
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let (_, told) = doctor(dir.path());
        let all = ["log", "topics", "broker rights", "lag", "clock"].map(|name| found(&told, name));
        if all.iter().all(|(well, _)| *well) && all[3].1.contains("wait: 0 of") && all[3].1.contains(", 0 of") {
            assert!(all[0].1.contains("4 partitions") && !all[0].1.contains("not served yet"), "{told}");
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // What nobody works at waits.
    server.terminate();
    let topic = format!("{}events", prefix(dir.path()));
    let writer = producer("murmur2_random");
    for n in 0..7 {
        let value = format!("{{\"user_id\":\"w{n}\",\"event_name\":\"woke\"}}");
        send(&writer, &topic, Some(&format!("w{n}")), Some(&value));
    }
    writer.flush(Duration::from_secs(20)).expect("taken");
    let (_, told) = doctor(dir.path());
    assert!(found(&told, "lag").1.contains(&format!("7 of {topic} for the engine")), "{told}");
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", "60000");
    let changed = admin().alter_configs(&[change], &AdminOptions::new()).await.expect("the brokers are asked");
    assert!(changed.iter().all(Result::is_ok), "{changed:?}");
    let (code, told) = doctor(dir.path());
    let (well, why) = found(&told, "topics");
    assert!(code == Some(1) && !well && why.contains("retention.ms=60000") && why.contains("topics apply"), "{told}");
    std::fs::write(dir.path().join("cluster.key"), "cd".repeat(32)).expect("written");
    let (well, why) = found(&doctor(dir.path()).1, "log");
    assert!(!well && why.contains("another cluster key"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_every_right_that_is_missing() {
    let broker = Broker::start();
    let dir = secured(&broker, "askwhen-secret");
    let (code, out, error) = askwhen(dir.path(), &["topics", "apply"]);
    assert_eq!(code, Some(0), "{out}{error}");
    let (well, why) = found(&doctor(dir.path()).1, "broker rights");
    assert!(well && why.contains("is allowed"), "{why}");
    let cases = [
        (GROUP, "engine", READ, "READ"),
        (GROUP, "delivery", READ, "READ"),
        (TOPIC, "deliveries", READ, "READ"),
        (TOPIC, "attempts", WRITE, "WRITE"),
        (TOPIC, "events", REMOVE, "DELETE"),
        (TOPIC, "decisions", DESCRIBE_CONFIGS, "DESCRIBE_CONFIGS"),
    ];
    let rules = |name: &str, kind: u8, operation: u8| {
        let full = format!("{}{name}", prefix(dir.path()));
        (full, kind, operation)
    };
    for (kind, name, operation, _) in cases {
        let (full, kind, operation) = rules(name, kind, operation);
        let resource = (kind, full.as_str());
        change(&broker, CREATE_ACLS, Rule { resource, principal: "User:*", operation: ALL, permission: ALLOW });
        change(&broker, CREATE_ACLS, Rule { resource, principal: "User:askwhen", operation, permission: DENY });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (well, why) = found(&doctor(dir.path()).1, "broker rights");
        let missing = cases.iter().filter(|(kind, name, _, right)| {
            let kind = if *kind == GROUP { "group" } else { "topic" };
            !why.contains(&format!("{right} on {kind} {}{name}", prefix(dir.path())))
        });
        if !well && missing.count() == 0 {
            assert_eq!(why.matches(" on ").count(), cases.len(), "no others are named: {why}");
            break;
        }
        assert!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for (kind, name, operation, _) in cases {
        let (full, kind, operation) = rules(name, kind, operation);
        let resource = (kind, full.as_str());
        change(&broker, DELETE_ACLS, Rule { resource, principal: "User:askwhen", operation, permission: DENY });
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !found(&doctor(dir.path()).1, "broker rights").0 {
        assert!(Instant::now() < deadline, "all of them were given back");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
