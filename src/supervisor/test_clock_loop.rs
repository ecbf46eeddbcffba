//! The test clock: it moves through every due time up to the new now, and lets the
//! engine and the delivery come to rest at each. Every move is a record of every
//! partition's journal, because time decides and whatever decides is in the journal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::bridge::AdvanceClock;
use crate::delivery;
use askwhen_domain::time::Millis;
use askwhen_log::{Log, TopicPartition};
use askwhen_partition::Signer;
use askwhen_process::clock::Clock;
use askwhen_process::thread::vital;
use askwhen_wire::record::Internal;
use askwhen_wire::seal::ClusterKey;
use askwhen_wire::topic::Topic;

/// How long engine and delivery may take to come to rest at one time.
const MAX_REST: Duration = Duration::from_secs(60);

/// Due times that are closer together are met in one step, at the later time: each is late
/// by less than a second, as it would be in real time.
const STRIDE: Millis = 250;

pub struct TestClock {
    pub clock: Clock,
    pub log: Log,
    pub key: ClusterKey,
    pub engine: Vec<Arc<askwhen_partition::Status>>,
    pub delivery: Arc<delivery::Status>,
}

impl TestClock {
    /// Performs requests to move the clock, one after the other.
    pub fn run(self) -> tokio::sync::mpsc::Sender<AdvanceClock> {
        let (sender, mut requests) = tokio::sync::mpsc::channel::<AdvanceClock>(16);
        tokio::spawn(vital("test clock", async move {
            while let Some(AdvanceClock { by, done }) = requests.recv().await {
                let now = self.advance(by).await;
                // The client may have gone.
                done.send(now).ok();
            }
        }));
        sender
    }

    async fn advance(&self, by: Millis) -> Millis {
        let goal = self.clock.now().saturating_add(by);
        self.rest().await;
        let mut soonest = self.clock.now();
        while let Some(due) = self.delivery.next_due().filter(|due| *due <= goal) {
            let at = due.max(soonest).min(goal);
            self.move_to(at).await;
            soonest = at.saturating_add(STRIDE);
        }
        self.move_to(goal).await;
        self.clock.now()
    }

    async fn move_to(&self, time: Millis) {
        let ahead = self.clock.ahead() + (time - self.clock.now()).max(0);
        self.clock.set_ahead(ahead);
        let signer = Signer::new(&self.log, &self.key);
        for partition in 0..self.log.partitions() {
            let at = TopicPartition { topic: Topic::Events, partition };
            let new = signer.internal(partition, "clock", &Internal::Clock { ahead });
            if let Err(error) = self.log.append_durably(at, vec![new]).await {
                tracing::error!(%error, partition, "the test clock could not be moved");
            }
        }
        self.rest().await;
    }

    /// Waits until engine and delivery have nothing left to do at this time.
    async fn rest(&self) {
        let deadline = Instant::now() + MAX_REST;
        let mut calm = 0;
        while calm < 3 && Instant::now() < deadline {
            let turn = self.delivery.turn.load(Ordering::Acquire);
            let settled = self.has_read_all().await;
            // Two turns: one may have begun before the engine had settled.
            while self.delivery.turn.load(Ordering::Acquire) < turn + 2 && Instant::now() < deadline {
                self.delivery.notify.notify();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let rests = settled && self.has_read_all().await && self.delivery.idle.load(Ordering::Acquire);
            calm = if rests { calm + 1 } else { 0 };
        }
    }

    /// Whether engine and delivery have read their topics to the end.
    async fn has_read_all(&self) -> bool {
        let partitions = self.log.partitions();
        let read = delivery::Fold::topics();
        let all: Vec<TopicPartition> = (0..partitions)
            .flat_map(|partition| {
                let topics = [Topic::Events].into_iter().chain(read);
                topics.map(move |topic| TopicPartition { topic, partition })
            })
            .collect();
        let (log, asked) = (self.log.clone(), all.clone());
        let bounds = tokio::task::spawn_blocking(move || log.all_bounds(&asked)).await;
        let Ok(Ok::<_, askwhen_log::Error>(bounds)) = bounds else { return false };
        let positions = self.delivery.positions.lock().expect("no panic holds this lock").clone();
        all.into_iter().zip(bounds).all(|(at, bounds)| {
            if at.topic != Topic::Events {
                return delivery::reached(&positions, at, bounds.end);
            }
            let status = &self.engine[at.partition as usize];
            status.next.load(Ordering::Acquire) >= bounds.end && status.settled.load(Ordering::Acquire)
        })
    }
}
