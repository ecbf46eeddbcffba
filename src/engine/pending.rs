//! Requests that wait for a grant: they are applied as if they had just come, once the
//! grant is there or cannot come in time. Their outputs keep the ids of the original
//! record.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::cap_requests::CapRequests;
use super::changes::{forward_quota_messages, journal_value};
use super::decide::{Applied, NeededGrants};
use super::outputs;
use super::pending_requests::{PendingRequest, ReadyRequest, Wanted};
use super::state::Engine;
use askwhen_domain::eligibility::apply::NO_CAPS;
use askwhen_domain::id::Origin;
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::refs::{SurveyKey, UserRef};
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::record::{self, Internal, Query};

const MAX_PENDING: usize = 1_000;
const MAX_PENDING_BYTES: usize = 16 << 20;
const MAX_PENDING_OF_USER: usize = 16;

/// Records that may need a grant, and whose order among themselves matters.
fn may_need_grant(body: &Body<'_>) -> bool {
    matches!(body, Body::Trigger { .. } | Body::Answers(_) | Body::ShowLink { .. } | Body::ShowUser)
}

/// A read as a record.
pub fn read_record(query: Query) -> Record<'static> {
    let body = match (query.offer_id, query.survey_id) {
        (Some(offer_id), _) => Body::ShowOffer { offer_id: offer_id.into() },
        (None, Some(survey_id)) => Body::ShowLink {
            survey_id: survey_id.into(),
            context: Context::default(),
            link_id: query.link_id.map(Into::into),
        },
        (None, None) => Body::ShowUser,
    };
    let (project, user_id) = (query.project.into(), query.user_id.into());
    Record { project, user_id, event_id: None, times: Default::default(), body }
}

impl Engine {
    /// Applies a user's record, or lets it wait for a grant, or behind requests of the same
    /// user that wait.
    pub(super) fn decide_or_wait(&mut self, at: RecordContext<'_>, record: &Record<'_>) -> Result<Effects, Failure> {
        (self.quotas.moved, self.quotas.answered) = (false, false);
        if let Some(effects) = self.turn_back(at, record)? {
            return Ok(effects);
        }
        if !may_need_grant(&record.body) {
            return match self.decide(at, record, false, &NO_CAPS)? {
                Applied::Done(effects) => self.resume_if_moved(at, effects),
                Applied::Needs(_) => Ok(Effects::default()),
            };
        }
        let waiting = self.quotas.pending.count_of_user(UserRef::new(&record.project, &record.user_id));
        let reply_to = at.reply_to.map(|to| String::from_utf8_lossy(to).into_owned());
        if waiting > 0 && self.quotas.pending.join(record, reply_to.as_ref()) {
            return Ok(Effects::default());
        }
        let has_room = self.quotas.pending.len() < MAX_PENDING && self.quotas.pending.bytes() < MAX_PENDING_BYTES;
        let may_wait = waiting < MAX_PENDING_OF_USER && has_room;
        let needs = if waiting > 0 && may_wait {
            NeededGrants::default()
        } else {
            match self.decide(at, record, may_wait, &NO_CAPS)? {
                Applied::Done(effects) => return self.resume_if_moved(at, effects),
                Applied::Needs(needs) => needs,
            }
        };
        let looks = matches!(record.body, Body::ShowLink { .. } | Body::ShowUser);
        let (value, trusted) = journal_value(record);
        let pending = PendingRequest {
            project: record.project.to_string(),
            user_id: record.user_id.to_string(),
            value,
            trusted,
            event_id: record.event_id.as_ref().map(ToString::to_string),
            reply_to: reply_to.into_iter().collect(),
            waiting_since: at.now,
            waits_for: needs.surveys.into_iter().collect(),
            caps: CapRequests::new(needs.caps, needs.known, looks),
        };
        self.quotas.pending.insert(at.origin.offset, pending);
        let mut effects = Effects::default();
        let asks = self.quotas.ask_caps(at.origin.offset, at.now);
        self.send_caps(asks, at.now, &mut effects)?;
        self.resume_pending(at, &mut effects)?;
        Ok(effects)
    }

    /// Resumes waiting requests when a record has released grants or places.
    fn resume_if_moved(&mut self, at: RecordContext<'_>, mut effects: Effects) -> Result<Effects, Failure> {
        if (self.quotas.moved || self.quotas.answered) && self.quotas.anyone_waits() {
            self.resume_pending(at, &mut effects)?;
        }
        Ok(effects)
    }

    /// After every record: returns lapsed grants, and resumes requests that have waited
    /// long enough.
    pub(super) fn resume_overdue(&mut self, at: RecordContext<'_>, effects: &mut Effects) -> Result<(), Failure> {
        let messages = self.quotas.allocator.return_lapsed(at.now);
        forward_quota_messages(messages, effects);
        if self.quotas.pending.is_overdue(at.now) {
            self.resume_pending(at, effects)?;
        }
        Ok(())
    }

