//! Copies a log by its files: which bytes are below an end, and how a log is put together
//! from them.

use bytes::BytesMut;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::super::disk::{Disk, DiskFile, Open};
use super::super::frame;
use super::cursor::{CursorItem, FrameCursor, FrameStart};
use super::identity::EmbeddedIdentity;
use super::{ends, partition, segment};
use crate::error::Error;
use crate::record::{NewRecord, TopicPartition};
use askwhen_domain::time::Millis;

/// How often segments are listed again because a compaction came in between.
const LISTINGS: u32 = 100;

/// A segment, or the first part of one.
#[derive(Debug)]
pub struct SegmentSlice {
    pub base: u64,
    pub path: PathBuf,
    pub bytes: u64,
    /// Kept open where a compaction may replace the file.
    file: Option<File>,
}

impl SegmentSlice {
    /// Opens its file.
    ///
    /// # Errors
    /// As the system's `open`: not found when it was trimmed meanwhile.
    pub fn open(&self) -> std::io::Result<File> {
        self.file.as_ref().map_or_else(|| File::open(&self.path), File::try_clone)
    }
}

pub fn dir_of(log_dir: &Path, at: TopicPartition) -> PathBuf {
    log_dir.join(at.topic.name()).join(at.partition.to_string())
}

/// The path of a segment.
pub fn path_of(log_dir: &Path, at: TopicPartition, base: u64) -> PathBuf {
    dir_of(log_dir, at).join(segment::file_name(base))
}

/// The parts of a partition below `end`, which must be the end of a record. The last may be
/// empty: its name gives the offset of the next record.
///
/// # Errors
/// When a file cannot be read, or ends before `end`.
pub fn pieces(log_dir: &Path, at: TopicPartition, end: u64) -> Result<Vec<SegmentSlice>, Error> {
    // Segments that disappear while they are listed were compacted into one that the next
    // listing has.
    for _ in 0..LISTINGS {
        if let Some(pieces) = listed(log_dir, at, end)? {
            return Ok(pieces);
        }
    }
    Err(Error::Refused(format!("{at} is compacted over and over while its segments are listed: try again")))
}

/// As [`pieces`]; `None` when a compaction came in between.
fn listed(log_dir: &Path, at: TopicPartition, end: u64) -> Result<Option<Vec<SegmentSlice>>, Error> {
    let dir = dir_of(log_dir, at);
    let io = |e: std::io::Error| Error::io(dir.display().to_string(), e);
    let mut bases = segment::bases(&Disk::Real, &dir)?;
    bases.retain(|base| *base <= end);
    let mut pieces = Vec::new();
    for (n, base) in bases.iter().enumerate() {
        let path = path_of(log_dir, at, *base);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && partition::has_gaps(at) => return Ok(None),
            // It was trimmed meanwhile, and all before it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                pieces.clear();
                continue;
            }
            Err(error) => return Err(io(error)),
        };
        let bytes = match bases.get(n + 1) {
            Some(_) => file.metadata().map_err(io)?.len(),
            None => {
                let file = DiskFile::Real(file.try_clone().map_err(io)?);
                length_below(at, &file, &path, *base, end)?
            }
        };
        pieces.push(SegmentSlice { base: *base, path, bytes, file: partition::has_gaps(at).then_some(file) });
    }
    if let Some(last) = pieces.last()
        && let (Some(file), true) = (&last.file, last.base < end)
    {
        // The last segment of the copy may be a compacted one, which is never the newest of
        // a log: an empty one follows it.
        let file = Some(file.try_clone().map_err(io)?);
        pieces.push(SegmentSlice { base: end, path: path_of(log_dir, at, end), bytes: 0, file });
    }
    Ok(Some(pieces))
}

