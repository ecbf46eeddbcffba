//! Files of the state that were cut, changed or lost: what is served is right, from
//! whatever source is left, and what was passed over is said.

use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use crate::harness::{Receiver, Server, askwhen, open_survey};

const USERS: usize = 20;

fn copied(dir: &TempDir) -> Arc<TempDir> {
    let copy = tempfile::tempdir().expect("a folder");
    let status = Command::new("cp").arg("-a").arg(dir.path().join("data")).arg(copy.path()).status();
    assert!(status.expect("cp runs").success());
    Arc::new(copy)
}

/// What is known of everybody and everything, without what goes on with time.
async fn known(server: &Server) -> Value {
    let mut users = Vec::new();
    for n in 0..USERS {
        let mut user = server.get(&format!("/v1/users/user{n}")).await.body;
        user.as_object_mut().expect("a user").remove("surveys");
        users.push(user);
    }
    let lists = async |path: &str, name: &str| server.get(&format!("{path}?limit=200")).await.body[name].clone();
    json!({
        "users": users,
        "deliveries": lists("/v1/deliveries", "deliveries").await,
        "decisions": lists("/v1/decisions", "decisions").await,
        "responses": lists("/v1/responses", "responses").await,
        "stats": server.get("/v1/surveys/open/stats").await.body,
        "surveys": lists("/v1/surveys", "surveys").await,
    })
}

/// How many deliveries wait for another attempt, as the delivery itself knows.
async fn waiting(server: &Server) -> String {
    let metrics = String::from_utf8(server.get("/metrics").await.bytes.to_vec()).expect("text");
    let line = metrics.lines().find(|line| line.starts_with("askwhen_delivery_waiting{class=\"retry\"}"));
    line.expect("the gauge").to_owned()
}

/// A data directory with users, answers, deliveries done and deliveries that wait;
/// closed in order, its state in tables; and what is known.
async fn made(receiver: &Receiver) -> (Arc<TempDir>, Value) {
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let failing = Receiver::start(&[]).await;
    failing.always(500);
    let retry = json!({"kind": "fixed", "interval": "23h", "max_attempts": 9, "breaker": false});
    server.put("/v1/endpoints/crm", json!({"url": format!("{}/crm", receiver.url)})).await;
    server.put("/v1/endpoints/slow", json!({"url": failing.url, "retry": retry})).await;
    server.put("/v1/surveys/open", open_survey()).await;
    for n in 0..USERS {
        let user = format!("user{n}");
        server.event(&user, "ended_sleep", json!({"n": n})).await;
        let offer = server.trigger(&user, "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
        let answers = json!({"answers": [{"question_id": "q1", "value": 1 + n % 5}], "completed": n % 2 == 0});
        server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), answers).await;
    }
    server
        .until("every delivery was tried", async || {
            let all = server.get("/v1/deliveries?limit=200").await.body["deliveries"].clone();
            let all = all.as_array().expect("a list").clone();
            all.len() == 3 * USERS
                && all.iter().all(|row| ["delivered", "waiting"].contains(&row["status"].as_str().expect("a status")))
        })
        .await;
    let (dir, _) = server.terminate();
    // Opening brings what is in the write-ahead logs to tables.
    let server = Server::on(dir, &["--dev"], &[]).await;
    let known = known(&server).await;
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    (dir, known)
}

/// Files of a store whose names fit.
fn files(store: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(store).expect("a store").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| fits(&path.file_name().expect("a name").to_string_lossy())).collect()
}

fn cut(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("it opens");
    file.set_len(file.metadata().expect("metadata").len() / 2).expect("it is cut");
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("it is read");
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("it is written");
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("it is removed");
}

fn stores(data: &Path) -> Vec<PathBuf> {
    let state = data.join("state");
    let of = |role: &str| files(&state.join(role), |name| !name.contains('.'));
    [of("engine"), of("delivery"), vec![state.join("console")]].concat()
}

fn set_aside(data: &Path) -> usize {
    let state = data.join("state");
    let damaged = |folder: &Path| files(folder, |name| name.contains(".damaged-")).len();
    damaged(&state) + damaged(&state.join("engine")) + damaged(&state.join("delivery"))
}

/// Serves a copy whose stores have all suffered the same, until what is known is
/// what was known.
async fn heals(dir: &TempDir, truth: &Value, what: &str, harm: impl Fn(&Path)) {
    let copy = copied(dir);
    let data = copy.path().join("data");
    stores(&data).iter().for_each(|store| harm(store));
    let server = Server::on(copy, &["--dev"], &[]).await;
    // A table that is damaged is noticed when it is read; until it is made again there is no answer.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (is, waits) = (known(&server).await, waiting(&server).await);
        if is == *truth && waits.ends_with(" 30") {
            break;
        }
        let readiness = server.get("/readyz?verbose").await.body;
        assert!(Instant::now() < deadline, "{what}: {waits}, {readiness}\n{is}\ninstead of\n{truth}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(set_aside(&data) > 0, "{what}: nothing was set aside");
    server.event("user1", "ended_sleep", json!({})).await;
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0), "{what}");
}

