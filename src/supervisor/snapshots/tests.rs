//! Which source a state is taken from when some are damaged.

use crate::engine::families;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use askwhen_domain::LOGIC_VERSION;
use askwhen_log::{Ack, NewRecord, Simulated};
use askwhen_partition::Signer;
use askwhen_store::Batch;
use askwhen_wire::record::{AcceptLoss, Internal};
use askwhen_wire::topic::Topic;

const ROLE: Role = Role::Engine;
const JOURNAL: TopicPartition = TopicPartition { topic: Topic::Events, partition: 0 };

fn key() -> ClusterKey {
    ClusterKey::new([7; 32])
}

struct World {
    dir: tempfile::TempDir,
    log: Arc<Simulated>,
    stores: Stores,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    /// A journal of ten records; snapshots at 3 and 6, and a state here at 9.
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Simulated::new(77, 1));
        for n in 0..10 {
            let (sender, _) = tokio::sync::oneshot::channel();
            let new = NewRecord { key: None, headers: Vec::new(), value: Some(n.to_string().into()) };
            log.append(JOURNAL, vec![new], Ack::Once(sender));
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let url = format!("file://{}", dir.path().join("snapshots").display());
        let repository = {
            let _inside = runtime.enter();
            SnapshotRepository::open(&url).unwrap()
        };
        let data = dir.path().join("data");
        let stores = Stores::new(data, Shared::new(8 << 20), repository, Log::Simulated(log.clone()), key());
        let world = World { dir, log, stores, _runtime: runtime };
        for (next, snapshot) in [(3_u64, true), (6, true), (9, false)] {
            world.go_on_to(next, 0);
            if snapshot {
                world.snapshot(next);
            }
        }
        world
    }

    /// Brings the state to a position; `salt` tells contents of one length apart.
    fn go_on_to(&self, next: u64, salt: u64) {
        let store = self.open().unwrap();
        let mut meta = CheckpointMeta::new(77, 1, LOGIC_VERSION);
        meta.next = next;
        let mut batch = Batch::default();
        meta.save(&mut batch);
        for user in 0..next {
            // Not to be compressed away: the users' table is the largest.
            let state =
                (0..300_u64).flat_map(|n| (user * 300 + n + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            batch.put(families::USERS, format!("user{user}"), state.collect::<Vec<u8>>());
        }
        store.write(batch).unwrap();
    }

    fn snapshot(&self, next: u64) {
        let _store = self.open().unwrap();
        self.stores.take(ROLE, 0, next as i64).unwrap().unwrap();
    }

    fn open(&self) -> Result<Arc<Store>, StopReason> {
        self.stores.open(ROLE, 0, &Arc::default())
    }

    /// Where the state is that is opened, and what was passed over.
    fn opened(&self) -> (u64, Vec<String>) {
        let status: Arc<Status> = Arc::default();
        let store = self.stores.open(ROLE, 0, &status).unwrap();
        let next = CheckpointMeta::load(&store).unwrap().map_or(0, |meta| meta.next);
        let users = store.ascending(families::USERS, &[], 100).unwrap().len() as u64;
        assert_eq!(users, next, "all of the state is there");
        (next, status.passed_over())
    }

    fn here(&self) -> PathBuf {
        self.stores.path(ROLE, 0)
    }

    fn snapshot_files(&self, position: u64) -> PathBuf {
        let folder = self.dir.path().join("snapshots/engine/0");
        let name = format!("{position:020}-");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let found = entries.filter(|path| path.is_dir());
        found.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&name)).unwrap()
    }
}

fn list_of(store: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("MANIFEST")).unwrap()
}

