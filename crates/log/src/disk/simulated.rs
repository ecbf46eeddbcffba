//! A disk in memory for tests: deterministic from a seed, it keeps what was
//! synced apart from what was only written.
//!
//! # Legal faults
//!
//! - **A process dies** ([`Crash::Kill`]): all that was written stays.
//! - **The power goes** ([`Crash::Synced`], [`Crash::Torn`]): what was synced
//!   stays. Of bytes written since, any 512-byte sectors may be there, in any
//!   order, others are zeroes; or any first part; the file is as long as it was,
//!   or as it was at its last sync, or in between. Of the names made, renamed
//!   and removed since the folder was synced, the first ones may be there, up to
//!   any place. A folder itself is never lost.
//! - **Any operation fails once** ([`Fault`]): `EIO`, `ENOSPC`, `EINTR`, a write
//!   that is cut short. A failed write may have written its first part. What a
//!   failed sync was to make durable is never made so by later ones, which report
//!   success, unless it is written again: as Linux does it.
//! - **The disk is full**: writes beyond its capacity are cut short, then `ENOSPC`.
//! - **The disk lies**: a bit flips at rest, a write lands somewhere else in the
//!   same file. Both are damage: no log can mend them, it has to find them.
//!
//! Never: a synced byte that changes by itself, a rename that is half done, a
//! folder that lists a file twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::open::{DiskSpace, Open};

const SECTOR_BYTES: usize = 512;
/// The size that a disk without a capacity reports.
const VAST_BYTES: u64 = 1 << 50;

