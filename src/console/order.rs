//! How the lists are kept: a row under its id, and places in time, of all and of
//! each user, that name it.

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

/// How often what has happened, by its name.
pub type Counters = BTreeMap<String, u64>;

/// What one round is about to write: later records of it see earlier ones.
pub struct WriteBatch<'a> {
    store: &'a Store,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    places: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Rows that many records of a round change: read once, and written once.
    counters: BTreeMap<Vec<u8>, Counters>,
    tallies: BTreeMap<Vec<u8>, ResponseTally>,
    /// The lists that get other rows, by project.
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
    /// When the store cannot be read, or holds something else there.
    pub fn counters_mut(&mut self, key: Vec<u8>) -> Result<&mut Counters, Error> {
        decoded(self.store, &mut self.counters, key, counters)
    }

    /// The tally under a key, to be changed.
    ///
    /// # Errors
    /// When the store cannot be read, or holds something else there.
    pub fn tally_mut(&mut self, key: Vec<u8>) -> Result<&mut ResponseTally, Error> {
        decoded(self.store, &mut self.tallies, key, tally)
    }

    /// Puts a row at a place, with what filters compare.
    pub fn place(&mut self, place: Vec<u8>, terms: &[u32]) {
        self.places.insert(place, Some(terms.iter().flat_map(|term| term.to_be_bytes()).collect()));
    }

    pub fn remove_from_index(&mut self, place: Vec<u8>) {
        self.places.insert(place, None);
    }

    /// Notes that a list of a project shows something else now.
    pub fn moves(&mut self, project: &str, list: List) {
        if !self.moved.iter().any(|(known, of)| known == project && *of == list) {
            self.moved.insert((project.to_owned(), list));
        }
    }

    pub fn moved(&self) -> impl Iterator<Item = (&str, List)> {
        self.moved.iter().map(|(project, list)| (project.as_str(), *list))
    }

    /// Everything of the round, with where the next one begins.
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

/// The row under a key, read from the store the first time.
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

/// First byte of a row's key; numbers of retired kinds stay reserved.
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

/// # Errors
/// When they are none: the store is damaged.
pub fn counters(bytes: &[u8]) -> Result<Counters, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a counter of the lists is unreadable: {e}")))
}

/// # Errors
/// When it is none: the store is damaged.
pub fn tally(bytes: &[u8]) -> Result<ResponseTally, Error> {
    postcard::from_bytes(bytes).map_err(|e| Error::Damaged(format!("a tally of results is unreadable: {e}")))
}

pub fn row(list: List, id: &str) -> Vec<u8> {
    [&[number(list)], id.as_bytes()].concat()
}

/// A member and its value, as places keep them for filters to compare. Two that differ
/// may have one term: the row tells.
pub fn term(member: &str, value: &str) -> u32 {
    xxhash_rust::xxh3::xxh3_64(format!("{member}\0{value}").as_bytes()) as u32
}

/// The id at the end of a place that begins with a prefix and a time.
fn id_of(place: &[u8], prefix: &[u8]) -> String {
    String::from_utf8_lossy(place.get(prefix.len() + 8..).unwrap_or_default()).into_owned()
}

/// Whether what stands at a place has all of some terms.
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

/// Deliveries that have failed and did not reach their receivers.
fn of_failures(project: &str) -> Vec<u8> {
    [&[number(List::Deliveries), b'f'][..], &keys::named(project, "")].concat()
}

/// Both places of a row: among its project's, and among its user's.
pub fn places(list: List, user: UserRef<'_>, at: Millis, id: &str) -> [Vec<u8>; 2] {
    let order = keys::timed(at, id.as_bytes());
    [of_project(list, user.project), of_user(list, user)].map(|prefix| [prefix, order.clone()].concat())
}

/// The place of a response among those of its survey.
pub fn place_in_survey(survey: SurveyRef<'_>, at: Millis, id: &str) -> Vec<u8> {
    [of_survey(survey), keys::timed(at, id.as_bytes())].concat()
}

