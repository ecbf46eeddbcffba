//! What must hold whenever everything has come to rest.

use askwhen::console;
use askwhen::engine;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use askwhen::console::Projection;
use askwhen::engine::Engine;
use askwhen_domain::LOGIC_VERSION;
use askwhen_domain::time;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_log::{Ack, Log, NewRecord, Record, Simulated, TopicPartition};
use askwhen_partition::Progress;
use askwhen_partition::checkpoint::Checkpointer;
use askwhen_partition::{Partition, Replies, Setup};
use askwhen_process::clock::Clock;
use askwhen_process::thread::Notify;
use askwhen_store::{Family, Memory, Store, keys};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{AttemptEnd, AttemptRecord, DeliveryRecord, ID_HEADER, SOURCE_HEADER};
use serde_json::Value;

use crate::bodies::{
    CAPPED, CAPPED_COMPLETIONS, CAPPED_DISPLAYS, CAPPED_WITHIN_MS, LAST_ANSWER, MAX_COMPLETED, MORE, NOISE, PROJECT,
    SCARCE,
};
use crate::machine::{every_topic, key};
use crate::medium::{INCARNATION, Medium};
use crate::model::{self, Expected, Verdict};
use crate::world::{FORGED, World};

/// Every topic that the engine writes to.
const OUTPUTS: [Topic; 6] =
    [Topic::Decisions, Topic::Responses, Topic::Displays, Topic::Deliveries, Topic::Rejects, Topic::Definitions];

/// The first promise that is broken.
///
/// # Errors
/// Which one, and where.
pub fn all(world: &World) -> Result<(), String> {
    let journals: Vec<Vec<Record>> =
        (0..world.partitions).map(|partition| read(&world.medium, Topic::Events, partition)).collect();
    show(world);
    requests(world, &journals)?;
    let outputs = outputs(&world.medium, world.partitions, world.zombies)?;
    let expected = model::fold(&journals);
    decisions(&outputs, &expected)?;
    completions(&outputs, &expected)?;
    rejects(&outputs, &journals)?;
    erased(world, &expected)?;
    deliveries(world, &outputs)?;
    arrivals(world)?;
    replay(world, &journals, &outputs)?;
    projections(world)
}

/// Prints what the topics say of something: `ASKWHEN_SIM_SHOW=u0-4`.
fn show(world: &World) {
    let Ok(wanted) = std::env::var("ASKWHEN_SIM_SHOW") else { return };
    for at in every_topic(world.partitions) {
        for record in read(&world.medium, at.topic, at.partition) {
            let (time, value) = (time::format_time(record.appended_at), text(record.value.as_ref()));
            if value.contains(&wanted) {
                println!("{at}@{} {time} {} {value}", record.offset, text(record.header(SOURCE_HEADER)));
            }
        }
    }
}

fn read(medium: &Medium, topic: Topic, partition: u32) -> Vec<Record> {
    medium.read(TopicPartition { topic, partition }, 0)
}

fn text(bytes: Option<&bytes::Bytes>) -> String {
    String::from_utf8_lossy(bytes.map(AsRef::as_ref).unwrap_or_default()).into_owned()
}

