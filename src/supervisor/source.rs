//! Opens the configured log to read it beside the processes that serve it.

use super::data;
use super::format::DirectoryFormat;
use super::settings::{STORE_MEMORY_BYTES, kafka_settings, repository};
use crate::config::Config;
use crate::replay::Error;
use crate::replay::{LogSource, Source};
use askwhen_log::{Embedded, Kafka, Log};
use askwhen_store::Shared;
use askwhen_wire::seal::ClusterKey;

/// Opens the configured log to read it.
///
/// # Errors
/// When there is none, or its key cannot be read.
pub fn source(config: &Config) -> Result<Source, Error> {
    let shared = Shared::new(STORE_MEMORY_BYTES);
    let repository = || repository(config);
    if !config.kafka {
        let dir = config.data_dir.join("log");
        let Some((incarnation, partitions)) = Embedded::identity_of(&dir)? else {
            return Err(Error::unreachable(format!(
                "{} holds no log: name the data directory of one with --data-dir",
                dir.display()
            )));
        };
        let key = cluster_key(config)?;
        let binds_macs = Embedded::binds_macs_in(&dir)?;
        let place = LogSource::Files(dir);
        let repository = repository();
        return Ok(Source { key, incarnation, partitions, binds_macs, place, repository, shared, scratch: None });
    }
    let key = cluster_key(config)?;
    let log = Log::Kafka(Kafka::connect(kafka_settings(config, key.check()))?);
    let (incarnation, partitions, binds_macs) = (log.incarnation(), log.partitions(), log.binds_macs());
    Ok(Source {
        key,
        incarnation,
        partitions,
        binds_macs,
        place: LogSource::Brokers(log),
        repository: repository(),
        shared,
        scratch: None,
    })
}

/// The cluster key of the configured log.
///
/// # Errors
/// When it cannot be read, or is another than the log's.
pub(super) fn cluster_key(config: &Config) -> Result<ClusterKey, Error> {
    let path = data::key_path(config);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::usage(format!(
            "{}: {e}. The journal is read with the cluster's key: run where the data is, or give --data-dir or secrets.key_file",
            path.display()
        ))
    })?;
    let key =
        ClusterKey::parse(&text).ok_or_else(|| Error::usage(format!("{} must hold 64 hex digits", path.display())))?;
    if !config.kafka {
        let known = DirectoryFormat::read(&config.data_dir)?;
        data::refuse_another_key(config, known.as_ref(), &key)?;
    }
    Ok(key)
}
