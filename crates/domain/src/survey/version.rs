//! Versions of apps as stores and build systems spell them, and the ranges that
//! a survey's `app_version` may name.
//!
//! A version is compared by its numeric parts, any number of them, and then by
//! its pre-release as Semantic Versioning 2.0 orders these. What apps append for
//! themselves (`2.1.0 (345)`, `2.1.0+345`) says nothing.

use serde::{Serialize, Serializer};
use std::cmp::Ordering;

/// The version of an app: `5.12.0.1`, `v2.1`, `2.1.0 (345)`, `2.2.0-beta.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    parts: Vec<u128>,
    /// The pre-release; empty for a release, which is later than its pre-releases.
    pre: Vec<Identifier>,
}

/// Part of a pre-release. Numbers come before words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u128),
    Word(String),
}

impl Identifier {
    fn of(text: &str) -> Identifier {
        match number(text) {
            Some(number) => Identifier::Number(number),
            None => Identifier::Word(text.to_owned()),
        }
    }
}

/// Leading zeros are ignored; what exceeds 128 bits becomes the largest number.
fn number(digits: &str) -> Option<u128> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u128::MAX))
}

impl Version {
    /// Parses a version; `None` when the text does not begin with a number.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        // A build number follows a plus, a bracket or a space.
        let text = text.split(|c: char| c == '+' || c == '(' || c == '[' || c.is_whitespace()).next()?;
        let (mut parts, mut rest) = (Vec::new(), text);
        loop {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            parts.push(number(&rest[..digits])?);
            rest = &rest[digits..];
            match rest.strip_prefix('.') {
                Some(more) if more.starts_with(|c: char| c.is_ascii_digit()) => rest = more,
                _ => break,
            }
        }
        let pre = rest.split(['.', '-', '_', '~']).filter(|word| !word.is_empty()).map(Identifier::of).collect();
        Some(Version { parts, pre })
    }

    /// Missing parts count as zero.
    fn compare_parts(&self, others: &[u128]) -> Ordering {
        let len = self.parts.len().max(others.len());
        let at = |parts: &[u128], i: usize| parts.get(i).copied().unwrap_or(0);
        (0..len).map(|i| at(&self.parts, i).cmp(&at(others, i))).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    }

    fn compare(&self, other: &Version) -> Ordering {
        let parts = self.compare_parts(&other.parts);
        parts.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Exact,
    Greater,
    GreaterEq,
    Less,
    LessEq,
    /// `^`: compatible versions, equal in the first part that is not zero.
    Caret,
    /// `~`: the last part may be higher, from the third part on.
    Tilde,
}

/// One comparator, as its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Comparator {
    from: Option<Bound>,
    to: Option<Bound>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bound {
    version: Version,
    included: bool,
}

impl Comparator {
    fn holds(&self, version: &Version) -> bool {
        let above = self.from.as_ref().is_none_or(|bound| match version.compare(&bound.version) {
            Ordering::Greater => true,
            Ordering::Equal => bound.included,
            Ordering::Less => false,
        });
        above && self.to.as_ref().is_none_or(|bound| bound.holds_below(version))
    }
}

impl Bound {
    fn holds_below(&self, version: &Version) -> bool {
        match version.compare(&self.version) {
            Ordering::Greater => false,
            Ordering::Equal => self.included,
            // An upper bound of 3 does not include the pre-releases of 3.
            Ordering::Less => {
                let its_own = !self.included
                    && self.version.pre.is_empty()
                    && !version.pre.is_empty()
                    && version.compare_parts(&self.version.parts).is_eq();
                !its_own
            }
        }
    }
}

/// Alternatives separated by `||`; in each all comparators have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRange {
    text: String,
    alternatives: Vec<Vec<Comparator>>,
}

impl VersionRange {
    /// # Errors
    /// What a range looks like.
    pub fn parse(text: &str) -> Result<VersionRange, &'static str> {
        let alternatives: Option<_> = text.split("||").map(comparators).collect();
        let alternatives = alternatives.ok_or("must be a version range such as >=2.1.0 <3, ^2.4 or 2.1.*")?;
        Ok(VersionRange { text: text.to_owned(), alternatives })
    }

    /// Whether a version lies in the range; a text that is no version does not.
    pub fn matches(&self, version: &str) -> bool {
        let Some(version) = Version::parse(version) else { return false };
        self.alternatives.iter().any(|all| all.iter().all(|comparator| comparator.holds(&version)))
    }
}

impl Serialize for VersionRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// The comparators of an alternative: `>=2.1 <3` or `>= 2.1, < 3`; an empty one accepts any
/// version.
fn comparators(text: &str) -> Option<Vec<Comparator>> {
    let mut all = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let (operator, behind) = operator(rest);
        let behind = if operator.is_some() { behind.trim_start() } else { behind };
        let len = behind.find([' ', ',', '<', '>', '=', '^', '~']).unwrap_or(behind.len());
        all.push(comparator(operator, &behind[..len])?);
        rest = behind[len..].trim_start_matches([' ', ',']);
    }
    Some(all)
}

fn operator(text: &str) -> (Option<Operator>, &str) {
    const SPELLED: [(&str, Operator); 7] = [
        (">=", Operator::GreaterEq),
        ("<=", Operator::LessEq),
        (">", Operator::Greater),
        ("<", Operator::Less),
        ("=", Operator::Exact),
        ("^", Operator::Caret),
        ("~", Operator::Tilde),
    ];
    let found = SPELLED.iter().find_map(|(spelled, operator)| Some((Some(*operator), text.strip_prefix(spelled)?)));
    found.unwrap_or((None, text))
}

