//! Disk space: it is reserved before it is written, so that the log stops accepting records
//! before the disk is full, and goes on when there is space again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::super::disk::{Disk, DiskSpace};
use crate::error::Error;

/// The journal accepts nothing when less is free, on any disk.
const MIN_MARK_BYTES: u64 = 24 << 20;
/// The largest mark, on any disk.
const MAX_MARK_BYTES: u64 = 512 << 20;

/// The mark for a disk of `total_bytes`: an eighth of it, within bounds. With fewer free
/// bytes the journal accepts nothing; the rest is for the state's stores, for snapshots and
/// for an orderly stop.
pub fn free_mark_bytes(total_bytes: u64) -> u64 {
    (total_bytes / 8).clamp(MIN_MARK_BYTES, MAX_MARK_BYTES)
}

/// What space is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// New records of the journal.
    Journal,
    /// Outputs of accepted records, which may use half of the mark; so may the state.
    Outputs,
}

#[derive(Debug)]
pub struct Space {
    disk: Disk,
    dir: PathBuf,
    state: Mutex<State>,
    /// Whether the journal accepted nothing at the last check.
    read_only: AtomicBool,
    /// Whether outputs found no room either.
    outputs_blocked: AtomicBool,
    mark_bytes: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// The space at the last check, minus what was reserved since.
    seen: DiskSpace,
    /// Bytes reserved and not written yet: the disk counts them as free.
    reserved_bytes: u64,
    /// Bytes that stores will write for state that is only in memory.
    claimed_bytes: u64,
    /// Whether a write met a full disk although there seemed to be space.
    is_full: bool,
    /// The journal has refused a group since the last look: there may be room for less, and
    /// all the same it does not take what comes.
    has_refused: bool,
}

impl State {
    /// Free bytes that the log is not about to write.
    fn unreserved_bytes(&self) -> u64 {
        self.seen.free_bytes.saturating_sub(self.reserved_bytes)
    }
}

impl Space {
    pub fn new(disk: Disk, dir: PathBuf) -> Space {
        // When the space cannot be determined, writing will show.
        let seen = DiskSpace { free_bytes: u64::MAX, total_bytes: 0 };
        let state = Mutex::new(State { seen, reserved_bytes: 0, claimed_bytes: 0, is_full: false, has_refused: false });
        let (read_only, outputs_blocked) = (AtomicBool::new(false), AtomicBool::new(false));
        let space = Space { disk, dir, state, read_only, outputs_blocked, mark_bytes: AtomicU64::new(MIN_MARK_BYTES) };
        space.look();
        space
    }

    /// Checks the disk; returns the free bytes, if they can be determined.
    pub fn look(&self) -> Option<u64> {
        let mut state = self.state.lock().expect("no panic holds this lock");
        let seen = self.disk.space(&self.dir).ok()?;
        state.seen = seen;
        state.is_full = false;
        self.judge(&state);
        state.has_refused = false;
        Some(seen.free_bytes)
    }

    fn judge(&self, state: &State) {
        self.mark_bytes.store(free_mark_bytes(state.seen.total_bytes), Ordering::Release);
        let is_short = |purpose| state.is_full || state.unreserved_bytes() < self.mark(purpose);
        self.read_only.store(state.has_refused || is_short(Purpose::Journal), Ordering::Release);
        self.outputs_blocked.store(is_short(Purpose::Outputs), Ordering::Release);
    }

    fn mark(&self, purpose: Purpose) -> u64 {
        let mark = self.mark_bytes.load(Ordering::Acquire);
        if purpose == Purpose::Journal { mark } else { mark / 2 }
    }

    /// Reserves space for bytes that are about to be written.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] when there is too little.
    pub fn reserve(&self, bytes: u64, purpose: Purpose) -> Result<(), Error> {
        let mut state = self.state.lock().expect("no panic holds this lock");
        // A check is cheap compared with a sync, and notices other programs' writes.
        match self.disk.space(&self.dir) {
            Ok(seen) => state.seen = seen,
            Err(_) => state.seen.free_bytes = state.seen.free_bytes.saturating_sub(bytes),
        }
        self.judge(&state);
        let left = state.unreserved_bytes().saturating_sub(bytes);
        if state.is_full || left < self.mark(purpose) {
            state.has_refused |= purpose == Purpose::Journal;
            self.judge(&state);
            return Err(self.refusal());
        }
        state.reserved_bytes += bytes;
        Ok(())
    }

    /// Releases a reservation, whether its bytes were written or not.
    pub fn release(&self, bytes: u64) {
        self.state.lock().expect("no panic holds this lock").reserved_bytes -= bytes;
    }

    /// A write met a full disk: nothing is written before the next check.
    pub fn met_a_full_disk(&self) {
        let mut state = self.state.lock().expect("no panic holds this lock");
        state.is_full = true;
        self.judge(&state);
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Whether there was no room for outputs at the last look.
    pub fn is_blocked_for_outputs(&self) -> bool {
        self.outputs_blocked.load(Ordering::Acquire)
    }

    pub fn refusal(&self) -> Error {
        Error::ReadOnly { free_mark_bytes: self.mark(Purpose::Journal) }
    }
}

/// The space that a store will need on the log's disk. State grows in memory first and is
/// written with the next checkpoint. The space is claimed while there is enough, because a
/// store that meets a full disk stops.
#[derive(Debug, Default)]
pub struct DiskClaim {
    /// `None` when the disk is not the log's.
    space: Option<Arc<Space>>,
    bytes: u64,
}

impl DiskClaim {
    pub(super) fn on(space: Arc<Space>) -> DiskClaim {
        DiskClaim { space: Some(space), bytes: 0 }
    }

    /// Replaces the claim by one of so many bytes; returns whether the disk has them, in
    /// addition to other claims and to what the log keeps for outputs.
    pub fn set(&mut self, bytes: u64) -> bool {
        let Some(space) = &self.space else { return true };
        let mut state = space.state.lock().expect("no panic holds this lock");
        state.claimed_bytes = state.claimed_bytes - self.bytes + bytes;
        self.bytes = bytes;
        let left = |state: &State| state.unreserved_bytes().saturating_sub(state.claimed_bytes);
        if left(&state) >= 2 * MAX_MARK_BYTES {
            return true;
        }
        // Near the mark the disk is checked again: without writes nothing else does.
        if let Ok(seen) = space.disk.space(&space.dir) {
            state.seen = seen;
            space.judge(&state);
        }
        left(&state) >= space.mark(Purpose::Outputs)
    }
}

impl Drop for DiskClaim {
    fn drop(&mut self) {
        self.set(0);
    }
}
