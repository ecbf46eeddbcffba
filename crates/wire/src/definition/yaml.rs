//! Parses definition files in YAML 1.2 (core schema) or JSON, with one or several documents
//! and the line of every member, so that faults can name file and line.

use saphyr::{Marker, Scalar, ScalarStyle, ScanError};
use saphyr_parser::{Event, Parser};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

const MAX_DEPTH: usize = 64;

/// A document as JSON, with the line (from 1) of each pointer.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub value: Value,
    pub lines: Lines,
}

/// The lines of a document's members, by their pointers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lines(pub BTreeMap<String, usize>);

impl Lines {
    /// The line of a pointer, or of the nearest pointer above it.
    pub fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.0.get(pointer) {
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

/// Values of anchors, and how many values their aliases may still expand to.
#[derive(Default)]
struct Anchors {
    values: BTreeMap<usize, Value>,
    nodes: usize,
    bytes: usize,
}

/// The most values that all aliases of a file may expand to.
const MAX_ALIASED_NODES: usize = 10_000;
const MAX_ALIASED_BYTES: usize = 1 << 20;

impl Anchors {
    fn note(&mut self, anchor: usize, value: &Value) {
        if anchor > 0 {
            self.values.insert(anchor, value.clone());
        }
    }

    fn value(&mut self, anchor: usize) -> Result<Value, &'static str> {
        let value = self.values.get(&anchor).ok_or("this alias stands within what it stands for")?;
        let (nodes, bytes) = size(value);
        (self.nodes, self.bytes) = (self.nodes + nodes, self.bytes + bytes);
        if self.nodes > MAX_ALIASED_NODES || self.bytes > MAX_ALIASED_BYTES {
            return Err("the aliases expand to too much: at most 10000 values and 1 MiB");
        }
        Ok(value.clone())
    }
}

/// The number of values in a value, itself included, and the bytes of their texts.
fn size(value: &Value) -> (usize, usize) {
    let sum = |(nodes, bytes): (usize, usize), value: &Value| {
        let (more_nodes, more_bytes) = size(value);
        (nodes + more_nodes, bytes + more_bytes)
    };
    match value {
        Value::String(text) => (1, text.len()),
        Value::Array(list) => list.iter().fold((1, 0), sum),
        Value::Object(members) => {
            members.iter().fold((1, 0), |so_far, (name, value)| sum((so_far.0, so_far.1 + name.len()), value))
        }
        _ => (1, 8),
    }
}

/// The parser's message about a tab after a colon, which YAML allows.
const REFUSES_TAB: &str = "':' must be followed by a valid YAML whitespace";
const MAX_TABS: usize = 1_000;

/// Parses every document of a file; empty ones are left out.
///
/// # Errors
/// The first place that is not YAML, or that has a tag, a key that is not a string, or a
/// repeated key.
pub fn documents(text: &str) -> Result<Vec<Document>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut mended = text.to_owned();
    for _ in 0..MAX_TABS {
        match read(&mended) {
            Err(Unread::Tab(at)) => mended.replace_range(at..=at, " "),
            Err(Unread::Wrong(error)) => return Err(explained(error, text)),
            Ok(documents) => return Ok(documents),
        }
    }
    Err(Error { line: 1, detail: "too many tabs stand behind colons; write spaces".to_owned() })
}

/// Adds what people have to change where the parser only says what it met.
fn explained(mut error: Error, text: &str) -> Error {
    const QUOTED: [&str; 4] =
        ["mapping values are not allowed", "unexpected character", "invalid trailing content", "found reserved"];
    // The parser may stand at the beginning of the line below.
    let here = text.lines().skip(error.line.saturating_sub(2)).take(2);
    if here.clone().any(|line| line.contains('\u{a0}')) {
        error.detail += "; a no-break space stands here, as pages and mails have them: write a plain one";
    } else if here.clone().any(|line| line.contains(['“', '”', '„'])) {
        error.detail += "; YAML knows no “typographic” quotes: write \"straight\" ones";
    } else if QUOTED.iter().any(|start| error.detail.starts_with(start)) {
        error.detail +=
            "; a text that holds \": \" or a quote, or begins with one of @ ` % & * ! | > { [, stands in quotes";
    }
    error
}

