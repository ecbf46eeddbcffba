//! Bytes of recent decisions, so that the same trigger asked again gets the
//! same answer. A cache with a bound: what it has lost is answered as stale.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::Changes;
use crate::actor::Answer;
use crate::domain::json::Json;
use crate::domain::time::{HOUR, Millis};
use crate::store::{self, Family, Store, keys};

/// Bytes kept between two checkpoints; beyond it decisions are not kept.
const MAX_BYTES: usize = 64 << 20;
/// Hours looked back through, at most.
const MAX_HOURS: i64 = 25;

#[derive(Clone)]
struct Kept {
    decided_at: Millis,
    server: Json,
    client: Json,
}

pub struct Recent {
    store: Arc<Store>,
    fresh: HashMap<u128, Kept>,
    writing: Arc<HashMap<u128, Kept>>,
    bytes: usize,
    swept_hour: i64,
    /// Keys of bodies that are not to be found any more, and go with the next
    /// checkpoint.
    forgotten: BTreeSet<Vec<u8>>,
    forgetting: Arc<BTreeSet<Vec<u8>>>,
}

impl Recent {
    pub fn new(store: Arc<Store>) -> Recent {
        Recent {
            store,
            fresh: HashMap::new(),
            writing: Arc::default(),
            bytes: 0,
            swept_hour: 0,
            forgotten: BTreeSet::new(),
            forgetting: Arc::default(),
        }
    }

    pub fn keep(&mut self, hash: u128, decided_at: Millis, server: Json, client: Json) {
        let bytes = server.len_bytes() + client.len_bytes() + 64;
        if self.bytes + bytes <= MAX_BYTES {
            self.bytes += bytes;
            self.fresh.insert(hash, Kept { decided_at, server, client });
        }
    }

    /// The bodies of a decision no older than `offer_ttl`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, hash: u128, now: Millis, offer_ttl: Millis) -> Result<Option<Answer>, store::Error> {
        let written = self.writing.get(&hash).filter(|kept| !self.is_forgotten(&key_of(hash, kept)));
        if let Some(kept) = self.fresh.get(&hash).or(written) {
            let fresh = now < kept.decided_at.saturating_add(offer_ttl);
            return Ok(fresh.then(|| Answer::Body { server: kept.server.clone(), client: kept.client.clone() }));
        }
        let oldest = now.saturating_sub(offer_ttl).div_euclid(HOUR);
        for hour in (oldest..=now.div_euclid(HOUR)).rev().take(MAX_HOURS as usize) {
            let key = key(hour, hash);
            if self.is_forgotten(&key) {
                continue;
            }
            let Some(bytes) = self.store.get(Family::Decided, &key)? else { continue };
            let Ok((decided_at, server, client)) = postcard::from_bytes::<(Millis, Json, Json)>(&bytes) else {
                continue;
            };
            if now < decided_at.saturating_add(offer_ttl) {
                return Ok(Some(Answer::Body { server, client }));
            }
        }
        Ok(None)
    }

    /// Forgets the decisions on an erased user's triggers: ids, and when they
    /// were decided.
    pub fn forget(&mut self, recent: &VecDeque<(u128, Millis)>) {
        for (hash, seen_at) in recent {
            self.fresh.remove(hash);
            self.forgotten.insert(key(seen_at.div_euclid(HOUR), *hash));
        }
    }

    fn is_forgotten(&self, key: &[u8]) -> bool {
        self.forgotten.contains(key) || self.forgetting.contains(key)
    }

    pub fn dirty_bytes(&self) -> usize {
        self.bytes
    }

    pub fn freeze(&mut self, now: Millis) -> Changes {
        self.bytes = 0;
        self.writing = Arc::new(std::mem::take(&mut self.fresh));
        self.forgetting = Arc::new(std::mem::take(&mut self.forgotten));
        let (writing, forgetting) = (self.writing.clone(), self.forgetting.clone());
        let oldest = now.div_euclid(HOUR) - MAX_HOURS;
        let sweep = (oldest > self.swept_hour).then(|| std::mem::replace(&mut self.swept_hour, oldest));
        Box::new(move |batch| {
            if let Some(from) = sweep {
                batch.delete_range(Family::Decided, key(from, 0), key(oldest, 0));
            }
            for (hash, kept) in writing.iter() {
                let value = postcard::to_stdvec(&(kept.decided_at, &kept.server, &kept.client));
                batch.put(Family::Decided, key_of(*hash, kept), value.expect("bodies serialise"));
            }
            // Whoever is asked again after an erasure is answered from `fresh`.
            for key in forgetting.iter() {
                batch.delete(Family::Decided, key.clone());
            }
        })
    }

    pub fn persisted(&mut self) {
        self.writing = Arc::default();
        self.forgetting = Arc::default();
    }
}

fn key_of(hash: u128, kept: &Kept) -> Vec<u8> {
    key(kept.decided_at.div_euclid(HOUR), hash)
}

fn key(hour: i64, hash: u128) -> Vec<u8> {
    keys::timed(hour, &hash.to_be_bytes())
}
