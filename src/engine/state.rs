//! The state of a partition's engine, and reads of it. Records change it in `decide`,
//! `pending` and `commands`.

use std::sync::Arc;

use super::closings::Closings;
use super::decided::RecentDecisions;
use super::families;
use super::pending_requests::PendingRequest;
use super::quotas::{CLOSINGS, Quotas};
use super::remembered::RememberedIds;
use super::table::Table;
use super::users::{CacheLimit, Users};
use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply;
use askwhen_domain::json::Json;
use askwhen_domain::quota::cap::{CapAnswer, CapAsk};
use askwhen_domain::quota::{self, QuotaMessage, QuotaSignal};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::Millis;
use askwhen_partition::{Failure, StopReason};
use askwhen_process::metrics::Metrics;
use askwhen_store::{Error, Store};
use askwhen_wire::definition::Kind;

pub struct Engine {
    pub(super) store: Arc<Store>,
    pub(super) users: Users,
    pub(super) table: Table,
    pub(super) recent: RecentDecisions,
    pub(super) quotas: Quotas,
    pub(super) closings: Closings,
    pub(super) remembered: RememberedIds,
    pub(super) rows: prometheus::IntGauge,
    pub(super) empty: Arc<Project>,
    pub(super) outputs: OutputMode,
    /// Whether it replays what another engine has counted and logged.
    is_replay: bool,
}

/// What becomes of outputs.
pub(super) enum OutputMode {
    /// They are encoded, and so are replies.
    Encoded,
    /// Those about a project's users are captured.
    Captured {
        project: String,
        items: Vec<apply::Output>,
    },
    Discarded,
}

impl Engine {
    /// Loads the state of a store; `cached` bounds the bytes of decoded users and counters.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        store: Arc<Store>,
        partition: u32,
        partitions: u32,
        cached: impl Into<CacheLimit>,
    ) -> Result<Engine, StopReason> {
        let table = Table::load(&store)?;
        let cached: CacheLimit = cached.into();
        let quotas = Quotas::load(&store, partition, partitions, cached.clone())?;
        let closings = match store.get(families::QUOTAS, CLOSINGS)? {
            Some(value) => serde_json::from_slice(&value).map_err(|e| Error::damaged("closings", e))?,
            None => Closings::default(),
        };
        let mut engine = Engine {
            users: Users::new(store.clone(), cached),
            recent: RecentDecisions::new(store.clone()),
            quotas,
            closings,
            table,
            remembered: RememberedIds::open(store.clone())?,
            rows: askwhen_process::metrics::get().engine_remembered_rows.with_label_values(&[&partition.to_string()]),
            store,
            empty: Arc::default(),
            outputs: OutputMode::Encoded,
            is_replay: false,
        };
        engine.find_next_end();
        Ok(engine)
    }

    /// The same for a replay: its records and decisions count in no metric.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open_for_replay(
        store: Arc<Store>,
        partition: u32,
        partitions: u32,
        cached: impl Into<CacheLimit>,
    ) -> Result<Engine, StopReason> {
        Ok(Engine { is_replay: true, ..Engine::open(store, partition, partitions, cached)? })
    }

    /// The process's metrics, unless this is a replay.
    pub(super) fn metrics(&self) -> Option<&'static Metrics> {
        (!self.is_replay).then(askwhen_process::metrics::get)
    }

    /// From now on outputs about a project's users are captured for
    /// [`Engine::take_captured`], and nothing is written. Bodies of answers are not built.
    pub fn capture_outputs(&mut self, project: &str) {
        self.outputs = OutputMode::Captured { project: project.to_owned(), items: Vec::new() };
    }

    /// The outputs captured since the last call.
    pub fn take_captured(&mut self) -> Vec<apply::Output> {
        match &mut self.outputs {
            OutputMode::Captured { items, .. } => std::mem::take(items),
            OutputMode::Encoded | OutputMode::Discarded => Vec::new(),
        }
    }

    /// From now on nothing is put out and no body of an answer is built, for whoever is
    /// interested in the state alone.
    pub fn discard_outputs(&mut self) {
        self.outputs = OutputMode::Discarded;
    }

    /// From now on outputs and bodies are encoded.
    pub fn encode_outputs(&mut self) {
        self.outputs = OutputMode::Encoded;
    }

    /// The surveys of a project: id, version and canonical form.
    pub fn surveys(&self, project: &str) -> Vec<(String, u64, Json)> {
        let theirs = self.table.rows().filter(|row| row.project == project && row.kind == Kind::Survey);
        theirs.filter_map(|row| Some((row.id.clone(), row.version, row.body.as_deref()?.clone()))).collect()
    }

    /// The user of whom a name is an alias.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn alias_of(&mut self, project: &str, name: &str) -> Result<Option<String>, Failure> {
        Ok(self.users.get(project, name)?.alias_of().map(str::to_owned))
    }

    /// Whether a survey of a project has a quota, or anything in it a cap: then its
    /// partitions depend on each other.
    pub fn has_quotas(&self, project: &str) -> bool {
        let is_capped = self.table.definitions.project(project).is_some_and(|project| project.has_caps());
        is_capped
            || self
                .quotas
                .allocator
                .leases
                .iter()
                .any(|(survey, lease)| survey.project == project && lease.limit.is_some())
    }

    /// How many requests have ended their wait for a grant.
    pub fn released(&self) -> u64 {
        self.quotas.released
    }

    /// Whether the request at an offset waits for a grant.
    pub fn is_waiting(&self, offset: u64) -> bool {
        self.quotas.pending.get(offset).is_some()
    }

    /// Drops waiting requests, for readers that write nothing.
    pub fn forget_waiting(&mut self) {
        self.quotas.pending.clear();
    }

    /// Whether the coordinator in this partition would give a partition a grant: see
    /// [`quota::QuotaCoordinator::would_grant`].
    pub fn coordinator_would_grant(&self, key: &SurveyKey, asking: u32) -> Option<bool> {
        self.quotas.allocator.coordinators.get(key)?.would_grant(asking)
    }

    /// The places that waiting requests have asked for, each with the request's offset.
    pub fn awaited_places(&self) -> Vec<(u64, CapAsk)> {
        let of = |(offset, pending): (u64, &PendingRequest)| {
            pending.caps.awaited().map(move |ask| (offset, ask)).collect::<Vec<_>>()
        };
        self.quotas.pending.iter().flat_map(of).collect()
    }

    /// What the counter in this partition would answer.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn counter_answers(&self, ask: CapAsk, at: Millis) -> Result<CapAnswer, Error> {
        self.quotas.caps.look(ask, at)
    }

    /// Messages with the grants that waiting requests need, as the coordinator would send
    /// them.
    pub fn awaited_grants(&self) -> Vec<QuotaMessage> {
        let allocator = &self.quotas.allocator;
        let grant = |survey: SurveyKey| {
            let epoch = allocator.leases.get(&survey)?.epoch;
            let SurveyKey { project, survey_id } = survey;
            let signal = QuotaSignal::Grant { count: 1, keep: false };
            Some(QuotaMessage {
                project,
                survey_id,
                epoch,
                from: quota::COORDINATOR_PARTITION,
                to: allocator.partition(),
                signal,
            })
        };
        let wanted = self.quotas.pending.waited_for().into_iter();
        wanted.filter(|key| self.quotas.needs_grant(key, Millis::MAX)).filter_map(grant).collect()
    }
}
