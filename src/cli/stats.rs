//! `askwhen stats`: how a survey fares, from being considered to being completed.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, part, span_query};
use super::context::{Context, Failure, Format, ServerArgs};
use super::moment::Moment;
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The survey's id
    survey: String,
    /// From this time on: a time, a date, or so long ago, such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Up to, and without, this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(context: &Context, args: &StatsArgs) -> Result<(), Failure> {
    let query = span_query(args.since, args.until);
    let client = Client::new(context, &args.server, Kind::Admin)?;
    let path = format!("/v1/surveys/{}/stats?{}", part(&args.survey), query.join("&"));
    let stats = client.expect(Method::GET, &path, None).await?;
    if context.format == Format::Json {
        output::json(&stats);
        return Ok(());
    }
    let steps = ["considered", "offered", "displayed", "dismissed", "answered", "completed"];
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let row = |name: &str| {
        vec![name.to_owned(), stats[name].to_string(), share(count(&stats[name]), count(&stats["offered"]))]
    };
    output::table(&["STEP", "COUNT", "OF OFFERED"], &steps.map(row));
    let gates = stats["not_offered"].as_object().cloned().unwrap_or_default();
    if !gates.is_empty() {
        let mut gates: Vec<(String, u64)> = gates.iter().map(|(gate, n)| (gate.clone(), count(n))).collect();
        gates.sort_by_key(|(gate, n)| (std::cmp::Reverse(*n), gate.clone()));
        let rows: Vec<Vec<String>> = gates
            .into_iter()
            .map(|(gate, n)| vec![gate, n.to_string(), share(n, count(&stats["considered"]))])
            .collect();
        output::line("");
        output::table(&["NOT OFFERED, BECAUSE", "COUNT", "OF CONSIDERED"], &rows);
    }
    Ok(())
}

fn share(part: u64, whole: u64) -> String {
    // Responses to a link survey have no offer.
    if whole == 0 || part > whole { String::new() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}
