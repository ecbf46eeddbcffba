//! `/s/{survey_id}`: the page of a survey behind a link; `/embed`: the page for WebViews
//! and frames. Loading either records nothing. Their sources are in `web/src`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::app::App;
use super::auth::Caller;
use super::links::{LinkFault, part};
use super::problem::{Answer, Problem, json_answer};
use askwhen_domain::json::Json;
use askwhen_domain::survey::Survey;
use askwhen_domain::survey::localized::ShownSurvey;
use askwhen_domain::survey::placeholder::{TextValues, ValueSource};
use askwhen_domain::survey::translation::Direction;
use askwhen_partition::EngineReply;
use askwhen_wire::definition::{self, Kind};
use askwhen_wire::record::{Internal, Query};
use askwhen_wire::survey_link::{LinkSubject, LinkToken};

const PAGE: &str = include_str!("../../web/dist/page.html");
const NOTICE: &str = include_str!("../../web/dist/notice.html");
const EMBED: &str = include_str!("../../web/dist/embed.html");
/// The most languages of an `Accept-Language` that are looked at.
const MAX_LANGUAGES: usize = 20;

/// The parameters in a page's address.
#[derive(Debug, Default, PartialEq, Eq)]
struct Address<'q> {
    user: Option<Cow<'q, str>>,
    token: Option<Cow<'q, str>>,
    language: Option<Cow<'q, str>>,
    /// Needed when several projects have a survey with this id that anyone may answer.
    project: Option<Cow<'q, str>>,
}

impl<'q> Address<'q> {
    /// Other parameters are for the page's script, which fills answers in.
    fn of(query: &'q str) -> Address<'q> {
        let mut address = Address::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "u" => address.user = Some(value),
                "t" => address.token = Some(value),
                "lang" => address.language = Some(value).filter(|value| !value.is_empty()),
                "p" => address.project = Some(value),
                _ => {}
            }
        }
        address
    }
}

/// Why there is nothing to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    Unknown,
    /// The survey can only be answered with a personal link.
    NeedsLink,
    Forged,
    Expired,
    Used,
    Closed,
}

impl Notice {
    fn page_text(self) -> (u16, &'static str, &'static str) {
        match self {
            Notice::Unknown => (404, "No such survey", "There is no survey at this address."),
            Notice::NeedsLink => (403, "A link is needed", "Please open the link that was sent to you."),
            Notice::Forged => {
                (403, "This link is not valid", "It was not made for this survey, or a part of it is lost.")
            }
            Notice::Expired => (410, "This link has expired", "Please ask for a new one."),
            Notice::Used => {
                (410, "This link has been used", "It was for one response, and that has been given. Thank you.")
            }
            Notice::Closed => (410, "This survey is closed", "No more answers are taken."),
        }
    }
}

/// A survey whose page is shown, and its user.
struct Opened {
    survey: Survey,
    version: u64,
    user: Option<String>,
    /// The user's attributes, if texts contain any.
    attributes: BTreeMap<String, Json>,
    token: String,
}

/// The data that `web/src/page.ts` reads.
#[derive(Serialize)]
struct PageData<'a> {
    survey: ShownSurvey<'a>,
    submit: String,
    user_id: Option<&'a str>,
    body: Value,
}

