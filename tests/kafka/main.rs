//! The whole program on real brokers: what holds on the embedded log, and what
//! several processes owe each other.

#[path = "../it/aliases.rs"]
mod aliases;
mod alone;
#[path = "../it/backtest.rs"]
mod backtest;
#[path = "../it/backup.rs"]
mod backup;
mod captured;
mod cluster;
mod codecs;
#[path = "../it/console.rs"]
mod console;
#[path = "../it/crash.rs"]
mod crash;
mod damage;
mod deleted_records;
#[path = "../it/delivery.rs"]
mod delivery;
mod doctor;
#[path = "../it/endpoints.rs"]
mod endpoints;
mod export;
mod golden;
#[path = "../it/harness.rs"]
mod harness;
#[path = "../it/headers.rs"]
mod headers;
#[path = "../it/input.rs"]
mod input;
#[path = "../it/jobs.rs"]
mod jobs;
#[path = "../it/links.rs"]
mod links;
mod lost_topics;
#[path = "../it/manage.rs"]
mod manage;
mod process;
mod producers;
#[path = "../it/replay.rs"]
mod replay;
mod rights;
#[path = "../it/schema.rs"]
mod schema;
#[path = "../it/story.rs"]
mod story;
mod topics;
mod transactions;
mod upgrade;
