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
/// store written under another version is refused, never reinterpreted.
pub const LOGIC_VERSION: u32 = 4;
