//! Bytes to domain and back: topic names and schemas, record codecs, webhook
//! bodies, the state's codec. Nothing in here knows a log, a store, a socket
//! or the time of day.

pub mod definition;
pub mod error;
pub mod internal;
pub mod json;
pub mod listing;
pub mod profile;
pub mod record;
pub mod row;
pub mod seal;
pub mod sealed_file;
pub mod state;
pub mod survey_link;
pub mod tally;
pub mod tls;
pub mod topic;
pub mod topics;
