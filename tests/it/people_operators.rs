//! What operators meet from day to day: log lines that say what to look at, verbs that know
//! where things are, and figures that monitoring of every kind reads.

use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Server, askwhen, open_survey, tail};

/// Answers a survey whole as several users.
async fn answer(server: &Server, users: std::ops::Range<usize>, value: Value) {
    for n in users {
        let user = format!("u{n}");
        let offer = server.trigger(&user, "Main").await["survey"]["offer_id"].as_str().expect("an offer").to_owned();
        let body = json!({"answers": [{"question_id": "q1", "value": value}], "completed": true});
        let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_known_longer_than_what_led_to_them() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    answer(&server, 0..3, json!(4)).await;
    server.until("they are listed", async || server.all("responses").await.len() == 3).await;
    let stats = server.get("/v1/surveys/s/stats").await.body;
    let results = server.get("/v1/surveys/s/results").await.body;
    for _ in 0..4 {
        server.advance("15d").await;
        server.event("somebody", "woke", json!({})).await;
    }
    assert_eq!(server.all("responses").await.len(), 3, "after two months");
    let counted = |stats: &Value| ["displayed", "answered", "completed"].map(|name| stats[name].clone());
    assert_eq!(counted(&server.get("/v1/surveys/s/stats").await.body), counted(&stats));
    assert_eq!(server.get("/v1/surveys/s/results").await.body["questions"], results["questions"]);
}

#[tokio::test]
async fn verbs_that_read_the_log_count_its_partitions_themselves() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    answer(&server, 0..12, json!(4)).await;
    let dir = server.dir.path();
    let all = tail(dir, "responses").len();
    assert!(all >= 12, "{all}");
    for partitions in ["1", "4", "64"] {
        let mut command = Command::new(BINARY);
        command.args(["--data-dir", "data", "tail", "responses"]).current_dir(dir);
        let out = command.env("ASKWHEN__LOG__PARTITIONS", partitions).output().expect("it runs");
        let records = String::from_utf8_lossy(&out.stdout).lines().count();
        let is_told = out.status.code() != Some(0) && String::from_utf8_lossy(&out.stderr).contains("8 partitions");
        assert!(records == all || is_told, "{partitions}: {records} of {all}, {out:?}");
    }
}

/// A server whose log lines are kept in a file.
struct Logged {
    child: std::process::Child,
    dir: tempfile::TempDir,
    base: String,
    http: reqwest::Client,
}

impl Logged {
    fn start(config: &str) -> Logged {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("a folder");
        Logged::on(dir, config)
    }

