//! What there is to define, and how one is named.

use serde::{Deserialize, Serialize};

use super::reader::{Code, Reader};

/// What a definition defines; part of its key in topic `definitions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Survey,
    Endpoint,
    Trigger,
    Settings,
    /// The health of an endpoint, which the delivery reports.
    Health,
    /// An API key that was made at run time.
    Key,
    /// When a key was used last.
    KeyUse,
    /// Work that goes on behind a request.
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
    /// The kinds that people define.
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

    /// The member that names one.
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

/// `kind` may be left out, and must be right when given.
pub fn kind(reader: &mut Reader<'_>, kind: Kind) {
    if let Some(given) = reader.text("kind", 64)
        && given != kind.name()
    {
        reader.fault(Code::Invalid, "kind", format!("must be {} here", kind.name()));
    }
}

/// Takes members that are shown with a definition and cannot be set, so that a
/// definition that was read can be sent back as it is.
pub fn shown_only(reader: &mut Reader<'_>, members: &[&'static str]) {
    for member in members {
        reader.raw(member);
    }
}

/// The id in the body, which must equal the one in the path.
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
            // One that is wrong has been told of.
            if reader.raw(member).is_none() {
                reader.missing(member);
            }
            String::new()
        }
    }
}
