//! Definitions over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Receiver, Server, askwhen, open_survey};

async fn put(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let said = server.call(&server.admin, Method::PUT, path, Some(body)).await;
    (said.status, said.body)
}

fn with(changes: Value) -> Value {
    let mut survey = open_survey();
    for (name, value) in changes.as_object().unwrap() {
        survey[name] = value.clone();
    }
    survey
}

#[tokio::test]
async fn wrong_surveys_are_refused_with_their_pointer() {
    let server = Server::start().await;
    let armed = |more: Value| {
        let mut survey = with(json!({"activate": {"event": "x"}, "expires_after": "2h"}));
        for (name, value) in more.as_object().unwrap() {
            survey[name] = value.clone();
        }
        survey
    };
    for (body, code, pointer) in [
        (armed(json!({"expires_after": "0s"})), "invalid", "/expires_after"),
        (armed(json!({"expires_after": null})), "missing_field", "/expires_after"),
        (armed(json!({"expires_after": "101h"})), "invalid", "/expires_after"),
        (armed(json!({"delay": "2h"})), "invalid", "/delay"),
        (armed(json!({"activate": {"event": "x", "any": []}})), "invalid", "/activate/any"),
        (armed(json!({"activate": {"sequence": {"within": "1h"}}})), "missing_field", "/activate/sequence/steps"),
        (
            armed(json!({"activate": {"event": "x", "count": {"at_least": 51, "within": "1d"}}})),
            "invalid",
            "/activate/count/at_least",
        ),
        (
            armed(json!({"activate": {"event": "x", "where": [{"property": "p", "op": "is", "value": 1}]}})),
            "invalid",
            "/activate/where/0/op",
        ),
        (with(json!({"cancel_on": [{"event": "y"}]})), "invalid", "/cancel_on"),
        (with(json!({"targeting": {"all": [{"attribute": "plan"}]}})), "missing_field", "/targeting/all/0/op"),
        (with(json!({"sampling": {"percent": 101}})), "invalid", "/sampling/percent"),
        (with(json!({"targeting": {"survey": "nps", "all": []}})), "invalid", "/targeting/survey"),
        (with(json!({"limits": {"max_completed": 0}})), "invalid", "/limits/max_completed"),
        (with(json!({"limits": {"max_complete": 9}})), "unknown_field", "/limits/max_complete"),
        (with(json!({"schedule": {"timezone": "Mars/Olympus"}})), "invalid", "/schedule/timezone"),
        (with(json!({"schedule": {"days": ["monday"]}})), "invalid", "/schedule/days/0"),
        (with(json!({"schedule": {"hours": ["6:00", "23:00"]}})), "invalid", "/schedule/hours"),
        (
            with(json!({"questions": [{"question_id": "q", "type": "slider", "text": "?"}]})),
            "invalid",
            "/questions/0/type",
        ),
        (
            with(
                json!({"questions": [{"question_id": "q", "type": "text", "text": "?"}, {"question_id": "q", "type": "text", "text": "?"}]}),
            ),
            "invalid",
            "/questions/1/question_id",
        ),
        (with(json!({"show_on": []})), "missing_field", "/show_on"),
        (with(json!({"prioritty": 5})), "unknown_field", "/prioritty"),
        (with(json!({"survey_id": "other"})), "invalid", "/survey_id"),
    ] {
        let (status, said) = put(&server, "/v1/surveys/s", &body).await;
        assert_eq!(
            (status, said["code"].as_str(), said["errors"][0]["pointer"].as_str()),
            (422, Some(code), Some(pointer)),
            "{said}"
        );
    }
    let (_, said) = put(&server, "/v1/surveys/s", &with(json!({"prioritty": 5}))).await;
    assert!(said["errors"][0]["detail"].as_str().unwrap().contains("priority"), "{said}");
    assert_eq!(server.get("/v1/surveys/s").await.status, 404, "nothing was written");
    let fine = with(
        json!({"sampling": {"percent": 100, "salt": "s"}, "holdout": {"percent": 0}, "limits": {"max_completed": null}, "cancel_on": [], "ui": {"b": 1, "a": 2.5}}),
    );
    assert_eq!(put(&server, "/v1/surveys/s", &fine).await.0, 201, "what asks for nothing is taken");
    assert!(
        String::from_utf8_lossy(&server.get("/v1/surveys/s").await.bytes).contains("\"ui\":{\"b\":1,\"a\":2.5}"),
        "untouched"
    );
}

