//! `askwhen keys`: API keys that are made and revoked while the server runs.

use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, part};
use super::context::{Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    what: KeysCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyKind {
    Client,
    Server,
    Viewer,
    Admin,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; it is shown once
    Create {
        /// Whose it is: the actor of what is changed with it
        name: String,
        #[arg(long, value_enum)]
        kind: KeyKind,
    },
    /// Show the keys of the project, without their values
    List,
    /// Make a key void at once
    Revoke { key_id: String },
}

pub async fn run(context: &Context, args: &KeysArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    match &args.what {
        KeysCommand::Create { name, kind } => {
            let kind = match kind {
                KeyKind::Client => Kind::Client,
                KeyKind::Server => Kind::Server,
                KeyKind::Viewer => Kind::Viewer,
                KeyKind::Admin => Kind::Admin,
            };
            let body = json!({"name": name, "kind": kind.name()});
            let answer = client.expect(Method::POST, "/v1/keys", Some(&body)).await?;
            let (id, key) = (&answer["key_id"], &answer["key"]);
            let (id, key) = (id.as_str().unwrap_or_default(), key.as_str().unwrap_or_default());
            output::answer(context.format, &answer, &format!("{id} is made; it is shown this once: {key}"));
        }
        KeysCommand::List => {
            let answer = client.expect(Method::GET, "/v1/keys", None).await?;
            match context.format {
                Format::Json => output::json(&answer["keys"]),
                Format::Text => {
                    let members = ["key_id", "name", "kind", "prefix", "created_at", "last_used_at", "source"];
                    let text = |value: &Value| value.as_str().map(output::escape).unwrap_or_default();
                    let row = |key: &Value| members.map(|member| text(&key[member]).to_string()).into();
                    let rows: Vec<Vec<String>> = answer["keys"].as_array().into_iter().flatten().map(row).collect();
                    output::table(&["KEY", "NAME", "KIND", "PREFIX", "CREATED", "LAST USED", "SOURCE"], &rows);
                }
            }
        }
        KeysCommand::Revoke { key_id } => {
            let answer = client.expect(Method::DELETE, &format!("/v1/keys/{}", part(key_id)), None).await?;
            output::answer(context.format, &answer, &format!("{key_id} is revoked"));
        }
    }
    Ok(())
}
