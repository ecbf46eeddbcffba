//! Messages between counters and partitions, and the places that offers hold.

use serde::{Deserialize, Serialize};

use super::definition::{CapEvent, CapKey, CapRule};
use crate::time::Millis;

/// A request for a place of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapAsk {
    pub key: CapKey,
    pub rule: CapRule,
}

/// The answer of a counter that is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapRefusal {
    /// The cap's `max`.
    pub max: u64,
    /// Places that are counted, or held by offers.
    pub count: u64,
    /// When time alone could free a place.
    pub until: Option<Millis>,
    /// Whether all places are counted, so that only time frees one.
    pub is_final: bool,
    /// When time alone makes `count` smaller, if that is before `until`: more is counted than
    /// a `max` that was lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_until: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapAnswer {
    /// The request has taken a place.
    Granted,
    Refused(CapRefusal),
}

/// What occupies a place of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapPlace {
    /// The request at this offset, which is not decided yet.
    Request(u64),
    /// An offer that lapses at this time.
    Held(Millis),
}

/// What became of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapOutcome {
    Held(Millis),
    /// It was displayed or completed at this time.
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
    /// To a counter: the request at an offset of the sender's journal wants a place, as of
    /// `at`; with `looks` it takes none.
    Ask { request: u64, rule: CapRule, at: Millis, looks: bool },
    /// To a counter: what became of a place.
    Settle { place: CapPlace, outcome: CapOutcome },
    /// To a counter, in answer to [`CapSignal::Check`]: holds that end by this time have
    /// lapsed.
    Time { at: Millis },
    /// To the partition of the request at this offset.
    Answer { request: u64, answer: CapAnswer },
    /// To a partition whose offers hold places: report its time.
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

/// A place that an offer has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedCap {
    pub key: CapKey,
    pub rule: CapRule,
    pub count: CapEvent,
    /// `None` once it was counted or released.
    pub place: Option<CapPlace>,
}

impl PinnedCap {
    /// Whether the offer still holds the place.
    pub fn holds(&self, now: Millis) -> bool {
        match self.place {
            Some(CapPlace::Held(until)) => now < until,
            Some(CapPlace::Request(_)) => true,
            None => false,
        }
    }
}
