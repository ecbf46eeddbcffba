//! Recovers a partition's segments at a start: truncates what a crash has torn, and refuses
//! to start when acknowledged records are missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::disk::{Disk, Open};
use super::super::frame::FrameError;
use super::compaction;
use super::cursor::{CursorItem, FrameCursor, FrameStart, STEP_BYTES, durable_beyond, read_bytes};
use super::ends::{FramePosition, NotedEnd};
use super::segment::{self, Segment};
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_domain::time::Millis;

/// The recovered partition.
#[derive(Debug)]
pub struct Recovered {
    pub segments: Vec<Segment>,
    pub end: u64,
    pub newest_at: Option<Millis>,
}

/// What is known of a partition before its files are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoveryHints<'a> {
    pub noted: Option<&'a NotedEnd>,
    /// An end without a position, as version 0.1.0 noted it.
    pub plain_end: u64,
    /// Whether the log was used before: then every partition has a file.
    pub was_used: bool,
    pub has_gaps: bool,
}

/// The files of one partition.
struct Recovery<'a> {
    disk: &'a Disk,
    at: TopicPartition,
    dir: &'a Path,
    known: RecoveryHints<'a>,
}

/// Opens a partition's segments, or creates the first.
///
/// # Errors
/// [`Error::Damaged`] when an acknowledged record is missing.
pub fn recover(disk: &Disk, at: TopicPartition, dir: &Path, known: RecoveryHints<'_>) -> Result<Recovered, Error> {
    Recovery { disk, at, dir, known }.run()
}

