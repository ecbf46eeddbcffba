//! Records of erasures, so that rows of a user that are read later are not listed either.

use std::collections::BTreeSet;

use super::error::Error;
use super::order::{self, WriteBatch};
use crate::console::families;
use askwhen_domain::id::{self, RecordPosition};
use askwhen_domain::refs::UserRef;
use askwhen_store::{Batch, Store};

/// The key contains a hash of the user, because the name must be forgotten.
fn key_of(user: UserRef<'_>, partition: u32) -> Vec<u8> {
    let hash = id::event_hash(user.project, user.user_id, "");
    [&[order::ERASED][..], &partition.to_be_bytes(), &hash.to_be_bytes()].concat()
}

/// Whether the user was erased after this record of the journal.
///
/// # Errors
/// When the store cannot be read.
pub fn is_erased(store: &Store, user: UserRef<'_>, source: RecordPosition) -> Result<bool, Error> {
    let erased_at = store.get(families::INDEX, &key_of(user, source.partition))?;
    Ok(erased_at.map(|bytes| offset(&bytes)).transpose()?.is_some_and(|at| source.offset < at))
}

/// As [`is_erased`], with the changes of the batch.
///
/// # Errors
/// When the store cannot be read.
pub fn is_erased_in(batch: &WriteBatch<'_>, user: UserRef<'_>, source: RecordPosition) -> Result<bool, Error> {
    if !batch.may_have_erasures(source.partition) {
        return Ok(false);
    }
    let erased_at = batch.get(&key_of(user, source.partition))?;
    Ok(erased_at.map(|bytes| offset(&bytes)).transpose()?.is_some_and(|at| source.offset < at))
}

/// Remembers that a user was erased by the journal record at this position.
///
/// # Errors
/// When the store cannot be read.
pub fn remember(batch: &mut WriteBatch<'_>, user: UserRef<'_>, at: RecordPosition) -> Result<(), Error> {
    let key = key_of(user, at.partition);
    let known = batch.get(&key)?.map(|bytes| offset(&bytes)).transpose()?.unwrap_or(0);
    batch.put(key, at.offset.max(known).to_be_bytes().to_vec());
    batch.note_erasure(at.partition);
    Ok(())
}

/// The partitions, of the first `count`, in whose journals users were erased.
///
/// # Errors
/// When the store cannot be read.
pub fn partitions(store: &Store, count: u32) -> Result<BTreeSet<u32>, Error> {
    let mut found = BTreeSet::new();
    for partition in 0..count {
        let first = [&[order::ERASED][..], &partition.to_be_bytes()].concat();
        let entries = store.ascending(families::INDEX, &first, 1)?;
        if entries.first().is_some_and(|(key, _)| key.starts_with(&first)) {
            found.insert(partition);
        }
    }
    Ok(found)
}

pub fn offset(bytes: &[u8]) -> Result<u64, Error> {
    let bytes = bytes.try_into().map_err(|_| Error::Damaged("the mark of an erasure is unreadable".into()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Removes erasures that are older than every record with which they could be compared.
/// `oldest` returns the offset of the oldest journal record that outputs of a partition
/// come from. Returns how many are left.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune_erased(store: &Store, oldest: impl Fn(u32) -> u64) -> Result<usize, Error> {
    let first = [order::ERASED];
    let (mut from, mut left) = (first.to_vec(), 0);
    loop {
        let entries = store.ascending(families::INDEX, &from, order::SCANNED_AT_A_TIME)?;
        let mut batch = Batch::default();
        let Some((last, _)) = entries.last() else { return Ok(left) };
        from = [last.as_slice(), &[0]].concat();
        let mut is_through = false;
        for (key, value) in entries {
            let Some(partition) = key.strip_prefix(&first).and_then(|rest| rest.get(..4)?.try_into().ok()) else {
                is_through = true;
                break;
            };
            match offset(&value)? <= oldest(u32::from_be_bytes(partition)) {
                true => batch.delete(families::INDEX, key),
                false => left += 1,
            }
        }
        store.write(batch)?;
        if is_through {
            return Ok(left);
        }
    }
}
