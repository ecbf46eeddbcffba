//! What the engine knew of a user at some moment: the journal of their partition
//! read again up to then, by the very rules that decide.

use serde_json::{Value, json};
use std::sync::Arc;

use super::{Error, Role, STORE_MEMORY_BYTES, data, depot, kafka_settings};
use crate::actor::Answer;
use crate::actor::checkpoint::Meta;
use crate::actor::partition::{Stop, is_trusted};
use crate::actor::player::Player;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::LOGIC_VERSION;
use crate::domain::id;
use crate::domain::quota::{self, Key, Mail, Message};
use crate::domain::record::{Body, Context, Record};
use crate::domain::time::{self, Millis};
use crate::engine::Engine;
use crate::log::embedded::follow::Follower;
use crate::log::{self, At, Embedded, Kafka, Log, Reader};
use crate::store::snapshot::{self, Manifest};
use crate::store::{Family, Memory, Shared, Store};
use crate::thread::Bell;
use crate::wire::definition::Kind;
use crate::wire::record::{self as wire, Decoded, Define, Defined, Internal, Query};
use crate::wire::seal::ClusterKey;
use crate::wire::topic::Topic;

/// Decisions shown, the newest ones.
const SHOWN_DECISIONS: usize = 20;
const READ_BYTES: usize = 1 << 20;
/// From here on a snapshot is worth fetching.
const MANY_RECORDS: u64 = 1_000_000;
const CACHED_USERS: usize = 1_000_000;

/// Whom and what is asked about.
pub struct Question {
    pub project: String,
    pub user_id: String,
    /// `None`: now, with all that the journal holds.
    pub at: Option<Millis>,
    /// A trigger that is imagined to come then, its properties as JSON.
    pub trigger: Option<(String, String, Context)>,
}

/// Where the journal of one partition is read.
enum Journal {
    Files { follower: Follower, ended: bool },
    Brokers { reader: Reader, bell: Arc<Bell>, at: At, next: u64 },
}

impl Journal {
    /// What comes next; empty at the end.
    fn read(&mut self) -> Result<Vec<log::Record>, Error> {
        match self {
            Journal::Files { follower, ended } => {
                if *ended {
                    return Ok(Vec::new());
                }
                let records = follower.read()?;
                *ended = records.is_empty();
                Ok(records)
            }
            Journal::Brokers { reader, bell, at, next } => loop {
                let chunk = reader.read(*at, *next, READ_BYTES)?;
                if chunk.records.is_empty() && !chunk.at_end {
                    bell.wait(std::time::Duration::from_millis(100));
                    continue;
                }
                if let Some(last) = chunk.records.last() {
                    *next = last.offset + 1;
                }
                return Ok(chunk.records);
            },
        }
    }
}

/// The log as far as it is needed here.
struct Place {
    incarnation: u128,
    partitions: u32,
    log: Option<Log>,
}

/// The journal up to a moment.
struct Past<'a> {
    config: &'a Config,
    key: ClusterKey,
    place: Place,
    until: Millis,
    project: &'a str,
    /// For snapshots that are fetched.
    folder: tempfile::TempDir,
}

/// A partition as it was then.
struct Then {
    player: Player<Engine>,
    begun_with: Option<Manifest>,
    records: u64,
}

/// Reads, and answers with the user, the imagined decision, and the decisions
/// that were made. `told` hears how many records have been read.
///
/// # Errors
/// When the log or its key is out of reach, or what was before the journal's
/// beginning is known from no snapshot.
pub fn explain(config: &Config, question: &Question, told: impl Fn(u64)) -> Result<Value, Error> {
    let (key, place) = open(config)?;
    let partition = id::partition_of(&question.user_id, place.partitions);
    let until = question.at.unwrap_or(Millis::MAX);
    let past = Past { config, key, place, until, project: &question.project, folder: tempfile::tempdir()? };
    let mut decisions: Vec<Value> = Vec::new();
    let Then { mut player, begun_with, records } = past.read(partition, Some(&question.user_id), |read, made| {
        decisions.extend(made);
        if decisions.len() > 2 * SHOWN_DECISIONS {
            decisions.drain(..SHOWN_DECISIONS);
        }
        told(read);
    })?;
    let now = question.at.unwrap_or_else(|| Clock::new().wall() + player.meta.ahead);
    let offset = player.meta.next;
    let mut bank = Bank { past: &past, asking: partition, then: None, now };
    let query =
        Query { project: question.project.clone(), user_id: question.user_id.clone(), offer_id: None, survey_id: None };
    let query = Decoded::Internal(Box::new(Internal::Query(query)));
    let (user, _) = body(&mut player, &mut bank, query)?;
    let (decision, needs_grant) = match &question.trigger {
        None => (Value::Null, Vec::new()),
        Some((trigger, properties, context)) => {
            let record = Record {
                project: (&*question.project).into(),
                user_id: (&*question.user_id).into(),
                event_id: None,
                told: Default::default(),
                body: Body::Trigger { trigger: trigger.into(), properties, context: context.clone() },
            };
            body(&mut player, &mut bank, Decoded::User(Box::new(record)))?
        }
    };
    decisions.reverse();
    decisions.truncate(SHOWN_DECISIONS);
    Ok(json!({
        "user_id": question.user_id,
        "project": question.project,
        "at": time::format_time(now),
        "partition": partition,
        "offset": offset,
        "records": records,
        "snapshot": begun_with.as_ref().map(Manifest::name),
        "user": user,
        "decision": decision,
        "needs_grant": needs_grant,
        "decisions": decisions,
    }))
}

