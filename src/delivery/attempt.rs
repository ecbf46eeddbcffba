//! One attempt: render, sign, send, judge the answer. One deadline covers all
//! of it; no redirect is followed; no more of the answer is read than is kept.

use ipnet::IpNet;
use reqwest::{Client, redirect};
use std::time::{Duration, Instant};

use super::guard::{Blocked, Guard};
use crate::clock::Clock;
use crate::domain::address;
use crate::domain::endpoint::Endpoint;
use crate::domain::message::Delivery;
use crate::domain::time::{Millis, SECOND};
use crate::wire::output::Outcome;
use crate::wire::profile::{self, Keys};

/// Most bytes of an answer that are read.
const MAX_READ_BYTES: usize = 16 << 10;
/// Most bytes of an answer that are kept.
const MAX_KEPT_BYTES: usize = 1 << 10;
/// Largest request.
const MAX_BODY_BYTES: usize = 256 << 10;

/// How an attempt went.
#[derive(Debug, Clone, PartialEq)]
pub struct Went {
    pub started_at: Millis,
    pub ended_at: Millis,
    pub duration_ms: u64,
    pub http_status: Option<u16>,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub response: Option<String>,
    pub retry_after: Option<Millis>,
}

/// Sends; keeps connections to receivers open between attempts.
#[derive(Clone)]
pub struct Sender {
    https: Client,
    plain: Client,
    allowed: Vec<IpNet>,
    clock: Clock,
}

impl Sender {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(allowed: Vec<IpNet>, clock: Clock) -> Result<Sender, reqwest::Error> {
        let client = |plain: bool| {
            Client::builder()
                .dns_resolver(Guard { allowed: allowed.clone(), plain })
                .no_proxy()
                .redirect(redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .connect_timeout(Duration::from_secs(3))
                .pool_max_idle_per_host(32)
                .pool_idle_timeout(Duration::from_secs(60))
                .tcp_nodelay(true)
                .http1_only()
                .user_agent(concat!("askwhen/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        Ok(Sender { https: client(false)?, plain: client(true)?, allowed, clock })
    }

    pub async fn send(&self, delivery: &Delivery, endpoint: &Endpoint, keys: &Keys, attempt: u32) -> Went {
        let started_at = self.clock.now();
        let started = Instant::now();
        let timeout = Duration::from_millis(endpoint.retry.timeout.unsigned_abs());
        let sending = self.exchange(delivery, endpoint, keys, attempt);
        let mut went = match tokio::time::timeout(timeout, sending).await {
            Ok(went) => went,
            Err(_) => failed(Outcome::Timeout, format!("no whole answer within {} ms", timeout.as_millis())),
        };
        went.started_at = started_at;
        went.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        went.ended_at = self.clock.now().max(started_at);
        went
    }

    async fn exchange(&self, delivery: &Delivery, endpoint: &Endpoint, keys: &Keys, attempt: u32) -> Went {
        let url = match address::check_url(&endpoint.url, &self.allowed) {
            Ok(url) => url,
            Err(why) => return failed(Outcome::BlockedTarget, format!("the URL {why}")),
        };
        let body = profile::body(delivery, endpoint);
        if body.len() > MAX_BODY_BYTES {
            return failed(Outcome::NotSent, "the message has more than 256 KiB".into());
        }
        let second = self.clock.wall() / SECOND;
        let about = (delivery.message_id.as_str(), attempt, second);
        let headers = match profile::headers(endpoint.profile, keys, about, &body) {
            Ok(headers) => headers,
            Err(error) => return failed(Outcome::NotSent, error.to_string()),
        };
        let client = if url.scheme() == "https" { &self.https } else { &self.plain };
        let mut request =
            client.post(url).header("content-type", "application/json").header("accept-encoding", "identity");
        for (name, value) in &endpoint.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut answer = match request.body(body).send().await {
            Ok(answer) => answer,
            Err(error) => return self.unanswered(&error),
        };
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| self.wait(v));
        let mut read = Vec::new();
        while read.len() < MAX_READ_BYTES {
            match answer.chunk().await {
                Ok(Some(chunk)) => read.extend_from_slice(&chunk[..chunk.len().min(MAX_READ_BYTES - read.len())]),
                Ok(None) => break,
                Err(error) => return Went { http_status: Some(status), ..self.unanswered(&error) },
            }
        }
        read.truncate(MAX_KEPT_BYTES);
        let taken = endpoint.retry.succeeded(status);
        Went {
            http_status: Some(status),
            response: Some(String::from_utf8_lossy(&read).into_owned()),
            retry_after,
            ..failed(if taken { Outcome::Delivered } else { Outcome::BadStatus }, String::new())
        }
    }

    /// `Retry-After` in seconds or as a date, as a span from now.
    fn wait(&self, text: &str) -> Option<Millis> {
        if let Ok(seconds) = text.trim().parse::<u32>() {
            return Some(i64::from(seconds) * SECOND);
        }
        let at = httpdate::parse_http_date(text.trim()).ok()?;
        let at = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
        Some((Millis::try_from(at).ok()? - self.clock.wall()).max(0))
    }

    fn unanswered(&self, error: &reqwest::Error) -> Went {
        let mut said = Vec::new();
        let mut blocked = false;
        let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
        while let Some(inner) = source {
            blocked |= inner.is::<Blocked>();
            said.push(inner.to_string());
            source = inner.source();
        }
        let outcome = if blocked {
            Outcome::BlockedTarget
        } else if error.is_timeout() {
            Outcome::Timeout
        } else if error.is_connect() {
            Outcome::ConnectFailed
        } else {
            Outcome::BrokenResponse
        };
        failed(outcome, said.pop().unwrap_or_else(|| "the exchange failed".into()))
    }
}

fn failed(outcome: Outcome, error: String) -> Went {
    Went {
        started_at: 0,
        ended_at: 0,
        duration_ms: 0,
        http_status: None,
        outcome,
        error: Some(error).filter(|text| !text.is_empty()),
        response: None,
        retry_after: None,
    }
}
