//! How far each partition was durable when somebody last looked: written beside
//! the segments every second or so, and when a partition's files change. A start
//! reads on from there instead of from the beginning of a file, and notices when
//! less is there than was.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use crate::error::Error;
use askwhen_domain::time::Millis;

const FILE: &str = "ends.json";
/// The file of version 0.1.0 has no format and only ends.
const FORMAT: u32 = 2;

/// A partition as it was. All of it was durable then, and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedEnd {
    /// One past the last record.
    pub end: u64,
    /// From here on a start reads and verifies all frames.
    pub verify: FramePosition,
    /// Base and bytes of each segment, ascending.
    pub segments: Vec<(u64, u64)>,
    pub newest_at: Option<Millis>,
    /// A compaction whose result is about to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merging: Option<Merging>,
}

/// Segments, by their bases, that become the first of them, and what that file
/// holds then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    pub segments: Vec<u64>,
    pub bytes: u64,
    pub crc32c: u32,
}

impl NotedEnd {
    /// Whether these are the segments that were noted, and nothing was about to
    /// be changed.
    pub fn lists(&self, bases: &[u64]) -> bool {
        self.merging.is_none() && self.segments.iter().map(|(base, _)| base).eq(bases)
    }
}

/// Where a frame begins, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramePosition {
    /// Base of the segment.
    pub segment: u64,
    pub position: u64,
    pub offset: u64,
}

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub noted: BTreeMap<String, NotedEnd>,
    /// Of version 0.1.0, or of a restored backup: where each partition ended.
    pub plain: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// Of `partitions`, serialised without spaces.
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
    /// What was noted in the log of `dir`; nothing where there is no file. One
    /// that is damaged counts as none: everything that it would have vouched
    /// for is read then.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
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

    /// The end that is vouched for.
    pub fn end(&self, partition: &str) -> u64 {
        let noted = self.noted.get(partition).map_or(0, |noted| noted.end);
        noted.max(self.plain.get(partition).copied().unwrap_or(0))
    }
}

/// Notes how far all partitions are; gives the bytes of the note.
///
/// # Errors
/// As the disk's `replace`; then the older note holds.
pub fn write(disk: &Disk, dir: &Path, partitions: BTreeMap<String, NotedEnd>) -> std::io::Result<usize> {
    let stored = Stored { format: FORMAT, crc32c: checksum(&partitions), partitions };
    let text = serde_json::to_vec(&stored).expect("a note serialises");
    disk.replace(&path(dir), &text)?;
    Ok(text.len())
}

/// Notes where the partitions of a log end that was put together from elsewhere.
///
/// # Errors
/// As the disk's `replace`.
pub fn write_plain(disk: &Disk, dir: &Path, ends: &BTreeMap<String, u64>) -> std::io::Result<()> {
    disk.replace(&path(dir), &serde_json::to_vec(ends).expect("a map serialises"))
}

/// Vouches for nothing any more: a start then finds the end by itself.
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
