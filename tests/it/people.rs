//! What clients, proxies, exports and people in a hurry really send: taken where
//! its meaning is clear, and refused with a word that helps where it is not.

use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::harness::{Said, Server, askwhen, open_survey};

/// Sends a body under headers of the test's own.
async fn send(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Said {
    let mut request = server.request(method, path).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Server::said(request).await
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[tokio::test]
async fn ids_that_programs_write_for_nothing_are_refused() {
    let server = Server::start().await;
    for id in
        ["undefined", "null", "NULL", "[object Object]", "NaN", "None", "nil", "(null)", " ", "\u{a0}", "{{user_id}}"]
    {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "{id}: {said:?}");
        assert_eq!(said.body["errors"][0]["pointer"], "/user_id");
        let said = server.post("/v1/events", json!({"user_id": "u", "event_name": id})).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "{id}: {said:?}");
    }
    for path in ["/v1/users/undefined/triggers/Main", "/v1/users/u/triggers/null", "/v1/users/%20/triggers/Main"] {
        let said = server.post(path, json!({})).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "{path}: {said:?}");
    }
    let context = json!({"context": {"session_id": "undefined"}});
    let said = server.post("/v1/users/u/triggers/Main", context).await;
    assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!("/context/session_id")), "{said:?}");
    assert_eq!(server.get("/v1/users/undefined").await.status, 200, "what is there can be looked at");
    let erased = server.call(&server.server, Method::DELETE, "/v1/users/undefined", None).await;
    assert_eq!(erased.status, 202, "and erased: {erased:?}");
    for id in ["nullable", "un-defined", "0", "a b", "ann+news@example.com", "用户", "user/1", "none"] {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!(said.status, 202, "{id}: {said:?}");
    }
}

#[tokio::test]
async fn the_sound_events_of_a_batch_are_taken() {
    let server = Server::start().await;
    let good = "{\"user_id\":\"u\",\"event_name\":\"x\"}";
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    for (item, code) in [
        ("{\"user_id\":\"u\",\"event_name\":\"\\ud800\"}".to_owned(), "lone_surrogate"),
        ("{\"user_id\":\"u\",\"user_id\":\"v\",\"event_name\":\"x\"}".to_owned(), "duplicate_key"),
        (format!("{{\"user_id\":\"u\",\"event_name\":\"x\",\"properties\":{{\"a\":{deep}}}}}"), "too_deep"),
        ("{\"user_id\":\"u\",\"event_name\":\"x\",\"properties\":{\"a\":1e400}}".to_owned(), "number_out_of_range"),
    ] {
        let body = format!("{{\"events\":[{good},{item}]}}");
        let key = bearer(&server.server);
        let headers = [("authorization", &*key), ("content-type", "application/json")];
        let said = send(&server, Method::POST, "/v1/events", &headers, body.clone()).await;
        assert_eq!(said.status, 207, "{code}: {said:?}");
        let results = &said.body["results"];
        assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(202), &json!(400)), "{code}: {said:?}");
        let problem = &results[1]["problem"];
        assert_eq!(problem["code"], code);
        let offset = problem["byte_offset"].as_u64().unwrap() as usize;
        assert!(offset > good.len() && offset < body.len(), "its place is one in the body: {problem}");
        for whole in [&body[..body.len() - 1], &format!("{body} x"), &item] {
            let said = send(&server, Method::POST, "/v1/events", &headers, whole).await;
            assert_eq!(said.status, 400, "{whole}: {said:?}");
        }
    }
}

