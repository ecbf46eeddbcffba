//! A writer's commit log: what a group of records adds to all its segments, once more in
//! one file, so that one sync makes the group durable. The segments are written at the same
//! time and synced later, when the commit log is full; a start after a crash first replays
//! the commit log.
//!
//! Two files are used in turn. While one is written, the segments of the groups in the other
//! are synced; then the other is overwritten from its beginning, because syncing a file that
//! keeps its length does not change the file system's metadata.
//!
//! ```text
//! length    u32  bytes after the checksum
//! crc32c    u32  of these bytes
//! run       u64  the same for all groups that one process has written
//! group     u64  one more than that of the group before
//! pieces    u16
//! then per piece: u16 length, partition ("events/1"), u64 base of the segment,
//! u64 position in it, u32 length, frames
//! ```
//! All integers are big-endian. What comes after the newest group is older: its number does
//! not follow, or its run is another one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::disk::{Disk, DiskFile, Open};
use super::identity::IdentityFile;
use super::partition::Target;
use super::syncer::{Syncer, Syncing};
use super::{files, segment};
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_domain::time::{Millis, SECOND};

/// A group with more bytes for each of its segments is made durable by syncing these: it
/// needs few syncs for its bytes, and would otherwise be written twice.
const MAX_BYTES_PER_SEGMENT: usize = 64 << 10;
/// The most bytes of a group in a commit log.
const MAX_GROUP_BYTES: usize = 1 << 20;
/// The size at which the other file is used. Segments are synced once in so many bytes, and
/// a start after a crash reads both files.
pub const FILE_BYTES: u64 = 8 << 20;
/// By how much a file grows at a time.
const GROWS_BY: u64 = 256 << 10;
/// The commit logs of the journal and of all other topics.
pub const NAMES: [&str; 2] = ["journal", "outputs"];
const FILES: usize = 2;
/// How often at most the files are checked for existence, in milliseconds.
const LOOK_EVERY: Millis = SECOND;
const PREFIX_BYTES: usize = 8;
const FIXED_BYTES: usize = 8 + 8 + 2;
const PIECE_BYTES: usize = 2 + 8 + 8 + 4;

fn path_of(dir: &Path, name: &str, n: usize) -> PathBuf {
    dir.join(format!("{name}-{n}.commit"))
}

/// The paths of all files that commit logs may have.
fn all_paths(dir: &Path) -> impl Iterator<Item = PathBuf> {
    NAMES.into_iter().flat_map(move |name| (0..FILES).map(move |n| path_of(dir, name, n)))
}

/// The part of a group that is added to one segment.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    pub at: TopicPartition,
    pub target: &'a Target,
    pub frames: &'a [u8],
}

#[derive(Debug)]
struct CommitFile {
    path: PathBuf,
    file: Arc<DiskFile>,
    len_bytes: u64,
}

#[derive(Debug)]
pub struct CommitLog {
    disk: Disk,
    dir: PathBuf,
    name: &'static str,
    identity: Arc<IdentityFile>,
    file_bytes: u64,
    run: u64,
    group: u64,
    looked_at: Millis,
    /// Empty before the first group: a log that is only read has none.
    files: Vec<CommitFile>,
    current: usize,
    position: u64,
    /// The segments of the groups in the current file.
    written: BTreeMap<TopicPartition, Arc<DiskFile>>,
    /// The running sync of the segments of the groups in the other file.
    syncing: Option<Syncing>,
}

/// Whether a group is written here rather than synced in each of its segments.
pub fn takes(segments: usize, bytes: usize) -> bool {
    bytes <= MAX_GROUP_BYTES.min(segments * MAX_BYTES_PER_SEGMENT)
}

impl CommitLog {
    /// The commit log of one writer, without files yet. Those of an earlier run must have
    /// been [replayed](replay).
    pub fn new(disk: Disk, dir: PathBuf, name: &'static str, identity: Arc<IdentityFile>) -> CommitLog {
        let run = disk.unique() as u64;
        CommitLog {
            disk,
            dir,
            name,
            identity,
            file_bytes: FILE_BYTES,
            run,
            group: 0,
            looked_at: 0,
            files: Vec::new(),
            current: 0,
            position: 0,
            written: BTreeMap::new(),
            syncing: None,
        }
    }

