//! The roles that own partitions: how they open one, and how they follow their lease.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::snapshots::{Role, Stores};
use crate::config::Config;
use crate::delivery::{self, Delivery, Fold};
use crate::engine::{CacheLimit, Engine};
use crate::replay::Error;
use askwhen_domain::LOGIC_VERSION;
use askwhen_log::{Lease, LeaseChange, Membership};
use askwhen_partition::pool::{OpenPartition, Pool};
use askwhen_partition::{Partition, Phase, StopReason};
use askwhen_process::thread::{Notify, Thread, resting, watch};

/// A release that takes longer counts as stuck. It waits for the last acknowledgements and
/// checkpoints of the partitions.
const MAX_RELEASE: Duration = Duration::from_secs(60);

/// A role that owns partitions, with its membership of the consumer group.
pub struct Owner<T> {
    /// Dropped first: leaving the group revokes the partitions.
    membership: Option<Membership>,
    /// Takes and releases partitions as the lease changes.
    follower: Option<Thread>,
    /// Whether the group counts this process in.
    pub joined: Arc<AtomicBool>,
    role: Option<Arc<T>>,
}

/// Partitions as a log line shows them.
fn listed(partitions: &[u32]) -> String {
    partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl<T: Send + Sync + 'static> Owner<T> {
    fn follow(
        name: &'static str,
        lease: Lease,
        role: Arc<T>,
        take: impl Fn(&T, u32) + Send + 'static,
        release: impl Fn(&T, &[u32], bool) + Send + 'static,
    ) -> std::io::Result<Owner<T>> {
        let joined = Arc::new(AtomicBool::new(false));
        let (changes, mark, owner) = (lease.changes, joined.clone(), role.clone());
        let follower = Thread::spawn("lease", move || {
            watch(MAX_RELEASE);
            while let Ok(change) = resting(|| changes.recv()) {
                match change {
                    LeaseChange::Assigned(partitions) => {
                        mark.store(true, Ordering::Release);
                        if !partitions.is_empty() {
                            tracing::info!(role = name, partitions = listed(&partitions), "partitions are taken up");
                        }
                        partitions.iter().for_each(|partition| take(&owner, *partition));
                    }
                    LeaseChange::Revoked { partitions, lost, done } => {
                        tracing::info!(role = name, partitions = listed(&partitions), lost, "partitions are given up");
                        if lost {
                            mark.store(false, Ordering::Release);
                        }
                        release(&owner, &partitions, !lost);
                        // The group may have stopped waiting for it.
                        done.send(()).ok();
                    }
                }
            }
        })?;
        Ok(Owner { membership: Some(lease.membership), follower: Some(follower), joined, role: Some(role) })
    }

    /// Leaves the group, which releases all partitions; returns the role.
    pub fn leave(&mut self) -> Option<T> {
        drop(self.membership.take());
        drop(self.follower.take());
        Arc::into_inner(self.role.take()?)
    }
}

/// Starts the engine on the partitions that its lease assigns.
pub fn engine(
    config: &Config,
    setup: &askwhen_partition::Setup,
    stores: &Stores,
    lease: Lease,
    statuses: &[Arc<askwhen_partition::Status>],
    cached: &CacheLimit,
) -> Result<Owner<Pool<Engine>>, Error> {
    let cached = cached.clone();
    let (stores, mut setup, partitions) = (stores.clone(), setup.clone(), setup.log.partitions());
    setup.attempts = Some(config.data_dir.join("state").join(Role::Engine.name()));
    let open: OpenPartition<Engine> =
        Arc::new(move |partition: u32, notify: Arc<Notify>, status: Arc<askwhen_partition::Status>| {
            let store = stores.open(Role::Engine, partition, &status)?;
            let engine = Engine::open(store.clone(), partition, partitions, cached.clone())?;
            let handles = askwhen_partition::Handles { notify, status };
            let opened = Partition::open(partition, setup.clone(), store, engine, LOGIC_VERSION, handles);
            // A partition that waits for an operator or a clock appends nothing meanwhile.
            if let (Some(barrier), Err(StopReason::Waits { .. })) = (&setup.barrier, &opened) {
                barrier.arrive(Role::Engine.name(), partition);
            }
            opened
        });
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(config.partitions as usize);
    let pool = Arc::new(Pool::start(&open, statuses, threads)?);
    let release = |pool: &Pool<Engine>, partitions: &[u32], settle| pool.release(partitions, settle);
    Ok(Owner::follow("engine", lease, pool, Pool::take, release)?)
}

/// Starts the delivery on the partitions that its lease assigns.
pub fn delivery(
    config: &Config,
    setup: &askwhen_partition::Setup,
    stores: &Stores,
    lease: Lease,
    status: &Arc<delivery::Status>,
) -> Result<Owner<Delivery>, Error> {
    let (stores, log, barrier) = (stores.clone(), setup.log.clone(), setup.barrier.clone());
    let notes = config.data_dir.join("state").join(Role::Delivery.name());
    let open: delivery::OpenFold =
        Arc::new(move |partition: u32, notify: Arc<Notify>, status: Arc<askwhen_partition::Status>| {
            let store = stores.open(Role::Delivery, partition, &status)?;
            let mut fold = Fold::open(partition, &log, store, notify)?;
            fold.note_attempts(&notes.join(format!("{partition}.attempt")))?;
            if let Some(barrier) = &barrier {
                barrier.arrive(Role::Delivery.name(), partition);
            }
            fold.catch_up(&log, |left| {
                status.set(Phase::Opening(format!("reading its topics, {left} records to go")));
                if status.is_wanted() { Ok(()) } else { Err(delivery::Error::GivenUp) }
            })?;
            if barrier.as_ref().is_some_and(|barrier| !barrier.wait(&status)) {
                return Err(delivery::Error::GivenUp);
            }
            Ok(fold)
        });
    let setup = delivery::Setup {
        log: setup.log.clone(),
        clock: setup.clock.clone(),
        key: setup.key.clone(),
        open,
        fence: setup.fence.clone(),
        replies: setup.replies.clone(),
        max_in_flight: config.max_in_flight,
        status: status.clone(),
    };
    let transport = delivery::Transport::Http {
        egress: delivery::Egress {
            allow_targets: config.allow_targets.clone(),
            proxy: config.egress_proxy.clone(),
            nameservers: config.nameservers.clone(),
            console_url: config.console_url.clone(),
        },
        runtime: tokio::runtime::Handle::current(),
    };
    let delivery = Arc::new(Delivery::start(setup, transport).map_err(Error::refused)?);
    let release = |delivery: &Delivery, partitions: &[u32], settle| delivery.release(partitions, settle);
    Ok(Owner::follow("delivery", lease, delivery, Delivery::take, release)?)
}
