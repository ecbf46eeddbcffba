//! Starts the program as its user would, talks to it over HTTP, and receives
//! its webhooks.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::BufRead as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::schema::{self, Exchange};

pub const BINARY: &str = env!("CARGO_BIN_EXE_askwhen");
/// The same tests are two programs: on the embedded log, and on Kafka.
pub const ON_KAFKA: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"it_kafka");
/// Partitions on Kafka: few, because every test makes topics of its own.
pub const KAFKA_PARTITIONS: u32 = 4;

/// Brokers to test on.
pub fn brokers() -> String {
    std::env::var("ASKWHEN_TEST_BROKERS").expect(
        "ASKWHEN_TEST_BROKERS must name brokers: `script/test` starts one, and so does `script/kafka start FOLDER`",
    )
}

/// Makes a folder one whose servers have their log on Kafka, under a prefix of
/// its own.
pub fn on_brokers(dir: &Path, brokers: &str) {
    let config = dir.join("askwhen.toml");
    if config.exists() {
        return;
    }
    let prefix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    let key: String = uuid::Uuid::new_v4().simple().to_string().repeat(2);
    std::fs::write(dir.join("cluster.key"), key).expect("written");
    let text = format!(
        "[log]\nkind = \"kafka\"\npartitions = {KAFKA_PARTITIONS}\nprefix = \"t-{prefix}.\"\n\
         [kafka]\nbrokers = \"{brokers}\"\nreplication = 1\n\
         [snapshots]\nurl = \"file://{}\"\n[secrets]\nkey_file = \"{}\"\n",
        dir.join("snapshots").display(),
        dir.join("cluster.key").display(),
    );
    std::fs::write(config, text).expect("written");
}

/// A running server; dropping it kills it.
pub struct Server {
    child: Child,
    pub dir: Arc<tempfile::TempDir>,
    pub base: String,
    pub client: String,
    pub server: String,
    pub admin: String,
    pub http: reqwest::Client,
}

#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
    pub bytes: Bytes,
}

impl Server {
    /// A fresh one with a test clock and loopback receivers.
    pub async fn start() -> Server {
        Server::on(Arc::new(tempfile::tempdir().expect("a folder")), &["--dev", "--test-clock"], &[]).await
    }

    pub async fn on(dir: Arc<tempfile::TempDir>, flags: &[&str], environment: &[(&str, &str)]) -> Server {
        let server = Server::unready(dir, flags, environment);
        server.until("ready", async || server.get("/readyz").await.status == 200).await;
        server
    }

