//! Surveys whose answers lead somewhere, in several languages, over HTTP and to receivers of
//! every profile.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Receiver, Server};

/// Makes another survey of one.
type Change<'a> = &'a dyn Fn(&mut Value);

fn branching() -> Value {
    json!({
        "name": "Why", "status": "active", "locale": "en", "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"},
        "ui": {"layout": "modal", "labels": {"next": "Next", "back": "Back"}, "mine": 1},
        "questions": [
            {"question_id": "q1", "type": "nps", "text": "How likely?", "labels": {"low": "No", "high": "Yes"},
             "next": [{"when": {"op": "lte", "value": 6}, "goto": "q3"}, {"when": {"op": "gte", "value": 9}, "goto": "end"}]},
            {"question_id": "q2", "type": "text", "text": "What is missing?", "required": false, "next": [{"goto": "end"}]},
            {"question_id": "q3", "type": "single_choice", "text": "Why?", "shuffle": true,
             "options": [{"value": "price", "text": "The price"}, "bugs"], "other": {"text": "Something else"}},
            {"question_id": "q4", "type": "multi_choice", "text": "Which?", "options": [{"value": "a", "text": "An A"}, "b"],
             "other": {"text": "Another"}, "required": false}],
        "translations": {"de": {"name": "Warum", "ui": {"labels": {"next": "Weiter"}},
            "questions": {"q1": {"text": "Wie wahrscheinlich?"}, "q3": {"text": "Warum?", "options": {"price": "Preis"}}}}},
    })
}

async fn offered(server: &Server, user: &str, locale: &str) -> Value {
    let body = json!({"context": {"locale": locale}});
    let path = format!("/v1/users/{user}/triggers/Main");
    let said = server.call(&server.client, Method::POST, &path, Some(&body)).await;
    assert_eq!(said.body["reason"], "offered", "{said:?}");
    said.body["survey"].clone()
}

#[tokio::test]
async fn a_survey_branches_in_the_users_language_and_receivers_get_the_files_own() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    for profile in ["standard", "blitzllama", "1flow"] {
        let body =
            json!({"url": format!("{}/{profile}", receiver.url), "profile": profile, "events": ["response.completed"]});
        server.put(&format!("/v1/endpoints/{profile}"), body).await;
    }
    server.put("/v1/surveys/s", branching()).await;
    let survey = offered(&server, "ann", "de-AT").await;
    let shown = (&survey["locale"], &survey["dir"], &survey["name"], &survey["questions"][0]["text"]);
    assert_eq!(shown, (&json!("de"), &json!("ltr"), &json!("Warum"), &json!("Wie wahrscheinlich?")), "{survey}");
    assert_eq!(survey["ui"], json!({"layout": "modal", "labels": {"next": "Weiter", "back": "Back"}, "mine": 1}));
    assert_eq!(survey["questions"][0]["next"][0], json!({"when": {"op": "lte", "value": 6}, "goto": "q3"}));
    assert_eq!(survey["questions"][2]["options"][0], json!({"value": "price", "text": "Preis"}));
    assert_eq!(survey["questions"][1]["text"], "What is missing?", "text by text");
    assert_eq!(
        (&offered(&server, "bob", "fr").await["locale"], &offered(&server, "cem", "en-GB").await["locale"]),
        (&json!("en"), &json!("en"))
    );
    let path = format!("/v1/users/ann/offers/{}", survey["offer_id"].as_str().unwrap());
    let answer = async |answers: Value, completed: bool| {
        server.post(&format!("{path}/answers"), json!({"answers": answers, "completed": completed})).await
    };
    let said = answer(json!([{"question_id": "q1", "value": 3}]), true).await;
    assert_eq!(
        (said.status, &said.body["code"], &said.body["errors"][0]["pointer"]),
        (422, &json!("missing_answer"), &json!("/answers"))
    );
    assert_eq!(server.get(&path).await.body["answers"], json!([]), "nothing is stored");
    answer(json!([{"question_id": "q1", "value": 7}, {"question_id": "q2", "value": "Speed"}]), false).await;
    let given = json!([{"question_id": "q1", "value": 2}, {"question_id": "q3", "value": {"other": "Just so"}},
                       {"question_id": "q4", "value": ["a", {"other": "C"}]}]);
    assert_eq!(answer(given, true).await.body["status"], "accepted");
    let kept = server.get(&path).await.body;
    let on_path = |id: &str| {
        kept["answers"].as_array().unwrap().iter().find(|a| a["question_id"] == id).unwrap()["on_path"].clone()
    };
    assert_eq!((on_path("q1"), on_path("q2"), on_path("q3")), (Value::Null, json!(false), Value::Null), "{kept}");
    let webhooks = receiver.wait(3).await;
    let body = |profile: &str| webhooks.iter().find(|w| w.path == format!("/{profile}")).unwrap().json();
    let standard = body("standard")["data"].clone();
    assert_eq!(standard["locale"], "de");
    let answers: Vec<_> =
        standard["answers"].as_array().unwrap().iter().map(|a| (&a["question_id"], &a["text"], &a["value"])).collect();
    assert_eq!(
        answers,
        [
            (&json!("q1"), &json!("How likely?"), &json!(2)),
            (&json!("q3"), &json!("Why?"), &json!({"other": "Just so"})),
            (&json!("q4"), &json!("Which?"), &json!(["a", {"other": "C"}])),
        ]
    );
    let responses: Vec<_> =
        body("blitzllama")["responses"].as_array().unwrap().iter().map(|r| r["response"].clone()).collect();
    assert_eq!(responses, [json!("2"), json!("Just so"), json!(["An A", "C"])]);
    let screens: Vec<_> =
        body("1flow")["survey_info"]["screens"].as_array().unwrap().iter().map(|s| s["answer"].clone()).collect();
    assert_eq!(screens, [json!("2"), json!("Just so"), json!("An A, C")]);
    server
        .until("the list has it", async || {
            let listed = server.all("responses").await;
            listed.iter().any(|r| r["completed"] == true && r["answers"].as_array().is_some_and(|a| a.len() == 3))
        })
        .await;
}