    /// Applies requests that need not wait any more, the oldest of each user first, and
    /// asks for what the others need.
    pub(super) fn resume_pending(&mut self, at: RecordContext<'_>, effects: &mut Effects) -> Result<(), Failure> {
        loop {
            let mut wanted = Wanted::new();
            let mut from = 0;
            self.quotas.answered = false;
            while let Some(ReadyRequest { offset, is_patient }) =
                self.quotas.pending.first_ready(from, at.now, |key| self.quotas.needs_grant(key, at.now), &mut wanted)
            {
                from = offset + 1;
                for survey in self.run_pending(at, offset, is_patient, effects)? {
                    *wanted.entry(survey).or_default() += 1;
                }
            }
            for (key, count) in &wanted {
                let messages = self.quotas.allocator.ask(key, *count, at.now);
                forward_quota_messages(messages, effects);
            }
            // The coordinator and the counters of this partition answer at once.
            if wanted.keys().all(|key| self.quotas.needs_grant(key, at.now)) && !self.quotas.answered {
                break;
            }
        }
        // Grants that a waiting request holds are kept until it has the rest.
        let kept = self.quotas.pending.waited_for();
        let messages = self.quotas.allocator.return_unused_except(&kept, at.now);
        forward_quota_messages(messages, effects);
        Ok(())
    }

    /// Applies a waiting request. Returns the surveys of which it needs a grant, if it has to
    /// wait on.
    fn run_pending(
        &mut self,
        at: RecordContext<'_>,
        offset: u64,
        patient: bool,
        effects: &mut Effects,
    ) -> Result<Vec<SurveyKey>, Failure> {
        let Some(pending) = self.quotas.pending.get(offset).cloned() else { return Ok(Vec::new()) };
        self.quotas.used.clear();
        let own = RecordContext { origin: Origin { offset, ..at.origin }, passed_on: None, ..at };
        // A panic concerns this request only, and not the record that resumed it.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.decide_again(own, &pending, patient)));
        let outcome = match outcome {
            Ok(Err(failure @ (Failure::Store(_) | Failure::Refused(_)))) => return Err(failure),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Failure::Reject(_))) | Err(_) => {
                let refused = "it could not be applied when its turn came";
                effects.outputs.push(outputs::unheard_refusal(own, "panic", refused, &pending.value));
                let reply = EngineReply::Refused { code: "invalid".into(), pointer: None, detail: refused.into() };
                let heard = !pending.reply_to.is_empty();
                Applied::Done(Effects { reply: heard.then_some(reply), ..Effects::default() })
            }
        };
        match outcome {
            Applied::Needs(NeededGrants { surveys, caps, known }) => {
                let left = self.quotas.pending.change(offset, |pending| {
                    pending.waits_for.extend(surveys.iter().cloned());
                    if caps.is_empty() { Vec::new() } else { pending.caps.want(caps, known) }
                });
                let mut messages = self.quotas.give_back(left.unwrap_or_default(), offset);
                messages.extend(self.quotas.ask_caps(offset, at.now));
                self.send_caps(messages, at.now, effects)?;
                Ok(surveys.into_iter().map(|id| SurveyKey::new(pending.project.clone(), id)).collect())
            }
            Applied::Done(late) => {
                self.quotas.pending.remove(offset);
                let left = pending.caps.left(&std::mem::take(&mut self.quotas.used));
                let messages = self.quotas.give_back(left, offset);
                self.send_caps(messages, at.now, effects)?;
                self.quotas.released += 1;
                effects.outputs.extend(late.outputs);
                effects.forwards.extend(late.forwards);
                match late.reply {
                    Some(EngineReply::Refused { code, detail, .. }) if pending.reply_to.is_empty() => {
                        effects.outputs.push(outputs::unheard_refusal(own, &code, &detail, &pending.value));
                    }
                    Some(answer) => {
                        let replies = pending.reply_to.into_iter().map(|to| (to.into(), answer.clone()));
                        effects.late_replies.extend(replies);
                    }
                    None => {}
                }
                Ok(Vec::new())
            }
        }
    }

    fn decide_again(
        &mut self,
        own: RecordContext<'_>,
        pending: &PendingRequest,
        patient: bool,
    ) -> Result<Applied, Failure> {
        match record::decode(Some(pending.value.as_str().as_bytes()), pending.trusted)? {
            record::Decoded::User(record) => self.decide(own, &record, patient, pending.caps.answers()),
            record::Decoded::Internal(internal) => match *internal {
                Internal::Query(query) => self.decide(own, &read_record(query), patient, pending.caps.answers()),
                _ => Ok(Applied::Done(Effects::default())),
            },
        }
    }

    /// Decides all waiting requests of a user now: an erasure must not leave any behind.
    pub(super) fn decide_pending_of(
        &mut self,
        at: RecordContext<'_>,
        user: UserRef<'_>,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let offsets = self.quotas.pending.of_user(user);
        offsets.into_iter().try_for_each(|offset| self.run_pending(at, offset, false, effects).map(drop))
    }
}
