//! A folder or an object store bucket: files are uploaded and downloaded with their
//! checksums.

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::sync::watch;

use askwhen_wire::error::Class;
use askwhen_wire::sealed_file::{self, FileKey};

/// Larger files are uploaded in parts of this size.
const PART_BYTES: usize = 16 << 20;

/// An error of the object store's client.
pub type PlaceCause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not valid, or its place cannot be reached.
    #[error("{place}: {source}")]
    Place { place: String, source: PlaceCause },
    #[error("the {what} is damaged: {detail}")]
    Damaged { what: String, detail: String },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("given up")]
    GivenUp,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { path: path.to_owned(), source }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Error::Place { .. } => "place",
            Error::Damaged { .. } => "damaged",
            Error::Io { .. } => "io",
            Error::GivenUp => "given_up",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::Place { .. } | Error::Io { .. } | Error::GivenUp => Class::Retry,
            Error::Damaged { .. } => Class::Reject,
        }
    }
}

/// What an object must contain.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    pub name: &'a str,
    pub bytes: u64,
    pub crc32c: u32,
    /// For a sealed file: what is stored of it.
    pub stored: Option<Stored>,
}

/// A sealed file as it is stored, so that it can be compared without the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub bytes: u64,
    pub crc32c: u32,
}

impl Stored {
    pub fn of(bytes: &[u8]) -> Stored {
        Stored { bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }
}

#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    base: Place,
    url: String,
    /// Name of the setting, which precedes the URL in errors.
    setting: &'static str,
    runtime: Handle,
    given_up: Arc<watch::Sender<bool>>,
    /// With a key, files are sealed when they are uploaded and opened when they are
    /// downloaded.
    seal: Option<FileKey>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

impl Bucket {
    /// Opens `file:///…`, `s3://bucket/…`, `gs://bucket/…` or `az://container/…`;
    /// credentials come from the environment, under the names that the clouds' own tools
    /// use. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the URL is none of these.
    pub fn open(url: &str) -> Result<Bucket, Error> {
        Bucket::at(url, "", true)
    }

    /// The same for a place that a setting names: errors contain the setting's name.
    ///
    /// # Errors
    /// As [`Bucket::open`].
    pub fn open_as(setting: &'static str, url: &str) -> Result<Bucket, Error> {
        Bucket::at(url, setting, true)
    }

    /// The same for a place that must exist.
    ///
    /// # Errors
    /// When the URL is none of these, or its folder does not exist.
    pub fn existing(url: &str) -> Result<Bucket, Error> {
        Bucket::at(url, "", false)
    }

