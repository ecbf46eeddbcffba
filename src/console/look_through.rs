//! Completes rows of version 0.1.0, which did not record when an unknown delivery was first
//! mentioned.

use super::error::Error;
use super::order;
use super::round::Round;
use super::{delivery_row, unknown};
use crate::console::families;
use askwhen_domain::time::Millis;
use askwhen_store::Store;
use askwhen_wire::listing::List;

/// How many rows of version 0.1.0 are checked at a time.
const LOOKED_AT: usize = 512;
/// Key of the position up to which rows of version 0.1.0 were checked.
const LOOKED_KEY: &[u8] = b"unknown_looked_through";

/// Checks some rows of version 0.1.0; returns whether there are more.
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
    let mut round = Round::new(store);
    let entries = store.ascending(families::INDEX, &from, LOOKED_AT)?;
    let mut is_through = entries.len() < LOOKED_AT;
    for (key, value) in entries {
        if !key.starts_with(&first) {
            is_through = true;
            break;
        }
        let mut row = delivery_row::read(&value)?;
        if row.is_blank() && row.created_at == 0 {
            let id = String::from_utf8_lossy(&key[first.len()..]).into_owned();
            // Version 0.1.0 left it out.
            row.created_at = now;
            unknown::remember(now, &id, &mut round.batch);
            round.put_delivery(row);
        }
        from = [key.as_slice(), &[0]].concat();
    }
    let mut batch = round.into_changes().batch;
    batch.put(families::META, LOOKED_KEY, if is_through { Vec::new() } else { from });
    store.write(batch)?;
    Ok(!is_through)
}
