//! A machine and the process on it: the real engine, delivery and projection,
//! each stepped by the simulation. The disk outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use askwhen::console::Projection;
use askwhen::delivery::{self, Fold, Outbox, SimulatedAttempt, SimulatedDelivery};
use askwhen::engine::Engine;
use askwhen_domain::LOGIC_VERSION;
use askwhen_log::{GroupFence, Log, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::Checkpointer;
use askwhen_partition::{Partition, Replies, Setup};
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Memory, Store};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

use crate::ops::Role;

/// Users kept decoded: few, so that some leave.
const CACHED_USERS: usize = 6;
const MAX_IN_FLIGHT: u32 = 16;
/// Journal bytes in one step: little, so that much happens in between.
const STEP_BYTES: usize = 600;

/// Every partition of every topic that an embedded log has.
pub fn every_topic(partitions: u32) -> Vec<TopicPartition> {
    let topics = Topic::ALL.iter().filter(|topic| **topic != Topic::Replies);
    topics
        .flat_map(|topic| {
            (0..topic.partitions(partitions)).map(|partition| TopicPartition { topic: *topic, partition })
        })
        .collect()
}

pub fn key() -> ClusterKey {
    ClusterKey::new([3; 32])
}

/// Stores by role and partition.
#[derive(Default)]
pub struct Disk {
    stores: Mutex<BTreeMap<(Role, u32), Arc<Store>>>,
    console: Mutex<Option<Arc<Store>>>,
}

fn forgetful() -> Arc<Store> {
    Arc::new(Store::Memory(Memory::forgetful()))
}

fn memory(store: &Store) -> &Memory {
    match store {
        Store::Memory(memory) => memory,
        Store::Rocks(_) => unreachable!("a simulation has no files"),
    }
}

impl Disk {
    pub fn store(&self, role: Role, partition: u32) -> Arc<Store> {
        let mut stores = self.stores.lock().expect("one thread");
        stores.entry((role, partition)).or_insert_with(forgetful).clone()
    }

    pub fn console(&self) -> Arc<Store> {
        self.console.lock().expect("one thread").get_or_insert_with(forgetful).clone()
    }

    pub fn has(&self, role: Role, partition: u32) -> bool {
        self.stores.lock().expect("one thread").contains_key(&(role, partition))
    }

    /// Puts a copy of a snapshot here.
    pub fn restore(&self, (role, partition): (Role, u32), snapshot: &Store) {
        let copy = Arc::new(Store::Memory(memory(snapshot).copy()));
        self.stores.lock().expect("one thread").insert((role, partition), copy);
    }

    /// What a snapshot of a store is now.
    pub fn snapshot(&self, role: Role, partition: u32) -> Arc<Store> {
        Arc::new(Store::Memory(memory(&self.store(role, partition)).copy()))
    }

    /// A power cut: each store loses so many of its newest batches.
    fn lose(&self, batches: usize) {
        for store in self.stores.lock().expect("one thread").values() {
            memory(store).lose(batches);
        }
        if let Some(store) = &*self.console.lock().expect("one thread") {
            memory(store).lose(batches);
        }
    }
}

pub struct Machine {
    pub disk: Arc<Disk>,
    pub clock: Clock,
    /// How far its wall is off the log's time.
    pub wall_off_ms: i64,
    pub asleep: bool,
    pub process: Option<Process>,
}

pub struct Process {
    pub client: u32,
    partitions: u32,
    pub fresh: Arc<AtomicBool>,
    pub checkpointer: Checkpointer,
    setup: Setup,
    disk: Arc<Disk>,
    /// Owned; `None` while one is not open.
    pub engine: BTreeMap<u32, Option<Partition<Engine>>>,
    pub delivery: SimulatedDelivery,
    pub status: Arc<delivery::Status>,
    pub owned: BTreeSet<u32>,
    pub outbox: Outbox,
    pub projection: Projection,
    /// What it does not know to have lost.
    pub lost: BTreeSet<(Role, u32)>,
}

