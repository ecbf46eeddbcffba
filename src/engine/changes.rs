//! Helpers that several tables and commands of the engine share.

use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaMessage;
use askwhen_domain::record::{Body, Record};
use askwhen_partition::{Effects, Outgoing, RecordContext};
use askwhen_store::Batch;
use askwhen_wire::record::{self, Internal, Query};

/// An internal record for another partition.
pub fn to_partition(to: u32, internal: &Internal, answers: bool) -> Outgoing {
    let value = askwhen_wire::record::encode_internal(internal);
    let value = Json::from_valid(String::from_utf8(value).expect("JSON is UTF-8"));
    Outgoing { to, key: None, value, trusted: true, answers, passed_on: None }
}

/// An internal record about a user's name, for the partition of that name, which answers
/// the request behind the current record.
pub fn about_name(at: RecordContext<'_>, name: &str, internal: &Internal) -> Effects {
    let outgoing = to_partition(id::partition_of(name, at.partitions), internal, true);
    Effects { forwards: vec![Outgoing { key: Some(name.to_owned()), ..outgoing }], ..Effects::default() }
}

/// The value of a record as it is written to a journal, and whether it is an internal one.
pub fn journal_value(record: &Record<'_>) -> (Json, bool) {
    let (offer_id, survey_id, link_id) = match &record.body {
        Body::ShowOffer { offer_id } => (Some(offer_id.to_string()), None, None),
        Body::ShowLink { survey_id, link_id, .. } => {
            (None, Some(survey_id.to_string()), link_id.as_ref().map(ToString::to_string))
        }
        Body::ShowUser => (None, None, None),
        _ => return (Json::from_valid(String::from_utf8_lossy(&record::encode(record))), false),
    };
    let (project, user_id) = (record.project.to_string(), record.user_id.to_string());
    let query = Query { project, user_id, offer_id, survey_id, link_id };
    (Json::from_valid(String::from_utf8_lossy(&record::encode_internal(&Internal::Query(query)))), true)
}

/// Forwards messages about quotas to their partitions.
pub fn forward_quota_messages(messages: Vec<QuotaMessage>, effects: &mut Effects) {
    let forward = |message: QuotaMessage| to_partition(message.to, &Internal::Quota(message), false);
    effects.forwards.extend(messages.into_iter().map(forward));
}

/// The changes of one table, to be added to a checkpoint's batch.
pub type Changes = Box<dyn FnOnce(&mut Batch) + Send>;
