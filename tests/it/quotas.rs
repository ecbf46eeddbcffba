//! `limits.max_completed` over all partitions of a running server.

use futures_util::stream::{self, StreamExt};
use serde_json::json;

use crate::harness::{Server, open_survey};

const AT_ONCE: usize = 64;

/// What a user does with what they are offered.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Completes,
    Dismisses,
    LooksAway,
}

/// Asks for this user; gives the reason, or `completed`, or that it was refused.
async fn ask(server: &Server, user: &str, habit: Habit) -> String {
    let mut said = server.post(&format!("/v1/users/{user}/triggers/Main"), json!({"event_id": "t"})).await;
    while said.status == 202 {
        said = server.post(&format!("/v1/users/{user}/triggers/Main"), json!({"event_id": "t"})).await;
    }
    assert_eq!(said.status, 200, "{said:?}");
    let Some(offer) = said.body["survey"]["offer_id"].as_str() else {
        return said.body["reason"].as_str().expect("a reason").to_owned();
    };
    let offer = format!("/v1/users/{user}/offers/{offer}");
    match habit {
        Habit::LooksAway => {}
        Habit::Dismisses => assert_eq!(server.post(&format!("{offer}/dismissed"), json!({})).await.status, 200),
        Habit::Completes => {
            let body = json!({"answers": [{"question_id": "q1", "value": 5}], "completed": true});
            let said = server.post(&format!("{offer}/answers"), body).await;
            assert_eq!(said.status, 200, "what was offered can be completed: {said:?}");
            return "completed".into();
        }
    }
    "offered".into()
}

async fn crowd(server: &Server, users: std::ops::Range<usize>, habit: impl Fn(usize) -> Habit) -> usize {
    let all = stream::iter(users).map(|n| {
        let habit = habit(n);
        async move { ask(server, &format!("u{n}"), habit).await }
    });
    let ended: Vec<String> = all.buffer_unordered(AT_ONCE).collect().await;
    for reason in &ended {
        assert!(["completed", "offered", "quota_full"].contains(&reason.as_str()), "{reason}");
    }
    ended.iter().filter(|reason| *reason == "completed").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_so_many_complete_whoever_asks_and_whatever_they_do() {
    for limit in [1_usize, 70, 400] {
        let server = Server::start().await;
        let mut survey = open_survey();
        survey["limits"] = json!({"max_completed": limit});
        server.put("/v1/surveys/open", survey).await;
        let mixed = |n: usize| match n % 10 {
            0 | 1 => Habit::LooksAway,
            2 => Habit::Dismisses,
            _ => Habit::Completes,
        };
        let mut completed = crowd(&server, 0..600, mixed).await;
        assert!(completed <= limit, "{completed} of {limit}");
        // What was looked away from lapses, and is used by others.
        server.advance("11m").await;
        completed += crowd(&server, 600..1_200, |_| Habit::Completes).await;
        assert_eq!(completed, limit);
        assert_eq!(crowd(&server, 1_200..1_300, |_| Habit::Completes).await, 0, "and not one more");
        let stranger = server.get("/v1/users/stranger").await.body["surveys"][0].clone();
        assert_eq!((&stranger["eligible"], &stranger["gate"]), (&json!(false), &json!("quota_full")), "{stranger}");
        let stats = "/v1/surveys/open/stats";
        server.until("all is counted", async || server.get(stats).await.body["completed"] == limit).await;
        // More of it: open again at once.
        let mut survey = open_survey();
        survey["limits"] = json!({"max_completed": limit + 5});
        server.put("/v1/surveys/open", survey).await;
        assert_eq!(crowd(&server, 1_300..1_400, |_| Habit::Completes).await, 5);
    }
}
