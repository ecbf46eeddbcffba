//! The rules of design §5, a case each: definitions, timed inputs, expected
//! decisions. Times are minutes; `at` is when the log took the record.

mod limits;
mod reference;
mod windows;

use askwhen_domain::apply::*;
use askwhen_domain::decision::{Decision, DecisionReason, Gate};
use askwhen_domain::definitions::Project;
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Record, Target};
use askwhen_domain::time::{ClientTimes, DAY, HOUR, MINUTE, Millis, SECOND};
use askwhen_domain::user::User;
use askwhen_wire::definition;
use serde_json::{Value, json};

const ORIGIN: Origin = Origin { incarnation: 1, partition: 0, offset: 0 };

/// One user of one project, and everything that happened.
struct Play {
    project: Project,
    user: User,
    user_id: &'static str,
    offset: u64,
    version: u64,
    now: Millis,
    last: Outputs,
}

impl Play {
    fn new(surveys: &[Value]) -> Play {
        let mut play = Play {
            project: Project::default(),
            user: User::default(),
            user_id: "ann",
            offset: 0,
            version: 0,
            now: 0,
            last: Outputs::default(),
        };
        for survey in surveys {
            play.define(survey.clone());
        }
        play
    }

    fn define(&mut self, changes: Value) {
        let mut survey = json!({
            "survey_id": "s", "name": "S", "status": "active", "activate": {"event": "woke"}, "expires_after": "2h",
            "show_on": [{"trigger": "Main"}], "frequency": {"repeat": "every_activation"},
            "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"},
                          {"question_id": "q2", "type": "text", "text": "Why?"}],
        });
        for (name, value) in changes.as_object().unwrap() {
            survey[name] = value.clone();
        }
        self.version += 1;
        let survey = definition::survey(&survey, None).unwrap_or_else(|faults| panic!("{faults:?}"));
        self.project.put_survey(self.version, survey, self.now, self.offset + 1);
    }

    fn apply(&mut self, at: Millis, times: ClientTimes, event_id: Option<String>, body: Body<'_>) -> &Outputs {
        self.now = self.now.max(at);
        self.offset += 1;
        let record = Record {
            project: "default".into(),
            user_id: self.user_id.into(),
            event_id: event_id.map(Into::into),
            times,
            body,
        };
        let origin = Origin { offset: self.offset, ..ORIGIN };
        let ctx = ApplyContext {
            origin,
            now: self.now,
            project_id: "default",
            user_id: self.user_id,
            project: &self.project,
            quota_statuses: &NO_QUOTAS,
            may_wait: false,
        };
        self.last = apply(ctx, &mut self.user, &record, false);
        &self.last
    }

    fn event(&mut self, at: Millis, happened: Millis) {
        self.event_with(at, happened, "{}");
    }

    fn event_with(&mut self, at: Millis, happened: Millis, properties: &'static str) {
        let times = ClientTimes { occurred_at: Some(happened), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: "woke".into(), properties });
    }

    /// A trigger in a session; gives reason and evaluations.
    fn ask_in(&mut self, at: Millis, session: Option<&str>) -> Decision {
        let context = Context { session_id: session.map(str::to_owned), ..Context::default() };
        self.ask_with(at, context, "{}")
    }

    fn ask_with(&mut self, at: Millis, context: Context, properties: &'static str) -> Decision {
        let body = Body::Trigger { trigger: "Main".into(), properties, context };
        match &self.apply(at, ClientTimes::default(), None, body).reply {
            Some(Reply::Decided(decision)) => (**decision).clone(),
            other => panic!("no decision: {other:?}"),
        }
    }

    #[track_caller]
    fn expect(&mut self, at: Millis, reason: &str) -> Option<String> {
        let decision = self.ask_in(at, None);
        assert_eq!(decision.reason.name(), reason, "at {} min: {:?}", at / MINUTE, decision.evaluations);
        decision.survey.map(|s| s.offer_id)
    }

    fn displayed(&mut self, at: Millis, offer_id: &str) {
        self.apply(at, ClientTimes::default(), None, Body::Displayed { offer_id: offer_id.to_owned().into() });
    }

    fn answer(&mut self, at: Millis, offer_id: &str, answers: &[(&str, &str)], completed: bool) -> &Outputs {
        let given = |(id, value): &(&str, &str)| GivenAnswer {
            question_id: (*id).to_owned(),
            value: Json::from_valid(*value),
            answered_at: None,
            duration_ms: None,
        };
        let said = Answers {
            target: Target::Offer(offer_id.to_owned()),
            answers: answers.iter().map(given).collect(),
            completed,
            context: Context::default(),
        };
        self.apply(at, ClientTimes::default(), None, Body::Answers(said))
    }
}

