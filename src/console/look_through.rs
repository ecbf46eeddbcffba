//! Brings rows of version 0.1.0 along: it did not note when a delivery that is not
//! known was spoken of first.

use super::error::Error;
use super::order::{self, WriteBatch};
use super::{deliveries, unknown};
use crate::console::families;
use askwhen_domain::time::Millis;
use askwhen_store::Store;
use askwhen_wire::listing::List;

/// Rows of version 0.1.0 that are looked through at a time.
const LOOKED_AT: usize = 512;
/// Under this key stands how far the rows of version 0.1.0 have been looked
/// through, which did not note when such a delivery was spoken of first.
const LOOKED_KEY: &[u8] = b"unknown_looked_through";

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
            unknown::remember(now, &id, &mut batch);
            deliveries::keep(&row, &mut batch)?;
        }
        from = [key.as_slice(), &[0]].concat();
    }
    let mut batch = batch.into_batch();
    batch.put(families::META, LOOKED_KEY, if is_through { Vec::new() } else { from });
    store.write(batch)?;
    Ok(!is_through)
}
