//! Parses an endpoint definition and its retry policy.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use super::condition::{MAX_CONDITIONS, condition};
use super::kind::{Kind, id, kind, shown_only};
use super::reader::{Code, Reader};
use crate::{profile, tls};
use askwhen_domain::time::{self, DAY, Millis, SECOND};
use askwhen_domain::webhook::address;
use askwhen_domain::webhook::endpoint::{
    Endpoint, HeaderText, Profile, ResponseCondition, SealedSecret, Tls, matches_glob,
};
use askwhen_domain::webhook::rate::Rate;
use askwhen_domain::webhook::retry::{Intervals, Policy, Success};

/// Whether the target address has to be checked.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Check(&'a [IpNet]),
    /// Not for a definition from the journal, which was checked before.
    Trusted,
}

/// Where the secret of a definition comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Missing: the stored secret stays, or one is created.
    Keep,
    Literal(String),
    /// `{env: NAME}` or `{file: PATH}`, which only the command line can resolve.
    NotOwned,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EndpointBody {
    pub endpoint: Endpoint,
    pub secret: SecretSource,
    /// The private key of the client certificate.
    pub client_key: SecretSource,
}

const MAX_PEM_BYTES: usize = 64 << 10;

/// Headers that the signature, the transport or the profile sets.
const RESERVED_HEADERS: [&str; 14] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-authorization",
    "accept-encoding",
    "x-webhook-signature",
];

pub fn read(reader: &mut Reader<'_>, wanted_id: Option<&str>, target: Target<'_>) -> EndpointBody {
    kind(reader, Kind::Endpoint);
    let endpoint_id = id(reader, Kind::Endpoint, wanted_id);
    shown_only(reader, &["version", "state", "state_reason", "state_since", "state_until", "public_key"]);
    let profile = reader.choice("profile", &Profile::ALL).unwrap_or(Profile::Standard);
    let include_properties = reader.boolean("include_properties").unwrap_or(false);
    if include_properties && profile != Profile::Blitzllama {
        reader.fault(Code::Invalid, "include_properties", "is for the profile blitzllama only");
    }
    let url = url(reader, target);
    let (secret, sealed) = secret(reader, profile, target);
    let (client_key, tls) = tls(reader, target);
    let (previous_secrets, disabled) = match target {
        Target::Check(_) => (None, None),
        Target::Trusted => (internal(reader, "previous_secrets"), internal(reader, "disabled")),
    };
    EndpointBody {
        endpoint: Endpoint {
            endpoint_id,
            url,
            profile,
            enabled: reader.boolean("enabled").unwrap_or(true),
            events: events(reader, profile),
            surveys: globs(reader, "surveys").unwrap_or_else(|| vec!["*".into()]),
            conditions: response_conditions(reader),
            test: reader.boolean("test").unwrap_or(false),
            include_properties,
            retry: retry(reader, profile),
            rate_limit: rate_limit(reader),
            concurrency: reader.integer("concurrency", 1..=1_000).unwrap_or(10) as u32,
            headers: headers(reader, target),
            tls,
            secret: sealed,
            previous_secrets: previous_secrets.unwrap_or_default(),
            disabled,
        },
        secret,
        client_key,
    }
}

/// A member that only the registrar may write.
fn internal<T: serde::de::DeserializeOwned>(reader: &mut Reader<'_>, member: &str) -> Option<T> {
    reader.raw(member).and_then(|value| serde_json::from_value(value.clone()).ok())
}

fn rate_limit(reader: &mut Reader<'_>) -> Option<Rate> {
    let text = reader.text("rate_limit", 64)?;
    Rate::parse(&text).map_err(|wanted| reader.fault(Code::Invalid, "rate_limit", wanted)).ok()
}

