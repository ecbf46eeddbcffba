//! `limits.max_completed`: at most that many completions of a survey over all partitions,
//! and all of them while users answer. An offer of such a survey holds a grant until it is
//! completed, dismissed or lapses. Partition 0 keeps the coordinator, and every partition a
//! lease. Their messages travel through the journals, in order between any two partitions.
//! Nothing here reads a clock.

pub mod cap;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::refs::SurveyKey;
use crate::time::{Millis, SECOND};

/// The partition of the coordinators.
pub const COORDINATOR_PARTITION: u32 = 0;
/// The last grants are given one by one, so that none is unused in a partition without
/// requests.
const RESERVE: u64 = 64;
/// How long a refusal counts. Then the coordinator is asked again, because an offer may
/// have lapsed in a partition that got no record since.
const REFUSAL_LIFE: Millis = 5 * SECOND;
/// How often partitions that have returned everything are asked again.
const RECALL_EVERY: Millis = REFUSAL_LIFE;

/// Whether a survey can be offered once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStatus {
    Available,
    /// Only the coordinator knows.
    NeedsGrant,
    Exhausted,
}

/// A change of the lease by a record. `until` is the time at which the hold lapses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
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
    /// A completion. Without a hold it uses a free grant.
    Complete {
        held: Option<Millis>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaSignal {
    /// To the coordinator: how many grants the partition has held or used as the epoch
    /// begins.
    Report { out: u64 },
    /// To the coordinator: requests wait for this many grants.
    Ask { want: u64 },
    /// To the coordinator: grants that are not used; `recalled` answers a recall.
    Return { count: u64, recalled: bool },
    /// To the coordinator: grants that offers hold came here from another partition, with
    /// their user.
    Moved { of: u32, count: u64 },
    /// To the coordinator: how many responses the partition has completed.
    Used { used: u64 },
    /// To a lease, which may `keep` unused grants until they are recalled.
    Grant { count: u64, keep: bool },
    /// To a lease: no grant is left.
    Refuse,
    /// To a refused lease: grants are free again.
    AskAgain,
    /// To a lease: return unused grants, and from now on every grant that becomes free.
    Recall,
}

/// A message between coordinator and lease. Each change of the limit begins an epoch, and
/// messages of another epoch are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuotaMessage {
    pub project: String,
    pub survey_id: String,
    pub epoch: u64,
    pub from: u32,
    pub to: u32,
    pub message: QuotaSignal,
}

/// The share of a survey's quota that a partition has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaLease {
    pub epoch: u64,
    pub limit: Option<u64>,
    /// All completions, also those from before there was a limit.
    pub used: u64,
    /// Grants that the next offers may hold.
    pub free: u64,
    /// Grants to be returned to the coordinator.
    pub idle: u64,
    /// Numbers of grants that offers hold, by the time at which they lapse.
    pub holds: BTreeMap<Millis, u64>,
    /// Whether unused grants are returned at once.
    pub scarce: bool,
    pub refused_until: Millis,
    /// Whether the coordinator has been asked and has not answered.
    pub asking: bool,
}

impl QuotaLease {
    /// Grants that are used or held by an offer.
    fn out(&self) -> u64 {
        self.used + self.holds.values().sum::<u64>()
    }

    fn sweep(&mut self, now: Millis) -> bool {
        let held = self.holds.split_off(&(now + 1));
        let lapsed: u64 = std::mem::replace(&mut self.holds, held).values().sum();
        self.gain(lapsed);
        lapsed > 0
    }

    /// Takes grants back that became free. Without a limit they mean nothing. Where they are
    /// scarce they go to the coordinator, because more may be out than the limit allows.
    fn gain(&mut self, count: u64) {
        match (self.limit, self.scarce) {
            (None, _) => {}
            (Some(_), true) => self.idle += count,
            (Some(_), false) => self.free += count,
        }
    }

    fn lapsed(&self, now: Millis) -> u64 {
        self.holds.range(..=now).map(|(_, count)| count).sum()
    }

    fn status(&self, now: Millis) -> QuotaStatus {
        let lapsed = if self.scarce { 0 } else { self.lapsed(now) };
        if self.limit.is_none() || self.free + lapsed > 0 {
            QuotaStatus::Available
        } else if now < self.refused_until && self.lapsed(now) == 0 {
            QuotaStatus::Exhausted
        } else {
            QuotaStatus::NeedsGrant
        }
    }

