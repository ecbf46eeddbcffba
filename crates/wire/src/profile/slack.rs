//! Profile `slack`: a message for an incoming webhook of Slack, or of a chat that reads
//! the same: the survey, its score, the answers, and where the console shows the user.

use serde_json::{Value, json};

use super::text_value::{TextValue, text_value};
use askwhen_domain::survey::QuestionType;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{AnswerFact, Data};

/// Most characters that Slack takes in a header.
const MAX_HEADER_CHARS: usize = 150;
/// Most characters of a question or an answer, in markup; Slack takes 3,000 in a section.
const MAX_TEXT_CHARS: usize = 1_000;
/// Answers that have a section of their own; Slack takes 50 blocks in a message.
const MAX_ANSWERS: usize = 40;

/// `console_url` is the console's address without a slash at its end; empty where nobody
/// knows it.
pub fn body(kind: EventType, data: &Data, console_url: &str) -> Vec<u8> {
    let title = title(data);
    let mut blocks =
        vec![json!({"type": "header", "text": {"type": "plain_text", "text": cut(&title, MAX_HEADER_CHARS)}})];
    for answer in data.answers.iter().take(MAX_ANSWERS) {
        let text = format!("*{}*\n{}", mrkdwn(&answer.text), mrkdwn(&value(answer)));
        blocks.push(section(&text));
    }
    if let Some(more) = data.answers.len().checked_sub(MAX_ANSWERS).filter(|more| *more > 0) {
        blocks.push(section(&format!("and {more} more answers")));
    }
    blocks.push(json!({"type": "context", "elements": [markup(&about(kind, data, console_url))]}));
    let from = if data.is_anonymous() { String::new() } else { format!(" from {}", mrkdwn(&data.user_id)) };
    let text = format!("{}{from}", mrkdwn(&title));
    // Slack shows no previews of links that users wrote.
    let body = json!({"text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false});
    body.to_string().into_bytes()
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": markup(text)})
}

/// A text object in which nothing becomes a link, channel or mention by itself.
fn markup(text: &str) -> Value {
    json!({"type": "mrkdwn", "text": text, "verbatim": true})
}

/// The survey, and the first answer on a scale.
fn title(data: &Data) -> String {
    let test = if data.test { "[test] " } else { "" };
    match data.answers.iter().find(|answer| answer.kind.is_scale()) {
        Some(answer) => format!("{test}{}: {}", data.survey_name, value(answer)),
        None => format!("{test}{}", data.survey_name),
    }
}

/// The user, the trigger, the progress, and the link to the console.
fn about(kind: EventType, data: &Data, console_url: &str) -> String {
    let mut parts = vec![if data.is_anonymous() { "anonymous".to_owned() } else { mrkdwn(&data.user_id) }];
    if data.link {
        parts.push("by link".to_owned());
    } else if !data.trigger.is_empty() {
        parts.push(format!("at {}", mrkdwn(&data.trigger)));
    }
    parts.extend(data.platform.as_deref().map(mrkdwn));
    if kind != EventType::Completed && !data.completed {
        parts.push("not complete yet".to_owned());
    }
    if !console_url.is_empty() {
        let (page, id) = if data.is_anonymous() { ("results", &data.survey_id) } else { ("users", &data.user_id) };
        let url = format!("{console_url}/{page}/{}", path_part(id));
        parts.push(format!("<{}|Open in the console>", mrkdwn(&url)));
    }
    parts.join(" · ")
}

/// An answer for people to read.
fn value(answer: &AnswerFact) -> String {
    let text = match text_value(answer) {
        TextValue::One(text) => text,
        TextValue::Several(list) => list.join(", "),
    };
    match answer.kind {
        QuestionType::Nps => format!("{text} of 10"),
        QuestionType::RatingStar | QuestionType::RatingEmoji => format!("{text} of 5"),
        _ => text,
    }
}

/// Text in Slack's markup, with its special characters escaped; cut off where it is too
/// long.
fn mrkdwn(text: &str) -> String {
    let (mut out, mut chars, mut whole) = (String::new(), 0, 0);
    for c in text.chars() {
        let escaped = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            _ => "",
        };
        chars += escaped.len().max(1);
        if chars > MAX_TEXT_CHARS {
            out.truncate(whole);
            out.push('…');
            return out;
        }
        if escaped.is_empty() {
            out.push(c)
        } else {
            out.push_str(escaped)
        }
        if chars < MAX_TEXT_CHARS {
            whole = out.len();
        }
    }
    out
}

/// At most `most` characters, with an ellipsis for the rest.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// A part of a URL's path.
fn path_part(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::json::Json;

    fn answer(kind: QuestionType, value: Value, labels: &[&str]) -> AnswerFact {
        AnswerFact {
            question_id: "q".into(),
            order: 1,
            kind,
            text: "How <likely>?".into(),
            value: Json::of(&value),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            answered_at: 0,
            duration_ms: None,
        }
    }

    fn told(data: &Data, console_url: &str) -> Value {
        serde_json::from_slice(&body(EventType::Completed, data, console_url)).expect("JSON")
    }

    #[test]
    fn a_message_names_survey_score_answers_and_where_to_look() {
        let mut data = Data::sample("default", 0);
        (data.survey_name, data.user_id, data.trigger, data.test) =
            ("NPS".into(), "a/b c".into(), "Main".into(), false);
        data.answers = vec![
            answer(QuestionType::SingleChoice, json!("bugs"), &["Faults & bugs"]),
            answer(QuestionType::Nps, json!(3), &[]),
            answer(QuestionType::Text, json!("<!channel> <http://evil.example|x>"), &[]),
        ];
        let said = told(&data, "https://ask.example/console");
        assert_eq!(said["text"], "NPS: 3 of 10 from a/b c");
        let text = |n: usize| said["blocks"][n]["text"]["text"].as_str().unwrap_or_default().to_owned();
        assert_eq!(text(0), "NPS: 3 of 10");
        assert_eq!(text(1), "*How &lt;likely&gt;?*\nFaults &amp; bugs");
        assert_eq!(text(3), "*How &lt;likely&gt;?*\n&lt;!channel&gt; &lt;http://evil.example|x&gt;");
        assert_eq!(
            said["blocks"][4]["elements"][0]["text"],
            "a/b c · at Main · <https://ask.example/console/users/a%2Fb%20c|Open in the console>"
        );
        assert!(!told(&data, "").to_string().contains("Open in"));
        let marked = [&said["blocks"][1]["text"], &said["blocks"][4]["elements"][0]];
        assert!(marked.iter().all(|text| text["verbatim"] == true), "bare addresses and names stay text");
        let said = told(&data.clone().anonymous("anon_1".into()), "https://ask.example/console");
        assert_eq!(said["text"], "NPS: 3 of 10");
        assert_eq!(
            said["blocks"][4]["elements"][0]["text"],
            "anonymous · at Main · <https://ask.example/console/results/askwhen-test|Open in the console>"
        );
    }

    #[test]
    fn a_message_stays_within_what_slack_takes() {
        let mut data = Data::sample("default", 0);
        data.survey_name = "n".repeat(1_000);
        for said in ["ü", "&", "<a>", "a&"] {
            data.answers = vec![answer(QuestionType::Text, json!(said.repeat(5_000)), &[]); 200];
            for answer in &mut data.answers {
                answer.text = said.repeat(5_000);
            }
            let said = told(&data, "");
            let blocks = said["blocks"].as_array().expect("blocks");
            assert!(blocks.len() <= 50 && said["text"].as_str().is_some_and(|text| text.len() < 4_000));
            for block in blocks {
                let most = if block["type"] == "header" { 150 } else { 3_000 };
                let text = block["text"]["text"].as_str().unwrap_or_default();
                assert!(text.chars().count() <= most, "{}", text.chars().count());
                assert!(text.split('&').skip(1).all(|part| part.contains(';')), "no mark is cut in two: {text}");
            }
        }
        data.answers = Vec::new();
        data.test = true;
        assert!(told(&data, "")["text"].as_str().is_some_and(|text| text.starts_with("[test] n")));
    }
}
