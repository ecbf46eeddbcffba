//! Decides whether a record of the journal is accepted, and as what. Every reader of a
//! journal uses it: the partition that serves, a replay, an export; a check made by only
//! one of them would be a hole in the others. Pure: it reads the record, the checkpoint
//! metadata and the rules of the log, and nothing else.

use std::collections::BTreeMap;

use super::checkpoint::CheckpointMeta;
use askwhen_domain::id::{self, Origin};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_log::{Log, NewRecord, Record, TopicPartition};
use askwhen_process::fault;
use askwhen_wire::record::{
    self, AcceptLoss, AcceptTime, BOUND_MAC_HEADER, DecodeError, Decoded, Forward, Internal, MAC_HEADER, REPLY_HEADER,
    Skip,
};
use askwhen_wire::seal::{Binding, ClusterKey};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DeliveryRecord};

/// The largest record that is accepted, in bytes. Any log then takes what follows from it:
/// a forward of it, or a reject with its first bytes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// How many bytes more than its record a forward may have.
const FORWARD_BYTES: usize = 64 << 10;
/// The maximum age of an operator's request, in milliseconds; an older one is a copy of an
/// old record.
const REQUEST_LIFE: Millis = 10 * MINUTE;
/// How many requests and skips a checkpoint remembers.
const MAX_REMEMBERED: usize = 1_000;

/// The result for one record.
#[derive(Debug)]
pub enum Admitted<'a> {
    /// The machine is to apply it.
    Apply(Decoded<'a>),
    /// The next record from another partition; [`decode_forwarded`] decodes the record
    /// within.
    Forwarded(Box<Forward>),
    /// Another partition owns it, so it is to be forwarded.
    Route {
        to: u32,
        trusted: bool,
        /// Whether it contains when it was received. A user's record without that is dated
        /// before it is forwarded, because otherwise its event time would be that of its
        /// arrival there.
        is_dated: bool,
    },
    /// How far a test clock is ahead of append times, in milliseconds.
    SetClock {
        ahead: Millis,
    },
    /// An operator has skipped it; `detail` is for the reject.
    Skipped {
        detail: String,
    },
    /// It has no effect, or only one on the checkpoint metadata, which has been made.
    Ignore,
    Reject(DecodeError),
}

/// The rules of one partition of one log.
#[derive(Debug, Clone)]
pub struct Admission {
    key: ClusterKey,
    incarnation: u128,
    partition: u32,
    partitions: u32,
    /// Whether all MACs in this log name log and partition; those of version 0.1.0 do not.
    binds_macs: bool,
    /// Offsets of records that an operator skips, each with the offset of the record that
    /// says so.
    skips: BTreeMap<u64, u64>,
}

impl Admission {
    pub fn new(log: &Log, key: &ClusterKey, partition: u32) -> Admission {
        Admission {
            key: key.clone(),
            incarnation: log.incarnation(),
            partition,
            partitions: log.partitions(),
            binds_macs: log.binds_macs(),
            skips: BTreeMap::new(),
        }
    }

    /// For a log that this process reads and does not serve.
    pub fn of_log(incarnation: u128, partitions: u32, binds_macs: bool, key: &ClusterKey, partition: u32) -> Admission {
        Admission { key: key.clone(), incarnation, partition, partitions, binds_macs, skips: BTreeMap::new() }
    }

    /// The position of the record at an offset.
    pub fn origin(&self, offset: u64) -> Origin {
        Origin { incarnation: self.incarnation, partition: self.partition, offset }
    }

    /// Notes which records an operator skips. It has to be called with every record that is
    /// not applied yet before one of them is admitted, because an operator's record comes
    /// after the one that it skips.
    pub fn look_ahead(&mut self, bound_macs_from: Option<u64>, record: &Record) {
        if record.header(SKIP_HEADER).is_none() {
            return;
        }
        if let Some(Internal::Skip(skip)) = self.trusted_internal(bound_macs_from, record)
            && skip.offset < record.offset
        {
            self.skips.entry(skip.offset).or_insert(record.offset);
        }
    }

