//! `askwhen doctor`: whether this place can run askwhen, and whether it does.

use reqwest::Method;
use serde_json::json;

use super::client::Client;
use super::{Context, Failure, Format, ServerArgs, output};
use crate::log::embedded::free_mark_bytes;

/// Free space below which the doctor warns.
const COMFORTABLE_BYTES: u64 = 1 << 30;

pub async fn run(context: &Context, args: &ServerArgs) -> Result<(), Failure> {
    let mut checks: Vec<(&str, bool, String)> = Vec::new();
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
            checks.push(("disk", free > COMFORTABLE_BYTES, text));
        }
        Err(error) => checks.push(("disk", false, format!("{}: {error}", existing.display()))),
    }
    let started = std::time::Instant::now();
    let synced = tempfile_sync(&existing);
    let text = match &synced {
        Ok(()) => format!("writing and syncing takes {:.1} ms", started.elapsed().as_secs_f64() * 1_000.0),
        Err(error) => format!("{} cannot be written: {error}", existing.display()),
    };
    checks.push(("sync", synced.is_ok(), text));
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    checks.push(("files", files >= 4_096, format!("{files} files may be open at once (4096 or more are wanted)")));
    let server = Client::new(context, args, crate::bridge::auth::Kind::Client);
    let ready = match server {
        Err(failure) => (false, failure.text),
        Ok(client) => match client.call(Method::GET, "/readyz", None).await {
            Err(failure) => (false, failure.text),
            Ok(said) if said.status == 200 => (true, "the server is ready".into()),
            Ok(said) => (false, format!("the server is not ready: {}", said.body["reasons"])),
        },
    };
    checks.push(("server", ready.0, ready.1));
    let well = checks.iter().all(|(_, well, _)| *well);
    if context.format == Format::Json {
        let rows: Vec<_> =
            checks.iter().map(|(name, well, text)| json!({"check": name, "ok": well, "detail": text})).collect();
        output::json(&json!({"ok": well, "checks": rows}));
    } else {
        let rows: Vec<Vec<String>> = checks
            .iter()
            .map(|(name, well, text)| vec![(*name).into(), if *well { "ok" } else { "look" }.into(), text.clone()])
            .collect();
        output::table(&["CHECK", "STATE", "WHAT"], &rows);
    }
    if well { Ok(()) } else { Err(Failure::failed("something needs a look")) }
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
