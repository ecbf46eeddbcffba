//! Sends messages again: one that an operator names, or all that an endpoint has missed.
//! The message is read from topic `deliveries` and sent under its own `webhook-id`.

use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::app::{App, RequestContext, run_blocking};
use super::fields::Fields;
use super::lists::Lists;
use super::problem::{Answer, Problem, json_answer};
use super::recoveries::RecoveryTurn;
use super::view::ListedDefinition;
use askwhen_domain::id;
use askwhen_domain::refs::EndpointRef;
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::Delivery;
use askwhen_domain::webhook::rate::Rate;
use askwhen_log::{Fetch as _, Log, NewRecord, Reader, Record, TopicPartition};
use askwhen_partition::{EngineReply, Signer};
use askwhen_process::thread::Notify;
use askwhen_wire::definition::Code;
use askwhen_wire::listing::DeliveryPlace;
use askwhen_wire::record::Internal;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DeliveryRecord;

/// The most messages that one request sends again; all are in the journal when it is
/// answered.
pub(super) const MAX_RECOVERED: usize = 20_000;
/// The pause between two messages without a rate, in microseconds, which keeps them in
/// order.
const SPACING_US: i64 = 1_000;
/// Messages appended together: their order is kept within each partition.
pub(super) const WINDOW: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// How long a request waits for the recovery before it.
const TURN: Duration = Duration::from_secs(5);
/// How long to wait until the lists show what a recovery sends.
pub(super) const SEEN_WITHIN: Duration = Duration::from_secs(10);

impl App {
    pub(super) async fn resend(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_members()?;
        let (lists, project) = (self.lists().await?, &asked.caller.project);
        let place = lists.place(project, &asked.route.parts[0]).map_err(super::list_routes::unlisted)?;
        let place = place.ok_or_else(|| Problem::not_found("there is no such delivery"))?;
        let successor = lists.successor(project, &place.delivery_id).map_err(super::list_routes::unlisted)?;
        let log = self.log.clone();
        let found = run_blocking(move || MessageReader::new(&log, Topic::Deliveries).delivery(&place)).await?;
        let Some(delivery) = found.map_err(|error| Problem::log(&error, None))? else {
            let detail = "the message is no longer kept: topic deliveries has been trimmed behind it";
            return Err(Problem::new(410, "gone", detail));
        };
        if delivery.message.kind == EventType::Test {
            let detail = "a test is not sent again; POST /v1/endpoints/{endpoint_id}/test makes a new one";
            return Err(Problem::new(409, "is_a_test", detail));
        }
        let told_at = delivery.created_at;
        // A replacement keeps the creation time, as recoveries do, so that both get the
        // same id.
        let (delivery_id, created_at) = match successor {
            Some(delivery_id) => (delivery_id, told_at),
            None => (id::delivery_by_chance(uuid::Uuid::new_v4().as_u128()), self.clock.now()),
        };
        let known = json!({"delivery_id": delivery_id, "message_id": delivery.message_id, "status": "pending"});
        let delivery = Box::new(Delivery { delivery_id, created_at, ..delivery });
        let partition = id::partition_of(&delivery.user_id, self.log.partitions());
        let key = delivery.user_id.clone();
        let redelivery = Internal::Redeliver { delivery, told_at, asked_at: self.clock.now() };
        match self.ask_internal(TopicPartition { topic: Topic::Events, partition }, &key, &redelivery).await? {
            Some(EngineReply::Body { server, .. }) => Ok(json_answer(202, server.as_str().to_owned())),
            Some(EngineReply::Refused { code, pointer, detail }) => Err(Problem::refused(&code, pointer, detail)),
            _ => Ok(json_answer(202, known.to_string())),
        }
    }

