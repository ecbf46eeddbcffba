//! RFC 9457 problems: every error of the HTTP API, with its status. Values of the request
//! are never echoed.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;

use askwhen_wire::definition::{Code, Fault};
use askwhen_wire::json;

pub type Answer = Response<AnswerBody>;

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    Whole(Full<Bytes>),
    /// Parts as they come; an error cuts the answer off.
    Stream(Receiver<Result<Bytes, std::io::Error>>),
}

impl AnswerBody {
    pub fn whole(bytes: impl Into<Bytes>) -> AnswerBody {
        AnswerBody::Whole(Full::new(bytes.into()))
    }
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            AnswerBody::Whole(whole) => {
                let Poll::Ready(frame) = Pin::new(whole).poll_frame(cx) else { return Poll::Pending };
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            AnswerBody::Stream(pieces) => {
                let Poll::Ready(piece) = pieces.poll_recv(cx) else { return Poll::Pending };
                Poll::Ready(piece.map(|piece| piece.map(hyper::body::Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Whole(whole) => whole.is_end_stream(),
            AnswerBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            AnswerBody::Whole(whole) => whole.size_hint(),
            AnswerBody::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Problem {
    pub status: StatusCode,
    pub code: String,
    pub detail: String,
    pub byte_offset: Option<usize>,
    pub faults: Vec<Fault>,
    pub event_id: Option<String>,
    pub retry_after: Option<Duration>,
    pub allow: Option<&'static str>,
    /// Whether the connection must be closed.
    pub close: bool,
}

impl Problem {
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Problem {
        Problem {
            status: StatusCode::from_u16(status).expect("statuses are written in this crate"),
            code: code.to_owned(),
            detail: detail.into(),
            byte_offset: None,
            faults: Vec::new(),
            event_id: None,
            retry_after: None,
            allow: None,
            close: false,
        }
    }

    pub fn not_found(detail: &str) -> Problem {
        Problem::new(404, "not_found", detail)
    }

    pub fn json(error: json::Error) -> Problem {
        Problem { byte_offset: Some(error.byte_offset), ..Problem::new(400, error.kind.code(), error.to_string()) }
    }

    /// Invalid fields; the first determines the code of the whole.
    pub fn fields(faults: Vec<Fault>) -> Problem {
        let mut first = faults.first().map_or(("invalid", String::new()), |f| (f.code.name(), f.detail.clone()));
        // A missing member is often there under a misspelt name.
        let unknown = faults.iter().find(|fault| fault.code == Code::UnknownField);
        if let Some(fault) = unknown.filter(|_| first.0 == Code::MissingField.name()) {
            let name = fault.pointer.rsplit('/').next().unwrap_or_default();
            first.1 = format!("{}; {name}: {}", first.1, fault.detail);
        }
        Problem { faults, ..Problem::new(422, first.0, first.1) }
    }

    pub fn field(code: Code, pointer: &str, detail: impl Into<String>) -> Problem {
        Problem::fields(vec![Fault { code, pointer: pointer.to_owned(), detail: detail.into() }])
    }

    pub fn later(status: u16, code: &str, detail: &str, after: Duration) -> Problem {
        Problem { retry_after: Some(after), ..Problem::new(status, code, detail) }
    }

    /// There is no room for more at the moment.
    pub fn overloaded() -> Problem {
        let detail = "too much is being received and answered; send it again";
        Problem::later(503, "overloaded", detail, Duration::from_secs(1))
    }

    /// The problem for an append that failed.
    pub fn log(error: &askwhen_log::Error, event_id: Option<&str>) -> Problem {
        let problem = match error {
            askwhen_log::Error::ReadOnly { .. } => {
                Problem::later(503, "read_only", "the disk is nearly full; nothing is taken", Duration::from_secs(30))
            }
            askwhen_log::Error::Overloaded => {
                Problem::later(503, "overloaded", "too much is queued; send it again", Duration::from_secs(1))
            }
            askwhen_log::Error::Unknown(_) => {
                let detail = "whether it was stored is not known; send it again under the same id";
                Problem::later(503, "outcome_unknown", detail, Duration::from_secs(5))
            }
            _ => Problem::later(503, "log_unavailable", "the log takes nothing now", Duration::from_secs(5)),
        };
        Problem { event_id: event_id.map(str::to_owned), ..problem }
    }

    /// The problem for a refusal by the engine.
    pub fn refused(code: &str, pointer: Option<String>, detail: String) -> Problem {
        match code {
            "unknown_offer" | "unknown_survey" | "not_found" => Problem::new(404, code, detail),
            "offer_lapsed" | "link_used" => Problem::new(410, code, detail),
            "precondition_failed" => Problem::new(412, code, detail),
            "overloaded" => Problem::later(503, code, &detail, Duration::from_secs(1)),
            "invalid" | "attributes_too_large" => {
                let pointer = pointer.unwrap_or_default();
                Problem::fields(vec![Fault { code: Code::Invalid, pointer, detail }])
            }
            "missing_answer" => {
                let pointer = pointer.unwrap_or_else(|| "/answers".into());
                Problem::fields(vec![Fault { code: Code::MissingAnswer, pointer, detail }])
            }
            // `taken`, or the gate that closes a link survey.
            _ => Problem::new(409, code, detail),
        }
    }

    /// The body as a value, also for an item of a batch.
    pub fn body(&self, request_id: &str) -> serde_json::Value {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            request_id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            byte_offset: Option<usize>,
            #[serde(skip_serializing_if = "Option::is_none")]
            event_id: Option<&'a str>,
            #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
            errors: &'a [Fault],
        }
        serde_json::to_value(Body {
            r#type: format!("urn:askwhen:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: &self.code,
            detail: &self.detail,
            request_id,
            byte_offset: self.byte_offset,
            event_id: self.event_id.as_deref(),
            errors: &self.faults,
        })
        .expect("a problem serialises")
    }

    /// The answer as bytes, for a request that was refused by the gate.
    pub fn raw(&self, request_id: &str) -> Vec<u8> {
        let body = self.body(request_id).to_string();
        let mut raw =
            format!("HTTP/1.1 {}\r\ncontent-length: {}\r\nx-request-id: {request_id}\r\n", self.status, body.len());
        for (name, value) in self.answer(request_id).headers() {
            // The headers that are set here are text.
            raw.push_str(&format!("{name}: {}\r\n", value.to_str().unwrap_or_default()));
        }
        raw.push_str("\r\n");
        raw.push_str(&body);
        raw.into_bytes()
    }

    pub fn answer(&self, request_id: &str) -> Answer {
        let mut answer = Response::new(AnswerBody::whole(self.body(request_id).to_string()));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// An answer with a JSON body.
pub fn json_answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(body));
    *answer.status_mut() = StatusCode::from_u16(status).expect("statuses are written in this crate");
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
