//! What a replay finds out about a partition: counts, differences, and decisions that
//! were not on record yet. They are written in one batch with the state they belong to.

use crate::engine::families;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use super::super::Error;
use super::super::recorded::{Compared, Difference, Recorded};
use crate::engine::Engine;
use askwhen_partition::replayer::Replayer;
use askwhen_store::{Batch, Store};

/// How many differences of each partition are kept with both sides; all are counted.
const KEPT_DIFFERENCES: u64 = 10_000;
/// Key of the counts in family `meta`.
pub(super) const COUNTS: &[u8] = b"replay";
/// Key of the decisions that were not on record yet.
pub(super) const OPEN: &[u8] = b"replay-open";
/// How many of them are kept, of each partition, to be compared by a later run.
const MAX_OPEN: usize = 10_000;

/// What has been counted of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) records: u64,
    pub(super) compared: Compared,
    pub(super) kept: u64,
    /// Durable length of the file that holds them.
    pub(super) kept_bytes: u64,
}

/// A decision that was not on record yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnrecordedDecision {
    pub(super) offset: u64,
    pub(super) id: String,
    pub(super) value: String,
}

pub(super) fn load<T: serde::de::DeserializeOwned + Default>(store: &Store, key: &[u8]) -> Result<T, Error> {
    let stored = store.get(families::META, key)?;
    let read = stored.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    Ok(read.map_err(|e| Error::refused(format!("the replay's notes are unreadable: {e}")))?.unwrap_or_default())
}

/// What is found out about a partition while it is read.
pub(super) struct Notes {
    pub(super) partition: u32,
    pub(super) counts: Counts,
    pub(super) open: Vec<UnrecordedDecision>,
    pub(super) kept: DifferenceFile,
    pub(super) recorded: Recorded,
}

impl Notes {
    pub(super) fn compare(&mut self, offset: u64, id: &str, value: &bytes::Bytes) -> Result<(), Error> {
        let counts = &mut self.counts;
        let before = counts.compared.not_yet_recorded;
        let found = self.recorded.compare(offset, id, value, &mut counts.compared)?;
        if counts.compared.not_yet_recorded > before && self.open.len() < MAX_OPEN {
            let value = String::from_utf8_lossy(value).into_owned();
            self.open.push(UnrecordedDecision { offset, id: id.to_owned(), value });
        }
        found.map_or(Ok(()), |difference| self.kept.push(self.partition, &difference, &mut counts.kept))
    }

    /// Writes differences first, then state and counts in one batch: so no difference is
    /// counted that the file does not hold.
    pub(super) fn checkpoint(&mut self, replayer: &mut Replayer<Engine>, store: &Store) -> Result<(), Error> {
        for difference in self.recorded.passed(replayer.meta.next, &mut self.counts.compared)? {
            self.kept.push(self.partition, &difference, &mut self.counts.kept)?;
        }
        self.counts.kept_bytes = self.kept.sync()?;
        let mut more = Batch::default();
        more.put(families::META, COUNTS, serde_json::to_vec(&self.counts).expect("counts serialise"));
        more.put(families::META, OPEN, serde_json::to_vec(&self.open).expect("decisions serialise"));
        Ok(replayer.checkpoint(store, more)?)
    }
}

/// The file of a partition's differences.
pub(super) struct DifferenceFile {
    file: BufWriter<File>,
}

impl DifferenceFile {
    /// Opens a file at the length that the last checkpoint names: later lines are found
    /// again.
    pub(super) fn open(path: &Path, bytes: u64) -> Result<DifferenceFile, Error> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.set_len(bytes)?;
        let mut file = BufWriter::new(file);
        file.seek(SeekFrom::End(0))?;
        Ok(DifferenceFile { file })
    }

    pub(super) fn push(&mut self, partition: u32, difference: &Difference, kept: &mut u64) -> Result<(), Error> {
        if *kept >= KEPT_DIFFERENCES {
            return Ok(());
        }
        *kept += 1;
        let side = |bytes: &Option<bytes::Bytes>| -> Value {
            bytes.as_ref().and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default()
        };
        let (recorded, replayed) = (side(&difference.recorded), side(&difference.replayed));
        let either = if recorded.is_null() { &replayed } else { &recorded };
        let line = json!({
            "partition": partition,
            "offset": difference.offset,
            "decision_id": either["decision_id"],
            "user_id": either["user_id"],
            "recorded": recorded,
            "replayed": replayed,
        });
        Ok(writeln!(self.file, "{line}")?)
    }

    /// Makes the file durable; returns its length.
    pub(super) fn sync(&mut self) -> Result<u64, Error> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        Ok(self.file.stream_position()?)
    }
}
