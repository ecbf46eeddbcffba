//! Values for the cells of a table that people open in a spreadsheet.

use serde_json::Value;

/// What a formula begins with, also in full width, which some programs take for the same, and
/// the blanks that some skip before it.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// The text of a cell. A text that a spreadsheet would take for a formula gets a quote in
/// front. Several values are joined; an answer in one's own words is its text.
pub fn cell_text(value: &Value) -> String {
    let text = plain(value);
    let is_formula = !value.is_number() && text.starts_with(FORMULA);
    if is_formula { format!("'{text}") } else { text }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("; "),
        Value::Object(members) => members.get("other").map_or_else(|| value.to_string(), plain),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formulas_are_texts_and_numbers_stay_numbers() {
        let cases = [
            (json!(null), ""),
            (json!(-4), "-4"),
            (json!("-4"), "'-4"),
            (json!("=1+1"), "'=1+1"),
            (json!("\n=1"), "'\n=1"),
            (json!("＝1"), "'＝1"),
            (json!(["@a", "b"]), "'@a; b"),
            (json!({"other": "+49"}), "'+49"),
            (json!([{"other": "mine"}, "b"]), "mine; b"),
            (json!(true), "true"),
        ];
        for (value, text) in cases {
            assert_eq!(cell_text(&value), text, "{value}");
        }
    }
}
