//! Profile `1flow`: the `submitted_survey` alert.

use serde::Serialize;

use super::text_value::{TextValue, text_value};
use askwhen_domain::json::Json;
use askwhen_domain::survey::QuestionType;
use askwhen_domain::time::{self, Millis};
use askwhen_domain::webhook::message::Data;

#[derive(Serialize)]
struct Alert<'a> {
    alert_name: &'static str,
    alert_id: &'a str,
    project_name: &'a str,
    survey_id: &'a str,
    platform: &'a str,
    survey_info: SurveyInfo<'a>,
    user: User<'a>,
    timestamp: String,
    trigger_event: TriggerEvent<'a>,
}

#[derive(Serialize)]
struct SurveyInfo<'a> {
    name: &'a str,
    screens: Vec<Screen<'a>>,
}

#[derive(Serialize)]
struct Screen<'a> {
    title: &'a str,
    answer: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct User<'a> {
    user_system_id: &'a str,
    parameters: &'a Json,
}

#[derive(Serialize)]
struct TriggerEvent<'a> {
    event_name: &'a str,
    parameters: &'a Json,
}

pub fn body(at: Millis, data: &Data, message_id: &str) -> Vec<u8> {
    let nothing = Json::empty_object();
    let trigger_event = match &data.activation {
        Some(activation) => TriggerEvent { event_name: &activation.event_name, parameters: &activation.properties },
        None if data.trigger.is_empty() => TriggerEvent { event_name: "", parameters: &nothing },
        None => TriggerEvent { event_name: &data.trigger, parameters: &data.trigger_properties },
    };
    let alert = Alert {
        alert_name: "submitted_survey",
        alert_id: message_id,
        project_name: &data.project,
        survey_id: &data.survey_id,
        platform: if data.link { "link" } else { data.platform.as_deref().unwrap_or("") },
        survey_info: SurveyInfo {
            name: &data.survey_name,
            screens: data
                .answers
                .iter()
                .map(|answer| Screen {
                    title: &answer.text,
                    answer: match text_value(answer) {
                        TextValue::One(text) => text,
                        TextValue::Several(list) => list.join(", "),
                    },
                    kind: screen_type(answer.kind),
                })
                .collect(),
        },
        user: User { user_system_id: &data.user_id, parameters: &data.user_attributes },
        timestamp: time::format_time(at),
        trigger_event,
    };
    crate::json::encode(&alert)
}

fn screen_type(kind: QuestionType) -> &'static str {
    match kind {
        QuestionType::Text => "text",
        QuestionType::Nps => "nps",
        QuestionType::SingleChoice => "mcq",
        QuestionType::MultiChoice => "checkbox",
        QuestionType::RatingNumber => "rating-numerical",
        QuestionType::RatingStar => "rating-5-star",
        QuestionType::RatingEmoji => "rating-emojis",
        // Info pages have no answers and never come here.
        QuestionType::Info => "text",
    }
}
