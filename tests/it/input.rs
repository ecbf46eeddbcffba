//! Bad input, row by row: a clear error, and nothing written.

use reqwest::Method;
use serde_json::{Value, json};
use std::io::Write as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Said, Server, open_survey};

async fn raw(server: &Server, path: &str, body: impl Into<reqwest::Body>) -> Said {
    let request = server.request(Method::POST, path).bearer_auth(&server.server);
    Server::said(request.header("content-type", "application/json").body(body)).await
}

#[track_caller]
fn problem(said: &Said, status: u16, code: &str) {
    assert_eq!((said.status, said.body["code"].as_str()), (status, Some(code)), "{said:?}");
    assert_eq!(said.headers["content-type"], "application/problem+json");
    for member in ["type", "title", "status", "code", "request_id"] {
        assert!(said.body.get(member).is_some(), "{member} is missing: {said:?}");
    }
}

#[tokio::test]
async fn broken_json_has_a_code_and_a_place() {
    let server = Server::start().await;
    for (body, code, offset) in [
        (&b""[..], "empty_body", 0),
        (b"nonsense", "invalid_json", 1),
        (b"{\"user_id\":\"u\"", "truncated", 14),
        (b"{} x", "trailing_bytes", 3),
        (b"{\"user_id\":\"\xff\"}", "bad_utf8", 12),
        (b"\xef\xbb\xbf{}", "bom", 0),
        (b"{\"user_id\":\"\\ud800\"}", "lone_surrogate", 12),
        (b"{\"properties\":{\"a\":1e400}}", "number_out_of_range", 19),
        (b"{\"user_id\":NaN}", "invalid_json", 11),
        (b"{\"user_id\":\"a\",\"user_id\":\"b\"}", "duplicate_key", 15),
    ] {
        let said = raw(&server, "/v1/events", body.to_vec()).await;
        problem(&said, 400, code);
        assert_eq!(said.body["byte_offset"], offset, "{code}");
    }
    problem(&raw(&server, "/v1/events", "[".repeat(100_000)).await, 400, "too_deep");
}

#[tokio::test]
async fn types_and_encodings() {
    let server = Server::start().await;
    let event = json!({"user_id": "u", "event_name": "x"}).to_string();
    let send = async |headers: &[(&str, &str)], body: Vec<u8>| {
        let mut request = server.request(Method::POST, "/v1/events").bearer_auth(&server.server).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Server::said(request).await
    };
    let json_type = ("content-type", "application/json");
    problem(&send(&[], event.clone().into_bytes()).await, 415, "unsupported_media_type");
    problem(&send(&[("content-type", "text/plain")], event.clone().into_bytes()).await, 415, "unsupported_media_type");
    let utf16 = ("content-type", "application/json; charset=utf-16");
    problem(&send(&[utf16], event.clone().into_bytes()).await, 415, "unsupported_media_type");
    problem(&send(&[json_type], vec![0xff, 0xfe, b'{', 0]).await, 415, "unsupported_media_type");
    for encoding in ["br", "gzip, gzip"] {
        let said = send(&[json_type, ("content-encoding", encoding)], event.clone().into_bytes()).await;
        problem(&said, 415, "unsupported_media_type");
    }
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let packed = ("content-encoding", "gzip");
    assert_eq!(send(&[json_type, packed], gzip(event.as_bytes())).await.status, 202);
    problem(&send(&[json_type, packed], event.clone().into_bytes()).await, 400, "bad_encoding");
    problem(&send(&[json_type, packed], gzip(&vec![b' '; 3 << 20])).await, 413, "body_too_large");
    let zstd = zstd::encode_all(event.as_bytes(), 3).unwrap();
    assert_eq!(send(&[json_type, ("content-encoding", "zstd")], zstd).await.status, 202);
}

