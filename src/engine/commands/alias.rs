//! Makes a name an alias of a user. The request goes to the user, who may be an alias
//! itself by now; from there to the alias, which gives its state away and forwards its
//! records from then on; and with that state back to the user, who answers. Each step is a
//! record in the journal of the name that it concerns.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::erase::{erase_name, erase_names};
use crate::engine::changes::{about_name, forward_quota_messages};
use crate::engine::outputs;
use crate::engine::registrar::REQUEST_LIFE;
use crate::engine::state::Engine;
use askwhen_domain::eligibility::apply::{self, ApplyContext, Departed};
use askwhen_domain::json::Json;
use askwhen_domain::refs::{SurveyKey, UserRef};
use askwhen_domain::user::{MAX_ALIASES, User};
use askwhen_partition::{Effects, EngineReply, Failure, Outgoing, Output, RecordContext};
use askwhen_process::metrics::Metrics;
use askwhen_wire::record::{AliasAction, AliasRequest, AliasStep, DecodeError, Internal, MergedState};
use askwhen_wire::state;

/// How often the state of an alias goes round before its name becomes a user again.
const MAX_RETURNS: u32 = 8;

/// Handles a request, once: a copy of an old record must not link a name that has been used
/// anew since.
///
/// # Errors
/// When the request is old, or the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: AliasRequest) -> Result<Effects, Failure> {
    let AliasRequest { project, user_id, alias, asked_at, request_id } = command;
    if (at.now - asked_at).abs() > REQUEST_LIFE {
        let detail = "the alias was asked for long ago; ask anew".into();
        return Err(Failure::Reject(DecodeError { reason: "stale", detail }));
    }
    if !engine.remembered.is_new(&project, &user_id, &format!("alias/{asked_at}/{request_id}"), at.now)? {
        return Ok(accepted(true));
    }
    step(engine, at, AliasStep { project, at: user_id, alias, action: AliasAction::Find {} })
}

/// Handles one step.
///
/// # Errors
/// When the record must become a reject, or the store cannot be read.
pub fn step(engine: &mut Engine, at: RecordContext<'_>, step: AliasStep) -> Result<Effects, Failure> {
    let AliasStep { project, at: name, alias, action } = step;
    let found = engine.users.get(&project, &name)?;
    let known = found.aliases();
    let go_on = |name: &str, action: AliasAction| {
        let (project, alias) = (project.clone(), alias.clone());
        about_name(at, name, &Internal::AliasStep(AliasStep { project, at: name.to_owned(), alias, action }))
    };
    Ok(match (action, found.alias_of()) {
        // The user is an alias of this name, or has this alias already: they are the same.
        (AliasAction::Find {}, _) if name == alias || found.is_known_as(&alias) => accepted(true),
        (AliasAction::Find {}, Some(owner)) => go_on(owner, AliasAction::Find {}),
        (AliasAction::Find {}, None) => go_on(&alias, AliasAction::Link { user_id: name, aliases: known.len() }),
        (AliasAction::Link { user_id, .. }, Some(owner)) => {
            go_on(owner, AliasAction::Confirm { user_id, turned: false })
        }
        // The user has become an alias of this name meanwhile.
        (AliasAction::Link { user_id, .. }, None) if found.is_known_as(&user_id) => accepted(true),
        (AliasAction::Link { aliases, .. }, None) if known.len() + aliases >= MAX_ALIASES => {
            refused("too_many_aliases", &format!("a user may have at most {MAX_ALIASES} aliases"))
        }
        (AliasAction::Link { user_id, .. }, None) => {
            let mut effects = Effects::default();
            engine.decide_pending_of(at, UserRef::new(&project, &name), &mut effects)?;
            let merged = depart(engine, at, UserRef::new(&project, &name), &user_id)?;
            effects.forwards.extend(go_on(&user_id, AliasAction::Merge(merged)).forwards);
            effects
        }
        (action @ AliasAction::Confirm { .. }, Some(owner)) => go_on(owner, action),
        (AliasAction::Confirm { user_id, .. }, None) if user_id == name || found.is_known_as(&user_id) => {
            accepted(true)
        }
        (AliasAction::Confirm { turned: true, .. }, None) => taken(),
        // The user may be an alias by now whose state is on its way here.
        (AliasAction::Confirm { user_id, .. }, None) => {
            go_on(&user_id, AliasAction::Confirm { user_id: name, turned: true })
        }
        (AliasAction::Merge(merged), Some(owner)) if name == alias => {
            if !is_chosen(&name, &merged)? {
                let (passed, returns) = (Vec::new(), merged.returns + 1);
                return Ok(go_on(owner, AliasAction::Merge(MergedState { passed, returns, ..merged })));
            }
            let mut bare = User::default();
            bare.overflowed = true;
            let mut effects = absorb(engine, at, UserRef::new(&project, &name), &bare, &alias, &merged)?;
            // Behind the states of the others, so that the answer comes when all are one.
            effects.reply = None;
            effects
                .forwards
                .extend(go_on(owner, AliasAction::Confirm { user_id: name.clone(), turned: false }).forwards);
            effects
        }
        (AliasAction::Merge(mut merged), Some(owner)) => {
            if !merged.passed.contains(&name) {
                merged.passed.push(name.clone());
            }
            go_on(owner, AliasAction::Merge(merged))
        }
        (AliasAction::Merge(merged), None) => {
            let mut effects = absorb(engine, at, UserRef::new(&project, &name), &found, &alias, &merged)?;
            if !merged.user_id.is_empty() && merged.user_id != name {
                let redirect = AliasAction::Redirect { from: merged.user_id, to: name.clone() };
                let unanswered = go_on(&alias, redirect).forwards;
                effects.forwards.extend(unanswered.into_iter().map(|one| Outgoing { answers: false, ..one }));
            }
            effects
        }
        (AliasAction::Redirect { from, to }, owner) => {
            if owner == Some(&*from) {
                engine.users.put(&project, &name, User::alias(&to));
            }
            Effects::default()
        }
        (AliasAction::Forget(erase), owner) => {
            let mut effects = Effects::default();
            if owner.is_some() {
                effects = erase_name(engine, at, UserRef::new(&project, &name))?;
                effects.reply = None;
            }
            let user_id = erase.user_id.clone();
            effects.forwards.extend(go_on(&user_id, AliasAction::Forgotten(erase)).forwards);
            effects
        }
        (AliasAction::Forgotten(erase), _) => {
            if found.is_known_as(&alias) {
                let mut user = (*found).clone();
                user.identity_mut().aliases.retain(|known| known.name != alias);
                engine.users.put(&project, &name, user.summarized());
            }
            erase_names(engine, at, erase)?
        }
    })
}

