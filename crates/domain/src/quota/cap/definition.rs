//! The definition of a cap, and the counters that it has.

use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::json::Json;
use crate::time::{self, Millis};

/// What a cap counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapEvent {
    Displayed,
    Completed,
}

impl CapEvent {
    pub const ALL: [(&'static str, CapEvent); 2] =
        [("displayed", CapEvent::Displayed), ("completed", CapEvent::Completed)];
}

/// Whether a cap applies to users without the attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingValue {
    /// It does not apply to them.
    #[default]
    Pass,
    /// It keeps them from being asked.
    Shut,
}

impl MissingValue {
    pub const ALL: [(&'static str, MissingValue); 2] = [("pass", MissingValue::Pass), ("shut", MissingValue::Shut)];

    fn is_pass(&self) -> bool {
        *self == MissingValue::Pass
    }
}

/// A cap of a survey, or of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cap {
    pub count: CapEvent,
    pub max: u64,
    /// How far back the cap counts, in milliseconds, the far end included; `None` for ever.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub within: Option<Millis>,
    /// The attribute whose values are counted separately.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_attribute")]
    pub per: Option<String>,
    #[serde(skip_serializing_if = "MissingValue::is_pass")]
    pub missing: MissingValue,
}

fn as_attribute<S: Serializer>(per: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("attribute", per)?;
    map.end()
}

impl Cap {
    pub fn rule(&self) -> CapRule {
        CapRule { max: self.max, within: self.within }
    }

    /// Identifies the cap among others of its survey: caps that differ in it have separate
    /// counters. A cap whose `max` has changed continues to count.
    pub fn counts_as(&self) -> (CapEvent, Option<Millis>, Option<&str>) {
        (self.count, self.within, self.per.as_deref())
    }

    /// The counter of a value. `scope` is the survey's id, or an empty text for a cap of
    /// the settings.
    pub fn key(&self, project: &str, scope: &str, value: Option<&Value>) -> CapKey {
        let count = match self.count {
            CapEvent::Displayed => "displayed",
            CapEvent::Completed => "completed",
        };
        let within = self.within.map_or(String::new(), |within| within.to_string());
        let name = [project, scope, count, &within, self.per.as_deref().unwrap_or_default()].join("\0");
        let value = value.map_or(0, |value| xxhash_rust::xxh3::xxh3_128(Json::canonical(value).as_str().as_bytes()));
        CapKey { cap: xxhash_rust::xxh3::xxh3_64(name.as_bytes()), value }
    }
}

/// How many, and within which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapRule {
    pub max: u64,
    pub within: Option<Millis>,
}

/// Names a counter by hashes of its cap and its value, so that no attribute of a user is in
/// the journals of other partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapKey {
    pub cap: u64,
    pub value: u128,
}

impl CapKey {
    /// The partition that keeps the counter.
    pub fn home(self, partitions: u32) -> u32 {
        ((self.cap ^ self.value as u64) % u64::from(partitions.max(1))) as u32
    }

    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.cap.to_be_bytes());
        bytes[8..].copy_from_slice(&self.value.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<CapKey> {
        let (cap, value) = bytes.split_at_checked(8)?;
        let cap = u64::from_be_bytes(cap.try_into().ok()?);
        Some(CapKey { cap, value: u128::from_be_bytes(value.try_into().ok()?) })
    }
}

impl Serialize for CapKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(self.to_bytes()))
        } else {
            (self.cap, self.value).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for CapKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CapKey, D::Error> {
        if !deserializer.is_human_readable() {
            let (cap, value) = <(u64, u128)>::deserialize(deserializer)?;
            return Ok(CapKey { cap, value });
        }
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(text).map_err(D::Error::custom)?;
        CapKey::from_bytes(&bytes).ok_or_else(|| D::Error::custom("not the 24 bytes of a counter"))
    }
}
