//! Parses `limits` of a survey definition, and `caps`, which settings have, too.

use serde_json::Value;

use super::reader::{Code, Reader};
use askwhen_domain::quota::cap::{Cap, CapEvent, MissingValue};
use askwhen_domain::survey::Limits;

/// The highest `max_completed`, and the highest `max` of a cap without `within`.
const MAX_COUNT: i64 = 1_000_000_000;
/// The highest `max` of a cap with `within`: the time of each display or completion is
/// stored.
const MAX_COUNT_WITHIN: i64 = 100_000;
/// The most caps of a survey or of the settings.
const MAX_CAPS: usize = 8;

/// `{max_completed, caps}`
pub fn limits(reader: &mut Reader<'_>) -> Limits {
    let read = reader.object("limits", |inner| {
        let max_completed = inner.integer("max_completed", 1..=MAX_COUNT);
        Limits { max_completed: max_completed.and_then(|count| u64::try_from(count).ok()), caps: caps(inner) }
    });
    read.unwrap_or_default()
}

/// `[{count, max, within, per, missing}]`
pub fn caps(reader: &mut Reader<'_>) -> Vec<Cap> {
    let read = reader.objects("caps", MAX_CAPS, cap);
    let mut all: Vec<Cap> = Vec::new();
    for (i, cap) in read.into_iter().enumerate() {
        let Some(cap) = cap else { continue };
        if all.iter().any(|other| other.counts_as() == cap.counts_as()) {
            let detail = "counts the same as a cap before it: one of them, with the smaller max, is enough";
            reader.fault_at(Code::Invalid, &format!("caps/{i}"), detail);
        }
        all.push(cap);
    }
    all
}

fn cap(inner: &mut Reader<'_>) -> Option<Cap> {
    for member in ["count", "max"] {
        if inner.raw(member).is_none() {
            inner.missing(member);
        }
    }
    let count = inner.choice("count", &CapEvent::ALL);
    let within = inner.positive_duration("within");
    let max = inner.integer("max", 1..=MAX_COUNT);
    if within.is_some() && max.is_some_and(|max| max > MAX_COUNT_WITHIN) {
        let detail = format!("must be at most {MAX_COUNT_WITHIN} with within: the time of each is remembered");
        inner.fault(Code::Invalid, "max", detail);
    }
    let per = per(inner);
    let missing = inner.choice("missing", &MissingValue::ALL);
    if missing.is_some() && inner.raw("per").is_none() {
        inner.fault(Code::Invalid, "missing", "needs per: it says what holds for users without the attribute");
    }
    let max = max.and_then(|max| u64::try_from(max).ok())?;
    Some(Cap { count: count?, max, within, per, missing: missing.unwrap_or_default() })
}

/// `{attribute: company_id}`
fn per(inner: &mut Reader<'_>) -> Option<String> {
    if !matches!(inner.raw("per")?, Value::Object(_)) {
        inner.fault(Code::WrongType, "per", "must be {attribute: NAME}");
        return None;
    }
    inner.object("per", |per| per.required_id("attribute"))?
}
