//! The log on Apache Kafka. No type of librdkafka leaves this folder.
//!
//! Two producers: one that never gives up, for partitions, whose records must not
//! have gaps; one that gives up in time for an answer, for requests. A consumer
//! per purpose, with partitions assigned by hand at the places that the stores
//! say; a consumer group gives out the right to own a partition and nothing else.

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
mod settings;
mod source;
mod topic_watch;
mod topics;

#[cfg(test)]
mod tests;

pub use founding::Founding;
pub use lease::{GroupFence, Lease, LeaseChange, Membership};
pub use log::Kafka;
pub use reader::KafkaReader;
pub use settings::Settings;
pub use topics::{TopicCheck, apply as apply_topics, check as check_topics};
