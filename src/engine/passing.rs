//! What comes under an alias goes on to its user, as if it had come under that name, and
//! says where it came. While aliases are being made, it may reach a user who does not have
//! the state of that name yet: then it goes back there, behind the state.

use super::changes::{about_name, journal_value};
use super::state::Engine;
use askwhen_domain::eligibility::apply::ApplyContext;
use askwhen_domain::id;
use askwhen_domain::record::{Body, Record};
use askwhen_domain::time::ClientTimes;
use askwhen_partition::{Effects, Failure, Outgoing, RecordContext};
use askwhen_wire::record::{Erase, Internal, PassedOn};

/// How often a record is sent back: the state for which it waits is on its way between a few
/// partitions. After that it counts where it is.
const MAX_RETURNS: u32 = 100;

/// Whether a record has come back to the name that has passed it on.
pub fn has_come_back(at: RecordContext<'_>, name: &str) -> bool {
    at.passed_on.is_some_and(|passed_on| passed_on.name == name)
}

impl Engine {
    /// Where a record that an alias has passed on is to be sent back to: its user does not
    /// have that name's state.
    pub(super) fn sends_back(
        &mut self,
        at: RecordContext<'_>,
        project: &str,
        name: &str,
    ) -> Result<Option<PassedOn>, Failure> {
        let Some(passed_on) = at.passed_on.filter(|passed_on| passed_on.name != name) else { return Ok(None) };
        let found = self.users.get(project, name)?;
        let is_known = found.alias_of().is_some() || found.is_known_as(&passed_on.name);
        let returns = passed_on.returns + 1;
        Ok((!is_known && returns <= MAX_RETURNS).then(|| PassedOn { returns, ..passed_on.clone() }))
    }

    /// Whether a record has come back to its name, and the name was erased meanwhile.
    pub(super) fn was_erased_since(
        &self,
        at: RecordContext<'_>,
        project: &str,
        name: &str,
    ) -> Result<bool, askwhen_store::Error> {
        let Some(passed_on) = at.passed_on.filter(|passed_on| passed_on.name == name) else { return Ok(false) };
        let erased_at = self.remembered.erased_at(project, name, at.now)?;
        Ok(erased_at.is_some_and(|erased_at| passed_on.at <= erased_at))
    }

    /// Sends back a record that its user cannot decide yet, or drops one that has come back
    /// to a name which was erased since.
    pub(super) fn turn_back(&mut self, at: RecordContext<'_>, record: &Record<'_>) -> Result<Option<Effects>, Failure> {
        if at.passed_on.is_none() {
            return Ok(None);
        }
        let project = self.table.definitions.project(&record.project).unwrap_or(&self.empty).clone();
        let ctx = ApplyContext::of_name(at.origin, at.now, &record.project, &record.user_id, &project);
        if let Some(passed_on) = self.sends_back(at, &record.project, &record.user_id)? {
            let name = passed_on.name.clone();
            let forwards = vec![sent_under(ctx, record, &name, at.partitions, Some(passed_on))];
            return Ok(Some(Effects { forwards, ..Effects::default() }));
        }
        if record.body.is_read() || !self.was_erased_since(at, &record.project, &record.user_id)? {
            return Ok(None);
        }
        let hash = record.event_id.as_ref().map(|id| id::event_hash(&record.project, &record.user_id, id));
        let reply = Some(self.repeated(ctx, record, hash)?);
        Ok(Some(Effects { reply, ..Effects::default() }))
    }

    /// Forwards a record under an alias to the user of the alias. A record whose event id
    /// was seen under the alias is a repetition; only this partition can know that.
    pub(super) fn forward_to_user(
        &mut self,
        at: RecordContext<'_>,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: Option<u128>,
        owner: &str,
    ) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        if let Some(hash) = hash.filter(|_| !has_come_back(at, &record.user_id))
            && self.is_repetition(at, ctx, record, hash)?
        {
            effects.reply = Some(self.repeated(ctx, record, Some(hash))?);
            return Ok(effects);
        }
        effects.forwards.push(sent_under(ctx, record, owner, at.partitions, Some(passed_on_by(at, &record.user_id))));
        Ok(effects)
    }

    /// Whether a record that an alias is about to pass on came under it before. If it came
    /// under it first, that is noted.
    fn is_repetition(
        &mut self,
        at: RecordContext<'_>,
        ctx: ApplyContext<'_>,
        record: &Record<'_>,
        hash: u128,
    ) -> Result<bool, askwhen_store::Error> {
        let kept = ctx.project.settings.max_expires_after;
        if self.remembered.seen_at(hash, ctx.now, kept)?.is_some() {
            return Ok(true);
        }
        if at.passed_on.is_some() {
            return Ok(false);
        }
        // A late copy must not bring the name back after both were erased. The answer to a
        // trigger is stored at the user, so its copies are passed on until then.
        match record.body {
            Body::Event { .. } => self.remembered.keep(hash, ctx.now),
            Body::Trigger { .. } => {
                if self.is_gone(ctx, hash)? {
                    return Ok(true);
                }
                self.remembered.keep(trigger_passed_on(hash), ctx.now);
            }
            _ => {}
        }
        Ok(false)
    }

    /// Whether a trigger was passed on from this name before the name was erased.
    pub(super) fn is_gone(&self, ctx: ApplyContext<'_>, hash: u128) -> Result<bool, askwhen_store::Error> {
        let Some(erased_at) = self.remembered.erased_at(ctx.project_id, ctx.user_id, ctx.now)? else {
            return Ok(false);
        };
        let kept = ctx.project.settings.max_expires_after;
        let passed_at = self.remembered.seen_at(trigger_passed_on(hash), ctx.now, kept)?;
        Ok(passed_at.is_some_and(|passed_at| passed_at <= erased_at))
    }
}

/// Where a record came that is passed on from a name.
fn passed_on_by(at: RecordContext<'_>, name: &str) -> PassedOn {
    let first = || PassedOn { name: name.to_owned(), at: at.now, returns: 0 };
    at.passed_on.cloned().unwrap_or_else(first)
}

/// An erasure for another name of its user.
pub fn erasure(at: RecordContext<'_>, command: Erase, name: &str, sent_back: Option<PassedOn>) -> Effects {
    let passed_on = sent_back.unwrap_or_else(|| passed_on_by(at, &command.user_id));
    let mut effects = about_name(at, name, &Internal::Erase(Erase { user_id: name.to_owned(), ..command }));
    effects.forwards.iter_mut().for_each(|outgoing| outgoing.passed_on = Some(passed_on.clone()));
    effects
}

/// A record for another name of its user, as if it had come under that.
pub fn sent_under(
    ctx: ApplyContext<'_>,
    record: &Record<'_>,
    name: &str,
    partitions: u32,
    passed_on: Option<PassedOn>,
) -> Outgoing {
    // It happened when it came here, not when it arrives there.
    let times = ClientTimes { received_at: record.times.received_at.or(Some(ctx.now)), ..record.times };
    let (value, trusted) = journal_value(&Record { user_id: name.into(), times, ..record.clone() });
    let to = id::partition_of(name, partitions);
    Outgoing { to, key: Some(name.to_owned()), value, trusted, answers: true, passed_on }
}

/// What is remembered of a trigger that was passed on from an alias: its id is its user's.
fn trigger_passed_on(hash: u128) -> u128 {
    !hash
}
