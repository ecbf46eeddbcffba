//! A wall clock that steps while the program serves, or between two starts.

use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::answer_one;
use crate::harness::{Receiver, Server, askwhen, open_survey};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A server whose wall clock is as far from this machine's as a file says.
/// Its monotonic clock is the machine's own.
async fn serve(dir: &Arc<tempfile::TempDir>) -> Server {
    assert!(Path::new(LIBRARY).exists(), "{LIBRARY} is not there; script/test installs it (package faketime)");
    let file = dir.path().join("time").display().to_string();
    let environment = [
        ("LD_PRELOAD", LIBRARY),
        ("FAKETIME_TIMESTAMP_FILE", &*file),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    Server::on(dir.clone(), &["--dev"], &environment).await
}

/// Steps the clock to so far from this machine's.
fn step(dir: &Path, offset: &str) {
    let (draft, file) = (dir.join("time.draft"), dir.join("time"));
    std::fs::write(&draft, offset).expect("written");
    std::fs::rename(draft, file).expect("renamed");
}

async fn is_told(server: &Server) -> bool {
    let said = server.get("/readyz").await;
    said.status == 503 && said.body["reasons"].to_string().contains("clock")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_while_serving_is_told_and_waited_for() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    step(dir.path(), "+0");
    let server = serve(&dir).await;
    server.put("/v1/surveys/open", open_survey()).await;
    let body = json!({"user_id": "ann", "event_name": "woke"});
    assert_eq!(server.post("/v1/events", body.clone()).await.status, 202);
    assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");

    step(dir.path(), "-2h");
    server.until("it says that the clock is behind", async || is_told(&server).await).await;
    let batch = json!({"events": [body.clone()]});
    for (path, body) in
        [("/v1/events", body.clone()), ("/v1/events", batch), ("/v1/users/ann/triggers/Main", json!({}))]
    {
        let said = server.post(path, body).await;
        let status = said.body["results"][0]["status"].as_u64().unwrap_or(u64::from(said.status));
        assert_eq!(status, 503, "{said:?}");
    }
    let erased = server.call(&server.server, reqwest::Method::DELETE, "/v1/users/ann", None).await;
    assert_eq!((erased.status, erased.body["code"].as_str()), (503, Some("log_unavailable")), "{erased:?}");
    assert!(erased.headers.contains_key("retry-after"));
    assert_eq!(server.get("/livez").await.status, 200);

    step(dir.path(), "+0");
    server.until("it goes on", async || server.get("/readyz").await.status == 200).await;
    assert_eq!(server.post("/v1/events", body).await.status, 202);
    assert_eq!(server.trigger("bob", "Main").await["reason"], "offered");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_jump_forwards_and_back_there_is_a_way_out() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    step(dir.path(), "+0");
    let server = serve(&dir).await;
    let mut survey = open_survey();
    survey["activate"] = json!({"event": "woke"});
    survey["expires_after"] = "2h".into();
    server.put("/v1/surveys/open", survey).await;
    step(dir.path(), "+30d");
    for user in ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"] {
        server.event(user, "woke", json!({})).await;
        assert_eq!(server.trigger(user, "Main").await["reason"], "offered");
    }
    step(dir.path(), "+0");
    server.until("it says that the clock is behind", async || is_told(&server).await).await;
    // While a server runs, it is asked to stop first.
    let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "doctor", "--accept-time"]);
    assert!(code == Some(3) && error.contains("stop it"), "{code:?} {error}");
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));

    let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "serve", "--listen", "127.0.0.1:0"]);
    assert!(code == Some(3) && error.contains("askwhen doctor --accept-time"), "{code:?} {error}");
    let (code, said, error) = askwhen(dir.path(), &["--data-dir", "data", "doctor", "--accept-time"]);
    assert_eq!(code, Some(0), "{said}{error}");
    let server = Server::on(dir.clone(), &["--dev"], &[]).await;
    for user in ["ann2", "bob2", "cid2", "dan2", "eve2", "fay2", "gus2", "hal2"] {
        server.event(user, "woke", json!({})).await;
        assert_eq!(server.trigger(user, "Main").await["reason"], "offered", "{user}");
    }
    // It holds for the next start, too.
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));
    let server = Server::on(dir.clone(), &["--dev"], &[]).await;
    assert_eq!(server.get("/readyz").await.status, 200);
    drop(server);
    // And whoever decides it once more comes to the same.
    let (code, said, error) =
        askwhen(dir.path(), &["--data-dir", "data", "--output", "json", "replay", "run", "--shadow", "shadow"]);
    assert_eq!(code, Some(0), "{error}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["differences"], 0, "{report}");
}

/// What is old is told by the log: no wall that is wrong takes away what is young.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_ahead_empties_no_list() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    step(dir.path(), "+0");
    let server = serve(&dir).await;
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    server.put("/v1/endpoints/crm", json!({"url": receiver.url, "events": ["response.completed"]})).await;
    server.put("/v1/surveys/open", open_survey()).await;
    for user in ["ann", "bob", "cid"] {
        answer_one(&server, user).await;
    }
    let lists = async |server: &Server| {
        let mut all = Vec::new();
        for list in ["decisions", "responses", "deliveries"] {
            all.push(server.all(list).await.len());
        }
        all
    };
    server.until("the lists are whole", async || lists(&server).await == [3, 3, 3]).await;
    // Rows are let go of every ten seconds.
    let looked_through = Duration::from_secs(13);
    step(dir.path(), "+3650d");
    tokio::time::sleep(looked_through).await;
    assert_eq!(lists(&server).await, [3, 3, 3], "while it serves");
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));
    let server = serve(&dir).await;
    tokio::time::sleep(looked_through).await;
    assert_eq!(lists(&server).await, [3, 3, 3], "from its start on");
}
