//! Tells askwhen that a user has woken up: cargo run --bin send user_123

use std::{env, thread, time::Duration};

type Error = Box<dyn std::error::Error>;

/// Sends an event. Its id makes a second try harmless.
fn send(url: &str, key: &str, user: &str, name: &str, properties: serde_json::Value) -> Result<String, Error> {
    let event = serde_json::json!({
        "event_id": uuid::Uuid::new_v4().to_string(), "user_id": user, "event_name": name, "properties": properties,
    });
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into();
    for attempt in 1.. {
        let mut response = agent
            .post(format!("{url}/v1/events"))
            .header("Authorization", format!("Bearer {key}"))
            .send_json(&event)?;
        let status = response.status().as_u16();
        let answer = response.body_mut().read_to_string()?;
        if status < 300 {
            return Ok(answer);
        }
        if ![429, 503].contains(&status) || attempt == 5 {
            return Err(format!("{status} {answer}").into());
        }
        let wish = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        thread::sleep(Duration::from_secs(wish.unwrap_or(1)));
    }
    unreachable!("the last try returns")
}

fn main() -> Result<(), Error> {
    let url = env::var("ASKWHEN_URL").unwrap_or("http://127.0.0.1:8080".into());
    let user = env::args().nth(1).ok_or("which user?")?;
    let properties = serde_json::json!({"duration_min": 415});
    println!("{}", send(&url, &env::var("ASKWHEN_KEY")?, &user, "ended_sleep", properties)?);
    Ok(())
}
