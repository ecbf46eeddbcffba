//! The users of a partition: decoded while they are in use, written once per checkpoint,
//! read from the store on demand. The cache is bounded by bytes, whatever the number of
//! users.

use crate::engine::families;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::changes::Changes;
use super::gauge::Gauge;
use askwhen_domain::user::User;
use askwhen_partition::Failure;
use askwhen_store::{Store, keys};
use askwhen_wire::state;

/// What a user takes beside what [`User::approximate_bytes`] counts, as the allocator rounds
/// it up: its own fields 224, its slot in a map that is never full 56 to 112, its key 48, and
/// the key's place among those that have changed.
const SLOT_BYTES: usize = 400;
/// The cache is swept only when this fraction of its limit can be gained, so that sweeps
/// stay rare.
const SWEPT_SHARE: usize = 8;
/// At most this fraction of the limit is left to counters.
const MOST_BESIDE: usize = 4;

/// How many bytes of decoded users and counters a partition keeps; it may change at any time.
/// What changed since the last checkpoint is kept beyond it.
#[derive(Debug, Clone)]
pub struct CacheLimit(Arc<AtomicUsize>);

impl CacheLimit {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

impl From<usize> for CacheLimit {
    fn from(bytes: usize) -> CacheLimit {
        CacheLimit(Arc::new(AtomicUsize::new(bytes)))
    }
}

struct Slot {
    user: Arc<User>,
    bytes: usize,
    dirty: bool,
    /// The checkpoint in which it was last frozen: until that is written, the store does
    /// not have it.
    frozen_in: u64,
    /// Whether it was used since the last sweep.
    used: bool,
}

pub struct Users {
    store: Arc<Store>,
    slots: HashMap<Arc<[u8]>, Slot>,
    dirty: Vec<Arc<[u8]>>,
    dirty_bytes: usize,
    /// The bytes of all slots.
    bytes: usize,
    limit: CacheLimit,
    /// The bytes of the limit that counters take.
    beside_bytes: usize,
    /// The number of bytes above which a sweep is worth while.
    sweep_at: usize,
    /// Checkpoints begun, and the last one written.
    freezes: u64,
    written: u64,
    gauge: Gauge,
}

impl Users {
    pub fn new(store: Arc<Store>, limit: CacheLimit) -> Users {
        Users {
            store,
            slots: HashMap::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            bytes: 0,
            limit,
            beside_bytes: 0,
            sweep_at: 0,
            freezes: 0,
            written: 0,
            gauge: Gauge::of(&askwhen_process::metrics::get().memory_users),
        }
    }

    /// A user, from the cache or the store.
    ///
    /// # Errors
    /// When the store cannot be read, or the state is of a later format.
    pub fn get(&mut self, project: &str, user_id: &str) -> Result<Arc<User>, Failure> {
        let key = keys::named(project, user_id);
        if let Some(slot) = self.slots.get_mut(&*key) {
            slot.used = true;
            return Ok(slot.user.clone());
        }
        let user = match self.store.get(families::USERS, &key)? {
            None => User::default(),
            Some(bytes) => state::decode(&bytes).map_err(|error| match error {
                // Not damage: a later version of the program can read it.
                state::Error::UnknownVersion(_) => Failure::Refused(Arc::new(error)),
                error => Failure::Store(askwhen_store::Error::damaged("users", error)),
            })?,
        };
        let user = Arc::new(user);
        let bytes = weight(&user);
        self.make_room(bytes);
        self.account(0, bytes);
        let slot = Slot { user: user.clone(), bytes, dirty: false, frozen_in: self.written, used: true };
        self.slots.insert(key.into(), slot);
        Ok(user)
    }

    pub fn put(&mut self, project: &str, user_id: &str, user: User) {
        let key = keys::named(project, user_id);
        let bytes = weight(&user);
        let user = Arc::new(user);
        let (before, was_dirty) = match self.slots.get_mut(&*key) {
            Some(slot) => {
                let was = (slot.bytes, slot.dirty);
                (slot.user, slot.bytes) = (user, bytes);
                (slot.used, slot.dirty) = (true, true);
                was
            }
            None => {
                let slot = Slot { user, bytes, dirty: true, frozen_in: self.written, used: true };
                self.slots.insert(key.as_slice().into(), slot);
                (0, false)
            }
        };
        self.account(before, bytes);
        // The bytes that it had when it was changed before do not count any more.
        self.dirty_bytes -= if was_dirty { before } else { 0 };
        self.dirty_bytes += bytes;
        if !was_dirty {
            let kept = self.slots.get_key_value(&*key).map(|(key, _)| key.clone());
            self.dirty.extend(kept);
        }
    }

    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Sets how many bytes of the limit counters take.
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside_bytes = bytes;
    }

