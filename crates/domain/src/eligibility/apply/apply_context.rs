//! The surroundings of a record: its place and time in the journal, and what a trigger asks
//! for.

use std::collections::BTreeMap;

use super::output::Outputs;
use crate::definitions::Project;
use crate::id::Origin;
use crate::quota::cap::{CapAnswer, CapKey};
use crate::quota::{QuotaChange, QuotaStatus};
use crate::record::Context;
use crate::time::{MINUTE, Millis};
use crate::user::Offer;

/// The content of a trigger.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    pub trigger: &'a str,
    pub properties: &'a str,
    pub context: &'a Context,
}

/// Place and time of the record that is applied, and the definitions in force; all of it
/// comes from the journal.
#[derive(Debug, Clone, Copy)]
pub struct ApplyContext<'a> {
    pub origin: Origin,
    /// The partition's time: the largest append time read so far.
    pub now: Millis,
    pub project_id: &'a str,
    pub user_id: &'a str,
    pub project: &'a Project,
    /// The quota status of each survey that has a quota and that [`super::quota_surveys`] names.
    pub quota_statuses: &'a QuotaStatuses,
    /// Answers of the counters of caps that have been asked so far.
    pub caps: &'a CapAnswers,
    /// Whether the record may wait for a grant.
    pub may_wait: bool,
}

/// By survey id; a survey without a quota is missing.
pub type QuotaStatuses = BTreeMap<String, QuotaStatus>;

/// By counter, its answer.
pub type CapAnswers = BTreeMap<CapKey, CapAnswer>;

/// No counter has been asked.
pub static NO_CAPS: CapAnswers = CapAnswers::new();

/// For what is done without a look at quotas, whether surveys have them or not; known by its
/// address.
pub static NO_QUOTAS: QuotaStatuses = QuotaStatuses::new();

impl<'a> ApplyContext<'a> {
    /// For what is done to a name without a decision.
    pub fn of_name(
        origin: Origin,
        now: Millis,
        project_id: &'a str,
        user_id: &'a str,
        project: &'a Project,
    ) -> ApplyContext<'a> {
        let (quota_statuses, caps) = (&NO_QUOTAS, &NO_CAPS);
        ApplyContext { origin, now, project_id, user_id, project, quota_statuses, caps, may_wait: false }
    }

    pub(super) fn is_limited(&self, survey_id: &str) -> bool {
        self.known_status(survey_id).is_some()
    }

    fn known_status(&self, survey_id: &str) -> Option<QuotaStatus> {
        let known = self.quota_statuses.get(survey_id).copied();
        if known.is_some() || std::ptr::eq(self.quota_statuses, &NO_QUOTAS) || !self.project.is_limited(survey_id) {
            return known;
        }
        debug_assert!(false, "quota_surveys does not name {survey_id}, whose quota is looked at");
        // A survey must not be without a limit because of a mistake here.
        Some(QuotaStatus::Exhausted)
    }

    /// Lets an offer hold a grant for `span` milliseconds from when it was made. For a
    /// survey without quota and cap the end is rounded up to a full minute, so that fewer
    /// distinct times have to be stored.
    pub(super) fn hold(&self, offer: &mut Offer, span: Millis, is_capped: bool, out: &mut Outputs) {
        let until = offer.offered_at.saturating_add(span);
        let whole = until.saturating_add(MINUTE - 1).div_euclid(MINUTE).saturating_mul(MINUTE);
        let to = if is_capped || self.is_limited(&offer.survey_id) { until } else { whole };
        let change = match offer.holds(self.now) {
            Some(until) => QuotaChange::Prolong { until, to },
            None => QuotaChange::Hold { until: to },
        };
        offer.held_until = Some(to);
        out.quotas.push((offer.survey_id.clone(), change));
    }

    pub(super) fn quota_status(&self, survey_id: &str) -> QuotaStatus {
        match self.known_status(survey_id) {
            None => QuotaStatus::Available,
            Some(QuotaStatus::NeedsGrant) if !self.may_wait => QuotaStatus::Exhausted,
            Some(status) => status,
        }
    }
}
