//! What surveys would have done: the recorded journal is applied once as it was, and
//! from one moment on once more for each version of the surveys that are tried. Offers
//! that were not really made have no reactions on record: the plan says what is
//! assumed of them.

mod group;
mod outcome;
mod partition;
mod plan;
mod reaction;
pub mod report;
pub mod tally;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::look_ahead::LookAhead;
use super::{Error, Progress, Source, StartingState};
use askwhen_domain::survey::{Limits, Survey};
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_wire::topic::Topic;
use group::GroupReader;
use outcome::BacktestTotals;
use partition::BacktestPartition;

pub use outcome::{Outcome, VersionResult};
pub use plan::{Assumptions, Plan, Version, versions};

/// Applies the journal and counts. It writes to a temporary folder alone.
///
/// # Errors
/// When the plan cannot be tried, or the log cannot be read.
pub fn run(source: &Source, plan: &Plan, progress: &Progress) -> Result<Outcome, Error> {
    let started = Instant::now();
    plan.check()?;
    let folder = source.scratch_folder()?;
    let partitions: Vec<u32> = (0..source.partitions).collect();
    let begun = |partition: u32| source.begin(partition, plan.from, &folder.path().join(partition.to_string()));
    let begins = partitions.iter().map(|p| begun(*p)).collect::<Result<Vec<StartingState>, _>>()?;
    let from_snapshots = begins.iter().filter(|begin| begin.snapshot.is_some()).count() as u32;
    for (partition, begin) in partitions.iter().zip(&begins) {
        let bounds = source.bounds(TopicPartition { topic: Topic::Events, partition: *partition })?;
        progress.all.fetch_add(bounds.end.saturating_sub(begin.meta.next), Ordering::Relaxed);
    }
    let mut parts = Vec::new();
    for (partition, begin) in partitions.iter().zip(begins) {
        parts.push(BacktestPartition::new(source, plan, *partition, begin)?);
    }
    // Grants of quotas go from partition to partition: where there are quotas, all
    // partitions are read as one group, in the order of time.
    let together = has_quotas(source, plan, &parts)?;
    let groups: Vec<Vec<BacktestPartition>> =
        if together { vec![parts] } else { parts.into_iter().map(|part| vec![part]).collect() };
    let threads = plan.threads.clamp(1, groups.len().max(1));
    let reader = GroupReader { source, plan, folder: folder.path(), together, progress };
    let mut total = BacktestTotals::new(plan);
    let groups: Vec<Mutex<Option<Vec<BacktestPartition>>>> =
        groups.into_iter().map(|group| Mutex::new(Some(group))).collect();
    let next = AtomicUsize::new(0);
    let worked: Vec<Result<BacktestTotals, Error>> = std::thread::scope(|scope| {
        let work = || -> Result<BacktestTotals, Error> {
            let mut own = BacktestTotals::new(plan);
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let parts = group.lock().expect("no panic holds this lock").take();
                reader.read(parts.unwrap_or_default(), &mut own)?;
            }
            Ok(own)
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let failed = |_| Err(Error::failed("a thread of the backtest panicked"));
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(failed)).collect()
    });
    for one in worked {
        total.add(one?);
    }
    total.versions.iter_mut().flat_map(|fared| &mut fared.surveys).for_each(|(_, counts)| counts.fill_days());
    Ok(Outcome {
        project: plan.project.clone(),
        from: plan.from,
        to: if plan.to == Millis::MAX { total.last_at.max(plan.from) } else { plan.to },
        assumptions: plan.assumptions,
        versions: total.versions,
        records: total.records,
        tried_records: total.tried_records,
        from_snapshots,
        partitions: source.partitions,
        took: started.elapsed(),
        read_in: total.read_in,
        threads,
    })
}

/// Whether any survey has a quota or a cap, before or in the time that is tried.
fn has_quotas(source: &Source, plan: &Plan, parts: &[BacktestPartition]) -> Result<bool, Error> {
    let is_limited = |survey: &Survey| survey.limits != Limits::default();
    if plan.versions.iter().flat_map(|version| &version.surveys).any(is_limited) {
        return Ok(true);
    }
    // Every definition stands in the registrar's partition.
    let Some(replayer) = parts.first().map(|part| &part.base.replayer) else { return Ok(false) };
    if replayer.machine().has_quotas(&plan.project) {
        return Ok(true);
    }
    let mut ahead = LookAhead::new(source, 0, &replayer.meta);
    ahead.go_on(source)?;
    Ok(ahead.limits(&plan.project))
}
