//! The log on Apache Kafka. No type of librdkafka leaves this folder.
//!
//! Two producers: one that never gives up, for partitions, whose records must not
//! have gaps; one that gives up in time for an answer, for requests. A consumer
//! per purpose, with partitions assigned by hand at the places that the stores
//! say; a consumer group gives out the right to own a partition and nothing else.

mod client;
mod faults;
mod founding;
mod identity;
mod lease;
mod offsets;
mod producer;
mod reader;
mod settings;
mod topic_watch;
mod topics;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::runtime::Handle;

use crate::ack::Ack;
use crate::error::Error;
use crate::record::{NewRecord, Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;
use askwhen_process::thread::Service;
use askwhen_wire::topic::Topic;
use client::{Context, Health};
use faults::{BrokerFault, DEFINITIONS};
use identity::KafkaIdentity;
use offsets::Offsets;
use producer::Producer;
use reader::Source;
use settings::ASK;
use topic_watch::TopicWatch;

pub use founding::Founding;
pub use lease::{GroupFence, Lease, LeaseChange, Membership};
pub use reader::KafkaReader;
pub use settings::Settings;
pub use topics::{TopicCheck, apply as apply_topics, check as check_topics};

pub struct Kafka {
    settings: Settings,
    identity: OnceLock<KafkaIdentity>,
    patient: Producer,
    hasty: Producer,
    /// By their purpose; kept open, because partitions come back.
    sources: Mutex<BTreeMap<&'static str, Arc<Source>>>,
    /// Answers about bounds, and scans.
    offsets: Arc<Offsets>,
    admin: AdminClient<Context>,
    runtime: Handle,
    health: Arc<Health>,
    /// The brokers' health, and the topics.
    watching: OnceLock<[Service; 2]>,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka({}, {})", self.settings.brokers, self.settings.prefix)
    }
}

impl Kafka {
    /// Connects, checks the topics, and learns (or makes) the log's identity.
    /// Topics are made when there are none at all. Blocks; must be called where
    /// a tokio runtime is at hand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no broker answers; [`Error::Refused`] when
    /// the topics are not as declared, or belong to another cluster key.
    pub fn connect(settings: Settings) -> Result<Arc<Kafka>, Error> {
        let (kafka, runtime) = Kafka::open(settings)?;
        if let Err(error) = topics::make_or_check(&kafka.admin, &kafka.settings, &runtime) {
            // Topics that an export has not finished are not as declared either.
            let unfinished = identity::refuse_unfinished(&kafka).err();
            return Err(unfinished.filter(|e| matches!(e, Error::Refused(_))).unwrap_or(error));
        }
        let identity = identity::learn(&kafka)?;
        kafka.identity.get_or_init(|| identity);
        let admin = topics::admin(&kafka.settings, &kafka.health)?;
        let watching = kafka.health.watch(admin, kafka.name(Topic::Events).to_owned())?;
        let topics = TopicWatch::new(kafka.offsets.clone(), kafka.health.clone(), kafka.partitions()).start()?;
        kafka.watching.get_or_init(|| [watching, topics]);
        Ok(kafka)
    }

    /// For looking: makes nothing, and has no identity.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no broker answers, or the topics are not there.
    pub fn observe(settings: Settings) -> Result<Arc<Kafka>, Error> {
        let (kafka, runtime) = Kafka::open(settings)?;
        topics::must_be_there(&kafka.admin, &kafka.settings, &runtime)?;
        Ok(kafka)
    }

    fn open(settings: Settings) -> Result<(Arc<Kafka>, Handle), Error> {
        let runtime = Handle::try_current().map_err(|e| Error::Refused(e.to_string()))?;
        let health = Arc::new(Health::default());
        let kafka = Kafka {
            identity: OnceLock::new(),
            patient: Producer::patient(&settings, &health)?,
            hasty: Producer::hasty(&settings, &health)?,
            sources: Mutex::default(),
            offsets: Arc::new(Offsets::new(Arc::new(Source::open(&settings, &health, "scan")?), &settings)),
            admin: topics::admin(&settings, &health)?,
            runtime: runtime.clone(),
            health,
            watching: OnceLock::new(),
            settings,
        };
        Ok((Arc::new(kafka), runtime))
    }

    pub fn incarnation(&self) -> u128 {
        self.identity().incarnation()
    }

    fn identity(&self) -> &KafkaIdentity {
        self.identity.get().expect("learnt while connecting")
    }

    pub fn binds_macs(&self) -> bool {
        self.identity().binds_macs()
    }

