//! One partition's segment files: what is on disk, found again at opening.

use bytes::{Bytes, BytesMut};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, Broken};
use super::{At, Error, Record};
use crate::domain::time::Millis;

/// A new segment begins when one would grow beyond this.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// One entry of the sparse index per so many bytes.
const INDEX_EVERY_BYTES: u64 = 16 << 10;
const SUFFIX: &str = "seg";

/// A file of consecutive records, and where some of them begin.
#[derive(Debug)]
pub struct Segment {
    pub base: u64,
    pub path: PathBuf,
    pub file: Arc<File>,
    pub len_bytes: u64,
    /// (offset, position) of every frame that begins a stretch; built when the
    /// segment is first read.
    pub index: Option<Vec<(u64, u64)>>,
    pub newest_at: Option<Millis>,
}

pub fn file_name(base: u64) -> String {
    format!("{base:020}.{SUFFIX}")
}

impl Segment {
    pub fn create(dir: &Path, base: u64) -> Result<Segment, Error> {
        let path = dir.join(file_name(base));
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = file.map_err(|e| Error::io(path.display().to_string(), &e))?;
        sync_dir(dir)?;
        Ok(Segment { base, path, file: Arc::new(file), len_bytes: 0, index: Some(Vec::new()), newest_at: None })
    }

    fn open(path: PathBuf, base: u64) -> Result<Segment, Error> {
        let context = |e: &std::io::Error| Error::io(path.display().to_string(), e);
        let file = OpenOptions::new().read(true).append(true).open(&path).map_err(|e| context(&e))?;
        let len_bytes = file.metadata().map_err(|e| context(&e))?.len();
        Ok(Segment { base, path, file: Arc::new(file), len_bytes, index: None, newest_at: None })
    }

    /// Notes a frame that begins at `position`.
    pub fn note(&mut self, offset: u64, position: u64, appended_at: Millis) {
        self.newest_at = self.newest_at.max(Some(appended_at));
        if let Some(index) = &mut self.index
            && index.last().is_none_or(|(_, last)| position - last >= INDEX_EVERY_BYTES)
        {
            index.push((offset, position));
        }
    }

    /// Where to begin reading for `offset`.
    pub fn seek(&self, offset: u64) -> u64 {
        let index = self.index.as_deref().unwrap_or(&[]);
        match index.partition_point(|(o, _)| *o <= offset) {
            0 => 0,
            n => index[n - 1].1,
        }
    }
}

pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    let opened = File::open(dir).and_then(|d| d.sync_all());
    opened.map_err(|e| Error::io(dir.display().to_string(), &e))
}

/// Reads `len` bytes at `position`; fewer only at the end of the file.
pub fn read_at(file: &File, position: u64, len: usize) -> std::io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(len);
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut buffer[filled..], position + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

/// What a scan of one file found.
pub struct Scanned {
    /// Bytes of whole, sound frames from the beginning.
    pub sound_bytes: u64,
    pub next_offset: u64,
    /// The largest `durable` that any sound frame tells of.
    pub durable: u64,
    /// The first thing that is no frame, if the file goes on.
    pub broken: Option<Broken>,
}

/// Walks through all frames of a segment and fills its index.
pub fn scan(segment: &mut Segment) -> Result<Scanned, Error> {
    let bytes = read_at(&segment.file, 0, segment.len_bytes as usize)
        .map_err(|e| Error::io(segment.path.display().to_string(), &e))?;
    segment.index = Some(Vec::new());
    let mut found = Scanned { sound_bytes: 0, next_offset: segment.base, durable: 0, broken: None };
    while (found.sound_bytes as usize) < bytes.len() {
        let rest = bytes.slice(found.sound_bytes as usize..);
        match frame::decode(&rest) {
            Ok(frame) if frame.record.offset == found.next_offset => {
                segment.note(frame.record.offset, found.sound_bytes, frame.record.appended_at);
                found.sound_bytes += frame.len_bytes as u64;
                found.next_offset += 1;
                found.durable = found.durable.max(frame.durable);
            }
            Ok(_) => {
                found.broken = Some(Broken::Contents);
                break;
            }
            Err(broken) => {
                found.broken = Some(broken);
                break;
            }
        }
    }
    if found.broken.is_some() {
        found.durable = found.durable.max(durable_beyond(&bytes, found.sound_bytes as usize, found.next_offset));
    }
    Ok(found)
}

