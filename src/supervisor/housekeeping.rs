//! What is done every now and then: definitions are read on, old outputs trimmed, free
//! space and memory measured, and a log that has failed for good is noticed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

use super::memory::MemoryGovernor;
use super::wall;
use crate::bridge::{App, View};
use crate::config::Retention;
use crate::console::Console;
use crate::replay::Error;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{LogThrottle, Notify, Thread, watch};
use askwhen_wire::topic::Topic;

const TURN: Duration = Duration::from_millis(250);
/// A longer turn counts as stuck. Brokers that do not answer make a turn long.
const MAX_TURN: Duration = Duration::from_secs(120);

pub struct Housekeeping {
    pub log: Log,
    pub clock: Clock,
    pub view: Arc<View>,
    pub app: Arc<App>,
    pub retention: Retention,
    pub data_dir: PathBuf,
    pub memory: MemoryGovernor,
    /// The lists, where this process keeps them.
    pub console: Option<Arc<Console>>,
}

impl Housekeeping {
    /// Runs until the process ends.
    pub fn start(
        mut self,
        notify: Arc<Notify>,
        ending: Arc<AtomicBool>,
        fail: watch::Sender<bool>,
    ) -> Result<Thread, Error> {
        let running = Thread::spawn("keeper", move || {
            let mut round: u64 = 0;
            let mut throttle = LogThrottle::default();
            watch(MAX_TURN);
            while !ending.load(Ordering::Acquire) {
                notify.wait(TURN);
                if let Err(error) = self.view.catch_up()
                    && throttle.is_new(&error.to_string())
                {
                    tracing::warn!(%error, "the definitions cannot be read for now");
                }
                if matches!(self.log.is_writable(), Err(askwhen_log::Error::Unknown(_))) {
                    // The process may be stopping, and not wait for it any more.
                    fail.send(true).ok();
                    return;
                }
                self.memory.turn(&self.log, &self.view);
                self.app.auth.look();
                if round.is_multiple_of(4) {
                    self.measure_disk();
                    if let Some(console) = &self.console {
                        console.keep_responses(self.view.retentions());
                    }
                }
                if round.is_multiple_of(240) {
                    if let Err(error) = wall::note(&self.clock, &self.data_dir)
                        && throttle.is_new(&error.to_string())
                    {
                        tracing::warn!(%error, "the time cannot be noted");
                    }
                    self.app.auth.sweep();
                    if self.app.takes_requests && round > 0 {
                        self.app.report_key_uses();
                    }
                    self.trim();
                }
                round += 1;
            }
        });
        Ok(running?)
    }

    fn measure_disk(&self) {
        let free = match &self.log {
            Log::Embedded(log) => {
                for topic in Topic::ALL.iter().filter(|topic| **topic != Topic::Replies) {
                    let bytes = i64::try_from(log.topic_bytes(*topic)).unwrap_or(i64::MAX);
                    askwhen_process::metrics::get().log_bytes.with_label_values(&[topic.name()]).set(bytes);
                }
                log.check_space()
            }
            _ => rustix::fs::statvfs(&self.data_dir).ok().map(|found| found.f_bavail * found.f_frsize),
        };
        if let Some(free) = free {
            askwhen_process::metrics::get().disk_free_bytes.set(free as f64);
        }
    }

    /// Trims the outputs that no state is made of, by their age. Brokers do that themselves.
    /// Topics that state is made of are trimmed when snapshots cover them.
    fn trim(&self) {
        let Log::Embedded(_) = &self.log else { return };
        let keep = self.retention;
        for (topic, kept) in [
            (Topic::Decisions, keep.decisions),
            (Topic::Responses, keep.responses),
            (Topic::Displays, keep.responses),
            (Topic::Rejects, keep.deliveries),
        ] {
            for partition in 0..topic.partitions(self.log.partitions()) {
                if let Err(error) = self.trim_one(TopicPartition { topic, partition }, self.clock.cautious() - kept) {
                    tracing::warn!(%error, topic = topic.name(), "old records could not be removed");
                }
            }
        }
    }

    fn trim_one(&self, at: TopicPartition, before: Millis) -> Result<(), askwhen_log::Error> {
        self.log.trim(at, self.log.offset_at(at, before)?)
    }
}
