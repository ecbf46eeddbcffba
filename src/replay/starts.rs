//! The states that explanations begin with. A process that owns a partition copies its newest
//! state; for the past, and in other processes, a snapshot is restored. Both are kept: the next
//! explanation then costs the records behind the state.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::look_ahead::LookAhead;
use super::source::Usable;
use super::{Error, Source, StartingState};
use askwhen_domain::time::Millis;
use askwhen_log::TopicPartition;
use askwhen_partition::admission::Admission;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_store::Store;
use askwhen_store::snapshot::Manifest;
use askwhen_wire::topic::Topic;

/// How many states are kept of a partition: the newest, and one of the past.
const KEPT_OF_PARTITION: usize = 2;
/// The most bytes of snapshots that are kept; the last used one always is.
const KEPT_BYTES: u64 = 1 << 30;
/// A kept state is taken where a newer snapshot is not further ahead than so many records:
/// to go past them is cheaper than to restore it.
const PASSED_RECORDS: u64 = 50_000;
/// A kept state is taken for the present when it is not further behind the journal's end.
const NEAR_END_RECORDS: u64 = 1_000;
/// How long the list of a partition's snapshots counts as current.
const LISTED_FOR: Duration = Duration::from_secs(60);

/// A state, and what is known of the journal behind it.
pub struct Start {
    pub state: StartingState,
    /// How many records are between the snapshot and the state.
    pub records: u64,
    len_bytes: u64,
    ahead: Mutex<LookAhead>,
    /// Holds the store. It is removed after the last user of the store has gone.
    _folder: TempDir,
}

/// The state that a partition of this process has.
pub struct StateCopy {
    /// It is read only.
    pub store: Arc<Store>,
    pub meta: CheckpointMeta,
    /// Holds the store.
    pub folder: TempDir,
    pub len_bytes: u64,
}

/// Copies the newest state of a partition whose journal ends at an offset to a folder; `None`
/// where this process does not have it.
pub type CopyState = Box<dyn Fn(u32, u64, TempDir) -> Result<Option<StateCopy>, Error> + Send + Sync>;

impl Start {
    /// The rules by which the journal behind the state is applied, and whether it gives a
    /// project quotas or caps.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn look_ahead(&self, source: &Source, project: &str) -> Result<(Admission, bool), Error> {
        let mut ahead = self.ahead.lock().expect("no panic holds this lock");
        ahead.go_on(source)?;
        Ok((ahead.admission.clone(), ahead.limits(project)))
    }
}

/// The states of all partitions that are kept.
#[derive(Default)]
pub struct Starts {
    kept: Mutex<Kept>,
    copy: Option<CopyState>,
}

#[derive(Default)]
struct Kept {
    /// The last used one last.
    starts: Vec<KeptStart>,
    /// The snapshots of a partition, and when they were listed.
    listed: BTreeMap<u32, (Instant, Vec<Manifest>)>,
}

struct KeptStart {
    partition: u32,
    start: Arc<Start>,
}

impl Starts {
    /// Takes the present from copies of the states that this process has.
    pub fn with_copies(copy: CopyState) -> Starts {
        Starts { kept: Mutex::default(), copy: Some(copy) }
    }

    /// The state of a partition before `time`, as [`Source::begin`] finds it, or one that
    /// is kept and a little older. For [`Millis::MAX`] it is the present one of this process
    /// if it has the partition.
    ///
    /// # Errors
    /// As [`Source::begin`].
    pub fn begin(&self, source: &Source, partition: u32, time: Millis) -> Result<Arc<Start>, Error> {
        let mut kept = self.kept.lock().expect("no panic holds this lock");
        let usable = kept.usable(source, partition)?;
        if time == Millis::MAX
            && let Some(start) = self.present(&mut kept, source, partition, &usable)?
        {
            return Ok(start);
        }
        let newest = usable.snapshots.iter().find(|manifest| manifest.subject.created_at <= time);
        let wanted = newest.map_or(0, |manifest| manifest.subject.position);
        if let Some(start) =
            kept.take(partition, time, usable.start.max(wanted.saturating_sub(PASSED_RECORDS))..=wanted)
        {
            return Ok(start);
        }
        let start = source.begin_with(partition, time, usable, |manifest| {
            let folder = source.scratch_folder()?;
            let state = source.open(manifest, time, &folder.path().join("store"))?;
            Ok(state.map(|state| {
                let ahead = Mutex::new(LookAhead::new(source, partition, &state.meta));
                let len_bytes = manifest.map_or(0, Manifest::bytes);
                Arc::new(Start { state, records: 0, len_bytes, ahead, _folder: folder })
            }))
        })?;
        kept.keep(partition, start.clone());
        Ok(start)
    }