fn is_list(name: &str) -> bool {
    name.starts_with("MANIFEST")
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_stores_are_noticed_set_aside_and_made_again() {
    let receiver = Receiver::start(&[]).await;
    let (dir, truth) = made(&receiver).await;
    let sent = receiver.got().len();
    let each =
        |fits: fn(&str) -> bool, harm: fn(&Path)| move |store: &Path| files(store, fits).iter().for_each(|f| harm(f));
    heals(&dir, &truth, "a cut list of tables", each(is_list, cut)).await;
    heals(&dir, &truth, "a changed list of tables", each(is_list, flip)).await;
    heals(&dir, &truth, "a list of tables that is gone", each(is_list, remove)).await;
    heals(&dir, &truth, "CURRENT gone", each(|name| name == "CURRENT", remove)).await;
    heals(&dir, &truth, "cut tables", each(|name| name.ends_with(".sst"), cut)).await;
    heals(&dir, &truth, "tables gone", each(|name| name.ends_with(".sst"), remove)).await;
    heals(&dir, &truth, "changed tables", each(|name| name.ends_with(".sst"), flip)).await;
    assert_eq!(receiver.got().len(), sent, "nothing was sent twice");
}

/// Snapshots of a role, the newest first.
fn snapshots(data: &Path, role: &str) -> Vec<PathBuf> {
    let partitions = files(&data.join("snapshots").join(role), |_| true);
    let mut all: Vec<PathBuf> = partitions.iter().flat_map(|p| files(p, |name| name.ends_with(".json"))).collect();
    all.sort_by(|a, b| b.file_name().cmp(&a.file_name()));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_are_passed_over_and_that_is_said() {
    let receiver = Receiver::start(&[]).await;
    let (dir, _) = made(&receiver).await;
    let server = Server::on(dir, &["--dev"], &[]).await;
    let snapshot = async || {
        let said = server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
        assert_eq!(said.status, 200, "{said:?}");
    };
    snapshot().await;
    // Whatever partition they are of, there is something new in it.
    for n in 0..USERS {
        server.event(&format!("user{n}"), "ended_sleep", json!({"again": true})).await;
        server.trigger(&format!("user{n}"), "Main").await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    snapshot().await;
    let truth = known(&server).await;
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    let sent = receiver.got().len();
    let newest_list = |manifest: &Path| files(&manifest.with_extension(""), is_list).remove(0);
    for (what, harm, every) in [
        ("the newest have a bit flipped", flip as fn(&Path), false),
        ("the newest are cut", cut, false),
        ("all have a bit flipped", flip, true),
        ("all are cut", cut, true),
    ] {
        let copy = copied(&dir);
        let data = copy.path().join("data");
        fs::remove_dir_all(data.join("state")).expect("removed");
        let mut harmed = 0;
        for role in ["engine", "delivery"] {
            for partition in files(&data.join("snapshots").join(role), |_| true) {
                let all = snapshots(&data, role);
                let own: Vec<_> = all.iter().filter(|path| path.parent() == Some(&partition)).collect();
                for manifest in own.iter().take(if every { usize::MAX } else { 1 }) {
                    harm(&newest_list(manifest));
                    harmed += 1;
                }
            }
        }
        assert!(harmed >= 16, "{harmed}");
        let server = Server::on(copy, &["--dev"], &[]).await;
        server.until(what, async || known(&server).await == truth).await;
        let verbose = server.get("/readyz?verbose").await.body;
        let passed_over = verbose["owned"]["passed_over"].as_array().expect("a list").clone();
        assert!(passed_over.len() >= 8, "{what}: {verbose}");
        let (copy, code) = server.terminate();
        assert_eq!(code, Some(0), "{what}");
        let (code, out, _) = askwhen(copy.path(), &["--data-dir", "data", "snapshot", "list"]);
        assert_eq!(code, Some(0));
        assert!(what.contains("bit") || out.contains(" of "), "a cut one is seen in the list: {out}");
        assert_eq!(askwhen(copy.path(), &["--data-dir", "data", "snapshot", "verify"]).0, Some(1), "{what}");
    }
    assert_eq!(receiver.got().len(), sent, "nothing was sent twice");
}

/// Whoever verifies snapshots verifies those of all partitions that the log has.
#[tokio::test]
async fn snapshots_of_more_partitions_than_are_configured_are_verified_too() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &[("ASKWHEN__LOG__PARTITIONS", "9")]).await;
    server.put("/v1/surveys/open", open_survey()).await;
    // What comes to the last partition is in its snapshot once it is in its store.
    let last = server.dir.path().join("data/snapshots/engine/8");
    server
        .until("the last partition has a snapshot", async || {
            let said = server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await;
            assert_eq!(said.status, 200, "{said:?}");
            last.exists()
        })
        .await;
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    let verify = || askwhen(dir.path(), &["--data-dir", "data", "snapshot", "verify"]);
    assert_eq!(verify().0, Some(0));
    let manifest = files(&last, |name| name.ends_with(".json")).remove(0);
    flip(&files(&manifest.with_extension(""), is_list).remove(0));
    let (code, _, error) = verify();
    assert!(code == Some(1) && error.contains("engine/8"), "{code:?} {error}");
}

/// Every segment of the log, and what it holds.
fn segments(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![data.join("log")];
    while let Some(folder) = folders.pop() {
        for path in files(&folder, |_| true) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read(path).expect("it is read"))).collect()
}