#[tokio::test]
async fn conditional_requests_and_heads() {
    let server = Server::start().await;
    let admin = bearer(&server.admin);
    let path = "/v1/surveys/s";
    let body = open_survey().to_string();
    let json_type = ("content-type", "application/json");
    let put = async |condition: (&str, &str), body: &str| {
        send(&server, Method::PUT, path, &[("authorization", &admin), json_type, condition], body).await
    };
    assert_eq!(put(("if-none-match", "*"), &body).await.status, 201);
    let other = body.replace("Open", "Other");
    let refused = put(("if-none-match", "*"), &other).await;
    assert_eq!((refused.status, &refused.body["code"]), (412, &json!("precondition_failed")), "{refused:?}");
    assert_eq!(put(("if-none-match", "\"1\""), &other).await.status, 412);
    let shown = server.get(path).await;
    assert_eq!(shown.body["name"], "Open", "nothing was written over");
    let tag = shown.headers["etag"].to_str().unwrap().to_owned();
    for known in [&*tag, &format!("W/{tag}"), "*", "\"9\", \"1\"", "\"1-gzip\""] {
        let headers = [("authorization", &*admin), ("if-none-match", known)];
        let same = send(&server, Method::GET, path, &headers, "").await;
        assert_eq!((same.status, same.bytes.len(), &same.headers["etag"]), (304, 0, &shown.headers["etag"]), "{known}");
    }
    assert_eq!(put(("if-match", "W/\"1\""), &other).await.status, 200);
    let headers = [("authorization", &*admin), ("if-none-match", &*tag)];
    assert_eq!(send(&server, Method::GET, path, &headers, "").await.status, 200, "it is another one now");

    server.put("/v1/endpoints/crm", json!({"url": "https://crm.example/hook"})).await;
    let endpoint = server.get("/v1/endpoints/crm").await;
    let tag = endpoint.headers["etag"].to_str().unwrap();
    let headers = [("authorization", &*admin), ("if-none-match", tag)];
    assert_eq!(send(&server, Method::GET, "/v1/endpoints/crm", &headers, "").await.status, 304);
    let headers = [("authorization", &*admin), json_type, ("if-match", tag)];
    let changed = json!({"url": "https://crm.example/other"}).to_string();
    assert_eq!(send(&server, Method::PUT, "/v1/endpoints/crm", &headers, changed).await.status, 200);

    for path in
        ["/livez", "/v1/surveys", "/v1/surveys/s", "/v1/settings", "/v1/users/u", "/v1/decisions", "/v1/triggers"]
    {
        let (get, head) =
            (server.get(path).await, send(&server, Method::HEAD, path, &[("authorization", &admin)], "").await);
        assert_eq!((head.status, head.bytes.len()), (200, 0), "{path}: {head:?}");
        assert_eq!(head.headers["content-type"], get.headers["content-type"], "{path}");
    }
    let refused = server.call(&server.admin, Method::HEAD, "/v1/events", None).await;
    assert_eq!((refused.status, &refused.headers["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(server.call(&server.admin, Method::POST, path, None).await.headers["allow"], "GET, HEAD, PUT, DELETE");
}

#[tokio::test]
async fn bodies_in_the_types_that_clients_give_them() {
    let server = Server::start().await;
    let key = bearer(&server.server);
    let event = json!({"user_id": "u", "event_name": "x"}).to_string();
    let post = async |path: &str, content_type: &str, body: Vec<u8>| {
        send(&server, Method::POST, path, &[("authorization", &key), ("content-type", content_type)], body).await.status
    };
    for taken in [
        "application/json; charset=utf8",
        "application/json;charset=UTF-8",
        "application/json; charset=\"utf-8\"",
        "application/json; odata=verbose; charset=utf-8",
        "Application/JSON",
        "application/json;",
        "application/json; charset=us-ascii",
        "application/json; charset=ISO-8859-1",
        "application/vnd.api+json",
        "application/cloudevents+json; charset=utf-8",
        "application/vnd.kafka.json.v2+json",
        "text/json",
    ] {
        assert_eq!(post("/v1/events", taken, event.clone().into_bytes()).await, 202, "{taken}");
    }
    for refused in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/+json",
        "text/html",
        "*/*",
    ] {
        assert_eq!(post("/v1/events", refused, event.clone().into_bytes()).await, 415, "{refused}");
    }
    let latin = b"{\"user_id\":\"u\",\"event_name\":\"caf\xe9\"}".to_vec();
    assert_eq!(
        post("/v1/events", "application/json; charset=ISO-8859-1", latin).await,
        415,
        "what it says is not UTF-8"
    );
    for path in ["/v1/users/u/triggers/Main", "/v1/triggers/t/users/u/events"] {
        for empty in
            ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/json"]
        {
            assert_eq!(post(path, empty, Vec::new()).await, 200, "{path} {empty}");
        }
        assert_eq!(send(&server, Method::POST, path, &[("authorization", &key)], "").await.status, 200, "{path}");
        assert_eq!(post(path, "application/x-www-form-urlencoded", b"a=1".to_vec()).await, 415, "{path}");
    }
    let chunked = reqwest::Body::wrap_stream(futures::stream::empty::<Result<Vec<u8>, std::io::Error>>());
    let request = server.request(Method::POST, "/v1/users/u/triggers/Main").header("authorization", &key);
    let said = Server::said(request.header("content-type", "application/x-www-form-urlencoded").body(chunked)).await;
    assert_eq!(said.status, 200, "an empty body in chunks: {said:?}");
}

#[tokio::test]
async fn a_page_that_is_being_closed_can_still_tell() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    let offer = server.trigger("ann", "Main").await["survey"]["offer_id"].as_str().unwrap().to_owned();
    let plain = ("content-type", "text/plain;charset=UTF-8");
    let path = format!("/v1/users/ann/offers/{offer}/displayed");
    let beacon = async |path: &str, body: Value| send(&server, Method::POST, path, &[plain], body.to_string()).await;
    for key in [json!(null), json!("wrong"), json!(7), json!(server.server), json!(server.admin)] {
        let said = beacon(&path, json!({"key": key})).await;
        assert_eq!((said.status, &said.body["code"]), (401, &json!("unauthorized")), "{said:?}");
    }
    assert_eq!(send(&server, Method::POST, &path, &[plain], "not JSON").await.status, 401);
    assert_eq!(beacon(&path, json!({"key": server.client})).await.body["status"], "accepted");
    assert_eq!(
        beacon(&path, json!({"key": server.client, "sent_at": "2026-11-01T00:00:00Z"})).await.body["status"],
        "duplicate"
    );
    let answers = json!({"key": server.client, "answers": [{"question_id": "q1", "value": 4.0}], "completed": true});
    let said = beacon(&format!("/v1/users/ann/offers/{offer}/answers"), answers).await;
    assert_eq!((said.status, &said.body["status"]), (200, &json!("accepted")), "{said:?}");
    let asked = beacon("/v1/users/bob/triggers/Main", json!({"key": server.client, "properties": {}})).await;
    assert_eq!((asked.status, &asked.body["reason"]), (200, &json!("offered")), "{asked:?}");
    let event = json!({"key": server.client, "user_id": "u", "event_name": "x"});
    assert_eq!(beacon("/v1/events", event).await.status, 401, "backends have headers");
    let (_, journal, _) = askwhen(server.dir.path(), &["--data-dir", "data", "tail", "events"]);
    assert!(!journal.contains(&server.client), "no key is in the journal");
}

#[tokio::test]
async fn credentials_that_stand_beside_the_key() {
    let server = Server::start().await;
    let (good, event) = (bearer(&server.server), json!({"user_id": "u", "event_name": "x"}).to_string());
    let json_type = ("content-type", "application/json");
    for headers in [
        vec![("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", &*server.server)],
        vec![("authorization", "Basic dXNlcjpwYXNz"), ("authorization", &*good)],
        vec![("authorization", "Bearer eyJhbGciOi.of.a.proxy"), ("x-api-key", &*server.server)],
        vec![("authorization", &*good), ("x-api-key", "of-another-service")],
        vec![("authorization", &*good), ("cookie", "session=1")],
        vec![("authorization", &*format!("bearer   {}", server.server))],
    ] {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([json_type]).collect();
        let said = send(&server, Method::POST, "/v1/events", &all, event.clone()).await;
        assert_eq!(said.status, 202, "{headers:?}: {said:?}");
    }
    for headers in [
        vec![("authorization", "Basic dXNlcjpwYXNz")],
        vec![("authorization", &*server.server)],
        vec![("x-api-key", "")],
    ] {
        let all: Vec<(&str, &str)> = headers.iter().copied().chain([json_type]).collect();
        assert_eq!(send(&server, Method::POST, "/v1/events", &all, event.clone()).await.status, 401, "{headers:?}");
    }
}

#[tokio::test]
async fn what_is_said_of_users_is_kept_by_no_cache() {
    let server = Server::start().await;
    for path in ["/v1/users/u", "/v1/decisions", "/v1/responses", "/v1/deliveries", "/v1/users/u/offers/o", "/livez"] {
        let said = server.get(path).await;
        assert_eq!(said.headers["cache-control"], "no-store", "{path}: {said:?}");
    }
    let said = server.post("/v1/users/u/triggers/Main", json!({})).await;
    assert_eq!(said.headers["cache-control"], "no-store");
    assert_eq!(server.get("/v1/surveys").await.headers["cache-control"], "no-cache");
    for since in
        ["2026-11-01T00:00:00+02:00", "2026-11-01T00:00:00%2B02:00", "2026-11-01+00:00:00Z", "2026-11-01T00:00:00Z"]
    {
        let said = server.get(&format!("/v1/decisions?since={since}&")).await;
        assert_eq!(said.status, 200, "{since}: {said:?}");
    }
    assert_eq!(server.get("/v1/decisions?since=soon").await.status, 422);
}

#[tokio::test]
async fn pages_with_tracing_and_pages_of_subdomains() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let config = "[http]\ncors_origins = [\"https://app.example\", \"https://*.shop.example\"]\n";
    std::fs::write(dir.path().join("askwhen.toml"), config).unwrap();
    // With --dev the pages of every origin are let in.
    let server = Server::on(dir, &[], &[]).await;
    let path = "/v1/users/ann/triggers/Main";
    let wanted = "baggage,content-type,sentry-trace,traceparent,tracestate,b3,x-b3-traceid,x-requested-with,x-datadog-trace-id,newrelic";
    let preflight = async |origin: &str| {
        let headers =
            [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", wanted)];
        send(&server, Method::OPTIONS, path, &headers, "").await
    };
    for origin in ["https://app.example", "https://de.shop.example"] {
        let said = preflight(origin).await;
        assert_eq!((said.status, &said.headers["access-control-allow-origin"]), (204, &origin.parse().unwrap()));
        let allowed = said.headers["access-control-allow-headers"].to_str().unwrap();
        for name in wanted.split(',') {
            assert!(allowed.split(", ").any(|one| one == name), "{name} is not in {allowed}");
        }
    }
    for origin in [
        "https://shop.example",
        "https://a.b.shop.example",
        "https://evilshop.example",
        "http://de.shop.example",
        "null",
    ] {
        let said = preflight(origin).await;
        assert!(said.headers.get("access-control-allow-origin").is_none(), "{origin}: {said:?}");
        assert!(!said.headers["access-control-allow-headers"].to_str().unwrap().contains("baggage"), "{origin}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (text, line) in [
        ("[http]\ncors_origins = [\"https://app.example/\"]\n", 2),
        ("[[keys]]\nkind = \"admin\"\nkey = \"secret\"\n", 3),
        ("[[projects]]\nidentity_secret = \"hello\"\n", 2),
        ("[[keys]]\nkind = \"admin\"\nkey = \"aaaaaaaaaaaaaaaaaaaaaaaa\"\n", 3),
        ("[[projects]]\nidentity_secret = \"passwordpassword\"\n", 2),
        ("[process]\nlog_level = \"wran\"\n", 2),
        ("[process]\nlog_level = \"warn,askwhen=loud\"\n", 2),
        ("[http]\nadmin_listen = \"x\"\n", 2),
        ("[http]\nadmin_listen = \"127.0.0.1:8090x\"\n", 2),
        ("[http]\nadmin_listen = \"127.0.0.999:80\"\n", 2),
    ] {
        std::fs::write(dir.path().join("askwhen.toml"), text).unwrap();
        let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "serve", "--listen", "127.0.0.1:0"]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(&format!("askwhen.toml:{line}")), "{error}");
        assert!(!dir.path().join("data").exists(), "nothing was made");
    }
    std::fs::remove_file(dir.path().join("askwhen.toml")).unwrap();
    for flags in [["--listen", "nowhere"], ["--listen", "127.0.0.1:8090x"], ["--log-level", "loud"]] {
        let (code, _, error) = askwhen(dir.path(), &[&["--data-dir", "data", "serve"][..], &flags].concat());
        assert!(code == Some(2) && error.contains("must be"), "{error}");
        assert!(!dir.path().join("data").exists(), "nothing was made");
    }
}

