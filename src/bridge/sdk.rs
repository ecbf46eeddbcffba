//! `/sdk/…`: the widget, as built and committed in `web/dist`. Public: a page of any origin
//! may load it, and caches may keep it.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, header};
use std::io::Write as _;
use std::sync::LazyLock;

use super::etag;
use super::problem::{Answer, Problem, json_answer};

/// Long enough for a visit, short enough that pages get a new version within minutes; then
/// the entity tag saves the transfer.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// A file that is compiled in, plain and compressed.
pub(super) struct File {
    pub name: &'static str,
    plain: Bytes,
    gzip: Bytes,
    digest: String,
}

static FILES: LazyLock<[File; 6]> = LazyLock::new(|| {
    [
        file("askwhen.js", &include_bytes!("../../web/dist/askwhen.js")[..]),
        file("askwhen.mjs", &include_bytes!("../../web/dist/askwhen.mjs")[..]),
        file("survey.mjs", &include_bytes!("../../web/dist/survey.mjs")[..]),
        file("page.js", &include_bytes!("../../web/dist/page.js")[..]),
        file("page.css", &include_bytes!("../../web/dist/page.css")[..]),
        file("embed.js", &include_bytes!("../../web/dist/embed.js")[..]),
    ]
});

impl File {
    fn content_type(&self) -> &'static str {
        if self.name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" }
    }
}

pub(super) fn file(name: &'static str, plain: impl Into<Bytes>) -> File {
    let plain: Bytes = plain.into();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let gzip = gzip.write_all(&plain).and_then(|()| gzip.finish()).expect("memory takes what is written");
    File { name, digest: etag::digest(&plain), plain, gzip: gzip.into() }
}

/// A file, or 304 for a client that has it.
///
/// # Errors
/// 404 for a name that is not one of the widget's files.
pub fn answer(name: &str, headers: &HeaderMap) -> Result<Answer, Problem> {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        let names: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        return Err(Problem::not_found(&format!("there is no such file; /sdk has {}", names.join(", "))));
    };
    let mut answer = file.answer(headers, file.content_type());
    let out = answer.headers_mut();
    out.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    out.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    Ok(answer)
}

impl File {
    /// The file's bytes, compressed if the client accepts that, or 304 if it has them.
    pub fn answer(&self, headers: &HeaderMap, content_type: &'static str) -> Answer {
        let zipped = etag::listed(headers, header::ACCEPT_ENCODING).any(|one| {
            let (coding, weight) = one.split_once(";q=").unwrap_or((one, "1"));
            coding.trim().eq_ignore_ascii_case("gzip") && weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0)
        });
        // The two representations have different tags.
        let tag = format!("\"{}{}\"", self.digest, if zipped { "-gzip" } else { "" });
        let known = etag::is_known(headers, &tag);
        let body = match (known, zipped) {
            (true, _) => Bytes::new(),
            (false, true) => self.gzip.clone(),
            (false, false) => self.plain.clone(),
        };
        let mut answer = json_answer(if known { 304 } else { 200 }, body);
        let out = answer.headers_mut();
        out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        out.insert(header::ETAG, HeaderValue::try_from(tag).expect("hex digits in quotes"));
        out.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        out.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if zipped && !known {
            out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, headers: &[(&'static str, &str)]) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).expect("plain")));
        answer(name, &headers.collect()).expect("it is there")
    }

    fn of<'a>(answer: &'a Answer, name: &str) -> &'a str {
        answer.headers().get(name).map_or("", |value| value.to_str().expect("plain"))
    }

    #[test]
    fn any_page_may_load_it_and_whoever_has_it_gets_no_body() {
        for name in ["askwhen.js", "askwhen.mjs", "survey.mjs"] {
            for encoding in ["", "gzip", "br, GZIP;q=0.5"] {
                let first = asked(name, &[("accept-encoding", encoding)]);
                assert_eq!(first.status(), 200);
                assert_eq!(of(&first, "content-encoding"), if encoding.is_empty() { "" } else { "gzip" });
                assert_eq!(of(&first, "access-control-allow-origin"), "*");
                assert_eq!(of(&first, "content-type"), "text/javascript; charset=utf-8");
                let tag = of(&first, "etag").to_owned();
                let again = asked(name, &[("accept-encoding", encoding), ("if-none-match", &tag)]);
                assert_eq!((again.status().as_u16(), of(&again, "etag")), (304, &*tag));
            }
            assert_eq!(of(&asked(name, &[("accept-encoding", "gzip;q=0")]), "content-encoding"), "");
        }
        assert_eq!(answer("../Cargo.toml", &HeaderMap::new()).expect_err("no file").status, 404);
    }
}
