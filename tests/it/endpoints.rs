//! What operators see of endpoints and do with them: health, pauses, giving up,
//! secrets, tests, and messages once more.

use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::delivery::{answer_one, endpoint};
use crate::harness::{Receiver, Said, Server, Webhook, python, run};

async fn state(server: &Server) -> (String, Value) {
    let shown = server.get("/v1/endpoints/crm").await.body;
    (shown["state"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned(), shown["state_reason"].clone())
}

async fn until_state(server: &Server, wanted: &str) {
    server.until(wanted, async || state(server).await.0 == wanted).await;
}

async fn post(server: &Server, path: &str, body: Value) -> Said {
    server.call(&server.admin, Method::POST, path, Some(&body)).await
}

/// Deliveries of a status, oldest first.
async fn listed(server: &Server, status: &str) -> Vec<Value> {
    let body = server.get(&format!("/v1/deliveries?status={status}&limit=200")).await.body;
    let mut rows = body["deliveries"].as_array().expect("a list").clone();
    rows.reverse();
    rows
}

async fn until_listed(server: &Server, status: &str, count: usize) -> Vec<Value> {
    server.until(status, async || listed(server, status).await.len() == count).await;
    listed(server, status).await
}

fn ids(webhooks: &[Webhook]) -> Vec<&str> {
    webhooks.iter().map(|webhook| webhook.header("webhook-id")).collect()
}

#[tokio::test]
async fn gone_disables_and_what_was_missed_is_recovered_once_under_its_ids() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[410]).await;
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "u0").await;
    until_state(&server, "disabled").await;
    assert_eq!(state(&server).await.1, "gone");
    let shown = server.get("/v1/endpoints/crm").await.body;
    assert_eq!((&shown["enabled"], shown.get("disabled")), (&json!(true), None), "{shown}");
    for n in 1..4 {
        answer_one(&server, &format!("u{n}")).await;
    }
    let cancelled = until_listed(&server, "cancelled", 3).await;
    assert!(cancelled.iter().all(|row| row["reason"] == "endpoint_disabled"), "{cancelled:?}");
    assert_eq!(receiver.got().len(), 1);
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    assert_eq!(post(&server, "/v1/endpoints/crm/recover", since.clone()).await.status, 409, "it is disabled");
    // The same definition once more enables nothing; the operator does.
    endpoint(&server, &receiver, json!({})).await;
    assert_eq!(state(&server).await.0, "disabled");
    let said = post(&server, "/v1/endpoints/crm/enable", json!({})).await;
    assert_eq!((said.status, &said.body["changed"]), (200, &json!(true)), "{said:?}");
    assert_eq!(state(&server).await, ("healthy".to_owned(), Value::Null));
    let said = post(&server, "/v1/endpoints/crm/recover", since.clone()).await;
    assert_eq!((said.status, &said.body["count"]), (202, &json!(4)), "{said:?}");
    let webhooks = receiver.wait(5).await;
    let recovered: BTreeSet<&str> = ids(&webhooks[1..]).into_iter().collect();
    let missed: BTreeSet<String> = until_listed(&server, "resent", 4)
        .await
        .iter()
        .map(|row| row["message_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(recovered, missed.iter().map(String::as_str).collect(), "the ids that they would have had");
    until_listed(&server, "delivered", 4).await;
    let said = post(&server, "/v1/endpoints/crm/recover", since).await;
    assert_eq!(said.body["count"], 0, "nothing is recovered twice");
    let resent = server.get("/v1/deliveries?endpoint_id=crm&status=resent").await.body["deliveries"].clone();
    assert_eq!(resent.as_array().unwrap().len(), recovered.len(), "what was recovered says so: {resent}");
    let successor = resent[0]["resent_as"].as_str().unwrap();
    let sent = server.get(&format!("/v1/deliveries/{successor}")).await.body;
    assert_eq!(
        (&sent["resend_of"], &sent["message_id"]),
        (&resent[0]["delivery_id"], &resent[0]["message_id"]),
        "{sent}"
    );
    let shown = server.get(&format!("/v1/deliveries/{}", resent[0]["delivery_id"].as_str().unwrap())).await.body;
    assert_eq!((&shown["status"], &shown["resent_as"]), (&json!("resent"), &json!(successor)), "{shown}");
    let shown = server.get("/v1/endpoints/crm").await.body;
    assert!(shown["state_since"].as_str() > cancelled[0]["created_at"].as_str(), "since it was enabled: {shown}");
    assert_eq!(receiver.got().len(), 5);
    for bad in [
        json!({}),
        json!({"since": null}),
        json!({"since": "yesterday"}),
        json!({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}),
    ] {
        assert_eq!(post(&server, "/v1/endpoints/crm/recover", bad).await.status, 422);
    }
    assert_eq!(post(&server, "/v1/endpoints/none/recover", json!({"since": "2026-01-01T00:00:00Z"})).await.status, 404);
}

#[tokio::test]
async fn a_receiver_that_asks_for_it_is_disabled_and_one_flow_is_not() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    receiver.will(&[(200, vec![("webhook-delivery", "disable".into())])]);
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "ann").await;
    until_state(&server, "disabled").await;
    assert_eq!(state(&server).await.1, "gone");
    let other = Receiver::start(&[410, 429]).await;
    other.will(&[(200, vec![("webhook-delivery", "disable".into())])]);
    let body = json!({"url": other.url, "profile": "1flow"});
    server.put("/v1/endpoints/flow", body).await;
    answer_one(&server, "bob").await;
    other.wait(1).await;
    server.advance("2h").await;
    assert_eq!(other.got().len(), 3, "410 and 429 are failures like any other there");
    assert_eq!(server.get("/v1/endpoints/flow").await.body["state"], "healthy");
}

