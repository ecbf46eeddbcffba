//! Surveys behind links: pages, tokens, and answers without a key.

use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::harness::{Said, Server, askwhen};

fn survey(more: &Value) -> Value {
    let mut body = json!({
        "name": "A <survey> & more", "status": "active", "link": true, "locale": "en",
        "frequency": {"repeat": "every_activation"},
        "questions": [{"question_id": "q1", "type": "nps", "text": "How likely? </script><b>"}],
        "translations": {"de": {"name": "Umfrage", "questions": {"q1": {"text": "Wie wahrscheinlich?"}}},
                         "ar": {"questions": {"q1": {"text": "ما"}}}},
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A request without any key.
async fn get(server: &Server, path: &str, language: &str) -> Said {
    Server::said(server.request(Method::GET, path).header("accept-language", language)).await
}

fn text(said: &Said) -> String {
    String::from_utf8(said.bytes.to_vec()).expect("text")
}

/// What the page's script reads.
fn data(said: &Said) -> Value {
    let text = text(said);
    let (_, rest) = text.split_once("id=\"askwhen\">").unwrap_or_else(|| panic!("{text}"));
    serde_json::from_str(rest.split_once("</script>").unwrap().0).expect("JSON")
}

async fn link(server: &Server, body: Value) -> String {
    let said = server.post("/v1/surveys/nps/links", body).await;
    assert_eq!(said.status, 201, "{said:?}");
    let url = said.body["url"].as_str().unwrap().to_owned();
    url.strip_prefix(&server.base).unwrap_or_else(|| panic!("{url}")).to_owned()
}

/// Answers as the page does: without a key, in plain text.
async fn answer(server: &Server, page: &Value, user: &str, response: &str, value: Value, completed: bool) -> Said {
    let mut body = page["body"].clone();
    body["response_id"] = json!(response);
    body["answers"] = json!([{"question_id": "q1", "value": value}]);
    body["completed"] = json!(completed);
    let path = page["submit"].as_str().unwrap().replace("{user}", user);
    Server::said(
        server.request(Method::POST, &path).header("content-type", "text/plain;charset=UTF-8").body(body.to_string()),
    )
    .await
}

#[tokio::test]
async fn a_link_is_for_its_user_and_loading_it_records_nothing() {
    let server = Server::start().await;
    server.put("/v1/surveys/nps", survey(&json!({}))).await;
    let path = link(&server, json!({"user_id": "ann/1"})).await;
    let page = get(&server, &path, "de-AT,en;q=0.5").await;
    assert_eq!(page.status, 200);
    let header = |name: &str| page.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    assert!(header("content-type").starts_with("text/html"));
    assert!(header("content-security-policy").contains("frame-ancestors 'none'"));
    assert!(header("content-security-policy").contains("require-trusted-types-for 'script'"));
    assert!(header("x-robots-tag").contains("noindex") && text(&page).contains("noindex"));
    assert_eq!((header("cache-control"), header("referrer-policy")), ("no-store".into(), "no-referrer".into()));
    let shown = data(&page);
    assert_eq!(
        (&shown["survey"]["locale"], &shown["survey"]["questions"][0]["text"]),
        (&json!("de"), &json!("Wie wahrscheinlich?"))
    );
    assert_eq!((&shown["user_id"], &shown["body"]["context"]["locale"]), (&json!("ann/1"), &json!("de")));
    assert!(text(&page).contains("<html lang=\"de\" dir=\"ltr\">") && text(&page).contains("<title>Umfrage</title>"));
    let english = get(&server, &format!("{path}&lang=en"), "de").await;
    assert_eq!(data(&english)["survey"]["questions"][0]["text"], "How likely? </script><b>");
    assert!(text(&english).contains("<title>A &#60;survey&#62; &#38; more</title>"), "{}", text(&english));
    assert!(text(&get(&server, &format!("{path}&lang=ar"), "").await).contains("dir=\"rtl\""));
    for _ in 0..20 {
        assert_eq!(get(&server, &path, "").await.status, 200);
        assert_eq!(Server::said(server.request(Method::HEAD, &path)).await.status, 200);
    }
    assert_eq!(server.all("responses").await, [Value::Null; 0]);
    assert_eq!(server.get("/v1/users/ann%2F1").await.body["known"], false);
    for file in ["page.js", "page.css", "embed.js", "survey.mjs"] {
        assert_eq!(get(&server, &format!("/sdk/{file}"), "").await.status, 200, "{file}");
    }
    assert!(text(&get(&server, "/embed", "").await).contains("src=\"/sdk/embed.js\""));
    let said = answer(&server, &shown, "ann%2F1", "r1", json!(8), true).await;
    assert_eq!((said.status, &said.body["response_id"]), (200, &json!("r1")), "{said:?}");
    server.until("it is listed", async || !server.all("responses").await.is_empty()).await;
    let listed = server.all("responses").await;
    assert_eq!(
        (&listed[0]["user_id"], &listed[0]["locale"], &listed[0]["link"]),
        (&json!("ann/1"), &json!("de"), &json!(true))
    );
    assert_eq!(answer(&server, &shown, "bob", "r2", json!(8), true).await.body["code"], "link_forged");
}

#[tokio::test]
async fn forged_expired_and_used_links_say_so() {
    let server = Server::start().await;
    server.put("/v1/surveys/nps", survey(&json!({}))).await;
    server.put("/v1/surveys/other", survey(&json!({}))).await;
    let path = link(&server, json!({"user_id": "ann", "expires_in": "1h", "single_use": true})).await;
    let forged = [
        path.replace("u=ann", "u=bob"),
        path.replace("/s/nps", "/s/other"),
        path.replace("&t=AQE", "&t=AQA"),
        path.split('&').next().unwrap().to_owned(),
        path.replace("u=ann&", ""),
        "/s/nps".to_owned(),
    ];
    for path in forged {
        let said = get(&server, &path, "").await;
        assert_eq!(said.status, 403, "{path}");
        assert!(text(&said).contains("class=\"notice\""));
    }
    assert_eq!(get(&server, "/s/nobody", "").await.status, 404);
    let page = data(&get(&server, &path, "").await);
    assert_eq!(answer(&server, &page, "ann", "r1", json!(3), false).await.status, 200);
    assert_eq!(get(&server, &path, "").await.status, 200, "it is not complete yet");
    assert_eq!(answer(&server, &page, "ann", "r1", json!(4), true).await.body["status"], "accepted");
    assert_eq!(answer(&server, &page, "ann", "r1", json!(4), true).await.body["status"], "duplicate");
    let said = get(&server, &path, "").await;
    assert!(said.status == 410 && text(&said).contains("has been used"), "{}", text(&said));
    let said = answer(&server, &page, "ann", "r2", json!(9), true).await;
    assert_eq!((said.status, &said.body["code"]), (410, &json!("link_used")), "{said:?}");
    let again = link(&server, json!({"user_id": "ann", "expires_in": "1h", "single_use": true})).await;
    assert_eq!(get(&server, &again, "").await.status, 200, "another link is another use");
    server.advance("25h").await;
    let said = get(&server, &again, "").await;
    assert!(said.status == 410 && text(&said).contains("has expired"), "{} {}", said.status, text(&said));
    assert_eq!(answer(&server, &page, "ann", "r3", json!(9), true).await.body["code"], "link_expired");
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"user_id": "ann", "expires_in": "soon"}), "bad_time"),
        (json!({"user_id": "ann", "expires_in": "400d"}), "invalid"),
        (json!({"user_id": "ann", "singel_use": true}), "unknown_field"),
    ] {
        assert_eq!(server.post("/v1/surveys/nps/links", body).await.body["code"], code);
    }
    let said =
        server.call(&server.client, Method::POST, "/v1/surveys/nps/links", Some(&json!({"user_id": "ann"}))).await;
    assert_eq!(said.status, 403);
    assert_eq!(server.post("/v1/surveys/none/links", json!({"user_id": "ann"})).await.status, 404);
}

