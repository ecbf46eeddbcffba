//! Whether a store and the log belong together, and what the log already has
//! of the records that are done again.

use std::collections::{BTreeMap, HashSet};

use super::checkpoint::Meta;
use super::partition::Stop;
use super::status::Status;
use crate::domain::CONTINUES_FROM;
use crate::log::{At, Log};
use crate::wire::output::{ID_HEADER, SOURCE_HEADER, Source};
use crate::wire::topic::Topic;

pub fn check_meta(meta: &Meta, fresh: &Meta, log: &Log, journal: At) -> Result<(), Stop> {
    let refuse = |text: String| Err(Stop::Refused(text));
    if meta.incarnation != fresh.incarnation {
        return refuse(
            "the state belongs to another log: restore both from one backup, or begin with an empty data directory"
                .into(),
        );
    }
    if meta.partitions != fresh.partitions {
        return refuse(format!(
            "the state was made with {} partitions and the log has {}",
            meta.partitions, fresh.partitions
        ));
    }
    let continues = (*CONTINUES_FROM.start()..=fresh.logic_version).contains(&meta.logic_version);
    if !continues {
        return refuse(format!(
            "the state was made by rules of version {}, this program ({}) has {}: use the version that wrote it, or \
             make the state anew with `askwhen replay run` and `askwhen replay promote`",
            meta.logic_version,
            env!("CARGO_PKG_VERSION"),
            fresh.logic_version
        ));
    }
    let bounds = log.bounds(journal)?;
    if bounds.end < meta.next {
        return refuse(format!(
            "the log ends at {} and the state is at {}: the log has lost its end, restore it from a backup",
            bounds.end, meta.next
        ));
    }
    if bounds.start > meta.next {
        return refuse(format!("the log begins at {} and the state is at {}", bounds.start, meta.next));
    }
    if meta.next > bounds.start {
        let last = log.read(journal, meta.next - 1, 1)?;
        if last.first().is_none_or(|record| record.crc != meta.crc) {
            return refuse(format!("the log has another record at {} than the state was made from", meta.next - 1));
        }
    }
    Ok(())
}

/// What the log has of the outputs of records that are done again.
pub struct Scanned {
    pub ids: HashSet<String>,
    pub redo_until: u64,
    pub floors: BTreeMap<Topic, u64>,
    /// Where the journal ended.
    pub journal_end: u64,
}

/// The ids that redoing from the checkpoint will make again and the log has.
/// The ends of the outputs are taken first, then the journal's: whatever an
/// output speaks of is in the journal by then.
pub fn scan_outputs(
    log: &Log,
    partition: u32,
    meta: &Meta,
    topics: &[Topic],
    status: &Status,
) -> Result<Scanned, Stop> {
    let at = |topic: Topic| At { topic, partition: if topic.partitions(2) == 1 { 0 } else { partition } };
    let outputs: Vec<At> = topics.iter().map(|topic| at(*topic)).collect();
    let all_bounds = log.all_bounds(&outputs)?;
    let journal_end = log.bounds(At { topic: Topic::Events, partition })?.end;
    let mut scanned = Scanned { ids: HashSet::new(), redo_until: meta.next, floors: BTreeMap::new(), journal_end };
    for (at, bounds) in outputs.into_iter().zip(all_bounds) {
        let from = meta.out_start.get(at.topic.name()).copied().unwrap_or(0);
        // Some of what the scan looks for has been trimmed away: what stands
        // before the first that is left was written. Where nothing is left, or
        // nothing says so, it is written again, under the id that it had.
        let trimmed = from < bounds.start;
        let from = from.max(bounds.start);
        let mut first = trimmed;
        log.scan::<Stop>(at, from, bounds.end, |record| {
            if !status.is_wanted() {
                return Err(Stop::Restart("given up".into()));
            }
            let source = record.header(SOURCE_HEADER).and_then(|s| Source::parse(s));
            if std::mem::take(&mut first)
                && let Some(source) = source.filter(|s| s.partition == partition)
            {
                scanned.floors.insert(at.topic, source.offset);
            }
            let Some(source) = source.filter(|s| s.partition == partition && s.offset >= meta.next) else {
                return Ok(());
            };
            if source.offset >= journal_end {
                return Err(Stop::Refused(format!(
                    "{at} holds the outcome of journal record {}, which the journal does not have: the log has lost its end",
                    source.offset
                )));
            }
            scanned.redo_until = scanned.redo_until.max(source.offset + 1);
            if let Some(id) = record.header(ID_HEADER) {
                scanned.ids.insert(String::from_utf8_lossy(id).into_owned());
            }
            Ok(())
        })?;
    }
    Ok(scanned)
}
