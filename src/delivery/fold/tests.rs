//! The fold of topics that crashes have cut short.

use super::*;
use crate::delivery::families;
use askwhen_domain::json::Json;
use askwhen_domain::time::SECOND;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{Data, Message};
use askwhen_log::{Ack, NewRecord, Simulated};
use askwhen_store::{Family, Memory};
use askwhen_wire::error::Class;
use askwhen_wire::topics::{self, DeadRecord, Outcome};

struct World {
    log: Arc<Simulated>,
    store: Arc<Store>,
}

impl World {
    fn new() -> World {
        World { log: Arc::new(Simulated::new(1, 1)), store: Arc::new(Store::Memory(Memory::default())) }
    }

    fn write(&self, topic: Topic, value: Vec<u8>) {
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: None, headers: Vec::new(), value: Some(value.into()) };
        self.log.append(TopicPartition { topic, partition: 0 }, vec![new], Ack::Once(sender));
    }

    /// As after a start: everything that the topics say is folded.
    fn fold(&self) -> Fold {
        let log = Log::Simulated(self.log.clone());
        let mut fold = Fold::open(0, &log, self.store.clone(), Arc::default()).expect("it opens");
        fold.catch_up(&log, |_| Ok(())).expect("it reads");
        fold
    }
}

fn delivery(id: &str) -> Delivery {
    let data = Data {
        response_id: "r".into(),
        survey_id: "s".into(),
        survey_name: "S".into(),
        survey_version: 1,
        project: "default".into(),
        user_id: "ann".into(),
        user_attributes: Json::empty_object(),
        link: false,
        platform: None,
        locale: None,
        trigger: "Main".into(),
        trigger_properties: Json::empty_object(),
        activation: None,
        answers: Vec::new(),
        completed: true,
        test: false,
        created_at: 0,
        updated_at: 0,
    };
    Delivery {
        delivery_id: id.into(),
        message_id: "m".into(),
        endpoint_id: "e".into(),
        project: "default".into(),
        user_id: "ann".into(),
        survey_id: Some("s".into()),
        created_at: 0,
        message: Message { kind: EventType::Completed, at: 0, data: Some(data) },
        test_for: None,
        not_before: None,
    }
}

fn attempt(id: &str, number: u32, next_due_at: Option<Millis>, ended: Option<AttemptEnd>) -> Vec<u8> {
    topics::encode(&AttemptRecord {
        delivery_id: id.into(),
        message_id: "m".into(),
        endpoint_id: "e".into(),
        project: "default".into(),
        user_id: "ann".into(),
        survey_id: None,
        attempt: number,
        attempts_before: 0,
        uncounted: 0,
        started_at: 10,
        duration_ms: 1,
        http_status: Some(500),
        outcome: Outcome::BadStatus,
        error: None,
        response: None,
        first_started_at: 10,
        next_due_at,
        ended,
        reason: ended.map(|_| "max_age".into()),
        signed: None,
    })
}

fn retry(id: &str, attempt: u32, due_at: Millis) -> Vec<u8> {
    let delivery = Box::new(delivery(id));
    let source = String::new();
    topics::encode(&RetryRecord { delivery, attempt, due_at, first_started_at: 10, source, uncounted: 0 })
}

fn deliver(id: &str) -> Vec<u8> {
    topics::encode(&DeliveryRecord::Deliver(Box::new(delivery(id))))
}

/// When the deliveries of every line are due.
fn due(fold: &mut Fold) -> Vec<Millis> {
    let queue_ids = fold.queue_ids().expect("readable");
    let of = |(queue_id, _): &(u64, Millis)| fold.due(*queue_id, &[], i64::MAX, 10).expect("readable").0;
    queue_ids.iter().flat_map(of).map(|due| split(&due.key).1).collect()
}

