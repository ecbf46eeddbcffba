//! `apply(state, record) -> (state, outputs)`: one file per kind of record.

mod activate;
mod answer;
mod decide;
mod display;
mod fanout;
mod gates;
mod inspect;
mod link;

use super::decision::{Decision, Gate, Offered};
use super::definitions::Project;
use super::endpoint::EventType;
use super::id::{self, Origin};
use super::json::Json;
use super::message::{Data, Delivery, Seen};
use super::quota::{Change, Room};
use super::record::{Body, Record};
use super::time::{MINUTE, Millis};
use super::user::{MAX_ATTRIBUTES_BYTES, Offer, User};
use std::collections::BTreeMap;

pub use inspect::UserView;

/// Where and when a record is applied; all of it from the journal.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub origin: Origin,
    /// The partition's time: the largest append time read so far.
    pub now: Millis,
    pub project_id: &'a str,
    pub user_id: &'a str,
    pub project: &'a Project,
    /// What is left of the quotas of surveys that have one.
    pub rooms: &'a Rooms,
    /// Whether the record may wait for a grant.
    pub may_wait: bool,
}

/// By survey; one that is not there has no quota.
pub type Rooms = BTreeMap<String, Room>;

/// Of surveys none of which has a quota.
pub static NO_QUOTAS: Rooms = Rooms::new();

impl Scene<'_> {
    fn is_limited(&self, survey_id: &str) -> bool {
        self.rooms.contains_key(survey_id)
    }

    /// Lets an offer hold a grant for so long from when it was made. Without a
    /// quota nobody looks at single milliseconds: then there are fewer ends.
    fn hold(&self, offer: &mut Offer, span: Millis, out: &mut Outputs) {
        let until = offer.offered_at.saturating_add(span);
        let whole = until.saturating_add(MINUTE - 1).div_euclid(MINUTE).saturating_mul(MINUTE);
        let to = if self.is_limited(&offer.survey_id) { until } else { whole };
        let change = match offer.holds(self.now) {
            Some(until) => Change::Prolong { until, to },
            None => Change::Hold { until: to },
        };
        offer.held_until = Some(to);
        out.quotas.push((offer.survey_id.clone(), change));
    }

    fn room(&self, survey_id: &str) -> Room {
        match self.rooms.get(survey_id) {
            None => Room::Free,
            Some(Room::Ask) if !self.may_wait => Room::Full,
            Some(room) => *room,
        }
    }
}

/// What a record causes, in the order in which it is to be written.
#[derive(Debug, Default)]
pub struct Outputs {
    pub items: Vec<Output>,
    pub reply: Option<Reply>,
    /// Event ids that left the state and are to be kept by the store.
    pub spilled: Vec<(u128, Millis)>,
    /// What it means to the quotas of surveys.
    pub quotas: Vec<(String, Change)>,
    /// Surveys of which a grant is needed first. Then the record has had no
    /// effect, and the user is to stay as they were.
    pub needs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Decision(Box<Decision>),
    /// An accepted answer or completion, as topic `responses` carries it.
    Response {
        kind: EventType,
        /// When it happened.
        at: Millis,
        data: Box<Data>,
    },
    Seen(Seen),
    Delivery(Box<Delivery>),
    /// What waits to be delivered about the user is not to be sent any more.
    CancelDeliveries,
}

/// What is told to whoever waits for the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Decided(Box<Decision>),
    /// A repetition of a trigger whose decision the caller has to look up.
    Repeated,
    Accepted {
        duplicate: bool,
        response_id: Option<String>,
    },
    Offer(Box<OfferView>),
    Link(Box<LinkView>),
    User(Box<UserView>),
    Refused(Refusal),
}

/// An offer as `GET …/offers/{offer_id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferView {
    pub offered: Offered,
    pub displayed_at: Option<Millis>,
    pub dismissed_at: Option<Millis>,
    pub completed: bool,
    pub answers: Vec<(String, super::user::Answer)>,
}

/// A link survey as `GET …/surveys/{survey_id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkView {
    pub survey: std::sync::Arc<super::survey::Survey>,
    pub version: u64,
}

/// Why a record has no effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    UnknownOffer,
    OfferLapsed,
    UnknownSurvey,
    /// A link survey that this gate closes to this user.
    Closed(Gate),
    /// An answer that does not fit; the pointer is into the request's body.
    UnfitAnswer {
        pointer: String,
        detail: String,
    },
    AttributesTooLarge,
}

