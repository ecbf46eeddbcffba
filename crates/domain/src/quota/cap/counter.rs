//! The counter of one value: what was counted, the places that offers hold, and requests
//! that wait.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::definition::CapRule;
use super::message::{CapAnswer, CapOutcome, CapPlace, CapRefusal, CapSignal};
use crate::time::{HOUR, Millis};

/// Clocks of partitions differ, so counted times are kept for so much longer than they
/// count.
const TIMES_DIFFER: Millis = HOUR;
/// Bytes of a counter with its key in a tree, and bytes of its open places beside their
/// elements.
const COUNTER_BYTES: usize = 160;
const OPEN_BYTES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapCounter {
    rule: CapRule,
    /// When it was last asked or changed, in milliseconds since the epoch.
    used_at: Millis,
    /// What was counted, for a cap without `within`.
    #[serde(default, skip_serializing_if = "is_zero")]
    total: u64,
    /// Times of what was counted, in order, for a cap with `within`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    times: Vec<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<Box<OpenPlaces>>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Places that are not counted yet, and requests that wait for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OpenPlaces {
    /// Requests that have a place and are not decided yet, by partition and offset.
    requests: BTreeSet<(u32, u64)>,
    /// How many offers hold a place, by the time at which they lapse and their partition.
    #[serde(with = "rows")]
    holds: BTreeMap<(Millis, u32), u64>,
    /// The sum of `holds`.
    held: u64,
    waiting: VecDeque<WaitingRequest>,
    /// Partitions that have not answered a [`CapSignal::Check`] yet.
    checking: BTreeSet<u32>,
}

