//! The survey file (contract §4).

use serde_json::Value;

use super::condition::{MAX_CONDITIONS, conditions};
use super::kind::{Kind, id, kind, shown_only};
use super::reader::{Code, Reader};
use super::{activation, targeting};
use askwhen_domain::json::Json;
use askwhen_domain::limits::MAX_EXPIRES_AFTER;
use askwhen_domain::survey::{
    Choice, Frequency, GlobalCooldown, OnRepeat, Question, QuestionType, Repeat, ShowOn, Status, Survey, VersionRange,
};
use askwhen_domain::time;

const MAX_COMPLETED: i64 = 1_000_000_000;
const MAX_QUESTIONS: usize = 200;
const MAX_OPTIONS: usize = 500;
const MAX_TEXT_BYTES: usize = 16 << 10;
const MAX_UI_BYTES: usize = 64 << 10;

pub fn read(reader: &mut Reader<'_>, wanted_id: Option<&str>) -> Survey {
    kind(reader, Kind::Survey);
    let survey_id = id(reader, Kind::Survey, wanted_id);
    shown_only(reader, &["version"]);
    let name = reader.required_text("name", 1_024).unwrap_or_default();
    let status = reader.choice("status", &Status::ALL).unwrap_or(Status::Draft);
    let link = reader.boolean("link").unwrap_or(false);
    let activate = activation::activate(reader);
    let cancel_on = activation::cancel_on(reader, activate.is_some());
    let expires_after = expires_after(reader, activate.is_some());
    let delay = reader.duration("delay").unwrap_or(0);
    if expires_after.is_some_and(|expires_after| delay >= expires_after) {
        reader.fault(Code::Invalid, "delay", "must be shorter than expires_after");
    } else if delay > 0 && activate.is_none() && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "delay", "needs activate: it counts from the activation");
    }
    let show_on = reader.objects("show_on", MAX_CONDITIONS, |inner| ShowOn {
        trigger: inner.required_id("trigger").unwrap_or_default(),
        conditions: conditions(inner),
    });
    if show_on.is_empty() && !link && reader.raw("show_on").is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, "show_on", "is required: name at least one trigger, or set link: true");
    }
    let schedule = targeting::schedule(reader);
    let targeting_rule = targeting::targeting(reader);
    let sampling = targeting::sampling(reader, &survey_id);
    Survey {
        survey_id,
        name,
        status,
        test_users: reader.ids("test_users", 1_000),
        priority: reader.integer("priority", -1_000_000..=1_000_000).unwrap_or(0),
        link,
        platforms: reader.ids("platforms", 100),
        locales: reader.ids("locales", 100),
        app_version: app_version(reader),
        activate,
        expires_after,
        delay,
        on_repeat: reader
            .choice("on_repeat", &[("refresh", OnRepeat::Refresh), ("keep_first", OnRepeat::KeepFirst)])
            .unwrap_or(OnRepeat::Refresh),
        cancel_on,
        show_on,
        schedule,
        targeting: targeting_rule,
        frequency: frequency(reader),
        max_completed: max_completed(reader),
        sampling,
        holdout: targeting::holdout(reader),
        expose: reader.ids("expose", 256),
        ui: ui(reader),
        questions: questions(reader),
    }
}

fn expires_after(reader: &mut Reader<'_>, activated: bool) -> Option<time::Millis> {
    if reader.raw("expires_after").is_none() {
        if activated {
            reader.fault(Code::MissingField, "expires_after", "is required with activate: more than 0s, at most 100h");
        }
        return None;
    }
    let span = reader.positive_duration("expires_after")?;
    if span > MAX_EXPIRES_AFTER {
        reader.fault(Code::Invalid, "expires_after", "must be at most 100h");
    } else if !activated && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "expires_after", "needs activate: without it each trigger is its own window");
        return None;
    }
    Some(span)
}

fn max_completed(reader: &mut Reader<'_>) -> Option<u64> {
    let count = reader.object("limits", |inner| inner.integer("max_completed", 1..=MAX_COMPLETED)).flatten();
    count.and_then(|count| u64::try_from(count).ok())
}

