//! All file access of the embedded log goes through a [`Disk`], so that the same code runs
//! on files and on a simulated disk that loses, tears and refuses. It knows nothing of
//! segments or records.

mod open;
pub mod simulated;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

pub use open::{DiskSpace, Open};
pub use simulated::{Crash, Fault, Operation, SimulatedDisk};

/// The files contain personal data, so only their owner may read them.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Where files are.
#[derive(Debug, Clone)]
pub enum Disk {
    Real,
    Simulated(simulated::Mount),
}

/// An open file. Dropping it closes it.
#[derive(Debug)]
pub enum DiskFile {
    Real(File),
    Simulated(simulated::Handle),
}

/// Held by one process at a time; dropping it releases it.
#[derive(Debug)]
pub enum DiskLock {
    Real { _file: File },
    Simulated { _held: simulated::Held },
}

impl SimulatedDisk {
    /// The disk for a process that starts now. It cannot be used after a crash.
    pub fn mount(self: &Arc<Self>) -> Disk {
        Disk::Simulated(self.mounted())
    }
}

impl Disk {
    /// Whether a path still names this file: nobody has removed or replaced it. On file
    /// systems that change inode numbers, lengths are compared, so a replaced file is found
    /// only when more has been written. On a simulated disk nobody else replaces files.
    ///
    /// # Errors
    /// As the system's `stat`, except for a path that names nothing.
    pub fn names(&self, path: &Path, file: &DiskFile) -> io::Result<bool> {
        let DiskFile::Real(file) = file else { return Ok(true) };
        let before = file.metadata()?;
        let there = match fs::metadata(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            there => there?,
        };
        let is_same = (there.dev(), there.ino()) == (before.dev(), before.ino());
        Ok(is_same || (before.len()..=file.metadata()?.len()).contains(&there.len()))
    }

    /// # Errors
    /// As the system's `open`.
    pub fn open(&self, path: &Path, how: Open) -> io::Result<DiskFile> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match (self, how) {
            (Disk::Simulated(mount), _) => return mount.open(path, how).map(DiskFile::Simulated),
            (_, Open::Read) => &mut options,
            (_, Open::Append) => options.append(true),
            (_, Open::New) => options.append(true).create_new(true),
            (_, Open::Replace) => options.write(true).create(true).truncate(true),
            (_, Open::Rewrite) => options.write(true),
        };
        options.open(path).map(DiskFile::Real)
    }

    /// All bytes of a small file.
    ///
    /// # Errors
    /// As the system's `open` and `read`.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.open(path, Open::Read)? {
            DiskFile::Real(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(bytes)
            }
            file @ DiskFile::Simulated(_) => {
                let mut bytes = vec![0; file.len()? as usize];
                let filled = file.read_at(&mut bytes, 0)?;
                bytes.truncate(filled);
                Ok(bytes)
            }
        }
    }

    /// Creates a folder and those above it, each made durable in its parent.
    ///
    /// # Errors
    /// As the system's `mkdir` and `fsync`.
    pub fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if let Disk::Simulated(mount) = self {
            return mount.create_dir_all(dir);
        }
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Names in a folder, in ascending order; [`io::ErrorKind::NotFound`] when there is no
    /// such folder.
    ///
    /// # Errors
    /// As the system's `readdir`.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if let Disk::Simulated(mount) = self {
            return mount.list(dir);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // The log makes no names that are not UTF-8.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// # Errors
    /// As the system's `rename`.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Disk::Real => fs::rename(from, to),
            Disk::Simulated(mount) => mount.rename(from, to),
        }
    }

    /// # Errors
    /// As the system's `unlink`.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        match self {
            Disk::Real => fs::remove_file(path),
            Disk::Simulated(mount) => mount.remove(path),
        }
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the system's `fsync`.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        match self {
            Disk::Real => File::open(dir)?.sync_all(),
            Disk::Simulated(mount) => mount.sync_dir(dir),
        }
    }

    /// Replaces a small file durably and as a whole: after a crash it is the old or the new
    /// one.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is there.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let draft = path.with_extension("draft");
        let written = self.open(&draft, Open::Replace).and_then(|file| {
            file.append_all(bytes)?;
            file.sync_data()
        });
        if let Err(error) = written.and_then(|()| self.rename(&draft, path)) {
            // The draft takes up space that others need.
            self.remove(&draft).ok();
            return Err(error);
        }
        self.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }

    /// Free and total bytes of the disk with `dir`.
    ///
    /// # Errors
    /// As the system's `statvfs`.
    pub fn space(&self, dir: &Path) -> io::Result<DiskSpace> {
        match self {
            Disk::Real => {
                let found = rustix::fs::statvfs(dir)?;
                Ok(DiskSpace {
                    free_bytes: found.f_bavail * found.f_frsize,
                    total_bytes: found.f_blocks * found.f_frsize,
                })
            }
            Disk::Simulated(mount) => mount.space(),
        }
    }

    /// Takes the lock of a file; `None` when another process holds it.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        if let Disk::Simulated(mount) = self {
            return Ok(mount.lock(path)?.map(|held| DiskLock::Simulated { _held: held }));
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(DiskLock::Real { _file: file })),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the permissions of others from a file or folder.
    ///
    /// # Errors
    /// As the system's `chmod`.
    pub fn tighten(&self, path: &Path) -> io::Result<()> {
        if let Disk::Simulated(_) = self {
            return Ok(());
        }
        let found = fs::symlink_metadata(path)?;
        let wanted = if found.is_dir() { FOLDER_MODE } else { FILE_MODE };
        if found.file_type().is_symlink() || found.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        fs::set_permissions(path, fs::Permissions::from_mode(wanted))
    }

    /// A random number; a simulated disk derives it from its seed.
    pub fn unique(&self) -> u128 {
        match self {
            Disk::Real => uuid::Uuid::new_v4().as_u128(),
            Disk::Simulated(mount) => mount.unique(),
        }
    }
}

