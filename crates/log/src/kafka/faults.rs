//! Known faults of the topics and of this process's permissions, for readiness and for
//! appends. Each is logged when it is found, and every minute while it lasts.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_wire::topic::Topic;

/// A denied permission that nobody has met for this long may have been granted.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// The partition whose loss is repaired while the log is used: partition 0 of the engine
/// writes it again.
pub const DEFINITIONS: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerFault {
    /// The brokers do not know the topic any more.
    Missing(Topic),
    /// The partition ends before an offset that it is known to have had.
    Lost(TopicPartition),
    /// The brokers deny a permission on a topic or group.
    Denied { resource: String, right: &'static str },
    /// The brokers reject this process's credentials.
    Unauthenticated,
    /// A topic lacks partitions, or has settings that lose records.
    Misdeclared(Topic),
    /// Readers of a purpose cannot pass a transaction that stays open.
    OpenTransaction { purpose: &'static str, at: TopicPartition },
}

impl BrokerFault {
    /// Whether only another attempt can show that it still lasts.
    fn is_forgotten(&self) -> bool {
        matches!(self, BrokerFault::Denied { .. } | BrokerFault::Unauthenticated)
    }
}

#[derive(Debug)]
struct Found {
    text: String,
    seen: Instant,
    logged: Instant,
}

#[derive(Debug, Default)]
pub struct Faults {
    found: Mutex<BTreeMap<BrokerFault, Found>>,
    /// Whether there are any, to be checked quickly for every record.
    any: AtomicBool,
}

impl Faults {
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub fn report(&self, fault: BrokerFault, text: String) {
        let now = Instant::now();
        let mut found = self.found.lock().expect("no panic holds this lock");
        let known = found.get(&fault).map(|known| known.logged).filter(|logged| now < *logged + LOGGED_EVERY);
        if known.is_none() {
            match fault {
                BrokerFault::Lost(_) | BrokerFault::Missing(_) => {
                    tracing::error!(why = text, "the log is not what it was")
                }
                BrokerFault::Misdeclared(_) => {
                    tracing::error!(why = text, "records of the log would be lost")
                }
                _ => tracing::warn!(why = text, "the brokers do not let this process do its work"),
            }
        }
        found.insert(fault, Found { text, seen: now, logged: known.unwrap_or(now) });
        self.any.store(true, Ordering::Release);
    }

    /// Reports a denied permission, by the full name of a topic or group.
    pub fn denied(&self, kind: &str, name: &str, right: &'static str) {
        let resource = format!("{kind} {name}");
        let text = format!(
            "the brokers deny {right} on {resource} to this process: give its principal that right (kafka-acls --add)"
        );
        self.report(BrokerFault::Denied { resource, right }, text);
    }

    /// Reports that it works again.
    pub fn allowed(&self, kind: &str, name: &str, right: &'static str) {
        if self.any() {
            self.over(&BrokerFault::Denied { resource: format!("{kind} {name}"), right });
        }
    }

    pub fn over(&self, fault: &BrokerFault) {
        if !self.any() {
            return;
        }
        let mut found = self.found.lock().expect("no panic holds this lock");
        if let Some(known) = found.remove(fault) {
            tracing::info!(why = known.text, "this is over");
        }
        self.any.store(!found.is_empty(), Ordering::Release);
    }

    /// Reports that a partition of topic `name` has lost records: it had those below
    /// `known`, and ends at `end`.
    pub fn lost(&self, at: TopicPartition, name: &str, known: u64, end: u64) {
        let what = format!(
            "topic {name} was deleted and made again while it was used, or a partition of it was cut: {at} had records \
             up to {known} and ends at {end} now"
        );
        let text = if at == DEFINITIONS {
            format!("{what}. What it held is written again from the state of partition 0; until then nothing is taken")
        } else {
            format!(
                "{what}. Nothing more is written to it. Stop all processes and restore the records from a backup; without \
                 one, see \"A topic has lost records\" in docs/stopped-partitions.md"
            )
        };
        self.report(BrokerFault::Lost(at), text);
    }

    pub fn is_unauthenticated(&self) -> bool {
        self.any() && self.found.lock().expect("no panic holds this lock").contains_key(&BrokerFault::Unauthenticated)
    }

    pub fn has_lost(&self, at: TopicPartition) -> bool {
        self.any() && self.found.lock().expect("no panic holds this lock").contains_key(&BrokerFault::Lost(at))
    }

    /// Refuses to continue after lost records.
    ///
    /// # Errors
    /// [`Error::Lost`] when `concerns` selects a partition that has lost some.
    pub fn must_be_complete(&self, concerns: impl Fn(TopicPartition) -> bool) -> Result<(), Error> {
        if !self.any() {
            return Ok(());
        }
        let found = self.found.lock().expect("no panic holds this lock");
        let mut lost = found.iter().filter(|(fault, _)| matches!(fault, BrokerFault::Lost(at) if concerns(*at)));
        lost.next().map_or(Ok(()), |(_, found)| Err(Error::Lost(found.text.clone())))
    }

    /// The current faults, each once.
    pub fn reasons(&self) -> Vec<String> {
        if !self.any() {
            return Vec::new();
        }
        let mut found = self.found.lock().expect("no panic holds this lock");
        found.retain(|fault, known| !fault.is_forgotten() || known.seen.elapsed() < FORGOTTEN_AFTER);
        self.any.store(!found.is_empty(), Ordering::Release);
        let mut reasons: Vec<String> = found.values().map(|known| known.text.clone()).collect();
        reasons.dedup();
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TopicPartition = TopicPartition { topic: Topic::Decisions, partition: 3 };

    #[test]
    fn a_fault_is_a_reason_until_it_is_over() {
        let faults = Faults::default();
        assert!(faults.reasons().is_empty() && faults.must_be_complete(|_| true).is_ok());
        faults.denied("group", "a.engine", "READ");
        faults.lost(AT, "a.decisions", 9, 2);
        let reasons = faults.reasons();
        assert!(reasons.iter().any(|reason| reason.contains("READ on group a.engine")), "{reasons:?}");
        assert!(reasons.iter().any(|reason| reason.contains("decisions/3 had records up to 9")), "{reasons:?}");
        assert!(faults.has_lost(AT) && !faults.has_lost(DEFINITIONS));
        assert!(faults.must_be_complete(|at| at.partition == 2).is_ok(), "it concerns another partition");
        assert!(matches!(faults.must_be_complete(|at| at.partition == 3), Err(Error::Lost(_))));
        faults.allowed("group", "a.engine", "READ");
        faults.over(&BrokerFault::Lost(AT));
        assert!(!faults.any() && faults.reasons().is_empty());
    }
}
