//! Counts of each survey in one run of the journal. While partitions are read they
//! hold sets of users, so that nobody counts twice; afterwards they are plain numbers.

use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};

use askwhen_domain::eligibility::apply::Output;
use askwhen_domain::eligibility::decision::{Decision, DecisionReason};
use askwhen_domain::id;
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_domain::webhook::endpoint::EventType;

/// The counts of one survey, under the names of `askwhen stats`, and its users.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Triggers at which it was looked at.
    pub considered: u64,
    /// Triggers that were answered with it.
    pub offered: u64,
    /// Triggers at which it was not offered, by the first gate that failed.
    pub not_offered: BTreeMap<&'static str, u64>,
    /// Offers by their ids: one that was given twice counts once.
    pub offers: u64,
    pub displayed: u64,
    pub dismissed: u64,
    pub answered: u64,
    pub completed: u64,
    pub users_considered: u64,
    pub users_reached: u64,
    /// By day in UTC (`2026-11-29`), every day from the first to the last offer.
    pub per_day: BTreeMap<String, Reach>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reach {
    pub offers: u64,
    pub users: u64,
    /// Users who had not been offered it before in this run.
    pub new_users: u64,
}

/// The effect of the tried surveys on another one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OtherSurveyImpact {
    pub offers_without: u64,
    pub offers_with: u64,
    pub users_without: u64,
    pub users_with: u64,
    /// Offers that are made only without the tried surveys.
    pub lost: u64,
    /// Offers that are made only with them.
    pub gained: u64,
    /// The lost offers by the gate that failed at their trigger.
    pub lost_by: BTreeMap<&'static str, u64>,
    /// Users who were offered it and one of the tried surveys.
    pub users_in_both: u64,
}

impl Counts {
    /// Adds what other users came to.
    pub fn add(&mut self, other: &Counts) {
        self.considered += other.considered;
        self.offered += other.offered;
        for (gate, count) in &other.not_offered {
            *self.not_offered.entry(gate).or_default() += count;
        }
        self.offers += other.offers;
        self.displayed += other.displayed;
        self.dismissed += other.dismissed;
        self.answered += other.answered;
        self.completed += other.completed;
        self.users_considered += other.users_considered;
        self.users_reached += other.users_reached;
        for (day, reach) in &other.per_day {
            let own = self.per_day.entry(day.clone()).or_default();
            own.offers += reach.offers;
            own.users += reach.users;
            own.new_users += reach.new_users;
        }
    }

    /// Adds the days in between on which there was no offer.
    pub fn fill_days(&mut self) {
        let day = |text: Option<&String>| time::parse_time(&format!("{}T00:00:00Z", text?)).ok();
        let ends = (day(self.per_day.keys().next()), day(self.per_day.keys().next_back()));
        let (Some(first), Some(last)) = ends else { return };
        let mut at = first;
        while at < last {
            self.per_day.entry(date(at.div_euclid(DAY))).or_default();
            at += DAY;
        }
    }
}

impl OtherSurveyImpact {
    /// Adds what other users came to.
    pub fn add(&mut self, other: &OtherSurveyImpact) {
        self.offers_without += other.offers_without;
        self.offers_with += other.offers_with;
        self.users_without += other.users_without;
        self.users_with += other.users_with;
        self.lost += other.lost;
        self.gained += other.gained;
        for (gate, count) in &other.lost_by {
            *self.lost_by.entry(gate).or_default() += count;
        }
        self.users_in_both += other.users_in_both;
    }
}

/// The day with this number since the epoch.
fn date(day: i64) -> String {
    time::format_time(day * DAY)[..10].to_owned()
}

#[derive(Debug, Default)]
struct Survey {
    counts: Counts,
    considered: HashSet<u64>,
    /// Responses that have answers.
    answered: HashSet<u64>,
    reached: HashSet<u64>,
    days: BTreeMap<i64, (Reach, HashSet<u64>)>,
}

/// Counts of one run over some partitions.
#[derive(Debug, Default)]
pub struct Tally {
    surveys: HashMap<String, Survey>,
    /// The survey of each offer that this run has made.
    pub offers: HashMap<String, String>,
    /// The offset at which the run began, by partition: earlier offers are not its own.
    since: BTreeMap<u32, u64>,
    /// The gate that failed, of offers that only the other run has made.
    failed_gates: HashMap<String, &'static str>,
}

impl Tally {
    pub fn new(since: BTreeMap<u32, u64>) -> Tally {
        Tally { since, ..Tally::default() }
    }