fn tls(reader: &mut Reader<'_>, target: Target<'_>) -> (SecretSource, Option<Tls>) {
    let read = reader.object("tls", |inner| {
        let (ca_source, ca) = pem(inner, "ca", tls::certificates);
        let (cert_source, client_cert) = pem(inner, "client_cert", tls::certificates);
        let (client_key, sealed) = hidden(inner, "client_key", target, tls::check_key);
        let here = [&ca_source, &cert_source, &client_key].iter().all(|source| **source != SecretSource::NotOwned);
        let keyed = client_key != SecretSource::Keep || sealed.is_some();
        if keyed && client_cert.is_none() && cert_source == SecretSource::Keep {
            inner.fault(Code::MissingField, "client_cert", "is required beside client_key");
        }
        let sound = ca.as_deref().is_none_or(|pem| tls::certificates(pem).is_ok());
        if here
            && sound
            && client_cert.as_deref().is_none_or(|pem| tls::certificates(pem).is_ok())
            && let (Some(chain), SecretSource::Literal(key)) = (&client_cert, &client_key)
            && tls::check_key(key).is_ok()
            && let Err(why) = tls::client(ca.as_deref(), Some((chain.as_str(), key.as_str())))
        {
            inner.fault(Code::Invalid, "client_key", why.to_string());
        }
        (client_key, Tls { ca, client_cert, client_key: sealed })
    });
    match read {
        Some((client_key, tls)) => (client_key, Some(tls)),
        None => (SecretSource::Keep, None),
    }
}

/// A PEM text, or where the command line finds it.
fn pem<T>(
    reader: &mut Reader<'_>,
    member: &str,
    check: impl Fn(&str) -> Result<T, tls::Error>,
) -> (SecretSource, Option<String>) {
    match reader.raw(member) {
        Some(value) if elsewhere(value) => (SecretSource::NotOwned, None),
        Some(Value::Object(_)) => {
            reader.fault(Code::WrongType, member, "must be a string, {env: NAME} or {file: PATH}");
            (SecretSource::Keep, None)
        }
        _ => {
            let text = reader.text(member, MAX_PEM_BYTES);
            if let Some(Err(why)) = text.as_deref().map(check) {
                reader.fault(Code::Invalid, member, why.to_string());
            }
            (SecretSource::Keep, text)
        }
    }
}

/// `{env: NAME}` or `{file: PATH}`.
fn elsewhere(value: &Value) -> bool {
    let Some(members) = value.as_object() else { return false };
    members.len() == 1 && ["env", "file"].iter().any(|name| members.get(*name).is_some_and(Value::is_string))
}

fn url(reader: &mut Reader<'_>, target: Target<'_>) -> String {
    let Some(text) = reader.required_text("url", 4_096) else { return String::new() };
    if let Target::Check(allowed) = target {
        match address::check_url(&text, allowed) {
            Ok(_) => {}
            Err(why @ address::Refused::NotAUrl) => reader.fault(Code::Invalid, "url", why.to_string()),
            Err(why) => reader.fault(Code::ForbiddenTarget, "url", why.to_string()),
        }
    }
    text
}

/// The signing secret.
fn secret(reader: &mut Reader<'_>, profile: Profile, target: Target<'_>) -> (SecretSource, Option<SealedSecret>) {
    hidden(reader, "secret", target, |text| profile::check_secret(profile, text))
}

/// A literal, a place that the command line resolves, or the sealed form. The last is only
/// accepted from the journal, because a client could not know the secret.
fn hidden<E: std::fmt::Display>(
    reader: &mut Reader<'_>,
    member: &str,
    target: Target<'_>,
    check: impl Fn(&str) -> Result<(), E>,
) -> (SecretSource, Option<SealedSecret>) {
    match reader.raw(member) {
        None => (SecretSource::Keep, None),
        Some(Value::String(text)) => {
            if let Err(why) = check(text) {
                reader.fault(Code::Invalid, member, why.to_string());
            }
            (SecretSource::Literal(text.clone()), None)
        }
        Some(value) if elsewhere(value) => (SecretSource::NotOwned, None),
        Some(value) => match (serde_json::from_value(value.clone()), target) {
            (Ok(sealed), Target::Trusted) => (SecretSource::Keep, Some(sealed)),
            _ => {
                reader.fault(Code::WrongType, member, "must be a string, {env: NAME} or {file: PATH}");
                (SecretSource::Keep, None)
            }
        },
    }
}

/// `where: [{survey, question_id, op, value}]`
fn response_conditions(reader: &mut Reader<'_>) -> Vec<ResponseCondition> {
    reader.objects("where", MAX_CONDITIONS, |inner| ResponseCondition {
        survey: inner.required_id("survey").unwrap_or_default(),
        answer: condition(inner, "question_id"),
    })
}

fn globs(reader: &mut Reader<'_>, member: &str) -> Option<Vec<String>> {
    reader.raw(member)?;
    let globs = reader.ids(member, 100);
    if globs.is_empty() {
        reader.fault(Code::Invalid, member, "must not be empty; leave it out for the default");
    }
    Some(globs)
}

