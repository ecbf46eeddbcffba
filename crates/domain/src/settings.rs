//! A project's settings, as far as they decide.

use serde::Serialize;

use super::time::{self, DAY, HOUR, MINUTE, Millis};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// From the last display of any survey; zero is off.
    #[serde(serialize_with = "time::as_duration")]
    pub global_cooldown: Millis,
    /// Displays per session.
    pub max_per_session: u32,
    /// How long an offer may stay unseen before its survey is armed again.
    #[serde(serialize_with = "time::as_duration")]
    pub offer_ttl: Millis,
    /// How old an event may be and still count.
    #[serde(serialize_with = "time::as_duration")]
    pub allowed_lateness: Millis,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { global_cooldown: 7 * DAY, max_per_session: 1, offer_ttl: 10 * MINUTE, allowed_lateness: 100 * HOUR }
    }
}
