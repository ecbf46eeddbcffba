//! Definition files: YAML 1.2 (core schema) or JSON, one or many documents,
//! with the line of every member, so that a fault is told by file and line.

use saphyr::{Marker, Scalar, ScalarStyle, ScanError};
use saphyr_parser::{Event, Parser};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

const MAX_DEPTH: usize = 64;

/// A document as JSON, and the line (from 1) on which each pointer stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub value: Value,
    pub lines: BTreeMap<String, usize>,
}

impl Document {
    /// The line of a pointer, or of the nearest member above it.
    pub fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            match pointer.rfind('/') {
                Some(at) => pointer = &pointer[..at],
                None => return 1,
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {detail}")]
pub struct Error {
    pub line: usize,
    pub detail: String,
}

impl From<ScanError> for Error {
    fn from(error: ScanError) -> Error {
        Error { line: error.marker().line(), detail: error.info().to_owned() }
    }
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads every document of a file; empty ones are left out.
///
/// # Errors
/// The first place that is not YAML, or that uses anchors, tags, a key that is
/// no string, or the same key twice.
pub fn documents(text: &str) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    let mut stack: Vec<Open> = Vec::new();
    let mut lines = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for item in Parser::new_from_str(text) {
        let (event, span) = item.map_err(Error::from)?;
        let start = span.start;
        let fail = |detail: &str| Err(Error { line: start.line(), detail: detail.to_owned() });
        let done = match event {
            Event::Alias(_) => return fail("aliases are not supported here; write it out"),
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(anchor, ref tag)
            | Event::MappingStart(anchor, ref tag)
                if anchor > 0 || tag.is_some() =>
            {
                return fail("anchors and tags are not supported here; write it out");
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if stack.len() >= MAX_DEPTH {
                    return fail("nested more than 64 deep");
                }
                if let Some(Open::Map(_, None)) = stack.last() {
                    return fail("a key must be a string");
                }
                enter(&stack, &mut path);
                note(&mut lines, &path, start);
                stack.push(match event {
                    Event::SequenceStart(..) => Open::List(Vec::new()),
                    _ => Open::Map(Map::new(), None),
                });
                continue;
            }
            Event::Scalar(text, style, ..) => {
                if let Some(Open::Map(members, key @ None)) = stack.last_mut() {
                    if members.contains_key(&*text) {
                        return fail(&format!("the key {text} stands here twice"));
                    }
                    *key = Some(text.into_owned());
                    // A member's line is its key's, also when the value stands below.
                    let mut place = path.clone();
                    place.push(key.clone().expect("just set"));
                    note(&mut lines, &place, start);
                    continue;
                }
                enter(&stack, &mut path);
                lines.entry(pointer(&path)).or_insert(start.line());
                match scalar(&text, style) {
                    Some(value) => value,
                    None => return fail("this number cannot be read"),
                }
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Map(members, _)) => Value::Object(members),
                None => return fail("unbalanced"),
            },
            _ => continue,
        };
        match stack.last_mut() {
            None => {
                if !done.is_null() {
                    documents.push(Document { value: done, lines: std::mem::take(&mut lines) });
                }
                lines.clear();
                path.clear();
            }
            Some(Open::List(list)) => {
                list.push(done);
                path.pop();
            }
            Some(Open::Map(members, key)) => {
                members.insert(key.take().expect("a value follows its key"), done);
                path.pop();
            }
        }
    }
    Ok(documents)
}

/// Steps into the member or entry that begins.
fn enter(stack: &[Open], path: &mut Vec<String>) {
    match stack.last() {
        Some(Open::List(list)) => path.push(list.len().to_string()),
        Some(Open::Map(_, Some(key))) => path.push(key.clone()),
        _ => {}
    }
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

fn note(lines: &mut BTreeMap<String, usize>, path: &[String], at: Marker) {
    lines.entry(pointer(path)).or_insert(at.line());
}

/// YAML 1.2 core schema; numbers keep their digits where JSON can spell them.
fn scalar(text: &str, style: ScalarStyle) -> Option<Value> {
    Some(match Scalar::parse_from_cow_and_metadata(text.into(), style, None)? {
        Scalar::Null => Value::Null,
        Scalar::Boolean(truth) => Value::Bool(truth),
        Scalar::String(text) => Value::String(text.into_owned()),
        Scalar::Integer(number) => Value::Number(number.into()),
        Scalar::FloatingPoint(number) => {
            let spelled = serde_json::from_str::<Number>(text).ok();
            Value::Number(spelled.or_else(|| Number::from_f64(number.into_inner()))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn core_schema_and_lines() {
        let text = "a: no\nb: on\nhours: [\"06:00\", 23:00]\nc:\n  - x: 1\n    y: ~\n---\n{\"k\": 1.50}\n---\n";
        let documents = documents(text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            documents[0].value,
            json!({"a": "no", "b": "on", "hours": ["06:00", "23:00"], "c": [{"x": 1, "y": null}]})
        );
        assert_eq!(documents[0].line("/c/0/y"), 6);
        assert_eq!(documents[0].line("/c"), 4);
        assert_eq!(documents[0].line("/c/0/nothing"), 5);
        assert_eq!(documents[1].value["k"].to_string(), "1.50");
        assert_eq!(documents[1].line("/k"), 8);
    }

    #[test]
    fn what_is_refused_is_told_with_its_line() {
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: &x 1\n", 1),
            ("a: *x\n", 1),
            ("a: !!int 3\n", 1),
            ("a: [1\n", 2),
            ("? [a]\n: 1\n", 1),
        ] {
            let error = documents(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
        }
        let deep = "[".repeat(200);
        assert!(documents(&deep).is_err());
    }
}
