//! Converts state to another number of partitions. Users move with their records; rows
//! known only by a hash go wherever the user may be; definitions go to all partitions.

use crate::engine::families;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::counters::{self, CapCounters};
use super::quotas::Quotas;
use super::table::{DefinitionRow, NAMES, REQUESTS, Table};
use super::users::CacheLimit;
use askwhen_domain::id;
use askwhen_domain::quota::cap::{CapCounter, CapKey, CapPlace, CapRule};
use askwhen_domain::quota::{self, Holds};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::Millis;
use askwhen_partition::StopReason;
use askwhen_store::{Batch, Family, Store};
use askwhen_wire::error::Class;
use askwhen_wire::topics::DeliveryRecord;
use askwhen_wire::{definition, state};

/// Bytes written to a store at a time.
const BATCH_BYTES: usize = 1 << 20;

/// Why state cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] askwhen_store::Error),
    #[error("a user's state is unreadable: {0}")]
    User(#[source] state::Error),
    #[error("a definition is unreadable: {0}")]
    Definition(#[source] serde_json::Error),
    #[error("the names that a project has met are unreadable: {0}")]
    Names(#[source] serde_json::Error),
    #[error(transparent)]
    Table(#[from] StopReason),
    #[error("requests are waiting for a quota: serve for a moment more, then export again")]
    WaitingGrants,
}

impl Error {
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Store(_) => "store",
            Error::User(_) => "user",
            Error::Definition(_) => "definition",
            Error::Names(_) => "names",
            Error::Table(_) => "table",
            Error::WaitingGrants => "waiting",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::Store(error) => error.class(),
            Error::User(error) => error.class(),
            Error::Definition(_) | Error::Names(_) => Class::Fatal,
            Error::Table(stop) => stop.class(),
            Error::WaitingGrants => Class::Retry,
        }
    }
}

/// The new stores, and batches for them.
struct TargetStores<'a> {
    stores: &'a [Arc<Store>],
    batches: Vec<(usize, Batch)>,
}

impl TargetStores<'_> {
    fn put(&mut self, partition: u32, family: Family, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let (bytes, batch) = &mut self.batches[partition as usize];
        *bytes += key.len() + value.len();
        batch.put(family, key, value);
        if *bytes >= BATCH_BYTES {
            *bytes = 0;
            self.stores[partition as usize].write(std::mem::take(batch))?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        for (store, (_, batch)) in self.stores.iter().zip(self.batches) {
            store.write(batch)?;
        }
        Ok(())
    }
}

/// Fills one new store for each new partition from all old ones, which must not be in use;
/// returns the number of users.
///
/// # Errors
/// When a store cannot be read or written.
pub fn repartition(from: &[Arc<Store>], into: &[Arc<Store>]) -> Result<u64, Error> {
    let (old, new) = (from.len() as u32, into.len() as u32);
    let mut out = TargetStores { stores: into, batches: into.iter().map(|_| (0, Batch::default())).collect() };
    let mut users = 0;
    let mut holds: Vec<Holds> = vec![Holds::new(); into.len()];
    let mut places: HeldPlaces = BTreeMap::new();
    for (partition, store) in (0..).zip(from) {
        store.each(families::USERS, |key, value| {
            let user_id = key.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
            let to = id::murmur2(user_id) % new;
            let mut user = state::decode(&value).map_err(Error::User)?;
            user.leave_journal();
            let project = key.splitn(2, |byte| *byte == 0).next().unwrap_or_default();
            let project = String::from_utf8_lossy(project).into_owned();
            for offer in &user.offers {
                // Lapsed holds are included: the new partition decides whether they have
                // lapsed.
                if let Some(until) = offer.holds(Millis::MIN) {
                    let of_survey =
                        holds[to as usize].entry(SurveyKey::new(project.clone(), offer.survey_id.clone())).or_default();
                    *of_survey.entry(until).or_default() += 1;
                }
            }
            let pins = user.extension.iter().flat_map(|extension| extension.caps.values().flatten());
            for pin in pins {
                if let Some(CapPlace::Held(until)) = pin.place {
                    places.entry(pin.key).or_insert((pin.rule, Vec::new())).1.push((until, to));
                }
            }
            users += 1;
            out.put(to, families::USERS, &key, &state::encode(&user))
        })?;
        // A user's hash has the same remainder modulo every common divisor of both numbers.
        let common = gcd(old, new);
        let possible: Vec<u32> = (0..new).filter(|to| to % common == partition % common).collect();
        for family in [families::DEDUPE, families::DECIDED] {
            store.each(family, |key, value| possible.iter().try_for_each(|to| out.put(*to, family, &key, &value)))?;
        }
    }
    definitions(from, &mut out)?;
    caps(from, &mut out, places)?;
    out.finish()?;
    quotas(from, into, holds)?;
    Ok(users)
}

