//! Opens a partition's store: that in its folder, else one restored from the snapshots,
//! the newest first, else an empty one that is filled from the topics. Each source is
//! verified before it is used; a damaged one is passed over and reported.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{FAR_BEHIND_RECORDS, OpenStore, Role, StorePosition, Stores, position_of, writer_path};
use crate::supervisor::{Error, data};
use askwhen_domain::goes_on_from;
use askwhen_log::{Log, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::{Phase, Status, accepted_losses, is_accepted};
use askwhen_store::bucket;
use askwhen_store::snapshot::{Manifest, Subject};
use askwhen_store::{Rocks, Shared, Store};
use askwhen_wire::record::AcceptLoss;
use askwhen_wire::topic::Topic;

/// The store of a partition's folder.
struct LocalStore {
    store: Arc<Store>,
    /// `None` before its first checkpoint.
    position: Option<StorePosition>,
}

/// Block cache and write buffers of a store that is opened to be verified.
const VERIFY_MEMORY_BYTES: usize = 8 << 20;

/// Sources of state that could not be used, and why.
struct UnusableSources<'a> {
    role: Role,
    partition: u32,
    status: &'a Status,
    reasons: Vec<String>,
}

impl UnusableSources<'_> {
    fn add(&mut self, why: String) {
        let (role, partition) = (self.role.name(), self.partition);
        tracing::warn!(role, partition, why, "a source of state is passed over");
        self.reasons.push(why);
        self.status.set_passed_over(self.reasons.clone());
    }

    fn joined(&self) -> String {
        if self.reasons.is_empty() { String::new() } else { format!(". Passed over: {}", self.reasons.join("; ")) }
    }
}

/// How the topics compare with the state of the folder.
struct StateRequirement {
    beginnings: Beginnings,
    /// Whether a topic begins behind the state: a newer snapshot is needed.
    gap: bool,
    /// A sentence on the records of the first such topic that are lost, unless an operator
    /// has accepted the loss.
    lost: Option<String>,
    /// Whether the state is so far behind that a newer snapshot is restored.
    far: bool,
    /// Whether another process may have replaced the state by a snapshot of a higher
    /// generation.
    shared: bool,
    /// Whether there are records to make a state of.
    topics_hold_records: bool,
}

/// Where topics begin, and the losses before that which operators have accepted.
struct Beginnings {
    topics: Vec<(TopicPartition, u64)>,
    accepted: Vec<AcceptLoss>,
}

impl Beginnings {
    /// The first topic that begins behind a state without an accepted loss, with the lost
    /// offsets: the first one, and one past the last.
    fn lost(&self, positions: &BTreeMap<String, u64>) -> Option<(TopicPartition, u64, u64)> {
        let next = |at: TopicPartition| positions.get(at.topic.name()).copied().unwrap_or(0);
        let mut gaps = self.topics.iter().map(|(at, begins)| (*at, next(*at), *begins));
        gaps.find(|(at, next, begins)| next < begins && !is_accepted(&self.accepted, at.topic, *next..*begins))
    }
}

/// Why a snapshot was not taken.
enum SnapshotUnusable {
    Damaged(String),
    /// It cannot be reached, or the partition was given up meanwhile.
    Failed(String),
}

impl Stores {
    /// Opens a partition's store.
    ///
    /// # Errors
    /// When no sound source goes on where the topics begin.
    pub fn open(&self, role: Role, partition: u32, status: &Arc<Status>) -> Result<Arc<Store>, StopReason> {
        let mut passed = UnusableSources { role, partition, status, reasons: Vec::new() };
        let path = self.path(role, partition);
        if status.damaged.swap(false, Ordering::AcqRel) && path.exists() {
            let why = "the state here failed its checksums while it was in use";
            data::set_aside(&path, why).map_err(restart)?;
            passed.add(why.into());
        }
        if self.is_alone() {
            self.refuse_lost_end(role, partition)?;
        }
        let here = self.open_here(role, &path, &mut passed)?;
        let (mut local, position) = match here {
            Some(LocalStore { store, position }) => (Some(store), position),
            None => (None, None),
        };
        let need = self.need(role, partition, position.as_ref())?;
        if position.is_none() || need.gap || need.far || need.shared {
            let found = self.further(role, partition, position.as_ref(), &need, &mut passed)?;
            for manifest in found {
                let fresh = path.with_extension(format!("restoring-{}", uuid::Uuid::now_v7().simple()));
                match self.fetch(role, &manifest, &fresh, status) {
                    Ok(()) => {
                        drop(local.take());
                        put_in_place(&fresh, &path).map_err(restart)?;
                        let store = data::open_store(&path, role.families(), &self.shared).map_err(restart)?;
                        return Ok(self.opened_as(role, partition, store, status));
                    }
                    Err(why) => {
                        // What was restored so far is of no use.
                        std::fs::remove_dir_all(&fresh).ok();
                        match why {
                            SnapshotUnusable::Damaged(why) => passed.add(why),
                            SnapshotUnusable::Failed(why) if self.is_alone() && status.is_wanted() => passed.add(why),
                            SnapshotUnusable::Failed(why) => return Err(StopReason::restart(why)),
                        }
                    }
                }
            }
        }
        if let Some(lost) = need.lost {
            return Err(StopReason::restart(format!(
                "{lost}, and no snapshot in {:?} was{}. Restore the data from a backup. If they are gone for good, \
                 `askwhen doctor --accept-loss` lets the state go on behind them",
                self.repository,
                passed.joined()
            )));
        }
        // On Kafka a process that takes up a partition for the first time has none.
        let is_missing = need.topics_hold_records && self.is_alone() && local.is_none();
        if position.is_none() && (is_missing || !passed.reasons.is_empty()) {
            let role = role.name();
            tracing::warn!(role, partition, "the state is gone: it is made again from the beginning of its topics");
        }
        let store = match local {
            Some(store) => store,
            None => data::open_store(&path, role.families(), &self.shared).map_err(restart)?,
        };
        Ok(self.opened_as(role, partition, store, status))
    }

