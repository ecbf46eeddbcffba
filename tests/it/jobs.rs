//! Jobs: bulk work that survives the process, and does each thing once.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{BINARY, Receiver, Said, Server};

/// A server with so many dead deliveries of endpoint `crm`, whose receiver takes everything
/// from now on.
async fn with_dead_deliveries(count: usize) -> (Server, Receiver) {
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    let server = Server::start().await;
    let retry = json!({"kind": "fixed", "interval": "1s", "max_attempts": 1, "breaker": false});
    server
        .put("/v1/endpoints/crm", json!({"url": receiver.url, "retry": retry, "events": ["response.completed"]}))
        .await;
    let survey = json!({"name": "S", "status": "active", "link": true, "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q1", "type": "nps", "text": "How?"}]});
    server.put("/v1/surveys/s", survey).await;
    for n in 0..count {
        let body = json!({"answers": [{"question_id": "q1", "value": 9}], "completed": true});
        assert_eq!(server.post(&format!("/v1/users/u{n}/surveys/s/responses"), body).await.status, 200);
    }
    let is_dead = async || {
        let rows = server.all("deliveries").await;
        rows.len() == count && rows.iter().all(|row| row["status"] == "dead")
    };
    server.until("all are dead", is_dead).await;
    receiver.always(200);
    (server, receiver)
}

async fn job(server: &Server, body: Value) -> Said {
    server.call(&server.admin, Method::POST, "/v1/jobs", Some(&body)).await
}

async fn job_ends(server: &Server, job_id: &str, state: &str) -> Value {
    let path = format!("/v1/jobs/{job_id}");
    let has_ended =
        async || ["done", "failed", "cancelled"].contains(&server.get(&path).await.body["state"].as_str().unwrap());
    server.until("the job ends", has_ended).await;
    let ended = server.get(&path).await.body;
    assert_eq!(ended["state"], state, "{ended}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sends_each_message_once_and_counts_before() {
    let (server, receiver) = with_dead_deliveries(7).await;
    let filter = json!({"endpoint_id": "crm", "http_status": 500});
    let dry = job(&server, json!({"kind": "resend", "filter": filter, "dry_run": true})).await;
    assert_eq!((dry.status, &dry.body), (200, &json!({"count": 7})));
    for (body, code) in [
        (json!({"kind": "resend", "filter": {"colour": "red"}}), "unknown_field"),
        (json!({"kind": "resend", "filter": {"since": "yesterday"}}), "bad_time"),
        (json!({"kind": "else"}), "invalid"),
        (json!({}), "missing_field"),
        (json!({"kind": "recover"}), "missing_field"),
        (json!({"kind": "backtest", "from": "2026-01-01T00:00:00Z"}), "missing_field"),
    ] {
        let said = job(&server, body.clone()).await;
        assert_eq!((said.status, said.body["code"].as_str()), (422, Some(code)), "{body}: {said:?}");
    }
    // Slow enough to be seen, stopped, and gone on with by another start.
    let begun = job(&server, json!({"kind": "resend", "filter": filter, "rate": "60/m"})).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let job_id = begun.body["job_id"].as_str().unwrap().to_owned();
    receiver.wait(7 + 1).await;
    let dir = server.kill();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    let ended = job_ends(&server, &job_id, "done").await;
    assert_eq!((&ended["kind"], &ended["done"], &ended["total"]), (&json!("resend"), &json!(7), &json!(7)));
    let delivered =
        async || server.get("/v1/deliveries?status=delivered").await.body["deliveries"].as_array().unwrap().len() == 7;
    server.until("all are delivered", delivered).await;
    let mut ids: Vec<String> = receiver.got()[7..].iter().map(|hook| hook.header("webhook-id").to_owned()).collect();
    ids.sort();
    let sent = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    // An attempt that was under way when the process died is repeated.
    assert!(sent <= 8, "{sent}");
    let dry = job(&server, json!({"kind": "resend", "filter": filter, "dry_run": true})).await;
    assert_eq!(dry.body, json!({"count": 0}));
    let listed = server.get("/v1/jobs").await.body;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1, "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_recover_backfill_try_surveys_and_are_cancelled() {
    let (server, receiver) = with_dead_deliveries(3).await;
    let since = "2020-01-01T00:00:00Z";
    let slow = json!({"kind": "recover", "endpoint_id": "crm", "since": since, "rate": "1/h"});
    let slow = job(&server, slow).await.body["job_id"].as_str().unwrap().to_owned();
    let running = async || server.get(&format!("/v1/jobs/{slow}")).await.body["state"] != "queued";
    server.until("it runs", running).await;
    receiver.wait(3 + 1).await;
    let path = format!("/v1/jobs/{slow}");
    let cancelled = server.call(&server.admin, Method::DELETE, &path, None).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    // It is told to have ended with the last count, never before.
    assert_eq!((&cancelled.body["state"], &cancelled.body["done"]), (&json!("cancelled"), &json!(1)), "{cancelled:?}");
    let other = Receiver::start(&[]).await;
    server.put("/v1/endpoints/new", json!({"url": other.url, "events": ["response.completed"]})).await;
    let backfill = json!({"kind": "backfill", "endpoint_id": "new", "since": since});
    let mut dry = backfill.clone();
    dry["dry_run"] = true.into();
    assert_eq!(job(&server, dry).await.body, json!({"count": 3}));
    let begun = job(&server, backfill).await.body["job_id"].as_str().unwrap().to_owned();
    let ended = job_ends(&server, &begun, "done").await;
    assert_eq!((&ended["done"], &ended["result"]["sent"]), (&json!(3), &json!(3)));
    other.wait(3).await;
    server.event("ann", "e", json!({})).await;
    server.trigger("ann", "Main").await;
    let tried = json!({"name": "T", "survey_id": "t", "status": "active", "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q1", "type": "nps", "text": "How?"}]});
    let begun = job(&server, json!({"kind": "backtest", "surveys": [tried], "from": since})).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let ended = job_ends(&server, begun.body["job_id"].as_str().unwrap(), "done").await;
    assert_eq!(ended["result"]["versions"].as_array().unwrap().len(), 1, "{ended}");
    let got = receiver.got().len();
    assert!((3..=6).contains(&got), "{got}");
}

