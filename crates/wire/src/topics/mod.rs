//! One type for each topic's records, used by all who read or write them. Members may be
//! added to a record, with a default for earlier records; readers ignore unknown members.
//! Internal records of the journal are in `internal`.

pub mod attempt;
pub mod dead;
pub mod decision;
pub mod definition;
pub mod delivery;
pub mod display;
pub mod event;
mod left_out;
pub mod reject;
pub mod response;
pub mod retry;

pub use attempt::{AttemptEnd, AttemptRecord, Outcome, SignedRequest};
pub use dead::DeadRecord;
pub use decision::DecisionRecord;
pub use definition::{DefinitionRecord, IDENTITY_KEY, KEPT_VERSIONS, definition_key, is_version_key, version_key};
pub use delivery::DeliveryRecord;
pub use display::DisplayRecord;
pub use reject::RejectRecord;
pub use response::ResponseRecord;
pub use retry::RetryRecord;

/// The value of a record.
pub use crate::json::encode;

use askwhen_domain::id::RecordPosition;

/// Header of every output: its id, the same after a crash or in a replay.
pub const ID_HEADER: &str = "id";
/// Header of every output: `partition/offset/crc` of the journal record that caused it.
pub const SOURCE_HEADER: &str = "source";

/// The journal record that caused an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub partition: u32,
    pub offset: u64,
    pub crc: u32,
}

impl Source {
    pub fn encode(&self) -> String {
        format!("{}/{}/{:08x}", self.partition, self.offset, self.crc)
    }

    pub fn position(&self) -> RecordPosition {
        RecordPosition { partition: self.partition, offset: self.offset }
    }

    pub fn parse(text: &[u8]) -> Option<Source> {
        let mut parts = std::str::from_utf8(text).ok()?.split('/');
        let source = Source {
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            crc: u32::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    /// Without what is `null`: an example may leave it out.
    fn told(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                members.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, told(v))).collect()
            }
            Value::Array(items) => items.into_iter().map(told).collect(),
            other => other,
        }
    }

    /// Each line is read by its type, which writes all that the line tells, and the
    /// same bytes whenever it writes it.
    fn check<T: DeserializeOwned + Serialize>(examples: &str) {
        assert!(!examples.trim().is_empty());
        for line in examples.lines() {
            let read = |bytes: &[u8]| -> T { serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {line}")) };
            let value = |bytes: &[u8]| told(serde_json::from_slice(bytes).expect("it is JSON"));
            let written = encode(&read(line.as_bytes()));
            assert_eq!(value(&written), value(line.as_bytes()));
            assert_eq!(encode(&read(&written)), written);
        }
    }

    #[test]
    fn the_examples_of_every_topic_are_read_and_written_by_its_type() {
        check::<AttemptRecord>(include_str!("../../../../topics/examples/attempts.ndjson"));
        check::<DeadRecord>(include_str!("../../../../topics/examples/dead.ndjson"));
        check::<DecisionRecord>(include_str!("../../../../topics/examples/decisions.ndjson"));
        check::<DefinitionRecord>(include_str!("../../../../topics/examples/definitions.ndjson"));
        check::<DeliveryRecord>(include_str!("../../../../topics/examples/deliveries.ndjson"));
        check::<DisplayRecord>(include_str!("../../../../topics/examples/displays.ndjson"));
        check::<RejectRecord>(include_str!("../../../../topics/examples/rejects.ndjson"));
        check::<ResponseRecord>(include_str!("../../../../topics/examples/responses.ndjson"));
        check::<RetryRecord>(include_str!("../../../../topics/examples/retry.ndjson"));
    }
}
