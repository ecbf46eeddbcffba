//! The runtime of a partition: it reads the journal, lets a machine apply each record,
//! writes outputs and forwards, and writes checkpoints of what is acknowledged. Reprocessed
//! records produce the same ids, and outputs that the log already has are not written
//! again. It knows nothing of surveys.

mod ack_tracker;
pub mod admission;
pub mod assignment;
pub mod attempts;
mod barrier;
pub mod checkpoint;
mod definitions;
mod loss;
mod machine;
mod partition;
pub mod pool;
pub mod relocate;
pub mod replayer;
pub mod reply;
mod restart;
mod setup;
mod status;
mod stop;
pub mod surplus;

pub use admission::Signer;
pub use barrier::StartBarrier;
pub use checkpoint::Frozen;
pub use loss::{accepted_losses, is_accepted};
pub use machine::{Effects, Failure, Machine, Outgoing, Output, RecordContext};
pub use partition::{Handles, Partition, Progress};
pub use reply::{EngineReply, Replies};
pub use restart::poisoned;
pub use setup::Setup;
pub use status::{Phase, Status};
pub use stop::{PartitionError, StopReason, WaitReason};
