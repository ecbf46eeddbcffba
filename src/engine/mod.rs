//! The engine: the state machine that decides. It holds the users and definitions of one
//! partition, and turns records into decisions, responses and deliveries by
//! `domain::apply`. It knows no HTTP and sends nothing.

mod cap_requests;
mod caps;
mod changes;
mod closing;
mod closings;
mod commands;
mod counters;
mod decide;
mod decided;
mod endpoint_secrets;
pub mod export;
pub mod families;
mod gauge;
mod open_windows;
mod outputs;
mod passing;
mod pending;
mod pending_requests;
mod quotas;
mod registrar;
mod remembered;
mod restore;
pub mod shared;
mod state;
mod table;
mod users;

use askwhen_domain::time::Millis;
use askwhen_log::{Log, NewRecord};
use askwhen_partition::StopReason;
use askwhen_partition::checkpoint::CheckpointMeta;
use askwhen_partition::{Effects, Failure, Frozen, Machine, RecordContext};
use askwhen_store::Batch;
use askwhen_wire::record::Decoded;
use askwhen_wire::topic::Topic;

pub use open_windows::{OpenWindows, open_windows};
pub use state::Engine;
pub use users::CacheLimit;

impl Machine for Engine {
    fn apply(&mut self, at: RecordContext<'_>, record: Decoded<'_>) -> Result<Effects, Failure> {
        let mut effects = commands::apply(self, at, record)?;
        self.resume_overdue(at, &mut effects)?;
        self.notice_closings(at, &mut effects);
        Ok(effects)
    }

    fn wants_ticks(&self) -> bool {
        self.quotas.anyone_waits()
    }

    fn lost_definitions(&self, log: &Log, meta: &CheckpointMeta) -> Result<Vec<NewRecord>, StopReason> {
        restore::lost_definitions(&self.table, log, meta)
    }

    fn output_topics(&self, partition: u32) -> Vec<Topic> {
        let mut topics = vec![Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects];
        if partition == 0 {
            // Only the registrar writes it.
            topics.push(Topic::Definitions);
        }
        topics
    }

    fn dirty_bytes(&self) -> usize {
        self.users.dirty_bytes() + self.recent.dirty_bytes() + self.quotas.dirty_bytes() + self.remembered.dirty_bytes()
    }

    fn freeze(&mut self, now: Millis) -> Frozen {
        let users = self.users.freeze();
        let recent = self.recent.freeze(now);
        let table = self.table.freeze();
        let quotas = self.quotas.freeze(self.closings.take_dirty());
        let remembered = self.remembered.freeze(now, self.longest_expiry());
        Box::new(move || {
            let mut batch = Batch::default();
            users(&mut batch);
            recent(&mut batch);
            table(&mut batch);
            quotas(&mut batch);
            remembered(&mut batch);
            batch
        })
    }

    fn persisted(&mut self) {
        self.quotas.caps.persisted();
        self.users.set_beside(self.quotas.caps.memory_bytes());
        self.users.persisted();
        self.recent.persisted();
        self.remembered.persisted();
        if self.metrics().is_some() {
            self.rows.set(i64::try_from(self.store.estimated_keys(families::DEDUPE)).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests;
