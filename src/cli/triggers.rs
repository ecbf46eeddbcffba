//! `askwhen triggers`: the names of events and frontend triggers.

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::json;

use super::client::{Client, part};
use super::context::{Context, Failure, ServerArgs};
use super::{get, output};
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct TriggersArgs {
    #[command(subcommand)]
    what: TriggersCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Origin {
    Backend,
    Frontend,
    Custom,
}

#[derive(Debug, Subcommand)]
enum TriggersCommand {
    /// Show every name that was met or declared
    List,
    /// Declare a name before it is met, such as "Successful payment"
    Create {
        name: String,
        /// Its id [default: made of the name: successful_payment]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
        /// Who sends it
        #[arg(long, value_enum, default_value = "custom")]
        kind: Origin,
    },
    /// Take a name off the list; when it is met again it is back
    Delete { trigger: String },
}

pub async fn run(context: &Context, args: &TriggersArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    match &args.what {
        TriggersCommand::List => get::list(context, &client, get::Listed::Triggers).await,
        TriggersCommand::Create { name, id, kind } => {
            let kind = match kind {
                Origin::Backend => "backend",
                Origin::Frontend => "frontend",
                Origin::Custom => "custom",
            };
            let mut body = json!({"name": name, "kind": kind});
            if let Some(id) = id {
                body["trigger_id"] = id.as_str().into();
            }
            let answer = client.expect(Method::POST, "/v1/triggers", Some(&body)).await?;
            let id = answer["trigger_id"].as_str().unwrap_or_default().to_owned();
            // What apps and files must name, letter by letter, is the id.
            let called =
                if id == *name { String::new() } else { format!(", by which {name} goes: --id gives another") };
            output::answer(context.format, &answer, &format!("{id} is declared{called}"));
            Ok(())
        }
        TriggersCommand::Delete { trigger } => {
            let answer = client.expect(Method::DELETE, &format!("/v1/triggers/{}", part(trigger)), None).await?;
            output::answer(context.format, &answer, &format!("{trigger} is off the list"));
            Ok(())
        }
    }
}
