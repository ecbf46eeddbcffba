//! The bridge: HTTP in front of the journal. It checks what comes in, appends
//! it, and waits for the engine's answer where a route promises one. It decides
//! nothing, keeps no state of its own, and knows no store.

mod app;
pub mod auth;
mod backfill;
mod body;
mod budget;
mod connections;
pub mod cors;
mod endpoints;
mod etag;
mod fields;
mod gate;
mod handle;
mod head;
mod held_bytes;
mod ingest;
mod links;
mod list_routes;
mod lists;
mod manage;
mod offers;
mod openapi;
pub mod problem;
mod recoveries;
mod redelivery;
pub mod router;
mod sdk;
pub mod server;
mod skip;
mod survey_page;
#[cfg(debug_assertions)]
mod tried;
mod view;

pub use app::{Advance, App, AskSnapshots, HoldOf, SnapshotFailure, SnapshotReply, Surface};
pub use budget::Budget;
pub use connections::{Connections, Limits};
pub use lists::Lists;
pub use recoveries::Recoveries;
#[cfg(debug_assertions)]
pub use tried::{try_body, try_path};
pub use view::View;
