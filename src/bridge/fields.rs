//! Reads the members of a request's object without parsing those that are passed on:
//! properties and values keep their bytes.

use serde_json::value::RawValue;
use std::borrow::Cow;

use super::auth::KEY_MEMBER;
use askwhen_domain::id;
use askwhen_domain::json::Members;
use askwhen_domain::time::{self, Millis};
use askwhen_wire::definition::{Code, Fault, MAX_FAULTS};
use askwhen_wire::record;

/// The members of an object, in order.
pub struct Fields<'a> {
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    asked: Vec<&'static str>,
    pointer: String,
    pub faults: Vec<Fault>,
}

/// The number of members of a JSON object; `None` for other values.
pub fn count_members(text: &str) -> Option<usize> {
    serde_json::from_str::<Members<'_>>(text).ok().map(|m| m.0.len())
}

impl<'a> Fields<'a> {
    /// Reads an object from checked JSON; anything else is a fault.
    pub fn of(text: &'a str, pointer: String) -> Fields<'a> {
        match serde_json::from_str::<Members<'a>>(text) {
            Ok(Members(members)) => Fields { members, asked: Vec::new(), pointer, faults: Vec::new() },
            Err(_) => {
                let fault =
                    Fault { code: Code::WrongType, pointer: pointer.clone(), detail: "must be an object".into() };
                Fields { members: Vec::new(), asked: Vec::new(), pointer, faults: vec![fault] }
            }
        }
    }

    pub fn fault(&mut self, code: Code, member: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{}", self.pointer, member.replace('~', "~0").replace('/', "~1"));
        self.faults.push(Fault { code, pointer, detail: format!("{member} {}", detail.into()) });
    }

    /// The text of a member; `null` counts as missing.
    pub fn raw(&mut self, member: &'static str) -> Option<&'a str> {
        self.asked.push(member);
        let found = self.members.iter().find(|(name, _)| name == member)?;
        Some(found.1.get()).filter(|text| *text != "null")
    }

    pub fn has(&self, member: &str) -> bool {
        self.members.iter().any(|(name, _)| name == member)
    }

    pub fn text(&mut self, member: &'static str) -> Option<String> {
        let raw = self.raw(member)?;
        let text = serde_json::from_str(raw).ok();
        if text.is_none() {
            self.fault(Code::WrongType, member, "must be a string");
        }
        text
    }

    /// An id that must be one that can be newly given.
    pub fn id(&mut self, member: &'static str) -> Option<String> {
        self.checked(member, id::check_given)
    }

    /// A short text without control characters.
    pub fn name(&mut self, member: &'static str) -> Option<String> {
        self.checked(member, id::check)
    }

    /// A text that apps may send empty when they do not know the value.
    pub fn non_empty(
        &mut self,
        member: &'static str,
        read: fn(&mut Fields<'a>, &'static str) -> Option<String>,
    ) -> Option<String> {
        if self.raw(member)? == "\"\"" {
            return None;
        }
        read(self, member)
    }

    fn checked(&mut self, member: &'static str, check: fn(&str) -> Result<(), &'static str>) -> Option<String> {
        let text = self.text(member)?;
        if let Err(why) = check(&text) {
            self.fault(Code::BadId, member, why);
            return None;
        }
        Some(text)
    }

    /// The members of a client's request, which may contain its key.
    pub fn of_client(text: &'a str) -> Fields<'a> {
        let mut fields = Fields::of(text, String::new());
        drop(fields.text(KEY_MEMBER));
        fields.members.retain(|(name, _)| name != KEY_MEMBER);
        fields.asked.clear();
        fields
    }

    pub fn required_id(&mut self, member: &'static str) -> String {
        if self.raw(member).is_none() {
            if self.faults.iter().all(|f| f.code != Code::WrongType || f.pointer != self.pointer) {
                self.fault(Code::MissingField, member, "is required");
            }
            return String::new();
        }
        self.id(member).unwrap_or_default()
    }

    pub fn time(&mut self, member: &'static str) -> Option<Millis> {
        let raw = self.raw(member)?;
        if !raw.starts_with(['"', '-']) && !raw.starts_with(|c: char| c.is_ascii_digit()) {
            self.fault(Code::WrongType, member, "must be a string");
            return None;
        }
        match record::parse_moment(raw) {
            Ok(at) => Some(at),
            Err(wanted) => {
                self.fault(Code::BadTime, member, format!("must be {wanted}"));
                None
            }
        }
    }

    pub fn positive_duration(&mut self, member: &'static str) -> Option<Millis> {
        let text = self.text(member)?;
        match time::parse_duration(&text) {
            Ok(0) => {
                self.fault(Code::Invalid, member, "must be longer than 0s");
                None
            }
            Ok(span) => Some(span),
            Err(wanted) => {
                self.fault(Code::BadTime, member, format!("must be {wanted}"));
                None
            }
        }
    }

    pub fn boolean(&mut self, member: &'static str) -> Option<bool> {
        let raw = self.raw(member)?;
        let value = serde_json::from_str(raw).ok();
        if value.is_none() {
            self.fault(Code::WrongType, member, "must be true or false");
        }
        value
    }

    pub fn unsigned(&mut self, member: &'static str) -> Option<u64> {
        let raw = self.raw(member)?;
        let value = serde_json::from_str(raw).ok();
        if value.is_none() {
            self.fault(Code::WrongType, member, "must be an integer from 0");
        }
        value
    }

    /// An object that is passed on, with at most `most` members.
    pub fn object(&mut self, member: &'static str, most: usize) -> &'a str {
        let Some(raw) = self.raw(member) else { return "{}" };
        match count_members(raw) {
            None => self.fault(Code::WrongType, member, "must be an object"),
            Some(count) if count > most => {
                self.fault(Code::Invalid, member, format!("must have at most {most} members"));
            }
            Some(_) => {}
        }
        raw
    }

    pub fn list(&mut self, member: &'static str) -> Option<Vec<&'a RawValue>> {
        let raw = self.raw(member)?;
        let list = serde_json::from_str(raw).ok();
        if list.is_none() {
            self.fault(Code::WrongType, member, "must be a list");
        }
        list
    }

    /// All members, for an object whose names are the sender's own.
    pub fn members(&self) -> &[(Cow<'a, str>, &'a RawValue)] {
        &self.members
    }

    /// Ends the reading: members that were not read are faults.
    pub fn close(mut self) -> Vec<Fault> {
        for (name, _) in std::mem::take(&mut self.members) {
            if self.asked.contains(&&*name) {
                continue;
            }
            if self.faults.len() >= MAX_FAULTS {
                break;
            }
            self.faults.push(Fault::unknown(&self.pointer, &name, self.asked.iter().copied()));
        }
        self.faults
    }
}
