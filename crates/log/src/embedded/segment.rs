//! A segment: a file of consecutive records, with a sparse index.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile, Open};
use super::cursor::FrameStart;
use crate::error::Error;
use askwhen_domain::time::Millis;

/// A new segment begins when one would grow larger than this.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The distance between entries of the sparse index, in bytes.
pub const INDEX_EVERY_BYTES: u64 = 16 << 10;
const SUFFIX: &str = ".seg";

#[derive(Debug)]
pub struct Segment {
    pub base: u64,
    pub path: PathBuf,
    pub file: Arc<DiskFile>,
    /// Bytes of durable frames; the file may contain more.
    pub len_bytes: u64,
    pub newest_at: Option<Millis>,
    /// The sparse index.
    index: Vec<FrameStart>,
    /// The index covers the file from this position on. What is before is added when it is
    /// first read.
    indexed_from: u64,
}

pub fn file_name(base: u64) -> String {
    format!("{base:020}{SUFFIX}")
}

/// The first offset of the segment with this file name.
pub fn base_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// The first offsets of the segments in a folder, in ascending order; empty when there is
/// no such folder.
///
/// # Errors
/// When it cannot be listed.
pub fn bases(disk: &Disk, dir: &Path) -> Result<Vec<u64>, Error> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io(dir.display().to_string(), e))?,
    };
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base_of(name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

impl Segment {
    /// Creates an empty segment, with its name durable.
    ///
    /// # Errors
    /// As the disk's `open` and `sync_dir`.
    pub fn create(disk: &Disk, dir: &Path, base: u64) -> std::io::Result<Segment> {
        let path = dir.join(file_name(base));
        let file = Arc::new(disk.open(&path, Open::New)?);
        if let Err(error) = disk.sync_dir(dir) {
            // Its name must not reappear after a crash: records of the segment before would
            // be looked for in it.
            let gone = disk.remove(&path).and_then(|()| disk.sync_dir(dir));
            return Err(gone.map_or_else(std::io::Error::other, |()| error));
        }
        Ok(Segment { base, path, file, len_bytes: 0, newest_at: None, index: Vec::new(), indexed_from: 0 })
    }

    /// Opens a segment without an index.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(disk: &Disk, path: &Path, base: u64) -> Result<Segment, Error> {
        let path = path.to_owned();
        let opened = disk.open(&path, Open::Append).and_then(|file| Ok((file.len()?, file)));
        let (len_bytes, file) = opened.map_err(|e| Error::io(path.display().to_string(), e))?;
        let (index, indexed_from) = (Vec::new(), len_bytes);
        Ok(Segment { base, path, file: Arc::new(file), len_bytes, newest_at: None, index, indexed_from })
    }

    /// Empties the index; the next frame that is noted begins at `position`.
    pub fn index_from(&mut self, position: u64) {
        self.index.clear();
        self.indexed_from = position;
    }

    /// Notes a frame in the index.
    pub fn note(&mut self, frame: FrameStart, appended_at: Millis) {
        self.newest_at = self.newest_at.max(Some(appended_at));
        note(&mut self.index, frame);
    }

    /// A frame from which to read on for `offset`; `None` when the index does not reach
    /// back so far.
    pub fn seek(&self, offset: u64) -> Option<FrameStart> {
        match self.index.partition_point(|known| known.offset <= offset) {
            0 if self.indexed_from > 0 => None,
            0 => Some(FrameStart::of_segment(self.base)),
            n => Some(self.index[n - 1]),
        }
    }

    /// The last frame in the index at or before a position.
    pub fn indexed_before(&self, position: u64) -> Option<FrameStart> {
        let n = self.index.partition_point(|known| known.position <= position);
        n.checked_sub(1).map(|n| self.index[n])
    }

    /// The first frame in the index.
    pub fn first_indexed(&self) -> Option<FrameStart> {
        self.index.first().copied()
    }

    /// The position below which the index has no frames.
    pub fn indexed_from(&self) -> u64 {
        self.indexed_from
    }

    /// Adds the frames below [`Segment::indexed_from`] to the index.
    pub fn complete_index(&mut self, mut first: Vec<FrameStart>) {
        first.append(&mut self.index);
        self.index = first;
        self.indexed_from = 0;
    }
}

/// Adds a frame to a sparse index if it is far enough from the last one.
pub fn note(index: &mut Vec<FrameStart>, frame: FrameStart) {
    if index.last().is_none_or(|last| frame.position - last.position >= INDEX_EVERY_BYTES) {
        index.push(frame);
    }
}
