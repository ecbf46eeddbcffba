//! Partitions that are read together, the earliest record first: every record is
//! applied as it was, and in each version that is tried.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::{Error, Progress, Source};
use super::outcome::BacktestTotals;
use super::partition::{BacktestPartition, PartitionRun};
use super::plan::{Assumptions, Plan, Version};
use super::reaction::{chance, in_full};
use super::tally::Tally;
use crate::engine::Engine;
use askwhen_domain::eligibility::decision::{Decision, Offered};
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers as Said, Body, Record, Target};
use askwhen_domain::survey::{Status, Survey};
use askwhen_domain::time::Millis;
use askwhen_partition::Effects;
use askwhen_partition::replayer::Replayer;
use askwhen_store::Batch;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Decoded, Define, Defined, Forward, Internal};

/// What is counted while a group is read: as it was, and by version.
struct Tallies {
    base: Tally,
    tried: Vec<Tally>,
    /// Offers of versions whose reactions are still to be assumed.
    open: Vec<HypotheticalOffer>,
    /// By partition of the group.
    held: Vec<HeldOffers>,
}

/// Offers of versions of which it is not yet known whether they were really made,
/// because the request waits for a grant in the run as it was.
#[derive(Default)]
struct HeldOffers {
    offers: Vec<HypotheticalOffer>,
    /// How many requests the run had released when they were last looked at.
    released: u64,
}

/// The counts of the run as it was, and those of a version.
#[derive(Clone, Copy)]
struct ComparedTallies<'a> {
    base: &'a Tally,
    tried: &'a Tally,
}

impl ComparedTallies<'_> {
    /// Whether both have made the offer, or neither.
    fn agree(&self, offer_id: &str) -> bool {
        self.tried.agrees(self.base, offer_id)
    }
}

/// A record that a version has applied.
#[derive(Clone, Copy)]
struct AppliedRecord {
    /// Index of the version in the plan.
    version: usize,
    /// Index of the partition in the group.
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

/// How groups of partitions are read.
pub(super) struct GroupReader<'a> {
    pub(super) source: &'a Source,
    pub(super) plan: &'a Plan,
    pub(super) folder: &'a Path,
    /// Whether all partitions are one group, and quota messages go between them.
    pub(super) together: bool,
    pub(super) progress: &'a Progress,
}

