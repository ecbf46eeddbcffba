//! Turns the merged layers into [`Config`], and checks every value.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::{Table, Value};
use url::Url;

use super::{guess, log_filter};
use crate::bridge::auth::{self, Kind};
use crate::bridge::cors::AllowedOrigin;
use askwhen_domain::id;
use askwhen_domain::time::{self, DAY, HOUR, Millis, SECOND};
use askwhen_domain::webhook::rate::Rate;

/// Shorter keys and secrets could be guessed.
pub const LEAST_SECRET_CHARS: usize = 16;
const TOO_SHORT: &str = "must have at least 16 characters that nobody can guess: `openssl rand -hex 24` makes some";
/// The default bound is the machine's memory divided by this.
const MEMORY_DIVISOR: u64 = 4;
/// With less memory, eight partitions cannot work.
const LEAST_MEMORY_BYTES: usize = 128 << 20;

#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: String,
    pub admin_listen: Option<String>,
    pub cors_origins: Vec<AllowedOrigin>,
    /// Where people reach the console, without a slash at its end.
    pub console_url: String,
    /// Empty, or a path such as `/ask`.
    pub base_path: String,
    /// As a policy lists them, with spaces between.
    pub frame_ancestors: String,
    /// Whether every request is logged, not only those that are refused.
    pub access_log: bool,
    pub keep_alive: Duration,
    pub max_connections: u32,
    /// Bound of the connections from one address; `None` where only their total is bounded.
    pub max_connections_per_address: Option<u32>,
    /// Whether `[log] kind` is kafka.
    pub kafka: bool,
    pub partitions: u32,
    pub prefix: String,
    pub brokers: String,
    pub replication: u32,
    /// How records are compressed, by librdkafka's name.
    pub compression: String,
    /// Settings of librdkafka, by their own names.
    pub kafka_client: BTreeMap<String, String>,
    /// `None` is a folder in the data directory.
    pub snapshots_url: Option<String>,
    pub snapshots_every: Duration,
    pub reply_timeout: Duration,
    /// Bound of everything that grows, in bytes.
    pub memory: usize,
    pub max_in_flight: u32,
    pub allow_targets: Vec<IpNet>,
    /// The proxy of all webhooks.
    pub egress_proxy: Option<Url>,
    /// DNS servers for the names of receivers; empty for the machine's own.
    pub nameservers: Vec<SocketAddr>,
    pub retention: Retention,
    pub per_key: Rate,
    pub per_client_user: Rate,
    pub key_file: Option<PathBuf>,
    pub identity_secrets: BTreeMap<String, Vec<String>>,
    pub keys: Vec<Key>,
    /// A level, or filters by module.
    pub log_level: String,
    pub log_format: LogFormat,
    /// All layers merged, for `config print`.
    pub table: Table,
}

/// A duration that stands for ever. It is longer than any record is old, and now minus it
/// is still after 1970.
pub const FOREVER: Millis = 50 * 365 * DAY;

/// How long topics keep their records, in milliseconds, or [`FOREVER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub events: Millis,
    pub decisions: Millis,
    pub responses: Millis,
    pub deliveries: Millis,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
    /// Text on a terminal, else JSON.
    #[value(skip)]
    ByStream,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub project: String,
    pub kind: Kind,
    /// The name of the key, which becomes the actor of changes; by default its kind.
    pub name: String,
    /// SHA-256 of the key itself.
    pub digest: [u8; 32],
    /// The key itself, if the configuration or one of its files contains it.
    pub text: Option<String>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({}, {})", self.project, self.kind.name())
    }
}

/// A dotted key, and what its value must be.
type Fault = (String, String);

struct Section<'a> {
    table: &'a Table,
    path: &'a str,
}