    /// Sends everything again that is dead, or was cancelled because the endpoint was
    /// disabled, oldest first. What was recovered before is left out.
    pub(super) async fn recover(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let mut fields = Fields::of(asked.text()?, String::new());
        let span = span(&mut fields);
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        self.refuse_disabled(&self.known_endpoint(asked)?)?;
        let endpoint = EndpointRef::new(&asked.caller.project, &asked.route.parts[0]);
        let turn = self.turn(endpoint).await?;
        let lists = self.lists().await?.clone();
        let (project, endpoint_id) = (endpoint.project.to_owned(), endpoint.endpoint_id.to_owned());
        let search = move || lists.recoverable(EndpointRef::new(&project, &endpoint_id), span, MAX_RECOVERED + 1);
        let found = run_blocking(search).await?;
        let mut places = found.map_err(super::list_routes::unlisted)?;
        let more = places.len() > MAX_RECOVERED;
        places.truncate(MAX_RECOVERED);
        let last = places.last().map(|place| id::successor(&place.delivery_id));
        let windows: Vec<Vec<DeliveryPlace>> = places.chunks(WINDOW).map(<[DeliveryPlace]>::to_vec).collect();
        let mut messages = MessageReader::new(&self.log, Topic::Deliveries);
        let read = move |window: &Vec<DeliveryPlace>| messages.successors(window);
        let recovery = RecoveryInProgress { project: endpoint.project, last, turn };
        let count = self.redeliver(windows, read, None, recovery).await?;
        let mut body = json!({"recover_id": format!("rec_{}", asked.request_id), "count": count});
        if more {
            body["more"] = true.into();
        }
        Ok(json_answer(202, body.to_string()))
    }
}

/// A recovery; it holds its endpoint's lock until its last delivery is listed.
pub(super) struct RecoveryInProgress<'a> {
    pub project: &'a str,
    /// The id of the last delivery, if there is any.
    pub last: Option<String>,
    pub turn: RecoveryTurn,
}

impl App {
    pub(super) fn refuse_disabled(&self, shown: &ListedDefinition) -> Result<(), Problem> {
        let mut state = json!({});
        self.show_state(shown, &mut state);
        if state["state"] == "disabled" {
            return Err(Problem::new(409, "endpoint_disabled", "the endpoint is disabled: enable it first"));
        }
        Ok(())
    }

    /// Waits until no other recovery of the endpoint is running: until the lists show what
    /// that sends, it would be sent again.
    pub(super) async fn turn(&self, endpoint: EndpointRef<'_>) -> Result<RecoveryTurn, Problem> {
        let turn = self.recoveries.turn(endpoint).lock_owned();
        tokio::time::timeout(TURN, turn).await.map_err(|_| {
            let detail = "another recovery of this endpoint is on its way; ask again when it is through";
            Problem::later(409, "recovering", detail, TURN)
        })
    }

    /// Sends the deliveries that `read` returns for each window, in order and at a rate;
    /// returns how many. When it returns, all of them are in the journal.
    pub(super) async fn redeliver<W: Send + 'static>(
        &self,
        windows: Vec<W>,
        mut read: impl FnMut(&W) -> Result<Vec<Delivery>, askwhen_log::Error> + Send + 'static,
        rate: Option<Rate>,
        recovery: RecoveryInProgress<'_>,
    ) -> Result<usize, Problem> {
        let RecoveryInProgress { project, last, turn } = recovery;
        let spacing_us = spacing_us(rate);
        let (from, mut count) = (self.clock.now(), 0);
        for window in windows {
            let found;
            (read, found) = run_blocking(move || {
                let found = read(&window);
                (read, found)
            })
            .await?;
            let mut found = found.map_err(|error| Problem::log(&error, None))?;
            for delivery in &mut found {
                delivery.not_before = Some(from.saturating_add(count as i64 * spacing_us / 1_000));
                count += 1;
            }
            self.append_redeliveries(found, None).await?;
        }
        let (lists, project) = (self.lists.clone(), project.to_owned());
        tokio::spawn(async move {
            until_listed(lists.as_deref(), &project, last.as_deref()).await;
            drop(turn);
        });
        Ok(count)
    }

    /// Appends requests to deliver again, made at `asked_at` or now.
    pub(super) async fn append_redeliveries(
        &self,
        found: Vec<Delivery>,
        asked_at: Option<Millis>,
    ) -> Result<(), Problem> {
        let mut by_partition: BTreeMap<u32, Vec<NewRecord>> = BTreeMap::new();
        let signer = Signer::new(&self.log, &self.key);
        for delivery in &found {
            self.decides(self.journal_of(&delivery.user_id))?;
        }
        for delivery in found {
            let key = delivery.user_id.clone();
            let partition = id::partition_of(&key, self.log.partitions());
            // It keeps its creation time, so that the lists show it beside the one that it
            // replaces.
            let (told_at, asked_at) = (delivery.created_at, asked_at.unwrap_or_else(|| self.clock.now()));
            let redelivery = Internal::Redeliver { delivery: Box::new(delivery), told_at, asked_at };
            by_partition.entry(partition).or_default().push(signer.internal(partition, &key, &redelivery));
        }
        let appends = by_partition.into_iter().map(|(partition, records)| {
            self.log.append_durably(TopicPartition { topic: Topic::Events, partition }, records)
        });
        let done = futures_util::future::join_all(appends).await;
        done.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(Problem::log(&error, None)))
    }
}