/// Acknowledged is in the log where it was said to be, refused is not (P1, P2);
/// what was asked after an answer stands behind what was answered (P4).
fn requests(world: &World, journals: &[Vec<Record>]) -> Result<(), String> {
    let mut found: BTreeMap<(u32, &[u8]), usize> = BTreeMap::new();
    for (partition, journal) in (0..).zip(journals) {
        for record in journal {
            *found.entry((partition, record.value.as_deref().unwrap_or_default())).or_default() += 1;
        }
    }
    let mut allowed: BTreeMap<(u32, &[u8]), (usize, usize)> = BTreeMap::new();
    let mut told: Vec<(u32, usize, u64)> = Vec::new();
    for request in &world.requests {
        let partition = request.at.partition;
        let (least, most) = allowed.entry((partition, request.new.value.as_deref().unwrap_or_default())).or_default();
        match &request.outcome {
            Some(Ok(placed)) => {
                let there = &journals[partition as usize].get(placed.first as usize);
                if there.is_none_or(|there| there.value != request.new.value || there.key != request.new.key) {
                    return Err(format!("P1: {} says {placed:?} and does not hold the request", request.at));
                }
                told.push((partition, request.told_at_step, placed.first));
                (*least, *most) = (*least + 1, *most + 1);
            }
            Some(Err(error)) if error.class() == askwhen_log::Class::Retry => {}
            Some(Err(_)) | None => *most += 1,
        }
    }
    for (what, (least, most)) in allowed {
        let there = found.get(&what).copied().unwrap_or(0);
        if there < least || there > most {
            let value = String::from_utf8_lossy(what.1);
            return Err(format!("P2: {there} of {least} to {most} copies in events/{}: {value}", what.0));
        }
    }
    told.sort_unstable();
    for request in &world.requests {
        let Some(Ok(placed)) = &request.outcome else { continue };
        let partition = request.at.partition;
        let from = told.partition_point(|(p, ..)| *p < partition);
        let to = told.partition_point(|(p, step, _)| (*p, *step) < (partition, request.asked_at_step));
        // Offsets grow with the time of their answers, but for those of one moment.
        let before = told[from..to].iter().rev().take(64).map(|(.., first)| *first).max();
        if before.is_some_and(|before| before >= placed.first) {
            return Err(format!("P4: {} has {} before what was answered earlier", request.at, placed.first));
        }
    }
    Ok(())
}

/// By topic and id.
type Found = BTreeMap<(Topic, String), Record>;

/// Outputs by their ids, each once unless somebody worked on what was another's.
fn outputs(log: &Medium, partitions: u32, zombies: bool) -> Result<Found, String> {
    let mut found = Found::new();
    // On a disk topic `definitions` is compacted: old versions go.
    for topic in OUTPUTS.into_iter().filter(|topic| *topic != Topic::Definitions || !log.is_disk()) {
        for partition in 0..topic.partitions(partitions) {
            for record in read(log, topic, partition) {
                let id = text(record.header(ID_HEADER));
                if id.is_empty() {
                    return Err(format!("{}/{partition}@{} has no id", topic.name(), record.offset));
                }
                match found.get(&(topic, id.clone())) {
                    Some(before) if before.value != record.value => {
                        return Err(format!("P5: {} has one id and two contents: {id}", topic.name()));
                    }
                    Some(_) if !zombies => return Err(format!("{} holds {id} twice", topic.name())),
                    Some(_) => {}
                    None => drop(found.insert((topic, id), record)),
                }
            }
        }
    }
    Ok(found)
}

fn values(outputs: &Found, topic: Topic) -> impl Iterator<Item = Value> {
    let records = outputs.iter().filter(move |((of, _), _)| *of == topic);
    records.map(|(_, record)| serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default())
}

/// The state equals a naive fold (P5), and a window is offered once (P6).
fn decisions(outputs: &Found, expected: &Expected) -> Result<(), String> {
    let mut open: BTreeSet<&String> = expected.decisions.keys().collect();
    let mut decided = BTreeMap::new();
    let time_of = |decision: &Value| time::parse_time(decision["decided_at"].as_str().unwrap_or_default()).unwrap_or(0);
    // The first one counts: a copy that lands after years is a trigger of its own.
    let mut found: Vec<(i64, Value)> =
        values(outputs, Topic::Decisions).map(|decision| (time_of(&decision), decision)).collect();
    found.sort_by_key(|(decided_at, _)| *decided_at);
    for (decided_at, decision) in found {
        let id = decision["event_id"].as_str().unwrap_or_default().to_owned();
        let Some(verdict) = expected.decisions.get(&id) else {
            return Err(format!("P5: a decision that nobody expects: {decision}"));
        };
        if let Some(before) = decided.insert(id.clone(), decided_at) {
            // Ids are remembered for 100 h; of a trigger that no survey shows on
            // nothing is remembered beyond `offer_ttl`.
            if decided_at - before < 100 * time::HOUR && decision["reason"] != "no_survey" {
                return Err(format!("P5: trigger {id} is decided twice: {decision}"));
            }
            continue;
        }
        open.remove(&id);
        let offered = &decision["survey"];
        let fits = match verdict {
            Verdict::Any => true,
            Verdict::Nothing => offered.is_null(),
            Verdict::Offered { survey, offer_id } => {
                offered["survey_id"] == *survey && offered["offer_id"] == offer_id.as_str()
            }
        };
        if !fits {
            return Err(format!("P5, P6: trigger {id} ought to give {verdict:?}, and gave {decision}"));
        }
    }
    match open.difference(&expected.overtaken.iter().collect()).next() {
        Some(id) => Err(format!("trigger {id} is not decided: {:?}", expected.decisions[*id])),
        None => Ok(()),
    }
}

