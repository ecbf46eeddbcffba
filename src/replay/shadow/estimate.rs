//! What a replay would do, before it is begun.

use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::{Error, ErrorKind, Source, StartingState};
use super::options::CACHED_BYTES;
use crate::engine::Engine;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::time::{self, Millis};
use askwhen_log::TopicPartition;
use askwhen_partition::replayer::{self, Replayer};
use askwhen_wire::topic::Topic;

/// How long records are applied to find out how fast a replay is.
const TRIAL: Duration = Duration::from_secs(1);

/// What a replay would do: records, gaps and how long it takes.
///
/// # Errors
/// When the log cannot be read.
pub fn plan(source: &Source, from: Option<Millis>, threads: usize) -> Result<Value, Error> {
    let folder = source.scratch_folder()?;
    let mut rows = Vec::new();
    let mut all = 0;
    let mut rate = 0.0;
    for partition in 0..source.partitions {
        let journal = TopicPartition { topic: Topic::Events, partition };
        let decisions = TopicPartition { topic: Topic::Decisions, partition };
        let (bounds, on_record) = (source.bounds(journal)?, source.bounds(decisions)?);
        let into = folder.path().join(partition.to_string());
        let begun = begin(source, partition, from, &into);
        let mut row = json!({
            "partition": partition,
            "journal": {"start": bounds.start, "end": bounds.end},
            "decisions": {"start": on_record.start, "end": on_record.end},
        });
        match begun {
            Ok(begin) => {
                let records = bounds.end.saturating_sub(begin.meta.next);
                row["from"] = begin.meta.next.into();
                row["records"] = records.into();
                row["snapshot"] = begin.snapshot.as_ref().map(|m| m.name()).into();
                row["gaps"] = gaps(bounds.start, begin.meta.next, on_record.start).into();
                all += records;
                if rate == 0.0 && records > 0 {
                    rate = trial(source, partition, begin)?;
                }
            }
            Err(why) if why.kind() == ErrorKind::Refused => row["refused"] = why.to_string().into(),
            Err(error) => return Err(error),
        }
        rows.push(row);
    }
    let threads = threads.clamp(1, source.partitions as usize);
    let seconds = if rate > 0.0 { all as f64 / rate / threads as f64 } else { 0.0 };
    Ok(json!({
        "logic_version": LOGIC_VERSION,
        "partitions": rows,
        "records": all,
        "records_per_second": (rate * threads as f64).round(),
        "threads": threads,
        "eta": time::format_duration((seconds.ceil() as i64).max(1) * time::SECOND),
        "eta_seconds": seconds.ceil(),
    }))
}

/// Sentences on what the replay leaves out, and why.
fn gaps(start: u64, from: u64, decisions_start: u64) -> Vec<String> {
    let mut gaps = Vec::new();
    if start > 0 {
        gaps.push(format!("the journal below {start} has been trimmed"));
    }
    if from > start {
        gaps.push(format!("the {} records before the snapshot are not replayed", from - start));
    }
    if decisions_start > 0 {
        gaps.push("the oldest decisions are no longer on record: they are made again, and not compared".to_owned());
    }
    gaps
}

/// Measures how many records a second one thread applies.
fn trial(source: &Source, partition: u32, begin: StartingState) -> Result<f64, Error> {
    let StartingState { store, meta, .. } = begin;
    let next = meta.next;
    let engine = Engine::open_for_replay(store, partition, source.partitions, CACHED_BYTES)?;
    let mut replayer = Replayer::new(source.rules(partition), meta, engine);
    let mut journal_reader = source.journal_reader(TopicPartition { topic: Topic::Events, partition }, next);
    let (started, mut records) = (Instant::now(), 0);
    while started.elapsed() < TRIAL {
        let read = journal_reader.read()?;
        if read.is_empty() {
            break;
        }
        for record in &read {
            replayer.play(record, replayer::ALL)?;
            records += 1;
            if records % 256 == 0 && started.elapsed() >= TRIAL {
                break;
            }
        }
    }
    Ok(f64::from(records) / started.elapsed().as_secs_f64())
}

/// The state to begin with: that before a time, else the earliest.
pub(super) fn begin(
    source: &Source,
    partition: u32,
    from: Option<Millis>,
    into: &Path,
) -> Result<StartingState, Error> {
    match from {
        Some(time) => source.begin(partition, time, into),
        None => source.begin_early(partition, into),
    }
}
