//! What requests are answered with: the application and a request, and how a
//! request reaches a partition and hears from it.

use bytes::Bytes;
use http::HeaderMap;
use ipnet::IpNet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

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
use askwhen_log::{Log, NewRecord, TopicPartition};
use askwhen_partition::reply::Waiter;
use askwhen_partition::{EngineReply, Phase, Replies, Signer, Status};
use askwhen_process::clock::Clock;
use askwhen_wire::definition::Code;
use askwhen_wire::json;
use askwhen_wire::record::{Internal, REPLY_HEADER};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// Moves the test clock by so many milliseconds; answers with the new now.
pub type Advance = (Millis, tokio::sync::oneshot::Sender<Millis>);

/// Asks for snapshots of all stores of this process.
pub type AskSnapshots = Box<dyn Fn(SnapshotReply) + Send + Sync>;

/// Who waits for snapshots gets what each says of itself.
pub type SnapshotReply = tokio::sync::oneshot::Sender<Result<Vec<serde_json::Value>, SnapshotFailure>>;

/// The last snapshot of a round that failed; the others were taken.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{role} partition {partition}: {source}")]
pub struct SnapshotFailure {
    pub role: &'static str,
    pub partition: u32,
    /// Shared: all who waited for the round are told.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

/// Why an endpoint of a project is held, and since when.
pub type HoldOf = Box<dyn Fn(&str, &str) -> Option<(&'static str, Millis)> + Send + Sync>;

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Whole,
    /// Everything but what operators use.
    Public,
    Operators,
}

/// Everything that a request may need; shared by all connections.
pub struct App {
    pub log: Log,
    pub clock: Clock,
    pub replies: Replies,
    pub key: ClusterKey,
    /// The engine's partitions, as far as this process has them.
    pub engine: Vec<Arc<Status>>,
    pub auth: Auth,
    pub view: Arc<View>,
    pub cors_origins: AllowedOrigins,
    /// What a proxy puts before every path: empty, or `/ask`.
    pub base_path: String,
    /// Where people reach the console; empty where nobody knows it.
    pub console_url: String,
    /// Who may frame the survey page, as a policy lists them; empty: nobody.
    pub frame_ancestors: String,
    pub allow_targets: Vec<IpNet>,
    pub reply_timeout: Duration,
    /// Whether every request is logged, not only those that are refused.
    pub access_log: bool,
    /// Lives where the role `console` runs.
    pub lists: Option<Arc<dyn Lists>>,
    /// There where the lists are.
    pub history: Option<Arc<HistoryReader>>,
    pub recoveries: Recoveries,
    /// Which process this is, among those that run jobs.
    pub process_id: String,
    /// Set when the process is to end.
    pub ending: Arc<AtomicBool>,
    /// How many listen to changes.
    pub listeners: Arc<Semaphore>,
    pub sessions: Sessions,
    /// There under `--test-clock` alone.
    pub test_clock: Option<tokio::sync::mpsc::Sender<Advance>>,
    /// Whether the role `bridge` runs here; else only health and lists are served.
    pub takes_requests: bool,
    /// There where the engine runs.
    pub window_counts: Option<WindowCounts>,
    /// The configuration in force in this process, without its secrets.
    pub configuration: RwLock<serde_json::Value>,
    /// There where stores are: takes a snapshot of each.
    pub snapshots: Option<AskSnapshots>,
    /// Reasons why the process is not ready, empty when it is; and the
    /// partitions that it owns.
    pub readiness: Box<dyn Fn() -> (Vec<String>, serde_json::Value) + Send + Sync>,
    /// Why this process sends nothing to an endpoint of a project by its own
    /// fault, and since when.
    pub hold_of: HoldOf,
}

/// One request, taken apart.
pub(super) struct RequestContext<'a> {
    pub route: &'a Route,
    pub headers: &'a HeaderMap,
    pub query: &'a str,
    pub caller: Caller,
    pub body: Bytes,
    pub request_id: &'a str,
}

impl RequestContext<'_> {
    /// The body, or an empty object where it is left out.
    pub fn text(&self) -> Result<&str, Problem> {
        self.no_query()?;
        if self.body.is_empty() {
            return Ok("{}");
        }
        json::check(&self.body).map_err(Problem::json)
    }

    /// A query says nothing here: what was meant as a rehearsal must not come true.
    pub fn no_query(&self) -> Result<(), Problem> {
        let detail = "this route takes no query";
        if self.query.is_empty() { Ok(()) } else { Err(Problem::field(Code::UnknownField, "", detail)) }
    }

    /// A body that may say nothing.
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

    /// Appends a record and waits for what the engine says to it; `None` when
    /// it says nothing in time.
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
        let started = Instant::now();
        self.log.append_durably(at, vec![new]).await.map_err(|error| Problem::log(&error, event_id))?;
        askwhen_process::metrics::get().bridge_ack_seconds.observe(started.elapsed().as_secs_f64());
        Ok(tokio::time::timeout(self.reply_timeout, waiter.next()).await.ok().flatten())
    }

    /// Refuses what a partition of this process would only keep: while its clock is
    /// behind, or while it has stopped until a person has looked, it decides
    /// nothing. A restored backup may be without what the journal takes until then.
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

    /// The same for an internal record, with its MAC. Gives the waiter too, for
    /// what several partitions answer.
    pub(super) async fn send_internal(
        &self,
        at: TopicPartition,
        key: &str,
        internal: &Internal,
    ) -> Result<Waiter, Problem> {
        self.decides(at)?;
        let waiter = self.replies.wait();
        let signer = Signer::new(&self.log, &self.key);
        let new = signer.request(at.partition, key, internal, waiter.header());
        self.log.append_durably(at, vec![new]).await.map_err(|error| Problem::log(&error, None))?;
        Ok(waiter)
    }
}

/// What blocks is done beside the requests.
pub(super) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::new(500, "internal", e.to_string()))
}
