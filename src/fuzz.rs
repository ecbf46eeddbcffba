//! What fuzz targets and the tests over their corpus call: one function for
//! everything that reads bytes of others. Each takes any bytes, must come to an
//! end without a panic, and holds what was read against what was given.

use bytes::{Bytes, BytesMut};

use crate::bridge;
use crate::cli;
use askwhen_log::{NewRecord, frame};
use askwhen_wire::definition::{self, Target, yaml};
use askwhen_wire::record::{self, Decoded};
use askwhen_wire::{json, state};

/// A target's name, and what takes the bytes.
pub type Entry = (&'static str, fn(&[u8]));

/// Every target; `fuzz/corpus` has a folder for each.
pub const TARGETS: [Entry; 7] = [
    ("json", json_scanner),
    ("frames", frames),
    ("records", records),
    ("yaml", yaml_files),
    ("forms", forms),
    ("state", states),
    ("csv", tables),
];

/// What the strict scanner takes, the lenient reader takes as well.
pub fn json_scanner(bytes: &[u8]) {
    match json::check(bytes) {
        Ok(text) => {
            assert_eq!(text.as_bytes(), bytes, "nothing is left out");
            let value: Result<serde_json::Value, _> = serde_json::from_str(text);
            let value = value.unwrap_or_else(|e| panic!("taken, and no JSON: {e}"));
            let again = value.to_string();
            assert!(json::check(again.as_bytes()).is_ok(), "what was taken is taken again: {again}");
        }
        Err(error) => assert!(!error.kind.code().is_empty()),
    }
}

/// A frame that is taken has exactly the bytes that its record would be written as.
pub fn frames(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let mut at = 0;
    while let Ok(found) = frame::decode(&whole.slice(at..)) {
        let end = at + found.len_bytes;
        let record = found.record;
        let new = NewRecord { key: record.key, headers: record.headers, value: record.value };
        let mut out = BytesMut::new();
        frame::encode(&mut out, &new, record.offset, record.appended_at, found.durable);
        assert!(out.len() <= found.len_bytes, "a frame holds at least its record");
        assert!(frame::decode(&out.freeze()).is_ok(), "what is written can be read");
        at = end;
    }
}

/// A user's record that is taken is the same when it is written and read again.
pub fn records(bytes: &[u8]) {
    for trusted in [false, true] {
        match record::decode(Some(bytes), trusted) {
            Ok(Decoded::User(found)) => {
                let written = record::encode(&found);
                match record::decode(Some(&written), false) {
                    Ok(Decoded::User(again)) => assert_eq!(again, found),
                    other => panic!("written as {}: {other:?}", String::from_utf8_lossy(&written)),
                }
            }
            Ok(Decoded::Internal(internal)) => {
                assert!(trusted, "an internal record without a MAC");
                let written = record::encode_internal(&internal);
                assert!(record::decode(Some(&written), true).is_ok(), "{internal:?}");
            }
            Err(unreadable) => assert!(!unreadable.reason.is_empty() && !unreadable.detail.is_empty()),
        }
    }
}

/// Definition files: every fault has a line of the file.
pub fn yaml_files(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // A carriage return alone ends a line of YAML, too; what is missing at the end of a file
    // is missing behind its last line.
    let ends = text.replace("\r\n", "\n").matches(['\n', '\r']).count();
    let most = ends + 2;
    match yaml::documents(text) {
        Ok(documents) => {
            for document in documents {
                assert!(document.lines.0.values().all(|line| (1..=most).contains(line)), "{:?}", document.lines);
                definitions(&document.value);
            }
        }
        Err(error) => assert!((1..=most).contains(&error.line), "{error} of {most}"),
    }
}

fn definitions(value: &serde_json::Value) {
    let pointers = |faults: Vec<definition::Fault>| {
        for fault in faults {
            assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'), "{fault:?}");
        }
    };
    definition::survey(value, None).map(drop).unwrap_or_else(pointers);
    definition::endpoint(value, None, Target::Check(&[])).map(drop).unwrap_or_else(pointers);
    definition::settings(value).map(drop).unwrap_or_else(pointers);
    definition::trigger(value).map(drop).unwrap_or_else(pointers);
}

/// Bodies of requests, and paths: the first line is a path, the rest a body.
pub fn forms(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (path, body) = bytes.split_at(line);
    bridge::try_path(&String::from_utf8_lossy(path));
    let Ok(text) = json::check(body.strip_prefix(b"\n").unwrap_or(body)) else { return };
    bridge::try_body(text);
    if let Ok(value) = serde_json::from_str(text) {
        definitions(&value);
    }
}

/// A user's state that can be read is the same when it is written and read again.
pub fn states(bytes: &[u8]) {
    if let Ok(user) = state::decode(bytes) {
        assert_eq!(state::decode(&state::encode(&user)).as_ref(), Ok(&user));
    }
}

/// Every line of a table is part of one row.
pub fn tables(bytes: &[u8]) {
    cli::try_table(bytes);
}

#[cfg(test)]
mod tests;
