//! Jobs: work on many messages or records that continues after the request, survives
//! restarts and can be cancelled. A job is a definition, so that every process has it; its
//! progress is written as new versions.

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::app::{App, RequestContext};
use super::fields::Fields;
use super::list_routes::{bad_cursor, delivery_filter, page};
use super::manage::{DefinitionDraft, random};
use super::problem::{Answer, Problem, json_answer};
use super::view::ListedDefinition;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis, TimeSpan};
use askwhen_domain::webhook::rate::Rate;
use askwhen_log::TopicPartition;
use askwhen_wire::definition::{self, Code, Kind};
use askwhen_wire::json as strict;
use askwhen_wire::topic::Topic;

/// The most jobs of a project that are kept; the oldest finished ones are removed.
const KEPT_JOBS: usize = 100;
/// For how long the process that runs a cancelled job may take to say what it has done.
const SETTLES_WITHIN: Millis = 10_000;
const SETTLED_LOOK: Duration = Duration::from_millis(50);
/// For how long the request that cancels a job waits for that.
const CANCEL_WAITS: Duration = Duration::from_secs(5);
/// The most versions of a survey in one backtest.
const MAX_TRIED: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobKind {
    /// Sends failed messages again that a filter accepts.
    Resend,
    /// Sends what an endpoint has missed.
    Recover,
    /// Sends what a new endpoint would have got.
    Backfill,
    /// Tries surveys on the recorded journal.
    Backtest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobState {
    Queued,
    Running,
    Done,
    Cancelled,
    Failed,
}

impl JobState {
    pub fn has_ended(self) -> bool {
        matches!(self, JobState::Done | JobState::Cancelled | JobState::Failed)
    }
}

/// The body of a job's definition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct JobRecord {
    pub job_id: String,
    pub kind: JobKind,
    /// The parameters of the request.
    pub parameters: Value,
    pub state: JobState,
    pub done: u64,
    pub total: u64,
    pub created_at: Millis,
    pub started_at: Option<Millis>,
    pub actor: String,
    /// By partition, the journal's end when the job was created: deliveries that were
    /// resent after it are not resent again.
    pub ends: BTreeMap<u32, u64>,
    /// The process that runs it, and when it last reported progress.
    pub runner: Option<String>,
    pub beat_at: Option<Millis>,
    /// The time with which messages of the current stretch are requested: the engine
    /// accepts one message of a time and id once.
    pub asked_at: Option<Millis>,
    pub result: Option<Value>,
    pub error: Option<String>,
}

impl JobRecord {
    pub fn of(shown: &ListedDefinition) -> Option<JobRecord> {
        serde_json::from_str(shown.record.body.as_str()).ok()
    }

    /// The time span in the parameters.
    pub fn span(&self) -> TimeSpan {
        let time = |name: &str| self.parameters[name].as_str().and_then(|text| time::parse_time(text).ok());
        TimeSpan::new(time("since").unwrap_or(0), time("until").unwrap_or(Millis::MAX))
    }

    pub fn endpoint_id(&self) -> &str {
        self.parameters["endpoint_id"].as_str().unwrap_or_default()
    }

    pub fn rate(&self) -> Option<Rate> {
        self.parameters["rate"].as_str().and_then(|text| Rate::parse(text).ok())
    }

    /// Whether it is cancelled, and the process that runs it has yet to say how much was done:
    /// what it is doing just now counts, too.
    fn is_settling(&self, now: Millis) -> bool {
        let is_alive = self.beat_at.is_some_and(|at| (now - at).abs() < SETTLES_WITHIN);
        self.state == JobState::Cancelled && self.runner.is_some() && is_alive
    }

