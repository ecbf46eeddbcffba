//! A naive fold of the journal: what ought to be decided, worked out from each
//! user's whole past for clarity and not for speed. It uses none of the
//! engine's code but the reader of records and the spelling of ids.

use std::collections::{BTreeMap, BTreeSet};

use askwhen_domain::id::{self, Origin};
use askwhen_domain::record::{Body, Record, Target};
use askwhen_domain::time::{HOUR, MINUTE, Millis};
use askwhen_wire::record::{self, AliasAction, AliasStep, BOUND_MAC_HEADER, Decoded, Erase, Internal};

use crate::bodies::{OFFER_TTL_MS, ONCE, OPEN, PROJECT, SURVEYS, THIRD, trigger_of};
use crate::medium::INCARNATION;
use crate::world::{ALIASED, FORGED};

const WINDOW: Millis = 100 * HOUR;
const OFFER_KNOWN: Millis = 24 * HOUR;
/// An erasure that was asked for longer ago is a copy of an old one.
const REQUEST_LIFE: Millis = 10 * MINUTE;

/// What a trigger is to be answered with.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Offered {
        survey: &'static str,
        offer_id: String,
    },
    Nothing,
    /// Not worked out here: of a quota, or of the survey of many forms.
    Any,
}

#[derive(Debug, Default)]
pub struct Expected {
    /// By the event id of the trigger.
    pub decisions: BTreeMap<String, Verdict>,
    /// Offers that are completed.
    pub completed: BTreeSet<String>,
    /// Event ids of triggers that came back to their name when it had been erased: they are
    /// gone with it.
    pub overtaken: BTreeSet<String>,
    /// Users of whom nothing is known after an erasure.
    pub gone: BTreeSet<String>,
}

struct Made {
    offer_id: String,
    survey: &'static str,
    offered_at: Millis,
    displayed: bool,
    dismissed: bool,
    answered: bool,
}

#[derive(Default)]
struct User {
    seen: BTreeSet<String>,
    woke: Vec<Millis>,
    ticks: Vec<Millis>,
    made: Vec<Made>,
    displayed: BTreeSet<&'static str>,
    completed: BTreeSet<&'static str>,
    erased: bool,
}

/// Where and when a record counts.
#[derive(Clone, Copy)]
struct Place {
    partition: u32,
    offset: u64,
    now: Millis,
}

/// Folds the journals of all partitions.
pub fn fold(journals: &[Vec<askwhen_log::Record>]) -> Expected {
    let mut expected = Expected::default();
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    let partitions = journals.len() as u32;
    for (partition, journal) in (0..).zip(journals) {
        let mut now = 0;
        let mut taken: BTreeMap<u32, u64> = BTreeMap::new();
        let mut erased: BTreeMap<String, Millis> = BTreeMap::new();
        for record in journal {
            now = now.max(record.appended_at);
            let trusted = record.header(BOUND_MAC_HEADER).is_some() && record.header(FORGED).is_none();
            let Ok(decoded) = record::decode(record.value.as_deref(), trusted) else { continue };
            let place = Place { partition, offset: record.offset, now };
            let owns = |user_id: &str| id::partition_of(user_id, partitions) == partition;
            match decoded {
                Decoded::User(record) if owns(&record.user_id) => {
                    take(users.entry(record.user_id.to_string()).or_default(), &record, place, &mut expected);
                }
                Decoded::Internal(internal) => match *internal {
                    Internal::Forward(forward) => {
                        let last = taken.entry(forward.from).or_default();
                        if forward.seq != *last + 1 {
                            continue;
                        }
                        *last = forward.seq;
                        match record::decode(Some(forward.value.as_str().as_bytes()), forward.trusted) {
                            Ok(Decoded::User(record)) => {
                                let came = forward.passed_on.filter(|passed_on| passed_on.name == record.user_id);
                                if came.is_some_and(|came| erased.get(&came.name) >= Some(&came.at)) {
                                    expected.overtaken.extend(record.event_id.as_deref().map(str::to_owned));
                                }
                                let user = users.entry(record.user_id.to_string()).or_default();
                                take(user, &record, place, &mut expected);
                            }
                            Ok(Decoded::Internal(internal)) => match *internal {
                                Internal::Erase(Erase { user_id: name, .. })
                                | Internal::AliasStep(AliasStep { at: name, action: AliasAction::Forget(_), .. }) => {
                                    erased.insert(name, now);
                                }
                                _ => {}
                            },
                            Err(_) => {}
                        }
                    }
                    Internal::Erase(erase) if owns(&erase.user_id) && (now - erase.asked_at).abs() <= REQUEST_LIFE => {
                        erased.insert(erase.user_id.clone(), now);
                        let user = users.entry(erase.user_id).or_default();
                        let seen = std::mem::take(&mut user.seen);
                        *user = User { seen, erased: true, ..User::default() };
                    }
                    _ => {}
                },
                Decoded::User(_) => {}
            }
        }
    }
    // What becomes of names that become each other's is not worked out here.
    let gone = users.into_iter().filter(|(id, user)| user.erased && !id.starts_with(ALIASED));
    expected.gone = gone.map(|(id, _)| id).collect();
    expected
}

