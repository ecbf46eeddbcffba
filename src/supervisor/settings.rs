//! What the configuration says of brokers, snapshots and stores.

use crate::config::{Config, FOREVER};
use crate::replay::Error;
use askwhen_store::snapshot::SnapshotRepository;

/// Blocks and write buffers of all stores together, where nobody serves.
pub const STORE_MEMORY_BYTES: usize = 256 << 20;

/// What the configuration says of Kafka.
pub fn kafka_settings(config: &Config, key_check: String) -> askwhen_log::kafka::Settings {
    let retention = config.retention;
    askwhen_log::kafka::Settings {
        brokers: config.brokers.clone(),
        client: config.kafka_client.clone(),
        prefix: config.prefix.clone(),
        partitions: config.partitions,
        replication: config.replication,
        // What no retention is said of is kept.
        retention: [
            ("events", retention.events),
            ("decisions", retention.decisions),
            ("responses", retention.responses),
            ("deliveries", retention.deliveries),
        ]
        .into_iter()
        .filter(|(_, kept)| *kept < FOREVER)
        .map(|(name, kept)| (name.to_owned(), kept))
        .collect(),
        key_check,
    }
}

/// Where snapshots are kept.
///
/// # Errors
/// When it is not said, or cannot be used.
pub fn repository(config: &Config) -> Result<SnapshotRepository, Error> {
    let url = match &config.snapshots_url {
        Some(url) => url.clone(),
        None if config.kafka => {
            return Err(Error::usage(
                "snapshots.url is required on Kafka where the engine or the delivery runs: a node that takes up a \
                 partition fetches its state from there. Use file:///… (a shared folder), s3://…, gs://… or az://…",
            ));
        }
        None => {
            let folder = std::path::absolute(config.data_dir.join("snapshots"))?;
            url::Url::from_file_path(&folder).map_err(|()| Error::usage("data_dir must be a path"))?.into()
        }
    };
    SnapshotRepository::open(&url).map_err(Error::usage)
}
