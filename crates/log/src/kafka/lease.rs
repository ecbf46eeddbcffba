//! Ownership of partitions, assigned by a consumer group. Nothing is read through its
//! consumer: assigned partitions are paused at once.

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, error::KafkaResult};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use super::client::{self, Context, Health};
use super::settings::Settings;
use crate::error::Error;
use askwhen_process::thread::{LogThrottle, Service};

/// Prefix of the client ids of members since 0.2.0. A member without it may be of version
/// 0.1.0, whose MACs name no partition.
pub const MEMBER_PREFIX: &str = "askwhen/";

/// After this time without a heartbeat a member counts as dead. It is the smallest value
/// that brokers allow by default.
const SESSION_MS: u64 = 6_000;
/// How soon a member learns that partitions are to move.
const HEARTBEAT_MS: u64 = 250;
/// The longest that giving up partitions may take.
const RELEASE: Duration = Duration::from_secs(12);
const TURN: Duration = Duration::from_millis(50);

/// A change of the partitions that this process owns.
#[derive(Debug)]
pub enum LeaseChange {
    /// May be empty: the group has accepted this process.
    Assigned(Vec<u32>),
    /// To be given up; `done` is answered when they are. When they were `lost`, others may
    /// own them already, so nothing is waited for.
    Revoked { partitions: Vec<u32>, lost: bool, done: mpsc::Sender<()> },
}

/// Membership in a group.
pub struct Lease {
    pub changes: mpsc::Receiver<LeaseChange>,
    pub membership: Membership,
}

/// Dropping it leaves the group; partitions that are still owned are revoked first.
#[derive(Default)]
pub struct Membership {
    // Dropping it ends the thread and leaves the group.
    polling: Option<Service>,
    consumer: Weak<BaseConsumer<Group>>,
}

/// Whether this process still owns its partitions, and where it commits positions.
#[derive(Clone)]
pub enum GroupFence {
    /// A log that no other process can use.
    Alone,
    Member(Weak<BaseConsumer<Group>>),
    /// A simulation decides whether the group still counts on this process.
    Simulated(Arc<AtomicBool>),
}

pub struct Group {
    context: Context,
    /// The group's full name.
    group_id: String,
    topic: String,
    changes: Mutex<mpsc::Sender<LeaseChange>>,
    started: Instant,
    /// When the group last confirmed membership, in milliseconds since `started`.
    seen_ms: AtomicU64,
    /// Owned partitions with their last committed offsets, which prove membership.
    owned: Mutex<BTreeMap<i32, Option<u64>>>,
    /// The number of partitions with which the log was made.
    partitions: u32,
    surplus: Surplus,
}

/// Assigned partitions beyond the number with which the log was made. They are kept apart,
/// because they have no state.
pub type Surplus = Arc<Mutex<BTreeSet<u32>>>;

impl Lease {
    /// The lease of a log that no other process can use: all partitions, once.
    pub fn of_all(partitions: u32) -> Lease {
        let (sender, changes) = mpsc::channel();
        // The receiver is below.
        sender.send(LeaseChange::Assigned((0..partitions).collect())).ok();
        Lease { changes, membership: Membership::default() }
    }

    pub(super) fn join(
        settings: &Settings,
        health: &Arc<Health>,
        purpose: &'static str,
        topic: &str,
        surplus: Surplus,
    ) -> Result<Lease, Error> {
        let (sender, changes) = mpsc::channel();
        let (session, heartbeat) = (SESSION_MS.to_string(), HEARTBEAT_MS.to_string());
        let group_id = format!("{}{purpose}", settings.prefix);
        let standard = [("session.timeout.ms", session.as_str()), ("heartbeat.interval.ms", heartbeat.as_str())];
        // Nothing is read through a lease, so client quotas by this name have no effect.
        let client_id = format!("{MEMBER_PREFIX}{}", env!("CARGO_PKG_VERSION"));
        let ours = [
            ("group.id", group_id.as_str()),
            ("client.id", client_id.as_str()),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("max.poll.interval.ms", "45000"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "latest"),
            // How soon added partitions are noticed.
            ("topic.metadata.refresh.interval.ms", "10000"),
        ];
        let group = Group {
            context: Context::new(purpose, health),
            group_id: group_id.clone(),
            topic: topic.to_owned(),
            changes: Mutex::new(sender),
            started: Instant::now(),
            seen_ms: AtomicU64::new(0),
            owned: Mutex::default(),
            partitions: settings.partitions,
            surplus,
        };
        let config = client::config(settings, &standard, &ours);
        let consumer: BaseConsumer<Group> = config.create_with_context(group).map_err(client::unusable)?;
        let consumer = Arc::new(consumer);
        consumer.subscribe(&[topic]).map_err(client::unavailable)?;
        let weak = Arc::downgrade(&consumer);
        let polling = Service::spawn(format!("lease-{purpose}"), Arc::default(), move |turns| {
            let mut throttle = LogThrottle::default();
            while turns.go_on() {
                if let Some(Err(error)) = consumer.poll(TURN) {
                    consumer.context().denied(&error);
                    if throttle.is_new(&error.to_string()) {
                        tracing::info!(purpose, %error, "the group has trouble");
                    }
                }
                prove(&consumer);
            }
            // Revokes the partitions and leaves the group here, where nothing else waits.
            if let Err(error) = consumer.close_queue() {
                tracing::warn!(purpose, %error, "the group could not be left");
            }
            while !consumer.closed() {
                consumer.poll(TURN);
            }
        });
        let polling = Some(polling.map_err(|e| Error::io("a thread for a lease", e))?);
        Ok(Lease { changes, membership: Membership { polling, consumer: weak } })
    }
}

