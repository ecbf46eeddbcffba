//! `docs/api.md`: every request that it shows is sent to a server, in its order, and
//! answered as it shows.

use reqwest::Method;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

use crate::harness::{Receiver, Said, Server};

const PAGE: &str = include_str!("../../docs/api.md");
/// Where the page has its receivers.
const RECEIVERS: [&str; 2] = ["http://127.0.0.1:9000/hooks", "http://127.0.0.1:9000/archive"];
/// Members by which later requests name what came before.
const NAMES: [&str; 4] = ["offer_id", "delivery_id", "key_id", "job_id"];

/// A request of the page, and its answer.
struct Example {
    /// The kind of key, or `none`.
    key: &'static str,
    method: Method,
    path: &'static str,
    body: Option<String>,
    status: u16,
    answer: Value,
}

/// What is fenced as `http KIND`, with the `json STATUS` behind it.
fn examples(receiver: &str) -> Vec<Example> {
    let mut all = Vec::new();
    let text = |shown: &str| RECEIVERS.iter().fold(shown.to_owned(), |text, url| text.replace(url, receiver));
    for part in PAGE.split("```http ").skip(1) {
        let (key, rest) = part.split_once('\n').expect("a kind of key");
        let (request, rest) = rest.split_once("\n```").expect("it ends");
        let (head, body) = request.split_once("\n\n").map_or((request, None), |(head, body)| (head, Some(body)));
        let (method, path) = head.split_once(' ').expect("a method and a path");
        let answer = rest.split_once("```json ").expect("an answer").1;
        let (status, answer) = answer.split_once('\n').expect("a status");
        let answer = answer.split_once("\n```").expect("it ends").0;
        all.push(Example {
            key,
            method: method.parse().expect("a method"),
            path,
            body: body.map(text),
            status: status.parse().expect("a status"),
            answer: serde_json::from_str(&text(answer)).unwrap_or_else(|e| panic!("{head}: {e}")),
        });
    }
    all
}

fn is_time(text: &str) -> bool {
    askwhen_domain::time::parse_time(text).is_ok()
}

/// Where an answer is not as the page shows it; `…` stands for anything.
pub fn difference(shown: &Value, came: &Value, at: &str) -> Option<String> {
    let other = || Some(format!("{at}: the page has {shown}, and {came} came"));
    match (shown, came) {
        (Value::String(shown), _) if shown == "…" => None,
        (Value::String(shown), Value::String(came)) => {
            let fits = match shown.split_once('…') {
                Some((begins, ends)) => came.starts_with(begins) && came.ends_with(ends),
                None => shown == came || (is_time(shown) && is_time(came)),
            };
            if fits { None } else { other() }
        }
        (Value::Object(shown), Value::Object(came)) => {
            let names = |members: &Map<String, Value>| members.keys().cloned().collect::<Vec<_>>();
            if names(shown) != names(came) {
                return Some(format!("{at}: the page has the members {:?}, and {:?} came", names(shown), names(came)));
            }
            shown.iter().find_map(|(name, value)| difference(value, &came[name], &format!("{at}/{name}")))
        }
        (Value::Array(shown), Value::Array(came)) if shown.len() == came.len() => {
            let pairs = shown.iter().zip(came).enumerate();
            pairs.into_iter().find_map(|(i, (shown, came))| difference(shown, came, &format!("{at}/{i}")))
        }
        (shown, came) if shown == came => None,
        _ => other(),
    }
}

/// Takes note of what later requests are about.
fn note(came: &Value, names: &mut HashMap<&'static str, String>) {
    match came {
        Value::Object(members) => {
            for (name, value) in members {
                let known = NAMES.into_iter().find(|known| *known == name.as_str());
                if let (Some(known), Some(id)) = (known, value.as_str()) {
                    names.insert(known, id.to_owned());
                }
                note(value, names);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| note(value, names)),
        _ => {}
    }
}

async fn send(server: &Server, example: &Example, path: &str) -> Said {
    let mut request = server.request(example.method.clone(), path);
    let key = match example.key {
        "client" => Some(&server.client),
        "server" => Some(&server.server),
        "admin" => Some(&server.admin),
        kind => {
            assert_eq!(kind, "none");
            None
        }
    };
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    if let Some(body) = &example.body {
        request = request.header("content-type", "application/json").body(body.clone());
    }
    Server::said(request).await
}

#[tokio::test]
async fn every_example_is_answered_as_the_page_shows() {
    let receiver = Receiver::start(&[]).await;
    let one_partition = [("ASKWHEN__LOG__PARTITIONS", "1")];
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let server = Server::on(folder, &["--dev", "--test-clock"], &one_partition).await;
    let mut names: HashMap<&'static str, String> = HashMap::new();
    let all = examples(&receiver.url);
    assert!(all.len() > 50, "{}", all.len());
    for example in &all {
        let mut path = example.path.to_owned();
        for (name, id) in &names {
            path = path.replace(&format!("{{{name}}}"), id);
        }
        // Lists come a moment after what they list, and so does a second snapshot.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
        let is_looking = example.method == Method::GET || example.path == "/v1/snapshots";
        loop {
            let said = send(&server, example, &path).await;
            let wrong = if said.status == example.status {
                difference(&example.answer, &said.body, "")
            } else {
                Some(format!("status {} instead of {}: {}", said.status, example.status, said.body))
            };
            let Some(wrong) = wrong else {
                note(&said.body, &mut names);
                break;
            };
            let is_over = !is_looking || std::time::Instant::now() >= deadline;
            assert!(!is_over, "{} {path}: {wrong}", example.method);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    // Whatever the server knows stands on the page, as an example or in a sentence.
    let known = server.get("/openapi.json").await.body;
    for (template, methods) in known["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys().map(|name| name.to_uppercase()) {
            let is_of = |example: &&Example| {
                let path = example.path.split('?').next().unwrap_or_default();
                let (own, parts): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
                let fits = |(own, part): (&&str, &&str)| own == part || own.starts_with('{');
                example.method.as_str() == method && own.len() == parts.len() && own.iter().zip(&parts).all(fits)
            };
            let is_told = PAGE.contains(&format!("`{method} {template}`"));
            assert!(is_told || all.iter().any(|example| is_of(&example)), "{method} {template} is not on the page");
        }
    }
}
