//! Records on their way to the log. The retry record or dead letter is appended once its
//! attempt is durable; a record that the log refuses is appended again.

use std::collections::HashMap;
use std::time::Duration;

use crate::delivery::ordering::Item;
use crate::delivery::records::Write;

/// Pause before records that the log refused are appended again.
const REWRITE_PAUSE: Duration = Duration::from_millis(250);

/// One or two records that are appended one after the other.
#[derive(Debug, Clone)]
pub struct PendingAppend {
    /// The delivery in flight that they are about; `None` for a missing follow-up or a
    /// reject.
    pub item: Option<Item>,
    /// The record that is being appended. It is kept because the log may refuse it.
    pub now: Write,
    /// The record that is appended when the first one is durable.
    pub then: Option<Write>,
}

/// What follows from an acknowledgement.
#[derive(Debug)]
pub enum AppendProgress {
    /// The next record can be appended.
    Next(PendingAppend),
    /// All records are durable.
    Done(Option<Item>),
    /// The record is appended again after a pause.
    Refused,
    /// A report on the endpoint of this queue was refused.
    ReportRefused(u64),
    /// A report is durable, or the tag is not known.
    Nothing,
}

#[derive(Debug, Default)]
pub struct AppendQueue {
    pending: HashMap<u64, PendingAppend>,
    /// Queues of the endpoints that reports are on, by tag. A refused report is not kept: a
    /// new one says what holds by then.
    reports: HashMap<u64, u64>,
    refused: Vec<PendingAppend>,
    /// When the log last refused a record, on the monotonic clock.
    refused_at: Option<Duration>,
    last_tag: u64,
}

impl AppendQueue {
    fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Notes an append; returns its tag and the record for the log.
    pub fn write(&mut self, records: PendingAppend) -> (u64, Write) {
        let (tag, now) = (self.next_tag(), records.now.clone());
        self.pending.insert(tag, records);
        (tag, now)
    }

    /// Notes a report on the endpoint of a queue; returns its tag.
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

    /// The refused records, when their pause is over.
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
