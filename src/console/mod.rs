//! The console's projection: what the engine and the delivery put out, arranged
//! for lists and counted. It trails the topics by a moment and can be thrown
//! away at any time; rows go when their topics' retention is over.

mod deliveries;
mod error;
pub mod families;
mod follow;
mod kept;
mod order;
mod projection;
mod results;
mod stats;
mod tallies;
mod unknown;

pub use error::Error;
pub use follow::{Projection, RowRetention};
pub use projection::{Console, OpenStore};

#[cfg(test)]
mod tests;