#[test]
fn a_crash_between_an_attempt_and_its_retry_record_owes_the_latter() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Attempts, attempt("d", 1, Some(5_000), None));
    let mut fold = world.fold();
    let missing = fold.missing().expect("readable");
    assert_eq!(missing.len(), 1);
    assert_eq!((missing[0].attempt, &missing[0].phase), (1, &DeliveryPhase::RetryMissing { next_due_at: 5_000 }));
    assert!(fold.queue_ids().expect("readable").is_empty(), "nothing is sent before it is on record");
    // The record is written, its acknowledgement lost, and it is written again.
    world.write(Topic::Retry1m, retry("d", 1, 5_000));
    world.write(Topic::Retry1m, retry("d", 1, 5_000));
    let mut fold = world.fold();
    assert!(fold.missing().expect("readable").is_empty());
    assert_eq!(due(&mut fold), [5_000], "one chain, not two");
}

#[test]
fn a_crash_before_the_dead_record_owes_it_and_an_end_is_final() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Attempts, attempt("d", 1, None, Some(AttemptEnd::Dead)));
    assert!(matches!(world.fold().missing().expect("readable")[0].phase, DeliveryPhase::DeadMissing { .. }));
    let dead = DeadRecord { delivery: Box::new(delivery("d")), attempts: 1, reason: "max_age".into(), died_at: 11 };
    world.write(Topic::Dead, topics::encode(&dead));
    // Copies of what came before it change nothing any more.
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Retry1m, retry("d", 7, 1));
    let mut fold = world.fold();
    assert_eq!((fold.find("d").expect("readable"), fold.open), (None, 0));
    assert!(due(&mut fold).is_empty());
}

#[test]
fn older_copies_of_attempts_and_retries_are_dropped() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    for (number, due) in [(1, 5_000), (2, 9_000)] {
        world.write(Topic::Attempts, attempt("d", number, Some(due), None));
        world.write(Topic::Retry1m, retry("d", number, due));
        world.fold();
    }
    world.write(Topic::Attempts, attempt("d", 1, Some(5_000), None));
    world.write(Topic::Retry1m, retry("d", 1, 5_000));
    let mut fold = world.fold();
    let row = fold.find("d").expect("readable").expect("it waits");
    assert_eq!((row.attempt, row.due_at, row.phase), (2, 9_000, DeliveryPhase::Due));
    assert_eq!(due(&mut fold), [9_000]);
}

#[test]
fn a_log_that_lost_its_end_is_not_folded() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.fold();
    let shorter = Log::Simulated(Arc::new(Simulated::new(1, 1)));
    assert!(matches!(Fold::open(0, &shorter, world.store.clone(), Arc::default()), Err(Error::StateMismatch(_))));
}

/// Every kind of record that the topics hold, about delivery `d` or its user.
fn every_record() -> Vec<(&'static str, Topic, Vec<u8>)> {
    let dead = DeadRecord { delivery: Box::new(delivery("d")), attempts: 1, reason: "max_age".into(), died_at: 11 };
    let erased = DeliveryRecord::CancelUser { project: "default".into(), user_id: "ann".into() };
    vec![
        ("the delivery again", Topic::Deliveries, deliver("d")),
        ("an erasure", Topic::Deliveries, topics::encode(&erased)),
        ("a failed attempt", Topic::Attempts, attempt("d", 1, Some(5_000), None)),
        ("a success", Topic::Attempts, attempt("d", 1, None, Some(AttemptEnd::Delivered))),
        ("a cancellation", Topic::Attempts, attempt("d", 0, None, Some(AttemptEnd::Cancelled))),
        ("the last attempt", Topic::Attempts, attempt("d", 1, None, Some(AttemptEnd::Dead))),
        ("a wait of a minute", Topic::Retry1m, retry("d", 1, 5_000)),
        ("a wait of an hour", Topic::Retry1h, retry("d", 1, 5_000)),
        ("a wait of a day", Topic::Retry1d, retry("d", 1, 5_000)),
        ("its death", Topic::Dead, topics::encode(&dead)),
    ]
}

fn is_damaged<T>(outcome: Result<T, impl Into<Error>>) -> bool {
    outcome.map_err(Into::into).is_err_and(|error: Error| error.class() == Class::Fatal)
}

