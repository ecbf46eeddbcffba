//! `askwhen demo`: runs everything once on this machine: a server on a temporary data
//! directory, a survey that `ended_sleep` arms, and a receiver for each profile. It checks
//! every signature and prints a summary.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::client::Client;
use super::context::{Failure, Format};
use super::output;
use crate::bridge::auth::Kind;
use crate::config::{self, Overrides};
use crate::supervisor::{self, Options, Roles};
use askwhen_domain::webhook::endpoint::Profile;
use askwhen_wire::profile::{self, Keys, WebhookAttempt};

/// A webhook that a receiver has got.
struct ReceivedWebhook {
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

type Inbox = Arc<Mutex<Vec<ReceivedWebhook>>>;

const PROFILES: [(&str, Profile); 3] =
    [("standard", Profile::Standard), ("blitzllama", Profile::Blitzllama), ("1flow", Profile::OneFlow)];

pub async fn run(format: Format) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(e.to_string());
    let say = |text: &str| {
        if format == Format::Text {
            output::line(text);
        }
    };
    let dir = std::env::temp_dir().join(format!("askwhen-demo-{}", std::process::id()));
    let overrides =
        Overrides { data_dir: Some(dir.clone()), listen: Some("127.0.0.1:0".into()), ..Overrides::default() };
    let config = config::load(Some(std::path::Path::new("/dev/null")), [], &overrides).map_err(|e| failed(&e))?;
    let options = Options { test_clock: true, dev: true, new_keys: false, roles: Roles::ALL };
    let started = Instant::now();
    let running = supervisor::start(config, options).await.map_err(|e| failed(&e))?;
    let admin = running.fresh_keys.iter().flatten().find(|(kind, _)| *kind == Kind::Admin);
    let key = admin.map(|(_, key)| key.clone()).ok_or_else(|| Failure::failed("no key was made"))?;
    let client = Client::with(format!("http://{}", running.addr), key)?;
    say(&format!("1. a server on http://{}, its data in {}", running.addr, dir.display()));
    let played = story(&client, &say).await;
    running.stop().await;
    std::fs::remove_dir_all(&dir).map_err(|e| failed(&e))?;
    let (webhooks, early, late) = played?;
    let seconds = started.elapsed().as_secs_f64();
    if format == Format::Json {
        output::json(
            &json!({"offered_at_1h59m59s": early, "offered_at_2h": late, "webhooks_verified": webhooks, "seconds": seconds}),
        );
    } else {
        say(&format!(
            "done in {seconds:.1} s: offered at 1h59m59s, {} at 2h, {webhooks} webhooks, every signature verified",
            if late { "offered" } else { "not offered" }
        ));
    }
    Ok(())
}

