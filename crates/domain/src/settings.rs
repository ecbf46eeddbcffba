//! A project's settings, as far as they decide.

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
    /// From the last display of any survey; zero is off.
    #[serde(serialize_with = "time::as_duration")]
    pub global_cooldown: Millis,
    /// Displays per session.
    pub max_per_session: u32,
    /// How long an offer may stay unseen before its survey is armed again.
    #[serde(serialize_with = "time::as_duration")]
    pub offer_ttl: Millis,
    /// How old an event may be and still count.
    #[serde(serialize_with = "time::as_duration")]
    pub allowed_lateness: Millis,
    /// An erasure keeps when the user was asked last.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub erase_keeps_cooldown: bool,
    /// Whom surveys may ask at all, unless they ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targeting: Option<Rule>,
    /// When nobody is asked anything.
    #[serde(rename = "schedule", skip_serializing_if = "Vec::is_empty", serialize_with = "as_schedule")]
    pub except: Vec<ScheduleSpan>,
    /// Caps over all surveys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<Cap>,
    /// The longest that windows may be open; event ids are remembered as long.
    #[serde(skip_serializing_if = "is_usual_expiry", serialize_with = "time::as_duration")]
    pub max_expires_after: Millis,
    /// An offer can be displayed, dismissed and answered for so long.
    #[serde(skip_serializing_if = "is_usual_offer_known", serialize_with = "time::as_duration")]
    pub offer_known: Millis,
    /// A session's id that was idle for longer counts as a new one.
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
    /// An event id is remembered for at least so long.
    pub fn id_remembered(&self) -> Millis {
        self.max_expires_after.max(ID_REMEMBERED)
    }

    /// The events that its rule counts.
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