#[tokio::test]
async fn versions_tags_and_lists() {
    let server = Server::start().await;
    let survey = open_survey();
    assert_eq!(put(&server, "/v1/surveys/a", &survey).await, (201, json!({"version": 1, "changed": true})));
    assert_eq!(put(&server, "/v1/surveys/a", &survey).await, (200, json!({"version": 1, "changed": false})));
    assert_eq!(
        put(&server, "/v1/surveys/a", &with(json!({"priority": 2}))).await,
        (200, json!({"version": 2, "changed": true}))
    );
    let shown = server.get("/v1/surveys/a").await;
    assert_eq!(
        (&shown.headers["etag"], &shown.body["priority"], &shown.body["version"]),
        (&"\"2\"".parse().unwrap(), &json!(2), &json!(2))
    );
    let stale = server.request(Method::PUT, "/v1/surveys/a").bearer_auth(&server.admin).header("if-match", "\"1\"");
    let stale = Server::said(stale.header("content-type", "application/json").body(survey.to_string())).await;
    assert_eq!((stale.status, &stale.body["code"]), (412, &json!("precondition_failed")));
    assert_eq!(put(&server, "/v1/surveys/c?dry_run=true", &survey).await.0, 200);
    assert_eq!(server.get("/v1/surveys/c").await.status, 404, "a dry run writes nothing");
    put(&server, "/v1/surveys/b", &survey).await;
    let page = server.get("/v1/surveys?limit=1").await.body;
    assert_eq!(page["surveys"][0]["survey_id"], "b", "newest first");
    let next = page["next_cursor"].as_str().unwrap();
    let page = server.get(&format!("/v1/surveys?limit=1&cursor={next}")).await.body;
    assert_eq!((&page["surveys"][0]["survey_id"], &page["next_cursor"]), (&json!("a"), &Value::Null));
    let gone = server.call(&server.admin, Method::DELETE, "/v1/surveys/a", None).await;
    assert_eq!((gone.status, &server.get("/v1/surveys/a").await.body["status"]), (200, &json!("archived")));
    assert_eq!(server.call(&server.admin, Method::DELETE, "/v1/surveys/none", None).await.status, 404);
}

