//! Backups: the log, the state and the secrets, sealed, in a folder or bucket, so that
//! another machine can go on. They are taken while the server runs; chunks and tables that
//! an earlier backup has brought are not brought again.

use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use super::format::{self, DirectoryFormat};
use super::snapshots::{self, Role};
use super::{data, private, source};
use crate::config::Config;
use crate::replay::Source;
use crate::replay::{Error, ErrorKind};
use askwhen_domain::time;
use askwhen_log::embedded::files::{self, SegmentSlice};
use askwhen_log::{Embedded, Log, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_store::bucket::{self, Bucket, Stored};
use askwhen_store::snapshot::{Manifest as Snapshot, SnapshotRepository};
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::sealed_file::FileKey;
use askwhen_wire::topic::Topic;

mod brokers;
mod manifest;

pub use manifest::Manifest;
use manifest::{BackedUpPartition, Chunk, FORMAT, ManifestError, STATE, Segment, StoredManifest, UNSEALED_STATE};

/// The folder of the manifests, in the bucket.
const BACKUPS: &str = "backups";
/// The folder of the chunks of segments.
const CHUNKS: &str = "chunks";
/// Segments are brought in chunks of this size: of one that grows only the last chunk is
/// new.
const CHUNK_BYTES: u64 = 4 << 20;
/// Names of the sealed texts: two files of the data directory, and the configuration.
const SECRETS_KEY: &str = "secrets.key";
const KEYS: &str = "keys.toml";
const CONFIGURATION: &str = "askwhen.toml";
/// The purpose that is signed with the manifest, so that its MAC counts for nothing else.
const MANIFEST_PURPOSE: &str = "backup manifest";
/// The file name of the configuration in a restored data directory.
const RESTORED_CONFIGURATION: &str = "restored-askwhen.toml";

/// A consistent cut: names of snapshots, and an end of each partition that is not before
/// them.
pub struct BackupPoint {
    pub snapshots: Vec<String>,
    /// By topic and partition, such as `events/3`.
    pub ends: BTreeMap<String, u64>,
}

/// Is called with the name of a step, how much of it is done, and how much there is.
pub type ReportProgress<'a> = &'a mut (dyn FnMut(&'static str, u64, u64) + Send);

/// Takes the cut of a data directory; `None` when a process serves it.
///
/// # Errors
/// When there is no log, or its state cannot be read.
pub fn cut_at_rest(config: &Config) -> Result<Option<BackupPoint>, Error> {
    let log_dir = config.data_dir.join("log");
    DirectoryFormat::read(&config.data_dir)?;
    let Some(partitions) = Embedded::partitions_of(&log_dir)? else {
        return Err(Error::unreachable(format!(
            "{} holds no log: name the data directory of one with --data-dir",
            log_dir.display()
        )));
    };
    let _lock = match data::lock(&config.data_dir) {
        Err(error) if error.kind() == ErrorKind::Refused => return Ok(None),
        locked => locked?,
    };
    let log = std::sync::Arc::new(Embedded::open(&log_dir, partitions, Clock::new())?);
    let taken = snapshots::take_at_rest(config, &Log::Embedded(log.clone()));
    let ends = log.cut();
    log.close();
    Ok(Some(BackupPoint { snapshots: taken?, ends }))
}

/// Copies what a cut names; without one, the log and the snapshots of Kafka. Blocks.
///
/// # Errors
/// When something cannot be read or written; then there is no manifest, so no backup.
pub fn create(
    config: &Config,
    url: &str,
    key: &ClusterKey,
    cut: Option<&BackupPoint>,
    config_file: Option<&Path>,
    progress: ReportProgress<'_>,
) -> Result<Manifest, Error> {
    let source = source(config)?;
    let bucket = Bucket::open(url).map_err(usage)?;
    if let Some(folder) = bucket.folder() {
        // Earlier versions wrote files that others may read.
        [BACKUPS, CHUNKS, STATE, UNSEALED_STATE]
            .iter()
            .for_each(|name| data::take_rights_of_others(&folder.join(name)));
    }
    if let Some(Ok(newest)) = list(&bucket)?.into_iter().map(|(_, read)| read).next()
        && opened(&newest, key).is_err()
    {
        return Err(Error::usage(format!(
            "the newest backup in {url} was sealed with another key: give that --key-file, or another place"
        )));
    }
    let there = bucket.run(bucket.sizes(CHUNKS)).map_err(unreachable)?;
    let name = format!(
        "{}-{}",
        time::format_time(Clock::new().wall())[..19].replace([':', '-'], ""),
        &uuid::Uuid::new_v4().simple().to_string()[..8]
    );
    let folder = tempfile::tempdir()?;
    let copy = Copy { config, source: &source, bucket: &bucket, key, there: &there, folder: folder.path() };
    let (log, state) = match cut {
        Some(cut) => {
            let log = copy.log(cut, progress)?;
            (log, copy.state(cut, progress)?)
        }
        None => copy.brokers(progress)?,
    };
    check_state(&log, &state)?;
    let secrets = secrets(config, config_file)?;
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(Error::failed)?;
    let manifest = Manifest {
        format: FORMAT,
        created_at: time::format_time(Clock::new().wall()),
        program: env!("CARGO_PKG_VERSION").into(),
        log_kind: if config.kafka { "kafka" } else { "embedded" }.into(),
        incarnation: format!("{:032x}", source.incarnation),
        partitions: source.partitions,
        log,
        state,
        sealed: key.seal(BACKUPS, &name, &secrets, nonce),
        name,
        mac: None,
    };
    let mac = Some(key.sign_text(MANIFEST_PURPOSE, &manifest.text()));
    let checked = StoredManifest { crc32c: manifest.crc32c(), mac, manifest };
    let text = serde_json::to_vec_pretty(&checked).expect("a manifest serialises");
    let manifest = checked.manifest;
    bucket.run(bucket.put_once(&format!("{BACKUPS}/{}.json", manifest.name), text)).map_err(unreachable)?;
    Ok(manifest)
}

/// Refuses a backup in which a trimmed topic has no snapshot: the trimmed records are known
/// from snapshots alone.
fn check_state(log: &[BackedUpPartition], state: &[String]) -> Result<(), Error> {
    for part in log.iter().filter(|part| part.segments.first().is_some_and(|first| first.base > 0)) {
        let role = match Topic::by_name(&part.topic) {
            Some(Topic::Events) => Role::Engine,
            Some(topic) if Role::Delivery.trimmed().contains(&topic) => Role::Delivery,
            _ => continue,
        };
        let prefix = format!("{}/{}/", role.name(), part.partition);
        if !state.iter().any(|name| name.starts_with(&prefix)) {
            return Err(Error::failed(format!(
                "{}/{} has been trimmed, and there is no snapshot of the {} there: see /readyz, then try again",
                part.topic,
                part.partition,
                role.name()
            )));
        }
    }
    Ok(())
}

struct Copy<'a> {
    config: &'a Config,
    source: &'a Source,
    bucket: &'a Bucket,
    /// Everything is sealed with it.
    key: &'a ClusterKey,
    /// Chunks of earlier backups, with their sizes in bytes.
    there: &'a HashMap<String, u64>,
    folder: &'a Path,
}

impl Copy<'_> {
    /// Copies the segments of the embedded log up to the cut.
    fn log(&self, cut: &BackupPoint, progress: ReportProgress<'_>) -> Result<Vec<BackedUpPartition>, Error> {
        let log_dir = self.config.data_dir.join("log");
        let mut all = Vec::new();
        for (name, end) in &cut.ends {
            let at = TopicPartition::from_str(name).map_err(|()| Error::failed(format!("{name} is no partition")))?;
            all.push((at, *end, files::pieces(&log_dir, at, *end)?));
        }
        let bytes = all.iter().flat_map(|(_, _, pieces)| pieces).map(|piece| piece.bytes).sum();
        let mut done = 0;
        let mut parts = Vec::new();
        for (at, end, pieces) in all {
            let mut segments: Vec<Segment> = Vec::new();
            for piece in pieces {
                match self.segment(&piece)? {
                    Some(segment) => segments.push(segment),
                    // The segment has been trimmed meanwhile, and so have those before it.
                    None => segments.clear(),
                }
                done += piece.bytes;
                progress("copying the log", done, bytes);
            }
            parts.push(BackedUpPartition { topic: at.topic.name().into(), partition: at.partition, end, segments });
        }
        Ok(parts)
    }

    /// Brings the chunks of a segment that are new; `None` when the segment is gone.
    fn segment(&self, piece: &SegmentSlice) -> Result<Option<Segment>, Error> {
        let io = |e: std::io::Error| Error::file(&piece.path, e);
        let file = match piece.open() {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let files_key = FileKey::of(self.key);
        let mut chunks = Vec::new();
        let mut done = 0;
        while done < piece.bytes {
            let mut bytes = vec![0; CHUNK_BYTES.min(piece.bytes - done) as usize];
            file.read_exact_at(&mut bytes, done).map_err(io)?;
            done += bytes.len() as u64;
            let object = format!("{CHUNKS}/{}", FileKey::name_of(self.key, &bytes));
            let sealed = files_key.seal_whole(&object, &bytes);
            let stored = Stored::of(&sealed);
            if self.there.get(&object) != Some(&stored.bytes) {
                self.bucket.run(self.bucket.put(&object, sealed.into())).map_err(unreachable)?;
            }
            let (bytes, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
            chunks.push(Chunk { bytes, crc32c, object, stored: Some(stored) });
        }
        Ok(Some(Segment { base: piece.base, chunks }))
    }

    /// Copies the snapshots of the cut; tables of earlier backups are not copied again.
    fn state(&self, cut: &BackupPoint, progress: ReportProgress<'_>) -> Result<Vec<String>, Error> {
        let theirs = self.source.repository()?;
        let ours = self.ours();
        for (n, name) in cut.snapshots.iter().enumerate() {
            let (role, partition) = role_of(name)?;
            let listed = theirs.list(role, partition).map_err(unreachable)?;
            let manifest = listed.into_iter().find(|manifest| manifest.name() == *name);
            let manifest =
                manifest.ok_or_else(|| Error::failed(format!("the snapshot {name} is not there any more")))?;
            self.snapshot(theirs, &ours, &manifest)?;
            progress("copying the state", n as u64 + 1, cut.snapshots.len() as u64);
        }
        Ok(cut.snapshots.clone())
    }

    /// The snapshots of the backups, apart from those of the server.
    fn ours(&self) -> SnapshotRepository {
        SnapshotRepository::in_bucket(self.bucket.below(STATE).sealed(FileKey::of(self.key)))
    }

    fn snapshot(
        &self,
        theirs: &SnapshotRepository,
        ours: &SnapshotRepository,
        manifest: &Snapshot,
    ) -> Result<(), Error> {
        let subject = &manifest.subject;
        let there = ours.list(&subject.role, subject.partition).map_err(unreachable)?;
        if there.iter().any(|known| known.name() == manifest.name() && ours.is_whole(known).is_ok()) {
            return Ok(());
        }
        let into = self.folder.join("state").join(&subject.role).join(subject.partition.to_string());
        theirs.restore(manifest, &into, |_, _| true).map_err(unreachable)?;
        let before = there.iter().find(|known| known.subject.writer == subject.writer);
        ours.write(subject.clone(), &into, before).map_err(unreachable)?;
        Ok(std::fs::remove_dir_all(&into)?)
    }
}

/// Role and partition of a snapshot, by its name.
fn role_of(name: &str) -> Result<(&str, u32), Error> {
    let mut parts = name.split('/');
    let role = parts.next().unwrap_or_default();
    let partition = parts.next().and_then(|text| text.parse().ok());
    partition.map(|partition| (role, partition)).ok_or_else(|| Error::failed(format!("{name} names no snapshot")))
}

/// The secrets of a data directory, as a JSON object of file names and texts.
fn secrets(config: &Config, config_file: Option<&Path>) -> Result<String, Error> {
    let key = config.key_file.clone().unwrap_or_else(|| config.data_dir.join(SECRETS_KEY));
    let configuration = config_file.map_or_else(|| PathBuf::from(CONFIGURATION), Path::to_owned);
    let mut texts = BTreeMap::new();
    for (name, path) in [(SECRETS_KEY, key), (KEYS, config.data_dir.join(KEYS)), (CONFIGURATION, configuration)] {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                texts.insert(name, text);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && name != SECRETS_KEY => {}
            Err(error) => return Err(Error::file(&path, error)),
        }
    }
    Ok(json!(texts).to_string())
}

/// A backup's name and its manifest, or why it cannot be used.
type Listed = (String, Result<Manifest, ManifestError>);

/// The backups of a bucket, the newest first.
fn list(bucket: &Bucket) -> Result<Vec<Listed>, Error> {
    let read = bucket.run(bucket.read_all(BACKUPS, ".json")).map_err(unreachable)?;
    let mut all = Vec::new();
    for (file, bytes) in read {
        let name = file.trim_end_matches(".json").to_owned();
        let read = StoredManifest::read(&bytes)
            .and_then(|manifest| if manifest.name == name { Ok(manifest) } else { Err(ManifestError::OtherBackup) });
        all.push((name, read));
    }
    all.sort_by(|a, b| b.0.cmp(&a.0));
    Ok(all)
}

/// Finds the backup with this name, or the newest one.
///
/// # Errors
/// When there is none, or its manifest is damaged.
pub fn find(url: &str, name: Option<&str>) -> Result<(Bucket, Manifest), Error> {
    let bucket = Bucket::existing(url).map_err(usage)?;
    let all = list(&bucket)?;
    let known: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    let found = all.into_iter().find(|(found, _)| name.is_none_or(|name| found == name));
    match found {
        Some((_, Ok(manifest))) => Ok((bucket, manifest)),
        Some((found, Err(why))) => {
            let others: Vec<String> = known.into_iter().filter(|name| *name != found).collect();
            let others = if others.is_empty() { String::new() } else { format!("; others are {}", others.join(", ")) };
            Err(Error::refused(format!("the backup {found} in {url} cannot be used: {why}{others}")))
        }
        None if known.is_empty() => Err(Error::failed(format!("there is no backup in {url}"))),
        None => Err(Error::failed(format!("there is no such backup in {url}; there are {}", known.join(", ")))),
    }
}

/// Reads a whole backup and compares all checksums; with the key it also opens the
/// secrets.
///
/// # Errors
/// When something is missing or damaged.
pub fn verify(
    bucket: &Bucket,
    manifest: &Manifest,
    key: Option<&ClusterKey>,
    progress: ReportProgress<'_>,
) -> Result<(), Error> {
    if let Some(key) = key {
        opened(manifest, key)?;
    }
    let (mut done, all) = (0, manifest.bytes());
    let files = key.map_or_else(|| bucket.clone(), |key| bucket.sealed(FileKey::of(key)));
    for chunk in manifest.chunks() {
        bucket.run(files.fetch(chunk.object(), None, &mut |_| true)).map_err(unreachable)?;
        done += chunk.bytes;
        progress("reading the log", done, all);
    }
    let repository = manifest.repository(bucket, key);
    for (n, found) in snapshots_of(&repository, manifest)?.iter().enumerate() {
        repository.verify(found, |_, _| true).map_err(unreachable)?;
        progress("reading the state", n as u64 + 1, manifest.state.len() as u64);
    }
    Ok(())
}

fn opened(manifest: &Manifest, key: &ClusterKey) -> Result<BTreeMap<String, String>, Error> {
    let text = key.open(BACKUPS, &manifest.name, &manifest.sealed).map_err(|_| {
        Error::usage("the backup was sealed with another key: give the --key-file that it was made with")
    })?;
    if manifest.is_sealed() && manifest.mac.as_deref() != Some(&key.sign_text(MANIFEST_PURPOSE, &manifest.text())) {
        return Err(Error::refused(format!(
            "the manifest of the backup {} was not written by whoever has the key",
            manifest.name
        )));
    }
    serde_json::from_str(&text).map_err(|e| Error::failed(format!("what was sealed is unreadable: {e}")))
}

fn snapshots_of(repository: &SnapshotRepository, manifest: &Manifest) -> Result<Vec<Snapshot>, Error> {
    let mut all = Vec::new();
    for name in &manifest.state {
        let (role, partition) = role_of(name)?;
        let listed = repository.list(role, partition).map_err(unreachable)?;
        let found = listed.into_iter().find(|found| found.name() == *name);
        all.push(found.ok_or_else(|| Error::refused(format!("the snapshot {name} of the backup is missing")))?);
    }
    Ok(all)
}

/// Makes a data directory of a backup; returns the path of the restored configuration, if
/// there was one. The directory appears by one rename, when all is there.
///
/// # Errors
/// When the data directory holds something, or the backup is damaged.
pub fn restore(
    bucket: &Bucket,
    manifest: &Manifest,
    key: &ClusterKey,
    data_dir: &Path,
    progress: ReportProgress<'_>,
) -> Result<Option<PathBuf>, Error> {
    let texts = opened(manifest, key)?;
    let draft = draft_of(data_dir)?;
    private::create_dir_all(&draft).map_err(|e| Error::file(&draft, e))?;
    // Two restorations at once would mix their files.
    let _lock = data::lock(&draft)?;
    refuse_what_is_there(data_dir)?;
    // A restoration that was killed has left files.
    for entry in std::fs::read_dir(&draft)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        } else if !path.ends_with("LOCK") {
            std::fs::remove_file(&path)?;
        }
    }
    let restored = fill(bucket, manifest, key, texts, &draft, progress);
    if restored.is_err() {
        // The disk may be full, and other processes need the space.
        std::fs::remove_dir_all(&draft).ok();
    }
    let configured = restored?;
    if data_dir.exists() {
        std::fs::remove_dir(data_dir).map_err(|e| Error::file(data_dir, e))?;
    }
    std::fs::rename(&draft, data_dir).map_err(|e| Error::file(data_dir, e))?;
    Ok(configured.then(|| data_dir.join(RESTORED_CONFIGURATION)))
}

