//! Surveys, endpoints, triggers and settings: validated here, versioned by the registrar,
//! and in force when every partition has answered.

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

use super::app::{App, RequestContext};
use super::etag;
use super::problem::{Answer, Problem, json_answer};
use super::routes::Name;
use super::view::ListedDefinition;
use askwhen_domain::json::Json;
use askwhen_domain::refs::SurveyKey;
use askwhen_domain::settings::Settings;
use askwhen_domain::survey::Survey;
use askwhen_domain::webhook::endpoint::{HeaderText, SEALED, SealedSecret};
use askwhen_log::TopicPartition;
use askwhen_partition::EngineReply;
use askwhen_wire::definition::{
    self, Code, DefinitionRef, Kind, KnownSurvey, SETTINGS_ID, SecretSource, Surroundings, Target,
};
use askwhen_wire::json as strict;
use askwhen_wire::profile;
use askwhen_wire::record::{Define, Internal};
use askwhen_wire::seal;
use askwhen_wire::topic::Topic;

/// The most names of events and triggers that a survey's names are compared with.
const MAX_NAMES: usize = 10_000;

/// A change of a definition, as the registrar gets it.
pub(super) struct DefinitionDraft {
    pub kind: Kind,
    pub id: String,
    pub body: Option<Json>,
    pub new_secret: Option<(String, SealedSecret)>,
    pub create: bool,
    pub if_match: Option<u64>,
}

/// The preconditions of a PUT or DELETE.
#[derive(Default)]
struct Condition {
    /// Only if the definition does not exist yet.
    create: bool,
    if_match: Option<u64>,
}

/// The answers of the partitions.
pub(super) struct Outcome {
    pub version: u64,
    pub changed: bool,
    created: bool,
    used_new_secret: bool,
    pub missing: Vec<u32>,
}

impl App {
    pub(super) async fn definition(&self, asked: &RequestContext<'_>, method: &Method) -> Result<Answer, Problem> {
        let (kind, id) = match asked.route.name {
            Name::Survey => (Kind::Survey, asked.route.parts[0].clone()),
            Name::Endpoint => (Kind::Endpoint, asked.route.parts[0].clone()),
            _ => (Kind::Settings, SETTINGS_ID.to_owned()),
        };
        match *method {
            Method::GET => self.show(asked, kind, &id),
            Method::DELETE => {
                asked.no_query()?;
                let if_match = self.if_match(asked, kind, &id)?;
                let draft = DefinitionDraft { kind, id, body: None, new_secret: None, create: false, if_match };
                let outcome = self.define(asked, &draft).await?;
                Ok(outcome_answer(&outcome, None, 200))
            }
            _ => self.put(asked, kind, id).await,
        }
    }