impl App {
    /// The page, also for invalid links, which it explains.
    ///
    /// # Errors
    /// Those of any route.
    pub(super) async fn survey_page(
        &self,
        survey_id: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Problem> {
        let address = Address::of(query);
        match self.opened(survey_id, &address).await? {
            Ok(opened) => Ok(self.page_of(&opened, &address, headers)),
            Err(notice) => Ok(self.notice(notice)),
        }
    }

    pub(super) fn embed(&self) -> Answer {
        self.html(200, fill(EMBED, &[("base", &self.base_path)]))
    }

    async fn opened(&self, survey_id: &str, address: &Address<'_>) -> Result<Result<Opened, Notice>, Problem> {
        match (&address.user, &address.token) {
            (Some(user), Some(token)) => self.signed(survey_id, user, token).await,
            (None, None) => self.anonymous(survey_id, address.project.as_deref()),
            _ => Ok(Err(Notice::Forged)),
        }
    }

    async fn signed(&self, survey_id: &str, user: &str, token: &str) -> Result<Result<Opened, Notice>, Problem> {
        let mut notice = Notice::Forged;
        for project in self.view.projects_with(Kind::Survey, survey_id) {
            let opened = self.open_link(LinkSubject { project: &project, survey_id, user_id: Some(user) }, token);
            match opened {
                Ok(link) => {
                    let Some((survey, version)) = self.shown_survey(&project, survey_id) else {
                        return Ok(Err(Notice::Closed));
                    };
                    if link.single_use && self.was_used(&project, survey_id, user, &link).await? {
                        return Ok(Err(Notice::Used));
                    }
                    let attributes = self.shown_attributes(&survey, &project, user).await?;
                    let (user, token) = (Some(user.to_owned()), token.to_owned());
                    return Ok(Ok(Opened { survey, version, user, attributes, token }));
                }
                Err(LinkFault::Expired) => notice = Notice::Expired,
                Err(LinkFault::Forged) => {}
            }
        }
        Ok(Err(notice))
    }

    fn anonymous(&self, survey_id: &str, wanted: Option<&str>) -> Result<Result<Opened, Notice>, Problem> {
        let mut notice = Notice::Unknown;
        for project in self.view.projects_with(Kind::Survey, survey_id) {
            if wanted.is_some_and(|wanted| wanted != project) {
                continue;
            }
            match self.shown_survey(&project, survey_id) {
                Some((survey, version)) if survey.link_anonymous => {
                    let token = self.anonymous_token(&project, survey_id)?;
                    return Ok(Ok(Opened { survey, version, user: None, attributes: BTreeMap::new(), token }));
                }
                Some(_) => notice = Notice::NeedsLink,
                None => {}
            }
        }
        Ok(Err(notice))
    }

    /// The survey and its version, if its page may be answered now.
    fn shown_survey(&self, project: &str, survey_id: &str) -> Option<(Survey, u64)> {
        let shown = self.view.get(project, Kind::Survey, survey_id)?;
        let survey = definition::survey(&shown.record.body.value(), None).ok()?;
        (survey.link && survey.status.decides()).then_some((survey, shown.record.version))
    }

    /// Whether a response was completed by a single-use link, read in the journal's order.
    /// Without an answer in time the page is shown; the user is told when answering.
    async fn was_used(&self, project: &str, survey_id: &str, user: &str, link: &LinkToken) -> Result<bool, Problem> {
        // A client that loads the page too often is shown the page: answers are refused all
        // the same.
        let caller = Caller::of_link(project.to_owned(), survey_id);
        if self.auth.client_user(&caller, &HeaderMap::new(), user).is_err() {
            return Ok(false);
        }
        let query = Query {
            project: project.to_owned(),
            user_id: user.to_owned(),
            offer_id: None,
            survey_id: Some(survey_id.to_owned()),
            link_id: Some(link.name()),
        };
        let reply = self.ask_internal(self.journal_of(user), user, &Internal::Query(query)).await?;
        Ok(matches!(reply, Some(EngineReply::Refused { code, .. }) if code == "link_used"))
    }

    /// The attributes of a user, if texts of the survey contain any, read in the journal's
    /// order. Without an answer in time the texts have their defaults.
    async fn shown_attributes(
        &self,
        survey: &Survey,
        project: &str,
        user: &str,
    ) -> Result<BTreeMap<String, Json>, Problem> {
        let caller = Caller::of_link(project.to_owned(), &survey.survey_id);
        if !survey.shows(ValueSource::Attribute) || self.auth.client_user(&caller, &HeaderMap::new(), user).is_err() {
            return Ok(BTreeMap::new());
        }
        let query = Query {
            project: project.to_owned(),
            user_id: user.to_owned(),
            offer_id: None,
            survey_id: None,
            link_id: None,
        };
        let reply = self.ask_internal(self.journal_of(user), user, &Internal::Query(query)).await?;
        let Some(EngineReply::Body { server, .. }) = reply else { return Ok(BTreeMap::new()) };
        let known = server.value();
        let attributes = known["attributes"].as_object().into_iter().flatten();
        Ok(attributes.map(|(name, value)| (name.clone(), Json::of(value))).collect())
    }

    fn page_of(&self, opened: &Opened, address: &Address<'_>, headers: &HeaderMap) -> Answer {
        let Opened { survey, version, user, attributes, token } = opened;
        let accepted = languages(headers);
        let wanted = match &address.language {
            Some(language) => Some(&**language),
            None => accepted.iter().map(String::as_str).find(|language| survey.speaks(language)),
        };
        let values = TextValues { expose: &survey.expose, activation: None, attributes };
        let localized = survey.localized(wanted).filled(values);
        let mut body = json!({ "token": token });
        // The context of the response has the language of the page and nothing else.
        if let Some(locale) = survey.shown_locale(wanted) {
            body["context"] = json!({ "locale": locale });
        }
        let data = PageData {
            survey: localized.shown(survey, *version),
            submit: format!("{}/v1/users/{{user}}/surveys/{}/responses", self.base_path, part(&survey.survey_id)),
            user_id: user.as_deref(),
            body,
        };
        // It contains no end of a tag and no start of a comment.
        let data = serde_json::to_string(&data).expect("a page's data serialises").replace('<', "\\u003c");
        let values = [
            ("lang", localized.locale.as_deref().unwrap_or_default()),
            ("dir", localized.dir.unwrap_or(Direction::Ltr).name()),
            ("title", &escaped(&localized.name)),
            ("base", &self.base_path),
            ("data", &data),
        ];
        self.html(200, fill(PAGE, &values))
    }

    fn notice(&self, notice: Notice) -> Answer {
        let (status, title, text) = notice.page_text();
        let values = [("lang", "en"), ("dir", "ltr"), ("title", title), ("text", text), ("base", &self.base_path)];
        self.html(status, fill(NOTICE, &values))
    }

    fn html(&self, status: u16, text: String) -> Answer {
        let mut answer = json_answer(status, Bytes::from(text));
        let ancestors = if self.frame_ancestors.is_empty() { "'none'" } else { &*self.frame_ancestors };
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors {ancestors}"
        );
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            out.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        out.insert("x-robots-tag", HeaderValue::from_static("noindex, nofollow"));
        out.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }
}

