//! One partition of the embedded log: its segments, its frontier, and its readers'
//! notifications.

use bytes::Bytes;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use super::super::disk::{Disk, DiskFile};
use super::compaction::SealedSegment;
use super::cursor::{CursorItem, FrameCursor, FrameStart};
use super::ends::{FramePosition, NotedEnd};
use super::recovery::Recovered;
use super::segment::{self, Segment};
use super::tail::{self, Tail};
use crate::error::Error;
use crate::record::{Record, TopicPartition, Watermarks};
use askwhen_domain::time::Millis;
use askwhen_process::thread::Notify;
use askwhen_wire::topic::Cleanup;

/// Bytes before the end that every start verifies.
const VERIFIED_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub struct PartitionLog {
    pub at: TopicPartition,
    dir: PathBuf,
    segment_bytes: u64,
    segments: RwLock<Vec<Segment>>,
    tail: Mutex<Tail>,
    /// One past the last durable record.
    end: AtomicU64,
    newest_at: Mutex<Option<Millis>>,
    listeners: Mutex<Vec<Arc<Notify>>>,
    /// Locked by whoever reads a segment for its index.
    indexing: Mutex<()>,
}

/// A position in a segment from which records are read.
struct View {
    file: Arc<DiskFile>,
    path: PathBuf,
    start: FrameStart,
    limit: u64,
    /// Base of the next segment.
    next_base: Option<u64>,
    end: u64,
}

/// The file to which a group is written, and its length before.
#[derive(Debug, Clone)]
pub struct Target {
    /// Base of the segment.
    pub base: u64,
    pub file: Arc<DiskFile>,
    pub path: PathBuf,
    pub len_bytes: u64,
}

/// Whether older segments of a partition may have gaps between offsets.
pub fn has_gaps(at: TopicPartition) -> bool {
    at.topic.spec().cleanup == Cleanup::Compact
}