/// A manifest without a checksum, as 0.1.0 wrote it: what it says is believed.
fn unsealed(manifest: &str) -> String {
    manifest.replace("\n  \"crc32c\"", "\n  \"unknown\"")
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 2;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_source_is_tried_in_order_until_one_is_sound() {
    let world = World::new();
    assert_eq!(world.opened(), (9, vec![]));
    flip(&list_of(&world.here()));
    let (next, passed) = world.opened();
    assert_eq!((next, passed.len()), (6, 1), "{passed:?}");
    std::fs::remove_dir_all(world.here()).unwrap();
    flip(&list_of(&world.snapshot_files(6)));
    let (next, passed) = world.opened();
    assert_eq!((next, passed.len()), (3, 1), "{passed:?}");
    assert!(passed[0].contains(&format!("engine/0/{:020}", 6)), "{passed:?}");
    flip(&list_of(&world.here()));
    std::fs::remove_file(list_of(&world.snapshot_files(3))).unwrap();
    let (next, passed) = world.opened();
    assert_eq!((next, passed.len()), (0, 3), "the whole journal is read again: {passed:?}");
    // Without its beginning the journal is no source.
    std::fs::remove_dir_all(world.here()).unwrap();
    world.log.trim(JOURNAL, 1);
    let Err(StopReason::Restart(why)) = world.open() else { panic!("there is nothing to begin with") };
    let why = why.to_string();
    let lost = "events/0: the records from 0 up to, and without, 1 are gone";
    assert!(why.contains(lost) && why.matches("snapshot").count() >= 3, "{why}");
    assert!(why.contains("askwhen doctor --accept-loss"), "{why}");
}

#[test]
fn a_loss_that_an_operator_has_accepted_is_passed_over_and_no_other() {
    let world = World::new();
    std::fs::remove_dir_all(world.here()).unwrap();
    // Behind both snapshots, at 3 and at 6.
    world.log.trim(JOURNAL, 8);
    let Err(StopReason::Restart(why)) = world.open() else { panic!("no source reaches the beginning") };
    assert!(why.to_string().contains("and no snapshot"), "{why}");
    let log = Log::Simulated(world.log.clone());
    let accept = |from, to| {
        let (topic, request_id) = (Topic::Events.name().to_owned(), format!("{from}-{to}"));
        let loss = AcceptLoss { topic, partition: 0, from, to, asked_at: 0, request_id };
        let new = Signer::new(&log, &key()).internal(0, "loss", &Internal::AcceptLoss(loss));
        let (sender, _) = tokio::sync::oneshot::channel();
        world.log.append(JOURNAL, vec![new], Ack::Once(sender));
    };
    accept(7, 8);
    assert!(world.open().is_err(), "no state is at 7");
    accept(6, 8);
    assert_eq!(world.opened(), (6, vec![]), "from the snapshot that is further");
    world.log.trim(JOURNAL, 9);
    assert!(world.open().is_err(), "more has been lost since");
}

#[test]
fn a_journal_that_was_trimmed_below_the_state_needs_no_snapshot() {
    let world = World::new();
    world.log.trim(JOURNAL, 9);
    assert_eq!(world.opened(), (9, vec![]));
    for position in [3, 6] {
        flip(&list_of(&world.snapshot_files(position)));
    }
    assert_eq!(world.opened(), (9, vec![]));
}

#[test]
fn a_snapshot_of_a_damaged_store_is_passed_over_although_its_files_are_as_they_were_brought() {
    let world = World::new();
    let tables = |store: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
    };
    // Opening brings the write-ahead log to tables.
    assert_eq!(world.opened().0, 9);
    let largest = tables(&world.here()).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len());
    flip(&largest.unwrap());
    let store = world.open().unwrap();
    let taken = world.stores.take(ROLE, 0, 9).unwrap().unwrap();
    assert_eq!(taken.subject.position, 9);
    world.stores.repository.verify(&taken, |_, _| true).unwrap();
    drop(store);
    std::fs::remove_dir_all(world.here()).unwrap();
    let (next, passed) = world.opened();
    assert_eq!((next, passed.len()), (6, 1), "{passed:?}");
}

