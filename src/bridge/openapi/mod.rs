//! `/openapi.json`: the table of routes with what each accepts and answers. The schemas are
//! JSON files and not Rust types, because bodies are passed on as bytes and most have no
//! type. Tests compare every answer that they get with the schema of its route.

mod examples;
mod parameters;
mod reference;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use reference::{SCHEMAS, reference};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

use super::auth::Kind;
use super::etag;
use super::problem::{Answer, json_answer};
use super::routes::{RouteSpec, TABLE};

/// The document and its entity tag, built once.
static DOCUMENT: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let text = document().to_string();
    let tag = format!("\"{}\"", etag::digest(text.as_bytes()));
    (text.into(), tag)
});

/// What each operation accepts and answers; schemas by name.
static OPERATIONS: LazyLock<Map<String, Value>> = LazyLock::new(|| ours(include_str!("operations.json")));
/// The problem codes of each status; of 409 any, because gates of link surveys are among
/// them.
static PROBLEMS: LazyLock<Map<String, Value>> = LazyLock::new(|| ours(include_str!("problems.json")));

/// The messages that an endpoint of profile standard gets. The document refers to them: makers
/// of clients take a webhook that stands in its place for a request, and write code for it
/// that does not compile.
const WEBHOOKS: [(&str, &str, &str); 4] = [
    ("response", "ResponseWebhook", "Answers, as they are given and when they are complete"),
    ("survey", "OfferWebhook", "A survey was displayed or dismissed"),
    ("closed", "ClosedWebhook", "A survey takes no more responses"),
    ("user", "ErasureWebhook", "A user was erased"),
];

fn ours(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("this program's own JSON")
}

/// The document, or 304 for a client that has it.
pub fn answer(headers: &HeaderMap) -> Answer {
    let (bytes, tag) = &*DOCUMENT;
    let mut answer = if etag::is_known(headers, tag) { json_answer(304, "") } else { json_answer(200, bytes.clone()) };
    answer.headers_mut().insert(header::ETAG, HeaderValue::from_str(tag).expect("hex digits in quotes"));
    answer
}

pub fn document() -> Value {
    let mut paths = Map::new();
    for row in TABLE {
        let path = path(row);
        let entry = paths.entry(path.clone()).or_insert_with(|| json!({}));
        for (method, kind, summary) in row.methods {
            entry[method.to_ascii_lowercase()] = operation(row, *kind, method, summary, &path);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "askwhen",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Decides which user to ask which survey at which moment, and sends every answer on.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "webhooks": webhooks(|name, _, _| reference("pathItems", name)),
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": *SCHEMAS,
            "responses": problems(),
            "pathItems": webhooks(|_, schema, what| webhook(schema, what)),
        },
    })
}

/// The path template as OpenAPI writes it.
fn path(row: &RouteSpec) -> String {
    row.template.replace("…}", "}")
}

/// What an operation is about: clients are made with a class for each.
fn tag(row: &RouteSpec) -> &'static str {
    let mut parts = row.template.split('/').skip(1);
    match parts.next() {
        Some("v1") => parts.next().expect("a route of the API has a subject"),
        Some("api") => "events",
        Some("livez" | "readyz" | "metrics" | "openapi.json") => "process",
        _ => "pages",
    }
}

fn operation(row: &RouteSpec, kind: Kind, method: &str, summary: &str, path: &str) -> Value {
    let name = format!("{method} {path}");
    let entry = OPERATIONS.get(&name).unwrap_or_else(|| panic!("operations.json says nothing of {name}"));
    let mut operation = json!({
        "operationId": format!("{}{:?}", method.to_ascii_lowercase(), row.name),
        "summary": summary,
        "tags": [tag(row)],
        "parameters": parameters::of(row, entry),
        "responses": responses(row, entry, kind, &name),
    });
    if kind != Kind::None {
        operation["security"] = json!([{"bearer": []}, {"apiKey": []}]);
        operation["description"] = format!("Needs a key of kind {} or above.", kind.name()).into();
    }
    if let Some(schema) = entry["body"].as_str() {
        let needed = matches!(row.name.body(), super::body::BodyNeed::Json);
        let mut content = json!({"schema": reference("schemas", schema)});
        if let Some(example) = examples::request(&name) {
            content["example"] = example;
        }
        operation["requestBody"] = json!({"required": needed, "content": {"application/json": content}});
    }
    operation
}

