//! One user as the engine knows them, as it is shown.

use serde::Serialize;
use std::collections::BTreeMap;

use crate::eligibility::decision::{ActivationView, Gate};
use crate::json::Json;
use crate::time::{self, Millis};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UserView {
    pub user_id: String,
    /// Whether anything is remembered.
    pub known: bool,
    /// Left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<AliasView>,
    pub attributes: BTreeMap<String, Json>,
    pub windows: Vec<WindowView>,
    pub offers: Vec<OfferLine>,
    pub counters: Counters,
    /// The user's arm of each experiment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arms: BTreeMap<String, String>,
    pub surveys: Vec<SurveyAvailability>,
}

/// Another name of the user, and when what was known under it went over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AliasView {
    pub alias: String,
    #[serde(serialize_with = "time::as_time")]
    pub since: Millis,
}

/// A window that is open, or will be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowView {
    pub survey_id: String,
    #[serde(serialize_with = "time::as_time")]
    pub opens_at: Millis,
    #[serde(serialize_with = "time::as_time")]
    pub expires_at: Millis,
    pub activation: ActivationView,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfferLine {
    pub offer_id: String,
    pub survey_id: String,
    pub version: u64,
    pub trigger: String,
    pub offered_at: String,
    pub expires_at: String,
    pub displayed_at: Option<String>,
    pub dismissed_at: Option<String>,
    pub answered: bool,
    pub completed: bool,
    pub test: bool,
    pub link: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counters {
    pub last_display_at: Option<String>,
    /// By survey.
    pub surveys: BTreeMap<String, SurveyCounters>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyCounters {
    pub displays: u32,
    pub last_offer_at: Option<String>,
    pub last_display_at: Option<String>,
    pub last_answer_at: Option<String>,
    pub last_completion_at: Option<String>,
    pub last_dismissal_at: Option<String>,
}

/// Whether a survey could be offered now, for all that does not depend on the
/// trigger: its context and its properties are not known here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyAvailability {
    pub survey_id: String,
    pub eligible: bool,
    pub gate: Option<Gate>,
    pub until: Option<String>,
}
