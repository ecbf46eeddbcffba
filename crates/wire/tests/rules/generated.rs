//! Surveys, settings and histories by chance, for the reference. Each survey has a few of the
//! pieces that a survey file knows, so that most gates are open most of the time.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use crate::reference::World;

#[derive(Debug, Clone)]
pub enum Step {
    /// An event that happened so many minutes ago; without an id and a session where these
    /// are 0.
    Event {
        name: u8,
        ago: u8,
        user: u8,
        kind: u8,
        id: u8,
        session: u8,
    },
    Ask {
        user: u8,
        session: u8,
        app: u8,
        tab: u8,
    },
    Displayed {
        which: u8,
    },
    Dismissed {
        which: u8,
        /// In so many minutes the user wants to be asked again.
        again_in: Option<u8>,
    },
    Answer {
        which: u8,
        completed: bool,
        q2: u8,
    },
    Link {
        user: u8,
        survey: u8,
        completed: bool,
        q2: u8,
    },
    Attribute {
        user: u8,
        name: u8,
        value: u8,
    },
    Status {
        survey: u8,
        status: u8,
    },
    /// The next wave begins.
    Wave {
        survey: u8,
    },
    Erase {
        user: u8,
    },
    /// The anonymous visitor turns out to be a user.
    Alias,
}

pub fn step() -> impl Strategy<Value = (u8, Step)> {
    let ago = prop_oneof![3 => Just(0), 1 => 0..90_u8];
    let user = || prop_oneof![3 => Just(0_u8), 1 => Just(1), 2 => Just(2)];
    let what = prop_oneof![
        24 => (0..3_u8, ago, user(), 0..3_u8, 0..4_u8, 0..3_u8)
            .prop_map(|(name, ago, user, kind, id, session)| Step::Event { name, ago, user, kind, id, session }),
        32 => (user(), 0..4_u8, 0..8_u8, 0..6_u8)
            .prop_map(|(user, session, app, tab)| Step::Ask { user, session, app, tab }),
        16 => (0..3_u8).prop_map(|which| Step::Displayed { which }),
        5 => (0..3_u8, prop::option::weighted(0.4, 10..90_u8))
            .prop_map(|(which, again_in)| Step::Dismissed { which, again_in }),
        9 => (0..3_u8, any::<bool>(), 0..3_u8)
            .prop_map(|(which, completed, q2)| Step::Answer { which, completed, q2 }),
        3 => (user(), 0..3_u8, any::<bool>(), 0..3_u8)
            .prop_map(|(user, survey, completed, q2)| Step::Link { user, survey, completed, q2 }),
        6 => (user(), 0..3_u8, 0..4_u8).prop_map(|(user, name, value)| Step::Attribute { user, name, value }),
        4 => (0..3_u8, 0..8_u8).prop_map(|(survey, status)| Step::Status { survey, status }),
        1 => (0..3_u8).prop_map(|survey| Step::Wave { survey }),
        1 => (0..3_u8).prop_map(|user| Step::Erase { user }),
        2 => Just(Step::Alias),
    ];
    // Mostly minutes; sometimes what ends a day, seldom a month.
    (prop_oneof![24 => 0..25_u8, 2 => 200..250_u8, 1 => 240..255_u8], what)
}

fn one_of(all: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(all).prop_map(|one| json!(one))
}

fn maybe<S: Strategy>(chance: f64, what: S) -> impl Strategy<Value = Option<S::Value>> {
    prop::option::weighted(chance, what)
}

fn activation() -> impl Strategy<Value = Value> {
    let named = |n: u8| json!({"event": format!("e{n}")});
    let kind = json!([{"property": "kind", "op": "eq", "value": 1}]);
    let form = prop_oneof![
        2 => (0..3_u8).prop_map(named),
        1 => (0..3_u8).prop_map(move |n| json!({"event": format!("e{n}"), "where": kind})),
        2 => (0..3_u8, maybe(0.6, one_of(&["day", "session"]))).prop_map(|(n, distinct)| {
            let within = if distinct == Some(json!("day")) { "3d" } else { "30m" };
            json!({"event": format!("e{n}"), "count": {"at_least": 2, "within": within, "distinct": distinct}})
        }),
        1 => Just(json!({"any": [named(0), named(1)]})),
        1 => Just(json!({"all": [named(0), named(1)], "within": "40m"})),
        1 => Just(json!({"sequence": {"steps": [named(0), named(1)], "within": "40m"}})),
        1 => Just(json!({"absence": {"after": named(0), "without": named(1), "for": "15m"}})),
    ];
    (form, any::<bool>()).prop_map(|(mut form, by_value)| {
        if by_value {
            form["match"] = json!("id");
        }
        form
    })
}

