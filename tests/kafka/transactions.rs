//! Transactions of other producers in the journal.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};

use crate::cluster::{folder, set_up};
use crate::harness::{KAFKA_PARTITIONS, Receiver, brokers, tail};
use crate::lost_topics::{answer, until_ready, until_unready};
use crate::process::Process;
use crate::producers::prefix;

/// Records of the journal that its readers have not come to, of all partitions.
async fn lag(server: &Process) -> f64 {
    let said = server.call(Method::GET, "/metrics", None).await.expect("an answer");
    let metrics = String::from_utf8_lossy(&said.bytes).into_owned();
    let lags = metrics.lines().filter(|line| line.starts_with("askwhen_engine_lag_records{"));
    lags.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_is_no_end_of_the_journal() {
    let dir = folder(&brokers());
    let receiver = Receiver::start(&[]).await;
    let server = Process::start(&dir, "n0", "bridge,engine,delivery", &["--dev"]).await;
    set_up(&server, &receiver).await;
    assert!(answer(&server, 0..4).await.is_none());
    let topic = format!("{}events", prefix(dir.path()));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("transactional.id", &topic);
    let foreign: BaseProducer = config.create().expect("a producer");
    foreign.init_transactions(Duration::from_secs(20)).expect("known");
    foreign.begin_transaction().expect("begun");
    for partition in 0..KAFKA_PARTITIONS as i32 {
        let value = json!({"user_id": format!("f{partition}"), "event_name": "woke"}).to_string();
        let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(partition).payload(&value);
        foreign.send(record).map_err(|(error, _)| error).expect("queued");
    }
    foreign.flush(Duration::from_secs(10)).expect("taken");
    for n in 0..12 {
        let event = json!({"user_id": format!("e{n}"), "event_name": "woke"});
        let said = server.call(Method::POST, "/v1/events", Some(&event)).await.expect("an answer");
        assert_eq!(said.status, 202, "{said:?}");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while lag(&server).await < f64::from(KAFKA_PARTITIONS) {
        assert!(Instant::now() < deadline, "what waits behind it is no lag");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_unready(&server, &["transaction of another producer stays open", &topic, "events/0"]).await;
    foreign.abort_transaction(Duration::from_secs(20)).expect("aborted");
    until_ready(&server).await;
    assert!(answer(&server, 4..8).await.is_none(), "it goes on");
    let deadline = Instant::now() + Duration::from_secs(10);
    while lag(&server).await > 0.0 {
        assert!(Instant::now() < deadline, "nothing waits any more");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(tail(dir.path(), "rejects").is_empty());
}