impl<'a> Section<'a> {
    fn of(table: &'a Table, path: &'a str) -> Result<Section<'a>, Fault> {
        match table.get(path) {
            Some(Value::Table(table)) => Ok(Section { table, path }),
            _ => Err((path.to_owned(), "must be a section".into())),
        }
    }

    fn fault<T>(&self, name: &str, detail: impl Into<String>) -> Result<T, Fault> {
        Err((format!("{}.{name}", self.path), detail.into()))
    }

    fn text(&self, name: &str) -> Result<String, Fault> {
        match self.table.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => self.fault(name, "must be a string"),
        }
    }

    fn number(&self, name: &str, low: i64, high: i64) -> Result<u32, Fault> {
        match self.table.get(name) {
            Some(Value::Integer(n)) if (low..=high).contains(n) => Ok(*n as u32),
            _ => self.fault(name, format!("must be an integer from {low} to {high}")),
        }
    }

    fn boolean(&self, name: &str) -> Result<bool, Fault> {
        match self.table.get(name) {
            Some(Value::Boolean(is)) => Ok(*is),
            _ => self.fault(name, "must be true or false"),
        }
    }

    fn span(&self, name: &str, least: Millis) -> Result<Millis, Fault> {
        match time::parse_duration(&self.text(name)?) {
            Ok(span) if span >= least => Ok(span),
            Ok(_) => self.fault(name, format!("must be at least {}", spelled(least))),
            Err(wanted) => self.fault(name, format!("must be {wanted}")),
        }
    }

    /// A duration, or `forever`; `0` and `-1` mean the same, as in Kafka's settings.
    fn span_or_forever(&self, name: &str, least: Millis) -> Result<Millis, Fault> {
        match self.table.get(name) {
            Some(Value::String(text)) if ["forever", "0", "0s", "-1"].contains(&text.as_str()) => Ok(FOREVER),
            Some(Value::Integer(0 | -1)) => Ok(FOREVER),
            _ => self.span(name, least).map(|span| span.min(FOREVER)),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Fault> {
        let list = self.table.get(name).and_then(Value::as_array);
        let texts = list.and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        texts.map_or_else(|| self.fault(name, "must be a list of strings"), Ok)
    }

    /// Where to listen: an address or a host's name, and a port.
    fn address(&self, name: &str) -> Result<String, Fault> {
        let text = self.text(name)?;
        let is_name = |host: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || ['-', '.', '_'].contains(&c);
            !host.is_empty() && host.chars().all(fits) && !host.chars().all(|c| c.is_ascii_digit() || c == '.')
        };
        let is_named = text.rsplit_once(':').is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok());
        if is_named || text.parse::<SocketAddr>().is_ok() {
            return Ok(text);
        }
        self.fault(name, "must be an address and a port such as 127.0.0.1:8080, [::1]:8080 or localhost:8080")
    }

    /// One of a few words.
    fn word(&self, name: &str, known: &[&str]) -> Result<String, Fault> {
        let text = self.text(name)?;
        if known.contains(&text.as_str()) {
            Ok(text)
        } else {
            self.fault(name, format!("must be one of {}", known.join(", ")))
        }
    }

    fn rate(&self, name: &str) -> Result<Rate, Fault> {
        Rate::parse(&self.text(name)?).or_else(|wanted| self.fault(name, wanted))
    }
}

/// A duration in the largest unit that divides it.
fn spelled(span: Millis) -> String {
    match span {
        _ if span % DAY == 0 => format!("{}d", span / DAY),
        _ if span % HOUR == 0 => format!("{}h", span / HOUR),
        _ if span % SECOND == 0 => format!("{}s", span / SECOND),
        _ => format!("{span}ms"),
    }
}

pub fn resolve(table: &Table) -> Result<Config, Fault> {
    let section = |name: &'static str| Section::of(table, name);
    let (http, process) = (section("http")?, section("process")?);
    let (log, kafka_section) = (section("log")?, section("kafka")?);
    let (engine, delivery) = (section("engine")?, section("delivery")?);
    let (snapshots, limits, secrets) = (section("snapshots")?, section("limits")?, section("secrets")?);
    let kafka = is_kafka(&log)?;
    Ok(Config {
        data_dir: data_dir(table)?,
        listen: http.address("listen")?,
        admin_listen: match http.text("admin_listen")?.as_str() {
            "" => None,
            admin if admin == http.text("listen")? && !admin.ends_with(":0") => {
                return http.fault("admin_listen", "is the address of http.listen: give it a port of its own");
            }
            _ => Some(http.address("admin_listen")?),
        },
        cors_origins: cors_origins(&http)?,
        console_url: console_url(&http)?,
        base_path: base_path(&http)?,
        frame_ancestors: frame_ancestors(&http)?,
        log_level: log_level(&process)?,
        log_format: log_format(&process)?,
        access_log: http.boolean("access_log")?,
        keep_alive: Duration::from_millis(http.span("keep_alive", SECOND)?.unsigned_abs()),
        max_connections: http.number("max_connections", 16, 1 << 20)?,
        max_connections_per_address: Some(http.number("max_connections_per_address", 0, 1 << 20)?).filter(|n| *n > 0),
        kafka,
        partitions: log.number("partitions", 1, 1_024)?,
        prefix: prefix(&log)?,
        brokers: brokers(&kafka_section, kafka)?,
        replication: kafka_section.number("replication", 1, 100)?,
        compression: kafka_section.word("compression", &["none", "gzip", "snappy", "lz4", "zstd"])?,
        kafka_client: kafka_client(&kafka_section)?,
        snapshots_url: Some(snapshots.text("url")?).filter(|url| !url.is_empty()),
        snapshots_every: Duration::from_millis(snapshots.span("every", SECOND)?.unsigned_abs()),
        reply_timeout: Duration::from_millis(engine.span("reply_timeout", 1)?.unsigned_abs()),
        memory: memory(&engine)?,
        max_in_flight: delivery.number("max_in_flight", 2, 100_000)?,
        allow_targets: allow_targets(&delivery)?,
        egress_proxy: egress_proxy(&delivery)?,
        nameservers: nameservers(&delivery)?,
        retention: retention(&section("retention")?)?,
        per_key: limits.rate("per_key")?,
        per_client_user: limits.rate("per_client_user")?,
        key_file: Some(secrets.text("key_file")?).filter(|text| !text.is_empty()).map(PathBuf::from),
        identity_secrets: identity_secrets(table)?,
        keys: keys(table)?,
        table: table.clone(),
    })
}

