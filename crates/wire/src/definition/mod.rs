//! Parses definitions of surveys, endpoints, triggers and settings from JSON or YAML, and
//! reports every fault by its pointer. What the domain serialises is the canonical form,
//! which parses to the same definition.

mod activation;
mod audience;
mod caps;
mod condition;
mod ending;
mod endpoint;
mod frequency;
mod json_file;
mod kind;
mod question;
mod reader;
mod settings;
mod survey;
mod targeting;
mod translation;
mod ui;
mod warnings;
mod words;
pub mod yaml;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use endpoint::{EndpointBody, SecretSource, endpoint_json};
pub use kind::{DefinitionRef, Kind};
pub use reader::{Code, Fault, MAX_FAULTS, nearest};
pub use warnings::{KnownSurvey, Surroundings, endpoint_warnings, settings_warnings, warnings};

use askwhen_domain::settings::Settings;
use askwhen_domain::survey::Survey;
use reader::Reader;

/// The id of a project's settings.
pub const SETTINGS_ID: &str = "settings";

/// Who sends a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerKind {
    Backend,
    Frontend,
    Custom,
}

/// The name of an event or a frontend trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    pub trigger_id: String,
    pub name: String,
    pub kind: TriggerKind,
    /// Null of one that was created and has not come yet.
    pub first_seen_at: Option<String>,
}

/// The documents of a file: JSON if its name says so or it is a JSON object, else YAML.
///
/// # Errors
/// The first place that is neither.
pub fn documents(text: &str, is_json: bool) -> Result<Vec<yaml::Document>, yaml::Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_json {
        return json_file::documents(text);
    }
    let begins_as_json = text.trim_start().starts_with(['{', '[']);
    // If it is not JSON, it may be a YAML mapping in braces.
    let read = begins_as_json.then(|| json_file::documents(text).ok()).flatten();
    read.map_or_else(|| yaml::documents(text), Ok)
}

/// Parses a survey; `id` is the one in the path.
///
/// # Errors
/// All faults, in the order of the body.
pub fn survey(body: &Value, id: Option<&str>) -> Result<Survey, Vec<Fault>> {
    finish(body, |reader| survey::read(reader, id))
}

/// Parses a survey of a project that has these settings.
///
/// # Errors
/// All faults, in the order of the body; that of the settings is the last.
pub fn survey_under(body: &Value, id: Option<&str>, settings: &Settings) -> Result<Survey, Vec<Fault>> {
    let read = survey(body, id);
    let Some(too_long) = settings::expiry_fault(body, settings) else { return read };
    let mut faults = read.err().unwrap_or_default();
    if faults.iter().all(|fault| fault.pointer != too_long.pointer) {
        faults.push(too_long);
    }
    Err(faults)
}

/// Parses an endpoint; `id` is the one in the path.
///
/// # Errors
/// All faults, in the order of the body.
pub fn endpoint(body: &Value, id: Option<&str>, target: endpoint::Target<'_>) -> Result<EndpointBody, Vec<Fault>> {
    finish(body, |reader| endpoint::read(reader, id, target))
}

pub use endpoint::Target;

/// Parses settings.
///
/// # Errors
/// All faults, in the order of the body.
pub fn settings(body: &Value) -> Result<Settings, Vec<Fault>> {
    finish(body, settings::read)
}

/// Parses the body of `POST /v1/triggers`.
///
/// # Errors
/// All faults, in the order of the body.
pub fn trigger(body: &Value) -> Result<Trigger, Vec<Fault>> {
    finish(body, |reader| {
        let name = reader.required_text("name", 256).unwrap_or_default();
        let trigger_id = reader.id("trigger_id").unwrap_or_else(|| slug(&name));
        if trigger_id.is_empty() && !name.is_empty() {
            reader.fault(Code::MissingField, "trigger_id", "cannot be made from this name: give one");
        }
        let kinds =
            [("backend", TriggerKind::Backend), ("frontend", TriggerKind::Frontend), ("custom", TriggerKind::Custom)];
        let kind = reader.choice("kind", &kinds).unwrap_or(TriggerKind::Custom);
        Trigger { trigger_id, name, kind, first_seen_at: None }
    })
}

/// `Successful payment` → `successful_payment`
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars() {
        if c.is_alphanumeric() {
            slug.extend(c.to_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
    }
    slug.trim_end_matches('_').to_owned()
}

fn finish<T>(body: &Value, read: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    let read = {
        let Some(mut reader) = Reader::root(body, &mut faults) else { return Err(faults) };
        let read = read(&mut reader);
        reader.close();
        read
    };
    if faults.is_empty() { Ok(read) } else { Err(faults) }
}
