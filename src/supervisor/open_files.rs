//! How many files may be open: a start is refused when stores and topics could not open
//! theirs, and connections take what is left.

use super::memory::MemoryBudget;
use crate::config::Config;
use crate::replay::Error;

/// Files that stores and topics may open while the process runs.
const FILES_TO_COME: u64 = 512;
/// Files that are open whatever the number of partitions is.
const FILES_AT_LEAST: u64 = 96;
/// Files of each partition: those of two stores, and a segment of every topic. 320 in all
/// were measured with eight partitions at rest.
const FILES_PER_PARTITION: u64 = 44;

/// How many files a process needs beside its connections.
fn needed(config: &Config, owns_partitions: bool) -> u64 {
    FILES_AT_LEAST + if owns_partitions { FILES_PER_PARTITION * u64::from(config.partitions) } else { 0 }
}

/// Refuses a start with too few files: stores would not open, or fail later.
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

/// How many connections open files and memory leave room for.
pub fn places(config: &Config, owns_partitions: bool, budget: &MemoryBudget) -> usize {
    let files = askwhen_process::raise_open_files();
    // Connections must not take the files that stores and topics need.
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
