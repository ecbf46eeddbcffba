//! A server as whoever runs it sees it: its log lines, its signals, its connections.

use reqwest::Method;
use serde_json::json;
use std::sync::Arc;

use crate::harness::{Server, askwhen};

/// Receivers close idle connections, and one may be taken for a request just then.
#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let heads: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Answers the first request of each connection, and ends it at the second.
            for n in 0..2 {
                let mut read = Vec::new();
                let whole = |read: &[u8]| {
                    let text = String::from_utf8_lossy(read).to_ascii_lowercase();
                    let (head, body) = text.split_once("\r\n\r\n")?;
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
                    (body.len() >= length.trim().parse().ok()?).then(|| head.to_owned())
                };
                while whole(&read).is_none() {
                    let mut bytes = [0; 4096];
                    match stream.read(&mut bytes).await {
                        Ok(count) if count > 0 => read.extend_from_slice(&bytes[..count]),
                        _ => break,
                    }
                }
                let Some(head) = whole(&read) else { break };
                seen.lock().unwrap().push(head);
                if n == 0 {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        }
    });
    server.put("/v1/endpoints/crm", json!({"url": url})).await;
    for n in 0..2 {
        let said = server.call(&server.admin, Method::POST, "/v1/endpoints/crm/test", None).await;
        assert_eq!((said.status, &said.body["outcome"]), (200, &json!("delivered")), "{n}: {said:?}");
    }
    let heads = heads.lock().unwrap();
    let line = |head: &str, name: &str| head.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert_eq!(heads.len(), 3, "{heads:?}");
    assert_eq!(line(&heads[1], "webhook-id:"), line(&heads[2], "webhook-id:"));
    assert!(heads.iter().all(|head| line(head, "webhook-attempt:").ends_with(" 1")), "{heads:?}");
}

#[tokio::test]
async fn a_hangup_brings_other_keys_and_ends_nothing() {
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), &[], &[]).await;
    let hang_up = || {
        assert!(
            std::process::Command::new("kill").args(["-HUP", &server.pid().to_string()]).status().unwrap().success()
        )
    };
    let status = async |key: &str| server.call(key, Method::GET, "/v1/surveys", None).await.status;
    let config = server.dir.path().join("askwhen.toml");
    std::fs::write(&config, "[[keys]]\nkind = \"admin\"\nkey = \"the admin's other key\"\n").unwrap();
    hang_up();
    server.until("the other key counts", async || status("the admin's other key").await == 200).await;
    assert_eq!(status(&server.admin).await, 401, "and the one before does not");
    let shown = async || server.call("the admin's other key", Method::GET, "/v1/config", None).await.body;
    server.until("it is shown, without its text", async || shown().await["keys"][0]["key"] == "(hidden)").await;
    std::fs::write(&config, "[[keys]]\nkind = \"admin\"\nkey = \"short\"\n").unwrap();
    hang_up();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(status("the admin's other key").await, 200, "what cannot be read changes nothing");
    let limited = "[http]\ncors_origins = [\"https://app.example\"]\n[limits]\nper_key = \"2/m\"\n";
    std::fs::write(&config, limited).unwrap();
    hang_up();
    let allowed = async || {
        let request =
            server.request(Method::OPTIONS, "/v1/users/u/triggers/Main").header("origin", "https://app.example");
        let answer = request.send().await.unwrap();
        answer.headers().get("access-control-allow-origin").is_some_and(|value| value == "https://app.example")
    };
    server.until("the page is allowed", allowed).await;
    server.until("the limit counts", async || status(&server.admin).await == 429).await;
    std::fs::remove_file(&config).unwrap();
    hang_up();
    server.until("its own keys count again", async || status(&server.admin).await == 200).await;
}

/// Log lines of a start and an orderly end, in the format that is asked for.
#[tokio::test]
async fn log_lines_are_text_or_json() {
    let dir = tempfile::tempdir().unwrap();
    for (format, begins) in [("text", "20"), ("json", "{")] {
        let log = std::fs::File::create(dir.path().join(format)).unwrap();
        let mut child = std::process::Command::new(crate::harness::BINARY)
            .args(["--data-dir", "data", "serve", "--listen", "127.0.0.1:0", "--log-format", format])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(child.wait().unwrap().success());
        let text = std::fs::read_to_string(dir.path().join(format)).unwrap();
        assert!(text.lines().all(|line| line.starts_with(begins)), "{text}");
        for told in ["askwhen serves", "askwhen has stopped", "a client key and no identity_secret"] {
            assert!(text.contains(told), "{told} is not in {text}");
        }
        assert!(!text.contains("ak_"), "{text}");
    }
    let (code, _, error) = askwhen(dir.path(), &["--data-dir", "data", "serve", "--log-level", "askwhen=loud"]);
    assert!(code == Some(2) && error.contains("--log-level") && error.contains("askwhen=loud"), "{error}");
}