impl Refusal {
    /// Stable name, also the reason of a reject.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnknownOffer => "unknown_offer",
            Refusal::OfferLapsed => "offer_lapsed",
            Refusal::UnknownSurvey => "unknown_survey",
            Refusal::Closed(gate) => gate.name(),
            Refusal::UnfitAnswer { .. } => "invalid",
            Refusal::AttributesTooLarge => "attributes_too_large",
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Refusal::UnknownOffer => "no such offer was made to this user".into(),
            Refusal::OfferLapsed => {
                "the offer can no longer be used: it is older than 24 h, or its survey has a quota and \
                 it was not told as displayed within offer_ttl, or the quota is used up"
                    .into()
            }
            Refusal::UnknownSurvey => "no such link survey".into(),
            Refusal::Closed(gate) => format!("the survey is closed to this user: {}", gate.name()),
            Refusal::UnfitAnswer { detail, .. } => detail.clone(),
            Refusal::AttributesTooLarge => "the user's attributes would have more than 32 KiB".into(),
        }
    }
}

impl Outputs {
    fn refuse(&mut self, refusal: Refusal) {
        self.reply = Some(Reply::Refused(refusal));
    }
}

/// Whether a record can change or read its user's state at all. Most events
/// are of names that no survey listens to; they need no state.
pub fn touches_user(project: &Project, record: &Record<'_>) -> bool {
    match &record.body {
        Body::Event { name, .. } => !project.listeners(name).is_empty(),
        Body::Trigger { trigger, .. } => !project.shown_on(trigger).is_empty(),
        _ => true,
    }
}

/// Applies one record to its user. `seen_before` says that the store knows the
/// record's event id although the state no longer holds it.
pub fn apply(scene: Scene<'_>, user: &mut User, record: &Record<'_>, seen_before: bool) -> Outputs {
    let mut out = Outputs::default();
    if !touches_user(scene.project, record) {
        if let Body::Trigger { trigger, .. } = &record.body {
            decide::nothing_shows(scene, record, trigger, &mut out);
        }
        return out;
    }
    user.forget(scene.now);
    if let Some(event_id) = &record.event_id
        && deduplicated(&record.body)
    {
        let hash = id::event_hash(&record.project, &record.user_id, event_id);
        if seen_before || user.has_seen(hash) {
            out.reply = Some(Reply::Repeated);
            return out;
        }
        out.spilled.extend(user.remember(hash, scene.now));
    }
    match &record.body {
        Body::Event { name, properties } => activate::event(scene, user, record, name, properties),
        Body::Trigger { trigger, properties, context } => {
            decide::trigger(scene, user, record, decide::Asked { trigger, properties, context }, &mut out);
        }
        Body::Displayed { offer_id } => display::displayed(scene, user, record, offer_id, &mut out),
        Body::Dismissed { offer_id } => display::dismissed(scene, user, record, offer_id, &mut out),
        Body::Answers(answers) => answer::answers(scene, user, record, answers, &mut out),
        Body::Attributes(merge) => attributes(user, merge, &mut out),
        Body::Erase => erase(scene, user, &mut out),
        Body::ShowOffer { offer_id } => display::show(scene, user, offer_id, &mut out),
        Body::ShowUser => inspect::user(scene, user, &mut out),
        Body::ShowLink { survey_id, context } => link::show(scene, user, survey_id, context, &mut out),
    }
    if !out.needs.is_empty() {
        return Outputs { needs: out.needs, ..Outputs::default() };
    }
    user.bound();
    out
}

/// Displays, dismissals, answers and attributes are idempotent by what they
/// say; reads have nothing to repeat.
fn deduplicated(body: &Body<'_>) -> bool {
    matches!(body, Body::Event { .. } | Body::Trigger { .. })
}

fn attributes(user: &mut User, merge: &[(String, Json)], out: &mut Outputs) {
    let mut merged = user.attributes.clone();
    for (name, value) in merge {
        if value.is_null() {
            merged.remove(name);
        } else {
            merged.insert(name.clone(), value.clone());
        }
    }
    let bytes: usize = merged.iter().map(|(k, v)| k.len() + v.len_bytes() + 4).sum();
    if bytes > MAX_ATTRIBUTES_BYTES {
        return out.refuse(Refusal::AttributesTooLarge);
    }
    user.attributes = merged;
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}

/// Only the hashes of event ids stay: a late copy of an event must not bring
/// the user back.
fn erase(scene: Scene<'_>, user: &mut User, out: &mut Outputs) {
    for offer in &user.offers {
        let held = offer.holds(scene.now).map(|until| (offer.survey_id.clone(), Change::Release { until }));
        out.quotas.extend(held);
    }
    out.spilled.extend(std::mem::take(user).recent);
    out.items.push(Output::CancelDeliveries);
    fanout::erased(scene, out);
    out.reply = Some(Reply::Accepted { duplicate: false, response_id: None });
}
