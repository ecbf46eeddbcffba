//! The right to own partitions, given out by a consumer group. Nothing is read
//! through it: what it is assigned is paused at once.

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

/// How members of this version name themselves: whoever does not may be of
/// version 0.1.0, whose MACs name no place.
pub const MEMBER_PREFIX: &str = "askwhen/";

/// Without a heartbeat for so long a member is taken for dead. The smallest
/// that a broker allows unless told otherwise.
const SESSION_MS: u64 = 6_000;
/// How soon a member hears that partitions are to move.
const HEARTBEAT_MS: u64 = 250;
/// The longest that giving up partitions may take.
const RELEASE: Duration = Duration::from_secs(12);
const TURN: Duration = Duration::from_millis(50);

/// A change of what this process owns.
#[derive(Debug)]
pub enum LeaseChange {
    /// May be empty: the group has taken this process in.
    Assigned(Vec<u32>),
    /// To be given up; `done` is answered when it has been. Where it was lost,
    /// others may own it already: nothing is worth waiting for.
    Revoked { partitions: Vec<u32>, lost: bool, done: mpsc::Sender<()> },
}

/// Membership in a group.
pub struct Lease {
    pub changes: mpsc::Receiver<LeaseChange>,
    pub membership: Membership,
}

/// Dropping it leaves the group; what is still owned is revoked first.
#[derive(Default)]
pub struct Membership {
    // Dropping it ends it, and leaves the group.
    polling: Option<Service>,
    consumer: Weak<BaseConsumer<Group>>,
}

/// What partitions need of a lease: whether it holds, and to say how far they are.
#[derive(Clone)]
pub enum GroupFence {
    /// Of a log that nobody else can own.
    Alone,
    Member(Weak<BaseConsumer<Group>>),
    /// A simulation says whether the group still counts on this process.
    Simulated(Arc<AtomicBool>),
}

pub struct Group {
    context: Context,
    /// Its full name.
    group_id: String,
    topic: String,
    changes: Mutex<mpsc::Sender<LeaseChange>>,
    started: Instant,
    /// When the group was last known to count on us, in milliseconds since
    /// `started`.
    seen_ms: AtomicU64,
    /// What is owned, with the next offsets as last committed: what membership
    /// is proven with.
    owned: Mutex<BTreeMap<i32, Option<u64>>>,
    /// Partitions that the log was made with.
    partitions: u32,
    surplus: Surplus,
}

/// Partitions that a group has given out beyond those that the log was made with. Nobody
/// is told of them as of the others: they have no state.
pub type Surplus = Arc<Mutex<BTreeSet<u32>>>;

impl Lease {
    /// For a log that nobody else can own: everything, once.
    pub fn of_all(partitions: u32) -> Lease {
        let (sender, changes) = mpsc::channel();
        // The receiver is right here.
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
        // Nothing is read through a lease, so no quota of a client's name bears on it.
        let client_id = format!("{MEMBER_PREFIX}{}", env!("CARGO_PKG_VERSION"));
        let ours = [
            ("group.id", group_id.as_str()),
            ("client.id", client_id.as_str()),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("max.poll.interval.ms", "45000"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "latest"),
            // How soon partitions that were added are noticed.
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
            // Revokes what is owned and tells the group, here, where nothing
            // else waits.
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
    /// Whether nobody else can own these partitions by now, as far as this
    /// process can know: it has been awake, and the group counted on it lately.
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

    /// Tells the group how far a partition is: a hint, for displays of lag.
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

/// Keeps the standing fresh. After a pause (the process was stopped, the
/// machine slept) only the coordinator can say whether the group still counts
/// on us: it takes a commit from its members alone.
fn prove(consumer: &BaseConsumer<Group>) {
    let group = consumer.context();
    let now = group.started.elapsed().as_millis() as u64;
    if now.saturating_sub(group.seen_ms.load(Ordering::Acquire)) < SESSION_MS / 2 {
        group.seen_ms.store(now, Ordering::Release);
        return;
    }
    let owned = group.owned.lock().expect("no panic holds this lock").clone();
    let known: Vec<(i32, u64)> = owned.iter().filter_map(|(partition, next)| Some((*partition, (*next)?))).collect();
    // Who owns nothing can do no harm.
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
            // At the end and paused: nothing is read through a lease.
            let assigned = list
                .set_all_offsets(Offset::End)
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list));
            let mut owned = self.owned.lock().expect("no panic holds this lock");
            owned.extend(partitions.iter().map(|partition| (*partition as i32, None)));
            drop(owned);
            self.surplus.lock().expect("no panic holds this lock").extend(surplus);
            self.context.health().faults.allowed("group", &self.group_id, "READ");
            self.tell(LeaseChange::Assigned(partitions));
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
                self.tell(LeaseChange::Revoked { partitions, lost, done });
                if released.recv_timeout(RELEASE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    tracing::warn!("partitions are given up although they could not be settled in time");
                }
                // The time that this took was spent here, not asleep.
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
    /// Says which right is missing, when one is.
    fn denied(&self, error: &KafkaError) {
        let faults = &self.context.health().faults;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => faults.denied("group", &self.group_id, "READ"),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => faults.denied("topic", &self.topic, "READ"),
            _ => {}
        }
    }

    fn tell(&self, change: LeaseChange) {
        // Nobody listens any more when the process is stopping.
        self.changes.lock().expect("no panic holds this lock").send(change).ok();
    }
}
