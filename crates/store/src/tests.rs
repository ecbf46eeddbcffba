//! Whatever happens to one file of a store, it opens to a state that it was in, or
//! does not open, or says at the read that it is damaged.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Batch, Error, Family, Rocks, Shared, Store};

mod families {
    use super::Family;

    pub const USERS: Family = Family::original("users");
    pub const DEDUPE: Family = Family::original("dedupe");
    pub const META: Family = Family::original("meta");
    pub const ALL: &[Family] = &[USERS, DEDUPE, META];
}

const BATCHES: u64 = 40;
/// After these batches everything is brought to tables.
const FLUSHED: [u64; 3] = [10, 20, 30];
const USERS: u64 = 12;
const CHECKPOINT: &[u8] = b"checkpoint";

type State = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

fn value(n: u64) -> Vec<u8> {
    // Not to be compressed away: some blocks a table.
    (0..300).flat_map(|i| (n * 7_919 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect()
}

/// Batch `n`: a user, an event id and where the state stands.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(families::USERS, format!("user{}", n % USERS), value(n));
    batch.put(families::DEDUPE, n.to_be_bytes(), [1]);
    if n > 5 {
        batch.delete(families::DEDUPE, (n - 5).to_be_bytes());
    }
    batch.put(families::META, CHECKPOINT, n.to_be_bytes());
    batch
}

/// The state after batch `n`.
fn expected(n: u64) -> State {
    let mut state = State::new();
    for n in 1..=n {
        state.insert(("users", format!("user{}", n % USERS).into_bytes()), value(n));
        state.insert(("dedupe", n.to_be_bytes().to_vec()), vec![1]);
        if n > 5 {
            state.remove(&("dedupe", (n - 5).to_be_bytes().to_vec()));
        }
        state.insert(("meta", CHECKPOINT.to_vec()), n.to_be_bytes().to_vec());
    }
    state
}

fn read(store: &Store) -> Result<State, Error> {
    let mut state = State::new();
    for family in families::ALL {
        store.each(*family, |key, value| {
            state.insert((family.name(), key), value);
            Ok::<_, Error>(())
        })?;
    }
    Ok(state)
}

fn shared() -> Shared {
    Shared::new(8 << 20)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A store after all batches, as it is when it is closed, and as a killed process
/// leaves it.
fn made(dir: &Path) -> [PathBuf; 2] {
    let (path, killed) = (dir.join("closed"), dir.join("killed"));
    let store = Rocks::open(&path, families::ALL, &shared()).unwrap();
    for n in 1..=BATCHES {
        store.write(batch(n)).unwrap();
        if FLUSHED.contains(&n) {
            store.flush().unwrap();
        }
    }
    copy(&path, &killed);
    drop(store);
    [path, killed]
}

/// What a damaged store comes to: where it stands, or that it is known to be
/// damaged. Panics when it is a state that never was.
fn opened(path: &Path, what: &str) -> Option<u64> {
    let store = match Rocks::open(path, families::ALL, &shared()) {
        Ok(store) => Store::Rocks(store),
        Err(Error::Damaged { .. }) => return None,
        Err(error) => panic!("{what}: {error}"),
    };
    match read(&store) {
        Ok(state) => {
            let at = state.get(&("meta", CHECKPOINT.to_vec()));
            let at = at.map_or(0, |at| u64::from_be_bytes(at.as_slice().try_into().unwrap()));
            assert!(state == expected(at), "{what}: the state after batch {at} is not what it was");
            assert!(!store.is_damaged());
            Some(at)
        }
        Err(Error::Damaged { .. }) => {
            assert!(store.is_damaged());
            None
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Lets something happen to each file in turn, each time in a fresh copy.
fn sweep(store: &Path, mut check: impl FnMut(&str, &str, Option<u64>)) {
    let scratch = tempfile::tempdir().unwrap();
    let mut round = 0;
    let mut tried = |name: &str, what: String, harm: &dyn Fn(&Path)| {
        round += 1;
        let path = scratch.path().join(round.to_string());
        copy(store, &path);
        harm(&path.join(name));
        let what = format!("{name} {what}");
        let at = opened(&path, &what);
        check(name, &what, at);
        fs::remove_dir_all(path).unwrap();
    };
    for entry in fs::read_dir(store).unwrap() {
        let entry = entry.unwrap();
        let (name, len) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
        tried(&name, "deleted".into(), &|path| fs::remove_file(path).unwrap());
        let steps = if name.starts_with("MANIFEST") { 32 } else { 5 };
        let mut places: Vec<u64> = (0..steps).map(|n| n * len / steps).chain([1, 4, 6, len - len.min(1)]).collect();
        places.retain(|at| *at < len);
        for at in places {
            tried(&name, format!("cut at {at} of {len}"), &|path| {
                OpenOptions::new().write(true).open(path).unwrap().set_len(at).unwrap();
            });
            tried(&name, format!("with a bit flipped at {at} of {len}"), &|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[at as usize] ^= 1 << (at % 8);
                fs::write(path, bytes).unwrap();
            });
        }
    }
}

/// Files that hold nothing of the state.
fn is_idle(name: &str) -> bool {
    ["LOG", "LOCK", "IDENTITY", "OPTIONS"].iter().any(|idle| name.starts_with(idle))
}

#[test]
fn a_store_opens_to_a_state_that_was_or_is_known_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    for (store, was_closed) in made(dir.path()).into_iter().zip([true, false]) {
        let whole = dir.path().join("whole");
        copy(&store, &whole);
        assert_eq!(opened(&whole, "whole"), Some(BATCHES));
        fs::remove_dir_all(&whole).unwrap();
        let last_flush = *FLUSHED.last().unwrap();
        let mut tried = 0;
        sweep(&store, |name, what, at| {
            tried += 1;
            match at {
                // The write-ahead log may lose its end: what is in tables stays.
                Some(at) if name.ends_with(".log") => assert!(at >= last_flush, "{what}: batch {at}"),
                // What was added to the list of tables a moment before a kill is not
                // noted yet; an earlier state is then what is left.
                Some(at) if name.starts_with("MANIFEST") && !was_closed => assert!(at <= BATCHES, "{what}"),
                Some(at) => assert_eq!(at, BATCHES, "{what}"),
                None => assert!(!is_idle(name), "{what}: nothing of the state was there"),
            }
        });
        assert!(tried > 100, "{tried}");
    }
}

/// RocksDB does not get past a header whose kind is that of another sort of file. Whatever the
/// kind of a record becomes, opening ends.
#[test]
fn a_record_of_any_kind_keeps_no_store_from_opening_or_being_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let [closed, killed] = made(dir.path());
    // Without it nothing else tells that the list has changed.
    fs::remove_file(closed.join(super::contents::FILE)).unwrap();
    let scratch = dir.path().join("scratch");
    let mut ended = (0, 0);
    for (store, is_meant) in [(&closed, "MANIFEST-"), (&killed, ".log")] {
        let names = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in names.filter(|name| name.starts_with(is_meant) || name.ends_with(is_meant)) {
            let bytes = fs::read(store.join(&name)).unwrap();
            let mut begins = Vec::new();
            let mut at = 0;
            while at + 7 <= bytes.len().min(32 << 10) {
                begins.push(at);
                at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            }
            for (n, at) in begins.iter().enumerate().filter(|(n, _)| *n < 3 || n % 8 == 0) {
                for kind in [0, 5, 6, 7, 8, 9, 10, 11, 12, 129, 130, 131] {
                    fs::remove_dir_all(&scratch).ok();
                    copy(store, &scratch);
                    let mut harmed = bytes.clone();
                    harmed[at + 6] = kind;
                    fs::write(scratch.join(&name), harmed).unwrap();
                    match opened(&scratch, &format!("{name}, record {n} of kind {kind}")) {
                        Some(_) => ended.0 += 1,
                        None => ended.1 += 1,
                    }
                }
            }
        }
    }
    assert!(ended.0 + ended.1 > 100 && ended.1 > 40, "{ended:?}");
}

#[test]
fn a_list_of_tables_that_was_cut_never_opens() {
    let dir = tempfile::tempdir().unwrap();
    let [closed, _] = made(dir.path());
    let list = super::contents::current(&closed).unwrap();
    let len = fs::metadata(closed.join(&list)).unwrap().len();
    let mut noticed = 0;
    sweep(&closed, |name, what, at| {
        if *name == list {
            assert_eq!(at, None, "{what}");
            noticed += 1;
        }
    });
    assert!(noticed > 60 && len > 32, "{noticed} of a list of {len} bytes");
}

#[test]
fn a_store_of_the_first_version_opens_and_is_noted_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let [closed, _] = made(dir.path());
    let note = closed.join(super::contents::FILE);
    fs::remove_file(&note).unwrap();
    assert_eq!(opened(&closed, "without a note"), Some(BATCHES));
    assert!(note.exists());
    assert_eq!(opened(&closed, "with a note"), Some(BATCHES));
}

#[test]
fn a_folder_that_was_hardly_begun_is_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("LOCK"), "").unwrap();
    fs::write(dir.path().join("MANIFEST-000001"), "half").unwrap();
    fs::write(dir.path().join("000004.log"), "").unwrap();
    assert_eq!(opened(dir.path(), "hardly begun"), Some(0));
}