/// Whether a name becomes a user again. Its state has come back to it: it and the names by
/// which the state came have become aliases of each other at once, so that none of them is a
/// user. One has to be, and only one: the one whose state has the first of these names. None
/// goes round for ever, whatever has become of that one.
fn is_chosen(name: &str, merged: &MergedState) -> Result<bool, Failure> {
    if merged.returns >= MAX_RETURNS {
        return Ok(true);
    }
    let first = merged.passed.iter().map(String::as_str).chain([name]).min();
    let state = decode(&merged.state)?;
    Ok(first.is_some_and(|first| first == name || state.is_known_as(first)))
}

/// Takes the state away from a name that becomes an alias.
fn depart(engine: &mut Engine, at: RecordContext<'_>, name: UserRef<'_>, owner: &str) -> Result<MergedState, Failure> {
    let before = engine.users.get(name.project, name.user_id)?;
    let project = engine.table.definitions.project(name.project).unwrap_or(&engine.empty).clone();
    let Departed { state, left, spilled, holds } = apply::depart(context(at, name, &project), &before, owner);
    spilled.iter().for_each(|(hash, seen_at)| engine.remembered.keep(*hash, *seen_at));
    let mut epochs = BTreeMap::new();
    for (survey_id, until) in holds {
        let key = SurveyKey::new(name.project, survey_id.clone());
        epochs.insert(survey_id, engine.quotas.allocator.move_hold_out(&key, until, at.now));
    }
    engine.users.put(name.project, name.user_id, left);
    let state = STANDARD.encode(state::encode(&state));
    Ok(MergedState {
        state,
        from: at.origin.partition,
        epochs,
        user_id: owner.to_owned(),
        passed: Vec::new(),
        returns: 0,
    })
}

