//! Counts open windows for the bridge, which knows no store: in the partitions that this
//! process owns, within a bounded time.

use std::time::{Duration, Instant};

use super::snapshots::{Role, Stores};
use crate::bridge::OpenWindowCount;
use crate::engine::{OpenWindows, open_windows};
use askwhen_domain::refs::SurveyRef;
use askwhen_process::clock::Clock;

/// How long users are looked at for one request.
const MAX_COUNTING: Duration = Duration::from_millis(500);

/// The engine's stores of this process.
pub struct WindowCounter {
    pub stores: Stores,
    pub clock: Clock,
    /// Of the whole log.
    pub partitions: u32,
}

impl WindowCounter {
    /// Counts; blocks. When not all users can be read, the number is a lower bound.
    pub fn count(&self, survey: SurveyRef<'_>) -> OpenWindowCount {
        let (now, until) = (self.clock.now(), Instant::now() + MAX_COUNTING);
        let (mut counted, mut partitions) = (OpenWindows::NONE, 0);
        for store in self.stores.opened_of(Role::Engine) {
            match open_windows(&store, survey, now, || Instant::now() < until) {
                Ok(found) => (counted, partitions) = (counted.plus(found), partitions + 1),
                Err(error) => tracing::warn!(%error, "open windows could not be counted in a partition"),
            }
        }
        OpenWindowCount { users: counted.users, is_exact: counted.is_exact && partitions == self.partitions }
    }
}
