//! What surveys would have done: the recorded journal applied once as it was,
//! and beside it with the surveys that are tried, from one moment on. Offers that
//! were not really made have no reactions on record; what is assumed of them is
//! said by whoever asks.

mod outcome;
pub mod report;
pub mod tally;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::explain::has_limits;
use super::{Error, JournalReader, Progress, Source, StartingState};
use crate::engine::Engine;
use askwhen_domain::decision::{Decision, Offered};
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers as Said, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::survey::{QuestionType, Status, Survey};
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_partition::Effects;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::replayer::Replayer;
use askwhen_store::{Batch, Store};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Decoded, Define, Defined, Forward, Internal};
use askwhen_wire::topic::Topic;
use outcome::BacktestTotals;
use tally::Tally;

pub use outcome::{Outcome, VersionResult};

/// Users kept decoded, and changed state that is not yet in a store, of all runs
/// that go on side by side.
const CACHED_BYTES: usize = 512 << 20;
const DIRTY_BYTES: usize = 256 << 20;

/// What is to be tried, on what, supposing what.
pub struct Plan {
    pub project: String,
    pub from: Millis,
    /// Records up to and with this moment.
    pub to: Millis,
    /// Each is tried alone; they are compared.
    pub versions: Vec<Version>,
    pub assumptions: Assumptions,
    pub threads: usize,
}

/// Surveys that are tried together.
#[derive(Debug, Clone)]
pub struct Version {
    pub name: String,
    pub surveys: Vec<Survey>,
}

/// What the journal cannot know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assumptions {
    /// Whether an offer that was not really made is displayed, at once.
    pub displayed: bool,
    /// The share of such displayed offers that are answered in full, at once.
    pub answered: f64,
    /// Whether no other survey is active.
    pub alone: bool,
}

