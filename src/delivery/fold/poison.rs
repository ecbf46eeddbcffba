//! Records that end the process: which ones are being taken in is noted beside the state,
//! the third death at one record stops the partition, and an operator's record in topic
//! `deliveries` makes it a reject.

use std::path::Path;

use super::{Error, Fold, TOPICS};
use askwhen_log::{Log, Record, TopicPartition};
use askwhen_partition::admission::SKIP_HEADER;
use askwhen_partition::attempts::{Attempts, place};
use askwhen_partition::{StopReason, poisoned};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DeliveryRecord;

/// The number of a topic in the notes.
fn number(topic: Topic) -> u16 {
    let number = TOPICS.iter().position(|of| *of == topic).expect("a topic that is folded");
    u16::try_from(number).expect("there are six")
}

fn not_noted(error: std::io::Error) -> Error {
    StopReason::restart(format!("what is being taken in cannot be noted: {error}")).into()
}

impl Fold {
    /// Notes from now on in this file what is being taken in, and learns from it what
    /// earlier processes died of.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn note_attempts(&mut self, path: &Path) -> Result<(), Error> {
        self.attempts = Attempts::open(path).map_err(not_noted)?;
        Ok(())
    }

    /// Looks through the records of topic `deliveries` that are not taken in yet for those
    /// that skip others: they stand behind what they skip.
    pub(super) fn look_ahead(&mut self, log: &Log, deliveries: TopicPartition, end: u64) -> Result<(), Error> {
        let next = self.position(Topic::Deliveries);
        let mut found = Vec::new();
        log.scan::<Error>(deliveries, next, end, |record| {
            if record.header(SKIP_HEADER).is_some()
                && let Ok(DeliveryRecord::Skip { topic, offset, .. }) =
                    serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            {
                found.push((topic, offset));
            }
            Ok(())
        })?;
        for (topic, offset) in found {
            self.note_skip(topic, offset);
        }
        Ok(())
    }

    /// Skips a record that is not taken in yet.
    pub(super) fn note_skip(&mut self, topic: String, offset: u64) {
        if self.positions.next.get(&topic).is_some_and(|next| *next <= offset) {
            self.positions.skips.entry(topic).or_default().insert(offset);
        }
    }

    /// Whether an operator skips a record that is being taken in now.
    pub(super) fn is_skipped(&mut self, at: TopicPartition, offset: u64) -> bool {
        let Some(skips) = self.positions.skips.get_mut(at.topic.name()) else { return false };
        let is_skipped = skips.remove(&offset);
        // Those that are passed are of no use any more.
        *skips = skips.split_off(&offset);
        if skips.is_empty() {
            self.positions.skips.remove(at.topic.name());
        }
        is_skipped
    }

    /// Notes that records are being taken in, and returns those: fewer where one of them has
    /// killed the process.
    ///
    /// # Errors
    /// When it has killed it too often.
    pub(super) fn begin_records<'a>(&mut self, topic: Topic, records: &'a [Record]) -> Result<&'a [Record], Error> {
        let Some(first) = records.first() else { return Ok(records) };
        let of = |offset| place(number(topic), offset);
        let (from, limit) = (of(first.offset), self.attempts.limit(of(first.offset)));
        let is_in_skips = self.positions.skips.get(topic.name()).is_some_and(|skips| skips.contains(&first.offset));
        if self.attempts.poison() == Some(from) && !is_in_skips {
            let at = TopicPartition { topic, partition: self.partition };
            return Err(poisoned(at, first.offset, "read for webhooks").into());
        }
        let records = &records[..records.partition_point(|record| of(record.offset) < limit)];
        let to = records.last().map_or(from, |record| of(record.offset + 1));
        self.attempts.begin(from, to).map_err(not_noted)?;
        Ok(records)
    }

    /// Notes that they are taken in.
    pub(super) fn end_records(&mut self, topic: Topic, records: &[Record]) -> Result<(), Error> {
        let Some(last) = records.last() else { return Ok(()) };
        self.attempts.end(place(number(topic), last.offset + 1)).map_err(not_noted)
    }
}
