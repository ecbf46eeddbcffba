//! Topic `definitions`: the current definition of each key; a tombstone when it is
//! gone.

use serde::{Deserialize, Serialize};

use crate::definition::Kind;
use crate::internal::Defined;
use askwhen_domain::json::Json;
use askwhen_domain::time::{self, Millis};

/// Keys of topic `definitions` that begin so say whose log it is; not a
/// definition.
pub const IDENTITY_KEY: &str = "log/";

/// Key of topic `definitions`.
pub fn definition_key(project: &str, kind: Kind, id: &str) -> String {
    format!("{}/{project}/{id}", kind.name())
}

/// What the keys of earlier versions of surveys begin with in topic `definitions`.
const VERSION_KEY: &str = "survey_version/";
/// Versions of each survey that are kept beside the one in force.
pub const KEPT_VERSIONS: u64 = 100;

/// Key of topic `definitions` for one version of a survey.
pub fn version_key(project: &str, survey_id: &str, version: u64) -> String {
    format!("{VERSION_KEY}{version:020}/{project}/{survey_id}")
}

/// Whether a key of topic `definitions` is that of a version of a survey.
pub fn is_version_key(key: &str) -> bool {
    key.starts_with(VERSION_KEY)
}

/// A definition as it is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRecord {
    pub kind: Kind,
    pub project: String,
    pub id: String,
    pub version: u64,
    pub body: Json,
    pub updated_at: String,
    /// The name of the key that it was changed with.
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
