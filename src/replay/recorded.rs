//! What was decided, as the topic has it, set beside what is decided now.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{Error, JournalReader, Source};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_log::{Record, TopicPartition};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, ID_HEADER, SOURCE_HEADER};

/// How far behind its place a record may stand: what a failed append left out was
/// written later. In offsets of the journal.
const AHEAD: u64 = 50_000;
/// Ids remembered, to know a copy.
const REMEMBERED: usize = 50_000;
/// Clocks of those who wrote, beside the log's.
const CLOCKS_APART: Millis = 10 * MINUTE;
/// How long an engine at work may take for the newest records.
const PATIENCE: Duration = Duration::from_secs(5);

/// How decisions of a stretch of the journal compare with those on record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// The same, byte for byte.
    pub same: u64,
    pub changed: u64,
    /// Only on record; only decided now.
    pub only_recorded: u64,
    pub only_replayed: u64,
    /// From before the topic's beginning.
    pub no_longer_recorded: u64,
    /// From after its end: the engine has not come so far.
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

/// A decision that is not as it was.
#[derive(Debug, Clone)]
pub struct Difference {
    pub offset: u64,
    pub recorded: Option<Bytes>,
    pub replayed: Option<Bytes>,
}

/// The decisions of a partition, read beside the journal.
pub struct Recorded {
    partition: u32,
    journal_reader: JournalReader,
    /// Read, and not yet met by the journal.
    ahead: HashMap<Bytes, (u64, Bytes)>,
    /// Decisions of journal records below are not looked at.
    from: u64,
    /// Decisions of journal records below are gone from the topic.
    floor: u64,
    /// The smallest and the largest source that has been read.
    lowest: Option<u64>,
    furthest: u64,
    met: (HashSet<Bytes>, VecDeque<Bytes>),
    patient: bool,
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
            ahead: HashMap::new(),
            from,
            floor: 0,
            lowest: None,
            furthest: 0,
            met: Default::default(),
            patient: true,
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
        while self.ahead.is_empty() && self.read()? {}
        Ok(!self.ahead.is_empty())
    }

    /// Whether there was anything to read.
    fn read(&mut self) -> Result<bool, Error> {
        let records = self.journal_reader.read()?;
        for record in &records {
            let Some((id, source, value)) = decision(record, self.partition) else { continue };
            self.lowest = Some(self.lowest.map_or(source, |lowest| lowest.min(source)));
            self.furthest = self.furthest.max(source);
            if source >= self.from && !self.met.0.contains(&id) {
                self.ahead.entry(id).or_insert((source, value));
            }
        }
        Ok(!records.is_empty())
    }

    /// Compares what the journal's record at `offset` decides now.
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
            if let Some((_, found)) = self.ahead.remove(&id) {
                break Some(found);
            }
            if self.furthest > offset.saturating_add(AHEAD) {
                break None;
            }
            if !self.read()? {
                if self.furthest > offset {
                    break None;
                }
                if !self.patient || started.elapsed() > PATIENCE {
                    // Nobody is at work: for the next ones there is no waiting.
                    self.patient = false;
                    counts.not_yet_recorded += 1;
                    return Ok(None);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        self.met.1.push_back(id.clone());
        self.met.0.insert(id);
        if self.met.1.len() > REMEMBERED
            && let Some(oldest) = self.met.1.pop_front()
        {
            self.met.0.remove(&oldest);
        }
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

    /// What stands below has been compared before.
    pub fn forget(&mut self, next: u64) {
        self.ahead.retain(|_, (source, _)| *source >= next);
        self.from = next;
    }

    /// The journal has been replayed below `next`: what is still unmet is not
    /// decided any more.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn passed(&mut self, next: u64, counts: &mut Compared) -> Result<Vec<Difference>, Error> {
        // Of what is not decided any more nobody has asked.
        while self.furthest < next && self.read()? {}
        let mut gone: Vec<Difference> = Vec::new();
        self.ahead.retain(|_, (source, value)| {
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

/// Id, the journal offset behind it, and the decision itself.
fn decision(record: &Record, partition: u32) -> Option<(Bytes, u64, Bytes)> {
    let source = topics::Source::parse(record.header(SOURCE_HEADER)?)?;
    let own = source.partition == partition;
    own.then(|| Some((record.header(ID_HEADER)?.clone(), source.offset, record.value.clone()?)))?
}