#[tokio::test]
async fn forbidden_targets_and_wrong_endpoints() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(dir, &[], &[]).await;
    for url in [
        "http://127.0.0.1",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]",
        "https://0",
        "https://0x7f.1",
        "https://2130706433",
        "https://127.1",
        "https://169.254.169.254",
        "https://10.0.0.1",
        "https://100.64.0.1",
        "https://[fc00::1]",
        "https://[fe80::1]",
        "https://[64:ff9b::7f00:1]",
        "https://[64:ff9b:1::1]",
        "https://[2002:7f00:1::]",
        "https://[2001::1]",
        "https://localhost",
        "https://a.localhost",
        "file:///etc/passwd",
        "https://u:p@example.com",
        "https://example.com:22",
        "https://example.com:25",
        "https://example.com:6379",
        "http://example.com",
    ] {
        let (status, said) = put(&server, "/v1/endpoints/e", &json!({"url": url})).await;
        assert_eq!((status, said["code"].as_str()), (422, Some("forbidden_target")), "{url}: {said}");
    }
    let url = "https://example.com/hook";
    for (body, pointer) in [
        (json!({"url": url, "headers": {"Host": "x"}}), "/headers/Host"),
        (json!({"url": url, "headers": {"content-length": "1"}}), "/headers/content-length"),
        (json!({"url": url, "headers": {"Webhook-Id": "1"}}), "/headers/Webhook-Id"),
        (json!({"url": url, "headers": {"x-a": "1\r\nx-b: 2"}}), "/headers/x-a"),
        (json!({"url": url, "secret": "whsec_c2hvcnQ="}), "/secret"),
        (json!({"url": url, "profile": "1flow", "events": ["response.answered"]}), "/events/0"),
        (json!({"url": url, "retry": {"kind": "fixed", "interval": "25h", "max_attempts": 3}}), "/retry/interval"),
        (json!({"url": url, "rate_limit": "5/d"}), "/rate_limit"),
        (
            json!({"url": url, "retry": {"kind": "schedule", "delays": ["1m"], "retry_after": {"max": "2d"}}}),
            "/retry/retry_after/max",
        ),
        (
            json!({"url": url, "retry": {"kind": "schedule", "delays": ["1m"], "terminal_status": [200]}}),
            "/retry/terminal_status",
        ),
        (
            json!({"url": url, "retry": {"kind": "exponential", "base": "2h", "cap": "1h", "max_attempts": 3}}),
            "/retry/cap",
        ),
        (json!({"url": url, "tls": {"ca": "no PEM"}}), "/tls/ca"),
        (json!({"url": url, "tls": {"client_key": {"sealed": "x", "digest": "y"}}}), "/tls/client_key"),
        (json!({"url": url, "disabled": {"reason": "gone", "since_ms": 1}}), "/disabled"),
        (json!({"url": url, "secret": "whsk_c2hvcnQ="}), "/secret"),
    ] {
        let (status, said) = put(&server, "/v1/endpoints/e", &body).await;
        assert_eq!((status, said["errors"][0]["pointer"].as_str()), (422, Some(pointer)), "{said}");
    }
    let (status, said) = put(&server, "/v1/endpoints/e", &json!({"url": url})).await;
    assert!(status == 201 && said["secret"].as_str().unwrap().starts_with("whsec_"), "{said}");
    let shown = server.get("/v1/endpoints/e").await.body;
    assert_eq!((shown.get("secret"), &shown["state"], &shown["state_reason"]), (None, &json!("healthy"), &Value::Null));
    assert!(shown["state_since"].is_string());
}

#[tokio::test]
async fn triggers_and_settings() {
    let server = Server::start().await;
    let declare = async |body: Value| server.call(&server.admin, Method::POST, "/v1/triggers", Some(&body)).await;
    let made = declare(json!({"name": "Successful payment"})).await;
    assert_eq!(
        (made.status, &made.body["trigger_id"], &made.body["kind"]),
        (201, &json!("successful_payment"), &json!("custom"))
    );
    let taken = declare(json!({"name": "Successful payment"})).await;
    assert_eq!((taken.status, &taken.body["code"]), (409, &json!("taken")));
    assert_eq!(server.call(&server.admin, Method::DELETE, "/v1/triggers/successful_payment", None).await.status, 200);
    assert_eq!(server.get("/v1/triggers").await.body["triggers"], json!([]));
    server.event("u", "successful_payment", json!({})).await;
    server
        .until("it lists itself again", async || {
            server.get("/v1/triggers").await.body["triggers"].as_array().is_some_and(|rows| rows.len() == 1)
        })
        .await;
    server.until("dev settings", async || server.get("/v1/settings").await.body["global_cooldown"] == "0s").await;
    let (status, _) = put(&server, "/v1/settings", &json!({"max_per_session": 3})).await;
    assert_eq!(status, 200);
    assert_eq!(server.get("/v1/settings").await.body["global_cooldown"], "7d", "missing members take their defaults");
    let (status, said) = put(&server, "/v1/settings", &json!({"offer_ttl": "soon"})).await;
    assert_eq!((status, &said["errors"][0]["code"]), (422, &json!("bad_time")));
}

