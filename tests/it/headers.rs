//! The values of an endpoint's headers may be tokens: nobody sees them but the
//! receiver.

use serde_json::{Value, json};

use crate::harness::{Receiver, Server, open_survey, tail};

const TOKEN: &str = "Bearer a-token-of-the-receiver";

async fn completed(server: &Server, user: &str) {
    let offer = server.trigger(user, "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let answers = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), answers).await;
    assert_eq!(said.status, 200, "{said:?}");
}

fn names(value: &Value) -> Vec<&String> {
    value.as_object().expect("an object").keys().collect()
}

#[tokio::test]
async fn headers_are_sealed_redacted_and_kept() {
    let receiver = Receiver::start(&[]).await;
    let server = Server::start().await;
    server.put("/v1/surveys/open", open_survey()).await;
    let events = json!(["response.completed"]);
    let body = json!({"url": receiver.url, "events": events, "headers": {"Authorization": TOKEN, "x-team": "crm"}});
    assert_eq!(server.put("/v1/endpoints/crm", body.clone()).await.body["version"], 1);
    completed(&server, "ann").await;
    let first = receiver.wait(1).await.remove(0);
    assert_eq!((first.header("authorization"), first.header("x-team")), (TOKEN, "crm"));
    // The same once more changes nothing, in clear or as it is shown.
    assert_eq!(server.put("/v1/endpoints/crm", body).await.body["changed"], false);
    let shown = server.get("/v1/endpoints/crm").await.body;
    assert_eq!(shown["headers"], json!({"authorization": "(sealed)", "x-team": "(sealed)"}));
    assert_eq!(server.get("/v1/endpoints").await.body["endpoints"][0]["headers"], shown["headers"]);
    let back = json!({"url": receiver.url, "events": events, "headers": shown["headers"]});
    let rehearsed = server.put("/v1/endpoints/crm?dry_run=true", back.clone()).await.body;
    assert_eq!((&rehearsed["changed"], &rehearsed["current"]), (&json!(false), &rehearsed["body"]));
    assert_eq!(server.put("/v1/endpoints/crm", back).await.body["changed"], false);
    // One is kept and another changed.
    let changed =
        json!({"url": receiver.url, "events": events, "headers": {"authorization": "(sealed)", "x-team": "sales"}});
    let rehearsed = server.put("/v1/endpoints/crm?dry_run=true", changed.clone()).await.body;
    assert_eq!(rehearsed["changed"], true);
    assert_eq!(rehearsed["body"]["headers"], json!({"authorization": "(sealed)", "x-team": "(another one)"}));
    assert_eq!(server.put("/v1/endpoints/crm", changed).await.body["version"], 2);
    completed(&server, "bob").await;
    let second = receiver.wait(2).await.remove(1);
    assert_eq!((second.header("authorization"), second.header("x-team")), (TOKEN, "sales"));
    // There is nothing to keep of one that is new.
    let new = json!({"url": receiver.url, "headers": {"x-new": "(sealed)"}});
    let said = server.call(&server.admin, reqwest::Method::PUT, "/v1/endpoints/crm", Some(&new)).await;
    assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!("/headers/x-new")), "{said:?}");
    server.put("/v1/endpoints/crm", json!({"url": receiver.url, "events": events})).await;
    completed(&server, "cid").await;
    assert_eq!(receiver.wait(3).await[2].header("authorization"), "");
    // Nowhere is the token in clear.
    for topic in ["events", "definitions", "deliveries", "attempts"] {
        let records = tail(server.dir.path(), topic);
        assert!(!records.is_empty());
        let text = Value::from(records).to_string();
        assert!(!text.contains("a-token-of-the-receiver"), "topic {topic}");
    }
    let definitions = tail(server.dir.path(), "definitions");
    let sealed =
        definitions.iter().map(|record| &record["value"]["body"]["headers"]).find(|headers| headers.is_object());
    let sealed = sealed.expect("the endpoint is there");
    assert_eq!(names(&sealed["authorization"]), ["sealed", "digest"]);
}