/// The words of other products, as their documentation has them.
#[tokio::test]
async fn members_of_other_products_are_told_their_names_here() {
    let server = Server::start().await;
    for (body, wrong, meant) in [
        (json!({"userId": "u", "event": "Order Completed", "properties": {}}), "/event", "event_name"),
        (json!({"userId": "u", "event_name": "x"}), "/userId", "user_id"),
        (json!({"distinct_id": "u", "event_name": "x"}), "/distinct_id", "user_id"),
        (json!({"user_id": "u", "event": "x"}), "/event", "event_name"),
        (json!({"user_id": "u", "event_name": "x", "timestamp": "2026-11-01T00:00:00Z"}), "/timestamp", "occurred_at"),
        (json!({"user_id": "u", "event_name": "x", "originalTimestamp": "x"}), "/originalTimestamp", "occurred_at"),
        (json!({"user_id": "u", "event_name": "x", "messageId": "m"}), "/messageId", "event_id"),
        (json!({"user_id": "u", "event_name": "x", "id": "m"}), "/id", "event_id"),
        (json!({"user_id": "u", "event_name": "x", "payload": {}}), "/payload", "properties"),
        (json!({"user_id": "u", "event_name": "x", "sentAt": "x"}), "/sentAt", "sent_at"),
    ] {
        let said = server.post("/v1/events", body.clone()).await;
        assert_eq!(said.status, 422, "{said:?}");
        let errors = said.body["errors"].as_array().unwrap();
        let fault = errors.iter().find(|fault| fault["pointer"] == wrong).unwrap_or_else(|| panic!("{said:?}"));
        assert!(fault["detail"].as_str().unwrap().ends_with(&format!("did you mean {meant}?")), "{body}: {fault}");
        if said.body["code"] == "missing_field" {
            assert!(said.body["detail"].as_str().unwrap().contains("did you mean"), "the first word helps: {said:?}");
        }
    }
    let answer = json!({"answers": [{"id": "q1", "answer": 5}]});
    let said = server.post("/v1/users/u/offers/o/answers", answer).await;
    let text = said.body.to_string();
    assert!(text.contains("did you mean question_id?") && text.contains("did you mean value?"), "{text}");
    let batch = json!({"batch": [{"userId": "u"}]});
    let said = server.post("/v1/events", batch).await;
    assert_eq!(said.status, 422, "{said:?}");
}

