//! Applies a user's record: the domain's rules to a copy of the user, together with the
//! event ids, quotas and caps that the engine keeps beside it. It takes effect as a whole
//! or not at all.

use std::cell::OnceCell;

use super::changes::forward_quota_messages;
use super::closing;
use super::decided::DECISION_KEPT;
use super::outputs;
use super::passing;
use super::state::{Engine, OutputMode};
use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::{self, ApplyContext, CapAnswers, NO_QUOTAS, QuotaStatuses, Reply};
use askwhen_domain::eligibility::decision::{Decision, DecisionReason};
use askwhen_domain::id::{self, Kind as IdKind};
use askwhen_domain::json::Json;
use askwhen_domain::quota::cap::{CapAnswer, CapAsk};
use askwhen_domain::quota::{QuotaChange, QuotaStatus};
use askwhen_domain::record::{Body, Record};
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::time::Millis;
use askwhen_domain::user::User;
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};

/// The result of applying a user's record.
pub enum Applied {
    Done(Effects),
    /// Something has to be granted first; nothing has changed.
    Needs(NeededGrants),
}

/// What has to be granted before a record can be decided.
#[derive(Debug, Default)]
pub struct NeededGrants {
    /// Ids of surveys whose quota has to grant something.
    pub surveys: Vec<String>,
    /// Places of counters.
    pub caps: Vec<CapAsk>,
    /// Those of the counters that are known to be full.
    pub known: CapAnswers,
}

impl Engine {
    pub(super) fn decide(
        &mut self,
        at: RecordContext<'_>,
        record: &Record<'_>,
        may_wait: bool,
        answered: &CapAnswers,
    ) -> Result<Applied, Failure> {
        let mut effects = Effects::default();
        let project = self.table.definitions.project(&record.project).unwrap_or(&self.empty).clone();
        let ctx = ApplyContext {
            origin: at.origin,
            now: at.now,
            project_id: &record.project,
            user_id: &record.user_id,
            project: &project,
            quota_statuses: &NO_QUOTAS,
            caps: answered,
            may_wait,
        };
        let hash = record.event_id.as_ref().map(|id| id::event_hash(&record.project, &record.user_id, id));
        if !apply::touches_user(&project, record) {
            return self.untouched(ctx, record, hash, effects).map(Applied::Done);
        }
        let before = self.users.get(&record.project, &record.user_id)?;
        if let Some(owner) = before.alias_of().filter(|_| !matches!(record.body, Body::Erase)) {
            return self.forward_to_user(at, ctx, record, hash, owner).map(Applied::Done);
        }
        let quota_statuses = self.quota_statuses(ctx, record, &before);
        let ctx = ApplyContext { quota_statuses: &quota_statuses, ..ctx };
        // Of an erased user there are only event ids in the store's table and, if the
        // settings say so, the time of the last display.
        let erased_at = match before.is_erased() {
            true => self.remembered.erased_at(&record.project, &record.user_id, at.now)?,
            false => None,
        };
        let is_trigger = matches!(record.body, Body::Trigger { .. });
        let seen = match hash {
            // This name noted the id when it passed the event on.
            Some(_) if !is_trigger && passing::has_come_back(at, &record.user_id) => false,
            // The name may have been used anew since it was an alias, and erased.
            Some(hash) if before.overflowed || erased_at.is_some() => {
                let kept = project.settings.max_expires_after;
                self.remembered.seen_at(hash, at.now, kept)?.is_some() || (is_trigger && self.is_gone(ctx, hash)?)
            }
            _ => false,
        };
        let apply::Applied { mut user, mut out } = apply::apply(ctx, &before, record, seen);
        if out.needs_grants() {
            let known = self.known_refusals(&out.needs_caps, answered, at.now);
            if known.len() == answered.len() {
                let known = CapAnswers::new();
                return Ok(Applied::Needs(NeededGrants { surveys: out.needs, caps: out.needs_caps, known }));
            }
            if !may_open_later(&out.needs_caps, &known, &project, at.now) {
                return self.decide(at, record, may_wait, &known);
            }
            let known = known.into_iter().filter(|(_, answer)| matches!(answer, CapAnswer::Refused(_))).collect();
            return Ok(Applied::Needs(NeededGrants { surveys: Vec::new(), caps: out.needs_caps, known }));
        }
        if matches!(record.body, Body::Erase) {
            // The user has had no state since the last erasure, so this is the same one
            // again: endpoints get no second message.
            if erased_at.is_some() {
                out.items.retain(|item| matches!(item, apply::Output::CancelDeliveries));
            }
            self.remembered.erase(&record.project, &record.user_id, at.now);
        }
        // From here on its event ids are looked up in the table, too.
        user.overflowed |= erased_at.is_some() && !user.is_empty();
        out.spilled.iter().for_each(|(hash, seen_at)| self.remembered.keep(*hash, *seen_at));
        self.apply_quota_changes(ctx, &out.quotas, &mut effects);
        self.change_caps(&out.caps, at.now, &mut effects)?;
        if matches!(out.reply, Some(Reply::Repeated))
            && let Some(hash) = hash
            && let Some(alias) = self.decided_under(ctx, record, hash, &before)?
        {
            effects.forwards.push(passing::sent_under(ctx, record, &alias, at.partitions, None));
            return Ok(Applied::Done(effects));
        }
        self.emit(ctx, record, hash, out, &mut effects)?;
        if user != *before {
            self.users.put(&record.project, &record.user_id, user);
        }
        Ok(Applied::Done(effects))
    }