    /// Removes a hold; gives whether it was there. A lapsed one is gone.
    fn drop_hold(&mut self, until: Millis) -> bool {
        let Some(count) = self.holds.get_mut(&until) else { return false };
        *count -= 1;
        if *count == 0 {
            self.holds.remove(&until);
        }
        true
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Hold { until } => {
                self.free = self.free.saturating_sub(1);
                *self.holds.entry(until).or_default() += 1;
            }
            Change::Prolong { until, to } => {
                if self.drop_hold(until) {
                    *self.holds.entry(to).or_default() += 1;
                }
            }
            Change::Release { until } => {
                if self.drop_hold(until) {
                    self.gain(1);
                }
            }
            Change::Complete { held } => {
                self.used += 1;
                if !held.is_some_and(|until| self.drop_hold(until)) {
                    self.free = self.free.saturating_sub(1);
                }
            }
        }
    }
}

/// The grants of a survey in all partitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaCoordinator {
    pub epoch: u64,
    pub limit: u64,
    /// Grants of each partition, used ones included; `None` before its report.
    pub out: Vec<Option<u64>>,
    /// Partitions that return unused grants at once.
    scarce: BTreeSet<u32>,
    /// Partitions that were asked to return grants and have not answered.
    recalling: BTreeSet<u32>,
    recalled_at: Millis,
    /// Partitions and the number of grants that each wants, in the order of their asking.
    waiting: VecDeque<(u32, u64)>,
    refused: BTreeSet<u32>,
    /// Grants that have left partitions before these reported them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    moved: BTreeMap<u32, u64>,
    /// Completions by partition, where somebody wants to know when all are used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    used: BTreeMap<u32, u64>,
    /// Whether that was told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_full: bool,
}

