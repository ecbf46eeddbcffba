//! More of what really comes: from customer data platforms, connectors, spreadsheets, apps on
//! phones, proxies, tracing and hurried people, each with what becomes of it.

use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Server, askwhen, open_survey};

#[tokio::test]
async fn ids_that_were_wrapped_or_worked_out_to_nothing() {
    let server = Server::start().await;
    for id in [
        "Optional(\"u1\")",
        "[object Promise]",
        "#N/A",
        "#REF!",
        "(not set)",
        "{user_id}",
        "00000000-0000-0000-0000-000000000000",
    ] {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "{id}: {said:?}");
    }
    let said = server.post("/v1/users/{user_id}/triggers/Main", json!({})).await;
    assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "copied from a page: {said:?}");
    let number = server.post("/v1/events", json!({"user_id": 4711, "event_name": "x"})).await;
    assert_eq!((number.status, &number.body["errors"][0]["pointer"]), (422, &json!("/user_id")));
    assert!(number.body["errors"][0]["detail"].as_str().unwrap().contains("a string"), "{number:?}");
    for id in ["550e8400-e29b-41d4-a716-446655440000", "550E8400-E29B-41D4-A716-446655440000", "anon-1", "+4912345"] {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!(said.status, 202, "{id}: {said:?}");
    }
}

/// Whole bodies, as their documentation has them: every member that is wrong is named at once.
#[tokio::test]
async fn bodies_of_other_products_are_told_all_that_is_to_change() {
    let server = Server::start().await;
    let segment = json!({"type": "track", "anonymousId": "23adfd82-aa0f-45a7-a756-24f2a7a4c895", "userId": "u1",
        "event": "Item Purchased", "messageId": "ajs-1", "timestamp": "2026-11-01T00:00:00.000Z",
        "properties": {"revenue": 39.95}, "context": {"library": {"name": "analytics.js"}, "locale": "en-US"}});
    let amplitude = json!({"user_id": "u1", "event_type": "watch", "time": 1_794_009_600_123_i64, "insert_id": "i1",
        "event_properties": {"a": 1}, "user_properties": {"plan": "pro"}, "device_id": "d"});
    let mixpanel =
        json!({"event": "Signed up", "properties": {"distinct_id": "u1", "time": 1_794_009_600, "token": "t"}});
    let debezium = json!({"schema": {"type": "struct"}, "payload": {"op": "c", "ts_ms": 1_794_009_600_123_i64,
        "before": null, "after": {"user_id": "u1", "event_name": "x"}}});
    let cloud =
        json!({"specversion": "1.0", "id": "e1", "source": "/shop", "type": "order.paid", "data": {"user_id": "u1"}});
    for (what, body, pairs) in [
        (
            "Segment",
            segment,
            &[
                ("/userId", "user_id"),
                ("/event", "event_name"),
                ("/timestamp", "occurred_at"),
                ("/messageId", "event_id"),
            ][..],
        ),
        (
            "Amplitude",
            amplitude,
            &[
                ("/event_type", "event_name"),
                ("/time", "occurred_at"),
                ("/insert_id", "event_id"),
                ("/event_properties", "properties"),
            ],
        ),
        ("Mixpanel", mixpanel, &[("/event", "event_name")]),
        ("Debezium", debezium, &[("/payload", "properties")]),
        ("CloudEvents", cloud, &[("/id", "event_id"), ("/type", "event_name"), ("/data", "properties")]),
    ] {
        let said = server.post("/v1/events", body).await;
        assert_eq!(said.status, 422, "{what}: {said:?}");
        let errors = said.body["errors"].as_array().unwrap();
        for (pointer, meant) in pairs {
            let told =
                errors.iter().find(|error| error["pointer"] == *pointer).map(|error| error["detail"].to_string());
            let told = told.unwrap_or_else(|| panic!("{what}: {pointer} is not named: {said:?}"));
            assert!(told.contains(&format!("did you mean {meant}?")), "{what} {pointer}: {told}");
        }
    }
    // What a batch calls its list there.
    for list in ["batch", "records", "data"] {
        let said = server.post("/v1/events", json!({list: [{"user_id": "u", "event_name": "x"}]})).await;
        assert!(said.status == 422 && said.body.to_string().contains("did you mean events?"), "{list}: {said:?}");
    }
    let bare = server.post("/v1/events", json!([{"user_id": "u", "event_name": "x"}])).await;
    assert!(bare.status == 422 && bare.body.to_string().contains("a batch is"), "{bare:?}");
}

