//! Starts the roles in their order, says when they are ready, stops them so
//! that nothing is lost. The only place where all roles are known.

pub mod backup;
mod console_lists;
mod data;
pub mod export;
mod format;
mod housekeeping;
mod memory;
mod open_files;
mod owners;
pub mod private;
pub mod promote;
mod readiness;
pub mod repair;
mod settings;
mod snapshots;
mod source;
mod test_clock_loop;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::bridge::auth::{Auth, Grants, Rates};
use crate::bridge::cors::AllowedOrigins;
use crate::bridge::{self, App, Lists, Surface, View};
use crate::config::{Config, Key, Retention};
use crate::console::{Console, RowRetention};
use crate::delivery::{self, Delivery};
use crate::engine::{CacheLimit, Engine};
use askwhen_log::disk::Disk;
use askwhen_log::{Embedded, Kafka, Log};
use askwhen_partition::checkpoint::Checkpointer;
use askwhen_partition::pool::Pool;
use askwhen_partition::{Phase, Replies, StartBarrier};
use askwhen_process::clock::Clock;
use askwhen_process::thread::{Notify, Service, Thread, vital};
use askwhen_store::Shared;
use askwhen_wire::topic::Topic;
use console_lists::ConsoleLists;
use memory::{MemoryBudget, MemoryGovernor};
use owners::Owner;
use readiness::Readiness;
use snapshots::{Snapshots, Stores};

pub use crate::replay::Error;
pub use data::{FreshKeys, KeysFile, read_keys};
pub use settings::{kafka_settings, repository};
pub use snapshots::Role;
pub use source::source;

/// Places at the listener for operators.
const OPERATORS: usize = 256;
/// With less free the stores cannot be opened; a running log leaves more.
const MIN_START_BYTES: u64 = 8 << 20;
/// How long a start waits for partitions that are taken up, to say at once
/// what they refuse. What takes longer goes on behind an open door.
const TAKING_UP: Duration = Duration::from_secs(10);

/// Which roles a process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub bridge: bool,
    pub engine: bool,
    pub delivery: bool,
    pub console: bool,
}

impl Roles {
    /// Whether one of these owns partitions.
    fn own_partitions(self) -> bool {
        self.engine || self.delivery
    }

    pub const ALL: Roles = Roles { bridge: true, engine: true, delivery: true, console: true };
}

/// What `serve` was asked for beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub test_clock: bool,
    /// Loopback receivers, and settings for trying things out.
    pub dev: bool,
    /// API keys are made anew where those of the data directory are lost.
    pub new_keys: bool,
    pub roles: Roles,
}

/// A running askwhen.
pub struct Running {
    pub addr: SocketAddr,
    /// Keys made by this very start, to be shown once.
    pub fresh_keys: Option<FreshKeys>,
    stop: watch::Sender<bool>,
    servers: Vec<tokio::task::JoinHandle<()>>,
    parts: Components,
    failed: watch::Receiver<bool>,
    app: Arc<App>,
}

/// What works beside the requests. However far a start has come, dropping it
/// stops all of it in order and writes everything down; that blocks.
struct Components {
    ending: Arc<AtomicBool>,
    reply_consumer: Option<Service>,
    engine: Option<Owner<Pool<Engine>>>,
    delivery: Option<Owner<Delivery>>,
    snapshots: Option<Snapshots>,
    console: Option<Arc<Console>>,
    housekeeping: Option<Thread>,
    log: Log,
    /// On the data directory; the last to go.
    _lock: std::fs::File,
}

impl Components {
    fn none(log: Log, lock: std::fs::File) -> Components {
        Components {
            ending: Arc::default(),
            reply_consumer: None,
            engine: None,
            delivery: None,
            snapshots: None,
            console: None,
            housekeeping: None,
            log,
            _lock: lock,
        }
    }
}

impl Drop for Components {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        drop(self.engine.as_mut().and_then(Owner::leave));
        drop(self.delivery.as_mut().and_then(Owner::leave));
        drop(self.reply_consumer.take());
        drop(self.snapshots.take());
        if let Some(console) = self.console.take() {
            console.stop();
        }
        drop(self.housekeeping.take());
        match &self.log {
            Log::Embedded(log) => log.close(),
            Log::Kafka(log) => log.close(),
            Log::Simulated(_) => {}
        }
    }
}