    /// The internal record that a record holds, if its MAC is valid for this partition of
    /// this log and it can be decoded. For readers that search or copy a journal: whether
    /// the record has an effect is up to [`Admission::admit`].
    pub fn trusted_internal(&self, bound_macs_from: Option<u64>, record: &Record) -> Option<Internal> {
        if !self.is_trusted(bound_macs_from, record) {
            return None;
        }
        match record::decode(record.value.as_deref(), true) {
            Ok(Decoded::Internal(internal)) => Some(*internal),
            Ok(Decoded::User(_)) | Err(_) => None,
        }
    }

    /// Whether a record may be about a user or change what holds for everyone, judged by its
    /// bytes alone, which is much cheaper than decoding it. It errs to the side of yes: only
    /// a record without a MAC in which the id stands nowhere, also not escaped, is about
    /// somebody else.
    pub fn may_concern(&self, record: &Record, user_id: &str) -> bool {
        if record.header(BOUND_MAC_HEADER).is_some() || record.header(MAC_HEADER).is_some() {
            return true;
        }
        let Some(value) = record.value.as_deref() else { return false };
        std::str::from_utf8(record::plain(value)).is_ok_and(|text| text.contains('\\') || text.contains(user_id))
    }

    /// Whether an operator skips the record at an offset.
    pub fn skips(&self, offset: u64) -> bool {
        self.skips.contains_key(&offset)
    }

    /// Whether a record has a valid MAC for this partition of this log. The MACs of version
    /// 0.1.0 name no partition; they are valid up to where the journal says that no process
    /// of that version is left.
    pub fn is_trusted(&self, bound_macs_from: Option<u64>, record: &Record) -> bool {
        let (key, value) = (record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default());
        if let Some(mac) = record.header(BOUND_MAC_HEADER) {
            let reply_to = record.header(REPLY_HEADER).map(|to| &**to);
            let binding = Binding { incarnation: self.incarnation, partition: self.partition, reply_to };
            if self.key.verify_bound(binding, key, value, mac) {
                return true;
            }
        }
        let unbound_counts = !self.binds_macs && bound_macs_from.is_none_or(|from| record.offset < from);
        unbound_counts && record.header(MAC_HEADER).is_some_and(|mac| self.key.verify_record(key, value, mac))
    }

    /// What every record does to the checkpoint metadata, whatever it says.
    pub fn pass_time(&self, meta: &mut CheckpointMeta, record: &Record) {
        let before = if fault::mutant("now_follows_the_wall") { 0 } else { meta.now };
        meta.now = before.max(record.appended_at + meta.ahead);
    }

