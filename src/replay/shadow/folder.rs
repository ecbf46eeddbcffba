//! The folder of a replay: what stands in it, and who may work in it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::super::Error;

pub(super) const PLAN: &str = "plan.json";
/// Stands in every folder that holds a replay, and in no other.
pub(super) const LOCK: &str = "replay.lock";
/// Names of all that a replay puts into its folder.
const NAMES: [&str; 5] = [PLAN, "plan.new", "engine", "differences", LOCK];

/// Removes a replay, and its folder when nothing else is in it.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    // The plan goes first: a folder without one holds no replay, whatever else is left.
    for name in NAMES {
        let path = dir.join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    // It stays when others have put something there.
    fs::remove_dir(dir).ok();
    Ok(())
}

/// The error of whoever expects a replay in an empty folder.
pub(super) fn none(dir: &Path) -> Error {
    Error::usage(format!("there is no replay in {}: `askwhen replay run` begins one", dir.display()))
}

/// Refuses a folder that holds something else: `remove` must never meet others' files.
pub(super) fn refuse_foreign(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::usage(format!("{}: {e}", dir.display())))?;
    let names: Vec<String> =
        entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let ours = names.iter().any(|name| name == LOCK) && names.iter().all(|name| NAMES.contains(&name.as_str()));
    if names.is_empty() || ours {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} holds something that is no replay: name a folder that is empty or not there with --shadow",
        dir.display()
    )))
}

/// Keeps other processes out for as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(LOCK))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::refused(format!("the replay in {} is in use by another process", dir.display())))?;
    Ok(file)
}

pub(super) fn store_path(dir: &Path, partition: u32) -> PathBuf {
    dir.join("engine").join(partition.to_string())
}

/// Writes a file whole or not at all: under another name first, synced, then renamed.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(fresh, path)?)
}
