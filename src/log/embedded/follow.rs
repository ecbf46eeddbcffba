//! Reads a log's files beside the process that writes them: for looking, not
//! for deciding. What is not yet a sound record is simply not there yet.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::super::{At, Error, Record, frame, segment};

/// No frame is larger.
const STEP_BYTES: usize = frame::MAX_FRAME_BYTES + (64 << 10);

pub struct Follower {
    at: At,
    dir: PathBuf,
    /// The segment being read, and how far.
    current: Option<(u64, File, u64)>,
}

impl Follower {
    pub fn new(log_dir: &Path, at: At) -> Follower {
        let dir = log_dir.join(at.topic.name()).join(at.partition.to_string());
        Follower { at, dir, current: None }
    }

    pub fn at(&self) -> At {
        self.at
    }

    /// The first offset that is there.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn start(&mut self) -> Result<u64, Error> {
        if self.current.is_none() {
            self.open_after(None)?;
        }
        Ok(self.current.as_ref().map_or(0, |(base, ..)| *base))
    }

    /// What has come since the last call, at most about a megabyte.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        loop {
            if self.current.is_none() && !self.open_after(None)? {
                return Ok(records);
            }
            let Some((base, file, position)) = &mut self.current else { return Ok(records) };
            let bytes = segment::read_at(file, *position, STEP_BYTES)
                .map_err(|e| Error::io(self.dir.display().to_string(), &e))?;
            let mut inside = 0;
            while let Ok(read) = frame::decode(&bytes.slice(inside..)) {
                inside += read.len_bytes;
                records.push(read.record);
            }
            *position += inside as u64;
            if inside > 0 {
                return Ok(records);
            }
            let base = *base;
            if !self.open_after(Some(base))? {
                return Ok(records);
            }
        }
    }

    /// Opens the first segment, or the one behind `base`.
    fn open_after(&mut self, base: Option<u64>) -> Result<bool, Error> {
        let context = self.dir.display().to_string();
        let Ok(entries) = fs::read_dir(&self.dir) else { return Ok(false) };
        let next = entries
            .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str()?.parse::<u64>().ok())
            .filter(|b| base.is_none_or(|base| *b > base))
            .min();
        let Some(next) = next else { return Ok(false) };
        let file = File::open(self.dir.join(segment::file_name(next))).map_err(|e| Error::io(context, &e))?;
        self.current = Some((next, file, 0));
        Ok(true)
    }
}
