//! The survey file (contract §4).

use super::condition::{MAX_CONDITIONS, conditions};
use super::kind::{Kind, id, kind, shown_only};
use super::reader::{Code, Reader};
use super::{activation, question, targeting, translation, ui};
use askwhen_domain::json::Json;
use askwhen_domain::limits::MAX_EXPIRES_AFTER;
use askwhen_domain::survey::{Frequency, GlobalCooldown, OnRepeat, Repeat, ShowOn, Status, Survey, VersionRange};
use askwhen_domain::time;

const MAX_COMPLETED: i64 = 1_000_000_000;

pub fn read(reader: &mut Reader<'_>, wanted_id: Option<&str>) -> Survey {
    kind(reader, Kind::Survey);
    let survey_id = id(reader, Kind::Survey, wanted_id);
    shown_only(reader, &["version"]);
    let name = reader.required_text("name", 1_024).unwrap_or_default();
    let status = reader.choice("status", &Status::ALL).unwrap_or(Status::Draft);
    let link = reader.boolean("link").unwrap_or(false);
    let link_anonymous = reader.boolean("link_anonymous").unwrap_or(false);
    if link_anonymous && !link {
        reader.fault(Code::Invalid, "link_anonymous", "needs link: true");
    }
    let activate = activation::activate(reader);
    let cancel_on = activation::cancel_on(reader, activate.is_some());
    let expires_after = expires_after(reader, activate.is_some());
    let delay = reader.duration("delay").unwrap_or(0);
    if expires_after.is_some_and(|expires_after| delay >= expires_after) {
        reader.fault(Code::Invalid, "delay", "must be shorter than expires_after");
    } else if delay > 0 && activate.is_none() && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "delay", "needs activate: it counts from the activation");
    }
    let show_on = reader.objects("show_on", MAX_CONDITIONS, |inner| ShowOn {
        trigger: inner.required_id("trigger").unwrap_or_default(),
        conditions: conditions(inner),
    });
    if show_on.is_empty() && !link && reader.raw("show_on").is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, "show_on", "is required: name at least one trigger, or set link: true");
    }
    let schedule = targeting::schedule(reader);
    let targeting_rule = targeting::targeting(reader);
    let sampling = targeting::sampling(reader, &survey_id);
    let questions = question::questions(reader);
    Survey {
        survey_id,
        name,
        status,
        test_users: reader.ids("test_users", 1_000),
        priority: reader.integer("priority", -1_000_000..=1_000_000).unwrap_or(0),
        link,
        link_anonymous,
        platforms: reader.ids("platforms", 100),
        locales: reader.ids("locales", 100),
        app_version: app_version(reader),
        activate,
        expires_after,
        delay,
        on_repeat: reader
            .choice("on_repeat", &[("refresh", OnRepeat::Refresh), ("keep_first", OnRepeat::KeepFirst)])
            .unwrap_or(OnRepeat::Refresh),
        cancel_on,
        show_on,
        schedule,
        targeting: targeting_rule,
        frequency: frequency(reader),
        max_completed: max_completed(reader),
        sampling,
        holdout: targeting::holdout(reader),
        expose: reader.ids("expose", 256),
        ui: ui::ui(reader).unwrap_or_else(Json::empty_object),
        locale: translation::own_locale(reader),
        translations: translation::translations(reader, &questions),
        questions,
    }
}

fn expires_after(reader: &mut Reader<'_>, activated: bool) -> Option<time::Millis> {
    if reader.raw("expires_after").is_none() {
        if activated {
            reader.fault(Code::MissingField, "expires_after", "is required with activate: more than 0s, at most 100h");
        }
        return None;
    }
    let span = reader.positive_duration("expires_after")?;
    if span > MAX_EXPIRES_AFTER {
        reader.fault(Code::Invalid, "expires_after", "must be at most 100h");
    } else if !activated && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "expires_after", "needs activate: without it each trigger is its own window");
        return None;
    }
    Some(span)
}

fn max_completed(reader: &mut Reader<'_>) -> Option<u64> {
    let count = reader.object("limits", |inner| inner.integer("max_completed", 1..=MAX_COMPLETED)).flatten();
    count.and_then(|count| u64::try_from(count).ok())
}

fn app_version(reader: &mut Reader<'_>) -> Option<VersionRange> {
    let text = reader.text("app_version", 256)?;
    match VersionRange::parse(&text) {
        Ok(range) => Some(range),
        Err(why) => {
            reader.fault(Code::Invalid, "app_version", why);
            None
        }
    }
}

fn frequency(reader: &mut Reader<'_>) -> Frequency {
    let standard =
        Frequency { repeat: Repeat::Once, max_displays: None, cooldown: 0, global_cooldown: GlobalCooldown::Respect };
    let read = reader.object("frequency", |inner| Frequency {
        repeat: inner
            .choice(
                "repeat",
                &[
                    ("once", Repeat::Once),
                    ("until_responded", Repeat::UntilResponded),
                    ("until_completed", Repeat::UntilCompleted),
                    ("every_activation", Repeat::EveryActivation),
                ],
            )
            .unwrap_or(standard.repeat),
        max_displays: inner.integer("max_displays", 1..=1_000_000).map(|n| n as u32),
        cooldown: inner.duration("cooldown").unwrap_or(0),
        global_cooldown: inner
            .choice("global_cooldown", &[("respect", GlobalCooldown::Respect), ("ignore", GlobalCooldown::Ignore)])
            .unwrap_or(standard.global_cooldown),
    });
    read.unwrap_or(standard)
}
