//! Anonymous ids that become known users', on the running program.

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::Arc;

use crate::harness::{Receiver, Said, Server, askwhen, open_survey};

async fn alias(server: &Server, user: &str, alias: &str) -> Said {
    let path = format!("/v1/users/{user}/aliases");
    let mut said = server.post(&path, json!({"alias": alias})).await;
    while said.status == 202 {
        said = server.post(&path, json!({"alias": alias})).await;
    }
    said
}

fn armed() -> Value {
    let mut survey = open_survey();
    survey["activate"] = json!({"event": "woke"});
    survey["expires_after"] = json!("2h");
    survey
}

async fn reason(server: &Server, user: &str) -> String {
    let decision = server.trigger(user, "Main").await;
    assert_eq!(decision["user_id"], "ann", "{decision}");
    decision["reason"].as_str().expect("a reason").to_owned()
}

/// Many names, so that they are on the same and on different partitions.
#[tokio::test]
async fn an_anonymous_visit_is_the_users_from_then_on() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let endpoint = json!({"url": receiver.url, "profile": "standard", "events": ["*"]});
    server.put("/v1/endpoints/crm", endpoint).await;
    server.put("/v1/surveys/open", armed()).await;
    server.event("anon-1", "woke", json!({"n": 1})).await;
    let offered = server.trigger("anon-1", "Main").await;
    let offer = offered["survey"]["offer_id"].as_str().expect("an offer").to_owned();
    let mut names = vec!["anon-1".to_owned()];
    for n in 2..8 {
        names.push(format!("anon-{n}"));
        server.event(&names[n - 1], "woke", json!({"n": n})).await;
    }
    for name in &names {
        let said = alias(&server, "ann", name).await;
        assert_eq!((said.status, &said.body), (200, &json!({"status": "accepted"})), "{name}");
        let said = alias(&server, "ann", name).await;
        assert_eq!((said.status, &said.body), (200, &json!({"status": "duplicate"})), "{name}");
        let said = alias(&server, "bob", name).await;
        assert_eq!((said.status, &said.body["code"]), (409, &json!("taken")), "{name}");
    }
    let said = alias(&server, "anon-3", "ann").await;
    assert_eq!((said.status, &said.body), (200, &json!({"status": "duplicate"})), "they are one");
    let shown = server.get("/v1/users/anon-5").await.body;
    assert_eq!((&shown["user_id"], shown["offers"][0]["offer_id"].as_str()), (&json!("ann"), Some(&*offer)));
    let known: Vec<&str> =
        shown["aliases"].as_array().expect("a list").iter().filter_map(|alias| alias["alias"].as_str()).collect();
    assert_eq!(known, names);
    assert_eq!(shown["windows"][0]["activation"]["properties"], json!({"n": 7}), "the newest event's");

    // What comes late, and what names the offer by either name.
    let path = format!("/v1/users/anon-1/offers/{offer}/displayed");
    assert_eq!(server.post(&path, json!({})).await.body, json!({"status": "accepted"}));
    let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
    let said = server.post(&format!("/v1/users/ann/offers/{offer}/answers"), body).await;
    assert_eq!((said.status, &said.body["response_id"]), (200, &json!(offer)), "{said:?}");
    assert_eq!(reason(&server, "anon-4").await, "already_completed");
    let told = receiver.wait(3).await;
    for webhook in &told {
        assert_eq!(webhook.json()["data"]["user_id"], "ann");
    }

    // A restart finds the names again, and the same engine explains them.
    let dir = server.kill();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    assert_eq!(reason(&server, "anon-2").await, "already_completed");
    // Forwards are sent once more by a restart, and nothing of them is shown twice.
    for name in ["ann", "anon-6"] {
        let timeline = server.get(&format!("/v1/users/{name}/timeline?limit=200")).await.body;
        let items = timeline["items"].as_array().expect("a list");
        let count = |kind: &str| items.iter().filter(|item| item["kind"] == kind).count();
        assert_eq!((count("alias"), count("event"), count("displayed"), count("answers")), (7, 7, 1, 1), "{timeline}");
        assert!(items.iter().any(|item| item["kind"] == "decision" && item["user_id"] == "anon-1"), "{timeline}");
    }
    for name in ["ann", "anon-6"] {
        let explained = server.get(&format!("/v1/users/{name}/explain?trigger=Main")).await.body;
        assert_eq!(
            (&explained["user_id"], &explained["decision"]["reason"]),
            (&json!("ann"), &json!("already_completed"))
        );
        assert_eq!(explained["user"]["aliases"].as_array().map(Vec::len), Some(7), "{explained}");
    }
    // The command line says it in words, and who the name was before.
    let explain = |more: &[&str]| {
        let (code, out, error) = askwhen(server.dir.path(), &[&["--data-dir", "data", "explain"], more].concat());
        assert_eq!(code, Some(0), "{error}");
        out
    };
    let out = explain(&["anon-3", "--trigger", "Main"]);
    assert!(out.starts_with("ann at ") && out.contains("\nat Main: already_completed\n"), "{out}");
    let listed = out.split(" ALIAS").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a table of aliases");
    for name in &names {
        assert_eq!(listed.matches(&**name).count(), 1, "{out}");
    }
    let out = explain(&["anon-1", "--at", offered["decided_at"].as_str().expect("a time")]);
    assert!(out.starts_with("anon-1 at ") && out.contains(&offer) && !out.contains("ALIAS"), "{out}");
}

