//! `askwhen apply` and `askwhen validate`.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;

use super::client::{Client, part, problem};
use super::context::{Context, Failure, Format, ServerArgs};
use super::files::{self, FileDefinition};
use super::output;
use crate::bridge::auth::Kind as KeyKind;
use askwhen_domain::time::Millis;
use askwhen_process::clock::Clock;
use askwhen_wire::definition::{self, Kind, KnownSurvey, Surroundings, Target};

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Files of YAML or JSON, one or many documents each; - is standard input
    #[arg(short, long = "file", required_unless_present = "more", num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same, without -f
    #[arg(id = "more", value_name = "FILE")]
    more: Vec<PathBuf>,
    /// Print what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Archive the surveys and remove the endpoints that the files do not name; of a kind that
    /// the files do not hold at all, nothing goes
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files of YAML or JSON, one or many documents each; - is standard input. What they say is in
    /// the environment or in other files is looked up by apply alone
    #[arg(short, long = "file", required_unless_present = "more", num_args = 1.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same, without -f
    #[arg(id = "more", value_name = "FILE")]
    more: Vec<PathBuf>,
}

pub fn validate(args: &ValidateArgs, format: Format) -> Result<(), Failure> {
    let all = files::read(&[&args.files[..], &args.more].concat())?;
    let now = Clock::new().wall();
    // Files with several settings are for several projects: nobody knows which is meant.
    let mut settings = all.iter().filter(|defined| defined.kind == Kind::Settings);
    let settings = settings.next().filter(|_| settings.next().is_none());
    let settings = settings.and_then(|defined| definition::settings(&defined.body).ok()).unwrap_or_default();
    let mut faults = Vec::new();
    for defined in all.iter().filter(|defined| defined.kind == Kind::Survey) {
        let found = definition::survey_under(&defined.body, None, &settings).err().unwrap_or_default();
        let told = |fault: &definition::Fault| {
            format!("{}: {}: {}", defined.place_of(&fault.pointer), fault.pointer, fault.detail)
        };
        faults.extend(found.iter().map(told));
    }
    if !faults.is_empty() {
        return Err(Failure::usage(faults.join("\n")));
    }
    let warnings = warnings(&all, now);
    match format {
        Format::Json => output::json(&json!({"valid": true, "definitions": all.len(), "warnings": warnings})),
        Format::Text => {
            output::line(&match all.len() {
                1 => "1 definition is valid".to_owned(),
                count => format!("{count} definitions are valid"),
            });
            warnings.iter().for_each(|warning| output::line(&format!("look: {warning}")));
        }
    }
    Ok(())
}

/// What is probably not meant, as far as the files tell.
fn warnings(all: &[FileDefinition], now: Millis) -> Vec<String> {
    let of_kind = |kind: Kind| all.iter().filter(move |defined| defined.kind == kind);
    let surveys = of_kind(Kind::Survey).filter_map(|one| Some((&one.place, definition::survey(&one.body, None).ok()?)));
    let surveys: Vec<_> = surveys.collect();
    let known: Vec<KnownSurvey> = surveys.iter().map(|(_, survey)| KnownSurvey::from(survey)).collect();
    let mut warnings = Vec::new();
    let mut tell = |place: &str, id: &str, told: Vec<String>| {
        warnings.extend(told.into_iter().map(|warning| format!("{place}: {id}: {warning}")));
    };
    for (place, survey) in &surveys {
        let others: Vec<KnownSurvey> =
            known.iter().filter(|known| known.survey_id != survey.survey_id).cloned().collect();
        let beside = Surroundings { beside: &others, ..Surroundings::default() };
        tell(place, &survey.survey_id, definition::warnings(survey, now, &beside));
    }
    let beside = Surroundings { beside: &known, ..Surroundings::default() };
    for one in of_kind(Kind::Endpoint) {
        let Ok(read) = definition::endpoint(&one.body, None, Target::Trusted) else { continue };
        let told = definition::endpoint_warnings(&read.endpoint, &beside);
        tell(&one.place, &read.endpoint.endpoint_id, told);
    }
    for one in of_kind(Kind::Settings) {
        let Ok(settings) = definition::settings(&one.body) else { continue };
        tell(&one.place, "settings", definition::settings_warnings(&settings, &beside));
    }
    warnings
}

pub async fn run(context: &Context, args: &ApplyArgs) -> Result<(), Failure> {
    let mut all = files::read(&[&args.files[..], &args.more].concat())?;
    // Missing files and variables are an error before anything is sent.
    for defined in &mut all {
        defined.look_up()?;
    }
    let client = Client::new(context, &args.server, KeyKind::Admin)?;
    let mut results = Vec::new();
    let outcome = bring(&client, &all, args, &mut results).await;
    // What was applied before a failure is printed, because it stays.
    if outcome.is_ok() || !results.is_empty() {
        print(context, args, results);
    }
    outcome
}

async fn bring(
    client: &Client,
    all: &[FileDefinition],
    args: &ApplyArgs,
    results: &mut Vec<Value>,
) -> Result<(), Failure> {
    for defined in all {
        results.push(put(client, defined, args.dry_run).await?);
    }
    if args.prune {
        results.extend(prune(client, all, args.dry_run).await?);
    }
    Ok(())
}