    /// Admits a record. The checkpoint metadata is updated, except for the position, which
    /// the caller moves on when the record is applied.
    pub fn admit<'a>(&self, meta: &mut CheckpointMeta, record: &'a Record) -> Admitted<'a> {
        self.pass_time(meta, record);
        if let Some(by) = self.skips.get(&record.offset) {
            remember(&mut meta.skipped, record.offset);
            return Admitted::Skipped { detail: format!("an operator has skipped it, by the record at {by}") };
        }
        let trusted = self.is_trusted(meta.bound_macs_from, record);
        if is_too_large(record, trusted) {
            let detail = format!(
                "the record has {} bytes and at most {MAX_RECORD_BYTES} are taken; raw holds the first of them",
                record.len_bytes()
            );
            return Admitted::Reject(DecodeError { reason: "too_large", detail });
        }
        let decoded = match record::decode(record.value.as_deref(), trusted) {
            Ok(decoded) => decoded,
            Err(error) => return Admitted::Reject(error),
        };
        let decoded = match decoded {
            Decoded::Internal(internal) => match self.apply_to_runtime(meta, record, *internal) {
                Ok(admitted) => return admitted,
                Err(internal) => Decoded::Internal(Box::new(internal)),
            },
            user => user,
        };
        match owner(&decoded, self.partitions) {
            Some(to) if to != self.partition => {
                let is_dated = !matches!(&decoded, Decoded::User(record) if record.times.received_at.is_none());
                Admitted::Route { to, trusted, is_dated }
            }
            _ => Admitted::Apply(decoded),
        }
    }

    /// Applies internal records that are for the runtime; returns all others.
    fn apply_to_runtime<'a>(
        &self,
        meta: &mut CheckpointMeta,
        record: &Record,
        internal: Internal,
    ) -> Result<Admitted<'a>, Internal> {
        Ok(match internal {
            Internal::Forward(forward) => match meta.take_forward(&forward) {
                None => forged("it comes from no partition of this log"),
                // The sender redid its work, or was replaced by another owner and did not
                // know it yet.
                Some(false) if !fault::mutant("take_every_forward") => Admitted::Ignore,
                Some(_) => Admitted::Forwarded(Box::new(forward)),
            },
            Internal::Clock { ahead } => {
                meta.ahead = meta.ahead.max(ahead);
                meta.now = meta.now.max(record.appended_at + meta.ahead);
                Admitted::SetClock { ahead }
            }
            Internal::BindMacs {} => {
                meta.bound_macs_from.get_or_insert(record.offset + 1);
                Admitted::Ignore
            }
            Internal::AcceptTime(accept) => accept_time(meta, record, &accept),
            Internal::AcceptLoss(loss) => self.accept_loss(meta, record, &loss),
            Internal::Skip(skip) if skip.offset >= record.offset => Admitted::Reject(DecodeError {
                reason: "invalid",
                detail: format!("a record at {} cannot skip the one at {}", record.offset, skip.offset),
            }),
            Internal::Skip(skip) if meta.skipped.contains(&skip.offset) => Admitted::Ignore,
            Internal::Skip(skip) => Admitted::Reject(DecodeError {
                reason: "too_late",
                detail: format!("the record at {} was applied before it was to be skipped", skip.offset),
            }),
            internal if is_forwarded_only(&internal) => forged("it does not come from a partition of this log"),
            internal => return Err(internal),
        })
    }
}

impl Admission {
    /// An operator accepted that another partition lost records: the number of its next
    /// forward may not be the next one. The partition that lost them was told when it was
    /// opened.
    fn accept_loss<'a>(&self, meta: &mut CheckpointMeta, record: &Record, loss: &AcceptLoss) -> Admitted<'a> {
        if (record.appended_at - loss.asked_at).abs() > REQUEST_LIFE {
            let detail = "the request to accept a loss is old; ask anew".into();
            return Admitted::Reject(DecodeError { reason: "stale", detail });
        }
        let is_other = loss.partition != self.partition && loss.topic == Topic::Events.name();
        if is_other && !meta.accepted_losses.contains(&loss.request_id) {
            remember(&mut meta.accepted_losses, loss.request_id.clone());
            meta.expect_gap(loss.partition);
        }
        Admitted::Ignore
    }
}

/// Header of records that skip another one, so that [`Admission::look_ahead`] need not
/// decode the rest.
pub const SKIP_HEADER: &str = "skip";

fn forged<'a>(detail: &str) -> Admitted<'a> {
    Admitted::Reject(DecodeError { reason: "forged", detail: detail.into() })
}

/// An operator accepted the time after a clock was wrong: the journal's time continues from
/// this record's append time, once for each request.
fn accept_time<'a>(meta: &mut CheckpointMeta, record: &Record, accept: &AcceptTime) -> Admitted<'a> {
    if (record.appended_at - accept.asked_at).abs() > REQUEST_LIFE {
        let detail = "the request to accept the time is old; ask anew".into();
        return Admitted::Reject(DecodeError { reason: "stale", detail });
    }
    if !meta.accepted_times.contains(&accept.request_id) {
        remember(&mut meta.accepted_times, accept.request_id.clone());
        meta.now = record.appended_at + meta.ahead;
    }
    Admitted::Ignore
}

fn remember<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
    if list.len() > MAX_REMEMBERED {
        list.remove(0);
    }
}

