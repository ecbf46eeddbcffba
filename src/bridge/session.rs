//! Sessions of the console: a key is exchanged for a cookie, so that no page stores the
//! key. The cookie contains the digest of the key, sealed with the cluster key: every
//! process can open it, and none stores anything but sessions that were ended early.

use http::{HeaderMap, header};
use std::collections::HashMap;
use std::sync::Mutex;

use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::endpoint::SealedSecret;
use askwhen_wire::seal::ClusterKey;

pub const COOKIE: &str = "askwhen_session";
/// Without this header a cookie is ignored, because pages of other origins cannot send it.
pub const CONSOLE_HEADER: &str = "x-askwhen-console";
/// How long a sign-in link is valid, in milliseconds.
const LINK_LIFE: Millis = 15 * MINUTE;
/// The names under which cookies are sealed; no project can have them.
const SEALED_FOR: (&str, &str) = ("\0console", "session");
/// The most sessions that were ended early and are remembered.
const MAX_ENDED: usize = 10_000;

/// The contents of a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub digest: [u8; 32],
    pub ends_at: Millis,
    pub id: String,
}

impl Session {
    pub fn seal(&self, key: &ClusterKey, nonce: [u8; 24]) -> String {
        let text = format!("{} {} {}", hex::encode(self.digest), self.ends_at, self.id);
        key.seal(SEALED_FOR.0, SEALED_FOR.1, &text, nonce).sealed
    }

    pub fn open(key: &ClusterKey, cookie: &str) -> Option<Session> {
        let sealed = SealedSecret { sealed: cookie.to_owned(), digest: String::new(), public_key: None };
        let text = key.open(SEALED_FOR.0, SEALED_FOR.1, &sealed).ok()?;
        let mut parts = text.split(' ');
        let digest = hex::decode(parts.next()?).ok()?.try_into().ok()?;
        Some(Session { digest, ends_at: parts.next()?.parse().ok()?, id: parts.next()?.to_owned() })
    }
}

/// What a process remembers of sessions.
#[derive(Default)]
pub struct Sessions {
    /// Sessions that were ended early, with the time when they would have ended.
    ended: Mutex<HashMap<String, Millis>>,
    /// Unused sign-in links: token, digest of the key, end of validity.
    links: Mutex<Vec<(String, [u8; 32], Millis)>>,
}

impl Sessions {
    pub(super) fn is_ended(&self, id: &str) -> bool {
        self.ended.lock().expect("no panic holds this lock").contains_key(id)
    }

    pub(super) fn end(&self, session: Session, now: Millis) {
        let mut ended = self.ended.lock().expect("no panic holds this lock");
        ended.retain(|_, ends_at| *ends_at > now);
        if ended.len() < MAX_ENDED {
            ended.insert(session.id, session.ends_at);
        }
    }

    /// Creates the token of a link that signs in once with a key.
    pub fn link(&self, digest: [u8; 32], now: Millis) -> String {
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.links.lock().expect("no panic holds this lock").push((token.clone(), digest, now + LINK_LIFE));
        token
    }

    pub(super) fn take_link(&self, token: &str, now: Millis) -> Option<[u8; 32]> {
        let mut links = self.links.lock().expect("no panic holds this lock");
        links.retain(|(_, _, until)| *until > now);
        let at = links.iter().position(|(known, ..)| known == token)?;
        Some(links.swap_remove(at).1)
    }
}

/// The values of the session's cookie; there may be several for different paths.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Whether the request comes from a page of this origin. Browsers say so; if one does not,
/// the origin in its headers must have the host of the request.
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let headers = all
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).expect("plain")));
        headers.collect()
    }

    #[test]
    fn a_cookie_opens_with_its_key_and_says_what_was_sealed() {
        let key = ClusterKey::new([7; 32]);
        let session = Session { digest: [3; 32], ends_at: 1_800_000_000_000, id: "ab".into() };
        let cookie = session.seal(&key, [1; 24]);
        assert_eq!(Session::open(&key, &cookie), Some(session));
        assert_eq!(Session::open(&ClusterKey::new([8; 32]), &cookie), None);
        let secret = key.seal("default", "crm", "x", [1; 24]).sealed;
        for forged in ["", "x", &cookie[..cookie.len() - 4], &secret] {
            assert_eq!(Session::open(&key, forged), None, "{forged}");
        }
    }

    #[test]
    fn only_pages_of_this_origin_use_a_session() {
        for (given, same) in [
            (&[][..], true),
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://a.example:1"), ("host", "a.example:1")], true),
            (&[("origin", "http://b.example"), ("host", "a.example")], false),
            (&[("origin", "null"), ("host", "a.example")], false),
        ] {
            assert_eq!(is_same_origin(&headers(given)), same, "{given:?}");
        }
        let several = headers(&[("cookie", "a=1; askwhen_session=x; b=2"), ("host", "h")]);
        assert_eq!(cookies(&several).collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn a_link_signs_in_once_and_not_for_long() {
        let sessions = Sessions::default();
        let token = sessions.link([1; 32], 0);
        assert_eq!(sessions.take_link("another", 1), None);
        assert_eq!(sessions.take_link(&token, 1), Some([1; 32]));
        assert_eq!(sessions.take_link(&token, 2), None);
        let token = sessions.link([1; 32], 0);
        assert_eq!(sessions.take_link(&token, LINK_LIFE), None);
    }
}
