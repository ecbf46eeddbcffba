//! `askwhen apply` and `askwhen validate`.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

use super::client::{Client, part, problem};
use super::{Context, Failure, Format, ServerArgs, files, output};
use crate::bridge::auth::Kind as KeyKind;
use crate::wire::definition::Kind;

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Files of YAML or JSON, one or many documents each; - is standard input
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files of YAML or JSON, one or many documents each; - is standard input
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub fn validate(args: &ValidateArgs, format: Format) -> Result<(), Failure> {
    let all = files::read(&args.files)?;
    match format {
        Format::Json => output::json(&json!({"valid": true, "definitions": all.len()})),
        Format::Text => output::line(&format!("{} definitions are valid", all.len())),
    }
    Ok(())
}

pub async fn run(context: &Context, args: &ApplyArgs) -> Result<(), Failure> {
    let mut all = files::read(&args.files)?;
    // Whatever is missing is told before anything is sent.
    for defined in &mut all {
        look_up_secret(&mut defined.body, &defined.secret_place)?;
    }
    let client = Client::new(context, &args.server, KeyKind::Admin)?;
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for defined in all {
        let path = match defined.kind {
            Kind::Survey => format!("/v1/surveys/{}", part(&defined.id)),
            Kind::Endpoint => format!("/v1/endpoints/{}", part(&defined.id)),
            _ => "/v1/settings".to_owned(),
        };
        let said = client.call(Method::PUT, &path, Some(&defined.body)).await?;
        if !(200..300).contains(&said.status) {
            return Err(Failure::failed(format!("{}: {}", defined.place, problem(&said))));
        }
        let outcome = match (said.status, said.body.get("changed").and_then(Value::as_bool)) {
            (202, _) => "pending",
            (201, _) => "created",
            (_, Some(false)) => "unchanged",
            _ => "changed",
        };
        let version = said.body.get("version").map_or_else(String::new, Value::to_string);
        rows.push(vec![defined.kind.name().into(), defined.id.clone(), outcome.into(), version]);
        let mut result = json!({"kind": defined.kind.name(), "id": defined.id, "outcome": outcome});
        for member in ["version", "secret"] {
            if let Some(value) = said.body.get(member) {
                result[member] = value.clone();
            }
        }
        results.push(result);
    }
    match context.format {
        Format::Json => output::json(&Value::Array(results)),
        Format::Text => {
            output::table(&["KIND", "ID", "OUTCOME", "VERSION"], &rows);
            for result in &results {
                if let Some(secret) = result.get("secret").and_then(Value::as_str) {
                    let id = result["id"].as_str().unwrap_or_default();
                    output::line(&format!("the secret of {id}, shown this once: {secret}"));
                }
            }
        }
    }
    Ok(())
}

/// `secret: {env: NAME}` becomes what the environment holds.
fn look_up_secret(body: &mut Value, place: &str) -> Result<(), Failure> {
    let Some(name) = body.pointer("/secret/env").and_then(Value::as_str).map(str::to_owned) else { return Ok(()) };
    let secret = std::env::var(&name)
        .map_err(|_| Failure::usage(format!("{place}: secret: the environment has no variable {name}")))?;
    body["secret"] = secret.into();
    Ok(())
}
