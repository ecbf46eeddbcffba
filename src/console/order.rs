//! How the lists are kept: a row under its id, and places in time, of all and of
//! each user, that name it.

use crate::console::families;
use std::collections::BTreeMap;

use super::error::Error;
use askwhen_domain::refs::UserRef;
use askwhen_domain::time::{Millis, TimeSpan};
use askwhen_store::{Batch, Family, Store, keys};
use askwhen_wire::listing::{Filter, List, Page, PageRequest};

/// Places looked at for one page of a narrow filter.
const MAX_SCANNED: usize = 20_000;
pub const SCANNED_AT_A_TIME: usize = 256;

/// What one round is about to write: later records of it see earlier ones.
pub struct WriteBatch<'a> {
    store: &'a Store,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    batch: Batch,
}

impl<'a> WriteBatch<'a> {
    pub fn new(store: &'a Store) -> WriteBatch<'a> {
        WriteBatch { store, rows: BTreeMap::new(), batch: Batch::default() }
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

    pub fn place(&mut self, place: Vec<u8>, id: &str) {
        self.batch.put(families::ENTRIES, place, id);
    }

    pub fn remove_from_index(&mut self, place: Vec<u8>) {
        self.batch.delete(families::ENTRIES, place);
    }

    /// Everything of the round, with where the next one begins.
    pub fn into_batch(mut self) -> Batch {
        for (key, row) in self.rows {
            match row {
                Some(row) => self.batch.put(families::INDEX, key, row),
                None => self.batch.delete(families::INDEX, key),
            }
        }
        self.batch
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

pub fn row(list: List, id: &str) -> Vec<u8> {
    [&[number(list)], id.as_bytes()].concat()
}

fn of_project(list: List, project: &str) -> Vec<u8> {
    [&[number(list), b'a'][..], &keys::named(project, "")].concat()
}

pub fn of_user(list: List, user: UserRef<'_>) -> Vec<u8> {
    [&[number(list), b'u'][..], &keys::named(user.project, user.user_id), &[0]].concat()
}

/// Both places of a row: among its project's, and among its user's.
pub fn places(list: List, user: UserRef<'_>, at: Millis, id: &str) -> [Vec<u8>; 2] {
    let order = keys::timed(at, id.as_bytes());
    [of_project(list, user.project), of_user(list, user)].map(|prefix| [prefix, order.clone()].concat())
}

/// A page of a list: `shown` gives the row of an id, if the filter takes it.
///
/// # Errors
/// A cursor that is none, or a store that cannot be read.
pub fn page(
    store: &Store,
    list: List,
    project: &str,
    filter: &Filter,
    wanted: PageRequest<'_>,
    mut shown: impl FnMut(Vec<u8>) -> Result<Option<serde_json::Value>, Error>,
) -> Result<Page, Error> {
    let prefix = match &filter.user_id {
        Some(user_id) => of_user(list, UserRef::new(project, user_id)),
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
    let mut scanned = 0;
    let since = filter.since.unwrap_or(0);
    descend(store, &prefix, &order, |place, id| {
        if keys::time_of(&place[prefix.len()..]).is_some_and(|at| at < since) {
            return Ok(Some(()));
        }
        scanned += 1;
        if page.rows.len() == wanted.limit || scanned > MAX_SCANNED {
            let place = [&[number(list)], &place[prefix.len()..]].concat();
            page.next_cursor = Some(hex::encode(place));
            return Ok(Some(()));
        }
        let id = String::from_utf8_lossy(id);
        if let Some(row) = store.get(families::INDEX, &row(list, &id))? {
            page.rows.extend(shown(row)?);
        }
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
    descend(store, &prefix, &keys::timed(span.until, &[]), |place, id| {
        if early(place) {
            return Ok(Some(()));
        }
        if let Some(bytes) = store.get(families::INDEX, &row(list, &String::from_utf8_lossy(id)))? {
            each(bytes)?;
        }
        Ok(None)
    })?;
    Ok(())
}

/// Takes away rows from before `before`, at most `limit` of them.
///
/// # Errors
/// When the store cannot be read or written.
pub fn prune(
    store: &Store,
    list: List,
    before: Millis,
    limit: usize,
    user_of: impl Fn(&[u8]) -> Result<String, Error>,
) -> Result<(), Error> {
    let all = [number(list), b'a'];
    let mut batch = Batch::default();
    for (place, id) in expired(store, families::ENTRIES, &all, 1, before, limit)? {
        let project = place[all.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
        let at = keys::time_of(&place[all.len() + project.len() + 1..]).unwrap_or(0);
        let (project, id) = (String::from_utf8_lossy(project), String::from_utf8_lossy(&id));
        let key = row(list, &id);
        if let Some(bytes) = store.get(families::INDEX, &key)? {
            let user_id = user_of(&bytes)?;
            let user = UserRef::new(&project, &user_id);
            places(list, user, at, &id).into_iter().for_each(|place| batch.delete(families::ENTRIES, place));
        }
        batch.delete(families::ENTRIES, place.clone());
        batch.delete(families::INDEX, key);
    }
    Ok(store.write(batch)?)
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
