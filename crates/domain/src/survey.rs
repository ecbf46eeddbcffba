//! A validated definition of a survey. `wire::definition` reads it from JSON or YAML; the
//! types here serialise to the canonical form, which it reads back.

pub mod activation;
pub mod cycle;
pub mod filter;
pub mod localized;
pub mod path;
pub mod placeholder;
pub mod question;
pub mod schedule;
pub mod share;
pub mod targeting;
pub mod translation;
pub mod version;

use crate::json::LazyJson;
use serde::{Serialize, Serializer};
use std::collections::BTreeSet;

use crate::json::Json;
use crate::quota::cap::Cap;
use crate::survey::activation::{Arming, CANCELS, Pattern};
use crate::survey::cycle::Per;
use crate::survey::filter::Condition;
use crate::survey::placeholder::{Piece, ValueSource, pieces};
pub use crate::survey::question::{
    AnswerCondition, Choice, Ending, NextRule, OtherChoice, Question, QuestionType, ScaleLabels,
};
use crate::survey::schedule::{Schedule, Zone};
use crate::survey::share::{Purpose, Share, Unit, place};
use crate::survey::targeting::Rule;
use crate::survey::translation::{Translations, is_within, subtags};
pub use crate::survey::version::VersionRange;
use crate::time::{self, Millis};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Draft,
    Test,
    Shadow,
    Active,
    Paused,
    Archived,
}

impl Status {
    pub const ALL: [(&'static str, Status); 6] = [
        ("draft", Status::Draft),
        ("test", Status::Test),
        ("shadow", Status::Shadow),
        ("active", Status::Active),
        ("paused", Status::Paused),
        ("archived", Status::Archived),
    ];

    /// Whether events arm windows. A paused survey goes on arming, so that it can resume; a
    /// draft does not yet.
    pub fn listens(self) -> bool {
        matches!(self, Status::Test | Status::Shadow | Status::Active | Status::Paused)
    }

    /// Whether the survey is evaluated at triggers.
    pub fn decides(self) -> bool {
        matches!(self, Status::Test | Status::Shadow | Status::Active)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRepeat {
    Refresh,
    KeepFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    Once,
    UntilResponded,
    UntilCompleted,
    EveryActivation,
}

/// How a survey follows `global_cooldown`, the cooldown between surveys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalCooldown {
    Respect,
    /// The survey does not wait for it.
    Ignore,
    /// The survey neither waits for it nor starts it.
    Exempt,
    /// The survey waits for this long in place of the project's setting, in milliseconds.
    Own(Millis),
}

impl GlobalCooldown {
    pub const ALL: [(&'static str, GlobalCooldown); 3] =
        [("respect", GlobalCooldown::Respect), ("ignore", GlobalCooldown::Ignore), ("exempt", GlobalCooldown::Exempt)];

    /// How long the survey waits after the last display of any survey, in milliseconds;
    /// `None` when it does not wait.
    pub fn waits(self, of_project: Millis) -> Option<Millis> {
        match self {
            GlobalCooldown::Respect => Some(of_project),
            GlobalCooldown::Own(span) => Some(span),
            GlobalCooldown::Ignore | GlobalCooldown::Exempt => None,
        }
    }
}

impl Serialize for GlobalCooldown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            GlobalCooldown::Own(span) => serializer.serialize_str(&time::format_duration(*span)),
            named => {
                let found = GlobalCooldown::ALL.iter().find(|(_, one)| one == named);
                serializer.serialize_str(found.map_or("respect", |(name, _)| name))
            }
        }
    }
}

/// How long a dismissal keeps a survey from being offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterDismissal {
    Wait(Millis),
    Never,
}

