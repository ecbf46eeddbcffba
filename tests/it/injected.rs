//! Errors of system calls, put in by `strace`: whatever the disk says, nothing
//! acknowledged is lost, nothing refused is kept, and the process ends or heals.

use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crash::{Known, define, load_until, spawn_under, verify};
use crate::harness::{Receiver, Server};

/// What is to become of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It ends; nothing is tried again.
    Ends,
    /// It does not even notice.
    GoesOn,
    /// Either, as long as it serves or is gone.
    Either,
}

struct Injection {
    call: &'static str,
    error: &'static str,
    /// From which call on; `+` means that one and all later ones.
    when: &'static str,
    /// Only on files of the log.
    log_only: bool,
    then: Then,
}

const fn on_log(call: &'static str, error: &'static str, when: &'static str, then: Then) -> Injection {
    Injection { call, error, when, log_only: true, then }
}

const fn anywhere(call: &'static str, error: &'static str, when: &'static str) -> Injection {
    Injection { call, error, when, log_only: false, then: Then::Either }
}

/// Those that always run.
const FEW: [Injection; 4] = [
    on_log("fdatasync", "EIO", "5", Then::Ends),
    on_log("write", "EINTR", "3", Then::GoesOn),
    on_log("write", "ENOSPC", "4", Then::Either),
    anywhere("rename,renameat,renameat2", "EIO", "2"),
];

/// Every call of the write path with every error: `ASKWHEN_TEST_INJECT=all`.
const MANY: [Injection; 26] = [
    on_log("fdatasync", "EIO", "1", Then::Ends),
    on_log("fdatasync", "EIO", "40", Then::Ends),
    on_log("fdatasync", "ENOSPC", "5", Then::Ends),
    on_log("fdatasync", "EDQUOT", "9", Then::Ends),
    on_log("write", "EIO", "2", Then::Ends),
    on_log("write", "EIO", "30", Then::Ends),
    on_log("write", "ENOSPC", "9+", Then::Either),
    on_log("write", "EINTR", "2", Then::GoesOn),
    on_log("write", "EINTR", "50", Then::GoesOn),
    on_log("pread64", "EINTR", "2", Then::GoesOn),
    on_log("pread64", "EIO", "6", Then::Either),
    anywhere("fsync", "EIO", "1"),
    anywhere("fsync", "EIO", "7"),
    anywhere("fdatasync", "EIO", "60"),
    anywhere("pwrite64", "EIO", "3"),
    anywhere("pwrite64", "ENOSPC", "8+"),
    anywhere("ftruncate", "EIO", "1"),
    anywhere("ftruncate", "ENOSPC", "5"),
    anywhere("fallocate", "ENOSPC", "1+"),
    anywhere("openat", "EMFILE", "90+"),
    anywhere("openat", "ENOSPC", "120"),
    anywhere("openat", "EIO", "200"),
    anywhere("unlink,unlinkat", "EIO", "3"),
    anywhere("mkdir,mkdirat", "ENOSPC", "2"),
    anywhere("rename,renameat,renameat2", "ENOSPC", "5+"),
    anywhere("mmap", "ENOMEM", "400+"),
];

fn log_files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            log_files(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}

/// The server beneath strace.
fn server_of(strace: &Child) -> Option<u32> {
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    std::fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()
}

/// Whether a process still has anything; one that is only waited for has not. Its
/// first thread may be gone while others still hold its files.
fn is_alive(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z') && !line.contains('X'))
    })
}

