//! How far the wall clock is trusted, from one process to the next, because what is removed
//! for its age is gone whatever the clock says later.

use std::path::{Path, PathBuf};

use super::private;
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_process::clock::Clock;

/// The file with the time up to which the last process trusted its wall clock.
fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("time")
}

/// The time up to which the last process trusted its wall clock, if it is noted.
pub fn noted(data_dir: &Path) -> Option<Millis> {
    let path = path(data_dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let noted = time::parse_time(text.trim());
            if let Err(why) = noted {
                tracing::warn!(path = %path.display(), why, "the note of the time is unreadable: the newest record counts");
            }
            noted.ok()
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the note of the time cannot be read: the newest record counts");
            None
        }
    }
}

/// Lets the clock continue from a time: nothing is older than by that time until the wall
/// clock has run steadily.
pub fn distrust(clock: &Clock, from: Millis) {
    let ahead = clock.wall().saturating_sub(from);
    if ahead > DAY {
        tracing::warn!(
            last_known = %time::format_time(from),
            "the clock is {} days ahead of when this server was used last. Nothing is removed for its age before the \
             clock has gone steadily for a day: if it is wrong, stop the server and set it",
            ahead / DAY
        );
    }
    clock.goes_on_from(from);
}

/// Notes the time for the next process.
///
/// # Errors
/// When it cannot be written.
pub fn note(clock: &Clock, data_dir: &Path) -> std::io::Result<()> {
    private::replace(&path(data_dir), time::format_time(clock.cautious()).as_bytes())
}
