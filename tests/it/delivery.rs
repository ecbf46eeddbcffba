//! Attempts, retries and ends, by the test clock.

use serde_json::{Value, json};

use crate::harness::{Receiver, Server, open_survey};

pub async fn answer_one(server: &Server, user: &str) {
    let decision = server.trigger(user, "Main").await;
    let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned();
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
    assert_eq!(said.status, 200, "{said:?}");
}

pub async fn endpoint(server: &Server, receiver: &Receiver, more: Value) {
    let mut body = json!({"url": receiver.url, "events": ["response.completed"]});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    server.put("/v1/endpoints/crm", body).await;
    server.put("/v1/surveys/open", open_survey()).await;
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_at_its_time_and_not_before() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[500, 503]).await;
    let retry = json!({"kind": "schedule", "delays": ["5m", "1h"]});
    endpoint(&server, &receiver, json!({"retry": retry})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("4m50s").await;
    assert_eq!(receiver.got().len(), 1, "not before its time");
    server.advance("10s").await;
    assert_eq!(receiver.got().len(), 2);
    server.advance("59m50s").await;
    assert_eq!(receiver.got().len(), 2, "not before its time");
    server.advance("10s").await;
    let webhooks = receiver.got();
    assert_eq!(webhooks.len(), 3);
    let ids: Vec<&str> = webhooks.iter().map(|w| w.header("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one id for all attempts: {ids:?}");
    let attempts: Vec<&str> = webhooks.iter().map(|w| w.header("webhook-attempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    server.until("the list has it", async || server.only_delivery().await["status"] == "delivered").await;
    let delivery = server.only_delivery().await;
    let statuses: Vec<i64> =
        delivery["attempts"].as_array().unwrap().iter().map(|a| a["http_status"].as_i64().unwrap()).collect();
    assert_eq!((statuses, &delivery["message_id"]), (vec![500, 503, 200], &json!(ids[0])));
}

#[tokio::test]
async fn one_flow_calls_73_times_and_gives_up() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[201; 100]).await;
    endpoint(&server, &receiver, json!({"profile": "1flow"})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("71h59m").await;
    assert_eq!(receiver.got().len(), 72, "201 is a failure here");
    server.advance("2m").await;
    server.advance("10h").await;
    assert_eq!(receiver.got().len(), 73, "up to and including 72 h");
    server.until("dead", async || server.only_delivery().await["status"] == "dead").await;
    assert_eq!(server.only_delivery().await["reason"], "max_age");
}

#[tokio::test]
async fn redirects_are_not_followed_and_410_ends() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[302, 410]).await;
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("10s").await;
    assert_eq!(receiver.got().len(), 2);
    assert!(receiver.got().iter().all(|w| w.path == "/"), "nobody went /elsewhere");
    server.until("dead", async || server.only_delivery().await["status"] == "dead").await;
    assert_eq!(server.only_delivery().await["reason"], "terminal_status");
}

#[tokio::test]
async fn a_disabled_endpoint_cancels_and_a_forbidden_name_is_blocked() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"enabled": false})).await;
    answer_one(&server, "ann").await;
    server.until("cancelled", async || server.only_delivery().await["status"] == "cancelled").await;
    assert_eq!(server.only_delivery().await["reason"], "endpoint_disabled");
    assert!(receiver.got().is_empty());
}

#[tokio::test]
async fn lists_filter_and_page() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({})).await;
    for n in 0..7 {
        answer_one(&server, &format!("u{n}")).await;
    }
    receiver.wait(7).await;
    let delivered = "/v1/deliveries?status=delivered";
    server
        .until("all are listed", async || {
            server.get(delivered).await.body["deliveries"].as_array().is_some_and(|rows| rows.len() == 7)
        })
        .await;
    let mut seen = Vec::new();
    let mut path = "/v1/deliveries?limit=3".to_owned();
    loop {
        let page = server.get(&path).await.body;
        seen.extend(
            page["deliveries"].as_array().unwrap().iter().map(|row| row["user_id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => path = format!("/v1/deliveries?limit=3&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["u6", "u5", "u4", "u3", "u2", "u1", "u0"], "newest first, each once");
    let one = server.get("/v1/deliveries?user_id=u3&endpoint_id=crm&survey_id=open").await.body;
    assert_eq!(one["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v1/deliveries?status=lost").await.status, 422);
    assert_eq!(server.get("/v1/deliveries?limit=0").await.status, 422);
    assert_eq!(server.get("/v1/deliveries?wat=1").await.status, 422);
    assert_eq!(server.get("/v1/deliveries/dlv_none").await.status, 404);
}
