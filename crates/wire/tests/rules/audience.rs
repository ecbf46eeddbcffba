//! Whom a survey is for, where and when.

use crate::play::Play;
use askwhen_domain::eligibility::apply::Reply;
use askwhen_domain::eligibility::decision::Decision;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Body, Context};
use askwhen_domain::time::{ClientTimes, DAY, HOUR, MINUTE};
use serde_json::{Value, json};

#[test]
fn where_filters_on_activation_and_on_the_trigger() {
    let mut play = Play::new(&[json!({
        "activate": {"event": "woke", "where": [{"property": "min", "op": "gte", "value": 180}]},
        "show_on": [{"trigger": "Main", "where": [{"property": "tab", "op": "eq", "value": "home"}]}],
    })]);
    play.event_with(0, 0, "{\"min\":179}");
    assert_eq!(play.ask_with(1, Context::default(), "{\"tab\":\"home\"}").reason.name(), "not_activated");
    play.event_with(2, 2, "{\"min\":180}");
    let elsewhere = play.ask_with(3, Context::default(), "{\"tab\":\"shop\"}");
    assert_eq!(elsewhere.reason.name(), "show_on_mismatch");
    assert_eq!(elsewhere.evaluations[0].failure.as_ref().unwrap().actual, json!({"property": "tab", "actual": "shop"}));
    assert_eq!(play.ask_with(4, Context::default(), "{\"tab\":\"home\"}").reason.name(), "offered");
}

#[test]
fn audience_gates_need_their_context() {
    let survey = json!({"platforms": ["ios"], "locales": ["de"], "app_version": ">=2.1 <3"});
    let cases = [
        (None, Some("de-AT"), Some("2.5"), "platform_mismatch"),
        (Some("android"), Some("de"), Some("2.5"), "platform_mismatch"),
        (Some("ios"), None, Some("2.5"), "locale_mismatch"),
        (Some("ios"), Some("den"), Some("2.5"), "locale_mismatch"),
        (Some("ios"), Some("de-AT"), None, "version_mismatch"),
        (Some("ios"), Some("de-AT"), Some("3.0.0"), "version_mismatch"),
        (Some("ios"), Some("de-AT"), Some("2.1"), "offered"),
    ];
    for (platform, locale, version, reason) in cases {
        let mut play = Play::new(std::slice::from_ref(&survey));
        play.event(0, 0);
        let text = |t: Option<&str>| t.map(str::to_owned);
        let context = Context {
            platform: text(platform),
            locale: text(locale),
            app_version: text(version),
            ..Context::default()
        };
        assert_eq!(play.ask_with(1, context, "{}").reason.name(), reason, "{platform:?} {locale:?} {version:?}");
    }
}

#[test]
fn statuses() {
    for (status, reason) in
        [("draft", "not_active"), ("paused", "not_active"), ("archived", "not_active"), ("shadow", "no_survey")]
    {
        let mut play = Play::new(&[json!({"status": status, "activate": null, "expires_after": null})]);
        play.expect(0, reason);
    }
    let mut shadow = Play::new(&[json!({"status": "shadow", "activate": null, "expires_after": null})]);
    let evaluation = shadow.ask_in(0, None).evaluations.remove(0);
    assert!(evaluation.shadow && evaluation.failure.is_none());
    let test = json!({"status": "test", "test_users": ["ann"], "activate": null, "expires_after": null, "frequency": {"repeat": "once"}});
    let mut tester = Play::new(std::slice::from_ref(&test));
    for at in [0, 1] {
        let offer = tester.ask_in(at, None);
        assert!(at == 1 || offer.reason.name() == "offered");
        if let Some(offered) = offer.survey {
            tester.displayed(at, &offered.offer_id);
        }
    }
    assert_eq!(
        (tester.user.last_display_at, tester.expect(2, "offered").is_some()),
        (None, true),
        "tests feed nothing"
    );
    let mut stranger = Play { user_id: "bob", ..Play::new(&[test]) };
    stranger.expect(0, "not_active");
}

#[test]
fn a_schedule_says_when_and_when_next() {
    // The epoch was a Thursday; Berlin was an hour ahead of UTC.
    let schedule = json!({"timezone": "Europe/Berlin", "days": ["thu", "fri"], "hours": ["06:00", "23:00"]});
    let mut play = Play::new(&[json!({"activate": null, "expires_after": null, "schedule": schedule})]);
    let decision = play.ask_in(5 * HOUR - 1, None);
    let stop = decision.evaluations[0].failure.clone().unwrap();
    assert_eq!((stop.gate.name(), stop.until), ("out_of_schedule", Some(5 * HOUR)));
    assert_eq!(stop.actual, json!("Thu 1970-01-01T05:59:59+01:00"));
    play.expect(5 * HOUR, "offered");
    play.expect(22 * HOUR - 1, "offered");
    assert_eq!(play.ask_in(22 * HOUR, None).evaluations[0].failure.as_ref().unwrap().until, Some(29 * HOUR));
    play.expect(29 * HOUR, "offered");
    play.expect(2 * DAY + 12 * HOUR, "out_of_schedule");
}

