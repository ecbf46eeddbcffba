//! The endpoints as the delivery knows them: definitions, health, rate. One table serves
//! all partitions of this process. Changes of health are reported to the registrar, from
//! where they reach every process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::fold::{EndpointChange, EndpointUpdate, queue_id};
use super::hold::{HeldEndpoint, HoldReason, Pause};
use super::notice::{EndpointName, FailureRow, Notice};
use super::ordering::EndpointReadiness;
use askwhen_domain::refs::EndpointRef;
use askwhen_domain::time::{DAY, MINUTE, Millis, SECOND};
use askwhen_domain::webhook::endpoint::{DisabledReason, Endpoint, HeaderText, SealedSecret};
use askwhen_domain::webhook::health::{Health, HealthSignal, State};
use askwhen_domain::webhook::rate::Pace;
use askwhen_wire::definition::{self, Target};
use askwhen_wire::profile::{self, Keys};
use askwhen_wire::record::{EndpointAction, EndpointCommand, EndpointHealthReport, Internal};
use askwhen_wire::seal::{self, ClusterKey};
use askwhen_wire::topics::Outcome;

/// How many tests of one endpoint are in flight at most.
const TESTS_AT_ONCE: u32 = 2;
/// How often the health of one endpoint is reported at most.
const REPORT_EVERY: Millis = 10 * SECOND;
/// After how long the registrar is asked again to disable an endpoint.
const ASK_AGAIN: Millis = 30 * SECOND;
/// The longest hold that a receiver can ask for, and a minute for the attempt.
const LONGEST_HOLD: Millis = DAY + MINUTE;

/// An endpoint's definition with its secrets opened.
pub struct OpenedEndpoint {
    pub endpoint: Endpoint,
    pub version: u64,
    current: Result<String, HoldReason>,
    /// The previous secrets, newest first, and until when each of them signs.
    previous: Vec<(Millis, Result<String, HoldReason>)>,
    /// PEM of the private key of its client certificate.
    client_key: Result<Option<String>, HoldReason>,
    /// The headers in clear. Empty when they cannot be opened: then nothing is sent.
    pub headers: BTreeMap<String, String>,
}

impl OpenedEndpoint {
    /// The secrets that sign at this time.
    ///
    /// # Errors
    /// Why nothing can be sent.
    pub fn keys(&self, now: Millis) -> Result<Keys, HoldReason> {
        if let Some(reason) = self.fault(now) {
            return Err(reason);
        }
        let previous = self.signing(now).filter_map(|secret| secret.as_ref().ok().cloned()).collect();
        Ok(Keys { current: self.current.clone()?, previous })
    }

    /// Why nothing can be sent at this time.
    fn fault(&self, now: Millis) -> Option<HoldReason> {
        let client_key = self.client_key.as_ref().err();
        let signing =
            self.current.as_ref().err().or_else(|| self.signing(now).find_map(|secret| secret.as_ref().err()));
        client_key.or(signing).copied()
    }

    fn signing(&self, now: Millis) -> impl Iterator<Item = &Result<String, HoldReason>> {
        self.previous.iter().filter(move |(until, _)| now < *until).map(|(_, secret)| secret)
    }

    /// PEM of the private key of its client certificate.
    pub fn client_key(&self) -> Option<&String> {
        self.client_key.as_ref().ok()?.as_ref()
    }
}

#[derive(Default)]
struct KnownEndpoint {
    project: String,
    endpoint_id: String,
    version: u64,
    defined: Option<Arc<OpenedEndpoint>>,
    /// Whether there is a definition that this version cannot read.
    is_unreadable: bool,
    /// Set while attempts fail by a fault of this process.
    pause: Option<Pause>,
    /// Why nothing is sent, and since when, as it was logged last.
    held: Option<(HoldReason, Millis)>,
    health: Health,
    /// Sequence number of the registrar's last update of its health.
    seq: u64,
    pace: Pace,
    reported_at: Option<Millis>,
    /// The health that was last reported to the registrar, or came from it.
    reported: Health,
    /// Whether the log refused that report.
    is_unreported: bool,
    /// When the registrar was asked to disable it. Until it has done so, nothing is sent.
    ending: Option<(Millis, DisabledReason)>,
    dead: DeadCount,
    failures: FailureRow,
}

/// Deliveries that were given up since that was logged last.
#[derive(Default)]
struct DeadCount {
    count: u64,
    logged_at: Option<Millis>,
}

