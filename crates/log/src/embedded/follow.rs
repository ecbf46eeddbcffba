//! Reads a log's files beside the process that writes them, for viewing only. Records that
//! are not written yet are simply missing; a record that was there and cannot be read is
//! damage.

use std::path::{Path, PathBuf};

use super::super::disk::{Disk, DiskFile, Open};
use super::cursor::{CursorItem, FrameCursor, FrameStart, STEP_BYTES, durable_beyond};
use super::ends::{Ends, NotedEnd};
use super::{files, partition, segment};
use crate::error::Error;
use crate::record::{Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;

pub struct Follower {
    at: TopicPartition,
    disk: Disk,
    log_dir: PathBuf,
    dir: PathBuf,
    /// The first offset to be read.
    from: u64,
    current: Option<Current>,
    /// Up to here the files were compared with the note.
    compared: Option<u64>,
}

/// The segment being read, and the position in it.
struct Current {
    base: u64,
    path: PathBuf,
    file: DiskFile,
    position: u64,
    next_offset: u64,
    /// Whether it was opened again, in case that it was compacted.
    is_reopened: bool,
}

impl Follower {
    pub fn new(log_dir: &Path, at: TopicPartition) -> Follower {
        Follower::from(log_dir, at, 0)
    }

    /// Reads from an offset on, or from the first that is there.
    pub fn from(log_dir: &Path, at: TopicPartition, from: u64) -> Follower {
        Follower::on(Disk::Real, log_dir, at, from)
    }

    /// As [`Follower::from`], on any disk.
    pub fn on(disk: Disk, log_dir: &Path, at: TopicPartition, from: u64) -> Follower {
        let (log_dir, dir) = (log_dir.to_owned(), files::dir_of(log_dir, at));
        Follower { at, disk, log_dir, dir, from, current: None, compared: None }
    }

    pub fn at(&self) -> TopicPartition {
        self.at
    }

    /// The watermarks of a partition, from its newest segment.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn bounds(log_dir: &Path, at: TopicPartition) -> Result<Watermarks, Error> {
        Follower::new(log_dir, at).find_bounds()
    }

    /// As [`Follower::bounds`], of a follower that has not read yet.
    ///
    /// # Errors
    /// As [`Follower::bounds`].
    pub fn find_bounds(mut self) -> Result<Watermarks, Error> {
        let bases = self.bases()?;
        self.compare_first(&bases)?;
        let (Some(start), Some(last)) = (bases.first(), bases.last()) else {
            return Ok(Watermarks { start: 0, end: 0 });
        };
        let (start, mut end) = (*start, *last);
        let verify = self.noted()?.map(|noted| noted.verify).filter(|place| place.segment == *last);
        let mut current = self.open(*last)?;
        if let Some(place) = verify {
            (current.position, current.next_offset) = (place.position, place.offset);
            end = end.max(place.offset);
        }
        self.current = Some(current);
        loop {
            let records = self.read()?;
            let Some(last) = records.last() else { return Ok(Watermarks { start, end }) };
            end = last.offset + 1;
        }
    }

    /// The first offset whose record was appended at `time` or later; the end when there is
    /// none.
    ///
    /// # Errors
    /// When a file cannot be read or is damaged.
    pub fn offset_at(log_dir: &Path, at: TopicPartition, time: Millis) -> Result<u64, Error> {
        let mut follower = Follower::new(log_dir, at);
        let bases = follower.bases()?;
        let mut begins = bases.first().copied().unwrap_or(0);
        for base in bases {
            follower.current = Some(follower.open(base)?);
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

    /// The records that have come since the last call, at most about a megabyte.
    ///
    /// # Errors
    /// When a file cannot be read; [`Error::Damaged`] when a record is missing or broken
    /// although later ones are there, or although it was noted as durable.
    pub fn read(&mut self) -> Result<Vec<Record>, Error> {
        // The position that looked like the end, and why it cannot be.
        let mut suspected = None;
        loop {
            if self.current.is_none() {
                self.open_first()?;
            }
            let (records, problem) = self.read_current()?;
            if !records.is_empty() {
                return Ok(records);
            }
            let Some(current) = &self.current else { return Ok(records) };
            let (place, file) = ((current.base, current.position, current.next_offset), current.path.clone());
            let next = self.bases()?.into_iter().find(|next| *next > place.0);
            let evidence = self.evidence(problem, next)?;
            // The writer may have been writing there, so it is read twice.
            let is_second_look = suspected.replace((place, next)) == Some((place, next));
            match (evidence, next) {
                (None, None) => return Ok(records),
                _ if !is_second_look => {}
                (Some(detail), _) => {
                    return Err(Error::Damaged {
                        at: self.at,
                        offset: place.2,
                        file: file.display().to_string(),
                        detail: format!("{detail}, at byte {}", place.1),
                    });
                }
                (None, Some(next)) => self.go_on(place.2, next)?,
            }
        }
    }

    /// Opens the next segment. What is missing before it may have been compacted into the
    /// segment just read, so that is read again first.
    fn go_on(&mut self, reached: u64, next: u64) -> Result<(), Error> {
        let is_reopened = self.current.as_ref().is_some_and(|current| current.is_reopened);
        let before = self.bases()?.into_iter().rfind(|base| *base <= reached);
        self.current = match before.filter(|_| reached < next && !is_reopened) {
            Some(base) => {
                self.from = self.from.max(reached);
                Some(Current { is_reopened: true, ..self.open(base)? })
            }
            None => Some(self.open(next)?),
        };
        Ok(())
    }

    /// Reads on in the current segment; returns also why reading stopped before its end.
    fn read_current(&mut self) -> Result<(Vec<Record>, Option<String>), Error> {
        let (mut records, mut problem, mut taken) = (Vec::new(), None, 0);
        let Some(current) = &mut self.current else { return Ok((records, problem)) };
        let io = |e: std::io::Error| Error::io(current.path.display().to_string(), e);
        let limit = current.file.len().map_err(io)?;
        let start = FrameStart { position: current.position, offset: current.next_offset };
        let mut cursor = FrameCursor::new(&current.file, start, limit).with_gaps(partition::has_gaps(self.at));
        while taken < STEP_BYTES {
            match cursor.next().map_err(io)? {
                CursorItem::Frame(frame) => {
                    taken += frame.len_bytes;
                    if frame.record.offset >= self.from {
                        records.push(frame.record);
                    } else if records.is_empty() {
                        // Skipped records take no memory.
                        taken = 0;
                    }
                }
                CursorItem::End => break,
                CursorItem::Broken(broken) => {
                    problem = Some(broken.to_string());
                    break;
                }
            }
        }
        (current.position, current.next_offset) = (cursor.position(), cursor.next_offset());
        Ok((records, problem))
    }

    /// Why the position cannot be the end of the log, if so.
    fn evidence(&mut self, problem: Option<String>, next: Option<u64>) -> Result<Option<String>, Error> {
        let Some(current) = &self.current else { return Ok(None) };
        let reached = current.next_offset;
        let io = |e: std::io::Error| Error::io(current.path.display().to_string(), e);
        let what = problem.clone().unwrap_or_else(|| "the file ends".to_owned());
        if let Some(next) = next {
            let may_skip = partition::has_gaps(self.at) && problem.is_none();
            if problem.is_some() || (reached < next && !may_skip) {
                return Ok(Some(format!("{what}, and the next file begins at {next}")));
            }
            return if may_skip { self.missing_before(next) } else { Ok(None) };
        }
        if problem.is_some() {
            let limit = current.file.len().map_err(io)?;
            let broken = FrameStart { position: current.position, offset: reached };
            let beyond = durable_beyond(&current.file, broken, limit).map_err(io)?;
            if beyond > reached {
                return Ok(Some(format!("{what}, and everything below offset {beyond} had been acknowledged")));
            }
        }
        if self.compared == Some(reached) {
            return Ok(None);
        }
        let noted = Ends::read(&self.disk, &self.log_dir)?.end(&self.at.to_string());
        if noted > reached {
            return Ok(Some(format!("{what}, and the log is noted to go on to offset {noted}")));
        }
        self.compared = Some(reached);
        Ok(None)
    }

    /// In compacted segments gaps are usual, so only the note says whether something is
    /// missing before the next segment.
    fn missing_before(&self, next: u64) -> Result<Option<String>, Error> {
        let (Some(current), Some(noted)) = (&self.current, self.noted()?) else { return Ok(None) };
        let is_merging = |base: &u64| noted.merging.as_ref().is_some_and(|merging| merging.segments.contains(base));
        for (base, bytes) in noted.segments.iter().filter(|(base, _)| !is_merging(base)) {
            if *base > current.base && *base < next {
                return Ok(Some(format!("the file that begins at {base} is gone")));
            }
            if *base == current.base {
                let found = self.disk.open(&current.path, Open::Read).and_then(|file| file.len());
                let found = found.map_err(|e| Error::io(current.path.display().to_string(), e))?;
                if found < *bytes {
                    return Ok(Some(format!("the file has {found} bytes where it had {bytes}")));
                }
            }
        }
        Ok(None)
    }

    fn noted(&self) -> Result<Option<NotedEnd>, Error> {
        Ok(Ends::read(&self.disk, &self.log_dir)?.noted.remove(&self.at.to_string()))
    }

    /// The first offsets of the segments, in ascending order; empty when there is no log
    /// yet.
    fn bases(&self) -> Result<Vec<u64>, Error> {
        segment::bases(&self.disk, &self.dir)
    }

    fn open(&self, base: u64) -> Result<Current, Error> {
        let path = self.dir.join(segment::file_name(base));
        let file = self.disk.open(&path, Open::Read).map_err(|e| Error::io(path.display().to_string(), e))?;
        Ok(Current { base, path, file, position: 0, next_offset: base, is_reopened: false })
    }

    /// Opens the segment with the first offset to be read, if there is one.
    fn open_first(&mut self) -> Result<(), Error> {
        let bases = self.bases()?;
        self.compare_first(&bases)?;
        let before = bases.iter().rfind(|base| **base <= self.from).or(bases.first());
        self.current = before.map(|base| self.open(*base)).transpose()?;
        Ok(())
    }

    /// Compares the segments that are there, which were listed just now, with the first
    /// that was noted: what is trimmed is noted before it goes.
    fn compare_first(&self, bases: &[u64]) -> Result<(), Error> {
        let ends = Ends::read(&self.disk, &self.log_dir)?;
        let name = self.at.to_string();
        let noted = ends.noted.get(&name).and_then(|noted| noted.segments.first().map(|(base, _)| *base));
        let gone = match noted {
            Some(noted) => bases.first().is_none_or(|first| *first > noted).then_some(noted),
            // Version 0.1.0 noted ends alone.
            None => (bases.is_empty() && ends.end(&name) > 0).then_some(0),
        };
        let Some(base) = gone else { return Ok(()) };
        let file = self.dir.join(segment::file_name(base)).display().to_string();
        Err(Error::Damaged { at: self.at, offset: base, file, detail: "the file is gone".into() })
    }
}