#[test]
fn targeting_looks_at_attributes_and_at_what_other_surveys_have_been() {
    let other = json!({"survey_id": "nps", "activate": null, "expires_after": null, "show_on": [{"trigger": "Other"}]});
    let targeting = json!({"all": [{"attribute": "plan", "op": "in", "value": ["pro"]},
                                   {"not": {"survey": "nps", "did": "completed", "within": "30d"}}]});
    let mut play = Play::new(&[
        other,
        json!({"activate": null, "expires_after": null, "targeting": targeting,
        "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"}}),
    ]);
    let stop_of = |decision: Decision| decision.evaluations[0].failure.clone().unwrap();
    let stop = stop_of(play.ask_in(0, None));
    assert_eq!((stop.gate.name(), stop.actual), ("targeting_failed", json!({"attribute": "plan", "actual": null})));
    play.apply(1, ClientTimes::default(), None, Body::Attributes(vec![("plan".into(), Json::from_valid("\"pro\""))]));
    play.expect(2, "offered");

    let body = Body::Trigger { trigger: "Other".into(), properties: "{}", context: Context::default() };
    let reply = play.apply(11 * MINUTE, ClientTimes::default(), None, body).reply.clone();
    let Some(Reply::Decided(decision)) = reply else { panic!("{reply:?}") };
    let offer = decision.survey.clone().expect("offered").offer_id;
    play.answer(12 * MINUTE, &offer, &[("q1", "3")], true);
    let stop = stop_of(play.ask_in(30 * MINUTE, None));
    assert_eq!((stop.gate.name(), stop.until), ("targeting_failed", Some(12 * MINUTE + 30 * DAY + 1)));
    play.expect(12 * MINUTE + 30 * DAY, "targeting_failed");
    play.expect(12 * MINUTE + 30 * DAY + 1, "offered");
}

#[test]
fn shares_are_stable_and_a_holdout_comes_first() {
    let survey = |sampling: Value, holdout: Value| json!({"activate": null, "expires_after": null, "sampling": sampling, "holdout": holdout});
    let gate = |sampling: Value, holdout: Value, user_id: &'static str| {
        let mut play = Play::new(&[survey(sampling, holdout)]);
        play.user_id = user_id;
        play.ask_in(0, None).reason.name()
    };
    let users = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"];
    let half = |user| gate(json!({"percent": 50, "salt": "x"}), Value::Null, user);
    let reasons: Vec<&str> = users.iter().map(|user| half(user)).collect();
    assert!(reasons.contains(&"offered") && reasons.contains(&"not_sampled"), "{reasons:?}");
    assert_eq!(reasons, users.iter().map(|user| half(user)).collect::<Vec<_>>());
    assert!(users.iter().all(|user| gate(json!({"percent": 0}), json!({"percent": 100}), user) == "holdout"));
    assert!(users.iter().all(|user| gate(json!({"percent": 0}), json!({"percent": 0}), user) == "not_sampled"));
    let group = |id: &str, user| {
        let mut survey = survey(Value::Null, json!({"percent": 50, "group": "g"}));
        survey["survey_id"] = json!(id);
        let mut play = Play::new(&[survey]);
        play.user_id = user;
        play.ask_in(0, None).reason.name()
    };
    assert!(users.iter().all(|user| group("a", user) == group("b", user)), "one group, the same users");
}

/// What users are offered, in the order of their numbers.
fn offers(surveys: &[Value], users: usize, before: impl Fn(&mut Play, usize)) -> Vec<Vec<String>> {
    let ask = |n: usize| {
        let mut play = Play::new(surveys);
        play.user_id = Box::leak(format!("user_{n}").into_boxed_str());
        before(&mut play, n);
        let decision = play.ask_in(0, None);
        let open = |survey: &&askwhen_domain::eligibility::decision::Evaluation| {
            survey.failure.as_ref().is_none_or(|stop| stop.gate.name() == "preempted")
        };
        decision.evaluations.iter().filter(open).map(|survey| survey.survey_id.clone()).collect()
    };
    (0..users).map(ask).collect()
}

#[test]
fn every_user_is_in_one_arm_whatever_happens_to_the_others() {
    let arm = |id: &str, status: &str| {
        json!({"survey_id": id, "activate": null, "expires_after": null, "status": status,
            "experiment": {"name": "wording", "arm": id}})
    };
    let all = offers(&[arm("a", "active"), arm("b", "active"), arm("c", "active")], 600, |_, _| {});
    let count = |id: &str| all.iter().filter(|open| **open == [id]).count();
    assert_eq!(count("a") + count("b") + count("c"), 600, "each in exactly one");
    assert!(["a", "b", "c"].iter().all(|id| (150..250).contains(&count(id))), "about a third each");
    for gone in ["paused", "archived"] {
        let without = offers(&[arm("a", gone), arm("b", "active"), arm("c", "active")], 600, |_, _| {});
        assert!(
            without.iter().zip(&all).all(|(now, then)| now == then || (now.is_empty() && *then == ["a"])),
            "{gone}"
        );
    }
    let later =
        offers(&[arm("a", "active"), arm("b", "active"), arm("c", "active"), arm("d", "active")], 600, |_, _| {});
    assert!(
        later.iter().zip(&all).all(|(now, then)| now == then || *now == ["d"]),
        "a new arm takes, and moves nobody else"
    );
}

