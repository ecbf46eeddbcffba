//! Starts the roles of a process in their order.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use super::console_lists::ConsoleLists;
use super::data::{self, Data};
use super::history::JournalHistory;
use super::housekeeping::Housekeeping;
use super::keys::{grants, log_exposure, rates};
use super::listeners::{Listeners, listen};
use super::memory::{MemoryBudget, MemoryGovernor};
use super::open_windows::WindowCounter;
use super::options::{Options, Roles};
use super::readiness::{GroupMembership, Readiness};
use super::running::{Components, Running};
use super::settings::{kafka_settings, repository};
use super::snapshots::{Role, Snapshots, Stores};
use super::test_clock_loop::TestClock;
use super::{export, open_files, owners, wall};
use crate::bridge::auth::Auth;
use crate::bridge::cors::{AllowedOrigin, AllowedOrigins};
use crate::bridge::history::HistoryReader;
use crate::bridge::{self, App, Lists, View};
use crate::config::{self, Config, Key, Retention};
use crate::console::{Console, RowRetention};
use crate::delivery;
use crate::engine::CacheLimit;
use crate::replay::starts::Starts;
use crate::replay::{Error, LogSource, Source};
use askwhen_log::disk::Disk;
use askwhen_log::{Embedded, Kafka, Log};
use askwhen_partition::checkpoint::Checkpointer;
use askwhen_partition::surplus::SurplusMover;
use askwhen_partition::{Phase, Replies, StartBarrier};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, vital};
use askwhen_store::Shared;
use askwhen_wire::definition::{Kind, SETTINGS_ID};
use askwhen_wire::record::DEFAULT_PROJECT;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// Bytes that must be free for the stores to open; a running log leaves more.
const MIN_START_BYTES: u64 = 8 << 20;
/// How long a start waits for its partitions, so that it can end with what they refuse.
/// Those that take longer are opened while the process serves.
const MAX_OPENING_WAIT: Duration = Duration::from_secs(10);

/// What all components of a process are made from.
struct Foundation {
    config: Config,
    options: Options,
    clock: Clock,
    log: Log,
    key: ClusterKey,
    replies: Replies,
    budget: MemoryBudget,
    /// Block cache and write buffers of all stores.
    shared: Shared,
    /// How many bytes of decoded users each partition keeps.
    cached_users: CacheLimit,
    requests: Arc<bridge::Budget>,
    /// By partition.
    engine: Vec<Arc<askwhen_partition::Status>>,
    delivery: Arc<delivery::Status>,
}

/// Starts everything. Must be called on a tokio runtime.
///
/// # Errors
/// Why it cannot start, by what the caller should do about it.
pub async fn start(config: Config, options: Options) -> Result<Running, Error> {
    let (config, data) = prepare(config, options)?;
    let (key, fresh_keys, is_new) = (data.key, data.fresh_keys, data.is_new);
    let foundation = Foundation::open(config, options, key).await?;
    let Foundation { config, log, .. } = &foundation;
    let mut components = Components::none(log.clone(), data.lock);
    if options.roles.bridge {
        components.reply_consumer = foundation.replies.receive()?;
    }
    let groups = match options.roles.own_partitions() {
        true => foundation.start_owners(&mut components).await?,
        false => Vec::new(),
    };
    let opened = foundation.wait_for_partitions().await;
    if options.roles.console && opened.is_ok() {
        components.console = Some(Arc::new(foundation.start_console().await?));
    }
    let notify = Arc::new(Notify::default());
    let view = Arc::new(View::open(log, notify.clone())?);
    if options.roles.bridge && !options.dev {
        log_exposure(config, &data.keys);
    }
    let auth = Auth::new(grants(config, &data.keys), rates(config));
    let app = Arc::new(foundation.app(auth, view.clone(), &components, groups));
    let (stop, stopped) = watch::channel(false);
    let (fail, failed) = watch::channel(false);
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let dev = options.dev;
    let mut running = Running {
        addr,
        operators_addr: addr,
        sign_in: None,
        fresh_keys: None,
        stop,
        servers: Vec::new(),
        components,
        failed,
        app,
        dev,
    };
    let listening = match opened {
        Ok(()) => listen(config, &running.app, foundation.budget, &foundation.requests, options.roles, &stopped).await,
        Err(error) => Err(error),
    };
    match listening {
        Ok(Listeners { addr, operators_addr, servers }) => {
            (running.addr, running.operators_addr, running.servers) = (addr, operators_addr, servers);
        }
        Err(error) => {
            running.stop().await;
            return Err(error);
        }
    }
    if options.roles.bridge && options.roles.console {
        let app = running.app.clone();
        running.servers.push(tokio::spawn(vital("jobs", async move { app.run_jobs().await })));
    }
    let console = running.components.console.clone();
    let housekeeping = foundation.housekeeping(view.clone(), running.app.clone(), console);
    let ending = running.components.ending.clone();
    running.components.housekeeping = Some(housekeeping.start(notify, ending, fail)?);
    let has_settings = view.get(DEFAULT_PROJECT, Kind::Settings, SETTINGS_ID).is_some();
    if options.dev && !has_settings && (is_new || config.kafka) && options.roles.bridge {
        data::dev_settings(log, &foundation.key, &foundation.clock).await?;
    }
    running.fresh_keys = fresh_keys;
    if options.dev && options.roles.bridge {
        running.sign_in = running.make_sign_in_link(&data.keys);
    }
    log_started(config, running.addr, &data.keys);
    Ok(running)
}

