//! How often a survey is offered, and which of several.

use crate::play::Play;
use askwhen_domain::eligibility::decision::Gate;
use askwhen_domain::record::Body;
use askwhen_domain::time::{ClientTimes, DAY, MINUTE, SECOND};
use serde_json::json;

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
fn a_late_display_counts_in_the_session_in_which_it_happened() {
    let free = json!({"activate": null, "expires_after": null,
        "frequency": {"repeat": "every_activation", "global_cooldown": "ignore"}});
    let mut play = Play::new(&[free]);
    play.project.settings.session_lifetime = Some(30 * MINUTE);
    let first = play.ask_in(0, Some("a")).survey.unwrap().offer_id;
    // The session was idle, and another one goes on under its id.
    let second = play.ask_in(40 * MINUTE, Some("a")).survey.unwrap().offer_id;
    play.displayed(40 * MINUTE, &second);
    let times = ClientTimes { occurred_at: Some(MINUTE), ..ClientTimes::default() };
    play.apply(41 * MINUTE, times, None, Body::Displayed { offer_id: first.into() });
    assert_eq!((play.user.surveys["s"].displays, play.user.session_displays(Some("a"))), (2, 1));
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
    let stop = elsewhere.evaluations[0].failure.clone().unwrap();
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
        assert_eq!(loser.failure.as_ref().unwrap().gate, Gate::Preempted);
    }
}