#[tokio::test]
async fn sizes_and_fields() {
    let server = Server::start().await;
    problem(&raw(&server, "/v1/events", vec![b' '; (1 << 20) + 1]).await, 413, "body_too_large");
    let big = json!({"user_id": "u", "event_name": "x", "properties": {"a": "x".repeat(33 << 10)}});
    problem(&raw(&server, "/v1/events", big.to_string()).await, 413, "event_too_large");
    let many: Vec<Value> = (0..1_001).map(|_| json!({})).collect();
    problem(&raw(&server, "/v1/events", json!({"events": many}).to_string()).await, 413, "batch_too_large");
    let wide: serde_json::Map<String, Value> = (0..257).map(|n| (format!("p{n}"), json!(1))).collect();
    for (body, code, pointer) in [
        (json!({"events": []}), "empty_batch", "/events"),
        (json!({"event_name": "x"}), "missing_field", "/user_id"),
        (json!({"user_id": 7, "event_name": "x"}), "wrong_type", "/user_id"),
        (json!({"user_id": "u", "event_name": "x", "evnt_id": "e"}), "unknown_field", "/evnt_id"),
        (json!({"user_id": "a\u{0}b", "event_name": "x"}), "bad_id", "/user_id"),
        (json!({"user_id": "..", "event_name": "x"}), "bad_id", "/user_id"),
        (json!({"user_id": "x".repeat(257), "event_name": "x"}), "bad_id", "/user_id"),
        (json!({"user_id": "u", "event_name": "x", "occurred_at": "2026-11-01T00:00:00"}), "bad_time", "/occurred_at"),
        (json!({"user_id": "u", "event_name": "x", "properties": wide}), "invalid", "/properties"),
        (json!({"user_id": "u", "event_name": "x", "properties": []}), "wrong_type", "/properties"),
        (json!([]), "wrong_type", ""),
    ] {
        let said = raw(&server, "/v1/events", body.to_string()).await;
        problem(&said, 422, code);
        assert_eq!(said.body["errors"][0]["pointer"], pointer, "{said:?}");
    }
    let many: String = (0..20_000).map(|n| format!("\"u{n}\":1,")).collect();
    let said = raw(&server, "/v1/endpoints-of-nothing", "{}").await;
    assert_eq!(said.status, 404);
    let said = raw(&server, "/v1/users/u/offers/o/displayed", format!("{{{many}\"{}\":1}}", "n".repeat(500_000))).await;
    problem(&said, 422, "unknown_field");
    assert_eq!(said.body["errors"].as_array().map(Vec::len), Some(50), "as many faults as anyone reads");
    let odd = json!({"user_id": "u", "event_name": "x", "occurred_at": "1970-01-01T00:00:00Z"});
    assert_eq!(raw(&server, "/v1/events", odd.to_string()).await.status, 202, "far off is accepted");
    let batch = json!({"events": [{"user_id": "u", "event_name": "x", "event_id": "1"}, {"user_id": "u"}, {"user_id": "v", "event_name": "x", "properties": {"a": "x".repeat(33 << 10)}}]});
    let said = raw(&server, "/v1/events", batch.to_string()).await;
    assert_eq!(said.status, 207);
    let statuses: Vec<i64> =
        said.body["results"].as_array().unwrap().iter().map(|r| r["status"].as_i64().unwrap()).collect();
    assert_eq!(statuses, [202, 422, 413]);
    assert_eq!(said.body["results"][1]["problem"]["errors"][0]["pointer"], "/events/1/event_name");
}

/// Apps that do not know their version, or their user's language, send an empty text.
#[tokio::test]
async fn an_empty_text_of_the_context_is_left_out() {
    let server = Server::start().await;
    server.put("/v1/surveys/open", open_survey()).await;
    for member in ["platform", "locale", "app_version", "session_id", "timezone"] {
        let said = server.post("/v1/users/ann/triggers/Main", json!({"context": {member: ""}})).await;
        assert_eq!(said.status, 200, "{member}: {said:?}");
        let said = server.post("/v1/users/ann/triggers/Main", json!({"context": {member: "\u{7}"}})).await;
        problem(&said, 422, "bad_id");
    }
}