fn refuse_what_is_there(data_dir: &Path) -> Result<(), Error> {
    let refused = |what: String| {
        let wanted = "restore into a data directory that is empty or not there";
        Err(Error::refused(format!("{} {what}: {wanted}", data_dir.display())))
    };
    match std::fs::read_dir(data_dir) {
        Ok(mut entries) => {
            let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
            let parent = data_dir.canonicalize()?.parent().map(Path::to_owned).unwrap_or_default();
            match entries.next() {
                Some(_) => refused("holds something".into()),
                // The restored directory is renamed to this path, which a mount or link forbids.
                None if data_dir.is_symlink() || device(data_dir) != device(&parent) => {
                    refused("is a mount point or a link, name a folder below it".into())
                }
                None => Ok(()),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !data_dir.is_symlink() => Ok(()),
        Err(error) => refused(format!("is no folder that can be used ({error})")),
    }
}

/// Restores log, state and `texts` into a folder; returns whether there was a configuration.
fn fill(
    bucket: &Bucket,
    manifest: &Manifest,
    key: &ClusterKey,
    texts: BTreeMap<String, String>,
    draft: &Path,
    progress: ReportProgress<'_>,
) -> Result<bool, Error> {
    let (mut done, all) = (0, manifest.bytes());
    let log = bucket.sealed(FileKey::of(key));
    let log_dir = draft.join("log");
    let mut ends = BTreeMap::new();
    for part in &manifest.log {
        let name = format!("{}/{}", part.topic, part.partition);
        let at =
            TopicPartition::from_str(&name).map_err(|()| Error::refused(format!("this program knows no {name}")))?;
        ends.insert(name, part.end);
        for segment in &part.segments {
            let path = files::path_of(&log_dir, at, segment.base);
            private::create_dir_all(path.parent().unwrap_or(&log_dir))?;
            // An empty segment says by its name which offset comes next.
            std::fs::File::create(&path)?;
            for chunk in &segment.chunks {
                bucket.run(log.fetch(chunk.object(), Some(&path), &mut |_| true)).map_err(unreachable)?;
                done += chunk.bytes;
                progress("restoring the log", done, all);
            }
        }
    }
    let incarnation = u128::from_str_radix(&manifest.incarnation, 16)
        .map_err(|_| Error::refused("the backup's incarnation is unreadable"))?;
    files::found(&log_dir, incarnation, manifest.partitions, &ends)?;
    let repository = manifest.repository(bucket, Some(key));
    for (n, found) in snapshots_of(&repository, manifest)?.iter().enumerate() {
        let into = draft.join("state").join(&found.subject.role).join(found.subject.partition.to_string());
        repository.restore(found, &into, |_, _| true).map_err(unreachable)?;
        progress("restoring the state", n as u64 + 1, manifest.state.len() as u64);
    }
    let cluster_key = texts.get(SECRETS_KEY).and_then(|text| ClusterKey::parse(text));
    let format = DirectoryFormat {
        layout: format::LAYOUT,
        program: format::PROGRAM.to_owned(),
        key_fingerprint: cluster_key.map(|key| key.check()),
        own_api_keys: texts.contains_key(KEYS),
    };
    format.write(draft)?;
    let mut configured = false;
    for (name, text) in texts {
        let is_configuration = name == CONFIGURATION;
        configured |= is_configuration;
        data::write_private(&draft.join(if is_configuration { RESTORED_CONFIGURATION } else { &name }), &text)?;
    }
    Ok(configured)
}

fn draft_of(data_dir: &Path) -> Result<PathBuf, Error> {
    let name = data_dir.file_name().ok_or_else(|| Error::usage("--data-dir must name a folder"))?;
    Ok(data_dir.with_file_name(format!("{}.restoring", name.to_string_lossy())))
}

fn usage(error: bucket::Error) -> Error {
    Error::usage(error)
}

fn unreachable(error: bucket::Error) -> Error {
    match error {
        bucket::Error::Damaged { .. } => Error::refused(error),
        bucket::Error::Place { .. } => Error::unreachable(error),
        _ => Error::failed(error),
    }
}
