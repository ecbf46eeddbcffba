//! The store on RocksDB.

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Direction, ErrorKind,
    IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteBufferManager, properties,
};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::batch::{Batch, Change, Entry, Error, Family};
use super::contents::{self, Contents, Notes};
use super::log_files;

/// How often at most the contents of a store are noted.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Fewer bytes are not worth a table of their own.
const LEAST_FLUSHED: u64 = 1 << 20;

/// What all stores of a process share, so that their number does not multiply memory.
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
    /// `memory_bytes` bounds the block cache and write buffers of all stores together.
    pub fn new(memory_bytes: usize) -> Shared {
        let cache = Cache::new_lru_cache(memory_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(memory_bytes / 2, false, cache.clone());
        Shared { cache, buffers }
    }

    /// Sets another bound; blocks beyond it are evicted.
    pub fn set_capacity(&self, memory_bytes: usize) {
        self.cache.clone().set_capacity(memory_bytes);
        self.buffers.set_buffer_size(memory_bytes / 2);
    }

    /// Bytes of write buffers.
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.get_usage()
    }

    /// Bytes of the block cache and write buffers.
    pub fn memory_bytes(&self) -> usize {
        self.cache.get_usage()
    }
}

pub struct Rocks {
    db: DB,
    path: PathBuf,
    families: &'static [Family],
    /// `None` in a copy, which is only read.
    notes: Option<Mutex<(Notes, Instant)>>,
    /// `None` in a copy.
    buffers: Option<WriteBufferManager>,
    damaged: AtomicBool,
    /// Whether a write has failed: RocksDB takes no other before it is opened again.
    closed: AtomicBool,
}

impl std::fmt::Debug for Rocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rocks({})", self.path.display())
    }
}

/// What a store is opened from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenMode {
    New,
    /// Write-ahead logs must follow each other without a gap.
    Existing,
    /// A copy has no write-ahead log that the next one could follow.
    Copy,
}

impl Rocks {
    /// Opens a store, or creates one in a folder that has none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the store is not what was written: a checksum fails, or
    /// something is missing.
    pub fn open(path: &Path, families: &'static [Family], shared: &Shared) -> Result<Rocks, Error> {
        let io = |e: std::io::Error| Error::io(path, e);
        std::fs::create_dir_all(path).map_err(io)?;
        let is_new = contents::is_unused(path).map_err(io)?;
        if is_new {
            contents::clear(path).map_err(io)?;
        } else if !contents::has_log(path).map_err(io)? {
            // RocksDB begins a write-ahead log when it opens a store, and checks that the
            // next one follows it only where it knows one. A copy has none, so it is opened
            // once before.
            drop(Rocks::open_with(path, families, shared, OpenMode::Copy)?);
        }
        let mode = if is_new { OpenMode::New } else { OpenMode::Existing };
        Rocks::open_with(path, families, shared, mode)
    }

