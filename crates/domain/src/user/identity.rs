//! The names under which a user is known.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// The most aliases of a user.
pub const MAX_ALIASES: usize = 256;

/// Aliases and the age of the attributes. Most users have one name and need only the
/// latter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The user of whom this name is an alias; then nothing else is stored under it.
    pub alias_of: Option<String>,
    /// The user's aliases in the order in which they were added; an alias of an alias
    /// precedes it.
    pub aliases: Vec<Alias>,
    /// When the user got the first attribute. `None` counts as the oldest.
    pub attributes_since: Option<Millis>,
}

/// Another name of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub name: String,
    /// When the state under it was merged into the user's.
    pub since: Millis,
}

impl Identity {
    pub(super) fn is_empty(&self) -> bool {
        *self == Identity::default()
    }

    /// About how many bytes it takes in a stored state.
    pub(super) fn len_bytes(&self) -> usize {
        let names = self.alias_of.iter().chain(self.aliases.iter().map(|alias| &alias.name));
        names.map(|name| name.len() + 8).sum::<usize>() + 9
    }
}
