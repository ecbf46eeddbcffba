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
        }
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

/// The id at the end of an index key that begins with a prefix and a time.
fn id_of(place: &[u8], prefix: &[u8]) -> String {
    String::from_utf8_lossy(place.get(prefix.len() + 8..).unwrap_or_default()).into_owned()
}

/// Whether an index entry has all of some terms.
pub fn has_terms(entry: &[u8], wanted: &[u32]) -> bool {
    wanted.iter().all(|wanted| entry.chunks_exact(4).any(|term| term == wanted.to_be_bytes()))
}

fn of_project(list: List, project: &str) -> Vec<u8> {
    [&[number(list), b'a'][..], &keys::named(project, "")].concat()
}

pub fn of_user(list: List, user: UserRef<'_>) -> Vec<u8> {
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
    let order = keys::timed(at, id.as_bytes());
    [of_project(list, user.project), of_user(list, user)].map(|prefix| [prefix, order.clone()].concat())
}

/// The index key of a response in its survey's list.
pub fn place_in_survey(survey: SurveyRef<'_>, at: Millis, id: &str) -> Vec<u8> {
    [of_survey(survey), keys::timed(at, id.as_bytes())].concat()
}

/// The index key of a delivery among the failed ones.
pub fn place_in_failures(project: &str, at: Millis, id: &str) -> Vec<u8> {
    [of_failures(project), keys::timed(at, id.as_bytes())].concat()
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
            place.strip_prefix(&[number(list)]).ok_or(Error::Cursor)?.to_vec()
        }
        None => filter.until.map_or_else(|| vec![0xff; 9], |until| keys::timed(until, &[])),
    };
    let mut page = Page::default();
    let since = filter.since.unwrap_or(0);
    // One row more than the page has, so that a cursor is only given when there are more.
    descend(store, &prefix, &order, |place, terms| {
        if keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < since) {
            return Ok(Some(()));
        }
        if !has_terms(terms, &places.terms) {
            return Ok(None);
        }
        let Some(found) = store.get(families::INDEX, &row(list, &id_of(place, &prefix)))? else { return Ok(None) };
        let Some(found) = shown(found)? else { return Ok(None) };
        if page.rows.len() == wanted.limit {
            let place = [&[number(list)], &place[prefix.len()..]].concat();
            page.next_cursor = Some(hex::encode(place));
            return Ok(Some(()));
        }
        page.rows.push(found);
        Ok(None)
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
    let early = |place: &[u8]| keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < span.since);
    descend(store, &prefix, &keys::timed(span.until, &[]), |place, _| {
        if early(place) {
            return Ok(Some(()));
        }
        if let Some(bytes) = store.get(families::INDEX, &row(list, &id_of(place, &prefix)))? {
            each(bytes)?;
        }
        Ok(None)
    })?;
    Ok(())
}

/// Passes the index entries of failed deliveries since a time to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn each_failure(
    store: &Store,
    project: &str,
    since: Millis,
    mut each: impl FnMut(Millis, &str, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let prefix = of_failures(project);
    descend(store, &prefix, &[0xff; 9], |place, terms| {
        let at = keys::time_of(&place[prefix.len()..]).unwrap_or(0);
        if at < since {
            return Ok(Some(()));
        }
        each(at, &id_of(place, &prefix), terms)?;
        Ok(None)
    })?;
    Ok(())
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
    descend(store, &prefix, &keys::timed(span.until, &[]), |place, known| {
        if keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < span.since) {
            return Ok(Some(()));
        }
        if !has_terms(known, terms) {
            return Ok(None);
        }
        let found = store.get(families::INDEX, &row(List::Responses, &id_of(place, &prefix)))?;
        let goes_on = found.map_or(Ok(true), &mut each)?;
        Ok((!goes_on).then_some(()))
    })?;
    Ok(())
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
    let all = [number(list), b'a'];
    let mut batch = WriteBatch::new(store);
    for (place, _) in expired(store, families::ENTRIES, &all, 1, before, limit)? {
        let project = place[all.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
        let prefix = &place[..all.len() + project.len() + 1];
        let key = row(list, &id_of(&place, prefix));
        if let Some(bytes) = store.get(families::INDEX, &key)? {
            forget(&bytes, &mut batch)?.into_iter().for_each(|place| batch.remove_from_index(place));
        }
        batch.remove_from_index(place);
        batch.delete(key);
    }
    Ok(store.write(batch.into_batch())?)
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

/// Walks the index entries with a prefix downwards from `order`, that included, until
/// `each` returns something.
///
/// # Errors
/// When the store cannot be read, and errors of `each`.
pub fn descend<T>(
    store: &Store,
    prefix: &[u8],
    order: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let mut found = Ok(None);
    store.descend(families::ENTRIES, &[prefix, order].concat(), |place, terms| {
        if !place.starts_with(prefix) {
            return false;
        }
        found = each(place, terms);
        matches!(found, Ok(None))
    })?;
    found
}
