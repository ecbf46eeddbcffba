//! `askwhen import`: history from a file into the journal, with its original
//! times. It can be stopped at any moment and run again: what was acknowledged
//! is noted beside the file, and ids make what was not be taken once.

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{Client, Said, problem};
use super::{Context, Failure, Format, ServerArgs, output};
use crate::bridge::auth::Kind;
use crate::domain::rate::Rate;
use crate::wire::json as strict;

/// Sent at a time, within what the server takes in one request.
const BATCH_LINES: usize = 1_000;
const BATCH_BYTES: usize = 900 << 10;
/// Nothing longer is an event.
const MAX_LINE_BYTES: usize = 64 << 10;
/// The engine may be so far behind before more is sent.
const MAX_LAG_SECONDS: f64 = 1.0;
const PAUSE: Duration = Duration::from_millis(250);
/// A server that takes nothing for so long is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(300);
/// By its first bytes a file is told from another of the same name.
const HEAD_BYTES: u64 = 4 << 10;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Events, one to a line (.ndjson), or a table with a header (.csv); - is standard input
    file: PathBuf,
    /// What the file is, where its name does not say so
    #[arg(long, value_enum)]
    format: Option<Kept>,
    /// Where wrong lines go [default: FILE.rejects.ndjson]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// How many events at most in a span, such as 5000/s
    #[arg(long, value_parser = rate)]
    rate: Option<Rate>,
    /// Begin anew, although the file has been imported, or a part of it
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kept {
    Ndjson,
    Csv,
}

fn rate(text: &str) -> Result<Rate, String> {
    Rate::parse(text).map_err(str::to_owned)
}

/// How far an import is; kept beside the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Hash of the file's beginning.
    head: String,
    offset: u64,
    line: u64,
    accepted: u64,
    rejected: u64,
    done: bool,
}

/// A line that may be sent.
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
        Failure::usage(format!("{name}: give --format ndjson or --format csv: the name does not say what it is"))
    })?;
    let beside = |ending: &str| PathBuf::from(format!("{}{ending}", if is_stdin { "stdin" } else { &name }));
    let notes = (!is_stdin).then(|| beside(".import.json"));
    let rejects = args.rejects.clone().unwrap_or_else(|| beside(".rejects.ndjson"));
    let (source, size, head) = open(&args.file, is_stdin)?;
    let mut progress = notes.as_deref().filter(|_| !args.again).map_or(Ok(None), noted)?.unwrap_or_default();
    if !progress.head.is_empty() && progress.head != head {
        return Err(Failure::usage(format!("{name} is another file than the one imported before: give --again")));
    }
    progress.head = head;
    if progress.done {
        tell(context, &progress, &rejects, "was imported before; --again does it once more");
        return Ok(());
    }
    let bar = bar(size);
    let mut import = Import { client, args, notes, rejects: rejects.clone(), progress, bar, base: base_name(&name) };
    let outcome = match kept {
        Kept::Ndjson => import.lines(source).await,
        Kept::Csv => import.table(source).await,
    };
    import.bar.finish_and_clear();
    if let Err(failure) = outcome {
        let noted = if is_stdin { "" } else { "; run it again, and it goes on" };
        let Failure { code, text } = failure;
        return Err(Failure { code, text: format!("{name}, line {}: {text}{noted}", import.progress.line + 1) });
    }
    import.progress.done = true;
    import.note()?;
    tell(context, &import.progress, &rejects, "are in the journal");
    match import.progress.rejected {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} lines were wrong; they are in {}", rejects.display()))),
    }
}

fn tell(context: &Context, progress: &Progress, rejects: &Path, what: &str) {
    let Progress { line, accepted, rejected, .. } = progress;
    match context.format {
        Format::Json => {
            let file = (*rejected > 0).then(|| rejects.display().to_string());
            output::json(&json!({"lines": line, "accepted": accepted, "rejected": rejected, "rejects": file}));
        }
        Format::Text => output::line(&format!("{accepted} events of {line} lines {what}")),
    }
}

fn by_name(path: &Path) -> Option<Kept> {
    match path.extension()?.to_str()? {
        "ndjson" | "jsonl" => Some(Kept::Ndjson),
        "csv" => Some(Kept::Csv),
        _ => None,
    }
}