impl Serialize for AfterDismissal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AfterDismissal::Wait(span) => serializer.serialize_str(&time::format_duration(*span)),
            AfterDismissal::Never => serializer.serialize_str("never"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionCap {
    #[default]
    Respect,
    Ignore,
}

impl SessionCap {
    pub const ALL: [(&'static str, SessionCap); 2] = [("respect", SessionCap::Respect), ("ignore", SessionCap::Ignore)];

    fn is_respected(&self) -> bool {
        *self == SessionCap::Respect
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShowOn {
    pub trigger: String,
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frequency {
    pub repeat: Repeat,
    pub max_displays: Option<u32>,
    /// The cycle in which `repeat` and `max_displays` count; `None` for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
    #[serde(serialize_with = "time::as_duration")]
    pub cooldown: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_dismissal: Option<AfterDismissal>,
    pub global_cooldown: GlobalCooldown,
    #[serde(skip_serializing_if = "SessionCap::is_respected")]
    pub session_cap: SessionCap,
    /// The longest snooze that a dismissal may ask for, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub snooze: Option<Millis>,
}

/// Limits over all users.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Limits {
    /// The most completed responses, over all versions.
    pub max_completed: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<Cap>,
}

/// Whether the targeting in the project's settings applies to a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingsTargeting {
    #[default]
    Respect,
    Ignore,
}

impl SettingsTargeting {
    pub const ALL: [(&'static str, SettingsTargeting); 2] =
        [("respect", SettingsTargeting::Respect), ("ignore", SettingsTargeting::Ignore)];

    fn is_respected(&self) -> bool {
        *self == SettingsTargeting::Respect
    }
}

/// The share of users who are never asked, so that the effect of asking can be measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Holdout {
    /// 0 to 100.
    pub percent: f64,
    /// Surveys with the same group hold out the same users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Unit::is_user")]
    pub by: Unit,
}

impl Holdout {
    pub fn share(&self, survey_id: &str) -> Share {
        let salt = self.group.clone().unwrap_or_else(|| survey_id.to_owned());
        Share { percent: self.percent, from: 0.0, salt, by: self.by.clone() }
    }
}

/// Puts a survey into an arm of an experiment: a user is offered the surveys of one arm
/// only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Experiment {
    /// Name of the experiment, the same in all its surveys.
    pub name: String,
    pub arm: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Survey {
    pub survey_id: String,
    pub name: String,
    pub status: Status,
    pub test_users: Vec<String>,
    pub priority: i64,
    /// Words by which rules name this survey together with others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    pub link: bool,
    /// Whether its page can be answered without a signed link.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub link_anonymous: bool,
    /// Whether reports of its responses contain an id of the response in place of the
    /// user's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// How long answers are kept for rules, in milliseconds from when their response began.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub retention: Option<Millis>,
    pub platforms: Vec<String>,
    pub locales: Vec<String>,
    pub app_version: Option<VersionRange>,
    /// What arms the survey; `None`: each trigger is a window of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate: Option<Arming>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub expires_after: Option<Millis>,
    #[serde(serialize_with = "time::as_duration")]
    pub delay: Millis,
    pub on_repeat: OnRepeat,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cancel_on: Vec<Pattern>,
    pub show_on: Vec<ShowOn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targeting: Option<Rule>,
    #[serde(skip_serializing_if = "SettingsTargeting::is_respected")]
    pub settings_targeting: SettingsTargeting,
    pub frequency: Frequency,
    pub limits: Limits,
    pub sampling: Share,
    pub holdout: Holdout,
    /// Spreads the users' first offers over this many milliseconds after the schedule's
    /// start.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time::as_optional_duration")]
    pub spread: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    pub expose: Vec<String>,
    pub ui: Json,
    /// The language of the definition's own texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(skip_serializing_if = "Translations::is_empty")]
    pub translations: Translations,
    pub questions: Vec<Question>,
    /// Endings, besides the plain `end`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endings: Vec<Ending>,
}

impl Survey {
    /// Hash of the activation, which every edit of it changes. Windows armed under another
    /// one are disarmed.
    pub fn activation_fingerprint(&self) -> u64 {
        match &self.activate {
            None => 0,
            Some(arming) => xxhash_rust::xxh3::xxh3_64(Json::of(arming).as_str().as_bytes()),
        }
    }

    /// Names of the events that arm or cancel it.
    pub fn listens_to(&self) -> BTreeSet<&str> {
        let Some(activation) = &self.activate else { return BTreeSet::new() };
        activation.patterns().into_iter().chain(&self.cancel_on).map(|pattern| pattern.event.as_str()).collect()
    }

    /// The earliest time at which a user may be asked under `spread`.
    pub fn begins_for(&self, project: &str, user_id: &str) -> Option<Millis> {
        let start = self.schedule.as_ref()?.start_at?;
        let place = place(Purpose::Spread, [project, &self.survey_id, user_id]);
        Some(start.saturating_add((place / 100.0 * self.spread? as f64) as Millis))
    }

    /// The events that its targeting rules count.
    pub fn counts_events(&self) -> impl Iterator<Item = &Pattern> {
        self.targeting.iter().flat_map(Rule::events)
    }

    /// The time zone in which its days are counted.
    pub fn zone_of_days(&self, device: Option<&str>) -> Zone {
        self.schedule.as_ref().map_or_else(Zone::default, |schedule| schedule.timezone.of_days(device))
    }

    /// The property whose values have windows of their own.
    pub fn match_by(&self) -> Option<&str> {
        self.activate.as_ref()?.match_by.as_deref()
    }

    /// A bit for each pattern of the survey that the event fits.
    pub fn pattern_mask(&self, event: &str, properties: &LazyJson<'_>, now: Millis) -> u32 {
        let Some(activation) = &self.activate else { return 0 };
        let fits = |pattern: &Pattern| {
            pattern.event == event
                && pattern.conditions.iter().all(|condition| condition.holds(properties.value(), now))
        };
        let patterns = activation.patterns();
        let arming =
            patterns.iter().enumerate().filter(|(_, pattern)| fits(pattern)).fold(0, |all, (i, _)| all | 1 << i);
        // An event that takes part in the activation does not cancel it.
        if arming == 0 && self.cancel_on.iter().any(fits) { CANCELS } else { arming }
    }

    pub fn question(&self, question_id: &str) -> Option<(usize, &Question)> {
        self.questions.iter().enumerate().find(|(_, q)| q.question_id == question_id)
    }

    /// Every text that may contain placeholders, each with its place in the definition.
    pub fn texts(&self) -> Vec<(String, &str)> {
        let mut all = vec![("name".to_owned(), self.name.as_str())];
        for question in &self.questions {
            let at = format!("questions.{}", question.question_id);
            all.push((format!("{at}.text"), &question.text));
            all.extend(question.options.iter().map(|option| (format!("{at}.options.{}", option.value), &*option.text)));
            let labels = question.labels.iter().flat_map(|labels| [("low", &labels.low), ("high", &labels.high)]);
            all.extend(labels.filter_map(|(end, text)| Some((format!("{at}.labels.{end}"), text.as_deref()?))));
            let other = question.other.as_ref().and_then(|other| other.text.as_deref());
            all.extend(other.map(|text| (format!("{at}.other.text"), text)));
        }
        all.extend(self.endings.iter().map(|one| (format!("endings.{}.text", one.ending_id), &*one.text)));
        for (locale, translation) in &self.translations.0 {
            let texts = translation.texts().into_iter();
            all.extend(texts.map(|(at, text)| (format!("translations.{locale}.{at}"), text)));
        }
        all
    }

    /// Whether any text has a placeholder with a value from `source`.
    pub fn shows(&self, source: ValueSource) -> bool {
        let is_shown =
            |piece: &Piece<'_>| matches!(piece, Piece::Placeholder(placeholder) if placeholder.source == source);
        let of_ui = self.ui.as_str();
        self.texts().into_iter().map(|(_, text)| text).chain([of_ui]).any(|text| pieces(text).iter().any(is_shown))
    }

    /// Whether the locale filter accepts `locale`: `de` accepts `de-AT`. Java's and POSIX's
    /// spellings `de_AT` and `de_AT.UTF-8` are understood; case is ignored.
    pub fn locale_matches(&self, locale: &str) -> bool {
        let given = subtags(locale);
        self.locales.iter().any(|wanted| is_within(&given, &subtags(wanted)))
    }

    /// Whether the platform filter accepts `platform`; case is ignored.
    pub fn platform_matches(&self, platform: &str) -> bool {
        self.platforms.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(platform.trim()))
    }
}
