//! Applies a journal again in order to look at the results: nothing is written, and no
//! request is answered.

use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::admission::{Admission, Admitted, decode_forwarded};
use super::checkpoint::CheckpointMeta;
use super::machine::{Effects, Failure, Machine, RecordContext};
use askwhen_domain::time::Millis;
use askwhen_log::Record;
use askwhen_store::{Batch, Store};
use askwhen_wire::record::{Decoded, Forward, PassedOn, REPLY_HEADER};

/// The reply address of a reader, for answers that come later than their record.
const READER_NAME: &[u8] = b"looker";

/// Says which records are applied. A record that another partition forwarded comes with its
/// forward.
pub type RecordFilter<'a> = &'a dyn Fn(&Decoded<'_>, Option<&Forward>) -> bool;

/// Every record.
pub const ALL: RecordFilter<'static> = &|_, _| true;

pub struct Replayer<M> {
    admission: Admission,
    pub meta: CheckpointMeta,
    machine: M,
}

impl<M: Machine> Replayer<M> {
    /// Continues from `meta`, which has to be the position of the machine's state.
    pub fn new(admission: Admission, meta: CheckpointMeta, machine: M) -> Replayer<M> {
        Replayer { admission, meta, machine }
    }

    /// Applies a record if `wanted` says so; returns its effects, or `None` when it had
    /// none here.
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
                self.apply(record.offset, decoded, reply_to, None).map(Some)
            }
            Admitted::Forwarded(forward) => {
                let reply_to = forward.reply_to.clone().map(Bytes::from);
                match decode_forwarded(&forward) {
                    Ok(inner) if wanted(&inner, Some(&forward)) => {
                        self.apply(record.offset, inner, reply_to, forward.passed_on.as_ref()).map(Some)
                    }
                    _ => Ok(None),
                }
            }
            Admitted::Route { to, .. } => {
                self.meta.forward[to as usize] += 1;
                Ok(None)
            }
            // Rejects, and records whose whole effect is on the checkpoint metadata.
            Admitted::Apply(_)
            | Admitted::SetClock { .. }
            | Admitted::Skipped { .. }
            | Admitted::Ignore
            | Admitted::Reject(_) => Ok(None),
        }
    }

    /// Goes past a record that is of no effect on what is looked at.
    pub fn pass_over(&mut self, record: &Record) {
        self.admission.pass_time(&mut self.meta, record);
        self.meta.next = record.offset + 1;
        self.meta.crc = record.crc;
    }

    /// See [`Admission::may_concern`].
    pub fn may_concern(&self, record: &Record, user_id: &str) -> bool {
        self.admission.may_concern(record, user_id)
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The effects of a record that would come now, at `now`.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn ask(&mut self, now: Millis, decoded: Decoded<'_>) -> Result<Effects, Failure> {
        self.apply_synthetic(now, self.meta.next, decoded)
    }

    /// Applies a record that is not in the journal, as if it were at an offset.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn apply_synthetic(&mut self, now: Millis, offset: u64, decoded: Decoded<'_>) -> Result<Effects, Failure> {
        self.meta.now = self.meta.now.max(now);
        self.apply(offset, decoded, Some(Bytes::from_static(READER_NAME)), None)
    }

    fn apply(
        &mut self,
        offset: u64,
        decoded: Decoded<'_>,
        reply_to: Option<Bytes>,
        passed_on: Option<&PassedOn>,
    ) -> Result<Effects, Failure> {
        let origin = self.admission.origin(offset);
        let (now, partitions) = (self.meta.now, self.meta.partitions);
        let at = RecordContext { origin, now, partitions, reply_to: reply_to.as_ref(), passed_on };
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

    /// About how many bytes of state have changed since the last checkpoint.
    pub fn dirty_bytes(&self) -> usize {
        self.machine.dirty_bytes()
    }

    /// Writes the changes to the machine's store, together with the position and `more`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn checkpoint(&mut self, store: &Store, more: Batch) -> Result<(), askwhen_store::Error> {
        let mut batch = self.machine.freeze(self.meta.now)();
        batch.changes.extend(more.changes);
        self.meta.save(&mut batch);
        store.write(batch)?;
        self.machine.persisted();
        Ok(())
    }
}
