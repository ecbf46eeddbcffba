//! The command line: one file per verb. Exit codes: 0 ok, 1 failed, 2 bad usage
//! or configuration, 3 refused to protect data, 4 could not reach what it needs.

mod apply;
mod backtest;
mod backup;
mod client;
mod completions;
mod context;
mod deliveries;
mod demo;
mod demo_web;
mod doctor;
mod endpoints;
mod examples;
mod explain;
mod export;
mod files;
mod get;
mod import;
mod job;
mod keys;
mod link;
mod moment;
mod output;
mod progress;
mod replay;
mod responses;
mod results;
mod send;
mod serve;
mod skip;
mod snapshot;
mod stats;
mod surveys;
mod tail;
mod topics;
mod triggers;
mod users;
mod webhook;

#[cfg(debug_assertions)]
pub use import::try_table;

use clap::{CommandFactory, FromArgMatches as _, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use completions::CompletionsArgs;
use context::{BrokerArgs, Context, Failure, Format};

use crate::config::{self, Overrides};

#[derive(Debug, Parser)]
#[command(
    name = "askwhen",
    version,
    about = "Decides which user to ask which survey at which moment, and sends every answer on as a signed webhook",
    max_term_width = 100
)]
pub struct Cli {
    /// Configuration file; without it ./askwhen.toml counts, if it is there
    #[arg(long, global = true, value_name = "FILE", env = "ASKWHEN_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory, over what the configuration says
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Run the whole story on this machine, in under a minute
    Demo {
        /// Show it in a browser: a shop's page, the survey on it, the webhooks beside it
        #[arg(long)]
        web: bool,
        /// Where the shop listens
        #[arg(long, requires = "web", value_name = "ADDR", default_value = "127.0.0.1:0")]
        listen: String,
    },
    /// Bring surveys, endpoints and settings from files to the server
    Apply(apply::ApplyArgs),
    /// Check survey, endpoint and settings files without a server
    Validate(apply::ValidateArgs),
    /// Show surveys, endpoints, triggers or settings
    Get(get::GetArgs),
    /// Show what was known of a user, now or then, and why they are asked or not
    Explain(explain::ExplainArgs),
    /// Try surveys on what has happened: whom they would have reached, why not the others
    Backtest(backtest::BacktestArgs),
    /// Decide the journal once more in a place of its own, compare, put it in place
    Replay(replay::ReplayArgs),
    /// Show how a survey fares: considered, offered, displayed, answered, and why not
    Stats(stats::StatsArgs),
    /// Show what a survey was answered, question by question
    Results(results::ResultsArgs),
    /// Bring history from a file into the journal, with its original times
    Import(import::ImportArgs),
    /// List, show and resend deliveries; recover what an endpoint has missed
    Deliveries(deliveries::DeliveriesArgs),
    /// Stop asking an active survey for a while; its windows stay open
    Pause(surveys::SurveyArgs),
    /// Go on asking a paused survey
    Resume(surveys::SurveyArgs),
    /// Ask a survey no more; its results stay
    #[command(visible_alias = "delete")]
    Archive(surveys::SurveyArgs),
    /// Make a signed link to a survey's page for one user
    Link(link::LinkArgs),
    /// Print what users have answered, a line of JSON each, or a table
    Responses(responses::ResponsesArgs),
    /// Show or forget a user, or set attributes
    Users(users::UsersArgs),
    /// List, declare or remove names of events and triggers
    Triggers(triggers::TriggersArgs),
    /// Make, list or revoke API keys while the server runs
    Keys(keys::KeysArgs),
    /// List, show, disable, enable or remove endpoints, rotate secrets, send a test
    Endpoints(endpoints::EndpointsArgs),
    /// Receive webhooks on this machine and verify them
    Webhook {
        #[command(subcommand)]
        what: webhook::WebhookCommand,
    },
    /// Send an event, a trigger, a display or an answer
    Send(send::SendArgs),
    /// Print the records of a topic
    Tail(tail::TailArgs),
    /// Print, check or create the topics
    Topics {
        #[command(flatten)]
        brokers: BrokerArgs,
        #[command(subcommand)]
        what: topics::TopicsCommand,
    },
    /// Take, list or verify snapshots of the state
    Snapshot {
        #[command(subcommand)]
        what: snapshot::SnapshotCommand,
    },
    /// Move from the embedded log to Kafka: journal, state, definitions, waiting deliveries
    Export(export::ExportArgs),
    /// Copy everything that another machine needs to go on; verify and restore it
    Backup(backup::BackupArgs),
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Take a record that ends the process out of the way
    Skip(skip::SkipArgs),
    /// Check whether askwhen can run here; put right what a wrong clock has left
    Doctor(doctor::DoctorArgs),
    /// Print a completion script for a shell; it completes the ids of surveys, endpoints and triggers, too
    #[command(visible_alias = "completion")]
    Completions(completions::CompletionsArgs),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration in force, every layer merged, without its secrets
    Print {
        /// Print the commented defaults instead
        #[arg(long)]
        default: bool,
    },
}

