//! Lists that come from the console's projection.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::problem::{Answer, Problem, json_answer};
use super::router::Name;
use super::{App, Asked};
use crate::domain::time::{self, Millis};
use crate::wire::definition::Code;

/// What a list of deliveries is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub endpoint_id: Option<String>,
    pub status: Option<String>,
    pub survey_id: Option<String>,
    pub user_id: Option<String>,
    pub since: Option<Millis>,
    pub until: Option<Millis>,
}

/// A stretch of a list, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub rows: Vec<Value>,
    pub next_cursor: Option<String>,
}

/// The console's projection, as far as HTTP asks it.
pub trait Lists: Send + Sync {
    /// # Errors
    /// What is wrong with the cursor, or with the projection.
    fn deliveries(&self, project: &str, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, String>;

    /// # Errors
    /// When the projection cannot be read.
    fn delivery(&self, project: &str, delivery_id: &str) -> Result<Option<Value>, String>;
}

/// `limit`, `cursor` and whatever filters a list knows.
pub(super) struct Query {
    pub limit: usize,
    pub cursor: Option<String>,
    filters: Vec<(String, String)>,
}

pub(super) fn bad_cursor() -> Problem {
    Problem::field(Code::Invalid, "", "cursor must be a next_cursor of this list")
}

/// # Errors
/// 422 for a parameter that the list does not know, or a wrong one.
pub(super) fn page(query: &str, known: &[&str]) -> Result<Query, Problem> {
    let mut page = Query { limit: 50, cursor: None, filters: Vec::new() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned();
        match name {
            "limit" => {
                page.limit = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=200).contains(n))
                    .ok_or_else(|| Problem::field(Code::Invalid, "", "limit must be from 1 to 200"))?;
            }
            "cursor" => page.cursor = Some(value),
            name if known.contains(&name) => page.filters.push((name.to_owned(), value)),
            _ => {
                return Err(Problem::field(
                    Code::UnknownField,
                    "",
                    "the query has a parameter that this list does not know",
                ));
            }
        }
    }
    Ok(page)
}

impl Query {
    fn text(&self, name: &str) -> Option<String> {
        self.filters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn time(&self, name: &str) -> Result<Option<Millis>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let parsed = time::parse_time(&text);
        parsed.map(Some).map_err(|wanted| Problem::field(Code::BadTime, "", format!("{name} must be {wanted}")))
    }
}

impl App {
    pub(super) fn deliveries(&self, asked: &Asked<'_>) -> Result<Answer, Problem> {
        let Some(lists) = &self.lists else {
            let wait = std::time::Duration::from_secs(60);
            return Err(Problem::later(503, "no_console", "this process does not run the role console", wait));
        };
        let broken = |detail: String| Problem::new(500, "internal", detail);
        let project = &asked.caller.project;
        if asked.route.name == Name::Delivery {
            let found = lists.delivery(project, &asked.route.parts[0]).map_err(broken)?;
            let row = found.ok_or_else(|| Problem::not_found("there is no such delivery"))?;
            return Ok(json_answer(200, row.to_string()));
        }
        let query = page(asked.query, &["endpoint_id", "status", "survey_id", "user_id", "since", "until"])?;
        let filter = Filter {
            endpoint_id: query.text("endpoint_id"),
            status: query.text("status"),
            survey_id: query.text("survey_id"),
            user_id: query.text("user_id"),
            since: query.time("since")?,
            until: query.time("until")?,
        };
        let known = ["pending", "waiting", "delivered", "dead", "cancelled"];
        if filter.status.as_deref().is_some_and(|status| !known.contains(&status)) {
            return Err(Problem::field(Code::Invalid, "", format!("status must be one of {}", known.join(", "))));
        }
        let page =
            lists.deliveries(project, &filter, query.cursor.as_deref(), query.limit).map_err(|_| bad_cursor())?;
        Ok(json_answer(200, json!({"deliveries": page.rows, "next_cursor": page.next_cursor}).to_string()))
    }
}
