//! The command line as its user sees it.

use serde_json::{Value, json};

use std::sync::Arc;

use crate::backtest::beside;
use crate::harness::{Server, askwhen, tail};
use crate::replay::{append, replayed};
use askwhen_domain::id::partition_of;

const FILE: &str = "kind: survey
survey_id: sleep-quality
name: Sleep quality
status: active
activate:
  event: ended_sleep
expires_after: 2h
show_on: [{trigger: MainActivity}]
questions:
  - {question_id: q1, type: rating_star, text: \"How did you sleep?\"}
---
kind: endpoint
endpoint_id: crm
url: http://127.0.0.1:59999/hooks
secret: {env: CRM_SECRET}
---
kind: settings
max_per_session: 2
";

#[tokio::test]
async fn apply_get_send_and_tail() {
    let server = Server::start().await;
    let dir = server.dir.path();
    std::fs::write(dir.join("all.yaml"), FILE).unwrap();
    let connection = ["--data-dir", "data", "--output", "json"];
    let run = |arguments: &[&str]| {
        let server_args = ["--server", server.base.as_str()];
        let verb_takes_server = arguments[0] != "tail";
        let all: Vec<&str> = connection
            .iter()
            .chain(arguments)
            .chain(server_args.iter().filter(|_| verb_takes_server))
            .copied()
            .collect();
        askwhen(dir, &all)
    };
    let (code, _, error) = run(&["apply", "-f", "all.yaml"]);
    assert_eq!(code, Some(2), "the variable is missing: {error}");
    assert!(error.contains("all.yaml:15") && error.contains("CRM_SECRET"), "{error}");
    let fixed = FILE.replace("{env: CRM_SECRET}", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    std::fs::write(dir.join("all.yaml"), fixed).unwrap();
    let (code, out, error) = run(&["apply", "-f", "all.yaml"]);
    assert_eq!(code, Some(0), "{error}");
    let rows: Value = serde_json::from_str(&out).unwrap();
    let outcomes: Vec<&str> = rows.as_array().unwrap().iter().map(|r| r["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["created", "created", "changed"], "{out}");
    let (_, out, _) = run(&["apply", "-f", "all.yaml"]);
    assert_eq!(out.matches("unchanged").count(), 3, "{out}");
    let (code, out, _) = run(&["get", "surveys", "sleep-quality"]);
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()["version"].clone()), (Some(0), json!(1)));
    assert_eq!(run(&["send", "event", "ann", "ended_sleep", "duration_min=415"]).0, Some(0));
    let (_, out, _) = run(&["send", "trigger", "ann", "MainActivity"]);
    let decision: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(decision["survey"]["activation"]["properties"], json!({"duration_min": 415}));
    let offer = decision["survey"]["offer_id"].as_str().unwrap();
    assert_eq!(run(&["send", "displayed", "ann", offer]).0, Some(0));
    assert_eq!(run(&["send", "answer", "ann", offer, "q1=5", "--completed"]).0, Some(0));
    let (code, _, error) = run(&["send", "answer", "ann", offer, "q1=6"]);
    assert!(code == Some(1) && error.contains("/answers/0/value"), "{error}");
    let (_, out, _) = run(&["tail", "decisions", "--user", "ann"]);
    let record: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(record["value"]["decision_id"], record["headers"]["id"]);
    assert!(record["headers"]["source"].as_str().unwrap().matches('/').count() == 2);
    let (code, _, error) = run(&["tail", "decisons"]);
    assert!(code == Some(2) && error.contains("did you mean decisions?"), "{error}");
    assert_eq!(run(&["doctor"]).0, Some(0), "{:?}", run(&["doctor"]));
}

#[test]
fn validate_names_file_line_and_nearest() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("s.yaml"),
        FILE.replace("expires_after: 2h", "expires_aftr: 2h").replace("rating_star", "stars"),
    )
    .unwrap();
    let (code, _, error) = askwhen(dir.path(), &["validate", "-f", "s.yaml"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("s.yaml:7: /expires_aftr: there is no such member here; did you mean expires_after?"),
        "{error}"
    );
    assert!(error.contains("s.yaml:10: /questions/0/type"), "all faults at once: {error}");
    std::fs::write(dir.path().join("s.yaml"), FILE).unwrap();
    for arguments in [&["validate", "-f", "s.yaml"][..], &["validate", "s.yaml"]] {
        let (code, out, error) = askwhen(dir.path(), arguments);
        assert_eq!((code, out.as_str()), (Some(0), "3 definitions are valid\n"), "{error}");
    }
    let (code, _, error) = askwhen(dir.path(), &["validate"]);
    assert!(code == Some(2) && error.contains("--file"), "{error}");
}

/// Mistakes that people make who have the page of another product in mind.
#[test]
fn mistakes_are_told_with_what_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    let text = "kind: survey\nsurvey_id: s\nname: S\nstatus: live\nshow_on: Main\nactivate: ended_sleep\nexpires_after: 2h\n\
                schedule: {hours: 8-20}\ntargeting: {attribute: plan, op: '==', value: pro}\nlimits: {max_responses: 9}\n\
                questions:\n  - {text: How?, type: stars}\n  - {id: q2, type: checkbox, text: Why?, choices: [a]}\n";
    std::fs::write(dir.path().join("s.yaml"), text).unwrap();
    let (code, _, error) = askwhen(dir.path(), &["validate", "s.yaml"]);
    assert_eq!(code, Some(2), "{error}");
    for (line, word) in [
        (4, "did you mean active?"),
        (5, "such as [{trigger: MainActivity}]"),
        (6, "such as {event: ended_sleep}"),
        (8, "such as [\"08:00\", \"20:00\"]"),
        (9, "did you mean eq?"),
        (10, "did you mean max_completed?"),
        (12, "did you mean rating_star?"),
        (13, "did you mean question_id?"),
        (13, "did you mean multi_choice?"),
        (13, "did you mean options?"),
    ] {
        let told = error.lines().any(|told| told.contains(&format!("s.yaml:{line}:")) && told.contains(word));
        assert!(told, "{line}: {word} is not in {error}");
    }
    assert!(!error.contains("used twice"), "what is missing is not the same: {error}");
}

