//! Deliveries that are spoken of and not known: their attempts were read, their
//! own record was not. It comes a moment later, or, where a topic has lost it,
//! never: so they are kept for as long as deliveries are, and no more than so
//! many of them.

use super::deliveries;
use super::error::Error;
use super::order::{self, WriteBatch};
use crate::console::families;
use askwhen_domain::time::Millis;
use askwhen_store::{Batch, Store, keys};
use askwhen_wire::listing::List;

/// Kept at most; the oldest go.
const MOST: usize = 100_000;
/// Rows of version 0.1.0 that are looked through at a time.
const LOOKED_AT: usize = 512;
/// Under this key stands how far the rows of version 0.1.0 have been looked
/// through, which did not note when such a delivery was spoken of first.
const LOOKED_KEY: &[u8] = b"unknown_looked_through";

fn mark(at: Millis, id: &str) -> Vec<u8> {
    [&[order::UNKNOWN][..], &keys::timed(at, id.as_bytes())].concat()
}

pub fn remember(at: Millis, id: &str, batch: &mut WriteBatch<'_>) {
    batch.put(mark(at, id), Vec::new());
}

pub fn forget(at: Millis, id: &str, batch: &mut WriteBatch<'_>) {
    batch.delete(mark(at, id));
}

/// Removes those from before `before`, and the oldest of too many; gives how many
/// are left.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune(store: &Store, before: Millis) -> Result<usize, Error> {
    let mut marks = Vec::new();
    let first = [order::UNKNOWN];
    let mut from = first.to_vec();
    loop {
        let entries = store.ascending(families::INDEX, &from, order::SCANNED_AT_A_TIME)?;
        let Some((last, _)) = entries.last() else { break };
        from = [last.as_slice(), &[0]].concat();
        let count = entries.len();
        marks.extend(entries.into_iter().map(|(key, _)| key).take_while(|key| key.starts_with(&first)));
        if count < order::SCANNED_AT_A_TIME || !from.starts_with(&first) {
            break;
        }
    }
    let too_many = marks.len().saturating_sub(MOST);
    let old = |key: &[u8]| keys::time_of(&key[1..]).is_none_or(|at| at < before);
    let gone = marks.iter().enumerate().take_while(|(n, key)| *n < too_many || old(key)).count();
    let mut batch = Batch::default();
    for key in marks.drain(..gone) {
        let id = String::from_utf8_lossy(key.get(9..).unwrap_or_default()).into_owned();
        batch.delete(families::INDEX, order::row(List::Deliveries, &id));
        batch.delete(families::INDEX, key);
    }
    store.write(batch)?;
    Ok(marks.len())
}

/// Marks what version 0.1.0 left unmarked, some rows at a time; gives whether
/// there is more to look through.
///
/// # Errors
/// When the store cannot be read or written.
pub fn look_through(store: &Store, now: Millis) -> Result<bool, Error> {
    let first = order::row(List::Deliveries, "");
    let looked = store.get(families::META, LOOKED_KEY)?;
    let mut from = match looked {
        Some(key) if key.is_empty() => return Ok(false),
        Some(key) => key,
        None => first.clone(),
    };
    let mut batch = WriteBatch::new(store);
    let entries = store.ascending(families::INDEX, &from, LOOKED_AT)?;
    let mut is_through = entries.len() < LOOKED_AT;
    for (key, value) in entries {
        if !key.starts_with(&first) {
            is_through = true;
            break;
        }
        let mut row = deliveries::read(&value)?;
        if row.is_blank() && row.created_at() == 0 {
            let id = String::from_utf8_lossy(&key[first.len()..]).into_owned();
            row.date(now);
            remember(now, &id, &mut batch);
            deliveries::keep(&row, &mut batch)?;
        }
        from = [key.as_slice(), &[0]].concat();
    }
    let mut batch = batch.into_batch();
    batch.put(families::META, LOOKED_KEY, if is_through { Vec::new() } else { from });
    store.write(batch)?;
    Ok(!is_through)
}