/// Reads the journal and counts. Nothing is written but to a folder that goes
/// with it.
///
/// # Errors
/// When the plan cannot be tried, or the log cannot be read.
pub fn run(source: &Source, plan: &Plan, progress: &Progress) -> Result<Outcome, Error> {
    let started = Instant::now();
    check(plan)?;
    let folder = tempfile::tempdir()?;
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
    // Grants of quotas go from partition to partition: then all are read as one.
    let together = has_quotas(source, plan, &parts)?;
    let groups: Vec<Vec<BacktestPartition>> =
        if together { vec![parts] } else { parts.into_iter().map(|part| vec![part]).collect() };
    let threads = plan.threads.clamp(1, groups.len().max(1));
    let run = Run { source, plan, folder: folder.path(), together, progress };
    let mut total = BacktestTotals::new(plan);
    let groups: Vec<std::sync::Mutex<Option<Vec<BacktestPartition>>>> =
        groups.into_iter().map(|group| std::sync::Mutex::new(Some(group))).collect();
    let next = AtomicUsize::new(0);
    let worked: Vec<Result<BacktestTotals, Error>> = std::thread::scope(|scope| {
        let work = || -> Result<BacktestTotals, Error> {
            let mut own = BacktestTotals::new(plan);
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                let parts = group.lock().expect("no panic holds this lock").take();
                run.group(parts.unwrap_or_default(), &mut own)?;
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

fn check(plan: &Plan) -> Result<(), Error> {
    let usage = |text: String| Err(Error::usage(text));
    if plan.from >= plan.to {
        return usage("--from must be before --to".into());
    }
    for survey in plan.versions.iter().flat_map(|version| &version.surveys) {
        if survey.show_on.is_empty() {
            return usage(format!(
                "{} shows on no trigger: who opens its link is not in the journal, so there is nothing to try",
                survey.survey_id
            ));
        }
    }
    Ok(())
}

/// Whether any survey has a quota, before or in the time that is tried.
fn has_quotas(source: &Source, plan: &Plan, parts: &[BacktestPartition]) -> Result<bool, Error> {
    if plan.versions.iter().flat_map(|version| &version.surveys).any(|survey| survey.max_completed.is_some()) {
        return Ok(true);
    }
    // The registrar's partition hears of all.
    let Some(replayer) = parts.first().map(|part| &part.base.replayer) else { return Ok(false) };
    let registrar = TopicPartition { topic: Topic::Events, partition: 0 };
    Ok(replayer.machine().has_quotas(&plan.project)
        || has_limits(source.journal_reader(registrar, replayer.meta.next), &source.rules(0), &plan.project)?)
}

/// One run of a partition: as it was, or with surveys that are tried.
struct PartitionRun {
    replayer: Replayer<Engine>,
    store: Arc<Store>,
    /// Its share of what all may keep in memory.
    share: usize,
}

impl PartitionRun {
    fn open(
        source: &Source,
        plan: &Plan,
        partition: u32,
        store: Arc<Store>,
        meta: CheckpointMeta,
    ) -> Result<PartitionRun, Error> {
        // All partitions may be read as one.
        let share = source.partitions as usize * (plan.versions.len() + 1);
        let mut engine = Engine::open(store.clone(), partition, source.partitions, CACHED_BYTES / share)?;
        engine.watch(&plan.project);
        Ok(PartitionRun { replayer: Replayer::new(source.admission(partition, &meta)?, meta, engine), store, share })
    }

    /// Keeps what is in memory within bounds.
    fn settle(&mut self) -> Result<(), Error> {
        if self.replayer.dirty_bytes() >= DIRTY_BYTES / self.share {
            self.replayer.checkpoint(&self.store, Batch::default())?;
        }
        Ok(())
    }
}

/// A partition while it is read.
struct BacktestPartition {
    partition: u32,
    journal_reader: JournalReader,
    unread: VecDeque<askwhen_log::Record>,
    over: bool,
    base: PartitionRun,
    /// By version, once they have begun.
    tried: Vec<PartitionRun>,
    /// Letters between partitions that were on their way when they began: sent
    /// before the run forked, by sender.
    sent: Vec<u64>,
}

impl BacktestPartition {
    fn new(source: &Source, plan: &Plan, partition: u32, begin: StartingState) -> Result<BacktestPartition, Error> {
        let journal_reader = source.journal_reader(TopicPartition { topic: Topic::Events, partition }, begin.meta.next);
        let base = PartitionRun::open(source, plan, partition, begin.store, begin.meta)?;
        Ok(BacktestPartition {
            partition,
            journal_reader,
            unread: VecDeque::new(),
            over: false,
            base,
            tried: Vec::new(),
            sent: Vec::new(),
        })
    }

    /// When the next record was taken; `None` at the end.
    fn next_at(&mut self, plan: &Plan) -> Result<Option<Millis>, Error> {
        if self.unread.is_empty() && !self.over {
            self.unread = self.journal_reader.read()?.into();
            self.over = self.unread.is_empty();
        }
        let ahead = self.base.replayer.meta.ahead;
        let at = self.unread.front().map(|record| record.appended_at + ahead);
        if at.is_some_and(|at| at > plan.to) {
            self.unread.clear();
            self.over = true;
            return Ok(None);
        }
        Ok(at)
    }
}

/// Counts of a group: as it was, and by version.
struct Tallies {
    base: Tally,
    tried: Vec<Tally>,
    /// Offers of versions whose reactions have not been looked at.
    open: Vec<HypotheticalOffer>,
    /// Those of which it is not yet known whether they were really made, because
    /// the request waited for a grant: by part, and how many had been released there
    /// when it was looked at.
    held: Vec<(u64, Vec<HypotheticalOffer>)>,
}

/// What is on record, and what a version has come to.
#[derive(Clone, Copy)]
struct ComparedTallies<'a> {
    base: &'a Tally,
    tried: &'a Tally,
}

impl ComparedTallies<'_> {
    fn agree(&self, offer_id: &str) -> bool {
        self.tried.agrees(self.base, offer_id)
    }
}

/// A record that a version has applied: which version, in which part, at which offset.
#[derive(Clone, Copy)]
struct AppliedRecord {
    version: usize,
    part: usize,
    offset: u64,
}

/// An offer that a version makes.
struct HypotheticalOffer {
    version: usize,
    part: usize,
    offset: u64,
    user_id: String,
    offered: Offered,
}

struct Run<'a> {
    source: &'a Source,
    plan: &'a Plan,
    folder: &'a Path,
    together: bool,
    progress: &'a Progress,
}

impl Run<'_> {
    /// Reads partitions side by side, the earliest record first.
    fn group(&self, mut parts: Vec<BacktestPartition>, total: &mut BacktestTotals) -> Result<(), Error> {
        let versions = self.plan.versions.len();
        let mut tallies = Tallies {
            base: Tally::default(),
            tried: (0..versions).map(|_| Tally::default()).collect(),
            open: Vec::new(),
            held: parts.iter().map(|_| (0, Vec::new())).collect(),
        };
        let mut forked = false;
        let mut read = 0;
        loop {
            let mut earliest: Option<(Millis, usize)> = None;
            for (i, part) in parts.iter_mut().enumerate() {
                if let Some(at) = part.next_at(self.plan)?
                    && earliest.is_none_or(|(first, _)| at < first)
                {
                    earliest = Some((at, i));
                }
            }
            let Some((at, i)) = earliest else { break };
            if !forked && at >= self.plan.from {
                forked = true;
                self.fork(&mut parts, &mut tallies)?;
            }
            let Some(record) = parts[i].unread.pop_front() else { break };
            self.step(&mut parts, i, &record, &mut tallies, forked)?;
            read += 1;
            total.tried_records += u64::from(forked);
            if read % 1_024 == 0 {
                self.progress.records.fetch_add(1_024, Ordering::Relaxed);
            }
        }
        total.records += read;
        total.last_at = parts.iter().map(|part| part.base.replayer.meta.now).fold(total.last_at, Millis::max);
        total.read_in += parts.iter().map(|part| part.journal_reader.spent).sum::<std::time::Duration>();
        total.take(&tallies, self.plan);
        Ok(())
    }

    /// Lets every version begin where the journal stands.
    fn fork(&self, parts: &mut [BacktestPartition], tallies: &mut Tallies) -> Result<(), Error> {
        let since: BTreeMap<u32, u64> =
            parts.iter().map(|part| (part.partition & 0xffff, part.base.replayer.meta.next)).collect();
        tallies.base = Tally::new(since.clone());
        tallies.tried.iter_mut().for_each(|tally| *tally = Tally::new(since.clone()));
        let sent: Vec<Vec<u64>> = parts.iter().map(|part| part.base.replayer.meta.forward.clone()).collect();
        for part in parts.iter_mut() {
            part.base.replayer.checkpoint(&part.base.store, Batch::default())?;
            // By sender, of which there are as many as partitions when they are read as one.
            part.sent = sent.iter().map(|of| of[part.partition as usize]).collect();
            for version in 0..self.plan.versions.len() {
                let path = self.folder.join(format!("{}-try-{version}", part.partition));
                part.base.store.checkpoint(&path)?;
                let (store, meta) = (self.source.store(&path)?, part.base.replayer.meta.clone());
                part.tried.push(PartitionRun::open(self.source, self.plan, part.partition, store, meta)?);
            }
        }
        for (v, version) in self.plan.versions.iter().enumerate() {
            for i in 0..parts.len() {
                for defined in self.definitions(&parts[i].base.replayer, version) {
                    let defined = Decoded::Internal(Box::new(Internal::Defined(defined)));
                    let replayer = &mut parts[i].tried[v].replayer;
                    let (now, offset) = (replayer.meta.now, replayer.meta.next);
                    let effects = replayer.apply_synthetic(now, offset, defined)?;
                    self.follow(parts, AppliedRecord { version: v, part: i, offset }, effects, tallies)?;
                }
            }
        }
        Ok(())
    }

    /// What makes the surveys of a version active, and the others not if they are
    /// to be alone.
    fn definitions(&self, base: &Replayer<Engine>, version: &Version) -> Vec<Defined> {
        let known: HashMap<String, (u64, Json)> = base
            .machine()
            .surveys(&self.plan.project)
            .into_iter()
            .map(|(id, version, body)| (id, (version, body)))
            .collect();
        let tried = |id: &str| version.surveys.iter().any(|survey| survey.survey_id == id);
        let mut bodies: Vec<(String, Json)> = version
            .surveys
            .iter()
            .map(|survey| {
                let survey = Survey { status: Status::Active, ..survey.clone() };
                (survey.survey_id.clone(), Json::of(&survey))
            })
            .collect();
        if self.plan.assumptions.alone {
            for (id, (_, body)) in known.iter().filter(|(id, _)| !tried(id)) {
                let mut value = body.value();
                value["status"] = "archived".into();
                bodies.push((id.clone(), Json::of(&value)));
            }
            bodies.sort_by(|a, b| a.0.cmp(&b.0));
        }
        // The same content is the same version.
        bodies.retain(|(id, body)| known.get(id).is_none_or(|(_, known)| known != body));
        let defined = |(id, body): (String, Json)| Defined {
            project: self.plan.project.clone(),
            kind: Kind::Survey,
            version: known.get(&id).map_or(1, |(version, _)| version + 1),
            changed: true,
            created: !known.contains_key(&id),
            used_new_secret: false,
            body: Some(body),
            id,
        };
        bodies.into_iter().map(defined).collect()
    }

    fn step(
        &self,
        parts: &mut [BacktestPartition],
        i: usize,
        record: &askwhen_log::Record,
        tallies: &mut Tallies,
        forked: bool,
    ) -> Result<(), Error> {
        let project = self.plan.project.as_str();
        let ours = |decoded: &Decoded<'_>, _: Option<&Forward>| self.together || concerns(decoded, project);
        let base = &mut parts[i].base;
        base.replayer.play(record, &ours)?;
        let as_it_was = base.replayer.machine_mut().take_watched();
        base.settle()?;
        if !forked {
            return Ok(());
        }
        let made: Vec<(String, Offered)> = tallies
            .base
            .count(&as_it_was)
            .into_iter()
            .filter_map(|decision| Some((decision.user_id.clone(), decision.survey.clone()?)))
            .collect();
        for (v, version) in self.plan.versions.iter().enumerate() {
            let sent = &parts[i].sent;
            let compared = ComparedTallies { base: &tallies.base, tried: &tallies.tried[v] };
            let wanted = |decoded: &Decoded<'_>, by: Option<&Forward>| {
                concerns(decoded, project) && self.counts(decoded, by, version, compared, sent)
            };
            let effects = parts[i].tried[v].replayer.play(record, &wanted)?;
            let applied = AppliedRecord { version: v, part: i, offset: record.offset };
            let decisions = self.follow(parts, applied, effects.unwrap_or_default(), tallies)?;
            for (user_id, Offered { offer_id, survey_id, .. }) in &made {
                if !tallies.tried[v].agrees(&tallies.base, offer_id) {
                    let instead = decisions.iter().find(|decision| decision.user_id == *user_id);
                    tallies.tried[v].note_shut(offer_id, survey_id, instead);
                }
            }
            parts[i].tried[v].settle()?;
        }
        self.release(&parts[i], i, tallies);
        self.react(parts, tallies)
    }

    /// Takes up the offers that are not held any more.
    fn release(&self, part: &BacktestPartition, i: usize, tallies: &mut Tallies) {
        let engine = part.base.replayer.machine();
        let (counted, held) = &mut tallies.held[i];
        if held.is_empty() || std::mem::replace(counted, engine.released()) == engine.released() {
            return;
        }
        let (still, free) = std::mem::take(held).into_iter().partition(|one| engine.is_waiting(one.offset));
        *held = still;
        tallies.open.extend::<Vec<HypotheticalOffer>>(free);
    }

    /// Whether a record of the journal has its effect in a version too.
    fn counts(
        &self,
        decoded: &Decoded<'_>,
        by: Option<&Forward>,
        version: &Version,
        compared: ComparedTallies<'_>,
        sent: &[u64],
    ) -> bool {
        let pinned = |kind: Kind, id: &str| {
            kind == Kind::Survey
                && (self.plan.assumptions.alone || version.surveys.iter().any(|survey| survey.survey_id == id))
        };
        match decoded {
            Decoded::User(record) => match &record.body {
                // A reaction to an offer says something of that offer alone.
                Body::Displayed { offer_id } | Body::Dismissed { offer_id } => compared.agree(offer_id),
                Body::Answers(Said { target: Target::Offer(offer_id), .. }) => compared.agree(offer_id),
                _ => true,
            },
            Decoded::Internal(internal) => match &**internal {
                Internal::Define(Define { kind, id, .. }) | Internal::Defined(Defined { kind, id, .. }) => {
                    !pinned(*kind, id)
                }
                // Later messages are written anew, by those who are tried.
                Internal::Quota(_) => {
                    by.is_some_and(|by| sent.get(by.from as usize).is_some_and(|sent| by.seq <= *sent))
                }
                _ => true,
            },
        }
    }

    /// Counts the outputs of a record in a version, delivers its messages, and notes
    /// offers whose reactions are to be assumed. Gives the decisions.
    fn follow(
        &self,
        parts: &mut [BacktestPartition],
        applied: AppliedRecord,
        effects: Effects,
        tallies: &mut Tallies,
    ) -> Result<Vec<Decision>, Error> {
        let AppliedRecord { version: v, part: i, offset } = applied;
        let mut decisions = Vec::new();
        let mut queue = VecDeque::from([(i, effects)]);
        while let Some((i, effects)) = queue.pop_front() {
            let items = parts[i].tried[v].replayer.machine_mut().take_watched();
            for decision in tallies.tried[v].count(&items) {
                let Some(offered) = decision.survey.clone() else { continue };
                let user_id = decision.user_id.clone();
                // Of its trigger, which may have waited.
                let offset = id::offer_position(&offered.offer_id).map_or(offset, |trigger| trigger.offset);
                tallies.open.push(HypotheticalOffer { version: v, part: i, offset, user_id, offered });
            }
            decisions.extend(items.into_iter().filter_map(|item| match item {
                askwhen_domain::apply::Output::Decision(decision) => Some(*decision),
                _ => None,
            }));
            let now = parts[i].tried[v].replayer.meta.now;
            for outgoing in effects.forwards.into_iter().filter(|outgoing| outgoing.trusted && self.together) {
                let value = outgoing.value.as_str().as_bytes();
                let Ok(Decoded::Internal(internal)) = askwhen_wire::record::decode(Some(value), true) else { continue };
                if !matches!(*internal, Internal::Quota(_)) {
                    continue;
                }
                let to = outgoing.to as usize;
                let replayer = &mut parts[to].tried[v].replayer;
                let next = replayer.meta.next;
                let effects = replayer.apply_synthetic(now, next, Decoded::Internal(internal))?;
                queue.push_back((to, effects));
            }
        }
        Ok(decisions)
    }

    /// Lets users do to imagined offers what is assumed of them.
    fn react(&self, parts: &mut [BacktestPartition], tallies: &mut Tallies) -> Result<(), Error> {
        let Assumptions { displayed, answered, .. } = self.plan.assumptions;
        while let Some(imagined) = tallies.open.pop() {
            let HypotheticalOffer { version, part, offset, user_id, offered } = &imagined;
            if tallies.base.offers.get(&offered.offer_id) == Some(&offered.survey_id) {
                // What became of it is on record.
                continue;
            }
            if parts[*part].base.replayer.machine().is_waiting(*offset) {
                tallies.held[*part].1.push(imagined);
                continue;
            }
            let mut bodies = Vec::new();
            if displayed {
                bodies.push(Body::Displayed { offer_id: offered.offer_id.as_str().into() });
            }
            if chance(&offered.offer_id) < answered {
                bodies.push(Body::Answers(in_full(offered)));
            }
            for body in bodies {
                let (project, user_id) = (self.plan.project.as_str().into(), user_id.as_str().into());
                let record = Record { project, user_id, event_id: None, times: Default::default(), body };
                let replayer = &mut parts[*part].tried[*version].replayer;
                let now = replayer.meta.now;
                let effects = replayer.apply_synthetic(now, *offset, Decoded::User(Box::new(record)))?;
                let applied = AppliedRecord { version: *version, part: *part, offset: *offset };
                self.follow(parts, applied, effects, tallies)?;
            }
        }
        Ok(())
    }
}

