//! A partition's lease: the grants of a survey's quota that it has.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::time::Millis;

/// Whether the quota of a survey allows another offer, as far as a partition knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStatus {
    Available,
    /// The coordinator has to be asked.
    NeedsGrant,
    Exhausted,
}

/// A change of a lease by a user's record. `until` identifies a hold: the time at which it
/// lapses, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaChange {
    Hold {
        until: Millis,
    },
    Prolong {
        until: Millis,
        to: Millis,
    },
    Release {
        until: Millis,
    },
    /// A response was completed. Without a hold it uses a free grant.
    Complete {
        held: Option<Millis>,
    },
}

/// The grants of a survey's quota that a partition has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaLease {
    pub epoch: u64,
    pub limit: Option<u64>,
    /// Completed responses, including those from before there was a limit.
    pub used: u64,
    /// Free grants, which the next offers may hold.
    pub free: u64,
    /// Grants that are about to be returned to the coordinator.
    pub idle: u64,
    /// How many grants offers hold, by the time at which they lapse.
    pub holds: BTreeMap<Millis, u64>,
    /// Whether unused grants are returned at once, because other partitions need them.
    pub scarce: bool,
    pub refused_until: Millis,
    /// Whether a request to the coordinator is unanswered.
    pub asking: bool,
}

impl QuotaLease {
    /// Grants that are used, or held by an offer.
    pub(super) fn used_or_held(&self) -> u64 {
        self.used + self.holds.values().sum::<u64>()
    }

    /// Takes back the grants of holds that have lapsed; returns whether there were any.
    pub(super) fn expire_holds(&mut self, now: Millis) -> bool {
        let held = self.holds.split_off(&(now + 1));
        let lapsed: u64 = std::mem::replace(&mut self.holds, held).values().sum();
        self.take_back(lapsed);
        lapsed > 0
    }

    /// Takes grants back that were released. Without a limit they are not counted. While
    /// they are scarce they go back to the coordinator, which may have given out more than
    /// the limit allows.
    fn take_back(&mut self, count: u64) {
        match (self.limit, self.scarce) {
            (None, _) => {}
            (Some(_), true) => self.idle += count,
            (Some(_), false) => self.free += count,
        }
    }

    fn lapsed(&self, now: Millis) -> u64 {
        self.holds.range(..=now).map(|(_, count)| count).sum()
    }

    pub(super) fn status(&self, now: Millis) -> QuotaStatus {
        let lapsed = if self.scarce { 0 } else { self.lapsed(now) };
        if self.limit.is_none() || self.free + lapsed > 0 {
            QuotaStatus::Available
        } else if now < self.refused_until && self.lapsed(now) == 0 {
            QuotaStatus::Exhausted
        } else {
            QuotaStatus::NeedsGrant
        }
    }

    /// Removes a hold; returns whether it was there. A hold that has lapsed is not.
    pub(super) fn remove_hold(&mut self, until: Millis) -> bool {
        let Some(count) = self.holds.get_mut(&until) else { return false };
        *count -= 1;
        if *count == 0 {
            self.holds.remove(&until);
        }
        true
    }

    pub(super) fn apply(&mut self, change: QuotaChange) {
        match change {
            QuotaChange::Hold { until } => {
                self.free = self.free.saturating_sub(1);
                *self.holds.entry(until).or_default() += 1;
            }
            QuotaChange::Prolong { until, to } => {
                if self.remove_hold(until) {
                    *self.holds.entry(to).or_default() += 1;
                }
            }
            QuotaChange::Release { until } => {
                if self.remove_hold(until) {
                    self.take_back(1);
                }
            }
            QuotaChange::Complete { held } => {
                self.used += 1;
                if !held.is_some_and(|until| self.remove_hold(until)) {
                    self.free = self.free.saturating_sub(1);
                }
            }
        }
    }
}
