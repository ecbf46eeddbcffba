//! Messages once more: one that an operator names, or everything that an
//! endpoint has missed. The message is read back from topic `deliveries`, and
//! goes out under its own `webhook-id`.

use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::{no_members, text};
use super::fields::Fields;
use super::problem::{Answer, Problem, json_answer};
use super::{App, Asked};
use crate::actor::Answer as Told;
use crate::clock::Clock;
use crate::domain::endpoint::EventType;
use crate::domain::id;
use crate::domain::message::Delivery;
use crate::log::{self, At, Log, New, Reader, Record};
use crate::thread::Bell;
use crate::wire::definition::Code;
use crate::wire::listing::Place;
use crate::wire::output::DeliveryRecord;
use crate::wire::record::{self, Internal, MAC_HEADER};
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;

/// Deliveries that one request recovers at most.
const MAX_RECOVERED: usize = 100_000;
/// Appended at a time: the order holds within each partition.
const WINDOW: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// How long a request waits for the recovery before it.
const TURN: Duration = Duration::from_secs(5);
/// By when what a recovery sends is in the lists.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

impl App {
    pub(super) async fn resend(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        no_members(asked)?;
        let place = self.lists()?.place(&asked.caller.project, &asked.route.parts[0]).map_err(super::lists::broken)?;
        let place = place.ok_or_else(|| Problem::not_found("there is no such delivery"))?;
        let log = self.log.clone();
        let found = tokio::task::spawn_blocking(move || Messages::new(&log).read(&place)).await;
        let found = found.map_err(|e| Problem::new(500, "internal", e.to_string()))?;
        let Some(delivery) = found.map_err(|error| Problem::log(&error, None))? else {
            let detail = "the message is no longer kept: topic deliveries has been trimmed behind it";
            return Err(Problem::new(410, "gone", detail));
        };
        if delivery.message.kind == EventType::Test {
            let detail = "a test is not sent again; POST /v1/endpoints/{endpoint_id}/test makes a new one";
            return Err(Problem::new(409, "is_a_test", detail));
        }
        let delivery = Box::new(Delivery { delivery_id: String::new(), ..delivery });
        let partition = id::partition_of(&delivery.user_id, self.log.partitions());
        let key = delivery.user_id.clone();
        let again = Internal::Redeliver { delivery, asked_at: self.clock.now() };
        let mut waiter = self.tell_internal(At { topic: Topic::Events, partition }, &key, &again).await?;
        match tokio::time::timeout(self.reply_timeout, waiter.next()).await {
            Ok(Some(Told::Body { server, .. })) => Ok(json_answer(202, server.as_str().to_owned())),
            Ok(Some(Told::Refused { code, pointer, detail })) => Err(Problem::refused(&code, pointer, detail)),
            _ => Ok(json_answer(202, json!({"status": "pending"}).to_string())),
        }
    }

    /// Everything dead, or cancelled because the endpoint was disabled, oldest
    /// first. What has been recovered already is not sent twice.
    pub(super) async fn recover(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let mut fields = Fields::of(text(asked)?, String::new());
        let left_out = fields.raw("since").is_none();
        let (since, until) = (fields.time("since"), fields.time("until"));
        if left_out {
            fields.fault(Code::MissingField, "since", "is required");
        }
        if since.zip(until).is_some_and(|(since, until)| until <= since) {
            fields.fault(Code::Invalid, "until", "must be after since");
        }
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let mut state = json!({});
        self.tell_state(&self.known_endpoint(asked)?, &mut state);
        if state["state"] == "disabled" {
            return Err(Problem::new(409, "endpoint_disabled", "the endpoint is disabled: enable it first"));
        }
        let of = (asked.caller.project.as_str(), asked.route.parts[0].as_str());
        // Until what another one sends is seen, it would be counted again.
        let turn = self.recoveries.turn(of).lock_owned();
        let Ok(turn) = tokio::time::timeout(TURN, turn).await else {
            let detail = "another recovery of this endpoint is on its way; ask again when it is through";
            return Err(Problem::later(409, "recovering", detail, TURN));
        };
        let span = (since.unwrap_or(0), until.unwrap_or(i64::MAX));
        let mut places = self.lists()?.recoverable(of, span, MAX_RECOVERED + 1).map_err(super::lists::broken)?;
        let more = places.len() > MAX_RECOVERED;
        places.truncate(MAX_RECOVERED);
        let count = places.len();
        let recover_id = format!("rec_{}", asked.request_id);
        let lists = self.lists.clone();
        let last = places.last().map(|place| (of.0.to_owned(), id::successor(&place.delivery_id)));
        let mut work = Recovery {
            log: self.log.clone(),
            key: self.key.clone(),
            clock: self.clock.clone(),
            recover_id: recover_id.clone(),
        };
        tokio::spawn(async move {
            work.run(places).await;
            let deadline = tokio::time::Instant::now() + SEEN_WITHIN;
            let seen = || {
                lists
                    .as_ref()
                    .zip(last.as_ref())
                    .is_none_or(|(lists, (project, id))| lists.place(project, id).is_ok_and(|place| place.is_some()))
            };
            while !seen() && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(turn);
        });
        let mut body = json!({"recover_id": recover_id, "count": count});
        if more {
            body["more"] = true.into();
        }
        Ok(json_answer(202, body.to_string()))
    }
}

