//! JSON that passes through untouched.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The text of one JSON value, kept to the byte: numbers of any size, member
/// order and spelling survive the whole way from a request to a webhook.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Wraps text that is known to be one valid JSON value.
    pub fn from_valid(text: impl Into<Box<str>>) -> Json {
        Json(text.into())
    }

    /// `{}`
    pub fn empty_object() -> Json {
        Json("{}".into())
    }

    /// `null`
    pub fn null() -> Json {
        Json("null".into())
    }

    /// The text of anything that serialises without failing.
    pub fn of<T: Serialize>(value: &T) -> Json {
        Json(serde_json::to_string(value).expect("a plain value serialises").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parsed; numbers keep their digits.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.0).unwrap_or(serde_json::Value::Null)
    }

    pub fn is_null(&self) -> bool {
        &*self.0 == "null"
    }

    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// As itself in JSON, as a string elsewhere (the state codec is not JSON).
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
            raw.serialize(serializer)
        } else {
            serializer.serialize_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            Ok(Json(String::from(Box::<str>::from(raw)).into()))
        } else {
            Ok(Json(String::deserialize(deserializer)?.into()))
        }
    }
}
