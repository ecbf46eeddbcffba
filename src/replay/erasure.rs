//! Whether a user was erased later: what the journal has of before is not shown any more.

use super::said::{self, Said};
use super::{Error, Source};
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::Millis;
use askwhen_log::{Record, TopicPartition};

/// When a user was erased by a record of its partition at or behind an offset, by the time of
/// appending; of several erasures the newest.
///
/// # Errors
/// When the journal cannot be read.
pub fn newest_from(
    source: &Source,
    purpose: &'static str,
    at: TopicPartition,
    from: u64,
    user: UserRef<'_>,
) -> Result<Option<Millis>, Error> {
    let rules = source.rules(at.partition);
    let mut journal = source.reader_to_end(purpose, at, from)?;
    let mut newest = None;
    loop {
        let records = journal.read()?;
        if records.is_empty() {
            return Ok(newest);
        }
        let is_erasure = |said: Said<'_>, _| matches!(said, Said::Erased);
        let erases = |record: &&Record| {
            said::of(record, rules.trusted_internal(None, record).as_ref(), user, is_erasure) == Some(true)
        };
        newest = records.iter().rev().find(erases).map(|record| record.appended_at).or(newest);
    }
}
