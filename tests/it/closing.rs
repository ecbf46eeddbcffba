//! `survey.closed`: a survey takes no more responses.

use askwhen_domain::time;
use serde_json::{Value, json};

use crate::harness::{Receiver, Server, open_survey};

async fn complete(server: &Server, user: &str, trigger: &str) {
    let offer = server.trigger(user, trigger).await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    assert_eq!(server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await.status, 200);
}

fn told(receiver: &Receiver) -> Vec<Value> {
    receiver.got().iter().map(|webhook| webhook.json()["data"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_once_when_a_survey_is_full_has_ended_or_is_archived() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let said =
        server.call(&server.admin, reqwest::Method::POST, "/v1/test/clock", Some(&json!({"advance": "1s"}))).await;
    let now = said.body["now"].as_str().expect("the time").to_owned();
    server.put("/v1/endpoints/ops", json!({"url": receiver.url, "events": ["survey.closed"]})).await;
    let mut few = open_survey();
    few["limits"] = json!({"max_completed": 4});
    server.put("/v1/surveys/few", few.clone()).await;
    let mut short = open_survey();
    let end = time::parse_time(&now).expect("a time") + 2 * time::DAY;
    short["schedule"] = json!({"end_at": time::format_time(end)});
    short["show_on"] = json!([{"trigger": "Short"}]);
    server.put("/v1/surveys/short", short).await;
    for n in 0..3 {
        complete(&server, &format!("u{n}"), "Short").await;
    }
    for n in 0..4 {
        complete(&server, &format!("v{n}"), "Main").await;
    }
    let full = receiver.wait(1).await[0].json();
    assert_eq!((&full["type"], &full["data"]["reason"]), (&json!("survey.closed"), &json!("quota_full")), "{full}");
    assert_eq!((&full["data"]["survey_id"], &full["data"]["completed"]), (&json!("few"), &json!(4)), "{full}");
    assert_eq!(full["data"].as_object().expect("an object").len(), 4, "{full}");
    server.advance("50h").await;
    // The next record meets it, whoever's it is.
    server.event("anyone", "noise", json!({})).await;
    let ended = receiver.wait(2).await[1].json()["data"].clone();
    assert_eq!((&ended["reason"], &ended["survey_id"]), (&json!("ended"), &json!("short")), "{ended}");
    assert_eq!(ended["completed"], 3, "{ended}");
    assert_eq!(ended["at"], time::format_time(end), "when it ended, not when that was noticed");
    // Another limit may be used up, too; what is told once is not told again.
    few["limits"] = json!({"max_completed": 5});
    server.put("/v1/surveys/few", few).await;
    complete(&server, "v9", "Main").await;
    let again = receiver.wait(3).await[2].json()["data"].clone();
    assert_eq!((&again["reason"], &again["completed"]), (&json!("quota_full"), &json!(5)), "{again}");
    let archived = server.call(&server.admin, reqwest::Method::DELETE, "/v1/surveys/few", None).await;
    assert_eq!(archived.status, 200, "{archived:?}");
    let gone = receiver.wait(4).await[3].json()["data"].clone();
    assert_eq!((&gone["reason"], &gone["completed"]), (&json!("archived"), &json!(5)), "{gone}");
    server.advance("24h").await;
    // It is in the list, about nobody, and can be sent again.
    let listed = async || server.get("/v1/deliveries?survey_id=short").await.body["deliveries"].clone();
    server.until("it is listed", async || listed().await[0]["status"] == "delivered").await;
    let row = listed().await[0].clone();
    assert_eq!((&row["type"], &row["user_id"]), (&json!("survey.closed"), &json!("")), "{row}");
    let path = format!("/v1/deliveries/{}/resend", row["delivery_id"].as_str().expect("an id"));
    assert_eq!(server.call(&server.admin, reqwest::Method::POST, &path, None).await.status, 202);
    assert_eq!(receiver.wait(5).await[4].json()["data"], ended);
    assert_eq!(told(&receiver).len(), 5, "{:?}", told(&receiver));
}
