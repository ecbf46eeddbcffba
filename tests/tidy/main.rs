//! The house rules as tests: layers, topics, bans, the map.

mod sources;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sources::Crate;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(ROOT).join(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn below(path: &Path) -> String {
    path.strip_prefix(ROOT).unwrap().to_string_lossy().into_owned()
}

/// The sources of every crate of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut all = files("src", ".rs");
    all.extend(files("crates", ".rs").into_iter().filter(|path| below(path).contains("/src/")));
    all
}

/// Every test outside the sources.
fn tests() -> Vec<PathBuf> {
    let mut all = files("tests", ".rs");
    all.extend(files("crates", ".rs").into_iter().filter(|path| !below(path).contains("/src/")));
    all
}

/// The crates of the workspace, each with the folder of its sources.
fn crates() -> Vec<(String, Crate)> {
    let mut folders = vec!["src".to_owned()];
    for entry in std::fs::read_dir(Path::new(ROOT).join("crates")).unwrap() {
        folders.push(format!("crates/{}/src", entry.unwrap().file_name().to_string_lossy()));
    }
    folders.sort();
    folders.into_iter().map(|folder| (folder.clone(), Crate::read(&Path::new(ROOT).join(folder)))).collect()
}

/// What stands in the package at the top, left to right: a module uses what
/// stands to its left, and roles never each other. Between crates the compiler
/// sees to it.
const LAYERS: [(&str, u32); 10] = [
    ("spreadsheet", 0),
    ("bridge", 1),
    ("engine", 1),
    ("delivery", 1),
    ("console", 1),
    ("config", 2),
    ("replay", 2),
    ("supervisor", 3),
    ("fuzz", 4),
    ("cli", 4),
];

