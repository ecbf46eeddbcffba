//! `docs/cli.md`: what verbs print as JSON has the members that the page names.

use serde_json::Value;
use std::collections::BTreeSet;

use crate::harness::{Receiver, Server, askwhen};

const PAGE: &str = include_str!("../../docs/cli.md");

/// What the page says of a verb.
struct Shape {
    is_list: bool,
    always: BTreeSet<&'static str>,
    sometimes: BTreeSet<&'static str>,
}

/// The words between single backticks.
fn quoted(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// The row of a verb; of several in one row, the later ones may leave out the first word.
fn shape(verb: &str) -> Shape {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let mut cells = rows.map(|line| line.split('|').map(str::trim).collect::<Vec<&str>>());
    let is_of = |cells: &Vec<&'static str>| {
        let first = quoted(cells[1]).next().unwrap_or_default();
        quoted(cells[1]).any(|name| name == verb || format!("{} {name}", first.split(' ').next().unwrap_or("")) == verb)
    };
    let cells = cells.find(is_of).unwrap_or_else(|| panic!("{verb} is not on the page"));
    let (always, sometimes) = cells[3].split_once('(').unwrap_or((cells[3], ""));
    let mut shape = Shape {
        is_list: cells[2] == "a list",
        always: quoted(always).filter(|name| !name.contains(' ')).collect(),
        sometimes: quoted(sometimes).collect(),
    };
    // What it has of another row.
    let of_others = quoted(always).filter(|name| name.contains(' '));
    let same = always.contains("the same").then_some(if verb.starts_with("backup") {
        "backup create"
    } else {
        "snapshot create"
    });
    for other in of_others.chain(same).filter(|other| *other != verb) {
        let other = self::shape(other);
        shape.always.extend(other.always);
        shape.sometimes.extend(other.sometimes);
    }
    shape
}

fn check(verb: &str, printed: &str) {
    let value: Value = serde_json::from_str(printed).unwrap_or_else(|e| panic!("{verb}: {e}: {printed}"));
    let Shape { is_list, always, sometimes } = shape(verb);
    assert_eq!(value.is_array(), is_list, "{verb}: {printed}");
    let objects: Vec<&Value> = if is_list { value.as_array().unwrap().iter().collect() } else { vec![&value] };
    assert!(!objects.is_empty(), "{verb} has something to print");
    for object in objects {
        let members: BTreeSet<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
        let missing: Vec<_> = always.difference(&members).collect();
        let more: Vec<_> =
            members.iter().filter(|name| !always.contains(*name) && !sometimes.contains(*name)).collect();
        assert!(missing.is_empty() && more.is_empty(), "{verb}: {missing:?} are missing, {more:?} are not on the page");
    }
}