#[tokio::test]
async fn keys_kinds_and_paths() {
    let server = Server::start().await;
    let event = json!({"user_id": "u", "event_name": "x"});
    let nobody = Server::said(server.request(Method::POST, "/v1/events")).await;
    problem(&nobody, 401, "unauthorized");
    let wrong = server.call("ak_wrong", Method::POST, "/v1/events", Some(&event)).await;
    let (mut a, mut b) = (nobody.body.clone(), wrong.body.clone());
    (a["request_id"], b["request_id"]) = (Value::Null, Value::Null);
    assert_eq!(a, b, "the same body for every wrong key");
    let query = Server::said(server.request(Method::POST, &format!("/v1/events?key={}", server.server))).await;
    problem(&query, 401, "unauthorized");
    problem(&server.call(&server.client, Method::POST, "/v1/events", Some(&event)).await, 403, "forbidden");
    problem(&server.call(&server.server, Method::GET, "/v1/surveys", None).await, 403, "forbidden");
    problem(&server.call(&server.admin, Method::GET, "/nothing", None).await, 404, "not_found");
    problem(&server.call(&server.admin, Method::GET, "/v1/surveys/%00", None).await, 404, "not_found");
    let wrong_method = server.call(&server.admin, Method::PATCH, "/v1/events", None).await;
    problem(&wrong_method, 405, "method_not_allowed");
    assert_eq!(wrong_method.headers["allow"], "POST");
    let long = format!("/v1/triggers/t/users/{}/events", "x".repeat(257));
    problem(&server.call(&server.server, Method::POST, &long, Some(&json!({}))).await, 422, "bad_id");
}

#[tokio::test]
async fn idempotency_keys() {
    let server = Server::start().await;
    let with_key = async |key: &str, body: Value| {
        let request =
            server.request(Method::POST, "/v1/events").bearer_auth(&server.server).header("idempotency-key", key);
        Server::said(request.header("content-type", "application/json").body(body.to_string())).await
    };
    let event = |id: &str| json!({"user_id": "u", "event_name": "x", "event_id": id});
    assert_eq!(with_key("k1", event("k1")).await.body["event_id"], "k1");
    problem(&with_key("k1", event("k2")).await, 422, "invalid");
    problem(&with_key(&"k".repeat(257), json!({"user_id": "u", "event_name": "x"})).await, 422, "bad_id");
}

#[tokio::test]
async fn the_same_event_twice_has_one_effect() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", json!({"name": "S", "status": "active", "activate": {"event": "woke"}, "expires_after": "2h",
        "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"}, "questions": open_survey()["questions"]})).await;
    let event = json!({"user_id": "u", "event_name": "woke", "event_id": "e1"});
    raw(&server, "/v1/events", json!({"events": [event, event]}).to_string()).await;
    let offer = server.trigger("u", "Main").await["survey"]["offer_id"].as_str().unwrap().to_owned();
    server.post(&format!("/v1/users/u/offers/{offer}/displayed"), json!({})).await;
    assert_eq!(raw(&server, "/v1/events", event.to_string()).await.status, 202, "still a success");
    assert_eq!(server.trigger("u", "Main").await["reason"], "max_displays", "and no new window");
}

