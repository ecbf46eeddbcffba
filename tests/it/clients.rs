//! Clients that mean harm or do not care: they lose their own place, memory
//! stays within its bound, and whoever behaves is served within a second.
//!
//! `script/soak` runs these with the numbers of a real attack, through
//! `ASKWHEN_TEST_CONNECTIONS` and `ASKWHEN_TEST_USERS`.

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Server, open_survey};

fn count(name: &str, standard: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(standard)
}

async fn server(environment: &[(&str, &str)]) -> Server {
    Server::on(Arc::new(tempfile::tempdir().unwrap()), &["--dev"], environment).await
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Everything that comes until the connection is closed or nothing comes any more.
async fn answer(stream: &mut TcpStream) -> (String, bool) {
    let (mut all, mut piece) = (Vec::new(), vec![0; 65_536]);
    loop {
        match tokio::time::timeout(Duration::from_secs(3), stream.read(&mut piece)).await {
            Err(_) => return (String::from_utf8_lossy(&all).into_owned(), false),
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&all).into_owned(), true),
            Ok(Ok(n)) => all.extend_from_slice(&piece[..n]),
        }
    }
}

async fn ask(server: &Server, request: &str) -> (String, bool) {
    let mut stream = connect(server).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    answer(&mut stream).await
}

fn resident_mib(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number") >> 10
}

/// A well-behaved client on a connection of its own, every few milliseconds for a
/// while; gives the longest that it waited.
async fn behaves_well(server: &Server, span: Duration) -> Duration {
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    let body = json!({"user_id": "ann", "event_name": "x", "properties": {}}).to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        server.server,
        body.len()
    );
    while began.elapsed() < span {
        let asked = Instant::now();
        let mut stream = connect(server).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "no answer within 10 s");
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or("closed").to_owned();
        assert!(line.contains(" 202 "), "{line}");
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    longest
}

#[tokio::test]
async fn what_two_parsers_may_read_in_two_ways_ends_the_connection() {
    let server = server(&[]).await;
    let post = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        server.server
    );
    let event = json!({"user_id": "u", "event_name": "x"}).to_string();
    let length = format!("Content-Length: {}\r\n", event.len());
    let hidden = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    for (what, request) in [
        ("bare LF", "GET /livez HTTP/1.1\nHost: a\n\n".to_owned()),
        ("one bare LF", "GET /livez HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".to_owned()),
        ("two equal lengths", format!("{post}{length}{length}\r\n{event}")),
        ("two lengths", format!("{post}{length}Content-Length: 3\r\n\r\n{event}")),
        ("a list of lengths", format!("{post}Content-Length: {0}, {0}\r\n\r\n{event}", event.len())),
        ("length and chunks", format!("{post}{length}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}")),
        ("chunks and length", format!("{post}Transfer-Encoding: chunked\r\n{length}\r\n0\r\n\r\n{hidden}")),
        ("another coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("a folded header", format!("{post}{length}X: 1\r\n\tfolded\r\n\r\n{event}")),
        ("a space before the colon", format!("{post}Content-Length : {}\r\n\r\n{event}", event.len())),
        ("no host", "GET /livez HTTP/1.1\r\n\r\n".to_owned()),
        ("two hosts", "GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned()),
        ("a control character", "GET /livez HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n".to_owned()),
        ("another version", "GET /livez HTTP/3.0\r\nHost: a\r\n\r\n".to_owned()),
    ] {
        let (said, closed) = ask(&server, &request).await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{what}: {said}");
        assert!(closed && said.matches("x-request-id:").count() == 1, "{what}: one answer, then the end: {said}");
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("connection: close"), "{what}: {head}");
        let problem: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{what}: {e}: {body}"));
        assert_eq!((&problem["code"], &problem["status"]), (&json!("bad_request"), &json!(400)), "{what}");
    }
    let many = format!("GET /livez HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert!(ask(&server, &many).await.0.starts_with("HTTP/1.1 431 "));
    let pipelined = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3) + "GET /livez HTTP/1.1\nHost: a\r\n\r\n";
    let (said, closed) = ask(&server, &pipelined).await;
    assert!(said.matches("HTTP/1.1 200 ").count() == 3 && closed, "what came before is answered: {said}");
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_is_passed_over_or_ends_the_connection() {
    let server = server(&[]).await;
    let get = "GET /livez HTTP/1.1\r\nHost: a\r\n";
    let next = format!("{get}\r\n");
    for framed in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let (said, _) = ask(&server, &format!("{get}{framed}{next}")).await;
        assert_eq!(said.matches("HTTP/1.1 200 ").count(), 2, "it is not taken for a request: {said}");
    }
    let began = Instant::now();
    let (said, closed) = ask(&server, &format!("{get}Content-Length: 500\r\n\r\n{next}")).await;
    assert!(closed && said.to_lowercase().contains("connection: close"), "the rest never comes: {said}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let chunks = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}x0\r\n\r\n{next}",
        server.server
    );
    let (said, closed) = ask(&server, &chunks).await;
    assert!(said.starts_with("HTTP/1.1 400 ") && closed && said.matches("x-request-id:").count() == 1, "{said}");
}

