//! Files that hold personal data and secrets: only their owner may read them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The mode bits of the group and of others, all of which are cleared.
const OTHERS: u32 = 0o077;

/// Sets the umask, so that files which libraries make are the owner's alone, too.
pub fn mask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(OTHERS));
}

/// Makes a folder, and those above it that are missing, with mode 0700.
///
/// # Errors
/// When it cannot be made.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that was not there, with mode 0600, to the disk, in one step.
///
/// # Errors
/// When it is there, or cannot be written.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    replace(path, text.as_bytes())
}

/// Writes a file with mode 0600 in one step: after a crash it is the old one or
/// the new one.
///
/// # Errors
/// When it cannot be written; then the old one is still there.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

/// Takes the rights of group and others away from a folder and everything in it. Links are
/// not followed. Returns how many files and folders were changed.
///
/// # Errors
/// When a right cannot be taken: the owner is somebody else.
pub fn tighten(path: &Path) -> io::Result<u64> {
    let mut changed = 0;
    each_open(path, &mut |path, mode| {
        changed += 1;
        fs::set_permissions(path, fs::Permissions::from_mode(mode & !OTHERS & 0o7777))
    })?;
    Ok(changed)
}

/// The files and folders in a folder, and itself, that group or others have rights on.
/// Links are not followed.
///
/// # Errors
/// When a folder cannot be read.
pub fn open_to_others(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    each_open(path, &mut |path, _| {
        found.push(path.to_owned());
        Ok(())
    })?;
    Ok(found)
}

/// Hands each file and folder that group or others have rights on to `each`, with its
/// mode; a folder before what is in it.
fn each_open(path: &Path, each: &mut impl FnMut(&Path, u32) -> io::Result<()>) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        // It is not there yet, or a server that runs has removed it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if metadata.is_symlink() {
        return Ok(());
    }
    let mode = metadata.permissions().mode();
    if mode & OTHERS != 0 {
        each(path, mode)?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            each_open(&entry?.path(), each)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        create_dir_all(&folder).unwrap();
        assert_eq!((mode(&dir.path().join("a")), mode(&folder)), (0o700, 0o700));
        write_new(&folder.join("new"), "x").unwrap();
        replace(&folder.join("note.json"), b"1").unwrap();
        replace(&folder.join("note.json"), b"2").unwrap();
        assert_eq!((mode(&folder.join("new")), mode(&folder.join("note.json"))), (0o600, 0o600));
        assert_eq!(fs::read(folder.join("note.json")).unwrap(), b"2");
        assert!(write_new(&folder.join("new"), "y").is_err(), "what is there stays");
        assert_eq!(fs::read(folder.join("new")).unwrap(), b"x");
    }

    #[test]
    fn rights_of_others_are_taken_and_links_are_not_followed() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = elsewhere.path().join("outside");
        fs::write(&outside, "").unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o644)).unwrap();
        let folder = dir.path().join("log/events");
        fs::create_dir_all(&folder).unwrap();
        for open in [dir.path().to_owned(), dir.path().join("log"), folder.clone()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = folder.join("0.log");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        assert_eq!(tighten(dir.path()).unwrap(), 4);
        assert_eq!((mode(&dir.path().join("log")), mode(&folder), mode(&file)), (0o700, 0o700, 0o600));
        assert_eq!(mode(&outside), 0o644);
        assert_eq!(tighten(dir.path()).unwrap(), 0);
    }
}
