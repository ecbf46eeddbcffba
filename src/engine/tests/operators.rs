//! What stops a partition, and an operator's way out: clocks, records that end the
//! process, topics that have lost records.

use super::*;
use crate::engine::families;
use askwhen_domain::time::{DAY, HOUR, MINUTE};
use askwhen_domain::webhook::health::Health;
use askwhen_partition::Phase;
use askwhen_partition::attempts::Attempts;
use askwhen_partition::{Progress, WaitReason};
use askwhen_wire::record::{AcceptTime, EndpointHealthReport, Skip};

const NOON: i64 = 20 * MINUTE;
const USER: &str = "u1";

fn home() -> u32 {
    id::partition_of(USER, PARTITIONS)
}

fn attributes(world: &World, name: &str) {
    world.user(USER, json!({"type": "attributes", "user_id": USER, "attributes": {name: true}}), false);
}

fn knows(part: &mut Partition<Engine>, world: &World, name: &str) -> bool {
    part.checkpoint_now();
    while !part.settle() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let key = askwhen_store::keys::named("default", USER);
    let stored = world.stores[home() as usize].get(families::USERS, &key).expect("readable");
    stored.is_some_and(|bytes| askwhen_wire::state::decode(&bytes).expect("a state").attributes.contains_key(name))
}

fn step_all(part: &mut Partition<Engine>) {
    while part.step().expect("it steps") == Progress::Worked {}
}

fn waits(opened: Result<(Partition<Engine>, Arc<Status>), StopReason>) -> (WaitReason, String) {
    match opened {
        Err(StopReason::Waits { on, why }) => (on, why),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it must not open"),
    }
}

#[test]
fn a_clock_that_goes_back_stops_the_partition_until_it_is_right() {
    let world = World::new(1 << 20);
    let clock = Clock::simulated(NOON);
    world.log.set_now(NOON);
    let (mut part, status) = world.take_up(home(), &clock, None).expect("it opens");
    attributes(&world, "first");
    step_all(&mut part);
    assert!(knows(&mut part, &world, "first"));
    // A little is nothing.
    clock.set_wall(NOON - 4 * MINUTE);
    attributes(&world, "second");
    step_all(&mut part);
    assert!(knows(&mut part, &world, "second"));
    for back in [6 * MINUTE, HOUR, 3_650 * DAY] {
        clock.set_wall(NOON - back);
        assert!(status.is_behind(&clock), "before the partition has seen it");
        attributes(&world, "third");
        step_all(&mut part);
        assert!(!knows(&mut part, &world, "third"));
        assert!(status.is_behind(&clock));
        let Phase::Stopped { why, refused: false } = status.phase() else { panic!("{:?}", status.phase()) };
        assert!(why.contains("accept-time"), "{why}");
    }
    clock.set_wall(NOON);
    step_all(&mut part);
    assert!(knows(&mut part, &world, "third"));
    assert_eq!(status.phase(), Phase::Running);
    // What is in the journal already was taken when clocks were right.
    attributes(&world, "fourth");
    clock.set_wall(NOON - HOUR);
    drop(part);
    let (on, why) = waits(world.take_up(home(), &clock, None));
    assert!(on == WaitReason::Clock && why.contains("1970-01-01T00:20:00"), "{why}");
}

/// As one on a full disk: whoever takes the partition up again waits until nothing
/// is being written any more, which must come to an end.
#[test]
fn a_checkpoint_that_cannot_be_written_stops_the_partition_and_is_over() {
    let world = World::new(1 << 20);
    let clock = Clock::simulated(NOON);
    world.log.set_now(NOON);
    let Store::Memory(store) = &*world.stores[home() as usize] else { panic!("in memory") };
    let (mut part, _) = world.take_up(home(), &clock, None).expect("it opens");
    attributes(&world, "first");
    step_all(&mut part);
    store.set_full(true);
    part.checkpoint_now();
    let stop = loop {
        match part.step() {
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(stop) => break stop,
        }
    };
    assert!(matches!(&stop, StopReason::Restart(why) if why.to_string().contains("No space left")), "{stop}");
    assert!(!part.is_writing());
    drop(part);
    store.set_full(false);
    let (mut part, _) = world.take_up(home(), &clock, None).expect("it opens");
    step_all(&mut part);
    assert!(knows(&mut part, &world, "first"));
}

