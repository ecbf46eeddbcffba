//! Merges the layers of the configuration: built-in defaults, a file, the environment,
//! flags. Keys that the defaults do not have are errors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use toml::{Table, Value};
use toml_edit::{Document, Item, TableLike};

use super::resolved::{self, Config};

/// The default file with its comments: it is what counts when nothing else is set.
pub const DEFAULT: &str = include_str!("default.toml");

/// The lists of tables and their members, which the defaults cannot show.
const LISTS: [(&str, &[&str]); 2] = [
    ("projects", &["project", "identity_secret"]),
    ("keys", &["project", "kind", "name", "key", "key_file", "sha256"]),
];
/// The section that may have any member: settings of librdkafka.
const ANY_MEMBER: &str = "kafka.client";
/// Prefix of the variables of the environment.
const ENVIRONMENT: &str = "ASKWHEN__";

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// File and line, or the name of a variable.
    pub place: String,
    pub detail: String,
}

/// All faults, one in a line, so that a file can be corrected at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|fault| format!("{}: {}", fault.place, fault.detail)).collect::<Vec<_>>().join("\n"))]
pub struct Error(pub Vec<ConfigFault>);

impl From<ConfigFault> for Error {
    fn from(fault: ConfigFault) -> Error {
        Error(vec![fault])
    }
}

/// Keys that flags set, over all other layers.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    pub brokers: Option<String>,
    pub prefix: Option<String>,
}

/// Reads and checks the configuration. Without `file`, `askwhen.toml` of the working
/// directory is read, if it is there.
///
/// # Errors
/// Every fault, with its place; of a file that is no TOML, the first.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &Overrides,
) -> Result<Config, Error> {
    let defaults: Table = toml::from_str(DEFAULT).expect("the defaults are checked by the tests");
    let mut table = defaults.clone();
    let standard = Path::new("askwhen.toml");
    let path = file.or_else(|| standard.exists().then_some(standard));
    let mut faults = Vec::new();
    if let Some(path) = path {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigFault { place: place.clone(), detail: format!("cannot be read: {e}") })?;
        check_names(&text, &place, &mut faults)?;
        let own: Table = toml::from_str(&text).map_err(|e| syntax(&place, &text, &e))?;
        merge(&mut table, own);
    }
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT)).collect();
    variables.sort();
    // By the keys that they set.
    let mut set_by = BTreeMap::new();
    for (name, text) in variables {
        match set_variable(&mut table, &name, &text) {
            Ok(key) => drop(set_by.insert(key, name)),
            Err(fault) => faults.push(fault),
        }
    }
    let mut set = |path: &[&str], value: Option<String>| {
        if let Some(value) = value {
            put(&mut table, path, Value::String(value));
        }
    };
    set(&["data_dir"], flags.data_dir.as_ref().map(|p| p.display().to_string()));
    set(&["http", "listen"], flags.listen.clone());
    set(&["kafka", "brokers"], flags.brokers.clone());
    set(&["log", "prefix"], flags.prefix.clone());
    if flags.brokers.is_some() {
        put(&mut table, &["log", "kind"], Value::String("kafka".into()));
    }
    let place_of = |key: &str| match (set_by.get(key), path) {
        (Some(variable), _) => variable.clone(),
        (None, Some(path)) => {
            let line = line_of(path, key).map_or(String::new(), |line| format!(":{line}"));
            format!("{}{line}", path.display())
        }
        (None, None) => "configuration".to_owned(),
    };
    match resolve_all(table, &defaults) {
        Ok(config) if faults.is_empty() => Ok(config),
        Ok(_) => Err(Error(faults)),
        Err(found) => {
            faults.extend(
                found
                    .into_iter()
                    .map(|(key, detail)| ConfigFault { place: place_of(&key), detail: format!("{key} {detail}") }),
            );
            Err(Error(faults))
        }
    }
}

