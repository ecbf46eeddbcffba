//! One user, as the API shows them.

use serde::Serialize;
use std::collections::BTreeMap;

use crate::eligibility::decision::{ActivationView, Gate};
use crate::json::Json;
use crate::time::{self, Millis};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UserView {
    pub user_id: String,
    /// Whether the engine knows anything about the user.
    pub known: bool,
    /// Omitted when there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<AliasView>,
    pub attributes: BTreeMap<String, Json>,
    pub windows: Vec<WindowView>,
    pub offers: Vec<OfferLine>,
    pub counters: Counters,
    /// By experiment, the user's arm.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arms: BTreeMap<String, String>,
    pub surveys: Vec<SurveyAvailability>,
}

/// Another name of the user, and when its state was taken over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AliasView {
    pub alias: String,
    #[serde(serialize_with = "time::as_time")]
    pub since: Millis,
}

/// A window that is open or waits for its delay.
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
    /// By survey id.
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

/// Whether a survey could be offered now, apart from the gates that look at the trigger's
/// context and properties.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SurveyAvailability {
    pub survey_id: String,
    pub eligible: bool,
    pub gate: Option<Gate>,
    pub until: Option<String>,
}