/// A trigger that comes again under the other name gets the decision that was made.
#[tokio::test]
async fn a_trigger_comes_again_under_another_name() {
    let server = Server::start().await;
    server.put("/v1/surveys/open", open_survey()).await;
    let ask = async |user: &str, event_id: &str| {
        let said = server.post(&format!("/v1/users/{user}/triggers/Main"), json!({"event_id": event_id})).await;
        assert_eq!(said.status, 200, "{said:?}");
        said.body
    };
    let names: Vec<String> = (1..6).map(|n| format!("anon-{n}")).collect();
    let mut first = Vec::new();
    for (n, name) in names.iter().enumerate() {
        first.push(ask(name, &format!("t{n}")).await);
        assert_eq!(first[n]["reason"], "offered");
    }
    for name in &names {
        assert_eq!(alias(&server, "ann", name).await.status, 200);
    }
    for (n, name) in names.iter().enumerate() {
        for under in [name.as_str(), "ann"] {
            assert_eq!(ask(under, &format!("t{n}")).await, first[n], "t{n} of {name} under {under}");
        }
    }
    // What comes under the alias from now on is the user's, and known under both names.
    let late = ask("anon-1", "late").await;
    assert_eq!(
        (&late["user_id"], ask("ann", "late").await, ask("anon-1", "late").await),
        (&json!("ann"), late.clone(), late.clone())
    );
    server.advance("11m").await;
    for under in ["anon-1", "ann"] {
        assert_eq!(ask(under, "t0").await["reason"], "stale", "under {under}");
    }
}

#[tokio::test]
async fn an_erasure_of_either_name_is_one_of_both() {
    for erased in ["ann", "anon-1", "anon-2"] {
        let server = Server::start().await;
        let receiver = Receiver::start(&[]).await;
        let endpoint = json!({"url": receiver.url, "profile": "standard", "events": ["user.erased"]});
        server.put("/v1/endpoints/crm", endpoint).await;
        server.put("/v1/surveys/open", open_survey()).await;
        for name in ["anon-1", "anon-2"] {
            let path = format!("/v1/users/{name}");
            let body = json!({"attributes": {name: true}});
            assert_eq!(server.call(&server.server, Method::PUT, &path, Some(&body)).await.status, 202);
            server.trigger(name, "Main").await;
        }
        server.until("the lists have them", async || server.all("decisions").await.len() == 2).await;
        assert_eq!(alias(&server, "anon-2", "anon-1").await.status, 200);
        assert_eq!(alias(&server, "ann", "anon-2").await.status, 200);
        let shown = server.get("/v1/users/ann").await.body;
        assert_eq!(shown["attributes"], json!({"anon-1": true, "anon-2": true}));
        let said = server.call(&server.server, Method::DELETE, &format!("/v1/users/{erased}"), None).await;
        assert_eq!(said.status, 202, "{said:?}");
        for name in ["ann", "anon-1", "anon-2"] {
            let shown = server.get(&format!("/v1/users/{name}")).await.body;
            assert_eq!((&shown["user_id"], &shown["known"]), (&json!(name), &json!(false)), "{shown}");
        }
        let mut told: Vec<String> =
            receiver.wait(3).await.iter().map(|webhook| webhook.json()["data"]["user_id"].to_string()).collect();
        told.sort();
        assert_eq!(told, ["\"ann\"", "\"anon-1\"", "\"anon-2\""]);
        server.until("the lists have nothing", async || server.all("decisions").await.is_empty()).await;
    }
}

#[tokio::test]
async fn who_may_link_whom() {
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    if !crate::harness::ON_KAFKA {
        std::fs::write(
            dir.path().join("askwhen.toml"),
            "[[projects]]\nproject = \"default\"\nidentity_secret = [\"a secret of sixteen\"]\n",
        )
        .expect("written");
    }
    let server = Server::on(dir, &["--dev"], &[]).await;
    let sign = |user: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"a secret of sixteen").expect("any key");
        mac.update(user.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    };
    let link = async |user: &str, alias: &str, signature: Option<String>| {
        let request = server.request(Method::POST, &format!("/v1/users/{user}/aliases")).bearer_auth(&server.client);
        let request = request.header("content-type", "application/json").body(json!({"alias": alias}).to_string());
        let signed = signature.iter().fold(request, |request, given| request.header("x-user-signature", given));
        let said = Server::said(signed).await;
        (said.status, said.body["code"].as_str().map(str::to_owned))
    };
    if !crate::harness::ON_KAFKA {
        for (user, signature) in [("ann", None), ("ann", Some(sign("bob"))), ("anon-2", None)] {
            let said = link(user, "anon-1", signature).await;
            assert_eq!(said, (401, Some("identity_required".into())), "{user}");
        }
    }
    assert_eq!(link("ann", "bob", Some(sign("ann"))).await, (422, Some("invalid".into())));
    assert_eq!(link("ann", "anon-1", Some(sign("ann"))).await, (200, None));
    assert_eq!(link("bob", "anon-1", Some(sign("bob"))).await, (409, Some("taken".into())));
    for (body, code) in [
        (json!({}), "missing_field"),
        (json!({"alias": 7}), "wrong_type"),
        (json!({"alias": ""}), "bad_id"),
        (json!({"alias": "null"}), "bad_id"),
        (json!({"alias": "ann"}), "invalid"),
        (json!({"alias": "anon-9", "of": "ann"}), "unknown_field"),
    ] {
        let said = server.post("/v1/users/ann/aliases", body.clone()).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!(code)), "{body}: {said:?}");
    }
    // A server knows what it does.
    assert_eq!(alias(&server, "ann", "an-earlier-id").await.body, json!({"status": "accepted"}));
}
