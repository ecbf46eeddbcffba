//! `limits.caps` over all partitions of a running server.

use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::harness::{Server, askwhen, open_survey};

const AT_ONCE: usize = 64;
const COMPANIES: usize = 20;

/// What a user does with what they are offered.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Looks,
    Completes,
    Dismisses,
    LooksAway,
}

fn company(n: usize) -> String {
    format!("c{}", n % COMPANIES)
}

/// A request, sent again under its own id until it is answered; nothing when the
/// server is gone.
async fn answered(server: &Server, path: &str, body: &Value) -> Option<Value> {
    loop {
        let request = server.http.post(format!("{}{path}", server.base)).bearer_auth(&server.server);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let said = request.send().await.ok()?;
        let status = said.status().as_u16();
        let bytes = said.bytes().await.ok()?;
        let body: Value = serde_json::from_slice(&bytes).ok()?;
        match status {
            200 => return Some(body),
            202 | 503 => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            _ => panic!("{path}: {status} {body}"),
        }
    }
}

/// Asks for this user; gives the reason, or what was done with the offer.
async fn ask(server: &Server, n: usize, habit: Habit) -> Option<String> {
    let user = format!("u{n}");
    let trigger = answered(server, &format!("/v1/users/{user}/triggers/Main"), &json!({"event_id": "t"})).await?;
    let Some(offer) = trigger["survey"]["offer_id"].as_str() else {
        return Some(trigger["reason"].as_str().expect("a reason").to_owned());
    };
    let offer = format!("/v1/users/{user}/offers/{offer}");
    let (what, body) = match habit {
        Habit::LooksAway => return Some("offered".into()),
        Habit::Looks => ("displayed", json!({})),
        Habit::Dismisses => ("dismissed", json!({})),
        Habit::Completes => ("answers", json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true})),
    };
    answered(server, &format!("{offer}/{what}"), &body).await?;
    Some(what.to_owned())
}

async fn crowd(server: &Server, users: std::ops::Range<usize>, habit: impl Fn(usize) -> Habit) -> Vec<(usize, String)> {
    let all = stream::iter(users).map(|n| {
        let habit = habit(n);
        async move { Some((n, ask(server, n, habit).await?)) }
    });
    let ended: Vec<Option<(usize, String)>> = all.buffer_unordered(AT_ONCE).collect().await;
    ended.into_iter().flatten().collect()
}

/// Every user works for a company; attributes are told before anybody asks.
async fn employ(server: &Server, users: std::ops::Range<usize>) {
    let all = stream::iter(users).map(|n| async move {
        server.put(&format!("/v1/users/u{n}"), json!({"attributes": {"company": company(n)}})).await;
    });
    all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

fn capped(caps: Value) -> Value {
    let mut survey = open_survey();
    survey["frequency"]["repeat"] = json!("every_activation");
    survey["limits"] = json!({"caps": caps});
    survey
}

/// How often each company was shown the survey.
fn shown(ended: &[(usize, String)]) -> BTreeMap<String, usize> {
    let mut shown = BTreeMap::new();
    for (n, _) in ended.iter().filter(|(_, what)| ["displayed", "dismissed", "answers"].contains(&what.as_str())) {
        *shown.entry(company(*n)).or_default() += 1;
    }
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn no_company_is_shown_it_too_often_and_every_company_as_often_as_it_may() {
    let server = Server::start().await;
    let caps = json!([{"count": "displayed", "max": 2, "within": "7d", "per": {"attribute": "company"}},
        {"count": "completed", "max": 60}]);
    server.put("/v1/surveys/open", capped(caps)).await;
    employ(&server, 0..940).await;
    let mixed = |n: usize| match n % 7 {
        0 | 1 => Habit::LooksAway,
        2 => Habit::Dismisses,
        3 => Habit::Completes,
        _ => Habit::Looks,
    };
    let mut ended = crowd(&server, 0..500, mixed).await;
    assert!(ended.iter().all(|(_, what)| !["quota_full", "no_survey"].contains(&what.as_str())), "{ended:?}");
    assert!(shown(&ended).values().all(|count| *count <= 2), "{:?}", shown(&ended));
    // What was looked away from lapses; what was only looked at may be completed for a day.
    server.advance("25h").await;
    ended.extend(crowd(&server, 500..900, |_| Habit::Dismisses).await);
    let often = shown(&ended);
    assert!(often.len() == COMPANIES && often.values().all(|count| *count == 2), "{often:?}");
    let told = server.trigger("u0", "Main").await;
    assert_eq!(told["evaluations"][0]["gate"], "cap_reached", "{told}");
    assert_eq!(told["evaluations"][0]["actual"]["value"], company(0), "{told}");
    assert_eq!(told["evaluations"][0]["actual"]["count"], 2, "{told}");
    assert!(told["evaluations"][0]["until"].is_string(), "{told}");
    let known = server.get("/v1/users/u1").await.body["surveys"][0].clone();
    assert_eq!((&known["eligible"], &known["gate"]), (&json!(false), &json!("cap_reached")), "{known}");
    let stats = "/v1/surveys/open/stats";
    let counted = async || server.get(stats).await.body["not_offered"]["cap_reached"].as_u64().is_some_and(|n| n > 0);
    server.until("it is counted", counted).await;
    // Reading a user takes nothing.
    server.advance("7d").await;
    let free = server.get("/v1/users/u1").await.body["surveys"][0].clone();
    assert_eq!(free["eligible"], true, "{free}");
    let again = crowd(&server, 900..940, |_| Habit::Looks).await;
    assert!(again.iter().all(|(_, what)| what == "displayed"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_that_counts_for_ever_outlives_its_process() {
    let server = Server::start().await;
    let caps = json!([{"count": "completed", "max": 40}, {"count": "displayed", "max": 60, "within": "1d"}]);
    server.put("/v1/surveys/open", capped(caps)).await;
    let mut server = server;
    for round in 0..3 {
        let users = round * 30..round * 30 + 30;
        let work = crowd(&server, users, |n| if n % 3 == 0 { Habit::LooksAway } else { Habit::Completes });
        // Killed in the midst of it.
        tokio::select! {
            _ = work => {}
            () = tokio::time::sleep(std::time::Duration::from_millis(150 + 100 * round as u64)) => {}
        }
        let dir = server.kill();
        server = Server::on(dir, &["--dev", "--test-clock"], &[]).await;
    }
    server.advance("25h").await;
    crowd(&server, 200..400, |_| Habit::Completes).await;
    let stats = "/v1/surveys/open/stats";
    server.until("all is counted", async || server.get(stats).await.body["completed"] == 40).await;
    let more = crowd(&server, 400..450, |_| Habit::Completes).await;
    assert!(more.iter().all(|(_, what)| what == "cap_reached"), "{more:?}");
    assert_eq!(server.get(stats).await.body["completed"], 40);
    // Whoever only reads the journal finds the same.
    let (dir, _) = server.terminate();
    let (code, said, errors) = askwhen(dir.path(), &["explain", "stranger", "--trigger", "Main", "--output", "json"]);
    assert_eq!(code, Some(0), "{errors}");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["decision"]["reason"], "cap_reached", "{said}");
    let evaluation = &said["decision"]["evaluations"][0];
    assert_eq!((&evaluation["actual"]["count"], &evaluation["until"]), (&json!(40), &Value::Null), "{said}");
}
