//! What brokers' disks have damaged.

use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{Receiver, askwhen};
use crate::lost_topics::{answer, until_unready};
use crate::process::{Broker, Process};
use crate::producers::prefix;

/// Changes one bit of a text wherever it first stands in a topic's files; returns in how
/// many of them.
fn flip(broker: &Path, topic: &str, text: &str) -> usize {
    let mut flipped = 0;
    for folder in std::fs::read_dir(broker.join("data")).expect("its data") {
        let folder = folder.expect("an entry").path();
        if !folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{topic}-"))) {
            continue;
        }
        let segment = folder.join("00000000000000000000.log");
        let mut bytes = std::fs::read(&segment).expect("a segment");
        if let Some(at) = bytes.windows(text.len()).position(|part| part == text.as_bytes()) {
            bytes[at] ^= 1;
            std::fs::write(&segment, bytes).expect("written");
            flipped += 1;
        }
    }
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_brokers_disk_has_damaged_is_not_read_as_if_it_had_been_written() {
    for (topic, verbs) in [("events", true), ("deliveries", false)] {
        let mut broker = Broker::start();
        let dir = folder(&broker.address);
        let receiver = Receiver::start(&[]).await;
        let all = "bridge,engine,delivery";
        let server = Process::start(&dir, "n0", all, &["--dev"]).await;
        set_up(&server, &receiver).await;
        let body = json!({"attributes": {"city": "Amsterdam"}});
        for n in 0..12 {
            let put = server.call(Method::PUT, &format!("/v1/users/u{n}"), Some(&body)).await.expect("an answer");
            assert_eq!(put.status, 202);
        }
        assert!(answer(&server, 0..12).await.is_none());
        server.terminate();
        broker.stop();
        let name = format!("{}{topic}", prefix(dir.path()));
        assert!(flip(broker.dir(), &name, "Amsterdam") > 0, "{topic}");
        broker.start_again();
        // It listens before it leads its partitions.
        let deadline = Instant::now() + Duration::from_secs(60);
        while askwhen(dir.path(), &["tail", "rejects"]).0 != Some(0) {
            assert!(Instant::now() < deadline, "the broker does not come back");
        }
        std::fs::remove_dir_all(dir.path().join("n0")).expect("its state");
        std::fs::remove_dir_all(dir.path().join("snapshots")).ok();
        if verbs {
            for verb in [
                &["tail", "events"][..],
                &["replay", "run", "--shadow", "shadow"],
                &["explain", "u0", "--trigger", "Main"],
            ] {
                let (code, out, error) = askwhen(dir.path(), verb);
                assert!(!out.contains("@msterdam"), "{out}");
                // The user that is explained may be in a partition that is whole.
                let is_said = code != Some(0) && error.contains("is damaged at offset");
                assert!(is_said || verb[0] == "explain", "{verb:?} {code:?} {error}");
                assert!(code == Some(1) || verb[0] != "tail", "{code:?} {error}");
            }
        }
        let server = Process::unready(&dir, "n0", all, &["--dev"]);
        until_unready(&server, &[&format!("{topic}/"), "is damaged at offset"]).await;
        for n in 0..12 {
            let said = server.call(Method::GET, &format!("/v1/users/u{n}"), None).await.expect("an answer");
            assert_ne!(said.body["attributes"]["city"], "@msterdam", "{said:?}");
        }
    }
}