#[test]
fn a_snapshot_that_is_said_to_be_further_than_its_state_is_passed_over() {
    let world = World::new();
    std::fs::remove_dir_all(world.here()).unwrap();
    let manifest = world.snapshot_files(6).with_extension("json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = unsealed(&text).replace("\"position\": 6", "\"position\": 8").replace("\"events\": 6", "\"events\": 8");
    let renamed = manifest.to_string_lossy().replace(&format!("{:020}", 6), &format!("{:020}", 8));
    std::fs::write(renamed, text).unwrap();
    let (next, passed) = world.opened();
    assert_eq!(next, 6, "{passed:?}");
    assert!(passed[0].contains("said to be at 8"), "{passed:?}");
}

/// A volume that was rolled back, or a folder that was restored: the store gives the
/// numbers of its files once more.
#[test]
fn a_state_put_back_from_an_earlier_copy_spoils_no_snapshot() {
    let world = World::new();
    let (here, copy) = (world.here(), world.dir.path().join("copy"));
    let put = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    put(&here, &copy);
    world.go_on_to(10, 1_000_000);
    world.snapshot(10);
    std::fs::remove_dir_all(&here).unwrap();
    put(&copy, &here);
    for _ in 0..3 {
        let (sender, _) = tokio::sync::oneshot::channel();
        world.log.append(
            JOURNAL,
            vec![NewRecord { key: None, headers: Vec::new(), value: Some("x".into()) }],
            Ack::Once(sender),
        );
    }
    world.go_on_to(13, 2_000_000);
    world.snapshot(13);
    std::fs::remove_dir_all(&here).unwrap();
    assert_eq!(world.opened(), (13, vec![]));
    std::fs::remove_dir_all(&here).unwrap();
    std::fs::remove_file(world.snapshot_files(13).with_extension("json")).unwrap();
    assert_eq!(world.opened(), (10, vec![]), "what was brought before is as it was");
}

#[test]
fn a_log_that_ends_before_a_snapshot_of_it_is_refused() {
    let world = World::new();
    let manifest = world.snapshot_files(6).with_extension("json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text =
        unsealed(&text).replace("\"position\": 6", "\"position\": 11").replace("\"events\": 6", "\"events\": 11");
    let renamed = manifest.to_string_lossy().replace(&format!("{:020}", 6), &format!("{:020}", 11));
    std::fs::write(&renamed, text).unwrap();
    let Err(StopReason::Refused(why)) = world.open() else { panic!("the log has lost its end") };
    let why = why.to_string();
    assert!(why.contains("events/0 ends at 10") && why.contains("had reached 11"), "{why}");
    std::fs::remove_file(renamed).unwrap();
    assert_eq!(world.opened(), (9, vec![]));
}

#[test]
fn a_manifest_of_a_later_format_is_told_from_one_that_is_damaged() {
    let world = World::new();
    let manifest = world.snapshot_files(6).with_extension("json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"format\": 2", "\"format\": 77, \"new\": {}")).unwrap();
    let listed = world.stores.repository.list_all(ROLE.name(), 0).unwrap();
    assert_eq!(listed.len(), 2);
    let why = listed[0].1.as_ref().unwrap_err().to_string();
    assert!(why.contains("format 77") && why.contains(env!("CARGO_PKG_VERSION")), "{why}");
    assert!(listed[1].1.is_ok());
    std::fs::remove_dir_all(world.here()).unwrap();
    assert_eq!(world.opened().0, 3);
}

/// What a manifest says of the log is believed only if it is what was written: a log that
/// ends where it always did has not lost its end.
#[test]
fn a_changed_manifest_says_nothing_of_the_log() {
    let world = World::new();
    let manifest = world.snapshot_files(6).with_extension("json");
    let sound = std::fs::read_to_string(&manifest).unwrap();
    let harmed = sound.replace("\"events\": 6", "\"events\": 66");
    assert_ne!(harmed, sound);
    std::fs::write(&manifest, harmed).unwrap();
    assert_eq!(world.opened(), (9, vec![]));
    std::fs::remove_dir_all(world.here()).unwrap();
    let (next, passed_over) = world.opened();
    assert_eq!((next, passed_over.len()), (3, 1), "{passed_over:?}");
    assert!(passed_over[0].contains("not as it was written"), "{passed_over:?}");
}
