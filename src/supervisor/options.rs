//! What one process is asked to run.

/// The roles of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub bridge: bool,
    pub engine: bool,
    pub delivery: bool,
    pub console: bool,
}

impl Roles {
    /// Whether one of them owns partitions.
    pub(super) fn own_partitions(self) -> bool {
        self.engine || self.delivery
    }

    pub const ALL: Roles = Roles { bridge: true, engine: true, delivery: true, console: true };
}

/// What the arguments of `serve` ask for, beside the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub test_clock: bool,
    /// Receivers on this machine are allowed, and new data directories get no cooldown.
    pub dev: bool,
    /// Makes API keys anew where `keys.toml` of the data directory is lost.
    pub new_keys: bool,
    pub roles: Roles,
}
