//! Creates topics as they are declared, and compares existing ones with their declarations.

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, OwnedResourceSpecifier,
    ResourceSpecifier, TopicReplication,
};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

use super::client::{self, Context};
use super::cluster::Cluster;
use super::identity;
use super::producer::MAX_RECORD_BYTES;
use super::settings::{ASK, Settings};
use crate::error::Error;
use askwhen_wire::topic::{Cleanup, Timestamp, Topic};

/// Topics that the program trims itself, once snapshots cover the records.
pub const TRIMMED_BY_US: [Topic; 6] =
    [Topic::Events, Topic::Deliveries, Topic::Attempts, Topic::Retry1m, Topic::Retry1h, Topic::Retry1d];
/// How long a changed setting may take to reach the leaders of partitions.
const CHANGE_TAKES: Duration = Duration::from_secs(1);
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
/// How long replies are kept, in milliseconds; nobody waits for them any longer.
const REPLIES_KEPT_MS: i64 = 3_600_000;

/// The topics that exist, and how they differ from their declarations.
#[derive(Debug, Default)]
pub struct TopicCheck {
    pub missing: Vec<Topic>,
    /// Differences for an operator to decide: missing partitions, append times set by
    /// clients, settings that lose records.
    pub wrong: Vec<(Topic, String)>,
    /// Differences that `topics apply` corrects.
    pub different: Vec<String>,
    /// Topics with more partitions than are used, and their number. Brokers cannot remove
    /// partitions.
    pub more: BTreeMap<Topic, u32>,
}

impl TopicCheck {
    /// Whether every topic exists as it is declared.
    pub fn is_as_declared(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty() && self.different.is_empty()
    }

    pub fn refuse_wrong(&self) -> Result<(), Error> {
        let texts: Vec<&str> = self.wrong.iter().map(|(_, text)| text.as_str()).collect();
        if texts.is_empty() { Ok(()) } else { Err(Error::Refused(texts.join("\n"))) }
    }
}

/// The settings of a topic, apart from its partitions.
fn wanted(settings: &Settings, topic: Topic) -> BTreeMap<&'static str, String> {
    let spec = topic.spec();
    let kept = match spec.retention.as_str() {
        "replies" => REPLIES_KEPT_MS,
        _ if TRIMMED_BY_US.contains(&topic) => -1,
        name => settings.retention.get(name).copied().unwrap_or(-1),
    };
    let cleanup = match spec.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    };
    let timestamp = match spec.timestamp {
        Timestamp::LogAppendTime => "LogAppendTime",
        Timestamp::CreateTime => "CreateTime",
    };
    let in_sync = if settings.replication >= 3 { 2 } else { 1 };
    BTreeMap::from([
        ("cleanup.policy", cleanup.to_owned()),
        ("retention.ms", kept.to_string()),
        (TIMESTAMP_TYPE, timestamp.to_owned()),
        ("max.message.bytes", MAX_RECORD_BYTES.to_string()),
        ("min.insync.replicas", in_sync.to_string()),
        ("retention.bytes", "-1".to_owned()),
        ("unclean.leader.election.enable", "false".to_owned()),
    ])
}

/// Why a topic must not keep this value of a setting, if so.
fn harm(topic: Topic, setting: &str, is: &str) -> Option<&'static str> {
    match setting {
        // Replies are not missed.
        _ if topic == Topic::Replies => None,
        TIMESTAMP_TYPE if topic == Topic::Events => Some("producers would set the clock that decides"),
        "cleanup.policy" if topic.spec().cleanup == Cleanup::Compact => Some("old definitions would be deleted"),
        "cleanup.policy" if is.contains("compact") => Some("of the records of a key only the last would be left"),
        "retention.ms" | "retention.bytes" if TRIMMED_BY_US.contains(&topic) => {
            Some("the brokers would delete records before they are covered by snapshots")
        }
        _ => None,
    }
}