#[tokio::test]
async fn a_pause_that_is_asked_for_holds_the_whole_endpoint() {
    for (wish, seconds) in [("120", 120), ("999999999999", 86_400), ("DATE", 600)] {
        let server = Server::start().await;
        let receiver = Receiver::start(&[]).await;
        let text = match wish {
            "DATE" => {
                #[expect(clippy::disallowed_methods, reason = "a receiver of its own has its own clock")]
                let at = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
                httpdate_of(at)
            }
            wish => wish.to_owned(),
        };
        receiver.will(&[(429, vec![("retry-after", text)])]);
        endpoint(&server, &receiver, json!({})).await;
        answer_one(&server, "ann").await;
        until_state(&server, "open").await;
        assert_eq!(state(&server).await.1, "retry_after");
        for n in 0..3 {
            answer_one(&server, &format!("u{n}")).await;
        }
        let until = server.get("/v1/endpoints/crm").await.body["state_until"].clone();
        let pending = until_listed(&server, "pending", 3).await;
        assert!(pending.iter().all(|row| row["next_attempt_at"] == until), "{until} {pending:?}");
        server.advance(&format!("{}s", seconds - 30)).await;
        assert_eq!(receiver.got().len(), 1, "{wish}: nothing goes there while it pauses");
        server.advance("31s").await;
        assert_eq!(receiver.got().len(), 5, "{wish}: and then everything");
        until_state(&server, "healthy").await;
    }
}