    /// Applies changes of quotas by survey id, and returns grants that are not used any more.
    fn apply_quota_changes(&mut self, ctx: ApplyContext<'_>, changes: &[(String, QuotaChange)], effects: &mut Effects) {
        for (survey_id, change) in changes {
            let key = SurveyKey::new(ctx.project_id.to_owned(), survey_id.clone());
            self.quotas.allocator.change(&key, *change, ctx.now);
            self.quotas.moved = true;
            if ctx.project.is_limited(&key.survey_id)
                && matches!(change, QuotaChange::Complete { .. })
                && closing::wants(ctx.project, &key.survey_id)
            {
                forward_quota_messages(self.quotas.allocator.report_used(&key, ctx.now), effects);
            }
        }
        if !changes.is_empty() {
            forward_quota_messages(self.quotas.allocator.return_unused(ctx.now), effects);
        }
    }

    /// The longest `expires_after` that any project allows, in milliseconds.
    pub(super) fn longest_expiry(&self) -> Millis {
        let projects = self.table.definitions.projects.values();
        projects.map(|project| project.settings.max_expires_after).max().unwrap_or(0)
    }

    fn quota_statuses(&self, ctx: ApplyContext<'_>, record: &Record<'_>, user: &User) -> QuotaStatuses {
        let with_status = |survey_id: &str| {
            let key = SurveyKey::new(ctx.project_id, survey_id);
            let status = self.quotas.allocator.status(&key, ctx.now);
            let unasked = askwhen_process::fault::mutant("grant_without_asking");
            (key.survey_id, if unasked { QuotaStatus::Available } else { status })
        };
        apply::quota_surveys(ctx.project, record, user).map(with_status).collect()
    }

    /// `answered`, with the answers of counters that are known to be full.
    fn known_refusals(&self, needs: &[CapAsk], answered: &CapAnswers, now: Millis) -> CapAnswers {
        let mut known = answered.clone();
        for ask in needs.iter().filter(|ask| !answered.contains_key(&ask.key)) {
            let refusal = self.quotas.caps.refusal(*ask, now);
            known.extend(refusal.map(|refusal| (ask.key, CapAnswer::Refused(refusal))));
        }
        known
    }

    /// Handles an event that no survey listens to, or a trigger on which none is shown.
    fn untouched(
        &mut self,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: Option<u128>,
        mut effects: Effects,
    ) -> Result<Effects, Failure> {
        if !matches!(record.body, Body::Trigger { .. }) {
            return Ok(effects);
        }
        if let Some(hash) = hash
            && let Some(bodies) = self.stored_answer(ctx, record, hash)?
        {
            effects.reply = Some(bodies);
            return Ok(effects);
        }
        let out = apply::apply(ctx, &Default::default(), record, false).out;
        self.emit(ctx, record, hash, out, &mut effects)?;
        Ok(effects)
    }

    fn emit(
        &mut self,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: Option<u128>,
        out: apply::Outputs,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        if !matches!(self.outputs, OutputMode::Encoded) {
            if let (Some(hash), Some(Reply::Decided(_))) = (hash, &out.reply) {
                self.recent.keep(hash, ctx.now, Json::null(), None);
            }
            if let OutputMode::Captured { project, items } = &mut self.outputs
                && ctx.project_id == project
            {
                items.extend(out.items);
            }
            return Ok(());
        }
        let decided = OnceCell::new();
        for item in &out.items {
            effects.outputs.push(outputs::encode(ctx, item, &decided));
        }
        effects.reply = match out.reply {
            Some(Reply::Decided(decision)) => {
                if let Some(metrics) = self.metrics() {
                    metrics.engine_decisions.with_label_values(&[decision.reason.name()]).inc();
                }
                let server = decided.into_inner().unwrap_or_else(|| decision.server_body());
                let exposed = decision.exposed();
                let bodies = outputs::decision_bodies(server.clone(), exposed.as_ref());
                if let Some(hash) = hash {
                    self.recent.keep(hash, ctx.now, server, exposed);
                }
                Some(bodies)
            }
            Some(Reply::Repeated) => Some(self.repeated(ctx, record, hash)?),
            Some(reply) => Some(answer(reply)),
            None => None,
        };
        Ok(())
    }

