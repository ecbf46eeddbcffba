//! The kinds of definitions, and how one is identified.

use serde::{Deserialize, Serialize};

use super::reader::{Code, Reader};

/// The kind of a definition; part of its key in topic `definitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Survey,
    Endpoint,
    Trigger,
    Settings,
    /// The health of an endpoint, which deliveries report.
    Health,
    /// An API key created at run time.
    Key,
    /// The last use of a key.
    KeyUse,
    /// A job that continues after its request.
    Job,
}

/// A definition of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefinitionRef<'a> {
    pub project: &'a str,
    pub kind: Kind,
    pub id: &'a str,
}

impl Kind {
    /// The kinds that users define.
    pub const ALL: [(&'static str, Kind); 4] = [
        ("survey", Kind::Survey),
        ("endpoint", Kind::Endpoint),
        ("trigger", Kind::Trigger),
        ("settings", Kind::Settings),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Survey => "survey",
            Kind::Endpoint => "endpoint",
            Kind::Trigger => "trigger",
            Kind::Settings => "settings",
            Kind::Health => "health",
            Kind::Key => "key",
            Kind::KeyUse => "key_use",
            Kind::Job => "job",
        }
    }

    /// The member with the id.
    pub fn id_member(self) -> &'static str {
        match self {
            Kind::Survey => "survey_id",
            Kind::Endpoint | Kind::Health => "endpoint_id",
            Kind::Trigger => "trigger_id",
            Kind::Key | Kind::KeyUse => "key_id",
            Kind::Job => "job_id",
            Kind::Settings => "",
        }
    }
}

/// Checks `kind`, which may be missing.
pub fn kind(reader: &mut Reader<'_>, kind: Kind) {
    if let Some(given) = reader.text("kind", 64)
        && given != kind.name()
    {
        reader.fault(Code::Invalid, "kind", format!("must be {} here", kind.name()));
    }
}

/// Accepts members that answers contain and that cannot be set, so that a definition that
/// was read can be sent back unchanged.
pub fn shown_only(reader: &mut Reader<'_>, members: &[&'static str]) {
    for member in members {
        reader.raw(member);
    }
}

/// The id in the body; it must equal the one in the path.
pub fn id(reader: &mut Reader<'_>, kind: Kind, wanted: Option<&str>) -> String {
    let member = kind.id_member();
    match (reader.id(member), wanted) {
        (Some(given), Some(wanted)) if given != wanted => {
            reader.fault(Code::Invalid, member, "must equal the id in the path");
            given
        }
        (Some(given), _) => given,
        (None, Some(wanted)) => wanted.to_owned(),
        (None, None) => {
            // An invalid one has been reported already.
            if reader.raw(member).is_none() {
                reader.missing(member);
            }
            String::new()
        }
    }
}