fn completions(outputs: &Found, expected: &Expected) -> Result<(), String> {
    let (mut scarce, mut capped) = (0, 0);
    let mut completed = BTreeSet::new();
    for response in values(outputs, Topic::Responses).filter(|response| response["type"] == "response.completed") {
        let id = response["data"]["response_id"].as_str().unwrap_or_default().to_owned();
        if response["data"]["survey_id"] == SCARCE {
            scarce += 1;
        } else if response["data"]["survey_id"] == CAPPED {
            capped += 1;
        } else if response["data"]["survey_id"] == NOISE {
            branched(&response["data"])?;
        } else {
            completed.insert(id);
        }
    }
    if scarce > MAX_COMPLETED {
        return Err(format!("{scarce} completions of a survey that may have {MAX_COMPLETED}"));
    }
    if capped > CAPPED_COMPLETIONS {
        return Err(format!("{capped} completions of a survey that may have {CAPPED_COMPLETIONS}"));
    }
    let shown = values(outputs, Topic::Displays)
        .filter(|display| display["survey_id"] == CAPPED && display["type"] == "survey.displayed");
    let mut shown_at: Vec<Option<i64>> =
        shown.map(|display| display["occurred_at"].as_str().and_then(|at| time::parse_time(at).ok())).collect();
    shown_at.sort_unstable();
    let spans = shown_at.windows(CAPPED_DISPLAYS + 1).filter_map(|span| Some((*span.last()?)? - span[0]?));
    if let Some(span) = spans.min().filter(|span| *span <= CAPPED_WITHIN_MS) {
        return Err(format!(
            "{} displays within {span} ms of a survey that may have {CAPPED_DISPLAYS}",
            CAPPED_DISPLAYS + 1
        ));
    }
    let missing: Vec<&String> = expected.completed.difference(&completed).collect();
    let made_up: Vec<&String> = completed.difference(&expected.completed).collect();
    if !missing.is_empty() || !made_up.is_empty() {
        return Err(format!("P7: completions missing {missing:?}, made up {made_up:?}"));
    }
    Ok(())
}

