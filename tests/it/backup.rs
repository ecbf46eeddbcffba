//! A machine is lost, and another goes on.

use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

use crate::backtest::{App, beside, days, tried};
use crate::delivery::{answer_one, endpoint};
use crate::harness::{KAFKA_PARTITIONS, ON_KAFKA, Receiver, Server, askwhen, differences, history};
use crate::replay::replayed;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn backup(dir: &Path, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let all = [&["--data-dir", "data", "--output", "json", "backup"], arguments].concat();
    let (code, out, error) = askwhen(dir, &all);
    (code, serde_json::from_str(&out).unwrap_or(Value::Null), error)
}

fn done(dir: &Path, arguments: &[&str]) -> Value {
    let (code, said, error) = backup(dir, arguments);
    assert_eq!(code, Some(0), "{error}");
    said
}

async fn users(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    for n in 0..18 {
        all.push(server.get(&format!("/v1/users/user{n}")).await.body);
    }
    all
}

#[tokio::test]
async fn another_machine_goes_on_with_a_backup() {
    let receiver = Receiver::start(&[]).await;
    let server = Server::start().await;
    server.put("/v1/surveys/beside", beside()).await;
    let mut survey = tried();
    survey.as_object_mut().unwrap().remove("kind");
    survey["limits"] = json!({"max_completed": 30});
    server.put("/v1/surveys/tried", survey).await;
    let secret =
        json!({"url": receiver.url, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "events": ["response.*"]});
    server.put("/v1/endpoints/crm", secret).await;
    days(&server, App::Answers).await;
    let dir = server.dir.clone();
    let at = dir.path();
    let place = tempfile::tempdir().unwrap();
    let url = format!("file://{}", place.path().display());
    std::fs::write(at.join("backup.key"), KEY).unwrap();
    let keyed = [url.as_str(), "--key-file", "backup.key"];
    // A partition without records has no snapshot yet.
    let snapshots = 2 * if ON_KAFKA { KAFKA_PARTITIONS as usize } else { 8 };
    server
        .until("snapshots", async || {
            let said = server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
            said.body["snapshots"].as_array().map_or(0, Vec::len) == snapshots
        })
        .await;
    let asked: &[&str] = if ON_KAFKA { &[] } else { &["--server", server.base.as_str()] };
    let create = [&["create"], &keyed[..], asked].concat();
    let first = done(at, &create);
    let verified = done(at, &[&["verify"], &keyed[..]].concat());
    assert_eq!((&verified["name"], &verified["secrets_opened"]), (&first["name"], &json!(true)));
    assert_eq!(in_clear(place.path()), Vec::<std::path::PathBuf>::new());
    // Without the key it can still be compared with what was written.
    assert_eq!(done(at, &["verify", url.as_str()])["secrets_opened"], false);
    // Taken while everything is in motion.
    let (second, ()) = tokio::join!(
        async {
            let (at, create) = (at.to_owned(), create.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
            let run = move || done(&at, &create.iter().map(String::as_str).collect::<Vec<_>>());
            tokio::task::spawn_blocking(run).await.unwrap()
        },
        days(&server, App::Displays)
    );
    assert_ne!(first["name"], second["name"]);
    let moving = another(at, &[&["restore"], &keyed[..]].concat()).await;
    days(&moving, App::Answers).await;
    let ran = replayed(moving.dir.path(), &["run"]);
    assert_eq!((&ran["differences"], &ran["decisions"]["not_yet_recorded"]), (&json!(0), &json!(0)), "{ran:#}");
    drop(moving);
    // And once more, at rest: what another machine has then is what there was.
    let before = users(&server).await;
    server
        .until("all is delivered and listed", async || {
            let deliveries = server.all("deliveries").await;
            deliveries.len() == receiver.got().len() && deliveries.iter().all(|row| row["status"] == "delivered")
        })
        .await;
    let lists = history(async |path| server.get(&path).await.body).await;
    assert!(lists["/v1/decisions"].as_array().is_some_and(|all| all.len() > 50), "{lists:?}");
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));
    let last = done(at, &[&["create"], &keyed[..]].concat());
    let named = [&["restore", url.as_str(), last["name"].as_str().unwrap()], &keyed[1..]].concat();
    let other = another(at, &named).await;
    assert_eq!(users(&other).await, before);
    let now = async || history(async |path| other.get(&path).await.body).await;
    other.until("every list is what it was", async || differences(&lists, &now().await).is_empty()).await;
    let heard = receiver.got().len();
    other.put("/v1/surveys/open", crate::harness::open_survey()).await;
    let decision = other.trigger("fresh", "Main").await;
    let offer = decision["survey"]["offer_id"].as_str().unwrap();
    let answers = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    other.post(&format!("/v1/users/fresh/offers/{offer}/answers"), answers).await;
    let webhook = receiver.wait(heard + 1).await.pop().unwrap();
    assert!(webhook.header("webhook-signature").starts_with("v1,"), "its secret came along: {webhook:?}");
    let ran = replayed(other.dir.path(), &["run"]);
    assert_eq!(ran["differences"], 0, "{ran:#}");
    refused(at, &url, place.path());
}

