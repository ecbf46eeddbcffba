//! Runs jobs, one at a time in each process. When a process ends, another one or its next
//! start continues its job from what was sent so far.

use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::app::{App, run_blocking};
use super::backfill::{BackfillScope, ResponsePosition};
use super::history::BacktestRequest;
use super::jobs::{JobKind, JobRecord, JobState};
use super::list_routes::{delivery_filter, unlisted};
use super::problem::Problem;
use super::recoveries::RecoveryTurn;
use super::redelivery::{MessageReader, SEEN_WITHIN, WINDOW, spacing_us, until_listed};
use askwhen_domain::refs::EndpointRef;
use askwhen_domain::time::{MINUTE, Millis, SECOND};
use askwhen_domain::webhook::message::Delivery;
use askwhen_log::Log;
use askwhen_process::progress::Progress;
use askwhen_wire::definition::{self, Kind, Target};
use askwhen_wire::listing::{DeliveryPlace, Filter};
use askwhen_wire::topic::Topic;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the progress of a job is written.
const TELL_EVERY: Millis = SECOND;
/// A job without progress for this long is taken over from its process.
const STALE: Millis = 30 * SECOND;
/// How long messages of a job are requested with the same time. The engine accepts requests
/// that are up to ten minutes old.
const STRETCH: Millis = 4 * MINUTE;
/// A stretch that is older than this is over: the lists say what was sent.
const STRETCH_OVER: Millis = 8 * MINUTE;

/// The messages of a job.
pub(super) enum JobWork {
    Redeliveries(Vec<DeliveryPlace>),
    Backfill { scope: Box<BackfillScope>, places: Vec<ResponsePosition>, count: u64 },
}

impl JobWork {
    pub fn count(&self) -> u64 {
        match self {
            JobWork::Redeliveries(places) => places.len() as u64,
            JobWork::Backfill { count, .. } => *count,
        }
    }

    fn windows(self, size: usize) -> Vec<JobWindow> {
        match self {
            JobWork::Redeliveries(places) => {
                places.chunks(size).map(|window| JobWindow::Redeliveries(window.to_vec())).collect()
            }
            JobWork::Backfill { scope, places, .. } => {
                let scope = Arc::new(*scope);
                let window = |window: &[ResponsePosition]| JobWindow::Backfill(scope.clone(), window.to_vec());
                places.chunks(size).map(window).collect()
            }
        }
    }
}

/// Messages that are appended together.
enum JobWindow {
    Redeliveries(Vec<DeliveryPlace>),
    Backfill(Arc<BackfillScope>, Vec<ResponsePosition>),
}

impl JobWindow {
    fn read(&self, log: &Log) -> Result<Vec<Delivery>, askwhen_log::Error> {
        match self {
            JobWindow::Redeliveries(places) => MessageReader::new(log, Topic::Deliveries).successors(places),
            JobWindow::Backfill(scope, places) => {
                let mut messages = MessageReader::new(log, Topic::Responses);
                let mut made = Vec::new();
                for (_, partition, offset) in places {
                    let record = messages.record(*partition, *offset)?;
                    made.extend(record.into_iter().flat_map(|record| scope.messages(record)));
                }
                Ok(made)
            }
        }
    }
}

/// A job that this process runs.
struct RunningJob<'a> {
    app: &'a App,
    project: String,
    job: JobRecord,
    version: u64,
}

/// Why this process stops a job.
enum JobStop {
    /// It was cancelled, or another process has taken it.
    Taken,
    /// The process ends; another one continues.
    Ending,
    Failed(Problem),
}

impl From<Problem> for JobStop {
    fn from(problem: Problem) -> JobStop {
        JobStop::Failed(problem)
    }
}

