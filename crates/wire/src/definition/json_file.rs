//! Parses definition files in JSON: one value or several after each other, with the line of
//! every member.

use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use super::yaml::{Document, Error, Lines};
use crate::json;

/// Parses every value of a file; `null` is left out, and a list counts as its entries.
///
/// # Errors
/// The first place that is not valid JSON, or that the strict reader refuses.
pub fn documents(text: &str) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    for next in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let raw = next.map_err(|error| Error { line: error.line(), detail: sentence(&error) })?.get();
        let begins = raw.as_ptr().addr() - text.as_ptr().addr();
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let checked = json::check(raw.as_bytes())
            .map_err(|error| Error { line: line_of(begins + error.byte_offset), detail: error.to_string() })?;
        let fail = |error: serde_json::Error| Error { line: line_of(begins), detail: error.to_string() };
        let value: Value = serde_json::from_str(checked).map_err(fail)?;
        if !value.is_null() {
            let mut walk =
                Walk { bytes: checked.as_bytes(), text: checked, at: 0, line: line_of(begins), lines: BTreeMap::new() };
            walk.value("");
            if let Value::Array(entries) = value {
                documents.extend(entries.into_iter().enumerate().map(|(n, value)| entry(n, value, &walk.lines)));
                continue;
            }
            documents.push(Document { value, lines: Lines(walk.lines) });
        }
    }
    Ok(documents)
}

/// A definition in a list, as `askwhen get --output json` prints it.
fn entry(index: usize, value: Value, all: &BTreeMap<String, usize>) -> Document {
    let prefix = format!("/{index}");
    let own = |(pointer, line): (&String, &usize)| {
        let rest = pointer.strip_prefix(&prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        Some((rest.to_owned(), *line))
    };
    Document { value, lines: Lines(all.iter().filter_map(own).collect()) }
}

/// The error's message without its position.
fn sentence(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Walks through valid JSON of bounded depth, and notes the line of each member and entry.
struct Walk<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: usize,
    lines: BTreeMap<String, usize>,
}

impl Walk<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Skips spaces, commas and colons.
    fn skip(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n' | b',' | b':')) = self.peek() {
            self.line += usize::from(byte == b'\n');
            self.at += 1;
        }
    }

    fn string(&mut self) -> String {
        let begins = self.at;
        self.at += 1;
        while let Some(byte) = self.peek().filter(|byte| *byte != b'"') {
            self.at += if byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        serde_json::from_str(&self.text[begins..self.at]).unwrap_or_default()
    }

    fn value(&mut self, pointer: &str) {
        self.skip();
        self.lines.entry(pointer.to_owned()).or_insert(self.line);
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.skip();
                while self.peek() == Some(b'"') {
                    let line = self.line;
                    let name = self.string().replace('~', "~0").replace('/', "~1");
                    let inner = format!("{pointer}/{name}");
                    self.lines.insert(inner.clone(), line);
                    self.value(&inner);
                    self.skip();
                }
                self.at += 1;
            }
            Some(b'[') => {
                self.at += 1;
                self.skip();
                let mut index = 0;
                while self.peek().is_some_and(|byte| byte != b']') {
                    self.value(&format!("{pointer}/{index}"));
                    self.skip();
                    index += 1;
                }
                self.at += 1;
            }
            Some(b'"') => drop(self.string()),
            _ => {
                while self.peek().is_some_and(|byte| !b" \t\r\n,]}".contains(&byte)) {
                    self.at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_and_lines() {
        let text = "{\n  \"name\": \"\\ud83d\\ude00\",\n  \"a\": [\n    1.50,\n    {\"b/c\": true}\n  ], \"d\": {}\n}\n\n{\"k\":\n null}\n";
        let documents = documents(text).unwrap();
        assert_eq!(documents[0].value["name"], "\u{1f600}");
        assert_eq!(documents[1].value, json!({"k": null}));
        for (pointer, line) in [("", 1), ("/name", 2), ("/a", 3), ("/a/0", 4), ("/a/1/b~1c", 5), ("/d", 6), ("/a/7", 3)]
        {
            assert_eq!(documents[0].lines.line(pointer), line, "{pointer}");
        }
        assert_eq!((documents[1].lines.line(""), documents[1].lines.line("/k")), (9, 9));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_line() {
        for (text, line) in
            [("{\n\"a\": 1,\n}", 3), ("{\"a\":\n\"\\ud800\"}", 2), ("{\"a\": 1,\n\n\"a\": 2}", 3), ("{}\n{", 2)]
        {
            let error = documents(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(!error.detail.contains(" at line "), "{error}");
        }
        assert!(documents(&"[".repeat(200_000)).is_err());
    }
}
