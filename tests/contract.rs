//! One suite for every log, one for every store; and the embedded log's files
//! cut and flipped.

use askwhen::engine::families;
use askwhen_log::disk::SimulatedDisk;
use askwhen_log::embedded::Options;
use askwhen_log::kafka::Settings;
use askwhen_log::{
    AckQueue, Append, AppendedRange, Embedded, Error, Fetch as _, Kafka, Log, NewRecord, Record, Simulated,
    TopicPartition, Urgency, Watermarks,
};
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Batch, Memory, Rocks, Shared, Store};
use askwhen_wire::topic::Topic;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EVENTS: TopicPartition = TopicPartition { topic: Topic::Events, partition: 1 };

fn record(n: usize) -> NewRecord {
    let new = NewRecord {
        key: Some(format!("k{n}").into()),
        headers: Vec::new(),
        value: Some(vec![n as u8; 20 + n % 50].into()),
    };
    new.header("id", n.to_string())
}

fn embedded(dir: &Path) -> Result<Log, Error> {
    Ok(Log::Embedded(Arc::new(Embedded::open(dir, 2, Clock::new())?)))
}

/// A log on real brokers, under a prefix that nothing else uses.
fn kafka() -> Log {
    let brokers = std::env::var("ASKWHEN_TEST_BROKERS").expect(
        "ASKWHEN_TEST_BROKERS must name brokers: `script/test` starts one, and so does `script/kafka start FOLDER`",
    );
    let settings = Settings {
        brokers,
        client: BTreeMap::new(),
        prefix: format!("contract-{}.", uuid::Uuid::new_v4().simple()),
        partitions: 2,
        replication: 1,
        compression: "none".into(),
        retention: BTreeMap::new(),
        key_check: "k".into(),
    };
    Log::Kafka(Kafka::connect(settings).expect("connected"))
}

/// What a read in one go gives, read as those do who follow.
fn followed(log: &Log, at: TopicPartition, from: u64, end: u64) -> Vec<Record> {
    let notify = Arc::new(Notify::default());
    let mut reader = log.reader("contract", notify.clone());
    let mut all: Vec<Record> = Vec::new();
    while all.last().map_or(from, |last| last.offset + 1) < end {
        let next = all.last().map_or(from, |last| last.offset + 1);
        let chunk = reader.read_or_wait(at, next, 64).expect("readable");
        assert!(!chunk.records.is_empty(), "the end is {end}, and nothing comes from {next} on");
        all.extend(chunk.records);
    }
    all
}

fn log_suite(log: &Log) {
    let append = |at: TopicPartition, records: Vec<NewRecord>| {
        tokio::runtime::Handle::current().block_on(log.append_durably(at, records)).expect("taken")
    };
    let bounds = |at: TopicPartition| log.bounds(at).expect("known");
    assert_eq!(bounds(EVENTS), Watermarks { start: 0, end: 0 });
    assert!(log.read(EVENTS, 0, 100).expect("empty").is_empty());
    assert_eq!(append(EVENTS, vec![record(0), record(1)]), AppendedRange { first: 0, end: 2 });
    assert_eq!(append(EVENTS, vec![record(2)]), AppendedRange { first: 2, end: 3 });
    let tombstone = NewRecord { key: Some("k".into()), headers: Vec::new(), value: None };
    assert_eq!(append(EVENTS, vec![tombstone]), AppendedRange { first: 3, end: 4 });
    let all = followed(log, EVENTS, 0, 4);
    let offsets: Vec<u64> = all.iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
    assert_eq!((&all[1].key, &all[1].value), (&record(1).key, &record(1).value));
    assert_eq!(all[1].header("id").expect("a header"), "1");
    assert_eq!(all[3].value, None);
    assert_eq!(log.read(EVENTS, 2, 1).expect("readable"), all[2..3], "at least one, the same whoever reads");
    assert!(log.read(EVENTS, 4, 100).expect("at the end").is_empty());
    let other = TopicPartition { topic: Topic::Events, partition: 0 };
    assert_eq!(bounds(other).end, 0, "partitions are their own");
    assert_eq!(log.all_bounds(&[other, EVENTS]).expect("known")[1].end, 4);
    assert_eq!(log.offset_at(EVENTS, 0).expect("readable"), 0);
    assert_eq!(log.offset_at(EVENTS, 4_000_000_000_000).expect("readable"), 4);
    assert_eq!(log.offset_at(EVENTS, all[3].appended_at + 1).expect("readable"), 4);
    let waiting: Vec<_> = (0..200)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.append_durably(EVENTS, vec![record(n)]).await.expect("taken") })
        })
        .collect();
    let mut given: Vec<u64> = Vec::new();
    for one in waiting {
        given.push(tokio::runtime::Handle::current().block_on(one).expect("no panic").first);
    }
    given.sort_unstable();
    assert_eq!(given, (4..204).collect::<Vec<u64>>(), "every append has its own place");
    actors_append(log);
    // From one place, then from another further back, as after a restart.
    assert_eq!(followed(log, EVENTS, 100, 204).len(), 104);
    assert_eq!(followed(log, EVENTS, 10, 204)[0].offset, 10);
    let mut scanned = 0;
    log.scan::<Error>(EVENTS, 4, 204, |_| {
        scanned += 1;
        Ok(())
    })
    .expect("readable");
    assert_eq!(scanned, 200);
}

