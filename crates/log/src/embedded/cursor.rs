//! The only code that walks through the frames of a segment file.

use bytes::{Buf as _, Bytes, BytesMut};
use std::io;

use super::super::disk::DiskFile;
use super::super::frame::{self, Frame, FrameError};

/// The default bytes read at a time.
pub const STEP_BYTES: usize = 1 << 20;
/// The least bytes read at a time, so that a frame's prefix is never cut.
const MIN_STEP_BYTES: usize = 4 << 10;

/// Walks through the frames of one file in bounded steps; a frame that is larger than a
/// step is read as a whole. In compacted segments offsets may have gaps, in others not.
#[derive(Debug)]
pub struct FrameCursor<'a> {
    file: &'a DiskFile,
    step_bytes: usize,
    has_gaps: bool,
    /// The start of the next frame, and its expected offset.
    position: u64,
    next_offset: u64,
    /// Nothing behind it is read.
    limit: u64,
    /// Bytes that were read from `position` on.
    buffer: Bytes,
}

/// The position of a frame in its file, and the offset of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameStart {
    pub position: u64,
    pub offset: u64,
}

impl FrameStart {
    /// The first frame of a segment.
    pub fn of_segment(base: u64) -> FrameStart {
        FrameStart { position: 0, offset: base }
    }
}

/// What the cursor found.
#[derive(Debug)]
pub enum CursorItem {
    Frame(Frame),
    /// The limit was reached: all bytes before it are valid frames.
    End,
    /// No valid frame; the cursor stays before it.
    Broken(FrameError),
}

impl<'a> FrameCursor<'a> {
    /// Begins at a frame, and reads nothing from `limit` on.
    pub fn new(file: &'a DiskFile, start: FrameStart, limit: u64) -> FrameCursor<'a> {
        FrameCursor {
            file,
            step_bytes: STEP_BYTES,
            has_gaps: false,
            position: start.position,
            next_offset: start.offset,
            limit,
            buffer: Bytes::new(),
        }
    }

    /// Reads about so many bytes at a time.
    pub fn in_steps_of(mut self, bytes: usize) -> FrameCursor<'a> {
        self.step_bytes = bytes.clamp(MIN_STEP_BYTES, STEP_BYTES);
        self
    }

    /// Accepts gaps between offsets, as in compacted segments.
    pub fn with_gaps(mut self, has_gaps: bool) -> FrameCursor<'a> {
        self.has_gaps = has_gaps;
        self
    }

    /// The start of the next frame, and its expected offset.
    pub fn start(&self) -> FrameStart {
        FrameStart { position: self.position, offset: self.next_offset }
    }

    /// The position of the next frame.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// One past the last offset found.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// The next frame; the cursor moves behind it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next(&mut self) -> io::Result<CursorItem> {
        loop {
            let left = self.limit.saturating_sub(self.position);
            if left == 0 {
                return Ok(CursorItem::End);
            }
            let frame = match frame::decode(&self.buffer) {
                Ok(frame) => frame,
                Err(FrameError::Short) if (self.buffer.len() as u64) < left => {
                    // The frame continues behind what was read.
                    if !self.fill(left)? {
                        return Ok(CursorItem::Broken(FrameError::Short));
                    }
                    continue;
                }
                Err(broken) => return Ok(CursorItem::Broken(broken)),
            };
            let offset = frame.record.offset;
            if offset != self.next_offset && (offset < self.next_offset || !self.has_gaps) {
                return Ok(CursorItem::Broken(FrameError::Offset));
            }
            self.buffer.advance(frame.len_bytes);
            self.position += frame.len_bytes as u64;
            self.next_offset = offset + 1;
            return Ok(CursorItem::Frame(frame));
        }
    }

    /// Reads on from the next frame, at least all of it; returns `false` when the file has
    /// no more bytes.
    fn fill(&mut self, left: u64) -> io::Result<bool> {
        let frame = frame::peek_len(&self.buffer).unwrap_or(0);
        let want = self.step_bytes.max(frame).min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = read_bytes(self.file, self.position, want)?;
        let grew = read.len() > self.buffer.len();
        self.buffer = read;
        Ok(grew)
    }
}

/// Reads `len` bytes at `position`; fewer only at the end of the file.
///
/// # Errors
/// When the file cannot be read.
pub fn read_bytes(file: &DiskFile, position: u64, len: usize) -> io::Result<Bytes> {
    // A zeroed allocation of this size would be given back to the system and be faulted in
    // again, page by page.
    let mut buffer = BytesMut::with_capacity(len);
    buffer.resize(len, 0);
    let filled = file.read_at(&mut buffer, position)?;
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

/// The largest `durable` of any valid frame behind a broken one; 0 when there is none.
/// Frames of a torn batch may survive out of order, so every position up to the limit is
/// tried.
///
/// # Errors
/// When the file cannot be read.
pub fn durable_beyond(file: &DiskFile, broken: FrameStart, limit: u64) -> io::Result<u64> {
    let after_offset = broken.offset;
    let left = usize::try_from(limit.saturating_sub(broken.position)).unwrap_or(usize::MAX);
    let bytes = read_bytes(file, broken.position, left)?;
    let (mut durable, mut at) = (0, 1);
    while at + frame::PREFIX_BYTES < bytes.len() {
        // Cheap checks first: a checksum is expensive.
        let believable = frame::peek_len(&bytes[at..]).is_some_and(|len| at + len <= bytes.len())
            && frame::peek_offset(&bytes[at..])
                .is_some_and(|offset| offset > after_offset && offset - after_offset <= bytes.len() as u64);
        match believable.then(|| frame::decode(&bytes.slice(at..))) {
            Some(Ok(frame)) => {
                durable = durable.max(frame.durable);
                at += frame.len_bytes;
            }
            _ => at += 1,
        }
    }
    Ok(durable)
}