impl Membership {
    pub fn standing(&self) -> GroupFence {
        match &self.polling {
            None => GroupFence::Alone,
            Some(_) => GroupFence::Member(self.consumer.clone()),
        }
    }
}

impl GroupFence {
    /// Whether no other process can own these partitions yet, as far as this process knows:
    /// it was awake, and the group confirmed its membership lately.
    pub fn is_fresh(&self) -> bool {
        let member = match self {
            GroupFence::Alone => return true,
            GroupFence::Simulated(fresh) => return fresh.load(Ordering::Acquire),
            GroupFence::Member(member) => member,
        };
        let Some(consumer) = member.upgrade() else { return false };
        let group = consumer.context();
        let now = group.started.elapsed().as_millis() as u64;
        now.saturating_sub(group.seen_ms.load(Ordering::Acquire)) < SESSION_MS / 2
    }

    /// Commits the position of a partition to the group, for displays of lag.
    pub fn commit(&self, partition: u32, next: u64) {
        let GroupFence::Member(member) = self else { return };
        let Some(consumer) = member.upgrade() else { return };
        let group = consumer.context();
        let mut owned = group.owned.lock().expect("no panic holds this lock");
        let Some(known) = owned.get_mut(&(partition as i32)) else { return };
        *known = Some(next);
        drop(owned);
        if let Err(error) = commit(&consumer, &[(partition as i32, next)], CommitMode::Async) {
            tracing::debug!(%error, "an offset was not committed");
        }
    }
}

fn commit(consumer: &BaseConsumer<Group>, offsets: &[(i32, u64)], mode: CommitMode) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for (partition, next) in offsets {
        list.add_partition_offset(&consumer.context().topic, *partition, Offset::Offset(*next as i64))?;
    }
    consumer.commit(&list, mode)
}

/// Renews the proof of membership. After a pause (the process was stopped, the machine
/// slept) only the coordinator knows whether this process is still a member: it accepts
/// commits from members alone.
fn prove(consumer: &BaseConsumer<Group>) {
    let group = consumer.context();
    let now = group.started.elapsed().as_millis() as u64;
    if now.saturating_sub(group.seen_ms.load(Ordering::Acquire)) < SESSION_MS / 2 {
        group.seen_ms.store(now, Ordering::Release);
        return;
    }
    let owned = group.owned.lock().expect("no panic holds this lock").clone();
    let known: Vec<(i32, u64)> = owned.iter().filter_map(|(partition, next)| Some((*partition, (*next)?))).collect();
    // Without partitions there is nothing to protect.
    if owned.is_empty() || (!known.is_empty() && commit(consumer, &known, CommitMode::Sync).is_ok()) {
        group.seen_ms.store(group.started.elapsed().as_millis() as u64, Ordering::Release);
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.denied(&error);
        self.context.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Group>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let all = list.elements().iter().map(|e| e.partition() as u32).collect::<Vec<u32>>();
        let (partitions, surplus): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|p| *p < self.partitions);
        let changed = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Assigned at the end and paused, because nothing is read through a lease.
            let assigned = list
                .set_all_offsets(Offset::End)
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list));
            let mut owned = self.owned.lock().expect("no panic holds this lock");
            owned.extend(partitions.iter().map(|partition| (*partition as i32, None)));
            drop(owned);
            self.surplus.lock().expect("no panic holds this lock").extend(surplus);
            self.context.health().faults.allowed("group", &self.group_id, "READ");
            self.send(LeaseChange::Assigned(partitions));
            assigned
        } else {
            let lost = consumer.assignment_lost();
            self.surplus.lock().expect("no panic holds this lock").retain(|partition| !surplus.contains(partition));
            self.owned
                .lock()
                .expect("no panic holds this lock")
                .retain(|partition, _| !partitions.contains(&(*partition as u32)));
            if lost || !partitions.is_empty() {
                let (done, released) = mpsc::channel();
                self.send(LeaseChange::Revoked { partitions, lost, done });
                if released.recv_timeout(RELEASE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    tracing::warn!("partitions are given up although they could not be settled in time");
                }
                // The process was busy here, not asleep.
                self.seen_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Release);
            }
            consumer.incremental_unassign(list)
        };
        if let Err(error) = changed {
            tracing::error!(%error, "the group's assignment could not be taken");
        }
    }
}

impl Group {
    /// Reports which permission is missing, if one is.
    fn denied(&self, error: &KafkaError) {
        let faults = &self.context.health().faults;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => faults.denied("group", &self.group_id, "READ"),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => faults.denied("topic", &self.topic, "READ"),
            _ => {}
        }
    }

    fn send(&self, change: LeaseChange) {
        // The receiver is gone when the process is stopping.
        self.changes.lock().expect("no panic holds this lock").send(change).ok();
    }
}