/// A version without an operator means the compatible ones; `2.*` and a version of less
/// than three parts mean all that begin with it.
fn comparator(operator: Option<Operator>, text: &str) -> Option<Comparator> {
    if matches!(text, "*" | "x" | "X") {
        return operator.is_none().then(Comparator::default);
    }
    let bare = text.trim_end_matches(".*").trim_end_matches(".x").trim_end_matches(".X");
    let starred = bare.len() < text.len();
    // `2.1+` is not what Semantic Versioning calls a build, and would not mean what it says.
    let version = Version::parse(bare).filter(|_| !bare.contains(['(', '[']) && !bare.ends_with('+'))?;
    if starred && !version.pre.is_empty() {
        return None;
    }
    let operator = operator.unwrap_or(if starred { Operator::Exact } else { Operator::Caret });
    let parts = version.parts.len();
    let is_prefix = starred || (parts < 3 && version.pre.is_empty());
    let below = |place: usize| Some(Bound { version: raised(&version, place), included: false });
    let itself = |included: bool| Some(Bound { version: version.clone(), included });
    Some(match operator {
        Operator::Exact if is_prefix => Comparator { from: itself(true), to: below(parts - 1) },
        Operator::Exact => Comparator { from: itself(true), to: itself(true) },
        Operator::Greater if is_prefix => {
            Comparator { from: Some(Bound { version: raised(&version, parts - 1), included: true }), to: None }
        }
        Operator::Greater => Comparator { from: itself(false), to: None },
        Operator::GreaterEq => Comparator { from: itself(true), to: None },
        Operator::Less => Comparator { from: None, to: itself(false) },
        Operator::LessEq if is_prefix => Comparator { from: None, to: below(parts - 1) },
        Operator::LessEq => Comparator { from: None, to: itself(true) },
        Operator::Tilde => Comparator { from: itself(true), to: below((parts - 1).min(1)) },
        Operator::Caret => {
            let first = version.parts.iter().position(|part| *part > 0).unwrap_or(parts - 1);
            Comparator { from: itself(true), to: below(first) }
        }
    })
}

/// The first version after all that begin with these parts.
fn raised(version: &Version, place: usize) -> Version {
    let mut parts = version.parts[..=place].to_vec();
    parts[place] = parts[place].saturating_add(1);
    Version { parts, pre: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(range: &str, version: &str, expected: bool) {
        assert_eq!(VersionRange::parse(range).unwrap().matches(version), expected, "{range} on {version}");
    }

    #[test]
    fn ranges_in_the_spellings_people_use() {
        for (range, version, expected) in [
            (">=2.1.0 <3", "2.9", true),
            (">=2.1.0, <3", "3.0.0", false),
            (">= 2.1.0", "2.1", true),
            (">=2.1.0<3", "2.5", true),
            ("^1.2 || ^3", "3.4.5", true),
            ("^1.2 || ^3", "2.0.0", false),
            (">=2", "not a version", false),
            ("*", "1", true),
            ("", "1", true),
            ("2.1.*", "2.1.9.4", true),
            ("2.1.x", "2.2", false),
            ("=2.1", "2.1.7", true),
            ("=2.1.0", "2.1.0.1", false),
            (">2.1", "2.1.7", false),
            ("<=2.1", "2.1.7", true),
            (">v2.1.0", "2.1.0.1", true),
        ] {
            check(range, version, expected);
        }
        for wrong in ["newest", ">=", ">= =2", "1.2-beta.*", "^*", "2.1.0 (345)", "latest || 2", "1.2.3 - 2.0"] {
            assert!(VersionRange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn versions_as_stores_and_builds_spell_them() {
        for version in [
            "5.12.0.1",
            "2.1.0 (345)",
            "2.1.0(345)",
            "2.1.0 [345]",
            "2.1.0+345",
            "v2.1.0",
            "02.01.00",
            "2.0",
            "2",
            "2.2.0-beta.1",
            "2.2.0beta1",
            "2.2.0.rc1",
            "2024.11.05.1",
            "2.0.0 build 7",
            " 2.0.1 ",
            "3.0-SNAPSHOT",
            "99999999999999999999999999999999999999999999.1",
        ] {
            check(">=2.0.0", version, true);
        }
        for version in ["1.99.99.99", "2.0.0-rc.1", "2.0.0-SNAPSHOT", "", "beta", "(2.1)", "-2", "."] {
            check(">=2.0.0", version, false);
        }
        check("<3", "3.0.0-beta.1", false);
        check("<3", "2.9.0-beta.1", true);
        check("<3.0.0-rc", "3.0.0-beta.1", true);
        check("^2.1", "3.0.0-beta.1", false);
        check(">=5.12.0.2", "5.12.0.1", false);
        check(">=5.12.0.2", "5.12.0.10", true);
        check(">=1.0.0-beta.2", "1.0.0-beta.10", true);
        check(">=1.0.0-beta.2", "1.0.0-beta", false);
    }

    proptest::proptest! {
        /// Releases of three parts are compared as Semantic Versioning has it.
        #[test]
        fn agrees_on_semantic_versions(
            operator in "(>=|<=|>|<|=|\\^|~|)",
            wanted in "[0-3](\\.[0-3]){0,2}",
            version in "[0-3]\\.[0-3]\\.[0-3]",
        ) {
            let theirs = semver::VersionReq::parse(&format!("{operator}{wanted}")).unwrap();
            let theirs = theirs.matches(&semver::Version::parse(&version).unwrap());
            let ours = VersionRange::parse(&format!("{operator}{wanted}")).unwrap().matches(&version);
            proptest::prop_assert_eq!(ours, theirs, "{}{} on {}", operator, wanted, version);
        }
    }
}
