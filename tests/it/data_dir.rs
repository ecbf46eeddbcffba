//! What the data directory is made by and with, and who may read it.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Receiver, Server, askwhen, open_survey};

/// Starts a server that must not start; gives its exit code and what it said.
pub fn refused(dir: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(["--data-dir", "data", "serve", "--listen", "127.0.0.1:0"]).args(flags).current_dir(dir);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("it can be asked").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it dies");
            panic!("it serves, and should have refused to");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = child.wait_with_output().expect("it has ended");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// Every file below a folder, with what would show that it was touched.
fn listing(dir: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("a file");
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path.display().to_string(), (metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        }
    }
    all
}

async fn served(flags: &[&str]) -> (std::sync::Arc<tempfile::TempDir>, String) {
    let receiver = Receiver::start(&[]).await;
    let server = Server::on(std::sync::Arc::new(tempfile::tempdir().expect("a folder")), flags, &[]).await;
    server.put("/v1/endpoints/crm", json!({"url": receiver.url})).await;
    server.put("/v1/surveys/open", open_survey()).await;
    let admin = server.admin.clone();
    let (dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    (dir, admin)
}

#[tokio::test]
async fn another_cluster_key_is_refused_with_both_fingerprints() {
    let (dir, _) = served(&["--dev"]).await;
    let data = dir.path().join("data");
    let fingerprint = |path: &Path| -> String {
        let note: Value = serde_json::from_slice(&fs::read(path).expect("a note")).expect("JSON");
        note["key_fingerprint"].as_str().expect("a fingerprint").to_owned()
    };
    let (note, key) = (data.join("format.json"), data.join("secrets.key"));
    let made_with = fingerprint(&note);
    let right = fs::read_to_string(&key).expect("a key");
    let wrong = "ab".repeat(32);
    fs::write(&key, &wrong).expect("written");
    let before = listing(&data);
    let (code, said) = refused(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    let another = askwhen_wire::seal::ClusterKey::parse(&wrong).expect("a key").check();
    for told in [made_with.as_str(), another.as_str(), "secrets.key"] {
        assert!(said.contains(told), "{told}: {said}");
    }
    assert_eq!(listing(&data), before, "nothing was changed");
    let (code, _, said) = askwhen(dir.path(), &["--data-dir", "data", "explain", "ann"]);
    assert_eq!(code, Some(3), "{said}");
    // As version 0.1.0 leaves it: the secrets in the log tell.
    fs::remove_file(&note).expect("removed");
    let (code, said) = refused(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("opens none of the 1 secrets"), "{said}");
    fs::write(&key, "half a key").expect("written");
    assert_eq!(refused(dir.path(), &[]).0, Some(3));
    fs::write(&key, right).expect("written");
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(server.get("/v1/endpoints/crm").await.status, 200);
    assert_eq!(fingerprint(&note), made_with, "noted from now on");
}

#[tokio::test]
async fn state_or_snapshots_without_their_log_are_refused() {
    let (dir, _) = served(&["--dev"]).await;
    let data = dir.path().join("data");
    let gone = dir.path().join("log");
    fs::rename(data.join("log"), &gone).expect("renamed");
    // An empty mount point, or none.
    for is_mount_point in [false, true] {
        if is_mount_point {
            fs::create_dir(data.join("log")).expect("made");
        }
        let before = listing(&data);
        for role in ["engine", "delivery", "console"] {
            fs::rename(data.join("state").join(role), dir.path().join(role)).expect("renamed");
            let (code, said) = refused(dir.path(), &[]);
            assert_eq!(code, Some(3), "{said}");
            assert!(said.contains("log.json") && said.contains("mount"), "{said}");
            fs::rename(dir.path().join(role), data.join("state").join(role)).expect("renamed");
        }
        assert_eq!(before.into_keys().collect::<Vec<_>>(), listing(&data).into_keys().collect::<Vec<_>>());
    }
    fs::rename(data.join("state"), dir.path().join("state")).expect("renamed");
    fs::create_dir_all(data.join("snapshots/engine")).expect("made");
    let (code, said) = refused(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    fs::remove_dir_all(data.join("snapshots")).expect("removed");
    fs::rename(dir.path().join("state"), data.join("state")).expect("renamed");
    fs::remove_dir(data.join("log")).expect("removed");
    fs::rename(&gone, data.join("log")).expect("renamed");
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(server.get("/v1/surveys/open").await.status, 200);
}

#[tokio::test]
async fn lost_api_keys_are_not_made_up() {
    let (dir, before) = served(&["--dev"]).await;
    let keys = dir.path().join("data/keys.toml");
    fs::remove_file(&keys).expect("removed");
    let (code, said) = refused(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("keys.toml") && said.contains("--new-keys"), "{said}");
    assert!(!keys.exists());
    // The note of who made them is of no use either way.
    fs::rename(dir.path().join("data/format.json"), dir.path().join("format.json")).expect("renamed");
    assert_eq!(refused(dir.path(), &[]).0, Some(3));
    let server = Server::on(dir, &["--dev", "--new-keys"], &[]).await;
    assert_ne!(server.admin, before);
    assert_eq!(server.get("/v1/surveys/open").await.status, 200);
    assert_eq!(server.call(&before, reqwest::Method::GET, "/v1/surveys/open", None).await.status, 401);
    let (dir, _) = server.terminate();
    let (code, said) = refused(dir.path(), &["--new-keys"]);
    assert_eq!(code, Some(2), "{said}");
}

#[tokio::test]
async fn made_keys_are_held_to_the_rules_of_configured_ones() {
    let (dir, _) = served(&["--dev"]).await;
    let keys = dir.path().join("data/keys.toml");
    let made = fs::read_to_string(&keys).expect("readable");
    let one = |key: &str| {
        let mut text = String::new();
        for line in made.lines() {
            let line = if line.starts_with("key = ") { format!("key = \"{key}\"") } else { line.to_owned() };
            text.push_str(&line);
            text.push('\n');
        }
        text
    };
    for (text, why) in [
        (one("short"), "16 characters"),
        (one(&"k".repeat(40)), "the same text"),
        (made.replacen("kind = ", "kine = ", 1), "unknown field"),
        (made.replacen("key = ", "# ", 1), "missing field"),
    ] {
        fs::write(&keys, text).expect("written");
        let (code, said) = refused(dir.path(), &[]);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("keys.toml") && said.contains(why) && said.contains("from a backup"), "{why}: {said}");
    }
    fs::write(&keys, made).expect("written");
    drop(Server::on(dir, &["--dev"], &[]).await);
}

#[tokio::test]
async fn a_second_server_changes_nothing() {
    let dir = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir.clone(), &["--dev"], &[]).await;
    let data = dir.path().join("data");
    let keys = fs::read(data.join("keys.toml")).expect("keys");
    // One whose keys are configured has none of its own in the directory.
    fs::remove_file(data.join("keys.toml")).expect("removed");
    fs::remove_file(data.join("format.json")).expect("removed");
    // The first server makes its commit logs when it writes for the first time.
    let is_at_rest = |name: &String| !name.contains("/state/") && !name.ends_with(".commit");
    let names =
        |all: BTreeMap<String, (u64, i64, i64)>| -> Vec<String> { all.into_keys().filter(is_at_rest).collect() };
    let before = names(listing(&data));
    let (code, said) = refused(dir.path(), &["--new-keys"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(names(listing(&data)), before);
    fs::write(data.join("keys.toml"), keys).expect("written");
    drop(server);
}

#[tokio::test]
async fn a_directory_of_a_later_version_is_refused_before_anything_is_written() {
    let (dir, _) = served(&["--dev"]).await;
    let data = dir.path().join("data");
    let note = data.join("format.json");
    let mut later: Value = serde_json::from_slice(&fs::read(&note).expect("a note")).expect("JSON");
    (later["layout"], later["program"]) = (1_000.into(), "9.8.7".into());
    later["what a later version adds"] = true.into();
    fs::write(&note, later.to_string()).expect("written");
    let before = listing(&data);
    let url = format!("file://{}", dir.path().join("backup").display());
    fs::write(dir.path().join("key"), "ab".repeat(32)).expect("written");
    let verbs: [&[&str]; 4] = [
        &["explain", "ann"],
        &["backup", "create", &url, "--key-file", "key"],
        &["replay", "run"],
        &["tail", "events"],
    ];
    let all = |flags: &[&str]| {
        let (code, said) = refused(dir.path(), flags);
        let mut all = vec![("serve".to_owned(), code, said)];
        for verb in verbs {
            let (code, _, said) = askwhen(dir.path(), &[&["--data-dir", "data"], verb].concat());
            all.push((verb.join(" "), code, said));
        }
        all
    };
    for (verb, code, said) in all(&["--new-keys"]) {
        assert_eq!(code, Some(3), "{verb}: {said}");
        assert!(said.contains("9.8.7") && said.contains(env!("CARGO_PKG_VERSION")), "{verb}: {said}");
    }
    assert_eq!(listing(&data), before);

    // The log has a format of its own, of which a later version may have changed all the rest.
    (later["layout"], later["program"]) = (2.into(), env!("CARGO_PKG_VERSION").into());
    fs::write(&note, later.to_string()).expect("written");
    fs::write(data.join("log/log.json"), r#"{"format": 1000, "who": "another"}"#).expect("written");
    let before = listing(&data);
    for (verb, code, said) in all(&[]) {
        assert_eq!(code, Some(3), "{verb}: {said}");
        assert!(said.contains("format 1000") && said.contains(env!("CARGO_PKG_VERSION")), "{verb}: {said}");
    }
    assert_eq!(listing(&data), before);
}

/// What others have rights to, below a folder and itself.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mode = |path: &Path| fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777;
    for path in listing(dir).into_keys().chain([dir.display().to_string()]) {
        let mode = mode(Path::new(&path));
        if mode & 0o077 != 0 {
            open.push(format!("{path} {mode:o}"));
        }
    }
    open
}

#[tokio::test]
async fn everything_is_for_its_owner_alone() {
    let (dir, _) = served(&["--dev"]).await;
    let data = dir.path().join("data");
    // As the shell of an earlier version made them.
    for path in listing(&data).into_keys() {
        let mode = if Path::new(&path).is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("loosened");
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("loosened");
    let server = Server::on(dir.clone(), &["--dev"], &[]).await;
    for n in 0..20 {
        server.trigger(&format!("user{n}"), "Main").await;
    }
    assert_eq!(server.call(&server.admin, reqwest::Method::POST, "/v1/snapshots", None).await.status, 200);
    fs::write(dir.path().join("key"), "ab".repeat(32)).expect("written");
    let backup = dir.path().join("backups-of-it");
    let url = format!("file://{}", backup.display());
    let connection = ["--server", server.base.as_str(), "--key", server.admin.as_str()];
    let create = [&["--data-dir", "data", "backup", "create", &url, "--key-file", "key"][..], &connection].concat();
    let (code, _, said) = askwhen(dir.path(), &create);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(open_to_others(&data), Vec::<String>::new());
    assert_eq!(open_to_others(&backup), Vec::<String>::new());
}
