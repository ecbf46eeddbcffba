//! One name becomes an alias of another: the state moves from the alias to its user.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::apply_context::ApplyContext;
use super::output::{Applied, Outputs, Reply};
use super::{history, windows};
use crate::time::Millis;
use crate::user::{Alias, SeenId, User};

/// A user's state, taken from a name that became an alias.
pub struct Departed {
    /// The state that the user takes over.
    pub state: User,
    /// What stays stored under the alias: only whose alias it is.
    pub left: User,
    /// Event ids for the store's table. Records under the alias still come by its
    /// partition, which has to recognise repeated ones.
    pub spilled: Vec<SeenId>,
    /// Offers that hold a grant of a quota: survey id, and when the hold lapses.
    pub holds: Vec<(String, Millis)>,
}

/// Takes a user's state away from a name that becomes an alias of `owner`.
pub fn depart(ctx: ApplyContext<'_>, before: &User, owner: &str) -> Departed {
    let state = before.as_of(ctx.now, ctx.project.settings.offer_known).into_owned();
    let spilled = state.recent.iter().collect();
    let holds = holds(&state, ctx.now);
    Departed { state, left: User::alias(owner), spilled, holds }
}

fn holds(user: &User, now: Millis) -> Vec<(String, Millis)> {
    user.offers.iter().filter_map(|offer| Some((offer.survey_id.clone(), offer.holds(now)?))).collect()
}

/// Merges the state of an alias into its user. Offers of surveys that are not in `granted`
/// lose their grant. Returns the grants that the taken-over offers hold.
pub fn absorb(
    ctx: ApplyContext<'_>,
    before: &User,
    alias: &str,
    theirs: User,
    granted: &BTreeSet<String>,
) -> (Applied, Vec<(String, Millis)>) {
    let offer_known = ctx.project.settings.offer_known;
    let mut user = before.as_of(ctx.now, offer_known).into_owned();
    let mut theirs = theirs.as_of(ctx.now, offer_known).into_owned();
    theirs.renumber(&user);
    theirs.know_again(&user);
    for offer in theirs.offers.iter_mut().filter(|offer| !granted.contains(&offer.survey_id)) {
        Arc::make_mut(offer).held_until = None;
    }
    let holds = holds(&theirs, ctx.now);
    let offers = user.offers.iter().chain(&theirs.offers).filter(|offer| offer.displayed_at.is_none());
    let offered: Vec<u64> = offers.filter_map(|offer| Some(offer.activation.as_ref()?.offset)).collect();
    let is_offered = |offset: u64| offered.contains(&offset);
    for (survey_id, state) in theirs.surveys.iter() {
        windows::absorb(ctx, &mut user, survey_id, None, state, &is_offered);
        let per = ctx.project.surveys.get(&**survey_id).and_then(|entry| entry.current.frequency.per);
        history::absorb(&mut user, survey_id, state, theirs.survey_extension(survey_id), per);
    }
    for (survey_id, kept) in theirs.extension.iter().flat_map(|extension| &extension.surveys) {
        for one in &kept.matched {
            windows::absorb(ctx, &mut user, survey_id, Some(&one.value), &one.state, &is_offered);
        }
    }
    let (spilled, left_out) = user.absorb(theirs, ctx.now, ctx.project.settings.id_remembered());
    // Should an alias be turned round, the user must not become its own alias.
    if alias != ctx.user_id {
        user.identity_mut().aliases.push(Alias { name: alias.to_owned(), since: ctx.now });
    }
    user.settle_whole();
    let reply = Some(Reply::Accepted { duplicate: false, response_id: None });
    (Applied { user, out: Outputs { spilled, left_out, reply, ..Outputs::default() } }, holds)
}
