//! `/console/…`: the files of the console, as built and committed in `web/console/dist`.
//! They contain no data; the console reads the API.

use http::{HeaderMap, HeaderValue, header};
use std::sync::LazyLock;

use super::problem::{Answer, Problem, json_answer};
use super::sdk::{File, file};

/// Nothing is loaded from other origins, nobody frames the console, and no text becomes
/// markup.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
     require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors 'none'; base-uri 'none'; \
     form-action 'self'",
);
/// Revalidated by entity tag, so that a new version shows at once.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("no-cache");

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// The placeholder in the page for the path under which the server is.
const BASE_MARK: &str = "{{base}}";

/// The page for all addresses.
const PAGE: &str = include_str!("../../web/console/dist/index.html");

/// The other files of the console, with their types.
static FILES: LazyLock<[(File, &str); 3]> = LazyLock::new(|| {
    [
        (file("console.js", &include_bytes!("../../web/console/dist/console.js")[..]), SCRIPT),
        (file("console.css", &include_bytes!("../../web/console/dist/console.css")[..]), STYLE),
        (file("survey.mjs", &include_bytes!("../../web/console/dist/survey.mjs")[..]), SCRIPT),
    ]
});

/// A file of the console, or its page for every other path below it: the page's script
/// reads the address.
///
/// # Errors
/// 404 for a file that does not exist.
pub fn answer(path: &str, headers: &HeaderMap, base: &str) -> Result<Answer, Problem> {
    let named = FILES.iter().find(|(file, _)| file.name == path);
    let looks_like_a_file = path.rsplit('/').next().is_some_and(|last| last.contains('.')) && !path.contains('/');
    let mut answer = match named {
        Some((file, content_type)) => file.answer(headers, content_type),
        None if looks_like_a_file && path != "index.html" => {
            return Err(Problem::not_found("the console has no such file"));
        }
        None => file("index.html", PAGE.replace(BASE_MARK, base)).answer(headers, HTML),
    };
    let out = answer.headers_mut();
    out.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    out.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    out.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    out.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    out.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    Ok(answer)
}

/// A redirect to the console.
pub fn redirect(base: &str) -> Answer {
    let mut answer = json_answer(303, "");
    let out = answer.headers_mut();
    out.remove(header::CONTENT_TYPE);
    out.insert(header::LOCATION, HeaderValue::from_str(&format!("{base}/console/")).expect("a path is plain text"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_the_page_and_every_file_has_its_type() {
        for (path, status, content_type) in [
            ("", 200, HTML),
            ("surveys/nps", 200, HTML),
            ("users/a.b%40example.com", 200, HTML),
            ("index.html", 200, HTML),
            ("console.js", 200, SCRIPT),
            ("console.css", 200, STYLE),
            ("survey.mjs", 200, SCRIPT),
            ("other.js", 404, ""),
            ("../Cargo.toml", 200, HTML),
        ] {
            let answer = answer(path, &HeaderMap::new(), "");
            let said = match &answer {
                Ok(answer) => (answer.status().as_u16(), answer.headers()[header::CONTENT_TYPE].to_str().unwrap_or("")),
                Err(problem) => (problem.status.as_u16(), ""),
            };
            assert_eq!(said, (status, content_type), "{path}");
            let policy = answer.ok().and_then(|answer| answer.headers().get(header::CONTENT_SECURITY_POLICY).cloned());
            assert_eq!(policy, (status == 200).then_some(POLICY), "{path}");
        }
    }
}
