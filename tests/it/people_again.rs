//! What people try a third time: other spellings of times, ids and types, mistakes in survey
//! files as they are made, and flags that every verb takes alike.

use reqwest::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

use crate::harness::{BINARY, Server, askwhen, open_survey, tail};

#[tokio::test]
async fn ids_that_show_nothing_or_name_nobody() {
    let server = Server::start().await;
    let unseen = ["\u{200b}", "\u{feff}", "\u{2060} \u{200b}"];
    let nothing = ["\"\"", "{}", "[]", "N/A", "undefined-undefined", "None None", "anon-", "anon-undefined"];
    let places = ["<user_id>", ":userId", "%7Buser_id%7D", "[USER_ID]"];
    for id in [&unseen[..], &nothing, &places].concat() {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!((said.status, &said.body["code"]), (422, &json!("bad_id")), "{id:?}: {said:?}");
    }
    for id in ["anon-7", "<ann>", "user_id", "un defined", "--", "ann\u{200b}"] {
        let said = server.post("/v1/events", json!({"user_id": id, "event_name": "x"})).await;
        assert_eq!(said.status, 202, "{id:?}: {said:?}");
    }
}

/// The reason of the first survey that shows on `Main`, for a new user with these attributes
/// and this context.
async fn reason(server: &Server, user: &str, attributes: Value, context: Value) -> Value {
    let path = format!("/v1/users/{user}");
    assert_eq!(server.put(&path, json!({"attributes": attributes})).await.status, 202);
    server.post(&format!("{path}/triggers/Main"), json!({"context": context})).await.body["reason"].clone()
}

#[tokio::test]
async fn times_as_rails_go_databases_and_forms_write_them() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["targeting"] = json!({"attribute": "seen", "op": "between", "value": [1, 2]});
    survey["targeting"] = json!({"all": [{"attribute": "seen", "op": "after", "value": "2026-01-05T06:29:59Z"},
        {"attribute": "seen", "op": "before", "value": "2026-01-05T06:30:01Z"}]});
    server.put("/v1/surveys/s", survey).await;
    let right = [
        "2026-01-05 06:30:00 UTC",
        "2026-01-05 06:30:00 GMT",
        "2026-01-05 01:30:00 -0500",
        "2026-01-05 06:30:00 +0000 UTC",
        "2026-01-05 06:30:00.000000 UTC",
        "2026-01-05T06:30",
        "2026-01-05T06:30Z",
        "2026-01-05T08:30+02:00",
        "2026/01/05 06:30:00",
    ];
    for (n, text) in right.into_iter().enumerate() {
        assert_eq!(reason(&server, &format!("r{n}"), json!({"seen": text}), json!({})).await, "offered", "{text}");
    }
    // The day and the month of these are anybody's guess, or there are none.
    for (n, text) in ["05/01/2026", "1/5/26 06:30", "2026-01-05 06:30 PST", "06:30", "2026-1-5"].into_iter().enumerate()
    {
        let told = reason(&server, &format!("w{n}"), json!({"seen": text}), json!({})).await;
        assert_eq!(told, "targeting_failed", "{text}");
    }
    let rows: Vec<String> = right.iter().map(|text| format!("u1,bought,{text}\n")).collect();
    let table = format!("user_id,event_name,occurred_at\n{},,\n , ,\n", rows.concat());
    std::fs::write(server.dir.path().join("times.csv"), table).unwrap();
    let arguments = ["--data-dir", "data", "import", "times.csv", "--output", "json", "--server", &server.base];
    let (code, out, error) = askwhen(server.dir.path(), &arguments);
    let said: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    let counted = ["accepted", "rejected", "other", "lines"].map(|name| said[name].clone());
    assert_eq!((code, counted), (Some(0), [9, 0, 3, 12].map(Value::from)), "rows of delimiters are empty: {error}");
    let events = tail(server.dir.path(), "events");
    let at = |record: &&Value| record["value"]["occurred_at"] == "2026-01-05T06:30:00.000Z";
    assert_eq!(events.iter().filter(at).count(), 9);
}