/// The same while a log is filled from another: the journal accepts given append times.
fn wanted_while_filled(settings: &Settings, topic: Topic) -> BTreeMap<&'static str, String> {
    let mut wanted = wanted(settings, topic);
    if topic == Topic::Events {
        wanted.insert(TIMESTAMP_TYPE, "CreateTime".to_owned());
    }
    wanted
}

fn metadata(admin: &AdminClient<Context>, settings: &Settings) -> Result<Metadata, Error> {
    admin.inner().fetch_metadata(None, ASK).map_err(|error| {
        let health = admin.inner().context().health();
        let last = match health.faults.reasons() {
            faults if faults.is_empty() => health.last_error(),
            faults => faults.join("; "),
        };
        let why = if last.is_empty() { error.to_string() } else { last };
        if health.faults.is_unauthenticated() {
            return Error::Unavailable(format!("{} does not let this process in: {why}", settings.brokers));
        }
        Error::Unavailable(format!(
            "no broker of \"{}\" answers ({why}). Check [kafka] brokers and [kafka.client], and that Kafka runs",
            settings.brokers
        ))
    })
}

/// Compares the topics with their declarations.
///
/// # Errors
/// When the brokers cannot be asked.
pub fn check(settings: &Settings) -> Result<TopicCheck, Error> {
    // The producers of a cluster report rejected credentials.
    let cluster = Cluster::open(settings.clone())?;
    let found = look(&cluster.admin, settings, &cluster.runtime)?;
    refuse_unfinished(&cluster, &found)?;
    Ok(found)
}

/// The topics of an unfinished export must not be changed.
fn refuse_unfinished(cluster: &Arc<Cluster>, found: &TopicCheck) -> Result<(), Error> {
    if found.missing.contains(&Topic::Definitions) { Ok(()) } else { identity::refuse_unfinished(cluster) }
}

/// Creates missing topics and corrects settings; returns what was done.
///
/// # Errors
/// When the brokers refuse, or there are differences for an operator to decide.
pub fn apply(settings: &Settings) -> Result<Vec<String>, Error> {
    let cluster = Cluster::open(settings.clone())?;
    let (admin, runtime) = (&cluster.admin, &cluster.runtime);
    let found = look(admin, settings, runtime)?;
    refuse_unfinished(&cluster, &found)?;
    let mut done = make(admin, settings, runtime, &found.missing, wanted)?;
    done.extend(alter(admin, settings, runtime, &found)?);
    look(admin, settings, runtime)?.refuse_wrong()?;
    Ok(done)
}

/// For a start: creates the topics when there are none at all.
pub fn make_or_check(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle) -> Result<(), Error> {
    let mut found = look(admin, settings, runtime)?;
    if found.missing.len() == Topic::ALL.len() {
        make(admin, settings, runtime, &found.missing, wanted)?;
        found = look(admin, settings, runtime)?;
    }
    if !found.missing.is_empty() {
        let names: Vec<String> = found.missing.iter().map(|topic| settings.name(*topic)).collect();
        return Err(Error::Refused(format!(
            "these topics are missing: {}. If they were never there, run `askwhen topics apply`; \
             if they were deleted, restore them first: what they held is gone",
            names.join(", ")
        )));
    }
    found.refuse_wrong()?;
    for difference in &found.different {
        tracing::warn!(difference, "a topic is not as declared; `askwhen topics apply` puts it right");
    }
    log_surplus(settings, &found);
    Ok(())
}

/// Logs which topics have more partitions than are used.
pub fn log_surplus(settings: &Settings, found: &TopicCheck) {
    for (topic, partitions) in &found.more {
        let (name, used) = (settings.name(*topic), settings.partitions);
        let what = match topic {
            Topic::Events => "what others write to the further ones is moved to the partitions of its users",
            _ => "the further ones are left alone",
        };
        tracing::warn!(topic = name, partitions, used, "a topic has more partitions than it was made with: {what}");
    }
}