    fn shown(&self, now: Millis) -> Value {
        // Nobody is told that it has ended with a count that is not the last one.
        let state = if self.is_settling(now) { JobState::Running } else { self.state };
        let mut body = json!({
            "job_id": self.job_id,
            "kind": self.kind,
            "state": state,
            "done": self.done,
            "total": self.total,
            "created_at": time::format_time(self.created_at),
            "started_at": self.started_at.map(time::format_time),
            "eta": self.eta(now).map(time::format_time),
            "actor": self.actor,
            "parameters": self.parameters,
        });
        for (name, value) in [("result", &self.result), ("error", &self.error.clone().map(Value::from))] {
            if let Some(value) = value {
                body[name] = value.clone();
            }
        }
        body
    }

    /// When it will be finished at the current pace.
    fn eta(&self, now: Millis) -> Option<Millis> {
        let started_at = self.started_at.filter(|_| self.state == JobState::Running)?;
        let (done, total) = (self.done as f64, self.total.max(self.done) as f64);
        (self.done > 0).then(|| started_at + ((now - started_at) as f64 * total / done) as Millis)
    }
}

impl App {
    pub(super) async fn jobs(&self, asked: &RequestContext<'_>, method: &Method) -> Result<Answer, Problem> {
        if *method == Method::POST {
            return self.create_job(asked).await;
        }
        let query = page(asked.query, &[])?;
        let below = query.cursor.as_ref().map_or(Ok(u64::MAX), |cursor| cursor.parse().map_err(|_| bad_cursor()))?;
        let mut rows = self.view.list(&asked.caller.project, Kind::Job, below, query.limit + 1);
        let more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let next = rows.last().filter(|_| more).map(|shown| shown.offset.to_string());
        let now = self.clock.now();
        let jobs: Vec<Value> = rows.iter().filter_map(JobRecord::of).map(|job| job.shown(now)).collect();
        Ok(json_answer(200, json!({"jobs": jobs, "next_cursor": next}).to_string()))
    }

    pub(super) async fn job(&self, asked: &RequestContext<'_>, method: &Method) -> Result<Answer, Problem> {
        asked.no_query()?;
        if *method == Method::DELETE {
            self.cancel_job(asked).await?;
            self.until_settled(asked).await?;
        }
        let (job, _) = self.known_job(&asked.caller.project, &asked.route.parts[0])?;
        Ok(json_answer(200, job.shown(self.clock.now()).to_string()))
    }

    /// A job and its version.
    pub(super) fn known_job(&self, project: &str, job_id: &str) -> Result<(JobRecord, u64), Problem> {
        let shown = self.view.get(project, Kind::Job, job_id);
        let known = shown.and_then(|shown| Some((JobRecord::of(&shown)?, shown.record.version)));
        known.ok_or_else(|| Problem::not_found("there is no such job"))
    }

    async fn cancel_job(&self, asked: &RequestContext<'_>) -> Result<(), Problem> {
        // The process that runs it writes, too; then it is tried again.
        loop {
            let (mut job, version) = self.known_job(&asked.caller.project, &asked.route.parts[0])?;
            if job.state.has_ended() {
                return Ok(());
            }
            job.state = JobState::Cancelled;
            match self.write_job(&asked.caller.project, &asked.caller.actor, &job, Some(version)).await {
                Err(problem) if problem.status == 412 => {}
                written => return written.map(drop),
            }
        }
    }

    /// Waits until a cancelled job says how much was done; not for ever.
    async fn until_settled(&self, asked: &RequestContext<'_>) -> Result<(), Problem> {
        let until = Instant::now() + CANCEL_WAITS;
        while Instant::now() < until {
            self.view.catch_up().ok();
            let (job, _) = self.known_job(&asked.caller.project, &asked.route.parts[0])?;
            if job.state.has_ended() && !job.is_settling(self.clock.now()) {
                break;
            }
            tokio::time::sleep(SETTLED_LOOK).await;
        }
        Ok(())
    }