fn with_example(schema: Value, name: &str, status: &str) -> Value {
    let example = examples::answer(name, status, &schema);
    let mut content = json!({"schema": schema});
    if let Some(example) = example {
        content["example"] = example;
    }
    content
}

fn responses(row: &RouteSpec, entry: &Value, kind: Kind, name: &str) -> Map<String, Value> {
    let mut all = Map::new();
    for (status, what) in entry["answers"].as_object().into_iter().flatten() {
        let mut answer = json!({"description": described(status)});
        match what {
            Value::String(none) if none.is_empty() => {}
            Value::String(media_type) if media_type.contains('/') => {
                let schema = match media_type.as_str() {
                    "application/json" => json!({"type": "object"}),
                    "text/event-stream" => {
                        json!({"description": "Events whose data is such as {\"list\": \"deliveries\"}."})
                    }
                    _ => json!({"type": "string"}),
                };
                answer["content"] = json!({media_type: with_example(schema, name, status)});
                // A path that is none is answered to programs.
                if status.starts_with('4') {
                    answer["content"]["application/problem+json"] = json!({"schema": reference("schemas", "Problem")});
                }
            }
            Value::String(schema) => {
                let content = with_example(reference("schemas", schema), name, status);
                answer["content"] = json!({"application/json": content});
            }
            rows => answer["content"] = json!({"application/json": with_example(list(rows), name, status)}),
        }
        if entry["answers"].get("304").is_some() {
            let what = "Goes into if-none-match, and where it can be changed into if-match.";
            answer["headers"] = json!({"etag": {"description": what, "schema": {"type": "string"}}});
        }
        all.insert(status.clone(), answer);
    }
    let has_body = name.starts_with("POST ") || name.starts_with("PUT ");
    let mut problems: Vec<u64> = entry["problems"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    if kind != Kind::None {
        problems.extend([401, 403, 404, 422, 429, 500, 503]);
    }
    if row.template.contains('{') {
        problems.push(404);
    }
    if has_body {
        problems.extend([400, 408, 413, 415]);
    }
    for status in problems {
        all.entry(status.to_string()).or_insert_with(|| reference("responses", &format!("Problem{status}")));
    }
    all
}

/// A page of a list, with the schema of its rows.
fn list(rows: &Value) -> Value {
    let (name, schema) = rows.as_object().and_then(|rows| rows.iter().next()).expect("a list has a name");
    let schema = schema.as_str().expect("the rows of a list have a schema");
    json!({
        "type": "object",
        "required": [name, "next_cursor"],
        "properties": {
            name: {"type": "array", "items": reference("schemas", schema)},
            "next_cursor": {"type": ["string", "null"], "description": "Goes into cursor; null behind the last page."},
        },
    })
}

fn described(status: &str) -> &'static str {
    match status {
        "201" => "Made; durable.",
        "202" => "Durable.",
        "207" => "Durable as far as items were accepted; each has its own status.",
        "303" => "It stands elsewhere.",
        "304" => "As the entity tag that was sent says.",
        "403" | "404" | "410" => "A page that says so.",
        "503" => "Not ready, with the reasons.",
        _ => "Done; durable where something was written.",
    }
}

/// RFC 9457 problems, a response for each status.
fn problems() -> Map<String, Value> {
    let mut all = Map::new();
    for (status, codes) in PROBLEMS.iter() {
        let mut schema = reference("schemas", "Problem");
        if codes.is_array() {
            schema = json!({"allOf": [schema, {"type": "object", "properties": {"code": {"enum": codes}}}]});
        }
        let mut answer = json!({
            "description": format!("A problem (RFC 9457) of status {status}."),
            "content": {"application/problem+json": {"schema": schema}},
        });
        if matches!(status.as_str(), "429" | "503") {
            let seconds =
                json!({"description": "Seconds until it is worth asking again.", "schema": {"type": "integer"}});
            answer["headers"] = json!({"retry-after": seconds});
        }
        all.insert(format!("Problem{status}"), answer);
    }
    all
}

