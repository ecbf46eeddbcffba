//! Watches the ends of all partitions and the settings of topics while the log is used. A
//! topic that was deleted and created again has the same name; it is noticed because a
//! partition ends before an offset that it had.

use rdkafka::types::RDKafkaErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use super::faults::BrokerFault;
use super::offsets::END;
use super::topics;
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_process::thread::Service;
use askwhen_wire::topic::Topic;

/// How often the ends are read.
const TURN: Duration = Duration::from_secs(1);
/// How long a broker may take to answer.
const ASK: Duration = Duration::from_secs(2);
/// How often in a row a topic has to be unknown to count as missing.
const MISSED: u32 = 2;
/// Every so many turns the topics are compared with their declarations.
const COMPARED_EVERY: u32 = 5;

pub struct TopicWatch {
    cluster: Arc<Cluster>,
    turns: u32,
    /// The number of the journal's partitions when it was last logged.
    journal_partitions: u32,
    /// By partition, the highest end that was seen.
    ends: BTreeMap<TopicPartition, u64>,
    /// Partitions that ended too early the last time; it has to be seen twice.
    suspects: BTreeSet<TopicPartition>,
    /// How often in a row a topic was unknown.
    missed: BTreeMap<Topic, u32>,
}

impl TopicWatch {
    pub fn new(cluster: Arc<Cluster>) -> TopicWatch {
        TopicWatch {
            journal_partitions: cluster.settings.partitions,
            cluster,
            turns: 0,
            ends: BTreeMap::new(),
            suspects: BTreeSet::new(),
            missed: BTreeMap::new(),
        }
    }

    /// Watches until the returned service is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut self) -> Result<Service, Error> {
        let watching = Service::spawn("kafka-topics", Arc::default(), move |turns| {
            while turns.go_on() {
                // Waits no longer than necessary for a log that is away.
                if self.cluster.health.is_writable().is_ok() {
                    self.turn(|| turns.go_on());
                }
                turns.wait(TURN);
            }
        });
        watching.map_err(|e| Error::io("a thread for the topics", e))
    }

    /// Checks every topic once.
    pub fn turn(&mut self, goes_on: impl Fn() -> bool) {
        // Replies are only for requests that wait now, so none is missed.
        for topic in Topic::ALL.iter().filter(|topic| **topic != Topic::Replies) {
            if goes_on() {
                self.look(*topic);
            }
        }
        if goes_on() && self.turns.is_multiple_of(COMPARED_EVERY) {
            self.compare_declared();
        }
        self.turns = self.turns.wrapping_add(1);
    }

    /// Compares the topics with their declarations.
    fn compare_declared(&mut self) {
        let Cluster { admin, settings, runtime, health, .. } = &*self.cluster;
        let found = match topics::look(admin, settings, runtime) {
            Ok(found) => found,
            Err(error) => return tracing::debug!(%error, "the topics cannot be compared with what is declared"),
        };
        for topic in Topic::ALL {
            let wrong = found.wrong.iter().filter(|(of, _)| of == topic);
            let wrong: Vec<&str> = wrong.map(|(_, text)| text.as_str()).collect();
            match wrong.is_empty() {
                true => health.faults.over(&BrokerFault::Misdeclared(*topic)),
                false => health.faults.report(BrokerFault::Misdeclared(*topic), wrong.join("; ")),
            }
        }
        let there = found.more.get(&Topic::Events).copied().unwrap_or(settings.partitions);
        if there > self.journal_partitions {
            topics::log_surplus(settings, &found);
        }
        self.journal_partitions = there;
    }

    fn look(&mut self, topic: Topic) {
        let partitions = 0..topic.partitions(self.cluster.settings.partitions);
        let all: Vec<TopicPartition> = partitions.map(|partition| TopicPartition { topic, partition }).collect();
        let name = self.cluster.offsets.name(topic).to_owned();
        match self.cluster.offsets.ask(&all, END, ASK) {
            Ok(ends) => {
                self.missed.remove(&topic);
                self.cluster.health.faults.over(&BrokerFault::Missing(topic));
                for (at, end) in all.into_iter().zip(ends) {
                    self.compare(at, &name, end.unwrap_or(0));
                }
            }
            Err((error, code)) => {
                tracing::debug!(%error, topic = name, "the ends of a topic cannot be asked");
                if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                    self.cluster.health.faults.denied("topic", &name, "DESCRIBE");
                }
                let unknown = [RDKafkaErrorCode::UnknownTopicOrPartition, RDKafkaErrorCode::UnknownTopic];
                let is_unknown =
                    code.is_some_and(|code| unknown.contains(&code) || code == RDKafkaErrorCode::UnknownPartition);
                if !is_unknown {
                    return;
                }
                let missed = self.missed.entry(topic).or_insert(0);
                *missed += 1;
                if *missed >= MISSED {
                    let text = format!(
                        "there is no topic {name} any more, or it has fewer partitions: if it was deleted, what it held \
                         is gone; restore it from a backup"
                    );
                    self.cluster.health.faults.report(BrokerFault::Missing(topic), text);
                }
            }
        }
    }

    /// Compares a partition's end with the highest that was seen.
    fn compare(&mut self, at: TopicPartition, name: &str, end: u64) {
        let known = self.ends.entry(at).or_insert(end);
        if end >= *known {
            *known = end;
            self.suspects.remove(&at);
        } else if !self.suspects.insert(at) {
            self.suspects.remove(&at);
            self.cluster.health.faults.lost(at, name, *known, end);
            // From now on it is compared with what is there now.
            *known = end;
        }
    }
}