/// Whoever waits for a first event must not take the creation of its name for it.
#[tokio::test]
async fn a_created_trigger_has_been_seen_once_it_comes_and_keeps_its_name_and_kind() {
    let server = Server::start().await;
    let create = async |id: &str, kind: &str| {
        let body = json!({"name": "Paid, at last", "trigger_id": id, "kind": kind});
        let made = server.call(&server.admin, Method::POST, "/v1/triggers", Some(&body)).await;
        assert_eq!((made.status, &made.body["first_seen_at"]), (201, &Value::Null));
    };
    let listed = async |id: &str| {
        let rows = server.get("/v1/triggers").await.body["triggers"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["trigger_id"] == id).expect("it is listed")
    };
    create("paid", "custom").await;
    create("Checkout", "frontend").await;
    // Users of every partition, so that several partitions meet the names.
    for n in 0..20 {
        server.event(&format!("other-{n}"), "something_else", json!({})).await;
    }
    assert_eq!(
        (listed("paid").await["first_seen_at"].take(), listed("Checkout").await["first_seen_at"].take()),
        (Value::Null, Value::Null)
    );
    for n in 0..20 {
        server.event(&format!("user-{n}"), "paid", json!({})).await;
    }
    server.trigger("user-1", "Checkout").await;
    for (id, kind) in [("paid", "custom"), ("Checkout", "frontend")] {
        server.until("it has been seen", async || listed(id).await["first_seen_at"].is_string()).await;
        let seen = listed(id).await;
        assert_eq!((&seen["name"], &seen["kind"]), (&json!("Paid, at last"), &json!(kind)));
        let again = server.call(&server.admin, Method::DELETE, &format!("/v1/triggers/{id}"), None).await;
        assert_eq!((again.status, &again.body["version"]), (200, &json!(3)), "it was seen once, whoever has met it");
    }
}

#[tokio::test]
async fn an_expiry_over_the_settings_is_a_fault_beside_the_others() {
    let server = Server::start().await;
    let long = |more: Value| {
        let mut body = json!({"name": "S", "activate": {"event": "e"}, "expires_after": "101h", "show_on": [{"trigger": "T"}],
            "questions": [{"question_id": "q1", "type": "nps", "text": "How?"}]});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        body
    };
    for (more, pointers) in [
        (json!({}), vec!["/expires_after"]),
        (json!({"show_on": []}), vec!["/show_on", "/expires_after"]),
        (json!({"expires_after": "31d"}), vec!["/expires_after"]),
    ] {
        let (status, said) = put(&server, "/v1/surveys/s?dry_run=true", &long(more)).await;
        let told = said["errors"].as_array().unwrap().iter().map(|fault| fault["pointer"].as_str().unwrap());
        assert_eq!((status, told.collect::<Vec<_>>()), (422, pointers), "{said}");
    }
}

#[tokio::test]
async fn a_definition_holds_once_it_is_answered_on_every_partition() {
    let server = Server::start().await;
    for n in 0..10 {
        server.put("/v1/surveys/s", with(json!({"name": format!("v{n}"), "frequency": {"repeat": "until_completed", "global_cooldown": "ignore"}}))).await;
        for user in 0..8 {
            let decision = server.trigger(&format!("n{n}u{user}"), "Main").await;
            assert_eq!(decision["survey"]["name"], format!("v{n}"));
        }
    }
}

#[tokio::test]
async fn links() {
    let server = Server::start().await;
    server.put("/v1/surveys/link", with(json!({"link": true, "show_on": null}))).await;
    let shown = server.call(&server.client, Method::GET, "/v1/users/ann/surveys/link", None).await;
    assert_eq!((shown.status, &shown.body["questions"][0]["question_id"]), (200, &json!("q1")));
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    let said = server.call(&server.client, Method::POST, "/v1/users/ann/surveys/link/responses", Some(&body)).await;
    assert_eq!((said.status, &said.body["status"]), (200, &json!("accepted")));
    let closed = server.call(&server.client, Method::GET, "/v1/users/ann/surveys/link", None).await;
    assert_eq!((closed.status, &closed.body["code"]), (409, &json!("already_completed")));
    assert_eq!(server.call(&server.client, Method::GET, "/v1/users/ann/surveys/none", None).await.status, 404);
}

#[tokio::test]
async fn attributes_merge_and_too_many_are_told() {
    let server = Server::start().await;
    let half = "x".repeat(20 << 10);
    let put = async |body: Value| server.call(&server.server, Method::PUT, "/v1/users/ann", Some(&body)).await;
    assert_eq!(put(json!({"attributes": {"a": half}})).await.status, 202);
    let refused = put(json!({"attributes": {"b": half}})).await;
    assert_eq!((refused.status, &refused.body["errors"][0]["pointer"]), (422, &json!("/attributes")));
    assert_eq!(put(json!({"attributes": {"a": null, "b": half}})).await.status, 202);
}

