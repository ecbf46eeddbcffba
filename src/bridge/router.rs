//! Finds the route of a method and a path. Parts of the path are percent-decoded once; a
//! user id may contain an unescaped `/` where the route ends in a fixed word.

use http::Method;
use percent_encoding::percent_decode_str;
use std::ops::Range;
use std::sync::LazyLock;

use super::auth::Kind;
use super::routes::{Name, TABLE};
use askwhen_domain::id;

/// The route of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub name: Name,
    pub kind: Kind,
    /// The decoded parts of the path, in the template's order.
    pub parts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoute {
    NotFound,
    /// The path exists with other methods, for `Allow`.
    Method(Name, &'static str),
    /// An id in the path that is not valid.
    BadId(Name),
}

/// Finds the route.
///
/// # Errors
/// Why there is none.
pub fn find(method: &Method, path: &str) -> Result<Route, NoRoute> {
    let given: Vec<&str> = path.strip_prefix('/').ok_or(NoRoute::NotFound)?.split('/').collect();
    for (row, template) in TABLE.iter().zip(&*TEMPLATES) {
        let Some(raw) = template.matches(&given) else { continue };
        // A route with GET also has HEAD, which load balancers and caches use.
        let name = if method == Method::HEAD { "GET" } else { method.as_str() };
        let known = row.methods.iter().find(|(known, ..)| *known == name);
        let preflight = method == Method::OPTIONS && row.name.is_client();
        let kind = match known {
            Some((_, kind, _)) => *kind,
            None if preflight => Kind::None,
            None => return Err(NoRoute::Method(row.name, row.allow)),
        };
        if row.name == Name::ConsolePage {
            // The part that names a page is not an id.
            return Ok(Route { name: row.name, kind, parts: raw });
        }
        let mut parts = Vec::new();
        for part in raw {
            let well_formed = part
                .split('%')
                .skip(1)
                .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
            if !well_formed {
                return Err(NoRoute::BadId(row.name));
            }
            let decoded = percent_decode_str(&part).decode_utf8().map_err(|_| NoRoute::BadId(row.name))?.into_owned();
            // An id that is only too long is refused later, once the caller is known.
            let head: String = decoded.chars().take(id::MAX_BYTES / 4).collect();
            id::check(&head).map_err(|_| NoRoute::BadId(row.name))?;
            if decoded.chars().any(char::is_control) {
                return Err(NoRoute::BadId(row.name));
            }
            parts.push(decoded);
        }
        return Ok(Route { name: row.name, kind, parts });
    }
    Err(NoRoute::NotFound)
}

/// A template of [`TABLE`], taken apart.
struct Template {
    parts: Vec<&'static str>,
    /// The part that may take several of a path.
    spread: Option<usize>,
}

/// In the order of [`TABLE`]: they are compared with the path of each request.
static TEMPLATES: LazyLock<Vec<Template>> =
    LazyLock::new(|| TABLE.iter().map(|row| Template::of(row.template)).collect());

impl Template {
    fn of(template: &'static str) -> Template {
        let parts: Vec<&str> = template[1..].split('/').collect();
        Template { spread: parts.iter().position(|part| part.ends_with("…}")), parts }
    }

    /// How many parts of a path, and from which on, stand for each of its own.
    fn places(&self, extra: usize) -> impl Iterator<Item = (&'static str, Range<usize>)> + '_ {
        let before = move |i: usize| if self.spread.is_some_and(|spread| spread < i) { i + extra } else { i };
        self.parts.iter().enumerate().map(move |(i, part)| (*part, before(i)..before(i + 1)))
    }

    /// The undecoded parts of the path at the names of the template.
    fn matches(&self, given: &[&str]) -> Option<Vec<String>> {
        let extra = given.len().checked_sub(self.parts.len())?;
        if extra > 0 && self.spread.is_none() {
            return None;
        }
        let is_named = |part: &str| part.starts_with('{');
        if self.places(extra).any(|(part, at)| !is_named(part) && given[at.start] != part) {
            return None;
        }
        Some(self.places(extra).filter(|(part, _)| is_named(part)).map(|(_, at)| given[at].join("/")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parts(method: Method, path: &str) -> (Name, Vec<String>) {
        let route = find(&method, path).unwrap_or_else(|miss| panic!("{path}: {miss:?}"));
        (route.name, route.parts)
    }

    #[test]
    fn paths_and_their_parts() {
        assert_eq!(
            parts(Method::POST, "/v1/triggers/successful_payment/users/user%2F1/events"),
            (Name::RewardEvent, vec!["successful_payment".into(), "user/1".into()])
        );
        assert_eq!(parts(Method::POST, "/v1/triggers/t/users/a/b/events").1, ["t", "a/b"]);
        assert_eq!(parts(Method::POST, "/v1/users/a/b/triggers/Main").1, ["a/b", "Main"]);
        assert_eq!(parts(Method::POST, "/v1/users/u%252F/offers/o/answers").1, ["u%2F", "o"]);
        assert_eq!(parts(Method::GET, "/v1/users/u/surveys/s").0, Name::LinkSurvey);
        assert_eq!(parts(Method::OPTIONS, "/v1/users/u/triggers/t").0, Name::UserTrigger);
    }

    #[test]
    fn misses() {
        assert_eq!(find(&Method::GET, "/nothing"), Err(NoRoute::NotFound));
        assert_eq!(find(&Method::GET, "/v1/events/"), Err(NoRoute::NotFound));
        assert_eq!(find(&Method::PUT, "/v1/events"), Err(NoRoute::Method(Name::Events, "POST")));
        assert_eq!(find(&Method::OPTIONS, "/v1/events"), Err(NoRoute::Method(Name::Events, "POST")));
        for path in [
            "/v1/surveys/..",
            "/v1/surveys/%2e%2e",
            "/v1/surveys/%00",
            "/v1/surveys/",
            "/v1/surveys/%ff",
            "/v1/surveys/%zz",
            "/v1/surveys/%2",
        ] {
            assert_eq!(find(&Method::GET, path), Err(NoRoute::BadId(Name::Survey)), "{path}");
        }
    }
}
