//! Topic `attempts`: the outcome of each attempt at a delivery, and its end.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

use super::left_out::is_zero;
use askwhen_domain::time::Millis;

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Delivered,
    /// A response whose status does not count as success.
    BadStatus,
    Timeout,
    ConnectFailed,
    /// The target is, or resolves to, an address that is not allowed.
    BlockedTarget,
    /// TLS could not be established, for instance because of an untrusted certificate.
    TlsFailed,
    /// The proxy failed, not the receiver.
    ProxyFailed,
    /// The connection broke, or the response was not HTTP.
    BrokenResponse,
    /// Nothing was sent, because the endpoint is disabled or gone.
    NotSent,
}

impl Outcome {
    pub const ALL: [Outcome; 9] = [
        Outcome::Delivered,
        Outcome::BadStatus,
        Outcome::Timeout,
        Outcome::ConnectFailed,
        Outcome::BlockedTarget,
        Outcome::TlsFailed,
        Outcome::ProxyFailed,
        Outcome::BrokenResponse,
        Outcome::NotSent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::BadStatus => "bad_status",
            Outcome::Timeout => "timeout",
            Outcome::ConnectFailed => "connect_failed",
            Outcome::BlockedTarget => "blocked_target",
            Outcome::TlsFailed => "tls_failed",
            Outcome::ProxyFailed => "proxy_failed",
            Outcome::BrokenResponse => "broken_response",
            Outcome::NotSent => "not_sent",
        }
    }
}

/// How a delivery has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    Delivered,
    Dead,
    Cancelled,
}

impl AttemptEnd {
    pub fn name(self) -> &'static str {
        match self {
            AttemptEnd::Delivered => "delivered",
            AttemptEnd::Dead => "dead",
            AttemptEnd::Cancelled => "cancelled",
        }
    }
}

/// How a request was signed. With the body of its delivery and the endpoint's own headers
/// it is the whole request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRequest {
    /// The headers of the profile, by name.
    pub headers: BTreeMap<String, String>,
    /// SHA-256 of the body in hex, to find out whether the endpoint's definition still
    /// renders the same.
    pub body_sha256: String,
}

impl SignedRequest {
    pub fn of(headers: &[(&'static str, String)], body: &[u8]) -> SignedRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        SignedRequest { headers, body_sha256: SignedRequest::sha256(body) }
    }

    pub fn sha256(body: &[u8]) -> String {
        hex::encode(Sha256::digest(body))
    }
}

/// An attempt, or the end of a delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub delivery_id: String,
    pub message_id: String,
    pub endpoint_id: String,
    pub project: String,
    pub user_id: String,
    pub survey_id: Option<String>,
    /// 1 for the first; 0 when nothing was sent.
    pub attempt: u32,
    /// For a cancellation: the attempts before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// Attempts so far that failed by a fault of askwhen; the retry policy does not count
    /// them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
    pub started_at: Millis,
    pub duration_ms: u64,
    pub http_status: Option<u16>,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// The first bytes of the response.
    pub response: Option<String>,
    pub first_started_at: Millis,
    pub next_due_at: Option<Millis>,
    pub ended: Option<AttemptEnd>,
    pub reason: Option<String>,
    /// `None` when nothing was signed, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedRequest>,
}
