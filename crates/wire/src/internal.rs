//! Internal records of the journal, which only askwhen writes: requests of operators, and
//! messages between roles and partitions. Each has a MAC made with the cluster key.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::definition::{Kind, Trigger};
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaMessage;
use askwhen_domain::quota::cap::CapMessage;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::{DisabledReason, SealedSecret};
use askwhen_domain::webhook::health::Health;
use askwhen_domain::webhook::message::{ClosedReason, Delivery};

/// An internal record: it changes or reads more than one user, or comes from askwhen
/// itself. Without a valid MAC it becomes a reject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Internal {
    /// To the registrar: a request to create, change or remove a definition.
    Define(Define),
    /// From the registrar to every partition: a definition with its version.
    Defined(Defined),
    /// To the registrar: a name that was met for the first time.
    NameSeen { project: String, trigger: Trigger },
    /// A record from one partition to another.
    Forward(Forward),
    /// A read of one user.
    Query(Query),
    /// A request to erase a user.
    Erase(Erase),
    /// A request to make a name an alias of a user.
    Alias(AliasRequest),
    /// Between partitions: a step of linking or erasing an alias.
    AliasStep(AliasStep),
    /// To the registrar: an operator's action on an endpoint.
    #[serde(rename = "operate")]
    EndpointCommand(EndpointCommand),
    /// The health of an endpoint: from a delivery to the registrar, and from there to every
    /// partition.
    #[serde(rename = "fares")]
    EndpointHealthReport(EndpointHealthReport),
    /// A request to send a message again, under its own id; it names the delivery.
    Redeliver {
        delivery: Box<Delivery>,
        /// When the message was first emitted: an erasure since then forbids it.
        told_at: Millis,
        asked_at: Millis,
    },
    /// A request for a test delivery to an endpoint.
    Ping { project: String, endpoint_id: String, delivery_id: String, asked_at: Millis },
    /// To the registrar: the last uses of keys, for operators only.
    KeysUsed(Vec<KeyUse>),
    /// Between the coordinator of a quota and a lease.
    Quota(QuotaMessage),
    /// Between partitions: a survey takes no more responses.
    Closing(ClosingMessage),
    /// Between the counter of a cap and a partition.
    Cap(CapMessage),
    /// Moves time on, because a request waits for it.
    Tick {},
    /// A test clock is `ahead` milliseconds ahead of append times.
    Clock { ahead: Millis },
    /// From here on only MACs that name log and partition are valid: no process of version
    /// 0.1.0 writes to this journal any more.
    BindMacs {},
    /// An operator accepts the time after a clock was wrong: the journal's time continues
    /// from this record's append time.
    AcceptTime(AcceptTime),
    /// An operator skips an earlier record of this partition.
    Skip(Skip),
    /// An operator accepts that records were lost before they were applied.
    AcceptLoss(AcceptLoss),
}