    fn on(dir: tempfile::TempDir, config: &str) -> Logged {
        std::fs::write(dir.path().join("askwhen.toml"), config).expect("written");
        let log = std::fs::File::create(dir.path().join("log.ndjson")).expect("made");
        let mut command = Command::new(BINARY);
        command.args(["--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        let child = command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = child.expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        let base = line.trim().strip_prefix("askwhen listens on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("a client");
        Logged { child, dir, base, http }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("log.ndjson")).expect("it is there");
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first line of a level whose message holds these words, when it has come.
    async fn told(&self, level: &str, words: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let found = self.lines().into_iter().find(|line| {
                line["level"] == level && line["fields"]["message"].as_str().is_some_and(|text| text.contains(words))
            });
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < deadline, "no {level} says {words:?}: {:#?}", self.lines());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn call(&self, key: &str, method: Method, path: &str, body: Value) -> Value {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let said = request.send().await.expect("an answer");
        let status = said.status().as_u16();
        let body: Value = serde_json::from_slice(&said.bytes().await.expect("a body")).unwrap_or_default();
        assert!(status < 300, "{path}: {status} {body}");
        body
    }

    fn end(mut self) -> tempfile::TempDir {
        drop(self.child.kill());
        drop(self.child.wait());
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a folder"))
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ADMIN: &str = "the admin's key of these tests";

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_to_look_at_is_a_warning_with_what_to_do() {
    let keys = format!("[[keys]]\nkind = \"admin\"\nkey = \"{ADMIN}\"\n");
    let server = Logged::start(&keys);
    let put = async |path: &str, body: Value| server.call(ADMIN, Method::PUT, path, body).await;
    // Nobody listens there.
    let refused = crate::logs::unused_address();
    for (id, breaker) in [("away", true), ("gone", false)] {
        let retry = json!({"kind": "schedule", "delays": ["1s"], "breaker": breaker});
        put(&format!("/v1/endpoints/{id}"), json!({"url": format!("http://{refused}/hook"), "retry": retry})).await;
    }
    put("/v1/surveys/s", open_survey()).await;
    for n in 0..14 {
        let user = format!("u{n}");
        let post = async |path: String, body: Value| server.call(ADMIN, Method::POST, &path, body).await;
        let offer = post(format!("/v1/users/{user}/triggers/Main"), json!({})).await;
        let offer = offer["survey"]["offer_id"].as_str().expect("an offer").to_owned();
        let body = json!({"answers": [{"question_id": "q1", "value": 4}], "completed": true});
        post(format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
    }
    let open = server.told("WARN", "nothing is sent to an endpoint for now").await["fields"].clone();
    assert_eq!((&open["endpoint_id"], &open["outcome"]), (&json!("away"), &json!("connect_failed")), "{open}");
    assert!(open["failures"].as_u64().is_some_and(|count| count >= 10), "{open}");
    let dead = server.told("WARN", "deliveries are given up").await["fields"].clone();
    let is_known = ["away", "gone"].iter().any(|id| dead["endpoint_id"] == *id);
    assert!(is_known && dead["count"].as_u64().is_some_and(|count| count >= 1), "{dead}");
    assert!(dead["message"].as_str().is_some_and(|text| text.contains("deliveries recover")), "{dead}");
    assert!(!server.lines().iter().any(|line| line.to_string().contains("\"u3\"")), "nobody is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_which_keys_are_void_and_what_others_may_do() {
    let first = Logged::start("");
    let own = std::fs::read_to_string(first.dir.path().join("data/keys.toml")).expect("made");
    let dir = first.end();
    let keys = format!("[http]\nlisten = \"0.0.0.0:9\"\n[[keys]]\nkind = \"admin\"\nkey = \"{ADMIN}\"\n");
    let second = Logged::on(dir, &keys);
    let void = second.told("WARN", "count no more").await["fields"].clone();
    assert_eq!(void["count"], 3, "{void}");
    assert!(void["file"].as_str().is_some_and(|file| file.ends_with("keys.toml")), "{void}");
    let dir = second.end();
    // Those that were brought along are not void, and a port of every network is told of.
    let both = format!("{own}\n[http]\nadmin_listen = \"\"\n");
    std::fs::write(dir.path().join("askwhen.toml"), &both).expect("written");
    let log = std::fs::File::create(dir.path().join("public.ndjson")).expect("made");
    let mut command = Command::new(BINARY);
    command.args(["--data-dir", "data", "serve", "--listen", "0.0.0.0:0", "--log-format", "json"]);
    let mut child = command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    drop(child.kill());
    drop(child.wait());
    let text = std::fs::read_to_string(dir.path().join("public.ndjson")).expect("it is there");
    assert!(!text.contains("count no more"), "{text}");
    for told in ["/metrics and the routes of operators are on a public address", "a client key and no identity_secret"]
    {
        assert!(text.lines().any(|line| line.contains(told) && line.contains("WARN")), "{told} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_by_cron_finds_the_operators_listener_and_is_not_led_astray_by_empty_variables() {
    let (dir, _) = Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], &[]).await.terminate();
    let operators = crate::logs::unused_address();
    let text = format!(
        "data_dir = \"{}\"\n[http]\nlisten = \"127.0.0.1:9\"\nadmin_listen = \"{operators}\"\n\
         [[keys]]\nkind = \"admin\"\nkey = \"{ADMIN}\"\n",
        dir.path().join("data").display()
    );
    std::fs::write(dir.path().join("askwhen.toml"), text).unwrap();
    std::fs::write(dir.path().join("backup.key"), "ab".repeat(32)).unwrap();
    let server = Server::on(dir.clone(), &[], &[]).await;
    let elsewhere = tempfile::tempdir().unwrap();
    // As cron runs it: from another folder, with few variables, and empty ones of a container's.
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(BINARY);
        command.env_clear().envs(variables.iter().copied()).args(arguments).current_dir(elsewhere.path());
        command.output().expect("it runs")
    };
    let config = dir.path().join("askwhen.toml").display().to_string();
    let (place, key) = (format!("file://{}/copies", dir.path().display()), dir.path().join("backup.key"));
    let create = ["--config", &config, "backup", "create", &place, "--key-file", key.to_str().unwrap()];
    let spaced = format!(" {ADMIN}\n");
    for variables in [
        &[][..],
        &[("ASKWHEN_SERVER", ""), ("ASKWHEN_KEY", ""), ("PATH", "/usr/bin:/bin"), ("HOME", "/")],
        &[("ASKWHEN_KEY", spaced.as_str())],
    ] {
        let out = run(&create, variables);
        assert!(out.status.success(), "{variables:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stderr.is_empty(), "cron mails whatever stands there: {out:?}");
    }
    let out = run(&["--config", &config, "backup", "verify", &place, "--key-file", key.to_str().unwrap()], &[]);
    assert!(out.status.success(), "{out:?}");
    drop(server);
    let out = run(&create, &[("ASKWHEN_KEY", "")]);
    assert!(out.status.success(), "at rest: {out:?}");
}

#[tokio::test]
async fn a_table_that_is_packed_goes_in_like_one_that_is_not() {
    let server = Server::start().await;
    let text = "user_id;event_name;occurred_at;sent_at;paid;context.platform\n\
                u1;bought;2026-01-05T06:30:00Z;2026-01-05T06:31:00Z;TRUE;ios\n\
                u2;bought;2026-01-05 07:10:00;;FALSE;\n\
                1.23457E+11;bought;2026-01-05;;FALSE;\n\
                #N/A;bought;2026-01-05;;FALSE;\n\
                u5;bought;46027.5;;FALSE;\n";
    let file = std::fs::File::create(server.dir.path().join("shop.csv.gz")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap();
    let arguments = ["--data-dir", "data", "import", "shop.csv.gz", "--output", "json", "--server", &server.base];
    let (code, out, error) = askwhen(server.dir.path(), &arguments);
    let said: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert_eq!(
        (code, &said["accepted"], &said["rejected"], &said["lines"]),
        (Some(1), &json!(2), &json!(3), &json!(6))
    );
    let rejects = std::fs::read_to_string(server.dir.path().join("shop.csv.gz.rejects.ndjson")).unwrap();
    let told: Vec<Value> = rejects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (at, (line, words)) in [(4, "rounded"), (5, "bad_id"), (6, "occurred_at")].into_iter().enumerate() {
        assert_eq!(told[at]["line"], line, "{rejects}");
        assert!(told[at]["error"].as_str().unwrap().contains(words), "{words}: {rejects}");
    }
    let events: Vec<Value> =
        tail(server.dir.path(), "events").into_iter().map(|record| record["value"].clone()).collect();
    let of = |user: &str| events.iter().find(|event| event["user_id"] == user).unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(of("u1")["properties"], json!({"paid": true}), "what describes the app is no property");
    assert_eq!(of("u2")["occurred_at"], "2026-01-05T07:10:00.000Z");
}

#[tokio::test]
async fn an_explanation_says_that_a_session_is_missing() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    assert_eq!(server.trigger("ann", "Main").await["reason"], "offered");
    let arguments = ["--data-dir", "data", "explain", "ann", "--trigger", "Main"];
    let (code, out, error) = askwhen(server.dir.path(), &arguments);
    assert!(code == Some(0) && out.contains("offer_outstanding") && out.contains("session_id"), "{out}{error}");
    let (_, out, _) = askwhen(server.dir.path(), &[&arguments[..], &["--output", "json"]].concat());
    let told: Value = serde_json::from_str(&out).unwrap();
    assert!(
        told["decision"]["evaluations"][0]["hint"].as_str().is_some_and(|hint| hint.contains("session_id")),
        "{told}"
    );
}

#[tokio::test]
async fn results_keep_answers_of_another_type_apart() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    answer(&server, 0..2, json!(4)).await;
    let mut other = open_survey();
    other["questions"][0]["type"] = "text".into();
    let said = server.put("/v1/surveys/s", other).await;
    assert_eq!(said.body["version"], 2, "{said:?}");
    answer(&server, 2..5, json!("well")).await;
    server.until("all are listed", async || server.all("responses").await.len() == 5).await;
    let of = async |version: u32| {
        let part = server.get(&format!("/v1/surveys/s/results?version={version}")).await.body;
        part["questions"][0].clone()
    };
    let (first, second) = (of(1).await, of(2).await);
    assert_eq!((&first["answered"], &first["mean"]), (&json!(2), &json!(4.0)), "{first}");
    assert_eq!((&second["answered"], &second["mean"]), (&json!(3), &json!(null)), "{second}");
    assert_eq!(second["texts"].as_array().map(Vec::len), Some(3), "{second}");
    for query in ["", "?by=locale"] {
        let whole = server.get(&format!("/v1/surveys/s/results{query}")).await.body;
        let groups = if query.is_empty() { vec![&whole] } else { whole["series"].as_array().unwrap().iter().collect() };
        let shown = |question: &Value| ["type", "answered", "skipped", "mean"].map(|name| question[name].clone());
        let questions: Vec<_> = groups[0]["questions"].as_array().unwrap().iter().map(shown).collect();
        let text = [json!("text"), json!(3), json!(0), Value::Null];
        let kind = first["type"].clone();
        assert_eq!(questions, [text, [kind, json!(2), json!(0), json!(4.0)]], "{whole:#}");
    }
}

/// By the conventions that dashboards and their rules stand on.
#[tokio::test]
async fn figures_are_named_and_typed_as_monitoring_expects() {
    let server = Server::start().await;
    server.put("/v1/surveys/s", open_survey()).await;
    answer(&server, 0..1, json!(4)).await;
    let said = server.get("/metrics").await;
    assert!(said.headers["content-type"].to_str().unwrap().starts_with("text/plain"), "{:?}", said.headers);
    let text = String::from_utf8_lossy(&said.bytes).into_owned();
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, kind) in [
        ("process_cpu_seconds_total", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("askwhen_engine_misplaced_records_total", "counter"),
        ("askwhen_build_info", "gauge"),
    ] {
        assert_eq!(types.get(name), Some(&kind), "{name}");
    }
    let units = ["_seconds", "_bytes", "_records", "_total", "_info", "_rows", "_connections"];
    for (name, kind) in &types {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
        if *kind == "histogram" {
            assert!(units.iter().any(|unit| name.ends_with(unit)), "{name} has no unit");
        }
        assert!(name.starts_with("askwhen_") || name.starts_with("process_"), "{name}");
    }
}
