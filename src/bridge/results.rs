//! The results of a survey: figures, and all responses line by line.

use bytes::Bytes;
use http::{HeaderValue, header};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use super::app::{App, RequestContext, run_blocking};
use super::list_routes::{page, unlisted};
use super::lists::Lists;
use super::problem::{Answer, AnswerBody, Problem, json_answer};
use crate::spreadsheet::cell_text;
use askwhen_domain::refs::{SurveyKey, SurveyRef};
use askwhen_domain::survey::question::QuestionType;
use askwhen_domain::time::{self, Millis};
use askwhen_wire::definition::{Code, Kind};
use askwhen_wire::listing::{GroupBy, ResultsQuery, SurveyResults};
use askwhen_wire::tally::{AskedQuestion, OTHER, QuestionTally, ResultsTally};
use askwhen_wire::topics::response::ResponseBody;

/// Responses read at a time.
const PAGE: usize = 500;
/// Parts of an answer that wait to be read.
const WAITING_PIECES: usize = 4;
/// Standard deviations of the margin of an NPS: 95 % lie within.
const DEVIATIONS: f64 = 1.959_964;

/// The fewest responses for which results of an anonymous survey are shown.
const LEAST_ANONYMOUS: i64 = 5;

/// The columns before the answers.
const COLUMNS: [&str; 12] = [
    "response_id",
    "user_id",
    "survey_version",
    "created_at",
    "updated_at",
    "completed",
    "platform",
    "locale",
    "trigger",
    "activation_event",
    "link",
    "duration_ms",
];

/// The format of responses, one in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFormat {
    Csv,
    Ndjson,
}

impl App {
    pub(super) async fn results(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let lists = self.lists().await?.clone();
        let query = page(asked.query, &["since", "until", "version", "by"])?;
        let invalid = |detail: String| Problem::field(Code::Invalid, "", detail);
        let version = query.text("version").map(|text| text.parse());
        let version = version.transpose().map_err(|_| invalid("version must be a number".into()))?;
        let by = query.text("by").map(|name| {
            let wanted = || invalid(format!("by must be one of {}", GroupBy::ALL.map(|(name, _)| name).join(", ")));
            GroupBy::ALL.iter().find(|(known, _)| *known == name).map(|(_, by)| *by).ok_or_else(wanted)
        });
        let mut wanted =
            ResultsQuery { since: query.time("since")?, until: query.time("until")?, version, by: by.transpose()? };
        let definition = self.defined_survey(asked)?;
        let survey = SurveyKey::new(asked.caller.project.clone(), asked.route.parts[0].clone());
        wanted.since = wanted.since.max(self.kept_since(&survey));
        let found = run_blocking(move || lists.results(SurveyRef::new(&survey.project, &survey.survey_id), &wanted));
        let found = found.await?.map_err(unlisted)?;
        Ok(json_answer(200, shown(&asked.route.parts[0], &found, &definition).to_string()))
    }

