//! What users and their devices tell: answers, attributes, triggers that come late.

use crate::play::Play;
use askwhen_domain::eligibility::apply::{Output, Outputs, Refusal, Reply};
use askwhen_domain::eligibility::decision::{DecisionReason, Gate};
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, Context, GivenAnswer, Target};
use askwhen_domain::time::{ClientTimes, DAY, HOUR, MINUTE};
use askwhen_domain::webhook::endpoint::EventType;
use serde_json::json;

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
        let target = Target::Link { survey_id: survey.into(), response_id: id.map(str::to_owned), single_use: None };
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
