//! Compaction of topics that keep the latest record of each key: all segments that are not
//! being written become one, in which records keep their offsets, bytes and order. Safe at
//! every crash: the draft is durable before the note says that it replaces the others, and
//! it replaces them by one rename.

use bytes::BytesMut;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile, Open};
use super::cursor::{CursorItem, FrameCursor, FrameStart, STEP_BYTES, read_bytes};
use super::ends::{Merging, NotedEnd};
use super::segment;
use crate::error::Error;
use crate::record::{Record, TopicPartition};
use askwhen_domain::time::{HOUR, Millis};

/// Segments of such topics are smaller, because only older segments are compacted.
pub const SEGMENT_BYTES: u64 = 4 << 20;
/// How long a tombstone is kept for readers that are behind, in milliseconds.
const TOMBSTONE_KEPT: Millis = 24 * HOUR;
const DRAFT: &str = "merged";

/// A segment that is not being written any more.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    pub base: u64,
    pub path: PathBuf,
    pub file: Arc<DiskFile>,
    pub len_bytes: u64,
}

/// Whether compaction is worth while: the first segment is the result of the last one, and
/// as much has been written since.
pub fn is_due(sealed: &[SealedSegment]) -> bool {
    let Some((clean, dirty)) = sealed.split_first() else { return false };
    !dirty.is_empty() && dirty.iter().map(|segment| segment.len_bytes).sum::<u64>() >= clean.len_bytes
}

/// The path of the draft of a merged segment.
pub fn draft_path(path: &Path) -> PathBuf {
    path.with_extension(DRAFT)
}

/// Writes the draft of the merged segment.
///
/// # Errors
/// When a segment cannot be read or is damaged, or the draft cannot be written; then there
/// is no draft.
pub fn draft(disk: &Disk, at: TopicPartition, sealed: &[SealedSegment], now: Millis) -> Result<Merging, Error> {
    let path = draft_path(&sealed[0].path);
    let written = latest(at, sealed).and_then(|latest| write_draft(disk, at, sealed, &path, &latest, now));
    if written.is_err() {
        disk.remove(&path).ok();
    }
    written
}

/// By key, the offset of its latest record; and the offset of the last record.
struct Latest {
    by_key: HashMap<Vec<u8>, u64>,
    last: u64,
}

fn latest(at: TopicPartition, sealed: &[SealedSegment]) -> Result<Latest, Error> {
    let mut latest = Latest { by_key: HashMap::new(), last: 0 };
    walk(at, sealed, |record, _, _, _| {
        latest.last = record.offset;
        if let Some(key) = &record.key {
            latest.by_key.insert(key.to_vec(), record.offset);
        }
        Ok(())
    })?;
    Ok(latest)
}

fn write_draft(
    disk: &Disk,
    at: TopicPartition,
    sealed: &[SealedSegment],
    path: &Path,
    latest: &Latest,
    now: Millis,
) -> Result<Merging, Error> {
    let io = |e: std::io::Error| Error::io(path.display().to_string(), e);
    let file = disk.open(path, Open::Replace).map_err(io)?;
    let mut out = BytesMut::new();
    let segments = sealed.iter().map(|segment| segment.base).collect();
    let mut merging = Merging { segments, bytes: 0, crc32c: 0 };
    walk(at, sealed, |record, segment, position, len_bytes| {
        let is_latest = record.key.as_ref().is_none_or(|key| latest.by_key.get(&key[..]) == Some(&record.offset));
        let is_old_tombstone = record.value.is_none() && record.appended_at < now - TOMBSTONE_KEPT;
        // The last record stays, so that readers find the end.
        if record.offset != latest.last && (!is_latest || is_old_tombstone) {
            return Ok(());
        }
        // The frame is copied as it is, because others compare its checksum.
        let frame = read_bytes(&segment.file, position, len_bytes).map_err(io)?;
        out.extend_from_slice(&frame);
        merging.bytes += frame.len() as u64;
        merging.crc32c = crc32c::crc32c_append(merging.crc32c, &frame);
        if out.len() >= STEP_BYTES {
            file.append_all(&out.split()).map_err(io)?;
        }
        Ok(())
    })?;
    let parent = path.parent().unwrap_or(Path::new("."));
    let written = file.append_all(&out).and_then(|()| file.sync_data()).and_then(|()| disk.sync_dir(parent));
    written.map_err(io)?;
    Ok(merging)
}

/// Passes every record of the segments to `each`, once and in the order of offsets, with
/// its segment, the position and the length of its frame. An unfinished compaction leaves
/// records in two segments.
fn walk(
    at: TopicPartition,
    sealed: &[SealedSegment],
    mut each: impl FnMut(&Record, &SealedSegment, u64, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut next_offset = 0;
    for segment in sealed {
        let name = || segment.path.display().to_string();
        let mut cursor =
            FrameCursor::new(&segment.file, FrameStart::of_segment(segment.base), segment.len_bytes).with_gaps(true);
        loop {
            let FrameStart { position, offset } = cursor.start();
            match cursor.next().map_err(|e| Error::io(name(), e))? {
                CursorItem::Frame(frame) if frame.record.offset >= next_offset => {
                    next_offset = frame.record.offset + 1;
                    each(&frame.record, segment, position, frame.len_bytes)?;
                }
                CursorItem::Frame(_) => {}
                CursorItem::End => break,
                CursorItem::Broken(broken) => {
                    let detail = format!("{broken} at byte {position}");
                    return Err(Error::Damaged { at, offset, file: name(), detail });
                }
            }
        }
    }
    Ok(())
}

/// At a start: completes a compaction that was noted, or removes its draft; returns the
/// segments that differ from the note.
///
/// # Errors
/// When files cannot be removed.
pub fn finish(disk: &Disk, dir: &Path, noted: Option<&NotedEnd>) -> Result<Vec<u64>, Error> {
    let io = |e: std::io::Error| Error::io(dir.display().to_string(), e);
    for name in disk.list(dir).map_err(io)? {
        if Path::new(&name).extension().is_some_and(|extension| extension == DRAFT) {
            disk.remove(&dir.join(name)).map_err(io)?;
        }
    }
    let Some(merging) = noted.and_then(|noted| noted.merging.as_ref()) else { return Ok(Vec::new()) };
    let Some((first, others)) = merging.segments.split_first() else { return Ok(Vec::new()) };
    let path = dir.join(segment::file_name(*first));
    match disk.open(&path, Open::Read).and_then(|file| holds(&file, merging)) {
        Ok(true) => {}
        // The draft was not renamed.
        Ok(false) => return Ok(Vec::new()),
        // Recovery compares the files with the note, and reports the missing one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    }
    for base in others {
        match disk.remove(&dir.join(segment::file_name(*base))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.map_err(io)?,
        }
    }
    Ok(merging.segments.clone())
}

/// Whether a file is the result of the compaction; its length alone does not tell.
fn holds(file: &DiskFile, merging: &Merging) -> std::io::Result<bool> {
    if file.len()? != merging.bytes {
        return Ok(false);
    }
    let (mut position, mut crc) = (0, 0);
    while position < merging.bytes {
        let bytes = read_bytes(file, position, STEP_BYTES)?;
        if bytes.is_empty() {
            return Ok(false);
        }
        position += bytes.len() as u64;
        crc = crc32c::crc32c_append(crc, &bytes);
    }
    Ok(crc == merging.crc32c)
}
