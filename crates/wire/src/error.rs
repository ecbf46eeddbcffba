//! What is to be done about an error. Each module's error says its `class()`,
//! and its `kind()`: a name that stays the same, for metrics and for tests.

/// What the caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: the same is tried again later.
    Retry,
    /// The input is at fault: it is turned away, and the next one is taken.
    Reject,
    /// Going on could lose or forge data, or something has to be set up
    /// differently: a person has to look.
    Refuse,
    /// The store or state at hand cannot be used any more: its owner stops, and it is
    /// made again.
    Fatal,
}
