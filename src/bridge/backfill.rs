//! Backfill: messages that an endpoint would have got had it existed earlier. They are made
//! again from topic `responses`, under the ids that they would have had. Messages that were
//! sent to it or cancelled for it are left out.

use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::app::{App, RequestContext, run_blocking};
use super::fields::Fields;
use super::lists::Lists;
use super::problem::{Answer, Problem, json_answer};
use super::redelivery::{MAX_RECOVERED, MessageReader, RecoveryInProgress, WINDOW, span};
use askwhen_domain::id::Origin;
use askwhen_domain::refs::{EndpointRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_domain::webhook::endpoint::{Endpoint, EventType};
use askwhen_domain::webhook::message::{self, Delivery, WebhookEvent};
use askwhen_domain::webhook::rate::Rate;
use askwhen_log::{Log, Record, TopicPartition};
use askwhen_wire::definition::{self, Code, Target};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{ResponseRecord, SOURCE_HEADER, Source};

/// A record of topic `responses`: event time, partition, offset.
pub(super) type ResponsePosition = (Millis, u32, u64);

/// The endpoint, and the responses whose messages are made.
#[derive(Clone)]
pub(super) struct BackfillScope {
    pub log: Log,
    pub lists: Arc<dyn Lists>,
    pub project: String,
    pub endpoint: Arc<Endpoint>,
    pub span: TimeSpan,
    /// By survey id, the time from which on its responses are kept.
    pub kept_since: BTreeMap<String, Millis>,
}

impl App {
    pub(super) async fn backfill(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let mut fields = Fields::of(asked.text()?, String::new());
        let span = span(&mut fields);
        let dry_run = fields.boolean("dry_run").unwrap_or(false);
        let rate = fields.text("rate").map(|text| Rate::parse(&text));
        if let Some(Err(wanted)) = rate {
            fields.fault(Code::Invalid, "rate", wanted);
        }
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let shown = self.known_endpoint(asked)?;
        self.refuse_disabled(&shown)?;
        let read = definition::endpoint(&shown.record.body.value(), None, Target::Trusted).map_err(Problem::fields)?;
        let project = asked.caller.project.clone();
        let lists = self.lists().await?.clone();
        let kept_since = self.view.kept_since(&project, self.clock.now());
        let (log, endpoint) = (self.log.clone(), Arc::new(read.endpoint));
        let wanted = BackfillScope { log, lists, project, endpoint, span, kept_since };
        let turn = self.turn(EndpointRef::new(&wanted.project, &asked.route.parts[0])).await?;
        let search = wanted.clone();
        let found = run_blocking(move || search.find(MAX_RECOVERED)).await?;
        let BackfillMessage { mut places, count, more, last } =
            found.map_err(|error| Problem::new(500, "internal", error.to_string()))?;
        let mut body = json!({"count": count});
        if more {
            body["more"] = true.into();
        }
        if dry_run {
            return Ok(json_answer(200, body.to_string()));
        }
        body["backfill_id"] = format!("bkf_{}", asked.request_id).into();
        places.sort_unstable();
        let windows: Vec<Vec<ResponsePosition>> = places.chunks(WINDOW).map(<[ResponsePosition]>::to_vec).collect();
        let mut messages = MessageReader::new(&self.log, Topic::Responses);
        let maker = wanted.clone();
        let read = move |window: &Vec<ResponsePosition>| {
            let mut made = Vec::new();
            for (_, partition, offset) in window {
                let record = messages.record(*partition, *offset)?;
                made.extend(record.into_iter().flat_map(|record| maker.messages(record)));
            }
            Ok(made)
        };
        let rate = rate.and_then(Result::ok);
        let recovery = RecoveryInProgress { project: &wanted.project, last, turn };
        body["count"] = self.redeliver(windows, read, rate, recovery).await?.into();
        Ok(json_answer(202, body.to_string()))
    }
}

/// The messages to be sent.
#[derive(Default)]
pub(super) struct BackfillMessage {
    pub places: Vec<ResponsePosition>,
    pub count: usize,
    /// Whether there are more than one request sends.
    more: bool,
    /// The delivery id of the last message.
    last: Option<String>,
}

impl BackfillScope {
    /// Finds the messages to be sent, at most `limit`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn find(&self, limit: usize) -> Result<BackfillMessage, askwhen_log::Error> {
        let mut found = BackfillMessage::default();
        let mut newest = None;
        for partition in 0..self.log.partitions() {
            let at = TopicPartition { topic: Topic::Responses, partition };
            let bounds = self.log.bounds(at)?;
            self.log
                .scan::<ScanEnd>(at, bounds.start, bounds.end, |record| {
                    let messages = self.messages(&record);
                    let Some(happened_at) = messages.first().map(|message| message.message.at) else { return Ok(()) };
                    let place = (happened_at, partition, record.offset);
                    if newest.as_ref().is_none_or(|(known, _)| place > *known) {
                        newest = messages.last().map(|message| (place, message.delivery_id.clone()));
                    }
                    found.count += messages.len();
                    found.places.push(place);
                    found.more = found.count >= limit;
                    if found.more { Err(ScanEnd::Enough) } else { Ok(()) }
                })
                .or_else(|stop| match stop {
                    ScanEnd::Enough => Ok(()),
                    ScanEnd::Log(error) => Err(error),
                })?;
            if found.more {
                break;
            }
        }
        found.last = newest.map(|(_, id)| id);
        Ok(found)
    }

    /// The deliveries of a response to the endpoint that are not listed yet.
    pub fn messages(&self, record: &Record) -> Vec<Delivery> {
        let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
        let read = record.value.as_deref().and_then(|value| serde_json::from_slice::<ResponseRecord>(value).ok());
        let read = read.and_then(ResponseRecord::into_message);
        let (Some(source), Some((kind, at, data))) = (source, read) else { return Vec::new() };
        let wanted = data.project == self.project
            && self.span.contains(at)
            && self.kept_since.get(&data.survey_id).is_none_or(|since| data.created_at >= *since)
            && self.endpoint.wants(kind, Some(&data.survey_id), data.test)
            && (kind != EventType::Completed || self.endpoint.takes(&data.survey_id, &data.answers_by_question(), at));
        if !wanted {
            return Vec::new();
        }
        let user = UserRef::new(&self.project, &data.user_id);
        // If the lists cannot be read, the message is left to the next backfill.
        if self.lists.is_erased(user, source.position()).unwrap_or(true) {
            return Vec::new();
        }
        let Source { partition, offset, .. } = source;
        let origin = Origin { incarnation: self.log.incarnation(), partition, offset };
        let mut made = message::deliveries(&origin, &self.endpoint, WebhookEvent { kind, at }, &data, at);
        // Listed deliveries were sent, or wait, or are left to a recovery.
        made.retain(|one| self.lists.place(&self.project, &one.delivery_id).is_ok_and(|place| place.is_none()));
        made
    }
}

/// Why a scan ends early.
enum ScanEnd {
    Enough,
    Log(askwhen_log::Error),
}

impl From<askwhen_log::Error> for ScanEnd {
    fn from(error: askwhen_log::Error) -> ScanEnd {
        ScanEnd::Log(error)
    }
}
