//! Bulk work, which the server does as a job: a verb begins it, shows how far it is, and says
//! how it has ended. The server goes on whatever becomes of the verb; an interrupt cancels.

use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::client::{Client, part};
use super::context::Failure;
use super::progress;

/// How often it is asked how far a job is.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// A server that is started anew goes on with the job; so long it is waited for.
const SERVER_AWAY: Duration = Duration::from_secs(60);
/// The exit code of a server that cannot be reached.
const UNREACHABLE: u8 = 4;

/// Begins a job and waits for its end; gives what the server says of it, with `count`, the
/// number of messages that it has sent. With `detach` nothing is waited for.
///
/// # Errors
/// What the server refuses, that the job failed, or that it was cancelled.
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
/// What the server refuses.
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

/// What scripts read: the members that the verbs have had before there were jobs.
fn with_count(mut job: Value) -> Value {
    let kind = job["kind"].as_str().unwrap_or_default().to_owned();
    (job["count"], job[format!("{kind}_id")]) = (job["done"].clone(), job["job_id"].clone());
    job
}

/// What a job for one endpoint is asked for.
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
