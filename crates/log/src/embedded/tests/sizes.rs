//! No valid record of any size, anywhere, is ever taken for damage.

use super::*;
use crate::Fetch as _;
use crate::frame;

/// Bytes of a frame around everything that is read in one go.
fn sizes() -> Vec<usize> {
    let marks = [4 << 10, 16 << 10, 20 << 10, 256 << 10, 272 << 10, 1 << 20, (1 << 20) + (16 << 10)];
    let around = marks.into_iter().flat_map(|mark: usize| (mark - 9..=mark + 9).step_by(3).chain([mark]));
    let mut sizes: Vec<usize> = around.chain([100, frame::MAX_FRAME_BYTES - 1, frame::MAX_FRAME_BYTES]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// A record whose frame has so many bytes.
fn framed(key: &str, frame_bytes: usize) -> NewRecord {
    let empty = frame::encoded_len(&record(key, 0));
    let new = record(key, frame_bytes - empty);
    assert_eq!(frame::encoded_len(&new), frame_bytes);
    new
}

/// Reads what is there in every way, and compares.
fn check(disk: &Arc<SimulatedDisk>, log: &Arc<Embedded>, at: TopicPartition, expected: &[String]) {
    for max_bytes in [1, 100, 4 << 10, 16 << 10, 20 << 10, 256 << 10, 1 << 20, usize::MAX] {
        assert_eq!(keys(&all(log, at, max_bytes).unwrap()), expected, "{at} in reads of {max_bytes}");
    }
    let end = log.bounds(at).end;
    for from in 0..end {
        assert_eq!(log.read(at, from, 1).unwrap()[0].offset, from);
        if from % 9 == 0 {
            assert_eq!(followed(disk, at, from).unwrap()[0].offset, from);
        }
    }
    let port = Log::Embedded(log.clone());
    let newest = log.read(at, end - 1, 1).unwrap()[0].appended_at;
    assert_eq!(port.offset_at(at, 0).unwrap(), 0);
    assert_eq!(port.offset_at(at, newest + 1).unwrap(), end);
    let mut reader = port.reader("test", Arc::default());
    let chunk = reader.read(at, end - 1, 1).unwrap();
    assert_eq!((chunk.records.len(), chunk.end, chunk.at_end), (1, end, true));
}

#[test]
fn records_of_every_size_are_read_by_every_reader_running_and_after_a_restart() {
    // Before each goes nothing, a little (off an index entry), or a stretch.
    for before in [0, 1, 170] {
        for at in [EVENTS, DECISIONS, DEFINITIONS] {
            let disk = SimulatedDisk::new(1);
            let mut log = Arc::new(opened(&disk, Options::default()).unwrap());
            let mut expected = Vec::new();
            for (n, size) in sizes().into_iter().enumerate() {
                let mut records: Vec<NewRecord> = (0..before).map(|m| record(&format!("{n}.{m}"), 40)).collect();
                records.push(framed(&n.to_string(), size));
                expected
                    .extend(records.iter().map(|new| String::from_utf8_lossy(new.key.as_ref().unwrap()).into_owned()));
                let last = expected.len() as u64 - 1;
                written(&log, at, records).unwrap();
                // As the last record, running.
                assert_eq!(log.read(at, last, 1).unwrap()[0].offset, last, "{size} bytes after {before}");
                assert_eq!(followed(&disk, at, last).unwrap()[0].offset, last);
                if n % 4 == 0 || size > 1 << 20 {
                    // And after a restart, with and without an orderly close.
                    disk.crash(if n % 8 == 0 { Crash::Synced } else { Crash::Kill });
                    drop(log);
                    log = Arc::new(opened(&disk, Options::default()).unwrap());
                    assert_eq!(log.bounds(at).end, last + 1);
                    assert_eq!(log.read(at, last, 1).unwrap()[0].offset, last, "{size} bytes after {before}");
                }
            }
            if before < 2 {
                check(&disk, &log, at, &expected);
                log.close();
                drop(log);
                let log = Arc::new(opened(&disk, Options::default()).unwrap());
                check(&disk, &log, at, &expected);
            }
        }
    }
}

#[test]
fn what_no_frame_can_hold_is_refused_and_nothing_of_it_is_there() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options::default()).unwrap();
    let too_large = framed("k", frame::MAX_FRAME_BYTES + 1);
    let long_name = NewRecord { headers: vec![(vec![b'n'; 70_000].into(), "v".into())], ..NewRecord::default() };
    let many_headers = NewRecord { headers: vec![("n".into(), "v".into()); 70_000], ..NewRecord::default() };
    for new in [too_large, long_name, many_headers] {
        let answer = append(&log, EVENTS, vec![record("a", 1), new]).try_recv().unwrap();
        assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
    }
    log.step();
    assert_eq!(log.bounds(EVENTS).end, 0);
}

#[test]
fn a_backup_finds_the_end_behind_a_record_of_every_size() {
    let folder = tempfile::tempdir().unwrap();
    let log = Embedded::open_stepped(Disk::Real, folder.path(), 2, Clock::new(), Options::default()).unwrap();
    let mut bytes = 0;
    for (n, size) in sizes().into_iter().enumerate() {
        let end = written(&log, EVENTS, vec![framed(&n.to_string(), size)]).unwrap().end;
        bytes += size as u64;
        let pieces = files::pieces(folder.path(), EVENTS, end).unwrap();
        assert_eq!((pieces.len(), pieces[0].bytes), (1, bytes), "{size} bytes");
        assert_eq!(Follower::bounds(folder.path(), EVENTS).unwrap().end, end);
        assert_eq!(Follower::offset_at(folder.path(), EVENTS, Millis::MAX).unwrap(), end);
    }
    log.close();
}

#[test]
fn whoever_reads_at_the_end_reads_no_file_and_all_read_the_same() {
    let disk = SimulatedDisk::new(1);
    let log = opened(&disk, Options { tail_bytes: 3_000, ..small() }).unwrap();
    let mut next = 0;
    for n in 0..60_usize {
        let records: Vec<NewRecord> = (0..1 + n % 3).map(|m| record(&format!("{n}.{m}"), 11 * n % 500)).collect();
        let count = records.len();
        written(&log, EVENTS, records).unwrap();
        let before = disk.bytes_read();
        let read = log.read(EVENTS, next, usize::MAX).unwrap();
        assert_eq!((read.len(), read[0].offset), (count, next));
        assert_eq!(disk.bytes_read(), before, "records that were just written are in memory");
        assert!(log.memory_bytes() <= 3_000, "nothing waits to be written");
        next += count as u64;
    }
    let reads = [1, 700, 5_000, usize::MAX];
    let found: Vec<Vec<Record>> = reads.iter().map(|max_bytes| all(&log, EVENTS, *max_bytes).unwrap()).collect();
    assert!(disk.bytes_read() > 0, "what is older is in files");
    log.trim(EVENTS, next - 1).unwrap();
    let start = log.bounds(EVENTS).start;
    assert!(matches!(log.read(EVENTS, start - 1, 1), Err(Error::Trimmed { .. })));
    log.close();
    drop(log);
    let log = opened(&disk, small()).unwrap();
    let kept = all(&log, EVENTS, usize::MAX).unwrap();
    for whole in found {
        assert_eq!(whole.len() as u64, next);
        assert_eq!(whole[start as usize..], kept);
    }
}
