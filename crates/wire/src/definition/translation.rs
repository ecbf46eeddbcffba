//! Parses `locale` and `translations` of a survey definition, and finds missing
//! translations.

use std::collections::BTreeMap;

use super::ending;
use super::question::{MAX_TEXT_BYTES, other_choice, scale_labels};
use super::reader::{Code, Reader, nearest};
use super::ui::ui;
use askwhen_domain::survey::Survey;
use askwhen_domain::survey::question::{Ending, Question};
use askwhen_domain::survey::translation::{EndingTexts, QuestionTexts, Translation, Translations, is_within, subtags};

const MAX_LOCALES: usize = 200;
const MAX_LOCALE_BYTES: usize = 64;

/// `locale: en`, the language of the file's own texts.
pub fn own_locale(reader: &mut Reader<'_>) -> Option<String> {
    let locale = reader.text("locale", MAX_LOCALE_BYTES)?;
    if !is_locale(&locale) {
        reader.fault(Code::Invalid, "locale", "must be a language such as de or pt-BR");
        return None;
    }
    Some(locale)
}

/// `translations: {de: {questions: {q1: {text: "…"}}, ui: {…}}}`
pub fn translations(reader: &mut Reader<'_>, questions: &[Question], endings: &[Ending]) -> Translations {
    let all = reader.object("translations", |inner| {
        let names = inner.names();
        if names.len() > MAX_LOCALES {
            inner.fault_at(Code::Invalid, "", format!("translations must have at most {MAX_LOCALES} languages"));
        }
        let mut all = BTreeMap::new();
        for name in names {
            let pointer = name.replace('~', "~0").replace('/', "~1");
            if !is_locale(&name) {
                inner.fault_at(Code::Invalid, &pointer, "a translation is named by its language, such as de or pt-BR");
            } else if all.keys().any(|known: &String| subtags(known) == subtags(&name)) {
                inner.fault_at(Code::Invalid, &pointer, "the same language is there in another spelling");
            }
            if let Some(read) = inner.object(&name, |one| translation(one, questions, endings)) {
                all.insert(name, read);
            }
        }
        all
    });
    Translations(all.unwrap_or_default())
}

fn is_locale(name: &str) -> bool {
    let is_tag = |tag: &str| (1..=8).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_alphanumeric());
    let first = name.split(['-', '_']).next().unwrap_or_default();
    name.len() <= MAX_LOCALE_BYTES
        && (2..=8).contains(&first.len())
        && first.bytes().all(|b| b.is_ascii_alphabetic())
        && name.split(['-', '_']).all(is_tag)
}

fn translation(inner: &mut Reader<'_>, questions: &[Question], endings: &[Ending]) -> Translation {
    Translation {
        name: inner.text("name", 1_024),
        questions: inner.object("questions", |all| question_texts(all, questions)).unwrap_or_default(),
        endings: inner.object("endings", |all| ending_texts(all, endings)).unwrap_or_default(),
        ui: ui(inner),
    }
}

