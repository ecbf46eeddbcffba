//! `askwhen users`: shows a user, sets attributes, erases a user.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::client::{Client, part};
use super::context::{Context, Failure, ServerArgs};
use super::{output, send};
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(subcommand)]
    what: UsersCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// Show attributes, windows, offers, and why each survey asks or does not
    Show { user: String },
    /// Forget a user: state, answers and history; what receivers have is told of by user.erased
    Erase { user: String },
    /// Set attributes, NAME=VALUE each; a value that is JSON counts as such, null removes
    Attributes {
        user: String,
        #[arg(required = true, value_name = "NAME=VALUE")]
        attributes: Vec<String>,
    },
}

pub async fn run(context: &Context, args: &UsersArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Server)?;
    let path = |user: &str| format!("/v1/users/{}", part(user));
    match &args.what {
        UsersCommand::Show { user } => output::json(&client.expect(Method::GET, &path(user), None).await?),
        UsersCommand::Erase { user } => {
            let answer = client.expect(Method::DELETE, &path(user), None).await?;
            output::answer(context.format, &answer, &format!("{user} is forgotten"));
        }
        UsersCommand::Attributes { user, attributes } => {
            let body = json!({"attributes": send::pairs(attributes)?});
            let answer = client.expect(Method::PUT, &path(user), Some(&body)).await?;
            output::answer(context.format, &answer, &format!("{user} has these attributes from now on"));
        }
    }
    Ok(())
}
