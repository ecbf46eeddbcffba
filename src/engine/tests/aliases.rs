//! Aliases over partitions: what was known under two names is one user's, whatever
//! comes when, and nothing of it is there twice.

use super::*;
use askwhen_domain::time::{HOUR, MINUTE};
use askwhen_domain::user::User;
use askwhen_wire::state;

/// Armed by an event, shown in every window of it.
pub(super) fn plain(more: &serde_json::Value) -> serde_json::Value {
    let mut survey = json!({"survey_id": "s", "name": "S", "status": "active", "activate": {"event": "woke"},
        "expires_after": "2h", "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"},
        "questions": [{"question_id": "q", "type": "text", "text": "?"}]});
    survey.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    survey
}

/// Names of two partitions: the first one's, the other's, and one more of the other's.
fn names() -> [String; 3] {
    let of = |partition: u32, skip: usize| {
        let all = (0..).map(|n| format!("name{n}"));
        all.filter(|name| id::partition_of(name, PARTITIONS) == partition).nth(skip).expect("there are many")
    };
    [of(0, 0), of(1, 0), of(1, 1)]
}

pub(super) struct Told {
    pub(super) world: World,
    pub(super) now: i64,
    requests: u32,
}

impl Told {
    fn new(survey: &serde_json::Value) -> Told {
        Told::of(PARTITIONS, survey)
    }

    pub(super) fn of(partitions: u32, survey: &serde_json::Value) -> Told {
        let mut world = World::of(partitions, 1 << 20);
        world.define(1_000, Kind::Survey, "s", survey);
        world.settle();
        Told { world, now: 0, requests: 0 }
    }

    pub(super) fn wait(&mut self, span: i64) {
        self.now += span;
        self.world.log.set_now(self.now);
    }

    fn event(&mut self, user: &str, event_id: &str) {
        self.wait(1);
        self.world.user(user, json!({"user_id": user, "event_name": "woke", "event_id": event_id}), false);
        self.world.settle();
    }

    fn attributes(&mut self, user: &str, attributes: &serde_json::Value) {
        self.wait(1);
        self.world.user(user, json!({"type": "attributes", "user_id": user, "attributes": attributes}), false);
        self.world.settle();
    }