/// Recoveries come one after the other at each endpoint.
#[derive(Default)]
pub struct Recoveries(std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Recoveries {
    fn turn(&self, (project, endpoint_id): (&str, &str)) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().expect("no panic holds this lock");
        // Nobody holds or awaits those.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(format!("{project}/{endpoint_id}")).or_default().clone()
    }
}

/// What a recovery needs when its request has been answered.
struct Recovery {
    log: Log,
    key: ClusterKey,
    clock: Clock,
    recover_id: String,
}

impl Recovery {
    async fn run(&mut self, places: Vec<Place>) {
        let (count, mut gone) = (places.len(), 0);
        let mut messages = Messages::new(&self.log);
        for window in places.chunks(WINDOW) {
            let window = window.to_vec();
            let read = tokio::task::spawn_blocking(move || {
                let read: Result<Vec<_>, log::Error> = window.iter().map(|place| messages.read(place)).collect();
                (messages, read)
            });
            let Ok((back, read)) = read.await else { return };
            messages = back;
            let outcome = match read {
                Ok(found) => {
                    gone += found.iter().filter(|found| found.is_none()).count();
                    self.append(found.into_iter().flatten()).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                let recover_id = &self.recover_id;
                tracing::error!(%error, recover_id, "a recovery ends early; asked for again, it goes on");
                return;
            }
        }
        tracing::info!(recover_id = self.recover_id, count, gone, "a recovery is on its way");
    }

    async fn append(&self, found: impl Iterator<Item = Delivery>) -> Result<(), log::Error> {
        let mut by_partition: BTreeMap<u32, Vec<New>> = BTreeMap::new();
        for delivery in found {
            let key = delivery.user_id.clone();
            let partition = id::partition_of(&key, self.log.partitions());
            let delivery_id = id::successor(&delivery.delivery_id);
            let delivery = Box::new(Delivery { delivery_id, ..delivery });
            let again = Internal::Redeliver { delivery, asked_at: self.clock.now() };
            let value = record::encode_internal(&again);
            let mac = self.key.sign_record(key.as_bytes(), &value);
            let new = New { key: Some(key.into()), headers: Vec::new(), value: Some(value.into()) };
            by_partition.entry(partition).or_default().push(new.header(MAC_HEADER, mac));
        }
        for (partition, records) in by_partition {
            self.log.append_durably(At { topic: Topic::Events, partition }, records).await?;
        }
        Ok(())
    }
}

/// Reads messages back from topic `deliveries`, a stretch of each partition at a
/// time.
struct Messages {
    reader: Reader,
    read: HashMap<u32, Vec<Record>>,
}

impl Messages {
    fn new(log: &Log) -> Messages {
        Messages { reader: log.reader("again", Arc::new(Bell::default())), read: HashMap::new() }
    }

    /// `None` when it is not kept any more.
    fn read(&mut self, place: &Place) -> Result<Option<Delivery>, log::Error> {
        let held = self.read.entry(place.partition).or_default();
        let known = held.iter().any(|record| record.offset == place.offset);
        if !known {
            let at = At { topic: Topic::Deliveries, partition: place.partition };
            *held = match self.reader.read_or_wait(at, place.offset, CHUNK_BYTES) {
                Ok(chunk) => chunk.records,
                Err(error) if error.class() == log::Class::Retry => return Err(error),
                // Trimmed away.
                Err(_) => Vec::new(),
            };
        }
        let record = held.iter().find(|record| record.offset == place.offset);
        let value = record.and_then(|record| record.value.as_deref());
        match value.map(serde_json::from_slice::<DeliveryRecord>) {
            Some(Ok(DeliveryRecord::Deliver(delivery))) if delivery.delivery_id == place.delivery_id => {
                Ok(Some(*delivery))
            }
            _ => Ok(None),
        }
    }
}