    async fn create_job(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let text = strict::check(&asked.body).map_err(Problem::json)?;
        let (kind, parameters, dry_run) = self.job_request(text)?;
        let project = &asked.caller.project;
        let mut job = JobRecord {
            job_id: format!("job_{}", &hex::encode(random()?)[..20]),
            kind,
            parameters,
            state: JobState::Queued,
            done: 0,
            total: 0,
            created_at: self.clock.now(),
            started_at: None,
            actor: asked.caller.actor.clone(),
            ends: self.journal_ends()?,
            runner: None,
            beat_at: None,
            asked_at: None,
            result: None,
            error: None,
        };
        if kind == JobKind::Backtest {
            if dry_run {
                return Err(Problem::field(Code::Invalid, "/dry_run", "a backtest changes nothing: it has no dry_run"));
            }
            if self.history.is_none() {
                return Err(self.whole_lists().err().unwrap_or_else(Problem::overloaded));
            }
        } else {
            job.total = self.job_work(project, &job).await?.count();
            if dry_run {
                return Ok(json_answer(200, json!({"count": job.total}).to_string()));
            }
        }
        self.write_job(project, &asked.caller.actor, &job, None).await?;
        self.forget_old_jobs(project).await;
        Ok(json_answer(202, json!({"job_id": job.job_id}).to_string()))
    }

    fn journal_ends(&self) -> Result<BTreeMap<u32, u64>, Problem> {
        let at = |partition| TopicPartition { topic: Topic::Events, partition };
        let all: Vec<TopicPartition> = (0..self.log.partitions()).map(at).collect();
        let bounds = self.log.all_bounds(&all).map_err(|error| Problem::log(&error, None))?;
        Ok(all.iter().zip(bounds).map(|(at, bounds)| (at.partition, bounds.end)).collect())
    }

    /// The checked parameters of a request.
    fn job_request(&self, text: &str) -> Result<(JobKind, Value, bool), Problem> {
        let mut fields = Fields::of(text, String::new());
        let given = fields.text("kind");
        let kind = given.as_ref().and_then(|kind| serde_json::from_value(Value::from(kind.as_str())).ok());
        match (&given, kind) {
            (None, _) if !fields.has("kind") => fields.fault(Code::MissingField, "kind", "is required"),
            (Some(_), None) => fields.fault(Code::Invalid, "kind", "must be resend, recover, backfill or backtest"),
            _ => {}
        }
        let dry_run = fields.boolean("dry_run").unwrap_or(false);
        let mut parameters = json!({});
        match kind {
            Some(JobKind::Backtest) => backtest_parameters(&mut fields, &mut parameters)?,
            Some(kind) => {
                if let Some(rate) = fields.text("rate") {
                    if let Err(wanted) = Rate::parse(&rate) {
                        fields.fault(Code::Invalid, "rate", wanted);
                    }
                    parameters["rate"] = rate.into();
                }
                let filter = fields.raw("filter").map(|raw| serde_json::from_str::<Value>(raw).unwrap_or_default());
                let filter = filter.unwrap_or_else(|| json!({}));
                if kind == JobKind::Resend {
                    delivery_filter(&filter)?;
                    parameters["filter"] = filter;
                } else {
                    span_parameters(&mut fields, &filter, &mut parameters);
                }
            }
            None => {}
        }
        let faults = fields.close();
        match kind {
            Some(kind) if faults.is_empty() => Ok((kind, parameters, dry_run)),
            _ => Err(Problem::fields(faults)),
        }
    }

    /// Writes a version of a job; returns its number.
    pub(super) async fn write_job(
        &self,
        project: &str,
        actor: &str,
        job: &JobRecord,
        if_match: Option<u64>,
    ) -> Result<u64, Problem> {
        let draft = DefinitionDraft {
            kind: Kind::Job,
            id: job.job_id.clone(),
            body: Some(Json::of(job)),
            new_secret: None,
            create: if_match.is_none(),
            if_match,
        };
        let request_id = uuid::Uuid::new_v4().simple().to_string();
        let outcome = self.write_definition(project, actor, &request_id, &draft).await?;
        match outcome.version {
            0 => Err(Problem::log(&askwhen_log::Error::Unknown("no partition has answered".into()), None)),
            version => Ok(version),
        }
    }