/// In order, one acknowledgement an append, and the bell of whoever waits.
fn actors_append(log: &Log) {
    let at = TopicPartition { topic: Topic::Decisions, partition: 1 };
    let notify = Arc::new(Notify::default());
    let acks = AckQueue::new(notify.clone());
    for tag in 0..50_usize {
        let records = (0..=tag % 3).map(|n| record(tag + n)).collect();
        // A few linger, and keep their places all the same; the last one does, too.
        let urgency = if tag % 5 == 4 { Urgency::Lingers } else { Urgency::Now };
        log.append_all(vec![Append { at, records, ack: acks.tagged(tag as u64), urgency }]);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut placed = 0;
    while placed < 50 {
        assert!(std::time::Instant::now() < deadline, "an acknowledgement");
        match acks.try_next() {
            Some((_, outcome)) => placed += outcome.map(|_| 1).expect("taken"),
            None => notify.wait(std::time::Duration::from_secs(1)),
        }
    }
    let expected: Vec<_> = (0..50_usize).flat_map(|tag| (0..=tag % 3).map(move |n| record(tag + n).key)).collect();
    let keys: Vec<_> = followed(log, at, 0, expected.len() as u64).into_iter().map(|r| r.key).collect();
    assert_eq!(keys, expected, "in the order of the appends");
}

/// Trimmed as far as can be done cheaply; never what is not below.
fn trims(log: &Log, exactly: bool) {
    log.trim(EVENTS, 50).expect("trimmed");
    let bounds = log.bounds(EVENTS).expect("known");
    assert_eq!(bounds.end, 204);
    assert!(if exactly { bounds.start == 50 } else { bounds.start <= 50 });
    if exactly {
        let mut reader = log.reader("contract", Arc::default());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let fault = loop {
            match reader.read(EVENTS, 10, 100) {
                Err(fault) => break fault,
                Ok(chunk) => assert!(chunk.records.is_empty() && std::time::Instant::now() < deadline, "{chunk:?}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        assert!(matches!(fault, Error::Trimmed { start: 50, .. }), "{fault}");
    }
}

async fn suite(make: impl FnOnce() -> (Log, bool) + Send + 'static) {
    let done = tokio::task::spawn_blocking(move || {
        let (log, trims_exactly) = make();
        log_suite(&log);
        trims(&log, trims_exactly);
    });
    done.await.expect("the contract is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_log_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    suite(move || (embedded(&path).unwrap(), false)).await;
    suite(|| (Log::Simulated(Arc::new(Simulated::new(1, 2))), true)).await;
    suite(|| {
        let disk = SimulatedDisk::new(1).mount();
        let log = Embedded::open_on(
            disk,
            Path::new("/log"),
            2,
            Clock::new(),
            Options { segment_bytes: 3_000, ..Options::default() },
        );
        (Log::Embedded(Arc::new(log.unwrap())), false)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_the_contract() {
    suite(|| (kafka(), true)).await;
}

#[tokio::test]
async fn an_embedded_log_is_there_again_and_is_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let log = embedded(dir.path()).unwrap();
    let incarnation = log.incarnation();
    log.append_durably(EVENTS, (0..10).map(record).collect()).await.unwrap();
    assert!(matches!(embedded(dir.path()), Err(Error::Refused(why)) if why.contains("in use")));
    drop(log);
    let log = embedded(dir.path()).unwrap();
    assert_eq!((log.incarnation(), log.bounds(EVENTS).unwrap().end), (incarnation, 10));
    drop(log);
    assert!(
        matches!(Embedded::open(dir.path(), 3, Clock::new()), Err(Error::Refused(why)) if why.contains("partitions"))
    );
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("events/1").read_dir().unwrap().next().unwrap().unwrap().path()
}

#[tokio::test]
async fn cut_deeper_than_the_last_group_it_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = embedded(dir.path()).unwrap();
    log.append_durably(EVENTS, (0..5).map(record).collect()).await.unwrap();
    drop(log);
    let file = segment(dir.path());
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len - 1).unwrap();
    for _ in 0..2 {
        assert!(
            matches!(embedded(dir.path()), Err(Error::Damaged { offset: 4, .. })),
            "it was closed in order: nothing may be missing"
        );
    }
}

#[tokio::test]
async fn damage_under_a_running_log_is_an_error_not_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let log = embedded(dir.path()).unwrap();
    log.append_durably(EVENTS, (0..5).map(record).collect()).await.unwrap();
    let file = segment(dir.path());
    let middle = std::fs::metadata(&file).unwrap().len() as usize / 2;
    // What is older than this is not in memory any more.
    let large = NewRecord { value: Some(vec![b'x'; 200 << 10].into()), ..NewRecord::default() };
    log.append_durably(EVENTS, vec![large]).await.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[middle] ^= 1;
    use std::os::unix::fs::FileExt as _;
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&bytes, 0).unwrap();
    let sound = log.read(EVENTS, 0, usize::MAX >> 1).unwrap();
    assert!(sound.len() < 5 && sound.iter().enumerate().all(|(n, found)| found.value == record(n).value));
    let next = sound.len() as u64;
    assert!(matches!(log.read(EVENTS, next, 1), Err(Error::Damaged { offset, .. }) if offset == next));
}

#[tokio::test]
async fn the_logs_files_are_for_the_owner_alone_also_those_that_were_there_before() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("log");
    drop(embedded(&dir).unwrap());
    let mut wide = Vec::new();
    let mut open = vec![dir.clone()];
    while let Some(path) = open.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} was made {mode:o}", path.display());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode | 0o055)).unwrap();
        if path.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        wide.push(path);
    }
    assert!(wide.len() > 40);
    let log = embedded(&dir).unwrap();
    log.append_durably(EVENTS, vec![record(0)]).await.unwrap();
    for path in wide.into_iter().filter(|path| path.exists()) {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    }
}