/// All that is said of a survey's arming.
fn armed() -> impl Strategy<Value = Value> {
    (activation(), one_of(&["refresh", "keep_first"]), any::<bool>(), any::<bool>()).prop_map(
        |(activate, on_repeat, delayed, cancels)| {
            let cancel_on = if cancels { json!([{"event": "e2"}]) } else { json!([]) };
            let delay = if delayed { "10m" } else { "0s" };
            json!({"activate": activate, "on_repeat": on_repeat, "expires_after": "1h", "delay": delay,
                "cancel_on": cancel_on})
        },
    )
}

fn cap() -> impl Strategy<Value = Value> {
    let count = one_of(&["displayed", "completed"]);
    let within = prop::option::of(one_of(&["1h", "7h"]));
    let per = prop::option::of((one_of(&["plan", "company_id"]), one_of(&["pass", "shut"])));
    (count, 1..4_u32, within, per).prop_map(|(count, max, within, per)| {
        let mut cap = json!({"count": count, "max": max, "within": within});
        if let Some((attribute, missing)) = per {
            (cap["per"], cap["missing"]) = (json!({"attribute": attribute}), missing);
        }
        cap
    })
}

/// Caps of which no two count the same.
fn caps(most: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(cap(), 0..=most).prop_map(|mut caps| {
        let counts_as = |cap: &Value| ["count", "within", "per"].map(|name| cap[name].clone());
        let all: Vec<_> = caps.iter().map(counts_as).collect();
        let mut index = 0;
        caps.retain(|_| {
            index += 1;
            !all[..index - 1].contains(&all[index - 1])
        });
        json!(caps)
    })
}

fn leaf() -> impl Strategy<Value = Value> {
    let within = || prop::option::of(one_of(&["1h", "5h", "3d"]));
    let times = || (1..3_u32, prop::option::of(0..3_u32), prop::option::of(one_of(&["day"])));
    let counted = |mut rule: Value, (at_least, more, distinct): (u32, Option<u32>, Option<Value>)| {
        rule["at_least"] = json!(at_least);
        rule["at_most"] = json!(more.map(|more| at_least + more));
        rule["distinct"] = json!(distinct);
        rule
    };
    let of = prop_oneof![
        (0..3_u8).prop_map(|n| json!({"survey": format!("s{n}")})),
        one_of(&["*", "nps"]).prop_map(|tag| json!({"tag": tag})),
    ];
    prop_oneof![
        2 => Just(json!({"attribute": "plan", "op": "eq", "value": "pro"})),
        2 => (one_of(&["in_next", "within"]), one_of(&["2h", "2d"]))
            .prop_map(|(op, value)| json!({"attribute": "renews_at", "op": op, "value": value})),
        4 => (of, one_of(&["displayed", "answered", "completed", "dismissed"]), within(), times())
            .prop_map(move |(mut of, did, within, times)| {
                (of["did"], of["within"]) = (did, json!(within));
                counted(of, times)
            }),
        1 => (0..3_u8, within()).prop_map(|(n, within)| json!({"survey": format!("s{n}"), "did": "offered", "within": within})),
        3 => (0..3_u8, within(), any::<bool>()).prop_map(|(n, within, second)| {
            let answer = if second {
                json!({"question_id": "q2", "op": "eq", "value": "a"})
            } else {
                json!({"question_id": "q1", "op": "lte", "value": 3})
            };
            json!({"survey": format!("s{n}"), "answer": answer, "within": within})
        }),
        4 => (0..3_u8, maybe(0.3, 0..3_u8), within(), times(), maybe(0.2, Just(json!("session"))))
            .prop_map(move |(n, kind, within, times, session)| {
                let mut rule = json!({"event": format!("e{n}"), "within": within});
                if let Some(kind) = kind {
                    rule["where"] = json!([{"property": "kind", "op": "eq", "value": kind}]);
                }
                let mut rule = counted(rule, times);
                if session.is_some() {
                    rule["distinct"] = json!(session);
                }
                rule
            }),
    ]
}

