//! The state machine that a partition runs: it applies records and returns effects.

use bytes::Bytes;

use crate::checkpoint::{CheckpointMeta, Frozen};
use crate::reply::EngineReply;
use crate::stop::StopReason;
use askwhen_domain::id::Origin;
use askwhen_domain::json::Json;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, NewRecord};
use askwhen_wire::record::{DecodeError, Decoded, PassedOn};
use askwhen_wire::topic::Topic;

/// A record for another topic, in the partition with the same number.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub topic: Topic,
    pub key: Option<Bytes>,
    /// Computed from the record that caused it: reprocessing gives the same id.
    pub id: String,
    pub value: Option<Bytes>,
}

/// A record for another partition's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    pub to: u32,
    pub key: Option<String>,
    pub value: Json,
    /// Whether it is an internal record that the receiver may trust.
    pub trusted: bool,
    /// Whether the receiver also answers the request behind the record.
    pub answers: bool,
    /// For a record that came under an alias.
    pub passed_on: Option<PassedOn>,
}

/// The effects of applying one record.
#[derive(Debug, Default)]
pub struct Effects {
    pub outputs: Vec<Output>,
    pub forwards: Vec<Outgoing>,
    pub reply: Option<EngineReply>,
    /// Answers to requests whose records came earlier: reply address and answer.
    pub late_replies: Vec<(Bytes, EngineReply)>,
}

/// Position and time of the record that is applied.
#[derive(Debug, Clone, Copy)]
pub struct RecordContext<'a> {
    pub origin: Origin,
    pub now: Millis,
    pub partitions: u32,
    /// The reply address, if a request waits.
    pub reply_to: Option<&'a Bytes>,
    /// Where the record came, if an alias has passed it on.
    pub passed_on: Option<&'a PassedOn>,
}

/// The state machine that a partition runs. When `apply` panics, the record must have had
/// no effect.
pub trait Machine: Send {
    /// Applies a record.
    ///
    /// # Errors
    /// When the record must become a reject, or the store cannot be read.
    fn apply(&mut self, at: RecordContext<'_>, record: Decoded<'_>) -> Result<Effects, Failure>;

    /// Whether the runtime is to append a tick while no other record comes, because a
    /// request waits for time to pass.
    fn wants_ticks(&self) -> bool;

    /// Definitions that are in the state and not in topic `definitions`, as records to be
    /// written again, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn lost_definitions(&self, log: &Log, meta: &CheckpointMeta) -> Result<Vec<NewRecord>, StopReason>;

    /// The topics to which `apply` writes on this partition.
    fn output_topics(&self, partition: u32) -> Vec<Topic>;

    /// About how many bytes of state the next checkpoint will write.
    fn dirty_bytes(&self) -> usize;

    /// Returns what has changed since the last freeze. The machine still reads it from
    /// memory until [`Machine::persisted`] is called.
    fn freeze(&mut self, now: Millis) -> Frozen;

    /// Notes that the last frozen changes are in the store.
    fn persisted(&mut self);
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Reject(#[from] DecodeError),
    /// The stored state is of a later version; an operator has to look.
    #[error("{0}")]
    Refused(#[source] askwhen_store::Cause),
    #[error(transparent)]
    Store(#[from] askwhen_store::Error),
}