impl World {
    fn spoil(&self, family: Family) {
        let entries = self.store.ascending(family, &[], 10).expect("readable");
        assert!(!entries.is_empty(), "{family:?} has something to spoil");
        let mut batch = Batch::default();
        for (key, value) in entries {
            // Cut short: no length that is left can be right.
            batch.put(family, key, value[..value.len().min(3) / 2].to_vec());
        }
        self.store.write(batch).expect("written");
    }

    fn reopened(&self) -> Result<Fold, Error> {
        Fold::open(0, &Log::Simulated(self.log.clone()), self.store.clone(), Arc::default())
    }
}

#[test]
fn no_record_becomes_a_reject_because_a_stored_row_is_unreadable() {
    for (what, topic, value) in every_record() {
        let mut world = World::new();
        world.write(Topic::Deliveries, deliver("d"));
        let mut fold = world.fold();
        world.spoil(families::WAITING);
        world.write(topic, value.clone());
        assert!(is_damaged(fold.step(0)), "{what}: the partition stops");
        assert!(fold.rejects.is_empty(), "{what}: it is not the record's fault");
        drop(fold);
        assert!(is_damaged(world.reopened()), "{what}: the store is not served");
        // Made again from the topics, it has taken the record.
        world.store = Arc::new(Store::Memory(Memory::default()));
        let fold = world.fold();
        assert!(fold.rejects.is_empty(), "{what}");
        let row = fold.find("d").expect("readable");
        match what {
            "the delivery again" => assert_eq!(row.map(|row| row.phase), Some(DeliveryPhase::Due)),
            "an erasure" => {
                let row = row.expect("its cancellation is to be written");
                assert!(
                    matches!(row.phase, DeliveryPhase::CancelMissing { .. }) && row.delivery.message.data.is_none()
                );
            }
            "a failed attempt" | "the last attempt" => assert_ne!(row.expect("it is known").phase, DeliveryPhase::Due),
            "a success" | "a cancellation" | "its death" => assert_eq!(row, None, "{what}"),
            _ => assert_eq!(row.map(|row| (row.attempt, row.due_at)), Some((1, 5_000)), "{what}"),
        }
    }
}

#[test]
fn a_store_with_an_unreadable_row_of_any_family_is_not_served() {
    for family in [families::WAITING, families::DUE, families::ENDPOINTS, families::META] {
        let world = World::new();
        let (project, endpoint_id) = ("default".into(), "e".into());
        let gone = DeliveryRecord::Endpoint { project, endpoint_id, version: 1, body: None };
        world.write(Topic::Deliveries, topics::encode(&gone));
        world.write(Topic::Deliveries, deliver("d"));
        let mut fold = world.fold();
        world.spoil(family);
        if family == families::DUE {
            let queue_id = index::queue_of(&delivery("d"));
            assert!(is_damaged(fold.due(queue_id, &[], i64::MAX, 10)), "also while it is served");
        }
        drop(fold);
        assert!(is_damaged(world.reopened()), "{family:?}");
    }
}

#[test]
fn what_waits_and_is_in_no_index_would_never_be_sent() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    drop(world.fold());
    let mut batch = Batch::default();
    batch.delete_range(families::DUE, [0], [0xff; 64]);
    world.store.write(batch).expect("written");
    assert!(is_damaged(world.reopened()));
}

#[test]
fn a_record_that_cannot_be_read_is_a_reject_and_the_next_one_is_taken() {
    for topic in TOPICS {
        let world = World::new();
        world.write(Topic::Deliveries, deliver("d"));
        for value in [&b""[..], b"{}", b"[1", b"{\"deliver\": 7}"] {
            world.write(topic, value.to_vec());
        }
        world.write(Topic::Deliveries, deliver("behind"));
        let fold = world.fold();
        assert_eq!((fold.rejects.len(), fold.open), (4, 2), "{topic:?}");
    }
}

