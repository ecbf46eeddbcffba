//! The data directory: API keys, the cluster key, stores. The first start makes them; a
//! damaged store is set aside.

use crate::console::families;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::format::{self, DirectoryFormat};
use super::private;
use crate::bridge::auth::{self, Kind};
use crate::config::{Config, Key, LEAST_SECRET_CHARS};
use crate::console::{self, OpenStore};
use crate::replay::{Error, ErrorKind};
use askwhen_domain::json::Json;
use askwhen_domain::settings::Settings;
use askwhen_domain::webhook::endpoint::SealedSecret;
use askwhen_log::embedded::follow::Follower;
use askwhen_log::{Embedded, Log, TopicPartition};
use askwhen_partition::Signer;
use askwhen_process::clock::Clock;
use askwhen_store::{Family, Rocks, Shared, Store};
use askwhen_wire::definition::{self, SETTINGS_ID};
use askwhen_wire::record::{DEFAULT_PROJECT, Define, Internal};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::DefinitionRecord;

/// Extension of the folder of a store that was set aside, before an id.
const DAMAGED: &str = "damaged-";
/// How many copies of one store that were set aside are kept.
const DAMAGED_KEPT: usize = 3;
/// How long each of them is kept at least.
const DAMAGED_KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// API keys that were just made: kind and text.
pub type FreshKeys = Vec<(Kind, String)>;

/// A data directory that this process has taken.
pub struct Data {
    pub key: ClusterKey,
    /// The API keys in force.
    pub keys: Vec<Key>,
    /// Those among them that were made just now.
    pub fresh_keys: Option<FreshKeys>,
    /// Whether there was no log before.
    pub is_new: bool,
    /// Keeps other processes out while it is held.
    pub lock: fs::File,
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
/// [`ErrorKind::Refused`] when there are none, or they are unreadable.
pub fn read_keys(data_dir: &Path) -> Result<KeysFile, Error> {
    let path = data_dir.join("keys.toml");
    let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, e).with_kind(ErrorKind::Refused))?;
    // The parser's message alone: its whole text quotes the line, which may hold a key.
    let unfit = |why: &str| {
        Error::refused(format!(
            "{}: {why}. Restore it from a backup, or configure [[keys]] instead and take the file away",
            path.display()
        ))
    };
    let file: KeysFile = toml::from_str(&text).map_err(|e| unfit(e.message()))?;
    if file.keys.iter().any(|entry| entry.key.chars().count() < LEAST_SECRET_CHARS) {
        return Err(unfit("a key has fewer than 16 characters, which can be guessed"));
    }
    let mut known = HashSet::new();
    if !file.keys.iter().all(|entry| known.insert(&entry.key)) {
        return Err(unfit("two keys have the same text: nobody could tell which of them is meant"));
    }
    Ok(file)
}

/// Takes the data directory: locks it, checks which version and which key wrote it, and
/// makes what a first start needs. `new_api_keys` makes API keys anew where `keys.toml` is
/// lost.
///
/// # Errors
/// [`ErrorKind::Refused`] when another process holds it, when a later version wrote it, or
/// when its log or its key is missing or another, or the log has other partitions; then
/// nothing is changed.
pub fn prepare(config: &Config, new_api_keys: bool) -> Result<Data, Error> {
    let dir = &config.data_dir;
    if config.kafka && config.key_file.is_none() {
        return Err(Error::usage(
            "secrets.key_file is required on Kafka: all processes share one cluster key. \
             Make one with `openssl rand -hex 32 > cluster.key`",
        ));
    }
    DirectoryFormat::read(dir)?;
    if !config.kafka {
        Embedded::check_partitions(&dir.join("log"), config.partitions)?;
    }
    private::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    let lock = lock(dir)?;
    let known = DirectoryFormat::read(dir)?;
    if !config.kafka {
        refuse_state_without_its_log(dir, known.is_some())?;
    }
    // On Kafka the directory holds only the state of one process.
    let served_before = if config.kafka { dir.join("log.id") } else { dir.join("log") }.exists();
    let is_new = !config.kafka && !served_before;
    let key = cluster_key(config, is_new)?;
    refuse_another_key(config, known.as_ref(), &key)?;
    if config.kafka && config.keys.is_empty() {
        tracing::warn!(
            "no [[keys]] are configured: this process makes its own, which no other knows; with several bridges, give all the same"
        );
    }
    if !config.keys.is_empty() && dir.join("keys.toml").exists() {
        // A file that cannot be read may hold any.
        let void = read_keys(dir).map_or(1, |file| void_keys(&config.keys, &file));
        if void > 0 {
            tracing::warn!(
                file = %dir.join("keys.toml").display(),
                count = void,
                "[[keys]] are configured: the keys that this data directory made for itself count no more; add those \
                 that are still in use, and remove the file"
            );
        }
    }
    let had_own = known.as_ref().map_or(served_before, |known| known.own_api_keys);
    let (keys, fresh_keys) = match config.keys.is_empty() {
        true => own_keys(dir, had_own, new_api_keys)?,
        false => (config.keys.clone(), None),
    };
    let own_api_keys = config.keys.is_empty() || known.is_some_and(|known| known.own_api_keys);
    let format = DirectoryFormat {
        layout: format::LAYOUT,
        program: format::PROGRAM.to_owned(),
        key_fingerprint: Some(key.check()),
        own_api_keys,
    };
    format.write(dir)?;
    take_rights_of_others(dir);
    Ok(Data { key, keys, fresh_keys, is_new, lock })
}

