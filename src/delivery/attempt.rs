//! One attempt: the body is rendered, signed and sent, and the response leads to an
//! outcome. One deadline covers all of it. Redirects are not followed, and of a response
//! only a bounded part is read.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use std::time::{Duration, Instant};

use super::connect::Clients;
use super::endpoints::OpenedEndpoint;
use super::fault::{Fault, root_cause};
use super::hold::HoldReason;
use super::resolver::ResolverError;
use super::time::MonotoneClock;
use askwhen_domain::time::{Millis, SECOND};
use askwhen_domain::webhook::address;
use askwhen_domain::webhook::message::Delivery;
use askwhen_wire::profile::{self, Keys, REQUEST_HEADERS, WebhookAttempt};
use askwhen_wire::topics::{Outcome, SignedRequest};

pub use super::connect::Egress;

/// How many bytes of a response are read at most.
const MAX_READ_BYTES: usize = 16 << 10;
/// How many bytes of a response are recorded at most.
const MAX_KEPT_BYTES: usize = 1 << 10;
/// The largest body of a request, beyond all that a delivery can hold: a definition comes
/// in a body of 1 MiB, and answers, attributes and properties have far smaller bounds.
const MAX_BODY_BYTES: usize = 4 << 20;
/// The response header by which a receiver asks for no more webhooks.
const DISABLE_HEADER: &str = "webhook-delivery";

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptResult {
    pub started_at: Millis,
    pub ended_at: Millis,
    pub duration_ms: u64,
    pub http_status: Option<u16>,
    pub outcome: Outcome,
    pub error: Option<String>,
    pub response: Option<String>,
    pub retry_after: Option<Millis>,
    /// Whether the receiver asks for no more webhooks.
    pub disable: bool,
    /// The fault of this process, if that is why the receiver was never called.
    pub own_fault: Option<HoldReason>,
    /// How the request was signed; `None` when there was none to send.
    pub signed: Option<SignedRequest>,
    /// Version of the endpoint's definition.
    pub version: u64,
}

/// Makes attempts. It keeps connections to receivers open between them.
#[derive(Clone)]
pub struct Sender {
    clients: Clients,
    time: MonotoneClock,
}

impl Sender {
    /// # Errors
    /// When TLS or the resolver cannot be set up.
    pub fn new(egress: Egress, time: MonotoneClock) -> Result<Sender, ResolverError> {
        Ok(Sender { clients: Clients::new(egress)?, time })
    }

    /// Connections to receivers, in use or idle.
    pub fn connections(&self) -> usize {
        self.clients.connections()
    }

    pub async fn send(
        &self,
        delivery: &Delivery,
        defined: &OpenedEndpoint,
        keys: &Keys,
        attempt: u32,
    ) -> AttemptResult {
        let started_at = self.time.now();
        let started = Instant::now();
        let timeout = Duration::from_millis(defined.endpoint.retry.timeout.unsigned_abs());
        let mut result = match self.request(delivery, defined, keys, attempt) {
            Ok((request, signed)) => {
                let sent = match tokio::time::timeout(timeout, self.exchange(request, defined)).await {
                    Ok(result) => result,
                    Err(_) => failed(Outcome::Timeout, format!("no whole answer within {} ms", timeout.as_millis())),
                };
                AttemptResult { signed: Some(signed), ..sent }
            }
            Err(result) => *result,
        };
        result.started_at = started_at;
        result.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        result.ended_at = self.time.now().max(started_at);
        result.version = defined.version;
        result
    }

    /// The result of an attempt that panicked.
    pub fn panicked(&self) -> AttemptResult {
        let now = self.time.now();
        let result = failed(Outcome::NotSent, "the attempt has failed inside askwhen; see its log".into());
        AttemptResult { started_at: now, ended_at: now, ..result }
    }

