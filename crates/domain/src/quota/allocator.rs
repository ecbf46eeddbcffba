//! The quotas of one partition: it hands their messages to leases and coordinators.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::coordinator::QuotaCoordinator;
use super::lease::{QuotaChange, QuotaLease, QuotaStatus};
use super::message::{AddressedSignal, COORDINATOR_PARTITION, QuotaMessage, QuotaSignal};
use crate::refs::SurveyKey;
use crate::time::{Millis, SECOND};

/// How long a refusal is remembered, in milliseconds. Then the coordinator is asked again,
/// because an offer may have lapsed in a partition that has read no record since.
pub(super) const REFUSAL_LIFE: Millis = 5 * SECOND;

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
    /// Quotas that were used up since the last [`QuotaAllocator::take_exhausted`].
    exhausted: Vec<(SurveyKey, u64)>,
}

impl QuotaAllocator {
    pub fn new(partition: u32, partitions: u32) -> QuotaAllocator {
        QuotaAllocator { partition, partitions, ..QuotaAllocator::default() }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Restores what the store has of a quota.
    pub fn restore(&mut self, key: SurveyKey, lease: Option<QuotaLease>, coordinator: Option<QuotaCoordinator>) {
        if let Some(coordinator) = coordinator {
            self.coordinators.insert(key.clone(), coordinator);
        }
        if let Some(lease) = lease {
            self.leases.insert(key.clone(), lease);
            self.update_lapse_time(&key);
        }
    }

    /// The same for a lease that the store does not have yet.
    pub(super) fn install(&mut self, key: SurveyKey, lease: QuotaLease) {
        self.dirty.insert(key.clone());
        self.restore(key, Some(lease), None);
    }

    /// Quotas that have changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<SurveyKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Quotas that have been used up, with the number of completed responses.
    pub fn take_exhausted(&mut self) -> Vec<(SurveyKey, u64)> {
        std::mem::take(&mut self.exhausted)
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
    pub fn set_limit(&mut self, key: &SurveyKey, version: u64, limit: Option<u64>, now: Millis) -> Vec<QuotaMessage> {
        if self.leases.get(key).and_then(|lease| lease.limit) == limit {
            return Vec::new();
        }
        if let (COORDINATOR_PARTITION, Some(limit)) = (self.partition, limit) {
            self.coordinators.insert(key.clone(), QuotaCoordinator::open(version, limit, self.partitions));
        }
        let lease = self.lease(key);
        lease.expire_holds(now);
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
        let out = lease.used_or_held();
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
        let mut messages = self.return_unused_of(key, now);
        let lease = self.lease(key);
        if !std::mem::replace(&mut lease.asking, true) {
            messages.extend(self.signal_coordinator(key, QuotaSignal::Ask { want }, now));
        }
        messages
    }

    /// Applies a change by a user's record.
    pub fn change(&mut self, key: &SurveyKey, change: QuotaChange, now: Millis) {
        let lease = self.lease(key);
        lease.expire_holds(now);
        lease.apply(change);
        self.update_lapse_time(key);
    }

    /// Lets a hold move to another partition with its user; returns the epoch to which it
    /// belongs.
    pub fn move_hold_out(&mut self, key: &SurveyKey, until: Millis, now: Millis) -> u64 {
        let lease = self.lease(key);
        lease.expire_holds(now);
        lease.remove_hold(until);
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
    pub fn move_hold_in(&mut self, key: &SurveyKey, until: Millis, of: u32, now: Millis) -> Vec<QuotaMessage> {
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

    /// Returns unused grants of scarce leases, if a hold has lapsed since the last call. Costs
    /// nothing otherwise.
    pub fn return_lapsed(&mut self, now: Millis) -> Vec<QuotaMessage> {
        if self.lapse_at.is_none_or(|at| now < at) { Vec::new() } else { self.return_unused(now) }
    }

    /// Returns all unused grants of scarce leases.
    pub fn return_unused(&mut self, now: Millis) -> Vec<QuotaMessage> {
        self.return_unused_except(&BTreeSet::new(), now)
    }

    /// The same for all quotas but those in `kept`.
    pub fn return_unused_except(&mut self, kept: &BTreeSet<SurveyKey>, now: Millis) -> Vec<QuotaMessage> {
        let scarce: Vec<SurveyKey> = self.scarce.difference(kept).cloned().collect();
        scarce.iter().flat_map(|key| self.return_unused_of(key, now)).collect()
    }

    /// Returns the unused grants of a lease, if they are scarce.
    fn return_unused_of(&mut self, key: &SurveyKey, now: Millis) -> Vec<QuotaMessage> {
        let Some(lease) = self.leases.get_mut(key).filter(|lease| lease.scarce) else { return Vec::new() };
        let has_lapsed = lease.expire_holds(now);
        let count = std::mem::take(&mut lease.free) + std::mem::take(&mut lease.idle);
        if has_lapsed {
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
        let mut outgoing = Vec::new();
        let mut queue = VecDeque::from([message.clone()]);
        while let Some(message) = queue.pop_front() {
            if message.to != self.partition {
                outgoing.push(message);
                continue;
            }
            let answers = match message.signal {
                QuotaSignal::Report { .. }
                | QuotaSignal::Ask { .. }
                | QuotaSignal::Return { .. }
                | QuotaSignal::Moved { .. }
                | QuotaSignal::Used { .. } => self.coordinate(&key, &message, now),
                QuotaSignal::Grant { .. } | QuotaSignal::Refuse | QuotaSignal::AskAgain | QuotaSignal::Recall => {
                    let answer = self.receive_signal(&key, &message, now).into_iter();
                    answer.map(|signal| AddressedSignal { to: COORDINATOR_PARTITION, signal }).collect()
                }
            };
            self.dirty.insert(key.clone());
            let wrap =
                |AddressedSignal { to, signal }| QuotaMessage { to, from: self.partition, signal, ..message.clone() };
            queue.extend(answers.into_iter().map(wrap));
        }
        outgoing
    }

    /// Applies a message of a lease to the coordinator in this partition.
    fn coordinate(&mut self, key: &SurveyKey, message: &QuotaMessage, now: Millis) -> Vec<AddressedSignal> {
        let coordinator = self.coordinators.get_mut(key).filter(|coordinator| coordinator.epoch == message.epoch);
        let Some(coordinator) = coordinator else { return Vec::new() };
        let answers = coordinator.receive(message.from, &message.signal, now);
        self.exhausted.extend(coordinator.newly_exhausted().map(|used| (key.clone(), used)));
        answers
    }

    /// Applies a message of the coordinator to the lease of this partition.
    fn receive_signal(&mut self, key: &SurveyKey, message: &QuotaMessage, now: Millis) -> Option<QuotaSignal> {
        let lease = self.leases.get_mut(key).filter(|lease| lease.epoch == message.epoch)?;
        let mut answer = None;
        match message.signal {
            QuotaSignal::Grant { count, keep } => {
                lease.free += count;
                lease.scarce &= !keep;
                (lease.asking, lease.refused_until) = (false, 0);
            }
            QuotaSignal::Refuse => (lease.asking, lease.refused_until) = (false, now.saturating_add(REFUSAL_LIFE)),
            QuotaSignal::AskAgain => lease.refused_until = 0,
            QuotaSignal::Recall => {
                lease.expire_holds(now);
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

    fn signal_coordinator(&mut self, key: &SurveyKey, signal: QuotaSignal, now: Millis) -> Vec<QuotaMessage> {
        let epoch = self.epoch(key);
        let SurveyKey { project, survey_id } = key.clone();
        let message =
            QuotaMessage { project, survey_id, epoch, from: self.partition, to: COORDINATOR_PARTITION, signal };
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
