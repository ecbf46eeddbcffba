//! A delivery's way, step by step, without a socket, a store or a log: rows stand in a
//! map, and what is appended stays in a list until the test acknowledges it.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::*;
use crate::delivery::fold::{DeliveryPhase, EndpointChange, before, queue_id};
use askwhen_domain::json::Json;
use askwhen_domain::time::MINUTE;
use askwhen_domain::webhook::endpoint::{EventType, Profile};
use askwhen_domain::webhook::message::{Delivery, Message};
use askwhen_wire::profile;
use askwhen_wire::topics::{ID_HEADER, Outcome};

const NOW: Millis = 1_800_000_000_000;

struct World {
    scheduler: Scheduler,
    context: StepContext,
    rows: BTreeMap<String, PendingDelivery>,
    started: VecDeque<(Item, PendingDelivery)>,
    /// Not yet acknowledged.
    appends: VecDeque<(u64, String)>,
    /// Keys of reports, not yet acknowledged.
    reports: VecDeque<(u64, String)>,
    /// How often the due index was read.
    reads: usize,
}

impl World {
    /// With one endpoint, and partition 0 open.
    fn new(endpoint: Value) -> World {
        let context =
            StepContext { now: NOW, by_wall: NOW, monotonic: Duration::ZERO, share: 1.0, memory_limit_bytes: 64 << 20 };
        let key = ClusterKey::new([7; 32]);
        let secret = profile::new_secret(Profile::Standard, &[9; 32]);
        let sealed = key.seal("default", "crm", &secret, [1; 24]);
        let retry = json!({"kind": "fixed", "interval": "1h", "max_attempts": 2});
        let mut body = json!({"kind": "endpoint", "endpoint_id": "crm", "url": "http://crm.example/", "retry": retry});
        body["secret"] = serde_json::to_value(sealed).expect("it serialises");
        for (name, value) in endpoint.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let what = EndpointChange::Defined { version: 1, body: Some(Json::of(&body)) };
        let update = EndpointUpdate { project: "default".into(), endpoint_id: "crm".into(), what };
        let mut world = World {
            scheduler: Scheduler::new(key, "this".into(), 500),
            context,
            rows: BTreeMap::new(),
            started: VecDeque::new(),
            appends: VecDeque::new(),
            reports: VecDeque::new(),
            reads: 0,
        };
        let (endpoints, queues, missing) = (vec![update], Vec::new(), Vec::new());
        world.step(Event::Opened { partition: 0, endpoints, queues, missing });
        world
    }

