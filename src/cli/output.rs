//! Prints results as text or JSON. When standard output is closed, the rest is dropped
//! without an error.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::{ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::Format;

/// Whether standard output is closed.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Prints a line. A closed standard output changes neither what the verb does nor its exit
/// code.
pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// Prints a text without a line end.
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

/// Whether standard output is closed, so that a verb which only shows something may end.
pub fn nobody_reads() -> bool {
    UNREAD.load(Ordering::Acquire)
}

pub fn json(value: &Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints a server's response as JSON, or a sentence about it as text.
pub fn answer(format: Format, answer: &Value, text: &str) {
    match format {
        Format::Json => json(answer),
        Format::Text => line(&escape(text)),
    }
}

/// Prints columns without borders, so that other programs can cut them.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape(cell)));
    }
    line(&table.trim_fmt());
}

/// Escapes control characters, which could change the terminal.
pub fn escape(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
