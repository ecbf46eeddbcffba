//! References to components of the document.

use serde_json::{Value, json};

/// A reference to a component: `of` is its kind, such as `schemas`.
pub fn reference(of: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{of}/{name}")})
}
