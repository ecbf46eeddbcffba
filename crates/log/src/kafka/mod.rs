//! The log on Apache Kafka. No type of librdkafka leaves this folder.
//!
//! There are two producers: one that never gives up, for partitions, whose records must not
//! have gaps; and one that gives up in time for an answer, for requests. There is a
//! consumer for each purpose, with partitions assigned by hand at the offsets in the
//! stores; a consumer group only assigns ownership of partitions.

mod checkup;
mod client;
mod cluster;
mod faults;
mod founding;
mod identity;
mod lease;
mod log;
mod offsets;
mod producer;
mod reader;
mod rights;
mod settings;
mod source;
mod topic_watch;
mod topics;

#[cfg(test)]
mod tests;

pub use checkup::{Check, Finding, checkup};
pub use founding::Founding;
pub use lease::{GroupFence, Lease, LeaseChange, Membership};
pub use log::Kafka;
pub use reader::KafkaReader;
pub use settings::Settings;
pub use topics::{TopicCheck, apply as apply_topics, check as check_topics};
