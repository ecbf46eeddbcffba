//! Caps over eight partitions: whatever crashes, comes twice or comes late, and whatever
//! becomes of the limits meanwhile, nothing is ever counted above a cap; and in the end
//! nobody is refused while a place is left.

use super::*;
use askwhen_domain::time::{self, HOUR, MINUTE};
use serde_json::Value;

const WIDE: u32 = 8;
const USERS: usize = 48;
const COMPANIES: usize = 4;
const COUNTRIES: usize = 3;
/// Of a cap of displays that is over again after this time.
const WITHIN: i64 = 2 * HOUR;
/// So long passes between two records.
const STEP_MS: i64 = 40;

/// A cap of the survey, or the last one: of the settings.
#[derive(Debug, Clone, Copy)]
struct Limits {
    per_company: u64,
    per_country: u64,
    completed: u64,
    over_all: u64,
}

/// What a cap counts, for whom, and within which time.
struct Counted {
    max: u64,
    event: &'static str,
    groups: usize,
    within: Option<i64>,
}

impl Limits {
    fn caps(self) -> [Counted; 4] {
        let cap = |max, event, groups, within| Counted { max, event, groups, within };
        [
            cap(self.per_company, "displayed", COMPANIES, Some(WITHIN)),
            cap(self.per_country, "displayed", COUNTRIES, None),
            cap(self.completed, "completed", 1, None),
            cap(self.over_all, "displayed", 1, None),
        ]
    }

    fn survey(self) -> Value {
        json!({"survey_id": "s", "name": "S", "status": "active", "show_on": [{"trigger": "Main"}],
            "frequency": {"repeat": "every_activation", "global_cooldown": "ignore", "session_cap": "ignore"},
            "limits": {"caps": [
                {"count": "displayed", "max": self.per_company, "within": "2h", "per": {"attribute": "company"}},
                {"count": "displayed", "max": self.per_country, "per": {"attribute": "country"}, "missing": "shut"},
                {"count": "completed", "max": self.completed},
            ]},
            "questions": [{"question_id": "q", "type": "text", "text": "?"}]})
    }

    fn settings(self) -> Value {
        json!({"caps": [{"count": "displayed", "max": self.over_all}]})
    }
}

#[derive(Debug, Clone)]
enum Act {
    Ask(usize),
    Display(usize),
    Complete(usize),
    Dismiss(usize),
    /// A record of a journal comes once more, as it was.
    Copy(u32, usize),
    Resize(Limits),
    Wait(i64),
}

fn limits() -> impl Strategy<Value = Limits> {
    let all = (1..5_u64, 2..12_u64, 1..14_u64, 4..24_u64);
    all.prop_map(|(per_company, per_country, completed, over_all)| Limits {
        per_company,
        per_country,
        completed,
        over_all,
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..USERS).prop_map(Act::Ask),
        4 => (0..USERS).prop_map(Act::Display),
        3 => (0..USERS).prop_map(Act::Complete),
        1 => (0..USERS).prop_map(Act::Dismiss),
        2 => (0..WIDE, 0..1_000_usize).prop_map(|(partition, pick)| Act::Copy(partition, pick)),
        1 => limits().prop_map(Act::Resize),
        1 => prop_oneof![Just(MINUTE), Just(11 * MINUTE), Just(WITHIN), Just(WITHIN + 1)].prop_map(Act::Wait),
    ]
}

fn crash_or_not() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        6 => Just(Fault::Settle),
        2 => (0..WIDE as u8).prop_map(Fault::Checkpoint),
        1 => Just(Fault::Crash),
        2 => (0..WIDE as u8).prop_map(Fault::HalfStep),
    ]
}

struct Crowd {
    world: World,
    now: i64,
    /// The latest offer of each user, and how far decisions were read.
    offers: BTreeMap<String, String>,
    read: [u64; WIDE as usize],
    said: u32,
    limits: Limits,
    /// The greatest that each limit ever was.
    greatest: [u64; 4],
}

fn group(user: &str, groups: usize) -> usize {
    user[1..].parse::<usize>().expect("a number") % groups
}

impl Crowd {
    fn new(limits: Limits) -> Crowd {
        let world = World::of(WIDE, 1 << 20);
        let (offers, read, greatest) = (BTreeMap::new(), [0; WIDE as usize], [0; 4]);
        let mut crowd = Crowd { world, now: 0, offers, read, said: 0, limits, greatest };
        crowd.resize(limits);
        (0..USERS).for_each(|n| crowd.employ(&format!("u{n}")));
        crowd.world.settle();
        crowd
    }

