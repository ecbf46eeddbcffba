//! Snapshots: copies of stores in a folder or a bucket, from which state is restored. A
//! snapshot is complete when its manifest exists, which is written last; files that its
//! writer has uploaded before are not uploaded again.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::bucket::{Bucket, Error, Object, Stored};
use askwhen_domain::time::{DAY, Millis};
use askwhen_wire::error::Class;

/// Version of the manifest's format. This program also reads 1, the format of 0.1.0.
/// Members may be added within a version.
const FORMAT: u32 = 2;
const FIRST_FORMAT: u32 = 2;
/// Snapshots are only removed when they are this old, in milliseconds, and never the newest
/// two.
const KEPT_AT_LEAST: Millis = DAY;
const NEWEST_KEPT: usize = 2;
/// The properties of a table are before its footer and much shorter than this.
const TAIL_BYTES: u64 = 8 << 10;

/// Precedes the URL of the place in errors.
const SETTING: &str = "[snapshots] url ";

/// What a snapshot contains, apart from its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// `engine` or `delivery`.
    pub role: String,
    pub partition: u32,
    /// Orders the snapshots of one partition: everything before it is in the state.
    pub position: u64,
    /// By topic name, the next offset to be read.
    pub positions: BTreeMap<String, u64>,
    /// The log's incarnation in hex.
    pub incarnation: String,
    pub partitions: u32,
    pub logic_version: u32,
    /// How often the state was replaced by another; a higher generation is newer.
    pub generation: u64,
    pub created_at: Millis,
    /// The store that wrote it: file numbers repeat between stores.
    pub writer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub crc32c: u32,
    /// Name of the object, below the place of all snapshots.
    pub object: String,
    /// In a sealed place: what is stored of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// CRC-32C of a table's last [`TAIL_BYTES`]. It identifies the table, because they
    /// contain the ids of the database, of its session and of the table. `None` in
    /// snapshots of version 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_crc32c: Option<u32>,
}

impl File {
    fn stored_bytes(&self) -> u64 {
        self.stored.map_or(self.bytes, |stored| stored.bytes)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub subject: Subject,
    pub files: Vec<File>,
    /// Checksum of the other members as they are stored, without spaces. Absent in snapshots
    /// of version 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
}

/// Name of the member that holds the checksum of the others.
const CHECKSUM: &str = "crc32c";

/// What can be told of a manifest of any version.
#[derive(Deserialize)]
struct AnyManifest {
    format: u32,
}

/// Why a listed snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("its manifest is unreadable: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "its manifest is of format {found}, and this program ({program}) reads {FIRST_FORMAT} to {FORMAT}",
        program = env!("CARGO_PKG_VERSION")
    )]
    Format { found: u32 },
    /// Changed, it could still be JSON, and lead to wrong conclusions about the log.
    #[error("its manifest is not as it was written")]
    Changed,
    /// Its file has the name of one snapshot, and it is of another.
    #[error("its manifest is of another snapshot")]
    Misnamed,
    #[error("{object} is missing")]
    Missing { object: String },
    #[error("{object} has {bytes} of {wanted_bytes} bytes")]
    Cut { object: String, bytes: u64, wanted_bytes: u64 },
}

impl Unusable {
    pub fn kind(&self) -> &'static str {
        match self {
            Unusable::Unreadable(_) => "unreadable",
            Unusable::Format { .. } => "format",
            Unusable::Changed => "changed",
            Unusable::Misnamed => "misnamed",
            Unusable::Missing { .. } => "missing",
            Unusable::Cut { .. } => "cut",
        }
    }

    /// The class of the error; the snapshot before it is used.
    pub fn class(&self) -> Class {
        Class::Reject
    }
}

/// A manifest's name, with the manifest or why it cannot be used.
pub type Listed = (String, Result<Manifest, Unusable>);

impl Manifest {
    /// Reads a manifest of any version up to this program's.
    ///
    /// # Errors
    /// Why it cannot be used; for a later version, both versions.
    fn read(bytes: &[u8]) -> Result<Manifest, Unusable> {
        let AnyManifest { format } = serde_json::from_slice(bytes)?;
        if !(FIRST_FORMAT..=FORMAT).contains(&format) {
            return Err(Unusable::Format { found: format });
        }
        // As it is stored: a later version may have members that this one does not know.
        let mut members: Members = serde_json::from_slice(bytes)?;
        members.shift_remove(CHECKSUM);
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        match manifest.crc32c {
            Some(noted) if noted != checksum(&members) => Err(Unusable::Changed),
            _ => Ok(manifest),
        }
    }

