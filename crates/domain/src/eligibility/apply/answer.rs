//! Answers to an offer or a link survey: they are checked against the questions of the
//! pinned version, merged by question and sent to endpoints.

use super::apply_context::ApplyContext;
use super::fanout::ReportedAnswers;
use super::fit::fitted;
use super::offers::FoundOffer;
use super::output::{Outputs, Refusal, Reply};
use super::{caps, display, fanout, history, link, offers, shares};
use crate::quota::{QuotaChange, QuotaStatus};
use crate::record::{Answers, GivenAnswer, Record, Target};
use crate::survey::Survey;
use crate::survey::path;
use crate::time::{ClientTimes, Millis};
use crate::user::completed::CompletedAnswers;
use crate::user::{Answer, MAX_RESPONSE_BYTES, Response, User};
use crate::webhook::endpoint::EventType;
use crate::webhook::message::WebhookEvent;

pub(super) fn answers(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, given: &Answers, out: &mut Outputs) {
    let found = match &given.target {
        Target::Offer(offer_id) => offers::find(ctx, user, offer_id, out),
        Target::Link { survey_id, response_id, .. } => {
            link::open(ctx, user, given, survey_id, response_id.as_deref(), out)
        }
    };
    let Some(found) = found else { return };
    if let Err(refusal) = take(ctx, user, record, given, &found, out) {
        link::close_unused(user, found.index);
        out.refuse(refusal);
    }
}

/// A response before and after answers were merged into it.
struct Step {
    at: Millis,
    before: Option<Response>,
    /// Ids of the questions whose answers changed.
    changed: Vec<String>,
    completes: bool,
    path: OnPath,
}

fn take(
    ctx: ApplyContext<'_>,
    user: &mut User,
    record: &Record<'_>,
    given: &Answers,
    found: &FoundOffer,
    out: &mut Outputs,
) -> Result<(), Refusal> {
    let (index, survey) = (found.index, &found.survey);
    let answers = fit_all(survey, &given.answers)?;
    let single_use = match &given.target {
        Target::Link { single_use: Some(link), .. } => Some(link),
        _ => None,
    };
    // The response that used a single-use link up may be sent again.
    if single_use.is_some_and(|link| user.used_links.contains_key(&link.link_id)) && !user.offers[index].is_completed()
    {
        return Err(Refusal::LinkUsed);
    }
    let response_id = user.offers[index].offer_id.clone();
    let before = user.offers[index].response.clone();
    if let Some(completed) = before.as_ref().filter(|response| response.completed) {
        let same =
            |one: &GivenAnswer| completed.answers.get(&one.question_id).is_some_and(|kept| kept.value == one.value);
        if !answers.iter().all(same) {
            return Err(Refusal::ResponseCompleted);
        }
        out.reply = Some(Reply::Accepted { duplicate: true, response_id: Some(response_id) });
        return Ok(());
    }
    let at = record.times.event_time(ctx.now).max(user.offers[index].offered_at);
    let fresh = Response { created_at: at, updated_at: at, completed: false, answers: Default::default() };
    let mut response = before.clone().unwrap_or(fresh);
    let changed = merge(&mut response, &answers, record.times, ctx.now);
    if bytes(&response) > MAX_RESPONSE_BYTES {
        let detail = "a response may have at most 128 KiB".into();
        return Err(Refusal::UnfitAnswer { pointer: "/answers".into(), detail });
    }
    let completes = given.completed && !response.completed;
    let path = OnPath::of(survey, &response);
    if let Some(question_id) = path.missing.first().filter(|_| completes) {
        return Err(Refusal::MissingAnswer { question_id: question_id.clone() });
    }
    if changed.is_empty() && !completes {
        let duplicate = before.is_some();
        if duplicate {
            user.offer_mut(index).response = Some(response);
        }
        link::close_unused(user, index);
        out.reply = Some(Reply::Accepted { duplicate, response_id: Some(response_id) });
        return Ok(());
    }
    if completes && !user.offers[index].test && !has_grant(ctx, user, index, out) {
        return Ok(());
    }
    if let Some(link) = single_use.filter(|_| completes) {
        user.use_link(&link.link_id, link.expires_at, ctx.now);
    }
    let step = Step { at, before, changed, completes, path };
    keep(ctx, user, found, &step, response, out);
    report(ctx, user, found, &step, out);
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: Some(response_id) });
    Ok(())
}

/// Stores a response and updates what targeting rules and caps count.
fn keep(
    ctx: ApplyContext<'_>,
    user: &mut User,
    found: &FoundOffer,
    step: &Step,
    mut response: Response,
    out: &mut Outputs,
) {
    let (index, survey, at, completes) = (found.index, &found.survey, step.at, step.completes);
    let is_first = step.before.is_none();
    if is_first {
        let response_id = user.offers[index].offer_id.clone();
        caps::keep(user, &response_id, found.pins.clone());
    }
    response.completed |= completes;
    response.updated_at = response.updated_at.max(at);
    // The answers of an anonymous survey are not kept for rules: a rule that looks at them
    // would reveal who gave them.
    let kept = (completes && !survey.anonymous).then(|| {
        let on_path = response.answers.iter().filter(|(id, _)| step.path.answered.contains(id));
        CompletedAnswers::of(on_path.map(|(id, answer)| (id, &answer.value)), at)
    });
    user.offer_mut(index).response = Some(response);
    if user.offers[index].displayed_at.is_none() {
        display::mark_displayed(ctx, user, index, at, out);
    }
    if user.offers[index].test {
        return;
    }
    if completes {
        caps::completed(ctx, user, index, at, out);
    }
    // Only a response that was accepted puts its user into an arm.
    if is_first && user.offers[index].link {
        shares::enter_arm(user, survey);
    }
    history::answered(user, &survey.survey_id, at, is_first);
    if completes {
        history::completed(user, &survey.survey_id, at);
    }
    history::answered_in_wave(user, &survey.survey_id, at, survey.frequency.per, completes);
    if let Some(kept) = kept {
        user.keep_answers(&survey.survey_id, kept);
    }
}

