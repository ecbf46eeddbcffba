//! Who asks: keys, their kinds, identity signatures, quotas.

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
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::rate::Rate;
use askwhen_wire::json;

/// What a key may do: `client`, `server` and `admin` each may do what the one before it
/// may; `viewer` reads what `admin` reads, and changes nothing.
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
    /// The kinds of keys, by their names.
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
    /// Whether it is known by the link that was opened, which names the user.
    pub by_link: bool,
    /// The name of the key: the actor of what is changed with it.
    pub actor: String,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
}

impl Caller {
    /// Whoever answers a survey of a project by a link, in which there is no key. The
    /// answers of one survey share a quota.
    pub fn of_link(project: String, survey_id: &str) -> Caller {
        let digest = digest(&format!("link\0{project}\0{survey_id}"));
        Caller { project, kind: Kind::Client, by_link: true, actor: "link".into(), digest }
    }
}

/// What one key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    pub key_id: String,
    pub project: String,
    pub kind: Kind,
    pub name: String,
    /// How the key begins, where that is known.
    pub prefix: Option<String>,
    /// When it was made, of one that was made at run time.
    pub created_at: Option<Millis>,
}

/// Keys by their digests.
pub type KeyGrants = HashMap<[u8; 32], KeyGrant>;

/// As much as that at once, and then at an even pace.
fn quota(rate: Rate) -> Quota {
    let each = rate.per / rate.count.get();
    Quota::with_period(each.max(Duration::from_nanos(1))).expect("not zero").allow_burst(rate.count)
}

/// Who may do what, as it is configured.
#[derive(Debug, Default)]
pub struct Grants {
    /// The keys of the configuration, or of the data directory.
    pub keys: KeyGrants,
    /// Identity secrets by project.
    pub identity: BTreeMap<String, Vec<String>>,
}

pub struct Auth {
    grants: RwLock<Arc<Grants>>,
    /// The keys that were made at run time, and the generation that they are of.
    runtime: RwLock<(u64, Arc<KeyGrants>)>,
    /// The minute of the last use of each key.
    used: RwLock<HashMap<[u8; 32], AtomicI64>>,
    limits: RwLock<Arc<Limits>>,
    /// More users are remembered than there is room for: the next ones share.
    crowded: AtomicBool,
}

/// What is left of each quota.
struct Limits {
    rates: Rates,
    per_key: DefaultKeyedRateLimiter<[u8; 32]>,
    per_client_user: DefaultKeyedRateLimiter<u128>,
}

/// Requests of one key, and of a client key for one user.
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

/// Users of client keys whose quota is remembered each by itself. Anybody may make
/// up users, so beyond that they share what [`SHARED_QUOTAS`] have.
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

    /// From now on these count, and none of before. Quotas begin anew where their rates
    /// are others.
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

    /// Looks a key up by its digest, so that a wrong one takes the same time
    /// however wrong it is.
    ///
    /// # Errors
    /// 401 without a known key, 403 with one of a lesser kind.
    pub fn caller(&self, headers: &HeaderMap, needed: Kind, reads: bool) -> Result<Caller, Problem> {
        // Proxies and clients put credentials of their own beside the key.
        let known = presented(headers).find_map(|key| self.known(key));
        permitted(known.ok_or_else(unauthorized)?, needed, reads)
    }

    /// A client key that stands in the body as `key`: a page that is being closed
    /// can send a body, and no headers.
    ///
    /// # Errors
    /// 401 without a known client key.
    pub fn caller_of_body(&self, body: &[u8]) -> Result<Caller, Problem> {
        let text = json::check(body).map_err(|_| unauthorized())?;
        let members: json::Members<'_> = serde_json::from_str(text).map_err(|_| unauthorized())?;
        let key = members.0.iter().find(|(name, _)| name == KEY_MEMBER);
        let key: Option<String> = key.and_then(|(_, raw)| serde_json::from_str(raw.get()).ok());
        key.and_then(|key| self.known(&key)).filter(|caller| caller.kind == Kind::Client).ok_or_else(unauthorized)
    }

    /// Whom a key names.
    pub fn known(&self, key: &str) -> Option<Caller> {
        self.known_digest(digest(key))
    }

    /// Whom the key with this digest names, as long as it is in force.
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

    /// The keys of the configuration or the data directory, with their digests.
    pub fn file_keys(&self) -> KeyGrants {
        self.grants().keys.clone()
    }

    pub fn runtime_keys(&self) -> Arc<KeyGrants> {
        self.runtime.read().expect("no panic holds this lock").1.clone()
    }

    /// Takes the keys that were made at run time, if they are not of this generation.
    pub fn sync_runtime_keys(&self, generation: u64, keys: impl FnOnce() -> KeyGrants) {
        if self.runtime.read().expect("no panic holds this lock").0 != generation {
            *self.runtime.write().expect("no panic holds this lock") = (generation, Arc::new(keys()));
        }
    }

    /// Notes that a key is in use.
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

    /// The minute in which this process met a key last.
    pub fn last_used(&self, digest: &[u8; 32]) -> Option<Millis> {
        let used = self.used.read().expect("no panic holds this lock");
        used.get(digest).map(|at| at.load(Ordering::Relaxed))
    }

    /// # Errors
    /// 429 when the key's quota is used up.
    pub fn take_quota(&self, caller: &Caller) -> Result<(), Problem> {
        self.limits()
            .per_key
            .check_key(&caller.digest)
            .map_err(|until| limited(until.wait_time_from(DefaultClock::default().now())))
    }

    /// Checks what a client key owes for a user: its signature, and its quota.
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

    /// Checks the signature that a client key owes for a user who has a name.
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

/// # Errors
/// 403 for a key whose kind does not suffice.
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

/// The member that holds a client key where there are no headers.
pub const KEY_MEMBER: &str = "key";
/// A body is read before its key is known only if it says that it is no larger.
const MAX_KEYED_BODY_BYTES: u64 = 256 << 10;

/// Whether a request without a key in its headers may have one in its body.
pub fn may_be_in_body(headers: &HeaderMap) -> bool {
    let length = headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let is_small = length.is_some_and(|length| (1..=MAX_KEYED_BODY_BYTES).contains(&length));
    is_small && !headers.contains_key(http::header::EXPECT) && presented(headers).next().is_none()
}

/// Whether the headers hold any key, known or not.
pub fn has_key(headers: &HeaderMap) -> bool {
    presented(headers).next().is_some()
}

/// Every key that the headers hold, in the order in which they count.
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