/// For viewing: the topics must exist. Gives what is not as declared.
pub fn must_exist(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle) -> Result<TopicCheck, Error> {
    let found = look(admin, settings, runtime)?;
    if let Some(topic) = found.missing.first() {
        return Err(Error::Unavailable(format!("there is no topic {}; is [log] prefix right?", settings.name(*topic))));
    }
    Ok(found)
}

/// For a log that is filled from another: creates all topics, none of which may exist; the
/// journal accepts given append times.
pub fn make_all(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle) -> Result<(), Error> {
    let found = look(admin, settings, runtime)?;
    if let Some(there) = Topic::ALL.iter().find(|topic| !found.missing.contains(topic)) {
        return Err(Error::Refused(format!(
            "there is a topic {} already: take another --prefix, or delete the topics {}* of an export that failed",
            settings.name(*there),
            settings.prefix
        )));
    }
    make(admin, settings, runtime, Topic::ALL, wanted_while_filled).map(drop)
}

/// From here on the brokers set the append times of the journal's records.
pub fn take_own_times(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle) -> Result<(), Error> {
    set(admin, settings, runtime, Topic::Events)?;
    // Brokers report it before all of them do so.
    std::thread::sleep(CHANGE_TAKES);
    Ok(())
}

pub fn look(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle) -> Result<TopicCheck, Error> {
    let metadata = metadata(admin, settings)?;
    let mut found = TopicCheck::default();
    let mut there = Vec::new();
    for topic in Topic::ALL {
        let name = settings.name(*topic);
        let Some(seen) = metadata.topics().iter().find(|t| t.name() == name && t.error().is_none()) else {
            found.missing.push(*topic);
            continue;
        };
        there.push(*topic);
        let (is, should) = (seen.partitions().len() as u32, topic.partitions(settings.partitions));
        if is < should {
            let text = format!(
                "{name} has {is} partitions and {should} are configured: set [log] partitions to the number that the \
                 topics were made with (another one would move users between partitions)"
            );
            found.wrong.push((*topic, text));
        } else if is > should {
            found.more.insert(*topic, is);
        }
        let replicas = seen.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0);
        if (replicas as u32) < settings.replication {
            found
                .different
                .push(format!("{name} has {replicas} replicas, [kafka] replication is {}", settings.replication));
        }
    }
    for (topic, differs) in differences(admin, settings, runtime, &there)? {
        let name = settings.name(topic);
        for (setting, is, should) in differs {
            let line = format!("{name} has {setting}={is}, {should} is declared");
            match harm(topic, setting, &is) {
                Some(why) => found.wrong.push((topic, format!("{line}: {why}; `askwhen topics apply` sets it"))),
                None => found.different.push(line),
            }
        }
    }
    Ok(found)
}

