//! What one sync of the commit log stands for: the segments may miss any of it, and a
//! start writes it again.

use super::*;
use std::path::PathBuf;

const ALL: [TopicPartition; 3] = [EVENTS, DECISIONS, DEFINITIONS];

/// A log that was killed after some groups, each of one record in every topic.
fn killed(groups: usize, options: Options) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, options).unwrap();
    append_groups(&log, 0..groups);
    disk.crash(Crash::Kill);
    disk
}

fn append_groups(log: &Embedded, groups: std::ops::Range<usize>) {
    for n in groups {
        let answers = ALL.map(|at| append(log, at, vec![record(&n.to_string(), 40)]));
        log.step();
        for mut answer in answers {
            answer.try_recv().unwrap().unwrap();
        }
    }
}

fn check(disk: &Arc<SimulatedDisk>, groups: usize, options: Options, what: impl std::fmt::Display) {
    let log = opened(disk, options).unwrap_or_else(|e| panic!("{what}: {e}"));
    for at in ALL {
        let found = keys(&all(&log, at, 1_000).unwrap_or_else(|e| panic!("{what}: {e}")));
        assert_eq!(found, (0..groups).map(|n| n.to_string()).collect::<Vec<_>>(), "{what}: {at}");
    }
}

fn newest_segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let newest = |at| {
        let folder = files::dir_of(dir(), at);
        disk.paths().into_iter().rfind(|path| path.parent() == Some(&folder)).expect("there is one")
    };
    ALL.map(newest).into()
}

fn commit_logs(disk: &SimulatedDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "commit")).collect()
}

#[test]
fn the_segments_of_a_group_are_durable_by_one_sync_for_each_writer() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    append_groups(&log, 0..3);
    // One of the journal, one of the others; the third of the next group meets it.
    disk.inject(Some(Operation::SyncData), 2, Fault::Io);
    append_groups(&log, 3..4);
    assert_eq!(disk.forget_faults(), 1);
    disk.crash(Crash::Synced);
    check(&disk, 4, Options::default(), "without the segments");
}

#[test]
fn a_power_cut_at_any_moment_of_any_turn_of_the_files_loses_nothing() {
    for groups in 1..60 {
        for crash in [Crash::Synced, Crash::Torn, Crash::Kill] {
            let disk = SimulatedDisk::new(groups as u64);
            let log = opened(&disk, small()).unwrap();
            append_groups(&log, 0..groups);
            disk.crash(crash);
            check(&disk, groups, small(), format!("{groups} groups, {crash:?}"));
            // The start before made it durable.
            disk.crash(Crash::Synced);
            forget_commit_logs(&disk);
            check(&disk, groups, small(), format!("{groups} groups, {crash:?}, then without the commit logs"));
        }
    }
}

#[test]
fn whatever_the_newest_segments_miss_is_written_again() {
    let whole = killed(3, small());
    for path in newest_segments(&whole) {
        let bytes = whole.bytes(&path).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            for spoiled in [bytes[..at].to_vec(), flipped] {
                let disk = killed(3, small());
                disk.overwrite(&path, Some(spoiled));
                check(&disk, 3, small(), format!("byte {at} of {}", path.display()));
            }
        }
    }
}

