//! The definitions as the bridge shows them: read from topic `definitions`,
//! a moment behind the partitions that decide.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use crate::log::{self, At, Error, Log, Reader};
use crate::thread::Bell;
use crate::wire::definition::Kind;
use crate::wire::output::{DefinitionRecord, IDENTITY_KEY};
use crate::wire::topic::Topic;

const AT: At = At { topic: Topic::Definitions, partition: 0 };

pub struct View {
    rows: RwLock<BTreeMap<String, Shown>>,
    /// What follows the topic, and how far it is.
    follow: Mutex<(Reader, u64)>,
}

#[derive(Debug, Clone)]
pub struct Shown {
    /// Orders the list: the larger, the newer.
    pub offset: u64,
    pub record: DefinitionRecord,
}

impl View {
    /// Reads all that there is; the bell rings when there is more.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(log: &Log, bell: Arc<Bell>) -> Result<View, Error> {
        let start = log.bounds(AT)?.start;
        let view = View { rows: RwLock::default(), follow: Mutex::new((log.reader("view", bell), start)) };
        let mut next = start;
        log.scan::<Error>(AT, start, |record| {
            next = record.offset + 1;
            view.take(&record);
            Ok(())
        })?;
        view.follow.lock().expect("no panic holds this lock").1 = next;
        Ok(view)
    }

    /// Reads what has come since the last time.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn catch_up(&self) -> Result<(), Error> {
        let mut follow = self.follow.lock().expect("no panic holds this lock");
        let (reader, next) = &mut *follow;
        loop {
            let records = reader.read(AT, *next, 1 << 20)?.records;
            let Some(last) = records.last() else { return Ok(()) };
            *next = last.offset + 1;
            for record in &records {
                self.take(record);
            }
        }
    }

    fn take(&self, record: &log::Record) {
        let Some(key) = record.key.as_ref().and_then(|k| std::str::from_utf8(k).ok()) else { return };
        if key.starts_with(IDENTITY_KEY) {
            return;
        }
        let mut rows = self.rows.write().expect("no panic holds this lock");
        match record.value.as_deref().map(serde_json::from_slice::<DefinitionRecord>) {
            Some(Ok(shown)) => {
                // The first place keeps the order of creation; a change keeps it.
                let offset = rows.get(key).map_or(record.offset, |old| old.offset);
                rows.insert(key.to_owned(), Shown { offset, record: shown });
            }
            Some(Err(error)) => tracing::error!(%error, key, "a definition in the log is unreadable"),
            None => {
                rows.remove(key);
            }
        }
    }

    pub fn get(&self, project: &str, kind: Kind, id: &str) -> Option<Shown> {
        let key = crate::wire::output::definition_key(project, kind, id);
        self.rows.read().expect("no panic holds this lock").get(&key).cloned()
    }

    /// Of one kind, newest first, from below a place on.
    pub fn list(&self, project: &str, kind: Kind, below: u64, limit: usize) -> Vec<Shown> {
        let prefix = crate::wire::output::definition_key(project, kind, "");
        let rows = self.rows.read().expect("no panic holds this lock");
        let mut all: Vec<&Shown> = rows
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, shown)| shown)
            .filter(|shown| shown.offset < below)
            .collect();
        all.sort_by_key(|shown| std::cmp::Reverse(shown.offset));
        all.into_iter().take(limit).cloned().collect()
    }
}