/// Decodes the record within a forward.
///
/// # Errors
/// Why it becomes a reject.
pub fn decode_forwarded(forward: &Forward) -> Result<Decoded<'_>, DecodeError> {
    match record::decode(Some(forward.value.as_str().as_bytes()), forward.trusted)? {
        // These have an effect only in the journal to which they were written.
        Decoded::Internal(internal)
            if matches!(
                *internal,
                Internal::Forward(_)
                    | Internal::Clock { .. }
                    | Internal::BindMacs {}
                    | Internal::AcceptTime(_)
                    | Internal::Skip(_)
                    | Internal::AcceptLoss(_)
            ) =>
        {
            Err(DecodeError { reason: "forged", detail: "no partition forwards such a record".into() })
        }
        decoded => Ok(decoded),
    }
}

/// Whether such a record is sent only from partition to partition: it has an effect only as
/// a forward with the next sequence number.
pub fn is_forwarded_only(internal: &Internal) -> bool {
    match internal {
        Internal::Quota(_)
        | Internal::Cap(_)
        | Internal::Closing(_)
        | Internal::Defined(_)
        | Internal::NameSeen { .. }
        | Internal::AliasStep(_) => true,
        Internal::EndpointHealthReport(report) => report.seq.is_some(),
        _ => false,
    }
}

/// A forward is its record and a little more.
fn is_too_large(record: &Record, trusted: bool) -> bool {
    record.len_bytes() > MAX_RECORD_BYTES + if trusted { FORWARD_BYTES } else { 0 }
}

/// The partition that owns the subject of a record; `None` when that is whatever partition
/// the record is in.
pub fn owner(decoded: &Decoded<'_>, partitions: u32) -> Option<u32> {
    let user_id = match decoded {
        Decoded::User(record) => &*record.user_id,
        Decoded::Internal(internal) => match &**internal {
            Internal::Query(query) => &query.user_id,
            Internal::Erase(erase) => &erase.user_id,
            Internal::Alias(alias) => &alias.user_id,
            Internal::AliasStep(step) => &step.at,
            Internal::Redeliver { delivery, .. } => &delivery.user_id,
            Internal::Define(_) | Internal::NameSeen { .. } | Internal::EndpointCommand(_) | Internal::KeysUsed(_) => {
                return Some(0);
            }
            Internal::EndpointHealthReport(report) => return report.seq.is_none().then_some(0),
            Internal::Quota(message) => return Some(message.to),
            Internal::Cap(message) => return Some(message.to),
            Internal::Closing(message) => return Some(message.to),
            Internal::Defined(_)
            | Internal::Forward(_)
            | Internal::Clock { .. }
            | Internal::BindMacs {}
            | Internal::AcceptTime(_)
            | Internal::Skip(_)
            | Internal::AcceptLoss(_)
            | Internal::Tick {}
            | Internal::Ping { .. } => {
                return None;
            }
        },
    };
    Some(id::partition_of(user_id, partitions))
}

/// Signs records for the partitions of one log.
#[derive(Debug, Clone)]
pub struct Signer {
    key: ClusterKey,
    incarnation: u128,
    /// Whether processes of version 0.1.0 may read the records: they accept only their own
    /// kind of MAC.
    also_unbound: bool,
}

impl Signer {
    pub fn new(log: &Log, key: &ClusterKey) -> Signer {
        let also_unbound = matches!(log, Log::Kafka(_)) && !log.binds_macs();
        Signer { key: key.clone(), incarnation: log.incarnation(), also_unbound }
    }

    /// For a log that this process writes and does not serve.
    pub fn of_log(incarnation: u128, key: &ClusterKey) -> Signer {
        Signer { key: key.clone(), incarnation, also_unbound: false }
    }