fn webhooks(of: impl Fn(&str, &str, &str) -> Value) -> Map<String, Value> {
    WEBHOOKS.iter().map(|(name, schema, what)| ((*name).to_owned(), of(name, schema, what))).collect()
}

fn webhook(schema: &str, summary: &str) -> Value {
    let header = |name: &str, what: &str| json!({"name": name, "in": "header", "required": true, "description": what, "schema": {"type": "string"}});
    json!({
        "post": {
            "operationId": format!("post{schema}"),
            "summary": summary,
            "description": "Profile standard: Standard Webhooks.",
            "parameters": [
                header("webhook-id", "The same for all attempts and resends of a message."),
                header("webhook-timestamp", "Seconds since the epoch of this attempt."),
                header("webhook-signature", "v1,BASE64 of HMAC-SHA256 over id.timestamp.body; several, space-separated, while a secret is rotated."),
            ],
            "requestBody": {"required": true, "content": {"application/json": {"schema": reference("schemas", schema)}}},
            "responses": {"2XX": {"description": "Taken."}, "410": {"description": "Gone: the endpoint is disabled."}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_says_what_it_takes_and_answers_and_no_other_is_said() {
        let routes: BTreeSet<String> = TABLE
            .iter()
            .flat_map(|row| row.methods.iter().map(|(method, ..)| format!("{method} {}", path(row))))
            .collect();
        let said: BTreeSet<String> = OPERATIONS.keys().cloned().collect();
        assert_eq!(routes, said);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
        let document = document();
        let text = document.to_string();
        let mut referred = BTreeSet::new();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().expect("it ends");
            assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
            referred.insert(pointer.to_owned());
        }
        for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
            assert!(referred.contains(&format!("/components/schemas/{name}")), "nothing refers to {name}");
        }
    }

    #[test]
    fn no_two_operations_have_one_id() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{method} {path}: {id}");
            }
        }
    }

    /// Where a value is not as its schema says.
    fn misfit(value: &Value, schema: &Value, at: &str) -> Option<String> {
        let schema = reference::resolved(schema);
        if let Some(any) = schema["anyOf"].as_array() {
            return any.iter().all(|one| misfit(value, one, at).is_some()).then(|| format!("{at}: {value}"));
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
        let fits = match &schema["type"] {
            Value::Null => true,
            Value::Array(kinds) => kinds.iter().any(is),
            wanted => is(wanted),
        };
        let is_listed = schema["enum"].as_array().is_none_or(|all| all.contains(value));
        if !fits || !is_listed {
            return Some(format!("{at}: {value} is not of {schema}"));
        }
        match value {
            Value::Array(items) => items.iter().find_map(|item| misfit(item, &schema["items"], at)),
            Value::Object(members) => {
                let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
                    return Some(format!("{at}: {missing} is missing"));
                }
                members.iter().find_map(|(name, value)| {
                    misfit(value, &schema["properties"][name.as_str()], &format!("{at}/{name}"))
                })
            }
            _ => None,
        }
    }

    #[test]
    fn every_operation_of_the_api_has_examples_that_fit_their_schemas() {
        let document = document();
        let mut faults = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let answers = operation["responses"].as_object().unwrap();
                let bodies = answers.iter().filter(|(status, _)| status.starts_with('2'));
                let bodies = bodies.flat_map(|(_, answer)| answer["content"].as_object().into_iter().flatten());
                let asked = operation["requestBody"]["content"].as_object().into_iter().flatten();
                let mut has_example = false;
                let mut needs_example = false;
                for (media_type, content) in bodies.chain(asked) {
                    // Pages and scripts are not for programs.
                    let is_page = ["text/html", "text/javascript"].contains(&media_type.as_str());
                    needs_example |= !is_page && path != "/openapi.json";
                    if let Some(example) = content.get("example") {
                        has_example = true;
                        faults.extend(misfit(example, &content["schema"], &format!("{method} {path}")));
                    }
                }
                faults.extend((needs_example && !has_example).then(|| format!("{method} {path} has no example")));
            }
        }
        assert_eq!(faults, Vec::<String>::new());
    }
}
