//! A message between partitions about a survey that closes.

use crate::engine::state::Engine;
use askwhen_partition::{Effects, RecordContext};
use askwhen_wire::record::ClosingMessage;

/// Applies it, and reports the closing once all counts are known.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: &ClosingMessage) -> Effects {
    let mut effects = Effects::default();
    engine.receive_closing(at, command, &mut effects);
    effects
}
