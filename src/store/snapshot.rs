//! Copies of stores in a folder or a bucket, to take up work from where there
//! is no state at hand. A snapshot counts once its manifest is there, which is
//! written last; files that a writer has brought already are not brought again.

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::domain::time::{DAY, Millis};

/// Version of the manifest's form.
const FORMAT: u32 = 2;
/// Files above are brought in parts of this size.
const PART_BYTES: usize = 16 << 20;
/// Snapshots are only removed when they are this old, and never the newest two.
const KEPT_AT_LEAST: Millis = DAY;
const NEWEST_KEPT: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("[snapshots] url {url}: {detail}")]
    Place { url: String, detail: String },
    #[error("the snapshot {name} is damaged: {detail}")]
    Damaged { name: String, detail: String },
    #[error("{context}: {detail}")]
    Io { context: String, detail: String },
    #[error("given up")]
    GivenUp,
}

/// What a snapshot is of; everything but the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// `engine` or `delivery`.
    pub role: String,
    pub partition: u32,
    /// Orders snapshots of one partition: everything before is in the state.
    pub position: u64,
    /// Next offset to read, by the topic's name.
    pub positions: BTreeMap<String, u64>,
    /// Hex of the log's incarnation.
    pub incarnation: String,
    pub partitions: u32,
    pub logic_version: u32,
    /// How often the state has been replaced by another: of two, the higher counts.
    pub generation: u64,
    pub created_at: Millis,
    /// Whose files these are: numbers of files repeat between stores.
    pub writer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub name: String,
    pub bytes: u64,
    pub crc32c: u32,
    /// Below the place of all snapshots.
    pub object: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub subject: Subject,
    pub files: Vec<File>,
}

impl Manifest {
    /// `engine/3/00000000000000001234-0f3a…`
    pub fn name(&self) -> String {
        let s = &self.subject;
        format!("{}/{}/{:020}-{}", s.role, s.partition, s.position, s.writer)
    }

    /// For people and their scripts.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name(),
            "role": self.subject.role,
            "partition": self.subject.partition,
            "positions": self.subject.positions,
            "bytes": self.bytes(),
            "created_at": crate::domain::time::format_time(self.subject.created_at),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Where snapshots are kept.
#[derive(Clone)]
pub struct Depot {
    store: Arc<dyn ObjectStore>,
    base: Place,
    url: String,
    runtime: Handle,
    given_up: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Depot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Depot({})", self.url)
    }
}

