//! Parses `frequency` of a survey definition.

use serde_json::Value;

use super::reader::{Code, Reader};
use askwhen_domain::survey::cycle::Per;
use askwhen_domain::survey::schedule::Calendar;
use askwhen_domain::survey::{AfterDismissal, Frequency, GlobalCooldown, Repeat, SessionCap};
use askwhen_domain::time::{self, Millis};
use askwhen_domain::user::MAX_TIMES;

const REPEATS: [(&str, Repeat); 4] = [
    ("once", Repeat::Once),
    ("until_responded", Repeat::UntilResponded),
    ("until_completed", Repeat::UntilCompleted),
    ("every_activation", Repeat::EveryActivation),
];
const MAX_WAVE: i64 = 1_000_000;

/// Without it: one display per user.
pub fn frequency(reader: &mut Reader<'_>) -> Frequency {
    let standard = Frequency {
        repeat: Repeat::Once,
        max_displays: None,
        per: None,
        cooldown: 0,
        after_dismissal: None,
        global_cooldown: GlobalCooldown::Respect,
        session_cap: SessionCap::Respect,
        snooze: None,
    };
    let read = reader.object("frequency", |inner| {
        let frequency = Frequency {
            repeat: inner.choice("repeat", &REPEATS).unwrap_or(standard.repeat),
            max_displays: inner.integer("max_displays", 1..=1_000_000).map(|n| n as u32),
            per: per(inner),
            cooldown: inner.duration("cooldown").unwrap_or(0),
            after_dismissal: after_dismissal(inner),
            global_cooldown: global_cooldown(inner).unwrap_or(standard.global_cooldown),
            session_cap: inner.choice("session_cap", &SessionCap::ALL).unwrap_or_default(),
            snooze: inner.positive_duration("snooze"),
        };
        let counts_times = matches!(frequency.per, Some(Per::Span(_) | Per::Calendar(_)));
        if counts_times && frequency.max_displays.is_some_and(|most| most as usize >= MAX_TIMES) {
            let detail =
                format!("must be less than {MAX_TIMES} with per: so many displays are remembered by their times");
            inner.fault(Code::Invalid, "max_displays", detail);
        }
        frequency
    });
    read.unwrap_or(standard)
}

/// A duration, a calendar unit, or `{wave: 2}`.
fn per(reader: &mut Reader<'_>) -> Option<Per> {
    match reader.raw("per")? {
        Value::Object(_) => {
            let wave = reader.object("per", |inner| {
                if inner.raw("wave").is_none() {
                    inner.missing("wave");
                }
                inner.integer("wave", 1..=MAX_WAVE)
            });
            wave.flatten().map(|wave| Per::Wave(wave as u32))
        }
        Value::String(text) => match Calendar::ALL.iter().find(|(name, _)| name == text) {
            Some((_, calendar)) => Some(Per::Calendar(*calendar)),
            None => {
                let names: Vec<&str> = Calendar::ALL.iter().map(|(name, _)| *name).collect();
                span_or(reader, "per", &names).map(Per::Span)
            }
        },
        _ => {
            let detail = "must be a duration such as 90d, a stretch such as month, or {wave: 2}";
            reader.fault(Code::WrongType, "per", detail);
            None
        }
    }
}

/// A duration; `words` are the alternatives that the error names.
fn span_or(reader: &mut Reader<'_>, member: &str, words: &[&str]) -> Option<Millis> {
    let text = reader.text(member, 64)?;
    match time::parse_duration(&text) {
        Ok(span) if span > 0 => Some(span),
        Ok(_) => {
            reader.fault(Code::Invalid, member, "must be longer than 0s");
            None
        }
        Err(wanted) => {
            let words = words.join(", ");
            reader.fault(Code::Invalid, member, format!("must be {wanted}, or one of {words}"));
            None
        }
    }
}

fn after_dismissal(reader: &mut Reader<'_>) -> Option<AfterDismissal> {
    if reader.raw("after_dismissal")?.as_str() == Some("never") {
        return Some(AfterDismissal::Never);
    }
    span_or(reader, "after_dismissal", &["never"]).map(AfterDismissal::Wait)
}

fn global_cooldown(reader: &mut Reader<'_>) -> Option<GlobalCooldown> {
    let given = reader.raw("global_cooldown")?.as_str();
    if let Some((_, named)) = GlobalCooldown::ALL.iter().find(|(name, _)| given == Some(name)) {
        return Some(*named);
    }
    let names = GlobalCooldown::ALL.map(|(name, _)| name);
    span_or(reader, "global_cooldown", &names).map(GlobalCooldown::Own)
}
