//! Reports to endpoints that a survey takes no more responses: its quota is used up, its
//! schedule has ended, or it was archived. Partition 0 collects the number of completed
//! responses from all partitions, then emits the message. It does nothing while no endpoint
//! subscribes to it.

use super::changes::{forward_quota_messages, to_partition};
use super::closings::OpenClosing;
use super::outputs;
use super::registrar;
use super::state::Engine;
use askwhen_domain::definitions::Project;
use askwhen_domain::quota::COORDINATOR_PARTITION;
use askwhen_domain::refs::{SurveyKey, UserRef};
use askwhen_domain::survey::Status;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{self, ClosedReason, Data, Message, SurveyClosed};
use askwhen_partition::{Effects, RecordContext};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{ClosingMessage, ClosingStep, Defined, Internal};

/// Whether any endpoint subscribes to the closing of a survey.
pub fn wants(project: &Project, survey_id: &str) -> bool {
    project.endpoints.values().any(|endpoint| endpoint.body.wants(EventType::Closed, Some(survey_id), false))
}

/// The ends of schedules to which an endpoint subscribes, by survey id.
fn ends(project: &Project) -> impl Iterator<Item = (&String, Millis)> {
    let open = |status| matches!(status, Status::Active | Status::Paused);
    let entries = project.surveys.iter().filter(move |(_, entry)| open(entry.current.status));
    let ends = entries.filter_map(|(id, entry)| Some((id, entry.current.schedule.as_ref()?.ends_at()?)));
    ends.filter(|(id, _)| wants(project, id))
}

impl Engine {
    /// Finds the next end, after definitions have changed.
    pub(super) fn find_next_end(&mut self) {
        let since = self.closings.seen_at.unwrap_or(Millis::MIN);
        let projects = self.table.definitions.projects.values();
        let next = projects.flat_map(|project| ends(project)).map(|(_, end)| end).filter(|end| *end > since).min();
        self.closings.next_end = next;
    }

    /// Ends that are over by then are not reported.
    fn look_from(&mut self, now: Millis) {
        self.closings.seen_at = Some(now);
        self.closings.is_dirty = true;
        self.find_next_end();
    }

    /// Called after every record: closes surveys whose quota it used up, or whose end has
    /// come.
    pub(super) fn notice_closings(&mut self, at: RecordContext<'_>, effects: &mut Effects) {
        for (key, completed) in self.quotas.allocator.take_exhausted() {
            self.report_closed(at, &key, ClosedReason::QuotaFull, at.now, completed, effects);
        }
        self.notice_ends(at, effects);
    }

    /// Moves time on, and notes which surveys ended by it.
    pub(super) fn notice_ends(&mut self, at: RecordContext<'_>, effects: &mut Effects) {
        let Some(next_end) = self.closings.next_end else { return };
        let Some(since) = self.closings.seen_at.replace(at.now) else { return self.look_from(at.now) };
        self.closings.is_dirty |= since != at.now;
        if at.now < next_end {
            return;
        }
        let mut ended = Vec::new();
        for (project_id, project) in &self.table.definitions.projects {
            let now_over = ends(project).filter(|(_, end)| since < *end && *end <= at.now);
            ended.extend(now_over.map(|(id, end)| (SurveyKey::new(project_id.clone(), id.clone()), end)));
        }
        for (key, end) in ended {
            let message = self.closing_message(at, &key, ClosedReason::Ended, end, ClosingStep::Noticed);
            self.send_closing(at, ClosingMessage { to: COORDINATOR_PARTITION, ..message }, effects);
        }
        self.find_next_end();
    }

    /// Closes a survey whose definition changed; `was` is its status before.
    pub(super) fn definition_closes(
        &mut self,
        at: RecordContext<'_>,
        defined: &Defined,
        was: Option<Status>,
        effects: &mut Effects,
    ) {
        if !matches!(defined.kind, Kind::Survey | Kind::Endpoint) {
            return;
        }
        self.find_next_end();
        if self.closings.next_end.is_some() {
            self.look_from(at.now);
        }
        let Some(project) = self.table.definitions.project(&defined.project).cloned() else { return };
        // The counts begin with the responses that there are.
        let is_concerned = |id: &&String| defined.kind == Kind::Endpoint || **id == defined.id;
        for id in project.limited().iter().filter(is_concerned).filter(|id| wants(&project, id)) {
            let key = SurveyKey::new(defined.project.clone(), id.clone());
            forward_quota_messages(self.quotas.allocator.report_used(&key, at.now), effects);
        }
        let is_archived =
            project.surveys.get(&defined.id).is_some_and(|entry| entry.current.status == Status::Archived);
        let was_open = matches!(was, Some(Status::Active | Status::Paused));
        let closes = defined.kind == Kind::Survey && is_archived && was_open && wants(&project, &defined.id);
        if closes && at.origin.partition == COORDINATOR_PARTITION {
            let key = SurveyKey::new(defined.project.clone(), defined.id.clone());
            self.begin_closing(at, &key, ClosedReason::Archived, at.now, effects);
        }
    }