#[test]
fn every_block_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let [closed, _] = made(dir.path());
    let store = Rocks::open(&closed, families::ALL, &shared()).unwrap();
    store.verify().unwrap();
    drop(store);
    let tables = fs::read_dir(&closed).unwrap().map(|entry| entry.unwrap().path());
    let largest = tables.filter(|path| path.extension().is_some_and(|e| e == "sst"));
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[200] ^= 4;
    fs::write(&largest, bytes).unwrap();
    let store = Rocks::open(&closed, families::ALL, &shared()).unwrap();
    assert!(matches!(store.verify(), Err(Error::Damaged { .. })));
}

/// A copy has no note of what it contains: a family that its version knew is lost where
/// it is missing, and one that came later is made.
#[test]
fn a_family_that_came_later_is_made_and_one_that_was_always_there_is_missed() {
    const LATER: &[Family] = &[families::USERS, Family::added("later")];
    const LOST: &[Family] = &[families::USERS, families::META];
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = Rocks::open(&path, &LATER[..1], &shared()).unwrap();
    let mut batch = Batch::default();
    batch.put(families::USERS, b"ann", b"1");
    store.write(batch).unwrap();
    store.checkpoint(&copy).unwrap();
    drop(store);
    let lost = Rocks::open_read_only(&copy, LOST).unwrap_err();
    assert!(lost.to_string().contains("the column family meta is missing"), "{lost}");
    let store = Rocks::open(&copy, LATER, &shared()).unwrap();
    assert_eq!(store.get(families::USERS, b"ann").unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(store.get(LATER[1], b"ann").unwrap(), None);
}

/// RocksDB itself would flush a store only when it is written to once more.
#[test]
fn what_stores_that_are_idle_hold_unwritten_stays_within_the_bound() {
    const FAMILY: Family = Family::original("users");
    const BOUND: usize = 8 << 20;
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(2 * BOUND);
    let open = |n: usize| Rocks::open(&dir.path().join(n.to_string()), &[FAMILY], &shared).unwrap();
    let stores: Vec<Rocks> = (0..8).map(open).collect();
    for store in &stores {
        let mut batch = Batch::default();
        for n in 0..60u8 {
            batch.put(FAMILY, vec![n], vec![n; 100_000]);
        }
        store.write(batch).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while shared.buffer_bytes() > BOUND {
        assert!(Instant::now() < deadline, "{} bytes", shared.buffer_bytes());
        std::thread::sleep(Duration::from_millis(10));
    }
    for store in &stores {
        assert_eq!(store.get(FAMILY, &[59]).unwrap().map(|value| value.len()), Some(100_000));
    }
}
