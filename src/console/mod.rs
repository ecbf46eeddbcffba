//! The console's projection: what the engine and the delivery put out, arranged
//! for lists and counted. It trails the topics by a moment and can be thrown
//! away at any time; rows go when their topics' retention is over.

mod deliveries;
mod document;
mod erased;
mod error;
pub mod families;
mod follow;
mod kept;
mod look_through;
mod order;
mod projection;
mod results;
mod shared;
mod stats;
mod tallies;
mod unknown;
mod verdict;

pub use error::Error;
pub use follow::{Projection, RowRetention};
pub use projection::Console;
pub use shared::OpenStore;

#[cfg(test)]
mod tests;
