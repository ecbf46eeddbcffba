//! The identity of a log: a file beside its segments, written when the log is created.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::super::disk::{Disk, DiskLock};
use crate::error::Error;

/// The format of segments.
const FORMAT: u32 = 1;
/// The same format with compacted segments, whose offsets have gaps: version 0.1.0 would
/// take them for damage.
const FORMAT_WITH_GAPS: u32 = 2;
/// The same format with commit logs, which may contain what is not in the segments yet:
/// earlier versions would not look there.
const FORMAT_WITH_COMMIT_LOGS: u32 = 2;
const NEWEST_FORMAT: u32 = FORMAT_WITH_GAPS + FORMAT_WITH_COMMIT_LOGS;
const FILE: &str = "log.json";

#[derive(Debug, Serialize, Deserialize)]
pub struct EmbeddedIdentity {
    pub format: u32,
    incarnation: String,
    pub partitions: u32,
    /// Whether every MAC in its records names log and partition; missing before 0.2.0.
    #[serde(default)]
    pub bound_macs: bool,
}

/// What every version says of its log.
#[derive(Deserialize)]
struct AnyIdentity {
    format: u32,
}

impl EmbeddedIdentity {
    pub fn new(incarnation: u128, partitions: u32) -> EmbeddedIdentity {
        EmbeddedIdentity { format: FORMAT, incarnation: format!("{incarnation:032x}"), partitions, bound_macs: true }
    }

    /// The same log, with records that version 0.1.0 may have made.
    pub fn with_old_macs(self) -> EmbeddedIdentity {
        EmbeddedIdentity { bound_macs: false, ..self }
    }

    /// The same log, from now on with compacted segments.
    pub fn with_gaps(self) -> EmbeddedIdentity {
        let format = if self.has_gaps() { self.format } else { self.format + 1 };
        EmbeddedIdentity { format, ..self }
    }

    pub fn has_gaps(&self) -> bool {
        matches!(self.format, FORMAT_WITH_GAPS | NEWEST_FORMAT)
    }

    /// The same log, while its commit logs are in use.
    pub fn with_commit_logs(self) -> EmbeddedIdentity {
        let format = if self.has_commit_logs() { self.format } else { self.format + FORMAT_WITH_COMMIT_LOGS };
        EmbeddedIdentity { format, ..self }
    }

    /// The same log, when its commit logs are empty.
    pub fn without_commit_logs(self) -> EmbeddedIdentity {
        let format = if self.has_commit_logs() { self.format - FORMAT_WITH_COMMIT_LOGS } else { self.format };
        EmbeddedIdentity { format, ..self }
    }

    fn has_commit_logs(&self) -> bool {
        self.format > FORMAT_WITH_GAPS
    }

    /// The incarnation.
    ///
    /// # Errors
    /// When it is not a number.
    pub fn incarnation(&self, dir: &Path) -> Result<u128, Error> {
        u128::from_str_radix(&self.incarnation, 16)
            .map_err(|_| damaged(&dir.join(FILE), "the incarnation is no number of 32 hexadecimal digits"))
    }

    /// The identity of the log in `dir`, if there is one.
    ///
    /// # Errors
    /// When what is there is unreadable, or of a later format: nobody reads such a log.
    pub fn read(disk: &Disk, dir: &Path) -> Result<Option<EmbeddedIdentity>, Error> {
        let path = dir.join(FILE);
        let bytes = match disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path.display().to_string(), error)),
        };
        // Before anything else: a later version may have changed all the rest.
        let AnyIdentity { format: found } = serde_json::from_slice(&bytes).map_err(|error| damaged(&path, error))?;
        if !(FORMAT..=NEWEST_FORMAT).contains(&found) {
            return Err(Error::Refused(format!(
                "{} is of format {found}, and this version ({}) reads {FORMAT} to {NEWEST_FORMAT}: use the version that wrote it, or a \
                 later one",
                dir.display(),
                env!("CARGO_PKG_VERSION")
            )));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(&path, error))
    }

    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, disk: &Disk, dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self).expect("an identity serialises");
        let path = dir.join(FILE);
        disk.replace(&path, &text).map_err(|e| Error::io(path.display().to_string(), e))
    }

    /// Checks that the log has so many partitions.
    ///
    /// # Errors
    /// [`Error::Refused`] when not.
    pub fn check(&self, dir: &Path, partitions: u32) -> Result<(), Error> {
        let found = self.partitions;
        if found != partitions {
            return Err(Error::Refused(format!(
                "{} was made with {found} partitions and the configuration says {partitions}; set [log] partitions = {found}",
                dir.display()
            )));
        }
        Ok(())
    }
}

/// The identity of an open log, which several threads change.
#[derive(Debug)]
pub struct IdentityFile {
    disk: Disk,
    dir: PathBuf,
    changing: Mutex<()>,
}

impl IdentityFile {
    pub fn new(disk: Disk, dir: PathBuf) -> IdentityFile {
        IdentityFile { disk, dir, changing: Mutex::default() }
    }

    /// Writes the changed identity, unless it is the same.
    ///
    /// # Errors
    /// When it cannot be read or written; then it stays as it was.
    pub fn update(&self, change: impl FnOnce(EmbeddedIdentity) -> EmbeddedIdentity) -> io::Result<()> {
        let _one = self.changing.lock().expect("no panic holds this lock");
        let path = self.dir.join(FILE);
        let before: EmbeddedIdentity = serde_json::from_slice(&self.disk.read(&path)?).map_err(io::Error::other)?;
        let format = before.format;
        let after = change(before);
        if after.format == format {
            return Ok(());
        }
        self.disk.replace(&path, &serde_json::to_vec(&after).expect("an identity serialises"))
    }
}

/// The segments cannot replace what the file said.
fn damaged(path: &Path, fault: impl std::fmt::Display) -> Error {
    Error::Refused(format!(
        "{}, which says whose the log's records are, is unreadable ({fault}): restore it from a backup",
        path.display()
    ))
}

/// Takes the lock of a log, so that one process uses it.
///
/// # Errors
/// [`Error::Refused`] when another process has it.
pub fn lock(disk: &Disk, dir: &Path) -> Result<DiskLock, Error> {
    let path = dir.join("lock");
    let locked = disk.lock(&path).map_err(|e| Error::io(path.display().to_string(), e))?;
    locked.ok_or_else(|| Error::Refused(format!("{} is in use by another askwhen", dir.display())))
}
