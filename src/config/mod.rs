//! Configuration in two phases: what was written (layers of TOML, with the
//! place of every fault), and what it means ([`Config`], with nothing left to
//! check).

mod raw;
mod redact;
mod resolved;

pub use raw::{DEFAULT, Error, Overrides, changed_keys, load};
pub use redact::redact;
pub use resolved::{Config, FOREVER, Key, LogFormat, Retention};
