//! The classes of errors. Each module's error has a `class()`, and a `kind()`: a stable
//! name for metrics and tests.

/// What the caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It may pass by itself: try the same again later.
    Retry,
    /// The input is at fault: refuse it and go on with the next.
    Reject,
    /// Going on could lose or forge data, or the setup is wrong: an operator has to look.
    Refuse,
    /// The store or state cannot be used any more: stop its owner and rebuild it.
    Fatal,
}
