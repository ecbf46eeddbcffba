//! Nobody sees a survey more often than its rules allow, as far as displays are
//! told while the offer stands.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

use askwhen_domain::definitions::Project;
use askwhen_domain::eligibility::apply::*;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::survey::{GlobalCooldown, Repeat};
use askwhen_domain::time::{ClientTimes, MINUTE, Millis};
use askwhen_domain::user::User;
use askwhen_wire::definition;

#[derive(Debug, Clone)]
enum Step {
    Event(u8),
    /// A trigger in a session; shown at once, later, or not.
    Ask {
        session: u8,
        shown_after: Option<u8>,
    },
    Answer {
        completed: bool,
    },
}

fn step() -> impl Strategy<Value = (u8, Step)> {
    let what = prop_oneof![
        3 => (0..2_u8).prop_map(Step::Event),
        6 => (0..6_u8, prop::option::weighted(0.8, 0..9_u8))
            .prop_map(|(session, shown_after)| Step::Ask { session, shown_after }),
        1 => any::<bool>().prop_map(|completed| Step::Answer { completed }),
    ];
    (0..30_u8, what)
}

fn survey() -> impl Strategy<Value = Value> {
    let repeat = prop::sample::select(vec!["once", "until_responded", "until_completed", "every_activation"]);
    let armed = prop::option::of((0..2_u8, prop::sample::select(vec!["refresh", "keep_first"])));
    (repeat, armed, prop::option::of(1..4_u32), prop::sample::select(vec!["0s", "20m", "2h"]), any::<bool>(), 0..3_i64)
        .prop_map(|(repeat, armed, max_displays, cooldown, respects, priority)| {
            let mut survey = json!({
                "name": "S", "status": "active", "priority": priority, "show_on": [{"trigger": "Main"}],
                "frequency": {"repeat": repeat, "max_displays": max_displays, "cooldown": cooldown,
                    "global_cooldown": if respects { "respect" } else { "ignore" }},
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "?"}],
            });
            if let Some((event, on_repeat)) = armed {
                survey["activate"] = json!({"event": format!("e{event}")});
                survey["expires_after"] = json!("1h");
                survey["on_repeat"] = json!(on_repeat);
            }
            survey
        })
}

/// One display: which survey, when, in which session, of which window.
#[derive(Debug, Clone)]
struct Seen {
    survey_id: String,
    offered_at: Millis,
    at: Millis,
    session: String,
    window: Option<String>,
}

struct Play {
    project: Project,
    user: User,
    offset: u64,
    now: Millis,
    seen: Vec<Seen>,
    /// Offers to be displayed then.
    waiting: Vec<(Millis, String, Seen)>,
    last_offer: Option<String>,
    completed: BTreeMap<String, Millis>,
    responded: BTreeMap<String, Millis>,
}

impl Play {
    fn apply(&mut self, body: Body<'_>) -> Outputs {
        self.offset += 1;
        let record =
            Record { project: "p".into(), user_id: "u".into(), event_id: None, times: ClientTimes::default(), body };
        let origin = Origin { incarnation: 1, partition: 0, offset: self.offset };
        let (now, project, quota_statuses) = (self.now, &self.project, &NO_QUOTAS);
        let (project_id, user_id, caps, may_wait) = ("p", "u", &NO_CAPS, false);
        let ctx = ApplyContext { origin, now, project_id, user_id, project, quota_statuses, caps, may_wait };
        let applied = apply(ctx, &self.user, &record, false);
        self.user = applied.user;
        applied.out
    }

    /// What was to be displayed by now, is.
    fn display(&mut self, until: Millis) {
        self.waiting.sort_by_key(|(at, ..)| *at);
        while self.waiting.first().is_some_and(|(at, ..)| *at <= until) {
            let (at, offer_id, seen) = self.waiting.remove(0);
            self.now = self.now.max(at);
            let out = self.apply(Body::Displayed { offer_id: offer_id.into() });
            if matches!(out.reply, Some(Reply::Accepted { duplicate: false, .. })) {
                self.seen.push(Seen { at: self.now, ..seen });
            }
        }
    }

