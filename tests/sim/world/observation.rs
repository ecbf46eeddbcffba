//! What can be seen from outside: answers to requests, and what the topics tell.

use super::{Erased, World};
use crate::bodies::NOISE;
use askwhen_log::TopicPartition;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptRecord, DeliveryRecord, SOURCE_HEADER, Source};
use serde_json::Value;
use tokio::sync::oneshot;

impl World {
    /// Reads on in the topics that tell of offers, ends and erasures, and takes
    /// the answers to requests.
    pub(super) fn observe(&mut self) -> Result<(), String> {
        let (requests, step) = (&mut self.requests, self.step);
        self.unanswered.retain(|n| {
            let request = &mut requests[*n];
            match request.answer.as_mut().map(oneshot::Receiver::try_recv) {
                Some(Err(oneshot::error::TryRecvError::Empty)) => true,
                Some(Ok(outcome)) => {
                    (request.outcome, request.told_at_step) = (Some(outcome), step);
                    false
                }
                Some(Err(oneshot::error::TryRecvError::Closed)) | None => false,
            }
        });
        for partition in 0..self.partitions {
            for topic in [Topic::Decisions, Topic::Attempts, Topic::Deliveries] {
                self.observe_one(TopicPartition { topic, partition })?;
            }
        }
        Ok(())
    }

    pub(super) fn observe_one(&mut self, at: TopicPartition) -> Result<(), String> {
        let next = self.observed.get(&at).copied().unwrap_or(0);
        if self.medium.bounds(at).is_none_or(|bounds| next >= bounds.end) {
            return Ok(());
        }
        for record in self.medium.read(at, next) {
            self.observed.insert(at, record.offset + 1);
            let bytes = record.value.as_deref().unwrap_or_default();
            match at.topic {
                Topic::Decisions => {
                    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    let user = value["user_id"].as_str().unwrap_or_default().to_owned();
                    if let Some(offer) = value["survey"]["offer_id"].as_str() {
                        if value["survey"]["survey_id"] == NOISE {
                            self.branching.insert(offer.to_owned());
                        }
                        let offers = self.offers.entry(user).or_default();
                        if offers.last().is_none_or(|last| last != offer) {
                            offers.push(offer.to_owned());
                        }
                    }
                }
                Topic::Attempts => {
                    let attempt: AttemptRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    self.unrecorded.remove(&(attempt.delivery_id.clone(), attempt.attempt));
                    if attempt.ended.is_some() {
                        self.ended.entry(attempt.delivery_id).or_insert(self.step);
                    }
                }
                _ => {
                    let record_of = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
                    if let (DeliveryRecord::CancelUser { user_id, .. }, Some(source)) = (record_of, source) {
                        self.erased.entry(user_id).or_default().push(Erased { source, at_step: self.step });
                    }
                }
            }
        }
        Ok(())
    }
}
