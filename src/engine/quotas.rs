//! State of the quotas in a partition: leases, coordinators, and requests that wait for a
//! grant (`pending_requests`); `pending` resumes them.

use crate::engine::families;
use std::sync::Arc;

use super::changes::Changes;
use super::counters::CapCounters;
use super::pending_requests::PendingRequests;
use super::users::CacheLimit;
use askwhen_domain::quota::cap::CapKey;
use askwhen_domain::quota::{QuotaAllocator, QuotaCoordinator, QuotaLease, QuotaStatus};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::Millis;
use askwhen_store::Store;

const LEASE: &[u8] = b"account/";
const COORDINATOR: &[u8] = b"bank/";
const PENDING: &[u8] = b"parked/";
/// Key of the state of closing surveys.
pub const CLOSINGS: &[u8] = b"closings";

/// The quotas of a partition, and the requests that wait for them.
pub struct Quotas {
    pub allocator: QuotaAllocator,
    pub caps: CapCounters,
    pub pending: PendingRequests,
    /// Whether the current record has changed any lease.
    pub moved: bool,
    /// Whether counters have answered waiting requests.
    pub answered: bool,
    /// Counters whose requested places the current record has used.
    pub used: Vec<CapKey>,
    /// How many requests have ended their wait since this was opened.
    pub released: u64,
}

impl Quotas {
    /// State of a store that has none.
    pub fn new(allocator: QuotaAllocator, caps: CapCounters) -> Quotas {
        Quotas {
            allocator,
            caps,
            pending: PendingRequests::default(),
            moved: false,
            answered: false,
            used: Vec::new(),
            released: 0,
        }
    }

    /// Loads the state from a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(
        store: &Arc<Store>,
        partition: u32,
        partitions: u32,
        limit: CacheLimit,
    ) -> Result<Quotas, askwhen_store::Error> {
        let counters = CapCounters::new(store.clone(), partition, partitions, limit);
        let mut quotas = Quotas::new(QuotaAllocator::new(partition, partitions), counters);
        let damaged = |e: serde_json::Error| askwhen_store::Error::damaged("quotas", e);
        store.each(families::QUOTAS, |key, value| {
            if let Some(offset) = key.strip_prefix(PENDING) {
                let offset = offset.try_into().map_or(0, u64::from_be_bytes);
                quotas.pending.restore(offset, serde_json::from_slice(&value).map_err(damaged)?);
            } else if let Some(name) = key.strip_prefix(LEASE) {
                let lease: QuotaLease = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.allocator.restore(key_of(name), Some(lease), None);
            } else if let Some(name) = key.strip_prefix(COORDINATOR) {
                let coordinator: QuotaCoordinator = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.allocator.restore(key_of(name), None, Some(coordinator));
            } else {
                quotas.caps.load(&key, &value)?;
            }
            Ok::<_, askwhen_store::Error>(())
        })?;
        Ok(quotas)
    }

    /// Whether the coordinator of a survey has to be asked for a grant.
    pub fn needs_grant(&self, survey: &SurveyKey, now: Millis) -> bool {
        self.allocator.status(survey, now) == QuotaStatus::NeedsGrant
    }

    pub fn anyone_waits(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        (self.pending.changed_count() + self.allocator.dirty_count()) * 256 + self.caps.dirty_bytes()
    }

    /// The changes, with those of `closings`.
    pub fn freeze(&mut self, closings: Option<Vec<u8>>) -> Changes {
        let mut changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        changes.extend(closings.map(|closings| (CLOSINGS.to_vec(), Some(closings))));
        for key in self.allocator.take_dirty() {
            if let Some(lease) = self.allocator.leases.get(&key) {
                changes.push((stored_key(LEASE, &key), serde_json::to_vec(lease).ok()));
            }
            if let Some(coordinator) = self.allocator.coordinators.get(&key) {
                changes.push((stored_key(COORDINATOR, &key), serde_json::to_vec(coordinator).ok()));
            }
        }
        for offset in self.pending.take_changed() {
            let pending = self.pending.get(offset).and_then(|pending| serde_json::to_vec(pending).ok());
            changes.push(([PENDING, &offset.to_be_bytes()].concat(), pending));
        }
        let counters = self.caps.freeze();
        Box::new(move |batch| {
            counters(batch);
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(families::QUOTAS, key, value),
                    None => batch.delete(families::QUOTAS, key),
                }
            }
        })
    }
}

fn stored_key(kind: &[u8], survey: &SurveyKey) -> Vec<u8> {
    [kind, &askwhen_store::keys::named(&survey.project, &survey.survey_id)].concat()
}

fn key_of(name: &[u8]) -> SurveyKey {
    let mut parts = name.splitn(2, |byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    SurveyKey { project: parts.next().unwrap_or_default(), survey_id: parts.next().unwrap_or_default() }
}
