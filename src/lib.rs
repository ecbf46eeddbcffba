//! askwhen decides which user to ask which survey at which moment, and sends
//! every answer on as a signed webhook.
//!
//! # Layout
//!
//! The lower layers are crates of their own, in `crates/`: `domain ← wire ←
//! process ← {log, store} ← partition`. On them stand the roles `{bridge,
//! engine, delivery, console}`, which never use each other, then `replay ←
//! supervisor ← cli`. ARCHITECTURE.md has the map and the invariants.

pub mod bridge;
pub mod cli;
pub mod config;
pub mod console;
pub mod delivery;
pub mod engine;
#[cfg(debug_assertions)]
pub mod fuzz;
pub mod replay;
pub mod spreadsheet;
pub mod supervisor;