/// Starts everything. Must be called on a tokio runtime.
///
/// # Errors
/// Why it cannot start, by what the caller should do about it.
pub async fn start(mut config: Config, options: Options) -> Result<Running, Error> {
    if options.dev {
        config.allow_targets.extend(data::loopback());
    }
    // Installing a second time is an error that changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    open_files::check(&config, options.roles.own_partitions())?;
    export::refuse_exported(&config)?;
    let data = data::prepare(&config, options.new_keys)?;
    export::sweep(&config.data_dir);
    let clock = Clock::new();
    // Brokers are asked in passing, which blocks.
    let (asked, check, ticks) = (config.clone(), data.key.check(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || open_log(&asked, check, &ticks)).await;
    let log = opened.map_err(Error::failed)??;
    if config.kafka {
        data::refuse_another_log(&config.data_dir, log.incarnation())?;
    }
    let roles = options.roles;
    let owns = roles.engine || roles.delivery;
    let replies = if config.kafka { Replies::by_post(&log) } else { Replies::default() };
    let mut parts = Components::none(log.clone(), data.lock);
    let ending = parts.ending.clone();
    if roles.bridge {
        parts.reply_consumer = replies.receive()?;
    }
    let budget = MemoryBudget::of(&config);
    let shared = Shared::new(budget.stores);
    let cached_users = CacheLimit::from(budget.users / config.partitions.max(1) as usize);
    let requests = Arc::new(bridge::Budget::new(budget.requests));
    let statuses: Vec<Arc<askwhen_partition::Status>> = (0..config.partitions).map(|_| Arc::default()).collect();
    let delivery_status = Arc::new(delivery::Status::new(config.partitions, options.test_clock));
    delivery_status.limit_memory(budget.delivery as u64);
    let mut joined = Vec::new();
    let mut ask_snapshots = None;
    if owns {
        let repository = repository(&config)?;
        if let Some(folder) = repository.folder() {
            Role::ALL.iter().for_each(|role| data::take_rights_of_others(&folder.join(role.name())));
        }
        if config.kafka {
            // Before partitions are taken from those who have their state.
            let asked = repository.clone();
            let listed = tokio::task::spawn_blocking(move || asked.list(Role::Engine.name(), 0)).await;
            listed.map_err(Error::failed)?.map_err(Error::unreachable)?;
        }
        let stores = Stores::new(config.data_dir.clone(), shared.clone(), repository, log.clone(), data.key.clone());
        let mut setup = askwhen_partition::Setup::new(
            log.clone(),
            clock.clone(),
            data.key.clone(),
            replies.clone(),
            Checkpointer::start()?,
        );
        setup.test_clock = options.test_clock;
        setup.checkpoint_bytes = budget.checkpoint;
        if !config.kafka {
            // Other processes of a group write whatever this one finds.
            let roles: Vec<&str> = [(roles.engine, Role::Engine), (roles.delivery, Role::Delivery)]
                .into_iter()
                .filter(|(runs, _)| *runs)
                .map(|(_, role)| role.name())
                .collect();
            setup.barrier = Some(Arc::new(StartBarrier::new(&roles, log.partitions(), TAKING_UP)));
        }
        if roles.engine {
            let lease = log.lease("engine", Topic::Events)?;
            setup.standing = lease.membership.standing();
            let owner = owners::engine(&config, &setup, &stores, lease, &statuses, &cached_users)?;
            joined.push(("engine", owner.joined.clone()));
            parts.engine = Some(owner);
        }
        if roles.delivery {
            let lease = log.lease("delivery", delivery::OWNED)?;
            setup.standing = lease.membership.standing();
            let owner = owners::delivery(&config, &setup, &stores, lease, &delivery_status)?;
            joined.push(("delivery", owner.joined.clone()));
            parts.delivery = Some(owner);
        }
        let snapshots = Snapshots::start(stores, config.snapshots_every, config.retention, clock.clone())?;
        ask_snapshots = Some(snapshots.asker());
        parts.snapshots = Some(snapshots);
    }
    let taken = wait_until_taken(&config, options, &statuses, &delivery_status).await;
    if roles.console && taken.is_ok() {
        let Retention { deliveries, decisions, responses, .. } = config.retention;
        let keep = RowRetention { deliveries, decisions, responses };
        let open = data::console_store(config.data_dir.clone(), shared.clone());
        let (log, clock) = (log.clone(), clock.clone());
        // It reads what is there, which blocks.
        let started = tokio::task::spawn_blocking(move || Console::start(log, open, clock, keep)).await;
        parts.console = Some(Arc::new(started.map_err(Error::failed)??));
    }
    let notify = Arc::new(Notify::default());
    let view = Arc::new(View::open(&log, notify.clone())?);
    let test_clock_loop = test_clock_loop::TestClock {
        clock: clock.clone(),
        log: log.clone(),
        key: data.key.clone(),
        engine: statuses.clone(),
        delivery: delivery_status.clone(),
    };
    let auth = Auth::new(grants(&config, &data.keys), rates(&config));
    if roles.bridge && !options.dev {
        say_what_is_open(&config, &data.keys);
    }
    let engine = statuses.clone();
    let held = delivery_status.clone();
    let readiness = Readiness {
        log: log.clone(),
        engine: statuses,
        delivery: delivery_status,
        console: parts.console.clone(),
        joined,
        ending: ending.clone(),
    };
    let app = Arc::new(App {
        log: log.clone(),
        clock: clock.clone(),
        replies,
        key: data.key.clone(),
        engine,
        auth,
        view: view.clone(),
        takes_requests: roles.bridge,
        cors_origins: AllowedOrigins::new(config.cors_origins.clone()),
        allow_targets: config.allow_targets.clone(),
        reply_timeout: config.reply_timeout,
        lists: parts.console.clone().map(|console| Arc::new(ConsoleLists(console)) as Arc<dyn Lists>),
        recoveries: bridge::Recoveries::default(),
        test_clock: options.test_clock.then(|| test_clock_loop.run()),
        snapshots: ask_snapshots.map(|ask| Box::new(ask) as bridge::AskSnapshots),
        readiness: Box::new(move || (readiness.reasons(), readiness.owned())),
        hold_of: Box::new(move |project, endpoint_id| held.hold_of(project, endpoint_id)),
    });
    let (stop, stopped) = watch::channel(false);
    let (fail, failed) = watch::channel(false);
    let mut running = Running {
        addr: ([127, 0, 0, 1], 0).into(),
        fresh_keys: None,
        stop,
        servers: Vec::new(),
        parts,
        failed,
        app: app.clone(),
    };
    let opened = match taken {
        Ok(()) => listen(&config, &app, budget, &requests, roles, &stopped).await,
        Err(error) => Err(error),
    };
    match opened {
        Ok((addr, servers)) => (running.addr, running.servers) = (addr, servers),
        Err(error) => {
            running.stop().await;
            return Err(error);
        }
    }
    let housekeeping = housekeeping::Housekeeping {
        log: log.clone(),
        clock,
        view: view.clone(),
        app: app.clone(),
        retention: config.retention,
        data_dir: config.data_dir.clone(),
        memory: MemoryGovernor::new(budget, config.partitions, cached_users, shared, requests),
    };
    running.parts.housekeeping = Some(housekeeping.start(notify, ending, fail)?);
    let unset = view
        .get(
            askwhen_wire::record::DEFAULT_PROJECT,
            askwhen_wire::definition::Kind::Settings,
            askwhen_wire::definition::SETTINGS_ID,
        )
        .is_none();
    if options.dev && unset && (data.is_new || config.kafka) && roles.bridge {
        data::dev_settings(&log, &data.key, &app.clock).await?;
    }
    running.fresh_keys = data.fresh_keys;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        log = if config.kafka { "kafka" } else { "embedded" },
        partitions = config.partitions,
        listen = %running.addr,
        admin_listen = config.admin_listen,
        projects = ?data.keys.iter().map(|key| key.project.as_str()).collect::<BTreeSet<_>>(),
        data_dir = %config.data_dir.display(),
        memory_mib = config.memory >> 20,
        "askwhen serves"
    );
    Ok(running)
}

