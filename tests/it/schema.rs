//! Every answer that any test gets is held against `/openapi.json`: the status has to be
//! among those of its operation, the body has to fit the schema, and so has the body
//! of every request that was accepted.

use jsonschema::Validator;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

static DOCUMENT: LazyLock<Value> = LazyLock::new(askwhen::bridge::openapi::document);
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);

fn validator(pointer: &str) -> Arc<Validator> {
    let mut known = VALIDATORS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let made = known.entry(pointer.to_owned()).or_insert_with(|| {
        let schema = DOCUMENT.pointer(pointer).expect("looked up before");
        let schema = json!({"allOf": [schema], "components": DOCUMENT["components"]});
        Arc::new(jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{pointer}: {e}")))
    });
    made.clone()
}

fn must_fit(pointer: &str, body: &Value, what: &str) {
    let wrong: Vec<String> =
        validator(pointer).iter_errors(body).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(wrong.is_empty(), "{what} is not as /openapi.json says: {wrong:?}: {body}");
}

/// What was asked, and what came.
pub struct Exchange<'a> {
    pub method: &'a reqwest::Method,
    pub path: &'a str,
    pub sent: Option<Value>,
    pub status: u16,
    pub body: &'a Value,
}

/// # Panics
/// Where the document does not have it so.
pub fn check(exchange: &Exchange<'_>) {
    let Exchange { method, path, status, .. } = exchange;
    let method_name = method.as_str().to_ascii_lowercase();
    // Another method than the route takes, and paths that are none, are no operations.
    let Ok(route) = askwhen::bridge::router::find(method, path) else { return };
    if !matches!(method_name.as_str(), "get" | "put" | "post" | "delete") {
        return;
    }
    let template = route.name.template().replace("…}", "}");
    let escaped = template.replace('~', "~0").replace('/', "~1");
    let operation = format!("/paths/{escaped}/{method_name}");
    let what = format!("{status} of {method} {template}");
    let mut answer = format!("{operation}/responses/{status}");
    let Some(said) = DOCUMENT.pointer(&answer) else { panic!("/openapi.json does not have {what}: {}", exchange.body) };
    if let Some(shared) = said["$ref"].as_str() {
        answer = shared.trim_start_matches('#').to_owned();
    }
    for media_type in ["application~1json", "application~1problem+json"] {
        let schema = format!("{answer}/content/{media_type}/schema");
        if DOCUMENT.pointer(&schema).is_some() && !exchange.body.is_null() {
            must_fit(&schema, exchange.body, &what);
        }
    }
    let taken = format!("{operation}/requestBody/content/application~1json/schema");
    if let Some(sent) = exchange.sent.as_ref().filter(|_| (200..300).contains(status) && *status != 207)
        && DOCUMENT.pointer(&taken).is_some()
    {
        must_fit(&taken, sent, &format!("the accepted body of {method} {template}"));
    }
}
