//! Checks of ids that senders give, and ids that the engine makes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The most bytes of an id.
pub const MAX_BYTES: usize = 256;
/// What is hashed takes no allocation up to this length: ids are mostly much shorter than they
/// may be.
const MOST_HASHED_IN_PLACE: usize = 256;

/// Whether `text` may name a user, an event, a survey or anything else.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the field.
pub fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        Err("must not be empty")
    } else if text.len() > MAX_BYTES {
        Err("must have at most 256 bytes")
    } else if text == "." || text == ".." {
        Err("must not be . or ..")
    } else if text.chars().any(char::is_control) {
        Err("must not contain control characters")
    } else {
        Ok(())
    }
}

/// Whether `text` may be a new id. Texts that programs and spreadsheets write for a missing
/// value (such as `null`) are refused, because they would make one user of many; so are ids
/// that a program has wrapped (`Optional("u1")`), which no backend knows.
///
/// # Errors
/// As [`check`].
pub fn check_given(text: &str) -> Result<(), &'static str> {
    // What Excel and its like write into a cell that they cannot work out.
    const CELL_FAULTS: [&str; 7] = ["#N/A", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NULL!", "#NUM!"];
    // What iOS gives for the advertising id of whoever is not tracked, and many others for no UUID.
    const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";
    check(text)?;
    let bare = text.trim_matches(is_unseen);
    if bare.is_empty() {
        return Err("must not be blank");
    }
    let is_template =
        (bare.starts_with("{{") && bare.ends_with("}}")) || (bare.starts_with("${") && bare.ends_with('}'));
    let of_nobody = bare.strip_prefix("anon-").is_some_and(|rest| rest.is_empty() || is_nothing(rest));
    let is_missing = is_nothing(bare)
        || of_nobody
        || CELL_FAULTS.contains(&bare)
        || bare == NO_UUID
        || is_placeholder(bare)
        // A first and a last name, say, of which neither is there.
        || bare.split(['-', '_', ':', '|', '/', '.', '@', ' ']).all(is_nothing);
    // JavaScript's text of an object, such as a promise of the id, and Swift's of a value
    // that may be missing.
    let is_wrapped =
        (bare.starts_with("[object ") && bare.ends_with(']')) || (bare.starts_with("Optional(") && bare.ends_with(')'));
    if is_missing || is_template || is_wrapped {
        return Err("is what a program writes when it has no value: send the id itself");
    }
    Ok(())
}

/// A blank, or a character that takes no room: pages and spreadsheets leave them behind.
fn is_unseen(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
}

/// Whether a text is what programs write for a missing value.
fn is_nothing(text: &str) -> bool {
    const NOTHING: [&str; 14] = [
        "NaN",
        "None",
        "nil",
        "(null)",
        "<nil>",
        "<null>",
        "(not set)",
        "%s",
        "<undefined>",
        "\"\"",
        "''",
        "{}",
        "[]",
        "N/A",
    ];
    NOTHING.contains(&text) || ["null", "undefined"].iter().any(|name| text.eq_ignore_ascii_case(name))
}

/// Whether a text is the place of a user's id in a route or a page, with nothing put in.
fn is_placeholder(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let wrapped = [("{", "}"), ("<", ">"), ("[", "]"), ("%7b", "%7d"), (":", "")];
    let inner = wrapped.iter().find_map(|(open, close)| lower.strip_prefix(open)?.strip_suffix(close));
    inner.is_some_and(|inner| matches!(&*inner.replace(['_', '-', ' '], ""), "userid" | "youruserid" | "uid"))
}

/// The position of a record in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordPosition {
    pub partition: u32,
    pub offset: u64,
}

/// The position of a record in the journal of a certain log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Identifies the log: two logs never give the same ids.
    pub incarnation: u128,
    pub partition: u32,
    pub offset: u64,
}

/// What an id names. It is part of the hash, so that ids of two kinds never collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Decision,
    Display,
    Offer,
    Response,
    Message,
    Delivery,
    Event,
    Definition,
    Reject,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Kind::Decision => "dec",
            Kind::Display => "dis",
            Kind::Offer => "off",
            Kind::Response => "res",
            Kind::Message => "msg",
            Kind::Delivery => "dlv",
            Kind::Event => "evt",
            Kind::Definition => "def",
            Kind::Reject => "rej",
        }
    }
}

