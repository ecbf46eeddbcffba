//! How the records of the topics are compressed: by default not at all, which every client reads.

use std::collections::BTreeSet;

use crate::cluster::{folder, set_up};
use crate::harness::{KAFKA_PARTITIONS, Receiver, brokers};
use crate::lost_topics::answer;
use crate::process::Process;
use crate::producers::{exchange, prefix};

/// Where the attributes of a batch stand in it, and its length, by the record format of
/// <https://kafka.apache.org/documentation/#recordbatch>.
const ATTRIBUTES: usize = 21;
const BEFORE_LENGTH: usize = 8;
const LENGTH_END: usize = 12;
/// The codec in the attributes.
const CODEC: u8 = 0b111;
const GZIP: u8 = 1;

/// The batches of a partition, by a Fetch of version 4.
fn batches(topic: &str, partition: u32) -> Vec<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(1_u16.to_be_bytes());
    request.extend(4_u16.to_be_bytes());
    request.extend(7_u32.to_be_bytes());
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    text(&mut request, "test");
    request.extend((-1_i32).to_be_bytes());
    for bound in [100_u32, 1, 1 << 20] {
        request.extend(bound.to_be_bytes());
    }
    request.push(0);
    request.extend(1_u32.to_be_bytes());
    text(&mut request, topic);
    request.extend(1_u32.to_be_bytes());
    request.extend(partition.to_be_bytes());
    request.extend(0_u64.to_be_bytes());
    request.extend((1_u32 << 20).to_be_bytes());
    let answer = exchange(&brokers(), &request);
    let number = |at: usize| u32::from_be_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    // Correlation, throttling, one topic by its name, one partition with its number.
    let error = 4 + 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[error..error + 2], [0, 0], "{topic}/{partition}");
    // Two ends, and the transactions that were aborted: none.
    let aborted = error + 2 + 8 + 8;
    assert!([0, u32::MAX].contains(&number(aborted)), "no transactions");
    let mut rest = &answer[aborted + 8..];
    let mut all = Vec::new();
    while rest.len() > LENGTH_END {
        let length: [u8; 4] = rest[BEFORE_LENGTH..LENGTH_END].try_into().expect("four bytes");
        let (batch, after) = rest.split_at(rest.len().min(LENGTH_END + u32::from_be_bytes(length) as usize));
        all.push(batch.to_vec());
        rest = after;
    }
    all
}

/// The codecs of all batches of topics that others read.
fn codecs(dir: &std::path::Path) -> BTreeSet<u8> {
    let mut found = BTreeSet::new();
    for name in ["events", "decisions", "responses", "deliveries", "attempts"] {
        let topic = format!("{}{name}", prefix(dir));
        let all: Vec<Vec<u8>> = (0..KAFKA_PARTITIONS).flat_map(|partition| batches(&topic, partition)).collect();
        assert!(!all.is_empty(), "{name} holds records");
        found.extend(all.iter().map(|batch| batch[ATTRIBUTES + 1] & CODEC));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_not_compressed_unless_that_is_asked_for() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..8).await.is_none());
    receiver.wait(8).await;
    server.terminate();
    assert_eq!(codecs(dir.path()), [0].into());
    let config = dir.path().join("askwhen.toml");
    let text = std::fs::read_to_string(&config).expect("made");
    std::fs::write(&config, text.replace("[kafka]\n", "[kafka]\ncompression = \"gzip\"\n")).expect("written");
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    assert!(answer(&server, 8..16).await.is_none());
    receiver.wait(16).await;
    server.terminate();
    assert!(codecs(dir.path()).contains(&GZIP), "{:?}", codecs(dir.path()));
}