    async fn put(&self, asked: &RequestContext<'_>, kind: Kind, id: String) -> Result<Answer, Problem> {
        let text = strict::check(&asked.body).map_err(Problem::json)?;
        let value: Value = serde_json::from_str(text).map_err(|e| Problem::new(400, "invalid_json", e.to_string()))?;
        let mut new_secret = None;
        let warnings;
        let body = match kind {
            Kind::Survey => {
                let settings = self.settings(&asked.caller.project);
                let survey = definition::survey_under(&value, Some(&id), &settings).map_err(Problem::fields)?;
                warnings = self.warnings(asked, &survey);
                Json::of(&survey)
            }
            Kind::Settings => {
                let settings = definition::settings(&value).map_err(Problem::fields)?;
                let (others, names) = (self.known_surveys(asked), self.known_names(asked));
                let before = self.view.get(&asked.caller.project, Kind::Settings, SETTINGS_ID);
                let before = before.map(|shown| shown.record.body.value());
                let (names, surveys) = (Some(&*names), Some(&*others));
                let beside = Surroundings { names, surveys, beside: &[], before: before.as_ref() };
                warnings = definition::settings_warnings(&settings, &beside);
                Json::of(&settings)
            }
            Kind::Trigger | Kind::Health | Kind::Key | Kind::KeyUse | Kind::Job => {
                return Err(Problem::not_found("triggers are declared by POST /v1/triggers"));
            }
            Kind::Endpoint => {
                let target = Target::Check(&self.allow_targets);
                let mut read = definition::endpoint(&value, Some(&id), target).map_err(Problem::fields)?;
                for pointer in ["/secret", "/tls/ca", "/tls/client_cert", "/tls/client_key"] {
                    if value.pointer(pointer).is_some_and(Value::is_object) {
                        let detail = "{env: …} and {file: …} are for files; the command line sends what it finds there";
                        return Err(Problem::field(Code::Invalid, pointer, detail));
                    }
                }
                if let (SecretSource::Literal(key), Some(tls)) = (&read.client_key, &mut read.endpoint.tls) {
                    tls.client_key = Some(self.seal(asked, &id, key)?);
                }
                self.seal_headers(asked, &id, &mut read.endpoint.headers)?;
                let others = self.known_surveys(asked);
                let beside = Surroundings { surveys: Some(&others), ..Surroundings::default() };
                warnings = definition::endpoint_warnings(&read.endpoint, &beside);
                match &read.secret {
                    SecretSource::Literal(secret) => read.endpoint.secret = Some(self.seal(asked, &id, secret)?),
                    SecretSource::Keep | SecretSource::NotOwned => {
                        let secret = profile::new_secret(read.endpoint.profile, &random()?);
                        let sealed = self.seal(asked, &id, &secret)?;
                        new_secret = Some((secret, sealed));
                    }
                }
                Json::of(&definition::endpoint_json(&read.endpoint))
            }
        };
        if is_dry_run(asked.query)? {
            let mut rehearsed = self.rehearse(asked, kind, &id, &body, &warnings)?;
            if kind == Kind::Survey {
                self.show_open_windows(&asked.caller.project, &id, &mut rehearsed).await?;
            }
            return Ok(json_answer(200, rehearsed.to_string()));
        }
        let Condition { create, if_match } = self.condition(asked, kind, &id)?;
        let draft = DefinitionDraft { kind, id, body: Some(body), new_secret, create, if_match };
        let outcome = self.define(asked, &draft).await;
        // Another request may have created it meanwhile.
        let outcome = outcome.map_err(|problem| match problem.status {
            StatusCode::CONFLICT if create => exists_already(),
            _ => problem,
        })?;
        let secret = draft.new_secret.as_ref().filter(|_| outcome.used_new_secret || !outcome.missing.is_empty());
        let status = if outcome.created { 201 } else { 200 };
        Ok(outcome_answer(&outcome, secret.map(|(secret, _)| secret.as_str()), status))
    }

    /// The settings of a project.
    fn settings(&self, project: &str) -> Settings {
        let shown = self.view.get(project, Kind::Settings, SETTINGS_ID);
        shown.and_then(|shown| definition::settings(&shown.record.body.value()).ok()).unwrap_or_default()
    }

    /// Warnings about parts of a survey that are valid and probably not intended.
    fn warnings(&self, asked: &RequestContext<'_>, survey: &Survey) -> Vec<String> {
        let names = self.known_names(asked);
        let before = self
            .view
            .get(&asked.caller.project, Kind::Survey, &survey.survey_id)
            .map(|shown| shown.record.body.value());
        let mut others = self.known_surveys(asked);
        others.retain(|other| other.survey_id != survey.survey_id);
        let (names, before) = (Some(&*names), before.as_ref());
        let surroundings = Surroundings { names, surveys: Some(&others), beside: &[], before };
        definition::warnings(survey, self.clock.now(), &surroundings)
    }

    /// Events and triggers that were met or declared.
    fn known_names(&self, asked: &RequestContext<'_>) -> Vec<String> {
        let met = self.view.list(&asked.caller.project, Kind::Trigger, u64::MAX, MAX_NAMES);
        met.into_iter().map(|shown| shown.record.id).collect()
    }

    fn known_surveys(&self, asked: &RequestContext<'_>) -> Vec<KnownSurvey> {
        let shown = self.view.list(&asked.caller.project, Kind::Survey, u64::MAX, MAX_NAMES);
        shown.iter().map(|shown| KnownSurvey::of(&shown.record.body.value())).collect()
    }