#[test]
fn a_rating_is_a_whole_number_in_any_spelling() {
    let mut play = Play::new(&[json!({"activate": null, "expires_after": null})]);
    let offer = play.expect(0, "offered").unwrap();
    for wrong in ["4.5", "\"4\"", "6.0", "1e3", "true"] {
        let refused = &play.answer(1, &offer, &[("q1", wrong)], false).reply;
        assert!(matches!(refused, Some(Reply::Refused(_))), "{wrong}: {refused:?}");
    }
    play.answer(2, &offer, &[("q1", "4.0")], false);
    assert_eq!(play.user.offers[0].response.as_ref().unwrap().answers["q1"].value.as_str(), "4");
    for same in ["4", "4.00", "40e-1"] {
        let again = &play.answer(3, &offer, &[("q1", same)], false).reply;
        assert!(matches!(again, Some(Reply::Accepted { duplicate: true, .. })), "{same}: {again:?}");
    }
}

#[test]
fn the_window_is_half_open() {
    let mut play = Play::new(&[json!({"delay": "10m"})]);
    play.expect(0, "not_activated");
    play.event(MINUTE, MINUTE);
    play.expect(11 * MINUTE - 1, "delay_pending");
    let offer = play.expect(11 * MINUTE, "offered").unwrap();
    let mut late = Play::new(&[json!({})]);
    late.event(0, 0);
    late.expect(2 * HOUR, "expired");
    late.expect(26 * HOUR - 1, "expired");
    late.expect(26 * HOUR, "not_activated");
    let mut edge = Play::new(&[json!({})]);
    edge.event(0, 0);
    edge.expect(2 * HOUR - 1, "offered");
    assert!(offer.starts_with("off_"));
}

#[test]
fn late_and_repeated_events_arm_by_event_time() {
    let mut play = Play::new(&[json!({})]);
    play.event(3 * HOUR, HOUR);
    play.expect(3 * HOUR, "not_activated");
    play.event(3 * HOUR, 2 * HOUR);
    play.event(3 * HOUR, HOUR + MINUTE);
    play.expect(4 * HOUR - 1, "offered");
    let mut ids = Play::new(&[json!({})]);
    let body = || Body::Event { name: "woke".into(), properties: "{}" };
    ids.apply(0, ClientTimes::default(), Some("e".into()), body());
    let before = ids.user.clone();
    let out = ids.apply(MINUTE, ClientTimes::default(), Some("e".into()), body());
    assert_eq!(out.reply, Some(Reply::Repeated));
    assert_eq!(ids.user, before);
}

