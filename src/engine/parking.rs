//! Requests that wait for a grant of a quota: applied as if they had just come,
//! once it is there, or once it is clear that there is none in time. Outputs
//! keep the ids of the record itself.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::changes::{Changes, to_partition};
use super::{Engine, Judged, outputs};
use askwhen_domain::id::{self, Origin};
use askwhen_domain::json::Json;
use askwhen_domain::quota::{self, Account, Bank, Key, Ledger, Mail, Message, Room};
use askwhen_domain::record::{Body, Record};
use askwhen_domain::time::{Millis, SECOND};
use askwhen_partition::{Answer, Effects, Failure, Moment};
use askwhen_store::{Family, Store};
use askwhen_wire::record::{self, Internal, Query};

/// How long a request waits, in the partition's time: whoever asked is told
/// before they stop listening. A constant of the logic.
const PATIENCE: Millis = SECOND;
const MAX_PARKED: usize = 1_000;
const MAX_PARKED_BYTES: usize = 16 << 20;
const MAX_PARKED_OF_USER: usize = 16;
/// Requests with one event id that wait together.
const MAX_JOINED: usize = 64;

const ACCOUNT: &[u8] = b"account/";
const BANK: &[u8] = b"bank/";
const PARKED: &[u8] = b"parked/";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Parked {
    project: String,
    user_id: String,
    /// The record, as it stands in the journal.
    value: Json,
    trusted: bool,
    /// What the sender calls it: a copy joins it.
    event_id: Option<String>,
    reply_to: Vec<String>,
    parked_at: Millis,
    /// The surveys of which a grant is needed; none behind another of the user.
    waits_for: BTreeSet<String>,
}

impl Parked {
    /// Whether it can wait still. Time goes back where an operator has accepted
    /// another one: whoever came at a time that is yet to come waits no longer.
    fn is_patient(&self, now: Millis) -> bool {
        self.parked_at <= now && now < self.parked_at.saturating_add(PATIENCE)
    }

    /// Stands for its user.
    fn whose(&self) -> u128 {
        id::event_hash(&self.project, &self.user_id, "")
    }
}

/// What those who wait need, and the users of whom one does.
#[derive(Default)]
struct Waiting {
    wanted: Vec<(Key, u64)>,
    blocked: HashSet<u128>,
}

impl Waiting {
    fn wants(&mut self, (project, survey_id): (&str, &str)) {
        match self.wanted.iter_mut().find(|((p, s), _)| p == project && s == survey_id) {
            Some((_, count)) => *count += 1,
            None => self.wanted.push(((project.to_owned(), survey_id.to_owned()), 1)),
        }
    }
}

/// The quotas of a partition, and who waits for them.
#[derive(Debug, Default)]
pub struct Quotas {
    pub ledger: Ledger,
    /// By the offset of the record.
    parked: BTreeMap<u64, Parked>,
    dirty: BTreeSet<u64>,
    /// Whether the record at hand has moved any grants.
    pub moved: bool,
    /// Requests that have left, since this was opened.
    released: u64,
}