    /// Why the user is asked or not, and about whom that was decided.
    pub(super) fn ask(&mut self, user: &str) -> (String, String) {
        self.wait(1);
        let event_id = format!("asked-{}", self.now);
        let trigger = json!({"type": "trigger", "user_id": user, "trigger": "Main", "event_id": event_id});
        self.world.user(user, trigger, false);
        self.world.settle();
        let found = self.world.outputs().0;
        let decisions = found.iter().filter(|((topic, _), _)| *topic == "decisions");
        let read = decisions.map(|(_, text)| serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        let mine: Vec<_> = read.filter(|decision| decision["event_id"] == event_id).collect();
        assert_eq!(mine.len(), 1, "{event_id} of {user} is decided once");
        let text = |member: &str| mine[0][member].as_str().expect("a text").to_owned();
        (text("reason"), text("user_id"))
    }

    pub(super) fn says(&mut self, user: &str, record: serde_json::Value) {
        self.wait(1);
        self.world.user(user, record, false);
        self.world.settle();
    }

    fn alias(&mut self, user: &str, alias: &str) {
        self.wait(1);
        self.requests += 1;
        self.world.alias(user, alias, self.now, &format!("r{}", self.requests));
        self.world.settle();
    }

    pub(super) fn erase(&mut self, user: &str) {
        self.wait(1);
        self.requests += 1;
        self.world.erase(user, self.now, &format!("r{}", self.requests));
        self.world.settle();
    }

    pub(super) fn state(&mut self, user: &str) -> User {
        let partition = id::partition_of(user, self.world.partitions()) as usize;
        self.world.checkpoint(partition);
        let key = askwhen_store::keys::named("default", user);
        let stored = self.world.stores[partition].get(families::USERS, &key).expect("readable");
        stored.map_or_else(User::default, |bytes| state::decode(&bytes).expect("a state"))
    }

    pub(super) fn aliases(&mut self, user: &str) -> Vec<String> {
        self.state(user).aliases().iter().map(|alias| alias.name.clone()).collect()
    }

    /// Codes of refusals that nobody has waited for.
    pub(super) fn refusals(&self) -> Vec<String> {
        let found = self.world.outputs().0;
        let rejects = found.iter().filter(|((topic, _), _)| *topic == "rejects");
        let reason = |text: &String| {
            serde_json::from_str::<serde_json::Value>(text).expect("JSON")["reason"].as_str().map(str::to_owned)
        };
        rejects.filter_map(|(_, text)| reason(text)).collect()
    }
}

fn reason(of: (String, String)) -> String {
    of.0
}

#[test]
fn what_came_under_the_alias_before_and_after_is_the_users() {
    let [user, alias, other] = names();
    for (user, alias) in [(&user, &alias), (&alias, &user), (&other, &alias)] {
        let mut told = Told::new(&plain(&json!({})));
        told.event(alias, "e1");
        assert_eq!(reason(told.ask(user)), "not_activated");
        told.alias(user, alias);
        assert_eq!(told.ask(user), ("offered".to_owned(), user.clone()));
        let offer = told.world.last_offer(user).expect("an offer");
        // The app may know the old name alone.
        told.says(alias, json!({"type": "displayed", "user_id": alias, "offer_id": offer}));
        assert_eq!(told.state(user).surveys["s"].displays, 1);
        assert_eq!(told.ask(alias), ("max_displays".to_owned(), user.clone()));
        told.wait(3 * HOUR);
        told.event(alias, "e2");
        assert_eq!(told.ask(alias), ("offered".to_owned(), user.clone()));
        let answers = json!([{"question_id": "q", "value": "fine"}]);
        let offer = told.world.last_offer(user).expect("an offer");
        told.says(
            user,
            json!({"type": "answers", "user_id": user, "offer_id": offer, "answers": answers, "completed": true}),
        );
        assert!(told.state(user).completed.contains_key("s"));
        assert_eq!(told.state(alias).alias_of(), Some(&**user));
        assert_eq!(told.refusals(), [""; 0]);
    }
}

#[test]
fn an_offer_made_under_the_alias_is_answered_under_either_name() {
    let [user, alias, _] = names();
    for under in [&user, &alias] {
        let mut told = Told::new(&plain(&json!({"limits": {"max_completed": 1}})));
        told.event(&alias, "e1");
        assert_eq!(reason(told.ask(&alias)), "offered");
        let offer = told.world.last_offer(&alias).expect("an offer");
        told.alias(&user, &alias);
        let answers = json!([{"question_id": "q", "value": "fine"}]);
        let answers =
            json!({"type": "answers", "user_id": under, "offer_id": offer, "answers": answers, "completed": true});
        told.says(under, answers);
        assert_eq!(told.refusals(), [""; 0]);
        let completed = told.world.outputs().0.into_iter().filter(|((topic, _), _)| *topic == "responses");
        let completed: Vec<String> = completed.map(|(_, text)| text).collect();
        assert!(!completed.is_empty() && completed.iter().all(|text| text.contains(&format!("\"{user}\""))));
        // The quota is used up by it, and by nothing else.
        told.event("somebody", "e2");
        assert_eq!(reason(told.ask("somebody")), "quota_full");
    }
}

/// Open offers hold the only grants: they move with their users, and come back when
/// they lapse.
#[test]
fn grants_of_quotas_move_with_their_offers() {
    let [user, alias, other] = names();
    let mut told = Told::new(&plain(&json!({"limits": {"max_completed": 2}})));
    for name in [&user, &alias] {
        told.event(name, "e1");
        assert_eq!(reason(told.ask(name)), "offered", "{name}");
    }
    told.event(&other, "e1");
    assert_eq!(reason(told.ask(&other)), "quota_full");
    told.alias(&user, &alias);
    assert_eq!(told.state(&user).offers.len(), 2);
    told.wait(6 * MINUTE);
    assert_eq!(reason(told.ask(&other)), "quota_full", "both grants are held");
    told.wait(6 * MINUTE);
    assert_eq!(reason(told.ask(&other)), "offered", "the offers have lapsed");
    let offer = told.world.last_offer(&other).expect("an offer");
    told.says(&other, json!({"type": "displayed", "user_id": other, "offer_id": offer}));
    told.event("somebody", "e1");
    assert_eq!(reason(told.ask("somebody")), "offered", "and so has the other one");
}

#[test]
fn repeated_and_chained_aliases_have_one_effect() {
    let [a, b, c] = names();
    let mut told = Told::new(&plain(&json!({})));
    told.event(&a, "e1");
    told.alias(&b, &a);
    told.alias(&b, &a);
    assert_eq!(told.aliases(&b), std::slice::from_ref(&a));
    told.alias(&c, &b);
    assert_eq!((told.aliases(&c), told.aliases(&b)), (vec![a.clone(), b.clone()], Vec::new()));
    // Who they are is known, by whatever names it is asked.
    for (user, alias) in [(&c, &a), (&c, &b), (&b, &a), (&a, &b), (&a, &c), (&b, &c)] {
        told.alias(user, alias);
    }
    assert_eq!(told.aliases(&c), [a.clone(), b.clone()]);
    assert_eq!(told.refusals(), [""; 0]);
    for (name, reason) in [(&a, "offered"), (&b, "offer_outstanding"), (&c, "offer_outstanding")] {
        assert_eq!(told.ask(name), (reason.to_owned(), c.clone()), "{name}");
    }
    // Of another user it cannot be.
    told.alias("somebody", &a);
    told.alias("somebody", &b);
    assert_eq!(told.refusals(), ["taken", "taken"]);
    assert_eq!(told.aliases("somebody"), [""; 0]);
    // The user as a whole may become somebody's.
    told.alias("somebody", &c);
    assert_eq!(told.aliases("somebody"), [a, b, c]);
}

#[test]
fn an_event_id_counts_once_under_all_names() {
    let [user, alias, _] = names();
    let mut told = Told::new(&plain(&json!({"activate": {"event": "woke", "count": {"at_least": 2, "within": "2h"}}})));
    told.event(&alias, "e1");
    told.alias(&user, &alias);
    for name in [&user, &alias, &user] {
        told.event(name, "e1");
    }
    assert_eq!(reason(told.ask(&user)), "not_activated");
    told.event(&user, "e2");
    told.event(&alias, "e2");
    assert_eq!(reason(told.ask(&user)), "offered");
    assert_eq!(told.state(&user).surveys["s"].facts.len(), 2);
}

/// A copy of a trigger that was passed on brings no name back, and decides nothing.
#[test]
fn a_trigger_counts_once_under_its_name_and_after_an_erasure() {
    let [user, alias, _] = names();
    let mut told = Told::new(&plain(&json!({})));
    told.event(&alias, "e1");
    told.alias(&user, &alias);
    let trigger = json!({"type": "trigger", "user_id": alias, "trigger": "Main", "event_id": "t1"});
    let decided = |told: &Told| {
        told.world.outputs().0.iter().filter(|((topic, _), text)| *topic == "decisions" && text.contains("t1")).count()
    };
    for _ in 0..2 {
        told.says(&alias, trigger.clone());
        assert_eq!(decided(&told), 1);
    }
    told.erase(&user);
    told.says(&alias, trigger);
    assert_eq!(decided(&told), 1);
    for name in [&user, &alias] {
        assert!(told.state(name).is_empty(), "{name}");
    }
    assert_eq!(told.refusals(), [""; 0]);
}

/// What rules count is counted whichever name it came under, before and after.
#[test]
fn targeting_counts_events_under_every_name() {
    let [user, alias, other] = names();
    for (user, alias) in [(&user, &alias), (&alias, &user), (&other, &alias)] {
        let counted = json!({"activate": null, "expires_after": null,
            "targeting": {"event": "woke", "at_least": 4, "within": "1h"}});
        let mut told = Told::new(&plain(&counted));
        told.event(alias, "e1");
        told.wait(30 * MINUTE);
        told.event(alias, "e2");
        told.event(user, "e3");
        told.alias(user, alias);
        assert_eq!(told.ask(alias), ("targeting_failed".to_owned(), user.clone()));
        told.event(alias, "e2");
        assert_eq!(reason(told.ask(user)), "targeting_failed", "it came before");
        told.event(alias, "e4");
        assert_eq!(reason(told.ask(user)), "offered");
        // What came under the alias grows old as everything does.
        let offer = told.world.last_offer(user).expect("an offer");
        told.says(alias, json!({"type": "displayed", "user_id": alias, "offer_id": offer}));
        told.wait(31 * MINUTE);
        assert_eq!(reason(told.ask(alias)), "targeting_failed");
    }
}

/// Attributes of both that are too many for one: those of the newer record go, as far as
/// they do not fit, and that is told.
#[test]
fn attributes_that_no_longer_fit_are_told_of() {
    let [user, alias, _] = names();
    let mut told = Told::new(&plain(&json!({})));
    let long = |bytes: usize| "x".repeat(bytes);
    told.attributes(&user, &json!({"a": long(20 << 10), "plan": "pro"}));
    told.attributes(&alias, &json!({"b": long(10 << 10), "c": long(10 << 10), "d": "small", "plan": "free"}));
    told.alias(&user, &alias);
    let state = told.state(&user);
    let names: Vec<&str> = state.attributes.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "d", "plan"]);
    assert_eq!(told.refusals(), ["attributes_too_large"]);
    let outputs = told.world.outputs().0;
    let reject = outputs.iter().find(|((topic, _), _)| *topic == "rejects").expect("a reject").1;
    let reject: serde_json::Value = serde_json::from_str(reject).expect("JSON");
    assert!(reject["detail"].as_str().is_some_and(|detail| detail.starts_with("1 attributes")), "{reject}");
    assert_eq!(told.aliases(&user), [alias]);
}