#[tokio::test]
async fn a_reloaded_page_without_a_session_is_told_what_it_lacks() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");
    let again = server.trigger("ann", "Main").await;
    assert_eq!(again["reason"], "offer_outstanding");
    let hint = again["evaluations"][0]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("session_id"), "{again}");
    let session = json!({"context": {"session_id": "a"}});
    let told = server.post("/v1/users/bob/triggers/Main", session.clone()).await.body;
    let same = server.post("/v1/users/bob/triggers/Main", session).await.body;
    assert_eq!(same["survey"]["offer_id"], told["survey"]["offer_id"], "with one it is given again");
    let other = server.post("/v1/users/bob/triggers/Main", json!({"context": {"session_id": "b"}})).await.body;
    assert_eq!((&other["reason"], &other["evaluations"][0]["hint"]), (&json!("offer_outstanding"), &Value::Null));
    drop(server.dir.clone());
}

/// Context, ratings and times as apps of all kinds send them.
#[tokio::test]
async fn contexts_and_values_of_apps() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["platforms"] = json!(["ios", "web"]);
    survey["locales"] = json!(["en-GB", "pt-BR", "zh-Hant"]);
    survey["app_version"] = json!(">=2.0.0 <6");
    server.put("/v1/surveys/s", survey).await;
    for (n, (platform, locale, version, reason)) in [
        ("iOS", "en_GB", "5.12.0.1", "offered"),
        ("IOS", "EN-gb", "2.1.0 (345)", "offered"),
        ("Web", "pt-br", "v3.0", "offered"),
        ("web", "zh_Hant_TW", "2.2.0-beta.1", "offered"),
        ("ios", "en_GB.UTF-8", "02.01.00", "offered"),
        ("ios", "en-GB-oxendict", "4", "offered"),
        ("iOS ", "en_GB", "3.1.4+build.9", "offered"),
        ("android", "en_GB", "3.0", "platform_mismatch"),
        ("ios", "en", "3.0", "locale_mismatch"),
        ("ios", "pt_PT", "3.0", "locale_mismatch"),
        ("ios", "en_GB", "2.0.0-rc.1", "version_mismatch"),
        ("ios", "en_GB", "6.0.0-beta", "version_mismatch"),
        ("ios", "en_GB", "unknown", "version_mismatch"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = json!({"context": {"platform": platform, "locale": locale, "app_version": version}});
        let said = server.post(&format!("/v1/users/u{n}/triggers/Main"), context).await;
        assert_eq!(said.body["reason"], reason, "{platform} {locale} {version}: {said:?}");
    }
    let never = json!({"user_id": "u", "event_name": "x", "occurred_at": "9999-12-31T23:59:59Z"});
    assert_eq!(server.post("/v1/events", never).await.status, 202);
    let mut never = open_survey();
    never["schedule"] = json!({"end_at": "9999-12-31T23:59:59Z"});
    server.put("/v1/surveys/never", never).await;
    assert_eq!(server.get("/v1/surveys/never").await.body["schedule"]["end_at"], "9999-12-31T23:59:59.000Z");
}