#[test]
fn shares_are_of_users_of_activations_or_of_what_users_share() {
    let survey = |sampling: Value| vec![json!({"activate": null, "expires_after": null, "sampling": sampling})];
    let company = |play: &mut Play, n: usize| {
        let id = Json::of(&(n % 40));
        play.apply(0, ClientTimes::default(), None, Body::Attributes(vec![("company_id".into(), id)]));
    };
    let by = json!({"percent": 50, "salt": "x", "by": {"attribute": "company_id"}});
    let open = offers(&survey(by), 400, company);
    assert!((0..400).all(|n| open[n] == open[n % 40]), "a company is asked as one");
    let asked = open[..40].iter().filter(|open| !open.is_empty()).count();
    assert!((8..32).contains(&asked), "{asked}");

    let mut play = Play::new(&survey(json!({"percent": 50, "salt": "x", "by": "activation"})));
    let reasons: Vec<&str> = (0..40).map(|n| play.ask_in(n * DAY, None).reason.name()).collect();
    assert!(reasons.contains(&"offered") && reasons.contains(&"not_sampled"), "{reasons:?}");
    let split = |from: i64| survey(json!({"percent": 50, "from": from, "salt": "x"}));
    let (low, high) = (offers(&split(0), 200, |_, _| {}), offers(&split(50), 200, |_, _| {}));
    assert!(low.iter().zip(&high).all(|(low, high)| low.is_empty() != high.is_empty()));
}

#[test]
fn of_several_windows_one_that_the_share_holds_is_offered() {
    for share in [
        json!({"sampling": {"percent": 30, "salt": "x", "by": "activation"}}),
        json!({"holdout": {"percent": 70, "group": "x", "by": "activation"}}),
    ] {
        let mut survey = json!({"activate": {"event": "woke", "match": "id"}, "expires_after": "2h", "delay": "10m"});
        survey.as_object_mut().unwrap().extend(share.as_object().unwrap().clone());
        let arm = |play: &mut Play, minute: i64, n: usize| {
            let properties = Box::leak(format!("{{\"id\":{n}}}").into_boxed_str());
            let body = Body::Event { name: "woke".into(), properties, session_id: None };
            play.apply(minute * MINUTE, ClientTimes::default(), Some(format!("event_{n}")), body);
        };
        let is_held = |n: &usize| {
            let mut alone = Play::new(std::slice::from_ref(&survey));
            arm(&mut alone, 0, *n);
            alone.ask_in(30 * MINUTE, None).survey.is_some()
        };
        let held = (0..40).find(is_held).expect("one of many is held");
        let left_out = (0..40).find(|n| !is_held(n)).expect("one of many is left out");
        let mut both = Play::new(std::slice::from_ref(&survey));
        arm(&mut both, 0, left_out);
        arm(&mut both, 1, held);
        // While the first is open and left out, the next that opens says why.
        let stop = both.ask_in(10 * MINUTE, None).evaluations[0].failure.clone().unwrap();
        assert_eq!((stop.gate.name(), stop.until), ("delay_pending", Some(11 * MINUTE)));
        let offered = both.ask_in(30 * MINUTE, None).survey.expect("one of them is held");
        assert_eq!(offered.activation.unwrap().event_id, format!("event_{held}"));
    }
}

#[test]
fn a_spread_gives_each_user_a_moment_of_their_own() {
    let start = "1970-01-01T00:00:00Z";
    let survey = json!({"activate": null, "expires_after": null, "schedule": {"start_at": start}, "spread": "10d"});
    let begins = |n: usize| {
        let mut play = Play::new(std::slice::from_ref(&survey));
        play.user_id = Box::leak(format!("user_{n}").into_boxed_str());
        let stop = play.ask_in(0, None).evaluations[0].failure.clone().expect("nobody begins at once");
        let until = stop.until.expect("it comes by itself");
        play.expect(until - 1, "not_sampled");
        play.expect(until, "offered");
        until / DAY
    };
    let days: std::collections::BTreeSet<i64> = (0..200).map(begins).collect();
    assert_eq!(days, (0..10).collect());
}

#[test]
fn a_survey_under_test_skips_shares_but_not_who_and_when_it_is_for() {
    let survey = json!({"activate": null, "expires_after": null, "status": "test", "test_users": ["ann"],
        "sampling": {"percent": 0}, "holdout": {"percent": 100},
        "targeting": {"attribute": "plan", "op": "exists"}});
    let mut play = Play::new(&[survey]);
    play.expect(0, "targeting_failed");
    play.apply(1, ClientTimes::default(), None, Body::Attributes(vec![("plan".into(), Json::from_valid("1"))]));
    play.expect(2, "offered");
}
