//! What partitions tell each other of a survey that closes.

use crate::engine::state::Engine;
use askwhen_partition::{Effects, RecordContext};
use askwhen_wire::record::ClosingMessage;

/// Takes it, and tells endpoints when all is known.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &ClosingMessage) -> Effects {
    let mut effects = Effects::default();
    engine.receive_closing(at, command, &mut effects);
    effects
}
