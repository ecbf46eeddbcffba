//! The storage of the lists: a row by id, and index entries by time that name it, for all
//! rows and for each user.

use crate::console::families;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::error::Error;
use askwhen_domain::refs::{SurveyRef, UserRef};
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_store::{Batch, Family, Store, keys};
use askwhen_wire::listing::{Filter, List, Page, PageRequest};
use askwhen_wire::tally::ResponseTally;

pub const SCANNED_AT_A_TIME: usize = 256;

/// By name, how often something happened.
pub type Counters = BTreeMap<String, u64>;

/// The changes of one round. Later records of it see those of earlier ones.
pub struct WriteBatch<'a> {
    store: &'a Store,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    places: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Rows that many records of a round change: read once and written once.
    counters: BTreeMap<Vec<u8>, Counters>,
    tallies: BTreeMap<Vec<u8>, ResponseTally>,
    /// By project, the lists whose rows change.
    moved: BTreeSet<(String, List)>,
    /// The partitions in whose journals users were erased; `None` when that is not known.
    /// Most have none, and then nothing is looked up for each record.
    erasures: Option<BTreeSet<u32>>,
}

impl<'a> WriteBatch<'a> {
    pub fn new(store: &'a Store) -> WriteBatch<'a> {
        WriteBatch {
            store,
            rows: BTreeMap::new(),
            places: BTreeMap::new(),
            counters: BTreeMap::new(),
            tallies: BTreeMap::new(),
            moved: BTreeSet::new(),
            erasures: None,
        }
    }

    /// A batch for which it is known in which partitions users were erased.
    pub fn with_erasures(store: &'a Store, erasures: BTreeSet<u32>) -> WriteBatch<'a> {
        WriteBatch { erasures: Some(erasures), ..WriteBatch::new(store) }
    }

    /// Whether a user may have been erased in the journal of a partition.
    pub fn may_have_erasures(&self, partition: u32) -> bool {
        self.erasures.as_ref().is_none_or(|erasures| erasures.contains(&partition))
    }

    pub fn note_erasure(&mut self, partition: u32) {
        if let Some(erasures) = &mut self.erasures {
            erasures.insert(partition);
        }
    }

    /// The partitions in whose journals users were erased, with those of this round.
    pub fn take_erasures(&mut self) -> BTreeSet<u32> {
        self.erasures.take().unwrap_or_default()
    }

    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, askwhen_store::Error> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.store.get(families::INDEX, key),
        }
    }

    pub fn put(&mut self, key: Vec<u8>, row: Vec<u8>) {
        self.rows.insert(key, Some(row));
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.rows.insert(key, None);
    }

    /// The counters under a key, to be changed.
    ///
    /// # Errors
    /// When the store cannot be read, or the value is invalid.
    pub fn counters_mut(&mut self, key: Vec<u8>) -> Result<&mut Counters, Error> {
        decoded(self.store, &mut self.counters, key, counters)
    }

    /// The tally under a key, to be changed.
    ///
    /// # Errors
    /// When the store cannot be read, or the value is invalid.
    pub fn tally_mut(&mut self, key: Vec<u8>) -> Result<&mut ResponseTally, Error> {
        decoded(self.store, &mut self.tallies, key, tally)
    }

    /// Adds an index entry with the values that filters compare.
    pub fn place(&mut self, place: Vec<u8>, terms: &[u32]) {
        self.places.insert(place, Some(terms.iter().flat_map(|term| term.to_be_bytes()).collect()));
    }

    pub fn remove_from_index(&mut self, place: Vec<u8>) {
        self.places.insert(place, None);
    }

    /// Notes that rows of a project's list change.
    pub fn moves(&mut self, project: &str, list: List) {
        if !self.moved.iter().any(|(known, of)| known == project && *of == list) {
            self.moved.insert((project.to_owned(), list));
        }
    }

    pub fn moved(&self) -> impl Iterator<Item = (&str, List)> {
        self.moved.iter().map(|(project, list)| (project.as_str(), *list))
    }

