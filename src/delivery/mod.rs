//! The delivery: it reads messages from topic `deliveries`, sends them, and records every
//! attempt and everything that waits. All of its state can be made again from its topics.
//! It decides nothing about surveys.

mod attempt;
mod connect;
mod endpoints;
pub mod export;
pub mod families;
mod fault;
mod fold;
mod hold;
mod notice;
mod ordering;
mod records;
mod resolver;
mod run;
mod scheduler;
mod status;
mod time;
mod transport;
mod usage;

pub use attempt::Egress;
pub use fold::{Error, Fold, PendingDelivery, Positions, StateError, StateMismatch};
pub use hold::{HeldEndpoint, HoldReason};
pub use resolver::ResolverError;
pub use run::{Delivery, OWNED, OpenFold, Setup, SimulatedDelivery, reached};
pub use status::Status;
pub use transport::{Outbox, SimulatedAttempt, SimulatedReply, Transport};
