//! The definitions that the bridge shows. They are read from topic `definitions`, a moment
//! behind the partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use askwhen_domain::time::{self, Millis};
use askwhen_log::{Error, Fetch as _, Log, Reader, TopicPartition, Watermarks};
use askwhen_process::thread::Notify;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::DEFAULT_PROJECT;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{
    DefinitionRecord, IDENTITY_KEY, SOURCE_HEADER, Source, definition_key, is_version_key, version_key,
};

const AT: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

pub struct View {
    log: Log,
    rows: RwLock<BTreeMap<String, LatestDefinition>>,
    /// By project and survey id, the versions by number.
    versions: RwLock<BTreeMap<(String, String), BTreeMap<u64, DefinitionRecord>>>,
    /// By project and survey id, how long answers are kept; only surveys with a
    /// `retention`.
    retentions: RwLock<BTreeMap<(String, String), Millis>>,
    /// By kind and project, how many of its records were read.
    moved: Mutex<BTreeMap<String, u64>>,
    /// Increases with every record of an API key.
    keys_generation: AtomicU64,
    /// Bytes of all bodies, versions included.
    body_bytes: AtomicUsize,
    follow: Mutex<Follow>,
}

/// The reader of the topic.
struct Follow {
    reader: Reader,
    /// The next offset.
    next: u64,
    /// Whether it started again because the topic has lost records.
    anew: bool,
}

/// The newest record of a key.
#[derive(Debug, Clone)]
struct LatestDefinition {
    /// Offset of the journal record behind it. A late record of a replaced owner comes
    /// after newer ones, and is ignored.
    source: u64,
    /// `None` for a removed definition.
    shown: Option<ListedDefinition>,
}

#[derive(Debug, Clone)]
pub struct ListedDefinition {
    /// Orders the list: a higher offset is newer.
    pub offset: u64,
    pub record: DefinitionRecord,
}