impl PartitionLog {
    pub fn new(at: TopicPartition, dir: PathBuf, segment_bytes: u64, tail: Tail, found: Recovered) -> PartitionLog {
        PartitionLog {
            at,
            dir,
            segment_bytes,
            segments: RwLock::new(found.segments),
            tail: Mutex::new(tail),
            end: AtomicU64::new(found.end),
            newest_at: Mutex::new(found.newest_at),
            listeners: Mutex::default(),
            indexing: Mutex::default(),
        }
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub fn bounds(&self) -> Watermarks {
        let start = self.segments.read().expect("no panic holds this lock")[0].base;
        Watermarks { start, end: self.end() }
    }

    pub fn newest_at(&self) -> Option<Millis> {
        *self.newest_at.lock().expect("no panic holds this lock")
    }

    pub fn len_bytes(&self) -> u64 {
        self.segments.read().expect("no panic holds this lock").iter().map(|segment| segment.len_bytes).sum()
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("no panic holds this lock")
    }

    pub fn tail_bytes(&self) -> usize {
        self.tail().len_bytes()
    }

    /// The path of the file being written, if it does not name that file any more.
    pub fn taken_away(&self, disk: &Disk) -> Option<PathBuf> {
        let segments = self.segments.read().expect("no panic holds this lock");
        let newest = segments.last()?;
        // If the disk cannot tell, the file counts as there.
        let is_there = disk.names(&newest.path, &newest.file).unwrap_or(true);
        (!is_there).then(|| newest.path.clone())
    }

    pub fn subscribe(&self, notify: Arc<Notify>) {
        let mut listeners = self.listeners.lock().expect("no panic holds this lock");
        if !listeners.iter().any(|known| Arc::ptr_eq(known, &notify)) {
            listeners.push(notify);
        }
    }

    /// Durable records from an offset on; see [`super::super::Log::read`].
    pub fn read(&self, mut from: u64, max_bytes: usize) -> Result<Vec<Record>, Error> {
        if from >= self.end() {
            return Ok(Vec::new());
        }
        if let Some(records) = self.read_tail(from, max_bytes) {
            return Ok(records);
        }
        while let Some(view) = self.view(from)? {
            let (records, next_offset) = self.read_segment(&view, from, max_bytes)?;
            if !records.is_empty() {
                return Ok(records);
            }
            let follows = view.next_base.unwrap_or(view.end);
            if next_offset < follows && (view.next_base.is_none() || !has_gaps(self.at)) {
                let detail = format!("records are missing: the file ends there, and the log goes on at {follows}");
                return Err(self.damaged(next_offset, &view.path, detail));
            }
            from = follows;
        }
        Ok(Vec::new())
    }

    /// Records from an offset on from memory, if they are there.
    fn read_tail(&self, from: u64, max_bytes: usize) -> Option<Vec<Record>> {
        let pieces = self.tail().from(from, max_bytes)?;
        let (mut records, mut taken) = (Vec::new(), 0);
        for frame in tail::frames(pieces) {
            taken += frame.len_bytes;
            records.push(frame.record);
            if taken >= max_bytes {
                break;
            }
        }
        (!records.is_empty()).then_some(records)
    }

    /// Records of one segment from an offset on, and the offset after them.
    fn read_segment(&self, view: &View, from: u64, max_bytes: usize) -> Result<(Vec<Record>, u64), Error> {
        let gaps = has_gaps(self.at) && view.next_base.is_some();
        let step = max_bytes.saturating_add(segment::INDEX_EVERY_BYTES as usize);
        let cursor = FrameCursor::new(&view.file, view.start, view.limit);
        let mut cursor = cursor.in_steps_of(step).with_gaps(gaps);
        let (mut records, mut taken) = (Vec::new(), 0);
        while taken < max_bytes.max(1) {
            let start = cursor.start();
            match cursor.next().map_err(|e| Error::io(view.path.display().to_string(), e))? {
                CursorItem::Frame(frame) if frame.record.offset >= from => {
                    taken += frame.len_bytes;
                    records.push(frame.record);
                }
                CursorItem::Frame(_) => {}
                CursorItem::End => break,
                // The records before it are valid; the next read meets the broken frame.
                CursorItem::Broken(_) if !records.is_empty() => break,
                CursorItem::Broken(broken) => {
                    let detail = format!("{broken} at byte {}", start.position);
                    return Err(self.damaged(start.offset, &view.path, detail));
                }
            }
        }
        Ok((records, cursor.next_offset()))
    }

    fn damaged(&self, offset: u64, path: &std::path::Path, detail: impl Into<String>) -> Error {
        Error::Damaged { at: self.at, offset, file: path.display().to_string(), detail: detail.into() }
    }

    /// Where an offset is read from; `None` at the end.
    fn view(&self, from: u64) -> Result<Option<View>, Error> {
        loop {
            {
                let segments = self.segments.read().expect("no panic holds this lock");
                let end = self.end();
                if from >= end {
                    return Ok(None);
                }
                let start = segments[0].base;
                if from < start {
                    return Err(Error::Trimmed { at: self.at, offset: from, start });
                }
                let which = segments.partition_point(|segment| segment.base <= from) - 1;
                let segment = &segments[which];
                if let Some(start) = segment.seek(from) {
                    return Ok(Some(View {
                        file: segment.file.clone(),
                        path: segment.path.clone(),
                        start,
                        limit: segment.len_bytes,
                        next_base: segments.get(which + 1).map(|next| next.base),
                        end,
                    }));
                }
            }
            self.index(from)?;
        }
    }

    /// Reads the part of a segment that its index does not cover. It stops at a broken
    /// frame, which a read of that place reports.
    fn index(&self, from: u64) -> Result<(), Error> {
        let _one = self.indexing.lock().expect("no panic holds this lock");
        let unknown = |segments: &[Segment]| {
            let which = segments.partition_point(|segment| segment.base <= from).checked_sub(1)?;
            segments[which].seek(from).is_none().then_some(which)
        };
        let (file, path, base, limit, gaps) = {
            let segments = self.segments.read().expect("no panic holds this lock");
            let Some(which) = unknown(&segments) else { return Ok(()) };
            let segment = &segments[which];
            let gaps = has_gaps(self.at) && which + 1 < segments.len();
            (segment.file.clone(), segment.path.clone(), segment.base, segment.indexed_from(), gaps)
        };
        let mut index = Vec::new();
        let mut cursor = FrameCursor::new(&file, FrameStart::of_segment(base), limit).with_gaps(gaps);
        loop {
            let position = cursor.position();
            match cursor.next().map_err(|e| Error::io(path.display().to_string(), e))? {
                CursorItem::Frame(frame) => {
                    segment::note(&mut index, FrameStart { position, offset: frame.record.offset });
                }
                CursorItem::End | CursorItem::Broken(_) => break,
            }
        }
        let mut segments = self.segments.write().expect("no panic holds this lock");
        // It may have been trimmed or replaced meanwhile.
        if let Some(which) = unknown(&segments)
            && Arc::ptr_eq(&segments[which].file, &file)
        {
            segments[which].complete_index(index);
        }
        Ok(())
    }

    /// Whether `bytes` more begin a new segment.
    pub fn begins_segment(&self, bytes: u64) -> bool {
        let segments = self.segments.read().expect("no panic holds this lock");
        segments.last().is_some_and(|newest| self.is_full(newest.len_bytes, bytes))
    }

    fn is_full(&self, len_bytes: u64, bytes: u64) -> bool {
        len_bytes > 0 && len_bytes + bytes > self.segment_bytes
    }

    /// The file for the next bytes: a new one when the newest would grow too large. The old
    /// one is durable then, because a start only replays the commit log into the newest.
    pub fn target(&self, disk: &Disk, bytes: u64) -> std::io::Result<Target> {
        let newest = |segments: &[Segment]| {
            let last = segments.last().expect("there is always one");
            Target { base: last.base, file: last.file.clone(), path: last.path.clone(), len_bytes: last.len_bytes }
        };
        let target = newest(&self.segments.read().expect("no panic holds this lock"));
        if !self.is_full(target.len_bytes, bytes) {
            return Ok(target);
        }
        // Not an error of a full disk, after which the group would be taken back: a failed
        // sync may have lost it.
        target.file.sync_data().map_err(std::io::Error::other)?;
        let fresh = Segment::create(disk, &self.dir, self.end())?;
        let mut segments = self.segments.write().expect("no panic holds this lock");
        segments.push(fresh);
        Ok(newest(&segments))
    }

    /// Publishes durable frames to readers. Their positions count from the target's length,
    /// which grows by `bytes`; `end` is the offset after them.
    pub fn publish(&self, target: &Target, frames: Vec<FrameStart>, bytes: Bytes, end: u64, now: Millis) {
        let mut segments = self.segments.write().expect("no panic holds this lock");
        let last = segments.last_mut().expect("there is always one");
        for frame in &frames {
            last.note(FrameStart { position: target.len_bytes + frame.position, ..*frame }, now);
        }
        last.len_bytes = target.len_bytes + bytes.len() as u64;
        self.end.store(end, Ordering::Release);
        drop(segments);
        self.tail().push(bytes, frames);
        let mut newest_at = self.newest_at.lock().expect("no panic holds this lock");
        *newest_at = (*newest_at).max(Some(now));
        drop(newest_at);
        for notify in self.listeners.lock().expect("no panic holds this lock").iter() {
            notify.notify();
        }
    }

    /// Removes whole segments below an offset from the list, never the one being written;
    /// returns them.
    pub fn take_below(&self, below: u64) -> Vec<Segment> {
        let mut segments = self.segments.write().expect("no panic holds this lock");
        let count = segments.windows(2).take_while(|pair| pair[1].base <= below).count();
        self.tail().forget_below(segments[count].base);
        segments.drain(..count).collect()
    }

    /// Adds segments again that [`PartitionLog::take_below`] returned.
    pub fn put_back(&self, taken: Vec<Segment>) {
        self.segments.write().expect("no panic holds this lock").splice(0..0, taken);
    }

    /// The segments that are not being written any more.
    pub fn sealed(&self) -> Vec<SealedSegment> {
        let segments = self.segments.read().expect("no panic holds this lock");
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        let seal = |segment: &Segment| SealedSegment {
            base: segment.base,
            path: segment.path.clone(),
            file: segment.file.clone(),
            len_bytes: segment.len_bytes,
        };
        sealed.iter().map(seal).collect()
    }

    /// Replaces the first `count` segments by one. Readers of these have their files open.
    pub fn replace_first(&self, count: usize, merged: Segment) {
        self.segments.write().expect("no panic holds this lock").splice(..count, [merged]);
    }

    /// The current state for the note.
    pub fn noted(&self) -> NotedEnd {
        let segments = self.segments.read().expect("no panic holds this lock");
        let end = self.end();
        let last = segments.last().expect("there is always one");
        // Verification must not begin in a segment that may be compacted at any time.
        let mut verify = FramePosition { segment: last.base, position: last.len_bytes, offset: end };
        let mut left = VERIFIED_BYTES;
        let back = if has_gaps(self.at) { 1 } else { 2 };
        for segment in segments.iter().rev().take(back).filter(|segment| segment.len_bytes > 0) {
            let known = segment.indexed_before(segment.len_bytes.saturating_sub(left));
            // The index may begin later; then at its first frame.
            let Some(FrameStart { position, offset }) = known.or(segment.first_indexed()) else { break };
            verify = FramePosition { segment: segment.base, position, offset };
            left = left.saturating_sub(segment.len_bytes);
            if left == 0 || position > 0 {
                break;
            }
        }
        NotedEnd {
            end,
            verify,
            segments: segments.iter().map(|segment| (segment.base, segment.len_bytes)).collect(),
            newest_at: self.newest_at(),
            merging: None,
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from byte {}", self.path.display(), self.start.position)
    }
}