/// How much of it.
fn rates(config: &Config) -> Rates {
    Rates { per_key: config.per_key, per_client_user: config.per_client_user }
}

/// Who may do what.
fn grants(config: &Config, keys: &[Key]) -> Grants {
    Grants {
        keys: keys.iter().map(|key| (key.digest, (key.project.clone(), key.kind))).collect(),
        identity: config.identity_secrets.clone(),
    }
}

/// Says what anybody on the network may do, which operators may not have meant.
fn say_what_is_open(config: &Config, keys: &[Key]) {
    for project in unsigned_projects(config, keys) {
        tracing::warn!(
            project,
            "a client key and no identity_secret: whoever has the key, as every page has, may act as any user; \
             see [[projects]] identity_secret"
        );
    }
    if has_open_metrics(config) {
        tracing::warn!(
            listen = config.listen,
            "/metrics and the routes of operators are on a public address: set [http] admin_listen"
        );
    }
}

/// The keys that count: the configured ones, else those of the data directory.
///
/// # Errors
/// When there are none, or they are unreadable.
pub fn keys_in_force(config: &Config) -> Result<Vec<Key>, Error> {
    match config.keys.is_empty() {
        true => Ok(data::own(&read_keys(&config.data_dir)?)),
        false => Ok(config.keys.clone()),
    }
}

