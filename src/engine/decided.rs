//! Bodies of recent decisions, so that a repeated trigger gets the same answer. A bounded
//! cache: triggers that it has dropped are answered as stale.

use crate::engine::families;
use std::collections::HashMap;
use std::sync::Arc;

use super::changes::Changes;
use askwhen_domain::json::Json;
use askwhen_domain::time::{HOUR, Millis};
use askwhen_partition::EngineReply;
use askwhen_store::{Store, keys};
use askwhen_wire::row;

/// The most bytes between two checkpoints; beyond that decisions are not stored.
const MAX_BYTES: usize = 64 << 20;
/// The most hours that are searched back.
const MAX_HOURS: i64 = 25;
/// A decision is known for so long, at most.
pub const DECISION_KEPT: Millis = MAX_HOURS * HOUR;

#[derive(Clone)]
struct StoredDecision {
    decided_at: Millis,
    server: Json,
    client: Json,
}

pub struct RecentDecisions {
    store: Arc<Store>,
    fresh: HashMap<u128, StoredDecision>,
    writing: Arc<HashMap<u128, StoredDecision>>,
    bytes: usize,
    swept_hour: i64,
}

impl RecentDecisions {
    pub fn new(store: Arc<Store>) -> RecentDecisions {
        RecentDecisions { store, fresh: HashMap::new(), writing: Arc::default(), bytes: 0, swept_hour: 0 }
    }

    pub fn keep(&mut self, hash: u128, decided_at: Millis, server: Json, client: Json) {
        let bytes = server.len_bytes() + client.len_bytes() + 64;
        if self.bytes + bytes <= MAX_BYTES {
            self.bytes += bytes;
            self.fresh.insert(hash, StoredDecision { decided_at, server, client });
        }
    }

    /// The bodies of a decision that is no older than `offer_ttl`, and when it was made.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find(
        &self,
        hash: u128,
        now: Millis,
        offer_ttl: Millis,
    ) -> Result<Option<(Millis, EngineReply)>, askwhen_store::Error> {
        if let Some(kept) = self.fresh.get(&hash).or_else(|| self.writing.get(&hash)) {
            let fresh = now < kept.decided_at.saturating_add(offer_ttl);
            let bodies = || EngineReply::Body { server: kept.server.clone(), client: kept.client.clone() };
            return Ok(fresh.then(|| (kept.decided_at, bodies())));
        }
        let oldest = now.saturating_sub(offer_ttl).div_euclid(HOUR);
        for hour in (oldest..=now.div_euclid(HOUR)).rev().take(MAX_HOURS as usize) {
            let Some(bytes) = self.store.get(families::DECIDED, &key(hour, hash))? else { continue };
            let damaged = |e: postcard::Error| askwhen_store::Error::damaged("decided", e);
            let (decided_at, server, client): (Millis, Json, Json) = postcard::from_bytes(&bytes).map_err(damaged)?;
            if now < decided_at.saturating_add(offer_ttl) {
                return Ok(Some((decided_at, EngineReply::Body { server, client })));
            }
        }
        Ok(None)
    }

    pub fn dirty_bytes(&self) -> usize {
        self.bytes
    }

    pub fn freeze(&mut self, now: Millis) -> Changes {
        self.bytes = 0;
        self.writing = Arc::new(std::mem::take(&mut self.fresh));
        let writing = self.writing.clone();
        let oldest = now.div_euclid(HOUR) - MAX_HOURS;
        // An operator may have put the time back.
        self.swept_hour = self.swept_hour.min(oldest);
        let sweep = (oldest > self.swept_hour).then(|| std::mem::replace(&mut self.swept_hour, oldest));
        Box::new(move |batch| {
            if let Some(from) = sweep {
                batch.delete_range(families::DECIDED, key(from, 0), key(oldest, 0));
            }
            for (hash, kept) in writing.iter() {
                let StoredDecision { decided_at, server, client } = kept;
                let value = row::encode(&(decided_at, server, client), server.len_bytes() + client.len_bytes());
                batch.put(families::DECIDED, key(decided_at.div_euclid(HOUR), *hash), value);
            }
        })
    }

    pub fn persisted(&mut self) {
        self.writing = Arc::default();
    }
}

fn key(hour: i64, hash: u128) -> Vec<u8> {
    keys::timed(hour, &hash.to_be_bytes())
}
