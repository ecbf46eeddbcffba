//! Who this log is. The first process to find no identity writes one into topic
//! `definitions`; of several at once, the one that stands first counts. Their
//! keys differ, so that compaction keeps them all.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::Kafka;
use crate::log::{Ack, At, Error, Log, New};
use crate::wire::output::IDENTITY_KEY;
use crate::wire::topic::Topic;

const AT: At = At { topic: Topic::Definitions, partition: 0 };

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    incarnation: String,
    partitions: u32,
    key_check: String,
}

/// The log's incarnation; made when there is none.
pub fn learn(kafka: &Arc<Kafka>) -> Result<u128, Error> {
    let found = match find(kafka)? {
        Some(found) => found,
        None => {
            write(kafka)?;
            find(kafka)?.ok_or_else(|| Error::Unavailable("the log's identity was written and is not there".into()))?
        }
    };
    let settings = &kafka.settings;
    if found.key_check != settings.key_check {
        return Err(Error::Refused(format!(
            "the topics {}* were begun with another cluster key: set [secrets] key_file to the one that all processes share",
            settings.prefix
        )));
    }
    if found.partitions != settings.partitions {
        return Err(Error::Refused(format!(
            "the topics {}* were begun with {} partitions and there are {} now: users would change their partitions",
            settings.prefix, found.partitions, settings.partitions
        )));
    }
    u128::from_str_radix(&found.incarnation, 16)
        .map_err(|_| Error::Refused("the log's identity in topic definitions is unreadable".into()))
}

fn find(kafka: &Arc<Kafka>) -> Result<Option<Identity>, Error> {
    let log = Log::Kafka(kafka.clone());
    let start = log.bounds(AT)?.start;
    let mut found = None;
    log.scan::<Error>(AT, start, |record| {
        if found.is_none() && record.key.as_ref().is_some_and(|key| key.starts_with(IDENTITY_KEY.as_bytes())) {
            let value = record.value.as_deref().unwrap_or_default();
            let unreadable = |e: serde_json::Error| Error::Refused(format!("the log's identity is unreadable: {e}"));
            found = Some(serde_json::from_slice(value).map_err(unreadable)?);
        }
        Ok(())
    })?;
    Ok(found)
}

fn write(kafka: &Kafka) -> Result<(), Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| Error::Refused(format!("the system gives no random bytes: {e}")))?;
    let identity = Identity {
        incarnation: hex::encode(random),
        partitions: kafka.settings.partitions,
        key_check: kafka.settings.key_check.clone(),
    };
    let new = New {
        key: Some(format!("{IDENTITY_KEY}{}", identity.incarnation).into()),
        headers: Vec::new(),
        value: Some(serde_json::to_vec(&identity).expect("it serialises").into()),
    };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    kafka.hasty.append(kafka.name(Topic::Definitions), AT, vec![new], Ack::Once(sender));
    receiver.blocking_recv().unwrap_or(Err(Error::Closed)).map(drop)
}
