//! How brokers are reached, and how long they may take.

use std::collections::BTreeMap;
use std::time::Duration;

use askwhen_domain::time::Millis;
use askwhen_wire::topic::Topic;

/// How long a broker may take to answer a question.
pub const ASK: Duration = Duration::from_secs(10);

/// Requests give up after this; below any reasonable HTTP timeout.
pub const REQUEST_TIMEOUT_MS: u32 = 4_000;

/// Bytes of requests' records that may wait for brokers.
pub const REQUEST_BYTES: usize = 32 << 20;

/// How to reach the brokers, and what the topics are to be like.
#[derive(Debug, Clone)]
pub struct Settings {
    pub brokers: String,
    /// Any librdkafka setting, applied to every client.
    pub client: BTreeMap<String, String>,
    pub prefix: String,
    pub partitions: u32,
    pub replication: u32,
    /// How records are compressed, by librdkafka's name.
    pub compression: String,
    /// By the key of `[retention]` that a topic names, in milliseconds.
    pub retention: BTreeMap<String, Millis>,
    /// Tells one cluster key from another without telling it.
    pub key_check: String,
}

impl Settings {
    /// The full name of a topic.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }
}
