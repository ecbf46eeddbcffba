//! Results as text or JSON. Somebody who stops reading ends the program quietly.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::io::Write as _;

use super::Format;

/// A line on standard output.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
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
