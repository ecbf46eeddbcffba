//! What a survey would have done is what it does when it is really active.

use serde_json::{Value, json};
use std::path::Path;

use crate::harness::{KAFKA_PARTITIONS, ON_KAFKA, Receiver, Server, askwhen, tail};

/// What the app does with an offer.
#[derive(Clone, Copy, PartialEq)]
pub enum App {
    Ignores,
    Displays,
    Answers,
}

/// A few days of some users: the same events and triggers wherever it is told.
pub async fn days(server: &Server, app: App) {
    for step in 0..14 {
        for n in 0..18 {
            let user = format!("user{n}");
            if (step + n) % 3 == 0 {
                server.event(&user, "woke", json!({"minutes": 60 * (n % 4)})).await;
            }
            if (step * 5 + n) % 4 == 0 {
                server.event(&user, "slept", json!({})).await;
            }
            if (step * n) % 5 != 1 {
                shown(server, app, &user, "Main", step).await;
            }
            if step % 4 == 3 {
                shown(server, app, &user, "Side", step).await;
            }
        }
        server.advance("7h").await;
    }
}

async fn shown(server: &Server, app: App, user: &str, trigger: &str, step: usize) {
    let body = json!({"context": {"session_id": format!("s{step}"), "platform": if step.is_multiple_of(3) { "ios" } else { "web" }}});
    let said = server.post(&format!("/v1/users/{user}/triggers/{trigger}"), body).await;
    assert_eq!(said.status, 200, "{said:?}");
    let Some(offer) = said.body["survey"]["offer_id"].as_str() else { return };
    if app != App::Ignores {
        let path = format!("/v1/users/{user}/offers/{offer}/displayed");
        assert_eq!(server.post(&path, json!({})).await.status, 200);
    }
    if app == App::Answers {
        let body = json!({"answers": [{"question_id": "q1", "value": 4}], "completed": true});
        let said = server.post(&format!("/v1/users/{user}/offers/{offer}/answers"), body).await;
        assert_eq!(said.status, 200, "{said:?}");
    }
}

