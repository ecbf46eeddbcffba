//! The definitions of a partition: their stored rows, and their parsed form.

use crate::engine::families;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::changes::Changes;
use super::shared;
use askwhen_domain::definitions::{Definitions, Entry, PastVersion};
use askwhen_domain::json::Json;
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::time::Millis;
use askwhen_partition::StopReason;
use askwhen_store::Store;
use askwhen_wire::definition::{self, Kind, Target, Trigger};
use askwhen_wire::record::Defined;
use askwhen_wire::topics::{DeliveryRecord, definition_key};

/// A stored definition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRow {
    pub kind: Kind,
    pub project: String,
    pub id: String,
    pub version: u64,
    /// `None` for a removed definition, which keeps its version. The text is shared by all
    /// partitions of a process, as those in `past` are.
    pub body: Option<Arc<Json>>,
    /// Earlier versions of a survey: version, text, and the time and journal offset at
    /// which the next one replaced it.
    pub past: Vec<(u64, Arc<Json>, Millis, u64)>,
    /// The fingerprint of a survey's activation.
    #[serde(rename = "mark")]
    pub fingerprint: u64,
    /// Offset and time of its record in the journal of this partition; `None` in rows of
    /// version 0.1.0.
    #[serde(default)]
    pub defined: Option<(u64, Millis)>,
    /// The name of the API key that made this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl DefinitionRow {
    /// The row with shared texts.
    fn shared(mut self) -> DefinitionRow {
        let share = |text: Arc<Json>| Arc::try_unwrap(text).map_or_else(|text| text, shared::text);
        self.body = self.body.map(share);
        self.past = self.past.into_iter().map(|(version, text, until, at)| (version, share(text), until, at)).collect();
        self
    }
}

/// A definition that this program cannot read, because a later version wrote it.
#[derive(Debug, thiserror::Error)]
#[error(
    "version {version} of the definition {key} is not read by this program (askwhen {program}): {fault}; use the \
     version that wrote it, or a later one",
    program = env!("CARGO_PKG_VERSION")
)]
pub struct UnreadableDefinition {
    key: String,
    version: u64,
    fault: String,
}

/// Prefix of the keys of names that a partition has met, by project.
pub const NAMES: &str = "names/";
/// Key of the registrar's requests.
pub const REQUESTS: &[u8] = b"requests";

#[derive(Debug, Default)]
pub struct Table {
    pub definitions: Definitions,
    rows: BTreeMap<String, DefinitionRow>,
    dirty: BTreeSet<String>,
    dirty_names: BTreeSet<String>,
    /// Registrar: ids of handled requests, and when they were made.
    pub requests: Vec<(String, Millis)>,
    pub dirty_requests: bool,
}

impl Table {
    /// Loads the definitions from a store.
    ///
    /// # Errors
    /// When the store cannot be read, or has a definition that this version cannot read.
    pub fn load(store: &Store) -> Result<Table, StopReason> {
        let mut table = Table::default();
        store.each(families::DEFINITIONS, |key, value| {
            let unreadable = |e: serde_json::Error| {
                StopReason::damaged(format!(
                    "the stored definition {} is unreadable: {e}",
                    String::from_utf8_lossy(&key)
                ))
            };
            if key == REQUESTS {
                table.requests = serde_json::from_slice(&value).map_err(unreadable)?;
            } else if let Some(project) = key.strip_prefix(NAMES.as_bytes()) {
                let names: BTreeSet<String> = serde_json::from_slice(&value).map_err(unreadable)?;
                let project = String::from_utf8_lossy(project).into_owned();
                table.definitions.project_mut(&project).names = names;
            } else {
                let row: DefinitionRow = serde_json::from_slice(&value).map_err(unreadable)?;
                let row = row.shared();
                table.compile(&row).map_err(StopReason::refused)?;
                table.rows.insert(definition_key(&row.project, row.kind, &row.id), row);
            }
            Ok::<_, StopReason>(())
        })?;
        Ok(table)
    }

    /// A survey as a store has it, with its earlier versions.
    ///
    /// # Errors
    /// When the store cannot be read, or has a definition that this version cannot read.
    pub fn survey_entry(store: &Store, survey: SurveyRef<'_>) -> Result<Option<Entry>, StopReason> {
        let key = definition_key(survey.project, Kind::Survey, survey.survey_id);
        let stored = store.get(families::DEFINITIONS, key.as_bytes()).map_err(StopReason::damaged)?;
        let Some(stored) = stored else { return Ok(None) };
        let row: DefinitionRow = serde_json::from_slice(&stored).map_err(StopReason::damaged)?;
        let mut table = Table::default();
        table.compile(&row).map_err(StopReason::refused)?;
        let project = table.definitions.project(survey.project);
        Ok(project.and_then(|project| project.surveys.get(survey.survey_id)).cloned())
    }

