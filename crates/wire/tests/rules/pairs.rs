//! Every two pieces of the survey file together: one survey that has both, another beside it,
//! and one story, in which each decision is compared with what one would work out by hand.
//! Beyond that, what must hold whatever is decided.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

use crate::generated::Step;
use crate::past::{Made, Place};
use crate::reference::World;
use askwhen_domain::eligibility::decision::DecisionReason;
use askwhen_domain::survey::Repeat;
use askwhen_domain::survey::cycle::Per;
use askwhen_domain::time::{Millis, format_time};

/// What arms a survey: of these a survey has one.
const FORMS: [&str; 5] = ["event", "any", "all", "sequence", "absence"];

/// A piece: its name, and what it adds to the survey, to the one beside it and to the settings.
type Piece = (&'static str, Value);

fn of_survey() -> Vec<Piece> {
    let cap = |cap: Value| json!({"limits": {"caps": [cap]}});
    let named = |n: u8| json!({"event": format!("e{n}")});
    let company = || json!({"attribute": "company_id"});
    vec![
        ("event", json!({"activate": named(0)})),
        ("count", json!({"activate": {"event": "e0", "count": {"at_least": 2, "within": "1h"}}})),
        (
            "count of days",
            json!({"activate": {"event": "e0", "count": {"at_least": 2, "within": "2d", "distinct": "day"}}}),
        ),
        (
            "count of sessions",
            json!({"activate": {"event": "e0", "count": {"at_least": 2, "within": "1h", "distinct": "session"}}}),
        ),
        ("any", json!({"activate": {"any": [named(0), named(1)]}})),
        ("all", json!({"activate": {"all": [named(0), named(1)], "within": "1h"}})),
        ("sequence", json!({"activate": {"sequence": {"steps": [named(0), named(1)], "within": "1h"}}})),
        ("absence", json!({"activate": {"absence": {"after": named(0), "without": named(2), "for": "20m"}}})),
        ("match", json!({"activate": {"match": "id"}})),
        ("delay", json!({"activate": {}, "delay": "20m"})),
        ("cancel", json!({"activate": {}, "cancel_on": [named(2)]})),
        ("keep first", json!({"activate": {}, "on_repeat": "keep_first"})),
        ("once", json!({"frequency": {"repeat": "once"}})),
        ("until responded", json!({"frequency": {"repeat": "until_responded"}})),
        ("until completed", json!({"frequency": {"repeat": "until_completed"}})),
        ("max displays", json!({"frequency": {"max_displays": 2}})),
        ("cycle of its own", json!({"frequency": {"per": "5h"}})),
        ("day", json!({"frequency": {"per": "day"}})),
        ("week", json!({"frequency": {"per": "week"}})),
        ("month", json!({"frequency": {"per": "month"}})),
        ("wave", json!({"frequency": {"per": {"wave": 1}}})),
        ("cooldown", json!({"frequency": {"cooldown": "30m"}})),
        ("after dismissal", json!({"frequency": {"after_dismissal": "10h"}})),
        ("never again", json!({"frequency": {"after_dismissal": "never"}})),
        ("snooze", json!({"frequency": {"snooze": "2h"}})),
        ("ignores the cooldown", json!({"frequency": {"global_cooldown": "ignore"}})),
        ("exempt", json!({"frequency": {"global_cooldown": "exempt"}})),
        ("cooldown between surveys of its own", json!({"frequency": {"global_cooldown": "40m"}})),
        ("ignores the session's cap", json!({"frequency": {"session_cap": "ignore"}})),
        ("arm", json!({"experiment": {"name": "wording", "arm": "a"}})),
        ("sample of users", json!({"sampling": {"percent": 50, "salt": "y"}})),
        ("sample of activations", json!({"sampling": {"percent": 50, "by": "activation"}})),
        ("sample of companies", json!({"sampling": {"percent": 60, "by": company()}})),
        ("holdout", json!({"holdout": {"percent": 40, "by": company()}})),
        ("spread", json!({"spread": "2d", "schedule": {"start_at": "2026-10-22T00:00:00Z"}})),
        ("hours", json!({"schedule": {"hours": ["08:00", "20:00"], "timezone": "Europe/Berlin"}})),
        ("hours of the user", json!({"schedule": {"hours": ["09:00", "22:00"], "timezone": "user"}})),
        ("days of the month", json!({"schedule": {"month_days": [22, 24, "last"]}})),
        ("quota", json!({"limits": {"max_completed": 2}})),
        ("cap of displays", cap(json!({"count": "displayed", "max": 2, "within": "9h"}))),
        ("cap for each company", cap(json!({"count": "displayed", "max": 1, "within": "1d", "per": company()}))),
        ("cap of completions", cap(json!({"count": "completed", "max": 1, "per": company(), "missing": "shut"}))),
        ("tag", json!({"tags": ["nps"], "targeting": {"not": {"tag": "nps", "did": "displayed", "within": "1h"}}})),
        (
            "answers",
            json!({"targeting": {"not": {"survey": "s1", "answer": {"question_id": "q1", "op": "lte", "value": 3}, "within": "9h"}}}),
        ),
        ("events", json!({"targeting": {"event": "e1", "within": "10h", "at_least": 2, "distinct": "session"}})),
        ("attribute", json!({"targeting": {"attribute": "plan", "op": "eq", "value": "pro"}})),
        ("link", json!({"link": true})),
        ("anonymous", json!({"anonymous": true})),
        (
            "branches",
            json!({"questions": [
            {"question_id": "q1", "type": "rating_star", "text": "?", "next": [{"when": {"op": "gte", "value": 4}, "goto": "end"}]},
            {"question_id": "q2", "type": "single_choice", "text": "?", "options": ["a", "b"]}]}),
        ),
    ]
}

fn of_settings() -> Vec<Piece> {
    let blackout = json!([{"start_at": "2026-10-22T13:00:00Z", "end_at": "2026-10-22T17:00:00Z"}]);
    vec![
        ("cooldown between surveys", json!({"global_cooldown": "1h"})),
        ("session's cap", json!({"max_per_session": 1})),
        ("sessions that end", json!({"max_per_session": 1, "session_lifetime": "30m"})),
        ("excluded", json!({"targeting": {"not": {"attribute": "plan", "op": "eq", "value": "free"}}})),
        ("blackout", json!({"schedule": {"except": blackout}})),
        (
            "cap over all",
            json!({"caps": [{"count": "displayed", "max": 2, "within": "7h", "per": {"attribute": "company_id"}}]}),
        ),
        ("offers known shortly", json!({"offer_known": "2h"})),
    ]
}

/// Members laid over others; two rules have to hold both, and two lists are one.
fn lay_over(below: &mut Value, above: &Value) {
    for (name, value) in above.as_object().expect("members") {
        let known = &mut below[name];
        match (known.is_null(), &**name) {
            (true, _) => *known = value.clone(),
            (false, "targeting") => *known = json!({"all": [known.clone(), value]}),
            (false, "caps" | "cancel_on" | "tags") => {
                let all = [known.as_array(), value.as_array()].into_iter().flatten().flatten().cloned().collect();
                *known = Value::Array(all);
            }
            (false, _) if value.is_object() => lay_over(known, value),
            _ => *known = value.clone(),
        }
    }
}

/// A survey with both pieces; `None` where they say two things of one member.
fn both(one: &Value, other: &Value) -> Option<Value> {
    let mut survey = json!({"name": "S", "status": "active", "priority": 1, "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "every_activation"},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "?"}]});
    let says = |piece: &Value, path: &[&str]| path.iter().try_fold(piece, |at, name| at.get(name)).is_some();
    let single: [&[&str]; 9] = [
        &["frequency", "repeat"],
        &["frequency", "per"],
        &["frequency", "global_cooldown"],
        &["frequency", "after_dismissal"],
        &["sampling"],
        &["schedule", "hours"],
        &["schedule", "timezone"],
        &["questions"],
        &["experiment"],
    ];
    if single.iter().any(|path| says(one, path) && says(other, path)) {
        return None;
    }
    lay_over(&mut survey, one);
    lay_over(&mut survey, other);
    if let Some(activate) = survey.get_mut("activate") {
        match FORMS.iter().filter(|form| activate.get(form).is_some()).count() {
            0 => activate["event"] = json!("e0"),
            1 => {}
            _ => return None,
        }
        survey["expires_after"] = json!("2h");
    }
    Some(survey)
}

/// Rounds of events, triggers and what follows, hours apart, with days and a month between
/// the later ones. With `late_first`, the events of a round arrive in the opposite order.
fn story(late_first: bool) -> Vec<(u8, Step)> {
    let mut story = Vec::new();
    let mut then = |wait: u8, step: Step| story.push((wait, step));
    for (user, name, value) in [(0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 2), (2, 1, 1)] {
        then(1, Step::Attribute { user, name, value });
    }
    for round in 0..7_u8 {
        // User, name, minutes ago, value, session.
        let mut events: Vec<(u8, u8, u8, u8, u8)> = vec![
            (0, 0, 58, 1, 1),
            (1, 0, 50, 1, 1),
            (2, 0, 47, 3, 1),
            (0, 1, 41, 1, 2),
            (0, 0, 33, 2, 2),
            (2, 1, 31, 3, 2),
            (1, 1, 22, 1, 0),
            (0, 1, 12, 2, 1),
        ];
        // Every third round something is taken back.
        events.extend((round % 3 == 1).then_some((0, 2, 6, 1, 1)));
        if late_first {
            events.reverse();
        }
        for (user, name, ago, id, session) in events {
            then(0, Step::Event { name, ago, user, kind: round % 3, id, session });
        }
        let app = if round % 3 == 2 { 2 } else { 3 };
        let ask = |user: u8, session: u8| Step::Ask { user, session, app, tab: 1 };
        for (wait, step) in [
            (0, ask(0, 1)),
            (1, Step::Displayed { which: 0 }),
            (1, ask(1, 1)),
            (1, ask(0, 1)),
            (2, Step::Answer { which: 0, completed: round % 2 == 0, q2: round % 3 }),
            (3, ask(2, 2)),
            (1, Step::Displayed { which: 0 }),
            (4, ask(0, 0)),
            (1, Step::Dismissed { which: 0, again_in: (round % 2 == 1).then_some(60) }),
            (14, ask(0, 2)),
            (1, Step::Displayed { which: 0 }),
            (2, Step::Answer { which: 0, completed: true, q2: 0 }),
            (1, ask(1, 2)),
            (1, Step::Displayed { which: 0 }),
            (25, ask(0, 3)),
            (8, ask(1, 3)),
            (1, Step::Link { user: 1, survey: 0, completed: true, q2: 1 }),
            (30, ask(0, 1)),
            // Displayed when its session was idle for longer than sessions may last.
            (33, Step::Displayed { which: 0 }),
            (1, ask(0, 1)),
        ] {
            then(wait, step);
        }
        match round {
            1 => then(0, Step::Alias),
            2 => then(0, Step::Wave { survey: 0 }),
            3 => then(0, Step::Status { survey: 0, status: 3 }),
            _ => {}
        }
        // Each round begins hours after the one before, so that no event of it is older than
        // a decision.
        then([200, 200, 200, 240, 200, 250, 200][usize::from(round)], ask(1, 1));
        if round == 3 {
            then(0, Step::Status { survey: 0, status: 0 });
        }
    }
    story
}

fn play(settings: &Value, surveys: &[Value], late_first: bool) -> World {
    let mut world = World::new(settings, surveys);
    story(late_first).iter().for_each(|step| world.step(step));
    world
}

/// What must hold whatever was decided.
fn check(world: &World) {
    let all: Vec<&Made> = world.all_made().collect();
    let mut places: Vec<&Place> = Vec::new();
    for place in all.iter().flat_map(|made| &made.places) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    for place in places {
        let cap = world.cap(place);
        let mine = all.iter().filter(|made| made.places.contains(place));
        let times: Vec<Millis> = mine.filter_map(|made| made.counted_at(cap.count)).collect();
        for at in &times {
            let lately = |time: &&Millis| *time <= at && cap.within.is_none_or(|within| **time >= at - within);
            let count = times.iter().filter(lately).count() as u64;
            assert!(count <= cap.max, "{count} at {} for {cap:?}", format_time(*at));
        }
    }
    for (user_id, (_, past)) in &world.users {
        // What two users were asked who turned out to be one, no rule could know.
        let one_since = world.linked_at.filter(|_| user_id == "ann").unwrap_or(Millis::MIN);
        let decided = || past.real().filter(|made| made.offered_at > one_since);
        let mut arms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for experiment in decided().filter_map(|made| made.survey.experiment.as_ref()) {
            arms.entry(&experiment.name).or_default().insert(&experiment.arm);
        }
        assert!(arms.values().all(|arms| arms.len() == 1), "{user_id} is in {arms:?}");
        for made in decided().filter(|made| !made.is_link) {
            let (at, frequency) = (made.offered_at, &made.survey.frequency);
            let own = past.real().filter(|other| other.is_of(&made.survey));
            let is_put_off = own.clone().any(|other| other.again_at.is_some());
            let before = |other: &Made| other.displayed_at.is_some_and(|shown| shown < at);
            if !is_put_off {
                let cooled = |other: &Made| {
                    other.displayed_at.is_none_or(|shown| shown > at || shown + frequency.cooldown <= at)
                };
                assert!(own.clone().all(cooled), "{user_id} was asked again too soon: {made:?}");
                let is_once = frequency.repeat == Repeat::Once && frequency.per.is_none();
                assert!(!is_once || !own.clone().any(before), "{user_id} was asked twice: {made:?}");
            }
            let completed_before = |other: &Made| other.completed_at.is_some_and(|completed| completed < at);
            let is_until = frequency.repeat == Repeat::UntilCompleted && frequency.per.is_none();
            assert!(!is_until || !own.clone().any(completed_before), "{user_id} had completed it: {made:?}");
            let of_wave = |other: &Made| match (other.survey.frequency.per, frequency.per) {
                (Some(Per::Wave(one)), Some(Per::Wave(other))) => other == 1 || one == other,
                (_, per) => per.is_none(),
            };
            let displays = own.clone().filter(|other| before(other) && of_wave(other)).count();
            let most = frequency.max_displays.map_or(usize::MAX, |most| most as usize);
            assert!(displays < most, "{user_id} was asked too often: {made:?}");
        }
    }
    for entry in world.project.surveys.values() {
        let completed = all.iter().filter(|made| made.is_of(&entry.current) && made.completed_at.is_some()).count();
        assert!(entry.current.limits.max_completed.is_none_or(|most| completed as u64 <= most));
    }
}

#[test]
fn every_two_pieces_decide_as_one_would_work_out_by_hand() {
    let (of_survey, of_settings) = (of_survey(), of_settings());
    let base = json!({"global_cooldown": "0s", "max_per_session": 3, "offer_ttl": "10m"});
    let mut pairs: Vec<(String, Value, Value)> = Vec::new();
    for (n, (name, piece)) in of_survey.iter().enumerate() {
        for (other_name, other) in &of_survey[n + 1..] {
            let survey = both(piece, other).map(|survey| (format!("{name} and {other_name}"), survey, base.clone()));
            pairs.extend(survey);
        }
        for (other_name, other) in &of_settings {
            let mut settings = base.clone();
            lay_over(&mut settings, other);
            pairs.push((format!("{name} and {other_name}"), both(piece, &json!({})).expect("one piece"), settings));
        }
    }
    let (mut failed, mut offered, mut reasons) = (Vec::new(), 0, BTreeSet::new());
    let played = pairs.len();
    for (name, survey, settings) in pairs {
        let mut beside = json!({"name": "Beside", "status": "active", "show_on": [{"trigger": "Main"}],
            "frequency": {"repeat": "until_completed", "max_displays": 3, "cooldown": "30m"},
            "questions": [{"question_id": "q1", "type": "rating_star", "text": "?"}], "tags": ["nps"]});
        if survey.get("experiment").is_some() {
            beside["experiment"] = json!({"name": "wording", "arm": "b"});
        }
        let surveys = [survey.clone(), beside];
        let told = std::panic::catch_unwind(|| {
            let world = play(&settings, &surveys, false);
            check(&world);
            // Whatever order events arrive in before a trigger, they arm the same.
            let other = play(&settings, &surveys, true);
            let is_drawn = survey["sampling"]["by"] == "activation";
            assert!(is_drawn || world.decided == other.decided, "the order of arrival told");
            world.decided
        });
        match told {
            Ok(decided) => {
                offered += decided.iter().filter(|(_, survey)| survey.as_deref() == Some("s0")).count();
                reasons.extend(decided.iter().map(|(reason, _)| reason.name()));
            }
            Err(_) => failed.push(name),
        }
    }
    println!("{played} pairs, {offered} offers, {reasons:?}");
    assert!(failed.is_empty(), "of {played} pairs these failed: {failed:#?}");
    assert!(played > 1_200 && offered > 5 * played, "{played} pairs, {offered} offers");
    assert!(reasons.contains(DecisionReason::Offered.name()) && reasons.len() > 12, "{reasons:?}");
}
