//! The gates that draw shares of users: `holdout`, `not_sampled` and `other_arm`.

use serde_json::{Value, json};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::apply_context::ApplyContext;
use crate::eligibility::decision::{Gate, GateFailure};
use crate::json::Json;
use crate::survey::Survey;
use crate::survey::filter;
use crate::survey::share::{Purpose, Share, Unit, place};
use crate::time;
use crate::user::User;

/// What a share by activation is drawn for.
pub(super) enum Draw {
    By(String),
    /// The user: a link is opened outside of any activation.
    User,
    /// Nothing to draw for is known yet.
    Unknown,
}

/// The position of a draw on the scale of a share.
enum Place {
    At(f64),
    /// The share is by an attribute that the user does not have, so no share holds the
    /// user.
    Missing,
    Unknown,
}

pub(super) fn shares(
    survey: &Survey,
    ctx: ApplyContext<'_>,
    user: &User,
    attributes: &OnceCell<Value>,
    drawn: Draw,
) -> Result<(), GateFailure> {
    let place_in = |share: &Share, purpose: Purpose| place_of(share, purpose, ctx, user, attributes, &drawn);
    if survey.holdout.percent > 0.0 {
        let share = survey.holdout.share(&survey.survey_id);
        match place_in(&share, Purpose::Holdout) {
            Place::At(at) if share.holds(at) => return Err(GateFailure::new(Gate::Holdout, json!(at), None)),
            _ => {}
        }
    }
    let share = &survey.sampling;
    if share.is_partial() {
        match place_in(share, Purpose::Sampling) {
            Place::At(at) if !share.holds(at) => return Err(GateFailure::new(Gate::NotSampled, json!(at), None)),
            Place::Missing => return Err(GateFailure::new(Gate::NotSampled, Value::Null, None)),
            _ => {}
        }
    }
    if let Some(begins_at) = survey.begins_for(ctx.project_id, ctx.user_id).filter(|begins_at| ctx.now < *begins_at) {
        return Err(GateFailure::new(Gate::NotSampled, json!(time::format_time(begins_at)), Some(begins_at)));
    }
    if let Some(experiment) = &survey.experiment
        && let Some(arm) = arm(&experiment.name, ctx, user, attributes)
        && arm != experiment.arm
    {
        return Err(GateFailure::new(Gate::OtherArm, json!({"experiment": experiment.name, "arm": arm}), None));
    }
    Ok(())
}

/// Whether the shares by activation let this activation through. All other shares are the
/// same for every activation of a user.
pub(super) fn let_through(survey: &Survey, ctx: ApplyContext<'_>, event_id: &str) -> bool {
    let holds = |share: &Share, purpose: Purpose| {
        share.holds(share.place(purpose, ctx.project_id, &[ctx.user_id, event_id].join("\0")))
    };
    let is_held_out =
        survey.holdout.by == Unit::Activation && holds(&survey.holdout.share(&survey.survey_id), Purpose::Holdout);
    let is_left_out = survey.sampling.by == Unit::Activation && !holds(&survey.sampling, Purpose::Sampling);
    !is_held_out && !is_left_out
}

fn place_of(
    share: &Share,
    purpose: Purpose,
    ctx: ApplyContext<'_>,
    user: &User,
    attributes: &OnceCell<Value>,
    drawn: &Draw,
) -> Place {
    let place = |key: &str| Place::At(share.place(purpose, ctx.project_id, key));
    match (&share.by, drawn) {
        (Unit::User, _) | (Unit::Activation, Draw::User) => place(ctx.user_id),
        // Event ids are unique for one user only, so the user id is part of the draw.
        (Unit::Activation, Draw::By(id)) => place(&[ctx.user_id, id].join("\0")),
        (Unit::Activation, Draw::Unknown) => Place::Unknown,
        (Unit::Attribute(name), _) => {
            let attributes = attributes.get_or_init(|| user.attributes_value());
            match filter::lookup(attributes, name).filter(|value| !value.is_null()) {
                Some(value) => place(Json::of(value).as_str()),
                None => Place::Missing,
            }
        }
    }
}

/// The arm that a user is in: the one that was offered before, else the one drawn from
/// those whose surveys may ask the user. An arm that is added later gets only users who
/// have no arm yet.
fn arm(name: &str, ctx: ApplyContext<'_>, user: &User, attributes: &OnceCell<Value>) -> Option<String> {
    if let Some(arm) = user.extension.as_ref().and_then(|extension| extension.arms.get(name)) {
        return Some(arm.clone());
    }
    let asks = |(_, share): &&(String, Share)| {
        let at = place_of(share, Purpose::Sampling, ctx, user, attributes, &Draw::Unknown);
        match at {
            Place::At(at) => share.holds(at),
            Place::Missing => false,
            Place::Unknown => true,
        }
    };
    let arms = ctx.project.arms(name).iter().filter(asks);
    let height = |arm: &str| place(Purpose::Arm, [ctx.project_id, &[name, arm].join("\0"), ctx.user_id]);
    let highest =
        arms.map(|(arm, _)| (height(arm), arm)).max_by(|(a, one), (b, other)| a.total_cmp(b).then(one.cmp(other)));
    highest.map(|(_, arm)| arm.clone())
}

/// By experiment, the user's arm: the one that was offered, or the one that would be.
pub(super) fn arms(ctx: ApplyContext<'_>, user: &User) -> BTreeMap<String, String> {
    let kept = user.extension.iter().flat_map(|extension| extension.arms.keys());
    let named: BTreeSet<&String> = ctx.project.experiments().chain(kept).collect();
    let attributes = OnceCell::new();
    named.into_iter().filter_map(|name| Some((name.clone(), arm(name, ctx, user, &attributes)?))).collect()
}

/// Puts a user into the arm of a survey that is being offered.
pub(super) fn enter_arm(user: &mut User, survey: &Survey) {
    let Some(experiment) = &survey.experiment else { return };
    let known = user.extension.as_ref().is_some_and(|extension| extension.arms.contains_key(&experiment.name));
    if !known {
        user.extension_mut().arms.insert(experiment.name.clone(), experiment.arm.clone());
    }
}
