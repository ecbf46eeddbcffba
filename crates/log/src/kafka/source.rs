//! A consumer for one purpose, shared by readers of different partitions.

use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::client::{self, Context, Health};
use super::settings::Settings;
use crate::error::Error;
use crate::record::TopicPartition;
use askwhen_process::thread::Service;

/// Readers that read up to an end for somebody who waits.
const FINITE: [&str; 4] = ["scan", "explain", "look-ahead", "replay"];

/// How long to wait for a reader that is about to leave a partition.
const CLAIM: Duration = Duration::from_secs(10);

impl ConsumerContext for Context {}

/// A consumer, and the thread that handles its general events.
pub struct Source {
    // Ended before the consumer is closed.
    _serving: Service,
    consumer: Arc<BaseConsumer<Context>>,
    /// Partitions in use: a consumer has one position in each, so there is one reader at a
    /// time.
    claimed: Mutex<BTreeSet<TopicPartition>>,
    freed: Condvar,
}

impl Source {
    pub fn open(settings: &Settings, health: &Arc<Health>, purpose: &'static str) -> Result<Source, Error> {
        let standard = [
            // For each partition.
            ("queued.max.messages.kbytes", "2048"),
            ("fetch.queue.backoff.ms", "20"),
        ];
        // The group is never joined; librdkafka requires a name.
        let group = format!("{}{purpose}", settings.prefix);
        let ours = [
            ("group.id", group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            // librdkafka would pass on what brokers' disks have damaged.
            ("check.crcs", "true"),
            ("statistics.interval.ms", if purpose == "scan" { "0" } else { "1000" }),
            // A new partition waits for the fetch that is under way.
            ("fetch.wait.max.ms", if FINITE.contains(&purpose) { "20" } else { "100" }),
        ];
        let config = client::config(settings, &standard, &ours);
        let context = Context::new(purpose, health);
        let consumer: BaseConsumer<Context> = config.create_with_context(context).map_err(client::unusable)?;
        let consumer = Arc::new(consumer);
        let served = consumer.clone();
        let serving = Service::spawn(format!("kafka-{purpose}"), Arc::default(), move |turns| {
            while turns.go_on() {
                if let Some(Err(error)) = served.poll(Duration::from_millis(100)) {
                    tracing::debug!(purpose, %error, "a consumer");
                }
            }
        });
        let serving = serving.map_err(|e| Error::io("a thread for a consumer", e))?;
        Ok(Source { _serving: serving, consumer, claimed: Mutex::default(), freed: Condvar::new() })
    }

    pub fn consumer(&self) -> &Arc<BaseConsumer<Context>> {
        &self.consumer
    }

    pub fn claim(&self, at: TopicPartition) -> Result<(), Error> {
        let claimed = self.claimed.lock().expect("no panic holds this lock");
        let (mut claimed, waited) = self
            .freed
            .wait_timeout_while(claimed, CLAIM, |claimed| claimed.contains(&at))
            .expect("no panic holds this lock");
        if waited.timed_out() {
            return Err(Error::Unavailable(format!("{at} is being read by another reader of the same purpose")));
        }
        claimed.insert(at);
        Ok(())
    }

    pub fn free(&self, at: TopicPartition) {
        self.claimed.lock().expect("no panic holds this lock").remove(&at);
        self.freed.notify_all();
    }
}
