//! Jobs of the server: a verb starts one, shows its progress and its result. The server
//! continues whatever happens to the verb; an interrupt cancels the job.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::client::{Client, part};
use super::context::Failure;
use super::progress;

/// How often the progress is requested.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How long to wait for a server that is being restarted; it continues the job.
const SERVER_AWAY: Duration = Duration::from_secs(60);
/// The exit code when the server cannot be reached.
const UNREACHABLE: u8 = 4;

/// Starts a job and waits for its end; returns its final state, with `count` for the number
/// of messages sent. With `detach` it does not wait.
///
/// # Errors
/// When the server refuses it, it failed, or it was cancelled.
pub async fn run(client: &Client, request: &Value, detach: bool) -> Result<Value, Failure> {
    let begun = client.expect(Method::POST, "/v1/jobs", Some(request)).await?;
    let job_id = begun["job_id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/v1/jobs/{}", part(&job_id));
    if detach {
        return client.expect(Method::GET, &path, None).await;
    }
    let bar = progress::bar("sending", "messages");
    let ended = tokio::select! {
        ended = until_over(client, &path, &bar) => ended?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::failed(error.to_string()))?;
            client.expect(Method::DELETE, &path, None).await?
        }
    };
    bar.finish_and_clear();
    match ended["state"].as_str() {
        Some("done") => Ok(with_count(ended)),
        Some("failed") => {
            let why = ended["error"].as_str().unwrap_or("its log says why");
            Err(Failure::failed(format!("job {job_id} has failed after {} messages: {why}", ended["done"])))
        }
        _ => Err(Failure::failed(format!("job {job_id} is cancelled; {} messages were sent", ended["done"]))),
    }
}

/// Counts what a job would do.
///
/// # Errors
/// When the server refuses it.
pub async fn count(client: &Client, request: &Value) -> Result<Value, Failure> {
    let mut request = request.clone();
    request["dry_run"] = true.into();
    client.expect(Method::POST, "/v1/jobs", Some(&request)).await
}

async fn until_over(client: &Client, path: &str, bar: &indicatif::ProgressBar) -> Result<Value, Failure> {
    let mut seen = Instant::now();
    loop {
        match client.expect(Method::GET, path, None).await {
            Ok(job) => {
                seen = Instant::now();
                bar.set_length(job["total"].as_u64().unwrap_or(0));
                bar.set_position(job["done"].as_u64().unwrap_or(0));
                if !matches!(job["state"].as_str(), Some("queued" | "running")) {
                    return Ok(job);
                }
            }
            Err(failure) if failure.code == UNREACHABLE && seen.elapsed() < SERVER_AWAY => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Adds members that scripts read since before there were jobs.
fn with_count(mut job: Value) -> Value {
    let kind = job["kind"].as_str().unwrap_or_default().to_owned();
    (job["count"], job[format!("{kind}_id")]) = (job["done"].clone(), job["job_id"].clone());
    job
}

/// The request for a job for one endpoint.
pub fn request(kind: &str, endpoint: &str, span: Value, rate: Option<String>) -> Value {
    let mut request = json!({"kind": kind, "endpoint_id": endpoint});
    for (name, value) in span.as_object().into_iter().flatten() {
        request[name.as_str()] = value.clone();
    }
    if let Some(rate) = rate {
        request["rate"] = rate.into();
    }
    request
}
