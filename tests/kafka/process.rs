//! Processes of one cluster, and a broker to be hurt.

use reqwest::Method;
use serde_json::Value;
use std::io::BufRead as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Said};

/// Keys of the processes of a cluster, which share them.
const CLUSTER_KEYS: &str = "\n[[keys]]\nkind = \"admin\"\nkey = \"ak_admin_of_the_cluster\"\n";

/// One process of several on the same brokers; dropping it kills it.
pub struct Process {
    child: Child,
    pub base: String,
    http: reqwest::Client,
}

impl Process {
    /// In a folder that [`on_brokers`] has made; ready when this returns.
    pub async fn start(dir: &tempfile::TempDir, name: &str, roles: &str, flags: &[&str]) -> Process {
        Process::start_as(BINARY, dir, name, roles, flags).await
    }

    /// As [`Process::start`], of a program of another version.
    pub async fn start_as(binary: &str, dir: &tempfile::TempDir, name: &str, roles: &str, flags: &[&str]) -> Process {
        let process = Process::spawn(binary, dir, name, roles, flags);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let said = process.call(Method::GET, "/readyz", None).await;
            if said.as_ref().is_some_and(|said| said.status == 200) {
                return process;
            }
            assert!(Instant::now() < deadline, "{name} is not ready: {said:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One that listens, and may never be ready.
    pub fn unready(dir: &tempfile::TempDir, name: &str, roles: &str, flags: &[&str]) -> Process {
        Process::spawn(BINARY, dir, name, roles, flags)
    }

    fn spawn(binary: &str, dir: &tempfile::TempDir, name: &str, roles: &str, flags: &[&str]) -> Process {
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = dir.path().join("askwhen.toml");
        let text = std::fs::read_to_string(&config).expect("made by on_brokers");
        if !text.contains("[[keys]]") {
            std::fs::write(&config, format!("{text}{CLUSTER_KEYS}")).expect("written");
        }
        let mut command = Command::new(binary);
        command.args(["--data-dir", name, "serve", "--listen", "127.0.0.1:0", "--roles", roles]).args(flags);
        command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Process::adopt(command.spawn().expect("it starts"))
    }

    /// One that was just started, with its standard output piped.
    pub fn adopt(mut child: Child) -> Process {
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("a line");
        let base = line.trim().strip_prefix("askwhen listens on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().expect("a client");
        Process { child, base, http }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) {
        self.child.kill().expect("it dies");
        self.child.wait().expect("it is gone");
    }

    /// SIGTERM, until it is gone.
    pub fn terminate(mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(self.child.wait().expect("it is gone").success());
    }

    /// `None` when there is no answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Option<Said> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = request.bearer_auth("ak_admin_of_the_cluster");
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.ok()?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.ok()?;
        Some(Said { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), bytes })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have been ended on purpose already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A broker of a test's own, to be hurt; dropping it stops it.
pub struct Broker {
    dir: tempfile::TempDir,
    pub address: String,
}

impl Broker {
    pub fn start() -> Broker {
        let dir = tempfile::tempdir().expect("a folder");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/kafka");
        let out = Command::new(script).arg("start").arg(dir.path()).stderr(Stdio::inherit()).output();
        let out = out.expect("script/kafka runs");
        assert!(out.status.success(), "script/kafka starts a broker");
        let address = String::from_utf8(out.stdout).expect("UTF-8").trim().to_owned();
        Broker { dir, address }
    }

    /// Where it speaks SASL over TLS.
    pub fn secure_address(&self) -> String {
        let port: u16 = self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        format!("localhost:{}", port + 2)
    }

    /// The certificate that its own is checked against.
    pub fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    /// Where its files are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Stops it in order; its files stay.
    pub fn stop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/kafka");
        let stopped = Command::new(script).arg("stop").arg(self.dir.path()).status();
        assert!(stopped.is_ok_and(|status| status.success()), "script/kafka stops it");
    }

    /// Starts it with the files and the port that it had.
    pub fn start_again(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/kafka");
        let started = Command::new(script).arg("start").arg(self.dir.path()).stderr(Stdio::inherit()).output();
        assert!(started.is_ok_and(|out| out.status.success()), "script/kafka starts it again");
    }

    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).expect("its pid");
        let status = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(status.is_ok_and(|s| s.success()));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/script/kafka");
        // It may be gone already.
        drop(Command::new(script).arg("stop").arg(self.dir.path()).status());
    }
}
