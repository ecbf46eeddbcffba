//! What tables and messages of the engine have in common.

use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::quota::QuotaMessage;
use askwhen_partition::{Effects, Outgoing, RecordContext};
use askwhen_store::Batch;
use askwhen_wire::record::Internal;

/// A record of askwhen's own for another partition.
pub fn to_partition(to: u32, internal: &Internal, answers: bool) -> Outgoing {
    let value = askwhen_wire::record::encode_internal(internal);
    let value = Json::from_valid(String::from_utf8(value).expect("JSON is UTF-8"));
    Outgoing { to, key: None, value, trusted: true, answers }
}

/// A record of askwhen's own about a name, for the partition of that name, which answers
/// whoever waits for the record at hand.
pub fn about_name(at: RecordContext<'_>, name: &str, internal: &Internal) -> Effects {
    let outgoing = to_partition(id::partition_of(name, at.partitions), internal, true);
    Effects { forwards: vec![Outgoing { key: Some(name.to_owned()), ..outgoing }], ..Effects::default() }
}

/// Letters to other partitions travel in their journals.
pub fn post(mail: Vec<QuotaMessage>, effects: &mut Effects) {
    effects.forwards.extend(mail.into_iter().map(|mail| to_partition(mail.to, &Internal::Quota(mail), false)));
}

/// Changes of one table, to be put into a checkpoint's batch.
pub type Changes = Box<dyn FnOnce(&mut Batch) + Send>;
