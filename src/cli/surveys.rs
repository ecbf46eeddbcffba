//! `askwhen pause`, `resume` and `archive`: change the status of a survey.

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, part, problem};
use super::context::{Context, Failure, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct SurveyArgs {
    /// The survey's id
    survey: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Changes the status from one to another; a survey of a third status stays as it is.
pub async fn change_status(context: &Context, args: &SurveyArgs, from: &str, to: &str) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    let (id, path) = (&args.survey, format!("/v1/surveys/{}", part(&args.survey)));
    let mut survey = client.expect(Method::GET, &path, None).await?;
    let status = survey["status"].as_str().unwrap_or_default().to_owned();
    if status != from && status != to {
        return Err(Failure::failed(format!(
            "{id} is {status}: only what is {from} can be {to}; apply its file to change that"
        )));
    }
    survey["status"] = to.into();
    let version = survey["version"].as_u64().unwrap_or_default();
    // The version in the request keeps a change of somebody else from being lost.
    let answer = client.put_version(&path, &survey, version).await?;
    if !(200..300).contains(&answer.status) {
        return Err(Failure::failed(problem(&answer)));
    }
    let outcome = if answer.body["changed"] == false { "already" } else { "from now on" };
    output::answer(context.format, &answer.body, &format!("{id} is {to} {outcome}"));
    Ok(())
}

pub async fn archive(context: &Context, args: &SurveyArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    let answer: Value = client.expect(Method::DELETE, &format!("/v1/surveys/{}", part(&args.survey)), None).await?;
    let line = format!("{} is archived: nobody is asked any more, and its results stay", args.survey);
    output::answer(context.format, &answer, &line);
    Ok(())
}
