//! What operators do every day from the command line.

use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::harness::{Server, askwhen, open_survey};

/// What is read can be sent back as it is.
#[tokio::test]
async fn what_get_prints_apply_takes() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    let endpoint = json!({"url": "http://127.0.0.1:9999/hook", "headers": {"x-team": "blue"}});
    server.put("/v1/endpoints/crm", endpoint).await;
    let dir = server.dir.path();
    let with_server = |arguments: &[&str]| {
        let base = ["--data-dir", "data"];
        let all: Vec<&str> = base.iter().chain(arguments).copied().chain(["--server", &server.base]).collect();
        askwhen(dir, &all)
    };
    for what in [&["surveys", "s"][..], &["endpoints", "crm"], &["settings"], &["surveys", "--output", "json"]] {
        let (code, printed, error) = with_server(&[&["get"], what].concat());
        assert_eq!(code, Some(0), "{error}");
        for name in ["printed.yaml", "printed.json"] {
            std::fs::write(dir.join(name), &printed).unwrap();
            let (code, said, error) = with_server(&["apply", "-f", name]);
            assert_eq!(code, Some(0), "{what:?} {name}: {error}\n{printed}");
            let same = said.lines().nth(1).is_some_and(|line| line.contains("unchanged"));
            assert!(same || what == ["settings"], "{what:?}: {said}");
        }
    }
    let shown = server.get("/v1/surveys/s").await.body;
    assert_eq!(server.put("/v1/surveys/s", shown).await.body["changed"], false);
}

#[tokio::test]
async fn verbs_find_the_server_and_the_key_as_configured() {
    let (dir, _) = Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], &[]).await.terminate();
    let operators = crate::logs::unused_address();
    let config = |keys: &str| {
        let text = format!("[http]\nlisten = \"127.0.0.1:9\"\nadmin_listen = \"{operators}\"\n{keys}");
        std::fs::write(dir.path().join("askwhen.toml"), text).unwrap();
    };
    config(
        "[[keys]]\nkind = \"admin\"\nkey = \"the admin's own key\"\n[[keys]]\nproject = \"b\"\nkind = \"client\"\nkey = \"a client key of b\"\n",
    );
    let server = Server::on(dir.clone(), &[], &[]).await;
    assert_eq!(server.call(&server.server, Method::GET, "/v1/users/u", None).await.status, 401, "keys.toml is void");
    let verb = |arguments: &[&str]| askwhen(dir.path(), &[&["--data-dir", "data"], arguments].concat());
    let (code, _, error) = verb(&["get", "surveys"]);
    assert_eq!(code, Some(0), "{error}");
    for (arguments, code, parts) in [
        (&["get", "surveys", "--key", "another key of theirs"][..], 1, &["401", "--key or ASKWHEN_KEY", "http://"][..]),
        (&["get", "surveys", "--project", "b"], 2, &["[[keys]] of the configuration", "project b", "admin"]),
        (&["get", "surveys", "--server", &server.base], 1, &["404", &server.base]),
    ] {
        let (found, _, error) = verb(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }
    let digest =
        "[[keys]]\nkind = \"admin\"\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\"\n";
    config(digest);
    let (code, _, error) = verb(&["get", "surveys"]);
    assert!(code == Some(2) && error.contains("SHA-256"), "{code:?} {error}");
    std::fs::write(dir.path().join("empty.toml"), "keys = []").unwrap();
    let (code, _, error) = askwhen(dir.path(), &["--config", "empty.toml", "serve"]);
    assert!(code == Some(2) && error.contains("[[keys]]") && error.contains("empty.toml:1"), "{code:?} {error}");
    let (code, printed, _) = verb(&["config", "print"]);
    assert!(code == Some(0) && printed.contains("admin_listen"), "{printed}");
}

