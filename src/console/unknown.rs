//! Deliveries that are mentioned and not known: their attempts were read, and their own
//! record was not. It comes a moment later, or never, where a topic has lost it. So they
//! are kept as long as deliveries are, and their number is bounded.

use super::error::Error;
use super::order::{self, WriteBatch};
use crate::console::families;
use askwhen_domain::time::Millis;
use askwhen_store::{Batch, Store, keys};
use askwhen_wire::listing::List;

/// The most that are kept; the oldest are removed.
const MOST: usize = 100_000;
fn mark(at: Millis, id: &str) -> Vec<u8> {
    [&[order::UNKNOWN][..], &keys::timed(at, id.as_bytes())].concat()
}

pub fn remember(at: Millis, id: &str, batch: &mut WriteBatch<'_>) {
    batch.put(mark(at, id), Vec::new());
}

pub fn forget(at: Millis, id: &str, batch: &mut WriteBatch<'_>) {
    batch.delete(mark(at, id));
}

/// Removes those from before `before`, and the oldest of too many; returns how many are
/// left.
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