async fn story(client: &Client, say: &impl Fn(&str)) -> Result<(usize, bool, bool), Failure> {
    let (port, inbox) = receivers().await?;
    let mut secrets = Vec::new();
    for (name, _) in PROFILES {
        let body = json!({"url": format!("http://127.0.0.1:{port}/{name}"), "profile": name});
        let made = client.expect(Method::PUT, &format!("/v1/endpoints/{name}"), Some(&body)).await?;
        secrets.push(made["secret"].as_str().unwrap_or_default().to_owned());
    }
    say("2. three endpoints: standard, blitzllama, 1flow");
    let survey = json!({
        "name": "Sleep quality", "status": "active", "activate": {"event": "ended_sleep"}, "expires_after": "2h",
        "show_on": [{"trigger": "MainActivity"}], "frequency": {"repeat": "every_activation"},
        "questions": [
            {"question_id": "q1", "type": "rating_star", "text": "How did you sleep?"},
            {"question_id": "q2", "type": "multi_choice", "text": "What woke you?", "options": ["noise", {"value": "light", "text": "The light"}]},
        ],
    });
    client.expect(Method::PUT, "/v1/surveys/sleep-quality", Some(&survey)).await?;
    say("3. a survey: armed by ended_sleep for 2 h, shown on MainActivity");
    let event = |user: &str| json!({"user_id": user, "event_name": "ended_sleep", "properties": {"duration_min": 415}});
    for user in ["ann", "bob"] {
        client.expect(Method::POST, "/v1/events", Some(&event(user))).await?;
    }
    client.expect(Method::POST, "/v1/test/clock", Some(&json!({"advance": "1h59m59s"}))).await?;
    let ask = |user: &'static str| async move {
        client.expect(Method::POST, &format!("/v1/users/{user}/triggers/MainActivity"), Some(&json!({}))).await
    };
    let early = ask("ann").await?;
    let offer = early["survey"]["offer_id"].as_str().unwrap_or_default().to_owned();
    say(&format!("4. at 1h59m59s ann opens the app: {}", early["reason"].as_str().unwrap_or_default()));
    client.expect(Method::POST, "/v1/test/clock", Some(&json!({"advance": "1s"}))).await?;
    let late = ask("bob").await?;
    say(&format!("5. at 2h bob opens the app: {}", late["reason"].as_str().unwrap_or_default()));
    let path = format!("/v1/users/ann/offers/{offer}");
    client.expect(Method::POST, &format!("{path}/displayed"), Some(&json!({}))).await?;
    let answers = json!({"answers": [{"question_id": "q1", "value": 4}, {"question_id": "q2", "value": ["noise", "light"]}], "completed": true});
    client.expect(Method::POST, &format!("{path}/answers"), Some(&answers)).await?;
    say("6. ann answers; the webhooks:");
    let deadline = Instant::now() + Duration::from_secs(20);
    // standard takes response.answered and response.completed, the others the completion.
    while inbox.lock().expect("no panic holds this lock").len() < 4 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = std::mem::take(&mut *inbox.lock().expect("no panic holds this lock"));
    if taken.len() < 4 {
        return Err(Failure::failed(format!("only {} of 4 webhooks came", taken.len())));
    }
    for webhook in &taken {
        let which = PROFILES.iter().position(|(name, _)| webhook.path == format!("/{name}"));
        let which = which.ok_or_else(|| Failure::failed("a webhook came to no known path"))?;
        verify(webhook, PROFILES[which].1, &secrets[which])?;
        say(&format!("   {:<12} verified  {}", webhook.path, String::from_utf8_lossy(&webhook.body)));
    }
    Ok((taken.len(), early["reason"] == "offered", late["reason"] == "offered"))
}

/// Checks the signature of a webhook.
fn verify(webhook: &ReceivedWebhook, profile: Profile, secret: &str) -> Result<(), Failure> {
    let header = |name: &str| webhook.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    let keys = Keys { current: secret.to_owned(), previous: Vec::new() };
    let timestamp = header("webhook-timestamp").parse().unwrap_or(0);
    let about = WebhookAttempt { message_id: header("webhook-id"), attempt: 1, timestamp };
    let expected =
        profile::headers(profile, &keys, about, &webhook.body).map_err(|e| Failure::failed(e.to_string()))?;
    for name in ["webhook-signature", "x-webhook-signature"] {
        let wanted = expected.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v.as_str());
        if header(name) != wanted {
            return Err(Failure::failed(format!("a webhook to {} has a wrong {name}", webhook.path)));
        }
    }
    Ok(())
}

/// Starts a receiver that answers every request with 200; returns its port.
async fn receivers() -> Result<(u16, Inbox), Failure> {
    let listener =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| Failure::unreachable(e.to_string()))?;
    let port = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?.port();
    let inbox: Inbox = Arc::default();
    let shared = inbox.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let inbox = shared.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let inbox = inbox.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                        let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
                        let headers = head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
                        let taken = ReceivedWebhook { path: head.uri.path().to_owned(), headers, body };
                        inbox.lock().expect("no panic holds this lock").push(taken);
                        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from_static(b"{}"))))
                    }
                });
                // An error ends this connection alone: the sender has gone.
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    Ok((port, inbox))
}
