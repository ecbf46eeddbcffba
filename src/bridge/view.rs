//! The definitions as the bridge shows them: read from topic `definitions`,
//! a moment behind the partitions that decide.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::{At, Error, Log};
use crate::wire::definition::Kind;
use crate::wire::output::DefinitionRecord;
use crate::wire::topic::Topic;

#[derive(Debug, Default)]
pub struct View {
    rows: RwLock<BTreeMap<String, Shown>>,
    next: AtomicU64,
}

#[derive(Debug, Clone)]
pub struct Shown {
    /// Orders the list: the larger, the newer.
    pub offset: u64,
    pub record: DefinitionRecord,
}

impl View {
    /// Reads what has come since the last time.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn catch_up(&self, log: &Log) -> Result<(), Error> {
        let at = At { topic: Topic::Definitions, partition: 0 };
        loop {
            let from = self.next.load(Ordering::Acquire).max(log.bounds(at).start);
            let records = log.read(at, from, 1 << 20)?;
            let Some(last) = records.last() else { return Ok(()) };
            let next = last.offset + 1;
            let mut rows = self.rows.write().expect("no panic holds this lock");
            for record in records {
                let Some(key) = record.key.as_ref().and_then(|k| std::str::from_utf8(k).ok()) else { continue };
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
            drop(rows);
            self.next.store(next, Ordering::Release);
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