#[tokio::test]
async fn what_is_probably_not_meant_is_told() {
    let server = Server::start().await;
    server.event("u", "ended_sleep", json!({})).await;
    let text = "kind: survey\nsurvey_id: w\nname: W\nshow_on: [{trigger: Main}]\nactivate: {event: endedSleep}\n\
                expires_after: 2h\nschedule: {end_at: 2020-01-01T00:00:00Z}\n\
                questions: [{question_id: q1, type: nps, text: \"?\"}]\n";
    let dir = server.dir.path();
    std::fs::write(dir.join("w.yaml"), text).unwrap();
    let (code, told, _) = askwhen(dir, &["validate", "-f", "w.yaml"]);
    assert_eq!(code, Some(0));
    assert!(told.contains("nobody is asked until its status is active") && told.contains("end_at is over"), "{told}");
    let rules = "kind: survey\nsurvey_id: r\nname: R\nstatus: active\nshow_on: [{trigger: Main}]\n\
                 targeting: {survey: w, answer: {question_id: q2, op: exists}}\n\
                 questions: [{question_id: q1, type: nps, text: \"Hi {{attribute.name}}\"}]\n---\n\
                 kind: endpoint\nendpoint_id: crm\nurl: https://crm.example/\n\
                 where: [{survey: r, question_id: score, op: lte, value: 6}]\n---\n\
                 kind: settings\ntargeting: {survey: r, answer: {question_id: q9, op: exists}}\n";
    std::fs::write(dir.join("r.yaml"), rules).unwrap();
    let (code, told, _) = askwhen(dir, &["validate", "-f", "w.yaml", "r.yaml"]);
    assert_eq!(code, Some(0));
    for part in
        ["the question q2 of w", "the question score of r", "the question q9 of r", "names attribute.name, which"]
    {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let seen = async || server.get("/v1/triggers").await.body["triggers"][0]["trigger_id"] == "ended_sleep";
    server.until("the name is known", seen).await;
    let apply = ["--data-dir", "data", "apply", "-f", "w.yaml", "--server", &server.base];
    let (code, told, error) = askwhen(dir, &apply);
    assert_eq!(code, Some(0), "{error}");
    for part in ["is a draft", "end_at is over", "did you mean ended_sleep?", "trigger Main has not been seen yet"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    server.put("/v1/surveys/s", open_survey()).await;
    let mut other = open_survey();
    other["questions"][0]["type"] = "text".into();
    let said = server.put("/v1/surveys/s?dry_run=true", other).await.body;
    let told = said["warnings"].to_string();
    assert!(told.contains("question q1 was") && told.contains("is text"), "{said}");
}

/// What is done every day has a verb.
#[tokio::test]
async fn verbs_of_daily_work() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    server.put("/v1/endpoints/crm", json!({"url": "http://127.0.0.1:9999/hook"})).await;
    let offer = server.trigger("ann", "Main").await["survey"]["offer_id"].as_str().unwrap().to_owned();
    let answers = json!({"answers": [{"question_id": "q1", "value": 4}], "completed": true});
    server.post(&format!("/v1/users/ann/offers/{offer}/answers"), answers).await;
    let listed = async || server.get("/v1/responses").await.body["responses"][0]["completed"] == true;
    server.until("the answer is listed", listed).await;
    let verb = |arguments: &[&str]| {
        let all = [&["--data-dir", "data"], arguments, &["--server", &server.base]].concat();
        askwhen(server.dir.path(), &all)
    };
    for (arguments, code, part) in [
        (&["resume", "s"][..], 0, "s is active already"),
        (&["pause", "s"], 0, "s is paused from now on"),
        (&["pause", "s"], 0, "s is paused already"),
        (&["resume", "s"], 0, "s is active from now on"),
        (&["responses", "s"], 0, "\"completed\":true"),
        (&["responses", "s", "--csv"], 0, "updated_at,q1"),
        (&["archive", "s"], 0, "s is archived"),
        (&["resume", "s"], 1, "s is archived: only what is paused can be active"),
        (&["delete", "none"], 1, "404"),
        (&["triggers", "create", "Successful payment", "--kind", "backend"], 0, "successful_payment is declared"),
        (&["triggers", "create", "Successful payment"], 1, "409"),
        (&["triggers", "list"], 0, "successful_payment"),
        (&["triggers", "delete", "successful_payment"], 0, "off the list"),
        (&["endpoints", "list"], 0, "healthy"),
        (&["endpoints", "disable", "crm"], 0, "crm is disabled"),
        (&["endpoints", "show", "crm"], 0, "\"state\": \"disabled\""),
        (&["endpoints", "enable", "crm"], 0, "crm is enabled"),
        (&["endpoints", "delete", "crm"], 0, "crm is removed"),
        (&["endpoints", "show", "crm"], 1, "there is no crm among the endpoints"),
        (&["get", "surveys", "ss"], 1, "there is no ss among the surveys; did you mean s?"),
        (&["get", "triggers", "none"], 1, "was asked with the key of"),
        (&["users", "attributes", "ann", "plan=pro", "seats=3"], 0, "ann has these attributes"),
        (&["users", "show", "ann"], 0, "\"plan\": \"pro\""),
        (&["users", "erase", "ann"], 0, "ann is forgotten"),
        (&["users", "show", "ann"], 0, "\"known\": false"),
    ] {
        let (found, out, error) = verb(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {out}{error}");
        assert!(format!("{out}{error}").contains(part), "{arguments:?}: {part} is not in {out}{error}");
    }
}

#[test]
fn the_doctor_says_what_other_machines_may_do() {
    let dir = tempfile::tempdir().unwrap();
    let client = "[[keys]]\nkind = \"client\"\nkey = \"a client key of a page\"\n";
    let secret = "[[projects]]\nidentity_secret = \"a secret of sixteen\"\n";
    for (http, rest, identity, operators) in [
        ("listen = \"127.0.0.1:9\"", client.to_owned(), true, true),
        ("listen = \"0.0.0.0:9\"", client.to_owned(), false, false),
        ("listen = \"[::1]:9\"", client.to_owned(), true, true),
        ("listen = \"0.0.0.0:9\"\nadmin_listen = \"127.0.0.1:8\"", client.to_owned(), false, true),
        ("listen = \"10.0.0.1:9\"", format!("{client}{secret}"), true, false),
    ] {
        std::fs::write(dir.path().join("askwhen.toml"), format!("[http]\n{http}\n{rest}")).unwrap();
        let (_, told, error) = askwhen(dir.path(), &["doctor", "--output", "json"]);
        let told: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}{error}"));
        let found = |name: &str| {
            told["checks"].as_array().unwrap().iter().find(|one| one["check"] == name).unwrap()["ok"].clone()
        };
        assert_eq!((found("identity"), found("operators")), (json!(identity), json!(operators)), "{http}: {told}");
    }
}
