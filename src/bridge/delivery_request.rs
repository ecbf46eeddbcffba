//! One delivery with its attempts and the request of each. The body is rendered again from
//! the message and the endpoint's definition; a digest in the attempt's record says whether
//! it was the same. Secrets are not opened for this.

use serde_json::{Value, json};

use super::app::{App, RequestContext, run_blocking};
use super::list_routes::unlisted;
use super::problem::{Answer, Problem, json_answer};
use super::redelivery::MessageReader;
use askwhen_domain::webhook::endpoint::{Endpoint, SEALED};
use askwhen_domain::webhook::message::Delivery;
use askwhen_wire::definition::{self, Kind, Target};
use askwhen_wire::listing::MessageSource;
use askwhen_wire::profile::{self, REQUEST_HEADERS};
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::SignedRequest;

impl App {
    pub(super) async fn delivery(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let project = &asked.caller.project;
        let found = self.lists().await?.delivery(project, &asked.route.parts[0]).map_err(unlisted)?;
        let listed = found.ok_or_else(|| Problem::not_found("there is no such delivery"))?;
        let mut row = listed.shown;
        self.show_hold(project, &mut row);
        let endpoint = self.endpoint_of(project, &row);
        if let Some(endpoint) = &endpoint {
            row["headers"] = constant_headers(endpoint, &row["message_id"]);
        }
        match self.message_of(project, listed.message).await? {
            Ok(delivery) => match endpoint {
                Some(endpoint) => show_body(&mut row, &profile::body(&delivery, &endpoint, &self.console_url)),
                None => no_body(&mut row, "endpoint_removed"),
            },
            Err(why) => no_body(&mut row, why),
        }
        Ok(json_answer(200, row.to_string()))
    }

    fn endpoint_of(&self, project: &str, row: &Value) -> Option<Endpoint> {
        let shown = self.view.get(project, Kind::Endpoint, row["endpoint_id"].as_str()?)?;
        let read = definition::endpoint(&shown.record.body.value(), None, Target::Trusted);
        read.ok().map(|read| read.endpoint)
    }

    /// The message of a delivery, or why it cannot be shown.
    async fn message_of(
        &self,
        project: &str,
        message: MessageSource,
    ) -> Result<Result<Delivery, &'static str>, Problem> {
        let place = match message {
            MessageSource::Kept(place) => place,
            MessageSource::Erased => return Ok(Err("user_erased")),
            MessageSource::NotKept => return Ok(Err("not_kept")),
        };
        let log = self.log.clone();
        let found = run_blocking(move || MessageReader::new(&log, Topic::Deliveries).delivery(&place)).await?;
        let Some(delivery) = found.map_err(|error| Problem::log(&error, None))? else { return Ok(Err("not_kept")) };
        // Answers are not shown beyond their survey's `retention`, even if the topic still
        // has them.
        let kept_since = self.view.kept_since(project, self.clock.now());
        let kept_since = delivery.survey_id.as_ref().and_then(|survey_id| kept_since.get(survey_id));
        let is_kept = kept_since.is_none_or(|since| delivery.created_at >= *since);
        Ok(if is_kept { Ok(delivery) } else { Err("not_kept") })
    }
}

/// The headers of every attempt. Headers of the endpoint may be tokens, and are shown as in
/// its definition.
fn constant_headers(endpoint: &Endpoint, message_id: &Value) -> Value {
    let mut headers = json!({});
    for (name, value) in REQUEST_HEADERS {
        headers[name] = value.into();
    }
    headers["webhook-id"] = message_id.clone();
    for name in endpoint.headers.keys() {
        headers[name.as_str()] = SEALED.into();
    }
    headers
}

fn show_body(row: &mut Value, body: &[u8]) {
    let digest = SignedRequest::sha256(body);
    for attempt in row["attempts"].as_array_mut().into_iter().flatten() {
        if let Some(sent) = attempt["body_sha256"].as_str().map(|sent| sent == digest) {
            attempt["same_body"] = sent.into();
        }
    }
    row["body"] = String::from_utf8_lossy(body).into();
}

fn no_body(row: &mut Value, why: &str) {
    (row["body"], row["body_missing"]) = (Value::Null, why.into());
}