    /// An internal record for a partition of the journal.
    pub fn internal(&self, partition: u32, key: &str, internal: &Internal) -> NewRecord {
        let value = record::encode_internal(internal);
        let new = NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(value.into()) };
        let new = match internal {
            Internal::Skip(_) => new.header(SKIP_HEADER, "1"),
            _ => new,
        };
        self.sign(partition, new)
    }

    /// An operator's record that skips another, and where it belongs: into the journal, or
    /// into topic `deliveries` for what the delivery reads.
    pub fn skip(
        &self,
        at: TopicPartition,
        offset: u64,
        asked_at: Millis,
        request_id: &str,
    ) -> (TopicPartition, NewRecord) {
        let TopicPartition { topic, partition } = at;
        if topic == Topic::Events {
            let skip = Internal::Skip(Skip { offset, asked_at, request_id: request_id.to_owned() });
            return (at, self.internal(partition, "skip", &skip));
        }
        let value = topics::encode(&DeliveryRecord::Skip { topic: topic.name().to_owned(), offset, asked_at });
        let new = NewRecord { key: Some("skip".into()), headers: Vec::new(), value: Some(value.into()) };
        (TopicPartition { topic: Topic::Deliveries, partition }, new.header(SKIP_HEADER, "1"))
    }

    /// An internal record with a reply address.
    pub fn request(
        &self,
        partition: u32,
        key: &str,
        internal: &Internal,
        reply_to: impl Into<bytes::Bytes>,
    ) -> NewRecord {
        let value = record::encode_internal(internal);
        let new = NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(value.into()) };
        self.sign(partition, new.header(REPLY_HEADER, reply_to))
    }

    /// Signs a record for a partition and removes any MACs that it had for another.
    pub fn sign(&self, partition: u32, mut new: NewRecord) -> NewRecord {
        let macs = [MAC_HEADER.as_bytes(), BOUND_MAC_HEADER.as_bytes()];
        new.headers.retain(|(name, _)| !macs.contains(&&**name));
        let reply_to = new.headers.iter().find(|(name, _)| name == REPLY_HEADER.as_bytes());
        let reply_to = reply_to.map(|(_, to)| to.clone());
        let (key, value) = (new.key.clone().unwrap_or_default(), new.value.clone().unwrap_or_default());
        let binding = Binding { incarnation: self.incarnation, partition, reply_to: reply_to.as_deref() };
        let bound = self.key.sign_bound(binding, &key, &value);
        if self.also_unbound {
            new = new.header(MAC_HEADER, self.key.sign_record(&key, &value));
        }
        new.header(BOUND_MAC_HEADER, bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed over without being decoded is about somebody else.
    #[test]
    fn only_records_of_others_are_passed_over() {
        let key = ClusterKey::parse(&"07".repeat(32)).expect("64 hex digits");
        let rules = Admission::of_log(1, 1, true, &key, 0);
        let record = |key: Option<&str>, value: Option<&[u8]>| Record {
            offset: 0,
            appended_at: 0,
            crc: 0,
            key: key.map(|key| key.to_owned().into()),
            headers: Vec::new(),
            value: value.map(|value| value.to_owned().into()),
        };
        let named = |user: &str| serde_json::json!({"user_id": user, "event_name": "woke"}).to_string();
        for user in ["ann", "zoë", "a\"b", "a\\b", "1", "anon-1"] {
            let own = named(user);
            let framed = [&[0, 0, 0, 0, 7], own.as_bytes()].concat();
            // Whatever its key is, and however it is escaped.
            let escaped: String = user.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            let escaped = format!("{{\"event_name\": \"woke\", \"user_id\": \"{escaped}\"}}");
            for value in [own.as_bytes(), &framed, escaped.as_bytes()] {
                for key in [None, Some(user), Some("bob")] {
                    let Ok(Decoded::User(decoded)) = record::decode(Some(value), false) else { panic!("{user}") };
                    assert_eq!(decoded.user_id, user);
                    assert!(rules.may_concern(&record(key, Some(value)), user), "{user} under {key:?}");
                }
            }
            assert!(!rules.may_concern(&record(Some("bob"), Some(named("bob").as_bytes())), user), "{user}");
            assert!(!rules.may_concern(&record(Some(user), None), user), "{user}");
            assert!(!rules.may_concern(&record(Some(user), Some(&[0xff])), user), "{user}");
        }
        let signer = Signer::of_log(1, &key);
        for internal in [Internal::Tick {}, Internal::Clock { ahead: 5 }] {
            let NewRecord { key, headers, value } = signer.internal(0, "", &internal);
            let read = Record { offset: 0, appended_at: 0, crc: 0, key, headers, value };
            assert!(rules.may_concern(&read, "ann"), "{internal:?}");
        }
    }
}