enum Unread {
    Wrong(Error),
    /// A tab, at this byte, that could be a space.
    Tab(usize),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Unread {
        Unread::Wrong(error)
    }
}

/// The tab because of which the parser refuses a place.
fn refused_tab(text: &str, error: &ScanError) -> Option<usize> {
    if error.info() != REFUSES_TAB {
        return None;
    }
    let before = error.marker().index().checked_sub(1)?;
    text.char_indices().nth(before).filter(|(_, c)| *c == '\t').map(|(at, _)| at)
}

fn read(text: &str) -> Result<Vec<Document>, Unread> {
    let mut reading = Reading::default();
    for item in Parser::new_from_str(text) {
        let (event, span) =
            item.map_err(|error| refused_tab(text, &error).map_or_else(|| Unread::Wrong(error.into()), Unread::Tab))?;
        let line = span.start.line();
        let read = reading.take(event, span.start);
        read.map_err(|detail| Unread::Wrong(Error { line, detail: detail.into_owned() }))?;
    }
    Ok(reading.documents)
}

type Detail = Cow<'static, str>;

const NOT_A_KEY: Detail = Cow::Borrowed("a key must be a string");
const TOO_DEEP: Detail = Cow::Borrowed("nested more than 64 deep");

/// The state of parsing.
#[derive(Default)]
struct Reading {
    documents: Vec<Document>,
    /// The lists and maps around the current place, each with its anchor.
    stack: Vec<(Open, usize)>,
    anchors: Anchors,
    lines: BTreeMap<String, usize>,
    path: Vec<String>,
}