    fn opened_as(&self, role: Role, partition: u32, store: Arc<Store>, status: &Arc<Status>) -> Arc<Store> {
        let open = OpenStore { store: Arc::downgrade(&store), status: status.clone() };
        self.open.lock().expect("no panic holds this lock").insert((role, partition), open);
        store
    }

    /// Whether no other process takes snapshots of these partitions, because the log is
    /// embedded.
    fn is_alone(&self) -> bool {
        !matches!(self.log, Log::Kafka(_))
    }

    /// A log that ends before a snapshot of its own has lost what came then, most likely
    /// because an earlier copy of it was put back. What is written now would stand where
    /// other records have stood, which the snapshot was made of.
    fn refuse_lost_end(&self, role: Role, partition: u32) -> Result<(), StopReason> {
        let listed = match self.repository.list(role.name(), partition) {
            Ok(listed) => listed,
            Err(error) => {
                let role = role.name();
                tracing::warn!(role, partition, %error, "the snapshots cannot be listed: whether the log ends before them is not known");
                return Ok(());
            }
        };
        let incarnation = format!("{:032x}", self.log.incarnation());
        let all: Vec<TopicPartition> =
            role.trimmed().iter().map(|topic| TopicPartition { topic: *topic, partition }).collect();
        let bounds = self.log.all_bounds(&all)?;
        for manifest in listed.iter().filter(|manifest| manifest.subject.incarnation == incarnation) {
            for (at, end) in all.iter().zip(bounds.iter().map(|bounds| bounds.end)) {
                let position = manifest.subject.positions.get(at.topic.name()).copied().unwrap_or(0);
                if position > end {
                    return Err(StopReason::refused(format!(
                        "{at} ends at {end}, and the snapshot {} in {:?} was made when it had reached {position}: the log \
                         has lost its end, most likely because an earlier copy was put back. Put back the newest log, or \
                         restore a backup as a whole. If those records are gone for good, move the snapshots that are \
                         further away",
                        manifest.name(),
                        self.repository
                    )));
                }
            }
        }
        Ok(())
    }

