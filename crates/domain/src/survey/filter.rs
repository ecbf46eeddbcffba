//! Conditions on properties, as `where` lists them.

use serde::Serialize;
use serde_json::{Number, Value};
use std::cmp::Ordering;

use crate::time::{self, Millis};

/// The comparison of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    Between,
    In,
    NotIn,
    Contains,
    NotContains,
    StartsWith,
    EndsWith,
    Exists,
    NotExists,
    Before,
    After,
    Within,
    /// Equal, apart from case.
    EqCi,
    ContainsCi,
    EndsWithCi,
    /// A time between now and so far in the future.
    InNext,
}

impl Op {
    pub const ALL: [(&'static str, Op); 22] = [
        ("eq", Op::Eq),
        ("neq", Op::Neq),
        ("gt", Op::Gt),
        ("gte", Op::Gte),
        ("lt", Op::Lt),
        ("lte", Op::Lte),
        ("between", Op::Between),
        ("in", Op::In),
        ("not_in", Op::NotIn),
        ("contains", Op::Contains),
        ("not_contains", Op::NotContains),
        ("starts_with", Op::StartsWith),
        ("ends_with", Op::EndsWith),
        ("exists", Op::Exists),
        ("not_exists", Op::NotExists),
        ("before", Op::Before),
        ("after", Op::After),
        ("within", Op::Within),
        ("eq_ci", Op::EqCi),
        ("contains_ci", Op::ContainsCi),
        ("ends_with_ci", Op::EndsWithCi),
        ("in_next", Op::InNext),
    ];

    fn looks_at_time(self) -> bool {
        matches!(self, Op::Before | Op::After | Op::Within | Op::InNext)
    }

    /// Whether the comparison takes no `value`.
    pub fn is_unary(self) -> bool {
        matches!(self, Op::Exists | Op::NotExists)
    }
}

/// `{property: duration_min, op: gte, value: 180}`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Condition {
    /// Name of a member, or a dotted path into nested objects.
    pub property: String,
    pub op: Op,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub value: Value,
}

/// The condition that failed, for `actual` in an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    pub property: String,
    pub actual: Value,
}

/// Checks that a `value` suits its comparison.
///
/// # Errors
/// What the comparison expects.
pub fn check_operand(op: Op, value: &Value) -> Result<(), &'static str> {
    let scalar = |v: &Value| v.is_string() || v.is_number() || v.is_boolean();
    let ordered = |v: &Value| v.is_string() || v.is_number();
    let fits = match op {
        Op::Exists | Op::NotExists => value.is_null(),
        Op::Eq | Op::Neq => scalar(value),
        Op::Contains | Op::NotContains => scalar(value),
        Op::Gt | Op::Gte | Op::Lt | Op::Lte => ordered(value),
        Op::StartsWith | Op::EndsWith | Op::EqCi | Op::ContainsCi | Op::EndsWithCi => value.is_string(),
        Op::InNext => value.as_str().is_some_and(|text| time::parse_duration(text).is_ok_and(|span| span > 0)),
        Op::In | Op::NotIn => value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(scalar)),
        Op::Between => value.as_array().is_some_and(|pair| {
            pair.len() == 2
                && ((pair[0].is_number() && pair[1].is_number()) || (pair[0].is_string() && pair[1].is_string()))
                && compare(&pair[0], &pair[1]) != Some(Ordering::Greater)
        }),
        Op::Before | Op::After | Op::Within => value.as_str().is_some_and(|text| moment(text, 0).is_some()),
    };
    if fits {
        return Ok(());
    }
    Err(match op {
        Op::Exists | Op::NotExists => "takes no value with this operator",
        Op::Eq | Op::Neq | Op::Contains | Op::NotContains => "must be a string, a number or a boolean",
        Op::Gt | Op::Gte | Op::Lt | Op::Lte => "must be a number or a string",
        Op::StartsWith | Op::EndsWith | Op::EqCi | Op::ContainsCi | Op::EndsWithCi => "must be a string",
        Op::InNext => "must be a duration such as 90d: a time from now up to so far ahead",
        Op::In | Op::NotIn => "must be a non-empty list of strings, numbers or booleans",
        Op::Between => "must be a list of two numbers, or of two strings, the smaller first",
        Op::Before | Op::After | Op::Within => {
            "must be a time in RFC 3339 with a zone, a date such as 2026-11-01, or a duration such as 7d"
        }
    })
}

