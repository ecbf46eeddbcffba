//! `askwhen deliveries`: lists deliveries, shows one, and sends messages again.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part, span_query};
use super::context::{Context, Failure, Format, ServerArgs};
use super::moment::Moment;
use super::{job, output};
use crate::bridge::auth::Kind;
use askwhen_domain::webhook::rate::Rate;

#[derive(Debug, Args)]
pub struct DeliveriesArgs {
    #[command(subcommand)]
    what: DeliveriesCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum DeliveriesCommand {
    /// List deliveries, newest first
    List {
        /// Of this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<String>,
        /// Where they stand
        #[arg(long, value_parser = ["pending", "waiting", "delivered", "dead", "cancelled", "resent"])]
        status: Option<String>,
        /// About this survey
        #[arg(long, value_name = "ID")]
        survey: Option<String>,
        /// About this user
        #[arg(long, value_name = "ID")]
        user: Option<String>,
        /// Created from this time on: a time, a date, or so long ago, such as 7d
        #[arg(long, value_name = "TIME")]
        since: Option<Moment>,
        /// Created before this time
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one delivery with all its attempts
    Show { delivery: String },
    /// Send the message of a delivery again, under its webhook-id
    Resend { delivery: String },
    /// Send again what an endpoint has missed: the dead, and what was cancelled while it was disabled
    Recover {
        #[arg(long, value_name = "ID")]
        endpoint: String,
        /// Created from this time on: a time, a date, or so long ago, such as 7d
        #[arg(long, value_name = "TIME")]
        since: Moment,
        /// Created before this time
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
        /// How many at most in a span, such as 100/s
        #[arg(long)]
        rate: Option<Rate>,
        /// Leave the job to the server, and wait for nothing
        #[arg(long)]
        detach: bool,
    },
    /// Send an endpoint the answers of before it was there, oldest first, under the ids that they
    /// would have had
    Backfill {
        #[arg(long, value_name = "ID")]
        endpoint: String,
        /// Answered from this time on: a time, a date, or so long ago, such as 7d
        #[arg(long, value_name = "TIME")]
        since: Moment,
        /// Answered before this time
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
        /// Say how many there are, and send nothing
        #[arg(long)]
        dry_run: bool,
        /// How many at most in a span, such as 100/s
        #[arg(long)]
        rate: Option<Rate>,
        /// Leave the job to the server, and wait for nothing
        #[arg(long)]
        detach: bool,
    },
}

pub async fn run(context: &Context, args: &DeliveriesArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    match &args.what {
        DeliveriesCommand::List { endpoint, status, survey, user, since, until, limit } => {
            let filters = [("endpoint_id", endpoint), ("status", status), ("survey_id", survey), ("user_id", user)];
            let filters = filters.iter().filter_map(|(name, value)| Some(format!("{name}={}", part(value.as_ref()?))));
            let filters = filters.chain(span_query(*since, *until)).map(|filter| format!("&{filter}"));
            list(context, &client, &filters.collect::<String>(), *limit as usize).await
        }
        DeliveriesCommand::Show { delivery } => {
            let shown = client.expect(Method::GET, &format!("/v1/deliveries/{}", part(delivery)), None).await?;
            show(context, &shown);
            Ok(())
        }
        DeliveriesCommand::Resend { delivery } => {
            let path = format!("/v1/deliveries/{}/resend", part(delivery));
            let answer = client.expect(Method::POST, &path, None).await?;
            let name = |member: &str| answer[member].as_str().unwrap_or("pending").to_owned();
            let line = format!("{} sends {} again", name("delivery_id"), name("message_id"));
            output::answer(context.format, &answer, &line);
            Ok(())
        }
        DeliveriesCommand::Recover { endpoint, since, until, rate, detach } => {
            let rate = rate.map(String::from);
            let request = job::request("recover", endpoint, span(*since, *until), rate);
            let answer = job::run(&client, &request, *detach).await?;
            output::answer(context.format, &answer, &summary(&answer, "deliveries", "sent again"));
            Ok(())
        }
        DeliveriesCommand::Backfill { endpoint, since, until, dry_run, rate, detach } => {
            let rate = rate.map(String::from);
            let request = job::request("backfill", endpoint, span(*since, *until), rate);
            if *dry_run {
                let answer = job::count(&client, &request).await?;
                output::answer(context.format, &answer, &format!("{} messages would be sent", answer["count"]));
                return Ok(());
            }
            let answer = job::run(&client, &request, *detach).await?;
            output::answer(context.format, &answer, &summary(&answer, "messages", "sent"));
            Ok(())
        }
    }
}

/// What a job has done, or that it goes on.
fn summary(job: &Value, what: &str, done: &str) -> String {
    match &job["count"] {
        Value::Null => {
            format!("job {}: {} {what} are being {done}", job["job_id"].as_str().unwrap_or(""), job["total"])
        }
        count => format!("{count} {what} are {done}"),
    }
}

fn span(since: Moment, until: Option<Moment>) -> Value {
    let mut body = json!({"since": since.to_string()});
    if let Some(until) = until {
        body["until"] = until.to_string().into();
    }
    body
}

async fn list(context: &Context, client: &Client, filters: &str, limit: usize) -> Result<(), Failure> {
    let mut rows: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let size = (limit - rows.len()).min(200);
        let path = format!("/v1/deliveries?limit={size}{filters}{cursor}");
        let page = client.expect(Method::GET, &path, None).await?;
        rows.extend(page["deliveries"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_str() {
            Some(next) if rows.len() < limit => cursor = format!("&cursor={}", part(next)),
            _ => break,
        }
    }
    if context.format == Format::Json {
        output::json(&Value::Array(rows));
        return Ok(());
    }
    let columns =
        ["delivery_id", "endpoint_id", "type", "user_id", "status", "attempt_count", "next_attempt_at", "reason"];
    let cells = |row: &Value| columns.map(|column| cell(&row[column])).to_vec();
    let header = ["DELIVERY", "ENDPOINT", "TYPE", "USER", "STATUS", "ATTEMPTS", "NEXT ATTEMPT", "REASON"];
    output::table(&header, &rows.iter().map(cells).collect::<Vec<_>>());
    Ok(())
}

fn show(context: &Context, shown: &Value) {
    if context.format == Format::Json {
        return output::json(shown);
    }
    let members = shown.as_object().into_iter().flatten().filter(|(name, _)| *name != "attempts");
    let rows: Vec<Vec<String>> = members.map(|(name, value)| vec![name.clone(), cell(value)]).collect();
    output::table(&["MEMBER", "VALUE"], &rows);
    let columns = ["attempt", "started_at", "duration_ms", "http_status", "outcome", "error", "response"];
    let cells = |row: &Value| columns.map(|column| short(&cell(&row[column]))).to_vec();
    let rows: Vec<Vec<String>> = shown["attempts"].as_array().into_iter().flatten().map(cells).collect();
    output::line("");
    output::table(&["ATTEMPT", "STARTED", "MS", "STATUS", "OUTCOME", "ERROR", "RESPONSE"], &rows);
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn short(text: &str) -> String {
    const MOST: usize = 60;
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}
