//! Empties partitions that were added to the journal's topic after the log was made. No
//! user belongs there and they have no state, but producers write to them. Their records
//! are appended again to the partition of their user, and then trimmed. A process that dies
//! between the two moves a record twice; its event id makes that one effect.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

use askwhen_domain::id;
use askwhen_log::{Ack, Error, Log, NewRecord, Record, TopicPartition};
use askwhen_process::thread::{LogThrottle, Service};
use askwhen_wire::record::{self, Decoded, REPLY_HEADER};
use askwhen_wire::topic::Topic;

const TURN: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 256 << 10;

/// Moves the records of such partitions.
pub struct SurplusMover {
    log: Log,
    /// By partition, the offset up to which records were moved, in case the brokers have
    /// not trimmed them.
    next: BTreeMap<u32, u64>,
}

impl SurplusMover {
    pub fn new(log: Log) -> SurplusMover {
        SurplusMover { log, next: BTreeMap::new() }
    }

    /// Moves records as they come, until the returned service is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(mut self) -> std::io::Result<Service> {
        Service::spawn("surplus", Default::default(), move |turns| {
            let mut throttle = LogThrottle::default();
            while turns.go_on() {
                for partition in self.log.surplus() {
                    match self.turn(partition) {
                        Ok(0) => {}
                        Ok(moved) => tracing::warn!(partition, moved, "records were moved to their users' partitions"),
                        Err(error) if throttle.is_new(&error.to_string()) => {
                            tracing::error!(partition, %error, "records in a partition that was added cannot be moved");
                        }
                        Err(_) => {}
                    }
                }
                turns.wait(TURN);
            }
        })
    }

    /// Moves some records of a partition; returns how many.
    ///
    /// # Errors
    /// When they cannot be read, appended or trimmed.
    pub fn turn(&mut self, partition: u32) -> Result<u64, Error> {
        let at = TopicPartition { topic: Topic::Events, partition };
        let bounds = self.log.bounds(at)?;
        let next = self.next.get(&partition).copied().unwrap_or(0).max(bounds.start);
        if next >= bounds.end {
            return Ok(0);
        }
        let records = self.log.read(at, next, READ_BYTES)?;
        let Some(last) = records.last().map(|record| record.offset) else { return Ok(0) };
        let mut by_owner: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
        for record in &records {
            let (owner, new) = moved(record, partition, self.log.partitions());
            by_owner.entry(owner).or_default().push(new);
        }
        let mut acks = Vec::new();
        for (owner, batch) in by_owner {
            let (sender, receiver) = oneshot::channel();
            self.log.append(TopicPartition { topic: Topic::Events, partition: owner }, batch, Ack::Once(sender));
            acks.push(receiver);
        }
        for ack in acks {
            ack.blocking_recv().unwrap_or(Err(Error::Closed))?;
        }
        self.next.insert(partition, last + 1);
        self.log.trim(at, last + 1)?;
        Ok(records.len() as u64)
    }
}

/// The record for the partition of its user, with the append time at which it was first
/// stored. A record that cannot be read becomes a reject there.
fn moved(record: &Record, partition: u32, partitions: u32) -> (u32, NewRecord) {
    let headers = record.headers.iter().filter(|(name, _)| name != REPLY_HEADER.as_bytes());
    let new = NewRecord { key: record.key.clone(), headers: headers.cloned().collect(), value: record.value.clone() };
    let Ok(Decoded::User(user)) = record::decode(record.value.as_deref(), false) else {
        return (partition % partitions, new);
    };
    let owner = id::partition_of(&user.user_id, partitions);
    let dated = match user.times.received_at {
        Some(_) => None,
        None => record.value.as_deref().and_then(|value| record::dated(value, record.appended_at)),
    };
    let value = dated.map(Into::into).or_else(|| new.value.clone());
    (owner, NewRecord { value, ..new })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_record_goes_to_its_user_with_its_time() {
        let record = |value: &str| Record {
            offset: 3,
            appended_at: 1_794_009_600_000,
            key: Some("k".into()),
            headers: Vec::new(),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            crc: 0,
        };
        let (to, new) = moved(&record(r#"{"user_id":"ann","event_name":"x"}"#), 17, 16);
        assert_eq!(to, id::partition_of("ann", 16));
        let Ok(Decoded::User(user)) = record::decode(new.value.as_deref(), false) else { panic!("{new:?}") };
        assert_eq!((user.times.received_at, new.key.as_deref()), (Some(1_794_009_600_000), Some(&b"k"[..])));
        let (to, new) = moved(&record("{"), 17, 16);
        assert_eq!((to, new.value.as_deref()), (1, Some(&b"{"[..])), "a reject is one where it lands");
    }
}
