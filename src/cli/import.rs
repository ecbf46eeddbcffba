//! `askwhen import`: appends history from a file to the journal, with its original times.
//! It can be stopped at any moment and run again: a file beside it notes what was
//! acknowledged, and event ids keep the rest from being counted twice.

mod lines;

#[cfg(debug_assertions)]
pub use lines::try_table;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{ApiResponse, Client, problem};
use super::context::{Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;
use askwhen_domain::time;
use askwhen_domain::webhook::rate::Rate;
use askwhen_wire::json as strict;
use lines::{Header, LineError, Lines, Text, alias_of, cells, header, row};

/// Lines and bytes of one request, within the server's limits.
const BATCH_LINES: usize = 1_000;
const BATCH_BYTES: usize = 900 << 10;
/// Nothing more is sent while the engine is further behind.
const MAX_LAG_SECONDS: f64 = 1.0;
const PAUSE: Duration = Duration::from_millis(250);
/// How long a server that takes nothing is waited for.
const MAX_SERVER_WAIT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Events, one to a line (.ndjson), or a table with a header (.csv, .tsv), also packed by gzip (.gz); - is standard input
    file: PathBuf,
    /// What the file is, where its name does not say so
    #[arg(long, value_enum)]
    format: Option<ImportFormat>,
    /// What stands between the cells of a table, such as ; or tab [default: found out]
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Where wrong lines go [default: FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// How many events at most in a span, such as 5000/s
    #[arg(long)]
    rate: Option<Rate>,
    /// Begin anew, although the file has been imported, or a part of it
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    Ndjson,
    Csv,
}

/// How far an import is, as JSON in a file beside the imported one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Base URL of the server that it goes to.
    server: String,
    /// Hash of everything up to `offset`.
    hash: String,
    offset: u64,
    line: u64,
    accepted: u64,
    rejected: u64,
    /// Lines that are no event of their own: the header, empty ones, and all lines of a row
    /// but its first. `None` when an earlier version began the import.
    #[serde(default)]
    other: Option<u64>,
    /// Size of the file when it was done, if it is packed: `offset` counts unpacked bytes.
    #[serde(default)]
    packed_bytes: Option<u64>,
    done: bool,
}

impl Progress {
    /// Whether the whole file has been read.
    fn adds_up(&self) -> bool {
        self.other.is_none_or(|other| self.accepted + self.rejected + other == self.line)
    }
}

/// How far the file has been read: bytes, lines, and a hash of those bytes.
struct ReadUpTo {
    offset: u64,
    line: u64,
    hash: u128,
}

/// A line that is an event.
struct Line {
    number: u64,
    text: String,
    event: Box<RawValue>,
}

pub async fn run(context: &Context, args: &ImportArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Server)?;
    let is_stdin = args.file.as_os_str() == "-";
    let name = if is_stdin { "stdin".to_owned() } else { args.file.display().to_string() };
    let kept = args.format.or_else(|| by_name(&args.file)).ok_or_else(|| {
        Failure::usage(format!(
            "{name}: give --format ndjson (one event on a line) or --format csv: the name does not say what it is"
        ))
    })?;
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", if is_stdin { "stdin" } else { &name }));
    let notes = (!is_stdin).then(|| beside(".import.json"));
    let rejects = args.rejects.clone().unwrap_or_else(|| beside(".rejects.ndjson"));
    let source = open(&args.file, is_stdin)?;
    let size = source.as_ref().and_then(|file| Some(file.metadata().ok()?.len()));
    let is_packed = args.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    check_rejects(&args.file, &rejects)?;
    let begun = notes.as_deref().filter(|_| !args.again).map_or(Ok(None), noted)?;
    let mut progress = begun.unwrap_or_else(|| Progress { other: Some(0), ..Progress::default() });
    if !progress.server.is_empty() {
        check_same(&name, &progress, client.base())?;
    }
    client.base().clone_into(&mut progress.server);
    // A server that cannot be reached at all is an error at once, not after a wait.
    client.text("/livez").await?;
    if progress.done && size == Some(progress.packed_bytes.unwrap_or(progress.offset)) {
        return finish(context, &progress, &rejects, "were imported before; --again does it once more");
    }
    progress.done = false;
    let bar = bar(size.filter(|_| !is_packed));
    let mut import = Import { client, args, notes, rejects: rejects.clone(), progress, bar, base: base_name(&name) };
    let outcome = import.run(kept, source).await;
    import.bar.finish_and_clear();
    if let Err(Failure { code, text }) = outcome {
        let again = if code == 4 && !is_stdin { "; run it again, and it goes on" } else { "" };
        let behind = match import.progress.line {
            0 => String::new(),
            line => format!(", behind line {line}"),
        };
        return Err(Failure { code, text: format!("{name}{behind}: {text}{again}") });
    }
    import.progress.done = true;
    import.progress.packed_bytes = size.filter(|_| is_packed);
    import.note()?;
    if !import.progress.adds_up() {
        return Err(Failure::failed(format!("{name}: not every line is accounted for: {:?}", import.progress)));
    }
    finish(context, &import.progress, &rejects, "are in the journal")
}