/// A survey has ended or was archived, and partition 0 counts its completed responses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClosingMessage {
    pub project: String,
    pub survey_id: String,
    pub reason: ClosedReason,
    /// When it closed.
    pub at: Millis,
    pub from: u32,
    pub to: u32,
    pub step: ClosingStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosingStep {
    /// To partition 0: the end has come.
    Noticed,
    /// To every partition: how many responses are completed?
    Count,
    Counted {
        used: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Erase {
    pub project: String,
    pub user_id: String,
    pub asked_at: Millis,
    /// Id of the request, which is handled once. Empty before 0.2.0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AliasRequest {
    pub project: String,
    pub user_id: String,
    pub alias: String,
    pub asked_at: Millis,
    /// Id of the request, which is handled once.
    pub request_id: String,
}

/// A step is forwarded from name to name until it reaches the one that it concerns: an
/// alias forwards it to its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AliasStep {
    pub project: String,
    /// The name that handles it; its partition owns the record.
    pub at: String,
    pub alias: String,
    #[serde(rename = "do")]
    pub action: AliasAction,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AliasAction {
    /// At the user: link the alias.
    Find {},
    /// At the alias: link it to this user, who has so many aliases.
    Link { user_id: String, aliases: usize },
    /// At the user of an alias: check that it is the expected one.
    Confirm {
        user_id: String,
        /// Whether the other one was asked before, and is not this user's.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        turned: bool,
    },
    /// At the user: merge the state of the alias.
    Merge(MergedState),
    /// At the alias: its state has come to another user than it was sent to.
    Redirect { from: String, to: String },
    /// At the alias: erase it, because its user is erased by this request.
    Forget(Erase),
    /// At the user: the alias is erased.
    Forgotten(Erase),
}

/// The state of a name that has become an alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedState {
    /// The state as it is stored, in base64.
    pub state: String,
    /// The partition whose leases held the grants of its offers, and the epoch of each
    /// survey's quota.
    pub from: u32,
    pub epochs: BTreeMap<String, u64>,
    /// The user to whom the state was sent first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// The aliases that have passed the state on since it was sent, or came back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<String>,
    /// How often it has come back to its name, and gone on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returns: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptTime {
    /// By the wall clock, like append times, in milliseconds since the epoch.
    pub asked_at: Millis,
    pub request_id: String,
}

/// It is in the journals of all partitions, because the next forward from `partition` may
/// skip numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptLoss {
    pub topic: String,
    pub partition: u32,
    /// The first lost offset, and one past the last.
    pub from: u64,
    pub to: u64,
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Skip {
    pub offset: u64,
    pub asked_at: Millis,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Define {
    pub project: String,
    pub kind: Kind,
    pub id: String,
    /// The canonical form; `None` removes the definition.
    pub body: Option<Json>,
    /// For an endpoint that has no secret yet.
    pub new_secret: Option<SealedSecret>,
    /// Only if this is the version in force.
    pub if_match: Option<u64>,
    /// Only if the definition does not exist yet.
    pub create: bool,
    /// With the request's id it protects against copies of old records.
    pub asked_at: Millis,
    pub request_id: String,
    /// The name of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointCommand {
    pub project: String,
    pub endpoint_id: String,
    pub act: EndpointAction,
    /// Only if this is the version in force.
    pub if_match: Option<u64>,
    pub asked_at: Millis,
    pub request_id: String,
    /// The name of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointAction {
    Enable,
    Disable {
        reason: DisabledReason,
    },
    /// The earlier secret also signs for `overlap` milliseconds.
    Rotate {
        secret: SealedSecret,
        overlap: Millis,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointHealthReport {
    pub project: String,
    pub endpoint_id: String,
    pub health: Health,
    /// The process that reports it.
    pub by: String,
    #[serde(rename = "told_at")]
    pub reported_at: Millis,
    /// Set by the registrar; a larger one is newer.
    pub seq: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Defined {
    pub project: String,
    pub kind: Kind,
    pub id: String,
    pub version: u64,
    pub changed: bool,
    pub created: bool,
    pub used_new_secret: bool,
    pub body: Option<Json>,
    /// The name of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// To the registrar: the minute of a key's last use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyUse {
    pub project: String,
    pub key_id: String,
    pub last_used_at: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forward {
    pub from: u32,
    pub seq: u64,
    pub key: Option<String>,
    /// The record, and whether it had a valid MAC.
    pub value: Json,
    pub trusted: bool,
    pub reply_to: Option<String>,
    /// For a record that came under an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_on: Option<PassedOn>,
}

/// Where a record came that an alias passes on to its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassedOn {
    /// The name under which it came.
    pub name: String,
    /// When it was first passed on from there, by that partition's time.
    pub at: Millis,
    /// How often it was sent back there, because the name's state was still on its way.
    pub returns: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    pub project: String,
    pub user_id: String,
    pub offer_id: Option<String>,
    pub survey_id: Option<String>,
    /// The single-use link by which the survey is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
}

/// The value of an internal record, to be signed with a MAC.
pub fn encode_internal(internal: &Internal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Wrapped<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        internal: &'a Internal,
    }
    crate::json::encode(&Wrapped { kind: "internal", internal })
}