    fn closing_message(
        &self,
        at: RecordContext<'_>,
        key: &SurveyKey,
        reason: ClosedReason,
        closed_at: Millis,
        step: ClosingStep,
    ) -> ClosingMessage {
        let SurveyKey { project, survey_id } = key.clone();
        let from = at.origin.partition;
        ClosingMessage { project, survey_id, reason, at: closed_at, from, to: from, step }
    }

    fn send_closing(&mut self, at: RecordContext<'_>, message: ClosingMessage, effects: &mut Effects) {
        if message.to == at.origin.partition {
            self.receive_closing(at, &message, effects);
        } else {
            effects.forwards.push(to_partition(message.to, &Internal::Closing(message), false));
        }
    }

    pub(super) fn receive_closing(&mut self, at: RecordContext<'_>, message: &ClosingMessage, effects: &mut Effects) {
        let key = SurveyKey::new(message.project.clone(), message.survey_id.clone());
        match message.step {
            ClosingStep::Noticed => self.begin_closing(at, &key, message.reason, message.at, effects),
            ClosingStep::Count => {
                let step = ClosingStep::Counted { used: self.quotas.allocator.used(&key) };
                let (from, to) = (at.origin.partition, message.from);
                self.send_closing(at, ClosingMessage { from, to, step, ..message.clone() }, effects);
            }
            ClosingStep::Counted { used } => self.take_count(at, &key, message, used, effects),
        }
    }

    /// Asks all partitions for their counts, unless this end has been reported.
    fn begin_closing(
        &mut self,
        at: RecordContext<'_>,
        key: &SurveyKey,
        reason: ClosedReason,
        closed_at: Millis,
        effects: &mut Effects,
    ) {
        if reason == ClosedReason::Ended {
            let reported = self.closings.reported.entry(key.project.clone()).or_default();
            if reported.insert(key.survey_id.clone(), closed_at) == Some(closed_at) {
                return;
            }
        }
        let SurveyKey { project, survey_id } = key.clone();
        let counts = vec![None; at.partitions as usize];
        self.closings.open.push(OpenClosing { project, survey_id, reason, at: closed_at, counts });
        self.closings.is_dirty = true;
        let count = self.closing_message(at, key, reason, closed_at, ClosingStep::Count);
        registrar::notify_each(at, effects, |to| Internal::Closing(ClosingMessage { to, ..count.clone() }));
        self.receive_closing(at, &count, effects);
    }

    fn take_count(
        &mut self,
        at: RecordContext<'_>,
        key: &SurveyKey,
        message: &ClosingMessage,
        used: u64,
        effects: &mut Effects,
    ) {
        let is_meant = |open: &OpenClosing| {
            open.project == key.project
                && open.survey_id == key.survey_id
                && (open.reason, open.at) == (message.reason, message.at)
        };
        let Some(place) = self.closings.open.iter().position(is_meant) else { return };
        self.closings.is_dirty = true;
        let counts = &mut self.closings.open[place].counts;
        if let Some(count) = counts.get_mut(message.from as usize) {
            *count = Some(used);
        }
        if counts.iter().all(Option::is_some) {
            let completed = counts.iter().flatten().sum();
            let OpenClosing { reason, at: closed_at, .. } = self.closings.open.remove(place);
            self.report_closed(at, key, reason, closed_at, completed, effects);
        }
    }

    fn report_closed(
        &self,
        at: RecordContext<'_>,
        key: &SurveyKey,
        reason: ClosedReason,
        closed_at: Millis,
        completed: u64,
        effects: &mut Effects,
    ) {
        let Some(project) = self.table.definitions.project(&key.project) else { return };
        let kind = EventType::Closed;
        // The message concerns no user.
        let user = UserRef::new(&key.project, "");
        for endpoint in project.endpoints.values().map(|endpoint| &*endpoint.body) {
            if !endpoint.wants(kind, Some(&key.survey_id), false) {
                continue;
            }
            let survey_id = key.survey_id.clone();
            let closed = SurveyClosed { survey_id, reason, completed, at: closed_at };
            let part = format!("{}/{}", key.survey_id, reason.name());
            let message = Message { kind, at: closed_at, data: Some(Data::closed(&key.project, &closed)) };
            let delivery = message::delivery(&at.origin, endpoint, user, message, &part, at.now);
            effects.outputs.push(outputs::delivery(delivery));
        }
    }
}
