//! Turns events into messages: one for each endpoint that wants it, with everything that
//! its retries will need.

use serde_json::Value;

use super::apply_context::ApplyContext;
use super::offers::FoundOffer;
use super::output::{Output, Outputs};
use crate::id;
use crate::json::Json;
use crate::refs::UserRef;
use crate::survey::question::OTHER;
use crate::survey::{Question, QuestionType, Survey};
use crate::user::{Offer, User};
use crate::webhook::endpoint::{Endpoint, EventType};
use crate::webhook::message::{self, ActivationFact, AnswerFact, Data, Delivery, Message, WebhookEvent};

/// The answers that a message contains, by question id.
#[derive(Clone, Copy)]
pub(super) struct ReportedAnswers<'a> {
    pub questions: &'a [String],
    /// Ids of answered questions that messages leave out from now on.
    pub left_behind: &'a [String],
}

/// A display or a dismissal.
pub(super) fn offer_event(
    ctx: ApplyContext<'_>,
    user: &User,
    found: &FoundOffer,
    event: WebhookEvent,
    out: &mut Outputs,
) {
    let (offer, survey) = (&user.offers[found.index], &found.survey);
    if wanted(ctx, survey, event.kind, offer.test).next().is_none() {
        return;
    }
    let data = collect(ctx, user, offer, survey, &[]);
    for endpoint in wanted(ctx, survey, event.kind, data.test) {
        deliver(message::deliveries(&ctx.origin, endpoint, event, &data, ctx.now), out);
    }
}

fn deliver(deliveries: Vec<Delivery>, out: &mut Outputs) {
    out.items.extend(deliveries.into_iter().map(|delivery| Output::Delivery(Box::new(delivery))));
}

/// The erasure of a user; the message names no survey.
pub(super) fn erased(ctx: ApplyContext<'_>, out: &mut Outputs) {
    let (kind, at) = (EventType::Erased, ctx.now);
    let endpoints = ctx.project.endpoints.values().map(|e| &*e.body);
    for endpoint in endpoints.filter(|e| e.wants(kind, None, false)) {
        let message = Message { kind, at, data: None };
        let user = UserRef::new(ctx.project_id, ctx.user_id);
        deliver(vec![message::delivery(&ctx.origin, endpoint, user, message, "", ctx.now)], out);
    }
}

/// Messages about answers that changed, or about a completion; `reported` says which answers
/// they contain.
pub(super) fn response(
    ctx: ApplyContext<'_>,
    user: &User,
    found: &FoundOffer,
    event: WebhookEvent,
    reported: ReportedAnswers<'_>,
    out: &mut Outputs,
) {
    let data = collect(ctx, user, &user.offers[found.index], &found.survey, reported.questions);
    let left_behind = reported.left_behind.to_vec();
    out.items.push(Output::Response { kind: event.kind, at: event.at, data: Box::new(data.clone()), left_behind });
    let answers = std::cell::OnceCell::new();
    for endpoint in wanted(ctx, &found.survey, event.kind, data.test) {
        // Conditions on a completed response look at all of its answers.
        if event.kind == EventType::Completed {
            let answers = answers.get_or_init(|| data.answers_by_question());
            if !endpoint.takes(&data.survey_id, answers, ctx.now) {
                continue;
            }
        }
        deliver(message::deliveries(&ctx.origin, endpoint, event, &data, ctx.now), out);
    }
}

fn wanted<'a>(
    ctx: ApplyContext<'a>,
    survey: &'a Survey,
    kind: EventType,
    test: bool,
) -> impl Iterator<Item = &'a Endpoint> {
    let endpoints = ctx.project.endpoints.values().map(|e| &*e.body);
    endpoints.filter(move |e| e.wants(kind, Some(&survey.survey_id), test))
}

fn collect(ctx: ApplyContext<'_>, user: &User, offer: &Offer, survey: &Survey, only: &[String]) -> Data {
    let response = offer.response.as_ref();
    let mut answers = Vec::new();
    for (i, question) in survey.questions.iter().enumerate() {
        let chosen = only.contains(&question.question_id);
        let answer = response.and_then(|r| r.answers.get(&question.question_id));
        if let Some(answer) = answer.filter(|_| chosen && question.kind != QuestionType::Info) {
            answers.push(AnswerFact {
                question_id: question.question_id.clone(),
                order: i as u32 + 1,
                kind: question.kind,
                text: question.text.clone(),
                value: answer.value.clone(),
                labels: labels(question, &answer.value),
                answered_at: answer.answered_at,
                duration_ms: answer.duration_ms,
            });
        }
    }
    let data = Data {
        response_id: offer.offer_id.clone(),
        survey_id: offer.survey_id.clone(),
        survey_name: survey.name.clone(),
        survey_version: offer.version,
        project: ctx.project_id.to_owned(),
        user_id: ctx.user_id.to_owned(),
        user_attributes: Json::of(&user.attributes),
        link: offer.link,
        platform: offer.context.platform.clone(),
        locale: survey.shown_locale(offer.context.locale.as_deref()),
        trigger: offer.trigger.clone(),
        trigger_properties: offer.trigger_properties.clone(),
        activation: offer.activation.as_ref().map(|a| ActivationFact {
            event_id: a.event_id.clone(),
            event_name: a.event_name.to_string(),
            occurred_at: a.at,
            properties: a.properties.clone().unwrap_or_else(Json::empty_object),
        }),
        answers,
        completed: response.is_some_and(|r| r.completed),
        test: offer.test,
        created_at: response.map_or(offer.offered_at, |r| r.created_at),
        updated_at: response.map_or(offer.offered_at, |r| r.updated_at),
    };
    if !survey.anonymous {
        return data;
    }
    data.anonymous(id::anonymous_response(ctx.origin.incarnation, ctx.project_id, &offer.offer_id))
}

/// The labels of the options that were chosen.
fn labels(question: &Question, value: &Json) -> Vec<String> {
    let text_of = |v: &Value| {
        let chosen = v.as_str().or_else(|| v.get(OTHER)?.as_str()).unwrap_or_default();
        if v.is_object() {
            return chosen.to_owned();
        }
        let option = question.options.iter().find(|o| o.value == chosen);
        option.map_or_else(|| chosen.to_owned(), |o| o.text.clone())
    };
    match (question.kind, value.value()) {
        (QuestionType::SingleChoice, one) => vec![text_of(&one)],
        (QuestionType::MultiChoice, Value::Array(list)) => list.iter().map(text_of).collect(),
        _ => Vec::new(),
    }
}
