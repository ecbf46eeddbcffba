//! A record that ends the process each time that it is applied, sent or listed.

use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use askwhen_domain::id::partition_of;

use crate::harness::{BINARY, Receiver, Server, askwhen, open_survey, tail};

const PARTITIONS: u32 = 8;

/// Starts the program with a fault; it must die by itself.
fn dies(dir: &Path, fault: &str) {
    let mut command = Command::new(BINARY);
    command.args(["--data-dir", "data", "serve", "--listen", "127.0.0.1:0", "--dev"]).current_dir(dir);
    let mut child = command.env("ASKWHEN_FAULT", fault).stdout(Stdio::null()).spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("asked").is_none() {
        if Instant::now() >= deadline {
            drop(child.kill());
            panic!("{fault} does not end it");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server that is running dies, and the next two that are started.
async fn dies_three_times(server: Server, dir: &Path, fault: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.request(Method::GET, "/livez").send().await.is_ok() {
        assert!(Instant::now() < deadline, "{fault} does not end it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(server);
    dies(dir, fault);
    dies(dir, fault);
}

/// A server that says that it has stopped at a place, and what to do.
async fn stopped_at(dir: &Arc<tempfile::TempDir>, fault: &str, place: &str) -> Server {
    let server = Server::unready(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", fault)]);
    let stopped =
        async || server.get("/readyz").await.body["reasons"].to_string().contains(&format!("askwhen skip {place}"));
    server.until("it says what has stopped, and what to do", stopped).await;
    server
}

/// Where the next record of a user will stand.
fn next_place(dir: &Path, user: &str) -> (u32, usize) {
    let partition = partition_of(user, PARTITIONS);
    (partition, end_of(dir, "events", partition))
}

/// The offset that the next record of a topic's partition will have.
fn end_of(dir: &Path, topic: &str, partition: u32) -> usize {
    tail(dir, topic).iter().filter(|record| record["partition"] == partition).count()
}

/// Puts attributes of a user; the process may die of it.
async fn put(server: &Server, user: &str, name: &str) -> Option<u16> {
    let request = server.request(Method::PUT, &format!("/v1/users/{user}")).bearer_auth(&server.server);
    let request = request.header("content-type", "application/json");
    let sent = request.body(json!({"attributes": {name: true}}).to_string()).send().await;
    sent.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_deaths_at_a_record_stop_its_partition_until_an_operator_skips_it() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    for (round, running) in [true, false].into_iter().enumerate() {
        let server = Server::on(dir.clone(), &["--dev"], &[]).await;
        server.put("/v1/surveys/open", open_survey()).await;
        let user = format!("victim-{round}");
        let (partition, offset) = next_place(dir.path(), &user);
        let place = format!("events/{partition}@{offset}");
        let mut others = (0..).map(|n| format!("other-{round}-{n}"));
        let other = others.find(|user| partition_of(user, PARTITIONS) != partition).expect("one of another partition");
        assert_eq!(server.terminate().1, Some(0));

        // It is acknowledged before it is applied; then the process ends.
        let fault = format!("applying={place}:abort");
        let server = Server::on(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)]).await;
        assert!([None, Some(202)].contains(&put(&server, &user, "poison").await));
        dies_three_times(server, dir.path(), &fault).await;

        // The others are served; what comes is kept.
        let server = stopped_at(&dir, &fault, &place).await;
        assert_eq!(server.trigger(&other, "Main").await["reason"], "offered");
        assert_eq!(put(&server, &user, "behind").await, Some(202));
        let server = if running {
            // Another record is not skipped.
            let wrong = format!("events/{partition}@{}", offset + 1);
            assert_ne!(
                askwhen(dir.path(), &["--data-dir", "data", "skip", &wrong, "--server", &server.base]).0,
                Some(0)
            );
            let (code, _, error) =
                askwhen(dir.path(), &["--data-dir", "data", "skip", &place, "--server", &server.base]);
            assert_eq!(code, Some(0), "{error}");
            server
        } else {
            assert_eq!(server.terminate().1, Some(0));
            let (partition, offset) = (partition.to_string(), offset.to_string());
            let words = ["--data-dir", "data", "skip", "events", &partition, &offset];
            let (code, _, error) = askwhen(dir.path(), &words);
            assert_eq!(code, Some(0), "{error}");
            Server::unready(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)])
        };
        server.until("it goes on", async || server.get("/readyz").await.status == 200).await;
        let known = server.get(&format!("/v1/users/{user}")).await.body;
        assert_eq!(known["attributes"], json!({"behind": true}), "{known}");
        assert_eq!(server.terminate().1, Some(0));
        // What has been applied is not taken back.
        let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "skip", &format!("events/{partition}@0")]);
        assert!(code == Some(3) && error.contains("has been applied"), "{code:?} {error}");
    }
    let skipped: Vec<_> =
        tail(dir.path(), "rejects").into_iter().filter(|reject| reject["value"]["reason"] == "skipped").collect();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    // Whoever decides it once more skips them, too.
    let arguments = ["--data-dir", "data", "--output", "json", "replay", "run", "--shadow", "shadow"];
    let (code, said, error) = askwhen(dir.path(), &arguments);
    assert_eq!(code, Some(0), "{error}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["differences"], 0, "{report}");
}

/// An answer of a user, for which a webhook is sent.
async fn answer(server: &Server, user: &str) {
    let offer = server.trigger(user, "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let body = json!({"answers": [{"question_id": "q1", "value": 3}], "completed": true});
    let path = format!("/v1/users/{user}/offers/{offer}/answers");
    assert_eq!(server.call(&server.client, Method::POST, &path, Some(&body)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_deaths_at_a_record_of_the_delivery_stop_its_webhooks_until_an_operator_skips_it() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let receiver = Receiver::start(&[]).await;
    for (round, topic) in ["deliveries", "attempts"].into_iter().enumerate() {
        let running = round == 0;
        let server = Server::on(dir.clone(), &["--dev"], &[]).await;
        server.put("/v1/surveys/open", open_survey()).await;
        server.put("/v1/endpoints/crm", json!({"url": receiver.url, "events": ["response.completed"]})).await;
        let mut users = (0..).map(|n| format!("victim-{round}-{n}"));
        let (user, behind) = (users.next().expect("one"), users.next().expect("another"));
        let partition = partition_of(&user, PARTITIONS);
        let behind = users.find(|user| partition_of(user, PARTITIONS) == partition).unwrap_or(behind);
        let other = users.find(|user| partition_of(user, PARTITIONS) != partition).expect("one of another partition");
        assert_eq!(server.terminate().1, Some(0));
        let place = format!("{topic}/{partition}@{}", end_of(dir.path(), topic, partition));
        let got = receiver.got().len();

        let fault = format!("folding={place}:abort");
        let server = Server::on(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)]).await;
        answer(&server, &user).await;
        dies_three_times(server, dir.path(), &fault).await;

        // Requests are answered, and webhooks of the other partitions are sent.
        let server = stopped_at(&dir, &fault, &place).await;
        answer(&server, &behind).await;
        let before = receiver.got().len();
        answer(&server, &other).await;
        receiver.wait(before + 1).await;
        let words = ["--data-dir", "data", "skip", &place];
        let server = if running {
            let wrong = format!("deliveries.retry.1m/{partition}@0");
            let (code, _, error) =
                askwhen(dir.path(), &["--data-dir", "data", "skip", &wrong, "--server", &server.base]);
            assert!(code == Some(1) && error.contains("has stopped at"), "{code:?} {error}");
            let (code, _, error) = askwhen(dir.path(), &[&words[..], &["--server", &server.base]].concat());
            assert_eq!(code, Some(0), "{error}");
            server
        } else {
            assert_eq!(server.terminate().1, Some(0));
            let (code, _, error) = askwhen(dir.path(), &words);
            assert_eq!(code, Some(0), "{error}");
            Server::unready(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)])
        };
        server.until("it goes on", async || server.get("/readyz").await.status == 200).await;
        // That of the skipped record was never sent; the one of the skipped attempt may come again.
        let expected = got + if topic == "deliveries" { 2 } else { 4 };
        receiver.wait(expected).await;
        assert_eq!(server.terminate().1, Some(0));
        assert_eq!(receiver.got().len(), expected, "{topic}");
        let (code, _, error) = askwhen(dir.path(), &words);
        assert!(code == Some(3) && error.contains("has been applied"), "{code:?} {error}");
    }
    let rejects = tail(dir.path(), "rejects");
    let skipped: Vec<_> = rejects.iter().map(|reject| &reject["value"]).filter(|r| r["reason"] == "skipped").collect();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    assert_eq!((&skipped[0]["topic"], &skipped[1]["topic"]), (&json!("deliveries"), &json!("attempts")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lists_leave_out_a_record_of_which_the_process_has_died_three_times() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir.clone(), &["--dev"], &[]).await;
    server.put("/v1/surveys/open", open_survey()).await;
    let user = "victim";
    let partition = partition_of(user, PARTITIONS);
    assert_eq!(server.terminate().1, Some(0));
    let place = format!("decisions/{partition}@0");
    let fault = format!("listing={place}:abort");
    let server = Server::on(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)]).await;
    assert_eq!(server.trigger(user, "Main").await["reason"], "offered");
    dies_three_times(server, dir.path(), &fault).await;
    let server = Server::on(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)]).await;
    for n in 0..3 {
        server.trigger(user, &format!("Other{n}")).await;
    }
    let listed = async || {
        let page = server.get("/v1/decisions?user_id=victim").await.body;
        page["decisions"].as_array().is_some_and(|rows| rows.len() == 3)
    };
    server.until("the others are listed", listed).await;
    let counted = server.get("/metrics").await.bytes;
    let counted = String::from_utf8_lossy(&counted).into_owned();
    assert!(counted.contains("askwhen_console_unreadable_records_total{topic=\"decisions\"} 1"), "{counted}");
}