#[tokio::test]
async fn a_user_as_the_engine_knows_them() {
    let server = Server::start().await;
    let nobody = server.get("/v1/users/nobody").await;
    assert_eq!((nobody.status, &nobody.body["known"], &nobody.body["windows"]), (200, &json!(false), &json!([])));
    let survey = json!({"name": "S", "status": "active", "show_on": [{"trigger": "Main"}], "platforms": ["ios"],
        "activate": {"event": "woke"}, "expires_after": "2h", "delay": "10m", "priority": 5,
        "frequency": {"repeat": "until_completed", "cooldown": "1d"},
        "questions": [{"question_id": "q1", "type": "text", "text": "?"}]});
    server.put("/v1/surveys/s", survey).await;
    let targeted = json!({"name": "T", "status": "active", "show_on": [{"trigger": "Main"}],
        "targeting": {"attribute": "plan", "op": "eq", "value": "pro"},
        "questions": [{"question_id": "q1", "type": "text", "text": "?"}]});
    server.put("/v1/surveys/t", targeted).await;
    server.event("ann", "woke", json!({"x": 1})).await;
    let put =
        server.call(&server.server, Method::PUT, "/v1/users/ann", Some(&json!({"attributes": {"plan": "free"}}))).await;
    assert_eq!(put.status, 202, "{put:?}");
    let ann = server.get("/v1/users/ann").await.body;
    assert_eq!((&ann["known"], &ann["attributes"]), (&json!(true), &json!({"plan": "free"})));
    assert_eq!(ann["windows"][0]["activation"]["properties"], json!({"x": 1}), "{ann}");
    let stands = |user: &Value| -> Vec<(String, String)> {
        let rows = user["surveys"].as_array().expect("a list").clone();
        rows.iter().map(|row| (row["survey_id"].to_string(), row["gate"].to_string())).collect()
    };
    let pair = |id: &str, gate: &str| (format!("\"{id}\""), gate.to_owned());
    assert_eq!(stands(&ann), [pair("s", "\"delay_pending\""), pair("t", "\"targeting_failed\"")], "{ann}");
    assert_eq!(ann["surveys"][0]["until"], ann["windows"][0]["opens_at"]);
    server.advance("10m").await;
    let trigger = json!({"context": {"platform": "ios", "session_id": "a"}});
    let decision = server.post("/v1/users/ann/triggers/Main", trigger).await.body;
    assert_eq!(decision["reason"], "offered", "{decision}");
    let offer = decision["survey"]["offer_id"].as_str().expect("an id").to_owned();
    assert_eq!(server.post(&format!("/v1/users/ann/offers/{offer}/displayed"), json!({})).await.status, 200);
    let ann = server.get("/v1/users/ann").await.body;
    assert_eq!((&ann["offers"][0]["offer_id"], &ann["offers"][0]["answered"]), (&json!(offer), &json!(false)));
    assert_eq!((&ann["counters"]["surveys"]["s"]["displays"], &ann["windows"]), (&json!(1), &json!([])), "{ann}");
    assert_eq!(stands(&ann)[0], pair("s", "\"max_displays\""), "this window was displayed");
    let client = server.call(&server.client, Method::GET, "/v1/users/ann", None).await;
    assert_eq!(client.status, 403, "attributes are not for the app: {client:?}");
}

