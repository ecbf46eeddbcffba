//! Routes of the lists in the console's projection.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::app::{App, RequestContext, run_blocking};
use super::lists::Lists;
use super::problem::{Answer, Problem, json_answer};
use askwhen_domain::eligibility::decision::DecisionReason;
use askwhen_domain::id;
use askwhen_domain::refs::SurveyRef;
use askwhen_domain::time::{self, Millis};
use askwhen_wire::definition::{Code, Kind, nearest};
use askwhen_wire::listing::{Filter, List, ListError, PageRequest};

/// `limit`, `cursor` and the filters of a list.
pub(super) struct Query {
    pub limit: usize,
    pub cursor: Option<String>,
    filters: Vec<(String, String)>,
}

pub(super) fn bad_cursor() -> Problem {
    Problem::field(Code::Invalid, "", "cursor must be a next_cursor of this list")
}

/// Reads the query; `known` are the filters of the list.
///
/// # Errors
/// 422 for an unknown or invalid parameter.
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
            name if known.contains(&name) => {
                if page.filters.iter().any(|(given, _)| given == name) {
                    return Err(Problem::field(Code::Invalid, "", format!("{name} is given twice")));
                }
                if name.ends_with("_id")
                    && let Err(why) = id::check(&value)
                {
                    return Err(Problem::field(Code::BadId, "", format!("{name} {why}")));
                }
                page.filters.push((name.to_owned(), value));
            }
            _ => {
                return Err(unknown_parameter(name, known));
            }
        }
    }
    Ok(page)
}

/// The filters of deliveries.
const DELIVERY_FILTERS: [&str; 10] =
    ["status", "survey_id", "user_id", "since", "until", "endpoint_id", "outcome", "http_status", "cause", "type"];
pub(super) const DELIVERY_STATUSES: [&str; 6] = ["pending", "waiting", "delivered", "dead", "cancelled", "resent"];
pub(super) const RESPONSE_STATUSES: [&str; 2] = ["partial", "completed"];

/// A filter of deliveries in a body, with the same members as the list's query.
///
/// # Errors
/// 422 for an unknown or invalid member.
pub(super) fn delivery_filter(filter: &Value) -> Result<Filter, Problem> {
    let Some(members) = filter.as_object() else {
        return Err(Problem::field(Code::WrongType, "/filter", "filter must be an object"));
    };
    let mut query = Query { limit: 0, cursor: None, filters: Vec::new() };
    for (name, value) in members {
        let pointer = format!("/filter/{name}");
        if !DELIVERY_FILTERS.contains(&name.as_str()) {
            return Err(Problem::field(Code::UnknownField, &pointer, "the list of deliveries knows no such filter"));
        }
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return Err(Problem::field(Code::WrongType, &pointer, "must be a string")),
        };
        query.filters.push((name.clone(), text));
    }
    let filter = query.filter()?;
    check_status(&filter, &DELIVERY_STATUSES)?;
    Ok(filter)
}

fn check_status(filter: &Filter, known: &[&str]) -> Result<(), Problem> {
    if filter.status.as_deref().is_some_and(|status| !known.contains(&status)) {
        return Err(Problem::field(Code::Invalid, "", format!("status must be one of {}", known.join(", "))));
    }
    Ok(())
}

/// A short name is repeated in the answer; values never are.
fn unknown_parameter(name: &str, known: &[&str]) -> Problem {
    let known: Vec<&str> = ["limit", "cursor"].into_iter().chain(known.iter().copied()).collect();
    let shown = if name.len() <= 64 { format!(" {name}") } else { String::new() };
    let near = nearest(name, &known).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    let detail = format!("there is no query parameter{shown} here{near}: known are {}", known.join(", "));
    Problem::field(Code::UnknownField, "", detail)
}

impl Query {
    fn filter(&self) -> Result<Filter, Problem> {
        Ok(Filter {
            endpoint_id: self.text("endpoint_id"),
            status: self.text("status"),
            survey_id: self.text("survey_id"),
            user_id: self.text("user_id"),
            outcome: self.text("outcome"),
            http_status: self.http_status()?,
            cause: self.text("cause"),
            kind: self.text("type"),
            since: self.time("since")?,
            until: self.time("until")?,
            kept_since: BTreeMap::new(),
        })
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.filters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
    }

    fn http_status(&self) -> Result<Option<u16>, Problem> {
        let Some(text) = self.text("http_status") else { return Ok(None) };
        let status = text.parse().ok().filter(|status| (100..=599).contains(status));
        status.map(Some).ok_or_else(|| Problem::field(Code::Invalid, "", "http_status must be a number such as 500"))
    }

