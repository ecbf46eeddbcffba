//! Ingestion of events: a single one, a batch, and two vendor-compatible forms.

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use super::app::{App, RequestContext};
use super::fields::{self, Fields};
use super::problem::{Answer, Problem, json_answer};
use askwhen_domain::id;
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::time::ClientTimes;
use askwhen_log::{NewRecord, TopicPartition};
use askwhen_wire::definition::{Code, Fault};
use askwhen_wire::json;
use askwhen_wire::record::{self, MAX_EVENT_BYTES, MAX_PROPERTIES};

/// What other products call the list of a batch.
const LISTS: [&str; 4] = ["batch", "records", "items", "data"];
/// The most events in one request.
const MAX_BATCH: usize = 1_000;
/// Levels of objects and lists around an event in a batch.
const BATCH_LEVELS: usize = 2;

/// An event that passed all checks, ready to be appended.
struct CheckedEvent {
    event_id: String,
    user_id: String,
    value: Vec<u8>,
}

/// Refuses a batch as other products send it: a bare list, or one under another name.
fn misnamed_batch(text: &str, body: &Fields<'_>) -> Result<(), Problem> {
    if text.trim_start().starts_with('[') {
        return Err(Problem::field(Code::WrongType, "", "must be an object; a batch is {\"events\": […]}"));
    }
    let is_list = |name: &str, value: &str| LISTS.contains(&name) && value.starts_with('[');
    let misnamed = body.members().iter().find(|(name, value)| is_list(name, value.get()));
    misnamed.map_or(Ok(()), |(name, _)| Err(Problem::fields(vec![Fault::unknown("", name, ["events"].into_iter())])))
}

impl App {
    pub(super) async fn events(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let (text, error) = match json::check(&asked.body) {
            Ok(text) => (text, None),
            // Valid events of a batch are accepted beside invalid ones.
            Err(error) => {
                (json::check_outline(&asked.body, BATCH_LEVELS).map_err(|_| Problem::json(error))?, Some(error))
            }
        };
        let key = idempotency_key(asked.headers)?;
        let batch = Fields::of(text, String::new());
        if batch.has("events") {
            return self.batch(asked, batch, text, key).await;
        }
        if let Some(error) = error {
            return Err(Problem::json(error));
        }
        misnamed_batch(text, &batch)?;
        let ready = self.event(asked, text, String::new(), key)?;
        let event_id = self.append_event(ready).await?;
        Ok(json_answer(202, json!({"event_id": event_id, "status": "accepted"}).to_string()))
    }

    pub(super) async fn blitzllama_event(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let ready = self.event(asked, text, String::new(), idempotency_key(asked.headers)?)?;
        let event_id = self.append_event(ready).await?;
        Ok(json_answer(200, json!({"message": "success", "event_id": event_id}).to_string()))
    }

    /// The body becomes the event's properties.
    pub(super) async fn reward_event(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = if asked.body.is_empty() { "{}" } else { json::check(&asked.body).map_err(Problem::json)? };
        if text.len() > MAX_EVENT_BYTES {
            return Err(event_too_large());
        }
        match fields::count_members(text) {
            None => return Err(Problem::field(Code::WrongType, "", "must be an object")),
            Some(count) if count > MAX_PROPERTIES => {
                return Err(Problem::field(Code::Invalid, "", format!("must have at most {MAX_PROPERTIES} members")));
            }
            Some(_) => {}
        }
        let event_id = idempotency_key(asked.headers)?.unwrap_or_else(new_id);
        let record = Record {
            project: (&*asked.caller.project).into(),
            user_id: (&*asked.route.parts[1]).into(),
            event_id: Some((&*event_id).into()),
            times: ClientTimes { received_at: Some(self.clock.now()), ..ClientTimes::default() },
            body: Body::Event { name: (&*asked.route.parts[0]).into(), properties: text.trim(), session_id: None },
        };
        let value = record::encode(&record);
        self.append_event(CheckedEvent { event_id, user_id: asked.route.parts[1].clone(), value }).await?;
        Ok(json_answer(200, json!({"success": true}).to_string()))
    }

    async fn append_event(&self, ready: CheckedEvent) -> Result<String, Problem> {
        let at = self.journal_of(&ready.user_id);
        let new = NewRecord { key: Some(ready.user_id.into()), headers: Vec::new(), value: Some(ready.value.into()) };
        self.decides(at)?;
        let appended = self.log.append_durably(at, vec![new]).await;
        appended.map_err(|error| Problem::log(&error, Some(&ready.event_id)))?;
        Ok(ready.event_id)
    }

    /// Reads one event from checked JSON.
    fn event(
        &self,
        asked: &RequestContext<'_>,
        text: &str,
        pointer: String,
        key: Option<String>,
    ) -> Result<CheckedEvent, Problem> {
        if text.len() > MAX_EVENT_BYTES {
            return Err(event_too_large());
        }
        let mut fields = Fields::of(text, pointer);
        let user_id = fields.required_id("user_id");
        let name = fields.required_id("event_name");
        let properties = fields.object("properties", MAX_PROPERTIES);
        let event_id = event_id(&mut fields, key);
        let times = times(&mut fields, self.clock.now());
        // Only the session of an event's context is used; clients may send anything in it.
        let session_id = fields.raw("context").and_then(record::event_session);
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let record = Record {
            project: (&*asked.caller.project).into(),
            user_id: (&*user_id).into(),
            event_id: Some((&*event_id).into()),
            times,
            body: Body::Event { name: (&*name).into(), properties, session_id },
        };
        let value = record::encode(&record);
        Ok(CheckedEvent { event_id, user_id, value })
    }

