//! Where attempts go: out over HTTP, or to a simulation that says how each went.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use std::panic::AssertUnwindSafe;

use super::attempt::{AttemptResult, Egress, Sender};
use super::endpoints::OpenedEndpoint;
use super::fold::PendingDelivery;
use super::ordering::Item;
use super::resolver::ResolverError;
use super::time::MonotoneClock;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::message::Delivery;
use askwhen_process::thread::Notify;
use askwhen_wire::profile::{self, Keys};
use askwhen_wire::topics::Outcome;

/// How attempts go out.
pub enum Transport {
    Http { egress: Egress, runtime: tokio::runtime::Handle },
    Simulated(Outbox),
}

/// A transport that is ready to send.
pub(super) enum ReadyTransport {
    Http { sender: Sender, runtime: tokio::runtime::Handle },
    Simulated { outbox: Outbox, time: MonotoneClock },
}

/// An attempt that is to be made: of which delivery, at which endpoint, signed
/// with which keys.
pub(super) struct AttemptStart {
    pub item: Item,
    pub row: PendingDelivery,
    pub defined: Arc<OpenedEndpoint>,
    pub keys: Keys,
}

/// What the loop hears of an attempt that is over. Boxed, because a channel takes room for many
/// of them at a time.
pub(super) type EndedAttempt = Box<(Item, PendingDelivery, AttemptResult)>;

impl ReadyTransport {
    /// # Errors
    /// When TLS or the resolver cannot be set up.
    pub fn new(transport: Transport, time: &MonotoneClock) -> Result<ReadyTransport, ResolverError> {
        let time = time.clone();
        Ok(match transport {
            Transport::Http { egress, runtime } => ReadyTransport::Http { sender: Sender::new(egress, time)?, runtime },
            Transport::Simulated(outbox) => ReadyTransport::Simulated { outbox, time },
        })
    }

    /// Connections to receivers, in use or idle.
    pub fn connections(&self) -> usize {
        match self {
            ReadyTransport::Http { sender, .. } => sender.connections(),
            ReadyTransport::Simulated { .. } => 0,
        }
    }

    /// Whether a simulation steps everything itself: nothing may have a thread.
    pub fn is_stepped(&self) -> bool {
        matches!(self, ReadyTransport::Simulated { .. })
    }

    /// Starts an attempt; its result comes through `ended`, and wakes the loop.
    pub fn start(&self, attempt: AttemptStart, ended: mpsc::Sender<EndedAttempt>, notify: Arc<Notify>) {
        let AttemptStart { item, row, defined, keys } = attempt;
        match self {
            ReadyTransport::Http { sender, runtime } => {
                let sender = sender.clone();
                runtime.spawn(async move {
                    let sending = sender.send(&row.delivery, &defined, &keys, row.attempt + 1);
                    let outcome = AssertUnwindSafe(sending).catch_unwind().await.unwrap_or_else(|_| sender.panicked());
                    // The loop may have stopped; a restart sends again.
                    drop(ended.send(Box::new((item, row, outcome))));
                    notify.notify();
                });
            }
            ReadyTransport::Simulated { outbox, time } => {
                let body = profile::body(&row.delivery, &defined.endpoint, "");
                let started_at = time.now();
                let attempt = SimulatedAttempt { item, row, defined, body, started_at, ended, notify };
                outbox.attempts.lock().expect("no panic holds this lock").push_back(attempt);
            }
        }
    }
}

/// Attempts that a simulation has to end.
#[derive(Clone, Default)]
pub struct Outbox {
    attempts: Arc<Mutex<VecDeque<SimulatedAttempt>>>,
}

impl Outbox {
    /// What has been sent since it was asked last, in its order.
    pub fn take(&self) -> Vec<SimulatedAttempt> {
        self.attempts.lock().expect("no panic holds this lock").drain(..).collect()
    }
}

/// One request on its way to a receiver.
pub struct SimulatedAttempt {
    item: Item,
    row: PendingDelivery,
    defined: Arc<OpenedEndpoint>,
    /// What the receiver reads.
    pub body: Vec<u8>,
    pub started_at: Millis,
    ended: mpsc::Sender<EndedAttempt>,
    notify: Arc<Notify>,
}

/// What a simulated receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimulatedReply {
    /// An answer, and after how long it wishes to be asked again.
    Status {
        code: u16,
        retry_after: Option<Millis>,
    },
    Hang,
    Drop,
}

impl SimulatedAttempt {
    pub fn delivery(&self) -> &Delivery {
        &self.row.delivery
    }

    /// 1 for the first.
    pub fn number(&self) -> u32 {
        self.row.attempt + 1
    }

    /// When it was due.
    pub fn due_at(&self) -> Millis {
        self.row.due_at
    }

    /// Header `source` of the delivery's first record: the journal record behind it.
    pub fn source(&self) -> &str {
        &self.row.source
    }

    /// Whether the reply counts as success.
    pub fn succeeds(&self, reply: SimulatedReply) -> bool {
        matches!(reply, SimulatedReply::Status { code, .. } if self.defined.endpoint.retry.succeeded(code))
    }

    /// The receiver has done this; the sender hears of it at `now`.
    pub fn end(self, reply: SimulatedReply, now: Millis) {
        let (http_status, retry_after) = match reply {
            SimulatedReply::Status { code, retry_after } => (Some(code), retry_after),
            SimulatedReply::Hang | SimulatedReply::Drop => (None, None),
        };
        let outcome = match reply {
            _ if self.succeeds(reply) => Outcome::Delivered,
            SimulatedReply::Status { .. } => Outcome::BadStatus,
            SimulatedReply::Hang => Outcome::Timeout,
            SimulatedReply::Drop => Outcome::BrokenResponse,
        };
        let ended_at = now.max(self.started_at);
        let went = AttemptResult {
            started_at: self.started_at,
            ended_at,
            duration_ms: (ended_at - self.started_at).unsigned_abs(),
            http_status,
            outcome,
            error: None,
            response: None,
            retry_after,
            disable: false,
            own_fault: None,
            signed: None,
            version: self.defined.version,
        };
        // The loop may have died.
        drop(self.ended.send(Box::new((self.item, self.row, went))));
        self.notify.notify();
    }
}