#[tokio::test]
async fn an_offer_keeps_the_questions_and_the_language_that_it_was_made_with() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", branching()).await;
    let survey = offered(&server, "ann", "de").await;
    let mut changed = branching();
    changed["questions"] = json!([{"question_id": "q9", "type": "nps", "text": "Anew?"}]);
    changed["translations"] = Value::Null;
    server.put("/v1/surveys/s", changed).await;
    let path = format!("/v1/users/ann/offers/{}", survey["offer_id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.body["survey"]["questions"], survey["questions"]);
    let answers = json!({"answers": [{"question_id": "q1", "value": 9}], "completed": true});
    assert_eq!(server.post(&format!("{path}/answers"), answers).await.status, 200);
}

#[tokio::test]
async fn faults_of_paths_and_gaps_of_translations_are_told() {
    let server = Server::start().await;
    let put = async |change: Change<'_>| {
        let mut body = branching();
        change(&mut body);
        server.call(&server.admin, Method::PUT, "/v1/surveys/s?dry_run=true", Some(&body)).await
    };
    let told = put(&|_| {}).await.body["warnings"].clone();
    let gaps = "translations.de lacks questions.q1.labels.low, questions.q1.labels.high, questions.q2.text, questions.q3.options.bugs, \
                questions.q3.other.text, questions.q4.text, questions.q4.options.a, questions.q4.options.b, questions.q4.other.text";
    assert!(told.to_string().contains(gaps), "{told}");
    let checks: [(Change<'_>, &str); 5] = [
        (&|b| b["questions"][0]["next"][0]["goto"] = json!("q33"), "/questions/0/next/0/goto"),
        (&|b| b["questions"][2]["next"] = json!([{"goto": "q1"}]), "/questions/2/next/0/goto"),
        (&|b| b["questions"][0]["next"] = json!([{"goto": "q3"}]), "/questions/1"),
        (&|b| b["questions"][0]["next"][0]["when"]["value"] = json!("6"), "/questions/0/next/0/when/value"),
        (&|b| b["translations"]["de"]["questions"]["q7"] = json!({}), "/translations/de/questions/q7"),
    ];
    for (change, pointer) in checks {
        let said = put(change).await;
        assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!(pointer)), "{}", said.body);
    }
}
