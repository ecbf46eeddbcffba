//! Requests that wait for a grant of a quota: applied as if they had just come,
//! once it is there, or once it is clear that there is none in time. Outputs
//! keep the ids of the record itself.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::changes::post;
use super::decide::Applied;
use super::outputs;
use super::quotas::{PendingRequest, WaitingGrants};
use super::state::Engine;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaStatus;
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::refs::{SurveyKey, SurveyRef, UserRef};
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::record::{self, Internal, Query};

const MAX_PENDING: usize = 1_000;
const MAX_PENDING_BYTES: usize = 16 << 20;
const MAX_PENDING_OF_USER: usize = 16;

/// Records that can need a grant, and whose order among themselves counts.
fn may_need_grant(body: &Body<'_>) -> bool {
    matches!(body, Body::Trigger { .. } | Body::Answers(_) | Body::ShowLink { .. } | Body::ShowUser)
}

/// The record as any partition would read it: its value, and whether it is one
/// of askwhen's own.
fn written(record: &Record<'_>) -> (Vec<u8>, bool) {
    let (survey_id, link_id) = match &record.body {
        Body::ShowLink { survey_id, link_id, .. } => {
            (Some(survey_id.to_string()), link_id.as_ref().map(ToString::to_string))
        }
        Body::ShowUser => (None, None),
        _ => return (record::encode(record), false),
    };
    let (project, user_id) = (record.project.to_string(), record.user_id.to_string());
    let query = Query { project, user_id, offer_id: None, survey_id, link_id };
    (record::encode_internal(&Internal::Query(query)), true)
}

