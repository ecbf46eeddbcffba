//! The embedded log beside a bare group commit, single records of 300 bytes, at 1,
//! 8, 64 and 512 writers. The bare one is a thread that writes whatever waits to one
//! file of a length that stays, syncs it once, and tells all who waited.
//! `ASKWHEN_BENCH_SECONDS` sets how long each takes (3).

mod common;

use askwhen_log::{Embedded, Log, NewRecord, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_process::thread::Thread;
use askwhen_wire::topic::Topic;
use bytes::Bytes;
use common::{cpu_us, load, median, rate};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const PARTITIONS: u32 = 8;
const ROUNDS: usize = 3;
const RECORD_BYTES: usize = 300;
const FILE_BYTES: usize = 4 << 20;

fn seconds() -> f64 {
    std::env::var("ASKWHEN_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3.0)
}

type Waiting = (Bytes, oneshot::Sender<()>);

/// Writes groups until nobody can ask for one any more.
fn commit_groups(file: &File, queue: &mpsc::Receiver<Waiting>) {
    let (mut place, mut buffer) = (0, Vec::new());
    while let Ok(first) = queue.recv() {
        buffer.clear();
        let mut group = Vec::new();
        for (record, done) in std::iter::once(first).chain(queue.try_iter()) {
            buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&record);
            group.push(done);
        }
        if place + buffer.len() > FILE_BYTES {
            place = 0;
        }
        file.write_all_at(&buffer, place as u64).expect("written");
        file.sync_data().expect("synced");
        place += buffer.len();
        group.into_iter().for_each(|done| done.send(()).expect("it waits"));
    }
}

#[derive(Clone)]
enum Writer {
    Bare(mpsc::Sender<Waiting>),
    Log(Log),
}

impl Writer {
    async fn append(&self, partition: u32, value: Bytes) {
        match self {
            Writer::Bare(queue) => {
                let (done, waits) = oneshot::channel();
                queue.send((value, done)).expect("it runs");
                waits.await.expect("it is written");
            }
            Writer::Log(log) => {
                let record = NewRecord { key: Some("user".into()), headers: Vec::new(), value: Some(value) };
                let at = TopicPartition { topic: Topic::Events, partition };
                log.append_durably(at, vec![record]).await.expect("taken");
            }
        }
    }
}

/// Records per second, and CPU time of each.
async fn write(writer: Writer, writers: u32) -> (f64, f64) {
    let (before, started) = (cpu_us(), Instant::now());
    let until = started + Duration::from_secs_f64(seconds());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..writers {
        let writer = writer.clone();
        tasks.spawn(async move {
            let value = Bytes::from(vec![b'x'; RECORD_BYTES]);
            let mut done = 0u64;
            while Instant::now() < until {
                writer.append(task % PARTITIONS, value.clone()).await;
                done += 1;
            }
            done
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done.expect("no panic");
    }
    (rate(total, started.elapsed()), (cpu_us() - before) / total.max(1) as f64)
}

async fn bare(writers: u32) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = File::create(dir.path().join("commit")).expect("a file");
    file.write_all_at(&vec![0; FILE_BYTES], 0).expect("written");
    file.sync_all().expect("synced");
    let (send, queue) = mpsc::channel();
    let thread = Thread::spawn("commit", move || commit_groups(&file, &queue)).expect("a thread");
    let found = write(Writer::Bare(send), writers).await;
    drop(thread);
    found
}

async fn log(writers: u32) -> (f64, f64) {
    let dir = tempfile::tempdir().expect("a folder");
    let log = Log::Embedded(Arc::new(Embedded::open(dir.path(), PARTITIONS, Clock::new()).expect("it opens")));
    write(Writer::Log(log), writers).await
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!(
        "{:>8} {:>14} {:>10} {:>14} {:>10} {:>12} {:>6}",
        "writers", "log, CPU-µs", "/s", "bare, CPU-µs", "/s", "log's share", "load"
    );
    for writers in [1, 8, 64, 512] {
        let (mut own, mut other) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            own.push(runtime.block_on(log(writers)));
            other.push(runtime.block_on(bare(writers)));
        }
        let of = |side: &[(f64, f64)]| {
            let (rates, costs): (Vec<f64>, Vec<f64>) = side.iter().copied().unzip();
            (median(&rates), median(&costs))
        };
        let ((own_rate, own_us), (bare_rate, bare_us)) = (of(&own), of(&other));
        println!(
            "{writers:>8} {own_us:>14.1} {own_rate:>10.0} {bare_us:>14.1} {bare_rate:>10.0} {:>12.2} {:>6.1}",
            bare_us / own_us,
            load()
        );
    }
}