/// Whether a record can matter to a project.
fn concerns(decoded: &Decoded<'_>, ours: &str) -> bool {
    match decoded {
        Decoded::User(record) => record.project == ours,
        Decoded::Internal(internal) => match &**internal {
            Internal::Erase(erase) => erase.project == ours,
            // Reads, and what only the delivery is told.
            Internal::Query(_)
            | Internal::EndpointHealthReport(_)
            | Internal::Redeliver { .. }
            | Internal::Ping { .. } => false,
            _ => true,
        },
    }
}

/// From 0 up to and without 1, the same for an offer whenever it is tried.
fn chance(offer_id: &str) -> f64 {
    (xxhash_rust::xxh3::xxh3_64(offer_id.as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Some answer to each question.
fn in_full(offered: &Offered) -> Said {
    let answers = offered.questions.iter().filter_map(|question| {
        let first = question.options.first().map_or(Value::Null, |choice| choice.value.as_str().into());
        let value = match question.kind {
            QuestionType::Info => return None,
            QuestionType::Text => json!("…"),
            QuestionType::Nps => json!(8),
            QuestionType::SingleChoice => first,
            QuestionType::MultiChoice => json!([first]),
            QuestionType::RatingNumber | QuestionType::RatingStar | QuestionType::RatingEmoji => json!(3),
        };
        let question_id = question.question_id.clone();
        Some(GivenAnswer { question_id, value: Json::of(&value), answered_at: None, duration_ms: None })
    });
    let target = Target::Offer(offered.offer_id.clone());
    Said { target, answers: answers.collect(), completed: true, context: Context::default() }
}

/// The versions that files define: of a survey that is defined several times, one
/// each; the others are in all of them.
///
/// # Errors
/// When there is none.
pub fn versions(defined: Vec<(String, Survey)>) -> Result<Vec<Version>, Error> {
    let ids: BTreeSet<String> = defined.iter().map(|(_, survey)| survey.survey_id.clone()).collect();
    let of = |id: &String| defined.iter().filter(|(_, survey)| survey.survey_id == *id).collect::<Vec<_>>();
    let Some(most) = ids.iter().map(|id| of(id).len()).max() else {
        return Err(Error::usage("the files hold no survey"));
    };
    let version = |n: usize| {
        let mut names = Vec::new();
        let mut surveys = Vec::new();
        for id in &ids {
            let all = of(id);
            let Some((place, survey)) = all.get(n).or(all.last()) else { continue };
            if all.len() > 1 || most == 1 {
                names.push(if most > 1 { place.clone() } else { id.clone() });
            }
            surveys.push(survey.clone());
        }
        Version { name: names.join(" + "), surveys }
    };
    Ok((0..most).map(version).collect())
}
