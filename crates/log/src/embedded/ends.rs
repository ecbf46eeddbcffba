//! Notes how far each partition was durable: written beside the segments about every
//! second, and when a partition's files change. A start verifies from there instead of from
//! the beginning of a file, and notices when something is missing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use crate::error::Error;
use askwhen_domain::time::Millis;

const FILE: &str = "ends.json";
/// The file of version 0.1.0 has no format and contains only ends.
const FORMAT: u32 = 2;

/// The noted state of a partition; all of it was durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedEnd {
    /// One past the last record.
    pub end: u64,
    /// From here on a start verifies all frames.
    pub verify: FramePosition,
    /// Base and length of each segment, in ascending order.
    pub segments: Vec<(u64, u64)>,
    pub newest_at: Option<Millis>,
    /// A compaction whose result is about to be renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<Merging>,
}

/// The bases of the segments that are merged into the first, and what that file then
/// contains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    pub segments: Vec<u64>,
    pub bytes: u64,
    pub crc32c: u32,
}

impl NotedEnd {
    /// Whether these are the noted segments, and no compaction was under way.
    pub fn lists(&self, bases: &[u64]) -> bool {
        self.merging.is_none() && self.segments.iter().map(|(base, _)| base).eq(bases)
    }
}

/// The position of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramePosition {
    /// Base of the segment.
    pub segment: u64,
    pub position: u64,
    pub offset: u64,
}

/// The contents of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub noted: BTreeMap<String, NotedEnd>,
    /// Ends without positions, from version 0.1.0 or a restored backup.
    pub plain: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// CRC-32C of `partitions`, serialised without spaces.
    crc32c: u32,
    partitions: BTreeMap<String, NotedEnd>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

fn checksum(partitions: &BTreeMap<String, NotedEnd>) -> u32 {
    crc32c::crc32c(&serde_json::to_vec(partitions).expect("a map serialises"))
}

impl Ends {
    /// Reads the note of the log in `dir`; an empty one when there is no file. A damaged
    /// one counts as empty: then everything that it would cover is verified.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(disk: &Disk, dir: &Path) -> Result<Ends, Error> {
        let bytes = match disk.read(&path(dir)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Ends::default()),
            read => read.map_err(|e| Error::io(path(dir).display().to_string(), e))?,
        };
        if let Ok(plain) = serde_json::from_slice::<BTreeMap<String, u64>>(&bytes) {
            return Ok(Ends { plain, ..Ends::default() });
        }
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.format == FORMAT && stored.crc32c == checksum(&stored.partitions) => {
                Ok(Ends { noted: stored.partitions, ..Ends::default() })
            }
            _ => {
                tracing::warn!(file = %path(dir).display(),
                    "the note of where the log ends is damaged: the newest segments are read as a whole instead");
                Ok(Ends::default())
            }
        }
    }

    /// The noted end.
    pub fn end(&self, partition: &str) -> u64 {
        let noted = self.noted.get(partition).map_or(0, |noted| noted.end);
        noted.max(self.plain.get(partition).copied().unwrap_or(0))
    }
}

/// Writes the note; returns its length in bytes.
///
/// # Errors
/// As the disk's `replace`; then the older note stays valid.
pub fn write(disk: &Disk, dir: &Path, partitions: BTreeMap<String, NotedEnd>) -> std::io::Result<usize> {
    let stored = Stored { format: FORMAT, crc32c: checksum(&partitions), partitions };
    let text = serde_json::to_vec(&stored).expect("a note serialises");
    disk.replace(&path(dir), &text)?;
    Ok(text.len())
}

/// Writes the ends of a log whose files were made from another.
///
/// # Errors
/// As the disk's `replace`.
pub fn write_plain(disk: &Disk, dir: &Path, ends: &BTreeMap<String, u64>) -> std::io::Result<()> {
    disk.replace(&path(dir), &serde_json::to_vec(ends).expect("a map serialises"))
}

/// Removes the note, so that a start finds the ends by itself.
///
/// # Errors
/// As the disk's `remove`.
pub fn forget(disk: &Disk, dir: &Path) -> std::io::Result<()> {
    match disk.remove(&path(dir)) {
        Ok(()) => disk.sync_dir(dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
