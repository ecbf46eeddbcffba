//! The store port: column families of ordered keys, written in atomic batches. There is one
//! store per partition and role, so that it can be dropped, set aside or copied by itself.
//! Nothing in here knows what a value means.

mod batch;
pub mod bucket;
mod contents;
pub mod keys;
mod log_files;
pub mod memory;
pub mod rocks;
pub mod snapshot;

pub use batch::{Batch, Cause, Change, Entry, Error, Family};
pub use memory::Memory;
pub use rocks::{Rocks, Shared};

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
            Store::Memory(store) => store.try_write(batch),
        }
    }

    /// At most `limit` entries from a key on, in ascending order.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn ascending(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Entry>, Error> {
        match self {
            Store::Rocks(store) => store.ascending(family, from, limit),
            Store::Memory(store) => Ok(store.ascending(family, from, limit)),
        }
    }

    /// Passes every entry of a family to `each`, in ascending order.
    ///
    /// # Errors
    /// When the store cannot be read, and errors of `each`.
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

    /// Passes the entries from a key upwards to `each`, that key included, until it returns
    /// false. Entries are not copied, so that going past many is cheap.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn ascend(&self, family: Family, from: &[u8], each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        match self {
            Store::Rocks(store) => store.ascend(family, from, each),
            Store::Memory(store) => {
                store.ascend(family, from, each);
                Ok(())
            }
        }
    }

    /// The same downwards, which costs about three times as much.
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn descend(&self, family: Family, from: &[u8], each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        match self {
            Store::Rocks(store) => store.descend(family, from, each),
            Store::Memory(store) => {
                store.descend(family, from, each);
                Ok(())
            }
        }
    }

    /// Makes a copy of the current state in a new folder; cheap, because files are hard
    /// links.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn checkpoint(&self, into: &std::path::Path) -> Result<(), Error> {
        match self {
            Store::Rocks(store) => store.checkpoint(into),
            Store::Memory(_) => Err(Error::io(into, "a store in memory has no files")),
        }
    }

    /// Whether something read so far was not what was written, so that the store has to be
    /// set aside and rebuilt.
    pub fn is_damaged(&self) -> bool {
        match self {
            Store::Rocks(store) => store.is_damaged(),
            Store::Memory(_) => false,
        }
    }

    /// Whether a write has failed, so that the store has to be opened again before the next
    /// one.
    pub fn is_closed(&self) -> bool {
        match self {
            Store::Rocks(store) => store.is_closed(),
            Store::Memory(store) => store.is_full(),
        }
    }

    /// About how many keys a family has.
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