#[tokio::test]
async fn idle_connections_are_kept_as_long_as_configured_and_heads_have_their_own_deadline() {
    let server = server(&[("ASKWHEN__HTTP__KEEP_ALIVE", "2s")]).await;
    let request = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept = connect(&server).await;
    for _ in 0..3 {
        kept.write_all(request).await.unwrap();
        let mut said = [0; 12];
        kept.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200");
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        while kept.try_read(&mut [0; 4_096]).is_ok_and(|n| n > 0) {}
    }
    let began = Instant::now();
    assert!(answer(&mut kept).await.1 && began.elapsed() < Duration::from_secs(3), "then it is closed");
    let (mut slow, began) = (connect(&server).await, Instant::now());
    let dribbled = async {
        for byte in request.iter().cycle().filter(|byte| **byte != b'\n' && **byte != b'\r') {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut said = [0; 1_024];
            match slow.try_read(&mut said) {
                Ok(0) => break,
                Ok(n) => return String::from_utf8_lossy(&said[..n]).into_owned(),
                Err(_) => {}
            }
        }
        String::new()
    };
    let said = tokio::time::timeout(Duration::from_secs(30), dribbled).await.expect("it is given up");
    assert!(said.starts_with("HTTP/1.1 408 ") && began.elapsed() > Duration::from_secs(10), "{said}");
}

/// Places are few here; each of the misbehaved kinds takes more than there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_take_all_places_give_way_to_those_who_behave() {
    let places = "200";
    let many = count("ASKWHEN_TEST_CONNECTIONS", 600);
    let places = if many > 600 { "8192" } else { places };
    let server = server(&[("ASKWHEN__HTTP__MAX_CONNECTIONS", places)]).await;
    let pipelined = "GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        server.server
    );
    for (what, sends) in [
        ("silent", String::new()),
        ("half a head", "POST /v1/events HTTP/1.1\r\nHo".to_owned()),
        ("half a body", format!("{head}Content-Length: 1000\r\n\r\n{{")),
        ("half a chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\n100\r\n{{")),
        ("answers never read", pipelined),
    ] {
        let mut held = Vec::new();
        for _ in 0..many {
            let mut stream = connect(&server).await;
            // It may have been told to leave already.
            stream.write_all(sends.as_bytes()).await.ok();
            held.push(stream);
        }
        let longest = behaves_well(&server, Duration::from_secs(3)).await;
        assert!(longest < Duration::from_secs(1), "{what}: a healthy client waited {longest:?}");
        println!("{many} connections, {what}: longest {longest:?}, {} MiB", resident_mib(&server));
        drop(held);
    }
    assert_eq!(server.get("/readyz").await.status, 200);
}