#[tokio::test]
async fn a_pause_outlives_a_restart_and_ends_where_an_endpoint_begins_anew() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    receiver.will(&[(503, vec![("retry-after", "7200".into())])]);
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "ann").await;
    until_state(&server, "open").await;
    // As far as every partition of the delivery.
    let partitions = if crate::harness::ON_KAFKA { crate::harness::KAFKA_PARTITIONS as usize } else { 8 };
    let told = || {
        let deliveries = crate::harness::tail(server.dir.path(), "deliveries");
        deliveries.iter().filter(|record| record["value"].get("health").is_some()).count()
    };
    server.until("all are told", async || told() >= partitions).await;
    let server = Server::on(server.kill(), &["--dev", "--test-clock"], &[]).await;
    assert_eq!(state(&server).await, ("open".to_owned(), json!("retry_after")));
    answer_one(&server, "bob").await;
    server.advance("1h").await;
    assert_eq!(receiver.got().len(), 1, "it pauses still");
    // Deleted and made again it is another endpoint under the same id.
    assert_eq!(server.call(&server.admin, Method::DELETE, "/v1/endpoints/crm", None).await.status, 200);
    let other = Receiver::start(&[]).await;
    endpoint(&server, &other, json!({})).await;
    assert_eq!(state(&server).await.0, "healthy");
    answer_one(&server, "cid").await;
    other.wait(1).await;
    let (dir, _) = server.terminate();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    assert_eq!(state(&server).await.0, "healthy");
    // Enabling lets go of a pause.
    other.will(&[(429, vec![("retry-after", "86400".into())])]);
    answer_one(&server, "dan").await;
    until_state(&server, "open").await;
    assert_eq!(post(&server, "/v1/endpoints/crm/enable", json!({})).await.status, 200);
    until_state(&server, "healthy").await;
    let came = other.got().len();
    answer_one(&server, "eve").await;
    other.wait(came + 1).await;
    for (method, path) in [
        (Method::DELETE, "/v1/endpoints/crm?dry_run=true"),
        (Method::POST, "/v1/endpoints/crm/rotate-secret?dry_run=true"),
        (Method::POST, "/v1/endpoints/crm/enable?x=1"),
    ] {
        assert_eq!(server.call(&server.admin, method, path, None).await.status, 422, "{path}");
    }
    let chain = json!({"url": other.url, "tls": {"client_cert": include_str!("client.pem")}});
    let said = server.call(&server.admin, Method::PUT, "/v1/endpoints/half", Some(&chain)).await;
    assert_eq!((said.status, &said.body["errors"][0]["pointer"]), (422, &json!("/tls/client_key")), "{said:?}");
}

fn httpdate_of(at: std::time::SystemTime) -> String {
    let (_, text) = run(
        "python3",
        &[
            "-c",
            "import sys, email.utils; print(email.utils.formatdate(float(sys.argv[1]), usegmt=True))",
            &at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string(),
        ],
        "",
    );
    text.trim().to_owned()
}

#[tokio::test]
async fn failures_open_an_endpoint_and_it_recovers_step_by_step() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 5});
    endpoint(&server, &receiver, json!({"retry": retry})).await;
    for n in 0..30 {
        answer_one(&server, &format!("u{n}")).await;
    }
    until_state(&server, "open").await;
    // What was under way when it opened still arrives.
    let mut tried = 0;
    while receiver.got().len() != std::mem::replace(&mut tried, receiver.got().len()) {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!((10..30).contains(&tried), "it stopped after some failures: {tried}");
    server.advance("9s").await;
    assert_eq!(receiver.got().len(), tried);
    server.advance("2s").await;
    assert_eq!(receiver.got().len(), tried + 1, "one attempt finds out that it is still down");
    receiver.always(200);
    server.advance("1m").await;
    assert_eq!(receiver.got().len(), 30, "those that had no attempt yet");
    until_state(&server, "healthy").await;
    server.advance("1h").await;
    until_listed(&server, "delivered", 30).await;
    let metrics = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    assert!(text.contains("askwhen_delivery_endpoints{state=\"healthy\"} 1"), "{text}");
    assert!(text.contains("askwhen_delivery_endpoint_transitions_total{state=\"open\"} 2"), "{text}");
}

#[tokio::test]
async fn nothing_but_failures_for_five_days_and_it_is_given_up() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    let retry = json!({"kind": "fixed", "interval": "6h", "max_attempts": 100});
    endpoint(&server, &receiver, json!({"retry": retry})).await;
    answer_one(&server, "ann").await;
    receiver.wait(1).await;
    server.advance("4d23h").await;
    assert_eq!(state(&server).await, ("degraded".to_owned(), json!("failures")));
    let tried = receiver.got().len();
    // The first failure that ends five days after the first one ended.
    server.advance("8h").await;
    until_state(&server, "disabled").await;
    let last = receiver.got().len();
    assert!(state(&server).await.1 == "auto" && (tried + 1..=tried + 2).contains(&last), "{tried} {last}");
    server.advance("1d").await;
    assert_eq!(receiver.got().len(), last);
    assert_eq!(until_listed(&server, "cancelled", 1).await[0]["reason"], "endpoint_disabled");
}

fn verifies(webhook: &Webhook, secret: &str) -> bool {
    let script = "import sys, json\nfrom standardwebhooks.webhooks import Webhook\n\
                  h = json.loads(sys.argv[2])\nWebhook(sys.argv[1]).verify(sys.stdin.read(), h)";
    let headers: serde_json::Map<String, Value> =
        webhook.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let body = String::from_utf8_lossy(&webhook.body).into_owned();
    run(&python(), &["-c", script, secret, &Value::Object(headers).to_string()], &body).0
}