    /// One that listens, and may never be ready.
    pub fn unready(dir: Arc<tempfile::TempDir>, flags: &[&str], environment: &[(&str, &str)]) -> Server {
        drop(rustls::crypto::ring::default_provider().install_default());
        if ON_KAFKA {
            on_brokers(dir.path(), &brokers());
        }
        let mut command = Command::new(BINARY);
        command.arg("--data-dir").arg(dir.path().join("data")).args(["serve", "--listen", "127.0.0.1:0"]).args(flags);
        command.envs(environment.iter().copied()).current_dir(dir.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
        let base = line.trim().strip_prefix("askwhen listens on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        let keys: toml::Table =
            toml::from_str(&std::fs::read_to_string(dir.path().join("data/keys.toml")).expect("keys")).expect("toml");
        let key = |n: usize| keys["keys"][n]["key"].as_str().expect("a key").to_owned();
        // A test that runs the command line does not see meanwhile that a connection is closed.
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(90));
        let http = http.pool_idle_timeout(Duration::from_secs(1)).build().expect("a client");
        Server { child, dir, base, client: key(0), server: key(1), admin: key(2), http }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) -> Arc<tempfile::TempDir> {
        self.child.kill().expect("it dies");
        self.child.wait().expect("it is gone");
        self.dir.clone()
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(mut self) -> (Arc<tempfile::TempDir>, Option<i32>) {
        Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        let status = self.child.wait().expect("it is gone");
        (self.dir.clone(), status.code())
    }

    /// Its exit code, when it has been told to end.
    pub fn ended(mut self) -> (Arc<tempfile::TempDir>, Option<i32>) {
        let status = self.child.wait().expect("it is gone");
        (self.dir.clone(), status.code())
    }

    pub async fn call(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> Said {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Server::said(request).await
    }

    pub async fn said(request: reqwest::RequestBuilder) -> Said {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let sent = request.body().and_then(|body| serde_json::from_slice(body.as_bytes()?).ok());
        let answer = client.execute(request).await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.expect("a body");
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        schema::check(&Exchange { method: &method, path: &path, sent, status, body: &body });
        Said { status, headers, body, bytes }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Said {
        self.call(&self.admin, Method::GET, path, None).await
    }

    /// Every row of a list, page by page.
    pub async fn all(&self, list: &str) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/v1/{list}?limit=200{cursor}")).await.body;
            rows.extend(page[list].as_array().unwrap_or_else(|| panic!("{list}: {page}")).clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> Said {
        self.call(&self.server, Method::POST, path, Some(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Said {
        let said = self.call(&self.admin, Method::PUT, path, Some(&body)).await;
        assert!((200..300).contains(&said.status), "PUT {path}: {said:?}");
        said
    }

    pub async fn event(&self, user: &str, name: &str, properties: Value) -> Said {
        let said =
            self.post("/v1/events", json!({"user_id": user, "event_name": name, "properties": properties})).await;
        assert_eq!(said.status, 202, "{said:?}");
        said
    }

    pub async fn trigger(&self, user: &str, trigger: &str) -> Value {
        let said = self.post(&format!("/v1/users/{user}/triggers/{trigger}"), json!({})).await;
        assert_eq!(said.status, 200, "{said:?}");
        said.body
    }

    pub async fn advance(&self, span: &str) {
        let said = self.call(&self.admin, Method::POST, "/v1/test/clock", Some(&json!({"advance": span}))).await;
        assert_eq!(said.status, 200, "{said:?}");
    }

    /// Polls until it holds; what it waits for comes by itself.
    pub async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds().await {
            assert!(Instant::now() < deadline, "waited too long: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The delivery of the only endpoint, alone.
    pub async fn only_delivery(&self) -> Value {
        let list = self.get("/v1/deliveries").await.body;
        let rows = list["deliveries"].as_array().expect("a list");
        if rows.is_empty() {
            return Value::Null;
        }
        assert_eq!(rows.len(), 1, "{list}");
        self.get(&format!("/v1/deliveries/{}", rows[0]["delivery_id"].as_str().expect("an id"))).await.body
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been ended on purpose already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One webhook as it came.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// When its request had come.
    pub at: Instant,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Webhook {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// What a receiver answers: a status and more headers.
pub type Reply = (u16, Vec<(&'static str, String)>);

/// Answers as scripted, then always the same.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    inbox: Arc<Mutex<Vec<Webhook>>>,
    script: Arc<Mutex<VecDeque<Reply>>>,
    then: Arc<AtomicU16>,
}

impl Receiver {
    pub async fn start(script: &[u16]) -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let inbox = Arc::default();
        let script = script.iter().map(|status| (*status, Vec::new())).collect();
        let receiver =
            Receiver { url, inbox, script: Arc::new(Mutex::new(script)), then: Arc::new(AtomicU16::new(200)) };
        let shared = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = shared.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                        let receiver = receiver.clone();
                        async move { Ok::<_, Infallible>(receiver.take(request).await) }
                    });
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        receiver
    }

    async fn take(&self, request: hyper::Request<hyper::body::Incoming>) -> hyper::Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let text = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
        let headers = head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
        self.inbox.lock().expect("unpoisoned").push(Webhook {
            at: Instant::now(),
            path: head.uri.path().to_owned(),
            headers,
            body,
        });
        let (status, headers) = self.script.lock().expect("unpoisoned").pop_front().unwrap_or_default();
        let status = if status == 0 { self.then.load(Ordering::Acquire) } else { status };
        let mut answer = hyper::Response::new(Full::new(Bytes::from_static(b"thanks")));
        *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            answer.headers_mut().insert(name, http::HeaderValue::from_str(&value).expect("a value"));
        }
        if (300..400).contains(&status) {
            answer.headers_mut().insert("location", http::HeaderValue::from_static("/elsewhere"));
        }
        answer
    }

    /// What it answers next.
    pub fn will(&self, replies: &[Reply]) {
        self.script.lock().expect("unpoisoned").extend(replies.iter().cloned());
    }

    /// What it answers when nothing is scripted.
    pub fn always(&self, status: u16) {
        self.then.store(status, Ordering::Release);
    }

    pub fn got(&self) -> Vec<Webhook> {
        self.inbox.lock().expect("unpoisoned").clone()
    }

    pub async fn wait(&self, count: usize) -> Vec<Webhook> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.got().len() < count {
            assert!(Instant::now() < deadline, "{} of {count} webhooks came: {:?}", self.got().len(), self.got());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.got()
    }
}

/// Everything that lists, counters and definitions show, by its route.
pub async fn history(get: impl AsyncFn(String) -> Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for list in ["decisions", "responses", "deliveries", "surveys", "endpoints", "triggers"] {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = get(format!("/v1/{list}?limit=200{cursor}")).await;
            rows.extend(page[list].as_array().cloned().unwrap_or_default());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        for row in &rows {
            let path = match list {
                "deliveries" => format!("/v1/deliveries/{}", row["delivery_id"].as_str().expect("an id")),
                "surveys" => format!("/v1/surveys/{}/stats", row["survey_id"].as_str().expect("an id")),
                _ => continue,
            };
            all.insert(path.clone(), get(path).await);
        }
        if list == "endpoints" {
            // How they fare is found out anew.
            for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                row.retain(|member, _| !member.starts_with("state"));
            }
        }
        all.insert(format!("/v1/{list}"), rows.into());
    }
    all.insert("/v1/settings".into(), get("/v1/settings".into()).await);
    all
}

/// The routes of a history whose answers differ, with both.
pub fn differences(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let routes = before.keys().chain(after.keys().filter(|route| !before.contains_key(*route)));
    let differ = routes.filter(|route| before.get(*route) != after.get(*route));
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    differ.map(|route| format!("{route}: {} then {}", shown(before.get(route)), shown(after.get(route)))).collect()
}

/// A survey that shows to everybody on `Main`, again and again.
pub fn open_survey() -> Value {
    json!({"name": "Open", "status": "active", "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "until_completed", "global_cooldown": "ignore"},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
}

/// Runs a script of another language on the command line.
pub fn run(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} cannot run ({e}); script/test installs it"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    (out.status.success(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// A Python that has the verifiers.
pub fn python() -> String {
    std::env::var("ASKWHEN_TEST_PYTHON")
        .expect("ASKWHEN_TEST_PYTHON names a Python with standardwebhooks and svix; script/test sets it")
}

/// The records of a topic, as the command line prints them.
pub fn tail(dir: &Path, topic: &str) -> Vec<Value> {
    let (code, out, error) = askwhen(dir, &["--data-dir", "data", "tail", topic]);
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// The program's own command line.
pub fn askwhen(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = Command::new(BINARY).args(arguments).current_dir(dir).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}
