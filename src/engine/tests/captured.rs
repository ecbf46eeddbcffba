//! Whoever may read and write the journal, and has no key: records of askwhen's
//! own that are written once more, somewhere, have no effect.

use super::*;
use askwhen_domain::webhook::endpoint::DisabledReason;
use askwhen_domain::webhook::health::Health;
use askwhen_wire::definition;
use askwhen_wire::record::{EndpointAction, EndpointCommand, EndpointHealthReport};

/// Records with a MAC, by the partition that they stand in.
fn captured(world: &World) -> Vec<(u32, NewRecord)> {
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        for record in world.journal(partition) {
            if record.header(BOUND_MAC_HEADER).is_some() || record.header(MAC_HEADER).is_some() {
                all.push((partition, NewRecord { key: record.key, headers: record.headers, value: record.value }));
            }
        }
    }
    all
}

fn endpoint() -> serde_json::Value {
    let body = json!({"endpoint_id": "crm", "url": "https://crm.example/hook", "events": ["*"]});
    let read = definition::endpoint(&body, Some("crm"), definition::Target::Trusted).expect("an endpoint");
    definition::endpoint_json(&read.endpoint)
}

/// What an endpoint has been told: ids of the deliveries and commands.
fn told(world: &World) -> Vec<String> {
    let (outputs, _) = world.outputs();
    outputs.into_keys().filter(|(topic, _)| *topic != "rejects").map(|(topic, id)| format!("{topic}/{id}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Every captured record, into every partition, at any place: nothing but
    /// rejects comes of it, and what is known stays what it was.
    #[test]
    fn a_captured_record_has_no_effect_anywhere(
        ops in prop::collection::vec(op(), 1..40),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(1 << 20);
        world.define(1_000, Kind::Survey, "s", &survey(0));
        world.define(1_001, Kind::Endpoint, "crm", &endpoint());
        world.settle();
        for (n, op) in (0..).zip(&ops) {
            // So close together that nothing is too old to be believed.
            perform_at(&world, n, i64::from(n), op);
            world.settle();
        }
        operate(&world, EndpointAction::Disable { reason: DisabledReason::Auto }, "o1");
        world.settle();
        report(&world, 100);
        world.settle();
        operate(&world, EndpointAction::Enable, "o2");
        world.settle();
        // Somebody comes back after an erasure.
        world.erase("u1", 100, "bye");
        world.user("u1", json!({"user_id": "u1", "event_name": "woke", "event_id": "back"}), false);
        world.user("u1", json!({"type": "attributes", "user_id": "u1", "attributes": {"plan": "pro"}}), false);
        world.settle();
        let (before, known) = (told(&world), world.state());
        let mut records = captured(&world);
        prop_assert!(records.len() >= 10);
        let turn = seed as usize % records.len();
        records.rotate_left(turn);
        for (_, new) in &records {
            (0..PARTITIONS).for_each(|partition| world.append(partition, new.clone()));
            if seed % 3 == 0 {
                world.settle();
            }
        }
        world.settle();
        prop_assert_eq!(told(&world), before);
        prop_assert_eq!(world.state(), known);
        // Genuine ones still come through, in every direction.
        world.define(1_002, Kind::Survey, "t", &{ let mut body = survey(0); body["survey_id"] = "t".into(); body });
        for user in ["u1", "u2", "u3", "u4"] {
            let value = json!({"type": "attributes", "user_id": user, "attributes": {"seen": true}});
            world.user(user, value, true);
        }
        world.settle();
        let rows = world.state();
        let text: Vec<String> = rows.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect();
        prop_assert_eq!(text.iter().filter(|key| key.ends_with("/t")).count(), PARTITIONS as usize);
        for (key, value) in &rows {
            let key = String::from_utf8_lossy(key).into_owned();
            if ["default\0u1", "default\0u2", "default\0u3", "default\0u4"].contains(&&*key) {
                let user = askwhen_wire::state::decode(value).expect("a state");
                // An alias has passed it on.
                prop_assert!(user.alias_of().is_some() || user.attributes.contains_key("seen"), "{}", key);
            }
        }
    }
}

fn operate(world: &World, act: EndpointAction, request_id: &str) {
    let (project, endpoint_id) = ("default".to_owned(), "crm".to_owned());
    let operate = EndpointCommand {
        project,
        endpoint_id,
        act,
        if_match: None,
        asked_at: 0,
        request_id: request_id.into(),
        actor: None,
    };
    world.internal(0, &Internal::EndpointCommand(operate));
}

fn report(world: &World, reported_at: i64) {
    let (project, endpoint_id, by) = ("default".to_owned(), "crm".to_owned(), "a process".to_owned());
    let health = Health::anew(reported_at);
    world.internal(
        0,
        &Internal::EndpointHealthReport(EndpointHealthReport {
            project,
            endpoint_id,
            health,
            by,
            reported_at,
            seq: None,
        }),
    );
}

fn rejects(world: &World) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for partition in 0..PARTITIONS {
        let at = TopicPartition { topic: Topic::Rejects, partition: partition % Topic::Rejects.partitions(PARTITIONS) };
        for record in world.log.read(at, 0, usize::MAX).expect("readable") {
            let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().expect("a value")).unwrap();
            all.push((value["offset"].as_u64().unwrap(), value["reason"].as_str().unwrap().to_owned()));
        }
    }
    all.sort();
    all.dedup();
    all
}

