//! Makes the state once more in a folder of its own, from the journal, and compares the
//! decisions on the way with those on record. A run can be stopped at any moment and
//! goes on from its last checkpoint; the finished state can take the place of the one
//! that serves.

mod estimate;
mod folder;
mod notes;
mod options;
mod plan;
mod run;

use crate::engine::families;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, Source, StartingState};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::{LOGIC_VERSION, goes_on_from};
use askwhen_log::TopicPartition;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_process::clock::Clock;
use askwhen_store::{Batch, Store};
use askwhen_wire::topic::Topic;
use estimate::begin;
use folder::{LOCK, PLAN, lock, none, refuse_foreign, remove, store_path, write_durably};
use notes::{COUNTS, Counts, OPEN, load};
use plan::{AnyVersionPlan, FORMAT, ReplayPlan, ReplayStart};

pub use estimate::plan;
pub use options::{RunOptions, RunReport};

/// The folder of a replay, locked for as long as this lives.
pub struct Shadow {
    dir: PathBuf,
    plan: ReplayPlan,
    _lock: File,
}

impl Shadow {
    /// Opens the replay that is in a folder, or begins one there: with the state before
    /// `from`, or the earliest that can be had.
    ///
    /// # Errors
    /// When it is in use, when it is of another log or another logic, or when there
    /// is nothing to begin with.
    pub fn open_or_begin(source: &Source, dir: &Path, from: Option<Millis>) -> Result<Shadow, Error> {
        let made = fs::create_dir_all(dir);
        made.map_err(|e| Error::usage(format!("{} cannot hold a replay: {e}", dir.display())))?;
        refuse_foreign(dir)?;
        let lock = lock(dir)?;
        if dir.join(PLAN).exists() {
            if from.is_some() {
                return Err(Error::usage(format!(
                    "{} holds a replay that has begun: run it without --from, or end it with `askwhen replay abort`",
                    dir.display()
                )));
            }
            return Shadow::read(source, dir, lock);
        }
        let mut begins = Vec::new();
        for partition in 0..source.partitions {
            let path = store_path(dir, partition);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            let StartingState { store, meta, snapshot } = begin(source, partition, from, &path)?;
            let mut batch = Batch::default();
            meta.save(&mut batch);
            store.write(batch)?;
            let snapshot = snapshot.map(|manifest| manifest.name());
            begins.push(ReplayStart { offset: meta.next, snapshot });
        }
        let plan = ReplayPlan {
            id: uuid::Uuid::now_v7().simple().to_string(),
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: format!("{:032x}", source.incarnation),
            partitions: source.partitions,
            logic_version: LOGIC_VERSION,
            begun_at: time::format_time(Clock::new().wall()),
            begins,
        };
        fs::create_dir_all(dir.join("differences"))?;
        write_durably(&dir.join(PLAN), &serde_json::to_vec_pretty(&plan).expect("a plan serialises"))?;
        Ok(Shadow { dir: dir.to_owned(), plan, _lock: lock })
    }

    /// Opens the replay that is in a folder.
    ///
    /// # Errors
    /// When there is none, and as [`Shadow::open_or_begin`].
    pub fn open(source: &Source, dir: &Path) -> Result<Shadow, Error> {
        if !dir.join(PLAN).exists() {
            return Err(none(dir));
        }
        Shadow::read(source, dir, lock(dir)?)
    }

    fn read(source: &Source, dir: &Path, lock: File) -> Result<Shadow, Error> {
        let path = dir.join(PLAN);
        let (bytes, unreadable) =
            (fs::read(&path)?, |e: serde_json::Error| Error::refused(format!("{}: {e}", path.display())));
        let AnyVersionPlan { format, program } = serde_json::from_slice(&bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(Error::refused(format!(
                "the replay in {} was begun by askwhen {program} (format {format}), and this is askwhen {}, which \
                 reads formats up to {FORMAT}: go on with that version, or end it with `askwhen replay abort`",
                dir.display(),
                env!("CARGO_PKG_VERSION")
            )));
        }
        let plan: ReplayPlan = serde_json::from_slice(&bytes).map_err(unreadable)?;
        let own = (format!("{:032x}", source.incarnation), source.partitions);
        if (&plan.incarnation, plan.partitions) != (&own.0, own.1) {
            return Err(Error::refused(format!("the replay in {} is of another log", dir.display())));
        }
        if !goes_on_from(plan.logic_version) {
            return Err(Error::refused(format!(
                "the replay in {} was begun by a program with logic version {}, this one has {LOGIC_VERSION}: end it \
                 with `askwhen replay abort` and begin anew",
                dir.display(),
                plan.logic_version
            )));
        }
        Ok(Shadow { dir: dir.to_owned(), plan, _lock: lock })
    }

