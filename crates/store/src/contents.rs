//! Notes what a store must contain, in a file in the store's folder.
//!
//! RocksDB opens a MANIFEST that was cut off without an error: its list of tables is then
//! an older one, and the write-ahead log that would continue from there is gone. So length
//! and checksum of the MANIFEST are noted as it grows, and compared before the store is
//! opened. The tables are compared with the list, in length, once it is open; their blocks
//! have checksums of their own, which are compared at each read.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the file. RocksDB leaves files alone whose names it does not know.
pub const FILE: &str = "CONTENTS.json";
const FORMAT: u32 = 1;
const READ_BYTES: usize = 256 << 10;

/// The contents of a store at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    format: u32,
    /// File name of the MANIFEST, the list of tables.
    pub manifest: String,
    /// Its length; it only grows, so at least these bytes must be there.
    pub manifest_bytes: u64,
    /// CRC-32C of these bytes.
    pub manifest_crc32c: u32,
    /// Names of the column families.
    pub families: Vec<String>,
}

/// Why a note cannot be used, or what of its contents is missing: unless a file cannot be
/// read at the moment, the store is not the one that was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{file}: {source}")]
    Io { file: String, source: io::Error },
    #[error("{FILE} is unreadable: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("{file} is not as it was written")]
    Changed { file: String },
    #[error("{file} has {bytes} bytes, and had {noted_bytes}")]
    Short { file: String, bytes: u64, noted_bytes: u64 },
    #[error("CURRENT names {current}, and {noted} is newer")]
    Older { current: String, noted: String },
    #[error("CURRENT names no MANIFEST")]
    NamesNothing,
    #[error("{manifest}, which CURRENT names, is missing")]
    Missing { manifest: String },
}

impl Error {
    fn io(file: &str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { file: file.to_owned(), source }
    }
}

/// The note as it is stored.
#[derive(Serialize, Deserialize)]
struct Sealed {
    /// CRC-32C of the contents, serialised without spaces.
    crc32c: u32,
    contents: Contents,
}

impl Contents {
    fn crc32c(&self) -> u32 {
        crc32c::crc32c(&serde_json::to_vec(self).expect("a note serialises"))
    }

    fn number(&self) -> Option<u64> {
        number(&self.manifest)
    }