#[tokio::test]
async fn an_erased_user_is_gone_and_stays_gone() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[500, 200]).await;
    let wanted =
        json!({"url": receiver.url, "events": ["*"], "retry": {"kind": "fixed", "interval": "1h", "max_attempts": 5}});
    server.put("/v1/endpoints/crm", wanted).await;
    server.put("/v1/surveys/s", with(json!({"activate": {"event": "woke"}, "expires_after": "2h"}))).await;
    let woke = json!({"user_id": "ann", "event_name": "woke", "event_id": "e1"});
    assert_eq!(server.post("/v1/events", woke.clone()).await.status, 202);
    let offer = server.trigger("ann", "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let answers = format!("/v1/users/ann/offers/{offer}/answers");
    let answer = json!({"answers": [{"question_id": "q1", "value": 5}]});
    assert_eq!(server.post(&answers, answer.clone()).await.status, 200);
    receiver.wait(1).await;
    server.until("it waits", async || server.only_delivery().await["status"] == "waiting").await;

    let client = &server.client;
    assert_eq!(server.call(client, Method::DELETE, "/v1/users/ann", None).await.status, 403);
    let said = server.call(&server.server, Method::DELETE, "/v1/users/ann", None).await;
    assert_eq!((said.status, &said.body["status"]), (202, &json!("accepted")));
    assert_eq!(server.get("/v1/users/ann").await.body["known"], false);
    assert_eq!(server.post(&answers, answer).await.status, 410);
    let told = &receiver.wait(2).await[1];
    let data = &told.json()["data"];
    assert_eq!((&told.json()["type"], &data["user_id"]), (&json!("user.erased"), &json!("ann")));
    assert!(data["erased_at"].is_string() && data["project"] == "default", "{data}");
    let row = async |kind: &str| {
        let rows = server.get("/v1/deliveries").await.body["deliveries"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["type"] == kind).unwrap_or_default()
    };
    server.until("it is cancelled", async || row("response.answered").await["status"] == "cancelled").await;
    assert_eq!(row("response.answered").await["reason"], "user_erased");

    // A copy that comes late revives nobody, and nothing more is sent.
    assert_eq!(server.post("/v1/events", woke.clone()).await.status, 202);
    assert_eq!(server.get("/v1/users/ann").await.body["known"], false);
    server.advance("3h").await;
    assert_eq!(receiver.got().len(), 2);
    // What is new counts, and a copy of what was before still does not.
    server.event("ann", "woke", json!({})).await;
    assert_eq!(server.post("/v1/events", woke).await.status, 202);
    let windows = server.get("/v1/users/ann").await.body["windows"].clone();
    assert!(windows[0].is_object() && windows[0]["activation"]["event_id"] != "e1", "{windows}");
    assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");
}