fn print(context: &Context, args: &ApplyArgs, results: Vec<Value>) {
    if context.format == Format::Json {
        return output::json(&Value::Array(results));
    }
    let text = |result: &Value, name: &str| match &result[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |result: &Value| ["kind", "id", "outcome", "version"].map(|name| text(result, name)).to_vec();
    output::table(&["KIND", "ID", "OUTCOME", "VERSION"], &results.iter().map(row).collect::<Vec<_>>());
    for result in &results {
        if let Some(difference) = result["difference"].as_str().filter(|difference| !difference.is_empty()) {
            output::line(&format!("\n{difference}"));
        }
        if let Some(secret) = result["secret"].as_str() {
            let id = result["id"].as_str().unwrap_or_default();
            output::line(&format!("the secret of {id}, shown this once: {secret}"));
        }
    }
    for result in &results {
        for warning in result["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            output::line(&format!("look: {} {}: {warning}", text(result, "kind"), text(result, "id")));
        }
    }
    if args.dry_run {
        output::line("\nnothing was changed: --dry-run");
    }
}

fn path(kind: Kind, id: &str) -> String {
    match kind {
        Kind::Survey => format!("/v1/surveys/{}", part(id)),
        Kind::Endpoint => format!("/v1/endpoints/{}", part(id)),
        Kind::Settings | Kind::Trigger | Kind::Health | Kind::Key | Kind::KeyUse | Kind::Job => {
            "/v1/settings".to_owned()
        }
    }
}

/// Puts one definition, or asks the server what that would change.
async fn put(client: &Client, defined: &FileDefinition, dry_run: bool) -> Result<Value, Failure> {
    let path = path(defined.kind, &defined.id);
    let call = async |path: &str| {
        let said = client.call(Method::PUT, path, Some(&defined.body)).await?;
        match said.status {
            200..300 => Ok(said),
            _ => Err(Failure::failed(format!("{}: {}", defined.place, problem(&said)))),
        }
    };
    // Only a dry run returns warnings.
    let names_others = ["where", "targeting"].iter().any(|member| !defined.body[*member].is_null());
    let rehearsed = match dry_run || defined.kind == Kind::Survey || names_others {
        true => Some(call(&format!("{path}?dry_run=true")).await?),
        false => None,
    };
    let warnings = rehearsed.as_ref().map(|said| said.body["warnings"].clone()).unwrap_or_default();
    let said = match rehearsed {
        Some(said) if dry_run => said,
        _ => call(&path).await?,
    };
    let created = said.status == 201 || said.body["created"] == true;
    let outcome = match (said.status, said.body.get("changed").and_then(Value::as_bool)) {
        (202, _) => "pending",
        _ if created => "created",
        (_, Some(false)) => "unchanged",
        _ => "changed",
    };
    let mut result = json!({"kind": defined.kind.name(), "id": defined.id, "outcome": outcome});
    if warnings.as_array().is_some_and(|warnings| !warnings.is_empty()) {
        result["warnings"] = warnings;
    }
    for member in ["version", "secret"] {
        if let Some(value) = said.body.get(member) {
            result[member] = value.clone();
        }
    }
    if dry_run {
        let name = format!("{} {}", defined.kind.name(), defined.id);
        result["difference"] = difference(name.trim(), &said.body["current"], &said.body["body"]).into();
    }
    Ok(result)
}

/// The difference as lines of a patch; empty when there is none.
fn difference(name: &str, before: &Value, after: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        value => serde_json::to_string_pretty(value).unwrap_or_default() + "\n",
    };
    let (before, after) = (text(before), text(after));
    let difference = similar::TextDiff::from_lines(&before, &after);
    let lines =
        difference.unified_diff().header(&format!("{name} as it is"), &format!("{name} as it would be")).to_string();
    lines.trim_end().to_owned()
}

/// Removes what is on the server and not in the files. Only kinds that the files hold
/// count, so that a file of surveys removes no endpoint.
async fn prune(client: &Client, all: &[FileDefinition], dry_run: bool) -> Result<Vec<Value>, Failure> {
    let mut results = Vec::new();
    for (kind, list) in [(Kind::Survey, "surveys"), (Kind::Endpoint, "endpoints")] {
        let kept: Vec<&str> = all.iter().filter(|d| d.kind == kind).map(|d| d.id.as_str()).collect();
        if kept.is_empty() {
            continue;
        }
        for row in client.list(&format!("/v1/{list}"), list).await? {
            let id = row[kind.id_member()].as_str().unwrap_or_default();
            if kept.contains(&id) || row["status"] == "archived" {
                continue;
            }
            let outcome = if kind == Kind::Survey { "archived" } else { "removed" };
            let mut result = json!({"kind": kind.name(), "id": id, "outcome": outcome});
            if !dry_run {
                let said = client.expect(Method::DELETE, &path(kind, id), None).await?;
                result["version"] = said["version"].clone();
            }
            results.push(result);
        }
    }
    Ok(results)
}