    /// Checks the events of a batch one by one, and appends the valid ones together, one
    /// append for each partition.
    async fn batch(
        &self,
        asked: &RequestContext<'_>,
        mut batch: Fields<'_>,
        text: &str,
        key: Option<String>,
    ) -> Result<Answer, Problem> {
        let items = batch.list("events");
        if key.is_some() {
            let detail = "an Idempotency-Key names one event; give each event of a batch its event_id";
            batch.faults.push(Fault { code: Code::Invalid, pointer: String::new(), detail: detail.into() });
        }
        let faults = batch.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let items = items.unwrap_or_default();
        if items.is_empty() {
            return Err(Problem::field(Code::EmptyBatch, "/events", "events must hold at least one event"));
        }
        if items.len() > MAX_BATCH {
            return Err(Problem::new(413, "batch_too_large", "a batch may hold at most 1000 events"));
        }
        let mut results: Vec<Option<Result<String, Problem>>> = Vec::new();
        let mut parts: BTreeMap<TopicPartition, (Vec<usize>, Vec<NewRecord>)> = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let sound = json::check(item.get().as_bytes()).map_err(|error| {
                let before = item.get().as_ptr().addr() - text.as_ptr().addr();
                Problem::json(json::Error { byte_offset: before + error.byte_offset, ..error })
            });
            let ready = sound.and_then(|text| self.event(asked, text, format!("/events/{index}"), None));
            match ready.and_then(|ready| self.decides(self.journal_of(&ready.user_id)).map(|()| ready)) {
                Err(problem) => results.push(Some(Err(problem))),
                Ok(ready) => {
                    let part = parts.entry(self.journal_of(&ready.user_id)).or_default();
                    let new = NewRecord {
                        key: Some(Bytes::from(ready.user_id)),
                        headers: Vec::new(),
                        value: Some(ready.value.into()),
                    };
                    part.0.push(index);
                    part.1.push(new);
                    results.push(Some(Ok(ready.event_id)));
                }
            }
        }
        let append = |(at, (indexes, records))| async move { (indexes, self.log.append_durably(at, records).await) };
        let appends = futures_util::future::join_all(parts.into_iter().map(append));
        for (indexes, appended) in appends.await {
            let Err(error) = appended else { continue };
            for index in indexes {
                let id = results[index].take().and_then(Result::ok).unwrap_or_default();
                results[index] = Some(Err(Problem::log(&error, Some(&id))));
            }
        }
        Ok(batch_answer(results.into_iter().flatten().collect(), asked.request_id))
    }
}

fn batch_answer(results: Vec<Result<String, Problem>>, request_id: &str) -> Answer {
    let all = results.iter().all(Result::is_ok);
    let rows: Vec<Value> = results
        .iter()
        .enumerate()
        .map(|(index, result)| match result {
            Ok(event_id) => json!({"index": index, "status": 202, "event_id": event_id}),
            Err(problem) => {
                json!({"index": index, "status": problem.status.as_u16(), "problem": problem.body(request_id)})
            }
        })
        .collect();
    json_answer(if all { 202 } else { 207 }, json!({"results": rows}).to_string())
}

fn event_too_large() -> Problem {
    Problem::new(413, "event_too_large", "an event may have at most 32 KiB")
}

pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().hyphenated().to_string()
}

/// The idempotency key in the headers.
///
/// # Errors
/// 422 when it cannot be an event id.
pub(super) fn idempotency_key(headers: &http::HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    match id::check_given(text) {
        Ok(()) => Ok(Some(text.to_owned())),
        Err(why) => Err(Problem::field(Code::BadId, "", format!("Idempotency-Key {why}"))),
    }
}

/// The event id from the body or the header, which must not differ; a new one if there is
/// none.
pub(super) fn event_id(fields: &mut Fields<'_>, key: Option<String>) -> String {
    match (fields.id("event_id"), key) {
        (Some(id), Some(key)) if id != key => {
            fields.fault(Code::Invalid, "event_id", "differs from the Idempotency-Key");
            id
        }
        (Some(id), _) => id,
        (None, Some(key)) => key,
        (None, None) => new_id(),
    }
}

pub(super) fn times(fields: &mut Fields<'_>, now: i64) -> ClientTimes {
    ClientTimes { occurred_at: fields.time("occurred_at"), sent_at: fields.time("sent_at"), received_at: Some(now) }
}

pub(super) fn context(fields: &mut Fields<'_>) -> Context {
    let Some(raw) = fields.raw("context") else { return Context::default() };
    let mut inner = Fields::of(raw, "/context".into());
    let context = Context {
        platform: inner.non_empty("platform", Fields::name),
        locale: inner.non_empty("locale", Fields::name),
        app_version: inner.non_empty("app_version", Fields::name),
        session_id: inner.non_empty("session_id", Fields::id),
        timezone: inner.non_empty("timezone", Fields::name),
    };
    fields.faults.extend(inner.close());
    context
}
