//! What a record of the journal says of one user: written as the user's own, or brought from
//! another partition.

use askwhen_domain::record::{Body, Record as UserRecord};
use askwhen_domain::refs::UserRef;
use askwhen_log::Record;
use askwhen_partition::admission::decode_forwarded;
use askwhen_wire::record::{AliasAction, AliasStep, Decoded, Internal, decode};

pub(super) enum Said<'a> {
    /// The user, or the alias that it was, is erased.
    Erased,
    /// Something else in a record of the user's.
    Record(&'a UserRecord<'a>),
    /// Something else about an alias.
    Alias(&'a AliasStep),
}

/// Sender and number of a forward.
pub(super) type ForwardId = (u32, u64);

/// Passes what a record says of a user to `each`, with the forward that brought it. `internal` is
/// what it is to the engine, if its MAC is right. `None` when it says nothing of the user.
pub(super) fn of<T>(
    record: &Record,
    internal: Option<&Internal>,
    user: UserRef<'_>,
    each: impl FnOnce(Said<'_>, Option<ForwardId>) -> T,
) -> Option<T> {
    match internal {
        Some(Internal::Forward(forward)) if forward.key.as_deref() == Some(user.user_id) => {
            let by = Some((forward.from, forward.seq));
            match decode_forwarded(forward).ok()? {
                Decoded::User(inner) => by_record(&inner, user).map(|said| each(said, by)),
                Decoded::Internal(inner) => by_internal(&inner, user).map(|said| each(said, by)),
            }
        }
        // As an export brings it over.
        Some(internal) => by_internal(internal, user).map(|said| each(said, None)),
        None if record.key.as_deref() == Some(user.user_id.as_bytes()) => {
            match decode(record.value.as_deref(), false) {
                Ok(Decoded::User(own)) => by_record(&own, user).map(|said| each(said, None)),
                _ => None,
            }
        }
        None => None,
    }
}

fn by_record<'a>(record: &'a UserRecord<'a>, user: UserRef<'_>) -> Option<Said<'a>> {
    let is_of = record.project == user.project && record.user_id == user.user_id;
    is_of.then_some(if matches!(record.body, Body::Erase) { Said::Erased } else { Said::Record(record) })
}

fn by_internal<'a>(internal: &'a Internal, user: UserRef<'_>) -> Option<Said<'a>> {
    let is_of = |project: &str, user_id: &str| project == user.project && user_id == user.user_id;
    match internal {
        Internal::Erase(erase) if is_of(&erase.project, &erase.user_id) => Some(Said::Erased),
        Internal::AliasStep(step) if is_of(&step.project, &step.at) => match step.action {
            AliasAction::Forget(_) => Some(Said::Erased),
            _ => Some(Said::Alias(step)),
        },
        _ => None,
    }
}
