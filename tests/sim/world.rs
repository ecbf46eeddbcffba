//! Machines around one log, with their clients and receivers: performs one
//! operation after the other, and looks at what can be seen at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use askwhen::delivery::{SimulatedAttempt, SimulatedReply};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id;
use askwhen_domain::time::Millis;
use askwhen_log::{Ack, AppendedRange, NewRecord, TopicPartition};
use askwhen_partition::Signer;
use askwhen_partition::Stop;
use askwhen_store::Store;
use askwhen_wire::record::{Erase, Internal};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptRecord, DeliveryRecord, SOURCE_HEADER, Source};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::bodies::{self, EVENTS, SURVEYS, trigger_of};
use crate::machine::{Machine, key};
use crate::medium::{INCARNATION, Medium};
use crate::ops::{Op, Reply, Role};

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
    /// Deliveries that have ended on record, and when that was seen.
    ended: BTreeMap<String, usize>,
    erased: BTreeMap<String, Vec<Erased>>,
    observed: BTreeMap<TopicPartition, u64>,
}

impl World {
    /// # Errors
    /// When the beginning itself does not work.
    pub fn new(Shape { partitions, machines, on_disk, seed }: Shape) -> Result<World, String> {
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

    // Clients.

    fn append(&mut self, partition: u32, new: NewRecord, repeatable: bool) {
        let at = TopicPartition { topic: Topic::Events, partition };
        let (sender, receiver) = oneshot::channel();
        // Else nobody listens.
        let Some(bridge) = self.medium.bridge() else { return };
        bridge.append(at, vec![new.clone()], Ack::Once(sender));
        self.unanswered.push(self.requests.len());
        self.requests.push(Request {
            at,
            new,
            answer: Some(receiver),
            outcome: None,
            generation: self.generation,
            repeatable,
            asked_at_step: self.step,
            told_at_step: 0,
        });
    }

    fn internal(&mut self, partition: u32, internal: &Internal) {
        let new = signer().internal(partition, "k", internal);
        self.append(partition, new, false);
    }

    fn user_record(&mut self, user_id: &str, value: &Value, misplaced: bool) {
        let owner = id::partition_of(user_id, self.partitions);
        let partition = if misplaced { (owner + 1) % self.partitions } else { owner };
        let value = Some(value.to_string().into());
        let key = Some(user_id.to_owned().into());
        self.append(partition, NewRecord { key, headers: Vec::new(), value }, true);
    }

    /// Some users are asked of quotas alone: they may have to wait for a grant.
    fn user(&self, user: u8, scarce: bool) -> String {
        let kind = if scarce { "q" } else { "u" };
        format!("{kind}{}-{}", self.generation, user % 7)
    }

    fn offer(&self, user: &str, which: u8) -> Option<String> {
        let offers = self.offers.get(user)?;
        offers.len().checked_sub(1 + usize::from(which)).map(|at| offers[at].clone())
    }

    fn ask(&mut self, op: Op) {
        self.next_request += 1;
        let n = self.next_request;
        match op {
            Op::Event { user, name, id, misplaced } => {
                let user = self.user(user, user % 4 == 3);
                let (name, id) = (EVENTS[usize::from(name) % EVENTS.len()], id % 48);
                let value = json!({"user_id": user, "event_name": name, "event_id": format!("{name}{id}")});
                self.user_record(&user, &value, misplaced);
            }
            Op::Ask { user, survey } => {
                let which = usize::from(survey) % (SURVEYS.len() + 1);
                let scarce = SURVEYS.get(which).is_none_or(|survey| *survey == bodies::SCARCE);
                let user = self.user(user, scarce);
                let trigger = SURVEYS.get(which).map_or("T-noise".to_owned(), |survey| trigger_of(survey));
                let value = json!({"type": "trigger", "user_id": user, "trigger": trigger, "event_id": format!("t{n}"),
                    "context": {"session_id": "s"}});
                self.user_record(&user, &value, false);
            }
            Op::Displayed { user, which } => self.about_offer(user, which, "displayed", &json!({})),
            Op::Dismissed { user, which } => self.about_offer(user, which, "dismissed", &json!({})),
            Op::Answer { user, which, completed } => {
                let answers = json!([{"question_id": "q", "value": format!("a{}", n % 3)}]);
                self.about_offer(user, which, "answers", &json!({"answers": answers, "completed": completed}));
            }
            Op::Attributes { user } => {
                let user = self.user(user, false);
                let value = json!({"type": "attributes", "user_id": user, "attributes": {"plan": n % 3}});
                self.user_record(&user, &value, false);
            }
            Op::Erase { user } => {
                let user_id = self.user(user, user % 3 == 2);
                let partition = id::partition_of(&user_id, self.partitions);
                let erase = self.erase(user_id);
                self.internal(partition, &erase);
            }
            Op::Again { which } => {
                let from_end = usize::from(which) + 1;
                if let Some(request) = self.requests.len().checked_sub(from_end).map(|at| &self.requests[at])
                    && request.repeatable
                    && request.generation == self.generation
                {
                    let (partition, new) = (request.at.partition, request.new.clone());
                    self.append(partition, new, true);
                }
            }
            Op::Define { variant } => self.internal(0, &bodies::define_noise(variant, (self.now, n))),
            Op::Endpoint { variant } => self.internal(0, &bodies::define_endpoint(variant, (self.now, n))),
            Op::Junk { partition, variant } => self.junk(u32::from(partition) % self.partitions, variant),
            _ => unreachable!("not a request"),
        }
    }

    fn about_offer(&mut self, user: u8, which: u8, kind: &str, more: &Value) {
        let user = self.user(user, user.is_multiple_of(3));
        let Some(offer) = self.offer(&user, which) else { return };
        let mut value = json!({"type": kind, "user_id": user, "offer_id": offer});
        for (name, member) in more.as_object().into_iter().flatten() {
            value[name] = member.clone();
        }
        self.user_record(&user, &value, false);
    }

    fn erase(&self, user_id: String) -> Internal {
        let request_id = format!("erase-{}", self.requests.len());
        Internal::Erase(Erase { project: bodies::PROJECT.into(), user_id, asked_at: self.now, request_id })
    }

    fn junk(&mut self, partition: u32, variant: u8) {
        let user_id = self.user(variant, false);
        let signed = signer().internal(partition, "k", &self.erase(user_id));
        let forged = match variant % 4 {
            0 => NewRecord { key: None, headers: Vec::new(), value: Some("{".into()) },
            1 => NewRecord { key: None, headers: Vec::new(), value: None },
            // Without its MAC, or with one of another record.
            2 => NewRecord { headers: Vec::new(), ..signed },
            _ => NewRecord { key: Some("other".into()), ..signed },
        };
        self.append(partition, forged.header(FORGED, "1"), false);
    }

    // Processes.

    fn start(&mut self, machine: usize) -> Result<(), String> {
        let client = self.next_client;
        self.next_client += 1;
        let log = match self.medium.open(&self.machines[machine].clock, client) {
            Ok(log) => log,
            Err(error @ askwhen_log::Error::Damaged { .. }) => {
                return Err(format!("P1: the log does not start: {error}"));
            }
            // The disk refuses; it is tried again.
            Err(_) => {
                self.machines[machine].process = None;
                self.medium.die(client, (0, false, false));
                return Ok(());
            }
        };
        self.machines[machine].start(log, client)?;
        let owned: Vec<_> = self.owners.iter().filter(|(_, of)| **of == machine).map(|(what, _)| *what).collect();
        owned.into_iter().try_for_each(|what| self.take(what, machine))
    }

    /// A machine opens what it owns; what is not there comes from a snapshot.
    fn take(&mut self, (role, partition): (Role, u32), machine: usize) -> Result<(), String> {
        let behind = self.is_behind(machine);
        let to = &mut self.machines[machine];
        if !to.disk.has(role, partition)
            && let Some(snapshot) = self.snapshots.get(&(role, partition))
        {
            to.disk.restore((role, partition), snapshot);
        }
        let Some(process) = &mut to.process else { return Ok(()) };
        process.lost.remove(&(role, partition));
        match role {
            Role::Delivery => process.take_delivery(partition),
            Role::Engine => allowed(process.open_engine(partition), behind)?,
        }
        Ok(())
    }

    fn kill(&mut self, machine: usize, (kept, lost_batches): (u8, u8)) {
        let Some(process) = &self.machines[machine].process else { return };
        let client = process.client;
        self.interrupt(client);
        let late = kept == 3 && self.machines.len() > 1;
        // What is written late is written by nobody's owner.
        self.zombies |= self.medium.die(client, (kept, late, lost_batches > 0));
        self.machines[machine].kill(usize::from(lost_batches));
    }

    /// While nobody runs, a bit flips; afterwards all goes on as it was.
    fn flip(&mut self, what: (u8, u32, u8)) -> Result<(), String> {
        if !self.medium.is_disk() {
            return Ok(());
        }
        self.medium.heal();
        self.kill(0, (1, 0));
        self.medium.die(0, (1, false, false));
        self.medium.flip(&self.machines[0].clock, what)?;
        self.start(0)
    }

    /// What a client has sent and nobody has on record may be sent again.
    fn interrupt(&mut self, client: u32) {
        let before = self.unrecorded.len();
        self.unrecorded.retain(|_, of| *of != client);
        self.interrupted += before - self.unrecorded.len();
    }

    fn hand_over(&mut self, what: (Role, u32), to: usize, orderly: bool) -> Result<(), String> {
        let from = self.owners[&what];
        if from == to || self.machines[to].asleep || self.machines[to].process.is_none() {
            return Ok(());
        }
        if self.machines[from].asleep {
            // The group has given up on it; it does not know.
            if orderly {
                return Ok(());
            }
            self.zombies = true;
            if let Some(process) = &mut self.machines[from].process {
                process.lost.insert(what);
                let client = process.client;
                self.interrupt(client);
            }
        } else if self.machines[from].process.is_some() {
            self.give_up(what, from, orderly)?;
        }
        self.owners.insert(what, to);
        self.take(what, to)
    }

    /// An orderly leave settles and checkpoints; a lost lease just ends.
    fn give_up(&mut self, (role, partition): (Role, u32), from: usize, settle: bool) -> Result<(), String> {
        // What was on its way arrives behind what the next owner writes.
        self.zombies |= !settle;
        let client = self.machines[from].process.as_ref().map_or(0, |process| process.client);
        self.interrupt(client);
        let machine = &mut self.machines[from];
        let Some(process) = &mut machine.process else { return Ok(()) };
        match role {
            Role::Engine => {
                if let Some(Some(mut open)) = process.engine.remove(&partition) {
                    open.stop_reading();
                    if settle {
                        open.checkpoint_now();
                        for _ in 0..10 {
                            self.medium.land_all();
                            process.checkpointer.step();
                            if open.settle() {
                                break;
                            }
                        }
                    }
                }
                if settle {
                    let store = machine.disk.snapshot(role, partition);
                    self.snapshots.insert((role, partition), store);
                }
            }
            Role::Delivery => {
                process.owned.remove(&partition);
                let gone = process.delivery.release(partition, settle);
                process.delivery.turn();
                let is_gone = || gone.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
                if !is_gone() {
                    // What is still on its way is not waited for any longer.
                    machine.clock.pass(Duration::from_secs(6));
                    process.delivery.turn();
                    machine.clock.set_wall(self.now + machine.wall_off_ms);
                }
                if !is_gone() {
                    return Err("a partition of the delivery is not given up".into());
                }
                let sent = process.outbox.take();
                sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))?;
            }
        }
        Ok(())
    }

    fn wake(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        machine.asleep = false;
        if let Some(process) = &machine.process
            && !process.lost.is_empty()
        {
            process.fresh.store(false, Ordering::Release);
        }
    }

    fn learn(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        if machine.asleep {
            return;
        }
        let Some(process) = &mut machine.process else { return };
        for (role, partition) in std::mem::take(&mut process.lost) {
            match role {
                Role::Engine => drop(process.engine.remove(&partition)),
                Role::Delivery => {
                    process.owned.remove(&partition);
                    drop(process.delivery.release(partition, false));
                    process.delivery.turn();
                }
            }
        }
        process.fresh.store(true, Ordering::Release);
    }

    fn step_engine(&mut self, machine: usize, which: u8) -> Result<(), String> {
        let behind = self.is_behind(machine);
        let machine = &mut self.machines[machine];
        let Some(process) = machine.awake() else { return Ok(()) };
        if process.engine.is_empty() {
            return Ok(());
        }
        let which = usize::from(which) % process.engine.len();
        let (partition, open) = process.engine.iter_mut().nth(which).expect("below its length");
        let partition = *partition;
        let Some(open) = open else { return allowed(process.open_engine(partition), behind) };
        if let Err(stop) = open.step() {
            process.engine.insert(partition, None);
            return allowed(Err(stop), behind);
        }
        Ok(())
    }

    fn turn(&mut self, machine: usize) -> Result<(), String> {
        let Some(process) = self.machines[machine].awake() else { return Ok(()) };
        let client = process.client;
        let (sent, _) = process.turn();
        sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))
    }

    // Receivers.

    fn arrive(&mut self, client: u32, attempt: SimulatedAttempt) -> Result<(), String> {
        let delivery = attempt.delivery();
        let id = &delivery.delivery_id;
        let about = format!("attempt {} of {id} ({})", attempt.number(), delivery.message.kind.name());
        if attempt.started_at < attempt.due_at() && !self.stepped {
            return Err(format!("{about} was sent before it was due"));
        }
        if !self.zombies {
            if let Some(at_step) = self.ended.get(id) {
                return Err(format!("{about} was sent after its end, seen at step {at_step}"));
            }
            let source = Source::parse(attempt.source().as_bytes());
            let erased = self.erased.get(&delivery.user_id).into_iter().flatten().find(|erased| {
                let before = source.is_some_and(|source| {
                    source.partition == erased.source.partition && source.offset < erased.source.offset
                });
                before && erased.at_step < self.step && delivery.message.kind != EventType::Erased
            });
            if erased.is_some() {
                return Err(format!("{about} was sent after its user was erased"));
            }
        }
        self.unrecorded.insert((id.clone(), attempt.number()), client);
        self.arrivals.push(Arrival {
            delivery_id: id.clone(),
            message_id: delivery.message_id.clone(),
            endpoint_id: delivery.endpoint_id.clone(),
            attempt: attempt.number(),
            body: attempt.body.clone(),
        });
        self.pending.push((client, attempt));
        Ok(())
    }

    fn reply(&mut self, which: usize, reply: Reply) {
        if self.pending.is_empty() {
            return;
        }
        let (client, attempt) = self.pending.remove(which % self.pending.len());
        let status = |code, retry_after| SimulatedReply::Status { code, retry_after };
        let reply = match reply {
            Reply::Fine => status(200, None),
            Reply::Busy => status(429, Some(90_000)),
            Reply::Broken => status(500, None),
            Reply::Refused => status(400, None),
            Reply::Gone => status(410, None),
            Reply::Hang => SimulatedReply::Hang,
            Reply::Drop => SimulatedReply::Drop,
        };
        let of = self.machines.iter().find(|m| m.process.as_ref().is_some_and(|p| p.client == client));
        let now = of.map_or(self.now, |machine| machine.clock.now());
        attempt.end(reply, now);
    }

    // What can be seen.

    /// Reads on in the topics that tell of offers, ends and erasures, and takes
    /// the answers to requests.
    fn observe(&mut self) -> Result<(), String> {
        let (requests, step) = (&mut self.requests, self.step);
        self.unanswered.retain(|n| {
            let request = &mut requests[*n];
            match request.answer.as_mut().map(oneshot::Receiver::try_recv) {
                Some(Err(oneshot::error::TryRecvError::Empty)) => true,
                Some(Ok(outcome)) => {
                    (request.outcome, request.told_at_step) = (Some(outcome), step);
                    false
                }
                Some(Err(oneshot::error::TryRecvError::Closed)) | None => false,
            }
        });
        for partition in 0..self.partitions {
            for topic in [Topic::Decisions, Topic::Attempts, Topic::Deliveries] {
                self.observe_one(TopicPartition { topic, partition })?;
            }
        }
        Ok(())
    }

    fn observe_one(&mut self, at: TopicPartition) -> Result<(), String> {
        let next = self.observed.get(&at).copied().unwrap_or(0);
        if self.medium.bounds(at).is_none_or(|bounds| next >= bounds.end) {
            return Ok(());
        }
        for record in self.medium.read(at, next) {
            self.observed.insert(at, record.offset + 1);
            let bytes = record.value.as_deref().unwrap_or_default();
            match at.topic {
                Topic::Decisions => {
                    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    let user = value["user_id"].as_str().unwrap_or_default().to_owned();
                    if let Some(offer) = value["survey"]["offer_id"].as_str() {
                        let offers = self.offers.entry(user).or_default();
                        if offers.last().is_none_or(|last| last != offer) {
                            offers.push(offer.to_owned());
                        }
                    }
                }
                Topic::Attempts => {
                    let attempt: AttemptRecord = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    self.unrecorded.remove(&(attempt.delivery_id.clone(), attempt.attempt));
                    if attempt.ended.is_some() {
                        self.ended.entry(attempt.delivery_id).or_insert(self.step);
                    }
                }
                _ => {
                    let record_of = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                    let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
                    if let (DeliveryRecord::CancelUser { user_id, .. }, Some(source)) = (record_of, source) {
                        self.erased.entry(user_id).or_default().push(Erased { source, at_step: self.step });
                    }
                }
            }
        }
        Ok(())
    }

    // Rest.

    /// Heals everything and lets it run until nothing is left to do.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub fn rest(&mut self) -> Result<(), String> {
        self.medium.heal();
        if self.medium.has_failed() {
            self.kill(0, (0, 0));
        }
        for machine in &mut self.machines {
            machine.wall_off_ms = 0;
        }
        // A clock that was ahead has stamped the journal of a disk: its partitions
        // wait until time has come there.
        self.pass((self.furthest - self.now).max(0));
        for machine in 0..self.machines.len() {
            self.wake(machine);
            self.learn(machine);
            if self.machines[machine].process.is_none() {
                self.start(machine)?;
            }
        }
        let (mut idle, mut quiet) = (0, 0);
        for _ in 0..20_000 {
            self.step += 1;
            self.observe()?;
            if self.round()? {
                (idle, quiet) = (0, 0);
                continue;
            }
            idle += 1;
            if idle < 2 {
                continue;
            }
            let next_due = self.next_due();
            quiet = if next_due.is_none() && self.waiting()?.is_empty() { quiet + 1 } else { 0 };
            // Whoever waits for a grant would have been served meanwhile.
            if quiet == 4 {
                self.checkpoint_all()?;
                return self.observe();
            }
            // What is left waits for its time.
            let wait = next_due.map_or(1_000, |due| (due - self.now).clamp(600, 3_600_000));
            self.pass(wait);
            idle = 0;
        }
        Err(format!("it does not come to rest; deliveries that wait: {:?}", self.waiting()?))
    }

    fn round(&mut self) -> Result<bool, String> {
        let mut worked = self.medium.land_all();
        for machine in 0..self.machines.len() {
            let Some(process) = self.machines[machine].awake() else { continue };
            let partitions: Vec<u32> = process.engine.keys().copied().collect();
            for partition in partitions {
                let stepped = match process.engine.get_mut(&partition).and_then(Option::as_mut) {
                    None => process.open_engine(partition).map(|()| true),
                    Some(open) => open.step().map(|progress| progress == askwhen_partition::Progress::Worked),
                };
                match stepped {
                    Ok(some) => worked |= some,
                    Err(Stop::Restart(_)) => {
                        worked = true;
                        process.engine.insert(partition, None);
                    }
                    // It goes on when its clock is right.
                    Err(Stop::Waits { .. }) => {}
                    Err(stop) => return Err(format!("partition {partition} has stopped: {stop}")),
                }
            }
            worked |= process.checkpointer.step();
            worked |= process.projection.step().map_err(|e| e.to_string())?;
            let client = process.client;
            let (sent, busy) = process.turn();
            worked |= busy;
            sent.into_iter().try_for_each(|attempt| self.arrive(client, attempt))?;
        }
        while !self.pending.is_empty() {
            worked = true;
            self.reply(0, Reply::Fine);
        }
        Ok(worked)
    }

    fn next_due(&self) -> Option<Millis> {
        let processes = self.machines.iter().filter_map(|machine| machine.process.as_ref());
        processes.filter_map(|process| process.status.next_due()).min()
    }

    /// Deliveries that have not ended, and requests that wait for a grant.
    fn waiting(&self) -> Result<Vec<String>, String> {
        let mut waiting = Vec::new();
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            for partition in &process.owned {
                let rows = process.delivery.waiting(*partition).map_err(|e| e.to_string())?;
                waiting.extend(rows.into_iter().map(|row| {
                    let (id, endpoint) = (row.delivery.delivery_id, row.delivery.endpoint_id);
                    format!(
                        "{id} to {endpoint} {:?} since {} ms, attempts {}",
                        row.phase,
                        self.now - row.due_at,
                        row.attempt
                    )
                }));
            }
        }
        Ok(waiting)
    }

    fn checkpoint_all(&mut self) -> Result<(), String> {
        for machine in 0..self.machines.len() {
            let Some(process) = self.machines[machine].awake() else { continue };
            for (partition, open) in &mut process.engine {
                let Some(open) = open else { return Err(format!("partition {partition} is not open")) };
                let mut settled = false;
                for _ in 0..10 {
                    if !settled {
                        open.checkpoint_now();
                    }
                    self.medium.land_all();
                    process.checkpointer.step();
                    settled = open.settle();
                }
                if !settled {
                    return Err(format!("the checkpoint of partition {partition} does not settle"));
                }
            }
        }
        Ok(())
    }

    /// The engine's stores, by partition.
    pub fn engine_stores(&self) -> Vec<Arc<Store>> {
        (0..self.partitions)
            .map(|p| self.machines[self.owners[&(Role::Engine, p)]].disk.store(Role::Engine, p))
            .collect()
    }
}

/// A stop is legal while the clock is behind, and whenever work is to be done again.
fn allowed(done: Result<(), Stop>, behind: bool) -> Result<(), String> {
    match done {
        Ok(()) | Err(Stop::Restart(_)) => Ok(()),
        Err(_) if behind => Ok(()),
        Err(stop) => Err(format!("a partition has stopped: {stop}")),
    }
}
