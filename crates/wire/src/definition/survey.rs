//! Parses a survey definition.

use super::condition::{MAX_CONDITIONS, conditions};
use super::kind::{Kind, id, kind, shown_only};
use super::reader::{Code, Reader};
use super::{activation, audience, caps, ending, frequency, question, targeting, translation, ui};
use askwhen_domain::json::Json;
use askwhen_domain::limits::MAX_EXPIRES_AFTER;
use askwhen_domain::survey::targeting::EVERY_SURVEY;
use askwhen_domain::survey::{OnRepeat, SettingsTargeting, ShowOn, Status, Survey, VersionRange};
use askwhen_domain::time::{self, DAY};

/// The most tags of a survey.
const MAX_TAGS: usize = 32;

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
    let mut activate = activation::activate(reader);
    let cancel_on = activation::cancel_on(reader, activate.is_some());
    let expires_after = expires_after(reader, activate.is_some());
    let delay = reader.duration("delay").unwrap_or(0);
    if expires_after.is_some_and(|expires_after| delay >= expires_after) {
        reader.fault(Code::Invalid, "delay", "must be shorter than expires_after");
    } else if delay > 0 && activate.is_none() && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "delay", "needs activate: it counts from the activation");
    }
    let show_on = reader
        .objects("show_on", MAX_CONDITIONS, |inner| ShowOn { trigger: trigger(inner), conditions: conditions(inner) });
    if show_on.is_empty() && !link && reader.raw("show_on").is_none_or(|v| v.as_array().is_some_and(Vec::is_empty)) {
        reader.fault(Code::MissingField, "show_on", "is required: name at least one trigger, or set link: true");
    }
    let schedule = audience::schedule(reader);
    let zone = schedule.as_ref().map(|schedule| schedule.timezone.of_days(None)).unwrap_or_default();
    if let Some(arming) = &mut activate {
        arming.activation.on_clocks(&zone);
    }
    let spread = audience::spread(reader, schedule.as_ref());
    let targeting_rule = targeting::targeting(reader);
    let sampling = audience::sampling(reader, &survey_id);
    let endings = ending::endings(reader);
    let questions = question::questions(reader, &endings);
    ending::check_ids(reader, &endings, &questions);
    Survey {
        survey_id,
        name,
        status,
        test_users: reader.ids("test_users", 1_000),
        priority: reader.integer("priority", -1_000_000..=1_000_000).unwrap_or(0),
        tags: tags(reader),
        link,
        link_anonymous,
        anonymous: reader.boolean("anonymous").unwrap_or(false),
        retention: retention(reader),
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
        settings_targeting: reader.choice("settings_targeting", &SettingsTargeting::ALL).unwrap_or_default(),
        frequency: frequency::frequency(reader),
        limits: caps::limits(reader),
        sampling,
        holdout: audience::holdout(reader),
        spread,
        experiment: audience::experiment(reader),
        expose: reader.ids("expose", 256),
        ui: ui::ui(reader).unwrap_or_else(Json::empty_object),
        locale: translation::own_locale(reader),
        translations: translation::translations(reader, &questions, &endings),
        questions,
        endings,
    }
}

fn trigger(inner: &mut Reader<'_>) -> String {
    let trigger = inner.required_id("trigger").unwrap_or_default();
    if trigger == EVERY_SURVEY {
        inner.fault(Code::Invalid, "trigger", "must be the name of one trigger: there is no sign for all of them");
    }
    trigger
}

/// Sorted and without repetitions.
fn tags(reader: &mut Reader<'_>) -> Vec<String> {
    let mut tags = reader.ids("tags", MAX_TAGS);
    if tags.iter().any(|tag| tag == EVERY_SURVEY) {
        reader.fault(Code::Invalid, "tags", "must not hold \"*\", which every survey has");
    }
    tags.sort();
    tags.dedup();
    tags
}

fn expires_after(reader: &mut Reader<'_>, activated: bool) -> Option<time::Millis> {
    if reader.raw("expires_after").is_none() {
        if activated {
            reader.fault(Code::MissingField, "expires_after", "is required with activate: more than 0s");
        }
        return None;
    }
    let span = reader.positive_duration("expires_after")?;
    if span > MAX_EXPIRES_AFTER {
        reader.fault(Code::Invalid, "expires_after", "must be at most 30d");
    } else if !activated && reader.raw("activate").is_none() {
        reader.fault(Code::Invalid, "expires_after", "needs activate: without it each trigger is its own window");
        return None;
    }
    Some(span)
}

/// At least the default time in which an offer can be answered.
fn retention(reader: &mut Reader<'_>) -> Option<time::Millis> {
    let span = reader.duration("retention")?;
    if span < DAY {
        reader.fault(Code::Invalid, "retention", "must be at least 1d");
        return None;
    }
    Some(span)
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
