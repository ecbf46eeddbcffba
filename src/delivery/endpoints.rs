//! What the delivery knows of endpoints: their definitions, how they fare, how
//! fast they are called. One for all partitions of this process; what is found
//! out here is told to the registrar, and so to everyone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::fold::{Told, What, line};
use super::lanes::Ready;
use crate::domain::endpoint::{DisabledReason, Endpoint, HeaderText, SealedSecret};
use crate::domain::health::{Health, Seen, State};
use crate::domain::rate::Pace;
use crate::domain::time::{Millis, SECOND};
use crate::wire::definition::{self, Target};
use crate::wire::profile::Keys;
use crate::wire::record::{Act, Fares, Internal, Operate};
use crate::wire::seal::{self, ClusterKey};

/// Tests of one endpoint under way.
const TESTS_AT_ONCE: u32 = 2;
/// Changes of health are told at most so often for each endpoint.
const TELL_EVERY: Millis = 10 * SECOND;
/// The registrar is asked again after so long.
const ASK_AGAIN: Millis = 30 * SECOND;

/// An endpoint's definition with its secrets opened.
pub struct Defined {
    pub endpoint: Endpoint,
    pub version: u64,
    keys: Result<Keys, &'static str>,
    /// Until when each of the previous ones signs.
    previous_until: Vec<Millis>,
    /// PEM of the private key that goes with its client certificate.
    pub client_key: Option<String>,
    /// Its headers in clear; empty when they, or a secret, cannot be read.
    pub headers: BTreeMap<String, String>,
}

impl Defined {
    /// What signs at this time.
    ///
    /// # Errors
    /// Why nothing can.
    pub fn keys(&self, now: Millis) -> Result<Keys, &'static str> {
        let mut keys = self.keys.clone()?;
        let mut until = self.previous_until.iter();
        keys.previous.retain(|_| until.next().is_some_and(|until| now < *until));
        Ok(keys)
    }
}

#[derive(Default)]
struct Known {
    project: String,
    endpoint_id: String,
    version: u64,
    defined: Option<Arc<Defined>>,
    health: Health,
    /// Of what the registrar has told of its health.
    seq: u64,
    pace: Pace,
    told_at: Option<Millis>,
    /// What the registrar was told last, or has told.
    told: Health,
    /// It did not hear of that.
    untold: bool,
    /// When the registrar was asked to disable it; until it has, nothing is sent.
    ending: Option<(Millis, DisabledReason)>,
}

pub struct Endpoints {
    key: ClusterKey,
    /// This process, for those who hear of its findings.
    by: String,
    known: HashMap<u64, Known>,
    /// Lines of endpoints that the registrar is to be told of, and when.
    to_tell: BTreeSet<(Millis, u64)>,
    changed: bool,
}

impl Endpoints {
    pub fn new(key: ClusterKey) -> Endpoints {
        let by = uuid::Uuid::new_v4().simple().to_string();
        Endpoints { key, by, known: HashMap::new(), to_tell: BTreeSet::new(), changed: true }
    }

    /// Takes what is told of an endpoint, by every partition and in any order;
    /// gives its lines.
    pub fn take(&mut self, told: Told) -> [u64; 2] {
        let lines = [false, true].map(|test| line(&told.project, &told.endpoint_id, test));
        let known = self.known.entry(lines[0]).or_default();
        (known.project, known.endpoint_id) = (told.project, told.endpoint_id);
        match told.what {
            What::Defined { version, body } if version > known.version || known.version == 0 => {
                let read = body.and_then(|body| definition::endpoint(&body.value(), None, Target::Trusted).ok());
                let defined = read.map(|read| {
                    Arc::new(open(&self.key, (&known.project, &known.endpoint_id), read.endpoint, version))
                });
                let on = |defined: &Option<Arc<Defined>>| defined.as_ref().is_some_and(|d| d.endpoint.is_enabled());
                if known.version > 0 && on(&known.defined) && !on(&defined) {
                    let (project, endpoint_id) = (&known.project, &known.endpoint_id);
                    tracing::info!(project, endpoint_id, version, "nothing is sent to an endpoint any more");
                    crate::metrics::get().delivery_transitions.with_label_values(&["disabled"]).inc();
                }
                let rate = |defined: &Option<Arc<Defined>>| defined.as_ref().and_then(|d| d.endpoint.rate_limit);
                if rate(&known.defined) != rate(&defined) {
                    known.pace = Pace::default();
                }
                (known.version, known.defined, known.ending) = (version, defined, None);
                self.changed = true;
            }
            What::Fares { seq, by, health } if seq > known.seq => {
                known.seq = seq;
                // What is known here may be newer by now.
                let newer = health.since >= known.health.since || by.is_empty();
                if by != self.by && newer {
                    known.told = health.clone();
                    known.health = health;
                    self.to_tell.extend(known.health.until.map(|until| (until, lines[0])));
                }
                self.changed = true;
            }
            What::Defined { .. } | What::Fares { .. } => {}
        }
        lines
    }

