//! `askwhen backtest`: tries surveys on the recorded journal, under the rules that decide.
//! Nothing is sent.

use clap::Args;
use std::path::PathBuf;

use super::context::{BrokerArgs, Context, Failure, Format};
use super::moment::Moment;
use super::{files, output, progress, serve};
use crate::replay::backtest::report::{self, number};
use crate::replay::backtest::tally::Counts;
use crate::replay::backtest::{self, Assumptions, Outcome, Plan};
use crate::supervisor;
use askwhen_domain::time::{self, Millis};
use askwhen_wire::definition::{self, Kind};
use askwhen_wire::record::DEFAULT_PROJECT;

#[derive(Debug, Args)]
pub struct BacktestArgs {
    /// Files with the surveys to try, YAML or JSON; whatever their status, they are tried as
    /// active. A survey that is defined twice is tried in two versions, which are compared
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,
    /// From then on they are active: a time, a date, or so long ago, such as 30d
    #[arg(long, value_name = "TIME")]
    from: Moment,
    /// Up to this time; left out, up to now
    #[arg(long, value_name = "TIME")]
    to: Option<Moment>,
    /// How many of the offers that were not really made are answered: none, rate=0.3, always
    #[arg(long, value_name = "SHARE", default_value = "none")]
    answers: String,
    /// Whether the app displays offers that were not really made: all, none
    #[arg(long, value_name = "WHICH", default_value = "all")]
    displays: String,
    /// Without the other surveys
    #[arg(long)]
    alone: bool,
    /// Write the report as a page that opens by itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[arg(long, default_value = DEFAULT_PROJECT)]
    project: String,
    /// At most so many at a time; left out, as many as there are cores
    #[arg(long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    #[command(flatten)]
    pub brokers: BrokerArgs,
}

pub async fn run(context: &Context, args: &BacktestArgs) -> Result<(), Failure> {
    let plan = plan(args)?;
    context.note_export();
    if let Some(path) = &args.html {
        let real = |path: &PathBuf| path.canonicalize().ok();
        if args.file.iter().any(|file| real(file).is_some() && real(file) == real(path)) {
            return Err(Failure::usage(format!("--html {} is one of the surveys' files", path.display())));
        }
        // A page that cannot be written is an error before a long run.
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Failure::usage(format!("--html {}: {e}", path.display())))?;
    }
    let config = context.config.clone();
    let tried = progress::over_records("trying", move |progress| {
        let source = supervisor::source(&config)?;
        backtest::run(&source, &plan, progress)
    });
    let outcome = tried.await?;
    match context.format {
        Format::Json => output::json(&outcome.json()),
        Format::Text => print(&outcome),
    }
    if let Some(path) = &args.html {
        let written = std::fs::write(path, report::html(&outcome));
        written.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))?;
        if context.format == Format::Text {
            output::line(&format!("\nthe report is in {}", path.display()));
        }
    }
    Ok(())
}

fn plan(args: &BacktestArgs) -> Result<Plan, Failure> {
    let to = args.to.map_or(Millis::MAX, |to| to.0);
    let answered = match args.answers.as_str() {
        "none" => 0.0,
        "always" => 1.0,
        text => text
            .strip_prefix("rate=")
            .and_then(|rate| rate.parse::<f64>().ok())
            .filter(|rate| (0.0..=1.0).contains(rate))
            .ok_or_else(|| Failure::usage("--answers must be none, always or rate= and a share from 0 to 1"))?,
    };
    let displayed = match args.displays.as_str() {
        "all" => true,
        "none" => false,
        _ => return Err(Failure::usage("--displays must be all or none")),
    };
    if !displayed && answered > 0.0 {
        return Err(Failure::usage("--displays none leaves nothing to answer: leave out --answers"));
    }
    let mut surveys = Vec::new();
    for one in files::read_versions(&args.file)? {
        // Endpoints and settings of the files are ignored: those of the journal count.
        if one.kind == Kind::Survey
            && let Ok(survey) = definition::survey(&one.body, None)
        {
            surveys.push((one.place, survey));
        }
    }
    let versions = backtest::versions(surveys).map_err(serve::failure)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Plan {
        project: args.project.clone(),
        from: args.from.0,
        to,
        versions,
        assumptions: Assumptions { displayed, answered, alone: args.alone },
        threads: args.threads.map_or(cores, usize::from),
    })
}