/// A time in RFC 3339, or a duration that is counted back from `now`.
fn moment(text: &str, now: Millis) -> Option<Millis> {
    time::read_time(text).or_else(|| time::parse_duration(text).ok().map(|span| now.saturating_sub(span)))
}

/// The time in a property: a text in a known form, or a number of seconds or milliseconds
/// since 1970.
fn time_of(actual: &Value) -> Option<Millis> {
    match actual {
        Value::String(text) => time::read_time(text),
        Value::Number(number) => time::of_epoch(number.as_f64()?),
        _ => None,
    }
}

/// The first condition that `properties` do not meet.
pub fn first_mismatch(all: &[Condition], properties: &Value, now: Millis) -> Option<Mismatch> {
    all.iter()
        .find(|c| !c.holds(properties, now))
        .map(|c| Mismatch { property: c.property.clone(), actual: c.seen(properties, now) })
}

impl Condition {
    /// Whether the properties meet the condition. Types are not converted; a missing or
    /// `null` property meets only `not_exists`.
    pub fn holds(&self, properties: &Value, now: Millis) -> bool {
        let Some(actual) = lookup(properties, &self.property).filter(|v| !v.is_null()) else {
            return self.op == Op::NotExists;
        };
        let order = |wanted: fn(Ordering) -> bool| compare(actual, &self.value).is_some_and(wanted);
        match self.op {
            Op::Exists => true,
            Op::NotExists => false,
            Op::Eq => same(actual, &self.value),
            Op::Neq => !same(actual, &self.value),
            Op::Gt => order(Ordering::is_gt),
            Op::Gte => order(Ordering::is_ge),
            Op::Lt => order(Ordering::is_lt),
            Op::Lte => order(Ordering::is_le),
            Op::Between => self.value.as_array().is_some_and(|pair| {
                compare(actual, &pair[0]).is_some_and(Ordering::is_ge)
                    && compare(actual, &pair[1]).is_some_and(Ordering::is_le)
            }),
            Op::In => self.lists(actual),
            Op::NotIn => !self.lists(actual),
            Op::Contains => self.contained(actual).unwrap_or(false),
            Op::NotContains => self.contained(actual).is_some_and(|found| !found),
            Op::StartsWith => self.texts(actual).is_some_and(|(text, part)| text.starts_with(part)),
            Op::EndsWith => self.texts(actual).is_some_and(|(text, part)| text.ends_with(part)),
            Op::EqCi => self.folded(actual).is_some_and(|(text, wanted)| text == wanted),
            Op::ContainsCi => self.contained_ci(actual),
            Op::EndsWithCi => self.folded(actual).is_some_and(|(text, part)| text.ends_with(&part)),
            Op::Before => self.times(actual, now).is_some_and(|(at, bound)| at < bound),
            Op::After => self.times(actual, now).is_some_and(|(at, bound)| at > bound),
            Op::Within => self.times(actual, now).is_some_and(|(at, bound)| bound <= at && at <= now),
            Op::InNext => {
                let span = self.value.as_str().and_then(|text| time::parse_duration(text).ok());
                time_of(actual).zip(span).is_some_and(|(at, span)| now <= at && at <= now.saturating_add(span))
            }
        }
    }

    /// The value that the condition looked at, with the time that was read from it where
    /// its spelling does not show it, or where it lies ahead and the condition looks back.
    pub fn seen(&self, properties: &Value, now: Millis) -> Value {
        let actual = lookup(properties, &self.property).cloned().unwrap_or(Value::Null);
        let is_plain = actual.as_str().is_some_and(|text| time::parse_time(text).is_ok());
        let Some(at) = time_of(&actual).filter(|_| self.op.looks_at_time()) else { return actual };
        let is_ahead = self.op == Op::Within && at > now;
        if is_plain && !is_ahead {
            return actual;
        }
        let mut seen = serde_json::json!({"given": actual, "read_as": time::format_time(at)});
        if is_ahead {
            seen["note"] = "it lies ahead: within looks back from now, in_next looks ahead".into();
        }
        seen
    }

    /// When the result changes by time alone; only conditions relative to now do.
    pub fn turns_at(&self, properties: &Value, now: Millis) -> Option<Millis> {
        if !self.op.looks_at_time() {
            return None;
        }
        let at = time_of(lookup(properties, &self.property)?)?;
        let span = time::parse_duration(self.value.as_str()?).unwrap_or(0);
        if self.op == Op::InNext {
            let turns = [at.saturating_sub(span), at.saturating_add(1)];
            let changes = |then: &Millis| *then > now && self.holds(properties, *then) != self.holds(properties, now);
            return turns.into_iter().find(changes);
        }
        let back = at.saturating_add(span);
        let turns = |then: &Millis| *then > now && self.holds(properties, *then) != self.holds(properties, now);
        [at, back, back.saturating_add(1)].into_iter().find(turns)
    }