    /// The manifest as it is stored, with its checksum.
    fn sealed(self) -> (Manifest, Vec<u8>) {
        let unsealed = Manifest { crc32c: None, ..self };
        let stored = serde_json::to_vec(&unsealed).expect("a manifest serialises");
        let sealed = Manifest { crc32c: Some(crc32c::crc32c(&stored)), ..unsealed };
        let text = serde_json::to_vec_pretty(&sealed).expect("a manifest serialises");
        (sealed, text)
    }

    /// `engine/3/00000000000000001234-0f3a…`
    pub fn name(&self) -> String {
        let s = &self.subject;
        format!("{}/{}/{:020}-{}", s.role, s.partition, s.position, s.writer)
    }

    /// The manifest as JSON, for operators and scripts.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name(),
            "role": self.subject.role,
            "partition": self.subject.partition,
            "positions": self.subject.positions,
            "bytes": self.bytes(),
            "created_at": askwhen_domain::time::format_time(self.subject.created_at),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

type Members = serde_json::Map<String, serde_json::Value>;

fn checksum(members: &Members) -> u32 {
    crc32c::crc32c(&serde_json::to_vec(members).expect("members serialise"))
}

fn tail_crc32c(path: &Path, bytes: u64) -> std::io::Result<u32> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(crc32c::crc32c(&tail))
}

fn damaged(manifest: &Manifest, detail: String) -> Error {
    Error::Damaged { what: format!("snapshot {}", manifest.name()), detail }
}

/// The place of all snapshots.
#[derive(Clone)]
pub struct SnapshotRepository {
    bucket: Bucket,
}

impl std::fmt::Debug for SnapshotRepository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotRepository({:?})", self.bucket)
    }
}

impl SnapshotRepository {
    /// See [`Bucket::open`].
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn open(url: &str) -> Result<SnapshotRepository, Error> {
        Ok(SnapshotRepository { bucket: Bucket::open_as(SETTING, url)? })
    }

    /// In a folder of a bucket that is used for other things, too.
    pub fn in_bucket(bucket: Bucket) -> SnapshotRepository {
        SnapshotRepository { bucket }
    }