    /// All responses to a survey, oldest first.
    pub(super) async fn response_lines(
        &self,
        asked: &RequestContext<'_>,
        format: LineFormat,
    ) -> Result<Answer, Problem> {
        asked.no_query()?;
        let lists = self.lists().await?.clone();
        let definition = self.defined_survey(asked)?;
        let survey = SurveyKey::new(asked.caller.project.clone(), asked.route.parts[0].clone());
        let since = self.kept_since(&survey);
        let everything = ResultsQuery { since, ..ResultsQuery::default() };
        let known = lists.results(SurveyRef::new(&survey.project, &survey.survey_id), &everything).map_err(unlisted)?;
        let mut questions: Vec<String> = defined_questions(&definition).map(|(id, _)| id.to_owned()).collect();
        // A question that versions ask in several types has one column.
        for AskedQuestion { question_id, .. } in known.total.questions.into_keys() {
            if !questions.contains(&question_id) {
                questions.push(question_id);
            }
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(WAITING_PIECES);
        let scope = LineScope { survey, since, questions };
        tokio::task::spawn_blocking(move || write_lines(&*lists, &scope, format, &sender));
        let mut answer = Answer::new(AnswerBody::Stream(receiver));
        let content_type = match format {
            LineFormat::Csv => "text/csv; charset=utf-8",
            LineFormat::Ndjson => "application/x-ndjson",
        };
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        out.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
        out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(answer)
    }

    /// The time from which on responses to a survey are kept, if it has a `retention`.
    fn kept_since(&self, survey: &SurveyKey) -> Option<Millis> {
        self.view.kept_since(&survey.project, self.clock.now()).get(&survey.survey_id).copied()
    }

    fn defined_survey(&self, asked: &RequestContext<'_>) -> Result<Value, Problem> {
        let shown = self.view.get(&asked.caller.project, Kind::Survey, &asked.route.parts[0]);
        let shown = shown.ok_or_else(|| Problem::not_found("there is no such survey"))?;
        Ok(shown.record.body.value())
    }
}

/// The responses that are written, and the columns of their answers.
struct LineScope {
    survey: SurveyKey,
    /// Earlier responses are left out.
    since: Option<Millis>,
    questions: Vec<String>,
}

/// Writes every response. When the client leaves or the store cannot be read, the answer is
/// cut off, so that no part is taken for the whole.
fn write_lines(
    lists: &dyn Lists,
    scope: &LineScope,
    format: LineFormat,
    sender: &tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>,
) {
    let LineScope { survey, since, questions } = scope;
    let survey = SurveyRef::new(&survey.project, &survey.survey_id);
    let mut text = String::new();
    if format == LineFormat::Csv {
        let names = COLUMNS.iter().copied().chain(questions.iter().map(String::as_str));
        text = line(names.map(|name| cell(&Value::String(name.to_owned()))));
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let found = match lists.responses(survey, after.as_deref(), PAGE) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "responses could not be read to their end");
                // The client may be gone.
                drop(sender.blocking_send(Err(std::io::Error::other(error.to_string()))));
                return;
            }
        };
        for response in found.0.iter().filter(|response| since.is_none_or(|since| response.created_at >= since)) {
            match format {
                LineFormat::Csv => text.push_str(&csv_line(response, questions)),
                LineFormat::Ndjson => {
                    text.push_str(&serde_json::to_string(response).expect("a response serialises"));
                    text.push('\n');
                }
            }
        }
        let is_last = found.1.is_none() || found.0.len() < PAGE;
        after = found.1;
        if !text.is_empty() && sender.blocking_send(Ok(Bytes::from(std::mem::take(&mut text)))).is_err() {
            return;
        }
        if is_last {
            return;
        }
    }
}

