//! The state that request handlers share, one request, and the ways in which a request
//! reaches a partition and gets its answer.

use bytes::Bytes;
use http::HeaderMap;
use ipnet::IpNet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::auth::{Auth, Caller};
use super::cors::AllowedOrigins;
use super::fields::Fields;
use super::history::HistoryReader;
use super::lists::Lists;
use super::problem::Problem;
use super::recoveries::Recoveries;
use super::router::Route;
use super::session::Sessions;
use super::view::View;
use super::window_counts::WindowCounts;
use askwhen_domain::id;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, NewRecord, PendingAppend, TopicPartition};
use askwhen_partition::reply::Waiter;
use askwhen_partition::{EngineReply, Phase, Replies, Signer, Status};
use askwhen_process::clock::Clock;
use askwhen_wire::definition::Code;
use askwhen_wire::json;
use askwhen_wire::record::{Internal, REPLY_HEADER};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// How long an answer is waited for without the acknowledgement of its record. An append that
/// fails is heard of this much later.
const ANSWER_FIRST: Duration = Duration::from_millis(20);

/// A request to move the test clock.
#[derive(Debug)]
pub struct AdvanceClock {
    /// In milliseconds.
    pub by: Millis,
    /// Gets the new time once engine and delivery have nothing left to do at it.
    pub done: tokio::sync::oneshot::Sender<Millis>,
}

/// Requests snapshots of all stores of this process.
pub type RequestSnapshots = Box<dyn Fn(SnapshotReply) + Send + Sync>;

/// Gets the result of a round of snapshots: a description of each.
pub type SnapshotReply = tokio::sync::oneshot::Sender<Result<Vec<serde_json::Value>, SnapshotFailure>>;

/// A snapshot of a round that failed (the last, if several did); the others were taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{role} partition {partition}: {source}")]
pub struct SnapshotFailure {
    pub role: &'static str,
    pub partition: u32,
    /// Shared by all who waited for the round.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

/// By project and endpoint id: why this process holds the endpoint's deliveries, and since
/// when.
pub type FindHold = Box<dyn Fn(&str, &str) -> Option<(&'static str, Millis)> + Send + Sync>;

/// Which routes a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Whole,
    /// Everything but operators' routes.
    Public,
    Operators,
}

/// Everything that a request may need; shared by all connections.
pub struct App {
    pub log: Log,
    pub clock: Clock,
    pub replies: Replies,
    pub key: ClusterKey,
    /// The status of every partition of the engine in this process.
    pub engine: Vec<Arc<Status>>,
    /// The status of every partition of the delivery in this process.
    pub delivery: Vec<Arc<Status>>,
    pub auth: Auth,
    pub view: Arc<View>,
    pub cors_origins: AllowedOrigins,
    /// The prefix that a proxy puts before every path: empty, or `/ask`.
    pub base_path: String,
    /// The URL of the console for people; empty when it is not known.
    pub console_url: String,
    /// The `frame-ancestors` of the survey page; empty for none.
    pub frame_ancestors: String,
    pub allow_targets: Vec<IpNet>,
    pub reply_timeout: Duration,
    /// Whether every request is logged, and not only those that are refused.
    pub access_log: bool,
    /// The lists; `None` where the role `console` does not run.
    pub lists: Option<Arc<dyn Lists>>,
    /// Reads of the journal; where the lists are.
    pub history: Option<Arc<HistoryReader>>,
    pub recoveries: Recoveries,
    /// Identifies this process among those that run jobs.
    pub process_id: String,
    /// Set when the process is about to end.
    pub ending: Arc<AtomicBool>,
    /// Bounds how many clients listen to changes.
    pub listeners: Arc<Semaphore>,
    pub sessions: Sessions,
    /// `None` without `--test-clock`.
    pub test_clock: Option<tokio::sync::mpsc::Sender<AdvanceClock>>,
    /// Whether the role `bridge` runs here; without it only health and lists are served.
    pub takes_requests: bool,
    /// `None` where the engine does not run.
    pub window_counts: Option<WindowCounts>,
    /// The configuration of this process, without secrets.
    pub configuration: RwLock<serde_json::Value>,
    /// Takes a snapshot of every store; `None` where there are none.
    pub snapshots: Option<RequestSnapshots>,
    /// Returns the reasons why the process is not ready (none if it is), and the partitions
    /// that it owns.
    pub readiness: Box<dyn Fn() -> (Vec<String>, serde_json::Value) + Send + Sync>,
    /// Why this process holds an endpoint's deliveries because of a fault of its own, and
    /// since when.
    pub find_hold: FindHold,
}

/// A request, as its handler gets it.
pub(super) struct RequestContext<'a> {
    pub route: &'a Route,
    pub headers: &'a HeaderMap,
    pub query: &'a str,
    pub caller: Caller,
    pub body: Bytes,
    pub request_id: &'a str,
}

