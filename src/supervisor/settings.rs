//! Turns the configuration into settings of brokers and snapshots.

use crate::config::{Config, FOREVER};
use crate::replay::Error;
use askwhen_store::snapshot::SnapshotRepository;

/// Block cache and write buffers of all stores together, in a verb that does not serve.
pub const STORE_MEMORY_BYTES: usize = 256 << 20;

/// How to reach Kafka; `key_check` is the fingerprint of the cluster key.
pub fn kafka_settings(config: &Config, key_check: String) -> askwhen_log::kafka::Settings {
    let retention = config.retention;
    askwhen_log::kafka::Settings {
        brokers: config.brokers.clone(),
        client: config.kafka_client.clone(),
        prefix: config.prefix.clone(),
        partitions: config.partitions,
        replication: config.replication,
        compression: config.compression.clone(),
        // Topics that are not named are kept for ever.
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

/// The snapshots of the configuration.
///
/// # Errors
/// When none are configured and Kafka needs some, or the URL cannot be used.
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
