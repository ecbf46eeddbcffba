//! Starts the roles of a process, says when they are ready, and stops them so that
//! nothing is lost. It is the only place that knows all roles.

pub mod backup;
pub mod checkup;
mod console_lists;
mod data;
pub mod export;
mod format;
mod history;
mod housekeeping;
mod keys;
mod listeners;
mod memory;
mod open_files;
mod open_windows;
mod options;
mod owners;
pub mod private;
pub mod promote;
mod readiness;
pub mod repair;
mod running;
mod settings;
mod snapshots;
mod source;
mod start;
mod test_clock_loop;
mod wall;

pub use crate::replay::Error;
pub use data::{FreshKeys, KeysFile, read_keys};
pub use format::refuse_later_layout;
pub use keys::{has_open_metrics, is_public, keys_in_force, keys_path, unsigned_projects};
pub use options::{Options, Roles};
pub use running::Running;
pub use settings::{kafka_settings, repository};
pub use snapshots::{Role, list_all as list_snapshots};
pub use source::source;
pub use start::start;
