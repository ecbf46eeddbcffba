//! Finds definitions in the state that topic `definitions` has lost, so that readers of the
//! topic can look them up again.

use std::collections::BTreeMap;

use super::table::{DefinitionRow, Table};
use askwhen_domain::id::{Kind as IdKind, Origin};
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis};
use askwhen_log::{Log, NewRecord, TopicPartition};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_wire::definition::Kind;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DefinitionRecord, DeliveryRecord, ID_HEADER, SOURCE_HEADER, Source, definition_key};

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
    let mut records: Vec<NewRecord> = lost.into_iter().map(|(_, new)| new).collect();
    if !records.is_empty() || log.has_lost_definitions() {
        records.extend(lost_health(table, log, &topic)?);
    }
    Ok(records)
}

/// How endpoints fare, as far as topic `definitions` lacks it. The state does not hold it:
/// the newest of it is in topic `deliveries`, which every partition was told by.
fn lost_health(
    table: &Table,
    log: &Log,
    topic: &BTreeMap<String, ReportedVersions>,
) -> Result<Vec<NewRecord>, StopReason> {
    let at = TopicPartition { topic: Topic::Deliveries, partition: 0 };
    let bounds = log.bounds(at)?;
    let mut newest: BTreeMap<String, (u64, NewRecord)> = BTreeMap::new();
    log.scan::<StopReason>(at, bounds.start, bounds.end, |record| {
        let value = record.value.as_deref().filter(|value| value.starts_with(b"{\"health\":"));
        let Some(Ok(DeliveryRecord::Health { project, endpoint_id, seq, by, health })) =
            value.map(serde_json::from_slice)
        else {
            return Ok(());
        };
        let key = definition_key(&project, Kind::Health, &endpoint_id);
        let row = table.row(&project, Kind::Endpoint, &endpoint_id);
        let told = topic.get(&key).map(|record| record.version.or(record.source.map(|source| source.offset)));
        let is_known = told.is_some_and(|at| at.is_none_or(|at| at >= seq)) || row.is_none_or(|row| row.body.is_none());
        if is_known || newest.get(&key).is_some_and(|(known, _)| *known > seq) {
            return Ok(());
        }
        let origin = Origin { incarnation: log.incarnation(), partition: 0, offset: seq };
        let id = origin.id(IdKind::Definition, &[&project, Kind::Health.name(), &endpoint_id]);
        let definition = DefinitionRecord {
            kind: Kind::Health,
            project,
            id: endpoint_id,
            version: seq,
            body: Json::of(&health),
            updated_at: time::format_time(record.appended_at),
            actor: None,
        };
        // An endpoint on which nobody has reported begins anew, and has no record.
        let value = (!by.is_empty()).then(|| topics::encode(&definition).into());
        let new = NewRecord { key: Some(key.clone().into()), headers: Vec::new(), value };
        newest.insert(key, (seq, new.header(ID_HEADER, id)));
        Ok(())
    })?;
    let found = newest.into_values().filter(|(_, new)| new.value.is_some());
    Ok(found.map(|(seq, new)| new.header(SOURCE_HEADER, source(log, seq).encode())).collect())
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
    let last = Source { partition: 0, offset: meta.next.saturating_sub(1), crc: meta.crc };
    let (source, updated_at, place) = match row.defined {
        Some((offset, at)) => (source(log, offset), at, offset),
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

/// The journal record behind a definition. It may have been trimmed since.
fn source(log: &Log, offset: u64) -> Source {
    let behind = log.read(TopicPartition { topic: Topic::Events, partition: 0 }, offset, 1).ok();
    let behind = behind.and_then(|records| records.into_iter().find(|record| record.offset == offset));
    Source { partition: 0, offset, crc: behind.map_or(0, |record| record.crc) }
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
