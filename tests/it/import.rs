//! History from files: its times kept, wrong lines set aside, run again without
//! harm.

use serde_json::{Value, json};
use std::fmt::Write as _;

use crate::harness::{Server, askwhen, tail};

fn run(server: &Server, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut all = vec!["--data-dir", "data", "--output", "json", "import"];
    all.extend(arguments);
    all.extend(["--server", server.base.as_str()]);
    let (code, out, error) = askwhen(server.dir.path(), &all);
    (code, serde_json::from_str(&out).unwrap_or(Value::Null), error)
}

fn events(server: &Server) -> Vec<Value> {
    let records = tail(server.dir.path(), "events");
    records.into_iter().map(|record| record["value"].clone()).filter(|value| value["type"] == "event").collect()
}

#[tokio::test]
async fn a_file_goes_in_once_and_its_wrong_lines_are_kept() {
    let server = Server::start().await;
    let dir = server.dir.path();
    let now = utc_now();
    let mut text = String::new();
    for n in 0..2_500 {
        writeln!(
            text,
            "{{\"user_id\":\"u{n}\",\"event_name\":\"woke\",\"occurred_at\":\"{now}\",\"properties\":{{\"n\":{n}.50}}}}"
        )
        .unwrap();
    }
    text.push_str("{\"user_id\":\"u\",\"event_name\":\"woke\"}\n\nno json\n");
    writeln!(text, "{{\"user_id\":\"\",\"event_name\":\"woke\",\"occurred_at\":\"{now}\"}}").unwrap();
    writeln!(
        text,
        "{{\"user_id\":\"u\",\"event_name\":\"woke\",\"occurred_at\":\"{now}\",\"x\":\"{}\"}}",
        "y".repeat(70_000)
    )
    .unwrap();
    write!(
        text,
        "{{\"user_id\":\"last\",\"event_name\":\"woke\",\"occurred_at\":\"2020-01-01T00:00:00Z\",\"event_id\":\"own\"}}"
    )
    .unwrap();
    std::fs::write(dir.join("history.ndjson"), &text).unwrap();
    let (code, said, error) = run(&server, &["history.ndjson"]);
    assert_eq!(
        (code, &said["accepted"], &said["rejected"], &said["lines"]),
        (Some(1), &json!(2501), &json!(4), &json!(2506)),
        "{error}"
    );
    let rejects = std::fs::read_to_string(dir.join("history.ndjson.rejects.ndjson")).unwrap();
    let lines: Vec<u64> =
        rejects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2501, 2503, 2504, 2505], "{rejects}");
    let all = events(&server);
    assert_eq!(all.len(), 2501);
    let kept = all.iter().find(|event| event["user_id"] == "last").unwrap();
    assert_eq!(
        (&kept["occurred_at"], &kept["event_id"]),
        (&json!("2020-01-01T00:00:00.000Z"), &json!("own")),
        "{kept}"
    );
    let (code, said, _) = run(&server, &["history.ndjson"]);
    assert_eq!(
        (code, &said["accepted"], events(&server).len()),
        (Some(1), &json!(2501), 2501),
        "it was imported before"
    );
    // It has grown since: what is new goes in.
    text.push_str("\n{\"user_id\":\"new\",\"event_name\":\"woke\",\"occurred_at\":\"2020-01-02T00:00:00Z\"}\n");
    std::fs::write(dir.join("history.ndjson"), &text).unwrap();
    let (_, said, error) = run(&server, &["history.ndjson"]);
    assert_eq!((&said["accepted"], events(&server).len()), (&json!(2502), 2502), "{error}");
    let other = text.replacen("u17", "u18", 1);
    std::fs::write(dir.join("history.ndjson"), &other).unwrap();
    let (code, _, error) = run(&server, &["history.ndjson"]);
    assert!(code == Some(2) && error.contains("another file"), "{error}");
    std::fs::write(dir.join("history.ndjson"), &text).unwrap();
    // As if it had been killed before anything was noted: the ids are the same.
    std::fs::remove_file(dir.join("history.ndjson.import.json")).unwrap();
    assert_eq!(run(&server, &["history.ndjson"]).0, Some(1));
    let ids: std::collections::BTreeSet<String> =
        events(&server).iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 2502, "every event once, by its id");
}