    /// The same with another size of files.
    #[must_use]
    pub fn with_files_of(self, bytes: u64) -> CommitLog {
        CommitLog { file_bytes: bytes, ..self }
    }

    /// Makes space for a group of so many pieces and bytes, before any of it is written
    /// anywhere.
    ///
    /// # Errors
    /// When there is no space; any other error, also of an earlier sync, leaves it unknown
    /// what is durable.
    pub fn prepare(
        &mut self,
        pieces: usize,
        frames_bytes: usize,
        now: Millis,
        syncer: &Syncer,
    ) -> Result<(), PrepareError> {
        if self.files.is_empty() {
            self.make_files().map_err(PrepareError::Disk)?;
        }
        if now < self.looked_at || now - self.looked_at >= LOOK_EVERY {
            self.looked_at = now;
            self.are_there().map_err(PrepareError::Unknown)?;
        }
        let most = PREFIX_BYTES + FIXED_BYTES + pieces * (PIECE_BYTES + LONGEST_NAME) + frames_bytes;
        if self.position > 0 && self.position + most as u64 > self.file_bytes {
            self.settle().map_err(PrepareError::Unknown)?;
            self.syncing = Some(syncer.begin(std::mem::take(&mut self.written).into_values()));
            self.current = (self.current + 1) % self.files.len();
            self.position = 0;
        }
        let file = &mut self.files[self.current];
        let end = self.position + most as u64;
        if end > file.len_bytes {
            let longer = end.next_multiple_of(GROWS_BY.min(self.file_bytes));
            let zeroes = vec![0; usize::try_from(longer - file.len_bytes).unwrap_or(usize::MAX)];
            file.file.write_all_at(&zeroes, file.len_bytes).map_err(PrepareError::Disk)?;
            file.len_bytes = longer;
        }
        Ok(())
    }

    /// Waits until the segments of the groups in the other file are durable. A later sync
    /// of the same segments would not report that this one failed.
    ///
    /// # Errors
    /// When a sync failed; then the next start replays the groups.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.syncing.take().map_or(Ok(()), Syncing::wait)
    }

    fn make_files(&mut self) -> io::Result<()> {
        let mut files = Vec::new();
        for n in 0..FILES {
            let path = path_of(&self.dir, self.name, n);
            let file = match self.disk.open(&path, Open::Rewrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.open(&path, Open::Replace)?,
                opened => opened?,
            };
            let len_bytes = file.len()?;
            files.push(CommitFile { path, file: Arc::new(file), len_bytes });
        }
        self.disk.sync_dir(&self.dir)?;
        self.identity.update(|identity| identity.with_commit_logs())?;
        self.files = files;
        Ok(())
    }

    /// Makes a group durable that was written to its segments and for which there is
    /// [space](CommitLog::prepare).
    ///
    /// # Errors
    /// Any error leaves the outcome unknown.
    pub fn write(&mut self, pieces: &[Piece<'_>]) -> Result<(), Error> {
        let file = &self.files[self.current];
        let group = encode(self.run, self.group, pieces);
        let written = file.file.write_all_at(&group, self.position).and_then(|()| file.file.sync_data());
        written.map_err(|e| Error::io(file.path.display().to_string(), e))?;
        self.group += 1;
        self.position += group.len() as u64;
        for piece in pieces {
            self.written.insert(piece.at, piece.target.file.clone());
        }
        Ok(())
    }

    /// Checks that the files still exist: a start would not find what is written to a
    /// removed one.
    fn are_there(&self) -> Result<(), Error> {
        // If the disk cannot tell, the file counts as there.
        let is_gone = |file: &&CommitFile| !self.disk.names(&file.path, &file.file).unwrap_or(true);
        match self.files.iter().find(is_gone) {
            Some(file) => {
                Err(Error::Unknown(format!("{} is gone, or another file is in its place", file.path.display())))
            }
            None => Ok(()),
        }
    }

    /// Syncs the segments and empties the files, so that nothing has to be replayed.
    ///
    /// # Errors
    /// Then the next start replays them.
    pub fn close(&mut self, syncer: &Syncer) -> Result<(), Error> {
        self.settle()?;
        syncer.begin(std::mem::take(&mut self.written).into_values()).wait()?;
        for file in &self.files {
            empty(&file.file).map_err(|e| Error::io(file.path.display().to_string(), e))?;
        }
        self.files.clear();
        Ok(())
    }
}

