//! What stands in paths, queries and headers.

use serde_json::{Value, json};

use super::reference::reference;
use crate::bridge::list_routes::{DELIVERY_STATUSES, RESPONSE_STATUSES};
use crate::bridge::routes::{Name, RouteSpec};
use askwhen_domain::eligibility::decision::DecisionReason;
use askwhen_wire::listing::GroupBy;

pub fn of(row: &RouteSpec, said: &Value) -> Vec<Value> {
    let in_path = row.template.split('/').filter_map(|part| part.strip_prefix('{'));
    let mut all: Vec<Value> = in_path
        .map(|part| part.trim_end_matches(['…', '}']))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": path_schema(name)}))
        .collect();
    for name in said["query"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        all.push(json!({"name": name, "in": "query", "required": false, "schema": query_schema(row.name, name)}));
    }
    let mut header = |name: &str, what: &str, schema: Value| {
        all.push(json!({"name": name, "in": "header", "description": what, "schema": schema}));
    };
    let takes_condition = said["problems"].as_array().is_some_and(|statuses| statuses.contains(&json!(412)));
    if takes_condition {
        header("if-match", "The entity tag of the version that is to be replaced.", json!({"type": "string"}));
    }
    if matches!(row.name, Name::Events | Name::BlitzllamaEvent | Name::RewardEvent | Name::UserTrigger) {
        header("idempotency-key", "The event_id, for what sends it as a header.", reference("schemas", "Id"));
    }
    if row.name.is_client() {
        let what = "With a client key, where the project has an identity secret: HEX of HMAC-SHA256 of the user_id.";
        header("x-user-signature", what, json!({"type": "string"}));
    }
    all
}

fn path_schema(name: &str) -> Value {
    match name {
        "version" | "partition" => json!({"type": "integer", "minimum": 0}),
        // Of the console's pages and the widget's files: names that are none lead nowhere.
        "page" | "file" => json!({"type": "string"}),
        _ => reference("schemas", "Id"),
    }
}

fn query_schema(route: Name, name: &str) -> Value {
    match (route, name) {
        (_, "limit") => json!({"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
        (_, "dry_run") => json!({"type": "boolean"}),
        (_, "since" | "until" | "at") => reference("schemas", "Time"),
        (_, "version") => json!({"type": "integer", "minimum": 0}),
        (_, "http_status") => json!({"type": "integer", "minimum": 100, "maximum": 599}),
        (_, "by") => json!({"type": "string", "enum": GroupBy::ALL.map(|(name, _)| name)}),
        (Name::Deliveries, "status") => json!({"type": "string", "enum": DELIVERY_STATUSES}),
        (Name::Responses, "status") => json!({"type": "string", "enum": RESPONSE_STATUSES}),
        (Name::Decisions, "status") => {
            json!({"type": "string", "enum": DecisionReason::names().collect::<Vec<_>>()})
        }
        (Name::Explain, "trigger") => reference("schemas", "Id"),
        (_, name) if name.ends_with("_id") => reference("schemas", "Id"),
        _ => json!({"type": "string"}),
    }
}
