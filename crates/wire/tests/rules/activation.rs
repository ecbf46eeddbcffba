//! What arms a survey, for how long, and what disarms it.

use crate::play::Play;
use askwhen_domain::eligibility::apply::Reply;
use askwhen_domain::record::Body;
use askwhen_domain::time::{ClientTimes, DAY, HOUR, MINUTE, SECOND};
use serde_json::json;

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
    let body = || Body::Event { name: "woke".into(), properties: "{}", session_id: None };
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
fn the_third_failed_payment_in_a_day_arms() {
    let activate = json!({"event": "payment_failed", "where": [{"property": "amount", "op": "gte", "value": 10}],
        "count": {"at_least": 3, "within": "24h"}});
    let mut play = Play::new(&[json!({"activate": activate})]);
    play.event_named(0, "payment_failed", r#"{"amount":10}"#);
    play.event_named(HOUR, "payment_failed", r#"{"amount":9.99}"#);
    play.event_named(2 * HOUR, "payment_failed", r#"{"amount":10}"#);
    play.expect(3 * HOUR, "not_activated");
    play.event_named(DAY, "payment_failed", r#"{"amount":11}"#);
    let decision = play.ask_in(DAY, None);
    let offered = decision.survey.expect("the first is exactly a day old");
    assert_eq!(offered.activation.unwrap().properties.as_str(), r#"{"amount":11}"#);
    play.expect(DAY + 2 * HOUR, "expired");
}

#[test]
fn one_more_than_a_day_apart_is_not_three_in_a_day_but_a_late_one_still_counts() {
    let activate = json!({"event": "fail", "count": {"at_least": 3, "within": "24h"}});
    let mut play = Play::new(&[json!({"activate": activate})]);
    play.event_named(0, "fail", "{}");
    play.event_named(HOUR, "fail", "{}");
    play.event_named(DAY + 1, "fail", "{}");
    play.expect(DAY + 2, "not_activated");
    // Told ten hours late: its own window would be long over, and it counts.
    play.late_event(DAY + MINUTE, 14 * HOUR, "fail");
    play.expect(DAY + 2 * MINUTE, "offered");
    // A late third arms nothing when its own time has passed.
    let mut play = Play::new(&[json!({"activate": {"event": "fail", "count": {"at_least": 2, "within": "24h"}}})]);
    play.event_named(0, "fail", "{}");
    play.late_event(10 * HOUR, HOUR, "fail");
    play.expect(10 * HOUR, "not_activated");
}

#[test]
fn any_of_several_events_and_all_of_them() {
    let mut play = Play::new(&[json!({"activate": {"any": [{"event": "a"}, {"event": "b"}]}})]);
    play.event_named(0, "b", "{}");
    play.expect(MINUTE, "offered");
    let all = json!({"all": [{"event": "a"}, {"event": "b"}], "within": "24h"});
    let mut play = Play::new(&[json!({"activate": all})]);
    play.event_named(0, "b", "{}");
    play.expect(MINUTE, "not_activated");
    play.event_named(DAY, "a", "{}");
    play.expect(DAY, "offered");
    play.expect(DAY + 2 * HOUR, "expired");
}

#[test]
fn a_sequence_needs_its_order_whenever_it_is_told() {
    let steps =
        json!({"sequence": {"steps": [{"event": "cart"}, {"event": "pay"}, {"event": "paid"}], "within": "60m"}});
    let survey = json!({"activate": steps});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.event_named(0, "pay", "{}");
    play.event_named(MINUTE, "cart", "{}");
    play.event_named(2 * MINUTE, "paid", "{}");
    play.expect(3 * MINUTE, "not_activated");
    play.late_event(4 * MINUTE, MINUTE + SECOND, "pay");
    let decision = play.ask_in(5 * MINUTE, None);
    assert_eq!(decision.survey.expect("in order by event time").activation.unwrap().occurred_at, 2 * MINUTE);
    let mut play = Play::new(&[survey]);
    play.event_named(0, "cart", "{}");
    play.event_named(0, "pay", "{}");
    play.event_named(HOUR + 1, "paid", "{}");
    play.expect(HOUR + 2, "not_activated");
    play.event_named(HOUR + 3, "cart", "{}");
    play.event_named(HOUR + 3, "pay", "{}");
    play.event_named(HOUR + 3, "paid", "{}");
    play.expect(HOUR + 3, "offered");
}

#[test]
fn a_checkout_abandoned_for_half_an_hour() {
    let absence = json!({"absence": {"after": {"event": "checkout"}, "without": {"event": "paid"}, "for": "30m"}});
    let survey = json!({"activate": absence, "expires_after": "1h"});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.event_named(0, "checkout", r#"{"cart":7}"#);
    let decision = play.ask_in(30 * MINUTE - 1, None);
    let stop = decision.evaluations[0].failure.clone().unwrap();
    assert_eq!((stop.gate.name(), stop.until), ("not_activated", Some(30 * MINUTE)));
    let offered = play.ask_in(30 * MINUTE, None).survey.expect("nobody has paid");
    let activation = offered.activation.unwrap();
    assert_eq!((activation.occurred_at, activation.properties.as_str()), (30 * MINUTE, r#"{"cart":7}"#));
    play.expect(90 * MINUTE - 1, "offered");
    play.expect(90 * MINUTE, "expired");

    let mut play = Play::new(std::slice::from_ref(&survey));
    play.event_named(0, "checkout", "{}");
    play.event_named(29 * MINUTE, "paid", "{}");
    play.expect(30 * MINUTE, "not_activated");
    // Told late, but before anyone asked.
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.event_named(0, "checkout", "{}");
    play.late_event(40 * MINUTE, 10 * MINUTE, "paid");
    play.expect(41 * MINUTE, "not_activated");
    // A second checkout waits for its own half hour, and moves the window.
    let mut play = Play::new(&[survey]);
    play.event_named(0, "checkout", "{}");
    play.event_named(20 * MINUTE, "checkout", "{}");
    play.expect(30 * MINUTE, "offered");
    play.expect(50 * MINUTE + HOUR - 1, "offered");
    play.expect(50 * MINUTE + HOUR, "expired");
}

#[test]
fn what_cancels_comes_after_and_before_any_display() {
    let survey = json!({"activate": {"event": "woke"}, "cancel_on": [{"event": "slept"}]});
    let mut play = Play::new(std::slice::from_ref(&survey));
    play.event_named(0, "slept", "{}");
    play.event_named(0, "woke", "{}");
    play.event_named(HOUR, "slept", "{}");
    let decision = play.ask_in(HOUR, None);
    assert_eq!(decision.reason.name(), "cancelled", "{:?}", decision.evaluations);
    play.expect(HOUR + DAY - 1, "cancelled");
    play.expect(HOUR + DAY, "not_activated");
    play.event_named(2 * DAY, "woke", "{}");
    let offer = play.expect(2 * DAY + MINUTE, "offered").unwrap();
    play.displayed(2 * DAY + 2 * MINUTE, &offer);
    play.event_named(2 * DAY + 3 * MINUTE, "slept", "{}");
    play.expect(2 * DAY + 4 * MINUTE, "max_displays");
    // An earlier time, told later, cancels nothing that came after it.
    let mut play = Play::new(&[survey]);
    play.event_named(HOUR, "woke", "{}");
    play.late_event(2 * HOUR, HOUR - 1, "slept");
    play.expect(2 * HOUR, "offered");
    play.late_event(2 * HOUR + 1, HOUR + 1, "slept");
    play.expect(2 * HOUR + 2, "cancelled");
}
