//! Faults that real brokers show rarely, injected by librdkafka's mock cluster.

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

use super::cluster::Cluster;
use super::{Kafka, Settings};
use crate::{Ack, Class, Fetch as _, Log, NewRecord, TopicPartition};
use askwhen_wire::topic::Topic;

const EVENTS: TopicPartition = TopicPartition { topic: Topic::Events, partition: 0 };

fn new(n: usize) -> NewRecord {
    NewRecord { key: Some("k".into()), headers: Vec::new(), value: Some(format!("v{n}").into()) }
}

fn values(log: &Log) -> Vec<String> {
    let bounds = log.bounds(EVENTS).expect("bounds");
    let mut values = Vec::new();
    log.scan::<crate::Error>(EVENTS, bounds.start, bounds.end, |record| {
        values.push(String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned());
        Ok(())
    })
    .expect("readable");
    values
}

/// Runs on a mock cluster of three brokers whose `events` has one partition.
fn on_mock(test: impl FnOnce(&MockCluster<'_, rdkafka::producer::DefaultProducerContext>, &Arc<Kafka>)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _entered = runtime.enter();
    let mock = MockCluster::new(3).expect("a mock");
    mock.create_topic("m.events", 1, 3).expect("a topic");
    let settings = Settings {
        brokers: mock.bootstrap_servers(),
        client: BTreeMap::new(),
        prefix: "m.".into(),
        partitions: 1,
        replication: 3,
        compression: "none".into(),
        retention: BTreeMap::new(),
        key_check: String::new(),
    };
    let kafka = Kafka::of(Cluster::open(settings).expect("it opens"));
    test(&mock, &kafka);
}

use RDKafkaRespErr::{
    RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS as FEW_REPLICAS,
    RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
};

#[test]
fn an_actors_records_get_through_all_passing_errors_once_and_in_order() {
    on_mock(|mock, kafka| {
        let mut waiting = Vec::new();
        for n in 0..60 {
            if n % 20 == 0 {
                mock.request_errors(RDKafkaApiKey::Produce, &[NOT_LEADER, FEW_REPLICAS, TIMED_OUT, NOT_LEADER]);
            }
            let (sender, receiver) = oneshot::channel();
            kafka.append(EVENTS, vec![new(n)], Ack::Once(sender));
            waiting.push(receiver);
            std::thread::sleep(Duration::from_millis(5));
        }
        for (n, receiver) in (0..).zip(waiting) {
            let placed = receiver.blocking_recv().expect("an answer").expect("it got through");
            assert_eq!((placed.first, placed.end), (n, n + 1), "in order, once");
        }
        let log = Log::Kafka(kafka.clone());
        assert_eq!(values(&log), (0..60).map(|n| format!("v{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn a_leader_that_moves_while_actors_write_loses_and_repeats_nothing() {
    on_mock(|mock, kafka| {
        let mut waiting = Vec::new();
        for n in 0..90 {
            if n % 15 == 0 {
                mock.partition_leader("m.events", 0, Some(n / 15 % 3 + 1)).expect("it moves");
            }
            let (sender, receiver) = oneshot::channel();
            kafka.append(EVENTS, vec![new(n as usize)], Ack::Once(sender));
            waiting.push(receiver);
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting.into_iter().for_each(|receiver| {
            receiver.blocking_recv().expect("an answer").expect("it got through");
        });
        let log = Log::Kafka(kafka.clone());
        assert_eq!(values(&log), (0..90).map(|n| format!("v{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn a_request_gives_up_in_time_and_says_that_its_outcome_is_unknown() {
    on_mock(|mock, kafka| {
        mock.request_errors(RDKafkaApiKey::Produce, &[FEW_REPLICAS; 200]);
        let asked = Instant::now();
        let (sender, receiver) = oneshot::channel();
        kafka.append_in_time(EVENTS, vec![new(0)], Ack::Once(sender));
        let error = receiver.blocking_recv().expect("an answer").expect_err("no broker takes it");
        assert!(error.class() == Class::Unknown && asked.elapsed() < Duration::from_secs(6), "{error}");
        // Then at once, until the brokers take something again.
        let (sender, receiver) = oneshot::channel();
        let asked = Instant::now();
        kafka.append_in_time(EVENTS, vec![new(1)], Ack::Once(sender));
        let error = receiver.blocking_recv().expect("an answer").expect_err("the brokers are away");
        assert!(error.class() == Class::Retry && asked.elapsed() < Duration::from_millis(100), "{error}");
    });
}

#[test]
fn a_reader_goes_on_behind_failed_fetches_and_leaderless_moments() {
    on_mock(|mock, kafka| {
        let log = Log::Kafka(kafka.clone());
        let mut reader = log.reader("test", Arc::default());
        let mut read = Vec::new();
        let mut next = 0;
        for n in 0..30 {
            if n % 10 == 5 {
                mock.request_errors(RDKafkaApiKey::Fetch, &[NOT_LEADER, TIMED_OUT, NO_LEADER]);
                mock.request_errors(RDKafkaApiKey::ListOffsets, &[NOT_LEADER, NO_LEADER]);
            }
            let (sender, receiver) = oneshot::channel();
            kafka.append(EVENTS, vec![new(n)], Ack::Once(sender));
            receiver.blocking_recv().expect("an answer").expect("it got through");
            assert_eq!(log.bounds(EVENTS).expect("asked again until answered").end, n as u64 + 1);
            let deadline = Instant::now() + Duration::from_secs(30);
            while read.len() <= n {
                assert!(Instant::now() < deadline, "record {n} does not come");
                // A fault is a reason to ask again.
                let Ok(chunk) = reader.read_or_wait(EVENTS, next, 1 << 20) else { continue };
                for record in chunk.records {
                    next = record.offset + 1;
                    read.push(String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned());
                }
            }
        }
        assert_eq!(read, (0..30).map(|n| format!("v{n}")).collect::<Vec<_>>());
    });
}