#[test]
fn refresh_moves_the_window_and_keep_first_does_not() {
    for (on_repeat, reason) in [("refresh", "offered"), ("keep_first", "expired")] {
        let mut play = Play::new(&[json!({"on_repeat": on_repeat})]);
        play.event_with(0, 0, "{\"n\":1}");
        play.event_with(HOUR, HOUR, "{\"n\":2}");
        let mut other = Play { user: play.user.clone(), ..Play::new(&[json!({"on_repeat": on_repeat})]) };
        let decision = play.ask_in(90 * MINUTE, None);
        let properties = decision.survey.unwrap().activation.unwrap().properties;
        assert_eq!(properties.as_str(), if on_repeat == "refresh" { "{\"n\":2}" } else { "{\"n\":1}" });
        other.expect(2 * HOUR + MINUTE, reason);
    }
}

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
    assert_eq!(elsewhere.evaluations[0].stop.as_ref().unwrap().actual, json!({"property": "tab", "actual": "shop"}));
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
fn every_repeat_uses_itself_up() {
    let day = |n: i64| n * DAY;
    for (repeat, after_display, after_answer, after_completion) in [
        ("once", "max_displays", "max_displays", "max_displays"),
        ("until_responded", "offered", "already_completed", "already_completed"),
        ("until_completed", "offered", "offered", "already_completed"),
        ("every_activation", "offered", "offered", "offered"),
    ] {
        for (answers, completed, expected) in
            [(None, false, after_display), (Some("4"), false, after_answer), (Some("4"), true, after_completion)]
        {
            let mut play = Play::new(&[json!({"frequency": {"repeat": repeat, "global_cooldown": "ignore"}})]);
            play.event(0, 0);
            let offer = play.expect(MINUTE, "offered").unwrap();
            play.displayed(2 * MINUTE, &offer);
            if let Some(value) = answers {
                play.answer(3 * MINUTE, &offer, &[("q1", value)], completed);
            }
            let again = play.ask_in(4 * MINUTE, None).reason.name();
            assert!(again == "max_displays" || again == "already_completed", "one display per window: {again}");
            play.event(day(2), day(2));
            play.expect(day(2) + 1, expected);
        }
    }
}

#[test]
fn counts_and_cooldowns_end_exactly() {
    let mut play = Play::new(&[json!({"activate": null, "expires_after": null,
        "frequency": {"repeat": "until_completed", "max_displays": 2, "cooldown": "1d", "global_cooldown": "ignore"}})]);
    let offer = play.expect(0, "offered").unwrap();
    play.displayed(0, &offer);
    play.expect(DAY - 1, "cooldown");
    let offer = play.expect(DAY, "offered").unwrap();
    play.displayed(DAY, &offer);
    play.expect(3 * DAY, "max_displays");

    let free = json!({"activate": null, "expires_after": null, "frequency": {"repeat": "until_completed"}});
    let mut global = Play::new(&[free]);
    let offer = global.expect(0, "offered").unwrap();
    global.displayed(SECOND, &offer);
    global.expect(7 * DAY + SECOND - 1, "global_cooldown");
    global.expect(7 * DAY + SECOND, "offered");
}

#[test]
fn a_session_has_its_cap_and_a_missing_one_has_none() {
    let free = json!({"activate": null, "expires_after": null,
        "frequency": {"repeat": "until_completed", "global_cooldown": "ignore"}});
    let mut play = Play::new(&[free]);
    let decision = play.ask_in(0, Some("a"));
    play.displayed(1, &decision.survey.unwrap().offer_id);
    assert_eq!(play.ask_in(2, Some("a")).reason.name(), "session_cap");
    assert_eq!(play.ask_in(3, None).reason.name(), "offered");
}

#[test]
fn an_undisplayed_offer_is_given_again_to_its_session_and_to_no_other() {
    let mut play = Play::new(&[
        json!({}),
        json!({"survey_id": "t", "priority": 9, "activate": null, "expires_after": null,
        "show_on": [{"trigger": "Other"}]}),
    ]);
    play.event(0, 0);
    let first = play.ask_in(0, Some("a")).survey.unwrap();
    let again = play.ask_in(1, Some("a"));
    assert_eq!((again.reason.name(), &again.survey.unwrap().offer_id), ("offered", &first.offer_id));
    let elsewhere = play.ask_in(2, Some("b"));
    let stop = elsewhere.evaluations[0].stop.clone().unwrap();
    assert_eq!((stop.gate, stop.until), (Gate::OfferOutstanding, Some(10 * MINUTE)));
    play.expect(3, "offer_outstanding");
    let lapsed = play.ask_in(10 * MINUTE, Some("b")).survey.unwrap();
    assert_ne!(lapsed.offer_id, first.offer_id, "armed again after offer_ttl");
    play.displayed(11 * MINUTE, &first.offer_id);
    assert_eq!(play.user.surveys["s"].displays, 1, "a late display still counts");
}

