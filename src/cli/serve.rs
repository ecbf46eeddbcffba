//! `askwhen serve`

use clap::Args;
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, reload};

use super::context::Failure;
use crate::config::{self, Config, LogFormat};
use crate::replay::ErrorKind;
use crate::supervisor::{self, Error, Options, Roles, Running};

/// The longest stop; one that takes longer is cut short, which loses no more than a crash:
/// nothing.
const MAX_STOP: Duration = Duration::from_secs(28);
/// The same after the log has failed: nothing more can be written, so only finished
/// responses are waited for, and the next start is not delayed.
const MAX_STOP_AFTER_FAILURE: Duration = Duration::from_secs(2);

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
    #[command(flatten)]
    log: LogArgs,
    /// Make new API keys where keys.toml of the data directory is lost; those of before are void
    #[arg(long)]
    new_keys: bool,
}

/// Serves until a signal or a failed log stops it. `reread` reads the configuration again.
pub async fn run(
    config: Config,
    args: &ServeArgs,
    reread: impl Fn() -> Result<Config, Failure>,
) -> Result<(), Failure> {
    let set_level = log_to_stderr(&config, &args.log)?;
    let roles = roles(&config, args)?;
    let options = Options { test_clock: args.test_clock, dev: args.dev, new_keys: args.new_keys, roles };
    // Signals are caught before anything is started, so that none ends the process at once.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::failed(e.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::failed(e.to_string()))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| Failure::failed(e.to_string()))?;
    if !config.kafka && !config.brokers.is_empty() {
        tracing::warn!("[kafka] brokers are set and [log] kind is embedded: the log is in the data directory");
    }
    let keys = supervisor::keys_path(&config);
    let table = config.table.clone();
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
    if let Some(link) = &running.sign_in {
        say(&format!("sign in to the console, once, within 15 minutes: {link}"));
    }
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            () = running.failure() => break true,
            _ = hangup.recv() => reread_configuration(&running, args, &set_level, &table, &reread),
        }
    };
    let within = if failed { MAX_STOP_AFTER_FAILURE } else { MAX_STOP };
    if tokio::time::timeout(within, running.stop()).await.is_err() {
        tracing::error!(
            "something hangs and keeps the process from stopping in order; what it had not written down is done again by the next start"
        );
        // The runtime is not dropped: it would wait for the threads that hang.
        askwhen_process::flush_log_lines(Duration::from_secs(1));
        askwhen_process::exit(1);
    }
    if failed {
        return Err(Failure::failed("the log could not be written; see the log lines above"));
    }
    Ok(())
}

/// Puts keys, identity secrets, the log level, origins and limits of the configuration in
/// force. When it cannot be read, nothing changes. `started` is the configuration of the
/// start.
fn reread_configuration(
    running: &Running,
    args: &ServeArgs,
    set_level: &SetLevel,
    started: &toml::Table,
    reread: impl Fn() -> Result<Config, Failure>,
) {
    let taken = reread().and_then(|config| {
        let filter = args.log.filter(&config)?;
        running.reload(&config).map_err(failure)?;
        set_level(filter).map_err(|error| Failure::failed(error.to_string()))?;
        running.show_configuration(&config::in_force(started, &config.table));
        Ok(config::changed_keys(started, &config.table))
    });
    match taken {
        Ok(changed) => {
            tracing::info!("keys, identity secrets, log_level, cors_origins and limits were read again");
            let waiting: Vec<&str> =
                changed.iter().filter(|key| !config::is_reloaded(key)).map(String::as_str).collect();
            if !waiting.is_empty() {
                tracing::warn!(
                    settings = waiting.join(", "),
                    "these settings have changed and count from the next start on"
                );
            }
        }
        Err(failure) => {
            tracing::error!(
                error = failure.text,
                "the configuration cannot be read again: the one before stays in force"
            );
        }
    }
}

/// Prints a line. A server goes on when nobody reads its standard output.
fn say(text: &str) {
    askwhen_process::say(askwhen_process::Stream::Out, text);
}

/// The roles of the arguments. On the embedded log and under a test clock there is only
/// one process: it needs every role but the console.
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

/// Starts to write log lines to standard error; returns the function that changes their
/// filter. A line that cannot be written at once is dropped and counted.
///
/// # Errors
/// When a filter cannot be parsed, or no thread can be started.
pub fn log_to_stderr(config: &Config, args: &LogArgs) -> Result<SetLevel, Failure> {
    let filter = args.filter(config)?;
    let writer =
        askwhen_process::LogLines::start().map_err(|e| Failure::failed(format!("log lines cannot be written: {e}")))?;
    let is_terminal = std::io::stderr().is_terminal();
    let is_text = match args.log_format.unwrap_or(config.log_format) {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::ByStream => is_terminal,
    };
    // In tests a second server of the process finds the subscriber set.
    let lines = tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(writer);
    if is_text {
        let lines = lines.with_ansi(is_terminal).with_filter_reloading();
        let handle = lines.reload_handle();
        lines.try_init().ok();
        return Ok(Box::new(move |filter| handle.reload(filter)));
    }
    let lines = lines.json().with_filter_reloading();
    let handle = lines.reload_handle();
    lines.try_init().ok();
    Ok(Box::new(move |filter| handle.reload(filter)))
}

/// Replaces the filter of log lines.
pub type SetLevel = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Options of log lines.
#[derive(Debug, Clone, Default, Args)]
pub struct LogArgs {
    /// Which log lines are written: a level, or filters by module, over what the configuration says
    #[arg(long, value_name = "LEVEL", env = "ASKWHEN_LOG")]
    log_level: Option<String>,
    /// How log lines are written [default: text on a terminal, else JSON]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl LogArgs {
    fn filter(&self, config: &Config) -> Result<EnvFilter, Failure> {
        let given = self.log_level.as_deref().unwrap_or(&config.log_level);
        config::log_filter::parse(given)
            .map_err(|error| Failure::usage(format!("--log-level (or ASKWHEN_LOG) {error}")))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_restart_is_told_from_what_counts_at_once() {
        let (before, after) = (
            "[http]\nlisten = \"a\"\ncors_origins = []\n[limits]\nper_key = \"1/s\"\n",
            "[http]\nlisten = \"b\"\ncors_origins = [\"*\"]\n[limits]\nper_key = \"2/s\"\n[kafka]\nbrokers = \"k\"\n",
        );
        let changed = config::changed_keys(&before.parse().unwrap(), &after.parse().unwrap());
        assert_eq!(changed, ["http.cors_origins", "http.listen", "kafka", "limits.per_key"]);
        let waiting: Vec<&String> = changed.iter().filter(|key| !config::is_reloaded(key)).collect();
        assert_eq!(waiting, ["http.listen", "kafka"]);
    }
}