/// Merges the state of an alias into its user.
fn absorb(
    engine: &mut Engine,
    at: RecordContext<'_>,
    user: UserRef<'_>,
    before: &User,
    alias: &str,
    merged: &MergedState,
) -> Result<Effects, Failure> {
    let MergedState { state, from, epochs, .. } = merged;
    let theirs = decode(state)?;
    let key = |survey_id: &str| SurveyKey::new(user.project, survey_id);
    let allocator = &engine.quotas.allocator;
    // A grant of another epoch is not among those that the coordinator counts.
    let granted = epochs.iter().filter(|(survey_id, epoch)| allocator.epoch(&key(survey_id)) == **epoch);
    let granted: BTreeSet<String> = granted.map(|(survey_id, _)| survey_id.clone()).collect();
    let project = engine.table.definitions.project(user.project).unwrap_or(&engine.empty).clone();
    let (applied, holds) = apply::absorb(context(at, user, &project), before, alias, theirs, &granted);
    let mut effects = accepted(false);
    effects.outputs.extend(report_left_out(engine.metrics(), at, user, alias, &applied.out.left_out));
    for (survey_id, until) in holds {
        let messages = engine.quotas.allocator.move_hold_in(&key(&survey_id), until, *from, at.now);
        forward_quota_messages(messages, &mut effects);
    }
    applied.out.spilled.iter().for_each(|(hash, seen_at)| engine.remembered.keep(*hash, *seen_at));
    let mut merged = applied.user;
    // The event ids of an erased user are only in the table.
    let was_erased = before.is_erased() && engine.remembered.erased_at(user.project, user.user_id, at.now)?.is_some();
    merged.overflowed |= was_erased;
    engine.users.put(user.project, user.user_id, merged);
    Ok(effects)
}

/// Attributes that are lost with a merge are told of by their names: whoever has made the
/// alias has been answered that it was taken.
fn report_left_out(
    metrics: Option<&Metrics>,
    at: RecordContext<'_>,
    user: UserRef<'_>,
    alias: &str,
    left_out: &[String],
) -> Option<Output> {
    if left_out.is_empty() {
        return None;
    }
    let (reason, count) = ("attributes_too_large", left_out.len());
    if let Some(metrics) = metrics {
        tracing::warn!(
            partition = at.origin.partition,
            offset = at.origin.offset,
            count,
            "attributes of an alias were left out: a user has at most 32 KiB of them"
        );
        metrics.engine_rejects.with_label_values(&[reason]).inc();
    }
    let detail = format!("{count} attributes of an alias were left out: a user has at most 32 KiB of them");
    let raw = Json::of(&serde_json::json!({"user_id": user.user_id, "alias": alias, "left_out": left_out}));
    Some(outputs::unheard_refusal(at, reason, &detail, &raw))
}

fn decode(text: &str) -> Result<User, Failure> {
    let damaged = |detail: String| Failure::Reject(DecodeError { reason: "invalid", detail });
    let bytes = STANDARD.decode(text).map_err(|error| damaged(error.to_string()))?;
    state::decode(&bytes).map_err(|error| match error {
        // Not damage: a later version of the program can read it.
        state::Error::UnknownVersion(_) => Failure::Refused(Arc::new(error)),
        error => damaged(error.to_string()),
    })
}

fn context<'a>(
    at: RecordContext<'_>,
    user: UserRef<'a>,
    project: &'a askwhen_domain::definitions::Project,
) -> ApplyContext<'a> {
    ApplyContext::of_name(at.origin, at.now, user.project, user.user_id, project)
}

fn accepted(duplicate: bool) -> Effects {
    Effects { reply: Some(EngineReply::Accepted { duplicate, response_id: None }), ..Effects::default() }
}

fn taken() -> Effects {
    refused("taken", "this id is an alias of another user")
}

fn refused(code: &'static str, detail: &str) -> Effects {
    let reply = EngineReply::Refused { code: code.into(), pointer: Some("/alias".into()), detail: detail.into() };
    Effects { reply: Some(reply), ..Effects::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_names_without_a_user_the_first_ones_state_makes_one_and_no_state_goes_round_for_ever() {
        let of = |aliases: &[&str], returns: u32| {
            let mut state = User::default();
            let alias = |name: &&str| askwhen_domain::user::Alias { name: (*name).to_owned(), since: 0 };
            state.identity_mut().aliases = aliases.iter().map(alias).collect();
            MergedState {
                state: STANDARD.encode(state::encode(&state)),
                from: 0,
                epochs: BTreeMap::new(),
                user_id: "b".into(),
                passed: vec!["b".into(), "a".into()],
                returns,
            }
        };
        for (name, aliases, returns, chosen) in [
            ("a", &[][..], 0, true),
            ("c", &[], 0, false),
            ("c", &["x"], MAX_RETURNS - 1, false),
            ("c", &["a"], 0, true),
            ("c", &[], MAX_RETURNS, true),
        ] {
            assert_eq!(
                is_chosen(name, &of(aliases, returns)).expect("readable"),
                chosen,
                "{name} {aliases:?} {returns}"
            );
        }
    }
}
