//! What counters and partitions say to each other, and what offers keep of it.

use serde::{Deserialize, Serialize};

use super::definition::{CapEvent, CapKey, CapRule};
use crate::time::Millis;

/// A place that is wanted of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapAsk {
    pub key: CapKey,
    pub rule: CapRule,
}

/// A counter without a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapRefusal {
    /// The bound that is reached.
    pub max: u64,
    /// Places that are counted, or held by offers.
    pub count: u64,
    /// When time alone could free one.
    pub until: Option<Millis>,
    /// Whether all of them are counted: then nothing but time frees one.
    pub is_final: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapAnswer {
    /// The request has a place.
    Granted,
    Refused(CapRefusal),
}

/// What occupies a place of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapPlace {
    /// The request at this offset, which is not decided yet.
    Request(u64),
    /// An offer, up to this time.
    Held(Millis),
}

/// What becomes of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapOutcome {
    Held(Millis),
    /// It was displayed or completed, at this time.
    Counted(Millis),
    Free,
}

/// A change of a counter by a user's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapChange {
    pub key: CapKey,
    pub place: CapPlace,
    pub outcome: CapOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapSignal {
    /// To a counter: the request at an offset wants a place, as of a time; one that only
    /// looks takes none.
    Ask { request: u64, rule: CapRule, at: Millis, looks: bool },
    /// To a counter: what has become of a place.
    Settle { place: CapPlace, outcome: CapOutcome },
    /// To a counter, the answer to `Check`: holds up to this time have lapsed.
    Time { at: Millis },
    /// To the request that has asked.
    Answer { request: u64, answer: CapAnswer },
    /// To a partition whose offers hold places: what time is it there?
    Check,
}

/// A message between a counter and a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapMessage {
    pub key: CapKey,
    pub from: u32,
    pub to: u32,
    pub signal: CapSignal,
}

/// A place that an offer has taken, or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedCap {
    pub key: CapKey,
    pub rule: CapRule,
    pub count: CapEvent,
    /// Nothing once it was counted or given back.
    pub place: Option<CapPlace>,
}

impl PinnedCap {
    /// Whether an offer's place is still its own.
    pub fn holds(&self, now: Millis) -> bool {
        match self.place {
            Some(CapPlace::Held(until)) => now < until,
            Some(CapPlace::Request(_)) => true,
            None => false,
        }
    }
}
