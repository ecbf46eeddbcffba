//! Surveys and histories by chance, for the reference.

use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub enum Step {
    /// An event that happened so many minutes ago.
    Event {
        name: u8,
        ago: u8,
        anonymous: bool,
    },
    Ask {
        user: u8,
        session: u8,
        platform: u8,
    },
    Displayed {
        which: u8,
    },
    Dismissed {
        which: u8,
    },
    Answer {
        which: u8,
        completed: bool,
    },
    Plan {
        pro: bool,
    },
    Status {
        survey: u8,
        status: u8,
    },
    /// The anonymous visitor turns out to be a user.
    Alias,
}

pub fn step() -> impl Strategy<Value = (u8, Step)> {
    let what = prop_oneof![
        6 => (0..3_u8, prop_oneof![3 => Just(0), 1 => 0..90_u8], prop::bool::weighted(0.3))
            .prop_map(|(name, ago, anonymous)| Step::Event { name, ago, anonymous }),
        8 => (0..3_u8, 0..4_u8, 0..4_u8)
            .prop_map(|(user, session, platform)| Step::Ask { user, session, platform }),
        4 => (0..3_u8).prop_map(|which| Step::Displayed { which }),
        1 => (0..3_u8).prop_map(|which| Step::Dismissed { which }),
        2 => (0..3_u8, any::<bool>()).prop_map(|(which, completed)| Step::Answer { which, completed }),
        1 => any::<bool>().prop_map(|pro| Step::Plan { pro }),
        1 => (0..3_u8, 0..4_u8).prop_map(|(survey, status)| Step::Status { survey, status }),
        1 => Just(Step::Alias),
    ];
    // Mostly minutes; sometimes what ends a day.
    (prop_oneof![12 => 0..25_u8, 1 => 200..255_u8], what)
}

fn activation() -> impl Strategy<Value = Value> {
    let named = |n: u8| json!({"event": format!("e{n}")});
    prop_oneof![
        (0..3_u8).prop_map(|n| json!({"event": format!("e{n}")})),
        (0..3_u8).prop_map(|n| json!({"event": format!("e{n}"), "count": {"at_least": 2, "within": "30m"}})),
        Just(json!({"any": [named(0), named(1)]})),
        Just(json!({"all": [named(0), named(1)], "within": "40m"})),
        Just(json!({"sequence": {"steps": [named(0), named(1)], "within": "40m"}})),
        Just(json!({"absence": {"after": named(0), "without": named(1), "for": "15m"}})),
    ]
}

fn cap() -> impl Strategy<Value = Value> {
    let count = prop::sample::select(vec!["displayed", "completed"]);
    let within = prop::option::of(prop::sample::select(vec!["1h", "7h"]));
    let per = prop::option::of(prop::sample::select(vec!["pass", "shut"]));
    (count, 1..4_u32, within, per).prop_map(|(count, max, within, per)| {
        let mut cap = json!({"count": count, "max": max, "within": within});
        if let Some(missing) = per {
            (cap["per"], cap["missing"]) = (json!({"attribute": "plan"}), json!(missing));
        }
        cap
    })
}

pub fn survey() -> impl Strategy<Value = Value> {
    let frequency = (
        prop::sample::select(vec!["once", "until_responded", "until_completed", "every_activation"]),
        prop::option::of(1..4_u32),
        prop::sample::select(vec!["0s", "20m", "2h"]),
        prop::sample::select(vec!["respect", "ignore", "exempt", "1h"]),
        prop::option::weighted(0.3, prop::sample::select(vec!["50m", "5h", "day"])),
        prop::option::weighted(0.2, prop::sample::select(vec!["40m", "never"])),
    );
    let armed = prop::option::weighted(
        0.7,
        (activation(), prop::sample::select(vec!["refresh", "keep_first"]), any::<bool>(), any::<bool>()),
    );
    let gates = (
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.3, 0..3_u8),
        prop::option::weighted(0.3, 1..3_u32),
        prop::option::weighted(0.2, (0..3_u8, 1..3_u32, prop::option::of(2..4_u32))),
        prop::option::weighted(0.2, 1..4_u32),
    );
    let caps = prop::collection::vec(cap(), 0..3);
    (armed, frequency, gates, caps, 0..2_i64).prop_map(|(armed, frequency, gates, mut caps, priority)| {
        // Two that count the same are one too many.
        caps.dedup_by_key(|cap| [&cap["count"], &cap["within"], &cap["per"]].map(Value::clone));
        let (repeat, max_displays, cooldown, global, per, after_dismissal) = frequency;
        let (pro, on_ios, unless_completed, limit, counts, unless_shown) = gates;
        let mut survey = json!({
            "name": "S", "status": "active", "priority": priority, "show_on": [{"trigger": "Main"}],
            "frequency": {"repeat": repeat, "max_displays": max_displays, "cooldown": cooldown,
                "global_cooldown": global, "per": per, "after_dismissal": after_dismissal},
            "platforms": if on_ios { json!(["ios"]) } else { json!([]) },
            "limits": {"max_completed": limit, "caps": caps},
            "questions": [{"question_id": "q1", "type": "rating_star", "text": "?"}],
        });
        let mut rules = Vec::new();
        if pro {
            rules.push(json!({"attribute": "plan", "op": "eq", "value": "pro"}));
        }
        if let Some(other) = unless_completed {
            rules.push(json!({"not": {"survey": format!("s{other}"), "did": "completed", "within": "1h"}}));
        }
        if let Some((name, at_least, at_most)) = counts {
            let at_most = at_most.filter(|most| *most >= at_least);
            rules.push(json!({"event": format!("e{name}"), "within": "2h", "at_least": at_least, "at_most": at_most}));
        }
        if let Some(at_least) = unless_shown {
            rules.push(json!({"not": {"tag": "*", "did": "displayed", "within": "3h", "at_least": at_least}}));
        }
        if !rules.is_empty() {
            survey["targeting"] = json!({"all": rules});
        }
        if let Some((activate, on_repeat, delayed, cancels)) = armed {
            (survey["activate"], survey["on_repeat"]) = (activate, json!(on_repeat));
            survey["expires_after"] = json!("1h");
            survey["delay"] = json!(if delayed { "10m" } else { "0s" });
            if cancels {
                survey["cancel_on"] = json!([{"event": "e2"}]);
            }
        }
        survey
    })
}