    fn step(&mut self, event: Event) -> bool {
        let effects = self.scheduler.step(&self.context, event);
        let any = !effects.is_empty();
        for effect in effects {
            self.perform(effect);
        }
        any
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::ReadDue(range) => {
                self.reads += 1;
                let mut due: Vec<Due> = self.rows.values().filter(|r| r.phase == DeliveryPhase::Due).map(due).collect();
                due.retain(|due| due.key > range.after);
                due.sort_by(|a, b| a.key.cmp(&b.key));
                let fits = |due: &&Due| split(&due.key).1 <= range.until;
                let found: Vec<Due> = due.iter().take(range.limit).take_while(fits).cloned().collect();
                let next = due.get(found.len()).map(|due| split(&due.key).1);
                self.step(Event::DueRead { range, due: found, next });
            }
            Effect::ReadRow(item) => {
                let found = self.rows.get(&item.delivery_id).cloned().map(|row| (row, 1_000));
                self.step(Event::RowRead { item, found });
            }
            Effect::ReadMissing { partition, delivery_id } => {
                if let Some(row) = self.rows.get(&delivery_id).cloned() {
                    self.step(Event::MissingRead { partition, row });
                }
            }
            Effect::Start { item, row, .. } => self.started.push_back((item, *row)),
            Effect::Append { tag, write: (at, record), .. } => {
                let id = record.headers.iter().find(|(name, _)| name.as_ref() == ID_HEADER.as_bytes());
                let id = id.map(|(_, id)| String::from_utf8_lossy(id).into_owned()).unwrap_or_default();
                self.appends.push_back((tag, format!("{} {id}", at.topic.name())));
            }
            Effect::Report { tag, key, .. } => self.reports.push_back((tag, key)),
            Effect::Reply { .. } | Effect::Publish(_) | Effect::Census { .. } => {}
        }
    }

    /// Loads and sends what can go.
    fn turn(&mut self) {
        while self.step(Event::Load) {}
        while self.step(Event::Dispatch) && !self.scheduler.is_stalled() {}
    }

    /// A delivery for a user, due now.
    fn deliver(&mut self, delivery_id: &str, user_id: &str) {
        self.deliver_at(self.context.now, delivery_id, user_id);
    }

    fn deliver_at(&mut self, due_at: Millis, delivery_id: &str, user_id: &str) {
        let delivery = Delivery {
            delivery_id: delivery_id.into(),
            message_id: format!("m-{delivery_id}"),
            endpoint_id: "crm".into(),
            project: "default".into(),
            user_id: user_id.into(),
            survey_id: None,
            created_at: self.context.now,
            message: Message { kind: EventType::Completed, at: self.context.now, data: None },
            test_for: None,
            not_before: None,
        };
        let row = PendingDelivery {
            delivery,
            attempt: 0,
            due_at,
            place: self.rows.len() as u64,
            source: String::new(),
            first_started_at: None,
            phase: DeliveryPhase::Due,
            uncounted: 0,
        };
        let events = vec![FoldEvent::Due(due(&row))];
        self.rows.insert(delivery_id.into(), row);
        self.step(Event::Folded { partition: 0, events });
    }

    /// The first attempt that is under way is over.
    fn end(&mut self, status: u16, stored: StoredPhase) {
        let (item, row) = self.started.pop_front().expect("one is under way");
        let result = AttemptResult {
            started_at: self.context.now,
            ended_at: self.context.now + 1,
            duration_ms: 1,
            http_status: Some(status),
            outcome: if status == 200 { Outcome::Delivered } else { Outcome::BadStatus },
            error: None,
            response: Some("what the receiver said".into()),
            retry_after: None,
            disable: status == 410,
            own_fault: None,
            signed: None,
            version: 1,
        };
        self.step(Event::Ended { item, row, result, stored });
    }

    /// What was appended first is durable, or refused.
    fn acknowledge(&mut self, is_durable: bool) {
        let (tag, _) = self.appends.pop_front().expect("something was appended");
        let outcome = if is_durable { Ok(()) } else { Err(askwhen_log::Error::Overloaded) };
        self.step(Event::Acknowledged { tag, outcome });
    }

    fn appended(&self) -> Vec<&str> {
        self.appends.iter().map(|(_, what)| what.as_str()).collect()
    }

    fn under_way(&self) -> Vec<&str> {
        self.started.iter().map(|(item, _)| item.delivery_id.as_str()).collect()
    }
}

fn due(row: &PendingDelivery) -> Due {
    let queue_id = queue_id("default", "crm", row.delivery.test_for.is_some());
    let place = row.place.to_be_bytes();
    let key = [before(queue_id, row.due_at).as_slice(), place.as_slice(), row.delivery.delivery_id.as_bytes()].concat();
    let ordering_key = xxhash_rust::xxh3::xxh3_64(row.delivery.user_id.as_bytes());
    Due { key, first: row.attempt == 0, ordering_key }
}

#[test]
fn what_is_due_behind_nothing_is_sent_without_a_read() {
    let mut world = World::new(json!({"concurrency": 100}));
    for id in ["a", "b", "c"] {
        world.deliver(id, id);
        world.turn();
    }
    assert_eq!((world.started.len(), world.reads), (3, 0));
    // What is due later waits in the index, and so does what comes behind it.
    world.deliver_at(NOW + 10, "later", "d");
    world.turn();
    assert_eq!((world.started.len(), world.reads), (3, 0));
    world.context.now = NOW + 20;
    world.deliver("e", "e");
    world.turn();
    assert_eq!((world.started.len(), world.reads), (5, 1));
    assert_eq!(world.started[3].0.delivery_id, "later");
    world.deliver("f", "f");
    world.turn();
    assert_eq!((world.started.len(), world.reads), (6, 1), "nothing is unread any more");
}

