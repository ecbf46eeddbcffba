//! What the console stands on: sessions, keys at run time, versions, explanations and
//! timelines.

use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Receiver, Said, Server, askwhen};

/// A request with a session's cookie and the console's header, and nothing else.
async fn with_session(server: &Server, cookie: &str, method: Method, path: &str, more: &[(&str, &str)]) -> Said {
    let mut request = server.request(method, path).header("cookie", cookie).header("x-askwhen-console", "1");
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    Server::said(request.header("content-type", "application/json").body("{}")).await
}

async fn sign_in(server: &Server, body: Value) -> Said {
    let request = server.request(Method::POST, "/console/session").header("content-type", "application/json");
    Server::said(request.body(body.to_string())).await
}

/// The cookie of an answer, as a browser sends it back.
fn cookie(said: &Said) -> String {
    let set = said.headers["set-cookie"].to_str().expect("plain");
    set.split(';').next().expect("a pair").to_owned()
}

async fn make_key(server: &Server, name: &str, kind: &str) -> Value {
    let body = json!({"name": name, "kind": kind});
    let said = server.call(&server.admin, Method::POST, "/v1/keys", Some(&body)).await;
    assert_eq!(said.status, 201, "{said:?}");
    said.body
}

fn survey(name: &str) -> Value {
    json!({"name": name, "status": "active", "activate": {"event": "ended_sleep"}, "expires_after": "2h",
        "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation"},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_serves_pages_of_this_origin_alone_and_as_long_as_its_key() {
    let server = Server::start().await;
    let key = make_key(&server, "anna", "admin").await;
    let (text, id) = (key["key"].as_str().unwrap(), key["key_id"].as_str().unwrap());
    assert_eq!(sign_in(&server, json!({"key": "none of the known keys"})).await.status, 401);
    assert_eq!(sign_in(&server, json!({"key": server.client})).await.status, 403);
    assert_eq!(sign_in(&server, json!({})).await.status, 422);
    let said = sign_in(&server, json!({"key": text})).await;
    assert_eq!((said.status, &said.body["name"], &said.body["kind"]), (200, &json!("anna"), &json!("admin")));
    let set = said.headers["set-cookie"].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Max-Age=43200", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure"), "{set}");
    let own = cookie(&said);
    let path = "/v1/surveys";
    assert_eq!(with_session(&server, &own, Method::GET, path, &[]).await.status, 200);
    assert_eq!(with_session(&server, &own, Method::GET, "/console/session", &[]).await.body["name"], "anna");
    for more in [&[("sec-fetch-site", "cross-site")][..], &[("origin", "https://evil.example")]] {
        assert_eq!(with_session(&server, &own, Method::GET, path, more).await.status, 401, "{more:?}");
    }
    let without_header = Server::said(server.request(Method::GET, path).header("cookie", &own)).await;
    assert_eq!(without_header.status, 401);
    let forged = format!("{}AAAA", &own[..own.len() - 4]);
    for other in [&*forged, "askwhen_session=x", "askwhen_session="] {
        assert_eq!(with_session(&server, other, Method::GET, path, &[]).await.status, 401, "{other}");
    }
    // What is changed in a session has its name.
    let put = server.request(Method::PUT, "/v1/surveys/s").header("cookie", &own).header("x-askwhen-console", "1");
    let put = put.header("content-type", "application/json").body(survey("S").to_string());
    assert_eq!(Server::said(put).await.status, 201);
    assert_eq!(server.get("/v1/surveys/s/versions").await.body["versions"][0]["actor"], "anna");
    // It ends by itself, by its page, and with its key.
    server.advance("11h").await;
    assert_eq!(with_session(&server, &own, Method::GET, path, &[]).await.status, 200);
    server.advance("61m").await;
    assert_eq!(with_session(&server, &own, Method::GET, path, &[]).await.status, 401);
    let second = cookie(&sign_in(&server, json!({"key": text})).await);
    assert_eq!(with_session(&server, &second, Method::DELETE, "/console/session", &[]).await.status, 200);
    assert_eq!(with_session(&server, &second, Method::GET, path, &[]).await.status, 401);
    let third = cookie(&sign_in(&server, json!({"key": text})).await);
    assert_eq!(with_session(&server, &third, Method::GET, path, &[]).await.status, 200);
    assert_eq!(server.call(&server.admin, Method::DELETE, &format!("/v1/keys/{id}"), None).await.status, 200);
    assert_eq!(with_session(&server, &third, Method::GET, path, &[]).await.status, 401);
    assert_eq!(sign_in(&server, json!({"key": text})).await.status, 401);
    // Behind a proxy with a certificate the cookie is for that alone.
    let request = server.request(Method::POST, "/console/session").header("x-forwarded-proto", "https");
    let body = json!({"key": server.admin}).to_string();
    let said = Server::said(request.header("content-type", "application/json").body(body)).await;
    assert!(said.headers["set-cookie"].to_str().unwrap().ends_with("; Secure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_served_at_all_its_addresses() {
    let server = Server::start().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    for from in ["/", "/console"] {
        let said = client.get(format!("{}{from}", server.base)).send().await.unwrap();
        assert_eq!((said.status().as_u16(), &said.headers()["location"]), (303, &"/console/".parse().unwrap()));
    }
    for path in ["/console/", "/console/surveys/nps", "/console/users/a%2Fb", "/console/deliveries?status=dead"] {
        let said = Server::said(server.request(Method::GET, path)).await;
        assert_eq!(said.status, 200, "{path}");
        let policy = said.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        assert!(said.headers["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    }
    assert_eq!(Server::said(server.request(Method::GET, "/console/none.js")).await.status, 404);
    assert_eq!(Server::said(server.request(Method::POST, "/console/")).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_reads_all_and_changes_nothing() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", survey("S")).await;
    let viewer = make_key(&server, "eve", "viewer").await["key"].as_str().unwrap().to_owned();
    for path in [
        "/v1/surveys",
        "/v1/surveys/s",
        "/v1/surveys/s/versions",
        "/v1/surveys/s/stats",
        "/v1/settings",
        "/v1/endpoints",
        "/v1/deliveries",
        "/v1/decisions",
        "/v1/responses",
        "/v1/triggers",
        "/v1/keys",
        "/v1/users/ann",
        "/v1/users/ann/explain",
        "/v1/users/ann/timeline",
    ] {
        let said = server.call(&viewer, Method::GET, path, None).await;
        assert_eq!(said.status, 200, "{path}: {said:?}");
    }
    let empty = json!({});
    for (method, path) in [
        (Method::PUT, "/v1/surveys/s"),
        (Method::PUT, "/v1/surveys/s?dry_run=true"),
        (Method::DELETE, "/v1/surveys/s"),
        (Method::PUT, "/v1/settings"),
        (Method::POST, "/v1/keys"),
        (Method::DELETE, "/v1/keys/k"),
        (Method::POST, "/v1/events"),
        (Method::PUT, "/v1/users/ann"),
        (Method::DELETE, "/v1/users/ann"),
        (Method::POST, "/v1/users/ann/triggers/Main"),
        (Method::POST, "/v1/endpoints/e/enable"),
        (Method::POST, "/v1/deliveries/d/resend"),
        (Method::POST, "/v1/snapshots"),
        (Method::POST, "/v1/test/clock"),
    ] {
        let said = server.call(&viewer, method.clone(), path, Some(&empty)).await;
        assert_eq!(said.status, 403, "{method} {path}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_and_revoked_while_the_server_runs() {
    let server = Server::start().await;
    let made = make_key(&server, "backend", "server").await;
    let (text, id) = (made["key"].as_str().unwrap().to_owned(), made["key_id"].as_str().unwrap().to_owned());
    let event = json!({"user_id": "ann", "event_name": "e"});
    assert_eq!(server.call(&text, Method::POST, "/v1/events", Some(&event)).await.status, 202);
    assert_eq!(server.call(&text, Method::GET, "/v1/keys", None).await.status, 403);
    let listed = server.get("/v1/keys").await.body;
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4, "{listed}");
    assert_eq!(
        (&keys[0]["key_id"], &keys[0]["name"], &keys[0]["source"]),
        (&json!(id), &json!("backend"), &json!("runtime"))
    );
    assert!(keys[0]["last_used_at"].is_string() && keys[0]["created_at"].is_string(), "{listed}");
    assert!(text.starts_with(keys[0]["prefix"].as_str().unwrap()));
    assert!(!listed.to_string().contains(&text[12..]), "a key is shown once");
    assert!(
        keys[1..].iter().all(|key| key["source"] == "file" && key["key_id"].as_str().unwrap().starts_with("file_"))
    );
    for (body, code) in [
        (json!({"kind": "server"}), "missing_field"),
        (json!({"name": "x"}), "missing_field"),
        (json!({"name": "x", "kind": "root"}), "invalid"),
        (json!({"name": "", "kind": "server"}), "bad_id"),
        (json!({"name": "x", "kind": "server", "key": "mine"}), "unknown_field"),
    ] {
        let said = server.call(&server.admin, Method::POST, "/v1/keys", Some(&body)).await;
        assert_eq!((said.status, said.body["code"].as_str()), (422, Some(code)), "{body}");
    }
    // It is known after a restart, and nobody reads it in the log.
    let dir = server.kill();
    let server = Server::on(dir.clone(), &["--dev", "--test-clock"], &[]).await;
    assert_eq!(server.call(&text, Method::POST, "/v1/events", Some(&event)).await.status, 202);
    let (code, out, _) = askwhen(dir.path(), &["--data-dir", "data", "tail", "definitions"]);
    assert!(code == Some(0) && out.contains(&id) && !out.contains(&text), "{out}");
    let file_key = server.get("/v1/keys").await.body["keys"][1]["key_id"].as_str().unwrap().to_owned();
    let delete = async |id: &str| server.call(&server.admin, Method::DELETE, &format!("/v1/keys/{id}"), None).await;
    assert_eq!(delete(&file_key).await.status, 409);
    assert_eq!(delete("key_none").await.status, 404);
    assert_eq!(delete(&id).await.status, 200);
    assert_eq!(server.call(&text, Method::POST, "/v1/events", Some(&event)).await.status, 401);
    let verb = |arguments: &[&str]| {
        let (code, out, error) =
            askwhen(dir.path(), &[&["--data-dir", "data", "keys", "--server", &server.base], arguments].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        out
    };
    let out = verb(&["create", "ci", "--kind", "viewer"]);
    let (made, key) = out.trim().split_once(" is made; it is shown this once: ").expect("both");
    assert_eq!(server.call(key, Method::GET, "/v1/surveys", None).await.status, 200);
    assert!(verb(&["list"]).contains(made));
    verb(&["revoke", made]);
    assert_eq!(server.call(key, Method::GET, "/v1/surveys", None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_a_survey_says_when_and_by_whom() {
    let server = Server::start().await;
    let anna = make_key(&server, "anna", "admin").await["key"].as_str().unwrap().to_owned();
    server.put("/v1/surveys/s", survey("One")).await;
    assert_eq!(server.call(&anna, Method::PUT, "/v1/surveys/s", Some(&survey("Two"))).await.status, 200);
    server.put("/v1/surveys/s", survey("Two")).await;
    assert_eq!(server.call(&anna, Method::DELETE, "/v1/surveys/s", None).await.status, 200);
    let dir = server.kill();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    let said = server.get("/v1/surveys/s/versions").await;
    let versions = said.body["versions"].as_array().unwrap();
    let shown: Vec<_> = versions
        .iter()
        .map(|v| {
            (
                v["version"].as_u64(),
                v["actor"].as_str(),
                v["definition"]["name"].as_str(),
                v["definition"]["status"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some(3), Some("anna"), Some("Two"), Some("archived")),
            (Some(2), Some("anna"), Some("Two"), Some("active")),
            (Some(1), Some("admin"), Some("One"), Some("active")),
        ]
    );
    assert!(versions.iter().all(|version| version["changed_at"].is_string()));
    assert_eq!(server.get("/v1/surveys/s/versions/2").await.body, versions[1]);
    for path in ["/v1/surveys/s/versions/4", "/v1/surveys/s/versions/x", "/v1/surveys/none/versions"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

/// What the engine has counted: records, decisions and rejects.
async fn engine_counts(server: &Server) -> Vec<String> {
    let text = String::from_utf8_lossy(&server.get("/metrics").await.bytes).into_owned();
    let counts = ["askwhen_engine_records_total", "askwhen_engine_decisions_total", "askwhen_engine_rejects_total"];
    let lines = text.lines().filter(|line| counts.iter().any(|name| line.starts_with(name)));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    assert!(lines.len() > counts.len(), "{text}");
    lines
}

/// A server keeps the states that it has begun with, and passes over the records of others;
/// the command line begins anew each time. Both say the same of every moment, before and
/// behind every snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn explanations_over_http_are_those_of_the_command_line() {
    const USERS: [&str; 6] = ["u1", "u11", "zoë", "a\"b", "a b&c", "later"];
    let server = Server::start().await;
    server.put("/v1/surveys/s", survey("S")).await;
    let mut moments = Vec::new();
    for round in 0..4 {
        for (n, user) in USERS.iter().enumerate().filter(|(n, _)| round > 1 || *n < 5) {
            server.event(user, "ended_sleep", json!({"round": round, "other": USERS[(n + 1) % 6]})).await;
            if (round + n) % 2 == 0 {
                server.trigger(user, "Main").await;
            }
            server.advance("1m").await;
        }
        if round == 2 {
            let alias = server.post("/v1/users/u1/aliases", json!({"alias": "later"})).await;
            assert_eq!(alias.status, 200, "{}", alias.body);
        }
        moments.push(server.get("/v1/users/u1/explain").await.body["at"].as_str().unwrap().to_owned());
        if round < 3 {
            let taken = server.call(&server.admin, Method::POST, "/v1/snapshots", None).await;
            assert_eq!(taken.status, 200, "{}", taken.body);
        }
        // A third of them each time, so that each user is explained before and behind snapshots.
        let all = USERS.iter().flat_map(|user| moments.iter().map(move |at| (*user, Some(at.as_str()))));
        let present = USERS.iter().map(|user| (*user, None));
        for (user, at) in all.skip(round % 3).step_by(3).chain(present) {
            let name: String = url::form_urlencoded::byte_serialize(user.as_bytes()).collect();
            let at_moment = at.map_or_else(String::new, |at| format!("&at={at}"));
            let path = format!("/v1/users/{}/explain?trigger=Main{at_moment}", name.replace('+', "%20"));
            let counted = engine_counts(&server).await;
            let mut by_http = server.get(&path).await.body;
            assert_eq!(engine_counts(&server).await, counted, "what is looked at again counts once");
            let at = by_http["at"].as_str().unwrap().to_owned();
            let arguments =
                ["--data-dir", "data", "--output", "json", "explain", user, "--trigger", "Main", "--at", &at];
            let (code, out, error) = askwhen(server.dir.path(), &arguments);
            assert_eq!(code, Some(0), "{error}");
            let mut by_verb: Value = serde_json::from_str(&out).unwrap();
            for said in [&mut by_http, &mut by_verb] {
                // How much was read depends on the state that was begun with.
                for member in ["records", "snapshot"] {
                    assert!(said.as_object_mut().unwrap().remove(member).is_some(), "{said}");
                }
            }
            assert_eq!(by_http, by_verb, "{user} at {at}, round {round}");
        }
    }
    let alias = server.get("/v1/users/later/explain").await.body;
    assert_eq!(alias["user_id"], "u1", "{alias}");
}

/// What is appended meanwhile is no part of an answer, and does not keep it from its end.
#[tokio::test(flavor = "multi_thread")]
async fn explanations_and_backtests_end_while_records_come() {
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], &[]).await;
    let mut limited = survey("S");
    (limited["kind"], limited["survey_id"]) = (json!("survey"), json!("s"));
    limited["limits"] = json!({"max_completed": 1_000});
    server.put("/v1/surveys/s", limited.clone()).await;
    std::fs::write(server.dir.path().join("s.json"), limited.to_string()).unwrap();
    let (http, base, key) = (server.http.clone(), server.base.clone(), server.server.clone());
    let traffic = tokio::spawn(async move {
        for n in 0.. {
            let event = |user: u32| json!({"user_id": format!("t{user}"), "event_name": "ended_sleep"});
            let events: Vec<Value> = (0..40).map(|user| event(user + n % 3)).collect();
            let request = http.post(format!("{base}/v1/events")).bearer_auth(&key);
            let request = request.header("content-type", "application/json");
            let sent = request.body(json!({"events": events}).to_string()).send().await;
            // A busy machine may refuse some.
            let status = sent.unwrap().status().as_u16();
            assert!([202, 429, 503].contains(&status), "{status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let longest = Duration::from_secs(20);
    for _ in 0..5 {
        let explained = server.get("/v1/users/t1/explain?trigger=Main");
        let explained = tokio::time::timeout(longest, explained).await.expect("it ends").body;
        assert!(explained["decision"].is_object(), "{explained}");
    }
    for arguments in [&["explain", "t1", "--trigger", "Main"][..], &["backtest", "-f", "s.json", "--from", "1d"]] {
        let dir = server.dir.clone();
        let arguments = [&["--data-dir", "data"], arguments].concat();
        let ended = tokio::task::spawn_blocking(move || askwhen(dir.path(), &arguments));
        let (code, out, error) = tokio::time::timeout(longest, ended).await.expect("it ends").unwrap();
        assert_eq!(code, Some(0), "{out}{error}");
    }
    assert!(!traffic.is_finished(), "records have come all the time");
    traffic.abort();
}

/// States that are only looked at are in one folder, which the next process finds empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_explanations_have_made_goes_with_the_process_that_made_it() {
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], &[]).await;
    server.event("ann", "ended_sleep", json!({})).await;
    assert_eq!(server.call(&server.admin, Method::POST, "/v1/snapshots", None).await.status, 200);
    let explained = server.get("/v1/users/ann/explain?trigger=Main").await.body;
    let past = format!("/v1/users/ann/explain?at={}", explained["at"].as_str().unwrap());
    assert_eq!(server.get(&past).await.status, 200);
    let made = |dir: &std::path::Path| {
        let folder = std::fs::read_dir(dir.join("data/state/scratch"));
        folder.map_or(0, |entries| entries.count())
    };
    assert!(made(server.dir.path()) > 0, "it keeps what it has copied");
    let dir = server.kill();
    assert!(made(dir.path()) > 0, "a killed process removes nothing");
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(made(server.dir.path()), 0);
    assert_eq!(server.get("/v1/users/ann/explain?trigger=Main").await.status, 200);
    let (dir, code) = server.terminate();
    assert_eq!((made(dir.path()), code), (0, Some(0)), "an orderly end leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_user_is_told_over_http() {
    let receiver = Receiver::start(&[]).await;
    let server = Server::start().await;
    server.put("/v1/endpoints/crm", json!({"url": receiver.url})).await;
    server.put("/v1/surveys/s", survey("S")).await;
    server.event("ann", "ended_sleep", json!({"n": 1})).await;
    server.event("bob", "ended_sleep", json!({})).await;
    server.advance("1m").await;
    let offer = server.trigger("ann", "Main").await["survey"]["offer_id"].as_str().unwrap().to_owned();
    let path = |what: &str| format!("/v1/users/ann/offers/{offer}/{what}");
    assert_eq!(server.post(&path("displayed"), json!({})).await.status, 200);
    let answers = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    assert_eq!(server.post(&path("answers"), answers).await.status, 200);
    let attributes = json!({"attributes": {"plan": "pro"}});
    let put = server.call(&server.server, Method::PUT, "/v1/users/ann", Some(&attributes)).await;
    assert_eq!(put.status, 202);
    let delivered = async || {
        let rows = server.all("deliveries").await;
        rows.len() >= 2 && rows.iter().all(|row| row["status"] == "delivered")
    };
    server.until("they are delivered", delivered).await;
    let kinds = |page: &Value| {
        let items = page["items"].as_array().expect("items");
        items.iter().map(|item| item["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let whole = server.get("/v1/users/ann/timeline").await.body;
    let mut sorted = kinds(&whole);
    sorted.sort();
    let deliveries = sorted.iter().filter(|kind| *kind == "delivery").count();
    sorted.retain(|kind| kind != "delivery");
    assert_eq!(sorted, ["answers", "attributes", "decision", "displayed", "event"], "{whole}");
    assert!(deliveries >= 2 && whole["next_cursor"].is_null());
    assert_eq!(whole["items"].as_array().unwrap().last().unwrap()["event_name"], "ended_sleep");
    // Page by page it is the same.
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/v1/users/ann/timeline?limit=2{cursor}")).await.body;
        items.extend(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(json!(items), whole["items"]);
    // The same as the command line prints.
    let by_http = server.get("/v1/users/ann/explain?trigger=Main").await.body;
    let (code, out, error) =
        askwhen(server.dir.path(), &["--data-dir", "data", "explain", "ann", "--trigger", "Main", "--output", "json"]);
    assert_eq!(code, Some(0), "{error}");
    let by_verb: Value = serde_json::from_str(&out).unwrap();
    for member in ["user_id", "partition", "user", "decisions", "needs_grant"] {
        assert_eq!(by_http[member], by_verb[member], "{member}");
    }
    assert_eq!(by_http["decision"]["reason"], by_verb["decision"]["reason"]);
    assert_eq!(by_http["user"]["attributes"]["plan"], "pro");
    let before = whole["items"].as_array().unwrap().last().unwrap()["at"].as_str().unwrap();
    let then = server.get(&format!("/v1/users/ann/explain?at={before}")).await.body;
    assert_eq!(then["user"]["attributes"], json!({}), "{then}");
    assert_eq!(server.get("/v1/users/ann/explain?at=yesterday").await.status, 422);
    assert_eq!(server.get("/v1/users/ann/timeline?cursor=zz").await.status, 422);
    assert_eq!(server.call(&server.server, Method::GET, "/v1/users/ann/timeline", None).await.status, 403);
    // An erasure leaves its own line, and how deliveries went.
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/ann", None).await.status, 202);
    let erased = async || {
        let kinds = kinds(&server.get("/v1/users/ann/timeline").await.body);
        kinds.contains(&"erased".to_owned()) && kinds.iter().all(|kind| ["erased", "delivery"].contains(&kind.as_str()))
    };
    server.until("it is erased", erased).await;
    // Nor is it shown from an earlier moment on, or page by page.
    let items = server.get("/v1/users/ann/timeline").await.body;
    let erased_at =
        items["items"].as_array().unwrap().iter().find(|item| item["kind"] == "erased").unwrap()["at"].clone();
    let earlier = server.get(&format!("/v1/users/ann/timeline?until={}", erased_at.as_str().unwrap())).await.body;
    assert!(kinds(&earlier).iter().all(|kind| kind == "delivery"), "{earlier}");
    let mut cursor = String::new();
    loop {
        let page = server.get(&format!("/v1/users/ann/timeline?limit=1{cursor}")).await.body;
        assert!(kinds(&page).iter().all(|kind| ["erased", "delivery"].contains(&kind.as_str())), "{page}");
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let then = server.get(&format!("/v1/users/ann/explain?at={before}")).await;
    assert!(then.status == 410 && !String::from_utf8_lossy(&then.bytes).contains("pro\""), "{then:?}");
    let (code, out, error) = askwhen(server.dir.path(), &["--data-dir", "data", "explain", "ann", "--at", before]);
    assert!(code != Some(0) && error.contains("was erased at"), "{out}{error}");
}

/// Whatever span or page is asked for, and also behind an alias that the user takes on later.
#[tokio::test(flavor = "multi_thread")]
async fn no_page_of_a_timeline_shows_what_was_before_an_erasure() {
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], &[]).await;
    for user in ["u", "u", "anon", "u", "anon"] {
        server.event(user, "ended_sleep", json!({"secret": user == "u"})).await;
    }
    let before = server.get("/v1/users/u/explain").await.body["at"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/u", None).await.status, 202);
    let is_erased = async || {
        let items = server.get("/v1/users/u/timeline").await.body["items"].clone();
        items.as_array().unwrap().len() == 1 && items[0]["kind"] == "erased"
    };
    server.until("it is erased", is_erased).await;
    let whole = server.get("/v1/users/u/timeline").await.body;
    let until = whole["items"][0]["at"].as_str().unwrap();
    let earlier = server.get(&format!("/v1/users/u/timeline?until={until}")).await.body;
    assert_eq!(earlier["items"], json!([]));
    assert_eq!(server.get(&format!("/v1/users/u/explain?at={until}")).await.body["user"]["attributes"], json!({}));
    assert_eq!(server.get(&format!("/v1/users/u/explain?at={before}")).await.status, 410);
    assert_eq!(server.post("/v1/users/u/aliases", json!({"alias": "anon"})).await.status, 200);
    for limit in [1, 2, 3, 50] {
        let (mut lines, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/v1/users/u/timeline?limit={limit}{cursor}")).await.body;
            lines
                .extend(page["items"].as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap().to_owned()));
            assert!(!page.to_string().contains("\"secret\":true"), "{page}");
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        lines.sort();
        assert_eq!(lines, ["alias", "erased", "event", "event"], "pages of {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_a_recount_of_the_answers() {
    let server = Server::start().await;
    let survey = json!({"name": "S", "status": "active", "link": true, "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "every_activation"},
        "questions": [{"question_id": "q1", "type": "nps", "text": "How?"},
            {"question_id": "q2", "type": "multi_choice", "text": "Why?", "required": false, "options": ["a", {"value": "b", "text": "B"}]},
            {"question_id": "q3", "type": "text", "text": "More?", "required": false}]});
    server.put("/v1/surveys/s", survey).await;
    let answer = async |user: &str, answers: Value, completed: bool| {
        let body = json!({"answers": answers, "completed": completed, "context": {"locale": "de", "platform": "web"}});
        let said = server.post(&format!("/v1/users/{user}/surveys/s/responses"), body).await;
        assert_eq!(said.status, 200, "{said:?}");
    };
    answer("u0", json!([{"question_id": "q1", "value": 10}, {"question_id": "q2", "value": ["a", "b"]}, {"question_id": "q3", "value": "=1+1"}]), true).await;
    answer("u1", json!([{"question_id": "q1", "value": 8}, {"question_id": "q2", "value": ["b"]}]), true).await;
    answer("u2", json!([{"question_id": "q1", "value": 3}]), true).await;
    server.advance("25h").await;
    answer("u3", json!([{"question_id": "q1", "value": 9}]), false).await;
    server.until("all are listed", async || server.all("responses").await.len() == 4).await;
    let results = server.get("/v1/surveys/s/results").await;
    assert_eq!(results.status, 200, "{results:?}");
    let whole = results.body;
    assert_eq!(
        (&whole["responses"], &whole["completed"], &whole["completion_rate"]),
        (&json!(4), &json!(3), &json!(0.75))
    );
    let questions = whole["questions"].as_array().unwrap();
    assert_eq!(
        (&questions[0]["answered"], &questions[0]["skipped"], &questions[0]["mean"]),
        (&json!(4), &json!(0), &json!(7.5))
    );
    let nps = &questions[0]["nps"];
    assert_eq!(
        (&nps["score"], &nps["promoters"], &nps["passives"], &nps["detractors"]),
        (&json!(25.0), &json!(2), &json!(1), &json!(1))
    );
    assert_eq!(
        questions[1]["distribution"],
        json!([{"value": "a", "text": "a", "count": 1}, {"value": "b", "text": "B", "count": 2}])
    );
    assert_eq!((&questions[1]["answered"], &questions[1]["skipped"]), (&json!(2), &json!(1)));
    assert_eq!(questions[2]["texts"][0]["text"], "=1+1");
    // Days add up, whichever way a span cuts them.
    let by_day = server.get("/v1/surveys/s/results?by=day").await.body;
    let counts: Vec<_> = by_day["series"].as_array().unwrap().iter().map(|point| point["responses"].clone()).collect();
    assert_eq!(counts, [3, 1]);
    let rows = server.all("responses").await;
    let newest = rows[0]["created_at"].as_str().unwrap();
    for (query, responses) in [
        (format!("since={newest}"), 1),
        (format!("until={newest}"), 3),
        ("version=1".into(), 4),
        ("version=2".into(), 0),
        ("by=locale".into(), 4),
    ] {
        let part = server.get(&format!("/v1/surveys/s/results?{query}")).await.body;
        assert_eq!(part["responses"], responses, "{query}: {part}");
    }
    assert_eq!(server.get("/v1/surveys/s/results?by=hour").await.status, 422);
    assert_eq!(server.get("/v1/surveys/none/results").await.status, 404);
    let csv = server.get("/v1/surveys/s/responses.csv").await;
    let text = String::from_utf8(csv.bytes.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].ends_with(",q1,q2,q3"), "{text}");
    assert!(lines[1].contains(",u0,") && lines[1].ends_with(",10,\"a; b\",\"'=1+1\""), "{text}");
    assert!(csv.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let ndjson = server.get("/v1/surveys/s/responses.ndjson").await;
    let text = String::from_utf8(ndjson.bytes.to_vec()).unwrap();
    let users: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["user_id"].clone()).collect();
    assert_eq!(users, ["u0", "u1", "u2", "u3"]);
    // Who is erased is in none of it, and a new start counts the same.
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/u0", None).await.status, 202);
    server.until("it is gone", async || server.get("/v1/surveys/s/results").await.body["responses"] == 3).await;
    let before = server.get("/v1/surveys/s/results").await.body;
    let dir = server.kill();
    std::fs::remove_dir_all(dir.path().join("data/state/console")).ok();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    server.until("the lists are whole", async || server.get("/v1/surveys/s/results").await.status == 200).await;
    assert_eq!(server.get("/v1/surveys/s/results").await.body, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_are_found_by_all_that_is_known_of_them_and_failures_by_their_cause() {
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    let server = Server::start().await;
    let retry = json!({"kind": "fixed", "interval": "1s", "max_attempts": 1, "breaker": false});
    server
        .put("/v1/endpoints/bad", json!({"url": receiver.url, "retry": retry, "events": ["response.completed"]}))
        .await;
    let good = Receiver::start(&[]).await;
    server.put("/v1/endpoints/good", json!({"url": good.url, "events": ["response.completed"]})).await;
    let survey = json!({"name": "S", "status": "active", "link": true, "show_on": [{"trigger": "Main"}],
        "questions": [{"question_id": "q1", "type": "nps", "text": "How?"}]});
    server.put("/v1/surveys/s", survey).await;
    for n in 0..5 {
        if n == 3 {
            receiver.always(404);
        }
        let body = json!({"answers": [{"question_id": "q1", "value": n}], "completed": true});
        assert_eq!(server.post(&format!("/v1/users/u{n}/surveys/s/responses"), body).await.status, 200);
        let dead = async || {
            server.get("/v1/deliveries?status=dead").await.body["deliveries"].as_array().unwrap().len() == n + 1
        };
        server.until("it is dead", dead).await;
    }
    let delivered =
        async || server.get("/v1/deliveries?status=delivered").await.body["deliveries"].as_array().unwrap().len() == 5;
    server.until("the others are delivered", delivered).await;
    let count = async |query: &str| {
        let page = server.get(&format!("/v1/deliveries?{query}")).await.body;
        assert!(page["next_cursor"].is_null(), "{query}: {page}");
        page["deliveries"].as_array().unwrap_or_else(|| panic!("{page}")).len()
    };
    for (query, expected) in [
        ("endpoint_id=bad", 5),
        ("endpoint_id=bad&status=dead", 5),
        ("endpoint_id=good&status=dead", 0),
        ("http_status=500", 3),
        ("http_status=404", 2),
        ("http_status=404&endpoint_id=bad&survey_id=s&type=response.completed", 2),
        ("outcome=bad_status", 5),
        ("outcome=bad_status&http_status=500&user_id=u1", 1),
        ("type=response.answered", 0),
        ("user_id=u1", 2),
        ("survey_id=none", 0),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    assert_eq!(server.get("/v1/deliveries?http_status=x").await.status, 422);
    let causes = server.get("/v1/deliveries/causes").await.body;
    let causes = causes["causes"].as_array().unwrap();
    let shown: Vec<_> =
        causes.iter().map(|c| (c["http_status"].as_u64(), c["count"].as_u64(), c["endpoint_id"].as_str())).collect();
    assert_eq!(shown, [(Some(500), Some(3), Some("bad")), (Some(404), Some(2), Some("bad"))]);
    for cause in causes {
        let query = format!("cause={}", cause["cause"].as_str().unwrap());
        assert_eq!(count(&query).await as u64, cause["count"].as_u64().unwrap());
        assert_eq!(count(&format!("{query}&endpoint_id=good")).await, 0);
        assert_eq!(cause["resent"], 0, "{cause}");
    }
    // A page that leads on is followed by one that has rows.
    let mut cursor = String::new();
    for n in 1.. {
        let page = server.get(&format!("/v1/deliveries?http_status=500&limit=1{cursor}")).await.body;
        assert_eq!(page["deliveries"].as_array().unwrap().len(), 1, "{page}");
        let Some(next) = page["next_cursor"].as_str() else {
            assert_eq!(n, 3);
            break;
        };
        cursor = format!("&cursor={next}");
    }
    // What was sent again is told of, so that a cause that is mended asks for nothing any more.
    receiver.always(200);
    let job = json!({"kind": "resend", "filter": {"http_status": 500}});
    assert_eq!(server.call(&server.admin, Method::POST, "/v1/jobs", Some(&job)).await.status, 202);
    let resent = async || {
        let causes = server.get("/v1/deliveries/causes").await.body;
        let of = |cause: &Value| (cause["http_status"].as_u64(), cause["count"].as_u64(), cause["resent"].as_u64());
        let causes: Vec<_> = causes["causes"].as_array().unwrap().iter().map(of).collect();
        causes == [(Some(500), Some(3), Some(3)), (Some(404), Some(2), Some(0))]
    };
    server.until("the causes say what was sent again", resent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_name_the_lists_that_have_moved() {
    let server = Server::start().await;
    let request = server.request(Method::GET, "/v1/changes").bearer_auth(&server.admin);
    let mut answer = request.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    server.put("/v1/surveys/s", survey("S")).await;
    server.event("ann", "ended_sleep", json!({})).await;
    server.trigger("ann", "Main").await;
    let mut heard = String::new();
    let wanted = ["{\"list\":\"surveys\"}", "{\"list\":\"decisions\"}", "{\"list\":\"triggers\"}"];
    while !wanted.iter().all(|wanted| heard.contains(wanted)) {
        let piece = tokio::time::timeout(std::time::Duration::from_secs(20), answer.chunk()).await;
        let piece = piece.unwrap_or_else(|_| panic!("nothing more is heard: {heard}")).unwrap().expect("it goes on");
        heard.push_str(&String::from_utf8_lossy(&piece));
    }
    assert!(heard.starts_with("retry: 2000\n\nevent: changed\ndata: "), "{heard}");
    assert_eq!(server.call(&server.server, Method::GET, "/v1/changes", None).await.status, 403);
    // Whoever listens holds up no stop.
    let began = std::time::Instant::now();
    let (_, code) = server.terminate();
    assert_eq!(code, Some(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
}
