//! The console's projection: what the engine and the delivery put out, arranged
//! for lists and counted. It trails the topics by a moment and can be thrown
//! away at any time; rows go when their topics' retention is over.

mod deliveries;
mod kept;
mod order;
mod projection;
mod stats;

pub use projection::{Console, Keep, OpenStore, Projection};