#[test]
fn what_follows_from_an_attempt_is_appended_when_the_attempt_is_durable() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.turn();
    assert_eq!(world.under_way(), ["a"]);
    world.end(500, StoredPhase::Pending);
    assert_eq!(world.appended(), ["attempts a/1"]);
    world.acknowledge(true);
    assert_eq!(world.appended(), ["deliveries.retry.1h a/1/waits"]);
    assert!(world.scheduler.has_flights_of(0));
    world.acknowledge(true);
    assert!(!world.scheduler.has_flights() && !world.scheduler.is_writing());
    assert_eq!((world.scheduler.under_way(), world.scheduler.memory_bytes()), (0, 192), "its queue is known");
}

#[test]
fn a_success_is_one_record_and_the_last_failure_two() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.deliver("b", "ben");
    world.rows.get_mut("b").expect("just delivered").attempt = 1;
    world.turn();
    world.end(200, StoredPhase::Pending);
    world.end(500, StoredPhase::Pending);
    assert_eq!(world.appended(), ["attempts a/1", "attempts b/2"]);
    world.acknowledge(true);
    world.acknowledge(true);
    assert_eq!(world.appended(), ["dead b/dead"]);
}

#[test]
fn what_the_log_refuses_is_written_again_after_a_pause() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.turn();
    world.end(500, StoredPhase::Pending);
    world.acknowledge(false);
    world.step(Event::LogWritable);
    assert!(world.appends.is_empty() && world.scheduler.is_writing());
    world.context.monotonic += Duration::from_millis(250);
    world.step(Event::LogWritable);
    assert_eq!(world.appended(), ["attempts a/1"]);
    world.acknowledge(true);
    assert_eq!(world.appended(), ["deliveries.retry.1h a/1/waits"]);
}

#[test]
fn a_closed_partition_starts_nothing_and_only_its_successes_are_still_recorded() {
    let mut world = World::new(json!({}));
    for (delivery_id, user_id) in [("a", "ann"), ("b", "ben")] {
        world.deliver(delivery_id, user_id);
    }
    world.turn();
    world.deliver("c", "cat");
    world.step(Event::Load);
    world.step(Event::Closed { partition: 0 });
    world.turn();
    assert_eq!((world.under_way(), world.scheduler.next_due()), (vec!["a", "b"], None));
    world.end(500, StoredPhase::NotOwned);
    world.end(200, StoredPhase::NotOwned);
    assert_eq!(world.appended(), ["attempts b/1"]);
    world.acknowledge(true);
    assert_eq!((world.scheduler.under_way(), world.scheduler.memory_bytes()), (0, 0));
}

#[test]
fn what_comes_due_while_its_records_are_written_goes_when_they_are() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.turn();
    world.end(500, StoredPhase::Pending);
    world.acknowledge(true);
    // The retry record is read back before its acknowledgement comes.
    let row = world.rows.get_mut("a").expect("it waits");
    (row.attempt, row.first_started_at) = (1, Some(NOW));
    let events = vec![FoldEvent::Due(due(row))];
    world.step(Event::Folded { partition: 0, events });
    world.turn();
    assert!(world.started.is_empty(), "one delivery is sent once at a time");
    world.acknowledge(true);
    world.turn();
    assert_eq!(world.under_way(), ["a"]);
}

#[test]
fn one_that_is_cancelled_under_way_has_one_end_and_keeps_no_answer() {
    for status in [200, 500] {
        let mut world = World::new(json!({}));
        world.deliver("a", "ann");
        world.turn();
        let row = world.rows.get_mut("a").expect("it waits");
        row.phase = DeliveryPhase::CancelMissing { reason: "user_erased".into() };
        let delivery_ids = vec!["a".to_owned()];
        world.step(Event::Folded { partition: 0, events: vec![FoldEvent::Cancelled { delivery_ids }] });
        assert!(world.appends.is_empty(), "it says itself how it ends");
        world.end(status, StoredPhase::Cancelled);
        assert_eq!(world.appended(), ["attempts a/1"]);
        world.acknowledge(true);
        assert!(world.appends.is_empty() && !world.scheduler.has_flights());
    }
}