impl Quotas {
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &Store, partition: u32, partitions: u32) -> Result<Quotas, askwhen_store::Error> {
        let mut quotas = Quotas { ledger: Ledger::new(partition, partitions), ..Quotas::default() };
        let damaged = |e: serde_json::Error| askwhen_store::Error::damaged("quotas", e);
        store.each(Family::Quotas, |key, value| {
            if let Some(offset) = key.strip_prefix(PARKED) {
                let offset = offset.try_into().map_or(0, u64::from_be_bytes);
                quotas.parked.insert(offset, serde_json::from_slice(&value).map_err(damaged)?);
            } else if let Some(name) = key.strip_prefix(ACCOUNT) {
                let account: Account = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.ledger.restore(key_of(name), Some(account), None);
            } else if let Some(name) = key.strip_prefix(BANK) {
                let bank: Bank = serde_json::from_slice(&value).map_err(damaged)?;
                quotas.ledger.restore(key_of(name), None, Some(bank));
            }
            Ok::<_, askwhen_store::Error>(())
        })?;
        Ok(quotas)
    }

    /// The changes that bring this ledger into an empty store.
    pub fn of(ledger: Ledger) -> Quotas {
        Quotas { ledger, ..Quotas::default() }
    }

    pub fn anyone_waits(&self) -> bool {
        !self.parked.is_empty()
    }

    pub fn dirty_bytes(&self) -> usize {
        (self.dirty.len() + self.ledger.dirty_count()) * 256
    }

    pub fn freeze(&mut self) -> Changes {
        let mut changes = Vec::new();
        for key in self.ledger.take_dirty() {
            if let Some(account) = self.ledger.accounts.get(&key) {
                changes.push((stored(ACCOUNT, &key), serde_json::to_vec(account).ok()));
            }
            if let Some(bank) = self.ledger.banks.get(&key) {
                changes.push((stored(BANK, &key), serde_json::to_vec(bank).ok()));
            }
        }
        for offset in std::mem::take(&mut self.dirty) {
            let parked = self.parked.get(&offset).and_then(|parked| serde_json::to_vec(parked).ok());
            changes.push(([PARKED, &offset.to_be_bytes()].concat(), parked));
        }
        Box::new(move |batch| {
            for (key, value) in changes {
                match value {
                    Some(value) => batch.put(Family::Quotas, key, value),
                    None => batch.delete(Family::Quotas, key),
                }
            }
        })
    }

    fn waited_for(&self) -> BTreeSet<Key> {
        // Hundreds wait for one or two surveys.
        let mut distinct: Vec<(&str, &str)> = Vec::new();
        for parked in self.parked.values() {
            for survey_id in &parked.waits_for {
                let key = (parked.project.as_str(), survey_id.as_str());
                if !distinct.contains(&key) {
                    distinct.push(key);
                }
            }
        }
        distinct.into_iter().map(|(project, survey_id)| (project.to_owned(), survey_id.to_owned())).collect()
    }

    /// From an offset on, the first parked request that need not wait any more;
    /// notes what those before it still need, and whom they hold up.
    fn first_free(&self, from: u64, now: Millis, waiting: &mut Waiting) -> Option<(u64, bool)> {
        // Looked up once for each survey: whether the bank would have to be asked.
        let mut rooms: Vec<((&str, &str), bool)> = Vec::new();
        for (offset, parked) in self.parked.range(from..) {
            let whose = parked.whose();
            if waiting.blocked.contains(&whose) {
                continue;
            }
            let patient = parked.is_patient(now);
            let mut needs = false;
            for survey_id in parked.waits_for.iter().filter(|_| patient) {
                let key = (parked.project.as_str(), survey_id.as_str());
                let asks = match rooms.iter().find(|(known, _)| *known == key) {
                    Some((_, asks)) => *asks,
                    None => {
                        let asks = self.ledger.room(&(key.0.to_owned(), key.1.to_owned()), now) == Room::Ask;
                        rooms.push((key, asks));
                        asks
                    }
                };
                if asks {
                    needs = true;
                    waiting.wants(key);
                }
            }
            if !needs {
                return Some((*offset, patient));
            }
            waiting.blocked.insert(whose);
        }
        None
    }

    fn parked_bytes(&self) -> usize {
        self.parked.values().map(|parked| parked.value.len_bytes()).sum()
    }

    /// Lets a copy of a waiting trigger wait with it.
    fn join(&mut self, record: &Record<'_>, reply_to: Option<&String>) -> bool {
        let (Some(event_id), Body::Trigger { .. }) = (&record.event_id, &record.body) else { return false };
        let same = |parked: &Parked| {
            parked.project == record.project
                && parked.user_id == record.user_id
                && parked.event_id.as_deref() == Some(&**event_id)
        };
        let Some((offset, parked)) = self.parked.iter_mut().find(|(_, parked)| same(parked)) else { return false };
        self.dirty.insert(*offset);
        parked.reply_to.extend(reply_to.filter(|_| parked.reply_to.len() < MAX_JOINED).cloned());
        true
    }

    fn of_user(&self, project: &str, user_id: &str) -> usize {
        self.parked.values().filter(|parked| parked.project == project && parked.user_id == user_id).count()
    }
}

fn stored(kind: &[u8], (project, survey_id): &Key) -> Vec<u8> {
    [kind, &askwhen_store::keys::named(project, survey_id)].concat()
}

