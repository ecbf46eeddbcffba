//! Where and when a record is applied, and what it asks.

use std::collections::BTreeMap;

use super::output::Outputs;
use crate::definitions::Project;
use crate::id::Origin;
use crate::quota::cap::{CapAnswer, CapKey};
use crate::quota::{Change, QuotaStatus};
use crate::record::Context;
use crate::time::{MINUTE, Millis};
use crate::user::Offer;

/// What a trigger record asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestContext<'a> {
    pub trigger: &'a str,
    pub properties: &'a str,
    pub context: &'a Context,
}

/// Where and when a record is applied; all of it from the journal.
#[derive(Debug, Clone, Copy)]
pub struct ApplyContext<'a> {
    pub origin: Origin,
    /// The partition's time: the largest append time read so far.
    pub now: Millis,
    pub project_id: &'a str,
    pub user_id: &'a str,
    pub project: &'a Project,
    /// What is left of the quotas of surveys that have one.
    pub quota_statuses: &'a QuotaStatuses,
    /// What counters of caps have answered; of the others nothing is known.
    pub caps: &'a CapAnswers,
    /// Whether the record may wait for a grant.
    pub may_wait: bool,
}

/// The quota's status of each survey; a survey that is not there has no quota.
pub type QuotaStatuses = BTreeMap<String, QuotaStatus>;

/// What counters have answered.
pub type CapAnswers = BTreeMap<CapKey, CapAnswer>;

/// No counter has been asked.
pub static NO_CAPS: CapAnswers = CapAnswers::new();

/// No survey has a quota.
pub static NO_QUOTAS: QuotaStatuses = QuotaStatuses::new();

impl ApplyContext<'_> {
    pub(super) fn is_limited(&self, survey_id: &str) -> bool {
        self.quota_statuses.contains_key(survey_id)
    }

    /// Lets an offer hold a grant for a span from when it was made. Without a quota or a
    /// cap the end is rounded up to a minute: then there are fewer ends to keep.
    pub(super) fn hold(&self, offer: &mut Offer, span: Millis, is_capped: bool, out: &mut Outputs) {
        let until = offer.offered_at.saturating_add(span);
        let whole = until.saturating_add(MINUTE - 1).div_euclid(MINUTE).saturating_mul(MINUTE);
        let to = if is_capped || self.is_limited(&offer.survey_id) { until } else { whole };
        let change = match offer.holds(self.now) {
            Some(until) => Change::Prolong { until, to },
            None => Change::Hold { until: to },
        };
        offer.held_until = Some(to);
        out.quotas.push((offer.survey_id.clone(), change));
    }

    pub(super) fn quota_status(&self, survey_id: &str) -> QuotaStatus {
        match self.quota_statuses.get(survey_id) {
            None => QuotaStatus::Available,
            Some(QuotaStatus::NeedsGrant) if !self.may_wait => QuotaStatus::Exhausted,
            Some(status) => *status,
        }
    }
}