/// As version 0.1.0 left it: ends alone, and nothing while it runs.
#[tokio::test]
async fn a_log_of_version_0_1_0_opens_and_what_it_noted_holds() {
    let dir = tempfile::tempdir().unwrap();
    let log = embedded(dir.path()).unwrap();
    log.append_durably(EVENTS, (0..18).map(record).collect()).await.unwrap();
    drop(log);
    let file = segment(dir.path());
    std::fs::write(dir.path().join("ends.json"), r#"{"events/0":0,"events/1":18}"#).unwrap();
    assert_eq!(embedded(dir.path()).unwrap().bounds(EVENTS).unwrap().end, 18);
    std::fs::write(dir.path().join("ends.json"), r#"{"events/0":0,"events/1":18}"#).unwrap();
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(len - 1).unwrap();
    assert!(matches!(embedded(dir.path()), Err(Error::Damaged { offset: 17, .. })));
}

fn store_suite(store: &Store) {
    let mut batch = Batch::default();
    for n in 0..10u8 {
        batch.put(families::USERS, [n], [n, n]);
    }
    batch.put(families::META, b"m".to_vec(), b"v".to_vec());
    store.write(batch).unwrap();
    assert_eq!(store.get(families::USERS, &[3]).unwrap(), Some(vec![3, 3]));
    assert_eq!(store.get(families::META, &[3]).unwrap(), None, "families are their own");
    let mut batch = Batch::default();
    batch.delete(families::USERS, [3]);
    batch.delete_range(families::USERS, [5], [8]);
    batch.put(families::USERS, [4], [9]);
    store.write(batch).unwrap();
    let keys = |entries: Vec<(Vec<u8>, Vec<u8>)>| entries.iter().map(|(k, _)| k[0]).collect::<Vec<u8>>();
    assert_eq!(keys(store.ascending(families::USERS, &[], 100).unwrap()), [0, 1, 2, 4, 8, 9]);
    assert_eq!(keys(store.ascending(families::USERS, &[3], 2).unwrap()), [4, 8]);
    let walked = |is_up: bool, from: u8, limit: usize| {
        let mut keys = Vec::new();
        let each = |key: &[u8], value: &[u8]| {
            assert_eq!(store.get(families::USERS, key).unwrap().as_deref(), Some(value), "it can be read meanwhile");
            keys.push(key[0]);
            keys.len() < limit
        };
        match is_up {
            true => store.ascend(families::USERS, &[from], each).unwrap(),
            false => store.descend(families::USERS, &[from], each).unwrap(),
        }
        keys
    };
    assert_eq!(walked(false, 8, 3), [8, 4, 2]);
    assert_eq!(walked(false, 7, 9), [4, 2, 1, 0], "from a key that is not there to the first of the family");
    assert_eq!(walked(true, 2, 3), [2, 4, 8]);
    assert_eq!(walked(true, 3, 9), [4, 8, 9], "from a key that is not there to the last of the family");
    assert_eq!(store.get(families::USERS, &[4]).unwrap(), Some(vec![9]));
}

#[test]
fn every_store_keeps_the_contract() {
    store_suite(&Store::Memory(Memory::default()));
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::Rocks(Rocks::open(dir.path(), families::ALL, &Shared::new(8 << 20)).unwrap());
    store_suite(&open());
    assert_eq!(open().get(families::USERS, &[4]).unwrap(), Some(vec![9]), "it is there again");
}