#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| askwhen(dir.path(), arguments);
    assert_eq!(run(&["--help"]).0, Some(0));
    assert_eq!(run(&["wat"]).0, Some(2));
    let (code, _, error) = run(&["get", "surveys", "--key", "k", "--server", "http://127.0.0.1:1"]);
    assert_eq!(code, Some(4), "{error}");
    std::fs::write(dir.path().join("askwhen.toml"), "[log]\npartitons = 3\n").unwrap();
    let (code, _, error) = run(&["config", "print"]);
    assert!(code == Some(2) && error.contains("askwhen.toml:2") && error.contains("partitions"), "{error}");
    std::fs::write(dir.path().join("askwhen.toml"), "[log]\npartitions = 3\n").unwrap();
    let (code, out, _) = run(&["config", "print"]);
    assert!(code == Some(0) && out.contains("partitions = 3"));
    assert!(run(&["topics", "print"]).1.contains("askwhen.deliveries.retry.1h"));
    assert!(run(&["completions", "bash"]).1.contains("_askwhen"));
    std::fs::write(dir.path().join("askwhen.toml"), "").unwrap();
    let serve = ["serve", "--brokers", "127.0.0.1:1", "--listen", "127.0.0.1:0"];
    let (code, _, error) = run(&serve);
    assert!(code == Some(2) && error.contains("key_file"), "{error}");
    std::fs::write(dir.path().join("cluster.key"), "ab".repeat(32)).unwrap();
    let config = "[secrets]\nkey_file = \"cluster.key\"\n[snapshots]\nurl = \"file:///tmp/none\"\n";
    std::fs::write(dir.path().join("askwhen.toml"), config).unwrap();
    let (code, _, error) = run(&serve);
    assert!(code == Some(4) && error.contains("127.0.0.1:1") && error.contains("brokers"), "{error}");
}

#[tokio::test]
async fn what_would_lose_data_is_refused_with_3() {
    let dir = Server::start().await.kill();
    let start = |environment: (&str, &str)| {
        let mut command = std::process::Command::new(crate::harness::BINARY);
        command
            .args(["--data-dir", "data", "serve", "--test-clock", "--listen", "127.0.0.1:0"])
            .current_dir(dir.path());
        let out = command.env(environment.0, environment.1).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, error) = start(("ASKWHEN__LOG__PARTITIONS", "4"));
    assert!(code == Some(3) && error.contains("partitions"), "{error}");
    std::fs::rename(dir.path().join("data/secrets.key"), dir.path().join("elsewhere")).unwrap();
    let (code, error) = start(("A", "B"));
    assert!(code == Some(3) && error.contains("secrets.key"), "{error}");
    std::fs::rename(dir.path().join("elsewhere"), dir.path().join("data/secrets.key")).unwrap();
    std::fs::remove_dir_all(dir.path().join("data/log/events")).unwrap();
    let (code, error) = start(("A", "B"));
    assert!(code == Some(3) && error.contains("events/0 is damaged") && error.contains("is gone"), "{error}");
}

