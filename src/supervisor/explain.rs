//! What the engine knew of a user at some moment: the journal of their partition
//! read again up to then, by the very rules that decide.

use serde_json::{Value, json};
use std::sync::Arc;

use super::{Error, Role, STORE_MEMORY_BYTES, data, depot, kafka_settings};
use crate::actor::Answer;
use crate::actor::checkpoint::Meta;
use crate::actor::partition::Stop;
use crate::actor::player::Player;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::LOGIC_VERSION;
use crate::domain::id;
use crate::domain::record::{Body, Context, Record};
use crate::domain::time::{self, Millis};
use crate::engine::Engine;
use crate::log::embedded::follow::Follower;
use crate::log::{self, At, Embedded, Kafka, Log, Reader};
use crate::store::snapshot::{self, Manifest};
use crate::store::{Family, Memory, Shared, Store};
use crate::thread::Bell;
use crate::wire::definition::Kind;
use crate::wire::record::{self as wire, Decoded, Define, Defined, Internal, MAC_HEADER, Query};
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
    /// The first offset that is this log's own and still there.
    start: u64,
    log: Option<Log>,
}

/// Reads, and answers with the user, the imagined decision, and the decisions
/// that were made. `told` hears how many records have been read.
///
/// # Errors
/// When the log or its key is out of reach, or what was before the journal's
/// beginning is known from no snapshot.
pub fn explain(config: &Config, question: &Question, told: impl Fn(u64)) -> Result<Value, Error> {
    let key = cluster_key(config)?;
    let place = open(config, &key, &question.user_id)?;
    let partition = id::partition_of(&question.user_id, place.partitions);
    let at = At { topic: Topic::Events, partition };
    let until = question.at.unwrap_or(Millis::MAX);
    let folder = tempfile::tempdir()?;
    let (store, begun_with) = match nearest(config, (partition, &place), until, folder.path())? {
        Some((store, manifest)) => (store, Some(manifest)),
        None if place.start == 0 => (Arc::new(Store::Memory(Memory::default())), None),
        None => {
            return Err(Error::Refused(format!(
                "{at} begins at {}: what was before has been trimmed, and no snapshot from before that time is there \
                 to begin with",
                place.start
            )));
        }
    };
    let meta = Meta::load(&store).map_err(stopped)?;
    let meta = meta.unwrap_or_else(|| Meta::new(place.incarnation, place.partitions, LOGIC_VERSION));
    let next = meta.next;
    let engine = Engine::open(store, (partition, place.partitions), CACHED_USERS).map_err(stopped)?;
    let everyone = engine.has_quotas(&question.project)
        || counts_everyone(journal(config, &place, at, next)?, &key, &question.project)?;
    let mut player = Player::new(key, partition, place.incarnation, meta, engine);
    let wanted = |decoded: &Decoded<'_>| match decoded {
        Decoded::User(record) => everyone || concerns(record, question),
        Decoded::Internal(internal) => match &**internal {
            Internal::Query(_) => everyone,
            Internal::Erase { project, user_id, .. } => {
                everyone || (*project == question.project && *user_id == question.user_id)
            }
            _ => true,
        },
    };
    let mut journal = journal(config, &place, at, next)?;
    let mut decisions: Vec<Value> = Vec::new();
    let mut read = 0;
    let mut over = false;
    while !over {
        let records = journal.read()?;
        over = records.is_empty();
        for record in records.iter().filter(|record| record.offset >= next) {
            if record.appended_at + player.meta.ahead > until {
                over = true;
                break;
            }
            read += 1;
            let effects = player.play(record, &wanted).map_err(|e| Error::Failed(e.to_string()))?;
            let outputs = effects.map(|effects| effects.outputs).unwrap_or_default();
            let decided = outputs.iter().filter(|output| output.topic == Topic::Decisions);
            for value in decided.filter_map(|output| serde_json::from_slice::<Value>(output.value.as_deref()?).ok()) {
                if value["user_id"] == question.user_id && value["project"] == question.project {
                    decisions.push(value);
                }
            }
            if decisions.len() > 2 * SHOWN_DECISIONS {
                decisions.drain(..SHOWN_DECISIONS);
            }
        }
        told(read);
    }
    let now = question.at.unwrap_or_else(|| Clock::new().wall() + player.meta.ahead);
    let query =
        Query { project: question.project.clone(), user_id: question.user_id.clone(), offer_id: None, survey_id: None };
    let offset = player.meta.next;
    let (user, _) = body(&mut player, now, Decoded::Internal(Box::new(Internal::Query(query))))?;
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
            body(&mut player, now, Decoded::User(Box::new(record)))?
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
        "records": read,
        "snapshot": begun_with.as_ref().map(Manifest::name),
        "user": user,
        "decision": decision,
        "needs_grant": needs_grant,
        "decisions": decisions,
    }))
}

fn concerns(record: &Record<'_>, question: &Question) -> bool {
    record.project == question.project && record.user_id == question.user_id
}