fn finish(context: &Context, progress: &Progress, rejects: &Path, what: &str) -> Result<(), Failure> {
    report(context, progress, rejects, what);
    match progress.rejected {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} lines were wrong; they are in {}", rejects.display()))),
    }
}

/// Refuses a file of rejects that holds something else.
fn check_rejects(file: &Path, rejects: &Path) -> Result<(), Failure> {
    let same = std::fs::canonicalize(file).ok().zip(std::fs::canonicalize(rejects).ok()).is_some_and(|(a, b)| a == b);
    if same {
        return Err(Failure::usage("--rejects names the file that is imported"));
    }
    let Ok(known) = File::open(rejects) else { return Ok(()) };
    let mut first = String::new();
    let read = BufReader::new(known).read_line(&mut first);
    let ours = serde_json::from_str::<Value>(&first)
        .is_ok_and(|line| line.get("line").is_some() && line.get("error").is_some());
    if read.is_ok() && (first.is_empty() || ours) {
        return Ok(());
    }
    Err(Failure::usage(format!("{} is there and holds no rejects: give --rejects", rejects.display())))
}

/// Refuses to go on with another file, or with another server, than the import began with.
fn check_same(name: &str, progress: &Progress, server: &str) -> Result<(), Failure> {
    if progress.server != server {
        let known = &progress.server;
        return Err(Failure::usage(format!("{name} was imported to {known}, not to {server}: give --again")));
    }
    let unreadable = |e: std::io::Error| Failure::failed(format!("{name}: cannot be read: {e}"));
    let mut lines = Lines::open(Some(File::open(name).map_err(unreadable)?))?;
    lines.reader = Box::new(lines.reader.take(progress.offset.saturating_sub(lines.offset)));
    lines.skip_to(progress.offset, 0)?;
    let same = lines.offset >= progress.offset && format!("{:032x}", lines.hash.digest128()) == progress.hash;
    if !same {
        return Err(Failure::usage(format!("{name} is another file than the one imported before: give --again")));
    }
    Ok(())
}

fn report(context: &Context, progress: &Progress, rejects: &Path, what: &str) {
    let Progress { line, accepted, rejected, other, .. } = progress;
    match context.format {
        Format::Json => {
            let file = (*rejected > 0).then(|| rejects.display().to_string());
            output::json(&json!({
                "lines": line, "accepted": accepted, "rejected": rejected, "other": other, "rejects": file
            }));
        }
        Format::Text => output::line(&format!("{accepted} events of {line} lines {what}")),
    }
}

/// What `--delimiter` must be.
#[derive(Debug, thiserror::Error)]
#[error("must be one character, such as ; or tab")]
struct DelimiterSyntax;

/// One character, or its name.
fn delimiter(text: &str) -> Result<u8, DelimiterSyntax> {
    match text {
        "tab" | "\\t" => Ok(b'\t'),
        "comma" => Ok(b','),
        "semicolon" => Ok(b';'),
        "pipe" => Ok(b'|'),
        _ => match text.as_bytes() {
            [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"\"\r\n".contains(byte) => Ok(*byte),
            _ => Err(DelimiterSyntax),
        },
    }
}

fn by_name(path: &Path) -> Option<ImportFormat> {
    let unpacked = path.with_extension("");
    let is_packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    let path = if is_packed { &unpacked } else { path };
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "ndjson" | "jsonl" => Some(ImportFormat::Ndjson),
        "csv" | "tsv" => Some(ImportFormat::Csv),
        _ => None,
    }
}

fn base_name(name: &str) -> String {
    Path::new(name).file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Opens the file and locks it against a second import.
fn open(path: &Path, is_stdin: bool) -> Result<Option<File>, Failure> {
    if is_stdin {
        return Ok(None);
    }
    let file = File::open(path).map_err(|e| Failure::usage(format!("{}: cannot be read: {e}", path.display())))?;
    // Some file systems have no locks: there a second import is not noticed.
    if matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
        return Err(Failure::refused(format!("{}: another import of it is under way", path.display())));
    }
    Ok(Some(file))
}

fn noted(path: &Path) -> Result<Option<Progress>, Failure> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::failed(format!("{}: cannot be read: {error}", path.display()))),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::usage(format!("{}: is not what an import notes ({error}): give --again", path.display()))
        }),
    }
}

fn bar(size: Option<u64>) -> ProgressBar {
    // It is drawn on a terminal only.
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg} {binary_bytes_per_sec} {eta}");
    bar.set_style(style.expect("the template is right"));
    bar
}

