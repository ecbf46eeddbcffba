//! A log's files as they are, for a copy of it: which bytes are below an end, and
//! how a log is put together from them.

use bytes::BytesMut;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::super::{At, Error, New, frame, segment};
use super::{FORMAT, Identity, write_file};
use crate::domain::time::Millis;

/// A segment, or the first part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub base: u64,
    pub path: PathBuf,
    pub bytes: u64,
}

pub fn dir_of(log_dir: &Path, at: At) -> PathBuf {
    log_dir.join(at.topic.name()).join(at.partition.to_string())
}

/// Where a segment's file is.
pub fn path_of(log_dir: &Path, at: At, base: u64) -> PathBuf {
    dir_of(log_dir, at).join(segment::file_name(base))
}

/// The first offsets of the segments in a folder, ascending.
///
/// # Errors
/// When it cannot be listed.
pub fn bases(dir: &Path) -> std::io::Result<Vec<u64>> {
    let base = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.path().file_stem()?.to_str()?.parse().ok();
    let mut bases: Vec<u64> = fs::read_dir(dir)?.filter_map(base).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// The pieces of a partition that hold what is below `end`, which must be where
/// a record ends. The last may be empty: its name says where the next record goes.
///
/// # Errors
/// When a file cannot be read, or does not go as far.
pub fn pieces(log_dir: &Path, at: At, end: u64) -> Result<Vec<Piece>, Error> {
    let dir = dir_of(log_dir, at);
    let io = |e: std::io::Error| Error::io(dir.display().to_string(), &e);
    let mut bases = bases(&dir).map_err(io)?;
    bases.retain(|base| *base <= end);
    let mut pieces = Vec::new();
    for (n, base) in bases.iter().enumerate() {
        let path = path_of(log_dir, at, *base);
        let bytes = match bases.get(n + 1) {
            Some(_) => match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                // Trimmed in the meantime: with all that was before.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    pieces.clear();
                    continue;
                }
                Err(error) => return Err(io(error)),
            },
            None => length_below(at, &path, (*base, end))?,
        };
        pieces.push(Piece { base: *base, path, bytes });
    }
    Ok(pieces)
}

/// How many bytes of a segment are records below `end`.
fn length_below(at: At, path: &Path, (base, end): (u64, u64)) -> Result<u64, Error> {
    let file = File::open(path).map_err(|e| Error::io(path.display().to_string(), &e))?;
    let (mut position, mut next) = (0, base);
    while next < end {
        let bytes = segment::read_at(&file, position, frame::MAX_FRAME_BYTES + (64 << 10))
            .map_err(|e| Error::io(path.display().to_string(), &e))?;
        let mut inside = 0;
        while next < end
            && let Ok(read) = frame::decode(&bytes.slice(inside..))
        {
            inside += read.len_bytes;
            next = read.record.offset + 1;
        }
        if inside == 0 {
            let detail = format!("no sound record at byte {position}, and the log goes on to {end}");
            return Err(Error::Damaged { at, offset: next, file: path.display().to_string(), detail });
        }
        position += inside as u64;
    }
    Ok(position)
}

/// Makes the files of a partition from records of another log.
pub struct Maker {
    log_dir: PathBuf,
    at: At,
    next: u64,
    /// The segment being written: its first offset, its file, its length.
    current: (u64, File, u64),
    done: Vec<Piece>,
}

impl Maker {
    /// # Errors
    /// When no file can be made.
    pub fn begin(log_dir: &Path, at: At, base: u64) -> Result<Maker, Error> {
        let dir = dir_of(log_dir, at);
        fs::create_dir_all(&dir).map_err(|e| Error::io(dir.display().to_string(), &e))?;
        let current = (base, Maker::file(log_dir, at, base)?, 0);
        Ok(Maker { log_dir: log_dir.to_owned(), at, next: base, current, done: Vec::new() })
    }

    fn file(log_dir: &Path, at: At, base: u64) -> Result<File, Error> {
        let path = path_of(log_dir, at, base);
        File::create(&path).map_err(|e| Error::io(path.display().to_string(), &e))
    }

    /// The offset of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes a record that was taken at `appended_at`; gives its checksum.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, record: &New, appended_at: Millis) -> Result<u32, Error> {
        if self.current.2 >= segment::SEGMENT_BYTES {
            let fresh = (self.next, Maker::file(&self.log_dir, self.at, self.next)?, 0);
            let (base, _, bytes) = std::mem::replace(&mut self.current, fresh);
            self.done.push(Piece { base, path: path_of(&self.log_dir, self.at, base), bytes });
        }
        let mut frame = BytesMut::new();
        frame::encode(&mut frame, record, self.next, appended_at, self.next);
        if frame.len() > frame::MAX_FRAME_BYTES || record.headers.len() > usize::from(u16::MAX) {
            return Err(Error::Refused(format!(
                "{} holds a record of {} bytes at {}, which is more than an embedded log takes",
                self.at,
                frame.len(),
                self.next
            )));
        }
        let written = self.current.1.write_all(&frame);
        written.map_err(|e| Error::io(self.at.to_string(), &e))?;
        self.current.2 += frame.len() as u64;
        self.next += 1;
        let read = frame::decode(&frame.freeze());
        let unreadable = |_| Error::Refused(format!("{} holds a record that no frame can", self.at));
        read.map(|read| read.record.crc).map_err(unreadable)
    }

    /// What has been made.
    pub fn finish(mut self) -> Vec<Piece> {
        let (base, _, bytes) = self.current;
        self.done.push(Piece { base, path: path_of(&self.log_dir, self.at, base), bytes });
        self.done
    }
}

/// Makes a folder with the files of a log that log again; it is opened only if all
/// is there up to these ends.
///
/// # Errors
/// When it cannot be written.
pub fn found(
    log_dir: &Path,
    (incarnation, partitions): (u128, u32),
    ends: &BTreeMap<String, u64>,
) -> Result<(), Error> {
    let identity = Identity { format: FORMAT, incarnation: format!("{incarnation:032x}"), partitions };
    write_file(log_dir, "ends.json", &serde_json::to_vec(ends).expect("a map serialises"))?;
    write_file(log_dir, "log.json", &serde_json::to_vec(&identity).expect("an identity serialises"))
}
