//! `askwhen snapshot`: takes, lists and verifies snapshots.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Client;
use super::context::{Context, Failure, Format, ServerArgs, failure};
use super::output;
use crate::bridge::auth::Kind;
use crate::supervisor;
use askwhen_log::Embedded;
use askwhen_store::snapshot::Listed;

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of every store of a running server, now
    Create {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the snapshots, the furthest of each partition first
    List,
    /// Read every file of the snapshots and compare checksums
    Verify {
        /// Only this one, by its name
        name: Option<String>,
    },
}

pub async fn run(context: &Context, what: &SnapshotCommand) -> Result<(), Failure> {
    match what {
        SnapshotCommand::Create { server } => {
            let client = Client::new(context, server, Kind::Admin)?;
            let answer = client.expect(Method::POST, "/v1/snapshots", None).await?;
            show(context, answer["snapshots"].as_array().cloned().unwrap_or_default());
            Ok(())
        }
        SnapshotCommand::List => {
            let all = list_all(context).await?.into_iter().map(|(name, read)| match read {
                Ok(manifest) => {
                    let mut row = manifest.summary();
                    row["state"] = "whole".into();
                    row
                }
                Err(why) => json!({"name": name, "state": why.to_string()}),
            });
            show(context, all.collect());
            Ok(())
        }
        SnapshotCommand::Verify { name } => verify(context, name.as_deref()).await,
    }
}

/// The snapshots of all roles and partitions.
async fn list_all(context: &Context) -> Result<Vec<Listed>, Failure> {
    let config = &context.config;
    let repository = supervisor::repository(config).map_err(|e| Failure::usage(e.to_string()))?;
    // The number of partitions is the log's, whatever is configured.
    let own =
        if config.kafka { None } else { Embedded::partitions_of(&config.data_dir.join("log")).map_err(failure)? };
    let partitions = own.unwrap_or(config.partitions);
    let listed = tokio::task::spawn_blocking(move || supervisor::list_snapshots(&repository, partitions));
    listed.await.map_err(|e| Failure::failed(e.to_string()))?.map_err(|e| Failure::unreachable(e.to_string()))
}

async fn verify(context: &Context, name: Option<&str>) -> Result<(), Failure> {
    let mut all = list_all(context).await?;
    if let Some(name) = name {
        all.retain(|(found, _)| found == name);
        if all.is_empty() {
            return Err(Failure::failed(format!("there is no snapshot {name}; `askwhen snapshot list` shows them")));
        }
    }
    if all.is_empty() {
        let place = context.config.snapshots_url.as_deref().unwrap_or("the data directory");
        return Err(Failure::failed(format!("there are no snapshots in {place}")));
    }
    let repository = supervisor::repository(&context.config).map_err(|e| Failure::usage(e.to_string()))?;
    let verified = tokio::task::spawn_blocking(move || {
        let mut rows = Vec::new();
        for (name, read) in all {
            let (mut row, outcome) = match read {
                Ok(manifest) => {
                    let outcome = repository.verify(&manifest, |_, _| true).map_err(|e| e.to_string());
                    (manifest.summary(), outcome)
                }
                Err(why) => {
                    let outcome = Err(format!("the snapshot {name} is damaged: {why}"));
                    (json!({"name": name}), outcome)
                }
            };
            row["ok"] = outcome.is_ok().into();
            row["detail"] = outcome.err().into();
            rows.push(row);
        }
        rows
    });
    let rows = verified.await.map_err(|e| Failure::failed(e.to_string()))?;
    let bad: Vec<String> = rows.iter().filter_map(|row| row["detail"].as_str().map(str::to_owned)).collect();
    if context.format == Format::Json {
        output::json(&json!({"ok": bad.is_empty(), "snapshots": rows}));
    } else if bad.is_empty() {
        output::line(&format!("{} snapshots, every file is as it was written", rows.len()));
    }
    if bad.is_empty() { Ok(()) } else { Err(Failure::failed(bad.join("\n"))) }
}

fn show(context: &Context, rows: Vec<Value>) {
    if context.format == Format::Json {
        return output::json(&Value::Array(rows));
    }
    let cells = |row: &Value| {
        let text = |name: &str| match &row[name] {
            Value::Null => String::new(),
            value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        vec![text("name"), text("positions"), text("bytes"), text("created_at"), text("state")]
    };
    output::table(
        &["SNAPSHOT", "NEXT OFFSETS", "BYTES", "TAKEN", "STATE"],
        &rows.iter().map(cells).collect::<Vec<_>>(),
    );
}
