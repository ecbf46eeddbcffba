//! Answers to waiting requests. Within a process they go through a registry; between
//! processes through topic `replies`, of which every process reads one partition.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

use askwhen_domain::json::Json;
use askwhen_log::{Fetch as _, Log, NewRecord, TopicPartition};
use askwhen_process::thread::{LogThrottle, Notify, Service};
use askwhen_wire::topic::Topic;

/// The answer of a partition to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineReply {
    /// A body for server keys, and one for client keys.
    Body {
        server: Json,
        client: Json,
    },
    Accepted {
        duplicate: bool,
        response_id: Option<String>,
    },
    Refused {
        code: String,
        pointer: Option<String>,
        detail: String,
    },
    /// The result of an attempt that an operator asked for.
    Attempted {
        delivery_id: String,
        http_status: Option<u16>,
        outcome: String,
        error: Option<String>,
    },
    /// A partition has installed a definition; `of` partitions will answer so.
    Defined {
        partition: u32,
        of: u32,
        version: u64,
        changed: bool,
        created: bool,
        used_new_secret: bool,
    },
}

type Waiting = Arc<Mutex<HashMap<u128, mpsc::UnboundedSender<EngineReply>>>>;

/// The waiting requests, by correlation id.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    waiting: Waiting,
    /// Appends answers for other processes to topic `replies`; `None` on a log of one
    /// process.
    producer: Option<ReplyProducer>,
}

#[derive(Debug, Clone)]
struct ReplyProducer {
    log: Log,
    /// The partition of topic `replies` that this process reads.
    own: u32,
}

/// A waiting request; dropping it ends the wait.
#[derive(Debug)]
pub struct Waiter {
    correlation: u128,
    replies: Replies,
    answers: mpsc::UnboundedReceiver<EngineReply>,
}

impl Replies {
    /// For several processes on one log. Two processes that read the same partition of
    /// `replies` do not confuse their answers, because correlation ids are random.
    pub fn over_topic(log: &Log) -> Replies {
        let own = (uuid::Uuid::new_v4().as_u128() % u128::from(Topic::Replies.partitions(log.partitions()))) as u32;
        Replies { waiting: Waiting::default(), producer: Some(ReplyProducer { log: log.clone(), own }) }
    }

    /// Receives answers from other processes, from the current end of the topic on, until
    /// the result is dropped. `None` on a log of one process.
    ///
    /// # Errors
    /// When the topic cannot be read.
    pub fn receive(&self) -> Result<Option<Service>, askwhen_log::Error> {
        let Some(ReplyProducer { log, own }) = &self.producer else { return Ok(None) };
        let at = TopicPartition { topic: Topic::Replies, partition: *own };
        let mut next = log.bounds(at)?.end;
        let notify = Arc::new(Notify::default());
        let mut reader = log.reader("replies", notify.clone());
        // Fixes the position before the first request waits.
        reader.read(at, next, 1)?;
        let (waiting, log) = (self.waiting.clone(), log.clone());
        let reply_consumer = Service::spawn("replies", notify, move |turns| {
            let mut throttle = LogThrottle::default();
            while turns.go_on() {
                match reader.read(at, next, 1 << 20) {
                    Ok(chunk) if chunk.records.is_empty() => turns.wait(Duration::from_millis(500)),
                    Ok(chunk) => {
                        for record in chunk.records {
                            next = record.offset + 1;
                            deliver(&waiting, &record);
                        }
                    }
                    Err(error) => {
                        if throttle.is_new(&error.to_string()) {
                            tracing::warn!(%error, "answers of other processes are out of reach");
                        }
                        turns.wait(Duration::from_millis(500));
                        // The topic was trimmed or made anew; old answers are of no use.
                        if error.class() != askwhen_log::Class::Retry
                            && let Ok(bounds) = log.bounds(at)
                        {
                            next = bounds.end;
                        }
                    }
                }
            }
        });
        reply_consumer.map(Some).map_err(|e| askwhen_log::Error::io("a thread for replies", e))
    }

    /// Begins to wait under a new random correlation id. There are at most as many answers
    /// as partitions, so the queue needs no bound.
    pub fn wait(&self) -> Waiter {
        let correlation = uuid::Uuid::new_v4().as_u128();
        #[expect(clippy::disallowed_methods, reason = "bounded by the number of partitions")]
        let (sender, answers) = mpsc::unbounded_channel();
        self.waiting.lock().expect("no panic holds this lock").insert(correlation, sender);
        Waiter { correlation, replies: self.clone(), answers }
    }

    /// Hands an answer to the request that waits for it, if it still does.
    pub fn answer(&self, reply_to: &[u8], answer: EngineReply) {
        let Some((partition, correlation)) = parse(reply_to) else { return };
        if let Some(sender) = self.waiting.lock().expect("no panic holds this lock").get(&correlation) {
            // The request may have stopped waiting just now.
            drop(sender.send(answer));
            return;
        }
        if let (Some(producer), Some(partition)) = (&self.producer, partition)
            && partition < Topic::Replies.partitions(producer.log.partitions())
        {
            producer.send(partition, correlation, &answer);
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.lock().expect("no panic holds this lock").len()
    }
}

impl ReplyProducer {
    fn send(&self, partition: u32, correlation: u128, answer: &EngineReply) {
        let new = NewRecord {
            key: Some(format!("{correlation:032x}").into()),
            headers: Vec::new(),
            value: Some(serde_json::to_vec(answer).expect("an answer serialises").into()),
        };
        self.log.append_unacknowledged(TopicPartition { topic: Topic::Replies, partition }, new);
    }
}

/// Parses `partition/correlation`, or the correlation id alone.
fn parse(reply_to: &[u8]) -> Option<(Option<u32>, u128)> {
    let text = std::str::from_utf8(reply_to).ok()?;
    let (partition, correlation) = match text.split_once('/') {
        Some((partition, correlation)) => (Some(partition.parse().ok()?), correlation),
        None => (None, text),
    };
    Some((partition, u128::from_str_radix(correlation, 16).ok()?))
}

fn deliver(waiting: &Waiting, record: &askwhen_log::Record) {
    let key = record.key.as_deref().unwrap_or_default();
    let Some((_, correlation)) = parse(key) else { return };
    let waiting = waiting.lock().expect("no panic holds this lock");
    let Some(sender) = waiting.get(&correlation) else { return };
    match serde_json::from_slice(record.value.as_deref().unwrap_or_default()) {
        // The request may have stopped waiting just now.
        Ok(answer) => drop(sender.send(answer)),
        Err(error) => tracing::warn!(%error, offset = record.offset, "an answer is unreadable"),
    }
}

impl Waiter {
    /// The value for the header `reply-to` of the request's record.
    pub fn header(&self) -> String {
        match &self.replies.producer {
            Some(producer) => format!("{}/{:032x}", producer.own, self.correlation),
            None => format!("{:032x}", self.correlation),
        }
    }

    pub async fn next(&mut self) -> Option<EngineReply> {
        self.answers.recv().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.replies.waiting.lock().expect("no panic holds this lock").remove(&self.correlation);
    }
}
