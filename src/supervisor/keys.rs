//! The API keys in force, and what other machines may do with them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use super::data;
use crate::bridge;
use crate::bridge::auth::{self, Grants, KeyGrant, Rates};
use crate::config::{Config, Key};
use crate::replay::Error;

/// How much each key may do.
pub(super) fn rates(config: &Config) -> Rates {
    Rates { per_key: config.per_key, per_client_user: config.per_client_user }
}

/// What each key may do.
pub(super) fn grants(config: &Config, keys: &[Key]) -> Grants {
    Grants {
        keys: keys.iter().map(|key| (key.digest, grant(key))).collect(),
        identity: config.identity_secrets.clone(),
    }
}

fn grant(key: &Key) -> KeyGrant {
    // The same name for the key in every process that has it.
    let key_id = format!("file_{}", &hex::encode(auth::digest(&hex::encode(key.digest)))[..16]);
    let prefix = key.text.as_deref().map(|text| text.chars().take(text.chars().count() / 4).take(12).collect());
    KeyGrant { key_id, project: key.project.clone(), kind: key.kind, name: key.name.clone(), prefix, created_at: None }
}

/// Logs what anybody on the network may do, because operators may not have meant it.
pub(super) fn log_exposure(config: &Config, keys: &[Key]) {
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

/// The keys in force: the configured ones, else those of the data directory.
///
/// # Errors
/// When there are none, or they are unreadable.
pub fn keys_in_force(config: &Config) -> Result<Vec<Key>, Error> {
    match config.keys.is_empty() {
        true => Ok(data::own(&data::read_keys(&config.data_dir)?)),
        false => Ok(config.keys.clone()),
    }
}

/// Projects whose client keys may act as any user.
pub fn unsigned_projects<'a>(config: &Config, keys: &'a [Key]) -> BTreeSet<&'a str> {
    let signed = |project: &str| config.identity_secrets.get(project).is_some_and(|secrets| !secrets.is_empty());
    let clients = keys.iter().filter(|key| key.kind == bridge::auth::Kind::Client);
    clients.map(|key| key.project.as_str()).filter(|project| !signed(project)).collect()
}

/// Whether other machines reach `/metrics` and the routes of operators.
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

/// The path of `keys.toml`.
pub fn keys_path(config: &Config) -> PathBuf {
    config.data_dir.join("keys.toml")
}
