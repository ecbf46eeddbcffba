//! The engine: the machine that decides. It keeps the users of one partition,
//! knows the definitions, and turns records into decisions, responses and
//! deliveries by `domain::apply`. It knows no HTTP and sends nothing.

mod again;
mod changes;
mod decided;
pub mod export;
mod outputs;
mod parking;
mod registrar;
mod remembered;
mod restore;
mod table;
mod users;

use std::sync::Arc;

use askwhen_domain::apply::{self, Refusal, Reply, Rooms, Scene};
use askwhen_domain::decision::{Decision, Reason};
use askwhen_domain::definitions::Project;
use askwhen_domain::id::{self, Kind as IdKind};
use askwhen_domain::json::Json;
use askwhen_domain::quota::Room;
use askwhen_domain::record::{Body, Context, Record};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::user::User;
use askwhen_log::{Log, New};
use askwhen_partition::Stop;
use askwhen_partition::checkpoint::Meta;
use askwhen_partition::{Answer, Effects, Failure, Frozen, Machine, Moment, Output};
use askwhen_store::{Batch, Store};
use askwhen_wire::definition::{Kind, Trigger, TriggerKind};
use askwhen_wire::record::{Decoded, Defined, Erase, Fares, Internal, Query, Unreadable};
use askwhen_wire::topic::Topic;
use changes::to_partition;
use decided::Recent;
use parking::Quotas;
use registrar::REQUEST_LIFE;
use remembered::Remembered;
use table::Table;
use users::Users;

pub use users::CacheLimit;

pub struct Engine {
    store: Arc<Store>,
    users: Users,
    table: Table,
    recent: Recent,
    quotas: Quotas,
    remembered: Remembered,
    rows: prometheus::IntGauge,
    empty: Arc<Project>,
    watched: Option<Watched>,
}

/// What is put out about a project's users, kept as it is instead of being written.
struct Watched {
    project: String,
    items: Vec<apply::Output>,
}

