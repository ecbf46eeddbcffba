//! The log's own files harmed: a start refuses and names the file, and whoever only
//! looks fails with the place instead of taking it for the end.

use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::harness::{Server, askwhen, open_survey};

/// The segments of a topic that hold anything.
fn segments(dir: &Path, topic: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for partition in fs::read_dir(dir.join("data/log").join(topic)).expect("a topic") {
        for file in fs::read_dir(partition.expect("a partition").path()).expect("a folder") {
            let path = file.expect("a file").path();
            if fs::metadata(&path).expect("there").len() > 0 {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// A data directory with records in all topics that the engine writes, closed in order.
async fn filled() -> Arc<tempfile::TempDir> {
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    server.put("/v1/surveys/open", open_survey()).await;
    for n in 0..8 {
        let user = format!("user{n}");
        server.event(&user, "ended_sleep", json!({"n": n})).await;
        server.trigger(&user, "Main").await;
    }
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    dir
}

#[tokio::test]
async fn a_log_that_was_harmed_is_refused_and_whoever_reads_it_says_where() {
    let dir = filled().await;
    let serve = ["--data-dir", "data", "serve", "--listen", "127.0.0.1:0", "--dev"];
    for topic in ["events", "decisions", "definitions"] {
        let path = segments(dir.path(), topic).remove(0);
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let whole = fs::read(&path).expect("readable");
        let harms = [None, Some(Vec::new()), Some(whole[..whole.len() - 1].to_vec()), Some(flipped(&whole))];
        for harm in harms {
            let what =
                harm.as_ref().map_or("gone".to_owned(), |bytes| format!("{} of {} bytes", bytes.len(), whole.len()));
            match &harm {
                None => fs::remove_file(&path).expect("removed"),
                Some(bytes) => fs::write(&path, bytes).expect("written"),
            }
            let (code, _, error) = askwhen(dir.path(), &serve);
            assert!(
                code == Some(3) && error.contains(&name) && error.contains(topic),
                "{topic}, {what}: {code:?} {error}"
            );
            let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "tail", topic]);
            assert!(
                code == Some(1) && error.contains(&name) && error.contains("offset"),
                "{topic}, {what}: {code:?} {error}"
            );
            fs::write(&path, &whole).expect("written");
        }
    }
    for path in segments(dir.path(), "events") {
        let whole = fs::read(&path).expect("readable");
        fs::write(&path, flipped(&whole)).expect("written");
        let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "replay", "run"]);
        assert!(code == Some(1) && error.contains("offset"), "{code:?} {error}");
        fs::write(&path, &whole).expect("written");
    }
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(server.get("/v1/surveys/open").await.status, 200, "nothing was changed by any of that");
    server.terminate();
}

/// Between the marks of what is read at a time, for the last record and any other.
#[tokio::test]
async fn records_of_every_size_are_there_after_every_restart() {
    let mut dir = Arc::new(tempfile::tempdir().expect("a folder"));
    for round in 0..3 {
        let server = Server::on(dir.clone(), &["--dev"], &[]).await;
        for size in [3_900, 16_200, 20_300, 22_000, 31_000] {
            server.event("one", "large", json!({"round": round, "text": "x".repeat(size)})).await;
        }
        let question = |n: usize| json!({"question_id": format!("q{n}"), "type": "text", "text": "y".repeat(16_000)});
        let questions: Vec<_> = (0..18).map(question).collect();
        let survey = json!({"name": format!("Large {round}"), "status": "active", "show_on": [{"trigger": "Main"}],
            "questions": questions});
        server.put("/v1/surveys/large", survey).await;
        assert_eq!(server.get("/readyz").await.status, 200);
        dir = if round == 1 { server.kill() } else { server.terminate().0 };
    }
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(server.get("/v1/surveys/large").await.body["name"], "Large 2");
    server.terminate();
}
