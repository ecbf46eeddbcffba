//! A survey in the language of the user: which translation is chosen, and its texts. Values
//! of options never change.

use serde::Serialize;
use serde_json::Value;

use crate::json::Json;
use crate::survey::Survey;
use crate::survey::placeholder::TextValues;
use crate::survey::question::{Ending, Question};
use crate::survey::translation::{Direction, Translation, direction, is_within, subtags};

/// The texts of a survey in one language.
#[derive(Debug, Clone, PartialEq)]
pub struct Localized {
    pub name: String,
    pub ui: Json,
    pub questions: Vec<Question>,
    pub endings: Vec<Ending>,
    /// The language; `None` when the definition does not name its own.
    pub locale: Option<String>,
    /// The writing direction; `None` when the definition names no language at all.
    pub dir: Option<Direction>,
}

/// A survey as a renderer gets it outside of an offer.
#[derive(Debug, Serialize)]
pub struct ShownSurvey<'a> {
    survey_id: &'a str,
    version: u64,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    locale: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dir: Option<Direction>,
    ui: &'a Json,
    questions: &'a [Question],
    #[serde(skip_serializing_if = "<[Ending]>::is_empty")]
    endings: &'a [Ending],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
}

impl Localized {
    pub fn shown<'a>(&'a self, survey: &'a Survey, version: u64) -> ShownSurvey<'a> {
        ShownSurvey {
            survey_id: &survey.survey_id,
            version,
            name: &self.name,
            locale: self.locale.as_deref(),
            dir: self.dir,
            ui: &self.ui,
            questions: &self.questions,
            endings: &self.endings,
            anonymous: survey.anonymous,
        }
    }

    /// Fills the placeholders of all texts in.
    #[must_use]
    pub fn filled(mut self, values: TextValues<'_>) -> Localized {
        let mut fill = |text: &mut String| values.fill(text);
        fill(&mut self.name);
        for question in &mut self.questions {
            fill(&mut question.text);
            question.options.iter_mut().for_each(|option| fill(&mut option.text));
            if let Some(labels) = &mut question.labels {
                [&mut labels.low, &mut labels.high].into_iter().flatten().for_each(&mut fill);
            }
            question.other.iter_mut().filter_map(|other| other.text.as_mut()).for_each(&mut fill);
        }
        self.endings.iter_mut().for_each(|ending| fill(&mut ending.text));
        // Only the thanks in `ui` are askwhen's; the rest belongs to the app.
        if self.ui.as_str().contains("{{") {
            let mut ui = self.ui.value();
            if let Some(Value::String(text)) = ui.pointer_mut("/thank_you/text") {
                fill(text);
            }
            self.ui = Json::of(&ui);
        }
        self
    }
}

impl Survey {
    /// The texts in the language `wanted`, with its fallbacks: `de-AT`, then `de`, then the
    /// definition's own.
    pub fn localized(&self, wanted: Option<&str>) -> Localized {
        let translations = self.translations_for(wanted);
        let locale = translations.last().map(|(locale, _)| (*locale).to_owned()).or_else(|| self.locale.clone());
        let named = !self.translations.is_empty() || self.locale.is_some();
        let mut shown = Localized {
            name: self.name.clone(),
            ui: self.ui.clone(),
            questions: self.questions.clone(),
            endings: self.endings.clone(),
            dir: named.then(|| direction(locale.as_deref(), &self.questions)),
            locale,
        };
        translations.into_iter().for_each(|(_, texts)| texts.lay_over(&mut shown));
        shown
    }

    /// The language that a user who wants `wanted` gets to read. A definition that names no
    /// language is taken to be in the wanted one.
    pub fn shown_locale(&self, wanted: Option<&str>) -> Option<String> {
        if self.translations.is_empty() && self.locale.is_none() {
            return wanted.map(str::to_owned);
        }
        self.translations_for(wanted).last().map(|(locale, _)| (*locale).to_owned()).or_else(|| self.locale.clone())
    }

    /// Whether there are texts in this language or in one that it falls back to.
    pub fn speaks(&self, wanted: &str) -> bool {
        let is_own = |own: &str| is_within(&subtags(wanted), &subtags(own));
        !self.translations_for(Some(wanted)).is_empty() || self.locale.as_deref().is_some_and(is_own)
    }

    /// The translations that a language falls back to, the closest last; none for the
    /// definition's own texts alone.
    fn translations_for(&self, wanted: Option<&str>) -> Vec<(&str, &Translation)> {
        let Some(wanted) = wanted.filter(|_| !self.translations.is_empty()).map(subtags) else { return Vec::new() };
        // More tags name a language more closely; of as many, those that the wanted one begins with.
        let closeness = |locale: &str| {
            let tags = subtags(locale);
            is_within(&wanted, &tags).then(|| (tags.len(), wanted.starts_with(&tags)))
        };
        // Nothing less close is laid over the definition's own texts.
        let own = self.locale.as_deref().and_then(closeness);
        let near = self.translations.0.iter().filter_map(|(locale, texts)| Some((closeness(locale)?, locale, texts)));
        let mut near: Vec<_> = near.filter(|(found, ..)| own.is_none_or(|own| own <= *found)).collect();
        near.sort_by_key(|(found, ..)| *found);
        near.into_iter().map(|(_, locale, texts)| (locale.as_str(), texts)).collect()
    }
}

impl Translation {
    fn lay_over(&self, shown: &mut Localized) {
        if let Some(name) = &self.name {
            shown.name.clone_from(name);
        }
        if let Some(ui) = &self.ui {
            let mut merged = shown.ui.value();
            merge(&mut merged, ui.value());
            shown.ui = Json::of(&merged);
        }
        for ending in &mut shown.endings {
            let Some(texts) = self.endings.get(&ending.ending_id) else { continue };
            if let Some(text) = &texts.text {
                ending.text.clone_from(text);
            }
            ending.link = texts.link.clone().or(ending.link.take());
        }
        for question in &mut shown.questions {
            let Some(texts) = self.questions.get(&question.question_id) else { continue };
            if let Some(text) = &texts.text {
                question.text.clone_from(text);
            }
            for option in &mut question.options {
                if let Some(text) = texts.options.get(&option.value) {
                    option.text.clone_from(text);
                }
            }
            if let (Some(labels), Some(translated)) = (&mut question.labels, &texts.labels) {
                labels.low = translated.low.clone().or(labels.low.take());
                labels.high = translated.high.clone().or(labels.high.take());
            }
            if let (Some(other), Some(text)) = (&mut question.other, texts.other.as_ref().and_then(|o| o.text.clone()))
            {
                other.text = Some(text);
            }
        }
    }
}

/// Merges objects member by member and replaces everything else.
fn merge(into: &mut Value, over: Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (name, value) in over {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, over) => *into = over,
    }
}
