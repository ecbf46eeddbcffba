//! What was acknowledged and is not there, or not as it was, is found: at the
//! start where it is near the end or a file is missing, else when it is read.

use super::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A log with several segments in each of three topics, closed in order.
fn filled(records: usize) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, small()).unwrap();
    for at in [EVENTS, DECISIONS, DEFINITIONS] {
        for n in 0..records {
            written(&log, at, vec![record(&format!("{n}"), 150)]).unwrap();
        }
    }
    log.close();
    drop(log);
    disk.crash(Crash::Kill);
    disk
}

fn segments(disk: &SimulatedDisk, at: TopicPartition) -> Vec<PathBuf> {
    let folder = files::dir_of(dir(), at);
    disk.paths().into_iter().filter(|path| path.parent() == Some(&folder)).collect()
}

fn refusal(disk: &Arc<SimulatedDisk>) -> Option<Error> {
    let opened = opened(disk, small()).err();
    disk.crash(Crash::Kill);
    opened
}

#[test]
fn a_segment_that_is_gone_or_emptied_or_cut_is_never_unnoticed() {
    for at in [EVENTS, DECISIONS, DEFINITIONS] {
        for records in [1, 40] {
            let whole = filled(records);
            let all = segments(&whole, at);
            assert!(records == 1 || all.len() > if at == DEFINITIONS { 1 } else { 3 });
            for (n, path) in all.iter().enumerate() {
                let bytes = whole.bytes(path).unwrap();
                let cut = bytes[..bytes.len().saturating_sub(1)].to_vec();
                for spoiled in [None, Some(Vec::new()), Some(cut)] {
                    if spoiled.as_ref() == Some(&bytes) {
                        continue;
                    }
                    let disk = filled(records);
                    disk.overwrite(path, spoiled.clone());
                    let found = refusal(&disk);
                    assert!(
                        matches!(&found, Some(Error::Damaged { at: where_, file, .. })
                            if *where_ == at && *file == path.display().to_string()),
                        "{at}, segment {n} of {}, {:?} bytes left: {found:?}",
                        all.len(),
                        spoiled.map(|bytes| bytes.len())
                    );
                    let read = followed(&disk, at, 0);
                    assert!(matches!(read, Err(Error::Damaged { .. })), "{at}, segment {n}: {read:?}");
                    if [0, all.len() - 1].contains(&n) {
                        let bounds = Follower::on(disk.mount(), dir(), at, 0).find_bounds();
                        let is_seen = matches!(bounds, Err(Error::Damaged { .. }));
                        // Of the first one only its name is looked at.
                        assert!(is_seen || (n == 0 && all.len() > 1 && spoiled.is_some()), "{at}, {n}: {bounds:?}");
                    }
                }
            }
            let disk = filled(records);
            for path in all {
                disk.overwrite(&path, None);
            }
            assert!(matches!(refusal(&disk), Some(Error::Damaged { .. })), "the whole folder of {at}");
            for from in [0, 1, 1_000] {
                assert!(matches!(followed(&disk, at, from), Err(Error::Damaged { .. })), "the whole folder of {at}");
                let bounds = Follower::on(disk.mount(), dir(), at, from).find_bounds();
                assert!(matches!(bounds, Err(Error::Damaged { .. })), "the whole folder of {at}: {bounds:?}");
            }
        }
    }
}

#[test]
fn a_note_that_is_gone_or_damaged_is_no_reason_to_refuse_or_to_lose() {
    let note = dir().join("ends.json");
    let whole = filled(40).bytes(&note).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for spoiled in [None, Some(Vec::new()), Some(whole[..whole.len() / 2].to_vec()), Some(flipped)] {
        let disk = filled(40);
        disk.overwrite(&note, spoiled);
        let log = opened(&disk, small()).unwrap();
        for at in [EVENTS, DECISIONS, DEFINITIONS] {
            assert_eq!(all(&log, at, 1_000).unwrap().len(), 40);
        }
        assert_eq!(written(&log, EVENTS, vec![record("next", 10)]).unwrap().first, 40);
        // Without a note an emptied folder is noticed all the same.
        log.close();
        drop(log);
        disk.crash(Crash::Kill);
        disk.overwrite(&note, None);
        for path in segments(&disk, DECISIONS) {
            disk.overwrite(&path, None);
        }
        assert!(matches!(refusal(&disk), Some(Error::Damaged { .. })));
    }
}

