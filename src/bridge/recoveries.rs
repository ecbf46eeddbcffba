//! Lets one recovery at a time run for each endpoint.

use std::collections::HashMap;
use std::sync::Arc;

use askwhen_domain::refs::EndpointRef;

/// Held by the recovery that is running.
pub(super) type RecoveryTurn = tokio::sync::OwnedMutexGuard<()>;

/// By endpoint, the lock of its recoveries.
#[derive(Default)]
pub struct Recoveries(std::sync::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Recoveries {
    pub(super) fn turn(&self, endpoint: EndpointRef<'_>) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().expect("no panic holds this lock");
        // A lock that only this map holds is neither held nor waited for.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(format!("{}/{}", endpoint.project, endpoint.endpoint_id)).or_default().clone()
    }
}