    pub fn defined(&self, line: u64) -> Option<&Arc<Defined>> {
        self.known.get(&line)?.defined.as_ref()
    }

    /// When an endpoint was last tried again after a stretch of being open.
    pub fn resumed_at(&self, line: u64) -> Millis {
        self.known.get(&line).map_or(0, |known| known.health.resumed_at)
    }

    /// Whether a line takes another attempt; `share` of its bounds is this
    /// process's.
    pub fn ready(&mut self, line: u64, under_way: u32, share: f64, now: Millis) -> Ready {
        let Some(known) = self.known.get_mut(&line) else {
            // Nothing is known of it, or it is a line of tests.
            return if under_way < TESTS_AT_ONCE { Ready::Now } else { Ready::Later };
        };
        let Some(defined) = known.defined.as_ref().map(|defined| &defined.endpoint).filter(|e| e.is_enabled()) else {
            // It is cancelled at once, whatever still hangs there.
            return Ready::Now;
        };
        if let Some((asked_at, reason)) = known.ending {
            if now < asked_at.saturating_add(ASK_AGAIN) {
                return Ready::At(asked_at.saturating_add(ASK_AGAIN));
            }
            known.ending = Some((now, reason));
            self.to_tell.insert((now, line));
            return Ready::At(now.saturating_add(ASK_AGAIN));
        }
        if known.health.tick(now) {
            self.changed = true;
            self.to_tell.insert((known.told_at.map_or(now, |at| now.max(at + TELL_EVERY)), line));
        }
        let own = (f64::from(defined.concurrency) * share).ceil().max(1.0) as u32;
        let most = if defined.retry.breaker { known.health.most(own) } else { own };
        if under_way >= most {
            return match known.health.until {
                Some(until) if known.health.state == State::Open => Ready::At(until),
                _ => Ready::Later,
            };
        }
        match defined.rate_limit {
            Some(rate) => match known.pace.next(rate, share, now) {
                at if at > now => Ready::At(at),
                _ => {
                    known.pace.take(rate, share, now);
                    Ready::Now
                }
            },
            None => Ready::Now,
        }
    }

    /// Whether nothing is sent there for now: little of it is worth being in memory.
    pub fn is_held(&self, line: u64) -> bool {
        self.known.get(&line).is_some_and(|known| known.ending.is_some() || known.health.state == State::Open)
    }

    /// Other processes know better from now on.
    pub fn forget(&mut self) {
        self.known.clear();
        self.to_tell.clear();
        self.changed = true;
    }

    /// Takes what an attempt said about its endpoint.
    pub fn see(&mut self, line: u64, at: Millis, seen: Seen) {
        let Some(known) = self.known.get_mut(&line) else { return };
        let Some(defined) = &known.defined else { return };
        let (concurrency, breaker) = (defined.endpoint.concurrency, defined.endpoint.retry.breaker);
        let verdict = known.health.see(at, seen, concurrency, breaker);
        if verdict.changed {
            self.changed = true;
            let soonest = if known.health.state == State::Open { None } else { known.told_at };
            self.to_tell.insert((soonest.map_or(at, |told| at.max(told + TELL_EVERY)), line));
            // That it is to be tried again is told even if nothing is there to try.
            self.to_tell.extend(known.health.until.map(|until| (until, line)));
        }
        if verdict.give_up {
            self.end(line, at, DisabledReason::Auto);
        }
    }

    /// Asks for an endpoint to be disabled; nothing is sent there from now on.
    pub fn end(&mut self, line: u64, now: Millis, reason: DisabledReason) {
        let Some(known) = self.known.get_mut(&line) else { return };
        if known.ending.is_none() {
            known.ending = Some((now, reason));
            self.to_tell.insert((now, line));
        }
    }