#[test]
fn modules_use_only_what_stands_to_their_left() {
    let module = |file: &str| file.split(['/', '.']).next().unwrap().to_owned();
    let layer = |module: &str| LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer);
    // What fuzzing calls reads bytes of every kind, those of files to import, too.
    let allowed = [("fuzz", "cli")];
    let mut wrong = Vec::new();
    for (file, used) in &Crate::read(&Path::new(ROOT).join("src")).uses {
        for used in used {
            let (from, to) = (module(file), module(used));
            let fine = match (layer(&from), layer(&to)) {
                (Some(own), Some(theirs)) => theirs < own,
                _ => false,
            };
            if from != to && !fine && !allowed.contains(&(from.as_str(), to.as_str())) {
                wrong.push(format!("{file} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the program is built of and stands elsewhere than its sources has to come into
/// the image, too.
#[test]
fn what_is_compiled_in_is_copied_into_the_image() {
    let dockerfile = std::fs::read_to_string("Dockerfile").expect("a file");
    let copied: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.split(' ').next())
        .filter(|source| !source.starts_with("--"))
        .collect();
    let mut open = vec![std::path::PathBuf::from("src")];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        if path.file_name().is_some_and(|name| name == "tests.rs") || path.extension().is_none_or(|end| end != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        for part in text.split("include_").skip(1).filter_map(|part| part.split_once("!(\"../")) {
            let name = format!("../{}", part.1.split('"').next().expect("it ends"));
            let mut file = path.parent().expect("a folder").to_owned();
            for step in name.split('/') {
                match step {
                    ".." => drop(file.pop()),
                    step => file.push(step),
                }
            }
            seen += 1;
            assert!(copied.iter().any(|source| file.starts_with(source)), "{} is not copied", file.display());
        }
    }
    assert!(seen > 5, "what is compiled in was not found");
}

/// Uses that close a circle of files. The list may only shrink: an entry without
/// which there is no circle any more fails the test below.
const CIRCLES: [(&str, &str, &str); 0] = [];

#[test]
fn no_files_use_each_other_in_a_circle() {
    for (folder, found) in crates() {
        let allowed: Vec<(&str, &str)> =
            CIRCLES.iter().filter(|(of, _, _)| *of == folder).map(|(_, from, to)| (*from, *to)).collect();
        let circles = found.circles(&allowed);
        assert!(circles.is_empty(), "{folder}: {circles:#?}");
        for (i, entry) in allowed.iter().enumerate() {
            let others: Vec<_> = allowed.iter().enumerate().filter(|(n, _)| *n != i).map(|(_, one)| *one).collect();
            assert!(!found.circles(&others).is_empty(), "{folder}: {entry:?} closes no circle any more: strike it");
        }
    }
}

#[test]
fn no_two_public_types_of_a_crate_share_a_name() {
    for (folder, found) in crates() {
        for (name, files) in found.types.iter().filter(|(name, _)| *name != "Error") {
            assert_eq!(files.len(), 1, "{folder}: {name} is in {files:?}");
        }
    }
}

/// Types and functions are banned by `crates/domain/clippy.toml`, and what would
/// need another crate by its `Cargo.toml`; these are whole modules.
#[test]
fn the_domain_reads_nothing_from_outside() {
    for path in files("crates/domain/src", ".rs") {
        let body = text(&path);
        for (banned, why) in [
            ("std::fs", "no I/O"),
            ("std::net::Tcp", "no I/O"),
            ("std::net::Udp", "no I/O"),
            ("std::io", "no I/O"),
            ("std::env", "no process configuration"),
            ("std::process", "no process configuration"),
            ("std::thread", "one thing after the other"),
            ("disallowed_", "the domain has no exceptions"),
        ] {
            assert!(!body.contains(banned), "{} uses {banned}: {why}", below(&path));
        }
    }
}

/// What is sent when is decided by steps that perform nothing themselves.
#[test]
fn the_scheduler_of_deliveries_reads_nothing_from_outside() {
    let own = ["ordering.rs", "endpoints.rs", "scheduler.rs"].map(|name| format!("src/delivery/{name}"));
    let steps = files("src/delivery", ".rs").into_iter().filter(|path| {
        let path = below(path);
        own.contains(&path) || (path.starts_with("src/delivery/scheduler/") && !path.ends_with("tests.rs"))
    });
    let mut seen = 0;
    for path in steps {
        let body = text(&path);
        for (banned, why) in [
            ("askwhen_store", "reads are effects"),
            ("Log,", "appends are effects"),
            ("Log}", "appends are effects"),
            ("Instant", "times are passed in"),
            ("Clock", "times are passed in"),
            ("tracing::", "what is logged is a notice"),
            ("metrics::get", "what is counted is a notice"),
            ("uuid::", "chance is passed in"),
            ("tokio", "attempts are effects"),
        ] {
            assert!(!body.contains(banned), "{} uses {banned}: {why}", below(&path));
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
}

/// Clippy bans `SystemTime::now`; the one exception is the clock's.
#[test]
fn only_the_clock_reads_the_wall() {
    for path in sources().into_iter().filter(|p| !p.ends_with("clock.rs")) {
        assert!(!text(&path).contains("SystemTime::now"), "{}: ask the Clock", below(&path));
    }
}

/// Clippy bans `todo!` and its like; a test that is left out has no lint.
#[test]
fn no_test_is_left_out() {
    for path in sources().into_iter().chain(tests()).filter(|p| !p.ends_with("tidy/main.rs")) {
        assert!(!text(&path).contains("#[ignore"), "{} has #[ignore", below(&path));
    }
}

#[test]
fn every_topic_file_is_declared_and_its_examples_fit_its_schema() {
    use askwhen_wire::topic::Topic;
    let declared: BTreeSet<String> = Topic::ALL.iter().map(|t| format!("topics/{}.toml", t.name())).collect();
    let there: BTreeSet<String> = files("topics", ".toml").iter().map(|p| below(p)).collect();
    assert_eq!(declared, there);
    for topic in Topic::ALL {
        let spec = topic.spec();
        let schema: serde_json::Value = serde_json::from_str(topic.schema()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let examples = text(&Path::new(ROOT).join("topics").join(&spec.examples));
        assert!(!examples.trim().is_empty(), "{} has no example", spec.name);
        for (n, line) in examples.lines().enumerate() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let faults: Vec<String> =
                validator.iter_errors(&value).map(|e| format!("{e} at {}", e.instance_path())).collect();
            assert!(faults.is_empty(), "{} line {}: {faults:#?}", spec.examples, n + 1);
        }
    }
}

#[test]
fn the_schema_of_events_takes_what_the_journal_takes() {
    use askwhen_wire::{record, topic::Topic};
    let schema: serde_json::Value = serde_json::from_str(Topic::Events.schema()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let event = r#""user_id":"u","event_name":"x""#;
    let trigger = r#""user_id":"u","type":"trigger","trigger":"x""#;
    let answers = r#""user_id":"u","type":"answers","offer_id":"o","answers":[{"question_id":"q","value":1}]"#;
    for (members, more, is_taken) in [
        (event, r#""properties":null,"context":null,"event_id":null,"project":null,"type":null"#, true),
        (event, r#""occurred_at":null,"sent_at":1796000000,"received_at":null"#, true),
        (event, r#""trigger":null,"offer_id":null,"survey_id":null,"response_id":null,"attributes":null"#, true),
        (event, r#""answers":null,"completed":null"#, true),
        (event, r#""context":"odd","more":1"#, true),
        (event, r#""context":{"locale":7}"#, true),
        (trigger, r#""context":{"locale":null,"platform":null}"#, true),
        (trigger, r#""context":null,"properties":null"#, true),
        (trigger, r#""context":{"locale":7}"#, false),
        (trigger, r#""context":"odd""#, false),
        (answers, r#""completed":null"#, true),
        (event, r#""properties":[]"#, false),
        (event, r#""occurred_at":true"#, false),
        (event, r#""event_id":{}"#, false),
    ] {
        let text = format!("{{{members},{more}}}");
        let taken = record::decode(Some(text.as_bytes()), false);
        assert_eq!(taken.is_ok(), is_taken, "{text}: {taken:?}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let faults: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert_eq!(faults.is_empty(), is_taken, "{text}: {faults:?}");
    }
}

#[test]
fn each_invariant_of_the_architecture_names_a_test_that_exists() {
    let architecture = text(&Path::new(ROOT).join("ARCHITECTURE.md"));
    let all: String = sources().iter().chain(&tests()).map(|p| text(p)).collect();
    let section = architecture.split("## Invariants").nth(1).expect("a section of invariants");
    let section = section.split("\n## ").next().unwrap();
    let mut count = 0;
    for entry in section.split("\n").filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        count += 1;
        let (_, tests) = entry.split_once("Tests: ").unwrap_or_else(|| panic!("no tests named: {entry}"));
        for name in tests.split(", ").map(|t| t.trim_matches(['`', '.', ' '])) {
            assert!(all.contains(&format!("fn {name}(")), "{name} does not exist: {entry}");
        }
    }
    assert_eq!(count, 10);
}

#[test]
fn the_page_on_configuration_shows_every_key() {
    let page = text(&Path::new(ROOT).join("docs/configuration.md"));
    let defaults: toml::Table = toml::from_str(askwhen::config::DEFAULT).unwrap();
    for (section, value) in &defaults {
        for key in value.as_table().into_iter().flat_map(|t| t.keys()).filter(|k| *k != "client") {
            let name = format!("`{section}.{key}`");
            assert!(page.contains(&name), "the table in docs/configuration.md lacks {name}");
        }
    }
}

#[test]
fn one_version_of_rust_is_named_everywhere() {
    let field = |file: &str, before: &str| {
        let text = text(&Path::new(ROOT).join(file));
        let after = text.split(before).nth(1).unwrap_or_else(|| panic!("{file} has no {before}"));
        after.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect::<String>()
    };
    let channel = field("rust-toolchain.toml", "channel = \"");
    assert_eq!(field("Dockerfile", "FROM rust:"), channel);
    let least = field("Cargo.toml", "rust-version = \"");
    assert!(channel.starts_with(&least), "rust-version {least}, toolchain {channel}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(ROOT);
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"];
    for page in files("docs", ".md").into_iter().chain(pages.map(|name| root.join(name))) {
        for target in text(&page).split("](").skip(1) {
            let target = target.split([')', '#', ' ']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let file = page.parent().unwrap().join(target);
            assert!(file.exists(), "{}: {target} is not there", below(&page));
        }
    }
}
