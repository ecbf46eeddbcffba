//! Values as the stores contain them: postcard, in one allocation.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// For what a value takes beyond the estimate, so that one allocation is mostly enough.
const ROOM_BYTES: usize = 64;

/// Bytes that texts are copied into as a whole; postcard's own flavor for a vector copies
/// them one by one.
struct Row(Vec<u8>);

impl Flavor for Row {
    type Output = Vec<u8>;

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// A value of about so many bytes. It must be one that always serialises: of strings, numbers
/// and collections whose lengths are known.
pub fn encode<T: Serialize + ?Sized>(value: &T, about_bytes: usize) -> Vec<u8> {
    encode_behind(&[], value, about_bytes)
}

/// The same behind other bytes.
pub fn encode_behind<T: Serialize + ?Sized>(first: &[u8], value: &T, about_bytes: usize) -> Vec<u8> {
    let mut row = Row(Vec::with_capacity(first.len() + about_bytes + ROOM_BYTES));
    row.0.extend_from_slice(first);
    postcard::serialize_with_flavor(value, row).expect("a row serialises")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn rows_are_what_postcard_writes() {
        let value = (7_i64, "zoë".repeat(200), vec![Some(1_u32), None], BTreeMap::from([("a", 1.5_f64)]), ());
        let expected = postcard::to_stdvec(&value).unwrap();
        for about_bytes in [0, 10, 5_000] {
            assert_eq!(encode(&value, about_bytes), expected);
        }
        assert_eq!(encode_behind(&[8, 9], &value, 0), [&[8, 9], &expected[..]].concat());
    }
}