    /// Opens the store of a folder. A damaged one is set aside.
    fn open_here(
        &self,
        role: Role,
        path: &Path,
        passed: &mut UnusableSources<'_>,
    ) -> Result<Option<LocalStore>, StopReason> {
        if !path.exists() {
            return Ok(None);
        }
        let looked = Rocks::open(path, role.families(), &self.shared).map_err(StopReason::from).and_then(|store| {
            let store = Arc::new(Store::Rocks(store));
            let position = position_of(role, &store)?;
            Ok(LocalStore { store, position })
        });
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(StopReason::Damaged(why)) => {
                let why = why.to_string();
                data::set_aside(path, &why).map_err(restart)?;
                passed.add(why);
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }

    fn need(&self, role: Role, partition: u32, here: Option<&StorePosition>) -> Result<StateRequirement, StopReason> {
        let all: Vec<TopicPartition> =
            role.trimmed().iter().map(|topic| TopicPartition { topic: *topic, partition }).collect();
        let bounds = self.log.all_bounds(&all)?;
        let next = |at: &TopicPartition| here.and_then(|h| h.positions.get(at.topic.name()).copied()).unwrap_or(0);
        // Records before that were trimmed, or came with an export.
        let begins = |at: &TopicPartition, start: u64| match at.topic {
            Topic::Events => start.max(self.log.begins(partition)),
            _ => start,
        };
        let topics: Vec<(TopicPartition, u64)> =
            all.iter().zip(&bounds).map(|(at, bounds)| (*at, begins(at, bounds.start))).collect();
        let gap = topics.iter().any(|(at, begins)| next(at) < *begins);
        // Only a gap is worth it: the whole journal is searched for accepted losses.
        let accepted = if gap { accepted_losses(&self.log, &self.key, partition)? } else { Vec::new() };
        let beginnings = Beginnings { topics, accepted };
        let positions = here.map(|here| here.positions.clone()).unwrap_or_default();
        let lost = beginnings.lost(&positions).map(|(at, from, to)| {
            let role = role.name();
            format!("{at}: the records from {from} up to, and without, {to} are gone, and the state of the {role} was not made of them yet")
        });
        Ok(StateRequirement {
            beginnings,
            gap,
            lost,
            topics_hold_records: bounds.iter().any(|bounds| bounds.end > bounds.start),
            far: bounds[0].end.saturating_sub(next(&all[0])) > FAR_BEHIND_RECORDS,
            // On Kafka `replay promote` replaces the state by writing snapshots.
            shared: !self.is_alone() && role == Role::Engine,
        })
    }

    /// The snapshots that are better than the state of the folder, the best first.
    fn further(
        &self,
        role: Role,
        partition: u32,
        here: Option<&StorePosition>,
        need: &StateRequirement,
        passed: &mut UnusableSources<'_>,
    ) -> Result<Vec<Manifest>, StopReason> {
        let read = match self.repository.manifests(role.name(), partition) {
            Ok(listed) => listed,
            Err(error) if self.is_alone() => {
                passed.add(format!("the snapshots cannot be listed: {error}"));
                Vec::new()
            }
            Err(error) => return Err(StopReason::restart(error)),
        };
        let mut listed = Vec::new();
        for (name, read) in read {
            match read {
                Ok(manifest) => listed.push(manifest),
                Err(why) => passed.add(format!("the snapshot {name}: {why}")),
            }
        }
        let incarnation = format!("{:032x}", self.log.incarnation());
        let needed = need.gap || need.far;
        let joins = |found: &Manifest| need.beginnings.lost(&found.subject.positions).is_none();
        listed.retain(|found| {
            let Subject { generation, position, logic_version, .. } = found.subject;
            let further = here.is_none_or(|h| {
                generation > h.generation || (generation == h.generation && position > h.position && needed)
            });
            found.subject.incarnation == incarnation && further && goes_on_from(logic_version) && joins(found)
        });
        listed.sort_by_key(|m| std::cmp::Reverse((m.subject.generation, m.subject.position, m.subject.created_at)));
        Ok(listed)
    }

    /// Restores a snapshot to a new folder and verifies it: the checksum of each file, then
    /// of each block, and its position.
    fn fetch(&self, role: Role, manifest: &Manifest, fresh: &Path, status: &Status) -> Result<(), SnapshotUnusable> {
        tracing::info!(snapshot = manifest.name(), bytes = manifest.bytes(), "state is restored from a snapshot");
        let progress = |done: u64, all: u64| {
            status.set(Phase::Opening(format!("restoring a snapshot, {} of {} KiB", done >> 10, all >> 10)));
            status.is_wanted()
        };
        self.repository.restore(manifest, fresh, progress).map_err(|error| match error {
            bucket::Error::Damaged { .. } => SnapshotUnusable::Damaged(error.to_string()),
            error => SnapshotUnusable::Failed(error.to_string()),
        })?;
        status.set(Phase::Opening("looking at what was restored".into()));
        let damaged = |why: String| SnapshotUnusable::Damaged(format!("the snapshot {}: {why}", manifest.name()));
        // The shared cache would answer for these files with blocks of the store that they
        // are a copy of.
        let uncached = Shared::new(VERIFY_MEMORY_BYTES);
        let store = Rocks::open(fresh, role.families(), &uncached).and_then(|store| {
            store.verify()?;
            Ok(Store::Rocks(store))
        });
        let store = store.map_err(|error| match error {
            askwhen_store::Error::Damaged { source, .. } => damaged(source.to_string()),
            error => SnapshotUnusable::Failed(error.to_string()),
        })?;
        let found = position_of(role, &store).map_err(|stop| damaged(stop.to_string()))?;
        let Some(found) = found else { return Err(damaged("it holds no checkpoint".into())) };
        let Subject { incarnation, generation, position, positions, .. } = &manifest.subject;
        let expected: (&String, u64, u64, &BTreeMap<String, u64>) = (incarnation, *generation, *position, positions);
        if (&found.incarnation, found.generation, found.position, &found.positions) != expected {
            return Err(damaged(format!("it is said to be at {position}, and its state is at {}", found.position)));
        }
        if let Some(other) = found.partition.filter(|other| *other != manifest.subject.partition) {
            return Err(damaged(format!("its state is that of partition {other}")));
        }
        Ok(())
    }
}

fn restart(error: Error) -> StopReason {
    StopReason::restart(error)
}

/// Puts a restored store into the place of the one in a folder.
fn put_in_place(fresh: &Path, path: &Path) -> Result<(), Error> {
    let io = |e: std::io::Error| Error::file(path, e);
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(io)?;
    }
    // This store numbers its files anew: later snapshots share no tables with earlier ones.
    std::fs::remove_file(writer_path(path)).ok();
    std::fs::rename(fresh, path).map_err(io)
}