#[tokio::test]
async fn decisions_responses_and_how_a_survey_fares() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", with(json!({"survey_id": "s", "frequency": {"repeat": "until_completed"}}))).await;
    server.put("/v1/surveys/never", with(json!({"survey_id": "never", "platforms": ["tv"]}))).await;
    let mut offers = Vec::new();
    for user in ["ann", "bob", "cem"] {
        offers.push(server.trigger(user, "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned());
        // Each in a millisecond of its own.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    server.trigger("dan", "Elsewhere").await;
    let say = async |user: &str, n: usize, what: &str, body: Value| {
        let said = server.post(&format!("/v1/users/{user}/offers/{}/{what}", offers[n]), body).await;
        assert_eq!(said.status, 200, "{said:?}");
    };
    let value = |value: u32| json!({"answers": [{"question_id": "q1", "value": value}]});
    say("ann", 0, "displayed", json!({})).await;
    say("ann", 0, "displayed", json!({})).await;
    say("ann", 0, "answers", value(3)).await;
    say("ann", 0, "answers", value(4)).await;
    say("ann", 0, "answers", json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true})).await;
    say("ann", 0, "answers", value(5)).await;
    say("bob", 1, "answers", value(1)).await;
    say("cem", 2, "dismissed", json!({})).await;
    let stats = "/v1/surveys/s/stats";
    server.until("all is counted", async || server.get(stats).await.body["dismissed"] == 1).await;
    let gates = json!({});
    let all = json!({"considered": 3, "offered": 3, "displayed": 3, "dismissed": 1, "answered": 2, "completed": 1, "not_offered": gates});
    assert_eq!(server.get(stats).await.body, all);
    let never = server.get("/v1/surveys/never/stats").await.body;
    assert_eq!((&never["considered"], &never["not_offered"]), (&json!(3), &json!({"platform_mismatch": 3})));
    // To the millisecond, also within a minute.
    let rows = server.get("/v1/decisions").await.body["decisions"].clone();
    let times: Vec<String> = [2, 1].map(|n: usize| rows[n]["decided_at"].as_str().expect("a time").to_owned()).into();
    let between = server.get(&format!("{stats}?since={}&until={}", times[0], times[1])).await.body;
    assert_eq!((&between["considered"], &between["offered"]), (&json!(1), &json!(1)), "{times:?}");
    server.advance("10m").await;
    let now = "2100-01-01T00:00:00Z";
    assert_eq!(server.get(&format!("{stats}?since={}&until={now}", times[0])).await.body["considered"], 2);
    assert_eq!(server.get(&format!("{stats}?since={now}")).await.body["considered"], 0);
    let (code, out, error) =
        askwhen(server.dir.path(), &["stats", "s", "--server", &server.base, "--key", &server.admin]);
    assert!(code == Some(0) && out.contains("completed") && out.contains("33.3 %"), "{out}{error}");

    let list = async |path: &str, member: &str| {
        let said = server.get(path).await;
        assert_eq!(said.status, 200, "{said:?}");
        said.body[member].as_array().expect("a list").clone()
    };
    let decisions = list("/v1/decisions", "decisions").await;
    assert_eq!(
        decisions.iter().map(|d| d["user_id"].as_str().unwrap()).collect::<Vec<_>>(),
        ["dan", "cem", "bob", "ann"]
    );
    assert!(decisions[1]["evaluations"].is_array() && decisions[1].get("project").is_none());
    assert_eq!(list("/v1/decisions?user_id=bob", "decisions").await.len(), 1);
    assert_eq!(list("/v1/decisions?survey_id=never", "decisions").await.len(), 3);
    assert_eq!(list("/v1/decisions?status=no_survey", "decisions").await.len(), 1);
    assert_eq!(server.get("/v1/decisions?status=waiting").await.status, 422);
    let responses = list("/v1/responses", "responses").await;
    assert_eq!(responses.len(), 2, "one row for a response: {responses:?}");
    let ann = &list("/v1/responses?status=completed&user_id=ann", "responses").await[0];
    assert_eq!((&ann["answers"][0]["value"], &ann["completed"]), (&json!(5), &json!(true)));
    let said = server.call(&server.server, Method::GET, "/v1/decisions", None).await;
    assert_eq!(said.status, 403, "decisions are the admin's");
    assert_eq!(server.call(&server.server, Method::GET, "/v1/responses?survey_id=s", None).await.status, 200);

    server.call(&server.server, Method::DELETE, "/v1/users/ann", None).await;
    server.until("they are gone", async || list("/v1/responses", "responses").await.len() == 1).await;
    assert!(list("/v1/decisions?user_id=ann", "decisions").await.is_empty());
    assert_eq!(server.get(stats).await.body, all, "what was counted stays counted");
    server.trigger("ann", "Main").await;
    server.until("news is listed", async || list("/v1/decisions?user_id=ann", "decisions").await.len() == 1).await;
}

#[tokio::test]
async fn a_rehearsal_says_how_many_users_have_an_open_window() {
    let server = Server::start().await;
    let armed = json!({"activate": {"event": "x"}, "expires_after": "2h", "delay": "1m"});
    let survey = with(armed);
    let path = "/v1/surveys/armed";
    let rehearse = async || put(&server, &format!("{path}?dry_run=true"), &survey).await.1;
    assert_eq!(rehearse().await["open_windows"], Value::Null, "there is none yet");
    server.put(path, survey.clone()).await;
    server.put("/v1/surveys/other", with(json!({"activate": {"event": "y"}, "expires_after": "2h"}))).await;
    server.put("/v1/surveys/plain", open_survey()).await;
    for n in 0..41 {
        server.event(&format!("u{n}"), "x", json!({})).await;
        server.event(&format!("u{n}"), "x", json!({})).await;
        server.event(&format!("v{n}"), "y", json!({})).await;
    }
    let counted = async |users: u64| {
        let said = rehearse().await;
        assert_eq!(said["open_windows_exact"], true, "{said}");
        said["open_windows"] == users
    };
    server.until("all are counted", async || counted(41).await).await;
    let paused = put(&server, &format!("{path}?dry_run=true"), &with(json!({"status": "paused"}))).await.1;
    assert_eq!(paused["open_windows"], 41, "those of the survey in force: {paused}");
    let said = put(&server, "/v1/surveys/plain?dry_run=true", &open_survey()).await.1;
    assert_eq!(said["open_windows"], Value::Null, "each trigger is a window of its own: {said}");
    server.advance("3h").await;
    server.until("they are over", async || counted(0).await).await;
}