async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let (mut all, mut piece) = (Vec::new(), [0; 4_096]);
    while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_millis(700), stream.read(&mut piece)).await {
        if n == 0 {
            break;
        }
        all.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Heads as proxies, balancers and clients of other languages write them.
#[tokio::test]
async fn heads_of_proxies_and_of_clients_that_would_rather_speak_another_http() {
    let server = Server::start().await;
    let event = json!({"user_id": "u", "event_name": "x"}).to_string();
    let rest = format!(
        "Host: ask.example\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        server.server,
        event.len()
    );
    for (what, request, status) in [
        (
            "Java's client offers HTTP/2",
            format!(
                "POST /v1/events HTTP/1.1\r\n{rest}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n\r\n{event}"
            ),
            "HTTP/1.1 202 ",
        ),
        (
            "nginx without proxy_http_version",
            format!(
                "POST /v1/events HTTP/1.0\r\n{rest}Connection: close\r\nX-Real-IP: 10.0.0.1\r\nX-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n\r\n{event}"
            ),
            "HTTP/1.0 202 ",
        ),
        (
            "a proxy that is asked as one",
            format!("POST http://ask.example/v1/events HTTP/1.1\r\n{rest}\r\n{event}"),
            "HTTP/1.1 202 ",
        ),
        (
            "headers of tracing and of a mesh",
            format!(
                "POST /v1/events HTTP/1.1\r\n{rest}traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nX-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793\r\nx-envoy-expected-rq-timeout-ms: 15000\r\nVia: 1.1 a, 1.1 b\r\nForwarded: for=\"[::1]\";proto=https\r\n\r\n{event}"
            ),
            "HTTP/1.1 202 ",
        ),
        ("HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "HTTP/1.1 400 "),
        (
            "the address of a balancer's client",
            "PROXY TCP4 1.2.3.4 10.0.0.1 5 80\r\nGET /livez HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "HTTP/1.1 400 ",
        ),
        ("a slash at the end", format!("POST /v1/events/ HTTP/1.1\r\n{rest}\r\n{event}"), "HTTP/1.1 404 "),
        ("two slashes", format!("POST //v1/events HTTP/1.1\r\n{rest}\r\n{event}"), "HTTP/1.1 404 "),
    ] {
        let said = raw(&server, request.as_bytes()).await;
        assert!(said.starts_with(status), "{what}: {said}");
    }
    let expecting = format!("POST /v1/events HTTP/1.1\r\n{rest}Expect: 100-continue\r\n\r\n");
    let said = raw(&server, expecting.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 100 "), "it is told to go on: {said}");
    let hello = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[7; 190]].concat();
    let said = raw(&server, &hello).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "TLS on a plain port: {said}");
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn pages_that_are_traced_may_ask() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("askwhen.toml"), "[http]\ncors_origins = [\"https://app.example\"]\n").unwrap();
    let server = Server::on(dir, &[], &[]).await;
    for wanted in [
        "content-type,request-context,request-id,traceparent",
        "elastic-apm-traceparent,content-type,x-api-key",
        "uber-trace-id,uberctx-flow",
        "x-datadog-origin,x-datadog-parent-id,x-datadog-sampling-priority,x-datadog-trace-id,tracestate",
        "x-cloud-trace-context,x-client-data",
        "ot-tracer-sampled,ot-tracer-spanid,ot-tracer-traceid",
        "x-dtpc,x-dtreferer",
    ] {
        let request =
            server.request(Method::OPTIONS, "/v1/users/ann/triggers/Main").header("origin", "https://app.example");
        let request =
            request.header("access-control-request-method", "POST").header("access-control-request-headers", wanted);
        let said = Server::said(request).await;
        let allowed = said.headers["access-control-allow-headers"].to_str().unwrap();
        for name in wanted.split(',') {
            assert!(allowed.split(", ").any(|one| one == name), "{name} is not in {allowed}");
        }
    }
}