#[test]
fn a_log_whose_identity_is_gone_is_not_taken_for_a_new_one() {
    let disk = filled(3);
    disk.overwrite(&dir().join("log.json"), None);
    assert!(matches!(refusal(&disk), Some(Error::Refused(why)) if why.contains("log.json")));
}

#[test]
fn a_flipped_bit_is_found_at_the_start_or_when_it_is_read_by_whoever_reads() {
    let whole = filled(40);
    let mut found_at = BTreeSet::new();
    for path in segments(&whole, EVENTS) {
        let bytes = whole.bytes(&path).unwrap().len();
        for byte in (0..bytes).step_by(7) {
            whole.flip(&path, byte, byte as u32);
            let read = followed(&whole, EVENTS, 0);
            assert!(
                matches!(&read, Err(Error::Damaged { file, .. }) if *file == path.display().to_string()),
                "{read:?}"
            );
            match opened(&whole, small()) {
                Err(Error::Damaged { .. }) => {
                    found_at.insert("start");
                }
                Err(other) => panic!("{other}"),
                Ok(log) => {
                    found_at.insert("read");
                    let read = all(&log, EVENTS, 500);
                    assert!(
                        matches!(read, Err(Error::Damaged { at: EVENTS, .. })),
                        "byte {byte} of {}",
                        path.display()
                    );
                    // Others are not touched by it.
                    assert_eq!(all(&log, DECISIONS, 500).unwrap().len(), 40);
                }
            }
            whole.crash(Crash::Kill);
            whole.flip(&path, byte, byte as u32);
        }
    }
    assert_eq!(found_at.len(), 2);
}

#[test]
fn a_small_log_is_verified_as_a_whole_at_every_start() {
    let whole = filled(8);
    let mut tried = 0;
    for at in [EVENTS, DECISIONS] {
        for path in segments(&whole, at) {
            for byte in 0..whole.bytes(&path).unwrap().len() {
                whole.flip(&path, byte, byte as u32);
                assert!(matches!(refusal(&whole), Some(Error::Damaged { .. })), "byte {byte} of {}", path.display());
                whole.flip(&path, byte, byte as u32);
                tried += 1;
            }
        }
    }
    assert!(tried > 2_000);
    assert!(refusal(&whole).is_none());
}

#[test]
fn a_misdirected_write_is_never_served() {
    for seed in 0..40 {
        let disk = SimulatedDisk::new(seed);
        // Whoever is behind what is in memory reads files.
        let log = opened(&disk, Options { tail_bytes: 0, ..Options::default() }).unwrap();
        for n in 0..10 {
            written(&log, EVENTS, vec![record(&format!("{n}"), 100)]).unwrap();
        }
        disk.inject(Some(Operation::Append), 0, Fault::Misdirected);
        written(&log, EVENTS, vec![record("lost", 100)]).unwrap();
        let read = all(&log, EVENTS, 50);
        assert!(matches!(read, Err(Error::Damaged { .. })), "seed {seed}: {read:?}");
        log.close();
        drop(log);
        disk.crash(Crash::Kill);
        assert!(matches!(refusal(&disk), Some(Error::Damaged { .. })), "seed {seed}");
    }
}