/// Resolves the configuration. After a fault it tries again with that key's default, so
/// that the faults of other keys are found, too.
fn resolve_all(mut table: Table, defaults: &Table) -> Result<Config, Vec<(String, String)>> {
    let mut faults: Vec<(String, String)> = Vec::new();
    // By list, the original indices of its remaining tables.
    let mut numbers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    loop {
        let (key, detail) = match resolved::resolve(&table) {
            Ok(config) if faults.is_empty() => return Ok(config),
            Ok(_) => return Err(faults),
            Err(fault) => fault,
        };
        let list = key.split_once('[').and_then(|(list, rest)| Some((list, rest.split_once(']')?)));
        let number = list.and_then(|(list, (number, rest))| Some((list, number.parse::<usize>().ok()?, rest)));
        if let Some((list, at, rest)) = number
            && let Some(Value::Array(tables)) = table.get_mut(list)
            && at < tables.len()
        {
            let numbers = numbers.entry(list.to_owned()).or_insert_with(|| (0..tables.len()).collect());
            faults.push((format!("{list}[{}]{rest}", numbers.remove(at)), detail));
            tables.remove(at);
            continue;
        }
        if faults.iter().any(|(known, _)| *known == key) {
            // Its default does not help, because the fault depends on another key.
            return Err(faults);
        }
        let parts: Vec<&str> = key.split('.').collect();
        let standard = parts.iter().try_fold(Value::Table(defaults.clone()), |value, part| value.get(part).cloned());
        faults.push((key.clone(), detail));
        let Some(standard) = standard else { return Err(faults) };
        put(&mut table, &parts, standard);
    }
}

fn syntax(place: &str, text: &str, error: &toml::de::Error) -> ConfigFault {
    let line = error.span().map_or(1, |span| line_at(text, span.start));
    ConfigFault { place: format!("{place}:{line}"), detail: error.message().to_owned() }
}

fn line_at(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// Finds unknown keys, each with the known one that is spelled most alike.
fn check_names(text: &str, place: &str, faults: &mut Vec<ConfigFault>) -> Result<(), ConfigFault> {
    let document = Document::parse(text).map_err(|e| ConfigFault {
        place: format!("{place}:{}", e.span().map_or(1, |span| line_at(text, span.start))),
        detail: e.message().to_owned(),
    })?;
    let known: Table = toml::from_str(DEFAULT).expect("the defaults are checked by the tests");
    let at =
        |span: Option<std::ops::Range<usize>>| format!("{place}:{}", span.map_or(1, |span| line_at(text, span.start)));
    walk(document.as_table(), &Value::Table(known), "", &at, faults);
    Ok(())
}

fn walk(
    table: &dyn TableLike,
    known: &Value,
    prefix: &str,
    at: &impl Fn(Option<std::ops::Range<usize>>) -> String,
    faults: &mut Vec<ConfigFault>,
) {
    for (name, item) in table.iter() {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        let place = at(table.key(name).and_then(|key| key.span()));
        if let Some((_, members)) = LISTS.iter().find(|(list, _)| *list == path) {
            let Item::ArrayOfTables(tables) = item else {
                faults.push(ConfigFault { place, detail: format!("{path} must be written as [[{path}]]") });
                continue;
            };
            for inner in tables {
                for (wrong, _) in inner.iter().filter(|(member, _)| !members.contains(member)) {
                    faults.push(ConfigFault {
                        place: at(inner.key(wrong).and_then(|key| key.span())),
                        detail: unknown(&format!("{path}.{wrong}"), wrong, members.iter().copied()),
                    });
                }
            }
            continue;
        }
        let Some(standard) = known.get(name) else {
            let names = known.as_table().map(|t| t.keys().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default();
            let lists = LISTS.iter().map(|(list, _)| *list).filter(|_| prefix.is_empty());
            faults.push(ConfigFault { place, detail: unknown(&path, name, names.into_iter().chain(lists)) });
            continue;
        };
        if path != ANY_MEMBER
            && let (Some(inner), Value::Table(_)) = (item.as_table_like(), standard)
        {
            walk(inner, standard, &path, at, faults);
        }
    }
}

fn unknown<'a>(path: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.map(|k| (strsim::damerau_levenshtein(k, name), k)).min();
    match nearest {
        Some((distance, near)) if distance <= 1 + near.len() / 3 => {
            format!("there is no key {path}; did you mean {near}?")
        }
        _ => format!("there is no key {path}; `askwhen config print --default` shows them all"),
    }
}

/// Sets the key of a variable such as `ASKWHEN__HTTP__LISTEN=0.0.0.0:80`. A value that is
/// not TOML is taken as a string. Returns the key.
fn set_variable(table: &mut Table, name: &str, text: &str) -> Result<String, ConfigFault> {
    let path: Vec<String> = name[ENVIRONMENT.len()..].split("__").map(str::to_ascii_lowercase).collect();
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut here: Option<&Value> = None;
    for (depth, part) in parts.iter().enumerate() {
        let members = if depth == 0 { Some(&*table) } else { here.and_then(Value::as_table) };
        let open = parts[..depth].join(".") == ANY_MEMBER;
        match members.and_then(|m| m.get(*part)) {
            Some(value) => here = Some(value),
            None if open => break,
            None => {
                let names: Vec<&str> = members.map(|m| m.keys().map(String::as_str).collect()).unwrap_or_default();
                return Err(ConfigFault {
                    place: name.to_owned(),
                    detail: unknown(&parts.join("."), part, names.into_iter()),
                });
            }
        }
    }
    let typed = match here {
        Some(Value::String(_)) => Value::String(text.to_owned()),
        _ => toml::from_str::<Table>(&format!("v = {text}"))
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| Value::String(text.to_owned())),
    };
    put(table, &parts, typed);
    Ok(parts.join("."))
}