    /// All changes of the round, with the positions for the next.
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for (key, counters) in self.counters {
            batch.put(families::INDEX, key, postcard::to_stdvec(&counters).expect("counters serialise"));
        }
        for (key, tally) in self.tallies {
            match tally.is_empty() {
                true => batch.delete(families::INDEX, key),
                false => batch.put(families::INDEX, key, postcard::to_stdvec(&tally).expect("a tally serialises")),
            }
        }
        for (family, entries) in [(families::ENTRIES, self.places), (families::INDEX, self.rows)] {
            for (key, value) in entries {
                match value {
                    Some(value) => batch.put(family, key, value),
                    None => batch.delete(family, key),
                }
            }
        }
        batch
    }
}

/// The decoded row under a key, read from the store the first time.
fn decoded<'r, T: Default>(
    store: &Store,
    rows: &'r mut BTreeMap<Vec<u8>, T>,
    key: Vec<u8>,
    read: fn(&[u8]) -> Result<T, Error>,
) -> Result<&'r mut T, Error> {
    match rows.entry(key) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(place) => {
            let stored = store.get(families::INDEX, place.key())?;
            Ok(place.insert(stored.map(|bytes| read(&bytes)).transpose()?.unwrap_or_default()))
        }
    }
}

/// The first byte of a row's key; numbers of retired kinds stay reserved.
fn number(list: List) -> u8 {
    match list {
        List::Deliveries => 1,
        List::Decisions => 2,
        List::Responses => 3,
    }
}

/// Rows that belong to no list.
pub const MINUTES: u8 = 4;
pub const FACTS: u8 = 5;
pub const ERASED: u8 = 6;
/// What earlier versions noted beside [`FACTS`]: the same without the time.
pub const KNOWN_FACTS: u8 = 7;
pub const UNKNOWN: u8 = 8;
pub const RESULTS: u8 = 9;

/// Decodes counters.
///
/// # Errors
/// When they are invalid: the store is damaged.
pub fn counters(bytes: &[u8]) -> Result<Counters, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a counter of the lists is unreadable: {e}")))
}

/// Decodes a tally.
///
/// # Errors
/// When it is invalid: the store is damaged.
pub fn tally(bytes: &[u8]) -> Result<ResponseTally, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a tally of results is unreadable: {e}")))
}

pub fn row(list: List, id: &str) -> Vec<u8> {
    [&[number(list)], id.as_bytes()].concat()
}

/// A hash of a member and its value, which index entries contain for filters. Two values
/// may have the same hash, so the row decides.
pub fn term(member: &str, value: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(format!("{member}\0{value}").as_bytes()) as u32
}

/// The order of a row in the lists that are read newest first, which are far more often read
/// than written off: the store goes upwards much faster than downwards.
fn newest_first_order(at: Millis, id: &str) -> Vec<u8> {
    let id = id.bytes().map(|byte| !byte);
    (u64::MAX - at.max(0) as u64).to_be_bytes().into_iter().chain(id).collect()
}

/// The id at the end of such an order. Of one time the greatest is first, as it was when
/// lists were read downwards.
fn id_in(order: &[u8]) -> String {
    let id: Vec<u8> = order.get(8..).unwrap_or_default().iter().map(|byte| !byte).collect();
    String::from_utf8_lossy(&id).into_owned()
}

/// The order before all rows that are older than `until`.
fn older_than(until: Millis) -> Vec<u8> {
    [&(u64::MAX - until.max(0) as u64).to_be_bytes()[..], &[0xff]].concat()
}

/// An entry of a list that is read newest first.
pub struct IndexEntry<'a> {
    pub at: Millis,
    /// Its time and id, as they are ordered.
    order: &'a [u8],
    terms: &'a [u8],
}

