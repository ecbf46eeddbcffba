//! One engine, alone, reads the journal that several processes have decided on:
//! what they put out and what they remember must be what it puts out and
//! remembers, record by record and byte by byte.

use askwhen::engine::Engine;
use askwhen::engine::families;
use askwhen_domain::LOGIC_VERSION;
use askwhen_log::{Ack, Error, Kafka, Log, NewRecord, Record, Simulated, TopicPartition, kafka};
use askwhen_partition::Progress;
use askwhen_partition::checkpoint::{CheckpointMeta, Checkpointer};
use askwhen_partition::{Handles, Partition, Replies, Setup, Status};
use askwhen_process::clock::Clock;
use askwhen_store::{Memory, Rocks, Store};
use askwhen_wire::record::{BOUND_MAC_HEADER, MAC_HEADER};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{ID_HEADER, IDENTITY_KEY};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::KAFKA_PARTITIONS;

const OUTPUTS: [Topic; 6] =
    [Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects, Topic::Definitions];

/// Values by topic and id.
type Found = BTreeMap<(&'static str, String), String>;

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

fn all(log: &Log, at: TopicPartition) -> Vec<Record> {
    let bounds = log.bounds(at).expect("bounds");
    let mut records = Vec::new();
    log.scan::<Error>(at, bounds.start, bounds.end, |record| {
        records.push(record);
        Ok(())
    })
    .expect("readable");
    records
}

fn outputs(log: &Log) -> Found {
    let mut found = Found::new();
    for topic in OUTPUTS {
        for partition in 0..topic.partitions(KAFKA_PARTITIONS) {
            for record in all(log, TopicPartition { topic, partition }) {
                // The log's identity is nobody's output.
                let Some(id) = record.header(ID_HEADER) else { continue };
                let (id, value) = (text(Some(id)), text(record.value.as_deref()));
                let before = found.insert((topic.name(), id), value.clone());
                assert!(before.is_none_or(|before| before == value), "one id, two contents");
            }
        }
    }
    found
}

fn incarnation(log: &Log) -> u128 {
    let records = all(log, TopicPartition { topic: Topic::Definitions, partition: 0 });
    let keys = records.iter().map(|record| text(record.key.as_deref()));
    let hex = keys.into_iter().find_map(|key| key.strip_prefix(IDENTITY_KEY).map(str::to_owned));
    u128::from_str_radix(&hex.expect("an identity"), 16).expect("hex")
}

fn users(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let rows = store.ascending(families::USERS, &[], usize::MAX).expect("readable");
    rows.into_iter().map(|(key, value)| (text(Some(&key)), value)).collect()
}

/// Compares; the processes must have ended in order. `owners` are the data
/// directories of all that ever owned a partition. Blocks.
pub fn compare(dir: &Path, owners: &[&str]) {
    let config: toml::Table =
        toml::from_str(&std::fs::read_to_string(dir.join("askwhen.toml")).expect("made")).unwrap();
    let settings = kafka::Settings {
        brokers: config["kafka"]["brokers"].as_str().expect("brokers").to_owned(),
        client: BTreeMap::new(),
        prefix: config["log"]["prefix"].as_str().expect("a prefix").to_owned(),
        partitions: KAFKA_PARTITIONS,
        replication: 1,
        compression: "none".into(),
        retention: BTreeMap::new(),
        key_check: String::new(),
    };
    let real = Log::Kafka(Kafka::observe(settings).expect("the brokers are there"));
    let copy = Arc::new(Simulated::new(incarnation(&real), KAFKA_PARTITIONS));
    let mut ends = Vec::new();
    for partition in 0..KAFKA_PARTITIONS {
        let at = TopicPartition { topic: Topic::Events, partition };
        let records = all(&real, at);
        for (n, record) in (0..).zip(&records) {
            assert_eq!(record.offset, n, "the copy has the same places");
            copy.set_now(record.appended_at);
            let (sender, _) = tokio::sync::oneshot::channel();
            let new =
                NewRecord { key: record.key.clone(), headers: record.headers.clone(), value: record.value.clone() };
            copy.append(at, vec![new], Ack::Once(sender));
        }
        // Behind it there is nothing but what partitions tell each other: whoever
        // stops last may leave a letter unread.
        let is_told = |record: &Record| [MAC_HEADER, BOUND_MAC_HEADER].iter().all(|name| record.header(name).is_none());
        let told = records.iter().rposition(is_told);
        ends.push(told.map_or(0, |place| place as u64 + 1));
    }

    let key = ClusterKey::parse(&std::fs::read_to_string(dir.join("cluster.key")).expect("made")).expect("a key");
    let checkpointer = Checkpointer::start().expect("a thread");
    let mut setup = Setup::new(Log::Simulated(copy.clone()), Clock::new(), key, Replies::default(), checkpointer);
    setup.checkpoint_every = Duration::from_secs(3_600);
    let stores: Vec<Arc<Store>> = (0..KAFKA_PARTITIONS).map(|_| Arc::new(Store::Memory(Memory::default()))).collect();
    let mut parts = Vec::new();
    for (partition, store) in (0..).zip(&stores) {
        let engine = Engine::open(store.clone(), partition, KAFKA_PARTITIONS, 1_000).expect("it opens");
        let handles = Handles { notify: Arc::default(), status: Arc::new(Status::default()) };
        let opened = Partition::open(partition, setup.clone(), store.clone(), engine, LOGIC_VERSION, handles);
        parts.push(opened.expect("it opens"));
    }
    while parts.iter_mut().fold(false, |worked, part| worked | (part.step().expect("it steps") == Progress::Worked)) {}
    for part in &mut parts {
        part.checkpoint_now();
        while !part.settle() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    let (theirs, own) = (outputs(&real), outputs(&Log::Simulated(copy)));
    assert!(own.len() > 100, "{} outputs", own.len());
    for (place, value) in &own {
        assert_eq!(theirs.get(place), Some(value), "{place:?} was decided otherwise, or not at all");
    }
    let more = theirs.keys().find(|place| !own.contains_key(*place));
    assert_eq!(more, None, "something was put out that the journal does not lead to");

    for (partition, store) in (0..).zip(&stores) {
        let mut at_the_end = 0;
        for owner in owners {
            let path = dir.join(owner).join(format!("state/engine/{partition}"));
            if !path.exists() {
                continue;
            }
            let kept = Store::Rocks(Rocks::open_read_only(&path, families::ALL).expect("it opens"));
            let meta = CheckpointMeta::load(&kept).expect("readable");
            if meta.is_some_and(|meta| meta.next >= ends[partition as usize]) {
                at_the_end += 1;
                assert_eq!(users(&kept), users(store), "what {owner} remembers of partition {partition}");
            }
        }
        assert!(at_the_end > 0, "the last owner of partition {partition} has written down where it was");
    }
}