#[tokio::test]
async fn a_rotated_secret_overlaps_and_then_ends() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})).await;
    let said = post(&server, "/v1/endpoints/crm/rotate-secret", json!({"overlap": "1h"})).await;
    assert_eq!(said.status, 200, "{said:?}");
    let new = said.body["secret"].as_str().expect("shown once").to_owned();
    answer_one(&server, "ann").await;
    // A definition that says nothing of the secret leaves the rotation alone.
    endpoint(&server, &receiver, json!({"concurrency": 5})).await;
    answer_one(&server, "bob").await;
    let webhooks = receiver.wait(2).await;
    for webhook in &webhooks {
        let both = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &new].map(|secret| verifies(webhook, secret));
        assert_eq!(both, [true, true], "{webhook:?}");
        assert_eq!(webhook.header("webhook-signature").split(' ').count(), 2);
    }
    server.advance("1h1s").await;
    answer_one(&server, "cid").await;
    let last = &receiver.wait(3).await[2];
    assert_eq!([verifies(last, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), verifies(last, &new)], [false, true]);
    // Each secret keeps the overlap that it was promised.
    let first = post(&server, "/v1/endpoints/crm/rotate-secret", json!({"overlap": "2h"})).await.body["secret"].clone();
    let second =
        post(&server, "/v1/endpoints/crm/rotate-secret", json!({"overlap": "1h"})).await.body["secret"].clone();
    let secrets = [second.as_str().unwrap(), first.as_str().unwrap(), &new];
    for (span, expected) in [("30m", [true, true, true]), ("45m", [true, false, true]), ("1h", [true, false, false])] {
        server.advance(span).await;
        let count = receiver.got().len();
        answer_one(&server, &format!("after-{span}")).await;
        let webhook = receiver.wait(count + 1).await[count].clone();
        assert_eq!(secrets.map(|secret| verifies(&webhook, secret)), expected, "{span}");
    }
    let given = json!({"secret": "whsec_c2hvcnQ="});
    assert_eq!(post(&server, "/v1/endpoints/crm/rotate-secret", given).await.status, 422);
    assert_eq!(post(&server, "/v1/endpoints/crm/rotate-secret", json!({"overlap": "31d"})).await.status, 422);
    let pair = "whsk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let said = post(&server, "/v1/endpoints/crm/rotate-secret", json!({"secret": pair, "overlap": "0s"})).await;
    assert_eq!((said.status, said.body.get("secret")), (200, None), "{said:?}");
    let public = server.get("/v1/endpoints/crm").await.body["public_key"].as_str().expect("a key").to_owned();
    answer_one(&server, "dan").await;
    let signed = receiver.wait(7).await[6].clone();
    verify_ed25519(&signed, &public);
    for topic in ["definitions", "deliveries", "events"] {
        let said = crate::harness::tail(server.dir.path(), topic);
        let text = serde_json::to_string(&said).unwrap();
        assert!(!text.contains(&new) && !text.contains(pair), "{topic} shows no secret");
    }
}