fn key_of(name: &[u8]) -> Key {
    let mut parts = name.splitn(2, |byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// Records that can need a grant, and whose order among themselves counts.
fn may_need_grant(body: &Body<'_>) -> bool {
    matches!(body, Body::Trigger { .. } | Body::Answers(_) | Body::ShowLink { .. } | Body::ShowUser)
}

/// The record as any partition would read it: its value, and whether it is one
/// of askwhen's own.
fn written(record: &Record<'_>) -> (Vec<u8>, bool) {
    let survey_id = match &record.body {
        Body::ShowLink { survey_id, .. } => Some(survey_id.to_string()),
        Body::ShowUser => None,
        _ => return (record::encode(record), false),
    };
    let (project, user_id) = (record.project.to_string(), record.user_id.to_string());
    let query = Query { project, user_id, offer_id: None, survey_id };
    (record::encode_internal(&Internal::Query(query)), true)
}

impl Engine {
    /// Applies a user's record, or lets it wait for a grant that it needs, or
    /// behind others of its user that do.
    pub(super) fn judge_or_park(&mut self, at: Moment<'_>, record: &Record<'_>) -> Result<Effects, Failure> {
        self.quotas.moved = false;
        if !may_need_grant(&record.body) {
            return match self.judge(at, record, false)? {
                Judged::Done(effects) => self.serve_moved(at, effects),
                Judged::Needs(_) => Ok(Effects::default()),
            };
        }
        let waiting = self.quotas.of_user(&record.project, &record.user_id);
        let reply_to = at.reply_to.map(|to| String::from_utf8_lossy(to).into_owned());
        if waiting > 0 && self.quotas.join(record, reply_to.as_ref()) {
            return Ok(Effects::default());
        }
        let room = self.quotas.parked.len() < MAX_PARKED && self.quotas.parked_bytes() < MAX_PARKED_BYTES;
        let may_wait = waiting < MAX_PARKED_OF_USER && room;
        let waits_for = if waiting > 0 && may_wait {
            BTreeSet::new()
        } else {
            match self.judge(at, record, may_wait)? {
                Judged::Done(effects) => return self.serve_moved(at, effects),
                Judged::Needs(surveys) => surveys.into_iter().collect(),
            }
        };
        let (value, trusted) = written(record);
        let parked = Parked {
            project: record.project.to_string(),
            user_id: record.user_id.to_string(),
            value: Json::from_valid(String::from_utf8_lossy(&value)),
            trusted,
            event_id: record.event_id.as_ref().map(ToString::to_string),
            reply_to: reply_to.into_iter().collect(),
            parked_at: at.now,
            waits_for,
        };
        self.quotas.parked.insert(at.origin.offset, parked);
        self.quotas.dirty.insert(at.origin.offset);
        let mut effects = Effects::default();
        self.serve_parked(at, &mut effects)?;
        Ok(effects)
    }

    /// What a record has given back may be what others wait for.
    fn serve_moved(&mut self, at: Moment<'_>, mut effects: Effects) -> Result<Effects, Failure> {
        if self.quotas.moved && self.quotas.anyone_waits() {
            self.serve_parked(at, &mut effects)?;
        }
        Ok(effects)
    }

    /// After every record: gives back what has lapsed, and lets nobody wait too
    /// long.
    pub(super) fn serve_late(&mut self, at: Moment<'_>, effects: &mut Effects) -> Result<(), Failure> {
        let mail = self.quotas.ledger.settle(false, at.now);
        post(mail, effects);
        let first = self.quotas.parked.values().next();
        if first.is_some_and(|parked| !parked.is_patient(at.now)) {
            self.serve_parked(at, effects)?;
        }
        Ok(())
    }

    /// Applies those who need not wait any more, the oldest of each user first;
    /// asks for the others.
    pub(super) fn serve_parked(&mut self, at: Moment<'_>, effects: &mut Effects) -> Result<(), Failure> {
        loop {
            let mut waiting = Waiting::default();
            let mut from = 0;
            while let Some((offset, patient)) = self.quotas.first_free(from, at.now, &mut waiting) {
                from = offset + 1;
                let parked = &self.quotas.parked[&offset];
                let (whose, project) = (parked.whose(), parked.project.clone());
                let needed = self.run_parked(at, offset, patient, effects)?;
                for survey_id in &needed {
                    waiting.wants((&project, survey_id));
                }
                if !needed.is_empty() {
                    waiting.blocked.insert(whose);
                }
            }
            waiting.wanted.sort();
            for (key, count) in &waiting.wanted {
                let mail = self.quotas.ledger.ask(key, *count, at.now);
                post(mail, effects);
            }
            // The bank of this very partition answers at once.
            let asks = |(key, _): &(Key, u64)| self.quotas.ledger.room(key, at.now) == Room::Ask;
            if waiting.wanted.iter().all(asks) {
                break;
            }
        }
        // What somebody waits with is kept until the rest has come.
        let kept = self.quotas.waited_for();
        let mail = self.quotas.ledger.settle_but(&kept, at.now);
        post(mail, effects);
        Ok(())
    }

    /// Applies one of them; gives the surveys of which it needs a grant still.
    fn run_parked(
        &mut self,
        at: Moment<'_>,
        offset: u64,
        patient: bool,
        effects: &mut Effects,
    ) -> Result<Vec<String>, Failure> {
        let parked = self.quotas.parked[&offset].clone();
        let own = Moment { origin: Origin { offset, ..at.origin }, ..at };
        // A panic is this record's alone, and not of the one that released it.
        let judged = catch_unwind(AssertUnwindSafe(|| self.judge_again(own, &parked, patient)));
        let judged = match judged {
            Ok(Err(failure @ (Failure::Store(_) | Failure::Refused(_)))) => return Err(failure),
            Ok(Ok(judged)) => judged,
            Ok(Err(Failure::Reject(_))) | Err(_) => {
                let refused = "it could not be applied when its turn came";
                effects.outputs.push(outputs::unheard(own, ("panic", refused), &parked.value));
                let reply = Answer::Refused { code: "invalid".into(), pointer: None, detail: refused.into() };
                let heard = !parked.reply_to.is_empty();
                Judged::Done(Effects { reply: heard.then_some(reply), ..Effects::default() })
            }
        };
        self.quotas.dirty.insert(offset);
        match judged {
            Judged::Needs(surveys) => {
                if let Some(parked) = self.quotas.parked.get_mut(&offset) {
                    parked.waits_for.extend(surveys.iter().cloned());
                }
                Ok(surveys)
            }
            Judged::Done(late) => {
                self.quotas.parked.remove(&offset);
                self.quotas.released += 1;
                effects.outputs.extend(late.outputs);
                effects.forwards.extend(late.forwards);
                match late.reply {
                    Some(Answer::Refused { code, detail, .. }) if parked.reply_to.is_empty() => {
                        effects.outputs.push(outputs::unheard(own, (&code, &detail), &parked.value));
                    }
                    Some(answer) => {
                        let replies = parked.reply_to.into_iter().map(|to| (to.into(), answer.clone()));
                        effects.late_replies.extend(replies);
                    }
                    None => {}
                }
                Ok(Vec::new())
            }
        }
    }

    fn judge_again(&mut self, own: Moment<'_>, parked: &Parked, patient: bool) -> Result<Judged, Failure> {
        match record::decode(Some(parked.value.as_str().as_bytes()), parked.trusted)? {
            record::Decoded::User(record) => self.judge(own, &record, patient),
            record::Decoded::Internal(internal) => match *internal {
                Internal::Query(query) => self.judge(own, &super::asked(query), patient),
                _ => Ok(Judged::Done(Effects::default())),
            },
        }
    }

    /// Decides what a user has waiting, now: an erasure leaves nothing behind.
    pub(super) fn end_waiting(
        &mut self,
        at: Moment<'_>,
        (project, user_id): (&str, &str),
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let theirs = |parked: &Parked| parked.project == project && parked.user_id == user_id;
        let offsets: Vec<u64> =
            self.quotas.parked.iter().filter(|(_, parked)| theirs(parked)).map(|(offset, _)| *offset).collect();
        offsets.into_iter().try_for_each(|offset| self.run_parked(at, offset, false, effects).map(drop))
    }

    /// How many requests have waited for a grant and do not any more.
    pub fn released(&self) -> u64 {
        self.quotas.released
    }

    /// Whether the request at an offset waits for a grant.
    pub fn is_waiting(&self, offset: u64) -> bool {
        self.quotas.parked.contains_key(&offset)
    }

    /// Nobody waits any more; for looking alone.
    pub fn forget_waiting(&mut self) {
        self.quotas.parked.clear();
    }

    /// Whether the bank here would give a partition a grant: see [`quota::Bank::gives`].
    pub fn bank_gives(&self, key: &Key, asking: u32) -> Option<bool> {
        self.quotas.ledger.banks.get(key)?.gives(asking)
    }

    /// The grants that whoever waits needs, as the bank would send them.
    pub fn awaited_grants(&self) -> Vec<Mail> {
        let ledger = &self.quotas.ledger;
        let grant = |(project, survey_id): Key| {
            let epoch = ledger.accounts.get(&(project.clone(), survey_id.clone()))?.epoch;
            let message = Message::Grant { count: 1, keep: false };
            Some(Mail { project, survey_id, epoch, from: quota::BANK, to: ledger.partition(), message })
        };
        let wanted = self.quotas.waited_for().into_iter();
        wanted.filter(|key| ledger.room(key, Millis::MAX) == Room::Ask).filter_map(grant).collect()
    }

    /// Something that the bank, or one of its customers, has to say.
    pub(super) fn quota(&mut self, at: Moment<'_>, mail: &Mail) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        let answers = self.quotas.ledger.receive(mail, at.now);
        post(answers, &mut effects);
        self.serve_parked(at, &mut effects)?;
        Ok(effects)
    }
}

/// Letters to other partitions travel in their journals.
pub fn post(mail: Vec<Mail>, effects: &mut Effects) {
    effects.forwards.extend(mail.into_iter().map(|mail| to_partition(mail.to, &Internal::Quota(mail), false)));
}