impl DiskFile {
    /// Reads into `buffer` until it is full or the file ends; returns the number of bytes.
    ///
    /// # Errors
    /// As the system's `pread`.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = match self {
                DiskFile::Real(file) => file.read_at(rest, position + filled as u64),
                DiskFile::Simulated(handle) => handle.read_at(rest, position + filled as u64),
            };
            match read {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Appends all bytes. After an error any part of them may be in the file.
    ///
    /// # Errors
    /// As the system's `write`.
    pub fn append_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                DiskFile::Real(file) => (&*file).write(bytes),
                DiskFile::Simulated(handle) => handle.append(bytes),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes at a position of a file that was opened with [`Open::Rewrite`].
    ///
    /// # Errors
    /// As the system's `pwrite`.
    pub fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        match self {
            DiskFile::Real(file) => file.write_all_at(bytes, position),
            DiskFile::Simulated(handle) => handle.write_all_at(bytes, position),
        }
    }

    /// Makes everything written durable. After an error it is unknown what is durable, so
    /// it must not be tried again.
    ///
    /// # Errors
    /// As the system's `fdatasync`.
    pub fn sync_data(&self) -> io::Result<()> {
        match self {
            DiskFile::Real(file) => file.sync_data(),
            DiskFile::Simulated(handle) => handle.sync_data(),
        }
    }

    /// Truncates the file.
    ///
    /// # Errors
    /// As the system's `ftruncate`.
    pub fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        match self {
            DiskFile::Real(file) => file.set_len(len_bytes),
            DiskFile::Simulated(handle) => handle.set_len(len_bytes),
        }
    }

    /// # Errors
    /// As the system's `fstat`.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            DiskFile::Real(file) => Ok(file.metadata()?.len()),
            DiskFile::Simulated(handle) => handle.len(),
        }
    }

    /// # Errors
    /// As [`DiskFile::len`].
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Whether an error means that the disk, or the user's quota on it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests;
