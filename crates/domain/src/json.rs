//! JSON text that is passed on unchanged.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::OnceCell;

/// Below this, doubles are exact for all whole numbers.
const MAX_WHOLE: f64 = 9e15;

/// The text of one JSON value, kept byte by byte: large numbers, member order and spelling
/// stay the same from a request to a webhook.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// Wraps text that is known to be one valid JSON value.
    pub fn from_valid(text: impl Into<Box<str>>) -> Json {
        Json(text.into())
    }

    /// A text that serde_json has read as one value.
    pub fn raw(text: &RawValue) -> Json {
        Json(text.get().into())
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

    /// The same for a text of about so many bytes, which then do not move while it grows.
    pub fn of_about<T: Serialize>(value: &T, about_bytes: usize) -> Json {
        let mut text = Vec::with_capacity(about_bytes);
        serde_json::to_writer(&mut text, value).expect("a plain value serialises");
        Json(String::from_utf8(text).expect("JSON is UTF-8").into())
    }

    /// A value in canonical form: `1.0` and `1e0` become `1`. A number with more digits
    /// than a double holds stays as it is.
    pub fn canonical(value: &Value) -> Json {
        let Value::Number(number) = value else { return Json::of(value) };
        let text = number.to_string();
        let is_exact = text.bytes().filter(u8::is_ascii_digit).count() <= f64::DIGITS as usize;
        match number.as_f64().filter(|_| is_exact && !number.is_i64()) {
            Some(double) if double.fract() == 0.0 && double.abs() < MAX_WHOLE => {
                Json((double as i64).to_string().into())
            }
            Some(double) => Json(double.to_string().into()),
            None => Json(text.into()),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parsed value; numbers keep their digits.
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

/// The text of a JSON value that is parsed when somebody first looks into it: most events
/// are kept without.
#[derive(Debug)]
pub struct LazyJson<'a> {
    text: &'a str,
    parsed: OnceCell<Value>,
}

impl<'a> LazyJson<'a> {
    /// Wraps text that is known to be one valid JSON value.
    pub fn from_valid(text: &'a str) -> LazyJson<'a> {
        LazyJson { text, parsed: OnceCell::new() }
    }

    /// The parsed value; numbers keep their digits.
    pub fn value(&self) -> &Value {
        self.parsed.get_or_init(|| serde_json::from_str(self.text).unwrap_or(Value::Null))
    }
}

/// The members of an object, in order, with the text of their values.
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        /// A `Cow` by itself is never borrowed.
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'a> Members<'a> {
    /// The text of a member's value.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.get())
    }

    /// Replaces the value of a member, if there is one.
    pub fn replace(&mut self, name: &str, value: &'a RawValue) {
        self.0.iter_mut().filter(|(known, _)| known == name).for_each(|member| member.1 = value);
    }
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Serialises as the value itself into JSON, and as a string into other formats (the state
/// codec is not JSON).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        let cases = [
            ("1", "1"),
            ("1.0", "1"),
            ("1e0", "1"),
            ("1e2", "100"),
            ("-0.0", "0"),
            ("1.50", "1.5"),
            ("15e-1", "1.5"),
            ("9007199254740993", "9007199254740993"),
            ("9007199254740993.0", "9007199254740993.0"),
            ("\"1.0\"", "\"1.0\""),
            ("true", "true"),
        ];
        for (written, compared) in cases {
            let value: Value = serde_json::from_str(written).unwrap();
            assert_eq!(Json::canonical(&value).as_str(), compared, "{written}");
        }
    }
}