/// The largest `durable` of any sound frame behind a broken place, found by
/// trying every position: frames of a torn batch may survive out of order.
fn durable_beyond(bytes: &Bytes, from: usize, after_offset: u64) -> u64 {
    let mut durable = 0;
    let mut position = from + 1;
    while position + frame::PREFIX_BYTES < bytes.len() {
        let believable = frame::peek_len(&bytes[position..]).is_some_and(|len| position + len <= bytes.len());
        if believable
            && let Ok(frame) = frame::decode(&bytes.slice(position..))
            && frame.record.offset > after_offset
        {
            durable = durable.max(frame.durable);
            position += frame.len_bytes;
            continue;
        }
        position += 1;
    }
    durable
}

/// Opens all segments of a partition. The last one is scanned: a torn tail is
/// cut off, damage below what had been acknowledged is an error.
pub fn open_all(at: At, dir: &Path, sealed_end: Option<u64>) -> Result<Vec<Segment>, Error> {
    fs::create_dir_all(dir).map_err(|e| Error::io(dir.display().to_string(), &e))?;
    let mut bases: Vec<u64> = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir.display().to_string(), &e))? {
        let path = entry.map_err(|e| Error::io(dir.display().to_string(), &e))?.path();
        if path.extension().is_some_and(|x| x == SUFFIX)
            && let Some(base) = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok())
        {
            bases.push(base);
        }
    }
    bases.sort_unstable();
    let mut segments = Vec::new();
    for base in bases {
        segments.push(Segment::open(dir.join(file_name(base)), base)?);
    }
    let Some(last) = segments.last_mut() else {
        if let Some(end) = sealed_end.filter(|end| *end > 0) {
            let detail = format!("the files that held everything up to offset {end} are gone");
            return Err(Error::Damaged { at, offset: 0, file: dir.display().to_string(), detail });
        }
        segments.push(Segment::create(dir, 0)?);
        return Ok(segments);
    };
    let found = scan(last)?;
    let acknowledged = found.durable.max(sealed_end.unwrap_or(0));
    if found.next_offset < acknowledged {
        let detail = match found.broken {
            Some(Broken::Checksum) => "its checksum is wrong",
            Some(Broken::Contents) => "it is not the record that belongs there",
            Some(Broken::Short) | None => "it is cut short",
        };
        return Err(Error::Damaged {
            at,
            offset: found.next_offset,
            file: last.path.display().to_string(),
            detail: detail.into(),
        });
    }
    if found.sound_bytes < last.len_bytes {
        tracing::warn!(%at, file = %last.path.display(), cut_bytes = last.len_bytes - found.sound_bytes,
            "cut off the torn end of the log; nothing of it had been acknowledged");
        let cut = last.file.set_len(found.sound_bytes).and_then(|()| last.file.sync_all());
        cut.map_err(|e| Error::io(last.path.display().to_string(), &e))?;
        last.len_bytes = found.sound_bytes;
    }
    Ok(segments)
}

/// Reads sound records from `offset` on, below `end`, up to about `max_bytes`.
pub fn read_from(
    at: At,
    (file, path): (&File, &Path),
    (mut position, offset, end): (u64, u64, u64),
    (len_bytes, max_bytes): (u64, usize),
) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    let mut taken = 0;
    let mut want = max_bytes.max(4 << 10) + INDEX_EVERY_BYTES as usize;
    while position < len_bytes {
        let bytes = read_at(file, position, want.min((len_bytes - position) as usize))
            .map_err(|e| Error::io(path.display().to_string(), &e))?;
        let mut inside = 0;
        loop {
            if inside == bytes.len() {
                break;
            }
            let frame = match frame::decode(&bytes.slice(inside..)) {
                Ok(frame) => frame,
                Err(Broken::Short) if position + (bytes.len() as u64) < len_bytes => {
                    // The frame goes on behind what was read: read on from its beginning.
                    want = want.max(frame::peek_len(&bytes[inside..]).unwrap_or(want));
                    break;
                }
                Err(broken) => {
                    return Err(Error::Damaged {
                        at,
                        offset,
                        file: path.display().to_string(),
                        detail: format!("no sound record at byte {} ({broken:?})", position + inside as u64),
                    });
                }
            };
            inside += frame.len_bytes;
            if frame.record.offset >= end {
                return Ok(records);
            }
            if frame.record.offset < offset {
                continue;
            }
            taken += frame.len_bytes;
            records.push(frame.record);
            if taken >= max_bytes {
                return Ok(records);
            }
        }
        if inside == 0 && want >= (len_bytes - position) as usize {
            break;
        }
        position += inside as u64;
    }
    Ok(records)
}
