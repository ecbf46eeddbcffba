//! Signing in to the console and out of it, and the caller of a request.

use http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use super::app::App;
use super::auth::{self, Caller, Kind};
use super::etag;
use super::fields::Fields;
use super::manage::random;
use super::problem::{Answer, Problem, json_answer};
use super::session::{CONSOLE_HEADER, COOKIE, Session, cookies, is_same_origin};
use askwhen_domain::time::{self, HOUR, Millis};
use askwhen_wire::definition::Code;
use askwhen_wire::json as strict;

const LIFE: Millis = 12 * HOUR;

/// The credential with which to sign in.
enum Credential {
    Key(String),
    Link(String),
}

impl App {
    /// The caller of a request by its session; `None` without a valid one.
    pub(super) fn session(&self, headers: &HeaderMap) -> Option<Caller> {
        let is_console = headers.get(CONSOLE_HEADER).is_some_and(|value| value == "1");
        if !is_console || !is_same_origin(headers) {
            return None;
        }
        let session = self.open_session(headers)?;
        self.auth.known_digest(session.digest)
    }

    fn open_session(&self, headers: &HeaderMap) -> Option<Session> {
        let session = cookies(headers).find_map(|cookie| Session::open(&self.key, cookie))?;
        let counts = session.ends_at > self.clock.now() && !self.sessions.is_ended(&session.id);
        counts.then_some(session)
    }

    /// `POST /console/session`: exchanges a key or a link's token for a cookie.
    pub(super) fn sign_in(&self, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Problem> {
        refuse_other_origin(headers)?;
        self.sync_keys();
        let now = self.clock.now();
        let caller = match credential(body)? {
            Credential::Key(key) => self.auth.known(key.trim()),
            Credential::Link(token) => {
                self.sessions.take_link(&token, now).and_then(|digest| self.auth.known_digest(digest))
            }
        };
        let caller = caller.ok_or_else(|| Problem::new(401, "unauthorized", "the key or link is not in force"))?;
        self.auth.take_quota(&caller)?;
        self.auth.note_use(caller.digest, now);
        if !matches!(caller.kind, Kind::Viewer | Kind::Admin) {
            return Err(Problem::new(403, "forbidden", "the console needs a key of kind viewer or admin"));
        }
        let fresh = random()?;
        let id = hex::encode(&random()?[..16]);
        let session = Session { digest: caller.digest, ends_at: now + LIFE, id };
        let nonce = fresh[..24].try_into().expect("24 of 32 bytes");
        let mut answer = session_answer(&caller, session.ends_at);
        set_cookie(&mut answer, headers, &self.base_path, &session.seal(&self.key, nonce), LIFE / 1_000);
        Ok(answer)
    }

    /// `GET /console/session`: the current session.
    pub(super) fn show_session(&self, headers: &HeaderMap) -> Result<Answer, Problem> {
        self.sync_keys();
        let caller = self.session(headers);
        match caller.zip(self.open_session(headers)) {
            Some((caller, session)) => Ok(session_answer(&caller, session.ends_at)),
            None => Err(Problem::new(401, "unauthorized", "nobody is signed in")),
        }
    }

    /// `DELETE /console/session`: the cookie becomes invalid, also copies of it.
    pub(super) fn sign_out(&self, headers: &HeaderMap) -> Result<Answer, Problem> {
        refuse_other_origin(headers)?;
        if let Some(session) = self.open_session(headers) {
            self.sessions.end(session, self.clock.now());
        }
        let mut answer = json_answer(200, json!({"status": "ended"}).to_string());
        set_cookie(&mut answer, headers, &self.base_path, "", 0);
        Ok(answer)
    }
}

fn session_answer(caller: &Caller, ends_at: Millis) -> Answer {
    let body = json!({
        "project": caller.project,
        "kind": caller.kind.name(),
        "name": caller.actor,
        "expires_at": time::format_time(ends_at),
    });
    json_answer(200, body.to_string())
}

fn credential(body: &[u8]) -> Result<Credential, Problem> {
    let mut fields = Fields::of(strict::check(body).map_err(Problem::json)?, String::new());
    let (key, once) = (fields.text("key"), fields.text("once"));
    if key.is_none() && once.is_none() && fields.faults.is_empty() {
        fields.fault(Code::MissingField, "key", "is required");
    }
    let faults = fields.close();
    match (key, once) {
        (Some(key), None) if faults.is_empty() => Ok(Credential::Key(key)),
        (None, Some(token)) if faults.is_empty() => Ok(Credential::Link(token)),
        (Some(_), Some(_)) => Err(Problem::field(Code::Invalid, "/once", "once cannot stand beside key")),
        _ => Err(Problem::fields(faults)),
    }
}

fn refuse_other_origin(headers: &HeaderMap) -> Result<(), Problem> {
    if is_same_origin(headers) {
        return Ok(());
    }
    Err(Problem::new(403, "forbidden", "sessions begin and end on pages of this origin alone"))
}

fn set_cookie(answer: &mut Answer, headers: &HeaderMap, base: &str, value: &str, max_age_s: Millis) {
    let is_https = etag::listed(headers, header::HeaderName::from_static("x-forwarded-proto"))
        .next()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let secure = if is_https || origin.is_some_and(|origin| origin.starts_with("https://")) { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path={base}/; HttpOnly; SameSite=Strict; Max-Age={max_age_s}{secure}");
    let cookie = HeaderValue::from_str(&cookie).expect("a cookie is plain text");
    answer.headers_mut().insert(header::SET_COOKIE, cookie);
}

impl App {
    /// The caller of a request: by its key or, without one, by its session.
    pub(super) fn caller(&self, headers: &HeaderMap, needed: Kind, reads: bool) -> Result<Caller, Problem> {
        self.sync_keys();
        let caller = match auth::has_key(headers) {
            false => match self.session(headers) {
                Some(caller) => auth::permitted(caller, needed, reads),
                None => Err(auth::unauthorized()),
            },
            true => self.auth.caller(headers, needed, reads),
        }?;
        self.auth.note_use(caller.digest, self.clock.now());
        Ok(caller)
    }
}