/// By counter, its rule and the places that offers of users hold: each with its end and the
/// new partition of the user.
type HeldPlaces = BTreeMap<CapKey, (CapRule, Vec<(Millis, u32)>)>;

/// Writes each counter to its new partition, with the places that users hold.
fn caps(from: &[Arc<Store>], out: &mut TargetStores<'_>, mut places: HeldPlaces) -> Result<(), Error> {
    let new = out.stores.len() as u32;
    let mut put = |key: CapKey, counter: &CapCounter| {
        let (stored_key, value) = counters::row(key, counter);
        out.put(key.home(new), families::QUOTAS, &stored_key, &value)
    };
    for store in from {
        counters::each(store, |key, counter| {
            let held = places.remove(&key).map(|(_, held)| held);
            put(key, &counter.moved(held.into_iter().flatten()))
        })?;
    }
    places.into_iter().try_for_each(|(key, (rule, held))| {
        let used_at = held.iter().map(|(until, _)| *until).max().unwrap_or(Millis::MIN);
        put(key, &CapCounter::new(rule, used_at).moved(held))
    })
}

fn quotas(from: &[Arc<Store>], into: &[Arc<Store>], holds: Vec<Holds>) -> Result<(), Error> {
    let mut leases = Vec::new();
    let new = into.len() as u32;
    for (partition, store) in (0..).zip(from) {
        let quotas = Quotas::load(store, partition, from.len() as u32, CacheLimit::from(0))?;
        if quotas.anyone_waits() {
            return Err(Error::WaitingGrants);
        }
        leases.extend(quotas.allocator.leases);
    }
    for ((partition, allocator), store) in (0..).zip(quota::redistribute(leases, holds)).zip(into) {
        let mut batch = Batch::default();
        let counters = CapCounters::new(store.clone(), partition, new, CacheLimit::from(0));
        Quotas::new(allocator, counters).freeze(None)(&mut batch);
        store.write(batch)?;
    }
    Ok(())
}

/// Copies the registrar's rows to all, and the names that any partition has met.
fn definitions(from: &[Arc<Store>], out: &mut TargetStores<'_>) -> Result<(), Error> {
    let mut names: BTreeMap<Vec<u8>, BTreeSet<String>> = BTreeMap::new();
    for (partition, store) in from.iter().enumerate() {
        store.each(families::DEFINITIONS, |key, value| {
            if key.starts_with(NAMES.as_bytes()) {
                let met: BTreeSet<String> = serde_json::from_slice(&value).map_err(Error::Names)?;
                names.entry(key).or_default().extend(met);
                return Ok(());
            }
            let to = match (partition, key == REQUESTS) {
                (0, true) => 0..1,
                (0, false) => 0..out.stores.len() as u32,
                _ => 0..0,
            };
            let value = if key == REQUESTS { value } else { elsewhere(&value)? };
            to.into_iter().try_for_each(|to| out.put(to, families::DEFINITIONS, &key, &value))
        })?;
    }
    for (key, met) in names {
        let value = serde_json::to_vec(&met).expect("names serialise");
        for to in 0..out.stores.len() as u32 {
            out.put(to, families::DEFINITIONS, &key, &value)?;
        }
    }
    Ok(())
}