/// More clients than places, each with a connection that it keeps: one that is closed while
/// it is idle is opened anew, and whoever has sent a request is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_asked_is_answered_although_its_place_was_wanted() {
    let server = Arc::new(server(&[("ASKWHEN__HTTP__MAX_CONNECTIONS", "16")]).await);
    let body = json!({"user_id": "ann", "event_name": "x"}).to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        server.server,
        body.len()
    );
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..80 {
        let (server, request) = (server.clone(), request.clone());
        clients.spawn(async move {
            let (mut stream, mut answered) = (connect(&server).await, 0);
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(5) {
                let mut piece = vec![0; 4_096];
                let read = match stream.write_all(request.as_bytes()).await {
                    Ok(()) => stream.read(&mut piece).await.unwrap_or(0),
                    Err(_) => 0,
                };
                match String::from_utf8_lossy(&piece[..read]).lines().next() {
                    None => stream = connect(&server).await,
                    Some(line) => {
                        assert!(line.contains(" 202 "), "{line}");
                        answered += 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answered
        });
    }
    let answered: usize = clients.join_all().await.into_iter().sum();
    assert!(answered > 100, "{answered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_and_unread_answers_stay_within_the_memory() {
    let many = count("ASKWHEN_TEST_CONNECTIONS", 400);
    let memory = if many > 400 { 512 } else { 192 };
    let server = server(&[("ASKWHEN__ENGINE__MEMORY", &format!("{memory}MiB"))]).await;
    let bound = memory + memory * 15 / 100;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
        server.server
    );
    let most = vec![b' '; (1 << 20) - 1];
    let mut held = Vec::new();
    for n in 0..many {
        let mut stream = connect(&server).await;
        let framing =
            if n % 2 == 0 { "Content-Length: 1048576\r\n\r\n" } else { "Transfer-Encoding: chunked\r\n\r\nfffff\r\n" };
        stream.write_all(format!("{head}{framing}").as_bytes()).await.ok();
        let body = most.clone();
        // Whoever is not read from waits for ever.
        held.push(tokio::spawn(async move {
            stream.write_all(&body).await.ok();
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(stream);
        }));
    }
    let longest = behaves_well(&server, Duration::from_secs(5)).await;
    let resident = resident_mib(&server);
    println!("{many} unfinished bodies of 1 MiB: {resident} of {memory} MiB, a healthy client waited {longest:?}");
    assert!(resident <= bound, "{resident} MiB with a memory of {memory} MiB");
    assert!(longest < Duration::from_secs(1), "a healthy client waited {longest:?}");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    server.put("/v1/surveys/open", open_survey()).await;
    let mut held = Vec::new();
    let list = format!("GET /v1/surveys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", server.admin);
    for _ in 0..many {
        let mut stream = connect(&server).await;
        stream.write_all(list.repeat(500).as_bytes()).await.ok();
        held.push(stream);
    }
    let longest = behaves_well(&server, Duration::from_secs(3)).await;
    let resident = resident_mib(&server);
    println!("{many} who read no answers: {resident} of {memory} MiB, a healthy client waited {longest:?}");
    assert!(resident <= bound && longest < Duration::from_secs(1), "{resident} MiB, {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_users_stay_within_the_memory() {
    let many = count("ASKWHEN_TEST_USERS", 3_000);
    let memory = if many > 3_000 { 512 } else { 192 };
    let flags = [("ASKWHEN__ENGINE__MEMORY", format!("{memory}MiB")), ("ASKWHEN__LIMITS__PER_KEY", "1000000/s".into())];
    let flags: Vec<(&str, &str)> = flags.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Arc::new(server(&flags).await);
    server.put("/v1/surveys/open", open_survey()).await;
    let attributes: serde_json::Map<String, Value> =
        (0..100).map(|n| (format!("attribute-{n}"), "x".repeat(280).into())).collect();
    let body = Arc::new(json!({"attributes": attributes}));
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (server, body, next) = (server.clone(), body.clone(), next.clone());
        writers.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
                if n >= many {
                    return;
                }
                let path = format!("/v1/users/u{n}");
                let said = server.call(&server.server, reqwest::Method::PUT, &path, Some(&body)).await;
                assert_eq!(said.status, 202, "{said:?}");
            }
        });
    }
    let mut most = 0;
    while let Some(done) = writers.join_next().await {
        done.unwrap();
        most = most.max(resident_mib(&server));
    }
    for n in (0..many).step_by(7) {
        let known = server.get(&format!("/v1/users/u{n}")).await.body;
        assert_eq!(known["attributes"].as_object().map(serde_json::Map::len), Some(100), "{known}");
        most = most.max(resident_mib(&server));
    }
    println!("{many} users of 30 KB: at most {most} of {memory} MiB");
    assert!(most <= memory + memory * 15 / 100, "{most} MiB with a memory of {memory} MiB");
}

/// Every partition decides by every definition, and knows its past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_definitions_are_held_once() {
    let server = server(&[("ASKWHEN__ENGINE__MEMORY", "256MiB"), ("ASKWHEN__LIMITS__PER_KEY", "1000000/s")]).await;
    let before = resident_mib(&server);
    let (mut text_bytes, mut most) = (0, 0);
    for version in 0..6 {
        for n in 0..20 {
            let question =
                |m: usize| json!({"question_id": format!("q{m}"), "type": "text", "text": "x".repeat(1_000)});
            let mut body = open_survey();
            body["name"] = json!(format!("version {version}"));
            body["questions"] = (0..100).map(question).collect();
            text_bytes += body.to_string().len();
            server.put(&format!("/v1/surveys/wide-{n}"), body).await;
            most = most.max(resident_mib(&server));
        }
    }
    let text_mib = text_bytes >> 20;
    println!("{text_mib} MiB of definitions: {before} MiB before, at most {most}");
    // What every partition wrote down is in write buffers for a while, within their bound.
    let metrics = String::from_utf8_lossy(&server.get("/metrics").await.bytes).into_owned();
    let counted = metrics.lines().find_map(|line| line.strip_prefix("askwhen_memory_bytes{part=\"definitions\"} "));
    let counted = counted.expect("it is there").parse::<usize>().expect("a number") >> 20;
    assert!((text_mib..8 * text_mib).contains(&counted), "{counted} MiB counted, of {text_mib}");
    assert!(most <= 256 + 256 * 15 / 100, "{most} MiB with a memory of 256 MiB");
}

#[tokio::test]
async fn the_description_is_made_once_and_has_a_tag() {
    let server = server(&[]).await;
    let first = server.get("/openapi.json").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let request = server.request(reqwest::Method::GET, "/openapi.json").header("if-none-match", &tag);
    let known = Server::said(request).await;
    assert_eq!((known.status, known.bytes.len(), known.headers["etag"].to_str().unwrap()), (304, 0, tag.as_str()));
    let request = server.request(reqwest::Method::GET, "/openapi.json").header("if-none-match", "\"another\"");
    assert_eq!(Server::said(request).await.bytes, first.bytes);
}
