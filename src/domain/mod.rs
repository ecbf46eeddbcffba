//! The pure core: what a record means for a user.
//!
//! `apply` takes a state and a record and gives a state and outputs. Nothing
//! in here reads a clock, a random number, a file, the process's configuration
//! or an unordered map; whatever decides comes in through the journal. Nothing
//! in here knows bytes on a wire, a topic's name, a store or a thread.

pub mod activation;
pub mod address;
pub mod apply;
pub mod decision;
pub mod definitions;
pub mod endpoint;
pub mod filter;
pub mod health;
pub mod id;
pub mod json;
pub mod message;
pub mod quota;
pub mod rate;
pub mod record;
pub mod retry;
pub mod schedule;
pub mod settings;
pub mod share;
pub mod survey;
pub mod targeting;
pub mod time;
pub mod user;
pub mod windows;

/// Version of the rules in this module. It is part of every checkpoint: a
/// store written under a version that [`CONTINUES_FROM`] does not name is
/// refused, never reinterpreted.
pub const LOGIC_VERSION: u32 = 4;

/// The versions whose state these rules go on from as it is: what was decided
/// stands, and what comes is decided by the new rules. 4 is that of 0.1.0. From
/// any other the state is made anew.
pub const CONTINUES_FROM: std::ops::RangeInclusive<u32> = 4..=LOGIC_VERSION;
