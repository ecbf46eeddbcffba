//! The pure core: what a record means for a user.
//!
//! `apply` takes a state and a record and gives a state and outputs. Nothing
//! in here reads a clock, a random number, a file, the process's configuration
//! or an unordered map; whatever decides comes in through the journal. Nothing
//! in here knows bytes on a wire, a topic's name, a store or a thread.

pub mod definitions;
pub mod eligibility;
pub mod id;
pub mod json;
pub mod limits;
pub mod quota;
pub mod record;
pub mod refs;
pub mod settings;
pub mod survey;
pub mod time;
pub mod user;
pub mod webhook;

/// Version of the decision rules in this crate and in the engine; every checkpoint names
/// it. A change of the rules takes the next number and adds a row to [`RULES`].
pub const LOGIC_VERSION: u32 = 7;

/// Whether rules of a later version can use a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateCompatibility {
    /// The later rules continue from it; past decisions stand.
    GoesOn,
    /// The later rules would misread it; it is rebuilt from the journal.
    ReplayNeeded,
}

/// Every released version of the rules, and whether [`LOGIC_VERSION`] can use its state.
/// Numbers are never reused.
pub const RULES: &[(u32, StateCompatibility)] = &[
    // 0.1.0.
    (4, StateCompatibility::GoesOn),
    // An erasure counts once; event ids are forgotten after their time; a wrong clock can
    // be corrected.
    (5, StateCompatibility::GoesOn),
    // Locales, platforms and versions match in the spellings that apps send; a rating may
    // be written 4.0; dates and epochs are times; schedules may be in the user's zone;
    // texts that programs write for a missing value are refused as user ids. Answers of
    // completed responses are kept for rules.
    (6, StateCompatibility::GoesOn),
    // Displays, answers, completions and dismissals before the latest are kept, and events
    // that rules count; cycles, waves and snoozes; links start no cooldown; users have
    // aliases.
    (LOGIC_VERSION, StateCompatibility::GoesOn),
];

/// Whether the current rules can use a state made by a version of the rules; `None` for
/// rules that were never released, or that are newer.
pub fn succession(logic_version: u32) -> Option<StateCompatibility> {
    RULES.iter().find(|(version, _)| *version == logic_version).map(|(_, succession)| *succession)
}

/// Whether the current rules continue from a state made by a version of the rules.
pub fn goes_on_from(logic_version: u32) -> bool {
    succession(logic_version) == Some(StateCompatibility::GoesOn)
}
