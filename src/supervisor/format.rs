//! `format.json` of a data directory: its layout, the program that wrote it, and the
//! fingerprint of the cluster key. A directory without it is of version 0.1.0.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::private;
use crate::replay::Error;

/// The layout that this program writes. Layout 1 is that of 0.1.0, which wrote no
/// `format.json`.
pub const LAYOUT: u32 = 2;

/// This program's own version.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// The members of `format.json`. Members may be added within a layout: an older program
/// ignores those that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryFormat {
    pub layout: u32,
    /// Version of the program that wrote here last.
    pub program: String,
    /// Fingerprint of the cluster key, which does not reveal the key.
    #[serde(default)]
    pub key_fingerprint: Option<String>,
    /// Whether the API keys were made here, in `keys.toml`.
    #[serde(default)]
    pub own_api_keys: bool,
}

pub fn path(dir: &Path) -> PathBuf {
    dir.join("format.json")
}

impl DirectoryFormat {
    /// Reads `format.json`; `None` when there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::replay::ErrorKind::Refused) when a later program wrote
    /// it, or it cannot be read.
    pub fn read(dir: &Path) -> Result<Option<DirectoryFormat>, Error> {
        let path = path(dir);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(&path, error)),
        };
        let format: DirectoryFormat = serde_json::from_slice(&bytes).map_err(|error| {
            Error::refused(format!(
                "{} is unreadable ({error}): restore it from a backup. If nothing else in the directory was touched, \
                 removing it makes askwhen look at the directory as at one of version 0.1.0",
                path.display()
            ))
        })?;
        if format.layout > LAYOUT {
            return Err(Error::refused(format!(
                "{} was written by askwhen {} (layout {}), and this is askwhen {PROGRAM}, which reads layouts up to \
                 {LAYOUT}: run the later version, or restore a backup that was made before the upgrade \
                 (docs/upgrade.md)",
                dir.display(),
                format.program,
                format.layout
            )));
        }
        Ok(Some(format))
    }

    /// Writes `format.json`, unless it holds the same already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        if DirectoryFormat::read(dir)?.as_ref() == Some(self) {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(self).expect("a format serialises");
        private::replace(&path(dir), &bytes).map_err(|e| Error::file(&path(dir), e))
    }
}

/// Refuses a data directory that a later version has written, also for whoever only reads it.
///
/// # Errors
/// As [`DirectoryFormat::read`].
pub fn refuse_later_layout(dir: &Path) -> Result<(), Error> {
    DirectoryFormat::read(dir).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::ErrorKind;

    #[test]
    fn a_later_layout_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(DirectoryFormat::read(dir.path()).unwrap(), None);
        let own = DirectoryFormat {
            layout: LAYOUT,
            program: PROGRAM.into(),
            key_fingerprint: Some("0011".into()),
            own_api_keys: true,
        };
        own.write(dir.path()).unwrap();
        assert_eq!(DirectoryFormat::read(dir.path()).unwrap(), Some(own));
        let later = r#"{"layout": 9, "program": "7.1.0", "something": "new"}"#;
        fs::write(path(dir.path()), later).unwrap();
        let why = DirectoryFormat::read(dir.path()).expect_err("it is refused").to_string();
        assert!(why.contains("7.1.0") && why.contains(PROGRAM), "{why}");
        fs::write(path(dir.path()), "{").unwrap();
        assert!(DirectoryFormat::read(dir.path()).is_err_and(|error| error.kind() == ErrorKind::Refused));
    }
}