/// Replaces each `{{name}}` of a page once: values are not searched for names.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the pages close what they open");
        let value = values.iter().find(|(known, _)| *known == name).expect("the pages name what there is").1;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled + rest
}

/// Text escaped for markup and quotes.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' => escaped.push_str(&format!("&#{};", u32::from(c))),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The languages that a browser accepts, the most wanted first.
fn languages(headers: &HeaderMap) -> Vec<String> {
    let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut all: Vec<(f32, String)> = Vec::new();
    for one in accepted.split(',').take(MAX_LANGUAGES) {
        let (language, weight) = one.split_once(";q=").unwrap_or((one, "1"));
        let weight: f32 = weight.trim().parse().unwrap_or(0.0);
        if weight > 0.0 && language.trim() != "*" {
            all.push((weight, language.trim().to_owned()));
        }
    }
    all.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    all.into_iter().map(|(_, language)| language).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_ends_no_tag_and_is_not_filled_in_again() {
        assert_eq!(fill("<a>{{x}}</a>{{y}}", &[("x", "{{y}}"), ("y", "2")]), "<a>{{y}}</a>2");
        assert_eq!(escaped("A <b> & \"c\""), "A &#60;b&#62; &#38; &#34;c&#34;");
        for page in [PAGE, NOTICE, EMBED] {
            let names = ["lang", "dir", "title", "text", "base", "data"].map(|name| (name, ""));
            assert!(!fill(page, &names).contains("{{"));
        }
    }

    #[test]
    fn an_address_says_who_and_in_which_language() {
        let address = Address::of("u=a%20b%2F1&t=x&q1=8&lang=de");
        assert_eq!((address.user.as_deref(), address.token.as_deref()), (Some("a b/1"), Some("x")));
        assert_eq!(address.language.as_deref(), Some("de"));
        assert_eq!(Address::of("lang="), Address::default());
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("fr;q=0.3, de-AT, *;q=0.1, en;q=0.8,x;q=0"));
        assert_eq!(languages(&headers), ["de-AT", "en", "fr"]);
    }
}