fn app_version(reader: &mut Reader<'_>) -> Option<VersionRange> {
    let text = reader.text("app_version", 256)?;
    match VersionRange::parse(&text) {
        Ok(range) => Some(range),
        Err(why) => {
            reader.fault(Code::Invalid, "app_version", why);
            None
        }
    }
}

fn frequency(reader: &mut Reader<'_>) -> Frequency {
    let standard =
        Frequency { repeat: Repeat::Once, max_displays: None, cooldown: 0, global_cooldown: GlobalCooldown::Respect };
    let read = reader.object("frequency", |inner| Frequency {
        repeat: inner
            .choice(
                "repeat",
                &[
                    ("once", Repeat::Once),
                    ("until_responded", Repeat::UntilResponded),
                    ("until_completed", Repeat::UntilCompleted),
                    ("every_activation", Repeat::EveryActivation),
                ],
            )
            .unwrap_or(standard.repeat),
        max_displays: inner.integer("max_displays", 1..=1_000_000).map(|n| n as u32),
        cooldown: inner.duration("cooldown").unwrap_or(0),
        global_cooldown: inner
            .choice("global_cooldown", &[("respect", GlobalCooldown::Respect), ("ignore", GlobalCooldown::Ignore)])
            .unwrap_or(standard.global_cooldown),
    });
    read.unwrap_or(standard)
}

fn ui(reader: &mut Reader<'_>) -> Json {
    match reader.raw("ui") {
        None => Json::empty_object(),
        Some(value) if !value.is_object() => {
            reader.fault(Code::WrongType, "ui", "must be an object");
            Json::empty_object()
        }
        Some(value) => {
            let ui = Json::of(value);
            if ui.len_bytes() > MAX_UI_BYTES {
                reader.fault(Code::Invalid, "ui", "must have at most 64 KiB");
            }
            ui
        }
    }
}

fn questions(reader: &mut Reader<'_>) -> Vec<Question> {
    if reader.raw("questions").is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, "questions", "is required: at least one question");
        return Vec::new();
    }
    let questions = reader.objects("questions", MAX_QUESTIONS, question);
    for (i, question) in questions.iter().enumerate() {
        if questions[..i].iter().any(|earlier| earlier.question_id == question.question_id) {
            reader.fault_at(Code::Invalid, &format!("questions/{i}/question_id"), "question_id is used twice");
        }
    }
    questions
}

fn question(inner: &mut Reader<'_>) -> Question {
    let question_id = inner.required_id("question_id").unwrap_or_default();
    if inner.raw("type").is_none() {
        inner.missing("type");
    }
    let kind = inner.choice("type", &QuestionType::ALL).unwrap_or(QuestionType::Text);
    let options = options(inner);
    let chooses = matches!(kind, QuestionType::SingleChoice | QuestionType::MultiChoice);
    if chooses && options.is_empty() && inner.raw("options").is_none() {
        inner.fault(Code::MissingField, "options", "is required for this type");
    } else if !chooses && !options.is_empty() {
        inner.fault(Code::Invalid, "options", "is for single_choice and multi_choice only");
    }
    let scale = inner.integer("scale", 3..=10).map(|n| n as u8);
    match (kind, scale) {
        (QuestionType::RatingNumber, None | Some(3 | 5 | 7 | 10)) | (_, None) => {}
        (QuestionType::RatingNumber, Some(_)) => inner.fault(Code::Invalid, "scale", "must be 3, 5, 7 or 10"),
        (_, Some(_)) => inner.fault(Code::Invalid, "scale", "is for rating_number only"),
    }
    Question {
        question_id,
        kind,
        text: inner.required_text("text", MAX_TEXT_BYTES).unwrap_or_default(),
        required: inner.boolean("required").unwrap_or(true),
        options,
        scale: if kind == QuestionType::RatingNumber { Some(scale.unwrap_or(5)) } else { None },
    }
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
