//! Configuration in two phases: what was written (layers of TOML, with the
//! place of every fault), and what it means ([`Config`], with nothing left to
//! check).

mod raw;
mod resolved;

pub use raw::{DEFAULT, Error, Overrides, load};
pub use resolved::{Config, Key, Retention};
