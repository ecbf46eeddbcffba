//! Parses the questions of a survey definition, and the rules that lead from one to
//! another.

use serde_json::Value;

use super::reader::{Code, Reader, nearest};
use askwhen_domain::survey::filter::{self, Op};
use askwhen_domain::survey::path;
use askwhen_domain::survey::question::{
    AnswerCondition, Choice, END, Ending, NextRule, OtherChoice, Question, QuestionType, ScaleLabels,
};

const MAX_QUESTIONS: usize = 200;
const MAX_OPTIONS: usize = 500;
const MAX_RULES: usize = 100;
pub const MAX_TEXT_BYTES: usize = 16 << 10;

pub fn questions(reader: &mut Reader<'_>, endings: &[Ending]) -> Vec<Question> {
    if reader.raw("questions").is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, "questions", "is required: at least one question");
        return Vec::new();
    }
    let questions = reader.objects("questions", MAX_QUESTIONS, question);
    for (i, question) in questions.iter().enumerate() {
        // One that is missing has been told of.
        let is_given = !question.question_id.is_empty();
        if is_given && questions[..i].iter().any(|earlier| earlier.question_id == question.question_id) {
            reader.fault_at(Code::Invalid, &format!("questions/{i}/question_id"), "question_id is used twice");
        }
    }
    check_targets(reader, &questions, endings);
    for at in path::unreachable(&questions) {
        let detail = "no answers lead to this question: every rule before it jumps over it";
        reader.fault_at(Code::Invalid, &format!("questions/{at}"), detail);
    }
    questions
}

/// Checks that jumps go forward only, so that every path ends.
fn check_targets(reader: &mut Reader<'_>, questions: &[Question], endings: &[Ending]) {
    let is_end = |goto: &str| goto == END || endings.iter().any(|ending| ending.ending_id == goto);
    for (at, question) in questions.iter().enumerate() {
        for (i, rule) in question.next.iter().enumerate() {
            if is_end(&rule.goto) || rule.goto.is_empty() || path::later(questions, at, &rule.goto).is_some() {
                continue;
            }
            let is_earlier = questions.iter().any(|q| q.question_id == rule.goto);
            let detail = if is_earlier {
                "goto must name a later question, an ending, or end: jumps go forward only".to_owned()
            } else {
                let known: Vec<&str> = questions[at + 1..].iter().map(|q| &*q.question_id).chain([END]).collect();
                let known: Vec<&str> = known.into_iter().chain(endings.iter().map(|e| &*e.ending_id)).collect();
                let near = nearest(&rule.goto, &known).map(|near| format!("; did you mean {near}?"));
                format!("goto names no question and no ending of this survey{}", near.unwrap_or_default())
            };
            reader.fault_at(Code::Invalid, &format!("questions/{at}/next/{i}/goto"), detail);
        }
    }
}

fn question(inner: &mut Reader<'_>) -> Question {
    let question_id = inner.required_id("question_id").unwrap_or_default();
    if inner.raw("type").is_none() {
        inner.missing("type");
    }
    let kind = inner.choice("type", &QuestionType::ALL).unwrap_or(QuestionType::Text);
    let options = options(inner);
    if kind.is_choice() && options.is_empty() && inner.raw("options").is_none() {
        inner.fault(Code::MissingField, "options", "is required for this type");
    } else if !kind.is_choice() && !options.is_empty() {
        inner.fault(Code::Invalid, "options", "is for single_choice and multi_choice only");
    }
    let other = inner.object("other", other_choice);
    let shuffle = inner.boolean("shuffle").unwrap_or(false);
    for (member, is_there) in [("other", other.is_some()), ("shuffle", shuffle)] {
        if is_there && !kind.is_choice() {
            inner.fault(Code::Invalid, member, "is for single_choice and multi_choice only");
        }
    }
    let labels = inner.object("labels", scale_labels);
    if labels.is_some() && !kind.is_scale() {
        inner.fault(Code::Invalid, "labels", "is for nps and rating types only");
    }
    let mut question = Question {
        question_id,
        kind,
        text: inner.required_text("text", MAX_TEXT_BYTES).unwrap_or_default(),
        required: inner.boolean("required").unwrap_or(true),
        options,
        other,
        shuffle,
        scale: scale(inner, kind),
        labels,
        next: Vec::new(),
    };
    let next = inner.objects("next", MAX_RULES, |rule| NextRule {
        when: rule.object("when", |when| condition(when, &question)),
        goto: rule.required_id("goto").unwrap_or_default(),
    });
    question.next = next;
    question
}