fn data_dir(table: &Table) -> Result<PathBuf, Fault> {
    match table.get("data_dir") {
        Some(Value::String(path)) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(("data_dir".into(), "must be a path".into())),
    }
}

fn is_kafka(log: &Section<'_>) -> Result<bool, Fault> {
    match log.text("kind")?.as_str() {
        "embedded" => Ok(false),
        "kafka" => Ok(true),
        _ => log.fault("kind", "must be embedded or kafka"),
    }
}

fn brokers(kafka: &Section<'_>, is_needed: bool) -> Result<String, Fault> {
    let brokers = kafka.text("brokers")?;
    if is_needed && brokers.is_empty() {
        return kafka.fault("brokers", "must be set when [log] kind is kafka, such as \"host:9092\"");
    }
    Ok(brokers)
}

fn prefix(log: &Section<'_>) -> Result<String, Fault> {
    let prefix = log.text("prefix")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    if prefix.len() > 100 || !prefix.chars().all(fits) {
        return log.fault("prefix", "must have at most 100 letters, digits, dots, dashes and underscores");
    }
    Ok(prefix)
}

fn log_format(process: &Section<'_>) -> Result<LogFormat, Fault> {
    match process.text("log_format")?.as_str() {
        "" => Ok(LogFormat::ByStream),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => process.fault("log_format", "must be text or json, or left out"),
    }
}

fn allow_targets(delivery: &Section<'_>) -> Result<Vec<IpNet>, Fault> {
    let net = |text: String| text.parse::<IpNet>().ok();
    let nets: Option<Vec<IpNet>> = delivery.texts("allow_targets")?.into_iter().map(net).collect();
    nets.map_or_else(|| delivery.fault("allow_targets", "must hold CIDRs such as 127.0.0.0/8"), Ok)
}

fn nameservers(delivery: &Section<'_>) -> Result<Vec<SocketAddr>, Fault> {
    let address = |text: String| text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53))).ok();
    let addresses: Option<Vec<SocketAddr>> = delivery.texts("nameservers")?.into_iter().map(address).collect();
    addresses.map_or_else(|| delivery.fault("nameservers", "must hold addresses such as 10.0.0.2:53"), Ok)
}

fn egress_proxy(delivery: &Section<'_>) -> Result<Option<Url>, Fault> {
    match delivery.text("egress_proxy")?.as_str() {
        "" => Ok(None),
        text => match Url::parse(text) {
            Ok(url) if url.scheme() == "http" && url.host().is_some() => Ok(Some(url)),
            _ => delivery.fault("egress_proxy", "must be a URL such as http://proxy.internal:3128"),
        },
    }
}

fn retention(retention: &Section<'_>) -> Result<Retention, Fault> {
    Ok(Retention {
        events: retention.span_or_forever("events", 100 * HOUR)?,
        decisions: retention.span_or_forever("decisions", HOUR)?,
        responses: retention.span_or_forever("responses", HOUR)?,
        deliveries: retention.span_or_forever("deliveries", 7 * DAY)?,
    })
}