struct Import<'a> {
    client: Client,
    args: &'a ImportArgs,
    notes: Option<PathBuf>,
    rejects: PathBuf,
    progress: Progress,
    bar: ProgressBar,
    /// The file's name without its folder, of which ids are made where lines have none.
    base: String,
}

impl Import<'_> {
    async fn run(&mut self, kept: ImportFormat, file: Option<File>) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("cannot be read: {e}"));
        let mut lines = Lines::open(file)?;
        let header = match kept {
            ImportFormat::Ndjson => None,
            ImportFormat::Csv => Some(header(&mut lines, self.args.delimiter)?),
        };
        if kept == ImportFormat::Ndjson && self.progress.offset == 0 && lines.is_array().map_err(failed)? {
            return Err(Failure::usage(
                "it holds a list, and an import takes one event on a line: `jq -c '.[]' FILE > FILE.ndjson` makes \
                 such a file of it",
            ));
        }
        // An import that goes on has counted the header already.
        let mut other = if self.progress.offset == 0 { lines.number } else { 0 };
        lines.skip_to(self.progress.offset, self.progress.line)?;
        let (mut batch, mut wrong, mut bytes) = (Vec::new(), Vec::new(), 0);
        loop {
            let next = match &header {
                Some(header) => lines.record(header.shape),
                None => lines.line(),
            };
            let next = next.map_err(failed)?;
            let ended = next.is_none();
            if let Some((number, read)) = next {
                let text = String::from_utf8_lossy(&read.text).into_owned();
                other += read.text.iter().filter(|byte| **byte == b'\n').count() as u64;
                match self.parse(header.as_ref(), number, &read) {
                    Ok(None) => other += 1,
                    Ok(Some(event)) => {
                        bytes += event.get().len();
                        batch.push(Line { number, text, event });
                    }
                    Err(why) => wrong.push((number, why.to_string(), text)),
                }
            }
            // A batch never ends between lines that may belong to one row.
            if ended || ((batch.len() >= BATCH_LINES || bytes >= BATCH_BYTES) && lines.pending.is_empty()) {
                let read = ReadUpTo { offset: lines.offset, line: lines.number, hash: lines.hash.digest128() };
                self.progress.other = self.progress.other.map(|so_far| so_far + std::mem::take(&mut other));
                self.flush(std::mem::take(&mut batch), std::mem::take(&mut wrong), read).await?;
                bytes = 0;
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn parse(&self, header: Option<&Header>, number: u64, read: &Text) -> Result<Option<Box<RawValue>>, LineError> {
        if let Some(fault) = read.fault {
            return Err(LineError::Flaw(fault));
        }
        let text = std::str::from_utf8(&read.text)?;
        match header {
            Some(_) if text.trim().is_empty() => Ok(None),
            Some(header) => {
                let cells = cells(text, header.shape.delimiter)?;
                // Spreadsheets write rows that were emptied, or only ever formatted, as delimiters.
                if cells.iter().all(str::is_empty) {
                    return Ok(None);
                }
                self.event(number, &row(&header.names, &cells)?)
            }
            None => self.event(number, text),
        }
    }

    /// The event of a line as it is sent, with its own id or one made of file and line;
    /// `None` for an empty line.
    fn event(&self, number: u64, text: &str) -> Result<Option<Box<RawValue>>, LineError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let checked = strict::check(text.as_bytes())?;
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(checked).map_err(LineError::NoObject)?;
        let mut members: Vec<(String, Box<RawValue>)> = members.into_iter().collect();
        let has = |members: &[(String, Box<RawValue>)], name: &str| {
            members.iter().any(|(member, value)| member == name && value.get() != "null")
        };
        if !has(&members, "occurred_at") {
            let names = members.iter().map(|(name, _)| name.as_str());
            return Err(LineError::NoTime(alias_of("occurred_at", names).map(str::to_owned)));
        }
        for (_, value) in members.iter_mut().filter(|(name, _)| name == "occurred_at") {
            *value = rfc3339(value);
        }
        // `sent_at` would correct a device's clock against the time of the import.
        members.retain(|(name, _)| name != "sent_at");
        if !has(&members, "event_id") {
            members.retain(|(name, _)| name != "event_id");
            let hash = xxhash_rust::xxh3::xxh3_128(format!("{}\0{number}\0{text}", self.base).as_bytes());
            let id = RawValue::from_string(format!("\"imp-{hash:032x}\""))?;
            members.push(("event_id".into(), id));
        }
        let written: Vec<String> =
            members.iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get())).collect();
        Ok(Some(RawValue::from_string(format!("{{{}}}", written.join(",")))?))
    }

    /// Sends a batch, writes rejects, and notes how far the import is.
    async fn flush(
        &mut self,
        batch: Vec<Line>,
        mut wrong: Vec<(u64, String, String)>,
        read: ReadUpTo,
    ) -> Result<(), Failure> {
        if !batch.is_empty() {
            self.wait_for_engine().await?;
            let refused = self.send(&batch).await?;
            self.progress.accepted += (batch.len() - refused.len()) as u64;
            wrong.extend(refused.into_iter().map(|(i, why)| (batch[i].number, why, batch[i].text.clone())));
            if let Some(rate) = self.args.rate {
                tokio::time::sleep(rate.per * batch.len() as u32 / rate.count.get()).await;
            }
        }
        if !wrong.is_empty() {
            wrong.sort_by_key(|(number, ..)| *number);
            self.progress.rejected += wrong.len() as u64;
            self.keep(&wrong).map_err(|e| Failure::failed(format!("{}: {e}", self.rejects.display())))?;
        }
        (self.progress.offset, self.progress.line) = (read.offset, read.line);
        self.progress.hash = format!("{:032x}", read.hash);
        self.bar.set_position(read.offset);
        self.bar.set_message(format!("{} events, {} wrong", self.progress.accepted, self.progress.rejected));
        self.note()
    }

    fn keep(&self, wrong: &[(u64, String, String)]) -> std::io::Result<()> {
        let first = self.progress.offset == 0;
        let mut file =
            OpenOptions::new().create(true).write(true).append(!first).truncate(first).open(&self.rejects)?;
        for (line, why, text) in wrong {
            writeln!(file, "{}", json!({"line": line, "error": why, "text": text}))?;
        }
        Ok(())
    }

    /// Notes how far the import is, in one step.
    fn note(&self) -> Result<(), Failure> {
        let Some(path) = &self.notes else { return Ok(()) };
        let new = PathBuf::from(format!("{}.new", path.display()));
        let bytes = serde_json::to_vec(&self.progress).expect("it serialises");
        let noted = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path));
        noted.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
    }

    /// Sends a batch; returns the events that the server refused, by index, with its reason.
    async fn send(&self, batch: &[Line]) -> Result<Vec<(usize, String)>, Failure> {
        let events: Vec<&str> = batch.iter().map(|line| line.event.get()).collect();
        let body = format!("{{\"events\":[{}]}}", events.join(","));
        let deadline = std::time::Instant::now() + MAX_SERVER_WAIT;
        loop {
            let outcome = self.client.post_text("/v1/events", &body).await;
            let late = std::time::Instant::now() >= deadline;
            match outcome {
                Ok(answer) if answer.status == 202 => return Ok(Vec::new()),
                Ok(answer) if answer.status == 207 => return Ok(refused(&answer)),
                // The events have ids, so sending them again has no second effect.
                Ok(answer) if matches!(answer.status, 429 | 503) && !late => tokio::time::sleep(PAUSE * 4).await,
                Ok(answer) => return Err(Failure::failed(problem(&answer))),
                Err(_) if !late => tokio::time::sleep(PAUSE * 4).await,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits while the engine is behind, because live traffic comes first.
    async fn wait_for_engine(&self) -> Result<(), Failure> {
        let deadline = std::time::Instant::now() + MAX_SERVER_WAIT;
        while std::time::Instant::now() < deadline {
            let answer = self.client.text("/metrics").await;
            let lag = answer.ok().map_or(0.0, |text| {
                let lags = text.lines().filter(|line| line.starts_with("askwhen_engine_lag_seconds"));
                lags.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).fold(0.0, f64::max)
            });
            if lag <= MAX_LAG_SECONDS {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Failure::failed("the engine stays behind; see askwhen_engine_lag_seconds"))
    }
}

/// Rewrites a time in one of the usual spellings of exports to RFC 3339. Anything else
/// stays as it is, and the server refuses it.
fn rfc3339(given: &RawValue) -> Box<RawValue> {
    let at = match serde_json::from_str::<Value>(given.get()) {
        Ok(Value::String(text)) if time::parse_time(&text).is_err() => time::read_time(text.trim()),
        Ok(Value::Number(number)) => number.as_f64().and_then(time::of_epoch),
        _ => None,
    };
    let spelled = at.and_then(|at| RawValue::from_string(format!("\"{}\"", time::format_time(at))).ok());
    spelled.unwrap_or_else(|| given.to_owned())
}

fn refused(answer: &ApiResponse) -> Vec<(usize, String)> {
    let results = answer.body["results"].as_array().into_iter().flatten();
    let bad = results.filter(|result| result["status"].as_u64().is_none_or(|status| status >= 300));
    bad.filter_map(|result| {
        let (index, problem) = (result["index"].as_u64()?, &result["problem"]);
        let detail = problem["detail"].as_str().unwrap_or("it was not taken");
        Some((usize::try_from(index).ok()?, format!("{}: {detail}", problem["code"].as_str().unwrap_or_default())))
    })
    .collect()
}
