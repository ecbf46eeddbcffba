//! `askwhen serve`

use clap::Args;
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::context::Failure;
use crate::config::Config;
use crate::replay::ErrorKind;
use crate::supervisor::{self, Error, Options, Roles};

/// A stop that takes longer is cut short: a crash loses nothing either.
const STOP_WITHIN: Duration = Duration::from_secs(28);
/// When the log has failed nothing more can be written down: time for answers
/// that are ready, and whoever starts the program anew is not kept waiting.
const END_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on, over what the configuration says
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Kafka brokers, "host:9092,…": the log is there, not in the data directory
    #[arg(long, value_name = "HOSTS")]
    pub brokers: Option<String>,
    /// Roles of this process; on the embedded log bridge, engine and delivery always run
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_values_t = ["bridge".to_owned(), "engine".into(), "delivery".into(), "console".into()])]
    roles: Vec<String>,
    /// Let POST /v1/test/clock move time; never with real data
    #[arg(long)]
    test_clock: bool,
    /// For trying things out: loopback receivers allowed, no cooldown between surveys
    #[arg(long)]
    dev: bool,
    /// Make new API keys where keys.toml of the data directory is lost; those of before are void
    #[arg(long)]
    new_keys: bool,
}

pub async fn run(config: Config, args: &ServeArgs) -> Result<(), Failure> {
    log_to_stderr()?;
    let roles = roles(&config, args)?;
    let options = Options { test_clock: args.test_clock, dev: args.dev, new_keys: args.new_keys, roles };
    // Before anything else, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::failed(e.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::failed(e.to_string()))?;
    if !config.kafka && !config.brokers.is_empty() {
        tracing::warn!("[kafka] brokers are set and [log] kind is embedded: the log is in the data directory");
    }
    let keys = supervisor::keys_path(&config);
    let running = supervisor::start(config, options).await.map_err(failure)?;
    say(&format!("askwhen listens on http://{}", running.addr));
    if let Some(fresh) = &running.fresh_keys {
        say(&format!("keys were made and kept in {}", keys.display()));
        if std::io::stdout().is_terminal() {
            for (kind, key) in fresh {
                say(&format!("  {:<7} {key}", kind.name()));
            }
        }
    }
    let failed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = running.failure() => true,
    };
    let within = if failed { END_WITHIN } else { STOP_WITHIN };
    if tokio::time::timeout(within, running.stop()).await.is_err() {
        tracing::error!(
            "something hangs and keeps the process from stopping in order; what it had not written down is done again by the next start"
        );
        // Whatever hangs is not waited for, nor torn down beneath its threads.
        askwhen_process::flush_log_lines(Duration::from_secs(1));
        askwhen_process::exit(1);
    }
    if failed {
        return Err(Failure::failed("the log could not be written; see the log lines above"));
    }
    Ok(())
}

/// A server goes on although nobody reads what it says.
fn say(text: &str) {
    askwhen_process::say(askwhen_process::Stream::Out, text);
}

/// One process on the embedded log runs all that decides and sends, as one does
/// that moves time; the console alone can be left out there.
fn roles(config: &Config, args: &ServeArgs) -> Result<Roles, Failure> {
    let mut roles = Roles { bridge: false, engine: false, delivery: false, console: false };
    for role in &args.roles {
        match role.as_str() {
            "bridge" => roles.bridge = true,
            "engine" => roles.engine = true,
            "delivery" => roles.delivery = true,
            "console" => roles.console = true,
            _ => {
                let known = "they are bridge, engine, delivery, console";
                return Err(Failure::usage(format!("there is no role {role:?}; {known}")));
            }
        }
    }
    let why = if args.test_clock { "--test-clock" } else { "the embedded log" };
    if !config.kafka || args.test_clock {
        for (needed, given) in [("bridge", roles.bridge), ("engine", roles.engine), ("delivery", roles.delivery)] {
            if !given {
                return Err(Failure::usage(format!("{why} is for one process: the role {needed} must run in it")));
            }
        }
    }
    Ok(roles)
}

/// One line per happening; whatever came from outside is escaped. A line that
/// nobody takes is lost and counted: it keeps no one waiting.
///
/// # Errors
/// When the system gives no thread to write them.
pub fn log_to_stderr() -> Result<(), Failure> {
    // A lease closes its consumer itself; the binding then says that it is closed.
    // A certificate that is not trusted is told in its attempt.
    let standard = "warn,askwhen=info,rdkafka::consumer::base_consumer=off,rustls_platform_verifier=off";
    let filter = EnvFilter::try_from_env("ASKWHEN_LOG").unwrap_or_else(|_| EnvFilter::new(standard));
    let writer =
        askwhen_process::LogLines::start().map_err(|e| Failure::failed(format!("log lines cannot be written: {e}")))?;
    let lines = tracing_subscriber::fmt().json().log_internal_errors(false);
    // A second server in one process (tests) finds it set.
    lines.with_env_filter(filter).with_writer(writer).try_init().ok();
    Ok(())
}

pub fn failure(error: Error) -> Failure {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Usage => Failure::usage(text),
        ErrorKind::Refused => Failure::refused(text),
        ErrorKind::Unreachable => Failure::unreachable(text),
        ErrorKind::Failed => Failure::failed(text),
    }
}
