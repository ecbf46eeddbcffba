//! `askwhen replay`: decides the journal again into a folder, compares that with the
//! recorded decisions, and promotes the result.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::context::{BrokerArgs, Context, Failure, Format};
use super::moment::Moment;
use super::output;
use super::progress::{blocking, over_records};
use crate::replay::Progress;
use crate::replay::backtest::report::number;
use crate::replay::shadow::{self, RunOptions, Shadow};
use crate::supervisor::{self, promote};
use askwhen_domain::webhook::rate::Rate;

/// How many differences are shown as text.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Where the replayed state is [default: the folder replay in the data directory]
    #[arg(long, global = true, value_name = "DIR")]
    shadow: Option<PathBuf>,
    #[command(flatten)]
    pub brokers: BrokerArgs,
    #[command(subcommand)]
    what: ReplayCommand,
}

#[derive(Debug, Subcommand)]
enum ReplayCommand {
    /// Show what would be replayed: records, gaps, and how long it would take
    Plan {
        /// Begin with the state before this time: a time, a date, or so long ago, such as 7d
        #[arg(long, value_name = "TIME")]
        from: Option<Moment>,
        /// At most so many partitions at a time; left out, as many as there are cores
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
    },
    /// Replay up to the journal's end; run it again to go on
    Run {
        /// Begin with the state before this time; left out, as early as can be
        #[arg(long, value_name = "TIME")]
        from: Option<Moment>,
        #[command(flatten)]
        options: RunArgs,
    },
    /// Show the decisions that are not as they were
    Diff {
        /// Exit with 1 when there are any
        #[arg(long)]
        exit_code: bool,
    },
    /// Put the replayed state in the place of the one that serves; while nobody serves
    Promote {
        #[command(flatten)]
        options: RunArgs,
    },
    /// Remove the replayed state
    Abort,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// At most so many partitions at a time; left out, as many as there are cores
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// At most so many records in a span, such as 20000/s
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
}

impl RunArgs {
    fn options(&self) -> RunOptions {
        RunOptions { threads: threads(self.threads), rate: self.rate }
    }
}

fn threads(asked: Option<NonZeroUsize>) -> usize {
    asked.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), NonZeroUsize::get)
}

pub async fn run(context: &Context, args: &ReplayArgs) -> Result<(), Failure> {
    context.note_export();
    let dir = args.shadow.clone().unwrap_or_else(|| context.config.data_dir.join("replay"));
    let config = context.config.clone();
    match &args.what {
        ReplayCommand::Plan { from, threads: asked } => {
            let (from, threads) = (from.map(|from| from.0), threads(*asked));
            let planned = blocking(move || shadow::plan(&supervisor::source(&config)?, from, threads)).await?;
            show_plan(context, &planned);
        }
        ReplayCommand::Run { from, options } => {
            let (from, options) = (from.map(|from| from.0), options.options());
            let ran = over_records("replaying", move |progress| {
                let source = supervisor::source(&config)?;
                Shadow::open_or_begin(&source, &dir, from)?.run(&source, None, options, progress)
            });
            let ran = ran.await?;
            let seconds = ran.took.as_secs_f64().max(1e-9);
            let reading = (ran.read_in.as_secs_f64() / ran.threads as f64).max(1e-9);
            let mut report = ran.report.clone();
            report["replayed_now"] = json!({
                "records": ran.records,
                "seconds": (seconds * 1e3).round() / 1e3,
                "records_per_second": (ran.records as f64 / seconds).round(),
                "records_per_second_read_alone": (ran.records as f64 / reading).round(),
            });
            show_report(context, &report, &[]);
        }
        ReplayCommand::Diff { exit_code } => {
            let (report, found) = blocking(move || {
                let source = supervisor::source(&config)?;
                let shadow = Shadow::open(&source, &dir)?;
                let mut found = Vec::new();
                shadow.differences(|difference| found.push(difference))?;
                Ok((shadow.report(&source)?, found))
            })
            .await?;
            show_report(context, &report, &found);
            if *exit_code && report["differences"] != 0 {
                return Err(Failure::failed("the replay decides differently"));
            }
        }
        ReplayCommand::Promote { options } => {
            let options = options.options();
            let promote = move |progress: &Progress| promote::promote(&config, &dir, options, progress);
            let promoted = over_records("replaying the rest", promote).await?;
            let before = promoted.before.as_ref().map(|path| path.display().to_string());
            let text = match &before {
                Some(before) => format!(
                    "the replayed state of {} partitions is in place; the one before is in {before}: remove it when it \
                     is of no use any more",
                    promoted.partitions
                ),
                None => format!(
                    "the replayed state of {} partitions is in the snapshots: whoever starts takes it up",
                    promoted.partitions
                ),
            };
            let json =
                json!({"partitions": promoted.partitions, "before": before, "differences": promoted.differences});
            output::answer(context.format, &json, &text);
        }
        ReplayCommand::Abort => {
            let text = format!("the replay in {} is removed", dir.display());
            // A replay can be removed although its log is gone.
            let own = move || supervisor::source(&config).ok().map(|source| source.incarnation);
            blocking(move || Shadow::abort(&dir, own())).await?;
            output::answer(context.format, &json!({"removed": true}), &text);
        }
    }
    Ok(())
}

