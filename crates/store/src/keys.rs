//! The encoding of keys. Integers are big-endian, so that the order of bytes is the order
//! of values.

/// `project ‖ 0 ‖ name`; neither contains a NUL.
pub fn named(project: &str, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(project.len() + name.len() + 1);
    key.extend_from_slice(project.as_bytes());
    key.push(0);
    key.extend_from_slice(name.as_bytes());
    key
}

/// A time in milliseconds, followed by `rest`.
pub fn timed(at_ms: i64, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + rest.len());
    key.extend_from_slice(&(at_ms.max(0) as u64).to_be_bytes());
    key.extend_from_slice(rest);
    key
}

/// The time in a [`timed`] key.
pub fn time_of(key: &[u8]) -> Option<i64> {
    Some(u64::from_be_bytes(key.get(..8)?.try_into().ok()?) as i64)
}