    fn open_with(path: &Path, families: &'static [Family], shared: &Shared, mode: OpenMode) -> Result<Rocks, Error> {
        let (is_new, follows) = (mode == OpenMode::New, mode != OpenMode::Copy);
        // Files take only the bytes that they contain: with two stores for each partition,
        // preallocated space would fill a small disk by itself.
        let standard = format!("allow_fallocate=false;track_and_verify_wals={follows}");
        let mut options = Options::default().get_options_from_string(standard).map_err(|e| error(path, e))?;
        options.set_manifest_preallocation_size(64 << 10);
        options.create_if_missing(is_new);
        options.create_missing_column_families(true);
        // Families are flushed together, so that whatever a crash or a damaged file leaves
        // of the newest changes is a state that existed, with no family ahead of another.
        options.set_atomic_flush(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_manager(&shared.buffers);
        options.set_max_open_files(256);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(64 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        if !is_new {
            check(path, families, &options)?;
        }
        let descriptor = |f: &Family| ColumnFamilyDescriptor::new(f.name(), family_options(shared, f.is_probed()));
        let unused = ColumnFamilyDescriptor::new("default", family_options(shared, false));
        let descriptors = families.iter().map(descriptor).chain([unused]);
        let opened = DB::open_cf_descriptors(&options, path, descriptors);
        let db = opened.map_err(|e| if is_new { error(path, e) } else { opening_error(path, e) })?;
        let mut rocks = Rocks::of(db, path, families);
        rocks.buffers = Some(shared.buffers.clone());
        rocks.check_tables()?;
        let names = families.iter().map(|family| family.name().to_owned()).collect();
        match Notes::begin(path, names) {
            Ok(notes) => rocks.notes = Some(Mutex::new((notes, Instant::now()))),
            Err(error) => rocks.not_noted(&error),
        }
        Ok(rocks)
    }

    fn of(db: DB, path: &Path, families: &'static [Family]) -> Rocks {
        let (damaged, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Rocks { db, path: path.to_owned(), families, notes: None, buffers: None, damaged, closed }
    }

    /// Opens a copy for reading.
    ///
    /// # Errors
    /// As [`Rocks::open`].
    pub fn open_read_only(path: &Path, families: &'static [Family]) -> Result<Rocks, Error> {
        check(path, families, &Options::default())?;
        let names = families.iter().map(|f| f.name()).chain(["default"]);
        let opened = DB::open_cf_for_read_only(&Options::default(), path, names, false);
        let db = opened.map_err(|e| opening_error(path, e))?;
        let rocks = Rocks::of(db, path, families);
        rocks.check_tables()?;
        Ok(rocks)
    }

    /// Whether something read so far was not what was written.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Whether a write has failed. RocksDB may take no more until it is opened again.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Checks that every table of the store exists with its full length. RocksDB checks a
    /// table only when it first reads it.
    fn check_tables(&self) -> Result<(), Error> {
        let listed = || self.db.live_files().map_err(|e| self.failed(e));
        for table in listed()? {
            let name = table.name.trim_start_matches('/');
            let detail = match std::fs::metadata(self.path.join(name)) {
                Ok(found) if found.len() == table.size as u64 => continue,
                Ok(found) => format!("{name} has {} bytes, and had {}", found.len(), table.size),
                Err(error) if is_gone(&error) => format!("{name}: {error}"),
                Err(error) => return Err(Error::io(&self.path, error)),
            };
            // It may have been merged into another since it was listed.
            if listed()?.iter().any(|listed| listed.name == table.name) {
                return Err(Error::damaged(&self.path, detail));
            }
        }
        Ok(())
    }

    /// Reads every entry, which compares the checksum of every block.
    ///
    /// # Errors
    /// [`Error::Damaged`] when something is not what was written.
    pub fn verify(&self) -> Result<(), Error> {
        for family in self.families {
            let mut read = ReadOptions::default();
            read.set_verify_checksums(true);
            read.fill_cache(false);
            for entry in self.db.iterator_cf_opt(self.handle(*family), read, IteratorMode::Start) {
                entry.map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }

    /// Notes the contents of the store, if they have changed and the last look was some
    /// time ago.
    fn note(&self, at_once: bool) {
        let Some(notes) = &self.notes else { return };
        let mut notes = notes.lock().expect("no panic holds this lock");
        if !at_once && notes.1.elapsed() < NOTE_EVERY {
            return;
        }
        notes.1 = Instant::now();
        if let Err(error) = notes.0.refresh() {
            drop(notes);
            self.not_noted(&error);
        }
    }

    /// The older note stays valid; it only covers less.
    fn not_noted(&self, error: &std::io::Error) {
        tracing::warn!(%error, store = %self.path.display(), "what the store contains could not be noted");
    }

    fn failed(&self, found: rocksdb::Error) -> Error {
        let found = error(&self.path, found);
        if matches!(found, Error::Damaged { .. }) {
            self.damaged.store(true, Ordering::Release);
        }
        found
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
        self.db.get_cf(self.handle(family), key).map_err(|e| self.failed(e))
    }

    pub fn write(&self, mut batch: Batch) -> Result<(), Error> {
        batch.sort();
        let mut out = WriteBatch::with_capacity_bytes(batch.len_bytes());
        for change in batch.changes {
            match change {
                Change::Put(family, key, value) => out.put_cf(self.handle(family), key, value),
                Change::Delete(family, key) => out.delete_cf(self.handle(family), key),
                Change::DeleteRange(family, from, to) => out.delete_range_cf(self.handle(family), from, to),
            }
        }
        self.db.write(out).map_err(|e| {
            self.closed.store(true, Ordering::Release);
            self.failed(e)
        })?;
        self.flush_beyond_the_bound();
        self.note(false);
        Ok(())
    }

    /// Flushes write buffers that exceed the bound. RocksDB checks the bound of all stores
    /// only before a write, and flushes the store that it writes to; what a large batch
    /// leaves in a store without further writes would stay in memory.
    fn flush_beyond_the_bound(&self) {
        let Some(buffers) = &self.buffers else { return };
        if buffers.get_usage() <= buffers.get_buffer_size() {
            return;
        }
        let handles: Vec<&ColumnFamily> = self.families.iter().map(|family| self.handle(*family)).collect();
        let buffered = |handle: &&ColumnFamily| {
            self.db.property_int_value_cf(handle, properties::CUR_SIZE_ACTIVE_MEM_TABLE).ok().flatten()
        };
        if handles.iter().filter_map(buffered).sum::<u64>() < LEAST_FLUSHED {
            return;
        }
        let mut flush = rocksdb::FlushOptions::default();
        flush.set_wait(false);
        if let Err(error) = self.db.flush_cfs_opt(&handles, &flush) {
            // The next write fails with the same cause.
            tracing::debug!(%error, store = %self.path.display(), "the write buffers were not flushed");
        }
    }

    /// See [`Store::ascending`](crate::Store::ascending).
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn ascending(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let upwards = IteratorMode::From(from, Direction::Forward);
        for entry in self.db.iterator_cf(self.handle(family), upwards).take(limit) {
            let (key, value) = entry.map_err(|e| self.failed(e))?;
            entries.push((key.into_vec(), value.into_vec()));
        }
        Ok(entries)
    }

    /// See [`Store::ascend`](crate::Store::ascend).
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn ascend(&self, family: Family, from: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        let mut entries = self.db.raw_iterator_cf(self.handle(family));
        entries.seek(from);
        while let Some((key, value)) = entries.item() {
            if !each(key, value) {
                return Ok(());
            }
            entries.next();
        }
        entries.status().map_err(|e| self.failed(e))
    }

    /// See [`Store::descend`](crate::Store::descend).
    ///
    /// # Errors
    /// When the store cannot be read or is damaged.
    pub fn descend(
        &self,
        family: Family,
        from: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        let mut entries = self.db.raw_iterator_cf(self.handle(family));
        entries.seek_for_prev(from);
        while let Some((key, value)) = entries.item() {
            if !each(key, value) {
                return Ok(());
            }
            entries.prev();
        }
        entries.status().map_err(|e| self.failed(e))
    }

    /// Flushes write buffers to tables.
    #[cfg(test)]
    pub fn flush(&self) -> Result<(), Error> {
        let handles: Vec<&ColumnFamily> = self.families.iter().map(|family| self.handle(*family)).collect();
        self.db.flush_cfs_opt(&handles, &rocksdb::FlushOptions::default()).map_err(|e| self.failed(e))
    }

    pub fn estimated_keys(&self, family: Family) -> u64 {
        let known = self.db.property_int_value_cf(self.handle(family), properties::ESTIMATE_NUM_KEYS);
        known.ok().flatten().unwrap_or(0)
    }

    pub fn size_bytes(&self) -> u64 {
        let live = |family: &Family| {
            let handle = self.db.cf_handle(family.name())?;
            self.db.property_int_value_cf(handle, properties::TOTAL_SST_FILES_SIZE).ok()?
        };
        self.families.iter().filter_map(live).sum()
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        self.note(true);
    }
}

/// Compares a store that is not open with its note.
fn check(path: &Path, families: &'static [Family], options: &Options) -> Result<(), Error> {
    let contradicted = |found: contents::Error| match &found {
        // That a file cannot be read at the moment does not mean that it is damaged.
        contents::Error::Io { source, .. } if !is_gone(source) => Error::io(path, found),
        _ => Error::damaged(path, found),
    };
    contents::current(path).map_err(contradicted)?;
    let noted = Contents::read(path).map_err(contradicted)?;
    if let Some(noted) = &noted {
        noted.check(path).map_err(contradicted)?;
    }
    let unreadable = log_files::unreadable(path)
        .map_err(|found| if is_gone(&found) { Error::damaged(path, found) } else { Error::io(path, found) })?;
    if let Some((file, at)) = unreadable {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        return Err(Error::damaged(path, format!("{name} holds no record at byte {at} where one begins")));
    }
    // A missing family would be created anew, and empty.
    let there = DB::list_cf(options, path).map_err(|e| opening_error(path, e))?;
    let must_be_there = |family: &&Family| match &noted {
        Some(noted) => noted.families.iter().any(|name| name == family.name()),
        None => family.is_original(),
    };
    let is_lost = |family: &&Family| !there.iter().any(|name| name == family.name());
    let lost = families.iter().filter(must_be_there).find(is_lost).map(|family| family.name());
    lost.map_or(Ok(()), |lost| Err(Error::damaged(path, format!("the column family {lost} is missing"))))
}

/// Part of a write buffer for the filter of its keys: 24 bits for each row of 300 bytes.
const MEMTABLE_BLOOM_RATIO: f64 = 0.01;

fn family_options(shared: &Shared, is_probed: bool) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&shared.cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(16 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    if is_probed {
        options.set_memtable_whole_key_filtering(true);
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
    }
    options
}

/// Whether a file does not exist, or is not a file. Every other reason why it cannot be
/// opened or read (permissions, open files, memory, a failing disk) may pass, and its
/// contents may be sound.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | IsADirectory | NotADirectory | UnexpectedEof | InvalidData)
}

/// The error for a store that exists and cannot be opened: a missing or foreign file is
/// damage.
fn opening_error(path: &Path, found: rocksdb::Error) -> Error {
    if is_of_the_system(&found) {
        return Error::io(path, found);
    }
    match found.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidArgument | ErrorKind::IOError => Error::damaged(path, found),
        _ => error(path, found),
    }
}

/// Whether RocksDB reports a failure of the system, even when it calls the file corrupt
/// because of it: "Corruption: Can't access …: IO error: … Too many open files".
fn is_of_the_system(found: &rocksdb::Error) -> bool {
    let text = found.as_ref();
    let is_told = found.kind() == ErrorKind::IOError || text.contains("IO error");
    is_told
        && !["No such file or directory", "Is a directory", "Not a directory"].iter().any(|gone| text.contains(gone))
}

fn error(path: &Path, error: rocksdb::Error) -> Error {
    let damaged = error.kind() == ErrorKind::Corruption && !is_of_the_system(&error);
    if damaged { Error::damaged(path, error) } else { Error::io(path, error) }
}
