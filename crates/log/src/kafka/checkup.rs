//! A look at a log on brokers that changes nothing: what an operator wants to know before
//! it is too late.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::Arc;

use super::client;
use super::cluster::Cluster;
use super::identity;
use super::log::Kafka;
use super::rights::{self, Right, Rights};
use super::settings::{ASK, Settings};
use super::topics::{self, TRIMMED_BY_US};
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_domain::time::{MINUTE, Millis, format_time};
use askwhen_wire::topic::Topic;

/// A record that is stamped later than this after now comes from a clock that is ahead.
const MAX_AHEAD: Millis = MINUTE;
/// Records that wait for longer are not just being worked at.
const MAX_WAIT: Millis = MINUTE;
/// Enough to see the first record of a partition that waits.
const ONE_RECORD_BYTES: usize = 1;
/// What each group works through, by its name behind the prefix.
const GROUPS: [(&str, Topic); 2] = [("engine", Topic::Events), ("delivery", Topic::Deliveries)];

/// What a check found, as a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Sound(String),
    /// The sentence says what to do about it, too.
    Faulty(String),
}

impl Finding {
    pub fn text(&self) -> &str {
        match self {
            Finding::Sound(text) | Finding::Faulty(text) => text,
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub finding: Finding,
}

impl Check {
    /// A check that cannot be done has found a fault: the reason.
    pub fn of<E: std::fmt::Display>(name: &'static str, found: Result<Finding, E>) -> Check {
        Check { name, finding: found.unwrap_or_else(|error| Finding::Faulty(error.to_string())) }
    }
}

/// Looks at rights, topics, retention, lag and clocks. `now` is this machine's time;
/// without a `key_check` in the settings the cluster key is not compared. Blocks; must be
/// called where a tokio runtime is at hand.
pub fn checkup(settings: &Settings, now: Millis) -> Vec<Check> {
    let cluster = match Cluster::open(settings.clone()) {
        Ok(cluster) => cluster,
        Err(error) => return vec![Check::of("log", Err(error))],
    };
    let found = match topics::look(&cluster.admin, settings, &cluster.runtime) {
        Ok(found) => found,
        Err(error) => {
            let mut all = vec![Check::of("log", Err(error))];
            // A right that is missing may be why, if there is anybody to say so.
            if cluster.health.is_writable().is_ok()
                && let Ok(finding @ Finding::Faulty(_)) = granted_rights(&cluster)
            {
                all.push(Check { name: "broker rights", finding });
            }
            return all;
        }
    };
    let rights = Check::of("broker rights", granted_rights(&cluster));
    if !found.missing.is_empty() {
        let names: Vec<String> = found.missing.iter().map(|topic| settings.name(*topic)).collect();
        let text = match names.len() == Topic::ALL.len() {
            true => format!("there are no topics {}* yet: `askwhen topics apply` makes them", settings.prefix),
            false => format!("these topics are missing: {}", names.join(", ")),
        };
        return vec![Check { name: "log", finding: Finding::Faulty(text) }, rights];
    }
    let log = Kafka::of(cluster.clone());
    vec![
        Check::of("log", identity_and_size(&cluster, &log)),
        Check { name: "topics", finding: declared(settings, &found) },
        rights,
        Check::of("lag", lag(&cluster, &log, now)),
        Check::of("clock", clock(&cluster, now)),
    ]
}

/// Whose log it is, and how much it holds.
fn identity_and_size(cluster: &Arc<Cluster>, log: &Kafka) -> Result<Finding, Error> {
    let settings = &cluster.settings;
    let found = identity::find(cluster)?;
    match &found {
        None => {}
        Some(identity) if settings.key_check.is_empty() => {
            identity.must_be_finished(settings)?;
        }
        Some(identity) => identity.must_be_ours(settings)?,
    }
    let all = all_partitions(settings);
    let bounds = log.all_bounds(&all)?;
    let records: u64 = bounds.iter().map(|bounds| bounds.end - bounds.start).sum();
    let brokers = cluster.admin.inner().fetch_metadata(None, ASK).map_or(0, |metadata| metadata.brokers().len());
    let founded = if found.is_some() { "" } else { ", not served yet" };
    Ok(Finding::Sound(format!(
        "about {records} records in topics {}* of {} partitions (brokers: {brokers}){founded}",
        settings.prefix, settings.partitions
    )))
}

/// Partitions, replicas, retention and the rest, as `topics check` has them.
fn declared(settings: &Settings, found: &topics::TopicCheck) -> Finding {
    let wrong = found.wrong.iter().map(|(_, text)| text.as_str());
    let all: Vec<&str> = wrong.chain(found.different.iter().map(String::as_str)).collect();
    if !all.is_empty() {
        return Finding::Faulty(format!("{}; `askwhen topics apply` sets what differs", all.join("; ")));
    }
    let more: Vec<String> =
        found.more.iter().map(|(topic, count)| format!("{} has {count} partitions", settings.name(*topic))).collect();
    let more = if more.is_empty() { String::new() } else { format!(" (more than are used: {})", more.join(", ")) };
    Finding::Sound(format!("{} topics, with partitions, replicas and retention as declared{more}", Topic::ALL.len()))
}

/// What the processes of a log have to be allowed on a topic.
fn needed(topic: Topic) -> Vec<Right> {
    let mut rights = vec![Right::Describe, Right::DescribeConfigs, Right::Read, Right::Write];
    if TRIMMED_BY_US.contains(&topic) {
        rights.push(Right::Delete);
    }
    rights
}

/// Whether the brokers grant this process what it needs on its topics and groups. Fails
/// when they cannot be asked.
fn granted_rights(cluster: &Cluster) -> Result<Finding, Error> {
    let settings = &cluster.settings;
    let names: Vec<String> = Topic::ALL.iter().map(|topic| settings.name(*topic)).collect();
    let groups: Vec<String> = GROUPS.iter().map(|(group, _)| format!("{}{group}", settings.prefix)).collect();
    let on_topics = rights::of_topics(&cluster.admin, &names)?;
    let on_groups = rights::of_groups(&cluster.admin, &groups)?;
    let mut missing = Vec::new();
    for topic in Topic::ALL {
        missing.extend(lacks("topic", &settings.name(*topic), &needed(*topic), &on_topics));
    }
    for group in &groups {
        missing.extend(lacks("group", group, &[Right::Read], &on_groups));
    }
    if !missing.is_empty() {
        return Ok(Finding::Faulty(format!(
            "the brokers deny this process {}: give its principal these rights (kafka-acls --add)",
            missing.join(", ")
        )));
    }
    let are_listed = on_topics.values().chain(on_groups.values()).all(Option::is_some);
    Ok(Finding::Sound(match are_listed {
        true => "all that it takes on its topics and groups is allowed".to_owned(),
        false => "the brokers do not say of all topics and groups what is allowed".to_owned(),
    }))
}

fn lacks(kind: &str, name: &str, needed: &[Right], rights: &Rights) -> Option<String> {
    let granted = rights.get(name)?.as_ref()?;
    let missing: Vec<&str> = needed.iter().filter(|right| !granted.contains(right)).map(|right| right.name()).collect();
    (!missing.is_empty()).then(|| format!("{} on {kind} {name}", missing.join(" and ")))
}

fn all_partitions(settings: &Settings) -> Vec<TopicPartition> {
    let of = |topic: &Topic| {
        let topic = *topic;
        (0..topic.partitions(settings.partitions)).map(move |partition| TopicPartition { topic, partition })
    };
    Topic::ALL.iter().filter(|topic| **topic != Topic::Replies).flat_map(of).collect()
}

/// How many records wait for each group, and since when.
fn lag(cluster: &Cluster, log: &Kafka, now: Millis) -> Result<Finding, Error> {
    let settings = &cluster.settings;
    let (mut counts, mut late) = (Vec::new(), Vec::new());
    for (group, topic) in GROUPS {
        let done = committed(settings, cluster, group, topic)?;
        let all: Vec<TopicPartition> =
            (0..settings.partitions).map(|partition| TopicPartition { topic, partition }).collect();
        let bounds = log.all_bounds(&all)?;
        let mut waiting = 0;
        for ((at, bounds), done) in all.iter().zip(bounds).zip(done) {
            let next = done.unwrap_or(bounds.start).max(bounds.start);
            if next >= bounds.end {
                continue;
            }
            waiting += bounds.end - next;
            let first = log.read(*at, next, ONE_RECORD_BYTES)?;
            let since = first.first().map(|record| record.appended_at).filter(|at| now - at > MAX_WAIT);
            late.extend(since.map(|since| format!("{at} waits for the {group} since {}", format_time(since))));
        }
        counts.push(format!("{waiting} of {} for the {group}", settings.name(topic)));
    }
    let counts = format!("records that wait: {}", counts.join(", "));
    Ok(match late.is_empty() {
        true => Finding::Sound(counts),
        false => Finding::Faulty(format!("{counts}; {}", late.join("; "))),
    })
}

/// The offset that a group has committed for each partition, if it has.
fn committed(settings: &Settings, cluster: &Cluster, group: &str, topic: Topic) -> Result<Vec<Option<u64>>, Error> {
    let group_id = format!("{}{group}", settings.prefix);
    let config = client::config(settings, &[], &[("group.id", &group_id), ("enable.auto.commit", "false")]);
    let context = client::Context::new("doctor", &cluster.health);
    // It never joins: it asks what the group's members have committed.
    let consumer: BaseConsumer<client::Context> = config.create_with_context(context).map_err(client::unusable)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(cluster.name(topic), 0, settings.partitions as i32 - 1);
    let offsets = consumer.committed_offsets(list, ASK).map_err(client::unavailable)?;
    let of = |partition: u32| {
        let place = offsets.find_partition(cluster.name(topic), partition as i32)?;
        if let Offset::Offset(next) = place.offset() { u64::try_from(next).ok() } else { None }
    };
    Ok((0..settings.partitions).map(of).collect())
}

/// Whether the brokers' stamps are ahead of this machine's clock.
fn clock(cluster: &Cluster, now: Millis) -> Result<Finding, Error> {
    let all: Vec<TopicPartition> =
        (0..cluster.settings.partitions).map(|partition| TopicPartition { topic: Topic::Events, partition }).collect();
    let later = cluster.offsets.at_times(&all, now + MAX_AHEAD)?;
    let ahead: Vec<String> =
        all.iter().zip(later).filter(|(_, found)| found.is_some()).map(|(at, _)| at.to_string()).collect();
    let now = format_time(now);
    Ok(match &ahead[..] {
        [] => Finding::Sound(format!("it is {now} here, and no record of the journal is of later")),
        ahead => Finding::Faulty(format!(
            "it is {now} here, and {} hold records that the brokers have stamped later: set the clocks right",
            ahead.join(", ")
        )),
    })
}
