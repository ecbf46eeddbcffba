//! A record that ends the process each time that it is applied.

use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use askwhen_domain::id::partition_of;

use crate::harness::{BINARY, Server, askwhen, open_survey, tail};

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

/// Where the next record of a user will stand.
fn next_place(dir: &Path, user: &str) -> (u32, usize) {
    let partition = partition_of(user, PARTITIONS);
    let count = tail(dir, "events").iter().filter(|record| record["partition"] == partition).count();
    (partition, count)
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
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.request(Method::GET, "/livez").send().await.is_ok() {
            assert!(Instant::now() < deadline, "{fault} does not end it");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(server);
        dies(dir.path(), &fault);
        dies(dir.path(), &fault);

        // The others are served; what comes is kept.
        let server = Server::unready(dir.clone(), &["--dev"], &[("ASKWHEN_FAULT", &fault)]);
        let stopped =
            async || server.get("/readyz").await.body["reasons"].to_string().contains(&format!("askwhen skip {place}"));
        server.until("it says what has stopped, and what to do", stopped).await;
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
