//! Caps (`limits.caps`): at most so many displays or completions, for all users or for
//! those with the same value of an attribute, ever or within a time. Each value of each cap
//! has a counter, which one partition keeps. An offer takes a place of every counter that
//! applies to it, and holds it until it is displayed, is completed, is dismissed or lapses.
//! Messages between counters and partitions travel through the journals, in order between
//! any two partitions. Nothing here reads a clock.

mod allocator;
mod counter;
mod definition;
mod message;

pub use allocator::{CapAllocator, CapRank};
pub use counter::CapCounter;
pub use definition::{Cap, CapEvent, CapKey, CapRule, MissingValue};
pub use message::{CapAnswer, CapAsk, CapChange, CapMessage, CapOutcome, CapPlace, CapRefusal, CapSignal, PinnedCap};

#[cfg(test)]
mod tests;