    pub fn time(&self, name: &str) -> Result<Option<Millis>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        // An unescaped plus has become a space.
        let parsed = time::parse_time(&text).or_else(|wanted| match text.rsplit_once(' ') {
            Some((local, zone)) => time::parse_time(&format!("{local}+{zone}")),
            None => Err(wanted),
        });
        parsed.map(Some).map_err(|wanted| Problem::field(Code::BadTime, "", format!("{name} must be {wanted}")))
    }
}

impl App {
    /// The lists, with all that was there when they were asked for.
    pub(super) async fn lists(&self) -> Result<&Arc<dyn Lists>, Problem> {
        let lists = self.whole_lists()?;
        lists.look().await;
        Ok(lists)
    }

    /// The lists, unless they are being made again.
    pub(super) fn whole_lists(&self) -> Result<&Arc<dyn Lists>, Problem> {
        let wait = std::time::Duration::from_secs(60);
        let missing = || Problem::later(503, "no_console", "this process does not run the role console", wait);
        let lists = self.lists.as_ref().ok_or_else(missing)?;
        lists.is_whole().map_err(|left| {
            let left = left.map_or(String::new(), |left| format!("; {left} records to go"));
            let detail = format!("the lists are being made once more from the topics{left}");
            Problem::later(503, "rebuilding", &detail, std::time::Duration::from_secs(5))
        })?;
        Ok(lists)
    }

    pub(super) async fn list(&self, asked: &RequestContext<'_>, list: List) -> Result<Answer, Problem> {
        let lists = self.lists().await?;
        // Only deliveries have endpoints and attempts.
        let known = if list == List::Deliveries { &DELIVERY_FILTERS[..] } else { &DELIVERY_FILTERS[..5] };
        let query = page(asked.query, known)?;
        let mut filter = query.filter()?;
        match list {
            List::Deliveries => check_status(&filter, &DELIVERY_STATUSES)?,
            List::Decisions => check_status(&filter, &DecisionReason::names().collect::<Vec<_>>())?,
            List::Responses => {
                check_status(&filter, &RESPONSE_STATUSES)?;
                filter.kept_since = self.view.kept_since(&asked.caller.project, self.clock.now());
            }
        }
        let wanted = PageRequest { cursor: query.cursor.as_deref(), limit: query.limit };
        let page = lists.list(list, &asked.caller.project, &filter, wanted);
        let mut page = page.map_err(unlisted)?;
        if list == List::Deliveries {
            page.rows.iter_mut().for_each(|row| self.show_hold(&asked.caller.project, row));
        }
        Ok(json_answer(200, json!({list.name(): page.rows, "next_cursor": page.next_cursor}).to_string()))
    }

    /// Shows when the next attempt of a delivery is made that waits at an endpoint whose
    /// breaker is open.
    pub(super) fn show_hold(&self, project: &str, row: &mut Value) {
        let Some(next) = row["next_attempt_at"].as_str().and_then(|text| time::parse_time(text).ok()) else { return };
        let endpoint_id = row["endpoint_id"].as_str().unwrap_or_default();
        let until = self.health(project, endpoint_id).and_then(|health| health.until);
        if let Some(until) = until.filter(|until| *until > next) {
            row["next_attempt_at"] = time::format_time(until).into();
        }
    }

    pub(super) async fn causes(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let lists = self.lists().await?.clone();
        let query = page(asked.query, &["since"])?;
        let (project, since) = (asked.caller.project.clone(), query.time("since")?.unwrap_or(0));
        let causes = run_blocking(move || lists.causes(&project, since)).await?.map_err(unlisted)?;
        Ok(json_answer(200, json!({"causes": causes}).to_string()))
    }

    pub(super) async fn stats(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let lists = self.lists().await?;
        let query = page(asked.query, &["since", "until"])?;
        let (since, until) = (query.time("since")?, query.time("until")?);
        let survey = SurveyRef::new(&asked.caller.project, &asked.route.parts[0]);
        if self.view.get(survey.project, Kind::Survey, survey.survey_id).is_none() {
            return Err(Problem::not_found("there is no such survey"));
        }
        let stats = lists.stats(survey, since, until).map_err(unlisted)?;
        Ok(json_answer(200, stats.to_string()))
    }
}

pub(super) fn unlisted(error: ListError) -> Problem {
    match error {
        ListError::Cursor => bad_cursor(),
        ListError::Unreadable(error) => Problem::new(500, "internal", error.to_string()),
    }
}