/// The command line for a server, with the start of a verb.
fn verb(server: &Server, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["--data-dir", "data", "--output", "json"]).args(arguments).args(["--server", &server.base]);
    command.current_dir(server.dir.path()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_that_send_many_messages_are_jobs() {
    let (server, receiver) = with_dead_deliveries(6).await;
    let span = ["--since", "2020-01-01T00:00:00Z"];
    let recover = [&["deliveries", "recover", "--endpoint", "crm"], &span[..]].concat();
    let only_job = async |server: &Server| {
        let jobs = server.get("/v1/jobs").await.body["jobs"].as_array().unwrap().clone();
        jobs.first().cloned().unwrap_or_default()
    };
    // One that is interrupted is cancelled, and has sent what it says.
    let slow = [&recover[..], &["--rate", "1/h"]].concat();
    let running = verb(&server, &slow).spawn().unwrap();
    receiver.wait(6 + 1).await;
    let pid = running.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = running.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("is cancelled"), "{ended:?}");
    assert_eq!(only_job(&server).await["state"], "cancelled");
    // Of what is left the server goes on with what nobody waits for, also after a crash.
    let begun = verb(&server, &[&recover[..], &["--rate", "60/m", "--detach"]].concat()).output().await.unwrap();
    assert!(begun.status.success(), "{begun:?}");
    let job: Value = serde_json::from_slice(&begun.stdout).unwrap();
    let job_id = job["job_id"].as_str().unwrap().to_owned();
    assert_eq!(job["total"], 5, "{job}");
    receiver.wait(7 + 1).await;
    let server = Server::on(server.kill(), &["--dev", "--test-clock"], &[]).await;
    job_ends(&server, &job_id, "done").await;
    let delivered =
        async || server.get("/v1/deliveries?status=delivered").await.body["deliveries"].as_array().unwrap().len() == 6;
    server.until("all are delivered", delivered).await;
    let webhooks = receiver.got();
    let ids: std::collections::BTreeSet<&str> = webhooks[6..].iter().map(|hook| hook.header("webhook-id")).collect();
    assert_eq!(ids.len(), 6, "each message is there");
    assert!(webhooks.len() <= 13, "an attempt that was under way at the crash may be repeated, and nothing else");
    let again: Value = serde_json::from_slice(&verb(&server, &recover).output().await.unwrap().stdout).unwrap();
    assert_eq!((&again["count"], &again["state"], &again["kind"]), (&json!(0), &json!("done"), &json!("recover")));
    // A new endpoint is told what was.
    let other = Receiver::start(&[]).await;
    server.put("/v1/endpoints/new", json!({"url": other.url, "events": ["response.completed"]})).await;
    let backfill = [&["deliveries", "backfill", "--endpoint", "new"], &span[..]].concat();
    let counted = verb(&server, &[&backfill[..], &["--dry-run"]].concat()).output().await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&counted.stdout).unwrap(), json!({"count": 6}), "{counted:?}");
    let done = verb(&server, &backfill).output().await.unwrap();
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&done["count"], &done["kind"]), (&json!(6), &json!("backfill")), "{done}");
    assert_eq!(done["backfill_id"], only_job(&server).await["job_id"]);
    other.wait(6).await;
    // What the server refuses is said.
    let none =
        verb(&server, &["deliveries", "recover", "--endpoint", "none", span[0], span[1]]).output().await.unwrap();
    assert!(none.status.code() == Some(1) && String::from_utf8_lossy(&none.stderr).contains("404"), "{none:?}");
}
