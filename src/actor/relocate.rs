//! The journal for a log with another number of partitions: every record that
//! had an effect, once, on the partition that will own it.

use bytes::Bytes;
use std::collections::BTreeMap;

use super::partition::{is_forwarded_only, is_trusted, owner};
use crate::log::{New, Record};
use crate::wire::record::Decoded;
use crate::wire::record::{self, Forward, Internal, MAC_HEADER, REPLY_HEADER};
use crate::wire::seal::ClusterKey;

/// Reads the old journal, each partition in its order.
pub struct Relocation {
    key: ClusterKey,
    old: u32,
    new: u32,
    /// The last sequence number taken, by sender and receiver.
    taken: BTreeMap<(u32, u32), u64>,
}

impl Relocation {
    pub fn new(key: ClusterKey, old: u32, new: u32) -> Relocation {
        Relocation { key, old, new, taken: BTreeMap::new() }
    }

    /// Where a record of an old partition goes, and as what; `None` for what
    /// the partitions told each other: they will tell each other again.
    pub fn place(&mut self, from: u32, record: &Record) -> Option<(u32, New)> {
        let trusted = is_trusted(&self.key, record);
        let kept = || {
            let headers = record.headers.iter().filter(|(name, _)| name != REPLY_HEADER.as_bytes());
            New { key: record.key.clone(), headers: headers.cloned().collect(), value: record.value.clone() }
        };
        let decoded = match record::decode(record.value.as_deref(), trusted) {
            // It is a reject there as well.
            Err(_) => return Some((from % self.new, kept())),
            Ok(decoded) => decoded,
        };
        if let Decoded::Internal(internal) = &decoded
            && let Internal::Forward(forward) = &**internal
        {
            return self.unwrap(from, forward);
        }
        // Out of its sequence it is a reject, too.
        if matches!(&decoded, Decoded::Internal(internal) if is_forwarded_only(internal)) {
            return Some((from % self.new, kept()));
        }
        // What was forwarded is taken where it had its effect.
        (owner(&decoded, self.old)? == from).then_some(())?;
        Some((owner(&decoded, self.new)?, kept()))
    }

    fn unwrap(&mut self, at: u32, forward: &Forward) -> Option<(u32, New)> {
        let taken = self.taken.entry((forward.from, at)).or_insert(forward.seq.saturating_sub(1));
        if forward.seq != *taken + 1 {
            return None;
        }
        *taken = forward.seq;
        let value = forward.value.as_str().as_bytes();
        let key = forward.key.clone().unwrap_or_default();
        let mut new = New {
            key: forward.key.clone().map(Bytes::from),
            headers: Vec::new(),
            value: Some(Bytes::copy_from_slice(value)),
        };
        if forward.trusted {
            new = new.header(MAC_HEADER, self.key.sign_record(key.as_bytes(), value));
        }
        match record::decode(Some(value), forward.trusted) {
            Err(_) => Some((at % self.new, new)),
            Ok(Decoded::Internal(internal)) if matches!(*internal, Internal::NameSeen { .. } | Internal::Quota(_)) => {
                None
            }
            Ok(decoded) => Some((owner(&decoded, self.new)?, new)),
        }
    }
}