#[test]
fn rows_of_version_0_1_0_are_read_and_its_reader_reads_what_is_written_now() {
    /// As version 0.1.0 stored it.
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct RowOfVersion010 {
        delivery: Delivery,
        attempt: u32,
        due_at: Millis,
        place: u64,
        source: String,
        first_started_at: Option<Millis>,
        phase: DeliveryPhase,
    }
    let phase = DeliveryPhase::RetryMissing { next_due_at: 7 };
    let row = PendingDelivery {
        delivery: delivery("d"),
        attempt: 4,
        due_at: 6,
        place: 5,
        source: "0/1/00000000".into(),
        first_started_at: Some(1),
        phase,
        uncounted: 0,
    };
    for uncounted in [0, 3] {
        let row = PendingDelivery { uncounted, ..row.clone() };
        let bytes = row.encode();
        assert_eq!(PendingDelivery::decode(b"d", &bytes).expect("readable"), row);
        let old: RowOfVersion010 = postcard::from_bytes(&bytes).expect("readable before");
        assert_eq!((&old.delivery, old.attempt, &old.phase), (&row.delivery, 4, &row.phase));
        if uncounted == 0 {
            assert_eq!(postcard::to_stdvec(&old).expect("it serialises"), bytes, "not a byte has changed");
        }
        assert!(is_damaged(PendingDelivery::decode(b"e", &bytes)), "of another delivery");
        assert!(is_damaged(PendingDelivery::decode(b"d", &[bytes.as_slice(), &[1, 1]].concat())));
    }
}

#[test]
fn an_erasure_takes_what_came_before_it_and_no_more_is_kept_than_its_record_needs() {
    let world = World::new();
    let sourced = |id: &str, offset: u64| {
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: None, headers: Vec::new(), value: Some(deliver(id).into()) };
        let new = new.header(SOURCE_HEADER, Source { partition: 0, offset, crc: 0 }.encode());
        world.log.append(TopicPartition { topic: Topic::Deliveries, partition: 0 }, vec![new], Ack::Once(sender));
    };
    let erase = |user: &str, offset: u64| {
        let record = DeliveryRecord::CancelUser { project: "default".into(), user_id: user.into() };
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: None, headers: Vec::new(), value: Some(topics::encode(&record).into()) };
        let new = new.header(SOURCE_HEADER, Source { partition: 0, offset, crc: 0 }.encode());
        world.log.append(TopicPartition { topic: Topic::Deliveries, partition: 0 }, vec![new], Ack::Once(sender));
    };
    sourced("stored", 1);
    let mut fold = world.fold();
    sourced("same round", 2);
    erase("ann", 3);
    erase("bob", 3);
    sourced("after", 4);
    // A copy of an older erasure takes nothing more.
    erase("ann", 2);
    let heard = fold.step(0).expect("it reads").expect("something came");
    let cancelled: Vec<&String> = heard
        .iter()
        .filter_map(|one| match one {
            FoldEvent::Cancelled { delivery_ids } => Some(delivery_ids),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(cancelled, ["same round", "stored"]);
    for id in ["stored", "same round"] {
        let row = fold.find(id).expect("readable").expect("its end is not on record yet");
        assert_eq!(
            (row.phase, row.delivery.message.data),
            (DeliveryPhase::CancelMissing { reason: "user_erased".into() }, None)
        );
    }
    assert_eq!(due(&mut fold).len(), 1, "no timer is left of what came before");
    assert!(fold.find("after").expect("readable").is_some_and(|row| row.phase == DeliveryPhase::Due));
}

#[test]
fn a_retry_that_a_wrong_clock_put_off_for_years_is_due_at_once() {
    let world = World::new();
    let now = 100 * DAY;
    for (id, due_at) in [("soon", now + DAY), ("late", now + 3_650 * DAY), ("later", now + 3_651 * DAY)] {
        world.write(Topic::Deliveries, deliver(id));
        world.write(Topic::Attempts, attempt(id, 1, Some(due_at), None));
        world.write(Topic::Retry1d, retry(id, 1, due_at));
    }
    let mut fold = world.fold();
    assert_eq!(fold.pull_in(now).expect("written"), 2);
    // A first attempt waits only if it is told to.
    let far = now + 3_650 * DAY;
    let paced = Delivery { not_before: Some(far), ..delivery("paced") };
    let early = Delivery { created_at: far, ..delivery("early") };
    world.log.set_now(now);
    for delivery in [paced, early] {
        world.write(Topic::Deliveries, topics::encode(&DeliveryRecord::Deliver(Box::new(delivery))));
    }
    fold.step(now).expect("it reads");
    assert_eq!(due(&mut fold), [now, now, now, now + DAY, far]);
    assert_eq!(fold.pull_in(now).expect("written"), 0);
    // Another owner's, which has come behind the opening.
    world.write(Topic::Attempts, attempt("soon", 2, Some(far), None));
    world.write(Topic::Retry1d, retry("soon", 2, far));
    fold.step(now).expect("it reads");
    assert_eq!(due(&mut fold), [now, now, now, now, far]);
    drop(fold);
    assert!(world.reopened().is_ok(), "index and rows agree");
}

/// After a crash the store may stand before two attempts, of which the second has
/// no retry record yet: the first one's retry record is read behind both.
#[test]
fn a_store_that_is_behind_takes_every_attempt_before_their_retries() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Attempts, attempt("d", 1, Some(1_000), None));
    world.write(Topic::Retry1m, retry("d", 1, 1_000));
    world.write(Topic::Attempts, attempt("d", 2, Some(2_000), None));
    let mut fold = world.fold();
    let row = fold.find("d").expect("readable").expect("it waits");
    assert_eq!((row.attempt, &row.phase), (2, &DeliveryPhase::RetryMissing { next_due_at: 2_000 }));
    assert!(due(&mut fold).is_empty(), "nothing is sent before its retry record is written");

    world.write(Topic::Retry1h, retry("d", 2, 2_000));
    assert_eq!(due(&mut world.fold()), [2_000]);
}