    fn at(url: &str, setting: &'static str, make: bool) -> Result<Bucket, Error> {
        let wrong = |source: PlaceCause| Error::Place { place: format!("{setting}{url}"), source };
        let wanted = "it must be file:///…, s3://…, gs://… or az://…";
        let parsed = url::Url::parse(url).map_err(|e| wrong(format!("{e}; {wanted}").into()))?;
        if !["file", "s3", "gs", "az"].contains(&parsed.scheme()) || parsed.query().is_some() {
            return Err(wrong(wanted.into()));
        }
        if parsed.scheme() == "file" {
            let folder = parsed.to_file_path().map_err(|()| wrong("the path must be absolute".into()))?;
            if make {
                // The files contain personal data.
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
                made.map_err(|e| wrong(e.into()))?;
            } else if !folder.is_dir() {
                return Err(wrong("there is no such folder".into()));
            }
        }
        let environment = std::env::vars()
            .filter(|(name, _)| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)));
        let (store, base) = object_store::parse_url_opts(&parsed, environment).map_err(|e| wrong(e.into()))?;
        let runtime = Handle::try_current().map_err(|e| wrong(e.into()))?;
        let given_up = Arc::new(watch::Sender::new(false));
        Ok(Bucket { store: Arc::from(store), base, url: url.to_owned(), setting, runtime, given_up, seal: None })
    }

    /// The same bucket, below a folder of it.
    pub fn below(&self, folder: &str) -> Bucket {
        let url = format!("{}/{folder}", self.url.trim_end_matches('/'));
        Bucket { base: self.place(folder), url, ..self.clone() }
    }

    /// The same bucket with its files sealed. Small objects that are put there are not
    /// sealed.
    pub fn sealed(&self, key: FileKey) -> Bucket {
        Bucket { seal: Some(key), ..self.clone() }
    }

    pub fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// The folder, if it is one on this machine.
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        url::Url::parse(&self.url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
    }

    /// Ends all operations of this bucket and its clones, running ones and later ones,
    /// because a remote store may hang for minutes.
    pub fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// Runs an operation on the current thread, which must be one that may block.
    ///
    /// # Errors
    /// As the operation, and when it was given up.
    pub fn run<T, E: From<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut given_up = self.given_up.subscribe();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                // `self` holds the sender, so this cannot fail.
                _ = given_up.wait_for(|given_up| *given_up) => Err(Error::GivenUp.into()),
                done = work => done,
            }
        })
    }

    fn place(&self, name: &str) -> Place {
        name.split('/').fold(self.base.clone(), |place, part| place.join(part))
    }

    fn failed(&self, error: object_store::Error) -> Error {
        Error::Place { place: format!("{}{}", self.setting, self.url), source: error.into() }
    }

    /// Uploads a file; returns its checksum and, when sealed, what is stored of it.
    ///
    /// # Errors
    /// When it cannot be read or uploaded.
    pub async fn bring(&self, path: &Path, name: &str) -> Result<(u32, Option<Stored>), Error> {
        let mut file = tokio::fs::File::open(path).await.map_err(Error::io(path))?;
        let place = self.place(name);
        let mut sealer = self.seal.as_ref().map(|key| Ok::<_, Error>(key.seal(name, random(path)?))).transpose()?;
        let (mut crc, mut stored) = (0, self.seal.as_ref().map(|_| Stored { bytes: 0, crc32c: 0 }));
        let mut upload = None;
        loop {
            let mut part = Vec::new();
            (&mut file).take(PART_BYTES as u64).read_to_end(&mut part).await.map_err(Error::io(path))?;
            crc = crc32c::crc32c_append(crc, &part);
            let last = part.len() < PART_BYTES;
            if let Some(sealing) = &mut sealer {
                part = sealing.push(&part);
                part.extend(sealer.take_if(|_| last).map(sealed_file::Sealer::finish).unwrap_or_default());
            }
            if let Some(stored) = &mut stored {
                stored.crc32c = crc32c::crc32c_append(stored.crc32c, &part);
                stored.bytes += part.len() as u64;
            }
            let payload = PutPayload::from(part);
            match &mut upload {
                None if last => {
                    self.store.put(&place, payload).await.map_err(|e| self.failed(e))?;
                    return Ok((crc, stored));
                }
                None => {
                    let mut begun = self.store.put_multipart(&place).await.map_err(|e| self.failed(e))?;
                    begun.put_part(payload).await.map_err(|e| self.failed(e))?;
                    upload = Some(begun);
                }
                Some(begun) => begun.put_part(payload).await.map_err(|e| self.failed(e))?,
            }
            if last && let Some(mut begun) = upload {
                begun.complete().await.map_err(|e| self.failed(e))?;
                return Ok((crc, stored));
            }
        }
    }

    /// Puts a small object, unless there is one with this name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put_once(&self, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        let once = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.place(name), PutPayload::from(bytes), once).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Puts an object, and replaces one with this name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.store.put(&self.place(name), bytes.into()).await.map(drop).map_err(|e| self.failed(e))
    }

    /// The objects below a folder, with their lengths in bytes.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub async fn sizes(&self, folder: &str) -> Result<HashMap<String, u64>, Error> {
        let mut listed = self.store.list(Some(&self.place(folder)));
        let mut sizes = HashMap::new();
        while let Some(object) = listed.next().await {
            let object = object.map_err(|e| self.failed(e))?;
            let name = object.location.filename().map(|file| format!("{folder}/{file}"));
            sizes.extend(name.map(|name| (name, object.size)));
        }
        Ok(sizes)
    }

    /// The length of an object in bytes; `None` when there is none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match self.store.head(&self.place(name)).await {
            Ok(seen) => Ok(Some(seen.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The small objects of a folder whose names end in `ending`, by name.
    ///
    /// # Errors
    /// When it cannot be listed or read.
    pub async fn read_all(&self, folder: &str, ending: &str) -> Result<Vec<(String, Bytes)>, Error> {
        let listed = match self.store.list_with_delimiter(Some(&self.place(folder))).await {
            Ok(listed) => listed,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut read = Vec::new();
        for object in listed.objects.into_iter().filter(|o| o.location.as_ref().ends_with(ending)) {
            let got = self.store.get(&object.location).await.map_err(|e| self.failed(e))?;
            let bytes = got.bytes().await.map_err(|e| self.failed(e))?;
            read.push((object.location.filename().unwrap_or_default().to_owned(), bytes));
        }
        Ok(read)
    }

    /// Removes an object, if it exists.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&self.place(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Downloads an object, into a file if one is named, and compares its checksum. A
    /// sealed object is opened or, without the key, compared as it is stored. `progress` is
    /// called with the bytes read so far and returns whether to go on.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not what it should be.
    pub async fn fetch(
        &self,
        object: Object<'_>,
        into: Option<&Path>,
        progress: &mut (dyn FnMut(u64) -> bool + Send),
    ) -> Result<(), Error> {
        let damaged = |detail: &str| Error::Damaged { what: object.name.to_owned(), detail: detail.to_owned() };
        let opener = match (&self.seal, object.stored) {
            (Some(key), Some(_)) => Some(key.open(object.name)),
            (None, Some(_)) if into.is_some() => return Err(damaged("it is sealed, and no key was given")),
            _ => None,
        };
        let got = match self.store.get(&self.place(object.name)).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged("it is missing")),
            Err(error) => return Err(self.failed(error)),
        };
        let out = match into {
            Some(path) => {
                let file = tokio::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).await;
                Some((file.map_err(Error::io(path))?, path))
            }
            None => None,
        };
        let mut taker = ObjectReader { opener, out, crc: 0, bytes: 0 };
        let mut stored = Stored { bytes: 0, crc32c: 0 };
        let mut stream = got.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| self.failed(e))?;
            stored.crc32c = crc32c::crc32c_append(stored.crc32c, &chunk);
            stored.bytes += chunk.len() as u64;
            taker.take(&chunk).await?.map_err(|why| damaged(&why.to_string()))?;
            if !progress(stored.bytes) {
                return Err(Error::GivenUp);
            }
        }
        let unopened = object.stored.is_some() && taker.opener.is_none();
        let (bytes, crc) = taker.finish().await?.map_err(|why| damaged(&why.to_string()))?;
        let plain_fits = unopened || (bytes, crc) == (object.bytes, object.crc32c);
        if !plain_fits || object.stored.is_some_and(|wanted| wanted != stored) {
            return Err(damaged("it is not as it was written"));
        }
        Ok(())
    }
}