#[test]
fn one_that_is_cancelled_before_its_turn_is_written_down_at_once() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.rows.get_mut("a").expect("it waits").phase = DeliveryPhase::CancelMissing { reason: "user_erased".into() };
    let delivery_ids = vec!["a".to_owned()];
    world.step(Event::Folded { partition: 0, events: vec![FoldEvent::Cancelled { delivery_ids }] });
    world.turn();
    assert_eq!((world.appended(), world.started.len()), (vec!["attempts a/cancelled"], 0));
}

#[test]
fn one_that_has_no_memory_keeps_its_turn_until_another_ends() {
    let mut world = World::new(json!({}));
    world.context.memory_limit_bytes = 60 << 10;
    world.deliver("a", "ann");
    world.deliver("b", "ben");
    world.turn();
    assert_eq!((world.under_way(), world.scheduler.is_stalled()), (vec!["a"], true));
    world.turn();
    assert_eq!(world.under_way(), ["a"]);
    world.end(200, StoredPhase::Pending);
    world.acknowledge(true);
    world.turn();
    assert_eq!((world.under_way(), world.scheduler.is_stalled()), (vec!["b"], false));
    world.step(Event::Stopping);
    assert_eq!(world.scheduler.under_way(), 1);
}

#[test]
fn a_backlog_is_in_memory_up_to_its_bound_and_the_rest_follows_in_its_order() {
    let mut world = World::new(json!({"concurrency": 1}));
    for n in 0..QUEUE_MOST + 100 {
        world.deliver(&format!("d{n:04}"), &format!("u{n}"));
    }
    while world.step(Event::Load) {}
    let queue_id = queue_id("default", "crm", false);
    assert_eq!(world.scheduler.ordering.queued_of(queue_id), QUEUE_MOST);
    let mut sent = Vec::new();
    for _ in 0..QUEUE_MOST + 100 {
        world.turn();
        assert_eq!(world.started.len(), 1);
        sent.extend(world.under_way().into_iter().map(str::to_owned).collect::<Vec<_>>());
        world.rows.remove(sent.last().expect("one"));
        world.end(200, StoredPhase::Pending);
        world.acknowledge(true);
    }
    assert!(sent.is_sorted() && sent.len() == QUEUE_MOST + 100);
    world.turn();
    assert_eq!((world.scheduler.under_way(), world.scheduler.next_due()), (0, None));
}

#[test]
fn a_report_that_the_log_refuses_is_made_again() {
    let mut world = World::new(json!({}));
    world.deliver("a", "ann");
    world.turn();
    world.end(410, StoredPhase::Pending);
    world.context.now += 1;
    world.step(Event::Report);
    assert_eq!(world.reports.len(), 1, "{:?}", world.reports);
    let (tag, _) = world.reports.pop_front().expect("a report");
    world.step(Event::Acknowledged { tag, outcome: Err(askwhen_log::Error::Overloaded) });
    world.step(Event::Report);
    assert!(world.reports.is_empty(), "not at once");
    world.context.now += MINUTE;
    assert!(world.scheduler.wake_at().is_some_and(|at| at <= world.context.now));
    world.step(Event::Report);
    assert_eq!(world.reports.len(), 1);
}

#[test]
fn what_waits_for_an_endpoint_that_is_gone_or_disabled_is_cancelled_on_record() {
    let mut world = World::new(json!({"enabled": false}));
    world.deliver("a", "ann");
    world.turn();
    assert_eq!((world.appended(), world.started.len()), (vec!["attempts a/cancelled"], 0));
    world.acknowledge(true);
    world.rows.clear();
    world.step(Event::NothingOwned);
    world.deliver("b", "ben");
    world.turn();
    assert_eq!((world.appended(), world.started.len()), (vec!["attempts b/cancelled"], 0));
}
