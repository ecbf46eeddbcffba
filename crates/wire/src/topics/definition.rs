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

/// A definition as it is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinitionRecord {
    pub kind: Kind,
    pub project: String,
    pub id: String,
    pub version: u64,
    pub body: Json,
    pub updated_at: String,
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
        })
    }
}