impl View {
    /// Reads the whole topic; `notify` is called when there is more.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn open(log: &Log, notify: Arc<Notify>) -> Result<View, Error> {
        let Watermarks { start, end } = log.bounds(AT)?;
        let follow = Follow { reader: log.reader("view", notify), next: start, anew: false };
        let view = View {
            log: log.clone(),
            rows: RwLock::default(),
            versions: RwLock::default(),
            retentions: RwLock::default(),
            moved: Mutex::default(),
            keys_generation: AtomicU64::new(1),
            body_bytes: AtomicUsize::new(0),
            follow: Mutex::new(follow),
        };
        let mut next = start;
        log.scan::<Error>(AT, start, end, |record| {
            next = record.offset + 1;
            view.take(&record);
            Ok(())
        })?;
        view.follow.lock().expect("no panic holds this lock").next = next;
        Ok(view)
    }

    /// Reads the records that have come since.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn catch_up(&self) -> Result<(), Error> {
        let mut follow = self.follow.lock().expect("no panic holds this lock");
        let lost = self.log.has_lost_definitions();
        if lost && !follow.anew {
            // Earlier offsets mean nothing in the topic now.
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
        if is_version_key(key) {
            return self.take_version(key, record.value.as_deref());
        }
        let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
        let source = source.map_or(0, |source| source.offset);
        let mut rows = self.rows.write().expect("no panic holds this lock");
        let known = rows.get(key);
        if known.is_some_and(|known| known.source > source) {
            return;
        }
        // A definition keeps the offset of its creation, which orders the list.
        let offset = known.and_then(|known| known.shown.as_ref()).map_or(record.offset, |shown| shown.offset);
        let shown = match record.value.as_deref().map(serde_json::from_slice::<DefinitionRecord>) {
            Some(Ok(record)) => Some(ListedDefinition { offset, record }),
            Some(Err(error)) => return tracing::error!(%error, key, "a definition in the log is unreadable"),
            None => None,
        };
        if let Some(shown) = shown.as_ref().filter(|shown| shown.record.kind == Kind::Survey) {
            self.note_retention(&shown.record);
        }
        let come = shown.as_ref().map_or(0, |shown| shown.record.body.len_bytes());
        let before = rows.insert(key.to_owned(), LatestDefinition { source, shown });
        let gone = before.and_then(|before| before.shown).map_or(0, |shown| shown.record.body.len_bytes());
        self.count_bytes(come, gone);
        drop(rows);
        if let Some(end) = key.match_indices('/').nth(1) {
            *self.moved.lock().expect("no panic holds this lock").entry(key[..=end.0].to_owned()).or_default() += 1;
        }
        if key.starts_with("key/") {
            self.keys_generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Called under the lock of what is shown, so that the sum stays right.
    fn count_bytes(&self, come: usize, gone: usize) {
        self.body_bytes.fetch_add(come, Ordering::Relaxed);
        self.body_bytes.fetch_sub(gone, Ordering::Relaxed);
    }

    /// About how many bytes the shown bodies take.
    pub fn memory_bytes(&self) -> usize {
        self.body_bytes.load(Ordering::Relaxed)
    }

    fn note_retention(&self, record: &DefinitionRecord) {
        let key = (record.project.clone(), record.id.clone());
        // Most surveys have none; their bodies are not parsed.
        let body = Some(&record.body).filter(|body| body.as_str().contains("\"retention\":"));
        let span = body.and_then(|body| time::parse_duration(body.value()["retention"].as_str()?).ok());
        let mut retentions = self.retentions.write().expect("no panic holds this lock");
        match span {
            Some(span) => drop(retentions.insert(key, span)),
            None => drop(retentions.remove(&key)),
        }
    }

    /// By project and survey id, how long answers are kept; only surveys with a
    /// `retention`.
    pub fn retentions(&self) -> BTreeMap<(String, String), Millis> {
        self.retentions.read().expect("no panic holds this lock").clone()
    }

    /// The surveys of a project that are anonymous, or were in a kept version.
    pub fn anonymous_surveys(&self, project: &str) -> BTreeSet<String> {
        let is_anonymous = |record: &DefinitionRecord| record.body.as_str().contains("\"anonymous\":true");
        let prefix = definition_key(project, Kind::Survey, "");
        let rows = self.rows.read().expect("no panic holds this lock");
        let own = rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let current = own.filter_map(|(_, known)| known.shown.as_ref()).map(|shown| &shown.record);
        let mut all: BTreeSet<String> =
            current.filter(|record| is_anonymous(record)).map(|record| record.id.clone()).collect();
        let versions = self.versions.read().expect("no panic holds this lock");
        let kept = versions.iter().filter(|((of, _), _)| of == project);
        all.extend(kept.filter(|(_, all)| all.values().any(is_anonymous)).map(|((_, id), _)| id.clone()));
        all
    }

    /// By survey id of a project, the time from which on responses are kept; only surveys
    /// with a `retention`.
    pub fn kept_since(&self, project: &str, now: Millis) -> BTreeMap<String, Millis> {
        let retentions = self.retentions.read().expect("no panic holds this lock");
        let own = retentions.iter().filter(|((of, _), _)| of == project);
        own.map(|((_, survey_id), span)| (survey_id.clone(), now.saturating_sub(*span).saturating_add(1))).collect()
    }

    fn take_version(&self, key: &str, value: Option<&[u8]>) {
        let mut versions = self.versions.write().expect("no panic holds this lock");
        match value.map(serde_json::from_slice::<DefinitionRecord>) {
            Some(Ok(record)) => {
                let survey = versions.entry((record.project.clone(), record.id.clone())).or_default();
                let come = record.body.len_bytes();
                let gone = survey.insert(record.version, record).map_or(0, |before| before.body.len_bytes());
                self.count_bytes(come, gone);
            }
            Some(Err(error)) => tracing::error!(%error, key, "a version in the log is unreadable"),
            None => {
                for survey in versions.values_mut() {
                    survey.retain(|version, record| {
                        let stays = version_key(&record.project, &record.id, *version) != key;
                        self.count_bytes(0, if stays { 0 } else { record.body.len_bytes() });
                        stays
                    });
                }
            }
        }
    }

    /// The kept versions of a survey, newest first, the one in force among them.
    pub fn versions(&self, project: &str, survey_id: &str) -> Vec<DefinitionRecord> {
        let current = self.get(project, Kind::Survey, survey_id).map(|shown| shown.record);
        let versions = self.versions.read().expect("no panic holds this lock");
        let mut known = versions.get(&(project.to_owned(), survey_id.to_owned())).cloned().unwrap_or_default();
        if let Some(current) = current {
            // Versions from before they were kept are only in their definition's own
            // record.
            known.entry(current.version).or_insert(current);
        }
        known.into_values().rev().collect()
    }

    /// The jobs of all projects.
    pub fn jobs(&self) -> Vec<ListedDefinition> {
        let rows = self.rows.read().expect("no panic holds this lock");
        let jobs = rows.range("job/".to_owned()..).take_while(|(key, _)| key.starts_with("job/"));
        jobs.filter_map(|(_, known)| known.shown.clone()).collect()
    }

    /// How often a definition of this kind has changed in a project since the process
    /// started.
    pub fn moved(&self, project: &str, kind: Kind) -> u64 {
        let moved = self.moved.lock().expect("no panic holds this lock");
        moved.get(&definition_key(project, kind, "")).copied().unwrap_or(0)
    }

    /// How often a definition of this kind has changed in any project.
    pub fn moved_anywhere(&self, kind: Kind) -> u64 {
        let moved = self.moved.lock().expect("no panic holds this lock");
        let prefix = format!("{}/", kind.name());
        moved.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix)).map(|(_, times)| times).sum()
    }

    /// Changes whenever a key was created or revoked.
    pub fn keys_generation(&self) -> u64 {
        self.keys_generation.load(Ordering::Acquire)
    }

    /// The API keys created at run time, of all projects.
    pub fn keys(&self) -> Vec<DefinitionRecord> {
        let rows = self.rows.read().expect("no panic holds this lock");
        let keys = rows.range("key/".to_owned()..).take_while(|(key, _)| key.starts_with("key/"));
        keys.filter_map(|(_, known)| known.shown.as_ref()).map(|shown| shown.record.clone()).collect()
    }

    pub fn get(&self, project: &str, kind: Kind, id: &str) -> Option<ListedDefinition> {
        let key = definition_key(project, kind, id);
        self.rows.read().expect("no panic holds this lock").get(&key)?.shown.clone()
    }

    /// The projects that have a definition with this id, the default project first.
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

    /// The definitions of one kind, newest first, from below an offset on.
    pub fn list(&self, project: &str, kind: Kind, below: u64, limit: usize) -> Vec<ListedDefinition> {
        let prefix = definition_key(project, kind, "");
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