impl Engine {
    /// Takes up what the store holds; keeps so many bytes of decoded users.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(
        store: Arc<Store>,
        (partition, partitions): (u32, u32),
        cached: impl Into<CacheLimit>,
    ) -> Result<Engine, Stop> {
        let table = Table::load(&store)?;
        let quotas = Quotas::load(&store, partition, partitions)?;
        Ok(Engine {
            users: Users::new(store.clone(), cached.into()),
            recent: Recent::new(store.clone()),
            quotas,
            table,
            remembered: Remembered::open(store.clone())?,
            rows: askwhen_process::metrics::get().engine_remembered_rows.with_label_values(&[&partition.to_string()]),
            store,
            empty: Arc::default(),
            watched: None,
        })
    }

    /// From now on nothing is written out: what records of a project's users cause
    /// is kept for [`Engine::take_watched`]. Answers to requests are not made up.
    pub fn watch(&mut self, project: &str) {
        self.watched = Some(Watched { project: project.to_owned(), items: Vec::new() });
    }

    /// What has been put out since it was asked last.
    pub fn take_watched(&mut self) -> Vec<apply::Output> {
        self.watched.as_mut().map(|watched| std::mem::take(&mut watched.items)).unwrap_or_default()
    }

    /// The surveys of a project: version and canonical form.
    pub fn surveys(&self, project: &str) -> Vec<(String, u64, Json)> {
        let theirs = self.table.rows().filter(|row| row.project == project && row.kind == Kind::Survey);
        theirs.filter_map(|row| Some((row.id.clone(), row.version, row.body.clone()?))).collect()
    }

    /// Whether any survey of a project has a quota.
    pub fn has_quotas(&self, project: &str) -> bool {
        self.quotas.ledger.accounts.iter().any(|((of, _), account)| of == project && account.limit.is_some())
    }

    fn user_record(&mut self, at: Moment<'_>, record: &Record<'_>) -> Result<Effects, Failure> {
        askwhen_process::metrics::get().engine_records.with_label_values(&[record.body.kind()]).inc();
        if askwhen_process::fault::mutant("skip_dedupe") && record.event_id.is_some() {
            return self.user_record(at, &Record { event_id: None, ..record.clone() });
        }
        let mut effects = self.judge_or_park(at, record)?;
        // Last, so that a record that panics leaves its name to be met again.
        self.tell_name(at, record, &mut effects);
        Ok(effects)
    }

    fn judge(&mut self, at: Moment<'_>, record: &Record<'_>, may_wait: bool) -> Result<Judged, Failure> {
        let mut effects = Effects::default();
        let project = self.table.definitions.project(&record.project).unwrap_or(&self.empty).clone();
        let touches = apply::touches_user(&project, record);
        let counts = touches && !matches!(record.body, Body::Event { .. });
        let rooms = if counts { self.rooms(&project, &record.project, at.now) } else { Rooms::new() };
        let scene = Scene {
            origin: at.origin,
            now: at.now,
            project_id: &record.project,
            user_id: &record.user_id,
            project: &project,
            rooms: &rooms,
            may_wait,
        };
        let hash = record.event_id.as_ref().map(|id| id::event_hash(&record.project, &record.user_id, id));
        if !touches {
            return self.untouched(scene, record, hash, effects).map(Judged::Done);
        }
        let before = self.users.get(&record.project, &record.user_id)?;
        // An overlay of its own: a panic leaves what is cached as it was.
        let mut user = (*before).clone();
        // Of an erased user nothing is left but the ids in the store's table.
        let erased_at = match user == User::default() {
            true => self.remembered.erased_at(&record.project, &record.user_id, at.now)?,
            false => None,
        };
        let seen = match hash {
            Some(hash) if user.overflowed || erased_at.is_some() => self.remembered.seen_at(hash, at.now)?.is_some(),
            _ => false,
        };
        let mut out = apply::apply(scene, &mut user, record, seen);
        if !out.needs.is_empty() {
            return Ok(Judged::Needs(out.needs));
        }
        if matches!(record.body, Body::Erase) {
            // Nothing was known since the last time: it is the same erasure, and
            // nobody is told of it a second time.
            if erased_at.is_some() {
                out.items.retain(|item| matches!(item, apply::Output::CancelDeliveries));
            }
            self.remembered.erase(&record.project, &record.user_id, at.now);
        }
        // From here on its ids are looked for in the table again.
        user.overflowed |= erased_at.is_some() && user != User::default();
        out.spilled.iter().for_each(|(hash, seen_at)| self.remembered.keep(*hash, *seen_at));
        for (survey_id, change) in &out.quotas {
            let key = (record.project.to_string(), survey_id.clone());
            self.quotas.ledger.change(&key, *change, at.now);
            self.quotas.moved = true;
        }
        if !out.quotas.is_empty() {
            parking::post(self.quotas.ledger.settle(true, at.now), &mut effects);
        }
        self.conclude(scene, record, (hash, out), &mut effects)?;
        if user != *before {
            self.users.put(&record.project, &record.user_id, user);
        }
        Ok(Judged::Done(effects))
    }

    fn rooms(&self, project: &Project, project_id: &str, now: Millis) -> Rooms {
        let room = |survey_id: &String| {
            let room = self.quotas.ledger.room(&(project_id.to_owned(), survey_id.clone()), now);
            (survey_id.clone(), if askwhen_process::fault::mutant("grant_without_asking") { Room::Free } else { room })
        };
        project.limited().iter().map(room).collect()
    }

    /// An event that no survey mentions, or a trigger that none shows on.
    fn untouched(
        &mut self,
        scene: Scene<'_>,
        record: &Record<'_>,
        hash: Option<u128>,
        mut effects: Effects,
    ) -> Result<Effects, Failure> {
        if !matches!(record.body, Body::Trigger { .. }) {
            return Ok(effects);
        }
        if let Some(hash) = hash
            && let Some(bodies) = self.answered_before(scene, record, hash)?
        {
            effects.reply = Some(bodies);
            return Ok(effects);
        }
        let out = apply::apply(scene, &mut Default::default(), record, false);
        self.conclude(scene, record, (hash, out), &mut effects)?;
        Ok(effects)
    }

    fn conclude(
        &mut self,
        scene: Scene<'_>,
        record: &Record<'_>,
        (hash, out): (Option<u128>, apply::Outputs),
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        if let Some(watched) = &mut self.watched {
            if let (Some(hash), Some(Reply::Decided(_))) = (hash, &out.reply) {
                self.recent.keep(hash, scene.now, Json::null(), Json::null());
            }
            if scene.project_id == watched.project {
                watched.items.extend(out.items);
            }
            return Ok(());
        }
        for item in &out.items {
            effects.outputs.push(outputs::encode(scene, item));
        }
        effects.reply = match out.reply {
            Some(Reply::Decided(decision)) => {
                let metrics = askwhen_process::metrics::get();
                metrics.engine_decisions.with_label_values(&[decision.reason.name()]).inc();
                let (server, client) = (decision.server_body(), decision.client_body());
                if let Some(hash) = hash {
                    self.recent.keep(hash, scene.now, server.clone(), client.clone());
                }
                Some(Answer::Body { server, client })
            }
            Some(Reply::Repeated) => Some(self.repeated(scene, record, hash)?),
            Some(reply) => Some(answer(reply)),
            None => None,
        };
        Ok(())
    }

    /// The answer to a record whose event id has been seen: the stored bytes of
    /// a trigger's decision, or that it is too old to have any.
    fn repeated(&self, scene: Scene<'_>, record: &Record<'_>, hash: Option<u128>) -> Result<Answer, Failure> {
        let Body::Trigger { trigger, .. } = &record.body else {
            return Ok(Answer::Accepted { duplicate: true, response_id: None });
        };
        if let Some(hash) = hash
            && let Some(bodies) = self.answered_before(scene, record, hash)?
        {
            return Ok(bodies);
        }
        let stale = Decision {
            decision_id: scene.origin.id(IdKind::Decision, &[]),
            event_id: record.event_id.as_deref().unwrap_or_default().to_owned(),
            user_id: record.user_id.to_string(),
            trigger: trigger.to_string(),
            decided_at: scene.now,
            reason: Reason::Stale,
            survey: None,
            evaluations: Vec::new(),
        };
        Ok(Answer::Body { server: stale.server_body(), client: stale.client_body() })
    }

    /// The stored answer to a trigger, unless its user has been erased since.
    fn answered_before(
        &self,
        scene: Scene<'_>,
        record: &Record<'_>,
        hash: u128,
    ) -> Result<Option<Answer>, askwhen_store::Error> {
        let ttl = scene.project.settings.offer_ttl;
        let Some((decided_at, bodies)) = self.recent.find(hash, scene.now, ttl)? else { return Ok(None) };
        let erased = self
            .remembered
            .erased_at(&record.project, &record.user_id, scene.now)?
            .is_some_and(|erased_at| decided_at <= erased_at);
        Ok((!erased).then_some(bodies))
    }

    /// Tells the registrar of a name met for the first time.
    fn tell_name(&mut self, at: Moment<'_>, record: &Record<'_>, effects: &mut Effects) {
        let (name, kind) = match &record.body {
            Body::Event { name, .. } => (name, TriggerKind::Backend),
            Body::Trigger { trigger, .. } => (trigger, TriggerKind::Frontend),
            _ => return,
        };
        if !self.table.meets_name(&record.project, name) {
            return;
        }
        let trigger = Trigger {
            trigger_id: name.to_string(),
            name: name.to_string(),
            kind,
            first_seen_at: time::format_time(at.now),
        };
        let seen = Internal::NameSeen { project: record.project.to_string(), trigger };
        if at.origin.partition == 0 {
            let Internal::NameSeen { project, trigger } = seen else { unreachable!("just made") };
            registrar::name_seen(&mut self.table, at, &project, trigger, effects);
        } else {
            effects.forwards.push(to_partition(0, &seen, false));
        }
    }

    fn defined(&mut self, at: Moment<'_>, defined: &Defined, effects: &mut Effects) -> Result<(), Failure> {
        if let Some(command) = self.table.take(defined, (at.now, at.origin.offset)) {
            effects.outputs.push(Output {
                topic: Topic::Deliveries,
                key: Some(defined.id.clone().into()),
                id: at.origin.id(IdKind::Definition, &[&defined.project, &defined.id, "command"]),
                value: Some(askwhen_wire::output::encode(&command).into()),
            });
        }
        effects.reply = Some(Answer::Defined {
            partition: at.origin.partition,
            of: at.partitions,
            version: defined.version,
            changed: defined.changed,
            created: defined.created,
            used_new_secret: defined.used_new_secret,
        });
        let project = self.table.definitions.project(&defined.project);
        let entry = project.filter(|_| defined.kind == Kind::Survey).and_then(|p| p.surveys.get(&defined.id));
        if let Some(entry) = entry {
            let key = (defined.project.clone(), defined.id.clone());
            let (version, limit) = (entry.version, entry.current.max_completed);
            parking::post(self.quotas.ledger.limit(&key, version, limit, at.now), effects);
            self.serve_parked(at, effects)?;
        }
        Ok(())
    }

    /// Erases a user, once for each request: a copy of an old record must not erase
    /// whoever has come since.
    fn erase(&mut self, at: Moment<'_>, erase: Erase, effects: &mut Effects) -> Result<(), Failure> {
        let Erase { project, user_id, asked_at, request_id } = erase;
        if (at.now - asked_at).abs() > REQUEST_LIFE {
            let detail = "the erasure was asked for long ago; ask anew".into();
            return Err(Failure::Reject(Unreadable { reason: "stale", detail }));
        }
        let request = format!("erase/{asked_at}/{request_id}");
        if !self.remembered.is_new((&project, &user_id), &request, at.now)? {
            effects.reply = Some(Answer::Accepted { duplicate: true, response_id: None });
            return Ok(());
        }
        self.end_waiting(at, (&project, &user_id), effects)?;
        let (event_id, told) = (None, Default::default());
        let record = Record { project: project.into(), user_id: user_id.into(), event_id, told, body: Body::Erase };
        let erased = self.user_record(at, &record)?;
        effects.outputs.extend(erased.outputs);
        effects.forwards.extend(erased.forwards);
        effects.reply = erased.reply;
        Ok(())
    }

    /// Whether a process reports this of an endpoint for the first time: a copy of
    /// its record must not bring back what was.
    fn is_first_report(&mut self, at: Moment<'_>, fares: &Fares) -> Result<bool, askwhen_store::Error> {
        let request = format!("fares/{}/{}", fares.told_at, fares.by);
        self.remembered.is_new((&fares.project, &fares.endpoint_id), &request, at.now)
    }

    /// Lets one record have its effect.
    fn take(&mut self, at: Moment<'_>, record: Decoded<'_>) -> Result<Effects, Failure> {
        match record {
            Decoded::User(record) => self.user_record(at, &record),
            Decoded::Internal(internal) => {
                let mut effects = Effects::default();
                match *internal {
                    Internal::Query(query) => return self.user_record(at, &asked(query)),
                    Internal::Quota(mail) => return self.quota(at, &mail),
                    Internal::Erase(erase) => self.erase(at, erase, &mut effects)?,
                    Internal::Define(define) => {
                        if let Some(defined) = registrar::define(&mut self.table, at, define, &mut effects) {
                            self.defined(at, &defined, &mut effects)?;
                        }
                    }
                    Internal::Operate(operate) => {
                        if let Some(defined) = registrar::operate(&mut self.table, at, &operate, &mut effects) {
                            self.defined(at, &defined, &mut effects)?;
                        }
                    }
                    Internal::Defined(defined) => self.defined(at, &defined, &mut effects)?,
                    Internal::Fares(fares) => {
                        let told = match fares.seq {
                            Some(_) => Some(fares),
                            None if !self.is_first_report(at, &fares)? => None,
                            None => registrar::fares(&self.table, at, fares, &mut effects),
                        };
                        effects.outputs.extend(told.and_then(|fares| outputs::fares(at, fares)));
                    }
                    Internal::Redeliver { delivery, told_at, asked_at } => {
                        self.redeliver(at, *delivery, (told_at, asked_at), &mut effects)?;
                    }
                    Internal::Ping { project, endpoint_id, delivery_id, asked_at } => {
                        self.ping(at, (&project, &endpoint_id, delivery_id), asked_at, &mut effects)?;
                    }
                    Internal::NameSeen { project, trigger } => {
                        registrar::name_seen(&mut self.table, at, &project, trigger, &mut effects);
                    }
                    // The runtime's own.
                    Internal::Forward(_)
                    | Internal::Clock { .. }
                    | Internal::BindMacs {}
                    | Internal::AcceptTime(_)
                    | Internal::Skip(_)
                    | Internal::Tick {} => {}
                }
                Ok(effects)
            }
        }
    }
}