    /// The folder, if it is one on this machine.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        self.bucket.folder()
    }

    /// See [`Bucket::give_up`].
    pub fn give_up(&self) {
        self.bucket.give_up();
    }

    /// Uploads a store's files, then its manifest. `before` is this writer's last snapshot;
    /// files that it has uploaded are not uploaded again.
    ///
    /// # Errors
    /// When a file cannot be read or uploaded; then there is no snapshot.
    pub fn write(&self, subject: Subject, dir: &Path, before: Option<&Manifest>) -> Result<Manifest, Error> {
        self.bucket.run(self.bring(subject, dir, before))
    }

    async fn bring(&self, subject: Subject, dir: &Path, before: Option<&Manifest>) -> Result<Manifest, Error> {
        let brought: BTreeMap<&str, &File> = before
            .filter(|manifest| manifest.subject.writer == subject.writer)
            .map(|manifest| manifest.files.iter().map(|file| (file.name.as_str(), file)).collect())
            .unwrap_or_default();
        let mut manifest = Manifest { format: FORMAT, subject, files: Vec::new(), crc32c: None };
        let name = manifest.name();
        let shared =
            format!("{}/{}/files/{}", manifest.subject.role, manifest.subject.partition, manifest.subject.writer);
        let mut entries: Vec<_> = std::fs::read_dir(dir).map_err(Error::io(dir))?.filter_map(Result::ok).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let bytes = entry.metadata().map_err(Error::io(&path))?.len();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            // Tables never change; every other file belongs to this snapshot alone.
            let table = file_name.ends_with(".sst");
            let tail_crc32c = table.then(|| tail_crc32c(&path, bytes)).transpose().map_err(Error::io(&path))?;
            // The name is not enough: a store that was restored from an earlier copy gives
            // the same numbers to other tables.
            let same = |known: &&&File| {
                known.bytes == bytes
                    && known.tail_crc32c == tail_crc32c
                    && known.stored.is_some() == self.bucket.is_sealed()
            };
            if table && let Some(known) = brought.get(file_name.as_str()).filter(same) {
                manifest.files.push((*known).clone());
                continue;
            }
            let object = match tail_crc32c {
                Some(tail) => format!("{shared}/{file_name}-{tail:08x}"),
                None => format!("{name}/{file_name}"),
            };
            let (crc32c, stored) = self.bucket.bring(&path, &object).await?;
            manifest.files.push(File { name: file_name, bytes, crc32c, object, stored, tail_crc32c });
        }
        self.look(&manifest).await?;
        let (manifest, text) = manifest.sealed();
        // Should it be there, it is the same state once more.
        self.bucket.put_once(&format!("{name}.json"), text).await?;
        Ok(manifest)
    }

    /// Checks that every file exists with its full length.
    async fn look(&self, manifest: &Manifest) -> Result<(), Error> {
        match self.incomplete(manifest).await? {
            None => Ok(()),
            Some(found) => Err(damaged(manifest, found.to_string())),
        }
    }

    /// The first file that does not exist or has another length.
    async fn incomplete(&self, manifest: &Manifest) -> Result<Option<Unusable>, Error> {
        for file in &manifest.files {
            let (object, wanted_bytes) = (file.object.clone(), file.stored_bytes());
            match self.bucket.size(&object).await? {
                Some(bytes) if bytes == wanted_bytes => {}
                Some(bytes) => return Ok(Some(Unusable::Cut { object, bytes, wanted_bytes })),
                None => return Ok(Some(Unusable::Missing { object })),
            }
        }
        Ok(None)
    }

    /// Checks that every file of a snapshot exists with its full length.
    ///
    /// # Errors
    /// [`Error::Damaged`] when one does not.
    pub fn is_whole(&self, manifest: &Manifest) -> Result<(), Error> {
        self.bucket.run(self.look(manifest))
    }

    /// The snapshots of one partition, the newest first.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn list(&self, role: &str, partition: u32) -> Result<Vec<Manifest>, Error> {
        self.bucket.run(self.list_async(role, partition))
    }

    async fn list_async(&self, role: &str, partition: u32) -> Result<Vec<Manifest>, Error> {
        let mut manifests = Vec::new();
        for (name, read) in self.read_all(role, partition).await? {
            match read {
                Ok(manifest) => manifests.push(manifest),
                Err(why) => tracing::warn!(snapshot = name, %why, "a snapshot is passed over"),
            }
        }
        manifests.sort_by_key(|m| std::cmp::Reverse((m.subject.position, m.subject.created_at)));
        Ok(manifests)
    }

    /// The manifests of one partition, or why one cannot be used, in any order.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn manifests(&self, role: &str, partition: u32) -> Result<Vec<Listed>, Error> {
        self.bucket.run(self.read_all(role, partition))
    }

    /// The snapshots of one partition, or why one cannot be used, the newest first.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn list_all(&self, role: &str, partition: u32) -> Result<Vec<Listed>, Error> {
        self.bucket.run(async {
            let mut all = Vec::new();
            for (name, read) in self.read_all(role, partition).await? {
                let whole = match read {
                    Ok(manifest) => self.incomplete(&manifest).await?.map_or(Ok(manifest), Err),
                    Err(why) => Err(why),
                };
                all.push((name, whole));
            }
            all.sort_by(|a, b| b.0.cmp(&a.0));
            Ok(all)
        })
    }

    async fn read_all(&self, role: &str, partition: u32) -> Result<Vec<Listed>, Error> {
        let folder = format!("{role}/{partition}");
        let read = self.bucket.read_all(&folder, ".json").await?.into_iter().map(|(file, bytes)| {
            let name = format!("{folder}/{}", file.trim_end_matches(".json"));
            let read = Manifest::read(&bytes)
                .and_then(|manifest| if manifest.name() == name { Ok(manifest) } else { Err(Unusable::Misnamed) });
            (name, read)
        });
        Ok(read.collect())
    }

    /// Downloads a snapshot's files into a new folder and compares every checksum.
    /// `progress` is called with the bytes read and the total, and returns whether to go
    /// on.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a file is not what the manifest says.
    pub fn restore(
        &self,
        manifest: &Manifest,
        into: &Path,
        progress: impl FnMut(u64, u64) -> bool + Send,
    ) -> Result<(), Error> {
        self.bucket.run(self.take(manifest, Some(into), progress))
    }

    /// Reads every file and compares its checksum.
    ///
    /// # Errors
    /// As [`SnapshotRepository::restore`].
    pub fn verify(&self, manifest: &Manifest, progress: impl FnMut(u64, u64) -> bool + Send) -> Result<(), Error> {
        self.bucket.run(self.take(manifest, None, progress))
    }

    async fn take(
        &self,
        manifest: &Manifest,
        into: Option<&Path>,
        mut progress: impl FnMut(u64, u64) -> bool + Send,
    ) -> Result<(), Error> {
        let (mut done, all) = (0, manifest.bytes());
        if let Some(dir) = into {
            std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        }
        for file in &manifest.files {
            let damaged = |detail: String| damaged(manifest, detail);
            if file.name.contains('/') || file.name.starts_with('.') {
                return Err(damaged(format!("{} is no name of a store's file", file.name)));
            }
            let path = into.map(|dir| dir.join(&file.name));
            let object = Object { name: &file.object, bytes: file.bytes, crc32c: file.crc32c, stored: file.stored };
            let fetched = self.bucket.fetch(object, path.as_deref(), &mut |bytes| progress(done + bytes, all)).await;
            fetched.map_err(|error| match error {
                Error::Damaged { what, detail } => damaged(format!("{what}: {detail}")),
                error => error,
            })?;
            done += file.bytes;
        }
        Ok(())
    }

    /// Removes old snapshots of a partition, then files that no manifest names.
    ///
    /// # Errors
    /// When the place cannot be listed or changed.
    pub fn collect(&self, role: &str, partition: u32, now: Millis) -> Result<(), Error> {
        self.bucket.run(async {
            let manifests = self.list_async(role, partition).await?;
            let old = |m: &Manifest| now - m.subject.created_at > KEPT_AT_LEAST;
            // Snapshots of an earlier log in the same place are not kept for their
            // positions.
            let newest = manifests.iter().max_by_key(|m| m.subject.created_at);
            let current = newest.map(|m| m.subject.incarnation.clone()).unwrap_or_default();
            let mut counted = 0;
            let (gone, kept): (Vec<_>, Vec<_>) = manifests.into_iter().partition(|m| {
                let own = m.subject.incarnation == current;
                counted += usize::from(own);
                (!own || counted > NEWEST_KEPT) && old(m)
            });
            if gone.is_empty() {
                return Ok(());
            }
            for manifest in &gone {
                self.bucket.remove(&format!("{}.json", manifest.name())).await?;
            }
            let named: BTreeSet<&str> =
                kept.iter().flat_map(|m| m.files.iter().map(|file| file.object.as_str())).collect();
            for manifest in &gone {
                for file in manifest.files.iter().filter(|file| !named.contains(file.object.as_str())) {
                    self.bucket.remove(&file.object).await?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let subject = Subject {
            role: "engine".into(),
            partition: 3,
            position: 1_234,
            positions: [("events".to_owned(), 1_234), ("deliveries".to_owned(), 77)].into(),
            incarnation: "0123456789abcdef0123456789abcdef".into(),
            partitions: 8,
            logic_version: 7,
            generation: 0,
            created_at: 1_790_000_000_000,
            writer: "0f3a".into(),
        };
        let file = File {
            name: "000012.sst".into(),
            bytes: 4_096,
            crc32c: 0xdead_beef,
            object: "engine/3/files/0f3a/000012.sst-0badcafe".into(),
            stored: None,
            tail_crc32c: Some(0x0bad_cafe),
        };
        Manifest { format: FORMAT, subject, files: vec![file], crc32c: None }
    }

    /// A bit that has changed is noticed, or it has changed nothing that is read.
    #[test]
    fn no_bit_of_a_manifest_changes_unseen() {
        let (sealed, text) = manifest().sealed();
        assert_eq!(Manifest::read(&text).expect("it is sound"), sealed);
        let mut changed = 0;
        for bit in 0..text.len() * 8 {
            let mut harmed = text.clone();
            harmed[bit / 8] ^= 1 << (bit % 8);
            match Manifest::read(&harmed) {
                Ok(read) => assert_eq!(Manifest { crc32c: None, ..read }, manifest(), "bit {bit}"),
                Err(Unusable::Changed) => changed += 1,
                Err(_) => {}
            }
        }
        assert!(changed > 500, "{changed}");
    }

    #[test]
    fn manifests_of_earlier_and_later_versions_are_read() {
        let without = serde_json::to_vec(&manifest()).expect("it serialises");
        assert_eq!(Manifest::read(&without).expect("as 0.1.0 wrote it"), manifest());
        let (_, text) = manifest().sealed();
        let mut members: Members = serde_json::from_slice(&text).expect("an object");
        members.shift_remove(CHECKSUM);
        members.insert("came_later".into(), 1.into());
        members.insert(CHECKSUM.into(), checksum(&members).into());
        let read = Manifest::read(&serde_json::to_vec(&members).expect("it serialises")).expect("it is read");
        assert_eq!(Manifest { crc32c: None, ..read }, manifest());
    }
}
