//! `askwhen doctor`: checks whether askwhen can run here, and whether it does.

use clap::Args;
use reqwest::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

use super::client::Client;
use super::context::{BrokerArgs, Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;
use crate::config::Config;
use crate::supervisor::{self, checkup, repair};
use askwhen_domain::time::format_time;
use askwhen_log::embedded::free_mark_bytes;
use askwhen_log::kafka::{Check, Finding};
use askwhen_wire::record::AcceptLoss;

/// Free space below which the doctor warns.
const COMFORTABLE_BYTES: u64 = 1 << 30;

/// How long a name may take to be looked up.
const LOOKUP: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub brokers: BrokerArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// This machine's clock is right, and the journal's time came from one that was
    /// not: let it go on from this machine's. The server must be stopped
    #[arg(long)]
    accept_time: bool,
    /// Records are gone for good that the state was not made of yet: let it go on
    /// behind them. Run it where the state is
    #[arg(long, conflicts_with = "accept_time")]
    accept_loss: bool,
}

pub async fn run(context: &Context, args: &DoctorArgs) -> Result<(), Failure> {
    if args.accept_time {
        return accept_time(context).await;
    }
    if args.accept_loss {
        return accept_loss(context).await;
    }
    let args = &args.server;
    let mut checks: Vec<Check> = Vec::new();
    let dir = &context.config.data_dir;
    let existing = dir.ancestors().find(|p| p.exists()).map_or_else(|| ".".into(), |p| p.to_owned());
    let existing = if existing.as_os_str().is_empty() { ".".into() } else { existing };
    match rustix::fs::statvfs(&existing) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let text = format!(
                "{} MiB free for {} (read-only below {} MiB)",
                free >> 20,
                dir.display(),
                free_mark_bytes(stat.f_blocks * stat.f_frsize) >> 20
            );
            checks.push(check("disk", free > COMFORTABLE_BYTES, text));
        }
        Err(error) => checks.push(check("disk", false, format!("{}: {error}", existing.display()))),
    }
    let started = std::time::Instant::now();
    let synced = tempfile_sync(&existing);
    let text = match &synced {
        Ok(()) => format!("writing and syncing takes {:.1} ms", started.elapsed().as_secs_f64() * 1_000.0),
        Err(error) => format!("{} cannot be written: {error}", existing.display()),
    };
    checks.push(check("sync", synced.is_ok(), text));
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    checks.push(check("files", files >= 4_096, format!("{files} files may be open at once (4096 or more are wanted)")));
    checks.extend(exposed(&context.config));
    let config = context.config.clone();
    let offline = tokio::task::spawn_blocking(move || checkup::checkups(&config)).await;
    checks.extend(offline.map_err(|e| Failure::failed(e.to_string()))?);
    checks.push(Check { name: "server", finding: readiness(context, args).await });
    let receivers = receivers(context, args).await;
    checks.extend(receivers.map(|finding| Check { name: "receivers", finding }));
    let is_sound = |check: &Check| matches!(check.finding, Finding::Sound(_));
    let all_sound = checks.iter().all(is_sound);
    if context.format == Format::Json {
        let row = |check: &Check| json!({"check": check.name, "ok": is_sound(check), "detail": check.finding.text()});
        output::json(&json!({"ok": all_sound, "checks": checks.iter().map(row).collect::<Vec<_>>()}));
    } else {
        let row = |check: &Check| {
            let state = if is_sound(check) { "ok" } else { "look" };
            vec![check.name.into(), state.into(), check.finding.text().into()]
        };
        output::table(&["CHECK", "STATE", "WHAT"], &checks.iter().map(row).collect::<Vec<_>>());
    }
    if all_sound { Ok(()) } else { Err(Failure::failed("something needs a look")) }
}

fn check(name: &'static str, is_sound: bool, text: String) -> Check {
    Check { name, finding: if is_sound { Finding::Sound(text) } else { Finding::Faulty(text) } }
}

async fn readiness(context: &Context, args: &ServerArgs) -> Finding {
    let client = match Client::new(context, args, Kind::Client) {
        Ok(client) => client,
        Err(failure) => return Finding::Faulty(failure.text),
    };
    match client.call(Method::GET, "/readyz", None).await {
        Err(failure) => Finding::Faulty(failure.text),
        Ok(answer) if answer.status == 200 => Finding::Sound("the server is ready".into()),
        Ok(answer) => Finding::Faulty(format!("the server is not ready: {}", answer.body["reasons"])),
    }
}

