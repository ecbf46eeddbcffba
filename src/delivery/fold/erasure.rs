//! Cancels the waiting deliveries of users that are erased.

use crate::delivery::families;
use std::collections::BTreeMap;

use super::error::Error;
use super::index::due_key;
use super::row::{DeliveryPhase, PendingDelivery};
use super::{Fold, FoldEvent, WriteBatch};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::refs::{UserKey, UserRef};
use askwhen_wire::topics::Source;

/// The journal record behind an erasure. Without one, every waiting delivery of the
/// user is cancelled.
pub(super) type Erased = Option<Source>;

impl WriteBatch {
    /// Notes an erasure. Of two erasures of one user the later one counts: it covers more
    /// deliveries.
    pub(super) fn erase(&mut self, user: UserKey, erased: Erased) {
        let known = self.erasures.entry(user).or_insert(erased);
        *known = match (*known, erased) {
            (Some(a), Some(b)) => Some(if b.offset > a.offset { b } else { a }),
            _ => None,
        };
    }
}

impl Fold {
    /// Cancels the deliveries that the round's erasures cover. One scan over all that waits
    /// is cheaper than an index over users, which every delivery would pay for.
    pub(super) fn cancel_erased(&mut self, round: &mut WriteBatch) -> Result<(), Error> {
        let erasures = std::mem::take(&mut round.erasures);
        if erasures.is_empty() || askwhen_process::fault::mutant("erase_leaves_deliveries") {
            return Ok(());
        }
        let concerned = |row: &PendingDelivery| {
            let user = UserRef::new(&row.delivery.project, &row.delivery.user_id);
            let Some(erased) = erasures.get(&user.into()) else { return false };
            let waits = matches!(row.phase, DeliveryPhase::Due | DeliveryPhase::RetryMissing { .. });
            waits && !is_younger(row, *erased) && row.delivery.message.kind != EventType::Erased
        };
        let mut rows = BTreeMap::new();
        self.each_row(|mut row| {
            if concerned(&row) {
                // Many may wait, and a cancellation does not need the message.
                row.forget_message();
                rows.insert(row.delivery.delivery_id.clone(), row);
            }
        })?;
        // Changes of this round are newer than the store.
        for (id, changed) in &round.rows {
            rows.remove(id);
            if let Some(row) = changed.as_ref().filter(|row| concerned(row)) {
                rows.insert(id.clone(), row.clone());
            }
        }
        round.events.push(FoldEvent::Cancelled { delivery_ids: rows.keys().cloned().collect() });
        for (id, mut row) in rows {
            round.batch.delete(families::DUE, due_key(&row));
            row.forget_message();
            row.phase = DeliveryPhase::CancelMissing { reason: "user_erased".into() };
            round.rows.insert(id, Some(row));
        }
        Ok(())
    }
}

/// Whether a delivery is younger than an erasure, which may be a late copy.
fn is_younger(row: &PendingDelivery, erased: Erased) -> bool {
    let source = Source::parse(row.source.as_bytes());
    source.zip(erased).is_some_and(|(row, erased)| row.partition == erased.partition && row.offset > erased.offset)
}
