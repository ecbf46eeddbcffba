//! What all clients share: settings, log lines, and whether the brokers are reachable.

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::AdminClient;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::faults::{BrokerFault, Faults};
use super::settings::Settings;
use crate::error::Error;
use askwhen_process::thread::{Notify, Service};

/// How often the brokers are probed.
const PROBE: Duration = Duration::from_millis(500);
/// How long a probe may take, and how many may fail in a row.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const PROBE_FAILURES: u32 = 2;
/// For this long after the brokers are back, a client may still report what it met before;
/// its reports are then checked by a probe.
const OLD_NEWS: Duration = Duration::from_secs(2);

/// Whether the brokers are reachable, as far as is known.
#[derive(Debug, Default)]
pub struct Health {
    away: AtomicBool,
    back_at: Mutex<Option<Instant>>,
    /// A report may be old; the next probe decides.
    doubted: AtomicBool,
    probe_now: Arc<Notify>,
    /// Why a client can never work again in this process.
    fatal: Mutex<Option<String>>,
    last_error: Mutex<String>,
    /// The user name of this process at the brokers.
    user: Option<String>,
    pub faults: Faults,
}

impl Health {
    pub fn of(settings: &Settings) -> Health {
        let user = settings.client.get("sasl.username").or_else(|| settings.client.get("sasl.user.name"));
        Health { user: user.cloned(), ..Health::default() }
    }

    pub fn is_writable(&self) -> Result<(), Error> {
        if let Some(fatal) = &*self.fatal.lock().expect("no panic holds this lock") {
            return Err(Error::Unknown(fatal.clone()));
        }
        if self.away.load(Ordering::Acquire) {
            return Err(Error::Unavailable(self.last_error()));
        }
        Ok(())
    }

    /// A client has lost the brokers, so nothing more is accepted. If they have only just
    /// come back, they are probed first.
    pub fn went_away(&self, why: &str) {
        let back_at = *self.back_at.lock().expect("no panic holds this lock");
        if back_at.is_some_and(|at| at.elapsed() < OLD_NEWS) {
            self.doubted.store(true, Ordering::Release);
            self.probe_now.notify();
        } else {
            self.mark_away(why);
        }
    }

    /// What was wrong with a single broker is kept: it says more than that none is left.
    fn mark_away(&self, why: &str) {
        let mut last = self.last_error.lock().expect("no panic holds this lock");
        if last.is_empty() {
            *last = why.to_owned();
        }
        if !self.away.swap(true, Ordering::AcqRel) {
            tracing::warn!(why = last.as_str(), "the brokers do not answer; nothing is taken until they do");
        }
    }

    fn is_back(&self) {
        if self.away.swap(false, Ordering::AcqRel) {
            self.last_error.lock().expect("no panic holds this lock").clear();
            self.faults.over(&BrokerFault::Unauthenticated);
            *self.back_at.lock().expect("no panic holds this lock") = Some(Instant::now());
            tracing::info!("the brokers are there again");
        }
    }

    pub fn last_error(&self) -> String {
        self.last_error.lock().expect("no panic holds this lock").clone()
    }

    /// Probes the brokers regularly: a process that only reads would not notice their
    /// silence.
    pub fn watch(self: &Arc<Self>, admin: AdminClient<Context>, topic: String) -> Result<Service, Error> {
        let health = self.clone();
        let watching = Service::spawn("kafka-health", self.probe_now.clone(), move |turns| {
            let mut failures = 0;
            while turns.go_on() {
                turns.wait(PROBE);
                let doubted = health.doubted.swap(false, Ordering::AcqRel);
                let seen = admin.inner().fetch_metadata(Some(&topic), PROBE_TIMEOUT);
                let led = seen.is_ok_and(|seen| {
                    let parts = seen.topics().first().map(|t| t.partitions()).unwrap_or_default();
                    !parts.is_empty() && parts.iter().all(|p| p.leader() >= 0)
                });
                failures = if led { 0 } else { failures + 1 };
                if failures == PROBE_FAILURES || (doubted && !led) {
                    health.mark_away("the brokers do not say who leads the journal");
                }
                if led {
                    health.is_back();
                }
            }
        });
        watching.map_err(|e| Error::io("a thread for the brokers' health", e))
    }
}

/// Handles librdkafka's log lines, errors and statistics.
pub struct Context {
    name: &'static str,
    health: Arc<Health>,
    /// By topic name and partition, its end from the statistics.
    ends: Mutex<HashMap<String, HashMap<i32, KnownEnd>>>,
}

