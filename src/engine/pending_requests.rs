//! The requests of a partition that wait for a grant. Hundreds may wait for the same one or
//! two surveys, and each that comes looks through all of them: so what that needs of a
//! request is kept apart from it, in one small row for each user.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::cap_requests::CapRequests;
use askwhen_domain::id;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Body, Record};
use askwhen_domain::refs::{SurveyKey, UserRef};
use askwhen_domain::time::{Millis, SECOND};

/// How long a request waits, in milliseconds of the partition's time: it is answered before
/// its client gives up. It is part of the decision rules.
const PATIENCE: Millis = SECOND;
/// The most requests with one event id that wait together.
const MAX_JOINED: usize = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingRequest {
    pub project: String,
    pub user_id: String,
    /// The record as it is written to the journal.
    pub value: Json,
    pub trusted: bool,
    /// The sender's event id: a copy of the record waits together with it.
    pub event_id: Option<String>,
    pub reply_to: Vec<String>,
    #[serde(rename = "parked_at")]
    pub waiting_since: Millis,
    /// Surveys of which it needs a grant; empty if it waits behind another request of its
    /// user.
    pub waits_for: BTreeSet<String>,
    /// Places of counters that it needs.
    #[serde(default, skip_serializing_if = "CapRequests::is_empty")]
    pub caps: CapRequests,
}

/// The first request of a user, as far as the search for those that can go on looks at it.
struct FirstOfUser {
    waiting_since: Millis,
    surveys: Arc<[SurveyKey]>,
    /// Whether a counter has yet to answer.
    is_open: bool,
}

impl FirstOfUser {
    /// Whether it can wait longer. When an operator has put the time back, a request from
    /// the future does not wait any more.
    fn is_patient(&self, now: Millis) -> bool {
        self.waiting_since <= now && now < self.waiting_since.saturating_add(PATIENCE)
    }
}

/// A request that need not wait any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyRequest {
    pub offset: u64,
    /// Whether it may wait again when it needs something else.
    pub is_patient: bool,
}

/// How many requests want a grant of each survey.
pub type Wanted = BTreeMap<SurveyKey, u64>;

#[derive(Default)]
pub struct PendingRequests {
    /// By the offset of the request's record.
    requests: BTreeMap<u64, PendingRequest>,
    /// By a hash of the user, the offsets of the user's requests.
    of_users: HashMap<u128, BTreeSet<u64>>,
    /// The first request of each user, by its offset. The others wait behind it and for nothing
    /// else, until they are applied when they have become the first.
    firsts: BTreeMap<u64, FirstOfUser>,
    /// What first requests wait for, each set once. Nobody else keeps one, so a set that is
    /// held only here is not waited for any more.
    survey_sets: BTreeSet<Arc<[SurveyKey]>>,
    /// Bytes of all records.
    bytes: usize,
    /// Offsets of requests that came, changed or went since [`PendingRequests::take_changed`].
    changed: BTreeSet<u64>,
}

fn hash_of(user: UserRef<'_>) -> u128 {
    id::event_hash(user.project, user.user_id, "")
}

impl PendingRequest {
    fn user(&self) -> UserRef<'_> {
        UserRef::new(&self.project, &self.user_id)
    }
}

