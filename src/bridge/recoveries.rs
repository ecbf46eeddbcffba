//! Whose turn it is to recover an endpoint's messages.

use std::collections::HashMap;
use std::sync::Arc;

use askwhen_domain::refs::EndpointRef;

/// Held by the recovery that is under way.
pub(super) type RecoveryTurn = tokio::sync::OwnedMutexGuard<()>;

/// Recoveries come one after the other at each endpoint.
#[derive(Default)]
pub struct Recoveries(std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Recoveries {
    pub(super) fn turn(&self, endpoint: EndpointRef<'_>) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().expect("no panic holds this lock");
        // A turn that is held here alone is held and awaited by nobody.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(format!("{}/{}", endpoint.project, endpoint.endpoint_id)).or_default().clone()
    }
}
