//! Log lines that nobody takes: the server goes on, or it ends; it never hangs.
//! And what may not be in them, nor in metrics or errors.

use serde_json::{Value, json};
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Receiver, open_survey};

/// A server whose standard error goes somewhere special, and which has much to say.
struct Talker {
    child: Child,
    dir: tempfile::TempDir,
    base: String,
    http: reqwest::Client,
}

impl Talker {
    fn spawn(level: &str, errors: Stdio) -> Talker {
        Talker::with_fault("", level, errors)
    }

    fn with_fault(fault: &str, level: &str, errors: Stdio) -> Talker {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(BINARY);
        command.args(["--data-dir", "data", "serve", "--dev", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
        command.env("ASKWHEN_LOG", level).env("ASKWHEN_FAULT", fault);
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("askwhen listens on ").unwrap_or_default().to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Talker { child, dir, base, http }
    }

    fn key(&self, n: usize) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("data/keys.toml")).unwrap();
        let keys: toml::Table = toml::from_str(&text).unwrap();
        keys["keys"][n]["key"].as_str().unwrap().to_owned()
    }

    async fn call(&self, method: reqwest::Method, path: &str, key: &str, body: Value) -> (u16, String) {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let said = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}"));
        (said.status().as_u16(), said.text().await.unwrap())
    }

    /// Requests of every kind are answered, and decisions made.
    async fn serves(&self) {
        assert!(!self.base.is_empty(), "it did not start");
        let (server, admin) = (self.key(1), self.key(2));
        let post = reqwest::Method::POST;
        self.call(reqwest::Method::PUT, "/v1/surveys/open", &admin, open_survey()).await;
        static SERVED: AtomicUsize = AtomicUsize::new(0);
        for _ in 0..50 {
            let n = SERVED.fetch_add(1, Ordering::AcqRel);
            let event = json!({"user_id": format!("u{n}"), "event_name": "x"});
            assert_eq!(self.call(post.clone(), "/v1/events", &server, event).await.0, 202);
            let (status, body) =
                self.call(post.clone(), &format!("/v1/users/u{n}/triggers/Main"), &server, json!({})).await;
            assert!(status == 200 && body.contains("offered"), "{status} {body}");
        }
        assert_eq!(self.call(reqwest::Method::GET, "/readyz", &server, json!({})).await.0, 200);
    }

    async fn metric(&self, name: &str) -> f64 {
        let text = self.call(reqwest::Method::GET, "/metrics", "", json!({})).await.1;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap()
    }

    /// Ends in order within a few seconds.
    fn ends(mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert_eq!(self.exit_code(), Some(0));
    }

    fn exit_code(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it hangs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends events until one gets no answer in time, or none at all.
    async fn sends_until_silence(&self) {
        let key = self.key(1);
        for n in 0..200 {
            let event = json!({"user_id": format!("u{n}"), "event_name": "x"}).to_string();
            let request = self.http.post(format!("{}/v1/events", self.base)).bearer_auth(&key).body(event);
            let request = request.header("content-type", "application/json").timeout(Duration::from_secs(3));
            if request.send().await.is_err() {
                return;
            }
        }
        panic!("the fault never came");
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address that nobody listens on, and that no other test takes: they all bind 127.0.0.1.
pub fn unused_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.9:0").expect("a port").local_addr().expect("an address")
}

/// Whoever has died is not to be mourned in a log line that cannot be written.
#[tokio::test]
async fn a_writer_that_dies_ends_the_process_whoever_listens() {
    for errors in [full(), Stdio::null()] {
        let mut talker = Talker::with_fault("written:panic:20", "info", errors);
        talker.sends_until_silence().await;
        assert_eq!(talker.exit_code(), Some(1));
    }
}

#[tokio::test]
async fn a_writer_that_hangs_is_seen_by_readiness() {
    let talker = Talker::with_fault("written:hang:20", "info", full());
    talker.sends_until_silence().await;
    let began = Instant::now();
    loop {
        let (status, body) = talker.call(reqwest::Method::GET, "/readyz", "", json!({})).await;
        if status == 503 && body.contains("thread log-") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status} {body}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn a_request_that_panics_costs_itself_alone() {
    let talker = Talker::with_fault("parsed:panic:20", "info", full());
    let mut said = Vec::new();
    for n in 0..40 {
        let event = json!({"user_id": format!("u{n}"), "event_name": "x"});
        said.push(talker.call(reqwest::Method::POST, "/v1/events", &talker.key(1), event).await);
    }
    let failed: Vec<_> = said.iter().filter(|(status, _)| *status != 202).collect();
    assert!(failed.len() == 1 && failed[0].0 == 500 && failed[0].1.contains("\"internal\""), "{failed:?}");
    talker.ends();
}

fn full() -> Stdio {
    std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// A file that takes nothing from the beginning, or nothing more.
#[tokio::test]
async fn a_full_disk_beneath_the_log_lines_stops_nothing() {
    for level in ["info", "trace"] {
        let talker = Talker::spawn(level, full());
        talker.serves().await;
        if level == "trace" {
            let lost = talker.metric("askwhen_process_lost_log_lines_total{reason=\"failed\"}").await;
            assert!(lost > 0.0, "what is lost is counted");
        }
        talker.ends();
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_or_stops_reading_stops_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let talker = Talker::spawn("trace", OwnedFd::from(writer).into());
    talker.serves().await;
    talker.ends();
    // Gone while it runs.
    let (reader, writer) = std::io::pipe().unwrap();
    let talker = Talker::spawn("trace", OwnedFd::from(writer).into());
    talker.serves().await;
    drop(reader);
    talker.serves().await;
    talker.ends();
    // There, and not reading: the pipe is full before the first line.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'\n'; 64 << 10]).unwrap();
    let talker = Talker::spawn("trace", OwnedFd::from(writer).into());
    for _ in 0..20 {
        talker.serves().await;
    }
    let mut reader = std::io::BufReader::new(reader);
    #[expect(clippy::disallowed_methods, reason = "it is joined below")]
    let reading = std::thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).map(|_| all)
    });
    talker.serves().await;
    talker.ends();
    let all = reading.join().unwrap().unwrap();
    assert!(all.lines().any(|line| line.contains("partitions are taken up")), "it is said once somebody reads: {all}");
    let mut written = all.lines().filter(|line| !line.is_empty());
    assert!(written.all(|line| serde_json::from_str::<Value>(line).is_ok()), "every line is whole");
}

#[tokio::test]
async fn standard_error_that_is_closed_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("exec {BINARY} --data-dir {} serve --listen 127.0.0.1:0 2>&-", dir.path().display());
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("askwhen listens on "), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What cannot start says so if it can, and ends. The address is one of no machine.
#[test]
fn a_start_that_fails_ends_with_its_code_whoever_listens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("askwhen.toml"), "[http]\nlisten = \"192.0.2.1:1\"\n").unwrap();
    for errors in [full(), Stdio::null()] {
        let mut child = Command::new(BINARY)
            .args(["--data-dir", "data", "serve"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let began = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(40), "it hangs");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(code, Some(4));
    }
}

