//! Topic `rejects`: records that were refused, with position and reason.

use serde::{Deserialize, Serialize};

use crate::topic::Topic;

/// A record that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectRecord {
    /// Its position.
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    /// A stable name.
    pub reason: String,
    /// An explanation for people.
    pub detail: String,
    /// Its first bytes, in base64, because they may be anything.
    #[serde(with = "base64_text")]
    pub raw: Vec<u8>,
}

impl RejectRecord {
    /// The reject of the record at an offset of a topic's partition.
    pub fn of(topic: Topic, partition: u32, offset: u64, reason: &str, detail: &str, raw: &[u8]) -> RejectRecord {
        RejectRecord {
            topic: topic.name().to_owned(),
            partition,
            offset,
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            raw: raw.to_owned(),
        }
    }
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
