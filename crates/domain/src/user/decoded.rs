//! How the shared parts of a user are decoded.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

/// A value that is decoded into the one allocation that its owners share. An `Arc` by
/// itself is decoded into a box, and copied from there into a second allocation.
pub(super) struct Decoded<T: ?Sized>(pub Arc<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decoded<T>, D::Error> {
        T::deserialize(deserializer).map(|value| Decoded(Arc::new(value)))
    }
}

impl<'de> Deserialize<'de> for Decoded<str> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decoded<str>, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Arc<str>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Arc<str>, E> {
                Ok(text.into())
            }
        }
        deserializer.deserialize_str(Text).map(Decoded)
    }
}

/// For a field.
pub(super) fn shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<T>, D::Error> {
    Decoded::deserialize(deserializer).map(|Decoded(value)| value)
}