/// Whoever starts beside a log that has lost its end finds no trace of it later: not
/// one role may have written before all have looked.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_leaves_the_log_as_it_was() {
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let receiver = Receiver::start(&[]).await;
    server.put("/v1/endpoints/crm", json!({"url": format!("{}/crm", receiver.url)})).await;
    server.put("/v1/surveys/open", open_survey()).await;
    for n in 0..USERS {
        server.event(&format!("user{n}"), "ended_sleep", json!({})).await;
        assert_eq!(server.trigger(&format!("user{n}"), "Main").await["reason"], "offered");
    }
    // Everything that the state is made of is in the log, and is told of nowhere else.
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    let data = dir.path().join("data");
    let ends = data.join("log/ends.json");
    fs::remove_file(&ends).expect("removed");
    let before = segments(&data);
    let journals: Vec<_> = before.iter().filter(|(path, bytes)| is_journal(path) && !bytes.is_empty()).collect();
    assert!(journals.len() >= 4, "{journals:?}");
    for (journal, whole) in journals {
        fs::write(journal, &whole[..whole.len() - 1]).expect("it is cut");
        let program = env!("CARGO_BIN_EXE_askwhen");
        let serve = [program, "--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0"];
        let started = Command::new("timeout").arg("60").args(serve).current_dir(dir.path()).output().expect("it runs");
        let error = String::from_utf8_lossy(&started.stderr);
        assert_eq!(started.status.code(), Some(3), "{}: {error}", journal.display());
        assert!(error.contains("the log has lost its end"), "{error}");
        for ((path, was), (_, is)) in before.iter().zip(segments(&data)) {
            let holds = if path == journal { was.starts_with(&is) } else { *was == is };
            assert!(holds, "{} was written to beside {}", path.display(), journal.display());
        }
        fs::write(journal, whole).expect("it is put back");
        fs::remove_file(&ends).expect("noted by the start");
    }
    let server = Server::on(dir, &["--dev"], &[]).await;
    let decisions = server.get("/v1/decisions?limit=200").await.body["decisions"].clone();
    assert_eq!(decisions.as_array().expect("a list").len(), USERS);
    server.event("user1", "ended_sleep", json!({})).await;
    assert_eq!(server.terminate().1, Some(0));
}

fn is_journal(path: &Path) -> bool {
    path.components().any(|component| component.as_os_str() == "events")
}

/// Whatever is written to a file that nobody finds again is lost at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_taken_away_while_it_is_written_to_ends_the_process() {
    for harm in ["a segment is removed", "other files are put in their place", "the data directory is renamed"] {
        let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
        server.put("/v1/surveys/open", open_survey()).await;
        assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");
        let data = server.dir.path().join("data");
        let journals: Vec<_> =
            segments(&data).into_iter().map(|(path, _)| path).filter(|path| is_journal(path)).collect();
        match harm {
            "a segment is removed" => remove(&journals[0]),
            "other files are put in their place" => {
                for segment in journals {
                    let copy = segment.with_extension("copy");
                    fs::copy(&segment, &copy).expect("copied");
                    fs::rename(copy, segment).expect("renamed");
                }
            }
            _ => fs::rename(&data, data.with_extension("elsewhere")).expect("renamed"),
        }
        let is_over =
            || fs::read_to_string(format!("/proc/{}/stat", server.pid())).is_ok_and(|stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(30);
        let request = || server.request(reqwest::Method::POST, "/v1/users/ann/triggers/Main").body("{}");
        while !is_over() {
            assert!(Instant::now() < deadline, "{harm}, and it goes on");
            // More is written; whether there is an answer is all one.
            drop(request().bearer_auth(&server.server).header("content-type", "application/json").send().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (_, code) = server.ended();
        assert!(code.is_some_and(|code| code != 0), "{harm}: {code:?}");
    }
}
