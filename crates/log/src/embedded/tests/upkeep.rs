//! Notes of ends, trimming, compaction: what is done beside the writing.

use super::*;

fn segment_count(disk: &SimulatedDisk, at: TopicPartition) -> usize {
    let folder = files::dir_of(dir(), at);
    disk.paths().into_iter().filter(|path| path.parent() == Some(&folder)).count()
}

fn bytes_of(disk: &SimulatedDisk, at: TopicPartition) -> usize {
    let folder = files::dir_of(dir(), at);
    let paths = disk.paths().into_iter().filter(|path| path.parent() == Some(&folder));
    paths.filter_map(|path| disk.bytes(&path)).map(|bytes| bytes.len()).sum()
}

/// Puts `count` records of five keys into the compacted topic; what each key has
/// last.
fn defined(log: &Embedded, clock: &Clock, count: usize) -> Vec<(String, usize)> {
    let mut last = std::collections::BTreeMap::new();
    for n in 0..count {
        let key = format!("k{}", n % 5);
        let size = 100 + n % 7;
        written(log, DEFINITIONS, vec![record(&key, size)]).unwrap();
        last.insert(key, size);
        clock.pass(Duration::from_millis(50));
        log.step();
    }
    last.into_iter().collect()
}

/// The last record of each key, by whoever reads all.
fn latest(records: &[Record]) -> Vec<(String, usize)> {
    let pairs =
        records.iter().map(|r| (keys(std::slice::from_ref(r)).remove(0), r.value.as_ref().map_or(0, |v| v.len())));
    pairs.collect::<std::collections::BTreeMap<_, _>>().into_iter().collect()
}

#[test]
fn a_compacted_topic_keeps_the_last_of_each_key_its_offsets_and_a_bounded_size() {
    let (disk, clock) = (SimulatedDisk::new(1), Clock::simulated(NOON));
    let log = opened_at(&disk, &clock, small()).unwrap();
    let mut follower = Follower::on(disk.mount(), dir(), DEFINITIONS, 0);
    let (mut seen, mut largest) = (Vec::new(), 0);
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected = defined(&log, &clock, 25);
        seen.extend(follower.read().unwrap());
        largest = largest.max(bytes_of(&disk, DEFINITIONS));
    }
    assert!(largest < 10_000, "{largest} bytes for five records of 200");
    assert_eq!(log.bounds(DEFINITIONS), Watermarks { start: 0, end: 500 });
    for max_bytes in [1, 1_000, usize::MAX] {
        let records = all(&log, DEFINITIONS, max_bytes).unwrap();
        assert_eq!(latest(&records), expected);
        assert!(records.len() < 60 && records.windows(2).all(|two| two[0].offset < two[1].offset));
        assert_eq!(records.last().unwrap().offset, 499);
    }
    for from in 0..500 {
        let first = log.read(DEFINITIONS, from, 1).unwrap().remove(0);
        assert!(first.offset >= from);
        assert_eq!(followed(&disk, DEFINITIONS, from).unwrap()[0].offset, first.offset);
    }
    while let Some(more) = Some(follower.read().unwrap()).filter(|more| !more.is_empty()) {
        seen.extend(more);
    }
    assert_eq!(latest(&seen), expected, "whoever followed all the time misses no last one");
    assert!(seen.windows(2).all(|two| two[0].offset < two[1].offset));
    let port = Log::Embedded(Arc::new(log));
    let mut scanned = Vec::new();
    port.scan::<Error>(DEFINITIONS, 0, 500, |record| {
        scanned.push(record);
        Ok(())
    })
    .unwrap();
    assert_eq!(latest(&scanned), expected);
    assert_eq!(port.offset_at(DEFINITIONS, Millis::MAX).unwrap(), 500);
    drop(port);
    let log = opened_at(&disk, &clock, small()).unwrap();
    assert_eq!(latest(&all(&log, DEFINITIONS, 1_000).unwrap()), expected);
}

