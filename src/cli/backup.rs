//! `askwhen backup`: makes, verifies and restores backups.

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::client::Client;
use super::context::{BrokerArgs, Context, Failure, Format, ServerArgs};
use super::output;
use super::progress::blocking;
use crate::bridge::auth::Kind;
use crate::supervisor::backup::{self, BackupPoint};
use askwhen_wire::seal::ClusterKey;

#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub brokers: BrokerArgs,
    #[command(subcommand)]
    what: BackupCommand,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Copy log, state, secrets and configuration, sealed, while serving or not
    Create {
        /// file:///…, s3://…, gs://… or az://…
        url: String,
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Read a backup and compare every checksum; with the key, open what is sealed
    Verify {
        url: String,
        /// The newest, if left out
        name: Option<String>,
        /// The key that it was made with, 64 hex digits
        #[arg(long, value_name = "FILE", env = "ASKWHEN_BACKUP_KEY_FILE")]
        key_file: Option<PathBuf>,
    },
    /// Make the data directory of a backup, for a server to go on with
    Restore {
        url: String,
        /// The newest, if left out
        name: Option<String>,
        #[command(flatten)]
        key: KeyArgs,
    },
}

#[derive(Debug, Args)]
struct KeyArgs {
    /// Seals all of it: 64 hex digits, such as `openssl rand -hex 32` makes; keep it elsewhere
    #[arg(long, value_name = "FILE", env = "ASKWHEN_BACKUP_KEY_FILE")]
    key_file: PathBuf,
}

fn read_key(path: &Path) -> Result<ClusterKey, Failure> {
    let text = std::fs::read(path).map_err(|e| Failure::usage(format!("--key-file {}: {e}", path.display())))?;
    ClusterKey::parse(&String::from_utf8_lossy(&text)).ok_or_else(|| {
        let make = "make one with `openssl rand -hex 32`";
        Failure::usage(format!("--key-file {} must hold 64 hex digits: {make}", path.display()))
    })
}

pub async fn run(context: &Context, config_file: Option<PathBuf>, args: BackupArgs) -> Result<(), Failure> {
    let config = context.config.clone();
    match args.what {
        BackupCommand::Create { url, key, server } => {
            let key = read_key(&key.key_file)?;
            let cut = if config.kafka { None } else { Some(cut(context, &server).await?) };
            let (place, bar) = (url.clone(), bar());
            let shown = bar.clone();
            let made = blocking(move || {
                let mut progress = progress(&shown);
                backup::create(&config, &place, &key, cut.as_ref(), config_file.as_deref(), &mut progress)
            });
            let made = made.await;
            bar.finish_and_clear();
            let made = made?;
            let text = format!(
                "{} is in {url}: {} bytes of log, {} snapshots",
                made.name,
                made.bytes(),
                made.summary()["snapshots"]
            );
            output::answer(context.format, &made.summary(), &text);
        }
        BackupCommand::Verify { url, name, key_file } => {
            let key = key_file.as_deref().map(read_key).transpose()?;
            let (opened, bar) = (key.is_some(), bar());
            let shown = bar.clone();
            let verified = blocking(move || {
                let (bucket, manifest) = backup::find(&url, name.as_deref())?;
                backup::verify(&bucket, &manifest, key.as_ref(), &mut progress(&shown))?;
                Ok(manifest)
            });
            let verified = verified.await;
            bar.finish_and_clear();
            let mut summary = verified?.summary();
            summary["secrets_opened"] = opened.into();
            let secrets = if opened { "and the secrets open" } else { "the secrets were not tried: give --key-file" };
            let text = format!("{} is as it was written; {secrets}", summary["name"].as_str().unwrap_or_default());
            output::answer(context.format, &summary, &text);
        }
        BackupCommand::Restore { url, name, key } => {
            let key = read_key(&key.key_file)?;
            let bar = bar();
            let (shown, data_dir) = (bar.clone(), config.data_dir.clone());
            let restored = blocking(move || {
                let (bucket, manifest) = backup::find(&url, name.as_deref())?;
                let configuration = backup::restore(&bucket, &manifest, &key, &data_dir, &mut progress(&shown))?;
                Ok((manifest, configuration))
            });
            let restored = restored.await;
            bar.finish_and_clear();
            let (manifest, configuration) = restored?;
            let data_dir = config.data_dir.display();
            let configuration = configuration.map(|path| path.display().to_string());
            let mut summary = manifest.summary();
            (summary["data_dir"], summary["configuration"]) =
                (data_dir.to_string().into(), configuration.clone().into());
            if context.format == Format::Json {
                output::json(&summary);
                return Ok(());
            }
            output::line(&format!("{} is restored to {data_dir}", manifest.name));
            if let Some(path) = configuration {
                output::line(&format!("the configuration that it ran with is in {path}: look at it, then use it"));
            }
            if manifest.log_kind == "kafka" {
                output::line(
                    "it was on Kafka and is now an embedded log: serve it here, or bring it to brokers with `askwhen export`",
                );
            }
            output::line("the machine that it was taken on must not go on: both would send the same webhooks");
        }
    }
    Ok(())
}

/// The cut of a backup: a running server makes it, else it is taken from the directory.
async fn cut(context: &Context, server: &ServerArgs) -> Result<BackupPoint, Failure> {
    let config = context.config.clone();
    if let Some(cut) = blocking(move || backup::cut_at_rest(&config)).await? {
        return Ok(cut);
    }
    let client = Client::new(context, server, Kind::Admin)?;
    let summary = client.expect(Method::POST, "/v1/snapshots", None).await?;
    let names = summary["snapshots"].as_array().into_iter().flatten();
    let snapshots = names.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
    let ends: BTreeMap<String, u64> = serde_json::from_value(summary["ends"].clone())
        .map_err(|_| Failure::failed("the server does not say how far its log goes: is it of another version?"))?;
    Ok(BackupPoint { snapshots, ends })
}

/// A progress bar on standard error, on a terminal only.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{msg:20} {wide_bar} {percent}%, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn progress(bar: &ProgressBar) -> impl FnMut(&'static str, u64, u64) + Send + use<> {
    let bar = bar.clone();
    move |what, done, all| {
        bar.set_message(what);
        bar.set_length(all);
        bar.set_position(done);
    }
}
