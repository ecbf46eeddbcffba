//! Under which names a user is known.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// Aliases that a user may have.
pub const MAX_ALIASES: usize = 256;

/// Most users have one name, and then only the time of their attributes is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The user that this name is an alias of: then nothing else is kept under it.
    pub alias_of: Option<String>,
    /// The user's aliases, in the order in which they came; an alias of an alias stands
    /// before it.
    pub aliases: Vec<Alias>,
    /// When the user's attributes began. They are older than any other where it is not
    /// known.
    pub attributes_since: Option<Millis>,
}

/// Another name of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub name: String,
    /// When what was known under it went over.
    pub since: Millis,
}

impl Identity {
    pub(super) fn is_empty(&self) -> bool {
        *self == Identity::default()
    }

    /// What it takes in a state, about.
    pub(super) fn len_bytes(&self) -> usize {
        let names = self.alias_of.iter().chain(self.aliases.iter().map(|alias| &alias.name));
        names.map(|name| name.len() + 8).sum::<usize>() + 9
    }
}