/// Serialises a map as a list of rows, because keys in JSON can only be texts.
mod rows {
    use super::{BTreeMap, Millis};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(map: &BTreeMap<(Millis, u32), u64>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().map(|((until, of), count)| (*until, *of, *count)).collect::<Vec<_>>().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<(Millis, u32), u64>, D::Error> {
        let rows = Vec::<(Millis, u32, u64)>::deserialize(deserializer)?;
        Ok(rows.into_iter().map(|(until, of, count)| ((until, of), count)).collect())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WaitingRequest {
    from: u32,
    request: u64,
    rule: CapRule,
    at: Millis,
    looks: bool,
    /// Whether the partitions that hold places were checked since the request came.
    is_checked: bool,
}

impl OpenPlaces {
    fn is_empty(&self) -> bool {
        *self == OpenPlaces::default()
    }

    fn taken(&self) -> u64 {
        self.requests.len() as u64 + self.held
    }

    /// Places that are taken, without holds that have ended by a time.
    fn taken_after(&self, ended_by: Millis) -> u64 {
        let ended = self.holds.iter().take_while(|((until, _), _)| *until <= ended_by);
        self.taken() - ended.map(|(_, count)| count).sum::<u64>()
    }

    fn hold(&mut self, until: Millis, from: u32) {
        *self.holds.entry((until, from)).or_default() += 1;
        self.held += 1;
    }

    /// Frees a place. Its user may have moved to another partition with it.
    fn free(&mut self, place: CapPlace, from: u32) {
        match place {
            CapPlace::Request(request) => {
                self.requests.remove(&(from, request));
                self.waiting.retain(|waiting| (waiting.from, waiting.request) != (from, request));
            }
            CapPlace::Held(until) => {
                let own = Some((until, from)).filter(|hold| self.holds.contains_key(hold));
                let any = || self.holds.range((until, 0)..=(until, u32::MAX)).next().map(|(hold, _)| *hold);
                let Some(hold) = own.or_else(any) else { return };
                let count = self.holds.entry(hold).or_default();
                *count -= 1;
                if *count == 0 {
                    self.holds.remove(&hold);
                }
                self.held -= 1;
            }
        }
    }

    /// Drops the holds of a partition that have lapsed by its time.
    fn lapse(&mut self, of: u32, at: Millis) {
        let lapsed = |(until, from): &(Millis, u32)| *from == of && *until <= at;
        let over: Vec<(Millis, u32)> = self.holds.range(..=(at, u32::MAX)).map(|(hold, _)| *hold).collect();
        for hold in over.into_iter().filter(lapsed) {
            self.held -= self.holds.remove(&hold).unwrap_or(0);
        }
    }
}

impl CapCounter {
    pub fn new(rule: CapRule, now: Millis) -> CapCounter {
        CapCounter { rule, used_at: now, total: 0, times: Vec::new(), open: None }
    }

    /// What counts against a request made at `at`. Later times, from partitions whose clock
    /// is ahead, count as well.
    fn counted(&self, at: Millis) -> u64 {
        match self.rule.within {
            None => self.total,
            Some(within) => {
                let since = at.saturating_sub(within);
                (self.times.len() - self.times.partition_point(|time| *time < since)) as u64
            }
        }
    }

    /// Places that are counted or taken, as of `at`.
    pub fn count(&self, at: Millis) -> u64 {
        self.counted(at) + self.open.as_ref().map_or(0, |open| open.taken())
    }

    fn open(&mut self) -> &mut OpenPlaces {
        self.open.get_or_insert_default()
    }

    pub(super) fn receive(&mut self, from: u32, signal: &CapSignal, now: Millis) -> Vec<(u32, CapSignal)> {
        self.used_at = self.used_at.max(now);
        match *signal {
            CapSignal::Ask { request, rule, at, looks } => {
                let is_checked = false;
                self.open().waiting.push_back(WaitingRequest { from, request, rule, at, looks, is_checked });
            }
            CapSignal::Settle { place, outcome } => {
                self.open().free(place, from);
                match outcome {
                    CapOutcome::Held(until) => self.open().hold(until, from),
                    CapOutcome::Counted(at) => self.note(at, now),
                    CapOutcome::Free => {}
                }
            }
            CapSignal::Time { at } => {
                let open = self.open();
                open.checking.remove(&from);
                open.lapse(from, at);
            }
            CapSignal::Answer { .. } | CapSignal::Check => {}
        }
        let mut signals = Vec::new();
        self.serve(&mut signals);
        self.open = self.open.take().filter(|open| !open.is_empty());
        signals
    }

    fn note(&mut self, at: Millis, now: Millis) {
        let Some(within) = self.rule.within else {
            self.total += 1;
            return;
        };
        let place = self.times.partition_point(|time| *time <= at);
        self.times.insert(place, at);
        let over = now.saturating_sub(within).saturating_sub(TIMES_DIFFER);
        let old = self.times.partition_point(|time| *time < over);
        self.times.drain(..old);
    }

    /// Answers requests that wait, in the order of asking.
    fn serve(&mut self, signals: &mut Vec<(u32, CapSignal)>) {
        while let Some(first) = self.open().waiting.front().cloned() {
            self.rule = first.rule;
            let WaitingRequest { from, request, rule, at, looks, is_checked } = first;
            let counted = self.counted(at);
            let open = self.open();
            let answer = if counted + open.taken() < rule.max {
                if !looks {
                    open.requests.insert((from, request));
                }
                CapAnswer::Granted
            } else if counted >= rule.max {
                // No partition has to be asked; what has lapsed by now does not count.
                CapAnswer::Refused(self.refusal(at, at))
            } else if !open.requests.is_empty() || !open.checking.is_empty() {
                // The partitions that are being checked answer soon.
                return;
            } else if !is_checked {
                // An offer may have ended or lapsed in a partition that has not reported it
                // yet.
                open.checking = open.holds.keys().map(|(_, of)| *of).collect();
                signals.extend(open.checking.iter().map(|to| (*to, CapSignal::Check)));
                open.waiting.iter_mut().for_each(|waiting| waiting.is_checked = true);
                return;
            } else {
                // Holds that are left have not lapsed by the clocks of their partitions.
                CapAnswer::Refused(self.refusal(at, Millis::MIN))
            };
            signals.push((from, CapSignal::Answer { request, answer }));
            self.open().waiting.pop_front();
        }
    }

    /// The refusal of a request made at `at`, without holds that have ended by `ended_by`.
    fn refusal(&self, at: Millis, ended_by: Millis) -> CapRefusal {
        let (max, counted) = (self.rule.max, self.counted(at));
        let count = counted + self.open.as_ref().map_or(0, |open| open.taken_after(ended_by));
        let end_of = |over| self.end_of_place(over, at, ended_by);
        let until = count.checked_sub(max).and_then(end_of);
        let count_until = if count > max { end_of(0) } else { None };
        CapRefusal { max, count, until, is_final: count == counted, count_until }
    }

    /// When time alone will have ended `over` places and one more, without holds that have
    /// ended by `ended_by`.
    fn end_of_place(&self, over: u64, at: Millis, ended_by: Millis) -> Option<Millis> {
        let counted = self.rule.within.into_iter().flat_map(|within| {
            let first = self.times.partition_point(|time| *time < at.saturating_sub(within));
            self.times[first..].iter().map(move |time| (time.saturating_add(within).saturating_add(1), 1))
        });
        let holds = self.open.iter().flat_map(|open| &open.holds).map(|((until, _), count)| (*until, *count));
        let holds = holds.skip_while(|(until, _)| *until <= ended_by);
        let (mut counted, mut holds) = (counted.peekable(), holds.peekable());
        let mut ended = 0;
        loop {
            let is_count = match (counted.peek(), holds.peek()) {
                (Some((one, _)), Some((other, _))) => one <= other,
                (one, _) => one.is_some(),
            };
            let (end, count) = if is_count { counted.next()? } else { holds.next()? };
            ended += count;
            if ended > over {
                return Some(end);
            }
        }
    }

    /// What a request would be answered if all partitions had reported everything.
    pub fn look(&self, rule: CapRule, at: Millis) -> CapAnswer {
        let mut counter = CapCounter { rule, ..self.clone() };
        if let Some(open) = &mut counter.open {
            let partitions: BTreeSet<u32> = open.holds.keys().map(|(_, of)| *of).collect();
            partitions.into_iter().for_each(|of| open.lapse(of, at));
            open.requests.clear();
        }
        if counter.count(at) < rule.max { CapAnswer::Granted } else { CapAnswer::Refused(counter.refusal(at, at)) }
    }

    /// Whether it is the same as a new counter by now.
    pub(super) fn is_over(&self, now: Millis) -> bool {
        self.open.is_none() && self.counted(now.saturating_sub(TIMES_DIFFER)) == 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn used_at(&self) -> Millis {
        self.used_at
    }

    /// The counter for another number of partitions: `places` are the open places, each
    /// with its end and the partition of its user.
    #[must_use]
    pub fn moved(self, places: impl IntoIterator<Item = (Millis, u32)>) -> CapCounter {
        let mut counter = CapCounter { open: None, ..self };
        places.into_iter().for_each(|(until, from)| counter.open().hold(until, from));
        counter
    }

    /// About how many bytes it takes in memory, with its key. Vectors and trees have more
    /// capacity than length.
    pub(super) fn len_bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| {
            let places = open.requests.len() * 24 + open.holds.len() * 48 + open.checking.len() * 8;
            OPEN_BYTES + places + open.waiting.len() * size_of::<WaitingRequest>()
        });
        COUNTER_BYTES + self.times.capacity() * size_of::<Millis>() + open
    }
}