impl<'a> IndexEntry<'a> {
    fn parse(order: &'a [u8], terms: &'a [u8]) -> Result<IndexEntry<'a>, Error> {
        let damaged = || Error::Damaged("an index entry of the lists has no time".into());
        let time = order.get(..8).and_then(|time| time.try_into().ok()).ok_or_else(damaged)?;
        Ok(IndexEntry { at: (u64::MAX - u64::from_be_bytes(time)) as Millis, order, terms })
    }

    pub fn id(&self) -> String {
        id_in(self.order)
    }

    /// Whether it has all of some terms.
    pub fn has_terms(&self, wanted: &[u32]) -> bool {
        has_terms(self.terms, wanted)
    }

    /// All its terms.
    pub fn terms(&self) -> &'a [u8] {
        self.terms
    }
}

/// The id at the end of an index key that begins with a prefix and a time.
fn id_of(place: &[u8], prefix: &[u8]) -> String {
    String::from_utf8_lossy(place.get(prefix.len() + 8..).unwrap_or_default()).into_owned()
}

/// Whether some terms contain all of others.
pub fn has_terms(entry: &[u8], wanted: &[u32]) -> bool {
    wanted.iter().all(|wanted| entry.chunks_exact(4).any(|term| term == wanted.to_be_bytes()))
}

fn of_project(list: List, project: &str) -> Vec<u8> {
    [&[number(list), b'a'][..], &keys::named(project, "")].concat()
}

fn of_user(list: List, user: UserRef<'_>) -> Vec<u8> {
    [&[number(list), b'u'][..], &keys::named(user.project, user.user_id), &[0]].concat()
}

fn of_survey(survey: SurveyRef<'_>) -> Vec<u8> {
    [&[number(List::Responses), b's'][..], &keys::named(survey.project, survey.survey_id), &[0]].concat()
}

/// Prefix of failed deliveries.
fn of_failures(project: &str) -> Vec<u8> {
    [&[number(List::Deliveries), b'f'][..], &keys::named(project, "")].concat()
}

/// The index keys of a row: in its project's list, and in its user's.
pub fn places(list: List, user: UserRef<'_>, at: Millis, id: &str) -> [Vec<u8>; 2] {
    let order = newest_first_order(at, id);
    [of_project(list, user.project), of_user(list, user)].map(|prefix| [prefix, order.clone()].concat())
}

/// The index key of a response in its survey's list.
pub fn place_in_survey(survey: SurveyRef<'_>, at: Millis, id: &str) -> Vec<u8> {
    [of_survey(survey), keys::timed(at, id.as_bytes())].concat()
}

/// The index key of a delivery among the failed ones.
pub fn place_in_failures(project: &str, at: Millis, id: &str) -> Vec<u8> {
    [of_failures(project), newest_first_order(at, id)].concat()
}

/// Which index entries are searched.
pub struct PlaceFilter {
    /// The terms that an entry must have.
    pub terms: Vec<u32>,
    /// Whether only failed deliveries are searched.
    pub failures_only: bool,
}

/// A page of a list. `shown` returns the row of an id, if the filter accepts it.
///
/// # Errors
/// An invalid cursor, or a store that cannot be read.
pub fn page(
    store: &Store,
    list: List,
    project: &str,
    filter: &Filter,
    places: &PlaceFilter,
    wanted: PageRequest<'_>,
    mut shown: impl FnMut(Vec<u8>) -> Result<Option<serde_json::Value>, Error>,
) -> Result<Page, Error> {
    let prefix = match &filter.user_id {
        Some(user_id) => of_user(list, UserRef::new(project, user_id)),
        None if places.failures_only => of_failures(project),
        None => of_project(list, project),
    };
    let order = match wanted.cursor {
        Some(cursor) => {
            let place = hex::decode(cursor).map_err(|_| Error::Cursor)?;
            place.strip_prefix(&[number(list)]).filter(|order| order.len() >= 8).ok_or(Error::Cursor)?.to_vec()
        }
        None => older_than(filter.until.unwrap_or(Millis::MAX)),
    };
    let mut page = Page::default();
    let since = filter.since.unwrap_or(0);
    // One row more than the page has, so that a cursor is only given when there are more.
    newest_first(store, &prefix, &order, |entry| {
        if entry.at < since {
            return Ok(false);
        }
        if !entry.has_terms(&places.terms) {
            return Ok(true);
        }
        let Some(found) = store.get(families::INDEX, &row(list, &entry.id()))? else { return Ok(true) };
        let Some(found) = shown(found)? else { return Ok(true) };
        if page.rows.len() == wanted.limit {
            page.next_cursor = Some(hex::encode([&[number(list)], entry.order].concat()));
            return Ok(false);
        }
        page.rows.push(found);
        Ok(true)
    })?;
    Ok(page)
}

