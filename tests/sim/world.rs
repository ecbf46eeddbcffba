//! Machines around one log, with their clients and receivers: performs one
//! operation after the other, and looks at what can be seen at once.

mod clients;
mod observation;
mod processes;
mod receivers;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use askwhen::delivery::SimulatedAttempt;
use askwhen_domain::time::Millis;
use askwhen_log::{AppendedRange, NewRecord, TopicPartition};
use askwhen_partition::Signer;
use askwhen_store::Store;
use askwhen_wire::topics::Source;
use tokio::sync::oneshot;

pub use clients::ALIASED;

use crate::bodies;
use crate::machine::{Machine, key};
use crate::medium::{INCARNATION, Medium};
use crate::ops::{Op, Role};

fn signer() -> Signer {
    Signer::of_log(INCARNATION, &key())
}

const BEGINNING: Millis = 1_700_000_000_000;
/// Header of what no client may get through.
pub const FORGED: &str = "x-forged";

/// A request that a client has made.
pub struct Request {
    pub at: TopicPartition,
    pub new: NewRecord,
    answer: Option<oneshot::Receiver<Result<AppendedRange, askwhen_log::Error>>>,
    pub outcome: Option<Result<AppendedRange, askwhen_log::Error>>,
    generation: u32,
    /// Its user may send it again.
    repeatable: bool,
    pub asked_at_step: usize,
    pub told_at_step: usize,
}

/// A request that came to a receiver.
#[derive(Debug, Clone)]
pub struct Arrival {
    pub delivery_id: String,
    pub message_id: String,
    pub endpoint_id: String,
    pub attempt: u32,
    pub body: Vec<u8>,
}

/// What can be seen of a user's erasure.
struct Erased {
    source: Source,
    at_step: usize,
}

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub partitions: u32,
    pub machines: usize,
    /// The log is one machine's, on a disk of its own.
    pub on_disk: bool,
    /// Some names become each other's. It leaves fewer users to be asked of quotas.
    pub has_aliases: bool,
    pub seed: u64,
}

pub struct World {
    pub medium: Medium,
    pub now: Millis,
    /// As far as a clock has been that stamps the journal.
    furthest: Millis,
    pub partitions: u32,
    pub machines: Vec<Machine>,
    owners: BTreeMap<(Role, u32), usize>,
    snapshots: BTreeMap<(Role, u32), Arc<Store>>,
    pub requests: Vec<Request>,
    /// Those that wait for their answers.
    unanswered: Vec<usize>,
    pub arrivals: Vec<Arrival>,
    /// On their way to an answer, with the client that sent them.
    pending: Vec<(u32, SimulatedAttempt)>,
    /// Sent, and not on record when their process ended or lost them.
    pub interrupted: usize,
    /// Attempts sent, with their senders, of which no record is seen yet.
    unrecorded: BTreeMap<(String, u32), u32>,
    /// Users of this generation have short pasts.
    generation: u32,
    next_client: u32,
    next_request: u64,
    pub step: usize,
    /// Some process may have worked on what was another's.
    pub zombies: bool,
    /// Some machine's clock has stepped: its wall says nothing of what has waited.
    pub stepped: bool,
    /// Offers by user, as the decisions tell them.
    offers: BTreeMap<String, Vec<String>>,
    /// Offers of the survey of many forms, in which answers lead to different questions.
    branching: BTreeSet<String>,
    has_aliases: bool,
    /// Deliveries that have ended on record, and when that was seen.
    ended: BTreeMap<String, usize>,
    erased: BTreeMap<String, Vec<Erased>>,
    observed: BTreeMap<TopicPartition, u64>,
}

impl World {
    /// # Errors
    /// When the beginning itself does not work.
    pub fn new(Shape { partitions, machines, on_disk, has_aliases, seed }: Shape) -> Result<World, String> {
        let medium = if on_disk { Medium::disk(seed, partitions) } else { Medium::brokers(partitions, BEGINNING) };
        let mut world = World {
            medium,
            now: BEGINNING,
            furthest: BEGINNING,
            partitions,
            machines: (0..machines).map(|_| Machine::new(BEGINNING)).collect(),
            owners: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            requests: Vec::new(),
            unanswered: Vec::new(),
            arrivals: Vec::new(),
            pending: Vec::new(),
            interrupted: 0,
            unrecorded: BTreeMap::new(),
            generation: 0,
            next_client: 1,
            next_request: 1_000,
            step: 0,
            zombies: false,
            stepped: false,
            offers: BTreeMap::new(),
            branching: BTreeSet::new(),
            has_aliases,
            ended: BTreeMap::new(),
            erased: BTreeMap::new(),
            observed: BTreeMap::new(),
        };
        for partition in 0..partitions {
            for role in [Role::Engine, Role::Delivery] {
                world.owners.insert((role, partition), partition as usize % machines);
            }
        }
        for machine in 0..machines {
            world.start(machine)?;
        }
        for internal in bodies::first(world.now) {
            world.internal(0, &internal);
        }
        world.rest()?;
        Ok(world)
    }

