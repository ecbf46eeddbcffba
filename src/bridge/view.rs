//! The definitions as the bridge shows them: read from topic `definitions`,
//! a moment behind the partitions that decide.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use askwhen_log::{Error, Fetch as _, Log, Reader, TopicPartition, Watermarks};
use askwhen_process::thread::Notify;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::DEFAULT_PROJECT;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{DefinitionRecord, IDENTITY_KEY, SOURCE_HEADER, Source};

const AT: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

pub struct View {
    log: Log,
    rows: RwLock<BTreeMap<String, LatestDefinition>>,
    follow: Mutex<Follow>,
}

/// What follows the topic.
struct Follow {
    reader: Reader,
    /// How far it is.
    next: u64,
    /// It has begun anew with the topic that has lost records.
    anew: bool,
}

/// What the newest record of a key says.
#[derive(Debug, Clone)]
struct LatestDefinition {
    /// Offset of the journal record behind it. A late record of an owner that
    /// has been replaced stands after newer ones, and counts for nothing.
    source: u64,
    /// `None`: the definition is gone.
    shown: Option<ListedDefinition>,
}

#[derive(Debug, Clone)]
pub struct ListedDefinition {
    /// Orders the list: the larger, the newer.
    pub offset: u64,
    pub record: DefinitionRecord,
}

impl View {
    /// Reads all that there is; a notification comes when there is more.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(log: &Log, notify: Arc<Notify>) -> Result<View, Error> {
        let Watermarks { start, end } = log.bounds(AT)?;
        let follow = Follow { reader: log.reader("view", notify), next: start, anew: false };
        let view = View { log: log.clone(), rows: RwLock::default(), follow: Mutex::new(follow) };
        let mut next = start;
        log.scan::<Error>(AT, start, end, |record| {
            next = record.offset + 1;
            view.take(&record);
            Ok(())
        })?;
        view.follow.lock().expect("no panic holds this lock").next = next;
        Ok(view)
    }

    /// Reads what has come since the last time.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn catch_up(&self) -> Result<(), Error> {
        let mut follow = self.follow.lock().expect("no panic holds this lock");
        let lost = self.log.has_lost_definitions();
        if lost && !follow.anew {
            // No place of before says where the topic is now.
            follow.reader.leave(AT);
            follow.next = self.log.bounds(AT)?.start;
        }
        follow.anew = lost;
        loop {
            let next = follow.next;
            let records = follow.reader.read(AT, next, 1 << 20)?.records;
            let Some(last) = records.last() else { return Ok(()) };
            follow.next = last.offset + 1;
            for record in &records {
                self.take(record);
            }
        }
    }

    fn take(&self, record: &askwhen_log::Record) {
        let Some(key) = record.key.as_ref().and_then(|k| std::str::from_utf8(k).ok()) else { return };
        if key.starts_with(IDENTITY_KEY) {
            self.log.identity_seen(key);
            return;
        }
        let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
        let source = source.map_or(0, |source| source.offset);
        let mut rows = self.rows.write().expect("no panic holds this lock");
        let known = rows.get(key);
        if known.is_some_and(|known| known.source > source) {
            return;
        }
        // The first place keeps the order of creation; a change keeps it.
        let offset = known.and_then(|known| known.shown.as_ref()).map_or(record.offset, |shown| shown.offset);
        let shown = match record.value.as_deref().map(serde_json::from_slice::<DefinitionRecord>) {
            Some(Ok(record)) => Some(ListedDefinition { offset, record }),
            Some(Err(error)) => return tracing::error!(%error, key, "a definition in the log is unreadable"),
            None => None,
        };
        rows.insert(key.to_owned(), LatestDefinition { source, shown });
    }

    pub fn get(&self, project: &str, kind: Kind, id: &str) -> Option<ListedDefinition> {
        let key = askwhen_wire::topics::definition_key(project, kind, id);
        self.rows.read().expect("no panic holds this lock").get(&key)?.shown.clone()
    }

    /// The projects that have a definition of this name, the default one first.
    pub fn projects_with(&self, kind: Kind, id: &str) -> Vec<String> {
        let prefix = format!("{}/", kind.name());
        let ending = format!("/{id}");
        let rows = self.rows.read().expect("no panic holds this lock");
        let named = rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let shown = named.filter(|(key, _)| key.ends_with(&ending)).filter_map(|(_, known)| known.shown.as_ref());
        let mut all: Vec<String> =
            shown.filter(|shown| shown.record.id == id).map(|shown| shown.record.project.clone()).collect();
        all.sort_by_key(|project| project != DEFAULT_PROJECT);
        all
    }

    /// Of one kind, newest first, from below a place on.
    pub fn list(&self, project: &str, kind: Kind, below: u64, limit: usize) -> Vec<ListedDefinition> {
        let prefix = askwhen_wire::topics::definition_key(project, kind, "");
        let rows = self.rows.read().expect("no panic holds this lock");
        let mut all: Vec<&ListedDefinition> = rows
            .range(prefix.clone()..)
            .take_while(|(key, _)| key.starts_with(&prefix))
            .filter_map(|(_, known)| known.shown.as_ref())
            .filter(|shown| shown.offset < below)
            .collect();
        all.sort_by_key(|shown| std::cmp::Reverse(shown.offset));
        all.into_iter().take(limit).cloned().collect()
    }
}