/// The other way round: a read, as a record.
pub fn asked(query: Query) -> Record<'static> {
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
    /// Applies a user's record, or lets it wait for a grant that it needs, or
    /// behind others of its user that do.
    pub(super) fn judge_or_park(&mut self, at: RecordContext<'_>, record: &Record<'_>) -> Result<Effects, Failure> {
        self.quotas.moved = false;
        if !may_need_grant(&record.body) {
            return match self.decide(at, record, false)? {
                Applied::Done(effects) => self.resume_if_moved(at, effects),
                Applied::Needs(_) => Ok(Effects::default()),
            };
        }
        let waiting = self.quotas.of_user(&record.project, &record.user_id);
        let reply_to = at.reply_to.map(|to| String::from_utf8_lossy(to).into_owned());
        if waiting > 0 && self.quotas.join(record, reply_to.as_ref()) {
            return Ok(Effects::default());
        }
        let has_room = self.quotas.pending.len() < MAX_PENDING && self.quotas.pending_bytes() < MAX_PENDING_BYTES;
        let may_wait = waiting < MAX_PENDING_OF_USER && has_room;
        let waits_for = if waiting > 0 && may_wait {
            BTreeSet::new()
        } else {
            match self.decide(at, record, may_wait)? {
                Applied::Done(effects) => return self.resume_if_moved(at, effects),
                Applied::Needs(surveys) => surveys.into_iter().collect(),
            }
        };
        let (value, trusted) = written(record);
        let pending = PendingRequest {
            project: record.project.to_string(),
            user_id: record.user_id.to_string(),
            value: Json::from_valid(String::from_utf8_lossy(&value)),
            trusted,
            event_id: record.event_id.as_ref().map(ToString::to_string),
            reply_to: reply_to.into_iter().collect(),
            parked_at: at.now,
            waits_for,
        };
        self.quotas.pending.insert(at.origin.offset, pending);
        self.quotas.dirty.insert(at.origin.offset);
        let mut effects = Effects::default();
        self.resume_pending(at, &mut effects)?;
        Ok(effects)
    }

    /// What a record has given back may be what others wait for.
    fn resume_if_moved(&mut self, at: RecordContext<'_>, mut effects: Effects) -> Result<Effects, Failure> {
        if self.quotas.moved && self.quotas.anyone_waits() {
            self.resume_pending(at, &mut effects)?;
        }
        Ok(effects)
    }

    /// After every record: gives lapsed grants back, and resumes requests that have
    /// waited long enough.
    pub(super) fn resume_overdue(&mut self, at: RecordContext<'_>, effects: &mut Effects) -> Result<(), Failure> {
        let mail = self.quotas.allocator.settle(false, at.now);
        post(mail, effects);
        let first = self.quotas.pending.values().next();
        if first.is_some_and(|pending| !pending.is_patient(at.now)) {
            self.resume_pending(at, effects)?;
        }
        Ok(())
    }

    /// Applies those who need not wait any more, the oldest of each user first;
    /// asks for the others.
    pub(super) fn resume_pending(&mut self, at: RecordContext<'_>, effects: &mut Effects) -> Result<(), Failure> {
        loop {
            let mut waiting = WaitingGrants::default();
            let mut from = 0;
            while let Some((offset, patient)) = self.quotas.first_free(from, at.now, &mut waiting) {
                from = offset + 1;
                let pending = &self.quotas.pending[&offset];
                let (whose, project) = (pending.whose(), pending.project.clone());
                let needed = self.run_pending(at, offset, patient, effects)?;
                for survey_id in &needed {
                    waiting.wants(SurveyRef::new(&project, survey_id));
                }
                if !needed.is_empty() {
                    waiting.blocked.insert(whose);
                }
            }
            waiting.wanted.sort();
            for (key, count) in &waiting.wanted {
                let mail = self.quotas.allocator.ask(key, *count, at.now);
                post(mail, effects);
            }
            // The coordinator of this very partition answers at once.
            let asks =
                |(key, _): &(SurveyKey, u64)| self.quotas.allocator.status(key, at.now) == QuotaStatus::NeedsGrant;
            if waiting.wanted.iter().all(asks) {
                break;
            }
        }
        // What somebody waits with is kept until the rest has come.
        let kept = self.quotas.waited_for();
        let mail = self.quotas.allocator.settle_but(&kept, at.now);
        post(mail, effects);
        Ok(())
    }

    /// Applies one of them; gives the surveys of which it still needs a grant.
    fn run_pending(
        &mut self,
        at: RecordContext<'_>,
        offset: u64,
        patient: bool,
        effects: &mut Effects,
    ) -> Result<Vec<String>, Failure> {
        let pending = self.quotas.pending[&offset].clone();
        let own = RecordContext { origin: Origin { offset, ..at.origin }, ..at };
        // A panic is this record's alone, and not of the one that released it.
        let judged = catch_unwind(AssertUnwindSafe(|| self.decide_again(own, &pending, patient)));
        let judged = match judged {
            Ok(Err(failure @ (Failure::Store(_) | Failure::Refused(_)))) => return Err(failure),
            Ok(Ok(judged)) => judged,
            Ok(Err(Failure::Reject(_))) | Err(_) => {
                let refused = "it could not be applied when its turn came";
                effects.outputs.push(outputs::unheard_refusal(own, "panic", refused, &pending.value));
                let reply = EngineReply::Refused { code: "invalid".into(), pointer: None, detail: refused.into() };
                let heard = !pending.reply_to.is_empty();
                Applied::Done(Effects { reply: heard.then_some(reply), ..Effects::default() })
            }
        };
        self.quotas.dirty.insert(offset);
        match judged {
            Applied::Needs(surveys) => {
                if let Some(pending) = self.quotas.pending.get_mut(&offset) {
                    pending.waits_for.extend(surveys.iter().cloned());
                }
                Ok(surveys)
            }
            Applied::Done(late) => {
                self.quotas.pending.remove(&offset);
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
            record::Decoded::User(record) => self.decide(own, &record, patient),
            record::Decoded::Internal(internal) => match *internal {
                Internal::Query(query) => self.decide(own, &asked(query), patient),
                _ => Ok(Applied::Done(Effects::default())),
            },
        }
    }

    /// Decides what a user has waiting, now: an erasure leaves nothing behind.
    pub(super) fn decide_pending_of(
        &mut self,
        at: RecordContext<'_>,
        user: UserRef<'_>,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let theirs = |pending: &PendingRequest| UserRef::new(&pending.project, &pending.user_id) == user;
        let offsets: Vec<u64> =
            self.quotas.pending.iter().filter(|(_, pending)| theirs(pending)).map(|(offset, _)| *offset).collect();
        offsets.into_iter().try_for_each(|offset| self.run_pending(at, offset, false, effects).map(drop))
    }
}
