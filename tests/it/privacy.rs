//! What is told of users and what is not: values in texts, anonymous surveys, and for how
//! long answers are known.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Receiver, Server, Webhook, open_survey};

fn survey(more: Value) -> Value {
    let mut body = open_survey();
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// Offers the survey and completes it; gives the offer's id.
async fn complete(server: &Server, user: &str, answers: Value) -> String {
    let decision = server.trigger(user, "Main").await;
    let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned();
    let body = json!({"answers": answers, "completed": true});
    let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
    assert_eq!(said.status, 200, "{said:?}");
    offer
}

async fn attributes(server: &Server, user: &str, attributes: Value) {
    let path = format!("/v1/users/{user}");
    let said = server.call(&server.server, Method::PUT, &path, Some(&json!({"attributes": attributes}))).await;
    assert_eq!(said.status, 202, "{said:?}");
}

async fn responses(server: &Server, count: usize) -> Vec<Value> {
    server.until("all responses are listed", async || server.all("responses").await.len() == count).await;
    server.all("responses").await
}

#[tokio::test]
async fn an_anonymous_survey_tells_of_nobody() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let questions = json!([{"question_id": "q1", "type": "nps", "text": "How likely?"},
        {"question_id": "q2", "type": "text", "text": "Why?"}]);
    server.put("/v1/surveys/mood", survey(json!({"anonymous": true, "questions": questions}))).await;
    let endpoint = json!({"url": receiver.url, "events": ["response.completed", "survey.*"]});
    server.put("/v1/endpoints/crm", endpoint).await;
    let users = ["ann-lee", "bob-lee", "cid-lee", "dan-lee", "eve-lee"];
    let answers = json!([{"question_id": "q1", "value": 3}, {"question_id": "q2", "value": "It rains"}]);
    for user in &users[..4] {
        attributes(&server, user, json!({"email": format!("{user}@example.com")})).await;
        complete(&server, user, answers.clone()).await;
    }
    responses(&server, 4).await;
    let hidden = server.get("/v1/surveys/mood/results?by=day").await.body;
    assert_eq!(
        (&hidden["responses"], &hidden["hidden_below"], &hidden["questions"]),
        (&json!(4), &json!(5), &json!([]))
    );
    assert!(!hidden.to_string().contains("It rains") && hidden["series"] == json!([]), "{hidden}");
    let offer = complete(&server, users[4], answers).await;
    let rows = responses(&server, 5).await;
    let shown = server.get("/v1/surveys/mood/results?by=platform").await.body;
    assert_eq!(
        (shown["questions"][0]["answered"].clone(), shown["series"].as_array().map(Vec::len)),
        (json!(5), Some(1))
    );
    assert!(shown["questions"][1]["texts"][0]["text"] == "It rains", "{shown}");

    // One id stands for a response and its user, the same wherever it is told of.
    let came: Vec<Value> = receiver.wait(5).await.iter().map(Webhook::json).collect();
    let ids = |all: Vec<&Value>| {
        let mut ids: Vec<String> = all.iter().map(|data| data["user_id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    let listed = ids(rows.iter().collect());
    assert_eq!((listed.len(), &listed), (5, &ids(came.iter().map(|body| &body["data"]).collect())));
    assert!(
        rows.iter().all(|row| row["user_id"] == row["response_id"] && row["user_attributes"] == json!({})),
        "{rows:?}"
    );
    let csv = server.get("/v1/surveys/mood/responses.csv").await;
    let deliveries = server.get("/v1/deliveries").await.body;
    let told = [json!(came), json!(rows), shown, deliveries].iter().map(Value::to_string).collect::<String>();
    let told = told + &String::from_utf8_lossy(&csv.bytes);
    assert!(!told.contains("-lee") && !told.contains(&offer), "{told}");

    // The user's own device goes on where it was; nobody else reads what was said.
    let path = format!("/v1/users/{}/offers/{offer}", users[4]);
    assert_eq!(server.call(&server.server, Method::GET, &path, None).await.body["answers"], json!([]));
    let own = server.call(&server.client, Method::GET, &path, None).await.body;
    assert_eq!((&own["answers"][0]["value"], &own["survey"]["anonymous"]), (&json!(3), &json!(true)));
    let timeline = server.get(&format!("/v1/users/{}/timeline", users[4])).await.body;
    let line = timeline["items"].as_array().expect("lines").iter().find(|line| line["kind"] == "answers").cloned();
    let line = line.unwrap_or_else(|| panic!("{timeline}"));
    assert_eq!((&line["answers"], &line["anonymous"], &line["completed"]), (&json!([]), &json!(true), &json!(true)));

    // An erasure cannot find them, and takes nothing else's.
    let said = server.call(&server.server, Method::DELETE, &format!("/v1/users/{}", users[0]), None).await;
    assert_eq!(said.status, 202);
    server
        .until("decisions are gone", async || {
            server.get(&format!("/v1/decisions?user_id={}", users[0])).await.body["decisions"] == json!([])
        })
        .await;
    assert_eq!(server.all("responses").await.len(), 5);
}

#[tokio::test]
async fn answers_are_known_for_their_surveys_retention() {
    let server = Server::start().await;
    server.put("/v1/surveys/short", survey(json!({"retention": "30d"}))).await;
    server.put("/v1/surveys/long", survey(json!({"show_on": [{"trigger": "Other"}]}))).await;
    complete(&server, "ann", json!([{"question_id": "q1", "value": 4}])).await;
    let decision = server.trigger("ann", "Other").await;
    let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}"));
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    assert_eq!(server.post(&format!("/v1/users/ann/offers/{offer}/answers"), body).await.status, 200);
    responses(&server, 2).await;
    server.advance("29d").await;
    complete(&server, "bob", json!([{"question_id": "q1", "value": 2}])).await;
    responses(&server, 3).await;
    server.advance("1d").await;
    let rows = responses(&server, 2).await;
    assert!(rows.iter().all(|row| row["survey_id"] == "long" || row["user_id"] == "bob"), "{rows:?}");
    let results = server.get("/v1/surveys/short/results").await.body;
    assert_eq!((&results["responses"], &results["questions"][0]["mean"]), (&json!(1), &json!(2.0)));
    assert_eq!(server.get("/v1/surveys/long/results").await.body["responses"], 1);
    let lines = server.get("/v1/surveys/short/responses.ndjson").await;
    assert_eq!(String::from_utf8_lossy(&lines.bytes).lines().count(), 1);
    // An endpoint that comes later is told of what is known.
    let receiver = Receiver::start(&[]).await;
    server.put("/v1/endpoints/late", json!({"url": receiver.url, "events": ["response.completed"]})).await;
    let dry = json!({"since": "2020-01-01T00:00:00Z", "dry_run": true});
    let said = server.call(&server.admin, Method::POST, "/v1/endpoints/late/backfill", Some(&dry)).await;
    assert_eq!((said.status, &said.body["count"]), (200, &json!(2)), "{said:?}");
}

#[tokio::test]
async fn texts_show_values_and_paths_end_as_their_rules_say() {
    let server = Server::start().await;
    let text = "Hi {{attribute.first_name|there}}, how is {{activation.product|it}}? {{activation.secret}}";
    let body = json!({
        "name": "For {{attribute.first_name|you}}", "status": "active", "link": true, "locale": "en",
        "activate": {"event": "bought"}, "expires_after": "2h", "expose": ["product", "first_name"],
        "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation"},
        "ui": {"thank_you": {"text": "Bye, {{attribute.first_name|you}}"}, "mine": "{{attribute.first_name}}"},
        "questions": [{"question_id": "q1", "type": "nps", "text": text, "next": [{"goto": "bye"}]}],
        "endings": [{"ending_id": "bye", "text": "Thanks for {{activation.product|all}}", "link": "https://shop.example/"}],
        "translations": {"de": {"questions": {"q1": {"text": "Hallo {{attribute.first_name}}"}}, "endings": {"bye": {"text": "Tschüs"}}}},
    });
    server.put("/v1/surveys/nps", body.clone()).await;
    attributes(&server, "ann", json!({"first_name": "Ann </script><b>", "email": "ann@example.com"})).await;
    server.event("ann", "bought", json!({"product": "Shoes", "secret": "s3cret"})).await;
    let said = server.call(&server.client, Method::POST, "/v1/users/ann/triggers/Main", Some(&json!({}))).await.body;
    let shown = &said["survey"];
    assert_eq!(shown["questions"][0]["text"], "Hi Ann </script><b>, how is Shoes? ");
    assert_eq!(
        (&shown["name"], &shown["ui"]["thank_you"]["text"]),
        (&json!("For Ann </script><b>"), &json!("Bye, Ann </script><b>"))
    );
    assert_eq!(shown["ui"]["mine"], "{{attribute.first_name}}");
    assert_eq!(
        shown["endings"],
        json!([{"ending_id": "bye", "text": "Thanks for Shoes", "link": "https://shop.example/"}])
    );
    assert!(!said.to_string().contains("s3cret"), "{said}");
    let offer = shown["offer_id"].as_str().expect("an offer");
    attributes(&server, "ann", json!({"first_name": null})).await;
    let again = server.call(&server.client, Method::GET, &format!("/v1/users/ann/offers/{offer}"), None).await.body;
    assert_eq!(again["survey"]["questions"][0]["text"], "Hi there, how is Shoes? ");
    let answers = json!({"answers": [{"question_id": "q1", "value": 9}], "completed": true});
    assert_eq!(server.post(&format!("/v1/users/ann/offers/{offer}/answers"), answers).await.status, 200);
    let rows = responses(&server, 1).await;
    assert_eq!(rows[0]["answers"][0]["text"], text, "lists have the file's own text");

    // The page knows the user of its link, and no activation.
    attributes(&server, "bob", json!({"first_name": "Bob </script><b>"})).await;
    let url = server.post("/v1/surveys/nps/links", json!({"user_id": "bob"})).await.body["url"].clone();
    let path = url.as_str().and_then(|url| url.strip_prefix(&server.base)).expect("a link");
    let page = Server::said(server.request(Method::GET, path)).await;
    let page = String::from_utf8(page.bytes.to_vec()).expect("text");
    assert!(page.contains("<title>For Bob &#60;/script&#62;&#60;b&#62;</title>"), "{page}");
    assert!(page.contains("Hi Bob \\u003c/script>\\u003cb>, how is it? \""), "{page}");
    assert!(page.contains("\"Thanks for all\""), "{page}");
    let german = server.call(&server.server, Method::GET, "/v1/users/bob/surveys/nps", None).await.body;
    assert_eq!(german["questions"][0]["text"], "Hi Bob </script><b>, how is it? ");

    for (change, pointer) in [
        (json!({"endings": [{"ending_id": "end", "text": "x"}]}), "/endings/0/ending_id"),
        (
            json!({"endings": [{"ending_id": "bye", "text": "x"}, {"ending_id": "q1", "text": "x"}]}),
            "/endings/1/ending_id",
        ),
        (json!({"endings": [{"ending_id": "bye", "text": "x", "link": "javascript:alert(1)"}]}), "/endings/0/link"),
        (json!({"endings": [{"ending_id": "bye", "txt": "x"}]}), "/endings/0/text"),
        (json!({"endings": [{"ending_id": "by", "text": "x"}], "translations": {}}), "/questions/0/next/0/goto"),
        (json!({"translations": {"de": {"endings": {"by": {"text": "x"}}}}}), "/translations/de/endings/by"),
        (json!({"retention": "1h"}), "/retention"),
        (json!({"anonymous": "yes"}), "/anonymous"),
    ] {
        let mut wrong = body.clone();
        wrong.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let said = server.call(&server.admin, Method::PUT, "/v1/surveys/nps", Some(&wrong)).await;
        assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!(pointer)), "{said:?}");
    }
}

