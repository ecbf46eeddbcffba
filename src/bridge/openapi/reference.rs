//! References to components of the document, and the schemas behind them.

use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// The schemas by name.
pub static SCHEMAS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("schemas.json")).expect("this program's own JSON"));

/// A reference to a component: `of` is its kind, such as `schemas`.
pub fn reference(of: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{of}/{name}")})
}

/// The schema behind a reference, or the given one.
pub fn resolved(schema: &Value) -> &Value {
    let name = schema["$ref"].as_str().and_then(|at| at.strip_prefix("#/components/schemas/"));
    name.map_or(schema, |name| &SCHEMAS[name])
}