#[tokio::test]
async fn what_is_complete_does_not_change() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    let offer = server.trigger("ann", "Main").await["survey"]["offer_id"].as_str().unwrap().to_owned();
    let answers = async |list: Value, completed: bool| {
        let path = format!("/v1/users/ann/offers/{offer}/answers");
        server.post(&path, json!({"answers": list, "completed": completed})).await
    };
    let given = |value: Value| json!([{"question_id": "q1", "value": value}]);
    assert_eq!(answers(given(json!(3)), false).await.body["status"], "accepted");
    assert_eq!(answers(given(json!(4)), true).await.body["status"], "accepted");
    for (list, completed) in [(given(json!(4)), true), (given(json!(4.0)), false), (json!([]), true)] {
        let said = answers(list, completed).await;
        assert_eq!((said.status, &said.body["status"]), (200, &json!("duplicate")), "{said:?}");
    }
    for (list, completed) in [(given(json!(1)), false), (given(json!(1)), true), (given(json!(3)), true)] {
        let said = answers(list, completed).await;
        assert_eq!((said.status, &said.body["code"]), (409, &json!("response_completed")), "{said:?}");
    }
    let kept = server.get(&format!("/v1/users/ann/offers/{offer}")).await.body;
    assert_eq!(kept["answers"][0]["value"], 4, "{kept}");
}

