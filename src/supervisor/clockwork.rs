//! The test clock: it moves through every due time up to the new now, and at
//! each lets the engine and the delivery come to rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::actor;
use crate::bridge::Advance;
use crate::clock::Clock;
use crate::delivery;
use crate::domain::time::Millis;
use crate::log::{At, Log};
use crate::wire::topic::Topic;

/// The longest that everything may take to come to rest at one time.
const REST: Duration = Duration::from_secs(60);

pub struct Clockwork {
    pub clock: Clock,
    pub log: Log,
    pub engine: Vec<Arc<actor::Status>>,
    pub delivery: Arc<delivery::Status>,
}

impl Clockwork {
    /// Serves one request after the other.
    pub fn run(self) -> tokio::sync::mpsc::Sender<Advance> {
        let (sender, mut requests) = tokio::sync::mpsc::channel::<Advance>(16);
        tokio::spawn(async move {
            while let Some((by, done)) = requests.recv().await {
                let now = self.advance(by).await;
                // Whoever asked may have gone.
                done.send(now).ok();
            }
        });
        sender
    }

    async fn advance(&self, by: Millis) -> Millis {
        let goal = self.clock.now().saturating_add(by);
        self.rest().await;
        while let Some(due) = self.delivery.next_due().filter(|due| *due <= goal) {
            let now = self.clock.now();
            self.clock.set_ahead(self.clock.ahead() + (due - now).max(0));
            self.rest().await;
        }
        self.clock.set_ahead(self.clock.ahead() + (goal - self.clock.now()).max(0));
        self.rest().await;
        self.clock.now()
    }

    /// Waits until nothing is left to do at this time.
    async fn rest(&self) {
        let deadline = Instant::now() + REST;
        let mut calm = 0;
        while calm < 3 && Instant::now() < deadline {
            let turn = self.delivery.turn.load(Ordering::Acquire);
            let settled = self.engine_rests();
            // A whole turn of the delivery begun after what is looked at here.
            while self.delivery.turn.load(Ordering::Acquire) < turn + 2 && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let rests = settled && self.engine_rests() && self.delivery.idle.load(Ordering::Acquire);
            calm = if rests { calm + 1 } else { 0 };
        }
    }

    fn engine_rests(&self) -> bool {
        (0..).zip(&self.engine).all(|(partition, status)| {
            let end = self.log.bounds(At { topic: Topic::Events, partition }).end;
            status.next.load(Ordering::Acquire) >= end && status.settled.load(Ordering::Acquire)
        })
    }
}
