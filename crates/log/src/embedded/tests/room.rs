//! A disk that fills up: refused in time, nothing acknowledged is lost, and it
//! goes on by itself.

use super::*;
use crate::embedded::space::Space;

const MARK: u64 = 24 << 20;

fn used(disk: &SimulatedDisk) -> u64 {
    disk.paths().iter().filter_map(|path| disk.bytes(path)).map(|bytes| bytes.len() as u64).sum()
}

#[test]
fn it_is_read_only_before_the_disk_is_full_and_heals() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    disk.set_capacity(Some(used(&disk) + MARK + (2 << 20)));
    let mut taken = 0_u64;
    let refused = loop {
        match written(&log, EVENTS, vec![record("k", 300_000)]) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 10);
    };
    assert!(matches!(refused, Error::ReadOnly { free_mark_bytes: MARK }), "{refused}");
    // It says so, although there is room for less, and goes on when less comes.
    assert!(matches!(log.is_writable(), Err(Error::ReadOnly { .. })));
    assert_eq!(written(&log, EVENTS, vec![record("k", 10)]).unwrap().first, taken);
    assert!(log.is_writable().is_ok());
    taken += 1;
    // Others fill it up to the mark.
    disk.set_capacity(Some(used(&disk) + MARK - 1));
    log.check_space();
    assert!(matches!(log.is_writable(), Err(Error::ReadOnly { .. })));
    assert!(taken >= 5 && all(&log, EVENTS, 1_000).unwrap().len() as u64 == taken);
    // What comes of those that were taken still has room.
    assert!(log.takes_outputs().is_ok());
    written(&log, DECISIONS, vec![record("d", 1_000_000)]).unwrap();
    disk.set_capacity(Some(used(&disk) + MARK / 2 - 1));
    log.check_space();
    assert!(matches!(log.takes_outputs(), Err(Error::ReadOnly { .. })));
    disk.set_capacity(None);
    log.step();
    assert!(log.is_writable().is_ok() && log.takes_outputs().is_ok());
    assert_eq!(written(&log, EVENTS, vec![record("k", 10)]).unwrap().first, taken);
}

#[test]
fn a_group_that_meets_a_full_disk_is_refused_as_a_whole_and_is_not_there_after_any_crash() {
    for crash in [Crash::Kill, Crash::Synced, Crash::Torn] {
        for (operation, after) in [(Operation::Append, 0), (Operation::Append, 1), (Operation::Create, 0)] {
            let disk = SimulatedDisk::new(1);
            let log = opened(&disk, small()).unwrap();
            for at in [DECISIONS, DEFINITIONS] {
                written(&log, at, vec![record("kept", 1_900)]).unwrap();
            }
            disk.inject(Some(operation), after, Fault::NoSpace);
            let answers = [DECISIONS, DEFINITIONS].map(|at| append(&log, at, vec![record("refused", 1_900)]));
            log.step();
            for mut answer in answers {
                let answer = answer.try_recv().unwrap();
                assert!(matches!(answer, Err(Error::ReadOnly { .. })), "{answer:?}");
            }
            for at in [DECISIONS, DEFINITIONS] {
                assert_eq!(keys(&all(&log, at, 10_000).unwrap()), ["kept"]);
            }
            drop(log);
            disk.crash(crash);
            let log = opened(&disk, small()).unwrap();
            for at in [DECISIONS, DEFINITIONS] {
                assert_eq!(keys(&all(&log, at, 10_000).unwrap()), ["kept"], "{operation:?} {crash:?}");
                assert_eq!(written(&log, at, vec![record("next", 10)]).unwrap().first, 1);
            }
        }
    }
}

#[test]
fn two_writers_do_not_use_the_same_room() {
    let disk = SimulatedDisk::new(1);
    disk.mount().create_dir_all(dir()).unwrap();
    disk.set_capacity(Some(MARK + 1_000));
    let space = Space::new(disk.mount(), dir().to_owned());
    space.reserve(600, Purpose::Journal).unwrap();
    assert!(space.reserve(600, Purpose::Journal).is_err());
    space.reserve(600, Purpose::Outputs).unwrap();
    space.release(600);
    space.release(600);
    space.reserve(600, Purpose::Journal).unwrap();
}

#[test]
fn a_full_disk_can_be_opened_read_and_trimmed() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, small()).unwrap();
    for n in 0..40 {
        written(&log, DECISIONS, vec![record(&format!("{n}"), 150)]).unwrap();
    }
    log.close();
    drop(log);
    disk.crash(Crash::Kill);
    disk.set_capacity(Some(used(&disk)));
    let log = opened(&disk, small()).unwrap();
    assert_eq!(all(&log, DECISIONS, 1_000).unwrap().len(), 40);
    assert!(matches!(written(&log, EVENTS, vec![record("k", 10)]), Err(Error::ReadOnly { .. })));
    log.trim(DECISIONS, 30).unwrap();
    assert!(log.bounds(DECISIONS).start > 10);
    drop(log);
    disk.crash(Crash::Torn);
    let log = opened(&disk, small()).unwrap();
    assert_eq!(log.bounds(DECISIONS).end, 40);
}

#[test]
fn the_mark_grows_with_the_disk_within_bounds() {
    assert_eq!(free_mark_bytes(64 << 20), 24 << 20);
    assert_eq!(free_mark_bytes(1 << 30), 128 << 20);
    assert_eq!(free_mark_bytes(1 << 40), 512 << 20);
}

#[test]
fn stores_claim_room_beside_what_the_log_keeps_for_outputs() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    let (mut one, mut other) = (log.claim(), log.claim());
    disk.set_capacity(Some(used(&disk) + MARK / 2 + (10 << 20)));
    log.check_space();
    assert!(one.set(6 << 20));
    assert!(!other.set(6 << 20), "both are more than there is");
    assert!(one.set(1 << 20) && other.set(6 << 20));
    // Nobody has written since; others fill the disk.
    disk.set_capacity(Some(used(&disk) + MARK / 2));
    assert!(!one.set(0));
    drop(other);
    assert!(one.set(0));
    disk.set_capacity(None);
    assert!(one.set(6 << 20));
}