/// With another implementation of the signature.
fn verify_ed25519(webhook: &Webhook, public: &str) {
    let script = "const c = require('crypto');\
        const [key, id, at, signatures] = process.argv.slice(1);\
        const raw = Buffer.from(key.slice(5), 'base64');\
        const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw]);\
        const pub = c.createPublicKey({key: der, format: 'der', type: 'spki'});\
        const body = require('fs').readFileSync(0);\
        const data = Buffer.concat([Buffer.from(`${id}.${at}.`), body]);\
        const ok = signatures.split(' ').some(s => s.startsWith('v1a,') &&\
            c.verify(null, data, pub, Buffer.from(s.slice(4), 'base64')));\
        process.exit(ok ? 0 : 1);";
    let header = |name| webhook.header(name);
    let body = String::from_utf8_lossy(&webhook.body).into_owned();
    let arguments =
        ["-e", script, public, header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")];
    let (fine, said) = run("node", &arguments, &body);
    assert!(fine, "{said} {webhook:?}");
}

#[tokio::test]
async fn a_test_is_one_attempt_whatever_the_state() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"enabled": false})).await;
    let said = post(&server, "/v1/endpoints/crm/test", json!({})).await;
    assert_eq!(
        (said.status, &said.body["http_status"], &said.body["outcome"]),
        (200, &json!(200), &json!("delivered"))
    );
    let ping = receiver.wait(1).await[0].json();
    assert_eq!((&ping["type"], &ping["data"]["test"]), (&json!("endpoint.test"), &json!(true)));
    receiver.always(500);
    let said = post(&server, "/v1/endpoints/crm/test", json!({})).await;
    assert_eq!((&said.body["http_status"], &said.body["outcome"]), (&json!(500), &json!("bad_status")));
    server.advance("1d").await;
    assert_eq!(receiver.got().len(), 2, "a test is not repeated");
    for profile in ["blitzllama", "1flow"] {
        receiver.always(200);
        server.put(&format!("/v1/endpoints/{profile}"), json!({"url": receiver.url, "profile": profile})).await;
        let said = post(&server, &format!("/v1/endpoints/{profile}/test"), json!({})).await;
        assert_eq!(said.body["outcome"], "delivered", "{said:?}");
    }
    let bodies: Vec<Value> = receiver.got()[2..].iter().map(Webhook::json).collect();
    assert_eq!(
        (&bodies[0]["event_type"], &bodies[1]["alert_name"]),
        (&json!("response_group"), &json!("submitted_survey"))
    );
    assert_eq!(post(&server, "/v1/endpoints/none/test", json!({})).await.status, 404);
    let recover = json!({"since": "2020-01-01T00:00:00Z"});
    post(&server, "/v1/endpoints/crm/enable", json!({})).await;
    assert_eq!(post(&server, "/v1/endpoints/crm/recover", recover).await.body["count"], 0, "tests are not recovered");
}

#[tokio::test]
async fn a_delivery_is_sent_again_under_its_id() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({})).await;
    answer_one(&server, "ann").await;
    let first = until_listed(&server, "delivered", 1).await.remove(0);
    let path = format!("/v1/deliveries/{}/resend", first["delivery_id"].as_str().unwrap());
    let said = server.call(&server.admin, Method::POST, &path, None).await;
    assert_eq!((said.status, &said.body["message_id"]), (202, &first["message_id"]), "{said:?}");
    assert_ne!(said.body["delivery_id"], first["delivery_id"]);
    let webhooks = receiver.wait(2).await;
    assert_eq!(ids(&webhooks)[0], ids(&webhooks)[1]);
    assert_eq!(webhooks[0].body, webhooks[1].body);
    assert_eq!((webhooks[1].header("webhook-attempt"), until_listed(&server, "delivered", 2).await.len()), ("1", 2));
    assert_eq!(server.call(&server.admin, Method::POST, "/v1/deliveries/dlv_none/resend", None).await.status, 404);
    // Of one that came to nothing, both name each other, and nothing is left to recover.
    receiver.always(410);
    answer_one(&server, "ben").await;
    let missed = until_listed(&server, "dead", 1).await.remove(0);
    receiver.always(200);
    post(&server, "/v1/endpoints/crm/enable", json!({})).await;
    let missed_path = format!("/v1/deliveries/{}", missed["delivery_id"].as_str().unwrap());
    let resend = async || server.call(&server.admin, Method::POST, &format!("{missed_path}/resend"), None).await.body;
    let instead = resend().await["delivery_id"].clone();
    until_listed(&server, "delivered", 3).await;
    let shown = server.get(&missed_path).await.body;
    assert_eq!((&shown["status"], &shown["resent_as"]), (&json!("resent"), &instead), "{shown}");
    let sent = server.get(&format!("/v1/deliveries/{}", instead.as_str().unwrap())).await.body;
    assert_eq!((&sent["resend_of"], &sent["message_id"]), (&missed["delivery_id"], &missed["message_id"]), "{sent}");
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let recovered = post(&server, "/v1/endpoints/crm/recover", since).await.body["count"].clone();
    assert_eq!(recovered, 0, "it is not missed any more");
    assert_ne!(resend().await["delivery_id"], instead, "what was taken is sent once more when it is asked for");
    until_listed(&server, "delivered", 4).await;
    assert_eq!(post(&server, &path, json!({"a": 1})).await.status, 422);
    // Of an erased user nothing is sent again.
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/ann", None).await.status, 202);
    let said = server.call(&server.admin, Method::POST, &path, None).await;
    assert_eq!((said.status, &said.body["code"]), (409, &json!("user_erased")), "{said:?}");
}