fn scale(inner: &mut Reader<'_>, kind: QuestionType) -> Option<u8> {
    let scale = inner.integer("scale", 3..=10).map(|n| n as u8);
    match (kind, scale) {
        (QuestionType::RatingNumber, None | Some(3 | 5 | 7 | 10)) | (_, None) => {}
        (QuestionType::RatingNumber, Some(_)) => inner.fault(Code::Invalid, "scale", "must be 3, 5, 7 or 10"),
        (_, Some(_)) => inner.fault(Code::Invalid, "scale", "is for rating_number only"),
    }
    (kind == QuestionType::RatingNumber).then(|| scale.unwrap_or(5))
}

/// `labels: {low: "Not at all", high: "Very"}`
pub fn scale_labels(inner: &mut Reader<'_>) -> ScaleLabels {
    ScaleLabels { low: inner.text("low", MAX_TEXT_BYTES), high: inner.text("high", MAX_TEXT_BYTES) }
}

/// `other: {text: "Something else"}`
pub fn other_choice(inner: &mut Reader<'_>) -> OtherChoice {
    OtherChoice { text: inner.text("text", MAX_TEXT_BYTES) }
}

/// `[noise, {value: light, text: "The light"}]`
fn options(inner: &mut Reader<'_>) -> Vec<Choice> {
    let list = inner.list("options", MAX_OPTIONS);
    let mut options: Vec<Choice> = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let read = match value {
            Value::String(text) => Some((text.clone(), text.clone())),
            Value::Object(members) if members.keys().all(|k| k == "value" || k == "text") => {
                let value = members.get("value").and_then(Value::as_str);
                let text = members.get("text").map_or(value, Value::as_str);
                value.zip(text).map(|(v, t)| (v.to_owned(), t.to_owned()))
            }
            _ => None,
        };
        match read {
            Some((value, _)) if value.is_empty() || value.len() > MAX_TEXT_BYTES => {
                inner.fault_at(Code::Invalid, &format!("options/{i}"), "an option must have 1 to 16384 bytes");
            }
            Some((value, _)) if options.iter().any(|o| o.value == value) => {
                inner.fault_at(Code::Invalid, &format!("options/{i}"), "the option is listed twice");
            }
            Some((value, text)) => options.push(Choice { value, text }),
            None => {
                let detail = "an option must be a string, or an object with value and text";
                inner.fault_at(Code::WrongType, &format!("options/{i}"), detail);
            }
        }
    }
    options
}

/// `when: {op: lte, value: 6}`, on the answer to `question`.
fn condition(when: &mut Reader<'_>, question: &Question) -> AnswerCondition {
    if when.raw("op").is_none() {
        when.missing("op");
    }
    let op = when.choice("op", &Op::ALL);
    let value = when.raw("value").cloned().unwrap_or(Value::Null);
    // A placeholder after a fault, so that the other rules are checked, too.
    let Some(op) = op else { return AnswerCondition::new(Op::Exists, Value::Null) };
    if value.is_null() && !op.is_unary() {
        when.missing("value");
    } else if let Err(why) = filter::check_operand(op, &value) {
        when.fault(Code::Invalid, "value", why);
    } else if let Err((member, why)) = applies(question, op, &value) {
        when.fault(Code::Invalid, member, why);
    }
    AnswerCondition::new(op, value)
}

