//! Fills a new log from another one before anyone uses it.

use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::cluster::Cluster;
use super::identity::KafkaIdentity;
use super::log::Kafka;
use super::reader::checksum;
use super::settings::Settings;
use super::topics;
use crate::ack::Ack;
use crate::error::Error;
use crate::record::{AppendedRange, NewRecord, TopicPartition};
use askwhen_domain::time::Millis;

/// The most bytes on their way to the brokers.
const MAX_OUTSTANDING_BYTES: usize = 32 << 20;

/// New topics whose journal accepts given append times. Until [`Founding::finish`] no
/// process starts with them.
pub struct Founding {
    cluster: Arc<Cluster>,
    log: Arc<Kafka>,
    identity: KafkaIdentity,
    outstanding: VecDeque<(usize, oneshot::Receiver<Result<AppendedRange, Error>>)>,
    outstanding_bytes: usize,
}

impl Founding {
    /// Creates the topics; none may exist. All functions here block.
    ///
    /// # Errors
    /// [`Error::Refused`] when there are topics with this prefix.
    pub fn begin(settings: Settings) -> Result<Founding, Error> {
        let cluster = Cluster::open(settings)?;
        topics::make_all(&cluster.admin, &cluster.settings, &cluster.runtime)?;
        let identity = KafkaIdentity::fresh(&cluster.settings)?;
        identity.clone().unfinished().write(&cluster)?;
        let log = Kafka::of(cluster.clone());
        log.identify(identity.clone());
        Ok(Founding { cluster, log, identity, outstanding: VecDeque::new(), outstanding_bytes: 0 })
    }

    /// For reading what was appended so far.
    pub fn log(&self) -> &Arc<Kafka> {
        &self.log
    }

    /// Appends records with their append times in the other log.
    ///
    /// # Errors
    /// When the brokers refuse a record, this one or an earlier one.
    pub fn append(&mut self, at: TopicPartition, records: Vec<(NewRecord, Option<Millis>)>) -> Result<(), Error> {
        let bytes = records.iter().map(|(new, _)| new.len_bytes()).sum();
        let (sender, receiver) = oneshot::channel();
        self.cluster.patient.append_stamped(self.cluster.name(at.topic), at, records, Ack::Once(sender));
        self.outstanding.push_back((bytes, receiver));
        self.outstanding_bytes += bytes;
        self.settle(MAX_OUTSTANDING_BYTES)
    }

    /// The checksum with which a record will be read.
    pub fn checksum(new: &NewRecord) -> u32 {
        checksum(new.key.as_deref(), &new.headers, new.value.as_deref())
    }

    /// Waits until at most so many bytes are on their way.
    ///
    /// # Errors
    /// As [`Founding::append`].
    pub fn settle(&mut self, bytes: usize) -> Result<(), Error> {
        while self.outstanding_bytes > bytes
            && let Some((of, receiver)) = self.outstanding.pop_front()
        {
            receiver.blocking_recv().unwrap_or(Err(Error::Closed))?;
            self.outstanding_bytes -= of;
        }
        Ok(())
    }

    /// Opens the log: the journal's own records begin at these offsets.
    ///
    /// # Errors
    /// When the brokers refuse.
    pub fn finish(mut self, begins: Vec<u64>) -> Result<(), Error> {
        self.settle(0)?;
        topics::take_own_times(&self.cluster.admin, &self.cluster.settings, &self.cluster.runtime)?;
        self.identity.finished(begins).write(&self.cluster)
    }
}