fn events(reader: &mut Reader<'_>, profile: Profile) -> Vec<String> {
    let Some(globs) = globs(reader, "events") else {
        return vec![if profile == Profile::Standard { "response.*" } else { "response.completed" }.into()];
    };
    for (i, glob) in globs.iter().enumerate() {
        if !profile.writes().iter().any(|kind| matches_glob(glob, kind.name())) {
            let names: Vec<&str> = profile.writes().iter().map(|kind| kind.name()).collect();
            let detail = format!("events: this profile can write only {}", names.join(", "));
            reader.fault_at(Code::Invalid, &format!("events/{i}"), detail);
        }
    }
    globs
}

/// Literals in definitions from clients; in the journal sealed values, or literals that
/// version 0.1.0 wrote.
fn headers(reader: &mut Reader<'_>, target: Target<'_>) -> BTreeMap<String, HeaderText> {
    let empty = Map::new();
    let given = match reader.raw("headers") {
        None => &empty,
        Some(Value::Object(members)) if members.len() <= 50 => members,
        Some(_) => {
            reader.fault(Code::WrongType, "headers", "must be an object of at most 50 strings");
            &empty
        }
    };
    let mut headers = BTreeMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let path = format!("headers/{}", name.replace('~', "~0").replace('/', "~1"));
        let reserved = RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("webhook-");
        let named = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
        if matches!(target, Target::Trusted)
            && let Ok(sealed) = serde_json::from_value(value.clone())
        {
            headers.insert(lower, HeaderText::Sealed(sealed));
            continue;
        }
        let fit = value.as_str().filter(|text| text.len() <= 4_096 && http::HeaderValue::from_str(text).is_ok());
        match fit {
            _ if reserved => reader.fault_at(Code::Invalid, &path, "this header is set by askwhen itself"),
            _ if !named => reader.fault_at(Code::Invalid, &path, "this is not a header's name"),
            None => reader.fault_at(Code::Invalid, &path, "must be a string that a header can carry"),
            Some(text) => {
                headers.insert(lower, HeaderText::Clear(text.to_owned()));
            }
        }
    }
    headers
}

/// `{preset: standard}`, or a full policy, whose missing members come from the profile's
/// preset. No wait exceeds 24 h.
fn retry(reader: &mut Reader<'_>, profile: Profile) -> Policy {
    let standard_timeout = if profile == Profile::Standard { 15 * SECOND } else { 10 * SECOND };
    let preset = match profile {
        Profile::OneFlow => Policy::one_flow(),
        _ => Policy::standard(standard_timeout),
    };
    let read = reader.object("retry", |inner| {
        let presets = [("standard", false), ("1flow", true)];
        if inner.raw("preset").is_some() {
            return match inner.choice("preset", &presets) {
                Some(true) => Policy::one_flow(),
                _ => Policy::standard(standard_timeout),
            };
        }
        full_policy(inner, &preset)
    });
    read.unwrap_or(preset)
}

fn full_policy(inner: &mut Reader<'_>, preset: &Policy) -> Policy {
    if inner.raw("kind").is_none() {
        inner.missing("kind");
    }
    let intervals = match inner.choice("kind", &[("schedule", 0), ("fixed", 1), ("exponential", 2)]) {
        Some(0) => Intervals::Schedule(delays(inner)),
        Some(1) => Intervals::Fixed(interval(inner, "interval").unwrap_or(DAY)),
        Some(2) => {
            let base = interval(inner, "base").unwrap_or(SECOND);
            let factor = inner.number("factor", 1.0..=100.0).unwrap_or(2.0);
            let cap = if inner.raw("cap").is_some() { interval(inner, "cap") } else { Some(DAY) };
            let cap = cap.unwrap_or(DAY);
            if base > cap {
                inner.fault(Code::Invalid, "cap", "must not be less than base");
            }
            Intervals::Exponential { base, factor, cap }
        }
        _ => preset.intervals.clone(),
    };
    let max_attempts = inner.integer("max_attempts", 1..=10_000).map(|n| n as u32);
    let max_age = inner.positive_duration("max_age");
    if !matches!(intervals, Intervals::Schedule(_)) && max_attempts.is_none() && max_age.is_none() {
        inner.fault(Code::MissingField, "max_attempts", "or max_age is required: retries must end");
    }
    let retry_after_max = match inner.object("retry_after", |i| (i.boolean("honour").unwrap_or(true), wish(i))) {
        None => preset.retry_after_max,
        Some((honour, max)) => honour.then_some(max),
    };
    let statuses = inner.list("terminal_status", 100);
    let terminal: Vec<u16> =
        statuses.iter().filter_map(Value::as_u64).filter(|s| (100..600).contains(s)).map(|s| s as u16).collect();
    if terminal.len() != statuses.len() {
        inner.fault(Code::Invalid, "terminal_status", "must hold HTTP statuses");
    }
    let success = inner.choice("success", &[("2xx", Success::Any2xx), ("200", Success::Only200)]);
    let success = success.unwrap_or(preset.success);
    if terminal.iter().any(|status| success.takes(*status)) {
        inner.fault(Code::Invalid, "terminal_status", "holds a status that counts as success");
    }
    let breaker = inner.boolean("breaker").unwrap_or(preset.breaker);
    Policy {
        breaker,
        intervals,
        jitter: inner.number("jitter", 0.0..=0.5).unwrap_or(0.0),
        max_attempts,
        max_age,
        success,
        terminal_status: terminal,
        retry_after_max,
        connect_timeout: timeout(inner, "connect_timeout").unwrap_or(preset.connect_timeout),
        timeout: timeout(inner, "timeout").unwrap_or(preset.timeout),
    }
}

