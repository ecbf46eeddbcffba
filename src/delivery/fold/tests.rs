//! The fold of topics that crashes have cut short.

use super::*;
use crate::domain::endpoint::EventType;
use crate::domain::json::Json;
use crate::domain::message::{Data, Message};
use crate::log::{Ack, New, Simulated};
use crate::store::Memory;
use crate::wire::output::{self, Outcome};

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
        let new = New { key: None, headers: Vec::new(), value: Some(value.into()) };
        self.log.append(At { topic, partition: 0 }, vec![new], Ack::Once(sender));
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

fn attempt(id: &str, number: u32, next_due_at: Option<Millis>, ended: Option<Ended>) -> Vec<u8> {
    output::encode(&AttemptRecord {
        delivery_id: id.into(),
        message_id: "m".into(),
        endpoint_id: "e".into(),
        project: "default".into(),
        user_id: "ann".into(),
        survey_id: None,
        attempt: number,
        attempts_before: 0,
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
    })
}

fn retry(id: &str, attempt: u32, due_at: Millis) -> Vec<u8> {
    let delivery = Box::new(delivery(id));
    output::encode(&RetryRecord { delivery, attempt, due_at, first_started_at: 10, source: String::new() })
}

fn deliver(id: &str) -> Vec<u8> {
    output::encode(&DeliveryRecord::Deliver(Box::new(delivery(id))))
}

/// When the deliveries of every line are due.
fn due(fold: &Fold) -> Vec<Millis> {
    let lines = fold.lines().expect("readable");
    let of = |(line, _): &(u64, Millis)| fold.due(*line, &[], i64::MAX, 10).expect("readable").0;
    lines.iter().flat_map(of).map(|due| split(&due.key).1).collect()
}

#[test]
fn a_crash_between_an_attempt_and_its_retry_record_owes_the_latter() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Attempts, attempt("d", 1, Some(5_000), None));
    let fold = world.fold();
    let owed = fold.owed().expect("readable");
    assert_eq!(owed.len(), 1);
    assert_eq!((owed[0].attempt, &owed[0].phase), (1, &Phase::RetryOwed { next_due_at: 5_000 }));
    assert!(fold.lines().expect("readable").is_empty(), "nothing is sent before it is on record");
    // The record is written, its acknowledgement lost, and it is written again.
    world.write(Topic::Retry1m, retry("d", 1, 5_000));
    world.write(Topic::Retry1m, retry("d", 1, 5_000));
    let fold = world.fold();
    assert!(fold.owed().expect("readable").is_empty());
    assert_eq!(due(&fold), [5_000], "one chain, not two");
}

#[test]
fn a_crash_before_the_dead_record_owes_it_and_an_end_is_final() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Attempts, attempt("d", 1, None, Some(Ended::Dead)));
    assert!(matches!(world.fold().owed().expect("readable")[0].phase, Phase::DeadOwed { .. }));
    let dead = DeadRecord { delivery: Box::new(delivery("d")), attempts: 1, reason: "max_age".into(), died_at: 11 };
    world.write(Topic::Dead, output::encode(&dead));
    // Copies of what came before it change nothing any more.
    world.write(Topic::Deliveries, deliver("d"));
    world.write(Topic::Retry1m, retry("d", 7, 1));
    let fold = world.fold();
    assert_eq!((fold.find("d").expect("readable"), fold.open), (None, 0));
    assert!(due(&fold).is_empty());
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
    let fold = world.fold();
    let row = fold.find("d").expect("readable").expect("it waits");
    assert_eq!((row.attempt, row.due_at, row.phase), (2, 9_000, Phase::Due));
    assert_eq!(due(&fold), [9_000]);
}

#[test]
fn a_log_that_lost_its_end_is_not_folded() {
    let world = World::new();
    world.write(Topic::Deliveries, deliver("d"));
    world.fold();
    let shorter = Log::Simulated(Arc::new(Simulated::new(1, 1)));
    assert!(matches!(Fold::open(0, &shorter, world.store.clone(), Arc::default()), Err(Error::Refused(_))));
}