impl Past<'_> {
    /// Reads a partition: for one user, or for all. `each` hears how many records
    /// have been read, and the decisions about the user since it heard last.
    fn read(
        &self,
        partition: u32,
        user_id: Option<&str>,
        mut each: impl FnMut(u64, Vec<Value>),
    ) -> Result<Then, Error> {
        let at = At { topic: Topic::Events, partition };
        let start = self.start(at)?;
        let (store, begun_with) = match self.nearest(partition, start)? {
            Some((store, manifest)) => (store, Some(manifest)),
            None if start == 0 => (Arc::new(Store::Memory(Memory::default())), None),
            None => {
                return Err(Error::Refused(format!(
                    "{at} begins at {start}: what was before has been trimmed, and no snapshot from before that time \
                     is there to begin with"
                )));
            }
        };
        let (incarnation, partitions) = (self.place.incarnation, self.place.partitions);
        let meta = Meta::load(&store).map_err(stopped)?;
        let meta = meta.unwrap_or_else(|| Meta::new(incarnation, partitions, LOGIC_VERSION));
        let next = meta.next;
        let engine = Engine::open(store, (partition, partitions), CACHED_USERS).map_err(stopped)?;
        let everyone = user_id.is_none()
            || engine.has_quotas(self.project)
            || counts_everyone(self.journal(at, next), &self.key, self.project)?;
        let concerned = |project: &str, user: &str| everyone || (project == self.project && Some(user) == user_id);
        let wanted = |decoded: &Decoded<'_>| match decoded {
            Decoded::User(record) => concerned(&record.project, &record.user_id),
            Decoded::Internal(internal) => match &**internal {
                Internal::Query(_) => everyone,
                Internal::Erase { project, user_id, .. } => concerned(project, user_id),
                _ => true,
            },
        };
        let mut player = Player::new(self.key.clone(), partition, incarnation, meta, engine);
        let mut journal = self.journal(at, next);
        let (mut read, mut over) = (0, false);
        while !over {
            let records = journal.read()?;
            over = records.is_empty();
            let mut decisions = Vec::new();
            for record in records.iter().filter(|record| record.offset >= next) {
                if record.appended_at + player.meta.ahead > self.until {
                    over = true;
                    break;
                }
                read += 1;
                let effects = player.play(record, &wanted).map_err(|e| Error::Failed(e.to_string()))?;
                let outputs = effects.map(|effects| effects.outputs).unwrap_or_default();
                let decided = outputs.iter().filter(|output| output.topic == Topic::Decisions);
                let values = decided.filter_map(|output| serde_json::from_slice(output.value.as_deref()?).ok());
                let theirs = |value: &Value| value["project"] == self.project && value["user_id"].as_str() == user_id;
                decisions.extend(values.filter(theirs));
            }
            each(read, decisions);
        }
        Ok(Then { player, begun_with, records: read })
    }

    /// The first offset that is this log's own and still there.
    fn start(&self, at: At) -> Result<u64, Error> {
        match &self.place.log {
            None => Ok(Follower::new(&self.config.data_dir.join("log"), at).start()?),
            Some(log) => Ok(log.bounds(at)?.start.max(log.begins(at.partition))),
        }
    }

    fn journal(&self, at: At, next: u64) -> Journal {
        match &self.place.log {
            None => Journal::Files { follower: Follower::new(&self.config.data_dir.join("log"), at), ended: false },
            Some(log) => {
                let bell = Arc::new(Bell::default());
                Journal::Brokers { reader: log.reader("explain", bell.clone()), bell, at, next }
            }
        }
    }

    /// The newest snapshot from before that moment, where reading from the
    /// beginning cannot be done or takes long.
    fn nearest(&self, partition: u32, start: u64) -> Result<Option<(Arc<Store>, Manifest)>, Error> {
        let depot = match depot(self.config) {
            Ok(depot) => depot,
            Err(_) if start == 0 => return Ok(None),
            Err(error) => return Err(error),
        };
        let failed = |e: snapshot::Error| Error::Unreachable(e.to_string());
        let shared = Shared::new(STORE_MEMORY_BYTES);
        let mut manifests = depot.list(Role::Engine.name(), partition).map_err(failed)?;
        let ours = format!("{:032x}", self.place.incarnation);
        manifests.retain(|m| m.subject.incarnation == ours && m.subject.logic_version == LOGIC_VERSION);
        let least = if start > 0 { start } else { MANY_RECORDS };
        manifests.retain(|m| m.subject.position >= least && m.subject.created_at <= self.until);
        manifests.sort_by_key(|m| std::cmp::Reverse(m.subject.position));
        for (n, manifest) in manifests.into_iter().enumerate() {
            let into = self.folder.path().join(format!("{partition}-{n}"));
            depot.restore(&manifest, &into, |_, _| true).map_err(failed)?;
            let store = data::open_store(&into, Family::ENGINE, &shared)?;
            if Meta::load(&store).map_err(stopped)?.is_some_and(|meta| meta.now <= self.until) {
                return Ok(Some((store, manifest)));
            }
        }
        Ok(None)
    }
}

