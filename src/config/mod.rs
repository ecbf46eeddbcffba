//! The configuration in two phases: layers of TOML are merged (`raw`), then checked and
//! turned into a [`Config`] (`resolved`). Every fault names its key and its place.

mod guess;
pub mod log_filter;
mod raw;
mod redact;
mod reload;
mod resolved;

pub use raw::{DEFAULT, Error, Overrides, changed_keys, load};
pub use redact::{redact, shown};
pub use reload::{in_force, is_reloaded};
pub use resolved::{Config, FOREVER, Key, LEAST_SECRET_CHARS, LogFormat, Retention};
