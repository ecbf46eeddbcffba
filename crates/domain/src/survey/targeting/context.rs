//! What rules look at, and what they say when they do not hold.

use serde_json::Value;
use std::collections::BTreeMap;

use crate::survey::schedule::Zone;
use crate::time::Millis;
use crate::user::User;

/// Survey ids by the tags that they have now.
pub type SurveysByTag = BTreeMap<String, Vec<String>>;

/// Why a rule does not hold: the part that decided, what it saw, and when time
/// alone will change it.
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
    /// How long answers are known, of the surveys that say so.
    pub retentions: &'a BTreeMap<String, Millis>,
    /// The clocks that tell days apart.
    pub zone: &'a Zone,
    pub now: Millis,
}