/// How many bytes of a segment are records below `end`.
fn length_below(at: TopicPartition, file: &DiskFile, path: &Path, base: u64, end: u64) -> Result<u64, Error> {
    let io = |e: std::io::Error| Error::io(path.display().to_string(), e);
    let limit = file.len().map_err(io)?;
    let has_gaps = partition::has_gaps(at);
    let mut cursor = FrameCursor::new(file, FrameStart::of_segment(base), limit).with_gaps(has_gaps);
    loop {
        let FrameStart { position, offset } = cursor.start();
        if offset == end {
            return Ok(position);
        }
        let what = match cursor.next().map_err(io)? {
            CursorItem::Frame(frame) if frame.record.offset >= end => return Ok(position),
            CursorItem::Frame(_) => continue,
            CursorItem::End if has_gaps => return Ok(position),
            CursorItem::End => "the file ends".to_owned(),
            CursorItem::Broken(broken) => broken.to_string(),
        };
        let detail = format!("{what} at byte {position}, and the log goes on to {end}");
        return Err(Error::Damaged { at, offset, file: path.display().to_string(), detail });
    }
}

/// Writes the files of a partition from records of another log.
pub struct PartitionImporter {
    log_dir: PathBuf,
    at: TopicPartition,
    next: u64,
    /// The segment being written: first offset, file, length.
    current: (u64, DiskFile, u64),
    done: Vec<SegmentSlice>,
}

impl PartitionImporter {
    /// Begins at an offset.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn begin(log_dir: &Path, at: TopicPartition, base: u64) -> Result<PartitionImporter, Error> {
        let dir = dir_of(log_dir, at);
        Disk::Real.create_dir_all(&dir).map_err(|e| Error::io(dir.display().to_string(), e))?;
        let current = (base, PartitionImporter::file(log_dir, at, base)?, 0);
        Ok(PartitionImporter { log_dir: log_dir.to_owned(), at, next: base, current, done: Vec::new() })
    }

    fn file(log_dir: &Path, at: TopicPartition, base: u64) -> Result<DiskFile, Error> {
        let path = path_of(log_dir, at, base);
        Disk::Real.open(&path, Open::Replace).map_err(|e| Error::io(path.display().to_string(), e))
    }

    /// The offset of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes a record that was appended at `appended_at`; returns its checksum.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, record: &NewRecord, appended_at: Millis) -> Result<u32, Error> {
        if self.current.2 >= segment::SEGMENT_BYTES {
            let fresh = (self.next, PartitionImporter::file(&self.log_dir, self.at, self.next)?, 0);
            let (base, _, bytes) = std::mem::replace(&mut self.current, fresh);
            self.done.push(SegmentSlice { base, path: path_of(&self.log_dir, self.at, base), bytes, file: None });
        }
        if let Err(why) = frame::fits(record) {
            return Err(Error::Refused(format!("{} at {}: {why}", self.at, self.next)));
        }
        let mut frame = BytesMut::new();
        frame::encode(&mut frame, record, self.next, appended_at, self.next);
        let written = self.current.1.append_all(&frame);
        written.map_err(|e| Error::io(self.at.to_string(), e))?;
        self.current.2 += frame.len() as u64;
        self.next += 1;
        let read = frame::decode(&frame.freeze());
        let unreadable = |_| Error::Refused(format!("{} holds a record that no frame can", self.at));
        read.map(|read| read.record.crc).map_err(unreadable)
    }

    /// The segments that were written.
    pub fn finish(mut self) -> Vec<SegmentSlice> {
        let (base, _, bytes) = self.current;
        self.done.push(SegmentSlice { base, path: path_of(&self.log_dir, self.at, base), bytes, file: None });
        self.done
    }
}

/// Makes a log of a folder with its files. It can be opened only if everything up to these
/// ends is there.
///
/// # Errors
/// When it cannot be written.
pub fn found(log_dir: &Path, incarnation: u128, partitions: u32, ends: &BTreeMap<String, u64>) -> Result<(), Error> {
    let io = |e: std::io::Error| Error::io(log_dir.display().to_string(), e);
    ends::write_plain(&Disk::Real, log_dir, ends).map_err(io)?;
    // The copy may have been compacted, by an unknown version.
    EmbeddedIdentity::new(incarnation, partitions).with_gaps().with_old_macs().write(&Disk::Real, log_dir)
}
