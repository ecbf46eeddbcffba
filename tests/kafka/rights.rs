//! Rights that brokers deny while a process serves, and credentials that they do
//! not take.

use reqwest::Method;
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{BINARY, Receiver, askwhen};
use crate::lost_topics::until_ready;
use crate::process::{Broker, Process};
use crate::producers::{exchange, prefix};

/// Kafka's numbers for what access is given to, and to do what.
pub const TOPIC: u8 = 2;
pub const GROUP: u8 = 3;
pub const ALL: u8 = 2;
pub const READ: u8 = 3;
pub const WRITE: u8 = 4;
pub const REMOVE: u8 = 6;
pub const DESCRIBE_CONFIGS: u8 = 10;
const LITERAL: u8 = 3;
pub const DENY: u8 = 2;
pub const ALLOW: u8 = 3;
pub const CREATE_ACLS: u16 = 30;
pub const DELETE_ACLS: u16 = 31;

/// One entry of an access list, for every host.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    pub resource: (u8, &'a str),
    pub principal: &'a str,
    pub operation: u8,
    pub permission: u8,
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u16).to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// Sends `CreateAcls` or `DeleteAcls` of version 1, whose bodies are alike:
/// <https://kafka.apache.org/protocol.html>.
pub fn change(broker: &Broker, api: u16, rule: Rule<'_>) {
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(1_u16.to_be_bytes());
    request.extend(7_u32.to_be_bytes());
    text(&mut request, "test");
    request.extend(1_u32.to_be_bytes());
    request.push(rule.resource.0);
    text(&mut request, rule.resource.1);
    request.push(LITERAL);
    text(&mut request, rule.principal);
    text(&mut request, "*");
    request.extend([rule.operation, rule.permission]);
    let answer = exchange(&broker.address, &request);
    // Behind correlation, throttling and the number of results.
    assert_eq!(answer[12..14], [0, 0], "the broker takes the rule");
}

/// A folder whose processes speak to the broker as its user.
pub fn secured(broker: &Broker, password: &str) -> std::sync::Arc<tempfile::TempDir> {
    let dir = folder(&broker.secure_address());
    let config = dir.path().join("askwhen.toml");
    let before = std::fs::read_to_string(&config).expect("made");
    let client = format!(
        "\n[kafka.client]\n\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\
         \"sasl.username\" = \"askwhen\"\n\"sasl.password\" = \"{password}\"\n\"ssl.ca.location\" = \"{}\"\n",
        broker.ca().display()
    );
    std::fs::write(&config, format!("{before}{client}")).expect("written");
    dir
}

/// One user's trigger and answer, whatever becomes of them.
async fn use_it(server: &Process, n: usize) {
    let path = format!("/v1/users/u{n}/triggers/Main");
    let Some(said) = server.call(Method::POST, &path, Some(&json!({}))).await else { return };
    if let Some(offer) = said.body["survey"]["offer_id"].as_str() {
        let body = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
        server.call(Method::POST, &format!("/v1/users/u{n}/offers/{offer}/answers"), Some(&body)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_denied_is_named_until_it_is_given_back() {
    let broker = Broker::start();
    let dir = secured(&broker, "askwhen-secret");
    let receiver = Receiver::start(&[]).await;
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    set_up(&server, &receiver).await;
    let mut users = 0;
    let cases =
        [(GROUP, "engine", READ), (TOPIC, "deliveries", READ), (TOPIC, "attempts", WRITE), (TOPIC, "events", WRITE)];
    for (kind, name, operation) in cases {
        let full = format!("{}{name}", prefix(dir.path()));
        let resource = (kind, full.as_str());
        let everyone = Rule { resource, principal: "User:*", operation: ALL, permission: ALLOW };
        let denied = Rule { resource, principal: "User:askwhen", operation, permission: DENY };
        change(&broker, CREATE_ACLS, everyone);
        change(&broker, CREATE_ACLS, denied);
        let right = if operation == READ { "READ" } else { "WRITE" };
        let reason = format!("deny {right} on {} {full}", if kind == GROUP { "group" } else { "topic" });
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            use_it(&server, users).await;
            users += 1;
            let said = server.call(Method::GET, "/readyz", None).await.expect("an answer");
            if said.status == 503 && said.body["reasons"].to_string().contains(&reason) {
                break;
            }
            assert!(Instant::now() < deadline, "{reason}: {said:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        change(&broker, DELETE_ACLS, denied);
        until_ready(&server).await;
    }
    use_it(&server, users).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let last = format!("\"u{users}\"");
    while !receiver.got().iter().any(|webhook| String::from_utf8_lossy(&webhook.body).contains(&last)) {
        assert!(Instant::now() < deadline, "it goes on as before");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_start_with_a_wrong_password_says_that_it_is_wrong() {
    let broker = Broker::start();
    let dir = secured(&broker, "another-secret");
    let mut command = Command::new(BINARY);
    command.args(["--data-dir", "n0", "serve", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
    let out = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{error}");
    let (code, _, of_verb) = askwhen(dir.path(), &["topics", "check"]);
    assert_eq!(code, Some(4), "{of_verb}");
    for error in [&*error, &of_verb] {
        assert!(error.contains("authentication failed") && error.contains("user \"askwhen\""), "{error}");
        assert!(!error.contains("no broker"), "{error}");
    }
}