#[tokio::test]
async fn what_rules_and_endpoints_name_is_looked_up_and_arms_are_shown() {
    let server = Server::start().await;
    server.put("/v1/surveys/nps", survey(json!({"experiment": {"name": "wording", "arm": "b"}}))).await;
    server.put("/v1/surveys/secret", survey(json!({"anonymous": true, "show_on": [{"trigger": "Other"}]}))).await;
    let warnings = async |path: &str, body: Value| {
        let said = server.call(&server.admin, Method::PUT, &format!("{path}?dry_run=true"), Some(&body)).await;
        assert_eq!(said.status, 200, "{said:?}");
        said.body["warnings"].as_array().expect("warnings").iter().map(Value::to_string).collect::<String>()
    };
    let rule =
        |survey: &str, question: &str| json!({"survey": survey, "answer": {"question_id": question, "op": "exists"}});
    let told = warnings("/v1/surveys/next", survey(json!({"targeting": rule("nps", "q2")}))).await;
    assert!(told.contains("the question q2 of nps, which does not exist"), "{told}");
    let told = warnings("/v1/surveys/next", survey(json!({"targeting": rule("secret", "q1")}))).await;
    assert!(told.contains("answers to secret, which is anonymous"), "{told}");
    let told = warnings("/v1/surveys/next", survey(json!({"targeting": rule("nps", "q1")}))).await;
    assert!(!told.contains("targeting"), "{told}");
    let told = warnings("/v1/settings", json!({"targeting": rule("nsp", "q1")})).await;
    assert!(told.contains("the survey nsp, which does not exist; did you mean nps?"), "{told}");
    let counting = json!({"targeting": {"not": {"event": "used"}}, "caps": [{"count": "displayed", "max": 9}]});
    let told = warnings("/v1/settings", counting.clone()).await;
    for warning in ["event used has not been seen yet", "used is remembered from now on", "1 of caps count from now on"]
    {
        assert!(told.contains(warning), "{warning}: {told}");
    }
    server.put("/v1/settings", counting.clone()).await;
    let told = warnings("/v1/settings", counting).await;
    assert!(told.contains("event used has not been seen yet") && !told.contains("from now on"), "{told}");
    let condition = json!([{"survey": "nps", "question_id": "score", "op": "lte", "value": 6}]);
    let told = warnings("/v1/endpoints/crm", json!({"url": "https://crm.example/", "where": condition})).await;
    assert!(told.contains("where names the question score of nps, which does not exist"), "{told}");
    let told = warnings("/v1/surveys/next", survey(json!({"name": "{{attribute.plan}}"}))).await;
    assert!(told.contains("name names attribute.plan, which expose does not"), "{told}");
    let known = server.call(&server.server, Method::GET, "/v1/users/ann", None).await.body;
    assert_eq!(known["arms"], json!({"wording": "b"}));
}
