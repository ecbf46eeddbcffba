//! The pages that tell how to do a task: every block in them is run as it stands.

use serde_json::{Value, json};
use std::path::Path;

use crate::harness::{BINARY, Receiver, Server, run};

/// The blocks of a page that a shell runs.
fn blocks(page: &str) -> Vec<String> {
    let after = page.split("```sh\n").skip(1);
    after.map(|rest| rest.split("\n```").next().expect("a block ends").to_owned()).collect()
}

/// Runs one in a folder, with the program at hand; what stands on the left is
/// elsewhere in a test.
fn shell(dir: &Path, server: &str, block: &str, elsewhere: &[(&str, &str)]) -> String {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = bin.join("askwhen");
    if !program.exists() {
        std::os::unix::fs::symlink(BINARY, program).unwrap();
    }
    let mut script = block.to_owned();
    for (page, test) in elsewhere {
        assert!(script.contains(page), "{page} in {script}");
        script = script.replace(page, test);
    }
    let set_up = format!(
        "set -eu\ncd {}\nexport PATH={}:$PATH ASKWHEN_SERVER={server}\n{script}\n",
        dir.display(),
        bin.display()
    );
    let (fine, said) = run("bash", &["-c", &set_up], "");
    assert!(fine, "{block}\n{said}");
    said
}

/// A server with a day of somebody's life.
async fn a_server() -> Server {
    let server = Server::start().await;
    let body = json!({"name": "Open", "status": "active", "show_on": [{"trigger": "MainActivity"}],
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]});
    server.put("/v1/surveys/open", body).await;
    for n in 0..6 {
        let user = format!("u{n}");
        server.event(&user, "ended_sleep", json!({})).await;
        let decision = server.trigger(&user, "MainActivity").await;
        let offer = decision["survey"]["offer_id"].as_str().unwrap().to_owned();
        let body = json!({"answers": [{"question_id": "q1", "value": 4}], "completed": true});
        assert_eq!(server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await.status, 200);
    }
    server
}

/// What README does in three terminals, twice over, and on the command line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_surveys_are_asked_answered_and_verified() {
    let server = Server::start().await;
    let dir = server.dir.path();
    let page = blocks(include_str!("../../README.md"));
    assert_eq!(page.len(), 3);
    // The script builds what is here already.
    std::fs::create_dir_all(dir.join("script")).unwrap();
    std::os::unix::fs::symlink(BINARY, dir.join("script/server")).unwrap();
    let log = std::fs::File::create(dir.join("received")).unwrap();
    let (make, listen) = page[0].split_once('\n').unwrap();
    shell(dir, &server.base, make, &[]);
    let listen = format!("cd {} && exec {listen} --listen 127.0.0.1:0", dir.display());
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &listen]).stdout(log).stderr(std::process::Stdio::piped());
    let mut listener = command.spawn().unwrap();
    let mut line = String::new();
    let errors = listener.stderr.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(errors), &mut line).unwrap();
    let url = line.trim().strip_prefix("askwhen webhook listens on ").unwrap_or_else(|| panic!("{line}"));
    let elsewhere = [("http://127.0.0.1:8080", server.base.as_str()), ("http://127.0.0.1:9000", url)];
    let verified =
        || std::fs::read_to_string(dir.join("received")).unwrap().matches(", verified, answered 200").count();
    for turn in 1..=2 {
        let said = shell(dir, &server.base, &page[1], &elsewhere);
        assert!(said.contains("\"reason\":\"offered\"") && said.contains("\"survey_id\":\"sleep-quality\""), "{said}");
        // Each answer and each completion.
        server.until("it is received", async || verified() >= 2 * turn).await;
    }
    let said = shell(dir, &server.base, &page[2], &[]);
    assert!(said.contains("unchanged") && said.contains("accepted") && said.contains("max_displays"), "{said}");
    server.until("the third is received", async || verified() == 6).await;
    assert!(!std::fs::read_to_string(dir.join("received")).unwrap().contains("NOT GENUINE"));
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_crm_gets_what_it_missed() {
    let server = a_server().await;
    let receiver = Receiver::start(&[]).await;
    let page = blocks(include_str!("../../docs/new-crm.md"));
    let dir = server.dir.path();
    shell(dir, &server.base, &page[0], &[("http://127.0.0.1:9000", &receiver.url)]);
    assert_eq!(receiver.wait(1).await.len(), 1, "the test");
    let said = shell(dir, &server.base, &page[1], &[]);
    let got = receiver.wait(13).await;
    assert!(got.len() == 13, "answers and completions of six users, each once: {said}");
    let said = shell(dir, &server.base, &page[2], &[]);
    assert!(said.contains('2'), "{said}");
}

#[tokio::test]
async fn a_survey_is_planned() {
    let server = a_server().await;
    let page = blocks(include_str!("../../docs/plan-a-survey.md"));
    assert_eq!(page.len(), 2);
    let said: Vec<String> = page.iter().map(|block| shell(server.dir.path(), &server.base, block, &[])).collect();
    assert!(said[0].contains("users reached") && said[0].contains("\nsleep-quality\n"), "{}", said[0]);
    assert!(said[1].contains("report.html") && server.dir.path().join("report.html").exists(), "{}", said[1]);
}

#[tokio::test]
async fn a_changed_engine_is_compared_and_promoted() {
    let server = a_server().await;
    let page = blocks(include_str!("../../docs/changed-engine.md"));
    let said = shell(server.dir.path(), &server.base, &page[0], &[]);
    assert!(said.contains("0 differences"), "{said}");
    let (dir, _) = server.terminate();
    let said = shell(dir.path(), "", &page[1], &[]);
    assert!(said.contains("is in place"), "{said}");
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    assert_eq!(server.get("/v1/users/u1").await.body["known"], true);
}

#[tokio::test]
async fn a_lost_machine_is_replaced() {
    let server = a_server().await;
    let page = blocks(include_str!("../../docs/lost-machine.md"));
    let place = tempfile::tempdir().unwrap();
    let elsewhere = [("/var/backups/askwhen", place.path().to_str().unwrap())];
    shell(server.dir.path(), &server.base, &page[0], &elsewhere);
    let dir = server.kill();
    let said = shell(dir.path(), "", &page[1], &elsewhere);
    assert!(said.contains("is restored to fresh") && said.contains("0 differences"), "{said}");
    std::fs::remove_dir_all(dir.path().join("data")).unwrap();
    std::fs::rename(dir.path().join("fresh"), dir.path().join("data")).unwrap();
    let server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    let user: Value = server.get("/v1/users/u1").await.body;
    assert_eq!((&user["known"], user["offers"].as_array().map(Vec::len)), (&json!(true), Some(1)));
}
