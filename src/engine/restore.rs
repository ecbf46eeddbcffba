//! Finds definitions in the state that topic `definitions` has lost, so that readers of the
//! topic can look them up again.

use std::collections::BTreeMap;

use super::table::{DefinitionRow, Table};
use askwhen_domain::id::{Kind as IdKind, Origin};
use askwhen_domain::time::{self, Millis};
use askwhen_log::{Log, NewRecord, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_wire::definition::Kind;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DefinitionRecord, ID_HEADER, SOURCE_HEADER, Source, definition_key};

/// Stands for the position of rows of version 0.1.0, which do not have one.
const NO_PLACE: u64 = 1 << 62;

/// The newest record of a key in the topic.
struct ReportedVersions {
    /// `None` for a tombstone.
    version: Option<u64>,
    source: Option<Source>,
}

/// Records that the topic lacks, under their original ids, in the order of definition.
///
/// # Errors
/// When the log cannot be read.
pub fn lost_definitions(table: &Table, log: &Log, meta: &CheckpointMeta) -> Result<Vec<NewRecord>, StopReason> {
    let topic = newest_records(log)?;
    let mut lost: Vec<(&DefinitionRow, NewRecord)> = Vec::new();
    for row in table.rows().filter(|row| row.kind != Kind::Health) {
        let key = definition_key(&row.project, row.kind, &row.id);
        let known = topic.get(&key);
        // A record that is not applied yet is newer than the state.
        let newer = known.and_then(|record| record.source).is_some_and(|source| source.offset >= meta.next);
        let there = match known {
            None => row.body.is_none(),
            Some(record) if row.body.is_none() => record.version.is_none(),
            Some(record) => record.version.is_some_and(|version| version >= row.version),
        };
        if !newer && !there {
            lost.push((row, record(row, &key, log, meta)?));
        }
    }
    lost.sort_by_key(|(row, _)| row.defined);
    Ok(lost.into_iter().map(|(_, new)| new).collect())
}

/// By key, its newest record.
fn newest_records(log: &Log) -> Result<BTreeMap<String, ReportedVersions>, StopReason> {
    let at = TopicPartition { topic: Topic::Definitions, partition: 0 };
    let bounds = log.bounds(at)?;
    let mut newest = BTreeMap::new();
    log.scan::<StopReason>(at, bounds.start, bounds.end, |record| {
        let Some(key) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else { return Ok(()) };
        let source = record.header(SOURCE_HEADER).and_then(|source| Source::parse(source));
        let value = record.value.as_deref().map(serde_json::from_slice::<DefinitionRecord>);
        let version = value.and_then(Result::ok).map(|record| record.version);
        newest.insert(key.to_owned(), ReportedVersions { version, source });
        Ok(())
    })?;
    Ok(newest)
}

/// The record of a row, as it was as far as the row knows.
fn record(row: &DefinitionRow, key: &str, log: &Log, meta: &CheckpointMeta) -> Result<NewRecord, StopReason> {
    let journal = TopicPartition { topic: Topic::Events, partition: 0 };
    let last = Source { partition: 0, offset: meta.next.saturating_sub(1), crc: meta.crc };
    let (source, updated_at, place) = match row.defined {
        Some((offset, at)) => {
            let behind = log.read(journal, offset, 1).ok();
            let behind = behind.and_then(|records| records.into_iter().find(|record| record.offset == offset));
            // The journal record may have been trimmed since.
            let crc = behind.map_or(0, |record| record.crc);
            (Source { partition: 0, offset, crc }, at, offset)
        }
        None => (last, row.past.last().map_or(meta.now, |(_, _, until, _)| *until), NO_PLACE),
    };
    let origin = Origin { incarnation: log.incarnation(), partition: 0, offset: place };
    let version = row.version.to_string();
    let id = match row.defined {
        Some(_) => origin.id(IdKind::Definition, &[&row.project, row.kind.name(), &row.id]),
        None => origin.id(IdKind::Definition, &[&row.project, row.kind.name(), &row.id, &version]),
    };
    let new = NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: value(row, updated_at) };
    Ok(new.header(ID_HEADER, id).header(SOURCE_HEADER, source.encode()))
}

fn value(row: &DefinitionRow, updated_at: Millis) -> Option<bytes::Bytes> {
    let record = DefinitionRecord {
        kind: row.kind,
        project: row.project.clone(),
        id: row.id.clone(),
        version: row.version,
        body: row.body.as_deref()?.clone(),
        updated_at: time::format_time(updated_at),
        actor: row.actor.clone(),
    };
    Some(topics::encode(&record).into())
}
