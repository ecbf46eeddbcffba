//! Topic `definitions`: the current definition of each key, or a tombstone.

use serde::{Deserialize, Serialize};

use crate::definition::Kind;
use crate::internal::Defined;
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis};

/// Prefix of keys that identify the log; they are not definitions.
pub const IDENTITY_KEY: &str = "log/";

/// The key of a definition.
pub fn definition_key(project: &str, kind: Kind, id: &str) -> String {
    format!("{}/{project}/{id}", kind.name())
}

/// Prefix of the keys of versions of surveys.
const VERSION_KEY: &str = "survey_version/";
/// How many versions of each survey are kept besides the one in force.
pub const KEPT_VERSIONS: u64 = 100;

/// The key of a version of a survey.
pub fn version_key(project: &str, survey_id: &str, version: u64) -> String {
    format!("{VERSION_KEY}{version:020}/{project}/{survey_id}")
}

/// Whether a key is that of a version of a survey.
pub fn is_version_key(key: &str) -> bool {
    key.starts_with(VERSION_KEY)
}

/// The definition in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRecord {
    pub kind: Kind,
    pub project: String,
    pub id: String,
    pub version: u64,
    pub body: Json,
    pub updated_at: String,
    /// The name of the API key that changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
}

impl DefinitionRecord {
    pub fn of(defined: &Defined, now: Millis) -> Option<DefinitionRecord> {
        Some(DefinitionRecord {
            kind: defined.kind,
            project: defined.project.clone(),
            id: defined.id.clone(),
            version: defined.version,
            body: defined.body.clone()?,
            updated_at: time::format_time(now),
            actor: defined.actor.clone(),
        })
    }
}
