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

/// Version of the rules in this module and in the engine. It is part of every
/// checkpoint. A change of the rules takes the next number and says in
/// [`RULES`] what becomes of state that was made by the ones before.
pub const LOGIC_VERSION: u32 = 7;

/// What a state is to rules of a later version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateCompatibility {
    /// The later rules go on from it: what was decided stands.
    GoesOn,
    /// The later rules would read it wrongly: it is made anew from the journal.
    ReplayNeeded,
}

/// Every version of the rules that was released, and what its state is to
/// [`LOGIC_VERSION`]. Numbers are never used again.
pub const RULES: &[(u32, StateCompatibility)] = &[
    // 0.1.0.
    (4, StateCompatibility::GoesOn),
    // An erasure counts once; ids are forgotten after their time; a clock that
    // was wrong can be put right.
    (5, StateCompatibility::GoesOn),
    // Locales, platforms and versions match in the spellings that apps send; a
    // rating may be written 4.0; dates and epochs are times; schedules may be on
    // the user's clocks; what programs write for nothing is no user's id. Answers of
    // completed responses are kept for rules that ask for them.
    (6, StateCompatibility::GoesOn),
    // Displays, answers, completions and dismissals before the latest are kept, and
    // events that rules count; cycles, waves and snoozes; links start no cooldown; users
    // have aliases.
    (LOGIC_VERSION, StateCompatibility::GoesOn),
];

/// What a state made by rules of a version is to these; `None` for rules that
/// were never released, or that come later.
pub fn succession(logic_version: u32) -> Option<StateCompatibility> {
    RULES.iter().find(|(version, _)| *version == logic_version).map(|(_, succession)| *succession)
}

/// Whether these rules go on from a state made by rules of a version.
pub fn goes_on_from(logic_version: u32) -> bool {
    succession(logic_version) == Some(StateCompatibility::GoesOn)
}
