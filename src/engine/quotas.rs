//! State of the quotas in a partition: leases, coordinators, and requests that wait for a
//! grant; `pending` resumes them.

use crate::engine::families;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::cap_requests::CapRequests;
use super::changes::Changes;
use super::counters::CapCounters;
use super::users::CacheLimit;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::quota::cap::CapKey;
use askwhen_domain::quota::{QuotaAllocator, QuotaCoordinator, QuotaLease, QuotaStatus};
use askwhen_domain::record::{Body, Record};
use askwhen_domain::refs::{SurveyKey, SurveyRef};
use askwhen_domain::time::{Millis, SECOND};
use askwhen_store::Store;

/// How long a request waits, in milliseconds of the partition's time: it is answered before
/// its client gives up. It is part of the decision rules.
const PATIENCE: Millis = SECOND;
/// The most requests with one event id that wait together.
const MAX_JOINED: usize = 64;

const LEASE: &[u8] = b"account/";
const COORDINATOR: &[u8] = b"bank/";
const PENDING: &[u8] = b"parked/";
/// Key of the state of closing surveys.
pub const CLOSINGS: &[u8] = b"closings";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingRequest {
    pub project: String,
    pub user_id: String,
    /// The record as it is written to the journal.
    pub value: Json,
    pub trusted: bool,
    /// The sender's event id: a copy of the record waits together with it.
    pub event_id: Option<String>,
    pub reply_to: Vec<String>,
    #[serde(rename = "parked_at")]
    pub waiting_since: Millis,
    /// Surveys of which it needs a grant; empty if it waits behind another request of its
    /// user.
    pub waits_for: BTreeSet<String>,
    /// Places of counters that it needs.
    #[serde(default, skip_serializing_if = "CapRequests::is_empty")]
    pub caps: CapRequests,
}

impl PendingRequest {
    /// Whether it can wait longer. When an operator has put the time back, a request from
    /// the future does not wait any more.
    pub fn is_patient(&self, now: Millis) -> bool {
        self.waiting_since <= now && now < self.waiting_since.saturating_add(PATIENCE)
    }

    /// A hash that identifies its user.
    pub fn whose(&self) -> u128 {
        id::event_hash(&self.project, &self.user_id, "")
    }
}

/// The grants that waiting requests need, and the users who have such requests.
#[derive(Default)]
pub struct WaitingGrants {
    pub wanted: Vec<(SurveyKey, u64)>,
    pub blocked: HashSet<u128>,
}

impl WaitingGrants {
    pub fn wants(&mut self, survey: SurveyRef<'_>) {
        match self.wanted.iter_mut().find(|(key, _)| key.as_ref() == survey) {
            Some((_, count)) => *count += 1,
            None => self.wanted.push((survey.into(), 1)),
        }
    }
}

/// The quotas of a partition, and the requests that wait for them.
pub struct Quotas {
    pub allocator: QuotaAllocator,
    pub caps: CapCounters,
    /// By the offset of the request's record.
    pub pending: BTreeMap<u64, PendingRequest>,
    pub dirty: BTreeSet<u64>,
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
            pending: BTreeMap::new(),
            dirty: BTreeSet::new(),
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
                quotas.pending.insert(offset, serde_json::from_slice(&value).map_err(damaged)?);
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

    pub fn anyone_waits(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        (self.dirty.len() + self.allocator.dirty_count()) * 256 + self.caps.dirty_bytes()
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
        for offset in std::mem::take(&mut self.dirty) {
            let pending = self.pending.get(&offset).and_then(|pending| serde_json::to_vec(pending).ok());
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

    pub fn waited_for(&self) -> BTreeSet<SurveyKey> {
        // Hundreds of requests wait for one or two surveys.
        let mut distinct: Vec<SurveyRef<'_>> = Vec::new();
        for pending in self.pending.values() {
            for survey_id in &pending.waits_for {
                let survey = SurveyRef::new(&pending.project, survey_id);
                if !distinct.contains(&survey) {
                    distinct.push(survey);
                }
            }
        }
        distinct.into_iter().map(SurveyKey::from).collect()
    }

    /// The first waiting request from an offset on that need not wait any more; `waiting`
    /// collects what those before it need, and which users they block.
    pub fn first_free(&self, from: u64, now: Millis, waiting: &mut WaitingGrants) -> Option<(u64, bool)> {
        // By survey, whether the coordinator would have to be asked; looked up once.
        let mut quota_statuses: Vec<(SurveyRef<'_>, bool)> = Vec::new();
        for (offset, pending) in self.pending.range(from..) {
            let whose = pending.whose();
            if waiting.blocked.contains(&whose) {
                continue;
            }
            let patient = pending.is_patient(now);
            let mut needs = false;
            for survey_id in pending.waits_for.iter().filter(|_| patient) {
                let survey = SurveyRef::new(&pending.project, survey_id);
                let asks = match quota_statuses.iter().find(|(known, _)| *known == survey) {
                    Some((_, asks)) => *asks,
                    None => {
                        let asks = self.allocator.status(&survey.into(), now) == QuotaStatus::NeedsGrant;
                        quota_statuses.push((survey, asks));
                        asks
                    }
                };
                if asks {
                    needs = true;
                    waiting.wants(survey);
                }
            }
            needs |= patient && pending.caps.is_open();
            if !needs {
                return Some((*offset, patient));
            }
            waiting.blocked.insert(whose);
        }
        None
    }

    pub fn pending_bytes(&self) -> usize {
        self.pending.values().map(|pending| pending.value.len_bytes()).sum()
    }

    /// Lets a copy of a waiting trigger wait together with it.
    pub fn join(&mut self, record: &Record<'_>, reply_to: Option<&String>) -> bool {
        let (Some(event_id), Body::Trigger { .. }) = (&record.event_id, &record.body) else { return false };
        let same = |pending: &PendingRequest| {
            pending.project == record.project
                && pending.user_id == record.user_id
                && pending.event_id.as_deref() == Some(&**event_id)
        };
        let Some((offset, pending)) = self.pending.iter_mut().find(|(_, pending)| same(pending)) else { return false };
        self.dirty.insert(*offset);
        pending.reply_to.extend(reply_to.filter(|_| pending.reply_to.len() < MAX_JOINED).cloned());
        true
    }

    pub fn of_user(&self, project: &str, user_id: &str) -> usize {
        self.pending.values().filter(|pending| pending.project == project && pending.user_id == user_id).count()
    }
}

fn stored_key(kind: &[u8], survey: &SurveyKey) -> Vec<u8> {
    [kind, &askwhen_store::keys::named(&survey.project, &survey.survey_id)].concat()
}

fn key_of(name: &[u8]) -> SurveyKey {
    let mut parts = name.splitn(2, |byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    SurveyKey { project: parts.next().unwrap_or_default(), survey_id: parts.next().unwrap_or_default() }
}
