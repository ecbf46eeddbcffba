//! Checks at the start that a store and the log belong together, and finds outputs that the
//! log already has of records that are reprocessed.

use std::collections::{BTreeMap, HashSet};

use super::admission::Admission;
use super::attempts::{Attempts, MAX_DEATHS};
use super::checkpoint::CheckpointMeta;
use super::setup::Setup;
use super::status::{MAX_CLOCK_LAG, Status, is_behind};
use super::stop::{StopReason, WaitReason};
use askwhen_domain::time::{Millis, SECOND, format_time};
use askwhen_domain::{LOGIC_VERSION, StateCompatibility, succession};
use askwhen_log::{Log, TopicPartition, Watermarks};
use askwhen_process::clock::Clock;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{ID_HEADER, SOURCE_HEADER, Source};

pub fn check_meta(
    meta: &CheckpointMeta,
    fresh: &CheckpointMeta,
    log: &Log,
    journal: TopicPartition,
) -> Result<(), StopReason> {
    let refuse = |text: String| Err(StopReason::refused(text));
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
    check_rules(meta.logic_version)?;
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

/// How long before the journal's end requests may still wait for an answer when a partition
/// is opened, in milliseconds.
const ANSWERS_KEPT: Millis = 30 * SECOND;

/// The reason to wait for the clock, with what an operator can do.
pub fn behind(time: Millis) -> StopReason {
    let why = format!(
        "this machine's clock is more than {} s behind the journal's time, {}: nothing is decided until the clock is \
         right. Set the clock. If it is right, and the journal's time came from a clock that was wrong, stop the server \
         and run `askwhen doctor --accept-time`",
        MAX_CLOCK_LAG / SECOND,
        format_time(time)
    );
    StopReason::Waits { on: WaitReason::Clock, why }
}

/// The reason to wait at a record that kills the process, with what an operator can do.
/// `done` is what does not happen to the records behind it meanwhile.
pub fn poisoned(at: TopicPartition, offset: u64, done: &str) -> StopReason {
    let why = format!(
        "the process has died {MAX_DEATHS} times while it applied the record {at}@{offset}: nothing behind it is \
         {done} until a version of askwhen that can apply it runs, or the record is taken out of the way with \
         `askwhen skip {at}@{offset}` (it is kept in topic rejects)"
    );
    StopReason::Waits { on: WaitReason::Skip { topic: at.topic, offset }, why }
}

/// Reads ahead through the records that are not applied yet, for skips by an operator;
/// returns the time that the journal will have reached.
pub fn look_ahead(
    log: &Log,
    journal: TopicPartition,
    end: u64,
    meta: &CheckpointMeta,
    clock: &Clock,
    admission: &mut Admission,
) -> Result<Millis, StopReason> {
    let mut newest = meta.time();
    log.scan::<StopReason>(journal, meta.next, end, |record| {
        newest = newest.max(record.appended_at);
        admission.look_ahead(meta.bound_macs_from, &record);
        Ok(())
    })?;
    if !is_behind(clock, newest) {
        return Ok(newest);
    }
    // An operator may have accepted another time meanwhile.
    let mut metas = meta.clone();
    log.scan::<StopReason>(journal, meta.next, end, |record| {
        admission.admit(&mut metas, &record);
        Ok(())
    })?;
    Ok(metas.time())
}

/// Whether these rules can continue from a state. A later version's state is refused where
/// it is loaded.
fn check_rules(logic_version: u32) -> Result<(), StopReason> {
    match succession(logic_version) {
        Some(StateCompatibility::GoesOn) => Ok(()),
        Some(StateCompatibility::ReplayNeeded) => Err(StopReason::refused(format!(
            "the state was made by rules of version {logic_version}, and rules of version {LOGIC_VERSION} read it \
             otherwise: make it anew with `askwhen replay run` and `askwhen replay promote`"
        ))),
        None => Err(StopReason::refused(format!(
            "the state was made by rules of version {logic_version}, which were never released: this program has \
             version {LOGIC_VERSION}. Use the program that wrote it"
        ))),
    }
}

/// Checks that the topics contain everything that a checkpoint names.
pub fn check_outputs(
    meta: &CheckpointMeta,
    partition: u32,
    topics: &[(TopicPartition, Watermarks)],
) -> Result<(), StopReason> {
    for (at, bounds) in topics {
        let Some(named) = meta.out_start.get(at.topic.name()).filter(|named| bounds.end < **named) else { continue };
        // Definitions are written again from the state.
        if at.topic == Topic::Definitions {
            continue;
        }
        return Err(StopReason::refused(format!(
            "{at} ends at {} and the state was made when it ended at {named}: records of topic {} are lost. Restore \
             the data from a backup. Without one, and where the journal still has its beginning, move the state of the \
             partition (state/engine/{partition} and its snapshots) aside: it is made anew from the journal, and what \
             is missing is written again",
            bounds.end,
            at.topic.name(),
        )));
    }
    Ok(())
}

/// The outputs in the log of records that are reprocessed.
pub struct Scanned {
    pub ids: HashSet<String>,
    pub reprocessed_until: u64,
    pub floors: BTreeMap<Topic, u64>,
    /// The journal's end.
    pub journal_end: u64,
}

/// Finds the ids of outputs in the log that reprocessing from the checkpoint will produce
/// again. The ends of the output topics are read before the journal's, so that the journal
/// contains the cause of every output that is found.
pub fn scan_outputs(
    log: &Log,
    partition: u32,
    meta: &CheckpointMeta,
    topics: &[Topic],
    status: &Status,
) -> Result<Scanned, StopReason> {
    let at = |topic: Topic| TopicPartition { topic, partition: if topic.partitions(2) == 1 { 0 } else { partition } };
    let outputs: Vec<TopicPartition> = topics.iter().map(|topic| at(*topic)).collect();
    let all_bounds = log.all_bounds(&outputs)?;
    let named: Vec<(TopicPartition, Watermarks)> = outputs.iter().copied().zip(all_bounds.iter().copied()).collect();
    check_outputs(meta, partition, &named)?;
    let journal_end = log.bounds(TopicPartition { topic: Topic::Events, partition })?.end;
    let mut scanned =
        Scanned { ids: HashSet::new(), reprocessed_until: meta.next, floors: BTreeMap::new(), journal_end };
    for (at, bounds) in outputs.into_iter().zip(all_bounds) {
        let from = meta.out_start.get(at.topic.name()).copied().unwrap_or(0);
        // Some of these outputs were trimmed away. Those before the first that is left must
        // have been written. When none is left, they are written again under the same ids.
        let trimmed = from < bounds.start;
        // Definitions that the topic has lost are written again later.
        let from = from.max(bounds.start).min(bounds.end);
        let mut first = trimmed;
        log.scan::<StopReason>(at, from, bounds.end, |record| {
            if !status.is_wanted() {
                return Err(StopReason::restart("given up"));
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
                return Err(StopReason::refused(format!(
                    "{at} holds the outcome of journal record {}, which the journal does not have: the log has lost its end",
                    source.offset
                )));
            }
            scanned.reprocessed_until = scanned.reprocessed_until.max(source.offset + 1);
            if let Some(id) = record.header(ID_HEADER) {
                scanned.ids.insert(String::from_utf8_lossy(id).into_owned());
            }
            Ok(())
        })?;
    }
    Ok(scanned)
}

/// Opens the notes of what was being applied when a process died.
pub fn open_attempts(setup: &Setup, partition: u32) -> Result<Attempts, StopReason> {
    let Some(folder) = &setup.attempts else { return Ok(Attempts::default()) };
    let path = folder.join(format!("{partition}.attempt"));
    let opened = std::fs::create_dir_all(folder).and_then(|()| Attempts::open(&path));
    opened.map_err(|error| StopReason::restart(format!("{}: {error}", path.display())))
}

/// The append time from which on requests may still be waiting. `next` is the first record
/// to be applied, `end` the journal's end.
pub fn answer_from(log: &Log, journal: TopicPartition, next: u64, end: u64) -> Result<Millis, StopReason> {
    if next >= end {
        return Ok(0);
    }
    let newest = log.read(journal, end - 1, 1)?;
    Ok(newest.first().map_or(0, |record| record.appended_at - ANSWERS_KEPT))
}
