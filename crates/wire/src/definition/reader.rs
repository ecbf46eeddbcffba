//! Reads the members of an object one by one and collects all faults, so that a person can
//! correct a definition at once.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::words;
use askwhen_domain::id;
use askwhen_domain::time::{self, Millis};

/// The error code of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    MissingField,
    WrongType,
    UnknownField,
    BadId,
    BadTime,
    Invalid,
    NotBuilt,
    ForbiddenTarget,
    EmptyBatch,
    MissingAnswer,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::MissingField => "missing_field",
            Code::WrongType => "wrong_type",
            Code::UnknownField => "unknown_field",
            Code::BadId => "bad_id",
            Code::BadTime => "bad_time",
            Code::Invalid => "invalid",
            Code::NotBuilt => "not_built",
            Code::ForbiddenTarget => "forbidden_target",
            Code::EmptyBatch => "empty_batch",
            Code::MissingAnswer => "missing_answer",
        }
    }
}

/// A fault of a body. The detail never contains values of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub code: Code,
    /// JSON pointer (RFC 6901) to the member.
    pub pointer: String,
    pub detail: String,
}

/// The most faults reported at once.
pub const MAX_FAULTS: usize = 50;
/// The longest name that is compared with known names, or repeated in a message, in bytes.
const MAX_NAME_BYTES: usize = 64;

impl Fault {
    /// The fault of an unknown member, with the nearest known name.
    pub fn unknown<'k>(parent: &str, name: &str, known: impl Iterator<Item = &'k str>) -> Fault {
        if name.len() > MAX_NAME_BYTES {
            let detail = "it has a member that does not exist here".into();
            return Fault { code: Code::UnknownField, pointer: parent.to_owned(), detail };
        }
        let known: Vec<&str> = known.collect();
        let in_context = || meant(name, &CONTEXT).filter(|_| known.contains(&"context"));
        let detail = match (nearest(name, &known), in_context()) {
            (_, Some(member)) if meant(name, &known).is_none() => {
                format!("there is no such member here; it stands in context, as {member}")
            }
            (Some(known), _) => format!("there is no such member here; did you mean {known}?"),
            (None, _) => "there is no such member here".to_owned(),
        };
        let pointer = format!("{parent}/{}", name.replace('~', "~0").replace('/', "~1"));
        Fault { code: Code::UnknownField, pointer, detail }
    }
}

/// Members, each with names that other products use for it.
const ALIASES: [(&str, &[&str]); 38] = [
    ("event_name", &["event", "name", "eventname", "eventtype", "type", "action"]),
    ("event", &["eventname", "trigger", "name"]),
    ("user_id", &["user", "userid", "uid", "distinctid", "externalid", "customerid", "anonymousid"]),
    ("event_id", &["id", "messageid", "insertid", "uuid", "idempotencykey", "eventid"]),
    ("occurred_at", &["timestamp", "time", "ts", "date", "eventtime", "originaltimestamp", "createdat", "at"]),
    ("sent_at", &["sentat", "timestampsent"]),
    ("answered_at", &["timestamp", "time", "ts", "date"]),
    ("properties", &["props", "data", "payload", "params", "parameters", "attributes", "metadata", "eventproperties"]),
    ("attributes", &["traits", "properties", "props", "data", "userproperties"]),
    ("question_id", &["id", "question", "questionid", "key"]),
    ("survey_id", &["id", "survey"]),
    ("endpoint_id", &["id", "endpoint", "name"]),
    ("value", &["answer", "response", "text", "rating", "score"]),
    ("events", &["batch", "records", "items", "data"]),
    ("name", &["title"]),
    ("text", &["title", "label", "question"]),
    ("options", &["choices", "answers", "values"]),
    ("show_on", &["trigger", "triggers", "frontendtrigger", "showwhen"]),
    ("start_at", &["start", "startdate", "from", "begin"]),
    ("end_at", &["end", "enddate", "until", "to"]),
    ("where", &["conditions", "filter", "filters"]),
    ("op", &["operator", "comparison"]),
    ("answers", &["responses", "response", "data", "results"]),
    ("max_completed", &["maxresponses", "responses", "maxanswers", "quota", "limit", "max"]),
    ("percent", &["percentage", "share", "rate", "pct"]),
    ("goto", &["next", "jumpto", "target", "to"]),
    ("platform", &["os", "osname", "device", "devicetype"]),
    ("locale", &["language", "lang", "languagecode"]),
    ("app_version", &["appversion", "version", "build"]),
    ("session_id", &["session", "sessionid", "visitid"]),
    ("activate", &["events", "event", "activation", "activatedby", "when"]),
    ("cooldown", &["every", "interval", "wait", "waitingtime"]),
    ("max_displays", &["limit", "max", "times", "maxshown", "maxviews"]),
    ("locales", &["language", "languages", "lang"]),
    ("ending_id", &["id", "ending"]),
    ("attribute", &["user", "property", "trait", "userproperty"]),
    ("any", &["or"]),
    ("all", &["and"]),
];

