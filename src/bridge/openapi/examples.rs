//! Examples from `docs/api.md`; the tests send each of them.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

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

pub fn request(operation: &str) -> Option<Value> {
    EXAMPLES.requests.get(operation).cloned()
}

pub fn answer(operation: &str, status: &str) -> Option<Value> {
    EXAMPLES.answers.get(&(operation.to_owned(), status.to_owned())).cloned()
}
