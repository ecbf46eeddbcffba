//! Starts the roles in their order, says when they are ready, stops them so
//! that nothing is lost. The only place where all roles are known.

mod clockwork;
mod data;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::actor::checkpoint::Checkpointer;
use crate::actor::partition::Stop;
use crate::actor::pool::{Open, Pool};
use crate::actor::{self, Partition, Replies};
use crate::bridge::auth::Auth;
use crate::bridge::{self, App, Filter, Lists, Page, Surface, View};
use crate::clock::Clock;
use crate::config::Config;
use crate::console::{Console, DeliveryFilter};
use crate::delivery::{self, Delivery};
use crate::domain::LOGIC_VERSION;
use crate::domain::time::{Millis, SECOND};
use crate::engine::Engine;
use crate::log::{self, At, Bell, Embedded, Log};
use crate::store::{Family, Shared, Store};
use crate::wire::topic::Topic;

pub use data::{FreshKeys, KeysFile, read_keys};

/// Users kept decoded, over all partitions.
const CACHED_USERS: usize = 400_000;
/// Blocks and write buffers of all stores together.
const STORE_MEMORY_BYTES: usize = 256 << 20;
/// How far a clock may be behind the log.
const MAX_CLOCK_LAG: Millis = 300 * SECOND;

/// What `serve` was asked for beside the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub test_clock: bool,
    /// Loopback receivers, and settings for trying things out.
    pub dev: bool,
    pub console: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Going on could damage or forge data.
    #[error("{0}")]
    Refused(String),
    /// Something needed is not there.
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Failed(String),
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Error {
        match error {
            log::Error::Refused(_) | log::Error::Damaged { .. } => Error::Refused(error.to_string()),
            _ => Error::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Failed(error.to_string())
    }
}

/// A running askwhen.
pub struct Running {
    pub addr: SocketAddr,
    /// Keys made by this very start, to be shown once.
    pub fresh_keys: Option<FreshKeys>,
    stop: watch::Sender<bool>,
    servers: Vec<tokio::task::JoinHandle<()>>,
    pool: Option<Pool>,
    delivery: Option<Delivery>,
    console: Option<Arc<Console>>,
    log: Arc<Embedded>,
    ending: Arc<AtomicBool>,
    keeper: Option<std::thread::JoinHandle<()>>,
    failed: watch::Receiver<bool>,
}

/// Starts everything. Must be called on a tokio runtime.
///
/// # Errors
/// Why it cannot start, by what the caller should do about it.
pub async fn start(config: Config, options: Options) -> Result<Running, Error> {
    if config.kafka {
        return Err(Error::Refused("[log] kind = kafka is not built in this version; use the embedded log".into()));
    }
    let mut config = config;
    if options.dev {
        config.allow_targets.extend(data::loopback());
    }
    // Installing a second time is an error that changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let data = data::prepare(&config)?;
    let clock = Clock::new();
    let embedded = Arc::new(Embedded::open(&config.data_dir.join("log"), config.partitions, clock.clone())?);
    set_clock(&clock, &embedded, options.test_clock)?;
    let log = Log::Embedded(embedded.clone());
    let shared = Shared::new(STORE_MEMORY_BYTES);
    let replies = Replies::default();
    let statuses: Vec<Arc<actor::Status>> = (0..config.partitions).map(|_| Arc::default()).collect();
    let checkpointer = Checkpointer::start()?;
    let setup = actor::Setup::new(log.clone(), clock.clone(), data.key.clone(), replies.clone(), checkpointer);
    let pool = start_engine(&config, &setup, &shared, &statuses)?;
    let delivery_status = Arc::new(delivery::Status::default());
    let delivery = start_delivery(&config, &setup, &shared, &delivery_status)?;
    let console = if options.console {
        let store = data::open_store(&config.data_dir.join("state/console"), Family::CONSOLE, &shared)?;
        Some(Arc::new(Console::start(log.clone(), store)?))
    } else {
        None
    };
    let view = Arc::new(View::default());
    view.catch_up(&log)?;
    let ending = Arc::new(AtomicBool::new(false));
    let clockwork = clockwork::Clockwork {
        clock: clock.clone(),
        log: log.clone(),
        engine: statuses.clone(),
        delivery: delivery_status.clone(),
    };
    let auth = Auth::new(
        data.keys.iter().map(|k| (k.digest, (k.project.clone(), k.kind))),
        config.identity_secrets.clone(),
        (config.per_key, config.per_client_user),
    );
    let unready = unready(embedded.clone(), statuses, delivery_status, ending.clone());
    let app = Arc::new(App {
        log: log.clone(),
        clock: clock.clone(),
        replies,
        key: data.key.clone(),
        auth,
        view: view.clone(),
        cors_origins: config.cors_origins.clone(),
        allow_targets: config.allow_targets.clone(),
        reply_timeout: config.reply_timeout,
        lists: console.clone().map(|console| Arc::new(Projected(console)) as Arc<dyn Lists>),
        test_clock: options.test_clock.then(|| clockwork.run()),
        unready: Box::new(unready),
    });
    let (stop, stopped) = watch::channel(false);
    let (addr, servers) = listen(&config, &app, &stopped).await?;
    let (fail, failed) = watch::channel(false);
    let keeper = keep(&config, (embedded.clone(), clock, view, app.clone()), (ending.clone(), fail))?;
    if options.dev && data.is_new {
        data::dev_settings(&log, &data.key, &app.clock).await?;
    }
    Ok(Running {
        addr,
        fresh_keys: data.fresh_keys,
        stop,
        servers,
        pool: Some(pool),
        delivery: Some(delivery),
        console,
        log: embedded,
        ending,
        keeper: Some(keeper),
        failed,
    })
}