/// `/ask`, without a slash at its end.
fn base_path(http: &Section<'_>) -> Result<String, Fault> {
    let text = http.text("base_path")?;
    let path = text.trim_end_matches('/');
    let is_plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    let parts = path.strip_prefix('/').map(|rest| rest.split('/').all(is_plain));
    if path.is_empty() || parts == Some(true) {
        return Ok(path.to_owned());
    }
    http.fault("base_path", "must be a path such as /ask, of letters, digits and -._~")
}

/// The URL of the console: `public_url` and `/console`; by default the address where this
/// process listens.
fn console_url(http: &Section<'_>) -> Result<String, Fault> {
    let text = http.text("public_url")?;
    if text.is_empty() {
        let admin = http.text("admin_listen")?;
        let listen = if admin.is_empty() { http.address("listen")? } else { http.address("admin_listen")? };
        // A wildcard address is reached at the machine itself.
        let at = listen.parse::<SocketAddr>().ok().filter(|at| at.ip().is_unspecified());
        let host = at.map_or(listen, |at| format!("localhost:{}", at.port()));
        return Ok(format!("http://{host}{}/console", base_path(http)?));
    }
    let url = Url::parse(&text).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.query().is_none());
    match url {
        Some(url) => Ok(format!("{}/console", url.as_str().trim_end_matches('/'))),
        None => http.fault("public_url", "must be a URL such as https://ask.example, without a query"),
    }
}

/// Origins, `self`, or `*`.
fn frame_ancestors(http: &Section<'_>) -> Result<String, Fault> {
    let mut all = Vec::new();
    for text in http.texts("frame_ancestors")? {
        match text.as_str() {
            "self" | "'self'" => all.push("'self'".to_owned()),
            "null" => return http.fault("frame_ancestors", "must hold origins such as https://app.example, or self"),
            _ => match AllowedOrigin::parse(&text) {
                Ok(_) => all.push(text.to_ascii_lowercase()),
                Err(wanted) => return http.fault("frame_ancestors", wanted),
            },
        }
    }
    Ok(all.join(" "))
}

fn log_level(process: &Section<'_>) -> Result<String, Fault> {
    let text = process.text("log_level")?;
    log_filter::parse(&text).map(|_| text).or_else(|error| process.fault("log_level", error.to_string()))
}

fn cors_origins(http: &Section<'_>) -> Result<Vec<AllowedOrigin>, Fault> {
    let parse = |text: &String| AllowedOrigin::parse(text).or_else(|wanted| http.fault("cors_origins", wanted));
    http.texts("cors_origins")?.iter().map(parse).collect()
}

/// The bound on memory: what is configured, else a share of the machine's memory.
fn memory(engine: &Section<'_>) -> Result<usize, Fault> {
    let text = engine.text("memory")?;
    if text.is_empty() {
        let share = askwhen_process::machine_memory_bytes() / MEMORY_DIVISOR;
        return Ok(usize::try_from(share).unwrap_or(LEAST_MEMORY_BYTES).max(LEAST_MEMORY_BYTES));
    }
    match parse_bytes(&text) {
        Some(bytes) if bytes >= LEAST_MEMORY_BYTES => Ok(bytes),
        Some(_) => engine.fault("memory", format!("must be at least {} MiB", LEAST_MEMORY_BYTES >> 20)),
        None => engine.fault("memory", "must be a size such as \"512MiB\" or \"2GB\""),
    }
}

/// Reads a size in bytes such as `512MiB` or `2GB`.
fn parse_bytes(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        _ => return None,
    };
    count.parse::<usize>().ok()?.checked_mul(unit)
}

/// Settings of librdkafka. TOML reads their dotted names as tables, which are made flat.
fn kafka_client(section: &Section<'_>) -> Result<BTreeMap<String, String>, Fault> {
    fn flatten(
        section: &Section<'_>,
        table: &Table,
        prefix: &str,
        into: &mut BTreeMap<String, String>,
    ) -> Result<(), Fault> {
        for (name, value) in table {
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let text = match value {
                Value::Table(inner) => {
                    flatten(section, inner, &name, into)?;
                    continue;
                }
                Value::String(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Boolean(yes) => yes.to_string(),
                Value::Array(_) | Value::Datetime(_) => {
                    return section.fault(&format!("client.{name}"), "must be a string, a number or a boolean");
                }
            };
            into.insert(name, text);
        }
        Ok(())
    }
    let mut settings = BTreeMap::new();
    if let Some(Value::Table(client)) = section.table.get("client") {
        flatten(section, client, "", &mut settings)?;
    }
    Ok(settings)
}

fn entries<'a>(table: &'a Table, name: &str) -> Result<Vec<&'a Table>, Fault> {
    match table.get(name) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .iter()
            .map(|v| v.as_table().ok_or((name.to_owned(), format!("must be written as [[{name}]]"))))
            .collect(),
        Some(_) => Err((name.to_owned(), format!("must be written as [[{name}]]"))),
    }
}

