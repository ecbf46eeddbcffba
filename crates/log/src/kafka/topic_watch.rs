//! Looks at the ends of all partitions, and at what the topics are like, while the log
//! is used. A topic that is deleted and made again goes by its name as before: what tells
//! is that a partition ends before a place where it had records.

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

/// How often the ends are asked.
const TURN: Duration = Duration::from_secs(1);
/// How long a broker may take to tell them.
const ASK: Duration = Duration::from_secs(2);
/// How often a topic has to be unknown before that is believed.
const MISSED: u32 = 2;
/// The topics are compared with what is declared in one of so many turns.
const COMPARED_EVERY: u32 = 5;

pub struct TopicWatch {
    cluster: Arc<Cluster>,
    turns: u32,
    /// How many partitions the journal had when that was logged last.
    journal_partitions: u32,
    /// The furthest ends that were seen.
    ends: BTreeMap<TopicPartition, u64>,
    /// Ended before that the last time; to be seen twice.
    suspects: BTreeSet<TopicPartition>,
    /// How often a topic was unknown in a row.
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

    /// Looks at them until the returned service is dropped.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(mut self) -> Result<Service, Error> {
        let watching = Service::spawn("kafka-topics", Arc::default(), move |turns| {
            while turns.go_on() {
                // Nobody waits longer than necessary for a log that is away.
                if self.cluster.health.is_writable().is_ok() {
                    self.turn(|| turns.go_on());
                }
                turns.wait(TURN);
            }
        });
        watching.map_err(|e| Error::io("a thread for the topics", e))
    }

    /// One look at every topic.
    pub fn turn(&mut self, goes_on: impl Fn() -> bool) {
        // Answers are for those who wait for them now: nothing of them is missed.
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

    /// Compares the topics with what is declared of them.
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

    /// Compares a partition's end with the largest that was seen of it.
    fn compare(&mut self, at: TopicPartition, name: &str, end: u64) {
        let known = self.ends.entry(at).or_insert(end);
        if end >= *known {
            *known = end;
            self.suspects.remove(&at);
        } else if !self.suspects.insert(at) {
            self.suspects.remove(&at);
            self.cluster.health.faults.lost(at, name, *known, end);
            // What comes now is compared with what is there now.
            *known = end;
        }
    }
}