/// What came of a user's record.
enum Judged {
    Done(Effects),
    /// Grants of these surveys' quotas are needed first; nothing has changed.
    Needs(Vec<String>),
}

/// A read, as a record.
fn asked(query: Query) -> Record<'static> {
    let body = match (query.offer_id, query.survey_id) {
        (Some(offer_id), _) => Body::ShowOffer { offer_id: offer_id.into() },
        (None, Some(survey_id)) => Body::ShowLink { survey_id: survey_id.into(), context: Context::default() },
        (None, None) => Body::ShowUser,
    };
    let (project, user_id) = (query.project.into(), query.user_id.into());
    Record { project, user_id, event_id: None, told: Default::default(), body }
}

fn answer(reply: Reply) -> Answer {
    match reply {
        Reply::Accepted { duplicate, response_id } => Answer::Accepted { duplicate, response_id },
        Reply::Offer(view) => outputs::offer_bodies(*view),
        Reply::Link(view) => outputs::link_body(&view),
        Reply::User(view) => {
            let body = Json::of(&view);
            Answer::Body { server: body.clone(), client: body }
        }
        Reply::Refused(refusal) => {
            let pointer = match &refusal {
                Refusal::UnfitAnswer { pointer, .. } => Some(pointer.clone()),
                _ => None,
            };
            Answer::Refused { code: refusal.code().into(), pointer, detail: refusal.detail() }
        }
        Reply::Decided(decision) => Answer::Body { server: decision.server_body(), client: decision.client_body() },
        Reply::Repeated => Answer::Accepted { duplicate: true, response_id: None },
    }
}

