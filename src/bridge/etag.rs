//! Entity tags, and headers with lists.

use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};

/// Suffixes that proxies append to the tag of an answer that they have compressed.
const OF_PROXIES: [&str; 4] = ["--gzip", "-gzip", ";gzip", "-br"];

/// A digest of the bytes: 32 hex digits, without quotes.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(&Sha256::digest(bytes)[..16])
}

/// Whether `If-None-Match` contains this tag, given with its quotes.
pub fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let tag = unquoted(tag);
    listed(headers, header::IF_NONE_MATCH).any(|one| one == "*" || unquoted(one) == tag || bare(one) == tag)
}

/// The inner part of a tag in the forms that caches and proxies pass on: `W/"7"`,
/// `"7-gzip"`, `7`.
pub fn bare(tag: &str) -> &str {
    let unquoted = unquoted(tag);
    OF_PROXIES.iter().find_map(|end| unquoted.strip_suffix(end)).unwrap_or(unquoted)
}

fn unquoted(tag: &str) -> &str {
    tag.trim_start_matches("W/").trim_matches('"')
}

/// The elements of a header that is a list.
pub fn listed(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_the_forms_of_caches_and_proxies() {
        let known = |given: &str, tag: &str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, given.parse().unwrap())]);
            is_known(&headers, tag)
        };
        for given in
            ["\"7\"", "W/\"7\"", "7", "\"7-gzip\"", "W/\"7--gzip\"", "\"1\", \"7\"", "\"7;gzip\"", "\"7-br\"", "*"]
        {
            assert!(known(given, "\"7\""), "{given}");
        }
        for given in ["\"70\"", "\"7-0012abcd\"", "", "\"-gzip\""] {
            assert!(!known(given, "\"7\""), "{given}");
        }
        assert!(known("W/\"7-0012abcd-gzip\"", "\"7-0012abcd\""));
        assert!(known("\"d-gzip\"", "\"d-gzip\"") && !known("\"d\"", "\"d-gzip\""));
    }
}