/// Looks the names of all receivers up, as this machine knows them; `None` where no server
/// says which there are.
async fn receivers(context: &Context, args: &ServerArgs) -> Option<Finding> {
    let client = Client::new(context, args, Kind::Admin).ok()?;
    let (mut names, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let path = format!("/v1/endpoints?limit=200{cursor}");
        let answer = client.call(Method::GET, &path, None).await.ok().filter(|answer| answer.status == 200)?;
        let urls =
            answer.body["endpoints"].as_array()?.iter().filter_map(|row| url::Url::parse(row["url"].as_str()?).ok());
        names.extend(urls.filter_map(|url| url.domain().map(str::to_owned)));
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut unknown = Vec::new();
    for name in &names {
        #[expect(clippy::disallowed_methods, reason = "nothing is sent there, and the deadline is around it")]
        let asked = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((name.as_str(), 443))).await;
        if !asked.is_ok_and(|found| found.is_ok()) {
            unknown.push(name.as_str());
        }
    }
    Some(match &unknown[..] {
        [] => Finding::Sound(format!("the names of {} receivers are known here", names.len())),
        unknown => Finding::Faulty(format!("no address is known here for {}", unknown.join(", "))),
    })
}

/// Checks what other machines may do.
fn exposed(config: &Config) -> [Check; 2] {
    let is_public = supervisor::is_public(config);
    let identity = match supervisor::keys_in_force(config) {
        Err(error) => Finding::Sound(format!("no keys yet: {error}")),
        Ok(keys) => {
            let open: Vec<&str> = supervisor::unsigned_projects(config, &keys).into_iter().collect();
            let text = match open.is_empty() {
                true => "client keys act for users that a backend has signed for".to_owned(),
                false => format!(
                    "without [[projects]] identity_secret whoever has a client key may act as any user: {}",
                    open.join(", ")
                ),
            };
            if open.is_empty() || !is_public { Finding::Sound(text) } else { Finding::Faulty(text) }
        }
    };
    let metrics = match (supervisor::has_open_metrics(config), &config.admin_listen) {
        (true, _) => {
            Finding::Faulty(format!("/metrics and operators' routes are on {}: set [http] admin_listen", config.listen))
        }
        (false, Some(listen)) => Finding::Sound(format!("operators' routes are on {listen} alone")),
        (false, None) => Finding::Sound(format!("{} is reached from this machine alone", config.listen)),
    };
    [Check { name: "identity", finding: identity }, Check { name: "operators", finding: metrics }]
}

/// Lets the journal's time go on from this machine's clock.
async fn accept_time(context: &Context) -> Result<(), Failure> {
    if repair::is_served(&context.config) {
        return Err(Failure::refused(format!(
            "a server runs on {}: stop it, then accept the time, then start it",
            context.config.data_dir.display()
        )));
    }
    let config = context.config.clone();
    let done = tokio::task::spawn_blocking(move || repair::accept_time(&config)).await;
    let accepted = done.map_err(|e| Failure::failed(e.to_string()))?.map_err(super::serve::failure)?;
    let newest = accepted.newest.map(format_time);
    if context.format == Format::Json {
        output::json(&json!({"now": format_time(accepted.now), "newest": newest, "partitions": accepted.partitions}));
        return Ok(());
    }
    if let Some(newest) = newest {
        output::line(&format!("the newest record of the log is of {newest}"));
    }
    output::line(&format!(
        "the time of {} partitions goes on from {}, by a record in each of their journals; start the server",
        accepted.partitions,
        format_time(accepted.now)
    ));
    Ok(())
}

/// Lets state go on behind lost records.
async fn accept_loss(context: &Context) -> Result<(), Failure> {
    if repair::is_served(&context.config) {
        let dir = context.config.data_dir.display();
        return Err(Failure::refused(format!("a server runs on {dir}: stop it, then accept the loss, then start it")));
    }
    let config = context.config.clone();
    let done = tokio::task::spawn_blocking(move || repair::accept_loss(&config)).await;
    let losses = done.map_err(|e| Failure::failed(e.to_string()))?.map_err(super::serve::failure)?;
    if context.format == Format::Json {
        let row = |loss: &AcceptLoss| json!({"topic": loss.topic, "partition": loss.partition, "from": loss.from, "to": loss.to});
        output::json(&json!({"lost": losses.iter().map(row).collect::<Vec<_>>()}));
        return Ok(());
    }
    for AcceptLoss { topic, partition, from, to, .. } in &losses {
        output::line(&format!(
            "{topic}/{partition}: {} records are lost, from {from} up to, and without, {to}; the state goes on at {to}",
            to - from
        ));
    }
    if losses.is_empty() {
        output::line("no records are missing that state is still to be made of: nothing was written");
    }
    Ok(())
}

fn tempfile_sync(dir: &std::path::Path) -> std::io::Result<()> {
    let path = dir.join(format!(".askwhen-doctor-{}", std::process::id()));
    let written = std::fs::File::create(&path).and_then(|mut file| {
        use std::io::Write as _;
        file.write_all(&[0; 4_096])?;
        file.sync_data()
    });
    written.and(std::fs::remove_file(&path))
}
