//! Compares the decisions of topic `decisions` with those that are made now.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{Error, JournalReader, Source};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_log::{Record, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, ID_HEADER, SOURCE_HEADER};

/// How many journal offsets out of order a decision may stand in the topic: one whose
/// append failed was written again later.
const MAX_DISORDER: u64 = 50_000;
/// How many compared ids are remembered, so that a second copy is not taken for another
/// decision.
const REMEMBERED: usize = 50_000;
/// How far the clocks of the processes that wrote may be apart from the log's.
const CLOCKS_APART: Millis = 10 * MINUTE;
/// How long the engine that serves may take to decide the newest records.
const ENGINE_WAIT: Duration = Duration::from_secs(5);

/// How decisions of a stretch of the journal compare with those on record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Byte for byte.
    pub same: u64,
    pub changed: u64,
    pub only_recorded: u64,
    pub only_replayed: u64,
    /// Retention has removed them from the topic.
    pub no_longer_recorded: u64,
    /// The engine that serves has not decided them yet.
    pub not_yet_recorded: u64,
}

impl Compared {
    pub fn add(&mut self, other: &Compared) {
        self.same += other.same;
        self.changed += other.changed;
        self.only_recorded += other.only_recorded;
        self.only_replayed += other.only_replayed;
        self.no_longer_recorded += other.no_longer_recorded;
        self.not_yet_recorded += other.not_yet_recorded;
    }

    pub fn differences(&self) -> u64 {
        self.changed + self.only_recorded + self.only_replayed
    }
}

/// A decision that differs from the one on record.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The journal record that was decided.
    pub offset: u64,
    pub recorded: Option<Bytes>,
    pub replayed: Option<Bytes>,
}

/// The decisions of a partition, read beside the journal.
pub struct Recorded {
    partition: u32,
    journal_reader: JournalReader,
    /// Decisions that were read and not yet compared, by their ids.
    unmatched: HashMap<Bytes, RecordedDecision>,
    /// Decisions on journal records below this offset are not looked at.
    from: u64,
    /// Decisions on journal records below this offset are gone from the topic.
    floor: u64,
    /// The smallest source that has been read.
    lowest: Option<u64>,
    /// The largest source that has been read.
    furthest: u64,
    compared: RecentIds,
    /// Whether the engine that serves is still waited for.
    waits_for_engine: bool,
}

/// A decision of the topic.
struct RecordedDecision {
    /// The offset of the journal record behind it.
    source: u64,
    value: Bytes,
}

/// The ids that were compared last, at most [`REMEMBERED`].
#[derive(Default)]
struct RecentIds {
    ids: HashSet<Bytes>,
    oldest_first: VecDeque<Bytes>,
}

impl RecentIds {
    fn insert(&mut self, id: Bytes) {
        self.oldest_first.push_back(id.clone());
        self.ids.insert(id);
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl Recorded {
    /// The decisions of journal records from the offset `from` on; the record there
    /// was appended at `time`.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn open(source: &Source, partition: u32, from: u64, time: Millis) -> Result<Recorded, Error> {
        let at = TopicPartition { topic: Topic::Decisions, partition };
        let bounds = source.bounds(at)?;
        let begins = if time == 0 { bounds.start } else { source.offset_at(at, time - CLOCKS_APART)? };
        let journal_reader = source.journal_reader(at, begins.clamp(bounds.start, bounds.end));
        let mut recorded = Recorded {
            partition,
            journal_reader,
            unmatched: HashMap::new(),
            from,
            floor: 0,
            lowest: None,
            furthest: 0,
            compared: RecentIds::default(),
            waits_for_engine: true,
        };
        if bounds.start > 0 && begins <= bounds.start {
            while recorded.lowest.is_none() && recorded.read()? {}
            recorded.floor = recorded.lowest.unwrap_or(u64::MAX);
        }
        Ok(recorded)
    }

    /// Whether anything is on record from the journal's record at `from` on.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn goes_on(&mut self) -> Result<bool, Error> {
        while self.unmatched.is_empty() && self.read()? {}
        Ok(!self.unmatched.is_empty())
    }

    /// Reads on in the topic; returns whether there was anything to read.
    fn read(&mut self) -> Result<bool, Error> {
        let records = self.journal_reader.read()?;
        for record in &records {
            let Some((id, RecordedDecision { source, value })) = decision(record, self.partition) else { continue };
            self.lowest = Some(self.lowest.map_or(source, |lowest| lowest.min(source)));
            self.furthest = self.furthest.max(source);
            if source >= self.from && !self.compared.ids.contains(&id) {
                self.unmatched.entry(id).or_insert(RecordedDecision { source, value });
            }
        }
        Ok(!records.is_empty())
    }

    /// Compares a decision that the journal record at `offset` leads to now, and counts it.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn compare(
        &mut self,
        offset: u64,
        id: &str,
        value: &Bytes,
        counts: &mut Compared,
    ) -> Result<Option<Difference>, Error> {
        let id = Bytes::copy_from_slice(id.as_bytes());
        if offset < self.floor {
            counts.no_longer_recorded += 1;
            return Ok(None);
        }
        let started = std::time::Instant::now();
        let found = loop {
            if let Some(found) = self.unmatched.remove(&id) {
                break Some(found.value);
            }
            if self.furthest > offset.saturating_add(MAX_DISORDER) {
                break None;
            }
            if !self.read()? {
                if self.furthest > offset {
                    break None;
                }
                if !self.waits_for_engine || started.elapsed() > ENGINE_WAIT {
                    // No engine is at work, so waiting for the next decisions is of no use.
                    self.waits_for_engine = false;
                    counts.not_yet_recorded += 1;
                    return Ok(None);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        self.compared.insert(id);
        match found {
            Some(found) if found == *value => {
                counts.same += 1;
                Ok(None)
            }
            found => {
                let kind = if found.is_some() { &mut counts.changed } else { &mut counts.only_replayed };
                *kind += 1;
                Ok(Some(Difference { offset, recorded: found, replayed: Some(value.clone()) }))
            }
        }
    }

    /// Drops decisions on journal records below `next`, which were compared before.
    pub fn forget(&mut self, next: u64) {
        self.unmatched.retain(|_, decision| decision.source >= next);
        self.from = next;
    }

    /// The journal has been replayed below `next`: returns the recorded decisions on those
    /// records that are not made now.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn passed(&mut self, next: u64, counts: &mut Compared) -> Result<Vec<Difference>, Error> {
        // `compare` has read only as far as the decisions that are made now.
        while self.furthest < next && self.read()? {}
        let mut gone: Vec<Difference> = Vec::new();
        self.unmatched.retain(|_, RecordedDecision { source, value }| {
            if *source < next {
                gone.push(Difference { offset: *source, recorded: Some(value.clone()), replayed: None });
            }
            *source >= next
        });
        self.from = next;
        gone.sort_by_key(|difference| difference.offset);
        counts.only_recorded += gone.len() as u64;
        Ok(gone)
    }
}

/// The id and the decision of a record, if it comes from this partition's journal.
fn decision(record: &Record, partition: u32) -> Option<(Bytes, RecordedDecision)> {
    let source = topics::Source::parse(record.header(SOURCE_HEADER)?)?;
    if source.partition != partition {
        return None;
    }
    let decision = RecordedDecision { source: source.offset, value: record.value.clone()? };
    Some((record.header(ID_HEADER)?.clone(), decision))
}
