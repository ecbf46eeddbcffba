//! The house rules as tests: layers, topics, bans, the map.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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

#[test]
fn the_domain_reads_nothing_from_outside() {
    for path in files("crates/domain/src", ".rs") {
        let body = text(&path);
        for (banned, why) in [
            ("SystemTime", "time is passed in"),
            ("Instant", "time is passed in"),
            ("Timestamp::now", "time is passed in"),
            ("HashMap", "its order is not the same twice; use BTreeMap"),
            ("HashSet", "its order is not the same twice"),
            ("std::fs", "no I/O"),
            ("std::env", "no process configuration"),
            ("getrandom", "no chance"),
            ("tracing", "effects are returned"),
        ] {
            assert!(!body.contains(banned), "{} uses {banned}: {why}", below(&path));
        }
    }
}

#[test]
fn only_the_clock_reads_the_wall() {
    for path in sources().into_iter().filter(|p| !p.ends_with("clock.rs")) {
        assert!(!text(&path).contains("SystemTime::now"), "{}: ask the Clock", below(&path));
    }
}

#[test]
fn nothing_is_left_undone_in_silence() {
    for path in sources().into_iter().chain(tests()).filter(|p| !p.ends_with("tidy.rs")) {
        for banned in ["todo!(", "unimplemented!(", "#[ignore", "dbg!("] {
            assert!(!text(&path).contains(banned), "{} has {banned}", below(&path));
        }
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
