//! `plan.json` of a replay: of which log and rules its state is, and where each partition
//! began.

use serde::{Deserialize, Serialize};

/// Format of a replay's folder. Plans of version 0.1.0 do not name it: theirs is 1.
pub(super) const FORMAT: u32 = 1;

/// The log and the rules of a replay. Members may be added within a format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplayPlan {
    #[serde(default = "first_format")]
    pub(super) format: u32,
    /// The version of askwhen that began the replay.
    #[serde(default)]
    pub(super) program: String,
    pub(super) id: String,
    /// Identity of the log whose journal is replayed, in hex.
    pub(super) incarnation: String,
    pub(super) partitions: u32,
    /// Version of the rules by which its engine decides.
    pub(super) logic_version: u32,
    /// RFC 3339.
    pub(super) begun_at: String,
    /// By partition.
    pub(super) begins: Vec<ReplayStart>,
}

/// The members of a plan that every version can read.
#[derive(Deserialize)]
pub(super) struct AnyVersionPlan {
    #[serde(default = "first_format")]
    pub(super) format: u32,
    #[serde(default)]
    pub(super) program: String,
}

fn first_format() -> u32 {
    1
}

/// Where the replay of a partition began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ReplayStart {
    /// The first record that is applied.
    pub(super) offset: u64,
    /// Name of the snapshot that the state was taken from; `None` when it was empty.
    pub(super) snapshot: Option<String>,
}
