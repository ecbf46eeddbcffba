//! The lists over a log in memory: what they do when a topic or their store is
//! not what it was.

use crate::console::families;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::order::WriteBatch;
use super::round::Round;
use super::*;
use askwhen_domain::id::RecordPosition;
use askwhen_domain::json::Json;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::time::{DAY, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{Data, Delivery, Message};
use askwhen_log::{Ack, Log, NewRecord, Simulated, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_store::{Batch, Memory, Store};
use askwhen_wire::listing::{Filter, List, PageRequest};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::decision::EvaluationRecord;
use askwhen_wire::topics::{
    self, AttemptEnd, AttemptRecord, DecisionRecord, DeliveryRecord, Outcome, RetryRecord, SOURCE_HEADER, Source,
};

const NOW: Millis = 1_800_000_000_000;

/// A log, and the stores that have been opened one after the other.
struct World {
    log: Arc<Simulated>,
    stores: Arc<Mutex<Vec<Arc<Store>>>>,
    set_aside: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let stores = Arc::new(Mutex::new(vec![Arc::new(Store::Memory(Memory::default()))]));
        let dir = tempfile::tempdir().expect("a folder");
        World { log: Arc::new(Simulated::new(1, 1)), stores, set_aside: Arc::default(), dir }
    }

    fn console(&self) -> Console {
        let (stores, set_aside) = (self.stores.clone(), self.set_aside.clone());
        let open: OpenStore = Box::new(move |damaged| {
            let mut stores = stores.lock().expect("unpoisoned");
            if damaged.is_some() {
                set_aside.fetch_add(1, Ordering::AcqRel);
                stores.push(Arc::new(Store::Memory(Memory::default())));
            }
            Ok(stores.last().expect("there is one").clone())
        });
        let keep = RowRetention { deliveries: 30 * DAY, decisions: 30 * DAY, responses: 30 * DAY };
        let (log, notes) = (Log::Simulated(self.log.clone()), self.dir.path().join("console.attempt"));
        Console::start(log, open, Clock::new(), keep, &notes).expect("it starts")
    }

    fn store(&self) -> Arc<Store> {
        self.stores.lock().expect("unpoisoned").last().expect("there is one").clone()
    }

    fn write(&self, topic: Topic, source: u64, value: Vec<u8>) {
        let (sender, _) = tokio::sync::oneshot::channel();
        let new = NewRecord { key: None, headers: Vec::new(), value: Some(value.into()) };
        let new = new.header(SOURCE_HEADER, Source { partition: 0, offset: source, crc: 0 }.encode());
        self.log.append(TopicPartition { topic, partition: 0 }, vec![new], Ack::Once(sender));
    }

    fn decide(&self, id: &str, source: u64) {
        self.write(Topic::Decisions, source, topics::encode(&decision(id, source, Vec::new())));
    }
}

/// Of ann, decided as long after now as its journal record stands from the first.
fn decision(id: &str, source: u64, evaluations: Vec<EvaluationRecord>) -> DecisionRecord {
    DecisionRecord {
        project: "default".into(),
        decision_id: id.into(),
        event_id: "e".into(),
        user_id: "ann".into(),
        trigger: "Main".into(),
        decided_at: NOW + source as i64,
        reason: "no_survey".into(),
        survey: None,
        evaluations,
    }
}

fn delivery(id: &str) -> Delivery {
    let data = Data { user_id: "ann".into(), ..Data::sample("default", NOW) };
    Delivery {
        delivery_id: id.into(),
        message_id: "m".into(),
        endpoint_id: "crm".into(),
        project: "default".into(),
        user_id: "ann".into(),
        survey_id: None,
        created_at: NOW,
        message: Message { kind: EventType::Completed, at: NOW, data: Some(data) },
        test_for: None,
        not_before: None,
    }
}

fn attempt(id: &str, number: u32) -> Vec<u8> {
    topics::encode(&AttemptRecord {
        delivery_id: id.into(),
        message_id: "m".into(),
        endpoint_id: "crm".into(),
        project: "default".into(),
        user_id: "ann".into(),
        survey_id: None,
        attempt: number,
        attempts_before: 0,
        uncounted: 0,
        started_at: NOW,
        duration_ms: 1,
        http_status: Some(500),
        outcome: Outcome::BadStatus,
        error: None,
        response: Some("ann is unknown here".into()),
        first_started_at: NOW,
        next_due_at: Some(NOW + 5),
        ended: None,
        reason: None,
        signed: None,
    })
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The ids of a list, newest first.
fn ids(console: &Console, list: List) -> Vec<String> {
    let member = if list == List::Deliveries { "delivery_id" } else { "decision_id" };
    let page = console.list(list, "default", &Filter::default(), PageRequest::first(200)).expect("readable");
    page.rows.iter().map(|row| row[member].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_topic_that_lost_its_end_and_grew_again_hides_no_row() {
    for (kept, then) in [(2, 1), (2, 9), (0, 4), (5, 0)] {
        let mut world = World::new();
        (0..5).for_each(|n| world.decide(&format!("old{n}"), n));
        let console = world.console();
        until("all are listed", || ids(&console, List::Decisions).len() == 5);
        drop(console);
        world.log = Arc::new(Simulated::new(1, 1));
        (0..kept).for_each(|n| world.decide(&format!("old{n}"), n));
        (0..then).for_each(|n| world.decide(&format!("new{n}"), 10 + n));
        let console = world.console();
        until("what came behind the lost end", || ids(&console, List::Decisions).len() == 5 + then as usize);
        assert!(console.is_whole().is_ok());
        drop(console);
        // Once more from the beginning, and nothing is counted twice.
        let console = world.console();
        world.decide("last", 100);
        until("it goes on", || ids(&console, List::Decisions).first().is_some_and(|id| id == "last"));
        assert_eq!(ids(&console, List::Decisions).len(), 6 + then as usize);
    }
}

#[tokio::test]
async fn who_looks_after_a_while_finds_what_was_there_when_they_came() {
    let world = World::new();
    let console = world.console();
    world.decide("d1", 1);
    let is_taken_in = || world.store().get(families::INDEX, &super::order::row(List::Decisions, "d1")).expect("read");
    until("the first round is over", || is_taken_in().is_some());
    world.decide("d2", 2);
    console.look().await;
    assert_eq!(ids(&console, List::Decisions), ["d2", "d1"], "the pause has ended for whoever looks");
}

#[test]
fn a_store_that_took_no_more_is_opened_again_and_followed() {
    let world = World::new();
    world.decide("before", 0);
    let console = world.console();
    until("it is listed", || ids(&console, List::Decisions) == ["before"]);
    let store = world.store();
    let Store::Memory(memory) = &*store else { panic!("in memory") };
    memory.set_full(true);
    world.decide("while", 1);
    std::thread::sleep(Duration::from_millis(50));
    memory.set_full(false);
    // Nobody reads while a store is opened anew.
    let listed = || console.list(List::Decisions, "default", &Filter::default(), PageRequest::first(200));
    until("it goes on", || listed().is_ok_and(|page| page.rows.len() == 2));
    assert_eq!(world.set_aside.load(Ordering::Acquire), 0);
}

#[test]
fn lists_of_another_log_are_made_anew() {
    let mut world = World::new();
    world.decide("old", 0);
    let console = world.console();
    until("it is listed", || ids(&console, List::Decisions) == ["old"]);
    drop(console);
    world.log = Arc::new(Simulated::new(2, 1));
    world.decide("new", 0);
    let console = world.console();
    until("only the new one", || ids(&console, List::Decisions) == ["new"]);
}

#[test]
fn a_row_that_cannot_be_read_is_not_left_out_and_the_lists_are_made_again() {
    let spoilt = [
        (families::INDEX, order::row(List::Decisions, "d1")),
        (families::INDEX, order::row(List::Deliveries, "dlv")),
        (families::META, b"positions".to_vec()),
    ];
    for (family, key) in spoilt {
        let world = World::new();
        (0..3).for_each(|n| world.decide(&format!("d{n}"), n));
        world.write(Topic::Deliveries, 3, topics::encode(&DeliveryRecord::Deliver(Box::new(delivery("dlv")))));
        let console = world.console();
        until("all are listed", || ids(&console, List::Decisions).len() == 3);
        until("all are listed", || ids(&console, List::Deliveries).len() == 1);
        let mut batch = Batch::default();
        assert!(world.store().get(family, &key).expect("readable").is_some());
        batch.put(family, key.clone(), [0xff]);
        world.store().write(batch).expect("written");
        let mut console = console;
        if family == families::META {
            drop(console);
            console = world.console();
        } else {
            let list = if key == order::row(List::Decisions, "d1") { List::Decisions } else { List::Deliveries };
            let page = console.list(list, "default", &Filter::default(), PageRequest::first(200));
            assert!(matches!(page, Err(Error::Damaged(_))), "{page:?}");
            assert!(console.is_whole().is_err(), "they are not whole until they are made again");
        }
        until("they are whole", || console.is_whole().is_ok());
        assert_eq!(world.set_aside.load(Ordering::Acquire), 1);
        until("all are listed once more", || ids(&console, List::Decisions) == ["d2", "d1", "d0"]);
        assert_eq!(ids(&console, List::Deliveries), ["dlv"]);
    }
}

#[test]
fn a_cursor_that_is_none_damages_nothing() {
    let world = World::new();
    let console = world.console();
    for cursor in ["x", "00", "02"] {
        let page = console.list(
            List::Deliveries,
            "default",
            &Filter::default(),
            PageRequest { cursor: Some(cursor), limit: 5 },
        );
        assert!(matches!(page, Err(Error::Cursor)), "{cursor}: {page:?}");
    }
    assert!(console.is_whole().is_ok());
}

#[test]
fn a_retry_record_tells_the_delivery_whose_own_record_is_gone() {
    let world = World::new();
    world.write(Topic::Attempts, 3, attempt("dlv", 1));
    let console = world.console();
    let source = Source { partition: 0, offset: 3, crc: 0 }.encode();
    let (delivery, first_started_at) = (Box::new(delivery("dlv")), NOW);
    let retry = RetryRecord { delivery, attempt: 1, due_at: NOW + 5, first_started_at, source, uncounted: 0 };
    world.write(Topic::Retry1m, 3, topics::encode(&retry));
    until("it is listed", || ids(&console, List::Deliveries) == ["dlv"]);
    let shown = console.delivery("default", "dlv").expect("readable").expect("there").shown;
    assert_eq!((&shown["status"], shown["attempts"].as_array().map(Vec::len)), (&json!("waiting"), Some(1)), "{shown}");
    assert_eq!(unknown::prune(&world.store(), i64::MAX).expect("written"), 0, "nothing is left to be forgotten");
    assert_eq!(ids(&console, List::Deliveries), ["dlv"]);
}

#[test]
fn deliveries_that_never_come_are_kept_for_a_time_and_in_a_number() {
    let store = Store::Memory(Memory::default());
    let mut round = Round::new(&store);
    for n in 0..10 {
        let record = AttemptRecord { started_at: NOW + n, ..read(&attempt(&format!("x{n}"), 1)) };
        deliveries::apply_attempt(record, &mut round).expect("taken");
    }
    store.write(round.into_changes().batch).expect("written");
    let rows = || store.ascending(families::INDEX, &order::row(List::Deliveries, ""), 100).expect("readable").len();
    assert_eq!(rows(), 20, "a row and a mark for each");
    assert_eq!(unknown::prune(&store, NOW + 4).expect("written"), 6);
    assert_eq!(rows(), 12);
    // One that comes after all is one of the list, and is not forgotten.
    let mut round = Round::new(&store);
    deliveries::apply_delivery(delivery("x9"), None, None, &mut round).expect("taken");
    store.write(round.into_changes().batch).expect("written");
    assert_eq!(unknown::prune(&store, i64::MAX).expect("written"), 0);
    assert_eq!(rows(), 1);
}

#[test]
fn unmarked_rows_of_version_0_1_0_are_found() {
    let store = Store::Memory(Memory::default());
    let mut round = Round::new(&store);
    deliveries::apply_attempt(AttemptRecord { started_at: 0, ..read(&attempt("x", 1)) }, &mut round).expect("taken");
    deliveries::apply_delivery(delivery("known"), None, None, &mut round).expect("taken");
    unknown::forget(0, "x", &mut round.batch);
    store.write(round.into_changes().batch).expect("written");
    assert_eq!(unknown::prune(&store, i64::MAX).expect("written"), 0, "it has no mark");
    while look_through::look_through(&store, NOW).expect("written") {}
    assert_eq!(unknown::prune(&store, NOW).expect("written"), 1);
    assert_eq!(unknown::prune(&store, NOW + 1).expect("written"), 0);
    let left = store.ascending(families::INDEX, &order::row(List::Deliveries, ""), 100).expect("readable");
    assert_eq!(left.len(), 1, "what is known stays");
}

fn read(bytes: &[u8]) -> AttemptRecord {
    serde_json::from_slice(bytes).expect("JSON")
}

#[test]
fn an_erasure_leaves_nothing_of_what_receivers_said_before_or_after_it() {
    let world = World::new();
    let console = world.console();
    let deliver = |id: &str| topics::encode(&DeliveryRecord::Deliver(Box::new(delivery(id))));
    world.write(Topic::Deliveries, 3, deliver("before"));
    world.write(Topic::Attempts, 3, attempt("before", 1));
    let responses = |id: &str| -> Vec<Value> {
        let shown = console.delivery("default", id).expect("readable");
        let attempts = shown.map(|shown| shown.shown["attempts"].as_array().cloned().unwrap_or_default());
        attempts.unwrap_or_default().iter().map(|a| a.get("response").cloned().unwrap_or_default()).collect()
    };
    until("it is listed", || responses("before") == [json!("ann is unknown here")]);
    let erased = DeliveryRecord::CancelUser { project: "default".into(), user_id: "ann".into() };
    world.write(Topic::Deliveries, 5, topics::encode(&erased));
    until("it is gone", || responses("before") == [Value::Null]);
    // What was under way is written down later, or read later.
    world.write(Topic::Attempts, 3, attempt("before", 2));
    until("both attempts are there", || responses("before") == [Value::Null, Value::Null]);
    // What the user is told of afterwards is another life.
    world.write(Topic::Deliveries, 9, deliver("after"));
    world.write(Topic::Attempts, 9, attempt("after", 1));
    until("it is listed", || responses("after") == [json!("ann is unknown here")]);
}

#[test]
fn a_decision_counts_once_also_when_its_user_is_erased() {
    let world = World::new();
    let console = world.console();
    let decide = |id: &str, source: u64| {
        let stopped = EvaluationRecord {
            survey_id: "s".into(),
            pass: false,
            gate: Some("targeting_failed".into()),
            actual: Some(Json::null()),
            until: Some(Json::null()),
            hint: None,
            shadow: false,
        };
        world.write(Topic::Decisions, source, topics::encode(&decision(id, source, vec![stopped])));
    };
    let survey = SurveyRef::new("default", "s");
    let considered =
        |until: Option<Millis>| console.stats(survey, None, until).expect("readable")["considered"].as_u64();
    decide("before", 3);
    until("it is counted", || considered(None) == Some(1));
    let erased = DeliveryRecord::CancelUser { project: "default".into(), user_id: "ann".into() };
    world.write(Topic::Deliveries, 9, topics::encode(&erased));
    let first = RecordPosition { partition: 0, offset: 3 };
    until("ann is erased", || console.is_erased(UserRef::new("default", "ann"), first).expect("readable"));
    // A copy of what was listed; a decision that comes late, and a copy of it; then one of another life.
    for (id, source) in [("before", 3), ("late", 4), ("late", 4), ("after", 10)] {
        decide(id, source);
    }
    until("all is read", || {
        console
            .list(List::Decisions, "default", &Filter::default(), PageRequest::first(10))
            .expect("readable")
            .rows
            .len()
            == 1
    });
    assert_eq!(considered(None), Some(3));
    assert_eq!(considered(Some(NOW + 5)), Some(2), "inside a minute, too");
}

#[test]
fn marks_of_erasures_go_when_nothing_older_is_left() {
    let store = Store::Memory(Memory::default());
    let mut round = Round::new(&store);
    for n in 0..600 {
        let (user_id, at) = (format!("u{n}"), RecordPosition { partition: n as u32 % 2, offset: n });
        kept::apply_erasure(UserRef::new("default", &user_id), at, &store, &mut round).expect("taken");
    }
    store.write(round.into_changes().batch).expect("written");
    let left = erased::prune_erased(&store, |partition| if partition == 0 { 300 } else { 0 }).expect("written");
    // Of partition 0 those from 302 on, of partition 1 all.
    assert_eq!(left, 149 + 300);
    let is_erased = |user_id: &str, offset: u64| {
        let source = RecordPosition { partition: 0, offset };
        erased::is_erased(&store, UserRef::new("default", user_id), source).expect("readable")
    };
    assert!(!is_erased("u300", 5));
    assert!(is_erased("u302", 301));
    assert!(!is_erased("u302", 302));
}

#[test]
fn responses_go_when_their_survey_says_and_results_with_them() {
    let world = World::new();
    let console = world.console();
    for (n, (survey_id, days)) in [("short", 0), ("short", 1), ("short", 5), ("long", 0)].into_iter().enumerate() {
        let at = NOW + days * DAY;
        let data = Data {
            response_id: format!("r{n}"),
            survey_id: survey_id.into(),
            user_id: "ann".into(),
            test: false,
            ..Data::sample("default", at)
        };
        let record = topics::ResponseRecord::of(EventType::Completed, at, &data);
        world.write(Topic::Responses, n as u64 + 1, topics::encode(&record));
    }
    let listed = || {
        let page =
            console.list(List::Responses, "default", &Filter::default(), PageRequest::first(50)).expect("listed");
        page.rows.iter().map(|row| row["response_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    until("all are listed", || listed().len() == 4);
    let results = |survey_id: &str| {
        let survey = SurveyRef::new("default", survey_id);
        let found = console.results(survey, &askwhen_wire::listing::ResultsQuery::default()).expect("read");
        (found.total.responses, found.texts.values().map(Vec::len).sum::<usize>())
    };
    assert_eq!((results("short"), results("long")), ((3, 3), (1, 1)));
    let store = world.store();
    let prune = |before| super::kept::prune_survey(&store, SurveyRef::new("default", "short"), before, 100);
    prune(NOW).expect("written");
    assert_eq!(listed().len(), 4, "what began at that time stays");
    prune(NOW + DAY + 1).expect("written");
    assert_eq!((listed(), results("short"), results("long")), (vec!["r2".to_owned(), "r3".to_owned()], (1, 1), (1, 1)));
    // Those of the other survey and the later one are found by a filter, too.
    let kept_since = [("short".to_owned(), NOW + 6 * DAY)].into();
    let filter = Filter { kept_since, ..Filter::default() };
    let page = console.list(List::Responses, "default", &filter, PageRequest::first(50)).expect("listed");
    assert_eq!(page.rows.len(), 1);
    let user = Filter { user_id: Some("ann".into()), ..Filter::default() };
    assert_eq!(console.list(List::Responses, "default", &user, PageRequest::first(50)).expect("listed").rows.len(), 2);
}

#[test]
fn facts_that_earlier_versions_noted_twice_are_noted_once_and_count_once() {
    let world = World::new();
    let data = Data { response_id: "r1".into(), survey_id: "s".into(), ..Data::sample("default", NOW) };
    let record = topics::ResponseRecord::of(EventType::Completed, NOW, &data);
    world.write(Topic::Responses, 1, topics::encode(&record));
    let counted = |console: &Console| {
        let stats = console.stats(SurveyRef::new("default", "s"), None, None).expect("read");
        (stats["answered"].clone(), stats["completed"].clone())
    };
    let console = world.console();
    until("it is counted", || counted(&console) == (json!(1), json!(1)));
    drop(console);
    let store = world.store();
    let mut batch = Batch::default();
    let known = [&[super::order::KNOWN_FACTS], &b"default\0s\0completed\0r1"[..]].concat();
    batch.put(families::INDEX, known.clone(), []);
    batch.delete(families::META, b"facts_once");
    store.write(batch).expect("written");
    world.write(Topic::Responses, 1, topics::encode(&record));
    world.write(
        Topic::Responses,
        2,
        topics::encode(&topics::ResponseRecord::of(
            EventType::Completed,
            NOW,
            &Data { response_id: "r2".into(), ..data.clone() },
        )),
    );
    let console = world.console();
    until("the second is counted", || counted(&console) == (json!(2), json!(2)));
    assert_eq!(store.get(families::INDEX, &known).expect("read"), None);
}

/// Takes records in one after the other, as if each came in a round of its own.
fn take_in(store: &Store, take: impl FnOnce(&mut Round<'_>) -> Result<(), Error>) {
    let mut round = Round::new(store);
    take(&mut round).expect("taken");
    store.write(round.into_changes().batch).expect("written");
}

#[test]
fn what_was_sent_again_is_known_in_whatever_order_it_is_read() {
    let again = askwhen_domain::id::successor("first");
    let place = |offset| Some(RecordPosition { partition: 0, offset });
    let dead = |id: &str| AttemptRecord { ended: Some(AttemptEnd::Dead), next_due_at: None, ..read(&attempt(id, 1)) };
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let store = Arc::new(Store::Memory(Memory::default()));
        for record in order {
            take_in(&store, |round| match record {
                0 => deliveries::apply_delivery(delivery("first"), place(1), place(1), round),
                1 => deliveries::apply_attempt(dead("first"), round),
                _ => deliveries::apply_delivery(delivery(&again), place(2), place(1), round),
            });
        }
        let console = Console::over(store.clone());
        let listed = |status: &str| {
            let filter = Filter { status: Some(status.into()), ..Filter::default() };
            console.list(List::Deliveries, "default", &filter, PageRequest::first(9)).expect("readable").rows
        };
        assert_eq!((listed("resent").len(), listed("dead").len()), (1, 0), "{order:?}");
        assert_eq!(listed("resent")[0]["resent_as"], again.as_str());
        let shown = console.delivery("default", &again).expect("readable").expect("it is there").shown;
        assert_eq!(shown["resend_of"], "first");
        // That one fails, too: of the cause the first was sent again, and this was not.
        take_in(&store, |round| deliveries::apply_attempt(dead(&again), round));
        let causes = console.causes("default", 0).expect("readable");
        assert_eq!(causes.iter().map(|cause| (cause.count, cause.resent)).collect::<Vec<_>>(), [(2, 1)], "{order:?}");
        let third = askwhen_domain::id::successor(&again);
        assert_eq!(console.successor("default", "first").expect("readable"), Some(third.clone()));
        assert!(console.delivery("default", &third).expect("readable").is_none(), "it is not there yet");
        order::prune(&store, List::Deliveries, NOW + 1, 9, deliveries::forget).expect("written");
        for family in [families::ENTRIES, families::INDEX] {
            assert_eq!(store.ascending(family, &[], 9).expect("readable"), [], "{order:?}");
        }
    }
}

/// A response that is begun under an alias goes on in the partition of its user, of a higher
/// or a lower number, and either may be read first.
#[test]
fn a_response_of_two_names_is_the_newer_ones_in_whatever_order_it_is_read() {
    let of = |user_id: &str, completed: bool, at: Millis| Data {
        user_id: user_id.into(),
        completed,
        created_at: NOW,
        updated_at: at,
        response_id: "r".into(),
        survey_id: "s".into(),
        test: false,
        ..Data::sample("default", at)
    };
    for (first, second, later) in [(0, 1, 5), (1, 0, 5), (0, 1, 0), (1, 0, 0)] {
        let records = [
            (EventType::Answered, of("anon", false, NOW), RecordPosition { partition: first, offset: 9 }),
            (EventType::Completed, of("ann", true, NOW + later), RecordPosition { partition: second, offset: 3 }),
        ];
        let rows = [[0, 1], [1, 0]].map(|order| {
            let store = Arc::new(Store::Memory(Memory::default()));
            for (kind, data, source) in order.map(|n| &records[n]) {
                let bytes = topics::encode(&topics::ResponseRecord::of(*kind, data.updated_at, data));
                take_in(&store, |round| kept::apply_response(&bytes, *source, round).map(|_| ()));
            }
            let console = Console::over(store.clone());
            let listed = |user_id: &str| {
                let filter = Filter { user_id: Some(user_id.into()), ..Filter::default() };
                console.list(List::Responses, "default", &filter, PageRequest::first(9)).expect("readable").rows
            };
            let (anon, ann) = (listed("anon"), listed("ann"));
            assert_eq!((anon.len(), ann.len()), (0, 1), "{first}, {second}, {later}");
            assert_eq!((&ann[0]["user_id"], &ann[0]["completed"]), (&json!("ann"), &json!(true)));
            [families::ENTRIES, families::INDEX].map(|family| store.ascending(family, &[], 99).expect("readable"))
        });
        assert_eq!(rows[0], rows[1], "{first}, {second}, {later}");
    }
}

#[test]
fn what_is_too_old_goes_oldest_first_in_the_lists_of_every_project() {
    let store = Arc::new(Store::Memory(Memory::default()));
    let projects = ["a", "ab", "b"];
    for (n, project) in (0..30).map(|n| (n, projects[n as usize % 3])) {
        let record = DecisionRecord { project: project.into(), ..decision(&format!("d{n}"), n, Vec::new()) };
        let source = RecordPosition { partition: 0, offset: n };
        take_in(&store, |round| kept::apply_decision(&topics::encode(&record), source, round).map(|_| ()));
    }
    let console = Console::over(store.clone());
    let left = |before: Millis, limit: usize| {
        let forget = |bytes: &[u8], batch: &mut WriteBatch<'_>| kept::forget(List::Decisions, bytes, batch);
        order::prune(&store, List::Decisions, before, limit, forget).expect("written");
        projects.map(|project| {
            let page = console.list(List::Decisions, project, &Filter::default(), PageRequest::first(50));
            let rows = page.expect("readable").rows;
            (rows.len(), rows.last().map(|row| row["decision_id"].as_str().expect("an id").to_owned()))
        })
    };
    let of = |count: usize, id: &str| (count, Some(id.to_owned()));
    assert_eq!(left(NOW, 50), [of(10, "d0"), of(10, "d1"), of(10, "d2")]);
    assert_eq!(left(NOW + 7, 50), [of(7, "d9"), of(8, "d7"), of(8, "d8")]);
    assert_eq!(left(NOW + 20, 2), [of(5, "d15"), of(8, "d7"), of(8, "d8")], "no more than are removed at a time");
    assert_eq!(left(NOW + 100, 50), [(0, None), (0, None), (0, None)]);
}