fn show_plan(context: &Context, planned: &Value) {
    if context.format == Format::Json {
        return output::json(planned);
    }
    let row = |row: &Value| {
        let snapshot = row["snapshot"].as_str().unwrap_or("nothing");
        let begins = row["refused"].as_str().map_or_else(|| snapshot.to_owned(), |why| format!("refused: {why}"));
        vec![
            row["partition"].to_string(),
            count(&row["from"]),
            count(&row["journal"]["end"]),
            count(&row["records"]),
            begins,
        ]
    };
    let rows: Vec<Vec<String>> = planned["partitions"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["PARTITION", "FROM", "TO", "RECORDS", "BEGINS WITH"], &rows);
    for partition in planned["partitions"].as_array().into_iter().flatten() {
        for gap in partition["gaps"].as_array().into_iter().flatten() {
            output::line(&format!("partition {}: {}", partition["partition"], gap.as_str().unwrap_or_default()));
        }
    }
    output::line(&format!(
        "\n{} records, about {} at {} records/s on {} threads",
        count(&planned["records"]),
        planned["eta"].as_str().unwrap_or_default(),
        count(&planned["records_per_second"]),
        planned["threads"]
    ));
}

fn show_report(context: &Context, report: &Value, differences: &[Value]) {
    if context.format == Format::Json {
        let mut all = report.clone();
        if report["replayed_now"].is_null() {
            all["kept"] = differences.into();
        }
        return output::json(&all);
    }
    let decisions = &report["decisions"];
    let rows: Vec<Vec<String>> = [
        ("same", "byte for byte"),
        ("changed", "decided differently"),
        ("only_recorded", "not decided any more"),
        ("only_replayed", "not on record"),
        ("no_longer_recorded", "the topic begins later: not compared"),
        ("not_yet_recorded", "the engine has not come so far: not compared"),
    ]
    .iter()
    .map(|(name, means)| vec![(*name).to_owned(), count(&decisions[*name]), (*means).to_owned()])
    .collect();
    output::table(&["DECISIONS", "COUNT", ""], &rows);
    for partition in report["partitions"].as_array().into_iter().flatten() {
        if partition["next"].as_u64() < partition["end"].as_u64() {
            output::line(&format!(
                "partition {} is replayed up to {} of {}",
                partition["partition"], partition["next"], partition["end"]
            ));
        }
    }
    for difference in differences.iter().take(SHOWN) {
        output::line(&format!(
            "\npartition {} offset {}, user {}, {}",
            difference["partition"],
            difference["offset"],
            output::escape(difference["user_id"].as_str().unwrap_or_default()),
            difference["decision_id"].as_str().unwrap_or_default()
        ));
        output::line(&changes(&difference["recorded"], &difference["replayed"]));
    }
    if differences.len() > SHOWN {
        output::line(&format!("\nand {} more: --output json shows all that are kept", differences.len() - SHOWN));
    }
    if let Some(now) = report["replayed_now"].as_object() {
        output::line(&format!(
            "\n{} journal records in {} s: {} a second (reading alone, {}). {} differences",
            count(&now["records"]),
            now["seconds"],
            count(&now["records_per_second"]),
            count(&now["records_per_second_read_alone"]),
            count(&report["differences"])
        ));
    }
}

/// The lines that are on one side only.
fn changes(recorded: &Value, replayed: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let (old, new) = (text(recorded), text(replayed));
    let diff = similar::TextDiff::from_lines(&old, &new);
    let lines = diff.iter_all_changes().filter(|change| change.tag() != similar::ChangeTag::Equal);
    let lines: Vec<String> =
        lines.map(|change| format!("{}{}", change.tag(), output::escape(change.value().trim_end()))).collect();
    lines.join("\n")
}

fn count(value: &Value) -> String {
    value.as_u64().map(number).or_else(|| value.as_f64().map(|n| number(n as u64))).unwrap_or_default()
}
