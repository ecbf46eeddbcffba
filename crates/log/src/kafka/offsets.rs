//! Asks the brokers for offsets of partitions: start, end, and by time.

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client;
use super::settings::{ASK, Settings};
use super::source::Source;
use crate::error::Error;
use crate::record::{TopicPartition, Watermarks};
use askwhen_wire::topic::Topic;

/// Kafka's special times for the first offset and for the end.
pub const START: i64 = -2;
pub const END: i64 = -1;

/// An error, and the brokers' code for it.
pub type Denied = (Error, Option<RDKafkaErrorCode>);

/// The client for offsets.
pub struct Offsets {
    pub source: Arc<Source>,
    /// Full topic names, by [`Topic`].
    names: Vec<String>,
}

impl Offsets {
    pub fn new(source: Arc<Source>, settings: &Settings) -> Offsets {
        Offsets { source, names: Topic::ALL.iter().map(|topic| settings.name(*topic)).collect() }
    }

    pub fn name(&self, topic: Topic) -> &str {
        &self.names[topic as usize]
    }

    pub fn all_bounds(&self, all: &[TopicPartition]) -> Result<Vec<Watermarks>, Error> {
        let ask = |which: i64| -> Result<Vec<u64>, Error> {
            let found = self.at_times(all, which)?;
            Ok(found.into_iter().map(|offset| offset.unwrap_or(0)).collect())
        };
        // The start first: it only grows, so it never exceeds the end.
        let starts = ask(START)?;
        let ends = ask(END)?;
        Ok(starts.into_iter().zip(ends).map(|(start, end)| Watermarks { start, end }).collect())
    }

    /// Offsets by time, or by one of Kafka's special times. Asks again while the leader of
    /// a partition is changing.
    pub fn at_times(&self, all: &[TopicPartition], time: i64) -> Result<Vec<Option<u64>>, Error> {
        let deadline = Instant::now() + ASK;
        loop {
            match self.ask(all, time, ASK) {
                Err((error, _)) if Instant::now() < deadline => {
                    tracing::debug!(%error, "bounds are asked again");
                    std::thread::sleep(Duration::from_millis(50));
                }
                asked => return asked.map_err(|(error, _)| error),
            }
        }
    }

    /// The same, asked once.
    pub fn ask(&self, all: &[TopicPartition], time: i64, within: Duration) -> Result<Vec<Option<u64>>, Denied> {
        let denied = |error: KafkaError| {
            let code = error.rdkafka_error_code();
            (client::unavailable(error), code)
        };
        let mut list = TopicPartitionList::new();
        for at in all {
            let place = list.add_partition_offset(self.name(at.topic), at.partition as i32, Offset::from_raw(time));
            place.map_err(denied)?;
        }
        let found = self.source.consumer().offsets_for_times(list, within).map_err(denied)?;
        let mut places: HashMap<(String, i32), Result<Option<u64>, Denied>> = HashMap::new();
        for place in found.elements() {
            let offset = match (place.error(), place.offset()) {
                (Err(error), _) => Err(denied(error)),
                (Ok(()), Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
                (Ok(()), _) => Ok(None),
            };
            places.insert((place.topic().to_owned(), place.partition()), offset);
        }
        let mut offsets = Vec::with_capacity(all.len());
        for at in all {
            let place = places.remove(&(self.name(at.topic).to_owned(), at.partition as i32));
            let nobody = || Err((Error::Unavailable(format!("nobody knows the bounds of {at}")), None));
            offsets.push(place.unwrap_or_else(nobody)?);
        }
        Ok(offsets)
    }
}