/// Logs that the process serves, and with which main settings.
fn log_started(config: &Config, addr: SocketAddr, keys: &[Key]) {
    let projects: BTreeSet<&str> = keys.iter().map(|key| key.project.as_str()).collect();
    let projects: Vec<&str> = projects.into_iter().collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        log = if config.kafka { "kafka" } else { "embedded" },
        partitions = config.partitions,
        listen = %addr,
        admin_listen = config.admin_listen,
        projects = projects.join(", "),
        data_dir = %config.data_dir.display(),
        memory_mib = config.memory >> 20,
        "askwhen serves"
    );
}

/// Checks what can be checked before the log is opened, and takes the data directory.
fn prepare(mut config: Config, options: Options) -> Result<(Config, Data), Error> {
    if options.dev {
        config.allow_targets.extend(data::loopback());
        config.cors_origins.push(AllowedOrigin::Any);
    }
    // Installing a second time is an error that changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    open_files::check(&config, options.roles.own_partitions())?;
    export::refuse_exported(&config)?;
    let data = data::prepare(&config, options.new_keys)?;
    export::sweep(&config.data_dir);
    Ok((config, data))
}

impl Foundation {
    async fn open(config: Config, options: Options, key: ClusterKey) -> Result<Foundation, Error> {
        let clock = Clock::new();
        // Brokers are asked on the way, which blocks.
        let (settings, key_check, log_clock) = (config.clone(), key.check(), clock.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let log = open_log(&settings, key_check, &log_clock)?;
            // The log is asked only where nothing is noted.
            let last_known = match wall::noted(&settings.data_dir) {
                Some(noted) => Some(noted),
                None => log.newest_append().map_err(Error::unreachable)?,
            };
            Ok::<_, Error>((log, last_known))
        });
        let (log, last_known) = opened.await.map_err(Error::failed)??;
        if let Some(last_known) = last_known {
            wall::distrust(&clock, last_known);
        }
        if config.kafka {
            data::refuse_another_log(&config.data_dir, log.incarnation())?;
        }
        let budget = MemoryBudget::of(&config);
        let delivery = Arc::new(delivery::Status::new(config.partitions, options.test_clock));
        delivery.limit_memory(budget.delivery as u64);
        Ok(Foundation {
            replies: if config.kafka { Replies::over_topic(&log) } else { Replies::default() },
            shared: Shared::new(budget.stores),
            cached_users: CacheLimit::from(budget.users / config.partitions.max(1) as usize),
            requests: Arc::new(bridge::Budget::new(budget.requests)),
            engine: (0..config.partitions).map(|_| Arc::default()).collect(),
            config,
            options,
            clock,
            log,
            key,
            budget,
            delivery,
        })
    }

    /// Starts the roles that own partitions, and their snapshots; returns the groups that
    /// they have joined.
    async fn start_owners(&self, components: &mut Components) -> Result<Vec<GroupMembership>, Error> {
        let (config, log, roles) = (&self.config, &self.log, self.options.roles);
        let repository = repository(config)?;
        if let Some(folder) = repository.folder() {
            Role::ALL.iter().for_each(|role| data::take_rights_of_others(&folder.join(role.name())));
        }
        if config.kafka {
            // A process that cannot reach the snapshots must not take partitions from
            // those that hold their state.
            let reached = repository.clone();
            let listed = tokio::task::spawn_blocking(move || reached.list(Role::Engine.name(), 0)).await;
            listed.map_err(Error::failed)?.map_err(Error::unreachable)?;
        }
        let (data_dir, shared) = (config.data_dir.clone(), self.shared.clone());
        let stores = Stores::new(data_dir, shared, repository, log.clone(), self.key.clone());
        let mut setup = askwhen_partition::Setup::new(
            log.clone(),
            self.clock.clone(),
            self.key.clone(),
            self.replies.clone(),
            Checkpointer::start()?,
        );
        setup.test_clock = self.options.test_clock;
        setup.checkpoint_bytes = self.budget.checkpoint;
        setup.barrier = self.start_barrier().map(Arc::new);
        let mut groups = Vec::new();
        if roles.engine {
            let lease = log.lease("engine", Topic::Events)?;
            setup.fence = lease.membership.standing();
            let owner = owners::engine(config, &setup, &stores, lease, &self.engine, &self.cached_users)?;
            groups.push(GroupMembership { role: "engine", joined: owner.joined.clone() });
            components.engine = Some(owner);
            if config.kafka {
                components.surplus = Some(SurplusMover::new(log.clone()).start()?);
            }
        }
        if roles.delivery {
            let lease = log.lease("delivery", delivery::OWNED)?;
            setup.fence = lease.membership.standing();
            let owner = owners::delivery(config, &setup, &stores, lease, &self.delivery)?;
            groups.push(GroupMembership { role: "delivery", joined: owner.joined.clone() });
            components.delivery = Some(owner);
        }
        let snapshots = Snapshots::start(stores, config.snapshots_every, config.retention, self.clock.clone())?;
        components.snapshots = Some(snapshots);
        Ok(groups)
    }

    /// Lets no partition append before all have compared their state with the log. On Kafka
    /// other processes of the group append meanwhile, so there is none.
    fn start_barrier(&self) -> Option<StartBarrier> {
        if self.config.kafka {
            return None;
        }
        let Roles { engine, delivery, .. } = self.options.roles;
        let owners = [(engine, Role::Engine), (delivery, Role::Delivery)].into_iter();
        let roles: Vec<&str> = owners.filter(|(runs, _)| *runs).map(|(_, role)| role.name()).collect();
        Some(StartBarrier::new(&roles, self.log.partitions(), MAX_OPENING_WAIT))
    }

    async fn start_console(&self) -> Result<Console, Error> {
        let Retention { deliveries, decisions, responses, .. } = self.config.retention;
        let keep = RowRetention { deliveries, decisions, responses };
        let open = data::console_store(self.config.data_dir.clone(), self.shared.clone());
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let notes = self.config.data_dir.join("state").join("console.attempt");
        // It catches up with the topics, which blocks.
        let started = tokio::task::spawn_blocking(move || Console::start(log, open, clock, keep, &notes)).await;
        Ok(started.map_err(Error::failed)??)
    }

    /// Waits for partitions that are being opened, so that a refusal ends the start. On Kafka
    /// the group assigns partitions in its own time: only a process with a test clock, which
    /// moves the time of all partitions, waits for them.
    async fn wait_for_partitions(&self) -> Result<(), Error> {
        let Foundation { config, options, engine, delivery, .. } = self;
        if config.kafka && !options.test_clock {
            return Ok(());
        }
        let deadline = Instant::now() + MAX_OPENING_WAIT;
        while Instant::now() < deadline {
            let phases: Vec<Phase> = engine.iter().chain(&delivery.partitions).map(|status| status.phase()).collect();
            for phase in &phases {
                if let Phase::Stopped { why, refused: true } = phase {
                    return Err(Error::refused(why.clone()));
                }
            }
            for status in engine.iter().filter(|status| status.clock_behind.load(Ordering::Acquire)) {
                if let Phase::Stopped { why, .. } = status.phase() {
                    return Err(Error::refused(why));
                }
            }
            // A partition that waits for an operator does not delay the others.
            let statuses: Vec<_> = engine.iter().chain(&delivery.partitions).collect();
            let waits = |n: usize| statuses[n].poisoned_at().is_some();
            if phases.iter().enumerate().all(|(n, phase)| *phase == Phase::Running || waits(n)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// What a request may need.
    fn app(&self, auth: Auth, view: Arc<View>, components: &Components, groups: Vec<GroupMembership>) -> App {
        let (config, options) = (&self.config, self.options);
        let readiness = Readiness {
            log: self.log.clone(),
            engine: self.engine.clone(),
            delivery: self.delivery.clone(),
            console: components.console.clone(),
            groups,
            ending: components.ending.clone(),
        };
        let test_clock = TestClock {
            clock: self.clock.clone(),
            log: self.log.clone(),
            key: self.key.clone(),
            engine: self.engine.clone(),
            delivery: self.delivery.clone(),
        };
        let snapshots = components.snapshots.as_ref().map(Snapshots::asker);
        let counter = components.snapshots.as_ref().filter(|_| options.roles.engine).map(|snapshots| WindowCounter {
            stores: snapshots.stores().clone(),
            clock: self.clock.clone(),
            partitions: self.log.partitions(),
        });
        let held = self.delivery.clone();
        App {
            log: self.log.clone(),
            clock: self.clock.clone(),
            replies: self.replies.clone(),
            key: self.key.clone(),
            engine: self.engine.clone(),
            delivery: self.delivery.partitions.clone(),
            auth,
            view,
            takes_requests: options.roles.bridge,
            cors_origins: AllowedOrigins::new(config.cors_origins.clone()),
            base_path: config.base_path.clone(),
            console_url: config.console_url.clone(),
            frame_ancestors: config.frame_ancestors.clone(),
            allow_targets: config.allow_targets.clone(),
            reply_timeout: config.reply_timeout,
            access_log: config.access_log,
            lists: components.console.clone().map(|console| Arc::new(ConsoleLists(console)) as Arc<dyn Lists>),
            history: components.console.as_ref().map(|_| Arc::new(self.history(components.snapshots.as_ref()))),
            recoveries: bridge::Recoveries::default(),
            sessions: bridge::Sessions::default(),
            process_id: uuid::Uuid::new_v4().simple().to_string(),
            ending: components.ending.clone(),
            listeners: Arc::new(tokio::sync::Semaphore::new(bridge::MAX_LISTENERS)),
            test_clock: options.test_clock.then(|| test_clock.run()),
            window_counts: counter
                .map(|counter| bridge::WindowCounts::new(Box::new(move |survey| counter.count(survey)))),
            configuration: RwLock::new(config::shown(&config.table)),
            snapshots: snapshots.map(|ask| Box::new(ask) as bridge::RequestSnapshots),
            readiness: Box::new(move || (readiness.reasons(), readiness.owned())),
            find_hold: Box::new(move |project, endpoint_id| held.hold_of(project, endpoint_id)),
        }
    }

    /// The journal, to be read beside those who write it, and copies of the states that
    /// partitions of this process have made of it.
    fn history(&self, snapshots: Option<&Snapshots>) -> HistoryReader {
        let place = match &self.log {
            Log::Kafka(_) => LogSource::Brokers(self.log.clone()),
            log => LogSource::Own(log.clone()),
        };
        let source = Source {
            key: self.key.clone(),
            incarnation: self.log.incarnation(),
            partitions: self.log.partitions(),
            binds_macs: self.log.binds_macs(),
            place,
            repository: repository(&self.config),
            shared: self.shared.clone(),
            scratch: Some(data::empty_scratch(&self.config.data_dir)),
        };
        let starts = snapshots.map_or_else(Starts::default, |snapshots| {
            let stores = snapshots.stores().clone();
            Starts::with_copies(Box::new(move |partition, end, folder| stores.copy(partition, end, folder)))
        });
        let history = JournalHistory { source, starts, has_test_clock: self.options.test_clock };
        HistoryReader { history: Arc::new(history), turns: tokio::sync::Semaphore::new(bridge::history::MAX_READERS) }
    }

    fn housekeeping(&self, view: Arc<View>, app: Arc<App>, console: Option<Arc<Console>>) -> Housekeeping {
        let (cached_users, shared, requests) = (self.cached_users.clone(), self.shared.clone(), self.requests.clone());
        Housekeeping {
            log: self.log.clone(),
            clock: self.clock.clone(),
            view,
            app,
            retention: self.config.retention,
            data_dir: self.config.data_dir.clone(),
            memory: MemoryGovernor::new(self.budget, self.config.partitions, cached_users, shared, requests),
            console,
        }
    }
}

/// Opens the log that the configuration names. Blocks.
fn open_log(config: &Config, key_check: String, clock: &Clock) -> Result<Log, Error> {
    if config.kafka {
        return Ok(Log::Kafka(Kafka::connect(kafka_settings(config, key_check))?));
    }
    if let Ok(space) = Disk::Real.space(&config.data_dir)
        && space.free_bytes < MIN_START_BYTES
    {
        return Err(Error::failed(format!(
            "{} KiB are free on the disk of {}, and opening the state takes up to {} MiB: make room, then start again; \
             nothing is lost",
            space.free_bytes >> 10,
            config.data_dir.display(),
            MIN_START_BYTES >> 20
        )));
    }
    // Each partition compares the clock with its own journal: it knows whether an
    // operator has accepted the time since.
    let embedded = Embedded::open(&config.data_dir.join("log"), config.partitions, clock.clone())?;
    Ok(Log::Embedded(Arc::new(embedded)))
}