#[test]
fn priority_then_expiry_then_age_then_id() {
    let shown = |id: &str, priority: i64, expires: &str| json!({"survey_id": id, "priority": priority, "expires_after": expires, "activate": {"event": "woke"}});
    for (surveys, winner) in [
        (vec![shown("a", 1, "2h"), shown("b", 2, "2h")], "b"),
        (vec![shown("a", 1, "2h"), shown("b", 1, "1h")], "b"),
        (vec![shown("b", 1, "1h"), shown("a", 1, "1h")], "a"),
    ] {
        let mut play = Play::new(&surveys);
        play.event(0, 0);
        let decision = play.ask_in(MINUTE, None);
        assert_eq!(decision.survey.unwrap().survey_id, winner);
        let loser = decision.evaluations.iter().find(|e| e.survey_id != winner).unwrap();
        assert_eq!(loser.stop.as_ref().unwrap().gate, Gate::Preempted);
    }
}

#[test]
fn answers_are_checked_merged_and_told_once() {
    let mut play = Play::new(&[json!({})]);
    play.event(0, 0);
    let offer = play.expect(1, "offered").unwrap();
    let kinds = |out: &Outputs| -> Vec<EventType> {
        out.items
            .iter()
            .filter_map(|o| if let Output::Response { kind, .. } = o { Some(*kind) } else { None })
            .collect()
    };
    let refused = play.answer(2, &offer, &[("q1", "6")], false);
    assert!(
        matches!(&refused.reply, Some(Reply::Refused(Refusal::UnfitAnswer { pointer, .. })) if pointer == "/answers/0/value")
    );
    assert!(play.user.offers[0].response.is_none(), "nothing is stored");
    let refused = play.answer(2, &offer, &[("nope", "1")], false);
    assert!(
        matches!(&refused.reply, Some(Reply::Refused(Refusal::UnfitAnswer { pointer, .. })) if pointer == "/answers/0/question_id")
    );
    assert_eq!(kinds(play.answer(3, &offer, &[("q1", "4")], false)), [EventType::Answered]);
    let repeated = play.answer(4, &offer, &[("q1", "4")], false);
    assert!(matches!(repeated.reply, Some(Reply::Accepted { duplicate: true, .. })) && repeated.items.is_empty());
    assert_eq!(kinds(play.answer(5, &offer, &[("q2", "\"x\"")], true)), [EventType::Answered, EventType::Completed]);
    let repeated = play.answer(6, &offer, &[("q1", "4"), ("q2", "\"x\"")], true);
    assert!(matches!(repeated.reply, Some(Reply::Accepted { duplicate: true, .. })), "completed only once");
    for other in [("q1", "5"), ("q2", "\"y\"")] {
        let refused = play.answer(6, &offer, &[other], true);
        assert_eq!((&refused.reply, refused.items.len()), (&Some(Reply::Refused(Refusal::ResponseCompleted)), 0));
    }
    assert_eq!(play.user.surveys["s"].displays, 1, "an answer implies the display");
    let late = play.answer(DAY + HOUR, &offer, &[("q1", "3")], false);
    assert_eq!(late.reply, Some(Reply::Refused(Refusal::OfferLapsed)));
    let unknown = play.answer(DAY + HOUR, "off_none", &[("q1", "3")], false);
    assert_eq!(unknown.reply, Some(Reply::Refused(Refusal::UnknownOffer)));
}

