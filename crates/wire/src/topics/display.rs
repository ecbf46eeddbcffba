//! Topic `displays`: displays and dismissals of offers.

use serde::{Deserialize, Serialize};

use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::OfferEvent;

/// A display or a dismissal of an offer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DisplayRecord {
    /// `survey.displayed` or `survey.dismissed`.
    #[serde(rename = "type")]
    pub kind: EventType,
    pub project: String,
    pub user_id: String,
    #[serde(with = "time::rfc3339")]
    pub occurred_at: Millis,
    pub offer_id: String,
    pub survey_id: String,
    pub survey_version: u64,
    /// Empty for a link survey.
    pub trigger: String,
    pub test: bool,
}

impl DisplayRecord {
    pub fn of(seen: &OfferEvent) -> DisplayRecord {
        DisplayRecord {
            kind: seen.kind,
            project: seen.project.clone(),
            user_id: seen.user_id.clone(),
            occurred_at: seen.occurred_at,
            offer_id: seen.offer_id.clone(),
            survey_id: seen.survey_id.clone(),
            survey_version: seen.survey_version,
            trigger: seen.trigger.clone(),
            test: seen.test,
        }
    }
}