#[tokio::test]
async fn contexts_that_servers_fill_in_from_their_own_requests() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["locales"] = json!(["pt-BR"]);
    survey["schedule"] = json!({"timezone": "user", "hours": ["00:00", "24:00"]});
    server.put("/v1/surveys/s", survey).await;
    for (n, (locale, zone, expected)) in [
        ("pt-BR,pt;q=0.9,en;q=0.8", "UTC", "offered"),
        ("pt_BR", "Z", "offered"),
        ("en,pt-BR;q=0.9", "UTC", "locale_mismatch"),
        ("pt-BR", "Zulu time", "out_of_schedule"),
    ]
    .into_iter()
    .enumerate()
    {
        let context = json!({"locale": locale, "timezone": zone});
        assert_eq!(reason(&server, &format!("u{n}"), json!({}), context).await, expected, "{locale} {zone}");
    }
    let mut plus = open_survey();
    plus["app_version"] = "2.1+".into();
    let said = server.call(&server.admin, Method::PUT, "/v1/surveys/plus", Some(&plus)).await;
    assert_eq!(said.status, 422, "it would mean below 3: {said:?}");
    assert!(said.body["errors"][0]["detail"].as_str().unwrap().contains(">=2.1.0"), "{said:?}");
}

#[tokio::test]
async fn types_that_are_said_twice_or_not_at_all() {
    let server = Server::start().await;
    let event = json!({"user_id": "u", "event_name": "x"}).to_string();
    for (kind, encoding, status) in [
        ("application/json, application/json", "identity", 202),
        ("application/json; charset=utf-8,application/json; charset=utf-8", "", 202),
        ("application/json", "", 202),
        ("application/json, text/html", "identity", 415),
    ] {
        let request = server.request(Method::POST, "/v1/events").bearer_auth(&server.server);
        let request = request.header("content-type", kind).header("content-encoding", encoding).body(event.clone());
        assert_eq!(Server::said(request).await.status, status, "{kind} {encoding}");
    }
    // `navigator.sendBeacon` with an untyped blob.
    let key = json!({"key": server.client}).to_string();
    let beacon = server.request(Method::POST, "/v1/users/u/triggers/Main").body(key);
    assert_eq!(Server::said(beacon).await.status, 200);
    let untyped = server.request(Method::POST, "/v1/events").bearer_auth(&server.server).body(event);
    assert_eq!(Server::said(untyped).await.status, 415, "a backend says what it sends");
}

const SURVEY: &str = "kind: survey\nsurvey_id: s\nname: S\nstatus: active\nshow_on: [{trigger: Home}]\n\
                      questions:\n  - {question_id: q1, type: nps, text: T}\n";

/// The output of `validate` for a file with this text, and its exit code.
fn validated(dir: &Path, text: &str) -> (Option<i32>, String) {
    std::fs::write(dir.join("f.yaml"), text).unwrap();
    let (code, out, error) = askwhen(dir, &["validate", "f.yaml"]);
    (code, out + &error)
}

#[test]
fn mistakes_in_survey_files_are_told_what_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    for (added, line, told) in [
        ("events: [ended]", 8, "did you mean activate?"),
        ("languages: [de]", 8, "did you mean locales?"),
        ("frequency: {every: 30d}", 8, "did you mean cooldown?"),
        ("frequency: {limit: 3}", 8, "did you mean max_displays?"),
        ("frequency: {cooldown: 1w}", 8, "a week is 7d"),
        ("frequency: {cooldown: 3mo}", 8, "a month 30d"),
        ("endings: [{id: a, text: X}]", 8, "did you mean ending_id?"),
        ("targeting: {and: []}", 8, "did you mean all?"),
        ("targeting: {or: []}", 8, "did you mean any?"),
        ("targeting: {property: plan, op: eq, value: pro}", 8, "did you mean attribute?"),
        ("activate: {event: e}\nexpires_after: 7d", 9, "at most 100h"),
        ("priority:\u{a0}5", 9, "no-break space"),
        ("app_version: 2.1+", 8, ">=2.1.0"),
    ] {
        let (code, said) = validated(dir.path(), &format!("{SURVEY}{added}\n"));
        assert_eq!(code, Some(2), "{added}: {said}");
        assert!(said.contains(told) && said.contains(&format!("f.yaml:{line}: ")), "{added}: {said}");
    }
    for (from, to, told) in [
        ("kind: survey", "kind: Surveys", "did you mean survey?"),
        ("kind: survey\n", "surveys:\n- kind: survey\n", "divided by a line ---"),
        ("name: S", "name: S: two", "stands in quotes"),
        ("name: S", "name: @team", "stands in quotes"),
        ("text: T", "text: “Well, well” said", "typographic"),
        ("type: nps", "type: boolean", "did you mean single_choice?"),
    ] {
        let text = SURVEY.replace(from, to);
        let text = if to.starts_with("surveys") { text.replace("\ns", "\n  s").replace("\nn", "\n  n") } else { text };
        let (code, said) = validated(dir.path(), &text);
        assert_eq!(code, Some(2), "{to}: {said}");
        assert!(said.contains(told), "{to}: {said}");
    }
    let two = format!("{SURVEY}activate: {{event: e}}\nexpires_after: 7d\n");
    let (_, said) = validated(dir.path(), &format!("{two}---\n{}", two.replace("survey_id: s", "survey_id: t")));
    assert!(said.contains("f.yaml:9: ") && said.contains("f.yaml:19: "), "all faults at once: {said}");
    let (code, said) = validated(dir.path(), &format!("{SURVEY}sampling: {{percent: 0.5}}\n"));
    assert!(code == Some(0) && said.contains("one user in 200"), "{said}");
}

