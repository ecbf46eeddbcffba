//! The store port: families of ordered keys, written in atomic batches. One
//! store per partition and role, so that it can be dropped, set aside or
//! copied alone. Nothing in here knows what a value means.

pub mod bucket;
mod contents;
pub mod keys;
pub mod memory;
pub mod rocks;
pub mod snapshot;

use std::path::PathBuf;

pub use memory::Memory;
pub use rocks::{Rocks, Shared};

/// A family of keys. Numbers of retired families stay reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Engine: project ‖ 0 ‖ user → state.
    Users,
    /// Engine: hash of an event id → when it was first seen.
    Dedupe,
    /// Engine: hour ‖ hash of an event id → the decision's bytes.
    Decided,
    /// Engine: kind/project/id → definitions with their past.
    Definitions,
    /// Engine: accounts and banks of quotas, and requests that wait for a grant.
    Quotas,
    /// Delivery: delivery id → what waits, with its message.
    Waiting,
    /// Delivery: due ‖ delivery id.
    Due,
    /// Delivery: delivery id → how and when it ended.
    Done,
    /// Delivery: project ‖ 0 ‖ endpoint id → definition.
    Endpoints,
    /// Console: places in time, of all and of each user → ids.
    Entries,
    /// Console: ids → rows; counters, facts and erasures.
    Index,
    /// Position, incarnation, versions.
    Meta,
}

impl Family {
    pub const ENGINE: &[Family] =
        &[Family::Users, Family::Dedupe, Family::Decided, Family::Definitions, Family::Quotas, Family::Meta];
    pub const DELIVERY: &[Family] = &[Family::Waiting, Family::Due, Family::Done, Family::Endpoints, Family::Meta];
    pub const CONSOLE: &[Family] = &[Family::Entries, Family::Index, Family::Meta];

    pub fn name(self) -> &'static str {
        match self {
            Family::Users => "users",
            Family::Dedupe => "dedupe",
            Family::Decided => "decided",
            Family::Definitions => "definitions",
            Family::Quotas => "quotas",
            Family::Waiting => "waiting",
            Family::Due => "due",
            Family::Done => "done",
            Family::Endpoints => "endpoints",
            Family::Entries => "entries",
            Family::Index => "index",
            Family::Meta => "meta",
        }
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the store {} is damaged: {detail}. It has to be set aside and rebuilt from the journal", .path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("the store {}: {detail}", .path.display())]
    Io { path: PathBuf, detail: String },
}

impl From<Error> for String {
    fn from(error: Error) -> String {
        error.to_string()
    }
}

/// Changes that take effect together or not at all.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    /// From the first key up to, and without, the second.
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

const EACH_AT_A_TIME: usize = 512;

#[derive(Debug)]
pub enum Store {
    Rocks(Rocks),
    Memory(Memory),
}

impl Store {
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Store::Rocks(store) => store.get(family, key),
            Store::Memory(store) => Ok(store.get(family, key)),
        }
    }

    /// # Errors
    /// When nothing of the batch was written.
    pub fn write(&self, batch: Batch) -> Result<(), Error> {
        match self {
            Store::Rocks(store) => store.write(batch),
            Store::Memory(store) => {
                store.write(batch);
                Ok(())
            }
        }
    }

    /// Entries from a key on, ascending, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn ascending(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Entry>, Error> {
        match self {
            Store::Rocks(store) => store.scan(family, from, limit, true),
            Store::Memory(store) => Ok(store.scan(family, from, limit, true)),
        }
    }

    /// Hands every entry of a family to `each`, ascending.
    ///
    /// # Errors
    /// When the store cannot be read, and what `each` says.
    pub fn each<E: From<Error>>(
        &self,
        family: Family,
        mut each: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut from = Vec::new();
        loop {
            let entries = self.ascending(family, &from, EACH_AT_A_TIME)?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            from = [last.as_slice(), &[0]].concat();
            for (key, value) in entries {
                each(key, value)?;
            }
        }
    }

    /// Entries from a key downwards, the key itself included, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn descending(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Entry>, Error> {
        match self {
            Store::Rocks(store) => store.scan(family, from, limit, false),
            Store::Memory(store) => Ok(store.scan(family, from, limit, false)),
        }
    }

    /// A copy as of now in a new folder; cheap, because files are shared.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn checkpoint(&self, into: &std::path::Path) -> Result<(), Error> {
        match self {
            Store::Rocks(store) => store.checkpoint(into),
            Store::Memory(_) => {
                Err(Error::Io { path: into.to_owned(), detail: "a store in memory has no files".into() })
            }
        }
    }

    /// Whether something read so far was not what was written: the store has to
    /// be set aside and made again.
    pub fn is_damaged(&self) -> bool {
        match self {
            Store::Rocks(store) => store.is_damaged(),
            Store::Memory(_) => false,
        }
    }

    /// How many keys a family holds, about.
    pub fn estimated_keys(&self, family: Family) -> u64 {
        match self {
            Store::Rocks(store) => store.estimated_keys(family),
            Store::Memory(store) => store.keys(family),
        }
    }

    pub fn size_bytes(&self) -> u64 {
        match self {
            Store::Rocks(store) => store.size_bytes(),
            Store::Memory(store) => store.size_bytes(),
        }
    }
}

#[cfg(test)]
mod tests;
