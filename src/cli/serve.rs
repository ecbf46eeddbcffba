//! `askwhen serve`

use clap::Args;
use std::io::IsTerminal as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::config::Config;
use crate::supervisor::{self, Error, Options};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on, over what the configuration says
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Kafka brokers, "host:9092,…"
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
}

pub async fn run(config: Config, args: &ServeArgs) -> Result<(), Failure> {
    log_to_stderr();
    let options = Options { test_clock: args.test_clock, dev: args.dev, console: console(&args.roles)? };
    // Before anything else, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::failed(e.to_string()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::failed(e.to_string()))?;
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
    running.stop().await;
    if failed {
        return Err(Failure::failed("the log could not be written; see the log lines above"));
    }
    Ok(())
}

/// A server goes on although nobody reads what it says.
fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").ok();
}

/// One process on the embedded log runs all that decides and sends; the
/// console alone can be left out.
fn console(roles: &[String]) -> Result<bool, Failure> {
    for role in roles {
        if !["bridge", "engine", "delivery", "console"].contains(&role.as_str()) {
            return Err(Failure::usage(format!("there is no role {role}; they are bridge, engine, delivery, console")));
        }
    }
    for needed in ["bridge", "engine", "delivery"] {
        if !roles.iter().any(|role| role == needed) {
            return Err(Failure::usage(format!(
                "the embedded log is for one process: the role {needed} must run in it"
            )));
        }
    }
    Ok(roles.iter().any(|role| role == "console"))
}

/// One line per happening; whatever came from outside is escaped.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("ASKWHEN_LOG").unwrap_or_else(|_| EnvFilter::new("warn,askwhen=info"));
    let lines = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr);
    // A second server in one process (tests) finds it set.
    lines.try_init().ok();
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Refused(text) => Failure::refused(text),
        Error::Unreachable(text) => Failure::unreachable(text),
        Error::Failed(text) => Failure::failed(text),
    }
}