impl App {
    /// Runs jobs until the process ends.
    pub async fn run_jobs(&self) {
        // The count of changes of jobs at the time when none was open.
        let mut rested: Option<u64> = None;
        while !self.ending.load(Ordering::Acquire) {
            tokio::time::sleep(LOOK_EVERY).await;
            let moved = self.view.moved_anywhere(Kind::Job);
            if rested == Some(moved) || self.whole_lists().is_err() {
                continue;
            }
            match self.next_job() {
                Some((project, job, version)) => RunningJob { app: self, project, job, version }.run().await,
                // That the process of a job is gone shows only by time.
                None => rested = (!self.has_open_job()).then_some(moved),
            }
        }
    }

    fn has_open_job(&self) -> bool {
        let states = self.view.jobs().into_iter().filter_map(|shown| Some(JobRecord::of(&shown)?.state));
        states.into_iter().any(|state| matches!(state, JobState::Queued | JobState::Running))
    }

    /// The oldest job that waits, or whose process is gone.
    fn next_job(&self) -> Option<(String, JobRecord, u64)> {
        let now = self.clock.now();
        let is_free = |job: &JobRecord| match job.state {
            JobState::Queued => true,
            JobState::Running => {
                // The embedded log has only one process.
                let is_alone = !matches!(self.log, Log::Kafka(_));
                let is_stale = job.beat_at.is_none_or(|beat_at| (now - beat_at).abs() > STALE);
                job.runner.as_ref() != Some(&self.process_id) && (is_alone || is_stale)
            }
            JobState::Done | JobState::Cancelled | JobState::Failed => false,
        };
        let known = self.view.jobs().into_iter().filter_map(|shown| {
            let job = JobRecord::of(&shown)?;
            is_free(&job).then(|| (shown.record.project.clone(), job, shown.record.version))
        });
        known.min_by_key(|(_, job, _)| job.created_at)
    }

    /// What a job has still to send, oldest first.
    pub(super) async fn job_work(&self, project: &str, job: &JobRecord) -> Result<JobWork, Problem> {
        let lists = self.lists().await?.clone();
        let span = job.span();
        let filter = match job.kind {
            JobKind::Resend => delivery_filter(&job.parameters["filter"])?,
            JobKind::Backfill => return self.backfill_work(project, job).await,
            JobKind::Recover | JobKind::Backtest => {
                self.enabled_endpoint(project, job.endpoint_id())?;
                Filter {
                    endpoint_id: Some(job.endpoint_id().to_owned()),
                    since: Some(span.since),
                    until: Some(span.until),
                    ..Filter::default()
                }
            }
        };
        let (missed_only, ends, owner) = (job.kind == JobKind::Recover, job.ends.clone(), project.to_owned());
        let found = run_blocking(move || lists.resendable(&owner, &filter, missed_only, &ends)).await?;
        let mut found = found.map_err(unlisted)?;
        found.retain(|(endpoint_id, _)| self.enabled_endpoint(project, endpoint_id).is_ok());
        Ok(JobWork::Redeliveries(found.into_iter().map(|(_, place)| place).collect()))
    }

    async fn backfill_work(&self, project: &str, job: &JobRecord) -> Result<JobWork, Problem> {
        let body = self.enabled_endpoint(project, job.endpoint_id())?;
        let read = definition::endpoint(&body, None, Target::Trusted).map_err(Problem::fields)?;
        let scope = BackfillScope {
            log: self.log.clone(),
            lists: self.lists().await?.clone(),
            project: project.to_owned(),
            endpoint: Arc::new(read.endpoint),
            span: job.span(),
            kept_since: self.view.kept_since(project, self.clock.now()),
        };
        let search = scope.clone();
        let found = run_blocking(move || search.find(usize::MAX)).await?;
        let mut found = found.map_err(|error| Problem::log(&error, None))?;
        found.places.sort_unstable();
        Ok(JobWork::Backfill { scope: Box::new(scope), places: found.places, count: found.count as u64 })
    }

    /// The definition of an endpoint that is enabled.
    fn enabled_endpoint(&self, project: &str, endpoint_id: &str) -> Result<Value, Problem> {
        let shown = self.view.get(project, Kind::Endpoint, endpoint_id);
        let shown = shown.ok_or_else(|| Problem::not_found("there is no such endpoint"))?;
        self.refuse_disabled(&shown)?;
        Ok(shown.record.body.value())
    }
}