    /// What a PUT would change, compared with the definition in force.
    fn rehearse(
        &self,
        asked: &RequestContext<'_>,
        kind: Kind,
        id: &str,
        body: &Json,
        warnings: &[String],
    ) -> Result<Value, Problem> {
        let current = self.view.get(&asked.caller.project, kind, id);
        let version = current.as_ref().map_or(0, |shown| shown.record.version);
        let wanted = self.condition(asked, kind, id)?.if_match;
        if wanted.is_some_and(|wanted| current.is_none() || wanted != version) {
            let detail = "the definition has another version by now; read it again";
            return Err(Problem::new(412, "precondition_failed", detail));
        }
        let bare = |body: &Json| {
            let mut value = body.value();
            let digests = digests(&value);
            hide(&mut value);
            (value, digests)
        };
        let (mut new, hidden) = bare(body);
        let mut old = current.as_ref().map(|shown| bare(&shown.record.body));
        // A missing secret keeps the stored one.
        let kept = |old: &BTreeMap<String, Value>| hidden.iter().all(|(at, digest)| old.get(at) == Some(digest));
        let same = |(old, digests): &(Value, BTreeMap<String, Value>)| *old == new && kept(digests);
        let changed = !old.as_ref().is_some_and(same);
        // That a secret changes is shown; neither of the two is.
        if let Some((old, before)) = &mut old {
            for (at, _) in hidden.iter().filter(|(at, digest)| before.get(*at) != Some(digest)) {
                match at.strip_prefix(HEADERS) {
                    Some(name) if old["headers"][name].is_null() => {}
                    Some(name) => new["headers"][name] = "(another one)".into(),
                    None => (old[at], new[at]) = (SEALED.into(), "(another one)".into()),
                }
            }
        }
        Ok(json!({
            "valid": true,
            "created": old.is_none(),
            "changed": changed,
            "version": version,
            "current": old.map(|(body, _)| body),
            "body": new,
            "warnings": warnings,
        }))
    }

    /// Adds how many users a change may affect: those with an open window.
    async fn show_open_windows(&self, project: &str, id: &str, rehearsed: &mut Value) -> Result<(), Problem> {
        if rehearsed["current"]["activate"].is_null() {
            return Ok(());
        }
        if let Some(counts) = &self.window_counts {
            let counted = counts.of(SurveyKey::new(project, id)).await?;
            rehearsed["open_windows"] = counted.users.into();
            rehearsed["open_windows_exact"] = counted.is_exact.into();
        }
        Ok(())
    }

    fn condition(&self, asked: &RequestContext<'_>, kind: Kind, id: &str) -> Result<Condition, Problem> {
        let if_match = self.if_match(asked, kind, id)?;
        let current = self.view.get(&asked.caller.project, kind, id).map(|shown| shown.record.version);
        let mut create = false;
        for tag in etag::listed(asked.headers, header::IF_NONE_MATCH) {
            create |= tag == "*";
            if current.is_some_and(|version| tag == "*" || version_of_tag(tag) == Some(version)) {
                return Err(exists_already());
            }
        }
        Ok(Condition { create, if_match })
    }

    /// The version that must be in force; of several in the header, the one that is.
    pub(super) fn if_match(&self, asked: &RequestContext<'_>, kind: Kind, id: &str) -> Result<Option<u64>, Problem> {
        if !asked.headers.contains_key(header::IF_MATCH) {
            return Ok(None);
        }
        let failed = |detail| Problem::new(412, "precondition_failed", detail);
        let current = self.view.get(&asked.caller.project, kind, id).map(|shown| shown.record.version);
        let tags: Vec<&str> = etag::listed(asked.headers, header::IF_MATCH).collect();
        if tags == ["*"] {
            return current.map(Some).ok_or_else(|| failed("there is no such definition yet"));
        }
        let named: Option<Vec<u64>> = tags.into_iter().map(version_of_tag).collect();
        let named = named.filter(|named| !named.is_empty());
        let named = named.ok_or_else(|| failed("If-Match names no version; use the ETag of a GET or PUT"))?;
        let known = current.filter(|version| named.contains(version));
        Ok(known.or(named.first().copied()))
    }