#[test]
fn tombstones_go_after_a_day_and_only_what_they_hide_goes_before() {
    let (disk, clock) = (SimulatedDisk::new(1), Clock::simulated(NOON));
    let log = opened_at(&disk, &clock, small()).unwrap();
    written(&log, DEFINITIONS, vec![record("gone", 100)]).unwrap();
    written(&log, DEFINITIONS, vec![NewRecord { value: None, ..record("gone", 0) }]).unwrap();
    let has_tombstone = |log: &Embedded| {
        let records = all(log, DEFINITIONS, 10_000).unwrap();
        let of_gone: Vec<&Record> = records.iter().filter(|r| r.key.as_deref() == Some(b"gone")).collect();
        assert!(of_gone.iter().all(|record| record.value.is_none()), "what it hides is gone");
        !of_gone.is_empty()
    };
    defined(&log, &clock, 100);
    assert!(has_tombstone(&log));
    clock.pass(Duration::from_secs(25 * 3_600));
    defined(&log, &clock, 100);
    assert!(!has_tombstone(&log));
}

#[test]
fn a_crash_at_every_operation_of_a_compaction_loses_nothing() {
    for crash in [Crash::Kill, Crash::Synced, Crash::Torn] {
        let mut after = 0;
        loop {
            let (disk, clock) = (SimulatedDisk::new(after), Clock::simulated(NOON));
            let log = opened_at(&disk, &clock, small()).unwrap();
            // All but the last record of what makes it due.
            let mut expected = defined(&log, &clock, 24);
            assert_eq!(segment_count(&disk, DEFINITIONS), 2);
            clock.pass(Duration::from_secs(5));
            disk.inject(None, after, Fault::Death);
            let mut answer = append(&log, DEFINITIONS, vec![record("k4", 500)]);
            for _ in 0..3 {
                log.step();
                clock.pass(Duration::from_secs(2));
            }
            let is_through = disk.forget_faults() > 0;
            disk.crash(crash);
            drop(log);
            let log = opened_at(&disk, &clock, small()).unwrap();
            if let Ok(Ok(_)) = answer.try_recv() {
                expected[4].1 = 500;
            }
            let found = latest(&all(&log, DEFINITIONS, 1_000).unwrap());
            assert!(found == expected || (found[4].1 == 500 && found[..4] == expected[..4]), "{crash:?} after {after}");
            expected = defined(&log, &clock, 30);
            assert_eq!(latest(&all(&log, DEFINITIONS, 1_000).unwrap()), expected);
            if is_through {
                break;
            }
            after += 1;
        }
        assert!(after > 20, "{after} operations");
    }
}

#[test]
fn a_start_reads_what_came_since_the_last_note_and_not_whole_segments() {
    let (disk, clock) = (SimulatedDisk::new(1), Clock::simulated(NOON));
    let log = opened_at(&disk, &clock, Options::default()).unwrap();
    for n in 0..200 {
        written(&log, EVENTS, vec![record(&format!("{n}"), 100_000)]).unwrap();
    }
    clock.pass(Duration::from_secs(2));
    log.step();
    written(&log, EVENTS, vec![record("after the note", 10)]).unwrap();
    drop(log);
    disk.crash(Crash::Kill);
    let before = disk.bytes_read();
    let log = opened_at(&disk, &clock, Options::default()).unwrap();
    let read = disk.bytes_read() - before;
    assert_eq!(log.bounds(EVENTS).end, 201);
    assert!(read < 3 << 20, "{read} bytes of 20 MB were read");
    assert_eq!(all(&log, EVENTS, 1 << 20).unwrap().len(), 201, "what is before is found when it is read");
}

#[test]
fn a_trim_that_a_crash_cut_short_is_finished_by_the_next_start() {
    for crash in [Crash::Kill, Crash::Synced, Crash::Torn] {
        let mut after = 0;
        loop {
            let disk = SimulatedDisk::new(after);
            let log = opened(&disk, small()).unwrap();
            for n in 0..40 {
                written(&log, DECISIONS, vec![record(&format!("{n}"), 150)]).unwrap();
            }
            disk.inject(None, after, Fault::Death);
            let trimmed = log.trim(DECISIONS, 30);
            let is_through = disk.forget_faults() > 0;
            disk.crash(crash);
            drop(log);
            let log = opened(&disk, small()).unwrap();
            let Watermarks { start, end } = log.bounds(DECISIONS);
            assert!(start <= 30 && end == 40);
            assert_eq!(all(&log, DECISIONS, 500).unwrap().len() as u64, 40 - start);
            assert!(crash != Crash::Kill || trimmed.is_err() || start > 10);
            if is_through {
                break;
            }
            after += 1;
        }
        assert!(after > 3);
    }
}
