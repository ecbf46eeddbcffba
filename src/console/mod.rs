//! The console's projection: the outputs of the engine and the delivery, arranged for lists
//! and counted. It is a moment behind the topics and can be rebuilt from them at any time;
//! rows are removed when their topics' retention is over.

mod deliveries;
mod delivery_row;
mod document;
mod erased;
mod error;
pub mod families;
mod follow;
mod kept;
mod look_through;
mod order;
mod pace;
mod projection;
mod results;
mod round;
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