#[tokio::test]
async fn anybody_answers_where_the_survey_says_so_and_only_as_anybody() {
    let server = Server::start().await;
    server.put("/v1/surveys/nps", survey(&json!({"link_anonymous": true}))).await;
    let page = data(&get(&server, "/s/nps?q1=8", "fr").await);
    assert_eq!((&page["user_id"], &page["survey"]["locale"]), (&Value::Null, &json!("en")));
    assert_eq!(answer(&server, &page, "anon-1", "r1", json!(8), true).await.status, 200);
    assert_eq!(answer(&server, &page, "ann", "r1", json!(8), true).await.status, 403);
    let bare = json!({"submit": page["submit"], "body": {}});
    assert_eq!(answer(&server, &bare, "anon-2", "r2", json!(8), true).await.status, 401);
    server.put("/v1/surveys/nps", survey(&json!({"link_anonymous": true, "status": "paused"}))).await;
    assert_eq!(get(&server, "/s/nps", "").await.status, 404);
    assert_eq!(answer(&server, &page, "anon-3", "r3", json!(8), true).await.status, 409);
}

#[tokio::test]
async fn below_a_path_of_a_proxy_every_address_says_so() {
    let environment = [
        ("ASKWHEN__HTTP__BASE_PATH", "/ask"),
        ("ASKWHEN__HTTP__FRAME_ANCESTORS", "[\"https://app.example\", \"self\"]"),
    ];
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &environment).await;
    server.put("/v1/surveys/nps", survey(&json!({"link_anonymous": true}))).await;
    let made = server.request(Method::POST, "/ask/v1/surveys/nps/links").bearer_auth(&server.server);
    let made = made.header("x-forwarded-proto", "https").header("x-forwarded-host", "shop.example");
    let made = Server::said(made.header("content-type", "application/json").body("{\"user_id\": \"a b\"}")).await;
    let url = made.body["url"].as_str().unwrap();
    let path = url.strip_prefix("https://shop.example").unwrap_or_else(|| panic!("{url}"));
    assert!(path.starts_with("/ask/s/nps?u=a+b&t="), "{path}");
    let page = get(&server, path, "").await;
    assert!(text(&page).contains("src=\"/ask/sdk/page.js\"") && text(&page).contains("href=\"/ask/sdk/page.css\""));
    assert_eq!(data(&page)["submit"], "/ask/v1/users/{user}/surveys/nps/responses");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.ends_with("frame-ancestors https://app.example 'self'"), "{policy}");
    assert_eq!(get(&server, "/ask/sdk/page.js", "").await.status, 200);
    assert_eq!(answer(&server, &data(&page), "a%20b", "r1", json!(8), true).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_links_and_the_demo_has_a_shop() {
    let server = Server::start().await;
    server.put("/v1/surveys/nps", survey(&json!({}))).await;
    let arguments = ["--data-dir", "data", "link", "nps", "ann", "--single-use", "--server", &server.base];
    let (code, out, error) = askwhen(server.dir.path(), &arguments);
    assert_eq!(code, Some(0), "{error}");
    let path = out.trim().strip_prefix(&server.base).unwrap_or_else(|| panic!("{out}"));
    assert_eq!(get(&server, path, "").await.status, 200);
}