/// The members of a context, which are often sent beside it by mistake.
const CONTEXT: [&str; 4] = ["platform", "locale", "app_version", "session_id"];

/// The known name that is meant: in another spelling style, or under another product's
/// name.
fn meant<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain =
        |name: &str| -> String { name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect() };
    let bare = plain(name);
    let same = known.iter().find(|known| plain(known) == bare);
    let alias = || {
        let meant = ALIASES.iter().filter(|(_, aliases)| aliases.contains(&bare.as_str()));
        meant.filter_map(|(target, _)| known.iter().find(|known| *known == target)).next()
    };
    same.or_else(alias).copied()
}

/// The known name that is meant, or that differs in a few letters.
pub fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = || {
        let distances = known.iter().map(|known| (strsim::damerau_levenshtein(known, name), *known));
        distances.min().filter(|(distance, known)| *distance <= 1 + known.len() / 3).map(|(_, known)| known)
    };
    meant(name, known).or_else(near)
}

pub struct Reader<'a> {
    members: &'a Map<String, Value>,
    pointer: String,
    asked: BTreeSet<String>,
    faults: &'a mut Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// A reader of the body; `None`, with a fault, when it is not an object.
    pub fn root(body: &'a Value, faults: &'a mut Vec<Fault>) -> Option<Reader<'a>> {
        Reader::at(body, String::new(), faults)
    }

    fn at(body: &'a Value, pointer: String, faults: &'a mut Vec<Fault>) -> Option<Reader<'a>> {
        match body.as_object() {
            Some(members) => Some(Reader { members, pointer, asked: BTreeSet::new(), faults }),
            None => {
                faults.push(Fault { code: Code::WrongType, pointer, detail: "must be an object".into() });
                None
            }
        }
    }

    pub fn fault(&mut self, code: Code, member: &str, detail: impl Into<String>) {
        let pointer = self.pointer_to(member);
        self.faults.push(Fault { code, pointer, detail: format!("{member} {}", detail.into()) });
    }

    pub fn missing(&mut self, member: &str) {
        self.fault(Code::MissingField, member, "is required");
    }

    pub fn pointer_to(&self, member: &str) -> String {
        format!("{}/{}", self.pointer, member.replace('~', "~0").replace('/', "~1"))
    }

    /// Ends the reading: members that were not read are faults, each with the nearest known
    /// name.
    pub fn close(self) {
        for name in self.members.keys() {
            if self.asked.contains(name) {
                continue;
            }
            if self.faults.len() >= MAX_FAULTS {
                return;
            }
            self.faults.push(Fault::unknown(&self.pointer, name, self.asked.iter().map(String::as_str)));
        }
    }

    /// The value of a member; `null` counts as missing.
    pub fn raw(&mut self, member: &str) -> Option<&'a Value> {
        self.asked.insert(member.to_owned());
        self.members.get(member).filter(|value| !value.is_null())
    }

    fn typed<T>(&mut self, member: &str, wanted: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.raw(member)?;
        let read = read(value);
        if read.is_none() {
            self.fault(Code::WrongType, member, format!("must be {wanted}"));
        }
        read
    }

    pub fn text(&mut self, member: &str, max_bytes: usize) -> Option<String> {
        let text = self.typed(member, "a string", Value::as_str)?;
        if text.is_empty() || text.len() > max_bytes {
            self.fault(Code::Invalid, member, format!("must have 1 to {max_bytes} bytes"));
            return None;
        }
        Some(text.to_owned())
    }

    pub fn required_text(&mut self, member: &str, max_bytes: usize) -> Option<String> {
        if self.raw(member).is_none() {
            self.missing(member);
            return None;
        }
        self.text(member, max_bytes)
    }

    pub fn id(&mut self, member: &str) -> Option<String> {
        let text = self.typed(member, "a string", Value::as_str)?;
        if let Err(why) = id::check(text) {
            self.fault(Code::BadId, member, why);
            return None;
        }
        Some(text.to_owned())
    }

    pub fn required_id(&mut self, member: &str) -> Option<String> {
        if self.raw(member).is_none() {
            self.missing(member);
            return None;
        }
        self.id(member)
    }

    pub fn boolean(&mut self, member: &str) -> Option<bool> {
        self.typed(member, "true or false", Value::as_bool)
    }

    pub fn integer(&mut self, member: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let number = self.typed(member, "an integer", Value::as_i64)?;
        if !range.contains(&number) {
            self.fault(Code::Invalid, member, format!("must be from {} to {}", range.start(), range.end()));
            return None;
        }
        Some(number)
    }

    pub fn number(&mut self, member: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let number = self.typed(member, "a number", Value::as_f64)?;
        if !range.contains(&number) {
            self.fault(Code::Invalid, member, format!("must be from {} to {}", range.start(), range.end()));
            return None;
        }
        Some(number)
    }

    pub fn duration(&mut self, member: &str) -> Option<Millis> {
        let text = self.typed(member, "a duration such as 30s, 2h or 7d", Value::as_str)?;
        match time::parse_duration(text) {
            Ok(span) => Some(span),
            Err(wanted) => {
                // A month is no fixed time, so no unit stands for it.
                let foreign = text.chars().any(|c| c.is_alphabetic() && !"smhd".contains(c));
                let units = if foreign { "; a week is 7d, a month 30d, a year 365d" } else { "" };
                self.fault(Code::BadTime, member, format!("must be {wanted}{units}"));
                None
            }
        }
    }

    pub fn time(&mut self, member: &str) -> Option<Millis> {
        let text = self.typed(member, "a time such as 2026-11-01T00:00:00Z", Value::as_str)?;
        match time::parse_time(text) {
            Ok(at) => Some(at),
            Err(wanted) => {
                self.fault(Code::BadTime, member, format!("must be {wanted}"));
                None
            }
        }
    }

    pub fn positive_duration(&mut self, member: &str) -> Option<Millis> {
        let span = self.duration(member)?;
        if span == 0 {
            self.fault(Code::Invalid, member, "must be longer than 0s");
            return None;
        }
        Some(span)
    }

    pub fn choice<T: Copy>(&mut self, member: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.typed(member, "a string", Value::as_str)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let meant = words::meant(text, &names).map_or_else(String::new, |word| format!("; did you mean {word}?"));
        self.fault(Code::Invalid, member, format!("must be one of {}{meant}", names.join(", ")));
        None
    }

    /// A list of ids; empty when it is missing.
    pub fn ids(&mut self, member: &str, max: usize) -> Vec<String> {
        let list = self.list(member, max);
        let mut ids = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let pointer = format!("{}/{i}", self.pointer_to(member));
            match value.as_str().map(|text| (text, id::check(text))) {
                Some((text, Ok(()))) => ids.push(text.to_owned()),
                Some((_, Err(why))) => {
                    self.faults.push(Fault { code: Code::BadId, pointer, detail: format!("{member} {why}") });
                }
                None => {
                    let detail = format!("{member} must hold strings");
                    self.faults.push(Fault { code: Code::WrongType, pointer, detail });
                }
            }
        }
        ids
    }

    pub fn list(&mut self, member: &str, max: usize) -> &'a [Value] {
        let wanted = format!("a list{}", words::example(member));
        let Some(list) = self.typed(member, &wanted, Value::as_array) else { return &[] };
        if list.len() > max {
            self.fault(Code::Invalid, member, format!("must have at most {max} entries"));
            return &[];
        }
        list
    }

    /// Reads each entry of a list as an object.
    pub fn objects<T>(&mut self, member: &str, max: usize, mut read: impl FnMut(&mut Reader<'_>) -> T) -> Vec<T> {
        let list = self.list(member, max);
        let mut all = Vec::new();
        for (i, value) in list.iter().enumerate() {
            let pointer = format!("{}/{i}", self.pointer_to(member));
            if let Some(mut inner) = Reader::at(value, pointer, self.faults) {
                all.push(read(&mut inner));
                inner.close();
            }
        }
        all
    }

    /// Reads a member that is an object, if it exists.
    pub fn object<T>(&mut self, member: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> Option<T> {
        let value = self.typed(member, &format!("an object{}", words::example(member)), |value| {
            value.is_object().then_some(value)
        })?;
        let pointer = self.pointer_to(member);
        let mut inner = Reader::at(value, pointer, self.faults)?;
        let read = read(&mut inner);
        inner.close();
        Some(read)
    }

    /// The names of all members, for an object with names of the file's own.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.clone()).collect()
    }

    /// Adds a fault below this object.
    pub fn fault_at(&mut self, code: Code, path: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{path}", self.pointer);
        self.faults.push(Fault { code, pointer, detail: detail.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_comes_before_what_is_near() {
        let event = ["user_id", "event_name", "properties", "event_id", "occurred_at", "sent_at", "context"];
        for (name, meant) in [
            ("event", Some("event_name")),
            ("eventName", Some("event_name")),
            ("timestamp", Some("occurred_at")),
            ("originalTimestamp", Some("occurred_at")),
            ("sentAt", Some("sent_at")),
            ("userId", Some("user_id")),
            ("distinct_id", Some("user_id")),
            ("messageId", Some("event_id")),
            ("props", Some("properties")),
            ("evnt_id", Some("event_id")),
            ("integrations", None),
        ] {
            assert_eq!(nearest(name, &event), meant, "{name}");
        }
        let answer = ["question_id", "value", "answered_at", "duration_ms"];
        for (name, meant) in [("id", "question_id"), ("answer", "value"), ("timestamp", "answered_at")] {
            assert_eq!(nearest(name, &answer), Some(meant), "{name}");
        }
        let survey = ["activate", "cooldown", "locale", "locales", "show_on", "targeting", "translations"];
        for (name, meant) in [("events", "activate"), ("languages", "locales"), ("trigger", "show_on")] {
            assert_eq!(nearest(name, &survey), Some(meant), "{name}");
        }
        let rule = ["all", "any", "not", "attribute", "survey", "tag", "event"];
        for (name, meant) in [("or", "any"), ("and", "all"), ("property", "attribute"), ("trait", "attribute")] {
            assert_eq!(nearest(name, &rule), Some(meant), "{name}");
        }
        for (name, meant) in [("every", "cooldown"), ("limit", "max_displays")] {
            assert_eq!(nearest(name, &["repeat", "max_displays", "cooldown", "per"]), Some(meant), "{name}");
        }
        assert_eq!(nearest("id", &["ending_id", "text", "link"]), Some("ending_id"));
        assert_eq!(nearest("id", &["survey_id", "name", "status"]), Some("survey_id"));
        assert_eq!(nearest("stauts", &["survey_id", "name", "status"]), Some("status"));
    }
}