    fn employ(&mut self, user: &str) {
        let told = json!({"company": group(user, COMPANIES), "country": group(user, COUNTRIES)});
        self.world.user(user, json!({"type": "attributes", "user_id": user, "attributes": told}), false);
    }

    fn resize(&mut self, limits: Limits) {
        self.said += 2;
        self.limits = limits;
        for (greatest, cap) in self.greatest.iter_mut().zip(limits.caps()) {
            *greatest = cap.max.max(*greatest);
        }
        self.world.define_at(self.now, self.said, Kind::Survey, ("s", &limits.survey()));
        self.world.define_at(self.now, self.said + 1, Kind::Settings, ("settings", &limits.settings()));
    }

    fn wait(&mut self, span: i64) {
        self.now += span;
        self.world.log.set_now(self.now);
    }

    fn ask(&mut self, user: &str) {
        self.said += 1;
        let event_id = format!("t{}", self.said);
        self.world.user(
            user,
            json!({"type": "trigger", "user_id": user, "trigger": "Main", "event_id": event_id}),
            false,
        );
    }

    /// Something about the user's latest offer.
    fn say(&mut self, user: &str, what: Value) {
        let Some(offer) = self.offers.get(user) else { return };
        let mut record = json!({"user_id": user, "offer_id": offer});
        record.as_object_mut().expect("an object").extend(what.as_object().cloned().unwrap_or_default());
        self.world.user(user, record, false);
    }