    fn lists(&self, actual: &Value) -> bool {
        self.value.as_array().is_some_and(|list| list.iter().any(|one| same(actual, one)))
    }

    /// Whether a text or a list contains the value; `None` for other types.
    fn contained(&self, actual: &Value) -> Option<bool> {
        match actual {
            Value::String(text) => Some(text.contains(self.value.as_str()?)),
            Value::Array(list) => Some(list.iter().any(|one| same(one, &self.value))),
            _ => None,
        }
    }

    fn texts<'a>(&'a self, actual: &'a Value) -> Option<(&'a str, &'a str)> {
        Some((actual.as_str()?, self.value.as_str()?))
    }

    /// Both texts in lower case.
    fn folded(&self, actual: &Value) -> Option<(String, String)> {
        let (text, part) = self.texts(actual)?;
        Some((text.to_lowercase(), part.to_lowercase()))
    }

    fn contained_ci(&self, actual: &Value) -> bool {
        match actual {
            Value::Array(list) => list.iter().any(|one| self.folded(one).is_some_and(|(one, wanted)| one == wanted)),
            _ => self.folded(actual).is_some_and(|(text, part)| text.contains(&part)),
        }
    }

    fn times(&self, actual: &Value, now: Millis) -> Option<(Millis, Millis)> {
        Some((time_of(actual)?, moment(self.value.as_str()?, now)?))
    }
}

/// A member by its full name, else by a dotted path.
pub fn lookup<'v>(properties: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = properties.get(path) {
        return Some(found);
    }
    let mut here = properties;
    for part in path.split('.') {
        here = match here {
            Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            other => other.get(part)?,
        };
    }
    Some(here)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Compares integers exactly, up to 128 bits, and other numbers as decimals.
fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_str().parse::<i128>(), b.as_str().parse::<i128>()) {
        (Ok(a), Ok(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-11-08T00:00:00Z";

    #[track_caller]
    fn check(op: &str, value: Value, actual: Value, expected: bool) {
        let op = Op::ALL.iter().find(|(name, _)| *name == op).expect("a known operator").1;
        check_operand(op, &value).expect("a fit operand");
        let properties = if actual == json!("missing") { json!({}) } else { json!({"p": {"q": actual}}) };
        let condition = Condition { property: "p.q".into(), op, value };
        let now = time::parse_time(NOW).unwrap();
        assert_eq!(condition.holds(&properties, now), expected, "{condition:?} on {properties}");
    }

    #[test]
    fn every_operator_at_its_edge() {
        check("eq", json!(1), json!(1.0), true);
        check("eq", json!("1"), json!(1), false);
        check("eq", json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_992_i64), false);
        check("eq_ci", json!("ACME"), json!("acme"), true);
        check("eq_ci", json!("acme"), json!("acme "), false);
        check("contains_ci", json!("CORP"), json!("a@corp.example"), true);
        check("contains_ci", json!("beta"), json!(["Beta", "x"]), true);
        check("contains_ci", json!("bet"), json!(["Beta", "x"]), false);
        check("ends_with_ci", json!("@corp.EXAMPLE"), json!("Ann@Corp.example"), true);
        check("ends_with_ci", json!("@corp.example"), json!(7), false);
        check("ends_with_ci", json!("@corp.example"), json!("missing"), false);
        check("in_next", json!("90d"), json!("2026-11-08T00:00:00Z"), true);
        check("in_next", json!("1d"), json!("2026-11-09T00:00:00Z"), true);
        check("in_next", json!("1d"), json!("2026-11-09T00:00:00.001Z"), false);
        check("in_next", json!("1d"), json!("2026-11-07T23:59:59Z"), false);
        check("neq", json!("a"), json!("b"), true);
        check("neq", json!("a"), json!("missing"), false);
        check("gt", json!(180), json!(180), false);
        check("gt", json!(180), json!(180.5), true);
        check("gte", json!(180), json!(180), true);
        check("gte", json!(180), json!("181"), false);
        check("lt", json!("b"), json!("a"), true);
        check("lte", json!(1), json!(2), false);
        check("between", json!([1, 3]), json!(3), true);
        check("between", json!([1, 3]), json!(3.1), false);
        check("in", json!(["pro", 2]), json!(2.0), true);
        check("in", json!(["pro"]), json!("trial"), false);
        check("not_in", json!(["pro"]), json!("trial"), true);
        check("not_in", json!(["pro"]), json!("missing"), false);
        check("contains", json!("mom"), json!("a moment"), true);
        check("contains", json!(2), json!([1, 2]), true);
        check("contains", json!("x"), json!(7), false);
        check("not_contains", json!("x"), json!("abc"), true);
        check("not_contains", json!("x"), json!(7), false);
        check("starts_with", json!("a"), json!("abc"), true);
        check("ends_with", json!("c"), json!("abc"), true);
        check("eq_ci", json!("Pro"), json!("pRO"), true);
        check("eq_ci", json!("Pro"), json!("prod"), false);
        check("contains_ci", json!("MOM"), json!("a moment"), true);
        check("contains_ci", json!("PRO"), json!(["x", "pro"]), true);
        check("contains_ci", json!("PRO"), json!(["x", "prod"]), false);
        check("ends_with_ci", json!("@Corp.example"), json!("ann@corp.EXAMPLE"), true);
        check("ends_with_ci", json!("x"), json!(7), false);
        check("exists", Value::Null, json!(0), true);
        check("exists", Value::Null, Value::Null, false);
        check("not_exists", Value::Null, json!("missing"), true);
        check("not_exists", Value::Null, json!(0), false);
        check("before", json!("7d"), json!("2026-10-31T23:59:59Z"), true);
        check("before", json!("7d"), json!("2026-11-01T00:00:00Z"), false);
        check("after", json!("2026-11-01T00:00:00Z"), json!("2026-11-01T01:00:00+00:00"), true);
        check("within", json!("7d"), json!("2026-11-01T00:00:00Z"), true);
        check("within", json!("7d"), json!(NOW), true);
        check("within", json!("7d"), json!("2026-10-31T23:59:59Z"), false);
        check("within", json!("7d"), json!("2026-11-08T00:00:01Z"), false);
    }

    #[test]
    fn times_in_the_spellings_of_exports() {
        for actual in [
            json!("2026-11-07"),
            json!(1_794_009_600),
            json!(1_794_009_600.5),
            json!(1_794_009_600_000_i64),
            json!("1794009600"),
            json!("1794009600000"),
            json!("2026-11-07T10:00:00"),
            json!("2026-11-07 10:00:00.123"),
        ] {
            check("within", json!("7d"), actual.clone(), true);
            check("before", json!("2026-11-01"), actual, false);
        }
        for actual in [
            json!("2026-10-31"),
            json!(1_700_000_000),
            json!("07.11.2026"),
            json!("11/07/2026"),
            json!("20261107"),
            json!(7),
            json!(true),
            json!("soon"),
            json!("2026-13-01"),
            json!(1e300),
        ] {
            check("within", json!("7d"), actual, false);
        }
        let condition = Condition { property: "seen".into(), op: Op::Within, value: json!("7d") };
        for (actual, seen) in [
            (json!("2026-10-31"), json!({"given": "2026-10-31", "read_as": "2026-10-31T00:00:00.000Z"})),
            (json!(1_700_000_000), json!({"given": 1_700_000_000, "read_as": "2023-11-14T22:13:20.000Z"})),
            (json!("2026-10-31T00:00:00Z"), json!("2026-10-31T00:00:00Z")),
            (json!("soon"), json!("soon")),
        ] {
            assert_eq!(condition.seen(&json!({"seen": actual}), i64::MAX), seen);
        }
        assert_eq!(
            condition.turns_at(&json!({"seen": "2026-11-07"}), time::parse_time(NOW).unwrap()),
            Some(time::parse_time("2026-11-14T00:00:00.001Z").unwrap())
        );
    }

    #[test]
    fn a_whole_name_wins_over_a_path() {
        let properties = json!({"a.b": 1, "a": {"b": 2, "c": [5]}});
        assert_eq!(lookup(&properties, "a.b"), Some(&json!(1)));
        assert_eq!(lookup(&properties, "a.c.0"), Some(&json!(5)));
        assert_eq!(lookup(&properties, "a.x"), None);
    }

    #[test]
    fn unfit_operands_are_named() {
        assert!(check_operand(Op::Between, &json!([3, 1])).is_err());
        assert!(check_operand(Op::In, &json!([])).is_err());
        assert!(check_operand(Op::Within, &json!("soon")).is_err());
        assert!(check_operand(Op::Exists, &json!(true)).is_err());
    }
}
