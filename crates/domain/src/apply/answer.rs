//! Answers to an offer or to a link survey: checked against the pinned
//! questions, merged by question, told to the endpoints.

use serde_json::Value;

use super::apply_context::ApplyContext;
use super::output::{Outputs, Refusal, Reply};
use super::{display, fanout, link, offers};
use crate::completed::CompletedAnswers;
use crate::endpoint::EventType;
use crate::json::Json;
use crate::message::WebhookEvent;
use crate::quota::{Change, QuotaStatus};
use crate::record::{Answers, GivenAnswer, Record, Target};
use crate::survey::{Question, QuestionType, Survey};
use crate::time::{ClientTimes, Millis};
use crate::user::{Answer, MAX_RESPONSE_BYTES, Response, User};

/// Longest text answer, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 10;

pub(super) fn answers(ctx: ApplyContext<'_>, user: &mut User, record: &Record<'_>, said: &Answers, out: &mut Outputs) {
    let found = match &said.target {
        Target::Offer(offer_id) => offers::find(ctx, user, offer_id, out),
        Target::Link { survey_id, response_id } => link::open(ctx, user, said, survey_id, response_id.as_deref(), out),
    };
    let Some(found) = found else { return };
    let (index, survey) = (found.index, &found.survey);
    let given = match fitted_all(survey, &said.answers) {
        Ok(given) => given,
        Err(refusal) => {
            link::close_unused(user, index);
            return out.refuse(refusal);
        }
    };
    let at = record.times.event_time(ctx.now).max(user.offers[index].offered_at);
    let before = user.offers[index].response.clone();
    if let Some(completed) = before.as_ref().filter(|response| response.completed) {
        let response_id = Some(user.offers[index].offer_id.clone());
        let same =
            |one: &GivenAnswer| completed.answers.get(&one.question_id).is_some_and(|kept| kept.value == one.value);
        if given.iter().all(same) {
            out.reply = Some(Reply::Accepted { duplicate: true, response_id });
        } else {
            out.refuse(Refusal::ResponseCompleted);
        }
        return;
    }
    let mut response = before.clone().unwrap_or(Response {
        created_at: at,
        updated_at: at,
        completed: false,
        answers: Default::default(),
    });
    let changed = merge(&mut response, &given, record.times, ctx.now);
    if bytes(&response) > MAX_RESPONSE_BYTES {
        link::close_unused(user, index);
        return out.refuse(Refusal::UnfitAnswer {
            pointer: "/answers".into(),
            detail: "a response may have at most 128 KiB".into(),
        });
    }
    let completes = said.completed && !response.completed;
    let response_id = user.offers[index].offer_id.clone();
    if changed.is_empty() && !completes {
        if before.is_some() {
            user.offer_mut(index).response = Some(response);
        }
        link::close_unused(user, index);
        out.reply = Some(Reply::Accepted { duplicate: before.is_some(), response_id: Some(response_id) });
        return;
    }
    let offer = &user.offers[index];
    if completes && !offer.test {
        let held = offer.holds(ctx.now);
        // Dismissed before, or a link's first answers.
        match if held.is_some() { QuotaStatus::Available } else { ctx.quota_status(&survey.survey_id) } {
            QuotaStatus::Available => {
                out.quotas.push((survey.survey_id.clone(), Change::Complete { held }));
                user.offer_mut(index).held_until = None;
            }
            QuotaStatus::NeedsGrant => {
                out.needs.push(survey.survey_id.clone());
                return;
            }
            QuotaStatus::Exhausted => {
                link::close_unused(user, index);
                return out.refuse(Refusal::OfferLapsed);
            }
        }
    }
    response.completed |= completes;
    response.updated_at = response.updated_at.max(at);
    user.offer_mut(index).response = Some(response);
    if user.offers[index].displayed_at.is_none() {
        display::mark_displayed(ctx, user, index, at, out);
    }
    if !user.offers[index].test {
        let state = user.survey_mut(&survey.survey_id);
        state.answered_at = state.answered_at.max(Some(at));
        if completes {
            state.completed_at = state.completed_at.max(Some(at));
        }
        if let Some(response) = user.offers[index].response.as_ref().filter(|_| completes) {
            let answers = response.answers.iter().map(|(id, answer)| (id, &answer.value));
            let kept = CompletedAnswers::of(answers, at);
            user.keep_answers(&survey.survey_id, kept);
        }
    }
    if !changed.is_empty() {
        let event = WebhookEvent { kind: EventType::Answered, at };
        fanout::response(ctx, user, &found, event, Some(&changed), out);
    }
    if completes {
        fanout::response(ctx, user, &found, WebhookEvent { kind: EventType::Completed, at }, None, out);
    }
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: Some(response_id) });
}

/// Merges by question, the latest `answered_at` winning; gives the ids of the
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
            // Said again: nothing changes, but what is older than this is late.
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

/// The answers as they are kept.
fn fitted_all(survey: &Survey, given: &[GivenAnswer]) -> Result<Vec<GivenAnswer>, Refusal> {
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

/// Why a value does not fit its question: what would fit.
#[derive(Debug, thiserror::Error)]
enum UnfitValue {
    #[error("must be an integer from {low} to {high}")]
    NoInteger { low: i64, high: i64 },
    #[error("must have at most 16 KiB")]
    TextTooLong,
    #[error("must be a string")]
    NoText,
    #[error("must be the value of one of the question's options")]
    NoOption,
    #[error("must be a list of distinct values of the question's options")]
    NoOptions,
    #[error("an info page takes no answer")]
    NotAsked,
}

/// A value that fits its question, as it is kept: `4.0` is 4.
fn fitted(question: &Question, given: &Json) -> Result<Json, UnfitValue> {
    let value = given.value();
    let integer_in = |low: i64, high: i64| match integer(&value) {
        Some(n) if (low..=high).contains(&n) => Ok(Json::of(&n)),
        _ => Err(UnfitValue::NoInteger { low, high }),
    };
    let is_option = |v: &Value| v.as_str().is_some_and(|s| question.options.iter().any(|o| o.value == s));
    match question.kind {
        QuestionType::Text => match value.as_str() {
            Some(text) if text.len() <= MAX_TEXT_BYTES => Ok(given.clone()),
            Some(_) => Err(UnfitValue::TextTooLong),
            None => Err(UnfitValue::NoText),
        },
        QuestionType::Nps => integer_in(0, 10),
        QuestionType::RatingNumber => integer_in(1, i64::from(question.scale.unwrap_or(5))),
        QuestionType::RatingStar | QuestionType::RatingEmoji => integer_in(1, 5),
        QuestionType::SingleChoice if is_option(&value) => Ok(given.clone()),
        QuestionType::SingleChoice => Err(UnfitValue::NoOption),
        QuestionType::MultiChoice => {
            let list = value.as_array().filter(|list| list.iter().all(is_option));
            let distinct = |list: &Vec<Value>| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
            match list {
                Some(list) if distinct(list) => Ok(given.clone()),
                _ => Err(UnfitValue::NoOptions),
            }
        }
        QuestionType::Info => Err(UnfitValue::NotAsked),
    }
}

/// A whole number in any spelling that JSON has for it: languages without
/// integers write `4.0`.
fn integer(value: &Value) -> Option<i64> {
    let whole = || value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 1e9).map(|n| n as i64);
    value.as_i64().or_else(whole)
}
