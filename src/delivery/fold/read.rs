//! Reads of a fold's store. Whatever cannot be read here is damage of the store, which
//! is set aside and made again from the topics.

use super::endpoint_update::EndpointUpdate;
use super::error::{Error, StateError};
use super::index::Due;
use super::row::{DeliveryPhase, PendingDelivery};
use super::{Fold, MAX_ENTRIES_PER_READ, POSITIONS, Positions, split};
use crate::delivery::families;
use askwhen_domain::time::Millis;
use askwhen_store::Store;

impl Fold {
    /// How far the fold of a store has read.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stored_positions(store: &Store) -> Result<Option<Positions>, Error> {
        let stored = store.get(families::META, POSITIONS)?;
        Ok(stored.map(|bytes| serde_json::from_slice(&bytes).map_err(StateError::Positions)).transpose()?)
    }

    /// The newest stored updates of all endpoints.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn endpoints(&self) -> Result<Vec<EndpointUpdate>, Error> {
        let mut all = Vec::new();
        self.store.each(families::ENDPOINTS, |_, value| {
            all.push(serde_json::from_slice(&value).map_err(StateError::Endpoint)?);
            Ok::<_, Error>(())
        })?;
        Ok(all)
    }

    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, delivery_id: &str) -> Result<Option<PendingDelivery>, Error> {
        Ok(self.find_sized(delivery_id)?.map(|(row, _)| row))
    }

    /// A row, and about how many bytes it takes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_sized(&self, delivery_id: &str) -> Result<Option<(PendingDelivery, usize)>, Error> {
        if let Some(known) = self.unwritten.sized(delivery_id) {
            return Ok(known.map(|(row, len_bytes)| (row.clone(), len_bytes)));
        }
        let bytes = self.store.get(families::WAITING, delivery_id.as_bytes())?;
        bytes.map(|bytes| Ok((PendingDelivery::decode(delivery_id.as_bytes(), &bytes)?, bytes.len()))).transpose()
    }

    /// Every queue of the due index, with the time at which its first delivery is due.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn queue_ids(&mut self) -> Result<Vec<(u64, Millis)>, Error> {
        self.write()?;
        let mut queue_ids = Vec::new();
        let mut from = Vec::new();
        while let Some((key, _)) = self.store.ascending(families::DUE, &from, 1)?.first() {
            let (queue_id, due_at) = split(key);
            queue_ids.push((queue_id, due_at));
            let Some(next) = queue_id.checked_add(1) else { break };
            from = next.to_be_bytes().to_vec();
        }
        Ok(queue_ids)
    }

    /// At most `limit` entries of a queue that stand behind the key `after` and are due by
    /// `until`; and when the next one behind them is due.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn due(
        &mut self,
        queue_id: u64,
        after: &[u8],
        until: Millis,
        limit: usize,
    ) -> Result<(Vec<Due>, Option<Millis>), Error> {
        self.write()?;
        let mut from = if after.is_empty() { queue_id.to_be_bytes().to_vec() } else { [after, &[0]].concat() };
        let mut found = Vec::new();
        // Most queues have little that is due: reading far would read other queues.
        let mut at_a_time = 8;
        loop {
            let entries = self.store.ascending(families::DUE, &from, at_a_time)?;
            let last = entries.len() < at_a_time;
            for (key, value) in entries {
                let (of, at) = split(&key);
                if of != queue_id {
                    return Ok((found, None));
                }
                if at > until || found.len() == limit {
                    return Ok((found, Some(at)));
                }
                from = [key.as_slice(), &[0]].concat();
                found.push(Due::decode(key, &value)?);
            }
            if last {
                return Ok((found, None));
            }
            at_a_time = (at_a_time * 4).min(MAX_ENTRIES_PER_READ);
        }
    }

    /// Rows whose next record was not written because of a crash.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn missing(&self) -> Result<Vec<PendingDelivery>, Error> {
        let mut missing = Vec::new();
        self.each_row(|row| {
            if row.phase != DeliveryPhase::Due {
                missing.push(row);
            }
        })?;
        Ok(missing)
    }

    /// Hands every delivery that has not ended to `each`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn each_row(&self, mut each: impl FnMut(PendingDelivery)) -> Result<(), Error> {
        self.store.each(families::WAITING, |key, value| {
            // Changes are newer than the store.
            let is_known = std::str::from_utf8(&key).is_ok_and(|id| self.unwritten.row(id).is_some());
            if !is_known {
                each(PendingDelivery::decode(&key, &value)?);
            }
            Ok::<_, Error>(())
        })?;
        self.unwritten.rows().for_each(|row| each(row.clone()));
        Ok(())
    }

    /// Counts what waits, and compares it with the due index: a delivery that is missing
    /// there would never be sent.
    ///
    /// # Errors
    /// When the store cannot be read, or contradicts itself.
    pub(super) fn count(&mut self) -> Result<(), Error> {
        let (mut open, mut retrying, mut waiting) = (0, 0, 0u64);
        self.each_row(|row| {
            open += 1;
            retrying += u64::from(row.attempt > 0);
            waiting += u64::from(row.phase == DeliveryPhase::Due);
        })?;
        let mut indexed = 0;
        self.store.each(families::DUE, |key, value| {
            Due::decode(key, &value)?;
            indexed += 1;
            Ok::<_, Error>(())
        })?;
        if waiting != indexed {
            return Err(StateError::DueCount { waiting, indexed }.into());
        }
        (self.open, self.retrying) = (open, retrying);
        Ok(())
    }
}
