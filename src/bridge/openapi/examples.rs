//! Examples from `docs/api.md`, of which the tests send each, and for what the page tells in a
//! sentence from `examples.json`.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::reference::resolved;
use crate::bridge::router;

const PAGE: &str = include_str!("../../../docs/api.md");

/// By operation, the first request and the first answer of each status.
#[derive(Default)]
struct Examples {
    requests: BTreeMap<String, Value>,
    answers: BTreeMap<(String, String), Value>,
}

static EXAMPLES: LazyLock<Examples> = LazyLock::new(|| {
    let mut all = Examples::default();
    for part in PAGE.split("```http ").skip(1) {
        // Incomplete examples, such as requests that are wrong on purpose, are left out.
        let _ = read(part, &mut all);
    }
    all
});

/// Reads one example: the request after the kind of its key, and the answer that follows.
fn read(part: &'static str, all: &mut Examples) -> Option<()> {
    let (request, rest) = part.split_once('\n')?.1.split_once("\n```")?;
    let (head, body) = request.split_once("\n\n").map_or((request, None), |(head, body)| (head, Some(body)));
    let (method, path) = head.split_once(' ')?;
    let path = path.split('?').next()?.replace(['{', '}'], "x");
    let route = router::find(&method.parse().ok()?, &path).ok()?;
    let operation = format!("{method} {}", route.name.template().replace("…}", "}"));
    let (status, answer) = rest.split_once("```json ")?.1.split_once('\n')?;
    let answer = serde_json::from_str(answer.split_once("\n```")?.0).ok()?;
    if status.starts_with('2')
        && let Some(body) = body.and_then(|body| serde_json::from_str(body).ok())
    {
        all.requests.entry(operation.clone()).or_insert(body);
    }
    all.answers.entry((operation, status.to_owned())).or_insert(answer);
    Some(())
}

/// By operation, what the page does not show: `request`, and an answer of each status.
static MORE: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("examples.json")).expect("this program's own JSON"));

fn more(operation: &str, part: &str) -> Option<Value> {
    MORE.get(operation)?.get(part).cloned()
}

pub fn request(operation: &str) -> Option<Value> {
    EXAMPLES.requests.get(operation).cloned().or_else(|| more(operation, "request"))
}

/// The answer of a status. The page has `…` for what is another one each time; where the
/// schema of the answer wants a number there, it is one.
pub fn answer(operation: &str, status: &str, schema: &Value) -> Option<Value> {
    let shown = EXAMPLES.answers.get(&(operation.to_owned(), status.to_owned())).cloned();
    Some(fitted(shown.or_else(|| more(operation, status))?, schema))
}

fn fitted(shown: Value, schema: &Value) -> Value {
    let schema = resolved(schema);
    match shown {
        Value::String(any) if any == "…" && is_number(schema) => 17.into(),
        Value::Array(items) => items.into_iter().map(|item| fitted(item, &schema["items"])).collect(),
        Value::Object(members) => {
            let of = |name: &str| match &schema["properties"][name] {
                Value::Null => &schema["additionalProperties"],
                known => known,
            };
            Value::Object(members.into_iter().map(|(name, value)| (name.clone(), fitted(value, of(&name)))).collect())
        }
        other => other,
    }
}

fn is_number(schema: &Value) -> bool {
    let named = |kind: &Value| kind == "integer" || kind == "number";
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(named),
        kind => named(kind),
    }
}