#[test]
fn whoever_follows_takes_a_torn_end_for_what_is_not_written_yet() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    written(&log, EVENTS, vec![record("a", 100)]).unwrap();
    let mut follower = Follower::on(disk.mount(), dir(), EVENTS, 0);
    assert_eq!(keys(&follower.read().unwrap()), ["a"]);
    let path = segments(&disk, EVENTS).remove(0);
    let whole = disk.bytes(&path).unwrap();
    written(&log, EVENTS, vec![record("b", 100), record("c", 100)]).unwrap();
    let longer = disk.bytes(&path).unwrap();
    for len in whole.len()..longer.len() {
        // As a writer at work would show it, or a crash leave it.
        disk.overwrite(&path, Some(longer[..len].to_vec()));
        assert!(follower.read().is_ok(), "cut at {len}");
        assert!(followed(&disk, EVENTS, 0).is_ok(), "cut at {len}");
    }
    disk.overwrite(&path, Some(longer));
    let mut rest = follower.read().unwrap();
    rest.extend(follower.read().unwrap());
    assert_eq!(keys(&rest).last().map(String::as_str), Some("c"));
}

/// Some groups of three records each, and where each ends; nothing is noted, and no
/// commit log is there.
fn grouped() -> (Arc<SimulatedDisk>, PathBuf, Vec<usize>) {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    let path = segments(&disk, EVENTS).remove(0);
    let mut ends = Vec::new();
    for n in 0..6 {
        written(&log, EVENTS, (0..3).map(|m| record(&format!("{}", n * 3 + m), 20 + n * 3)).collect()).unwrap();
        ends.push(disk.bytes(&path).unwrap().len());
    }
    disk.crash(Crash::Kill);
    drop(log);
    forget_commit_logs(&disk);
    (disk, path, ends)
}

#[test]
fn cut_at_every_byte_of_the_tail_only_the_torn_group_goes() {
    let (disk, path, ends) = grouped();
    let whole = disk.bytes(&path).unwrap();
    for noted in [false, true] {
        for len in ends[4]..whole.len() {
            disk.overwrite(&path, Some(whole[..len].to_vec()));
            if !noted {
                disk.overwrite(&dir().join("ends.json"), None);
            }
            let log = opened(&disk, Options::default()).unwrap();
            let end = log.bounds(EVENTS).end;
            assert!((15..18).contains(&end), "cut at {len}: {end}");
            assert_eq!(all(&log, EVENTS, usize::MAX).unwrap().len() as u64, end);
            let torn = disk.paths().into_iter().find(|path| path.to_string_lossy().contains(".torn-"));
            let mut kept = disk.bytes(&path).unwrap();
            let is_cut = kept.len() < len;
            assert_eq!(torn.is_some(), is_cut && !noted, "what no note speaks of is kept, at {len}");
            if let Some(torn) = torn {
                kept.extend(disk.bytes(&torn).unwrap());
                assert_eq!(kept, whole[..len], "nothing is lost, at {len}");
                disk.overwrite(&torn, None);
            }
            let next = written(&log, EVENTS, vec![record("next", 9)]).unwrap().first;
            assert_eq!(next, end, "it goes on where it was cut");
            disk.crash(Crash::Kill);
            drop(log);
            forget_commit_logs(&disk);
            // As it was noted before the group that is cut.
            let (again, _, _) = grouped();
            disk.overwrite(&dir().join("ends.json"), again.bytes(&dir().join("ends.json")));
        }
    }
}

#[test]
fn without_a_note_a_flipped_bit_anywhere_is_never_served() {
    let (disk, path, ends) = grouped();
    let whole = disk.bytes(&path).unwrap();
    let (mut damaged, mut torn) = (0, 0);
    for byte in 0..whole.len() {
        disk.overwrite(&path, Some(whole.clone()));
        disk.overwrite(&dir().join("ends.json"), None);
        disk.flip(&path, byte, byte as u32);
        match opened(&disk, Options::default()) {
            Err(Error::Damaged { .. }) => damaged += 1,
            Err(other) => panic!("byte {byte}: {other}"),
            Ok(log) => {
                torn += 1;
                assert!(byte >= ends[4], "byte {byte} had been acknowledged and a later record says so");
                for (n, found) in keys(&all(&log, EVENTS, usize::MAX).unwrap()).iter().enumerate() {
                    assert_eq!(*found, n.to_string(), "byte {byte}");
                }
            }
        }
        disk.crash(Crash::Kill);
    }
    assert!(damaged > 0 && torn > 0);
}