impl RequestContext<'_> {
    /// The body; an empty object when there is none.
    pub fn text(&self) -> Result<&str, Problem> {
        self.no_query()?;
        if self.body.is_empty() {
            return Ok("{}");
        }
        json::check(&self.body).map_err(Problem::json)
    }

    /// Refuses a query string: a `dry_run` that a route does not have must not be ignored.
    pub fn no_query(&self) -> Result<(), Problem> {
        let detail = "this route takes no query";
        if self.query.is_empty() { Ok(()) } else { Err(Problem::field(Code::UnknownField, "", detail)) }
    }

    /// Accepts only a body without members.
    pub fn no_members(&self) -> Result<(), Problem> {
        let faults = Fields::of(self.text()?, String::new()).close();
        if faults.is_empty() { Ok(()) } else { Err(Problem::fields(faults)) }
    }
}

impl App {
    /// The journal partition of a user.
    pub(super) fn journal_of(&self, user_id: &str) -> TopicPartition {
        TopicPartition { topic: Topic::Events, partition: id::partition_of(user_id, self.log.partitions()) }
    }

    /// Appends a record and waits for the engine's answer; `None` when there is none in
    /// time.
    pub(super) async fn ask(
        &self,
        user_id: &str,
        value: Vec<u8>,
        event_id: Option<&str>,
    ) -> Result<Option<EngineReply>, Problem> {
        let mut waiter = self.replies.wait();
        let new = NewRecord {
            key: Some(Bytes::copy_from_slice(user_id.as_bytes())),
            headers: Vec::new(),
            value: Some(value.into()),
        };
        let new = new.header(REPLY_HEADER, waiter.header());
        let at = self.journal_of(user_id);
        self.decides(at)?;
        let append = self.log.begin_append(at, vec![new]);
        self.reply(append, &mut waiter).await.map_err(|error| Problem::log(&error, event_id))
    }

    /// Waits until the record is durable, and then for the answer to it; `None` when there is
    /// none in time.
    ///
    /// Whoever answers has read the record, so it is durable, and mostly answers at once. So
    /// the acknowledgement, which comes a moment earlier, wakes nobody, unless the answer takes
    /// its time.
    async fn reply(
        &self,
        append: PendingAppend,
        waiter: &mut Waiter,
    ) -> Result<Option<EngineReply>, askwhen_log::Error> {
        let began = Instant::now();
        if !append.is_over() {
            let soon = ANSWER_FIRST.min(self.reply_timeout);
            if let Ok(Some(reply)) = tokio::time::timeout(soon, waiter.next()).await {
                append.was_answered();
                return Ok(Some(reply));
            }
        }
        let was_over = append.is_over();
        append.durable().await?;
        let since = if was_over { began } else { Instant::now() };
        Ok(tokio::time::timeout_at(since + self.reply_timeout, waiter.next()).await.ok().flatten())
    }

    /// Appends an internal record and waits for the answer of one partition; `None` when there
    /// is none in time.
    pub(super) async fn ask_internal(
        &self,
        at: TopicPartition,
        key: &str,
        internal: &Internal,
    ) -> Result<Option<EngineReply>, Problem> {
        let (append, mut waiter) = self.begin_internal(at, key, internal)?;
        self.reply(append, &mut waiter).await.map_err(|error| Problem::log(&error, None))
    }

    /// Refuses records for a partition of this process that would only keep them: its clock
    /// is behind, or it waits for an operator. A backup that is restored meanwhile might
    /// not contain them.
    pub(super) fn decides(&self, at: TopicPartition) -> Result<(), Problem> {
        let Some(status) = self.engine.get(at.partition as usize) else { return Ok(()) };
        let why = match status.phase() {
            Phase::Stopped { why, refused: true } => why,
            Phase::Stopped { why, .. } if status.is_behind(&self.clock) => why,
            _ if status.is_behind(&self.clock) => "this machine's clock is behind the journal's time".into(),
            _ => return Ok(()),
        };
        Err(Problem::later(503, "log_unavailable", &why, Duration::from_secs(5)))
    }

    /// Appends an internal record with its MAC; returns the waiter, because several
    /// partitions may answer.
    pub(super) async fn send_internal(
        &self,
        at: TopicPartition,
        key: &str,
        internal: &Internal,
    ) -> Result<Waiter, Problem> {
        let (append, waiter) = self.begin_internal(at, key, internal)?;
        append.durable().await.map_err(|error| Problem::log(&error, None))?;
        Ok(waiter)
    }

    fn begin_internal(
        &self,
        at: TopicPartition,
        key: &str,
        internal: &Internal,
    ) -> Result<(PendingAppend, Waiter), Problem> {
        self.decides(at)?;
        let waiter = self.replies.wait();
        let signer = Signer::new(&self.log, &self.key);
        let new = signer.request(at.partition, key, internal, waiter.header());
        Ok((self.log.begin_append(at, vec![new]), waiter))
    }
}

/// Runs work that blocks on a thread of its own.
pub(super) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::new(500, "internal", e.to_string()))
}