    pub fn perform(&mut self, op: Op) -> Result<(), String> {
        self.step += 1;
        match op {
            Op::Event { .. }
            | Op::Ask { .. }
            | Op::Displayed { .. }
            | Op::Dismissed { .. }
            | Op::Answer { .. }
            | Op::Attributes { .. }
            | Op::Erase { .. }
            | Op::Alias { .. }
            | Op::Again { .. }
            | Op::Define { .. }
            | Op::Endpoint { .. }
            | Op::Junk { .. } => self.ask(op),
            Op::Pass { ms } => self.pass(i64::from(ms)),
            Op::Years { years } => {
                // Nothing is on its way for years: ids would be forgotten meanwhile.
                self.medium.land_all();
                self.generation += 1;
                self.pass(i64::from(years) * 365 * 24 * 3_600_000);
            }
            Op::Wall { process, by_ms } => {
                self.stepped = true;
                let machine = self.machine(process);
                let machine = &mut self.machines[machine];
                machine.wall_off_ms += by_ms;
                machine.clock.set_wall(self.now + machine.wall_off_ms);
                self.look_how_far();
            }
            Op::Step { process, which } => return self.step_engine(self.machine(process), which),
            Op::Turn { process } => return self.turn(self.machine(process)),
            Op::Project { process } => {
                let machine = self.machine(process);
                if let Some(process) = self.machines[machine].awake() {
                    process.projection.step().map_err(|e| e.to_string())?;
                }
            }
            Op::Freeze { process, which } => {
                let machine = self.machine(process);
                if let Some(process) = self.machines[machine].awake()
                    && !process.engine.is_empty()
                {
                    let which = usize::from(which) % process.engine.len();
                    if let Some(Some(partition)) = process.engine.values_mut().nth(which) {
                        partition.checkpoint_now();
                    }
                }
            }
            Op::WriteCheckpoint { process } => {
                let machine = self.machine(process);
                if let Some(process) = self.machines[machine].awake() {
                    process.checkpointer.step();
                }
            }
            Op::Snapshot { which } => {
                let (role, partition) = self.role_and_partition(which);
                let disk = &self.machines[self.owners[&(role, partition)]].disk;
                if disk.has(role, partition) {
                    self.snapshots.insert((role, partition), disk.snapshot(role, partition));
                }
            }
            Op::Land { queue, count } => self.medium.land(queue, count),
            Op::LandAll => drop(self.medium.land_all()),
            Op::TimeOut { queue } => self.medium.time_out(queue),
            Op::Refuse { queue } => self.medium.refuse(queue),
            Op::Reply { which, reply } => self.reply(usize::from(which), reply),
            Op::Kill { process, kept, lost_batches } => self.kill(self.machine(process), (kept, lost_batches)),
            Op::Start { process } => {
                let machine = self.machine(process);
                if self.machines[machine].process.is_none() {
                    return self.start(machine);
                }
            }
            Op::Move { role, partition, to, orderly } => {
                let (partition, to) = (u32::from(partition) % self.partitions, self.machine(to));
                return self.hand_over((role, partition), to, orderly);
            }
            Op::Sleep { process } => {
                let machine = self.machine(process);
                self.machines[machine].asleep |= self.machines[machine].process.is_some();
            }
            Op::Wake { process } => self.wake(self.machine(process)),
            Op::Learn { process } => self.learn(self.machine(process)),
            Op::DiskError { after, which } => self.medium.trouble(u64::from(after), which),
            Op::DiskRoom { megabytes: 0 } => self.medium.room(None),
            Op::DiskRoom { megabytes } => self.medium.room(Some(u64::from(megabytes) << 20)),
            Op::Flip { file, byte, bit } => return self.flip((file, byte, bit)),
            Op::Calm { check } => {
                self.rest()?;
                if check {
                    crate::check::all(self)?;
                }
                self.generation += 1;
            }
        }
        if self.medium.has_failed() {
            // The process ends of itself.
            self.kill(0, (0, 0));
        }
        self.observe()
    }

    /// A clock so far behind, also behind what it has stamped itself, that
    /// partitions may refuse to decide.
    fn is_behind(&self, machine: usize) -> bool {
        let own = self.now + self.machines[machine].wall_off_ms;
        own < self.now.max(self.furthest) - 60_000
    }

    fn machine(&self, process: u8) -> usize {
        usize::from(process) % self.machines.len()
    }

    fn role_and_partition(&self, which: u8) -> (Role, u32) {
        let role = if which.is_multiple_of(2) { Role::Engine } else { Role::Delivery };
        (role, u32::from(which / 2) % self.partitions)
    }

    fn pass(&mut self, ms: Millis) {
        self.now += ms;
        self.medium.set_now(self.now);
        for machine in &mut self.machines {
            machine.clock.pass(Duration::from_millis(ms.unsigned_abs()));
            machine.clock.set_wall(self.now + machine.wall_off_ms);
        }
        self.look_how_far();
    }

    fn look_how_far(&mut self) {
        if self.medium.is_on_disk() {
            let ahead = self.machines.iter().map(|machine| self.now + machine.wall_off_ms).max();
            self.furthest = self.furthest.max(ahead.unwrap_or(0));
        }
    }

    /// The engine's stores, by partition.
    pub fn engine_stores(&self) -> Vec<Arc<Store>> {
        (0..self.partitions)
            .map(|p| self.machines[self.owners[&(Role::Engine, p)]].disk.store(Role::Engine, p))
            .collect()
    }
}
