//! One file for each kind of record: (state, context, record) → effects.

mod alias;
mod cap;
mod closing;
mod define;
mod defined;
mod endpoint_action;
mod erase;
mod health_report;
mod keys_used;
mod name_seen;
mod ping;
mod query;
mod quota;
mod redeliver;
mod user_record;

use super::state::Engine;
use askwhen_partition::{Effects, Failure, RecordContext};
use askwhen_wire::record::{Decoded, Internal};
use ping::Ping;
use redeliver::Redelivery;

/// Applies one record.
///
/// # Errors
/// When the record must become a reject, or the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, record: Decoded<'_>) -> Result<Effects, Failure> {
    match record {
        Decoded::User(record) => user_record::apply(engine, at, &record),
        Decoded::Internal(internal) => match *internal {
            Internal::Query(query) => query::apply(engine, at, query),
            Internal::Quota(message) => quota::apply(engine, at, &message),
            Internal::Cap(message) => cap::apply(engine, at, message),
            Internal::Closing(message) => Ok(closing::apply(engine, at, &message)),
            Internal::Erase(erase) => erase::apply(engine, at, erase),
            Internal::Alias(alias) => alias::apply(engine, at, alias),
            Internal::AliasStep(step) => alias::step(engine, at, step),
            Internal::Define(define) => define::apply(engine, at, &define),
            Internal::EndpointCommand(command) => endpoint_action::apply(engine, at, &command),
            Internal::Defined(defined) => defined::apply(engine, at, &defined),
            Internal::EndpointHealthReport(report) => health_report::apply(engine, at, report),
            Internal::Redeliver { delivery, told_at, asked_at } => {
                redeliver::apply(engine, at, Redelivery { delivery: *delivery, told_at, asked_at })
            }
            Internal::Ping { project, endpoint_id, delivery_id, asked_at } => {
                ping::apply(engine, at, Ping { project, endpoint_id, delivery_id, asked_at })
            }
            Internal::KeysUsed(uses) => Ok(keys_used::apply(at, &uses)),
            Internal::NameSeen { project, trigger } => Ok(name_seen::apply(engine, at, &project, trigger)),
            // The runtime has handled these.
            Internal::Forward(_)
            | Internal::Clock { .. }
            | Internal::BindMacs {}
            | Internal::AcceptTime(_)
            | Internal::Skip(_)
            | Internal::AcceptLoss(_)
            | Internal::Tick {} => Ok(Effects::default()),
        },
    }
}
