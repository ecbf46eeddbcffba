//! Limits of durations in definitions, in milliseconds.

use crate::time::{DAY, HOUR, Millis};

/// The longest `expires_after` of a survey when the settings do not set one.
pub const USUAL_MAX_EXPIRES_AFTER: Millis = 100 * HOUR;

/// The longest `expires_after` that settings may allow.
pub const MAX_EXPIRES_AFTER: Millis = 30 * DAY;

/// The longest time that settings may allow for answering an offer.
pub const MAX_OFFER_KNOWN: Millis = 7 * DAY;

/// The longest `within`: the span in which events of one activation count together.
pub const MAX_WITHIN: Millis = 30 * DAY;
