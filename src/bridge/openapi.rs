//! `/openapi.json`, made from the table of routes, so that neither forgets the
//! other.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

use super::auth::Kind;
use super::etag;
use super::problem::{Answer, json_answer};
use super::router::{RouteSpec, TABLE};

/// Its bytes and its entity tag, made once.
static DOCUMENT: LazyLock<(Bytes, String)> = LazyLock::new(|| {
    let text = document().to_string();
    let tag = format!("\"{}\"", etag::digest(text.as_bytes()));
    (text.into(), tag)
});

/// The document, or 304 for whoever has it.
pub fn answer(headers: &HeaderMap) -> Answer {
    let (bytes, tag) = &*DOCUMENT;
    let mut answer = if etag::is_known(headers, tag) { json_answer(304, "") } else { json_answer(200, bytes.clone()) };
    answer.headers_mut().insert(header::ETAG, HeaderValue::from_str(tag).expect("hex digits in quotes"));
    answer
}

pub fn document() -> Value {
    let mut paths = Map::new();
    for row in TABLE {
        let path = row.template.replace("…}", "}");
        let entry = paths.entry(path).or_insert_with(|| json!({}));
        for (method, kind, summary) in row.methods {
            entry[method.to_ascii_lowercase()] = operation(row, *kind, method, summary);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "askwhen",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "schemas": {"Problem": problem()},
        },
    })
}

fn operation(row: &RouteSpec, kind: Kind, method: &str, summary: &str) -> Value {
    let parameters: Vec<Value> = row
        .template
        .split('/')
        .filter_map(|part| part.strip_prefix('{'))
        .map(|part| part.trim_end_matches(['…', '}']))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}))
        .collect();
    let mut operation = json!({
        "operationId": format!("{}_{:?}", method.to_ascii_lowercase(), row.name),
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "2XX": {"description": "Done; durable where something was written."},
            "default": {
                "description": "A problem (RFC 9457).",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    });
    if kind != Kind::None {
        operation["security"] = json!([{"bearer": []}, {"apiKey": []}]);
        operation["description"] = format!("Needs a key of kind {} or above.", kind.name()).into();
    }
    if matches!(method, "POST" | "PUT") {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": {"type": "object"}}}});
    }
    operation
}

fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": "string"},
            "request_id": {"type": "string"},
            "byte_offset": {"type": "integer"},
            "event_id": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string"},
                        "pointer": {"type": "string"},
                        "detail": {"type": "string"},
                    },
                },
            },
        },
    })
}