    fn step(&mut self, (wait, step): &(u8, Step)) {
        let next = self.now + Millis::from(*wait) * MINUTE;
        self.display(next);
        self.now = self.now.max(next);
        match step {
            Step::Event(n) => {
                self.apply(Body::Event { name: format!("e{n}").into(), properties: "{}", session_id: None });
            }
            Step::Ask { session, shown_after } => {
                let session = format!("s{session}");
                let context = Context { session_id: Some(session.clone()), ..Context::default() };
                let out = self.apply(Body::Trigger { trigger: "Main".into(), properties: "{}", context });
                let Some(Reply::Decided(decision)) = out.reply else { panic!("no decision") };
                let Some(offered) = decision.survey.clone() else { return };
                self.last_offer = Some(offered.offer_id.clone());
                let made = self.user.offers.iter().find(|offer| offer.offer_id == offered.offer_id);
                let offered_at = made.expect("just offered").offered_at;
                let shown_at = shown_after.map(|after| self.now + Millis::from(after) * MINUTE);
                // What is shown later than the offer stands is told in vain.
                let stands = |at: &Millis| *at < offered_at + self.project.settings.offer_ttl;
                if let Some(at) = shown_at.filter(stands) {
                    let window = offered.activation.map(|activation| activation.event_id);
                    let seen = Seen { survey_id: offered.survey_id, offered_at, at: 0, session, window };
                    self.waiting.push((at, offered.offer_id, seen));
                }
            }
            Step::Answer { completed } => {
                let Some(offer_id) = self.last_offer.take() else { return };
                // An answer implies the display; only shown offers are answered here.
                let Some(offer) = self.user.offers.iter().find(|o| o.offer_id == offer_id) else { return };
                if offer.displayed_at.is_none() {
                    return;
                }
                let survey_id = offer.survey_id.clone();
                let value = Json::from_valid("3");
                let given = GivenAnswer { question_id: "q1".into(), value, answered_at: None, duration_ms: None };
                let said = Answers {
                    target: Target::Offer(offer_id),
                    answers: vec![given],
                    completed: *completed,
                    context: Context::default(),
                };
                self.apply(Body::Answers(said));
                self.responded.entry(survey_id.clone()).or_insert(self.now);
                if *completed {
                    self.completed.entry(survey_id).or_insert(self.now);
                }
            }
        }
    }

    fn check(&self) {
        for (id, entry) in &self.project.surveys {
            let rules = &entry.current.frequency;
            let own: Vec<&Seen> = self.seen.iter().filter(|seen| seen.survey_id == *id).collect();
            if rules.repeat == Repeat::Once {
                assert!(own.len() <= 1, "once: {own:?}");
            }
            if let Some(most) = rules.max_displays {
                assert!(own.len() <= most as usize, "max_displays {most}: {own:?}");
            }
            for pair in own.windows(2) {
                assert!(pair[1].at - pair[0].at >= rules.cooldown, "cooldown: {pair:?}");
            }
            let done = match rules.repeat {
                Repeat::UntilResponded => self.responded.get(id),
                Repeat::UntilCompleted => self.completed.get(id),
                _ => None,
            };
            // An offer made before may still be displayed while it stands.
            let ttl = self.project.settings.offer_ttl;
            assert!(done.is_none_or(|done| own.iter().all(|seen| seen.at < *done + ttl)), "{done:?}: {own:?}");
            if entry.current.activate.is_some() {
                let mut windows: Vec<&String> = own.iter().filter_map(|seen| seen.window.as_ref()).collect();
                windows.sort_unstable();
                let all = windows.len();
                windows.dedup();
                assert_eq!(windows.len(), all, "one display a window: {own:?}");
            }
        }
        let cooldown = self.project.settings.global_cooldown;
        let respects = |id: &str| self.project.surveys[id].current.frequency.global_cooldown == GlobalCooldown::Respect;
        for (i, seen) in self.seen.iter().enumerate().filter(|(_, seen)| respects(&seen.survey_id)) {
            for before in &self.seen[..i] {
                // One that ignores the cooldown may be displayed between
                // another's offer and display: it waits for no one.
                let between = before.at >= seen.offered_at && !respects(&before.survey_id);
                let late_enough = seen.at - before.at >= cooldown;
                assert!(between || late_enough, "global_cooldown: {before:?} {seen:?}");
            }
        }
        let mut sessions: BTreeMap<&str, u32> = BTreeMap::new();
        for seen in &self.seen {
            *sessions.entry(&seen.session).or_default() += 1;
        }
        let most = self.project.settings.max_per_session;
        assert!(sessions.values().all(|displays| *displays <= most), "max_per_session {most}: {:?}", self.seen);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_is_asked_more_often_than_the_rules_allow(
        surveys in prop::collection::vec(survey(), 1..4),
        global in prop::sample::select(vec!["0s", "30m", "3h"]),
        cap in 1..3_u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut play = Play {
            project: Project::default(),
            user: User::default(),
            offset: 0,
            now: 0,
            seen: Vec::new(),
            waiting: Vec::new(),
            last_offer: None,
            completed: BTreeMap::new(),
            responded: BTreeMap::new(),
        };
        let settings = json!({"global_cooldown": global, "max_per_session": cap});
        play.project.put_settings(1, definition::settings(&settings).expect("settings"));
        for (n, mut survey) in surveys.into_iter().enumerate() {
            survey["survey_id"] = json!(format!("s{n}"));
            play.project.put_survey(n as u64 + 2, definition::survey(&survey, None).expect("a survey"), 0, 0);
        }
        steps.iter().for_each(|step| play.step(step));
        play.check();
    }
}
