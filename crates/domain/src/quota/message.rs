//! Messages between the coordinator of a quota and the leases of it.

use serde::{Deserialize, Serialize};

/// The partition that keeps the coordinators.
pub const COORDINATOR_PARTITION: u32 = 0;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaSignal {
    /// To the coordinator: how many grants the partition had held or used when the epoch
    /// began.
    Report { out: u64 },
    /// To the coordinator: `want` grants are needed for requests that wait.
    Ask { want: u64 },
    /// To the coordinator: `count` unused grants; `recalled` if they answer a
    /// [`QuotaSignal::Recall`].
    Return { count: u64, recalled: bool },
    /// To the coordinator: `count` grants that offers hold have moved here from partition
    /// `of`, with their user.
    Moved { of: u32, count: u64 },
    /// To the coordinator: how many responses the partition has completed.
    Used { used: u64 },
    /// To a lease: `count` grants. It may `keep` unused ones until they are recalled.
    Grant { count: u64, keep: bool },
    /// To a lease: no grant is left.
    Refuse,
    /// To a lease that was refused: grants are free again.
    AskAgain,
    /// To a lease: return unused grants, now and whenever one becomes free.
    Recall,
}

/// A message between a coordinator and a lease. Each change of the limit begins an epoch;
/// messages of another epoch are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuotaMessage {
    pub project: String,
    pub survey_id: String,
    pub epoch: u64,
    pub from: u32,
    pub to: u32,
    #[serde(rename = "message")]
    pub signal: QuotaSignal,
}

/// A signal of a coordinator or a lease, with the partition for which it is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AddressedSignal {
    pub to: u32,
    pub signal: QuotaSignal,
}