impl Running {
    /// Resolves when the log has failed and the process must end.
    pub async fn failure(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Readiness off, requests finished, everything written down.
    pub async fn stop(mut self) {
        self.ending.store(true, Ordering::Release);
        // Without servers there is nobody to tell.
        self.stop.send(true).ok();
        for server in self.servers.drain(..) {
            if let Err(error) = server.await {
                tracing::error!(%error, "a listener had panicked");
            }
        }
        let (pool, delivery) = (self.pool.take(), self.delivery.take());
        let (console, log, keeper) = (self.console.take(), self.log.clone(), self.keeper.take());
        let stopping = tokio::task::spawn_blocking(move || {
            pool.into_iter().for_each(Pool::stop);
            delivery.into_iter().for_each(Delivery::stop);
            console.into_iter().for_each(|console| console.stop());
            let keeper = keeper.map(std::thread::JoinHandle::join);
            if keeper.is_some_and(|joined| joined.is_err()) {
                tracing::error!("the keeper had panicked");
            }
            log.close();
        });
        if let Err(error) = stopping.await {
            tracing::error!(%error, "stopping failed");
        }
    }
}

/// A test clock takes up where the log's time is; a real one must not be far
/// behind it.
fn set_clock(clock: &Clock, log: &Embedded, test_clock: bool) -> Result<(), Error> {
    let Some(newest) = log.newest_at() else { return Ok(()) };
    if test_clock {
        clock.set_ahead((newest - clock.wall()).max(0));
    } else if newest > clock.wall() + MAX_CLOCK_LAG {
        let behind = (newest - clock.wall()) / SECOND;
        return Err(Error::Refused(format!(
            "this machine's clock is {behind} s behind the log's newest record: set the clock \
             (or, if this data was made with --test-clock, start with it again)"
        )));
    }
    Ok(())
}

fn start_engine(
    config: &Config,
    setup: &actor::Setup,
    shared: &Shared,
    statuses: &[Arc<actor::Status>],
) -> Result<Pool, Error> {
    let mut opens: Vec<(u32, Open<Engine>, Arc<actor::Status>)> = Vec::new();
    let cached = CACHED_USERS / config.partitions as usize;
    for partition in 0..config.partitions {
        let path = config.data_dir.join(format!("state/engine/{partition}"));
        let store = data::open_store(&path, Family::ENGINE, shared)?;
        let setup = setup.clone();
        let open: Open<Engine> = Box::new(move |bell: Arc<Bell>, status: Arc<actor::Status>| {
            let engine = Engine::open(store.clone(), cached).map_err(Stop::Refused)?;
            Partition::open(partition, setup.clone(), store.clone(), engine, LOGIC_VERSION, (bell, status))
        });
        opens.push((partition, open, statuses[partition as usize].clone()));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(config.partitions as usize);
    Pool::start(opens, threads).map_err(|stop| match stop {
        Stop::Refused(detail) => Error::Refused(detail),
        Stop::Restart(detail) => Error::Failed(detail),
    })
}

fn start_delivery(
    config: &Config,
    setup: &actor::Setup,
    shared: &Shared,
    status: &Arc<delivery::Status>,
) -> Result<Delivery, Error> {
    let mut stores: Vec<Arc<Store>> = Vec::new();
    for partition in 0..config.partitions {
        let path = config.data_dir.join(format!("state/delivery/{partition}"));
        stores.push(data::open_store(&path, Family::DELIVERY, shared)?);
    }
    let setup = delivery::Setup {
        log: setup.log.clone(),
        clock: setup.clock.clone(),
        key: setup.key.clone(),
        stores,
        allow_targets: config.allow_targets.clone(),
        max_in_flight: config.max_in_flight,
        runtime: tokio::runtime::Handle::current(),
        status: status.clone(),
    };
    Delivery::start(setup).map_err(|error| Error::Refused(error.to_string()))
}

async fn listen(
    config: &Config,
    app: &Arc<App>,
    stopped: &watch::Receiver<bool>,
) -> Result<(SocketAddr, Vec<tokio::task::JoinHandle<()>>), Error> {
    let bind = |addr: String| async move {
        TcpListener::bind(&addr).await.map_err(|e| Error::Unreachable(format!("cannot listen on {addr}: {e}")))
    };
    let mut surfaces = vec![(config.listen.clone(), Surface::Whole)];
    if let Some(admin) = &config.admin_listen {
        surfaces = vec![(config.listen.clone(), Surface::Public), (admin.clone(), Surface::Operators)];
    }
    let mut first = None;
    let mut servers = Vec::new();
    for (addr, surface) in surfaces {
        let listener = bind(addr).await?;
        first = first.or(Some(listener.local_addr()?));
        let serving = bridge::server::serve(listener, app.clone(), surface, stopped.clone(), Duration::from_secs(10));
        servers.push(tokio::spawn(serving));
    }
    let addr = first.ok_or_else(|| Error::Failed("nothing to listen on".into()))?;
    Ok((addr, servers))
}

fn unready(
    log: Arc<Embedded>,
    engine: Vec<Arc<actor::Status>>,
    delivery: Arc<delivery::Status>,
    ending: Arc<AtomicBool>,
) -> impl Fn() -> Vec<String> + Send + Sync {
    move || {
        let mut reasons = Vec::new();
        if ending.load(Ordering::Acquire) {
            reasons.push("the process is stopping".to_owned());
        }
        if let Err(error) = log.is_writable() {
            reasons.push(error.to_string());
        }
        for (partition, status) in engine.iter().enumerate() {
            if let Some(why) = &*status.stopped.lock().expect("no panic holds this lock") {
                reasons.push(format!("partition {partition} has stopped: {why}"));
            }
        }
        if !delivery.ready.load(Ordering::Acquire) {
            reasons.push("the delivery is catching up or has stopped".to_owned());
        }
        reasons
    }
}

/// Housekeeping: the view of definitions, retention, free space, quotas.
fn keep(
    config: &Config,
    (log, clock, view, app): (Arc<Embedded>, Clock, Arc<View>, Arc<App>),
    (ending, fail): (Arc<AtomicBool>, watch::Sender<bool>),
) -> Result<std::thread::JoinHandle<()>, Error> {
    let retention = config.retention;
    let port = Log::Embedded(log.clone());
    let bell = Arc::new(Bell::default());
    port.subscribe(At { topic: Topic::Definitions, partition: 0 }, bell.clone());
    let thread = std::thread::Builder::new().name("keeper".into());
    let kept = thread.spawn(move || {
        let mut round: u64 = 0;
        while !ending.load(Ordering::Acquire) {
            bell.wait(Duration::from_millis(250));
            if let Err(error) = view.catch_up(&port) {
                tracing::error!(%error, "the definitions cannot be shown");
            }
            if matches!(log.is_writable(), Err(log::Error::Unknown(_))) {
                // Nobody may be waiting any more.
                fail.send(true).ok();
                return;
            }
            if round.is_multiple_of(4)
                && let Some(free) = log.check_space()
            {
                crate::metrics::get().disk_free_bytes.set(free as f64);
            }
            if round.is_multiple_of(240) {
                app.auth.sweep();
                trim(&port, &retention, clock.now());
            }
            round += 1;
        }
    });
    Ok(kept?)
}

/// The journal, and what the delivery reads back, are kept whole: without a
/// snapshot of the state a lost store could not be rebuilt from less.
fn trim(log: &Log, retention: &crate::config::Retention, now: Millis) {
    for topic in Topic::ALL {
        let keep = match topic.spec().retention.as_str() {
            "decisions" => retention.decisions,
            "responses" => retention.responses,
            _ => continue,
        };
        for partition in 0..topic.partitions(log.partitions()) {
            if let Err(error) = log.trim(At { topic: *topic, partition }, now - keep) {
                tracing::warn!(%error, topic = topic.name(), "old records could not be removed");
            }
        }
    }
}

/// The console's lists for the bridge; neither knows the other.
struct Projected(Arc<Console>);

impl Lists for Projected {
    fn deliveries(&self, project: &str, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, String> {
        let filter = filter.clone();
        let filter = DeliveryFilter {
            endpoint_id: filter.endpoint_id,
            status: filter.status,
            survey_id: filter.survey_id,
            user_id: filter.user_id,
            since: filter.since,
            until: filter.until,
        };
        let (rows, next_cursor) = self.0.deliveries(project, &filter, cursor, limit)?;
        Ok(Page { rows, next_cursor })
    }

    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<serde_json::Value>, String> {
        self.0.delivery(project, delivery_id)
    }
}

/// Where `keys.toml` lies.
pub fn keys_path(config: &Config) -> PathBuf {
    config.data_dir.join("keys.toml")
}
