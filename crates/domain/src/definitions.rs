//! The surveys, endpoints and settings of each project that are in force in a partition,
//! indexed for the two questions that every record asks: which surveys listen to this
//! event, and which are shown on this trigger?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::eligibility::windows::{EndOf, Rules};
use crate::limits::{MAX_EXPIRES_AFTER, MAX_OFFER_KNOWN};
use crate::quota::cap::Cap;
use crate::settings::Settings;
use crate::survey::activation::Pattern;
use crate::survey::share::Share;
use crate::survey::targeting::SurveysByTag;
use crate::survey::{Status, Survey};
use crate::time::{HOUR, Millis};
use crate::user::MERGED;
use crate::webhook::endpoint::Endpoint;

/// Event and trigger names remembered per project, so that the registrar is told of each
/// once.
pub const MAX_NAMES: usize = 10_000;
/// How many earlier `expires_after` values of a survey are remembered.
const MAX_EXPIRIES: usize = 64;

#[derive(Debug, Clone, Default)]
pub struct Definitions {
    pub projects: BTreeMap<String, Arc<Project>>,
}

#[derive(Debug, Clone, Default)]
pub struct Project {
    pub surveys: BTreeMap<String, Entry>,
    pub endpoints: BTreeMap<String, Versioned<Endpoint>>,
    pub settings: Settings,
    pub settings_version: u64,
    /// Names of events and triggers that this partition has already reported to the
    /// registrar.
    pub names: BTreeSet<String>,
    /// By event name, the ids of the surveys that listen to it.
    listeners: BTreeMap<String, Vec<String>>,
    /// By trigger, the ids of the surveys shown on it, by priority, then id.
    shown_on: BTreeMap<String, Vec<String>>,
    /// Survey ids that have a quota.
    limited: Vec<String>,
    /// Survey ids by tag.
    tags: SurveysByTag,
    /// By experiment that has begun, its arms, each with the share of users that its survey
    /// asks.
    arms: BTreeMap<String, Vec<(String, Share)>>,
    /// By survey id, how long its answers are kept, in milliseconds; only surveys with a
    /// `retention`.
    retentions: BTreeMap<String, Millis>,
    /// By event name that targeting rules count, the properties that they look at.
    remembered: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    pub version: u64,
    pub body: Arc<T>,
}

/// A survey with those of its earlier versions that open offers and windows still need.
#[derive(Debug, Clone)]
pub struct Entry {
    pub version: u64,
    pub current: Arc<Survey>,
    /// Fingerprint of the activation. Windows armed under another one are disarmed.
    pub fingerprint: u64,
    /// Earlier versions, kept while an offer of theirs may still be answered.
    pub past: Vec<PastVersion>,
}

#[derive(Debug, Clone)]
pub struct PastVersion {
    pub version: u64,
    pub survey: Arc<Survey>,
    /// When the next version took effect, in the partition's time.
    pub until: Millis,
    /// The journal offset at which the next version took effect: later events did not arm
    /// this one.
    pub until_offset: u64,
}

impl Entry {
    /// The version of the survey that an offer has pinned.
    pub fn version(&self, version: u64) -> Option<&Arc<Survey>> {
        if self.version == version {
            return Some(&self.current);
        }
        self.past.iter().find(|past| past.version == version).map(|past| &past.survey)
    }

    /// The rules by which activation events become windows; `end_of` is
    /// [`Entry::window_end`].
    pub fn rules<'a>(&'a self, end_of: EndOf<'a>) -> Option<Rules<'a>> {
        let activation = self.current.activate.as_deref()?;
        Some(Rules { activation, on_repeat: self.current.on_repeat, end_of })
    }

    /// The end of the window that the record at `offset` began at `at`. A shorter
    /// `expires_after` takes effect at once; a longer one does not reopen a window that had
    /// already ended.
    pub fn window_end(&self, at: Millis, offset: u64) -> Option<Millis> {
        let end = at.saturating_add(self.current.expires_after?);
        let ended_before = self
            .past
            .iter()
            .filter(|past| offset < past.until_offset || offset >= MERGED)
            .filter_map(|past| Some((at.saturating_add(past.survey.expires_after?), past.until)))
            .find(|(end, until)| end <= until)
            .map(|(end, _)| end);
        Some(ended_before.map_or(end, |earlier| earlier.min(end)))
    }
}

impl Project {
    pub fn listeners(&self, event: &str) -> &[String] {
        self.listeners.get(event).map_or(&[], Vec::as_slice)
    }

    /// The properties of an event that targeting rules look at; `None` when no rule counts
    /// it.
    pub fn remembers(&self, event: &str) -> Option<&BTreeSet<String>> {
        self.remembered.get(event)
    }

    /// The arms of an experiment, with the shares of their surveys. A survey that is
    /// paused, full or archived is still an arm; one that has not begun is not yet.
    pub fn arms(&self, experiment: &str) -> &[(String, Share)] {
        self.arms.get(experiment).map_or(&[], Vec::as_slice)
    }

    /// Experiments that have begun.
    pub fn experiments(&self) -> impl Iterator<Item = &String> {
        self.arms.keys()
    }

    /// By survey id, how long its answers are kept; only surveys with a `retention`.
    pub fn retentions(&self) -> &BTreeMap<String, Millis> {
        &self.retentions
    }

    pub fn tags(&self) -> &SurveysByTag {
        &self.tags
    }

    pub fn shown_on(&self, trigger: &str) -> &[String] {
        self.shown_on.get(trigger).map_or(&[], Vec::as_slice)
    }

