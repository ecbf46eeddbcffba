//! Column families, and batches of changes that are applied atomically.

use std::path::PathBuf;
use std::sync::Arc;

use askwhen_wire::error::Class;

/// A column family, declared by the role whose stores contain it. Names of retired families
/// stay reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    name: &'static str,
    is_original: bool,
    is_probed: bool,
}

impl Family {
    /// A family that the role's stores have had since version 0.1.0: a store without it has
    /// lost it.
    pub const fn original(name: &'static str) -> Family {
        Family { name, is_original: true, is_probed: false }
    }

    /// A family that was added later: in a store of an earlier version it is created.
    pub const fn added(name: &'static str) -> Family {
        Family { name, is_original: false, is_probed: false }
    }

    /// For families that are mostly asked for missing keys: their write buffers have a
    /// Bloom filter, too.
    #[must_use]
    pub const fn probed(self) -> Family {
        Family { is_probed: true, ..self }
    }

    pub const fn is_probed(self) -> bool {
        self.is_probed
    }

    pub const fn name(self) -> &'static str {
        self.name
    }

    pub const fn is_original(self) -> bool {
        self.is_original
    }
}

/// Shared, because several callers may get the same failure.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// What was read is not what was written.
    #[error("the store {} is damaged: {source}. It has to be set aside and rebuilt from the journal", .path.display())]
    Damaged { path: PathBuf, source: Cause },
    #[error("the store {}: {source}", .path.display())]
    Io { path: PathBuf, source: Cause },
}

impl Error {
    /// Damage at `path`: the store's folder, or the name of the family whose values cannot
    /// be read.
    pub fn damaged(path: impl Into<PathBuf>, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Damaged { path: path.into(), source: Cause::from(cause.into()) }
    }

    pub fn io(path: impl Into<PathBuf>, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Io { path: path.into(), source: Cause::from(cause.into()) }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Error::Damaged { .. } => "damaged",
            Error::Io { .. } => "io",
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Error::Damaged { .. } => Class::Fatal,
            Error::Io { .. } => Class::Retry,
        }
    }
}

/// Changes that are applied together or not at all.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    /// All keys from the first up to but not including the second.
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Batch {
    pub fn put(&mut self, family: Family, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(family, key.into(), value.into()));
    }

    pub fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(family, key.into()));
    }

    pub fn delete_range(&mut self, family: Family, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.changes.push(Change::DeleteRange(family, from.into(), to.into()));
    }
}

pub type Entry = (Vec<u8>, Vec<u8>);