pub fn tried() -> Value {
    json!({"kind": "survey", "survey_id": "tried", "name": "Tried", "status": "active", "priority": 5,
        "activate": {"event": "woke", "where": [{"property": "minutes", "op": "gte", "value": 60}]},
        "expires_after": "20h", "cancel_on": [{"event": "slept"}],
        "show_on": [{"trigger": "Main"}, {"trigger": "Side"}], "platforms": ["web"],
        "sampling": {"percent": 80},
        "frequency": {"repeat": "until_completed", "cooldown": "1d", "max_displays": 3},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
}

pub fn beside() -> Value {
    json!({"name": "Beside", "status": "active", "show_on": [{"trigger": "Main"}],
        "frequency": {"repeat": "until_completed", "cooldown": "2d"},
        "questions": [{"question_id": "q1", "type": "rating_star", "text": "How?"}]})
}

fn backtest(dir: &Path, arguments: &[&str]) -> Value {
    let all = [&["--data-dir", "data", "--output", "json", "backtest", "--from", "2020-01-01T00:00:00Z"], arguments];
    let (code, out, error) = askwhen(dir, &all.concat());
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&out).expect("JSON")
}

/// In the words of the statistics; and how many offers were made.
fn stats_of(survey: &Value) -> Value {
    let mut stats = serde_json::Map::new();
    for name in ["considered", "offered", "displayed", "dismissed", "answered", "completed", "not_offered"] {
        stats.insert(name.into(), survey[name].clone());
    }
    stats.into()
}

async fn live_stats(server: &Server, survey: &str, considered: u64) -> Value {
    let path = format!("/v1/surveys/{survey}/stats");
    server.until("the statistics", async || server.get(&path).await.body["considered"] == considered).await;
    stats_of(&server.get(&path).await.body)
}

async fn a_server(surveys: &[(&str, Value)]) -> Server {
    let server = Server::start().await;
    server.put("/v1/settings", json!({"global_cooldown": "12h"})).await;
    for (id, survey) in surveys {
        server.put(&format!("/v1/surveys/{id}"), survey.clone()).await;
    }
    std::fs::write(server.dir.path().join("tried.json"), tried().to_string()).unwrap();
    server
}

/// Whether it was there or not, alone or beside another, ignored, displayed or
/// answered, with a quota or without: the counts are those of the live engine.
#[tokio::test]
async fn a_backtest_is_what_the_live_engine_decides() {
    let mut limited = tried();
    limited["limits"] = json!({"max_completed": 5});
    for (app, survey, flags) in [
        (App::Ignores, tried(), &["--displays", "none"][..]),
        (App::Displays, tried(), &[]),
        (App::Answers, limited, &["--answers", "always"]),
    ] {
        let plain = |survey: &Value| {
            let mut body = survey.clone();
            body.as_object_mut().unwrap().remove("kind");
            body
        };
        let live = a_server(&[("beside", beside()), ("tried", plain(&survey))]).await;
        days(&live, app).await;
        // In the other log it is not there; what the app did to other offers is.
        let other = a_server(&[("beside", beside())]).await;
        days(&other, app).await;
        for server in [&live, &other] {
            std::fs::write(server.dir.path().join("tried.json"), survey.to_string()).unwrap();
        }
        let would = backtest(other.dir.path(), &[&["-f", "tried.json"], flags].concat());
        let tried = &would["versions"][0]["surveys"][0];
        let considered = tried["considered"].as_u64().unwrap();
        assert!(considered > 100 && tried["offers"].as_u64() > Some(3), "{would:#}");
        let stats = live_stats(&live, "tried", considered).await;
        assert_eq!(stats_of(tried), stats, "in a log without it");
        let again = backtest(live.dir.path(), &[&["-f", "tried.json"], flags].concat());
        assert_eq!(stats_of(&again["versions"][0]["surveys"][0]), stats, "in its own log");
        // The other survey fares as it did beside it.
        let others = would["versions"][0]["others"].as_array().unwrap();
        let decided = tail(live.dir.path(), "decisions");
        let offers: std::collections::BTreeSet<&str> = decided
            .iter()
            .filter(|record| record["value"]["survey"]["survey_id"] == "beside")
            .filter_map(|record| record["value"]["survey"]["offer_id"].as_str())
            .collect();
        assert_eq!(others[0]["offers_with"], offers.len(), "{would:#}");
        if app != App::Answers {
            assert!(others[0]["lost"].as_u64() > Some(0) && others[0]["lost_by"]["preempted"].is_u64(), "{would:#}");
        }
    }
}

/// Two versions of one survey are tried each for itself; a page says the same.
#[tokio::test]
async fn versions_are_compared_and_nothing_is_sent() {
    let receiver = Receiver::start(&[]).await;
    let server = a_server(&[("beside", beside())]).await;
    let endpoint = json!({"url": receiver.url, "events": ["response.*"], "profile": "standard"});
    server.put("/v1/endpoints/crm", endpoint).await;
    days(&server, App::Answers).await;
    let sent = server.get("/v1/surveys/beside/stats").await.body["completed"].as_u64().unwrap() as usize;
    receiver.wait(2 * sent).await;
    let dir = server.dir.path();
    let topics = ["events", "decisions", "responses", "deliveries", "definitions", "rejects"];
    let ends = || topics.map(|topic| tail(dir, topic).len());
    let (before, heard) = (ends(), receiver.got().len());
    let mut narrow = tried();
    narrow["sampling"] = json!({"percent": 20});
    narrow["status"] = json!("draft");
    std::fs::write(dir.join("narrow.json"), narrow.to_string()).unwrap();
    let arguments = ["-f", "tried.json", "narrow.json", "--answers", "rate=0.5", "--html", "report.html"];
    let both = backtest(dir, &arguments);
    let [wide, narrow] = [0, 1].map(|n| &both["versions"][n]["surveys"][0]);
    let offers = |survey: &Value| survey["offers"].as_u64().unwrap();
    assert!(offers(wide) > offers(narrow) && offers(narrow) > 0, "{both:#}");
    assert!(narrow["not_offered"]["not_sampled"].as_u64() > wide["not_offered"]["not_sampled"].as_u64());
    let completed = wide["completed"].as_u64().unwrap();
    assert!(completed > 0 && completed < offers(wide), "half of them answer: {both:#}");
    let by_day: u64 = wide["per_day"].as_object().unwrap().values().map(|day| day["new_users"].as_u64().unwrap()).sum();
    assert_eq!(wide["users_reached"], by_day);
    assert_eq!(both, {
        let mut again = backtest(dir, &arguments);
        for told in ["seconds", "records_per_second", "records_per_second_read_alone"] {
            again[told] = both[told].clone();
        }
        again
    });
    let page = std::fs::read_to_string(dir.join("report.html")).unwrap();
    assert!(page.matches("<svg").count() == 2 && page.ends_with("</html>\n"), "{page}");
    assert!(["http:", "https:", "<script", "url("].iter().all(|word| !page.contains(word)), "it fetches nothing");
    assert_eq!((ends(), receiver.got().len()), (before, heard), "nothing is written or sent");
    let alone = backtest(dir, &["-f", "tried.json", "--alone"]);
    assert!(offers(&alone["versions"][0]["surveys"][0]) >= offers(wide), "nothing is in its way");
    let (code, out, error) = askwhen(dir, &["--data-dir", "data", "backtest", "-f", "tried.json", "--from", "365d"]);
    assert!(code == Some(0) && out.contains("users reached") && out.contains("reading alone"), "{out}{error}");
    for (arguments, says) in [
        (&["-f", "tried.json", "--from", "yesterday"][..], "'--from <TIME>': it must be a time"),
        (&["-f", "tried.json", "--from", "1d", "--answers", "some"], "--answers must be"),
        (&["-f", "tried.json", "--from", "1d", "--to", "2d"], "--from must be before --to"),
        (&["-f", "nowhere.yaml", "--from", "1d"], "nowhere.yaml"),
    ] {
        let (code, _, error) = askwhen(dir, &[&["--data-dir", "data", "backtest"], arguments].concat());
        assert!(code == Some(2) && error.contains(says), "{error}");
    }
}

/// A snapshot taken before that time is where it begins, and changes nothing.
#[tokio::test]
async fn backtest_and_explanation_begin_with_the_nearest_snapshot() {
    let server = a_server(&[("beside", beside())]).await;
    days(&server, App::Displays).await;
    let dir = server.dir.path();
    let from =
        server.get("/v1/decisions?limit=1").await.body["decisions"][0]["decided_at"].as_str().unwrap().to_owned();
    let at = ["-f", "tried.json"];
    let run = |folder: &Path| {
        let all = [&["--data-dir", "data", "--output", "json", "backtest", "--from", &from][..], &at].concat();
        let (code, out, error) = askwhen(folder, &all);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    let without = run(dir);
    assert_eq!(without["begun_with_snapshots"], 0);
    let partitions = if ON_KAFKA { KAFKA_PARTITIONS as usize } else { 8 };
    // A snapshot is of what has been written down, which is done every few seconds.
    let create = ["--data-dir", "data", "--output", "json", "snapshot", "create", "--server", &server.base];
    server.until("snapshots", async || askwhen(dir, &create).1.matches("\"engine\"").count() == partitions).await;
    for n in 0..18 {
        server.event(&format!("user{n}"), "woke", json!({"minutes": 100})).await;
    }
    server.advance("7h").await;
    for n in 0..18 {
        shown(&server, App::Displays, &format!("user{n}"), "Main", 1).await;
    }
    let explained = |at: &[&str]| {
        let all = [&["--data-dir", "data", "--output", "json", "explain", "user3"][..], at].concat();
        let (code, out, error) = askwhen(dir, &all);
        assert_eq!(code, Some(0), "{error}");
        serde_json::from_str::<Value>(&out).expect("JSON")
    };
    let now = explained(&[]);
    assert!(now["snapshot"].as_str().is_some(), "{now:#}");
    let from =
        server.get("/v1/decisions?limit=1").await.body["decisions"][0]["decided_at"].as_str().unwrap().to_owned();
    let all = ["--data-dir", "data", "--output", "json", "backtest", "--from", &from, "-f", "tried.json"];
    let (_, out, error) = askwhen(dir, &all);
    let with: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{error}"));
    assert!(with["begun_with_snapshots"].as_u64() > Some(0), "{with:#}");
    let snapshots = dir.join(if ON_KAFKA { "snapshots" } else { "data/snapshots" });
    std::fs::rename(snapshots, dir.join("away")).unwrap();
    let without = explained(&["--at", now["at"].as_str().unwrap()]);
    assert_eq!((&without["user"], &without["snapshot"]), (&now["user"], &Value::Null));
    let (_, out, error) = askwhen(dir, &all);
    let plain: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(plain["versions"], with["versions"]);
    assert!(plain["records"].as_u64() > with["records"].as_u64(), "the beginning was read");
}