    /// Puts a version of a survey in force that the journal's record at `offset` brought. A
    /// version that is not newer than the current one changes nothing.
    pub fn put_survey(&mut self, version: u64, survey: impl Into<Arc<Survey>>, now: Millis, offset: u64) -> bool {
        let survey = survey.into();
        let activation = survey.activation_fingerprint();
        match self.surveys.get_mut(&survey.survey_id) {
            Some(entry) if entry.version >= version => return false,
            Some(entry) => {
                let longest = MAX_EXPIRES_AFTER + MAX_OFFER_KNOWN + HOUR;
                entry.past.retain(|past| now < past.until.saturating_add(longest));
                if entry.past.len() >= MAX_EXPIRIES {
                    entry.past.remove(0);
                }
                let changed = entry.current.activation_fingerprint() != activation;
                let superseded = std::mem::replace(&mut entry.current, survey);
                entry.past.push(PastVersion {
                    version: entry.version,
                    survey: superseded,
                    until: now,
                    until_offset: offset,
                });
                entry.version = version;
                if changed {
                    entry.fingerprint = fingerprint(activation, version);
                }
            }
            None => {
                let id = survey.survey_id.clone();
                let fingerprint = fingerprint(activation, version);
                self.surveys.insert(id, Entry { version, current: survey, fingerprint, past: Vec::new() });
            }
        }
        self.index();
        true
    }

    /// The caps that an offer of a survey counts against, each with its scope: the survey's
    /// id, or an empty text for a cap of the settings.
    pub fn caps<'a>(&'a self, survey: &'a Survey) -> impl Iterator<Item = (&'a str, &'a Cap)> {
        let own = survey.limits.caps.iter().map(|cap| (survey.survey_id.as_str(), cap));
        own.chain(self.settings.caps.iter().map(|cap| ("", cap)))
    }

    /// Whether a survey or the settings of the project have a cap.
    pub fn has_caps(&self) -> bool {
        !self.settings.caps.is_empty() || self.surveys.values().any(|entry| !entry.current.limits.caps.is_empty())
    }

    /// Surveys that have a quota.
    pub fn limited(&self) -> &[String] {
        &self.limited
    }

    /// Whether a survey has a quota.
    pub fn is_limited(&self, survey_id: &str) -> bool {
        let is_limited = |entry: &Entry| entry.current.limits.max_completed.is_some();
        !self.limited.is_empty() && self.surveys.get(survey_id).is_some_and(is_limited)
    }

    pub fn put_endpoint(&mut self, version: u64, endpoint: Endpoint) -> bool {
        let known = self.endpoints.get(&endpoint.endpoint_id).map_or(0, |e| e.version);
        if known >= version {
            return false;
        }
        let id = endpoint.endpoint_id.clone();
        self.endpoints.insert(id, Versioned { version, body: Arc::new(endpoint) });
        true
    }

    pub fn put_settings(&mut self, version: u64, settings: Settings) -> bool {
        if self.settings_version >= version {
            return false;
        }
        self.settings = settings;
        self.settings_version = version;
        self.index();
        true
    }

    /// Adds a name; returns whether it was new and there was room for it.
    pub fn add_name(&mut self, name: &str) -> bool {
        !self.names.contains(name) && self.names.len() < MAX_NAMES && self.names.insert(name.to_owned())
    }

    /// Rebuilds all indexes from scratch. Definitions change rarely.
    pub fn index(&mut self) {
        self.listeners.clear();
        self.shown_on.clear();
        self.limited.clear();
        self.tags.clear();
        self.arms.clear();
        self.retentions.clear();
        self.remembered.clear();
        for pattern in self.settings.counts_events() {
            remember(&mut self.remembered, pattern);
        }
        let mut order: Vec<&Entry> = self.surveys.values().collect();
        order.sort_by(|a, b| {
            (b.current.priority, &a.current.survey_id).cmp(&(a.current.priority, &b.current.survey_id))
        });
        for entry in order {
            let id = &entry.current.survey_id;
            if entry.current.status.listens() {
                for event in entry.current.listens_to() {
                    self.listeners.entry(event.to_owned()).or_default().push(id.clone());
                }
            }
            self.retentions.extend(entry.current.retention.map(|span| (id.clone(), span)));
            for tag in &entry.current.tags {
                self.tags.entry(tag.clone()).or_default().push(id.clone());
            }
            let has_begun = !matches!(entry.current.status, Status::Draft | Status::Test);
            if let Some(experiment) = entry.current.experiment.as_ref().filter(|_| has_begun) {
                let arms = self.arms.entry(experiment.name.clone()).or_default();
                arms.push((experiment.arm.clone(), entry.current.sampling.clone()));
            }
            for pattern in entry.current.counts_events().filter(|_| entry.current.status.listens()) {
                remember(&mut self.remembered, pattern);
            }
            if entry.current.limits.max_completed.is_some() {
                self.limited.push(id.clone());
            }
            for shown in &entry.current.show_on {
                let ids = self.shown_on.entry(shown.trigger.clone()).or_default();
                if !ids.contains(id) {
                    ids.push(id.clone());
                }
            }
        }
    }
}

/// Notes the properties that a rule looks at in an event.
fn remember(remembered: &mut BTreeMap<String, BTreeSet<String>>, pattern: &Pattern) {
    let paths = remembered.entry(pattern.event.clone()).or_default();
    paths.extend(pattern.conditions.iter().map(|condition| condition.property.clone()));
}

/// Fingerprint of an activation in one version. It differs also when an edit brings back an
/// earlier activation, so that windows armed before the edit stay disarmed.
fn fingerprint(activation: u64, version: u64) -> u64 {
    activation ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Definitions {
    pub fn project(&self, project: &str) -> Option<&Arc<Project>> {
        self.projects.get(project)
    }

    pub fn project_mut(&mut self, project: &str) -> &mut Project {
        Arc::make_mut(self.projects.entry(project.to_owned()).or_default())
    }
}
