//! The data directory: keys, the cluster key, stores; what is made at the
//! first start, and what is set aside when it is damaged.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use crate::actor;
use crate::bridge::auth::{self, Kind};
use crate::clock::Clock;
use crate::config::{Config, Key};
use crate::domain::json::Json;
use crate::domain::settings::Settings;
use crate::log::{At, Log};
use crate::store::{self, Family, Rocks, Shared, Store};
use crate::wire::definition::{self, SETTINGS_ID};
use crate::wire::record::{DEFAULT_PROJECT, Define, Internal};
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;

/// Keys as they were just made: kind and key.
pub type FreshKeys = Vec<(Kind, String)>;

pub struct Data {
    pub key: ClusterKey,
    pub keys: Vec<Key>,
    pub fresh_keys: Option<FreshKeys>,
    /// Nothing was here before.
    pub is_new: bool,
}

/// `keys.toml`
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    pub keys: Vec<KeyEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    pub project: String,
    pub kind: Kind,
    pub key: String,
}

/// The keys that a data directory made for itself.
///
/// # Errors
/// When there are none, or they are unreadable.
pub fn read_keys(data_dir: &Path) -> Result<KeysFile, String> {
    let path = data_dir.join("keys.toml");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    toml::from_str(&text).map_err(|e| format!("{}: {}", path.display(), e.message()))
}

pub fn prepare(config: &Config) -> Result<Data, Error> {
    let dir = &config.data_dir;
    let failed = |e: std::io::Error| Error::Failed(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    if config.kafka && config.key_file.is_none() {
        return Err(Error::Usage(
            "secrets.key_file is required on Kafka: all processes share one cluster key. \
             Make one with `openssl rand -hex 32 > cluster.key`"
                .into(),
        ));
    }
    // On Kafka the key is shared: one that is missing is not made up.
    let is_new = !config.kafka && !dir.join("log").exists();
    let key_path = config.key_file.clone().unwrap_or_else(|| dir.join("secrets.key"));
    let key = match fs::read_to_string(&key_path) {
        Ok(text) => ClusterKey::parse(&text)
            .ok_or_else(|| Error::Usage(format!("{} must hold 64 hex digits", key_path.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_new => {
            let text = random_hex();
            write_private(&key_path, &text)?;
            ClusterKey::parse(&text).ok_or_else(|| Error::Failed("no key could be made".into()))?
        }
        Err(error) => {
            return Err(Error::Refused(format!(
                "{}: {error}. Without it the secrets in the log cannot be read; give the one that all processes share, \
                 or restore it from a backup",
                key_path.display()
            )));
        }
    };
    if config.kafka && config.keys.is_empty() {
        tracing::warn!(
            "no [[keys]] are configured: this process makes its own, which no other knows; with several bridges, give all the same"
        );
    }
    let (keys, fresh_keys) = if config.keys.is_empty() { own_keys(dir)? } else { (config.keys.clone(), None) };
    Ok(Data { key, keys, fresh_keys, is_new })
}

fn own_keys(dir: &Path) -> Result<(Vec<Key>, Option<FreshKeys>), Error> {
    let path = dir.join("keys.toml");
    let mut fresh = None;
    if !path.exists() {
        let kinds = [Kind::Client, Kind::Server, Kind::Admin];
        let made: FreshKeys = kinds.map(|kind| (kind, format!("ak_{}_{}", kind.name(), &random_hex()[..40]))).into();
        let keys =
            made.iter().map(|(kind, key)| KeyEntry { project: DEFAULT_PROJECT.into(), kind: *kind, key: key.clone() });
        let text = toml::to_string(&KeysFile { keys: keys.collect() }).map_err(|e| Error::Failed(e.to_string()))?;
        write_private(&path, &text)?;
        fresh = Some(made);
    }
    let read = read_keys(dir).map_err(Error::Refused)?;
    let keys = read.keys.iter().map(|entry| Key {
        project: entry.project.clone(),
        kind: entry.kind,
        digest: auth::digest(&entry.key),
    });
    Ok((keys.collect(), fresh))
}

fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    hex::encode(bytes)
}

/// Readable by its owner alone.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })();
    written.map_err(|e: std::io::Error| Error::Failed(format!("{}: {e}", path.display())))
}

pub fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect()
}

/// One process per data directory.
pub fn lock(dir: &Path) -> Result<fs::File, Error> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::Refused(format!("{} is in use by another process", dir.display())))?;
    Ok(file)
}

/// On Kafka the state in a data directory is of the log that it was made from.
pub fn refuse_another_log(dir: &Path, incarnation: u128) -> Result<(), Error> {
    let (path, own) = (dir.join("log.id"), format!("{incarnation:032x}"));
    match fs::read_to_string(&path) {
        Ok(known) if known == own => Ok(()),
        Ok(_) => Err(Error::Refused(format!(
            "the state in {} belongs to another log: use the brokers and the prefix that it was made with, or an \
             empty data directory",
            dir.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(fs::write(&path, own)?),
        Err(error) => Err(Error::Failed(format!("{}: {error}", path.display()))),
    }
}

/// Moves a damaged store out of the way; it stays for whoever wants to look.
pub fn set_aside(path: &Path, why: &str) -> Result<(), Error> {
    let aside = path.with_extension(format!("damaged-{}", uuid::Uuid::now_v7().simple()));
    tracing::error!(why, aside = %aside.display(), "a damaged store is set aside and made again");
    fs::rename(path, &aside).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))
}

/// Opens a store; a damaged one is set aside and begun anew, to be made again
/// from a snapshot and the topics.
pub fn open_store(path: &Path, families: &'static [Family], shared: &Shared) -> Result<Arc<Store>, Error> {
    fs::create_dir_all(path).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    match Rocks::open(path, families, shared) {
        Ok(store) => Ok(Arc::new(Store::Rocks(store))),
        Err(error @ store::Error::Damaged { .. }) => {
            set_aside(path, &error.to_string())?;
            let store = Rocks::open(path, families, shared).map_err(|e| Error::Failed(e.to_string()))?;
            Ok(Arc::new(Store::Rocks(store)))
        }
        Err(error) => Err(Error::Failed(error.to_string())),
    }
}

/// `--dev` on a new data directory: no cooldown between surveys.
pub async fn dev_settings(log: &Log, key: &ClusterKey, clock: &Clock) -> Result<(), Error> {
    let settings = Settings { global_cooldown: 0, ..Settings::default() };
    let define = Internal::Define(Define {
        project: DEFAULT_PROJECT.into(),
        kind: definition::Kind::Settings,
        id: SETTINGS_ID.into(),
        body: Some(Json::of(&settings)),
        new_secret: None,
        if_match: None,
        create: false,
        asked_at: clock.now(),
        request_id: uuid::Uuid::new_v4().simple().to_string(),
    });
    let new = actor::signed("settings", &define, key);
    log.append_durably(At { topic: Topic::Events, partition: 0 }, vec![new]).await?;
    Ok(())
}