#[test]
fn a_skip_holds_for_whoever_comes_to_the_record_and_for_nobody_else() {
    let world = World::new();
    let (at, skip) = (TopicPartition { topic: Topic::Deliveries, partition: 0 }, |topic: &str, offset| {
        topics::encode(&DeliveryRecord::Skip { topic: topic.into(), offset, asked_at: 0 })
    });
    world.write(Topic::Deliveries, topics::encode(&DeliveryRecord::Deliver(Box::new(delivery("a")))));
    world.write(Topic::Deliveries, topics::encode(&DeliveryRecord::Deliver(Box::new(delivery("b")))));
    let (sender, _) = tokio::sync::oneshot::channel();
    let new = NewRecord { key: None, headers: Vec::new(), value: Some(skip("deliveries", 0).into()) };
    world.log.append(at, vec![new.header(askwhen_partition::admission::SKIP_HEADER, "1")], Ack::Once(sender));
    // What is passed already, and what no topic of the delivery is, skips nothing.
    world.write(Topic::Deliveries, skip("attempts", 1));
    world.write(Topic::Deliveries, skip("decisions", 0));
    let fold = world.fold();
    assert!(fold.find("a").expect("readable").is_none() && fold.find("b").expect("readable").is_some());
    assert_eq!((fold.open, fold.rejects.len()), (1, 1));
    // Another attempt is not reached yet: that it is skipped stays in the store.
    drop(fold);
    let fold = world.fold();
    assert_eq!(fold.rejects.len(), 0);
    drop(fold);
    world.write(Topic::Attempts, attempt("b", 1, Some(10), None));
    world.write(Topic::Attempts, attempt("b", 1, None, Some(AttemptEnd::Delivered)));
    let fold = world.fold();
    assert_eq!((fold.open, fold.rejects.len()), (1, 1), "the end of b is skipped");
    assert!(fold.positions.skips.values().all(BTreeSet::is_empty), "{:?}", fold.positions);
}

#[test]
fn the_state_of_another_partition_is_not_taken() {
    let world = World::new();
    world.write(Topic::Deliveries, topics::encode(&DeliveryRecord::Deliver(Box::new(delivery("a")))));
    drop(world.fold());
    let log = Log::Simulated(Arc::new(Simulated::new(1, 2)));
    let error = Fold::open(1, &log, world.store.clone(), Arc::default()).err().expect("it is refused");
    assert_eq!(error.class(), Class::Fatal, "{error}");
    assert!(matches!(error, Error::State(StateError::OtherPartition { found: 0 })), "{error}");
}