/// Opens sealed bytes as they come, and writes them.
struct ObjectReader<'a> {
    opener: Option<sealed_file::Opener>,
    out: Option<(tokio::fs::File, &'a Path)>,
    crc: u32,
    bytes: u64,
}

impl ObjectReader<'_> {
    async fn take(&mut self, bytes: &[u8]) -> Result<Result<(), sealed_file::NotOpened>, Error> {
        match self.opener.as_mut().map(|opener| opener.push(bytes)) {
            Some(Err(why)) => Ok(Err(why)),
            Some(Ok(opened)) => self.write(&opened).await.map(Ok),
            None => self.write(bytes).await.map(Ok),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
        if let Some((out, path)) = &mut self.out {
            tokio::io::AsyncWriteExt::write_all(out, bytes).await.map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// Writes the rest to disk; returns length and checksum.
    async fn finish(mut self) -> Result<Result<(u64, u32), sealed_file::NotOpened>, Error> {
        match self.opener.take().map(sealed_file::Opener::finish) {
            Some(Err(why)) => return Ok(Err(why)),
            Some(Ok(rest)) => self.write(&rest).await?,
            None => {}
        }
        if let Some((out, path)) = &mut self.out {
            out.sync_all().await.map_err(Error::io(path))?;
        }
        Ok(Ok((self.bytes, self.crc)))
    }
}

/// The random part of a file's nonces.
fn random(path: &Path) -> Result<[u8; 19], Error> {
    let mut bytes = [0; 19];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other).map_err(Error::io(path))?;
    Ok(bytes)
}
