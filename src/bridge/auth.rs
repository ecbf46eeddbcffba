//! Authentication: keys and their kinds, identity signatures, request quotas.

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::problem::Problem;
use askwhen_domain::json::Members;
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::rate::Rate;
use askwhen_wire::json;

/// The kind of a key. `client`, `server` and `admin` each include the one before; `viewer`
/// may read what `admin` may, and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[serde(skip)]
    None,
    Client,
    Server,
    Viewer,
    Admin,
}

impl Kind {
    /// The kinds of keys by name.
    pub const ALL: [Kind; 4] = [Kind::Client, Kind::Server, Kind::Viewer, Kind::Admin];

    pub fn parse(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a key of this kind may call a route that needs `needed`; `reads` says that
    /// the method changes nothing.
    pub fn permits(self, needed: Kind, reads: bool) -> bool {
        match self {
            Kind::Admin => true,
            Kind::Viewer => reads || needed == Kind::None,
            Kind::None | Kind::Client | Kind::Server => needed <= self,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::None => "none",
            Kind::Client => "client",
            Kind::Server => "server",
            Kind::Viewer => "viewer",
            Kind::Admin => "admin",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub project: String,
    pub kind: Kind,
    /// Whether the caller was identified by a signed link, which names the user.
    pub by_link: bool,
    /// The name of the key, which becomes the actor of changes.
    pub actor: String,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
}

impl Caller {
    /// The caller who answers a survey by a link, without a key. All answers to one survey
    /// share a quota.
    pub fn of_link(project: String, survey_id: &str) -> Caller {
        let digest = digest(&format!("link\0{project}\0{survey_id}"));
        Caller { project, kind: Kind::Client, by_link: true, actor: "link".into(), digest }
    }
}

/// The rights of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    pub key_id: String,
    pub project: String,
    pub kind: Kind,
    pub name: String,
    /// The first characters of the key, if they are known.
    pub prefix: Option<String>,
    /// When it was created, for keys created at run time.
    pub created_at: Option<Millis>,
}

/// Keys by their SHA-256.
pub type KeyGrants = HashMap<[u8; 32], KeyGrant>;

/// A quota that allows the rate's number at once and then an even pace.
fn quota(rate: Rate) -> Quota {
    let each = rate.per / rate.count.get();
    Quota::with_period(each.max(Duration::from_nanos(1))).expect("not zero").allow_burst(rate.count)
}

/// The configured keys and secrets.
#[derive(Debug, Default)]
pub struct Grants {
    /// The keys in the configuration or in the data directory.
    pub keys: KeyGrants,
    /// Identity secrets by project.
    pub identity: BTreeMap<String, Vec<String>>,
}

pub struct Auth {
    grants: RwLock<Arc<Grants>>,
    /// The keys created at run time, with their generation.
    runtime: RwLock<(u64, Arc<KeyGrants>)>,
    /// By key, the minute of its last use.
    used: RwLock<HashMap<[u8; 32], AtomicI64>>,
    limits: RwLock<Arc<Limits>>,
    /// Whether more users are remembered than there is room for, so that further ones share
    /// quotas.
    crowded: AtomicBool,
}

/// The remaining quotas.
struct Limits {
    rates: Rates,
    per_key: DefaultKeyedRateLimiter<[u8; 32]>,
    per_client_user: DefaultKeyedRateLimiter<u128>,
}

/// The rates of requests: of a key, and of a client key for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub per_key: Rate,
    pub per_client_user: Rate,
}

impl Limits {
    fn new(rates: Rates) -> Arc<Limits> {
        Arc::new(Limits {
            rates,
            per_key: RateLimiter::keyed(quota(rates.per_key)),
            per_client_user: RateLimiter::keyed(quota(rates.per_client_user)),
        })
    }
}

/// The most users of client keys whose quotas are remembered separately. Anyone can make up
/// user ids, so further users share [`SHARED_QUOTAS`] quotas.
const MAX_QUOTAS: usize = 100_000;
const SHARED_QUOTAS: u128 = 1 << 16;

pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl Auth {
    pub fn new(grants: Grants, rates: Rates) -> Auth {
        Auth {
            grants: RwLock::new(Arc::new(grants)),
            runtime: RwLock::default(),
            used: RwLock::default(),
            limits: RwLock::new(Limits::new(rates)),
            crowded: AtomicBool::new(false),
        }
    }

    /// Replaces keys, secrets and rates. Quotas whose rates have changed start afresh.
    pub fn replace(&self, grants: Grants, rates: Rates) {
        *self.grants.write().expect("no panic holds this lock") = Arc::new(grants);
        if self.limits().rates != rates {
            *self.limits.write().expect("no panic holds this lock") = Limits::new(rates);
        }
    }

    fn limits(&self) -> Arc<Limits> {
        self.limits.read().expect("no panic holds this lock").clone()
    }

    fn grants(&self) -> Arc<Grants> {
        self.grants.read().expect("no panic holds this lock").clone()
    }

    /// Finds the caller by the digest of the key, so that every unknown key takes the same
    /// time.
    ///
    /// # Errors
    /// 401 without a known key, 403 with a key of the wrong kind.
    pub fn caller(&self, headers: &HeaderMap, needed: Kind, reads: bool) -> Result<Caller, Problem> {
        // Proxies and clients may add credentials of their own.
        let known = presented(headers).find_map(|key| self.known(key));
        permitted(known.ok_or_else(unauthorized)?, needed, reads)
    }

    /// Finds the caller by a client key in the body's member `key`: a page that is being
    /// closed can send a body but no headers.
    ///
    /// # Errors
    /// 401 without a known client key.
    pub fn caller_of_body(&self, body: &[u8]) -> Result<Caller, Problem> {
        let text = json::check(body).map_err(|_| unauthorized())?;
        let members: Members<'_> = serde_json::from_str(text).map_err(|_| unauthorized())?;
        let key = members.0.iter().find(|(name, _)| name == KEY_MEMBER);
        let key: Option<String> = key.and_then(|(_, raw)| serde_json::from_str(raw.get()).ok());
        key.and_then(|key| self.known(&key)).filter(|caller| caller.kind == Kind::Client).ok_or_else(unauthorized)
    }

    /// The caller of a key, if it is known.
    pub fn known(&self, key: &str) -> Option<Caller> {
        self.known_digest(digest(key))
    }

    /// The caller of the key with this digest, while it is valid.
    pub fn known_digest(&self, digest: [u8; 32]) -> Option<Caller> {
        let caller = |grant: &KeyGrant| Caller {
            project: grant.project.clone(),
            kind: grant.kind,
            by_link: false,
            actor: grant.name.clone(),
            digest,
        };
        self.grants().keys.get(&digest).map(caller).or_else(|| self.runtime_keys().get(&digest).map(caller))
    }

    /// The keys in the configuration or the data directory, by digest.
    pub fn file_keys(&self) -> KeyGrants {
        self.grants().keys.clone()
    }

    pub fn runtime_keys(&self) -> Arc<KeyGrants> {
        self.runtime.read().expect("no panic holds this lock").1.clone()
    }

    /// Takes the keys created at run time, unless those of this generation are there.
    pub fn sync_runtime_keys(&self, generation: u64, keys: impl FnOnce() -> KeyGrants) {
        if self.runtime.read().expect("no panic holds this lock").0 != generation {
            *self.runtime.write().expect("no panic holds this lock") = (generation, Arc::new(keys()));
        }
    }

    /// Notes that a key was used.
    pub fn note_use(&self, digest: [u8; 32], now: Millis) {
        let minute = now - now.rem_euclid(MINUTE);
        let used = self.used.read().expect("no panic holds this lock");
        if let Some(known) = used.get(&digest) {
            known.fetch_max(minute, Ordering::Relaxed);
            return;
        }
        drop(used);
        self.used.write().expect("no panic holds this lock").insert(digest, AtomicI64::new(minute));
    }

    /// The minute in which this process last saw a key.
    pub fn last_used(&self, digest: &[u8; 32]) -> Option<Millis> {
        let used = self.used.read().expect("no panic holds this lock");
        used.get(digest).map(|at| at.load(Ordering::Relaxed))
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429 when the key's quota is used up.
    pub fn take_quota(&self, caller: &Caller) -> Result<(), Problem> {
        self.limits()
            .per_key
            .check_key(&caller.digest)
            .map_err(|until| limited(until.wait_time_from(DefaultClock::default().now())))
    }

    /// Checks a client key's request for a user: the identity signature and the quota.
    ///
    /// # Errors
    /// 401 `identity_required`, or 429.
    pub fn client_user(&self, caller: &Caller, headers: &HeaderMap, user_id: &str) -> Result<(), Problem> {
        if caller.kind != Kind::Client {
            return Ok(());
        }
        if !user_id.starts_with("anon-") {
            self.identified(caller, headers, user_id)?;
        }
        let key = xxhash_rust::xxh3::xxh3_128(format!("{}\0{user_id}", caller.project).as_bytes());
        let key = if self.crowded.load(Ordering::Relaxed) { key % SHARED_QUOTAS } else { key };
        self.limits()
            .per_client_user
            .check_key(&key)
            .map_err(|until| limited(until.wait_time_from(DefaultClock::default().now())))
    }

    /// Checks the identity signature that client keys need for users who are not anonymous.
    ///
    /// # Errors
    /// 401 `identity_required`.
    pub fn identified(&self, caller: &Caller, headers: &HeaderMap, user_id: &str) -> Result<(), Problem> {
        let grants = self.grants();
        if let Some(secrets) = grants.identity.get(&caller.project).filter(|secrets| !secrets.is_empty())
            && caller.kind == Kind::Client
            && !caller.by_link
        {
            let given =
                headers.get("x-user-signature").and_then(|v| hex::decode(v.as_bytes()).ok()).unwrap_or_default();
            let signed = |secret: &String| {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes any key");
                mac.update(user_id.as_bytes());
                mac.verify_slice(&given).is_ok()
            };
            if !secrets.iter().any(signed) {
                let detail = "x-user-signature must be the hex HMAC-SHA256 of the user id with the identity secret";
                return Err(Problem::new(401, "identity_required", detail));
            }
        }
        Ok(())
    }

    /// Forgets quotas that are full again; to be called now and then.
    pub fn sweep(&self) {
        let limits = self.limits();
        limits.per_key.retain_recent();
        limits.per_client_user.retain_recent();
        limits.per_client_user.shrink_to_fit();
    }

    /// Keeps the number of remembered quotas bounded; to be called often.
    pub fn look(&self) {
        let limits = self.limits();
        if limits.per_client_user.len() > MAX_QUOTAS {
            limits.per_client_user.retain_recent();
        }
        let remembered = limits.per_client_user.len();
        self.crowded.store(remembered > MAX_QUOTAS, Ordering::Relaxed);
        askwhen_process::metrics::get().bridge_client_quotas.set(remembered as i64);
    }
}

/// Checks the kind of a caller's key.
///
/// # Errors
/// 403 for a key of the wrong kind.
pub fn permitted(caller: Caller, needed: Kind, reads: bool) -> Result<Caller, Problem> {
    if caller.kind.permits(needed, reads) {
        return Ok(caller);
    }
    Err(Problem::new(403, "forbidden", format!("this needs a key of kind {}", needed.name())))
}

fn limited(wait: Duration) -> Problem {
    let seconds = Duration::from_secs(wait.as_secs_f64().ceil() as u64);
    Problem::later(429, "rate_limited", "your quota is used up for now", seconds)
}

pub fn unauthorized() -> Problem {
    let detail = "a known key is needed: Authorization: Bearer KEY, or x-api-key: KEY";
    Problem::new(401, "unauthorized", detail)
}

/// The body's member for a client key where there are no headers.
pub const KEY_MEMBER: &str = "key";
/// A body is read before its key is known only if its declared length is at most this.
const MAX_KEYED_BODY_BYTES: u64 = 256 << 10;

/// Whether a request without a key in its headers may have one in its body.
pub fn may_be_in_body(headers: &HeaderMap) -> bool {
    let length = headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let is_small = length.is_some_and(|length| (1..=MAX_KEYED_BODY_BYTES).contains(&length));
    is_small && !headers.contains_key(http::header::EXPECT) && presented(headers).next().is_none()
}

/// Whether the headers contain a key, known or not.
pub fn has_key(headers: &HeaderMap) -> bool {
    presented(headers).next().is_some()
}

/// Every key in the headers, in order of precedence.
fn presented(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get_all(http::header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, key) = value.to_str().ok()?.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let plain = headers.get_all("x-api-key").iter().filter_map(|value| Some(value.to_str().ok()?.trim()));
    bearer.chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_reads_what_an_admin_reads_and_changes_nothing() {
        use Kind::{Admin, Client, Server, Viewer};
        for (holder, needed, reads, permitted) in [
            (Viewer, Viewer, true, true),
            (Viewer, Server, true, true),
            (Viewer, Client, true, true),
            (Viewer, Client, false, false),
            (Viewer, Server, false, false),
            (Viewer, Admin, false, false),
            (Server, Viewer, true, false),
            (Server, Client, false, true),
            (Client, Server, true, false),
            (Admin, Viewer, true, true),
            (Admin, Admin, false, true),
        ] {
            assert_eq!(holder.permits(needed, reads), permitted, "{holder:?} {needed:?} {reads}");
        }
    }

    #[test]
    fn quotas_of_made_up_users_stay_bounded() {
        let key = "a key of sixteen and more";
        let rates = Rates { per_key: Rate::parse("1000000/s").unwrap(), per_client_user: Rate::parse("1/h").unwrap() };
        let grant = KeyGrant {
            key_id: "k".into(),
            project: "p".into(),
            kind: Kind::Client,
            name: "app".into(),
            prefix: None,
            created_at: None,
        };
        let keys = HashMap::from([(digest(key), grant)]);
        let auth = Auth::new(Grants { keys, ..Grants::default() }, rates);
        let caller = auth.known(key).expect("it is known");
        for n in 0..3 * MAX_QUOTAS {
            auth.client_user(&caller, &HeaderMap::new(), &format!("u{n}")).ok();
            if n % 1_000 == 0 {
                auth.look();
            }
        }
        assert!(auth.limits().per_client_user.len() <= MAX_QUOTAS + SHARED_QUOTAS as usize + 1_000);
        let again = auth
            .client_user(&caller, &HeaderMap::new(), "u1")
            .and_then(|()| auth.client_user(&caller, &HeaderMap::new(), "u1"));
        assert_eq!(again.map_err(|problem| problem.status.as_u16()), Err(429), "and hold on");
    }
}