    /// Counts the outputs of records; returns the decisions that make a new offer.
    pub fn count<'a>(&mut self, items: &'a [Output]) -> Vec<&'a Decision> {
        let mut new = Vec::new();
        for item in items {
            match item {
                Output::Decision(decision) => {
                    new.extend(self.decision(decision).then_some(&**decision));
                }
                Output::OfferEvent(seen) if !seen.test => {
                    let counts = &mut self.surveys.entry(seen.survey_id.clone()).or_default().counts;
                    match seen.kind {
                        EventType::Displayed => counts.displayed += 1,
                        _ => counts.dismissed += 1,
                    }
                }
                Output::Response { kind, data, .. } if !data.test => {
                    let survey = self.surveys.entry(data.survey_id.clone()).or_default();
                    match kind {
                        EventType::Completed => survey.counts.completed += 1,
                        _ => {
                            survey.answered.insert(xxhash_rust::xxh3::xxh3_64(data.response_id.as_bytes()));
                        }
                    }
                }
                _ => {}
            }
        }
        new
    }

    /// Counts a decision; returns whether it makes an offer that is new to this run.
    fn decision(&mut self, decision: &Decision) -> bool {
        let user = xxhash_rust::xxh3::xxh3_64(decision.user_id.as_bytes());
        let offered = decision.survey.as_ref().filter(|_| decision.reason == DecisionReason::Offered);
        for evaluation in &decision.evaluations {
            let survey = entry(&mut self.surveys, &evaluation.survey_id);
            survey.counts.considered += 1;
            survey.considered.insert(user);
            match &evaluation.failure {
                Some(failure) => *survey.counts.not_offered.entry(failure.gate.name()).or_default() += 1,
                None if offered.is_some_and(|offered| offered.survey_id == evaluation.survey_id) => {
                    survey.counts.offered += 1;
                }
                None => *survey.counts.not_offered.entry("shadow").or_default() += 1,
            }
        }
        let Some(offered) = offered else { return false };
        let (partition, offset) =
            id::offer_position(&offered.offer_id).map_or((0, 0), |trigger| (trigger.partition, trigger.offset));
        let from_before = self.since.get(&(partition & 0xffff)).is_some_and(|since| offset < *since);
        if from_before || self.offers.contains_key(&offered.offer_id) {
            return false;
        }
        self.offers.insert(offered.offer_id.clone(), offered.survey_id.clone());
        let survey = entry(&mut self.surveys, &offered.survey_id);
        survey.counts.offers += 1;
        let (reach, users) = survey.days.entry(decision.decided_at.div_euclid(DAY)).or_default();
        reach.offers += 1;
        reach.users += u64::from(users.insert(user));
        reach.new_users += u64::from(survey.reached.insert(user));
        true
    }

    /// Notes the gate that failed here, of an offer that the run as it was has made.
    pub fn note_failed_gate(&mut self, offer_id: &str, survey_id: &str, decision: Option<&Decision>) {
        let evaluations = decision.map_or(&[][..], |decision| &decision.evaluations);
        let failure = evaluations.iter().find(|e| e.survey_id == survey_id).and_then(|e| e.failure.as_ref());
        if let Some(failure) = failure {
            self.failed_gates.insert(offer_id.to_owned(), failure.gate.name());
        }
    }

    /// Whether two runs have both made an offer, or neither.
    pub fn agrees(&self, other: &Tally, offer_id: &str) -> bool {
        self.offers.get(offer_id) == other.offers.get(offer_id)
    }

    /// The numbers of every survey.
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        let close = |survey: &Survey| {
            let mut counts = survey.counts.clone();
            counts.answered = survey.answered.len() as u64;
            counts.users_considered = survey.considered.len() as u64;
            counts.users_reached = survey.reached.len() as u64;
            counts.per_day = survey.days.iter().map(|(day, (reach, _))| (date(*day), *reach)).collect();
            counts
        };
        self.surveys.iter().map(|(id, survey)| (id.clone(), close(survey))).collect()
    }

    /// The effect of the surveys in `tried` on every other one, compared with a run
    /// without them.
    pub fn beside(&self, without: &Tally, tried: &HashSet<String>) -> BTreeMap<String, OtherSurveyImpact> {
        let mut all: BTreeMap<String, OtherSurveyImpact> = BTreeMap::new();
        let none = Survey::default();
        let others = self.surveys.keys().chain(without.surveys.keys()).filter(|id| !tried.contains(*id));
        for id in others {
            if all.contains_key(id) {
                continue;
            }
            let (with, without) = (self.surveys.get(id).unwrap_or(&none), without.surveys.get(id).unwrap_or(&none));
            let both = |user: &&u64| {
                tried.iter().any(|id| self.surveys.get(id).is_some_and(|survey| survey.reached.contains(user)))
            };
            let beside = OtherSurveyImpact {
                offers_without: without.counts.offers,
                offers_with: with.counts.offers,
                users_without: without.reached.len() as u64,
                users_with: with.reached.len() as u64,
                users_in_both: with.reached.iter().filter(both).count() as u64,
                ..OtherSurveyImpact::default()
            };
            all.insert(id.clone(), beside);
        }
        for (offer_id, survey_id) in without.offers.iter().filter(|(id, _)| !self.agrees(without, id)) {
            if let Some(beside) = all.get_mut(survey_id) {
                beside.lost += 1;
                let gate = self.failed_gates.get(offer_id).copied().unwrap_or("not_considered");
                *beside.lost_by.entry(gate).or_default() += 1;
            }
        }
        for (_, survey_id) in self.offers.iter().filter(|(id, _)| !self.agrees(without, id)) {
            if let Some(beside) = all.get_mut(survey_id) {
                beside.gained += 1;
            }
        }
        all
    }
}

fn entry<'a>(surveys: &'a mut HashMap<String, Survey>, id: &str) -> &'a mut Survey {
    if !surveys.contains_key(id) {
        surveys.insert(id.to_owned(), Survey::default());
    }
    surveys.get_mut(id).expect("just put there")
}

/// The day of a moment, for what is printed.
pub fn day_of(at: Millis) -> String {
    date(at.div_euclid(DAY))
}