impl GroupReader<'_> {
    /// Reads partitions side by side, the earliest record first.
    pub(super) fn read(&self, mut parts: Vec<BacktestPartition>, total: &mut BacktestTotals) -> Result<(), Error> {
        let versions = self.plan.versions.len();
        let mut tallies = Tallies {
            base: Tally::default(),
            tried: (0..versions).map(|_| Tally::default()).collect(),
            open: Vec::new(),
            held: parts.iter().map(|_| HeldOffers::default()).collect(),
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
                if self.progress.cancelled.load(Ordering::Relaxed) {
                    return Err(Error::failed("the run was cancelled"));
                }
            }
        }
        total.records += read;
        total.last_at = parts.iter().map(|part| part.base.replayer.meta.now).fold(total.last_at, Millis::max);
        total.read_in += parts.iter().map(|part| part.journal_reader.spent).sum::<std::time::Duration>();
        total.take(&tallies.base, &tallies.tried, self.plan);
        Ok(())
    }

    /// Begins a run for every version, from the state of the run as it was.
    fn fork(&self, parts: &mut [BacktestPartition], tallies: &mut Tallies) -> Result<(), Error> {
        let since: BTreeMap<u32, u64> =
            parts.iter().map(|part| (part.partition & 0xffff, part.base.replayer.meta.next)).collect();
        tallies.base = Tally::new(since.clone());
        tallies.tried.iter_mut().for_each(|tally| *tally = Tally::new(since.clone()));
        let sent: Vec<Vec<u64>> = parts.iter().map(|part| part.base.replayer.meta.forward.clone()).collect();
        for part in parts.iter_mut() {
            part.base.replayer.checkpoint(&part.base.store, Batch::default())?;
            // When all partitions are one group, each of them sends.
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

    /// The definitions that make the surveys of a version active, and archive all others
    /// if the version is assumed to be alone.
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
        // A definition with the content of the one in force would change nothing.
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
            actor: None,
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
        let as_it_was = base.replayer.machine_mut().take_captured();
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
                    tallies.tried[v].note_failed_gate(offer_id, survey_id, instead);
                }
            }
            parts[i].tried[v].settle()?;
        }
        self.release(&parts[i], i, tallies);
        self.react(parts, tallies)
    }

    /// Moves held offers to the open ones where their request is decided by now.
    fn release(&self, part: &BacktestPartition, i: usize, tallies: &mut Tallies) {
        let engine = part.base.replayer.machine();
        let held = &mut tallies.held[i];
        let released = std::mem::replace(&mut held.released, engine.released());
        if held.offers.is_empty() || released == engine.released() {
            return;
        }
        let offers = std::mem::take(&mut held.offers).into_iter();
        let (waiting, decided): (Vec<_>, Vec<_>) = offers.partition(|offer| engine.is_waiting(offer.offset));
        held.offers = waiting;
        tallies.open.extend(decided);
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
                Body::Displayed { offer_id } | Body::Dismissed { offer_id, .. } => compared.agree(offer_id),
                Body::Answers(Said { target: Target::Offer(offer_id), .. }) => compared.agree(offer_id),
                _ => true,
            },
            Decoded::Internal(internal) => match &**internal {
                Internal::Define(Define { kind, id, .. }) | Internal::Defined(Defined { kind, id, .. }) => {
                    !pinned(*kind, id)
                }
                // Messages from after the fork come from the versions themselves.
                Internal::Quota(_) | Internal::Cap(_) => {
                    by.is_some_and(|by| sent.get(by.from as usize).is_some_and(|sent| by.seq <= *sent))
                }
                _ => true,
            },
        }
    }

    /// Counts the outputs of a record in a version, applies its messages about quotas and caps where they
    /// are for, and notes offers whose reactions are to be assumed. Returns the decisions.
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
            let items = parts[i].tried[v].replayer.machine_mut().take_captured();
            for decision in tallies.tried[v].count(&items) {
                let Some(offered) = decision.survey.clone() else { continue };
                let user_id = decision.user_id.clone();
                // The trigger of an offer may have waited: its own offset counts.
                let offset = id::offer_position(&offered.offer_id).map_or(offset, |trigger| trigger.offset);
                tallies.open.push(HypotheticalOffer { version: v, part: i, offset, user_id, offered });
            }
            decisions.extend(items.into_iter().filter_map(|item| match item {
                askwhen_domain::eligibility::apply::Output::Decision(decision) => Some(Arc::unwrap_or_clone(decision)),
                _ => None,
            }));
            let now = parts[i].tried[v].replayer.meta.now;
            for outgoing in effects.forwards.into_iter().filter(|outgoing| outgoing.trusted && self.together) {
                let value = outgoing.value.as_str().as_bytes();
                let Ok(Decoded::Internal(internal)) = askwhen_wire::record::decode(Some(value), true) else { continue };
                if !matches!(*internal, Internal::Quota(_) | Internal::Cap(_)) {
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

    /// Applies the reactions that are assumed of users to hypothetical offers.
    fn react(&self, parts: &mut [BacktestPartition], tallies: &mut Tallies) -> Result<(), Error> {
        let Assumptions { displayed, answered, .. } = self.plan.assumptions;
        while let Some(hypothetical) = tallies.open.pop() {
            let HypotheticalOffer { version, part, offset, user_id, offered } = &hypothetical;
            if tallies.base.offers.get(&offered.offer_id) == Some(&offered.survey_id) {
                // The offer was really made, so its reactions are on record.
                continue;
            }
            if parts[*part].base.replayer.machine().is_waiting(*offset) {
                tallies.held[*part].offers.push(hypothetical);
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

/// Whether a record can have an effect in a project.
fn concerns(decoded: &Decoded<'_>, ours: &str) -> bool {
    match decoded {
        Decoded::User(record) => record.project == ours,
        Decoded::Internal(internal) => match &**internal {
            Internal::Erase(erase) => erase.project == ours,
            Internal::Alias(alias) => alias.project == ours,
            Internal::AliasStep(step) => step.project == ours,
            // Queries, and what concerns the delivery alone.
            Internal::Query(_)
            | Internal::EndpointHealthReport(_)
            | Internal::Redeliver { .. }
            | Internal::Ping { .. } => false,
            _ => true,
        },
    }
}