    /// The alias under which a trigger that comes again was decided before it became one: what
    /// was answered is known there. Older answers than an offer's are known nowhere.
    fn decided_under(
        &self,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: u128,
        user: &User,
    ) -> Result<Option<String>, askwhen_store::Error> {
        let (Body::Trigger { .. }, Some(event_id)) = (&record.body, &record.event_id) else { return Ok(None) };
        if user.has_seen(hash) || self.stored_answer(ctx, record, hash)?.is_some() {
            return Ok(None);
        }
        let since = ctx.now.saturating_sub(ctx.project.settings.offer_ttl.min(DECISION_KEPT));
        let decided = user.aliases().iter().find(|alias| {
            let hash = id::event_hash(&record.project, &alias.name, event_id);
            user.recent.iter().any(|(seen, seen_at)| seen == hash && seen_at > since)
        });
        Ok(decided.map(|alias| alias.name.clone()))
    }

    /// The answer to a record whose event id was seen before: the stored body of a
    /// trigger's decision, or the reason `stale` when it is not stored any more.
    pub(super) fn repeated(
        &self,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: Option<u128>,
    ) -> Result<EngineReply, Failure> {
        let Body::Trigger { trigger, .. } = &record.body else {
            return Ok(EngineReply::Accepted { duplicate: true, response_id: None });
        };
        if let Some(hash) = hash
            && let Some(bodies) = self.stored_answer(ctx, record, hash)?
        {
            return Ok(bodies);
        }
        let stale = Decision {
            decision_id: ctx.origin.id(IdKind::Decision, &[]),
            event_id: record.event_id.as_deref().unwrap_or_default().to_owned(),
            user_id: record.user_id.to_string(),
            trigger: trigger.to_string(),
            decided_at: ctx.now,
            reason: DecisionReason::Stale,
            survey: None,
            evaluations: Vec::new(),
        };
        Ok(bodies(&stale))
    }

    /// The stored answer to a trigger, unless its user was erased after it.
    fn stored_answer(
        &self,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: u128,
    ) -> Result<Option<EngineReply>, askwhen_store::Error> {
        let ttl = ctx.project.settings.offer_ttl;
        let Some((decided_at, bodies)) = self.recent.find(hash, ctx.now, ttl)? else { return Ok(None) };
        let erased = self
            .remembered
            .erased_at(&record.project, &record.user_id, ctx.now)?
            .is_some_and(|erased_at| decided_at <= erased_at);
        Ok((!erased).then_some(bodies))
    }
}

/// Whether a counter that has not answered may be full for longer than those that are known
/// to be full: then it has to say so.
fn may_open_later(needs: &[CapAsk], known: &CapAnswers, project: &Project, now: Millis) -> bool {
    let known_until = |ask: &CapAsk| match known.get(&ask.key) {
        Some(CapAnswer::Refused(refusal)) => Some(refusal.until.unwrap_or(Millis::MAX)),
        Some(CapAnswer::Granted) | None => None,
    };
    let Some(until) = needs.iter().filter_map(known_until).max() else { return false };
    needs.iter().filter(|ask| !known.contains_key(&ask.key)).any(|ask| {
        let counts = ask.rule.within.unwrap_or(Millis::MAX);
        until < now.saturating_add(counts.max(project.settings.offer_known))
    })
}

fn bodies(decision: &Decision) -> EngineReply {
    outputs::decision_bodies(decision.server_body(), decision.exposed().as_ref())
}

fn answer(reply: Reply) -> EngineReply {
    match reply {
        Reply::Accepted { duplicate, response_id } => EngineReply::Accepted { duplicate, response_id },
        Reply::Offer(view) => outputs::offer_bodies(*view),
        Reply::Link(view) => outputs::link_body(&view),
        Reply::User(view) => {
            let body = Json::of(&view);
            EngineReply::Body { server: body.clone(), client: body }
        }
        Reply::Refused(refusal) => {
            let pointer = refusal.pointer().map(str::to_owned);
            EngineReply::Refused { code: refusal.code().into(), pointer, detail: refusal.detail() }
        }
        Reply::Decided(decision) => bodies(&decision),
        Reply::Repeated => EngineReply::Accepted { duplicate: true, response_id: None },
    }
}
