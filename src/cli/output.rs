//! Results as text or JSON. Somebody who stops reading ends the program quietly.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::Format;

/// Set once nobody reads standard output any more.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// A line on standard output. Whoever has stopped reading does not stop the
/// verb: what it does and its exit code stay the same.
pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// Text on standard output as it stands.
pub fn write(text: &str) {
    if nobody_reads() {
        return;
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => UNREAD.store(true, Ordering::Release),
        Err(error) => {
            askwhen_process::complain(&format!("askwhen: standard output cannot be written: {error}"));
            askwhen_process::exit(1);
        }
    }
}

/// Whether output is written for nobody: what only shows something may end.
pub fn nobody_reads() -> bool {
    UNREAD.load(Ordering::Acquire)
}

pub fn json(value: &Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// What a server said, or a line about it.
pub fn said(format: Format, said: &Value, text: &str) {
    match format {
        Format::Json => json(said),
        Format::Text => line(&escape(text)),
    }
}

/// Columns without borders, so that other programs can cut them.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell)));
    }
    line(&table.trim_fmt());
}

/// Control characters of whatever origin never reach the terminal.
pub fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
