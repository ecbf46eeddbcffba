//! How brokers are reached, and timeouts.

use std::collections::BTreeMap;
use std::time::Duration;

use askwhen_domain::time::Millis;
use askwhen_wire::topic::Topic;

/// How long a broker may take to answer.
pub const ASK: Duration = Duration::from_secs(10);

/// Appends of requests give up after this, which is below usual HTTP timeouts.
pub const REQUEST_TIMEOUT_MS: u32 = 4_000;

/// The most bytes of requests' records that wait for brokers.
pub const REQUEST_BYTES: usize = 32 << 20;

/// How to reach the brokers, and settings of the topics.
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
    /// By key of `[retention]`, in milliseconds.
    pub retention: BTreeMap<String, Millis>,
    /// Identifies the cluster key without revealing it.
    pub key_check: String,
}

impl Settings {
    /// The full name of a topic.
    pub fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }
}
