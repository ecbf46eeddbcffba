//! `askwhen get`

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value};

use super::client::Client;
use super::context::{Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;
use askwhen_wire::definition::nearest;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    Surveys,
    Endpoints,
    Triggers,
    Settings,
}

impl Listed {
    /// Listed `apply` calls it, where that brings it.
    fn file_kind(self) -> Option<&'static str> {
        match self {
            Listed::Surveys => Some("survey"),
            Listed::Endpoints => Some("endpoint"),
            Listed::Settings => Some("settings"),
            Listed::Triggers => None,
        }
    }
}

/// A definition with its kind, as `apply` takes it.
fn with_kind(kind: &str, row: Value) -> Value {
    let mut named = Map::from_iter([("kind".to_owned(), Value::from(kind))]);
    named.extend(row.as_object().cloned().unwrap_or_default());
    Value::Object(named)
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[arg(value_enum)]
    what: Listed,
    /// One of them, by its id
    id: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(context: &Context, args: &GetArgs) -> Result<(), Failure> {
    if let (Listed::Settings, Some(_)) = (args.what, &args.id) {
        return Err(Failure::usage("a project has one set of settings: `askwhen get settings` takes no id"));
    }
    let client = Client::new(context, &args.server, Kind::Admin)?;
    if let Listed::Settings = args.what {
        output::json(&with_kind("settings", client.expect(Method::GET, "/v1/settings", None).await?));
        return Ok(());
    }
    match &args.id {
        Some(id) => one(&client, args.what, id).await,
        None => list(context, &client, args.what).await,
    }
}

impl Listed {
    /// The route of the list, the member of a row's id, and the columns of a table.
    fn listed(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Listed::Surveys => ("/v1/surveys", "surveys", &["survey_id", "name", "status", "priority", "version"]),
            Listed::Endpoints => (
                "/v1/endpoints",
                "endpoints",
                &["endpoint_id", "profile", "state", "state_reason", "state_since", "url", "version"],
            ),
            Listed::Triggers | Listed::Settings => {
                ("/v1/triggers", "triggers", &["trigger_id", "name", "kind", "first_seen_at"])
            }
        }
    }

    async fn rows(self, client: &Client) -> Result<Vec<Value>, Failure> {
        let (path, member, _) = self.listed();
        let all = client.list(path, member).await?;
        Ok(match self.file_kind() {
            Some(kind) => all.into_iter().map(|row| with_kind(kind, row)).collect(),
            None => all,
        })
    }
}

impl Listed {
    /// What each is called, in the order of the list.
    pub async fn ids(self, client: &Client) -> Result<Vec<String>, Failure> {
        let (path, member, columns) = self.listed();
        let all = client.list(path, member).await?;
        Ok(all.iter().filter_map(|row| row[columns[0]].as_str().map(str::to_owned)).collect())
    }
}

/// Prints one of them with all members.
pub async fn one(client: &Client, what: Listed, id: &str) -> Result<(), Failure> {
    let (_, member, columns) = what.listed();
    let rows = what.rows(client).await?;
    let ids: Vec<&str> = rows.iter().filter_map(|row| row[columns[0]].as_str()).collect();
    let Some(at) = ids.iter().position(|known| *known == id) else {
        let near = nearest(id, &ids).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Err(Failure::failed(format!("there is no {id} among the {member}{near}\n  {}", client.asked())));
    };
    output::json(&rows[at]);
    Ok(())
}

/// Prints all of them.
pub async fn list(context: &Context, client: &Client, what: Listed) -> Result<(), Failure> {
    let (all, (_, _, columns)) = (what.rows(client).await?, what.listed());
    if context.format == Format::Json {
        output::json(&Value::Array(all));
        return Ok(());
    }
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let rows: Vec<Vec<String>> = all.iter().map(|row| columns.iter().map(|c| cell(&row[*c])).collect()).collect();
    let header: Vec<String> = columns.iter().map(|c| c.to_uppercase()).collect();
    output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    Ok(())
}
