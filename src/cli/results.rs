//! `askwhen results`: what a survey was answered, in numbers, question by question.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, part, span_query};
use super::context::{Context, Failure, Format, ServerArgs};
use super::moment::Moment;
use super::output;
use crate::bridge::auth::Kind;

/// How many texts of a question are shown.
const SHOWN_TEXTS: usize = 5;

#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// The survey's id
    survey: String,
    /// Of this version alone
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// Of responses that began from this time on: a time, a date, or so long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Up to, and without, this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(context: &Context, args: &ResultsArgs) -> Result<(), Failure> {
    let mut query = span_query(args.since, args.until);
    query.extend(args.version.map(|version| format!("version={version}")));
    let client = Client::new(context, &args.server, Kind::Admin)?;
    let path = format!("/v1/surveys/{}/results?{}", part(&args.survey), query.join("&"));
    let results = client.expect(Method::GET, &path, None).await?;
    match context.format {
        Format::Json => output::json(&results),
        Format::Text => print(&results),
    }
    Ok(())
}

fn print(results: &Value) {
    let count = |name: &str| results[name].as_u64().unwrap_or(0);
    let median =
        results["median_duration_ms"].as_u64().map(|ms| format!(", half of them within {:.1} s", ms as f64 / 1e3));
    output::line(&format!(
        "{} responses, {} completed{}{}",
        count("responses"),
        count("completed"),
        share(count("completed"), count("responses")).map_or_else(String::new, |share| format!(" ({share})")),
        median.unwrap_or_default()
    ));
    if let Some(least) = results["hidden_below"].as_u64().filter(|least| count("responses") < *least) {
        output::line(&format!("the survey is anonymous: answers are shown from {least} responses on"));
    }
    for question in results["questions"].as_array().into_iter().flatten() {
        print_question(question);
    }
}

fn print_question(question: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let (answered, skipped) = (question["answered"].as_u64().unwrap_or(0), question["skipped"].as_i64().unwrap_or(0));
    output::line("");
    let mut told = format!(
        "{} {} ({}): {answered} answered, {skipped} skipped",
        text(&question["question_id"]),
        text(&question["text"]),
        text(&question["type"])
    );
    if let Some(mean) = question["mean"].as_f64() {
        told.push_str(&format!(", mean {mean:.2}"));
    }
    if let Some(score) = question["nps"]["score"].as_f64() {
        let margin = question["nps"]["margin"].as_f64().unwrap_or(0.0);
        told.push_str(&format!(", NPS {score:.0} ± {margin:.0}"));
    }
    output::line(&output::escape(&told));
    let values = question["distribution"].as_array().into_iter().flatten();
    let row = |value: &Value| {
        let count = value["count"].as_u64().unwrap_or(0);
        vec![text(&value["text"]), count.to_string(), share(count, answered).unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = values.map(row).collect();
    if !rows.is_empty() && answered > 0 {
        output::table(&["ANSWER", "COUNT", "OF ANSWERED"], &rows);
    }
    let texts = question["texts"].as_array().into_iter().flatten();
    for given in texts.take(SHOWN_TEXTS) {
        output::line(&output::escape(&format!("  {}", text(&given["text"]))));
    }
}

/// `None` where there is nothing to have a share of.
fn share(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| format!("{:.1} %", part as f64 * 100.0 / whole as f64))
}