fn question_texts(all: &mut Reader<'_>, questions: &[Question]) -> BTreeMap<String, QuestionTexts> {
    let known: Vec<&str> = questions.iter().map(|question| &*question.question_id).collect();
    let mut texts = BTreeMap::new();
    for id in all.names() {
        let Some(question) = questions.iter().find(|question| question.question_id == id) else {
            all.raw(&id);
            let near = nearest(&id, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let pointer = id.replace('~', "~0").replace('/', "~1");
            all.fault_at(Code::UnknownField, &pointer, format!("the survey has no such question{near}"));
            continue;
        };
        if let Some(read) = all.object(&id, |one| one_question(one, question)) {
            texts.insert(id, read);
        }
    }
    texts
}

fn ending_texts(all: &mut Reader<'_>, endings: &[Ending]) -> BTreeMap<String, EndingTexts> {
    let known: Vec<&str> = endings.iter().map(|ending| &*ending.ending_id).collect();
    let mut texts = BTreeMap::new();
    for id in all.names() {
        if !known.contains(&&*id) {
            all.raw(&id);
            let near = nearest(&id, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let pointer = id.replace('~', "~0").replace('/', "~1");
            all.fault_at(Code::UnknownField, &pointer, format!("the survey has no such ending{near}"));
            continue;
        }
        let read =
            all.object(&id, |one| EndingTexts { text: one.text("text", MAX_TEXT_BYTES), link: ending::link(one) });
        texts.extend(read.map(|read| (id, read)));
    }
    texts
}

fn one_question(one: &mut Reader<'_>, question: &Question) -> QuestionTexts {
    let labels = one.object("labels", scale_labels);
    if labels.is_some() && question.labels.is_none() {
        one.fault(Code::Invalid, "labels", "translates what the question does not have");
    }
    let other = one.object("other", other_choice);
    if other.is_some() && question.other.is_none() {
        one.fault(Code::Invalid, "other", "translates what the question does not have");
    }
    QuestionTexts {
        text: one.text("text", MAX_TEXT_BYTES),
        labels,
        options: one.object("options", |options| option_texts(options, question)).unwrap_or_default(),
        other,
    }
}

fn option_texts(options: &mut Reader<'_>, question: &Question) -> BTreeMap<String, String> {
    let known: Vec<&str> = question.options.iter().map(|option| &*option.value).collect();
    let mut texts = BTreeMap::new();
    for value in options.names() {
        if !known.contains(&&*value) {
            options.raw(&value);
            let near = nearest(&value, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let pointer = value.replace('~', "~0").replace('/', "~1");
            options.fault_at(Code::UnknownField, &pointer, format!("the question has no such option{near}"));
        } else if let Some(text) = options.text(&value, MAX_TEXT_BYTES) {
            texts.insert(value, text);
        }
    }
    texts
}

/// The most missing texts that a warning names.
const MAX_NAMED: usize = 10;

/// A warning for each language that is incomplete, with those that it falls back to.
pub fn incomplete(survey: &Survey) -> Vec<String> {
    let all = &survey.translations.0;
    let warning = |(locale, translation): (&String, &Translation)| {
        let tags = subtags(locale);
        let mut missing = missing(translation, survey);
        for (_, wider) in all.iter().filter(|(other, _)| *other != locale && is_within(&tags, &subtags(other))) {
            let also = self::missing(wider, survey);
            missing.retain(|text| also.contains(text));
        }
        let more = missing.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = missing.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        (!missing.is_empty())
            .then(|| format!("translations.{locale} lacks {named}{more}: these are shown in the file's own language"))
    };
    all.iter().filter_map(warning).collect()
}

/// The texts of a survey that a translation does not have, by their places.
fn missing(translation: &Translation, survey: &Survey) -> Vec<String> {
    let mut missing: Vec<String> = survey.questions.iter().flat_map(|question| lacks(translation, question)).collect();
    let is_there = |id: &str| translation.endings.get(id).is_some_and(|texts| texts.text.is_some());
    let without = survey.endings.iter().filter(|ending| !is_there(&ending.ending_id));
    missing.extend(without.map(|ending| format!("endings.{}.text", ending.ending_id)));
    missing
}

fn lacks(translation: &Translation, question: &Question) -> Vec<String> {
    let nothing = QuestionTexts::default();
    let id = &question.question_id;
    let texts = translation.questions.get(id).unwrap_or(&nothing);
    let mut missing = Vec::new();
    if texts.text.is_none() {
        missing.push(format!("questions.{id}.text"));
    }
    for option in question.options.iter().filter(|option| !texts.options.contains_key(&option.value)) {
        missing.push(format!("questions.{id}.options.{}", option.value));
    }
    let has_other = question.other.as_ref().is_some_and(|other| other.text.is_some());
    if has_other && texts.other.as_ref().is_none_or(|other| other.text.is_none()) {
        missing.push(format!("questions.{id}.other.text"));
    }
    if let Some(labels) = &question.labels {
        let translated = texts.labels.as_ref();
        if labels.low.is_some() && translated.is_none_or(|labels| labels.low.is_none()) {
            missing.push(format!("questions.{id}.labels.low"));
        }
        if labels.high.is_some() && translated.is_none_or(|labels| labels.high.is_none()) {
            missing.push(format!("questions.{id}.labels.high"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn body(more: Value) -> Value {
        let mut body = json!({"survey_id": "s", "name": "S", "show_on": [{"trigger": "Main"}],
            "ui": {"labels": {"next": "Next", "back": "Back"}, "mine": [1]},
            "questions": [
                {"question_id": "q1", "type": "nps", "text": "How likely?", "labels": {"low": "No", "high": "Yes"}},
                {"question_id": "q2", "type": "single_choice", "text": "Why?", "options": ["price", {"value": "bugs", "text": "Faults"}],
                 "other": {"text": "Else"}}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    }

    fn german() -> Value {
        json!({"name": "U", "questions": {"q1": {"text": "Wie?", "labels": {"low": "Nein"}},
            "q2": {"text": "Warum?", "options": {"price": "Preis"}, "other": {"text": "Anderes"}}},
            "ui": {"labels": {"next": "Weiter"}}})
    }

    fn read(more: Value) -> Survey {
        crate::definition::survey(&body(more), None).expect("a survey")
    }

    #[test]
    fn a_user_reads_the_closest_language_that_there_is() {
        let survey =
            read(json!({"locale": "en", "translations": {"de": german(), "de-CH": {}, "ar_EG": {}, "pt-BR": {}}}));
        for (wanted, shown, dir) in [
            (Some("de-AT"), "de", "ltr"),
            (Some("DE_at.UTF-8"), "de", "ltr"),
            (Some("de-CH-1901"), "de-CH", "ltr"),
            (Some("ar-EG"), "ar_EG", "rtl"),
            (Some("ar"), "en", "ltr"),
            (Some("en-GB"), "en", "ltr"),
            (Some("pt"), "en", "ltr"),
            (Some(""), "en", "ltr"),
            (None, "en", "ltr"),
        ] {
            let localized = survey.localized(wanted);
            assert_eq!(
                (localized.locale.as_deref(), localized.dir.map(|d| d.name())),
                (Some(shown), Some(dir)),
                "{wanted:?}"
            );
            assert_eq!(survey.shown_locale(wanted).as_deref(), Some(shown));
        }
        // Text by text: what the region lacks is the language's, and what that lacks is the file's.
        let regional =
            read(json!({"translations": {"de": german(), "de-AT": {"questions": {"q1": {"text": "Servus?"}}}}}));
        let (wide, near) = (regional.localized(Some("de")), regional.localized(Some("de-AT")));
        assert_eq!((near.locale.as_deref(), &*near.questions[0].text), (Some("de-AT"), "Servus?"));
        assert_eq!((&near.questions[1], &near.ui, &near.name), (&wide.questions[1], &wide.ui, &wide.name));
        let shown = survey.localized(Some("de-AT"));
        let texts = (
            &*shown.name,
            &*shown.questions[0].text,
            &*shown.questions[1].options[0].text,
            &*shown.questions[1].options[1].text,
        );
        assert_eq!(texts, ("U", "Wie?", "Preis", "Faults"));
        assert_eq!(shown.questions[1].options[0].value, "price");
        let labels = shown.questions[0].labels.as_ref().expect("labels");
        assert_eq!((labels.low.as_deref(), labels.high.as_deref()), (Some("Nein"), Some("Yes")));
        assert_eq!(shown.questions[1].other.as_ref().and_then(|other| other.text.as_deref()), Some("Anderes"));
        assert_eq!(shown.ui.value(), json!({"labels": {"next": "Weiter", "back": "Back"}, "mine": [1]}));
    }

    #[test]
    fn a_language_that_nobody_named_is_not_made_up() {
        let survey = read(json!({"translations": {"de": german()}}));
        assert_eq!(survey.localized(Some("fr")).locale, None);
        assert_eq!(survey.shown_locale(Some("fr")), None);
        let survey = read(json!({}));
        assert_eq!((survey.localized(Some("fr")).dir, survey.shown_locale(Some("fr")).as_deref()), (None, Some("fr")));
        let questions = json!([{"question_id": "q1", "type": "text", "text": "1. מה שלומך?"}]);
        let survey = read(json!({"questions": questions, "translations": {"de": {}}}));
        assert_eq!(survey.localized(None).dir.map(|dir| dir.name()), Some("rtl"));
    }

    #[test]
    fn faults_and_gaps_of_translations_are_named() {
        let faults = |translations: Value| {
            let faults = crate::definition::survey(&body(json!({ "translations": translations })), None)
                .err()
                .unwrap_or_default();
            faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect::<Vec<_>>()
        };
        let check = |translations: Value, pointer: &str, part: &str| {
            let found = faults(translations);
            assert!(found.len() == 1 && found[0].0 == pointer && found[0].1.contains(part), "{found:?}");
        };
        check(json!({"d e": {}}), "/translations/d e", "language");
        check(json!({"de": {}, "DE": {}}), "/translations/DE", "spelling");
        check(json!({"de": {"question": {}}}), "/translations/de/question", "did you mean questions?");
        check(json!({"de": {"questions": {"q11": {}}}}), "/translations/de/questions/q11", "did you mean q1?");
        check(
            json!({"de": {"questions": {"q1": {"txt": "x"}}}}),
            "/translations/de/questions/q1/txt",
            "did you mean text?",
        );
        check(
            json!({"de": {"questions": {"q2": {"options": {"prise": "x"}}}}}),
            "/translations/de/questions/q2/options/prise",
            "price",
        );
        check(
            json!({"de": {"questions": {"q2": {"labels": {"low": "x"}}}}}),
            "/translations/de/questions/q2/labels",
            "does not have",
        );
        assert_eq!(
            incomplete(&read(json!({"translations": {"de": german()}}))),
            [
                "translations.de lacks questions.q1.labels.high, questions.q2.options.bugs: these are shown in the file's own language"
            ]
        );
        assert_eq!(incomplete(&read(json!({"translations": {"fr": {}}}))).len(), 1);
        // A regional one needs only what differs.
        let regional = incomplete(&read(json!({"translations": {"de": german(), "de-AT": {"name": "Servus"}}})));
        assert_eq!(regional.len(), 2);
        assert!(
            regional[1].starts_with("translations.de-AT lacks questions.q1.labels.high, questions.q2.options.bugs:")
        );
    }

    #[test]
    fn the_canonical_form_reads_back_to_the_same_survey() {
        let survey = read(json!({"locale": "en", "translations": {"de": german()},
            "questions": [{"question_id": "q1", "type": "nps", "text": "?", "labels": {"low": "No"},
                "next": [{"when": {"op": "lte", "value": 6}, "goto": "q3"}, {"when": {"op": "exists"}, "goto": "end"}]},
                {"question_id": "q2", "type": "multi_choice", "text": "?", "options": ["price"], "other": {"text": "x"}, "shuffle": true},
                {"question_id": "q3", "type": "text", "text": "?"}]}));
        let canonical = serde_json::to_value(&survey).expect("it serialises");
        assert_eq!(crate::definition::survey(&canonical, None).expect("it is one"), survey);
    }
}