/// Ends the server beneath strace, and strace.
async fn kill(strace: &mut Child) {
    // By its own id, not by that of strace: which would only let go of it.
    if let Some(pid) = server_of(strace) {
        Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
        // It keeps its data directory until it is gone.
        while is_alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    strace.kill().ok();
    strace.wait().expect("it is gone");
}

async fn inject(injection: &Injection) {
    let Injection { call, error, when, then, .. } = injection;
    println!("{call} fails with {error}, call {when}");
    let receiver = Receiver::start(&[]).await;
    let dir = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(dir, &["--dev"], &[]).await;
    define(&server, &receiver).await;
    let (server_key, admin_key) = (server.server.clone(), server.admin.clone());
    let dir = server.kill();
    let rule = format!("inject={call}:error={error}:when={when}");
    let trace = format!("trace={call}");
    let mut files = Vec::new();
    if injection.log_only {
        log_files(&dir.path().join("data/log"), &mut files);
    }
    let mut under = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &rule];
    under.extend(files.iter().flat_map(|file| ["-P", file]));
    under.push("--");
    let mut strace = spawn_under(&under, &dir, &[]);
    let mut line = String::new();
    std::io::BufReader::new(strace.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let mut known = Known { ends: 1, ..Known::default() };
    if let Some(base) = line.trim().strip_prefix("askwhen listens on ") {
        let keys = (&*server_key, &*admin_key);
        let watch = async {
            let deadline = Instant::now() + Duration::from_secs(3);
            while Instant::now() < deadline && strace.try_wait().expect("asked").is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        known = load_until(base, keys, ("first", 4), watch).await;
        known.ends = 1;
        let alive = settle(base, &mut strace).await;
        match then {
            Then::Ends => assert!(!alive, "after {error} of {call} the process has to end"),
            Then::GoesOn => {
                assert!(alive, "{error} of {call} is nothing to end for");
                assert!(known.completed.len() > 5, "and nothing to stop for: {}", known.completed.len());
            }
            Then::Either => {}
        }
    } else {
        assert!(*then != Then::GoesOn, "it did not start");
    }
    kill(&mut strace).await;
    verify(dir, &known, &receiver).await;
}

/// Whether the process is there at last: then it has to answer.
async fn settle(base: &str, strace: &mut Child) -> bool {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().expect("a client");
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut said = BTreeSet::new();
    loop {
        if strace.try_wait().expect("asked").is_some() {
            return false;
        }
        match http.get(format!("{base}/readyz")).send().await {
            Ok(answer) if answer.status() == 200 => return true,
            Ok(answer) => drop(said.insert(answer.text().await.unwrap_or_default())),
            Err(error) => drop(said.insert(error.to_string())),
        }
        // Stopped partitions that say why are an answer, too; a hang is none.
        if Instant::now() > deadline {
            assert!(said.iter().any(|said| said.starts_with('{')), "neither gone nor answering: {said:?}");
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_system_calls_lose_nothing_acknowledged() {
    for injection in &FEW {
        inject(injection).await;
    }
    if std::env::var("ASKWHEN_TEST_INJECT").is_ok_and(|which| which == "all") {
        for injection in &MANY {
            inject(injection).await;
        }
    }
}

/// A disk that hangs for longer than a client waits: the request is answered, and the
/// same one again has one effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_leaves_no_request_without_an_answer() {
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    let (server_key, dir) = (server.server.clone(), server.kill());
    let mut files = Vec::new();
    log_files(&dir.path().join("data/log"), &mut files);
    let rule = "inject=fdatasync:delay_enter=9000000:when=4";
    let mut under = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", rule];
    under.extend(files.iter().flat_map(|file| ["-P", file]));
    under.push("--");
    let mut strace = spawn_under(&under, &dir, &[]);
    let mut line = String::new();
    std::io::BufReader::new(strace.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let base = line.trim().strip_prefix("askwhen listens on ").expect("it serves");
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
    let send = async |n: usize| {
        let event = serde_json::json!({"event_id": format!("e{n}"), "user_id": format!("u{n}"), "event_name": "came"});
        let request =
            http.post(format!("{base}/v1/events")).bearer_auth(&server_key).header("content-type", "application/json");
        let request = request.body(event.to_string());
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.text().await.expect("a body");
        (status, serde_json::from_str::<serde_json::Value>(&body).expect("JSON"))
    };
    let hung = async {
        for n in 0..200 {
            let started = Instant::now();
            let (status, body) = send(n).await;
            if status != 202 {
                return (n, status, body, started.elapsed());
            }
        }
        panic!("nothing has hung");
    };
    let (n, status, body, took) = hung.await;
    assert_eq!((status, &body["code"], &body["event_id"]), (503, &"outcome_unknown".into(), &format!("e{n}").into()));
    assert!(took < Duration::from_secs(8), "{took:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while send(n).await.0 != 202 {
        assert!(Instant::now() < deadline, "it does not go on");
    }
    assert!(server_of(&strace).is_some(), "it serves");
    kill(&mut strace).await;
}

/// Too many open files, no rights, a disk that fails once: nothing is known of what a
/// file holds that could not be opened.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_for_now_is_no_damage() {
    let server = Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev"], &[]).await;
    server.put("/v1/surveys/open", crate::harness::open_survey()).await;
    assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");
    let (mut dir, code) = server.terminate();
    assert_eq!(code, Some(0));
    for (error, name) in [("EMFILE", "CURRENT"), ("EACCES", "MANIFEST-"), ("EIO", "CONTENTS.json")] {
        let mut files = Vec::new();
        log_files(&dir.path().join("data/state"), &mut files);
        files.retain(|file| Path::new(file).file_name().is_some_and(|found| found.to_string_lossy().contains(name)));
        assert!(files.len() >= 17, "{name}: {files:?}");
        let rule = format!("inject=openat:error={error}:when=1");
        let mut under = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=openat", "-e", &rule];
        under.extend(files.iter().flat_map(|file| ["-P", file]));
        under.push("--");
        let mut strace = spawn_under(&under, &dir, &[]);
        let mut line = String::new();
        std::io::BufReader::new(strace.stdout.take().expect("piped")).read_line(&mut line).expect("read");
        // The first call of each thread fails: partitions may be stopped, and say why.
        assert!(line.starts_with("askwhen listens on "), "{error} of {name}: {line}");
        assert!(server_of(&strace).is_some(), "it serves");
        kill(&mut strace).await;
        let mut all = Vec::new();
        log_files(&dir.path().join("data/state"), &mut all);
        assert!(all.iter().all(|file| !file.contains("damaged")), "{error} of {name}: {all:?}");
        let server = Server::on(dir, &["--dev"], &[]).await;
        assert_eq!(server.get("/v1/users/ann").await.body["known"], true);
        dir = server.terminate().0;
    }
}

/// Fewer open files than the stores need are refused at once, and nothing is touched.
#[test]
fn too_few_open_files_are_told_at_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let serve = ["--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0"];
    let mut command = Command::new("prlimit");
    command.args(["--nofile=256:256", "timeout", "60", env!("CARGO_BIN_EXE_askwhen")]).args(serve);
    let said = command.current_dir(dir.path()).output().expect("it runs");
    let error = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{error}");
    assert!(error.contains("256 files may be open") && error.contains("8 partitions need 448"), "{error}");
    assert!(!dir.path().join("data").exists());
}

/// `ulimit -f`: the signal would end the process without a word.
#[tokio::test]
async fn a_limit_on_the_size_of_files_does_not_end_the_process_by_a_signal() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let server = Server::start().await;
    let pid = Pid::from_raw(server.pid().cast_signed()).expect("a process");
    let limit = Rlimit { current: Some(256 << 10), maximum: None };
    prlimit(Some(pid), Resource::Fsize, limit).expect("the limit is set");
    let mut taken = 0;
    for n in 0..60 {
        let body = serde_json::json!({"user_id": "ann", "event_name": "woke", "event_id": format!("e{n}"),
            "properties": {"text": "x".repeat(20_000)}});
        let request = server.request(reqwest::Method::POST, "/v1/events").bearer_auth(&server.server);
        let request = request.header("content-type", "application/json").body(body.to_string());
        match request.send().await {
            Ok(answer) if answer.status() == 202 => taken += 1,
            Ok(answer) => assert_eq!(answer.status(), 503, "event {n}"),
            // It has ended by itself, as after any write error of the log.
            Err(_) => break,
        }
    }
    assert!((1..60).contains(&taken), "{taken} events of 20 KB in files of 256 KiB");
    let (dir, code) = server.terminate();
    assert!(code.is_some(), "no signal has ended it");
    let server = Server::on(dir, &["--dev"], &[]).await;
    assert_eq!(
        crate::harness::tail(server.dir.path(), "events")
            .iter()
            .filter(|event| event["value"]["type"] == "event")
            .count(),
        taken
    );
}