/// The operations of a disk; a fault is injected into one kind, or into any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Open,
    Create,
    List,
    Read,
    Append,
    Rewrite,
    SyncData,
    SyncDir,
    SetLen,
    Rename,
    Remove,
}

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EINTR`; only reads and appends are interrupted.
    Interrupted,
    /// An append writes and reports only a part.
    Short,
    /// An append overwrites earlier bytes of its file, and leaves zeroes where it should
    /// be.
    Misdirected,
    /// The process dies: this and all later operations fail, until
    /// [`SimulatedDisk::crash`].
    Death,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; what it wrote is in the page cache.
    Kill,
    /// The power fails, and only what was synced is kept.
    Synced,
    /// The power fails, and any legal part of what was not synced is kept, too.
    Torn,
}

#[derive(Debug)]
pub struct SimulatedDisk {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    random: u64,
    generation: u64,
    dead: bool,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since their folder was synced, in order.
    unsynced_names: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    capacity_bytes: Option<u64>,
    operations: u64,
    bytes_read: u64,
    faults: Vec<ArmedFault>,
}

#[derive(Debug, Default)]
struct Inode {
    /// The bytes as processes see them.
    bytes: Vec<u8>,
    /// The bytes at the last sync.
    synced: Vec<u8>,
    /// Bytes below this position have not changed since the last sync, or their change was
    /// lost by a failed sync and no later one makes it durable.
    same_bytes: usize,
}

#[derive(Debug, Clone)]
enum NameChange {
    Made(PathBuf, usize),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

/// A fault for the operation of a kind that is `countdown` operations away.
#[derive(Debug)]
struct ArmedFault {
    at: Option<Operation>,
    countdown: u64,
    fault: Fault,
}

impl SimulatedDisk {
    pub fn new(seed: u64) -> Arc<SimulatedDisk> {
        Arc::new(SimulatedDisk { state: Mutex::new(State { random: seed, ..State::default() }) })
    }

    /// The disk for the process that starts now.
    pub(super) fn mounted(self: &Arc<Self>) -> Mount {
        Mount { disk: self.clone(), generation: self.state().generation }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// Ends the process that uses the disk: its handles become useless.
    pub fn crash(&self, how: Crash) {
        let state = &mut *self.state();
        state.generation += 1;
        state.dead = false;
        state.locks.clear();
        if how == Crash::Kill {
            state.forget_nameless();
            return;
        }
        let changes = std::mem::take(&mut state.unsynced_names);
        let kept = if how == Crash::Torn { state.below(changes.len() as u64 + 1) as usize } else { 0 };
        for change in changes.into_iter().take(kept) {
            apply(&mut state.durable_names, &change);
        }
        state.names = state.durable_names.clone();
        for n in 0..state.inodes.len() {
            let left = if how == Crash::Torn { state.torn(n) } else { state.inodes[n].synced.clone() };
            let same_bytes = left.len();
            state.inodes[n] = Inode { synced: left.clone(), bytes: left, same_bytes };
        }
        state.forget_nameless();
    }

    /// Injects a fault into the operation that comes after `after` others of its kind (0
    /// for the next), or of any kind. Each fault happens once.
    pub fn inject(&self, at: Option<Operation>, after: u64, fault: Fault) {
        self.state().faults.push(ArmedFault { at, countdown: after, fault });
    }

    /// Removes faults that have not happened; returns how many there were.
    pub fn forget_faults(&self) -> usize {
        std::mem::take(&mut self.state().faults).len()
    }

    /// Sets how many bytes fit on the disk; initially there is no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes processes have read.
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// The paths of all files, in ascending order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// The bytes of a file as processes see them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(path).map(|inode| state.inodes[*inode].bytes.clone())
    }

    /// Replaces the bytes of a file durably, as another program would; `None` removes the
    /// file.
    pub fn overwrite(&self, path: &Path, bytes: Option<Vec<u8>>) {
        let state = &mut *self.state();
        let Some(bytes) = bytes else {
            state.names.remove(path);
            state.durable_names.remove(path);
            return;
        };
        let inode = match state.names.get(path) {
            Some(inode) => *inode,
            None => {
                state.inodes.push(Inode::default());
                state.inodes.len() - 1
            }
        };
        state.names.insert(path.to_owned(), inode);
        state.durable_names.insert(path.to_owned(), inode);
        let same_bytes = bytes.len();
        state.inodes[inode] = Inode { synced: bytes.clone(), bytes, same_bytes };
    }

    /// Flips a bit at rest; positions behind the end of the file are ignored.
    pub fn flip(&self, path: &Path, byte: usize, bit: u32) {
        let state = &mut *self.state();
        let Some(inode) = state.names.get(path).copied() else { return };
        let inode = &mut state.inodes[inode];
        for bytes in [&mut inode.bytes, &mut inode.synced] {
            if let Some(found) = bytes.get_mut(byte) {
                *found ^= 1 << (bit % 8);
            }
        }
    }
}

/// Applies a change to a map of names.
fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &NameChange) {
    match change {
        NameChange::Made(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        NameChange::Renamed(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Removed(path) => {
            names.remove(path);
        }
    }
}

impl State {
    /// Splitmix64, the same on every machine.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next_random() % bound.max(1)
    }

    /// No file is open any more, so files without a name are gone.
    fn forget_nameless(&mut self) {
        let made = self.unsynced_names.iter().filter_map(|change| match change {
            NameChange::Made(_, inode) => Some(*inode),
            _ => None,
        });
        let named: BTreeSet<usize> =
            self.names.values().chain(self.durable_names.values()).copied().chain(made).collect();
        for (_, inode) in self.inodes.iter_mut().enumerate().filter(|(n, _)| !named.contains(n)) {
            *inode = Inode::default();
        }
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].bytes.len() as u64).sum()
    }

    /// What a file may contain after a power failure.
    fn torn(&mut self, inode: usize) -> Vec<u8> {
        let how = self.below(4);
        let Inode { bytes, synced, .. } = std::mem::take(&mut self.inodes[inode]);
        if bytes == synced || how == 0 {
            return synced;
        }
        if how == 1 {
            return bytes;
        }
        let (least, most) = (bytes.len().min(synced.len()), bytes.len().max(synced.len()));
        let prefix = how == 2;
        let is_whole = !prefix && self.below(2) == 0;
        let len = if is_whole { bytes.len() } else { least + self.below((most - least) as u64 + 1) as usize };
        let mut left = vec![0; len];
        for start in (0..len).step_by(SECTOR_BYTES) {
            let end = (start + SECTOR_BYTES).min(len);
            // Either a prefix arrived, or any sectors.
            let from = if prefix || self.below(2) == 0 { &bytes } else { &synced };
            for (byte, at) in left[start..end].iter_mut().zip(start..) {
                // What was synced and then truncated may be there still.
                *byte = from.get(at).or(synced.get(at)).copied().unwrap_or(0);
            }
        }
        left
    }
}

/// The disk as one process uses it.
#[derive(Debug, Clone)]
pub struct Mount {
    disk: Arc<SimulatedDisk>,
    generation: u64,
}

/// An open file.
#[derive(Debug)]
pub struct Handle {
    mount: Mount,
    inode: usize,
}

/// A lock that is released when dropped.
#[derive(Debug)]
pub struct Held {
    mount: Mount,
    path: PathBuf,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.mount.disk.state();
        if state.generation == self.mount.generation {
            state.locks.remove(&self.path);
        }
    }
}

impl Mount {
    /// Counts an operation; returns the fault that it meets.
    fn begin(&self, operation: Operation) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.disk.state();
        if state.generation != self.generation || state.dead {
            return Err(io::Error::other("the process is dead"));
        }
        state.operations += 1;
        let mut hit = None;
        state.faults.retain_mut(|aimed| {
            if hit.is_some() || aimed.at.is_some_and(|at| at != operation) {
                return true;
            }
            if aimed.countdown > 0 {
                aimed.countdown -= 1;
                return true;
            }
            hit = Some(aimed.fault);
            false
        });
        let interruptible = matches!(operation, Operation::Read | Operation::Append);
        match hit {
            Some(Fault::Death) => {
                state.dead = true;
                Err(io::Error::other("the process dies"))
            }
            Some(Fault::Interrupted) if interruptible => Err(io::ErrorKind::Interrupted.into()),
            Some(Fault::Interrupted) => Ok((state, None)),
            hit => Ok((state, hit)),
        }
    }

    /// As [`Mount::begin`], for operations without any effect when they fail.
    fn attempt(&self, operation: Operation) -> io::Result<MutexGuard<'_, State>> {
        match self.begin(operation)? {
            (_, Some(Fault::Io)) => Err(io_error()),
            (_, Some(Fault::NoSpace)) if operation != Operation::Read => Err(io::ErrorKind::StorageFull.into()),
            (state, _) => Ok(state),
        }
    }

    pub(super) fn open(&self, path: &Path, how: Open) -> io::Result<Handle> {
        let making = matches!(how, Open::New | Open::Replace);
        let mut guard = self.attempt(if making { Operation::Create } else { Operation::Open })?;
        let state = &mut *guard;
        let there = state.names.get(path).copied();
        let inode = match (there, how) {
            (Some(_), Open::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Open::Read | Open::Append | Open::Rewrite) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), Open::Replace) => {
                let file = &mut state.inodes[inode];
                file.bytes.clear();
                file.same_bytes = 0;
                inode
            }
            (Some(inode), _) => inode,
            (None, _) if !state.folders.contains(path.parent().unwrap_or(Path::new(""))) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, _) => {
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.names.insert(path.to_owned(), inode);
                state.unsynced_names.push(NameChange::Made(path.to_owned(), inode));
                inode
            }
        };
        drop(guard);
        Ok(Handle { mount: self.clone(), inode })
    }

    pub(super) fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.attempt(Operation::Create)?;
        state.folders.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.attempt(Operation::List)?;
        if !state.folders.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(below.filter_map(|path| path.file_name()?.to_str().map(ToOwned::to_owned)).collect())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Operation::Rename, from, NameChange::Renamed(from.to_owned(), to.to_owned()))
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Operation::Remove, path, NameChange::Removed(path.to_owned()))
    }

    fn change(&self, operation: Operation, of: &Path, change: NameChange) -> io::Result<()> {
        let mut guard = self.attempt(operation)?;
        let state = &mut *guard;
        if !state.names.contains_key(of) {
            return Err(io::ErrorKind::NotFound.into());
        }
        apply(&mut state.names, &change);
        state.unsynced_names.push(change);
        Ok(())
    }

    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut guard = self.attempt(Operation::SyncDir)?;
        let state = &mut *guard;
        let is_here = |path: &Path| path.parent() == Some(dir);
        for change in std::mem::take(&mut state.unsynced_names) {
            let here = match &change {
                NameChange::Made(path, _) | NameChange::Removed(path) => is_here(path),
                NameChange::Renamed(from, to) => is_here(from) || is_here(to),
            };
            if here {
                apply(&mut state.durable_names, &change);
            } else {
                state.unsynced_names.push(change);
            }
        }
        Ok(())
    }

    pub(super) fn space(&self) -> io::Result<DiskSpace> {
        let state = self.disk.state();
        let total_bytes = state.capacity_bytes.unwrap_or(VAST_BYTES);
        Ok(DiskSpace { free_bytes: total_bytes.saturating_sub(state.used_bytes()), total_bytes })
    }

    pub(super) fn lock(&self, path: &Path) -> io::Result<Option<Held>> {
        let mut state = self.attempt(Operation::Open)?;
        let taken = state.locks.insert(path.to_owned());
        Ok(taken.then(|| Held { mount: self.clone(), path: path.to_owned() }))
    }

    pub(super) fn unique(&self) -> u128 {
        let mut state = self.disk.state();
        (u128::from(state.next_random()) << 64) | u128::from(state.next_random())
    }
}

fn io_error() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

impl Handle {
    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.mount.attempt(Operation::Read)?;
        let bytes = &state.inodes[self.inode].bytes;
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
        let read = buffer.len().min(bytes.len() - from);
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        state.bytes_read += read as u64;
        Ok(read)
    }

    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let (mut guard, fault) = self.mount.begin(Operation::Append)?;
        let state = &mut *guard;
        let free = state.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(state.used_bytes()));
        let fits = bytes.len().min(usize::try_from(free).unwrap_or(usize::MAX));
        let part = match fault {
            Some(Fault::Io) => state.below(fits as u64 + 1) as usize,
            Some(Fault::Short) => 1 + state.below(fits.saturating_sub(1) as u64) as usize,
            Some(Fault::NoSpace) => 0,
            _ => fits,
        };
        let part = part.min(fits);
        let target = state.below(state.inodes[self.inode].bytes.len() as u64) as usize;
        let inode = &mut state.inodes[self.inode];
        if fault == Some(Fault::Misdirected) {
            inode.same_bytes = inode.same_bytes.min(target);
            let end = inode.bytes.len() + part;
            inode.bytes.resize(end, 0);
            for (to, from) in inode.bytes[target..].iter_mut().zip(&bytes[..part]) {
                *to = *from;
            }
        } else {
            inode.bytes.extend_from_slice(&bytes[..part]);
        }
        match fault {
            Some(Fault::Io) => Err(io_error()),
            Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            _ if part == 0 && !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(part),
        }
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        let (mut state, fault) = self.mount.begin(Operation::SyncData)?;
        let inode = &mut state.inodes[self.inode];
        if matches!(fault, Some(Fault::Io | Fault::NoSpace)) {
            inode.same_bytes = inode.bytes.len();
            return Err(if fault == Some(Fault::Io) { io_error() } else { io::ErrorKind::StorageFull.into() });
        }
        // Bytes that were lost are as they were at the last sync, or zero.
        inode.synced.resize(inode.bytes.len(), 0);
        inode.synced[inode.same_bytes..].copy_from_slice(&inode.bytes[inode.same_bytes..]);
        inode.same_bytes = inode.bytes.len();
        Ok(())
    }

    pub(super) fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut state = self.mount.attempt(Operation::SetLen)?;
        let inode = &mut state.inodes[self.inode];
        inode.bytes.resize(usize::try_from(len_bytes).unwrap_or(usize::MAX), 0);
        inode.same_bytes = inode.same_bytes.min(inode.bytes.len());
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let (mut guard, fault) = self.mount.begin(Operation::Rewrite)?;
        let state = &mut *guard;
        let free = state.capacity_bytes.map_or(u64::MAX, |all| all.saturating_sub(state.used_bytes()));
        let there = state.inodes[self.inode].bytes.len();
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(there);
        // Bytes that are overwritten have their space already.
        let fits = (there - from).saturating_add(usize::try_from(free).unwrap_or(usize::MAX)).min(bytes.len());
        let part = match fault {
            Some(Fault::Io) => state.below(fits as u64 + 1) as usize,
            Some(Fault::NoSpace) => 0,
            // A short write is continued.
            _ => fits,
        };
        let inode = &mut state.inodes[self.inode];
        let end = from + part;
        inode.bytes.resize(end.max(there), 0);
        inode.bytes[from..end].copy_from_slice(&bytes[..part]);
        inode.same_bytes = inode.same_bytes.min(from);
        match fault {
            Some(Fault::Io) => Err(io_error()),
            _ if part < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        let state = self.mount.attempt(Operation::Read)?;
        Ok(state.inodes[self.inode].bytes.len() as u64)
    }
}