/// A row for another log, in which its journal record is elsewhere.
fn elsewhere(row: &[u8]) -> Result<Vec<u8>, Error> {
    let row: DefinitionRow = serde_json::from_slice(row).map_err(Error::Definition)?;
    Ok(serde_json::to_vec(&DefinitionRow { defined: None, ..row }).expect("a row serialises"))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The records that tell a delivery of every endpoint.
///
/// # Errors
/// When the store cannot be read.
pub fn endpoint_commands(registrar: &Store) -> Result<Vec<DeliveryRecord>, Error> {
    let table = Table::load(registrar)?;
    let endpoints = table.rows().filter(|row| row.kind == definition::Kind::Endpoint);
    let command = |row: &DefinitionRow| DeliveryRecord::Endpoint {
        project: row.project.clone(),
        endpoint_id: row.id.clone(),
        version: row.version,
        body: row.body.as_deref().cloned(),
    };
    Ok(endpoints.map(command).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::quota::cap::{CapAllocator, CapAsk, CapChange, CapEvent, CapMessage, CapOutcome, PinnedCap};
    use askwhen_domain::quota::{QuotaLease, QuotaStatus};
    use askwhen_domain::user::User;
    use askwhen_store::{Memory, keys};

    #[test]
    fn users_and_what_is_known_of_them_meet_again() {
        let make = |n: usize| (0..n).map(|_| Arc::new(Store::Memory(Memory::default()))).collect::<Vec<_>>();
        for (old, new) in [(2, 8), (8, 2), (3, 4), (4, 6), (5, 5)] {
            let (from, into) = (make(old), make(new));
            for n in 0..200_u32 {
                let user_id = format!("u{n}");
                let mut batch = Batch::default();
                batch.put(families::USERS, keys::named("p", &user_id), state::encode(&User::default()));
                batch.put(families::DEDUPE, n.to_be_bytes(), []);
                from[id::partition_of(&user_id, old as u32) as usize].write(batch).unwrap();
            }
            assert_eq!(repartition(&from, &into).unwrap(), 200);
            for n in 0..200_u32 {
                let user_id = format!("u{n}");
                let home = &into[id::partition_of(&user_id, new as u32) as usize];
                assert!(home.get(families::USERS, &keys::named("p", &user_id)).unwrap().is_some());
                assert!(home.get(families::DEDUPE, &n.to_be_bytes()).unwrap().is_some(), "{old} to {new}");
            }
        }
    }

    #[test]
    fn what_is_used_of_a_quota_stays_used() {
        let make = |n: usize| (0..n).map(|_| Arc::new(Store::Memory(Memory::default()))).collect::<Vec<_>>();
        let (from, into) = (make(3), make(5));
        let key = SurveyKey::new("p", "s");
        let lease = |used, free| QuotaLease { epoch: 7, limit: Some(10), used, free, ..QuotaLease::default() };
        let old = [lease(2, 3), lease(4, 1), lease(2, 0)];
        for (store, lease) in from.iter().zip(old) {
            let mut allocator = quota::QuotaAllocator::new(0, 3);
            allocator.restore(key.clone(), Some(lease), None);
            let mut batch = Batch::default();
            batch.put(families::QUOTAS, b"account/p\0s", serde_json::to_vec(&allocator.leases[&key]).unwrap());
            store.write(batch).unwrap();
        }
        repartition(&from, &into).unwrap();
        let mut coordinator = Quotas::load(&into[0], 0, 5, CacheLimit::from(0)).unwrap();
        assert_eq!(coordinator.allocator.leases[&key].used, 8);
        assert!(coordinator.allocator.ask(&key, 5, 0).is_empty(), "its own coordinator answers");
        assert_eq!(
            (coordinator.allocator.status(&key, 0), coordinator.allocator.leases[&key].free),
            (QuotaStatus::Available, 2)
        );
    }

    #[test]
    fn what_is_counted_and_held_of_a_cap_stays_so() {
        let make = |n: usize| (0..n).map(|_| Arc::new(Store::Memory(Memory::default()))).collect::<Vec<_>>();
        let (old, new) = (3, 5);
        let (from, into) = (make(old), make(new));
        let rule = CapRule { max: 3, within: None };
        let key = |value: u128| CapKey { cap: 11, value };
        for value in 0..20_u128 {
            // One display is counted, and ann's offer holds a place.
            let home = key(value).home(old as u32);
            let mut caps = CapAllocator::new(home, old as u32);
            for (request, outcome) in [(1, CapOutcome::Counted(5)), (2, CapOutcome::Held(100))] {
                let ask = caps.ask(CapAsk { key: key(value), rule }, request, false, 5);
                let settle = caps.settle(CapChange { key: key(value), place: CapPlace::Request(request), outcome });
                let messages = [ask, settle].map(|message| CapMessage { from: home, ..message });
                caps.receive(messages.to_vec(), 5);
            }
            let mut batch = Batch::default();
            for (key, counter) in caps.take_dirty() {
                let (stored_key, value) = counters::row(key, &counter.expect("it counts"));
                batch.put(families::QUOTAS, stored_key, value);
            }
            from[home as usize].write(batch).unwrap();
        }
        let mut ann = User::default();
        let held =
            |value| PinnedCap { key: key(value), rule, count: CapEvent::Displayed, place: Some(CapPlace::Held(100)) };
        ann.extension_mut().caps.insert("off".into(), (0..20).map(held).collect());
        let mut batch = Batch::default();
        batch.put(families::USERS, keys::named("p", "ann"), state::encode(&ann.summarized()));
        from[id::partition_of("ann", old as u32) as usize].write(batch).unwrap();
        repartition(&from, &into).unwrap();
        for value in 0..20_u128 {
            let home = key(value).home(new as u32);
            let mut counts = Vec::new();
            counters::each(&into[home as usize], |known, counter| {
                counts.extend((known == key(value)).then(|| counter.count(5)));
                Ok::<_, Error>(())
            })
            .unwrap();
            assert_eq!(counts, [2], "of value {value}");
        }
    }
}
