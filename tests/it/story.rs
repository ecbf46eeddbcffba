//! The seed story, with the vendors' own requests and verifiers.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Receiver, Server, Webhook, python, run};

/// The body of the Blitzllama documentation, verbatim.
const BLITZLLAMA_CALL: &str = r#"{
"user_id":"user_123",
"event_name":"item_added_to_cart",
"properties": {
"id": 1,
"name": "War and Peace",
"author": "Leo Tolstoy",
"type": "hardcover",
"category": "novel"
}
}"#;

fn sleep_survey() -> Value {
    json!({"name": "Sleep quality", "status": "active", "activate": {"event": "ended_sleep"}, "expires_after": "2h",
    "show_on": [{"trigger": "MainActivity"}], "expose": ["duration_min"],
    "questions": [
        {"question_id": "q1", "type": "rating_star", "text": "How did you sleep?"},
        {"question_id": "q2", "type": "multi_choice", "text": "What woke you?", "options": ["noise", {"value": "light", "text": "The light"}]},
        {"question_id": "q3", "type": "text", "text": "Anything else?", "required": false}]})
}

#[tokio::test]
async fn vendor_calls_are_taken_and_their_names_list_themselves() {
    let server = Server::start().await;
    let call = server
        .request(Method::POST, "/api/v1/connections/backend/event")
        .header("x-api-key", &server.server)
        .header("content-type", "application/json")
        .body(BLITZLLAMA_CALL);
    let said = Server::said(call).await;
    assert_eq!((said.status, &said.body["message"]), (200, &json!("success")));
    let reward = server
        .request(Method::POST, "/v1/triggers/successful_payment/users/user%2F123/events")
        .bearer_auth(&server.server)
        .header("content-type", "application/json")
        .body("{\n    \"value\": 19.99\n  }");
    let said = Server::said(reward).await;
    assert_eq!((said.status, said.body), (200, json!({"success": true})));
    let none =
        server.request(Method::POST, "/v1/triggers/successful_payment/users/u/v/events").bearer_auth(&server.server);
    assert_eq!(Server::said(none).await.status, 200, "a body may be left out");
    server
        .until("both names", async || {
            let list = server.get("/v1/triggers").await.body;
            let has = |id: &str| {
                list["triggers"]
                    .as_array()
                    .is_some_and(|rows| rows.iter().any(|r| r["trigger_id"] == id && r["kind"] == "backend"))
            };
            has("item_added_to_cart") && has("successful_payment")
        })
        .await;
}

#[tokio::test]
async fn a_survey_armed_for_two_hours_is_offered_before_and_not_at_two_hours() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let mut secrets = Vec::new();
    for profile in ["standard", "blitzllama", "1flow"] {
        let url = format!("{}/{profile}", receiver.url);
        let body = json!({"url": url, "profile": profile, "include_properties": profile == "blitzllama"});
        let said = server.put(&format!("/v1/endpoints/{profile}"), body.clone()).await;
        assert_eq!(said.status, 201);
        secrets.push(said.body["secret"].as_str().expect("shown once").to_owned());
        let again = server.put(&format!("/v1/endpoints/{profile}"), body).await;
        assert_eq!((again.status, again.body.get("secret"), &again.body["changed"]), (200, None, &json!(false)));
    }
    server.put("/v1/surveys/sleep-quality", sleep_survey()).await;
    let properties = json!({"duration_min": 415, "10": 1, "2": 2.50, "big": 12_345_678_901_234_567_u64});
    for user in ["ann", "bob"] {
        server.event(user, "ended_sleep", properties.clone()).await;
    }
    server.advance("1h59m59s").await;
    let path = "/v1/users/ann/triggers/MainActivity";
    let context = json!({"context": {"platform": "android", "session_id": "s1"}});
    let client = server.call(&server.client, Method::POST, path, Some(&context)).await;
    assert_eq!(client.body["reason"], "offered");
    assert_eq!(client.body.get("evaluations"), None, "a client key sees no evaluations");
    assert_eq!(client.body["survey"]["activation"]["properties"], json!({"duration_min": 415}));
    let offer = client.body["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let again = server.call(&server.client, Method::POST, path, Some(&context)).await;
    assert_eq!(again.body["survey"]["offer_id"], offer, "the same session gets its offer again");
    server.advance("1s").await;
    assert_eq!(server.trigger("bob", "MainActivity").await["reason"], "expired");
    let offers = format!("/v1/users/ann/offers/{offer}");
    let shown = server.post(&format!("{offers}/displayed"), json!({})).await;
    assert_eq!((shown.status, &shown.body["status"]), (200, &json!("accepted")));
    let shown = server.post(&format!("{offers}/displayed"), json!({})).await;
    assert_eq!(shown.body["status"], "duplicate");
    assert_eq!(server.trigger("ann", "MainActivity").await["reason"], "expired", "offered once");
    let unfit =
        server.post(&format!("{offers}/answers"), json!({"answers": [{"question_id": "q1", "value": 9}]})).await;
    assert_eq!((unfit.status, &unfit.body["errors"][0]["pointer"]), (422, &json!("/answers/0/value")));
    let answers = json!({"answers": [{"question_id": "q1", "value": 4}, {"question_id": "q2", "value": ["noise", "light"]}], "completed": true});
    let said = server.post(&format!("{offers}/answers"), answers.clone()).await;
    assert_eq!((&said.body["status"], &said.body["response_id"]), (&json!("accepted"), &json!(offer)));
    let said = server.post(&format!("{offers}/answers"), answers).await;
    assert_eq!(said.body["status"], "duplicate");
    let so_far = server.call(&server.client, Method::GET, &offers, None).await.body;
    assert_eq!((&so_far["completed"], &so_far["answers"][0]["value"]), (&json!(true), &json!(4)));
    let webhooks = receiver.wait(4).await;
    let of = |path: &str| -> Vec<Webhook> { webhooks.iter().filter(|w| w.path == path).cloned().collect() };
    let standard = of("/standard");
    let kinds: Vec<Value> = standard.iter().map(|w| w.json()["type"].clone()).collect();
    assert_eq!(kinds, ["response.answered", "response.completed"], "in their order");
    check_standard(&standard[1], &offer);
    check_blitzllama(&of("/blitzllama")[0], &offer);
    check_one_flow(&of("/1flow")[0]);
    verify_with_libraries(&standard[1], &secrets[0]);
    verify_with_libraries(&of("/1flow")[0], &secrets[2]);
    verify_with_node(&of("/blitzllama")[0], &secrets[1]);
}