impl Origin {
    /// An id computed from the position of its cause in the journal, so that reprocessing
    /// gives the same id. `natural` distinguishes several ids of one kind from one record,
    /// for instance one message for each endpoint.
    pub fn id(&self, kind: Kind, natural: &[&str]) -> String {
        let mut hash = Sha256::new();
        hash.update(self.incarnation.to_be_bytes());
        hash.update(self.partition.to_be_bytes());
        hash.update(self.offset.to_be_bytes());
        hash.update(kind.prefix().as_bytes());
        for part in natural {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        format!("{}_{}", kind.prefix(), hex::encode(&digest[..16]))
    }

    /// The id of the offer that the trigger at this position makes to a user. It contains
    /// the position, so that an offer that was forgotten can be recognised as genuine
    /// ([`offer_was_made`]).
    pub fn offer_id(&self, project: &str, user_id: &str) -> String {
        let mark = self.id(Kind::Offer, &[project, user_id]);
        format!("off_{:04x}{:012x}{}", self.partition & 0xffff, self.offset & 0xffff_ffff_ffff, &mark[4..20])
    }
}

/// The id that replaces response and user in everything that is reported of a response to
/// an anonymous survey. It cannot be computed from the offer's id without the log's
/// incarnation.
pub fn anonymous_response(incarnation: u128, project: &str, offer_id: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(incarnation.to_be_bytes());
    for part in ["anonymous", project, offer_id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("anon_{}", hex::encode(&hash.finalize()[..16]))
}

/// A random id for a delivery that an operator asks for.
pub fn delivery_by_chance(chance: u128) -> String {
    format!("{}_{chance:032x}", Kind::Delivery.prefix())
}

/// The id of the delivery that replaces a failed one, the same however often it is asked
/// for.
pub fn successor(delivery_id: &str) -> String {
    let digest = Sha256::digest(format!("again/{delivery_id}"));
    format!("{}_{}", Kind::Delivery.prefix(), hex::encode(&digest[..16]))
}

/// Whether `offer_id` was made by this log for this user, however long ago.
pub fn offer_was_made(incarnation: u128, project: &str, user_id: &str, offer_id: &str) -> bool {
    offer_position(offer_id).is_some_and(|RecordPosition { partition, offset }| {
        Origin { incarnation, partition, offset }.offer_id(project, user_id) == offer_id
    })
}

/// The position of the trigger from which an offer came, as its id says.
pub fn offer_position(offer_id: &str) -> Option<RecordPosition> {
    let hex = offer_id.strip_prefix("off_").filter(|hex| hex.len() == 32 && hex.is_ascii())?;
    let partition = u32::from_str_radix(&hex[..4], 16).ok()?;
    Some(RecordPosition { partition, offset: u64::from_str_radix(&hex[4..16], 16).ok()? })
}

/// A 128-bit hash of an event id of a user of a project.
pub fn event_hash(project: &str, user_id: &str, event_id: &str) -> u128 {
    let parts = [project.as_bytes(), &[0], user_id.as_bytes(), &[0], event_id.as_bytes()];
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut few = [0; MOST_HASHED_IN_PLACE];
    let Some(bytes) = few.get_mut(..len) else { return xxhash_rust::xxh3::xxh3_128(&parts.concat()) };
    let mut rest = &mut bytes[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    xxhash_rust::xxh3::xxh3_128(bytes)
}

/// Kafka's murmur2 with its seed, made positive: the partition of a key is
/// this modulo the number of partitions (org.apache.kafka.common.utils.Utils).
pub fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("four bytes"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate().rev() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^= h >> 15;
    h & 0x7fff_ffff
}

/// The partition that owns a user. Projects share partitions by user id alone,
/// because that is the record's key on the wire.
pub fn partition_of(user_id: &str, partitions: u32) -> u32 {
    murmur2(user_id.as_bytes()) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_event_ids_stay_the_same_whatever_their_length() {
        for len in [0, 1, 30, MOST_HASHED_IN_PLACE - 5, MOST_HASHED_IN_PLACE - 4, MAX_BYTES] {
            let id = "e".repeat(len);
            let expected = xxhash_rust::xxh3::xxh3_128(format!("p\0u\0{id}").as_bytes());
            assert_eq!(event_hash("p", "u", &id), expected, "{len}");
        }
    }

    #[test]
    fn what_programs_write_for_nothing_is_no_id() {
        for missing in [
            "undefined",
            "null",
            "NULL",
            "[object Object]",
            "NaN",
            "None",
            "nil",
            "(null)",
            " ",
            "\u{a0}",
            "\u{3000} ",
            " null",
            "{{user.id}}",
            "${userId}",
            "[object Promise]",
            "Optional(\"u1\")",
            "#N/A",
            "#REF!",
            "(not set)",
            "{user_id}",
            "00000000-0000-0000-0000-000000000000",
            "\u{200b}",
            "\u{feff} \u{2060}",
            "\u{200b}null",
            "\"\"",
            "{}",
            "[]",
            "N/A",
            "anon-",
            "anon-undefined",
            "undefined-undefined",
            "None None",
            "<user_id>",
            ":userId",
            "%7Buser_id%7D",
        ] {
            assert!(check_given(missing).is_err(), "{missing}");
            assert!(check(missing).is_ok(), "{missing} can still be looked for");
        }
        for id in [
            "nullable",
            "un-defined",
            "none",
            "0",
            "a b",
            "undefined-1",
            "{a}",
            "[1]",
            "ann@example.com",
            "#1",
            "optional",
            "anon-1",
            "anon-nullable",
            "ann-undefined",
            "--",
            ":ann",
            "<ann>",
            "user_id",
            "na",
            "00000000-0000-0000-0000-000000000001",
        ] {
            assert!(check_given(id).is_ok(), "{id}");
        }
    }

    /// Values of Kafka's own UtilsTest, made positive as its partitioner does.
    #[test]
    fn murmur2_is_kafkas() {
        for (key, signed) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), (signed as u32) & 0x7fff_ffff, "{key}");
        }
    }

    #[test]
    fn an_offer_is_recognised_for_its_user_and_log_only() {
        let origin = Origin { incarnation: 7, partition: 3, offset: 99 };
        let offer = origin.offer_id("default", "ann");
        assert!(offer_was_made(7, "default", "ann", &offer));
        assert!(!offer_was_made(7, "default", "bob", &offer));
        assert!(!offer_was_made(8, "default", "ann", &offer));
        assert!(!offer_was_made(7, "default", "ann", "off_zz"));
    }

    #[test]
    fn ids_differ_by_kind_place_and_natural_key() {
        let origin = Origin { incarnation: 7, partition: 3, offset: 99 };
        let next = Origin { offset: 100, ..origin };
        let all = [
            origin.id(Kind::Decision, &[]),
            origin.id(Kind::Message, &["a", "b"]),
            origin.id(Kind::Message, &["ab"]),
            next.id(Kind::Decision, &[]),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[0], origin.id(Kind::Decision, &[]));
    }
}
