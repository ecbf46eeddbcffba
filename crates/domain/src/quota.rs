//! `limits.max_completed`: at most so many completions of a survey, over all
//! partitions, and not one fewer while users are to be had. An offer of such a
//! survey holds a grant until it is completed, dismissed or lapses. Partition 0
//! keeps the coordinator; every partition has a lease there. What they tell each
//! other travels through their journals, in order between any two; nothing here
//! looks at a clock.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::refs::SurveyKey;
use super::time::{Millis, SECOND};

/// The partition of the coordinators.
pub const COORDINATOR_PARTITION: u32 = 0;
/// The last grants are given one by one, so that none lies where nobody asks.
const RESERVE: u64 = 64;
/// After a refusal the coordinator is asked again: an offer may have lapsed at a
/// partition that nothing has reached since.
const REFUSAL_HOLDS: Millis = 5 * SECOND;
/// Partitions that have given everything back are asked again as rarely.
const RECALL_EVERY: Millis = REFUSAL_HOLDS;

/// Whether a survey can be offered once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStatus {
    Available,
    /// Only the coordinator knows.
    NeedsGrant,
    Exhausted,
}

/// A change of the lease by a record. `until` is when the hold lapses.
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
    /// A completion; without a hold it uses a free grant.
    Complete {
        held: Option<Millis>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaSignal {
    /// To the coordinator: so many grants are held or used here as the limit begins.
    Report {
        out: u64,
    },
    Ask {
        want: u64,
    },
    Return {
        count: u64,
        recalled: bool,
    },
    /// To a lease. What it may `keep` need not come back unused.
    Grant {
        count: u64,
        keep: bool,
    },
    Refuse,
    /// There is something again, for those who were refused.
    AskAgain,
    /// Give back what is unused, and from now on whatever becomes free.
    Recall,
}

/// A message on its way. Each change of the limit begins an epoch, and messages of
/// another epoch are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuotaMessage {
    pub project: String,
    pub survey_id: String,
    pub epoch: u64,
    pub from: u32,
    pub to: u32,
    pub message: QuotaSignal,
}

/// A partition's part of a survey's quota.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaLease {
    pub epoch: u64,
    pub limit: Option<u64>,
    /// Completions ever, also from before there was a limit.
    pub used: u64,
    pub free: u64,
    /// On their way back to the coordinator.
    pub idle: u64,
    /// Held by offers, by when they lapse.
    pub holds: BTreeMap<Millis, u64>,
    /// Nothing unused is kept.
    pub scarce: bool,
    pub refused_until: Millis,
    /// The coordinator has not answered yet.
    pub asking: bool,
}

impl QuotaLease {
    /// Used, or held by an offer.
    fn out(&self) -> u64 {
        self.used + self.holds.values().sum::<u64>()
    }

    fn sweep(&mut self, now: Millis) -> bool {
        let held = self.holds.split_off(&(now + 1));
        let lapsed: u64 = std::mem::replace(&mut self.holds, held).values().sum();
        self.gain(lapsed);
        lapsed > 0
    }

    /// Grants without a limit are worth nothing. Where they are scarce the coordinator
    /// says who gets what comes back: more may be out than the limit allows.
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

    /// Whether the hold was there: it is gone when it has lapsed.
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

/// Where all grants of a survey are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuotaCoordinator {
    pub epoch: u64,
    pub limit: u64,
    /// Grants at each partition, used ones included; `None` until it has told.
    pub out: Vec<Option<u64>>,
    /// Partitions that keep nothing unused.
    scarce: BTreeSet<u32>,
    /// Asked to give back, and not yet answered.
    recalling: BTreeSet<u32>,
    recalled_at: Millis,
    /// Partitions and how many grants each wants, in their order.
    waiting: VecDeque<(u32, u64)>,
    refused: BTreeSet<u32>,
}