/// The end of a partition, as last reported.
#[derive(Debug, Clone, Copy)]
pub struct KnownEnd {
    /// One past the last record.
    pub end: u64,
    /// One past the last readable record: below `end` while a transaction is open.
    pub stable: u64,
}

impl Context {
    pub fn new(name: &'static str, health: &Arc<Health>) -> Context {
        Context { name, health: health.clone(), ends: Mutex::default() }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn end(&self, topic: &str, partition: i32) -> Option<KnownEnd> {
        self.ends.lock().expect("no panic holds this lock").get(topic)?.get(&partition).copied()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let client = self.name;
        match level {
            // librdkafka reports these for every lost connection; what follows is reported
            // elsewhere.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::info!(client, facility, text, "librdkafka");
            }
            RDKafkaLogLevel::Warning => tracing::info!(client, facility, text, "librdkafka"),
            _ => tracing::debug!(client, facility, text, "librdkafka"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = self.ends.lock().expect("no panic holds this lock");
        for (name, topic) in statistics.topics {
            let ends = ends.entry(name).or_default();
            for (partition, said) in topic.partitions {
                if let (Ok(end), Ok(stable)) = (u64::try_from(said.hi_offset), u64::try_from(said.ls_offset)) {
                    ends.insert(partition, KnownEnd { end: end.max(stable), stable });
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // The end of a partition is not an error; its reader gets it, too.
            Some(RDKafkaErrorCode::PartitionEOF) => {}
            Some(RDKafkaErrorCode::AllBrokersDown) => self.health.went_away(reason),
            Some(RDKafkaErrorCode::Fatal) => {
                tracing::error!(client = self.name, reason, "a client of the brokers has failed for good");
                *self.health.fatal.lock().expect("no panic holds this lock") = Some(reason.to_owned());
            }
            code => {
                if code == Some(RDKafkaErrorCode::Authentication) {
                    let user = self.health.user.as_deref().map_or(String::new(), |user| format!(" of user {user:?}"));
                    let text = format!(
                        "authentication failed: the brokers do not take the credentials{user} ({reason}). Check sasl.* \
                         and ssl.* in [kafka.client]"
                    );
                    self.health.faults.report(BrokerFault::Unauthenticated, text);
                }
                let mut last = self.health.last_error.lock().expect("no panic holds this lock");
                if *last != reason {
                    tracing::info!(client = self.name, %error, reason, "a broker has trouble");
                    *last = reason.to_owned();
                }
            }
        }
    }
}

/// The settings of every client. The operator's settings override `standard`, and `ours`
/// overrides those, because the design depends on them.
pub fn config(settings: &Settings, standard: &[(&str, &str)], ours: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &settings.brokers);
    config.set("client.id", "askwhen");
    config.set("reconnect.backoff.ms", "100");
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("socket.keepalive.enable", "true");
    config.set("socket.nagle.disable", "true");
    for (name, value) in standard {
        config.set(*name, *value);
    }
    for (name, value) in &settings.client {
        config.set(name, value);
    }
    for (name, value) in ours {
        config.set(*name, *value);
    }
    config
}

/// A client for administration.
///
/// # Errors
/// [`Error::Refused`] for a setting that librdkafka does not accept.
pub fn admin(settings: &Settings, health: &Arc<Health>) -> Result<AdminClient<Context>, Error> {
    config(settings, &[], &[]).create_with_context(Context::new("admin", health)).map_err(unusable)
}

/// The error for a setting that librdkafka does not accept.
pub fn unusable(error: KafkaError) -> Error {
    let text = match &error {
        KafkaError::ClientConfig(_, why, name, value) => {
            format!("[kafka.client] {name} = \"{value}\" is not taken: {why}")
        }
        _ => error.to_string(),
    };
    Error::Misconfigured(text)
}

pub fn unavailable(error: KafkaError) -> Error {
    Error::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_from_before_the_brokers_came_back_are_checked_first() {
        let health = Health::default();
        health.went_away("all brokers are down");
        assert!(health.is_writable().is_err());
        health.is_back();
        health.went_away("all brokers are down");
        assert!(health.is_writable().is_ok() && health.doubted.load(Ordering::Acquire));
        *health.back_at.lock().expect("no panic") = Instant::now().checked_sub(OLD_NEWS);
        health.went_away("all brokers are down");
        assert!(health.is_writable().is_err(), "later news are believed");
    }
}