/// Passes the rows of a project in a time span to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn between(
    store: &Store,
    list: List,
    project: &str,
    span: TimeSpan,
    mut each: impl FnMut(Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let prefix = of_project(list, project);
    newest_first(store, &prefix, &older_than(span.until), |entry| {
        if entry.at < span.since {
            return Ok(false);
        }
        if let Some(bytes) = store.get(families::INDEX, &row(list, &entry.id()))? {
            each(bytes)?;
        }
        Ok(true)
    })
}

/// Passes the index entries of a user's rows to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn each_of_user(
    store: &Store,
    list: List,
    user: UserRef<'_>,
    mut each: impl FnMut(&IndexEntry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    newest_first(store, &of_user(list, user), &[], |entry| each(entry).map(|()| true))
}

/// Passes the index entries of failed deliveries since a time to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn each_failure(
    store: &Store,
    project: &str,
    since: Millis,
    mut each: impl FnMut(&IndexEntry<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    newest_first(store, &of_failures(project), &[], |entry| match entry.at < since {
        true => Ok(false),
        false => each(entry).map(|()| true),
    })
}

/// Passes the responses of a survey in a time span to `each`, oldest first, with their
/// index keys, until it returns false.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn ascend_survey(
    store: &Store,
    survey: SurveyRef<'_>,
    from: Millis,
    to: Millis,
    each: impl FnMut(&[u8], Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    ascend_survey_from(store, survey, &[of_survey(survey), keys::timed(from, &[])].concat(), to, each)
}

