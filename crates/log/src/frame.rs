//! The bytes of one record in a segment.
//!
//! ```text
//! length    u32  of everything behind the checksum
//! crc32c    u32  of everything behind it
//! offset    u64
//! appended  i64  milliseconds since the epoch
//! durable   u64  end of what was durable when this was written
//! headers   u16
//! key       i32  length, −1 for none
//! value     i32  length, −1 for a tombstone
//! key, value, then per header: u16 length, name, u32 length, value
//! ```
//! All big-endian. `durable` tells a torn tail from damage: a bad frame below
//! the `durable` of any later one had been acknowledged.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::record::{NewRecord, Record};
use askwhen_domain::time::Millis;

pub const PREFIX_BYTES: usize = 8;
const FIXED_BYTES: usize = 8 + 8 + 8 + 2 + 4 + 4;
/// The largest record that is written or accepted, in bytes.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// They are too few.
    Short,
    Checksum,
    /// The checksum matches, but the contents cannot be decoded.
    Contents,
    /// A valid record with another offset than expected.
    Offset,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FrameError::Short => "the record is cut short",
            FrameError::Checksum => "the record's checksum is wrong",
            FrameError::Contents => "the record cannot be read although its checksum is right",
            FrameError::Offset => "another record stands there than the one that belongs there",
        })
    }
}

#[derive(Debug)]
pub struct Frame {
    pub record: Record,
    pub durable: u64,
    /// The length of the frame in bytes.
    pub len_bytes: usize,
}

/// Appends the frame of a record to `out`.
pub fn encode(out: &mut BytesMut, record: &NewRecord, offset: u64, appended_at: Millis, durable: u64) {
    let start = out.len();
    out.put_u64(0);
    out.put_u64(offset);
    out.put_i64(appended_at);
    out.put_u64(durable);
    out.put_u16(record.headers.len() as u16);
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(-1, |b| b.len() as i32);
    out.put_i32(length(&record.key));
    out.put_i32(length(&record.value));
    out.put_slice(record.key.as_deref().unwrap_or_default());
    out.put_slice(record.value.as_deref().unwrap_or_default());
    for (name, value) in &record.headers {
        out.put_u16(name.len() as u16);
        out.put_slice(name);
        out.put_u32(value.len() as u32);
        out.put_slice(value);
    }
    let body = start + PREFIX_BYTES;
    let length = (out.len() - body) as u32;
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_be_bytes());
}

/// The number of bytes that [`encode`] will write.
pub fn encoded_len(record: &NewRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(n, v)| 6 + n.len() + v.len()).sum();
    let key = record.key.as_ref().map_or(0, Bytes::len);
    let value = record.value.as_ref().map_or(0, Bytes::len);
    PREFIX_BYTES + FIXED_BYTES + key + value + headers
}

/// Why a frame cannot contain a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordUnfit {
    #[error("a record of {len_bytes} bytes is larger than the log takes ({MAX_FRAME_BYTES})")]
    Large { len_bytes: usize },
    #[error("a record has more headers, or a longer name of one, than the log takes ({})", u16::MAX)]
    Headers,
}

/// Checks whether a frame can contain a record.
///
/// # Errors
/// Why not.
pub fn fits(record: &NewRecord) -> Result<(), RecordUnfit> {
    let len_bytes = encoded_len(record);
    if len_bytes > MAX_FRAME_BYTES {
        return Err(RecordUnfit::Large { len_bytes });
    }
    let names_fit = record.headers.iter().all(|(name, _)| name.len() <= usize::from(u16::MAX));
    if record.headers.len() > usize::from(u16::MAX) || !names_fit {
        return Err(RecordUnfit::Headers);
    }
    Ok(())
}

/// The length of the frame that begins here, if its prefix is complete and plausible.
pub fn peek_len(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (FIXED_BYTES..=MAX_FRAME_BYTES).contains(&length).then_some(PREFIX_BYTES + length)
}

/// The offset of the frame that begins here, if one does.
pub fn peek_offset(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(PREFIX_BYTES..PREFIX_BYTES + 8)?.try_into().ok()?))
}

/// Decodes the frame at the start of `bytes`, sharing their memory.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bytes: &Bytes) -> Result<Frame, FrameError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(FrameError::Short);
    }
    let len_bytes = peek_len(bytes).ok_or(FrameError::Checksum)?;
    if bytes.len() < len_bytes {
        return Err(FrameError::Short);
    }
    let crc = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes"));
    let mut body = bytes.slice(PREFIX_BYTES..len_bytes);
    if crc32c::crc32c(&body) != crc {
        return Err(FrameError::Checksum);
    }
    let offset = body.get_u64();
    let appended_at = body.get_i64();
    let durable = body.get_u64();
    let headers = body.get_u16();
    let key_len = body.get_i32();
    let value_len = body.get_i32();
    let mut take = |len: usize| (len <= body.len()).then(|| body.split_to(len)).ok_or(FrameError::Contents);
    let key = usize::try_from(key_len).ok().map(&mut take).transpose()?;
    let value = usize::try_from(value_len).ok().map(&mut take).transpose()?;
    let mut all = Vec::with_capacity(usize::from(headers));
    for _ in 0..headers {
        let name_len = u16::from_be_bytes(take(2)?[..].try_into().expect("two bytes"));
        let name = take(usize::from(name_len))?;
        let value_len = u32::from_be_bytes(take(4)?[..].try_into().expect("four bytes"));
        all.push((name, take(value_len as usize)?));
    }
    let record = Record { offset, appended_at, crc, key, headers: all, value };
    Ok(Frame { record, durable, len_bytes })
}

impl NewRecord {
    /// The length of its frame in bytes.
    pub fn len_bytes(&self) -> usize {
        encoded_len(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_bit_is_seen() {
        let new = NewRecord { key: Some("k".into()), headers: vec![("h".into(), "v".into())], value: None };
        let mut out = BytesMut::new();
        encode(&mut out, &new, 7, 8, 5);
        assert_eq!(out.len(), encoded_len(&new));
        let bytes = out.freeze();
        let frame = decode(&bytes).unwrap();
        assert_eq!((frame.record.offset, frame.durable, frame.len_bytes), (7, 5, bytes.len()));
        assert_eq!((frame.record.key, frame.record.value), (new.key, None));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&Bytes::from(flipped)).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes.slice(..len)).is_err());
        }
    }
}
