//! RocksDB's lists of tables and write-ahead logs, looked through before it reads them. Its
//! reader takes a record of a recycled file for an error where the file began with another
//! kind, and does not get past it: it tries the same record for ever. Files are never
//! recycled here, so such a record is a header that has changed.
//!
//! Blocks of 32 KiB hold records one after the other: u32 masked CRC-32C of kind and
//! contents, u16 length of the contents, u8 kind, contents; numbers are little-endian.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Where the kind stands in a header.
const KIND_AT: usize = 6;
/// What RocksDB adds to a checksum so that one of checksums is none of its own.
const MASK: u32 = 0xa282_ead8;

/// Kinds of records that only recycled files have.
fn is_recycled(kind: u8) -> bool {
    matches!(kind, 5..=8 | 11 | 131)
}

fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(MASK)
}

/// The place in a block of a record that the reader does not get past. Behind one that is not
/// whole or not sound the reader goes on in the next block.
fn stuck_in(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let kind = header[KIND_AT];
        if is_recycled(kind) {
            return Some(at);
        }
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let end = at + HEADER_BYTES + length;
        let checked = block.get(at + KIND_AT..end)?;
        let crc = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        if (kind == 0 && length == 0) || masked(crc32c::crc32c(checked)) != crc {
            return None;
        }
        at = end;
    }
    None
}

/// The byte of a file at which its reader would stay for ever.
fn stuck_at(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let (mut block, mut begins) = (Vec::with_capacity(BLOCK_BYTES), 0);
    loop {
        block.clear();
        let read = file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Some(at) = stuck_in(&block) {
            return Ok(Some(begins + at as u64));
        }
        if read < BLOCK_BYTES {
            return Ok(None);
        }
        begins += read as u64;
    }
}

/// The first file of a store that RocksDB cannot read to its end, and the byte where it stays.
///
/// # Errors
/// When a file cannot be read.
pub fn unreadable(dir: &Path) -> io::Result<Option<(PathBuf, u64)>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with("MANIFEST-") && !name.ends_with(".log") {
            continue;
        }
        if let Some(at) = stuck_at(&path)? {
            return Ok(Some((path, at)));
        }
    }
    Ok(None)
}
