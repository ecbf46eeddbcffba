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
    pending: HashMap<u64, PendingAppend>,
    /// Reports on the endpoints of these queues. Should the log refuse one, what there
    /// is to report then is reported.
    reports: HashMap<u64, u64>,
    refused: Vec<PendingAppend>,
    /// On the monotonic clock.
    refused_at: Option<Duration>,
    last_tag: u64,
}

impl AppendQueue {
    fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Gives the tag under which the log acknowledges, and what it is to be given.
    pub fn write(&mut self, records: PendingAppend) -> (u64, Write) {
        let (tag, now) = (self.next_tag(), records.now.clone());
        self.pending.insert(tag, records);
        (tag, now)
    }

    /// The tag of a report on the endpoint of a queue.
    pub fn report(&mut self, queue_id: u64) -> u64 {
        let tag = self.next_tag();
        self.reports.insert(tag, queue_id);
        tag
    }

    pub fn acknowledged(&mut self, tag: u64, is_durable: bool, monotonic: Duration) -> AppendProgress {
        if let Some(queue_id) = self.reports.remove(&tag) {
            return if is_durable { AppendProgress::Nothing } else { AppendProgress::ReportRefused(queue_id) };
        }
        let Some(mut records) = self.pending.remove(&tag) else { return AppendProgress::Nothing };
        if !is_durable {
            self.refused.push(records);
            self.refused_at = Some(monotonic);
            return AppendProgress::Refused;
        }
        match records.then.take() {
            Some(next) => AppendProgress::Next(PendingAppend { now: next, ..records }),
            None => AppendProgress::Done(records.item),
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
        self.pending.is_empty() && self.reports.is_empty() && self.refused.is_empty()
    }
}