/// All that a fold knows, wherever it is kept.
fn contents(fold: &mut Fold) -> (Vec<PendingDelivery>, Vec<Millis>, Vec<askwhen_store::Entry>, u64, u64) {
    let mut rows = Vec::new();
    fold.each_row(|row| rows.push(row)).expect("readable");
    rows.sort_by(|a, b| a.delivery.delivery_id.cmp(&b.delivery.delivery_id));
    let due = due(fold);
    fold.write().expect("written");
    let done = fold.store.ascending(families::DONE, &[], 1_000).expect("readable");
    (rows, due, done, fold.open, fold.retrying)
}

#[test]
fn what_begins_and_ends_in_memory_leaves_only_its_end_in_the_store() {
    let world = World::new();
    let mut fold = world.fold();
    world.write(Topic::Deliveries, deliver("d"));
    fold.step(0).expect("it reads");
    assert!(fold.find("d").expect("readable").is_some());
    world.write(Topic::Attempts, attempt("d", 1, None, Some(AttemptEnd::Delivered)));
    fold.step(1).expect("it reads");
    assert_eq!(fold.find("d").expect("readable"), None);
    let entries = |family| world.store.ascending(family, &[], 10).expect("readable").len();
    assert_eq!((entries(families::DONE), entries(families::META)), (0, 0), "nothing is written yet");
    fold.step(SECOND).expect("it writes");
    assert_eq!((entries(families::WAITING), entries(families::DUE), entries(families::DONE)), (0, 0, 1));
    // A copy of its record has no effect, whether its end is in memory or in the store.
    world.write(Topic::Deliveries, deliver("d"));
    assert_eq!(fold.step(SECOND).expect("it reads"), Some(Vec::new()));
}

/// Against a fold that writes each round, one that writes now and then, and is killed now
/// and then, knows the same and announces the same.
#[test]
fn it_does_not_matter_when_changes_are_written() {
    let mut seed = 7_u64;
    let mut below = |limit: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % limit
    };
    for _ in 0..200 {
        let (world, behind) = (World::new(), Arc::new(Store::Memory(Memory::default())));
        let log = Log::Simulated(world.log.clone());
        let open = || Fold::open(0, &log, behind.clone(), Arc::default()).expect("it opens");
        let (mut at_once, mut later) = (world.fold(), open());
        for now in 0..40 {
            for _ in 0..below(3) {
                let id = ["a", "b", "c"][below(3) as usize];
                let number = 1 + below(3) as u32;
                match below(8) {
                    0..3 => world.write(Topic::Deliveries, deliver(id)),
                    3 => world.write(Topic::Attempts, attempt(id, number, Some(500), None)),
                    4 => world.write(Topic::Retry1m, retry(id, number, 500)),
                    5 => world.write(Topic::Attempts, attempt(id, number, None, Some(AttemptEnd::Delivered))),
                    6 => world.write(Topic::Attempts, attempt(id, number, None, Some(AttemptEnd::Dead))),
                    _ => {
                        let record = DeliveryRecord::CancelUser { project: "default".into(), user_id: "ann".into() };
                        world.write(Topic::Deliveries, topics::encode(&record));
                    }
                }
            }
            let heard = at_once.step(now).expect("it reads");
            at_once.write().expect("written");
            assert_eq!(later.step(now).expect("it reads"), heard);
            if below(6) == 0 {
                later.write().expect("written");
            }
            for id in ["a", "b", "c"] {
                assert_eq!(later.find(id).expect("readable"), at_once.find(id).expect("readable"));
            }
        }
        if below(2) == 0 {
            later = open();
            later.catch_up(&log, |_| Ok(())).expect("it reads");
            // In another order than it came: what has ended and what waits is the same.
            let ids =
                |rows: Vec<PendingDelivery>| rows.into_iter().map(|row| row.delivery.delivery_id).collect::<Vec<_>>();
            let (ours, theirs) = (contents(&mut later), contents(&mut at_once));
            assert_eq!((ours.2, ours.3), (theirs.2, theirs.3));
            assert_eq!(ids(ours.0), ids(theirs.0));
            continue;
        }
        assert_eq!(contents(&mut later), contents(&mut at_once));
    }
}
