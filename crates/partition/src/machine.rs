//! What a partition runs: it is given records, and says what they ask for.

use bytes::Bytes;

use crate::checkpoint::{CheckpointMeta, Frozen};
use crate::reply::EngineReply;
use crate::stop::StopReason;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, NewRecord};
use askwhen_wire::record::{DecodeError, Decoded};
use askwhen_wire::topic::Topic;

/// A record to be written to this partition of another topic.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub topic: Topic,
    pub key: Option<Bytes>,
    /// Function of the record behind it; the same whenever it is made again.
    pub id: String,
    pub value: Option<Bytes>,
}

/// A record for another partition's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    pub to: u32,
    pub key: Option<String>,
    pub value: Json,
    /// Whether the receiver may believe it to be askwhen's own.
    pub trusted: bool,
    /// Whether the receiver, too, answers whoever waits for this record.
    pub answers: bool,
}

/// What applying one record asks for.
#[derive(Debug, Default)]
pub struct Effects {
    pub outputs: Vec<Output>,
    pub forwards: Vec<Outgoing>,
    pub reply: Option<EngineReply>,
    /// Answers to requests that came before this record and have waited.
    pub late_replies: Vec<(Bytes, EngineReply)>,
}

/// Where and when a record is applied.
#[derive(Debug, Clone, Copy)]
pub struct RecordContext<'a> {
    pub origin: Origin,
    pub now: Millis,
    pub partitions: u32,
    /// Where the answer is to go.
    pub reply_to: Option<&'a Bytes>,
}

/// The state machine that a partition runs. `apply` either takes full effect
/// or, when it panics, none.
pub trait Machine: Send {
    /// # Errors
    /// When the record must become a reject, or the store cannot be read.
    fn apply(&mut self, at: RecordContext<'_>, record: Decoded<'_>) -> Result<Effects, Failure>;

    /// Whether the runtime is to append a tick when no other record comes, because a
    /// request has waited long enough.
    fn wants_ticks(&self) -> bool;

    /// What topic `definitions` lacks although the state has it: records to be
    /// written again, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn lost_definitions(&self, log: &Log, meta: &CheckpointMeta) -> Result<Vec<NewRecord>, StopReason>;

    /// Topics that `apply` writes to on this partition.
    fn output_topics(&self, partition: u32) -> Vec<Topic>;

    /// About how many bytes wait for the next checkpoint.
    fn dirty_bytes(&self) -> usize;

    /// Hands over what changed since the last freeze. Until [`Machine::persisted`]
    /// the machine answers for it from memory.
    fn freeze(&mut self, now: Millis) -> Frozen;

    /// The last frozen changes are in the store.
    fn persisted(&mut self);
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Reject(#[from] DecodeError),
    /// The stored state is of a later version: an operator has to look.
    #[error("{0}")]
    Refused(#[source] askwhen_store::Cause),
    #[error(transparent)]
    Store(#[from] askwhen_store::Error),
}
