//! What rules look at, and the report of a rule that does not hold.

use serde_json::Value;
use std::collections::BTreeMap;

use crate::survey::schedule::Zone;
use crate::time::Millis;
use crate::user::User;

/// By tag, the ids of the surveys that have it now.
pub type SurveysByTag = BTreeMap<String, Vec<String>>;

/// A rule that does not hold: the part that decided, the value that it looked at, and when
/// time alone will change the result.
#[derive(Debug, Clone, PartialEq)]
pub struct UnmetRule {
    pub actual: Value,
    pub until: Option<Millis>,
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct TargetingContext<'a> {
    pub user: &'a User,
    /// The user's attributes as one object.
    pub attributes: &'a Value,
    pub tags: &'a SurveysByTag,
    /// By survey id, how long its answers are kept; only surveys with a `retention`.
    pub retentions: &'a BTreeMap<String, Millis>,
    /// The time zone in which days are counted.
    pub zone: &'a Zone,
    pub now: Millis,
}