/// Refuses state or snapshots without the log that they were made from: a volume may not
/// be mounted, or a folder was removed. A new log would lose everything that the old one
/// has acknowledged, without a word.
fn refuse_state_without_its_log(dir: &Path, was_noted: bool) -> Result<(), Error> {
    let log = dir.join("log");
    if log.join("log.json").exists() {
        return Ok(());
    }
    let is_filled = |name: &&&str| fs::read_dir(dir.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    if let Some(left) = ["state", "snapshots"].iter().find(is_filled) {
        return Err(Error::refused(format!(
            "{} is of a log whose identity, {}, is not there: mount the volume that holds the log, or restore the \
             directory from a backup. To begin with nothing, give an empty directory",
            dir.join(left).display(),
            log.join("log.json").display()
        )));
    }
    if was_noted && !log.exists() {
        tracing::warn!(
            dir = %dir.display(),
            "this directory has been used before and holds no log: a new one begins"
        );
    }
    Ok(())
}

/// Takes the rights of others away, which earlier versions left to the shell's umask.
pub fn take_rights_of_others(dir: &Path) {
    match private::tighten(dir) {
        Ok(0) => {}
        Ok(changed) => tracing::warn!(
            changed,
            dir = %dir.display(),
            "others had rights to these files, which hold personal data: now they are their owner's alone"
        ),
        Err(error) => tracing::warn!(
            %error,
            dir = %dir.display(),
            "the rights of others to these files, which hold personal data, could not be taken away"
        ),
    }
}

/// Reads the cluster key. The first start of an embedded log makes one; on Kafka all
/// processes share one, so a missing one is never made.
fn cluster_key(config: &Config, is_new: bool) -> Result<ClusterKey, Error> {
    let path = key_path(config);
    match fs::read_to_string(&path) {
        Ok(text) => ClusterKey::parse(&text).ok_or_else(|| {
            let wrong = format!("{} must hold 64 hex digits", path.display());
            if config.key_file.is_some() || is_new {
                return Error::usage(wrong);
            }
            Error::refused(format!("{wrong}, and does not any more: put back the one from your backups"))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_new => {
            let text = random_hex();
            write_private(&path, &text)?;
            ClusterKey::parse(&text).ok_or_else(|| Error::failed("no key could be made"))
        }
        Err(error) => Err(Error::refused(format!(
            "{}: {error}. Without it the secrets in the log cannot be read; give the one that all processes share, \
             or restore it from a backup",
            path.display()
        ))),
    }
}

/// The path of the cluster key.
pub fn key_path(config: &Config) -> PathBuf {
    config.key_file.clone().unwrap_or_else(|| config.data_dir.join("secrets.key"))
}

/// Refuses a cluster key other than the one that the data was made with. A directory of
/// 0.1.0 does not name its key: there the key must open a secret of the log, if there is
/// any.
pub fn refuse_another_key(config: &Config, known: Option<&DirectoryFormat>, key: &ClusterKey) -> Result<(), Error> {
    let (dir, path) = (&config.data_dir, key_path(config));
    let way_out = "put the key back that the data was made with (a backup holds it)";
    match known.and_then(|known| known.key_fingerprint.as_ref()) {
        Some(fingerprint) if *fingerprint == key.check() => Ok(()),
        Some(fingerprint) => Err(Error::refused(format!(
            "the cluster key in {} has the fingerprint {}, and {} was made with the key {fingerprint}: its secrets \
             cannot be read and its records are not believed with another; {way_out}",
            path.display(),
            key.check(),
            dir.display()
        ))),
        // On Kafka the log compares the fingerprint itself when it is opened.
        None if config.kafka => Ok(()),
        None => {
            let sealed = sealed_secrets(&dir.join("log"))?;
            let opens = |(project, id, secret): &(String, String, SealedSecret)| key.open(project, id, secret).is_ok();
            if sealed.is_empty() || sealed.iter().any(opens) {
                return Ok(());
            }
            Err(Error::refused(format!(
                "the cluster key in {} (fingerprint {}) opens none of the {} secrets of endpoints in {}: {way_out}",
                path.display(),
                key.check(),
                sealed.len(),
                dir.display()
            )))
        }
    }
}

/// The secrets of endpoints in topic `definitions`, with project and endpoint.
fn sealed_secrets(log_dir: &Path) -> Result<Vec<(String, String, SealedSecret)>, Error> {
    let mut follower = Follower::new(log_dir, TopicPartition { topic: Topic::Definitions, partition: 0 });
    let mut sealed = Vec::new();
    loop {
        let records = follower.read()?;
        if records.is_empty() {
            return Ok(sealed);
        }
        for record in records {
            let value = record.value.as_deref().unwrap_or_default();
            let Ok(definition) = serde_json::from_slice::<DefinitionRecord>(value) else { continue };
            let secret = serde_json::from_value(definition.body.value()["secret"].clone());
            sealed.extend(secret.ok().map(|secret| (definition.project, definition.id, secret)));
        }
    }
}

/// Reads the API keys that the directory made for itself, or makes them. When they are
/// lost, new ones would lock every client out, so that is refused unless asked for.
fn own_keys(dir: &Path, had_own: bool, make_new: bool) -> Result<(Vec<Key>, Option<FreshKeys>), Error> {
    let path = dir.join("keys.toml");
    let mut fresh = None;
    if !path.exists() {
        if had_own && !make_new {
            return Err(Error::refused(format!(
                "{} is gone, and with it the API keys that this data directory was served with: put it back from a \
                 backup, or configure [[keys]], or start once with --new-keys, which makes new ones and voids those of \
                 before",
                path.display()
            )));
        }
        fresh = Some(make_keys(&path)?);
        if had_own {
            tracing::warn!(file = %path.display(), "new API keys were made: those of before are void from now on");
        }
    } else if make_new {
        return Err(Error::usage(format!("--new-keys is for when {} has been lost, and it is there", path.display())));
    }
    Ok((own(&read_keys(dir)?), fresh))
}

/// The keys of `keys.toml`, in the form of configured ones.
pub fn own(file: &KeysFile) -> Vec<Key> {
    let key = |entry: &KeyEntry| Key {
        project: entry.project.clone(),
        kind: entry.kind,
        name: entry.kind.name().to_owned(),
        digest: auth::digest(&entry.key),
        text: Some(entry.key.clone()),
    };
    file.keys.iter().map(key).collect()
}

/// How many keys of the data directory are not among the configured ones.
fn void_keys(configured: &[Key], file: &KeysFile) -> usize {
    own(file).iter().filter(|own| !configured.iter().any(|key| key.digest == own.digest)).count()
}

fn make_keys(path: &Path) -> Result<FreshKeys, Error> {
    let kinds = [Kind::Client, Kind::Server, Kind::Admin];
    let made: FreshKeys = kinds.map(|kind| (kind, format!("ak_{}_{}", kind.name(), &random_hex()[..40]))).into();
    let keys =
        made.iter().map(|(kind, key)| KeyEntry { project: DEFAULT_PROJECT.into(), kind: *kind, key: key.clone() });
    let text = toml::to_string(&KeysFile { keys: keys.collect() }).map_err(Error::failed)?;
    write_private(path, &text)?;
    Ok(made)
}

fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    hex::encode(bytes)
}

/// Readable by its owner alone.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    private::write_new(path, text).map_err(|e| Error::file(path, e))
}

pub fn loopback() -> Vec<IpNet> {
    ["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect()
}

/// Locks a data directory for this process.
///
/// # Errors
/// [`ErrorKind::Refused`] when another process holds it, or a later version wrote it.
pub fn lock(dir: &Path) -> Result<fs::File, Error> {
    DirectoryFormat::read(dir)?;
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|e| Error::file(&path, e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::refused(format!("{} is in use by another process", dir.display())))?;
    Ok(file)
}

/// Refuses state that was made from another log on Kafka; notes the log of a new state.
pub fn refuse_another_log(dir: &Path, incarnation: u128) -> Result<(), Error> {
    let (path, own) = (dir.join("log.id"), format!("{incarnation:032x}"));
    match fs::read_to_string(&path) {
        Ok(known) if known == own => Ok(()),
        Ok(_) => Err(Error::refused(format!(
            "the state in {} belongs to another log: use the brokers and the prefix that it was made with, or an \
             empty data directory",
            dir.display()
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(private::replace(&path, own.as_bytes())?),
        Err(error) => Err(Error::file(&path, error)),
    }
}

/// Moves a damaged store aside, where an operator can look at it. The first of several is
/// the one that may hold what nothing else does: while enough were set aside lately, a
/// store that was made in its place and is damaged, too, is removed.
pub fn set_aside(path: &Path, why: &str) -> Result<(), Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.{DAMAGED}", name.to_string_lossy());
    let entries = fs::read_dir(parent)?.filter_map(Result::ok).map(|entry| entry.path());
    let mut all: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect();
    // Their names end with a UUID that begins with the time.
    all.sort();
    let now = uuid::Uuid::now_v7();
    let seconds = |id: uuid::Uuid| id.get_timestamp().map_or(0, |at| at.to_unix().0);
    let lately = |aside: &Path| {
        let id = aside.to_string_lossy().rsplit('-').next().and_then(|id| uuid::Uuid::parse_str(id).ok());
        id.is_some_and(|id| seconds(now).saturating_sub(seconds(id)) < DAMAGED_KEPT_FOR.as_secs())
    };
    if all.len() >= DAMAGED_KEPT && all.iter().all(|aside| lately(aside)) {
        tracing::error!(why, path = %path.display(), "a damaged store is made again; enough of them have been set aside lately");
        fs::remove_dir_all(path).map_err(|e| Error::file(path, e))?;
    } else {
        let aside = path.with_extension(format!("{DAMAGED}{}", now.simple()));
        tracing::error!(why, aside = %aside.display(), "a damaged store is set aside and made again");
        fs::rename(path, &aside).map_err(|e| Error::file(path, e))?;
    }
    // The next store numbers its files from the beginning: it shares no tables.
    fs::remove_file(path.with_extension("writer")).ok();
    let old: Vec<&PathBuf> = all.iter().filter(|aside| !lately(aside)).collect();
    for old in old.iter().take((all.len() + 1).saturating_sub(DAMAGED_KEPT)) {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}

/// Opens a store. A damaged one is set aside, and an empty one takes its place.
pub fn open_store(path: &Path, families: &'static [Family], shared: &Shared) -> Result<Arc<Store>, Error> {
    private::create_dir_all(path).map_err(|e| Error::file(path, e))?;
    match Rocks::open(path, families, shared) {
        Ok(store) => Ok(Arc::new(Store::Rocks(store))),
        Err(error @ askwhen_store::Error::Damaged { .. }) => {
            set_aside(path, &error.to_string())?;
            let store = Rocks::open(path, families, shared).map_err(Error::failed)?;
            Ok(Arc::new(Store::Rocks(store)))
        }
        Err(error) => Err(Error::failed(error)),
    }
}

/// The folder for states that the process of a data directory only looks at, without what a
/// killed process has left there. It is on the file system of the stores, which share tables
/// with it.
pub fn empty_scratch(data_dir: &Path) -> PathBuf {
    let scratch = data_dir.join("state").join("scratch");
    if let Err(error) = fs::remove_dir_all(&scratch)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %scratch.display(), "copies that are of no use could not be removed");
    }
    scratch
}

/// A function that opens the console's store. It is given why the store is damaged, if it
/// is, and sets it aside then.
pub fn console_store(data_dir: PathBuf, shared: Shared) -> OpenStore {
    let path = data_dir.join("state").join("console");
    let failed = |error: Error| console::Error::Failed(error.to_string());
    Box::new(move |damaged| {
        if let Some(why) = damaged.filter(|_| path.exists()) {
            set_aside(&path, why).map_err(failed)?;
        }
        open_store(&path, families::ALL, &shared).map_err(failed)
    })
}

/// Turns the cooldown between surveys off, in a new data directory under `--dev`.
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
        actor: None,
    });
    let new = Signer::new(log, key).internal(0, "settings", &define);
    log.append_durably(TopicPartition { topic: Topic::Events, partition: 0 }, vec![new]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_configured_as_well_are_not_void() {
        let entry = |key: &str| KeyEntry { project: "default".into(), kind: Kind::Server, key: key.into() };
        let file = KeysFile { keys: vec![entry("the first key"), entry("the second key")] };
        let configured = own(&file);
        assert_eq!(void_keys(&configured, &file), 0);
        assert_eq!(void_keys(&configured[..1], &file), 1);
    }
}
