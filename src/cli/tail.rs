//! `askwhen tail`: the records of a topic, one JSON line each, read from the
//! embedded log's files beside a running server.

use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

use super::{Context, Failure, output};
use crate::domain::time;
use crate::log::At;
use crate::log::embedded::follow::Follower;
use crate::wire::topic::Topic;

#[derive(Debug, Args)]
pub struct TailArgs {
    /// Name of the topic, such as events or decisions
    topic: String,
    /// Where to begin: start, end, or a time in RFC 3339
    #[arg(long, default_value = "start")]
    from: String,
    /// Only records with this key
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Go on waiting for new records
    #[arg(short, long)]
    follow: bool,
}

pub async fn run(context: &Context, args: &TailArgs) -> Result<(), Failure> {
    let topic = Topic::by_name(&args.topic).ok_or_else(|| {
        let names: Vec<&str> = Topic::ALL.iter().map(|t| t.name()).collect();
        let nearest =
            names.iter().min_by_key(|n| strsim::damerau_levenshtein(n, &args.topic)).copied().unwrap_or_default();
        Failure::usage(format!("there is no topic {}; did you mean {nearest}? All: {}", args.topic, names.join(", ")))
    })?;
    let since = match args.from.as_str() {
        "start" => None,
        "end" => Some(i64::MAX),
        text => Some(
            time::parse_time(text)
                .map_err(|wanted| Failure::usage(format!("--from must be start, end or {wanted}")))?,
        ),
    };
    let dir = context.config.data_dir.join("log");
    if !dir.join("log.json").exists() {
        return Err(Failure::unreachable(format!("{} holds no log; give --data-dir", dir.display())));
    }
    let partitions = topic.partitions(context.config.partitions);
    let mut followers: Vec<Follower> =
        (0..partitions).map(|partition| Follower::new(&dir, At { topic, partition })).collect();
    let mut skipping_to_end = since == Some(i64::MAX);
    loop {
        let mut records = Vec::new();
        for follower in &mut followers {
            for record in follower.read().map_err(|e| Failure::failed(e.to_string()))? {
                records.push((follower.at().partition, record));
            }
        }
        let idle = records.is_empty();
        records.sort_by_key(|(partition, record)| (record.appended_at, *partition, record.offset));
        for (partition, record) in records {
            let wanted_user = args.user.as_ref().is_none_or(|u| record.key.as_deref() == Some(u.as_bytes()));
            if skipping_to_end
                || !wanted_user
                || since.is_some_and(|since| since != i64::MAX && record.appended_at < since)
            {
                continue;
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers: serde_json::Map<String, Value> =
                record.headers.iter().map(|(name, value)| (text(name), text(value).into())).collect();
            let value = record
                .value
                .as_deref()
                .map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_else(|_| Value::String(text(bytes))));
            let row = json!({
                "partition": partition,
                "offset": record.offset,
                "appended_at": time::format_time(record.appended_at),
                "key": record.key.as_deref().map(text),
                "headers": headers,
                "value": value,
            });
            output::line(&row.to_string());
        }
        if idle {
            skipping_to_end = false;
            if !args.follow {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
