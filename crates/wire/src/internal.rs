//! What only askwhen writes to the journal: requests of its operators, what its
//! roles and partitions say to each other. Each such record carries a MAC made
//! with the cluster key.

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

/// The kinds that change or read what is not one user's, or that speak for
/// askwhen itself. Without the MAC they are rejects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Internal {
    /// To the registrar: please make this the definition.
    Define(Define),
    /// From the registrar to every partition: this is the definition now.
    Defined(Defined),
    /// To the registrar: this name was met.
    NameSeen { project: String, trigger: Trigger },
    /// From one partition to another.
    Forward(Forward),
    /// A read of one user: an offer, or a link survey.
    Query(Query),
    /// The user is to be forgotten.
    Erase(Erase),
    /// A name is to become another of a user's.
    Alias(AliasRequest),
    /// From one partition to another: what is to be done about an alias at one of the names.
    AliasStep(AliasStep),
    /// To the registrar: do this with an endpoint.
    #[serde(rename = "operate")]
    EndpointCommand(EndpointCommand),
    /// The health of an endpoint, from the delivery to the registrar, and from there to
    /// every partition.
    #[serde(rename = "fares")]
    EndpointHealthReport(EndpointHealthReport),
    /// A message is to be delivered again, under its own id; the request names the
    /// delivery.
    Redeliver {
        delivery: Box<Delivery>,
        /// When its fact was told first: an erasure since then forbids it.
        told_at: Millis,
        asked_at: Millis,
    },
    /// An endpoint is to be tried.
    Ping { project: String, endpoint_id: String, delivery_id: String, asked_at: Millis },
    /// To the registrar: when keys were used last, for the eye alone.
    KeysUsed(Vec<KeyUse>),
    /// Between the coordinator of a quota and its customers.
    Quota(QuotaMessage),
    /// Between partitions: a survey takes no more responses.
    Closing(ClosingMessage),
    /// Between the counter of a cap and a partition that asks it.
    Cap(CapMessage),
    /// Nothing but the time at which it is appended: somebody waits.
    Tick {},
    /// A test clock is now so many milliseconds ahead of append times.
    Clock { ahead: Millis },
    /// From here on a MAC counts only if it names log and partition: no process
    /// of version 0.1.0 writes to this journal any more.
    BindMacs {},
    /// An operator says that the journal's time was wrong: it goes on from this
    /// record's own.
    AcceptTime(AcceptTime),
    /// An operator takes an earlier record of this partition out of the way.
    Skip(Skip),
    /// An operator accepts that records are gone before state was made of them.
    AcceptLoss(AcceptLoss),
}

/// A survey has ended or was archived: partition 0 counts what was completed.
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
    /// To every partition: how many are completed?
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
    /// The request, which is done once. Empty before 0.2.0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AliasRequest {
    pub project: String,
    pub user_id: String,
    pub alias: String,
    pub asked_at: Millis,
    /// The request, which is done once.
    pub request_id: String,
}

/// Travels from name to name until it is at the one that it is for: an alias passes it on
/// to its user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AliasStep {
    pub project: String,
    /// At this name it is done; its partition owns the record.
    pub at: String,
    pub alias: String,
    #[serde(rename = "do")]
    pub action: AliasAction,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AliasAction {
    /// At the user: the alias is to be linked to whoever that is.
    Find {},
    /// At the alias: it is this user's from now on, who has so many aliases.
    Link { user_id: String, aliases: usize },
    /// At the user that an alias leads to: whether it is the expected one.
    Confirm { user_id: String },
    /// At the user: this is the state of the alias.
    Merge(MergedState),
    /// At the alias: its user is erased for this request.
    Forget(Erase),
    /// At the user: the alias is erased.
    Forgotten(Erase),
}

/// The state of a name that has become an alias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedState {
    /// In base64, as the store would hold it.
    pub state: String,
    /// The partition whose lease has held the grants of its offers, and in which epoch of
    /// each survey's quota.
    pub from: u32,
    pub epochs: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptTime {
    /// By the wall clock, as append times are.
    pub asked_at: Millis,
    pub request_id: String,
}

/// Stands in the journals of all partitions: the others have to know that what
/// `partition` tells them next has another number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptLoss {
    pub topic: String,
    pub partition: u32,
    /// The first that is lost, and one past the last.
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
    /// The canonical form; absent: the definition goes.
    pub body: Option<Json>,
    /// Taken for an endpoint that has no secret yet.
    pub new_secret: Option<SealedSecret>,
    /// Only if the current version is this one.
    pub if_match: Option<u64>,
    /// Only if there is none yet.
    pub create: bool,
    /// Against a copy of an old record: when it was asked, and an id of its own.
    pub asked_at: Millis,
    pub request_id: String,
    /// The name of the key that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointCommand {
    pub project: String,
    pub endpoint_id: String,
    pub act: EndpointAction,
    /// Only if the current version is this one.
    pub if_match: Option<u64>,
    pub asked_at: Millis,
    pub request_id: String,
    /// The name of the key that asked for it.
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
    /// The secret before it signs as well for so long.
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
    /// Which process says so.
    pub by: String,
    #[serde(rename = "told_at")]
    pub reported_at: Millis,
    /// Given by the registrar: the larger, the newer.
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
    /// The name of the key that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

/// To the registrar: these keys were in use, at these minutes.
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
    /// The record itself, and whether it carried a valid MAC.
    pub value: Json,
    pub trusted: bool,
    pub reply_to: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    pub project: String,
    pub user_id: String,
    pub offer_id: Option<String>,
    pub survey_id: Option<String>,
    /// Of the single-use link by which the survey is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_id: Option<String>,
}

/// The value of an internal record; it needs its MAC beside it.
pub fn encode_internal(internal: &Internal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Wrapped<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        internal: &'a Internal,
    }
    serde_json::to_vec(&Wrapped { kind: "internal", internal }).expect("a record serialises")
}
