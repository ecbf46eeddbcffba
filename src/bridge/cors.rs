//! CORS: which origins may call the client routes, and the answers to preflights.

use http::{HeaderMap, HeaderValue, header};
use std::sync::{Arc, RwLock};

/// An entry of `cors_origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    Any,
    /// An origin as browsers write it: `https://app.example`, `capacitor://localhost`,
    /// `null`.
    Exact(String),
    /// `https://*.shop.example:8443`: the star stands for one label.
    OneLabel {
        /// `https://`
        scheme: String,
        /// `.shop.example:8443`
        rest: String,
    },
}

/// The allowed origins; reloading the configuration changes them.
#[derive(Debug, Default)]
pub struct AllowedOrigins(RwLock<Arc<[AllowedOrigin]>>);

impl AllowedOrigins {
    pub fn new(all: Vec<AllowedOrigin>) -> AllowedOrigins {
        AllowedOrigins(RwLock::new(all.into()))
    }

    pub fn replace(&self, all: Vec<AllowedOrigin>) {
        *self.0.write().expect("no panic holds this lock") = all.into();
    }

    pub fn now(&self) -> Arc<[AllowedOrigin]> {
        self.0.read().expect("no panic holds this lock").clone()
    }
}

/// The headers allowed in every preflight.
const ALLOWED_HEADERS: &str = "authorization, x-api-key, content-type, idempotency-key, x-user-signature";
/// The longest list of requested headers that is allowed, in bytes.
const MAX_ASKED_BYTES: usize = 2_048;

impl AllowedOrigin {
    /// Parses an entry.
    ///
    /// # Errors
    /// What an origin looks like.
    pub fn parse(text: &str) -> Result<AllowedOrigin, &'static str> {
        const WANTED: &str = "must hold origins such as https://app.example or http://localhost:3000";
        match text {
            "*" => return Ok(AllowedOrigin::Any),
            "null" => return Ok(AllowedOrigin::Exact(text.to_owned())),
            _ => {}
        }
        let (scheme, host) = text.split_once("://").ok_or(WANTED)?;
        let names = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if scheme.is_empty() || host.is_empty() || !names(scheme) {
            return Err(WANTED);
        }
        if host.contains(['/', '?', '#', '@']) {
            return Err("must hold origins, which have no path: https://app.example, without a slash at the end");
        }
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        // Browsers leave the scheme's default port out.
        let standard = match scheme.as_str() {
            "https" => ":443",
            "http" => ":80",
            _ => "",
        };
        let host = if standard.is_empty() { &*host } else { host.strip_suffix(standard).unwrap_or(&host) };
        let scheme = format!("{scheme}://");
        let Some(rest) = host.strip_prefix('*') else {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
            let fits = host.bytes().all(fits);
            return if fits { Ok(AllowedOrigin::Exact(format!("{scheme}{host}"))) } else { Err(WANTED) };
        };
        let labels: Option<Vec<&str>> = rest.strip_prefix('.').map(|rest| rest.split('.').collect());
        let fits =
            |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:".contains(&b));
        match labels {
            Some(labels) if labels.len() >= 2 && labels.iter().all(fits) => {
                Ok(AllowedOrigin::OneLabel { scheme, rest: rest.to_owned() })
            }
            _ => Err("may have one star, for one label before a name of two or more: https://*.shop.example"),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            AllowedOrigin::Any => true,
            AllowedOrigin::Exact(exact) => origin.eq_ignore_ascii_case(exact),
            AllowedOrigin::OneLabel { scheme, rest } => {
                let origin = origin.to_ascii_lowercase();
                let label = origin.strip_prefix(scheme).and_then(|host| host.strip_suffix(rest.as_str()));
                label.is_some_and(|label| !label.is_empty() && !label.contains(['.', ':', '/']))
            }
        }
    }
}

fn is_allowed(allowed: &[AllowedOrigin], origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| allowed.iter().any(|one| one.allows(origin)))
}

/// Allows a page of an allowed origin to read the answer of a client route.
pub fn allow_origin(allowed: &[AllowedOrigin], asked: &HeaderMap, out: &mut HeaderMap) {
    out.append(header::VARY, HeaderValue::from_static("origin"));
    let Some(origin) = asked.get(header::ORIGIN).filter(|origin| is_allowed(allowed, origin)) else { return };
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    out.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after, x-request-id"));
}

