//! The log on Kafka brokers.

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, OnceLock};

use super::cluster::Cluster;
use super::faults::{BrokerFault, DEFINITIONS};
use super::identity::{self, KafkaIdentity};
use super::lease::{self, Lease, Surplus};
use super::reader::KafkaReader;
use super::settings::{ASK, Settings};
use super::topic_watch::TopicWatch;
use super::{client, topics};
use crate::ack::Ack;
use crate::error::Error;
use crate::fetch::Fetch as _;
use crate::record::{NewRecord, Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;
use askwhen_process::thread::{Notify, Service};
use askwhen_wire::topic::Topic;

pub struct Kafka {
    cluster: Arc<Cluster>,
    identity: OnceLock<KafkaIdentity>,
    /// Services that watch the brokers and the topics.
    watching: OnceLock<[Service; 2]>,
    /// Assigned partitions of the journal beyond those that the log was made with: they
    /// were added to the topic later.
    surplus: Surplus,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka({}, {})", self.cluster.settings.brokers, self.cluster.settings.prefix)
    }
}

impl Kafka {
    /// Connects, checks the topics, and reads (or writes) the log's identity. Topics are
    /// created when there are none at all. Blocks; has to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no broker answers; [`Error::Refused`] when the topics
    /// are not as declared, or belong to another cluster key.
    pub fn connect(settings: Settings) -> Result<Arc<Kafka>, Error> {
        let cluster = Cluster::open(settings)?;
        if let Err(error) = topics::make_or_check(&cluster.admin, &cluster.settings, &cluster.runtime) {
            // The topics of an unfinished export are not as declared either.
            let unfinished = identity::refuse_unfinished(&cluster).err();
            return Err(unfinished.filter(|e| matches!(e, Error::Refused(_))).unwrap_or(error));
        }
        let kafka = Kafka::of(cluster.clone());
        kafka.identify(identity::learn(&cluster)?);
        let admin = client::admin(&cluster.settings, &cluster.health)?;
        let watching = cluster.health.watch(admin, cluster.name(Topic::Events).to_owned())?;
        let topics = TopicWatch::new(cluster.clone()).start()?;
        kafka.watching.get_or_init(|| [watching, topics]);
        Ok(kafka)
    }

    /// Connects for viewing: creates nothing, and has no identity.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no broker answers, or the topics do not exist.
    pub fn observe(settings: Settings) -> Result<Arc<Kafka>, Error> {
        let cluster = Cluster::open(settings.clone())?;
        let found = topics::must_exist(&cluster.admin, &settings, &cluster.runtime)?;
        // The log has the number of partitions that it was founded with, whatever is configured.
        let founded = identity::find(&cluster)?.map(|identity| identity.partitions());
        let Some(partitions) = founded.filter(|founded| *founded != settings.partitions) else {
            found.refuse_wrong()?;
            return Ok(Kafka::of(cluster));
        };
        let cluster = Cluster::open(Settings { partitions, ..settings })?;
        topics::must_exist(&cluster.admin, &cluster.settings, &cluster.runtime)?.refuse_wrong()?;
        Ok(Kafka::of(cluster))
    }

    /// A log on these brokers, without an identity yet.
    pub(super) fn of(cluster: Arc<Cluster>) -> Arc<Kafka> {
        Arc::new(Kafka { cluster, identity: OnceLock::new(), watching: OnceLock::new(), surplus: Surplus::default() })
    }

