//! The real program on port 0, with scripted receivers and a test clock.

mod backtest;
mod backup;
mod cli;
mod clients;
mod clock;
mod crash;
mod damage;
mod data_dir;
mod delivery;
mod docs;
mod endpoints;
mod golden;
mod harness;
mod headers;
mod hostile;
mod import;
mod injected;
mod input;
mod journal;
mod logs;
mod manage;
mod poison;
mod quotas;
mod replay;
mod story;
mod tasks;