    /// Every definition, removed ones included.
    pub fn rows(&self) -> impl Iterator<Item = &DefinitionRow> {
        self.rows.values()
    }

    pub fn row(&self, project: &str, kind: Kind, id: &str) -> Option<&DefinitionRow> {
        self.rows.get(&definition_key(project, kind, id))
    }

    pub fn count(&self, project: &str, kind: Kind) -> usize {
        let prefix = definition_key(project, kind, "");
        let rows = self.rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        rows.filter(|(_, row)| row.body.is_some()).count()
    }

    /// Adds the name of an event or trigger; returns whether it is new.
    pub fn add_name(&mut self, project: &str, name: &str) -> bool {
        if self.definitions.project(project).is_some_and(|p| p.names.contains(name)) {
            return false;
        }
        let new = self.definitions.project_mut(project).add_name(name);
        if new {
            self.dirty_names.insert(project.to_owned());
        }
        new
    }

    /// Installs a version from the registrar. For an endpoint, returns the record that
    /// tells the delivery.
    ///
    /// # Errors
    /// When this version cannot read a definition of a later one: decisions without it
    /// would differ from the later version's.
    pub fn take(
        &mut self,
        defined: &Defined,
        now: Millis,
        offset: u64,
    ) -> Result<Option<DeliveryRecord>, UnreadableDefinition> {
        let key = definition_key(&defined.project, defined.kind, &defined.id);
        let known = self.rows.get(&key);
        if known.is_some_and(|row| row.version >= defined.version) {
            return Ok(None);
        }
        let mut past = known.map_or_else(Vec::new, |row| row.past.clone());
        if defined.kind == Kind::Survey
            && let Some(row) = known
            && let Some(body) = &row.body
        {
            past.push((row.version, body.clone(), now, offset));
        }
        let row = DefinitionRow {
            kind: defined.kind,
            project: defined.project.clone(),
            id: defined.id.clone(),
            version: defined.version,
            body: defined.body.clone().map(shared::text),
            past,
            fingerprint: 0,
            defined: Some((offset, now)),
            actor: defined.actor.clone(),
        };
        self.install(&row, now, offset)?;
        let surveys = self.definitions.project(&row.project).map(|p| &p.surveys);
        let fingerprint = surveys.and_then(|s| s.get(&row.id)).map_or(0, |entry| entry.fingerprint);
        let row = DefinitionRow { fingerprint, ..row };
        self.dirty.insert(key.clone());
        self.rows.insert(key, row);
        Ok((defined.kind == Kind::Endpoint).then(|| DeliveryRecord::Endpoint {
            project: defined.project.clone(),
            endpoint_id: defined.id.clone(),
            version: defined.version,
            body: defined.body.clone(),
        }))
    }

    /// Parses a new version and puts it in force.
    fn install(&mut self, row: &DefinitionRow, now: Millis, offset: u64) -> Result<(), UnreadableDefinition> {
        let with_row = |faults| unreadable(row, faults);
        let project = self.definitions.project_mut(&row.project);
        match (row.kind, &row.body) {
            (Kind::Survey, Some(text)) => {
                let survey = shared::survey(text).map_err(with_row)?;
                project.put_survey(row.version, survey, now, offset);
            }
            (Kind::Endpoint, Some(text)) => {
                let body = definition::endpoint(&text.value(), None, Target::Trusted).map_err(with_row)?;
                project.put_endpoint(row.version, body.endpoint);
            }
            (Kind::Settings, Some(text)) => {
                project.put_settings(row.version, definition::settings(&text.value()).map_err(with_row)?);
            }
            (Kind::Endpoint, None) => {
                project.endpoints.remove(&row.id);
            }
            (Kind::Trigger, None) => {
                project.names.remove(&row.id);
                self.dirty_names.insert(row.project.clone());
            }
            (Kind::Trigger, Some(body)) => {
                // A name that was created is met when it comes.
                if !body.value()["first_seen_at"].is_null() {
                    project.add_name(&row.id);
                    self.dirty_names.insert(row.project.clone());
                }
            }
            (Kind::Survey | Kind::Settings, None) | (Kind::Health | Kind::Key | Kind::KeyUse | Kind::Job, _) => {}
        }
        Ok(())
    }