    /// Names this replay among all.
    pub fn id(&self) -> &str {
        &self.plan.id
    }

    /// The store of a partition, and its checkpoint.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn store(&self, source: &Source, partition: u32) -> Result<(Arc<Store>, CheckpointMeta), Error> {
        let store = source.store(&store_path(&self.dir, partition))?;
        let meta = CheckpointMeta::load(&store)?.ok_or_else(|| {
            Error::refused(format!("{} holds no checkpoint", store_path(&self.dir, partition).display()))
        })?;
        Ok((store, meta))
    }

    /// The folder with a store for each partition.
    pub fn stores_dir(&self) -> PathBuf {
        self.dir.join("engine")
    }

    fn differences_path(&self, partition: u32) -> PathBuf {
        self.dir.join("differences").join(format!("{partition}.ndjson"))
    }

    /// The JSON of `askwhen replay report`: how far each partition is, and how its decisions
    /// compare.
    ///
    /// # Errors
    /// When the shadow cannot be read.
    pub fn report(&self, source: &Source) -> Result<Value, Error> {
        let mut total = Counts::default();
        let mut rows = Vec::new();
        for (partition, beginning) in (0..).zip(&self.plan.begins) {
            let (store, meta) = self.store(source, partition)?;
            let counts: Counts = load(&store, COUNTS)?;
            let end = source.bounds(TopicPartition { topic: Topic::Events, partition })?.end;
            total.records += counts.records;
            total.compared.add(&counts.compared);
            rows.push(json!({
                "partition": partition,
                "from": beginning.offset,
                "snapshot": beginning.snapshot,
                "next": meta.next,
                "end": end,
                "decisions": counts.compared,
            }));
        }
        Ok(json!({
            "begun_at": self.plan.begun_at,
            "logic_version": self.plan.logic_version,
            "records": total.records,
            "decisions": total.compared,
            "differences": total.compared.differences(),
            "partitions": rows,
        }))
    }

    /// Calls `each` with every difference that is kept, by partition and offset. All are
    /// counted; of each partition a bounded number is kept.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn differences(&self, mut each: impl FnMut(Value)) -> Result<(), Error> {
        for partition in 0..self.plan.partitions {
            let Ok(file) = File::open(self.differences_path(partition)) else { continue };
            for line in BufReader::new(file).lines() {
                each(serde_json::from_str(&line?).map_err(Error::failed)?);
            }
        }
        Ok(())
    }

    /// Removes the replay in a folder, unless it is of another log than `own`.
    ///
    /// # Errors
    /// When there is none, when it is another's or in use, or cannot be removed.
    pub fn abort(dir: &Path, own: Option<u128>) -> Result<(), Error> {
        if !dir.join(LOCK).exists() {
            return Err(none(dir));
        }
        let _lock = lock(dir)?;
        let plan = fs::read(dir.join(PLAN)).ok().and_then(|bytes| serde_json::from_slice::<ReplayPlan>(&bytes).ok());
        let own = own.map(|incarnation| format!("{incarnation:032x}"));
        if let (Some(plan), Some(own)) = (plan, own)
            && plan.incarnation != own
        {
            return Err(Error::refused(format!("the replay in {} is of another log", dir.display())));
        }
        remove(dir)
    }

    /// Removes the replay, once its state has taken the place of the one that serves.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.dir)
    }
}

/// Removes the replay's counts from a store that is about to serve.
pub fn forget_counts(batch: &mut Batch) {
    batch.delete(families::META, COUNTS);
    batch.delete(families::META, OPEN);
}