/// The pause between two messages in microseconds.
pub(super) fn spacing_us(rate: Option<Rate>) -> i64 {
    rate.map_or(SPACING_US, |rate| rate.per.as_micros() as i64 / i64::from(rate.count.get()))
}

/// Waits until the lists, if there are any, show a delivery, but not for ever.
pub(super) async fn until_listed(lists: Option<&dyn Lists>, project: &str, delivery_id: Option<&str>) {
    let Some((lists, id)) = lists.zip(delivery_id) else { return };
    let deadline = tokio::time::Instant::now() + SEEN_WITHIN;
    let is_listed = || lists.place(project, id).is_ok_and(|place| place.is_some());
    while !is_listed() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `since` and `until` of a body.
pub(super) fn span(fields: &mut Fields<'_>) -> TimeSpan {
    let left_out = fields.raw("since").is_none();
    let (since, until) = (fields.time("since"), fields.time("until"));
    if left_out {
        fields.fault(Code::MissingField, "since", "is required");
    }
    if since.zip(until).is_some_and(|(since, until)| until <= since) {
        fields.fault(Code::Invalid, "until", "must be after since");
    }
    TimeSpan::new(since.unwrap_or(0), until.unwrap_or(Millis::MAX))
}

/// Reads records by position, some of each partition at a time.
pub(super) struct MessageReader {
    topic: Topic,
    reader: Reader,
    read: HashMap<u32, Vec<Record>>,
}

impl MessageReader {
    pub fn new(log: &Log, topic: Topic) -> MessageReader {
        MessageReader { topic, reader: log.reader("again", Arc::new(Notify::default())), read: HashMap::new() }
    }

    /// The record at a position; `None` when it is not kept any more.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub fn record(&mut self, partition: u32, offset: u64) -> Result<Option<&Record>, askwhen_log::Error> {
        let held = self.read.entry(partition).or_default();
        if !held.iter().any(|record| record.offset == offset) {
            let at = TopicPartition { topic: self.topic, partition };
            *held = match self.reader.read_or_wait(at, offset, CHUNK_BYTES) {
                Ok(chunk) => chunk.records,
                Err(error) if error.class() == askwhen_log::Class::Retry => return Err(error),
                // It was trimmed.
                Err(_) => Vec::new(),
            };
        }
        Ok(held.iter().find(|record| record.offset == offset))
    }

    /// The record as a delivery.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub fn delivery(&mut self, place: &DeliveryPlace) -> Result<Option<Delivery>, askwhen_log::Error> {
        let record = self.record(place.partition, place.offset)?;
        let value = record.and_then(|record| record.value.as_deref());
        match value.map(serde_json::from_slice::<DeliveryRecord>) {
            Some(Ok(DeliveryRecord::Deliver(found))) if found.delivery_id == place.delivery_id => Ok(Some(*found)),
            _ => Ok(None),
        }
    }

    /// The replacements of those deliveries that are still kept.
    ///
    /// # Errors
    /// When the log cannot be reached.
    pub fn successors(&mut self, places: &[DeliveryPlace]) -> Result<Vec<Delivery>, askwhen_log::Error> {
        let mut made = Vec::new();
        for place in places {
            let delivery = self.delivery(place)?;
            made.extend(delivery.map(|d| Delivery { delivery_id: id::successor(&d.delivery_id), ..d }));
        }
        Ok(made)
    }
}