fn take(user: &mut User, record: &Record<'_>, place: Place, expected: &mut Expected) {
    let new = record.event_id.as_ref().is_none_or(|id| user.seen.insert(id.to_string()));
    match &record.body {
        Body::Event { name, .. } if new => {
            user.erased = false;
            match &**name {
                "woke" => user.woke.push(place.now),
                "tick" => user.ticks.push(place.now),
                _ => {}
            }
        }
        Body::Trigger { trigger, .. } if new => {
            user.erased = false;
            let verdict = decide(user, (&record.user_id, trigger), place);
            let id = record.event_id.as_deref().unwrap_or_default().to_owned();
            expected.decisions.insert(id, verdict);
        }
        Body::Attributes(_) => user.erased = false,
        Body::Displayed { offer_id } => {
            if let Some(made) = known(user, offer_id, place.now) {
                show(user, made);
            }
        }
        Body::Dismissed { offer_id, .. } => {
            if let Some(made) = known(user, offer_id, place.now) {
                show(user, made);
                user.made[made].dismissed = true;
            }
        }
        Body::Answers(answers) => {
            let Target::Offer(offer_id) = &answers.target else { return };
            let Some(made) = known(user, offer_id, place.now) else { return };
            show(user, made);
            user.made[made].answered = true;
            if answers.completed && expected.completed.insert(offer_id.clone()) {
                user.completed.insert(user.made[made].survey);
            }
        }
        _ => {}
    }
}

fn known(user: &User, offer_id: &str, now: Millis) -> Option<usize> {
    user.made.iter().position(|made| made.offer_id == offer_id && now < made.offered_at + OFFER_KNOWN)
}

fn show(user: &mut User, made: usize) {
    user.made[made].displayed = true;
    user.displayed.insert(user.made[made].survey);
}

fn decide(user: &mut User, (user_id, trigger): (&str, &str), place: Place) -> Verdict {
    let Some(survey) = SURVEYS.into_iter().find(|survey| trigger_of(survey) == trigger) else { return Verdict::Any };
    let now = place.now;
    let open = |at: &&Millis| now < **at + WINDOW;
    let wanted = match survey {
        ONCE => user.woke.iter().any(|at| open(&at)) && !user.displayed.contains(ONCE),
        THIRD => {
            let third = |at: &&Millis| user.ticks.iter().filter(|t| **t <= **at && **t >= **at - WINDOW).count() >= 3;
            user.ticks.iter().filter(open).any(|at| third(&at)) && !user.displayed.contains(THIRD)
        }
        OPEN => !user.completed.contains(OPEN),
        _ => return Verdict::Any,
    };
    if !wanted {
        return Verdict::Nothing;
    }
    let outstanding = user.made.iter().find(|made| {
        made.survey == survey
            && !made.displayed
            && !made.dismissed
            && !made.answered
            && now < made.offered_at + OFFER_TTL_MS
    });
    let offer_id = match outstanding {
        Some(made) => made.offer_id.clone(),
        None => {
            let origin = Origin { incarnation: INCARNATION, partition: place.partition, offset: place.offset };
            let offer_id = origin.offer_id(PROJECT, user_id);
            let (displayed, dismissed, answered) = (false, false, false);
            let offered_at = now;
            user.made.push(Made { offer_id: offer_id.clone(), survey, offered_at, displayed, dismissed, answered });
            offer_id
        }
    };
    Verdict::Offered { survey, offer_id }
}
