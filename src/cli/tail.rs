//! `askwhen tail`: the records of a topic, one JSON line each: from the embedded
//! log's files beside a running server, or from the brokers.

use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use super::context::{BrokerArgs, Context, Failure, failure, observer};
use super::moment::Beginning;
use super::{output, serve};
use crate::supervisor;
use askwhen_domain::time::{self, Millis};
use askwhen_log::Fetch as _;
use askwhen_log::embedded::follow::Follower;
use askwhen_log::{Embedded, Kafka, Log, Reader, Record, TopicPartition};
use askwhen_process::thread::Notify;
use askwhen_wire::record;
use askwhen_wire::topic::Topic;

#[derive(Debug, Args)]
pub struct TailArgs {
    /// Name of the topic, such as events or decisions
    topic: String,
    /// Where to begin: start, end, a time, a date, or so long ago, such as 1h
    #[arg(long, default_value = "start")]
    from: Beginning,
    /// Only records with this key
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Go on waiting for new records
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub brokers: BrokerArgs,
}

/// Reads a topic, from files or brokers.
enum Source {
    Files {
        followers: Vec<Follower>,
        /// Why a partition cannot be read; reported when the others have been read.
        failed: Option<Failure>,
    },
    Brokers {
        reader: Reader,
        notify: Arc<Notify>,
        next: Vec<(TopicPartition, u64)>,
    },
}

impl Source {
    /// Opens a topic at the first record that `since` allows.
    fn open(context: &Context, topic: Topic, since: Option<Millis>) -> Result<Source, Failure> {
        let all =
            |partitions| (0..topic.partitions(partitions)).map(move |partition| TopicPartition { topic, partition });
        if !context.config.kafka {
            supervisor::refuse_later_layout(&context.config.data_dir).map_err(serve::failure)?;
            context.note_export();
            let dir = context.config.data_dir.join("log");
            // The number of partitions is the log's, whatever is configured.
            let Some(partitions) = Embedded::partitions_of(&dir).map_err(failure)? else {
                return Err(Failure::unreachable(format!(
                    "{} holds no log; give --data-dir, or --brokers where the log is on Kafka",
                    dir.display()
                )));
            };
            let followers = all(partitions).map(|at| Follower::new(&dir, at)).collect();
            return Ok(Source::Files { followers, failed: None });
        }
        let log = Log::Kafka(Kafka::observe(observer(&context.config)).map_err(failure)?);
        let all: Vec<TopicPartition> = all(log.partitions()).collect();
        let bounds = log.all_bounds(&all).map_err(failure)?;
        let mut next = Vec::new();
        for (at, bounds) in all.into_iter().zip(bounds) {
            let from = match since {
                None => bounds.start,
                Some(Millis::MAX) => bounds.end,
                Some(time) => log.offset_at(at, time).map_err(failure)?,
            };
            next.push((at, from));
        }
        let notify = Arc::new(Notify::default());
        Ok(Source::Brokers { reader: log.reader("tail", notify.clone()), notify, next })
    }

    /// The next records, and whether they reach the end.
    fn read(&mut self) -> Result<(Vec<(u32, Record)>, bool), Failure> {
        let mut records = Vec::new();
        match self {
            Source::Files { followers, failed } => {
                followers.retain_mut(|follower| match follower.read() {
                    Ok(read) => {
                        records.extend(read.into_iter().map(|record| (follower.at().partition, record)));
                        true
                    }
                    Err(error) => {
                        // Damage is reported and skipped: only a server must refuse it.
                        failed.get_or_insert(Failure::failed(error.to_string()));
                        false
                    }
                });
                let idle = records.is_empty();
                match failed.take_if(|_| idle) {
                    Some(failure) => Err(failure),
                    None => Ok((records, idle)),
                }
            }
            Source::Brokers { reader, notify, next } => {
                let mut idle = true;
                for (at, next) in next {
                    let chunk = reader.read(*at, *next, 1 << 20).map_err(unread)?;
                    idle &= chunk.at_end && chunk.records.is_empty();
                    for record in chunk.records {
                        *next = record.offset + 1;
                        records.push((at.partition, record));
                    }
                }
                if records.is_empty() {
                    notify.wait(Duration::from_millis(100));
                }
                Ok((records, idle))
            }
        }
    }
}

pub async fn run(context: &Context, args: &TailArgs) -> Result<(), Failure> {
    let topic = Topic::by_name(&args.topic).ok_or_else(|| {
        let names: Vec<&str> = Topic::ALL.iter().map(|t| t.name()).collect();
        let nearest =
            names.iter().min_by_key(|n| strsim::damerau_levenshtein(n, &args.topic)).copied().unwrap_or_default();
        Failure::usage(format!("there is no topic {}; did you mean {nearest}? All: {}", args.topic, names.join(", ")))
    })?;
    let since = match args.from {
        Beginning::Start => None,
        Beginning::End => Some(i64::MAX),
        Beginning::At(moment) => Some(moment.0),
    };
    // Asking brokers blocks, which is harmless here: nothing else runs.
    tokio::task::block_in_place(|| print(context, args, topic, since))
}

fn print(context: &Context, args: &TailArgs, topic: Topic, since: Option<Millis>) -> Result<(), Failure> {
    let mut source = Source::open(context, topic, since)?;
    // Files have no index by time, so earlier records are read and dropped.
    let mut skipping_to_end = since == Some(i64::MAX) && !context.config.kafka;
    loop {
        let (mut records, idle) = source.read()?;
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
            let value = record.value.as_deref().map(|bytes| {
                serde_json::from_slice::<Value>(record::plain(bytes)).unwrap_or_else(|_| Value::String(text(bytes)))
            });
            let row = json!({
                "partition": partition,
                "offset": record.offset,
                "appended_at": time::format_time(record.appended_at),
                "key": record.key.as_deref().map(text),
                "headers": headers,
                "value": value,
            });
            output::line(&row.to_string());
            if output::nobody_reads() {
                return Ok(());
            }
        }
        if idle {
            skipping_to_end = false;
            if !args.follow {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What was to be printed cannot be read: as with files, that is no refusal.
fn unread(error: askwhen_log::Error) -> Failure {
    match error {
        askwhen_log::Error::Damaged { .. } => Failure::failed(error.to_string()),
        error => failure(error),
    }
}