/// A jump forwards and back leaves times that are yet to come.
#[test]
fn accepting_the_time_lets_the_journal_go_on_from_it_once() {
    let mut world = World::new(1 << 20);
    world.log.set_now(NOON);
    world.define(20, Kind::Survey, "s", &survey(0));
    let ahead = 3_650 * DAY;
    world.log.set_now(NOON + ahead);
    // Offered at the wrong time, to somebody who will come again.
    world.user(USER, json!({"user_id": USER, "event_name": "woke"}), false);
    world.user(USER, json!({"type": "trigger", "user_id": USER, "trigger": "Main"}), false);
    world.settle();
    let clock = Clock::simulated(NOON + MINUTE);
    world.checkpoint(home() as usize);
    waits(world.take_up(home(), &clock, None));
    world.log.set_now(NOON + MINUTE);
    let accept = |world: &World, asked_at: i64, request_id: &str| {
        let accept = AcceptTime { asked_at, request_id: request_id.into() };
        world.internal(home(), &Internal::AcceptTime(accept));
    };
    // One that was asked for long ago is a copy.
    accept(&world, NOON - HOUR, "old");
    waits(world.take_up(home(), &clock, None));
    accept(&world, NOON + MINUTE, "now");
    let (mut part, _) = world.take_up(home(), &clock, None).expect("it opens");
    step_all(&mut part);
    // New events arm, and triggers are answered at the right time.
    world.log.set_now(NOON + 20 * MINUTE);
    clock.set_wall(NOON + 20 * MINUTE);
    for user in ["u2", "u3", "u4", "u5", USER] {
        if id::partition_of(user, PARTITIONS) == home() {
            world.user(user, json!({"user_id": user, "event_name": "woke"}), false);
            world.user(user, json!({"type": "trigger", "user_id": user, "trigger": "Main"}), false);
        }
    }
    step_all(&mut part);
    let decisions =
        world.log.read(TopicPartition { topic: Topic::Decisions, partition: home() }, 0, usize::MAX).expect("readable");
    let last: serde_json::Value = serde_json::from_slice(decisions.last().unwrap().value.as_deref().unwrap()).unwrap();
    assert_eq!(last["decided_at"], "1970-01-01T00:40:00.000Z", "{last}");
    // The same request again changes nothing: time does not go back to it.
    world.log.set_now(NOON + 2 * MINUTE);
    accept(&world, NOON + MINUTE, "now");
    step_all(&mut part);
    part.checkpoint_now();
    while !part.settle() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let meta = askwhen_partition::checkpoint::CheckpointMeta::load(&world.stores[home() as usize])
        .expect("readable")
        .expect("written");
    assert_eq!(meta.now, NOON + 20 * MINUTE);
    drop(part);
    // From the beginning it comes to the same.
    let (outputs, _) = world.outputs();
    assert_eq!(World::replay(&world, 1 << 20).0.len(), outputs.len());
}

/// What [`Attempts`] are for: the process ends while it applies a record.
fn die_at(folder: &std::path::Path, offset: u64, times: u32) {
    for _ in 0..times {
        let attempts = Attempts::open(&folder.join(format!("{}.attempt", home()))).expect("a file");
        attempts.begin(offset, offset + 1).expect("written");
    }
}

#[test]
fn the_third_death_at_a_record_stops_its_partition_until_it_is_skipped() {
    let mut world = World::new(1 << 20);
    world.log.set_now(NOON);
    let (clock, folder) = (Clock::simulated(NOON), tempfile::tempdir().expect("a folder"));
    attributes(&world, "before");
    attributes(&world, "poison");
    attributes(&world, "behind");
    let poison = 1;
    die_at(folder.path(), poison, 2);
    assert!(world.take_up(home(), &clock, Some(folder.path())).is_ok(), "twice is chance");
    die_at(folder.path(), poison, 3);
    let (on, why) = waits(world.take_up(home(), &clock, Some(folder.path())));
    assert_eq!(on, WaitReason::Skip { topic: Topic::Events, offset: poison });
    assert!(why.contains(&format!("askwhen skip events/{}@{poison}", home())), "{why}");
    // Only a record of askwhen's own skips, and only one that stands before it.
    let skip = |offset| Internal::Skip(Skip { offset, asked_at: NOON, request_id: format!("skip-{offset}") });
    let forged = world.signer().internal((home() + 1) % PARTITIONS, "k", &skip(poison));
    world.append(home(), forged);
    world.internal(home(), &skip(100));
    waits(world.take_up(home(), &clock, Some(folder.path())));
    world.internal(home(), &skip(poison));
    let (mut part, _) = world.take_up(home(), &clock, Some(folder.path())).expect("it goes on");
    step_all(&mut part);
    assert!(knows(&mut part, &world, "behind") && knows(&mut part, &world, "before"));
    assert!(!knows(&mut part, &world, "poison"));
    drop(part);
    let (outputs, _) = world.outputs();
    let skipped: Vec<serde_json::Value> = outputs
        .iter()
        .filter(|((topic, _), value)| *topic == "rejects" && value.contains("\"skipped\""))
        .map(|(_, value)| serde_json::from_str(value).expect("JSON"))
        .collect();
    assert_eq!(skipped.len(), 1, "{outputs:?}");
    assert_eq!((skipped[0]["offset"].as_u64(), skipped[0]["topic"].as_str()), (Some(poison), Some("events")));
    use base64::Engine as _;
    let raw = base64::engine::general_purpose::STANDARD.decode(skipped[0]["raw"].as_str().unwrap()).expect("base64");
    assert_eq!(Some(&*raw), world.journal(home())[poison as usize].value.as_deref());
    // Whoever reads the journal from its beginning skips it too.
    let state = world.state();
    let replayed = World::replay(&world, 400);
    assert_eq!((replayed.0, replayed.1), (outputs, state));
}