/// Projects whose client keys may act as any user.
pub fn unsigned_projects<'a>(config: &Config, keys: &'a [Key]) -> BTreeSet<&'a str> {
    let signed = |project: &str| config.identity_secrets.get(project).is_some_and(|secrets| !secrets.is_empty());
    let clients = keys.iter().filter(|key| key.kind == bridge::auth::Kind::Client);
    clients.map(|key| key.project.as_str()).filter(|project| !signed(project)).collect()
}

/// Whether other machines reach what is for operators alone.
pub fn has_open_metrics(config: &Config) -> bool {
    config.admin_listen.is_none() && is_public(config)
}

/// Whether other machines reach the server.
pub fn is_public(config: &Config) -> bool {
    let host = config.listen.rsplit_once(':').map_or("", |(host, _)| host);
    let is_loopback =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    !is_loopback
}

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
    // Whether the clock is behind is asked of each partition: there it is known
    // whether an operator has accepted the time since.
    let embedded = Embedded::open(&config.data_dir.join("log"), config.partitions, clock.clone())?;
    Ok(Log::Embedded(Arc::new(embedded)))
}

/// Waits for partitions that are being taken up, so that a refusal ends the
/// start. On Kafka the group gives partitions when it gives them: only a test,
/// which moves time, waits for all of them.
async fn wait_until_taken(
    config: &Config,
    options: Options,
    engine: &[Arc<askwhen_partition::Status>],
    delivery: &delivery::Status,
) -> Result<(), Error> {
    if config.kafka && !options.test_clock {
        return Ok(());
    }
    let deadline = Instant::now() + TAKING_UP;
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
        // One that waits for an operator's word does not keep the others.
        let waits = |n: usize| engine.get(n).is_some_and(|status| status.poisoned_at().is_some());
        if phases.iter().enumerate().all(|(n, phase)| *phase == Phase::Running || waits(n)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

impl Running {
    /// Resolves when the log has failed and the process must end.
    pub async fn failure(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Takes keys, identity secrets, limits and origins of a configuration that was read
    /// again.
    ///
    /// # Errors
    /// When the data directory's own keys cannot be read; then those of before count on.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        let keys = keys_in_force(config)?;
        self.app.auth.replace(grants(config, &keys), rates(config));
        self.app.cors_origins.replace(config.cors_origins.clone());
        Ok(())
    }

    /// Readiness off, requests finished, everything written down.
    pub async fn stop(mut self) {
        self.parts.ending.store(true, Ordering::Release);
        // Without servers there is nobody to tell.
        self.stop.send(true).ok();
        for server in self.servers.drain(..) {
            if let Err(error) = server.await {
                tracing::error!(%error, "a listener had panicked");
            }
        }
        let (parts, app) = (self.parts, self.app);
        if let Err(error) = tokio::task::spawn_blocking(move || drop((app, parts))).await {
            tracing::error!(%error, "stopping failed");
        }
        tracing::info!("askwhen has stopped: all that it had taken is written down");
    }
}

async fn listen(
    config: &Config,
    app: &Arc<App>,
    budget: MemoryBudget,
    requests: &Arc<bridge::Budget>,
    roles: Roles,
    stopped: &watch::Receiver<bool>,
) -> Result<(SocketAddr, Vec<tokio::task::JoinHandle<()>>), Error> {
    let bind = |addr: String| async move {
        TcpListener::bind(&addr).await.map_err(|e| Error::unreachable(format!("cannot listen on {addr}: {e}")))
    };
    let mut surfaces = vec![(config.listen.clone(), Surface::Whole)];
    if let Some(admin) = &config.admin_listen {
        surfaces = vec![(config.listen.clone(), Surface::Public), (admin.clone(), Surface::Operators)];
    }
    let mut first = None;
    let mut servers = Vec::new();
    let places = open_files::places(config, roles.own_partitions(), &budget);
    for (addr, surface) in surfaces {
        // Operators get in whatever is going on at the other listener.
        let max_connections = if surface == Surface::Operators { places.min(OPERATORS) } else { places };
        let max_per_address = config.max_connections_per_address.map(|most| most as usize);
        let limits = bridge::Limits { max_connections, max_per_address, keep_alive: config.keep_alive };
        let connections = bridge::Connections::new(limits, requests.clone());
        let listener = bind(addr).await?;
        first = first.or(Some(listener.local_addr()?));
        let (app, stopped, drain) = (app.clone(), stopped.clone(), Duration::from_secs(10));
        let serving = bridge::server::serve(listener, app, surface, connections, stopped, drain);
        servers.push(tokio::spawn(vital("listener", serving)));
    }
    let addr = first.ok_or_else(|| Error::failed("nothing to listen on"))?;
    Ok((addr, servers))
}

/// Where `keys.toml` lies.
pub fn keys_path(config: &Config) -> PathBuf {
    config.data_dir.join("keys.toml")
}