#[test]
fn a_verb_whose_output_nobody_reads_ends_with_its_own_code() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.yaml"), "kind: survey\n").unwrap();
    let code = |arguments: &[&str], out: Stdio| {
        let mut command = Command::new(BINARY);
        let done = command.args(arguments).current_dir(dir.path()).stdout(out).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        (done.status.code(), said)
    };
    let unread = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(OwnedFd::from(writer))
    };
    for arguments in
        [&["config", "print"][..], &["config", "print", "--default"], &["completions", "bash"], &["topics", "print"]]
    {
        assert_eq!(code(arguments, unread()).0, Some(0), "{arguments:?}");
        let (failed, said) = code(arguments, full());
        assert!(failed == Some(1) && said.contains("cannot be written"), "{arguments:?}: {failed:?} {said}");
    }
    assert_eq!(code(&["validate", "-f", "bad.yaml"], unread()).0, Some(2));
}

/// Something to look for in every place that a sender fills.
fn canary(what: &str) -> String {
    format!("canary7e3-{what}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_secrets_nor_personal_data_are_in_logs_metrics_or_errors() {
    let (reader, writer) = std::io::pipe().unwrap();
    let lines: Arc<Mutex<String>> = Arc::default();
    let kept = lines.clone();
    #[expect(clippy::disallowed_methods, reason = "it is joined below")]
    let reading = std::thread::spawn(move || {
        for line in std::io::BufReader::new(reader).lines().map_while(Result::ok) {
            kept.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    let talker = Talker::spawn("warn,askwhen=debug", OwnedFd::from(writer).into());
    let (client, server, admin) = (talker.key(0), talker.key(1), talker.key(2));
    let (get, post, put) = (reqwest::Method::GET, reqwest::Method::POST, reqwest::Method::PUT);
    let mut errors = String::new();
    let mut keep = |(status, body): (u16, String)| {
        if status >= 400 {
            errors.push_str(&format!("{status} {body}\n"));
        }
        status
    };
    let receiver = Receiver::start(&[]).await;
    receiver.always(500);
    let nobody = unused_address();
    for (name, url) in [
        ("fails", format!("{}/{}?token={}", receiver.url, canary("url-path"), canary("url-token"))),
        ("nobody", format!("http://{nobody}/{}?token={}", canary("url-path"), canary("url-token"))),
    ] {
        let endpoint = json!({"url": url, "events": ["response.completed"], "headers": {"x-auth": canary("header")},
            "retry": {"kind": "fixed", "interval": "1s", "max_attempts": 2, "timeout": "2s"}});
        let said = talker.call(put.clone(), &format!("/v1/endpoints/{name}"), &admin, endpoint).await;
        assert!(said.0 < 300, "{said:?}");
    }
    let refused = json!({"url": format!("http://{}@10.0.0.1/", canary("userinfo")), "events": ["response.completed"],
        "secret": canary("secret"), "headers": {"host": canary("header")}});
    assert_eq!(keep(talker.call(put.clone(), "/v1/endpoints/refused", &admin, refused).await), 422);
    assert!(keep(talker.call(put.clone(), "/v1/surveys/open", &admin, open_survey()).await) < 300);
    let mut bad = open_survey();
    bad["questions"][0]["type"] = canary("question-type").into();
    bad[canary("member")] = canary("value").into();
    assert_eq!(keep(talker.call(put.clone(), "/v1/surveys/bad", &admin, bad).await), 422);
    let user = canary("user");
    let event = json!({"user_id": user, "event_name": "x", "properties": {"email": canary("property")}});
    assert_eq!(keep(talker.call(post.clone(), "/v1/events", &server, event).await), 202);
    let attributes = json!({"attributes": {"email": canary("attribute")}});
    assert_eq!(keep(talker.call(put.clone(), &format!("/v1/users/{user}"), &server, attributes).await), 202);
    let path = format!("/v1/users/{user}/triggers/Main");
    let (_, decided) =
        talker.call(post.clone(), &path, &server, json!({"properties": {"p": canary("property")}})).await;
    let decided: Value = serde_json::from_str(&decided).unwrap();
    let offer = decided["survey"]["offer_id"].as_str().unwrap_or_else(|| panic!("{decided}")).to_owned();
    let answers = |value: Value| json!({"answers": [{"question_id": "q1", "value": value}], "completed": true});
    let path = format!("/v1/users/{user}/offers/{offer}/answers");
    assert_eq!(keep(talker.call(post.clone(), &path, &server, answers(canary("answer").into())).await), 422);
    assert_eq!(keep(talker.call(post.clone(), &path, &server, answers(4.into())).await), 200);
    for body in [
        json!({"user_id": canary("user"), "event_name": canary("name\u{0}"), "properties": canary("property")}),
        json!({"user_id": 7, "event_name": canary("name"), "occurred_at": canary("time"), (canary("member")): 1}),
        json!({"events": [{"user_id": canary("user"), "event_name": "", "properties": {"x": canary("property")}}]}),
        json!(canary("text")),
    ] {
        assert!(keep(talker.call(post.clone(), "/v1/events", &server, body).await) >= 207);
    }
    keep(
        talker
            .call(get.clone(), &format!("/v1/{}?key={}", canary("path"), canary("query")), &canary("key"), json!({}))
            .await,
    );
    keep(talker.call(get.clone(), &format!("/v1/surveys/{}", canary("survey")), &admin, json!({})).await);
    keep(
        talker
            .call(
                get.clone(),
                &format!("/v1/deliveries?user_id={}&limit={}", canary("user"), canary("limit")),
                &admin,
                json!({}),
            )
            .await,
    );
    keep(
        talker
            .call(post.clone(), &format!("/v1/users/{user}/offers/{}/displayed", canary("offer")), &server, json!({}))
            .await,
    );
    keep(talker.call(put.clone(), "/v1/settings", &admin, json!({(canary("member")): canary("value")})).await);
    keep(talker.call(post.clone(), "/v1/events", &client, json!({"user_id": canary("user"), "event_name": "x"})).await);
    keep(talker.call(post.clone(), "/v1/endpoints/fails/test", &admin, json!({})).await);
    // Both attempts of both endpoints, and their end.
    receiver.wait(2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let metrics = talker.call(get.clone(), "/metrics", "", json!({})).await.1;
    let health = talker.call(get, "/readyz?verbose", "", json!({})).await.1;
    let keys = [client, server, admin];
    talker.ends();
    reading.join().unwrap();
    let logged = lines.lock().unwrap().clone();
    assert!(logged.contains("partitions are taken up"), "it has said something: {logged}");
    // A pointer names the member that is at fault; it is no value.
    let errors = errors.replace(&format!("\"pointer\":\"/{}\"", canary("member")), "\"pointer\":\"/…\"");
    for (place, text) in [("log", &logged), ("metrics", &metrics), ("readiness", &health), ("errors", &errors)] {
        for line in text.lines() {
            let seen = line.contains("canary7e3") || keys.iter().any(|key| line.contains(key.as_str()));
            assert!(!seen, "in the {place}: {line}");
        }
    }
}