    /// Parses a stored row with its earlier versions and puts it in force.
    fn compile(&mut self, row: &DefinitionRow) -> Result<(), UnreadableDefinition> {
        let Some(body) = &row.body else { return Ok(()) };
        let with_row = |faults| unreadable(row, faults);
        let project = self.definitions.project_mut(&row.project);
        match row.kind {
            Kind::Survey => {
                project.put_survey(row.version, shared::survey(body).map_err(with_row)?, 0, 0);
                let mut past = Vec::new();
                for (version, body, until, until_offset) in &row.past {
                    let survey = shared::survey(body).map_err(with_row)?;
                    past.push(PastVersion { version: *version, survey, until: *until, until_offset: *until_offset });
                }
                if let Some(entry) = project.surveys.get_mut(&row.id) {
                    entry.past = past;
                    entry.fingerprint = row.fingerprint;
                }
            }
            Kind::Endpoint => {
                let body = definition::endpoint(&body.value(), None, Target::Trusted).map_err(with_row)?;
                project.put_endpoint(row.version, body.endpoint);
            }
            Kind::Settings => {
                project.put_settings(row.version, definition::settings(&body.value()).map_err(with_row)?);
            }
            Kind::Trigger | Kind::Health | Kind::Key | Kind::KeyUse | Kind::Job => {}
        }
        Ok(())
    }

    pub fn freeze(&mut self) -> Changes {
        let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut rows = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let row = self.rows.get_mut(&key).expect("dirty rows exist");
            // The parsed form keeps only some earlier versions; the stored row follows it.
            if let Some(entry) = self.definitions.project(&row.project).and_then(|p| p.surveys.get(&row.id))
                && row.kind == Kind::Survey
            {
                row.past.retain(|(version, ..)| entry.past.iter().any(|past| past.version == *version));
            }
            rows.push((key.into_bytes(), row.clone()));
        }
        for project in std::mem::take(&mut self.dirty_names) {
            if let Some(known) = self.definitions.project(&project) {
                let value = serde_json::to_vec(&known.names).expect("names serialise");
                entries.push((format!("{NAMES}{project}").into_bytes(), value));
            }
        }
        if std::mem::take(&mut self.dirty_requests) {
            entries.push((REQUESTS.to_vec(), serde_json::to_vec(&self.requests).expect("requests serialise")));
        }
        // Texts are long, so the rows of only one partition at a time are serialised.
        Box::new(move |batch| {
            for (key, row) in rows {
                batch.put(families::DEFINITIONS, key, serde_json::to_vec(&row).expect("a row serialises"));
            }
            for (key, value) in entries {
                batch.put(families::DEFINITIONS, key, value);
            }
        })
    }
}

fn unreadable(row: &DefinitionRow, faults: Vec<definition::Fault>) -> UnreadableDefinition {
    UnreadableDefinition {
        key: definition_key(&row.project, row.kind, &row.id),
        version: row.version,
        fault: faults.first().map(|fault| format!("{} {}", fault.pointer, fault.detail)).unwrap_or_default(),
    }
}

/// What the registrar's list has under a name.
pub enum ListedName {
    None,
    /// It was created, and has not come yet.
    Created(Trigger),
    Seen,
}

pub fn listed_name(table: &Table, project: &str, trigger_id: &str) -> ListedName {
    let body = table.row(project, Kind::Trigger, trigger_id).and_then(|row| row.body.as_ref());
    let Some(body) = body else { return ListedName::None };
    match serde_json::from_str::<Trigger>(body.as_str()) {
        Ok(listed) if listed.first_seen_at.is_none() => ListedName::Created(listed),
        _ => ListedName::Seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As a registrar of a later version would give it, to a program that cannot say
    /// what it means.
    #[test]
    fn a_definition_of_a_later_version_is_refused_and_not_passed_over() {
        let survey = |more: serde_json::Value| {
            let mut body = json!({"survey_id": "s", "name": "S", "status": "active", "activate": {"event": "e"},
                "expires_after": "24h", "show_on": [{"trigger": "Main"}],
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]});
            body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            body
        };
        let settings = json!({"of_a_later_version": 1});
        let endpoint = json!({"url": "https://example.com/", "profile": "of_a_later_version"});
        let unread = [
            (Kind::Survey, survey(json!({"of_a_later_version": 1}))),
            (Kind::Settings, settings),
            (Kind::Endpoint, endpoint),
        ];
        for (kind, body) in unread {
            let mut table = Table::default();
            let of = |version, body: &serde_json::Value| Defined {
                project: "p".into(),
                kind,
                id: "s".into(),
                version,
                changed: true,
                created: true,
                used_new_secret: false,
                body: Some(Json::of(body)),
                actor: None,
            };
            if kind == Kind::Survey {
                table.take(&of(1, &survey(json!({}))), 1, 1).expect("this version reads it");
            }
            let refused = table.take(&of(2, &body), 2, 2).expect_err("it cannot be read").to_string();
            assert!(refused.starts_with(&format!("version 2 of the definition {}/p/s", kind.name())), "{refused}");
            assert!(refused.contains("use the version that wrote it"), "{refused}");
            assert_eq!(table.row("p", kind, "s").map(|row| row.version), (kind == Kind::Survey).then_some(1));
        }
    }
}