#[test]
fn a_commit_log_that_is_cut_or_damaged_hides_nothing_that_the_segments_have() {
    let whole = killed(3, small());
    let logs = commit_logs(&whole);
    assert_eq!(logs.len(), 4);
    let mut tried = 0;
    for path in logs {
        let bytes = whole.bytes(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in 0..used {
            tried += 1;
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            for spoiled in [Some(bytes[..at].to_vec()), Some(flipped), None] {
                let disk = killed(3, small());
                disk.overwrite(&path, spoiled);
                check(&disk, 3, small(), format!("byte {at} of {}", path.display()));
            }
        }
    }
    assert!(tried > 500, "{tried} bytes");
}

#[test]
fn a_segment_that_is_gone_or_misses_more_than_the_commit_log_has_is_damage() {
    let options = Options { commit_file_bytes: 1_500, ..Options::default() };
    let whole = killed(30, options);
    for path in newest_segments(&whole) {
        for spoiled in [None, Some(Vec::new())] {
            let disk = killed(30, options);
            disk.overwrite(&path, spoiled.clone());
            disk.overwrite(&dir().join("ends.json"), None);
            let found = opened(&disk, options).err();
            assert!(
                matches!(&found, Some(Error::Damaged { file, .. }) if *file == path.display().to_string()),
                "{spoiled:?}: {found:?}"
            );
        }
    }
}

#[test]
fn what_was_trimmed_or_compacted_does_not_come_back() {
    for crash in [Crash::Kill, Crash::Synced, Crash::Torn] {
        let disk = SimulatedDisk::new(3);
        let clock = Clock::simulated(NOON);
        let log = opened_at(&disk, &clock, small()).unwrap();
        append_groups(&log, 0..40);
        log.trim(DECISIONS, 30).unwrap();
        let start = log.bounds(DECISIONS).start;
        assert!(start > 10);
        // The same keys once more: what was before is compacted away.
        append_groups(&log, 0..40);
        clock.pass(Duration::from_secs(120));
        log.step();
        let before = keys(&all(&log, DEFINITIONS, 1_000).unwrap());
        assert!(before.len() < 80, "it was compacted: {}", before.len());
        disk.crash(crash);
        let log = opened_at(&disk, &clock, small()).unwrap();
        assert_eq!(log.bounds(DECISIONS), Watermarks { start, end: 80 }, "{crash:?}");
        assert_eq!(keys(&all(&log, DEFINITIONS, 1_000).unwrap()), before, "{crash:?}");
    }
}

#[test]
fn a_log_that_was_closed_needs_no_commit_log_and_says_so() {
    let disk = SimulatedDisk::new(1);
    let format = |disk: &SimulatedDisk| {
        let identity: serde_json::Value =
            serde_json::from_slice(&disk.bytes(&dir().join("log.json")).unwrap()).unwrap();
        identity["format"].as_u64().unwrap()
    };
    let log = opened(&disk, small()).unwrap();
    assert_eq!(format(&disk), 1, "a log that is only read changes nothing");
    append_groups(&log, 0..9);
    assert_eq!(format(&disk), 3, "an earlier version would not look into the commit logs");
    log.close();
    assert_eq!(format(&disk), 1);
    drop(log);
    disk.crash(Crash::Synced);
    let with = disk.operations();
    forget_commit_logs(&disk);
    check(&disk, 9, small(), "without the commit logs");
    assert!(disk.operations() > with);
}

#[test]
fn groups_of_an_earlier_run_are_not_taken_for_those_of_a_later_one() {
    let disk = SimulatedDisk::new(1);
    let mut groups = 0;
    for run in 0..12 {
        let log = opened(&disk, small()).unwrap();
        // Each run writes less than the one before: what stands behind it is older.
        append_groups(&log, groups..groups + 13 - run);
        groups += 13 - run;
        disk.crash(if run % 2 == 0 { Crash::Kill } else { Crash::Torn });
        drop(log);
        check(&disk, groups, small(), format!("after run {run}"));
        disk.crash(Crash::Kill);
    }
}

#[test]
fn a_commit_log_that_is_taken_away_stops_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::simulated(NOON);
    let log = Embedded::open_stepped(Disk::Real, folder.path(), 2, clock.clone(), small()).unwrap();
    written(&log, EVENTS, vec![record("a", 10)]).unwrap();
    std::fs::remove_file(folder.path().join("journal-1.commit")).unwrap();
    clock.pass(Duration::from_secs(2));
    let found = written(&log, EVENTS, vec![record("b", 10)]);
    assert!(matches!(&found, Err(Error::Unknown(why)) if why.contains("journal-1.commit")), "{found:?}");
}
