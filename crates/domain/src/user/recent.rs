//! The ids of a user's latest events.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::part::Part;
use crate::time::Millis;

/// The number of newest ids that each copy of a user has of its own; older ones are shared.
const OWN_IDS: usize = 16;

/// An event id as a 128-bit hash, and when it was first seen.
pub type SeenId = (u128, Millis);

/// An id as it is kept: a `u128` would be aligned to 16 bytes and take 32 with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeptId {
    hash: [u64; 2],
    seen: Millis,
}

fn halves(hash: u128) -> [u64; 2] {
    [(hash >> 64) as u64, hash as u64]
}

impl From<SeenId> for KeptId {
    fn from((hash, seen): SeenId) -> KeptId {
        KeptId { hash: halves(hash), seen }
    }
}

impl From<KeptId> for SeenId {
    fn from(KeptId { hash: [high, low], seen }: KeptId) -> SeenId {
        (u128::from(high) << 64 | u128::from(low), seen)
    }
}

/// Event ids, oldest first. Adding one and dropping one copies only a few of them.
#[derive(Debug, Default)]
pub struct RecentIds {
    shared: Part<Vec<KeptId>>,
    /// How many of the shared ids have been dropped.
    gone: usize,
    own: Vec<KeptId>,
}

impl RecentIds {
    fn shared(all: Vec<KeptId>) -> RecentIds {
        RecentIds { shared: all.into(), gone: 0, own: Vec::new() }
    }

    fn kept(&self) -> impl DoubleEndedIterator<Item = &KeptId> {
        self.shared[self.gone..].iter().chain(&self.own)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = SeenId> {
        self.kept().map(|kept| SeenId::from(*kept))
    }

    pub fn len(&self) -> usize {
        self.shared.len() - self.gone + self.own.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has(&self, hash: u128) -> bool {
        let hash = halves(hash);
        self.kept().any(|kept| kept.hash == hash)
    }

    pub fn newest(&self) -> Option<SeenId> {
        self.iter().next_back()
    }

    pub(super) fn oldest(&self) -> Option<SeenId> {
        self.iter().next()
    }

    pub(super) fn push(&mut self, id: SeenId) {
        if self.own.len() == OWN_IDS {
            let all = self.kept().copied().collect();
            *self = RecentIds::shared(all);
        }
        self.own.push(id.into());
    }

    /// Removes the oldest.
    pub(super) fn pop(&mut self) -> Option<SeenId> {
        let oldest = self.oldest()?;
        if self.gone < self.shared.len() {
            self.gone += 1;
        } else {
            self.own.remove(0);
        }
        Some(oldest)
    }

    /// Merges the ids of another user, in the order of their times.
    pub(super) fn merge(&mut self, theirs: &RecentIds) {
        let mut all: Vec<KeptId> = self.kept().chain(theirs.kept()).copied().collect();
        all.sort_by_key(|kept| kept.seen);
        *self = RecentIds::shared(all);
    }

    /// Moves all times after `latest` back to it.
    pub(super) fn put_back(&mut self, latest: Millis) {
        if self.newest().is_some_and(|(_, seen)| seen > latest) {
            let all = self.kept().map(|kept| KeptId { seen: latest.min(kept.seen), ..*kept }).collect();
            *self = RecentIds::shared(all);
        }
    }
}

/// A copy has room for one more: it is made to add one.
impl Clone for RecentIds {
    fn clone(&self) -> RecentIds {
        let mut own = Vec::with_capacity(self.own.len() + 1);
        own.extend_from_slice(&self.own);
        RecentIds { shared: self.shared.clone(), gone: self.gone, own }
    }
}

/// How many of the ids are shared does not matter for equality.
impl PartialEq for RecentIds {
    fn eq(&self, other: &RecentIds) -> bool {
        let is_shared = self.shared.is_shared_with(&other.shared) && self.gone == other.gone;
        if is_shared { self.own == other.own } else { self.len() == other.len() && self.kept().eq(other.kept()) }
    }
}

impl Eq for RecentIds {}

impl Serialize for RecentIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for RecentIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecentIds, D::Error> {
        let all = Vec::<SeenId>::deserialize(deserializer)?;
        Ok(RecentIds::shared(all.into_iter().map(KeptId::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn they_are_a_queue_however_they_are_shared() {
        let (mut queue, mut ids) = (VecDeque::new(), RecentIds::default());
        let mut earlier: Vec<(VecDeque<SeenId>, RecentIds)> = Vec::new();
        for n in 0..500_u32 {
            let id = (u128::from(n), Millis::from(n));
            queue.push_back(id);
            ids.push(id);
            if n % 7 > 2 || queue.len() > 40 {
                assert_eq!(ids.pop(), queue.pop_front());
            }
            if n == 300 {
                queue.iter_mut().for_each(|(_, seen)| *seen = 290.min(*seen));
                ids.put_back(290);
            }
            assert!(ids.iter().eq(queue.iter().copied()) && ids.len() == queue.len(), "{n}");
            assert_eq!((ids.newest(), ids.oldest()), (queue.back().copied(), queue.front().copied()));
            let bytes = serde_json::to_vec(&ids).expect("it serialises");
            assert_eq!(bytes, serde_json::to_vec(&queue).expect("it serialises"), "stored as a queue is");
            assert_eq!(serde_json::from_slice::<RecentIds>(&bytes).expect("it is read"), ids);
            earlier.push((queue.clone(), ids.clone()));
        }
        assert!(earlier.iter().all(|(queue, ids)| ids.iter().eq(queue.iter().copied())), "a copy stays as it was");
        assert!(earlier.windows(2).all(|two| two[0].1 != two[1].1));
    }
}