    pub(super) fn seal(
        &self,
        asked: &RequestContext<'_>,
        endpoint_id: &str,
        secret: &str,
    ) -> Result<SealedSecret, Problem> {
        let random: [u8; 32] = random()?;
        let nonce = random[..24].try_into().expect("24 of 32 bytes");
        Ok(self.key.seal(&asked.caller.project, endpoint_id, secret, nonce))
    }

    /// Seals the values of headers. A value that is the placeholder stays: the registrar
    /// puts in the stored one, unless that is still in clear.
    fn seal_headers(
        &self,
        asked: &RequestContext<'_>,
        endpoint_id: &str,
        headers: &mut BTreeMap<String, HeaderText>,
    ) -> Result<(), Problem> {
        let known = self.view.get(&asked.caller.project, Kind::Endpoint, endpoint_id);
        let known = known.map(|shown| shown.record.body.value()).unwrap_or_default();
        for (name, text) in headers {
            let HeaderText::Clear(given) = &*text else { continue };
            let clear = match given.as_str() {
                SEALED => known["headers"][name.as_str()].as_str(),
                given => Some(given),
            };
            if let Some(clear) = clear {
                *text = HeaderText::Sealed(self.seal(asked, &seal::header_of(endpoint_id, name), clear)?);
            }
        }
        Ok(())
    }

    pub(super) async fn triggers(&self, asked: &RequestContext<'_>, method: &Method) -> Result<Answer, Problem> {
        match *method {
            Method::GET => self.list_definitions(asked),
            Method::DELETE => {
                let id = asked.route.parts[0].clone();
                let draft = DefinitionDraft {
                    kind: Kind::Trigger,
                    id,
                    body: None,
                    new_secret: None,
                    create: false,
                    if_match: None,
                };
                let outcome = self.define(asked, &draft).await?;
                Ok(outcome_answer(&outcome, None, 200))
            }
            _ => {
                let text = strict::check(&asked.body).map_err(Problem::json)?;
                let value: Value =
                    serde_json::from_str(text).map_err(|e| Problem::new(400, "invalid_json", e.to_string()))?;
                let trigger = definition::trigger(&value).map_err(Problem::fields)?;
                let body = Json::of(&trigger);
                let id = trigger.trigger_id.clone();
                let draft = DefinitionDraft {
                    kind: Kind::Trigger,
                    id,
                    body: Some(body.clone()),
                    new_secret: None,
                    create: true,
                    if_match: None,
                };
                self.define(asked, &draft).await?;
                Ok(json_answer(201, body.as_str().to_owned()))
            }
        }
    }

    /// Sends a change to the registrar and waits until every partition has answered or time
    /// is up.
    pub(super) async fn define(&self, asked: &RequestContext<'_>, draft: &DefinitionDraft) -> Result<Outcome, Problem> {
        self.write_definition(&asked.caller.project, &asked.caller.actor, asked.request_id, draft).await
    }

    /// The same for a project and an actor, under a request's id.
    pub(super) async fn write_definition(
        &self,
        project: &str,
        actor: &str,
        request_id: &str,
        draft: &DefinitionDraft,
    ) -> Result<Outcome, Problem> {
        let define = Internal::Define(Define {
            project: project.to_owned(),
            kind: draft.kind,
            id: draft.id.clone(),
            body: draft.body.clone(),
            new_secret: draft.new_secret.as_ref().map(|(_, sealed)| sealed.clone()),
            if_match: draft.if_match,
            create: draft.create,
            asked_at: self.clock.now(),
            request_id: request_id.to_owned(),
            actor: Some(actor.to_owned()),
        });
        let definition = DefinitionRef { project, kind: draft.kind, id: &draft.id };
        let outcome = self.ask_registrar(definition, &define).await?;
        self.wait_for_view(definition, draft.body.is_none(), &outcome).await;
        Ok(outcome)
    }