/// What is complete has an answer to every question that its answers lead to, and to no other.
fn branched(data: &Value) -> Result<(), String> {
    let answers = data["answers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let given: Vec<&str> = answers.iter().filter_map(|answer| answer["question_id"].as_str()).collect();
    let is_last = answers.first().is_some_and(|answer| answer["value"] == LAST_ANSWER);
    let path: &[&str] = if is_last { &["q"] } else { &["q", MORE] };
    if given == path { Ok(()) } else { Err(format!("a completion is not along its path: {data}")) }
}

/// What is no valid record is a reject with its coordinates (P13, P20).
fn rejects(outputs: &Found, journals: &[Vec<Record>]) -> Result<(), String> {
    let places: BTreeSet<(u64, u64)> = values(outputs, Topic::Rejects)
        .filter(|reject| reject["topic"] == "events")
        .filter_map(|reject| Some((reject["partition"].as_u64()?, reject["offset"].as_u64()?)))
        .collect();
    for (partition, journal) in (0..).zip(journals) {
        for record in journal.iter().filter(|record| record.header(FORGED).is_some()) {
            if !places.contains(&(partition, record.offset)) {
                return Err(format!("P20: events/{partition}@{} is no reject", record.offset));
            }
        }
    }
    Ok(())
}

/// Of erased users nothing is left (P17).
fn erased(world: &World, expected: &Expected) -> Result<(), String> {
    let stores = world.engine_stores();
    for user in &expected.gone {
        for store in &stores {
            let row = store.get(engine::families::USERS, &keys::named(PROJECT, user)).map_err(|e| e.to_string())?;
            if row.is_some() {
                return Err(format!("P17: {user} was erased, and state is there"));
            }
        }
    }
    Ok(())
}

/// Every delivery has its chain of attempts and one end (P7, invariant 8).
fn deliveries(world: &World, outputs: &Found) -> Result<(), String> {
    let mut chains: BTreeMap<String, Vec<AttemptRecord>> = BTreeMap::new();
    let mut dead = BTreeSet::new();
    for partition in 0..world.partitions {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for record in read(&world.medium, Topic::Attempts, partition) {
            let attempt: AttemptRecord =
                serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
            let chain = chains.entry(attempt.delivery_id.clone()).or_default();
            match seen.get(&text(record.header(ID_HEADER))) {
                // A record may be repeated under its id; a success is final, whoever
                // tells of it.
                Some(at) if attempt.ended == Some(AttemptEnd::Delivered) => chain[*at] = attempt,
                // A replaced owner and its successor have made the same attempt, and it
                // went otherwise: an end is an end.
                Some(at) if world.zombies && attempt.ended.is_some() && chain[*at].ended.is_none() => {
                    chain[*at] = attempt;
                }
                Some(_) => {}
                None => {
                    seen.insert(text(record.header(ID_HEADER)), chain.len());
                    chain.push(attempt);
                }
            }
        }
        for record in read(&world.medium, Topic::Dead, partition) {
            let value: Value =
                serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
            dead.insert(value["delivery"]["delivery_id"].as_str().unwrap_or_default().to_owned());
        }
    }
    let arrived: BTreeSet<&String> = world.arrivals.iter().map(|arrival| &arrival.delivery_id).collect();
    let mut completed: BTreeMap<String, usize> = BTreeMap::new();
    for ((_, id), record) in outputs.iter().filter(|((topic, _), _)| *topic == Topic::Deliveries) {
        let found = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
        let DeliveryRecord::Deliver(delivery) = found else { continue };
        if delivery.endpoint_id == "plain" && delivery.message.kind == EventType::Completed {
            let response = delivery.message.data.as_ref().map(|data| data.response_id.clone()).unwrap_or_default();
            *completed.entry(response).or_default() += 1;
        }
        let chain = chains.get(id).map(Vec::as_slice).unwrap_or_default();
        chain_holds(id, chain, (world.zombies, world.stepped))?;
        let ends: Vec<AttemptEnd> = chain.iter().filter_map(|attempt| attempt.ended).collect();
        if ends.contains(&AttemptEnd::Dead) && !ends.contains(&AttemptEnd::Delivered) && !dead.contains(id) {
            return Err(format!("invariant 8: {id} is dead, and topic dead does not say so"));
        }
        if ends.contains(&AttemptEnd::Delivered) && !arrived.contains(id) {
            return Err(format!("P7: {id} counts as delivered and never came"));
        }
    }
    for response in values(outputs, Topic::Responses).filter(|response| response["type"] == "response.completed") {
        let id = response["data"]["response_id"].as_str().unwrap_or_default();
        if completed.get(id) != Some(&1) {
            return Err(format!("P7: response {id} has {:?} deliveries to an endpoint", completed.get(id)));
        }
    }
    Ok(())
}

fn chain_holds(id: &str, chain: &[AttemptRecord], (zombies, stepped): (bool, bool)) -> Result<(), String> {
    let ends: Vec<AttemptEnd> = chain.iter().filter_map(|attempt| attempt.ended).collect();
    // An attempt that was under way when its user was erased says how it went, too.
    let erased = chain.iter().any(|attempt| attempt.reason.as_deref() == Some("user_erased"));
    if ends.is_empty() || (ends.len() > 1 + usize::from(erased) && !zombies) {
        let ends = ends.len();
        return Err(format!("invariant 8: {id} has {ends} ends: {chain:?}"));
    }
    if zombies {
        return Ok(());
    }
    let numbers: Vec<u32> = chain.iter().map(|attempt| attempt.attempt).filter(|n| *n > 0).collect();
    let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
    if numbers != expected {
        return Err(format!("invariant 8: the attempts of {id} are numbered {numbers:?}"));
    }
    for pair in chain.windows(2) {
        let sent = pair[1].attempt > 0 && !stepped;
        if let Some(due) = pair[0].next_due_at.filter(|_| sent)
            && pair[1].started_at < due
        {
            return Err(format!("attempt {} of {id} came {} ms early", pair[1].attempt, due - pair[1].started_at));
        }
    }
    Ok(())
}

/// Stable ids, and no more repeats than attempts were in flight (P7).
fn arrivals(world: &World) -> Result<(), String> {
    let mut first: BTreeMap<&str, (&str, &[u8])> = BTreeMap::new();
    let mut count: BTreeMap<(&str, u32), usize> = BTreeMap::new();
    for arrival in &world.arrivals {
        *count.entry((&arrival.delivery_id, arrival.attempt)).or_default() += 1;
        let (delivery_id, body) =
            first.entry(&arrival.message_id).or_insert((&arrival.delivery_id, arrival.body.as_slice()));
        if *delivery_id != arrival.delivery_id {
            return Err(format!("P7: {} is the webhook-id of two deliveries", arrival.message_id));
        }
        if arrival.endpoint_id == "plain" && *body != arrival.body.as_slice() {
            return Err(format!("P7: {} was sent with two bodies", arrival.message_id));
        }
    }
    let repeats: usize = count.values().map(|n| n - 1).sum();
    if repeats > world.interrupted {
        let again: Vec<_> = count.iter().filter(|(_, n)| **n > 1).map(|(what, _)| *what).collect();
        return Err(format!(
            "P7: {repeats} attempts were repeated, and {} were in flight: {again:?}",
            world.interrupted
        ));
    }
    Ok(())
}

/// Contents of stores.
type Rows = Vec<(Family, Vec<u8>, Vec<u8>)>;

fn rows(stores: &[Arc<Store>], families: &[Family]) -> Result<Rows, String> {
    let mut all = Rows::new();
    for store in stores {
        for family in families {
            let entries = store.ascending(*family, &[], usize::MAX).map_err(|e| e.to_string())?;
            all.extend(entries.into_iter().map(|(key, value)| (*family, key, value)));
        }
    }
    Ok(all)
}

/// The same journal, read by somebody who never crashed, gives the same outputs
/// and the same state, and sends nothing (P8, invariants 2, 4, 5).
fn replay(world: &World, journals: &[Vec<Record>], outputs: &Found) -> Result<(), String> {
    let log = Arc::new(Simulated::new(INCARNATION, world.partitions));
    for (partition, journal) in (0..).zip(journals) {
        for record in journal {
            log.set_now(record.appended_at);
            let at = TopicPartition { topic: Topic::Events, partition };
            let new =
                NewRecord { key: record.key.clone(), headers: record.headers.clone(), value: record.value.clone() };
            let (nobody, _) = tokio::sync::oneshot::channel();
            log.append(at, vec![new], Ack::Once(nobody));
        }
    }
    let checkpointer = Checkpointer::stepped();
    let clock = Clock::simulated(world.now);
    let mut setup = Setup::new(Log::Simulated(log.clone()), clock, key(), Replies::default(), checkpointer.clone());
    setup.step_bytes = [1, 5_000, 1 << 20][world.step % 3];
    let stores: Vec<Arc<Store>> = (0..world.partitions).map(|_| Arc::new(Store::Memory(Memory::default()))).collect();
    let mut open = Vec::new();
    for (partition, store) in (0..).zip(&stores) {
        let engine = Engine::open(store.clone(), partition, world.partitions, 100).map_err(|e| e.to_string())?;
        let (notify, status) = (Arc::new(Notify::default()), Arc::new(askwhen_partition::Status::default()));
        let handles = askwhen_partition::Handles { notify, status };
        let opened = Partition::open(partition, setup.clone(), store.clone(), engine, LOGIC_VERSION, handles);
        open.push(opened.map_err(|e| e.to_string())?);
    }
    loop {
        let mut worked = false;
        for partition in &mut open {
            worked |= partition.step().map_err(|e| e.to_string())? == Progress::Worked;
        }
        if !worked {
            break;
        }
    }
    for partition in &mut open {
        partition.checkpoint_now();
        while checkpointer.step() {}
        if !partition.settle() {
            return Err("P8: the checkpoint of a replay does not settle".into());
        }
    }
    let replayed = self::outputs(&Medium::Brokers(log), world.partitions, false)?;
    for (what, record) in &replayed {
        if what.0 == Topic::Definitions && world.medium.is_disk() {
            continue;
        }
        match outputs.get(what) {
            None => return Err(format!("P8, invariant 5: an output is missing: {} {}", what.0.name(), what.1)),
            Some(before) if before.value != record.value => {
                let (was, is) = (text(before.value.as_ref()), text(record.value.as_ref()));
                return Err(format!("P8: {} {} was {was} and is {is}", what.0.name(), what.1));
            }
            Some(_) => {}
        }
    }
    // The delivery writes rejects of its own.
    let own = |(topic, id): &&(Topic, String)| *topic != Topic::Rejects || !id.starts_with("reject/");
    if let Some(extra) = outputs.keys().filter(own).find(|what| !replayed.contains_key(*what)) {
        return Err(format!("P8: an output that nothing in the journal causes: {} {}", extra.0.name(), extra.1));
    }
    let families = [engine::families::USERS, engine::families::DEFINITIONS, engine::families::QUOTAS];
    let (was, is) = (rows(&world.engine_stores(), &families)?, rows(&stores, &families)?);
    match was.iter().zip(&is).find(|(was, is)| was != is) {
        Some((was, is)) => Err(format!(
            "P8: the state differs: {:?} {} is {} bytes here and {:?} {} is {} bytes there",
            was.0,
            String::from_utf8_lossy(&was.1),
            was.2.len(),
            is.0,
            String::from_utf8_lossy(&is.1),
            is.2.len()
        )),
        None if was.len() != is.len() => Err(format!("P8: the state has {} rows, {} expected", was.len(), is.len())),
        None => Ok(()),
    }
}

/// Every machine's lists are those that the topics give from their beginning.
fn projections(world: &World) -> Result<(), String> {
    let fresh = Arc::new(Store::Memory(Memory::default()));
    let log = world.medium.bridge().ok_or("the log is not open")?;
    let mut projection = Projection::new(log, fresh.clone(), Arc::new(Notify::default()));
    while projection.step().map_err(|e| e.to_string())? {}
    let families = [console::families::ENTRIES, console::families::INDEX];
    let expected = rows(&[fresh], &families)?;
    for (n, machine) in world.machines.iter().enumerate() {
        let found = rows(&[machine.disk.console()], &families)?;
        if found == expected {
            continue;
        }
        let other = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        return Err(format!(
            "the lists of machine {n} differ from their topics: {} rows of {}, first {:?}",
            found.len(),
            expected.len(),
            other.map(|(found, expected)| (
                String::from_utf8_lossy(&found.1).into_owned(),
                String::from_utf8_lossy(&expected.1).into_owned()
            ))
        ));
    }
    Ok(())
}