impl Machine {
    pub fn new(now: i64) -> Machine {
        let clock = Clock::simulated(now);
        Machine { disk: Arc::default(), clock, wall_off_ms: 0, asleep: false, process: None }
    }

    /// What works now.
    pub fn awake(&mut self) -> Option<&mut Process> {
        if self.asleep { None } else { self.process.as_mut() }
    }

    /// # Errors
    /// When the delivery cannot be set up.
    pub fn start(&mut self, log: Log, client: u32) -> Result<(), String> {
        let checkpointer = Checkpointer::stepped();
        let mut setup = Setup::new(log.clone(), self.clock.clone(), key(), Replies::default(), checkpointer.clone());
        let fresh = Arc::new(AtomicBool::new(true));
        setup.fence = GroupFence::Simulated(fresh.clone());
        setup.step_bytes = STEP_BYTES;
        setup.checkpoint_every = Duration::from_secs(60);
        let status = Arc::new(delivery::Status::new(log.partitions(), false));
        let (disk, of) = (self.disk.clone(), log.clone());
        let open: delivery::OpenFold = Arc::new(move |partition, notify, _status| {
            let mut fold = Fold::open(partition, &of, disk.store(Role::Delivery, partition), notify)?;
            fold.catch_up(&of, |_| Ok(()))?;
            Ok(fold)
        });
        let outbox = Outbox::default();
        let delivery = delivery::Setup {
            log: log.clone(),
            clock: self.clock.clone(),
            key: key(),
            open,
            fence: setup.fence.clone(),
            max_in_flight: MAX_IN_FLIGHT,
            replies: Replies::default(),
            status: status.clone(),
        };
        self.process = Some(Process {
            client,
            partitions: log.partitions(),
            fresh,
            checkpointer,
            setup,
            disk: self.disk.clone(),
            engine: BTreeMap::new(),
            delivery: SimulatedDelivery::new(delivery, outbox.clone()).map_err(|e| e.to_string())?,
            status,
            owned: BTreeSet::new(),
            outbox,
            projection: Projection::new(log, self.disk.console(), Arc::new(Notify::default())),
            lost: BTreeSet::new(),
        });
        self.asleep = false;
        Ok(())
    }

    /// The process ends as by a kill; with a power cut the disk loses batches.
    pub fn kill(&mut self, lost_batches: usize) {
        self.process = None;
        self.asleep = false;
        if lost_batches > 0 {
            self.disk.lose(lost_batches);
        }
    }
}

impl Process {
    /// Opens a partition of the engine.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn open_engine(&mut self, partition: u32) -> Result<(), StopReason> {
        // A pool opens nothing whose last checkpoint is still being written.
        while self.checkpointer.step() {}
        let store = self.disk.store(Role::Engine, partition);
        let opened = Engine::open(store.clone(), partition, self.partitions, CACHED_USERS).and_then(|engine| {
            let (notify, status) = (Arc::new(Notify::default()), Arc::new(askwhen_partition::Status::default()));
            let handles = askwhen_partition::Handles { notify, status };
            Partition::open(partition, self.setup.clone(), store, engine, LOGIC_VERSION, handles)
        });
        match opened {
            Ok(opened) => {
                self.engine.insert(partition, Some(opened));
                Ok(())
            }
            Err(stop) => {
                self.engine.insert(partition, None);
                Err(stop)
            }
        }
    }

    pub fn take_delivery(&mut self, partition: u32) {
        self.owned.insert(partition);
        self.delivery.take(partition);
    }

    /// One turn of the delivery; gives what it has sent, and whether there is
    /// more to do at once.
    pub fn turn(&mut self) -> (Vec<SimulatedAttempt>, bool) {
        let worked = self.delivery.turn();
        (self.outbox.take(), worked)
    }
}