    /// Whether a member of the groups that write to the journal is of a version
    /// that does not say which it is: 0.1.0. Blocks for a round trip.
    pub fn has_older_members(&self) -> Result<bool, Error> {
        for purpose in ["engine", "delivery"] {
            let group_id = format!("{}{purpose}", self.settings.prefix);
            let asked = self.admin.inner().fetch_group_list(Some(&group_id), ASK).map_err(client::unavailable)?;
            let mut members = asked.groups().iter().flat_map(|group| group.members());
            if members.any(|member| !member.client_id().starts_with(lease::MEMBER_PREFIX)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a partition of the journal begins to be this log's own.
    pub fn begins(&self, partition: u32) -> u64 {
        self.identity().begins(partition)
    }

    pub fn partitions(&self) -> u32 {
        self.settings.partitions
    }

    fn name(&self, topic: Topic) -> &str {
        self.offsets.name(topic)
    }

    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        match self.must_be_complete(|lost| lost == at) {
            Ok(()) => self.patient.append(self.name(at.topic), at, records, ack),
            Err(error) => ack.send(Err(error)),
        }
    }

    /// As [`Kafka::append`], but refused at once while the brokers are away or
    /// what a record would lead to has lost records, and given up after
    /// `REQUEST_TIMEOUT_MS`.
    pub fn append_in_time(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        let concerns = |lost: TopicPartition| lost.partition == at.partition || lost == DEFINITIONS;
        let complete = self.health.faults.must_be_complete(concerns);
        let complete = complete.map_err(|error| Error::Unavailable(error.to_string()));
        match self.is_writable().and(complete) {
            Ok(()) => self.hasty.append(self.name(at.topic), at, records, ack),
            Err(error) => ack.send(Err(error)),
        }
    }

    /// Refuses what goes on from records that are lost. Definitions are left out:
    /// they are written again.
    fn must_be_complete(&self, concerns: impl Fn(TopicPartition) -> bool) -> Result<(), Error> {
        self.health.faults.must_be_complete(|lost| lost != DEFINITIONS && concerns(lost))
    }

    /// Refuses a partition whose number any topic has lost records of.
    pub fn is_complete(&self, partition: u32) -> Result<(), Error> {
        self.must_be_complete(|lost| lost.partition == partition)
    }

    /// Whether topic `definitions` has lost records while it was used.
    pub fn has_lost_definitions(&self) -> bool {
        self.health.faults.has_lost(DEFINITIONS)
    }

    /// Whoever has the state has written again what topic `definitions` had lost:
    /// last of all the log's identity, by which others know that it is whole.
    pub fn definitions_are_back(self: &Arc<Self>) -> Result<(), Error> {
        if identity::find(self)?.is_none() {
            self.identity().write(self)?;
        }
        self.health.faults.over(&BrokerFault::Lost(DEFINITIONS));
        Ok(())
    }

    /// The key of an identity stands in topic `definitions`.
    pub fn identity_seen(&self, key: &str) {
        if self.has_lost_definitions() && self.identity().has_key(key) {
            self.health.faults.over(&BrokerFault::Lost(DEFINITIONS));
        }
    }

    /// What is wrong with the topics and with this process's rights.
    pub fn faults(&self) -> Vec<String> {
        self.health.faults.reasons()
    }

    /// A record that nobody misses when it is lost: a reply.
    pub fn tell(&self, at: TopicPartition, record: NewRecord) {
        let (sender, _) = tokio::sync::oneshot::channel();
        self.hasty.append(self.name(at.topic), at, vec![record], Ack::Once(sender));
    }

    pub fn read(self: &Arc<Self>, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let mut reader = super::Reader::Kafka(KafkaReader::new(self.clone(), "scan", Arc::default()));
        if from >= self.all_bounds(&[at])?[0].end {
            return Ok(Vec::new());
        }
        Ok(reader.read_or_wait(at, from, max_bytes)?.records)
    }

    pub fn all_bounds(&self, all: &[TopicPartition]) -> Result<Vec<Watermarks>, Error> {
        self.offsets.all_bounds(all)
    }

    pub fn offset_at(&self, at: TopicPartition, time: Millis) -> Result<u64, Error> {
        match self.offsets.at_times(&[at], time.max(0))?[0] {
            Some(offset) => Ok(offset),
            None => Ok(self.all_bounds(&[at])?[0].end),
        }
    }

    pub fn trim(&self, at: TopicPartition, below: u64) -> Result<(), Error> {
        if below <= self.all_bounds(&[at])?[0].start {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let place = list.add_partition_offset(self.name(at.topic), at.partition as i32, Offset::Offset(below as i64));
        place.map_err(client::unavailable)?;
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let deleted = self.runtime.block_on(self.admin.delete_records(&list, &options)).map_err(client::unavailable)?;
        deleted.elements().iter().try_for_each(|place| place.error()).map_err(client::unavailable)
    }

    pub fn is_writable(&self) -> Result<(), Error> {
        self.health.is_writable()?;
        self.hasty.is_writable()
    }

    pub fn lease(&self, purpose: &'static str, topic: Topic) -> Result<super::Lease, Error> {
        Lease::join(&self.settings, &self.health, purpose, self.name(topic))
    }

    /// The consumer of a purpose, shared by all its readers.
    fn source(&self, purpose: &'static str) -> Result<Arc<Source>, Error> {
        if purpose == "scan" {
            return Ok(self.offsets.source.clone());
        }
        let mut sources = self.sources.lock().expect("no panic holds this lock");
        if let Some(source) = sources.get(purpose) {
            return Ok(source.clone());
        }
        let source = Arc::new(Source::open(&self.settings, &self.health, purpose)?);
        sources.insert(purpose, source.clone());
        Ok(source)
    }

    /// Waits until everything appended is on its way or given up.
    pub fn close(&self) {
        self.hasty.flush();
        self.patient.flush();
    }
}

#[cfg(test)]
mod tests;
