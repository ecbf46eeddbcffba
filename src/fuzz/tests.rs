//! Everything that fuzzing has been given or has found, as ordinary tests: each
//! file of `fuzz/corpus` goes through its target.

use bytes::BytesMut;
use std::path::{Path, PathBuf};

use super::TARGETS;
use askwhen_domain::json::Json;
use askwhen_domain::user::{Alias, User};
use askwhen_log::{NewRecord, frame};
use askwhen_wire::state;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_goes_through_every_target() {
    for (name, target) in TARGETS {
        let mut count = 0;
        let folder = folder(name);
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            target(&bytes);
            // What is cut short or has a flipped bit is read as well.
            target(&bytes[..bytes.len() / 2]);
            let mut flipped = bytes.clone();
            if let Some(byte) = flipped.get_mut(bytes.len() / 3) {
                *byte ^= 0x10;
                target(&flipped);
            }
            count += 1;
        }
        assert!(count >= 3, "{} holds {count} files", folder.display());
    }
}

/// The files of the corpus that are no text, as the program writes them.
fn made() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut one = BytesMut::new();
    let new = NewRecord { key: Some("ann".into()), headers: Vec::new(), value: Some("{\"a\":1}".into()) };
    frame::encode(&mut one, &new, 7, 1_700_000_000_000, 5);
    let mut several = one.clone();
    let tombstone =
        NewRecord { key: None, headers: vec![("id".into(), "x".into()), ("".into(), "".into())], value: None };
    frame::encode(&mut several, &tombstone, 8, -1, u64::MAX);
    let mut user = User::default();
    user.attributes.make_mut().insert("plan".into(), Json::of(&"pro"));
    user.remember(7, 1, 1);
    let mut aliased = user.clone();
    aliased.identity_mut().aliases.push(Alias { name: "anon-1".into(), since: 7 });
    vec![
        ("frames", "one", one.to_vec()),
        ("frames", "two", several.to_vec()),
        ("frames", "torn", several[..several.len() - 3].to_vec()),
        ("state", "nobody", state::encode(&User::default())),
        ("state", "known", state::encode(&user)),
        ("state", "alias", state::encode(&User::alias("ann"))),
        ("state", "aliased", state::encode(&aliased)),
        ("state", "later", vec![250, 0, 1]),
    ]
}

/// What is kept can still be read as it was; a new layout keeps the old files
/// and adds its own.
#[test]
fn what_the_program_writes_is_in_the_corpus() {
    for (target, name, bytes) in made() {
        let mut files = std::fs::read_dir(folder(target)).expect("a folder");
        let kept = files.any(|entry| entry.and_then(|entry| std::fs::read(entry.path())).is_ok_and(|b| b == bytes));
        if !kept && std::env::var_os("ASKWHEN_WRITE_CORPUS").is_some() {
            std::fs::write(folder(target).join(name), &bytes).expect("written");
            continue;
        }
        assert!(kept, "{target}/{name} is not in the corpus: ASKWHEN_WRITE_CORPUS=1 writes it");
    }
}
