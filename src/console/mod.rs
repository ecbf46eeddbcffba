//! The console's projection: what the delivery's topics say, arranged for
//! lists. It trails the topics by a moment and can be thrown away at any time.

mod projection;

pub use projection::{Console, DeliveryFilter};