pub struct Endpoints {
    key: ClusterKey,
    /// Names this process in its reports.
    by: String,
    /// By the endpoint's queue.
    known: HashMap<u64, KnownEndpoint>,
    /// When the registrar is to get a report, and on the endpoint of which queue.
    to_report: BTreeSet<(Millis, u64)>,
    /// The date of the latest report.
    dated: Millis,
    /// Whether the next census may differ from the last one.
    changed: bool,
    /// What is to be logged and counted.
    notices: Vec<Notice>,
}

impl Endpoints {
    /// `by` names this process in its reports.
    pub fn new(key: ClusterKey, by: String) -> Endpoints {
        let (known, to_report, notices) = (HashMap::new(), BTreeSet::new(), Vec::new());
        Endpoints { key, by, known, to_report, dated: 0, changed: true, notices }
    }

    /// What is to be logged and counted, once.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Takes an update in. Every partition brings each update, in any order: only newer ones
    /// have an effect. Returns the endpoint's queues, for deliveries and for tests.
    pub fn take(&mut self, update: EndpointUpdate) -> [u64; 2] {
        let queue_ids = [false, true].map(|test| queue_id(&update.project, &update.endpoint_id, test));
        let known = self.known.entry(queue_ids[0]).or_default();
        (known.project, known.endpoint_id) = (update.project, update.endpoint_id);
        match update.what {
            EndpointChange::Defined { version, body } if version > known.version || known.version == 0 => {
                let read = body.map(|body| definition::endpoint(&body.value(), None, Target::Trusted));
                known.is_unreadable = matches!(read, Some(Err(_)));
                let endpoint = EndpointRef::new(&known.project, &known.endpoint_id);
                let opened = |read: definition::EndpointBody| open(&self.key, endpoint, read.endpoint, version);
                let defined = read.and_then(Result::ok).map(|read| Arc::new(opened(read)));
                let on =
                    |defined: &Option<Arc<OpenedEndpoint>>| defined.as_ref().is_some_and(|d| d.endpoint.is_enabled());
                if known.version > 0 && on(&known.defined) && !on(&defined) {
                    self.notices.push(Notice::Disabled { endpoint: known.name(), version });
                }
                let rate = |defined: &Option<Arc<OpenedEndpoint>>| defined.as_ref().and_then(|d| d.endpoint.rate_limit);
                if rate(&known.defined) != rate(&defined) {
                    known.pace = Pace::default();
                }
                (known.version, known.defined, known.ending) = (version, defined, None);
                known.pause = None;
                self.changed = true;
            }
            EndpointChange::Health { seq, by, health } if seq > known.seq => {
                known.seq = seq;
                // This process may have seen more since.
                let newer = health.since >= known.health.since || by.is_empty();
                if by != self.by && newer {
                    known.reported = health.clone();
                    known.health = health;
                    self.to_report.extend(known.health.until.map(|until| (until, queue_ids[0])));
                }
                self.changed = true;
            }
            EndpointChange::Defined { .. } | EndpointChange::Health { .. } => {}
        }
        queue_ids
    }

    /// Counts a delivery that is given up. The first one is logged at once, then their number
    /// at most once a minute.
    pub fn died(&mut self, queue_id: u64, reason: &'static str, now: Millis) {
        let Some(known) = self.known.get_mut(&queue_id) else { return };
        known.dead.count += 1;
        if known.dead.logged_at.is_some_and(|logged_at| now < logged_at + MINUTE) {
            return;
        }
        let count = std::mem::take(&mut known.dead.count);
        known.dead.logged_at = Some(now);
        self.notices.push(Notice::GivenUp { endpoint: known.name(), reason, count });
    }

    pub fn defined(&self, queue_id: u64) -> Option<&Arc<OpenedEndpoint>> {
        self.known.get(&queue_id)?.defined.as_ref()
    }

    /// When an endpoint was last tried again after its breaker was open.
    pub fn resumed_at(&self, queue_id: u64) -> Millis {
        self.known.get(&queue_id).map_or(0, |known| known.health.resumed_at)
    }

    /// Whether there is a definition that this version cannot read.
    pub fn is_unreadable(&self, queue_id: u64) -> bool {
        self.known.get(&queue_id).is_some_and(|known| known.is_unreadable)
    }

    /// Pauses an endpoint because an attempt failed by a fault of this process; returns when
    /// another attempt finds out whether the fault is mended.
    pub fn pause(&mut self, queue_id: u64, reason: HoldReason, now: Millis) -> Millis {
        let Some(known) = self.known.get_mut(&queue_id) else { return now.saturating_add(MINUTE) };
        let pause = Pause::after(known.pause, reason, now);
        known.pause = Some(pause);
        self.changed = true;
        pause.until
    }

