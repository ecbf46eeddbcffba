//! The store on RocksDB.

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Direction, ErrorKind,
    IteratorMode, LogLevel, Options, WriteBatch, WriteBufferManager, properties,
};
use std::path::{Path, PathBuf};

use super::{Batch, Change, Entry, Error, Family};

/// What all stores of a process share, so that their number costs no memory.
#[derive(Clone)]
pub struct Shared {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// `memory_bytes` bounds blocks and write buffers of all stores together.
    pub fn new(memory_bytes: usize) -> Shared {
        let cache = Cache::new_lru_cache(memory_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(memory_bytes / 2, false, cache.clone());
        Shared { cache, buffers }
    }
}

pub struct Rocks {
    db: DB,
    path: PathBuf,
    families: &'static [Family],
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rocks({})", self.path.display())
    }
}

impl Rocks {
    /// # Errors
    /// [`Error::Damaged`] when what is there fails its checksums.
    pub fn open(path: &Path, families: &'static [Family], shared: &Shared) -> Result<Rocks, Error> {
        // Files take what they hold and no more: with two stores a partition,
        // room set aside beforehand would fill a small disk by itself.
        let standard = Options::default().get_options_from_string("allow_fallocate=false");
        let mut options = standard.map_err(|e| error(path, e))?;
        options.set_manifest_preallocation_size(64 << 10);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_manager(&shared.buffers);
        options.set_max_open_files(256);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(64 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        let names = families.iter().map(|f| f.name()).chain(["default"]);
        let descriptors = names.map(|name| ColumnFamilyDescriptor::new(name, family_options(shared)));
        let db = DB::open_cf_descriptors(&options, path, descriptors).map_err(|e| error(path, e))?;
        Ok(Rocks { db, path: path.to_owned(), families })
    }

    /// For looking into a copy; nothing is written.
    ///
    /// # Errors
    /// As [`Rocks::open`].
    pub fn open_read_only(path: &Path, families: &'static [Family]) -> Result<Rocks, Error> {
        let names = families.iter().map(|f| f.name()).chain(["default"]);
        let db = DB::open_cf_for_read_only(&Options::default(), path, names, false).map_err(|e| error(path, e))?;
        Ok(Rocks { db, path: path.to_owned(), families })
    }

    pub fn checkpoint(&self, into: &Path) -> Result<(), Error> {
        let made = Checkpoint::new(&self.db).and_then(|checkpoint| checkpoint.create_checkpoint(into));
        made.map_err(|e| error(into, e))
    }

    fn handle(&self, family: Family) -> &ColumnFamily {
        debug_assert!(self.families.contains(&family), "{family:?} is not a family of this store");
        self.db.cf_handle(family.name()).expect("opened with its families")
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.handle(family), key).map_err(|e| error(&self.path, e))
    }

    pub fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut out = WriteBatch::default();
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => out.put_cf(self.handle(family), key, value),
                Change::Delete(family, key) => out.delete_cf(self.handle(family), key),
                Change::DeleteRange(family, from, to) => out.delete_range_cf(self.handle(family), from, to),
            }
        }
        self.db.write(out).map_err(|e| error(&self.path, e))
    }

    pub fn scan(&self, family: Family, from: &[u8], limit: usize, up: bool) -> Result<Vec<Entry>, Error> {
        let direction = if up { Direction::Forward } else { Direction::Reverse };
        let mut entries = Vec::new();
        for entry in self.db.iterator_cf(self.handle(family), IteratorMode::From(from, direction)).take(limit) {
            let (key, value) = entry.map_err(|e| error(&self.path, e))?;
            entries.push((key.into_vec(), value.into_vec()));
        }
        Ok(entries)
    }

    pub fn size_bytes(&self) -> u64 {
        let live = |family: &Family| {
            let handle = self.db.cf_handle(family.name())?;
            self.db.property_int_value_cf(handle, properties::TOTAL_SST_FILES_SIZE).ok()?
        };
        self.families.iter().filter_map(live).sum()
    }
}

fn family_options(shared: &Shared) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&shared.cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(16 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn error(path: &Path, error: rocksdb::Error) -> Error {
    let damaged = error.kind() == ErrorKind::Corruption;
    let (path, detail) = (path.to_owned(), error.into_string());
    if damaged { Error::Damaged { path, detail } } else { Error::Io { path, detail } }
}
