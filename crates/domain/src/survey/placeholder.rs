//! Placeholders in the texts of a survey: `{{activation.product}}`, or with a default
//! `{{attribute.first_name|there}}`. Values are plain text; renderers escape them.

use serde_json::Value;
use std::collections::BTreeMap;

use crate::json::Json;
use crate::survey::filter;
use crate::user::completed::MAX_TEXT_BYTES;

const OPENING: &str = "{{";
const CLOSING: &str = "}}";

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueSource {
    /// The properties of the activating event.
    Activation,
    /// The user's attributes.
    Attribute,
}

impl ValueSource {
    pub const ALL: [(&'static str, ValueSource); 2] =
        [("activation", ValueSource::Activation), ("attribute", ValueSource::Attribute)];

    pub fn name(self) -> &'static str {
        ValueSource::ALL[self as usize].0
    }
}

/// A placeholder in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placeholder<'t> {
    pub source: ValueSource,
    /// The property or attribute; a path may have dots.
    pub path: &'t str,
    /// The text shown when there is no value.
    pub default: &'t str,
}

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'t> {
    Text(&'t str),
    Placeholder(Placeholder<'t>),
    /// Double braces that name no value, shown as they are.
    Unknown(&'t str),
}

/// Splits a text into its pieces.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(begins) = rest.find(OPENING) {
        let Some(length) = rest[begins..].find(CLOSING) else { break };
        let (before, found) = rest.split_at(begins);
        let (found, after) = found.split_at(length + CLOSING.len());
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let inner = &found[OPENING.len()..found.len() - CLOSING.len()];
        pieces.push(Placeholder::parse(inner).map_or(Piece::Unknown(found), Piece::Placeholder));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

impl<'t> Placeholder<'t> {
    /// Parses the text between the braces.
    fn parse(inner: &'t str) -> Option<Placeholder<'t>> {
        let (name, default) = inner.split_once('|').unwrap_or((inner, ""));
        let (source, path) = name.trim().split_once('.')?;
        let (_, source) = ValueSource::ALL.into_iter().find(|(known, _)| *known == source)?;
        (!path.is_empty()).then_some(Placeholder { source, path, default: default.trim() })
    }

    /// `activation.product`
    pub fn name(&self) -> String {
        format!("{}.{}", self.source.name(), self.path)
    }

    /// Whether `expose` names the value, or an object that contains it, with or without the
    /// source in front.
    pub fn is_exposed(&self, expose: &[String]) -> bool {
        let lies_in =
            |named: &str| self.path.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        expose.iter().any(|named| {
            let of_source = named.strip_prefix(self.source.name()).and_then(|rest| rest.strip_prefix('.'));
            lies_in(named) || of_source.is_some_and(lies_in)
        })
    }
}

/// The values that placeholders may be filled with.
#[derive(Debug, Clone, Copy)]
pub struct TextValues<'a> {
    /// Names of the values that may be shown.
    pub expose: &'a [String],
    /// Properties of the activating event, if there is one.
    pub activation: Option<&'a Json>,
    pub attributes: &'a BTreeMap<String, Json>,
}

impl TextValues<'_> {
    /// Fills the placeholders of a text in. Braces in a value are not looked at again.
    pub fn fill(&self, text: &mut String) {
        if !text.contains(OPENING) {
            return;
        }
        let mut filled = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) | Piece::Unknown(text) => filled.push_str(text),
                Piece::Placeholder(placeholder) => match self.value(&placeholder) {
                    Some(value) => filled.push_str(&value),
                    None => filled.push_str(placeholder.default),
                },
            }
        }
        *text = filled;
    }

    /// A text, a number or a boolean; anything else, and a blank text, counts as no value.
    fn value(&self, placeholder: &Placeholder<'_>) -> Option<String> {
        if !placeholder.is_exposed(self.expose) {
            return None;
        }
        let among = match placeholder.source {
            ValueSource::Activation => self.activation?.value(),
            ValueSource::Attribute => {
                // A name with dots may be an attribute of its own.
                let named = |name: &str| Some((name.to_owned(), self.attributes.get(name)?.value()));
                let first = placeholder.path.split('.').next().unwrap_or_default();
                Value::Object([placeholder.path, first].into_iter().filter_map(named).collect())
            }
        };
        match filter::lookup(&among, placeholder.path)? {
            Value::String(text) if text.trim().is_empty() => None,
            Value::String(text) => Some(shortened(text)),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// The first characters of a long text.
fn shortened(text: &str) -> String {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_filled_in_with_what_is_exposed() {
        let activation = Json::from_valid(
            "{\"product\":\"Shoes <b>\",\"price\":12.50,\"secret\":\"s\",\"to\":{\"city\":\"Graz\"},\"list\":[1],\"blank\":\" \"}",
        );
        let attributes = [("first_name", "\"Ann {{activation.secret}}\""), ("is_pro", "true"), ("a.b", "1")];
        let attributes =
            attributes.into_iter().map(|(name, value)| (name.to_owned(), Json::from_valid(value))).collect();
        let expose = ["product", "price", "activation.to", "list", "blank", "attribute.first_name", "is_pro", "a.b"];
        let expose = expose.map(str::to_owned);
        let values = TextValues { expose: &expose, activation: Some(&activation), attributes: &attributes };
        for (text, filled) in [
            ("plain", "plain"),
            ("How is {{activation.product}}?", "How is Shoes <b>?"),
            ("{{ activation.price }} {{activation.to.city}}", "12.50 Graz"),
            ("Hi {{attribute.first_name|there}}", "Hi Ann {{activation.secret}}"),
            ("Hi {{attribute.last_name | there}}!", "Hi there!"),
            ("{{attribute.is_pro}}{{attribute.a.b}}", "true1"),
            ("[{{activation.secret}}{{activation.secret|hidden}}]", "[hidden]"),
            ("[{{activation.list|x}}{{activation.blank|y}}{{activation.none}}]", "[xy]"),
            ("{{user.name}} {{activation}} {{activation.}} {{}}", "{{user.name}} {{activation}} {{activation.}} {{}}"),
            ("{{activation.product", "{{activation.product"),
            ("}}{{activation.price}}}}", "}}12.50}}"),
        ] {
            let mut shown = text.to_owned();
            values.fill(&mut shown);
            assert_eq!(shown, filled, "{text}");
        }
        let long = Json::of(&serde_json::json!({"product": "ü".repeat(1_000)}));
        let mut shown = "{{activation.product}}".to_owned();
        TextValues { activation: Some(&long), ..values }.fill(&mut shown);
        assert_eq!(shown, "ü".repeat(128));
        let mut shown = "{{activation.product|this}}".to_owned();
        TextValues { activation: None, ..values }.fill(&mut shown);
        assert_eq!(shown, "this");
    }
}