impl Machine for Engine {
    fn apply(&mut self, at: Moment<'_>, record: Decoded<'_>) -> Result<Effects, Failure> {
        let mut effects = self.take(at, record)?;
        self.serve_late(at, &mut effects)?;
        Ok(effects)
    }

    fn wants_ticks(&self) -> bool {
        self.quotas.anyone_waits()
    }

    fn lost_definitions(&self, log: &Log, meta: &Meta) -> Result<Vec<New>, Stop> {
        restore::lost_definitions(&self.table, log, meta)
    }

    fn output_topics(&self, partition: u32) -> Vec<Topic> {
        let mut topics = vec![Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects];
        if partition == 0 {
            // The registrar's.
            topics.push(Topic::Definitions);
        }
        topics
    }

    fn dirty_bytes(&self) -> usize {
        self.users.dirty_bytes() + self.recent.dirty_bytes() + self.quotas.dirty_bytes() + self.remembered.dirty_bytes()
    }

    fn freeze(&mut self, now: Millis) -> Frozen {
        let users = self.users.freeze();
        let recent = self.recent.freeze(now);
        let table = self.table.freeze();
        let quotas = self.quotas.freeze();
        let remembered = self.remembered.freeze(now);
        Box::new(move || {
            let mut batch = Batch::default();
            users(&mut batch);
            recent(&mut batch);
            table(&mut batch);
            quotas(&mut batch);
            remembered(&mut batch);
            batch
        })
    }

    fn persisted(&mut self) {
        self.users.persisted();
        self.recent.persisted();
        self.remembered.persisted();
        self.rows.set(i64::try_from(self.store.estimated_keys(askwhen_store::Family::Dedupe)).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