impl PendingRequests {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, offset: u64) -> Option<&PendingRequest> {
        self.requests.get(&offset)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &PendingRequest)> {
        self.requests.iter().map(|(offset, request)| (*offset, request))
    }

    /// Puts back a request that the store has.
    pub fn restore(&mut self, offset: u64, request: PendingRequest) {
        debug_assert!(!self.requests.contains_key(&offset), "a record is one request");
        self.bytes += request.value.len_bytes();
        let user = hash_of(request.user());
        self.requests.insert(offset, request);
        let of_user = self.of_users.entry(user).or_default();
        let before = of_user.first().copied();
        of_user.insert(offset);
        match before {
            Some(before) if before < offset => return,
            before => drop(before.and_then(|before| self.firsts.remove(&before))),
        }
        self.update_first(offset);
    }

    pub fn insert(&mut self, offset: u64, request: PendingRequest) {
        self.changed.insert(offset);
        self.restore(offset, request);
    }

    /// Changes what a request waits for or whom it answers, unless it has ended its wait. It is written with the next checkpoint,
    /// even if it has stayed the same.
    pub fn change<T>(&mut self, offset: u64, change: impl FnOnce(&mut PendingRequest) -> T) -> Option<T> {
        let request = self.requests.get_mut(&offset)?;
        self.changed.insert(offset);
        let changed = change(request);
        if self.firsts.contains_key(&offset) {
            self.update_first(offset);
        }
        Some(changed)
    }

    pub fn remove(&mut self, offset: u64) {
        let Some(request) = self.requests.remove(&offset) else { return };
        self.changed.insert(offset);
        self.bytes -= request.value.len_bytes();
        let user = hash_of(request.user());
        let was_first = self.firsts.remove(&offset).is_some();
        if let Some(of_user) = self.of_users.get_mut(&user) {
            of_user.remove(&offset);
            match of_user.first().copied() {
                Some(next) if was_first => self.update_first(next),
                Some(_) => {}
                None => drop(self.of_users.remove(&user)),
            }
        }
        if self.requests.is_empty() {
            self.survey_sets.clear();
        }
    }

    /// Forgets all without a trace, for readers that write nothing.
    pub fn clear(&mut self) {
        *self = PendingRequests::default();
    }

    fn update_first(&mut self, offset: u64) {
        let Some(request) = self.requests.get(&offset) else { return };
        let project = &request.project;
        let surveys: Arc<[SurveyKey]> = request.waits_for.iter().map(|id| SurveyKey::new(&**project, &**id)).collect();
        let surveys = match self.survey_sets.get(&surveys) {
            Some(known) => known.clone(),
            None => {
                self.survey_sets.retain(|set| Arc::strong_count(set) > 1);
                self.survey_sets.insert(surveys.clone());
                surveys
            }
        };
        let first = FirstOfUser { waiting_since: request.waiting_since, surveys, is_open: request.caps.is_open() };
        self.firsts.insert(offset, first);
    }

    /// Offsets of the requests that came, changed or went since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// The surveys of which a first request needs a grant: the others wait for none themselves.
    pub fn waited_for(&self) -> BTreeSet<SurveyKey> {
        self.survey_sets.iter().filter(|set| Arc::strong_count(set) > 1).flat_map(|set| set.iter().cloned()).collect()
    }

    /// The first request from an offset on that need not wait any more; `asks` says whether
    /// the coordinator of a survey would have to be asked, and `wanted` counts what those
    /// before it need.
    pub fn first_ready(
        &self,
        from: u64,
        now: Millis,
        asks: impl Fn(&SurveyKey) -> bool,
        wanted: &mut Wanted,
    ) -> Option<ReadyRequest> {
        /// A set of surveys, those of them that have to be asked, and how many wait for it.
        struct Wait<'a> {
            surveys: &'a Arc<[SurveyKey]>,
            asked: Vec<&'a SurveyKey>,
            count: u64,
        }
        let mut waits: Vec<Wait<'_>> = Vec::new();
        let mut ready = None;
        for (offset, first) in self.firsts.range(from..) {
            let is_patient = first.is_patient(now);
            let known = waits.iter().position(|wait| Arc::ptr_eq(wait.surveys, &first.surveys));
            let at = known.unwrap_or_else(|| {
                let asked = first.surveys.iter().filter(|survey| asks(survey)).collect();
                waits.push(Wait { surveys: &first.surveys, asked, count: 0 });
                waits.len() - 1
            });
            if !is_patient || (waits[at].asked.is_empty() && !first.is_open) {
                ready = Some(ReadyRequest { offset: *offset, is_patient });
                break;
            }
            waits[at].count += 1;
        }
        for Wait { asked, count, .. } in waits.into_iter().filter(|wait| wait.count > 0) {
            asked.into_iter().for_each(|survey| *wanted.entry(survey.clone()).or_default() += count);
        }
        ready
    }

    /// Whether the oldest request has waited for long enough.
    pub fn is_overdue(&self, now: Millis) -> bool {
        self.firsts.first_key_value().is_some_and(|(_, first)| !first.is_patient(now))
    }

    /// Lets a copy of a waiting trigger wait together with it.
    pub fn join(&mut self, record: &Record<'_>, reply_to: Option<&String>) -> bool {
        let (Some(event_id), Body::Trigger { .. }) = (&record.event_id, &record.body) else { return false };
        let theirs = self.of_user(UserRef::new(&record.project, &record.user_id));
        let same = |offset: &u64| {
            self.requests.get(offset).is_some_and(|request| request.event_id.as_deref() == Some(&**event_id))
        };
        let Some(offset) = theirs.into_iter().find(same) else { return false };
        let join = |request: &mut PendingRequest| {
            request.reply_to.extend(reply_to.filter(|_| request.reply_to.len() < MAX_JOINED).cloned());
        };
        self.change(offset, join).is_some()
    }

    pub fn count_of_user(&self, user: UserRef<'_>) -> usize {
        if self.requests.is_empty() { 0 } else { self.of_user(user).len() }
    }

    /// The offsets of a user's requests, in their order.
    pub fn of_user(&self, user: UserRef<'_>) -> Vec<u64> {
        // Senders choose ids, and may choose some that have the same hash.
        let is_theirs = |offset: &u64| self.requests.get(offset).is_some_and(|request| request.user() == user);
        self.of_users.get(&hash_of(user)).into_iter().flatten().copied().filter(is_theirs).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use askwhen_domain::eligibility::apply::CapAnswers;
    use askwhen_domain::quota::cap::{CapAsk, CapKey, CapRule};

    const NOW: Millis = 1_000_000;

    fn request(user_id: &str, surveys: &[&str]) -> PendingRequest {
        PendingRequest {
            project: "p".into(),
            user_id: user_id.into(),
            value: Json::empty_object(),
            trusted: false,
            event_id: None,
            reply_to: Vec::new(),
            waiting_since: NOW,
            waits_for: surveys.iter().map(|id| (*id).to_owned()).collect(),
            caps: CapRequests::default(),
        }
    }

    /// All that need not wait when those are asked, each removed as if it had been decided;
    /// and what the others want.
    fn ready(pending: &mut PendingRequests, now: Millis, asked: &[&str]) -> (Vec<u64>, Vec<(String, u64)>) {
        let (mut wanted, mut found, mut from) = (Wanted::new(), Vec::new(), 0);
        let asks = |survey: &SurveyKey| asked.contains(&&*survey.survey_id);
        while let Some(ReadyRequest { offset, .. }) = pending.first_ready(from, now, asks, &mut wanted) {
            from = offset + 1;
            pending.remove(offset);
            found.push(offset);
        }
        (found, wanted.into_iter().map(|(key, count)| (key.survey_id, count)).collect())
    }

    #[test]
    fn of_each_user_the_first_request_is_looked_at_and_the_others_follow() {
        let mut pending = PendingRequests::default();
        for (offset, user, surveys) in
            [(1, "a", &["s"][..]), (2, "b", &["s", "t"]), (3, "a", &[]), (4, "c", &["s"]), (5, "b", &[])]
        {
            pending.insert(offset, request(user, surveys));
        }
        assert_eq!((pending.len(), pending.bytes()), (5, 10));
        let of_b = UserRef::new("p", "b");
        assert_eq!((pending.of_user(of_b), pending.count_of_user(of_b)), (vec![2, 5], 2));
        let of = |id: &str, count| (id.to_owned(), count);
        assert_eq!(ready(&mut pending, NOW, &["s", "t"]), (vec![], vec![of("s", 3), of("t", 1)]));
        assert_eq!(ready(&mut pending, NOW, &["t"]), (vec![1, 3, 4], vec![of("t", 1)]), "b waits for another one");
        assert_eq!(pending.waited_for().len(), 2);
        assert_eq!(pending.take_changed(), [1, 2, 3, 4, 5].into());
        assert_eq!(ready(&mut pending, NOW, &[]), (vec![2, 5], vec![]));
        assert!(pending.is_empty() && pending.waited_for().is_empty() && pending.bytes() == 0);
        assert!(pending.of_users.is_empty() && pending.firsts.is_empty() && pending.survey_sets.is_empty());
    }

    #[test]
    fn whoever_has_waited_for_long_enough_is_ready_and_so_is_one_from_the_future() {
        let mut pending = PendingRequests::default();
        pending.insert(1, request("a", &["s"]));
        for (now, overdue) in [(NOW - 1, true), (NOW, false), (NOW + PATIENCE - 1, false), (NOW + PATIENCE, true)] {
            assert_eq!(pending.is_overdue(now), overdue, "{now}");
            let ready = pending.first_ready(0, now, |_| true, &mut Wanted::new());
            assert_eq!(ready, overdue.then_some(ReadyRequest { offset: 1, is_patient: false }), "{now}");
        }
    }

    #[test]
    fn what_a_request_waits_for_may_change_while_it_waits() {
        let mut pending = PendingRequests::default();
        pending.restore(7, request("a", &["s"]));
        // Requests may be put back in any order.
        pending.restore(3, request("a", &["t"]));
        assert_eq!(pending.take_changed(), BTreeSet::new());
        assert_eq!(ready(&mut pending, NOW, &["t"]), (vec![], vec![("t".to_owned(), 1)]), "the earlier one is first");
        pending.change(3, |request| request.waits_for = BTreeSet::from(["u".to_owned()]));
        assert_eq!(pending.waited_for(), [SurveyKey::new("p", "u")].into());
        assert_eq!(ready(&mut pending, NOW, &["t"]).0, [3, 7]);
        assert_eq!(pending.change(3, |_| ()), None);
    }

    /// As [`PendingRequests::first_ready`], by going through all requests.
    fn naive(
        requests: &BTreeMap<u64, PendingRequest>,
        (from, now): (u64, Millis),
        asked: &BTreeSet<SurveyKey>,
        blocked: &mut BTreeSet<(String, String)>,
        wanted: &mut Wanted,
    ) -> Option<ReadyRequest> {
        for (offset, request) in requests.range(from..) {
            let user = (request.project.clone(), request.user_id.clone());
            if blocked.contains(&user) {
                continue;
            }
            let is_patient = request.waiting_since <= now && now < request.waiting_since + PATIENCE;
            let keys = request.waits_for.iter().map(|id| SurveyKey::new(request.project.clone(), id.clone()));
            let asks: Vec<SurveyKey> = keys.filter(|key| is_patient && asked.contains(key)).collect();
            if asks.is_empty() && !(is_patient && request.caps.is_open()) {
                return Some(ReadyRequest { offset: *offset, is_patient });
            }
            asks.into_iter().for_each(|key| *wanted.entry(key).or_default() += 1);
            blocked.insert(user);
        }
        None
    }

    /// Requests come, change and are resumed in any order, and are put back from the last to the
    /// first.
    #[test]
    fn the_search_finds_what_a_walk_through_all_finds() {
        let mut seed = 7_u64;
        let mut roll = |sides: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % sides
        };
        let (mut pending, mut all) = (PendingRequests::default(), BTreeMap::<u64, PendingRequest>::new());
        let (mut now, mut most) = (NOW, 0);
        for offset in 0..4_000_u64 {
            now += roll(20) as Millis - 2;
            let (user_id, project) = (format!("u{}", roll(30)), ["p", "q"][roll(2) as usize]);
            let user = UserRef::new(project, &user_id);
            let is_first = !all.values().any(|known| known.user() == user);
            let surveys = ["s", "t", "v"].into_iter().filter(|_| is_first && roll(2) == 0).map(str::to_owned);
            let mut new = request(&user_id, &[]);
            (new.project, new.waiting_since, new.waits_for) = (project.to_owned(), now, surveys.collect());
            if is_first && roll(4) == 0 {
                let ask = CapAsk { key: CapKey { cap: 1, value: 1 }, rule: CapRule { max: 1, within: None } };
                new.caps = CapRequests::new(vec![ask], CapAnswers::new(), false);
            }
            all.insert(offset, new.clone());
            pending.insert(offset, new);
            most = most.max(all.len());
            if roll(20) > 0 {
                continue;
            }
            let keys = ["p", "q"].into_iter().flat_map(|project| ["s", "t", "v"].map(|id| SurveyKey::new(project, id)));
            let asked: BTreeSet<SurveyKey> = keys.filter(|_| roll(3) > 0).collect();
            let (mut wanted, mut expected) = (Wanted::new(), Wanted::new());
            let (mut blocked, mut from) = (BTreeSet::new(), 0);
            loop {
                let ready = pending.first_ready(from, now, |key| asked.contains(key), &mut wanted);
                assert_eq!(ready, naive(&all, (from, now), &asked, &mut blocked, &mut expected), "{offset}");
                assert_eq!(wanted, expected, "{offset}");
                let Some(ReadyRequest { offset, .. }) = ready else { break };
                from = offset + 1;
                if roll(5) > 0 {
                    pending.remove(offset);
                    all.remove(&offset);
                    continue;
                }
                let needs_more = |request: &mut PendingRequest| request.waits_for.extend(["v".to_owned()]);
                assert!(pending.change(offset, needs_more).is_some());
                let request = all.get_mut(&offset).expect("both have it");
                needs_more(request);
                blocked.insert((request.project.clone(), request.user_id.clone()));
            }
            let surveys = all.values().flat_map(|known| {
                known.waits_for.iter().map(|id| SurveyKey::new(known.project.clone(), id.clone())).collect::<Vec<_>>()
            });
            assert_eq!(pending.waited_for(), surveys.collect());
            assert_eq!(pending.bytes(), 2 * all.len());
            let theirs = all.iter().filter(|(_, known)| known.user() == user).map(|(offset, _)| *offset);
            let theirs: Vec<u64> = theirs.collect();
            assert_eq!((pending.count_of_user(user), pending.of_user(user)), (theirs.len(), theirs));
            if roll(10) == 0 {
                pending.clear();
                all.iter().rev().for_each(|(offset, known)| pending.restore(*offset, known.clone()));
            }
        }
        assert!(most > 30, "{most} waited at once");
    }
}
