//! Parses `kind: settings`, which apply to all surveys of a project.

use super::kind::{Kind, kind};
use super::reader::{Code, Fault, Reader};
use super::{audience, caps, targeting};
use askwhen_domain::limits::{MAX_EXPIRES_AFTER, MAX_OFFER_KNOWN};
use askwhen_domain::settings::Settings;
use askwhen_domain::time::{self, HOUR, Millis};
use serde_json::Value;

/// Missing members have their defaults.
pub fn read(reader: &mut Reader<'_>) -> Settings {
    kind(reader, Kind::Settings);
    let standard = Settings::default();
    Settings {
        global_cooldown: reader.duration("global_cooldown").unwrap_or(standard.global_cooldown),
        max_per_session: reader.integer("max_per_session", 1..=1_000_000).unwrap_or(i64::from(standard.max_per_session))
            as u32,
        offer_ttl: reader.positive_duration("offer_ttl").unwrap_or(standard.offer_ttl),
        allowed_lateness: reader.duration("allowed_lateness").unwrap_or(standard.allowed_lateness),
        erase_keeps_cooldown: reader.boolean("erase_keeps_cooldown").unwrap_or(false),
        targeting: targeting::targeting(reader),
        except: reader.object("schedule", |inner| audience::spans(inner, "except")).unwrap_or_default(),
        caps: caps::caps(reader),
        max_expires_after: bounded(reader, "max_expires_after", MAX_EXPIRES_AFTER)
            .unwrap_or(standard.max_expires_after),
        offer_known: bounded(reader, "offer_known", MAX_OFFER_KNOWN).unwrap_or(standard.offer_known),
        session_lifetime: reader.positive_duration("session_lifetime"),
    }
}

fn bounded(reader: &mut Reader<'_>, member: &str, most: Millis) -> Option<Millis> {
    let span = reader.positive_duration(member)?;
    if span > most {
        reader.fault(Code::Invalid, member, format!("must be at most {}", time::format_duration(most)));
    }
    Some(span)
}

/// What is wrong with a survey's `expires_after` under the settings of its project, whatever
/// else is wrong with the survey.
pub fn expiry_fault(survey: &Value, settings: &Settings) -> Option<Fault> {
    let most = settings.max_expires_after;
    let span = time::parse_duration(survey["expires_after"].as_str()?).ok()?;
    (span > most).then(|| {
        // 100h, as people write it, and not 4d4h.
        let hours = Some(most / HOUR).filter(|hours| *hours <= 100 && most % HOUR == 0);
        let most = hours.map_or_else(|| time::format_duration(most), |hours| format!("{hours}h"));
        let detail = format!("expires_after must be at most {most}, the max_expires_after of the settings");
        Fault { code: Code::Invalid, pointer: "/expires_after".into(), detail }
    })
}
