//! The texts of a survey in other languages, and writing directions.

use serde::Serialize;
use std::collections::BTreeMap;

use crate::json::Json;
use crate::survey::question::{OtherChoice, Question, ScaleLabels};

/// By locale, in the definition's spelling.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Translations(pub BTreeMap<String, Translation>);

/// The texts of one language; a missing one is that of a language that names it less closely
/// (`de` for `de-AT`), else the definition's own.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Translation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By question id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub questions: BTreeMap<String, QuestionTexts>,
    /// By ending id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub endings: BTreeMap<String, EndingTexts>,
    /// Merged into the survey's `ui`, member by member.
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
    pub other: Option<OtherChoice>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct EndingTexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// The direction in which a language is written.
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

impl Translation {
    /// Every text, with its place in the definition.
    pub fn texts(&self) -> Vec<(String, &str)> {
        let mut all: Vec<(String, &str)> = self.name.iter().map(|name| ("name".to_owned(), name.as_str())).collect();
        for (id, texts) in &self.questions {
            let at = format!("questions.{id}");
            all.extend(texts.text.as_deref().map(|text| (format!("{at}.text"), text)));
            all.extend(texts.options.iter().map(|(value, text)| (format!("{at}.options.{value}"), text.as_str())));
            let labels = texts.labels.iter().flat_map(|labels| [("low", &labels.low), ("high", &labels.high)]);
            all.extend(labels.filter_map(|(end, text)| Some((format!("{at}.labels.{end}"), text.as_deref()?))));
            let other = texts.other.as_ref().and_then(|other| other.text.as_deref());
            all.extend(other.map(|text| (format!("{at}.other.text"), text)));
        }
        let endings = self.endings.iter();
        all.extend(endings.filter_map(|(id, texts)| Some((format!("endings.{id}.text"), texts.text.as_deref()?))));
        all
    }
}

impl Translations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Language codes of Java and Android that ISO 639 has replaced.
const RENAMED: [(&str, &str); 3] = [("iw", "he"), ("in", "id"), ("ji", "yi")];

/// The subtags of a locale: `[de, at]` for POSIX's `de_AT.UTF-8`, `[zh, cn, hans]` for Java's
/// `zh_CN_#Hans`, `[pt, br]` for the header `pt-BR,pt;q=0.9`, whose first language comes first.
pub fn subtags(locale: &str) -> Vec<String> {
    let bare = locale.split(['.', '@', ',', ';']).next().unwrap_or_default();
    let tags = bare.trim().split(['-', '_', '#']).map(str::to_ascii_lowercase).filter(|tag| !tag.is_empty());
    let mut tags: Vec<String> = tags.collect();
    if let Some(language) = tags.first_mut()
        && let Some((_, today)) = RENAMED.iter().find(|(before, _)| before == language)
    {
        *language = (*today).to_owned();
    }
    tags
}

/// Whether a locale is one of those that a shorter locale names: `zh-Hans-CN` is within `zh-CN`.
/// This is the extended filtering of RFC 4647 (section 3.3.2), except that script and region
/// may come in any order.
pub fn is_within(given: &[String], wanted: &[String]) -> bool {
    let (Some(language), Some(wanted_language)) = (given.first(), wanted.first()) else { return false };
    // Extensions begin with a subtag of one letter.
    let known = || given[1..].iter().take_while(|tag| tag.len() > 1);
    language == wanted_language && wanted[1..].iter().all(|tag| known().any(|known| known == tag))
}

/// Languages that are written from right to left, unless a script says otherwise.
const RIGHT_TO_LEFT: [&str; 14] =
    ["ar", "arc", "ckb", "dv", "fa", "he", "iw", "ks", "ps", "sd", "syr", "ug", "ur", "yi"];
/// Scripts that are written from right to left.
const RIGHT_TO_LEFT_SCRIPTS: [&str; 6] = ["arab", "hebr", "syrc", "thaa", "nkoo", "adlm"];

/// The direction of the language where it is known, else that of the first letter in the
/// texts.
pub fn direction(locale: Option<&str>, questions: &[Question]) -> Direction {
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
