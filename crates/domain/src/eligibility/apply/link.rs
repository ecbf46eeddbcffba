//! Link surveys: they are answered without an offer, if their gates let the user in.

use std::cell::OnceCell;
use std::sync::Arc;

use super::apply_context::ApplyContext;
use super::caps::{self, OfferPlaces};
use super::gates;
use super::offers::FoundOffer;
use super::output::{LinkView, Outputs, Refusal, Reply};
use super::shares::{self, Draw};
use crate::definitions::Entry;
use crate::eligibility::decision::{Gate, GateFailure};
use crate::id::Kind;
use crate::json::Json;
use crate::record::{Answers, Context, Target};
use crate::survey::Status;
use crate::user::{Offer, OfferContext, User};

/// A link that a user opens.
pub(super) struct OpenedLink<'a> {
    pub survey_id: &'a str,
    pub context: &'a Context,
    pub link_id: Option<&'a str>,
}

pub(super) fn show(ctx: ApplyContext<'_>, user: &User, opened: OpenedLink<'_>, out: &mut Outputs) {
    let OpenedLink { survey_id, context, link_id } = opened;
    if link_id.is_some_and(|id| user.used_links.contains_key(id)) {
        return out.refuse(Refusal::LinkUsed);
    }
    let Some(entry) = link_survey(ctx, survey_id) else { return out.refuse(Refusal::UnknownSurvey) };
    match check_gates(ctx, user, entry, context) {
        Err(gate) => out.refuse(Refusal::Closed(gate)),
        Ok(OpenSurvey { needs_grant, places }) if needs_grant || places.is_unanswered => {
            need(survey_id, needs_grant, &places, out)
        }
        Ok(_) => {
            let view = LinkView {
                survey: entry.current.clone(),
                version: entry.version,
                locale: context.locale.clone(),
                attributes: user.attributes.clone(),
            };
            out.reply = Some(Reply::Link(Box::new(view)));
        }
    }
}

/// The response that the request continues, or a new one if the gates let the user in.
pub(super) fn open(
    ctx: ApplyContext<'_>,
    user: &mut User,
    answers: &Answers,
    survey_id: &str,
    response_id: Option<&str>,
    out: &mut Outputs,
) -> Option<FoundOffer> {
    let Some(entry) = link_survey(ctx, survey_id) else {
        out.refuse(Refusal::UnknownSurvey);
        return None;
    };
    if let Some(id) = response_id
        && let Some(index) = user.offers.iter().position(|o| o.link && o.offer_id == id && o.survey_id == survey_id)
    {
        let survey = entry.version(user.offers[index].version).unwrap_or(&entry.current).clone();
        return Some(FoundOffer { index, survey, pins: Vec::new() });
    }
    if let Target::Link { single_use: Some(link), .. } = &answers.target
        && user.used_links.contains_key(&link.link_id)
    {
        out.refuse(Refusal::LinkUsed);
        return None;
    }
    let pins = match check_gates(ctx, user, entry, &answers.context) {
        Err(gate) => {
            out.refuse(Refusal::Closed(gate));
            return None;
        }
        Ok(OpenSurvey { needs_grant, places }) if needs_grant || places.is_unanswered => {
            need(survey_id, needs_grant, &places, out);
            return None;
        }
        Ok(OpenSurvey { places, .. }) => places.pins,
    };
    let offer_id = match response_id {
        Some(id) => id.to_owned(),
        None => ctx.origin.id(Kind::Response, &[survey_id]),
    };
    let offer = Offer {
        offer_id,
        survey_id: survey_id.to_owned(),
        version: entry.version,
        offered_at: ctx.now,
        expires_at: ctx.now.saturating_add(ctx.project.settings.offer_known),
        trigger: String::new(),
        trigger_properties: Json::empty_object(),
        context: OfferContext::from(&answers.context),
        activation: None,
        displayed_at: None,
        dismissed_at: None,
        test: entry.current.status == Status::Test,
        link: true,
        held_until: None,
        response: None,
    };
    user.offers.push(Arc::new(offer));
    Some(FoundOffer { index: user.offers.len() - 1, survey: entry.current.clone(), pins })
}

/// Removes a response to a link that has stored nothing.
pub(super) fn close_unused(user: &mut User, index: usize) {
    if user.offers[index].link && user.offers[index].response.is_none() {
        user.offers.remove(index);
    }
}

/// A link survey whose gates are open, as far as the partition knows.
#[derive(Default)]
struct OpenSurvey {
    /// Whether the quota's coordinator has to be asked first.
    needs_grant: bool,
    places: OfferPlaces,
}

fn need(survey_id: &str, needs_grant: bool, places: &OfferPlaces, out: &mut Outputs) {
    out.needs.extend(needs_grant.then(|| survey_id.to_owned()));
    if places.is_unanswered {
        out.needs_caps.extend(places.asks());
    }
}

fn link_survey<'a>(ctx: ApplyContext<'a>, survey_id: &str) -> Option<&'a Entry> {
    ctx.project.surveys.get(survey_id).filter(|entry| entry.current.link)
}

/// Checks the gates of a link. Windows, sessions and cooldowns do not apply; status,
/// schedule, audience, targeting, shares and `repeat` do. Audience filters apply only when
/// the request names an app, because links are opened outside of one.
///
/// # Errors
/// The gate that is shut.
fn check_gates(ctx: ApplyContext<'_>, user: &User, entry: &Entry, context: &Context) -> Result<OpenSurvey, Gate> {
    let survey = &*entry.current;
    let attributes = OnceCell::new();
    let gates = || -> Result<OpenSurvey, GateFailure> {
        gates::status(survey, ctx.user_id)?;
        gates::schedule(survey, ctx, context.timezone.as_ref().map(|_| context))?;
        // The survey page sends the language that it shows and no other context.
        if (Context { locale: None, ..context.clone() }) != Context::default() {
            gates::audience(survey, context)?;
        }
        gates::targeting(survey, ctx, user, &attributes, context)?;
        if survey.status == Status::Test {
            return Ok(OpenSurvey::default());
        }
        shares::shares(survey, ctx, user, &attributes, Draw::User)?;
        gates::spent(survey, user, ctx.now, context)?;
        let needs_grant = gates::quota(survey, ctx)?;
        Ok(OpenSurvey { needs_grant, places: caps::caps(survey, ctx, user, &attributes)? })
    };
    gates().map_err(|failure| failure.gate)
}
