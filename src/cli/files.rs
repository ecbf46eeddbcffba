//! Reads and checks definition files, with file and line of every fault.

use serde_json::Value;
use std::path::{Path, PathBuf};

use super::context::Failure;
use askwhen_wire::definition::{self, Fault, Kind, Target};

/// Members that may be `{env: NAME}` or `{file: PATH}` instead of a value.
const REFERENCES: [&str; 4] = ["/secret", "/tls/ca", "/tls/client_cert", "/tls/client_key"];

/// What is said of a fault whose member holds such quotes.
const TYPOGRAPHIC: &str = "; YAML knows no “typographic” quotes: write \"straight\" ones";

/// One definition of a file.
pub struct FileDefinition {
    pub place: String,
    file: String,
    lines: definition::yaml::Lines,
    /// The folder to which paths of its references are relative.
    pub folder: PathBuf,
    pub kind: Kind,
    pub id: String,
    pub body: Value,
}

impl FileDefinition {
    /// Replaces references by the values of the environment and of files.
    ///
    /// # Errors
    /// Exit code 2 when it is not there.
    pub fn look_up(&mut self) -> Result<(), Failure> {
        for pointer in REFERENCES {
            let place = self.place_of(pointer);
            let Some(value) = self.body.pointer_mut(pointer) else { continue };
            let name = |kind: &str| value.get(kind).and_then(Value::as_str).map(str::to_owned);
            let member = pointer.trim_start_matches('/').replace('/', ".");
            let found = match (name("env"), name("file")) {
                (Some(name), _) => std::env::var(&name)
                    .map(|text| text.trim_end().to_owned())
                    .map_err(|_| format!("the environment has no variable {name}")),
                (None, Some(file)) => std::fs::read_to_string(self.folder.join(&file))
                    .map(|text| text.trim_end().to_owned())
                    .map_err(|e| format!("{file} cannot be read: {e}")),
                (None, None) => continue,
            };
            *value = found.map_err(|why| Failure::usage(format!("{place}: {member}: {why}")))?.into();
        }
        // The referenced values may be wrong, so the whole is checked again.
        let faults = check(&self.body).err().unwrap_or_default();
        let lines: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", self.place_of(&fault.pointer), fault.detail)).collect();
        if lines.is_empty() { Ok(()) } else { Err(Failure::usage(lines.join("\n"))) }
    }

    /// File and line of a member.
    pub fn place_of(&self, pointer: &str) -> String {
        format!("{}:{}", self.file, self.lines.line(pointer))
    }
}

/// Reads all files and checks every document.
///
/// # Errors
/// Exit code 2 with all faults, a line each.
pub fn read(paths: &[PathBuf]) -> Result<Vec<FileDefinition>, Failure> {
    let all = read_versions(paths)?;
    let faults = twice(&all);
    if faults.is_empty() { Ok(all) } else { Err(Failure::usage(faults.join("\n"))) }
}

/// The same, but one thing may be defined several times.
///
/// # Errors
/// As [`read`].
pub fn read_versions(paths: &[PathBuf]) -> Result<Vec<FileDefinition>, Failure> {
    let mut all = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        if let Err(mut found) = read_one(path, &mut all) {
            faults.append(&mut found);
        }
    }
    if faults.is_empty() && all.is_empty() {
        faults.push("the files hold no definition: a document begins with kind: survey, endpoint or settings".into());
    }
    if faults.is_empty() { Ok(all) } else { Err(Failure::usage(faults.join("\n"))) }
}

/// Definitions that another one of the same files would overwrite.
fn twice(all: &[FileDefinition]) -> Vec<String> {
    let mut faults = Vec::new();
    for (n, one) in all.iter().enumerate() {
        let Some(first) = all[..n].iter().find(|first| first.kind == one.kind && first.id == one.id) else { continue };
        let name = format!("{} {}", one.kind.name(), one.id);
        faults.push(format!("{}: {} is defined already, at {}", one.place, name.trim_end(), first.place));
    }
    faults
}

fn read_one(path: &Path, all: &mut Vec<FileDefinition>) -> Result<(), Vec<String>> {
    let name = path.display();
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => {
            vec![format!("{name}: is not UTF-8: save it as UTF-8 (PowerShell: `Out-File -Encoding utf8`, and not `>`)")]
        }
        _ => vec![format!("{name}: cannot be read: {e}")],
    })?;
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let documents =
        definition::documents(&text, is_json).map_err(|e| vec![format!("{name}:{}: {}", e.line, e.detail)])?;
    let mut faults = Vec::new();
    for document in documents {
        match check(&document.value) {
            Ok((kind, id)) => {
                let (file, lines) = (name.to_string(), document.lines);
                let place = format!("{name}:{}", lines.line(""));
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                all.push(FileDefinition { place, file, lines, folder, kind, id, body: document.value });
            }
            Err(found) => faults.extend(found.into_iter().map(|fault| {
                let at = if fault.pointer.is_empty() { String::new() } else { format!("{}: ", fault.pointer) };
                let quotes = if fault.pointer.contains(['“', '”', '„']) { TYPOGRAPHIC } else { "" };
                format!("{name}:{}: {at}{}{quotes}", document.lines.line(&fault.pointer), fault.detail)
            })),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Checks a document by its `kind`. The networks that are allowed are known to the server
/// alone: here only addresses are refused that no server takes.
fn check(value: &Value) -> Result<(Kind, String), Vec<Fault>> {
    let given = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let id = |kind: Kind| value.get(kind.id_member()).and_then(Value::as_str).unwrap_or_default().to_owned();
    match Kind::ALL.iter().find(|(name, _)| *name == given) {
        Some((_, Kind::Survey)) => definition::survey(value, None).map(|s| (Kind::Survey, s.survey_id)),
        Some((_, Kind::Endpoint)) => {
            let anywhere = ["0.0.0.0/0", "::/0"].map(|net| net.parse().expect("a network"));
            definition::endpoint(value, None, Target::Check(&anywhere)).map(|_| (Kind::Endpoint, id(Kind::Endpoint)))
        }
        Some((_, Kind::Settings)) => definition::settings(value).map(|_| (Kind::Settings, String::new())),
        _ => Err(vec![Fault {
            code: definition::Code::MissingField,
            pointer: if given.is_empty() { String::new() } else { "/kind".into() },
            detail: format!("kind must be survey, endpoint or settings{}", kind_meant(value, given)),
        }]),
    }
}

/// What a document without a known kind may be.
fn kind_meant(value: &Value, given: &str) -> String {
    let names = Kind::ALL.map(|(name, _)| name);
    let files = names.iter().filter(|name| ["survey", "endpoint", "settings"].contains(name)).copied();
    match definition::nearest(given, &files.collect::<Vec<&str>>()).filter(|_| !given.is_empty()) {
        Some(near) => format!("; did you mean {near}?"),
        None if value.is_array() || value.get("surveys").is_some() || value.get("endpoints").is_some() => {
            "; several definitions stand one after the other, divided by a line ---".into()
        }
        None => String::new(),
    }
}