fn base_name(name: &str) -> String {
    Path::new(name).file_name().map_or_else(|| name.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The file, its size, and a hash of its beginning.
fn open(path: &Path, is_stdin: bool) -> Result<(Option<File>, Option<u64>, String), Failure> {
    if is_stdin {
        return Ok((None, None, "stdin".into()));
    }
    let unreadable = |e: std::io::Error| Failure::usage(format!("{}: cannot be read: {e}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let mut head = Vec::new();
    (&mut file).take(HEAD_BYTES).read_to_end(&mut head).map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    Ok((Some(file), Some(size), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&head))))
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
    // On a terminal alone.
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
    /// The file's own name: ids are made of it where lines have none.
    base: String,
}

impl Import<'_> {
    async fn lines(&mut self, file: Option<File>) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::failed(format!("cannot be read: {e}"));
        let mut reader: Box<dyn std::io::BufRead> = match file {
            Some(mut file) => {
                file.seek(SeekFrom::Start(self.progress.offset)).map_err(failed)?;
                Box::new(BufReader::new(file))
            }
            None => Box::new(BufReader::new(std::io::stdin())),
        };
        let (mut offset, mut number) = (self.progress.offset, self.progress.line);
        let mut batch = Vec::new();
        let mut wrong = Vec::new();
        let mut bytes = 0;
        loop {
            let mut text = Vec::new();
            let read = (&mut reader).take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut text).map_err(failed)?;
            let ended = text.last() == Some(&b'\n');
            let mut skipped = 0;
            if read > MAX_LINE_BYTES && !ended {
                skipped = skip_line(&mut *reader).map_err(failed)?;
            }
            if read > 0 {
                number += 1;
                let text = String::from_utf8_lossy(&text).trim_end_matches(['\n', '\r']).to_owned();
                let judged =
                    if skipped > 0 { Err("the line has more than 64 KiB".into()) } else { self.event(number, &text) };
                match judged {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        bytes += event.get().len();
                        batch.push(Line { number, text, event });
                    }
                    Err(why) => wrong.push((number, why, text)),
                }
            }
            offset += (read + skipped) as u64;
            if read == 0 || batch.len() >= BATCH_LINES || bytes >= BATCH_BYTES {
                self.flush(std::mem::take(&mut batch), std::mem::take(&mut wrong), (offset, number)).await?;
                bytes = 0;
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    async fn table(&mut self, file: Option<File>) -> Result<(), Failure> {
        let input: Box<dyn Read> = match file {
            Some(file) => Box::new(file),
            None => Box::new(std::io::stdin()),
        };
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::new(input));
        let unfit = |e: csv::Error| Failure::usage(format!("the header cannot be read: {e}"));
        let header: Vec<String> = reader.headers().map_err(unfit)?.iter().map(|name| name.trim().to_owned()).collect();
        for needed in ["user_id", "event_name", "occurred_at"] {
            if !header.iter().any(|name| name == needed) {
                return Err(Failure::usage(format!("the header has no column {needed}")));
            }
        }
        let (mut batch, mut wrong, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut record = csv::StringRecord::new();
        loop {
            let number = reader.position().line();
            let more = match reader.read_record(&mut record) {
                Ok(more) => more,
                Err(error) if error.is_io_error() => return Err(Failure::failed(format!("cannot be read: {error}"))),
                Err(error) => {
                    wrong.push((number, error.to_string(), String::new()));
                    continue;
                }
            };
            let (offset, end) = (reader.position().byte(), reader.position().line());
            // What was acknowledged before is passed over.
            if more && offset > self.progress.offset {
                let text = row(&header, &record);
                match text.and_then(|text| Ok((self.event(number, &text)?, text))) {
                    Ok((Some(event), text)) => {
                        bytes += event.get().len();
                        batch.push(Line { number, text, event });
                    }
                    Ok((None, _)) => {}
                    Err(why) => wrong.push((number, why, record.iter().collect::<Vec<_>>().join(","))),
                }
            }
            if !more || batch.len() >= BATCH_LINES || bytes >= BATCH_BYTES {
                let lines = end.saturating_sub(1);
                self.flush(std::mem::take(&mut batch), std::mem::take(&mut wrong), (offset, lines)).await?;
                bytes = 0;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// The event of a line as it is sent: with its own time, under its own id or
    /// one made of file and line. Nothing of an empty line.
    fn event(&self, number: u64, text: &str) -> Result<Option<Box<RawValue>>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let checked = strict::check(text.as_bytes()).map_err(|e| e.to_string())?;
        let members: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(checked).map_err(|_| "the line is no JSON object".to_owned())?;
        let mut members: Vec<(String, Box<RawValue>)> = members.into_iter().collect();
        let has = |members: &[(String, Box<RawValue>)], name: &str| {
            members.iter().any(|(member, value)| member == name && value.get() != "null")
        };
        if !has(&members, "occurred_at") {
            return Err("occurred_at is required: history has times".into());
        }
        // When a device sent it says nothing about now.
        members.retain(|(name, _)| name != "sent_at");
        if !has(&members, "event_id") {
            members.retain(|(name, _)| name != "event_id");
            let hash = xxhash_rust::xxh3::xxh3_128(format!("{}\0{number}\0{text}", self.base).as_bytes());
            let id = RawValue::from_string(format!("\"imp-{hash:032x}\"")).map_err(|e| e.to_string())?;
            members.push(("event_id".into(), id));
        }
        let written: Vec<String> =
            members.iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), value.get())).collect();
        RawValue::from_string(format!("{{{}}}", written.join(","))).map(Some).map_err(|e| e.to_string())
    }

    /// Sends what has been gathered, and notes that it is in.
    async fn flush(
        &mut self,
        batch: Vec<Line>,
        mut wrong: Vec<(u64, String, String)>,
        (offset, line): (u64, u64),
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
        (self.progress.offset, self.progress.line) = (offset, line);
        self.bar.set_position(offset);
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

    /// Whole or not at all.
    fn note(&self) -> Result<(), Failure> {
        let Some(path) = &self.notes else { return Ok(()) };
        let new = PathBuf::from(format!("{}.new", path.display()));
        let bytes = serde_json::to_vec(&self.progress).expect("it serialises");
        let noted = std::fs::write(&new, bytes).and_then(|()| std::fs::rename(&new, path));
        noted.map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
    }

    /// What the server would not take, by its place in the batch.
    async fn send(&self, batch: &[Line]) -> Result<Vec<(usize, String)>, Failure> {
        let events: Vec<&str> = batch.iter().map(|line| line.event.get()).collect();
        let body = format!("{{\"events\":[{}]}}", events.join(","));
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let outcome = self.client.post_text("/v1/events", &body).await;
            let late = std::time::Instant::now() >= deadline;
            match outcome {
                Ok(said) if said.status == 202 => return Ok(Vec::new()),
                Ok(said) if said.status == 207 => return Ok(refused(&said)),
                // Under the same ids it can be sent again.
                Ok(said) if matches!(said.status, 429 | 503) && !late => tokio::time::sleep(PAUSE * 4).await,
                Ok(said) => return Err(Failure::failed(problem(&said))),
                Err(_) if !late => tokio::time::sleep(PAUSE * 4).await,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Live traffic comes first: waits while the engine is behind.
    async fn wait_for_engine(&self) -> Result<(), Failure> {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            let said = self.client.text("/metrics").await;
            let lag = said.ok().map_or(0.0, |text| {
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

/// The rest of a line that is too long; gives how many bytes.
fn skip_line(reader: &mut dyn std::io::BufRead) -> std::io::Result<usize> {
    let mut skipped = 0;
    loop {
        let here = reader.fill_buf()?;
        if here.is_empty() {
            return Ok(skipped);
        }
        let (used, ended) = match here.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (here.len(), false),
        };
        reader.consume(used);
        skipped += used;
        if ended {
            return Ok(skipped);
        }
    }
}

/// A row as an event: columns that are no member of an event are properties,
/// numbers, `true` and `false` as such.
fn row(header: &[String], record: &csv::StringRecord) -> Result<String, String> {
    if record.len() != header.len() {
        return Err(format!("the row has {} columns, the header {}", record.len(), header.len()));
    }
    let mut event: Vec<String> = Vec::new();
    let mut properties: Vec<String> = Vec::new();
    for (name, text) in header.iter().zip(record).filter(|(_, text)| !text.is_empty()) {
        let named = |value: String| format!("{}:{value}", Value::from(name.trim_start_matches("properties.")));
        match name.as_str() {
            "user_id" | "event_name" | "event_id" | "occurred_at" => event.push(named(Value::from(text).to_string())),
            "properties" => {
                let given: Map<String, Value> = serde_json::from_str(text).map_err(|e| format!("properties: {e}"))?;
                let members = given.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
                properties.extend(members);
            }
            _ => {
                let plain = serde_json::from_str::<Value>(text).ok().filter(|v| v.is_number() || v.is_boolean());
                properties.push(named(plain.unwrap_or_else(|| text.into()).to_string()));
            }
        }
    }
    event.push(format!("\"properties\":{{{}}}", properties.join(",")));
    Ok(format!("{{{}}}", event.join(",")))
}

fn refused(said: &Said) -> Vec<(usize, String)> {
    let results = said.body["results"].as_array().into_iter().flatten();
    let bad = results.filter(|result| result["status"].as_u64().is_none_or(|status| status >= 300));
    bad.filter_map(|result| {
        let (index, problem) = (result["index"].as_u64()?, &result["problem"]);
        let detail = problem["detail"].as_str().unwrap_or("it was not taken");
        Some((usize::try_from(index).ok()?, format!("{}: {detail}", problem["code"].as_str().unwrap_or_default())))
    })
    .collect()
}