    /// Waits until every partition has installed the registrar's result, or time is up.
    pub(super) async fn ask_registrar(
        &self,
        definition: DefinitionRef<'_>,
        internal: &Internal,
    ) -> Result<Outcome, Problem> {
        let DefinitionRef { project, kind, id } = definition;
        let registrar = TopicPartition { topic: Topic::Events, partition: 0 };
        let key = format!("{}/{project}/{id}", kind.name());
        let mut waiter = self.send_internal(registrar, &key, internal).await?;
        let mut missing: BTreeSet<u32> = (0..self.log.partitions()).collect();
        let mut outcome =
            Outcome { version: 0, changed: false, created: false, used_new_secret: false, missing: Vec::new() };
        let deadline = tokio::time::Instant::now() + self.reply_timeout;
        while !missing.is_empty() {
            match tokio::time::timeout_at(deadline, waiter.next()).await {
                Ok(Some(EngineReply::Defined { partition, version, changed, created, used_new_secret, .. })) => {
                    missing.remove(&partition);
                    outcome = Outcome { version, changed, created, used_new_secret, missing: Vec::new() };
                }
                Ok(Some(EngineReply::Refused { code, pointer, detail })) => {
                    return Err(Problem::refused(&code, pointer, detail));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        outcome.missing = missing.into_iter().collect();
        Ok(outcome)
    }

    /// Waits a little for the view, which may be behind the partitions, so that whoever has
    /// just written reads the change.
    pub(super) async fn wait_for_view(&self, definition: DefinitionRef<'_>, gone: bool, outcome: &Outcome) {
        let DefinitionRef { project, kind, id } = definition;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
        let seen = || {
            let shown = self.view.get(project, kind, id);
            shown.map_or(gone, |s| s.record.version >= outcome.version)
        };
        while outcome.missing.is_empty() && tokio::time::Instant::now() < deadline {
            if self.view.catch_up().is_err() || seen() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    fn show(&self, asked: &RequestContext<'_>, kind: Kind, id: &str) -> Result<Answer, Problem> {
        let shown = self.view.get(&asked.caller.project, kind, id);
        let (body, version) = match (shown, kind) {
            (Some(shown), _) => (self.public(&shown), shown.record.version),
            (None, Kind::Settings) => (serde_json::to_value(Settings::default()).expect("settings serialise"), 0),
            (None, _) => return Err(Problem::not_found("there is no such definition")),
        };
        let body = body.to_string();
        // An endpoint's health changes without a new version.
        let state = (kind == Kind::Endpoint).then(|| xxhash_rust::xxh3::xxh3_64(body.as_bytes()) as u32);
        let tag = tag_of(version, state);
        let mut answer = if etag::is_known(asked.headers, &tag) {
            let mut unchanged = json_answer(304, "");
            unchanged.headers_mut().remove(header::CONTENT_TYPE);
            unchanged
        } else {
            json_answer(200, body)
        };
        set_tag(&mut answer, &tag);
        Ok(answer)
    }

    /// A definition as it is shown: without secrets, and an endpoint with its state.
    fn public(&self, shown: &ListedDefinition) -> Value {
        let mut body = shown.record.body.value();
        match shown.record.kind {
            Kind::Survey => body["version"] = shown.record.version.into(),
            Kind::Endpoint => {
                body["public_key"] = body["secret"]["public_key"].clone();
                hide(&mut body);
                body["version"] = shown.record.version.into();
                self.show_state(shown, &mut body);
            }
            Kind::Trigger | Kind::Settings | Kind::Health | Kind::Key | Kind::KeyUse | Kind::Job => {}
        }
        body
    }

    pub(super) fn list_definitions(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let (kind, member) = match asked.route.name {
            Name::Surveys => (Kind::Survey, "surveys"),
            Name::Endpoints => (Kind::Endpoint, "endpoints"),
            _ => (Kind::Trigger, "triggers"),
        };
        let page = super::list_routes::page(asked.query, &[])?;
        let below = match &page.cursor {
            None => u64::MAX,
            Some(cursor) => cursor.parse().map_err(|_| super::list_routes::bad_cursor())?,
        };
        let mut rows = self.view.list(&asked.caller.project, kind, below, page.limit + 1);
        let more = rows.len() > page.limit;
        rows.truncate(page.limit);
        let next = rows.last().filter(|_| more).map(|shown| shown.offset.to_string());
        let list: Vec<Value> = rows.iter().map(|shown| self.public(shown)).collect();
        Ok(json_answer(200, json!({member: list, "next_cursor": next}).to_string()))
    }
}

pub(super) fn outcome_answer(outcome: &Outcome, secret: Option<&str>, status: u16) -> Answer {
    let mut body = if outcome.missing.is_empty() {
        json!({"version": outcome.version, "changed": outcome.changed})
    } else {
        json!({"status": "pending", "missing_partitions": outcome.missing})
    };
    if let Some(secret) = secret {
        body["secret"] = secret.into();
    }
    let status = if outcome.missing.is_empty() { status } else { 202 };
    let mut answer = json_answer(status, body.to_string());
    if outcome.missing.is_empty() {
        set_tag(&mut answer, &tag_of(outcome.version, None));
    }
    answer
}

fn exists_already() -> Problem {
    Problem::new(412, "precondition_failed", "there is such a definition already")
}

/// The entity tag: `"7"`, or `"7-0012abcd"` of a definition and its state.
fn tag_of(version: u64, state: Option<u32>) -> String {
    state.map_or_else(|| format!("\"{version}\""), |state| format!("\"{version}-{state:08x}\""))
}

/// The version in a tag, which may have the state after it.
fn version_of_tag(tag: &str) -> Option<u64> {
    etag::bare(tag).split('-').next()?.parse().ok()
}

fn set_tag(answer: &mut Answer, tag: &str) {
    if let Ok(value) = HeaderValue::from_str(tag) {
        answer.headers_mut().insert(header::ETAG, value);
    }
}

/// Prefix of headers among the digests.
const HEADERS: &str = "headers.";

/// Digests of the hidden values, by their place. A header that is still in clear has none,
/// so that it differs from a sealed one.
fn digests(body: &Value) -> BTreeMap<String, Value> {
    let named = [("secret", &body["secret"]), ("tls.client_key", &body["tls"]["client_key"])];
    let named = named.map(|(at, sealed)| (at.to_owned(), sealed)).into_iter();
    let headers = body["headers"].as_object().into_iter().flatten();
    let all = named.chain(headers.map(|(name, sealed)| (format!("{HEADERS}{name}"), sealed)));
    all.filter(|(_, sealed)| sealed["digest"].is_string()).map(|(at, sealed)| (at, sealed["digest"].clone())).collect()
}

/// Removes what must not be shown, and what only the registrar uses.
fn hide(body: &mut Value) {
    let Some(members) = body.as_object_mut() else { return };
    if let Some(headers) = members.get_mut("headers").and_then(Value::as_object_mut) {
        headers.values_mut().for_each(|value| *value = SEALED.into());
    }
    for name in ["secret", "previous_secrets", "disabled"] {
        members.shift_remove(name);
    }
    if let Some(tls) = members.get_mut("tls").and_then(Value::as_object_mut) {
        tls.shift_remove("client_key");
    }
}

/// Whether `dry_run` is set.
///
/// # Errors
/// 422 for anything but yes or no: what was meant as a dry run must not be carried out.
fn is_dry_run(query: &str) -> Result<bool, Problem> {
    let mut dry_run = false;
    for (n, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        dry_run = match pair {
            _ if n > 0 => return Err(Problem::field(Code::Invalid, "", "dry_run is given twice")),
            "dry_run=true" => true,
            "dry_run=false" => false,
            _ if pair.split('=').next() == Some("dry_run") => {
                return Err(Problem::field(Code::Invalid, "", "dry_run must be true or false"));
            }
            _ => return Err(Problem::field(Code::UnknownField, "", "the query may have nothing but dry_run")),
        };
    }
    Ok(dry_run)
}

pub(super) fn random() -> Result<[u8; 32], Problem> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Problem::new(500, "internal", "no random bytes can be had"))?;
    Ok(bytes)
}
