//! Copies a journal into a log with another number of partitions: every record that had an
//! effect, once, to the partition that will own it.

use bytes::Bytes;
use std::collections::BTreeSet;

use super::admission::{Admission, Admitted, Signer, decode_forwarded, owner};
use super::checkpoint::CheckpointMeta;
use askwhen_log::{NewRecord, Record};
use askwhen_wire::record::{Decoded, Forward, Internal, REPLY_HEADER};

/// Reads the old journal, each partition in order.
pub struct Relocation {
    /// By old partition, its rules and its checkpoint metadata so far.
    old: Vec<(Admission, CheckpointMeta)>,
    new: u32,
    signer: Signer,
    /// Pairs of old partitions of which the first has sent the second a forward.
    met: BTreeSet<(u32, u32)>,
}

impl Relocation {
    /// `old` has, by partition, the rules, which have looked ahead for skips, and
    /// checkpoint metadata that says from where on MACs name their partition.
    pub fn new(old: Vec<(Admission, CheckpointMeta)>, new: u32, signer: Signer) -> Relocation {
        Relocation { old, new, signer, met: BTreeSet::new() }
    }

    /// The new partition and form of a record of an old partition; `None` for messages
    /// between partitions, which will be sent again.
    pub fn place(&mut self, from: u32, record: &Record) -> Option<(u32, NewRecord)> {
        let (admission, meta) = &mut self.old[from as usize];
        let trusted = admission.is_trusted(meta.bound_macs_from, record);
        // The journal may begin after the first forwards of a sender.
        if let Some(Internal::Forward(Forward { from: sender, seq, .. })) =
            admission.trusted_internal(meta.bound_macs_from, record)
            && self.met.insert((sender, from))
            && let Some(last) = meta.inbox.get_mut(sender as usize)
        {
            *last = seq.saturating_sub(1);
        }
        let kept = || {
            let headers = record.headers.iter().filter(|(name, _)| name != REPLY_HEADER.as_bytes());
            NewRecord { key: record.key.clone(), headers: headers.cloned().collect(), value: record.value.clone() }
        };
        match admission.admit(meta, record) {
            // It becomes a reject there as well.
            Admitted::Reject(_) => Some((from % self.new, kept())),
            Admitted::Forwarded(forward) => self.unwrap(from, &forward),
            Admitted::SetClock { .. } | Admitted::Skipped { .. } | Admitted::Ignore => None,
            // The forward is copied instead, from where it had its effect.
            Admitted::Route { .. } => None,
            Admitted::Apply(decoded) => {
                let to = owner(&decoded, self.new)?;
                Some((to, if trusted { self.signer.sign(to, kept()) } else { kept() }))
            }
        }
    }

    fn unwrap(&self, at: u32, forward: &Forward) -> Option<(u32, NewRecord)> {
        let new = NewRecord {
            key: forward.key.clone().map(Bytes::from),
            headers: Vec::new(),
            value: Some(Bytes::copy_from_slice(forward.value.as_str().as_bytes())),
        };
        let to = match decode_forwarded(forward) {
            Err(_) => at % self.new,
            Ok(Decoded::Internal(internal))
                if matches!(
                    *internal,
                    Internal::NameSeen { .. } | Internal::Quota(_) | Internal::Cap(_) | Internal::Closing(_)
                ) =>
            {
                return None;
            }
            Ok(decoded) => owner(&decoded, self.new)?,
        };
        Some((to, if forward.trusted { self.signer.sign(to, new) } else { new }))
    }
}
