//! `askwhen explain`: shows what was known of a user at a moment, and why they are asked
//! or not, from the journal and under the rules that decide.

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::context::{BrokerArgs, Context, Failure, Format};
use super::moment::Moment;
use super::{output, serve};
use crate::replay::explain::{self, AssumedTrigger, Question};
use crate::replay::starts::Starts;
use crate::supervisor;
use askwhen_domain::id;
use askwhen_domain::record;
use askwhen_wire::json;
use askwhen_wire::record::DEFAULT_PROJECT;

/// How many decisions are shown as text.
const SHOWN: usize = 5;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The user's id
    user: String,
    /// Imagine this frontend trigger: what would be offered, and why not the others
    #[arg(long, value_name = "TRIGGER")]
    trigger: Option<String>,
    /// As it was known then: a time, a date, or so long ago, such as 2h; left out, now
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    #[arg(long, default_value = DEFAULT_PROJECT)]
    project: String,
    /// Properties of the trigger, as JSON
    #[arg(long, value_name = "JSON", requires = "trigger", default_value = "{}")]
    properties: String,
    /// What the app says of itself with the trigger
    #[arg(long, requires = "trigger")]
    platform: Option<String>,
    #[arg(long, requires = "trigger")]
    locale: Option<String>,
    #[arg(long, requires = "trigger")]
    app_version: Option<String>,
    #[arg(long, requires = "trigger", value_name = "ID")]
    session: Option<String>,
    /// The user's own, such as Europe/Berlin
    #[arg(long, requires = "trigger", value_name = "ZONE")]
    timezone: Option<String>,
    #[command(flatten)]
    pub brokers: BrokerArgs,
}

pub async fn run(context: &Context, args: &ExplainArgs) -> Result<(), Failure> {
    let question = question(args)?;
    context.note_export();
    let config = context.config.clone();
    let explained = tokio::task::spawn_blocking(move || {
        // It is drawn on standard error, on a terminal only.
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} reading the journal: {pos} records, {per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let explained = supervisor::source(&config).and_then(|source| {
            explain::explain(&source, &Starts::default(), &question, |records| bar.set_position(records))
        });
        bar.finish_and_clear();
        explained
    });
    let explained = explained.await.map_err(|e| Failure::failed(e.to_string()))?.map_err(serve::failure)?;
    match context.format {
        Format::Json => output::json(&explained),
        Format::Text => print(&explained, args.trigger.as_deref()),
    }
    Ok(())
}

fn question(args: &ExplainArgs) -> Result<Question, Failure> {
    for (name, text) in [("USER", Some(&args.user)), ("--trigger", args.trigger.as_ref())] {
        if let Some(Err(why)) = text.map(|text| id::check(text)) {
            return Err(Failure::usage(format!("{name} {why}")));
        }
    }
    let properties =
        json::check(args.properties.as_bytes()).map_err(|e| Failure::usage(format!("--properties: {e}")))?;
    if !properties.starts_with('{') {
        return Err(Failure::usage("--properties must be a JSON object"));
    }
    let context = record::Context {
        platform: args.platform.clone(),
        locale: args.locale.clone(),
        app_version: args.app_version.clone(),
        session_id: args.session.clone(),
        timezone: args.timezone.clone(),
    };
    let assumed = |trigger| AssumedTrigger { trigger, properties: properties.to_owned(), context };
    let trigger = args.trigger.clone().map(assumed);
    Ok(Question { project: args.project.clone(), user_id: args.user.clone(), at: args.at.map(|at| at.0), trigger })
}

fn print(explained: &Value, trigger: Option<&str>) {
    let user = &explained["user"];
    let from = explained["snapshot"].as_str().map_or_else(String::new, |name| format!(", from snapshot {name}"));
    let known = if user["known"] == true { "" } else { ": nothing is known of them" };
    output::line(&format!(
        "{} at {} (partition {}, before offset {}{from}){known}",
        output::escape(explained["user_id"].as_str().unwrap_or_default()),
        text(&explained["at"]),
        explained["partition"],
        explained["offset"],
    ));
    if user["attributes"].as_object().is_some_and(|attributes| !attributes.is_empty()) {
        output::line(&format!("attributes: {}", output::escape(&user["attributes"].to_string())));
    }
    section(
        "ALIAS",
        &["SINCE"],
        &rows(&user["aliases"], |alias| ["alias", "since"].map(|name| text(&alias[name])).into()),
    );
    section(
        "WINDOW",
        &["OPENS", "EXPIRES", "BY"],
        &rows(&user["windows"], |window| {
            let by = &window["activation"];
            vec![
                text(&window["survey_id"]),
                text(&window["opens_at"]),
                text(&window["expires_at"]),
                format!("{} {}", text(&by["event_name"]), text(&by["occurred_at"])),
            ]
        }),
    );
    section(
        "OFFER",
        &["SURVEY", "OFFERED", "DISPLAYED", "DISMISSED", "ANSWERED", "COMPLETED"],
        &rows(&user["offers"], |offer| {
            ["offer_id", "survey_id", "offered_at", "displayed_at", "dismissed_at", "answered", "completed"]
                .map(|name| text(&offer[name]))
                .into()
        }),
    );
    match trigger {
        None => section(
            "SURVEY",
            &["ELIGIBLE", "GATE", "UNTIL"],
            &rows(&user["surveys"], |survey| {
                ["survey_id", "eligible", "gate", "until"].map(|name| text(&survey[name])).into()
            }),
        ),
        Some(trigger) => print_assumed(explained, trigger),
    }
    let mut decisions = rows(&explained["decisions"], |decision| {
        let survey = &decision["survey"]["survey_id"];
        vec![text(&decision["decided_at"]), text(&decision["trigger"]), text(&decision["reason"]), text(survey)]
    });
    decisions.truncate(SHOWN);
    section("DECIDED", &["TRIGGER", "REASON", "SURVEY"], &decisions);
}

fn print_assumed(explained: &Value, trigger: &str) {
    let decision = &explained["decision"];
    let trigger = output::escape(trigger);
    let survey = text(&decision["survey"]["survey_id"]);
    output::line(format!("\nat {trigger}: {} {survey}", text(&decision["reason"])).trim_end());
    section(
        "SURVEY",
        &["PASSES", "GATE", "ACTUAL", "UNTIL"],
        &rows(&decision["evaluations"], |evaluation| {
            ["survey_id", "pass", "gate", "actual", "until"].map(|name| text(&evaluation[name])).into()
        }),
    );
    for evaluation in decision["evaluations"].as_array().into_iter().flatten() {
        if let Some(hint) = evaluation["hint"].as_str() {
            output::line(&format!("\n{}: {hint}", text(&evaluation["survey_id"])));
        }
    }
    for survey in explained["needs_grant"].as_array().into_iter().flatten() {
        output::line(&format!(
            "\nprovided that the quota of {} has a grant left: that depends on what other partitions have not used",
            text(survey)
        ));
    }
}

fn section(first: &str, others: &[&str], rows: &[Vec<String>]) {
    if !rows.is_empty() {
        output::line("");
        output::table(&[&[first], others].concat(), rows);
    }
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        other => other.to_string(),
    }
}
