//! `askwhen export`

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};

use super::context::{Context, Failure, Format};
use super::output;
use crate::supervisor::export::{self, HistoryReport};

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Kafka brokers, "host:9092,…", over what the configuration says
    #[arg(long, value_name = "HOSTS")]
    pub brokers: Option<String>,
    /// What the names of the new topics begin with, over what the configuration says
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Say what would go over and what would stay behind, and write nothing on the brokers
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    log: super::serve::LogArgs,
}

pub async fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    if !context.config.kafka {
        return Err(Failure::usage("name the brokers to export to: --brokers host:9092"));
    }
    drop(super::serve::log_to_stderr(&context.config, &args.log)?);
    let config = context.config.clone();
    let is_dry = args.dry_run;
    let report = tokio::task::spawn_blocking(move || {
        // It is drawn on standard error, on a terminal only.
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{msg:32} {wide_bar} {pos}/{len}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let report = export::run(&config, is_dry, |what, done, all| {
            bar.set_message(what);
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        report
    });
    let report = report.await.map_err(|e| Failure::failed(e.to_string()))?.map_err(super::serve::failure)?;
    if context.format == Format::Json {
        output::json(&serde_json::to_value(&report).map_err(|e| Failure::failed(e.to_string()))?);
        return Ok(());
    }
    let data_dir = context.config.data_dir.display();
    let key_file = match &context.config.key_file {
        Some(path) => path.display().to_string(),
        None => format!("{data_dir}/secrets.key"),
    };
    output::line(&format!(
        "{} journal records, {} users, {} definitions and {} waiting deliveries {} the topics {}* with {} partitions",
        report.journal_records,
        report.users,
        report.definitions,
        report.waiting_deliveries,
        if is_dry { "would go to" } else { "are in" },
        report.prefix,
        report.partitions
    ));
    show_history(&report.history);
    if is_dry {
        output::line("Nothing was written on the brokers.");
        return Ok(());
    }
    output::line("Serve them with, on every process,");
    output::line(&format!("  [log] prefix = \"{}\" and partitions = {}", report.prefix, report.partitions));
    output::line(&format!("  [secrets] key_file = a copy of {key_file}"));
    if context.config.keys.is_empty() {
        output::line(&format!("  [[keys]] as in {data_dir}/keys.toml, where the clients are to keep theirs"));
    }
    output::line(&format!("{data_dir} is not served any more."));
    Ok(())
}

/// What becomes of the lists and counters.
fn show_history(history: &HistoryReport) {
    let names: BTreeSet<&String> =
        [&history.brought, &history.left, &history.trimmed].into_iter().flat_map(|all| all.keys()).collect();
    let cell = |of: &BTreeMap<String, u64>, name: &str| of.get(name).copied().unwrap_or(0).to_string();
    let row = |name: &&String| {
        let (brought, left) = (cell(&history.brought, name), cell(&history.left, name));
        vec![(*name).clone(), brought, left, cell(&history.trimmed, name)]
    };
    let rows: Vec<Vec<String>> = names.iter().map(row).collect();
    if !rows.is_empty() {
        output::table(&["HISTORY", "GOES OVER", "STAYS", "GONE BEFORE"], &rows);
    }
    if history.left.values().any(|count| *count > 0) {
        output::line("What stays is of users who were erased, or of deliveries whose end is not kept any more.");
    }
    if history.trimmed.values().any(|count| *count > 0) {
        output::line("What retention has taken before is in no list there, and its counters stay behind.");
    }
}
