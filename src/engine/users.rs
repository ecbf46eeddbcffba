//! The users of a partition: decoded while they are busy, written once per
//! checkpoint, read through from the store.

use std::collections::HashMap;
use std::sync::Arc;

use super::Changes;
use crate::domain::user::User;
use crate::store::{self, Family, Store, keys};
use crate::wire::state;

struct Slot {
    user: Arc<User>,
    dirty: bool,
    /// Used since the last sweep.
    used: bool,
}

pub struct Users {
    store: Arc<Store>,
    slots: HashMap<Vec<u8>, Slot>,
    dirty: Vec<Vec<u8>>,
    dirty_bytes: usize,
    /// Frozen users are answered from memory until they are in the store.
    freezing: bool,
    most: usize,
}

impl Users {
    pub fn new(store: Arc<Store>, most: usize) -> Users {
        Users { store, slots: HashMap::new(), dirty: Vec::new(), dirty_bytes: 0, freezing: false, most }
    }

    /// # Errors
    /// When the store cannot be read, or the state is of another layout.
    pub fn get(&mut self, project: &str, user_id: &str) -> Result<Arc<User>, store::Error> {
        let key = keys::named(project, user_id);
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.used = true;
            return Ok(slot.user.clone());
        }
        let user = match self.store.get(Family::Users, &key)? {
            None => User::default(),
            Some(bytes) => state::decode(&bytes)
                .map_err(|e| store::Error::Damaged { path: "users".into(), detail: e.to_string() })?,
        };
        let user = Arc::new(user);
        self.make_room();
        self.slots.insert(key, Slot { user: user.clone(), dirty: false, used: true });
        Ok(user)
    }

    pub fn put(&mut self, project: &str, user_id: &str, user: User) {
        let key = keys::named(project, user_id);
        let bytes = user.approximate_bytes();
        let user = Arc::new(user);
        match self.slots.get_mut(&key) {
            Some(slot) => {
                slot.user = user;
                slot.used = true;
                if std::mem::replace(&mut slot.dirty, true) {
                    return;
                }
            }
            None => {
                self.slots.insert(key.clone(), Slot { user, dirty: true, used: true });
            }
        }
        self.dirty_bytes += bytes;
        self.dirty.push(key);
    }

    pub fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    pub fn freeze(&mut self) -> Changes {
        self.freezing = true;
        self.dirty_bytes = 0;
        let mut frozen = Vec::with_capacity(self.dirty.len());
        for key in self.dirty.drain(..) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.dirty = false;
                frozen.push((key, slot.user.clone()));
            }
        }
        Box::new(move |batch| {
            for (key, user) in frozen {
                // Of whom nothing is known nothing is stored either.
                if *user == User::default() {
                    batch.delete(Family::Users, key);
                } else {
                    batch.put(Family::Users, key, state::encode(&user));
                }
            }
        })
    }

    pub fn persisted(&mut self) {
        self.freezing = false;
        self.make_room();
    }

    /// Lets go of clean users that were not used since the last sweep; all
    /// clean ones if that is not enough.
    fn make_room(&mut self) {
        if self.freezing || self.slots.len() < self.most {
            return;
        }
        self.slots.retain(|_, slot| slot.dirty || std::mem::replace(&mut slot.used, false));
        if self.slots.len() >= self.most {
            self.slots.retain(|_, slot| slot.dirty);
        }
    }
}
