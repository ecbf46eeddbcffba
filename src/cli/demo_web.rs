//! `askwhen demo --web`: the story in a browser. A server on a temporary data directory, and a
//! small shop beside it: its page has the widget, its backend tells of orders and receives
//! the webhooks. It runs until it is interrupted.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex};

use super::client::Client;
use super::context::{Failure, Format};
use super::output;
use crate::bridge::auth::Kind;
use crate::config::{self, Overrides};
use crate::supervisor::{self, Options, Roles, Running};
use askwhen_domain::time::SECOND;
use askwhen_process::clock::Clock;
use askwhen_wire::profile::{Verified, verify};

const PAGE: &str = include_str!("shop/shop.html");
const SCRIPT: &str = include_str!("shop/shop.js");
const STYLE: &str = include_str!("shop/shop.css");
const USER: &str = "shopper";
/// Webhooks that the page may still ask for.
const MAX_KEPT: usize = 1_000;

/// The shop's backend.
struct Shop {
    askwhen: Client,
    page: String,
    secret: Mutex<String>,
    received: Mutex<Vec<Value>>,
}

pub async fn run(format: Format, listen: &str) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed(e.to_string());
    let dir = std::env::temp_dir().join(format!("askwhen-demo-{}", std::process::id()));
    let overrides =
        Overrides { data_dir: Some(dir.clone()), listen: Some("127.0.0.1:0".into()), ..Overrides::default() };
    let config = config::load(Some(std::path::Path::new("/dev/null")), [], &overrides).map_err(|e| failed(&e))?;
    let options = Options { test_clock: false, dev: true, new_keys: false, roles: Roles::ALL };
    let running = supervisor::start(config, options).await.map_err(|e| failed(&e))?;
    let served = serve(&running, format, listen).await;
    running.stop().await;
    std::fs::remove_dir_all(&dir).map_err(|e| failed(&e))?;
    served
}

async fn serve(running: &Running, format: Format, listen: &str) -> Result<(), Failure> {
    let key = |kind: Kind| {
        let found = running.fresh_keys.iter().flatten().find(|(known, _)| *known == kind);
        found.map(|(_, key)| key.clone()).ok_or_else(|| Failure::failed("no key was made"))
    };
    let server = format!("http://{}", running.addr);
    let listener = tokio::net::TcpListener::bind(listen).await;
    let listener = listener.map_err(|e| Failure::unreachable(format!("cannot listen on {listen}: {e}")))?;
    let address = listener.local_addr().map_err(|e| Failure::failed(e.to_string()))?;
    let page = PAGE.replace("{{server}}", &server).replace("{{key}}", &key(Kind::Client)?).replace("{{user}}", USER);
    let askwhen = Client::with(server.clone(), key(Kind::Admin)?)?;
    let shop = Arc::new(Shop { askwhen, page, secret: Mutex::default(), received: Mutex::default() });
    define(&shop, &format!("http://{address}/webhook")).await?;
    let url = format!("http://{address}/");
    match format {
        Format::Json => output::json(&json!({ "url": url, "server": server })),
        Format::Text => {
            output::line(&format!("The shop is at {url}, askwhen at {server}. Ctrl-C ends both and leaves nothing."));
        }
    }
    if std::io::stdout().is_terminal() {
        open(&url);
    }
    tokio::select! {
        () = accept(&listener, &shop) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(|e| Failure::failed(e.to_string()))?,
    }
    Ok(())
}

/// Shows an address in the browser of whoever sits here; it is printed, too, so nothing is
/// lost where there is none.
fn open(url: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let quiet = std::process::Stdio::null;
    std::process::Command::new(opener).arg(url).stdout(quiet()).stderr(quiet()).spawn().ok();
}

