//! The delivery alone, on a log that holds what is to be sent: messages per
//! CPU-second beside a bare client that posts the same bytes to the same
//! receiver in the same run; and how long the others wait when one endpoint in a
//! hundred hangs. The receiver is a process of its own.
//! `ASKWHEN_BENCH_SECONDS` sets how long each takes (3).

mod common;

use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_wire::profile;
use bytes::Bytes;
use common::world::{Receiver, World, message, receive, receives};
use common::{cpu_us, load, median};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::time::{Duration, Instant};

const ENDPOINTS: u64 = 100;
/// The client and the delivery take turns so often.
const ROUNDS: usize = 3;

fn seconds() -> f64 {
    std::env::var("ASKWHEN_BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3.0)
}

fn report(name: &str, count: u64, took: Duration, cpu_us: f64) -> f64 {
    let each = cpu_us / count.max(1) as f64;
    println!("{name:<58} {:>8.0} /s {each:>8.2} CPU-µs each", count as f64 / took.as_secs_f64());
    each
}

async fn bare(receiver: &str, count: u64) -> f64 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let delivery = message(1, ENDPOINTS, 0);
    let data = delivery.message.data.as_ref().expect("a sample");
    let body = Bytes::from(profile::standard::body(EventType::Completed, 0, data));
    let (started, before) = (Instant::now(), cpu_us());
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, body, url) = (client.clone(), body.clone(), format!("http://{receiver}/hook"));
        workers.spawn(async move {
            for _ in 0..count / 64 {
                let request = hyper::Request::post(&url).header("content-type", "application/json");
                let request = request.body(Full::new(body.clone())).expect("a request");
                let answer = client.request(request).await.expect("an answer");
                drop(answer.into_body().collect().await);
            }
        });
    }
    while workers.join_next().await.is_some() {}
    report("a bare client, 64 at a time, unsigned", count / 64 * 64, started.elapsed(), cpu_us() - before)
}

async fn backlog(receiver: &str, name: &str, count: u64) -> f64 {
    let world = World::new(receiver, ENDPOINTS, 0);
    world.fill(count);
    let (started, before) = (Instant::now(), cpu_us());
    world.take_up();
    world.until_sent(count).await;
    report(name, count, started.elapsed(), cpu_us() - before)
}

/// Messages at an even rate; how long those of endpoints that answer take from
/// their creation to their answer, in milliseconds, at p50 and p99.
async fn latencies(receiver: &str, hanging: u64, rate: u64) -> (f64, f64) {
    let world = World::new(receiver, ENDPOINTS, hanging);
    world.take_up();
    world.until_running();
    let (started, count) = (Instant::now(), (seconds() * rate as f64) as u64);
    let mut created = Vec::new();
    for n in 0..count {
        let due = Duration::from_secs_f64(n as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        created.push(world.clock.now());
        world.deliver(n);
    }
    world.until_sent(count - count * hanging / ENDPOINTS).await;
    let made = world.attempts_made();
    let others = made.into_iter().filter(|(n, ..)| n % ENDPOINTS >= hanging);
    let mut waited: Vec<Millis> = others.map(|(n, _, written_at)| written_at - created[n as usize]).collect();
    waited.sort_unstable();
    let at = |share: f64| waited[((waited.len() - 1) as f64 * share) as usize] as f64;
    (at(0.5), at(0.99))
}

/// Deliveries that wait for their retries, due one after the other from a moment
/// on; how late their attempts begin, in milliseconds: the least, p50, p99, the most.
async fn waiting(receiver: &str, count: u64, rate: u64) -> [Millis; 4] {
    let world = World::new(receiver, ENDPOINTS, 0);
    // Time enough to write them and to take them up.
    let from = world.clock.now() + 1_000 + count as Millis / 8;
    let due = |n: u64| from + (n * 1_000 / rate) as Millis;
    for n in 0..count {
        world.wait_until(n, due(n));
        if n % 1_000 == 999 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    world.take_up();
    world.until_running();
    assert!(world.clock.now() < from, "taken up before the first is due");
    tokio::time::sleep(Duration::from_millis((due(count) - world.clock.now()).unsigned_abs())).await;
    world.until_sent(count).await;
    let mut late: Vec<Millis> =
        world.attempts_made().into_iter().map(|(n, started_at, _)| started_at - due(n)).collect();
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    [late[0], at(0.5), at(0.99), late[late.len() - 1]]
}

fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Some(delay) = receives() {
        return runtime.block_on(receive(delay));
    }
    runtime.block_on(async {
        let count = (seconds() * 4_000.0) as u64;
        let receiver = Receiver::start(0);
        let (mut bare_us, mut own_us) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare_us.push(bare(&receiver.1, count).await);
            own_us.push(backlog(&receiver.1, "the delivery, a backlog, 100 endpoints at 0 ms", count).await);
        }
        let (bare_us, own_us) = (median(&bare_us), median(&own_us));
        println!(
            "medians: the delivery {own_us:.1}, a bare client {bare_us:.1} CPU-µs each; messages per CPU-second {:.2} of its; load {:.1}",
            bare_us / own_us,
            load()
        );
        let slow = Receiver::start(50);
        backlog(&slow.1, "the delivery, a backlog, 100 endpoints at 50 ms", count).await;
        for hanging in [0, 1] {
            let (half, most) = latencies(&receiver.1, hanging, 1_000).await;
            println!("1000 /s, {hanging} of 100 endpoints hang: the others' p50 {half} ms, p99 {most} ms");
        }
        let waits = (seconds() * 10_000.0) as u64;
        let [least, half, most, last] = waiting(&receiver.1, waits, 2_000).await;
        println!("{waits} that wait, due at 2000 /s: late by {least} to {last} ms, p50 {half}, p99 {most}");
    });
}