/// The body of the answer, and the surveys of which a grant would have to be
/// asked for: it is answered as if there were one.
fn body(player: &mut Player<Engine>, now: Millis, decoded: Decoded<'_>) -> Result<(Value, Vec<String>), Error> {
    let failed = |e: crate::actor::Failure| Error::Failed(e.to_string());
    player.machine_mut().forget_waiting();
    let effects = player.ask(now, decoded).map_err(failed)?;
    let mut granted = Vec::new();
    let (mut reply, mut late) = (effects.reply, effects.late_replies);
    loop {
        let said = reply.take().or_else(|| late.pop().map(|(_, answer)| answer));
        if let Some(Answer::Body { server, .. }) = said {
            return Ok((server.value(), granted));
        }
        let grants = player.machine().awaited_grants();
        if grants.is_empty() {
            return Ok((Value::Null, granted));
        }
        for grant in grants {
            granted.push(grant.survey_id.clone());
            let grant = Decoded::Internal(Box::new(Internal::Quota(grant)));
            let then = player.ask(now, grant).map_err(failed)?;
            late.extend(then.late_replies);
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
            let own = record.key.as_deref().unwrap_or_default();
            let value = record.value.as_deref().unwrap_or_default();
            let Some(mac) = record.header(MAC_HEADER) else { continue };
            if key.verify_record(own, value, mac) && limits(value, project) {
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
    let log = config.data_dir.join("log");
    if !config.kafka && !log.exists() {
        return Err(Error::Unreachable(format!("{} holds no log; give --data-dir", log.display())));
    }
    let path = config.key_file.clone().unwrap_or_else(|| config.data_dir.join("secrets.key"));
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Error::Usage(format!(
            "{}: {e}. The journal is read with the cluster's key: run where the data is, or give --data-dir or secrets.key_file",
            path.display()
        ))
    })?;
    ClusterKey::parse(&text).ok_or_else(|| Error::Usage(format!("{} must hold 64 hex digits", path.display())))
}

fn open(config: &Config, key: &ClusterKey, user_id: &str) -> Result<Place, Error> {
    if !config.kafka {
        let dir = config.data_dir.join("log");
        let Some((incarnation, partitions)) = Embedded::identity_of(&dir)? else {
            return Err(Error::Unreachable(format!("{} holds no log; give --data-dir", dir.display())));
        };
        let at = At { topic: Topic::Events, partition: id::partition_of(user_id, partitions) };
        let start = Follower::new(&dir, at).start()?;
        return Ok(Place { incarnation, partitions, start, log: None });
    }
    let kafka = Kafka::connect(kafka_settings(config, key.check()))?;
    let log = Log::Kafka(kafka);
    let partition = id::partition_of(user_id, log.partitions());
    let start = log.bounds(At { topic: Topic::Events, partition })?.start.max(log.begins(partition));
    Ok(Place { incarnation: log.incarnation(), partitions: log.partitions(), start, log: Some(log) })
}

fn journal(config: &Config, place: &Place, at: At, next: u64) -> Result<Journal, Error> {
    match &place.log {
        None => {
            let follower = Follower::new(&config.data_dir.join("log"), at);
            Ok(Journal::Files { follower, ended: false })
        }
        Some(log) => {
            let bell = Arc::new(Bell::default());
            Ok(Journal::Brokers { reader: log.reader("explain", bell.clone()), bell, at, next })
        }
    }
}

/// The newest snapshot from before `until`, where reading from the beginning
/// cannot be done or takes long.
fn nearest(
    config: &Config,
    (partition, place): (u32, &Place),
    until: Millis,
    folder: &std::path::Path,
) -> Result<Option<(Arc<Store>, Manifest)>, Error> {
    let depot = match depot(config) {
        Ok(depot) => depot,
        Err(_) if place.start == 0 => return Ok(None),
        Err(error) => return Err(error),
    };
    let failed = |e: snapshot::Error| Error::Unreachable(e.to_string());
    let shared = Shared::new(STORE_MEMORY_BYTES);
    let mut manifests = depot.list(Role::Engine.name(), partition).map_err(failed)?;
    let ours = format!("{:032x}", place.incarnation);
    manifests.retain(|m| m.subject.incarnation == ours && m.subject.logic_version == LOGIC_VERSION);
    let least = if place.start > 0 { place.start } else { MANY_RECORDS };
    manifests.retain(|m| m.subject.position >= least && m.subject.created_at <= until);
    manifests.sort_by_key(|m| std::cmp::Reverse(m.subject.position));
    for (n, manifest) in manifests.into_iter().enumerate() {
        let into = folder.join(n.to_string());
        depot.restore(&manifest, &into, |_, _| true).map_err(failed)?;
        let store = data::open_store(&into, Family::ENGINE, &shared)?;
        if Meta::load(&store).map_err(stopped)?.is_some_and(|meta| meta.now <= until) {
            return Ok(Some((store, manifest)));
        }
    }
    Ok(None)
}

fn stopped(stop: Stop) -> Error {
    Error::Refused(stop.to_string())
}