fn check_standard(webhook: &Webhook, offer: &str) {
    let data = &webhook.json()["data"];
    assert_eq!((&data["response_id"], &data["activation"]["event_name"]), (&json!(offer), &json!("ended_sleep")));
    let text = String::from_utf8_lossy(&webhook.body).into_owned();
    assert!(text.contains("12345678901234567"), "properties pass untouched: {text}");
    assert_eq!((webhook.header("content-type"), webhook.header("webhook-attempt")), ("application/json", "1"));
}

fn members(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn check_blitzllama(webhook: &Webhook, offer: &str) {
    let body = webhook.json();
    let expected = [
        "user_id",
        "app_key",
        "survey_id",
        "survey_name",
        "group_id",
        "platform",
        "trigger",
        "event_type",
        "responses",
        "properties",
    ];
    assert_eq!(members(&body), expected);
    assert_eq!((&body["group_id"], &body["platform"]), (&json!(offer), &json!("android")));
    let answer = &body["responses"][1];
    let expected = ["question_id", "question_order", "response", "question_text", "question_type", "created_at"];
    assert_eq!(members(answer), expected);
    assert_eq!(answer["response"], json!(["noise", "The light"]));
    assert_eq!(body["responses"][0]["response"], "4");
    assert_eq!(members(&body["properties"])[..2], ["2", "10"], "as JavaScript orders them");
    assert_eq!(body["properties"]["big"], "12345678901234567");
}

fn check_one_flow(webhook: &Webhook) {
    let body = webhook.json();
    let expected = [
        "alert_name",
        "alert_id",
        "project_name",
        "survey_id",
        "platform",
        "survey_info",
        "user",
        "timestamp",
        "trigger_event",
    ];
    assert_eq!(members(&body), expected);
    assert_eq!(
        (&body["alert_name"], &body["alert_id"]),
        (&json!("submitted_survey"), &json!(webhook.header("webhook-id")))
    );
    assert_eq!(members(&body["survey_info"]), ["name", "screens"]);
    assert_eq!(
        body["survey_info"]["screens"][1],
        json!({"title": "What woke you?", "answer": "noise, The light", "type": "checkbox"})
    );
    assert_eq!(members(&body["user"]), ["user_system_id", "parameters"]);
    assert_eq!(members(&body["trigger_event"]), ["event_name", "parameters"]);
    assert_eq!(body["trigger_event"]["event_name"], "ended_sleep");
    assert!(body["timestamp"].as_str().is_some_and(|t| t.len() == 24 && t.ends_with('Z')));
}

/// PyPI's `standardwebhooks` verifies the very bytes and headers.
/// With three libraries that are others' work.
fn verify_with_libraries(webhook: &Webhook, secret: &str) {
    let python = python();
    let from = |module: &str| {
        format!(
            "import json,sys\nfrom {module} import Webhook\nd=json.load(sys.stdin)\n\
             Webhook(d['secret']).verify(d['body'], d['headers'])\nprint('verified')"
        )
    };
    let node = "const {Webhook}=require('standardwebhooks');const d=JSON.parse(require('fs').readFileSync(0));\
        new Webhook(d.secret).verify(d.body,d.headers);console.log('verified')";
    let headers: serde_json::Map<String, Value> = webhook.headers.iter().map(|(n, v)| (n.clone(), json!(v))).collect();
    let body = String::from_utf8_lossy(&webhook.body);
    let input = |body: &str| json!({"secret": secret, "body": body, "headers": headers}).to_string();
    let (standard, svix) = (from("standardwebhooks"), from("svix.webhooks"));
    for (program, option, script) in [(&*python, "-c", &*standard), (&*python, "-c", &*svix), ("node", "-e", node)] {
        let (ok, said) = run(program, &[option, script], &input(&body));
        assert!(ok && said.contains("verified"), "{script}: {said}");
        assert!(!run(program, &[option, script], &input("{}")).0, "a wrong body does not verify: {script}");
    }
}

/// The vendor's own JavaScript: over the parsed and printed payload.
fn verify_with_node(webhook: &Webhook, secret: &str) {
    let script = "const crypto=require('crypto');let t='';process.stdin.on('data',c=>t+=c).on('end',()=>{const d=JSON.parse(t);\
        const webhook_payload=JSON.parse(d.body);\
        const expected=crypto.createHmac('sha256',d.secret).update(JSON.stringify(webhook_payload)).digest('hex');\
        if(expected!==d.signature){console.error('SecurityError');process.exit(1)}console.log('verified')})";
    let body = String::from_utf8_lossy(&webhook.body);
    let input = json!({"secret": secret, "body": body, "signature": webhook.header("x-webhook-signature")}).to_string();
    let (ok, said) = run("node", &["-e", script], &input);
    assert!(ok && said.contains("verified"), "{said}");
}