fn put(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

fn merge(base: &mut Table, over: Table) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            (_, value) => {
                base.insert(name, value);
            }
        }
    }
}

/// Dotted keys whose values differ, in their order; a list is one value.
pub fn changed_keys(before: &Table, after: &Table) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut changed = Vec::new();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => {
                changed.extend(changed_keys(before, after).into_iter().map(|below| format!("{name}.{below}")));
            }
            (before, after) if before == after => {}
            _ => changed.push(name.clone()),
        }
    }
    changed
}

/// The line of a dotted key in a file, if it is there.
fn line_of(path: &Path, key: &str) -> Option<usize> {
    let text = std::fs::read_to_string(path).ok()?;
    let document = Document::parse(text.as_str()).ok()?;
    let mut here: &dyn TableLike = document.as_table();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        // `keys[1]` is the second table of a list.
        if let Some((list, index)) = part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            let Item::ArrayOfTables(tables) = here.get(list)? else { return None };
            let table = tables.get(index.parse().ok()?)?;
            // A missing member is reported at the line where its table begins.
            let begins = table.span().map(|span| line_at(&text, span.start));
            match parts.peek().map(|member| table.key(member)) {
                Some(None) | None => return begins,
                Some(Some(_)) => here = table,
            }
            continue;
        }
        let span = here.key(part)?.span()?;
        if parts.peek().is_none() {
            return Some(line_at(&text, span.start));
        }
        here = here.get(part)?.as_table_like()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::cors::AllowedOrigin;

    fn with_file(text: &str) -> Result<Config, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("askwhen.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), [], &Overrides::default())
    }

    #[test]
    fn layers_go_over_each_other() {
        let environment = [
            ("ASKWHEN__LOG__PARTITIONS".to_owned(), "3".to_owned()),
            ("ASKWHEN__HTTP__CORS_ORIGINS".into(), "[\"*\"]".into()),
            ("PATH".into(), "x".into()),
        ];
        let flags = Overrides { listen: Some("127.0.0.1:0".into()), ..Overrides::default() };
        let config = load(None, environment, &flags).unwrap();
        assert_eq!((config.partitions, config.listen.as_str()), (3, "127.0.0.1:0"));
        assert_eq!(config.cors_origins, [AllowedOrigin::Any]);
    }

    #[test]
    fn faults_name_line_and_nearest() {
        let error = with_file("data_dir = \"x\"\n[http]\nlissten = \"a\"\n").unwrap_err().0.remove(0);
        assert!(error.place.ends_with("askwhen.toml:3"), "{error:?}");
        assert!(error.detail.contains("did you mean listen?"), "{error:?}");
        let error = with_file("[retention]\n\nevents = \"1h\"\n").unwrap_err().0.remove(0);
        assert!(error.place.ends_with(":3") && error.detail.contains("100h"), "{error:?}");
        let error = with_file("[[keys]]\nproject = \"p\"\nkind = \"admin\"\nkye = \"x\"\n").unwrap_err().0.remove(0);
        assert!(error.place.ends_with(":4") && error.detail.contains("did you mean key?"), "{error:?}");
        let keys = "[[keys]]\nkind = \"admin\"\nkey = \"a key of sixteen and more\"\n";
        for (text, line, detail) in [
            (
                format!("{keys}[[keys]]\nproject = \"b\"\nkind = \"client\"\nkey = \"a key of sixteen and more\"\n"),
                7,
                "keys[0]",
            ),
            (format!("{keys}[[keys]]\nkind = \"client\"\nkey = \"secret\"\n"), 6, "16 characters"),
            (format!("{keys}[[keys]]\nkind = \"client\"\n"), 4, "exactly one"),
            ("[[projects]]\nidentity_secret = \"hello\"\n".to_owned(), 2, "16 characters"),
        ] {
            let error = with_file(&text).unwrap_err().0.remove(0);
            assert!(error.place.ends_with(&format!(":{line}")) && error.detail.contains(detail), "{error:?}");
        }
        for origins in ["https://app.example/", "app.example", "https://*.example"] {
            let error = with_file(&format!("[http]\ncors_origins = [\n  \"{origins}\",\n]\n")).unwrap_err().0.remove(0);
            assert!(error.place.ends_with(":2") && error.detail.contains("https://"), "{error:?}");
        }
        let error = with_file("a = [\n").unwrap_err().0.remove(0);
        assert!(error.place.contains("askwhen.toml:"), "{error:?}");
        let environment = [("ASKWHEN__LOG__PARTITION".to_owned(), "3".to_owned())];
        let error = load(None, environment, &Overrides::default()).unwrap_err().0.remove(0);
        assert!(error.detail.contains("did you mean partitions?"), "{error:?}");
    }

    #[test]
    fn all_faults_are_told_at_once_each_at_its_line() {
        let error = with_file(
            "datadir = \"x\"\n[http]\nkeepalive = \"75s\"\ncors = []\n[log]\nkind = \"kafak\"\npartitions = 0\n\
             [retention]\nevents = \"1h\"\nresponses = \"never\"\n[limits]\nper_key = \"fast\"\n\
             [[keys]]\nkind = \"client\"\n[[keys]]\nkind = \"admin\"\nkey = \"a key of sixteen and more\"\n\
             [[keys]]\nkind = \"root\"\nkey = \"another key of sixteen and more\"\n",
        )
        .unwrap_err();
        let mut lines: Vec<usize> =
            error.0.iter().map(|fault| fault.place.rsplit(':').next().unwrap().parse().unwrap()).collect();
        lines.sort_unstable();
        assert_eq!(lines, [1, 3, 4, 6, 7, 9, 10, 12, 13, 19], "{error}");
        let variables = [("ASKWHEN__LOG__PARTITIONS".to_owned(), "many".to_owned())];
        let error = load(None, variables, &Overrides::default()).unwrap_err();
        assert!(error.to_string().starts_with("ASKWHEN__LOG__PARTITIONS: log.partitions must be"), "{error}");
    }
}
