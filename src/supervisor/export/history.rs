//! Copies the history to another log: decisions, responses, displays, ended deliveries with
//! their attempts, rejects. Each names its journal record by the position that this has
//! there.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

use super::places::JournalPlaces;
use crate::replay::Error;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::refs::UserKey;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, NewRecord, Record, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptEnd, DeliveryRecord, SOURCE_HEADER, Source};

/// In this order, because the end of a delivery has to be known before it is copied, and an
/// erasure finds what came before it.
const TOPICS: [Topic; 7] = [
    Topic::Deliveries,
    Topic::Attempts,
    Topic::Dead,
    Topic::Decisions,
    Topic::Responses,
    Topic::Displays,
    Topic::Rejects,
];

/// By topic name, the records that are copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryReport {
    pub brought: BTreeMap<String, u64>,
    /// Records that are not copied: of erased users, and about deliveries that are not
    /// known any more.
    pub left: BTreeMap<String, u64>,
    /// Records that retention has removed: lists and counters do not go back further.
    pub trimmed: BTreeMap<String, u64>,
}

/// The history of an old log.
pub struct History<'a> {
    pub log: &'a Log,
    /// Partitions of the old log and of the new one.
    pub old: u32,
    pub new: u32,
    /// Positions of the journal's records in the new log; `None` while nothing is written.
    pub places: Option<&'a JournalPlaces>,
    /// Deliveries that have not ended, by [`hash`]; they are copied elsewhere.
    pub waiting: HashSet<u128>,
}

/// What the topics of a partition say about each other's records.
#[derive(Default)]
struct PartitionFacts {
    /// Deliveries that have ended, by [`hash`].
    ended: HashSet<u128>,
    /// Deliveries whose record is copied, so that their attempts are copied, too.
    known: HashSet<u128>,
    /// The latest erasure of each user.
    erased: HashMap<UserKey, RecordPosition>,
}

/// What happens to a record.
enum Fate {
    GoesOver,
    /// It is copied elsewhere, as a delivery that waits or as an endpoint.
    GoesOtherwise,
    Stays,
}

#[derive(Deserialize)]
struct AttemptEnding {
    delivery_id: String,
    #[serde(default)]
    ended: Option<AttemptEnd>,
}

#[derive(Deserialize)]
struct DeadDelivery {
    delivery: DeliveryName,
}

#[derive(Deserialize)]
struct DeliveryName {
    delivery_id: String,
}

/// The user of a record of `decisions` or `responses`: the members are at the top, or in
/// `data`.
#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    project: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    data: Option<Box<Owner>>,
}

/// A hash of a delivery's id, for large sets.
pub fn hash(delivery_id: &str) -> u128 {
    id::event_hash("", "", delivery_id)
}

fn value<T: for<'de> Deserialize<'de>>(record: &Record) -> Option<T> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}

fn source_of(record: &Record) -> Option<RecordPosition> {
    Source::parse(record.header(SOURCE_HEADER)?).map(|source| source.position())
}

