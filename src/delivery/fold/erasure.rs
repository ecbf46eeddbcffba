//! Which waiting deliveries the erasures of a round cancel.

use std::collections::BTreeMap;

use super::row::{DeliveryPhase, PendingDelivery};
use askwhen_domain::refs::{UserKey, UserRef};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_wire::topics::Source;

/// The journal record behind an erasure. Without one, every waiting delivery of the
/// user is cancelled.
pub(super) type Erased = Option<Source>;

/// Users whose deliveries are to be cancelled.
#[derive(Debug, Default)]
pub(super) struct Erasures(BTreeMap<UserKey, Erased>);

impl Erasures {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes an erasure. Of two erasures of one user the later one counts: it covers more
    /// deliveries.
    pub fn note(&mut self, user: UserKey, erased: Erased) {
        let known = self.0.entry(user).or_insert(erased);
        *known = match (*known, erased) {
            (Some(a), Some(b)) => Some(if b.offset > a.offset { b } else { a }),
            _ => None,
        };
    }

    /// Whether a delivery waits and is of such a user.
    pub fn cancels(&self, row: &PendingDelivery) -> bool {
        let user = UserRef::new(&row.delivery.project, &row.delivery.user_id);
        let Some(erased) = self.0.get(&user.into()) else { return false };
        let waits = matches!(row.phase, DeliveryPhase::Due | DeliveryPhase::RetryMissing { .. });
        waits && !is_younger(row, *erased) && row.delivery.message.kind != EventType::Erased
    }
}

/// Whether a delivery is younger than an erasure, which may be a late copy.
fn is_younger(row: &PendingDelivery, erased: Erased) -> bool {
    let source = Source::parse(row.source.as_bytes());
    source.zip(erased).is_some_and(|(row, erased)| row.partition == erased.partition && row.offset > erased.offset)
}
