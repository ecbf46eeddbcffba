//! A journal read again, to look at what it led to: nothing is written,
//! nobody is answered.

use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::admission::{Admission, Admitted, decode_forwarded};
use super::checkpoint::CheckpointMeta;
use super::machine::{Effects, Failure, Machine, RecordContext};
use askwhen_domain::time::Millis;
use askwhen_log::Record;
use askwhen_store::{Batch, Store};
use askwhen_wire::record::{Decoded, Forward, REPLY_HEADER};

/// The reply address of a reader, for answers that come later than their record.
const READER_NAME: &[u8] = b"looker";

/// Which records are applied; the others are passed over. A record that another
/// partition has forwarded comes with its forward.
pub type RecordFilter<'a> = &'a dyn Fn(&Decoded<'_>, Option<&Forward>) -> bool;

/// Every record.
pub const ALL: RecordFilter<'static> = &|_, _| true;

pub struct Replayer<M> {
    admission: Admission,
    pub meta: CheckpointMeta,
    machine: M,
}

impl<M: Machine> Replayer<M> {
    /// Goes on from where `meta` stands, which is where the machine's state is.
    pub fn new(admission: Admission, meta: CheckpointMeta, machine: M) -> Replayer<M> {
        Replayer { admission, meta, machine }
    }

    /// Lets a record have the effect that it had; gives that, unless it had none
    /// here or is not wanted.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn play(&mut self, record: &Record, wanted: RecordFilter<'_>) -> Result<Option<Effects>, Failure> {
        let admitted = self.admission.admit(&mut self.meta, record);
        self.meta.next = record.offset + 1;
        self.meta.crc = record.crc;
        match admitted {
            Admitted::Apply(decoded) if wanted(&decoded, None) => {
                let reply_to = record.header(REPLY_HEADER).cloned();
                self.apply(record.offset, decoded, reply_to).map(Some)
            }
            Admitted::Forwarded(forward) => {
                let reply_to = forward.reply_to.clone().map(Bytes::from);
                match decode_forwarded(&forward) {
                    Ok(inner) if wanted(&inner, Some(&forward)) => self.apply(record.offset, inner, reply_to).map(Some),
                    _ => Ok(None),
                }
            }
            Admitted::Route { to, .. } => {
                self.meta.forward[to as usize] += 1;
                Ok(None)
            }
            // Rejects, and what has had all its effect by now.
            Admitted::Apply(_)
            | Admitted::SetClock { .. }
            | Admitted::Skipped { .. }
            | Admitted::Ignore
            | Admitted::Reject(_) => Ok(None),
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// What the machine would make of a record that came now, or at `now`.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn ask(&mut self, now: Millis, decoded: Decoded<'_>) -> Result<Effects, Failure> {
        self.apply_synthetic(now, self.meta.next, decoded)
    }

    /// Lets a record take effect that the journal does not hold, as if it stood
    /// at an offset.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn apply_synthetic(&mut self, now: Millis, offset: u64, decoded: Decoded<'_>) -> Result<Effects, Failure> {
        self.meta.now = self.meta.now.max(now);
        self.apply(offset, decoded, Some(Bytes::from_static(READER_NAME)))
    }

    fn apply(&mut self, offset: u64, decoded: Decoded<'_>, reply_to: Option<Bytes>) -> Result<Effects, Failure> {
        let origin = self.admission.origin(offset);
        let (now, partitions) = (self.meta.now, self.meta.partitions);
        let at = RecordContext { origin, now, partitions, reply_to: reply_to.as_ref() };
        let machine = &mut self.machine;
        match catch_unwind(AssertUnwindSafe(|| machine.apply(at, decoded))) {
            Ok(Err(Failure::Reject(_))) | Err(_) => Ok(Effects::default()),
            Ok(applied) => {
                for outgoing in applied.iter().flat_map(|effects| &effects.forwards) {
                    self.meta.forward[outgoing.to as usize] += 1;
                }
                applied
            }
        }
    }

    /// About how many bytes have changed since the last checkpoint.
    pub fn dirty_bytes(&self) -> usize {
        self.machine.dirty_bytes()
    }

    /// Brings what has changed to the machine's store, with where it is and what
    /// else is to be written with it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&mut self, store: &Store, more: Batch) -> Result<(), askwhen_store::Error> {
        let mut batch = self.machine.freeze(self.meta.now)();
        batch.changes.extend(more.changes);
        self.meta.save(&mut batch);
        store.write(batch)?;
        self.machine.persisted();
        Ok(())
    }
}