    pub(super) fn identify(&self, identity: KafkaIdentity) {
        self.identity.get_or_init(|| identity);
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

    /// Whether a member of the groups that write to the journal does not name its version:
    /// it may be 0.1.0. Blocks for a round trip.
    pub fn has_older_members(&self) -> Result<bool, Error> {
        for purpose in ["engine", "delivery"] {
            let group_id = format!("{}{purpose}", self.cluster.settings.prefix);
            let asked =
                self.cluster.admin.inner().fetch_group_list(Some(&group_id), ASK).map_err(client::unavailable)?;
            let mut members = asked.groups().iter().flat_map(|group| group.members());
            if members.any(|member| !member.client_id().starts_with(lease::MEMBER_PREFIX)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The offset at which the own records of a journal partition begin.
    pub fn begins(&self, partition: u32) -> u64 {
        self.identity().begins(partition)
    }

    pub fn partitions(&self) -> u32 {
        self.cluster.settings.partitions
    }

    pub fn append(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        match self.cluster.must_be_complete(|lost| lost == at) {
            Ok(()) => self.cluster.patient.append(self.cluster.name(at.topic), at, records, ack),
            Err(error) => ack.send(Err(error)),
        }
    }

    /// As [`Kafka::append`], but refused at once while the brokers are away or a partition
    /// that follows from the record has lost records, and given up after
    /// `REQUEST_TIMEOUT_MS`.
    pub fn append_in_time(&self, at: TopicPartition, records: Vec<NewRecord>, ack: Ack) {
        let concerns = |lost: TopicPartition| lost.partition == at.partition || lost == DEFINITIONS;
        let complete = self.cluster.health.faults.must_be_complete(concerns);
        let complete = complete.map_err(|error| Error::Unavailable(error.to_string()));
        match self.is_writable().and(complete) {
            Ok(()) => self.cluster.hasty.append(self.cluster.name(at.topic), at, records, ack),
            Err(error) => ack.send(Err(error)),
        }
    }

    /// Refuses a partition of which any topic has lost records.
    pub fn is_complete(&self, partition: u32) -> Result<(), Error> {
        self.cluster.must_be_complete(|lost| lost.partition == partition)
    }

    /// Whether topic `definitions` has lost records while it was used.
    pub fn has_lost_definitions(&self) -> bool {
        self.cluster.health.faults.has_lost(DEFINITIONS)
    }

    /// Notes that the lost definitions were written again. Last of all it writes the log's
    /// identity, by which other processes see that the topic is complete.
    pub fn definitions_are_back(&self) -> Result<(), Error> {
        if identity::find(&self.cluster)?.is_none() {
            self.identity().write(&self.cluster)?;
        }
        self.cluster.health.faults.over(&BrokerFault::Lost(DEFINITIONS));
        Ok(())
    }

    /// Notes that topic `definitions` has a record with an identity's key.
    pub fn identity_seen(&self, key: &str) {
        if self.has_lost_definitions() && self.identity().has_key(key) {
            self.cluster.health.faults.over(&BrokerFault::Lost(DEFINITIONS));
        }
    }

    /// Faults of the topics and of this process's permissions.
    pub fn faults(&self) -> Vec<String> {
        self.cluster.health.faults.reasons()
    }

    /// Appends a record that may be lost: a reply.
    pub fn append_unacknowledged(&self, at: TopicPartition, record: NewRecord) {
        let (sender, _) = tokio::sync::oneshot::channel();
        self.cluster.hasty.append(self.cluster.name(at.topic), at, vec![record], Ack::Once(sender));
    }

    /// A reader for one purpose.
    pub fn reader(&self, purpose: &'static str, notify: Arc<Notify>) -> KafkaReader {
        KafkaReader::new(self.cluster.clone(), purpose, notify)
    }

    pub fn read(&self, at: TopicPartition, from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        let mut reader = self.reader("scan", Arc::default());
        if from >= self.all_bounds(&[at])?[0].end {
            return Ok(Vec::new());
        }
        Ok(reader.read_or_wait(at, from, max_bytes)?.records)
    }

    pub fn all_bounds(&self, all: &[TopicPartition]) -> Result<Vec<Watermarks>, Error> {
        self.cluster.offsets.all_bounds(all)
    }

    pub fn offset_at(&self, at: TopicPartition, time: Millis) -> Result<u64, Error> {
        match self.cluster.offsets.at_times(&[at], time.max(0))?[0] {
            Some(offset) => Ok(offset),
            None => Ok(self.all_bounds(&[at])?[0].end),
        }
    }

    pub fn trim(&self, at: TopicPartition, below: u64) -> Result<(), Error> {
        if below <= self.all_bounds(&[at])?[0].start {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        let place =
            list.add_partition_offset(self.cluster.name(at.topic), at.partition as i32, Offset::Offset(below as i64));
        place.map_err(client::unavailable)?;
        let options = AdminOptions::new().request_timeout(Some(ASK));
        let deleted = self
            .cluster
            .runtime
            .block_on(self.cluster.admin.delete_records(&list, &options))
            .map_err(client::unavailable)?;
        deleted.elements().iter().try_for_each(|place| place.error()).map_err(client::unavailable)
    }

    pub fn is_writable(&self) -> Result<(), Error> {
        self.cluster.health.is_writable()?;
        self.cluster.hasty.is_writable()
    }

    pub fn lease(&self, purpose: &'static str, topic: Topic) -> Result<Lease, Error> {
        let surplus = if topic == Topic::Events { self.surplus.clone() } else { Surplus::default() };
        Lease::join(&self.cluster.settings, &self.cluster.health, purpose, self.cluster.name(topic), surplus)
    }

    /// Added partitions of the journal that this process has to empty.
    pub fn surplus(&self) -> Vec<u32> {
        let surplus: Vec<u32> = self.surplus.lock().expect("no panic holds this lock").iter().copied().collect();
        // The client that reads them would not notice them for minutes.
        if !surplus.is_empty()
            && let Err(error) =
                self.cluster.offsets.source.consumer().fetch_metadata(Some(self.cluster.name(Topic::Events)), ASK)
        {
            tracing::debug!(%error, "the partitions of the journal cannot be asked");
        }
        surplus
    }

    /// Waits until everything appended is sent or given up.
    pub fn close(&self) {
        self.cluster.hasty.flush();
        self.cluster.patient.flush();
    }
}
