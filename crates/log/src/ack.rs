//! Who hears of an append.

use std::sync::Arc;

use crate::error::Error;
use crate::record::AppendedRange;
use askwhen_process::thread::Notify;

/// Where an append's outcome goes, once all of it is durable.
pub enum Ack {
    Once(tokio::sync::oneshot::Sender<Result<AppendedRange, Error>>),
    /// To a partition's own queue, with its tag.
    Tagged {
        tag: u64,
        queue: std::sync::mpsc::Sender<(u64, Result<AppendedRange, Error>)>,
        notify: Arc<Notify>,
    },
}

impl Ack {
    pub fn send(self, outcome: Result<AppendedRange, Error>) {
        match self {
            // A receiver that has gone away does not care any more.
            Ack::Once(sender) => drop(sender.send(outcome)),
            Ack::Tagged { tag, queue, notify } => {
                drop(queue.send((tag, outcome)));
                notify.notify();
            }
        }
    }
}
