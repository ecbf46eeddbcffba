//! `askwhen topics`

use clap::Subcommand;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::context::{Context, Failure, Format, failure, observer};
use super::output;
use askwhen_log::frame;
use askwhen_wire::topic::Topic;

#[derive(Debug, Subcommand)]
pub enum TopicsCommand {
    /// Print what is declared of each topic
    Print {
        /// Print the JSON Schema of one topic instead
        #[arg(long, value_name = "TOPIC")]
        schema: Option<String>,
    },
    /// Compare the declared topics with those that are there
    Check,
    /// Create what is missing and change what differs; the embedded log does so by itself at its start
    Apply,
}

pub async fn run(context: &Context, what: &TopicsCommand) -> Result<(), Failure> {
    match what {
        TopicsCommand::Print { schema: Some(name) } => {
            let topic = Topic::by_name(name).ok_or_else(|| Failure::usage(format!("there is no topic {name}")))?;
            output::line(topic.schema().trim_end());
            Ok(())
        }
        TopicsCommand::Print { schema: None } => {
            print(context);
            Ok(())
        }
        TopicsCommand::Check if context.config.kafka => on_brokers(context, false).await,
        TopicsCommand::Apply if context.config.kafka => on_brokers(context, true).await,
        TopicsCommand::Check => check(context),
        TopicsCommand::Apply => {
            match context.format {
                Format::Json => {
                    output::json(&json!({"partitions": context.config.partitions, "done": [], "problems": []}));
                }
                Format::Text => {
                    output::line("the embedded log makes its topics when the server starts; there is nothing to do");
                }
            }
            Ok(())
        }
    }
}

/// For so long after a change brokers may still answer as before it.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Compares the brokers' topics with the declared ones, and changes what differs.
async fn on_brokers(context: &Context, apply: bool) -> Result<(), Failure> {
    let settings = observer(&context.config);
    let asked = tokio::task::spawn_blocking(move || {
        let done = if apply { askwhen_log::kafka::apply_topics(&settings)? } else { Vec::new() };
        let mut found = askwhen_log::kafka::check_topics(&settings)?;
        let until = Instant::now() + SETTLED_WITHIN;
        while apply && !found.is_as_declared() && Instant::now() < until {
            std::thread::sleep(SETTLED_WITHIN / 20);
            found = askwhen_log::kafka::check_topics(&settings)?;
        }
        let missing: Vec<String> = found.missing.iter().map(|topic| settings.name(*topic)).collect();
        Ok::<_, askwhen_log::Error>((done, missing, found.wrong, found.different))
    });
    let (done, missing, wrong, different) =
        asked.await.map_err(|e| Failure::failed(e.to_string()))?.map_err(failure)?;
    let mut problems: Vec<String> = missing.iter().map(|name| format!("{name} is missing")).collect();
    problems.extend(wrong.into_iter().map(|(_, text)| text));
    problems.extend(different);
    if context.format == Format::Json {
        output::json(&json!({"partitions": context.config.partitions, "done": done, "problems": problems}));
    } else {
        done.iter().for_each(|line| output::line(line));
        if problems.is_empty() {
            output::line(&format!("all topics are as declared, with {} partitions", context.config.partitions));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::refused(problems.join("\n"))) }
}

fn print(context: &Context) {
    let row = |topic: &Topic| {
        let spec = topic.spec();
        let mut value = serde_json::to_value(spec).unwrap_or_default();
        value["full_name"] = format!("{}{}", context.config.prefix, spec.name).into();
        value["partition_count"] = topic.partitions(context.config.partitions).into();
        value
    };
    let rows: Vec<Value> = Topic::ALL.iter().map(row).collect();
    if context.format == Format::Json {
        return output::json(&Value::Array(rows));
    }
    let cell = |row: &Value, name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
    let columns = ["full_name", "key", "partition_count", "cleanup", "retention", "description"];
    let table: Vec<Vec<String>> = rows.iter().map(|r| columns.iter().map(|c| cell(r, c)).collect()).collect();
    output::table(&["TOPIC", "KEY", "PARTITIONS", "CLEANUP", "RETENTION", "WHAT"], &table);
}

/// Compares the topics of the embedded log by its files, which needs no server.
fn check(context: &Context) -> Result<(), Failure> {
    let dir = context.config.data_dir.join("log");
    let identity = std::fs::read(dir.join("log.json"))
        .map_err(|e| Failure::unreachable(format!("{} holds no log ({e}); start the server once", dir.display())))?;
    let identity: Value = serde_json::from_slice(&identity).map_err(|e| Failure::failed(e.to_string()))?;
    let partitions = identity["partitions"].as_u64().unwrap_or(0);
    let mut problems = Vec::new();
    if partitions != u64::from(context.config.partitions) {
        let wanted = context.config.partitions;
        problems.push(format!("the log has {partitions} partitions and the configuration says {wanted}"));
    }
    for topic in Topic::ALL.iter().filter(|t| **t != Topic::Replies) {
        for partition in 0..topic.partitions(partitions as u32) {
            if !dir.join(topic.name()).join(partition.to_string()).is_dir() {
                problems.push(format!("{}/{partition} is missing", topic.name()));
            }
        }
    }
    let report =
        json!({"partitions": partitions, "problems": problems, "largest_record_bytes": frame::MAX_FRAME_BYTES});
    if context.format == Format::Json {
        output::json(&report);
    } else if problems.is_empty() {
        output::line(&format!("all topics are there, with {partitions} partitions"));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::refused(problems.join("\n"))) }
}
