//! The topics, read from `topics/*.toml`, which define their names, partitioning, cleanup
//! and schemas for code, `topics print` and documentation.

use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// All topics; [`Topic::spec`] has the declaration of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Events,
    Decisions,
    Responses,
    Displays,
    Deliveries,
    Retry1m,
    Retry1h,
    Retry1d,
    Attempts,
    Dead,
    Rejects,
    Definitions,
    Replies,
}

/// The declaration in `topics/*.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    pub description: String,
    pub key: String,
    pub cleanup: Cleanup,
    pub partitions: Partitions,
    /// A key of `[retention]`, or `forever`.
    pub retention: String,
    pub timestamp: Timestamp,
    pub schema: String,
    pub examples: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    Delete,
    Compact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitions {
    /// The number in `[log] partitions`.
    Partitions,
    One,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timestamp {
    LogAppendTime,
    CreateTime,
}

macro_rules! declared {
    ($($topic:ident => $file:literal, $schema:literal;)*) => {
        impl Topic {
            pub const ALL: &[Topic] = &[$(Topic::$topic),*];

            fn files(self) -> (&'static str, &'static str) {
                match self {
                    $(Topic::$topic => (
                        include_str!(concat!("../../../topics/", $file, ".toml")),
                        include_str!(concat!("../../../topics/schemas/", $schema, ".json")),
                    ),)*
                }
            }
        }
    };
}

declared! {
    Events => "events", "events";
    Decisions => "decisions", "decisions";
    Responses => "responses", "responses";
    Displays => "displays", "displays";
    Deliveries => "deliveries", "deliveries";
    Retry1m => "deliveries.retry.1m", "retry";
    Retry1h => "deliveries.retry.1h", "retry";
    Retry1d => "deliveries.retry.1d", "retry";
    Attempts => "attempts", "attempts";
    Dead => "dead", "dead";
    Rejects => "rejects", "rejects";
    Definitions => "definitions", "definitions";
    Replies => "replies", "replies";
}

static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let read = |topic: &Topic| toml::from_str(topic.files().0).expect("topics/*.toml are checked by the tests");
    Topic::ALL.iter().map(read).collect()
});

impl Topic {
    pub fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The name without prefix: `deliveries.retry.1m`.
    pub fn name(self) -> &'static str {
        &self.spec().name
    }

    pub fn by_name(name: &str) -> Option<Topic> {
        Topic::ALL.iter().copied().find(|topic| topic.name() == name)
    }

    /// Whether a partition may stand still at one of its records until an operator skips it:
    /// the journal, and what the delivery reads.
    pub fn is_skippable(self) -> bool {
        use Topic::{Attempts, Dead, Deliveries, Events, Retry1d, Retry1h, Retry1m};
        matches!(self, Events | Deliveries | Attempts | Retry1m | Retry1h | Retry1d | Dead)
    }

    /// The JSON Schema of the topic's values.
    pub fn schema(self) -> &'static str {
        self.files().1
    }

    /// How many partitions it has when the journal has `partitions`.
    pub fn partitions(self, partitions: u32) -> u32 {
        match self.spec().partitions {
            Partitions::Partitions => partitions,
            Partitions::One => 1,
        }
    }

    /// The retry topic for a wait of `wait_ms` milliseconds.
    pub fn for_wait(wait_ms: i64) -> Topic {
        match wait_ms {
            i64::MIN..=60_000 => Topic::Retry1m,
            60_001..=3_600_000 => Topic::Retry1h,
            _ => Topic::Retry1d,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_read_and_in_its_place() {
        for topic in Topic::ALL {
            assert_eq!(Topic::by_name(topic.name()), Some(*topic));
            serde_json::from_str::<serde_json::Value>(topic.schema()).expect("a schema is JSON");
        }
        assert_eq!(Topic::for_wait(60_000), Topic::Retry1m);
        assert_eq!(Topic::for_wait(60_001), Topic::Retry1h);
        assert_eq!(Topic::for_wait(90_000_000), Topic::Retry1d);
    }
}