impl QuotaCoordinator {
    fn open(epoch: u64, limit: u64, partitions: u32) -> QuotaCoordinator {
        // Long ago, whatever the log's time is.
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

    /// Whether a partition that asks would get something; `None` when that
    /// depends on what others have not used.
    pub fn gives(&self, asking: u32) -> Option<bool> {
        let unused = |(of, out): (u32, &Option<u64>)| {
            of != asking && !self.scarce.contains(&of) && out.is_some_and(|out| out > 0)
        };
        match self.free() {
            0 if (0..).zip(&self.out).any(unused) => None,
            free => Some(free > 0),
        }
    }

    /// What a partition gets beyond what it wants, while there is plenty.
    fn slice(&self) -> u64 {
        self.free().saturating_sub(RESERVE) / (2 * self.out.len() as u64)
    }

    fn grant(&mut self, to: u32, count: u64, keep: bool, mail: &mut Vec<(u32, QuotaSignal)>) {
        if let Some(out) = &mut self.out[to as usize] {
            *out += count;
        }
        if keep {
            self.scarce.remove(&to);
        }
        self.refused.remove(&to);
        mail.push((to, QuotaSignal::Grant { count, keep }));
    }

    fn receive(&mut self, from: u32, message: &QuotaSignal, now: Millis) -> Vec<(u32, QuotaSignal)> {
        let mut mail = Vec::new();
        match *message {
            QuotaSignal::Report { out } => {
                self.out[from as usize] = Some(out);
                if self.out.iter().all(Option::is_some) {
                    let slice = self.slice();
                    for to in (0..self.out.len() as u32).filter(|_| slice > 0) {
                        self.grant(to, slice, true, &mut mail);
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
            QuotaSignal::Grant { .. } | QuotaSignal::Refuse | QuotaSignal::AskAgain | QuotaSignal::Recall => {}
        }
        self.serve(now, &mut mail);
        mail
    }

    fn serve(&mut self, now: Millis, mail: &mut Vec<(u32, QuotaSignal)>) {
        if self.out.iter().any(Option::is_none) {
            return;
        }
        while let Some((from, want)) = self.waiting.front().copied() {
            let free = self.free();
            if free > 0 {
                let keep = free > RESERVE;
                let count = if keep { want.max(self.slice()).min(free - RESERVE) } else { want.min(free) };
                self.grant(from, count, keep, mail);
            } else if !self.recalling.is_empty() || self.recall(from, now, mail) {
                return;
            } else {
                self.refused.insert(from);
                mail.push((from, QuotaSignal::Refuse));
            }
            self.waiting.pop_front();
        }
        if self.free() > 0 {
            mail.extend(std::mem::take(&mut self.refused).into_iter().map(|to| (to, QuotaSignal::AskAgain)));
        }
    }

    /// Calls back what lies unused elsewhere; gives whether there is anyone to ask.
    fn recall(&mut self, asking: u32, now: Millis, mail: &mut Vec<(u32, QuotaSignal)>) -> bool {
        let again = now >= self.recalled_at.saturating_add(RECALL_EVERY);
        for (to, out) in (0..).zip(&self.out) {
            let may_have = out.is_some_and(|out| out > 0) && to != asking;
            if may_have && (again || !self.scarce.contains(&to)) {
                self.recalling.insert(to);
                mail.push((to, QuotaSignal::Recall));
            }
        }
        if self.recalling.is_empty() {
            return false;
        }
        self.recalled_at = now;
        true
    }
}

/// Grants held by offers, by when they lapse, of each quota.
pub type Holds = BTreeMap<SurveyKey, BTreeMap<Millis, u64>>;

/// The same quotas over another number of partitions: `leases` are all those
/// of the old ones, `holds` what users of each new one hold. The lease of the
/// coordinator's partition counts all that is used.
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
            let coordinator = QuotaCoordinator { out, ..QuotaCoordinator::open(sum.epoch, limit, partitions) };
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
    /// Leases that keep nothing unused.
    scarce: BTreeSet<SurveyKey>,
    /// When the first of their offers lapses; its grant is wanted elsewhere.
    lapse_at: Option<Millis>,
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

    pub fn dirty_count(&self) -> usize {
        self.dirty.len()
    }

    /// A version of a survey is in force: a limit that is not the one so far
    /// begins an epoch. Gives what other partitions are to be told.
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
        let mut mail = self.give_back(key, now);
        let lease = self.lease(key);
        if !std::mem::replace(&mut lease.asking, true) {
            mail.extend(self.signal_coordinator(key, QuotaSignal::Ask { want }, now));
        }
        mail
    }

    pub fn change(&mut self, key: &SurveyKey, change: Change, now: Millis) {
        let lease = self.lease(key);
        lease.sweep(now);
        lease.change(change);
        self.update_lapse_time(key);
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
    pub fn receive(&mut self, mail: &QuotaMessage, now: Millis) -> Vec<QuotaMessage> {
        let key = SurveyKey::new(mail.project.clone(), mail.survey_id.clone());
        let mut on = Vec::new();
        let mut queue = VecDeque::from([mail.clone()]);
        while let Some(mail) = queue.pop_front() {
            if mail.to != self.partition {
                on.push(mail);
                continue;
            }
            let answers = match mail.message {
                QuotaSignal::Report { .. } | QuotaSignal::Ask { .. } | QuotaSignal::Return { .. } => {
                    match self.coordinators.get_mut(&key).filter(|coordinator| coordinator.epoch == mail.epoch) {
                        Some(coordinator) => coordinator.receive(mail.from, &mail.message, now),
                        None => Vec::new(),
                    }
                }
                _ => self
                    .receive_signal(&key, &mail, now)
                    .into_iter()
                    .map(|message| (COORDINATOR_PARTITION, message))
                    .collect(),
            };
            self.dirty.insert(key.clone());
            let wrap = |(to, message)| QuotaMessage { to, from: self.partition, message, ..mail.clone() };
            queue.extend(answers.into_iter().map(wrap));
        }
        on
    }

    /// Applies a message of the coordinator to this partition's lease.
    fn receive_signal(&mut self, key: &SurveyKey, mail: &QuotaMessage, now: Millis) -> Option<QuotaSignal> {
        let lease = self.leases.get_mut(key).filter(|lease| lease.epoch == mail.epoch)?;
        let mut answer = None;
        match mail.message {
            QuotaSignal::Grant { count, keep } => {
                lease.free += count;
                lease.scarce &= !keep;
                (lease.asking, lease.refused_until) = (false, 0);
            }
            QuotaSignal::Refuse => (lease.asking, lease.refused_until) = (false, now.saturating_add(REFUSAL_HOLDS)),
            QuotaSignal::AskAgain => lease.refused_until = 0,
            QuotaSignal::Recall => {
                lease.sweep(now);
                lease.scarce = true;
                let count = std::mem::take(&mut lease.free) + std::mem::take(&mut lease.idle);
                answer = Some(QuotaSignal::Return { count, recalled: true });
            }
            QuotaSignal::Report { .. } | QuotaSignal::Ask { .. } | QuotaSignal::Return { .. } => {}
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
        let mail = QuotaMessage { project, survey_id, epoch, from: self.partition, to: COORDINATOR_PARTITION, message };
        self.receive(&mail, now)
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
