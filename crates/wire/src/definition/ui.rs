//! The members of `ui` that the widget reads. Other members are allowed; warnings are given
//! only for what is probably meant for the widget and does not reach it.

use serde_json::Value;

use super::reader::{Code, Reader, nearest};
use askwhen_domain::json::Json;
use askwhen_domain::time;

const MAX_UI_BYTES: usize = 64 << 10;

/// Any object; apps ignore members that they do not know.
pub fn ui(reader: &mut Reader<'_>) -> Option<Json> {
    let value = reader.raw("ui")?;
    if !value.is_object() {
        reader.fault(Code::WrongType, "ui", "must be an object");
        return None;
    }
    let ui = Json::of(value);
    if ui.len_bytes() > MAX_UI_BYTES {
        reader.fault(Code::Invalid, "ui", "must have at most 64 KiB");
    }
    Some(ui)
}

/// The values that the widget accepts for a member.
enum Takes {
    OneOf(&'static [&'static str]),
    Text,
    TextOrNull,
    Bool,
    DurationOrNull,
    Object(&'static [(&'static str, Takes)]),
}

const KNOWN: &[(&str, Takes)] = &[
    ("layout", Takes::OneOf(&["popover", "modal", "inline"])),
    ("position", Takes::OneOf(&["bottom_right", "bottom_left", "bottom_center", "center"])),
    (
        "theme",
        Takes::Object(&[
            ("scheme", Takes::OneOf(&["auto", "light", "dark"])),
            ("accent", Takes::TextOrNull),
            ("background", Takes::TextOrNull),
            ("text", Takes::TextOrNull),
            ("radius", Takes::TextOrNull),
            ("font", Takes::TextOrNull),
        ]),
    ),
    ("progress", Takes::Bool),
    (
        "labels",
        Takes::Object(&[
            ("next", Takes::Text),
            ("back", Takes::Text),
            ("submit", Takes::Text),
            ("close", Takes::Text),
            ("required", Takes::Text),
            ("anonymous", Takes::Text),
            ("too_long", Takes::Text),
            ("progress", Takes::Text),
        ]),
    ),
    ("thank_you", Takes::Object(&[("text", Takes::Text), ("close_after", Takes::DurationOrNull)])),
];

/// A warning for each member that the widget ignores or reads differently.
pub fn misread(ui: &Value) -> Vec<String> {
    let mut misread_members = Vec::new();
    look(ui, "ui", KNOWN, &mut misread_members);
    misread_members
}

fn look(value: &Value, path: &str, known: &[(&str, Takes)], misread_members: &mut Vec<String>) {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    for (name, value) in value.as_object().into_iter().flatten() {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, takes)) => check(value, &format!("{path}.{name}"), takes, misread_members),
            None => {
                let meant = nearest(name, &names).filter(|_| name.len() <= 64);
                misread_members
                    .extend(meant.map(|meant| format!("{path}.{name} is left to you; did you mean {meant}?")));
            }
        }
    }
}

fn check(value: &Value, path: &str, takes: &Takes, misread_members: &mut Vec<String>) {
    let wanted = match takes {
        Takes::Object(known) if value.is_object() => return look(value, path, known, misread_members),
        Takes::OneOf(names) if value.as_str().is_some_and(|text| names.contains(&text)) => return,
        Takes::Text if value.is_string() => return,
        Takes::TextOrNull if value.is_string() || value.is_null() => return,
        Takes::Bool if value.is_boolean() => return,
        Takes::DurationOrNull
            if value.is_null() || value.as_str().is_some_and(|text| time::parse_duration(text).is_ok()) =>
        {
            return;
        }
        Takes::Object(_) => "an object".to_owned(),
        Takes::OneOf(names) => format!("one of {}", names.join(", ")),
        Takes::Text | Takes::TextOrNull => "a text".to_owned(),
        Takes::Bool => "true or false".to_owned(),
        Takes::DurationOrNull => "a duration such as 3s, or null".to_owned(),
    };
    misread_members.push(format!("the widget takes {wanted} for {path}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_widget_would_not_read_is_told() {
        let full = json!({"layout": "modal", "position": "center", "progress": true, "labels": {"next": "Weiter"}, "mine": {"a": 1},
            "theme": {"scheme": "auto", "accent": "#2563eb", "font": null}, "thank_you": {"text": "Danke", "close_after": "3s"}});
        assert_eq!(misread(&full), [""; 0]);
        let misread_members = misread(
            &json!({"layuot": "modal", "position": "bottom", "theme": "dark", "thank_you": {"close_after": 3}}),
        );
        assert_eq!(
            misread_members,
            [
                "ui.layuot is left to you; did you mean layout?",
                "the widget takes one of bottom_right, bottom_left, bottom_center, center for ui.position",
                "the widget takes an object for ui.theme",
                "the widget takes a duration such as 3s, or null for ui.thank_you.close_after",
            ]
        );
    }
}