/// Why there is no space for a group.
#[derive(Debug)]
pub enum PrepareError {
    /// Nothing of the group was written.
    Disk(io::Error),
    /// An earlier group may not be durable in its segments.
    Unknown(Error),
}

/// The longest name of a partition, in bytes.
const LONGEST_NAME: usize = 40;

/// Marks the file as empty; it keeps its length.
fn empty(file: &DiskFile) -> io::Result<()> {
    if file.is_empty()? {
        return Ok(());
    }
    file.write_all_at(&[0; PREFIX_BYTES], 0)?;
    file.sync_data()
}

fn encode(run: u64, group: u64, pieces: &[Piece<'_>]) -> BytesMut {
    let frames: usize = pieces.iter().map(|piece| piece.frames.len()).sum();
    let mut out =
        BytesMut::with_capacity(PREFIX_BYTES + FIXED_BYTES + pieces.len() * (PIECE_BYTES + LONGEST_NAME) + frames);
    out.put_u64(0);
    out.put_u64(run);
    out.put_u64(group);
    out.put_u16(pieces.len() as u16);
    for piece in pieces {
        let name = piece.at.to_string();
        debug_assert!(name.len() <= LONGEST_NAME, "{name}");
        out.put_u16(name.len() as u16);
        out.put_slice(name.as_bytes());
        out.put_u64(piece.target.base);
        out.put_u64(piece.target.len_bytes);
        out.put_u32(piece.frames.len() as u32);
        out.put_slice(piece.frames);
    }
    let length = (out.len() - PREFIX_BYTES) as u32;
    let crc = crc32c::crc32c(&out[PREFIX_BYTES..]);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out[4..PREFIX_BYTES].copy_from_slice(&crc.to_be_bytes());
    out
}

/// A group that is read back.
#[derive(Debug)]
struct Group {
    run: u64,
    group: u64,
    pieces: Vec<ReadPiece>,
}

#[derive(Debug)]
struct ReadPiece {
    at: TopicPartition,
    base: u64,
    position: u64,
    frames: Bytes,
}

/// The group at the start of `bytes`, and its length; `None` when it is torn, or there is
/// none.
fn decode(bytes: &Bytes) -> Option<(Group, usize)> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let crc = u32::from_be_bytes(bytes.get(4..PREFIX_BYTES)?.try_into().ok()?);
    let end = PREFIX_BYTES.checked_add(length)?;
    if length < FIXED_BYTES || end > bytes.len() {
        return None;
    }
    let mut body = bytes.slice(PREFIX_BYTES..end);
    if crc32c::crc32c(&body) != crc {
        return None;
    }
    let (run, group, count) = (body.get_u64(), body.get_u64(), body.get_u16());
    let mut pieces = Vec::new();
    for _ in 0..count {
        let name_len = usize::from(body.try_get_u16().ok()?);
        let name = (name_len <= body.len()).then(|| body.split_to(name_len))?;
        let at = std::str::from_utf8(&name).ok()?.parse().ok()?;
        let (base, position) = (body.try_get_u64().ok()?, body.try_get_u64().ok()?);
        let len = body.try_get_u32().ok()? as usize;
        let frames = (len <= body.len()).then(|| body.split_to(len))?;
        pieces.push(ReadPiece { at, base, position, frames });
    }
    Some((Group { run, group, pieces }, end))
}

/// The groups in one file, oldest first.
fn groups(mut bytes: Bytes) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    while let Some((group, len_bytes)) = decode(&bytes) {
        if groups.last().is_some_and(|last| last.run != group.run || last.group + 1 != group.group) {
            break;
        }
        groups.push(group);
        bytes.advance(len_bytes);
    }
    groups
}