    /// The present state of a partition; `None` when this process does not have it.
    fn present(
        &self,
        kept: &mut Kept,
        source: &Source,
        partition: u32,
        usable: &Usable,
    ) -> Result<Option<Arc<Start>>, Error> {
        let Some(copy) = &self.copy else { return Ok(None) };
        let end = source.bounds(TopicPartition { topic: Topic::Events, partition })?.end;
        let near = end.saturating_sub(NEAR_END_RECORDS)..=u64::MAX;
        if let Some(start) = kept.take(partition, Millis::MAX, near) {
            return Ok(Some(start));
        }
        let StateCopy { store, meta, folder, len_bytes } = match copy(partition, end, source.scratch_folder()?) {
            Ok(Some(copied)) => copied,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(partition, %error, "a state cannot be copied; a snapshot is read instead");
                return Ok(None);
            }
        };
        let before = usable.snapshots.iter().find(|manifest| manifest.subject.position <= meta.next);
        let records = meta.next - before.map_or(usable.start, |manifest| manifest.subject.position).min(meta.next);
        let ahead = Mutex::new(LookAhead::new(source, partition, &meta));
        let state = StartingState { store, meta, snapshot: before.cloned() };
        let start = Arc::new(Start { state, records, len_bytes, ahead, _folder: folder });
        // Its tables stay on the disk while it is kept.
        if len_bytes <= KEPT_BYTES {
            kept.keep(partition, start.clone());
        }
        Ok(Some(start))
    }

    /// Forgets what is kept: what could not be read may be missing there.
    pub fn forget(&self) {
        *self.kept.lock().expect("no panic holds this lock") = Kept::default();
    }
}

impl Kept {
    /// Where the journal begins, and the snapshots that it goes on from, the furthest first.
    fn usable(&mut self, source: &Source, partition: u32) -> Result<Usable, Error> {
        if let Some((listed_at, manifests)) = self.listed.get(&partition)
            && listed_at.elapsed() < LISTED_FOR
        {
            let usable = source.usable_of(partition, manifests.clone())?;
            if usable.start == 0 || !usable.snapshots.is_empty() {
                return Ok(usable);
            }
        }
        let usable = source.usable(partition)?;
        self.listed.insert(partition, (Instant::now(), usable.snapshots.clone()));
        Ok(usable)
    }

    /// The furthest state of a partition from before a time whose position is among `positions`.
    fn take(&mut self, partition: u32, time: Millis, positions: RangeInclusive<u64>) -> Option<Arc<Start>> {
        let position = |kept: &KeptStart| kept.start.state.meta.next;
        let fits = |kept: &&KeptStart| {
            kept.partition == partition && kept.start.state.meta.now <= time && positions.contains(&position(kept))
        };
        let found = self.starts.iter().filter(fits).max_by_key(|kept| position(kept))?.start.clone();
        // It is the last used one now.
        self.starts.sort_by_key(|kept| Arc::ptr_eq(&kept.start, &found));
        Some(found)
    }

    fn keep(&mut self, partition: u32, start: Arc<Start>) {
        self.starts.push(KeptStart { partition, start });
        let of_partition = |kept: &KeptStart| kept.partition == partition;
        if self.starts.iter().filter(|kept| of_partition(kept)).count() > KEPT_OF_PARTITION
            && let Some(oldest) = self.starts.iter().position(of_partition)
        {
            self.starts.remove(oldest);
        }
        while self.starts.len() > 1 && self.starts.iter().map(|kept| kept.start.len_bytes).sum::<u64>() > KEPT_BYTES {
            self.starts.remove(0);
        }
    }
}