impl History<'_> {
    /// Passes every record that is copied to `append`, with its append time, those of a
    /// partition in order.
    ///
    /// # Errors
    /// When the log cannot be read, and errors of `append`.
    pub fn bring(
        &self,
        mut append: impl FnMut(TopicPartition, NewRecord, Millis) -> Result<(), Error>,
        progress: &mut impl FnMut(&'static str, u64, u64),
    ) -> Result<HistoryReport, Error> {
        let mut report = HistoryReport::default();
        let mut all = 0;
        for at in self.topic_partitions() {
            let bounds = self.log.bounds(at)?;
            all += bounds.end - bounds.start;
            *report.trimmed.entry(at.topic.name().to_owned()).or_default() += bounds.start;
        }
        let mut done = 0;
        for partition in 0..self.old {
            let mut facts = PartitionFacts { ended: self.ended(partition)?, ..PartitionFacts::default() };
            for topic in TOPICS {
                let at = TopicPartition { topic, partition };
                let bounds = self.log.bounds(at)?;
                self.log.scan::<Error>(at, bounds.start, bounds.end, |record| {
                    done += 1;
                    if done % 1_024 == 0 {
                        progress("bringing history over", done, all);
                    }
                    let name = topic.name().to_owned();
                    match self.fate(at, &record, &mut facts) {
                        Fate::GoesOver => {}
                        Fate::GoesOtherwise => return Ok(()),
                        Fate::Stays => {
                            *report.left.entry(name).or_default() += 1;
                            return Ok(());
                        }
                    }
                    *report.brought.entry(name).or_default() += 1;
                    let to = self.partition_of(at, &record);
                    append(TopicPartition { topic, partition: to }, self.moved(&record, to), record.appended_at)
                })?;
            }
        }
        progress("bringing history over", all, all);
        report.trimmed.retain(|_, count| *count > 0);
        Ok(report)
    }

    fn topic_partitions(&self) -> impl Iterator<Item = TopicPartition> {
        (0..self.old).flat_map(|partition| TOPICS.map(|topic| TopicPartition { topic, partition }))
    }

    /// The deliveries of a partition whose end is on record; others would be sent again.
    fn ended(&self, partition: u32) -> Result<HashSet<u128>, Error> {
        let mut ended = HashSet::new();
        for topic in [Topic::Attempts, Topic::Dead] {
            let at = TopicPartition { topic, partition };
            let bounds = self.log.bounds(at)?;
            self.log.scan::<Error>(at, bounds.start, bounds.end, |record| {
                let id = match topic {
                    Topic::Dead => value::<DeadDelivery>(&record).map(|dead| dead.delivery.delivery_id),
                    _ => value::<AttemptEnding>(&record).filter(|a| a.ended.is_some()).map(|a| a.delivery_id),
                };
                ended.extend(id.map(|id| hash(&id)));
                Ok(())
            })?;
        }
        Ok(ended)
    }

    /// What happens to a record: it is copied if it means the same in the new log.
    fn fate(&self, at: TopicPartition, record: &Record, facts: &mut PartitionFacts) -> Fate {
        let source = source_of(record);
        let to = self.partition_of(at, record);
        let goes_over = match at.topic {
            Topic::Deliveries => match value::<DeliveryRecord>(record) {
                Some(DeliveryRecord::Deliver(delivery)) => {
                    let delivery = hash(&delivery.delivery_id);
                    if self.waiting.contains(&delivery) {
                        return Fate::GoesOtherwise;
                    }
                    let has_ended = facts.ended.contains(&delivery);
                    if has_ended {
                        facts.known.insert(delivery);
                    }
                    has_ended
                }
                Some(DeliveryRecord::CancelUser { project, user_id }) => {
                    if let Some(at) = source {
                        facts.erased.insert(UserKey { project, user_id }, at);
                    }
                    // An erasure whose record the journal does not keep any more has
                    // nothing left to remove.
                    source.is_some_and(|source| self.place(source, to).is_some())
                }
                // The endpoints are written again to every new partition.
                Some(DeliveryRecord::Endpoint { .. } | DeliveryRecord::Health { .. }) => return Fate::GoesOtherwise,
                // What waits goes over as the state has it, which was made without the record.
                Some(DeliveryRecord::Skip { .. }) => return Fate::GoesOtherwise,
                None => false,
            },
            Topic::Attempts => value::<AttemptEnding>(record).is_some_and(|a| self.is_known(&a.delivery_id, facts)),
            Topic::Dead => {
                value::<DeadDelivery>(record).is_some_and(|dead| self.is_known(&dead.delivery.delivery_id, facts))
            }
            Topic::Decisions | Topic::Responses => match source {
                // Erasures are compared by position, and this record has none in the new log.
                Some(source) if self.place(source, to).is_none() => !is_erased(record, source, facts),
                source => source.is_some(),
            },
            _ => true,
        };
        if goes_over { Fate::GoesOver } else { Fate::Stays }
    }

    fn is_known(&self, delivery_id: &str, facts: &PartitionFacts) -> bool {
        let delivery = hash(delivery_id);
        facts.known.contains(&delivery) || self.waiting.contains(&delivery)
    }

    /// The position of a journal record in partition `to` of the new log; `None` when it
    /// was trimmed. Messages between partitions are not copied, and a decision on a request
    /// that waited for a grant comes from one: it gets the position of the last record
    /// before it that was copied there, so that it stays on the same side of an erasure of
    /// its user.
    fn place(&self, position: RecordPosition, to: u32) -> Option<Source> {
        match self.places {
            Some(places) => places.get_at_or_before(position, to),
            // While records are only counted: everything that the journal keeps.
            None => {
                let at = TopicPartition { topic: Topic::Events, partition: position.partition };
                let is_kept = self.log.bounds(at).is_ok_and(|bounds| position.offset >= bounds.start);
                is_kept.then_some(Source { partition: position.partition, offset: position.offset, crc: 0 })
            }
        }
    }

    fn partition_of(&self, at: TopicPartition, record: &Record) -> u32 {
        match &record.key {
            Some(key) => id::murmur2(key) % self.new,
            None => at.partition % self.new,
        }
    }

    /// The record for the new log. Outputs of records that the journal does not keep any
    /// more come before all that it keeps.
    fn moved(&self, record: &Record, to: u32) -> NewRecord {
        let headers = record.headers.iter().filter(|(name, _)| name != SOURCE_HEADER.as_bytes());
        let new =
            NewRecord { key: record.key.clone(), headers: headers.cloned().collect(), value: record.value.clone() };
        let Some(position) = source_of(record) else { return new };
        let first = Source { partition: to, offset: 0, crc: 0 };
        new.header(SOURCE_HEADER, self.place(position, to).unwrap_or(first).encode())
    }
}