    pub fn freeze(&mut self) -> Changes {
        self.freezes += 1;
        self.dirty_bytes = 0;
        let mut frozen = Vec::with_capacity(self.dirty.len());
        for key in std::mem::take(&mut self.dirty) {
            if let Some(slot) = self.slots.get_mut(&*key) {
                slot.dirty = false;
                slot.frozen_in = self.freezes;
                frozen.push((key, slot.user.clone()));
            }
        }
        Box::new(move |batch| {
            for (key, user) in frozen {
                // A user without state has no row.
                if user.is_empty() {
                    batch.delete(families::USERS, &*key);
                } else {
                    batch.put(families::USERS, &*key, state::encode(&user));
                }
            }
        })
    }

    pub fn persisted(&mut self) {
        self.written = self.freezes;
        self.sweep_at = 0;
        self.make_room(0);
    }

    /// Evicts users that the store has and that were not used since the last sweep, or all
    /// that the store has if that is not enough.
    fn make_room(&mut self, more: usize) {
        let all = self.limit.bytes();
        let limit = all - self.beside_bytes.min(all / MOST_BESIDE);
        if self.bytes + more <= limit.max(self.sweep_at) {
            return;
        }
        let target = limit - limit / SWEPT_SHARE;
        self.sweep(|slot| !std::mem::replace(&mut slot.used, false));
        if self.bytes + more > target {
            self.sweep(|_| true);
        }
        // The rest waits for its checkpoint: sweeping again at every record would cost more
        // than it gains.
        self.sweep_at = self.bytes + limit / SWEPT_SHARE;
        if self.slots.capacity() > 4 * self.slots.len() {
            self.slots.shrink_to_fit();
        }
    }

    fn sweep(&mut self, mut may_go: impl FnMut(&mut Slot) -> bool) {
        let (before, written) = (self.bytes, self.written);
        let mut kept = 0;
        self.slots.retain(|_, slot| {
            let known = !slot.dirty && slot.frozen_in <= written;
            // Called for all, because it clears the mark of use.
            let stays = !may_go(slot) || !known;
            kept += if stays { slot.bytes } else { 0 };
            stays
        });
        self.account(before, kept);
    }

    /// A slot has grown or shrunk.
    fn account(&mut self, before: usize, after: usize) {
        self.bytes = self.bytes - before + after;
        self.gauge.set(self.bytes);
    }
}

/// About how many bytes a decoded user takes in memory: text in maps takes half as much
/// again as its length. Measured with users of 30 KB, which took 41 KiB each.
fn weight(user: &User) -> usize {
    let bytes = user.approximate_bytes();
    SLOT_BYTES + bytes + bytes / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::json::Json;
    use askwhen_store::Batch;

    fn user(bytes: usize) -> User {
        let attributes = [("a".to_owned(), Json::of(&"x".repeat(bytes)))];
        let mut user = User::default();
        user.attributes = std::collections::BTreeMap::from(attributes).into();
        user.summarized()
    }

    fn write(store: &Store, users: &mut Users) {
        let mut batch = Batch::default();
        users.freeze()(&mut batch);
        store.write(batch).unwrap();
        users.persisted();
    }

    #[test]
    fn what_is_kept_is_bounded_by_bytes_and_what_is_not_written_stays() {
        let store = Arc::new(Store::Memory(Default::default()));
        let mut users = Users::new(store.clone(), CacheLimit::from(1 << 20));
        for n in 0..100 {
            users.put("p", &format!("u{n}"), user(30_000));
        }
        assert!(users.bytes > 100 * 45_000 && users.slots.len() == 100, "nothing is lost before it is written");
        assert_eq!(users.dirty_bytes, users.bytes);
        write(&store, &mut users);
        assert!(users.bytes <= 1 << 20, "{}", users.bytes);
        for n in 0..100 {
            assert_eq!(*users.get("p", &format!("u{n}")).unwrap(), user(30_000));
            assert!(users.bytes <= 1 << 20, "{}", users.bytes);
        }
        let counted: usize = users.slots.values().map(|slot| slot.bytes).sum();
        assert_eq!(counted, users.bytes);
    }

    #[test]
    fn a_user_that_grows_counts_as_what_it_has_become() {
        let mut users = Users::new(Arc::new(Store::Memory(Default::default())), CacheLimit::from(0));
        users.put("p", "u", user(10));
        users.put("p", "u", user(10_000));
        assert_eq!(users.dirty_bytes, weight(&user(10_000)));
        users.put("p", "u", user(100));
        assert_eq!((users.dirty_bytes, users.dirty.len()), (weight(&user(100)), 1));
    }

    #[test]
    fn what_was_frozen_is_answered_from_memory_until_it_is_written() {
        let store = Arc::new(Store::Memory(Default::default()));
        let mut users = Users::new(store.clone(), CacheLimit::from(0));
        users.put("p", "u", user(10));
        let changes = users.freeze();
        for n in 0..10 {
            users.get("p", &format!("other{n}")).unwrap();
        }
        assert_eq!(*users.get("p", "u").unwrap(), user(10));
        let mut batch = Batch::default();
        changes(&mut batch);
        store.write(batch).unwrap();
        users.persisted();
        assert!(users.slots.is_empty());
        assert_eq!(*users.get("p", "u").unwrap(), user(10));
    }
}
