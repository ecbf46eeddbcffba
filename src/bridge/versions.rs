//! The versions of a survey: their contents, times and actors.

use serde_json::{Value, json};

use super::app::{App, RequestContext};
use super::problem::{Answer, Problem, json_answer};
use askwhen_wire::topics::DefinitionRecord;

impl App {
    pub(super) fn survey_versions(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let versions: Vec<Value> = self.known_versions(asked)?.iter().map(shown).collect();
        Ok(json_answer(200, json!({"versions": versions}).to_string()))
    }

    pub(super) fn survey_version(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let wanted: Option<u64> = asked.route.parts[1].parse().ok();
        let versions = self.known_versions(asked)?;
        let found = versions.iter().find(|record| Some(record.version) == wanted);
        let found = found.ok_or_else(|| Problem::not_found("there is no such version, or it is no longer kept"))?;
        Ok(json_answer(200, shown(found).to_string()))
    }

    fn known_versions(&self, asked: &RequestContext<'_>) -> Result<Vec<DefinitionRecord>, Problem> {
        let versions = self.view.versions(&asked.caller.project, &asked.route.parts[0]);
        if versions.is_empty() {
            return Err(Problem::not_found("there is no such survey"));
        }
        Ok(versions)
    }
}

fn shown(record: &DefinitionRecord) -> Value {
    json!({
        "version": record.version,
        "changed_at": record.updated_at,
        "actor": record.actor,
        "definition": record.body.value(),
    })
}