/// Settings, the survey and the endpoint of the story.
async fn define(shop: &Shop, webhook: &str) -> Result<(), Failure> {
    let put = async |path: &str, body: Value| shop.askwhen.expect(Method::PUT, path, Some(&body)).await;
    // Each order asks again, also in the same tab.
    put("/v1/settings", json!({"global_cooldown": "0s", "max_per_session": 1_000})).await?;
    let survey = json!({
        "name": "After an order", "status": "active", "locale": "en",
        "activate": {"event": "order_paid"}, "expires_after": "1h",
        "show_on": [{"trigger": "Thanks"}], "frequency": {"repeat": "every_activation"},
        "questions": [
            {"question_id": "score", "type": "nps", "text": "How likely are you to recommend this shop?",
             "labels": {"low": "Not at all", "high": "Very"},
             "next": [{"when": {"op": "lte", "value": 6}, "goto": "why"}, {"goto": "more"}]},
            {"question_id": "why", "type": "single_choice", "text": "What was it?", "shuffle": true,
             "options": [{"value": "price", "text": "The price"}, {"value": "choice", "text": "The choice"}],
             "other": {"text": "Something else"}},
            {"question_id": "more", "type": "text", "text": "Anything else?", "required": false}],
        "translations": {"de": {
            "name": "Nach einer Bestellung",
            "questions": {
                "score": {"text": "Wie wahrscheinlich empfehlen Sie diesen Laden weiter?",
                          "labels": {"low": "Gar nicht", "high": "Sehr"}},
                "why": {"text": "Woran lag es?", "options": {"price": "Am Preis", "choice": "An der Auswahl"},
                        "other": {"text": "Etwas anderes"}},
                "more": {"text": "Noch etwas?"}},
            "ui": {"labels": {"next": "Weiter", "back": "Zurück", "submit": "Senden", "close": "Schließen",
                              "required": "Bitte beantworten Sie diese Frage"},
                   "thank_you": {"text": "Danke"}}}},
        "ui": {"thank_you": {"text": "Thank you"}},
    });
    put("/v1/surveys/after-order", survey).await?;
    let endpoint = put("/v1/endpoints/shop", json!({ "url": webhook })).await?;
    *shop.secret.lock().expect("no panic holds this lock") = endpoint["secret"].as_str().unwrap_or_default().to_owned();
    Ok(())
}

async fn accept(listener: &tokio::net::TcpListener, shop: &Arc<Shop>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Too many files are open, perhaps; it passes.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let shop = shop.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<Incoming>| {
                let shop = shop.clone();
                async move { Ok::<_, Infallible>(shop.answer(request).await) }
            });
            // An error ends this connection alone: the browser has gone.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

impl Shop {
    async fn answer(&self, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/") => page(StatusCode::OK, "text/html; charset=utf-8", self.page.clone()),
            (&Method::GET, "/shop.js") => page(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            (&Method::GET, "/shop.css") => page(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            (&Method::GET, "/webhooks") => {
                let after = head.uri.query().and_then(|query| query.strip_prefix("after=")?.parse().ok()).unwrap_or(0);
                page(StatusCode::OK, "application/json", self.after(after))
            }
            (&Method::POST, "/buy") => self.buy().await,
            (&Method::POST, "/webhook") => {
                let body = http_body_util::Limited::new(body, 1 << 20).collect().await;
                match body {
                    Ok(body) => self.receive(&head.headers, &body.to_bytes()),
                    Err(_) => page(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "too large"),
                }
            }
            _ => page(StatusCode::NOT_FOUND, "text/plain", "there is nothing here"),
        }
    }

    async fn buy(&self) -> Response<Full<Bytes>> {
        let event =
            json!({"user_id": USER, "event_name": "order_paid", "properties": {"item": "pillow", "amount": 34}});
        match self.askwhen.expect(Method::POST, "/v1/events", Some(&event)).await {
            Ok(_) => page(StatusCode::OK, "application/json", "{}"),
            Err(failure) => page(StatusCode::BAD_GATEWAY, "text/plain", failure.text),
        }
    }

    fn receive(&self, headers: &http::HeaderMap, body: &[u8]) -> Response<Full<Bytes>> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let now = Clock::new().wall() / SECOND;
        let secret = self.secret.lock().expect("no panic holds this lock").clone();
        let verified = verify(&secret, header, body, now) == Verified::Yes;
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let webhook = json!({"type": body["type"], "verified": verified, "body": body["data"]});
        let mut received = self.received.lock().expect("no panic holds this lock");
        if received.len() < MAX_KEPT {
            received.push(webhook);
        }
        page(StatusCode::OK, "application/json", "{}")
    }

    fn after(&self, count: usize) -> String {
        let received = self.received.lock().expect("no panic holds this lock");
        json!(received.get(count..).unwrap_or_default()).to_string()
    }
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
