//! Quotas of surveys (`limits.max_completed`): at most so many completed responses of a
//! survey over all partitions. An offer of such a survey holds a grant until it is
//! completed, is dismissed or lapses. The coordinator in partition 0 gives grants out,
//! every partition keeps a lease of them, and unused grants go where users answer. Messages
//! between coordinator and leases travel through the journals, in order between any two
//! partitions. Nothing here reads a clock.

mod allocator;
pub mod cap;
mod coordinator;
mod lease;
mod message;
mod redistribute;

pub use allocator::QuotaAllocator;
pub use coordinator::QuotaCoordinator;
pub use lease::{QuotaChange, QuotaLease, QuotaStatus};
pub use message::{COORDINATOR_PARTITION, QuotaMessage, QuotaSignal};
pub use redistribute::{Holds, redistribute};

#[cfg(test)]
mod tests;