/// Whether answers to the question can both meet and fail the condition.
///
/// # Errors
/// The member at fault, and what would apply.
fn applies(question: &Question, op: Op, value: &Value) -> Result<(), (&'static str, &'static str)> {
    use Op::{
        Between, Contains, ContainsCi, EndsWith, EndsWithCi, Eq, EqCi, Exists, Gt, Gte, In, Lt, Lte, Neq, NotContains,
        NotExists, NotIn, StartsWith,
    };
    let operands = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    if matches!(op, Exists | NotExists) && question.kind != QuestionType::Info {
        return Ok(());
    }
    match question.kind {
        QuestionType::Info if op == NotExists => Ok(()),
        QuestionType::Info => Err(("op", "can only be not_exists: an info page has no answer")),
        kind if kind.is_scale() => match op {
            Eq | Neq | Gt | Gte | Lt | Lte | Between | In | NotIn if operands.iter().all(Value::is_number) => Ok(()),
            Eq | Neq | Gt | Gte | Lt | Lte | Between | In | NotIn => {
                Err(("value", "must be a number: the answer to this type is one"))
            }
            _ => Err(("op", "compares no numbers: the answer to this type is one")),
        },
        QuestionType::Text => match op {
            Eq | Neq | Gt | Gte | Lt | Lte | Between | In | NotIn | Contains | NotContains | StartsWith | EndsWith
            | EqCi | ContainsCi | EndsWithCi => {
                let fits = operands.iter().all(Value::is_string);
                if fits { Ok(()) } else { Err(("value", "must be a text: the answer to this type is one")) }
            }
            _ => Err(("op", "compares times, and the answer to this type is a text")),
        },
        QuestionType::SingleChoice => match op {
            Eq | Neq | In | NotIn => {
                let fits = operands.iter().all(|operand| is_option(question, operand));
                if fits { Ok(()) } else { Err(("value", "must be the value of one of the question's options")) }
            }
            Contains | NotContains | StartsWith | EndsWith | EqCi | ContainsCi | EndsWithCi => {
                let fits = operands.iter().all(Value::is_string);
                if fits { Ok(()) } else { Err(("value", "must be a text: the answer to this type is one")) }
            }
            _ => Err(("op", "orders, and options have no order: use eq, neq, in or not_in")),
        },
        _ => match op {
            Contains | NotContains if operands.iter().all(|operand| is_option(question, operand)) => Ok(()),
            Contains | NotContains => Err(("value", "must be the value of one of the question's options")),
            ContainsCi => Ok(()),
            _ => Err(("op", "must be contains, not_contains, exists or not_exists: the answer is a list")),
        },
    }
}