/// The bank of the quotas, read when somebody asks for a grant.
struct Bank<'a> {
    past: &'a Past<'a>,
    asking: u32,
    then: Option<Player<Engine>>,
    now: Millis,
}

impl Bank<'_> {
    /// Whether it would give one; `None` when that depends on what other
    /// partitions have not used.
    fn gives(&mut self, own: &Player<Engine>, key: &Key) -> Result<Option<bool>, Error> {
        if self.asking == quota::BANK {
            return Ok(own.machine().bank_gives(key, self.asking));
        }
        if self.then.is_none() {
            self.then = Some(self.past.read(quota::BANK, None, |_, _| {})?.player);
        }
        Ok(self.then.as_ref().and_then(|then| then.machine().bank_gives(key, self.asking)))
    }
}

/// The body of the answer, and the surveys of which it supposes that there is a
/// grant left.
fn body(player: &mut Player<Engine>, bank: &mut Bank<'_>, decoded: Decoded<'_>) -> Result<(Value, Vec<String>), Error> {
    let failed = |e: crate::actor::Failure| Error::Failed(e.to_string());
    player.machine_mut().forget_waiting();
    let effects = player.ask(bank.now, decoded).map_err(failed)?;
    let mut supposed = Vec::new();
    let (mut reply, mut late) = (effects.reply, effects.late_replies);
    loop {
        let said = reply.take().or_else(|| late.pop().map(|(_, answer)| answer));
        if let Some(Answer::Body { server, .. }) = said {
            return Ok((server.value(), supposed));
        }
        let grants = player.machine().awaited_grants();
        if grants.is_empty() {
            return Ok((Value::Null, supposed));
        }
        for grant in grants {
            let key = (grant.project.clone(), grant.survey_id.clone());
            let gives = bank.gives(player, &key)?;
            supposed.extend(gives.is_none().then(|| grant.survey_id.clone()));
            let message = if gives == Some(false) { Message::Refuse } else { grant.message.clone() };
            let answer = Decoded::Internal(Box::new(Internal::Quota(Mail { message, ..grant })));
            late.extend(player.ask(bank.now, answer).map_err(failed)?.late_replies);
        }
    }
}

/// Whether other users' records matter to this one: where quotas are, they use
/// them up.
fn counts_everyone(mut journal: Journal, key: &ClusterKey, project: &str) -> Result<bool, Error> {
    loop {
        let records = journal.read()?;
        if records.is_empty() {
            return Ok(false);
        }
        for record in records {
            let value = record.value.as_deref().unwrap_or_default();
            if is_trusted(key, &record) && limits(value, project) {
                return Ok(true);
            }
        }
    }
}

/// Whether one of askwhen's own records gives a survey a quota.
fn limits(value: &[u8], project: &str) -> bool {
    let Ok(Decoded::Internal(internal)) = wire::decode(Some(value), true) else { return false };
    match *internal {
        Internal::Forward(forward) => forward.trusted && limits(forward.value.as_str().as_bytes(), project),
        Internal::Define(Define { project: of, kind: Kind::Survey, body: Some(body), .. })
        | Internal::Defined(Defined { project: of, kind: Kind::Survey, body: Some(body), .. }) => {
            of == project && !body.value()["limits"]["max_completed"].is_null()
        }
        _ => false,
    }
}

fn cluster_key(config: &Config) -> Result<ClusterKey, Error> {
    let path = config.key_file.clone().unwrap_or_else(|| config.data_dir.join("secrets.key"));
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::Usage(format!(
            "{}: {e}. The journal is read with the cluster's key: run where the data is, or give --data-dir or secrets.key_file",
            path.display()
        ))
    })?;
    ClusterKey::parse(&text).ok_or_else(|| Error::Usage(format!("{} must hold 64 hex digits", path.display())))
}

fn open(config: &Config) -> Result<(ClusterKey, Place), Error> {
    if !config.kafka {
        let dir = config.data_dir.join("log");
        let Some((incarnation, partitions)) = Embedded::identity_of(&dir)? else {
            return Err(Error::Unreachable(format!("{} holds no log; give --data-dir", dir.display())));
        };
        return Ok((cluster_key(config)?, Place { incarnation, partitions, log: None }));
    }
    let key = cluster_key(config)?;
    let log = Log::Kafka(Kafka::connect(kafka_settings(config, key.check()))?);
    let place = Place { incarnation: log.incarnation(), partitions: log.partitions(), log: Some(log) };
    Ok((key, place))
}

fn stopped(stop: Stop) -> Error {
    Error::Refused(stop.to_string())
}