#[tokio::test]
async fn times_as_numbers() {
    let server = Server::start().await;
    for (at, status) in [
        (json!(1_794_009_600), 202),
        (json!(1_794_009_600_123_i64), 202),
        (json!(1_794_009_600.5), 202),
        (json!(null), 202),
        (json!("1794009600"), 422),
        (json!(true), 422),
        (json!(1e300), 422),
        (json!({"seconds": 1}), 422),
    ] {
        let said = server.post("/v1/events", json!({"user_id": "u", "event_name": "x", "occurred_at": at})).await;
        assert_eq!(said.status, status, "{at}: {said:?}");
    }
}

#[tokio::test]
async fn what_was_answered_to_another_survey_is_a_condition() {
    let server = Server::start().await;
    let mut nps = open_survey();
    nps["questions"] = json!([{"question_id": "q1", "type": "nps", "text": "?"}]);
    nps["show_on"] = json!([{"trigger": "Score"}]);
    assert_eq!(server.put("/v1/surveys/nps", nps).await.status, 201);
    for (user, score) in [("ann", 9), ("ben", 6), ("eve", 10)] {
        let offer = server.trigger(user, "Score").await["survey"]["offer_id"].as_str().unwrap().to_owned();
        let answers = json!({"answers": [{"question_id": "q1", "value": score}], "completed": user != "eve"});
        let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), answers).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
    // The survey that asks for it comes later, and later than the offers are remembered.
    server.advance("25h").await;
    let mut promoters = open_survey();
    let rule = json!({"survey": "nps", "answer": {"question_id": "q1", "op": "gte", "value": 9}, "within": "30d"});
    promoters["targeting"] = rule.clone();
    assert_eq!(server.put("/v1/surveys/promoters", promoters.clone()).await.status, 201);
    assert_eq!(server.get("/v1/surveys/promoters").await.body["targeting"], rule, "as it was said");
    for (user, reason) in
        [("ann", "offered"), ("ben", "targeting_failed"), ("eve", "targeting_failed"), ("joe", "targeting_failed")]
    {
        let said = server.trigger(user, "Main").await;
        assert_eq!(said["reason"], reason, "{user}: {said}");
    }
    let said = server.trigger("ben", "Main").await;
    let actual = &said["evaluations"][0]["actual"];
    assert_eq!((&actual["question_id"], &actual["answer"]), (&json!("q1"), &json!(6)), "{said}");
    for (member, value, pointer) in [
        ("did", json!("completed"), "/targeting/did"),
        ("answer", json!({"question_id": "q1", "op": "between", "value": 9}), "/targeting/answer/value"),
        ("answer", json!({"question": "q1", "op": "gte", "value": 9}), "/targeting/answer/question"),
    ] {
        let mut wrong = promoters.clone();
        wrong["targeting"][member] = value;
        let said = server.call(&server.admin, Method::PUT, "/v1/surveys/wrong", Some(&wrong)).await;
        let told: Vec<&Value> = said.body["errors"].as_array().unwrap().iter().map(|e| &e["pointer"]).collect();
        assert!(said.status == 422 && told.contains(&&json!(pointer)), "{said:?}");
    }
}
