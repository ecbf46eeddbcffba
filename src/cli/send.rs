//! `askwhen send`: one event, trigger, display or answer, as an app would.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, part};
use super::context::{Context, Failure, ServerArgs};
use super::output;
use crate::bridge::auth::Kind;

#[derive(Debug, Args)]
pub struct SendArgs {
    #[command(subcommand)]
    what: SendCommand,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum SendCommand {
    /// A backend event: askwhen send event ann ended_sleep duration_min=415
    Event {
        user_id: String,
        event_name: String,
        /// Properties; a value that is JSON counts as such
        #[arg(value_name = "NAME=VALUE")]
        properties: Vec<String>,
        #[arg(long)]
        event_id: Option<String>,
        #[arg(long)]
        occurred_at: Option<String>,
    },
    /// A frontend trigger; prints the decision
    Trigger {
        user_id: String,
        trigger: String,
        /// Properties; a value that is JSON counts as such
        #[arg(value_name = "NAME=VALUE")]
        properties: Vec<String>,
        #[arg(long)]
        session_id: Option<String>,
        #[arg(long)]
        platform: Option<String>,
        #[arg(long)]
        locale: Option<String>,
        #[arg(long)]
        app_version: Option<String>,
        /// The user's own, such as Europe/Berlin
        #[arg(long)]
        timezone: Option<String>,
    },
    /// That an offer was seen
    Displayed { user_id: String, offer_id: String },
    /// Answers to an offer: askwhen send answer ann off_… q1=5 --completed
    Answer {
        user_id: String,
        offer_id: String,
        #[arg(value_name = "QUESTION=VALUE")]
        answers: Vec<String>,
        #[arg(long)]
        completed: bool,
    },
}

pub async fn run(context: &Context, args: &SendArgs) -> Result<(), Failure> {
    let client = Client::new(context, &args.server, Kind::Server)?;
    let (path, body) = match &args.what {
        SendCommand::Event { user_id, event_name, properties, event_id, occurred_at } => {
            let mut body = json!({"user_id": user_id, "event_name": event_name, "properties": pairs(properties)?});
            set(&mut body, "event_id", event_id);
            set(&mut body, "occurred_at", occurred_at);
            ("/v1/events".to_owned(), body)
        }
        SendCommand::Trigger { user_id, trigger, properties, session_id, platform, locale, app_version, timezone } => {
            let mut where_from = json!({});
            set(&mut where_from, "session_id", session_id);
            set(&mut where_from, "platform", platform);
            set(&mut where_from, "locale", locale);
            set(&mut where_from, "app_version", app_version);
            set(&mut where_from, "timezone", timezone);
            let body = json!({"properties": pairs(properties)?, "context": where_from});
            (format!("/v1/users/{}/triggers/{}", part(user_id), part(trigger)), body)
        }
        SendCommand::Displayed { user_id, offer_id } => {
            (format!("/v1/users/{}/offers/{}/displayed", part(user_id), part(offer_id)), json!({}))
        }
        SendCommand::Answer { user_id, offer_id, answers, completed } => {
            let given: Vec<Value> =
                pairs(answers)?.into_iter().map(|(id, value)| json!({"question_id": id, "value": value})).collect();
            let body = json!({"answers": given, "completed": completed});
            (format!("/v1/users/{}/offers/{}/answers", part(user_id), part(offer_id)), body)
        }
    };
    output::json(&client.expect(Method::POST, &path, Some(&body)).await?);
    Ok(())
}

fn set(body: &mut Value, member: &str, value: &Option<String>) {
    if let Some(value) = value {
        body[member] = value.as_str().into();
    }
}

/// Parses `NAME=VALUE`; a value that is not JSON is a string.
pub fn pairs(all: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut members = Map::new();
    for pair in all {
        let (name, text) = pair.split_once('=').ok_or_else(|| Failure::usage(format!("{pair}: write NAME=VALUE")))?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        members.insert(name.to_owned(), value);
    }
    Ok(members)
}
