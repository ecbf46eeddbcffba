//! The lines of an imported file, and the rows of a table.

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use xxhash_rust::xxh3::Xxh3;

use crate::cli::context::Failure;
use askwhen_wire::definition::nearest;
use askwhen_wire::json as strict;

/// The longest line, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line, or all lines of one row.
#[derive(Clone)]
pub struct Text {
    pub text: Vec<u8>,
    /// Why it cannot be an event.
    pub fault: Option<&'static str>,
}

/// Why a line or a row is no event.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("{0}")]
    Flaw(&'static str),
    #[error("the line is not UTF-8: save the file as UTF-8 (in spreadsheets: CSV UTF-8)")]
    Utf8(#[from] std::str::Utf8Error),
    #[error(transparent)]
    Table(#[from] csv::Error),
    #[error("the row has {row} columns, the header {header}")]
    Columns { row: usize, header: usize },
    #[error("{column}: {source}")]
    Cell { column: String, source: serde_json::Error },
    #[error("{0} is a number that a spreadsheet has rounded: format the column as text before the file is saved")]
    Rounded(String),
    #[error(transparent)]
    Json(#[from] strict::Error),
    #[error("the line is no JSON object")]
    NoObject(#[source] serde_json::Error),
    #[error("occurred_at is required: history has times{}", called(.0.as_deref()))]
    NoTime(Option<String>),
    #[error(transparent)]
    Member(#[from] serde_json::Error),
}

/// How to report a member that has another name in the file.
fn called(given: Option<&str>) -> String {
    given.map(|given| format!("; {given} is there: call it occurred_at")).unwrap_or_default()
}

/// The name among those given that other products use for the wanted one.
pub fn alias_of<'a>(wanted: &str, mut given: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    given.find(|name| nearest(name, &[wanted]).is_some())
}

/// The delimiter between the cells of a table, and the number of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub delimiter: u8,
    columns: usize,
}

/// The first row of a table.
pub struct Header {
    pub names: Vec<String>,
    pub shape: Shape,
}

/// Reads the lines of a file with their numbers, and hashes everything that it reads.
pub struct Lines {
    pub reader: Box<dyn BufRead>,
    /// Lines that were read in search of a row's end, and turned out to be rows themselves.
    pub pending: VecDeque<(u64, Text)>,
    pub offset: u64,
    pub number: u64,
    pub hash: Xxh3,
    /// The byte that ends a line: a line feed, or a carriage return alone.
    end: u8,
}

impl Lines {
    /// Opens a file or standard input. Gzip is unpacked, whatever the name is.
    pub fn open(file: Option<File>) -> Result<Lines, Failure> {
        let mut reader: Box<dyn BufRead> = match file {
            Some(file) => Box::new(BufReader::new(file)),
            None => Box::new(BufReader::new(std::io::stdin())),
        };
        if is_packed(&mut reader).map_err(unreadable)? {
            reader = Box::new(BufReader::new(MultiGzDecoder::new(reader)));
        }
        Lines::of(reader)
    }

    pub fn of(mut reader: Box<dyn BufRead>) -> Result<Lines, Failure> {
        let mut lines = Lines {
            reader: Box::new(std::io::empty()),
            pending: VecDeque::new(),
            offset: 0,
            number: 0,
            hash: Xxh3::new(),
            end: b'\n',
        };
        let beginning = reader.fill_buf().map_err(unreadable)?;
        if beginning.starts_with(&[0xff, 0xfe]) || beginning.starts_with(&[0xfe, 0xff]) {
            return Err(Failure::usage("the file is UTF-16: save it as UTF-8 (in spreadsheets: CSV UTF-8)"));
        }
        // Some spreadsheets for the Macintosh end lines so.
        if beginning.contains(&b'\r') && !beginning.contains(&b'\n') {
            lines.end = b'\r';
        }
        if beginning.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
            lines.count(BYTE_ORDER_MARK);
        }
        lines.reader = reader;
        Ok(lines)
    }

    /// Whether what follows begins as a JSON list does.
    pub fn is_array(&mut self) -> std::io::Result<bool> {
        let beginning = self.reader.fill_buf()?;
        Ok(beginning.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['))
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
    }

    /// Reads on to where an earlier import has ended.
    pub fn skip_to(&mut self, offset: u64, number: u64) -> Result<(), Failure> {
        let failed = unreadable;
        let mut last = self.end;
        while self.offset < offset {
            let here = self.reader.fill_buf().map_err(failed)?;
            let take = here.len().min((offset - self.offset) as usize);
            let bytes = here[..take].to_vec();
            let Some(end) = bytes.last() else { break };
            last = *end;
            self.reader.consume(take);
            self.count(&bytes);
        }
        self.number = self.number.max(number);
        // The last imported line may have had no end: it must have ended here.
        while last != self.end {
            let next = self.reader.fill_buf().map_err(failed)?.first().copied();
            match next {
                Some(byte @ (b'\r' | b'\n')) => {
                    self.reader.consume(1);
                    self.count(&[byte]);
                    last = byte;
                }
                Some(_) => {
                    let line = self.number;
                    return Err(Failure::usage(format!("line {line} was imported, and is longer now: give --again")));
                }
                None => break,
            }
        }
        Ok(())
    }

    pub fn line(&mut self) -> std::io::Result<Option<(u64, Text)>> {
        if let Some(line) = self.pending.pop_front() {
            return Ok(Some(line));
        }
        let mut text = Vec::new();
        let mut long = false;
        loop {
            let here = self.reader.fill_buf()?;
            if here.is_empty() {
                break;
            }
            let end = here.iter().position(|byte| *byte == self.end).map(|at| at + 1);
            let bytes = here[..end.unwrap_or(here.len())].to_vec();
            self.reader.consume(bytes.len());
            self.count(&bytes);
            long |= text.len() + bytes.len() > MAX_LINE_BYTES;
            text.extend_from_slice(&bytes[..bytes.len().min(MAX_LINE_BYTES.saturating_sub(text.len()))]);
            if end.is_some() {
                break;
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            text.pop();
        }
        Ok(Some((self.number, Text { text, fault: long.then_some("the line has more than 64 KiB") })))
    }

    /// Reads a row of a table, over all lines that its quotes span.
    pub fn record(&mut self, shape: Shape) -> std::io::Result<Option<(u64, Text)>> {
        let Some((number, first)) = self.line()? else { return Ok(None) };
        let mut quotes = QuoteTracker::new(shape.delimiter);
        quotes.read(&first.text);
        if !quotes.is_open() {
            return Ok(Some((number, first)));
        }
        let (mut text, mut taken) = (first.text.clone(), Vec::new());
        while text.len() <= MAX_LINE_BYTES {
            let Some(line) = self.line()? else { break };
            text.push(b'\n');
            text.extend_from_slice(&line.1.text);
            quotes.read(b"\n");
            quotes.read(&line.1.text);
            taken.push(line);
            if !quotes.is_open() {
                // A quote that was never closed ends at a quote of a later row. Then the lines
                // have the wrong number of cells, and are rows themselves.
                let columns = cells(&String::from_utf8_lossy(&text), shape.delimiter).map(|cells| cells.len());
                if !quotes.end_within && columns.is_ok_and(|columns| columns == shape.columns) {
                    return Ok(Some((number, Text { text, fault: first.fault })));
                }
                break;
            }
        }
        // The lines that were read ahead are rows themselves.
        taken.into_iter().rev().for_each(|line| self.pending.push_front(line));
        Ok(Some((number, Text { fault: Some("the row opens a quote that is not closed"), ..first })))
    }
}

/// Follows the quotes of a row. A quote opens only at the beginning of a cell: in
/// `5" screen` it stands for itself.
struct QuoteTracker {
    delimiter: u8,
    at: CellState,
    /// Whether text has followed a closing quote within its cell, as in `"open"next`.
    end_within: bool,
}

#[derive(PartialEq, Eq)]
enum CellState {
    Beginning,
    Plain,
    Quoted,
    /// Behind a quote within quotes: it closes the cell, or the next byte makes it `""`.
    Closed,
}

impl QuoteTracker {
    fn new(delimiter: u8) -> QuoteTracker {
        QuoteTracker { delimiter, at: CellState::Beginning, end_within: false }
    }

    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.at = match (&self.at, *byte) {
                (CellState::Quoted, b'"') => CellState::Closed,
                (CellState::Quoted, _) => CellState::Quoted,
                (CellState::Beginning | CellState::Closed, b'"') => CellState::Quoted,
                (_, byte) if byte == self.delimiter || byte == b'\n' => CellState::Beginning,
                (CellState::Closed, _) => {
                    self.end_within = true;
                    CellState::Plain
                }
                _ => CellState::Plain,
            };
        }
    }

    fn is_open(&self) -> bool {
        self.at == CellState::Quoted
    }
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot be read: {error}"))
}

fn is_packed(reader: &mut Box<dyn BufRead>) -> std::io::Result<bool> {
    Ok(reader.fill_buf()?.starts_with(&[0x1f, 0x8b]))
}

/// Reads the header. The delimiter is the given one, else that of a line `sep=;` as
/// spreadsheets write it, else the one with which the header has all required columns.
pub fn header(lines: &mut Lines, given: Option<u8>) -> Result<Header, Failure> {
    let mut first = lines.line().map_err(unreadable)?.map(|(_, read)| read.text).unwrap_or_default();
    let mut given = given;
    if let [b's', b'e', b'p', b'=', delimiter] = first[..] {
        given = given.or(Some(delimiter));
        first = lines.line().map_err(unreadable)?.map(|(_, read)| read.text).unwrap_or_default();
    }
    let text = String::from_utf8_lossy(&first).into_owned();
    let candidates = given.map_or_else(|| vec![b',', b';', b'\t', b'|'], |given| vec![given]);
    let mut read = candidates.iter().map(|delimiter| names(&text, *delimiter));
    let names_of_first = read.next().expect("there is a candidate")?;
    let whole = |names: &[String]| missing(names).next().is_none();
    let mut found = (candidates[0], names_of_first);
    for (delimiter, names) in candidates.iter().skip(1).zip(read) {
        // If none gives all columns, the one that gives most is reported.
        let better = |names: &[String]| whole(names) || names.len() > found.1.len();
        if !whole(&found.1) && names.as_ref().is_ok_and(|names| better(names)) {
            found = (*delimiter, names?);
        }
    }
    let (delimiter, names) = found;
    let lacking: Vec<String> = missing(&names).map(|needed| lacks(needed, &names, given.is_some())).collect();
    if !lacking.is_empty() {
        return Err(Failure::usage(lacking.join("\n")));
    }
    match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
        Some((_, twice)) => Err(Failure::usage(format!("the header has the column {twice} twice"))),
        None => Ok(Header { shape: Shape { delimiter, columns: names.len() }, names }),
    }
}

fn names(text: &str, delimiter: u8) -> Result<Vec<String>, Failure> {
    let record = cells(text, delimiter).map_err(|why| Failure::usage(format!("the header cannot be read: {why}")))?;
    Ok(record.iter().map(|name| name.trim().to_owned()).collect())
}

/// The first names of a header, as far as a line holds them.
fn shortened(names: &[String]) -> String {
    let all = names.join(", ");
    let end = all.char_indices().nth(200).map_or(all.len(), |(at, _)| at);
    if end < all.len() { format!("{}…", &all[..end]) } else { all }
}

fn missing(names: &[String]) -> impl Iterator<Item = &'static str> {
    let needed = ["user_id", "event_name", "occurred_at"].into_iter();
    needed.filter(|needed| !names.iter().any(|name| name == needed))
}

/// A sentence about a column that the header lacks.
fn lacks(needed: &str, names: &[String], divided: bool) -> String {
    let spelled = match alias_of(needed, names.iter().map(String::as_str)) {
        Some(known) => format!("; {known} is there: call it {needed}"),
        None if divided || names.len() > 1 => format!("; it has {}", shortened(names)),
        None => "; give --delimiter if its cells are divided by something else".to_owned(),
    };
    format!("the header has no column {needed}{spelled}")
}

/// The cells of one row, without blanks around them.
///
/// # Errors
/// When its quotes or bytes make no row.
pub fn cells(text: &str, delimiter: u8) -> Result<csv::StringRecord, csv::Error> {
    let mut builder = csv::ReaderBuilder::new();
    builder.has_headers(false).flexible(true).delimiter(delimiter).trim(csv::Trim::All);
    let mut reader = builder.from_reader(text.as_bytes());
    reader.records().next().unwrap_or_else(|| Ok(csv::StringRecord::new()))
}

/// The event of a row, as JSON. A column that is no member of an event is a property;
/// numbers, `true` and `false` (in any case) become JSON numbers and booleans.
///
/// # Errors
/// When it has another number of cells, one that must be JSON and is not, or an id of which
/// a spreadsheet has kept some digits alone.
pub fn row(header: &[String], record: &csv::StringRecord) -> Result<String, LineError> {
    if record.len() != header.len() {
        return Err(LineError::Columns { row: record.len(), header: header.len() });
    }
    let mut event: Vec<String> = Vec::new();
    let mut properties: Vec<String> = Vec::new();
    let mut context: Map<String, Value> = Map::new();
    for (name, text) in header.iter().zip(record).filter(|(_, text)| !text.is_empty()) {
        let named = |name: &str, value: String| format!("{}:{value}", Value::from(name));
        let object = || {
            serde_json::from_str::<Map<String, Value>>(text)
                .map_err(|source| LineError::Cell { column: name.clone(), source })
        };
        match (name.as_str(), name.split_once('.')) {
            ("user_id" | "event_id", _) if is_rounded(text) => return Err(LineError::Rounded(name.clone())),
            ("user_id" | "event_name" | "event_id" | "occurred_at" | "sent_at", _) => {
                event.push(named(name, Value::from(text).to_string()));
            }
            ("context", _) => context.extend(object()?),
            ("properties", _) => {
                properties.extend(object()?.iter().map(|(name, value)| named(name, value.to_string())));
            }
            (_, Some(("context", member))) => {
                context.insert(member.to_owned(), text.into());
            }
            (_, Some(("properties", member))) => properties.push(named(member, plain(text).to_string())),
            _ => properties.push(named(name, plain(text).to_string())),
        }
    }
    if !context.is_empty() {
        event.push(format!("\"context\":{}", Value::Object(context)));
    }
    event.push(format!("\"properties\":{{{}}}", properties.join(",")));
    Ok(format!("{{{}}}", event.join(",")))
}

/// Whether a spreadsheet has written a long number as `1.23457E+11` (with a comma in many
/// countries): as an id it would stand for all that begin so.
fn is_rounded(text: &str) -> bool {
    let Some((digits, exponent)) = text.split_once("E+").or_else(|| text.split_once("e+")) else { return false };
    let (whole, rest) = digits.split_once(['.', ',']).unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    whole.len() == 1 && (1..=3).contains(&exponent.len()) && [whole, rest, exponent].into_iter().all(is_number)
}

/// The JSON value of a cell. Spreadsheets write `TRUE`.
fn plain(text: &str) -> Value {
    match text {
        _ if text.eq_ignore_ascii_case("true") => true.into(),
        _ if text.eq_ignore_ascii_case("false") => false.into(),
        _ => serde_json::from_str::<Value>(text).ok().filter(Value::is_number).unwrap_or_else(|| text.into()),
    }
}

/// Called by fuzzing: every line of a table must belong to exactly one row, and each row
/// must become JSON or an error.
#[cfg(debug_assertions)]
pub fn try_table(bytes: &[u8]) {
    let Ok(mut lines) = Lines::of(Box::new(std::io::Cursor::new(bytes.to_vec()))) else { return };
    let Ok(Header { names, shape }) = header(&mut lines, None) else { return };
    let mut next = None;
    while let Ok(Some((number, read))) = lines.record(shape) {
        assert!(next.is_none_or(|next| next == number), "line {next:?} is in no row: the next is {number}");
        let inside = read.text.iter().filter(|byte| **byte == b'\n').count() as u64;
        next = Some(number + 1 + inside);
        let text = String::from_utf8_lossy(&read.text);
        if let Ok(event) = cells(&text, shape.delimiter).map_err(LineError::from).and_then(|cells| row(&names, &cells))
        {
            assert!(serde_json::from_str::<Value>(&event).is_ok(), "a row became no JSON: {event}");
        }
    }
    assert!(next.is_none_or(|next| next == lines.number + 1), "the last lines are in no row");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row with its first line, as cells or as what is wrong with it.
    fn rows(text: &str) -> Vec<(u64, Result<Vec<String>, &'static str>)> {
        let mut lines =
            Lines::of(Box::new(std::io::Cursor::new(text.as_bytes().to_vec()))).unwrap_or_else(|_| panic!());
        let Header { shape, .. } = header(&mut lines, None).unwrap_or_else(|failure| panic!("{}", failure.text));
        let mut all = Vec::new();
        while let Some((number, read)) = lines.record(shape).unwrap() {
            let text = String::from_utf8(read.text).unwrap();
            let cells = || cells(&text, shape.delimiter).unwrap().iter().map(str::to_owned).collect();
            all.push((number, read.fault.map_or_else(|| Ok(cells()), Err)));
        }
        all
    }

    #[test]
    fn a_quote_opens_at_the_beginning_of_a_cell_alone() {
        let head = "user_id,event_name,occurred_at,note\n";
        let of = |notes: &[&str]| -> String { notes.iter().map(|note| format!("u,im,T,{note}\n")).collect() };
        let notes = |text: &str| -> Vec<(u64, Option<String>)> {
            rows(text).into_iter().map(|(number, row)| (number, row.ok().map(|cells| cells[3].clone()))).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        let screens = format!("{head}{}", of(&["5\" screen", "plain", "6\" screen"]));
        assert_eq!(notes(&screens), [(2, some("5\" screen")), (3, some("plain")), (4, some("6\" screen"))]);
        let quoted = format!("{head}{}", of(&["\"two\nlines, \"\"said\"\"\"", "plain"]));
        assert_eq!(notes(&quoted), [(2, some("two\nlines, \"said\"")), (4, some("plain"))]);
        let unclosed = format!("{head}{}", of(&["\"open", "plain", "\"next\"", "last"]));
        assert_eq!(notes(&unclosed), [(2, None), (3, some("plain")), (4, some("next")), (5, some("last"))]);
    }

    #[test]
    fn what_divides_cells_is_found_out() {
        for (text, delimiter) in [
            ("user_id;event_name;occurred_at;note\nu;im;T;a,b\n", b';'),
            ("user_id\tevent_name\toccurred_at\nu\tim\tT\n", b'\t'),
            ("user_id|event_name|occurred_at\nu|im|T\n", b'|'),
            ("sep=;\r\nuser_id;event_name;occurred_at\r\nu;im;T\r\n", b';'),
            ("\"user_id\",\"event_name\",\"occurred_at\",\"a;b\"\n", b','),
        ] {
            let mut lines =
                Lines::of(Box::new(std::io::Cursor::new(text.as_bytes().to_vec()))).unwrap_or_else(|_| panic!());
            let found = header(&mut lines, None).unwrap_or_else(|failure| panic!("{text}: {}", failure.text));
            assert_eq!((found.shape.delimiter, &*found.names[0]), (delimiter, "user_id"), "{text}");
        }
        for text in ["", "user_id:event_name:occurred_at\n"] {
            let mut lines =
                Lines::of(Box::new(std::io::Cursor::new(text.as_bytes().to_vec()))).unwrap_or_else(|_| panic!());
            assert!(header(&mut lines, None).is_err_and(|failure| failure.text.contains("--delimiter")), "{text}");
        }
        assert!(Lines::of(Box::new(std::io::Cursor::new(b"\xff\xfeu\0".to_vec()))).is_err());
    }

    #[test]
    fn a_header_in_other_words_is_told_how_to_call_its_columns() {
        for (text, hint) in [
            ("userId,event,timestamp\n", "userId is there: call it user_id"),
            ("user_id,Event,timestamp\n", "Event is there: call it event_name"),
            ("user_id;event_name;ts\n", "ts is there: call it occurred_at"),
            ("a,b\n", "it has a, b"),
        ] {
            let mut lines =
                Lines::of(Box::new(std::io::Cursor::new(text.as_bytes().to_vec()))).unwrap_or_else(|_| panic!());
            let failure = header(&mut lines, None).err().unwrap_or_else(|| panic!("{text}"));
            assert!(failure.text.contains(hint), "{text}: {}", failure.text);
        }
        assert_eq!(LineError::NoTime(Some("ts".into())).to_string().matches("call it occurred_at").count(), 1);
    }

    #[test]
    fn blanks_around_cells_are_no_part_of_them() {
        let found = cells("u77, imz ,\"a, b\" , 1", b',').unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), ["u77", "imz", "a, b", "1"]);
    }

    #[test]
    fn ids_that_a_spreadsheet_has_rounded_are_no_ids() {
        for rounded in ["1.23457E+11", "1,23457E+11", "4.9E+12", "5E+15"] {
            assert!(is_rounded(rounded), "{rounded}");
        }
        for id in ["123456789012", "1.5", "E+11", "a1E+2", "1E+", "12.3E+4", "1.2.3E+4", "1e5", "u1E+1234"] {
            assert!(!is_rounded(id), "{id}");
        }
        let names = ["user_id", "event_name", "amount"].map(str::to_owned);
        let record = csv::StringRecord::from(vec!["1.2E+11", "im", "1.2E+11"]);
        assert!(matches!(row(&names, &record), Err(LineError::Rounded(column)) if column == "user_id"));
        let record = csv::StringRecord::from(vec!["u", "im", "1.2E+11"]);
        assert!(row(&names, &record).is_ok(), "a property may be any number");
    }

    #[test]
    fn columns_become_members_and_properties() {
        let names = [
            "user_id",
            "event_name",
            "occurred_at",
            "sent_at",
            "context",
            "context.platform",
            "paid",
            "n",
            "zip",
            "properties.deep",
        ];
        let names = names.map(str::to_owned);
        let cells = csv::StringRecord::from(vec![
            "u",
            "im",
            "T",
            "S",
            "{\"locale\":\"de\"}",
            "ios",
            "TRUE",
            "7.50",
            "01234",
            "False",
        ]);
        assert_eq!(
            row(&names, &cells).unwrap(),
            "{\"user_id\":\"u\",\"event_name\":\"im\",\"occurred_at\":\"T\",\"sent_at\":\"S\",\
             \"context\":{\"locale\":\"de\",\"platform\":\"ios\"},\
             \"properties\":{\"paid\":true,\"n\":7.50,\"zip\":\"01234\",\"deep\":false}}"
        );
    }
}