#[tokio::test]
async fn the_configuration_is_shown_as_the_command_line_prints_it() {
    let secrets = [
        ("ASKWHEN__DELIVERY__EGRESS_PROXY", "http://ann:canary-one@127.0.0.1:9"),
        ("ASKWHEN__KAFKA__CLIENT", "{\"sasl.password\" = \"canary-two\"}"),
    ];
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::on(dir.clone(), &["--dev"], &secrets).await;
    let data = dir.path().join("data");
    let mut command = std::process::Command::new(crate::harness::BINARY);
    command.arg("--data-dir").arg(&data).args(["config", "print", "--output", "json"]);
    let printed = command.envs(secrets).current_dir(dir.path()).output().unwrap();
    let mut printed: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    // The server was told another address by a flag.
    printed["http"]["listen"] = "127.0.0.1:0".into();
    let made =
        server.call(&server.admin, Method::POST, "/v1/keys", Some(&json!({"name": "anna", "kind": "viewer"}))).await;
    let viewer = made.body["key"].as_str().expect("a key").to_owned();
    for key in [&viewer, &server.admin] {
        let shown = server.call(key, Method::GET, "/v1/config", None).await;
        assert_eq!((shown.status, &shown.body), (200, &printed));
        assert!(!String::from_utf8_lossy(&shown.bytes).contains("canary"), "{shown:?}");
    }
    for key in [&server.client, &server.server] {
        assert_eq!(server.call(key, Method::GET, "/v1/config", None).await.status, 403);
    }
    assert_eq!(server.call("none", Method::GET, "/v1/config", None).await.status, 401);
    assert_eq!(server.get("/v1/config?all=1").await.status, 422);
    assert_eq!(server.call(&server.admin, Method::POST, "/v1/config", Some(&json!({}))).await.status, 405);
}

/// An operator has to see that snapshots have stopped, not only that one has failed.
#[tokio::test]
async fn how_long_ago_snapshots_covered_the_stores_is_told_and_a_snapshot_ends_it() {
    let server = Server::start().await;
    let age = async || {
        let text = String::from_utf8(server.get("/metrics").await.bytes.to_vec()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("askwhen_store_snapshot_age_seconds "));
        line.and_then(|seconds| seconds.parse::<f64>().ok())
    };
    server.until("it grows from the start", async || age().await.is_some_and(|age| age > 2.0)).await;
    let before = age().await;
    assert_eq!(server.call(&server.admin, Method::POST, "/v1/snapshots", None).await.status, 200);
    server.until("the stores are covered", async || age().await < before).await;
}

/// A key is of one project: it sees nothing of the others, not even their names.
#[tokio::test]
async fn the_configuration_of_another_project_is_not_shown() {
    let server = Server::on(Arc::new(tempfile::tempdir().unwrap()), &[], &[]).await;
    let config = server.dir.path().join("askwhen.toml");
    let mut text = std::fs::read_to_string(&config).unwrap_or_default();
    for project in ["default", "red", "blue"] {
        text +=
            &format!("[[projects]]\nproject = \"{project}\"\nidentity_secret = [\"the own secret of {project}\"]\n");
        // A key that names no project is of the default one.
        let of = if project == "default" { String::new() } else { format!("project = \"{project}\"\n") };
        text += &format!("[[keys]]\n{of}kind = \"admin\"\nname = \"{project}\"\nkey = \"the own key of {project}\"\n");
    }
    std::fs::write(&config, text).unwrap();
    assert!(std::process::Command::new("kill").args(["-HUP", &server.pid().to_string()]).status().unwrap().success());
    let shown =
        async |project: &str| server.call(&format!("the own key of {project}"), Method::GET, "/v1/config", None).await;
    server.until("the keys count", async || shown("default").await.status == 200).await;
    for project in ["default", "red", "blue"] {
        let shown = shown(project).await.body;
        assert_eq!(shown["projects"], json!([{"project": project, "identity_secret": ["(hidden)"]}]), "{project}");
        let keys = shown["keys"].as_array().expect("a list");
        assert_eq!((keys.len(), &keys[0]["name"]), (1, &json!(project)), "{project}: {keys:?}");
    }
}
