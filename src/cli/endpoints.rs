//! `askwhen endpoints`: shows, disables, enables, removes and tests endpoints.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::client::{Client, part, problem};
use super::context::{Context, Failure, ServerArgs};
use super::{get, output};
use crate::bridge::auth::Kind;
use askwhen_domain::time;
use askwhen_wire::profile;

#[derive(Debug, Args)]
pub struct EndpointsArgs {
    #[command(subcommand)]
    what: EndpointsCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum EndpointsCommand {
    /// Show all endpoints and how they fare
    List,
    /// Show one endpoint whole
    Show { endpoint: String },
    /// Send an endpoint nothing from now on: its messages are cancelled, and `deliveries recover`
    /// sends them when it is enabled again
    Disable { endpoint: String },
    /// Remove an endpoint; what waits for it is cancelled
    Delete { endpoint: String },
    /// Send to an endpoint again that was disabled, by hand or by askwhen itself
    Enable { endpoint: String },
    /// Give an endpoint a new secret; the old one signs on until the overlap ends
    RotateSecret {
        endpoint: String,
        /// How long both sign; 0s ends the old one at once
        #[arg(long, default_value = "24h", value_name = "SPAN", value_parser = span)]
        overlap: String,
        /// Take the new secret from this variable of the environment, instead of a generated one
        #[arg(long, value_name = "NAME", conflicts_with = "ed25519")]
        secret_env: Option<String>,
        /// Generate a key pair: receivers verify with its public half (standard and 1flow)
        #[arg(long)]
        ed25519: bool,
    },
    /// Send one test message and wait for the answer; exit code 1 unless it was taken
    Test { endpoint: String },
}

pub async fn run(context: &Context, args: &EndpointsArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    match &args.what {
        EndpointsCommand::List => get::list(context, &client, get::Listed::Endpoints).await?,
        EndpointsCommand::Show { endpoint } => get::one(&client, get::Listed::Endpoints, endpoint).await?,
        EndpointsCommand::Disable { endpoint } => {
            let path = format!("/v1/endpoints/{}", part(endpoint));
            let mut body = client.expect(Method::GET, &path, None).await?;
            body["enabled"] = false.into();
            let version = body["version"].as_u64().unwrap_or_default();
            let answer = client.put_version(&path, &body, version).await?;
            if !(200..300).contains(&answer.status) {
                return Err(Failure::failed(problem(&answer)));
            }
            output::answer(context.format, &answer.body, &format!("{endpoint} is disabled: nothing is sent to it"));
        }
        EndpointsCommand::Delete { endpoint } => {
            let answer = client.expect(Method::DELETE, &format!("/v1/endpoints/{}", part(endpoint)), None).await?;
            output::answer(context.format, &answer, &format!("{endpoint} is removed"));
        }
        EndpointsCommand::Enable { endpoint } => {
            let path = format!("/v1/endpoints/{}", part(endpoint));
            let answer = client.expect(Method::POST, &format!("{path}/enable"), None).await?;
            let outcome = if answer["changed"] == false { "was enabled already and begins anew" } else { "is enabled" };
            output::answer(
                context.format,
                &answer,
                &format!("{endpoint} {outcome}; `askwhen deliveries recover` sends what it missed"),
            );
        }
        EndpointsCommand::RotateSecret { endpoint, overlap, secret_env, ed25519 } => {
            let mut body = json!({"overlap": overlap});
            let given = match secret_env {
                Some(name) => Some(
                    std::env::var(name)
                        .map_err(|_| Failure::usage(format!("the environment has no variable {name}")))?,
                ),
                None if *ed25519 => Some(key_pair()?),
                None => None,
            };
            let public = given.as_deref().and_then(profile::public_key);
            if let Some(secret) = given {
                body["secret"] = secret.into();
            }
            let path = format!("/v1/endpoints/{}/rotate-secret", part(endpoint));
            let mut answer = client.expect(Method::POST, &path, Some(&body)).await?;
            let mut line = format!("{endpoint} signs with a new secret");
            if let Some(secret) = answer["secret"].as_str() {
                line.push_str(&format!(", shown this once: {secret}"));
            }
            if let Some(public) = public {
                line.push_str(&format!("; receivers verify with {public}"));
                answer["public_key"] = public.into();
            }
            output::answer(context.format, &answer, &line);
        }
        EndpointsCommand::Test { endpoint } => {
            let path = format!("/v1/endpoints/{}/test", part(endpoint));
            let answer = client.expect(Method::POST, &path, None).await?;
            let outcome = answer["outcome"].as_str().unwrap_or_default();
            let status = answer["http_status"].as_u64().map(|status| format!(", status {status}")).unwrap_or_default();
            let error = answer["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
            output::answer(context.format, &answer, &format!("{endpoint}: {outcome}{status}{error}"));
            if outcome != "delivered" {
                return Err(Failure::failed(format!("{endpoint} did not take the test")));
            }
        }
    }
    Ok(())
}

/// What a span of time must look like.
#[derive(Debug, thiserror::Error)]
#[error("must be {0}")]
struct SpanSyntax(&'static str);

/// A span of time, as it is sent on to the server.
fn span(text: &str) -> Result<String, SpanSyntax> {
    time::parse_duration(text).map(|_| text.to_owned()).map_err(SpanSyntax)
}

fn key_pair() -> Result<String, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| Failure::failed(format!("no random bytes can be had: {e}")))?;
    Ok(format!("whsk_{}", STANDARD.encode(seed)))
}