fn rule() -> impl Strategy<Value = Value> {
    // What has happened keeps more users out than in: more often it must not have.
    let part =
        || (leaf(), prop::bool::weighted(0.7)).prop_map(|(leaf, not)| if not { json!({"not": leaf}) } else { leaf });
    prop_oneof![
        3 => part(),
        1 => prop::collection::vec(part(), 2).prop_map(|all| json!({"all": all})),
        2 => prop::collection::vec(part(), 2..4).prop_map(|any| json!({"any": any})),
    ]
}

fn share_by() -> impl Strategy<Value = Value> {
    prop_oneof![Just(json!("user")), Just(json!("activation")), Just(json!({"attribute": "company_id"}))]
}

fn schedule() -> impl Strategy<Value = Value> {
    let span = |from: &str, to: &str| json!({"start_at": from, "end_at": to});
    let first = span("2026-10-21T00:00:00Z", "2026-10-23T12:00:00Z");
    let second = span("2026-10-24T00:00:00Z", "2026-12-31T00:00:00Z");
    let what = prop_oneof![
        Just(json!({"hours": ["08:00", "20:00"]})),
        Just(json!({"hours": ["20:00", "09:00"], "days": ["thu", "sat", "sun"]})),
        Just(json!({"days": ["thu", "fri", "sun", "mon"]})),
        Just(json!({"month_days": [22, 23, "last"]})),
        Just(json!({"start_at": "2026-10-22T12:00:00Z", "end_at": "2027-01-01T00:00:00Z"})),
        Just(json!({"windows": [first, second]})),
        Just(json!({"except": [first]})),
    ];
    (what, one_of(&["UTC", "Europe/Berlin", "Asia/Kolkata", "user"])).prop_map(|(mut what, zone)| {
        what["timezone"] = zone;
        what
    })
}

fn frequency() -> impl Strategy<Value = Value> {
    (
        prop::sample::select(vec![
            "once",
            "until_responded",
            "until_completed",
            "every_activation",
            "every_activation",
        ]),
        prop::option::of(1..4_u32),
        one_of(&["0s", "20m", "2h"]),
        one_of(&["respect", "ignore", "exempt", "1h"]),
        maybe(
            0.4,
            prop_oneof![
                2 => one_of(&["50m", "5h"]),
                2 => one_of(&["day", "week", "month", "quarter", "year"]),
                1 => Just(json!({"wave": 1})),
            ],
        ),
        maybe(0.2, one_of(&["40m", "never"])),
        maybe(0.3, one_of(&["1h", "2h"])),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(repeat, max_displays, cooldown, global, per, after_dismissal, snooze, crowds)| {
            json!({"repeat": repeat, "max_displays": max_displays, "cooldown": cooldown, "global_cooldown": global,
                "per": per, "after_dismissal": after_dismissal, "snooze": snooze,
                "session_cap": if crowds { "ignore" } else { "respect" }})
        })
}

/// What a survey is for whom, as members of its file.
fn audience() -> impl Strategy<Value = Value> {
    let merged = |all: Vec<Option<Value>>| {
        let mut members = json!({});
        for (name, value) in all.into_iter().flatten().flat_map(|one| one.as_object().cloned().unwrap_or_default()) {
            members[name] = value;
        }
        members
    };
    let sampling = (share_by(), 0..2_u8).prop_map(
        |(by, from)| json!({"sampling": {"percent": 50, "from": u32::from(from) * 50, "salt": "x", "by": by}}),
    );
    let holdout = share_by().prop_map(|by| json!({"holdout": {"percent": 30, "group": "h", "by": by}}));
    let arm = one_of(&["a", "b"]).prop_map(|arm| json!({"experiment": {"name": "wording", "arm": arm}}));
    let spread = Just(json!({"spread": "2d", "schedule": {"start_at": "2026-10-21T00:00:00Z"}}));
    (
        maybe(
            0.1,
            prop_oneof![
                Just(json!({"platforms": ["ios"]})),
                Just(json!({"locales": ["de"]})),
                Just(json!({"app_version": ">=2"})),
                Just(json!({"show_on": [{"trigger": "Main", "where": [{"property": "tab", "op": "eq", "value": 1}]}]})),
            ],
        ),
        maybe(0.4, rule().prop_map(|rule| json!({"targeting": rule}))),
        maybe(0.2, sampling),
        maybe(0.1, holdout),
        maybe(0.3, arm),
        maybe(0.2, prop_oneof![4 => schedule().prop_map(|schedule| json!({"schedule": schedule})), 1 => spread]),
        maybe(0.5, Just(json!({"settings_targeting": "ignore"}))),
    )
        .prop_map(move |(a, b, c, d, e, f, g)| merged(vec![a, b, c, d, e, f, g]))
}

