//! Skips a record that kills the process, on an operator's request, which becomes a record
//! of the journal, or of topic `deliveries` where the delivery stands still.

use serde_json::json;

use super::app::{App, RequestContext};
use super::fields::Fields;
use super::problem::{Answer, Problem, json_answer};
use askwhen_log::TopicPartition;
use askwhen_partition::Signer;
use askwhen_wire::definition::Code;
use askwhen_wire::json;
use askwhen_wire::topic::Topic;

impl App {
    /// Accepted only while the partition stands still at this record: applied records
    /// cannot be taken back.
    pub(super) async fn skip(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let mut fields = Fields::of(json::check(&asked.body).map_err(Problem::json)?, String::new());
        let offset = fields.unsigned("offset");
        if offset.is_none() && fields.faults.is_empty() {
            fields.fault(Code::MissingField, "offset", "is required");
        }
        let topic = match fields.text("topic") {
            None => Topic::Events,
            Some(name) => Topic::by_name(&name).filter(|topic| topic.is_skippable()).unwrap_or_else(|| {
                fields.fault(
                    Code::Invalid,
                    "topic",
                    "must be events, deliveries, deliveries.retry.*, attempts or dead",
                );
                Topic::Events
            }),
        };
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let offset = offset.unwrap_or_default();
        let partition = asked.route.parts[0].parse::<u32>().ok().filter(|p| *p < self.log.partitions());
        let partition = partition.ok_or_else(|| Problem::not_found("the journal has no such partition"))?;
        let at = TopicPartition { topic, partition };
        let statuses = if topic == Topic::Events { &self.engine } else { &self.delivery };
        match statuses.get(partition as usize).and_then(|status| status.poisoned_at()) {
            Some(stopped_at) if stopped_at == (topic, offset) => {}
            Some((topic, stopped_at)) => {
                let stopped = TopicPartition { topic, partition };
                let detail = format!("the partition has stopped at {stopped}@{stopped_at}, and not at {at}@{offset}");
                return Err(Problem::new(409, "not_stopped", detail));
            }
            None => {
                let detail = format!(
                    "{at} has not stopped at a record in this process: nothing is skipped that can be applied. GET \
                     /readyz says what stands still"
                );
                return Err(Problem::new(409, "not_stopped", detail));
            }
        }
        let (to, new) = Signer::new(&self.log, &self.key).skip(at, offset, self.clock.now(), asked.request_id);
        self.log.append_durably(to, vec![new]).await.map_err(|error| Problem::log(&error, None))?;
        let body = json!({"topic": at.topic.name(), "partition": partition, "offset": offset, "status": "accepted"});
        Ok(json_answer(200, body.to_string()))
    }
}
