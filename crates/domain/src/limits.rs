//! Limits of the spans in a survey's definition.

use crate::time::{DAY, HOUR, Millis};

/// The longest `expires_after` where the settings name no other.
pub const USUAL_MAX_EXPIRES_AFTER: Millis = 100 * HOUR;

/// The longest `expires_after` that settings may allow.
pub const MAX_EXPIRES_AFTER: Millis = 30 * DAY;

/// The longest that settings may let an offer be answered.
pub const MAX_OFFER_KNOWN: Millis = 7 * DAY;

/// The longest `within`: over that time events of one activation count together.
pub const MAX_WITHIN: Millis = 30 * DAY;
