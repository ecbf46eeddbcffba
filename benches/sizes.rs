//! What a record and a delivery cost by the sizes of what they meet: users, the
//! history of each, surveys, endpoints, and deliveries that wait. CPU-µs of this
//! process; the receiver is another one. Flat is the aim.
//! `ASKWHEN_BENCH_MOST` bounds all sizes (10000), `ASKWHEN_BENCH_RECORDS` says how
//! many records or deliveries are measured at each (10000).

mod common;

use common::machine::EngineAlone;
use common::world::{Receiver, World, receive, receives};
use common::{Dice, cpu_us, load, resident_bytes, setting};
use std::time::Duration;

const SURVEYS: u64 = 20;
/// Of so many records one is a trigger.
const TRIGGER_EVERY: u64 = 50;
const HISTORY_USERS: u64 = 1_000;
const ENDPOINTS: u64 = 100;
const HOUR_MS: i64 = 3_600_000;

/// The sizes of a row of the table, as far as they are asked for.
fn sizes(all: &[u64]) -> Vec<u64> {
    let most = setting("ASKWHEN_BENCH_MOST", 10_000);
    all.iter().copied().filter(|size| *size <= most).collect()
}

fn measured() -> u64 {
    setting("ASKWHEN_BENCH_RECORDS", 10_000)
}

fn row(what: &str, size: u64, columns: &[(&str, f64)]) {
    let columns: Vec<String> = columns.iter().map(|(name, value)| format!("{value:>9.2} {name}")).collect();
    println!("{what:<22} {size:>9} {}", columns.join(" "));
}

/// CPU time of each of so many.
fn each(count: u64, mut work: impl FnMut(u64)) -> f64 {
    let before = cpu_us();
    (0..count).for_each(&mut work);
    (cpu_us() - before) / count as f64
}

/// Events, and every fiftieth a trigger, of users who come equally often.
fn mixed(engine: &mut EngineAlone, dice: &mut Dice, users: u64) {
    let user = dice.roll() % users;
    match dice.roll() % TRIGGER_EVERY {
        0 => engine.tell(user, None),
        which => engine.tell(user, Some(&format!("event-{}", which % SURVEYS))),
    }
}

fn by_users() {
    for users in sizes(&[10_000, 100_000, 1_000_000, 10_000_000]) {
        let mut engine = EngineAlone::open();
        engine.define_surveys(SURVEYS, |_| "Main".into());
        let first = each(users, |user| engine.tell(user, Some(&format!("event-{}", user % SURVEYS))));
        engine.checkpoint();
        let mut dice = Dice(7);
        let later = each(measured(), |_| mixed(&mut engine, &mut dice, users));
        let checkpoint = each(1, |_| engine.checkpoint()) / measured() as f64;
        let columns = [
            ("a record", later + checkpoint),
            ("a user's first", first),
            ("MiB resident", resident_bytes() as f64 / f64::from(1 << 20)),
        ];
        row("users", users, &columns);
    }
}

fn by_history() {
    for events in sizes(&[1, 10, 100, 1_000]) {
        let mut engine = EngineAlone::open();
        engine.define_surveys(SURVEYS, |_| "Main".into());
        for n in 0..events * HISTORY_USERS {
            engine.tell(n % HISTORY_USERS, Some(&format!("event-{}", n / HISTORY_USERS % SURVEYS)));
        }
        engine.checkpoint();
        let mut dice = Dice(7);
        let record = each(measured(), |_| mixed(&mut engine, &mut dice, HISTORY_USERS));
        let checkpoint = each(1, |_| engine.checkpoint()) / measured() as f64;
        let trigger = each(measured() / 10, |n| engine.tell(n % HISTORY_USERS, None));
        row("events of each user", events, &[("a record", record + checkpoint), ("a trigger", trigger)]);
    }
}

fn by_surveys() {
    for surveys in sizes(&[1, 20, 100, 500]) {
        let users = 10_000;
        let event_us = |engine: &mut EngineAlone, name: &str| each(measured(), |n| engine.tell(n % users, Some(name)));
        let mut engine = EngineAlone::open();
        // The first alone shows where triggers come from.
        engine.define_surveys(surveys, |n| if n == 0 { "Main".into() } else { format!("Place-{n}") });
        let columns = [
            ("an event, none listens", event_us(&mut engine, "other")),
            ("one listens", event_us(&mut engine, "event-0")),
            ("a trigger, one shows", each(measured(), |n| engine.tell(n % users, None))),
        ];
        let mut engine = EngineAlone::open();
        engine.define_surveys(surveys, |_| "Main".into());
        let all = each(measured() / 10, |n| engine.tell(n % users, None));
        let one_of_all = all / surveys as f64;
        let mut engine = EngineAlone::open();
        engine.define_limited_surveys(surveys, |n| if n == 0 { "Main".into() } else { format!("Place-{n}") });
        event_us(&mut engine, "event-0");
        let with_quotas = each(measured(), |n| engine.tell(n % users, None));
        row(
            "surveys",
            surveys,
            &[
                &columns[..],
                &[("one shows, all have quotas", with_quotas), ("all show", all), ("for each of them", one_of_all)],
            ]
            .concat(),
        );
    }
}

async fn by_endpoints(receiver: &str) {
    for endpoints in sizes(&[1, 10, 100, 1_000, 10_000]) {
        let world = World::new(receiver, endpoints, 0);
        world.fill(measured());
        let before = cpu_us();
        world.take_up();
        world.until_sent(measured()).await;
        row("endpoints", endpoints, &[("a delivery", (cpu_us() - before) / measured() as f64)]);
    }
}

async fn by_backlog(receiver: &str) {
    for waiting in sizes(&[1_000, 10_000, 100_000, 1_000_000]) {
        let world = World::new(receiver, ENDPOINTS, 0);
        let due_at = world.clock.now() + HOUR_MS;
        for n in 0..waiting {
            world.wait_until(n, due_at);
            while n % 1_000 == 999 && world.waiting() + 500 < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        while world.waiting() < waiting {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let before = cpu_us();
        world.take_up();
        world.until_running();
        let taken_up = (cpu_us() - before) / waiting as f64;
        let before = cpu_us();
        for n in 0..measured() {
            world.deliver(waiting + n);
            while n % 1_000 == 999 && world.attempts() + 500 < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        world.until_sent(measured()).await;
        let delivery = (cpu_us() - before) / measured() as f64;
        row("deliveries that wait", waiting, &[("another delivery", delivery), ("one taken up at a start", taken_up)]);
    }
}

fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Some(delay) = receives() {
        return runtime.block_on(receive(delay));
    }
    println!("CPU-µs; {} measured at each size; load {:.1}", measured(), load());
    by_users();
    by_history();
    by_surveys();
    let receiver = Receiver::start(0);
    runtime.block_on(by_endpoints(&receiver.1));
    runtime.block_on(by_backlog(&receiver.1));
    println!("load {:.1}", load());
}