/// A word that comes too late takes nothing back, and is not lost in silence.
#[test]
fn what_was_applied_is_not_skipped() {
    let mut world = World::new(1 << 20);
    attributes(&world, "kept");
    world.settle();
    world.internal(home(), &Internal::Skip(Skip { offset: 0, asked_at: 0, request_id: "late".into() }));
    world.settle();
    let (outputs, _) = world.outputs();
    assert!(outputs.iter().any(|((topic, _), value)| *topic == "rejects" && value.contains("too_late")), "{outputs:?}");
    world.checkpoint(home() as usize);
    let key = askwhen_store::keys::named("default", USER);
    assert!(world.stores[home() as usize].get(families::USERS, &key).expect("readable").is_some());
}

#[test]
fn a_topic_that_has_lost_records_is_refused_by_its_name() {
    let mut world = World::new(1 << 20);
    world.define(1_000, Kind::Survey, "s", &survey(0));
    world.define(
        1_001,
        Kind::Endpoint,
        "crm",
        &json!({"endpoint_id": "crm", "url": "https://crm.example/hook", "profile": "standard"}),
    );
    world.user(USER, json!({"user_id": USER, "event_name": "woke"}), false);
    world.user(USER, json!({"type": "trigger", "user_id": USER, "trigger": "Main"}), false);
    world.settle();
    let offer = world.last_offer(USER).expect("an offer");
    let answers = json!([{"question_id": "q", "value": "fine"}]);
    world.user(
        USER,
        json!({"type": "answers", "user_id": USER, "offer_id": offer, "answers": answers, "completed": true}),
        false,
    );
    world.append(home(), NewRecord { key: None, headers: Vec::new(), value: Some("{".into()) });
    world.settle();
    (0..PARTITIONS as usize).for_each(|p| world.checkpoint(p));
    let clock = Clock::new();
    assert!(world.take_up(home(), &clock, None).is_ok());
    for topic in [Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects] {
        let at = TopicPartition { topic, partition: home() % topic.partitions(PARTITIONS) };
        let kept = world.log.bounds(at).end;
        if kept == 0 {
            continue;
        }
        let lost = world.log.cut(at, kept - 1);
        let refused = world.take_up(home(), &clock, None).err().expect("a refusal");
        let StopReason::Refused(why) = refused else { panic!("{topic:?}: {refused}") };
        let why = why.to_string();
        assert!(why.contains(topic.name()) && why.contains("backup"), "{why}");
        world.log.put_back(at, lost);
        assert!(world.take_up(home(), &clock, None).is_ok(), "{topic:?}");
    }
}

/// What the engine offers can always be looked up.
#[test]
fn lost_definitions_are_written_again_as_they_were() {
    let mut world = World::new(1 << 20);
    world.log.set_now(NOON);
    let define = |world: &World, n: u32, id: &str, priority: u8| {
        let mut body = survey(priority);
        body["survey_id"] = id.into();
        world.define(n, Kind::Survey, id, &body);
    };
    define(&world, 20, "a", 0);
    define(&world, 21, "b", 0);
    let endpoint =
        json!({"endpoint_id": "crm", "url": "https://crm.example", "events": ["response.*"], "surveys": ["*"]});
    world.define(23, Kind::Endpoint, "crm", &endpoint);
    world.settle();
    for (health, by) in [(Health::anew(NOON - 1), "a"), (Health::anew(NOON), "b")] {
        let (project, endpoint_id, by) = ("default".into(), "crm".into(), by.into());
        let report = EndpointHealthReport { project, endpoint_id, health, by, reported_at: NOON, seq: None };
        world.internal(0, &Internal::EndpointHealthReport(report));
        world.settle();
    }
    world.log.set_now(NOON + MINUTE);
    define(&world, 22, "a", 1);
    world.settle();
    world.checkpoint(0);
    let at = TopicPartition { topic: Topic::Definitions, partition: 0 };
    let before = world.log.read(at, 0, usize::MAX).expect("readable");
    let newest = |records: &[Record]| -> BTreeMap<String, (String, String, String)> {
        let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
        let row = |record: &Record| {
            let value = text(record.value.as_ref().expect("a value"));
            let id = text(record.header(ID_HEADER).expect("an id"));
            let source = text(record.header(askwhen_wire::topics::SOURCE_HEADER).expect("a source"));
            (text(record.key.as_ref().expect("a key")), (value, id, source))
        };
        // Versions are for the eye: those that are lost stay lost.
        let is_version =
            |record: &&Record| record.key.as_deref().is_some_and(|key| key.starts_with(b"survey_version/"));
        records.iter().filter(|record| !is_version(record)).map(row).collect()
    };
    for kept in 0..before.len() as u64 {
        world.log.cut(at, kept);
        world.crash();
        world.settle();
        let after = world.log.read(at, 0, usize::MAX).expect("readable");
        assert_eq!(newest(&after), newest(&before), "{kept} records were left");
        // Nothing is written a second time.
        world.crash();
        world.settle();
        assert_eq!(world.log.read(at, 0, usize::MAX).expect("readable").len(), after.len());
        world.log.cut(at, 0);
        world.log.put_back(at, before.clone());
    }
}
