//! Records on their way to the log. What follows from an attempt is written when
//! the attempt is durable; what the log would not take is written again.

use std::collections::HashMap;
use std::time::Duration;

use crate::delivery::ordering::Item;
use crate::delivery::records::Write;

/// Pause before a record that the log would not take is written again.
const REWRITE_PAUSE: Duration = Duration::from_millis(250);

/// Records that follow from each other. Without an item they are about nothing
/// that is in flight: what a crash had swallowed, or a reject.
#[derive(Debug, Clone)]
pub struct PendingAppend {
    pub item: Option<Item>,
    /// What is being written; written again should the log refuse it.
    pub now: Write,
    /// Written when that is durable.
    pub then: Option<Write>,
}

#[derive(Debug)]
enum Pending {
    Records(PendingAppend),
    /// A report on the endpoint of this queue. Should the log refuse it, what there is
    /// to report then is reported.
    Report(u64),
}

/// What an acknowledgement comes to.
#[derive(Debug)]
pub enum AppendProgress {
    /// The next record can be written.
    Next(PendingAppend),
    /// All is durable.
    Done(Option<Item>),
    /// It is to be written again.
    Refused,
    ReportRefused(u64),
    /// It was a report, or none of these.
    Nothing,
}

#[derive(Debug, Default)]
pub struct AppendQueue {
    pending: HashMap<u64, Pending>,
    refused: Vec<PendingAppend>,
    /// On the monotonic clock.
    refused_at: Option<Duration>,
    last_tag: u64,
}

impl AppendQueue {
    fn insert(&mut self, pending: Pending) -> u64 {
        self.last_tag += 1;
        self.pending.insert(self.last_tag, pending);
        self.last_tag
    }

    /// Gives the tag under which the log acknowledges, and what it is to be given.
    pub fn write(&mut self, records: PendingAppend) -> (u64, Write) {
        let now = records.now.clone();
        (self.insert(Pending::Records(records)), now)
    }

    /// The tag of a report on the endpoint of a queue.
    pub fn report(&mut self, queue_id: u64) -> u64 {
        self.insert(Pending::Report(queue_id))
    }

    pub fn acknowledged(&mut self, tag: u64, is_durable: bool, monotonic: Duration) -> AppendProgress {
        match (self.pending.remove(&tag), is_durable) {
            (None | Some(Pending::Report(_)), true) | (None, false) => AppendProgress::Nothing,
            (Some(Pending::Report(queue_id)), false) => AppendProgress::ReportRefused(queue_id),
            (Some(Pending::Records(records)), false) => {
                self.refused.push(records);
                self.refused_at = Some(monotonic);
                AppendProgress::Refused
            }
            (Some(Pending::Records(PendingAppend { item, then: None, .. })), true) => AppendProgress::Done(item),
            (Some(Pending::Records(PendingAppend { item, then: Some(now), .. })), true) => {
                AppendProgress::Next(PendingAppend { item, now, then: None })
            }
        }
    }

    /// What is to be written again now.
    pub fn take_refused(&mut self, monotonic: Duration) -> Vec<PendingAppend> {
        match self.refused_at {
            Some(at) if monotonic >= at + REWRITE_PAUSE => {
                self.refused_at = None;
                std::mem::take(&mut self.refused)
            }
            _ => Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.refused.is_empty()
    }
}