#[test]
fn of_two_attributes_the_older_users_stays() {
    let [user, alias, _] = names();
    for user_is_older in [true, false] {
        let mut told = Told::new(&plain(&json!({})));
        let order = if user_is_older { [&user, &alias] } else { [&alias, &user] };
        for name in order {
            told.attributes(name, &json!({"plan": format!("of {name}"), name.as_str(): true}));
        }
        told.alias(&user, &alias);
        let attributes = told.state(&user).attributes_value();
        assert_eq!(attributes, json!({"plan": format!("of {}", order[0]), &user: true, &alias: true}));
        told.attributes(&alias, &json!({"plan": "new"}));
        assert_eq!(told.state(&user).attributes_value()["plan"], "new");
    }
}

#[test]
fn an_erasure_by_either_name_leaves_nothing_of_both() {
    let [user, alias, other] = names();
    for erased in [&user, &alias, &other] {
        let mut told = Told::new(&plain(&json!({})));
        told.event(&alias, "e1");
        told.attributes(&alias, &json!({"plan": "pro"}));
        told.alias(&other, &alias);
        told.alias(&user, &other);
        told.event(&alias, "late");
        assert_eq!(told.state(&user).surveys["s"].facts.len(), 1, "the newest counts");
        told.erase(erased);
        for name in [&user, &alias, &other] {
            assert!(told.state(name).is_empty(), "{name}");
        }
        // Copies of what came before bring nobody back.
        for (name, event_id) in [(&alias, "e1"), (&alias, "late")] {
            told.event(name, event_id);
            assert!(told.state(name).surveys.is_empty(), "{name} {event_id}");
        }
        // Who comes under the name from now on is somebody else.
        told.event(&alias, "e3");
        assert_eq!(told.ask(&alias), ("offered".to_owned(), alias.clone()));
        assert_eq!(reason(told.ask(&user)), "not_activated");
        let cancelled = told.world.outputs().0.into_values().filter(|text| text.contains("cancel_user")).count();
        assert_eq!(cancelled, 3, "deliveries of every name");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Events under four names, of which the aliases come between them in any order and
    /// however often: before a trigger the windows are the same as under one name.
    #[test]
    fn merges_in_any_order_give_the_windows_of_one_user(
        priority in 0..5u8,
        events in prop::collection::vec((0..4usize, any::<bool>(), 1..9i64), 1..14),
        links in Just(vec![(0usize, 1usize), (1, 2), (2, 3)]).prop_shuffle(),
        places in prop::collection::vec(0..15usize, 3..7),
        turned in any::<bool>(),
    ) {
        let mut survey = survey(priority);
        survey["limits"] = json!(null);
        survey["sampling"] = json!({"percent": 100});
        let all: Vec<String> = (0..4).map(|n| format!("many{n}")).collect();
        let windows = |told: &mut Told| {
            told.wait(MINUTE);
            let (reason, whose) = told.ask(&all[0]);
            let state = told.state(&whose);
            let facts: Vec<_> = state.surveys.get("s").map_or_else(Vec::new, |survey| {
                survey.facts.iter().map(|fact| (fact.event.at, fact.pattern_mask, fact.event.event_id.clone())).collect()
            });
            let activation = state.offers.first().and_then(|offer| Some(offer.activation.as_ref()?.event_id.clone()));
            (reason, facts, activation)
        };
        let (mut many, mut one) = (Told::new(&survey), Told::new(&survey));
        for n in 0..=events.len() {
            for place in places.iter().zip(links.iter().cycle()).filter(|(place, _)| **place == n) {
                let (a, b) = *place.1;
                let (user, alias) = if turned { (a, b) } else { (b, a) };
                many.alias(&all[user], &all[alias]);
                one.wait(1);
            }
            let Some((who, slept, minutes)) = events.get(n) else { continue };
            for (told, name) in [(&mut many, &all[*who]), (&mut one, &all[0])] {
                told.wait(minutes * MINUTE);
                let event = if *slept { "slept" } else { "woke" };
                let event = json!({"user_id": name, "event_name": event, "event_id": format!("e{n}")});
                told.says(name, event);
            }
        }
        for (a, b) in links {
            let (user, alias) = if turned { (a, b) } else { (b, a) };
            many.alias(&all[user], &all[alias]);
            one.wait(1);
        }
        prop_assert_eq!(windows(&mut many), windows(&mut one));
    }
}