    /// Ends a pause: an attempt has reached the receiver, or failed by its fault.
    pub fn resume(&mut self, queue_id: u64) {
        if let Some(known) = self.known.get_mut(&queue_id)
            && known.pause.take().is_some()
        {
            self.changed = true;
        }
    }

    /// Whether a queue takes another attempt. `share`, from 0 to 1, of the endpoint's
    /// concurrency and rate is this process's.
    pub fn ready(&mut self, queue_id: u64, under_way: u32, share: f64, now: Millis) -> EndpointReadiness {
        let Some(known) = self.known.get_mut(&queue_id) else {
            // The queue holds tests, or deliveries of an endpoint that is not known yet.
            return if under_way < TESTS_AT_ONCE { EndpointReadiness::Now } else { EndpointReadiness::Later };
        };
        known.forget_impossible_hold(now);
        match known.hold(now) {
            Some(Hold::Definition) => return EndpointReadiness::Later,
            // The unreadable secret has been replaced, and stops to sign at that time.
            Some(Hold::Secret(until)) => return until.map_or(EndpointReadiness::Later, EndpointReadiness::At),
            Some(Hold::Pause(pause)) if now < pause.until => return EndpointReadiness::At(pause.until),
            Some(Hold::Pause(_)) if under_way > 0 => return EndpointReadiness::Later,
            Some(Hold::Pause(_)) => {}
            None => self.changed |= known.held.is_some(),
        }
        let Some(defined) = known.defined.as_ref().map(|defined| &defined.endpoint).filter(|e| e.is_enabled()) else {
            // Deliveries of a disabled endpoint are cancelled at once.
            return EndpointReadiness::Now;
        };
        if let Some((asked_at, reason)) = known.ending {
            if now < asked_at.saturating_add(ASK_AGAIN) {
                return EndpointReadiness::At(asked_at.saturating_add(ASK_AGAIN));
            }
            known.ending = Some((now, reason));
            self.to_report.insert((now, queue_id));
            return EndpointReadiness::At(now.saturating_add(ASK_AGAIN));
        }
        if known.health.tick(now) {
            self.changed = true;
            self.to_report.insert((known.reported_at.map_or(now, |at| now.max(at + REPORT_EVERY)), queue_id));
        }
        let own = (f64::from(defined.concurrency) * share).ceil().max(1.0) as u32;
        let most = if defined.retry.breaker { known.health.max_in_flight(own) } else { own };
        if under_way >= most {
            return match known.health.until {
                Some(until) if known.health.state == State::Open => EndpointReadiness::At(until),
                _ => EndpointReadiness::Later,
            };
        }
        match defined.rate_limit {
            Some(rate) => match known.pace.next(rate, share, now) {
                at if at > now => EndpointReadiness::At(at),
                _ => {
                    known.pace.take(rate, share, now);
                    EndpointReadiness::Now
                }
            },
            None => EndpointReadiness::Now,
        }
    }

    /// Whether nothing is sent to an endpoint for now: then little of its queue is kept in
    /// memory.
    pub fn is_held(&self, queue_id: u64) -> bool {
        let Some(known) = self.known.get(&queue_id) else { return false };
        known.ending.is_some() || known.held.is_some() || known.health.state == State::Open
    }

    /// Forgets everything, because from now on only other processes make attempts.
    pub fn forget(&mut self) {
        self.known.clear();
        self.to_report.clear();
        self.changed = true;
    }

    /// Records in the health of its endpoint how an attempt ended, with the response's status.
    pub fn record(
        &mut self,
        queue_id: u64,
        at: Millis,
        signal: HealthSignal,
        outcome: Outcome,
        http_status: Option<u16>,
    ) {
        let Some(known) = self.known.get_mut(&queue_id) else { return };
        match signal {
            HealthSignal::Success => known.failures = FailureRow::default(),
            HealthSignal::Failure { .. } => {
                known.failures = FailureRow { count: known.failures.count + 1, latest: Some((outcome, http_status)) };
            }
        }
        let Some(defined) = &known.defined else { return };
        let (concurrency, breaker) = (defined.endpoint.concurrency, defined.endpoint.retry.breaker);
        let verdict = known.health.record(at, signal, concurrency, breaker);
        if verdict.changed {
            self.changed = true;
            let soonest = if known.health.state == State::Open { None } else { known.reported_at };
            self.to_report.insert((soonest.map_or(at, |update| at.max(update + REPORT_EVERY)), queue_id));
            // The end of an open phase is reported even if no delivery is there to try.
            self.to_report.extend(known.health.until.map(|until| (until, queue_id)));
        }
        if verdict.give_up {
            self.end(queue_id, at, DisabledReason::Auto);
        }
    }

