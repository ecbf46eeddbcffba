//! The bridge: the HTTP server in front of the journal. It checks requests, appends their
//! records, and waits for the engine's answer where a route has one. It decides nothing,
//! keeps no state of its own, and knows no store.

mod app;
pub mod auth;
mod backfill;
mod body;
mod budget;
mod changes;
mod connections;
mod console;
pub mod cors;
mod delivery_request;
mod endpoints;
mod etag;
mod fields;
mod gate;
mod handle;
mod head;
mod held_bytes;
pub mod history;
mod ingest;
mod job_runner;
mod jobs;
mod keys;
mod links;
mod list_routes;
mod lists;
mod manage;
mod offers;
pub mod openapi;
mod past;
pub mod problem;
mod recoveries;
mod redelivery;
mod results;
pub mod router;
pub mod routes;
mod sdk;
pub mod server;
mod session;
mod sign_in;
mod skip;
mod survey_page;
#[cfg(debug_assertions)]
mod tried;
mod versions;
mod view;
mod window_counts;

pub use app::{AdvanceClock, App, FindHold, RequestSnapshots, SnapshotFailure, SnapshotReply, Surface};
pub use budget::Budget;
pub use changes::MAX_LISTENERS;
pub use connections::{Connections, Limits};
pub use lists::Lists;
pub use recoveries::Recoveries;
pub use session::Sessions;
#[cfg(debug_assertions)]
pub use tried::{try_body, try_path};
pub use view::View;
pub use window_counts::{OpenWindowCount, WindowCounts};
