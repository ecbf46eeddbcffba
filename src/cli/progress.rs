//! Progress on standard error, and only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over journal records, with rate and the time that is left.
pub fn records(doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(doing);
    bar
}