/// The methods and headers of a preflight's answer. Tracing and proxies add headers to
/// requests, so an allowed origin may send whatever it asks for.
pub fn preflight(allowed: &[AllowedOrigin], asked: &HeaderMap, methods: &'static str, out: &mut HeaderMap) {
    out.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    out.insert(header::VARY, HeaderValue::from_static("access-control-request-headers"));
    let more =
        asked.get(header::ORIGIN).filter(|origin| is_allowed(allowed, origin)).and_then(|_| asked_headers(asked));
    let all = more.map_or(ALLOWED_HEADERS.to_owned(), |more| format!("{ALLOWED_HEADERS}{more}"));
    if let Ok(value) = HeaderValue::from_str(&all) {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value);
    }
}

/// Requested header names that are not among [`ALLOWED_HEADERS`], each after a comma.
fn asked_headers(asked: &HeaderMap) -> Option<String> {
    let text = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS)?.to_str().ok()?;
    let known = |name: &str| ALLOWED_HEADERS.split(", ").any(|known| known.eq_ignore_ascii_case(name));
    let names = text.get(..MAX_ASKED_BYTES.min(text.len()))?.split(',').map(str::trim);
    let names = names.filter(|name| !known(name) && http::HeaderName::from_bytes(name.as_bytes()).is_ok());
    Some(names.map(|name| format!(", {}", name.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &str, origin: &str, expected: bool) {
        let parsed = AllowedOrigin::parse(allowed).unwrap_or_else(|wanted| panic!("{allowed}: {wanted}"));
        assert_eq!(parsed.allows(origin), expected, "{allowed} and {origin}");
    }

    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        check("https://app.example", "https://app.example", true);
        check("https://App.Example", "https://app.example", true);
        check("https://app.example:443", "https://app.example", true);
        check("https://app.example", "http://app.example", false);
        check("https://app.example", "https://app.example:8443", false);
        check("http://localhost:3000", "http://localhost:3000", true);
        check("http://[::1]:3000", "http://[::1]:3000", true);
        check("capacitor://localhost", "capacitor://localhost", true);
        check("chrome-extension://abcdefgh", "chrome-extension://abcdefgh", true);
        check("null", "null", true);
        check("https://app.example", "null", false);
        check("*", "https://anything.example", true);
        check("https://*.shop.example", "https://de.shop.example", true);
        check("https://*.shop.example", "https://shop.example", false);
        check("https://*.shop.example", "https://a.b.shop.example", false);
        check("https://*.shop.example", "https://evilshop.example", false);
        check("https://*.shop.example", "https://.shop.example", false);
        check("https://*.shop.example", "http://de.shop.example", false);
        check("https://*.shop.example", "https://evil.example/.shop.example", false);
        check("https://*.shop.example:8443", "https://de.shop.example:8443", true);
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for wrong in [
            "https://app.example/",
            "https://app.example/path",
            "app.example",
            "https://",
            "https://*",
            "https://*.com",
            "https://*.*.example",
            "https://a.*.example",
            "https://*shop.example",
            "https://app.*",
            "*.shop.example",
            "https://user@app.example",
            "https://app.example?x",
            "",
            "https://app example",
            "https://*.example.com/",
        ] {
            assert!(AllowedOrigin::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_preflight_allows_what_is_asked_for() {
        let allowed = [AllowedOrigin::parse("https://app.example").unwrap()];
        let ask = |origin: &'static str, wanted: &str| {
            let mut asked = HeaderMap::new();
            asked.insert(header::ORIGIN, HeaderValue::from_static(origin));
            asked.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(wanted).unwrap());
            let mut out = HeaderMap::new();
            preflight(&allowed, &asked, "POST, OPTIONS", &mut out);
            out[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_owned()
        };
        let tracing = "baggage,content-type,sentry-trace, traceparent";
        assert_eq!(
            ask("https://app.example", tracing),
            format!("{ALLOWED_HEADERS}, baggage, sentry-trace, traceparent")
        );
        assert_eq!(ask("https://evil.example", tracing), ALLOWED_HEADERS);
        assert_eq!(ask("https://app.example", "a b, (x), ,"), ALLOWED_HEADERS);
    }
}
