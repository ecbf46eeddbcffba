//! Reads a log's files beside the process that writes them: for looking, not
//! for deciding. What is not yet a sound record is simply not there yet.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::super::{At, Bounds, Error, Record, frame, segment};
use super::files;
use crate::domain::time::Millis;

/// No frame is larger.
const STEP_BYTES: usize = frame::MAX_FRAME_BYTES + (64 << 10);

pub struct Follower {
    at: At,
    dir: PathBuf,
    /// The first offset that is wanted.
    from: u64,
    /// The segment being read, and how far.
    current: Option<(u64, File, u64)>,
}

impl Follower {
    pub fn new(log_dir: &Path, at: At) -> Follower {
        Follower::from(log_dir, at, 0)
    }

    /// Gives records from an offset on, or from the first that is there.
    pub fn from(log_dir: &Path, at: At, from: u64) -> Follower {
        Follower { at, dir: files::dir_of(log_dir, at), from, current: None }
    }

    pub fn at(&self) -> At {
        self.at
    }

    /// What is there: reads the last segment.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn bounds(log_dir: &Path, at: At) -> Result<Bounds, Error> {
        let mut follower = Follower::new(log_dir, at);
        let bases = follower.bases();
        let (Some(start), Some(last)) = (bases.first(), bases.last()) else { return Ok(Bounds { start: 0, end: 0 }) };
        let (start, mut end) = (*start, *last);
        follower.open(*last)?;
        loop {
            let records = follower.read()?;
            let Some(last) = records.last() else { return Ok(Bounds { start, end }) };
            end = last.offset + 1;
        }
    }

    /// The first offset whose record was appended at `time` or later; the end
    /// when there is none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn offset_at(log_dir: &Path, at: At, time: Millis) -> Result<u64, Error> {
        let mut follower = Follower::new(log_dir, at);
        let bases = follower.bases();
        let mut begins = bases.first().copied().unwrap_or(0);
        for base in bases {
            follower.open(base)?;
            if follower.read()?.first().is_none_or(|first| first.appended_at >= time) {
                break;
            }
            begins = base;
        }
        let mut follower = Follower::from(log_dir, at, begins);
        let mut end = begins;
        loop {
            let records = follower.read()?;
            let Some(last) = records.last() else { return Ok(end) };
            end = last.offset + 1;
            if let Some(found) = records.iter().find(|record| record.appended_at >= time) {
                return Ok(found.offset);
            }
        }
    }

    /// What has come since the last call, at most about a megabyte.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let mut rolled = None;
        loop {
            if self.current.is_none() {
                self.open_first()?;
            }
            let Some((base, file, position)) = &mut self.current else { return Ok(records) };
            let bytes = segment::read_at(file, *position, STEP_BYTES)
                .map_err(|e| Error::io(self.dir.display().to_string(), &e))?;
            let mut inside = 0;
            while let Ok(read) = frame::decode(&bytes.slice(inside..)) {
                inside += read.len_bytes;
                if read.record.offset >= self.from {
                    records.push(read.record);
                }
            }
            *position += inside as u64;
            if !records.is_empty() {
                return Ok(records);
            }
            let base = *base;
            if inside > 0 {
                continue;
            }
            let Some(next) = self.bases().into_iter().find(|next| *next > base) else { return Ok(records) };
            // Something may have been written here before the next one was begun.
            if rolled == Some(next) {
                self.open(next)?;
            }
            rolled = Some(next);
        }
    }

    /// The first offsets of the segments, ascending; none where there is no log yet.
    fn bases(&self) -> Vec<u64> {
        files::bases(&self.dir).unwrap_or_default()
    }

    fn open(&mut self, base: u64) -> Result<(), Error> {
        let file = File::open(self.dir.join(segment::file_name(base)));
        let file = file.map_err(|e| Error::io(self.dir.display().to_string(), &e))?;
        self.current = Some((base, file, 0));
        Ok(())
    }

    /// Opens the segment that holds what is wanted first, if there is any.
    fn open_first(&mut self) -> Result<(), Error> {
        let bases = self.bases();
        let before = bases.iter().rfind(|base| **base <= self.from).or(bases.first());
        before.map_or(Ok(()), |base| self.open(*base))
    }
}