type Differs = (&'static str, String, String);

fn differences(
    admin: &AdminClient<Context>,
    settings: &Settings,
    runtime: &Handle,
    topics: &[Topic],
) -> Result<Vec<(Topic, Vec<Differs>)>, Error> {
    let mut all = Vec::new();
    for (topic, config) in described(admin, settings, runtime, topics)? {
        let differs: Vec<Differs> = wanted(settings, topic)
            .into_iter()
            // Brokers of other makers lack some settings.
            .filter_map(|(name, should)| Some((name, config.get(name)?.value.clone().unwrap_or_default(), should)))
            .filter(|(_, is, should)| is != should)
            .collect();
        if !differs.is_empty() {
            all.push((topic, differs));
        }
    }
    Ok(all)
}

fn described(
    admin: &AdminClient<Context>,
    settings: &Settings,
    runtime: &Handle,
    topics: &[Topic],
) -> Result<Vec<(Topic, ConfigResource)>, Error> {
    let names: Vec<String> = topics.iter().map(|topic| settings.name(*topic)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let answered = runtime.block_on(admin.describe_configs(&asked, &options)).map_err(client::unavailable)?;
    let mut all = Vec::new();
    for answer in answered {
        let config = answer.map_err(|code| Error::Unavailable(format!("a topic's settings cannot be read: {code}")))?;
        let OwnedResourceSpecifier::Topic(name) = &config.specifier else { continue };
        if let Some(i) = names.iter().position(|n| n == name) {
            all.push((topics[i], config));
        }
    }
    Ok(all)
}

fn make(
    admin: &AdminClient<Context>,
    settings: &Settings,
    runtime: &Handle,
    topics: &[Topic],
    like: fn(&Settings, Topic) -> BTreeMap<&'static str, String>,
) -> Result<Vec<String>, Error> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let named: Vec<(Topic, String, BTreeMap<&str, String>)> =
        topics.iter().map(|topic| (*topic, settings.name(*topic), like(settings, *topic))).collect();
    let new: Vec<NewTopic<'_>> = named
        .iter()
        .map(|(topic, name, config)| {
            let partitions = topic.partitions(settings.partitions) as i32;
            let replication = TopicReplication::Fixed(settings.replication as i32);
            let topic = NewTopic::new(name, partitions, replication);
            config.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    let answers = runtime.block_on(admin.create_topics(&new, &options)).map_err(client::unavailable)?;
    let mut done = Vec::new();
    for answer in answers {
        match answer {
            Ok(name) => done.push(format!("made {name}")),
            // Another process was faster.
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                let brokers = metadata(admin, settings)?.brokers().len();
                return Err(Error::Refused(format!(
                    "{name} cannot have {} replicas: there are {brokers} brokers. Set [kafka] replication",
                    settings.replication
                )));
            }
            Err((name, code)) => return Err(Error::Refused(format!("{name} cannot be made: {code}"))),
        }
    }
    wait_for_leaders(admin, settings, topics)?;
    Ok(done)
}

/// A new topic has no leaders for a moment.
fn wait_for_leaders(admin: &AdminClient<Context>, settings: &Settings, topics: &[Topic]) -> Result<(), Error> {
    let deadline = std::time::Instant::now() + ASK;
    loop {
        let metadata = metadata(admin, settings)?;
        let led = |topic: &Topic| {
            let name = settings.name(*topic);
            metadata.topics().iter().any(|t| {
                t.name() == name && !t.partitions().is_empty() && t.partitions().iter().all(|p| p.leader() >= 0)
            })
        };
        if topics.iter().all(led) {
            return Ok(());
        }
        if std::time::Instant::now() >= deadline {
            return Err(Error::Unavailable("the new topics have no leaders yet; try again".into()));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Changes settings that differ.
fn alter(
    admin: &AdminClient<Context>,
    settings: &Settings,
    runtime: &Handle,
    found: &TopicCheck,
) -> Result<Vec<String>, Error> {
    let there: Vec<Topic> = Topic::ALL.iter().copied().filter(|t| !found.missing.contains(t)).collect();
    let mut done = Vec::new();
    for (topic, _) in differences(admin, settings, runtime, &there)? {
        set(admin, settings, runtime, topic)?;
        done.push(format!("changed {}", settings.name(topic)));
    }
    Ok(done)
}

/// Sets all settings of a topic. Brokers replace them as a whole, so those that others have
/// set are repeated.
fn set(admin: &AdminClient<Context>, settings: &Settings, runtime: &Handle, topic: Topic) -> Result<(), Error> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (_, config) in described(admin, settings, runtime, &[topic])? {
        let own = config.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        all.extend(own.filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?))));
    }
    all.extend(wanted(settings, topic).into_iter().map(|(name, value)| (name.to_owned(), value)));
    let name = settings.name(topic);
    let change = AlterConfig::new(ResourceSpecifier::Topic(&name));
    let change = all.iter().fold(change, |change, (name, value)| change.set(name, value));
    let options = AdminOptions::new().request_timeout(Some(ASK));
    let answers = runtime.block_on(admin.alter_configs(&[change], &options)).map_err(client::unavailable)?;
    for answer in answers {
        answer.map_err(|(_, code)| Error::Refused(format!("{name} cannot be changed: {code}")))?;
    }
    Ok(())
}