    /// Removes the oldest finished jobs. If that fails, the next call does it.
    async fn forget_old_jobs(&self, project: &str) {
        let listed = self.view.list(project, Kind::Job, u64::MAX, 2 * KEPT_JOBS);
        let ended = |shown: &&ListedDefinition| JobRecord::of(shown).is_none_or(|job| job.state.has_ended());
        for shown in listed.iter().skip(KEPT_JOBS).filter(ended) {
            let draft = DefinitionDraft {
                kind: Kind::Job,
                id: shown.record.id.clone(),
                body: None,
                new_secret: None,
                create: false,
                if_match: None,
            };
            let request_id = uuid::Uuid::new_v4().simple().to_string();
            if self.write_definition(project, "askwhen", &request_id, &draft).await.is_err() {
                return;
            }
        }
    }
}

/// Reads endpoint and time span, which are beside `kind` or in `filter`.
fn span_parameters(fields: &mut Fields<'_>, filter: &Value, parameters: &mut Value) {
    let known = ["endpoint_id", "since", "until"];
    let others = filter.as_object().into_iter().flatten().any(|(name, _)| !known.contains(&name.as_str()));
    if others || !filter.is_object() {
        fields.fault(Code::UnknownField, "filter", "may have endpoint_id, since and until for this kind of job");
    }
    for name in known {
        let given = fields.text(name).or_else(|| filter[name].as_str().map(str::to_owned));
        let Some(given) = given else {
            if name != "until" {
                fields.fault(Code::MissingField, name, "is required");
            }
            continue;
        };
        match name {
            "endpoint_id" => {
                if let Err(why) = id::check(&given) {
                    fields.fault(Code::BadId, name, why);
                }
            }
            _ => {
                if let Err(wanted) = time::parse_time(&given) {
                    fields.fault(Code::BadTime, name, format!("must be {wanted}"));
                }
            }
        }
        parameters[name] = given.into();
    }
}

/// Reads what a backtest tries and assumes.
fn backtest_parameters(fields: &mut Fields<'_>, parameters: &mut Value) -> Result<(), Problem> {
    let read = |raw: &str| serde_json::from_str::<Value>(raw).unwrap_or_default();
    let one = fields.raw("survey").map(|raw| Value::Array(vec![read(raw)]));
    let is_list = fields.raw("surveys").is_some();
    let surveys = fields.raw("surveys").map(read).or(one);
    match surveys.as_ref().and_then(Value::as_array) {
        Some(surveys) if (1..=MAX_TRIED).contains(&surveys.len()) => {
            for (n, survey) in surveys.iter().enumerate() {
                definition::survey(survey, None).map_err(|mut faults| {
                    let place = if is_list { format!("/surveys/{n}") } else { "/survey".into() };
                    faults.iter_mut().for_each(|fault| fault.pointer = format!("{place}{}", fault.pointer));
                    Problem::fields(faults)
                })?;
            }
            parameters["surveys"] = surveys.clone().into();
        }
        Some(_) => fields.fault(Code::Invalid, "surveys", format!("must hold 1 to {MAX_TRIED} surveys")),
        None => fields.fault(Code::MissingField, "surveys", "is required: a list of surveys, or one as survey"),
    }
    for name in ["from", "to"] {
        let given = fields.text(name);
        if let Some(Err(wanted)) = given.as_deref().map(time::parse_time) {
            fields.fault(Code::BadTime, name, format!("must be {wanted}"));
        }
        match given {
            Some(given) => parameters[name] = given.into(),
            None if name == "from" => fields.fault(Code::MissingField, name, "is required"),
            None => {}
        }
    }
    if let Some(answered) = fields.raw("answered") {
        match answered.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => parameters["answered"] = share.into(),
            _ => fields.fault(Code::Invalid, "answered", "must be a share from 0 to 1"),
        }
    }
    parameters["displayed"] = fields.boolean("displayed").unwrap_or(true).into();
    parameters["alone"] = fields.boolean("alone").unwrap_or(false).into();
    Ok(())
}
