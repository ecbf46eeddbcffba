//! Whether a user was erased later: what the journal has of before is not shown any more.

use super::{Error, Source};
use askwhen_domain::record::Body;
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::Millis;
use askwhen_log::{Record, TopicPartition};
use askwhen_partition::admission::{Admission, decode_forwarded};
use askwhen_wire::record::{AliasAction, Decoded, Internal, decode};

/// When a user was erased by a record of its partition at or behind an offset, by the time of
/// appending; of several erasures the newest.
///
/// # Errors
/// When the journal cannot be read.
pub fn newest_from(
    source: &Source,
    purpose: &'static str,
    at: TopicPartition,
    from: u64,
    user: UserRef<'_>,
) -> Result<Option<Millis>, Error> {
    let rules = source.rules(at.partition);
    let mut journal = source.reader_to_end(purpose, at, from)?;
    let mut newest = None;
    loop {
        let records = journal.read()?;
        if records.is_empty() {
            return Ok(newest);
        }
        newest = records.iter().rev().find(|record| erases(&rules, record, user)).map(|r| r.appended_at).or(newest);
    }
}

/// Whether a record erases a user, or the alias that it was.
fn erases(rules: &Admission, record: &Record, user: UserRef<'_>) -> bool {
    let is_own = record.key.as_deref() == Some(user.user_id.as_bytes());
    match rules.trusted_internal(None, record) {
        Some(Internal::Forward(forward)) if forward.key.as_deref() == Some(user.user_id) => {
            match decode_forwarded(&forward) {
                Ok(Decoded::User(inner)) => matches!(inner.body, Body::Erase) && inner.project == user.project,
                Ok(Decoded::Internal(inner)) => is_erasure(&inner, user),
                Err(_) => false,
            }
        }
        Some(internal) => is_erasure(&internal, user),
        None if is_own => match decode(record.value.as_deref(), false) {
            Ok(Decoded::User(given)) => {
                matches!(given.body, Body::Erase) && given.project == user.project && given.user_id == user.user_id
            }
            _ => false,
        },
        None => false,
    }
}

fn is_erasure(internal: &Internal, user: UserRef<'_>) -> bool {
    match internal {
        Internal::Erase(erase) => erase.project == user.project && erase.user_id == user.user_id,
        Internal::AliasStep(step) => {
            matches!(step.action, AliasAction::Forget(_)) && step.project == user.project && step.at == user.user_id
        }
        _ => false,
    }
}