    /// When the registrar is to be told something next.
    pub fn next_tell(&self) -> Option<Millis> {
        self.to_tell.first().map(|(at, _)| *at)
    }

    /// The registrar has not heard of it.
    pub fn tell_again(&mut self, line: u64, now: Millis) {
        if let Some(known) = self.known.get_mut(&line) {
            known.untold = true;
            self.to_tell.insert((now.saturating_add(SECOND), line));
        }
    }

    /// What the registrar is to be told now, of which lines.
    pub fn tell(&mut self, now: Millis) -> Vec<(u64, String, Internal)> {
        let mut all = Vec::new();
        while let Some((_, line)) = self.to_tell.first().copied().filter(|(at, _)| *at <= now) {
            self.to_tell.pop_first();
            let Some(known) = self.known.get_mut(&line) else { continue };
            let key = format!("endpoint/{}/{}", known.project, known.endpoint_id);
            let (project, endpoint_id) = (known.project.clone(), known.endpoint_id.clone());
            if let Some((_, reason)) = known.ending {
                tracing::warn!(project, endpoint_id, reason = reason.name(), "an endpoint is given up");
                let request_id = uuid::Uuid::new_v4().simple().to_string();
                let (act, if_match) = (Act::Disable { reason }, Some(known.version));
                let operate = Operate { project, endpoint_id, act, if_match, asked_at: now, request_id };
                all.push((line, key, Internal::Operate(operate)));
                continue;
            }
            self.changed |= known.health.tick(now);
            if !std::mem::take(&mut known.untold) && known.health.looks_like(&known.told) {
                continue;
            }
            let moved = known.health.state != known.told.state;
            (known.told_at, known.told) = (Some(now), known.health.clone());
            let (health, by) = (known.health.clone(), self.by.clone());
            let (state, reason) = (health.state.name(), health.reason.map(|reason| reason.name()));
            if moved {
                tracing::info!(project, endpoint_id, state, reason, "how an endpoint fares has changed");
                crate::metrics::get().delivery_transitions.with_label_values(&[state]).inc();
            }
            all.push((line, key, Internal::Fares(Fares { project, endpoint_id, health, by, told_at: now, seq: None })));
        }
        all
    }

    /// How many endpoints there are in each state, if that may have changed.
    pub fn count(&mut self) -> Option<HashMap<&'static str, i64>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut counts: HashMap<&'static str, i64> = State::ALL.iter().map(|state| (state.name(), 0)).collect();
        counts.insert("disabled", 0);
        for known in self.known.values() {
            let Some(defined) = &known.defined else { continue };
            let state = if defined.endpoint.is_enabled() { known.health.state.name() } else { "disabled" };
            *counts.entry(state).or_default() += 1;
        }
        Some(counts)
    }
}

fn open(key: &ClusterKey, (project, endpoint_id): (&str, &str), endpoint: Endpoint, version: u64) -> Defined {
    let opened = |sealed: &SealedSecret| key.open(project, endpoint_id, sealed).map_err(|_| "secret_unreadable");
    let current = endpoint.secret.as_ref().ok_or("secret_missing").and_then(opened);
    let previous = &endpoint.previous_secrets;
    let keys = current.and_then(|current| {
        let previous = previous.iter().map(|before| opened(&before.secret)).collect::<Result<_, _>>()?;
        Ok(Keys { current, previous })
    });
    let header = |(name, text): (&String, &HeaderText)| {
        let text = match text {
            HeaderText::Clear(text) => Ok(text.clone()),
            HeaderText::Sealed(sealed) => key.open(project, &seal::header_of(endpoint_id, name), sealed),
        };
        text.map(|text| (name.clone(), text)).map_err(|_| "secret_unreadable")
    };
    let headers: Result<BTreeMap<_, _>, _> = endpoint.headers.iter().map(header).collect();
    let (keys, headers) = match headers {
        Ok(headers) => (keys, headers),
        // Without its token a message would be refused, or worse, be taken.
        Err(why) => (keys.and(Err(why)), BTreeMap::new()),
    };
    let client_key = endpoint.tls.as_ref().and_then(|tls| tls.client_key.as_ref()).and_then(|k| opened(k).ok());
    let previous_until = previous.iter().map(|before| before.until_ms).collect();
    Defined { endpoint, version, keys, previous_until, client_key, headers }
}