fn csv_line(response: &ResponseBody, questions: &[String]) -> String {
    let duration = response.completed.then(|| response.updated_at - response.created_at);
    let own = [
        json!(response.response_id),
        json!(response.user_id),
        json!(response.survey_version),
        json!(time::format_time(response.created_at)),
        json!(time::format_time(response.updated_at)),
        json!(response.completed),
        json!(response.platform),
        json!(response.locale),
        json!(response.trigger),
        json!(response.activation.as_ref().map(|activation| &activation.event_name)),
        json!(response.link),
        json!(duration),
    ];
    let answer = |id: &String| {
        let found = response.answers.iter().find(|answer| answer.question_id == *id);
        found.map_or(Value::Null, |answer| answer.value.value())
    };
    line(own.iter().map(cell).chain(questions.iter().map(|id| cell(&answer(id)))))
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

/// A cell of a line.
fn cell(value: &Value) -> String {
    let text = cell_text(value);
    if text.contains([',', '"', '\n', '\r', ';']) || text.starts_with([' ', '\'']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

/// The questions of a definition, in order.
fn defined_questions(definition: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let questions = definition["questions"].as_array().into_iter().flatten();
    questions.filter_map(|question| Some((question["question_id"].as_str()?, question)))
}

fn shown(survey_id: &str, found: &SurveyResults, definition: &Value) -> Value {
    let mut body = json!({"survey_id": survey_id});
    // Few answers to an anonymous survey would reveal who gave them.
    let is_anonymous = definition["anonymous"] == true;
    let hides = |tally: &ResultsTally| is_anonymous && tally.responses < LEAST_ANONYMOUS;
    if is_anonymous {
        body["anonymous"] = true.into();
        body["hidden_below"] = LEAST_ANONYMOUS.into();
    }
    let members = body.as_object_mut().expect("an object");
    members.extend(summary(&found.total));
    if hides(&found.total) {
        members.insert("median_duration_ms".into(), Value::Null);
        members.insert("questions".into(), json!([]));
        members.insert("series".into(), json!([]));
        return body;
    }
    members.insert("questions".into(), questions(&found.total, &found.texts, definition).into());
    let series = found.series.iter().filter(|(_, tally)| !hides(tally)).map(|(group, tally)| {
        let mut point = Map::from_iter([("group".to_owned(), Value::from(group.as_str()))]);
        point.extend(summary(tally));
        point.insert("questions".into(), questions(tally, &BTreeMap::new(), definition).into());
        Value::Object(point)
    });
    members.insert("series".into(), series.collect());
    body
}

fn summary(tally: &ResultsTally) -> Map<String, Value> {
    let rate = if tally.responses == 0 { 0.0 } else { tally.completed as f64 / tally.responses as f64 };
    let summary = json!({
        "responses": tally.responses,
        "completed": tally.completed,
        "completion_rate": rate,
        "median_duration_ms": tally.median_duration_ms(),
    });
    summary.as_object().cloned().unwrap_or_default()
}

/// The questions of the definition in force, then those of earlier versions, also of those
/// that asked a question under the same id in another type.
fn questions(results: &ResultsTally, texts: &BTreeMap<String, Vec<Value>>, definition: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let mut in_force = Vec::new();
    for (id, question) in defined_questions(definition) {
        let kind = serde_json::from_value(question["type"].clone()).unwrap_or(QuestionType::Info);
        if kind == QuestionType::Info {
            continue;
        }
        let asked = AskedQuestion { question_id: id.to_owned(), kind };
        // Without an answer in this type, the other types say all that there is.
        let is_of_id = |other: &AskedQuestion| other.question_id == id;
        if results.questions.contains_key(&asked) || !results.questions.keys().any(is_of_id) {
            all.push(question_shown(results, &asked, Some(question), texts));
        }
        in_force.push(asked);
    }
    let earlier = results.questions.keys().filter(|asked| !in_force.contains(asked));
    all.extend(earlier.map(|asked| question_shown(results, asked, None, texts)));
    all
}

fn question_shown(
    results: &ResultsTally,
    asked: &AskedQuestion,
    definition: Option<&Value>,
    texts: &BTreeMap<String, Vec<Value>>,
) -> Value {
    let defined_text = definition.and_then(|question| question["text"].as_str());
    let none = QuestionTally::new(asked.kind, defined_text.unwrap_or_default().to_owned());
    let tally = results.questions.get(asked).map_or(&none, |question| &question.tally);
    let mut body = json!({
        "question_id": asked.question_id,
        "type": tally.kind,
        "text": defined_text.unwrap_or(&tally.text),
        "answered": tally.answered,
        "skipped": results.skipped(asked),
        "distribution": distribution(tally, definition),
    });
    let (sum, count) =
        tally.numbers().fold((0.0, 0), |(sum, n), (value, count)| (sum + value * count as f64, n + count));
    let is_scale = !matches!(tally.kind, QuestionType::SingleChoice | QuestionType::MultiChoice | QuestionType::Text);
    if is_scale && count > 0 {
        body["mean"] = (sum / count as f64).into();
    }
    if tally.kind == QuestionType::Nps {
        body["nps"] = nps(tally);
    }
    if tally.kind == QuestionType::Text {
        body["texts"] = texts.get(&asked.question_id).cloned().unwrap_or_default().into();
    }
    body
}

/// Each value, in the order of the definition's options or of the numbers, with its label.
fn distribution(tally: &QuestionTally, definition: Option<&Value>) -> Vec<Value> {
    let row = |value: &str, text: Option<&str>| {
        let shown: Value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        let text = text.map_or_else(|| shown.as_str().map_or_else(|| value.to_owned(), str::to_owned), str::to_owned);
        json!({"value": shown, "text": text, "count": tally.values.get(value).copied().unwrap_or(0)})
    };
    let mut known: Vec<(String, Option<&str>)> = Vec::new();
    let options = definition.map(|question| &question["options"]).and_then(Value::as_array);
    for option in options.into_iter().flatten() {
        let value = if option.is_object() { &option["value"] } else { option };
        known.push((value.to_string(), option["text"].as_str()));
    }
    if let Some(text) = definition.and_then(|question| question["other"]["text"].as_str()) {
        known.push((OTHER.to_owned(), Some(text)));
    }
    if tally.kind == QuestionType::Nps {
        known.extend((0..=10).map(|n: u32| (n.to_string(), None)));
    }
    let mut others: Vec<&String> =
        tally.values.keys().filter(|value| !known.iter().any(|(known, _)| known == *value)).collect();
    let number = |text: &str| text.parse::<f64>().unwrap_or(f64::INFINITY);
    others.sort_by(|a, b| number(a).total_cmp(&number(b)).then_with(|| a.cmp(b)));
    let known = known.iter().map(|(value, text)| row(value, *text));
    known.chain(others.into_iter().map(|value| row(value, None))).collect()
}

/// The score: the share of 9 and 10 minus that of 0 to 6, in percentage points.
fn nps(tally: &QuestionTally) -> Value {
    let (mut promoters, mut passives, mut detractors) = (0, 0, 0);
    for (value, count) in tally.numbers() {
        match value {
            9.0.. => promoters += count,
            7.0.. => passives += count,
            _ => detractors += count,
        }
    }
    let all = (promoters + passives + detractors) as f64;
    let (score, margin) = if all == 0.0 {
        (None, None)
    } else {
        let (plus, minus) = (promoters as f64 / all, detractors as f64 / all);
        let variance = plus + minus - (plus - minus).powi(2);
        (Some(100.0 * (promoters as f64 - detractors as f64) / all), Some(DEVIATIONS * (variance / all).sqrt() * 100.0))
    };
    json!({"score": score, "promoters": promoters, "passives": passives, "detractors": detractors, "margin": margin})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for (value, written) in [
            (json!("plain"), "plain"),
            (json!("=1+1"), "\"'=1+1\""),
            (json!("+49 30"), "\"'+49 30\""),
            (json!("-1"), "\"'-1\""),
            (json!("@SUM(A1)"), "\"'@SUM(A1)\""),
            (json!("\t=1"), "\"'\t=1\""),
            (json!("a,\"b\""), "\"a,\"\"b\"\"\""),
            (json!("two\nlines"), "\"two\nlines\""),
            (json!(-1), "-1"),
            (json!(["a", "b"]), "\"a; b\""),
            (json!(["=a", {"other": "b"}]), "\"'=a; b\""),
            (json!({"other": "=x"}), "\"'=x\""),
            (json!(null), ""),
            (json!(true), "true"),
        ] {
            assert_eq!(cell(&value), written, "{value}");
        }
    }

    #[test]
    fn an_nps_has_its_margin() {
        let values = [("10", 50), ("8", 30), ("3", 20)].map(|(value, count)| (value.to_owned(), count)).into();
        let tally = QuestionTally {
            kind: QuestionType::Nps,
            text: String::new(),
            answered: 100,
            answered_of_completed: 100,
            values,
        };
        let shown = nps(&tally);
        assert_eq!(
            (&shown["score"], &shown["promoters"], &shown["detractors"]),
            (&json!(30.0), &json!(50), &json!(20))
        );
        let margin = shown["margin"].as_f64().expect("a number");
        assert!((margin - 15.306).abs() < 0.01, "{margin}");
        let values = [("10", 1), ("3", 4)].map(|(value, count)| (value.to_owned(), count)).into();
        assert_eq!(nps(&QuestionTally { values, ..tally })["score"], json!(-60.0), "as people would write it");
    }
}
