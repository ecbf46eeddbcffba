//! The quotas of a partition: its accounts and coordinators, and the requests that wait
//! for a grant of one. What is kept of them; `parking` moves them.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::changes::Changes;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::quota::{Key, QuotaAllocator, QuotaCoordinator, QuotaLease, QuotaStatus};
use askwhen_domain::record::{Body, Record};
use askwhen_domain::time::{Millis, SECOND};
use askwhen_store::{Family, Store};

/// How long a request waits, in the partition's time: whoever asked is told
/// before they stop listening. A constant of the logic.
const PATIENCE: Millis = SECOND;
/// Requests with one event id that wait together.
const MAX_JOINED: usize = 64;

const ACCOUNT: &[u8] = b"account/";
const BANK: &[u8] = b"bank/";
const PARKED: &[u8] = b"parked/";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingRequest {
    pub project: String,
    pub user_id: String,
    /// The record, as it stands in the journal.
    pub value: Json,
    pub trusted: bool,
    /// What the sender calls it: a copy joins it.
    pub event_id: Option<String>,
    pub reply_to: Vec<String>,
    pub parked_at: Millis,
    /// The surveys of which a grant is needed; none behind another of the user.
    pub waits_for: BTreeSet<String>,
}

impl PendingRequest {
    /// Whether it can wait still. Time goes back where an operator has accepted
    /// another one: whoever came at a time that is yet to come waits no longer.
    pub fn is_patient(&self, now: Millis) -> bool {
        self.parked_at <= now && now < self.parked_at.saturating_add(PATIENCE)
    }

    /// Stands for its user.
    pub fn whose(&self) -> u128 {
        id::event_hash(&self.project, &self.user_id, "")
    }
}

/// What those who wait need, and the users of whom one does.
#[derive(Default)]
pub struct WaitingGrants {
    pub wanted: Vec<(Key, u64)>,
    pub blocked: HashSet<u128>,
}

impl WaitingGrants {
    pub fn wants(&mut self, (project, survey_id): (&str, &str)) {
        match self.wanted.iter_mut().find(|((p, s), _)| p == project && s == survey_id) {
            Some((_, count)) => *count += 1,
            None => self.wanted.push(((project.to_owned(), survey_id.to_owned()), 1)),
        }
    }
}

/// The quotas of a partition, and who waits for them.
#[derive(Debug, Default)]
pub struct Quotas {
    pub ledger: QuotaAllocator,
    /// By the offset of the record.
    pub pending: BTreeMap<u64, PendingRequest>,
    pub dirty: BTreeSet<u64>,
    /// Whether the record at hand has moved any grants.
    pub moved: bool,
    /// Requests that have left, since this was opened.
    pub released: u64,
}

impl Quotas {
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &Store, partition: u32, partitions: u32) -> Result<Quotas, askwhen_store::Error> {
        let mut quotas = Quotas { ledger: QuotaAllocator::new(partition, partitions), ..Quotas::default() };
        let damaged = |e: serde_json::Error| askwhen_store::Error::damaged("quotas", e);
        store.each(Family::Quotas, |key, value| {
            if let Some(offset) = key.strip_prefix(PARKED) {
                let offset = offset.try_into().map_or(0, u64::from_be_bytes);
                quotas.pending.insert(offset, serde_json::from_slice(&value).map_err(damaged)?);
            } else if let Some(name) = key.strip_prefix(ACCOUNT) {
                let account: QuotaLease = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.ledger.restore(key_of(name), Some(account), None);
            } else if let Some(name) = key.strip_prefix(BANK) {
                let bank: QuotaCoordinator = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.ledger.restore(key_of(name), None, Some(bank));
            }
            Ok::<_, askwhen_store::Error>(())
        })?;
        Ok(quotas)
    }

    /// The changes that bring this ledger into an empty store.
    pub fn of(ledger: QuotaAllocator) -> Quotas {
        Quotas { ledger, ..Quotas::default() }
    }

    pub fn anyone_waits(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        (self.dirty.len() + self.ledger.dirty_count()) * 256
    }

    pub fn freeze(&mut self) -> Changes {
        let mut changes = Vec::new();
        for key in self.ledger.take_dirty() {
            if let Some(account) = self.ledger.accounts.get(&key) {
                changes.push((stored(ACCOUNT, &key), serde_json::to_vec(account).ok()));
            }
            if let Some(bank) = self.ledger.banks.get(&key) {
                changes.push((stored(BANK, &key), serde_json::to_vec(bank).ok()));
            }
        }
        for offset in std::mem::take(&mut self.dirty) {
            let pending = self.pending.get(&offset).and_then(|pending| serde_json::to_vec(pending).ok());
            changes.push(([PARKED, &offset.to_be_bytes()].concat(), pending));
        }
        Box::new(move |batch| {
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(Family::Quotas, key, value),
                    None => batch.delete(Family::Quotas, key),
                }
            }
        })
    }

    pub fn waited_for(&self) -> BTreeSet<Key> {
        // Hundreds wait for one or two surveys.
        let mut distinct: Vec<(&str, &str)> = Vec::new();
        for pending in self.pending.values() {
            for survey_id in &pending.waits_for {
                let key = (pending.project.as_str(), survey_id.as_str());
                if !distinct.contains(&key) {
                    distinct.push(key);
                }
            }
        }
        distinct.into_iter().map(|(project, survey_id)| (project.to_owned(), survey_id.to_owned())).collect()
    }

    /// From an offset on, the first parked request that need not wait any more;
    /// notes what those before it still need, and whom they hold up.
    pub fn first_free(&self, from: u64, now: Millis, waiting: &mut WaitingGrants) -> Option<(u64, bool)> {
        // Looked up once for each survey: whether the coordinator would have to be asked.
        let mut quota_statuses: Vec<((&str, &str), bool)> = Vec::new();
        for (offset, pending) in self.pending.range(from..) {
            let whose = pending.whose();
            if waiting.blocked.contains(&whose) {
                continue;
            }
            let patient = pending.is_patient(now);
            let mut needs = false;
            for survey_id in pending.waits_for.iter().filter(|_| patient) {
                let key = (pending.project.as_str(), survey_id.as_str());
                let asks = match quota_statuses.iter().find(|(known, _)| *known == key) {
                    Some((_, asks)) => *asks,
                    None => {
                        let asks = self.ledger.room(&(key.0.to_owned(), key.1.to_owned()), now) == QuotaStatus::Ask;
                        quota_statuses.push((key, asks));
                        asks
                    }
                };
                if asks {
                    needs = true;
                    waiting.wants(key);
                }
            }
            if !needs {
                return Some((*offset, patient));
            }
            waiting.blocked.insert(whose);
        }
        None
    }

    pub fn parked_bytes(&self) -> usize {
        self.pending.values().map(|pending| pending.value.len_bytes()).sum()
    }

    /// Lets a copy of a waiting trigger wait with it.
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

fn stored(kind: &[u8], (project, survey_id): &Key) -> Vec<u8> {
    [kind, &askwhen_store::keys::named(project, survey_id)].concat()
}

fn key_of(name: &[u8]) -> Key {
    let mut parts = name.splitn(2, |byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
