//! The texts of a survey in other languages: which language a user reads, and what is
//! shown in it. Values of options never change.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

use super::json::Json;
use super::question::{Question, ScaleLabels};
use super::survey::Survey;

/// By locale, as the file spells it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Translations(pub BTreeMap<String, Translation>);

/// The texts of one language; what is left out is shown in the file's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Translation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By question id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub questions: BTreeMap<String, QuestionTexts>,
    /// Laid over the survey's `ui`, member by member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ui: Option<Json>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct QuestionTexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<ScaleLabels>,
    /// By the option's value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<super::question::OtherChoice>,
}

/// Which way a language is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Ltr,
    Rtl,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ltr => "ltr",
            Direction::Rtl => "rtl",
        }
    }
}

/// The texts of a survey in the language that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Localized {
    pub name: String,
    pub ui: Json,
    pub questions: Vec<Question>,
    /// `None` where the file does not say what its own language is.
    pub locale: Option<String>,
    /// `None` for a survey that names no language at all.
    pub dir: Option<Direction>,
}

impl Translations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Survey {
    /// The survey in the language that `wanted` falls back to: `de-AT`, then `de`, then
    /// the file's own.
    pub fn localized(&self, wanted: Option<&str>) -> Localized {
        let translation = self.translation(wanted);
        let locale = translation.map(|(locale, _)| locale.to_owned()).or_else(|| self.locale.clone());
        let named = !self.translations.is_empty() || self.locale.is_some();
        let mut shown = Localized {
            name: self.name.clone(),
            ui: self.ui.clone(),
            questions: self.questions.clone(),
            dir: named.then(|| direction(locale.as_deref(), &self.questions)),
            locale,
        };
        if let Some((_, texts)) = translation {
            texts.lay_over(&mut shown);
        }
        shown
    }

    /// The language in which a user was asked who wants `wanted`. A survey that names no
    /// language is taken to be in the user's.
    pub fn shown_locale(&self, wanted: Option<&str>) -> Option<String> {
        if self.translations.is_empty() && self.locale.is_none() {
            return wanted.map(str::to_owned);
        }
        self.translation(wanted).map(|(locale, _)| locale.to_owned()).or_else(|| self.locale.clone())
    }

    /// Whether there are texts in this language or one that it falls back to.
    pub fn speaks(&self, wanted: &str) -> bool {
        let is_own = |own: &str| subtags(wanted).starts_with(&subtags(own));
        self.translation(Some(wanted)).is_some() || self.locale.as_deref().is_some_and(is_own)
    }

    /// The closest language that there is; `None`: the file's own.
    fn translation(&self, wanted: Option<&str>) -> Option<(&str, &Translation)> {
        let mut wanted = subtags(wanted.filter(|_| !self.translations.is_empty())?);
        while !wanted.is_empty() {
            let found = self.translations.0.iter().find(|(locale, _)| subtags(locale) == wanted);
            if let Some((locale, translation)) = found {
                return Some((locale, translation));
            }
            if self.locale.as_deref().is_some_and(|own| subtags(own) == wanted) {
                return None;
            }
            wanted.pop();
        }
        None
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

/// Members of objects are merged; anything else is replaced.
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

/// `de_AT.UTF-8`, as POSIX spells it, is `[de, at]`.
pub fn subtags(locale: &str) -> Vec<String> {
    let bare = locale.split(['.', '@']).next().unwrap_or_default();
    bare.trim().split(['-', '_']).map(str::to_ascii_lowercase).filter(|tag| !tag.is_empty()).collect()
}

/// Languages that are written from right to left, unless a script says otherwise.
const RIGHT_TO_LEFT: [&str; 14] =
    ["ar", "arc", "ckb", "dv", "fa", "he", "iw", "ks", "ps", "sd", "syr", "ug", "ur", "yi"];
/// The same, of scripts.
const RIGHT_TO_LEFT_SCRIPTS: [&str; 6] = ["arab", "hebr", "syrc", "thaa", "nkoo", "adlm"];

/// By the language where it is known, else by the first letter of the texts.
fn direction(locale: Option<&str>, questions: &[Question]) -> Direction {
    let is_rtl = match locale.map(subtags) {
        Some(tags) => {
            let script = tags.iter().skip(1).find(|tag| tag.len() == 4 && tag.bytes().all(|b| b.is_ascii_alphabetic()));
            match script {
                Some(script) => RIGHT_TO_LEFT_SCRIPTS.contains(&script.as_str()),
                None => tags.first().is_some_and(|tag| RIGHT_TO_LEFT.contains(&tag.as_str())),
            }
        }
        None => {
            let mut letters = questions.iter().flat_map(|question| question.text.chars()).filter(|c| c.is_alphabetic());
            letters
                .next()
                .is_some_and(|c| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}'))
        }
    };
    if is_rtl { Direction::Rtl } else { Direction::Ltr }
}
