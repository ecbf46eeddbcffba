//! Signed links: created with a server key, and accepted in place of a key when answers are
//! sent.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use super::app::{App, RequestContext};
use super::auth::Caller;
use super::fields::Fields;
use super::manage;
use super::problem::{Answer, Problem, json_answer};
use super::router::Route;
use askwhen_domain::json::Members;
use askwhen_domain::record::SingleUseLink;
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_wire::definition::{self, Code, Kind};
use askwhen_wire::json;
use askwhen_wire::survey_link::{ID_BYTES, LinkSubject, LinkToken};

/// How long a link is valid by default, in milliseconds.
const STANDARD_LIFE: Millis = 30 * DAY;
const LONGEST_LIFE: Millis = 366 * DAY;
/// How long the page of a survey for anyone can be answered after it was loaded, in
/// milliseconds.
const ANONYMOUS_LIFE: Millis = 7 * DAY;
/// Prefix of the user ids that pages make up.
pub const ANONYMOUS_PREFIX: &str = "anon-";
/// The body's member for a token where there is no key.
const TOKEN_MEMBER: &str = "token";

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    Forged,
    Expired,
}

impl LinkFault {
    pub fn problem(self) -> Problem {
        match self {
            LinkFault::Forged => Problem::new(403, "link_forged", "the token was not made for this user and survey"),
            LinkFault::Expired => Problem::new(410, "link_expired", "the link has expired; ask for a new one"),
        }
    }
}

impl App {
    /// `POST /v1/surveys/{survey_id}/links`: the URL of a survey's page for one user.
    pub(super) fn make_link(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_query()?;
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = Fields::of(text, String::new());
        let user_id = fields.required_id("user_id");
        let life = match fields.text("expires_in").map(|text| time::parse_duration(&text)) {
            None => STANDARD_LIFE,
            Some(Ok(life)) if (1..=LONGEST_LIFE).contains(&life) => life,
            Some(Ok(_)) => {
                fields.fault(Code::Invalid, "expires_in", "must be longer than 0s, and at most 366d");
                0
            }
            Some(Err(wanted)) => {
                fields.fault(Code::BadTime, "expires_in", format!("must be {wanted}"));
                0
            }
        };
        let single_use = fields.boolean("single_use").unwrap_or(false);
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let (project, survey_id) = (&asked.caller.project, &asked.route.parts[0]);
        if !self.has_page(project, survey_id) {
            return Err(Problem::new(404, "unknown_survey", "no such link survey"));
        }
        let expires_at = self.clock.now().saturating_add(life);
        let token = LinkToken { link_id: random_id()?, expires_at, single_use };
        let token = token.sign(&self.key, LinkSubject { project, survey_id, user_id: Some(&user_id) });
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("u", &user_id)
            .append_pair("t", &token)
            .finish();
        let url = format!("{}{}/s/{}?{query}", origin(asked), self.base_path, part(survey_id));
        Ok(json_answer(201, json!({ "url": url }).to_string()))
    }

    /// A token for the page of a survey that anyone may answer.
    pub(super) fn anonymous_token(&self, project: &str, survey_id: &str) -> Result<String, Problem> {
        let expires_at = self.clock.now().saturating_add(ANONYMOUS_LIFE);
        let token = LinkToken { link_id: random_id()?, expires_at, single_use: false };
        Ok(token.sign(&self.key, LinkSubject { project, survey_id, user_id: None }))
    }

    fn has_page(&self, project: &str, survey_id: &str) -> bool {
        let shown = self.view.get(project, Kind::Survey, survey_id);
        shown.is_some_and(|shown| definition::survey(&shown.record.body.value(), None).is_ok_and(|survey| survey.link))
    }

    /// Checks a token for a user and a survey of a project.
    pub(super) fn open_link(&self, subject: LinkSubject<'_>, token: &str) -> Result<LinkToken, LinkFault> {
        let anonymous = || {
            let is_made_up = subject.user_id.is_some_and(|user| user.starts_with(ANONYMOUS_PREFIX));
            is_made_up.then(|| LinkToken::open(&self.key, LinkSubject { user_id: None, ..subject }, token)).flatten()
        };
        let opened = LinkToken::open(&self.key, subject, token).or_else(anonymous).ok_or(LinkFault::Forged)?;
        if opened.expires_at <= self.clock.now() { Err(LinkFault::Expired) } else { Ok(opened) }
    }

    /// The caller by the token in the body; `None` when there is none.
    pub(super) fn caller_of_link(&self, route: &Route, body: &[u8]) -> Option<Result<Caller, Problem>> {
        let text = json::check(body).ok()?;
        let members: Members<'_> = serde_json::from_str(text).ok()?;
        let (_, raw) = members.0.iter().find(|(name, _)| name == TOKEN_MEMBER)?;
        let token: String = serde_json::from_str(raw.get()).ok()?;
        let (user_id, survey_id) = (&route.parts[0], &route.parts[1]);
        let mut fault = LinkFault::Forged;
        for project in self.view.projects_with(Kind::Survey, survey_id) {
            match self.open_link(LinkSubject { project: &project, survey_id, user_id: Some(user_id) }, &token) {
                Ok(_) => return Some(Ok(Caller::of_link(project, survey_id))),
                Err(LinkFault::Expired) => fault = LinkFault::Expired,
                Err(LinkFault::Forged) => {}
            }
        }
        Some(Err(fault.problem()))
    }

    /// The single-use link of the token with which answers are sent, if it is one.
    ///
    /// # Errors
    /// 403 or 410 for an invalid token.
    pub(super) fn single_use(
        &self,
        asked: &RequestContext<'_>,
        fields: &mut Fields<'_>,
    ) -> Result<Option<SingleUseLink>, Problem> {
        let Some(token) = fields.text(TOKEN_MEMBER) else { return Ok(None) };
        let (user_id, survey_id) = (&*asked.route.parts[0], &*asked.route.parts[1]);
        let subject = LinkSubject { project: &asked.caller.project, survey_id, user_id: Some(user_id) };
        let token = self.open_link(subject, &token).map_err(LinkFault::problem)?;
        let link = |token: LinkToken| SingleUseLink { link_id: token.name(), expires_at: token.expires_at };
        Ok(Some(token).filter(|token| token.single_use).map(link))
    }
}

fn random_id() -> Result<[u8; ID_BYTES], Problem> {
    let random = manage::random()?;
    Ok(*random.first_chunk().expect("there are more"))
}

/// Characters that are not escaped in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A part of a path, escaped.
pub fn part(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// The origin under which the caller has reached askwhen: from a proxy's headers, else from
/// `Host`.
fn origin(asked: &RequestContext<'_>) -> String {
    let header_value = |name: &str| {
        let value = asked.headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
        Some(value.to_owned()).filter(|value| !value.is_empty())
    };
    let is_host = |host: &String| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
    let host = header_value("x-forwarded-host")
        .or_else(|| header_value("host"))
        .filter(is_host)
        .unwrap_or_else(|| "localhost".into());
    let scheme = header_value("x-forwarded-proto").filter(|scheme| scheme == "https").map_or("http", |_| "https");
    format!("{scheme}://{host}")
}