    /// Reads the note of a store; `None` when there is none, as in stores of version 0.1.0
    /// and in copies.
    ///
    /// # Errors
    /// Why the note cannot be used.
    pub fn read(dir: &Path) -> Result<Option<Contents>, Error> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(FILE)(error)),
        };
        let sealed: Sealed = serde_json::from_slice(&bytes).map_err(Error::Unreadable)?;
        if sealed.crc32c != sealed.contents.crc32c() {
            return Err(Error::Changed { file: FILE.into() });
        }
        Ok(Some(sealed.contents))
    }

    /// Compares the note with the folder.
    ///
    /// # Errors
    /// What is missing or differs.
    pub fn check(&self, dir: &Path) -> Result<(), Error> {
        let current = current(dir)?;
        if current != self.manifest {
            // A new MANIFEST contains everything of the one before; RocksDB begins one at
            // each opening.
            let newer = number(&current).zip(self.number()).is_some_and(|(current, noted)| current > noted);
            return if newer { Ok(()) } else { Err(Error::Older { current, noted: self.manifest.clone() }) };
        }
        let mut list = List::open(dir, current).map_err(Error::io(&self.manifest))?;
        let bytes = list.read_to(self.manifest_bytes).map_err(Error::io(&self.manifest))?;
        if bytes < self.manifest_bytes {
            let (file, noted_bytes) = (self.manifest.clone(), self.manifest_bytes);
            return Err(Error::Short { file, bytes, noted_bytes });
        }
        if list.crc32c != self.manifest_crc32c {
            return Err(Error::Changed { file: self.manifest.clone() });
        }
        Ok(())
    }

    /// Writes the note in one step.
    fn write(self, dir: &Path) -> io::Result<()> {
        let sealed = Sealed { crc32c: self.crc32c(), contents: self };
        let bytes = serde_json::to_vec(&sealed).expect("a note serialises");
        let (path, draft) = (dir.join(FILE), dir.join(format!("{FILE}.draft")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(dir)?.sync_all()
    }
}

/// The file name in CURRENT.
///
/// # Errors
/// When CURRENT is missing, or names no MANIFEST that exists.
pub fn current(dir: &Path) -> Result<String, Error> {
    let text = fs::read(dir.join("CURRENT")).map_err(Error::io("CURRENT"))?;
    let name = String::from_utf8_lossy(&text);
    let name = name.strip_suffix('\n').filter(|name| number(name).is_some());
    let manifest = name.ok_or(Error::NamesNothing)?.to_owned();
    if dir.join(&manifest).is_file() { Ok(manifest) } else { Err(Error::Missing { manifest }) }
}

fn number(manifest: &str) -> Option<u64> {
    manifest.strip_prefix("MANIFEST-")?.parse().ok()
}

/// Whether a folder contains no store, or only the first files of one that was never used.
pub fn is_unused(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let of_a_store = name == "CURRENT" || name == FILE || name.ends_with(".sst");
        if of_a_store || (name.ends_with(".log") && entry.metadata()?.len() > 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the first files of a store that was never used.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("MANIFEST-") || name.ends_with(".log") || name.ends_with(".dbtmp") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a store has a write-ahead log.
pub fn has_log(dir: &Path) -> io::Result<bool> {
    let is_log =
        |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "log"));
    Ok(fs::read_dir(dir)?.any(is_log))
}

/// A MANIFEST that is read as it grows.
#[derive(Debug)]
struct List {
    name: String,
    file: File,
    bytes: u64,
    crc32c: u32,
}

impl List {
    fn open(dir: &Path, name: String) -> io::Result<List> {
        let file = File::open(dir.join(&name))?;
        Ok(List { name, file, bytes: 0, crc32c: 0 })
    }

    /// Reads on, up to `end` at most; returns the position.
    fn read_to(&mut self, end: u64) -> io::Result<u64> {
        let mut buffer = vec![0; READ_BYTES.min(end.saturating_sub(self.bytes) as usize)];
        while self.bytes < end {
            let wanted = buffer.len().min((end - self.bytes) as usize);
            let read = self.file.read_at(&mut buffer[..wanted], self.bytes)?;
            if read == 0 {
                break;
            }
            self.crc32c = crc32c::crc32c_append(self.crc32c, &buffer[..read]);
            self.bytes += read as u64;
        }
        Ok(self.bytes)
    }
}

/// Keeps the note of an open store up to date.
#[derive(Debug)]
pub struct Notes {
    dir: PathBuf,
    families: Vec<String>,
    list: List,
}

impl Notes {
    /// Notes the current contents.
    ///
    /// # Errors
    /// When the store's files cannot be read or the note cannot be written.
    pub fn begin(dir: &Path, families: Vec<String>) -> io::Result<Notes> {
        let name = current(dir).map_err(io::Error::other)?;
        let mut notes = Notes { dir: dir.to_owned(), families, list: List::open(dir, name)? };
        notes.write_if_grown()?;
        Ok(notes)
    }

    /// Notes the current contents if they have grown.
    ///
    /// # Errors
    /// As [`Notes::begin`]; the note then stays as it was.
    pub fn refresh(&mut self) -> io::Result<()> {
        let path = self.dir.join(&self.list.name);
        // RocksDB removes a MANIFEST once it has begun the next one.
        if !path.exists() {
            let name = current(&self.dir).map_err(io::Error::other)?;
            self.list = List::open(&self.dir, name)?;
        }
        self.write_if_grown()
    }

    fn write_if_grown(&mut self) -> io::Result<()> {
        let end = self.list.file.metadata()?.len();
        if end == self.list.bytes {
            return Ok(());
        }
        self.list.read_to(end)?;
        let contents = Contents {
            format: FORMAT,
            manifest: self.list.name.clone(),
            manifest_bytes: self.list.bytes,
            manifest_crc32c: self.list.crc32c,
            families: self.families.clone(),
        };
        contents.write(&self.dir)
    }
}
