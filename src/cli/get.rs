//! `askwhen get`

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value};

use super::client::Client;
use super::context::{Context, Failure, Format, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Surveys,
    Endpoints,
    Triggers,
    Settings,
}

impl What {
    /// What `apply` calls it, where that brings it.
    fn file_kind(self) -> Option<&'static str> {
        match self {
            What::Surveys => Some("survey"),
            What::Endpoints => Some("endpoint"),
            What::Settings => Some("settings"),
            What::Triggers => None,
        }
    }
}

/// A definition as `apply` takes it.
fn with_kind(kind: &str, row: Value) -> Value {
    let mut named = Map::from_iter([("kind".to_owned(), Value::from(kind))]);
    named.extend(row.as_object().cloned().unwrap_or_default());
    Value::Object(named)
}

#[derive(Debug, Args)]
pub struct GetArgs {
    #[arg(value_enum)]
    what: What,
    /// One of them, by its id
    id: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

pub async fn run(context: &Context, args: &GetArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Admin)?;
    let (path, member, columns): (&str, &str, &[&str]) = match args.what {
        What::Surveys => ("/v1/surveys", "surveys", &["survey_id", "name", "status", "priority", "version"]),
        What::Endpoints => (
            "/v1/endpoints",
            "endpoints",
            &["endpoint_id", "profile", "state", "state_reason", "state_since", "url", "version"],
        ),
        What::Triggers => ("/v1/triggers", "triggers", &["trigger_id", "name", "kind", "first_seen_at"]),
        What::Settings => {
            output::json(&with_kind("settings", client.expect(Method::GET, "/v1/settings", None).await?));
            return Ok(());
        }
    };
    let mut all = client.list(path, member).await?;
    if let Some(kind) = args.what.file_kind() {
        all = all.into_iter().map(|row| with_kind(kind, row)).collect();
    }
    if let Some(id) = &args.id {
        let one = all.into_iter().find(|row| row[columns[0]].as_str() == Some(id));
        let one = one.ok_or_else(|| Failure::failed(format!("there is no {id} among the {member}")))?;
        output::json(&one);
        return Ok(());
    }
    if context.format == Format::Json {
        output::json(&Value::Array(all));
        return Ok(());
    }
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows: Vec<Vec<String>> = all.iter().map(|row| columns.iter().map(|c| cell(&row[*c])).collect()).collect();
    let header: Vec<String> = columns.iter().map(|c| c.to_uppercase()).collect();
    output::table(&header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
    Ok(())
}