    /// The request, and how it is signed; or the result of an attempt that has none.
    fn request(
        &self,
        delivery: &Delivery,
        defined: &OpenedEndpoint,
        keys: &Keys,
        attempt: u32,
    ) -> Result<(Request<Full<Bytes>>, SignedRequest), Box<AttemptResult>> {
        let refused = |outcome, why| Err(Box::new(failed(outcome, why)));
        let endpoint = &defined.endpoint;
        let url = match address::check_url(&endpoint.url, self.clients.allowed()) {
            Ok(url) => url,
            Err(why) => return refused(Outcome::BlockedTarget, format!("the URL {why}")),
        };
        let body = profile::body(delivery, endpoint, self.clients.console_url());
        if body.len() > MAX_BODY_BYTES {
            return refused(Outcome::NotSent, "the message has more than 4 MiB".into());
        }
        let about = WebhookAttempt { message_id: &delivery.message_id, attempt, timestamp: self.time.wall() / SECOND };
        let headers = match profile::headers(endpoint.profile, keys, about, &body) {
            Ok(headers) => headers,
            Err(error) => return refused(Outcome::NotSent, error.to_string()),
        };
        let signed = SignedRequest::of(&headers, &body);
        let mut request = Request::post(url.as_str());
        for (name, value) in &defined.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in REQUEST_HEADERS.iter().filter(|(name, _)| !defined.headers.contains_key(*name)) {
            request = request.header(*name, *value);
        }
        match request.body(Full::new(Bytes::from(body))) {
            Ok(request) => Ok((request, signed)),
            Err(error) => refused(Outcome::NotSent, error.to_string()),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, defined: &OpenedEndpoint) -> AttemptResult {
        match self.clients.send(defined, request).await {
            Ok(response) => self.result_of(response, defined).await,
            Err(fault) => unanswered(&fault),
        }
    }

    async fn result_of(&self, response: Response<Incoming>, defined: &OpenedEndpoint) -> AttemptResult {
        let (head, mut body) = response.into_parts();
        let status = head.status.as_u16();
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let mut result = AttemptResult {
            http_status: Some(status),
            retry_after: text("retry-after").and_then(|value| self.wait(value)),
            disable: text(DISABLE_HEADER).is_some_and(|value| value.trim().eq_ignore_ascii_case("disable")),
            ..failed(Outcome::BadStatus, String::new())
        };
        let mut read = Vec::new();
        while read.len() < MAX_READ_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    read.extend_from_slice(&chunk[..chunk.len().min(MAX_READ_BYTES - read.len())]);
                }
                None => break,
                Some(Err(error)) => {
                    let error = Some(root_cause(&error));
                    return AttemptResult { outcome: Outcome::BrokenResponse, error, ..result };
                }
            }
        }
        read.truncate(MAX_KEPT_BYTES);
        result.response = Some(String::from_utf8_lossy(&read).into_owned());
        if let Some(coding) = coding(&head.headers) {
            result.response = Some(format!("({coding}, not decoded)"));
        }
        if defined.endpoint.retry.succeeded(status) {
            result.outcome = Outcome::Delivered;
        }
        result
    }

    /// Reads `Retry-After`, in seconds or as a date, as a span from now in milliseconds.
    fn wait(&self, text: &str) -> Option<Millis> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // A number that is too large for the type is the longest wait.
            let seconds = text.parse::<u32>().unwrap_or(u32::MAX);
            return Some(i64::from(seconds) * SECOND);
        }
        let at = httpdate::parse_http_date(text).ok()?;
        let at = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
        Some((Millis::try_from(at).ok()? - self.time.wall()).max(0))
    }
}

/// The content coding of a response. None was asked for, so coded bytes are not recorded.
fn coding(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(http::header::CONTENT_ENCODING)?.to_str().ok()?;
    (!value.eq_ignore_ascii_case("identity")).then(|| value.chars().take(32).collect())
}

fn unanswered(fault: &Fault) -> AttemptResult {
    let kind = fault.kind();
    AttemptResult { own_fault: kind.hold_reason(), ..failed(kind.outcome(), fault.to_string()) }
}

fn failed(outcome: Outcome, error: String) -> AttemptResult {
    AttemptResult {
        started_at: 0,
        ended_at: 0,
        duration_ms: 0,
        http_status: None,
        outcome,
        error: Some(error).filter(|text| !text.is_empty()),
        response: None,
        retry_after: None,
        disable: false,
        own_fault: None,
        signed: None,
        version: 0,
    }
}
