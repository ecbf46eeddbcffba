//! Data directories that released versions have written: this program opens each
//! with everything in it, and serves on. They were made once, by that version.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::harness::{Receiver, Server, askwhen};

fn golden() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(dir).expect("the golden directories").map(|entry| entry.expect("an entry").path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

/// A copy to be changed.
fn unpacked(archive: &Path) -> Arc<tempfile::TempDir> {
    let dir = tempfile::tempdir().expect("a folder");
    let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success(), "{}", archive.display());
    Arc::new(dir)
}

/// Lets a process believe that it is started at a moment: what was true then of
/// windows, offers and retries is true again.
fn at(moment: &str) -> Vec<(&'static str, String)> {
    let libraries = std::fs::read_dir("/usr/lib").expect("libraries").map(|entry| entry.expect("an entry").path());
    let library = libraries.map(|path| path.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    let library = library.expect("libfaketimeMT.so.1 is below /usr/lib: script/test installs faketime");
    let moment = moment.trim_end_matches('Z').replace('T', " ");
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("@{moment}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("TZ", "UTC".into()),
    ]
}

/// Where what is there lacks or contradicts what was; more may be there.
fn differences(was: &Value, is: &Value, place: &str, found: &mut Vec<String>) {
    match (was, is) {
        // Whether a quota is full is asked where it decides. The first look at a
        // user asked, so that a later one knows.
        (Value::Object(was), Value::Object(is))
            if was.get("gate") == Some(&"offer_outstanding".into()) && is.get("gate") == Some(&"quota_full".into()) =>
        {
            differences(&was["survey_id"], &is["survey_id"], place, found);
        }
        (Value::Object(was), Value::Object(is)) => {
            for (name, value) in was {
                differences(value, is.get(name).unwrap_or(&Value::Null), &format!("{place}/{name}"), found);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            for (n, (was, is)) in was.iter().zip(is).enumerate() {
                differences(was, is, &format!("{place}/{n}"), found);
            }
        }
        _ if was == is => {}
        _ => found.push(format!("{place}: was {was}, is {is}")),
    }
}

/// What is there of everything that was.
async fn found(server: &Server, was: &Value) -> Value {
    let mut is = json!({"settings": server.get("/v1/settings").await.body});
    for list in ["surveys", "endpoints", "triggers", "deliveries", "decisions", "responses"] {
        is[list] = server.all(list).await.into();
    }
    for (name, path) in [
        ("survey", "/v1/surveys/{}"),
        ("stats", "/v1/surveys/{}/stats"),
        ("delivery", "/v1/deliveries/{}"),
        ("users", "/v1/users/{}"),
    ] {
        for id in was[name].as_object().expect("an object").keys() {
            is[name][id] = server.get(&path.replace("{}", id)).await.body;
        }
    }
    is
}

/// Headers of endpoints were shown in clear until 0.1.0, and what receivers had said about
/// users was kept when these were erased.
fn redacted(was: &mut Value) {
    let deliveries = was["delivery"].as_object_mut().expect("an object");
    let of_erasure = |delivery: &Value| delivery["type"] == "user.erased";
    let erased: Vec<Value> = deliveries
        .values()
        .filter(|delivery| of_erasure(delivery))
        .map(|delivery| delivery["user_id"].clone())
        .collect();
    for delivery in deliveries.values_mut().filter(|delivery| !of_erasure(delivery)) {
        if erased.contains(&delivery["user_id"]) {
            for attempt in delivery["attempts"].as_array_mut().expect("a list") {
                let attempt = attempt.as_object_mut().expect("an object");
                attempt.retain(|name, _| !["response", "error"].contains(&name.as_str()));
            }
        }
    }
    for endpoint in was["endpoints"].as_array_mut().expect("a list") {
        for (_, value) in endpoint["headers"].as_object_mut().expect("an object") {
            *value = "(sealed)".into();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_every_version_open_with_everything_in_them_and_serve_on() {
    let versions = golden();
    assert!(!versions.is_empty());
    for version in versions {
        let dir = unpacked(&version.join("data.tar.gz"));
        let text = std::fs::read_to_string(version.join("expected.json")).expect("what was there");
        let mut was: Value = serde_json::from_str(&text).expect("JSON");
        redacted(&mut was);
        let mut environment = at(was["taken_at"].as_str().expect("a time"));
        environment.push(("ASKWHEN__LOG__PARTITIONS", "2".into()));
        let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Server::on(dir.clone(), &["--dev"], &environment).await;
        let was_taken_at = was.as_object_mut().expect("an object").remove("taken_at");
        server
            .until("the lists are there", async || {
                Some(server.all("deliveries").await.len()) == was["deliveries"].as_array().map(Vec::len)
            })
            .await;
        let mut wrong = Vec::new();
        differences(&was, &found(&server, &was).await, "", &mut wrong);
        assert!(wrong.is_empty(), "{} of {was_taken_at:?}:\n{}", version.display(), wrong.join("\n"));
        serves_on(&server).await;
        let (dir, code) = server.terminate();
        assert_eq!(code, Some(0));
        let (code, out, error) = askwhen(dir.path(), &["--data-dir", "data", "--output", "json", "snapshot", "verify"]);
        assert_eq!(code, Some(0), "{out} {error}");
    }
}

/// Events, offers, answers and webhooks go on; a header that was kept in clear is
/// sealed when its endpoint is changed, and still sent.
async fn serves_on(server: &Server) {
    let receiver = Receiver::start(&[]).await;
    let shown = server.get("/v1/endpoints/crm").await.body;
    let body = json!({"url": receiver.url, "events": ["response.completed"], "headers": shown["headers"]});
    server.put("/v1/endpoints/crm", body).await;
    server.event("a-new-one", "ended_sleep", json!({"duration_min": 300})).await;
    let offer = server.trigger("a-new-one", "MainActivity").await["survey"]["offer_id"].as_str().map(str::to_owned);
    let path = format!("/v1/users/a-new-one/offers/{}/answers", offer.expect("an offer"));
    let answers = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    assert_eq!(server.post(&path, answers).await.status, 200);
    let webhook = receiver.wait(1).await.remove(0);
    assert_eq!(webhook.json()["data"]["user_id"], "a-new-one");
    assert_eq!(webhook.header("authorization"), "Bearer golden-token");
    assert!(webhook.header("webhook-signature").starts_with("v1,"));
    let definitions = crate::harness::tail(server.dir.path(), "definitions");
    let newest =
        definitions.iter().rfind(|record| record["value"]["id"] == "crm" && record["value"]["kind"] == "endpoint");
    assert!(newest.expect("it is there")["value"]["body"]["headers"]["authorization"]["sealed"].is_string());
}

#[tokio::test]
async fn backups_of_every_version_verify_and_restore() {
    for version in golden() {
        let archive = version.join("backup.tar.gz");
        let dir = unpacked(&archive);
        let url = format!("file://{}", dir.path().join("backup").display());
        let keyed = [url.as_str(), "--key-file", "backup.key"];
        for verb in ["verify", "restore"] {
            let arguments = [&["--data-dir", "data", "backup", verb], &keyed[..]].concat();
            let (code, _, error) = askwhen(dir.path(), &arguments);
            assert_eq!(code, Some(0), "{verb} {}: {error}", archive.display());
        }
        let server = Server::on(dir, &["--dev"], &[("ASKWHEN__LOG__PARTITIONS", "2")]).await;
        assert_eq!(server.get("/v1/surveys/sleep-quality").await.status, 200);
        assert_eq!(server.get("/v1/users/user-1").await.body["known"], true);
    }
}