    /// Asks the registrar to disable an endpoint. Nothing is sent to it from now on.
    pub fn end(&mut self, queue_id: u64, now: Millis, reason: DisabledReason) {
        let Some(known) = self.known.get_mut(&queue_id) else { return };
        if known.ending.is_none() {
            known.ending = Some((now, reason));
            self.to_report.insert((now, queue_id));
        }
    }

    /// When the registrar is to get the next report.
    pub fn next_report(&self) -> Option<Millis> {
        self.to_report.first().map(|(at, _)| *at)
    }

    /// Has a report made again, because the log refused it.
    pub fn report_again(&mut self, queue_id: u64, now: Millis) {
        if let Some(known) = self.known.get_mut(&queue_id) {
            known.is_unreported = true;
            self.to_report.insert((now.saturating_add(SECOND), queue_id));
        }
    }

    /// The reports that the registrar is to get now: queue, key and record. They are dated
    /// by the wall clock, because the registrar compares that with the journal's time and
    /// refuses what seems to be minutes old or ahead.
    pub fn reports(&mut self, now: Millis, wall: Millis) -> Vec<(u64, String, Internal)> {
        let mut all = Vec::new();
        while let Some((_, queue_id)) = self.to_report.first().copied().filter(|(at, _)| *at <= now) {
            self.to_report.pop_first();
            let Some(known) = self.known.get_mut(&queue_id) else { continue };
            // The request id is made of the date: two reports need two dates.
            let is_taken = (wall..wall.saturating_add(MINUTE)).contains(&self.dated);
            self.dated = if is_taken { self.dated + 1 } else { wall };
            let key = format!("endpoint/{}/{}", known.project, known.endpoint_id);
            let (project, endpoint_id) = (known.project.clone(), known.endpoint_id.clone());
            if let Some((_, reason)) = known.ending {
                self.notices.push(Notice::Ending { endpoint: known.name(), reason });
                let request_id = request_id(&self.by, self.dated, &key);
                let (act, if_match) = (EndpointAction::Disable { reason }, Some(known.version));
                let operate = EndpointCommand {
                    project,
                    endpoint_id,
                    act,
                    if_match,
                    asked_at: self.dated,
                    request_id,
                    actor: None,
                };
                all.push((queue_id, key, Internal::EndpointCommand(operate)));
                continue;
            }
            self.changed |= known.health.tick(now);
            if !std::mem::take(&mut known.is_unreported) && known.health.looks_like(&known.reported) {
                continue;
            }
            let moved = known.health.state != known.reported.state;
            (known.reported_at, known.reported) = (Some(now), known.health.clone());
            let (health, by) = (known.health.clone(), self.by.clone());
            if moved {
                let (state, reason) = (health.state, health.reason.map(|reason| reason.name()));
                let failures = known.failures.clone();
                self.notices.push(Notice::Health { endpoint: known.name(), state, reason, failures });
            }
            let reported_at = self.dated;
            all.push((
                queue_id,
                key,
                Internal::EndpointHealthReport(EndpointHealthReport {
                    project,
                    endpoint_id,
                    health,
                    by,
                    reported_at,
                    seq: None,
                }),
            ));
        }
        all
    }

    /// The number of endpoints in each state, and the held ones; `None` when nothing has
    /// changed since it was asked last.
    pub fn census(&mut self, now: Millis) -> Option<(HashMap<&'static str, i64>, Vec<HeldEndpoint>)> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut counts: HashMap<&'static str, i64> = State::ALL.iter().map(|state| (state.name(), 0)).collect();
        counts.insert("disabled", 0);
        let mut held = Vec::new();
        for known in self.known.values_mut() {
            self.notices.extend(known.hold_notice(now));
            if let Some((reason, since)) = known.held {
                let (project, endpoint_id) = (known.project.clone(), known.endpoint_id.clone());
                held.push(HeldEndpoint { project, endpoint_id, reason, since });
            }
            let enabled = known.defined.as_ref().map(|defined| defined.endpoint.is_enabled());
            let state = match (known.held, enabled) {
                (Some(_), _) => State::Open.name(),
                (None, Some(true)) => known.health.state.name(),
                (None, Some(false)) => "disabled",
                (None, None) => continue,
            };
            *counts.entry(state).or_default() += 1;
        }
        Some((counts, held))
    }
}