/// The inbox of the third partition is not moved on: the genuine record that
/// comes next is taken.
#[test]
fn a_captured_forward_is_forged_in_another_partition() {
    let mut world = World::new(1 << 20);
    world.define(1, Kind::Survey, "s", &survey(0));
    world.settle();
    let forward = captured(&world).into_iter().find(|(partition, _)| *partition == 1).expect("a forward").1;
    world.append(0, forward.clone());
    let place = world.journal(0).len() as u64 - 1;
    world.settle();
    assert_eq!(rejects(&world), [(place, "forged".to_owned())]);
    // Where it belongs it has been taken: it is a repetition.
    world.append(1, forward);
    world.settle();
    assert_eq!(rejects(&world).len(), 1);
}

#[test]
fn a_record_of_another_log_is_forged() {
    let other = World { log: Arc::new(Simulated::new(78, PARTITIONS)), ..World::new(1 << 20) };
    other.erase("u1", 0, "bye");
    other.define(1, Kind::Survey, "s", &survey(0));
    let mut world = World::new(1 << 20);
    world.user("u1", json!({"type": "attributes", "user_id": "u1", "attributes": {"plan": "pro"}}), false);
    world.settle();
    let known = world.state();
    for (partition, new) in captured(&other) {
        world.append(partition, new);
    }
    world.settle();
    assert_eq!(world.state(), known);
    assert!(rejects(&world).iter().all(|(_, reason)| reason == "forged"));
    assert_eq!(rejects(&world).len(), 2);
}

/// As version 0.1.0 signs.
fn unbound(internal: &Internal) -> NewRecord {
    let value = askwhen_wire::record::encode_internal(internal);
    let mac = key().sign_record(b"k", &value);
    let new = NewRecord { key: Some("k".into()), headers: Vec::new(), value: Some(value.into()) };
    new.header(MAC_HEADER, mac)
}

/// A log that version 0.1.0 has founded: its MACs count until the journal says
/// that they do not, and not where one pleases.
#[test]
fn macs_that_name_no_place_count_up_to_a_record_of_the_journal() {
    let partition = id::partition_of("u1", PARTITIONS);
    let erase = |request_id: &str| {
        let (project, user_id, request_id) = ("default".to_owned(), "u1".to_owned(), request_id.to_owned());
        unbound(&Internal::Erase(Erase { project, user_id, asked_at: 0, request_id }))
    };
    let attributes = json!({"type": "attributes", "user_id": "u1", "attributes": {"plan": "pro"}});
    let users = |world: &mut World| world.state().iter().filter(|(key, _)| key.ends_with(b"\0u1")).count();
    // A log of this version never takes them.
    let mut world = World::new(1 << 20);
    world.user("u1", attributes.clone(), false);
    world.append(partition, erase("a"));
    world.settle();
    assert_eq!((users(&mut world), rejects(&world).len()), (1, 1));
    // An old one does, before this version has come to rest on it.
    let old = || {
        let log = Arc::new(Simulated::new(77, PARTITIONS));
        log.make_old();
        World::on(log, PARTITIONS, 1 << 20)
    };
    let mut world = old();
    world.user("u1", attributes.clone(), false);
    world.append(partition, erase("a"));
    world.settle();
    assert_eq!((users(&mut world), rejects(&world).len()), (0, 0));
    assert!(world.journal(partition).len() > 2, "the journal says so by now");
    world.user("u1", attributes, false);
    world.append(partition, erase("b"));
    world.settle();
    assert_eq!((users(&mut world), rejects(&world).len()), (1, 1));
    // Whoever reads it from the beginning comes to the same, and so does a restart.
    world.crash();
    world.settle();
    assert_eq!(users(&mut world), 1);
    let (outputs, state) = (world.outputs().0, world.state());
    let mut again = old();
    for partition in 0..PARTITIONS {
        for record in world.journal(partition) {
            again.append(partition, NewRecord { key: record.key, headers: record.headers, value: record.value });
        }
    }
    again.settle();
    assert_eq!((again.outputs().0, again.state()), (outputs, state));
}

/// The same request, and the same user of whom nothing has been heard since.
#[test]
fn an_erasure_is_told_once() {
    let mut world = World::new(1 << 20);
    world.define(1_000, Kind::Endpoint, "crm", &endpoint());
    world.user("u1", json!({"type": "attributes", "user_id": "u1", "attributes": {"plan": "pro"}}), false);
    let erased = |world: &World| {
        let (outputs, _) = world.outputs();
        outputs
            .into_iter()
            .filter(|((topic, _), value)| *topic == "deliveries" && value.contains("user.erased"))
            .count()
    };
    world.erase("u1", 0, "a");
    world.settle();
    assert_eq!(erased(&world), 1);
    world.erase("u1", 0, "a");
    world.erase("u1", 1, "b");
    world.settle();
    world.crash();
    world.erase("u1", 2, "c");
    world.settle();
    assert_eq!(erased(&world), 1, "nothing has been heard of them since");
    world.user("u1", json!({"type": "attributes", "user_id": "u1", "attributes": {"plan": "free"}}), false);
    world.erase("u1", 1, "b");
    world.settle();
    assert_eq!(erased(&world), 1, "a copy erases nobody who has come back");
    world.erase("u1", 3, "d");
    world.settle();
    assert_eq!(erased(&world), 2);
}
