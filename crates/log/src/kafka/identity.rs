//! The identity of a log. The first process that finds none writes one into topic
//! `definitions`; of several at once, the first record counts. Their keys differ, so that
//! compaction keeps them all.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::cluster::Cluster;
use super::reader::KafkaReader;
use super::settings::Settings;
use crate::ack::Ack;
use crate::error::Error;
use crate::fetch::Fetch as _;
use crate::record::{NewRecord, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::IDENTITY_KEY;

const AT: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KafkaIdentity {
    incarnation: String,
    partitions: u32,
    key_check: String,
    /// By partition, the offset at which the journal's own records begin: those before were
    /// imported from another log and have had their effect. Empty when nothing was
    /// imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    begins: Vec<u64>,
    /// Whether the log is still being filled from another.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
    /// Whether every MAC in its records names log and partition; missing before 0.2.0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bound_macs: bool,
}

impl KafkaIdentity {
    /// A new identity.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn fresh(settings: &Settings) -> Result<KafkaIdentity, Error> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| Error::Refused(format!("the system gives no random bytes: {e}")))?;
        Ok(KafkaIdentity {
            incarnation: hex::encode(random),
            partitions: settings.partitions,
            key_check: settings.key_check.clone(),
            begins: Vec::new(),
            unfinished: false,
            bound_macs: true,
        })
    }

    /// Refuses the log of another cluster key or of other partitions.
    ///
    /// # Errors
    /// [`Error::Refused`] for one that is not of these settings, or not finished.
    pub fn must_be_ours(&self, settings: &Settings) -> Result<(), Error> {
        self.must_be_finished(settings)?;
        if self.key_check != settings.key_check {
            return Err(Error::Refused(format!(
                "the topics {}* were begun with another cluster key: set [secrets] key_file to the one that all processes share",
                settings.prefix
            )));
        }
        if self.partitions != settings.partitions {
            return Err(Error::Refused(format!(
                "the topics {}* were begun with {} partitions and there are {} now: users would change their partitions",
                settings.prefix, self.partitions, settings.partitions
            )));
        }
        if u128::from_str_radix(&self.incarnation, 16).is_err() {
            return Err(Error::Refused("the log's identity in topic definitions is unreadable".into()));
        }
        Ok(())
    }

    pub fn must_be_finished(&self, settings: &Settings) -> Result<(), Error> {
        if !self.unfinished {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "an export into the topics {}* has not come to its end: wait for it, or delete these topics and export again",
            settings.prefix
        )))
    }

    pub fn unfinished(self) -> KafkaIdentity {
        KafkaIdentity { unfinished: true, ..self }
    }

    pub fn finished(self, begins: Vec<u64>) -> KafkaIdentity {
        KafkaIdentity { unfinished: false, begins, ..self }
    }

    pub fn incarnation(&self) -> u128 {
        u128::from_str_radix(&self.incarnation, 16).expect("checked when it was learnt")
    }

    fn key(&self) -> String {
        format!("{IDENTITY_KEY}{}", self.incarnation)
    }

    /// Whether a record with this key contains it.
    pub fn has_key(&self, key: &str) -> bool {
        key == self.key()
    }

    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    pub fn binds_macs(&self) -> bool {
        self.bound_macs
    }

    pub fn begins(&self, partition: u32) -> u64 {
        self.begins.get(partition as usize).copied().unwrap_or(0)
    }

    /// Writes it; a record of the same incarnation is replaced.
    pub fn write(&self, cluster: &Cluster) -> Result<(), Error> {
        let new = NewRecord {
            key: Some(self.key().into()),
            headers: Vec::new(),
            value: Some(serde_json::to_vec(self).expect("it serialises").into()),
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        cluster.hasty.append(cluster.name(Topic::Definitions), AT, vec![new], Ack::Once(sender));
        receiver.blocking_recv().unwrap_or(Err(Error::Closed)).map(drop)
    }
}

/// Reads the log's identity; writes one if there is none.
pub fn learn(cluster: &Arc<Cluster>) -> Result<KafkaIdentity, Error> {
    // In this order, because whoever founds a log writes its identity first.
    let holds_records = holds_records(cluster)?;
    let found = match find(cluster)? {
        Some(found) => found,
        None if holds_records => {
            return Err(Error::Refused(format!(
                "the topics {0}* hold records, and topic {0}definitions has lost the identity of their log: nothing is \
                 written to them. Restore the topic with all its records from a backup, or take another prefix",
                cluster.settings.prefix
            )));
        }
        None => {
            KafkaIdentity::fresh(&cluster.settings)?.write(cluster)?;
            find(cluster)?
                .ok_or_else(|| Error::Unavailable("the log's identity was written and is not there".into()))?
        }
    };
    found.must_be_ours(&cluster.settings)?;
    Ok(found)
}

/// Whether anything was ever written to a topic of the log.
fn holds_records(cluster: &Arc<Cluster>) -> Result<bool, Error> {
    let partitions = cluster.settings.partitions;
    let all = Topic::ALL.iter().filter(|topic| **topic != Topic::Replies);
    let all: Vec<TopicPartition> = all
        .flat_map(|topic| {
            (0..topic.partitions(partitions)).map(|partition| TopicPartition { topic: *topic, partition })
        })
        .collect();
    Ok(cluster.offsets.all_bounds(&all)?.iter().any(|bounds| bounds.end > 0))
}

/// Refuses topics that are still being filled from another log.
pub fn refuse_unfinished(cluster: &Arc<Cluster>) -> Result<(), Error> {
    find(cluster)?.map_or(Ok(()), |identity| identity.must_be_finished(&cluster.settings))
}

/// The identity whose first record is the earliest, in its latest version.
pub fn find(cluster: &Arc<Cluster>) -> Result<Option<KafkaIdentity>, Error> {
    let bounds = cluster.offsets.all_bounds(&[AT])?[0];
    let mut found: Option<(bytes::Bytes, KafkaIdentity)> = None;
    let mut reader = KafkaReader::new(cluster.clone(), "scan", Arc::default());
    reader.scan::<Error>(AT, bounds.start, bounds.end, |record| {
        let Some(key) = record.key.filter(|key| key.starts_with(IDENTITY_KEY.as_bytes())) else { return Ok(()) };
        if found.as_ref().is_none_or(|(first, _)| *first == key) {
            let value = record.value.as_deref().unwrap_or_default();
            let unreadable = |e: serde_json::Error| Error::Refused(format!("the log's identity is unreadable: {e}"));
            found = Some((key, serde_json::from_slice(value).map_err(unreadable)?));
        }
        Ok(())
    })?;
    Ok(found.map(|(_, identity)| identity))
}