/// As spreadsheets for the Macintosh write tables.
#[tokio::test]
async fn lines_that_end_in_a_carriage_return_alone_are_lines() {
    let server = Server::start().await;
    let now = utc_now();
    let rows = |end: &str| format!("user_id,event_name,occurred_at{end}u1,im,{now}{end}u2,\"i m\",{now}{end}");
    for (n, (name, end)) in [("cr.csv", "\r"), ("crlf.csv", "\r\n"), ("lf.csv", "\n")].into_iter().enumerate() {
        std::fs::write(server.dir.path().join(name), rows(end)).expect("written");
        for turn in ["first", "once more"] {
            let (code, said, error) = run(&server, &[name]);
            assert_eq!(
                (code, &said["accepted"], &said["lines"]),
                (Some(0), &json!(2), &json!(3)),
                "{name} {turn}: {error}"
            );
            assert_eq!(events(&server).len(), 2 * (n + 1), "{name} {turn}");
        }
    }
}

fn utc_now() -> String {
    let (_, text) = crate::harness::run("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"], "");
    text.trim().to_owned()
}

#[tokio::test]
async fn old_events_arm_nothing_and_young_ones_do() {
    let server = Server::start().await;
    let mut survey = crate::harness::open_survey();
    (survey["activate"], survey["expires_after"]) = (json!({"event": "woke"}), json!("2h"));
    server.put("/v1/surveys/open", survey).await;
    let now = utc_now();
    let table = format!(
        "user_id,event_name,occurred_at,minutes,properties.deep\r\n\
         old,woke,2020-01-01T00:00:00Z,5,x\r\nyoung,woke,{now},7.5,\"a, \"\"b\"\"\"\r\nshort,woke\r\n"
    );
    std::fs::write(server.dir.path().join("history.csv"), table).unwrap();
    let (code, said, error) = run(&server, &["history.csv"]);
    assert_eq!((code, &said["accepted"], &said["rejected"]), (Some(1), &json!(2), &json!(1)), "{error}");
    assert_eq!(server.trigger("old", "Main").await["survey"], Value::Null);
    assert_eq!(server.trigger("young", "Main").await["survey"]["survey_id"], "open");
    let young = events(&server).into_iter().find(|event| event["user_id"] == "young").unwrap();
    assert_eq!(young["properties"], json!({"minutes": 7.5, "deep": "a, \"b\""}));
    let odd = "user_id,event_name,occurred_at,note\r\n\r\nq1,woke,nope,\r\nq2,woke,2020-01-01T00:00:00Z,\"two\r\nlines\"\r\n\
               q3,woke,nope,\r\nq4,woke,2020-01-01T00:00:00Z,\"open\r\nq5,woke,2020-01-01T00:00:00Z,x\r\n\
               q6\u{0},woke,2020-01-01T00:00:00Z,x\r\n";
    let bytes = [b"\xef\xbb\xbf".as_slice(), odd.as_bytes(), b"q\xff,woke,2020-01-01T00:00:00Z,x\r\n"].concat();
    std::fs::write(server.dir.path().join("odd.csv"), bytes).unwrap();
    let (code, said, error) = run(&server, &["odd.csv"]);
    assert_eq!((code, &said["accepted"]), (Some(1), &json!(2)), "{error}");
    let rejects = std::fs::read_to_string(server.dir.path().join("odd.csv.rejects.ndjson")).unwrap();
    let lines: Vec<u64> =
        rejects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 6, 7, 9, 10], "{rejects}");
    std::fs::write(server.dir.path().join("mine.txt"), "mine\n").unwrap();
    for (arguments, part) in [
        (&["odd.csv", "--again", "--rejects", "odd.csv"][..], "is imported"),
        (&["odd.csv", "--again", "--rejects", "mine.txt"], "holds no rejects"),
        (&["nothing.ndjson"], "cannot be read"),
        (&["history"], "--format"),
        (&["history.csv", "--rate", "fast"], "rate"),
    ] {
        let (code, _, error) = run(&server, arguments);
        assert!(code == Some(2) && error.contains(part), "{arguments:?}: {error}");
    }
}
