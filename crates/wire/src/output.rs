//! What the engine and the delivery write to topics other than the journal.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::definition::Kind;
use super::profile::standard;
use super::record::Defined;
use askwhen_domain::decision::Decision;
use askwhen_domain::endpoint::EventType;
use askwhen_domain::health::Health;
use askwhen_domain::json::Json;
use askwhen_domain::message::{Data, Delivery};
use askwhen_domain::time::{self, Millis};

/// Header of every output: the same after any crash or replay.
pub const ID_HEADER: &str = "id";
/// Header of every output: `partition/offset/crc` of the record behind it.
pub const SOURCE_HEADER: &str = "source";

/// The journal record behind an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub partition: u32,
    pub offset: u64,
    pub crc: u32,
}

impl Source {
    pub fn encode(&self) -> String {
        format!("{}/{}/{:08x}", self.partition, self.offset, self.crc)
    }

    pub fn parse(text: &[u8]) -> Option<Source> {
        let mut parts = std::str::from_utf8(text).ok()?.split('/');
        let source = Source {
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            crc: u32::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(source)
    }
}

/// Topic `decisions`: the contract's decision, and whose project it is.
pub fn decision(project: &str, decision: &Decision) -> Vec<u8> {
    let body = decision.server_body();
    let project = Json::of(&project);
    format!("{{\"project\":{},{}", project.as_str(), &body.as_str()[1..]).into_bytes()
}

/// Topic `responses`: the body that profile `standard` sends, and what the other
/// profiles want to know besides.
pub fn response(kind: EventType, at: Millis, data: &Data) -> Vec<u8> {
    standard::whole(kind, at, data)
}

/// Topic `deliveries`: a message for an endpoint, or a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryRecord {
    Deliver(Box<Delivery>),
    /// The endpoint's definition from here on; without a body it is gone.
    Endpoint {
        project: String,
        endpoint_id: String,
        version: u64,
        body: Option<Json>,
    },
    /// How an endpoint fares from here on.
    Health {
        project: String,
        endpoint_id: String,
        /// The larger, the newer.
        seq: u64,
        /// Which process found out.
        by: String,
        health: Health,
    },
    /// Everything that waits of this user is cancelled, but for what tells of
    /// an erasure.
    CancelUser {
        project: String,
        user_id: String,
    },
}

/// Topics `deliveries.retry.*`: the delivery itself and when it is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetryRecord {
    pub delivery: Box<Delivery>,
    /// Attempts made so far.
    pub attempt: u32,
    pub due_at: Millis,
    pub first_started_at: Millis,
    /// Header `source` of the delivery's first record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// As in [`AttemptRecord`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Delivered,
    /// An answer that does not count as success.
    BadStatus,
    Timeout,
    ConnectFailed,
    /// The target resolves to, or is, an address that is not allowed.
    BlockedTarget,
    /// TLS could not be agreed on: a certificate that is not trusted, say.
    TlsFailed,
    /// The way out failed, not the receiver.
    ProxyFailed,
    /// The connection broke, or the answer was no HTTP.
    BrokenResponse,
    /// The endpoint is disabled or gone; nothing was sent.
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

/// Where a delivery has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Delivered,
    Dead,
    Cancelled,
}

impl Ended {
    pub fn name(self) -> &'static str {
        match self {
            Ended::Delivered => "delivered",
            Ended::Dead => "dead",
            Ended::Cancelled => "cancelled",
        }
    }
}

/// Topic `attempts`.
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
    /// Of a cancellation: how many attempts there had been.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts_before: u32,
    /// How many of the attempts so far failed on askwhen's own side; the retry
    /// policy does not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u32,
    pub started_at: Millis,
    pub duration_ms: u64,
    pub http_status: Option<u16>,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// The beginning of what the receiver answered.
    pub response: Option<String>,
    pub first_started_at: Millis,
    pub next_due_at: Option<Millis>,
    pub ended: Option<Ended>,
    pub reason: Option<String>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Topic `dead`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadRecord {
    pub delivery: Box<Delivery>,
    pub attempts: u32,
    pub reason: String,
    pub died_at: Millis,
}

/// Topic `rejects`. The raw bytes are base64, because nothing is known of them.
pub fn reject(topic: &str, partition: u32, offset: u64, reason: &str, detail: &str, raw: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::STANDARD.encode(raw);
    json!({"topic": topic, "partition": partition, "offset": offset, "reason": reason, "detail": detail, "raw": raw})
        .to_string()
        .into_bytes()
}

/// Keys of topic `definitions` that begin so say whose log it is; not a
/// definition.
pub const IDENTITY_KEY: &str = "log/";

/// Key of topic `definitions`.
pub fn definition_key(project: &str, kind: Kind, id: &str) -> String {
    format!("{}/{project}/{id}", kind.name())
}

/// Topic `definitions`: the current definition; a tombstone when it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRecord {
    pub kind: Kind,
    pub project: String,
    pub id: String,
    pub version: u64,
    pub body: Json,
    pub updated_at: String,
}

impl DefinitionRecord {
    pub fn of(defined: &Defined, now: Millis) -> Option<DefinitionRecord> {
        Some(DefinitionRecord {
            kind: defined.kind,
            project: defined.project.clone(),
            id: defined.id.clone(),
            version: defined.version,
            body: defined.body.clone()?,
            updated_at: time::format_time(now),
        })
    }
}

/// Any of the above as a record's value.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record serialises")
}
