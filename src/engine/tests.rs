//! The engine on the simulated log: other batch sizes, checkpoints and crash
//! points give the same outputs and the same state. One thread, one seed.

use crate::engine::families;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_log::{Ack, Log, NewRecord, Record, Simulated, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::Checkpointer;
use askwhen_partition::{Handles, Partition, Replies, Setup, Signer, Status};
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Batch, Memory, Store};
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{AliasRequest, BOUND_MAC_HEADER, Define, Erase, Internal, MAC_HEADER};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::ID_HEADER;

const PARTITIONS: u32 = 2;
/// Every topic that the engine writes to.
const OUTPUTS: [Topic; 6] =
    [Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects, Topic::Definitions];

fn key() -> ClusterKey {
    ClusterKey::new([3; 32])
}

mod aliases;
mod aliases_at_once;
mod caps;
mod captured;
mod operators;

/// Contents by topic and id.
type FoundOutputs = BTreeMap<(&'static str, String), String>;
/// Keys and values of the stores.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// The process's memory; the log and the stores outlive it.
struct Process {
    parts: Vec<Partition<Engine>>,
}

struct World {
    log: Arc<Simulated>,
    stores: Vec<Arc<Store>>,
    process: Process,
    step_bytes: usize,
}

fn boot(log: &Arc<Simulated>, stores: &[Arc<Store>], step_bytes: usize) -> Process {
    let checkpointer = Checkpointer::start().expect("a thread");
    let mut setup = Setup::new(Log::Simulated(log.clone()), Clock::new(), key(), Replies::default(), checkpointer);
    setup.step_bytes = step_bytes;
    setup.checkpoint_every = Duration::from_secs(3_600);
    let partitions = stores.len() as u32;
    let open = |(partition, store): (u32, &Arc<Store>)| {
        let engine = Engine::open(store.clone(), partition, partitions, 4).expect("a readable store");
        let handles = Handles { notify: Arc::new(Notify::default()), status: Arc::new(Status::default()) };
        Partition::open(partition, setup.clone(), store.clone(), engine, LOGIC_VERSION, handles).expect("it opens")
    };
    Process { parts: (0..).zip(stores).map(open).collect() }
}

impl World {
    fn new(step_bytes: usize) -> World {
        World::of(PARTITIONS, step_bytes)
    }

    fn of(partitions: u32, step_bytes: usize) -> World {
        World::on(Arc::new(Simulated::new(77, partitions)), partitions, step_bytes)
    }

    fn on(log: Arc<Simulated>, partitions: u32, step_bytes: usize) -> World {
        let stores: Vec<Arc<Store>> = (0..partitions).map(|_| Arc::new(Store::Memory(Memory::default()))).collect();
        let process = boot(&log, &stores, step_bytes);
        World { log, stores, process, step_bytes }
    }

    fn partitions(&self) -> u32 {
        self.stores.len() as u32
    }

    fn append(&self, partition: u32, new: NewRecord) {
        let (sender, _) = tokio::sync::oneshot::channel();
        self.log.append(TopicPartition { topic: Topic::Events, partition }, vec![new], Ack::Once(sender));
    }

    fn user(&self, user_id: &str, value: serde_json::Value, misplaced: bool) {
        let owner = id::partition_of(user_id, self.partitions());
        let partition = if misplaced { (owner + 1) % self.partitions() } else { owner };
        let value = Some(value.to_string().into());
        self.append(partition, NewRecord { key: Some(user_id.to_owned().into()), headers: Vec::new(), value });
    }

    fn define(&self, n: u32, kind: Kind, id: &str, body: &serde_json::Value) {
        self.define_at(if n < 1_000 { i64::from(n) * 60_000 } else { 0 }, n, kind, (id, body));
    }

    fn define_at(&self, asked_at: i64, n: u32, kind: Kind, (id, body): (&str, &serde_json::Value)) {
        let define = Internal::Define(Define {
            project: "default".into(),
            kind,
            id: id.into(),
            body: Some(Json::of(body)),
            new_secret: None,
            if_match: None,
            create: false,
            asked_at,
            request_id: format!("r{n}"),
            actor: None,
        });
        self.internal(0, &define);
    }

    fn internal(&self, partition: u32, internal: &Internal) {
        self.append(partition, self.signer().internal(partition, "k", internal));
    }

    fn signer(&self) -> Signer {
        Signer::new(&Log::Simulated(self.log.clone()), &key())
    }

    /// Every record of a partition of the journal.
    fn journal(&self, partition: u32) -> Vec<Record> {
        self.log.read(TopicPartition { topic: Topic::Events, partition }, 0, usize::MAX).expect("readable")
    }

    /// Takes up a partition as another process would, with a clock and a folder for
    /// notes of its own.
    fn take_up(
        &self,
        partition: u32,
        clock: &Clock,
        attempts: Option<&std::path::Path>,
    ) -> Result<(Partition<Engine>, Arc<Status>), StopReason> {
        let checkpointer = Checkpointer::start().expect("a thread");
        let log = Log::Simulated(self.log.clone());
        let mut setup = Setup::new(log, clock.clone(), key(), Replies::default(), checkpointer);
        setup.checkpoint_every = Duration::from_secs(3_600);
        setup.attempts = attempts.map(Into::into);
        let store = self.stores[partition as usize].clone();
        let engine = Engine::open(store.clone(), partition, self.partitions(), 4).expect("readable");
        let status = Arc::new(Status::default());
        let handles = Handles { notify: Arc::new(Notify::default()), status: status.clone() };
        let opened = Partition::open(partition, setup, store, engine, LOGIC_VERSION, handles)?;
        Ok((opened, status))
    }

    fn erase(&self, user_id: &str, asked_at: i64, request_id: &str) {
        let partition = id::partition_of(user_id, self.partitions());
        let (user_id, request_id) = (user_id.to_owned(), request_id.to_owned());
        let erase = Erase { project: "default".into(), user_id, asked_at, request_id };
        self.internal(partition, &Internal::Erase(erase));
    }

    fn alias(&self, user_id: &str, alias: &str, asked_at: i64, request_id: &str) {
        let partition = id::partition_of(user_id, self.partitions());
        let (user_id, alias, request_id) = (user_id.to_owned(), alias.to_owned(), request_id.to_owned());
        let request = AliasRequest { project: "default".into(), user_id, alias, asked_at, request_id };
        self.internal(partition, &Internal::Alias(request));
    }

    /// The user's newest offer that the log tells of.
    fn last_offer(&self, user_id: &str) -> Option<String> {
        let at = TopicPartition { topic: Topic::Decisions, partition: id::partition_of(user_id, self.partitions()) };
        let records = self.log.read(at, 0, usize::MAX).expect("readable");
        let offers = records.iter().filter_map(|record| {
            let decision: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
            let whose = decision["user_id"] == user_id;
            decision["survey"]["offer_id"].as_str().filter(|_| whose).map(str::to_owned)
        });
        offers.last()
    }

    /// Steps everything until nothing moves.
    fn settle(&mut self) {
        self.log.sync();
        while self.turn() {}
    }

    /// One step of each partition; returns whether any had something to do.
    fn turn(&mut self) -> bool {
        let mut worked = false;
        for part in &mut self.process.parts {
            worked |= part.step().expect("the simulated log works") == askwhen_partition::Progress::Worked;
        }
        self.log.sync();
        worked
    }

    fn checkpoint(&mut self, partition: usize) {
        let part = &mut self.process.parts[partition];
        part.checkpoint_now();
        for _ in 0..2_000 {
            if part.settle() {
                return;
            }
            self.log.sync();
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the checkpoint did not settle");
    }

    fn crash(&mut self) {
        self.log.crash();
        self.process = boot(&self.log, &self.stores, self.step_bytes);
    }

    /// Outputs by topic and id, each once however often it was written.
    fn outputs(&self) -> (FoundOutputs, usize) {
        let mut found = BTreeMap::new();
        let mut written = 0;
        for topic in OUTPUTS {
            for partition in 0..topic.partitions(self.partitions()) {
                for record in self.log.read(TopicPartition { topic, partition }, 0, usize::MAX).expect("readable") {
                    written += 1;
                    let id =
                        String::from_utf8_lossy(record.header(ID_HEADER).expect("every output has an id")).into_owned();
                    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                    let before = found.insert((topic.name(), id), value.clone());
                    assert!(before.is_none_or(|before| before == value), "one id, two contents");
                }
            }
        }
        (found, written)
    }

    fn state(&mut self) -> Rows {
        (0..self.partitions() as usize).for_each(|p| self.checkpoint(p));
        let mut all = Vec::new();
        for store in &self.stores {
            for family in [families::USERS, families::DEFINITIONS, families::QUOTAS] {
                all.extend(store.ascending(family, &[], usize::MAX).expect("readable"));
            }
        }
        all
    }
}

#[derive(Debug, Clone)]
enum Op {
    Event { user: u8, id: u8, misplaced: bool },
    Ask { user: u8, session: u8 },
    Answer { user: u8 },
    Erase { user: u8 },
    Alias { user: u8, alias: u8 },
    Junk,
    Resurvey { priority: u8 },
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Settle,
    Checkpoint(u8),
    Crash,
    HalfStep(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..6u8, 0..40u8, prop::bool::weighted(0.2)).prop_map(|(user, id, misplaced)| Op::Event { user, id, misplaced }),
        5 => (0..6u8, 0..3u8).prop_map(|(user, session)| Op::Ask { user, session }),
        3 => (0..6u8).prop_map(|user| Op::Answer { user }),
        1 => (0..6u8).prop_map(|user| Op::Erase { user }),
        1 => (0..6u8, 0..6u8).prop_map(|(user, alias)| Op::Alias { user, alias }),
        1 => Just(Op::Junk),
        1 => (0..5u8).prop_map(|priority| Op::Resurvey { priority }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        2 => Just(Fault::Settle),
        2 => (0..PARTITIONS as u8).prop_map(Fault::Checkpoint),
        2 => Just(Fault::Crash),
        2 => (0..PARTITIONS as u8).prop_map(Fault::HalfStep),
    ]
}

/// A survey whose rules differ by its priority; 0 has the simplest.
fn survey(priority: u8) -> serde_json::Value {
    let activate = match priority {
        0 => json!({"event": "woke"}),
        1 => json!({"event": "woke", "count": {"at_least": 2, "within": "20m"}}),
        2 => json!({"sequence": {"steps": [{"event": "slept"}, {"event": "woke"}], "within": "30m"}}),
        3 => json!({"all": [{"event": "slept"}, {"event": "woke"}], "within": "30m"}),
        _ => json!({"absence": {"after": {"event": "woke"}, "without": {"event": "slept"}, "for": "2m"}}),
    };
    let limit = if priority % 2 == 1 { json!(u32::from(priority) * 3) } else { json!(null) };
    let caps = match priority {
        2 => json!([{"count": "displayed", "max": 2, "within": "30m"}, {"count": "completed", "max": 3}]),
        4 => json!([{"count": "completed", "max": 3}]),
        _ => json!([]),
    };
    let cancel_on = if priority == 0 { json!([{"event": "slept"}]) } else { json!([]) };
    json!({"survey_id": "s", "name": "S", "status": "active", "priority": priority, "activate": activate, "expires_after": "2h",
        "cancel_on": cancel_on, "sampling": {"percent": 70}, "limits": {"max_completed": limit, "caps": caps}, "schedule": {"hours": ["00:00", "23:00"]},
        "targeting": {"any": [{"survey": "s", "did": "displayed"}, {"not": {"attribute": "out", "op": "exists"}}]},
        "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"},
        "questions": [{"question_id": "q", "type": "text", "text": "?"}]})
}

fn perform(world: &World, n: u32, op: &Op) {
    perform_at(world, n, i64::from(n) * 60_000, op);
}

fn perform_at(world: &World, n: u32, now: i64, op: &Op) {
    world.log.set_now(now);
    match op {
        Op::Event { user, id, misplaced } => {
            let user = format!("u{user}");
            world.user(&user, json!({"user_id": user, "event_name": if id % 3 == 0 { "slept" } else { "woke" }, "event_id": format!("e{id}")}), *misplaced);
        }
        Op::Ask { user, session } => {
            let user = format!("u{user}");
            let context = json!({"session_id": format!("s{session}")});
            world.user(
                &user,
                json!({"type": "trigger", "user_id": user, "trigger": "Main", "context": context}),
                false,
            );
        }
        Op::Answer { user } => {
            let user = format!("u{user}");
            if let Some(offer) = world.last_offer(&user) {
                let answers = json!([{"question_id": "q", "value": "fine"}]);
                world.user(
                    &user,
                    json!({"type": "answers", "user_id": user, "offer_id": offer, "answers": answers, "completed": true}),
                    false,
                );
            }
        }
        Op::Erase { user } => {
            world.erase(&format!("u{user}"), now, &format!("erase-{n}"));
        }
        Op::Alias { user, alias } => world.alias(&format!("u{user}"), &format!("u{alias}"), now, &format!("alias-{n}")),
        Op::Junk => world.append(1, NewRecord { key: None, headers: Vec::new(), value: Some("{".into()) }),
        Op::Resurvey { priority } => world.define_at(now, n, Kind::Survey, ("s", &survey(*priority))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// The first run decides what the journal is; the second reads the very
    /// same journal in other steps, with crashes anywhere.
    #[test]
    fn redoing_gives_the_same_ids_bytes_and_state(
        ops in prop::collection::vec(op(), 1..60),
        faults in prop::collection::vec(fault(), 60),
        step_bytes in prop_oneof![Just(1usize), Just(400), Just(1 << 20)],
    ) {
        let mut world = World::new(step_bytes);
        world.define(1_000, Kind::Survey, "s", &survey(0));
        world.settle();
        for (n, (op, fault)) in (0..).zip(ops.iter().zip(&faults)) {
            perform(&world, n, op);
            world.log.hold();
            match fault {
                Fault::None => {}
                Fault::Settle => world.settle(),
                Fault::Checkpoint(p) => { world.settle(); world.checkpoint(usize::from(*p)); }
                // Applied, but what it put out is lost with the process.
                Fault::HalfStep(p) => {
                    world.log.sync();
                    world.process.parts[usize::from(*p)].step().expect("it steps");
                    world.crash();
                }
                Fault::Crash => { world.log.sync(); world.crash(); }
            }
            world.log.sync();
        }
        world.settle();
        let (outputs, written) = world.outputs();
        prop_assert_eq!(outputs.len(), written, "no output stands in the log twice");
        let state = world.state();

        // The same journal, read from its beginning by nobody who ever crashed.
        let fresh = World::replay(&world, 1 << 20);
        prop_assert_eq!(fresh.0, outputs);
        prop_assert_eq!(fresh.1, state);
    }
}

impl World {
    /// Copies the journal of a world into a fresh one and reads it in one go.
    /// Forwards are in the journal already; the copy's own are dropped as known.
    fn replay(other: &World, step_bytes: usize) -> (FoundOutputs, Rows) {
        let mut world = World::new(step_bytes);
        for partition in 0..PARTITIONS {
            let at = TopicPartition { topic: Topic::Events, partition };
            for record in other.log.read(at, 0, usize::MAX).expect("readable") {
                world.log.set_now(record.appended_at);
                let new = NewRecord { key: record.key, headers: record.headers, value: record.value };
                world.append(partition, new);
            }
        }
        // Taken up as it stands: what an operator skips is known beforehand.
        world.crash();
        world.settle();
        let (outputs, _) = world.outputs();
        let state = world.state();
        (outputs, state)
    }
}

#[test]
fn forged_internal_records_are_rejects() {
    let mut world = World::new(1 << 20);
    let define = json!({"type": "internal", "internal": {"define": {}}});
    world.append(0, NewRecord { key: Some("k".into()), headers: Vec::new(), value: Some(define.to_string().into()) });
    let forged = NewRecord { key: Some("k".into()), headers: Vec::new(), value: Some(define.to_string().into()) };
    world.append(0, forged.clone().header(MAC_HEADER, "00".repeat(32)));
    world.append(0, forged.header(BOUND_MAC_HEADER, "00".repeat(32)));
    world.settle();
    let (outputs, _) = world.outputs();
    assert_eq!(outputs.len(), 3);
    assert!(outputs.iter().all(|((topic, _), value)| *topic == "rejects" && value.contains("\"forged\"")));
}

#[test]
fn a_failed_output_restarts_the_partition_and_loses_nothing() {
    let mut world = World::new(1 << 20);
    world.define(1, Kind::Survey, "s", &survey(0));
    world.settle();
    let user = "u1";
    let partition = id::partition_of(user, PARTITIONS);
    let decisions = TopicPartition { topic: Topic::Decisions, partition };
    world.log.fail(decisions, true);
    world.user(user, json!({"type": "trigger", "user_id": user, "trigger": "Main"}), false);
    let part = &mut world.process.parts[partition as usize];
    let failed = (0..3).find_map(|_| part.step().err());
    assert!(matches!(failed, Some(askwhen_partition::StopReason::Restart(_))), "{failed:?}");
    world.log.fail(decisions, false);
    world.crash();
    world.settle();
    let (outputs, written) = world.outputs();
    assert_eq!(outputs.keys().filter(|(topic, _)| *topic == "decisions").count(), 1);
    assert_eq!(outputs.len(), written);
}

#[test]
fn a_log_that_lost_its_end_is_refused() {
    let mut world = World::new(1 << 20);
    world.user("u1", json!({"user_id": "u1", "event_name": "woke"}), false);
    world.settle();
    (0..PARTITIONS as usize).for_each(|p| world.checkpoint(p));
    let empty = Arc::new(Simulated::new(77, PARTITIONS));
    let partition = id::partition_of("u1", PARTITIONS);
    let checkpointer = Checkpointer::start().expect("a thread");
    let setup = Setup::new(Log::Simulated(empty), Clock::new(), key(), Replies::default(), checkpointer);
    let store = world.stores[partition as usize].clone();
    let engine = Engine::open(store.clone(), partition, PARTITIONS, 4).expect("readable");
    let handles = Handles { notify: Arc::new(Notify::default()), status: Arc::new(Status::default()) };
    match Partition::open(partition, setup, store, engine, LOGIC_VERSION, handles) {
        Err(askwhen_partition::StopReason::Refused(why)) => assert!(why.to_string().contains("lost its end"), "{why}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it must not open"),
    }
}

fn reopen(
    world: &World,
    log: Arc<Simulated>,
    partition: u32,
    logic_version: u32,
) -> Result<(), askwhen_partition::StopReason> {
    let checkpointer = Checkpointer::start().expect("a thread");
    let setup = Setup::new(Log::Simulated(log), Clock::new(), key(), Replies::default(), checkpointer);
    let store = world.stores[partition as usize].clone();
    let engine = Engine::open(store.clone(), partition, PARTITIONS, 4).expect("readable");
    let handles = Handles { notify: Arc::new(Notify::default()), status: Arc::new(Status::default()) };
    Partition::open(partition, setup, store, engine, logic_version, handles).map(|_| ())
}

#[test]
fn other_rules_than_the_stores_are_refused() {
    let mut world = World::new(1 << 20);
    world.user("u1", json!({"user_id": "u1", "event_name": "woke"}), false);
    world.settle();
    let partition = id::partition_of("u1", PARTITIONS);
    world.checkpoint(partition as usize);
    assert!(reopen(&world, world.log.clone(), partition, LOGIC_VERSION).is_ok());
    // As 0.1.0 wrote it: these rules go on from it.
    rewrite_checkpoint(&world, partition, |meta| {
        let members = meta.as_object_mut().expect("an object");
        for new in ["bound_macs_from", "skipped", "accepted_times", "program"] {
            members.remove(new).expect("a member");
        }
        meta["logic_version"] = 4.into();
    });
    assert!(reopen(&world, world.log.clone(), partition, LOGIC_VERSION).is_ok());
    // A later version's, whatever else it holds.
    rewrite_checkpoint(&world, partition, |meta| {
        *meta = json!({"logic_version": LOGIC_VERSION + 1, "program": "9.9.9", "all": "else is new"});
    });
    let refused = reopen(&world, world.log.clone(), partition, LOGIC_VERSION).expect_err("later rules");
    let StopReason::Refused(why) = refused else { panic!("{refused}") };
    let why = why.to_string();
    for named in ["9.9.9", env!("CARGO_PKG_VERSION"), &(LOGIC_VERSION + 1).to_string(), &LOGIC_VERSION.to_string()] {
        assert!(why.contains(named), "{named} is not in: {why}");
    }
    // One that was never released.
    rewrite_checkpoint(&world, partition, |meta| {
        *meta = serde_json::to_value(askwhen_partition::checkpoint::CheckpointMeta::new(77, PARTITIONS, 2))
            .expect("it serialises");
    });
    let refused = reopen(&world, world.log.clone(), partition, LOGIC_VERSION).expect_err("unknown rules");
    assert!(matches!(refused, StopReason::Refused(ref why) if why.to_string().contains("version 2")), "{refused}");
    // What is no checkpoint at all is damage: the state is made anew.
    rewrite_checkpoint(&world, partition, |meta| *meta = json!({"logic_version": LOGIC_VERSION}));
    let damaged = reopen(&world, world.log.clone(), partition, LOGIC_VERSION).expect_err("no checkpoint");
    assert!(matches!(damaged, StopReason::Damaged(_)), "{damaged}");
}

fn rewrite_checkpoint(world: &World, partition: u32, change: impl FnOnce(&mut serde_json::Value)) {
    let store = &world.stores[partition as usize];
    let bytes = store.get(families::META, b"checkpoint").expect("readable").expect("written");
    let mut meta = serde_json::from_slice(&bytes).expect("JSON");
    change(&mut meta);
    let mut batch = Batch::default();
    batch.put(families::META, b"checkpoint", meta.to_string());
    store.write(batch).expect("written");
}

/// The store lags, so only the outputs know that the journal was longer.
#[test]
fn a_journal_cut_below_its_outputs_is_refused() {
    let mut world = World::new(1 << 20);
    let user = "u1";
    let partition = id::partition_of(user, PARTITIONS);
    world.user(user, json!({"type": "trigger", "user_id": user, "trigger": "Main"}), false);
    world.settle();
    let cut = Arc::new(Simulated::new(77, PARTITIONS));
    let decisions = TopicPartition { topic: Topic::Decisions, partition };
    for record in world.log.read(decisions, 0, usize::MAX).expect("readable") {
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: record.key, headers: record.headers, value: record.value };
        cut.append(decisions, vec![new], Ack::Once(sender));
    }
    let refused = reopen(&world, cut, partition, LOGIC_VERSION).expect_err("the journal is shorter than its outputs");
    assert!(
        matches!(refused, askwhen_partition::StopReason::Refused(ref why) if why.to_string().contains("lost its end")),
        "{refused}"
    );
}

/// An idle partition emptied by retention keeps its offsets.
#[test]
fn an_emptied_journal_goes_on_where_it_was() {
    let mut world = World::new(1 << 20);
    let user = "u1";
    let partition = id::partition_of(user, PARTITIONS);
    let journal = TopicPartition { topic: Topic::Events, partition };
    world.user(user, json!({"user_id": user, "event_name": "woke"}), false);
    world.settle();
    world.checkpoint(partition as usize);
    let end = world.log.bounds(journal).end;
    world.log.trim(journal, 1);
    assert_eq!((world.log.bounds(journal).start, world.log.bounds(journal).end), (end, end));
    world.crash();
    world.user(user, json!({"type": "trigger", "user_id": user, "trigger": "Main"}), false);
    world.settle();
    assert_eq!(world.outputs().0.keys().filter(|(topic, _)| *topic == "decisions").count(), 1);
}
