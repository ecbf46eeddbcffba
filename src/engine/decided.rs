//! Bodies of recent decisions, so that a repeated trigger gets the same answer. A bounded
//! cache: triggers that it has dropped are answered as stale. The body for clients is made of
//! the other when somebody asks again, which few do.

use crate::engine::families;
use std::collections::HashMap;
use std::sync::Arc;

use super::changes::Changes;
use super::outputs;
use askwhen_domain::json::Json;
use askwhen_domain::time::{HOUR, Millis};
use askwhen_partition::EngineReply;
use askwhen_store::{Store, keys};
use askwhen_wire::row;

/// The most bytes between two checkpoints; beyond that decisions are not stored.
const MAX_BYTES: usize = 64 << 20;
/// The most hours that are searched back.
const MAX_HOURS: i64 = 25;
/// The first byte of a row that has no body for clients. Earlier rows begin with the time of
/// the decision, of which this would be the first millisecond before 1970.
const WITHOUT_CLIENT: u8 = 1;
/// A decision is known for so long, at most.
pub const DECISION_KEPT: Millis = MAX_HOURS * HOUR;

#[derive(Clone)]
struct StoredDecision {
    decided_at: Millis,
    server: Json,
    /// See [`Decision::exposed`](askwhen_domain::eligibility::decision::Decision::exposed).
    exposed: Option<Json>,
}

impl StoredDecision {
    fn bodies(&self) -> EngineReply {
        outputs::decision_bodies(self.server.clone(), self.exposed.as_ref())
    }
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

    pub fn keep(&mut self, hash: u128, decided_at: Millis, server: Json, exposed: Option<Json>) {
        let bytes = server.len_bytes() + exposed.as_ref().map_or(0, Json::len_bytes) + 64;
        if self.bytes + bytes <= MAX_BYTES {
            self.bytes += bytes;
            self.fresh.insert(hash, StoredDecision { decided_at, server, exposed });
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
            return Ok(fresh.then(|| (kept.decided_at, kept.bodies())));
        }
        let oldest = now.saturating_sub(offer_ttl).div_euclid(HOUR);
        for hour in (oldest..=now.div_euclid(HOUR)).rev().take(MAX_HOURS as usize) {
            let Some(bytes) = self.store.get(families::DECIDED, &key(hour, hash))? else { continue };
            let (decided_at, bodies) = decode(&bytes).map_err(|e| askwhen_store::Error::damaged("decided", e))?;
            if now < decided_at.saturating_add(offer_ttl) {
                return Ok(Some((decided_at, bodies)));
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
                batch.put(families::DECIDED, key(kept.decided_at.div_euclid(HOUR), *hash), encode(kept));
            }
        })
    }

    pub fn persisted(&mut self) {
        self.writing = Arc::default();
    }
}

fn encode(kept: &StoredDecision) -> Vec<u8> {
    let StoredDecision { decided_at, server, exposed } = kept;
    let about_bytes = server.len_bytes() + exposed.as_ref().map_or(0, Json::len_bytes);
    row::encode_behind(&[WITHOUT_CLIENT], &(decided_at, server, exposed), about_bytes)
}

/// When a row's decision was made, and its bodies.
fn decode(row: &[u8]) -> postcard::Result<(Millis, EngineReply)> {
    if let [WITHOUT_CLIENT, row @ ..] = row {
        let (decided_at, server, exposed) = postcard::from_bytes(row)?;
        return Ok((decided_at, StoredDecision { decided_at, server, exposed }.bodies()));
    }
    let (decided_at, server, client) = postcard::from_bytes(row)?;
    Ok((decided_at, EngineReply::Body { server, client }))
}

fn key(hour: i64, hash: u128) -> Vec<u8> {
    keys::timed(hour, &hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_store::{Batch, Memory};

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn what_is_kept_is_answered_alike_from_memory_from_the_store_and_from_an_earlier_row() {
        let store = Arc::new(Store::Memory(Memory::default()));
        let server = r#"{"decision_id":"d","reason":"cooldown","survey":{"survey_id":"s","activation":{"event_id":"e",
            "properties":{"a":1.50,"b":2}},"ui":{}},"evaluations":[{"pass":true}]}"#;
        let client = r#"{"decision_id":"d","reason":"not_offered","survey":{"survey_id":"s","activation":{"event_id":"e","properties":{"a":1.50}},"ui":{}}}"#;
        let (server, client) = (Json::from_valid(server), Json::from_valid(client));
        let mut recent = RecentDecisions::new(store.clone());
        recent.keep(7, NOW, server.clone(), Some(Json::from_valid(r#"{"a":1.50}"#)));
        let expected = Some((NOW, EngineReply::Body { server: server.clone(), client: client.clone() }));
        assert_eq!(recent.find(7, NOW, HOUR).expect("readable"), expected);
        let mut batch = Batch::default();
        recent.freeze(NOW)(&mut batch);
        let earlier = row::encode(&(NOW, &server, &client), 0);
        batch.put(families::DECIDED, key(NOW.div_euclid(HOUR), 8), earlier);
        store.write(batch).expect("written");
        recent.persisted();
        for hash in [7, 8] {
            assert_eq!(recent.find(hash, NOW + 1, HOUR).expect("readable"), expected, "{hash}");
            assert_eq!(recent.find(hash, NOW + HOUR, HOUR).expect("readable"), None, "{hash}");
        }
    }
}
