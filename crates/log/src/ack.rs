//! Appends, and where their outcomes go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::record::{AppendedRange, NewRecord, TopicPartition};
use askwhen_process::thread::Notify;

/// Records for one partition, in order.
pub struct Append {
    pub at: TopicPartition,
    pub records: Vec<NewRecord>,
    pub ack: Ack,
    pub urgency: Urgency,
}

/// How soon an append has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    Now,
    /// Nobody waits for it: it is written with the next append that is urgent, and on its own
    /// only if none comes for a few milliseconds. The sync of that other one is then enough
    /// for both. What the producer of Kafka's clients does by `linger.ms` is independent of it.
    Lingers,
}

/// Where the outcome of an append goes once all of its records are durable.
pub enum Ack {
    Once(oneshot::Sender<Result<AppendedRange, Error>>),
    /// To a request, and how long it took to the histogram of acknowledgements.
    Request {
        sender: oneshot::Sender<Result<AppendedRange, Error>>,
        began: Instant,
    },
    /// To the queue of a partition's runtime, with the tag of the append.
    Tagged {
        tag: u64,
        queue: AckSender,
    },
}

impl Ack {
    pub fn send(self, outcome: Result<AppendedRange, Error>) {
        match self {
            // The receiver may be gone.
            Ack::Once(sender) => drop(sender.send(outcome)),
            Ack::Request { sender, began } => {
                if outcome.is_ok() {
                    let seconds = began.elapsed().as_secs_f64();
                    askwhen_process::metrics::get().bridge_ack_seconds.observe(seconds);
                }
                drop(sender.send(outcome));
            }
            Ack::Tagged { tag, queue } => queue.send(tag, outcome),
        }
    }
}

/// An append of a request, under way.
#[derive(Debug)]
pub struct PendingAppend {
    pub(crate) outcome: oneshot::Receiver<Result<AppendedRange, Error>>,
    pub(crate) deadline: tokio::time::Instant,
}

impl PendingAppend {
    /// Whether its outcome is there.
    pub fn is_over(&self) -> bool {
        !self.outcome.is_empty()
    }

    /// Waits until all of its records are durable, or for [`REQUEST_TIMEOUT`](crate::REQUEST_TIMEOUT)
    /// since it began.
    ///
    /// # Errors
    /// See [`Error::class`].
    pub async fn durable(self) -> Result<AppendedRange, Error> {
        let appended = match tokio::time::timeout_at(self.deadline, self.outcome).await {
            Ok(Ok(appended)) => appended,
            // The sender was dropped without an outcome.
            Ok(Err(_)) => Err(Error::Unknown("nobody answered for the record".into())),
            Err(_) => Err(Error::Unknown("the log has not answered in time".into())),
        };
        askwhen_process::fault::point("acked");
        appended
    }

    /// Somebody has answered its records, so they are durable: only then they can be read.
    pub fn was_answered(self) {
        askwhen_process::fault::point("acked");
    }
}

/// The end of an [`AckQueue`] that the log keeps with an append.
#[derive(Clone)]
pub struct AckSender {
    acks: mpsc::Sender<(u64, Result<AppendedRange, Error>)>,
    notify: Arc<Notify>,
    is_waiting: Arc<AtomicBool>,
}

impl AckSender {
    fn send(&self, tag: u64, outcome: Result<AppendedRange, Error>) {
        // A failure is not left lying.
        let is_failure = outcome.is_err();
        // The receiver may be gone.
        drop(self.acks.send((tag, outcome)));
        if is_failure || self.is_waiting.load(Ordering::SeqCst) {
            self.notify.notify();
        }
    }
}

/// Outcomes of appends, by tag, for a thread that has other work, too. It is notified of
/// them only while it says that it [waits](AckQueue::set_waiting): who has nothing to do
/// with a success but to count it need not be woken for that.
pub struct AckQueue {
    sender: AckSender,
    acks: mpsc::Receiver<(u64, Result<AppendedRange, Error>)>,
}

impl AckQueue {
    /// A queue whose owner waits.
    pub fn new(notify: Arc<Notify>) -> AckQueue {
        let (sender, acks) = mpsc::channel();
        AckQueue { sender: AckSender { acks: sender, notify, is_waiting: Arc::new(AtomicBool::new(true)) }, acks }
    }

    /// For the log, with an append.
    pub fn tagged(&self, tag: u64) -> Ack {
        Ack::Tagged { tag, queue: self.sender.clone() }
    }

    /// The next outcome, if there is one.
    pub fn try_next(&self) -> Option<(u64, Result<AppendedRange, Error>)> {
        self.acks.try_recv().ok()
    }

    /// Says whether a success is to be notified of; returns whether that was not so before.
    /// Then outcomes may have come unnoticed, so the queue has to be looked at once more.
    pub fn set_waiting(&self, is_waiting: bool) -> bool {
        self.sender.is_waiting.swap(is_waiting, Ordering::SeqCst) != is_waiting && is_waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn is_notified(notify: &Notify) -> bool {
        let began = Instant::now();
        notify.wait(Duration::from_millis(200));
        began.elapsed() < Duration::from_millis(150)
    }

    #[test]
    fn only_who_waits_is_woken_and_of_failures_everybody() {
        let notify = Arc::new(Notify::default());
        let queue = AckQueue::new(notify.clone());
        let success = || Ok(AppendedRange { first: 3, end: 4 });
        queue.tagged(1).send(success());
        assert!(is_notified(&notify));
        assert!(!queue.set_waiting(false));
        queue.tagged(2).send(success());
        assert!(!is_notified(&notify));
        assert_eq!((queue.try_next().map(|ack| ack.0), queue.try_next().map(|ack| ack.0)), (Some(1), Some(2)));
        queue.tagged(3).send(Err(Error::Closed));
        assert!(is_notified(&notify));
        assert!(queue.set_waiting(true), "what came before is to be looked for");
        assert!(!queue.set_waiting(true));
    }
}
