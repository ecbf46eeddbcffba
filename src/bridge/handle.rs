//! Handles a request: the checks that come first, and the dispatch to its handler.

use bytes::Bytes;
use http::HeaderMap;
use http::{HeaderValue, Method, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::app::{AdvanceClock, App, RequestContext, Surface};
use super::auth::{self, Caller, Kind};
use super::body::{self, RequestedBody};
use super::budget::BudgetExhausted;
use super::connections::Connection;
use super::held_bytes::HeldBytes;
use super::problem::{self, Answer, AnswerBody, Problem};
use super::results::LineFormat;
use super::router::{self, NoRoute, Route};
use super::routes::{self, Name};
use super::{console, cors, fields, openapi, sdk};
use askwhen_domain::id;
use askwhen_log::Log;
use askwhen_wire::definition::Code;
use askwhen_wire::listing::List;
use askwhen_wire::record::DEFAULT_PROJECT;

/// An answer up to this size is not counted in the budget.
const SMALL_ANSWER_BYTES: usize = 4 << 10;

impl App {
    /// Handles one request.
    pub async fn handle(&self, surface: Surface, request: Request<Incoming>, connection: &Arc<Connection>) -> Answer {
        let started = Instant::now();
        let request_id = uuid::Uuid::new_v4().simple().to_string();
        let (head, mut body) = request.into_parts();
        let found = router::find(&head.method, below(&self.base_path, head.uri.path()));
        let name = match &found {
            Ok(route) => Some(route.name),
            Err(NoRoute::Method(name, _) | NoRoute::BadId(name)) => Some(*name),
            Err(NoRoute::NotFound) => None,
        };
        let outcome = match found {
            Ok(route) if hidden(surface, route.name) => Err(Problem::not_found("there is no such path here")),
            Ok(route) => self.answer(&route, &head, &mut body, &request_id, connection).await,
            Err(NoRoute::Method(_, allow)) => {
                let detail = format!("this path takes {allow}");
                Err(Problem { allow: Some(allow), ..Problem::new(405, "method_not_allowed", detail) })
            }
            Err(NoRoute::NotFound | NoRoute::BadId(_)) => Err(Problem::not_found("there is no such path")),
        };
        let outcome = match outcome {
            Ok(answer) => counted(answer, connection).await,
            refused => refused,
        };
        let closes = outcome.as_ref().is_err_and(|problem| problem.close);
        let code = outcome.as_ref().err().map(|problem| problem.code.clone());
        let mut answer = outcome.unwrap_or_else(|problem| problem.answer(&request_id));
        // A body that no route has read is read off, or the connection is closed.
        let unread = !hyper::body::Body::is_end_stream(&body);
        if unread && !closes && !body::drain(&head.headers, &mut body).await {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(kept) = name.and_then(Name::cache_control) {
            answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(kept));
        }
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            answer.headers_mut().insert("x-request-id", value);
        }
        if name.is_some_and(Name::is_client) {
            cors::allow_origin(&self.cors_origins.now(), &head.headers, answer.headers_mut());
        }
        let metrics = askwhen_process::metrics::get();
        let route = name.map_or("none", Name::template);
        metrics.bridge_requests.with_label_values(&[route, answer.status().as_str()]).inc();
        metrics.bridge_request_seconds.observe(started.elapsed().as_secs_f64());
        if self.access_log || answer.status().as_u16() >= 400 {
            // The route's template is logged; the path may contain a user id.
            tracing::info!(
                target: "askwhen::access",
                request_id,
                method = %head.method,
                route,
                status = answer.status().as_u16(),
                code,
                duration_ms = started.elapsed().as_millis() as u64,
                "request"
            );
        }
        answer
    }

    /// Checks the key, its kind, the body's type, encoding and size, and the JSON, in this
    /// order.
    async fn answer(
        &self,
        route: &Route,
        head: &http::request::Parts,
        body: &mut Incoming,
        request_id: &str,
        connection: &Arc<Connection>,
    ) -> Result<Answer, Problem> {
        if head.method == Method::OPTIONS {
            return Ok(self.preflight(route.name, &head.headers));
        }
        // A HEAD is handled as a GET; its body is left out later.
        let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        let query = head.uri.query().unwrap_or_default();
        if let Some(answer) = self.answer_without_key(route, method, head, query, body, connection).await {
            return answer;
        }
        if route.name == Name::TestClock && self.test_clock.is_none() {
            return Err(Problem::not_found("the test clock is not on; start with --test-clock"));
        }
        if !self.takes_requests && !route.name.needs_no_bridge() {
            return Err(no_bridge());
        }
        let takes_body = matches!(*method, Method::POST | Method::PUT);
        let (caller, body) = self.caller_and_body(route, method, head, body, connection).await?;
        if route.parts.iter().any(|part| part.len() > id::MAX_BYTES) {
            return Err(Problem::field(Code::BadId, "", "an id in the path has more than 256 bytes"));
        }
        // State under such an id can still be read and erased.
        if let Some(why) = route.parts.iter().filter(|_| takes_body).find_map(|part| id::check_given(part).err()) {
            return Err(Problem::field(Code::BadId, "", format!("an id in the path {why}")));
        }
        let asked = RequestContext { route, headers: &head.headers, query, caller, body, request_id };
        if route.kind == Kind::Client {
            self.auth.client_user(&asked.caller, asked.headers, &route.parts[0])?;
        }
        self.dispatch(&asked, method, head.method == Method::HEAD).await
    }

    /// Routes without a key, and routes that check their credentials themselves.
    async fn answer_without_key(
        &self,
        route: &Route,
        method: &Method,
        head: &http::request::Parts,
        query: &str,
        body: &mut Incoming,
        connection: &Arc<Connection>,
    ) -> Option<Result<Answer, Problem>> {
        Some(match route.name {
            Name::Sdk => sdk::answer(&route.parts[0], &head.headers),
            Name::Embed => Ok(self.embed()),
            Name::SurveyPage if !self.takes_requests => Err(no_bridge()),
            Name::SurveyPage => self.survey_page(&route.parts[0], query, &head.headers).await,
            Name::Root | Name::Console => Ok(console::redirect(&self.base_path)),
            Name::ConsolePage => console::answer(&route.parts[0], &head.headers, &self.base_path),
            Name::ConsoleSession => self.console_session(method, head, body, connection).await,
            _ if route.kind == Kind::None => Ok(self.open_route(route.name, query, &head.headers)),
            _ => return None,
        })
    }

    /// Authenticates the caller and reads the body; a page may have its key in the body.
    async fn caller_and_body(
        &self,
        route: &Route,
        method: &Method,
        head: &http::request::Parts,
        body: &mut Incoming,
        connection: &Arc<Connection>,
    ) -> Result<(Caller, Bytes), Problem> {
        let takes_body = matches!(*method, Method::POST | Method::PUT);
        let wanted = RequestedBody { need: route.name.body(), plain_text: route.kind == Kind::Client };
        if takes_body && route.kind == Kind::Client && auth::may_be_in_body(&head.headers) {
            let body = body::read(&head.headers, body, wanted, connection).await;
            let body = body.map_err(|_| auth::unauthorized())?;
            self.sync_keys();
            let by_link = (route.name == Name::LinkResponses).then(|| self.caller_of_link(route, &body)).flatten();
            let caller = by_link.unwrap_or_else(|| self.auth.caller_of_body(&body))?;
            if !caller.by_link {
                self.auth.note_use(caller.digest, self.clock.now());
            }
            self.auth.take_quota(&caller)?;
            return Ok((caller, body));
        }
        let caller = self.caller(&head.headers, route.kind, *method == Method::GET)?;
        self.auth.take_quota(&caller)?;
        let read = if takes_body { body::read(&head.headers, body, wanted, connection).await? } else { Bytes::new() };
        Ok((caller, read))
    }

    /// One line for each route.
    async fn dispatch(&self, asked: &RequestContext<'_>, method: &Method, is_head: bool) -> Result<Answer, Problem> {
        match asked.route.name {
            Name::Events => self.events(asked).await,
            Name::BlitzllamaEvent => self.blitzllama_event(asked).await,
            Name::RewardEvent => self.reward_event(asked).await,
            Name::UserTrigger => self.user_trigger(asked).await,
            Name::Displayed | Name::Dismissed => self.seen(asked).await,
            Name::Answers => self.answers(asked).await,
            Name::Offer => self.offer(asked).await,
            Name::LinkSurvey => self.link_survey(asked).await,
            Name::LinkResponses => self.link_responses(asked).await,
            Name::SurveyLinks => self.make_link(asked),
            Name::Explain => self.explain(asked).await,
            Name::Timeline => self.timeline(asked).await,
            Name::Aliases => self.alias(asked).await,
            Name::User if *method == Method::GET => self.user(asked).await,
            Name::User if *method == Method::DELETE => self.erase(asked).await,
            Name::User => self.attributes(asked).await,
            Name::Triggers | Name::Trigger => self.triggers(asked, method).await,
            Name::Surveys | Name::Endpoints => self.list_definitions(asked),
            Name::Survey | Name::Endpoint | Name::Settings => self.definition(asked, method).await,
            Name::Deliveries => self.list(asked, List::Deliveries).await,
            Name::Decisions => self.list(asked, List::Decisions).await,
            Name::Responses => self.list(asked, List::Responses).await,
            Name::Delivery => self.delivery(asked).await,
            Name::Resend => self.resend(asked).await,
            Name::Enable => self.enable(asked).await,
            Name::RotateSecret => self.rotate_secret(asked).await,
            Name::TestEndpoint => self.test_endpoint(asked).await,
            Name::Recover => self.recover(asked).await,
            Name::Backfill => self.backfill(asked).await,
            Name::SurveyStats => self.stats(asked).await,
            Name::SurveyResults => self.results(asked).await,
            Name::ResponsesCsv => self.response_lines(asked, LineFormat::Csv).await,
            Name::ResponsesNdjson => self.response_lines(asked, LineFormat::Ndjson).await,
            Name::Jobs => self.jobs(asked, method).await,
            Name::Job => self.job(asked, method).await,
            Name::Changes => self.changes(asked, is_head),
            Name::DeliveryCauses => self.causes(asked).await,
            Name::SurveyVersions => self.survey_versions(asked),
            Name::SurveyVersion => self.survey_version(asked),
            Name::Keys if *method == Method::GET => self.list_keys(asked),
            Name::Keys => self.create_key(asked).await,
            Name::Key => self.revoke_key(asked).await,
            Name::Configuration => self.show_configuration(asked),
            Name::Snapshots => self.take_snapshots().await,
            Name::Skip => self.skip(asked).await,
            Name::TestClock => self.advance(asked).await,
            // These were handled without a key above; with one the answer is the same.
            Name::Sdk => sdk::answer(&asked.route.parts[0], asked.headers),
            Name::SurveyPage
            | Name::Embed
            | Name::Livez
            | Name::Readyz
            | Name::Metrics
            | Name::OpenApi
            | Name::Root
            | Name::Console
            | Name::ConsolePage
            | Name::ConsoleSession => Ok(self.open_route(asked.route.name, asked.query, asked.headers)),
        }
    }

    async fn console_session(
        &self,
        method: &Method,
        head: &http::request::Parts,
        body: &mut Incoming,
        connection: &Arc<Connection>,
    ) -> Result<Answer, Problem> {
        match *method {
            Method::POST => {
                let wanted = RequestedBody { need: body::BodyNeed::Json, plain_text: false };
                let read = body::read(&head.headers, body, wanted, connection).await?;
                self.sign_in(&head.headers, &read)
            }
            Method::DELETE => self.sign_out(&head.headers),
            _ => self.show_session(&head.headers),
        }
    }

    fn open_route(&self, name: Name, query: &str, headers: &HeaderMap) -> Answer {
        match name {
            Name::Readyz => {
                let (reasons, owned) = (self.readiness)();
                let status = if reasons.is_empty() { 200 } else { 503 };
                let verbose = query.split('&').any(|q| q == "verbose" || q.starts_with("verbose="));
                let mut body = serde_json::json!({"ready": reasons.is_empty(), "reasons": reasons});
                if verbose {
                    body["waiting_requests"] = self.replies.waiting().into();
                    body["partitions"] = self.log.partitions().into();
                    body["owned"] = owned;
                    body["version"] = env!("CARGO_PKG_VERSION").into();
                }
                problem::json_answer(status, body.to_string())
            }
            Name::Metrics => {
                let mut answer = problem::json_answer(200, askwhen_process::metrics::get().render());
                let plain = HeaderValue::from_static("text/plain; version=0.0.4");
                answer.headers_mut().insert(header::CONTENT_TYPE, plain);
                answer
            }
            Name::OpenApi => openapi::answer(headers),
            _ => problem::json_answer(200, "{\"alive\":true}"),
        }
    }

    fn preflight(&self, name: Name, asked: &HeaderMap) -> Answer {
        let mut answer = problem::json_answer(204, "");
        let headers = answer.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        let allow = routes::TABLE.iter().find(|row| row.name == name).map_or("", |row| row.allow);
        cors::preflight(&self.cors_origins.now(), asked, allow, headers);
        answer
    }

    fn show_configuration(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let mut shown = self.configuration.read().expect("no panic holds this lock").clone();
        // A key is of one project: who the others are is not told to it.
        for list in ["projects", "keys"] {
            if let Some(tables) = shown.get_mut(list).and_then(serde_json::Value::as_array_mut) {
                let of = |table: &serde_json::Value| table["project"].as_str().unwrap_or(DEFAULT_PROJECT).to_owned();
                tables.retain(|table| of(table) == asked.caller.project);
            }
        }
        Ok(problem::json_answer(200, shown.to_string()))
    }

    async fn take_snapshots(&self) -> Result<Answer, Problem> {
        let Some(ask) = &self.snapshots else {
            let detail = "no store is open in this process: neither engine nor delivery runs here";
            return Err(Problem::later(503, "no_stores", detail, Duration::from_secs(1)));
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        ask(sender);
        match receiver.await {
            Ok(Ok(taken)) => {
                let mut body = serde_json::json!({"snapshots": taken});
                if let Log::Embedded(log) = &self.log {
                    // Read afterwards, so that the log reaches at least as far as the
                    // state.
                    body["ends"] = serde_json::json!(log.cut());
                }
                Ok(problem::json_answer(200, body.to_string()))
            }
            Ok(Err(failure)) => {
                Err(Problem::later(503, "snapshot_failed", &failure.to_string(), Duration::from_secs(10)))
            }
            Err(_) => Err(Problem::later(503, "overloaded", "the process is stopping", Duration::from_secs(1))),
        }
    }

    async fn advance(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = askwhen_wire::json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = fields::Fields::of(text, String::new());
        let span = fields.text("advance").map(|text| askwhen_domain::time::parse_duration(&text));
        match span {
            None if fields.faults.is_empty() => fields.fault(Code::MissingField, "advance", "is required"),
            Some(Err(wanted)) => fields.fault(Code::BadTime, "advance", format!("must be {wanted}")),
            _ => {}
        }
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let clock = self.test_clock.as_ref().expect("checked before");
        let by = span.and_then(Result::ok).unwrap_or(0);
        let stopped = |_| Problem::later(503, "overloaded", "the test clock has stopped", Duration::from_secs(1));
        clock.send(AdvanceClock { by, done: sender }).await.map_err(|e| stopped(e.to_string()))?;
        let now = receiver.await.map_err(|e| stopped(e.to_string()))?;
        let body = serde_json::json!({"now": askwhen_domain::time::format_time(now)});
        Ok(problem::json_answer(200, body.to_string()))
    }
}

fn no_bridge() -> Problem {
    let detail = "the role bridge does not run in this process; ask one where it does";
    Problem::later(503, "no_bridge", detail, Duration::from_secs(1))
}

/// Counts an answer of some size in the budget until it was read.
async fn counted(answer: Answer, connection: &Arc<Connection>) -> Result<Answer, Problem> {
    let len = hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0) as usize;
    if len <= SMALL_ANSWER_BYTES {
        return Ok(answer);
    }
    let mut held = HeldBytes::none(connection);
    // An answer that exceeds all the room is sent alone.
    let counts = len.min(connection.all().budget.limit_bytes() / 2);
    held.grow(counts).await.map_err(|BudgetExhausted| Problem::overloaded())?;
    let (head, body) = answer.into_parts();
    let body = match body {
        AnswerBody::Whole(whole) => {
            let Ok(bytes) = whole.collect().await.map(http_body_util::Collected::to_bytes);
            AnswerBody::whole(held.counted(bytes))
        }
        stream @ AnswerBody::Stream(_) => stream,
    };
    Ok(Answer::from_parts(head, body))
}

/// The path without the proxy's prefix; proxies may also remove it themselves.
fn below<'p>(base: &str, path: &'p str) -> &'p str {
    path.strip_prefix(base).filter(|rest| !base.is_empty() && rest.starts_with('/')).unwrap_or(path)
}

fn hidden(surface: Surface, name: Name) -> bool {
    match surface {
        Surface::Whole => false,
        Surface::Public => name.is_operators(),
        Surface::Operators => name.is_client(),
    }
}