#[tokio::test]
async fn a_delivery_alone_shows_the_request_of_each_attempt_and_no_secret() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[500]).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let more = json!({"secret": secret, "headers": {"x-token": "canary-token"}});
    endpoint(&server, &receiver, more).await;
    answer_one(&server, "ann").await;
    let row = until_listed(&server, "waiting", 1).await.remove(0);
    let path = format!("/v1/deliveries/{}", row["delivery_id"].as_str().unwrap());
    server.advance("1m").await;
    until_listed(&server, "delivered", 1).await;
    let hooks = receiver.wait(2).await;
    let shown = server.get(&path).await.body;
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{shown}");
    for (attempt, hook) in attempts.iter().zip(&hooks) {
        assert_eq!(shown["body"].as_str().unwrap().as_bytes(), &hook.body[..]);
        assert_eq!(attempt["same_body"], true, "{attempt}");
        assert!(attempt["headers"]["webhook-signature"].as_str().unwrap().starts_with("v1,"), "{attempt}");
        let all = [&shown["headers"], &attempt["headers"]].into_iter().flat_map(|of| of.as_object().unwrap());
        for (name, value) in all.filter(|(name, _)| *name != "x-token") {
            assert_eq!(value, hook.header(name), "{name}");
        }
        // Of what it got the receiver's connection alone is not shown.
        let told: Vec<&str> = hook.headers.iter().map(|(name, _)| name.as_str()).collect();
        let is_shown = |name: &str| !shown["headers"][name].is_null() || !attempt["headers"][name].is_null();
        let hidden: Vec<&&str> = told.iter().filter(|name| !is_shown(name)).collect();
        assert!(hidden.iter().all(|name| ["host", "content-length"].contains(name)), "{hidden:?}");
    }
    assert_eq!(shown["headers"]["x-token"], "(sealed)");
    let viewer = json!({"name": "reads", "kind": "viewer"});
    let viewer = server.call(&server.admin, Method::POST, "/v1/keys", Some(&viewer)).await.body;
    let seen = server.call(viewer["key"].as_str().unwrap(), Method::GET, &path, None).await;
    assert_eq!((seen.status, &seen.body), (200, &shown));
    for secret in ["canary-token", &secret[6..]] {
        assert!(!shown.to_string().contains(secret), "{shown}");
    }
    for key in [&server.client, &server.server] {
        assert_eq!(server.call(key, Method::GET, &path, None).await.status, 403);
    }
    // A definition that gives another body says so of what was sent before.
    endpoint(
        &server,
        &receiver,
        json!({"secret": "s3cret", "profile": "blitzllama", "events": ["response.completed"]}),
    )
    .await;
    let shown = server.get(&path).await.body;
    assert!(shown["body"].as_str().unwrap().contains("response_group"), "{shown}");
    assert_eq!(
        (&shown["attempts"][0]["same_body"], &shown["attempts"][1]["same_body"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(server.call(&server.admin, Method::DELETE, "/v1/endpoints/crm", None).await.status, 200);
    let shown = server.get(&path).await.body;
    assert_eq!((&shown["body"], &shown["body_missing"]), (&Value::Null, &json!("endpoint_removed")));
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/ann", None).await.status, 202);
    let is_gone = async || server.get(&path).await.body["body_missing"] == "user_erased";
    server.until("nothing of it is shown", is_gone).await;
    let shown = server.get(&path).await.body;
    assert_eq!((&shown["body"], &shown["attempts"][0]["headers"]), (&Value::Null, &Value::Null), "{shown}");
    assert_eq!(server.get("/v1/deliveries/dlv_none").await.status, 404);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    endpoint(&server, &receiver, json!({"rate_limit": "60/m"})).await;
    for n in 0..5 {
        answer_one(&server, &format!("u{n}")).await;
    }
    receiver.wait(1).await;
    let got = receiver.got().len();
    server.advance("2s").await;
    assert!(receiver.got().len() > got && receiver.got().len() <= got + 3, "{got} {}", receiver.got().len());
    server.advance("10s").await;
    assert_eq!(receiver.got().len(), 5);
    assert_eq!(server.get("/v1/endpoints/crm").await.body["rate_limit"], "60/m");
}

#[tokio::test]
async fn a_new_endpoint_gets_what_it_would_have_been_told_and_nothing_twice() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let profiles = ["standard", "blitzllama", "1flow"];
    let define = async |prefix: &str, url: &str| {
        for profile in profiles {
            let mut body = json!({"url": format!("{url}/{profile}"), "profile": profile, "surveys": ["choices"]});
            if profile == "blitzllama" {
                body["events"] = json!(["*"]);
            }
            server.put(&format!("/v1/endpoints/{prefix}{profile}"), body).await;
        }
    };
    define("early-", &receiver.url).await;
    let questions = json!([{"question_id": "q1", "type": "rating_star", "text": "How?"},
        {"question_id": "q2", "type": "multi_choice", "text": "What?", "options": ["noise", {"value": "light", "text": "The light"}]}]);
    let mut survey = crate::harness::open_survey();
    survey["questions"] = questions;
    server.put("/v1/surveys/choices", survey).await;
    for user in ["ann", "bob", "cid"] {
        let decision = server.trigger(user, "Main").await;
        let offer = decision["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decision}")).to_owned();
        let answers = json!([{"question_id": "q1", "value": 4}, {"question_id": "q2", "value": ["light", "noise"]}]);
        let body = json!({"answers": answers, "completed": true});
        assert_eq!(server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await.status, 200);
    }
    // For each user: two of standard, two answers and a group, one alert.
    let early = receiver.wait(18).await;
    assert_eq!(server.call(&server.server, Method::DELETE, "/v1/users/cid", None).await.status, 202);
    until_listed(&server, "delivered", 18).await;
    server.until("erased", async || server.get("/v1/responses?user_id=cid").await.body["responses"] == json!([])).await;
    let late = Receiver::start(&[]).await;
    define("late-", &late.url).await;
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    for (profile, count) in profiles.into_iter().zip([4, 6, 2]) {
        let path = format!("/v1/endpoints/late-{profile}/backfill");
        let mut dry = since.clone();
        dry["dry_run"] = true.into();
        let said = post(&server, &path, dry).await;
        assert_eq!((said.status, &said.body["count"]), (200, &json!(count)), "{profile}: {said:?}");
        let said = post(&server, &path, since.clone()).await;
        assert_eq!((said.status, &said.body["count"]), (202, &json!(count)), "{profile}: {said:?}");
    }
    // What is known of cid is gone, and told to nobody new.
    let came = late.wait(12).await;
    server.advance("1m").await;
    assert_eq!(late.got().len(), 12);
    let bodies = |webhooks: &[Webhook], path: &str| -> BTreeSet<String> {
        let same =
            |webhook: &&Webhook| webhook.path == path && !String::from_utf8_lossy(&webhook.body).contains("\"cid\"");
        webhooks.iter().filter(same).map(|webhook| alike(&webhook.json())).collect()
    };
    for profile in profiles {
        let path = format!("/{profile}");
        assert_eq!(bodies(&came, &path), bodies(&early, &path), "{profile}");
    }
    // The same ids whenever they are worked out: nothing is sent twice, by nobody.
    for endpoint in ["early-standard", "late-standard", "late-blitzllama"] {
        let said = post(&server, &format!("/v1/endpoints/{endpoint}/backfill"), since.clone()).await;
        assert_eq!(said.body["count"], 0, "{endpoint}");
    }
    server.advance("1m").await;
    assert_eq!((receiver.got().len(), late.got().len()), (18, 12));
    for bad in [json!({}), json!({"since": "x"}), json!({"since": "2020-01-01T00:00:00Z", "rate": "5"})] {
        assert_eq!(post(&server, "/v1/endpoints/late-standard/backfill", bad).await.status, 422);
    }
}

/// But for the id of the message itself, which differs by endpoint.
fn alike(body: &Value) -> String {
    let mut body = body.clone();
    body.as_object_mut().expect("an object").remove("alert_id");
    body.to_string()
}