/// How long the end waits for log lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long the end of a server waits for tasks that block.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// Parses the arguments and runs the verb.
pub fn main() -> ExitCode {
    let parsed = examples::add_to(Cli::command()).try_get_matches();
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only when standard output is closed.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    crate::supervisor::private::mask();
    // Clients over TLS need it. A second installation is an error that changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let serves = matches!(cli.verb, Verb::Serve(_));
    if serves {
        askwhen_process::install_panic_hook();
        if let Err(error) = askwhen_process::survive_file_size_limit() {
            askwhen_process::complain(&format!("askwhen: the signal of too large files cannot be handled: {error}"));
            return ExitCode::FAILURE;
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            askwhen_process::complain(&format!("askwhen: the runtime cannot start: {error}"));
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(run(cli));
    askwhen_process::flush_log_lines(LAST_LINES);
    let code = outcome.as_ref().map_or_else(|failure| failure.code, |()| 0);
    if !serves {
        if let Err(failure) = outcome {
            askwhen_process::complain(&format!("askwhen: {}", failure.text));
        }
        return ExitCode::from(code);
    }
    // A server must end although standard error is not read and threads still block.
    if let Err(failure) = outcome {
        askwhen_process::say(askwhen_process::Stream::Error, &format!("askwhen: {}", failure.text));
    }
    runtime.shutdown_timeout(LAST_TASKS);
    askwhen_process::exit(i32::from(code))
}

/// The configuration keys that the arguments of a verb set.
fn overrides(verb: &Verb, data_dir: Option<PathBuf>) -> Overrides {
    let mut overrides = Overrides { data_dir, ..Overrides::default() };
    match verb {
        Verb::Serve(args) => {
            overrides.listen.clone_from(&args.listen);
            overrides.brokers.clone_from(&args.brokers);
        }
        Verb::Topics { brokers, .. } => overrides.brokers.clone_from(&brokers.brokers),
        Verb::Tail(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Explain(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Backtest(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Backup(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Replay(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Skip(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Doctor(args) => overrides.brokers.clone_from(&args.brokers.brokers),
        Verb::Export(args) => {
            overrides.brokers.clone_from(&args.brokers);
            overrides.prefix.clone_from(&args.prefix);
        }
        _ => {}
    }
    overrides
}

/// Runs a verb. Those that need no configuration do not read it, so a broken one is no
/// obstacle.
async fn run(cli: Cli) -> Result<(), Failure> {
    let overrides = overrides(&cli.verb, cli.data_dir);
    let load = || {
        config::load(cli.config.as_deref(), std::env::vars(), &overrides)
            .map_err(|error| Failure::usage(error.to_string()))
    };
    let context = || Ok::<_, Failure>(Context { config: load()?, format: cli.output });
    match cli.verb {
        Verb::Completions(CompletionsArgs { shell: Some(shell), .. }) => {
            output::write(&completions::script(&mut Cli::command(), shell));
            Ok(())
        }
        Verb::Completions(args) => {
            let typed = completions::read(&Cli::command(), &args.words);
            let overrides = Overrides { data_dir: typed.data_dir.clone(), ..overrides };
            let config = config::load(typed.config.as_deref(), std::env::vars(), &overrides)
                .map_err(|error| Failure::usage(error.to_string()))?;
            typed.print_ids(&Context { config, format: cli.output }).await
        }
        Verb::Demo { web: true, listen } => demo_web::run(cli.output, &listen).await,
        Verb::Demo { .. } => demo::run(cli.output).await,
        Verb::Validate(args) => apply::validate(&args, cli.output),
        Verb::Webhook { what } => webhook::run(what, cli.output).await,
        Verb::Serve(args) => serve::run(load()?, &args, load).await,
        Verb::Apply(args) => apply::run(&context()?, &args).await,
        Verb::Get(args) => get::run(&context()?, &args).await,
        Verb::Explain(args) => explain::run(&context()?, &args).await,
        Verb::Backtest(args) => backtest::run(&context()?, &args).await,
        Verb::Backup(args) => backup::run(&context()?, cli.config.clone(), args).await,
        Verb::Replay(args) => replay::run(&context()?, &args).await,
        Verb::Stats(args) => stats::run(&context()?, &args).await,
        Verb::Results(args) => results::run(&context()?, &args).await,
        Verb::Import(args) => import::run(&context()?, &args).await,
        Verb::Deliveries(args) => deliveries::run(&context()?, &args).await,
        Verb::Pause(args) => surveys::change_status(&context()?, &args, "active", "paused").await,
        Verb::Resume(args) => surveys::change_status(&context()?, &args, "paused", "active").await,
        Verb::Archive(args) => surveys::archive(&context()?, &args).await,
        Verb::Link(args) => link::run(&context()?, &args).await,
        Verb::Responses(args) => responses::run(&context()?, &args).await,
        Verb::Users(args) => users::run(&context()?, &args).await,
        Verb::Keys(args) => keys::run(&context()?, &args).await,
        Verb::Triggers(args) => triggers::run(&context()?, &args).await,
        Verb::Endpoints(args) => endpoints::run(&context()?, &args).await,
        Verb::Send(args) => send::run(&context()?, &args).await,
        Verb::Tail(args) => tail::run(&context()?, &args).await,
        Verb::Topics { what, .. } => topics::run(&context()?, &what).await,
        Verb::Export(args) => export::run(&context()?, &args).await,
        Verb::Snapshot { what } => snapshot::run(&context()?, &what).await,
        Verb::Config { what: ConfigCommand::Print { default: true } } if cli.output == Format::Text => {
            output::write(config::DEFAULT);
            Ok(())
        }
        Verb::Config { what: ConfigCommand::Print { default } } => {
            let mut table = if default { toml::from_str(config::DEFAULT).unwrap_or_default() } else { load()?.table };
            match cli.output {
                Format::Text => {
                    config::redact(&mut table);
                    output::write(&toml::to_string(&table).unwrap_or_default());
                }
                Format::Json => output::json(&config::shown(&table)),
            }
            Ok(())
        }
        Verb::Skip(args) => skip::run(&context()?, &args).await,
        Verb::Doctor(args) => doctor::run(&context()?, &args).await,
    }
}
