//! Quotas of surveys (`limits.max_completed`): at most so many completed responses of a
//! survey over all partitions. An offer of such a survey holds a grant until it is
//! completed, is dismissed or lapses. The coordinator in partition 0 gives grants out,
//! every partition keeps a lease of them, and unused grants go where users answer. Messages
//! between coordinator and leases travel through the journals, in order between any two
//! partitions. Nothing here reads a clock.

pub mod cap;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::refs::SurveyKey;
use crate::time::{Millis, SECOND};

/// The partition that keeps the coordinators.
pub const COORDINATOR_PARTITION: u32 = 0;
/// This many grants are kept back and given out one by one at the end, so that none lies
/// unused in a partition without requests.
const RESERVE: u64 = 64;
/// How long a refusal is remembered. Then the coordinator is asked again, because an offer
/// may have lapsed in a partition that has read no record since.
const REFUSAL_LIFE: Millis = 5 * SECOND;
/// How often partitions that have returned all unused grants are asked for them again.
const RECALL_EVERY: Millis = REFUSAL_LIFE;

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
    /// A response was completed. Without a hold it uses a free grant.
    Complete {
        held: Option<Millis>,
    },
}

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
    pub message: QuotaSignal,
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
    fn out(&self) -> u64 {
        self.used + self.holds.values().sum::<u64>()
    }

    fn sweep(&mut self, now: Millis) -> bool {
        let held = self.holds.split_off(&(now + 1));
        let lapsed: u64 = std::mem::replace(&mut self.holds, held).values().sum();
        self.gain(lapsed);
        lapsed > 0
    }

    /// Takes grants back that were released. Without a limit they are not counted. While
    /// they are scarce they go back to the coordinator, which may have given out more than
    /// the limit allows.
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

    /// Removes a hold; returns whether it was there. A hold that has lapsed is not.
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
    fn open(epoch: u64, limit: u64, partitions: u32) -> QuotaCoordinator {
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

    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.out.iter().flatten().sum())
    }

    /// Whether a request of this partition would be granted; `None` when that depends on
    /// unused grants in other partitions.
    pub fn gives(&self, asking: u32) -> Option<bool> {
        let unused = |(of, out): (u32, &Option<u64>)| {
            of != asking && !self.scarce.contains(&of) && out.is_some_and(|out| out > 0)
        };
        match self.free() {
            0 if (0..).zip(&self.out).any(unused) => None,
            free => Some(free > 0),
        }
    }

    /// How many grants a partition gets at a time while there are many.
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

    /// The number of completed responses, at the moment when it reaches the limit.
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

    /// Recalls unused grants of other partitions; returns whether an answer is to be waited
    /// for.
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

/// How many grants offers hold, by quota and by the time at which they lapse.
pub type Holds = BTreeMap<SurveyKey, BTreeMap<Millis, u64>>;

/// Distributes quotas over another number of partitions. `leases` are those of all old
/// partitions; `holds` has, for each new partition, the grants that its users hold. All
/// used grants are counted in the lease of the coordinator's partition.
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

/// The leases of one partition and, on partition 0, the coordinators.
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
    /// When the first hold of a scarce lease lapses, so that its grant can be returned at
    /// that time.
    lapse_at: Option<Millis>,
    /// Quotas that were used up since the last [`QuotaAllocator::take_full`].
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

    /// Quotas that have been used up, with the number of completed responses.
    pub fn take_full(&mut self) -> Vec<(SurveyKey, u64)> {
        std::mem::take(&mut self.full)
    }

    /// Completed responses in this partition, counted also without a quota.
    pub fn used(&self, key: &SurveyKey) -> u64 {
        self.leases.get(key).map_or(0, |lease| lease.used)
    }

    /// Reports the number of completed responses in this partition to the coordinator.
    pub fn report_used(&mut self, key: &SurveyKey, now: Millis) -> Vec<QuotaMessage> {
        let used = self.used(key);
        self.signal_coordinator(key, QuotaSignal::Used { used }, now)
    }

    pub fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// Puts the limit of a survey's version in force. A limit that differs begins a new
    /// epoch. Returns messages for other partitions.
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
            // Until the coordinator says otherwise: it alone knows how much is left in all
            // partitions.
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

    /// Asks the coordinator for grants, unless a request is unanswered.
    pub fn ask(&mut self, key: &SurveyKey, want: u64, now: Millis) -> Vec<QuotaMessage> {
        // Unused grants of this lease go back first, so that the coordinator can give them
        // out.
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

    /// Lets a hold move to another partition with its user; returns the epoch to which it
    /// belongs.
    pub fn depart(&mut self, key: &SurveyKey, until: Millis, now: Millis) -> u64 {
        let lease = self.lease(key);
        lease.sweep(now);
        lease.drop_hold(until);
        let epoch = lease.epoch;
        self.update_lapse_time(key);
        epoch
    }

    /// The epoch of a survey's quota in this partition.
    pub fn epoch(&self, key: &SurveyKey) -> u64 {
        self.leases.get(key).map_or(0, |lease| lease.epoch)
    }

    /// Takes a hold over that moved here from partition `of` in the same epoch; tells the
    /// coordinator.
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

    /// Returns unused grants of scarce leases. Costs nothing while no hold has lapsed; with
    /// `all`, grants that became free in other ways are returned, too.
    pub fn settle(&mut self, all: bool, now: Millis) -> Vec<QuotaMessage> {
        if !all && self.lapse_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.settle_but(&BTreeSet::new(), now)
    }

    /// The same for all quotas but those in `kept`.
    pub fn settle_but(&mut self, kept: &BTreeSet<SurveyKey>, now: Millis) -> Vec<QuotaMessage> {
        let scarce: Vec<SurveyKey> = self.scarce.difference(kept).cloned().collect();
        scarce.iter().flat_map(|key| self.give_back(key, now)).collect()
    }

    /// Returns the unused grants of a lease, if they are scarce.
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

    /// Applies a message; returns the messages for other partitions that follow from it.
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

    /// Applies a message of the coordinator to the lease of this partition.
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

    /// Updates which leases are scarce, and when the first of their holds lapses.
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