/// What phones call languages, zones and versions.
#[tokio::test]
async fn languages_and_zones_as_phones_spell_them() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["locales"] = json!(["zh-CN", "he", "id", "en-GB", "sr-Latn"]);
    server.put("/v1/surveys/s", survey).await;
    for (n, (locale, reason)) in [
        ("zh-Hans-CN", "offered"),
        ("zh-Hans_CN", "offered"),
        ("zh_CN_#Hans", "offered"),
        ("iw_IL", "offered"),
        ("in_ID", "offered"),
        ("en_GB@calendar=buddhist", "offered"),
        ("en-Latn-GB-u-ca-buddhist", "offered"),
        ("sr_RS_#Latn", "offered"),
        ("zh-Hant-TW", "locale_mismatch"),
        ("zh", "locale_mismatch"),
        ("zh-u-cn", "locale_mismatch"),
        ("sr_RS", "locale_mismatch"),
        ("hi_IN", "locale_mismatch"),
        ("C", "locale_mismatch"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = json!({"context": {"locale": locale}});
        let said = server.post(&format!("/v1/users/l{n}/triggers/Main"), context).await;
        assert_eq!(said.body["reason"], reason, "{locale}: {said:?}");
    }
    let mut spoken = open_survey();
    spoken["show_on"] = json!([{"trigger": "Spoken"}]);
    spoken["locale"] = json!("en");
    spoken["translations"] = json!({"zh-CN": {"name": "简"}, "zh-Hant": {"name": "繁"}, "he": {"name": "ע"}, "de": {"name": "D"}, "de-AT": {"name": "A"}});
    server.put("/v1/surveys/spoken", spoken).await;
    for (n, (locale, shown)) in [
        ("zh-Hans-CN", "简"),
        ("zh-Hant-TW", "繁"),
        ("iw", "ע"),
        ("de_AT", "A"),
        ("de-CH", "D"),
        ("de-Latn-AT", "A"),
        ("zh", "Open"),
        ("en-US", "Open"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = json!({"context": {"locale": locale}});
        let said = server.post(&format!("/v1/users/t{n}/triggers/Spoken"), context).await;
        assert_eq!(said.body["survey"]["name"], shown, "{locale}: {said:?}");
    }
    let mut hours = open_survey();
    hours["show_on"] = json!([{"trigger": "Hours"}]);
    hours["schedule"] = json!({"timezone": "user", "hours": ["00:00", "24:00"]});
    server.put("/v1/surveys/hours", hours).await;
    for (n, (zone, reason)) in [
        ("GMT+02:00", "offered"),
        ("GMT+2", "offered"),
        ("Asia/Calcutta", "offered"),
        ("Europe/Kyiv", "offered"),
        ("Europe/Kiev", "offered"),
        ("US/Eastern", "offered"),
        ("america/new_york", "offered"),
        ("Etc/GMT-3", "offered"),
        ("W. Europe Standard Time", "out_of_schedule"),
        ("CEST-ish", "out_of_schedule"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = json!({"context": {"timezone": zone}});
        let said = server.post(&format!("/v1/users/z{n}/triggers/Hours"), context).await;
        assert_eq!(said.body["reason"], reason, "{zone}: {said:?}");
    }
}

#[tokio::test]
async fn times_as_languages_print_them() {
    let server = Server::start().await;
    for (at, status) in [
        ("2026-11-01T00:00:00+0000", 202),
        ("2026-11-01 00:00:00+00:00", 202),
        ("2026-11-01T00:00:00.123456789123Z", 202),
        ("2026-11-01T02:00:00.000+02:00", 202),
        ("2026-11-01t00:00:00z", 202),
        ("2026-11-01T00:00:00", 422),
        ("2026-11-01T00:00:00Z[Europe/Berlin]", 422),
        ("Sun Nov 01 2026 00:00:00 GMT+0000 (Coordinated Universal Time)", 422),
        ("Sun, 01 Nov 2026 00:00:00 GMT", 422),
        ("01.11.2026 08:00", 422),
        ("11/1/2026", 422),
        ("46327.5", 422),
    ] {
        let said = server.post("/v1/events", json!({"user_id": "u", "event_name": "x", "occurred_at": at})).await;
        assert_eq!(said.status, status, "{at}: {said:?}");
        if status == 422 {
            assert!(
                said.body["errors"][0]["detail"].as_str().unwrap().contains("such as 2026-11-01T08:30:00Z"),
                "{said:?}"
            );
        }
    }
}

/// Files that were copied from pages, mails and other machines.
#[test]
fn survey_files_as_people_paste_them() {
    let dir = tempfile::tempdir().unwrap();
    let good = "kind: survey\nsurvey_id: s\nname: S\nshow_on: [{trigger: Main}]\n\
                questions:\n  - {question_id: q1, type: nps, text: \"How?\"}\n";
    let validate = |text: &str| {
        std::fs::write(dir.path().join("s.yaml"), text).unwrap();
        let (code, out, error) = askwhen(dir.path(), &["validate", "-f", "s.yaml"]);
        (code, format!("{out}{error}"))
    };
    for (what, text) in [
        ("lines of Windows", good.replace('\n', "\r\n")),
        ("a mark of the byte order", format!("\u{feff}{good}")),
        ("three dashes and a comment", format!("# mine\n---\n{good}...\n")),
        ("typographic quotes in a text", good.replace("How?", "“How”?")),
        ("blanks at the ends", good.replace("name: S\n", "name: S   \n")),
        ("words that were once booleans", good.replace("\"How?\"", "yes")),
    ] {
        let (code, said) = validate(&text);
        assert_eq!(code, Some(0), "{what}: {said}");
    }
    for (what, text, words) in [
        ("typographic quotes around a word", good.replace("type: nps", "type: “nps”"), &["s.yaml:6", "nps"][..]),
        ("a blank that does not break", good.replace("  - {question", "\u{a0}\u{a0}- {question"), &["s.yaml:"]),
        ("a tab", good.replace("  - {question", "\t- {question"), &["s.yaml:6"]),
        ("a number as an id", good.replace("survey_id: s", "survey_id: 12"), &["s.yaml:2", "a string"]),
        (
            "one where a list is wanted",
            good.replace("show_on: [{trigger: Main}]", "show_on: Main"),
            &["s.yaml:4", "list"],
        ),
        ("a duration of another standard", format!("{good}expires_after: PT2H\n"), &["s.yaml:7", "2h"]),
        ("a duration in words", format!("{good}expires_after: 2 hours\n"), &["s.yaml:7", "2h"]),
        (
            "an operator as programs write it",
            format!("{good}targeting: {{attribute: age, op: \">=\", value: 18}}\n"),
            &["s.yaml:7", "gte"],
        ),
    ] {
        let (code, said) = validate(&text);
        assert_eq!(code, Some(2), "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: {word} is not in {said}");
        }
    }
}

/// A job that is run again has the effect of one run.
#[tokio::test]
async fn a_job_that_runs_twice() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["activate"] = json!({"event": "x", "count": {"at_least": 2, "within": "24h"}});
    survey["expires_after"] = json!("2h");
    server.put("/v1/surveys/s", survey).await;
    let day = |day: u32| {
        json!({"events": [{"user_id": "u1", "event_name": "x", "event_id": format!("2026-11-0{day}/u1")},
            {"user_id": "u2", "event_name": "x", "event_id": format!("2026-11-0{day}/u2")}]})
    };
    for _ in 0..3 {
        let said = server.post("/v1/events", day(1)).await;
        assert_eq!(said.status, 202, "{said:?}");
    }
    assert_eq!(server.trigger("u1", "Main").await["reason"], "not_activated", "it has happened once");
    assert_eq!(server.post("/v1/events", day(2)).await.status, 202);
    assert_eq!(server.trigger("u1", "Main").await["reason"], "offered");
}