impl Depot {
    /// `file:///…`, `s3://bucket/…`, `gs://bucket/…`, `az://container/…`;
    /// credentials come from the environment, as the clouds' own tools take
    /// them. Must be called where a tokio runtime is at hand.
    ///
    /// # Errors
    /// When the URL is none of these.
    pub fn open(url: &str) -> Result<Depot, Error> {
        let wrong = |detail: String| Error::Place { url: url.to_owned(), detail };
        let parsed =
            url::Url::parse(url).map_err(|e| wrong(format!("{e}; it must be file:///…, s3://…, gs://… or az://…")))?;
        if parsed.scheme() == "file" {
            let folder = parsed.to_file_path().map_err(|()| wrong("the path must be absolute".into()))?;
            std::fs::create_dir_all(&folder).map_err(|e| wrong(e.to_string()))?;
        }
        let environment = std::env::vars()
            .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)));
        let (store, base) = object_store::parse_url_opts(&parsed, environment).map_err(|e| wrong(e.to_string()))?;
        let runtime = Handle::try_current().map_err(|e| wrong(e.to_string()))?;
        let given_up = Arc::new(watch::Sender::new(false));
        Ok(Depot { store: Arc::from(store), base, url: url.to_owned(), runtime, given_up })
    }

    /// Ends what is being done, here and in all clones, and all that is asked
    /// from now on: stores far away may hang for minutes.
    pub fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut given_up = self.given_up.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                // The sender is in `self`.
                _ = given_up.wait_for(|given_up| *given_up) => Err(Error::GivenUp),
                done = work => done,
            }
        })
    }

    fn place(&self, name: &str) -> Place {
        name.split('/').fold(self.base.clone(), |place, part| place.join(part))
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        Error::Place { url: self.url.clone(), detail: error.to_string() }
    }

    /// Brings a store's files, then its manifest. `before` is this writer's
    /// last snapshot: files that it brought are not brought again.
    ///
    /// # Errors
    /// When a file cannot be read or brought; then there is no snapshot.
    pub fn write(&self, subject: Subject, dir: &Path, before: Option<&Manifest>) -> Result<Manifest, Error> {
        self.run(self.bring(subject, dir, before))
    }

    async fn bring(&self, subject: Subject, dir: &Path, before: Option<&Manifest>) -> Result<Manifest, Error> {
        let brought: BTreeMap<&str, &File> = before
            .filter(|manifest| manifest.subject.writer == subject.writer)
            .map(|manifest| manifest.files.iter().map(|file| (file.name.as_str(), file)).collect())
            .unwrap_or_default();
        let mut manifest = Manifest { format: FORMAT, subject, files: Vec::new() };
        let name = manifest.name();
        let shared =
            format!("{}/{}/files/{}", manifest.subject.role, manifest.subject.partition, manifest.subject.writer);
        let io = |context: &Path, e: &std::io::Error| Error::Io {
            context: context.display().to_string(),
            detail: e.to_string(),
        };
        let mut entries: Vec<_> = std::fs::read_dir(dir).map_err(|e| io(dir, &e))?.filter_map(Result::ok).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let bytes = entry.metadata().map_err(|e| io(&path, &e))?.len();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            // Tables never change; everything else is this snapshot's own.
            let table = file_name.ends_with(".sst");
            if table && let Some(known) = brought.get(file_name.as_str()).filter(|known| known.bytes == bytes) {
                manifest.files.push((*known).clone());
                continue;
            }
            let object = if table { format!("{shared}/{file_name}") } else { format!("{name}/{file_name}") };
            let crc32c = self.bring_file(&path, &object).await?;
            manifest.files.push(File { name: file_name, bytes, crc32c, object });
        }
        self.look(&manifest).await?;
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest serialises");
        let once = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.place(&format!("{name}.json")), PutPayload::from(text), once).await {
            // The same state once more.
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(manifest),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn bring_file(&self, path: &Path, object: &str) -> Result<u32, Error> {
        let io = |e: std::io::Error| Error::Io { context: path.display().to_string(), detail: e.to_string() };
        let mut file = tokio::fs::File::open(path).await.map_err(io)?;
        let place = self.place(object);
        let mut crc = 0;
        let mut upload = None;
        loop {
            let mut part = Vec::new();
            (&mut file).take(PART_BYTES as u64).read_to_end(&mut part).await.map_err(io)?;
            crc = crc32c::crc32c_append(crc, &part);
            let last = part.len() < PART_BYTES;
            let payload = PutPayload::from(part);
            match &mut upload {
                None if last => {
                    self.store.put(&place, payload).await.map_err(|e| self.failed(&e))?;
                    return Ok(crc);
                }
                None => {
                    let mut begun = self.store.put_multipart(&place).await.map_err(|e| self.failed(&e))?;
                    begun.put_part(payload).await.map_err(|e| self.failed(&e))?;
                    upload = Some(begun);
                }
                Some(begun) => begun.put_part(payload).await.map_err(|e| self.failed(&e))?,
            }
            if last && let Some(mut begun) = upload {
                begun.complete().await.map_err(|e| self.failed(&e))?;
                return Ok(crc);
            }
        }
    }

    /// Every file is there and as long as it should be.
    async fn look(&self, manifest: &Manifest) -> Result<(), Error> {
        for file in &manifest.files {
            let seen = self.store.head(&self.place(&file.object)).await;
            let detail = match seen {
                Ok(seen) if seen.size == file.bytes => continue,
                Ok(seen) => format!("{} has {} of {} bytes", file.object, seen.size, file.bytes),
                Err(object_store::Error::NotFound { .. }) => format!("{} is missing", file.object),
                Err(error) => return Err(self.failed(&error)),
            };
            return Err(Error::Damaged { name: manifest.name(), detail });
        }
        Ok(())
    }

    /// Whether every file of a snapshot is there and as long as it should be.
    ///
    /// # Errors
    /// [`Error::Damaged`] when not.
    pub fn is_whole(&self, manifest: &Manifest) -> Result<(), Error> {
        self.run(self.look(manifest))
    }

    /// The snapshots of one partition, the furthest first.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub fn list(&self, role: &str, partition: u32) -> Result<Vec<Manifest>, Error> {
        self.run(self.list_async(role, partition))
    }

    async fn list_async(&self, role: &str, partition: u32) -> Result<Vec<Manifest>, Error> {
        let prefix = self.place(&format!("{role}/{partition}"));
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(&error)),
        };
        let mut manifests = Vec::new();
        for object in listed.objects.into_iter().filter(|o| o.location.as_ref().ends_with(".json")) {
            let bytes = self.fetch(&object.location).await?;
            match serde_json::from_slice::<Manifest>(&bytes) {
                Ok(manifest) if manifest.format == FORMAT => manifests.push(manifest),
                Ok(manifest) => {
                    tracing::warn!(snapshot = %object.location, format = manifest.format, "a snapshot of another version is left alone");
                }
                Err(error) => tracing::warn!(snapshot = %object.location, %error, "a manifest is unreadable"),
            }
        }
        manifests.sort_by_key(|m| std::cmp::Reverse((m.subject.position, m.subject.created_at)));
        Ok(manifests)
    }

    async fn fetch(&self, place: &Place) -> Result<Bytes, Error> {
        let got = self.store.get(place).await.map_err(|e| self.failed(&e))?;
        got.bytes().await.map_err(|e| self.failed(&e))
    }

    /// Brings a snapshot's files into a new folder, every checksum compared;
    /// `told` hears bytes done and bytes in all, and says whether to go on.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a file is not what the manifest says.
    pub fn restore(&self, manifest: &Manifest, into: &Path, told: impl FnMut(u64, u64) -> bool) -> Result<(), Error> {
        self.run(self.take(manifest, Some(into), told))
    }

    /// Reads every file and compares its checksum.
    ///
    /// # Errors
    /// As [`Depot::restore`].
    pub fn verify(&self, manifest: &Manifest, told: impl FnMut(u64, u64) -> bool) -> Result<(), Error> {
        self.run(self.take(manifest, None, told))
    }

    async fn take(
        &self,
        manifest: &Manifest,
        into: Option<&Path>,
        mut told: impl FnMut(u64, u64) -> bool,
    ) -> Result<(), Error> {
        let io = |context: &Path, e: std::io::Error| Error::Io {
            context: context.display().to_string(),
            detail: e.to_string(),
        };
        let (mut done, all) = (0, manifest.bytes());
        if let Some(dir) = into {
            std::fs::create_dir_all(dir).map_err(|e| io(dir, e))?;
        }
        for file in &manifest.files {
            let damaged = |detail: String| Error::Damaged { name: manifest.name(), detail };
            if file.name.contains('/') || file.name.starts_with('.') {
                return Err(damaged(format!("{} is no name of a store's file", file.name)));
            }
            let got = match self.store.get(&self.place(&file.object)).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => {
                    return Err(damaged(format!("{} is missing", file.object)));
                }
                Err(error) => return Err(self.failed(&error)),
            };
            let path = into.map(|dir| dir.join(&file.name));
            let mut out = match &path {
                Some(path) => Some(tokio::fs::File::create(path).await.map_err(|e| io(path, e))?),
                None => None,
            };
            let (mut crc, mut bytes) = (0, 0);
            let mut stream = got.into_stream();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|e| self.failed(&e))?;
                crc = crc32c::crc32c_append(crc, &chunk);
                bytes += chunk.len() as u64;
                if let (Some(out), Some(path)) = (&mut out, &path) {
                    tokio::io::AsyncWriteExt::write_all(out, &chunk).await.map_err(|e| io(path, e))?;
                }
                if !told(done + bytes, all) {
                    return Err(Error::GivenUp);
                }
            }
            if let (Some(out), Some(path)) = (&mut out, &path) {
                out.sync_all().await.map_err(|e| io(path, e))?;
            }
            if bytes != file.bytes || crc != file.crc32c {
                return Err(damaged(format!("{} is not as it was written", file.object)));
            }
            done += bytes;
        }
        Ok(())
    }

    /// Removes old snapshots of a partition, then files that none names.
    ///
    /// # Errors
    /// When the place cannot be listed or changed.
    pub fn collect(&self, role: &str, partition: u32, now: Millis) -> Result<(), Error> {
        self.run(async {
            let manifests = self.list_async(role, partition).await?;
            let old = |m: &Manifest| now - m.subject.created_at > KEPT_AT_LEAST;
            // Of an earlier log in the same place none is kept for its position.
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
                let place = self.place(&format!("{}.json", manifest.name()));
                self.store.delete(&place).await.map_err(|e| self.failed(&e))?;
            }
            let named: BTreeSet<&str> =
                kept.iter().flat_map(|m| m.files.iter().map(|file| file.object.as_str())).collect();
            for manifest in &gone {
                for file in manifest.files.iter().filter(|file| !named.contains(file.object.as_str())) {
                    match self.store.delete(&self.place(&file.object)).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(self.failed(&error)),
                    }
                }
            }
            Ok(())
        })
    }
}