/// The same from an index key on.
///
/// # Errors
/// As [`ascend_survey`].
pub fn ascend_survey_from(
    store: &Store,
    survey: SurveyRef<'_>,
    from: &[u8],
    to: Millis,
    mut each: impl FnMut(&[u8], Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let prefix = of_survey(survey);
    let mut next = from.to_vec();
    loop {
        let entries = store.ascending(families::ENTRIES, &next, SCANNED_AT_A_TIME)?;
        let Some((last, _)) = entries.last() else { return Ok(()) };
        next = [last.as_slice(), &[0]].concat();
        for (place, _) in &entries {
            let at = place.strip_prefix(&prefix[..]).and_then(keys::time_of);
            if at.is_none_or(|at| at >= to) {
                return Ok(());
            }
            let found = store.get(families::INDEX, &row(List::Responses, &id_of(place, &prefix)))?;
            if let Some(found) = found
                && !each(place, found)?
            {
                return Ok(());
            }
        }
    }
}

/// Passes the responses of a survey whose index entries have all of some terms to `each`,
/// newest first, until it returns false.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn descend_survey(
    store: &Store,
    survey: SurveyRef<'_>,
    span: TimeSpan,
    terms: &[u32],
    mut each: impl FnMut(Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let prefix = of_survey(survey);
    let mut found = Ok(true);
    store.descend(families::ENTRIES, &[&prefix[..], &keys::timed(span.until, &[])].concat(), |place, known| {
        let at = place.strip_prefix(&prefix[..]).and_then(keys::time_of);
        if at.is_none_or(|at| at < span.since) {
            return false;
        }
        if has_terms(known, terms) {
            let row = store.get(families::INDEX, &row(List::Responses, &id_of(place, &prefix)));
            found = row.map_err(Error::from).and_then(|row| row.map_or(Ok(true), &mut each));
        }
        matches!(found, Ok(true))
    })?;
    found.map(|_| ())
}

/// Removes rows from before `before`, at most `limit`. `forget` returns the other index
/// entries of a row, and removes what else is stored of it.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune(
    store: &Store,
    list: List,
    before: Millis,
    limit: usize,
    forget: impl Fn(&[u8], &mut WriteBatch<'_>) -> Result<Vec<Vec<u8>>, Error>,
) -> Result<(), Error> {
    let mut batch = WriteBatch::new(store);
    for place in oldest(store, &[number(list), b'a'], before, limit)? {
        let key = row(list, &place.id);
        if let Some(bytes) = store.get(families::INDEX, &key)? {
            forget(&bytes, &mut batch)?.into_iter().for_each(|place| batch.remove_from_index(place));
        }
        batch.remove_from_index(place.key);
        batch.delete(key);
    }
    Ok(store.write(batch.into_batch())?)
}

/// An index entry that is being removed.
struct OldEntry {
    key: Vec<u8>,
    id: String,
}

/// At most `limit` entries from before `before` in the lists of all projects, oldest first in
/// each.
fn oldest(store: &Store, first: &[u8], before: Millis, limit: usize) -> Result<Vec<OldEntry>, Error> {
    let mut found = Vec::new();
    let mut from = first.to_vec();
    while found.len() < limit {
        let entries = store.ascending(families::ENTRIES, &from, 1)?;
        let Some(rest) = entries.first().and_then(|(key, _)| key.strip_prefix(first)) else { break };
        let project = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        let prefix = [first, project, &[0]].concat();
        from = [&prefix[..], &[0xff; 9]].concat();
        let mut read = Ok(());
        store.descend(families::ENTRIES, &from, |key, terms| {
            let Some(order) = key.strip_prefix(&prefix[..]) else { return false };
            match IndexEntry::parse(order, terms) {
                Ok(entry) if entry.at < before => found.push(OldEntry { key: key.to_vec(), id: entry.id() }),
                Ok(_) => return false,
                Err(error) => {
                    read = Err(error);
                    return false;
                }
            }
            found.len() < limit
        })?;
        read?;
    }
    Ok(found)
}

/// Entries whose time is before `before`. Keys begin with `first`, then have `parts` parts
/// that end in NUL, then the time: keys with the same parts are in the order of their
/// times.
///
/// # Errors
/// When the store cannot be read.
pub fn expired(
    store: &Store,
    family: Family,
    first: &[u8],
    parts: usize,
    before: Millis,
    limit: usize,
) -> Result<Vec<askwhen_store::Entry>, askwhen_store::Error> {
    let mut found = Vec::new();
    let mut from = first.to_vec();
    let mut at_a_time = 1;
    loop {
        let entries = store.ascending(family, &from, at_a_time)?;
        let Some((last, _)) = entries.last() else { return Ok(found) };
        at_a_time = SCANNED_AT_A_TIME;
        from = [last.as_slice(), &[0]].concat();
        for (key, value) in entries {
            let Some(rest) = key.strip_prefix(first) else { return Ok(found) };
            let named: usize = rest.split(|byte| *byte == 0).take(parts).map(|part| part.len() + 1).sum();
            if keys::time_of(rest.get(named..).unwrap_or_default()).is_none_or(|at| at >= before) {
                // Continue with the next parts.
                from = [&key[..first.len() + named], &[0xff; 9]].concat();
                at_a_time = 1;
                break;
            }
            found.push((key, value));
            if found.len() >= limit {
                return Ok(found);
            }
        }
    }
}

/// Passes the index entries with a prefix to `each`, newest first and from `order` on, until
/// it returns false.
fn newest_first(
    store: &Store,
    prefix: &[u8],
    order: &[u8],
    mut each: impl FnMut(&IndexEntry<'_>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let mut found = Ok(true);
    store.ascend(families::ENTRIES, &[prefix, order].concat(), |place, terms| {
        let Some(order) = place.strip_prefix(prefix) else { return false };
        found = IndexEntry::parse(order, terms).and_then(|entry| each(&entry));
        matches!(found, Ok(true))
    })?;
    found.map(|_| ())
}