const DEFINITIONS: &str = "kind: survey
survey_id: s
name: S
status: active
show_on: [{trigger: Main}]
link: true
questions: [{question_id: q1, type: nps, text: \"?\"}]
---
kind: endpoint
endpoint_id: crm
url: URL
";

#[tokio::test(flavor = "multi_thread")]
async fn what_verbs_print_has_the_members_that_the_page_names() {
    let server = Server::start().await;
    let receiver = Receiver::start(&[]).await;
    let dir = server.dir.path();
    std::fs::write(dir.join("all.yaml"), DEFINITIONS.replace("URL", &receiver.url)).unwrap();
    std::fs::write(dir.join("backup.key"), "ab".repeat(32)).unwrap();
    let line = r#"{"user_id":"u","event_name":"x","occurred_at":"2026-11-01T00:00:00Z"}"#;
    std::fs::write(dir.join("history.ndjson"), line).unwrap();
    let backups = format!("file://{}", dir.join("backups").display());
    let run = |arguments: &[&str]| {
        let asks = !["validate", "tail", "explain", "backtest", "replay", "topics", "config"].contains(&arguments[0])
            && !matches!(arguments[..], ["snapshot", "list" | "verify", ..] | ["backup", "verify" | "restore", ..]);
        let server_args: &[&str] = if asks { &["--server", &server.base] } else { &[] };
        let (code, out, error) =
            askwhen(dir, &[&["--data-dir", "data", "--output", "json"], arguments, server_args].concat());
        assert!(code == Some(0) || arguments[0] == "doctor", "{arguments:?}: {error}");
        out
    };
    let shown = |words: usize, arguments: &[&str]| {
        let out = run(arguments);
        check(&arguments[..words].join(" "), &out);
        serde_json::from_str::<Value>(&out).unwrap()
    };
    shown(1, &["validate", "-f", "all.yaml"]);
    shown(1, &["apply", "-f", "all.yaml", "--dry-run"]);
    shown(1, &["apply", "-f", "all.yaml"]);
    shown(2, &["send", "event", "ann", "woke"]);
    let decision = shown(2, &["send", "trigger", "ann", "Main"]);
    let offer = decision["survey"]["offer_id"].as_str().unwrap();
    shown(2, &["send", "displayed", "ann", offer]);
    shown(2, &["send", "answer", "ann", offer, "q1=9", "--completed"]);
    server.until("both are listed", async || server.all("deliveries").await.len() == 2).await;
    shown(1, &["link", "s", "ann"]);
    for what in ["surveys", "endpoints", "settings", "triggers"] {
        shown(2, &["get", what]);
    }
    let deliveries = shown(2, &["deliveries", "list"]);
    let delivery = deliveries[0]["delivery_id"].as_str().unwrap();
    shown(2, &["deliveries", "show", delivery]);
    shown(2, &["deliveries", "resend", delivery]);
    shown(2, &["deliveries", "recover", "--endpoint", "crm", "--since", "2020-01-01T00:00:00Z"]);
    let backfill = ["deliveries", "backfill", "--endpoint", "crm", "--since", "2020-01-01T00:00:00Z"];
    shown(2, &backfill);
    check("deliveries backfill --dry-run", &run(&[&backfill[..], &["--dry-run"]].concat()));
    for arguments in [
        &["endpoints", "list"][..],
        &["endpoints", "show", "crm"],
        &["endpoints", "test", "crm"],
        &["endpoints", "rotate-secret", "crm"],
        &["endpoints", "disable", "crm"],
        &["endpoints", "enable", "crm"],
        &["endpoints", "delete", "crm"],
        &["triggers", "list"],
        &["triggers", "create", "A name"],
        &["triggers", "delete", "a_name"],
        &["users", "show", "ann"],
        &["users", "attributes", "ann", "plan=pro"],
        &["users", "erase", "joe"],
        &["topics", "print"],
        &["topics", "check"],
        &["replay", "plan"],
        &["replay", "run"],
        &["replay", "diff"],
        &["backup", "create", &backups, "--key-file", "backup.key"],
        &["backup", "verify", &backups, "--key-file", "backup.key"],
    ] {
        shown(2, arguments);
    }
    let restore =
        ["--data-dir", "restored", "--output", "json", "backup", "restore", &backups, "--key-file", "backup.key"];
    let (code, out, error) = askwhen(dir, &restore);
    assert_eq!(code, Some(0), "{error}");
    check("backup restore", &out);
    for arguments in [
        &["responses", "s"][..],
        &["stats", "s"],
        &["results", "s"],
        &["explain", "ann"],
        &["backtest", "-f", "all.yaml", "--from", "1d"],
        &["import", "history.ndjson"],
        &["doctor"],
        &["pause", "s"],
        &["resume", "s"],
        &["archive", "s"],
    ] {
        shown(1, arguments);
    }
    let records = run(&["tail", "decisions"]);
    check("tail", records.lines().next().unwrap());
    assert_eq!(serde_json::from_str::<Value>(&run(&["config", "print"])).unwrap()["log"]["partitions"], 8);
    // Not every store is written down yet: what there is of it is shown.
    shown(2, &["snapshot", "create"]);
    shown(2, &["snapshot", "list"]);
    shown(2, &["snapshot", "verify"]);
}

/// Bash completes the ids that the server knows, as the script that it reads asks for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_shell_completes_ids() {
    let server = Server::start().await;
    for id in ["sleep-quality", "sleepless", "nps"] {
        server.put(&format!("/v1/surveys/{id}"), crate::harness::open_survey()).await;
    }
    server.event("ann", "$(touch broken)", serde_json::json!({})).await;
    server.event("ann", "ended_sleep", serde_json::json!({})).await;
    server.until("names are listed", async || server.all("triggers").await.len() == 2).await;
    let completed = |words: &[&str]| {
        let line: String = words.iter().map(|word| format!("'{word}' ")).collect();
        let script = format!(
            "PATH=\"$(dirname '{binary}'):$PATH\"; source <(askwhen completions bash)\n\
             COMP_WORDS=(askwhen {line}); COMP_CWORD={at}\n\
             _askwhen_and_ids askwhen \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            binary = crate::harness::BINARY,
            at = words.len(),
        );
        let out =
            std::process::Command::new("bash").args(["-c", &script]).current_dir(server.dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let all: Vec<String> =
            text.lines().filter(|line| !line.starts_with('-') && !line.is_empty()).map(str::to_owned).collect();
        all
    };
    let of_server = |verb: &[&str], typed: &[&str]| {
        completed(&[&["--data-dir", "data"], verb, &["--server", &server.base], typed].concat())
    };
    assert_eq!(of_server(&["pause"], &["sl"]), ["sleep-quality", "sleepless"]);
    assert_eq!(of_server(&["deliveries", "list"], &["--survey", "n"]), ["nps"]);
    let triggers = of_server(&["triggers", "delete"], &[""]);
    assert_eq!(triggers, ["ended_sleep"], "a name that a shell would read stays out");
    assert!(!server.dir.path().join("broken").exists());
    assert_eq!(completed(&["pause", "--server", "http://127.0.0.1:1", "--key", "k", "zz"]), Vec::<String>::new());
}
