//! Limits of the spans in a survey's definition.

use crate::time::{DAY, HOUR, Millis};

/// The longest `expires_after`, as the contract has it.
pub const MAX_EXPIRES_AFTER: Millis = 100 * HOUR;

/// The longest `within`: over that time events of one activation count together.
pub const MAX_WITHIN: Millis = 30 * DAY;
