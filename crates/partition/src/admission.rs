//! Whether a record of the journal is taken, and as what. Every reader of a
//! journal asks here: the partition that serves, a replay, an export. A check
//! that only one of them made would be a hole in the others. Pure: it reads the
//! record, the checkpoint's metadata and the rules of the log, and nothing else.

use std::collections::BTreeMap;

use super::checkpoint::CheckpointMeta;
use askwhen_domain::id::{self, Origin};
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_log::{Log, NewRecord, Record};
use askwhen_process::fault;
use askwhen_wire::record::{
    self, AcceptLoss, AcceptTime, BOUND_MAC_HEADER, DecodeError, Decoded, Forward, Internal, MAC_HEADER, REPLY_HEADER,
};
use askwhen_wire::seal::{Binding, ClusterKey};
use askwhen_wire::topic::Topic;

/// The largest record taken. What it causes is then small enough for any log:
/// a forward of it, a reject with its first bytes.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// What a forward may have beyond the record that it carries.
const FORWARD_BYTES: usize = 64 << 10;
/// A request of an operator that is older than this is a copy of an old record.
const REQUEST_LIFE: Millis = 10 * MINUTE;
/// Requests and skips remembered by a checkpoint.
const MAX_REMEMBERED: usize = 1_000;

/// What the rules make of one record.
#[derive(Debug)]
pub enum Admitted<'a> {
    /// The machine applies it.
    Apply(Decoded<'a>),
    /// The next record of another partition; [`decode_forwarded`] reads what it
    /// carries.
    Forwarded(Box<Forward>),
    /// Another partition owns it.
    Route {
        to: u32,
        trusted: bool,
        /// Whether it says when it was received; a user's record that does not is dated
        /// before it moves on, or it would have happened when it arrived there.
        is_dated: bool,
    },
    /// A test clock is so far ahead of append times.
    SetClock {
        ahead: Millis,
    },
    /// An operator takes it out of the way: why, for the reject.
    Skipped {
        detail: String,
    },
    /// It has no effect, or its whole effect is in the checkpoint metadata by now.
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
    /// No record of this log was made by a version whose MACs name no place.
    binds_macs: bool,
    /// Records that an operator takes out of the way, and the records that say so.
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

    /// For a log that is read without being served.
    pub fn of_log(incarnation: u128, partitions: u32, binds_macs: bool, key: &ClusterKey, partition: u32) -> Admission {
        Admission { key: key.clone(), incarnation, partition, partitions, binds_macs, skips: BTreeMap::new() }
    }

    /// Where the record at an offset stands.
    pub fn origin(&self, offset: u64) -> Origin {
        Origin { incarnation: self.incarnation, partition: self.partition, offset }
    }

    /// Notes what an operator wants skipped. It has to be called with every record
    /// that is not applied yet before one of them is admitted: an operator's record
    /// stands behind the one that is to be skipped.
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

    /// Looks at a record without taking it: what it says, if askwhen made it for
    /// this partition of this log and the record can be decoded. For readers that
    /// search or copy a journal; whether the record has an effect, only
    /// [`Admission::admit`] knows.
    pub fn trusted_internal(&self, bound_macs_from: Option<u64>, record: &Record) -> Option<Internal> {
        if !self.is_trusted(bound_macs_from, record) {
            return None;
        }
        match record::decode(record.value.as_deref(), true) {
            Ok(Decoded::Internal(internal)) => Some(*internal),
            Ok(Decoded::User(_)) | Err(_) => None,
        }
    }

    /// Whether an operator wants a record skipped.
    pub fn skips(&self, offset: u64) -> bool {
        self.skips.contains_key(&offset)
    }

    /// Whether a record was made by askwhen for this partition of this log. A
    /// MAC of version 0.1.0 names no place: it counts up to where the journal
    /// says that no such process is left.
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

    /// What becomes of a record; the checkpoint metadata has it by then, but for the place
    /// that has been reached.
    pub fn admit<'a>(&self, meta: &mut CheckpointMeta, record: &'a Record) -> Admitted<'a> {
        let before = if fault::mutant("now_follows_the_wall") { 0 } else { meta.now };
        meta.now = before.max(record.appended_at + meta.ahead);
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
            Err(unreadable) => return Admitted::Reject(unreadable),
        };
        let decoded = match decoded {
            Decoded::Internal(internal) => match self.runtimes_own(meta, record, *internal) {
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

    /// Applies internal records that are for the runtime; gives the others back.
    fn runtimes_own<'a>(
        &self,
        meta: &mut CheckpointMeta,
        record: &Record,
        internal: Internal,
    ) -> Result<Admitted<'a>, Internal> {
        Ok(match internal {
            Internal::Forward(forward) => match meta.take_forward(&forward) {
                None => forged("it comes from no partition of this log"),
                // A redo or a zombie has sent it again.
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
    /// Another partition goes on behind records that are lost: what it tells this
    /// one next has a number that is not the next one. Whoever goes on itself has
    /// done so when it was taken up.
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

/// Header of the records that skip another one: whoever looks ahead for them
/// need not read the others.
pub const SKIP_HEADER: &str = "skip";

fn forged<'a>(detail: &str) -> Admitted<'a> {
    Admitted::Reject(DecodeError { reason: "forged", detail: detail.into() })
}

/// After a clock was wrong: the journal's time goes on from this record's own,
/// once for each request.
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

/// Reads the record that a forward carries.
///
/// # Errors
/// What makes it a reject.
pub fn decode_forwarded(forward: &Forward) -> Result<Decoded<'_>, DecodeError> {
    match record::decode(Some(forward.value.as_str().as_bytes()), forward.trusted)? {
        // These count in the journal that they were written to, and in no other.
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

/// Whether partitions tell each other such a record: it counts in its sequence alone.
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

/// The partition that owns what the record is about; `None` for what is about
/// the partition it is in.
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
            Internal::Quota(mail) => return Some(mail.to),
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

/// Makes records that the partitions of one log believe.
#[derive(Debug, Clone)]
pub struct Signer {
    key: ClusterKey,
    incarnation: u128,
    /// Processes of version 0.1.0 may read what is written: they believe their
    /// own MACs alone.
    also_unbound: bool,
}

impl Signer {
    pub fn new(log: &Log, key: &ClusterKey) -> Signer {
        let also_unbound = matches!(log, Log::Kafka(_)) && !log.binds_macs();
        Signer { key: key.clone(), incarnation: log.incarnation(), also_unbound }
    }

    /// For a log that is written without being served.
    pub fn of_log(incarnation: u128, key: &ClusterKey) -> Signer {
        Signer { key: key.clone(), incarnation, also_unbound: false }
    }

    /// A record of askwhen's own for a partition of the journal.
    pub fn internal(&self, partition: u32, key: &str, internal: &Internal) -> NewRecord {
        let value = record::encode_internal(internal);
        let new = NewRecord { key: Some(key.to_owned().into()), headers: Vec::new(), value: Some(value.into()) };
        let new = match internal {
            Internal::Skip(_) => new.header(SKIP_HEADER, "1"),
            _ => new,
        };
        self.sign(partition, new)
    }

    /// The same for whoever waits for an answer there.
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

    /// Signs a record for the partition that it goes to; what its MACs said of
    /// another place is taken away.
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