/// Emits messages about answers that are new on the path, and about the completion.
fn report(ctx: ApplyContext<'_>, user: &mut User, found: &FoundOffer, step: &Step, out: &mut Outputs) {
    let Step { at, path, .. } = step;
    // An answer that the path reaches again counts as new: the message before left it out.
    let was_reported = step.before.as_ref().map_or_else(Vec::new, |before| OnPath::of(&found.survey, before).answered);
    let is_news = |id: &&String| step.changed.contains(id) || !was_reported.contains(id);
    let news: Vec<String> = path.answered.iter().filter(is_news).cloned().collect();
    if !news.is_empty() {
        let event = WebhookEvent { kind: EventType::Answered, at: *at };
        fanout::response(ctx, user, found, event, path.reported(&news), out);
    }
    if step.completes {
        let event = WebhookEvent { kind: EventType::Completed, at: *at };
        fanout::response(ctx, user, found, event, path.reported(&path.answered), out);
    }
}

/// Turns the offer's hold, or a grant that is free, into a completion. Returns `false` when
/// the completion is refused or needs a grant first; both are noted in `out`.
fn has_grant(ctx: ApplyContext<'_>, user: &mut User, index: usize, out: &mut Outputs) -> bool {
    if caps::refuses_completion(ctx, user, index, out) {
        link::close_unused(user, index);
        out.refuse(Refusal::OfferLapsed);
        return false;
    }
    let offer = &user.offers[index];
    let (survey_id, held) = (offer.survey_id.clone(), offer.holds(ctx.now));
    // There is no hold when the offer was dismissed before, or when a link is answered for
    // the first time.
    match if held.is_some() { QuotaStatus::Available } else { ctx.quota_status(&survey_id) } {
        QuotaStatus::Available => {
            out.quotas.push((survey_id, QuotaChange::Complete { held }));
            user.offer_mut(index).held_until = None;
            true
        }
        QuotaStatus::NeedsGrant => {
            out.needs.push(survey_id);
            false
        }
        QuotaStatus::Exhausted => {
            link::close_unused(user, index);
            out.refuse(Refusal::OfferLapsed);
            false
        }
    }
}

/// How the answers of a response relate to the survey's path, by question id.
struct OnPath {
    answered: Vec<String>,
    left_behind: Vec<String>,
    /// Required questions on the path that lack an answer.
    missing: Vec<String>,
}

impl OnPath {
    fn of(survey: &Survey, response: &Response) -> OnPath {
        let path = path::follow(&survey.questions, &response.values());
        let (answered, left_behind) = response.answers.keys().cloned().partition(|id| path.has(&survey.questions, id));
        let missing = path.missing.iter().map(|index| survey.questions[*index].question_id.clone()).collect();
        OnPath { answered, left_behind, missing }
    }

    fn reported<'a>(&'a self, questions: &'a [String]) -> ReportedAnswers<'a> {
        ReportedAnswers { questions, left_behind: &self.left_behind }
    }
}

/// Merges answers by question; the latest `answered_at` wins. Returns the ids of the
/// questions whose answers changed.
fn merge(response: &mut Response, given: &[GivenAnswer], times: ClientTimes, log_time: Millis) -> Vec<String> {
    let mut changed: Vec<String> = Vec::new();
    for one in given {
        let answered_at = match one.answered_at {
            Some(at) => ClientTimes { occurred_at: Some(at), ..times }.event_time(log_time),
            None => times.event_time(log_time),
        };
        let new = Answer { value: one.value.clone(), answered_at, duration_ms: one.duration_ms };
        match response.answers.get_mut(&one.question_id) {
            // The same value again changes no answer, but moves the time against which late
            // answers are compared.
            Some(old) if old.value == new.value => old.answered_at = old.answered_at.max(new.answered_at),
            Some(old) if old.answered_at > new.answered_at => {}
            Some(old) => {
                *old = new;
                changed.push(one.question_id.clone());
            }
            None => {
                response.answers.insert(one.question_id.clone(), new);
                changed.push(one.question_id.clone());
            }
        }
    }
    changed.sort();
    changed.dedup();
    changed
}

fn bytes(response: &Response) -> usize {
    response.answers.iter().map(|(id, a)| id.len() + a.value.len_bytes() + 32).sum()
}

/// The answers in the form in which they are stored.
fn fit_all(survey: &Survey, given: &[GivenAnswer]) -> Result<Vec<GivenAnswer>, Refusal> {
    let fit = |(i, one): (usize, &GivenAnswer)| {
        let refuse =
            |field: &str, detail: String| Refusal::UnfitAnswer { pointer: format!("/answers/{i}/{field}"), detail };
        let Some((_, question)) = survey.question(&one.question_id) else {
            return Err(refuse("question_id", "the survey has no such question".into()));
        };
        let value = fitted(question, &one.value).map_err(|unfit| refuse("value", unfit.to_string()))?;
        Ok(GivenAnswer { value, ..one.clone() })
    };
    given.iter().enumerate().map(fit).collect()
}
