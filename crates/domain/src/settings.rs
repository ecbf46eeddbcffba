//! The settings of a project that take part in decisions.

use serde::{Serialize, Serializer};

use crate::limits::USUAL_MAX_EXPIRES_AFTER;
use crate::quota::cap::Cap;
use crate::survey::activation::Pattern;
use crate::survey::schedule::ScheduleSpan;
use crate::survey::targeting::Rule;
use crate::time::{self, DAY, HOUR, MINUTE, Millis};
use crate::user::{ID_REMEMBERED, OFFER_KNOWN};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// How long no survey is offered after the display of any, in milliseconds; 0 is off.
    #[serde(serialize_with = "time::as_duration")]
    pub global_cooldown: Millis,
    /// The most displays in one session.
    pub max_per_session: u32,
    /// How long an offer may stay undisplayed before its survey can be offered again, in
    /// milliseconds.
    #[serde(serialize_with = "time::as_duration")]
    pub offer_ttl: Millis,
    /// The oldest event that still counts, in milliseconds before it is received.
    #[serde(serialize_with = "time::as_duration")]
    pub allowed_lateness: Millis,
    /// Whether an erasure keeps the time of the user's last display.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub erase_keeps_cooldown: bool,
    /// Which users may be asked at all; a survey can opt out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targeting: Option<Rule>,
    /// Spans of time in which no survey is offered.
    #[serde(rename = "schedule", skip_serializing_if = "Vec::is_empty", serialize_with = "as_schedule")]
    pub except: Vec<ScheduleSpan>,
    /// Caps that count over all surveys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<Cap>,
    /// The longest `expires_after` that surveys may have, in milliseconds; event ids are
    /// remembered for as long.
    #[serde(skip_serializing_if = "is_usual_expiry", serialize_with = "time::as_duration")]
    pub max_expires_after: Millis,
    /// How long an offer can be displayed, dismissed and answered, in milliseconds.
    #[serde(skip_serializing_if = "is_usual_offer_known", serialize_with = "time::as_duration")]
    pub offer_known: Millis,
    /// A session that was idle for longer, in milliseconds, counts as a new one.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub session_lifetime: Option<Millis>,
}

fn as_schedule<S: Serializer>(except: &[ScheduleSpan], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([("except", except)])
}

fn is_usual_expiry(span: &Millis) -> bool {
    *span == USUAL_MAX_EXPIRES_AFTER
}

fn is_usual_offer_known(span: &Millis) -> bool {
    *span == OFFER_KNOWN
}

impl Settings {
    /// How long an event id is remembered at least, in milliseconds.
    pub fn id_remembered(&self) -> Millis {
        self.max_expires_after.max(ID_REMEMBERED)
    }

    /// The events that its targeting rule counts.
    pub fn counts_events(&self) -> impl Iterator<Item = &Pattern> {
        self.targeting.iter().flat_map(Rule::events)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            global_cooldown: 7 * DAY,
            max_per_session: 1,
            offer_ttl: 10 * MINUTE,
            allowed_lateness: 100 * HOUR,
            erase_keeps_cooldown: false,
            targeting: None,
            except: Vec::new(),
            caps: Vec::new(),
            max_expires_after: USUAL_MAX_EXPIRES_AFTER,
            offer_known: OFFER_KNOWN,
            session_lifetime: None,
        }
    }
}
