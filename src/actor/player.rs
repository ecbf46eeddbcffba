//! A journal read again, to look at what it led to: nothing is written,
//! nobody is answered.

use bytes::Bytes;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::checkpoint::Meta;
use super::partition::{is_forwarded_only, is_too_large, is_trusted, owner};
use super::{Effects, Failure, Machine, Moment};
use crate::domain::id::Origin;
use crate::domain::time::Millis;
use crate::log::Record;
use crate::store::{self, Batch, Store};
use crate::wire::record::{self, Decoded, Forward, Internal, REPLY_HEADER};
use crate::wire::seal::ClusterKey;

/// For an answer that comes later than what it answers.
const LOOKER: &[u8] = b"looker";

/// Records that matter to whoever looks; the others are passed over. One that
/// another partition told of comes with that.
pub type Wanted<'a> = &'a dyn Fn(&Decoded<'_>, Option<&Forward>) -> bool;

/// Every record.
pub const ALL: Wanted<'static> = &|_, _| true;

pub struct Player<M> {
    key: ClusterKey,
    partition: u32,
    incarnation: u128,
    pub meta: Meta,
    machine: M,
}

impl<M: Machine> Player<M> {
    /// Goes on from where `meta` stands, which is where the machine's state is.
    pub fn new(key: ClusterKey, partition: u32, incarnation: u128, meta: Meta, machine: M) -> Player<M> {
        Player { key, partition, incarnation, meta, machine }
    }

    /// Lets a record have the effect that it had; gives that, unless it had none
    /// here or is not wanted.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn play(&mut self, record: &Record, wanted: Wanted<'_>) -> Result<Option<Effects>, Failure> {
        self.meta.now = self.meta.now.max(record.appended_at + self.meta.ahead);
        self.meta.next = record.offset + 1;
        self.meta.crc = record.crc;
        let trusted = is_trusted(&self.key, record);
        // Whatever cannot be read was a reject.
        if is_too_large(record, trusted) {
            return Ok(None);
        }
        let Ok(decoded) = record::decode(record.value.as_deref(), trusted) else { return Ok(None) };
        let reply_to = record.header(REPLY_HEADER).cloned();
        let Decoded::Internal(internal) = &decoded else { return self.take(record.offset, decoded, reply_to, wanted) };
        match &**internal {
            Internal::Clock { ahead } => {
                self.meta.ahead = self.meta.ahead.max(*ahead);
                self.meta.now = self.meta.now.max(record.appended_at + self.meta.ahead);
                Ok(None)
            }
            Internal::Forward(forward) => {
                if self.meta.take_forward(forward) != Some(true) {
                    return Ok(None);
                }
                let reply_to = forward.reply_to.clone().map(Bytes::from);
                match record::decode(Some(forward.value.as_str().as_bytes()), forward.trusted) {
                    Ok(inner) if wanted(&inner, Some(forward)) => self.apply(record.offset, inner, reply_to).map(Some),
                    _ => Ok(None),
                }
            }
            // It was a reject as well.
            internal if is_forwarded_only(internal) => Ok(None),
            _ => self.take(record.offset, decoded, reply_to, wanted),
        }
    }

    fn take(
        &mut self,
        offset: u64,
        decoded: Decoded<'_>,
        reply_to: Option<Bytes>,
        wanted: Wanted<'_>,
    ) -> Result<Option<Effects>, Failure> {
        if let Some(to) = owner(&decoded, self.meta.partitions).filter(|owner| *owner != self.partition) {
            self.meta.forward[to as usize] += 1;
            return Ok(None);
        }
        if !wanted(&decoded, None) {
            return Ok(None);
        }
        self.apply(offset, decoded, reply_to).map(Some)
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
        self.imagine((now, self.meta.next), decoded)
    }

    /// Lets a record take effect that the journal does not hold, as if it stood
    /// at an offset.
    ///
    /// # Errors
    /// When the machine's state cannot be read.
    pub fn imagine(&mut self, (now, offset): (Millis, u64), decoded: Decoded<'_>) -> Result<Effects, Failure> {
        self.meta.now = self.meta.now.max(now);
        self.apply(offset, decoded, Some(Bytes::from_static(LOOKER)))
    }

    fn apply(&mut self, offset: u64, decoded: Decoded<'_>, reply_to: Option<Bytes>) -> Result<Effects, Failure> {
        let origin = Origin { incarnation: self.incarnation, partition: self.partition, offset };
        let (now, partitions) = (self.meta.now, self.meta.partitions);
        let at = Moment { origin, now, partitions, reply_to: reply_to.as_ref() };
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
    pub fn checkpoint(&mut self, store: &Store, more: Batch) -> Result<(), store::Error> {
        let mut batch = self.machine.freeze(self.meta.now)();
        batch.changes.extend(more.changes);
        self.meta.save(&mut batch);
        store.write(batch)?;
        self.machine.persisted();
        Ok(())
    }
}
