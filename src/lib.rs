//! askwhen decides which user to ask which survey at which moment, and sends
//! every answer on as a signed webhook.
//!
//! # Layout
//!
//! `domain ← wire ← {log, store} ← actor ← {bridge, engine, delivery, console}
//! ← supervisor ← cli`; a module uses what stands to its left and nothing else.
//! ARCHITECTURE.md has the map and the invariants.

pub mod actor;
pub mod bridge;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod delivery;
pub mod domain;
pub mod engine;
pub mod fault;
#[cfg(debug_assertions)]
pub mod fuzz;
pub mod log;
pub mod metrics;
pub mod process;
pub mod replay;
pub mod store;
pub mod supervisor;
pub mod thread;
pub mod wire;
