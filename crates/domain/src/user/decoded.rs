//! How the shared parts of a user are decoded.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use std::sync::Arc;

use super::name;

/// A value that is decoded into the one allocation that its owners share. An `Arc` by
/// itself is decoded into a box, and copied from there into a second allocation.
pub(super) struct Decoded<T>(pub Arc<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Decoded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decoded<T>, D::Error> {
        T::deserialize(deserializer).map(|value| Decoded(Arc::new(value)))
    }
}

/// A name that is decoded into the one allocation that all users share.
pub(super) struct Name(pub Arc<str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Arc<str>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Arc<str>, E> {
                Ok(name::shared(text))
            }
        }
        deserializer.deserialize_str(Text).map(Name)
    }
}

/// For a field.
pub(super) fn shared<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<T>, D::Error> {
    Decoded::deserialize(deserializer).map(|Decoded(value)| value)
}

/// The same for a name.
pub(super) fn shared_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Name::deserialize(deserializer).map(|Name(name)| name)
}