/// Files below a folder in which something of the log or the state can be read.
fn in_clear(place: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![place.to_owned()]);
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            // Users, definitions; the names in a table or a write-ahead log.
            if ["user1", "ended_sleep", "question_id", "rocksdb"].iter().any(|text| holds(text)) {
                found.push(path);
            }
        }
    }
    assert!(files > 20, "{files}");
    found
}

/// A new machine, with nothing but the backup and its key.
async fn another(at: &Path, restore: &[&str]) -> Server {
    let fresh = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(at.join("backup.key"), fresh.path().join("backup.key")).unwrap();
    // What a restoration that was killed has left.
    std::fs::create_dir_all(fresh.path().join("data.restoring/log")).unwrap();
    let restored = done(fresh.path(), restore);
    if ON_KAFKA {
        let partitions = format!("[log]\nkind = \"embedded\"\npartitions = {KAFKA_PARTITIONS}\n");
        std::fs::write(fresh.path().join("askwhen.toml"), partitions).unwrap();
        let kept = std::fs::read_to_string(fresh.path().join("data/restored-askwhen.toml")).unwrap();
        assert!(restored["configuration"].is_string() && kept.contains("kind = \"kafka\""), "{restored}");
    }
    let (code, _, error) = backup(fresh.path(), restore);
    assert!(code == Some(3) && error.contains("holds something"), "{error}");
    Server::on(fresh, &["--dev", "--test-clock"], &[]).await
}

fn refused(at: &Path, url: &str, place: &Path) {
    std::fs::write(at.join("other.key"), KEY.replace('0', "f")).unwrap();
    std::fs::write(at.join("short.key"), "abc").unwrap();
    let empty = tempfile::tempdir().unwrap();
    let nothing = format!("file://{}", empty.path().display());
    for (arguments, expected, says) in [
        (&["verify", url, "--key-file", "other.key"][..], 2, "another key"),
        (&["verify", url, "--key-file", "short.key"], 2, "64 hex digits"),
        (&["verify", url, "never"], 1, "no such backup"),
        (&["verify", &nothing], 1, "no backup in"),
        (&["create", url, "--key-file", "missing.key"], 2, "missing.key"),
        (&["create", "ftp://x", "--key-file", "backup.key"], 2, "file:///…, s3://…"),
        (&["create", url, "--key-file", "other.key"], 2, "another key"),
        (&["verify", "file:///nowhere/at/all"], 2, "no such folder"),
    ] {
        let (code, _, error) = backup(at, arguments);
        assert!(code == Some(expected) && error.contains(says), "{arguments:?}: {code:?} {error}");
    }
    let chunks = std::fs::read_dir(place.join("chunks")).unwrap().map(|entry| entry.unwrap().path());
    let largest = chunks.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(&largest).unwrap();
    let mut bytes = whole.clone();
    bytes[500] ^= 1;
    std::fs::write(&largest, &bytes).unwrap();
    // It may belong to an earlier backup: all of them are read.
    let manifests = std::fs::read_dir(place.join("backups")).unwrap();
    let mut manifests: Vec<_> = manifests.map(|entry| entry.unwrap().path()).collect();
    manifests.sort();
    let name = |path: &std::path::PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let verified: Vec<_> = manifests.iter().map(|path| backup(at, &["verify", url, &name(path)])).collect();
    assert!(verified.iter().any(|(code, _, error)| *code == Some(3) && error.contains("not as it was written")));
    std::fs::write(&largest, &whole).unwrap();
    // The newest is not passed over because its manifest cannot be read.
    let newest = manifests.last().unwrap();
    let text = std::fs::read_to_string(newest).unwrap();
    for damaged in [&text[..100], "", &text.replacen("\"end\": ", "\"end\": 1", 1)] {
        std::fs::write(newest, damaged).unwrap();
        let (code, _, error) = backup(at, &["verify", url]);
        assert!(code == Some(3) && error.contains(&name(newest)) && error.contains("others are"), "{error}");
        let (code, _, error) =
            backup(empty.path(), &["restore", url, "--key-file", at.join("backup.key").to_str().unwrap()]);
        assert!(code == Some(3) && std::fs::read_dir(empty.path()).unwrap().next().is_none(), "{error}");
    }
}

/// Checkpoints and the delivery's writes come every few seconds; who asks for a snapshot does
/// not have to know that.
#[tokio::test]
async fn a_snapshot_holds_what_was_applied_before_it_was_requested() {
    let receiver = Receiver::start(&[]).await;
    let server = Server::start().await;
    endpoint(&server, &receiver, json!({})).await;
    for answered in [5, 10] {
        for n in answered - 5..answered {
            answer_one(&server, &format!("user{n}")).await;
        }
        receiver.wait(answered).await;
        let said = server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
        assert_eq!(said.status, 200, "{said:?}");
        let snapshots = said.body["snapshots"].as_array().unwrap();
        let covered = |topic: &str| -> u64 {
            snapshots.iter().filter_map(|snapshot| snapshot["positions"][topic].as_u64()).sum()
        };
        // A trigger and its answers, and one message each.
        assert!(covered("events") >= 2 * answered as u64, "{said:?}");
        assert!(covered("deliveries") >= answered as u64, "{said:?}");
    }
}