impl RunningJob<'_> {
    async fn run(mut self) {
        self.job.state = JobState::Running;
        self.job.runner = Some(self.app.process_id.clone());
        let now = self.app.clock.now();
        self.job.started_at.get_or_insert(now);
        let worked = match self.append().await {
            Ok(()) if self.job.kind == JobKind::Backtest => self.backtest().await,
            Ok(()) => self.send().await,
            Err(stop) => Err(stop),
        };
        match worked {
            Ok(result) => (self.job.state, self.job.result) = (JobState::Done, Some(result)),
            Err(JobStop::Failed(problem)) => {
                (self.job.state, self.job.error) = (JobState::Failed, Some(problem.detail));
            }
            Err(JobStop::Taken) => return self.append_cancelled().await,
            Err(JobStop::Ending) => return,
        }
        // A job whose end cannot be written is started once more, and finds nothing to do.
        match self.append().await {
            Err(JobStop::Failed(problem)) => {
                tracing::warn!(job_id = self.job.job_id, why = problem.detail, "the end of a job could not be written");
                self.app.view.catch_up().ok();
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(JobStop::Taken) => self.append_cancelled().await,
            Ok(()) | Err(JobStop::Ending) => {}
        }
    }

    /// Writes the final count of a cancelled job, whose last progress may be a second older
    /// than the cancellation, and that nobody runs it any more.
    async fn append_cancelled(mut self) {
        self.app.view.catch_up().ok();
        let Ok((known, version)) = self.app.known_job(&self.project, &self.job.job_id) else { return };
        if known.state != JobState::Cancelled || known.runner != self.job.runner {
            return;
        }
        self.version = version;
        self.job.state = JobState::Cancelled;
        self.job.runner = None;
        if let Err(JobStop::Failed(problem)) = self.append().await {
            tracing::warn!(
                job_id = self.job.job_id,
                why = problem.detail,
                "what a cancelled job has sent could not be written"
            );
        }
    }

    /// Writes the progress.
    async fn append(&mut self) -> Result<(), JobStop> {
        self.job.beat_at = Some(self.app.clock.now());
        let actor = self.job.actor.clone();
        match self.app.write_job(&self.project, &actor, &self.job, Some(self.version)).await {
            Ok(version) => {
                self.version = version;
                Ok(())
            }
            Err(problem) if matches!(problem.status.as_u16(), 404 | 412) => Err(JobStop::Taken),
            Err(problem) => Err(JobStop::Failed(problem)),
        }
    }

    async fn tell_now_and_then(&mut self) -> Result<(), JobStop> {
        if self.app.ending.load(Ordering::Acquire) {
            return Err(JobStop::Ending);
        }
        let is_cancelled =
            self.app.known_job(&self.project, &self.job.job_id).is_ok_and(|(job, _)| job.state.has_ended());
        if is_cancelled {
            return Err(JobStop::Taken);
        }
        match self.job.beat_at.is_none_or(|at| (self.app.clock.now() - at).abs() >= TELL_EVERY) {
            true => self.append().await,
            false => Ok(()),
        }
    }

    /// Sends what is left.
    async fn send(&mut self) -> Result<Value, JobStop> {
        let is_resumed = self.job.asked_at.is_some();
        self.begin_stretch(is_resumed).await?;
        let work = self.app.job_work(&self.project, &self.job).await?;
        let turns = self.turns(&work).await;
        if is_resumed {
            // The recorded progress may be a second old.
            self.job.done = self.job.total.saturating_sub(work.count());
        } else {
            self.job.total = work.count();
        }
        let spacing_us = spacing_us(self.job.rate());
        let (began, mut sent, mut last) = (self.app.clock.now(), 0_i64, None);
        // Only messages due within a second are appended, so that a job can be cancelled.
        let per_second = (1_000_000 / spacing_us.max(1)).clamp(1, WINDOW as i64) as usize;
        for window in work.windows(per_second) {
            while began + sent * spacing_us / 1_000 > self.app.clock.now() + SECOND {
                self.tell_now_and_then().await?;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.tell_now_and_then().await?;
            if self.job.asked_at.is_none_or(|at| (self.app.clock.now() - at).abs() > STRETCH) {
                self.begin_stretch(false).await?;
            }
            let log = self.app.log.clone();
            let found = run_blocking(move || window.read(&log)).await?;
            let mut found = found.map_err(|error| JobStop::Failed(Problem::log(&error, None)))?;
            for delivery in &mut found {
                delivery.not_before = Some(began + sent * spacing_us / 1_000);
                sent += 1;
            }
            last = found.last().map(|delivery| delivery.delivery_id.clone()).or(last);
            self.job.done += found.len() as u64;
            self.app.append_redeliveries(found, self.job.asked_at).await?;
        }
        // The next request must see what was sent.
        until_listed(self.app.lists.as_deref(), &self.project, last.as_deref()).await;
        drop(turns);
        Ok(json!({"sent": self.job.done, "not_kept": self.job.total.saturating_sub(self.job.done)}))
    }

    /// Sets the time with which the next messages are requested. A job that continues after
    /// its process died uses the earlier time, so that nothing is sent twice; when that is
    /// too old, the lists say what was sent.
    async fn begin_stretch(&mut self, is_resumed: bool) -> Result<(), JobStop> {
        let now = self.app.clock.now();
        if is_resumed {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if self.job.asked_at.is_some_and(|at| (now - at).abs() < STRETCH_OVER) {
                return Ok(());
            }
            tokio::time::sleep(SEEN_WITHIN).await;
        }
        self.job.asked_at = Some(now);
        self.append().await
    }

    /// Waits until no recovery of the same endpoints is running, and keeps others from
    /// starting.
    async fn turns(&self, work: &JobWork) -> Vec<RecoveryTurn> {
        let mut endpoints: Vec<String> = match (work, self.job.parameters["filter"]["endpoint_id"].as_str()) {
            (JobWork::Backfill { .. }, _) | (_, None) if !self.job.endpoint_id().is_empty() => {
                vec![self.job.endpoint_id().to_owned()]
            }
            (_, Some(endpoint_id)) => vec![endpoint_id.to_owned()],
            (_, None) => {
                let listed = self.app.view.list(&self.project, Kind::Endpoint, u64::MAX, usize::MAX);
                listed.into_iter().map(|shown| shown.record.id).collect()
            }
        };
        // In a fixed order, so that two jobs do not wait for each other.
        endpoints.sort();
        let mut turns = Vec::new();
        for endpoint_id in endpoints {
            turns.push(self.app.recoveries.turn(EndpointRef::new(&self.project, &endpoint_id)).lock_owned().await);
        }
        turns
    }

    async fn backtest(&mut self) -> Result<Value, JobStop> {
        let Some(reader) = self.app.history.clone() else { return Err(JobStop::Taken) };
        let progress = Arc::new(Progress::default());
        let request = BacktestRequest { project: self.project.clone(), parameters: self.job.parameters.clone() };
        let (history, counted) = (reader.history.clone(), progress.clone());
        let mut running = tokio::task::spawn_blocking(move || history.backtest(request, &counted));
        loop {
            tokio::select! {
                done = &mut running => {
                    let done = done.map_err(|e| Problem::new(500, "internal", e.to_string()))?;
                    self.job.done = progress.all.load(Ordering::Relaxed);
                    self.job.total = self.job.done;
                    return done.map_err(|error| JobStop::Failed(Problem::new(500, "internal", error.to_string())));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    self.job.total = progress.all.load(Ordering::Relaxed);
                    self.job.done = progress.records.load(Ordering::Relaxed).min(self.job.total);
                    if let Err(stop) = self.tell_now_and_then().await {
                        progress.cancelled.store(true, Ordering::Relaxed);
                        drop(running.await);
                        return Err(stop);
                    }
                }
            }
        }
    }
}
