//! Where the outcome of an append goes.

use std::sync::Arc;

use crate::error::Error;
use crate::record::AppendedRange;
use askwhen_process::thread::Notify;

/// Where the outcome of an append goes once all of its records are durable.
pub enum Ack {
    Once(tokio::sync::oneshot::Sender<Result<AppendedRange, Error>>),
    /// To the queue of a partition's runtime, with the tag of the append.
    Tagged {
        tag: u64,
        queue: std::sync::mpsc::Sender<(u64, Result<AppendedRange, Error>)>,
        notify: Arc<Notify>,
    },
}

impl Ack {
    pub fn send(self, outcome: Result<AppendedRange, Error>) {
        match self {
            // The receiver may be gone.
            Ack::Once(sender) => drop(sender.send(outcome)),
            Ack::Tagged { tag, queue, notify } => {
                drop(queue.send((tag, outcome)));
                notify.notify();
            }
        }
    }
}
