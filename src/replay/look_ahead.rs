//! What has to be known of the journal behind a position before a record there is applied.

use std::collections::BTreeSet;

use super::{Error, Source};
use askwhen_log::{Record, TopicPartition};
use askwhen_partition::admission::{Admission, decode_forwarded};
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_wire::definition::Kind;
use askwhen_wire::record::{Decoded, Define, Defined, Internal};
use askwhen_wire::topic::Topic;

/// A partition's rules for applying the journal from where `meta` stands, with the records
/// behind it that operators have skipped.
///
/// # Errors
/// When the journal cannot be read.
pub fn admission(source: &Source, partition: u32, meta: &CheckpointMeta) -> Result<Admission, Error> {
    let mut admission = source.rules(partition);
    let at = TopicPartition { topic: Topic::Events, partition };
    each_record(source, at, meta.next, |record| admission.look_ahead(meta.bound_macs_from, record))?;
    Ok(admission)
}

/// Passes what the journal has now from an offset on to `each`; returns the offset behind it.
///
/// # Errors
/// When the journal cannot be read.
fn each_record(source: &Source, at: TopicPartition, from: u64, mut each: impl FnMut(&Record)) -> Result<u64, Error> {
    // Others may be reading this partition with the consumer `replay`.
    let mut journal_reader = source.reader_to_end("look-ahead", at, from)?;
    let mut next = from;
    loop {
        let records = journal_reader.read()?;
        let Some(last) = records.last() else { return Ok(next) };
        next = last.offset + 1;
        records.iter().for_each(&mut each);
    }
}

/// The look goes on where it ended, so that whoever keeps it reads each record once.
pub struct LookAhead {
    at: TopicPartition,
    next: u64,
    bound_macs_from: Option<u64>,
    /// The partition's rules, with the records that operators have skipped.
    pub admission: Admission,
    /// Projects that get a survey with a quota, or a cap.
    limited: BTreeSet<String>,
}

impl LookAhead {
    /// Begins where `meta` stands.
    pub fn new(source: &Source, partition: u32, meta: &CheckpointMeta) -> LookAhead {
        LookAhead {
            at: TopicPartition { topic: Topic::Events, partition },
            next: meta.next,
            bound_macs_from: meta.bound_macs_from,
            admission: source.rules(partition),
            limited: BTreeSet::new(),
        }
    }

    /// Reads what has come since.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn go_on(&mut self, source: &Source) -> Result<(), Error> {
        let (at, next) = (self.at, self.next);
        self.next = each_record(source, at, next, |record| self.look_at(record))?;
        Ok(())
    }

    fn look_at(&mut self, record: &Record) {
        self.admission.look_ahead(self.bound_macs_from, record);
        // Also what only looks like a definition: reading for everyone is right, too.
        let internal = self.admission.trusted_internal(None, record);
        self.limited.extend(internal.and_then(|internal| limited_project(&internal)));
    }

    /// Whether any survey of a project gets a quota or a cap.
    pub fn limits(&self, project: &str) -> bool {
        self.limited.contains(project)
    }
}

/// The project to which one of askwhen's own records gives a cap, or a survey with a quota.
fn limited_project(internal: &Internal) -> Option<String> {
    match internal {
        Internal::Forward(forward) if forward.trusted => match decode_forwarded(forward) {
            Ok(Decoded::Internal(inner)) => limited_project(&inner),
            Ok(Decoded::User(_)) | Err(_) => None,
        },
        Internal::Define(Define { project, kind: Kind::Survey | Kind::Settings, body: Some(body), .. })
        | Internal::Defined(Defined { project, kind: Kind::Survey | Kind::Settings, body: Some(body), .. }) => {
            let body = body.value();
            let has_caps = |limits: &serde_json::Value| limits["caps"].as_array().is_some_and(|caps| !caps.is_empty());
            let limits = &body["limits"];
            let is_limited = !limits["max_completed"].is_null() || has_caps(limits) || has_caps(&body);
            is_limited.then(|| project.clone())
        }
        _ => None,
    }
}