#[test]
fn the_demo_tells_its_story() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, error) = askwhen(dir.path(), &["demo", "--output", "json"]);
    assert_eq!(code, Some(0), "{error}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&summary["offered_at_1h59m59s"], &summary["offered_at_2h"], &summary["webhooks_verified"]),
        (&json!(true), &json!(false), &json!(4))
    );
}

#[tokio::test]
async fn what_would_change_is_shown_and_what_no_file_names_is_taken_away() {
    let server = Server::start().await;
    let dir = server.dir.path();
    let fixed = FILE.replace("{env: CRM_SECRET}", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    std::fs::write(dir.join("all.yaml"), &fixed).unwrap();
    let run = |arguments: &[&str]| {
        let connection = ["--server", server.base.as_str(), "--key", server.admin.as_str()];
        askwhen(dir, &[arguments, &connection].concat())
    };
    let (code, out, error) = run(&["apply", "--dry-run", "-f", "all.yaml"]);
    assert!(code == Some(0) && out.contains("created") && out.contains("nothing was changed"), "{out}{error}");
    assert_eq!(server.get("/v1/surveys").await.body["surveys"], json!([]));
    run(&["apply", "-f", "all.yaml"]);
    let edited = fixed.replace("expires_after: 2h", "expires_after: 3h");
    std::fs::write(dir.join("all.yaml"), edited).unwrap();
    let (_, out, _) = run(&["apply", "--dry-run", "-f", "all.yaml"]);
    assert!(out.contains("-  \"expires_after\": \"2h\"") && out.contains("+  \"expires_after\": \"3h\""), "{out}");
    assert!(!out.contains("whsec") && out.matches("unchanged").count() == 2, "{out}");
    assert_eq!(server.get("/v1/surveys/sleep-quality").await.body["version"], 1);

    server.put("/v1/surveys/other", crate::harness::open_survey()).await;
    std::fs::write(dir.join("surveys.yaml"), fixed.split("---").next().unwrap()).unwrap();
    run(&["apply", "-f", "surveys.yaml"]);
    assert_eq!(server.get("/v1/surveys/other").await.body["status"], "active", "nothing goes unasked");
    let (_, out, _) = run(&["apply", "--prune", "--dry-run", "-f", "surveys.yaml"]);
    assert!(out.contains("other") && out.contains("archived"), "{out}");
    assert_eq!(server.get("/v1/surveys/other").await.body["status"], "active");
    run(&["apply", "--prune", "-f", "surveys.yaml"]);
    assert_eq!(server.get("/v1/surveys/other").await.body["status"], "archived");
    assert_eq!(server.get("/v1/endpoints/crm").await.status, 200, "no endpoint is named at all");
}

/// What is told afterwards is what was decided, to the byte.
#[tokio::test]
async fn what_was_known_is_explained_from_the_journal() {
    let server = Server::start().await;
    let mut survey = crate::harness::open_survey();
    survey["activate"] = json!({"event": "woke"});
    survey["expires_after"] = json!("1h");
    server.put("/v1/surveys/open", survey.clone()).await;
    let few = json!({"name": "Few", "status": "active", "priority": -1, "limits": {"max_completed": 3},
        "show_on": [{"trigger": "Main"}], "questions": survey["questions"]});
    server.put("/v1/surveys/few", few).await;
    for n in 0..40 {
        let user = format!("u{}", n % 5);
        if n % 3 == 0 {
            server.event(&user, "woke", json!({})).await;
        }
        let decision = server.trigger(&user, "Main").await;
        if let Some(offer) = decision["survey"]["offer_id"].as_str().filter(|_| n % 2 == 0) {
            let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
            server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
        }
        server.advance("9m").await;
    }
    let recorded = crate::harness::tail(server.dir.path(), "decisions");
    let explain = |arguments: &[&str]| {
        let all = [&["--data-dir", "data", "--output", "json", "explain"], arguments].concat();
        let (code, out, error) = askwhen(server.dir.path(), &all);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    for n in 0..5 {
        let user = format!("u{n}");
        let of_user = recorded.iter().map(|record| &record["value"]).filter(|value| value["user_id"] == *user);
        let mut made: Vec<&Value> = of_user.collect();
        made.reverse();
        let told = explain(&[&user]);
        assert_eq!(told["decisions"].as_array().unwrap().iter().collect::<Vec<_>>(), made);
        let now = server.get(&format!("/v1/users/{user}")).await.body;
        assert_eq!((&told["user"]["counters"], &told["user"]["offers"]), (&now["counters"], &now["offers"]));
        // Just before a decision the same would have been decided, but for its ids.
        let Some(last) = made.first() else { continue };
        let at = last["decided_at"].as_str().unwrap();
        let told = explain(&[&user, "--trigger", "Main", "--at", at]);
        assert_eq!(told["decisions"][0], **last, "decided at that very moment");
    }
    // What would be decided is what is decided then, whatever is left of the quota.
    for n in 0..12 {
        let user = format!("stranger{n}");
        let told = explain(&[&user, "--trigger", "Main"]);
        let decision = server.trigger(&user, "Main").await;
        if told["needs_grant"] == json!([]) {
            let said = |decision: &Value| (decision["reason"].clone(), decision["survey"]["survey_id"].clone());
            assert_eq!(said(&told["decision"]), said(&decision), "{told}");
        }
    }
    let before = explain(&["u0", "--at", "2020-01-01T00:00:00Z", "--trigger", "Main"]);
    assert_eq!((&before["user"]["known"], &before["decision"]["reason"]), (&json!(false), &json!("no_survey")));
    let (code, out, _) = askwhen(server.dir.path(), &["--data-dir", "data", "explain", "u1", "--trigger", "Main"]);
    assert!(code == Some(0) && out.contains("at Main: ") && out.contains("PASSES"), "{out}");
    let (code, _, error) = askwhen(server.dir.path(), &["--data-dir", "data", "explain", "u1", "--at", "09:14"]);
    assert!(code == Some(2) && error.contains("or so long ago"), "{error}");
}

#[tokio::test]
async fn operators_work_on_the_command_line() {
    let server = Server::start().await;
    let dir = server.dir.path().to_owned();
    let mut listener = std::process::Command::new(crate::harness::BINARY)
        .args([
            "--output",
            "json",
            "webhook",
            "listen",
            "--listen",
            "127.0.0.1:0",
            "--answer",
            "410,200",
            "--count",
            "4",
        ])
        .env("ASKWHEN_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(listener.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let url = line.trim().strip_prefix("askwhen webhook listens on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    let run = |arguments: &[&str]| {
        let mut all = vec!["--data-dir", "data"];
        all.extend(arguments);
        all.extend(["--server", server.base.as_str()]);
        askwhen(&dir, &all)
    };
    std::fs::write(dir.join("secret.txt"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let file = format!("kind: endpoint\nendpoint_id: crm\nurl: {url}/hooks\nsecret: {{file: secret.txt}}\n");
    std::fs::write(dir.join("crm.yaml"), file).unwrap();
    assert_eq!(run(&["apply", "-f", "crm.yaml"]).0, Some(0));
    let (code, out, error) = run(&["endpoints", "test", "crm"]);
    assert_eq!((code, out.trim()), (Some(1), "crm: bad_status, status 410"), "{error}");
    server.put("/v1/surveys/open", crate::harness::open_survey()).await;
    crate::delivery::answer_one(&server, "ann").await;
    let listed = || run(&["--output", "json", "deliveries", "list", "--user", "ann", "--status", "delivered"]).1;
    server.until("both are delivered", async || listed().matches("dlv_").count() == 2).await;
    let rows: Value = serde_json::from_str(&listed()).unwrap();
    let id = rows[0]["delivery_id"].as_str().unwrap();
    let (code, out, error) = run(&["deliveries", "resend", id]);
    assert!(code == Some(0) && out.contains("sends msg_"), "{out} {error}");
    let (code, out, _) = run(&["deliveries", "show", id]);
    assert!(code == Some(0) && out.contains("delivered") && out.contains("200"), "{out}");
    let out = listener.wait_with_output().unwrap();
    assert!(out.status.success());
    let webhooks: Vec<Value> =
        String::from_utf8_lossy(&out.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(webhooks.len(), 4);
    assert!(webhooks.iter().all(|webhook| webhook["verified"] == true), "{webhooks:?}");
    let (code, out, error) = run(&["endpoints", "rotate-secret", "crm", "--ed25519"]);
    assert!(code == Some(0) && out.contains("whpk_"), "{out} {error}");
    let (code, out, error) = run(&["endpoints", "enable", "crm"]);
    assert!(code == Some(0) && out.contains("enabled already"), "{out} {error}");
    let (code, out, error) = run(&["deliveries", "recover", "--endpoint", "crm", "--since", "2020-01-01T00:00:00Z"]);
    assert_eq!((code, out.trim()), (Some(0), "0 deliveries are sent again"), "{error}");
    for wrong in [
        &["deliveries", "list", "--status", "lost"][..],
        &["deliveries", "list", "--since", "yesterday"],
        &["deliveries", "recover", "--endpoint", "crm", "--since", "soon"],
        &["endpoints", "rotate-secret", "crm", "--overlap", "long"],
    ] {
        let (code, _, error) = run(wrong);
        assert_eq!(code, Some(2), "{wrong:?}: {error}");
    }
    assert_eq!(run(&["endpoints", "enable", "none"]).0, Some(1));
    assert_eq!(run(&["deliveries", "show", "dlv_none"]).0, Some(1));
}

#[test]
fn a_kept_request_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("body"), "{\"test\": 2432232314}").unwrap();
    let verify = |secret: &str, signature: &str, more: &[&str]| {
        let header = format!("Webhook-Signature: v1,junk {signature}");
        let mut all = vec!["webhook", "verify", "--secret", secret, "--body", "body", "-H", &header];
        all.extend(["-H", "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek", "-H", "webhook-timestamp: 1614265330"]);
        all.extend(more);
        askwhen(dir.path(), &all)
    };
    let (secret, good) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    let (code, out, error) = verify(secret, good, &["--any-age"]);
    assert_eq!((code, out.trim()), (Some(0), "verified"), "{error}");
    let (code, _, error) = verify(secret, good, &[]);
    assert!(code == Some(1) && error.contains("five minutes"), "{error}");
    assert_eq!(verify(secret, "v1,AAAA", &["--any-age"]).0, Some(1));
    let (code, _, error) = verify("not a secret", good, &["--any-age"]);
    assert!(code == Some(2) && error.contains("whsec_"), "{error}");
}

/// What is on record and not decided any more, or differently, is shown.
#[tokio::test]
async fn differences_are_shown_record_by_record() {
    let server = Server::start().await;
    server.put("/v1/surveys/beside", beside()).await;
    for n in 0..20 {
        server.trigger(&format!("u{n}"), "Main").await;
    }
    let (dir, _) = server.terminate();
    let known = tail(dir.path(), "decisions").remove(3);
    let (partition, offset) =
        (known["partition"].as_u64().unwrap() as u32, known["headers"]["source"].as_str().unwrap());
    let log = askwhen_log::Embedded::open(&dir.path().join("data/log"), 8, askwhen_process::clock::Clock::new());
    let log = Arc::new(log.expect("it opens"));
    let mut forged = known["value"].clone();
    forged["decision_id"] = json!("dec_forged");
    let headers = [("id", "dec_forged".to_owned()), ("source", offset.to_owned())];
    append(&log, askwhen_wire::topic::Topic::Decisions, partition, &forged, &headers).await;
    // A copy under its own id says nothing new.
    let headers = [("id", known["headers"]["id"].as_str().unwrap().to_owned()), ("source", offset.to_owned())];
    append(&log, askwhen_wire::topic::Topic::Decisions, partition, &known["value"], &headers).await;
    // Of this nothing has been decided yet.
    let late = (0..).map(|n| format!("late{n}")).find(|user| partition_of(user, 8) == 0).unwrap();
    let trigger = json!({"type": "trigger", "user_id": late, "trigger": "Main"});
    append(&log, askwhen_wire::topic::Topic::Events, 0, &trigger, &[]).await;
    drop(log);
    let ran = replayed(dir.path(), &["run"]);
    assert_eq!((&ran["decisions"]["same"], &ran["decisions"]["only_recorded"]), (&json!(20), &json!(1)), "{ran:#}");
    assert_eq!(ran["decisions"]["not_yet_recorded"], 1, "{ran:#}");
    let server = Server::on(dir.clone(), &["--dev", "--test-clock"], &[]).await;
    server.until("it is decided", async || tail(dir.path(), "decisions").len() == 23).await;
    let ran = replayed(dir.path(), &["run"]);
    let compared = &ran["decisions"];
    assert_eq!((&compared["same"], &compared["not_yet_recorded"]), (&json!(21), &json!(0)), "{ran:#}");
    server.terminate();
    let diff = replayed(dir.path(), &["diff"]);
    assert_eq!((&diff["differences"], &diff["kept"][0]["decision_id"]), (&json!(1), &json!("dec_forged")), "{diff:#}");
    assert_eq!(diff["kept"][0]["replayed"], Value::Null);
    let (code, out, _) = askwhen(dir.path(), &["--data-dir", "data", "replay", "diff", "--exit-code"]);
    assert!(code == Some(1) && out.contains("dec_forged") && out.contains("not decided any more"), "{out}");
}
