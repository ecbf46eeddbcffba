//! The HTTP client of verbs that need the server.

use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

use super::context::{Context, Failure, ServerArgs};
use super::moment::Moment;
use crate::bridge::auth::Kind;
use crate::supervisor;

pub struct Client {
    http: reqwest::Client,
    base: String,
    /// Base URL of `/metrics`, which may be on another listener.
    metrics: String,
    key: FoundKey,
}

/// A key, and where it was found.
struct FoundKey {
    key: String,
    source: String,
}

/// Status and body of a response.
pub struct ApiResponse {
    pub status: u16,
    pub body: Value,
    /// A sentence on the server and the key that were used.
    asked: String,
}

/// The base URL of a listener, as seen from its own machine.
fn reached_at(listen: &str) -> String {
    let host = match listen.rsplit_once(':') {
        Some(("0.0.0.0" | "", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    };
    format!("http://{host}")
}

/// The key to use: the one that is given, else the configured one of that project,
/// else the one that the data directory has made.
fn find_key(context: &Context, args: &ServerArgs, kind: Kind) -> Result<FoundKey, Failure> {
    if let Some(key) = args.key() {
        return Ok(FoundKey { key: key.to_owned(), source: "--key or ASKWHEN_KEY".into() });
    }
    let project = args.project.as_str();
    let none = |place: &str| {
        Failure::usage(format!(
            "{place} has no key of project {project} that is sufficient: {} is needed; give --key",
            kind.name()
        ))
    };
    let config = &context.config;
    if !config.keys.is_empty() {
        let mut fits = config.keys.iter().filter(|entry| entry.kind.permits(kind, false) && entry.project == project);
        let mut digests_alone = false;
        let text = fits.find_map(|entry| {
            digests_alone |= entry.text.is_none();
            entry.text.clone()
        });
        let source = "[[keys]] of the configuration".to_owned();
        return match text {
            Some(key) => Ok(FoundKey { key, source }),
            None if digests_alone => Err(Failure::usage(
                "[[keys]] of the configuration holds the SHA-256 of the key alone: give --key or ASKWHEN_KEY",
            )),
            None => Err(none(&source)),
        };
    }
    let path = config.data_dir.join("keys.toml").display().to_string();
    let keys = supervisor::read_keys(&config.data_dir).map_err(|why| {
        Failure::usage(format!("no key: give --key or ASKWHEN_KEY, or run where the server's data is ({why})"))
    })?;
    let found = keys.keys.into_iter().find(|entry| entry.kind.permits(kind, false) && entry.project == project);
    found.map(|entry| FoundKey { key: entry.key, source: path.clone() }).ok_or_else(|| none(&path))
}

impl Client {
    /// Finds server and key: flags and environment first, then the configuration,
    /// then what the data directory holds.
    pub fn new(context: &Context, args: &ServerArgs, kind: Kind) -> Result<Client, Failure> {
        let config = &context.config;
        let public = || reached_at(&config.listen);
        // Routes of operators are on the operators' listener, if there is one.
        let operators = || config.admin_listen.as_deref().map_or_else(public, reached_at);
        let (base, metrics) = match args.server() {
            Some(server) => (server.to_owned(), server.to_owned()),
            None => (if kind == Kind::Admin { operators() } else { public() }, operators()),
        };
        let client = Client::with(base, String::new())?;
        Ok(Client { metrics, key: find_key(context, args, kind)?, ..client })
    }

    pub fn with(base: String, key: String) -> Result<Client, Failure> {
        let fits = url::Url::parse(&base).is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        if !fits {
            return Err(Failure::usage(format!("--server must be a URL such as http://127.0.0.1:8080, not {base}")));
        }
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(75)).build();
        let http = http.map_err(|e| Failure::failed(format!("the HTTP client cannot be set up: {e}")))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Client { http, metrics: base.clone(), base, key: FoundKey { key, source: "the given key".into() } })
    }

    /// The server and the key, for messages.
    pub fn asked(&self) -> String {
        format!("{} was asked with the key of {}", self.base, self.key.source)
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// # Errors
    /// Exit code 4 when the server cannot be reached.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<ApiResponse, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        self.send(request).await
    }

    /// Puts a definition, unless another version than this one is in force.
    ///
    /// # Errors
    /// Exit code 4 when the server cannot be reached.
    pub async fn put_version(&self, path: &str, body: &Value, version: u64) -> Result<ApiResponse, Failure> {
        let request = self.http.put(format!("{}{path}", self.base)).bearer_auth(&self.key.key);
        let request = request.header("if-match", format!("\"{version}\"")).header("content-type", "application/json");
        self.send(request.body(body.to_string())).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<ApiResponse, Failure> {
        let answer = request.send().await.map_err(|error| {
            let base = &self.base;
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), |s| s.to_string());
            Failure::unreachable(format!("{base} cannot be reached ({why}); is the server running? See --server"))
        })?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.map_err(|e| Failure::unreachable(e.to_string()))?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(ApiResponse { status, body, asked: self.asked() })
    }

    /// Sends a body that is JSON already.
    ///
    /// # Errors
    /// Exit code 4 when the server cannot be reached.
    pub async fn post_text(&self, path: &str, body: &str) -> Result<ApiResponse, Failure> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.key.key);
        self.send(request.header("content-type", "application/json").body(body.to_owned())).await
    }

    /// Gets a page that is no JSON.
    ///
    /// # Errors
    /// Exit code 4 when the server cannot be reached.
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        let base = if path == "/metrics" { &self.metrics } else { &self.base };
        let answer = self.http.get(format!("{base}{path}")).bearer_auth(&self.key.key).send().await;
        let text = answer.and_then(reqwest::Response::error_for_status).map(reqwest::Response::text);
        match text {
            Ok(text) => text.await.map_err(|e| Failure::unreachable(e.to_string())),
            Err(error) => Err(Failure::unreachable(error.to_string())),
        }
    }

    /// Sends a request; returns the body of a success, or the problem as a failure.
    pub async fn expect(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.call(method, path, body).await?;
        if (200..300).contains(&answer.status) { Ok(answer.body) } else { Err(Failure::failed(problem(&answer))) }
    }

    /// Gets all rows of a list, page by page.
    pub async fn list(&self, path: &str, member: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.expect(Method::GET, &format!("{path}?limit=200{cursor}"), None).await?;
            all.extend(page[member].as_array().cloned().unwrap_or_default());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", part(next)),
                None => return Ok(all),
            }
        }
    }
}

/// A problem of the server as readable lines.
pub fn problem(answer: &ApiResponse) -> String {
    let text = |name: &str| answer.body.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut lines = format!("{} {}: {}", answer.status, text("code"), text("detail"));
    for fault in answer.body.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let member = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if member("pointer").is_empty() && member("detail") == text("detail") {
            continue;
        }
        lines.push_str(&format!("\n  {} {}", member("pointer"), member("detail")));
    }
    // Often the wrong server or the wrong key was used.
    if matches!(answer.status, 401 | 403 | 404) {
        lines.push_str(&format!("\n  {}", answer.asked));
    }
    lines
}

/// Percent-encodes a segment of a path.
pub fn part(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The query of a span of time, from the options --since and --until.
pub fn span_query(since: Option<Moment>, until: Option<Moment>) -> Vec<String> {
    let given = [("since", since), ("until", until)].into_iter();
    given.filter_map(|(name, moment)| Some(format!("{name}={}", part(&moment?.to_string())))).collect()
}
