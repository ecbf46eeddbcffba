//! How long a survey may look back.

use crate::time::{DAY, HOUR, Millis};

/// Longest life of an activation (contract: at most 100 h).
pub const MAX_EXPIRES_AFTER: Millis = 100 * HOUR;

/// Longest time over which events of one activation are looked at together.
pub const MAX_WITHIN: Millis = 30 * DAY;
