//! The strict reader in front of every JSON body, and how records and bodies are written. The
//! reader finds, with the byte offset, what serde_json accepts or reports vaguely: duplicate
//! members, a byte-order mark, lone surrogates, numbers beyond a float.

use serde::Serialize;
use std::borrow::Cow;

/// The deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// The same when only the outline is read; it bounds the memory.
const MAX_OUTLINE_DEPTH: usize = 4_096;

/// About how many bytes a record or body takes: with this room most are written without their
/// bytes being moved on the way.
const WRITTEN_BYTES: usize = 1 << 10;

/// The JSON of a value that always serialises: of records and bodies.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(WRITTEN_BYTES);
    serde_json::to_writer(&mut bytes, value).expect("a record serialises");
    bytes
}

/// What is wrong with a text that should be one JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} at byte {byte_offset}", .kind.sentence())]
pub struct Error {
    pub kind: JsonErrorKind,
    pub byte_offset: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonErrorKind {
    EmptyBody,
    InvalidJson,
    Truncated,
    TrailingBytes,
    BadUtf8,
    Bom,
    LoneSurrogate,
    NumberOutOfRange,
    TooDeep,
    DuplicateKey,
}

impl JsonErrorKind {
    /// The error code of the API.
    pub fn code(self) -> &'static str {
        match self {
            JsonErrorKind::EmptyBody => "empty_body",
            JsonErrorKind::InvalidJson => "invalid_json",
            JsonErrorKind::Truncated => "truncated",
            JsonErrorKind::TrailingBytes => "trailing_bytes",
            JsonErrorKind::BadUtf8 => "bad_utf8",
            JsonErrorKind::Bom => "bom",
            JsonErrorKind::LoneSurrogate => "lone_surrogate",
            JsonErrorKind::NumberOutOfRange => "number_out_of_range",
            JsonErrorKind::TooDeep => "too_deep",
            JsonErrorKind::DuplicateKey => "duplicate_key",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            JsonErrorKind::EmptyBody => "the body is empty; a JSON value is needed",
            JsonErrorKind::InvalidJson => "this is not JSON",
            JsonErrorKind::Truncated => "the JSON ends too early",
            JsonErrorKind::TrailingBytes => "more follows after the JSON value",
            JsonErrorKind::BadUtf8 => "this is not UTF-8",
            JsonErrorKind::Bom => "the body begins with a byte-order mark; send plain UTF-8",
            JsonErrorKind::LoneSurrogate => "a \\u escape is one half of a surrogate pair",
            JsonErrorKind::NumberOutOfRange => "the number is too large for any float",
            JsonErrorKind::TooDeep => "arrays and objects are nested more than 64 deep",
            JsonErrorKind::DuplicateKey => "an object names the same member twice",
        }
    }
}

/// Checks that `bytes` are exactly one JSON value in UTF-8.
///
/// # Errors
/// The first problem from the left.
pub fn check(bytes: &[u8]) -> Result<&str, Error> {
    check_within(bytes, MAX_DEPTH)
}

/// The same with another limit of nesting.
///
/// # Errors
/// As [`check`].
pub fn check_within(bytes: &[u8], max_depth: usize) -> Result<&str, Error> {
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        return Err(Error { kind: JsonErrorKind::Bom, byte_offset: 0 });
    }
    let text =
        std::str::from_utf8(bytes).map_err(|e| Error { kind: JsonErrorKind::BadUtf8, byte_offset: e.valid_up_to() })?;
    let mut scan = Scan { text, bytes, at: 0, max_depth, strict_levels: usize::MAX, is_strict: true };
    scan.skip_space();
    if scan.at == bytes.len() {
        return Err(scan.error(JsonErrorKind::EmptyBody));
    }
    scan.value()?;
    scan.skip_space();
    if scan.at < bytes.len() {
        return Err(scan.error(JsonErrorKind::TrailingBytes));
    }
    Ok(text)
}

/// The same for a text whose values below `levels` of objects and lists are checked one by
/// one afterwards: there only the JSON syntax is checked.
///
/// # Errors
/// As [`check`] for the levels above, and any syntax error.
pub fn check_outline(bytes: &[u8], levels: usize) -> Result<&str, Error> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| Error { kind: JsonErrorKind::BadUtf8, byte_offset: e.valid_up_to() })?;
    let mut scan = Scan { text, bytes, at: 0, max_depth: MAX_OUTLINE_DEPTH, strict_levels: levels, is_strict: true };
    scan.skip_space();
    scan.value()?;
    scan.skip_space();
    if scan.at < bytes.len() { Err(scan.error(JsonErrorKind::TrailingBytes)) } else { Ok(text) }
}

struct Scan<'a> {
    max_depth: usize,
    /// From this level on only the syntax is checked.
    strict_levels: usize,
    /// Whether everything is checked at the current level.
    is_strict: bool,
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// An open array, or an open object with its names so far.
enum Open<'a> {
    Array,
    Object(Names<'a>),
}

