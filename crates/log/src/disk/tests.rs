use super::*;
use std::path::PathBuf;

fn dir() -> PathBuf {
    PathBuf::from("/data")
}

fn simulated(seed: u64) -> (std::sync::Arc<SimulatedDisk>, Disk) {
    let disk = SimulatedDisk::new(seed);
    let mount = disk.mount();
    mount.create_dir_all(&dir()).unwrap();
    (disk, mount)
}

/// What both kinds of disk do alike.
fn check(disk: &Disk, dir: &Path) {
    disk.create_dir_all(&dir.join("a/b")).unwrap();
    let path = dir.join("a/b/one");
    assert_eq!(disk.open(&path, Open::Append).unwrap_err().kind(), io::ErrorKind::NotFound);
    let file = disk.open(&path, Open::New).unwrap();
    assert_eq!(disk.open(&path, Open::New).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    file.append_all(b"hello").unwrap();
    file.append_all(b" you").unwrap();
    file.sync_data().unwrap();
    let mut buffer = [0; 16];
    assert_eq!(file.read_at(&mut buffer, 6).unwrap(), 3);
    assert_eq!(&buffer[..3], b"you");
    file.set_len(5).unwrap();
    file.append_all(b"!").unwrap();
    assert_eq!((disk.read(&path).unwrap(), file.len().unwrap()), (b"hello!".to_vec(), 6));
    disk.replace(&dir.join("a/b/two.json"), b"2").unwrap();
    disk.replace(&dir.join("a/b/two.json"), b"22").unwrap();
    assert_eq!(disk.list(&dir.join("a/b")).unwrap(), ["one", "two.json"]);
    assert_eq!(disk.list(&dir.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    disk.remove(&path).unwrap();
    assert_eq!(disk.read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    let held = disk.lock(&dir.join("lock")).unwrap();
    assert!(held.is_some() && disk.lock(&dir.join("lock")).unwrap().is_none());
    drop(held);
    assert!(disk.lock(&dir.join("lock")).unwrap().is_some());
    assert!(disk.space(dir).unwrap().free_bytes > 0);
}

#[test]
fn files_and_the_simulated_disk_do_the_same() {
    let folder = tempfile::tempdir().unwrap();
    check(&Disk::Real, folder.path());
    let (_, mount) = simulated(1);
    check(&mount, &dir());
}

#[test]
fn what_is_made_is_for_the_owner_alone_and_what_was_there_becomes_so() {
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    Disk::Real.create_dir_all(&folder.path().join("a/b")).unwrap();
    Disk::Real.replace(&folder.path().join("a/b/file"), b"x").unwrap();
    assert_eq!((mode(&folder.path().join("a/b")), mode(&folder.path().join("a/b/file"))), (0o700, 0o600));
    for (path, wide) in [("a/b", 0o755), ("a/b/file", 0o644)] {
        let path = folder.path().join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
        Disk::Real.tighten(&path).unwrap();
        assert_eq!(mode(&path) & 0o077, 0);
    }
}

#[test]
fn the_power_takes_what_was_not_synced() {
    let (disk, mount) = simulated(1);
    let path = dir().join("file");
    let file = mount.open(&path, Open::New).unwrap();
    file.append_all(b"kept").unwrap();
    file.sync_data().unwrap();
    file.append_all(b" lost").unwrap();
    disk.crash(Crash::Kill);
    assert_eq!(disk.bytes(&path).unwrap(), b"kept lost", "only the process died");
    assert!(file.append_all(b"x").is_err(), "and it does nothing more");
    disk.crash(Crash::Synced);
    assert_eq!(disk.bytes(&path), None, "its name was never synced");
    let mount = disk.mount();
    let file = mount.open(&path, Open::New).unwrap();
    mount.sync_dir(&dir()).unwrap();
    file.append_all(b"kept").unwrap();
    file.sync_data().unwrap();
    file.append_all(b" lost").unwrap();
    disk.crash(Crash::Synced);
    assert_eq!(disk.bytes(&path).unwrap(), b"kept");
}

#[test]
fn torn_writes_are_legal_ones_and_the_same_for_a_seed() {
    let torn = |seed: u64| {
        let (disk, mount) = simulated(seed);
        let path = dir().join("file");
        let file = mount.open(&path, Open::New).unwrap();
        mount.sync_dir(&dir()).unwrap();
        file.append_all(&[1; 700]).unwrap();
        file.sync_data().unwrap();
        file.append_all(&[2; 5_000]).unwrap();
        disk.crash(Crash::Torn);
        disk.bytes(&path).unwrap()
    };
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let left = torn(seed);
        assert_eq!(left, torn(seed));
        assert!(left.len() >= 700 && left[..700].iter().all(|byte| *byte == 1), "what was synced is there");
        assert!(left[700..].iter().all(|byte| [0, 2].contains(byte)));
        seen.insert((left.len() > 700, left[700..].contains(&0), left.len() == 5_700));
    }
    assert!(seen.len() >= 5, "nothing, all, a part, with and without holes: {seen:?}");
}

#[test]
fn faults_hit_the_operation_that_they_are_aimed_at_once() {
    let (disk, mount) = simulated(1);
    let file = mount.open(&dir().join("file"), Open::New).unwrap();
    mount.sync_dir(&dir()).unwrap();
    disk.inject(Some(Operation::Append), 1, Fault::Io);
    file.append_all(b"a").unwrap();
    assert!(file.append_all(b"bbbb").is_err());
    file.set_len(1).unwrap();
    disk.inject(Some(Operation::Append), 0, Fault::Short);
    disk.inject(Some(Operation::Append), 1, Fault::Interrupted);
    file.append_all(b"cccccccc").unwrap();
    assert_eq!(file.len().unwrap(), 9, "what was cut short or interrupted is gone on with");
    disk.set_capacity(Some(12));
    let full = file.append_all(b"dddddd").unwrap_err();
    assert!(is_full(&full) && file.len().unwrap() == 12, "as much as fits, then {full}");
    disk.set_capacity(None);
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert!(file.sync_data().is_err());
    file.append_all(b"e").unwrap();
    file.sync_data().unwrap();
    disk.crash(Crash::Synced);
    let expected = [[0; 12].as_slice(), b"e"].concat();
    assert_eq!(disk.bytes(&dir().join("file")).unwrap(), expected, "what a sync failed to bring there never comes");
    let mount = disk.mount();
    let file = mount.open(&dir().join("file"), Open::Rewrite).unwrap();
    file.write_all_at(b"again", 3).unwrap();
    file.sync_data().unwrap();
    disk.crash(Crash::Synced);
    assert_eq!(&disk.bytes(&dir().join("file")).unwrap()[3..8], b"again");
    let mount = disk.mount();
    disk.inject(None, 0, Fault::Death);
    assert!(mount.list(&dir()).is_err() && mount.list(&dir()).is_err());
    disk.crash(Crash::Kill);
    assert_eq!(disk.mount().list(&dir()).unwrap(), ["file"]);
}
