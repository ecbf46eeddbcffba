//! A process that serves: its components, and how they stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::data::FreshKeys;
use super::keys::{grants, keys_in_force, rates};
use super::owners::Owner;
use super::snapshots::Snapshots;
use crate::bridge::App;
use crate::bridge::auth::Kind;
use crate::bridge::cors::AllowedOrigin;
use crate::config::{self, Config, Key};
use crate::console::Console;
use crate::delivery::Delivery;
use crate::engine::Engine;
use crate::replay::Error;
use askwhen_log::Log;
use askwhen_partition::pool::Pool;
use askwhen_process::thread::{Service, Thread};

/// A running askwhen.
pub struct Running {
    pub addr: SocketAddr,
    /// Where the console is.
    pub operators_addr: SocketAddr,
    /// A link that signs in to the console once; under `--dev` alone.
    pub sign_in: Option<String>,
    /// The keys that this start has made, to be shown once.
    pub fresh_keys: Option<FreshKeys>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) servers: Vec<JoinHandle<()>>,
    pub(super) components: Components,
    /// Set when the log has failed.
    pub(super) failed: watch::Receiver<bool>,
    pub(super) app: Arc<App>,
    /// Whether every origin may call the client routes, whatever the configuration says.
    pub(super) dev: bool,
}

/// The parts of a process beside its listeners. Dropping it, however far the start has
/// come, stops them in order and makes everything durable; that blocks.
pub(super) struct Components {
    pub(super) ending: Arc<AtomicBool>,
    pub(super) reply_consumer: Option<Service>,
    pub(super) engine: Option<Owner<Pool<Engine>>>,
    pub(super) delivery: Option<Owner<Delivery>>,
    pub(super) snapshots: Option<Snapshots>,
    pub(super) console: Option<Arc<Console>>,
    pub(super) housekeeping: Option<Thread>,
    pub(super) surplus: Option<Service>,
    log: Log,
    /// The lock on the data directory, which is given back last.
    _lock: std::fs::File,
}

impl Components {
    pub(super) fn none(log: Log, lock: std::fs::File) -> Components {
        Components {
            ending: Arc::default(),
            reply_consumer: None,
            engine: None,
            delivery: None,
            snapshots: None,
            console: None,
            housekeeping: None,
            surplus: None,
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
        drop(self.surplus.take());
        match &self.log {
            Log::Embedded(log) => log.close(),
            Log::Kafka(log) => log.close(),
            Log::Simulated(_) => {}
        }
    }
}

impl Running {
    /// Resolves when the log has failed and the process must end.
    pub async fn failure(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A link that signs in to the console with the first admin key.
    pub(super) fn make_sign_in_link(&self, keys: &[Key]) -> Option<String> {
        let key = keys.iter().find(|key| key.kind == Kind::Admin)?;
        let token = self.app.sessions.link(key.digest, self.app.clock.now());
        Some(format!("http://{}/console/?once={token}", self.operators_addr))
    }

    /// Puts the keys, identity secrets, limits and origins of a configuration in force.
    ///
    /// # Errors
    /// When the data directory's own keys cannot be read; then nothing changes.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        let keys = keys_in_force(config)?;
        self.app.auth.replace(grants(config, &keys), rates(config));
        let mut origins = config.cors_origins.clone();
        origins.extend(self.dev.then_some(AllowedOrigin::Any));
        self.app.cors_origins.replace(origins);
        Ok(())
    }

    /// What is shown of the configuration from now on.
    pub fn show_configuration(&self, in_force: &toml::Table) {
        *self.app.configuration.write().expect("no panic holds this lock") = config::shown(in_force);
    }

    /// Ends readiness, finishes requests and makes everything durable.
    pub async fn stop(mut self) {
        self.components.ending.store(true, Ordering::Release);
        // Without listeners nobody receives it.
        self.stop.send(true).ok();
        for server in self.servers.drain(..) {
            if let Err(error) = server.await {
                tracing::error!(%error, "a listener had panicked");
            }
        }
        let (components, app) = (self.components, self.app);
        if let Err(error) = tokio::task::spawn_blocking(move || drop((app, components))).await {
            tracing::error!(%error, "stopping failed");
        }
        tracing::info!("askwhen has stopped: all that it had taken is written down");
    }
}