pub fn survey() -> impl Strategy<Value = Value> {
    let asks = (prop::bool::weighted(0.3), prop::bool::weighted(0.2), maybe(0.2, one_of(&["1d"])), any::<bool>());
    let limits = (maybe(0.3, 1..4_u32), caps(2));
    let armed = maybe(0.7, armed());
    (armed, frequency(), audience(), limits, asks, 0..2_i64, prop::bool::weighted(0.3)).prop_map(
        |(armed, frequency, audience, (limit, caps), (branches, anonymous, retention, tagged), priority, link)| {
            let mut survey = json!({
                "name": "S", "status": "active", "priority": priority, "show_on": [{"trigger": "Main"}],
                "test_users": ["ann"], "frequency": frequency, "limits": {"max_completed": limit, "caps": caps},
                "link": link, "anonymous": anonymous, "retention": retention,
                "tags": if tagged { json!(["nps"]) } else { json!([]) },
                "questions": [{"question_id": "q1", "type": "rating_star", "text": "?"}],
            });
            if branches {
                survey["questions"] = json!([
                    {"question_id": "q1", "type": "rating_star", "text": "?",
                        "next": [{"when": {"op": "gte", "value": 4}, "goto": "end"}]},
                    {"question_id": "q2", "type": "single_choice", "text": "?", "options": ["a", "b"]},
                ]);
            }
            for members in [Some(audience), armed].into_iter().flatten() {
                for (name, value) in members.as_object().cloned().unwrap_or_default() {
                    survey[name] = value;
                }
            }
            survey
        },
    )
}

pub fn settings() -> impl Strategy<Value = Value> {
    let except = json!({"except": [{"start_at": "2026-10-22T13:00:00Z", "end_at": "2026-10-22T15:00:00Z"},
        {"start_at": "2026-10-24T00:00:00Z", "end_at": "2026-10-24T12:00:00Z"}]});
    (
        (one_of(&["0s", "0s", "30m", "3h"]), 1..4_u32, one_of(&["10m", "10m", "40m"])),
        maybe(0.2, rule()),
        maybe(0.2, Just(except)),
        caps(1),
        one_of(&["24h", "24h", "5h", "3d"]),
        maybe(0.3, one_of(&["30m"])),
        any::<bool>(),
    )
        .prop_map(|((global, cap, ttl), rule, except, caps, known, lifetime, keeps)| {
            let mut settings = json!({"global_cooldown": global, "max_per_session": cap, "offer_ttl": ttl,
                "caps": caps, "offer_known": known, "session_lifetime": lifetime, "erase_keeps_cooldown": keeps});
            for (name, value) in [("targeting", rule), ("schedule", except)] {
                if let Some(value) = value {
                    settings[name] = value;
                }
            }
            settings
        })
}

/// Histories of so many steps each: the same ones every time, so that a change is what makes it
/// fail. A long run asks for more of them, and gets others.
fn config() -> ProptestConfig {
    let asked = std::env::var("ASKWHEN_TEST_HISTORIES").ok();
    let asked = asked.map(|asked| asked.parse().expect("ASKWHEN_TEST_HISTORIES is a number"));
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    ProptestConfig { cases: asked.unwrap_or(6_000), rng_seed, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// Fifty steps each, of which about a third are decisions.
    #[test]
    fn every_decision_is_what_one_would_work_out_by_hand(
        surveys in prop::collection::vec(survey(), 1..4),
        settings in settings(),
        steps in prop::collection::vec(step(), 40..61),
    ) {
        let mut world = World::new(&settings, &surveys);
        steps.iter().for_each(|step| world.step(step));
    }
}