#[tokio::test]
async fn broken_http_is_refused_and_others_go_on() {
    let server = Server::start().await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let send = async |request: String| -> String {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        drop(tokio::time::timeout(std::time::Duration::from_secs(3), reading).await);
        String::from_utf8_lossy(&answer).lines().next().unwrap_or("closed").to_owned()
    };
    let key = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", server.server);
    for (request, allowed) in [
        (format!("POST /v1/events HTTP/1.1\r\n{key}Content-Length: 2\r\n\r\n{{}}"), &["400"][..]),
        (format!("POST /v1/events HTTP/1.1\r\nHost: a\r\nHost: b\r\n{key}Content-Length: 2\r\n\r\n{{}}"), &["400"]),
        (
            format!("POST /v1/events HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
            &["400"],
        ),
        (
            format!("POST /v1/events HTTP/1.1\r\nHost: a\r\n{key}X-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\n{{}}"),
            &["400"],
        ),
        (format!("GET /livez HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-H: 1\r\n".repeat(150)), &["431"]),
        (format!("GET /livez HTTP/1.1\r\nHost: a\r\nX-Big: {}\r\n\r\n", "x".repeat(90_000)), &["431"]),
        ("nonsense\r\n\r\n".to_owned(), &["400", "closed"]),
    ] {
        let line = send(request.clone()).await;
        assert!(allowed.iter().any(|code| line.contains(code)), "{line} to {}", &request[..60.min(request.len())]);
    }
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn quotas_answer_429_quickly() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(dir, &["--dev"], &[("ASKWHEN__LIMITS__PER_CLIENT_USER", "2/h")]).await;
    let ask = async |user: &str| {
        let path = format!("/v1/users/{user}/triggers/Main");
        server.call(&server.client, Method::POST, &path, Some(&json!({}))).await
    };
    assert_eq!((ask("ann").await.status, ask("ann").await.status), (200, 200));
    let limited = ask("ann").await;
    problem(&limited, 429, "rate_limited");
    assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(ask("bob").await.status, 200, "others are unaffected");
}

#[tokio::test]
async fn browsers_and_identities() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(
        dir.path().join("askwhen.toml"),
        "[http]\ncors_origins = [\"https://app.example\"]\n[[projects]]\nidentity_secret = [\"the new one of sixteen\", \"the old one of sixteen\"]\n",
    )
    .unwrap();
    // With --dev the pages of every origin are let in.
    let server = Server::on(dir, &[], &[]).await;
    let path = "/v1/users/ann/triggers/Main";
    let preflight = Server::said(server.request(Method::OPTIONS, path).header("origin", "https://app.example")).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["access-control-allow-origin"], "https://app.example");
    assert!(preflight.headers["access-control-allow-headers"].to_str().unwrap().contains("x-user-signature"));
    let refused =
        server.request(Method::POST, path).header("origin", "https://app.example").bearer_auth(&server.client);
    let refused = Server::said(refused.header("content-type", "application/json").body("{}")).await;
    problem(&refused, 401, "identity_required");
    assert_eq!(refused.headers["access-control-allow-origin"], "https://app.example", "errors included");
    let signature = {
        use hmac::{Hmac, KeyInit, Mac};
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"the old one of sixteen").unwrap();
        mac.update(b"ann");
        hex::encode(mac.finalize().into_bytes())
    };
    let signed = server.request(Method::POST, path).bearer_auth(&server.client).header("x-user-signature", signature);
    assert_eq!(Server::said(signed.header("content-type", "application/json").body("{}")).await.status, 200);
    let anonymous = server.call(&server.client, Method::POST, "/v1/users/anon-1/triggers/Main", Some(&json!({}))).await;
    assert_eq!(anonymous.status, 200);
    let elsewhere = Server::said(server.request(Method::OPTIONS, path).header("origin", "https://evil.example")).await;
    assert_eq!(elsewhere.headers.get("access-control-allow-origin"), None);
}

/// One line per record, whatever the record holds.
#[tokio::test]
async fn control_characters_stay_escaped() {
    let server = Server::start().await;
    let odd = "a\r\nb\u{1b}[31m\u{202e}<script>";
    server.event("ann", "x", json!({"note": odd})).await;
    let named = json!({"user_id": "ann", "event_name": "x\r\ny"});
    problem(&raw(&server, "/v1/events", named.to_string()).await, 422, "bad_id");
    let (code, out, _) =
        crate::harness::askwhen(server.dir.path(), &["--data-dir", "data", "tail", "events", "--user", "ann"]);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{out}");
    assert!(!out.contains('\u{1b}') && !out.trim_end().contains('\r'), "nothing reaches the terminal: {out:?}");
    let record: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(record["value"]["properties"]["note"], odd, "and nothing is lost");
}

#[tokio::test]
async fn waiting_and_dribbling_senders_hold_up_nobody() {
    let server = Server::start().await;
    let address = server.base.strip_prefix("http://").unwrap().to_owned();
    let mut slow = tokio::net::TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"POST /v1/ev").await.unwrap();
    let mut waiting = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    waiting.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    waiting.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401", "refused without asking for the body");
    assert_eq!(server.get("/livez").await.status, 200);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(std::time::Duration::from_secs(60), slow.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a head that never ends is given up");
}