fn is_option(question: &Question, value: &Value) -> bool {
    value.as_str().is_some_and(|text| question.options.iter().any(|option| option.value == text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Fault;
    use askwhen_domain::eligibility::apply::fitted;
    use askwhen_domain::json::Json;
    use askwhen_domain::survey::path::AnswerValues;
    use proptest::prelude::*;
    use serde_json::json;

    fn vectors(name: &str) -> Value {
        let path = format!("{}/../../web/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).expect("it is committed")).expect("it is JSON")
    }

    /// Questions as a decision shows them, whether or not a definition may have them.
    fn shown(questions: &Value) -> Vec<Question> {
        let body = json!({ "questions": questions });
        let mut faults = Vec::new();
        let questions = self::questions(&mut Reader::root(&body, &mut faults).expect("an object"), &[]);
        let foreign = faults.iter().find(|fault| fault.code != Code::Invalid);
        assert!(foreign.is_none(), "{foreign:?}");
        questions
    }

    fn faults(questions: Value) -> Vec<Fault> {
        let body = json!({ "questions": questions });
        let mut faults = Vec::new();
        let mut reader = Reader::root(&body, &mut faults).expect("an object");
        self::questions(&mut reader, &[]);
        faults
    }

    #[test]
    fn ten_thousand_answers_lead_where_the_vectors_say() {
        let mut count = 0;
        for survey in vectors("path.json").as_array().expect("a list") {
            let questions = shown(&survey["questions"]);
            let id = |index: &usize| questions[*index].question_id.clone();
            for case in survey["cases"].as_array().expect("a list") {
                let answers: AnswerValues =
                    case["answers"].as_object().expect("by question").clone().into_iter().collect();
                let path = path::follow(&questions, &answers);
                let expected = (case["path"].clone(), case["missing"].clone(), case["end"].clone());
                let ids = |indices: &[usize]| json!(indices.iter().map(id).collect::<Vec<_>>());
                assert_eq!((ids(&path.questions), ids(&path.missing), json!(path.end)), expected, "{survey}");
                count += 1;
            }
        }
        assert_eq!(count, 10_000);
    }

    /// `{"repeat": [text, times, rest]}` stands for a long text.
    fn expanded(value: &Value) -> Value {
        match value {
            Value::Object(members) => match members.get("repeat").and_then(Value::as_array).map(Vec::as_slice) {
                Some([text, times, rest]) => {
                    let times = times.as_u64().expect("a count") as usize;
                    let text = text.as_str().expect("a text").repeat(times);
                    json!(text + rest.as_str().expect("a text"))
                }
                _ => members.iter().map(|(name, value)| (name.clone(), expanded(value))).collect(),
            },
            Value::Array(list) => list.iter().map(expanded).collect(),
            _ => value.clone(),
        }
    }

    #[test]
    fn a_value_fits_exactly_where_the_vectors_say() {
        let vectors = vectors("values.json");
        for vector in vectors.as_array().expect("a list") {
            let questions = shown(&json!([vector["question"]]));
            let value = expanded(&vector["value"]);
            let fits = fitted(&questions[0], &Json::of(&value)).is_ok();
            assert_eq!(json!(fits), vector["valid"], "{} and {}", vector["question"], vector["value"]);
        }
        assert!(vectors.as_array().expect("a list").len() > 700);
    }

    /// The rules once more, written as the contract says them, one question at a time.
    fn naive(questions: &[Value], answers: &serde_json::Map<String, Value>) -> Vec<String> {
        let mut path = Vec::new();
        let mut here = 0;
        while here < questions.len() {
            let question = &questions[here];
            let id = question["question_id"].as_str().expect("an id");
            path.push(id.to_owned());
            let answer = answers.get(id).and_then(Value::as_i64);
            let mut to = here + 1;
            for rule in question["next"].as_array().map_or(&[][..], Vec::as_slice) {
                let holds = match (rule["when"]["op"].as_str(), answer) {
                    (None, _) => true,
                    (Some("not_exists"), answer) => answer.is_none(),
                    (Some("lte"), Some(answer)) => answer <= rule["when"]["value"].as_i64().expect("a number"),
                    (Some("eq"), Some(answer)) => answer == rule["when"]["value"].as_i64().expect("a number"),
                    _ => false,
                };
                if holds {
                    let is_target = |q: &Value| q["question_id"] == rule["goto"];
                    to = questions.iter().position(is_target).unwrap_or(questions.len());
                    break;
                }
            }
            assert!(to > here, "jumps go forward");
            here = to;
        }
        path
    }

    prop_compose! {
        fn a_survey()(count in 1..12_usize)(
            rules in prop::collection::vec(prop::collection::vec((0..4_u8, 0..11_i64, 1..6_usize), 0..4), count),
            answers in prop::collection::vec(prop::option::of(0..11_i64), count),
        ) -> (Vec<Value>, serde_json::Map<String, Value>) {
            let id = |at: usize| if at < rules.len() { format!("q{at}") } else { END.to_owned() };
            let rule = |at: usize, (op, value, ahead): &(u8, i64, usize)| {
                let when = match op {
                    0 => json!({"op": "lte", "value": value}),
                    1 => json!({"op": "eq", "value": value}),
                    2 => json!({"op": "not_exists"}),
                    _ => Value::Null,
                };
                json!({"when": when, "goto": id(at + ahead)})
            };
            let questions = rules.iter().enumerate().map(|(at, rules)| {
                let next: Vec<Value> = rules.iter().map(|one| rule(at, one)).collect();
                json!({"question_id": id(at), "type": "nps", "text": "?", "next": next})
            });
            let given = answers.iter().enumerate().filter_map(|(at, answer)| Some((id(at), json!((*answer)?))));
            (questions.collect(), given.collect())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn every_path_ends_and_is_the_naive_one((asked, answers) in a_survey()) {
            let questions = shown(&json!(asked));
            let path = path::follow(&questions, &answers.clone().into_iter().collect());
            let ids: Vec<String> = path.questions.iter().map(|at| questions[*at].question_id.clone()).collect();
            prop_assert_eq!(ids, naive(&asked, &answers));
            prop_assert_eq!(path.end, END);
            // What no path may lead to is refused, so this one leads there never.
            let unreachable = path::unreachable(&questions);
            prop_assert!(path.questions.iter().all(|at| !unreachable.contains(at)));
        }
    }

    #[test]
    fn faults_of_rules_have_their_pointers() {
        let asked = |id: &str, kind: &str, next: Value| {
            json!({"question_id": id, "type": kind, "text": "?", "next": next,
                "options": if kind.ends_with("choice") { json!(["a", "b"]) } else { Value::Null }})
        };
        let check = |kind: &str, next: Value, expected: &[(&str, &str)]| {
            let found = faults(json!([
                asked("q1", kind, next),
                asked("q2", "nps", Value::Null),
                asked("q3", "nps", Value::Null)
            ]));
            let found: Vec<(&str, &str)> = found.iter().map(|f| (&*f.pointer, &*f.detail)).collect();
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((pointer, detail), (wanted, part)) in found.iter().zip(expected) {
                assert!(pointer == wanted && detail.contains(part), "{pointer}: {detail}");
            }
        };
        let when = |op: &str, value: Value| json!([{"when": {"op": op, "value": value}, "goto": "q3"}]);
        check("nps", when("lte", json!(6)), &[]);
        check("nps", json!([{"goto": "q2"}]), &[]);
        check(
            "nps",
            json!([{"goto": "q4"}]),
            &[
                ("/questions/0/next/0/goto", "did you mean q"),
                ("/questions/1", "no answers"),
                ("/questions/2", "no answers"),
            ],
        );
        check(
            "nps",
            json!([{"goto": "q1"}]),
            &[("/questions/0/next/0/goto", "later"), ("/questions/1", ""), ("/questions/2", "")],
        );
        check("nps", json!([{"goto": "q3"}]), &[("/questions/1", "no answers lead")]);
        check("nps", json!([{"goto": "end"}]), &[("/questions/1", ""), ("/questions/2", "")]);
        check("nps", json!([{"when": {"op": "gt"}, "goto": "q3"}]), &[("/questions/0/next/0/when/value", "required")]);
        check(
            "nps",
            json!([{"when": {"opp": "gt"}, "goto": "q3"}]),
            &[("/questions/0/next/0/when/op", "required"), ("/questions/0/next/0/when/opp", "did you mean op?")],
        );
        check(
            "nps",
            json!([{"whn": null, "goto": "q3"}]),
            &[("/questions/0/next/0/whn", "did you mean when?"), ("/questions/1", "")],
        );
        let value = "/questions/0/next/0/when/value";
        let op = "/questions/0/next/0/when/op";
        check("nps", when("lte", json!("6")), &[(value, "number")]);
        check("nps", when("contains", json!("6")), &[(op, "numbers")]);
        check("rating_star", when("within", json!("7d")), &[(op, "numbers")]);
        check("text", when("eq", json!(6)), &[(value, "text")]);
        check("text", when("after", json!("7d")), &[(op, "times")]);
        check("single_choice", when("eq", json!("a")), &[]);
        check("single_choice", when("in", json!(["a", "c"])), &[(value, "options")]);
        check("single_choice", when("gt", json!("a")), &[(op, "order")]);
        check("multi_choice", when("contains", json!("a")), &[]);
        check("multi_choice", when("eq", json!("a")), &[(op, "list")]);
        check("info", when("exists", Value::Null), &[(op, "not_exists")]);
        check("info", json!([{"when": {"op": "not_exists"}, "goto": "q3"}]), &[]);
    }

    #[test]
    fn members_stand_only_where_they_mean_something() {
        let one = |more: Value| {
            let mut question = json!({"question_id": "q1", "type": "nps", "text": "?"});
            question.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            faults(json!([question])).into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert_eq!(one(json!({"labels": {"low": "No", "high": "Yes"}})), [""; 0]);
        assert_eq!(one(json!({"labels": {"lo": "No"}})), ["/questions/0/labels/lo"]);
        assert_eq!(one(json!({"shuffle": true})), ["/questions/0/shuffle"]);
        assert_eq!(one(json!({"other": {"text": "?"}})), ["/questions/0/other"]);
        let choice = json!({"type": "multi_choice", "options": ["a"], "other": {}, "shuffle": true});
        assert_eq!(one(choice.clone()), [""; 0]);
        let labelled = json!({"type": "text", "labels": {"low": "No"}});
        assert_eq!(one(labelled), ["/questions/0/labels"]);
    }
}
