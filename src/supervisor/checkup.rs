//! Checks a data directory without changing it, for `askwhen doctor`.

use std::path::Path;

use super::snapshots::{self, Role};
use super::{private, repair, settings, source};
use crate::config::Config;
use askwhen_domain::time::{MINUTE, Millis, format_time};
use askwhen_log::embedded::follow::Follower;
use askwhen_log::kafka::{Check, Finding};
use askwhen_log::{Embedded, TopicPartition};
use askwhen_process::clock::Clock;
use askwhen_store::Rocks;
use askwhen_wire::topic::Topic;

/// How far the journal's time may be ahead of this machine's clock before that is reported,
/// in milliseconds.
const MAX_AHEAD: Millis = MINUTE;

/// Fails where a thing cannot be checked. The errors of all parts of the program meet here;
/// they are shown and nothing is decided by them.
type Looked = Result<Finding, Box<dyn std::error::Error>>;

/// Checks file permissions, the log, the stores, the snapshots and the clock. It reads all
/// of them except topics on brokers, so it may take a while. Blocks; must be called in a
/// tokio runtime.
pub fn checkups(config: &Config) -> Vec<Check> {
    let mut all = vec![Check::of("rights", rights(&config.data_dir))];
    if config.kafka {
        let key = source::cluster_key(config);
        all.extend(key.as_ref().err().map(|error| Check::of("cluster key", Err(error))));
        let settings = settings::kafka_settings(config, key.map(|key| key.check()).unwrap_or_default());
        all.extend(askwhen_log::kafka::checkup(&settings, Clock::new().now()));
    } else {
        let mut newest = None;
        all.push(Check::of("log", log(config, &mut newest)));
        all.push(Check { name: "clock", finding: clock(newest) });
    }
    all.push(Check::of("stores", stores(config)));
    all.push(Check::of("snapshots", all_snapshots(config)));
    all
}

fn rights(dir: &Path) -> Looked {
    let open = private::open_to_others(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    match &open[..] {
        [] => Ok(Finding::Sound(format!("{} is its owner's alone", dir.display()))),
        [first, ..] => Ok(Finding::Faulty(format!(
            "others may use {} of the files in {}, {} for one; they hold personal data and secrets: `chmod -R go= {1}`",
            open.len(),
            dir.display(),
            first.display()
        ))),
    }
}

/// Reads every record, which a start does not.
fn log(config: &Config, newest: &mut Option<Millis>) -> Looked {
    let dir = config.data_dir.join("log");
    let Some(partitions) = Embedded::partitions_of(&dir)? else {
        if config.data_dir.join("log.id").exists() {
            return Ok(Finding::Faulty(format!(
                "{} belongs to a process on Kafka: set [log] kind and [kafka] brokers, or give --brokers",
                config.data_dir.display()
            )));
        }
        return Ok(Finding::Sound(format!("there is none in {} yet", dir.display())));
    };
    let mut records = 0;
    for topic in Topic::ALL {
        for partition in 0..topic.partitions(partitions) {
            let mut follower = Follower::new(&dir, TopicPartition { topic: *topic, partition });
            loop {
                let read = follower.read()?;
                let Some(last) = read.last() else { break };
                records += read.len();
                *newest = (*newest).max(Some(last.appended_at));
            }
        }
    }
    if partitions != config.partitions {
        return Ok(Finding::Faulty(format!(
            "the log has {partitions} partitions and [log] partitions is {}: set it to {partitions}, no start with another number is let through",
            config.partitions
        )));
    }
    Ok(Finding::Sound(format!("{records} records in {partitions} partitions, each as it was written")))
}

fn clock(newest: Option<Millis>) -> Finding {
    let now = Clock::new().now();
    match newest {
        Some(newest) if newest > now + MAX_AHEAD => Finding::Faulty(format!(
            "it is {} here, and the newest record of the log is of {}: set the clock, or see `doctor --accept-time`",
            format_time(now),
            format_time(newest)
        )),
        _ => Finding::Sound(format!("it is {} here, and no record of the log is of later", format_time(now))),
    }
}

fn stores(config: &Config) -> Looked {
    if repair::is_served(config) {
        return Ok(Finding::Sound(
            "a server has them open, which checks what it reads; stop it to have all of them read".into(),
        ));
    }
    let mut sound = 0;
    for role in Role::ALL {
        for partition in 0..config.partitions {
            let path = role.store_path(&config.data_dir, partition);
            if !path.exists() {
                continue;
            }
            let store = Rocks::open_read_only(&path, role.families())?;
            store.verify()?;
            sound += 1;
        }
    }
    Ok(Finding::Sound(format!("{sound} stores, every block as it was written")))
}

fn all_snapshots(config: &Config) -> Looked {
    let repository = settings::repository(config)?;
    let all = snapshots::list_all(&repository, config.partitions)?;
    for (name, read) in &all {
        let manifest = read.as_ref().map_err(|e| format!("the snapshot {name} is damaged: {e}"))?;
        repository.verify(manifest, |_, _| true).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(Finding::Sound(format!("{} snapshots, every file as it was written", all.len())))
}