/// The longest `Retry-After` that is followed.
fn wish(inner: &mut Reader<'_>) -> Millis {
    let most = inner.duration("max").unwrap_or(DAY);
    if most > DAY {
        inner.fault(Code::Invalid, "max", "must be at most 24h");
    }
    most
}

fn timeout(inner: &mut Reader<'_>, member: &str) -> Option<Millis> {
    let span = inner.positive_duration(member)?;
    if span > 60 * SECOND {
        inner.fault(Code::Invalid, member, "must be at most 60s");
        return None;
    }
    Some(span)
}

fn interval(inner: &mut Reader<'_>, member: &str) -> Option<Millis> {
    if inner.raw(member).is_none() {
        inner.missing(member);
        return None;
    }
    let span = inner.positive_duration(member)?;
    if span > DAY {
        inner.fault(Code::Invalid, member, "must be at most 24h");
        return None;
    }
    Some(span)
}

fn delays(inner: &mut Reader<'_>) -> Vec<Millis> {
    if inner.raw("delays").is_none() {
        inner.missing("delays");
    }
    let list = inner.list("delays", 1_000);
    let mut delays = Vec::new();
    for (i, value) in list.iter().enumerate() {
        match value.as_str().map(time::parse_duration) {
            Some(Ok(span)) if span <= DAY => delays.push(span),
            Some(Ok(_)) => inner.fault_at(Code::Invalid, &format!("delays/{i}"), "must be at most 24h"),
            _ => inner.fault_at(Code::BadTime, &format!("delays/{i}"), "must be a duration such as 30s, 2h or 7d"),
        }
    }
    delays
}

/// A policy in the form that [`read`] parses.
pub fn policy_json(policy: &Policy) -> Value {
    let span = |ms: Millis| Value::from(time::format_duration(ms));
    let mut out = match &policy.intervals {
        Intervals::Schedule(delays) => {
            json!({"kind": "schedule", "delays": delays.iter().map(|d| span(*d)).collect::<Vec<_>>()})
        }
        Intervals::Fixed(interval) => json!({"kind": "fixed", "interval": span(*interval)}),
        Intervals::Exponential { base, factor, cap } => {
            json!({"kind": "exponential", "base": span(*base), "factor": factor, "cap": span(*cap)})
        }
    };
    let members = out.as_object_mut().expect("an object");
    members.insert("jitter".into(), json!(policy.jitter));
    members.insert("max_attempts".into(), json!(policy.max_attempts));
    members.insert("max_age".into(), policy.max_age.map_or(Value::Null, span));
    members.insert("success".into(), json!(policy.success));
    members.insert("terminal_status".into(), json!(policy.terminal_status));
    members.insert(
        "retry_after".into(),
        json!({"honour": policy.retry_after_max.is_some(), "max": span(policy.retry_after_max.unwrap_or(DAY))}),
    );
    members.insert("breaker".into(), json!(policy.breaker));
    members.insert("connect_timeout".into(), span(policy.connect_timeout));
    members.insert("timeout".into(), span(policy.timeout));
    out
}

/// An endpoint in canonical form, which [`read`] parses to the same.
pub fn endpoint_json(endpoint: &Endpoint) -> Value {
    let mut out = serde_json::to_value(endpoint).expect("an endpoint serialises");
    out["retry"] = policy_json(&endpoint.retry);
    out
}
