//! The real program on port 0, with scripted receivers and a test clock.

mod backtest;
mod backup;
mod cli;
mod crash;
mod delivery;
mod docs;
mod endpoints;
mod harness;
mod hostile;
mod import;
mod injected;
mod input;
mod manage;
mod quotas;
mod replay;
mod story;
mod tasks;
