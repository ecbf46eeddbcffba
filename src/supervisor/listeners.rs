//! The HTTP listeners: for everybody, or for clients and operators apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::memory::MemoryBudget;
use super::open_files;
use super::options::Roles;
use crate::bridge::{self, App, Surface};
use crate::config::Config;
use crate::replay::Error;
use askwhen_process::thread::vital;

/// How many connections the listener for operators takes at most.
const OPERATOR_CONNECTIONS: usize = 256;
/// How long requests under way may take to finish when the process stops.
const DRAIN: Duration = Duration::from_secs(10);

/// The tasks of the listeners, and the addresses of the first and of the operators'.
pub struct Listeners {
    pub addr: SocketAddr,
    pub operators_addr: SocketAddr,
    pub servers: Vec<JoinHandle<()>>,
}

/// Listens until `stopped`.
///
/// # Errors
/// When an address cannot be listened on.
pub async fn listen(
    config: &Config,
    app: &Arc<App>,
    budget: MemoryBudget,
    requests: &Arc<bridge::Budget>,
    roles: Roles,
    stopped: &watch::Receiver<bool>,
) -> Result<Listeners, Error> {
    let bind = |addr: String| async move {
        TcpListener::bind(&addr).await.map_err(|e| Error::unreachable(format!("cannot listen on {addr}: {e}")))
    };
    let mut surfaces = vec![(config.listen.clone(), Surface::Whole)];
    if let Some(admin) = &config.admin_listen {
        surfaces = vec![(config.listen.clone(), Surface::Public), (admin.clone(), Surface::Operators)];
    }
    let (mut first, mut last) = (None, None);
    let mut servers = Vec::new();
    let places = open_files::places(config, roles.own_partitions(), &budget);
    for (addr, surface) in surfaces {
        // The listeners share no connections, so that clients cannot keep operators out.
        let max_connections = if surface == Surface::Operators { places.min(OPERATOR_CONNECTIONS) } else { places };
        let max_per_address = config.max_connections_per_address.map(|most| most as usize);
        let limits = bridge::Limits { max_connections, max_per_address, keep_alive: config.keep_alive };
        let connections = bridge::Connections::new(limits, requests.clone());
        let listener = bind(addr).await?;
        last = Some(listener.local_addr()?);
        first = first.or(last);
        let (app, stopped, drain) = (app.clone(), stopped.clone(), DRAIN);
        let serving = bridge::server::serve(listener, app, surface, connections, stopped, drain);
        servers.push(tokio::spawn(vital("listener", serving)));
    }
    let (addr, operators_addr) = first.zip(last).ok_or_else(|| Error::failed("nothing to listen on"))?;
    Ok(Listeners { addr, operators_addr, servers })
}