fn is_erased(record: &Record, source: RecordPosition, facts: &PartitionFacts) -> bool {
    if facts.erased.is_empty() {
        return false;
    }
    let Some(owner) = value::<Owner>(record) else { return true };
    let Owner { project, user_id, .. } = owner.data.map_or(Owner { data: None, ..owner }, |data| *data);
    facts.erased.get(&UserKey { project, user_id }).is_some_and(|at| source < *at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_log::Simulated;
    use serde_json::{Value, json};
    use std::sync::Arc;

    /// A record of a user, and the offset of the journal record behind it.
    fn record(topic: Topic, user: &str, source: Option<u64>, value: Value) -> (Topic, NewRecord) {
        let value = Some(value.to_string().into());
        let new = NewRecord { key: Some(user.to_owned().into()), headers: Vec::new(), value };
        let source = source.map(|offset| Source { partition: 0, offset, crc: 9 }.encode());
        (topic, source.into_iter().fold(new, |new, source| new.header(SOURCE_HEADER, source)))
    }

    fn delivery(id: &str, source: u64) -> (Topic, NewRecord) {
        let examples = include_str!("../../../topics/examples/deliveries.ndjson");
        let line = examples.lines().find(|line| line.starts_with("{\"deliver\"")).expect("one that delivers");
        let mut value: Value = serde_json::from_str(line).expect("it is JSON");
        value["deliver"]["delivery_id"] = id.into();
        record(Topic::Deliveries, "ann", Some(source), value)
    }

    fn attempt(id: &str, ended: Option<&str>) -> (Topic, NewRecord) {
        record(Topic::Attempts, "ann", Some(10), json!({"delivery_id": id, "ended": ended}))
    }

    fn decision(user: &str, source: u64) -> (Topic, NewRecord) {
        record(Topic::Decisions, user, Some(source), json!({"project": "p", "user_id": user, "n": source}))
    }

    fn response(user: &str, source: u64) -> (Topic, NewRecord) {
        record(Topic::Responses, user, Some(source), json!({"data": {"project": "p", "user_id": user}, "n": source}))
    }

    fn erasure(user: &str, source: u64) -> (Topic, NewRecord) {
        let value = json!({"cancel_user": {"project": "p", "user_id": user}});
        record(Topic::Deliveries, user, Some(source), value)
    }

    /// The journal keeps its records from 10 on; each is 90 places further back there.
    fn places(dir: &std::path::Path) -> JournalPlaces {
        let mut places = JournalPlaces::new(dir, &[10]).expect("files");
        for offset in (10..30).filter(|offset| ![18, 21].contains(offset)) {
            let to = Source { partition: 0, offset: offset + 90, crc: 7 };
            places.note(RecordPosition { partition: 0, offset }, to).expect("written");
        }
        places.finish().expect("written");
        places
    }

    #[test]
    fn what_means_the_same_there_goes_over_and_all_else_is_counted() {
        let log = Log::Simulated(Arc::new(Simulated::new(1, 1)));
        for (topic, new) in [
            delivery("ended", 10),
            delivery("given up", 11),
            delivery("waiting", 12),
            delivery("without an end", 13),
            record(
                Topic::Deliveries,
                "a",
                None,
                json!({"endpoint": {"project": "p", "endpoint_id": "a", "version": 1, "body": null}}),
            ),
            erasure("old", 5),
            erasure("new", 20),
            attempt("ended", None),
            attempt("ended", Some("delivered")),
            attempt("waiting", None),
            attempt("without an end", None),
            attempt("never heard of", Some("dead")),
            record(Topic::Dead, "ann", Some(11), json!({"delivery": {"delivery_id": "given up"}})),
            // Of users who were erased: before what the journal keeps, and since.
            decision("old", 4),
            decision("old", 6),
            decision("new", 19),
            decision("ann", 3),
            // On what partitions told each other: before the erasure, and behind it.
            decision("new", 18),
            decision("new", 21),
            response("old", 4),
            response("ann", 15),
            record(Topic::Displays, "ann", Some(15), json!({})),
            record(Topic::Rejects, "ann", None, json!({})),
        ] {
            log.append_unacknowledged(TopicPartition { topic, partition: 0 }, new);
        }
        let dir = tempfile::tempdir().expect("a folder");
        let places = places(dir.path());
        let waiting = HashSet::from([hash("waiting")]);
        let history = History { log: &log, old: 1, new: 1, places: Some(&places), waiting };
        let mut sources = Vec::new();
        let report = history.bring(
            |at, new, _| {
                let source = new.headers.iter().find(|(name, _)| name == SOURCE_HEADER.as_bytes());
                let source = source.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
                sources.push((at.topic, source.unwrap_or_default()));
                Ok(())
            },
            &mut |_, _, _| {},
        );
        let report = report.expect("it is brought");
        let counts = |all: &[(&str, u64)]| all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let brought: BTreeMap<String, u64> = counts(&[
            ("attempts", 3),
            ("dead", 1),
            ("decisions", 5),
            ("deliveries", 3),
            ("displays", 1),
            ("rejects", 1),
            ("responses", 1),
        ]);
        assert_eq!(report.brought, brought);
        assert_eq!(report.left, counts(&[("attempts", 2), ("decisions", 1), ("deliveries", 2), ("responses", 1)]));
        let of = |topic: Topic| {
            let all = sources.iter().filter(|(of, _)| *of == topic).map(|(_, source)| source.as_str());
            all.collect::<Vec<&str>>()
        };
        assert_eq!(of(Topic::Deliveries), ["0/100/00000007", "0/101/00000007", "0/110/00000007"]);
        let unknown = "0/0/00000000";
        let decisions = [unknown, "0/109/00000007", unknown, "0/107/00000007", "0/110/00000007"];
        assert_eq!(of(Topic::Decisions), decisions, "what the journal has not comes first");
        assert_eq!(of(Topic::Responses), ["0/105/00000007"]);
        assert_eq!(of(Topic::Rejects), [""]);
    }
}
