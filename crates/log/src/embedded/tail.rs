//! The newest frames of a partition in memory, as they were written: readers at the end,
//! which most are, need no file.

use bytes::Bytes;
use std::collections::VecDeque;

use super::super::frame::{self, Frame};
use super::cursor::FrameStart;

/// The most bytes that a partition keeps.
pub const TAIL_BYTES: usize = 128 << 10;
/// The most bytes of all partitions of all topics together; when there are many, each has
/// less.
pub const ALL_TAILS_BYTES: usize = 16 << 20;

/// Groups of frames without gaps between their offsets, up to the partition's end.
#[derive(Debug)]
pub struct Tail {
    groups: VecDeque<Group>,
    len_bytes: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Group {
    frames: Bytes,
    /// The start of each frame in `frames`; never empty.
    starts: Vec<FrameStart>,
}

impl Tail {
    pub fn new(max_bytes: usize) -> Tail {
        Tail { groups: VecDeque::new(), len_bytes: 0, max_bytes }
    }

    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Adds a group, and drops the oldest.
    pub fn push(&mut self, frames: Bytes, starts: Vec<FrameStart>) {
        if starts.is_empty() {
            return;
        }
        self.len_bytes += frames.len();
        self.groups.push_back(Group { frames, starts });
        while self.len_bytes > self.max_bytes {
            self.forget_oldest();
        }
    }

    /// Drops groups that begin below an offset.
    pub fn forget_below(&mut self, below: u64) {
        while self.groups.front().is_some_and(|oldest| oldest.starts[0].offset < below) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        self.len_bytes -= self.groups.pop_front().map_or(self.len_bytes, |oldest| oldest.frames.len());
    }

    /// The frames from an offset on, in pieces, which together exceed `max_bytes` by less
    /// than one group; `None` when the offset is not here.
    pub fn from(&self, offset: u64, max_bytes: usize) -> Option<Vec<Bytes>> {
        let which = self.groups.partition_point(|group| group.starts[0].offset <= offset).checked_sub(1)?;
        let first = &self.groups[which];
        let start = first.starts.get(usize::try_from(offset - first.starts[0].offset).ok()?)?;
        let first_piece = first.frames.slice(usize::try_from(start.position).ok()?..);
        let mut len_bytes = first_piece.len();
        let mut pieces = vec![first_piece];
        for group in self.groups.iter().skip(which + 1) {
            if len_bytes >= max_bytes {
                break;
            }
            len_bytes += group.frames.len();
            pieces.push(group.frames.clone());
        }
        Some(pieces)
    }
}

/// The frames in pieces, in order.
pub fn frames(pieces: Vec<Bytes>) -> impl Iterator<Item = Frame> {
    pieces.into_iter().flat_map(|piece| {
        let mut rest = piece;
        std::iter::from_fn(move || {
            // Frames that the writer has made can be decoded; after one that could not, the
            // file would be read.
            let frame = frame::decode(&rest).ok()?;
            rest = rest.slice(frame.len_bytes..);
            Some(frame)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NewRecord;
    use bytes::BytesMut;

    /// A group of frames with offsets from `first` on, each of about `len` bytes.
    fn group(first: u64, count: u64, len: usize) -> (Bytes, Vec<FrameStart>) {
        let (mut bytes, mut starts) = (BytesMut::new(), Vec::new());
        for offset in first..first + count {
            starts.push(FrameStart { position: bytes.len() as u64, offset });
            let new = NewRecord { value: Some(vec![7; len].into()), ..NewRecord::default() };
            frame::encode(&mut bytes, &new, offset, 0, first);
        }
        (bytes.freeze(), starts)
    }

    fn offsets(tail: &Tail, from: u64, max_bytes: usize) -> Option<Vec<u64>> {
        Some(frames(tail.from(from, max_bytes)?).map(|frame| frame.record.offset).collect())
    }

    #[test]
    fn what_is_kept_is_read_from_any_offset_and_no_other() {
        let mut tail = Tail::new(10_000);
        assert_eq!(offsets(&tail, 0, 1), None);
        for first in [5, 8, 11] {
            let (frames, starts) = group(first, 3, 100);
            tail.push(frames, starts);
        }
        for from in 5..14 {
            assert_eq!(offsets(&tail, from, usize::MAX), Some((from..14).collect()));
        }
        assert_eq!(offsets(&tail, 6, 1), Some(vec![6, 7]), "what is left of one group");
        assert_eq!((offsets(&tail, 4, 1), offsets(&tail, 14, 1)), (None, None));
        tail.forget_below(9);
        assert_eq!((offsets(&tail, 10, 1), offsets(&tail, 11, 1)), (None, Some(vec![11, 12, 13])));
    }

    #[test]
    fn the_bound_holds_whatever_comes() {
        let mut tail = Tail::new(1_000);
        let mut next = 0;
        for len in [10, 300, 2_000, 10, 400, 400, 400, 5_000] {
            let (frames, starts) = group(next, 2, len);
            next += 2;
            tail.push(frames, starts);
            assert!(tail.len_bytes() <= 1_000);
            assert!(offsets(&tail, next - 2, 1).is_none_or(|found| found == [next - 2, next - 1]));
        }
        assert_eq!((tail.len_bytes(), offsets(&tail, next - 2, 1)), (0, None), "larger than all the room there is");
    }
}