fn print(outcome: &Outcome) {
    output::line(&format!(
        "{} to {}: {} records. {}",
        time::format_time(outcome.from),
        time::format_time(outcome.to),
        number(outcome.tried_records),
        report::supposed(outcome.assumptions)
    ));
    let ids: Vec<&String> = outcome.versions[0].surveys.iter().map(|(id, _)| id).collect();
    let names: Vec<&str> = outcome.versions.iter().map(|fared| fared.name.as_str()).collect();
    for (n, id) in ids.iter().enumerate() {
        let counts: Vec<&Counts> = outcome.versions.iter().map(|fared| &fared.surveys[n].1).collect();
        output::line(&format!("\n{}", output::escape(id)));
        let header = if names.len() > 1 { names.clone() } else { vec!["COUNT"] };
        output::table(&[&["TRIGGERS, USERS"], header.as_slice()].concat(), &funnel(&counts));
        if counts.iter().all(|c| c.considered == 0) {
            output::line("no trigger of this time and project is one that it shows on");
        }
        output::line("");
        days(&header, &counts);
    }
    if !outcome.assumptions.alone {
        beside(outcome);
    }
    let json = outcome.json();
    output::line(&format!(
        "\n{} journal records in {} s: {} a second (reading alone, {})",
        number(outcome.records),
        json["seconds"],
        number(json["records_per_second"].as_f64().unwrap_or(0.0) as u64),
        number(json["records_per_second_read_alone"].as_f64().unwrap_or(0.0) as u64)
    ));
}

fn funnel(counts: &[&Counts]) -> Vec<Vec<String>> {
    let row = |name: &str, of: &dyn Fn(&Counts) -> u64| {
        std::iter::once(name.to_owned()).chain(counts.iter().map(|c| number(of(c)))).collect::<Vec<_>>()
    };
    let mut rows = vec![row("considered", &|c| c.considered)];
    for gate in report::gates(counts) {
        rows.push(row(&format!("- {gate}"), &|c| c.not_offered.get(gate).copied().unwrap_or(0)));
    }
    rows.push(row("offered", &|c| c.offered));
    rows.push(row("offers (handed out again counts once)", &|c| c.offers));
    rows.push(row("users considered", &|c| c.users_considered));
    rows.push(row("users reached", &|c| c.users_reached));
    rows.push(row("displayed", &|c| c.displayed));
    rows.push(row("answered", &|c| c.answered));
    rows.push(row("completed", &|c| c.completed));
    rows
}

fn days(header: &[&str], counts: &[&Counts]) {
    let mut days: Vec<&String> = counts.iter().flat_map(|c| c.per_day.keys()).collect();
    days.sort();
    days.dedup();
    let cell = |c: &&Counts, day: &String| {
        let reach = c.per_day.get(day).copied().unwrap_or_default();
        format!("{} ({} new)", number(reach.users), number(reach.new_users))
    };
    let rows: Vec<Vec<String>> = days
        .iter()
        .map(|day| std::iter::once((*day).clone()).chain(counts.iter().map(|c| cell(c, day))).collect())
        .collect();
    if !rows.is_empty() {
        let header: Vec<&str> =
            header.iter().map(|name| if *name == "COUNT" { "USERS REACHED" } else { name }).collect();
        output::table(&[&["DAY (UTC)"], header.as_slice()].concat(), &rows);
    }
}

fn beside(outcome: &Outcome) {
    let mut rows = Vec::new();
    for fared in &outcome.versions {
        for (id, b) in fared.beside.iter().filter(|(_, b)| b.offers_with + b.offers_without > 0) {
            let gates: Vec<String> = b.lost_by.iter().map(|(gate, n)| format!("{gate} {}", number(*n))).collect();
            let mut row = if outcome.versions.len() > 1 { vec![fared.name.clone()] } else { Vec::new() };
            row.push(id.clone());
            row.extend([b.offers_without, b.offers_with, b.lost, b.gained, b.users_in_both].map(number));
            row.push(gates.join(", "));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return;
    }
    let columns = ["OTHER SURVEY", "OFFERS WITHOUT", "WITH", "LOST", "GAINED", "USERS IN BOTH", "LOST, BY GATE"];
    let first: &[&str] = if outcome.versions.len() > 1 { &["BESIDE"] } else { &[] };
    output::line("");
    output::table(&[first, &columns].concat(), &rows);
}
