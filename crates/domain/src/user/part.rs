//! A part of a user's state.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// A collection that has an empty value in static memory.
pub trait Collection: Clone + 'static {
    const EMPTY: &'static Self;

    fn is_empty(&self) -> bool;
}

impl<T: Clone + 'static> Collection for Vec<T> {
    const EMPTY: &'static Self = &Vec::new();

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K: Clone + 'static, V: Clone + 'static> Collection for BTreeMap<K, V> {
    const EMPTY: &'static Self = &BTreeMap::new();

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// A collection that copies of a user share until one of them changes it. Most are empty,
/// and an empty one allocates nothing: neither reading nor copying nor dropping a user
/// touches memory for it.
#[derive(Debug, Clone)]
pub struct Part<T>(Option<Arc<T>>);

impl<T: Collection> Part<T> {
    /// The collection, to be changed; copied first when it is shared.
    pub fn make_mut(&mut self) -> &mut T {
        Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(T::EMPTY.clone())))
    }

    /// Whether both are one allocation, or none.
    pub(super) fn is_shared_with(&self, other: &Part<T>) -> bool {
        match (&self.0, &other.0) {
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }
}

impl<T> Default for Part<T> {
    fn default() -> Part<T> {
        Part(None)
    }
}

impl<T: Collection> From<T> for Part<T> {
    fn from(all: T) -> Part<T> {
        Part((!all.is_empty()).then(|| Arc::new(all)))
    }
}

impl<T: Collection> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::EMPTY)
    }
}

/// One that has become empty equals one that always was.
impl<T: Collection + PartialEq> PartialEq for Part<T> {
    fn eq(&self, other: &Part<T>) -> bool {
        self.is_shared_with(other) || **self == **other
    }
}

impl<T: Collection + Eq> Eq for Part<T> {}

impl<T: Collection + Serialize> Serialize for Part<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, serializer)
    }
}

impl<'de, T: Collection + Deserialize<'de>> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Part<T>, D::Error> {
        T::deserialize(deserializer).map(Part::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_empty_is_empty() {
        let mut part = Part::<Vec<u32>>::default();
        let empty = part.clone();
        part.make_mut().push(7);
        let one = part.clone();
        assert!(one.is_shared_with(&part) && !one.is_shared_with(&empty));
        part.make_mut().push(8);
        assert_eq!((&**empty, &**one, &**part), (&[][..], &[7][..], &[7, 8][..]));
        part.make_mut().clear();
        assert_eq!(part, empty);
        assert!(!part.is_shared_with(&empty));
        for part in [empty, one, part] {
            let bytes = serde_json::to_vec(&part).expect("it serialises");
            assert_eq!(bytes, serde_json::to_vec(&*part).expect("it serialises"), "as the collection is");
            assert_eq!(serde_json::from_slice::<Part<Vec<u32>>>(&bytes).expect("it is read"), part);
        }
    }
}
