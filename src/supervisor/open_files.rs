//! How many files may be open: what stores and topics stand on is there before the
//! start, and connections take what is left.

use super::memory::MemoryBudget;
use crate::config::Config;
use crate::replay::Error;

/// Files that stores and topics may still open.
const FILES_TO_COME: u64 = 512;
/// Files that are open whatever the number of partitions, and for each of them: two
/// stores, and a segment of every topic. 320 were seen with eight partitions at rest.
const FILES_AT_LEAST: u64 = 96;
const FILES_PER_PARTITION: u64 = 44;

/// What a process needs that owns partitions, or only serves connections.
fn needed(config: &Config, owns_partitions: bool) -> u64 {
    FILES_AT_LEAST + if owns_partitions { FILES_PER_PARTITION * u64::from(config.partitions) } else { 0 }
}

/// With fewer files the stores do not open, and what is served stops now and then.
///
/// # Errors
/// How many are needed.
pub fn check(config: &Config, owns_partitions: bool) -> Result<(), Error> {
    let (files, needed) = (askwhen_process::raise_open_files(), needed(config, owns_partitions));
    if files >= needed {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{files} files may be open (ulimit -n), and {} partitions need {needed}: raise the limit (LimitNOFILE= in a unit \
         of systemd, --ulimit nofile= for a container), then start again",
        config.partitions
    )))
}

/// Places for connections: as many as open files and memory leave room for.
pub fn places(config: &Config, owns_partitions: bool, budget: &MemoryBudget) -> usize {
    let files = askwhen_process::raise_open_files();
    // Connections never take what stores and topics stand on.
    let rest = files.saturating_sub(askwhen_process::open_files().max(needed(config, owns_partitions)));
    let to_come = (u64::from(config.max_in_flight) + FILES_TO_COME).min(rest / 2);
    let by_files = (rest - to_come) as usize;
    let places = (config.max_connections as usize).min(by_files).min(budget.connections).max(1);
    if places < config.max_connections as usize {
        tracing::info!(
            places,
            by_files,
            by_memory = budget.connections,
            "fewer connections than http.max_connections: raise the limit on open files, or engine.memory"
        );
    }
    places
}