/// The place of a delivery among those that have failed.
pub fn place_in_failures(project: &str, at: Millis, id: &str) -> Vec<u8> {
    [of_failures(project), keys::timed(at, id.as_bytes())].concat()
}

/// Where a page is looked for.
pub struct PlaceFilter {
    /// What a place must have of the filter.
    pub terms: Vec<u32>,
    /// Whether only deliveries that have failed can fit.
    pub failures_only: bool,
}

/// A page of a list: `shown` gives the row of an id, if the filter takes it.
///
/// # Errors
/// A cursor that is none, or a store that cannot be read.
pub fn page(
    store: &Store,
    list: List,
    project: &str,
    (filter, looked_for): (&Filter, &PlaceFilter),
    wanted: PageRequest<'_>,
    mut shown: impl FnMut(Vec<u8>) -> Result<Option<serde_json::Value>, Error>,
) -> Result<Page, Error> {
    let prefix = match &filter.user_id {
        Some(user_id) => of_user(list, UserRef::new(project, user_id)),
        None if looked_for.failures_only => of_failures(project),
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
    // A row more than is shown: a page that leads on is followed by one that has rows.
    descend(store, &prefix, &order, |place, terms| {
        if keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < since) {
            return Ok(Some(()));
        }
        if !has_terms(terms, &looked_for.terms) {
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

/// Hands the rows of a project in a span of time to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
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

/// Hands the places and terms of failed deliveries since a time to `each`, newest first.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
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

/// Hands the responses of a survey from `from` up to and without `to` to `each`, oldest
/// first, with their places, until it gives false.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
pub fn ascend_survey(
    store: &Store,
    survey: SurveyRef<'_>,
    from: Millis,
    to: Millis,
    each: impl FnMut(&[u8], Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    ascend_survey_from(store, survey, &[of_survey(survey), keys::timed(from, &[])].concat(), to, each)
}

/// The same from a place on.
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

/// Hands the responses of a survey whose places have all of some terms to `each`, newest
/// first, until it gives false.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
pub fn descend_survey(
    store: &Store,
    survey: SurveyRef<'_>,
    (since, until): (Millis, Millis),
    terms: &[u32],
    mut each: impl FnMut(Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    let prefix = of_survey(survey);
    descend(store, &prefix, &keys::timed(until, &[]), |place, known| {
        if keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < since) {
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

/// Takes away rows from before `before`, at most `limit` of them. `forget` gives the places
/// of a row beside that of its project, and takes away what else is kept of it.
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

/// Entries whose time is before `before`. A key begins with `first`; then come
/// `parts` parts that end in NUL, and the time: keys of the same parts are in the
/// order of their times.
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
                // On with the next parts.
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

/// Walks the places of a prefix from `order` down, itself included, until `each`
/// gives something.
///
/// # Errors
/// When the store cannot be read, and what `each` says.
pub fn descend<T>(
    store: &Store,
    prefix: &[u8],
    order: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let mut from = [prefix, order].concat();
    loop {
        let entries = store.descending(families::ENTRIES, &from, SCANNED_AT_A_TIME)?;
        let Some((last, _)) = entries.last() else { return Ok(None) };
        let before = previous(last);
        for (place, id) in &entries {
            if !place.starts_with(prefix) {
                return Ok(None);
            }
            if let Some(found) = each(place, id)? {
                return Ok(Some(found));
            }
        }
        let Some(before) = before else { return Ok(None) };
        from = before;
    }
}

/// The largest key below this one that can exist here: keys end in an id, so
/// cutting the last byte down is below it and above everything smaller.
fn previous(key: &[u8]) -> Option<Vec<u8>> {
    let mut key = key.to_vec();
    let last = key.last_mut()?;
    if *last == 0 {
        key.pop();
        return Some(key);
    }
    *last -= 1;
    key.push(0xff);
    Some(key)
}