#[tokio::test]
async fn a_table_is_told_of_all_columns_that_it_lacks() {
    let server = Server::start().await;
    let dir = server.dir.path();
    std::fs::write(dir.join("e.csv"), "User ID,Event Name,Timestamp\nu1,e,2026-01-05\n").unwrap();
    let (code, _, error) = askwhen(dir, &["--data-dir", "data", "import", "e.csv", "--server", &server.base]);
    assert_eq!(code, Some(2), "{error}");
    for call in ["User ID is there: call it user_id", "call it event_name", "Timestamp is there: call it occurred_at"] {
        assert!(error.contains(call), "{call}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_other_partitions_changes_nothing() {
    let server = Server::start().await;
    server.event("u", "x", json!({})).await;
    let (dir, _) = server.terminate();
    let data = dir.path().join("data");
    std::fs::remove_file(data.join("format.json")).unwrap();
    let (code, _, error) = {
        let mut command = Command::new(BINARY);
        command.args(["--data-dir", "data", "serve", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
        let out = command.env("ASKWHEN__LOG__PARTITIONS", "3").output().unwrap();
        (out.status.code(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("set [log] partitions = 8"), "{error}");
    assert!(!data.join("format.json").exists(), "a refused start notes nothing");
}

#[test]
fn two_listeners_on_one_address_are_a_fault_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let both = "[http]\nlisten = \"127.0.0.1:18080\"\nadmin_listen = \"127.0.0.1:18080\"\n";
    std::fs::write(dir.path().join("askwhen.toml"), both).unwrap();
    let (code, _, error) = askwhen(dir.path(), &["serve"]);
    assert!(code == Some(2) && error.contains("askwhen.toml:3: http.admin_listen"), "{code:?} {error}");
    assert!(!dir.path().join("data").exists());
}

#[tokio::test]
async fn a_link_that_others_cannot_open_is_told_of() {
    let server = Server::start().await;
    let mut survey = open_survey();
    survey["link"] = true.into();
    server.put("/v1/surveys/s", survey).await;
    let arguments = ["--data-dir", "data", "link", "s", "ann", "--server", &server.base];
    let (code, url, error) = askwhen(server.dir.path(), &arguments);
    assert!(code == Some(0) && url.starts_with(&format!("{}/s/s?u=ann&t=", server.base)), "{url}{error}");
    assert!(error.contains("opens on this machine alone") && error.contains("--server"), "{error}");
}

/// The verbs that the command line lists, each with its help.
fn verbs(above: &[&str], all: &mut Vec<(String, String)>) {
    let (code, help, error) = askwhen(Path::new("."), &[above, &["--help"]].concat());
    assert_eq!(code, Some(0), "{error}");
    let Some(list) = help.split("\nCommands:\n").nth(1) else {
        all.push((above.join(" "), help));
        return;
    };
    let names = list.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        verbs(&[above, &[name]].concat(), all);
    }
}

/// The first example of a verb's help.
fn example(help: &str) -> String {
    let (_, examples) = help.split_once("\nExample").expect("each verb has an example");
    let mut lines = examples.lines().skip(1).map(str::trim_end);
    let first = lines.next().expect("a line").trim().to_owned();
    lines.take_while(|line| line.starts_with("    ")).fold(first, |so_far, line| format!("{so_far} {}", line.trim()))
}

#[test]
fn every_verb_that_asks_a_server_takes_the_project() {
    let dir = tempfile::tempdir().unwrap();
    let key = "[[keys]]\nproject = \"a\"\nkind = \"admin\"\nkey = \"9f3c2a7be1d04c55a8e6\"\n";
    std::fs::write(dir.path().join("askwhen.toml"), key).unwrap();
    std::fs::write(dir.path().join("survey.yaml"), SURVEY).unwrap();
    std::fs::write(dir.path().join("endpoint.yaml"), "kind: endpoint\nendpoint_id: e\nurl: https://e.example/\n")
        .unwrap();
    std::fs::write(dir.path().join("history.ndjson"), "{}\n").unwrap();
    let mut all = Vec::new();
    verbs(&[], &mut all);
    let asking: Vec<&(String, String)> = all.iter().filter(|(_, help)| help.contains("--server <")).collect();
    assert!(asking.len() > 30, "{}", asking.len());
    for (verb, help) in asking {
        assert!(help.contains("--project <"), "{verb} takes no --project");
        // These look at the data directory first, and ask a server for its part.
        if ["backup create", "doctor", "skip"].contains(&&**verb) {
            continue;
        }
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{} --project nowhere", example(help))).current_dir(dir.path());
        let binaries = Path::new(BINARY).parent().expect("a folder");
        let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
        let out = command.env("PATH", path).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{verb}: {error}");
        assert!(error.contains("no key of project nowhere"), "{verb}: {error}");
    }
}

#[test]
fn every_verb_reads_times_alike() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("survey.yaml"), SURVEY).unwrap();
    let mut all = Vec::new();
    verbs(&[], &mut all);
    let mut tried = 0;
    for (verb, help) in &all {
        for flag in ["--since", "--until", "--from", "--to", "--at"] {
            let is_offset = verb == "tail" && flag == "--from";
            if !is_offset && !help.contains(&format!("{flag} <TIME>")) {
                continue;
            }
            tried += 1;
            let given: Vec<String> = example(help).split_whitespace().map(str::to_owned).collect();
            let at = given.iter().position(|word| word == flag).map(|at| at + 1);
            for (time, is_one) in [("7d", true), ("2026-01-05", true), ("2026-01-05T06:30:00Z", true), ("soon", false)]
            {
                let mut words = given.clone();
                match at {
                    Some(at) => words[at] = time.to_owned(),
                    None => words.extend([flag.to_owned(), time.to_owned()]),
                }
                let words: Vec<&str> = words[1..].iter().map(String::as_str).collect();
                let (code, _, error) = askwhen(dir.path(), &words);
                let refused = error.contains("or so long ago, such as 30m or 7d");
                assert_eq!(refused, !is_one, "{verb} {flag} {time}: {error}");
                assert!(is_one || code == Some(2), "{verb} {flag} {time}: {code:?}");
            }
        }
    }
    assert!(tried >= 14, "{tried}");
}

/// RocksDB is one step to cargo, and takes a quarter of an hour.
#[test]
fn a_first_build_says_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let setup = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("script/setup")).unwrap();
    let from = setup.find("\nbuild() {").expect("the function that builds");
    let until = from + setup[from..].find("\n}\n").expect("its end") + 3;
    let sources = dir.path().join("home/registry/src/index/librocksdb-sys-1");
    std::fs::create_dir_all(&sources).unwrap();
    std::fs::write(sources.join("rocksdb_lib_sources.txt"), "db/a.cc\ndb/b.cc\ndb/c.cc\n").unwrap();
    std::fs::create_dir_all(dir.path().join("target/debug/build/librocksdb-sys-1/out")).unwrap();
    // Cargo goes on until it was told how far the build is, and then fails.
    let script = format!(
        "set -euo pipefail\naskwhen_target=target\nexport CARGO_HOME=home ASKWHEN_BUILD_TOLD_EVERY=0.1\n{}\n\
         cargo() {{ for n in $(seq 600); do touch target/debug/build/librocksdb-sys-1/out/$n.o\n\
         grep -q RocksDB told && break; sleep 0.1; done; return 7; }}\n\
         build build --locked 2> told || echo \"ended with $?\"\ncat told\n",
        &setup[from..until]
    );
    let out = Command::new("bash").arg("-c").arg(script).current_dir(dir.path()).output().expect("bash runs");
    let said = String::from_utf8_lossy(&out.stdout);
    let told = said.strip_prefix("ended with 7\n   RocksDB: ").unwrap_or_else(|| panic!("{out:?}"));
    assert!(told.contains(" of about 3 files are compiled\n"), "{told}");
}
