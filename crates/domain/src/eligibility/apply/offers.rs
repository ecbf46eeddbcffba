//! Looks up the offer that a record names.

use std::sync::Arc;

use super::apply_context::ApplyContext;
use super::caps;
use super::output::{Outputs, Refusal};
use crate::id;
use crate::quota::cap::PinnedCap;
use crate::survey::Survey;
use crate::user::User;

/// An offer of a user, with the version of the survey that it pinned.
pub(super) struct FoundOffer {
    pub index: usize,
    pub survey: Arc<Survey>,
    /// The places of counters that a new response to a link takes.
    pub pins: Vec<PinnedCap>,
}

/// Finds an offer; refuses the record in `out` when there is none.
pub(super) fn find(ctx: ApplyContext<'_>, user: &User, offer_id: &str, out: &mut Outputs) -> Option<FoundOffer> {
    if let Some(index) = user.offers.iter().position(|o| o.offer_id == offer_id) {
        let offer = &user.offers[index];
        let entry = &ctx.project.surveys[&offer.survey_id];
        let survey = entry.version(offer.version).unwrap_or(&entry.current).clone();
        let must_hold = ctx.is_limited(&offer.survey_id) || caps::is_capped(user, offer);
        if must_hold && offer.has_lapsed(ctx.now) {
            out.refuse(Refusal::OfferLapsed);
            return None;
        }
        return Some(FoundOffer { index, survey, pins: Vec::new() });
    }
    let made_to = |user_id: &str| id::offer_was_made(ctx.origin.incarnation, ctx.project_id, user_id, offer_id);
    let made = made_to(ctx.user_id) || user.aliases().iter().any(|alias| made_to(&alias.name));
    out.refuse(if made { Refusal::OfferLapsed } else { Refusal::UnknownOffer });
    None
}
