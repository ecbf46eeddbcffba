//! The context of every verb, and its failure with an exit code.

use clap::Args;

use crate::config::Config;
use crate::supervisor::export;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// Where the server is and with which key; else as the configuration and the data
/// directory have it.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server, such as http://127.0.0.1:8080
    #[arg(long, global = true, value_name = "URL", env = "ASKWHEN_SERVER")]
    pub(super) server: Option<String>,
    /// Key of a sufficient kind
    #[arg(long, global = true, value_name = "KEY", env = "ASKWHEN_KEY", hide_env_values = true)]
    pub(super) key: Option<String>,
    /// Project whose configured key is used; a --key has its own
    #[arg(long, global = true, value_name = "PROJECT", default_value = "default", env = "ASKWHEN_PROJECT")]
    pub(super) project: String,
}

impl ServerArgs {
    /// Whether a server is named.
    pub fn is_given(&self) -> bool {
        self.server().is_some()
    }

    /// The server that is named. A variable that is empty, as jobs and containers set
    /// those that they have no value for, names none; the line end of a file is no part.
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref().map(str::trim).filter(|text| !text.is_empty())
    }

    /// The key that is given, read as [`ServerArgs::server`] is.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref().map(str::trim).filter(|text| !text.is_empty())
    }
}

/// Where the log is, when it is not in the data directory.
#[derive(Debug, Clone, Args)]
pub struct BrokerArgs {
    /// Kafka brokers, "host:9092,…", over what the configuration says
    #[arg(long, global = true, value_name = "HOSTS")]
    pub brokers: Option<String>,
}

/// Why a verb failed, with its exit code.
#[derive(Debug)]
pub struct Failure {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Failure {
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure { code: 1, text: text.into() }
    }

    pub fn usage(text: impl Into<String>) -> Failure {
        Failure { code: 2, text: text.into() }
    }

    pub fn refused(text: impl Into<String>) -> Failure {
        Failure { code: 3, text: text.into() }
    }

    pub fn unreachable(text: impl Into<String>) -> Failure {
        Failure { code: 4, text: text.into() }
    }
}

/// The configuration and the output format of a verb.
pub struct Context {
    pub config: Config,
    pub format: Format,
}

impl Context {
    /// For verbs that read the log: says so when the data directory was exported, and is
    /// not the log that is served.
    pub fn note_export(&self) {
        if let Some(note) = export::exported_note(&self.config) {
            askwhen_process::complain(&note);
        }
    }
}

/// Settings for reading from the brokers, which needs no cluster key.
pub fn observer(config: &Config) -> askwhen_log::kafka::Settings {
    crate::supervisor::kafka_settings(config, String::new())
}

/// The failure of a verb that an error of the log leads to.
pub fn failure(error: askwhen_log::Error) -> Failure {
    match &error {
        askwhen_log::Error::Unavailable(_) => Failure::unreachable(error.to_string()),
        askwhen_log::Error::Misconfigured(_) => Failure::usage(error.to_string()),
        askwhen_log::Error::Refused(_) | askwhen_log::Error::Lost(_) | askwhen_log::Error::Damaged { .. } => {
            Failure::refused(error.to_string())
        }
        _ => Failure::failed(error.to_string()),
    }
}
