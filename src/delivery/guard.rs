//! Names are resolved once, and every address is judged: one that is not
//! allowed refuses them all. Connections go to the judged addresses only.

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::SocketAddr;

use crate::domain::address;

/// A name that resolves to where no webhook goes.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves to an address that is not allowed (see [delivery] allow_targets)")]
pub struct Blocked;

pub struct Guard {
    pub allowed: Vec<IpNet>,
    /// For plain `http:` only what an operator has opened will do.
    pub plain: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (allowed, plain) = (self.allowed.clone(), self.plain);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let fine =
                |at: &SocketAddr| address::is_allowed(at.ip(), &allowed) || (!plain && !address::is_forbidden(at.ip()));
            if found.is_empty() || !found.iter().all(fine) {
                return Err(Blocked.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