/// Why nothing can be sent to an endpoint, whatever its health is.
enum Hold {
    Definition,
    /// With the time at which the unreadable secret stops to sign, if it does.
    Secret(Option<Millis>),
    Pause(Pause),
}

impl KnownEndpoint {
    fn hold(&self, now: Millis) -> Option<Hold> {
        if self.is_unreadable {
            return Some(Hold::Definition);
        }
        let defined = self.defined.as_ref().filter(|defined| defined.endpoint.is_enabled())?;
        if defined.fault(now).is_some() {
            let ends = defined.previous.iter().map(|(until, _)| *until).filter(|until| *until > now);
            return Some(Hold::Secret(ends.min()));
        }
        self.pause.map(Hold::Pause)
    }

    fn hold_reason(&self, now: Millis) -> Option<HoldReason> {
        match self.hold(now)? {
            Hold::Definition => Some(HoldReason::DefinitionUnreadable),
            Hold::Secret(_) => self.defined.as_ref()?.fault(now),
            Hold::Pause(pause) => Some(pause.reason),
        }
    }

    /// Notes that it is held, or not any more; returns a notice when the reason has changed.
    fn hold_notice(&mut self, now: Millis) -> Option<Notice> {
        let reason = self.hold_reason(now);
        if reason == self.held.map(|(reason, _)| reason) {
            return None;
        }
        self.held = reason.map(|reason| (reason, now));
        let endpoint = self.name();
        Some(match reason {
            Some(reason) => Notice::Held { endpoint, reason },
            None => Notice::HoldOver { endpoint },
        })
    }

    fn name(&self) -> EndpointName {
        EndpointName { project: self.project.clone(), endpoint_id: self.endpoint_id.clone() }
    }

    /// Ends a hold that is longer than any receiver can ask for: a process whose clock was
    /// ahead has written it.
    fn forget_impossible_hold(&mut self, now: Millis) {
        if self.health.until.is_some_and(|until| until > now.saturating_add(LONGEST_HOLD)) {
            self.health.until = Some(now);
        }
    }
}

/// The id of a request to the registrar. No two requests of a process have one date.
fn request_id(by: &str, dated: Millis, key: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(format!("{by}/{dated}/{key}").as_bytes()))
}

fn open(key: &ClusterKey, named: EndpointRef<'_>, endpoint: Endpoint, version: u64) -> OpenedEndpoint {
    let EndpointRef { project, endpoint_id } = named;
    let opened = |sealed: &SealedSecret| key.open(project, endpoint_id, sealed);
    let secret = |sealed: &SealedSecret| opened(sealed).map_err(|_| HoldReason::SecretUnreadable);
    let current = endpoint.secret.as_ref().ok_or(HoldReason::SecretMissing).and_then(secret);
    let current = current.and_then(|secret| match profile::check_secret(endpoint.profile, &secret) {
        Ok(()) => Ok(secret),
        Err(_) => Err(HoldReason::SecretUnusable),
    });
    // A previous secret of another profile's form cannot sign, and is no reason to hold.
    let of_form = |secret: &Result<String, _>| match secret {
        Ok(secret) => profile::check_secret(endpoint.profile, secret).is_ok(),
        Err(_) => true,
    };
    let previous = endpoint.previous_secrets.iter().map(|before| (before.until_ms, secret(&before.secret)));
    let previous = previous.filter(|(_, secret)| of_form(secret)).collect();
    let header = |(name, text): (&String, &HeaderText)| {
        let text = match text {
            HeaderText::Clear(text) => Ok(text.clone()),
            HeaderText::Sealed(sealed) => key.open(project, &seal::header_of(endpoint_id, name), sealed),
        };
        text.map(|text| (name.clone(), text)).map_err(|_| HoldReason::SecretUnreadable)
    };
    let headers: Result<BTreeMap<_, _>, _> = endpoint.headers.iter().map(header).collect();
    let (current, headers) = match headers {
        Ok(headers) => (current, headers),
        // Without its headers a message could be refused, or taken as one from elsewhere.
        Err(reason) => (current.and(Err(reason)), BTreeMap::new()),
    };
    let client_key = endpoint.tls.as_ref().and_then(|tls| tls.client_key.as_ref());
    let client_key = client_key.map(|sealed| opened(sealed).map_err(|_| HoldReason::ClientKeyUnreadable)).transpose();
    OpenedEndpoint { endpoint, version, current, previous, client_key, headers }
}