/// Whether a partition's folder has a segment that is not empty.
///
/// # Errors
/// When it cannot be read.
pub fn holds_records(disk: &Disk, dir: &Path) -> Result<bool, Error> {
    for base in segment::bases(disk, dir)? {
        if base > 0 || Segment::open(disk, &dir.join(segment::file_name(base)), base)?.len_bytes > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Recovery<'_> {
    fn run(&self) -> Result<Recovered, Error> {
        let io = |e: std::io::Error| Error::io(self.dir.display().to_string(), e);
        self.disk.create_dir_all(self.dir).map_err(io)?;
        let merged = compaction::finish(self.disk, self.dir, self.known.noted)?;
        let bases = segment::bases(self.disk, self.dir)?;
        if !merged.is_empty() || !self.known.noted.is_some_and(|noted| noted.lists(&bases)) {
            // Names made before a crash may be only in the page cache, and are relied on
            // from now on.
            self.disk.sync_dir(self.dir).map_err(io)?;
        }
        let mut segments = Vec::new();
        for base in bases {
            segments.push(Segment::open(self.disk, &self.dir.join(segment::file_name(base)), base)?);
        }
        if let Some(noted) = self.known.noted {
            self.compare(noted, &mut segments, &merged)?;
        }
        if segments.is_empty() {
            if self.known.plain_end > 0 || self.known.was_used {
                let detail = format!("the files that held everything up to offset {} are gone", self.known.plain_end);
                return Err(self.damaged(0, self.dir, detail));
            }
            segments.push(Segment::create(self.disk, self.dir, 0).map_err(io)?);
        }
        let (first, place) = self.begin(&segments);
        let mut newest_at = self.known.noted.and_then(|noted| noted.newest_at);
        let mut end = place.offset;
        for n in first..segments.len() {
            let next_base = segments.get(n + 1).map(|next| next.base);
            let position = if n == first { place.position } else { 0 };
            end = self.scan(&mut segments[n], FrameStart { position, offset: end }, next_base)?;
            newest_at = newest_at.max(segments[n].newest_at);
        }
        Ok(Recovered { segments, end, newest_at })
    }

    fn damaged(&self, offset: u64, file: &Path, detail: impl Into<String>) -> Error {
        Error::Damaged { at: self.at, offset, file: file.display().to_string(), detail: detail.into() }
    }

    /// Checks that every noted segment has at least its noted length.
    fn compare(&self, noted: &NotedEnd, segments: &mut Vec<Segment>, merged: &[u64]) -> Result<(), Error> {
        let newest = noted.segments.last().map(|(base, _)| *base);
        if let Some((first, _)) = noted.segments.first() {
            // They were being trimmed when the process ended.
            let trimmed = segments.iter().take_while(|segment| segment.base < *first).count();
            for old in segments.drain(..trimmed) {
                self.disk.remove(&old.path).map_err(|e| Error::io(old.path.display().to_string(), e))?;
            }
        }
        let there: BTreeMap<u64, u64> = segments.iter().map(|segment| (segment.base, segment.len_bytes)).collect();
        for (base, bytes) in &noted.segments {
            let path = self.dir.join(segment::file_name(*base));
            match there.get(base) {
                _ if merged.contains(base) => {}
                None => return Err(self.damaged(*base, &path, "the file is gone")),
                Some(found) if *found == *bytes || (Some(*base) == newest && *found > *bytes) => {}
                Some(found) => {
                    let cursor_end = self.sound_end(segments, *base)?;
                    let detail = format!("the file has {found} bytes where it had {bytes}");
                    return Err(self.damaged(cursor_end, &path, detail));
                }
            }
        }
        Ok(())
    }

    /// One past the last valid record of a segment.
    fn sound_end(&self, segments: &[Segment], base: u64) -> Result<u64, Error> {
        let Some(segment) = segments.iter().find(|segment| segment.base == base) else { return Ok(base) };
        let mut cursor = FrameCursor::new(&segment.file, FrameStart::of_segment(base), segment.len_bytes)
            .with_gaps(self.known.has_gaps);
        while let CursorItem::Frame(_) = cursor.next().map_err(|e| Error::io(segment.path.display().to_string(), e))? {}
        Ok(cursor.next_offset())
    }

    /// Where verification begins: the index of a segment, and a position in it.
    fn begin(&self, segments: &[Segment]) -> (usize, FramePosition) {
        if let Some(noted) = self.known.noted
            && let Some(n) = segments.iter().position(|segment| segment.base == noted.verify.segment)
        {
            return (n, noted.verify);
        }
        // The newest segment; if it is empty the one before it, which then must reach up to
        // it.
        let newest = segments.len() - 1;
        let n = if segments[newest].len_bytes == 0 { newest.saturating_sub(1) } else { newest };
        let base = segments[n].base;
        (n, FramePosition { segment: base, position: 0, offset: base })
    }

    /// Verifies and indexes a segment from a frame on; returns the offset after it. A torn
    /// end of the newest segment is truncated.
    fn scan(&self, segment: &mut Segment, start: FrameStart, next_base: Option<u64>) -> Result<u64, Error> {
        let path = segment.path.clone();
        let io = |e: std::io::Error| Error::io(path.display().to_string(), e);
        let file = segment.file.clone();
        let has_gaps = self.known.has_gaps && next_base.is_some();
        let mut cursor = FrameCursor::new(&file, start, segment.len_bytes).with_gaps(has_gaps);
        let mut durable = 0;
        segment.index_from(start.position);
        let broken = loop {
            let position = cursor.position();
            match cursor.next().map_err(io)? {
                CursorItem::Frame(frame) => {
                    durable = durable.max(frame.durable);
                    let start = FrameStart { position, offset: frame.record.offset };
                    segment.note(start, frame.record.appended_at);
                }
                CursorItem::End => break None,
                CursorItem::Broken(broken) => break Some(broken),
            }
        };
        let (sound_bytes, end) = (cursor.position(), cursor.next_offset());
        if broken.is_some() {
            let beyond = durable_beyond(&file, cursor.start(), segment.len_bytes).map_err(io)?;
            durable = durable.max(beyond);
        }
        let acknowledged = match next_base {
            Some(base) => base,
            None => durable.max(self.known.plain_end).max(self.known.noted.map_or(0, |noted| noted.end)),
        };
        let misses = end < acknowledged && !(has_gaps && broken.is_none());
        if misses || (next_base.is_some() && broken.is_some()) {
            let what = broken.unwrap_or(FrameError::Short);
            return Err(self.damaged(end, &segment.path, format!("{what} at byte {sound_bytes}")));
        }
        if sound_bytes < segment.len_bytes {
            let kept = self.keep_torn(segment, sound_bytes).map_err(io)?;
            tracing::warn!(at = %self.at, file = %segment.path.display(), cut_bytes = segment.len_bytes - sound_bytes,
                kept_in = kept.as_deref().map(|path| tracing::field::display(path.display())),
                "cut off the torn end of the log: nothing says that any of it had been acknowledged");
            file.set_len(sound_bytes).and_then(|()| file.sync_data()).map_err(io)?;
            segment.len_bytes = sound_bytes;
        }
        self.make_durable(segment).map_err(io)?;
        Ok(next_base.unwrap_or(end))
    }

    /// Copies what is about to be truncated into a file beside the segment, when the log
    /// does not say how far it was durable. A state may need more and then refuse to start;
    /// so the bytes are there for a repair. Returns the path of the copy.
    fn keep_torn(&self, segment: &Segment, from: u64) -> std::io::Result<Option<PathBuf>> {
        if self.known.noted.is_some() || self.known.plain_end > 0 {
            return Ok(None);
        }
        let mut torn = Vec::new();
        while from + (torn.len() as u64) < segment.len_bytes {
            let bytes = read_bytes(&segment.file, from + torn.len() as u64, STEP_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            torn.extend_from_slice(&bytes);
        }
        let path = segment.path.with_extension(format!("torn-{from}"));
        self.disk.replace(&path, &torn)?;
        Ok(Some(path))
    }

    /// Writes and syncs again what was written after the last note: after a failed sync or
    /// a kill it may be only in the page cache, and from now on it counts as durable.
    fn make_durable(&self, segment: &Segment) -> std::io::Result<()> {
        let Some(noted) = self.known.noted.filter(|_| segment.len_bytes > 0) else {
            return if segment.len_bytes > 0 { segment.file.sync_data() } else { Ok(()) };
        };
        let known = noted.segments.iter().find(|(base, _)| *base == segment.base);
        let mut position = known.map_or(0, |(_, bytes)| *bytes);
        if position >= segment.len_bytes {
            return Ok(());
        }
        let file = self.disk.open(&segment.path, Open::Rewrite)?;
        while position < segment.len_bytes {
            let left = usize::try_from(segment.len_bytes - position).unwrap_or(usize::MAX);
            let bytes = read_bytes(&file, position, left.min(STEP_BYTES))?;
            if bytes.is_empty() {
                break;
            }
            file.write_all_at(&bytes, position)?;
            position += bytes.len() as u64;
        }
        file.sync_data()
    }
}