/// The names of one object: a list while there are few, a set when there are many, so that
/// the cost per member does not grow.
#[derive(Default)]
struct Names<'a> {
    few: Vec<Cow<'a, str>>,
    many: std::collections::HashSet<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    fn insert(&mut self, name: Cow<'a, str>) -> bool {
        const FEW: usize = 24;
        if self.many.is_empty() && self.few.len() < FEW {
            if self.few.contains(&name) {
                return false;
            }
            self.few.push(name);
            return true;
        }
        if self.many.is_empty() {
            self.many.extend(self.few.drain(..));
        }
        self.many.insert(name)
    }
}

impl<'a> Scan<'a> {
    fn error(&self, kind: JsonErrorKind) -> Error {
        Error { kind, byte_offset: self.at }
    }

    /// A truncated or otherwise invalid text.
    fn unexpected(&self) -> Error {
        self.error(if self.at >= self.bytes.len() { JsonErrorKind::Truncated } else { JsonErrorKind::InvalidJson })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Iterative, so that deep nesting does not exhaust the stack.
    fn value(&mut self) -> Result<(), Error> {
        let mut open: Vec<Open<'a>> = Vec::new();
        loop {
            self.skip_space();
            let opened = match self.peek() {
                Some(b'{') => Some(Open::Object(Names::default())),
                Some(b'[') => Some(Open::Array),
                _ => None,
            };
            if let Some(opened) = opened {
                if open.len() == self.max_depth {
                    return Err(self.error(JsonErrorKind::TooDeep));
                }
                self.at += 1;
                self.skip_space();
                let is_object = matches!(opened, Open::Object(_));
                let closer = if is_object { b'}' } else { b']' };
                open.push(opened);
                if self.peek() != Some(closer) {
                    if is_object {
                        self.name(&mut open)?;
                    }
                    continue;
                }
            } else {
                self.is_strict = open.len() < self.strict_levels;
                self.scalar()?;
            }
            if !self.after_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Skips commas and closing brackets up to the next value; `false` at the end.
    fn after_value(&mut self, open: &mut Vec<Open<'a>>) -> Result<bool, Error> {
        loop {
            let Some(innermost) = open.last() else { return Ok(false) };
            let is_object = matches!(innermost, Open::Object(_));
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if is_object {
                        self.skip_space();
                        self.name(open)?;
                    }
                    return Ok(true);
                }
                Some(b'}') if is_object => {}
                Some(b']') if !is_object => {}
                _ => return Err(self.unexpected()),
            }
            self.at += 1;
            open.pop();
        }
    }

    fn name(&mut self, open: &mut [Open<'a>]) -> Result<(), Error> {
        let start = self.at;
        self.is_strict = open.len() <= self.strict_levels;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected());
        }
        let escaped = self.string()?;
        let quoted = &self.text[start..self.at];
        let name = if escaped && self.is_strict {
            Cow::Owned(serde_json::from_str(quoted).map_err(|_| self.error(JsonErrorKind::InvalidJson))?)
        } else {
            Cow::Borrowed(&quoted[1..quoted.len() - 1])
        };
        // serde_json treats these names specially.
        if name.starts_with("$serde_json::private::") {
            return Err(Error { kind: JsonErrorKind::InvalidJson, byte_offset: start });
        }
        if let Some(Open::Object(names)) = open.last_mut()
            && !names.insert(name)
            && self.is_strict
        {
            return Err(Error { kind: JsonErrorKind::DuplicateKey, byte_offset: start });
        }
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Result<(), Error> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected()),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected());
            }
            self.at += 1;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected());
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        let plainly_small = text.len() < 300 && !text.contains(['e', 'E']);
        if !plainly_small && self.is_strict && !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(Error { kind: JsonErrorKind::NumberOutOfRange, byte_offset: start });
        }
        Ok(())
    }

    /// Skips a string; returns whether it has escapes.
    fn string(&mut self) -> Result<bool, Error> {
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek() {
                None => return Err(self.error(JsonErrorKind::Truncated)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(self.error(JsonErrorKind::InvalidJson)),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<(), Error> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let lone = Error { kind: JsonErrorKind::LoneSurrogate, byte_offset: start };
                match self.unit()? {
                    0xd800..=0xdfff if !self.is_strict => Ok(()),
                    0xdc00..=0xdfff => Err(lone),
                    0xd800..=0xdbff => {
                        if self.peek() != Some(b'\\') || self.bytes.get(self.at + 1) != Some(&b'u') {
                            return Err(if self.peek().is_none() { self.unexpected() } else { lone });
                        }
                        self.at += 1;
                        if (0xdc00..=0xdfff).contains(&self.unit()?) { Ok(()) } else { Err(lone) }
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(self.unexpected()),
        }
    }

    /// The four hex digits after `u`.
    fn unit(&mut self) -> Result<u16, Error> {
        self.at += 1;
        let mut unit = 0u16;
        for _ in 0..4 {
            let digit = self.peek().and_then(|b| char::from(b).to_digit(16)).ok_or_else(|| self.unexpected())?;
            unit = unit << 4 | digit as u16;
            self.at += 1;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn flawed(text: &str, kind: JsonErrorKind, byte_offset: usize) {
        assert_eq!(check(text.as_bytes()), Err(Error { kind, byte_offset }), "{text}");
    }

    #[test]
    fn every_flaw_has_its_name_and_place() {
        flawed("", JsonErrorKind::EmptyBody, 0);
        flawed("  \n", JsonErrorKind::EmptyBody, 3);
        flawed("{\"a\":1", JsonErrorKind::Truncated, 6);
        flawed("{\"a", JsonErrorKind::Truncated, 3);
        flawed("tru", JsonErrorKind::Truncated, 3);
        flawed("{} {}", JsonErrorKind::TrailingBytes, 3);
        flawed("{a:1}", JsonErrorKind::InvalidJson, 1);
        flawed("[1,]", JsonErrorKind::InvalidJson, 3);
        flawed("{\"a\":1,}", JsonErrorKind::InvalidJson, 7);
        flawed("[01]", JsonErrorKind::InvalidJson, 2);
        flawed("NaN", JsonErrorKind::InvalidJson, 0);
        flawed("[1}", JsonErrorKind::InvalidJson, 2);
        flawed("\"\u{1}\"", JsonErrorKind::InvalidJson, 1);
        flawed("{\"a\":1e400}", JsonErrorKind::NumberOutOfRange, 5);
        flawed("\"\\ud800\"", JsonErrorKind::LoneSurrogate, 1);
        flawed("\"\\udc00\"", JsonErrorKind::LoneSurrogate, 1);
        flawed("\"\\ud800\\u0041\"", JsonErrorKind::LoneSurrogate, 1);
        flawed("{\"a\":{\"b\":1,\"\\u0062\":2}}", JsonErrorKind::DuplicateKey, 12);
        flawed("\u{feff}{}", JsonErrorKind::Bom, 0);
        flawed(&"[".repeat(100_000), JsonErrorKind::TooDeep, 64);
        assert_eq!(check(b"{\"a\":\"\xff\"}"), Err(Error { kind: JsonErrorKind::BadUtf8, byte_offset: 6 }));
        let wide: String = (0..2000).map(|i| format!("\"k{i}\":0,")).collect();
        flawed(&format!("{{{wide}\"k7\":1}}"), JsonErrorKind::DuplicateKey, wide.len() + 1);
    }

    #[test]
    fn an_outline_passes_over_flaws_of_what_is_json_otherwise() {
        let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
        // The second: whether it may stand where the list of items does, whose own names count.
        for (item, may_stand_above) in [
            ("\"\\ud800\"", false),
            ("{\"a\":1,\"a\":2}", false),
            ("{\"\\udc00\":1}", false),
            ("1e400", false),
            (&*deep, true),
            ("{\"a\":\"\\ud800x\"}", true),
        ] {
            let text = format!("{{\"events\":[{{}},{item}]}}");
            assert!(check(text.as_bytes()).is_err(), "{item}");
            assert_eq!(check_outline(text.as_bytes(), 2), Ok(&*text), "{item}");
            let above = format!("{{\"events\":[],\"more\":{item}}}");
            assert_eq!(check_outline(above.as_bytes(), 2).is_ok(), may_stand_above, "{item}");
        }
        for broken in
            ["", "{\"events\":[{]}", "{\"events\":[\"\\ud8\"]}", "{\"a\":1,\"a\":[]}", "{} x", "{\"events\":[01]}"]
        {
            assert!(check_outline(broken.as_bytes(), 2).is_err(), "{broken}");
        }
        assert!(check_outline("[".repeat(1 << 20).as_bytes(), 2).is_err());
    }

    #[test]
    fn good_json_passes() {
        for text in [
            "{}",
            "[]",
            " [ ] ",
            "null",
            "-0.5e-3",
            "\"\\ud83d\\ude00 \\u00e9\"",
            "123456789012345678901234567890",
            "{\"a\":[1,{\"b\":[]}],\"c\":{}}",
        ] {
            assert_eq!(check(text.as_bytes()), Ok(text));
        }
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(check(deep.as_bytes()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_serde_json_wherever_both_have_an_opinion(text in "[\\[\\]{},:\"a0-9.eE\\\\ tnu-]{0,24}") {
            let ours = check(text.as_bytes()).is_ok();
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            // Ours refuses more (duplicates, surrogates, huge numbers), never less.
            proptest::prop_assert!(!ours || theirs, "{}", text);
        }
    }
}