fn project(entry: &Table, list: &str) -> Result<String, Fault> {
    let name = match entry.get("project") {
        None => "default",
        Some(Value::String(name)) => name,
        Some(_) => return Err((format!("{list}.project"), "must be a string".into())),
    };
    id::check(name).map_err(|why| (format!("{list}.project"), why.to_owned()))?;
    Ok(name.to_owned())
}

/// Why a key or secret is easy to guess, if it is.
fn weak(secret: &str) -> Option<String> {
    if secret.chars().count() < LEAST_SECRET_CHARS {
        return Some(TOO_SHORT.to_owned());
    }
    guess::weakness(secret).map(|why| format!("{why}, so that it can be guessed: `openssl rand -hex 24` makes another"))
}

fn identity_secrets(table: &Table) -> Result<BTreeMap<String, Vec<String>>, Fault> {
    let mut all = BTreeMap::new();
    for (n, entry) in entries(table, "projects")?.into_iter().enumerate() {
        let place = || format!("projects[{n}].identity_secret");
        let wanted = || (place(), "must be a list of at most two strings".to_owned());
        let secrets: Vec<String> = match entry.get("identity_secret") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => {
                list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wanted)?
            }
            Some(_) => return Err(wanted()),
        };
        if secrets.len() > 2 || secrets.iter().any(String::is_empty) {
            return Err(wanted());
        }
        if let Some(why) = secrets.iter().find_map(|secret| weak(secret)) {
            return Err((place(), why));
        }
        let project = project(entry, "projects")?;
        if all.contains_key(&project) {
            return Err((format!("projects[{n}].project"), "is configured twice".to_owned()));
        }
        all.insert(project, secrets);
    }
    Ok(all)
}

fn keys(table: &Table) -> Result<Vec<Key>, Fault> {
    let mut keys: Vec<Key> = Vec::new();
    for (n, entry) in entries(table, "keys")?.into_iter().enumerate() {
        let place = |member: &str| format!("keys[{n}].{member}");
        let strong = |member: &str, key: &str| match weak(key) {
            Some(why) => Err((place(member), why)),
            None => Ok((auth::digest(key), Some(key.to_owned()))),
        };
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let kind = match text("kind") {
            Some(name) => Kind::parse(name),
            None => None,
        };
        let kind = kind.ok_or((place("kind"), "must be client, server, viewer or admin".to_owned()))?;
        let name = match entry.get("name") {
            None => kind.name().to_owned(),
            Some(Value::String(name)) if askwhen_domain::id::check(name).is_ok() => name.clone(),
            Some(_) => return Err((place("name"), "must be a text of 1 to 256 bytes".into())),
        };
        let (digest, known) = match (text("key"), text("key_file"), text("sha256")) {
            (Some(key), None, None) => strong("key", key)?,
            (None, Some(path), None) => {
                let key =
                    std::fs::read_to_string(path).map_err(|e| (place("key_file"), format!("cannot be read: {e}")))?;
                strong("key_file", key.trim())?
            }
            (None, None, Some(hexed)) => hex::decode(hexed)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .map(|digest| (digest, None))
                .ok_or((place("sha256"), "must be 64 hex digits".to_owned()))?,
            _ => return Err((place("key"), "needs exactly one of key, key_file, sha256".into())),
        };
        if let Some(first) = keys.iter().position(|key| key.digest == digest) {
            let member = ["key", "key_file", "sha256"].into_iter().find(|member| entry.contains_key(*member));
            let detail = format!("is the key of keys[{first}] again: a key has one project and one kind");
            return Err((place(member.unwrap_or("key")), detail));
        }
        keys.push(Key { project: project(entry, "keys")?, kind, name, digest, text: known });
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_units() {
        for (text, bytes) in [
            ("512MiB", Some(512 << 20)),
            ("2GB", Some(2_000_000_000)),
            ("1 gib", Some(1 << 30)),
            ("4096", Some(4_096)),
            ("", None),
            ("1.5GiB", None),
            ("many", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