impl Reading {
    /// Handles one event of the parser.
    ///
    /// # Errors
    /// Why it is refused.
    fn take(&mut self, event: Event<'_>, start: Marker) -> Result<(), Detail> {
        match event {
            Event::Scalar(_, _, _, ref tag) | Event::SequenceStart(_, ref tag) | Event::MappingStart(_, ref tag)
                if tag.is_some() =>
            {
                Err("tags are not supported here; write it out".into())
            }
            Event::SequenceStart(anchor, _) => self.open(Open::List(Vec::new()), anchor, start),
            Event::MappingStart(anchor, _) => self.open(Open::Map(Map::new(), None), anchor, start),
            Event::Scalar(text, style, anchor, _) => {
                let value = scalar(&text, style);
                if let Some(value) = &value {
                    self.anchors.note(anchor, value);
                }
                self.simple(value, Some(text.into_owned()), start)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.value(anchor)?;
                let key = value.as_str().map(str::to_owned);
                self.simple(Some(value), key, start)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, open: Open, anchor: usize, start: Marker) -> Result<(), Detail> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        if let Some((Open::Map(_, None), _)) = self.stack.last() {
            return Err(NOT_A_KEY);
        }
        enter(&self.stack, &mut self.path);
        note(&mut self.lines, &self.path, start);
        self.stack.push((open, anchor));
        Ok(())
    }

    /// A scalar or an alias: the key of a member, or a value.
    fn simple(&mut self, value: Option<Value>, key: Option<String>, start: Marker) -> Result<(), Detail> {
        if let Some((Open::Map(members, named @ None), _)) = self.stack.last_mut() {
            let key = key.ok_or(NOT_A_KEY)?;
            if members.contains_key(&key) {
                return Err(format!("the key {key} stands here twice").into());
            }
            // The line of a member is that of its key, also when its value is on a later
            // line.
            let mut place = self.path.clone();
            place.push(key.clone());
            note(&mut self.lines, &place, start);
            *named = Some(key);
            return Ok(());
        }
        enter(&self.stack, &mut self.path);
        self.lines.entry(pointer(&self.path)).or_insert(start.line());
        let value = value.ok_or("this number cannot be read")?;
        if depth(&value) + self.stack.len() > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        self.put(value);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Detail> {
        let (open, anchor) = self.stack.pop().ok_or("unbalanced")?;
        let value = match open {
            Open::List(list) => Value::Array(list),
            Open::Map(members, _) => Value::Object(merged(members)),
        };
        self.anchors.note(anchor, &value);
        self.put(value);
        Ok(())
    }

    /// Adds a complete value to its list or map.
    fn put(&mut self, done: Value) {
        match self.stack.last_mut() {
            None => {
                if !done.is_null() {
                    self.documents.push(Document { value: done, lines: Lines(std::mem::take(&mut self.lines)) });
                }
                self.lines.clear();
                self.path.clear();
            }
            Some((Open::List(list), _)) => {
                list.push(done);
                self.path.pop();
            }
            Some((Open::Map(members, key), _)) => {
                members.insert(key.take().expect("a value follows its key"), done);
                self.path.pop();
            }
        }
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Applies `<<: *defaults`: adds the members that are not there already.
fn merged(mut members: Map<String, Value>) -> Map<String, Value> {
    let is_merge = |value: &Value| match value {
        Value::Array(list) => list.iter().all(Value::is_object),
        value => value.is_object(),
    };
    if !members.get("<<").is_some_and(is_merge) {
        return members;
    }
    let sources = match members.shift_remove("<<") {
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
        None => Vec::new(),
    };
    for source in sources {
        let Value::Object(source) = source else { continue };
        for (name, value) in source {
            members.entry(name).or_insert(value);
        }
    }
    members
}

/// Steps into the next member or entry.
fn enter(stack: &[(Open, usize)], path: &mut Vec<String>) {
    match stack.last() {
        Some((Open::List(list), _)) => path.push(list.len().to_string()),
        Some((Open::Map(_, Some(key)), _)) => path.push(key.clone()),
        _ => {}
    }
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

fn note(lines: &mut BTreeMap<String, usize>, path: &[String], at: Marker) {
    lines.entry(pointer(path)).or_insert(at.line());
}

/// A scalar by the YAML 1.2 core schema; numbers keep their digits where JSON can spell
/// them.
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
        assert_eq!(documents[0].lines.line("/c/0/y"), 6);
        assert_eq!(documents[0].lines.line("/c"), 4);
        assert_eq!(documents[0].lines.line("/c/0/nothing"), 5);
        assert_eq!(documents[1].value["k"].to_string(), "1.50");
        assert_eq!(documents[1].lines.line("/k"), 8);
    }

    #[test]
    fn tabs_anchors_and_aliases() {
        let text =
            "\u{feff}name:\tA\nlist:\t\t- x\n".replace("list:\t\t- x", "n:\t-1\nquoted: \"a:\tb\"\ntext: |\n  c:\td");
        assert_eq!(
            documents(&text).unwrap()[0].value,
            json!({"name": "A", "n": -1, "quoted": "a:\tb", "text": "c:\td\n"})
        );
        let text =
            "a: &q {type: nps, text: &t Why}\nb: *q\nc: [*t, *q]\nd:\n  <<: *q\n  text: How\n  e: &l [1]\nf: *l\n";
        let document = &documents(text).unwrap()[0];
        let question = json!({"type": "nps", "text": "Why"});
        assert_eq!(
            document.value,
            json!({"a": question, "b": question, "c": ["Why", question],
                "d": {"text": "How", "e": [1], "type": "nps"}, "f": [1]})
        );
        assert_eq!((document.lines.line("/b/type"), document.lines.line("/c/1/text")), (2, 3));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", ")));
        }
        let error = documents(&bomb).unwrap_err();
        assert!(error.detail.contains("expand to too much"), "{error}");
        let deep = format!("a: &a {}{}\nb: {}*a{}\n", "[".repeat(40), "]".repeat(40), "[".repeat(40), "]".repeat(40));
        assert!(documents(&deep).unwrap_err().detail.contains("64 deep"));
    }

    #[test]
    fn what_is_refused_is_told_with_its_line() {
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: *x\n", 1),
            ("a: &x\n  b: *x\n", 2),
            ("a: &x 1\n? *x\n: 2\n", 2),
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