impl QuotaCoordinator {
    fn open(epoch: u64, limit: u64, partitions: u32) -> QuotaCoordinator {
        // A time before every time of a log.
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

    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.out.iter().flatten().sum())
    }

    /// Whether a partition that asks would get a grant; `None` when that depends on unused
    /// grants of other partitions.
    pub fn gives(&self, asking: u32) -> Option<bool> {
        let unused = |(of, out): (u32, &Option<u64>)| {
            of != asking && !self.scarce.contains(&of) && out.is_some_and(|out| out > 0)
        };
        match self.free() {
            0 if (0..).zip(&self.out).any(unused) => None,
            free => Some(free > 0),
        }
    }

    /// How many grants a partition gets at least, while there are many.
    fn slice(&self) -> u64 {
        self.free().saturating_sub(RESERVE) / (2 * self.out.len() as u64)
    }

    fn grant(&mut self, to: u32, count: u64, keep: bool, messages: &mut Vec<(u32, QuotaSignal)>) {
        if let Some(out) = &mut self.out[to as usize] {
            *out += count;
        }
        if keep {
            self.scarce.remove(&to);
        }
        self.refused.remove(&to);
        messages.push((to, QuotaSignal::Grant { count, keep }));
    }

    fn receive(&mut self, from: u32, message: &QuotaSignal, now: Millis) -> Vec<(u32, QuotaSignal)> {
        let mut messages = Vec::new();
        match *message {
            QuotaSignal::Report { out } => {
                let moved = self.moved.remove(&from).unwrap_or(0);
                self.out[from as usize] = Some(out.saturating_sub(moved));
                if self.out.iter().all(Option::is_some) {
                    let slice = self.slice();
                    for to in (0..self.out.len() as u32).filter(|_| slice > 0) {
                        self.grant(to, slice, true, &mut messages);
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
        self.serve(now, &mut messages);
        messages
    }

    /// The number of completions, once they are as many as there may be.
    fn filled(&mut self) -> Option<u64> {
        let used = self.used.values().sum();
        let is_news = used >= self.limit && !std::mem::replace(&mut self.is_full, used >= self.limit);
        is_news.then_some(used)
    }

    fn serve(&mut self, now: Millis, messages: &mut Vec<(u32, QuotaSignal)>) {
        if self.out.iter().any(Option::is_none) {
            return;
        }
        while let Some((from, want)) = self.waiting.front().copied() {
            let free = self.free();
            if free > 0 {
                let keep = free > RESERVE;
                let count = if keep { want.max(self.slice()).min(free - RESERVE) } else { want.min(free) };
                self.grant(from, count, keep, messages);
            } else if !self.recalling.is_empty() || self.recall(from, now, messages) {
                return;
            } else {
                self.refused.insert(from);
                messages.push((from, QuotaSignal::Refuse));
            }
            self.waiting.pop_front();
        }
        if self.free() > 0 {
            messages.extend(std::mem::take(&mut self.refused).into_iter().map(|to| (to, QuotaSignal::AskAgain)));
        }
    }

    /// Recalls unused grants of other partitions; gives whether there are any to ask.
    fn recall(&mut self, asking: u32, now: Millis, messages: &mut Vec<(u32, QuotaSignal)>) -> bool {
        let again = now >= self.recalled_at.saturating_add(RECALL_EVERY);
        for (to, out) in (0..).zip(&self.out) {
            let may_have = out.is_some_and(|out| out > 0) && to != asking;
            if may_have && (again || !self.scarce.contains(&to)) {
                self.recalling.insert(to);
                messages.push((to, QuotaSignal::Recall));
            }
        }
        if self.recalling.is_empty() {
            return false;
        }
        self.recalled_at = now;
        true
    }
}

/// Numbers of grants that offers hold, by quota and by the time at which they lapse.
pub type Holds = BTreeMap<SurveyKey, BTreeMap<Millis, u64>>;

/// Distributes quotas over another number of partitions: `leases` are those of all old
/// partitions, `holds` the grants that users of each new partition hold. All used grants
/// are counted in the lease of the coordinator's partition.
pub fn redistribute(
    leases: impl IntoIterator<Item = (SurveyKey, QuotaLease)>,
    holds: Vec<Holds>,
) -> Vec<QuotaAllocator> {
    let mut all: BTreeMap<SurveyKey, QuotaLease> = BTreeMap::new();
    for (key, lease) in leases {
        let sum = all.entry(key).or_default();
        (sum.epoch, sum.limit) = (sum.epoch, sum.limit).max((lease.epoch, lease.limit));
        sum.used += lease.used;
    }
    let partitions = holds.len() as u32;
    let mut allocators: Vec<QuotaAllocator> =
        (0..partitions).map(|partition| QuotaAllocator::new(partition, partitions)).collect();
    for (key, sum) in all {
        let mut out = Vec::new();
        for (allocator, holds) in allocators.iter_mut().zip(&holds) {
            let used = if allocator.partition == COORDINATOR_PARTITION { sum.used } else { 0 };
            let holds = holds.get(&key).cloned().unwrap_or_default();
            let lease =
                QuotaLease { epoch: sum.epoch, limit: sum.limit, used, holds, scarce: true, ..QuotaLease::default() };
            out.push(Some(lease.out()));
            allocator.restore(key.clone(), Some(lease), None);
            allocator.dirty.insert(key.clone());
        }
        if let Some(limit) = sum.limit {
            let used = BTreeMap::from([(COORDINATOR_PARTITION, sum.used)]);
            let is_full = sum.used >= limit;
            let coordinator =
                QuotaCoordinator { out, used, is_full, ..QuotaCoordinator::open(sum.epoch, limit, partitions) };
            allocators[COORDINATOR_PARTITION as usize].restore(key, None, Some(coordinator));
        }
    }
    allocators
}

/// The leases of one partition; on partition 0 the coordinators, too.
#[derive(Debug, Default)]
pub struct QuotaAllocator {
    partition: u32,
    partitions: u32,
    pub leases: BTreeMap<SurveyKey, QuotaLease>,
    pub coordinators: BTreeMap<SurveyKey, QuotaCoordinator>,
    /// Quotas that have changed since [`QuotaAllocator::take_dirty`].
    dirty: BTreeSet<SurveyKey>,
    /// Leases that return unused grants at once.
    scarce: BTreeSet<SurveyKey>,
    /// When the first hold of a scarce lease lapses: its grant is to be returned then.
    lapse_at: Option<Millis>,
    /// Quotas of which all is used, since [`QuotaAllocator::take_full`].
    full: Vec<(SurveyKey, u64)>,
}

impl QuotaAllocator {
    pub fn new(partition: u32, partitions: u32) -> QuotaAllocator {
        QuotaAllocator { partition, partitions, ..QuotaAllocator::default() }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    pub fn restore(&mut self, key: SurveyKey, lease: Option<QuotaLease>, coordinator: Option<QuotaCoordinator>) {
        if let Some(coordinator) = coordinator {
            self.coordinators.insert(key.clone(), coordinator);
        }
        if let Some(lease) = lease {
            self.leases.insert(key.clone(), lease);
            self.update_lapse_time(&key);
        }
    }

    pub fn take_dirty(&mut self) -> BTreeSet<SurveyKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Quotas that have become full, with the number of completions.
    pub fn take_full(&mut self) -> Vec<(SurveyKey, u64)> {
        std::mem::take(&mut self.full)
    }

    /// Completions in this partition, also of surveys without a quota.
    pub fn used(&self, key: &SurveyKey) -> u64 {
        self.leases.get(key).map_or(0, |lease| lease.used)
    }

    /// Tells the coordinator how many responses are completed here.
    pub fn report_used(&mut self, key: &SurveyKey, now: Millis) -> Vec<QuotaMessage> {
        let used = self.used(key);
        self.signal_coordinator(key, QuotaSignal::Used { used }, now)
    }

    pub fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Puts the limit of a survey's version in force; another limit begins an epoch. Gives
    /// messages for other partitions.
    pub fn limit(&mut self, key: &SurveyKey, version: u64, limit: Option<u64>, now: Millis) -> Vec<QuotaMessage> {
        if self.leases.get(key).and_then(|lease| lease.limit) == limit {
            return Vec::new();
        }
        if let (COORDINATOR_PARTITION, Some(limit)) = (self.partition, limit) {
            self.coordinators.insert(key.clone(), QuotaCoordinator::open(version, limit, self.partitions));
        }
        let lease = self.lease(key);
        lease.sweep(now);
        *lease = QuotaLease {
            epoch: version,
            limit,
            used: lease.used,
            holds: std::mem::take(&mut lease.holds),
            // Until the coordinator, which knows all partitions, says that there is plenty.
            scarce: true,
            ..QuotaLease::default()
        };
        let out = lease.out();
        self.update_lapse_time(key);
        if limit.is_none() { Vec::new() } else { self.signal_coordinator(key, QuotaSignal::Report { out }, now) }
    }

    pub fn status(&self, key: &SurveyKey, now: Millis) -> QuotaStatus {
        self.leases.get(key).map_or(QuotaStatus::Available, |lease| lease.status(now))
    }

    /// Asks the coordinator, unless it has been asked.
    pub fn ask(&mut self, key: &SurveyKey, want: u64, now: Millis) -> Vec<QuotaMessage> {
        // Grants that lie here unused go back first: then the coordinator can give them.
        let mut messages = self.give_back(key, now);
        let lease = self.lease(key);
        if !std::mem::replace(&mut lease.asking, true) {
            messages.extend(self.signal_coordinator(key, QuotaSignal::Ask { want }, now));
        }
        messages
    }

    pub fn change(&mut self, key: &SurveyKey, change: Change, now: Millis) {
        let lease = self.lease(key);
        lease.sweep(now);
        lease.change(change);
        self.update_lapse_time(key);
    }

    /// Lets a hold go to another partition with its user; gives the epoch that it
    /// belongs to.
    pub fn depart(&mut self, key: &SurveyKey, until: Millis, now: Millis) -> u64 {
        let lease = self.lease(key);
        lease.sweep(now);
        lease.drop_hold(until);
        let epoch = lease.epoch;
        self.update_lapse_time(key);
        epoch
    }

    /// The epoch of a survey's quota here.
    pub fn epoch(&self, key: &SurveyKey) -> u64 {
        self.leases.get(key).map_or(0, |lease| lease.epoch)
    }

    /// Takes over a hold that came from another partition, in the same epoch; tells
    /// the coordinator where its grant is now.
    pub fn arrive(&mut self, key: &SurveyKey, until: Millis, of: u32, now: Millis) -> Vec<QuotaMessage> {
        let own = self.partition;
        let lease = self.lease(key);
        *lease.holds.entry(until).or_default() += 1;
        let is_limited = lease.limit.is_some();
        self.update_lapse_time(key);
        if of == own || !is_limited {
            return Vec::new();
        }
        self.signal_coordinator(key, QuotaSignal::Moved { of, count: 1 }, now)
    }

    /// Gives back what is wanted elsewhere. Cheap while nothing has lapsed;
    /// with `all`, what has become free by other ways too.
    pub fn settle(&mut self, all: bool, now: Millis) -> Vec<QuotaMessage> {
        if !all && self.lapse_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.settle_but(&BTreeSet::new(), now)
    }

    /// The same, but for these quotas.
    pub fn settle_but(&mut self, kept: &BTreeSet<SurveyKey>, now: Millis) -> Vec<QuotaMessage> {
        let scarce: Vec<SurveyKey> = self.scarce.difference(kept).cloned().collect();
        scarce.iter().flat_map(|key| self.give_back(key, now)).collect()
    }

    /// Returns what a scarce lease has and does not need.
    fn give_back(&mut self, key: &SurveyKey, now: Millis) -> Vec<QuotaMessage> {
        let Some(lease) = self.leases.get_mut(key).filter(|lease| lease.scarce) else { return Vec::new() };
        let swept = lease.sweep(now);
        let count = std::mem::take(&mut lease.free) + std::mem::take(&mut lease.idle);
        if swept {
            self.dirty.insert(key.clone());
            self.update_lapse_time(key);
        }
        if count == 0 {
            Vec::new()
        } else {
            self.signal_coordinator(key, QuotaSignal::Return { count, recalled: false }, now)
        }
    }

    /// Takes a message; gives what others are to be told.
    pub fn receive(&mut self, message: &QuotaMessage, now: Millis) -> Vec<QuotaMessage> {
        let key = SurveyKey::new(message.project.clone(), message.survey_id.clone());
        let mut on = Vec::new();
        let mut queue = VecDeque::from([message.clone()]);
        while let Some(message) = queue.pop_front() {
            if message.to != self.partition {
                on.push(message);
                continue;
            }
            let answers = match message.message {
                QuotaSignal::Report { .. }
                | QuotaSignal::Ask { .. }
                | QuotaSignal::Return { .. }
                | QuotaSignal::Moved { .. }
                | QuotaSignal::Used { .. } => {
                    match self.coordinators.get_mut(&key).filter(|coordinator| coordinator.epoch == message.epoch) {
                        Some(coordinator) => {
                            let answers = coordinator.receive(message.from, &message.message, now);
                            self.full.extend(coordinator.filled().map(|used| (key.clone(), used)));
                            answers
                        }
                        None => Vec::new(),
                    }
                }
                _ => self
                    .receive_signal(&key, &message, now)
                    .into_iter()
                    .map(|signal| (COORDINATOR_PARTITION, signal))
                    .collect(),
            };
            self.dirty.insert(key.clone());
            let wrap = |(to, signal)| QuotaMessage { to, from: self.partition, message: signal, ..message.clone() };
            queue.extend(answers.into_iter().map(wrap));
        }
        on
    }

    /// Applies a message of the coordinator to this partition's lease.
    fn receive_signal(&mut self, key: &SurveyKey, message: &QuotaMessage, now: Millis) -> Option<QuotaSignal> {
        let lease = self.leases.get_mut(key).filter(|lease| lease.epoch == message.epoch)?;
        let mut answer = None;
        match message.message {
            QuotaSignal::Grant { count, keep } => {
                lease.free += count;
                lease.scarce &= !keep;
                (lease.asking, lease.refused_until) = (false, 0);
            }
            QuotaSignal::Refuse => (lease.asking, lease.refused_until) = (false, now.saturating_add(REFUSAL_LIFE)),
            QuotaSignal::AskAgain => lease.refused_until = 0,
            QuotaSignal::Recall => {
                lease.sweep(now);
                lease.scarce = true;
                let count = std::mem::take(&mut lease.free) + std::mem::take(&mut lease.idle);
                answer = Some(QuotaSignal::Return { count, recalled: true });
            }
            QuotaSignal::Report { .. }
            | QuotaSignal::Ask { .. }
            | QuotaSignal::Return { .. }
            | QuotaSignal::Moved { .. }
            | QuotaSignal::Used { .. } => {}
        }
        self.update_lapse_time(key);
        answer
    }

    fn lease(&mut self, key: &SurveyKey) -> &mut QuotaLease {
        self.dirty.insert(key.clone());
        self.leases.entry(key.clone()).or_default()
    }

    fn signal_coordinator(&mut self, key: &SurveyKey, message: QuotaSignal, now: Millis) -> Vec<QuotaMessage> {
        let epoch = self.leases.get(key).map_or(0, |lease| lease.epoch);
        let SurveyKey { project, survey_id } = key.clone();
        let message =
            QuotaMessage { project, survey_id, epoch, from: self.partition, to: COORDINATOR_PARTITION, message };
        self.receive(&message, now)
    }

    /// Keeps up which leases are scarce, and when the first of their offers lapses.
    fn update_lapse_time(&mut self, changed: &SurveyKey) {
        let scarce = self.leases.get(changed).is_some_and(|lease| lease.scarce);
        if !scarce && !self.scarce.remove(changed) {
            return;
        }
        if scarce {
            self.scarce.insert(changed.clone());
        }
        let first = |key: &SurveyKey| self.leases.get(key)?.holds.keys().next().copied();
        self.lapse_at = self.scarce.iter().filter_map(first).min();
    }
}

#[cfg(test)]
mod tests;
