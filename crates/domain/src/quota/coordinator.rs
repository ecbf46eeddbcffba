//! The coordinator: it knows the grants of a survey's quota in all partitions.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{AddressedSignal, COORDINATOR_PARTITION, QuotaSignal};
use crate::time::{Millis, SECOND};

/// This many grants are kept back and given out one by one at the end, so that none lies
/// unused in a partition without requests.
const RESERVE: u64 = 64;
/// How often partitions that have returned all unused grants are asked for them again, in
/// milliseconds.
const RECALL_EVERY: Millis = 5 * SECOND;

/// The grants of a survey's quota in all partitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaCoordinator {
    pub epoch: u64,
    pub limit: u64,
    /// By partition, the grants that it has, including used ones; `None` until it has
    /// reported them.
    pub out: Vec<Option<u64>>,
    /// Partitions that return unused grants at once.
    scarce: BTreeSet<u32>,
    /// Partitions that have not answered a recall yet.
    recalling: BTreeSet<u32>,
    recalled_at: Millis,
    /// Partitions that asked for grants, with the number that each wants, in the order of
    /// asking.
    waiting: VecDeque<(u32, u64)>,
    refused: BTreeSet<u32>,
    /// Grants that were moved away from partitions that have not reported yet.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    moved: BTreeMap<u32, u64>,
    /// By partition, its completed responses; only where someone wants to know when all are
    /// used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    used: BTreeMap<u32, u64>,
    /// Whether that has been reported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_full: bool,
}

impl QuotaCoordinator {
    /// The coordinator of a new epoch, before any partition has reported.
    pub(super) fn open(epoch: u64, limit: u64, partitions: u32) -> QuotaCoordinator {
        // Earlier than any time of a log.
        let recalled_at = Millis::MIN / 2;
        let scarce = (0..partitions).collect();
        QuotaCoordinator {
            epoch,
            limit,
            out: vec![None; partitions as usize],
            scarce,
            recalled_at,
            ..QuotaCoordinator::default()
        }
    }

    /// A coordinator that knows the grants `out` of every partition, `used` of which are used
    /// in the coordinator's own.
    pub(super) fn reported(epoch: u64, limit: u64, out: Vec<u64>, used: u64) -> QuotaCoordinator {
        let opened = QuotaCoordinator::open(epoch, limit, out.len() as u32);
        QuotaCoordinator {
            out: out.into_iter().map(Some).collect(),
            used: BTreeMap::from([(COORDINATOR_PARTITION, used)]),
            is_full: used >= limit,
            ..opened
        }
    }

    /// Grants that no partition has.
    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.out.iter().flatten().sum())
    }

    /// Whether a request of this partition would be granted; `None` when that depends on
    /// unused grants in other partitions.
    pub fn would_grant(&self, asking: u32) -> Option<bool> {
        let unused = |(of, out): (u32, &Option<u64>)| {
            of != asking && !self.scarce.contains(&of) && out.is_some_and(|out| out > 0)
        };
        match self.free() {
            0 if (0..).zip(&self.out).any(unused) => None,
            free => Some(free > 0),
        }
    }

    /// How many grants a partition gets at a time while there are many.
    fn batch_size(&self) -> u64 {
        self.free().saturating_sub(RESERVE) / (2 * self.out.len() as u64)
    }

    /// Gives grants to a partition.
    fn grant(&mut self, to: u32, count: u64, keep: bool, signals: &mut Vec<AddressedSignal>) {
        if let Some(out) = &mut self.out[to as usize] {
            *out += count;
        }
        if keep {
            self.scarce.remove(&to);
        }
        self.refused.remove(&to);
        signals.push(AddressedSignal { to, signal: QuotaSignal::Grant { count, keep } });
    }

    /// Applies a signal of a lease; returns the signals that follow from it.
    pub(super) fn receive(&mut self, from: u32, signal: &QuotaSignal, now: Millis) -> Vec<AddressedSignal> {
        let mut signals = Vec::new();
        match *signal {
            QuotaSignal::Report { out } => {
                let moved = self.moved.remove(&from).unwrap_or(0);
                self.out[from as usize] = Some(out.saturating_sub(moved));
                if self.out.iter().all(Option::is_some) {
                    let count = self.batch_size();
                    for to in (0..self.out.len() as u32).filter(|_| count > 0) {
                        self.grant(to, count, true, &mut signals);
                    }
                }
            }
            QuotaSignal::Ask { want } => self.waiting.push_back((from, want)),
            QuotaSignal::Return { count, recalled } => {
                if let Some(out) = &mut self.out[from as usize] {
                    *out = out.saturating_sub(count);
                }
                if recalled {
                    self.recalling.remove(&from);
                    self.scarce.insert(from);
                }
            }
            QuotaSignal::Moved { of, count } => {
                if let Some(out) = &mut self.out[from as usize] {
                    *out += count;
                }
                match self.out.get_mut(of as usize) {
                    Some(Some(out)) => *out = out.saturating_sub(count),
                    _ => *self.moved.entry(of).or_default() += count,
                }
            }
            QuotaSignal::Used { used } => drop(self.used.insert(from, used)),
            QuotaSignal::Grant { .. } | QuotaSignal::Refuse | QuotaSignal::AskAgain | QuotaSignal::Recall => {}
        }
        self.serve_waiting(now, &mut signals);
        signals
    }

    /// The number of completed responses, at the moment when it reaches the limit.
    pub(super) fn newly_exhausted(&mut self) -> Option<u64> {
        let used = self.used.values().sum();
        let is_news = used >= self.limit && !std::mem::replace(&mut self.is_full, used >= self.limit);
        is_news.then_some(used)
    }

    /// Gives grants to partitions that wait, in the order of asking.
    fn serve_waiting(&mut self, now: Millis, signals: &mut Vec<AddressedSignal>) {
        if self.out.iter().any(Option::is_none) {
            return;
        }
        while let Some((from, want)) = self.waiting.front().copied() {
            let free = self.free();
            if free > 0 {
                let keep = free > RESERVE;
                let count = if keep { want.max(self.batch_size()).min(free - RESERVE) } else { want.min(free) };
                self.grant(from, count, keep, signals);
            } else if !self.recalling.is_empty() || self.recall(from, now, signals) {
                return;
            } else {
                self.refused.insert(from);
                signals.push(AddressedSignal { to: from, signal: QuotaSignal::Refuse });
            }
            self.waiting.pop_front();
        }
        if self.free() > 0 {
            let refused = std::mem::take(&mut self.refused).into_iter();
            signals.extend(refused.map(|to| AddressedSignal { to, signal: QuotaSignal::AskAgain }));
        }
    }

    /// Recalls unused grants of other partitions; returns whether an answer is to be waited
    /// for.
    fn recall(&mut self, asking: u32, now: Millis, signals: &mut Vec<AddressedSignal>) -> bool {
        let again = now >= self.recalled_at.saturating_add(RECALL_EVERY);
        for (to, out) in (0..).zip(&self.out) {
            let may_have = out.is_some_and(|out| out > 0) && to != asking;
            if may_have && (again || !self.scarce.contains(&to)) {
                self.recalling.insert(to);
                signals.push(AddressedSignal { to, signal: QuotaSignal::Recall });
            }
        }
        if self.recalling.is_empty() {
            return false;
        }
        self.recalled_at = now;
        true
    }
}