#[test]
fn an_edited_activation_disarms_and_expiries_bind_as_they_should() {
    let mut play = Play::new(&[json!({})]);
    play.event(0, 0);
    play.define(json!({"activate": {"event": "slept"}}));
    play.expect(MINUTE, "not_activated");

    let mut shorter = Play::new(&[json!({})]);
    shorter.event(0, 0);
    shorter.now = 30 * MINUTE;
    shorter.define(json!({"expires_after": "20m"}));
    shorter.expect(30 * MINUTE, "expired");

    let mut longer = Play::new(&[json!({})]);
    longer.event(0, 0);
    longer.now = 3 * HOUR;
    longer.define(json!({"expires_after": "50h"}));
    longer.expect(3 * HOUR, "expired");
    longer.event(3 * HOUR, 3 * HOUR);
    longer.expect(40 * HOUR, "offered");
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
    assert!(evaluation.shadow && evaluation.stop.is_none());
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
fn a_trigger_told_too_late_is_stale() {
    let mut play = Play::new(&[json!({"activate": null, "expires_after": null})]);
    let times = ClientTimes { occurred_at: Some(0), sent_at: Some(10 * MINUTE + 1), received_at: None };
    let body = Body::Trigger { trigger: "Main".into(), properties: "{}", context: Context::default() };
    let Some(Reply::Decided(decision)) = &play.apply(11 * MINUTE, times, None, body).reply else {
        panic!("no decision")
    };
    assert_eq!(decision.reason, DecisionReason::Stale);
}

#[test]
fn link_surveys_are_answered_without_an_offer() {
    let link = json!({"link": true, "activate": null, "expires_after": null, "show_on": null, "frequency": {"repeat": "until_completed"}});
    let mut play = Play::new(&[link, json!({"survey_id": "t"})]);
    let said = |survey: &str, id: Option<&str>, completed| {
        let given = GivenAnswer {
            question_id: "q1".into(),
            value: Json::from_valid("5"),
            answered_at: None,
            duration_ms: None,
        };
        let target = Target::Link { survey_id: survey.into(), response_id: id.map(str::to_owned) };
        Body::Answers(Answers { target, answers: vec![given], completed, context: Context::default() })
    };
    let Some(Reply::Accepted { response_id: Some(id), .. }) =
        play.apply(0, ClientTimes::default(), None, said("s", None, false)).reply.clone()
    else {
        panic!("not accepted")
    };
    let more = play.apply(1, ClientTimes::default(), None, said("s", Some(&id), true)).reply.clone();
    assert_eq!(more, Some(Reply::Accepted { duplicate: false, response_id: Some(id) }));
    let closed = play.apply(2, ClientTimes::default(), None, said("s", None, true)).reply.clone();
    assert_eq!(closed, Some(Reply::Refused(Refusal::Closed(Gate::AlreadyCompleted))));
    let other = play.apply(3, ClientTimes::default(), None, said("t", None, true)).reply.clone();
    assert_eq!(other, Some(Reply::Refused(Refusal::UnknownSurvey)));
}

#[test]
fn attributes_merge_and_are_bounded() {
    let mut play = Play::new(&[]);
    let merge = |pairs: &[(&str, &str)]| {
        Body::Attributes(pairs.iter().map(|(k, v)| ((*k).to_owned(), Json::from_valid(*v))).collect())
    };
    play.apply(0, ClientTimes::default(), None, merge(&[("a", "1"), ("b", "2")]));
    play.apply(1, ClientTimes::default(), None, merge(&[("a", "null"), ("c", "[3]")]));
    let names: Vec<&String> = play.user.attributes.keys().collect();
    assert_eq!(names, ["b", "c"]);
    let big = format!("\"{}\"", "x".repeat(33 << 10));
    let refused = play.apply(2, ClientTimes::default(), None, merge(&[("d", &big)])).reply.clone();
    assert_eq!(refused, Some(Reply::Refused(Refusal::AttributesTooLarge)));
    assert_eq!(play.user.attributes.len(), 2);
}

#[test]
fn a_schedule_says_when_and_when_next() {
    // The epoch was a Thursday; Berlin was an hour ahead of UTC.
    let schedule = json!({"timezone": "Europe/Berlin", "days": ["thu", "fri"], "hours": ["06:00", "23:00"]});
    let mut play = Play::new(&[json!({"activate": null, "expires_after": null, "schedule": schedule})]);
    let decision = play.ask_in(5 * HOUR - 1, None);
    let stop = decision.evaluations[0].stop.clone().unwrap();
    assert_eq!((stop.gate.name(), stop.until), ("out_of_schedule", Some(5 * HOUR)));
    assert_eq!(stop.actual, json!("Thu 1970-01-01T05:59:59+01:00"));
    play.expect(5 * HOUR, "offered");
    play.expect(22 * HOUR - 1, "offered");
    assert_eq!(play.ask_in(22 * HOUR, None).evaluations[0].stop.as_ref().unwrap().until, Some(29 * HOUR));
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
    let stop_of = |decision: Decision| decision.evaluations[0].stop.clone().unwrap();
    let stop = stop_of(play.ask_in(0, None));
    assert_eq!((stop.gate.name(), stop.actual), ("targeting_failed", json!({"attribute": "plan", "actual": null})));
    play.apply(1, ClientTimes::default(), None, Body::Attributes(vec![("plan".into(), Json::from_valid("\"pro\""))]));
    play.expect(2, "offered");

    let body = Body::Trigger { trigger: "Other".into(), properties: "{}", context: Context::default() };
    let reply = play.apply(11 * MINUTE, ClientTimes::default(), None, body).reply.clone();
    let Some(Reply::Decided(decision)) = reply else { panic!("{reply:?}") };
    let offer = decision.survey.expect("offered").offer_id;
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

impl Play {
    /// An event of any name, told when it happens.
    fn times(&mut self, at: Millis, name: &'static str, properties: &'static str) {
        let times = ClientTimes { occurred_at: Some(at), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: name.into(), properties });
    }

    /// One that happened earlier than it is told.
    fn told_late(&mut self, at: Millis, happened: Millis, name: &'static str) {
        let times = ClientTimes { occurred_at: Some(happened), ..ClientTimes::default() };
        self.apply(at, times, None, Body::Event { name: name.into(), properties: "{}" });
    }
}

#[test]
fn the_third_failed_payment_in_a_day_arms() {
    let activate = json!({"event": "payment_failed", "where": [{"property": "amount", "op": "gte", "value": 10}],
        "count": {"at_least": 3, "within": "24h"}});
    let mut play = Play::new(&[json!({"activate": activate})]);
    play.times(0, "payment_failed", r#"{"amount":10}"#);
    play.times(HOUR, "payment_failed", r#"{"amount":9.99}"#);
    play.times(2 * HOUR, "payment_failed", r#"{"amount":10}"#);
    play.expect(3 * HOUR, "not_activated");
    play.times(DAY, "payment_failed", r#"{"amount":11}"#);
    let decision = play.ask_in(DAY, None);
    let offered = decision.survey.expect("the first is exactly a day old");
    assert_eq!(offered.activation.unwrap().properties.as_str(), r#"{"amount":11}"#);
    play.expect(DAY + 2 * HOUR, "expired");
}

#[test]
fn one_more_than_a_day_apart_is_not_three_in_a_day_but_a_late_one_still_counts() {
    let activate = json!({"event": "fail", "count": {"at_least": 3, "within": "24h"}});
    let mut play = Play::new(&[json!({"activate": activate})]);
    play.times(0, "fail", "{}");
    play.times(HOUR, "fail", "{}");
    play.times(DAY + 1, "fail", "{}");
    play.expect(DAY + 2, "not_activated");
    // Told ten hours late: its own window would be long over, and it counts.
    play.told_late(DAY + MINUTE, 14 * HOUR, "fail");
    play.expect(DAY + 2 * MINUTE, "offered");
    // A late third arms nothing when its own time has passed.
    let mut play = Play::new(&[json!({"activate": {"event": "fail", "count": {"at_least": 2, "within": "24h"}}})]);
    play.times(0, "fail", "{}");
    play.told_late(10 * HOUR, HOUR, "fail");
    play.expect(10 * HOUR, "not_activated");
}

#[test]
fn any_of_several_events_and_all_of_them() {
    let mut play = Play::new(&[json!({"activate": {"any": [{"event": "a"}, {"event": "b"}]}})]);
    play.times(0, "b", "{}");
    play.expect(MINUTE, "offered");
    let all = json!({"all": [{"event": "a"}, {"event": "b"}], "within": "24h"});
    let mut play = Play::new(&[json!({"activate": all})]);
    play.times(0, "b", "{}");
    play.expect(MINUTE, "not_activated");
    play.times(DAY, "a", "{}");
    play.expect(DAY, "offered");
    play.expect(DAY + 2 * HOUR, "expired");
}

#[test]
fn a_sequence_needs_its_order_whenever_it_is_told() {
    let steps =
        json!({"sequence": {"steps": [{"event": "cart"}, {"event": "pay"}, {"event": "paid"}], "within": "60m"}});
    let survey = json!({"activate": steps});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.times(0, "pay", "{}");
    play.times(MINUTE, "cart", "{}");
    play.times(2 * MINUTE, "paid", "{}");
    play.expect(3 * MINUTE, "not_activated");
    play.told_late(4 * MINUTE, MINUTE + SECOND, "pay");
    let decision = play.ask_in(5 * MINUTE, None);
    assert_eq!(decision.survey.expect("in order by event time").activation.unwrap().occurred_at, 2 * MINUTE);
    let mut play = Play::new(&[survey]);
    play.times(0, "cart", "{}");
    play.times(0, "pay", "{}");
    play.times(HOUR + 1, "paid", "{}");
    play.expect(HOUR + 2, "not_activated");
    play.times(HOUR + 3, "cart", "{}");
    play.times(HOUR + 3, "pay", "{}");
    play.times(HOUR + 3, "paid", "{}");
    play.expect(HOUR + 3, "offered");
}

#[test]
fn a_checkout_abandoned_for_half_an_hour() {
    let absence = json!({"absence": {"after": {"event": "checkout"}, "without": {"event": "paid"}, "for": "30m"}});
    let survey = json!({"activate": absence, "expires_after": "1h"});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.times(0, "checkout", r#"{"cart":7}"#);
    let decision = play.ask_in(30 * MINUTE - 1, None);
    let stop = decision.evaluations[0].stop.clone().unwrap();
    assert_eq!((stop.gate.name(), stop.until), ("not_activated", Some(30 * MINUTE)));
    let offered = play.ask_in(30 * MINUTE, None).survey.expect("nobody has paid");
    let activation = offered.activation.unwrap();
    assert_eq!((activation.occurred_at, activation.properties.as_str()), (30 * MINUTE, r#"{"cart":7}"#));
    play.expect(90 * MINUTE - 1, "offered");
    play.expect(90 * MINUTE, "expired");

    let mut play = Play::new(std::slice::from_ref(&survey));
    play.times(0, "checkout", "{}");
    play.times(29 * MINUTE, "paid", "{}");
    play.expect(30 * MINUTE, "not_activated");
    // Told late, but before anyone asked.
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.times(0, "checkout", "{}");
    play.told_late(40 * MINUTE, 10 * MINUTE, "paid");
    play.expect(41 * MINUTE, "not_activated");
    // A second checkout waits for its own half hour, and moves the window.
    let mut play = Play::new(&[survey]);
    play.times(0, "checkout", "{}");
    play.times(20 * MINUTE, "checkout", "{}");
    play.expect(30 * MINUTE, "offered");
    play.expect(50 * MINUTE + HOUR - 1, "offered");
    play.expect(50 * MINUTE + HOUR, "expired");
}

#[test]
fn what_cancels_comes_after_and_before_any_display() {
    let survey = json!({"activate": {"event": "woke"}, "cancel_on": [{"event": "slept"}]});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.times(0, "slept", "{}");
    play.times(0, "woke", "{}");
    play.times(HOUR, "slept", "{}");
    let decision = play.ask_in(HOUR, None);
    assert_eq!(decision.reason.name(), "cancelled", "{:?}", decision.evaluations);
    play.expect(HOUR + DAY - 1, "cancelled");
    play.expect(HOUR + DAY, "not_activated");
    play.times(2 * DAY, "woke", "{}");
    let offer = play.expect(2 * DAY + MINUTE, "offered").unwrap();
    play.displayed(2 * DAY + 2 * MINUTE, &offer);
    play.times(2 * DAY + 3 * MINUTE, "slept", "{}");
    play.expect(2 * DAY + 4 * MINUTE, "max_displays");
    // An earlier time, told later, cancels nothing that came after it.
    let mut play = Play::new(&[survey]);
    play.times(HOUR, "woke", "{}");
    play.told_late(2 * HOUR, HOUR - 1, "slept");
    play.expect(2 * HOUR, "offered");
    play.told_late(2 * HOUR + 1, HOUR + 1, "slept");
    play.expect(2 * HOUR + 2, "cancelled");
}