    fn act(&mut self, act: &Act) {
        self.wait(STEP_MS);
        match act {
            Act::Ask(n) => self.ask(&format!("u{n}")),
            Act::Display(n) => self.say(&format!("u{n}"), json!({"type": "displayed"})),
            Act::Complete(n) => self.say(&format!("u{n}"), completion()),
            Act::Dismiss(n) => self.say(&format!("u{n}"), json!({"type": "dismissed"})),
            Act::Copy(partition, pick) => {
                let journal = self.world.journal(*partition);
                let Some(record) = journal.get(pick % journal.len().max(1)) else { return };
                let Record { key, headers, value, .. } = record.clone();
                self.world.append(*partition, NewRecord { key, headers, value });
            }
            Act::Resize(limits) => self.resize(*limits),
            Act::Wait(span) => self.wait(*span),
        }
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::None => {}
            Fault::Settle => self.world.settle(),
            Fault::Checkpoint(partition) => {
                self.world.settle();
                self.world.checkpoint(usize::from(partition));
            }
            Fault::HalfStep(partition) => {
                self.world.log.sync();
                self.world.process.parts[usize::from(partition)].step().expect("it steps");
                self.world.crash();
            }
            Fault::Crash => {
                self.world.log.sync();
                self.world.crash();
            }
        }
        self.world.log.sync();
        self.listen();
    }

    /// Hears what was decided since; gives the decisions.
    fn listen(&mut self) -> Vec<Value> {
        let mut heard = Vec::new();
        for partition in 0..WIDE {
            let at = TopicPartition { topic: Topic::Decisions, partition };
            let position = &mut self.read[partition as usize];
            for record in self.world.log.read(at, *position, usize::MAX).expect("readable") {
                *position = record.offset + 1;
                let decision: Value = serde_json::from_slice(&record.value.expect("a decision")).expect("JSON");
                if let Some(offer) = decision["survey"]["offer_id"].as_str() {
                    let user = decision["user_id"].as_str().expect("a user").to_owned();
                    self.offers.insert(user, offer.to_owned());
                }
                heard.push(decision);
            }
        }
        heard
    }

    /// Users and times of all that was displayed, or completed.
    fn happened(&self, event: &str) -> Vec<(String, i64)> {
        let mut all = Vec::new();
        for ((topic, _), text) in self.world.outputs().0 {
            if !["displays", "responses"].contains(&topic) {
                continue;
            }
            let told: Value = serde_json::from_str(&text).expect("JSON");
            let (whose, at) = match told["type"].as_str() {
                Some("survey.displayed") if event == "displayed" => (&told["user_id"], &told["occurred_at"]),
                Some("response.completed") if event == "completed" => (&told["data"]["user_id"], &told["timestamp"]),
                _ => continue,
            };
            let at = time::parse_time(at.as_str().expect("a time")).expect("a time");
            all.push((whose.as_str().expect("a user").to_owned(), at));
        }
        all
    }

    /// Of each cap, its times by group, in order.
    fn counted(&self) -> Vec<(Counted, Vec<Vec<i64>>)> {
        let caps = self.limits.caps().into_iter().map(|cap| {
            let mut times = vec![Vec::new(); cap.groups];
            for (user, at) in self.happened(cap.event) {
                times[group(&user, cap.groups)].push(at);
            }
            times.iter_mut().for_each(|times| times.sort_unstable());
            (cap, times)
        });
        caps.collect()
    }

    fn check(&self) {
        for ((cap, counted), greatest) in self.counted().iter().zip(self.greatest) {
            for times in counted {
                let most = match cap.within {
                    None => times.len(),
                    Some(within) => {
                        let from = |at: &i64| times.iter().filter(|other| (*at..=at + within).contains(*other)).count();
                        times.iter().map(from).max().unwrap_or(0)
                    }
                };
                assert!(most as u64 <= greatest, "{most} {} of at most {greatest}: {times:?}", cap.event);
            }
        }
    }

    /// All that is held lapses; then strangers come until none of them is offered anything.
    fn use_up(&mut self) {
        self.world.settle();
        self.wait(25 * HOUR);
        self.world.settle();
        self.listen();
        let kinds = COMPANIES * COUNTRIES;
        let (mut shut, mut next) = (vec![false; kinds], USERS);
        while shut.iter().any(|shut| !shut) {
            let user = format!("u{next}");
            next += 1;
            if shut[group(&user, kinds)] {
                continue;
            }
            assert!(next < USERS + 2_000, "some cap ends it");
            self.wait(STEP_MS);
            self.employ(&user);
            self.ask(&user);
            self.world.settle();
            let decision = self.listen().into_iter().find(|decision| decision["user_id"] == user.as_str());
            let decision = decision.expect("it is decided");
            if decision["survey"].is_null() {
                self.check_refusal(&user, &decision);
                shut[group(&user, kinds)] = true;
                continue;
            }
            // Whoever looks only holds the place of a completion.
            self.say(&user, completion());
            self.world.settle();
        }
    }

    /// A refusal names the full cap that opens last, what it has counted, and until when.
    fn check_refusal(&self, user: &str, decision: &Value) {
        let told = &decision["evaluations"][0];
        assert_eq!(told["gate"], "cap_reached", "{decision}");
        let cap = &told["actual"]["cap"];
        let index = match (cap["per"]["attribute"].as_str(), cap["count"].as_str()) {
            (Some("company"), _) => 0,
            (Some("country"), _) => 1,
            (None, Some("completed")) => 2,
            _ => 3,
        };
        let decided_at = time::parse_time(decision["decided_at"].as_str().expect("a time")).expect("a time");
        // By the time at which it opens: the cap, and what it has counted.
        let full = self.counted().into_iter().enumerate().filter_map(|(index, (cap, groups))| {
            let since = cap.within.map_or(i64::MIN, |within| decided_at - within);
            let times = groups[group(user, cap.groups)].iter().copied().filter(|at| *at >= since);
            let times: Vec<i64> = times.collect();
            let over = (times.len() as u64).checked_sub(cap.max)?;
            let until = cap.within.map_or(i64::MAX, |within| times[over as usize] + within + 1);
            Some((until, index, times.len() as u64))
        });
        let full: Vec<_> = full.collect();
        let until = told["until"].as_str().map_or(i64::MAX, |until| time::parse_time(until).expect("a time"));
        let said = (until, index, told["actual"]["count"].as_u64().expect("a number"));
        assert!(full.contains(&said), "{said:?} of {full:?}: {decision}");
        assert_eq!(full.iter().map(|(until, ..)| *until).max(), Some(until), "{full:?}: {decision}");
    }
}

fn completion() -> Value {
    json!({"type": "answers", "answers": [{"question_id": "q", "value": "fine"}], "completed": true})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_counted_above_a_cap_and_every_place_is_used_in_the_end(
        first in limits(),
        acts in prop::collection::vec((act(), crash_or_not()), 1..160),
    ) {
        let mut crowd = Crowd::new(first);
        for (act, fault) in &acts {
            crowd.act(act);
            crowd.world.log.hold();
            crowd.suffer(*fault);
        }
        crowd.world.settle();
        crowd.check();
        crowd.use_up();
        crowd.check();
    }
}