/// Whether there is anything to replay.
///
/// # Errors
/// When a file cannot be read.
pub fn holds_records(disk: &Disk, dir: &Path) -> Result<bool, Error> {
    for path in all_paths(dir) {
        if read(disk, &path)?.is_some_and(|bytes| decode(&bytes).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(disk: &Disk, path: &Path) -> Result<Option<Bytes>, Error> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display().to_string(), error)),
    }
}

/// Replays the commit logs at a start, before segments are recovered: writes the groups to
/// their segments, makes these durable, and empties the files. It can be repeated.
///
/// # Errors
/// [`Error::Damaged`] when a segment is missing, or lacks what came before a group.
pub fn replay(disk: &Disk, dir: &Path) -> Result<(), Error> {
    let mut groups_found = 0;
    for name in NAMES {
        let mut found = Vec::new();
        for n in 0..FILES {
            found.extend(read(disk, &path_of(dir, name, n))?.map(groups).unwrap_or_default());
        }
        found.sort_by_key(|group| group.group);
        groups_found += found.len();
        let mut replay = Replay { disk, dir, open: BTreeMap::new() };
        for group in found {
            group.pieces.iter().try_for_each(|piece| replay.write(piece))?;
        }
        replay.sync()?;
    }
    for path in all_paths(dir) {
        let emptied = match disk.open(&path, Open::Rewrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.and_then(|file| empty(&file)),
        };
        emptied.map_err(|e| Error::io(path.display().to_string(), e))?;
    }
    if groups_found > 0 {
        tracing::info!(groups = groups_found, "the log was not closed: its commit logs are written to the segments");
    }
    Ok(())
}

struct Replay<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    /// The newest segment of each partition.
    open: BTreeMap<TopicPartition, NewestSegment>,
}

struct NewestSegment {
    base: u64,
    path: PathBuf,
    file: DiskFile,
    len_bytes: u64,
}

impl Replay<'_> {
    /// Only the newest segment can lack anything: one is synced before the next begins.
    fn write(&mut self, piece: &ReadPiece) -> Result<(), Error> {
        if !self.open.contains_key(&piece.at) {
            let newest = self.newest(piece)?;
            self.open.insert(piece.at, newest);
        }
        let newest = self.open.get_mut(&piece.at).expect("just put there");
        if piece.base < newest.base {
            return Ok(());
        }
        if piece.base > newest.base {
            return Err(self.damaged(piece, "the file is gone"));
        }
        if piece.position > newest.len_bytes {
            let detail = format!("the file has {} bytes where it had {}", newest.len_bytes, piece.position);
            return Err(self.damaged(piece, detail));
        }
        // Written even if the same bytes are there: they may be only in the page cache,
        // after a failed write.
        let written = newest.file.write_all_at(&piece.frames, piece.position);
        written.map_err(|e| Error::io(newest.path.display().to_string(), e))?;
        newest.len_bytes = newest.len_bytes.max(piece.position + piece.frames.len() as u64);
        Ok(())
    }

    fn newest(&self, piece: &ReadPiece) -> Result<NewestSegment, Error> {
        let bases = segment::bases(self.disk, &files::dir_of(self.dir, piece.at))?;
        let base = bases.last().copied().ok_or_else(|| self.damaged(piece, "the file is gone"))?;
        let path = files::path_of(self.dir, piece.at, base);
        let opened = self.disk.open(&path, Open::Rewrite).and_then(|file| Ok((file.len()?, file)));
        let (len_bytes, file) = opened.map_err(|e| Error::io(path.display().to_string(), e))?;
        Ok(NewestSegment { base, path, file, len_bytes })
    }

    fn damaged(&self, piece: &ReadPiece, detail: impl Into<String>) -> Error {
        let file = files::path_of(self.dir, piece.at, piece.base).display().to_string();
        let offset = super::super::frame::peek_offset(&piece.frames).unwrap_or(piece.base);
        Error::Damaged { at: piece.at, offset, file, detail: detail.into() }
    }

    fn sync(self) -> Result<(), Error> {
        for newest in self.open.into_values() {
            newest.file.sync_data().map_err(|e| Error::io(newest.path.display().to_string(), e))?;
        }
        Ok(())
    }
}
